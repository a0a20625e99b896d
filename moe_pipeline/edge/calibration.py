"""Measures the machine that runs the project and keeps it as the profile `this-machine`.

At most three seconds: a large matrix product in each number format, a copy through memory, and real expert
steps handed in as callables. The result is cached in the user's cache folder until processor, torch or the
number of threads change.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import ValidationError

from moe_pipeline.atomic import write_text
from moe_pipeline.edge.profiles import THIS_MACHINE
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import DeviceProfile, Precision, Quantity
from moe_pipeline.schema.workload import Workload

CACHE_VERSION = 2
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
COPY_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}

# Fitted on the embedded denoiser over 44 configurations (docs/edge.md); used where the probes cannot tell.
HALF_WORK_GFLOP = 1.0
ETA_MEMORY = 0.56
ETA_WITHOUT_PROBE = 0.6
WATTS_PER_CORE = 7.5


@dataclass(frozen=True)
class Probe:
    """A real call and what it computes; `run` must have finished its work when it returns."""

    workload: Workload
    run: Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """What was measured, in plain units."""

    tflops: dict[Precision, float]  # best matrix product
    memory_gbs: float  # best copy, read and write
    launch_ms: float  # smallest possible call
    probes: tuple[tuple[Workload, float], ...]  # workload and median milliseconds
    seconds: float
    sides: dict[Precision, int] = field(default_factory=dict)  # of the matrices, by format


def cache_path() -> Path:
    """Where the measured profile is kept."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("moeverse")) / "this-machine.json"


@overload
def this_machine(
    *,
    cache: Path | None = None,
    probes: Sequence[Probe] = (),
    refresh: bool = False,
    measure_if_missing: Literal[True] = True,
    torch_device: str = "cpu",
) -> DeviceProfile: ...


@overload
def this_machine(
    *,
    cache: Path | None = None,
    probes: Sequence[Probe] = (),
    refresh: bool = False,
    measure_if_missing: Literal[False],
    torch_device: str = "cpu",
) -> DeviceProfile | None: ...


def this_machine(
    *,
    cache: Path | None = None,
    probes: Sequence[Probe] = (),
    refresh: bool = False,
    measure_if_missing: bool = True,
    torch_device: str = "cpu",
) -> DeviceProfile | None:
    """The profile of this machine: from the cache, else measured and cached.

    Args:
        cache: file to use instead of `cache_path()`.
        probes: real expert steps; they refine the efficiencies. Ignored where the cache answers.
        refresh: measure again.
        measure_if_missing: False returns None instead of measuring.
        torch_device: `cpu` or `cuda`.
    """
    path = cache if cache is not None else cache_path()
    if not refresh:
        known = _read(path, _key(torch_device))
        if known is not None:
            return known
        if not measure_if_missing:
            return None
    profile = as_profile(measure(probes, torch_device=torch_device), torch_device)
    _write(path, _key(torch_device), profile)
    return profile


