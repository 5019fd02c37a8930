#!/usr/bin/env bash
# The study of docs/local-alignment.md: whole images alone against whole images with sentences and patches, on phantoms.
#   scripts/study/local-alignment.sh OUT [SEED…]
# Stopped and called again, it goes on. Variables: REPORTCLIP (the program), PATIENTS (1000), EPOCHS (60).
set -euo pipefail
out=$(realpath -m "${1:?name a folder to work in}")
shift
cd "$(dirname "$0")/../.."
program=$(realpath "${REPORTCLIP:-target/release/reportclip}")
seeds=("$@")
[ $# -gt 0 ] || seeds=(0 1 2)
mkdir -p "$out"
data=$out/phantom
[ -f "$data/manifest.csv" ] || "$program" data synth --out "$data" --patients "${PATIENTS:-1000}"

train() { # NAME SEED SETTING…
    local run=$out/$1-$2 args=()
    for setting in "${@:3}"; do args+=(--set "$setting"); done
    [ ! -f "$run/done" ] || return 0
    local resume=()
    [ ! -d "$run/checkpoints" ] || resume=(--resume latest)
    # Patches of 8 pixels: 64 places an image.
    "$program" train configs/study-phantom.toml --out "$run" "${resume[@]}" --set seed="$2" \
        --set data.train="$data/manifest.csv" --set model.random.patch_size=8 --set train.epochs="${EPOCHS:-60}" \
        --set loss.label_smoothing=0.1 --set train.tensorboard=false --set eval.gallery=0 "${args[@]}"
    touch "$run/done"
}

judge() { # NAME SEED MAP
    "$program" eval --model "$out/$1-$2/model" --data "$data/manifest.csv" --split test --json \
        --grounding "$data/boxes.csv" --grounding-map "$3" > "$out/$1-$2-$3.json"
}

for seed in "${seeds[@]}"; do
    train global "$seed" 'loss.kind=["clip"]'
    for form in attention map; do
        train "$form" "$seed" 'loss.kind=["clip","local"]' loss.local.form="$form"
    done
    for name in global attention map; do
        for map in patches relevance; do judge "$name" "$seed" "$map"; done
    done
done
exec python3 scripts/study/local_alignment.py "$out"
