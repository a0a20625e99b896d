"""Long-range steadiness without flow: drift of colour statistics, and how well a clip closes as a loop."""

from __future__ import annotations

import numpy as np

from moe_pipeline.metrics.frames import Floats, Frames, mean_abs_difference, need_frames, reduce_shorter_side

STATISTICS_SIDE = 256  # means and spreads of colour need no more


def colour_statistics(frames: Frames) -> Floats:
    """Mean and standard deviation of L*, a*, b* (CIE 1976) of each frame, T x 6."""
    import cv2

    small = reduce_shorter_side(frames, STATISTICS_SIDE)
    rows = []
    for frame in small:
        lab = cv2.cvtColor(
            frame.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB
        )  # L 0..100, a and b about -128..127
        pixels = lab.reshape(-1, 3).astype(np.float64)
        rows.append(np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)]))
    return np.asarray(rows)


def colour_drift(frames: Frames) -> tuple[float, Floats]:
    """Distance of the colour statistics of the last quarter of the clip from those of the first quarter.

    Euclidean distance in the six numbers of `colour_statistics`, in CIELAB units (about 2.3 is a just noticeable
    difference of a colour); 0 and up, lower is better. Averages over quarters, so that flicker is not mistaken for
    drift. Series: distance of each frame from the first. Raises Undefined for fewer than two frames.
    """
    need_frames(frames, 2)
    statistics = colour_statistics(frames)  # T x 6
    quarter = max(1, len(frames) // 4)
    value = np.linalg.norm(statistics[-quarter:].mean(axis=0) - statistics[:quarter].mean(axis=0))
    return float(value), np.linalg.norm(statistics - statistics[:1], axis=1)


def loop_closure(frames: Frames) -> tuple[float, Floats, float]:
    """How well the last frame leads back to the first: (255 - mean |F_last - F_first|) / 255, higher is better.

    Also the series of the same similarity between every frame and the first (T values), and the seam: the jump from
    last to first over the clip's median step (1 means that the seam is like any other step; infinite when only the
    seam moves). Raises Undefined for fewer than two frames.
    """
    need_frames(frames, 2)
    first = np.broadcast_to(frames[:1], frames.shape)
    series = (255.0 - mean_abs_difference(frames, first)) / 255.0
    step = float(np.median(mean_abs_difference(frames[:-1], frames[1:])))
    jump = 255.0 * (1.0 - float(series[-1]))
    seam = jump / step if step > 0 else (float("inf") if jump > 0 else 1.0)
    return float(series[-1]), series, seam
