"""The fold of the event stream and the views, without a browser and without a model."""

from __future__ import annotations

import base64
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moe_pipeline import interfaces as ev
from moe_pipeline.metrics import METRICS
from moe_pipeline.metrics.latency import latency_of
from moe_pipeline.schema.metrics import ClipMetrics, MetricValue
from moe_pipeline.schema.placement import Placement
from moe_pipeline.ui import plots
from moe_pipeline.ui.comparison import (
    comparison_clip,
    comparison_ended,
    comparison_finished,
    comparison_rows,
    comparison_started,
    comparison_step,
    empty_comparison,
)
from moe_pipeline.ui.edge_view import edge_failed, edge_view, empty_edge, measured_timeline
from moe_pipeline.ui.gate_chart import gate_view, plan_view, with_step
from moe_pipeline.ui.metric_cards import display, metric_cards, metrics_view
from moe_pipeline.ui.stage import file_url, preview_strip
from moe_pipeline.ui.view_state import (
    MOST_EARLIER,
    RunView,
    draft,
    first_view,
    fold,
    opening_view,
    refused,
    stopped,
    waiting,
)
from tests.ui.sample_record import (
    PALETTE,
    PROMPT,
    STEPS,
    sample_events,
    sample_gate,
    sample_placement,
    sample_plan,
    sample_preview,
    sample_record,
    scene,
)

CLIP = Path("runs/0123456789abcdef/clip.mp4")


def folded(until: str | None = None, start: RunView | None = None, coverage: float = 0.82) -> RunView:
    """The view after the sample run, or after its first event of kind `until`."""
    view = start or first_view(scene())
    for event in sample_events(CLIP, coverage):
        view = fold(view, event, scene())
        if event.kind == until:
            break
    return view


def test_every_view_is_plain_json_from_the_first_to_the_last_event() -> None:
    view = first_view(scene())
    for event in sample_events(CLIP):
        view = fold(view, event, scene())
        for panel in view.panels():
            assert json.loads(json.dumps(panel, allow_nan=False)) == panel


def test_a_finished_run_shows_clip_metrics_and_downloads() -> None:
    view = folded()
    assert view.stage["state"] == "done"
    assert view.stage["clip"]["url"] == "gradio_api/file=runs/0123456789abcdef/clip.mp4"
    assert view.details["record_url"].endswith("/record.json")
    assert {"temporal_flickering", "warping_error"} <= {card["name"] for card in view.metrics["cards"]}
    assert view.gate["source"] == "clip" and view.gate["done"] == STEPS
    assert [entry["stage"] for entry in view.edge["measured"]][:2] == ["text", "gate"]


def test_gate_chart_shows_the_weights_a_step_used_not_the_planned_ones() -> None:
    view = gate_view(sample_gate(), PALETTE, source="run", done=0)
    used = with_step(view, PALETTE, 0, STEPS, {"space": 1.0})
    names = [expert["id"] for expert in used["experts"]]
    assert used["steps"][0][names.index("space")] == 1.0
    assert used["steps"][0][names.index("city")] == 0.0
    assert used["done"] == 1 and used["current"] == 0
    assert used["steps"][1] == view["steps"][1]


def test_a_step_costs_little_on_the_wire() -> None:
    """Only the changed part of a dict travels: the row of one step and some numbers."""
    from gradio.utils import diff

    before = folded("step")
    step = next(e for e in sample_events(CLIP) if e.kind == "step" and e.index == 1)
    after = fold(before, replace(step, preview=None), scene())
    assert len(json.dumps(diff(before.gate, after.gate))) < 1000
    assert diff(before.edge, after.edge) == [] and diff(before.metrics, after.metrics) == []


def test_preview_strip_holds_the_frames_side_by_side() -> None:
    frames = sample_preview(1.0)
    strip = preview_strip(frames, 2.0)
    image = Image.open(io.BytesIO(base64.b64decode(strip["sheet"].split(",", 1)[1])))
    assert image.size == (4 * 16, 16) and strip["count"] == 4
    pixels = np.asarray(image.convert("RGB"), dtype=int)
    third = pixels[:, 32:48]
    assert np.abs(third - frames[2].astype(int)).mean() < 20
    assert len(strip["sheet"]) < 6000


