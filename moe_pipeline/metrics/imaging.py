"""Imaging quality from no-reference statistics: the stand-in where MUSIQ's weights are not at hand.

Four plain measurements of each frame, each in 0..1 with 1 the best, and their product's square root as the figure:

- sharpness: 1 - blur, the blur measure of Crete et al., SPIE 2007, from scikit-image (`skimage.measure.blur_effect`);
- cleanness: exp(-sigma / 12), sigma the noise of the finest diagonal Haar band by the median rule of Donoho and
  Johnstone 1994, in grey levels;
- smooth blocks: steps at the 8-pixel grid of JPEG and H.264 against steps beside it (after Wang, Bovik and Evan,
  ICIP 2000);
- tonal range: share of the 0..255 range between the 2nd and 98th percentile, full from one half on.

It ranks noise, blur and compression of one clip; it does not know beauty, and its values are not MUSIQ's.
"""

from __future__ import annotations

import numpy as np

from moe_pipeline.metrics.frames import Floats, Frames, Undefined, reduce_shorter_side

STATISTICS_SIDE = 512
LEAST_SIDE = 16
NOISE_SCALE = 12.0
FLAT, EDGE = 8.0, 40.0


def sharpness(grey: Floats) -> float:
    """1 - blur of one grey H x W frame in 0..1; 0 for a frame of one colour, which has no edge to be sharp."""
    from skimage.measure import blur_effect

    if float(grey.max()) == float(grey.min()):
        return 0.0
    return float(np.clip(1.0 - blur_effect(grey / 255.0, h_size=11), 0.0, 1.0))


def noise_sigma(grey: Floats) -> float:
    """Standard deviation of white noise in grey levels: median |d| / 0.6745 over the finest diagonal Haar band."""
    even = grey[: grey.shape[0] // 2 * 2, : grey.shape[1] // 2 * 2]
    a, b = even[0::2, 0::2], even[0::2, 1::2]
    c, d = even[1::2, 0::2], even[1::2, 1::2]
    return float(np.median(np.abs(a - b - c + d)) / 2.0 / 0.6745)


def blockiness(grey: Floats, period: int = 8) -> float:
    """Mean excess of steps on the 8-pixel grid over steps half a block away, in grey levels; 0 when there is none.

    Only steps between flat neighbours count (below FLAT levels on both sides) and only up to EDGE levels: a contour
    of the picture that happens to lie on the grid is no block.
    """
    excess = []
    for lines in (grey, grey.T):
        steps = np.abs(np.diff(lines, axis=0))  # step k lies between lines k and k + 1
        inner = steps[1:-1]
        flat = (steps[:-2] < FLAT) & (steps[2:] < FLAT) & (inner < EDGE)
        position = np.arange(2, len(steps))  # the line that follows each inner step
        on, beside = position % period == 0, position % period == period // 2
        if flat[on].any() and flat[beside].any():
            excess.append(float(inner[on][flat[on]].mean() - inner[beside][flat[beside]].mean()))
    return max(0.0, float(np.mean(excess))) if excess else 0.0


def tonal_range(grey: Floats) -> float:
    """Share of the range between the 2nd and 98th percentile, doubled and capped at 1."""
    low, high = np.percentile(grey, [2, 98])
    return float(min(1.0, (high - low) / 127.5))


def imaging_statistics(frames: Frames) -> tuple[float, Floats, dict[str, float]]:
    """Mean over frames, the per-frame series (T values) and the means of the four parts.

    Raises Undefined for frames below 16 pixels a side.
    """
    import cv2

    if min(frames.shape[1:3]) < LEAST_SIDE:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        raise Undefined(f"needs sides of at least {LEAST_SIDE} pixels, the clip has {size}")
    rows = []
    for frame in reduce_shorter_side(frames, STATISTICS_SIDE):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        rows.append(
            (
                sharpness(grey),
                float(np.exp(-noise_sigma(grey) / NOISE_SCALE)),
                1.0 / (1.0 + blockiness(grey)),
                tonal_range(grey),
            )
        )
    parts = np.asarray(rows)  # T x 4
    series = np.sqrt(parts.prod(axis=1))
    names = ("sharpness", "cleanness", "smooth_blocks", "tonal_range")
    return float(series.mean()), series, dict(zip(names, parts.mean(axis=0).tolist(), strict=True))
