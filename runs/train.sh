#!/usr/bin/env bash
# Train the embedded pack from nothing: worlds, autoencoder, generalist, experts, single model, gate, pack, figures.
# Every stage can be stopped and continued by running this again; budgets are minutes of the trainer's own CPU time
# (wall time on CUDA). The two long branches run beside each other, one thread each: on two cores that is faster
# than two threads one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
data=${DATA:-data/worlds-v1} work=${WORK:-checkpoints}
clips=${CLIPS:-2400} autoencoder_minutes=${AUTOENCODER_MINUTES:-20} generalist_minutes=${GENERALIST_MINUTES:-30}
samples=${EXPERT_SAMPLES:-4000} version=${VERSION:-0.1.0}
domains="city landscape interior space object avatar"
threads=${BRANCH_THREADS:-1}

"$python" -m training.render --clips "$clips" --seed 1 --split train --out "$data/train"
"$python" -m training.render --clips 180 --seed 900001 --split held-out --out "$data/held"
"$python" -m training.autoencoder --data "$data/train" --held "$data/held" --out "$work/autoencoder" \
    --minutes "$autoencoder_minutes"
for split in train held; do
    "$python" -m training.latents --data "$data/$split" --autoencoder "$work/autoencoder" --out "$data/$split-latents"
done
common=(--data "$data/train-latents" --held "$data/held-latents" --autoencoder "$work/autoencoder" --compile)
"$python" -m training.experts --role generalist "${common[@]}" --out "$work/generalist" \
    --minutes "$generalist_minutes" --stills 0.4
branch=(--start "$work/generalist" --lr 1.5e-3 --minutes 1000 --threads "$threads" "${common[@]}")
"$python" -m training.experts --role single "${branch[@]}" --out "$work/single" --samples $((6 * samples)) &
single=$!
for domain in $domains; do
    "$python" -m training.experts --role expert --domain "$domain" "${branch[@]}" --out "$work/expert-$domain" \
        --samples "$samples"
done
wait "$single"
"$python" -m training.gate --latents "$data/train-latents" --held "$data/held-latents" --experts "$work" \
    --out "$work/gate"
"$python" -m training.probe --data "$data/train" --held "$data/held" --autoencoder "$work/autoencoder" \
    --out "$work/probe"
"$python" -m training.pack --checkpoints "$work" --previews "$data/held" --version "$version" \
    --out assets/packs/tiny-worlds
runs/evaluate-pack.sh
