"""Low-rank changes of a denoiser (Hu et al., "LoRA", 2021, arXiv 2106.09685), merged into a copy that shares the rest.

An expert with a LoRA costs the memory of the layers it changes, nothing at run time, and no other library. Read are
the names of peft (`....lora_A.weight`), of diffusers before it (`....to_q_lora.down.weight`) and of kohya
(`lora_unet_..._to_q.lora_down.weight`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moe_pipeline.schema.errors import MoEverseError

_PREFIXES = ("unet.", "transformer.", "base_model.model.", "diffusion_model.")
_FORMS = (
    re.compile(r"^(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$"),
    re.compile(r"^(?P<layer>.+?)(?:\.processor)?\.(?P<leaf>to_[a-z]+)_lora\.(?P<side>down|up)\.weight$"),
    re.compile(r"^(?P<layer>.+)\.lora[._](?P<side>down|up)\.weight$"),
)
_ALPHA = re.compile(r"^(?P<layer>.+)\.alpha$")
_SIDES = {"A": "down", "B": "up", "down": "down", "up": "up"}


@dataclass
class _Pair:
    down: Tensor | None = None  # (rank, in, ...)
    up: Tensor | None = None  # (out, rank, ...)
    alpha: float | None = None


def _layer_and_side(key: str) -> tuple[str, str] | None:
    for form in _FORMS:
        if found := form.match(key):
            parts = found.groupdict()
            leaf = parts.get("leaf")
            layer = parts["layer"] if leaf is None else f"{parts['layer']}.{leaf}"
            return layer.removesuffix(".processor"), _SIDES[parts["side"]]
    return None


def _pairs(tensors: Mapping[str, Tensor], source: str) -> dict[str, _Pair]:
    pairs: dict[str, _Pair] = {}
    for key, tensor in tensors.items():
        if found := _ALPHA.match(key):
            pairs.setdefault(found["layer"], _Pair()).alpha = float(tensor)
            continue
        named = _layer_and_side(key)
        if named is None:
            raise MoEverseError(
                "lora_unknown",
                f"{source} holds {key[:120]!r}, which is no part of a LoRA known here.",
                "Save it in the layout of peft or kohya, for the denoiser alone.",
            )
        setattr(pairs.setdefault(named[0], _Pair()), named[1], tensor)
    return pairs


def _find(layers: Mapping[str, nn.Module], flat: Mapping[str, str], name: str) -> str | None:
    """The module a LoRA's layer name means: dotted, with a prefix, or with underscores for dots."""
    for prefix in ("", *_PREFIXES):
        bare = name.removeprefix(prefix)
        for candidate in (bare, f"{bare}.0"):  # `to_out` of old names is `to_out.0`
            if candidate in layers:
                return candidate
    bare = name.removeprefix("lora_unet_").removeprefix("lora_transformer_")
    return flat.get(bare) or flat.get(f"{bare}_0")


def _delta(pair: _Pair, weight: Tensor, layer: str, source: str) -> Tensor:
    """alpha / rank * up @ down, in the layer's shape, float32."""
    if pair.down is None or pair.up is None:
        raise MoEverseError(
            "lora_unknown", f"{source} has only one half of the LoRA of {layer}.", "Save it again."
        )
    down, up = pair.down.float(), pair.up.float()
    rank = down.shape[0]
    scale = 1.0 if pair.alpha is None else pair.alpha / rank
    if up.flatten(1).shape[1] != rank or up.shape[0] * down[0].numel() != weight.numel():
        raise MoEverseError(
            "lora_mismatch",
            f"{source} changes {layer} by {tuple(up.shape)} x {tuple(down.shape)}, but the layer is "
            f"{tuple(weight.shape)}.",
            "Use a LoRA that was trained on this model.",
        )
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


@torch.no_grad()
def with_lora(model: nn.Module, tensors: Mapping[str, Tensor], scale: float, source: str) -> nn.Module:
    """A copy of `model` with the LoRA merged; layers that it does not change share their memory with `model`.

    Raises:
        MoEverseError: `lora_unknown` (names that are no LoRA, no layer of the model), `lora_mismatch` (shapes).
    """
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    merged = copy.deepcopy(model, memo)
    layers = {name: module for name, module in merged.named_modules() if hasattr(module, "weight")}
    flat = {name.replace(".", "_"): name for name in layers}
    pairs = _pairs(tensors, source)
    if not pairs:
        raise MoEverseError("lora_unknown", f"{source} is empty.", "Save the LoRA again.")
    for name, pair in pairs.items():
        found = _find(layers, flat, name)
        if found is None:
            raise MoEverseError(
                "lora_unknown",
                f"{source} changes {name[:120]!r}, which the denoiser does not have.",
                "Use a LoRA that was trained on this model.",
            )
        layer = layers[found]
        weight = layer.weight
        assert isinstance(weight, Tensor)
        delta = _delta(pair, weight, found, source).to(weight.device)
        layer.weight = nn.Parameter((weight.float() + scale * delta).to(weight.dtype), requires_grad=False)
    return merged
