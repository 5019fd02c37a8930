#!/usr/bin/env bash
# The study of docs/studies-and-volumes.md: attention over the slices of phantom CTs against their mean and their
# largest numbers, from nothing. Stopped and called again, it goes on.
#   scripts/study/bag-pooling.sh OUT [--set KEY=VALUE…]
# Variables: REPORTCLIP (the program), SEEDS and JOBS as `reportclip sweep` has them, PATIENTS and SIZE as `reportclip
# data synth --volumes` has them.
set -euo pipefail
out=$(realpath -m "${1:?name a folder to work in}")
shift
cd "$(dirname "$0")/../.."
program=$(realpath "${REPORTCLIP:-target/release/reportclip}")
seeds=${SEEDS:-3}
data=$out/ct/manifest.csv
mkdir -p "$out"

[ -f "$data" ] || "$program" data synth --volumes --out "$out/ct" --patients "${PATIENTS:-1500}" --size "${SIZE:-32}"
# Its tables, means over seeds with what is more than chance, lie in sweep.md.
"$program" sweep configs/study-volumes.toml --grid model.bag_pooling=attention,mean,max --seeds "$seeds" \
    --jobs "${JOBS:-2}" --prompts prompts/phantom-ct.toml --set data.train="$data" "$@" --out "$out/sweep" --json \
    > "$out/sweep.json"

# What each member is on the test split, with intervals over patients, what its slices count, and how far attention is
# from the others with the same seed, on the same patients.
judged=(--data "$data" --split test --json)
for seed in $(seq 0 $((seeds - 1))); do
    model() { echo "$out/sweep/model.bag_pooling=$1+seed=$seed/model"; }
    for pooling in attention mean max; do
        name=$out/$pooling-$seed
        "$program" eval --model "$(model $pooling)" "${judged[@]}" --bag-weights "$name.jsonl" --force > "$name-eval.json"
        "$program" zero-shot --model "$(model $pooling)" "${judged[@]}" --prompts prompts/phantom-ct.toml \
            > "$name-zero-shot.json"
    done
    for other in mean max; do
        name=$out/attention-$other-$seed
        pair=(--model "$(model attention)" --compare "$(model $other)" "${judged[@]}")
        "$program" eval "${pair[@]}" > "$name-eval.json"
        "$program" zero-shot "${pair[@]}" --prompts prompts/phantom-ct.toml > "$name-zero-shot.json"
    done
done
python3 scripts/study/bag_pooling.py "$out" "$seeds" | tee "$out/tables.md"
