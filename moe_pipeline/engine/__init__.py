"""Engines: a loaded pack on a torch device in one precision, and the numeric step that the stream drives."""

from __future__ import annotations

from moe_pipeline.engine.base import BaseEngine, RoutedVelocity
from moe_pipeline.engine.config import EngineConfig
from moe_pipeline.engine.embedded import Engine, GuidedMixture, component_config
from moe_pipeline.engine.hub import HubEngine
from moe_pipeline.experts.cache import ExpertCache
from moe_pipeline.packs import HubPack, Pack

__all__ = [
    "BaseEngine",
    "Engine",
    "EngineConfig",
    "GuidedMixture",
    "HubEngine",
    "RoutedVelocity",
    "component_config",
    "open_engine",
]


def open_engine(
    pack: Pack | HubPack, config: EngineConfig, cache: ExpertCache | None = None
) -> Engine | HubEngine:
    """The engine for a pack's kind; loads nothing."""
    return HubEngine(pack, config, cache) if isinstance(pack, HubPack) else Engine(pack, config, cache)
