"""Events of one run as they travel on the wire: no tensors, a preview is encoded bytes.

A run is `accepted, planned, gated, placed, step..., decoded, measured, exported` (with `warning` and `replanned`
in between) and is closed by exactly one of `finished, failed, cancelled`. The forms used inside a process, which
may hold arrays, are in `moe_pipeline.interfaces`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.metrics import ClipMetrics
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.schema.request import ResolvedRequest

TERMINAL_KINDS = ("finished", "failed", "cancelled")


class _WireEvent(BaseModel):
    model_config = ConfigDict(frozen=True)

    run_id: str
    seq: int = Field(ge=0)
    t_ms: float = Field(ge=0, description="milliseconds since the run started")


class AcceptedWire(_WireEvent):
    kind: Literal["accepted"] = "accepted"
    request: ResolvedRequest


class PlannedWire(_WireEvent):
    kind: Literal["planned"] = "planned"
    plan: ScenePlan


class GatedWire(_WireEvent):
    kind: Literal["gated"] = "gated"
    gate: GateDecision


class PlacedWire(_WireEvent):
    kind: Literal["placed"] = "placed"
    placement: Placement


class ReplannedWire(_WireEvent):
    kind: Literal["replanned"] = "replanned"
    placement: Placement
    reason: str


class WarningWire(_WireEvent):
    kind: Literal["warning"] = "warning"
    code: str
    message: str


class StepWire(_WireEvent):
    kind: Literal["step"] = "step"
    index: int
    total: int
    sigma: float
    weights: dict[str, float]
    step_ms: float
    remaining_ms: float
    preview_webp_base64: str | None = None


class DecodedWire(_WireEvent):
    kind: Literal["decoded"] = "decoded"
    frames: int
    width: int
    height: int
    decode_ms: float


class MeasuredWire(_WireEvent):
    kind: Literal["measured"] = "measured"
    metrics: ClipMetrics
    metrics_ms: float


class ExportedWire(_WireEvent):
    kind: Literal["exported"] = "exported"
    file_name: str
    export_ms: float


class FinishedWire(_WireEvent):
    kind: Literal["finished"] = "finished"
    record: RunRecord


class FailedWire(_WireEvent):
    kind: Literal["failed"] = "failed"
    code: str
    message: str


class CancelledWire(_WireEvent):
    kind: Literal["cancelled"] = "cancelled"
    after_steps: int


WireEvent = Annotated[
    AcceptedWire
    | PlannedWire
    | GatedWire
    | PlacedWire
    | ReplannedWire
    | WarningWire
    | StepWire
    | DecodedWire
    | MeasuredWire
    | ExportedWire
    | FinishedWire
    | FailedWire
    | CancelledWire,
    Field(discriminator="kind"),
]
