"""The subject of a scene: its body, place, colours and its pose in each of the 16 frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.worlds import palette, poses
from training.worlds.attributes import SceneAttributes
from training.worlds.camera import FRAMES, PIXEL, PIXELS_PER_FRAME

BODIES = (
    "person",
    "robot",
    "car",
    "ship",
    "sphere",
    "cube",
    "torus",
    "pyramid",
    "crystal",
    "capsule",
    "vase",
)
_SKIN = ((0.96, 0.80, 0.68), (0.85, 0.62, 0.46), (0.58, 0.38, 0.26), (0.42, 0.27, 0.19))
_HAIR = ((0.16, 0.11, 0.09), (0.36, 0.20, 0.10), (0.85, 0.70, 0.38), (0.30, 0.30, 0.33))
_MATERIAL = {
    "matte": (0.0, 0.0, 0.0),
    "glossy": (0.75, 0.0, 0.0),
    "metallic": (0.2, 1.0, 0.0),
    "glowing": (0.0, 0.0, 0.88),
}


def _rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """World-to-body rotation [3, 3]."""
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


def _drift(a: SceneAttributes, depth: float) -> np.ndarray:
    """Sideways travel of 16 frames, in world units at `depth` from the camera."""
    frames = np.arange(FRAMES) - (FRAMES - 1) / 2
    return frames * PIXEL * PIXELS_PER_FRAME[a.speed] * depth


def _avatar(a: SceneAttributes, rng: np.random.Generator, place: np.ndarray) -> dict[str, Any]:
    offset, facing = rng.uniform(0, 2 * np.pi), rng.uniform(-0.35, 0.35)
    going = rng.choice([-1.0, 1.0])
    places = np.repeat(place[None], FRAMES, axis=0)
    if a.subject_motion == "walking":
        facing = -going * 0.75
        places[:, 0] += going * 0.6 * _drift(a, 2.6 + place[2])
    if a.world == "space":
        places[:, 1] += 0.06 * np.sin(2 * np.pi * np.arange(FRAMES) / 20 + offset)
    tilt = 0.22 * going if a.world == "space" else 0.0
    turns = np.stack([_rotation(facing, 0.0, tilt)] * FRAMES)
    poses_of = np.stack([poses.joints(a.subject_motion, a.speed, f, offset) for f in range(FRAMES)])
    return {
        "places": places,
        "turns": turns,
        "joints": poses_of,
        "size": 1.0,
        "radius": 1.28,
        "centre": (0, 1.02, 0),
    }


def _vehicle(a: SceneAttributes, rng: np.random.Generator, place: np.ndarray) -> dict[str, Any]:
    going, offset = rng.choice([-1.0, 1.0]), rng.uniform(0, 2 * np.pi)
    places = np.repeat(place[None] + np.array([0.0, 1.05, 0.0]), FRAMES, axis=0)
    places[:, 1] += 0.05 * np.sin(2 * np.pi * np.arange(FRAMES) / 18 + offset)
    if a.subject_motion == "flying past":
        places[:, 0] += going * _drift(a, 2.75 + place[2])
    yaw = (0.0 if going > 0 else np.pi) + rng.uniform(0.25, 0.6) * rng.choice([-1.0, 1.0])
    turns = np.stack([_rotation(yaw)] * FRAMES)
    return {"places": places, "turns": turns, "size": 0.92, "radius": 1.2, "centre": (0, 0, 0)}


def _floating(a: SceneAttributes, rng: np.random.Generator, place: np.ndarray) -> dict[str, Any]:
    offset, frames = rng.uniform(0, 2 * np.pi), np.arange(FRAMES)
    solo = a.world == "object"
    size = 0.78 if solo else 0.74
    lift = (1.22 if a.setting == "plinth" else 0.95) if solo else 1.1
    places = np.repeat(place[None] + np.array([0.0, lift, 0.0]), FRAMES, axis=0)
    rate = {"slow": 0.035, "normal": 0.06, "fast": 0.09}[a.speed]
    start = 0.55 * np.sin(offset) - 8 * rate if a.shape == "torus" else offset
    yaw = start + (rate * frames if a.subject_motion == "spinning" else 0.0 * frames + 8 * rate)
    if a.subject_motion == "bobbing":
        places[:, 1] += 0.13 * np.sin(2 * np.pi * frames / poses.PERIOD_FRAMES[a.speed] + offset)
    pitch = {"torus": 0.15, "cube": -0.35, "sphere": 0.3}.get(a.shape, -0.12)
    lean = _rotation(0.0, pitch)
    return {
        "places": places,
        "turns": np.stack([_rotation(y) @ lean for y in yaw]),
        "size": size,
        "radius": 1.35 * size,
        "centre": (0, 0, 0),
    }


def subject(a: SceneAttributes, rng: np.random.Generator, world: dict[str, Any], blob: str) -> dict[str, Any]:
    """The subject's uniforms: `body` (index into BODIES), `fixed`, and per frame `places`, `turns`, `joints`.

    `blob` names the world's uniform for its shadow on the ground; the light it throws, `blob`_glow, is set here.
    """
    depth = 0.0 if a.depth == "near" else 1.5
    x = {"left": -0.30, "centre": 0.0, "right": 0.30}[a.position] * (2.6 + depth) * 1.1 * 0.9
    floor = {"stage": 0.16}.get(a.setting, 0.0)
    place = np.array([x, floor, depth], dtype=np.float32)
    make = {"avatar": _avatar, "vehicle": _vehicle, "object": _floating}[a.subject]
    figure = make(a, rng, place)
    main = palette.colour(a.subject_colour)
    other = palette.colour(a.colour if a.composed else a.second_colour)
    person = a.subject == "avatar"
    robot = a.shape == "robot"
    skin = palette.linear((0.80, 0.82, 0.86)) if robot else palette.linear(_SKIN[int(rng.integers(4))])
    trim = 0.30 * main + 0.02 if person else (0.25 * main + 0.65 * palette.linear((0.94, 0.93, 0.9)))
    glow = _MATERIAL[a.material][2]
    figure["fixed"] = {
        "size": figure.pop("size"),
        "body_colour": main,
        "trim_colour": trim,
        "skin_colour": skin,
        "hair_colour": palette.linear((0.30, 0.32, 0.36))
        if robot
        else palette.linear(_HAIR[int(rng.integers(4))]),
        "rim_colour": other,
        "material": (*_MATERIAL[a.material], 0.16 if world["night"] > 0.5 else 0.06),
        "fade": min(0.2, float(world["fog_density"]) * (2.6 + depth)),
    }
    figure["body"] = BODIES.index(a.shape)
    grounded = person and a.subject_motion != "jumping"
    strength = 0.62 if grounded else 0.42
    if a.world == "object" and a.setting == "studio":
        strength = 0.5
    radius = 0.42 if person else 0.85
    figure["shadow"] = (blob, radius, strength)
    world[f"{blob}_glow"] = tuple(main * 1.3 * glow)
    return figure
