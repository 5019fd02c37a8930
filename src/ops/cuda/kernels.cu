// Training kernels for CUDA, compiled by build.rs. Numbers are f32, sums over a block go by a tree, nothing is added
// atomically: the same input gives the same output to the last bit.
//
// Plain enough to be run by emulator.cpp as well, one block after the other, which is how they are tested where there
// is no GPU: no dynamic shared memory, and of warps only mma, packed and __shfl_xor_sync, by all threads of a block
// alike.

#define THREADS 128
#define INFINITE __int_as_float(0x7f800000)

typedef unsigned int uint32;
// A tensor may have more numbers than an int counts.
typedef unsigned long long uint64;

// The thread's number among all.
__device__ uint64 global_index() { return (uint64)blockIdx.x * THREADS + threadIdx.x; }

// ---- sums and maxima over a block's threads; all get the result

template <class T> __device__ T block_sum(T value) {
    __shared__ T parts[THREADS];
    __syncthreads();
    parts[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
        __syncthreads();
    }
    return parts[0];
}

__device__ float block_max(float value) {
    __shared__ float parts[THREADS];
    __syncthreads();
    parts[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] = fmaxf(parts[threadIdx.x], parts[threadIdx.x + half]);
        __syncthreads();
    }
    return parts[0];
}

// A number of 64 bits as two of 32; where it is not finite, so is the first.
__device__ void store_double(float* pair, double value) {
    pair[0] = (float)value;
    pair[1] = (float)(value - (double)pair[0]);
}

// ---- sums of squares: of each block's share in `partial`, then of all in `sum`, as store_double has them

extern "C" __global__ void squares(const float* x, float* partial, uint64 count) {
    double sum = 0;
    for (uint64 i = global_index(); i < count; i += (uint64)gridDim.x * THREADS) sum += (double)x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) store_double(partial + 2 * blockIdx.x, sum);
}

extern "C" __global__ void squares_end(const float* partial, float* sum, int blocks) {
    double all = 0;
    for (int i = threadIdx.x; i < blocks; i += THREADS) all += (double)partial[2 * i] + (double)partial[2 * i + 1];
    all = block_sum(all);
    if (threadIdx.x == 0) store_double(sum, all);
}

// ---- numbers in bf16

typedef unsigned short bf16;

#ifdef __CUDACC__
// Two numbers rounded to bf16, the first in the lower half.
__device__ uint32 packed(float low, float high) {
    uint32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif

__device__ float widened(float x) { return x; }
__device__ float widened(bf16 bits) { return __int_as_float((uint32)bits << 16); }

__device__ void store(float* to, float x) { *to = x; }
__device__ void store(bf16* to, float x) { *to = (bf16)packed(x, 0.0f); }

// ---- around products with weights

// out = product + bias + residual; of the last two either may be any tensor where it is not asked for. A block a row.
template <class T> __device__ void finish_row(
    const T* product, const float* bias, const float* residual, float* out, int width, int with_bias,
    int with_residual) {
    size_t at = (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float y = widened(product[at + i]);
        if (with_bias) y += bias[i];
        if (with_residual) y += residual[at + i];
        out[at + i] = y;
    }
}

extern "C" __global__ void finish_f32(
    const float* product, const float* bias, const float* residual, float* out, int width, int with_bias,
    int with_residual) {
    finish_row(product, bias, residual, out, width, with_bias, with_residual);
}

extern "C" __global__ void finish_bf16(
    const bf16* product, const float* bias, const float* residual, float* out, int width, int with_bias,
    int with_residual) {
    finish_row(product, bias, residual, out, width, with_bias, with_residual);
}

// Block (column tile, slab): sums over the slab's rows. partial: (slabs, width).
extern "C" __global__ void column_sums(const float* x, float* partial, int rows, int width) {
    int column = blockIdx.x * THREADS + threadIdx.x;
    int slabs = gridDim.y, each = (rows + slabs - 1) / slabs;
    int first = blockIdx.y * each, last = min(first + each, rows);
    if (column >= width) return;
    float sum = 0;
    for (int row = first; row < last; row++) sum += x[(size_t)row * width + column];
    partial[(size_t)blockIdx.y * width + column] = sum;
}

// ---- rows of a table: row destinations[b] of `sum` gets what stands in the rows order[starts[b]..starts[b + 1]] of
// `grad`, in that order. Block (destination, column tile).

extern "C" __global__ void add_rows(
    float* sum, const float* grad, const uint32* order, const uint32* destinations, const uint32* starts, int width) {
    int column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= width) return;
    size_t at = (size_t)destinations[blockIdx.x] * width + column;
    float total = sum[at];
    for (uint32 i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++)
        total += grad[(size_t)order[i] * width + column];
    sum[at] = total;
}

// ---- images: bytes (images, height · width, channels) to numbers (images, 3, height · width), through a table of 256
// for each image and colour. Block (pixel tile, image).

