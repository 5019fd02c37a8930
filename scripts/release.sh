#!/usr/bin/env bash
# The binary that is handed out: stripped, and without the names of the folders that it was built in.
#   scripts/release.sh [--features mpi]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/recipe.sh
export_flags
cargo build --release --locked --target-dir "$target/release-recipe" "$@"
binary=$target/release-recipe/release/reportclip
names_no_folder "$binary"
"$binary" --version
sha256sum "$binary"
