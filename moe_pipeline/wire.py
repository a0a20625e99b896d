"""In-process events to their wire form: arrays become encoded bytes or leave only their size."""

from __future__ import annotations

import base64
from typing import assert_never

import numpy as np

from moe_pipeline import interfaces as ev
from moe_pipeline.schema import events as wire
from moe_pipeline.video import encode_webp


def preview_sheet(preview: ev.Frames) -> ev.Frames:
    """Frames (F, h, w, 3) side by side as one picture (h, F * w, 3)."""
    return np.concatenate(list(preview), axis=1)


def preview_text(preview: ev.Frames) -> str:
    """The sheet of a preview (F, h, w, 3) as WebP in base64: four latent frames are about a kilobyte."""
    return base64.b64encode(encode_webp(preview_sheet(preview), quality=90)).decode("ascii")


def to_wire(event: ev.Event) -> wire.WireEvent:
    """The pydantic twin of an event, ready for JSON."""
    head = {"run_id": event.run_id, "seq": event.seq, "t_ms": event.t_ms}
    match event:
        case ev.Accepted():
            return wire.AcceptedWire(**head, request=event.request)
        case ev.Planned():
            return wire.PlannedWire(**head, plan=event.plan)
        case ev.Gated():
            return wire.GatedWire(**head, gate=event.gate)
        case ev.Placed():
            return wire.PlacedWire(**head, placement=event.placement)
        case ev.Replanned():
            return wire.ReplannedWire(**head, placement=event.placement, reason=event.reason)
        case ev.RunWarning():
            return wire.WarningWire(**head, code=event.code, message=event.message)
        case ev.Step():
            return wire.StepWire(
                **head,
                index=event.index,
                total=event.total,
                sigma=event.sigma,
                weights=event.weights,
                step_ms=event.step_ms,
                remaining_ms=event.remaining_ms,
                preview_webp_base64=None if event.preview is None else preview_text(event.preview),
            )
        case ev.Decoded():
            frames, height, width, _ = event.frames.shape
            return wire.DecodedWire(
                **head, frames=frames, width=width, height=height, decode_ms=event.decode_ms
            )
        case ev.Measured():
            return wire.MeasuredWire(**head, metrics=event.metrics, metrics_ms=event.metrics_ms)
        case ev.Exported():
            name = event.path.replace("\\", "/").rsplit("/", 1)[-1]
            return wire.ExportedWire(**head, file_name=name, export_ms=event.export_ms)
        case ev.Finished():
            return wire.FinishedWire(**head, record=event.clip.record)
        case ev.Failed():
            return wire.FailedWire(**head, code=event.code, message=event.message)
        case ev.Cancelled():
            return wire.CancelledWire(**head, after_steps=event.after_steps)
        case _:
            assert_never(event)