extern "C" __global__ void pixels(
    const unsigned char* bytes, const float* tables, float* out, int pixels_each, int channels) {
    int pixel = blockIdx.x * THREADS + threadIdx.x;
    if (pixel >= pixels_each) return;
    size_t image = blockIdx.y;
    const unsigned char* at = bytes + (image * pixels_each + pixel) * channels;
    for (int colour = 0; colour < 3; colour++) {
        int byte = at[channels == 3 ? colour : 0];
        out[(image * 3 + colour) * pixels_each + pixel] = tables[(image * 3 + colour) * 256 + byte];
    }
}

// ---- layer norm: a block a row

template <class T> __device__ void layer_norm_row(
    const float* x, const float* weight, const float* bias, T* y, float* stats, int width, float eps) {
    const float* row = x + (size_t)blockIdx.x * width;
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) sum += row[i];
    float mean = block_sum(sum) / width;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) squares += (row[i] - mean) * (row[i] - mean);
    float rstd = 1.0f / sqrtf(block_sum(squares) / width + eps);
    for (int i = threadIdx.x; i < width; i += THREADS)
        store(y + (size_t)blockIdx.x * width + i, (row[i] - mean) * rstd * weight[i] + bias[i]);
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = mean;
        stats[2 * blockIdx.x + 1] = rstd;
    }
}

extern "C" __global__ void layer_norm(
    const float* x, const float* weight, const float* bias, float* y, float* stats, int width, float eps) {
    layer_norm_row(x, weight, bias, y, stats, width, eps);
}

// For products in bf16 alone.
extern "C" __global__ void layer_norm_bf16(
    const float* x, const float* weight, const float* bias, bf16* y, float* stats, int width, float eps) {
    layer_norm_row(x, weight, bias, y, stats, width, eps);
}

extern "C" __global__ void layer_norm_dx(
    const float* x, const float* weight, const float* stats, const float* grad, float* dx, int width) {
    size_t at = (size_t)blockIdx.x * width;
    float mean = stats[2 * blockIdx.x], rstd = stats[2 * blockIdx.x + 1];
    float of_grad = 0, of_normed = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float g = grad[at + i] * weight[i];
        of_grad += g;
        of_normed += g * (x[at + i] - mean) * rstd;
    }
    float mean_grad = block_sum(of_grad) / width;
    float mean_normed = block_sum(of_normed) / width;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float normed = (x[at + i] - mean) * rstd;
        dx[at + i] = rstd * (grad[at + i] * weight[i] - mean_grad - normed * mean_normed);
    }
}

// Block (column tile, slab): sums over the slab's rows. partial: (slabs, 2, width), dweight and dbias.
extern "C" __global__ void layer_norm_dw(
    const float* x, const float* stats, const float* grad, float* partial, int rows, int width) {
    int column = blockIdx.x * THREADS + threadIdx.x;
    int slabs = gridDim.y, each = (rows + slabs - 1) / slabs;
    int first = blockIdx.y * each, last = min(first + each, rows);
    if (column >= width) return;
    float dweight = 0, dbias = 0;
    for (int row = first; row < last; row++) {
        float g = grad[(size_t)row * width + column];
        dweight += g * (x[(size_t)row * width + column] - stats[2 * row]) * stats[2 * row + 1];
        dbias += g;
    }
    partial[((size_t)blockIdx.y * 2) * width + column] = dweight;
    partial[((size_t)blockIdx.y * 2 + 1) * width + column] = dbias;
}

// out[i] = the sum over slabs of partial[slab, i]
extern "C" __global__ void sum_slabs(const float* partial, float* out, int slabs, uint64 count) {
    uint64 i = global_index();
    if (i >= count) return;
    float sum = 0;
    for (int slab = 0; slab < slabs; slab++) sum += partial[slab * count + i];
    out[i] = sum;
}

// ---- activations: 0 quick GELU, 1 GELU, 2 GELU with tanh, 3 ReLU, 4 tanh

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> __device__ void activate(const float* x, T* y, uint64 count, int kind) {
    uint64 i = global_index();
    if (i >= count) return;
    float v = x[i], active;
    if (kind == 0) active = v * sigmoid(1.702f * v);
    else if (kind == 1) active = v * (0.5f + 0.5f * erff(v * 0.70710678f));
    else if (kind == 2) active = v * sigmoid(2.0f * 0.7978846f * (v + 0.044715f * v * v * v));
    else if (kind == 3) active = fmaxf(v, 0.0f);
    else active = tanhf(v);
    store(y + i, active);
}

extern "C" __global__ void activation(const float* x, float* y, uint64 count, int kind) {
    activate(x, y, count, kind);
}

// For products in bf16 alone.
extern "C" __global__ void activation_bf16(const float* x, bf16* y, uint64 count, int kind) {
    activate(x, y, count, kind);
}

