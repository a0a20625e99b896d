#!/usr/bin/env bash
# Train the embedded pack: worlds, autoencoder, generalist, trunk, single model, experts, decoder, gate, pack, figures.
# Every stage can be stopped and continued by running this again; budgets are minutes of the trainer's own CPU time
# (wall time on CUDA). Denoisers of all domains train as two processes of one thread each, experts two at a time: on
# two cores that is faster than two threads one after the other.
#
#   runs/train.sh                                  from nothing
#   START=assets/packs/tiny-worlds runs/train.sh   from the weights of a pack; its encoder stays, so it skips the
#                                                  autoencoder and the generalist (0.3.0 began so from 0.2.0, and
#                                                  0.4.0 from 0.3.0, with SEED=2: clips that 0.3.0 had not seen)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PY:-.venv/bin/python}
data=${DATA:-data/worlds-v1} work=${WORK:-checkpoints} start=${START:-}
seed=${SEED:-1} clips=${CLIPS:-1900} composed=${COMPOSED:-2400} solo=${SOLO:-800} streets=${STREETS:-600}
autoencoder_minutes=${AUTOENCODER_MINUTES:-20} generalist_minutes=${GENERALIST_MINUTES:-50}
trunk_samples=${TRUNK_SAMPLES:-98400} samples=${EXPERT_SAMPLES:-2592} decoder_minutes=${DECODER_MINUTES:-8}
version=${VERSION:-0.4.0}

"$python" -m training.render --clips "$clips" --seed "$seed" --split train --out "$data/train"
# Scenes of two domains and, in a third of them, of two subjects.
"$python" -m training.render --clips "$composed" --seed "3$seed" --split train --composed 0.85 --pairs 0.35 \
    --domains city landscape interior space --out "$data/pairs"
# More of what is hardest: figures and solids by themselves, and subjects in busy streets.
"$python" -m training.render --clips "$solo" --seed "5$seed" --split train --domains avatar object --out "$data/solo"
"$python" -m training.render --clips "$streets" --seed "7$seed" --split train --composed 1 --pairs 0.2 \
    --domains city --out "$data/streets"
# Attribute combinations that no training clip has: `held` for the figures, the others for every choice before them.
"$python" -m training.render --clips 180 --seed 900001 --split held-out --out "$data/held"
"$python" -m training.render --clips 120 --seed 800001 --split held-out --composed 0.5 --out "$data/choice"
"$python" -m training.render --clips 180 --seed 800002 --split held-out --composed 0.4 --out "$data/choice-more"
if [ -n "$start" ]; then
    "$python" -m training.unpack --pack "$start" --out "$work/start"
    for part in autoencoder probe; do
        mkdir -p "$work/$part"
        cp -n "$work/start/$part"/* "$work/$part/"
    done
    begin=("$work/start/single" --start-averaged)
else
    "$python" -m training.autoencoder --data "$data/train" --held "$data/held" --out "$work/autoencoder" \
        --minutes "$autoencoder_minutes"
    begin=("$work/generalist")
fi
for split in train solo held choice choice-more; do
    "$python" -m training.latents --data "$data/$split" --autoencoder "$work/autoencoder" --out "$data/$split-latents"
done
# In half of their captions subjects in a world get their place said.
for split in pairs streets; do
    "$python" -m training.latents --data "$data/$split" --autoencoder "$work/autoencoder" --places \
        --out "$data/$split-latents"
done
latents=("$data/train-latents" "$data/pairs-latents" "$data/solo-latents" "$data/streets-latents")
common=(--data "${latents[@]}" --held "$data/choice-latents" --autoencoder "$work/autoencoder" --threads 1)
pair() { # two processes that average their gradients
    local meeting
    meeting=$(mktemp -u)
    "$python" -m training.experts "$@" "${common[@]}" --rank 1 --world 2 --rendezvous "$meeting" &
    "$python" -m training.experts "$@" "${common[@]}" --rank 0 --world 2 --rendezvous "$meeting"
    wait
}
if [ -z "$start" ]; then
    pair --role generalist --out "$work/generalist" --minutes "$generalist_minutes" --stills 0.2
fi
# The trunk lets the learning rate fall; from there the single model goes on with all domains, for as many samples as
# the six experts get together, and each expert with its own.
pair --role single --out "$work/trunk" --start "${begin[@]}" --lr 2.2e-3 --lr-end 6e-4 --batch 24 --minutes 1000 \
    --samples "$trunk_samples" --compile
pair --role single --out "$work/single" --start "$work/trunk" --lr 6e-4 --batch 24 --minutes 1000 \
    --samples "$((6 * samples))"
queue() {
    for domain in "$@"; do
        "$python" -m training.experts --role expert --domain "$domain" --out "$work/expert-$domain" \
            --start "$work/trunk" --lr 6e-4 --batch 12 --ema 0.98 --minutes 1000 --samples "$samples" "${common[@]}"
    done
}
queue city object landscape &
queue avatar space interior
wait
"$python" -m training.blend --generalist "$work/single" --experts "$work" \
    --choose "$data/choice-latents" "$data/choice-more-latents"
"$python" -m training.redraw --latents "$data/train-latents" --denoiser "$work/single" --out "$data/train-redrawn"
"$python" -m training.decoder --data "$data/train" --latents "$data/train-latents" --redrawn "$data/train-redrawn" \
    --held "$data/choice" --start "$work/autoencoder" --out "$work/decoder" --minutes "$decoder_minutes"
"$python" -m training.gate --latents "$data/train-latents" "$data/pairs-latents" --held "$data/choice-latents" --experts "$work" \
    --clips 320 --out "$work/gate"
if [ -z "$start" ]; then
    "$python" -m training.probe --data "$data/train" --held "$data/held" --autoencoder "$work/autoencoder" \
        --out "$work/probe"
fi
"$python" -m training.pack --checkpoints "$work" --previews "$data/choice" --version "$version" \
    --out assets/packs/tiny-worlds
runs/evaluate-pack.sh
