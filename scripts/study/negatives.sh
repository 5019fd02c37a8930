#!/usr/bin/env bash
# The study of docs/negatives.md: what each option gains and costs on phantoms of which 60 % show no finding.
#   scripts/study/negatives.sh OUT [SETTING…]
# Without settings: all of them. Stopped and called again, it goes on. Variables: REPORTCLIP (the program), SEEDS (how
# many, 5), PATIENTS (250), STEPS (300). A line a run goes into OUT/figures.jsonl; scripts/study/negatives.py makes the
# table. Labels tell what is alike: hardly two reports of phantoms have the same words.
set -euo pipefail
out=$(realpath -m "${1:?name a folder to work in}")
shift
cd "$(dirname "$0")/../.."
program=$(realpath "${REPORTCLIP:-target/release/reportclip}")
all=(plain negation remove soften similar debias hard-text hard-image siglip siglip-negation siglip-positive siglip-remove)
settings=("$@")
[ $# -gt 0 ] || settings=("${all[@]}")
mkdir -p "$out"
[ -f "$out/data/manifest.csv" ] || "$program" data synth --out "$out/data" --patients "${PATIENTS:-250}" --normal 0.6

keys_of() {
    case $1 in
    plain) ;;
    negation) echo data.negation=0.5 ;;
    remove) echo loss.positives=label loss.false_negatives=remove ;;
    soften) echo loss.positives=label loss.false_negatives=soften ;;
    similar) echo loss.positives=report_similarity loss.positives_threshold=0.98 loss.false_negatives=remove ;;
    debias) echo loss.debias=0.05 ;;
    hard-text) echo data.hard_negatives.k=2 ;;
    hard-image) echo data.hard_negatives.k=2 data.hard_negatives.from=image ;;
    siglip) echo loss.kind=siglip ;;
    siglip-negation) echo loss.kind=siglip data.negation=0.5 ;;
    siglip-positive) echo loss.kind=siglip loss.positives=label loss.false_negatives=positive ;;
    siglip-remove) echo loss.kind=siglip loss.positives=label loss.false_negatives=remove ;;
    *) echo "no setting $1; there are ${all[*]}" >&2 && exit 2 ;;
    esac
}

for seed in $(seq 0 $((${SEEDS:-5} - 1))); do
    for setting in "${settings[@]}"; do
        run="$out/$setting-$seed"
        [ -f "$run.json" ] && continue
        args=(--set seed="$seed" --set data.train="$out/data/manifest.csv" --set loss.label_smoothing=0)
        args+=(--set train.max_steps="${STEPS:-300}" --set eval.bootstrap=0 --set eval.gallery=0)
        args+=(--set train.best_metric=mean_recall --set train.eval_every=25%)
        for key in $(keys_of "$setting"); do args+=(--set "$key"); done
        begun=$(date +%s.%N)
        rm -rf "$run"
        # One setting that fails leaves the others their turn.
        "$program" train configs/study-phantom.toml "${args[@]}" --out "$run" > "$run.log" 2>&1 \
            || { echo "$setting, seed $seed failed: $(tail -n 1 "$run.log")" >&2 && continue; }
        seconds=$(echo "$(date +%s.%N) - $begun" | bc)
        judge=(--model "$run/model" --data "$out/data/manifest.csv" --split test)
        "$program" eval "${judge[@]}" --negation --bootstrap 0 --json > "$run.eval" 2>> "$run.log" || true
        "$program" zero-shot "${judge[@]}" --prompts prompts/phantom-reports.toml --bootstrap 0 --json \
            > "$run.zero-shot" 2>> "$run.log" || true
        python3 scripts/study/negatives.py line "$setting" "$seed" "$seconds" "$run" > "$run.json" \
            || { echo "$setting, seed $seed: no figures" >&2 && rm -f "$run.json" && continue; }
        cat "$run.json" >> "$out/figures.jsonl"
        rm -rf "$run"
    done
done
