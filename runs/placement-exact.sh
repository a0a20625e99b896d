#!/bin/sh
# The placement solver against brute force on 200 random instances, and its time on 8 experts and 16 devices
# (about a minute). Writes docs/calibration/placement.json.
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m moe_pipeline.studies.placement_exact "$@"
