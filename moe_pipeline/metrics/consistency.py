"""Consistency of features over a clip by VBench's formula, for any image encoder.

    score = 1/(T-1) sum over t >= 2 of [cos+(f_{t-1}, f_t) + cos+(f_1, f_t)] / 2,   cos+ = max(0, cosine)

-- VBench, `subject_consistency.py` (DINO ViT-B/16 features) and `background_consistency.py` (CLIP ViT-B/32 features).
0..1, higher is better. A frozen clip scores 1: read it beside the dynamic degree.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from moe_pipeline.metrics.flow import FlowField
from moe_pipeline.metrics.frames import Floats, Frames, Undefined, need_frames


@runtime_checkable
class FeatureEncoder(Protocol):
    """Frames to features: uint8 T x H x W x 3 -> float32 T x D. Any size of frame, any number of frames."""

    def __call__(self, frames: Frames) -> Floats: ...


@runtime_checkable
class AlignedFeatureEncoder(FeatureEncoder, Protocol):
    """A feature encoder whose space also holds texts: one text -> float32 D."""

    def encode_text(self, text: str) -> Floats: ...


def feature_consistency(features: Floats) -> tuple[float, Floats]:
    """VBench's formula over T x D features: score and series (T - 1 values, for frames 2..T).

    Raises Undefined for fewer than two frames, for features that are not finite or have no length.
    """
    if features.ndim != 2:
        raise Undefined(f"the feature encoder gave {features.ndim} axes where T x D were expected")
    if len(features) < 2:
        raise Undefined("needs at least 2 frames, the clip has 1 frame")
    unit = unit_rows(features)
    neighbour = np.clip(np.sum(unit[:-1] * unit[1:], axis=1), 0.0, 1.0)
    first = np.clip(unit[1:] @ unit[0], 0.0, 1.0)
    series = 0.5 * (neighbour + first)
    return float(series.mean()), series


def unit_rows(features: Floats) -> Floats:
    """Rows scaled to length 1, float64. Raises Undefined when a row is not finite or is zero."""
    features = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    if not np.all(np.isfinite(features)) or np.any(length == 0):
        raise Undefined("the feature encoder gave features that are not finite or have length 0")
    return features / length


def encoded(encoder: FeatureEncoder, frames: Frames) -> Floats:
    """Features of the frames, with the encoder's promise (T x D) checked."""
    features = np.asarray(encoder(frames), dtype=np.float32)
    if features.ndim != 2 or len(features) != len(frames):
        raise Undefined(
            f"the feature encoder gave {' x '.join(map(str, features.shape))} for {len(frames)} frames, not T x D"
        )
    return features


def moving_window(frames: Frames, flows: FlowField | None) -> tuple[slice, slice]:
    """Rows and columns of the half-size window around the centre of the clip's motion; the middle when it is still.

    The centre is that of the flow lengths averaged over all consecutive pairs, squared so that a small fast subject
    outweighs a slow background.
    """
    height, width = frames.shape[1:3]
    centre_y, centre_x = 0.5, 0.5
    if flows is not None and len(frames) > 1:
        weight = np.mean([flows.magnitude(t, t + 1) ** 2 for t in range(len(frames) - 1)], axis=0)  # h x w
        if weight.sum() > 1e-6:
            rows, columns = np.indices(weight.shape)
            centre_y = float((rows * weight).sum() / weight.sum()) / weight.shape[0]
            centre_x = float((columns * weight).sum() / weight.sum()) / weight.shape[1]
    high, wide = max(1, height // 2), max(1, width // 2)
    top = int(np.clip(round(centre_y * height - high / 2), 0, height - high))
    left = int(np.clip(round(centre_x * width - wide / 2), 0, width - wide))
    return slice(top, top + high), slice(left, left + wide)


def subject_frames(frames: Frames, flows: FlowField | None) -> Frames:
    """The moving window of the clip scaled back to the clip's size, so that the encoder sees what it knows."""
    import cv2

    need_frames(frames, 2)
    rows, columns = moving_window(frames, flows)
    size = (frames.shape[2], frames.shape[1])  # cv2: width, height
    cropped = [cv2.resize(frame[rows, columns], size, interpolation=cv2.INTER_LINEAR) for frame in frames]
    return np.stack(cropped).astype(np.uint8)


def text_alignment(features: Floats, text: Floats) -> tuple[float, Floats]:
    """Cosine between the mean of the unit frame features (T x D) and the text's (D), -1..1.

    Series: cosine of each frame with the text.
    """
    unit = unit_rows(features)
    target = unit_rows(np.asarray(text, dtype=np.float32)[None])[0]
    if target.shape[0] != unit.shape[1]:
        raise Undefined(f"text features have {target.shape[0]} numbers and frame features {unit.shape[1]}")
    mean = unit_rows(unit.mean(axis=0, keepdims=True))[0]
    return float(mean @ target), unit @ target
