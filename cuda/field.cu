// The radiance field on an NVIDIA GPU: the C interface of field.cpp, with a stream as last argument.
// All pointers are of the device, but the structs, `terms` and `quantiles`, which are of the host.
// Errors: 0 fine, 1 not finite (nothing touched), 2 a shape the kernels do not serve, 3 CUDA failed.
#include <cuda_runtime.h>

#include <cmath>

#include "rays.cuh"

namespace {

int64_t blocks_of(int64_t n, int threads = THREADS) { return (n + threads - 1) / threads; }

// One allocation for a call, in stream order, freed in stream order.
struct Arena {
    cudaStream_t stream;
    char *data = nullptr;
    size_t used = 0, size = 0;
    Arena(size_t bytes, cudaStream_t st) : stream(st), size(bytes) {
        if (cudaMallocAsync(reinterpret_cast<void **>(&data), bytes, st) != cudaSuccess)
            data = nullptr;
    }
    ~Arena() {
        if (data) cudaFreeAsync(data, stream);
    }
    template <class T>
    T *take(size_t count) {
        T *out = reinterpret_cast<T *>(data + used);
        used += (count * sizeof(T) + 255) / 256 * 256;
        return out;
    }
};

// Rows of floats that one sample needs: places, pairs, what the nets keep, and their gradients.
size_t scratch_bytes(const Model *m, int64_t n, int64_t rays, bool learning) {
    const size_t rows = 3 + 2 * m->levels.count + 6 + (learning ? 2 * IN + 6 * HID + 3 + RGB + OUT
                                                                : 0);
    return rows * (n * 4 + 256) + 2 * (rays * 4 + 256) +
           (WEIGHTS + m->views + 1 + 2 * TERMS) * 4 + 64 * 256;
}

Scratch lay_out(Arena &a, const Model *m, int64_t n, int64_t rays, bool learning) {
    Scratch s{};
    s.x = a.take<float>(3 * n);
    s.pairs = a.take<float2>(m->levels.count * n);
    s.log_sigma = a.take<float>(n);
    s.tau = a.take<float>(n);
    s.pass = a.take<float>(n);
    s.radiance = a.take<float>(3 * n);
    if (!learning) return s;
    s.features = a.take<float>(IN * n);
    s.hidden = a.take<float>(HID * n);
    s.input = a.take<float>(IN * n);
    s.c1 = a.take<float>(HID * n);
    s.c2 = a.take<float>(HID * n);
    s.rgb = a.take<float>(3 * n);
    s.g_rgb = a.take<float>(RGB * n);
    s.g_out = a.take<float>(OUT * n);
    s.g2 = a.take<float>(HID * n);
    s.g1 = a.take<float>(HID * n);
    s.g_hidden = a.take<float>(HID * n);
    s.gains = a.take<float>(rays);
    s.powers = a.take<float>(rays);
    s.g_weights = a.take<float>(WEIGHTS);
    s.g_extras = a.take<float>(m->views + 1);
    s.terms = a.take<double>(TERMS);
    return s;
}

void march(const Model *m, const Batch *b, int64_t n, const Scratch &s, bool learning,
           cudaStream_t st) {
    const dim3 by_level((unsigned)blocks_of(n), (unsigned)m->levels.count);
    place_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(*b, n, s.x);
    encode_kernel<<<by_level, THREADS, 0, st>>>(*m, n, s.x, s.pairs);
    forward_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(*m, *b, n, s, learning);
}

template <int M, int K>
void outer(const float *d, const float *x, int64_t n, float *g, cudaStream_t st) {
    const int64_t tiles = (n + 63) / 64;
    outer_kernel<M, K><<<(unsigned)(tiles < 512 ? tiles : 512), M * K, 0, st>>>(d, x, n, g);
}

void update(float *p, float *g, float *mo, float *ve, int64_t n, float rate, const Adam &a,
            bool pairs, float decay, float scale, cudaStream_t st) {
    adam_kernel<<<(unsigned)blocks_of(n, 256), 256, 0, st>>>(p, g, mo, ve, n, rate, a, pairs, decay,
                                                             scale);
}

bool serves(const Model *m, const Batch *b) {
    return b->samples >= 1 && b->samples <= MAX_S && 2 * m->levels.count <= IN;
}

}  // namespace

