#!/usr/bin/env bash
# Type-checks the GPU code on a machine without a CUDA toolkit: kernels are not compiled (an empty stand-in for nvcc
# writes their outputs), Rust is. Nothing that comes of it can run.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
mkdir -p "$home"/{bin,include,lib64}
cat > "$home/bin/nvcc" <<'EOF'
#!/usr/bin/env bash
case " $* " in
*" --version "*) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit ;;
*" --list-gpu-code "*) echo sm_90; exit ;;
esac
output='' folder='' ptx='' input=''
while [ $# -gt 0 ]; do
    case $1 in
    -o) output=$2; shift ;;
    --output-directory) folder=$2; shift ;;
    --ptx) ptx=yes ;;
    esac
    input=$1
    shift
done
if [ -n "$ptx" ]; then : > "$folder/$(basename "$input" .cu).ptx"; else : > "$output"; fi
EOF
chmod +x "$home/bin/nvcc"
export CUDA_HOME=$home NVCC=$home/bin/nvcc CUDARC_CUDA_VERSION=13000 CUDA_COMPUTE_CAP=90
cargo clippy --release --locked --all-targets --features "${1:-cuda,nccl,mpi}" -- -D warnings
