"""The event stream folded into what the page shows. Pure: one view and one event give the next view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from moe_pipeline.interfaces import (
    Accepted,
    Cancelled,
    Decoded,
    Event,
    Exported,
    Failed,
    Finished,
    Gated,
    Measured,
    Placed,
    Planned,
    Replanned,
    RunWarning,
    Step,
)
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.metrics import MetricInfo
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.profiles import EdgeScenario
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.ui.edge_view import (
    Networks,
    devices_view,
    edge_failed,
    edge_view,
    empty_devices,
    empty_edge,
    measured_timeline,
    scenario_titles,
)
from moe_pipeline.ui.gate_chart import empty_gate, empty_plan, gate_view, plan_view, with_step
from moe_pipeline.ui.metric_cards import empty_metrics, metrics_view
from moe_pipeline.ui.palette import Palette
from moe_pipeline.ui.panel import View
from moe_pipeline.ui.stage import (
    clip_view,
    details_view,
    earlier_clip,
    idle_stage,
    preview_strip,
    step_headline,
)

MOST_EARLIER = 12
INFEASIBLE = "infeasible"  # the warning of a run that no edge device can take under the present conditions


@dataclass(frozen=True)
class Scene:
    """What a view needs beside the events: colours, scenarios, networks, and what the metrics mean."""

    palette: Palette
    scenarios: Sequence[EdgeScenario]
    networks: Networks
    catalogue: Mapping[str, MetricInfo]
    default_scenario: str


@dataclass(frozen=True)
class RunView:
    """What the panels of one visitor show, and the parts of the current run that later events refer to."""

    stage: View
    plan: View
    gate: View
    devices: View
    edge: View
    metrics: View
    details: View
    parsed: ScenePlan | None = None
    decision: GateDecision | None = None
    placement: Placement | None = None
    clip_seconds: float = 2.0
    record: RunRecord | None = None  # of the last finished clip
    made: tuple[View, ...] = ()  # every clip of this page, newest first

    def panels(self) -> tuple[View, ...]:
        """The views in the order of the page's outputs."""
        return (self.stage, self.plan, self.gate, self.devices, self.edge, self.metrics, self.details)


def first_view(scene: Scene) -> RunView:
    """An untouched page."""
    return RunView(
        stage=idle_stage(),
        plan=empty_plan(),
        gate=empty_gate(scene.palette),
        devices=empty_devices(),
        edge=empty_edge(scene.scenarios, scene.default_scenario, scene.palette),
        metrics=empty_metrics(),
        details=details_view(None, None),
    )


def opening_view(scene: Scene, plan: ScenePlan) -> RunView:
    """The page as it is served: the example's parts are marked, gate and placement are on their way."""
    view = first_view(scene)
    return replace(
        view,
        plan=plan_view(plan, None, scene.palette, show_reading=False),
        gate={**view.gate, "caption": "reading the scene"},
        devices=empty_devices("Looking for a device for each expert."),
    )


def waiting(view: RunView, ahead: int) -> RunView:
    """In line for the model. The last clip stays where it is."""
    if ahead:
        headline = f"Waiting: {ahead} run{'s' if ahead > 1 else ''} before yours"
    else:
        headline = "Starting"
    stage = {**view.stage, "state": "waiting", "headline": headline, "aside": "", "step": 0, "total": 0}
    return replace(view, stage={**stage, "remaining_ms": 0.0, "preview": None, "notes": [], "error": ""})


def refused(view: RunView, sentence: str) -> RunView:
    """The run ended before its time; what was on the page stays."""
    return replace(view, stage={**_ended(view.stage, "failed", "No new clip.", sentence), "step": 0})


def stopped(view: RunView, after_steps: int | None = None) -> RunView:
    """The visitor stopped the run; the last clip is shown again."""
    steps = view.stage["step"] if after_steps is None else after_steps
    where = f"Stopped after {steps} step{'' if steps == 1 else 's'}." if steps else "Stopped."
    return replace(view, stage=_ended(view.stage, "stopped", where, ""))


def _ended(stage: View, state: str, headline: str, error: str) -> View:
    aside = "The last clip is still here." if stage["clip"] else ""
    return {**stage, "state": state, "headline": headline, "aside": aside, "error": error, "preview": None,
            "remaining_ms": 0.0}  # fmt: skip


def draft(
    view: RunView, scene: Scene, plan: ScenePlan, gate: GateDecision, notes: Sequence[str] = ()
) -> RunView:
    """Plan and gate of a prompt that is still being typed."""
    return replace(
        view,
        parsed=plan,
        decision=gate,
        plan=plan_view(plan, gate, scene.palette, notes, show_reading=False),
        gate=gate_view(gate, scene.palette, source="draft", done=0),
    )


