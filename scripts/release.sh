#!/usr/bin/env bash
# The binary that is handed out: stripped, and without the names of the folders that it was built in.
#   scripts/release.sh [--features mpi]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
export RUSTFLAGS="-C strip=symbols --remap-path-prefix=$PWD=reportclip --remap-path-prefix=$cargo=cargo --remap-path-prefix=$sysroot=rust"
target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --target-dir "$target/release-recipe" "$@"
binary=$target/release-recipe/release/reportclip
for folder in "$PWD" "$cargo" "$sysroot" "$HOME/"; do
    if grep -aqF -- "$folder" "$binary"; then
        echo "$binary holds the name $folder" >&2
        exit 1
    fi
done
sha256sum "$binary"
