// The radiance field on the CPU: sampling, one training step, rendering, density; plain C interface.
//
// The result does not depend on the number of threads: work is cut into PARTS parts by the size of
// the input alone, each with its own accumulators, merged in order; tables belong to one thread a
// level. The torch twins (endorecon/field) are the definition; tests/test_nerf.py holds them together.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "block.h"
#include "encode.h"
#include "sampling.h"

namespace {

enum { PARTS = 32 };

struct Aligned {  // scratch that is kept between calls of one thread
    float *data = nullptr;
    size_t size = 0;
    ~Aligned() { free(data); }
    float *get(size_t n) {
        if (n > size) {
            free(data);
            size = (n + n / 4 + 1023) & ~size_t(1023);
            data = static_cast<float *>(aligned_alloc(64, size * sizeof(float)));
        }
        return data;
    }
};

int64_t round_up(int64_t n, int64_t k) { return (n + k - 1) / k * k; }

// Sample positions of the whole batch as three arrays of stride n8, padded with the box centre.
void place_samples(const Batch *b, int64_t n8, float *x) {
    const int S = b->samples;
    const int64_t n = (int64_t)b->rays * S;
#pragma omp parallel for schedule(static)
    for (int r = 0; r < b->rays; ++r) {
        const float *e = b->edges + (int64_t)r * (S + 1);
        for (int k = 0; k < 3; ++k)
            for (int i = 0; i < S; ++i)
                x[k * n8 + (int64_t)r * S + i] =
                    b->origin[3 * r + k] + 0.5f * (e[i] + e[i + 1]) * b->direction[3 * r + k];
    }
    for (int k = 0; k < 3; ++k)
        for (int64_t i = n; i < n8; ++i) x[k * n8 + i] = 0.5f;
}

uint32_t mask_of(const Levels &l) { return (1u << l.log2_table) - 1u; }

const float *table_of(const Model *m, int level) {
    return m->table + ((int64_t)level << (m->levels.log2_table + 1));
}

void encode_all(const Model *m, const float *x, int64_t n8, float *features) {
    const int64_t piece = 8192, pieces = (n8 + piece - 1) / piece;
#pragma omp parallel
    for (int l = 0; l < m->levels.count; ++l) {
        if (m->levels.scale[l] == 0.0f) continue;
#pragma omp for schedule(static) nowait
        for (int64_t p = 0; p < pieces; ++p)
            encode_level(table_of(m, l), m->levels.res[l], m->levels.dense[l], mask_of(m->levels),
                         x, x + n8, x + 2 * n8, p * piece, std::min(n8, (p + 1) * piece),
                         features + 2 * l * n8);
    }
}

// Adam on one array; the gradient is cleared. `pairs`: a pair whose gradient is exactly zero is left
// alone, moments and all.
void adam(float *p, float *g, float *mo, float *ve, int64_t n, float rate, const Adam &a,
          bool pairs, float decay) {
    vi swap;
    for (int i = 0; i < VW; ++i) swap[i] = i ^ 1;
    for (int64_t i = 0; i < n; i += VW) {
        const size_t bytes = 4 * std::min<int64_t>(VW, n - i);
        vf grad = {}, m = {}, v = {}, value = {};
        memcpy(&grad, g + i, bytes);
        vi touched = grad != 0.0f;
        touched |= __builtin_shuffle(touched, swap);
        if (pairs) {
            bool any = false;
            for (int k = 0; k < VW; ++k) any |= touched[k];
            if (!any) continue;
        } else {
            touched |= -1;
        }
        memset(g + i, 0, bytes);
        memcpy(&m, mo + i, bytes);
        memcpy(&v, ve + i, bytes);
        memcpy(&value, p + i, bytes);
        grad += decay * value;
        const vf m1 = a.beta1 * m + (1 - a.beta1) * grad;
        const vf v1 = a.beta2 * v + (1 - a.beta2) * grad * grad;
        const vf moved = value - rate * (m1 * a.correct1) / (root(v1 * a.correct2) + a.eps);
        m = touched ? m1 : m;
        v = touched ? v1 : v;
        value = touched ? moved : value;
        memcpy(mo + i, &m, bytes);
        memcpy(ve + i, &v, bytes);
        memcpy(p + i, &value, bytes);
    }
}

struct Part {
    vf weights[WEIGHTS / VW];  // in tiles
    double terms[TERMS];
};

}  // namespace

