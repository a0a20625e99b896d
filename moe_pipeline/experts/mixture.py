"""The mixture: runs the active experts of a step and combines their predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moe_pipeline.experts.fusion import weighted_mean
from moe_pipeline.interfaces import Denoiser, Fusion

Lookup = Callable[[str], Denoiser]


class Mixture:
    """Experts behind one denoiser-like call. Weights come from outside, so that both guidance branches of a
    step share the same routing.

    Args:
        lookup: expert id -> denoiser; called when an expert is first active, so that experts load lazily.
        fusion: combines predictions; the weighted mean by default.
        between: called before each expert; may raise to stop the run between two experts.
    """

    def __init__(
        self, lookup: Lookup, fusion: Fusion = weighted_mean, between: Callable[[], None] | None = None
    ) -> None:
        self.lookup, self.fusion, self.between = lookup, fusion, between

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, sigma: Tensor, tokens: Tensor, mask: Tensor, weights: Mapping[str, float]
    ) -> Tensor:
        """x (B, C, F, H, W), sigma (B,), tokens (B, L, D), mask (B, L), weights {expert: weight} -> like x."""
        active = {expert: weight for expert, weight in weights.items() if weight > 0.0}
        predictions = []
        for expert in active:
            if self.between is not None:
                self.between()
            predictions.append(self.lookup(expert)(x, sigma, tokens, mask))
        return self.fusion(predictions, list(active.values()))
