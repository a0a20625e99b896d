"""The embedded pack's frame features for `evaluate`, made afresh in each of its worker processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_pipeline.schema.errors import MoEverseError

if TYPE_CHECKING:
    from moe_pipeline.features import PackFeatures


def embedded_features() -> PackFeatures:
    """The encoder behind the stand-ins for consistency and alignment.

    Raises:
        MoEverseError: the embedded pack is missing or broken, or has no frame probe.
    """
    from moe_pipeline.pipeline import EngineConfig, MoEVideoPipeline

    # One thread: the worker processes are the parallelism.
    features = MoEVideoPipeline.from_pack(None, EngineConfig(threads=1)).features
    if features is None:
        raise MoEverseError(
            "no_probe", "The embedded pack has no frame probe.", "Measure without --pack-features."
        )
    return features
