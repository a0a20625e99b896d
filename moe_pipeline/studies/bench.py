"""What a clip costs on this machine: warm, cold, to the first preview, in memory. Every figure is measured.

Warm runs go through `MoEVideoPipeline.stream` with previews and files, as the app and the command line use it;
mixture and single model alternate, so that a machine that slows down slows both. A cold run is a new process, from
its start to its exit with the clip on disk (the files may be in the page cache).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.record import Environment, PackIdentity
from moe_pipeline.schema.request import SceneRequest

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.record import RunRecord

PROMPT = "an avatar dancing in a neon city street at night"
BUSY_SHARE = 0.25  # load average per core from which the figures say that the machine was not quiet
Say = Callable[[str], None]


class BenchFigure(BaseModel):
    """One measured figure: median of `runs`, in `unit`, beside the project's own target for two quiet cores."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    unit: Literal["s", "GB"]
    runs: tuple[float, ...] = Field(min_length=1)
    target: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def within(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        return None if self.target is None else self.median <= self.target


class Machine(BaseModel):
    """What ran the benchmark, and how busy it was (load average of the last minute, before and after)."""

    model_config = ConfigDict(frozen=True)

    cpu: str
    cores: int
    memory_gb: float | None
    load_before: float | None
    load_after: float | None


class BenchReport(BaseModel):
    """Everything measured, with the environment it holds for."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    created: str
    command: str
    prompt: str
    figures: tuple[BenchFigure, ...]
    stages_ms: dict[str, dict[str, float]] = Field(description="mode -> stage -> median wall time")
    pack: PackIdentity
    environment: Environment
    machine: Machine
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Warm:
    """One warm run as its consumer saw it, seconds since the request."""

    total_s: float
    preview_s: float
    record: RunRecord


def bench(
    pipeline: MoEVideoPipeline,
    pack: Path | None = None,
    *,
    repeats: int = 5,
    cold_repeats: int = 3,
    prompt: str = PROMPT,
    say: Say = lambda text: None,
) -> BenchReport:
    """Measure this machine.

    Args:
        pipeline: the pipeline of `pack`, freshly opened; it is warmed up here.
        pack: the pack's folder for the cold processes; None: the embedded one.
        repeats: warm runs of each mode, 1 to 100.
        cold_repeats: new processes, 0 to 20; with 0 there is neither a cold nor a memory figure.
        say: gets a line as each part begins.

    Raises:
        MoEverseError: a count out of range, a broken pack, a cold process that failed.
    """
    _check_counts(repeats, cold_repeats)
    load_before = _load()
    cold = []
    for index in range(cold_repeats):
        say(f"cold start {index + 1} of {cold_repeats}")
        cold.append(cold_run(prompt, pack))
    say("warming up")
    modes: tuple[Literal["moe", "single"], ...] = ("moe", "single")
    warm: dict[str, list[_Warm]] = {mode: [] for mode in modes}
    for mode in modes:
        warm_run(pipeline, SceneRequest(prompt=prompt, mode=mode))
    for index in range(repeats):
        say(f"warm run {index + 1} of {repeats}")
        for mode in modes:
            warm[mode].append(warm_run(pipeline, SceneRequest(prompt=prompt, mode=mode)))
    record = warm["moe"][0].record
    own = pipeline.manifest.kind == "embedded"  # the targets are for the pack that comes with the project
    machine = describe_machine(load_before)
    return BenchReport(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=f"python -m moe_pipeline bench --repeats {repeats} --cold {cold_repeats}"
        + ("" if pack is None else f" --pack {pack.name}"),
        prompt=prompt,
        figures=_figures(warm["moe"], warm["single"], cold, targets=own),
        stages_ms={mode: stage_medians([run.record for run in runs]) for mode, runs in warm.items()},
        pack=record.pack,
        environment=record.environment,
        machine=machine,
        notes=_notes(machine),
    )


def _check_counts(repeats: int, cold_repeats: int) -> None:
    for name, value, low, high in (("repeats", repeats, 1, 100), ("cold", cold_repeats, 0, 20)):
        if not low <= value <= high:
            raise MoEverseError("bad_repeats", f"bench: {name} must be {low} to {high}, got {value}.")


def warm_run(pipeline: MoEVideoPipeline, request: SceneRequest) -> _Warm:
    """One request through the stream, timed where a consumer stands."""
    preview_s: float | None = None
    with tempfile.TemporaryDirectory(prefix="moeverse-bench-") as folder:
        began = time.perf_counter()
        for event in pipeline.stream(request, out=Path(folder), previews=True):
            if event.kind == "step" and event.preview is not None and preview_s is None:
                preview_s = time.perf_counter() - began
            elif event.kind == "failed":
                raise MoEverseError(event.code, event.message)
            elif event.kind == "finished":
                total_s = time.perf_counter() - began
                if preview_s is None:
                    raise MoEverseError("no_preview", "The stream finished without a preview.")
                return _Warm(total_s, preview_s, event.clip.record)
    raise MoEverseError("cancelled", "The run was cancelled.")


def cold_run(prompt: str, pack: Path | None) -> tuple[float, float | None]:
    """Seconds from the start of a new process to its exit with the clip on disk, and its peak memory in GB."""
    with tempfile.TemporaryDirectory(prefix="moeverse-bench-") as folder:
        command = [sys.executable, "-m", "moe_pipeline", "generate", prompt, "--out", folder, "--json"]
        if pack is not None:
            command += ["--pack", str(pack.resolve() if pack.exists() else pack)]
        root = Path(__file__).resolve().parents[2]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MoEverseError("cold_run_failed", f"The cold process failed: {lines[-1]}")
    peak = json.loads(done.stdout)["timing"].get("peak_rss_bytes")
    return seconds, None if peak is None else peak / 1e9


def _figures(
    moe: Sequence[_Warm],
    single: Sequence[_Warm],
    cold: Sequence[tuple[float, float | None]],
    *,
    targets: bool = True,
) -> tuple[BenchFigure, ...]:
    figures = [
        BenchFigure(
            name="default_clip_warm_s",
            title="default clip, mixture, warm",
            unit="s",
            runs=tuple(run.total_s for run in moe),
            target=2.5,
        ),
        BenchFigure(
            name="single_clip_warm_s",
            title="default clip, single model, warm",
            unit="s",
            runs=tuple(run.total_s for run in single),
            target=1.5,
        ),
        BenchFigure(
            name="first_preview_s",
            title="request to first preview, mixture, warm",
            unit="s",
            runs=tuple(run.preview_s for run in moe),
            target=0.5,
        ),
    ]
    if cold:
        runs = tuple(seconds for seconds, _ in cold)
        title = "process start to first clip"
        figures.append(BenchFigure(name="cold_start_s", title=title, unit="s", runs=runs, target=25.0))
    peaks = tuple(peak for _, peak in cold if peak is not None)
    if peaks:
        title = "peak memory of that process"
        figures.append(BenchFigure(name="peak_memory_gb", title=title, unit="GB", runs=peaks, target=2.5))
    return tuple(figures if targets else (figure.model_copy(update={"target": None}) for figure in figures))


def stage_medians(records: Sequence[RunRecord]) -> dict[str, float]:
    """Median wall time of each stage over runs, and of one denoising step over all of their steps."""
    stages = ("encode_prompt_ms", "gate_ms", "place_ms", "denoise_ms", "decode_ms", "metrics_ms", "export_ms")
    found = {name: statistics.median(getattr(record.timing, name) for record in records) for name in stages}
    found["step_ms"] = statistics.median(step.ms for record in records for step in record.timing.steps)
    return found


def describe_machine(load_before: float | None) -> Machine:
    """Processor, cores that this process may use, memory and load."""
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=_memory_gb(),
        load_before=load_before,
        load_after=_load(),
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        return None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _notes(machine: Machine) -> tuple[str, ...]:
    if machine.load_before is not None and machine.load_before > BUSY_SHARE * machine.cores:
        return (
            f"The machine was busy before the benchmark began (load {machine.load_before:.1f} on {machine.cores} "
            "cores): a quiet one is faster.",
        )
    return ()
