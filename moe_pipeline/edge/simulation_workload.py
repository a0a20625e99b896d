"""The request that simulations price when no other workload is given."""

from __future__ import annotations

from pathlib import Path

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.workload import StageWorkloads

REFERENCE = Path(__file__).resolve().parents[2] / "edge_profiles" / "workloads" / "reference.json"


def reference_workloads() -> StageWorkloads:
    """The stored count of a clip (see docs/simulation.md for which one and how it was counted).

    Raises:
        MoEverseError: `no_workload` if the file is missing or broken.
    """
    try:
        return StageWorkloads.model_validate_json(REFERENCE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MoEverseError(
            "no_workload",
            f"{REFERENCE.name}: cannot be read ({type(error).__name__}).",
            "Restore edge_profiles/workloads/reference.json from the repository.",
        ) from error
