"""How the predictions of the active experts become one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def weighted_mean(predictions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Combine K predictions of one shape under weights that sum to 1; one-hot weights give that expert's own
    prediction bit for bit."""
    chosen = [(p, w) for p, w in zip(predictions, weights, strict=True) if w != 0.0]
    if len(chosen) == 1 and chosen[0][1] == 1.0:
        return chosen[0][0]
    total = chosen[0][0].float() * chosen[0][1]
    for prediction, weight in chosen[1:]:
        total = total + prediction.float() * weight
    return total.to(predictions[0].dtype)


FUSIONS = {"weighted-mean": weighted_mean}
