"""From dense gate logits to the sparse routing of every denoising step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from moe_pipeline.schema.gate import GateDecision, StepGate, SubtaskGate
from moe_pipeline.schema.plan import ScenePlan

# Chosen on training/foreign_prompts.yaml and training/paraphrases.yaml, which also set the scale of the coverage.
LOW_COVERAGE = 0.33
# An expert below this share costs a forward pass and changes next to nothing, so it is left out of a step.
WEIGHT_FLOOR = 0.02


class CoveredGate(Protocol):
    """A gate that also knows how well a text is covered, and under which name it stands in a record."""

    @property
    def id(self) -> str: ...

    def __call__(self, pooled: Tensor, sigma: Tensor) -> Tensor: ...

    def coverage(self, pooled: Tensor) -> Tensor: ...


def top_k(weights: Tensor, k: int, floor: float = WEIGHT_FLOOR) -> Tensor:
    """Keep the k largest weights of each row (..., experts), drop those below `floor`, renormalise to sum 1.

    The largest weight always stays. Equal weights are kept in the order of the experts.
    """
    order = torch.argsort(weights, dim=-1, descending=True, stable=True)[..., :k]
    kept = torch.zeros_like(weights).scatter(-1, order, weights.gather(-1, order))
    largest = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order[..., :1], True)
    kept = torch.where((kept >= floor) | largest, kept, torch.zeros_like(kept))
    return kept / kept.sum(-1, keepdim=True)


@torch.inference_mode()
def route(
    gate: CoveredGate,
    pooled: Tensor,
    plan: ScenePlan,
    experts: Sequence[str],
    sigmas: Sequence[float],
    k: int,
    whole: Tensor | None = None,
) -> GateDecision:
    """Routing of a whole run, decided before the first step from the conditional text alone.

    Args:
        pooled: (subtasks, D) sentence features of the plan's parts.
        plan: parts and their shares.
        experts: ids in the order of the gate's logits.
        sigmas: noise levels of the denoising steps.
        k: experts a step.
        whole: (D,) features of the whole prompt, for the coverage, whose scale was made of whole texts: one part
            that the pack knows does not make up for the rest. Without it, the parts' best.
    """
    parts, steps = len(plan.subtasks), len(sigmas)
    levels = torch.tensor(list(sigmas), dtype=torch.float32)
    logits = gate(pooled.repeat(steps, 1), levels.repeat_interleave(parts))  # (steps * parts, E)
    dense = logits.softmax(-1).reshape(steps, parts, len(experts))
    shares = torch.tensor([part.share for part in plan.subtasks])
    mixed = torch.einsum("spe,p->se", dense, shares)
    sparse = top_k(mixed, k).double()
    mean = sparse.mean(0)
    mean = mean / mean.sum()
    weights = {expert: float(w) for expert, w in zip(experts, mean, strict=True)}
    active = tuple(sorted((e for e in experts if weights[e] > 0.0), key=lambda e: -weights[e]))
    sentence = pooled if whole is None else whole[None]
    coverage = float(gate.coverage(sentence).amax())
    by_part = dense.mean(0)
    return GateDecision(
        gate=gate.id,
        weights=weights,
        active=active,
        coverage=coverage,
        low_coverage=coverage < LOW_COVERAGE,
        by_subtask=tuple(
            SubtaskGate(subtask=part.id, weights={e: float(w) for e, w in zip(experts, row, strict=True)})
            for part, row in zip(plan.subtasks, by_part, strict=True)
        ),
        by_step=tuple(
            StepGate(
                index=i, sigma=float(s), weights={e: float(w) for e, w in zip(experts, row, strict=True)}
            )
            for i, (s, row) in enumerate(zip(sigmas, sparse, strict=True))
        ),
    )


def single(expert: str, sigmas: Sequence[float], coverage: float) -> GateDecision:
    """The decision of `single` mode: one model at every step, no gate."""
    return GateDecision(
        gate="none",
        weights={expert: 1.0},
        active=(expert,),
        coverage=coverage,
        low_coverage=coverage < LOW_COVERAGE,
        by_subtask=(),
        by_step=tuple(StepGate(index=i, sigma=float(s), weights={expert: 1.0}) for i, s in enumerate(sigmas)),
    )
