#!/usr/bin/env bash
# A CUDA 13.0 build toolkit in a folder of one's own, from NVIDIA's Python wheels: to build reportclip on a machine that
# has neither a GPU nor a CUDA installation. The result runs where the driver and CUDA 13's libraries are.
#
#   scripts/cuda/toolkit.sh /tmp/cuda
#   source /tmp/cuda/env.sh
#   cargo build --release --features cuda,cudnn
set -euo pipefail
folder=$(realpath -m "${1:?usage: scripts/cuda/toolkit.sh FOLDER}")
cd "$(dirname "$0")/../.."
# 13.0 and not later: cudarc stops at a version that it does not list.
python3 -m pip install --quiet --no-deps --upgrade --target "$folder" \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
home=$folder/nvidia/cu13
chmod +x "$home"/bin/* "$home"/nvvm/bin/*
ln -sf libcudart.so.13 "$home/lib/libcudart.so"

# candle's kernels for quantised weights take most of the time that all of them take, and nobody here calls them
# (src/ops/cuda/libraries.rs answers for them): of their sources nothing is compiled.
cat > "$folder/nvcc" <<EOF
#!/usr/bin/env bash
case " \$* " in
*/mmq_*.cu*|*/mmvq_*.cu*|*/moe_*.cu*) ;;
*) exec $home/bin/nvcc "\$@" ;;
esac
while [ \$# -gt 1 ]; do
    if [ "\$1" = -o ]; then output=\$2; fi
    shift
done
g++ -x c++ -c /dev/null -o "\$output"
EOF
chmod +x "$folder/nvcc"
cat > "$folder/env.sh" <<EOF
export CUDA_HOME=$home NVCC=$folder/nvcc PATH=$home/bin:\$PATH
# Of candle's kernels: translated by the driver for every GPU from this one on.
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-80} CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-2}
EOF
echo "source $folder/env.sh"
