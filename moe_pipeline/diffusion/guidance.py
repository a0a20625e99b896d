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


@dataclass(frozen=True)
class SubjectGuidance:
    """Guidance that pulls harder towards what the subjects add to the world they stand in.

    With predictions f under the whole prompt, w under its backgrounds alone and u without text:

        u + scale * ((w - u) + subjects * (f - w))

    `subjects` = 1 is classifier-free guidance. The terms are those of composed energies (Liu et al., "Compositional
    visual generation with composable diffusion models", 2022, arXiv 2206.01714); the split into world and subjects
    comes from the plan of the prompt. The third branch is evaluated at `low` and above, where layout is decided;
    below, plain guidance goes on.

    Attributes:
        plain: scale and interval of classifier-free guidance.
        subjects: 1 and more.
        low: lowest noise level of the third branch.
        where: share of the subjects' term at each latent column, (W,); elsewhere the world stands alone. None: all.
    """

    plain: ClassifierFree
    subjects: float
    low: float = 0.6
    where: Tensor | None = None

    def needs_unconditional(self, sigma: float) -> bool:
        """Whether the unconditional branch matters at this noise level."""
        return self.plain.needs_unconditional(sigma)

    def needs_world(self, sigma: float) -> bool:
        """Whether the branch of the backgrounds matters at this noise level."""
        return self.subjects != 1.0 and sigma >= self.low and self.needs_unconditional(sigma)

    def branches(self, sigma: float) -> int:
        """Evaluations of each expert at this noise level: 1, 2 or 3."""
        return 1 + self.needs_unconditional(sigma) + self.needs_world(sigma)

    def __call__(
        self, conditional: Tensor, unconditional: Tensor | None, world: Tensor | None, sigma: float
    ) -> Tensor:
        if world is None or unconditional is None or not self.needs_world(sigma):
            return self.plain(conditional, unconditional, sigma)
        added = conditional - world  # (B, C, F, H, W)
        if self.where is not None:
            added = added * self.where.to(added)
        return unconditional + self.plain.scale * ((world - unconditional) + self.subjects * added)
