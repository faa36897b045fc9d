// Hash-grid encoding on the CPU, one level at a time: a table of 2^17 pairs (1 MB) then stays in the
// second-level cache (speed.md: 2x over one sample at a time). Scatter: one thread owns a level, so
// there are no races, no atomics, and the order of the sums never changes.
//
// Layout: positions x, y, z as three arrays; features of one level as pairs (n, 2).
#pragma once
#include "hashmlp.h"
#include "lanes.h"
#ifdef __AVX512F__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 warns of its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

typedef float pair __attribute__((vector_size(8)));
enum { G = 8 };  // samples whose corners are worked out together
typedef float vg __attribute__((vector_size(G * 4)));
typedef int32_t vgi __attribute__((vector_size(G * 4)));
typedef uint32_t vgu __attribute__((vector_size(G * 4)));

struct Corners {
    vgu row[8];
    vg weight[8];
    vg frac[3];
};

static inline vgu cells(vg x, int res, vg *frac) {  // cell_of() in lanes
    vg p = x * (float)res;
    p = p > 0.0f ? p : vg{};
    const vg top = (float)res - vg{}, last = (float)(res - 1) - vg{};
    p = p < top ? p : top;
    vg c = __builtin_convertvector(__builtin_convertvector(p, vgi), vg);  // p >= 0: trunc = floor
    c = c < last ? c : last;
    *frac = p - c;
    return (vgu)__builtin_convertvector(c, vgi);
}

static inline void corners(const float *x, const float *y, const float *z, int res, bool dense,
                           uint32_t mask, Corners &out) {
    vg p[3];
    memcpy(&p[0], x, sizeof(vg));
    memcpy(&p[1], y, sizeof(vg));
    memcpy(&p[2], z, sizeof(vg));
    vgu c[3];
    for (int k = 0; k < 3; ++k) c[k] = cells(p[k], res, &out.frac[k]);
    vgu ys[2], zs[2];
    const uint32_t side = (uint32_t)res + 1u;
    const uint32_t py = dense ? side : 2654435761u, pz = dense ? side * side : 805459861u;
    ys[0] = c[1] * py;
    ys[1] = ys[0] + py;
    zs[0] = c[2] * pz;
    zs[1] = zs[0] + pz;
    const vg f0 = 1.0f - out.frac[0], f1 = 1.0f - out.frac[1], f2 = 1.0f - out.frac[2];
    for (int k = 0; k < 8; ++k) {
        const vgu xx = c[0] + (uint32_t)(k & 1), yy = ys[k >> 1 & 1], zz = zs[k >> 2];
        out.row[k] = dense ? xx + yy + zz : (xx ^ yy ^ zz) & mask;
        out.weight[k] = (k & 1 ? out.frac[0] : f0) * (k & 2 ? out.frac[1] : f1) *
                        (k & 4 ? out.frac[2] : f2);
    }
}

// Features of samples [from, to) of one level; from and to are multiples of G.
static void encode_level(const float *table, int res, bool dense, uint32_t mask, const float *x,
                         const float *y, const float *z, int64_t from, int64_t to, float *out) {
    Corners c;
    for (int64_t i = from; i < to; i += G) {
        corners(x + i, y + i, z + i, res, dense, mask, c);
#ifdef __AVX512F__
        const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
        __m512 sum = _mm512_setzero_ps();
        for (int k = 0; k < 8; ++k) {
            const __m512d rows = _mm512_mask_i32gather_pd(_mm512_setzero_pd(), 0xff, (__m256i)c.row[k], table, 8);
            const __m512 w =
                _mm512_maskz_permutexvar_ps(0xffff, twice, _mm512_castps256_ps512((__m256)c.weight[k]));
            sum = _mm512_fmadd_ps(w, _mm512_castpd_ps(rows), sum);
        }
        _mm512_storeu_ps(out + 2 * i, sum);
#else
        for (int s = 0; s < G; ++s) {
            pair sum = {};
            for (int k = 0; k < 8; ++k) {
                pair row;
                memcpy(&row, table + 2 * (int64_t)c.row[k][s], 8);
                sum += c.weight[k][s] * row;
            }
            memcpy(out + 2 * (i + s), &sum, 8);
        }
#endif
    }
}

// grad[row] += weight * d over samples [0, n), in the order of the samples.
static void scatter_level(float *grad, int res, bool dense, uint32_t mask, const float *x,
                          const float *y, const float *z, int64_t n, const float *d, float scale) {
    Corners c;
    for (int64_t i = 0; i < n; i += G) {
        corners(x + i, y + i, z + i, res, dense, mask, c);
        const int many = n - i < G ? (int)(n - i) : (int)G;
        for (int s = 0; s < many; ++s) {
            pair ds;
            memcpy(&ds, d + 2 * (i + s), 8);
            if (ds[0] == 0.0f && ds[1] == 0.0f) continue;
            ds *= scale;
            for (int k = 0; k < 8; ++k) {
                float *at = grad + 2 * (int64_t)c.row[k][s];
                pair g;
                memcpy(&g, at, 8);
                g += c.weight[k][s] * ds;
                memcpy(at, &g, 8);
            }
        }
    }
}

// dx (3 arrays) += derivative of sum(features * d) of one level with respect to the position.
static void encode_back_level(const float *table, int res, bool dense, uint32_t mask,
                              const float *x, const float *y, const float *z, int64_t n,
                              const float *d, float *dx, float *dy, float *dz) {
    Corners c;
    for (int64_t i = 0; i < n; i += G) {
        corners(x + i, y + i, z + i, res, dense, mask, c);
        const int many = n - i < G ? (int)(n - i) : (int)G;
        for (int s = 0; s < many; ++s) {
            const float f[3] = {c.frac[0][s], c.frac[1][s], c.frac[2][s]};
            float grad[3] = {0, 0, 0};
            for (int k = 0; k < 8; ++k) {
                const float *row = table + 2 * (int64_t)c.row[k][s];
                const float v = row[0] * d[2 * (i + s)] + row[1] * d[2 * (i + s) + 1];
                const float wx = k & 1 ? f[0] : 1 - f[0], wy = k & 2 ? f[1] : 1 - f[1];
                const float wz = k & 4 ? f[2] : 1 - f[2];
                grad[0] += (k & 1 ? v : -v) * wy * wz;
                grad[1] += (k & 2 ? v : -v) * wx * wz;
                grad[2] += (k & 4 ? v : -v) * wx * wy;
            }
            const float *p[3] = {x + i + s, y + i + s, z + i + s};
            float *out[3] = {dx + i + s, dy + i + s, dz + i + s};
            for (int a = 0; a < 3; ++a)  // beyond the box the encoding is constant
                if (*p[a] >= 0.0f && *p[a] <= 1.0f) *out[a] += grad[a] * (float)res;
        }
    }
}
