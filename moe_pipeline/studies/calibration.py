"""Checks the cost model twice: against this machine and against published benchmarks.

    python -m moe_pipeline.studies.calibration this-machine [--out docs/calibration] [--stored]
    python -m moe_pipeline.studies.calibration public [--out docs/calibration]

Each fits the roofline's few parameters on one half of the points and reports the errors on the other half, as
JSON and as a plot.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.edge.calibration import measure
from moe_pipeline.edge.roofline import roofline_ms
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import Precision

SEED = 11
SPLITS = 200
Floats = NDArray[np.float64]

# batch, frames, side: from one small clip to four large ones; each in fp32 and bf16
CONFIGURATIONS: tuple[tuple[int, int, int], ...] = (
    (1, 8, 64), (1, 8, 96), (1, 8, 128), (1, 16, 64), (1, 16, 96), (1, 16, 128), (1, 16, 160), (1, 32, 96),
    (1, 32, 128), (2, 8, 64), (2, 8, 96), (2, 8, 128), (2, 16, 64), (2, 16, 96), (2, 16, 128), (2, 32, 96),
    (4, 8, 64), (4, 8, 96), (4, 8, 128), (4, 16, 64), (4, 16, 96), (4, 16, 128),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One configuration or benchmark: what it computes, and how long it took."""

    id: str
    group: str  # the points that share one eta
    flops: float  # of one call
    bytes_moved: float
    calls: float
    peak_flops: float
    bandwidth: float
    measured_ms: float
    held_out: bool
    remark: str = ""
    predicted_ms: float = 0.0

    @property
    def error(self) -> float:
        """Relative, signed: 0.1 is ten percent too slow a prediction."""
        return self.predicted_ms / self.measured_ms - 1.0


def split(points: Sequence[Point], seed: int = SEED) -> list[Point]:
    """Half of each group is held out, chosen by a seeded shuffle within pairs of neighbouring measured times.

    Pairing neighbours puts small and large work into both halves.
    """
    rng = np.random.default_rng(seed)
    chosen: dict[str, bool] = {}
    for group in sorted({point.group for point in points}):
        members = sorted(
            (p for p in points if p.group == group), key=lambda p: p.flops * p.calls / p.peak_flops
        )
        for first in range(0, len(members), 2):
            pair = members[first : first + 2]
            out = int(rng.integers(2))
            for place, point in enumerate(pair):
                chosen[point.id] = place == out if len(pair) == 2 else False
    return [Point(**{**asdict(p), "held_out": chosen[p.id]}) for p in points]


@dataclass(frozen=True)
class Fit:
    """Parameters of the roofline for a set of groups."""

    eta: dict[str, float]
    half_work_ms: dict[str, float]  # w_half as milliseconds of the device's peak
    eta_memory: float
    launch_ms: float

    def predict(self, point: Point) -> float:
        """Milliseconds of a point."""
        _, _, total = roofline_ms(
            point.flops,
            point.bytes_moved,
            peak_flops=point.peak_flops,
            bandwidth=point.bandwidth,
            eta_max=self.eta[point.group],
            half_work_flops=self.half_work_ms[point.group] * 1e-3 * point.peak_flops,
            eta_memory=self.eta_memory,
            launch_ms=self.launch_ms,
        )
        return point.calls * total


def fit(
    points: Sequence[Point],
    *,
    shared_half: bool,
    eta_memory: float | None = None,
    launch_ms: float | None = None,
    starts: int = 16,
) -> Fit:
    """Least absolute logarithmic errors (soft) over the points that are not held out, from several starts.

    Args:
        shared_half: one w_half (in milliseconds of the peak) for all groups instead of one each.
        eta_memory, launch_ms: fixed values; fitted where None.
    """
    from scipy.optimize import least_squares

    known = [point for point in points if not point.held_out]
    groups = sorted({point.group for point in points})
    halves = 1 if shared_half else len(groups)
    low = [0.01] * len(groups) + [0.0] * halves
    high = [1.0] * len(groups) + [60.0] * halves
    for value, bounds in ((eta_memory, (0.05, 20.0)), (launch_ms, (0.0, 20.0))):
        if value is None:
            low.append(bounds[0])
            high.append(bounds[1])

    def unpack(values: Floats) -> Fit:
        rest = list(values[len(groups) + halves :])
        shares = values[len(groups) : len(groups) + halves]
        return Fit(
            {group: float(values[i]) for i, group in enumerate(groups)},
            {group: float(shares[0 if shared_half else i]) for i, group in enumerate(groups)},
            float(rest.pop(0)) if eta_memory is None else eta_memory,
            float(rest.pop(0)) if launch_ms is None else launch_ms,
        )

    def residuals(values: Floats) -> Floats:
        model = unpack(values)
        return np.array([np.log(model.predict(p) / p.measured_ms) for p in known])

    rng = np.random.default_rng(SEED)
    lower, upper = np.array(low), np.array(high)
    span = np.minimum(upper, 5.0) - lower
    results = [
        least_squares(
            residuals,
            lower + span * rng.uniform(0.05, 0.95, len(low)),
            bounds=(lower, upper),
            loss="soft_l1",
            f_scale=0.1,
        )
        for _ in range(starts)
    ]
    return unpack(min(results, key=lambda result: result.cost).x)


