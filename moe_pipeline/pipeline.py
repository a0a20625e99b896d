"""The stream: composes the rooms, keeps the order, the clock and the cancellation. Nothing numeric lives here."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from moe_pipeline import interfaces as ev
from moe_pipeline.catalogue import catalog
from moe_pipeline.diffusion.flow import noise_schedule
from moe_pipeline.diffusion.guidance import ClassifierFree
from moe_pipeline.diffusion.sampler import initial_noise, sample
from moe_pipeline.edge import ProfileLibrary, load_profiles, place
from moe_pipeline.engine import Engine, EngineConfig, GuidedMixture
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.gating.routing import route, single
from moe_pipeline.memory import peak_cuda_bytes, peak_rss_bytes
from moe_pipeline.metrics import measure
from moe_pipeline.packs import Pack, open_pack
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.metrics import ClipMetrics
from moe_pipeline.schema.pack import PackManifest
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.profiles import EdgeScenario
from moe_pipeline.schema.record import ClipInfo, PackIdentity, RunRecord, RunTiming, StepTiming
from moe_pipeline.schema.request import ResolvedRequest, SceneRequest, resolve
from moe_pipeline.video import write_mp4
from moe_pipeline.workloads import request_workloads

__all__ = ["EngineConfig", "MoEVideoPipeline", "catalog"]

CLIP_NAME, RECORD_NAME = "clip.mp4", "record.json"
E = TypeVar("E")


class _Stopped(Exception):
    """Raised between two experts when the run was cancelled."""


class _Run:
    """Identity, clock and event numbers of one run."""

    def __init__(self, request: ResolvedRequest, control: ev.RunControl) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.request, self.control = request, control
        self.started = time.perf_counter()
        self.created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self.seq = -1
        self.timing: dict[str, float] = {}
        self.steps: list[StepTiming] = []
        self.warnings: list[str] = []

    def now_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000.0

    def event(self, kind: Callable[..., E], **facts: Any) -> E:
        self.seq += 1
        return kind(run_id=self.id, seq=self.seq, t_ms=self.now_ms(), **facts)

    def check(self) -> None:
        if self.control.cancelled:
            raise _Stopped


class MoEVideoPipeline:
    """Prompt to clip. One object serves any number of runs, one after the other or interleaved."""

    def __init__(self, pack: Pack, engine: Engine, profiles: ProfileLibrary) -> None:
        self.pack, self.engine, self.profiles = pack, engine, profiles

    @classmethod
    def from_pack(
        cls, path: Path | None = None, engine: EngineConfig | None = None, cache: ExpertCache | None = None
    ) -> MoEVideoPipeline:
        """Open a pack (None: the embedded one); weights load with the first request that needs them."""
        pack = open_pack(path)
        return cls(pack, Engine(pack, engine or EngineConfig(), cache), load_profiles())

    @property
    def manifest(self) -> PackManifest:
        return self.pack.manifest

    def scenarios(self) -> list[EdgeScenario]:
        """Edge scenarios that a request may name."""
        return list(self.profiles.scenarios.values())

    def resolve(self, request: SceneRequest) -> ResolvedRequest:
        """Defaults filled, limits and scenario checked; raises `MoEverseError`."""
        resolved = resolve(request, self.manifest)
        self.profiles.scenario(resolved.scenario)
        return resolved

    def plan(self, request: SceneRequest) -> ScenePlan:
        """Backgrounds and subjects of the prompt, without loading a model."""
        return decompose(self.resolve(request).prompt)

    def gate(self, request: SceneRequest) -> GateDecision:
        """Routing of every denoising step, without denoising."""
        resolved = self.resolve(request)
        return self._route(resolved, decompose(resolved.prompt))[0]

    def place(
        self, request: SceneRequest, *, killed: frozenset[str] = frozenset(), bandwidth_scale: float = 1.0
    ) -> Placement:
        """Where each active expert would run, without denoising."""
        resolved = self.resolve(request)
        gate = self._route(resolved, decompose(resolved.prompt))[0]
        return self._place(resolved, gate, killed, bandwidth_scale)

    def generate(
        self, request: SceneRequest, *, out: Path | None = None, control: ev.RunControl | None = None
    ) -> ev.Clip:
        """Drain the stream; raises `MoEverseError` when the run fails or is cancelled."""
        for event in self.stream(request, out=out, control=control, previews=False):
            match event:
                case ev.Finished():
                    return event.clip
                case ev.Failed():
                    raise MoEverseError(event.code, event.message)
                case ev.Cancelled():
                    raise MoEverseError(
                        "cancelled", f"The run was cancelled after {event.after_steps} steps."
                    )
                case _:
                    continue
        raise AssertionError("a stream ends with finished, failed or cancelled")

    def stream(
        self,
        request: SceneRequest,
        *,
        out: Path | None = None,
        control: ev.RunControl | None = None,
        previews: bool = True,
        name: str = CLIP_NAME,
    ) -> Iterator[ev.Event]:
        """Events of one run, ending in exactly one of finished, failed, cancelled.

        Args:
            request: what to make.
            out: folder that gets the clip and record.json; None writes nothing.
            control: cancels the run or changes its edge while it goes on.
            previews: whether steps carry the predicted clean clip at latent size.
            name: file name of the clip inside `out`.

        Raises:
            MoEverseError: bad input, at the call itself, before the first event.
        """
        resolved = self.resolve(request)
        if out is not None:
            _require_writable(out)
        return self._guarded(_Run(resolved, control or ev.RunControl()), out, previews, name)

    def _guarded(self, run: _Run, out: Path | None, previews: bool, name: str) -> Iterator[ev.Event]:
        try:
            yield from self._run(run, out, previews, name)
        except _Stopped:
            yield run.event(ev.Cancelled, after_steps=len(run.steps))
        except MoEverseError as error:
            yield run.event(ev.Failed, code=error.code, message=error.sentence())

    def _run(self, run: _Run, out: Path | None, previews: bool, name: str) -> Iterator[ev.Event]:
        request = run.request
        yield run.event(ev.Accepted, request=request)
        plan = decompose(request.prompt)
        yield run.event(ev.Planned, plan=plan)
        gate, text, sigmas = self._route(request, plan, run.timing)
        yield run.event(ev.Gated, gate=gate)
        for code, message in self._notes(request, gate):
            run.warnings.append(message)
            yield run.event(ev.RunWarning, code=code, message=message)
        began = time.perf_counter()
        placement: Placement | None = None
        try:
            killed, scale = run.control.conditions()
            placement = self._place(request, gate, killed, scale)
            yield run.event(ev.Placed, placement=placement)
        except MoEverseError as error:
            # The clip is made on this machine either way; only the edge deployment has no answer.
            run.warnings.append(error.sentence())
            yield run.event(ev.RunWarning, code=error.code, message=error.sentence())
        run.timing["place_ms"] = _since(began)
        x = initial_noise(self.engine.latent_shape(request), request.seed)
        velocity = GuidedMixture(
            self.engine,
            text,
            [step.weights for step in gate.by_step],
            ClassifierFree(request.guidance),
            run.check,
        )
        began = last = time.perf_counter()
        for step in sample(x, sigmas, velocity):
            x = step.x
            preview = self.engine.preview(step.clean) if previews else None
            step_ms, last = _since(last), time.perf_counter()
            passes = velocity.forward_passes(step.index, step.sigma)
            run.steps.append(
                StepTiming(index=step.index, sigma=step.sigma, ms=step_ms, forward_passes=passes)
            )
            yield run.event(
                ev.Step,
                index=step.index,
                total=request.steps,
                sigma=step.sigma,
                weights=gate.by_step[step.index].weights,
                step_ms=step_ms,
                remaining_ms=_since(began) / (step.index + 1) * (request.steps - step.index - 1),
                preview=preview,
            )
            if preview is not None:
                run.timing.setdefault("first_preview_ms", run.now_ms())
            if reason := run.control.take_change():
                yield from self._replan(run, gate, reason)
            run.check()
            last = time.perf_counter()
        run.timing["denoise_ms"] = sum(step.ms for step in run.steps)
        began = time.perf_counter()
        frames = self.engine.decode(x)
        run.timing["decode_ms"] = _since(began)
        yield run.event(ev.Decoded, frames=frames, decode_ms=run.timing["decode_ms"])
        began = time.perf_counter()
        metrics = measure(frames, float(request.fps))
        run.timing["metrics_ms"] = _since(began)
        yield run.event(ev.Measured, metrics=metrics, metrics_ms=run.timing["metrics_ms"])
        path: Path | None = None
        if out is not None:
            run.check()
            began = time.perf_counter()
            draft = self._record(run, plan, gate, placement, metrics, frames, name)
            write_mp4(frames, out / name, request.fps, {"comment": draft.model_dump_json()})
            path = out / name
            run.timing["export_ms"] = _since(began)
            yield run.event(ev.Exported, path=str(path), export_ms=run.timing["export_ms"])
        record = self._record(run, plan, gate, placement, metrics, frames, name if path else None)
        if out is not None:
            _write_atomically(
                out / f"{Path(name).stem}.json" if name != CLIP_NAME else out / RECORD_NAME, record
            )
        yield run.event(ev.Finished, clip=ev.Clip(frames, record, str(path) if path else None))

    def _replan(self, run: _Run, gate: GateDecision, reason: str) -> Iterator[ev.Event]:
        killed, scale = run.control.conditions()
        try:
            placement = self._place(run.request, gate, killed, scale)
            yield run.event(ev.Replanned, placement=placement, reason=reason)
        except MoEverseError as error:
            yield run.event(ev.RunWarning, code=error.code, message=error.sentence())

    def _route(
        self, request: ResolvedRequest, plan: ScenePlan, timing: dict[str, float] | None = None
    ) -> tuple[GateDecision, ev.TextFeatures, list[float]]:
        """Routing, features of the whole prompt (batch of one) and noise levels; fills `timing` where given."""
        engine, manifest = self.engine, self.manifest
        began = time.perf_counter()
        features = engine.encoder([request.prompt, *(part.text for part in plan.subtasks)])
        encoded = time.perf_counter()
        text = ev.TextFeatures(features.tokens[:1], features.mask[:1], features.pooled[:1])
        sigmas = noise_schedule(request.steps, manifest.defaults.shift)
        decision = route(
            engine.gate,
            features.pooled[1:],
            plan,
            manifest.expert_ids(),
            sigmas[:-1],
            request.top_k,
            text.pooled[0],
        )
        if request.mode == "single":
            decision = single(manifest.generalist.id, sigmas[:-1], decision.coverage)
        if timing is not None:
            timing["encode_prompt_ms"] = (encoded - began) * 1000.0
            timing["gate_ms"] = _since(encoded)
        return decision, text, sigmas

    def _place(
        self, request: ResolvedRequest, gate: GateDecision, killed: frozenset[str], bandwidth_scale: float
    ) -> Placement:
        return place(
            request_workloads(self.engine, request),
            gate.active,
            self.profiles.scenario(request.scenario),
            self.profiles,
            objective=request.objective,
            steps=request.steps,
            killed=killed,
            bandwidth_scale=bandwidth_scale,
        )

    def _notes(self, request: ResolvedRequest, gate: GateDecision) -> Iterator[tuple[str, str]]:
        if gate.low_coverage:
            titles = ", ".join(expert.title.lower() for expert in self.manifest.experts)
            yield (
                "low_coverage",
                f"This prompt lies outside what the pack was trained on ({titles}); expect a guess.",
            )
        pieces, limit = self.engine.encoder.count(request.prompt), self.manifest.text_tokens
        if pieces > limit:
            yield "long_prompt", f"The experts read the first {limit} of {pieces} word pieces of this prompt."

    def _record(
        self,
        run: _Run,
        plan: ScenePlan,
        gate: GateDecision,
        placement: Placement | None,
        metrics: ClipMetrics,
        frames: ev.Frames,
        path: str | None,
    ) -> RunRecord:
        count, height, width, _ = frames.shape
        timing = RunTiming(
            **{"export_ms": 0.0, **run.timing},
            total_ms=run.now_ms(),
            steps=tuple(run.steps),
            peak_rss_bytes=peak_rss_bytes(),
            peak_cuda_bytes=peak_cuda_bytes(),
        )
        return RunRecord(
            run_id=run.id,
            created=run.created,
            request=run.request,
            plan=plan,
            gate=gate,
            placement=placement,
            timing=timing,
            metrics=metrics,
            clip=ClipInfo(
                path=path,
                frames=count,
                width=width,
                height=height,
                fps=run.request.fps,
                sha256=hashlib.sha256(frames.tobytes()).hexdigest(),
            ),
            pack=PackIdentity(id=self.manifest.id, version=self.manifest.version, sha256=self.pack.sha256),
            environment=self.engine.environment(),
            warnings=tuple(run.warnings),
        )


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000.0


def _require_writable(folder: Path) -> None:
    """Make the folder and try a file in it, before any work is done: permissions alone do not tell."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MoEverseError(
            "unwritable_folder", f"Cannot write into {folder}.", "Choose a folder you may write to."
        ) from error


def _write_atomically(path: Path, record: RunRecord) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record.model_dump(mode="json"), indent=1), encoding="utf-8")
    os.replace(part, path)
