#!/usr/bin/env bash
# A campaign of hostile inputs: CASES changed files of every kind (default 1000), drawn from SEED (default 1), each
# through the program as a user runs it. Prints a row a kind; what finds something is kept in $REPORTCLIP_HOSTILE_KEEP
# (default reportclip-hostile below the system's temporary folder) with the command that shows it again.
#
#   scripts/hostile.sh [CASES] [SEED]
#   REPORTCLIP_HOSTILE_KIND=png,dicom scripts/hostile.sh 5000 7
set -euo pipefail
cd "$(dirname "$0")/.."
export REPORTCLIP_HOSTILE_CASES="${1:-1000}" REPORTCLIP_HOSTILE_SEED="${2:-1}"
exec nice cargo test --release --locked --test it -- --exact hostile::hostile_inputs_end_politely --nocapture
