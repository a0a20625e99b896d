"""Bookkeeping of one run: identity, clock, event numbers, and the record that stays."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from moe_pipeline.atomic import unwritable, write_text
from moe_pipeline.interfaces import Frames, RunControl, RunWarning
from moe_pipeline.memory import peak_cuda_bytes, peak_rss_bytes
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.metrics import ClipMetrics
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.record import (
    ClipInfo,
    ComparisonRecord,
    Environment,
    PackIdentity,
    RunRecord,
    RunTiming,
    StepTiming,
)
from moe_pipeline.schema.request import ResolvedRequest
from moe_pipeline.video import write_mp4

E = TypeVar("E")
CLIP_NAME, RECORD_NAME = "clip.mp4", "record.json"


class Stopped(Exception):
    """Raised between two experts when the run was cancelled."""


class Run:
    """Everything about one run that is not a tensor; filled stage by stage, turned into a record at the end."""

    def __init__(self, request: ResolvedRequest, control: RunControl) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.request, self.control = request, control
        self.started = time.perf_counter()
        self.created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self.seq = -1
        self.timing: dict[str, float] = {}
        self.steps: list[StepTiming] = []
        self.warnings: list[str] = []
        self.placement: Placement | None = None
        self.texts: dict[str, str] = {}

    def now_ms(self) -> float:
        """Milliseconds since the run started."""
        return since_ms(self.started)

    def event(self, kind: Callable[..., E], **facts: Any) -> E:
        """The next event of this run."""
        self.seq += 1
        return kind(run_id=self.id, seq=self.seq, t_ms=self.now_ms(), **facts)

    def warn(self, code: str, message: str) -> RunWarning:
        """A warning event whose sentence also stays in the record."""
        self.warnings.append(message)
        return self.event(RunWarning, code=code, message=message)

    def check(self) -> None:
        """Raise `Stopped` once the run was cancelled."""
        if self.control.cancelled:
            raise Stopped

    def record(
        self,
        *,
        plan: ScenePlan,
        gate: GateDecision,
        metrics: ClipMetrics,
        frames: Frames,
        path: str | None,
        pack: PackIdentity,
        environment: Environment,
    ) -> RunRecord:
        """The record as of now; the copy inside an mp4 is made before its export, so its export_ms is 0."""
        count, height, width, _ = frames.shape
        timing = RunTiming(
            **{"export_ms": 0.0, **self.timing},
            total_ms=self.now_ms(),
            steps=tuple(self.steps),
            peak_rss_bytes=peak_rss_bytes(),
            peak_cuda_bytes=peak_cuda_bytes(),
        )
        clip = ClipInfo(
            path=path,
            frames=count,
            width=width,
            height=height,
            fps=self.request.fps,
            sha256=hashlib.sha256(frames.tobytes()).hexdigest(),
        )
        return RunRecord(
            run_id=self.id,
            created=self.created,
            request=self.request,
            plan=plan,
            gate=gate,
            placement=self.placement,
            timing=timing,
            metrics=metrics,
            clip=clip,
            pack=pack,
            environment=environment,
            warnings=tuple(self.warnings),
            texts=self.texts,
        )


def since_ms(began: float) -> float:
    """Milliseconds since a `time.perf_counter()` reading."""
    return (time.perf_counter() - began) * 1000.0


def require_writable(folder: Path) -> None:
    """Make the folder and try a file in it, before any work is done: permissions alone do not tell.

    Raises:
        MoEverseError: `unwritable_folder`; it cannot be made or takes no files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error, "unwritable_folder") from error


def write_record(path: Path, record: RunRecord | ComparisonRecord) -> None:
    """Write a record or a comparison as JSON, whole or not at all.

    Raises:
        MoEverseError: the file cannot be written.
    """
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=1))


def export(run: Run, record_of: Callable[..., RunRecord], frames: Frames, clip: Path) -> RunRecord:
    """Write the clip with its record inside, then the record beside it: both stand, or neither.

    Args:
        record_of: gives the record as of now for `path`, the clip's name.

    Raises:
        MoEverseError: one of the files cannot be written.
    """
    began = time.perf_counter()
    write_mp4(frames, clip, run.request.fps, {"comment": record_of(path=clip.name).model_dump_json()})
    run.timing["export_ms"] = since_ms(began)
    try:
        record = record_of(path=clip.name)
        beside = clip.with_name(RECORD_NAME) if clip.name == CLIP_NAME else clip.with_suffix(".json")
        write_record(beside, record)
    except BaseException:
        clip.unlink(missing_ok=True)
        raise
    return record


def what_broke(error: Exception) -> str:
    """One sentence about a defect; what it was in detail is for the log."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "There was not enough memory for this clip. Ask for fewer experts a step or fewer frames."
    return f"Something went wrong inside MoEverse ({type(error).__name__}); its log says where."
