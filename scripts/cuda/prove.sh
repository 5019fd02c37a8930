#!/usr/bin/env bash
# The GPU path, proven by one command on a machine with a GPU, in minutes; packed by another on a machine without one.
#
#   scripts/cuda/prove.sh build OUT.tar.zst [--pairs FOLDER]
#                                                    binary with cuda and cudnn, tiny models, configs, scripts, and real
#                                                    pairs: a folder of one CSV manifest and its images
#   scripts/cuda/prove.sh run PACKAGE [--minutes 9]  more options: those of prove.py run
#   scripts/cuda/prove.sh report LINES               the tables of docs/scale-and-gpus.md from what run left
#
# run needs NVIDIA's driver (of CUDA 13), cuBLAS and cuRAND of CUDA 13 (where ldconfig, PyTorch's wheels or
# /usr/local/cuda have them), and python3; PyTorch and transformers for the comparison. It leaves prove.jsonl where it
# was started, a line a result, written at once. A PACKAGE that is a folder is taken as unpacked.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

usage() { sed -n '2,13s/^# \{0,1\}//p' "$here/prove.sh" >&2; exit 2; }

build() {
    local out top tools target binary stage pairs=''
    out=$(realpath -m "${1:?prove.sh build OUT.tar.zst}")
    if [ "${2:-}" = --pairs ]; then
        pairs=$(realpath "${3:?--pairs FOLDER}")
        [ "$(find "$pairs" -maxdepth 1 -name '*.csv' | wc -l)" = 1 ] || {
            echo "$pairs: one CSV manifest is wanted, with its images beside it" >&2
            exit 1
        }
    elif [ $# -gt 1 ]; then
        usage
    fi
    top=$(cd "$here/../.." && pwd)
    cd "$top"
    tools=${REPORTCLIP_CUDA_TOOLS:-${TMPDIR:-/tmp}/reportclip-cuda}
    [ -f "$tools/env.sh" ] || "$here/toolkit.sh" "$tools"
    # shellcheck disable=SC1091
    source "$tools/env.sh"
    target=${CARGO_TARGET_DIR:-target}
    cargo build --release --locked --features cuda,cudnn
    binary=$target/release/reportclip
    stage=$(mktemp -d)
    # Its name now: when the trap runs, the function and its variables are gone.
    trap "rm -rf '$stage'" EXIT
    mkdir -p "$stage"/prove/{bin,configs,data,golden,prompts}
    strip -o "$stage/prove/bin/reportclip" "$binary"
    # Nothing of CUDA may be linked: it is opened when a GPU is asked for.
    if readelf -d "$stage/prove/bin/reportclip" | grep -E 'NEEDED.*lib(cu|nv|nccl)'; then
        echo "the binary is linked against CUDA's libraries" >&2
        exit 1
    fi
    # It goes through everything on a stand-in for the driver before it goes anywhere.
    "$here/stand_in.sh" "$stage/prove/bin/reportclip"
    cp -r tests/golden/encoders "$stage/prove/golden/"
    cp configs/{demo,chest-notes}.toml "$stage/prove/configs/"
    cp prompts/phantom-reports.toml "$stage/prove/prompts/"
    if [ -n "$pairs" ]; then
        mkdir "$stage/prove/data/pairs"
        cp -rL "$pairs"/*.csv "$pairs"/images "$stage/prove/data/pairs/"
        chmod -R u+w "$stage/prove/data/pairs"
    fi
    cp "$here"/{prove.sh,prove.py,torch_gpu.py} "$stage/prove/"
    git rev-parse HEAD > "$stage/prove/revision" 2> /dev/null || echo unknown > "$stage/prove/revision"
    mkdir -p "$(dirname "$out")"
    case $out in
    *.zst) tar -C "$stage" -cf - prove | zstd -q -T0 -19 -f -o "$out" ;;
    *) tar -C "$stage" -caf "$out" prove ;;
    esac
    local bytes
    bytes=$(stat -c %s "$out")
    echo "$out: $((bytes / 1048576)) MiB; needs glibc $(objdump -T "$stage/prove/bin/reportclip" |
        grep -oE 'GLIBC_[0-9.]+' | sort -V | tail -1 | cut -d_ -f2) or newer"
    if [ "$bytes" -gt $((55 << 20)) ]; then
        echo "$out is larger than 55 MiB" >&2
        exit 1
    fi
}

unpack() {
    case $1 in
    *.zst)
        if command -v zstd > /dev/null; then
            zstd -dcq "$1" | tar -C "$2" -xf -
        else
            # Python's own from 3.14 on; before, the package zstandard.
            "$python" -c '
import shutil, sys
try:
    from compression import zstd
    source = zstd.open(sys.argv[1])
except ImportError:
    import zstandard
    source = zstandard.ZstdDecompressor().stream_reader(open(sys.argv[1], "rb"))
shutil.copyfileobj(source, sys.stdout.buffer)' "$1" | tar -C "$2" -xf - || {
                echo "no zstd here, and no Python package zstandard; build the package as .tar.gz" >&2
                exit 1
            }
        fi
        ;;
    *) tar -C "$2" -xf "$1" ;;
    esac
}

run() {
    local package=${1:?prove.sh run PACKAGE} folder
    shift
    if [ -d "$package" ]; then
        folder=$(realpath "$package")
    else
        folder=$(mktemp -d)
        trap "rm -rf '$folder'" EXIT
        unpack "$package" "$folder"
        folder=$folder/prove
    fi
    # What fails inside is a line, and the exit status at the end.
    "$python" "$folder/prove.py" run "$folder" "$@"
}

case ${1:-} in
build) shift; build "$@" ;;
run) shift; run "$@" ;;
report) shift; "$python" "$here/prove.py" report "$@" ;;
*) usage ;;
esac
