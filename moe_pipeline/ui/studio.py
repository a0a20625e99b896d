"""Builds the page: controls, stage and charts in one view, then Metrics, Compare, Edge and Details."""

from __future__ import annotations

import json
import threading
from typing import Any, get_args

import gradio as gr

from moe_pipeline.metrics import METRICS
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.runs import RunStore
from moe_pipeline.schema.request import DEFAULT_SCENARIO, Objective, SceneRequest
from moe_pipeline.ui import api
from moe_pipeline.ui.comparison import Comparison
from moe_pipeline.ui.edge_view import DevicesPanel, EdgePanel
from moe_pipeline.ui.gate_chart import GateChart, PlanPanel
from moe_pipeline.ui.handlers import StudioHandlers
from moe_pipeline.ui.metric_cards import MetricCards
from moe_pipeline.ui.palette import Palette
from moe_pipeline.ui.stage import DetailsPanel, Stage
from moe_pipeline.ui.view_state import Scene, opening_view

# Label and prompt: one for each domain of the embedded pack, then two that need two experts at once.
EXAMPLES = (
    ("Neon street", "a neon city street at night with a flying car"),
    ("Pink mountains", "snowy mountains at sunset under a pink sky"),
    ("Cosy room", "a cosy living room with warm lamp light"),
    ("Ringed planet", "a purple nebula with a ringed planet in space"),
    ("Golden crystal", "a golden crystal turning slowly on a pedestal"),
    ("Blue avatar", "a blue avatar dancing"),
    ("Avatar in the city", "an avatar dancing in a neon city street at night"),
    ("Ship over dunes", "a spaceship floating over a desert at dawn"),
)
FIRST = 6
MODES = [("Mixture of experts", "moe"), ("Single model", "single")]
ABOUT_COMPARE = """<p class="mv-about">The same scene from the same seed, made twice: by the mixture, and by one model
that knows all kinds of scenes, of the size of one expert.</p>"""
# Every event of the page that uses the model shares this limit, above what the queue takes: a request that waits says
# so on its page and can be stopped there. The fair order is kept by `Turns`.
QUEUE = "model"
AT_ONCE = 64
CACHE_HOURS = 6
# Typing is answered when it pauses, not at each letter.
PAUSE = "async (...values) => { await new Promise((go) => setTimeout(go, 150)); return values; }"
STILL = "() => { document.documentElement.dataset.moeRun = 'still'; }"
COMPARE_STILL = "() => { document.documentElement.dataset.moeCompare = 'still'; }"
DICE = "() => [Math.floor(Math.random() * 1000000), true]"
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# What follows another event: the newest one must not be dropped because an older one is still at work.
FOLLOWING: dict[str, Any] = {"queue": False, "trigger_mode": "always_last", **HIDDEN}


def create_studio(pipeline: MoEVideoPipeline, runs: RunStore | None = None) -> gr.Blocks:
    """The app over a loaded pipeline; launch it with `theme.launch_options()`.

    Args:
        pipeline: shared by all visitors.
        runs: where clips and records go; None is this user's cache folder.
    """
    runs = runs or RunStore()
    scenarios = pipeline.scenarios()
    scene = Scene(Palette.of(pipeline.manifest), scenarios, pipeline.profiles, METRICS, DEFAULT_SCENARIO)
    handlers = StudioHandlers(pipeline, scene, runs)
    # Finished clips are streamed from their run's folder instead of being copied into Gradio's cache.
    runs.prepare()
    gr.set_static_paths([runs.root])
    with gr.Blocks(
        title="MoEverse",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(3600, CACHE_HOURS * 3600),
    ) as studio:
        api.publish(handlers)  # before the handlers, which else would take the endpoints' names
        _build(handlers)
    studio.queue(max_size=AT_ONCE)
    # While the browser opens the page, in the background: encoder, gate, workloads and solver.
    threading.Thread(target=handlers.warm_up, args=(EXAMPLES[FIRST][1],), daemon=True, name="warm-up").start()
    return studio


