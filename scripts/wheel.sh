#!/usr/bin/env bash
# The binary as a wheel, built by maturin as scripts/release.sh builds it, installed into a fresh venv and asked for its
# version there; says which glibc it needs.
#   scripts/wheel.sh [--plain] [OPTIONS OF maturin build]
# With --plain what cargo has built already is used: quicker, and names of folders stay in the binary. With --zig the
# wheel is for any Linux since glibc 2.17, whatever this machine's is. Needs Python 3 with venv; fetches maturin,
# auditwheel and, where it is wanted, ziglang into a venv of its own, unless MATURIN and AUDITWHEEL name them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/recipe.sh
plain=
if [ "${1:-}" = --plain ]; then plain=1; shift; fi
out=$target/wheels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "${MATURIN:-}" ] || [ -z "${AUDITWHEEL:-}" ]; then
    python3 -m venv "$work/tools"
    zig=
    case " $* " in *" --zig "*) zig=ziglang ;; esac
    "$work/tools/bin/pip" install --quiet 'maturin>=1.9,<2' auditwheel $zig
    # maturin asks the first Python for zig.
    export PATH="$work/tools/bin:$PATH"
    MATURIN=$work/tools/bin/maturin AUDITWHEEL=$work/tools/bin/auditwheel
fi
if [ -z "$plain" ]; then
    export_flags
    export CARGO_TARGET_DIR=$target/release-recipe
fi
mkdir -p "$out"
# maturin names the oldest glibc that the binary runs on, by the versions of the symbols that it wants.
"$MATURIN" build --release --locked --out "$work/wheels" "$@"
wheel=$(ls "$work"/wheels/reportclip-*.whl)
case $wheel in
    *manylinux*) ;;
    *) echo "${wheel##*/} has no manylinux tag" >&2; exit 1 ;;
esac
"$AUDITWHEEL" show "$wheel"
python3 -m venv "$work/fresh"
"$work/fresh/bin/pip" install --quiet --no-index "$wheel"
# Nothing of this machine's PATH: the program that the wheel brought.
env -i PATH="$work/fresh/bin" reportclip --version
env -i PATH="$work/fresh/bin" reportclip loss explain > /dev/null
[ -n "$plain" ] || names_no_folder "$work/fresh/bin/reportclip"
"$work/fresh/bin/pip" uninstall --quiet --yes reportclip
[ ! -e "$work/fresh/bin/reportclip" ]
cp "$wheel" "$out/"
sha256sum "$out/${wheel##*/}"
