"""`python -m moe_pipeline`."""

import sys

from moe_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