def _build(handlers: StudioHandlers) -> None:
    example = SceneRequest.parse(prompt=EXAMPLES[FIRST][1])
    first = opening_view(handlers.scene, handlers.pipeline.plan(example))
    _header(handlers)
    with gr.Row(elem_classes="mv-work", equal_height=False):
        with gr.Column(elem_classes="mv-left-column", scale=8, min_width=260):
            prompt, seed, locked, settings, generate, stop = _controls(handlers)
        with gr.Column(elem_classes="mv-centre-column", scale=12, min_width=260):
            stage = Stage()
        with gr.Column(elem_classes="mv-right-column", scale=11, min_width=260):
            gate, plan = GateChart(first.gate), PlanPanel(first.plan)
            devices = DevicesPanel(value=first.devices)
    with gr.Tabs(elem_classes="mv-tabs"):
        with gr.Tab("Metrics", id="metrics"):
            metrics = MetricCards()
        with gr.Tab("Compare", id="compare"):
            with gr.Row(elem_classes="mv-compare-bar"):
                compare = gr.Button(
                    "Compare with the single model", variant="primary", elem_id="compare", scale=0
                )
                stop_compare = gr.Button("Stop", elem_id="stop-compare", scale=0)
                gr.HTML(ABOUT_COMPARE, apply_default_css=False, padding=False, js_on_load=None)
            with gr.Row(equal_height=False, elem_classes="mv-compare-row"):
                with gr.Column(scale=7, min_width=280):
                    comparison = Comparison()
                with gr.Column(scale=4, min_width=280):
                    radar = gr.Plot(
                        label="Metrics, mixture against single: further out is better", elem_id="radar"
                    )
        with gr.Tab("Edge", id="edge-tab"):
            edge = EdgePanel(first.edge)
            with gr.Row(elem_classes="mv-split-charts"):
                latency = gr.Plot(label="Latency split of this placement, estimated", elem_id="latency")
                energy = gr.Plot(label="Energy of this placement, estimated", elem_id="energy")
        with gr.Tab("Details", id="details-tab"):
            details = DetailsPanel()
    panels = [stage, plan, gate, devices, edge, metrics, details]
    run = gr.on(
        [generate.click, prompt.submit], handlers.generate, [prompt, seed, locked, *settings], [seed, *panels],
        concurrency_id=QUEUE, concurrency_limit=AT_ONCE, **HIDDEN,
    )  # fmt: skip
    run.then(None, js=STILL, **HIDDEN)
    run.failure(None, js=STILL, **HIDDEN)
    stop.click(handlers.stop, None, stage, queue=False, **HIDDEN)
    planned = _plan_as_you_type(handlers, [prompt, seed, *settings], [plan, gate, devices, edge])
    compared = compare.click(
        handlers.compare, [prompt, seed, *settings], [comparison, radar],
        concurrency_id=QUEUE, concurrency_limit=AT_ONCE, **HIDDEN,
    )  # fmt: skip
    compared.then(None, js=COMPARE_STILL, **HIDDEN)
    compared.failure(None, js=COMPARE_STILL, **HIDDEN)
    stop_compare.click(handlers.stop_compare, queue=False, **HIDDEN)
    planned += _edge_events(handlers, edge, devices, settings[4])
    settled = run.then(
        handlers.settle, [prompt, seed, *settings], [plan, gate, devices, edge], queue=False, **HIDDEN
    )
    for event in [settled, *planned]:
        event.then(handlers.split_charts, None, [latency, energy], **FOLLOWING)
    _root().unload(handlers.leave)


def _header(handlers: StudioHandlers) -> None:
    manifest = handlers.pipeline.manifest
    experts = len(manifest.experts)
    gr.HTML(
        f"""<header class="mv-header"><div><h1>MoEverse</h1>
        <p>A scene in words becomes a short clip: {experts} expert video models, mixed by a gate,
        placed on the mobile edge.</p></div>
        <button type="button" class="mv-theme" aria-label="Switch between light and dark"
        onclick="document.body.classList.toggle('dark')">◐</button></header>""",
        apply_default_css=False,
        padding=False,
        js_on_load=None,
    )


