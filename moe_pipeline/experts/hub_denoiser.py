"""Denoisers of hub packs: a diffusers video model behind the flow convention of this project."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Parametrisation(Protocol):
    """Translation between the flow and a model's own convention (diffusion/levels.py)."""

    def enter(self, x: Tensor, sigma: float) -> Tensor: ...

    def timestep(self, sigma: float) -> float: ...

    def leave(self, x: Tensor, output: Tensor, sigma: float) -> Tensor: ...


class HubDenoiser:
    """`Denoiser` over a model called as `model(sample, timestep, encoder_hidden_states, return_dict=False)`.

    Translation happens in float32 around a model of any precision. The text has no mask: these models attend to
    the padding of the prompt, as they were trained.

    Args:
        model: takes (B, C, F, H, W); experts may share one.
        levels: its convention.
        dtype: the precision it runs in.
        largest_batch: rows that go through the model at once; long sequences gain nothing from more than one.
        text_per_frame: the model takes frames for pictures of a batch and wants a text for each (AnimateDiff).
    """

    def __init__(
        self,
        model: nn.Module,
        levels: Parametrisation,
        dtype: torch.dtype,
        largest_batch: int = 8,
        text_per_frame: bool = False,
    ) -> None:
        self.model, self.levels, self.dtype = model, levels, dtype
        self.largest_batch, self.text_per_frame = largest_batch, text_per_frame

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, F, H, W), sigma (B,) of one level, tokens (B, L, D), mask unused -> velocity, float32.

        Raises:
            ValueError: rows at different levels.
        """
        level = float(sigma[0])
        if bool((sigma != sigma[0]).any()):
            raise ValueError("one call works at one noise level")
        x = x.float()
        sample = self.levels.enter(x, level).to(self.dtype)
        time = torch.full((len(x),), self.levels.timestep(level), device=x.device)
        tokens, repeats = tokens.to(self.dtype), x.shape[2] if self.text_per_frame else 1
        outputs = [
            self.model(rows, at, text.repeat_interleave(repeats, dim=0), return_dict=False)[0]
            for rows, at, text in zip(
                sample.split(self.largest_batch),
                time.split(self.largest_batch),
                tokens.split(self.largest_batch),
                strict=True,
            )
        ]
        return self.levels.leave(x, torch.cat(outputs).float(), level)
