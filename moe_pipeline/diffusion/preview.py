"""Previews without a decoder: a linear map from latent channels to colour, fitted once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_pipeline.diffusion.ridge import ridge


class LatentPreview(nn.Module):
    """(B, C, F, H, W) latents -> uint8 (B, F, H, W, 3) at latent size."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 3))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, latents: Tensor) -> Tensor:
        colour = latents.permute(0, 2, 3, 4, 1).float() @ self.weight.float() + self.bias.float()
        return ((colour.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def fit_preview(latents: Tensor, frames: Tensor, penalty: float = 1e-3) -> LatentPreview:
    """Ridge regression from latents (N, C, F, H, W) to the mean colour of the pixels each position covers.

    `frames` (N, 3, T, Hp, Wp) in [-1, 1]; the clip is averaged down to the latent grid. `penalty` is a position's:
    predicted latents leave the subspace that clean ones fill, and a map with large weights there shows noise.
    """
    f, h, w = latents.shape[2:]
    small = nn.functional.adaptive_avg_pool3d(frames.float(), (f, h, w))
    x = latents.permute(0, 2, 3, 4, 1).reshape(-1, latents.shape[1])
    y = small.permute(0, 2, 3, 4, 1).reshape(-1, 3)
    weight, bias = ridge(x, y, penalty * len(x))
    preview = LatentPreview(latents.shape[1])
    with torch.no_grad():
        preview.weight.copy_(weight)
        preview.bias.copy_(bias)
    return preview
