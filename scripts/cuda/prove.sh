#!/usr/bin/env bash
# The GPU path, proven by one command on a machine with a GPU, in minutes; packed by another on a machine without one.
#
#   scripts/cuda/prove.sh build OUT.tar.zst [--pairs FOLDER]
#                                                    binary with cuda and cudnn, tiny models, configs, scripts, and real
#                                                    pairs: a folder of one CSV manifest and its images
#   scripts/cuda/prove.sh run PACKAGE [--minutes 9]  more options: those of prove.py run
#   scripts/cuda/prove.sh report LINES               the tables of docs/scale-and-gpus.md from what run left
#
# run needs NVIDIA's driver (of CUDA 13), cuBLAS and cuRAND of CUDA 13 and cuDNN 9 (where ldconfig, PyTorch's wheels or
# /usr/local/cuda have them), and python3; PyTorch and transformers for the comparison. It leaves prove.jsonl where it
# was started, a line a result, written at once. A PACKAGE that is a folder is taken as unpacked; OUT may end in .tar.xz.
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
    if [ "$bytes" -gt $((50 << 20)) ]; then
        echo "$out is near the limit of 55 MiB: fewer pairs, or smaller images, are the first to go" >&2
    fi
    if [ "$bytes" -gt $((55 << 20)) ]; then
        echo "$out is larger than 55 MiB" >&2
        exit 1
    fi
}

# By Python alone: on a machine that was lent for minutes there may be no zstd, nor xz, for tar to call.
unpack() {
    "$python" - "$1" "$2" <<'END'
import ctypes, io, shutil, subprocess, sys, tarfile

def by_python(path):  # from 3.14 on
    from compression import zstd
    return zstd.open(path)

def by_program(path):
    if not shutil.which("zstd"):
        raise ImportError("no program zstd")
    return subprocess.Popen(["zstd", "-dcq", path], stdout=subprocess.PIPE).stdout

def by_zstandard(path):
    import zstandard
    return zstandard.ZstdDecompressor().stream_reader(open(path, "rb"))

def by_pyarrow(path):
    import pyarrow
    return pyarrow.input_stream(path, compression="zstd")

class ByLibrary(io.RawIOBase):
    class Buffer(ctypes.Structure):
        _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]

    def __init__(self, path):
        self.library, self.file = ctypes.CDLL("libzstd.so.1"), open(path, "rb")
        self.library.ZSTD_createDStream.restype = ctypes.c_void_p
        self.library.ZSTD_decompressStream.restype = ctypes.c_size_t
        self.stream = ctypes.c_void_p(self.library.ZSTD_createDStream())
        self.input = self.Buffer(None, 0, 0)

    def readable(self):
        return True

    def readinto(self, into):
        output = self.Buffer(ctypes.addressof((ctypes.c_char * len(into)).from_buffer(into)), len(into), 0)
        while output.pos == 0:
            if self.input.pos == self.input.size:
                self.bytes = self.file.read(1 << 20)
                if not self.bytes:
                    return 0
                at = ctypes.cast(ctypes.c_char_p(self.bytes), ctypes.c_void_p)
                self.input = self.Buffer(at, len(self.bytes), 0)
            left = self.library.ZSTD_decompressStream(self.stream, ctypes.byref(output), ctypes.byref(self.input))
            if self.library.ZSTD_isError(ctypes.c_size_t(left)):
                raise OSError("libzstd: the package is damaged")
        return output.pos

def tar(path):
    if not path.endswith(".zst"):
        return tarfile.open(path)
    why = []
    for way in (by_program, by_python, by_zstandard, by_pyarrow, ByLibrary):
        try:
            return tarfile.open(fileobj=way(path), mode="r|")
        except (ImportError, OSError) as e:
            why.append(str(e))
    sys.exit(f"{path}: nothing here reads zstd ({'; '.join(why)}); build the package as .tar.xz")

try:
    with tar(sys.argv[1]) as package:
        package.extraction_filter = getattr(tarfile, "data_filter", None)
        package.extractall(sys.argv[2])
except (OSError, EOFError, tarfile.TarError) as e:
    sys.exit(f"{sys.argv[1]}: {e}")
END
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
