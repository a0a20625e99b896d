"""`python -m moe_pipeline COMMAND`."""

import sys

if __name__ == "__main__":
    try:
        from moe_pipeline.cli import main
    except KeyboardInterrupt:  # before the command line can say it itself
        print("Cancelled.", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
