"""From attributes to numbers: the layout, light and camera of a clip as uniforms of its shaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from training.worlds import camera, palette
from training.worlds.attributes import SceneAttributes

Uniforms = dict[str, Any]
Generator = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """All that the renderer needs: which shader, its uniforms, the views, and the subjects, the farthest first."""

    shader: str
    uniforms: Uniforms
    views: list[camera.View]
    subjects: tuple[dict[str, Any], ...] = field(default=())


def _table(rows: list, count: int, fill: tuple[float, ...] = (0.0, -50.0, -50.0, 0.0)) -> np.ndarray:
    """`rows` of four numbers, padded to `count` with entries far out of sight."""
    table = np.array([*rows, *([fill] * (count - len(rows)))], dtype=np.float32)
    if table.shape != (count, 4):
        raise ValueError(f"expected at most {count} rows of 4, got {table.shape}")
    return table


# ---- city -----------------------------------------------------------------------------------------------
def _street(rng: Generator, blocks_lo: list, blocks_hi: list, signs: list) -> None:
    for side in (-1, 1):
        z = -6.0 + rng.uniform(-1, 1)
        for k in range(5):
            depth, height = rng.uniform(5.0, 8.0), rng.uniform(5.5, 13.0) * (0.8 if k == 1 else 1.0)
            front, thick = 4.3 + rng.uniform(-0.3, 0.9), rng.uniform(4.0, 7.0)
            lo_x, hi_x = (front, front + thick) if side > 0 else (-front - thick, -front)
            blocks_lo.append((lo_x, 0.0, z, rng.uniform(0.1, 0.95)))
            blocks_hi.append((hi_x, height, z + depth, rng.random()))
            if k in (1, 2, 3) and len(signs) < 4 and rng.random() < 0.75:
                kind, y = (1.2 if rng.random() < 0.65 else 1.8), rng.uniform(1.9, 2.8)
                at, reach = z + rng.uniform(0.5, 2.0), rng.uniform(0.8, 1.25)
                x = front - reach if side > 0 else -front
                signs.append(((x, y, at, kind), (x + reach, y + rng.uniform(1.6, 2.8), at + 0.3, 0.0)))
            z += depth + rng.choice([0.0, 0.0, 1.6])
    lean, width = rng.uniform(-3, 3), rng.uniform(4.0, 7.0)
    blocks_lo.append((lean - width, 0.0, 40.0, 0.5))
    blocks_hi.append((lean + width, rng.uniform(8, 20), 46.0, rng.random()))


def _skyline(rng: Generator, blocks_lo: list, blocks_hi: list) -> None:
    edges = np.linspace(-15.5, 15.5, 11)
    for k in range(10):
        row = k % 2
        height = rng.uniform(3.5, 7.5) + (rng.uniform(3.0, 9.0) if row else 0.0)
        z, x = 15.0 + 5.5 * row + rng.uniform(0, 1.5), edges[k] + rng.uniform(-0.3, 0.3)
        blocks_lo.append((x, 0.0, z, rng.uniform(0.1, 0.95)))
        blocks_hi.append((x + rng.uniform(3.0, 3.9), height, z + 4.0, rng.random()))
    for _ in range(4):
        x = rng.uniform(-26, 24)
        blocks_lo.append((x, 0.0, 32.0, rng.uniform(0.2, 0.8)))
        blocks_hi.append((x + rng.uniform(4, 6), rng.uniform(7, 15), 36.0, rng.random()))


def _city(a: SceneAttributes, rng: Generator, light: palette.Light) -> Uniforms:
    lo: list = []
    hi: list = []
    signs: list = []
    if a.setting == "street":
        _street(rng, lo, hi, signs)
    else:
        _skyline(rng, lo, hi)
    for one, other in signs:
        lo.append(one)
        hi.append(other)
    main, second = palette.colour(a.colour), palette.colour(a.second_colour)
    warm = palette.linear((1.0, 0.83, 0.55))
    accent = main if a.composed else second
    panes = np.stack(
        [warm * 0.8, main * 1.5, accent * 1.1, np.array([0.015, 0.018, 0.04]) + 0.02 * main]
    ).astype(np.float32)
    return {
        "box_lo": _table(lo, 16),
        "box_hi": _table(hi, 16),
        "light_colour": panes,
        "street": float(a.setting == "street"),
    }


# ---- landscape ------------------------------------------------------------------------------------------
def _ridges(a: SceneAttributes, rng: Generator) -> np.ndarray:
    low, high = {
        "hills": (0.5, 2.2),
        "mountains": (0.6, 9.0),
        "sea": (-0.8, 2.0),
        "desert": (0.15, 1.5),
        "forest": (0.8, 3.2),
    }[a.setting]
    z = np.array([11.0, 17.0, 27.0, 42.0, 66.0])
    if a.setting == "sea":
        z = np.array([38.0, 46.0, 56.0, 70.0, 90.0])
    share = np.linspace(0.22, 1.0, 5)
    return np.stack(
        [
            z,
            low * (0.4 + share * z / z[0] * 0.35),
            high * (0.35 + 0.9 * share * z / 40.0),
            rng.uniform(0, 60, 5),
        ],
        axis=1,
    ).astype(np.float32)


def _trees(a: SceneAttributes, rng: Generator) -> list:
    count = {"hills": 4, "mountains": 3, "sea": 2, "desert": 3, "forest": 8}[a.setting]
    trees = []
    for k in range(count):
        side = -1 if k % 2 else 1
        if a.setting == "desert":
            radius = rng.uniform(0.5, 1.1)
            trees.append((side * rng.uniform(2.2, 5.0), rng.uniform(2.0, 8.0), radius * 0.25, radius))
            continue
        z = rng.uniform(1.2, 8.5) if a.setting != "sea" else rng.uniform(0.2, 1.6)
        radius = rng.uniform(0.75, 1.25) * (1.15 if a.setting == "forest" else 1.0)
        trees.append(
            (side * (1.5 + 0.33 * z + rng.uniform(0.2, 1.4)), z, radius + rng.uniform(0.7, 1.5), radius)
        )
    return trees


def _landscape(a: SceneAttributes, rng: Generator, light: palette.Light) -> Uniforms:
    main = palette.colour(a.colour)
    companion = main if a.composed else palette.colour(a.second_colour)
    earth = palette.linear((0.62, 0.52, 0.38))
    ground = 0.80 * main * rng.uniform(0.75, 0.95) + 0.20 * earth
    crown = (0.75 * main + 0.25 * companion) * rng.uniform(0.55, 0.8)
    if a.setting == "desert":
        crown = ground * 0.55 + 0.08
    clouds = [
        (x, rng.uniform(0.22, 0.50), rng.uniform(0.10, 0.17), rng.uniform(0.035, 0.06))
        for x in np.linspace(-0.7, 0.7, 5) + rng.uniform(-0.1, 0.1, 5)
    ]
    shown = {"clear": 2, "cloudy": 5, "foggy": 0, "snowy": 3}[a.weather]
    order = rng.permutation(5)[:shown]
    return {
        "ridge": _ridges(a, rng),
        "tree": _table(_trees(a, rng), 8, (0.0, -500.0, 0.0, 0.01)),
        "cloud": _table([clouds[i] for i in order], 5, (50.0, 50.0, 0.1, 0.1)),
        "ground_colour": ground,
        "crown_colour": crown,
        "ridge_near": ground * 0.62,
        "ridge_far": 0.65 * main + 0.35 * light.fog_colour,
        "shore_colour": 0.6 * palette.linear((0.88, 0.78, 0.58)) + 0.4 * main,
        "sharp": float(a.setting == "mountains"),
        "water_from": 1.7 if a.setting == "sea" else 99.0,
        "snow": float(a.weather == "snowy"),
        "trunk": float(a.setting != "desert"),
        "sharp_dune": float(a.setting == "desert"),
    }


# ---- interior -------------------------------------------------------------------------------------------
def _sofa(x: float, z: float, lo: list, hi: list) -> None:
    for (x0, y0, z0), (x1, y1, z1) in (
        ((-1.1, 0.0, 0.0), (1.1, 0.45, 0.9)),
        ((-1.1, 0.45, 0.6), (1.1, 1.0, 0.9)),
        ((-1.35, 0.0, 0.0), (-1.1, 0.68, 0.9)),
        ((1.1, 0.0, 0.0), (1.35, 0.68, 0.9)),
    ):
        lo.append((x + x0, y0, z + z0, 1.0))
        hi.append((x + x1, y1, z + z1, 0.0))


def _living_room(rng: Generator) -> Uniforms:
    side = rng.choice([-1.0, 1.0])
    lo: list = []
    hi: list = []
    _sofa(side * 1.5, 3.0, lo, hi)
    lo += [(-side * 1.9 - 0.55, 0.0, 3.2, 2.0), (side * 0.9 - 0.5, 0.30, 1.7, 2.0)]
    hi += [(-side * 1.9 + 0.55, 0.9, 3.9, 0.0), (side * 0.9 + 0.5, 0.42, 2.3, 0.0)]
    middle = -side * 1.2
    return {
        "room": (3.2, 3.1, 4.4, 0.0),
        "window_rect": (middle - 0.95, middle + 0.95, 1.0, 2.5),
        "window_side": 0.0,
        "block_lo": _table(lo, 10),
        "block_hi": _table(hi, 10),
        "lamp": _table([(-side * 1.9, 1.15, 3.5, 0.24), (side * 2.6, 2.1, 2.0, 0.26)], 3, (0, -9, 0, 0)),
        "picture": _table([(0.0, side * 1.5, 0.6, rng.random())], 4, (5, 0, 0, 0)),
        "rug": (side * 0.6, 1.3, 1.7, 1.1),
        "portal": (0, 0, 1, 0),
    }


def _gallery(rng: Generator) -> Uniforms:
    bench = int(rng.integers(2))
    pictures = [(0.0, rng.uniform(-0.5, 0.5), rng.uniform(0.9, 1.3), rng.random())]
    pictures += [
        (side, z, 0.95, rng.random()) for side, z in ((-1, 1.6), (1, 1.6), (rng.choice([-1, 1]), 4.6))
    ]
    return {
        "room": (3.5, 3.6, 6.2, 1.0),
        "window_rect": (50, 51, 50, 51),
        "window_side": 0.0,
        "block_lo": _table([(-0.8, 0.0, 3.6, 3.0)] * bench, 10),
        "block_hi": _table([(0.8, 0.42, 4.2, 0.0)] * bench, 10),
        "lamp": _table([(-1.3, 3.2, 2.6, 0.22), (1.3, 3.2, 2.6, 0.22)], 3, (0, -9, 0, 0)),
        "picture": _table(pictures, 4, (5, 0, 0, 0)),
        "rug": (0, 0, 0, 0),
        "portal": (0, 0, 1, 0),
    }


def _hall(rng: Generator) -> Uniforms:
    lo = [(side * 2.7 - 0.38, 0.0, z, 3.0) for side in (-1, 1) for z in (0.6, 3.6, 6.6, 9.6)]
    hi = [(side * 2.7 + 0.38, 5.4, z + 0.76, 0.0) for side in (-1, 1) for z in (0.6, 3.6, 6.6, 9.6)]
    width = rng.uniform(1.3, 1.9)
    return {
        "room": (4.6, 5.2, 12.0, 2.0),
        "window_rect": (-width, width, 0.9, 4.4),
        "window_side": 0.0,
        "block_lo": _table(lo, 10),
        "block_hi": _table(hi, 10),
        "lamp": _table([(0.0, 4.1, 4.5, 0.42)], 3, (0, -9, 0, 0)),
        "picture": _table([], 4, (5, 0, 0, 0)),
        "rug": (0.0, 3.0, 1.3, 5.0),
        "portal": (0, 0, 1, 0),
    }


def _portal_room(rng: Generator) -> Uniforms:
    lo = [(-1.5, 0.0, 4.2, 3.0), (-3.3, 0.0, 3.2, 0.0), (2.5, 0.0, 3.2, 0.0)]
    hi = [(1.5, 0.18, 5.6, 0.0), (-2.5, 3.6, 4.0, 0.0), (3.3, 3.6, 4.0, 0.0)]
    return {
        "room": (3.3, 3.6, 5.6, 3.0),
        "window_rect": (50, 51, 50, 51),
        "window_side": 0.0,
        "block_lo": _table(lo, 10),
        "block_hi": _table(hi, 10),
        "lamp": _table([], 3, (0, -9, 0, 0)),
        "picture": _table([], 4, (5, 0, 0, 0)),
        "rug": (0, 0, 0, 0),
        "portal": (0.0, 1.65, rng.uniform(1.15, 1.35), 1.0),
    }


def _interior(a: SceneAttributes, rng: Generator, light: palette.Light) -> Uniforms:
    build = {"living room": _living_room, "gallery": _gallery, "hall": _hall, "portal room": _portal_room}[
        a.setting
    ]
    return {**build(rng), "lamp_colour": palette.linear((1.0, 0.83, 0.60))}


# ---- space ----------------------------------------------------------------------------------------------
def _space(a: SceneAttributes, rng: Generator, light: palette.Light) -> Uniforms:
    crowded = a.subject != "none"
    side = {"left": 1.0, "right": -1.0}.get(a.position, rng.choice([-1.0, 1.0]))
    size = {"planet": 5.0, "ringed planet": 3.5, "moons": 3.3, "nebula": 0.01, "asteroids": 0.01}[a.setting]
    shift = (4.6 if crowded else 1.6) * side if size > 1 else 300.0
    planet = (shift, 1.0 + rng.uniform(-0.6, 1.4), 13.0, size * rng.uniform(0.9, 1.1))
    axis = np.array([0.28 * rng.choice([-1, 1]), 1.0, -0.42])
    moons: list = []
    if a.setting in ("planet", "moons"):
        for k in range(2 if a.setting == "moons" else 1):
            moons.append(
                (-side * (2.6 + 1.9 * k) + rng.uniform(-0.4, 0.4), 3.6 - 3.4 * k, 10.0 + k, (1.15, 0.8)[k])
            )
    if a.setting == "asteroids":
        for k in range(6):
            angle = k * 1.047 + rng.uniform(-0.3, 0.3)
            reach = rng.uniform(2.6, 4.2)
            moons.append(
                (
                    reach * np.cos(angle),
                    1.0 + reach * 0.85 * np.sin(angle),
                    rng.uniform(4.0, 8.0),
                    rng.uniform(0.6, 1.35),
                )
            )
    stars = []
    for _ in range(14):
        d = np.array([rng.uniform(-0.62, 0.62), rng.uniform(-0.6, 0.75), 1.0])
        stars.append((*(d / np.linalg.norm(d)), rng.uniform(0.011, 0.018)))
    return {
        "planet": planet,
        "moon": _table(moons, 6, (0, 500, 0, 0.01)),
        "ring_axis": axis / np.linalg.norm(axis),
        "ring_on": float(a.setting == "ringed planet"),
        "rocky": float(a.setting == "asteroids"),
        "nebula_on": {"nebula": 1.0, "asteroids": 0.35}.get(a.setting, 0.12),
        "star": _table(stars, 14),
        "turn_rate": {"slow": 0.25, "normal": 0.45, "fast": 0.7}[a.speed],
    }


# ---- object and avatar ----------------------------------------------------------------------------------
def _studio(a: SceneAttributes, rng: Generator, light: palette.Light) -> Uniforms:
    stage = a.world == "avatar"
    on = a.setting in ("plinth", "stage")
    return {
        "plinth": ((1.35, 0.16) if stage else (0.95, 0.42)) + (0.0 if stage else 1.0, float(on)),
        "disc": (rng.uniform(-0.15, 0.15), 1.35, rng.uniform(1.55, 1.9), 0.9 if stage else 0.0),
        "stage": float(stage),
    }


_BUILD: dict[str, tuple[str, Callable[[SceneAttributes, Generator, palette.Light], Uniforms]]] = {
    "city": ("city", _city),
    "landscape": ("landscape", _landscape),
    "interior": ("interior", _interior),
    "space": ("space", _space),
    "object": ("studio", _studio),
    "avatar": ("studio", _studio),
}
_PITCH = {"city": 0.07, "landscape": 0.03, "interior": 0.04, "space": 0.0, "object": -0.06, "avatar": -0.02}
_SUN_AZIMUTH = {"city": 0.75, "landscape": 0.42, "interior": 0.45, "space": 1.0, "object": 2.4, "avatar": 2.4}


def _light(a: SceneAttributes, rng: Generator) -> palette.Light:
    azimuth = _SUN_AZIMUTH[a.world] * rng.uniform(0.7, 1.2) * rng.choice([-1.0, 1.0])
    tint = palette.colour(a.second_colour if a.world in ("object", "avatar") else a.colour)
    made = palette.light(a.time_of_day, a.weather, tint, azimuth)
    if a.world == "city" and made.night > 0.5:  # the haze of a lit city glows in its colour
        made = replace(made, fog_colour=(0.45 * made.fog_colour + 0.26 * tint + 0.01).astype(np.float32))
    if a.world == "space":
        direction = np.array([np.sin(azimuth), 0.45, -0.55], dtype=np.float32)
        flat: palette.Vec = (np.array([0.16, 0.16, 0.2]) + 0.10 * tint).astype(np.float32)
        direction = (direction / np.linalg.norm(direction)).astype(np.float32)
        sun, haze = palette.linear((1.0, 0.95, 0.88)), np.array([0.01, 0.012, 0.03], dtype=np.float32)
        made = palette.Light(direction, sun * 1.5, flat * 0.4, flat * 0.6, flat * 1.6, haze, 0.0, 1.0)
    return made


def _companion(a: SceneAttributes) -> np.ndarray:
    """The world's second colour; in a composed clip that word belongs to the subject, so a pale tone steps in."""
    if a.composed:
        return 0.4 * palette.colour(a.colour) + 0.6 * palette.linear((0.93, 0.89, 0.82))
    return palette.colour(a.second_colour)


