"""A request's stages as workloads, for the embedded pack's modules.

Counted: text encoder, one denoising step of one expert (all guidance branches in one batch), decoder. Counted
by hand, because no module computes them: combining with the sampler's step, and the video encoder.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import PRECISION_BYTES, Precision
from moe_pipeline.schema.workload import Stage, StageWorkloads, Workload
from moe_pipeline.workload.count import ModuleCost, count_call, on_meta

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Assumptions of the export stage, for want of a module to count: integer operations of an H.264 encoder at its
# "veryfast" preset per pixel, and bytes of the clip per pixel (the embedded pack's clips at CRF 18 to 23).
EXPORT_OPERATIONS_PER_PIXEL = 500
EXPORT_BYTES_PER_PIXEL = 0.15


def shell_of(module: nn.Module, precision: Precision) -> tuple[nn.Module, torch.dtype, Precision]:
    """The module on meta in the format nearest to `precision` that torch computes eagerly.

    8-bit formats are counted as bf16 and scaled afterwards, since eager modules do not run in them.
    """
    counted: Precision = precision if precision in DTYPES else "bf16"
    shell = on_meta(module)
    if shell is module:  # already on meta: the caller's own keeps its format
        shell = copy.deepcopy(module)
    # diffusers wraps `to` with a warning about formats that does not matter without weights
    return nn.Module.to(shell, DTYPES[counted]), DTYPES[counted], counted


def as_workload(
    stage: Stage,
    cost: ModuleCost,
    precision: Precision,
    *,
    calls: int = 1,
    input_bytes: int | None = None,
    output_bytes: int | None = None,
    note: str = "",
) -> Workload:
    """A counted module as a stage; `calls` repeats compute and traffic, not memory."""
    return Workload(
        stage=stage,
        flops=calls * cost.flops,
        bytes_moved=calls * cost.bytes_moved,
        weight_bytes=cost.weight_bytes,
        peak_memory_bytes=cost.peak_memory_bytes,
        input_bytes=cost.input_bytes if input_bytes is None else input_bytes,
        output_bytes=cost.output_bytes if output_bytes is None else output_bytes,
        kernels=calls * cost.kernels,
        precision=precision,
        note=note,
    )


def exchange_workload(latent_elements: int, active: int, branches: int, precision: Precision) -> Workload:
    """Weighted sum of the experts' predictions, guidance, and a second-order sampler step, in float32.

    Per element: 2 operations for each prediction, 3 for each further guidance branch, 8 for the step; each tensor is
    read once and five are written.
    """
    operations = 2 * active * branches + 3 * (branches - 1) + 8
    traffic = latent_elements * 4 * (active * branches + 5)
    memory = latent_elements * 4 * (active * branches + 3)
    return Workload(
        stage="exchange",
        flops=latent_elements * operations,
        bytes_moved=traffic,
        weight_bytes=0,
        peak_memory_bytes=memory,
        input_bytes=0,
        output_bytes=0,
        kernels=operations,
        precision=precision,
        note="by hand: 2 operations a prediction, 3 for a guidance branch, 8 for the sampler's step, per latent value",
    )


def export_workload(frames: int, height: int, width: int, precision: Precision) -> Workload:
    """H.264 encoding: an assumption per pixel, see the module's constants."""
    pixels = frames * height * width
    return Workload(
        stage="export",
        flops=EXPORT_OPERATIONS_PER_PIXEL * pixels,
        bytes_moved=12 * pixels,
        weight_bytes=0,
        peak_memory_bytes=8 * pixels,
        input_bytes=3 * pixels,
        output_bytes=round(EXPORT_BYTES_PER_PIXEL * pixels),
        kernels=frames,
        precision=precision,
        note=f"assumed: {EXPORT_OPERATIONS_PER_PIXEL} operations and {EXPORT_BYTES_PER_PIXEL} bytes a pixel",
    )


