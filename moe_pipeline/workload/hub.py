"""Workloads of packs on the hub, from their architecture alone: modules are built on meta, nothing is loaded.

Configurations are the published ones of each model's `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import PRECISION_BYTES, Precision
from moe_pipeline.schema.workload import StageWorkloads, Workload
from moe_pipeline.workload.count import count_call
from moe_pipeline.workload.stages import (
    as_workload,
    exchange_workload,
    export_workload,
    shell_of,
    text_workload,
)

WAN_1_3B: dict[str, Any] = dict(
    num_attention_heads=12,
    attention_head_dim=128,
    num_layers=30,
    ffn_dim=8960,
    text_dim=4096,
    in_channels=16,
    out_channels=16,
)
WAN_14B: dict[str, Any] = {**WAN_1_3B, "num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}


@dataclass(frozen=True)
class HubArchitecture:
    """What is needed to price a hub pack without its weights."""

    title: str
    denoiser: Callable[[], nn.Module]
    decoder: Callable[[], nn.Module]
    text_encoder: Callable[[], nn.Module]
    channels: int
    spatial: int
    temporal: int
    video: bool  # 4k + 1 frames through a video autoencoder, or frame by frame
    text_tokens: int
    text_width: int
    noise_level_experts: bool = False
    text_per_frame: bool = False  # the denoiser reads the text once for each frame


def _wan(config: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from diffusers import WanTransformer3DModel

        with torch.device("meta"):
            return WanTransformer3DModel(**config)

    return build


def _wan_decoder() -> nn.Module:
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        return AutoencoderKLWan()


def _umt5() -> nn.Module:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=256384,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        return UMT5EncoderModel(config)


def _modelscope() -> nn.Module:
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        return UNet3DConditionModel()  # the class's defaults are the 1.7B model


def _image_decoder() -> nn.Module:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )


def _animatediff() -> nn.Module:
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        return UNetMotionModel(
            cross_attention_dim=768
        )  # SD 1.5 with the adapter v1-5-2, otherwise the class's defaults


def _clip_large() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )  # fmt: skip
    with torch.device("meta"):
        return CLIPTextModel(config)


def _clip() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        projection_dim=512,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        return CLIPTextModel(config)


HUB_ARCHITECTURES: dict[str, HubArchitecture] = {
    "wan-2.1-1.3b": HubArchitecture(
        "Wan 2.1 1.3B", _wan(WAN_1_3B), _wan_decoder, _umt5, 16, 8, 4, True, 512, 4096
    ),
    "wan-2.2-a14b": HubArchitecture(
        "Wan 2.2 A14B",
        _wan(WAN_14B),
        _wan_decoder,
        _umt5,
        16,
        8,
        4,
        True,
        512,
        4096,
        noise_level_experts=True,
    ),
    "modelscope-1.7b": HubArchitecture(
        "ModelScope 1.7B", _modelscope, _image_decoder, _clip, 4, 8, 1, False, 77, 1024
    ),
    "animatediff-1.5": HubArchitecture(
        "AnimateDiff 1.5",
        _animatediff,
        _image_decoder,
        _clip_large,
        4,
        8,
        1,
        False,
        77,
        768,
        text_per_frame=True,
    ),
}


def hub_workloads(
    name: str,
    *,
    frames: int,
    height: int,
    width: int,
    active: int = 1,
    guidance: bool = True,
    precision: Precision = "bf16",
    delta_bytes: int | None = None,
) -> StageWorkloads:
    """Every stage of a request on a hub pack. Guidance doubles the calls of a step (two passes of one batch).

    Raises:
        MoEverseError: `unknown_architecture`, `bad_shape`.
    """
    return architecture_workloads(
        architecture(name),
        frames=frames,
        height=height,
        width=width,
        active=active,
        branches=2 if guidance else 1,
        precision=precision,
        delta_bytes=delta_bytes,
        pack=name,
    )


def architecture(name: str) -> HubArchitecture:
    """A published architecture by name.

    Raises:
        MoEverseError: `unknown_architecture`.
    """
    if name not in HUB_ARCHITECTURES:
        raise MoEverseError(
            "unknown_architecture",
            f"There is no architecture '{name}'.",
            f"Known: {', '.join(HUB_ARCHITECTURES)}.",
        )
    return HUB_ARCHITECTURES[name]


def architecture_workloads(
    arch: HubArchitecture,
    *,
    frames: int,
    height: int,
    width: int,
    active: int = 1,
    branches: int = 2,
    precision: Precision = "bf16",
    delta_bytes: int | None = None,
    pack: str = "",
) -> StageWorkloads:
    """As `hub_workloads`, for any architecture: a pack's own, read from the configurations beside its weights.

    `branches` are the guidance branches of a step: 1 without guidance, 2 with it, 3 with that of subjects.

    Raises:
        MoEverseError: `bad_shape`.
    """
    if (
        height % (2 * arch.spatial)
        or width % (2 * arch.spatial)
        or (arch.video and frames % arch.temporal != 1)
    ):
        raise MoEverseError(
            "bad_shape",
            f"{arch.title} cannot make {frames} frames of {width}x{height}.",
            f"Use multiples of {2 * arch.spatial} pixels"
            + (f" and {arch.temporal}k + 1 frames." if arch.video else "."),
        )
    length = (frames - 1) // arch.temporal + 1 if arch.video else frames
    latents = (arch.channels, length, height // arch.spatial, width // arch.spatial)
    elements = arch.channels * length * latents[2] * latents[3]
    width_bytes = PRECISION_BYTES[precision]
    latent_bytes = round(elements * width_bytes)
    shell, dtype, counted = shell_of(arch.denoiser(), precision)
    step = count_call(
        shell,
        torch.zeros(1, *latents, dtype=dtype, device="meta"),
        torch.zeros(1, dtype=torch.long, device="meta"),
        torch.zeros(
            frames if arch.text_per_frame else 1,
            arch.text_tokens,
            arch.text_width,
            dtype=dtype,
            device="meta",
        ),
        module=shell,
        return_dict=False,
    )
    return StageWorkloads(
        text=text_workload(
            arch.text_encoder(),
            arch.text_tokens,
            precision=precision,
            batch=branches,
            conditioning_bytes=round(branches * arch.text_tokens * arch.text_width * width_bytes),
        ),
        expert_step=as_workload(
            "expert_step", step, counted, calls=branches, note=f"{branches} passes, guidance included"
        )
        .at(precision)
        .model_copy(update={"input_bytes": latent_bytes, "output_bytes": branches * latent_bytes}),
        exchange=exchange_workload(elements, active, branches, precision),
        decode=_decode_workload(arch, latents, frames, height, width, precision),
        export=export_workload(frames, height, width, precision),
        latent_bytes=latent_bytes,
        delta_bytes=delta_bytes,
        noise_level_experts=arch.noise_level_experts,
        frames=frames,
        width=width,
        height=height,
        pack=pack,
    )


def _decode_workload(
    arch: HubArchitecture,
    latents: tuple[int, ...],
    frames: int,
    height: int,
    width: int,
    precision: Precision,
) -> Workload:
    shell, dtype, counted = shell_of(arch.decoder(), precision)
    decode: Any = shell.decode
    pixels = 3 * frames * height * width
    if arch.video:
        cost = count_call(
            decode, torch.zeros(1, *latents, dtype=dtype, device="meta"), module=shell, return_dict=False
        )
        return as_workload("decode", cost, counted, output_bytes=pixels).at(precision)
    frame = torch.zeros(1, latents[0], *latents[2:], dtype=dtype, device="meta")
    cost = count_call(decode, frame, module=shell, return_dict=False)
    return as_workload("decode", cost, counted, calls=frames, output_bytes=pixels).at(precision)
