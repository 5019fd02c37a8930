# How what is handed out is built, for scripts/release.sh and scripts/wheel.sh: without the names of the folders that it
# was built in. To be sourced at the top of the repository.

# Offline, where the toolchain has another name than rust-toolchain.toml's.
cargo --version > /dev/null 2>&1 || export RUSTUP_TOOLCHAIN="$(rustup default | cut -d' ' -f1)"
home=${HOME:-}
cargo=${CARGO_HOME:-$home/.cargo}
sysroot=$(rustc --print sysroot)
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

# What rustc is told. Folders may have blanks in their names, which RUSTFLAGS would cut at; this variable wins over it.
export_flags() {
    export CARGO_ENCODED_RUSTFLAGS
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' -Cstrip=symbols "--remap-path-prefix=$PWD=reportclip" \
        "--remap-path-prefix=$cargo=cargo" "--remap-path-prefix=$sysroot=rust" \
        "--remap-path-prefix=$target=target")
    CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
}

# Whether a binary holds the name of a folder.
names_no_folder() {
    local folders=("$PWD" "$cargo" "$sysroot" "$target") folder
    # One that is "/" stands in every address.
    [ "${#home}" -gt 1 ] && folders+=("${home%/}/")
    for folder in "${folders[@]}"; do
        if grep -aqF -- "$folder" "$1"; then
            echo "$1 holds the name $folder" >&2
            return 1
        fi
    done
}

[ -z "$(git status --porcelain --untracked-files=no 2> /dev/null)" ] || echo "the source has changes without a commit" >&2
