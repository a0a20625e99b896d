"""The embedded pack's gate: sentence features and noise level in, one logit an expert out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextSigmaGate(nn.Module):
    """A two-layer perceptron over sentence features whose hidden layer also hears the noise level.

    It is trained twice (training/gate.py): first to name the domains of a text, then through the mixture itself,
    to lower the denoising error of the combined prediction at each noise level.

    `prototypes` are the centres of the training captions' features; the cosine to the nearest one, between `low`
    and `high`, tells how well a text is covered.
    """

    id = "text-sigma"
    prototypes: Tensor
    coverage_range: Tensor

    def __init__(self, experts: int, features: int = 384, hidden: int = 128, prototypes: int = 96) -> None:
        super().__init__()
        self.features = features
        self.text_in = nn.Linear(features, hidden)
        self.sigma_in = nn.Linear(16, hidden, bias=False)
        self.out = nn.Linear(hidden, experts)
        nn.init.zeros_(self.sigma_in.weight)
        self.register_buffer("prototypes", torch.zeros(prototypes, features))
        self.register_buffer("coverage_range", torch.tensor([0.0, 1.0]))

    def forward(self, pooled: Tensor, sigma: Tensor) -> Tensor:
        """pooled (B, features) of unit length, sigma (B,) in [0, 1] -> logits (B, experts)."""
        frequencies = 2.0 ** torch.arange(8, device=sigma.device, dtype=torch.float32)
        angles = sigma.float()[:, None] * frequencies * (math.pi / 2)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B, 16)
        # Unit-length features of 384 numbers are tiny; scale them to a deviation of about one.
        hidden = self.text_in(pooled.float() * self.features**0.5) + self.sigma_in(waves)
        return self.out(F.gelu(hidden))

    def coverage(self, pooled: Tensor) -> Tensor:
        """How near a text (B, features) is to the training captions: (B,) in [0, 1]."""
        nearest = (pooled.float() @ self.prototypes.T).amax(-1)
        low, high = self.coverage_range
        return ((nearest - low) / (high - low)).clamp(0.0, 1.0)
