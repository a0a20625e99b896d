#!/bin/sh
# Trains the placement policies, with the mixture and without, compares them with greedy, random and full knowledge on
# held-out traffic, and draws the gate: about two minutes of one core as published. MINUTES=1.5 SEEDS=5 trains five
# of each for 1.5 minutes (about 15 minutes of one core).
# Writes out/moe-ppo/*.safetensors and docs/simulation/{compare,small,regimes}.json and pictures.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
"$python" -m training.placement_study train --out out/moe-ppo --minutes "${MINUTES:-0.3}" --seeds "${SEEDS:-1}"
"$python" -m training.placement_study compare --out out/moe-ppo --requests 150 --seeds 5
"$python" -m training.placement_study regimes
"$python" -m training.placement_study small --out out/moe-ppo
echo "To ship a policy: cp out/moe-ppo/moe-ppo-0.safetensors assets/policies/moe-ppo.safetensors"
