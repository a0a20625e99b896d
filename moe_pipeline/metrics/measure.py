"""One call that measures a clip: shares the flow, keeps reasons for what is missing, times itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_pipeline.metrics import consistency, drift, dynamics, flickering, imaging, smoothness, warping
from moe_pipeline.metrics.catalogue import DEFAULT_METRICS, METRICS, NETWORK_METRICS, PACK_METRICS
from moe_pipeline.metrics.consistency import AlignedFeatureEncoder, FeatureEncoder
from moe_pipeline.metrics.flow import FlowField
from moe_pipeline.metrics.frames import Floats, Frames, Undefined, check_frames
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipMetrics, MetricValue

if TYPE_CHECKING:
    from moe_pipeline.metrics.networks import Inputs

SMALL_PIXELS = 256 * 256


class ClipContext:
    """One clip with what several metrics share: the flow, made on first use, and what was given beside the frames."""

    def __init__(
        self,
        frames: Frames,
        fps: float,
        features: FeatureEncoder | None,
        prompt: str | None,
        weights: Path | None,
    ) -> None:
        self.frames, self.fps = frames, fps
        self.features, self.prompt, self.weights = features, prompt, weights
        self._flows: FlowField | None = None
        self._encoded: Floats | None = None
        self.networks: Inputs | None = None

    def whole_features(self) -> Floats:
        """Encoder features of the whole frames, T x D; raises Undefined without an encoder."""
        if self.features is None:
            raise Undefined("needs the pack's feature encoder, none was given")
        if self._encoded is None:
            self._encoded = consistency.encoded(self.features, self.frames)
        return self._encoded

    @property
    def flows(self) -> FlowField:
        """The clip's flow field; raises Undefined when the clip is too small for flow."""
        if self._flows is None:
            self._flows = FlowField(self.frames)
        return self._flows

    def flow_note(self) -> str:
        """Says when flow was computed on reduced frames."""
        if self._flows is None or not self._flows.reduced:
            return ""
        height, width = self._flows.frames.shape[1:3]
        return f"flow computed at {width}x{height}"


def measure(
    frames: np.ndarray,
    fps: float,
    *,
    names: Sequence[str] | None = None,
    features: FeatureEncoder | None = None,
    prompt: str | None = None,
    weights: Path | None = None,
) -> ClipMetrics:
    """Measure one clip.

    Args:
        frames: uint8, T x H x W x 3, RGB.
        fps: frames per second of the clip, above 0.
        names: metrics by catalogue name; None measures the default set, the pack's stand-ins when `features` is
            given, and VBench's networks when `weights` is given.
        features: the pack's encoder, for the stand-ins of consistency and (if it encodes text) alignment.
        prompt: the clip's prompt, for alignment.
        weights: folder with the networks' weights; without it the hub's cache is looked at when a network is
            asked for by name. Nothing is ever downloaded.

    Returns:
        What could be measured; the reason of everything else in `skipped`.

    Raises:
        MoEverseError: frames of another kind, no frames, a bad rate, an unknown name.
    """
    started = time.perf_counter()
    check_frames(frames)
    if not (math.isfinite(fps) and fps > 0):
        raise MoEverseError("bad_fps", f"{fps} frames per second is no frame rate.", "Give a rate above 0.")
    context = ClipContext(frames, float(fps), features, prompt, weights)
    result = ClipMetrics(frames=len(frames), fps=float(fps))
    wanted = _wanted(names, features, prompt, weights)
    with _opencv_threads(frames):
        for name in wanted:
            before = time.perf_counter()
            try:
                result.values[name] = _checked(MEASURES[name](context), name)
            except Undefined as reason:
                result.skipped[name] = str(reason)
            result.costs_ms[name] = round((time.perf_counter() - before) * 1000.0, 3)
        _headline(result)
        _flag(result, context)
    result.elapsed_ms = (time.perf_counter() - started) * 1000.0
    return result


@contextmanager
def _opencv_threads(frames: Frames) -> Iterator[None]:
    """One OpenCV thread for small frames: its pool costs more than it brings there, most of all on a busy machine."""
    import cv2

    before = cv2.getNumThreads()
    if frames.shape[1] * frames.shape[2] <= SMALL_PIXELS:
        cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _wanted(
    names: Sequence[str] | None, features: FeatureEncoder | None, prompt: str | None, weights: Path | None
) -> list[str]:
    if names is None:
        chosen = list(DEFAULT_METRICS)
        if features is not None:
            chosen += [n for n in PACK_METRICS if "prompt" not in METRICS[n].needs or prompt]
        if weights is not None:
            chosen += [n for n in NETWORK_METRICS if "prompt" not in METRICS[n].needs or prompt]
        return chosen
    for name in names:
        if name not in METRICS:
            raise MoEverseError(
                "unknown_metric", f"There is no metric {name!r}.", "Known: " + ", ".join(METRICS) + "."
            )
    return list(dict.fromkeys(names))


