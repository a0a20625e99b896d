"""What the gate (in other texts: the router) decided."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SubtaskGate(BaseModel):
    """Gate weights of one subtask alone, over all experts; sums to 1."""

    model_config = ConfigDict(frozen=True)

    subtask: str
    weights: dict[str, float]


class StepGate(BaseModel):
    """Routing weights of one denoising step after top-k; the active ones sum to 1, the others are 0."""

    model_config = ConfigDict(frozen=True)

    index: int
    sigma: float
    weights: dict[str, float]


class GateDecision(BaseModel):
    """Routing of one run.

    Attributes:
        weights: mean routing weight of each expert over all denoising steps; sums to 1.
        active: experts that take part in at least one step, heaviest first.
        coverage: 0 to 1, how well the prompt lies inside what the pack was trained on.
        low_coverage: True when the clip deserves a visible note.
        by_subtask: dense weights of each part of the plan.
        by_step: sparse weights of each denoising step.
    """

    model_config = ConfigDict(frozen=True)

    gate: str
    weights: dict[str, float]
    active: tuple[str, ...]
    coverage: float = Field(ge=0.0, le=1.0)
    low_coverage: bool
    by_subtask: tuple[SubtaskGate, ...]
    by_step: tuple[StepGate, ...]
