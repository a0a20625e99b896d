"""The page's handlers over the shipped pack, without a browser: what one page's controls do to its desk and its run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from moe_pipeline.interfaces import RunControl
from moe_pipeline.metrics import METRICS
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.runs import RunStore
from moe_pipeline.schema.request import DEFAULT_SCENARIO
from moe_pipeline.ui.handlers import StudioHandlers
from moe_pipeline.ui.palette import Palette
from moe_pipeline.ui.view_state import Scene

PAGE: Any = SimpleNamespace(session_hash="page")
SKIP = gr.skip()
WORDS = "an avatar dancing in a neon city street at night"


@pytest.fixture(scope="module")
def pipeline() -> MoEVideoPipeline:
    return MoEVideoPipeline.from_pack()


@pytest.fixture
def handlers(pipeline: MoEVideoPipeline, tmp_path: Path) -> StudioHandlers:
    palette = Palette.of(pipeline.manifest)
    scene = Scene(palette, pipeline.scenarios(), pipeline.profiles, METRICS, DEFAULT_SCENARIO)
    return StudioHandlers(pipeline, scene, RunStore(tmp_path))


def inputs(prompt: str = WORDS, scenario: str = DEFAULT_SCENARIO, steps: int = 16) -> tuple[Any, ...]:
    return (prompt, 7, steps, 3.0, 2, "moe", scenario, "latency", PAGE)


def plan(handlers: StudioHandlers, *values: Any) -> dict[str, Any]:
    handlers.preview(*(values or inputs()))
    return dict(handlers.preview_placement(PAGE)[1])


def press(**values: Any) -> Any:
    return SimpleNamespace(**values)


def used_device(view: dict[str, Any]) -> str:
    return next(str(node["id"]) for node in view["nodes"] if node["experts"] and not node["user"])


def test_a_page_that_lost_its_connection_finds_its_clips_again_and_its_run_is_stopped(
    handlers: StudioHandlers,
) -> None:
    desk, control = handlers.desks.of("page"), RunControl()
    desk.run = control
    handlers.leave(PAGE)
    assert control.cancelled and handlers.desks.of("page") is desk


def test_devices_that_die_and_come_back_during_a_run_reach_the_run(handlers: StudioHandlers) -> None:
    view = plan(handlers)
    device, control = used_device(view), RunControl()
    desk = handlers.desks.of("page")
    desk.run = control
    handlers.kill(press(device=device), PAGE)
    assert control.conditions()[0] == {device} and control.take_change() == f"{device} failed"
    handlers.revive(press(device=device), PAGE)
    assert control.conditions()[0] == frozenset() and control.take_change() == f"{device} is back"
    handlers.kill(press(device=device), PAGE)
    handlers.bandwidth(press(scale=0.5), PAGE)
    handlers.restore(PAGE)
    assert control.conditions() == (frozenset(), 1.0) and desk.killed == frozenset()


def test_what_changed_during_a_run_is_planned_when_it_ends(handlers: StudioHandlers) -> None:
    view = plan(handlers)
    desk, device = handlers.desks.of("page"), used_device(view)
    assert handlers.settle(*inputs()) == (
        SKIP,
        SKIP,
        SKIP,
        SKIP,
    )  # nothing changed: the run's own panels stay
    desk.run = RunControl()
    handlers.kill(press(device=device), PAGE)  # after the last step, so that no event of the run tells of it
    assert handlers.settle(*inputs()) == (SKIP, SKIP, SKIP, SKIP)  # not yet
    desk.run = None
    gate, edge = handlers.settle(*inputs())[1], handlers.settle(*inputs("a red sphere"))[3]
    assert gate == SKIP and device in edge["killed"]
    assert handlers.settle(*inputs("a ringed planet"))[0]["parts"][0]["text"] == "a ringed planet"


def test_another_scenario_begins_with_all_its_devices_also_when_it_was_chosen_during_a_run(
    handlers: StudioHandlers,
) -> None:
    view = plan(handlers)
    desk = handlers.desks.of("page")
    other = next(s["id"] for s in view["scenarios"] if s["id"] not in (view["scenario"], "this-machine"))
    handlers.kill(press(device=used_device(view)), PAGE)
    assert desk.killed
    assert handlers.choose_scenario(press(id=view["scenario"])) == view["scenario"] and desk.killed
    desk.run = RunControl()
    assert handlers.choose_scenario(press(id=other)) == other and desk.killed  # the run keeps its conditions
    desk.run = None
    edge = handlers.settle(*inputs(scenario=other))[3]
    assert edge["scenario"] == other and edge["killed"] == [] and desk.killed == frozenset()
    assert handlers.choose_scenario(press(id="nowhere")) == SKIP


def test_no_figure_of_a_placement_outlives_it(handlers: StudioHandlers) -> None:
    view = plan(handlers, *inputs(scenario="object-transfer"))
    assert view["energy_j"] and view["baselines"]
    edge = view
    for node in view["nodes"]:
        if not node["user"]:
            edge = handlers.kill(press(device=node["id"]), PAGE)[1]
    assert edge["error"] and edge["total_ms"] is None and edge["energy_j"] is None
    assert not edge["baselines"] and not edge["assignments"] and not edge["deadline"]
    assert handlers.split_charts(PAGE) == (None, None)


def test_stop_ends_a_page_that_shows_a_run_although_none_goes_on(handlers: StudioHandlers) -> None:
    desk = handlers.desks.of("page")
    desk.view.stage["state"] = "running"
    assert handlers.stop(PAGE)["state"] == "stopped"
    desk.run = RunControl()
    assert handlers.stop(PAGE) == SKIP and desk.run.cancelled