def other_splits(
    points: Sequence[Point], fitted: Callable[[Sequence[Point]], Fit], study: str, count: int = SPLITS
) -> dict[str, Any]:
    """Held-out errors of other random halves, for the reported one may be luck.

    Returns:
        `count`; quantiles of the median and of the worst error over the halves; `within`: the share of halves in
        which both bounds of `within_bounds` hold.
    """
    found = []
    for seed in range(1, count + 1):
        halves = split(points, seed)
        found.append(summary(judged(halves, fitted(halves))))
    spread = {
        name: dict(
            zip(
                ("p50", "p95", "max"),
                np.quantile([f[key] for f in found], (0.5, 0.95, 1)).tolist(),
                strict=True,
            )
        )
        for name, key in (("median", "held_out_median"), ("worst", "held_out_worst"))
    }
    within = sum(within_bounds(study, figures) for figures in found) / count
    return {"count": count, **spread, "within": within}


def judged(points: Sequence[Point], model: Fit) -> list[Point]:
    """The points with their predictions."""
    return [Point(**{**asdict(p), "predicted_ms": model.predict(p)}) for p in points]


def summary(points: Sequence[Point]) -> dict[str, float]:
    """Median and worst absolute relative error on each half."""
    found: dict[str, float] = {}
    for name, half in (("held_out", True), ("fitted", False)):
        errors = [abs(p.error) for p in points if p.held_out == half]
        found |= {
            f"{name}_points": len(errors),
            f"{name}_median": float(np.median(errors)),
            f"{name}_worst": float(np.max(errors)),
        }
    return found


Factory = Callable[[Any], Any]
Inputs = Callable[[int, int, int, Any], tuple[Any, ...]]


def denoiser_factory(dtype: Any) -> Any:
    """The embedded pack's denoiser, untrained: width 256, 8 blocks."""
    import torch

    from moe_pipeline.experts.denoiser import VideoDenoiser

    torch.manual_seed(0)
    return VideoDenoiser().to(dtype).eval()


