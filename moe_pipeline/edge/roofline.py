"""Time and energy of one call on one device: a roofline whose efficiency falls for small work.

    t = max(FLOPs / (eta_c(w) * P), bytes / (eta_m * B)) + t0,    eta_c(w) = eta_max * w / (w + w_half)

P is the peak of the number format, B the memory bandwidth, w the FLOPs of the call, t0 its fixed time. The
law for eta_c says that every call carries w_half FLOPs of work that is not there: start-up, half-filled
tiles, idle cores. Roofline: Williams, Waterman, Patterson, 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moe_pipeline.schema.profiles import DeviceProfile, Precision
from moe_pipeline.schema.workload import Workload

Bound = Literal["compute", "memory", "launch"]


@dataclass(frozen=True)
class CallCost:
    """One call: milliseconds by cause, joules, and what limits it."""

    compute_ms: float  # FLOPs at the efficiency of this size
    memory_ms: float  # bytes at the reachable bandwidth
    launch_ms: float  # fixed
    total_ms: float
    energy_j: float
    bound: Bound
    precision: Precision


def efficiency_at(flops: float, eta_max: float, half_work_flops: float) -> float:
    """eta_c: share of the peak that a call of `flops` reaches, between 0 and eta_max."""
    if flops <= 0:
        return eta_max
    return eta_max * flops / (flops + half_work_flops)


def roofline_ms(
    flops: float,
    bytes_moved: float,
    *,
    peak_flops: float,
    bandwidth: float,
    eta_max: float,
    half_work_flops: float,
    eta_memory: float,
    launch_ms: float,
) -> tuple[float, float, float]:
    """Compute, memory and total milliseconds of one call; SI units (FLOP/s, bytes/s) for the device."""
    eta = efficiency_at(flops, eta_max, half_work_flops)
    compute_ms = 1e3 * flops / (eta * peak_flops)
    memory_ms = 1e3 * bytes_moved / (eta_memory * bandwidth)
    return compute_ms, memory_ms, max(compute_ms, memory_ms) + launch_ms


def call_cost(
    workload: Workload, device: DeviceProfile, precision: Precision, *, background_load: float = 0.0
) -> CallCost:
    """The cost of one call at a number format the device supports.

    Args:
        background_load: share of the device that other work takes, 0 <= load < 1; stretches the time.

    Raises:
        KeyError: the device has no peak for `precision`.
    """
    scaled = workload.at(precision)
    efficiency = device.efficiency
    share = max(1e-3, 1.0 - background_load)
    compute_ms, memory_ms, total_ms = roofline_ms(
        scaled.flops,
        scaled.bytes_moved,
        peak_flops=device.peak_tflops[precision].value * 1e12 * share,
        bandwidth=device.memory_gbs.value * 1e9 * share,
        eta_max=efficiency.eta_compute.value,
        half_work_flops=efficiency.half_work_gflop.value * 1e9,
        eta_memory=efficiency.eta_memory.value,
        launch_ms=efficiency.launch_ms.value,
    )
    launch_ms = efficiency.launch_ms.value
    busy_ms = max(compute_ms, memory_ms)
    bound: Bound = "launch" if launch_ms > busy_ms else ("compute" if compute_ms >= memory_ms else "memory")
    return CallCost(
        compute_ms,
        memory_ms,
        launch_ms,
        total_ms,
        energy_j(device, busy_ms, total_ms, share),
        bound,
        precision,
    )


def energy_j(device: DeviceProfile, busy_ms: float, total_ms: float, share: float = 1.0) -> float:
    """E = (P_idle + u (P_max - P_idle)) t with u = busy / total, the share of the device that is ours."""
    idle, peak = device.power_idle_w.value, device.power_max_w.value
    utilisation = busy_ms / total_ms if total_ms > 0 else 0.0
    return share * (idle + utilisation * (peak - idle)) * total_ms / 1e3


def supported(device: DeviceProfile, allowed: Sequence[Precision]) -> list[Precision]:
    """The formats that both the device and the scenario allow, in the scenario's order."""
    return [precision for precision in allowed if precision in device.peak_tflops]


def fastest_precision(
    workload: Workload, device: DeviceProfile, allowed: Sequence[Precision], *, background_load: float = 0.0
) -> CallCost | None:
    """The quickest allowed format on the device (ties: the scenario's order); None if there is none."""
    costs = [
        call_cost(workload, device, precision, background_load=background_load)
        for precision in supported(device, allowed)
    ]
    return min(costs, key=lambda cost: cost.total_ms, default=None)
