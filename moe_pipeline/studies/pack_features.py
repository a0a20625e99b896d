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
    from moe_pipeline.engine import Engine, EngineConfig
    from moe_pipeline.features import PackFeatures
    from moe_pipeline.packs import open_pack

    # One thread: the worker processes are the parallelism.
    engine = Engine(open_pack(), EngineConfig(threads=1))
    if engine.manifest.probe is None:
        raise MoEverseError(
            "no_probe", "The embedded pack has no frame probe.", "Measure without --pack-features."
        )
    return PackFeatures(engine)
