"""Measure any number of clips: parallel, resumable, one bad clip never stops the others.

`evaluate` is the engine behind the command of that name. Each clip's result is written as soon as it is known, under
a name made from the clip's content and the settings, so an interrupted evaluation goes on where it stopped and a
changed clip is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from moe_pipeline._version import __version__
from moe_pipeline.atomic import write_text
from moe_pipeline.metrics import METRICS, FeatureEncoder, measure
from moe_pipeline.metrics.aggregate import DIMENSIONS, missing_for, quality_score
from moe_pipeline.metrics.catalogue import NETWORK_METRICS
from moe_pipeline.metrics.weights import state_of
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipEvaluation, EvaluationReport, MetricSummary
from moe_pipeline.studies import clip_sources, evaluation_files
from moe_pipeline.video import read_video

Progress = Callable[[int, int, ClipEvaluation], None]
"""Called after each clip: how many are done, of how many, and the clip."""


@dataclass(frozen=True)
class Settings:
    """What decides a clip's figures beside its content; picklable, sent to each worker."""

    names: tuple[str, ...] | None = None
    weights: str | None = None
    max_frames: int | None = None
    features: Callable[[], FeatureEncoder] | None = (
        None  # a module-level function: workers are fresh processes
    )
    weights_state: tuple[str, ...] = ()  # which networks' files are at hand, where networks are asked for
    features_state: str = ""  # hash of the embedded pack, whose encoder the features come from

    def fingerprint(self, prompt: str | None) -> str:
        """Hash of the settings, the prompt and the code version: half of a result's file name."""
        maker = None if self.features is None else f"{self.features.__module__}.{self.features.__qualname__}"
        parts = [__version__, self.names, self.weights, self.max_frames, maker, prompt, sorted(METRICS)]
        if self.weights_state:
            parts.append(self.weights_state)
        if self.features_state:
            parts.append(self.features_state)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def evaluate(
    paths: Sequence[str | os.PathLike[str]],
    prompt: str | None = None,
    prompts: str | os.PathLike[str] | Mapping[str, str] | None = None,
    out: str | os.PathLike[str] | None = None,
    layout: Literal["plain", "vbench"] = "plain",
    workers: int | None = None,
    progress: Progress | None = None,
    *,
    names: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    max_frames: int | None = None,
    features: Callable[[], FeatureEncoder] | None = None,
) -> EvaluationReport:
    """Measure clips.

    Args:
        paths: video files, folders of frames, or folders of clips.
        prompt: one prompt for all clips.
        prompts: JSON file {file name: prompt}, or that mapping; goes before file names of the form PROMPT-INDEX.mp4
            and before the record inside a clip of this project.
        out: folder for results.json, results.csv, series.csv and one JSON per clip; None writes nothing.
        layout: "vbench" also writes VBench's own two result files, with VBench's exact dimensions only.
        workers: processes; None takes one per core, never more than clips.
        progress: called in this process after each clip.
        names, weights, features: as in `measure`; `features` is a module-level function that makes the encoder.
        max_frames: measure only the first so many frames of each clip.

    Raises:
        MoEverseError: nothing to measure, a bad prompts file, an unwritable folder, an unknown metric.
    """
    started = time.perf_counter()
    _check_arguments(names, workers, layout, out, prompt, prompts, max_frames)
    settings = Settings(
        None if names is None else tuple(names),
        None if weights is None else str(weights),
        max_frames,
        features,
        _weights_state(names, weights),
        "" if features is None else _features_state(),
    )
    sources = clip_sources.find_clips(paths, clip_sources.prompt_rule(prompt, prompts))
    folder = None if out is None else evaluation_files.prepare_folder(Path(out))
    results = _measure_all(sources, settings, folder, workers, progress)
    report = summarise(results)
    report.elapsed_s = time.perf_counter() - started
    if folder is not None:
        report.written = evaluation_files.write_report(report, folder, vbench=layout == "vbench")
    return report