def _key(torch_device: str) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name() if torch_device == "cuda" else _processor()
    return {
        "version": CACHE_VERSION,
        "device": torch_device,
        "name": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if torch_device == "cpu" else 0,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"


def _read(path: Path, key: dict[str, Any]) -> DeviceProfile | None:
    """The cached profile if it is whole and belongs to this key; anything else counts as no cache."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("key") != key:
            return None
        return DeviceProfile.model_validate(stored["profile"])
    except (OSError, ValueError, KeyError, ValidationError):
        return None


def _write(path: Path, key: dict[str, Any], profile: DeviceProfile) -> None:
    """Atomic; a folder that cannot be written only means measuring again next time."""
    with suppress(MoEverseError):
        write_text(path, json.dumps({"key": key, "profile": profile.model_dump(mode="json")}, indent=1))


def measure(probes: Sequence[Probe] = (), *, torch_device: str = "cpu") -> Measurement:
    """Runs the measurements, at most about three seconds."""
    import torch

    began = time.perf_counter()
    formats: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if torch_device == "cuda":
        formats["fp16"] = torch.float16
    wait = torch.cuda.synchronize if torch_device == "cuda" else _nothing
    with torch.inference_mode():
        products = {name: _matrix_tflops(kind, torch_device, wait) for name, kind in formats.items()}
        memory = _copy_gbs(torch_device, wait)
        one = torch.zeros(8, 8, device=torch_device)
        launch = min(_times(lambda: one + one, wait, seconds=0.05, most=200))
        timed = []
        for probe in probes:
            runs = sorted(_times(probe.run, wait, seconds=0.9 / len(probes), most=9))
            timed.append((probe.workload, 1e3 * runs[len(runs) // 2]))
    tflops = {name: rate for name, (rate, _) in products.items()}
    sides = {name: side for name, (_, side) in products.items()}
    return Measurement(tflops, memory, 1e3 * launch, tuple(timed), time.perf_counter() - began, sides)


def _nothing() -> None:
    return None


def _times(
    run: Callable[[], object], wait: Callable[[], object], *, seconds: float, most: int
) -> list[float]:
    """Seconds of repeated runs after one to warm up, until the budget or the count is used up."""
    run()
    wait()
    found: list[float] = []
    begin = time.perf_counter()
    while not found or (len(found) < most and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - start)
    return found


def _matrix_tflops(kind: Any, torch_device: str, wait: Callable[[], object]) -> tuple[float, int]:
    """The best rate of a product of two square matrices, and their side.

    Smaller where one product would take longer than a tenth of a second, as it does in a format that the processor
    only emulates.
    """
    import torch

    side = MATRIX_SIDE[torch_device]
    trial = torch.ones(side // 4, side // 4, dtype=kind, device=torch_device)
    once = min(_times(lambda: trial @ trial, wait, seconds=0.02, most=5))
    while side > trial.shape[0] and once * (side / trial.shape[0]) ** 3 > 0.1:
        side //= 2
    a = torch.ones(side, side, dtype=kind, device=torch_device)
    best = min(_times(lambda: a @ a, wait, seconds=0.4, most=40))
    return float(2 * side**3 / best / 1e12), side


def _copy_gbs(torch_device: str, wait: Callable[[], object]) -> float:
    import torch

    size = COPY_BYTES[torch_device]
    source = torch.ones(size, dtype=torch.uint8, device=torch_device)
    target = torch.empty_like(source)
    best = min(_times(lambda: target.copy_(source), wait, seconds=0.3, most=40))
    return float(2 * size / best / 1e9)


def _product_of(side: int) -> str:
    return f"best product of two {side} x {side} matrices"


def as_profile(measured: Measurement, torch_device: str = "cpu") -> DeviceProfile:
    """The measurement as a device: measured numbers as measured, the rest as assumptions that say so."""

    def found(value: float, how: str) -> Quantity:
        return Quantity(value=value, kind="measured", source=f"S1, on this machine: {how}")

    def assumed(value: float, why: str) -> Quantity:
        return Quantity(value=value, kind="assumption", source=why)

    cores = os.cpu_count() or 1
    name, memory_gb = _name_and_memory(torch_device)
    watts = WATTS_PER_CORE * cores if torch_device == "cpu" else 300.0
    efficiency = fit_efficiency(measured)
    return DeviceProfile.model_validate(
        {
            "id": THIS_MACHINE,
            "title": "This machine",
            "category": "host",
            "description": f"{name}, measured in {measured.seconds:.1f} s.",
            "peak_tflops": {
                key: found(round(value, 4), _product_of(measured.sides.get(key, MATRIX_SIDE[torch_device])))
                for key, value in measured.tflops.items()
            },
            "memory_gb": found(memory_gb, "reported by the operating system"),
            "reserved_gb": assumed(min(2.0, memory_gb / 4), "operating system and runtime; no source"),
            "memory_gbs": found(round(measured.memory_gbs, 2), "best copy, read and write"),
            "efficiency": {
                "eta_compute": efficiency[0],
                "half_work_gflop": efficiency[1],
                "eta_memory": assumed(
                    ETA_MEMORY,
                    "cautious share of a plain copy; calls of this size are bound by arithmetic, docs/edge.md",
                ),
                "launch_ms": found(round(measured.launch_ms, 5), "smallest possible call"),
            },
            "power_max_w": assumed(
                watts,
                f"{WATTS_PER_CORE:g} W a core, no power meter is read"
                if torch_device == "cpu"
                else "no power meter is read",
            ),
            "power_idle_w": assumed(watts / 4, "a quarter of the maximum; no source"),
            "storage_gbs": assumed(1.0, "not measured"),
        }
    )


def fit_efficiency(measured: Measurement) -> tuple[Quantity, Quantity]:
    """eta_compute and half_work_gflop from the probes.

    With t = (w + w_half) / (eta P) two probes of different size give both by least squares on 1/P-scaled
    times; with one, w_half is the value of the fit in docs/edge.md; with none both are assumptions.
    """
    points = [
        (
            work.flops / 1e9,
            (ms - measured.launch_ms) * measured.tflops[work.precision],
        )  # GFLOP, GFLOP at peak
        for work, ms in measured.probes
        if work.precision in measured.tflops and ms > measured.launch_ms and work.flops > 0
    ]
    half = Quantity(
        value=HALF_WORK_GFLOP, kind="assumption", source="fitted on the embedded denoiser, docs/edge.md"
    )
    if not points:
        eta = Quantity(value=ETA_WITHOUT_PROBE, kind="assumption", source="no expert step was measured")
        return eta, half
    words = f"S1, on this machine: {len(points)} real expert step{'s' if len(points) > 1 else ''}"
    work, spent = zip(*points, strict=True)
    if len(points) > 1 and max(work) > 1.5 * min(work):
        mean_w, mean_s = sum(work) / len(work), sum(spent) / len(spent)
        slope = sum((w - mean_w) * (s - mean_s) for w, s in points) / sum((w - mean_w) ** 2 for w in work)
        if slope > 1.0:  # 1 / eta
            offset = max(0.0, mean_s / slope - mean_w)
            return (
                Quantity(value=round(1 / slope, 4), kind="measured", source=words),
                Quantity(value=round(offset, 4), kind="measured", source=words),
            )
    ratios = sorted(s / (w + HALF_WORK_GFLOP) for w, s in points)
    eta_value = min(1.0, 1 / ratios[len(ratios) // 2])
    return Quantity(value=round(eta_value, 4), kind="measured", source=words), half


def _name_and_memory(torch_device: str) -> tuple[str, float]:
    if torch_device == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        return properties.name, round(properties.total_memory / 1e9, 2)
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        total = 8 * 10**9
    return f"{_processor()}, {os.cpu_count() or 1} cores", round(total / 1e9, 2)
