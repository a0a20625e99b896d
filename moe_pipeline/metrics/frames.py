"""What the metrics take: uint8 frames of T x H x W x 3, checked once with a sentence for everything else."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moe_pipeline.schema.errors import MoEverseError

Frames: TypeAlias = npt.NDArray[np.uint8]  # T x H x W x 3, RGB
Floats: TypeAlias = npt.NDArray[np.floating]


class Undefined(Exception):
    """A metric has no value for this clip; the text is the reason that `ClipMetrics.skipped` shows."""


def check_frames(frames: np.ndarray) -> Frames:
    """The frames unchanged, or MoEverseError when they are not uint8 T x H x W x 3 with at least one pixel."""
    if (
        not isinstance(frames, np.ndarray)
        or frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[3] != 3
    ):
        shape = " x ".join(str(n) for n in np.shape(frames))
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise MoEverseError(
            "frames_shape",
            f"Metrics take uint8 frames of T x H x W x 3, not {kind} of {shape}.",
            "Convert the clip to RGB uint8 first.",
        )
    if 0 in frames.shape:
        raise MoEverseError("video_without_frames", "The clip holds 0 frames.", "Give a clip with frames.")
    return frames


def need_frames(frames: Frames, least: int) -> None:
    """Raise `Undefined` when the clip is shorter than `least` frames."""
    if len(frames) < least:
        have = "1 frame" if len(frames) == 1 else f"{len(frames)} frames"
        raise Undefined(f"needs at least {least} frames, the clip has {have}")


def reduce_shorter_side(frames: Frames, limit: int) -> Frames:
    """Frames scaled by area averaging so that the shorter side is at most `limit` pixels; unchanged when it is."""
    import cv2

    height, width = frames.shape[1:3]
    shorter = min(height, width)
    if shorter <= limit:
        return frames
    size = (
        max(1, round(width * limit / shorter)),
        max(1, round(height * limit / shorter)),
    )  # cv2: width, height
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]).astype(
        np.uint8
    )


def mean_abs_difference(a: Frames, b: Frames) -> Floats:
    """Mean |a - b| over pixels and channels for each pair: T x H x W x 3 twice -> T, in 0..255, exact."""
    # uint8 throughout, so that a 4K clip needs no float copy: |a - b| = max(a, b) - min(a, b)
    return np.array(
        [np.mean(np.maximum(x, y) - np.minimum(x, y), dtype=np.float64) for x, y in zip(a, b, strict=True)]
    )
