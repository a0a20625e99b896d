"""A sample run for tests of the views: frames by rule, real metrics, a real placement, a gate made by hand.

No model made this; it exists so that views can be looked at and tested without one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from moe_pipeline import interfaces as ev
from moe_pipeline.edge import load_profiles, place
from moe_pipeline.metrics import METRICS, measure
from moe_pipeline.schema.gate import GateDecision, StepGate, SubtaskGate
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan, Subtask
from moe_pipeline.schema.record import ClipInfo, Environment, PackIdentity, RunRecord, RunTiming, StepTiming
from moe_pipeline.schema.request import DEFAULT_SCENARIO, Mode, ResolvedRequest
from moe_pipeline.schema.workload import StageWorkloads, Workload
from moe_pipeline.ui.palette import Palette, Tone
from moe_pipeline.ui.view_state import Scene

PROMPT = "an avatar dancing in a neon city street at night"
STEPS = 16
TONES = (
    Tone("city", "City", "#e0457b", "Streets and skylines."),
    Tone("landscape", "Landscape", "#2e9e5b", "Hills and coasts."),
    Tone("interior", "Interior", "#c7811f", "Rooms and halls."),
    Tone("space", "Space", "#6a5acd", "Planets and nebulae."),
    Tone("object", "Object", "#1f9fb3", "Solids and vehicles."),
    Tone("avatar", "Avatar", "#d0542c", "People and robots."),
    Tone("generalist", "Generalist", "#8a8f98", "All domains."),
)
PALETTE = Palette(TONES, "generalist")


@cache
def scene() -> Scene:
    """Palette, shipped scenarios and networks, metric catalogue."""
    profiles = load_profiles()
    return Scene(PALETTE, list(profiles.scenarios.values()), profiles, METRICS, DEFAULT_SCENARIO)


def sample_request(mode: Mode = "moe") -> ResolvedRequest:
    return ResolvedRequest(
        prompt=PROMPT, seed=7, steps=STEPS, guidance=3.0, top_k=2, mode=mode, frames=16, width=128, height=128,
        fps=8, scenario=DEFAULT_SCENARIO, objective="latency",
    )  # fmt: skip


def sample_plan() -> ScenePlan:
    return ScenePlan(
        prompt=PROMPT,
        subtasks=(
            Subtask(id="s1", role="subject", text=PROMPT[:17], span=(0, 17), region="centre", share=0.45),
            Subtask(id="b1", role="background", text=PROMPT[21:], span=(21, len(PROMPT)), share=0.55),
        ),
    )


def _by_step(sigmas: np.ndarray, rows: list[dict[str, float]]) -> tuple[StepGate, ...]:
    pairs = enumerate(zip(sigmas, rows, strict=True))
    return tuple(StepGate(index=i, sigma=float(sigma), weights=row) for i, (sigma, row) in pairs)


def sample_gate(coverage: float = 0.82, mode: Mode = "moe") -> GateDecision:
    """City leads while noise is high, the avatar takes over towards the clean clip."""
    sigmas = np.linspace(1.0, 0.06, STEPS)
    if mode == "single":
        rows = [{"generalist": 1.0} for _ in sigmas]
        return GateDecision(
            gate="none", weights={"generalist": 1.0}, active=("generalist",), coverage=coverage, low_coverage=False,
            by_subtask=(),
            by_step=_by_step(sigmas, rows),
        )  # fmt: skip
    names = [tone.id for tone in TONES[:-1]]
    city = [0.35 + 0.4 * s for s in sigmas]
    rows = [{name: 0.0 for name in names} | {"city": c, "avatar": 1 - c} for c in city]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    return GateDecision(
        gate="text-sigma",
        weights=mean,
        active=("city", "avatar"),
        coverage=coverage,
        low_coverage=coverage < 0.35,
        by_subtask=(
            SubtaskGate(subtask="s1", weights={"avatar": 0.86, "object": 0.08, "city": 0.06}),
            SubtaskGate(subtask="b1", weights={"city": 0.91, "avatar": 0.05, "interior": 0.04}),
        ),
        by_step=_by_step(sigmas, rows),
    )


def _work(stage: str, gflop: float, mbytes: float, sent: int, received: int) -> Workload:
    moved = int(mbytes * 1e6)
    return Workload(
        stage=stage, flops=int(gflop * 1e9), bytes_moved=moved, weight_bytes=moved // 3, peak_memory_bytes=moved // 2,
        input_bytes=sent, output_bytes=received, kernels=120,
    )  # fmt: skip


def sample_workloads() -> StageWorkloads:
    return StageWorkloads(
        text=_work("text", 0.5, 60, 512, 48_000), expert_step=_work("expert_step", 9, 55, 32_768, 32_768),
        exchange=_work("exchange", 0.001, 0.2, 65_536, 32_768), decode=_work("decode", 40, 90, 32_768, 800_000),
        export=_work("export", 0.5, 3, 800_000, 60_000), latent_bytes=32_768, frames=16, width=128, height=128,
    )  # fmt: skip


@cache
def sample_placement(killed: frozenset[str] = frozenset(), bandwidth_scale: float = 1.0) -> Placement:
    """The shipped policy's own answer for the sample workload."""
    profiles = load_profiles()
    return place(
        sample_workloads(), ("city", "avatar"), profiles.scenario(DEFAULT_SCENARIO), profiles, steps=STEPS,
        killed=killed, bandwidth_scale=bandwidth_scale,
    )  # fmt: skip


