"""The same request as mixture and as single model: same seed, same steps, same data budget of the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from moe_pipeline.interfaces import Cancelled, Clip, Event, Failed, Finished, RunControl
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.recording import write_record
from moe_pipeline.schema.record import ComparisonRecord
from moe_pipeline.schema.request import Mode, SceneRequest
from moe_pipeline.video import side_by_side, write_mp4

MODES: tuple[Mode, ...] = ("moe", "single")
SIDE_BY_SIDE = "side_by_side.mp4"
RECORD = "record.json"


def compare(
    pipeline: MoEVideoPipeline,
    request: SceneRequest,
    out: Path | None = None,
    control: RunControl | None = None,
    previews: bool = True,
) -> Iterator[tuple[Literal["moe", "single"], Event]]:
    """Events of both runs, each with its mode; the mixture runs first.

    With `out`, writes moe.mp4, single.mp4, side_by_side.mp4 (mixture on the left) and record.json with
    `runs.moe` and `runs.single`. Ends early when a run fails or is cancelled.
    """
    control = control or RunControl()
    clips: dict[Mode, Clip] = {}
    for mode in MODES:
        own = request.model_copy(update={"mode": mode})
        for event in pipeline.stream(own, out=out, control=control, previews=previews, name=f"{mode}.mp4"):
            if isinstance(event, Finished):
                clips[mode] = event.clip
                if len(clips) == len(MODES) and out is not None:
                    write_comparison(clips, out)
            yield mode, event
            if isinstance(event, Failed | Cancelled):
                return


def write_comparison(clips: dict[Mode, Clip], out: Path) -> None:
    """side_by_side.mp4 and the joint record.json beside the two clips; their single records are folded in."""
    record = ComparisonRecord(runs={mode: clip.record for mode, clip in clips.items()})
    fps = clips["moe"].record.clip.fps
    write_mp4(side_by_side(clips["moe"].frames, clips["single"].frames), out / SIDE_BY_SIDE, fps)
    write_record(out / RECORD, record)
    for mode in clips:
        (out / f"{mode}.json").unlink(missing_ok=True)
