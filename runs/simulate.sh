#!/bin/sh
# Every scenario under every policy at 70 % of its capacity, three held-out seeds, the same for every policy (about
# four minutes of one core). Writes docs/simulation/scenarios.json and the table in docs/simulation.md, and the files
# of one run into out/simulate.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
"$python" -m training.placement_study scenarios --requests 200 --seeds 3 --load 0.7
"$python" -m moe_pipeline simulate --scenario vehicle-convoy --policy greedy --requests 1000 --load 0.7 --out out/simulate
