"""Camera paths: smooth, centred on the middle of the clip, at most about three pixels a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TAN_HALF = 0.55  # tangent of half the field of view: a height of 1.1 d is seen at distance d
PIXEL = 2 * TAN_HALF / 128  # tangent that one pixel of the frame covers
FRAMES = 16
PIXELS_PER_FRAME = {"slow": 0.8, "normal": 1.6, "fast": 2.6}


@dataclass(frozen=True)
class View:
    """Position [3] and basis [3, 3] (columns right, up, forward) of the camera in one frame."""

    position: NDArray[np.float32]
    basis: NDArray[np.float32]

    def project(self, point: NDArray) -> tuple[float, float, float]:
        """A world point to (x, y) in -1..1 and depth along the view axis."""
        local = self.basis.T @ (np.asarray(point) - self.position)
        depth = max(float(local[2]), 0.05)
        return float(local[0]) / (depth * TAN_HALF), float(local[1]) / (depth * TAN_HALF), depth


def _basis(yaw: float, pitch: float) -> NDArray[np.float32]:
    forward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    up = np.cross(forward, right)
    return np.stack([right, up, forward], axis=1).astype(np.float32)


def path(motion: str, speed: str, eye: float, distance: float, pitch: float, calm: float) -> list[View]:
    """The 16 views of a clip.

    The pivot (the subject's place) is the origin at height `eye`; the camera starts `distance` before it,
    looking along +z with `pitch` radians upwards. `calm` below one slows the move down.
    """
    rate = PIXELS_PER_FRAME[speed] * calm
    travel = rate * PIXEL * np.linspace(-(FRAMES - 1) / 2, (FRAMES - 1) / 2, FRAMES)  # tangent of angle
    views = []
    for s in travel:
        x, y, z, yaw, tilt = 0.0, eye, -distance, 0.0, pitch
        if motion == "pan left":
            yaw = -s
        elif motion == "pan right":
            yaw = s
        elif motion == "push in":
            z += s * distance * 1.1
        elif motion == "pull back":
            z -= s * distance * 1.1
        elif motion == "orbit":
            yaw = 1.5 * s
            x, z = -distance * np.sin(yaw), -distance * np.cos(yaw)
        elif motion == "rise":
            y += 0.9 * s * distance + 0.12
            tilt -= 0.55 * s
        views.append(View(np.array([x, y, z], dtype=np.float32), _basis(yaw, tilt)))
    return views
