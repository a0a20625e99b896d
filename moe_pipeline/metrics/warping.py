"""Warping error: how much a clip changes once its motion is followed.

For frames t and t + k, with DIS flow f from t to t + k and the visibility mask M (occlusions, motion boundaries and
what leaves the frame excluded):

    E(t) = mean over M and channels of (F_t - F_{t+k}(x + f))^2,  intensities in 0..1
    E = mean over t

0..1, lower is better. Lai et al., "Learning blind video temporal consistency", ECCV 2018, section 4 (there with
FlowNet2 flow, k = 1). k = 8 shows slow drift of texture that neighbouring frames hide.
"""

from __future__ import annotations

import numpy as np

from moe_pipeline.metrics.flow import FlowField, visible, warp
from moe_pipeline.metrics.frames import Floats, Frames, need_frames

LEAST_VISIBLE = 0.05


def warping_error(
    frames: Frames, *, gap: int = 1, flows: FlowField | None = None
) -> tuple[float, Floats, int]:
    """Error, its series over t (T - gap values) and how many pairs could not be followed at all.

    A pair that keeps less than 5 % of its pixels (a hard cut, say) counts with its whole unmasked difference: to
    leave it out would reward a clip for losing its content. Raises Undefined for fewer than gap + 1 frames and for
    clips too small for flow.
    """
    need_frames(frames, gap + 1)
    flows = FlowField(frames) if flows is None else flows
    series, lost = [], 0
    for t in range(len(frames) - gap):
        forward, backward = flows.across(t, t + gap), flows.across(t + gap, t)
        here = flows.frames[t].astype(np.float32) / 255.0  # H x W x 3
        there = flows.frames[t + gap].astype(np.float32) / 255.0
        squared = np.mean((here - warp(there, forward)) ** 2, axis=-1)  # H x W
        mask = visible(forward, backward)
        if mask.mean() < LEAST_VISIBLE:
            lost += 1
            series.append(float(np.mean((here - there) ** 2)))
        else:
            series.append(float(squared[mask].mean()))
    return float(np.mean(series)), np.asarray(series), lost
