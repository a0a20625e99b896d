"""FLOPs, bytes, peak memory and messages of every stage, counted from the modules without their weights."""

from __future__ import annotations

from moe_pipeline.workload.count import ModuleCost, count_call, count_module, on_meta
from moe_pipeline.workload.delta import apply_delta, delta_bytes, encode_delta
from moe_pipeline.workload.hub import HUB_ARCHITECTURES, hub_workloads
from moe_pipeline.workload.stages import embedded_workloads

__all__ = [
    "HUB_ARCHITECTURES",
    "ModuleCost",
    "apply_delta",
    "count_call",
    "count_module",
    "delta_bytes",
    "embedded_workloads",
    "encode_delta",
    "hub_workloads",
    "on_meta",
]
