"""Every panel of the page, filled from the sample run: for looking at and for browser tests without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr

from moe_pipeline.interfaces import Step
from moe_pipeline.ui import plots
from moe_pipeline.ui.comparison import Comparison, comparison_clip, comparison_finished, empty_comparison
from moe_pipeline.ui.edge_view import DevicesPanel, EdgePanel
from moe_pipeline.ui.gate_chart import GateChart, PlanPanel
from moe_pipeline.ui.metric_cards import MetricCards
from moe_pipeline.ui.panel import Panel
from moe_pipeline.ui.stage import DetailsPanel, Stage
from moe_pipeline.ui.view_state import RunView, first_view, fold
from moe_pipeline.video import write_mp4
from tests.ui.sample_record import sample_events, sample_frames, sample_record, scene


def view_at(moment: str, folder: Path) -> RunView:
    """The page's view at `start`, `half` (in the middle of denoising) or `end`."""
    view = first_view(scene())
    if moment == "start":
        return view
    for event in sample_events(folder / "clip.mp4"):
        view = fold(view, event, scene())
        if moment == "half" and isinstance(event, Step) and event.index == 8:
            return view
    return view


def filled(panel: Panel, view: dict) -> Panel:
    panel.value = view
    return panel


def build(folder: Path, moment: str = "end") -> gr.Blocks:
    """The panels around clips written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = {"moe": sample_record(), "single": sample_record("single")}
    write_mp4(sample_frames(), folder / "clip.mp4", 8)
    write_mp4(sample_frames(0.3), folder / "single.mp4", 8)
    (folder / "record.json").write_text(runs["moe"].model_dump_json())
    gr.set_static_paths([folder])
    view = view_at(moment, folder)
    pair = empty_comparison()
    if moment == "end":
        pair = comparison_clip(pair, "moe", runs["moe"], folder / "clip.mp4")
        pair = comparison_clip(pair, "single", runs["single"], folder / "single.mp4")
        pair = comparison_finished(pair, runs, scene().catalogue, Path("0123456789abcdef"))
    view = replace(view)
    with gr.Blocks(title="Panels", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_classes="mv-work", equal_height=False):
            with gr.Column(scale=5, min_width=260):
                filled(Stage(), view.stage)
            with gr.Column(scale=5, min_width=260, elem_classes="mv-right-column"):
                GateChart(view.gate), PlanPanel(view.plan), filled(DevicesPanel(), view.devices)
        filled(MetricCards(), view.metrics)
        with gr.Row():
            with gr.Column(scale=7):
                filled(Comparison(), pair)
            with gr.Column(scale=4):
                gr.Plot(plots.metric_radar(runs, scene().catalogue), label="Metrics", elem_id="radar")
        edge = EdgePanel(view.edge)
        filled(DetailsPanel(), view.details)
        heard = gr.JSON(label="heard", elem_id="heard")

        def hear(event: gr.EventData) -> dict:
            return {name: value for name, value in event._data.items()} if event._data else {}

        for name in ("kill", "revive", "restore", "bandwidth", "scenario"):
            getattr(edge, name)(hear, None, heard, show_progress="hidden")
    return page


if __name__ == "__main__":
    import sys

    from moe_pipeline.ui import launch_options

    build(Path("test-artifacts/panels"), sys.argv[1] if len(sys.argv) > 1 else "end").launch(
        **launch_options(), server_port=7899
    )
