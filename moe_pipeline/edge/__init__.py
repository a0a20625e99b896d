"""The mobile edge: devices, networks, what a request costs there, and where each expert should run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_pipeline.edge.calibration import this_machine
    from moe_pipeline.edge.placement import place
    from moe_pipeline.edge.profiles import ProfileLibrary, load_profiles

__all__ = ["ProfileLibrary", "load_profiles", "place", "this_machine"]

# Loaded on first use: the solver and torch stay out of an import of the room.
_HOMES = {
    "ProfileLibrary": "profiles",
    "load_profiles": "profiles",
    "place": "placement",
    "this_machine": "calibration",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"moe_pipeline.edge.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