extern "C" __global__ void activation_dx(
    const float* x, const float* grad, float* dx, uint64 count, int kind) {
    uint64 i = global_index();
    if (i >= count) return;
    float v = x[i], slope;
    if (kind == 0) {
        float s = sigmoid(1.702f * v);
        slope = s * (1.0f + 1.702f * v * (1.0f - s));
    } else if (kind == 1) {
        slope = 0.5f + 0.5f * erff(v * 0.70710678f) + v * 0.3989423f * expf(-0.5f * v * v);
    } else if (kind == 2) {
        float s = sigmoid(2.0f * 0.7978846f * (v + 0.044715f * v * v * v));
        slope = s + v * s * (1.0f - s) * 2.0f * 0.7978846f * (1.0f + 3.0f * 0.044715f * v * v);
    } else if (kind == 3) {
        slope = v > 0.0f ? 1.0f : 0.0f;
    } else {
        float t = tanhf(v);
        slope = 1.0f - t * t;
    }
    dx[i] = grad[i] * slope;
}

// ---- AdamW, in place

extern "C" __global__ void adamw(
    float* p, float* m, float* v, const float* grad, uint64 count, float grad_scale, float decay1, float decay2,
    float fresh1, float fresh2, float keep, float rate, float root_c2, float eps) {
    uint64 i = global_index();
    if (i >= count) return;
    float g = grad[i] * grad_scale;
    m[i] = decay1 * m[i] + fresh1 * g;
    v[i] = decay2 * v[i] + fresh2 * g * g;
    p[i] = keep * p[i] - rate * m[i] / (sqrtf(v[i]) / root_c2 + eps);
}

// ---- rows of length 1

extern "C" __global__ void unit_rows(const float* x, float* unit, float* lengths, int width, float shortest) {
    size_t at = (size_t)blockIdx.x * width;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) squares += x[at + i] * x[at + i];
    float length = fmaxf(sqrtf(block_sum(squares)), shortest);
    for (int i = threadIdx.x; i < width; i += THREADS) unit[at + i] = x[at + i] / length;
    if (threadIdx.x == 0) lengths[blockIdx.x] = length;
}

// What points along a row is lost.
extern "C" __global__ void unit_rows_dx(
    const float* unit, const float* lengths, const float* grad, float* dx, int width, float shortest) {
    size_t at = (size_t)blockIdx.x * width;
    float length = lengths[blockIdx.x], dot = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) dot += grad[at + i] * unit[at + i];
    float along = block_sum(dot);
    if (length <= shortest) along = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) dx[at + i] = (grad[at + i] - along * unit[at + i]) / length;
}

// ---- label-smoothed cross-entropy over similarities, (batch, batch); a block a query. Query i's similarity to j
// stands at i * of_query + j * of_item: rows or columns. out: (batch, 4) log Σ exp, smoothed loss, hard loss, 1 where
// right.

extern "C" __global__ void smoothed_rows(
    const float* sims, float* out, int batch, int of_query, int of_item, float eps) {
    const float* row = sims + (size_t)blockIdx.x * of_query;
    float own = row[(size_t)blockIdx.x * of_item];
    float highest = -INFINITE, others = -INFINITE, sum = 0;
    for (int j = threadIdx.x; j < batch; j += THREADS) {
        float s = row[(size_t)j * of_item];
        highest = fmaxf(highest, s);
        if (j != blockIdx.x) others = fmaxf(others, s);
        sum += s;
    }
    highest = block_max(highest);
    others = block_max(others);
    sum = block_sum(sum);
    float exps = 0;
    for (int j = threadIdx.x; j < batch; j += THREADS) exps += expf(row[(size_t)j * of_item] - highest);
    float log_sum = highest + logf(block_sum(exps));
    if (threadIdx.x == 0) {
        out[4 * blockIdx.x] = log_sum;
        out[4 * blockIdx.x + 1] = log_sum - (1.0f - eps) * own - eps / batch * sum;
        out[4 * blockIdx.x + 2] = log_sum - own;
        out[4 * blockIdx.x + 3] = others < own ? 1.0f : 0.0f;
    }
}

// The loss's gradient on each similarity; `by_row` and `by_column` are what smoothed_rows gave, used where asked for.
extern "C" __global__ void smoothed_rows_dx(
    const float* sims, const float* by_row, const float* by_column, float* grad, int batch, int rows, int columns,
    float eps, float factor) {
    uint64 i = global_index();
    if (i >= (uint64)batch * batch) return;
    int row = i / batch, column = i % batch;
    float directions = rows + columns;
    float g = -directions * eps / batch;
    if (row == column) g -= directions * (1.0f - eps);
    if (rows) g += expf(sims[i] - by_row[4 * row]);
    if (columns) g += expf(sims[i] - by_column[4 * column]);
    grad[i] = g * factor;
}

