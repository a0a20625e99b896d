"""The page's look: theme, style sheet and scripts, all from files beside this module; nothing from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("shared", "stage", "gate", "plan", "devices", "metrics", "comparison", "edge", "details", "page")


def studio_theme() -> gr.themes.Base:
    """Calm greys, one ink-coloured action, expert colours left to the charts. Fonts come with Gradio."""
    # The semi-bold Plex that Gradio carries has no Latin letters: 400 and 700 do.
    theme = gr.themes.Base(
        primary_hue=colors.indigo,
        secondary_hue=colors.indigo,
        neutral_hue=colors.zinc,
        text_size=sizes.text_md,
        radius_size=sizes.radius_md,
        font=(
            fonts.LocalFont("IBM Plex Sans", weights=(400, 700)),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ),
        font_mono=(fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"),
    )
    return theme.set(
        body_background_fill="#f6f6f4",
        body_background_fill_dark="#0f1114",
        body_text_color="#1c1e23",
        body_text_color_dark="#e8e9ec",
        body_text_color_subdued="#5c616b",
        body_text_color_subdued_dark="#a0a5af",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_text_color="#3a3e46",
        block_label_text_color_dark="#c4c8d0",
        block_info_text_color="#5c616b",
        block_info_text_color_dark="#a0a5af",
        block_title_text_color="#3a3e46",
        block_title_text_color_dark="#c4c8d0",
        block_title_text_weight="600",
        block_title_text_size="13px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1a1d22",
        input_border_color="#d9dad4",
        input_border_color_dark="#2d3139",
        input_border_width="1px",
        border_color_primary="#e3e4de",
        border_color_primary_dark="#262a31",
        button_primary_background_fill="#1c1e23",
        button_primary_background_fill_hover="#34373f",
        button_primary_text_color="#ffffff",
        button_primary_background_fill_dark="#f1f2f4",
        button_primary_background_fill_hover_dark="#ffffff",
        button_primary_text_color_dark="#15171b",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#efefeb",
        button_secondary_background_fill_dark="#1a1d22",
        button_secondary_background_fill_hover_dark="#252931",
        button_secondary_border_color="#d9dad4",
        button_secondary_border_color_dark="#2d3139",
        button_border_width="1px",
        slider_color="#4f5bd5",
        slider_color_dark="#8b95f5",
        checkbox_background_color_selected="#4f5bd5",
        checkbox_background_color_selected_dark="#6d79ea",
        color_accent="#4f5bd5",
    )


def style_sheet() -> str:
    """The page's own rules."""
    return (STATIC / "studio.css").read_text(encoding="utf-8")


def head() -> str:
    """For the page's head: the rules outside the container, and all views, which must exist before a panel mounts."""
    page = (STATIC / "page.css").read_text(encoding="utf-8")
    text = "\n".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    return f"<style>\n{page}\n</style>\n<script>\n{text}\n</script>"


def launch_options() -> dict[str, Any]:
    """What `launch` needs: the look, and everything switched off that would talk to the outside or keep history."""
    return {
        "theme": studio_theme(),
        "css": style_sheet(),
        "head": head(),
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": None,  # off, unless GRADIO_MCP_SERVER=True asks for it: the three endpoints as tools
        "max_threads": 80,
        "max_file_size": "1mb",
        "show_error": False,
        "favicon_path": STATIC / "mark.svg",
    }