def denoiser_inputs(batch: int, frames: int, side: int, dtype: Any) -> tuple[Any, ...]:
    """Latents of 16 channels (4x in time, 8x in space), sigma, 24 text tokens and their mask."""
    import torch

    return (
        torch.randn(batch, 16, frames // 4, side // 8, side // 8).to(dtype),
        torch.full((batch,), 0.5).to(dtype),
        torch.randn(batch, 24, 384).to(dtype),
        torch.ones(batch, 24, dtype=torch.bool),
    )


def count_and_time(module: Any, arguments: tuple[Any, ...], seconds: float) -> tuple[int, int, float]:
    """FLOPs, bytes and the median milliseconds of a call."""
    import torch

    from moe_pipeline.workload import count_module

    cost = count_module(module, *arguments)
    with torch.inference_mode():
        times = sorted(_timed(module, arguments, seconds))
    return cost.flops, cost.bytes_moved, 1e3 * times[len(times) // 2]


def measure_this_machine(
    factory: Factory = denoiser_factory,
    inputs: Inputs = denoiser_inputs,
    configurations: Sequence[tuple[int, int, int]] = CONFIGURATIONS,
    *,
    seconds: float = 0.6,
) -> tuple[list[Point], dict[str, Any]]:
    """Times a module over all configurations in fp32 and bf16; median of at least three runs each."""
    import torch

    machine = measure()
    points = []
    formats: dict[Precision, Any] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in formats.items():
        module = factory(dtype)
        for batch, frames, side in configurations:
            flops, traffic, ms = count_and_time(module, inputs(batch, frames, side, dtype), seconds)
            label = f"{precision} batch {batch}, {frames} frames, {side} px"
            peak, bandwidth = machine.tflops[precision] * 1e12, machine.memory_gbs * 1e9
            points.append(Point(label, precision, flops, traffic, 1.0, peak, bandwidth, ms, False))
    setting = {
        "tflops": machine.tflops,
        "memory_gbs": machine.memory_gbs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return points, setting


def _timed(module: Any, arguments: tuple[Any, ...], seconds: float) -> list[float]:
    module(*arguments)
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < 3 or (time.perf_counter() - begin < seconds and len(found) < 25):
        start = time.perf_counter()
        module(*arguments)
        found.append(time.perf_counter() - start)
    return found


def stored_measurement(out: Path) -> tuple[list[Point], dict[str, Any]]:
    """What `this_machine_report` measured before, as it stands in `out`.

    Raises:
        MoEverseError: `no_measurement` where there is none.
    """
    try:
        report = json.loads((out / "this-machine.json").read_text(encoding="utf-8"))
        return [Point(**point) for point in report["points"]], report["setting"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MoEverseError(
            "no_measurement",
            f"{out / 'this-machine.json'}: holds no measurement ({type(error).__name__}).",
            "Measure first: leave --stored out.",
        ) from error


def this_machine_report(out: Path, stored: bool = False) -> dict[str, Any]:
    """Measures (or takes the stored times), fits on half, writes `this-machine.json` and `this-machine.png`."""
    measured, setting = stored_measurement(out) if stored else measure_this_machine()
    points = split(measured)
    model = fit(points, shared_half=False)
    points = judged(points, model)
    others = other_splits(measured, lambda halves: fit(halves, shared_half=False, starts=2), "this-machine")
    report = {
        "kind": "measured on this machine",
        "setting": setting,
        "fit": asdict(model),
        "summary": summary(points),
        "other_splits": others,
        "points": [asdict(p) for p in points],
    }
    _write(out, "this-machine", report, points, "Denoiser calls on this machine", "ms")
    return report


def public_report(out: Path, profiles: Path | None = None) -> dict[str, Any]:
    """Counts the published models, fits on half, writes `public.json` and `public.png`."""
    from moe_pipeline.studies.calibration_public import left_out, public_points

    def fitted(halves: Sequence[Point], starts: int = 16) -> Fit:
        return fit(halves, shared_half=True, eta_memory=0.9, launch_ms=0.05, starts=starts)

    published = public_points(profiles)
    points = split(published)
    model = fitted(points)
    points = judged(points, model)
    others = other_splits(published, lambda halves: fitted(halves, 2), "public")
    outliers = [
        {"id": p.id, "error": p.error, "held_out": p.held_out, "why": p.remark}
        for p in points
        if abs(p.error) > 0.3
    ]
    report = {
        "kind": "published benchmarks",
        "fit": asdict(model),
        "summary": summary(points),
        "other_splits": others,
        "outliers": outliers,
        "left_out": left_out(profiles),
        "points": [asdict(p) for p in points],
    }
    _write(out, "public", report, points, "Published benchmarks of diffusion models", "ms")
    return report


def _write(
    out: Path, name: str, report: dict[str, Any], points: Sequence[Point], title: str, unit: str
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(points, report["summary"], out / f"{name}.png", title, unit)


def plot(points: Sequence[Point], figures: dict[str, float], path: Path, title: str, unit: str) -> None:
    """Predicted over measured, both logarithmic, with the band of 30 percent; held-out points are filled."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 6.0), dpi=120)
    groups = sorted({p.group for p in points})
    colours = ["#3465a4", "#cc5500", "#2e8b57", "#8e44ad", "#b8860b"]
    for group, colour in zip(groups, colours, strict=False):
        for half, filled in ((True, colour), (False, "none")):
            chosen = [p for p in points if p.group == group and p.held_out == half]
            axes.scatter(
                [p.measured_ms for p in chosen],
                [p.predicted_ms for p in chosen],
                s=38,
                facecolors=filled,
                edgecolors=colour,
                label=f"{group}, {'held out' if half else 'fitted'}",
            )
    low = 0.7 * min(min(p.measured_ms, p.predicted_ms) for p in points)
    high = 1.4 * max(max(p.measured_ms, p.predicted_ms) for p in points)
    line = np.array([low, high])
    axes.plot(line, line, color="#444444", linewidth=1)
    axes.fill_between(line, line / 1.3, line * 1.3, color="#444444", alpha=0.08, linewidth=0)
    for point in points:
        if abs(point.error) > 0.3:
            axes.annotate(
                point.id,
                (point.measured_ms, point.predicted_ms),
                fontsize=8,
                textcoords="offset points",
                xytext=(6, -4),
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        xlabel=f"measured ({unit})",
        ylabel=f"predicted ({unit})",
    )
    axes.set_title(
        f"{title}\nheld out: median {figures['held_out_median']:.1%}, worst "
        f"{figures['held_out_worst']:.1%} of {figures['held_out_points']:.0f} points",
        fontsize=11,
    )
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints the summary as JSON, returns 1 where a bound of docs/edge.md is broken."""
    parser = argparse.ArgumentParser(prog="python -m moe_pipeline.studies.calibration")
    parser.add_argument("study", choices=("this-machine", "public"))
    parser.add_argument("--out", type=Path, default=Path("docs/calibration"))
    parser.add_argument("--stored", action="store_true", help="this-machine: fit the stored times again")
    chosen = parser.parse_args(arguments)
    try:
        report = (
            this_machine_report(chosen.out, chosen.stored)
            if chosen.study == "this-machine"
            else public_report(chosen.out)
        )
    except MoEverseError as error:
        print(error.sentence(), file=sys.stderr)
        return 2
    print(json.dumps({"fit": report["fit"], "summary": report["summary"]}, indent=1))
    return 0 if within_bounds(chosen.study, report["summary"]) else 1


def within_bounds(study: str, figures: dict[str, float]) -> bool:
    """Median 12 % and worst 30 % on this machine, median 30 % on published benchmarks, on the held-out half."""
    if study == "this-machine":
        return figures["held_out_median"] <= 0.12 and figures["held_out_worst"] <= 0.30
    return figures["held_out_median"] <= 0.30


if __name__ == "__main__":
    raise SystemExit(main())