// ---- attention within items that lie one after the other, without padding (FlashAttention, arXiv 2205.14135). Item i
// has query rows q_starts[i]..q_starts[i + 1] and key rows likewise; a head's numbers stand side by side in a row. With
// `causal` or a `window`, an item's last query stands at its last key. head_width is at most HEAD.

#define TILE 32
#define HEAD 64
// Numbers of a tile that one thread keeps.
#define KEPT (TILE * HEAD / THREADS)

struct Tile {
    float numbers[TILE][HEAD + 1];
};

// Rows first.. of an item that starts at `start`; 0 past its end.
__device__ void load(Tile* tile, const float* x, int start, int first, int count, int head, int heads, int head_width) {
    for (int i = threadIdx.x; i < TILE * head_width; i += THREADS) {
        int r = i / head_width, d = i % head_width;
        size_t at = ((size_t)(start + first + r) * heads + head) * head_width + d;
        tile->numbers[r][d] = first + r < count ? x[at] : 0.0f;
    }
}

__device__ float dot(const Tile* a, int r, const Tile* b, int c, int head_width) {
    float sum = 0;
    for (int d = 0; d < head_width; d++) sum += a->numbers[r][d] * b->numbers[c][d];
    return sum;
}

__device__ bool sees(int query, int key, int queries, int keys, int causal, int window) {
    int place = query + keys - queries;
    bool near = key - place <= window && place - key <= window;
    return query < queries && key < keys && near && (!causal || key <= place);
}

// The first tile of `side` keys that queries first..first + side see any of, and the end of those keys.
__device__ int first_seen(int first, int side, int queries, int keys, int window) {
    int place = first + keys - queries;
    return place > window ? (place - window) / side * side : 0;
}
__device__ int end_seen(int first, int side, int queries, int keys, int causal, int window) {
    int end = first + side + keys - queries;
    if (causal) return min(keys, end);
    return window < keys - end ? end + window : keys;
}

// Whether none of `side` queries sees any of as many keys.
__device__ bool apart(int first_query, int first_key, int side, int queries, int keys, int causal, int window) {
    int place = first_query + keys - queries;
    return first_key - (place + side - 1) > (causal ? 0 : window) || place - (first_key + side - 1) > window;
}

// Grid: (items × tiles of queries, heads). log_sums: (query rows, heads).
extern "C" __global__ void attention(
    const float* q, const float* k, const float* v, float* out, float* log_sums, const uint32* q_starts,
    const uint32* k_starts, int tiles, int heads, int head_width, int causal, int window, float scale) {
    __shared__ Tile qs, ks, vs;
    __shared__ float p[TILE][TILE + 1], highest[TILE], sums[TILE], shrink[TILE];
    int item = blockIdx.x / tiles, head = blockIdx.y, q_start = q_starts[item], k_start = k_starts[item];
    int queries = q_starts[item + 1] - q_start, keys = k_starts[item + 1] - k_start;
    int first = blockIdx.x % tiles * TILE;
    if (first >= queries) return;
    load(&qs, q, q_start, first, queries, head, heads, head_width);
    if (threadIdx.x < TILE) {
        highest[threadIdx.x] = -INFINITE;
        sums[threadIdx.x] = 0;
    }
    float kept[KEPT];
    #pragma unroll
    for (int j = 0; j < KEPT; j++) kept[j] = 0;
    int end = end_seen(first, TILE, queries, keys, causal, window);
    for (int tile = first_seen(first, TILE, queries, keys, window); tile < end; tile += TILE) {
        __syncthreads();
        load(&ks, k, k_start, tile, keys, head, heads, head_width);
        load(&vs, v, k_start, tile, keys, head, heads, head_width);
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
            int r = i / TILE, c = i % TILE;
            bool seen = sees(first + r, tile + c, queries, keys, causal, window);
            p[r][c] = seen ? dot(&qs, r, &ks, c, head_width) * scale : -INFINITE;
        }
        __syncthreads();
        if (threadIdx.x < TILE) {
            int r = threadIdx.x;
            float before = highest[r], now = before, sum = 0;
            for (int c = 0; c < TILE; c++) now = fmaxf(now, p[r][c]);
            // Nothing seen so far, as in the rows past the end: nothing to scale by.
            float by = now == -INFINITE ? 0.0f : now;
            for (int c = 0; c < TILE; c++) {
                p[r][c] = expf(p[r][c] - by);
                sum += p[r][c];
            }
            shrink[r] = expf(before - by);
            sums[r] = sums[r] * shrink[r] + sum;
            highest[r] = now;
        }
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < KEPT; j++) {
            int i = threadIdx.x + j * THREADS;
            if (i >= TILE * head_width) continue;
            int r = i / head_width, d = i % head_width;
            float sum = kept[j] * shrink[r];
            for (int c = 0; c < TILE; c++) sum += p[r][c] * vs.numbers[c][d];
            kept[j] = sum;
        }
    }
    #pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = threadIdx.x + j * THREADS;
        if (i >= TILE * head_width) continue;
        int r = i / head_width, d = i % head_width;
        if (first + r < queries)
            out[((size_t)(q_start + first + r) * heads + head) * head_width + d] = kept[j] / sums[r];
    }
    if (threadIdx.x < TILE && first + threadIdx.x < queries)
        log_sums[(size_t)(q_start + first + threadIdx.x) * heads + head] =
            highest[threadIdx.x] + logf(sums[threadIdx.x]);
}

