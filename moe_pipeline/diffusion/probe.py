"""Frame features from the pack's own autoencoder, and a linear probe from them to the text encoder's space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 4  # features keep a coarse layout: 4 x 4 cells of the picture


class FrameProbe(nn.Module):
    """Least-squares map from frame features (N, features) to centred text features (N, text).

    `text_mean` is the mean text feature of the training captions: without it every caption of the pack would look
    alike. Fitted by ridge regression in training/probe.py; it *measures* clips and never steers them.
    """

    text_mean: Tensor

    def __init__(self, features: int = 16 * GRID * GRID, text: int = 384) -> None:
        super().__init__()
        self.map = nn.Linear(features, text)
        self.register_buffer("text_mean", torch.zeros(text))

    def forward(self, features: Tensor) -> Tensor:
        """(N, features) -> (N, text) of unit length."""
        return F.normalize(self.map(features.float()), dim=-1)

    def text(self, pooled: Tensor) -> Tensor:
        """Sentence features (N, text) -> the probe's space, unit length."""
        return F.normalize(pooled.float() - self.text_mean, dim=-1)


def still_features(latents: Tensor) -> Tensor:
    """Latents of frames that stand still (N, C, 1, H, W) -> (N, C * 16), averaged on a 4 x 4 grid."""
    return F.adaptive_avg_pool2d(latents[:, :, 0].float(), GRID).flatten(1)