def placed(view: RunView, scene: Scene, placement: Placement, replanned: str = "") -> RunView:
    """A placement, with what made it change if something did; the measured chart stays as it was."""
    title = scenario_titles(scene.scenarios).get(placement.scenario, placement.scenario)
    edge = edge_view(
        placement, scene.networks, scene.scenarios, scene.palette,
        measured=view.edge["measured"], replanned=replanned,
    )  # fmt: skip
    devices = devices_view(placement, scene.palette, title)
    return replace(view, placement=placement, devices=devices, edge=edge)


def fold(view: RunView, event: Event, scene: Scene) -> RunView:
    """The view after `event`."""
    match event:
        case Accepted(request=request):
            stage = {
                **view.stage,
                "state": "running",
                "headline": "Reading the prompt",
                "aside": "",
                "step": 0,
            }
            stage |= {"total": request.steps, "remaining_ms": 0.0, "preview": None, "notes": [], "error": ""}
            return replace(view, stage=stage, clip_seconds=request.frames / request.fps)
        case Planned(plan=plan):
            return replace(view, parsed=plan, plan=plan_view(plan, None, scene.palette))
        case Gated(gate=decision):
            return _gated(view, decision, scene)
        case Placed(placement=placement):
            return placed(view, scene, placement)
        case Replanned(placement=placement, reason=reason):
            text = f"Re-planned while running: {reason}."
            return _with_note(placed(view, scene, placement, text), text)
        case RunWarning(code=code, message=message):
            if code == INFEASIBLE:
                view = _unplaced(view, scene, message)
            return _with_note(view, message)
        case Step():
            return _step(view, event, scene)
        case Decoded():
            return _headline(view, "Measuring the clip")
        case Measured():
            return _headline(view, "Writing the clip")
        case Exported():
            return view
        case Finished():
            return _finished(view, event, scene)
        case Failed(message=message):
            return refused(view, message)
        case Cancelled(after_steps=after_steps):
            return stopped(view, after_steps)
        case _:
            assert_never(event)


def _unplaced(view: RunView, scene: Scene, message: str) -> RunView:
    """The edge has no placement any more while the run goes on here: no figure of the last one stays."""
    edge = edge_failed(
        view.edge, scene.scenarios, scene.palette, message, view.edge["killed"], view.edge["bandwidth_scale"]
    )
    return replace(view, placement=None, devices=empty_devices(message), edge=edge)


def _with_note(view: RunView, text: str) -> RunView:
    notes = view.stage["notes"]
    return view if text in notes else replace(view, stage={**view.stage, "notes": [*notes, text]})


def _headline(view: RunView, text: str) -> RunView:
    return replace(view, stage={**view.stage, "headline": text, "remaining_ms": 0.0})


def _gated(view: RunView, decision: GateDecision, scene: Scene) -> RunView:
    view = replace(view, decision=decision, gate=gate_view(decision, scene.palette, source="run", done=0))
    if view.parsed is not None:
        view = replace(view, plan=plan_view(view.parsed, decision, scene.palette))
    return view


def _step(view: RunView, event: Step, scene: Scene) -> RunView:
    stage = {**view.stage, "state": "running", "headline": step_headline(event), "step": event.index + 1}
    stage |= {"total": event.total, "remaining_ms": round(event.remaining_ms, 1)}
    if event.preview is not None:
        stage["preview"] = preview_strip(event.preview, view.clip_seconds)
    gate = with_step(view.gate, scene.palette, event.index, event.total, event.weights)
    return replace(view, stage=stage, gate=gate)


def _finished(view: RunView, event: Finished, scene: Scene) -> RunView:
    record, path = event.clip.record, event.clip.path
    seconds = record.timing.total_ms / 1000
    stage = {**view.stage, "state": "done", "headline": f"Done in {seconds:.1f} s", "remaining_ms": 0.0}
    stage |= {"step": view.stage["total"], "preview": None, "aside": f"seed {record.request.seed}"}
    if path is not None:
        stage["clip"] = clip_view(record, path)
    count = len(record.timing.steps)
    made = view.made
    if path is not None:
        made = (earlier_clip(record, event.clip.frames, path), *made)[: 1 + MOST_EARLIER]
    return replace(
        view,
        record=record,
        stage=stage,
        gate=gate_view(record.gate, scene.palette, source="clip", done=count),
        plan=plan_view(record.plan, record.gate, scene.palette),
        metrics=metrics_view(record, scene.catalogue),
        made=made,
        details=details_view(record, path, made[1:]),
        edge={**view.edge, "measured": measured_timeline(record)},
    )
