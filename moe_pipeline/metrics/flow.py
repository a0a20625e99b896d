"""Dense optical flow by OpenCV's DIS, computed once per pair and shared by every metric that follows motion.

Dense Inverse Search: Kroeger et al., ECCV 2016; OpenCV's medium preset. Flow is computed on grey frames whose
shorter side is at most FLOW_SIDE pixels, so that a 4K clip costs what a 512-line clip costs; magnitudes are given in
pixels of the original frames.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moe_pipeline.metrics.frames import Floats, Frames, Undefined, reduce_shorter_side

FLOW_SIDE = 512
LEAST_SIDE = 16  # DIS needs patches of 8 pixels on two levels
MOST_ELONGATED = 16  # beyond this ratio of the sides its pyramid has no level left


class FlowField:
    """Flows between frames of one clip, cached. `frames` are the reduced frames that the flows live on."""

    def __init__(self, frames: Frames) -> None:
        import cv2

        height, width = frames.shape[1:3]
        shorter, longer = min(height, width), max(height, width)
        if shorter < LEAST_SIDE or longer > MOST_ELONGATED * shorter:
            raise Undefined(
                f"optical flow needs sides of at least {LEAST_SIDE} pixels and a ratio of at most {MOST_ELONGATED}, "
                f"the clip has {width}x{height}"
            )
        self.frames = reduce_shorter_side(frames, FLOW_SIDE)
        self.scale = shorter / min(self.frames.shape[1:3])  # pixels of the original per pixel of flow
        self.original_side = shorter
        self._grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames]
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flows: dict[tuple[int, int], npt.NDArray[np.float32]] = {}

    @property
    def reduced(self) -> bool:
        """True when the flow frames are smaller than the clip's."""
        return self.scale > 1.0

    def between(self, source: int, target: int) -> npt.NDArray[np.float32]:
        """Flow from frame `source` to frame `target`, H x W x 2 (dx, dy) in pixels of the reduced frames."""
        key = (source, target)
        if key not in self._flows:
            self._flows[key] = self._dis.calc(self._grey[source], self._grey[target], None)
        return self._flows[key]

    def across(self, source: int, target: int) -> npt.NDArray[np.float32]:
        """Flow over a larger gap, H x W x 2: the flows in between chained, then refined by DIS from that start.

        A direct search loses motion of a quarter of the frame; chained flow alone adds up its errors.
        """
        if abs(target - source) <= 1:
            return self.between(source, target)
        step = 1 if target > source else -1
        chained: Floats = self.between(source, source + step)
        for t in range(source + step, target, step):
            chained = chained + warp(
                self.between(t, t + step), chained
            )  # f(0->t+1)(x) = f(0->t)(x) + f(x + ...)
        return self._dis.calc(self._grey[source], self._grey[target], chained.astype(np.float32))

    def magnitude(self, source: int, target: int) -> Floats:
        """Length of the flow in pixels of the original frames, H x W."""
        flow = self.between(source, target)
        return np.hypot(flow[..., 0], flow[..., 1]) * self.scale


def warp(frame: Floats, flow: Floats) -> Floats:
    """Backward warp: result(x) = frame(x + flow(x)), bilinear; H x W x C float32 and H x W x 2.

    Points outside the frame take the border's value; `inside` tells where they are.
    """
    import cv2

    x, y = _targets(flow)
    return cv2.remap(frame, x, y, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def inside(flow: Floats) -> npt.NDArray[np.bool_]:
    """Where x + flow(x) lies within the frame, H x W."""
    height, width = flow.shape[:2]
    x, y = _targets(flow)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _targets(flow: Floats) -> tuple[Floats, Floats]:
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)[None, :]
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return x, y


def visible(forward: Floats, backward: Floats) -> npt.NDArray[np.bool_]:
    """Mask of pixels that can be followed from source to target, H x W.

    Excluded: what leaves the frame; what is occluded, |f + b(x + f)|^2 > 0.01 (|f|^2 + |b(x + f)|^2) + 0.5; and
    motion boundaries, |grad u|^2 + |grad v|^2 > 0.01 |f|^2 + 0.002. Constants of Sundaram et al., ECCV 2010, as used
    for video consistency by Ruder et al. 2016 and Lai et al., ECCV 2018.
    """
    returned = warp(backward, forward)  # b(x + f(x)), H x W x 2
    length_f = np.sum(forward**2, axis=-1)
    mismatch = np.sum((forward + returned) ** 2, axis=-1)
    occluded = mismatch > 0.01 * (length_f + np.sum(returned**2, axis=-1)) + 0.5
    bend = np.zeros(forward.shape[:2], dtype=np.float32)
    for axis in (0, 1):
        step = np.gradient(forward, axis=axis)
        bend += np.sum(step**2, axis=-1)
    boundary = bend > 0.01 * length_f + 0.002
    return inside(forward) & ~occluded & ~boundary
