#!/bin/sh
# Trains the placement policies, five with the mixture and five without (1.5 minutes of one core each), picks one on
# validation traffic, compares all with greedy, random and full knowledge on held-out traffic, and draws the gate:
# about 22 minutes of one core. MINUTES and SEEDS change the training.
# Writes out/moe-ppo/*.safetensors and docs/simulation/{validation,compare,small,regimes}.json and pictures.
# SHIP=1 puts the picked policy into assets/policies before the comparison.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
"$python" -m training.placement_study train --out out/moe-ppo --minutes "${MINUTES:-1.5}" --seeds "${SEEDS:-5}"
picked=$("$python" -m training.placement_pick --out out/moe-ppo | tee /dev/stderr | sed -n 's/^picked //p')
if [ "${SHIP:-0}" = 1 ]; then cp "$picked" assets/policies/moe-ppo.safetensors; fi
"$python" -m training.placement_study compare --out out/moe-ppo --requests 150 --seeds 20
"$python" -m training.placement_study regimes
"$python" -m training.placement_study small --out out/moe-ppo
