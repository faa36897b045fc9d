// Device kernels of the radiance field: one thread a sample for encoding and nets, one a ray for
// sampling, compositing and losses. Activations pass through global scratch, one row a feature
// (row-major, stride n), so that all reads and writes are coalesced. The arithmetic is that of
// block.h; the twin is endorecon/field/twin.py. Sums by atomics: not repeatable to the last bit.
#pragma once
#include "hashmlp.h"

enum { THREADS = 128, MAX_BINS = 256, MAX_S = 128 };

struct Scratch {  // rows of n floats unless said otherwise; one allocation a call
    float *x;                       // 3 rows
    float2 *pairs;                  // (levels, n): features, then their gradients
    float *hidden, *input, *c1, *c2, *rgb;         // HID, IN, HID, HID, 3 rows
    float *log_sigma, *tau, *pass, *radiance;      // 1, 1, 1, 3 rows
    float *g_rgb, *g_out, *g2, *g1, *g_hidden;     // RGB, OUT, HID, HID, HID rows
    float *features;                // IN rows: features as the net saw them
    float *gains, *powers;          // (rays)
    float *g_weights, *g_extras;    // sums of this call
    double *terms;                  // (TERMS)
};

HD float relu1(float x) { return x < 0.0f ? 0.0f : x; }

template <int M, int K>
__device__ __forceinline__ void layer(const float *w, const float *in, float *out) {
#pragma unroll
    for (int j = 0; j < M; ++j) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < K; ++k) sum = fmaf(w[j * K + k], in[k], sum);
        out[j] = sum;
    }
}

template <int M, int K>
__device__ __forceinline__ void layer_back(const float *w, const float *g, float *out) {
#pragma unroll
    for (int k = 0; k < K; ++k) out[k] = 0.0f;
#pragma unroll
    for (int j = 0; j < M; ++j)
#pragma unroll
        for (int k = 0; k < K; ++k) out[k] = fmaf(w[j * K + k], g[j], out[k]);
}

__device__ __forceinline__ void load_weights(float *shared, const float *weights) {
    for (int i = threadIdx.x; i < WEIGHTS; i += blockDim.x) shared[i] = weights[i];
    __syncthreads();
}

__global__ void place_kernel(Batch b, int64_t n, float *x) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int64_t r = i / b.samples, s = i % b.samples;
    const float *e = b.edges + r * (b.samples + 1) + s;
    const float z = 0.5f * (e[0] + e[1]);
    for (int k = 0; k < 3; ++k)
        x[k * n + i] = b.origin[3 * r + k] + z * b.direction[3 * r + k];
}

__global__ void rows_kernel(const float *points, int64_t n, float *x) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    for (int k = 0; k < 3; ++k) x[k * n + i] = points[3 * i + k];
}

struct Cell {
    uint32_t at[3];
    float frac[3];
};

__device__ __forceinline__ Cell cell_at(const float *x, int64_t n, int64_t i, int res) {
    Cell c;
    for (int k = 0; k < 3; ++k) c.at[k] = cell_of(x[k * n + i], res, &c.frac[k]);
    return c;
}

__device__ __forceinline__ uint32_t corner(const Cell &c, int k, const Levels &l, int level,
                                           float *weight) {
    float w = 1.0f;
    for (int a = 0; a < 3; ++a) w *= (k >> a & 1) ? c.frac[a] : 1.0f - c.frac[a];
    *weight = w;
    return row_of(c.at[0] + (k & 1), c.at[1] + (k >> 1 & 1), c.at[2] + (k >> 2), l.res[level],
                  l.dense[level], (1u << l.log2_table) - 1u);
}

__global__ void encode_kernel(Model m, int64_t n, const float *x, float2 *pairs) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int level = blockIdx.y;
    if (i >= n) return;
    float2 sum = {0.0f, 0.0f};
    if (m.levels.scale[level] != 0.0f) {
        const float2 *table =
            reinterpret_cast<const float2 *>(m.table) + ((int64_t)level << m.levels.log2_table);
        const Cell c = cell_at(x, n, i, m.levels.res[level]);
        for (int k = 0; k < 8; ++k) {
            float w;
            const float2 row = table[corner(c, k, m.levels, level, &w)];
            sum.x = fmaf(w, row.x, sum.x);
            sum.y = fmaf(w, row.y, sum.y);
        }
        sum.x *= m.levels.scale[level];
        sum.y *= m.levels.scale[level];
    }
    pairs[level * n + i] = sum;
}

