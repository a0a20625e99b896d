"""Where the joints of the avatar are, frame by frame: gestures with periods of 14 frames or more.

Joints are in metres in the avatar's own frame: feet at y = 0, facing the camera (-z), 1.8 tall.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Joints = NDArray[np.float32]

JOINTS = (
    "pelvis",
    "chest",
    "head",
    "l_shoulder",
    "l_elbow",
    "l_hand",
    "r_shoulder",
    "r_elbow",
    "r_hand",
    "l_hip",
    "l_knee",
    "l_foot",
    "r_hip",
    "r_knee",
    "r_foot",
)
PERIOD_FRAMES = {"slow": 28.0, "normal": 20.0, "fast": 14.0}
UPPER_ARM, FOREARM, THIGH, SHIN = 0.29, 0.29, 0.40, 0.40


def _along(start: NDArray, length: float, out: float, forward: float, side: float) -> NDArray:
    """End of a bone hanging from `start`: `out` lifts it sideways, `forward` towards the camera (radians)."""
    direction = np.array(
        [side * np.sin(out) * np.cos(forward), -np.cos(out) * np.cos(forward), -np.sin(forward)]
    )
    return start + length * direction


def _arms(motion: str, phase: float, side: float) -> tuple[float, float, float, float]:
    """(upper out, upper forward, lower out, lower forward) of one arm; `side` is -1 for the left of the frame."""
    wave = np.sin(phase)
    if motion == "waving" and side > 0:
        return 1.75, 0.1, 2.75 + 0.5 * wave, 0.1
    if motion == "dancing":
        lift = 1.60 + 0.55 * side * wave
        return lift, 0.15, lift + 0.75, 0.15
    if motion == "walking":
        swing = 0.5 * side * wave
        return 0.16, swing, 0.12, swing + 0.35
    if motion == "jumping":
        lift = 1.85 + 0.30 * np.sin(phase)
        return lift, 0.1, lift + 0.35, 0.1
    return 0.26 + 0.03 * wave, 0.05, 0.16, 0.2


def _legs(motion: str, phase: float, side: float) -> tuple[float, float, float, float]:
    """(thigh out, thigh forward, shin out, shin forward) of one leg."""
    wave = np.sin(phase)
    if motion == "walking":
        swing = -0.38 * side * wave
        return 0.05, swing, 0.05, swing - 0.16 * (1.0 - side * np.cos(phase))
    if motion == "dancing":
        bend = 0.28 + 0.22 * max(0.0, side * wave)
        return 0.20, bend, 0.12, -bend * 0.8
    if motion == "jumping":
        bend = 0.16 * (1.0 - wave)
        return 0.14, bend, 0.12, -bend
    return 0.12, 0.0, 0.10, 0.0


def joints(motion: str, speed: str, frame: int, offset: float) -> Joints:
    """Joint positions [15, 3] at `frame`; `offset` (radians) shifts the phase of the gesture."""
    phase = 2 * np.pi * frame / PERIOD_FRAMES[speed] + offset
    sway = {"dancing": 0.10, "standing": 0.015, "waving": 0.02}.get(motion, 0.0) * np.sin(phase)
    pelvis = np.array([sway, 0.0, 0.0])
    lean = {"dancing": 0.09}.get(motion, 0.02) * np.sin(phase)
    chest = pelvis + np.array([-lean, 0.43, 0.0])
    head = chest + np.array([-0.6 * lean, 0.36, -0.01])
    points = [pelvis, chest, head]
    for side in (-1.0, 1.0):
        shoulder = chest + np.array([side * 0.23, 0.05, 0.0])
        up_out, up_fwd, lo_out, lo_fwd = _arms(motion, phase, side)
        elbow = _along(shoulder, UPPER_ARM, up_out, up_fwd, side)
        points += [shoulder, elbow, _along(elbow, FOREARM, lo_out, lo_fwd, side)]
    feet: list[float] = []
    for side in (-1.0, 1.0):
        hip = pelvis + np.array([side * 0.11, -0.05, 0.0])
        up_out, up_fwd, lo_out, lo_fwd = _legs(motion, phase, side)
        knee = _along(hip, THIGH, up_out, up_fwd, side)
        foot = _along(knee, SHIN, lo_out, lo_fwd, side)
        feet.append(float(foot[1]))
        points += [hip, knee, foot]
    ground = -min(feet) + 0.07  # the lower foot stands on the ground
    if motion == "jumping":
        ground += 0.10 * (1.0 + np.sin(phase))
    return (np.stack(points) + np.array([0.0, ground, 0.0])).astype(np.float32)
