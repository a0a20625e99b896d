#!/usr/bin/env bash
# The figures and sheets of the README, read from the pack as it ships. Renders the held-out clips and encodes them
# with the pack's own autoencoder when they are not there.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
data=${DATA:-data/worlds-v1} out=${OUT:-docs/evaluation} pack=${PACK:-assets/packs/tiny-worlds}
"$python" -m training.render --clips 180 --seed 900001 --split held-out --out "$data/held"
"$python" -m training.latents --data "$data/held" --pack "$pack" --out "$data/held-latents-$(basename "$pack")"
"$python" -m training.evaluate --pack "$pack" --held "$data/held" \
    --latents "$data/held-latents-$(basename "$pack")" --out "$out"
