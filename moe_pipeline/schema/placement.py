"""Where each expert runs and what that is estimated to cost. Every figure here comes from the cost model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moe_pipeline.schema.profiles import Precision

Objective = Literal["latency", "energy", "balanced"]
Shape = Literal["exchange_every_step", "hand_over_latents", "run_alone_merge_once"]
TimelineKind = Literal["compute", "upload", "exchange", "decode", "download"]


class PlacementModel(BaseModel):
    """Base: immutable; unknown keys of newer records are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class LatencySplit(PlacementModel):
    """Milliseconds; `total` is exactly `compute` + `network` (to a microsecond)."""

    compute: float = Field(ge=0.0)
    network: float = Field(ge=0.0)
    total: float = Field(ge=0.0)

    @model_validator(mode="after")
    def _adds_up(self) -> LatencySplit:
        if abs(self.compute + self.network - self.total) > 2e-3:
            raise ValueError(f"{self.compute} + {self.network} is not {self.total}")
        return self

    @classmethod
    def of(cls, compute_ms: float, network_ms: float) -> LatencySplit:
        """From the two parts; both are kept to a microsecond, so that the sum is what is printed."""
        compute, network = round(compute_ms, 3), round(network_ms, 3)
        return cls(compute=compute, network=network, total=round(compute + network, 3))


class EnergySplit(PlacementModel):
    """Joules."""

    compute: float = Field(ge=0.0)
    radio: float = Field(ge=0.0)
    total: float = Field(ge=0.0)


class Assignment(PlacementModel):
    """One expert on one node. `estimated_ms` covers the whole request: all steps of this expert, its weights
    and its messages; waiting for other experts is not in it."""

    expert: str
    device: str  # node id in the scenario
    device_title: str
    profile: str  # DeviceProfile id
    estimated_ms: LatencySplit
    energy_j: float = Field(ge=0.0)
    precision: Precision
    memory_bytes: int = Field(default=0, ge=0)
    migration: Literal["cached", "delta", "full"] = "cached"
    reason: str


class Rejection(PlacementModel):
    """Why a node does not run an expert (`expert` None: any of them). `reason` is a sentence."""

    device: str
    device_title: str
    profile: str
    expert: str | None = None
    code: Literal[
        "unavailable",
        "killed",
        "unreachable",
        "memory",
        "privacy",
        "precision",
        "deadline",
        "role",
        "not_chosen",
    ]
    reason: str


class StageHost(PlacementModel):
    """The node of a stage that is not an expert: text, exchange (combine and sampler), decode."""

    stage: Literal["text", "exchange", "decode"]
    device: str
    device_title: str
    estimated_ms: LatencySplit
    energy_j: float = Field(ge=0.0)
    reason: str


class TimelineEntry(PlacementModel):
    """One bar of the Gantt chart, milliseconds since the request."""

    stage: str  # "text", "weights", "conditioning", "step 3", "exchange 3", "decode", "download"
    device: str
    start_ms: float = Field(ge=0.0)
    end_ms: float = Field(ge=0.0)
    kind: TimelineKind
    expert: str | None = None


class DeviceLoad(PlacementModel):
    """What one node carries in this placement (zeros: nothing)."""

    device: str
    device_title: str
    profile: str
    category: str
    experts: tuple[str, ...] = ()
    busy_ms: float = Field(default=0.0, ge=0.0)
    energy_j: float = Field(default=0.0, ge=0.0)
    memory_needed_bytes: int = Field(default=0, ge=0)
    memory_free_bytes: int = Field(default=0, ge=0)
    available: bool = True


class Totals(PlacementModel):
    """The whole request: latency along the critical path, energy over all nodes."""

    latency: LatencySplit
    energy: EnergySplit
    transferred_bytes: int = Field(ge=0)
    meets_deadline: bool = True
    deadline_ms: float | None = None


class ShapeOption(PlacementModel):
    """One execution shape at its own best placement, for comparison."""

    shape: Shape
    exact: bool  # does it compute the same mixture as one machine would?
    feasible: bool
    total_ms: float | None = None
    energy_j: float | None = None
    reason: str


class Baseline(PlacementModel):
    """A simpler policy under the same constraints and the same cost model."""

    policy: Literal["greedy", "single-device", "cloud-only"]
    feasible: bool
    devices: dict[str, str] = Field(default_factory=dict)  # expert -> node
    total_ms: float | None = None
    energy_j: float | None = None
    reason: str


class Placement(PlacementModel):
    """The decision for one request in one scenario."""

    scenario: str
    objective: Objective
    solver: str  # "cp-sat", with its status
    optimal: bool
    solve_ms: float = Field(default=0.0, ge=0.0)  # measured, not estimated
    steps: int = Field(ge=1)
    shape: Shape
    shape_reason: str
    shapes: tuple[ShapeOption, ...] = ()
    assignments: tuple[Assignment, ...]
    stages: tuple[StageHost, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    timeline: tuple[TimelineEntry, ...] = ()
    devices: tuple[DeviceLoad, ...] = ()
    totals: Totals
    baselines: tuple[Baseline, ...] = ()
    killed: tuple[str, ...] = ()
    bandwidth_scale: float = Field(default=1.0, gt=0.0)
    calibration: str = ""  # the cost model's known error, in words
