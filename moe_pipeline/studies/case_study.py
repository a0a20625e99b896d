"""The case study: complex multi-subject scenes, one single model against the mixture with decomposition.

Both modes get the same prompts and the same seeds; every clip is written under VBench's file name, every figure is
kept, and the differences are paired. A clip that exists already, from the same pack and request, is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe_pipeline.atomic import write_text
from moe_pipeline.metrics import METRICS, measure
from moe_pipeline.metrics.latency import ResourceMeter, latency_of
from moe_pipeline.metrics.weights import state_of
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipMetrics, LatencyMetrics
from moe_pipeline.schema.record import Environment, PackIdentity
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.studies.bootstrap import Interval, paired_interval
from moe_pipeline.studies.case_prompts import CASE_PROMPTS
from moe_pipeline.studies.evaluation_files import prepare_folder
from moe_pipeline.video import write_mp4

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.record import RunRecord

Mode = Literal["moe", "single"]
MODES: tuple[Mode, Mode] = ("single", "moe")
Progress = Callable[[int, int, str], None]
"""Called after each clip: how many are done, of how many, and what it was."""


class CaseRun(BaseModel):
    """One clip of the study."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    prompt_index: int
    seed: int
    mode: Mode
    clip: str = Field(description="Path inside the output folder.")
    active: list[str] = Field(description="Experts that took part.")
    weights: dict[str, float] = Field(description="Mean gate weight of each.")
    subtasks: list[str]
    warnings: list[str]
    metrics: ClipMetrics
    latency: LatencyMetrics
    environment: Environment
    pack: PackIdentity


class CaseComparison(BaseModel):
    """One metric over all pairs: mixture minus single model."""

    name: str
    single_mean: float
    moe_mean: float
    difference: float = Field(description="Mean of the paired differences, mixture minus single.")
    low: float
    high: float
    prompts: int
    pairs: int
    left_out: int = Field(description="Pairs in which one of the two clips has no value.")
    wins: float = Field(description="Share of pairs in which the mixture is better; ties count half.")
    verdict: Literal["mixture better", "single better", "undecided", "differs", "no difference"]


class CaseStudyReport(BaseModel):
    """All runs and comparisons of one study."""

    schema_version: int = 1
    pack: PackIdentity
    environment: Environment
    prompts: list[str]
    seeds: list[int]
    runs: list[CaseRun]
    comparisons: dict[str, CaseComparison]
    moving_only: dict[str, CaseComparison] = Field(
        description="The same over the pairs in which neither clip hardly moves."
    )
    latency: dict[str, CaseComparison]
    aligned: bool = Field(description="Whether a figure of text alignment was available.")
    elapsed_s: float
    written: list[str] = Field(default_factory=list)


def case_study(
    out: str | os.PathLike[str],
    *,
    pack: Path | None = None,
    prompts: Sequence[str] | None = None,
    seeds: int = 3,
    steps: int | None = None,
    weights: Path | None = None,
    progress: Progress | None = None,
    pipeline: MoEVideoPipeline | None = None,
) -> CaseStudyReport:
    """Run the study and write report.md, report.json, figures and clips into `out`.

    Args:
        out: output folder; an interrupted study goes on where it stopped.
        pack: a pack's folder; None takes the embedded one.
        prompts: None takes CASE_PROMPTS.
        seeds: seeds per prompt, 0 to seeds - 1.
        steps: denoising steps; None takes the pack's default.
        weights: folder with the weights of VBench's networks, measured as well where they are at hand.
        progress: called after each clip.
        pipeline: one that is loaded already, instead of `pack`.

    Raises:
        MoEverseError: no prompts, no seeds, a bad prompt, an unwritable folder, a broken pack.
    """
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.studies import case_figures, case_report

    started = time.perf_counter()
    scenes = list(CASE_PROMPTS if prompts is None else prompts)
    if not scenes or seeds < 1:
        raise MoEverseError(
            "empty_study",
            f"{len(scenes)} prompts with {seeds} seeds leave nothing to compare.",
            "Give at least one prompt and one seed.",
        )
    requests = {
        (p, s, mode): SceneRequest.parse(prompt=prompt, seed=s, steps=steps, mode=mode)
        for p, prompt in enumerate(scenes)
        for s in range(seeds)
        for mode in MODES
    }
    folder = prepare_folder(Path(out))
    pipeline = pipeline or MoEVideoPipeline.from_pack(pack)
    for request in requests.values():
        pipeline.resolve(request)  # every refusal before the first clip
    runs = _all_runs(pipeline, requests, folder, weights, progress)
    report = compare_runs(runs, scenes, list(range(seeds)))
    report.elapsed_s = time.perf_counter() - started
    report.written = [*case_figures.write_figures(report, folder), "report.md", "report.json"]
    write_text(folder / "report.md", case_report.markdown(report))
    write_text(folder / "report.json", report.model_dump_json(indent=1))
    return report