def _checked(value: MetricValue, name: str) -> MetricValue:
    if value.name != name:
        raise AssertionError(f"{name} came back as {value.name}")
    return value


def _headline(result: ClipMetrics) -> None:
    """Fill the three plain fields; dynamic degree is RAFT's when it was measured, else the flow stand-in's."""
    result.temporal_flickering = result.value("temporal_flickering")
    result.warping_error = result.value("warping_error")
    degree = result.value("dynamic_degree")
    result.dynamic_degree = degree if degree is not None else result.value("dynamic_degree_flow")


def _flag(result: ClipMetrics, clip: ClipContext) -> None:
    """Flags against first-frame collapse, and the motion beside every consistency figure.

    A consistency figure that was asked for alone brings its motion with it: what the flags need is then measured for
    them, and shown nowhere else.
    """
    consistent = [
        value
        for name, value in result.values.items()
        if METRICS[name].dimension in ("subject_consistency", "background_consistency")
    ]

    def known(name: str) -> float | None:
        if name in result.values or name in result.skipped or not consistent:
            return result.value(name)
        try:
            return MEASURES[name](clip).value
        except Undefined:
            return None

    static = result.value("static_clip")
    if static is None:
        static = known("static_clip_flow")
    if known("temporal_flickering") == 1.0:
        result.flags.append("frozen")
        static = 1.0
    if static == 1.0:
        result.flags.append("hardly moves")
    if not consistent:
        return
    motion = known("motion_magnitude")
    at = "at an unknown amount of motion" if motion is None else f"at {motion:.2f} × the movement threshold"
    if "hardly moves" in result.flags:
        at += "; the clip hardly moves, so this figure proves little"
    for value in consistent:
        value.note = f"{value.note}; {at}" if value.note else at


# ------------------------------------------------------------------------------------- one function per metric


def _value(name: str, value: float, series: Floats | Sequence[float], label: str, **more: Any) -> MetricValue:
    if not math.isfinite(value):
        raise Undefined("the result is not a finite number")
    rounded = [float(x) for x in series]
    return MetricValue(
        name=name,
        value=float(value),
        series=rounded,
        series_label=label,
        exactness=METRICS[name].exact,
        **more,
    )


def _temporal_flickering(clip: ClipContext) -> MetricValue:
    value, series = flickering.temporal_flickering(clip.frames)
    return _value("temporal_flickering", value, series, "similarity of frame to next frame")


def _warping(clip: ClipContext, name: str, gap: int) -> MetricValue:
    value, series, lost = warping.warping_error(clip.frames, gap=gap, flows=_flows_if_long(clip, gap + 1))
    notes = [clip.flow_note()]
    if lost:
        notes.append(f"{lost} of {len(series)} pairs could not be followed and count unmasked")
    label = "error to the next frame" if gap == 1 else f"error to the frame {gap} later"
    return _value(name, value, series, label, note="; ".join(n for n in notes if n))


def _flows_if_long(clip: ClipContext, frames_needed: int) -> FlowField:
    """The flow, but the reason "too few frames" comes before "too small"."""
    if len(clip.frames) < frames_needed:
        have = "1 frame" if len(clip.frames) == 1 else f"{len(clip.frames)} frames"
        raise Undefined(f"needs at least {frames_needed} frames, the clip has {have}")
    return clip.flows


def _dynamic_degree_flow(clip: ClipContext) -> MetricValue:
    flows = _flows_if_long(clip, 2)
    value, series = dynamics.dynamic_degree(clip.frames, clip.fps, flows.magnitude)
    return _degree_value("dynamic_degree_flow", clip, value, series)


def _degree_value(name: str, clip: ClipContext, value: float, series: Floats) -> MetricValue:
    stride = max(1, round(clip.fps / 8.0))
    threshold = dynamics.movement_threshold(min(clip.frames.shape[1:3]))
    note = f"moving pairs exceed {threshold:.3g} px"
    return _value(name, value, series, "largest 5 % of flow, pixels", series_stride=stride, note=note)


def _motion_magnitude(clip: ClipContext) -> MetricValue:
    flows = _flows_if_long(clip, 2)
    _, series = dynamics.dynamic_degree(clip.frames, clip.fps, flows.magnitude)
    side = min(clip.frames.shape[1:3])
    value = dynamics.motion_magnitude(series, side)
    return _value(
        "motion_magnitude",
        value,
        series / dynamics.movement_threshold(side),
        "largest 5 % of flow over threshold",
        series_stride=max(1, round(clip.fps / 8.0)),
        note=clip.flow_note(),
    )


