"""Choices fixed at load time: where and in which precision a pack runs."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from moe_pipeline.schema.errors import MoEverseError


class EngineConfig(BaseModel):
    """Choices fixed at load time: where and in which precision the pack runs.

    Attributes:
        torch_device: `auto` takes CUDA when there is one.
        dtype: `auto` takes bf16 where the processor multiplies it natively, float32 elsewhere.
        threads: torch threads on the CPU; None keeps what torch chose.
        cache_bytes: budget for loaded denoisers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    torch_device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=256)
    cache_bytes: int = Field(default=2 * 1024**3, ge=1)


def choose_device(wanted: str) -> torch.device:
    """The torch device of a configuration.

    Raises:
        MoEverseError: CUDA was asked for and is not here.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MoEverseError(
            "no_cuda", "There is no CUDA device here.", "Use the torch device `cpu` or `auto`."
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The precision of a configuration on that device."""
    if wanted == "auto":
        fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
