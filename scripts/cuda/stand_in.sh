#!/usr/bin/env bash
# Runs a binary built with CUDA against a stand-in for the driver (stand_in.c), on a machine without a GPU: every operation
# and every tiny model must go through, with wrong numbers, but without one call that a driver would refuse.
#
#   scripts/cuda/stand_in.sh target/release/reportclip
set -euo pipefail
program=$(realpath "${1:?usage: scripts/cuda/stand_in.sh BINARY}")
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
kernels=$(grep -oE '__global__ void [a-z_0-9]+' src/ops/cuda/kernels.cu | cut -d' ' -f3 | tr '\n' ' ')
gcc -O1 -shared -fPIC -w "-DOURS=\" $kernels\"" -o "$out/libcuda.so.1" scripts/cuda/stand_in.c

# Of the others every function that the program calls succeeds; cuDNN's say besides which algorithm and how much memory.
others() {
    sed -n "/^library! { $1, /,/^}/p" src/ops/cuda/libraries.rs | sed '1d;$d' | tr -s ' ' '\n' | grep . |
        sed -E '
            s/.*WorkspaceSize$/int &(void*a,void*b,void*c,void*d,void*e,int f,unsigned long*bytes){return *bytes=64,0;}/;t
            s/.*Algorithm_v7$/int &(void*a,void*b,void*c,void*d,void*e,int f,int*count,void*g){return *count=1,0;}/;t
            s/.*/int &(void){return 0;}/' > "$out/$1.c"
    gcc -shared -fPIC -w -o "$out/$2" "$out/$1.c"
}
others cublas libcublas.so.13
others curand libcurand.so.10
others cudnn libcudnn.so.9
failed=0
models="--models tests/golden/encoders"
for what in --quick "" --tensor-cores "$models" "--tensor-cores $models"; do
    # shellcheck disable=SC2086
    LD_LIBRARY_PATH=$out "$program" bench parity --device cuda --json $what > "$out/found" 2> "$out/told" || true
    # A comparison that could be made has a difference, or none where what came out is no number.
    python3 - "$out/found" "$out/told" <<'END' || failed=1
import json, sys
found = [json.loads(line) for line in open(sys.argv[1])]
told = open(sys.argv[2]).readlines()
ended = any("comparisons failed" in line for line in told)
told = [line for line in told if line.startswith("stand-in:")]
wrong = [f for f in found if f["difference"] is None and (": " in f["note"] or "Error" in f["note"])]
for line in told[:20]:
    print(line, end="")
for f in wrong[:20]:
    print(f"{f['what']}, {f['precision']}: {f['note']}")
ok = ended and not wrong and not told
print(f"{len(found)} went through" if ok else f"{len(wrong)} of {len(found)} failed{'' if ended else ', then it ended'}")
sys.exit(not ok)
END
done
# A step's time falls to operations by events, all of it.
LD_LIBRARY_PATH=$out "$program" bench train-step --device cuda --precision bf16 --tensor-cores --batch-size 2 \
    --tokens 8 --steps 2 --profile --json > "$out/step" 2> "$out/told" || { failed=1; tail -1 "$out/told"; }
[ $failed = 1 ] || python3 - "$out/step" <<'END' || failed=1
import json, sys
figures = json.load(open(sys.argv[1]))
spent = sum(part["forward_s"] + part["backward_s"] for part in figures["profile"])
ok = 0.8 * figures["median_step_s"] <= spent <= 1.01 * figures["median_step_s"]
print(f"profile: {spent:.3f} of {figures['median_step_s']:.3f} s")
sys.exit(not ok)
END
exit $failed