// Σ grad · out of each row and head: what softmax's gradient takes away.
extern "C" __global__ void attention_delta(
    const float* out, const float* grad, float* delta, uint64 count, int head_width) {
    uint64 i = global_index();
    if (i >= count) return;
    float sum = 0;
    for (int d = 0; d < head_width; d++) sum += out[i * head_width + d] * grad[i * head_width + d];
    delta[i] = sum;
}

// The probabilities and the scores' gradients of a tile of queries and a tile of keys, computed again; p may be null.
__device__ void again(
    const Tile* qs, const Tile* gs, const Tile* ks, const Tile* vs, int first_query, int first_key, int q_start,
    int queries, int keys, int head, int heads, int head_width, int causal, int window, float scale,
    const float* log_sums, const float* delta, float (*p)[TILE + 1], float (*ds)[TILE + 1]) {
    for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
        int r = i / TILE, c = i % TILE;
        bool seen = sees(first_query + r, first_key + c, queries, keys, causal, window);
        size_t at = seen ? (size_t)(q_start + first_query + r) * heads + head : 0;
        float probability = seen ? expf(dot(qs, r, ks, c, head_width) * scale - log_sums[at]) : 0.0f;
        if (p) p[r][c] = probability;
        ds[r][c] = probability * (dot(gs, r, vs, c, head_width) - delta[at]);
    }
}

// Grid: (items × tiles of queries, heads).
extern "C" __global__ void attention_dq(
    const float* q, const float* k, const float* v, const float* grad, const float* log_sums, const float* delta,
    float* dq, const uint32* q_starts, const uint32* k_starts, int tiles, int heads, int head_width, int causal,
    int window, float scale) {
    __shared__ Tile qs, gs, ks, vs;
    __shared__ float ds[TILE][TILE + 1];
    int item = blockIdx.x / tiles, head = blockIdx.y, q_start = q_starts[item], k_start = k_starts[item];
    int queries = q_starts[item + 1] - q_start, keys = k_starts[item + 1] - k_start;
    int first = blockIdx.x % tiles * TILE;
    if (first >= queries) return;
    load(&qs, q, q_start, first, queries, head, heads, head_width);
    load(&gs, grad, q_start, first, queries, head, heads, head_width);
    float kept[KEPT];
    #pragma unroll
    for (int j = 0; j < KEPT; j++) kept[j] = 0;
    int end = end_seen(first, TILE, queries, keys, causal, window);
    for (int tile = first_seen(first, TILE, queries, keys, window); tile < end; tile += TILE) {
        __syncthreads();
        load(&ks, k, k_start, tile, keys, head, heads, head_width);
        load(&vs, v, k_start, tile, keys, head, heads, head_width);
        __syncthreads();
        again(
            &qs, &gs, &ks, &vs, first, tile, q_start, queries, keys, head, heads, head_width, causal, window, scale,
            log_sums, delta, 0, ds);
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < KEPT; j++) {
            int i = threadIdx.x + j * THREADS;
            if (i >= TILE * head_width) continue;
            int r = i / head_width, d = i % head_width;
            for (int c = 0; c < TILE; c++) kept[j] += ds[r][c] * ks.numbers[c][d];
        }
    }
    #pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = threadIdx.x + j * THREADS;
        if (i >= TILE * head_width) continue;
        int r = i / head_width, d = i % head_width;
        if (first + r < queries)
            dq[((size_t)(q_start + first + r) * heads + head) * head_width + d] = kept[j] * scale;
    }
}

