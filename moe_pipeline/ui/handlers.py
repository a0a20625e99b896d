"""What the page's events do: they drive the pipeline's stream and yield views. No drawing, no numbers of their own."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from moe_pipeline.interfaces import Accepted, Cancelled, Event, Failed, Finished, RunControl, Step
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.runs import RunStore
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.schema.request import SEED_LIMIT, SceneRequest
from moe_pipeline.studies.compare import compare
from moe_pipeline.studies.this_machine import attach_known, calibrate
from moe_pipeline.ui import plots
from moe_pipeline.ui.comparison import (
    comparison_clip,
    comparison_ended,
    comparison_finished,
    comparison_started,
    comparison_step,
)
from moe_pipeline.ui.edge_view import edge_failed, empty_devices
from moe_pipeline.ui.gate_chart import empty_gate, empty_plan
from moe_pipeline.ui.panel import View
from moe_pipeline.ui.sessions import Desk, Desks
from moe_pipeline.ui.turns import Refused, RunFeed, Turns, Waiting
from moe_pipeline.ui.view_state import (
    RunView,
    Scene,
    draft,
    first_view,
    fold,
    placed,
    refused,
    stopped,
    waiting,
)

log = logging.getLogger(__name__)

MOST_COLUMNS = 256
NEW_SEED_BELOW = 1_000_000  # drawn seeds stay short enough to read out
COMPARED = 2
FIELDS = {"seed": "the seed", "steps": "denoising steps", "guidance": "guidance", "top_k": "experts a step"}
Inputs = tuple[Any, ...]


def ask(prompt: str, seed: Any, steps: Any, guidance: Any, top_k: Any, mode: str, scenario: str,
        objective: str) -> SceneRequest:  # fmt: skip
    """A request from the page's controls.

    Raises:
        MoEverseError: in one sentence, for whatever a person may have typed.
    """
    numbers = {"seed": seed, "steps": steps, "guidance": guidance, "top_k": top_k}
    for name, value in numbers.items():
        if value is None:  # the box was cleared
            raise MoEverseError("bad_request", f"The field for {FIELDS[name]} is empty.", "Type a number.")
    if not isinstance(seed, int | float) or not 0 <= seed <= SEED_LIMIT or seed != int(seed):
        raise MoEverseError("bad_request", f"The seed must be a whole number from 0 to {SEED_LIMIT}.")
    return SceneRequest.parse(
        prompt=prompt or "", mode=mode, scenario=scenario, objective=objective, **numbers
    )


def columns_of(steps: Any) -> int:
    """How many columns an empty chart has: the steps where they are a sensible number, the usual sixteen otherwise."""
    return steps if isinstance(steps, int) and 1 <= steps <= MOST_COLUMNS else 16


class StudioHandlers:
    """Event handlers of all open pages over one loaded pipeline."""

    def __init__(self, pipeline: MoEVideoPipeline, scene: Scene, runs: RunStore) -> None:
        self.pipeline = pipeline
        self.scene = scene
        self.runs = runs
        self.turns = Turns()
        self.desks = Desks(first_view(scene))

    def warm_up(self, prompt: str) -> None:
        """Load what the first plan, gate and placement need, and measure this machine where nobody has yet."""
        try:
            self.pipeline.place(SceneRequest.parse(prompt=prompt))
        except MoEverseError as error:
            log.warning("warm-up: %s", error.sentence())  # the page will say it, too
        if not attach_known(self.pipeline):
            # only at the first start on a machine, and in line like a clip, so that neither disturbs the other
            with self.turns.turn(object(), RunControl()):
                calibrate(self.pipeline)

    # ── generate ─────────────────────────────────────────────────────────────────────────────────────────

    def generate(
        self,
        prompt: str,
        seed: Any,
        locked: bool,
        steps: Any,
        guidance: Any,
        top_k: Any,
        mode: str,
        scenario: str,
        objective: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Make a clip. Yields the seed that is used, then the page's panels, several times a second."""
        desk = self.desks.of(request.session_hash)
        if not locked:
            seed = secrets.randbelow(NEW_SEED_BELOW)
        control = RunControl()
        try:
            scene_request = ask(prompt, seed, steps, guidance, top_k, mode, scenario, objective)
            self.pipeline.resolve(scene_request)
            folder = self.new_folder()
        except MoEverseError as error:
            desk.view = refused(desk.view, error.sentence())
            yield (
                gr.skip(),
                *desk.view.panels(),
            )  # what was typed stays, be it a number that no message can carry
            return
        desk.request, desk.run = scene_request, control
        desk.enter(scene_request.scenario)
        self._impose(desk, control)
        feed = RunFeed(
            lambda: self.pipeline.stream(scene_request, out=folder, control=control), self.turns, control
        )
        try:
            for batch in feed.batches():
                for item in batch:
                    desk.view = self._next(desk.view, item)
                yield (seed, *desk.view.panels())
            if desk.view.stage["state"] in ("waiting", "running"):  # cancelled before the stream could say so
                desk.view = stopped(desk.view)
                yield (seed, *desk.view.panels())
        finally:
            control.cancel()
            if desk.run is control:
                desk.run = None

    def _next(self, view: RunView, item: Event | Waiting | Refused) -> RunView:
        if isinstance(item, Waiting):
            return waiting(view, item.ahead)
        if isinstance(item, Refused):
            return refused(view, item.sentence)
        return fold(view, item, self.scene)

    def stop(self, request: gr.Request) -> Any:
        """Stop this page's clip; where nothing runs although the page shows a run, show its end."""
        desk = self.desks.of(request.session_hash)
        if desk.run is not None:
            desk.run.cancel()
            return gr.skip()
        desk.view = stopped(desk.view)
        return desk.view.stage

    def settle(
        self,
        prompt: str,
        seed: Any,
        steps: Any,
        guidance: Any,
        top_k: Any,
        mode: str,
        scenario: str,
        objective: str,
        request: gr.Request,
    ) -> tuple[Any, Any, Any, Any]:
        """After a run: plan what was typed, chosen or switched off while it went on and could not be shown then."""
        desk = self.desks.of(request.session_hash)
        if desk.busy:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        last, now = desk.request, desk.view.placement
        try:  # with the seed of the run, which may have been drawn for it: what was read came from that
            shown = last is not None and last == ask(
                prompt, last.seed, steps, guidance, top_k, mode, scenario, objective
            )
        except MoEverseError:
            shown = False
        plan, gate = (
            (gr.skip(), gr.skip())
            if shown
            else self.preview(prompt, seed, steps, guidance, top_k, mode, scenario, objective, request)
        )
        conditions = (desk.killed, desk.bandwidth_scale)
        if shown and now is not None and conditions == (frozenset(now.killed), now.bandwidth_scale):
            return plan, gate, gr.skip(), gr.skip()
        return plan, gate, *self.preview_placement(request)

    def new_folder(self) -> Path:
        """A fresh folder for a run's files; folders that have expired go first."""
        self.runs.expire()
        return self.runs.new_run()

    def _impose(self, desk: Desk, control: RunControl) -> None:
        """A new run meets the edge as this page left it: devices stay dead, links stay slow."""
        for device in desk.killed:
            control.kill(device)
        if desk.bandwidth_scale != 1.0:
            control.scale_bandwidth(desk.bandwidth_scale)
        control.take_change()  # these are where the run starts, not changes in the middle of it

    # ── plan as you type ─────────────────────────────────────────────────────────────────────────────────

    def preview(
        self,
        prompt: str,
        seed: Any,
        steps: Any,
        guidance: Any,
        top_k: Any,
        mode: str,
        scenario: str,
        objective: str,
        request: gr.Request,
    ) -> tuple[Any, Any]:
        """Plan and gate of what stands in the prompt right now; milliseconds, nothing is denoised."""
        desk = self.desks.of(request.session_hash)
        if desk.busy:
            return gr.skip(), gr.skip()
        desk.request = None
        desk.enter(scenario)
        if not (prompt or "").strip():
            empty = empty_gate(self.scene.palette, columns_of(steps))
            desk.view = replace(desk.view, plan=empty_plan(), gate=empty)
            return desk.view.plan, desk.view.gate
        try:
            wanted = ask(prompt, seed, steps, guidance, top_k, mode, scenario, objective)
            plan, gate = self.pipeline.plan(wanted), self.pipeline.gate(wanted)
            notes = self.pipeline.notes(wanted, plan, gate)
        except MoEverseError as error:
            desk.view = replace(desk.view, plan={**empty_plan(), "error": error.sentence()})
        else:
            desk.request = wanted
            desk.view = draft(desk.view, self.scene, plan, gate, notes)
        return desk.view.plan, desk.view.gate

    def preview_placement(self, request: gr.Request) -> tuple[Any, Any]:
        """Where the experts of the prompt right now would run; follows `preview`."""
        desk = self.desks.of(request.session_hash)
        if desk.busy:
            return gr.skip(), gr.skip()
        if desk.request is None:
            desk.view = replace(desk.view, devices=empty_devices())
            return desk.view.devices, desk.view.edge
        placement, trouble = self._place(desk)
        if placement is None:
            desk.view = self._without_placement(desk, trouble)
        else:
            desk.view = placed(desk.view, self.scene, placement)
        return desk.view.devices, desk.view.edge

    def _place(self, desk: Desk) -> tuple[Placement | None, str]:
        """The placement for this page's newest request and edge conditions, or why there is none."""
        if desk.request is None:
            return None, ""
        try:
            return self.pipeline.place(
                desk.request, killed=desk.killed, bandwidth_scale=desk.bandwidth_scale
            ), ""
        except MoEverseError as error:
            return None, error.sentence()

    def _without_placement(self, desk: Desk, trouble: str) -> RunView:
        edge = edge_failed(
            desk.view.edge,
            self.scene.scenarios,
            self.scene.palette,
            trouble,
            desk.killed,
            desk.bandwidth_scale,
        )
        if desk.request is not None and edge["scenario"] != desk.request.scenario:
            # The map on the page is of another scenario: show none rather than the wrong one.
            chosen = next((s for s in self.scene.scenarios if s.id == desk.request.scenario), None)
            if chosen is not None:
                edge |= {"scenario": chosen.id, "description": chosen.description, "nodes": [], "links": []}
        return replace(desk.view, placement=None, devices=empty_devices(trouble), edge=edge)

    # ── edge ─────────────────────────────────────────────────────────────────────────────────────────────

    def kill(self, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        """A device dies: a run in progress re-plans and says so in its stream, otherwise the page re-plans now."""
        desk, device = self.desks.of(request.session_hash), self._known_device(event, request)
        if device is None:
            return gr.skip(), gr.skip()
        desk.killed |= {device}
        return self._edge_changed(desk, lambda control: control.kill(device))

    def revive(self, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        """A device is back: a run in progress re-plans with it, otherwise the page re-plans now."""
        desk, device = self.desks.of(request.session_hash), str(getattr(event, "device", ""))
        desk.killed -= {device}
        return self._edge_changed(desk, lambda control: control.revive(device))

    def restore(self, request: gr.Request) -> tuple[Any, Any]:
        """All devices and links as the scenario describes them."""
        desk = self.desks.of(request.session_hash)
        desk.killed, desk.bandwidth_scale = frozenset(), 1.0
        return self._edge_changed(desk, lambda control: control.restore())

    def bandwidth(self, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        """Every link carries a multiple of its nominal throughput."""
        desk = self.desks.of(request.session_hash)
        try:
            scale = float(getattr(event, "scale", 1.0))
        except (TypeError, ValueError):
            return gr.skip(), gr.skip()
        desk.bandwidth_scale = round(min(10.0, max(0.01, scale)), 4) if scale == scale else 1.0
        return self._edge_changed(desk, lambda control: control.scale_bandwidth(desk.bandwidth_scale))

    def choose_scenario(self, event: gr.EventData) -> Any:
        """The Edge tab's picker: passes the choice on to the page's one scenario control.

        During a run the choice waits: the run keeps its scenario, and `settle` plans for the new one afterwards.
        """
        wanted = str(getattr(event, "id", ""))
        return wanted if wanted in {scenario.id for scenario in self.scene.scenarios} else gr.skip()

    def _known_device(self, event: gr.EventData, request: gr.Request) -> str | None:
        device = str(getattr(event, "device", ""))
        nodes = self.desks.of(request.session_hash).view.edge["nodes"]
        return device if device in {node["id"] for node in nodes} else None

    def _edge_changed(self, desk: Desk, tell: Callable[[RunControl], None]) -> tuple[Any, Any]:
        if desk.run is not None:
            tell(desk.run)
            return gr.skip(), gr.skip()  # the stream's `replanned` event redraws both panels
        before = desk.view.edge["total_ms"]
        placement, trouble = self._place(desk)
        if placement is None:
            desk.view = self._without_placement(desk, trouble)
        else:
            text = _difference(before, placement.totals.latency.total)
            desk.view = placed(desk.view, self.scene, placement, text)
        return desk.view.devices, desk.view.edge

    def split_charts(self, request: gr.Request) -> tuple[Any, Any]:
        """Latency and energy of the placement on the page: charts that stand still until it changes."""
        placement = self.desks.of(request.session_hash).view.placement
        if placement is None:
            return None, None
        palette = self.scene.palette
        return plots.latency_split(placement, palette), plots.energy_split(placement, palette)

    # ── compare ──────────────────────────────────────────────────────────────────────────────────────────

    def compare(
        self,
        prompt: str,
        seed: Any,
        steps: Any,
        guidance: Any,
        top_k: Any,
        mode: str,
        scenario: str,
        objective: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        """Mixture and single model from the same seed. Yields the Compare panel and, at the end, the radar."""
        desk = self.desks.of(request.session_hash)
        control = RunControl()
        try:
            scene_request = ask(prompt, seed, steps, guidance, top_k, mode, scenario, objective)
            self.pipeline.resolve(scene_request)
            folder = self.new_folder()
        except MoEverseError as error:
            desk.comparison = {**desk.comparison, "error": error.sentence(), "state": "failed"}
            yield desk.comparison, gr.skip()
            return
        desk.compare = control
        feed = RunFeed(
            lambda: compare(self.pipeline, scene_request, folder, control=control), self.turns, control
        )
        records: dict[str, RunRecord] = {}
        desk.comparison = comparison_started(desk.comparison, "Starting")
        try:
            for batch in feed.batches():
                for item in batch:
                    desk.comparison = self._compared(desk.comparison, item, folder, records)
                yield desk.comparison, gr.skip()
            if len(records) == COMPARED:
                desk.comparison = comparison_finished(desk.comparison, records, self.scene.catalogue, folder)
                yield desk.comparison, plots.metric_radar(records, self.scene.catalogue)
            elif desk.comparison["state"] != "failed":
                desk.comparison = comparison_ended(desk.comparison, "stopped", "Stopped.")
                yield desk.comparison, gr.skip()
        finally:
            control.cancel()
            if desk.compare is control:
                desk.compare = None

    def _compared(self, view: View, item: tuple[str, Event] | Waiting | Refused, folder: Path,
                  records: dict[str, RunRecord]) -> View:  # fmt: skip
        if isinstance(item, Waiting):
            headline = f"Waiting: {item.ahead} before yours" if item.ahead else "Starting"
            return {**view, "state": "waiting", "headline": headline}
        if isinstance(item, Refused):
            return comparison_ended(view, "failed", "Not compared.", item.sentence)
        mode, event = item
        match event:
            case Accepted(request=request):
                return {**view, "state": "running", "seconds": request.frames / request.fps}
            case Step():
                return comparison_step(view, mode, event)
            case Finished(clip=clip):
                records[mode] = clip.record
                return comparison_clip(view, mode, clip.record, clip.path or folder / f"{mode}.mp4")
            case Failed(message=message):
                return comparison_ended(view, "failed", "Not compared.", message)
            case Cancelled():
                return {**view, "headline": "Stopping"}
            case _:
                return {**view, "state": "running"}

    def stop_compare(self, request: gr.Request) -> None:
        """Stop this page's comparison."""
        desk = self.desks.of(request.session_hash)
        if desk.compare is not None:
            desk.compare.cancel()

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.desks.close(request.session_hash)


def _difference(before: float | None, after: float) -> str:
    """`Re-planned: 412 ms before, 655 ms now.`"""
    if before is None or abs(before - after) < 0.05:
        return "Re-planned: the estimate stays as it was."
    return f"Re-planned: {before:,.0f} ms estimated before, {after:,.0f} ms now."
