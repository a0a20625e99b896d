"""Temporal flickering, exactly as VBench defines it.

    score = (255 - mean over t of mean |F_t - F_{t+1}|) / 255

Mean over pixels and channels of raw uint8 frames; 0..1, higher is steadier; a frozen clip scores 1, so VBench runs
it on static clips only. Source: VBench, `vbench/temporal_flickering.py`; Huang et al., CVPR 2024.
"""

from __future__ import annotations

import numpy as np

from moe_pipeline.metrics.frames import Floats, Frames, mean_abs_difference, need_frames


def temporal_flickering(frames: Frames) -> tuple[float, Floats]:
    """Score and its per-pair series (T - 1 values, each (255 - mean absolute difference) / 255).

    Raises Undefined for fewer than two frames.
    """
    need_frames(frames, 2)
    series = (255.0 - mean_abs_difference(frames[:-1], frames[1:])) / 255.0
    return float(np.mean(series)), series
