"""Mixture of experts beside the single model: same prompt, same seed, one control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_pipeline.interfaces import Step
from moe_pipeline.schema.metrics import MetricInfo
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.ui.metric_cards import display
from moe_pipeline.ui.panel import Panel, View
from moe_pipeline.ui.stage import clip_view, file_url, preview_strip

MODES = ("moe", "single")
TITLES = {"moe": "mixture", "single": "single model"}
DIRECTIONS = {"higher": "higher", "lower": "lower", "none": "neither"}
READY = "Ready."
TIME_WORDS = "From the request to the finished file, on this machine."


def empty_comparison() -> View:
    """Nothing has been compared yet."""
    side = {"text": "", "clip": None, "preview": None, "done": False}
    return {
        "state": "idle",
        "headline": READY,
        "error": "",
        "sides": {mode: dict(side) for mode in MODES},
        "rows": [],
        "files": [],  # what can be saved of the pair that is shown
        "seconds": 2.0,  # length of a clip: how fast its preview is cycled
    }


def comparison_started(view: View, headline: str, state: str = "waiting") -> View:
    """A new comparison begins; the last one stays in sight until its clips are replaced."""
    sides = {
        mode: {**view["sides"][mode], "preview": None, "done": False, "text": "waiting"} for mode in MODES
    }
    return {**view, "state": state, "headline": headline, "error": "", "sides": sides}


def comparison_step(view: View, mode: str, step: Step) -> View:
    """Progress of one of the two runs."""
    side = {**view["sides"][mode], "text": f"step {step.index + 1} of {step.total}"}
    if step.preview is not None:
        side["preview"] = preview_strip(step.preview, view["seconds"])
    headline = f"{TITLES[mode].capitalize()}: step {step.index + 1} of {step.total}"
    return {**view, "state": "running", "headline": headline, "sides": {**view["sides"], mode: side}}


def comparison_clip(view: View, mode: str, record: RunRecord, path: Path | str) -> View:
    """One of the two clips is there."""
    text = f"{record.timing.total_ms / 1000:.2f} s measured"
    side = {"text": text, "clip": clip_view(record, path), "preview": None, "done": True}
    return {
        **view,
        "sides": {**view["sides"], mode: side},
        "rows": [],
        "files": [],
    }  # those were of the pair before


def comparison_ended(view: View, state: str, headline: str, error: str = "") -> View:
    """It ended early: a finished clip stays, without one of another pair beside it; else the last pair does."""
    sides = {mode: {**side, "preview": None} for mode, side in view["sides"].items()}
    finished = any(side["done"] for side in sides.values())
    for side in sides.values():
        if not side["done"]:
            side["text"] = ""
            side["clip"] = None if finished else side["clip"]
    return {**view, "state": state, "headline": headline, "error": error, "sides": sides}


FILES = {
    "moe.mp4": "Mixture clip",
    "single.mp4": "Single-model clip",
    "side_by_side.mp4": "Side by side",
    "record.json": "Record",
}


def comparison_finished(
    view: View, runs: Mapping[str, RunRecord], catalogue: Mapping[str, MetricInfo], folder: Path
) -> View:
    """Both clips are there: their figures side by side, and the files of `folder` to save."""
    seed = runs["moe"].request.seed
    headline = f"Same prompt, same seed {seed}, same number of steps."
    files = [
        {"title": title, "name": f"moeverse-{folder.name}-{name}", "href": file_url(folder / name)}
        for name, title in FILES.items()
    ]
    rows = comparison_rows(runs, catalogue)
    return {**view, "state": "done", "headline": headline, "rows": rows, "files": files}


WON_BY_STANDING_STILL = ("subject_consistency", "background_consistency")
STANDS_STILL = "The higher of the two hardly moves, so it does not win."


def comparison_rows(runs: Mapping[str, RunRecord], catalogue: Mapping[str, MetricInfo]) -> list[View]:
    """Every figure both clips have, which of the two is better where there is a better, and the measured time."""
    moe, single = runs["moe"].metrics, runs["single"].metrics
    rows = []
    for name, info in catalogue.items():
        left, right = moe.value(name), single.value(name)
        if left is None or right is None:
            continue
        better = ""
        if info.direction != "none" and abs(left - right) > 1e-9:
            better = "moe" if (left > right) == (info.direction == "higher") else "single"
        words = info.plain_words
        if (
            better
            and info.dimension in WON_BY_STANDING_STILL
            and "hardly moves" in runs[better].metrics.flags
        ):
            better, words = "", f"{words} {STANDS_STILL}"
        row = {"title": info.title, "words": words, "direction": DIRECTIONS[info.direction]}
        rows.append({**row, "moe": display(left, info), "single": display(right, info), "better": better})
    times = {mode: runs[mode].timing.total_ms / 1000 for mode in MODES}
    row = {"title": "Time, measured", "words": TIME_WORDS, "direction": "lower"}
    row |= {mode: f"{seconds:.2f} s" for mode, seconds in times.items()}
    rows.append({**row, "better": min(times, key=lambda mode: times[mode])})
    return rows


class Comparison(Panel):
    """The Compare tab."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            "comparison",
            kwargs.pop("value", empty_comparison()),
            label="Comparison",
            elem_id="comparison",
            **kwargs,
        )
