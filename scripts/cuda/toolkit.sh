#!/usr/bin/env bash
# A CUDA 13.0 build toolkit in a folder of one's own, from NVIDIA's Python wheels: to build reportclip on a machine that
# has neither a GPU nor a CUDA installation. The result runs where the driver and CUDA 13's libraries are.
#
#   scripts/cuda/toolkit.sh /tmp/cuda
#   source /tmp/cuda/env.sh
#   cargo build --release --features cuda,nccl,mpi
#
# Libraries that only a driver or a running program brings (libcuda, cuBLAS, cuRAND, NVRTC, NCCL) are stood in for by
# stubs that answer every call with error 100: enough to link against, and none of them ends up in the program.
set -euo pipefail
folder=$(realpath -m "${1:?usage: scripts/cuda/toolkit.sh FOLDER}")
cd "$(dirname "$0")/../.."
# 13.0 and not later: cudarc stops at a version that it does not list.
python3 -m pip install --quiet --no-deps --upgrade --target "$folder" \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
home=$folder/nvidia/cu13
chmod +x "$home"/bin/* "$home"/nvvm/bin/*
cargo fetch --locked --quiet
cudarc=$(cargo metadata --locked --format-version 1 --features cuda |
    python3 -c 'import json,os,sys; print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
mkdir -p "$home/lib/stubs"

# stub LIBRARY SONAME BINDINGS PREFIX: every function that cudarc binds.
stub() {
    grep -rhoE "fn $4[A-Za-z0-9_]+\(" "$cudarc/src/$3/sys" | sed -E 's/fn (.*)\(/int \1(void) { return 100; }/' |
        sort -u > "$folder/stub.c"
    gcc -shared -fPIC -w -fno-builtin "-Wl,-soname,$2" -o "$home/lib/stubs/lib$1.so" "$folder/stub.c"
    rm "$folder/stub.c"
}
stub cuda libcuda.so.1 driver cu
stub cublas libcublas.so.13 cublas cublas
stub cublasLt libcublasLt.so.13 cublaslt cublasLt
stub curand libcurand.so.10 curand curand
stub nvrtc libnvrtc.so.13 nvrtc nvrtc
stub nccl libnccl.so.2 nccl '(nccl|pnccl)'
ln -sf libcudart.so.13 "$home/lib/libcudart.so"
cat > "$folder/env.sh" <<EOF
export CUDA_HOME=$home PATH=$home/bin:\$PATH
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90} CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-2}
export LIBRARY_PATH=$home/lib:$home/lib/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}
EOF
echo "source $folder/env.sh"