// Gradient of the pairs into the table; `scale` is the clipping.
__global__ void scatter_kernel(Model m, int64_t n, const float *x, const float2 *pairs, float scale,
                               float *g_table) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int level = blockIdx.y;
    if (i >= n || m.levels.scale[level] == 0.0f) return;
    const float2 d = pairs[level * n + i];
    if (d.x == 0.0f && d.y == 0.0f) return;
    float *table = g_table + ((int64_t)level << (m.levels.log2_table + 1));
    const Cell c = cell_at(x, n, i, m.levels.res[level]);
    for (int k = 0; k < 8; ++k) {
        float w;
        float *row = table + 2 * (int64_t)corner(c, k, m.levels, level, &w);
        atomicAdd(row, w * d.x * scale);
        atomicAdd(row + 1, w * d.y * scale);
    }
}

__global__ void position_kernel(Model m, int64_t n, const float *x, const float2 *pairs,
                                float *g_position) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float g[3] = {0.0f, 0.0f, 0.0f};
    for (int level = 0; level < m.levels.count; ++level) {
        if (m.levels.scale[level] == 0.0f) continue;
        const float2 d = pairs[level * n + i];
        const float2 *table =
            reinterpret_cast<const float2 *>(m.table) + ((int64_t)level << m.levels.log2_table);
        const Cell c = cell_at(x, n, i, m.levels.res[level]);
        for (int k = 0; k < 8; ++k) {
            float w, side[3];
            const float2 row = table[corner(c, k, m.levels, level, &w)];
            const float v = (row.x * d.x + row.y * d.y) * (float)m.levels.res[level];
            for (int a = 0; a < 3; ++a) side[a] = (k >> a & 1) ? c.frac[a] : 1.0f - c.frac[a];
            g[0] += ((k & 1) ? v : -v) * side[1] * side[2];
            g[1] += ((k & 2) ? v : -v) * side[0] * side[2];
            g[2] += ((k & 4) ? v : -v) * side[0] * side[1];
        }
    }
    for (int a = 0; a < 3; ++a) {  // beyond the box the encoding is constant
        const float p = x[a * n + i];
        g_position[a * n + i] = p >= 0.0f && p <= 1.0f ? g[a] : 0.0f;
    }
}

__device__ __forceinline__ void load_features(const float2 *pairs, int levels, int64_t n, int64_t i,
                                              float *f) {
#pragma unroll
    for (int l = 0; l < IN / 2; ++l) {
        const float2 p = l < levels ? pairs[l * n + i] : float2{0.0f, 0.0f};
        f[2 * l] = p.x;
        f[2 * l + 1] = p.y;
    }
}

HD float log_density1(float raw) {
    raw += LOG_SIGMA_SHIFT;
    return raw > LOG_SIGMA_MAX ? LOG_SIGMA_MAX : raw;
}

__global__ void density_kernel(Model m, int64_t n, const float2 *pairs, float *density) {
    __shared__ float w[WEIGHTS];
    load_weights(w, m.weights);
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float f[IN], h[HID];
    load_features(pairs, m.levels.count, n, i, f);
    layer<HID, IN>(w + W1, f, h);
    float raw = 0.0f;
    for (int k = 0; k < HID; ++k) raw = fmaf(w[W2 + k], relu1(h[k]), raw);
    density[i] = expf(log_density1(raw));
}

template <int M>
__device__ __forceinline__ void keep(float *rows, int64_t n, int64_t i, const float *v) {
#pragma unroll
    for (int j = 0; j < M; ++j) rows[j * n + i] = v[j];
}

