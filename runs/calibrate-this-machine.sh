#!/bin/sh
# The cost model against this machine: times the denoiser over 44 configurations (about 20 s, on a quiet machine),
# fits on half, reports the errors on the other half. Writes docs/calibration/this-machine.{json,png}.
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m moe_pipeline.studies.calibration this-machine "$@"