@lru_cache(maxsize=1)
def minilm_shell() -> nn.Module:
    """all-MiniLM-L6-v2's architecture without weights: 6 layers, width 384, 12 heads, MLP 1536."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    )
    with torch.device("meta"):
        return BertModel(config, add_pooling_layer=False)


def text_workload(
    model: nn.Module, tokens: int, *, precision: Precision, batch: int = 1, conditioning_bytes: int
) -> Workload:
    """A transformers text encoder called with `input_ids` (batch, tokens), all of them words: no mask to read."""
    shell, _, counted = shell_of(model, precision)
    ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    cost = count_call(shell, module=shell, input_ids=ids)
    workload = as_workload("text", cost, counted, input_bytes=4 * tokens, output_bytes=conditioning_bytes)
    return workload.at(precision)


def embedded_workloads(
    denoiser: nn.Module,
    autoencoder: nn.Module,
    *,
    text_encoder: nn.Module | None = None,
    channels: int = 16,
    spatial: int = 8,
    temporal: int = 4,
    text_tokens: int = 24,
    text_width: int = 384,
    frames: int,
    height: int,
    width: int,
    active: int,
    branches: int,
    precision: Precision = "bf16",
    delta_bytes: int | None = None,
    pack: str = "",
) -> StageWorkloads:
    """Every stage of a request on the embedded pack, counted from its own modules.

    A second call with the same modules and numbers answers from memory.

    Args:
        denoiser: called as `denoiser(x, sigma, tokens, mask)`; all experts have this architecture.
        autoencoder: has `decode(latents)`.
        text_encoder: a transformers encoder; None takes the architecture of all-MiniLM-L6-v2.
        active: experts that run in each step.
        branches: evaluations of an expert in a step: 1, or with guidance 2 or 3.
        delta_bytes: size of an expert as difference from the generalist, if the pack offers one.

    Raises:
        MoEverseError: `bad_shape`, where sizes do not divide.
    """
    if frames % temporal or height % spatial or width % spatial:
        raise MoEverseError(
            "bad_shape",
            f"{frames} frames of {width}x{height} do not divide into latents.",
            f"Use multiples of {temporal} frames and {spatial} pixels.",
        )
    asked = (
        id(autoencoder),
        id(text_encoder),
        channels,
        spatial,
        temporal,
        text_tokens,
        text_width,
        frames,
        height,
        width,
        active,
        branches,
        precision,
        delta_bytes,
        pack,
    )
    known = _COUNTED.setdefault(denoiser, {})
    if asked not in known:
        known[asked] = _count_embedded(
            denoiser,
            autoencoder,
            text_encoder if text_encoder is not None else minilm_shell(),
            latents=(channels, frames // temporal, height // spatial, width // spatial),
            text_tokens=text_tokens,
            text_width=text_width,
            frames=frames,
            height=height,
            width=width,
            active=active,
            branches=branches,
            precision=precision,
            delta_bytes=delta_bytes,
            pack=pack,
        )
    return known[asked]


_COUNTED: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], StageWorkloads]] = WeakKeyDictionary()


def _count_embedded(
    denoiser: nn.Module,
    autoencoder: nn.Module,
    text_encoder: nn.Module,
    *,
    latents: tuple[int, int, int, int],
    text_tokens: int,
    text_width: int,
    frames: int,
    height: int,
    width: int,
    active: int,
    branches: int,
    precision: Precision,
    delta_bytes: int | None,
    pack: str,
) -> StageWorkloads:
    shell, dtype, counted = shell_of(denoiser, precision)
    elements = math.prod(latents)
    step = count_call(shell, *_step_inputs(latents, branches, text_tokens, text_width, dtype), module=shell)
    decoder, dtype, counted = shell_of(autoencoder, precision)
    decoding: Any = decoder.decode
    decode = count_call(decoding, torch.zeros(1, *latents, dtype=dtype, device="meta"), module=decoder)
    latent_bytes = round(elements * PRECISION_BYTES[precision])
    conditioning = round(branches * text_tokens * text_width * PRECISION_BYTES[precision])
    return StageWorkloads(
        text=text_workload(
            text_encoder, text_tokens, precision=precision, batch=branches, conditioning_bytes=conditioning
        ),
        expert_step=as_workload(
            "expert_step", step, counted, note=f"{branches} guidance branches in one batch"
        )
        .at(precision)
        .model_copy(update={"input_bytes": latent_bytes, "output_bytes": branches * latent_bytes}),
        exchange=exchange_workload(elements, active, branches, precision),
        decode=as_workload("decode", decode, counted, output_bytes=3 * frames * height * width).at(precision),
        export=export_workload(frames, height, width, precision),
        latent_bytes=latent_bytes,
        delta_bytes=delta_bytes,
        frames=frames,
        width=width,
        height=height,
        pack=pack,
    )


def _step_inputs(
    latents: tuple[int, ...], branches: int, text_tokens: int, text_width: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    def empty(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=kind, device="meta")

    return (
        empty(branches, *latents),
        empty(branches),
        empty(branches, text_tokens, text_width),
        empty(branches, text_tokens, kind=torch.bool),
    )
