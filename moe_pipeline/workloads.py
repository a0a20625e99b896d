"""The work of a request, counted from the pack's own modules without loading a weight."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn

from moe_pipeline.engine import Engine, HubEngine
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import Precision
from moe_pipeline.schema.request import ResolvedRequest
from moe_pipeline.schema.workload import StageWorkloads, Workload
from moe_pipeline.workload import embedded_workloads
from moe_pipeline.workload.hub import HubArchitecture, architecture, architecture_workloads

# (frames, height, width, active, branches, precision, whether the weights are here) -> counted work
_Asked = tuple[int, int, int, int, int, Precision, bool]
_COUNTED: WeakKeyDictionary[HubEngine, dict[_Asked, StageWorkloads]] = WeakKeyDictionary()


def request_workloads(engine: Engine | HubEngine, request: ResolvedRequest) -> StageWorkloads:
    """FLOPs, bytes and memory of every stage of a request at the engine's precision; counted once a shape."""
    guider = engine.guider(request, decompose(request.prompt))
    branches = [guider.branches(sigma) for sigma in engine.noise_levels(request.steps)[:-1]]

    def counted(count: int) -> StageWorkloads:
        if isinstance(engine, HubEngine):
            return _hub_workloads(engine, request, count)
        return _embedded(engine, request, count)

    few, many = counted(min(branches)), counted(max(branches))
    work = _mean_step(few, many, branches.count(max(branches)) / len(branches))
    # What is placed is the generalist itself: where a device has it, nothing has to travel.
    return work.model_copy(update={"delta_bytes": 0}) if request.mode == "single" else work


def _embedded(engine: Engine, request: ResolvedRequest, branches: int) -> StageWorkloads:
    """A request in which every step has so many guidance branches."""
    manifest = engine.pack.manifest
    return embedded_workloads(
        engine.shell(manifest.generalist),
        engine.shell(manifest.autoencoder),
        channels=manifest.latents.channels,
        spatial=manifest.latents.spatial,
        temporal=manifest.latents.temporal,
        text_tokens=manifest.text_tokens,
        frames=request.frames,
        height=request.height,
        width=request.width,
        active=1 if request.mode == "single" else request.top_k,
        branches=branches,
        precision="bf16" if engine.dtype is torch.bfloat16 else "fp32",
        delta_bytes=max((e.delta_bytes for e in manifest.experts if e.delta_bytes is not None), default=None),
        pack=manifest.id,
    )


def _mean_step(few: StageWorkloads, many: StageWorkloads, share: float) -> StageWorkloads:
    """Workloads in which `share` of the steps are those of `many`: work and messages of the mean step, memory and
    texts of the larger one."""
    if few is many:
        return many

    def mean(a: Workload, b: Workload) -> Workload:
        names = ("flops", "bytes_moved", "input_bytes", "output_bytes", "kernels")
        between = {n: round((1.0 - share) * getattr(a, n) + share * getattr(b, n)) for n in names}
        note = f"{b.note} in {share:.0%} of the steps, else {a.note}" if a.note != b.note else b.note
        return b.model_copy(update={**between, "note": note})

    return many.model_copy(
        update={
            "expert_step": mean(few.expert_step, many.expert_step),
            "exchange": mean(few.exchange, many.exchange),
        }
    )


def _hub_workloads(engine: HubEngine, request: ResolvedRequest, branches: int) -> StageWorkloads:
    """From the configurations beside the weights; by the published architecture while they are not here."""
    here = engine.pack.weights is not None
    active = 1 if request.mode == "single" else request.top_k
    precision: Precision = "bf16" if engine.dtype is torch.bfloat16 else "fp32"
    asked = (request.frames, request.height, request.width, active, branches, precision, here)
    known = _COUNTED.setdefault(engine, {})
    if asked not in known:
        known[asked] = architecture_workloads(
            own_architecture(engine),
            frames=request.frames,
            height=request.height,
            width=request.width,
            active=active,
            branches=branches,
            precision=precision,
            delta_bytes=_expert_bytes(engine),
            pack=engine.manifest.id,
        )
    return known[asked]


def own_architecture(engine: HubEngine) -> HubArchitecture:
    """The pack's architecture: the published one, with the modules of the weights that are here in its place.

    Raises:
        MoEverseError: `component_missing`, where a folder of weights lacks a configuration.
    """
    manifest = engine.manifest
    published = architecture(manifest.architecture)
    if engine.pack.weights is None:
        return published

    def shell(component: str) -> nn.Module:
        module = engine.shell(component)
        if module is None:
            raise MoEverseError(
                "component_missing", f"The weights of {manifest.id} have no folder {component}/."
            )
        return module

    text = engine.pack.config("text_encoder") or {}
    width = int(text.get("hidden_size") or text.get("d_model") or published.text_width)
    return replace(
        published,
        title=manifest.title,
        denoiser=lambda: shell(manifest.denoiser),
        decoder=lambda: shell("vae"),
        text_encoder=lambda: shell("text_encoder"),
        channels=manifest.latents.channels,
        spatial=manifest.latents.spatial,
        temporal=manifest.latents.temporal,
        text_tokens=manifest.text_tokens,
        text_width=width,
    )


def _expert_bytes(engine: HubEngine) -> int | None:
    """What turns the generalist into an expert on a device that has it: a LoRA, or nothing where only texts differ.

    None where an expert is another denoiser altogether.
    """
    manifest = engine.manifest
    if any(manifest.denoiser_of(expert) != manifest.denoiser for expert in manifest.experts):
        return None
    loras = [expert.lora for expert in manifest.experts if expert.lora is not None]
    if not loras:
        return 0
    if engine.pack.weights is None:
        return None  # not known before the files are here
    return max(engine.pack.lora_file(lora).stat().st_size for lora in loras)
