"""The stage: where the clip forms and then plays, with the run's progress and its troubles."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from moe_pipeline.interfaces import Frames, Step
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.ui.panel import Panel, View
from moe_pipeline.video import encode_webp
from moe_pipeline.wire import preview_text

IDLE = "Ready."


def idle_stage() -> View:
    """Nothing has been made yet."""
    return {
        "state": "idle",  # idle, waiting, running, done, stopped, failed
        "headline": IDLE,
        "aside": "",
        "step": 0,
        "total": 0,
        "remaining_ms": 0.0,
        "preview": None,
        "clip": None,
        "notes": [],
        "error": "",
    }


def file_url(path: Path | str) -> str:
    """Address of a run's file, relative to the page, so that it also works below a root path."""
    return f"gradio_api/file={quote(str(path))}"


def preview_strip(frames: Frames, seconds: float) -> View:
    """Preview frames (T', h, w, 3) side by side in one small image; the script cycles them.

    The image is so small that it travels inside the event and leaves no file.
    """
    count, height, width, _ = frames.shape
    return {
        "sheet": f"data:image/webp;base64,{preview_text(frames)}",
        "count": count,
        "width": width,
        "height": height,
        "seconds": round(seconds, 3),
    }


def clip_view(record: RunRecord, path: Path | str) -> View:
    """What the player needs to know about a finished clip."""
    return {
        "url": file_url(path),
        "width": record.clip.width,
        "height": record.clip.height,
        "frames": record.clip.frames,
        "fps": record.clip.fps,
        "prompt": record.request.prompt,
        "seed": record.request.seed,
    }


def step_headline(step: Step) -> str:
    """`Step 3 of 16`."""
    return f"Step {step.index + 1} of {step.total}"


def earlier_clip(record: RunRecord, frames: Frames, path: Path | str) -> View:
    """What the page keeps of a clip when the next one takes its place: a small still, its words, its files."""
    still = np.ascontiguousarray(frames[len(frames) // 2][::2, ::2])  # (h / 2, w / 2, 3): about a kilobyte
    return {
        "poster": f"data:image/webp;base64,{base64.b64encode(encode_webp(still, quality=80)).decode('ascii')}",
        "prompt": record.request.prompt,
        "about": f"seed {record.request.seed}, {'mixture' if record.request.mode == 'moe' else 'single model'}",
        "clip_url": file_url(path),
        "record_url": file_url(Path(path).with_name("record.json")),
    }


def details_view(
    record: RunRecord | None, clip_path: Path | str | None, earlier: Sequence[View] = ()
) -> View:
    """Downloads and the settings a clip came from, and the clips that this page made before it."""
    if record is None or clip_path is None:
        return {"record_url": "", "clip_url": "", "facts": [], "earlier": []}
    request, environment = record.request, record.environment
    facts: list[dict[str, Any]] = [
        {"title": "Prompt", "text": request.prompt},
        {"title": "Seed", "text": str(request.seed)},
        {"title": "Mode", "text": "mixture of experts" if request.mode == "moe" else "single model"},
        {"title": "Steps", "text": str(request.steps)},
        {"title": "Guidance", "text": f"{request.guidance:g}"},
        {
            "title": "Subjects",
            "text": f"guided {request.subject_guidance:g} times as strongly as their world in the first steps"
            if request.subject_guidance > 1.0 and record.plan.world is not None
            else "guided like their world",
        },
        {"title": "Experts a step", "text": str(request.top_k)},
        {
            "title": "Clip",
            "text": f"{record.clip.frames} frames of {record.clip.width} × {record.clip.height}, {record.clip.fps} fps",
        },
        {"title": "Pack", "text": f"{record.pack.id} {record.pack.version}"},
        {
            "title": "Ran on",
            "text": f"{environment.torch_device}, {environment.threads} threads, {environment.dtype}, "
            f"torch {environment.torch}",
        },
        {"title": "Frames, SHA-256", "text": record.clip.sha256},
    ]
    path = Path(clip_path)
    return {
        "record_url": file_url(path.with_name("record.json")),
        "clip_url": file_url(path),
        "facts": facts,
        "earlier": list(earlier),
    }


class Stage(Panel):
    """The slot of the clip."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("stage", kwargs.pop("value", idle_stage()), label="Clip", elem_id="stage", **kwargs)


class DetailsPanel(Panel):
    """Files and settings of the last clip."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            "details",
            kwargs.pop("value", details_view(None, None)),
            label="Details of the clip",
            elem_id="details",
            **kwargs,
        )
