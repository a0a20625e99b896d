"""What is measured about a clip, and how near each figure is to VBench's.

`METRICS` is the catalogue, `measure` the one call. Importing this package imports neither torch nor OpenCV.
"""

from moe_pipeline.metrics.catalogue import DEFAULT_METRICS, HEADLINE_METRICS, METRICS, shown
from moe_pipeline.metrics.consistency import AlignedFeatureEncoder, FeatureEncoder
from moe_pipeline.metrics.measure import measure

__all__ = [
    "AlignedFeatureEncoder",
    "DEFAULT_METRICS",
    "FeatureEncoder",
    "HEADLINE_METRICS",
    "METRICS",
    "measure",
    "shown",
]
