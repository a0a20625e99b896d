"""FLOPs, bytes, peak memory and messages of every stage, counted from the modules without their weights."""

from __future__ import annotations

from moe_pipeline.workload.count import ModuleCost, count_call, count_module, on_meta
from moe_pipeline.workload.hub import HUB_ARCHITECTURES, hub_workloads
from moe_pipeline.workload.stages import embedded_workloads

__all__ = [
    "HUB_ARCHITECTURES",
    "ModuleCost",
    "count_call",
    "count_module",
    "embedded_workloads",
    "hub_workloads",
    "on_meta",
]