__global__ void forward_kernel(Model m, Batch b, int64_t n, Scratch s, bool learning) {
    __shared__ float w[WEIGHTS];
    load_weights(w, m.weights);
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int r = (int)(i / b.samples);
    float f[IN], h[HID], out[OUT], in[IN];
    load_features(s.pairs, m.levels.count, n, i, f);
    layer<HID, IN>(w + W1, f, h);
#pragma unroll
    for (int k = 0; k < HID; ++k) h[k] = relu1(h[k]);
    layer<OUT, HID>(w + W2, h, out);
    if (learning) {
        keep<IN>(s.features, n, i, f);
        keep<HID>(s.hidden, n, i, h);
    }
#pragma unroll
    for (int k = 0; k < 15; ++k) in[k] = out[k + 1];
    harmonics(b.view + 3 * r, in + 15);
    float c1[HID], c2[HID], rgb[RGB];
    layer<HID, IN>(w + A1, in, c1);
#pragma unroll
    for (int k = 0; k < HID; ++k) c1[k] = relu1(c1[k]);
    layer<HID, HID>(w + A2, c1, c2);
#pragma unroll
    for (int k = 0; k < HID; ++k) c2[k] = relu1(c2[k]);
    layer<RGB, HID>(w + A3, c2, rgb);
    if (learning) {
        keep<IN>(s.input, n, i, in);
        keep<HID>(s.c1, n, i, c1);
        keep<HID>(s.c2, n, i, c2);
        keep<3>(s.rgb, n, i, rgb);
    }
    const float *e = b.edges + (int64_t)r * (b.samples + 1) + i % b.samples;
    const float light = light_at(&m, &b, r, 0.5f * (e[0] + e[1]));
    const float ls = log_density1(out[0]), tau = expf(ls) * (e[1] - e[0]) * b.norm[r];
    s.log_sigma[i] = ls;
    s.tau[i] = tau;
    s.pass[i] = expf(-tau);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        float o = rgb[c] > LOG_RGB_MAX ? LOG_RGB_MAX : rgb[c];
        o = o < LOG_RGB_MIN ? LOG_RGB_MIN : o;
        const float bare = expf(o);
        s.radiance[c * n + i] = bare * below_ceiling(&m, c, bare) * light;
    }
}

__global__ void backward_kernel(Model m, int64_t n, Scratch s) {
    __shared__ float w[WEIGHTS];
    load_weights(w, m.weights);
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float g[HID], up[HID], g_rgb[RGB];
#pragma unroll
    for (int c = 0; c < RGB; ++c) g_rgb[c] = s.g_rgb[c * n + i];
    layer_back<RGB, HID>(w + A3, g_rgb, g);
#pragma unroll
    for (int k = 0; k < HID; ++k) g[k] = s.c2[k * n + i] > 0.0f ? g[k] : 0.0f;
    keep<HID>(s.g2, n, i, g);
    layer_back<HID, HID>(w + A2, g, up);
#pragma unroll
    for (int k = 0; k < HID; ++k) up[k] = s.c1[k * n + i] > 0.0f ? up[k] : 0.0f;
    keep<HID>(s.g1, n, i, up);
    float g_in[IN], g_out[OUT];
    layer_back<HID, IN>(w + A1, up, g_in);
    g_out[0] = s.g_out[i];
#pragma unroll
    for (int k = 0; k < 15; ++k) g_out[k + 1] = g_in[k];
    keep<OUT>(s.g_out, n, i, g_out);
    layer_back<OUT, HID>(w + W2, g_out, g);
#pragma unroll
    for (int k = 0; k < HID; ++k) g[k] = s.hidden[k * n + i] > 0.0f ? g[k] : 0.0f;
    keep<HID>(s.g_hidden, n, i, g);
    layer_back<HID, IN>(w + W1, g, g_in);
#pragma unroll
    for (int l = 0; l < IN / 2; ++l)
        if (l < m.levels.count) {
            const float scale = m.levels.scale[l];
            s.pairs[l * n + i] = float2{scale * g_in[2 * l], scale * g_in[2 * l + 1]};
        }
}

// G (M x K) += D (M rows) X (K rows)^T over the samples; one thread an entry of G, blocks share out
// the samples, which pass through shared memory in tiles.
template <int M, int K>
__global__ void outer_kernel(const float *d, const float *x, int64_t n, float *g) {
    enum { TILE = 64 };
    __shared__ float ds[M][TILE + 1], xs[K][TILE + 1];
    const int j = threadIdx.x / K, k = threadIdx.x % K;
    float sum = 0.0f;
    for (int64_t at = (int64_t)blockIdx.x * TILE; at < n; at += (int64_t)gridDim.x * TILE) {
        for (int t = threadIdx.x; t < M * TILE; t += blockDim.x)
            ds[t / TILE][t % TILE] = at + t % TILE < n ? d[t / TILE * n + at + t % TILE] : 0.0f;
        for (int t = threadIdx.x; t < K * TILE; t += blockDim.x)
            xs[t / TILE][t % TILE] = at + t % TILE < n ? x[t / TILE * n + at + t % TILE] : 0.0f;
        __syncthreads();
        for (int t = 0; t < TILE; ++t) sum = fmaf(ds[j][t], xs[k][t], sum);
        __syncthreads();
    }
    atomicAdd(g + j * K + k, sum);
}