extern "C" {

void field_sample(const Sampler *s, int32_t rays, int32_t samples, const float *origin,
                  const float *direction, const float *norm, const float *band,
                  const float *jitter, float *edges, cudaStream_t st) {
    if (rays > 0)
        sample_kernel<<<(unsigned)blocks_of(rays), THREADS, 0, st>>>(
            *s, rays, samples, origin, direction, norm, band, jitter, edges);
}

int32_t field_step(const Model *m, const Batch *b, const Adam *a, double *terms, float *g_table,
                   float *g_weights, float *g_extras, float *g_position, cudaStream_t st) {
    for (int i = 0; i < TERMS; ++i) terms[i] = 0.0;
    if (b->rays == 0) return 0;
    if (!serves(m, b)) return 2;
    const int64_t n = (int64_t)b->rays * b->samples;
    const int64_t rows = (int64_t)m->levels.count << (m->levels.log2_table + 1);
    Arena arena(scratch_bytes(m, n, b->rays, true) + (a ? rows * 4 + 256 : 0), st);
    if (!arena.data) return 3;
    const Scratch s = lay_out(arena, m, n, b->rays, true);
    float *grad = a ? arena.take<float>(rows) : g_table;
    cudaMemsetAsync(s.g_weights, 0, WEIGHTS * sizeof(float), st);
    cudaMemsetAsync(s.g_extras, 0, (m->views + 1) * sizeof(float), st);
    cudaMemsetAsync(s.terms, 0, TERMS * sizeof(double), st);
    march(m, b, n, s, true, st);
    loss_kernel<<<(unsigned)blocks_of(b->rays), THREADS, 0, st>>>(*m, *b, n, s);
    backward_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(*m, n, s);
    outer<RGB, HID>(s.g_rgb, s.c2, n, s.g_weights + A3, st);
    outer<HID, HID>(s.g2, s.c1, n, s.g_weights + A2, st);
    outer<HID, IN>(s.g1, s.input, n, s.g_weights + A1, st);
    outer<OUT, HID>(s.g_out, s.hidden, n, s.g_weights + W2, st);
    outer<HID, IN>(s.g_hidden, s.features, n, s.g_weights + W1, st);
    norm_kernel<<<1, 256, 0, st>>>(s.g_weights, s.g_extras, m->views + 1, s.terms);
    cudaMemcpyAsync(terms, s.terms, TERMS * sizeof(double), cudaMemcpyDeviceToHost, st);
    if (cudaStreamSynchronize(st) != cudaSuccess) return 3;
    double check = 0.0;
    terms[TERM_NORM] = std::sqrt(terms[TERM_NORM]);
    for (int i = 0; i < TERMS; ++i) check += terms[i];
    if (!std::isfinite(check)) return 1;

    const float clip = a && a->clip > 0.0f && terms[TERM_NORM] > a->clip
                           ? a->clip / (float)terms[TERM_NORM] : 1.0f;
    const dim3 by_level((unsigned)blocks_of(n), (unsigned)m->levels.count);
    if (g_position)
        position_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(*m, n, s.x, s.pairs,
                                                                    g_position);
    if (a) cudaMemsetAsync(grad, 0, rows * sizeof(float), st);
    scatter_kernel<<<by_level, THREADS, 0, st>>>(*m, n, s.x, s.pairs, clip, grad);
    if (a) {
        update(m->table, grad, a->table_m, a->table_v, rows, a->rate_table, *a, true, 0.0f, 1.0f,
               st);
        update(m->weights, s.g_weights, a->weights_m, a->weights_v, WEIGHTS, a->rate_weights, *a,
               false, 0.0f, clip, st);
        update(m->extras, s.g_extras, a->extras_m, a->extras_v, m->views + 1, a->rate_extras, *a,
               false, a->anchor, clip, st);
    } else {
        cudaMemcpyAsync(g_weights, s.g_weights, WEIGHTS * sizeof(float), cudaMemcpyDeviceToDevice,
                        st);
        cudaMemcpyAsync(g_extras, s.g_extras, (m->views + 1) * sizeof(float),
                        cudaMemcpyDeviceToDevice, st);
    }
    return cudaGetLastError() == cudaSuccess ? 0 : 3;
}

int32_t field_render(const Model *m, const Batch *b, const float *quantiles, float *colour,
                     float *depth, float *opacity, cudaStream_t st) {
    if (b->rays == 0) return 0;
    if (!serves(m, b)) return 2;
    const int64_t n = (int64_t)b->rays * b->samples;
    Arena arena(scratch_bytes(m, n, b->rays, false), st);
    if (!arena.data) return 3;
    const Scratch s = lay_out(arena, m, n, b->rays, false);
    march(m, b, n, s, false, st);
    show_kernel<<<(unsigned)blocks_of(b->rays), THREADS, 0, st>>>(
        *m, *b, n, s, quantiles[0], quantiles[1], quantiles[2], colour, depth, opacity);
    return cudaGetLastError() == cudaSuccess ? 0 : 3;
}

void field_density(const Model *m, int64_t n, const float *points, float *density,
                   cudaStream_t st) {
    if (n == 0) return;
    Arena arena(scratch_bytes(m, n, 0, false), st);
    if (!arena.data) return;
    const Scratch s = lay_out(arena, m, n, 0, false);
    const dim3 by_level((unsigned)blocks_of(n), (unsigned)m->levels.count);
    rows_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(points, n, s.x);
    encode_kernel<<<by_level, THREADS, 0, st>>>(*m, n, s.x, s.pairs);
    density_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(*m, n, s.pairs, density);
}

__global__ void unpack_kernel(const float2 *pairs, int levels, int64_t n, float *features) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    for (int l = 0; l < levels; ++l) {
        features[(i * levels + l) * 2] = pairs[l * n + i].x;
        features[(i * levels + l) * 2 + 1] = pairs[l * n + i].y;
    }
}

void field_encode(const Model *m, int64_t n, const float *points, float *features,
                  cudaStream_t st) {
    if (n == 0) return;
    Arena arena(scratch_bytes(m, n, 0, false), st);
    if (!arena.data) return;
    const Scratch s = lay_out(arena, m, n, 0, false);
    const dim3 by_level((unsigned)blocks_of(n), (unsigned)m->levels.count);
    rows_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(points, n, s.x);
    encode_kernel<<<by_level, THREADS, 0, st>>>(*m, n, s.x, s.pairs);
    unpack_kernel<<<(unsigned)blocks_of(n), THREADS, 0, st>>>(s.pairs, m->levels.count, n,
                                                             features);
}

void field_sizes(int32_t *out) {
    out[0] = sizeof(Levels);
    out[1] = sizeof(Model);
    out[2] = sizeof(Batch);
    out[3] = sizeof(Adam);
    out[4] = sizeof(Sampler);
    out[5] = WEIGHTS;
}

}  // extern "C"
