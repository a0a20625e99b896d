"""The page's public endpoints: `generate`, `compare`, `plan`. Named functions with plain types, one turn a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from moe_pipeline.interfaces import Event, Failed, Finished, RunControl
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.schema.request import DEFAULT_SCENARIO, SceneRequest
from moe_pipeline.studies.compare import compare as compare_runs
from moe_pipeline.ui.handlers import StudioHandlers
from moe_pipeline.ui.stage import file_url
from moe_pipeline.ui.turns import Refused, RunFeed, Waiting

Mode = Literal["moe", "single"]
Objective = Literal["latency", "energy", "balanced"]


def _drain(feed: RunFeed[Any], take: Callable[[Any], None]) -> None:
    for batch in feed.batches():
        for item in batch:
            if isinstance(item, Waiting):
                continue
            if isinstance(item, Refused):
                raise gr.Error(item.sentence, print_exception=False)
            take(item)


def _request(pipeline: MoEVideoPipeline, **values: Any) -> SceneRequest:
    """A request within the pack's limits, checked before a folder is made for it."""
    try:
        request = SceneRequest.parse(**values)
        pipeline.resolve(request)
        return request
    except MoEverseError as error:
        raise gr.Error(error.sentence(), print_exception=False) from error


def _folder(handlers: StudioHandlers) -> Path:
    try:
        return handlers.new_folder()
    except MoEverseError as error:
        raise gr.Error(error.sentence(), print_exception=False) from error


def _answer(record: RunRecord) -> dict[str, Any]:
    """The record without the clip's file name: clients of Gradio take every dict with a `path` for a file to fetch."""
    answer = record.model_dump(mode="json")
    del answer["clip"]["path"]
    return answer


def _failed(event: Event) -> None:
    if isinstance(event, Failed):
        raise gr.Error(event.message, print_exception=False)


QUEUE, AT_ONCE = (
    "api",
    4,
)  # clients of the API wait among themselves, so that a script cannot fill the page's places


def publish(handlers: StudioHandlers) -> None:
    """Attach the endpoints to the Blocks that is being built."""
    defaults = handlers.pipeline.manifest.defaults
    count = len(handlers.pipeline.manifest.experts)

    def generate(
        prompt: str,
        seed: int = defaults.seed,
        steps: int = defaults.steps,
        guidance: float = defaults.guidance,
        top_k: int = min(defaults.top_k, count),
        mode: Mode = "moe",
        scenario: str = DEFAULT_SCENARIO,
        objective: Objective = "latency",
    ) -> dict[str, Any]:
        """Make a clip of a scene and measure it.

        Args:
            prompt: The scene in words, 1 to 1000 characters.
            seed: Same seed, same clip.
            steps: Denoising steps.
            guidance: Guidance scale; 1 switches guidance off.
            top_k: Experts that take part in a denoising step.
            mode: moe combines experts, single runs the generalist alone.
            scenario: Edge scenario in which the experts are placed.
            objective: What the placement minimises.

        Returns:
            The run's record, and the addresses of clip and record below the server's root.
        """
        request = _request(
            handlers.pipeline, prompt=prompt, seed=seed, steps=steps, guidance=guidance, top_k=top_k, mode=mode,
            scenario=scenario, objective=objective,
        )  # fmt: skip
        control, folder = RunControl(), _folder(handlers)
        done: list[Finished] = []

        def take(event: Event) -> None:
            _failed(event)
            if isinstance(event, Finished):
                done.append(event)

        _drain(
            RunFeed(
                lambda: handlers.pipeline.stream(request, out=folder, control=control, previews=False),
                handlers.turns,
                control,
            ),
            take,
        )
        record = done[0].clip.record
        files = {
            "clip": f"/{file_url(folder / 'clip.mp4')}",
            "record": f"/{file_url(folder / 'record.json')}",
        }
        return {"record": _answer(record), "files": files}

    def compare(
        prompt: str,
        seed: int = defaults.seed,
        steps: int = defaults.steps,
        guidance: float = defaults.guidance,
        top_k: int = min(defaults.top_k, count),
    ) -> dict[str, Any]:
        """Make the same scene by the mixture and by the single model, from the same seed.

        Args:
            prompt: The scene in words, 1 to 1000 characters.
            seed: Same seed, same clips.
            steps: Denoising steps.
            guidance: Guidance scale; 1 switches guidance off.
            top_k: Experts that take part in a denoising step of the mixture.

        Returns:
            Both records, and the addresses of the clips below the server's root.
        """
        request = _request(
            handlers.pipeline, prompt=prompt, seed=seed, steps=steps, guidance=guidance, top_k=top_k
        )
        control, folder = RunControl(), _folder(handlers)
        runs: dict[str, Any] = {}

        def take(item: tuple[str, Event]) -> None:
            mode, event = item
            _failed(event)
            if isinstance(event, Finished):
                runs[mode] = _answer(event.clip.record)

        _drain(
            RunFeed(
                lambda: compare_runs(handlers.pipeline, request, folder, control=control, previews=False),
                handlers.turns,
                control,
            ),
            take,
        )
        names = ("moe.mp4", "single.mp4", "side_by_side.mp4", "record.json")
        return {"runs": runs, "files": {name: f"/{file_url(folder / name)}" for name in names}}

    def plan(
        prompt: str, top_k: int = min(defaults.top_k, count), scenario: str = DEFAULT_SCENARIO,
        objective: Objective = "latency",
    ) -> dict[str, Any]:  # fmt: skip
        """Take a prompt apart, gate its parts and place the experts, without making a clip.

        Args:
            prompt: The scene in words, 1 to 1000 characters.
            top_k: Experts that take part in a denoising step.
            scenario: Edge scenario in which the experts are placed.
            objective: What the placement minimises.

        Returns:
            Plan, gate decision, placement (every figure of it is an estimate) and notes, for example on low coverage.
        """
        request = _request(
            handlers.pipeline, prompt=prompt, top_k=top_k, scenario=scenario, objective=objective
        )
        try:
            scene, gate = handlers.pipeline.plan(request), handlers.pipeline.gate(request)
            placement = handlers.pipeline.place(request)
            notes = handlers.pipeline.notes(request, scene, gate)
        except MoEverseError as error:
            raise gr.Error(error.sentence(), print_exception=False) from error
        parts = {"plan": scene, "gate": gate, "placement": placement}
        return {name: part.model_dump(mode="json") for name, part in parts.items()} | {"notes": list(notes)}

    limit: dict[str, Any] = {"concurrency_id": QUEUE, "concurrency_limit": AT_ONCE}
    gr.api(generate, api_name="generate", **limit)
    gr.api(compare, api_name="compare", **limit)
    gr.api(plan, api_name="plan", concurrency_limit=8)