// Grid: (items × tiles of keys, heads).
extern "C" __global__ void attention_dkv(
    const float* q, const float* k, const float* v, const float* grad, const float* log_sums, const float* delta,
    float* dk, float* dv, const uint32* q_starts, const uint32* k_starts, int tiles, int heads, int head_width,
    int causal, int window, float scale) {
    __shared__ Tile qs, gs, ks, vs;
    __shared__ float p[TILE][TILE + 1], ds[TILE][TILE + 1];
    int item = blockIdx.x / tiles, head = blockIdx.y, q_start = q_starts[item], k_start = k_starts[item];
    int queries = q_starts[item + 1] - q_start, keys = k_starts[item + 1] - k_start;
    int first = blockIdx.x % tiles * TILE;
    if (first >= keys) return;
    load(&ks, k, k_start, first, keys, head, heads, head_width);
    load(&vs, v, k_start, first, keys, head, heads, head_width);
    float of_k[KEPT], of_v[KEPT];
    #pragma unroll
    for (int j = 0; j < KEPT; j++) of_k[j] = of_v[j] = 0;
    for (int tile = 0; tile < queries; tile += TILE) {
        if (apart(tile, first, TILE, queries, keys, causal, window)) continue;
        __syncthreads();
        load(&qs, q, q_start, tile, queries, head, heads, head_width);
        load(&gs, grad, q_start, tile, queries, head, heads, head_width);
        __syncthreads();
        again(
            &qs, &gs, &ks, &vs, tile, first, q_start, queries, keys, head, heads, head_width, causal, window, scale,
            log_sums, delta, p, ds);
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < KEPT; j++) {
            int i = threadIdx.x + j * THREADS;
            if (i >= TILE * head_width) continue;
            int c = i / head_width, d = i % head_width;
            for (int r = 0; r < TILE; r++) {
                of_k[j] += ds[r][c] * qs.numbers[r][d];
                of_v[j] += p[r][c] * gs.numbers[r][d];
            }
        }
    }
    #pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = threadIdx.x + j * THREADS;
        if (i >= TILE * head_width) continue;
        int c = i / head_width, d = i % head_width;
        size_t at = ((size_t)(k_start + first + c) * heads + head) * head_width + d;
        if (first + c < keys) {
            dk[at] = of_k[j] * scale;
            dv[at] = of_v[j];
        }
    }
}

// ---- the same attention with products in bf16 by tensor cores: operands are rounded as they are loaded; scores, sums
// and results are f32. A block's four warps have 16 rows each of a tile of SIDE. head_width is at most SIDE; what it
// lacks is 0. Fragments lie as "mma.m16n8k16" of the PTX ISA has them: within a warp, thread 4 g + i has columns 2 i
// and 2 i + 1 of rows g and g + 8.

#define SIDE 64
#define STEPS (SIDE / 16)
#define BLOCKS (SIDE / 8)

#ifdef __CUDACC__
// c += a · b by one warp: (16, 16) · (16, 8)
__device__ void mma(float* c, const uint32* a, uint32 b0, uint32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// SIDE rows of as many numbers, two to a word; rows begin in other banks, so that a warp's reads do not collide.
struct Halves {
    uint32 words[SIDE][SIDE / 2 + 4];
};

// One head's rows of an item.
struct Rows {
    const float* x;
    int start, count, head, heads, width;
};

__device__ size_t place(const Rows& rows, int row, int d) {
    return ((size_t)(rows.start + row) * rows.heads + rows.head) * rows.width + d;
}

// 0 past the end.
__device__ float number(const Rows& rows, int row, int d) {
    return row < rows.count && d < rows.width ? rows.x[place(rows, row, d)] : 0.0f;
}

// Rows first.. of an item.
__device__ void load(Halves* tile, const Rows& rows, int first) {
    for (int i = threadIdx.x; i < SIDE * SIDE / 2; i += THREADS) {
        int r = i / (SIDE / 2), w = i % (SIDE / 2);
        tile->words[r][w] = packed(number(rows, first + r, 2 * w), number(rows, first + r, 2 * w + 1));
    }
}

// The same, columns as rows.
__device__ void load_transposed(Halves* tile, const Rows& rows, int first) {
    for (int i = threadIdx.x; i < SIDE * SIDE / 2; i += THREADS) {
        int d = i % SIDE, w = i / SIDE;
        tile->words[d][w] = packed(number(rows, first + 2 * w, d), number(rows, first + 2 * w + 1, d));
    }
}

// The thread's row in the block's tile (and 8 more), and its column in a block of 8 (and 1 more).
__device__ int own_row() { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
__device__ int own_column() { return threadIdx.x % 4 * 2; }

// This warp's rows of a tile as the left factor.
__device__ void factor(uint32 (*a)[4], const Halves* tile) {
    int row = own_row(), w = own_column() / 2;
    #pragma unroll
    for (int s = 0; s < STEPS; s++)
        #pragma unroll
        for (int j = 0; j < 4; j++) a[s][j] = tile->words[row + j % 2 * 8][s * 8 + j / 2 * 4 + w];
}

// What products gave as the left factor of the next.
__device__ void factor(uint32 (*a)[4], const float (*c)[4]) {
    #pragma unroll
    for (int s = 0; s < STEPS; s++)
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const float* from = c[2 * s + j / 2] + j % 2 * 2;
            a[s][j] = packed(from[0], from[1]);
        }
}

__device__ void clear(float (*c)[4]) {
    #pragma unroll
    for (int n = 0; n < BLOCKS; n++)
        #pragma unroll
        for (int j = 0; j < 4; j++) c[n][j] = 0;
}

// c += a · tileᵀ
__device__ void multiply(float (*c)[4], const uint32 (*a)[4], const Halves* tile) {
    int row = threadIdx.x % 32 / 4, w = own_column() / 2;
    #pragma unroll
    for (int n = 0; n < BLOCKS; n++)
        #pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const uint32* words = tile->words[n * 8 + row] + s * 8 + w;
            mma(c[n], a[s], words[0], words[4]);
        }
}

