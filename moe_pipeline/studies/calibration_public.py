"""The published benchmarks as points: FLOPs and traffic counted from each model's architecture on meta."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from moe_pipeline.edge.profiles import default_folder
from moe_pipeline.schema.errors import MoEverseError, from_validation
from moe_pipeline.schema.profiles import Quantity
from moe_pipeline.studies.calibration import Point
from moe_pipeline.workload import ModuleCost, count_call, count_module
from moe_pipeline.workload.hub import HUB_ARCHITECTURES

HALF = torch.float16


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hardware(_Data):
    """Peak of fp16 and memory bandwidth of a benchmark's device."""

    peak_tflops: Quantity
    memory_gbs: Quantity


class Benchmark(_Data):
    """One published run."""

    id: str
    title: str
    model: str
    calls: int = Field(ge=1)
    batch: int = Field(ge=1)
    decode: bool
    hardware: str
    stack: str
    seconds: Quantity
    remark: str = ""


class LeftOut(_Data):
    """A published figure that cannot be used, and why."""

    id: str
    reason: str


class BenchmarkSet(_Data):
    """`edge_profiles/benchmarks.yaml`."""

    schema_version: int
    hardware: dict[str, Hardware]
    points: tuple[Benchmark, ...]
    left_out: tuple[LeftOut, ...]


def read_benchmarks(folder: Path | None = None) -> BenchmarkSet:
    """The set, checked.

    Raises:
        MoEverseError: `bad_profile`.
    """
    path = (folder or default_folder()) / "benchmarks.yaml"
    try:
        data = BenchmarkSet.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise MoEverseError("bad_profile", f"{path.name}: cannot be read.", "Restore the file.") from error
    except ValidationError as error:
        raise from_validation(
            error, code="bad_profile", where=path.name, remedy="Correct this key."
        ) from error
    for point in data.points:
        if point.hardware not in data.hardware or point.model not in MODELS:
            raise MoEverseError(
                "bad_profile",
                f"{path.name}: {point.id}: unknown hardware or model.",
                f"Known models: {', '.join(MODELS)}.",
            )
    return data


def left_out(folder: Path | None = None) -> list[dict[str, str]]:
    """Published figures that are not used, with their reasons."""
    return [item.model_dump() for item in read_benchmarks(folder).left_out]


def public_points(folder: Path | None = None) -> list[Point]:
    """Every benchmark with the work of one denoiser call; decoding is added as calls of equal work."""
    data = read_benchmarks(folder)
    points = []
    for item in data.points:
        cost = denoiser_cost(item.model, item.batch)
        calls = float(item.calls)
        if item.decode:
            calls += decoder_cost(item.model).flops / cost.flops
        hardware = data.hardware[item.hardware]
        points.append(
            Point(
                item.id,
                item.stack,
                cost.flops,
                cost.bytes_moved,
                calls,
                hardware.peak_tflops.value * 1e12,
                hardware.memory_gbs.value * 1e9,
                1e3 * item.seconds.value,
                False,
                item.remark,
            )
        )
    return points


@cache
def denoiser_cost(model: str, batch: int) -> ModuleCost:
    """One pass of a model's denoiser."""
    return MODELS[model](batch)


def _empty(*shape: int, kind: torch.dtype = HALF) -> torch.Tensor:
    return torch.zeros(shape, dtype=kind, device="meta")


def _time(batch: int) -> torch.Tensor:
    return _empty(batch, kind=torch.long)


def _build(kind: str, **config: Any) -> Any:
    import diffusers

    with torch.device("meta"):
        return nn.Module.to(getattr(diffusers, kind)(**config), HALF)


def _sd21(batch: int) -> ModuleCost:
    unet = _build(
        "UNet2DConditionModel",
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    return count_module(
        unet, _empty(batch, 4, 64, 64), _time(batch), _empty(batch, 77, 1024), return_dict=False
    )


def _sdxl(side: int) -> Callable[[int], ModuleCost]:
    def count(batch: int) -> ModuleCost:
        unet = _build(
            "UNet2DConditionModel",
            sample_size=128,
            cross_attention_dim=2048,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        extra = {"text_embeds": _empty(batch, 1280), "time_ids": _empty(batch, 6)}
        latents = _empty(batch, 4, side // 8, side // 8)
        return count_module(
            unet, latents, _time(batch), _empty(batch, 77, 2048), added_cond_kwargs=extra, return_dict=False
        )

    return count


def _cogvideox(heads: int, layers: int) -> Callable[[int], ModuleCost]:
    def count(batch: int) -> ModuleCost:
        model = _build(
            "CogVideoXTransformer3DModel",
            num_attention_heads=heads,
            attention_head_dim=64,
            num_layers=layers,
            in_channels=16,
            out_channels=16,
        )
        return count_module(
            model, _empty(batch, 13, 16, 60, 90), _empty(batch, 226, 4096), _time(batch), return_dict=False
        )

    return count


def _wan(batch: int) -> ModuleCost:
    model = nn.Module.to(HUB_ARCHITECTURES["wan-2.1-1.3b"].denoiser(), HALF)
    return count_module(
        model, _empty(batch, 16, 21, 60, 104), _time(batch), _empty(batch, 512, 4096), return_dict=False
    )


def _hunyuan(batch: int) -> ModuleCost:
    model = _build("HunyuanVideoTransformer3DModel")
    return count_module(
        model,
        _empty(batch, 16, 33, 90, 160),
        _time(batch),
        _empty(batch, 256, 4096),
        _empty(batch, 256, kind=torch.long),
        _empty(batch, 768),
        guidance=_empty(batch),
        return_dict=False,
    )


MODELS: dict[str, Callable[[int], ModuleCost]] = {
    "sd21-512": _sd21,
    "sdxl-1024": _sdxl(1024),
    "sdxl-768": _sdxl(768),
    "cogvideox-2b": _cogvideox(30, 30),
    "cogvideox-5b": _cogvideox(48, 42),
    "wan-1.3b-480p": _wan,
    "hunyuan-720p": _hunyuan,
}
DECODED_SIDE = {"sd21-512": 512, "sdxl-1024": 1024, "sdxl-768": 768}


@cache
def decoder_cost(model: str) -> ModuleCost:
    """One image through the image decoder that the SD family shares."""
    decoder: Any = nn.Module.to(HUB_ARCHITECTURES["modelscope-1.7b"].decoder(), HALF)
    side = DECODED_SIDE[model] // 8
    return count_call(decoder.decode, _empty(1, 4, side, side), module=decoder, return_dict=False)
