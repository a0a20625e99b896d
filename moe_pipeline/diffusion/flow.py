"""Rectified flow: the one definition of noise levels, target and step, for training and sampling alike.

Convention: sigma in [0, 1], 0 is data and 1 is noise, x = (1 - sigma) * data + sigma * noise, and the model
predicts the velocity dx/dsigma = noise - data (Liu et al., "Flow straight and fast", 2022, arXiv 2209.03003;
Lipman et al., "Flow matching", 2022, arXiv 2210.02747).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _broadcast(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def add_noise(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x at noise level sigma (B,): (B, ...) -> (B, ...)."""
    s = _broadcast(sigma, data)
    return (1.0 - s) * data + s * noise


def target(data: Tensor, noise: Tensor) -> Tensor:
    """The velocity that the model learns to predict."""
    return noise - data


def clean_estimate(x: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """Data predicted from x at level sigma: x - sigma * velocity."""
    return x - sigma * velocity


def step(x: Tensor, velocity: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """One Euler step along the flow from sigma to next_sigma."""
    return x + (next_sigma - sigma) * velocity


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Shift noise levels upwards: s' = shift * s / (1 + (shift - 1) * s) (Esser et al., 2024, arXiv 2403.03206)."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def noise_schedule(steps: int, shift: float = 1.0) -> list[float]:
    """`steps` + 1 noise levels from 1 down to 0, evenly spaced before the shift."""
    levels = shifted(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64), shift)
    return [float(level) for level in levels]


def training_sigmas(
    count: int, generator: torch.Generator | None, centre: float = 0.3, even: float = 0.5
) -> Tensor:
    """Noise levels for training, (count,) in (0, 1), in random order.

    A share `even` of them is spread evenly, one in each of as many equal strata, since a clip is judged at all levels;
    the others are logit-normal with mean `centre` (Esser et al., 2024, arXiv 2403.03206).
    """
    spread = round(even * count)
    levels = torch.sigmoid(torch.randn(count, generator=generator) + centre)
    strata = torch.arange(spread) + torch.rand(spread, generator=generator)
    levels[:spread] = (strata / max(spread, 1)).clamp(1e-4, 1.0 - 1e-4)
    return levels[torch.randperm(count, generator=generator)]


def velocity_loss(predicted: Tensor, data: Tensor, noise: Tensor) -> Tensor:
    """Mean squared velocity error, one figure a sample: (B, ...) -> (B,)."""
    return (predicted.float() - target(data, noise).float()).pow(2).flatten(1).mean(1)
