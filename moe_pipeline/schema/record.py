"""Everything a clip came from and everything measured about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe_pipeline.schema.errors import MoEverseError, from_validation
from moe_pipeline.schema.gate import GateDecision
from moe_pipeline.schema.metrics import ClipMetrics
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.plan import ScenePlan
from moe_pipeline.schema.request import ResolvedRequest

SCHEMA_VERSION = 1


class _Kept(BaseModel):
    # Records written by a newer minor version keep the keys this one does not know.
    model_config = ConfigDict(extra="allow", frozen=True)


class StepTiming(_Kept):
    """Measured wall time of one denoising step."""

    index: int
    sigma: float
    ms: float
    forward_passes: int


class RunTiming(_Kept):
    """Measured wall times of one run in milliseconds."""

    encode_prompt_ms: float
    gate_ms: float = 0.0
    place_ms: float = 0.0
    denoise_ms: float
    decode_ms: float
    metrics_ms: float = 0.0
    export_ms: float
    first_preview_ms: float | None = None
    total_ms: float
    steps: tuple[StepTiming, ...]
    peak_rss_bytes: int | None = None
    peak_cuda_bytes: int | None = None


class ClipInfo(_Kept):
    """The clip itself; `path` is the file's name inside the run's folder, None before export."""

    path: str | None
    frames: int
    width: int
    height: int
    fps: int
    sha256: str = Field(description="hash of the raw frames, uint8 T x H x W x 3")


class PackIdentity(_Kept):
    """Which weights made the clip."""

    id: str
    version: str
    sha256: str


class Environment(_Kept):
    """What has to be equal for frames to be equal byte for byte."""

    torch: str
    torch_device: str
    cpu_capability: str
    threads: int
    dtype: str
    code_version: str
    platform: str


class RunRecord(_Kept):
    """One run. Same request, pack and environment give the same frames byte for byte."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created: str
    request: ResolvedRequest
    plan: ScenePlan
    gate: GateDecision
    placement: Placement | None
    timing: RunTiming
    metrics: ClipMetrics
    clip: ClipInfo
    pack: PackIdentity
    environment: Environment
    warnings: tuple[str, ...] = ()
    texts: dict[str, str] = Field(
        default_factory=dict, description="what each expert read, where that is more than the prompt"
    )


class ComparisonRecord(_Kept):
    """The same request run as mixture and as single model."""

    schema_version: int = SCHEMA_VERSION
    runs: dict[str, RunRecord]


_USE_OURS = "Use a record.json of MoEverse."

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def load_record(data: dict[str, Any]) -> RunRecord:
    """Read a record of this or an older version.

    Raises:
        MoEverseError: the record has no version, comes from a newer one, or does not hold what it should.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise MoEverseError("bad_record", "record: schema_version is missing.", _USE_OURS)
    if version > SCHEMA_VERSION:
        raise MoEverseError(
            "newer_record",
            f"record: schema_version {version} is newer than {SCHEMA_VERSION}.",
            "Update MoEverse to read it.",
        )
    while version < SCHEMA_VERSION:
        if version not in UPGRADES:
            raise MoEverseError(
                "bad_record", f"record: there was never a schema_version {version}.", _USE_OURS
            )
        data = UPGRADES[version](data)
        version += 1
    try:
        return RunRecord.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, code="bad_record", where="record", remedy=_USE_OURS) from error