def build(a: SceneAttributes, rng: Generator) -> Scene:
    """The scene of `a`; `rng` decides what no word says (heights, places, phases)."""
    from training.worlds.subjects import subject

    light = _light(a, rng)
    shader, layout = _BUILD[a.world]
    uniforms: Uniforms = {
        "sun_dir": light.sun_dir,
        "sun_colour": light.sun_colour,
        "sky_top": light.sky_top,
        "sky_low": light.sky_low,
        "ambient": light.ambient,
        "fog_colour": light.fog_colour,
        "fog_density": light.fog_density,
        "night": light.night,
        "main_colour": palette.colour(a.colour),
        "second_colour": _companion(a),
        "seed": tuple(rng.random(4)),
        "blob": (0.0, 0.0, 1.0, 0.0),
        "blob_glow": (0.0, 0.0, 0.0),
        "second_blob": (0.0, 0.0, 1.0, 0.0),
        "second_blob_glow": (0.0, 0.0, 0.0),
        **layout(a, rng, light),
    }
    calm = 0.7 if a.position != "centre" else 1.0
    distance = {"none": 2.6, "avatar": 2.4 if a.world == "avatar" else 2.5}.get(a.subject, 2.75)
    views = camera.path(a.camera_motion, a.speed, 1.02, distance, _PITCH[a.world], calm)
    figures = [] if a.subject == "none" else [subject(a, rng, uniforms, "blob")]
    if a.companion is not None:
        figures.append(subject(a.other, rng, uniforms, "second_blob"))
    figures.sort(key=lambda figure: -float(figure["places"][0][2]))
    return Scene(shader, uniforms, views, tuple(figures))
