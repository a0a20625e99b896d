"""Serves MoEverse: `make run`, or `python app.py`. Address and port are Gradio's GRADIO_SERVER_NAME and _PORT."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Load the pack, build the page, serve until interrupted. Returns the exit code."""
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        print("GRADIO_SERVER_PORT must be a number from 1 to 65535, for example 7860.", file=sys.stderr)
        return 2

    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.errors import MoEverseError
    from moe_pipeline.ui import create_studio, launch_options

    try:
        studio = create_studio(MoEVideoPipeline.from_pack())
    except MoEverseError as error:
        hint = " Clips go to the user's cache; XDG_CACHE_HOME moves it." if error.code == "unwritable" else ""
        print(f"{error.sentence()}{hint}", file=sys.stderr)
        return 2
    try:
        studio.launch(**launch_options())
    except OSError as error:  # the port is taken
        print(f"{error} Set GRADIO_SERVER_PORT to another port.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(main())
