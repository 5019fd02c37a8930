// Runs kernels.cu without a GPU: the threads of a block are threads, one block runs after the other. Slow, and enough to
// test what the kernels and their launches compute; it says nothing of speed, nor of races between blocks.
//
// usage: emulator KERNEL FILE. FILE, little-endian: grid (3 × u32), count of arguments, then each as a kind (0 buffer, 1
// int, 2 float, 3 count) and its value; a buffer is a count of 4-byte words and the words. It is written back with what
// the kernel left in the buffers.

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

struct Index {
    int x, y, z;
};
static thread_local Index threadIdx;
static Index blockIdx, gridDim;
static std::barrier<>* barrier;

#define __global__
#define __device__ static
#define __shared__ static
#define __syncthreads() barrier->arrive_and_wait()

static float __int_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
static int min(int a, int b) { return a < b ? a : b; }

// What warps do together: every thread of the block must come by, or the barrier is never passed.
static const int MOST_THREADS = 128;

static float __shfl_xor_sync(uint32_t, float value, int lane) {
    static float values[MOST_THREADS];
    values[threadIdx.x] = value;
    __syncthreads();
    value = values[threadIdx.x ^ lane];
    __syncthreads();
    return value;
}

// To nearest, ties to even.
static uint32_t rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static uint32_t packed(float low, float high) { return rounded(low) | rounded(high) << 16; }

// "mma.m16n8k16" in bf16, from the tables of the PTX ISA: which thread and register has which element.
static void mma(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
    static uint32_t registers[MOST_THREADS][6];
    uint32_t* own = registers[threadIdx.x];
    std::copy(a, a + 4, own);
    own[4] = b0;
    own[5] = b1;
    __syncthreads();
    auto half = [](int thread, int number, int k) {
        return __int_as_float(registers[thread][number] >> 16 * (k % 2) << 16);
    };
    int warp = threadIdx.x / 32 * 32, lane = threadIdx.x % 32;
    for (int j = 0; j < 4; j++) {
        int row = lane / 4 + j / 2 * 8, column = lane % 4 * 2 + j % 2;
        for (int k = 0; k < 16; k++) {
            float left = half(warp + row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k);
            c[j] += left * half(warp + column * 4 + k % 8 / 2, 4 + k / 8, k);
        }
    }
    __syncthreads();
}

#include "kernels.cu"

struct Argument {
    uint32_t kind, value;
    std::vector<uint32_t> numbers;
};

template <class T> struct As;
template <class T> struct As<T*> {
    static T* of(Argument& a) { return reinterpret_cast<T*>(const_cast<std::remove_const_t<T>*>(reinterpret_cast<const T*>(a.numbers.data()))); }
    static const uint32_t kind = 0;
};
template <> struct As<int> {
    static int of(Argument& a) { return int(a.value); }
    static const uint32_t kind = 1;
};
template <> struct As<unsigned long long> {
    static unsigned long long of(Argument& a) { return a.value; }
    static const uint32_t kind = 3;
};
template <> struct As<float> {
    static float of(Argument& a) { return __int_as_float(a.value); }
    static const uint32_t kind = 2;
};

using Call = std::function<bool(std::vector<Argument>&, std::function<void(std::function<void()>)>)>;

template <class... A, size_t... I> Call wrap(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](std::vector<Argument>& a, std::function<void(std::function<void()>)> run) {
        if (a.size() != sizeof...(A) || !((a[I].kind == As<A>::kind) && ...)) return false;
        run([&] { kernel(As<A>::of(a[I])...); });
        return true;
    };
}
template <class... A> Call of(void (*kernel)(A...)) { return wrap(kernel, std::index_sequence_for<A...>{}); }

int main(int argc, char** argv) {
    std::map<std::string, Call> kernels{
        {"layer_norm", of(layer_norm)}, {"layer_norm_bf16", of(layer_norm_bf16)},
        {"activation_bf16", of(activation_bf16)}, {"layer_norm_dx", of(layer_norm_dx)}, {"layer_norm_dw", of(layer_norm_dw)},
        {"sum_slabs", of(sum_slabs)}, {"activation", of(activation)}, {"activation_dx", of(activation_dx)},
        {"squares", of(squares)}, {"squares_end", of(squares_end)}, {"finish_f32", of(finish_f32)},
        {"finish_bf16", of(finish_bf16)}, {"column_sums", of(column_sums)}, {"add_rows", of(add_rows)},
        {"pixels", of(pixels)}, {"adamw", of(adamw)}, {"unit_rows", of(unit_rows)}, {"unit_rows_dx", of(unit_rows_dx)},
        {"smoothed_rows", of(smoothed_rows)}, {"smoothed_rows_dx", of(smoothed_rows_dx)}, {"attention", of(attention)},
        {"attention_delta", of(attention_delta)}, {"attention_dq", of(attention_dq)}, {"attention_dkv", of(attention_dkv)},
        {"attention_bf16", of(attention_bf16)}, {"attention_dq_bf16", of(attention_dq_bf16)},
        {"attention_dkv_bf16", of(attention_dkv_bf16)},
    };
    if (argc != 3 || !kernels.count(argv[1])) return 2;
    std::FILE* file = std::fopen(argv[2], "rb");
    auto number = [&] {
        uint32_t n = 0;
        if (std::fread(&n, 4, 1, file) != 1) std::exit(3);
        return n;
    };
    gridDim = {int(number()), int(number()), int(number())};
    std::vector<Argument> arguments(number());
    for (Argument& a : arguments) {
        a.kind = number();
        a.value = number();
        if (a.kind == 0) {
            a.numbers.resize(a.value);
            if (std::fread(a.numbers.data(), 4, a.value, file) != a.value) return 3;
        }
    }
    std::fclose(file);
    auto run = [&](std::function<void()> kernel) {
        for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
            for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
                for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                    std::barrier<> all(THREADS);
                    barrier = &all;
                    std::vector<std::thread> threads;
                    for (int t = 0; t < THREADS; t++)
                        threads.emplace_back([&, t] {
                            threadIdx = {t, 0, 0};
                            kernel();
                            // Threads that returned early must not hold up the others.
                            all.arrive_and_drop();
                        });
                    for (std::thread& thread : threads) thread.join();
                }
    };
    if (!kernels[argv[1]](arguments, run)) return 4;
    file = std::fopen(argv[2], "wb");
    for (Argument& a : arguments)
        if (a.kind == 0) std::fwrite(a.numbers.data(), 4, a.numbers.size(), file);
    return std::fclose(file) == 0 ? 0 : 3;
}
