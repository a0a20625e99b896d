"""A gate without training: how near a text is to what each expert says of itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The logit of an expert at a noise level that is not its own: finite, and nothing after the softmax.
OUTSIDE = -1e4


class DescriptionGate(nn.Module):
    """Cosine between a text and the experts' descriptions and examples; each expert counts with its nearest phrase.

    For experts that were not trained together with a gate: packs of the hub. Experts may own spans of the noise
    level (Wan 2.2's two are told apart by nothing else); outside of its span an expert has no weight.

    Args:
        experts: how many.
        features: width of the sentence features.
        phrases: how many phrases all experts have together; at least one each.
        temperature: of the softmax over cosines; small is decided.
        coverage_low, coverage_high: cosines to the nearest phrase between which coverage rises from 0 to 1.
    """

    id = "description"
    phrases: Tensor
    owners: Tensor
    spans: Tensor

    def __init__(
        self,
        experts: int,
        features: int = 384,
        phrases: int | None = None,
        temperature: float = 0.07,
        coverage_low: float = 0.05,
        coverage_high: float = 0.35,
    ) -> None:
        super().__init__()
        count = experts if phrases is None else phrases
        self.experts, self.temperature = experts, temperature
        self.coverage_low, self.coverage_high = coverage_low, coverage_high
        self.register_buffer("phrases", torch.zeros(count, features))
        self.register_buffer("owners", torch.arange(count) % experts)
        self.register_buffer("spans", torch.tensor([[0.0, 1.0]]).repeat(experts, 1))

    def describe(
        self,
        phrases: Tensor,
        owners: Sequence[int],
        spans: Sequence[tuple[float, float] | None] | None = None,
    ) -> DescriptionGate:
        """Take the features of the phrases (P, features), whose they are, and the experts' noise levels."""
        self.phrases = torch.nn.functional.normalize(phrases.float(), dim=-1)
        self.owners = torch.tensor(list(owners), dtype=torch.long)
        if spans is not None:
            self.spans = torch.tensor([span or (0.0, 1.0) for span in spans])
        return self

    def forward(self, pooled: Tensor, sigma: Tensor) -> Tensor:
        """pooled (B, features) of unit length, sigma (B,) in [0, 1] -> logits (B, experts).

        A span holds its lower end, not its upper one, except that 1 belongs to the span that ends there.
        """
        cosines = pooled.float() @ self.phrases.T  # (B, P)
        best = torch.full((len(pooled), self.experts), -1.0, device=pooled.device)
        best = best.scatter_reduce(
            1, self.owners.expand(len(pooled), -1), cosines, reduce="amax", include_self=True
        )
        level = sigma.float()[:, None]
        low, high = self.spans[:, 0], self.spans[:, 1]
        inside = (level >= low) & ((level < high) | (high == 1.0))  # (B, experts)
        return torch.where(inside, best / self.temperature, torch.full_like(best, OUTSIDE))

    def coverage(self, pooled: Tensor) -> Tensor:
        """How near a text (B, features) is to any phrase: (B,) in [0, 1]."""
        nearest = (pooled.float() @ self.phrases.T).amax(-1)
        return ((nearest - self.coverage_low) / (self.coverage_high - self.coverage_low)).clamp(0.0, 1.0)