// Writes this warp's rows, of which the tile's first is `first`.
__device__ void store(float* to, const Rows& rows, int first, const float (*c)[4], const float* by) {
    #pragma unroll
    for (int n = 0; n < BLOCKS; n++)
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = first + own_row() + j / 2 * 8, d = n * 8 + own_column() + j % 2;
            if (row < rows.count && d < rows.width) to[place(rows, row, d)] = c[n][j] * by[j / 2];
        }
}

// Over the four threads that share a row; all get the result.
__device__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// Grid: (items × tiles of queries, heads).
extern "C" __global__ void attention_bf16(
    const float* q, const float* k, const float* v, float* out, float* log_sums, const uint32* q_starts,
    const uint32* k_starts, int tiles, int heads, int head_width, int causal, int window, float scale) {
    __shared__ Halves ks, vs;
    int item = blockIdx.x / tiles, head = blockIdx.y, q_start = q_starts[item], k_start = k_starts[item];
    int queries = q_starts[item + 1] - q_start, keys = k_starts[item + 1] - k_start;
    int first = blockIdx.x % tiles * SIDE;
    if (first >= queries) return;
    Rows of_q = {q, q_start, queries, head, heads, head_width};
    Rows of_k = {k, k_start, keys, head, heads, head_width}, of_v = of_k;
    of_v.x = v;
    uint32 a[STEPS][4], p[STEPS][4];
    load(&ks, of_q, first);
    __syncthreads();
    factor(a, &ks);
    float kept[BLOCKS][4], s[BLOCKS][4], highest[2] = {-INFINITE, -INFINITE}, sums[2] = {0, 0};
    clear(kept);
    int end = end_seen(first, SIDE, queries, keys, causal, window);
    for (int tile = first_seen(first, SIDE, queries, keys, window); tile < end; tile += SIDE) {
        __syncthreads();
        load(&ks, of_k, tile);
        load_transposed(&vs, of_v, tile);
        __syncthreads();
        clear(s);
        multiply(s, a, &ks);
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = first + own_row() + 8 * half;
            float now = highest[half], sum = 0;
            #pragma unroll
            for (int n = 0; n < BLOCKS; n++)
                #pragma unroll
                for (int j = 2 * half; j < 2 * half + 2; j++) {
                    bool seen = sees(query, tile + n * 8 + own_column() + j % 2, queries, keys, causal, window);
                    s[n][j] = seen ? s[n][j] * scale : -INFINITE;
                    now = fmaxf(now, s[n][j]);
                }
            now = row_max(now);
            // Nothing seen so far, as in the rows past the end: nothing to scale by.
            float by = now == -INFINITE ? 0.0f : now, shrink = expf(highest[half] - by);
            #pragma unroll
            for (int n = 0; n < BLOCKS; n++)
                #pragma unroll
                for (int j = 2 * half; j < 2 * half + 2; j++) {
                    s[n][j] = expf(s[n][j] - by);
                    sum += s[n][j];
                    kept[n][j] *= shrink;
                }
            sums[half] = sums[half] * shrink + row_sum(sum);
            highest[half] = now;
        }
        factor(p, s);
        multiply(kept, p, &vs);
    }
    float by[2] = {1 / sums[0], 1 / sums[1]};
    store(out, of_q, first, kept, by);
    for (int half = 0; half < 2; half++) {
        int query = first + own_row() + 8 * half;
        if (own_column() == 0 && query < queries)
            log_sums[(size_t)(q_start + query) * heads + head] = highest[half] + logf(sums[half]);
    }
}

