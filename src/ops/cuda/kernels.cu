// Training kernels for CUDA, compiled by build.rs. Numbers are f32, sums over a block go by a tree, nothing is added atomically: the same input gives the same output to the last bit.
//
// Plain enough to be run by emulator.cpp as well, one block after the other, which is how they are tested where there is
// no GPU: no warp intrinsics, no dynamic shared memory.

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

// ---- around products with weights

typedef unsigned short bf16;

__device__ float widened(float x) { return x; }
__device__ float widened(bf16 bits) { return __int_as_float((uint32)bits << 16); }

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

extern "C" __global__ void layer_norm(
    const float* x, const float* weight, const float* bias, float* y, float* stats, int width, float eps) {
    const float* row = x + (size_t)blockIdx.x * width;
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) sum += row[i];
    float mean = block_sum(sum) / width;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) squares += (row[i] - mean) * (row[i] - mean);
    float rstd = 1.0f / sqrtf(block_sum(squares) / width + eps);
    for (int i = threadIdx.x; i < width; i += THREADS)
        y[(size_t)blockIdx.x * width + i] = (row[i] - mean) * rstd * weight[i] + bias[i];
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = mean;
        stats[2 * blockIdx.x + 1] = rstd;
    }
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

extern "C" __global__ void activation(const float* x, float* y, uint64 count, int kind) {
    uint64 i = global_index();
    if (i >= count) return;
    float v = x[i];
    if (kind == 0) y[i] = v * sigmoid(1.702f * v);
    else if (kind == 1) y[i] = v * (0.5f + 0.5f * erff(v * 0.70710678f));
    else if (kind == 2) y[i] = v * sigmoid(2.0f * 0.7978846f * (v + 0.044715f * v * v * v));
    else if (kind == 3) y[i] = fmaxf(v, 0.0f);
    else y[i] = tanhf(v);
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

// ---- label-smoothed cross-entropy over similarities, (batch, batch); a block a query. Query i's similarity to j stands at
// i * of_query + j * of_item: rows or columns. out: (batch, 4) log Σ exp, smoothed loss, hard loss, 1 where right.

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

// ---- attention within items that lie one after the other, without padding (FlashAttention, arXiv 2205.14135). Item i has
// query rows q_starts[i]..q_starts[i + 1] and key rows likewise; a head's numbers stand side by side in a row. With
// `causal`, an item's last query stands at its last key. head_width is at most HEAD.

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

__device__ bool sees(int query, int key, int queries, int keys, int causal) {
    return query < queries && key < keys && (!causal || key <= query + keys - queries);
}

// Grid: (items × tiles of queries, heads). log_sums: (query rows, heads).
extern "C" __global__ void attention(
    const float* q, const float* k, const float* v, float* out, float* log_sums, const uint32* q_starts,
    const uint32* k_starts, int tiles, int heads, int head_width, int causal, float scale) {
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
    int end = causal ? min(keys, first + TILE + keys - queries) : keys;
    for (int tile = 0; tile < end; tile += TILE) {
        __syncthreads();
        load(&ks, k, k_start, tile, keys, head, heads, head_width);
        load(&vs, v, k_start, tile, keys, head, heads, head_width);
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
            int r = i / TILE, c = i % TILE;
            bool seen = sees(first + r, tile + c, queries, keys, causal);
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
    int queries, int keys, int head, int heads, int head_width, int causal, float scale, const float* log_sums,
    const float* delta, float (*p)[TILE + 1], float (*ds)[TILE + 1]) {
    for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
        int r = i / TILE, c = i % TILE;
        bool seen = sees(first_query + r, first_key + c, queries, keys, causal);
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
    float scale) {
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
    int end = causal ? min(keys, first + TILE + keys - queries) : keys;
    for (int tile = 0; tile < end; tile += TILE) {
        __syncthreads();
        load(&ks, k, k_start, tile, keys, head, heads, head_width);
        load(&vs, v, k_start, tile, keys, head, heads, head_width);
        __syncthreads();
        again(
            &qs, &gs, &ks, &vs, first, tile, q_start, queries, keys, head, heads, head_width, causal, scale, log_sums,
            delta, 0, ds);
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
    int causal, float scale) {
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
        // All of these queries stand before the first key.
        if (causal && tile + TILE - 1 + keys - queries < first) continue;
        __syncthreads();
        load(&qs, q, q_start, tile, queries, head, heads, head_width);
        load(&gs, grad, q_start, tile, queries, head, heads, head_width);
        __syncthreads();
        again(
            &qs, &gs, &ks, &vs, tile, first, q_start, queries, keys, head, heads, head_width, causal, scale, log_sums,
            delta, p, ds);
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
