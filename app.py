"""Serves MoEverse: `make run`, or `python app.py`. Address and port are Gradio's GRADIO_SERVER_NAME and _PORT."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Load the pack, build the page, serve until interrupted. Returns the exit code."""
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.errors import MoEverseError
    from moe_pipeline.ui import create_studio, launch_options

    try:
        pipeline = MoEVideoPipeline.from_pack()
    except MoEverseError as error:
        print(error.sentence(), file=sys.stderr)
        return 2
    try:
        create_studio(pipeline).launch(**launch_options())
    except OSError as error:  # the port is taken
        print(f"{error} Set GRADIO_SERVER_PORT to another port.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(main())
