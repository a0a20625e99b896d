"""VBench's aggregation: normalisation, weights, Quality, Semantic and Total.

Constants of `scripts/constant.py`, arithmetic of `scripts/cal_final_score.py`. ModelScope's sixteen published scores
give its published Quality 78.06, Semantic 66.54, Total 75.75 (VBench++, arXiv 2411.13503, Table II), and a test holds
that. VBench's script sets missing dimensions to 0 *before* it normalises, which gives negative terms; here a missing
dimension is refused, and figures of stand-ins are never aggregated under VBench's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moe_pipeline.schema.errors import MoEverseError


@dataclass(frozen=True)
class Dimension:
    """Normalisation range, weight and group of one VBench dimension."""

    low: float
    high: float
    weight: float
    group: str  # "quality" or "semantic"


DIMENSIONS: dict[str, Dimension] = {
    "subject_consistency": Dimension(0.1462, 1.0, 1.0, "quality"),
    "background_consistency": Dimension(0.2615, 1.0, 1.0, "quality"),
    "temporal_flickering": Dimension(0.6293, 1.0, 1.0, "quality"),
    "motion_smoothness": Dimension(0.706, 0.9975, 1.0, "quality"),
    "dynamic_degree": Dimension(0.0, 1.0, 0.5, "quality"),
    "aesthetic_quality": Dimension(0.0, 1.0, 1.0, "quality"),
    "imaging_quality": Dimension(0.0, 1.0, 1.0, "quality"),
    "object_class": Dimension(0.0, 1.0, 1.0, "semantic"),
    "multiple_objects": Dimension(0.0, 1.0, 1.0, "semantic"),
    "human_action": Dimension(0.0, 1.0, 1.0, "semantic"),
    "color": Dimension(0.0, 1.0, 1.0, "semantic"),
    "spatial_relationship": Dimension(0.0, 1.0, 1.0, "semantic"),
    "scene": Dimension(0.0, 0.8222, 1.0, "semantic"),
    "appearance_style": Dimension(0.0009, 0.2855, 1.0, "semantic"),
    "temporal_style": Dimension(0.0, 0.364, 1.0, "semantic"),
    "overall_consistency": Dimension(0.0, 0.364, 1.0, "semantic"),
}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


def normalise(name: str, score: float) -> float:
    """(score - low) / (high - low), not clipped, as VBench has it; `score` in VBench's 0..1 scale."""
    if name not in DIMENSIONS:
        raise MoEverseError(
            "unknown_dimension", f"VBench has no dimension {name!r}.", "Known: " + ", ".join(DIMENSIONS) + "."
        )
    dimension = DIMENSIONS[name]
    return (score - dimension.low) / (dimension.high - dimension.low)


def quality_score(scores: Mapping[str, float]) -> float:
    """VBench's Quality in 0..1 from its seven dimensions (each 0..1): weighted mean of the normalised scores."""
    return _group_mean(scores, "quality")


def semantic_score(scores: Mapping[str, float]) -> float:
    """VBench's Semantic in 0..1 from its nine dimensions."""
    return _group_mean(scores, "semantic")


def total_score(scores: Mapping[str, float]) -> float:
    """VBench's Total, (4 Quality + Semantic) / 5; needs all sixteen dimensions."""
    weighted = QUALITY_WEIGHT * quality_score(scores) + SEMANTIC_WEIGHT * semantic_score(scores)
    return weighted / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)


def missing_for(group: str, scores: Mapping[str, float]) -> list[str]:
    """Dimensions of a group that `scores` lacks."""
    return [name for name, dimension in DIMENSIONS.items() if dimension.group == group and name not in scores]


def _group_mean(scores: Mapping[str, float], group: str) -> float:
    missing = missing_for(group, scores)
    if missing:
        raise MoEverseError(
            "missing_dimension",
            f"VBench's {group} score cannot be formed without {', '.join(missing)}.",
            "Measure them with VBench's networks, or report the dimensions one by one.",
        )
    names = [name for name, dimension in DIMENSIONS.items() if dimension.group == group]
    weighted = sum(DIMENSIONS[name].weight * normalise(name, scores[name]) for name in names)
    return weighted / sum(DIMENSIONS[name].weight for name in names)