def _weights_state(names: Sequence[str] | None, weights: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """State of the networks' files, so that weights which came later are used and not hidden by an old result."""
    if weights is None and not set(names or ()) & set(NETWORK_METRICS):
        return ()
    return tuple(state_of(None if weights is None else Path(weights)))


def _features_state() -> str:
    """Hash of the embedded pack, so that features of an older one do not pass for those of the pack that is here."""
    from moe_pipeline.packs import open_any_pack

    try:
        return open_any_pack().sha256
    except MoEverseError:
        return ""  # an encoder that needs the pack says so itself, clip by clip


def _check_arguments(
    names: Sequence[str] | None,
    workers: int | None,
    layout: str,
    out: object,
    prompt: str | None,
    prompts: object,
    max_frames: int | None,
) -> None:
    for name in names or ():
        if name not in METRICS:
            raise MoEverseError(
                "unknown_metric", f"There is no metric {name!r}.", "Known: " + ", ".join(METRICS)
            )
    if max_frames is not None and max_frames < 1:
        raise MoEverseError(
            "bad_frame_limit", f"A limit of {max_frames} frames leaves nothing to read.", "Give at least 1."
        )
    if workers is not None and workers < 1:
        raise MoEverseError("bad_workers", f"{workers} workers cannot measure.", "Give at least 1.")
    if layout not in ("plain", "vbench"):
        raise MoEverseError("unknown_layout", f"There is no layout {layout!r}.", "Use plain or vbench.")
    if layout == "vbench" and out is None:
        raise MoEverseError(
            "layout_without_folder",
            "VBench's layout is files, and no folder was given.",
            "Give an output folder.",
        )
    if prompt is not None and prompts is not None:
        raise MoEverseError(
            "two_prompts",
            "One prompt for all clips and a prompts file exclude each other.",
            "Give one of them.",
        )


# ------------------------------------------------------------------------------------------------ measuring


def evaluate_clip(source: ClipEvaluation, settings: Settings) -> ClipEvaluation:
    """Read and measure one clip; every failure becomes its `error` sentence."""
    result = source.model_copy(deep=True)
    if result.error is not None:
        return result
    try:
        clip = read_video(source.path, settings.max_frames)
        result.frames, result.height, result.width = clip.frames.shape[:3]
        result.fps, result.notes = clip.fps, list(clip.notes)
        if settings.max_frames is not None and result.frames == settings.max_frames:
            result.notes.append(f"Only the first {result.frames} frames were asked for.")
        result.metrics = measure(
            clip.frames,
            clip.fps,
            names=settings.names,
            features=_encoder(settings.features),
            prompt=source.prompt,
            weights=None if settings.weights is None else Path(settings.weights),
        )
    except MoEverseError as error:
        result.error, result.error_code = error.sentence(), error.code
    except MemoryError:
        result.error = f"{source.name} does not fit into memory. Limit the frames, or scale it down."
        result.error_code = "out_of_memory"
    except Exception as error:  # the border of a worker: one clip's surprise must not end the others
        logging.getLogger(__name__).exception("measuring %s failed", source.path)
        result.error = (
            f"{source.name} could not be measured ({type(error).__name__}). The log has the details."
        )
        result.error_code = "unexpected"
    return result


_ENCODERS: dict[Callable[[], FeatureEncoder], FeatureEncoder] = {}


def _encoder(maker: Callable[[], FeatureEncoder] | None) -> FeatureEncoder | None:
    """The worker's encoder, made once in its process."""
    if maker is None:
        return None
    if maker not in _ENCODERS:
        _ENCODERS[maker] = maker()
    return _ENCODERS[maker]


def _prepare_worker() -> None:
    """One thread a process: the processes are the parallelism."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import cv2

    cv2.setNumThreads(1)


def _measure_all(
    sources: list[ClipEvaluation],
    settings: Settings,
    folder: Path | None,
    workers: int | None,
    progress: Progress | None,
) -> list[ClipEvaluation]:
    results: dict[int, ClipEvaluation] = {}

    def done(index: int, result: ClipEvaluation) -> None:
        results[index] = result
        if folder is not None and not result.reused and result.sha256:
            _store(folder, result, settings)
        if progress is not None:
            progress(len(results), len(sources), result)

    waiting = []
    for index, source in enumerate(sources):
        stored = None if folder is None else _load(folder, source, settings)
        if stored is not None:
            done(index, stored)
        else:
            waiting.append(index)
    count = min(workers or os.cpu_count() or 1, len(waiting))
    if count <= 1:
        for index in waiting:
            done(index, evaluate_clip(sources[index], settings))
    else:
        _in_processes(waiting, sources, settings, count, done)
    return [results[index] for index in range(len(sources))]


def _in_processes(
    waiting: list[int],
    sources: list[ClipEvaluation],
    settings: Settings,
    count: int,
    done: Callable[[int, ClipEvaluation], None],
) -> None:
    """Measure in fresh processes (spawned: threads of this one must not be forked).

    A clip that kills its process (out of memory, a decoder's crash) breaks the pool for all; what is left is then
    measured with a process per clip, and the one that dies again is named.
    """
    left = dict.fromkeys(waiting)
    try:
        for index, result in _pooled(list(left), sources, settings, count):
            del left[index]
            done(index, result)
    except BrokenProcessPool:
        for index in list(left):
            try:
                for _, result in _pooled([index], sources, settings, 1):
                    done(index, result)
            except BrokenProcessPool:
                dead = sources[index].model_copy()
                dead.error = f"The process that measured {dead.name} died. Check its size and free memory."
                dead.error_code = "worker_died"
                done(index, dead)


def _pooled(
    indices: Iterable[int], sources: list[ClipEvaluation], settings: Settings, count: int
) -> Iterable[tuple[int, ClipEvaluation]]:
    """Results in the order they finish; at most two clips a worker are in flight, so stopping is quick."""
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_prepare_worker)
    running: dict[Future[ClipEvaluation], int] = {}
    queue = list(reversed(list(indices)))
    try:
        while queue or running:
            while queue and len(running) < 2 * count:
                index = queue.pop()
                running[pool.submit(evaluate_clip, sources[index], settings)] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                yield index, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result_file(folder: Path, clip: ClipEvaluation, settings: Settings) -> Path:
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(clip.name).stem)[:60]
    where = hashlib.sha256(clip.path.encode()).hexdigest()[:6]  # two clips may share name and content
    return folder / "clips" / f"{stem}-{clip.sha256[:12]}-{where}-{settings.fingerprint(clip.prompt)}.json"


def _store(folder: Path, result: ClipEvaluation, settings: Settings) -> None:
    write_text(_result_file(folder, result, settings), result.model_dump_json(indent=1))


def _load(folder: Path, source: ClipEvaluation, settings: Settings) -> ClipEvaluation | None:
    """An earlier result of the same content and settings; a failure is tried again, a half-written file ignored."""
    if not source.sha256:
        return None
    try:
        stored = ClipEvaluation.model_validate_json(_result_file(folder, source, settings).read_bytes())
    except (OSError, ValidationError):
        return None
    if stored.metrics is None:
        return None
    stored.reused = True
    return stored


# ------------------------------------------------------------------------------------------------ summary


def summarise(clips: list[ClipEvaluation]) -> EvaluationReport:
    """Means over clips, each with its count and the reasons of those that do not count."""
    names = [name for name in METRICS if any(_has(clip, name) for clip in clips)]
    report = EvaluationReport(clips=clips, summary={name: _summary_of(name, clips) for name in names})
    exact = {
        name: evaluation_files.vbench_average(
            name, clips
        )  # what VBench's script reads, not the mean over clips
        for name in report.summary
        if name in DIMENSIONS and DIMENSIONS[name].group == "quality"
    }
    missing = missing_for("quality", exact)
    uneven = [name for name in exact if report.summary[name].measured < report.summary[name].of]
    if missing:
        report.vbench_quality_note = (
            "VBench's Quality needs " + ", ".join(missing) + " by VBench's own networks."
        )
    elif uneven:
        report.vbench_quality_note = (
            "VBench's Quality is left out: not every clip has " + ", ".join(uneven) + "."
        )
    else:
        report.vbench_quality = quality_score(exact)
    return report


def _has(clip: ClipEvaluation, name: str) -> bool:
    return clip.metrics is not None and name in clip.metrics.values


def _summary_of(name: str, clips: list[ClipEvaluation]) -> MetricSummary:
    values, missing = [], {}
    for clip in clips:
        if clip.metrics is None:
            missing[clip.name] = clip.error or "not measured"
        elif name in clip.metrics.values:
            values.append(clip.metrics.values[name].value)
        else:
            missing[clip.name] = clip.metrics.skipped.get(name, "not asked for")
    mean = sum(values) / len(values)
    return MetricSummary(
        name=name,
        mean=mean,
        std=(sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5,
        low=min(values),
        high=max(values),
        measured=len(values),
        of=len(clips),
        missing=missing,
        exactness=METRICS[name].exact,
    )
