"""The velocity of a hub pack's mixture: experts that read texts of their own, on as few network calls as they allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moe_pipeline.diffusion.guidance import ClassifierFree
from moe_pipeline.experts.fusion import weighted_mean
from moe_pipeline.interfaces import Denoiser

if TYPE_CHECKING:
    from moe_pipeline.engine.hub import HubEngine


class HubVelocity:
    """Guided mixture over experts that read texts of their own.

    Experts on one network share its call: their conditional rows and, once, the unconditional one, whose text is the
    same for all. The predictions are combined under the gate's weights, then guided; with one network this is
    composable diffusion (Liu et al., "Compositional visual generation", 2022, arXiv 2206.01714) with weights that
    sum to 1.

    Args:
        engine: where the experts come from.
        tokens: expert -> (1, L, D), what it reads.
        empty: (1, L, D), what the unconditional branch reads.
        weights: for each step, the routing weights.
        guider: guidance scale and interval.
        between: called before each network; may raise to stop the run.
        texts: what the experts read, in words, where that is more than the prompt; for the record.
    """

    def __init__(
        self,
        engine: HubEngine,
        tokens: Mapping[str, Tensor],
        empty: Tensor,
        weights: Sequence[Mapping[str, float]],
        guider: ClassifierFree,
        between: Callable[[], None] | None = None,
        *,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.engine, self.tokens, self.empty = engine, tokens, empty
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

    def forward_passes(self, index: int, sigma: float) -> int:
        """Rows that go through a network in this step: each active expert, and one empty text a network."""
        groups = self._groups(index)
        empty = len(groups) if self.guider.needs_unconditional(sigma) else 0
        return sum(map(len, groups.values())) + empty

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float, index: int) -> Tensor:
        """x (1, C, F, H, W) float32 at `sigma` -> guided velocity, float32."""
        guided = self.guider.needs_unconditional(sigma)
        x = x.to(self.engine.device)
        conditional: dict[str, Tensor] = {}
        unconditional, shares = [], []
        for names in self._groups(index).values():
            if self.between is not None:
                self.between()
            rows = [self.tokens[name] for name in names] + ([self.empty] if guided else [])
            tokens = torch.cat(rows)
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            level = torch.full((len(rows),), sigma)
            found = self._denoiser(names[0])(x.expand(len(rows), *x.shape[1:]), level, tokens, mask)
            conditional |= dict(zip(names, found.split(1), strict=False))
            if guided:
                unconditional.append(found[-1:])
                shares.append(sum(self.weights[index][name] for name in names))
        weights = [self.weights[index][name] for name in conditional]
        mixed = weighted_mean(list(conditional.values()), weights)
        empty = weighted_mean(unconditional, shares) if guided else None
        return self._guider(index)(mixed, empty, sigma)

    def _guider(self, index: int) -> ClassifierFree:
        """The run's guider with its scale times the active experts' own factors, by their weights."""
        manifest, weights = self.engine.manifest, self.weights[index]
        factor = sum(
            weight * manifest.expert(name).guidance for name, weight in weights.items() if weight > 0.0
        )
        return (
            self.guider
            if abs(factor - 1.0) < 1e-9
            else replace(self.guider, scale=self.guider.scale * factor)
        )