def _motion_smoothness_flow(clip: ClipContext) -> MetricValue:
    guess = smoothness.flow_interpolator(clip.frames, _flows_if_long(clip, 3))
    value, series = smoothness.motion_smoothness(clip.frames, guess)
    return _value(
        "motion_smoothness_flow",
        value,
        series,
        "likeness of dropped frame to its guess",
        series_start_frame=1,
        series_stride=2,
        note=clip.flow_note(),
    )


def _imaging_statistics(clip: ClipContext) -> MetricValue:
    value, series, parts = imaging.imaging_statistics(clip.frames)
    note = ", ".join(f"{name.replace('_', ' ')} {part:.2f}" for name, part in parts.items())
    return _value("imaging_statistics", value, series, "picture quality of frame", note=note)


def _colour_drift(clip: ClipContext) -> MetricValue:
    value, series = drift.colour_drift(clip.frames)
    return _value("colour_drift", value, series, "colour distance from the first frame")


def _loop_closure(clip: ClipContext) -> MetricValue:
    value, series, seam = drift.loop_closure(clip.frames)
    note = f"the seam is {seam:.2g} times a usual step" if math.isfinite(seam) else "only the seam moves"
    return _value("loop_closure", value, series, "similarity of frame to first frame", note=note)


def _consistency_pack(clip: ClipContext, name: str) -> MetricValue:
    if name == "background_consistency_pack":
        features = clip.whole_features()
    elif clip.features is None:
        raise Undefined("needs the pack's feature encoder, none was given")
    else:
        try:
            flows: FlowField | None = clip.flows
        except Undefined:  # too small for flow: the middle of the frame
            flows = None
        features = consistency.encoded(clip.features, consistency.subject_frames(clip.frames, flows))
    value, series = consistency.feature_consistency(features)
    return _value(name, value, series, "likeness to the frame before and to the first", series_start_frame=1)


def _text_alignment_pack(clip: ClipContext) -> MetricValue:
    if not isinstance(clip.features, AlignedFeatureEncoder):
        raise Undefined("needs a pack encoder that also encodes text, none was given")
    if not clip.prompt:
        raise Undefined("needs the clip's prompt, none was given")
    text = clip.features.encode_text(clip.prompt)
    value, series = consistency.text_alignment(clip.whole_features(), text)
    return _value("text_alignment_pack", value, series, "nearness of frame to the prompt")


def _static_clip_flow(clip: ClipContext) -> MetricValue:
    flows = _flows_if_long(clip, 2)
    static, series = dynamics.static_by_filter(clip.frames, flows.magnitude)
    return _value("static_clip_flow", float(static), series, "largest 2 % of flow, pixels")


def _network(name: str) -> Callable[[ClipContext], MetricValue]:
    def run(clip: ClipContext) -> MetricValue:
        # imports torch and the network's library only when a network is asked for
        from moe_pipeline.metrics.networks import Inputs
        from moe_pipeline.metrics.networks import score as network_score

        if clip.networks is None:
            clip.networks = Inputs(clip.frames, clip.fps, clip.prompt, clip.weights)
        score = network_score(name, clip.networks)
        if name == "dynamic_degree":
            return _degree_value(name, clip, score.value, score.series)
        return _value(
            name,
            score.value,
            score.series,
            score.label,
            note=score.note,
            series_start_frame=score.start,
            series_stride=score.stride,
        )

    return run


MEASURES: dict[str, Callable[[ClipContext], MetricValue]] = {
    "temporal_flickering": _temporal_flickering,
    "warping_error": lambda clip: _warping(clip, "warping_error", 1),
    "warping_error_8": lambda clip: _warping(clip, "warping_error_8", 8),
    "dynamic_degree_flow": _dynamic_degree_flow,
    "static_clip_flow": _static_clip_flow,
    "motion_magnitude": _motion_magnitude,
    "motion_smoothness_flow": _motion_smoothness_flow,
    "imaging_statistics": _imaging_statistics,
    "colour_drift": _colour_drift,
    "loop_closure": _loop_closure,
    "subject_consistency_pack": lambda clip: _consistency_pack(clip, "subject_consistency_pack"),
    "background_consistency_pack": lambda clip: _consistency_pack(clip, "background_consistency_pack"),
    "text_alignment_pack": _text_alignment_pack,
    **{name: _network(name) for name in NETWORK_METRICS},
}
