#!/bin/sh
# The event simulator against queueing theory: mean waits of M/M/1 and M/D/1 (about two minutes of one core).
# Writes docs/simulation/theory.json.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
exec "${PYTHON:-.venv/bin/python}" -m training.placement_study theory --requests 8000 --seeds 8
