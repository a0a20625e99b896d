#!/bin/sh
# Simulated requests a second on one core (seconds). Writes docs/simulation/throughput.json.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
exec "${PYTHON:-.venv/bin/python}" -m training.placement_study throughput --requests 2000