def test_the_last_clip_stays_while_the_next_forms_and_after_stop_and_failure() -> None:
    done = folded()
    running = folded("step", start=done)
    assert running.stage["preview"] is not None
    for view in (waiting(done, 2), running, stopped(running), refused(running, "No.")):
        assert view.stage["clip"] == done.stage["clip"]
        assert view.metrics == done.metrics
    assert stopped(running).stage["headline"].startswith("Stopped after 1 step")
    assert refused(running, "No.").stage["error"] == "No."
    assert waiting(done, 2).stage["headline"] == "Waiting: 2 runs before yours"


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (ev.Failed(run_id="r", seq=9, t_ms=1.0, code="x", message="The pack is broken."), "failed"),
        (ev.Cancelled(run_id="r", seq=9, t_ms=1.0, after_steps=3), "stopped"),
    ],
)
def test_a_run_that_ends_early_says_so(event: ev.Event, state: str) -> None:
    view = fold(folded("step"), event, scene())
    assert view.stage["state"] == state
    assert view.stage["preview"] is None


def test_notes_on_a_prompt_are_shown_before_and_during_a_run() -> None:
    low = sample_gate(coverage=0.1)
    typed = draft(first_view(scene()), scene(), sample_plan(), low, ("Expect a guess.",))
    assert typed.plan["notes"] == ["Expect a guess."]
    warning = ev.RunWarning(run_id="r", seq=3, t_ms=1.0, code="low_coverage", message="Expect a guess.")
    view = fold(folded("gated", coverage=0.1), warning, scene())
    assert view.stage["notes"] == ["Expect a guess."]
    assert fold(view, warning, scene()).stage["notes"] == ["Expect a guess."]


def test_questions_are_answered_with_yes_or_no() -> None:
    moving = METRICS["dynamic_degree_flow"]
    assert (display(1.0, moving), display(0.0, moving)) == ("yes", "no")
    assert display(0.98765, METRICS["temporal_flickering"]) == "0.9877"


def test_the_served_page_shows_the_plan_of_its_example_at_once() -> None:
    view = opening_view(scene(), sample_plan())
    assert [part["text"] for part in view.plan["parts"]] and view.gate["caption"]
    assert all(not any(step) for step in view.gate["steps"]), "no weight is shown before the gate was asked"


def test_the_last_clips_of_a_page_are_kept_newest_first(tmp_path: Path) -> None:
    view = first_view(scene())
    *_, finished = sample_events(tmp_path / "clip.mp4")
    assert isinstance(finished, ev.Finished)
    for number in range(MOST_EARLIER + 3):
        clip = replace(finished.clip, path=str(tmp_path / f"{number}.mp4"))
        view = fold(view, replace(finished, clip=clip), scene())
    earlier = view.details["earlier"]
    assert len(earlier) == MOST_EARLIER and view.details["clip_url"].endswith(f"{MOST_EARLIER + 2}.mp4")
    assert earlier[0]["clip_url"].endswith(f"{MOST_EARLIER + 1}.mp4")
    assert all(item["poster"].startswith("data:image/webp;base64,") for item in earlier)
    assert len(earlier[0]["poster"]) < 4000


def test_plan_marks_each_part_at_its_place_in_the_prompt() -> None:
    view = plan_view(sample_plan(), sample_gate(), PALETTE)
    marked = [PROMPT[part["start"] : part["end"]] for part in view["parts"]]
    assert marked == ["an avatar dancing", "a neon city street at night"]
    assert [part["experts"][0]["title"] for part in view["parts"]] == ["Avatar", "City"]


def test_a_replanned_event_redraws_devices_and_edge_and_is_noted() -> None:
    before = folded("step")
    placement = sample_placement(frozenset({"robot"}))
    event = ev.Replanned(run_id="r", seq=9, t_ms=1.0, placement=placement, reason="robot failed")
    after = fold(before, event, scene())
    assert after.edge["killed"] == ["robot"] and "robot failed" in after.edge["replanned"]
    assert any("robot failed" in note for note in after.stage["notes"])
    assert after.devices != before.devices
    dead = next(node for node in after.edge["nodes"] if node["id"] == "robot")
    assert dead["killed"] and dead["experts"] == []


def test_estimated_and_measured_never_share_a_chart() -> None:
    view = folded()
    estimated = {entry["device"] for entry in view.edge["timeline"]}
    assert "this-machine" not in estimated
    assert {entry["device"] for entry in view.edge["measured"]} == {"this-machine"}
    record = sample_record()
    measured = measured_timeline(record)
    assert sum(1 for entry in measured if entry["kind"] == "step") == len(record.timing.steps)
    assert all(a["end_ms"] == pytest.approx(b["start_ms"]) for a, b in itertools.pairwise(measured))


