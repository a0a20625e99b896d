"""The velocity of a hub pack's mixture: experts that read texts of their own, on as few network calls as they allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moe_pipeline.diffusion.guidance import SubjectGuidance
from moe_pipeline.experts.fusion import weighted_mean
from moe_pipeline.interfaces import Denoiser

if TYPE_CHECKING:
    from moe_pipeline.engine.hub import HubEngine


class HubVelocity:
    """Guided mixture over experts that read texts of their own.

    Experts on one network share its call: their own rows, and once the rows whose text is the same for all. The
    predictions are combined under the gate's weights, then guided; with one network this is composable diffusion
    (Liu et al., "Compositional visual generation", 2022, arXiv 2206.01714) with weights that sum to 1.

    Args:
        engine: where the experts come from.
        tokens: expert -> (1, L, D), what it reads.
        empty: (1, L, D), what the unconditional branch reads.
        weights: for each step, the routing weights.
        guider: guidance scales and intervals.
        between: called before each network; may raise to stop the run.
        world: (1, L, D), the backgrounds alone; needed where the guider asks for them.
        texts: what the experts read, in words, where that is more than the prompt; for the record.
    """

    def __init__(
        self,
        engine: HubEngine,
        tokens: Mapping[str, Tensor],
        empty: Tensor,
        weights: Sequence[Mapping[str, float]],
        guider: SubjectGuidance,
        between: Callable[[], None] | None = None,
        *,
        world: Tensor | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.engine, self.tokens, self.empty, self.world = engine, tokens, empty, world
        self.weights, self.guider, self.between = weights, guider, between
        self.texts = dict(texts or {})
        # Held for the run, so that a small cache does not load an expert anew at every step.
        self._denoisers: dict[str, Denoiser] = {}

    def _denoiser(self, expert: str) -> Denoiser:
        if expert not in self._denoisers:
            self._denoisers[expert] = self.engine.denoiser(expert)
        return self._denoisers[expert]

    def _groups(self, index: int) -> dict[Any, list[str]]:
        """Active experts of a step by the network they run, without loading one."""
        groups: dict[Any, list[str]] = {}
        manifest = self.engine.manifest
        for name, weight in self.weights[index].items():
            if weight > 0.0:
                expert = manifest.expert(name)
                groups.setdefault((manifest.denoiser_of(expert), expert.lora), []).append(name)
        return groups

    def _shared(self, sigma: float) -> list[Tensor]:
        """The rows that all experts of a step share: without text, and under the backgrounds alone."""
        rows = [self.empty] if self.guider.needs_unconditional(sigma) else []
        if self.world is not None and self.guider.needs_world(sigma):
            rows.append(self.world)
        return rows

    def forward_passes(self, index: int, sigma: float) -> int:
        """Rows that go through a network in this step: each active expert, and the shared ones once a network."""
        groups = self._groups(index)
        return sum(map(len, groups.values())) + len(groups) * len(self._shared(sigma))

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float, index: int) -> Tensor:
        """x (1, C, F, H, W) float32 at `sigma` -> guided velocity, float32."""
        x, shared = x.to(self.engine.device), self._shared(sigma)
        conditional: dict[str, Tensor] = {}
        others: list[list[Tensor]] = [[] for _ in shared]  # by shared row, one prediction a network
        shares: list[float] = []
        for names in self._groups(index).values():
            if self.between is not None:
                self.between()
            tokens = torch.cat([*(self.tokens[name] for name in names), *shared])
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            # float64: 0.9 in float32 lies below 0.9, and timesteps are cut to whole ones
            level = torch.full((len(tokens),), sigma, dtype=torch.float64)
            found = self._denoiser(names[0])(x.expand(len(tokens), *x.shape[1:]), level, tokens, mask).split(
                1
            )
            conditional |= dict(zip(names, found, strict=False))
            shares.append(sum(self.weights[index][name] for name in names))
            for predictions, prediction in zip(others, found[len(names) :], strict=True):
                predictions.append(prediction)
        weights = [self.weights[index][name] for name in conditional]
        mixed = weighted_mean(list(conditional.values()), weights)
        means = [weighted_mean(predictions, shares) for predictions in others]
        empty, world = (*means, None, None)[:2]
        return self._guider(index)(mixed, empty, world, sigma)

    def _guider(self, index: int) -> SubjectGuidance:
        """The run's guider with its scale times the active experts' own factors, by their weights."""
        manifest, weights = self.engine.manifest, self.weights[index]
        factor = sum(
            weight * manifest.expert(name).guidance for name, weight in weights.items() if weight > 0.0
        )
        if abs(factor - 1.0) < 1e-9:
            return self.guider
        plain = replace(self.guider.plain, scale=self.guider.plain.scale * factor)
        return replace(self.guider, plain=plain)