// Grid: (items × tiles of queries, heads).
extern "C" __global__ void attention_dq_bf16(
    const float* q, const float* k, const float* v, const float* grad, const float* log_sums, const float* delta,
    float* dq, const uint32* q_starts, const uint32* k_starts, int tiles, int heads, int head_width, int causal,
    int window, float scale) {
    __shared__ Halves ks, turned, vs;
    int item = blockIdx.x / tiles, head = blockIdx.y, q_start = q_starts[item], k_start = k_starts[item];
    int queries = q_starts[item + 1] - q_start, keys = k_starts[item + 1] - k_start;
    int first = blockIdx.x % tiles * SIDE;
    if (first >= queries) return;
    Rows of_q = {q, q_start, queries, head, heads, head_width}, of_grad = of_q;
    Rows of_k = {k, k_start, keys, head, heads, head_width}, of_v = of_k;
    of_grad.x = grad;
    of_v.x = v;
    uint32 a[STEPS][4], g[STEPS][4], slopes[STEPS][4];
    load(&ks, of_q, first);
    load(&vs, of_grad, first);
    __syncthreads();
    factor(a, &ks);
    factor(g, &vs);
    float log_sum[2], of_out[2];
    for (int half = 0; half < 2; half++) {
        int query = first + own_row() + 8 * half;
        size_t at = query < queries ? (size_t)(q_start + query) * heads + head : 0;
        log_sum[half] = log_sums[at];
        of_out[half] = delta[at];
    }
    float kept[BLOCKS][4], s[BLOCKS][4], d[BLOCKS][4];
    clear(kept);
    int end = end_seen(first, SIDE, queries, keys, causal, window);
    for (int tile = first_seen(first, SIDE, queries, keys, window); tile < end; tile += SIDE) {
        __syncthreads();
        load(&ks, of_k, tile);
        load_transposed(&turned, of_k, tile);
        load(&vs, of_v, tile);
        __syncthreads();
        clear(s);
        clear(d);
        multiply(s, a, &ks);
        multiply(d, g, &vs);
        #pragma unroll
        for (int n = 0; n < BLOCKS; n++)
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                int query = first + own_row() + j / 2 * 8, key = tile + n * 8 + own_column() + j % 2;
                bool seen = sees(query, key, queries, keys, causal, window);
                float p = seen ? expf(s[n][j] * scale - log_sum[j / 2]) : 0.0f;
                d[n][j] = p * (d[n][j] - of_out[j / 2]);
            }
        factor(slopes, d);
        multiply(kept, slopes, &turned);
    }
    float by[2] = {scale, scale};
    store(dq, of_q, first, kept, by);
}

// Grid: (items × tiles of keys, heads). Rows of products are keys here, columns queries.
extern "C" __global__ void attention_dkv_bf16(
    const float* q, const float* k, const float* v, const float* grad, const float* log_sums, const float* delta,
    float* dk, float* dv, const uint32* q_starts, const uint32* k_starts, int tiles, int heads, int head_width,
    int causal, int window, float scale) {
    __shared__ Halves qs, turned_q, gs, turned_g;
    __shared__ float log_sum[SIDE], of_out[SIDE];
    int item = blockIdx.x / tiles, head = blockIdx.y, q_start = q_starts[item], k_start = k_starts[item];
    int queries = q_starts[item + 1] - q_start, keys = k_starts[item + 1] - k_start;
    int first = blockIdx.x % tiles * SIDE;
    if (first >= keys) return;
    Rows of_q = {q, q_start, queries, head, heads, head_width}, of_grad = of_q;
    Rows of_k = {k, k_start, keys, head, heads, head_width}, of_v = of_k;
    of_grad.x = grad;
    of_v.x = v;
    uint32 a[STEPS][4], b[STEPS][4], next[STEPS][4];
    load(&qs, of_k, first);
    load(&gs, of_v, first);
    __syncthreads();
    factor(a, &qs);
    factor(b, &gs);
    float of_keys[BLOCKS][4], of_values[BLOCKS][4], s[BLOCKS][4], d[BLOCKS][4];
    clear(of_keys);
    clear(of_values);
    for (int tile = 0; tile < queries; tile += SIDE) {
        if (apart(tile, first, SIDE, queries, keys, causal, window)) continue;
        __syncthreads();
        load(&qs, of_q, tile);
        load_transposed(&turned_q, of_q, tile);
        load(&gs, of_grad, tile);
        load_transposed(&turned_g, of_grad, tile);
        if (threadIdx.x < SIDE) {
            int query = tile + threadIdx.x;
            size_t at = query < queries ? (size_t)(q_start + query) * heads + head : 0;
            log_sum[threadIdx.x] = log_sums[at];
            of_out[threadIdx.x] = delta[at];
        }
        __syncthreads();
        clear(s);
        clear(d);
        multiply(s, a, &qs);
        multiply(d, b, &gs);
        #pragma unroll
        for (int n = 0; n < BLOCKS; n++)
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                int key = first + own_row() + j / 2 * 8, column = n * 8 + own_column() + j % 2;
                bool seen = sees(tile + column, key, queries, keys, causal, window);
                s[n][j] = seen ? expf(s[n][j] * scale - log_sum[column]) : 0.0f;
                d[n][j] = s[n][j] * (d[n][j] - of_out[column]);
            }
        factor(next, s);
        multiply(of_values, next, &turned_g);
        factor(next, d);
        multiply(of_keys, next, &turned_q);
    }
    float by[2] = {scale, scale}, once[2] = {1, 1};
    store(dk, of_k, first, of_keys, by);
    store(dv, of_k, first, of_values, once);
}
