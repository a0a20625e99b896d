"""The gate's weights by denoising step, and the plan that they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.ui.palette import Palette
from moe_pipeline.ui.panel import Panel, View

CAPTIONS = {
    "empty": "",
    "draft": "before you generate",
    "run": "live",
    "clip": "of this clip",
}


def empty_gate(palette: Palette, steps: int = 16) -> View:
    """No prompt yet: the experts and no weights."""
    tones = palette.columns(())
    return _gate_view("empty", palette, [t.id for t in tones], [{} for _ in range(steps)], {}, 0, -1)


def gate_view(decision: GateDecision, palette: Palette, *, source: str, done: int, current: int = -1) -> View:
    """View of a decision; `done` steps are drawn solid, the others faint, `current` is marked."""
    steps = [dict(step.weights) for step in decision.by_step] or [dict(decision.weights)]
    named = {name for name, weight in decision.weights.items() if weight > 0}
    columns = [tone.id for tone in palette.columns(named)]
    return _gate_view(source, palette, columns, steps, decision.weights, done, current)


def with_step(view: View, palette: Palette, index: int, total: int, weights: Mapping[str, float]) -> View:
    """The same chart with the weights that step `index` of `total` really used."""
    columns = [tone["id"] for tone in view["experts"]]
    if any(weight > 0 and name not in columns for name, weight in weights.items()):
        columns = [tone.id for tone in palette.columns({n for n, w in weights.items() if w > 0})]
    old = view["steps"] if len(view["experts"]) == len(columns) else []
    row = [round(weights.get(name, 0.0), 4) for name in columns]
    steps = [list(old[i]) if i < len(old) else [0.0] * len(columns) for i in range(total)]
    steps[index] = row
    seen = steps[: index + 1]
    shares = [sum(step[i] for step in seen) / len(seen) for i in range(len(columns))]
    return {
        **view,
        "source": "run",
        "caption": CAPTIONS["run"],
        "experts": _experts(palette, columns),
        "steps": steps,
        "shares": [round(share, 4) for share in shares],
        "done": index + 1,
        "current": index,
    }


def _experts(palette: Palette, columns: Sequence[str]) -> list[dict[str, str]]:
    tones = [palette[name] for name in columns]
    return [{"id": t.id, "title": t.title, "colour": t.colour, "description": t.description} for t in tones]


def _gate_view(
    source: str,
    palette: Palette,
    columns: Sequence[str],
    steps: Sequence[Mapping[str, float]],
    mean: Mapping[str, float],
    done: int,
    current: int,
) -> View:
    return {
        "source": source,
        "caption": CAPTIONS[source],
        "experts": _experts(palette, columns),
        "steps": [[round(step.get(name, 0.0), 4) for name in columns] for step in steps],
        "shares": [round(mean.get(name, 0.0), 4) for name in columns],
        "done": done,
        "current": current,
    }


def empty_plan() -> View:
    """No prompt yet."""
    return {"prompt": "", "parts": [], "reading": "", "notes": [], "error": ""}


def plan_view(
    plan: ScenePlan,
    decision: GateDecision | None,
    palette: Palette,
    notes: Sequence[str] = (),
    *,
    show_reading: bool = True,
) -> View:
    """The parts of a prompt with their place in it and, once gated, the experts that each part calls.

    A draft carries its notes (low coverage, parts left out) itself; for a run the stage shows them. What the experts
    read is for a run alone: the seed decides it, and a draft has none yet.
    """
    weights = {entry.subtask: entry.weights for entry in decision.by_subtask} if decision else {}
    parts = []
    for subtask in plan.subtasks:
        ranked = sorted(weights.get(subtask.id, {}).items(), key=lambda item: -item[1])
        experts = [
            {"title": palette[name].title, "colour": palette[name].colour, "weight": round(weight, 4)}
            for name, weight in ranked
            if weight >= 0.02
        ]
        parts.append(
            {
                "role": subtask.role,
                "text": subtask.text,
                "start": subtask.span[0],
                "end": subtask.span[1],
                "region": subtask.region,
                "colour": experts[0]["colour"] if experts else "#8a8f98",
                "experts": experts,
            }
        )
    return {
        "prompt": plan.prompt,
        "parts": parts,
        "reading": plan.read_as if show_reading else "",
        "notes": list(notes),
        "error": "",
    }


class GateChart(Panel):
    """Stacked weights by denoising step."""

    def __init__(self, value: View | None = None, **kwargs: Any) -> None:
        super().__init__("gate", value, label="Gate weights", elem_id="gate", **kwargs)


class PlanPanel(Panel):
    """The prompt with its background and subjects marked."""

    def __init__(self, value: View | None = None, **kwargs: Any) -> None:
        super().__init__("plan", value, label="Plan", elem_id="plan", **kwargs)
