#!/usr/bin/env bash
# Kills training N times (default 100) at random moments drawn from SEED (default 1), resumes it until its end, and
# compares the models, checkpoints and figures with those of runs that were left alone. Two ranks too, where there is
# MPI. Prints a row a recipe.
#
#   scripts/kills.sh [N] [SEED]
set -euo pipefail
cd "$(dirname "$0")/.."
export REPORTCLIP_KILLS="${1:-100}" REPORTCLIP_KILLS_SEED="${2:-1}"
features=()
if command -v mpirun > /dev/null && command -v mpicc > /dev/null; then features=(--features mpi); fi
test=hostile::kills::killed_runs_come_to_the_same_end
exec nice cargo test --release --locked "${features[@]}" --test it -- --exact $test --nocapture
