#!/usr/bin/env bash
# The study of docs/negatives.md: what each option gains and costs on phantoms of which 60 % show no finding, or on
# notes with frozen pretrained encoders.
#   scripts/study/negatives.sh OUT [SETTING…]
# Without settings: all of them. Stopped and called again, it goes on. Variables: REPORTCLIP (the program), SEEDS (how
# many, 5), PATIENTS (1000) and STEPS (1200) of phantoms; for notes NOTES (a manifest with train, val and test),
# IMAGE_TOWER and TEXT_TOWER (folders, docs/models.md). A line a run goes into OUT/figures.jsonl;
# scripts/study/negatives.py makes the table.
set -euo pipefail
out=$(realpath -m "${1:?name a folder to work in}")
shift
cd "$(dirname "$0")/../.."
program=$(realpath "${REPORTCLIP:-target/release/reportclip}")
all=(plain negation remove soften similar debias hard-text hard-image distill)
all+=(siglip siglip-negation siglip-positive siglip-remove local local-map local-remove local-soften)
settings=("$@")
[ $# -gt 0 ] || settings=("${all[@]}")
mkdir -p "$out"
if [ -n "${NOTES:-}" ]; then
    config=study-notes-pair prompts=chest-notes manifest=$(realpath "$NOTES") alike=report
    of_data=(model.image="${IMAGE_TOWER:?}" model.text="${TEXT_TOWER:?}" data.feature_cache="$out/features")
else
    # Hardly two reports of phantoms have the same words: labels tell what is alike.
    config=study-phantom prompts=phantom-reports manifest=$out/data/manifest.csv alike=label
    of_data=(train.max_steps="${STEPS:-1200}")
    [ -f "$manifest" ] || "$program" data synth --out "$out/data" --patients "${PATIENTS:-1000}" --normal 0.6
fi
of_data+=(data.train="$manifest" loss.label_smoothing=0 eval.bootstrap=0 eval.gallery=0 train.best_metric=mean_recall)
of_data+=(train.eval_every=25%)

train() { # RUN SETTING…
    local args=() setting
    for setting in "${of_data[@]}" "${@:2}"; do args+=(--set "$setting"); done
    "$program" train "configs/$config.toml" "${args[@]}" --out "$1" > "$1.log" 2>&1
}

# A larger model of the same phantoms.
teacher() {
    local random=(vision_width=128 vision_layers=4 vision_heads=4 text_width=128 text_layers=3 text_heads=4 embed_dim=128)
    [ -f "$out/teacher/report.html" ] || {
        rm -rf "$out/teacher"
        train "$out/teacher" seed=100 optim.lr=1e-3 "${random[@]/#/model.random.}" train.max_steps=2400
    }
}

keys_of() {
    case $1 in
    plain) ;;
    negation) echo data.negation=0.5 ;;
    remove) echo loss.positives=$alike loss.false_negatives=remove ;;
    soften) echo loss.positives=$alike loss.false_negatives=soften ;;
    similar) echo loss.positives=report_similarity loss.positives_threshold=0.98 loss.false_negatives=remove ;;
    debias) echo loss.debias=0.05 ;;
    hard-text) echo data.hard_negatives.k=2 ;;
    hard-image) echo data.hard_negatives.k=2 data.hard_negatives.from=image ;;
    distill) echo loss.kind=[\"clip\",\"distill\"] loss.teacher="$out/teacher/model" ;;
    local) echo loss.kind=[\"clip\",\"local\"] ;;
    local-map) echo loss.kind=[\"clip\",\"local\"] loss.local.form=map ;;
    local-remove) echo loss.kind=[\"clip\",\"local\"] loss.positives=$alike loss.false_negatives=remove ;;
    local-soften) echo loss.kind=[\"clip\",\"local\"] loss.positives=$alike loss.false_negatives=soften ;;
    siglip) echo loss.kind=siglip ;;
    siglip-negation) echo loss.kind=siglip data.negation=0.5 ;;
    siglip-positive) echo loss.kind=siglip loss.positives=$alike loss.false_negatives=positive ;;
    siglip-remove) echo loss.kind=siglip loss.positives=$alike loss.false_negatives=remove ;;
    *) echo "no setting $1; there are ${all[*]}" >&2 && exit 2 ;;
    esac
}

for seed in $(seq 0 $((${SEEDS:-5} - 1))); do
    for setting in "${settings[@]}"; do
        run="$out/$setting-$seed"
        [ -f "$run.json" ] && continue
        # Of notes, no model is better than these, as a teacher would have to be; and a pair of encoders has no bias.
        case ${NOTES:+notes-}$setting in
        notes-distill | notes-siglip*) continue ;;
        distill) teacher ;;
        esac
        read -ra keys <<< "$(keys_of "$setting")"
        begun=$(date +%s.%N)
        rm -rf "$run"
        # One setting that fails leaves the others their turn.
        train "$run" seed="$seed" "${keys[@]}" \
            || { echo "$setting, seed $seed failed: $(tail -n 1 "$run.log")" >&2 && continue; }
        seconds=$(echo "$(date +%s.%N) - $begun" | bc)
        judge=(--model "$run/model" --data "$manifest" --split test)
        "$program" eval "${judge[@]}" --negation --bootstrap 0 --json > "$run.eval" 2>> "$run.log" || true
        "$program" zero-shot "${judge[@]}" --prompts "prompts/$prompts.toml" --bootstrap 0 --json \
            > "$run.zero-shot" 2>> "$run.log" || true
        python3 scripts/study/negatives.py line "$setting" "$seed" "$seconds" "$run" > "$run.json" \
            || { echo "$setting, seed $seed: no figures" >&2 && rm -f "$run.json" && continue; }
        cat "$run.json" >> "$out/figures.jsonl"
        rm -rf "$run"
    done
done