def test_map_has_every_node_and_marks_the_links_in_use() -> None:
    placement: Placement = sample_placement()
    view = edge_view(placement, scene().networks, scene().scenarios, PALETTE)
    scenario = scene().networks.scenario(placement.scenario)
    assert {node["id"] for node in view["nodes"]} == {node.id for node in scenario.nodes}
    assert [node["hops"] for node in view["nodes"] if node["user"]] == [0]
    busy = {a.device for a in placement.assignments}
    for link in view["links"]:
        if link["b"] in busy:
            assert link["used"]
    assert any(not link["used"] for link in view["links"])
    slow = edge_view(sample_placement(bandwidth_scale=0.5), scene().networks, scene().scenarios, PALETTE)
    assert slow["links"][0]["down_mbps"] == pytest.approx(view["links"][0]["down_mbps"] / 2)
    failed = edge_failed(view, scene().scenarios, PALETTE, "Nothing is left.", {"robot"}, 0.1)
    assert failed["error"] == "Nothing is left." and [n["id"] for n in failed["nodes"] if n["killed"]] == [
        "robot"
    ]
    empty = empty_edge(scene().scenarios, scenario.id, PALETTE)
    kept = {"nodes", "links", "killed", "bandwidth_scale", "error", "measured"}
    assert {key: failed[key] for key in empty.keys() - kept} == {
        key: empty[key] for key in empty.keys() - kept
    }
    assert not any(link["used"] for link in failed["links"])
    assert all(node["energy_j"] == 0 and not node["experts"] for node in failed["nodes"])


def test_a_run_that_no_device_can_take_any_more_shows_no_figure_of_before() -> None:
    view = first_view(scene())
    for event in sample_events(CLIP):
        view = fold(view, event, scene())
        if isinstance(event, ev.Step):
            break
    assert view.placement is not None and view.edge["total_ms"]
    event = ev.RunWarning(run_id="r", seq=9, t_ms=1.0, code="infeasible", message="No device is left.")
    view = fold(view, event, scene())
    assert (
        view.placement is None
        and view.edge["total_ms"] is None
        and view.edge["error"] == "No device is left."
    )
    assert view.devices["message"] == "No device is left." and view.stage["state"] == "running"


def test_the_page_says_what_the_experts_read_of_a_run_and_not_of_a_draft() -> None:
    plan = sample_plan().model_copy(update={"read_as": "a red robot in a green hall"})
    assert plan_view(plan, None, PALETTE)["reading"] == "a red robot in a green hall"
    assert draft(first_view(scene()), scene(), plan, sample_gate()).plan["reading"] == ""


def test_metric_cards_say_direction_exactness_and_why_a_figure_is_missing() -> None:
    record = sample_record()
    cards = {card["name"]: card for card in metrics_view(record, scene().catalogue)["cards"]}
    flicker = cards["temporal_flickering"]
    assert flicker["exactness"] == "vbench" and flicker["direction"] == "higher"
    assert flicker["plain_words"] and len(flicker["series"]) == record.clip.frames - 1
    for name, card in cards.items():
        if card["exactness"] == "vbench":
            assert record.metrics.values[name].exactness == "vbench"
    skipped = ClipMetrics(skipped={"warping_error": "The clip has one frame."})
    [card] = metric_cards(skipped, scene().catalogue)
    assert card["skipped"] == "The clip has one frame." and card["display"] == ""


def test_a_comparison_that_ends_early_shows_no_half_of_another_pair() -> None:
    runs = {"moe": sample_record(), "single": sample_record("single")}
    pair = comparison_clip(empty_comparison(), "moe", runs["moe"], CLIP)
    pair = comparison_finished(
        comparison_clip(pair, "single", runs["single"], CLIP), runs, scene().catalogue, CLIP.parent
    )
    assert [file["href"].rsplit("/")[-1] for file in pair["files"]] == [
        "moe.mp4", "single.mp4", "side_by_side.mp4", "record.json",
    ]  # fmt: skip
    step = next(event for event in sample_events(CLIP) if isinstance(event, ev.Step))
    forming = comparison_step(comparison_started(pair, "Starting"), "moe", step)
    stopped_at_once = comparison_ended(forming, "stopped", "Stopped.")
    assert stopped_at_once["rows"] == pair["rows"] and stopped_at_once["files"] == pair["files"]
    assert all(side["clip"] and not side["preview"] for side in stopped_at_once["sides"].values())
    half = comparison_ended(
        comparison_clip(forming, "moe", runs["moe"], CLIP), "failed", "Not compared.", "No."
    )
    assert half["sides"]["moe"]["clip"] and not half["sides"]["single"]["clip"]
    assert half["error"] == "No." and not half["rows"] and not half["files"]
    assert not any("step" in side["text"] or side["text"] == "waiting" for side in half["sides"].values())


