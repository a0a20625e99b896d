"""What the metrics room says about a clip: catalogue entries, values, latency figures.

Pure data (pydantic, no arrays, no torch), so that records, the command line and the app can carry it. A figure
that could not be measured is absent and its reason stands in `ClipMetrics.skipped`; nothing is NaN.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Direction = Literal["higher", "lower", "none"]
Exactness = Literal["vbench", "vbench-definition", "stand-in", "own"]
"""How near to VBench a figure is.

`vbench`: VBench's own definition, no network involved, so the figure is VBench's figure.
`vbench-definition`: VBench's definition computed with the network VBench uses, from weights at hand.
`stand-in`: measures the same property by other means, under its own name; never comparable to VBench's figure.
`own`: not a VBench dimension at all.
"""


class MetricInfo(BaseModel):
    """One entry of the metric catalogue: everything a card, a table or a plot needs to present the figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Stable id, snake_case; VBench's id only when the figure is VBench's.")
    title: str = Field(description="Short title for a card.")
    plain_words: str = Field(description="One sentence for somebody who never read a metrics paper.")
    direction: Direction = Field(description="Which way is better; `none` where neither is.")
    low: float = Field(description="Smallest value the figure can take, or that is worth plotting.")
    high: float = Field(description="Largest value the figure can take, or that is worth plotting.")
    open_ended: bool = Field(default=False, description="True when values above `high` are possible.")
    unit: str = Field(default="", description="Unit of the value; empty for a plain ratio.")
    exact: Exactness
    dimension: str = Field(
        default="", description="The VBench dimension it computes or stands in for, if any."
    )
    formula: str = Field(default="", description="The definition in one line.")
    source: str = Field(description="Where the definition comes from.")
    cost: str = Field(default="", description="Rough cost on two CPU cores for 16 frames of 128x128.")
    needs: tuple[str, ...] = Field(
        default=(), description="What must be given: `features`, `prompt`, `text_features`, `weights:<key>`."
    )
    default: bool = Field(default=False, description="Measured when no names are asked for.")


class MetricValue(BaseModel):
    """One measured figure of one clip, with its course over the clip where it has one."""

    model_config = ConfigDict(extra="ignore")

    name: str
    value: float = Field(allow_inf_nan=False)
    series: list[float] = Field(
        default_factory=list, description="Per frame or per pair of frames; may be empty."
    )
    series_label: str = Field(default="", description="What a point of the series is, for an axis title.")
    series_start_frame: int = Field(
        default=0, ge=0, description="Frame index that the first point belongs to."
    )
    series_stride: int = Field(default=1, ge=1, description="Frames between two points of the series.")
    exactness: Exactness
    note: str = Field(default="", description="What a reader must know about this very value, if anything.")


class ClipMetrics(BaseModel):
    """All figures of one clip. The three headline figures also stand as plain fields.

    A field is None, and `skipped` names why, when the figure is not defined for the clip (one frame, say).
    """

    model_config = ConfigDict(extra="ignore")

    temporal_flickering: float | None = Field(default=None, description="VBench's, 0..1, higher is steadier.")
    warping_error: float | None = Field(default=None, description="Mean flow-compensated difference, 0..1.")
    dynamic_degree: float | None = Field(
        default=None, description="1.0 when the clip moves by VBench's decision rule over DIS flow, else 0.0."
    )
    values: dict[str, MetricValue] = Field(default_factory=dict)
    flags: list[str] = Field(
        default_factory=list, description='Warnings about the clip, such as "hardly moves".'
    )
    skipped: dict[str, str] = Field(default_factory=dict, description="Metric name -> why it has no value.")
    frames: int = Field(default=0, ge=0)
    fps: float = Field(default=0.0, ge=0.0)
    elapsed_ms: float = Field(
        default=0.0, ge=0.0, description="Measured wall time of the measurement itself."
    )
    costs_ms: dict[str, float] = Field(
        default_factory=dict,
        description="Measured wall time by metric; what several share stands under its own key.",
    )

    def value(self, name: str) -> float | None:
        """Value of a metric by name, or None when it was skipped or not asked for."""
        found = self.values.get(name)
        return None if found is None else found.value


class LatencyMetrics(BaseModel):
    """What a run cost here, measured. Estimates of the cost model never enter this class."""

    model_config = ConfigDict(extra="ignore")

    time_to_first_preview_ms: float | None = Field(default=None, ge=0)
    total_ms: float = Field(ge=0)
    stages_ms: dict[str, float] = Field(default_factory=dict, description="Stage name -> wall time.")
    steps_ms: list[float] = Field(default_factory=list, description="Wall time of each denoising step.")
    step_p50_ms: float | None = Field(default=None, ge=0)
    step_p95_ms: float | None = Field(default=None, ge=0)
    frames_per_second: float | None = Field(
        default=None, ge=0, description="Frames made per second of total time."
    )
    real_time_factor: float | None = Field(
        default=None, ge=0, description="Seconds of work per second of clip; below 1 is faster than playing."
    )
    peak_rss_bytes: int | None = Field(
        default=None, ge=0, description="Highest resident memory seen in the run."
    )
    peak_cuda_bytes: int | None = Field(
        default=None, ge=0, description="Highest CUDA memory allocated in the run."
    )
    energy_j: float | None = Field(
        default=None, ge=0, description="From a hardware counter; None where there is none."
    )
    energy_source: str = Field(default="", description="Which counter, or why there is no figure.")


class ClipEvaluation(BaseModel):
    """One clip of an evaluation: its figures, or the sentence that says why there are none."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(description="File or folder name.")
    path: str
    sha256: str = Field(
        default="", description="Hash of the file, or of the folder's frames; empty when unreadable."
    )
    prompt: str | None = None
    prompt_source: Literal["given", "prompts file", "record", "file name", ""] = ""
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    notes: list[str] = Field(default_factory=list)
    metrics: ClipMetrics | None = None
    error: str | None = Field(default=None, description="One sentence; set exactly when `metrics` is None.")
    error_code: str | None = None
    reused: bool = Field(default=False, description="Taken from an earlier, interrupted evaluation.")


class MetricSummary(BaseModel):
    """One metric over the clips of an evaluation. The mean always says how many clips it is the mean of."""

    name: str
    mean: float
    std: float = Field(description="Population standard deviation over clips.")
    low: float
    high: float
    measured: int
    of: int
    missing: dict[str, str] = Field(default_factory=dict, description="Clip -> why it does not count.")
    exactness: Exactness


class EvaluationReport(BaseModel):
    """What `evaluate` found; `failed` clips count in no mean and are listed."""

    schema_version: int = 1
    clips: list[ClipEvaluation]
    summary: dict[str, MetricSummary]
    vbench_quality: float | None = Field(
        default=None, description="VBench's Quality, 0..1, when all seven are exact."
    )
    vbench_quality_note: str = ""
    elapsed_s: float = 0.0
    written: list[str] = Field(
        default_factory=list, description="Files written, names inside the output folder."
    )

    @property
    def failed(self) -> list[ClipEvaluation]:
        """Clips that could not be measured at all."""
        return [clip for clip in self.clips if clip.error is not None]