extern "C" {

// Edges (rays, samples + 1) along rays by the distilled density grid, a uniform share, and a band.
// band (rays, 2): first and last z of a narrow band, first >= last: none. jitter (rays) in [0, 1).
void field_sample(const Sampler *s, int32_t rays, int32_t samples, const float *origin,
                  const float *direction, const float *norm, const float *band,
                  const float *jitter, float *edges) {
#pragma omp parallel for schedule(static, 64)
    for (int r = 0; r < rays; ++r)
        sample_ray(s, r, samples, origin, direction, norm, band, jitter, edges);
}

// One step. With `adam`: parameters are updated in place unless something is not finite (returns 1,
// nothing touched). Without: gradients go to g_table, g_weights, g_extras (added), and to g_position
// (3, rays * samples) where it is not null. terms (TERMS): losses, mean square of the colour, norm.
int32_t field_step(const Model *m, const Batch *b, const Adam *a, double *terms, float *g_table,
                   float *g_weights, float *g_extras, float *g_position) {
    static thread_local Aligned scratch, tables;
    const int S = b->samples, levels = m->levels.count;
    std::fill(terms, terms + TERMS, 0.0);
    if (b->rays == 0) return 0;
    if (S < 1 || S > NB || 2 * levels > IN) return 2;
    const int64_t n = (int64_t)b->rays * S, n8 = round_up(n, 64);
    float *x = scratch.get((3 + 2 * levels) * n8 + 2 * round_up(b->rays, 16));
    float *features = x + 3 * n8, *gains = features + 2 * levels * n8;
    float *powers = gains + round_up(b->rays, 16);
    place_samples(b, n8, x);
    encode_all(m, x, n8, features);

    const int per_block = NB / S, blocks = (b->rays + per_block - 1) / per_block;
    const float share = 1.0f / (float)b->rays;
    Transposed t;
    transpose_all(m->weights, t);
    std::vector<Part> parts(PARTS);
#pragma omp parallel for schedule(dynamic, 1)
    for (int part = 0; part < PARTS; ++part) {
        const FlushDenormals flush;
        Block k;
        Part &own = parts[part];
        std::fill(own.weights, own.weights + WEIGHTS / VW, vf{});
        std::fill(own.terms, own.terms + TERMS, 0.0);
        const int first = (int)((int64_t)blocks * part / PARTS);
        const int end = (int)((int64_t)blocks * (part + 1) / PARTS);
        for (int block = first; block < end; ++block) {
            const int ray = block * per_block, rays = std::min(per_block, b->rays - ray);
            const int64_t at = (int64_t)ray * S;
            gather_features(features, m->levels, n8, at, rays * S, k);
            forward(m, b, ray, rays, true, k);
            memset(k.g_rgb, 0, sizeof k.g_rgb);
            memset(k.g_log_sigma, 0, sizeof k.g_log_sigma);
            for (int r = 0; r < rays; ++r)
                ray_loss(m, b, ray + r, r * S, share, k, own.terms, gains + ray + r,
                         powers + ray + r);
            backward(t, k, own.weights);
            scatter_features(k, m->levels, n8, at, rays * S, features);
        }
    }
    std::vector<float> gw(WEIGHTS, 0.0f), gx(m->views + 1, 0.0f);
    for (const Part &part : parts) {
        untile_all(part.weights, gw.data());
        for (int i = 0; i < TERMS; ++i) terms[i] += part.terms[i];
    }
    for (int r = 0; r < b->rays; ++r) {
        const int f = b->frame[r];
        if (f >= 0 && f < m->views) gx[f] += gains[r];
        gx[m->views] += powers[r];
    }
    double square = 0.0, check = 0.0;
    for (float g : gw) square += (double)g * g;
    for (float g : gx) square += (double)g * g;
    terms[TERM_NORM] = std::sqrt(square);  // of the nets and extras: a guard, not the whole gradient
    for (int i = 0; i < TERMS; ++i) check += terms[i];
    if (!std::isfinite(check)) return 1;

    const float clip = a && a->clip > 0.0f && terms[TERM_NORM] > a->clip
                           ? a->clip / (float)terms[TERM_NORM] : 1.0f;
    if (g_position) {
        std::fill(g_position, g_position + 3 * n, 0.0f);
        const int64_t piece = 4096;
#pragma omp parallel for schedule(static)
        for (int64_t p = 0; p < n; p += piece)
            for (int l = 0; l < levels; ++l)
                if (m->levels.scale[l] != 0.0f) encode_back_level(table_of(m, l), m->levels.res[l], m->levels.dense[l],
                                  mask_of(m->levels), x + p, x + n8 + p, x + 2 * n8 + p,
                                  std::min(piece, n - p), features + 2 * (l * n8 + p),
                                  g_position + p, g_position + n + p, g_position + 2 * n + p);
    }
    const int64_t row = (int64_t)2 << m->levels.log2_table;
    float *shared = a ? tables.get(row * levels) : nullptr;
#pragma omp parallel for schedule(dynamic, 1)
    for (int l = 0; l < levels; ++l) {
        if (m->levels.scale[l] == 0.0f) continue;
        const FlushDenormals flush;
        float *g = a ? shared + row * l : g_table + row * l;
        const int64_t side = m->levels.res[l] + 1;
        const int64_t used = m->levels.dense[l] ? 2 * side * side * side : row;
        if (a) std::fill(g, g + used, 0.0f);
        scatter_level(g, m->levels.res[l], m->levels.dense[l], mask_of(m->levels), x, x + n8,
                      x + 2 * n8, n, features + 2 * l * n8, clip);
        if (a)
            adam(m->table + row * l, g, a->table_m + row * l, a->table_v + row * l, used,
                 a->rate_table, *a, true, 0.0f);
    }
    if (a) {
        for (float &g : gw) g *= clip;
        for (float &g : gx) g *= clip;
        adam(m->weights, gw.data(), a->weights_m, a->weights_v, WEIGHTS, a->rate_weights, *a, false,
             0.0f);
        adam(m->extras, gx.data(), a->extras_m, a->extras_v, m->views + 1, a->rate_extras, *a,
             false, a->anchor);
    } else {
        for (int i = 0; i < WEIGHTS; ++i) g_weights[i] += gw[i];
        for (int i = 0; i <= m->views; ++i) g_extras[i] += gx[i];
    }
    return 0;
}

// Colour (rays, 3) as displayed, the z of three quantiles (rays, 3) of the transmittance, and the
// opacity before the last sample (rays). A quantile that falls into the last sample is its end.
int32_t field_render(const Model *m, const Batch *b, const float *quantiles, float *colour,
                     float *depth, float *opacity) {
    static thread_local Aligned scratch;
    const int S = b->samples, levels = m->levels.count;
    if (b->rays == 0) return 0;
    if (S < 1 || S > NB || 2 * levels > IN) return 2;
    const int64_t n = (int64_t)b->rays * S, n8 = round_up(n, 64);
    float *x = scratch.get((3 + 2 * levels) * n8), *features = x + 3 * n8;
    place_samples(b, n8, x);
    encode_all(m, x, n8, features);
    const int per_block = NB / S, blocks = (b->rays + per_block - 1) / per_block;
#pragma omp parallel for schedule(static)
    for (int block = 0; block < blocks; ++block) {
        const FlushDenormals flush;
        Block k;
        const int ray = block * per_block, rays = std::min(per_block, b->rays - ray);
        gather_features(features, m->levels, n8, (int64_t)ray * S, rays * S, k);
        forward(m, b, ray, rays, false, k);
        for (int r = 0; r < rays; ++r) {
            float weight[NB];
            const int at = r * S;
            weigh((const float *)k.pass + at, S, weight);
            const Shade shade = shade_of(m, b->frame[ray + r]);
            for (int c = 0; c < 3; ++c) {
                float lin = 0.0f;
                for (int i = 0; i < S; ++i)
                    lin += weight[i] * ((const float *)k.radiance)[c * NB + at + i];
                colour[3 * (ray + r) + c] = std::pow(shade.gain * lin + DISPLAY_EPS, shade.power);
            }
            opacity[ray + r] = 1.0f - weight[S - 1];
            const float *e = b->edges + (int64_t)(ray + r) * (S + 1);
            const float *tau = (const float *)k.tau + at;
            for (int q = 0; q < 3; ++q) {
                const float want = -std::log(1.0f - quantiles[q]);
                float sum = 0.0f, z = e[S];
                for (int i = 0; i < S - 1; ++i) {
                    if (sum + tau[i] >= want) {
                        z = e[i] + (e[i + 1] - e[i]) * ((want - sum) / tau[i]);
                        break;
                    }
                    sum += tau[i];
                }
                depth[3 * (ray + r) + q] = z;
            }
        }
    }
    return 0;
}

// Density (n) at points (n, 3) of the box, per reference depth.
void field_density(const Model *m, int64_t n, const float *points, float *density) {
    static thread_local Aligned scratch;
    const int64_t piece = 65536;
    for (int64_t p = 0; p < n; p += piece) {
        const int64_t many = std::min(piece, n - p), n8 = round_up(many, NB);
        float *x = scratch.get((3 + 2 * m->levels.count) * n8), *features = x + 3 * n8;
        for (int k = 0; k < 3; ++k)
            for (int64_t i = 0; i < n8; ++i)
                x[k * n8 + i] = i < many ? points[3 * (p + i) + k] : 0.5f;
        encode_all(m, x, n8, features);
#pragma omp parallel for schedule(static)
        for (int64_t at = 0; at < many; at += NB) {
            Block k;
            gather_features(features, m->levels, n8, at, NB, k);
            density_net(m->weights, k);
            for (int i = 0; i < NV; ++i) k.tau[i] = vexp(log_density(k.out[i]));
            memcpy(density + p + at, k.tau, std::min<int64_t>(NB, many - at) * sizeof(float));
        }
    }
}

// Features (n, 2 levels) at points (n, 3).
void field_encode(const Model *m, int64_t n, const float *points, float *features) {
    static thread_local Aligned scratch;
    const int levels = m->levels.count;
    const int64_t n8 = round_up(n, 64);
    float *x = scratch.get((3 + 2 * levels) * n8), *pairs = x + 3 * n8;
    for (int k = 0; k < 3; ++k)
        for (int64_t i = 0; i < n8; ++i) x[k * n8 + i] = i < n ? points[3 * i + k] : 0.5f;
    encode_all(m, x, n8, pairs);
    for (int64_t i = 0; i < n; ++i)
        for (int l = 0; l < levels; ++l)
            for (int k = 0; k < 2; ++k)
                features[(i * levels + l) * 2 + k] =
                    m->levels.scale[l] == 0.0f ? 0.0f
                                               : m->levels.scale[l] * pairs[2 * (l * n8 + i) + k];
}

// The size of the structs as this library sees them, so that the other side can check itself.
void field_sizes(int32_t *out) {
    out[0] = sizeof(Levels);
    out[1] = sizeof(Model);
    out[2] = sizeof(Batch);
    out[3] = sizeof(Adam);
    out[4] = sizeof(Sampler);
    out[5] = WEIGHTS;
}

}  // extern "C"