def sample_frames(shift: float = 0.0) -> np.ndarray:
    """16 frames of 128 x 128: a night street by rule, a figure moving across it."""
    y, x = np.mgrid[0:128, 0:128] / 128.0
    frames = []
    for t in range(16):
        phase = 2 * math.pi * t / 16
        base = np.stack([0.10 + 0.35 * y, 0.06 + 0.12 * y, 0.22 + 0.45 * (1 - y)], axis=-1)
        windows = (np.sin(x * 50) > 0.2) & (np.sin(y * 42) > 0.1) & (y < 0.65) & (np.abs(x - 0.5) > 0.17)
        base[windows] = (0.95, 0.35 + shift, 0.75)
        centre = 0.5 + 0.12 * math.sin(phase + shift)
        figure = ((x - centre) ** 2 / 0.006 + (y - 0.62) ** 2 / 0.05) < 1
        head = ((x - centre) ** 2 + (y - 0.36) ** 2) < 0.004
        base[figure | head] = (0.98, 0.62, 0.25)
        frames.append(base)
    return (np.clip(np.stack(frames), 0, 1) * 255).astype(np.uint8)


@cache
def sample_record(mode: Mode = "moe") -> RunRecord:
    """A whole record; its figures of metrics and placement are computed, its times are made up."""
    frames = sample_frames(0.0 if mode == "moe" else 0.3)
    count = 2 if mode == "moe" else 1
    steps = tuple(
        StepTiming(index=i, sigma=1 - i / STEPS, ms=48.0 * count + i, forward_passes=2 * count)
        for i in range(STEPS)
    )
    return RunRecord(
        run_id="sample" + mode,
        created="2026-01-01T00:00:00+00:00",
        request=sample_request(mode),
        plan=sample_plan(),
        gate=sample_gate(mode=mode),
        placement=sample_placement(),
        timing=RunTiming(
            encode_prompt_ms=18.0, gate_ms=1.2, place_ms=34.0, denoise_ms=sum(s.ms for s in steps), decode_ms=210.0,
            metrics_ms=330.0, export_ms=60.0, first_preview_ms=260.0, total_ms=sum(s.ms for s in steps) + 653.2,
            steps=steps, peak_rss_bytes=1_400_000_000,
        ),
        metrics=measure(frames, 8.0),
        clip=ClipInfo(path="clip.mp4", frames=16, width=128, height=128, fps=8,
                      sha256=hashlib.sha256(frames.tobytes()).hexdigest()),
        pack=PackIdentity(id="sample-worlds", version="0.0.0", sha256="0" * 64),
        environment=Environment(torch="2", torch_device="cpu", cpu_capability="AVX2", threads=2, dtype="bfloat16",
                                code_version="0", platform="test"),
    )  # fmt: skip


def sample_preview(done: float) -> np.ndarray:
    """(4, 16, 16, 3): the sample's frames at latent size, under noise that lessens with `done` (0 to 1)."""
    small = sample_frames()[::4, 4::8, 4::8]
    noise = np.random.default_rng(1).integers(0, 256, small.shape)
    return np.clip(small * done + noise * (1 - done), 0, 255).astype(np.uint8)


def sample_events(path: Path, coverage: float = 0.82) -> Iterator[ev.Event]:
    """The stream of a run that finishes, as the pipeline would send it."""
    record, gate = sample_record(), sample_gate(coverage)
    head = {"run_id": "sample", "t_ms": 0.0}
    yield ev.Accepted(seq=0, request=sample_request(), **head)
    yield ev.Planned(seq=1, plan=sample_plan(), **head)
    yield ev.Gated(seq=2, gate=gate, **head)
    yield ev.Placed(seq=3, placement=sample_placement(), **head)
    for i, step in enumerate(gate.by_step):
        yield ev.Step(
            seq=4 + i, index=i, total=STEPS, sigma=step.sigma, weights=step.weights, step_ms=100.0,
            remaining_ms=100.0 * (STEPS - 1 - i), preview=sample_preview((i + 1) / STEPS), **head,
        )  # fmt: skip
    yield ev.Decoded(seq=21, frames=sample_frames(), decode_ms=210.0, **head)
    yield ev.Measured(seq=22, metrics=record.metrics, metrics_ms=330.0, **head)
    yield ev.Exported(seq=23, path=str(path), export_ms=60.0, **head)
    yield ev.Finished(seq=24, clip=ev.Clip(sample_frames(), record, str(path)), **head)