def _controls(
    handlers: StudioHandlers,
) -> tuple[gr.Textbox, gr.Number, gr.Checkbox, list[Any], gr.Button, gr.Button]:
    defaults = handlers.pipeline.manifest.defaults
    prompt = gr.Textbox(
        value=EXAMPLES[FIRST][1], label="Scene", lines=3, max_lines=6, elem_id="prompt",
        placeholder="A place, who or what is in it, and what happens",
    )  # fmt: skip
    with gr.Row(elem_classes="mv-examples"):
        for number, (label, text) in enumerate(EXAMPLES):
            chip = gr.Button(
                label, size="sm", elem_classes="mv-example", elem_id=f"example-{number}", min_width=0
            )
            chip.click(None, None, prompt, js=f"() => {json.dumps(text)}", **HIDDEN)
    with gr.Row(elem_classes="mv-seed"):
        seed = gr.Number(value=defaults.seed, label="Seed", elem_id="seed", min_width=90, scale=3)
        locked = gr.Checkbox(value=False, label="Keep seed", elem_id="lock", min_width=90, scale=2)
        dice = gr.Button("⚄", elem_id="dice", min_width=44, scale=0)
    # A seed that somebody chose is kept: Generate would draw another one else.
    dice.click(None, None, [seed, locked], js=DICE, **HIDDEN)
    seed.input(None, None, locked, js="() => true", **HIDDEN)
    generate = gr.Button("Generate", variant="primary", elem_id="generate", size="lg")
    stop = gr.Button("Stop", variant="stop", elem_id="stop", size="lg")
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        settings = _settings(handlers)
    return prompt, seed, locked, settings, generate, stop


def _settings(handlers: StudioHandlers) -> list[Any]:
    """Steps, guidance, experts a step, mode, scenario, objective: the order in which `ask` takes them."""
    manifest = handlers.pipeline.manifest
    defaults, limits, count = manifest.defaults, manifest.limits, len(manifest.experts)
    return [
        gr.Slider(
            1, limits.max_steps, defaults.steps, step=1, label="Denoising steps", elem_id="steps",
            info="How many times the noise is made clearer; more takes longer.",
        ),
        gr.Slider(
            1, limits.max_guidance, defaults.guidance, step=0.1, label="Guidance", elem_id="guidance",
            info="How strictly the clip follows the words; 1 switches it off and halves the time.",
        ),
        gr.Slider(
            1, count, min(defaults.top_k, count), step=1, label="Experts a step", elem_id="top-k",
            info="How many experts may work on one step (top-k).",
        ),
        gr.Radio(
            MODES, value="moe", label="Mode", elem_id="mode",
            info="The single model knows all kinds of scenes and works without a gate.",
        ),
        gr.Radio(
            [(scenario.title, scenario.id) for scenario in handlers.scene.scenarios],
            value=handlers.scene.default_scenario, label="Edge scenario", elem_id="scenario",
            info="The devices and networks in which the experts would run.",
        ),
        gr.Radio(
            [(name.capitalize(), name) for name in get_args(Objective)],
            value="latency", label="Placement minimises", elem_id="objective",
            info="Balanced weighs time and energy alike.",
        ),
    ]  # fmt: skip


def _root() -> gr.Blocks:
    """The page being built."""
    root = gr.context.Context.root_block
    assert root is not None
    return root


def _plan_as_you_type(handlers: StudioHandlers, inputs: list[Any], outputs: list[Any]) -> list[Any]:
    """Plan and gate first, in milliseconds; the placement, which a solver looks for, follows."""
    plan, gate, devices, edge = outputs
    prompt, _seed, steps, guidance, top_k, mode, scenario, objective = inputs
    light = {"queue": False, **HIDDEN}
    events = [_root().load(handlers.preview, inputs, [plan, gate], **light)]
    for control in (prompt, steps, guidance, top_k, mode, scenario, objective):
        pause = PAUSE if control is prompt else None
        events.append(
            control.change(
                handlers.preview, inputs, [plan, gate], trigger_mode="always_last", js=pause, **light
            )
        )
    return [event.then(handlers.preview_placement, None, [devices, edge], **FOLLOWING) for event in events]


def _edge_events(
    handlers: StudioHandlers, edge: EdgePanel, devices: DevicesPanel, scenario: gr.Radio
) -> list[Any]:
    outputs = [devices, edge]
    light = {"queue": False, **HIDDEN}
    edge.scenario(handlers.choose_scenario, None, scenario, **light)  # the radio's change then plans anew
    return [
        edge.kill(handlers.kill, None, outputs, trigger_mode="multiple", **light),
        edge.revive(handlers.revive, None, outputs, trigger_mode="multiple", **light),
        edge.restore(handlers.restore, None, outputs, **light),
        edge.bandwidth(handlers.bandwidth, None, outputs, trigger_mode="always_last", **light),
    ]
