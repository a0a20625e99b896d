"""Motion smoothness: can a dropped frame be guessed from its neighbours?

VBench (`vbench/motion_smoothness.py`) drops the odd frames, interpolates them from the even ones with AMT-S and
scores (255 - mean |F_odd - guess|) / 255. The rule is here, for any interpolator; the stand-in's interpolator follows
DIS flow half-way from both sides. 0..1, higher is smoother; a frozen clip scores 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_pipeline.metrics.flow import FlowField, warp
from moe_pipeline.metrics.frames import Floats, Frames, need_frames

Interpolator = Callable[[int, int], Floats]
"""Guess of the frame half-way between two frames by index, H x W x 3 in 0..255."""


def motion_smoothness(frames: Frames, interpolate: Interpolator) -> tuple[float, Floats]:
    """Score and its series, one value per dropped frame 1, 3, 5, ... that has an even frame on both sides.

    Raises Undefined for fewer than three frames.
    """
    need_frames(frames, 3)
    series = []
    for odd in range(1, len(frames) - 1, 2):
        guess = interpolate(odd - 1, odd + 1)
        series.append((255.0 - float(np.mean(np.abs(frames[odd].astype(np.float32) - guess)))) / 255.0)
    return float(np.mean(series)), np.asarray(series)


def flow_interpolator(frames: Frames, flows: FlowField) -> Interpolator:
    """Half-way frames by DIS flow: each neighbour is warped half of the flow towards the other, then averaged.

    The flow is taken at the middle by the usual approximation f_mid(x) = f(x) (small motion); the result is rounded
    to whole levels as an interpolation network's output is.
    """
    import cv2

    height, width = frames.shape[1:3]

    def full_size(flow: Floats) -> Floats:
        if not flows.reduced:
            return flow
        return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(flows.scale)

    def interpolate(before: int, after: int) -> Floats:
        ahead, back = full_size(flows.between(before, after)), full_size(flows.between(after, before))
        # x at the middle came from x - f/2 in `before` and goes on to x - b/2 in `after` (b points back)
        from_before = warp(frames[before].astype(np.float32), -0.5 * ahead)
        from_after = warp(frames[after].astype(np.float32), -0.5 * back)
        return np.rint(0.5 * (from_before + from_after))

    return interpolate
