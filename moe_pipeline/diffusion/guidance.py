"""Guiders: how the conditional and the unconditional prediction become one.

With shared gate weights "mix, then guide" and "guide, then mix" are the same for the linear rule below, because
both are linear in the predictions; this project mixes first (one guided prediction a step).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) inside an interval of noise levels.

    Outside [low, high] the conditional prediction stands alone, which saves half of the work there and keeps
    colours calm (Kynkaanniemi et al., "Applying guidance in a limited interval", 2024, arXiv 2404.07724).
    """

    scale: float
    low: float = 0.0
    high: float = 1.0

    def needs_unconditional(self, sigma: float) -> bool:
        """Whether the unconditional branch matters at this noise level."""
        return self.scale != 1.0 and self.low <= sigma <= self.high

    def __call__(self, conditional: Tensor, unconditional: Tensor | None, sigma: float) -> Tensor:
        if unconditional is None or not self.needs_unconditional(sigma):
            return conditional
        return unconditional + self.scale * (conditional - unconditional)
