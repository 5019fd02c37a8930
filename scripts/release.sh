#!/usr/bin/env bash
# The binary that is handed out: stripped, and without the names of the folders that it was built in.
#   scripts/release.sh [--features mpi]
set -euo pipefail
cd "$(dirname "$0")/.."
# Offline, where the toolchain has another name than rust-toolchain.toml's.
cargo --version > /dev/null 2>&1 || export RUSTUP_TOOLCHAIN="$(rustup default | cut -d' ' -f1)"
home=${HOME:-}
cargo=${CARGO_HOME:-$home/.cargo}
sysroot=$(rustc --print sysroot)
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# Folders may have blanks in their names, which RUSTFLAGS would cut at. This variable wins over it.
export CARGO_ENCODED_RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' -Cstrip=symbols "--remap-path-prefix=$PWD=reportclip" \
    "--remap-path-prefix=$cargo=cargo" "--remap-path-prefix=$sysroot=rust" \
    "--remap-path-prefix=$target=target")
CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
[ -z "$(git status --porcelain --untracked-files=no 2> /dev/null)" ] || echo "the source has changes without a commit" >&2
cargo build --release --locked --target-dir "$target/release-recipe" "$@"
binary=$target/release-recipe/release/reportclip
folders=("$PWD" "$cargo" "$sysroot" "$target")
# One that is "/" stands in every address.
[ "${#home}" -gt 1 ] && folders+=("${home%/}/")
for folder in "${folders[@]}"; do
    if grep -aqF -- "$folder" "$binary"; then
        echo "$binary holds the name $folder" >&2
        exit 1
    fi
done
"$binary" --version
sha256sum "$binary"
