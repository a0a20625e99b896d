#!/usr/bin/env bash
# Trains the pack from nothing: worlds, autoencoder, generalist, experts, single model, gate, pack (`make train`).
# Stop it at any time and start it again: what is done is kept, what was begun goes on. CUDA is used when present.
#
#   CLIPS=6000 HELD=240 AE_MINUTES=60 BASE_MINUTES=120 SAMPLES=6000 VERSION=0.1.0 bash runs/train.sh
#
# The six experts get SAMPLES each; the single model of every comparison gets as many as all of them together.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PY=${PY:-.venv/bin/python}
DATA=${DATA:-data}
CHECKPOINTS=${CHECKPOINTS:-checkpoints}
OUT=${OUT:-out/packs/tiny-worlds}
VERSION=${VERSION:-0.1.0}
CLIPS=${CLIPS:-6000}
HELD=${HELD:-240}
AE_MINUTES=${AE_MINUTES:-60}
BASE_MINUTES=${BASE_MINUTES:-120}
SAMPLES=${SAMPLES:-6000}
domains=(city landscape interior space object avatar)

step() { printf '\n== %s\n' "$*"; }

step "render $CLIPS clips to train on and $HELD held out"
"$PY" -m training.render --clips "$CLIPS" --seed 0 --split train --out "$DATA/train"
"$PY" -m training.render --clips "$HELD" --seed 1 --split held --out "$DATA/held"

step "autoencoder, $AE_MINUTES minutes"
"$PY" -m training.autoencoder --data "$DATA/train" --held "$DATA/held" --out "$CHECKPOINTS/autoencoder" \
    --minutes "$AE_MINUTES"

step "latents"
for part in train held; do
    "$PY" -m training.latents --data "$DATA/$part" --autoencoder "$CHECKPOINTS/autoencoder" \
        --out "$DATA/$part-latents"
done

denoiser() {
    "$PY" -m training.experts --data "$DATA/train-latents" --held "$DATA/held-latents" \
        --autoencoder "$CHECKPOINTS/autoencoder" --sheets "$@"
}

step "generalist, $BASE_MINUTES minutes"
denoiser --role generalist --minutes "$BASE_MINUTES" --out "$CHECKPOINTS/generalist"

for domain in "${domains[@]}"; do
    step "expert $domain, $SAMPLES samples"
    denoiser --role expert --domain "$domain" --start "$CHECKPOINTS/generalist" --samples "$SAMPLES" \
        --minutes 100000 --out "$CHECKPOINTS/expert-$domain"
done

step "single model, $((SAMPLES * ${#domains[@]})) samples"
denoiser --role single --start "$CHECKPOINTS/generalist" --samples "$((SAMPLES * ${#domains[@]}))" \
    --minutes 100000 --out "$CHECKPOINTS/single"

step "gate"
"$PY" -m training.gate --latents "$DATA/train-latents" --held "$DATA/held-latents" --experts "$CHECKPOINTS" \
    --out "$CHECKPOINTS/gate"

step "pack in $OUT"
"$PY" -m training.pack --checkpoints "$CHECKPOINTS" --previews "$DATA/held" --out "$OUT" --version "$VERSION"
