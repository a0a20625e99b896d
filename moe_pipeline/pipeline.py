"""The stream: composes the rooms, keeps the order, the clock and the cancellation. Nothing numeric lives here."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from moe_pipeline import interfaces as ev
from moe_pipeline.catalogue import catalog
from moe_pipeline.decisions import notes, place_request, plan_request, route_request
from moe_pipeline.diffusion.sampler import sample
from moe_pipeline.edge import ProfileLibrary, load_profiles
from moe_pipeline.engine import Engine, EngineConfig, HubEngine, open_engine
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.features import features_of
from moe_pipeline.metrics import measure
from moe_pipeline.packs import HubPack, Pack, open_any_pack
from moe_pipeline.recording import CLIP_NAME, Run, Stopped, export, require_writable, since_ms, what_broke
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.hub_pack import HubManifest
from moe_pipeline.schema.pack import PackManifest
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.profiles import EdgeScenario
from moe_pipeline.schema.record import PackIdentity, StepTiming
from moe_pipeline.schema.request import ResolvedRequest, SceneRequest, resolve

__all__ = ["EngineConfig", "MoEVideoPipeline", "catalog"]

log = logging.getLogger(__name__)

UNEXPECTED = "unexpected"


class MoEVideoPipeline:
    """Prompt to clip. One object serves any number of runs, one after the other or interleaved."""

    def __init__(self, pack: Pack | HubPack, engine: Engine | HubEngine, profiles: ProfileLibrary) -> None:
        self.pack, self.engine, self.profiles = pack, engine, profiles
        self.features = features_of(engine)

    @classmethod
    def from_pack(
        cls,
        path: Path | str | None = None,
        engine: EngineConfig | None = None,
        cache: ExpertCache | None = None,
    ) -> MoEVideoPipeline:
        """Open a pack (None: the embedded one); weights load with the first request that needs them."""
        pack = open_any_pack(None if path is None else Path(path))
        return cls(pack, open_engine(pack, engine or EngineConfig(), cache), load_profiles())

    @property
    def manifest(self) -> PackManifest | HubManifest:
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
        return plan_request(self.engine, self.resolve(request))

    def gate(self, request: SceneRequest) -> GateDecision:
        """Routing of every denoising step, without denoising."""
        resolved = self.resolve(request)
        return route_request(self.engine, resolved, plan_request(self.engine, resolved))[0]

    def place(
        self, request: SceneRequest, *, killed: frozenset[str] = frozenset(), bandwidth_scale: float = 1.0
    ) -> Placement:
        """Where each active expert would run, without denoising."""
        resolved = self.resolve(request)
        gate = route_request(self.engine, resolved, plan_request(self.engine, resolved))[0]
        return place_request(self.engine, self.profiles, resolved, gate, killed, bandwidth_scale)

    def notes(self, request: SceneRequest, plan: ScenePlan, gate: GateDecision) -> tuple[str, ...]:
        """Sentences about what this pack will not do for the prompt; the stream says the same as warnings."""
        return tuple(message for _, message in notes(self.engine, self.resolve(request), plan, gate))

    def generate(
        self, request: SceneRequest, *, out: Path | str | None = None, control: ev.RunControl | None = None
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
        out: Path | str | None = None,
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
            MoEverseError: bad input or missing weights, at the call itself, before the first event.
        """
        resolved = self.resolve(request)
        self.engine.require_weights()
        folder = None if out is None else Path(out)
        if folder is not None:
            require_writable(folder)
        return self._guarded(Run(resolved, control or ev.RunControl()), folder, previews, name)

    def _guarded(self, run: Run, out: Path | None, previews: bool, name: str) -> Iterator[ev.Event]:
        try:
            yield from self._run(run, out, previews, name)
        except Stopped:
            yield run.event(ev.Cancelled, after_steps=len(run.steps))
        except MoEverseError as error:
            yield run.event(ev.Failed, code=error.code, message=error.sentence())
        except (
            Exception
        ) as error:  # a defect of ours: whoever watches still gets an end, and the log says where
            log.exception("run %s failed", run.id)
            yield run.event(ev.Failed, code=UNEXPECTED, message=what_broke(error))

    def _run(self, run: Run, out: Path | None, previews: bool, name: str) -> Iterator[ev.Event]:
        request = run.request
        yield run.event(ev.Accepted, request=request)
        run.check()
        plan = plan_request(self.engine, request)
        yield run.event(ev.Planned, plan=plan)
        run.check()
        gate, text, sigmas = route_request(self.engine, request, plan, run.timing)
        yield run.event(ev.Gated, gate=gate)
        for code, message in notes(self.engine, request, plan, gate):
            yield run.warn(code, message)
        run.check()
        yield self._place_first(run, gate)
        run.check()
        latents = yield from self._denoise(run, plan, gate, text, sigmas, previews)
        began = time.perf_counter()
        frames = self.engine.decode(latents, run.check)
        run.timing["decode_ms"] = since_ms(began)
        yield run.event(ev.Decoded, frames=frames, decode_ms=run.timing["decode_ms"])
        run.check()
        began = time.perf_counter()
        metrics = measure(frames, float(request.fps), features=self.features, prompt=request.prompt)
        run.timing["metrics_ms"] = since_ms(began)
        yield run.event(ev.Measured, metrics=metrics, metrics_ms=run.timing["metrics_ms"])
        run.check()
        identity = PackIdentity(id=self.manifest.id, version=self.manifest.version, sha256=self.pack.sha256)
        record_of = partial(
            run.record,
            plan=plan,
            gate=gate,
            metrics=metrics,
            frames=frames,
            pack=identity,
            environment=self.engine.environment(),
        )
        if out is None:
            record, path = record_of(path=None), None
        else:
            path = str(out / name)
            record = export(run, record_of, frames, out / name)
            yield run.event(ev.Exported, path=path, export_ms=run.timing["export_ms"])
        yield run.event(ev.Finished, clip=ev.Clip(frames, record, path))

    def _place_first(self, run: Run, gate: GateDecision) -> ev.Placed | ev.RunWarning:
        began = time.perf_counter()
        run.control.take_change()  # what changed before the run is part of the first placement
        try:
            run.placement = self._place(run, gate)
            return run.event(ev.Placed, placement=run.placement)
        except MoEverseError as error:
            # The clip is made on this machine either way; only the edge deployment has no answer.
            return run.warn(error.code, error.sentence())
        finally:
            run.timing["place_ms"] = since_ms(began)

    def _denoise(
        self,
        run: Run,
        plan: ScenePlan,
        gate: GateDecision,
        text: ev.TextFeatures,
        sigmas: list[float],
        previews: bool,
    ) -> Generator[ev.Event, None, Tensor]:
        request, engine = run.request, self.engine
        weights = [step.weights for step in gate.by_step]
        began = time.perf_counter()
        velocity = engine.velocity(request, plan, gate, text, run.check)
        run.timing["encode_prompt_ms"] += since_ms(began)  # experts may read texts of their own
        run.texts = dict(velocity.texts)
        x = engine.start(request)
        began = last = time.perf_counter()
        for step in sample(x, sigmas, velocity):
            x = step.x
            preview = engine.preview(step.clean) if previews else None
            step_ms = since_ms(last)
            passes = velocity.forward_passes(step.index, step.sigma)
            run.steps.append(
                StepTiming(index=step.index, sigma=step.sigma, ms=step_ms, forward_passes=passes)
            )
            if preview is not None:
                run.timing.setdefault("first_preview_ms", run.now_ms())
            yield run.event(
                ev.Step,
                index=step.index,
                total=request.steps,
                sigma=step.sigma,
                weights=weights[step.index],
                step_ms=step_ms,
                remaining_ms=since_ms(began) / (step.index + 1) * (request.steps - step.index - 1),
                preview=preview,
            )
            if reason := run.control.take_change():
                yield self._replan(run, gate, reason)
            run.check()
            last = time.perf_counter()
        run.timing["denoise_ms"] = sum(step.ms for step in run.steps)
        return x

    def _replan(self, run: Run, gate: GateDecision, reason: str) -> ev.Replanned | ev.RunWarning:
        """The placement under the new conditions; where there is none, the last one stays in the record."""
        try:
            run.placement = self._place(run, gate)
        except MoEverseError as error:
            return run.warn(error.code, error.sentence())
        run.warnings.append(f"Placed again: {reason}.")
        return run.event(ev.Replanned, placement=run.placement, reason=reason)

    def _place(self, run: Run, gate: GateDecision) -> Placement:
        return place_request(self.engine, self.profiles, run.request, gate, *run.control.conditions())
