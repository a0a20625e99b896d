"""What a simulated run amounts to: figures with their units, files, plots, and intervals over seeds."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from moe_pipeline.atomic import unwritable
from moe_pipeline.edge.simulation_model import Deployment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """What happened to each request, (N,) each, and to each station, (n + 1,)."""

    arrival_s: Array
    latency_s: Array
    wait_s: Array
    load_s: Array
    service_s: Array
    energy_j: Array
    utility: Array
    option: npt.NDArray[np.int64]
    attempts: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]
    home: npt.NDArray[np.int64]
    lost: npt.NDArray[np.bool_]  # given up after the last attempt
    handed_over: npt.NDArray[np.bool_]  # another access point delivered than took the request
    busy_s: Array
    end_s: float


@dataclass(frozen=True)
class Spent:
    """Measured seconds of a run: by the clock, and of the processor."""

    wall_s: float
    cpu_s: float


class StationUse(BaseModel):
    """One station over the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    station: str
    title: str
    provider: str
    utilisation: float = Field(ge=0.0)  # share of the run that it worked; of the user's devices: their mean
    requests: int = Field(ge=0)


class SimulationReport(BaseModel):
    """Estimated figures of one run: they come from the cost model, nothing of it was measured on a device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    policy: str
    requests: int
    seed: int
    arrivals: str  # "poisson" or "trace"
    offered_per_s: float
    offered_load: float  # offered rate over what the shared hosts can serve
    deadline_ms: float
    deadline_is_derived: bool
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    wait_mean_ms: float
    load_mean_ms: float
    miss_share: float  # later than the deadline or given up
    lost: int  # given up
    decided_again: int  # requests whose host died at least once
    handed_over: int
    energy_mean_j: float
    utility_mean: float
    fairness_jain: float  # over users: mean of min(1, deadline / latency)
    stations: tuple[StationUse, ...]
    simulated_s: float
    wall_s: float  # measured, of this machine
    cpu_s: float  # measured, of one core
    requests_per_wall_s: float  # measured
    requests_per_cpu_s: float  # measured
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def jain(values: Array) -> float:
    """(sum x)^2 / (n sum x^2): 1 if all are equal, 1/n if one has everything (Jain, Chiu, Hawe, 1984)."""
    squares = float((values**2).sum())
    return float(values.sum() ** 2 / (len(values) * squares)) if squares > 0 else 1.0


def summarise(
    deployment: Deployment, policy: str, seed: int, log: Log, spent: Spent, *, traced: bool = False
) -> SimulationReport:
    """The report of a run."""
    latency, limit = log.latency_s, deployment.deadline_s
    p50, p95, p99 = np.percentile(latency, [50, 95, 99]) * 1e3
    served = np.minimum(1.0, limit / np.maximum(latency, 1e-12)) * ~log.lost
    users = np.unique(log.user)
    per_user = np.array([served[log.user == u].mean() for u in users])
    span = max(log.end_s, 1e-12)
    gaps = max(float(log.arrival_s[-1] - log.arrival_s[0]), 1e-12)
    rate = (len(latency) - 1) / gaps if len(latency) > 1 else deployment.rate_per_s
    return SimulationReport(
        scenario=deployment.id,
        policy=policy,
        requests=len(latency),
        seed=seed,
        arrivals="trace" if traced else "poisson",
        offered_per_s=rate,
        offered_load=rate / deployment.capacity_per_s,
        deadline_ms=limit * 1e3,
        deadline_is_derived=deployment.deadline_is_derived,
        mean_ms=float(latency.mean() * 1e3),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        wait_mean_ms=float(log.wait_s.mean() * 1e3),
        load_mean_ms=float(log.load_s.mean() * 1e3),
        miss_share=float(((latency > limit) | log.lost).mean()),
        lost=int(log.lost.sum()),
        decided_again=int((log.attempts > 1).sum()),
        handed_over=int(log.handed_over.sum()),
        energy_mean_j=float(log.energy_j.mean()),
        utility_mean=float(log.utility.mean()),
        fairness_jain=jain(per_user),
        stations=_stations(deployment, log, span),
        simulated_s=span,
        wall_s=spent.wall_s,
        cpu_s=spent.cpu_s,
        requests_per_wall_s=len(latency) / max(spent.wall_s, 1e-9),
        requests_per_cpu_s=len(latency) / max(spent.cpu_s, 1e-9),
        notes=_notes(deployment, log),
    )


def _stations(deployment: Deployment, log: Log, span: float) -> tuple[StationUse, ...]:
    used = []
    for index, name in enumerate(deployment.stations):
        hosted = (deployment.primary[log.option] == index) | (deployment.secondary[log.option] == index)
        copies = deployment.users if index == deployment.local else 1
        used.append(
            StationUse(
                station=name,
                title=deployment.titles[index],
                provider=deployment.providers[index],
                utilisation=float(log.busy_s[index] / span / copies),
                requests=int(hosted.sum()),
            )
        )
    return tuple(used)


def _notes(deployment: Deployment, log: Log) -> tuple[str, ...]:
    notes = [f"Left out: {reason}." for reason in deployment.left_out]
    if deployment.deadline_is_derived:
        notes.append("The scenario names no deadline; taken is three times the quickest idle answer.")
    half = len(log.wait_s) // 2
    if half >= 100 and log.wait_s[half:].mean() > 3 * log.wait_s[:half].mean() + 1.0:
        notes.append(
            "The queue grows through the run: more is asked for than can be served under this policy."
        )
    return tuple(notes)


# ── intervals over seeds ────────────────────────────────────────────────────────────────────────────────
FIGURES = (
    "mean_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "miss_share",
    "energy_mean_j",
    "utility_mean",
    "fairness_jain",
    "wait_mean_ms",
)


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half width of its Student-t interval; the half width is NaN below two values."""
    from scipy.stats import t

    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return float(sample.mean()), math.nan
    half = t.ppf(0.5 + level / 2, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample))
    return float(sample.mean()), float(half)