def test_comparison_keeps_the_last_pair_until_the_new_one_is_there() -> None:
    view = comparison_clip(empty_comparison(), "moe", sample_record(), CLIP)
    again = comparison_started(view, "Starting")
    assert again["sides"]["moe"]["clip"] == view["sides"]["moe"]["clip"]
    step = next(e for e in sample_events(CLIP) if e.kind == "step")
    forming = comparison_step(again, "moe", step)
    assert forming["sides"]["moe"]["preview"] and not forming["sides"]["single"]["preview"]


def test_comparison_names_the_better_side_by_the_metrics_direction() -> None:
    runs = {"moe": sample_record(), "single": sample_record("single")}
    rows = {row["title"]: row for row in comparison_rows(runs, scene().catalogue)}
    for name, info in scene().catalogue.items():
        left, right = runs["moe"].metrics.value(name), runs["single"].metrics.value(name)
        if left is None or right is None:
            continue
        row = rows[info.title]
        if info.direction == "none" or left == right:
            assert row["better"] == ""
        else:
            assert row["better"] == ("moe" if (left > right) == (info.direction == "higher") else "single")
    assert rows["Time, measured"]["better"] == "single"


def test_a_clip_that_stands_still_is_not_called_the_more_consistent_one() -> None:
    name = "background_consistency_pack"
    title = scene().catalogue[name].title
    runs = {"moe": sample_record(), "single": sample_record("single")}
    for run, value in ((runs["moe"], 0.8), (runs["single"], 1.0)):
        run.metrics.values[name] = MetricValue(name=name, value=value, exactness="stand-in")
        run.metrics.flags = []

    def row() -> dict[str, str]:
        return next(r for r in comparison_rows(runs, scene().catalogue) if r["title"] == title)

    assert row()["better"] == "single" and "does not win" not in row()["words"]
    runs["single"].metrics.flags = ["hardly moves"]
    assert row()["better"] == "" and row()["words"].endswith("does not win.")


def test_the_facts_give_the_median_and_the_95th_percentile_of_a_step() -> None:
    record = sample_record()
    latency = latency_of(record)
    facts = {fact["title"]: fact["text"] for fact in metrics_view(record, scene().catalogue)["facts"]}
    assert facts["A step, median"] == f"{latency.step_p50_ms:.0f} ms"
    assert facts["A step, 95th percentile"] == f"{latency.step_p95_ms:.0f} ms"


def test_plots_carry_the_records_numbers() -> None:
    runs = {"moe": sample_record(), "single": sample_record("single")}
    radar = plots.metric_radar(runs, scene().catalogue)
    assert [trace.name for trace in radar.data] == ["Mixture of experts", "Single model"]
    for trace in radar.data:
        assert all(0 <= radius <= 1 for radius in trace.r)
    placement = sample_placement()
    split = plots.latency_split(placement, PALETTE)
    assert list(split.data[0].x) == [a.estimated_ms.compute for a in placement.assignments]
    assert all("estimated" in trace.name for trace in split.data)
    for figure in (radar, split, plots.energy_split(placement, PALETTE)):
        assert len(figure.to_json()) < 8000


def test_goodness_turns_lower_is_better_around() -> None:
    info = scene().catalogue["warping_error"]
    assert plots.goodness(info.low, info) == 1.0 and plots.goodness(info.high * 5, info) == 0.0


def test_addresses_of_files_are_quoted_and_relative() -> None:
    assert file_url("a b/clip.mp4") == "gradio_api/file=a%20b/clip.mp4"


def test_every_panel_can_be_left_unchanged_by_a_handler() -> None:
    """Gradio rebuilds a component from its own arguments then, with some of its own added."""
    import gradio as gr

    from moe_pipeline.ui.comparison import Comparison
    from moe_pipeline.ui.edge_view import DevicesPanel, EdgePanel
    from moe_pipeline.ui.gate_chart import GateChart, PlanPanel
    from moe_pipeline.ui.metric_cards import MetricCards
    from moe_pipeline.ui.stage import DetailsPanel, Stage

    view = first_view(scene())
    with gr.Blocks():
        panels = [Stage(), DetailsPanel(), MetricCards(), Comparison(), DevicesPanel()]
        panels += [EdgePanel(view.edge), GateChart(view.gate), PlanPanel(view.plan)]
    for panel in panels:
        arguments = {name: value for name, value in panel.constructor_args.items() if name != "value"}
        assert panel.__class__(**arguments, render=False).js_on_load == panel.js_on_load