# --------------------------------------------------------------------------------------------------- runs


def _all_runs(
    pipeline: MoEVideoPipeline,
    requests: dict[tuple[int, int, Mode], SceneRequest],
    folder: Path,
    weights: Path | None,
    progress: Progress | None,
) -> list[CaseRun]:
    runs: list[CaseRun] = []
    warm = False
    for (p, s, mode), request in requests.items():
        file = folder / "runs" / f"{mode}-{p:02d}-{s}-{_fingerprint(pipeline, request, weights)}.json"
        run = _stored(file, folder)
        if run is None:
            if not warm:
                _warm_up(pipeline, request)
                warm = True
            run = _make(pipeline, request, p, folder, weights)
            write_text(file, run.model_dump_json(indent=1))
        runs.append(run)
        if progress is not None:
            progress(len(runs), len(requests), f"{mode}, seed {s}: {request.prompt}")
    return runs


def _warm_up(pipeline: MoEVideoPipeline, request: SceneRequest) -> None:
    """One step in both modes, so that loading weights does not count as the first clip's latency."""
    for mode in MODES:
        pipeline.generate(request.model_copy(update={"mode": mode, "steps": 1}))


def _fingerprint(pipeline: MoEVideoPipeline, request: SceneRequest, weights: Path | None) -> str:
    """What decides a run: the resolved request, the pack's hash, the weights at hand, the metric names."""
    parts = [
        pipeline.resolve(request).model_dump(mode="json"),
        pipeline.pack.sha256,
        None if weights is None else [str(weights), *state_of(weights)],
        sorted(METRICS),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _stored(file: Path, folder: Path) -> CaseRun | None:
    """A run of an earlier, interrupted study whose clip still exists."""
    try:
        run = CaseRun.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    return run if (folder / run.clip).is_file() else None


def _make(
    pipeline: MoEVideoPipeline,
    request: SceneRequest,
    index: int,
    folder: Path,
    weights: Path | None,
) -> CaseRun:
    with ResourceMeter() as meter:
        clip = pipeline.generate(request)
    record = clip.record
    name = f"clips/{request.mode}/{clip_name(request.prompt, request.seed or 0)}"
    write_mp4(clip.frames, folder / name, record.clip.fps, {"comment": record.model_dump_json()})
    metrics = record.metrics
    if weights is not None:
        metrics = measure(
            clip.frames,
            float(record.clip.fps),
            features=pipeline.features,
            prompt=request.prompt,
            weights=weights,
        )
    return CaseRun(
        prompt=request.prompt,
        prompt_index=index,
        seed=request.seed or 0,
        mode=request.mode,
        clip=name,
        active=list(record.gate.active),
        weights=dict(record.gate.weights),
        subtasks=[part.text for part in record.plan.subtasks],
        warnings=list(record.warnings),
        metrics=metrics,
        latency=_latency(record, meter),
        environment=record.environment,
        pack=record.pack,
    )


def _latency(record: RunRecord, meter: ResourceMeter) -> LatencyMetrics:
    return latency_of(record, meter.resources)


def clip_name(prompt: str, seed: int) -> str:
    """VBench's file name PROMPT-INDEX.mp4; characters that no file system takes become spaces."""
    safe = "".join(" " if c in '/\\:*?"<>|' or ord(c) < 32 else c for c in prompt).strip()
    while len(safe.encode()) > 180:
        safe = safe[:-1]
    return f"{safe}-{seed}.mp4"


# ------------------------------------------------------------------------------------------------ comparison


def compare_runs(runs: list[CaseRun], prompts: list[str], seeds: list[int]) -> CaseStudyReport:
    """Paired comparisons of every metric and of the latency figures."""
    pairs = _pairs(runs)
    moving = [pair for pair in pairs if not any("hardly moves" in run.metrics.flags for run in pair)]
    names = [name for name in METRICS if any(name in run.metrics.values for run in runs)]
    comparisons, moving_only = _comparisons(names, pairs), {}
    if len(moving) < len(pairs):
        moving_only = _comparisons(names, moving)
        _judge_consistency(comparisons, moving_only)
    return CaseStudyReport(
        pack=runs[0].pack,
        environment=runs[0].environment,
        prompts=prompts,
        seeds=seeds,
        runs=runs,
        comparisons=comparisons,
        moving_only=moving_only,
        latency=_latency_comparisons(pairs),
        aligned=any(METRICS[name].dimension == "overall_consistency" for name in names),
        elapsed_s=0.0,
    )


def _judge_consistency(
    comparisons: dict[str, CaseComparison], moving_only: dict[str, CaseComparison]
) -> None:
    """A clip that stands still must not win consistency: where some do, pairs in which both clips move decide it."""
    for name, found in comparisons.items():
        if METRICS[name].dimension in ("subject_consistency", "background_consistency"):
            found.verdict = moving_only[name].verdict if name in moving_only else "undecided"


def _pairs(runs: list[CaseRun]) -> list[tuple[CaseRun, CaseRun]]:
    """(single, mixture) of each prompt and seed."""
    by_key = {(run.prompt_index, run.seed, run.mode): run for run in runs}
    return [
        (run, by_key[run.prompt_index, run.seed, "moe"])
        for run in runs
        if run.mode == "single" and (run.prompt_index, run.seed, "moe") in by_key
    ]


def _comparisons(names: list[str], pairs: list[tuple[CaseRun, CaseRun]]) -> dict[str, CaseComparison]:
    found = {}
    for name in names:
        values = [(s, s.metrics.value(name), m.metrics.value(name)) for s, m in pairs]
        comparison = _comparison(name, METRICS[name].direction, values)
        if comparison is not None:
            found[name] = comparison
    return found


LATENCY_FIGURES: dict[str, str] = {
    "time_to_first_preview_ms": "first preview",
    "total_ms": "whole run",
    "step_p50_ms": "denoising step, median",
    "step_p95_ms": "denoising step, 95th percentile",
    "real_time_factor": "real-time factor",
    "peak_rss_bytes": "peak memory",
    "peak_cuda_bytes": "peak CUDA memory",
    "energy_j": "energy",
}


def _latency_comparisons(pairs: list[tuple[CaseRun, CaseRun]]) -> dict[str, CaseComparison]:
    found = {}
    for field in LATENCY_FIGURES:
        values = [(s, getattr(s.latency, field), getattr(m.latency, field)) for s, m in pairs]
        comparison = _comparison(field, "lower", values)
        if comparison is not None:
            found[field] = comparison
    return found


def _comparison(
    name: str, direction: str, values: list[tuple[CaseRun, float | None, float | None]]
) -> CaseComparison | None:
    """Statistics of one figure; None when no pair has it on both sides."""
    differences: dict[str, list[float]] = {}
    singles, mixtures, wins = [], [], []
    sign = -1.0 if direction == "lower" else 1.0
    for run, single, mixture in values:
        if single is None or mixture is None:
            continue
        differences.setdefault(run.prompt, []).append(mixture - single)
        singles.append(single)
        mixtures.append(mixture)
        wins.append(0.5 if mixture == single else float(sign * (mixture - single) > 0))
    interval = paired_interval(differences)
    if interval is None:
        return None
    return CaseComparison(
        name=name,
        single_mean=sum(singles) / len(singles),
        moe_mean=sum(mixtures) / len(mixtures),
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        prompts=interval.prompts,
        pairs=interval.pairs,
        left_out=len(values) - interval.pairs,
        wins=sum(wins) / len(wins),
        verdict=_verdict(direction, interval),
    )


def _verdict(
    direction: str, interval: Interval
) -> Literal["mixture better", "single better", "undecided", "differs", "no difference"]:
    """What the interval allows to say; a metric without a better side only differs or does not."""
    if direction == "none":
        return "differs" if interval.decided else "no difference"
    if not interval.decided:
        return "undecided"
    mixture_higher = interval.mean > 0
    return "mixture better" if mixture_higher == (direction == "higher") else "single better"
