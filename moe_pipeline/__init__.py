"""MoEverse: a metaverse scene prompt becomes a short clip, by a mixture of expert video-diffusion models.

Importing this package imports neither torch nor gradio nor diffusers: the names below load on first use
(PEP 562), so that ``moe_pipeline.RunRecord`` costs pydantic and nothing more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_pipeline._version import __version__

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline, catalog
    from moe_pipeline.schema.errors import MoEverseError
    from moe_pipeline.schema.record import RunRecord
    from moe_pipeline.schema.request import SceneRequest

_HOMES = {
    "MoEVideoPipeline": "moe_pipeline.pipeline",
    "catalog": "moe_pipeline.pipeline",
    "MoEverseError": "moe_pipeline.schema.errors",
    "RunRecord": "moe_pipeline.schema.record",
    "SceneRequest": "moe_pipeline.schema.request",
}

__all__ = ["MoEVideoPipeline", "MoEverseError", "RunRecord", "SceneRequest", "__version__", "catalog"]


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
