#!/bin/sh
# The cost model against published benchmarks (edge_profiles/benchmarks.yaml): counts each model on the meta device,
# fits efficiencies on half of the points, reports the errors on the other half. Writes docs/calibration/public.{json,png}.
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m moe_pipeline.studies.calibration public "$@"
