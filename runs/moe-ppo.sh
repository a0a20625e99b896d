#!/bin/sh
# Trains the placement policies (five seeds with the mixture, five without; 0.3 minutes of one core each), compares
# them with greedy, random and full knowledge on held-out traffic, and draws the gate. Below ten minutes of one core.
# Writes out/moe-ppo/*.safetensors and docs/simulation/{compare,small,regimes}.json and pictures.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
"$python" -m training.placement_study train --out out/moe-ppo --minutes "${MINUTES:-0.3}" --seeds "${SEEDS:-5}"
"$python" -m training.placement_study compare --out out/moe-ppo --requests 200 --seeds 5
"$python" -m training.placement_study small --out out/moe-ppo
"$python" -m training.placement_study regimes
