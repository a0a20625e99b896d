"""How much a clip moves: VBench's decision rules over any optical flow.

Dynamic degree (VBench, `vbench/dynamic_degree.py`): frames subsampled by max(1, round(fps / 8)) to n frames; per
consecutive pair the mean of the largest 5 % of flow lengths; the clip moves when at least round(4 n / 16) pairs
exceed 6 m / 256 pixels, m the shorter side. Static filter (`static_filter.py`): every pair, largest 2 %,
threshold 3 m / 256, at most round(2 n / 16) pairs above it, and neither wrap-around pair above
threshold * allowed * 2. VBench takes the flow of RAFT; with DIS flow the rule is a stand-in. Python's `round`
(halves to even) is part of the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from moe_pipeline.metrics.frames import Floats, Frames, need_frames

Magnitude = Callable[[int, int], Floats]
"""Flow length between two frames by index, H x W, in pixels of the original frames."""


def largest_mean(magnitude: Floats, fraction: float) -> float:
    """Mean of the largest `fraction` of values; at least one value, where VBench would divide nothing by nothing."""
    flat = np.asarray(magnitude, dtype=np.float64).ravel()
    count = max(1, int(flat.size * fraction))
    return float(np.partition(flat, flat.size - count)[-count:].mean())


def sampled_indices(frame_count: int, fps: float) -> list[int]:
    """Indices of the frames that VBench looks at: every max(1, round(fps / 8))-th."""
    return list(range(0, frame_count, max(1, round(fps / 8.0))))


def movement_threshold(shorter_side: int) -> float:
    """Pixels of flow between sampled frames from which a pair counts as moving: 6 m / 256."""
    return 6.0 * shorter_side / 256.0


def moves(pair_scores: Floats, sampled: int, shorter_side: int) -> bool:
    """VBench's decision from the per-pair means of the largest 5 % (pixels); `sampled` frames were looked at.

    With one or two sampled frames the needed count rounds to 0 and VBench says "moves" for any pair, as its loop
    tests the count after each pair; so does this.
    """
    needed = round(4 * sampled / 16.0)
    above = int(np.sum(np.asarray(pair_scores) > movement_threshold(shorter_side)))
    return len(pair_scores) > 0 and above >= needed


def dynamic_degree(frames: Frames, fps: float, magnitude: Magnitude) -> tuple[float, Floats]:
    """1.0 when the clip moves by VBench's rule, else 0.0; series: largest-5 % flow of each sampled pair in pixels.

    A clip shorter than an eighth of a second leaves one sampled frame and no pair: VBench says that it does not move,
    and so does this; its series is the flow from the first frame to the last, which decides nothing. Raises Undefined
    for one frame.
    """
    need_frames(frames, 2)
    indices = sampled_indices(len(frames), fps)
    if len(indices) < 2:
        return 0.0, np.array([largest_mean(magnitude(0, len(frames) - 1), 0.05)])
    scores = np.array([largest_mean(magnitude(a, b), 0.05) for a, b in pairwise(indices)])
    return float(moves(scores, len(indices), min(frames.shape[1:3]))), scores


def static_by_filter(frames: Frames, magnitude: Magnitude) -> tuple[bool, Floats]:
    """VBench's static filter: True for a clip that hardly moves; series: largest-2 % flow of every pair in pixels."""
    need_frames(frames, 2)
    last = len(frames) - 1
    scores = np.array([largest_mean(magnitude(t, t + 1), 0.02) for t in range(last)])
    threshold = 3.0 * min(frames.shape[1:3]) / 256.0
    allowed = round(2 * len(frames) / 16.0)
    if int(np.sum(scores > threshold)) > allowed:
        return False, scores
    ends = (largest_mean(magnitude(0, last), 0.02), largest_mean(magnitude(last, 0), 0.02))
    return max(ends) <= threshold * allowed * 2, scores


def motion_magnitude(scores: Floats, shorter_side: int) -> float:
    """Mean of the pair scores in units of VBench's movement threshold: 1 is the edge between still and moving."""
    return float(np.mean(scores) / movement_threshold(shorter_side))