def compared(reports: Mapping[str, Sequence[SimulationReport]]) -> dict[str, dict[str, list[float]]]:
    """For each policy and figure [mean, half width] over its seeds."""
    return {
        policy: {name: list(interval([getattr(r, name) for r in runs])) for name in FIGURES}
        for policy, runs in reports.items()
    }


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────
def write_report(
    folder: Path, report: SimulationReport, deployment: Deployment, log: Log
) -> SimulationReport:
    """report.json, requests.csv, stations.csv, requests.parquet (with pyarrow) and run.png in `folder`.

    Raises:
        MoEverseError: `unwritable` if the folder cannot be written.
    """
    names = ["report.json", "requests.csv", "stations.csv", "run.png"]
    columns = request_columns(deployment, log)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(folder / "requests.csv", columns)
        fields = list(StationUse.model_fields)
        _write_csv(folder / "stations.csv", {f: [getattr(s, f) for s in report.stations] for f in fields})
        if _write_parquet(folder / "requests.parquet", columns):
            names.append("requests.parquet")
        figure = run_figure(report, deployment, log)
        figure.savefig(folder / "run.png", dpi=110)
        report = report.model_copy(update={"files": tuple(names)})
        (folder / "report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error) from error
    return report


def request_columns(deployment: Deployment, log: Log) -> dict[str, list[Any]]:
    """One row a request, units in the names."""
    return {
        "arrival_s": log.arrival_s.round(6).tolist(),
        "user": log.user.tolist(),
        "provider": [deployment.homes[h] for h in log.home],
        "decision": [deployment.options[o].title for o in log.option],
        "latency_ms": (log.latency_s * 1e3).round(3).tolist(),
        "wait_ms": (log.wait_s * 1e3).round(3).tolist(),
        "load_ms": (log.load_s * 1e3).round(3).tolist(),
        "service_ms": (log.service_s * 1e3).round(3).tolist(),
        "energy_j": log.energy_j.round(3).tolist(),
        "attempts": log.attempts.tolist(),
        "missed": ((log.latency_s > deployment.deadline_s) | log.lost).tolist(),
        "lost": log.lost.tolist(),
        "handed_over": log.handed_over.tolist(),
    }


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> bool:
    """True if pyarrow is installed and the file was written."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return False
    pyarrow.parquet.write_table(pyarrow.table({k: list(v) for k, v in columns.items()}), path)
    return True


def run_figure(report: SimulationReport, deployment: Deployment, log: Log) -> Figure:
    """Latencies over time, their distribution, and the use of the stations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    bad = (log.latency_s > deployment.deadline_s) | log.lost
    left.scatter(log.arrival_s[~bad], log.latency_s[~bad], s=5, color="#2b6cb0", label="in time")
    left.scatter(log.arrival_s[bad], log.latency_s[bad], s=8, color="#c53030", label="late or lost")
    left.set(
        xlabel="arrival (s)", ylabel="latency (s, estimated)", title=f"{report.scenario}, {report.policy}"
    )
    left.legend(fontsize=8)
    ordered = np.sort(log.latency_s)
    middle.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color="#2b6cb0")
    middle.axvline(deployment.deadline_s, color="#c53030", linestyle="--", label="deadline")
    middle.set(xlabel="latency (s, estimated)", ylabel="share of requests", title="Distribution", ylim=(0, 1))
    middle.legend(fontsize=8)
    right.barh([s.title for s in report.stations], [s.utilisation for s in report.stations], color="#2f855a")
    right.set(xlabel="share of the run at work", title="Utilisation", xlim=(0, 1))
    for axis in (left, middle):
        axis.grid(alpha=0.3)
    return figure


def write_json(path: Path, content: Any) -> None:
    """JSON with one line an entry, floats as they are; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=True) + "\n", encoding="utf-8")
