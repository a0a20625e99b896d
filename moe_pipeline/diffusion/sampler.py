"""Sampling along the flow, one step at a time, as a generator.

The sampler knows a callable `(x, sigma, index) -> velocity` and nothing about mixtures, text or guidance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_pipeline.diffusion import flow

Velocity = Callable[[Tensor, float, int], Tensor]


@dataclass(frozen=True, slots=True)
class SampledStep:
    """State after one denoising step: `x` at `next_sigma`, and the clean clip predicted from this step."""

    index: int
    sigma: float
    next_sigma: float
    x: Tensor
    clean: Tensor


def initial_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise on the CPU, float32, from its own generator: the same on every torch device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator)


def sample(
    x: Tensor, sigmas: Sequence[float], velocity: Velocity, *, order: int = 2
) -> Iterator[SampledStep]:
    """Walk x from sigmas[0] down to sigmas[-1], yielding after each step.

    `order` 1 is Euler; 2 is the variable-step Adams-Bashforth rule, which reuses the last step's velocity and so
    costs nothing more (Hairer, Norsett, Wanner, "Solving ordinary differential equations I", III.5). The first
    step is always Euler.
    """
    previous: Tensor | None = None
    previous_width = 0.0
    for index, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        v = velocity(x, sigma, index).float()
        width = following - sigma
        direction = v
        if order == 2 and previous is not None:
            direction = v + (width / (2.0 * previous_width)) * (v - previous)
        clean = flow.clean_estimate(x, v, sigma)
        x = flow.step(x, direction, sigma, following)
        previous, previous_width = v, width
        yield SampledStep(index, sigma, following, x, clean)
