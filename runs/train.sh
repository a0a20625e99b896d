#!/usr/bin/env bash
# Train the embedded pack from nothing: worlds, autoencoder, generalist, experts, single model, gate, pack, figures.
# Every stage can be stopped and continued by running this again; budgets are minutes of the trainer's own CPU time
# (wall time on CUDA). Experts run two at a time, one thread each: on two cores that is faster than two threads one
# after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
data=${DATA:-data/worlds-v1} work=${WORK:-checkpoints}
clips=${CLIPS:-2400} autoencoder_minutes=${AUTOENCODER_MINUTES:-20} generalist_minutes=${GENERALIST_MINUTES:-25}
single_samples=${SINGLE_SAMPLES:-16896} samples=${EXPERT_SAMPLES:-768}
version=${VERSION:-0.1.0}

"$python" -m training.render --clips "$clips" --seed 1 --split train --out "$data/train"
"$python" -m training.render --clips 180 --seed 900001 --split held-out --out "$data/held"
"$python" -m training.autoencoder --data "$data/train" --held "$data/held" --out "$work/autoencoder" \
    --minutes "$autoencoder_minutes"
for split in train held; do
    "$python" -m training.latents --data "$data/$split" --autoencoder "$work/autoencoder" --out "$data/$split-latents"
done
common=(--data "$data/train-latents" --held "$data/held-latents" --autoencoder "$work/autoencoder")
"$python" -m training.experts --role generalist "${common[@]}" --out "$work/generalist" \
    --minutes "$generalist_minutes" --stills 0.4
# The single model goes on with a falling learning rate; the experts branch from it and are blended with it.
"$python" -m training.experts --role single --start "$work/generalist" --lr 1.5e-3 --minutes 1000 "${common[@]}" \
    --out "$work/single" --samples "$single_samples"
branch=(--start "$work/single" --start-averaged --lr 6e-4 --ema 0.95 --rehearsal 0 --minutes 1000 --threads 1
    --samples "$samples" "${common[@]}")
queue() {
    for domain in "$@"; do
        "$python" -m training.experts --role expert --domain "$domain" "${branch[@]}" --out "$work/expert-$domain"
    done
}
queue city object landscape &
first=$!
queue avatar space interior
wait "$first"
"$python" -m training.blend --generalist "$work/single" --experts "$work" --share 0.4
"$python" -m training.gate --latents "$data/train-latents" --held "$data/held-latents" --experts "$work" \
    --out "$work/gate"
"$python" -m training.probe --data "$data/train" --held "$data/held" --autoencoder "$work/autoencoder" \
    --out "$work/probe"
"$python" -m training.pack --checkpoints "$work" --previews "$data/held" --version "$version" \
    --out assets/packs/tiny-worlds
runs/evaluate-pack.sh
