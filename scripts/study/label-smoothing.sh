#!/usr/bin/env bash
# The study of docs/label-smoothing.md, from nothing. Stopped and called again, it goes on.
#   scripts/study/label-smoothing.sh OUT [PART…]
# Without parts: all of them. PART-siglip, of models made from nothing (phantom-*, noise-250, notes), adds the sigmoid
# loss to the settings of a part, whether that is done already or not. Variables: REPORTCLIP (the program), SEEDS and
# JOBS as `reportclip sweep` has them; for parts notes* NOTES (a manifest with train, val and test, see
# docs/recipes/chest-notes.md); for those of pretrained encoders IMAGE_TOWER and TEXT_TOWER (folders, docs/models.md).
set -euo pipefail
out=$(realpath -m "${1:?name a folder to work in}")
shift
cd "$(dirname "$0")/../.."
program=$(realpath "${REPORTCLIP:-target/release/reportclip}")
notes=${NOTES:-data/chest-notes/manifest.csv}
parts=("$@")
[ $# -gt 0 ] || parts=(phantom-250 noise-250 phantom-1000 phantom-4000 notes notes-frozen notes-lora notes-full)
mkdir -p "$out"

# What is compared: smoothing, smoothing that fades, and pairs of one label as positives of each other.
settings=(
    --grid loss.label_smoothing=0,0.05,0.1,0.2
    --also 'loss.label_smoothing={ from = 0.2, to = 0.0, over = "100%" }'
    --also 'loss.kind=multi_positive; loss.label_smoothing=0'
)
# A model that is made for it from nothing has the bias that it needs; others have none.
sigmoid=(--also 'loss.kind=siglip; loss.label_smoothing=0')
# One figure chooses the step for all, on val; test is judged once.
judged=(--over-fitting --set train.best_metric=mean_recall --set eval.gallery=0 --set eval.bootstrap=0)

sweep() { # PART CONFIG SEEDS PROMPTS [MORE…]
    local part=$1 args
    args=("configs/$2" "${settings[@]}" "${judged[@]}" --seeds "${SEEDS:-$3}" --jobs "${JOBS:-2}")
    args+=(--prompts "prompts/$4" "${@:5}" "${more[@]}")
    "$program" sweep "${args[@]}" --out "$out/$part" --json > "$out/$part.json"
    # Tables and drawing lie in $out/$part, sweep.md and sweep.svg. A line a member:
    python3 - "$part" "$out/$part.json" > "$out/$part.jsonl" << 'END'
import json, sys

for member in json.load(open(sys.argv[2]))["members"]:
    figures = {name: round(value, 4) for name, value in (member["figures"] or {}).items()
               if "mce" not in name and not name.endswith("_chance")}
    setting = "; ".join(f"{key}={value}" for key, value in member["setting"])
    print(json.dumps({"part": sys.argv[1], "setting": setting, "seed": member["seed"], "figures": figures}))
END
}

# 1,000 patients, of whom the first 250 alone are a smaller set to train on; or more, of whom all train that may. Every
# size is judged on the same studies: a patient is drawn alike however many there are.
phantoms() { # FOLDER PATIENTS [MORE…]
    [ -f "$out/$1/manifest.csv" ] || "$program" data synth --out "$out/$1" --patients "$2" "${@:3}"
    awk 'NR == 1 || /,(val|test),/ || /,P0(0[0-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|250),/' "$out/$1/manifest.csv" \
        > "$out/$1/first-250.csv"
    awk 'NR == 1 || /,train,/ || /,P(0[0-9][0-9][0-9]|1000),/' "$out/$1/manifest.csv" > "$out/$1/judged-alike.csv"
}

pair() { # PART SEEDS [MORE…]
    sweep "$1" study-notes-pair.toml "$2" chest-notes.toml --set data.train="$notes" "${@:3}" \
        --set model.image="${IMAGE_TOWER:?}" --set model.text="${TEXT_TOWER:?}" --set data.feature_cache="$out/features"
}

for part in "${parts[@]}"; do
    more=()
    case $part in
    phantom-*-siglip | noise-*-siglip | notes-siglip) part=${part%-siglip} more=("${sigmoid[@]}") ;;
    esac
    case $part in
    phantom-250)
        phantoms phantom 1000
        sweep "$part" study-phantom.toml 10 phantom.toml --set data.train="$out/phantom/first-250.csv"
        ;;
    noise-250)
        phantoms phantom-noise 1000 --noise 0.2
        sweep "$part" study-phantom.toml 10 phantom.toml --set data.train="$out/phantom-noise/first-250.csv"
        ;;
    phantom-1000)
        phantoms phantom 1000
        sweep "$part" study-phantom.toml 10 phantom.toml --set data.train="$out/phantom/manifest.csv" \
            --set train.epochs=10
        ;;
    phantom-4000)
        phantoms phantom-many 4000
        sweep "$part" study-phantom.toml 5 phantom.toml --set data.train="$out/phantom-many/judged-alike.csv" \
            --set train.epochs=5
        ;;
    notes) sweep "$part" chest-notes.toml 10 chest-notes.toml --set data.train="$notes" ;;
    notes-frozen) pair "$part" 10 ;;
    notes-lora) pair "$part" 5 --set freeze.image=all --set freeze.text=none --set lora.rank=8 --set optim.lr=1e-3 ;;
    notes-full) pair "$part" 5 --set freeze.image=none --set freeze.text=none --set train.epochs=8 ;;
    *)
        echo "$part: no such part" >&2
        exit 2
        ;;
    esac
done
