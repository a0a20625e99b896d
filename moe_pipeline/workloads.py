"""The work of a request, counted from the pack's own modules without loading a weight."""

from __future__ import annotations

import torch

from moe_pipeline.engine import Engine
from moe_pipeline.schema.request import ResolvedRequest
from moe_pipeline.schema.workload import StageWorkloads
from moe_pipeline.workload import embedded_workloads


def request_workloads(engine: Engine, request: ResolvedRequest) -> StageWorkloads:
    """FLOPs, bytes and memory of every stage of a request at the engine's precision; counted once a shape."""
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
        guidance=request.guidance != 1.0,
        precision="bf16" if engine.dtype is torch.bfloat16 else "fp32",
        delta_bytes=max((e.delta_bytes for e in manifest.experts if e.delta_bytes is not None), default=None),
        pack=manifest.id,
    )
