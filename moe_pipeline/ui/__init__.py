"""The page: one consumer of the event stream, drawn with Gradio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_pipeline.ui.studio import create_studio
    from moe_pipeline.ui.theme import launch_options

__all__ = ["create_studio", "launch_options"]


def __getattr__(name: str) -> Any:
    # Gradio takes a second to import: only for who builds the page.
    if name == "create_studio":
        from moe_pipeline.ui.studio import create_studio

        return create_studio
    if name == "launch_options":
        from moe_pipeline.ui.theme import launch_options

        return launch_options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
