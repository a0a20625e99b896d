"""What each expert of a pack with expert prompts reads: the scene, its own parts of it, its own words."""

from __future__ import annotations

from collections.abc import Sequence

from moe_pipeline.schema.gate import SubtaskGate
from moe_pipeline.schema.plan import ScenePlan


def own_parts(
    plan: ScenePlan, gates: Sequence[SubtaskGate], active: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The parts of the plan by the active expert that the gate gives most weight for each; in the plan's order.

    An active expert may own no part: it then reads the scene as a whole.
    """
    texts = {part.id: part.text for part in plan.subtasks}
    owned: dict[str, list[str]] = {expert: [] for expert in active}
    for gate in gates:
        owner = max(active, key=lambda expert: gate.weights.get(expert, 0.0))
        if gate.subtask in texts:
            owned[owner].append(texts[gate.subtask])
    return {expert: tuple(parts) for expert, parts in owned.items()}


def expert_text(prompt: str, parts: Sequence[str], words: str) -> str:
    """The visitor's prompt, then the expert's own parts of it, then the expert's words.

    The whole prompt stands first in every expert's text, so that all of them draw the same scene and a text
    encoder that cuts long texts cuts the expert's words and not the visitor's. Parts are repeated only where they
    are less than the whole.
    """
    own = [part for part in parts if part.strip().lower() != prompt.strip().lower()]
    pieces = (prompt, *own, words)
    return ", ".join(piece.strip().strip(",") for piece in pieces if piece.strip())
