"""Latency, memory and energy of a run: measured figures only, from its timings and from hardware counters."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_pipeline.schema.metrics import LatencyMetrics
from moe_pipeline.schema.record import RunRecord

RAPL_ROOT = Path("/sys/class/powercap")
NO_COUNTER = "no energy counter can be read here (RAPL and NVML absent or not permitted)"


@dataclass(frozen=True)
class Resources:
    """What a `ResourceMeter` saw between its start and its end."""

    peak_rss_bytes: int | None
    peak_cuda_bytes: int | None
    energy_j: float | None
    energy_source: str
    elapsed_s: float


def summarise(
    *,
    steps_ms: Sequence[float],
    stages_ms: Mapping[str, float],
    total_ms: float,
    frames: int,
    fps: float,
    first_preview_ms: float | None = None,
    resources: Resources | None = None,
) -> LatencyMetrics:
    """Figures of one run from its wall times (milliseconds), frame count and playing rate.

    Percentiles interpolate linearly between order statistics (numpy's default). Frames per second and real-time
    factor count the whole run, from request to file.
    """
    steps = [float(ms) for ms in steps_ms]
    seconds = total_ms / 1000.0
    playing = frames / fps if fps > 0 else 0.0
    return LatencyMetrics(
        time_to_first_preview_ms=first_preview_ms,
        total_ms=total_ms,
        stages_ms=dict(stages_ms),
        steps_ms=steps,
        step_p50_ms=float(np.percentile(steps, 50)) if steps else None,
        step_p95_ms=float(np.percentile(steps, 95)) if steps else None,
        frames_per_second=frames / seconds if seconds > 0 else None,
        real_time_factor=seconds / playing if playing > 0 else None,
        peak_rss_bytes=None if resources is None else resources.peak_rss_bytes,
        peak_cuda_bytes=None if resources is None else resources.peak_cuda_bytes,
        energy_j=None if resources is None else resources.energy_j,
        energy_source="not metered" if resources is None else resources.energy_source,
    )


def latency_of(record: RunRecord, resources: Resources | None = None) -> LatencyMetrics:
    """Latency figures of a recorded run; memory from the record where no meter ran."""
    timing = record.timing
    stages = {
        "encode_prompt": timing.encode_prompt_ms,
        "gate": timing.gate_ms,
        "place": timing.place_ms,
        "denoise": timing.denoise_ms,
        "decode": timing.decode_ms,
        "metrics": timing.metrics_ms,
        "export": timing.export_ms,
    }
    found = summarise(
        steps_ms=[step.ms for step in timing.steps],
        stages_ms=stages,
        total_ms=timing.total_ms,
        frames=record.clip.frames,
        fps=record.clip.fps,
        first_preview_ms=timing.first_preview_ms,
        resources=resources,
    )
    if resources is None:
        found.peak_rss_bytes, found.peak_cuda_bytes = timing.peak_rss_bytes, timing.peak_cuda_bytes
    return found


class ResourceMeter:
    """Context that samples resident memory while work runs, and reads energy counters before and after.

    RSS is sampled every `interval_s` in a thread (the operating system's own peak never goes down, so it cannot
    belong to one run). CUDA's peak comes from torch's allocator, when torch is loaded and CUDA is in use. After the
    block, `.resources` holds the figures.
    """

    def __init__(self, interval_s: float = 0.02, *, rapl_root: Path = RAPL_ROOT) -> None:
        self._interval, self._rapl_root = interval_s, rapl_root
        self._stop = threading.Event()
        self._peak: int | None = None
        self.resources: Resources | None = None

    def __enter__(self) -> ResourceMeter:
        self._before, self._source = read_energy(self._rapl_root)
        _reset_cuda_peak()
        self._started = time.perf_counter()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="resource-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        after = read_energy(self._rapl_root)[0]
        elapsed = time.perf_counter() - self._started
        joules = energy_between(self._before, after)
        source = self._source if joules is not None else NO_COUNTER
        self.resources = Resources(self._peak, _cuda_peak(), joules, source, elapsed)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        now = resident_bytes()
        if now is not None:
            self._peak = now if self._peak is None else max(self._peak, now)


def resident_bytes() -> int | None:
    """Resident memory of this process now, or None where it cannot be read."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


@dataclass(frozen=True)
class _Counter:
    joules: float
    wraps_at_joules: float | None  # RAPL counters start again at their range


def read_energy(rapl_root: Path = RAPL_ROOT) -> tuple[dict[str, _Counter], str]:
    """Counters by name (CPU packages by RAPL, GPUs by NVML) and what they are; empty where there are none."""
    counters = {**_rapl(rapl_root), **_nvml()}
    kinds = sorted({name.split(":")[0] for name in counters})
    labels = {"rapl": "RAPL (CPU packages)", "nvml": "NVML (GPUs)"}
    return counters, " + ".join(labels[kind] for kind in kinds) if kinds else NO_COUNTER


def energy_between(before: Mapping[str, _Counter], after: Mapping[str, _Counter]) -> float | None:
    """Joules between two readings, wrap-around of a counter included; None without a common counter."""
    common = before.keys() & after.keys()
    if not common:
        return None
    total = 0.0
    for name in common:
        spent = after[name].joules - before[name].joules
        wraps = before[name].wraps_at_joules
        if spent < 0 and wraps is not None:
            spent += wraps
        total += max(0.0, spent)
    return total


def _rapl(root: Path) -> dict[str, _Counter]:
    """Package domains of the powercap tree; sub-domains (core, dram) are part of them or not always there."""
    found = {}
    for zone in sorted(root.glob("intel-rapl:[0-9]*")) if root.is_dir() else []:
        if zone.name.count(":") != 1:
            continue
        try:
            # "psys" counts the whole board, packages included: added to them it would count them twice
            if not (zone / "name").read_text().startswith("package"):
                continue
            energy = int((zone / "energy_uj").read_text()) / 1e6
            limit = int((zone / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):  # readable by root only on most systems
            continue
        found[f"rapl:{zone.name}"] = _Counter(energy, limit)
    return found


def _nvml() -> dict[str, _Counter]:
    """Total energy of each GPU since the driver was loaded, by the driver's own library; {} where it is not there.

    A GPU without such a counter is left out, the others count (nvmlDeviceGetTotalEnergyConsumption, millijoules).
    """
    library = _nvml_library()
    count = ctypes.c_uint(0)
    if library is None or library.nvmlInit_v2() != 0:
        return {}
    found = {}
    try:
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return {}
        for i in range(count.value):
            device, spent = ctypes.c_void_p(), ctypes.c_ulonglong(0)
            if (
                library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(i), ctypes.byref(device)) == 0
                and library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(spent)) == 0
            ):
                found[f"nvml:{i}"] = _Counter(spent.value / 1000.0, None)
    except AttributeError:  # a driver older than the counter
        return {}
    finally:
        library.nvmlShutdown()
    return found


def _nvml_library() -> Any:
    """NVIDIA's management library, which comes with the driver; None where there is no driver."""
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _reset_cuda_peak() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _cuda_peak() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())
