// Hash-grid encoding on the CPU, one level at a time: a table of 2^17 pairs (1 MB) then stays in the
// second-level cache (speed.md: 2x over one sample at a time). Scatter: one thread owns a level, so
// there are no races, no atomics, and the order of the sums never changes.
//
// Layout: positions x, y, z as three arrays; features of one level as pairs (n, 2).
#pragma once
#include "hashmlp.h"
#include "lanes.h"

typedef float quad __attribute__((vector_size(16)));
typedef double doubles __attribute__((vector_size(16)));
typedef int32_t quad_int __attribute__((vector_size(16)));
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

enum { PIECE = 64 };  // samples worked out ahead of the reads: store and load then never meet

struct Cells {  // rows and weights of a piece; both corners along x share one weight
    alignas(64) uint32_t row[8][PIECE];  // where a level is dense, odd corners follow even ones
    alignas(64) float side[4][PIECE], along[PIECE];
};

template <bool DENSE>
static inline void work_out(const float *x, const float *y, const float *z, int many, int res,
                            uint32_t mask, Cells &cells) {
    Corners c;
    for (int g = 0; g < many; g += G) {
        corners(x + g, y + g, z + g, res, DENSE, mask, c);
        const vg f1 = 1.0f - c.frac[1], f2 = 1.0f - c.frac[2];
        const vg w[4] = {f1 * f2, c.frac[1] * f2, f1 * c.frac[2], c.frac[1] * c.frac[2]};
        for (int q = 0; q < 4; ++q) memcpy(cells.side[q] + g, &w[q], sizeof(vg));
        for (int q = 0; q < 8; q += 1 + DENSE) memcpy(cells.row[q] + g, &c.row[q], sizeof(vg));
        memcpy(cells.along + g, &c.frac[0], sizeof(vg));
    }
}

// Features of samples [from, to) of one level; from and to are multiples of G.
template <bool DENSE>
static void encode_cells(const float *table, int res, uint32_t mask, const float *x, const float *y,
                         const float *z, int64_t from, int64_t to, float *out) {
    Cells c;
    for (int64_t i = from; i < to; i += PIECE) {
        const int many = to - i < PIECE ? (int)(to - i) : (int)PIECE;
        work_out<DENSE>(x + i, y + i, z + i, many, res, mask, c);
        for (int s = 0; s < many; ++s) {
            quad sum = {};
            for (int q = 0; q < 4; ++q) {
                const float *at = table + 2 * (int64_t)c.row[2 * q][s];
                if constexpr (DENSE) {
                    quad both;
                    memcpy(&both, at, 16);
                    sum += c.side[q][s] * both;
                } else {
                    double near, far;
                    memcpy(&near, at, 8);
                    memcpy(&far, table + 2 * (int64_t)c.row[2 * q + 1][s], 8);
                    sum += c.side[q][s] * (quad)doubles{near, far};
                }
            }
            const quad upper = __builtin_shuffle(sum, quad_int{2, 3, 2, 3});
            sum += c.along[s] * (upper - sum);
            memcpy(out + 2 * (i + s), &sum, 8);
        }
    }
}

static void encode_level(const float *table, int res, bool dense, uint32_t mask, const float *x,
                         const float *y, const float *z, int64_t from, int64_t to, float *out) {
    if (dense)
        encode_cells<true>(table, res, mask, x, y, z, from, to, out);
    else
        encode_cells<false>(table, res, mask, x, y, z, from, to, out);
}

// grad[row] += weight * d over samples [0, n), in the order of the samples; x, y, z and d are
// readable up to the next multiple of G.
template <bool DENSE>
static void scatter_cells(float *grad, int res, uint32_t mask, const float *x, const float *y,
                          const float *z, int64_t n, const float *d, float scale) {
    Cells c;
    for (int64_t i = 0; i < n; i += PIECE) {
        const int many = n - i < PIECE ? (int)(n - i) : (int)PIECE;
        work_out<DENSE>(x + i, y + i, z + i, many, res, mask, c);
        for (int s = 0; s < many; ++s) {
            const float *ds = d + 2 * (i + s);
            if (ds[0] == 0.0f && ds[1] == 0.0f) continue;
            const float a = ds[0] * scale, b = ds[1] * scale, f = c.along[s];
            const quad both = quad{a, b, a, b} * quad{1 - f, 1 - f, f, f};
            for (int q = 0; q < 4; ++q) {
                const quad add = c.side[q][s] * both;
                float *near = grad + 2 * (int64_t)c.row[2 * q][s];
                if constexpr (DENSE) {
                    quad g;
                    memcpy(&g, near, 16);
                    g += add;
                    memcpy(near, &g, 16);
                } else {
                    float *far = grad + 2 * (int64_t)c.row[2 * q + 1][s];
                    double old;
                    memcpy(&old, near, 8);
                    const doubles first = (doubles)((quad)doubles{old, 0.0} + add);
                    memcpy(near, &first, 8);
                    memcpy(&old, far, 8);
                    const doubles second = (doubles)(
                        (quad)doubles{old, 0.0} + __builtin_shuffle(add, quad_int{2, 3, 2, 3}));
                    memcpy(far, &second, 8);
                }
            }
        }
    }
}

static void scatter_level(float *grad, int res, bool dense, uint32_t mask, const float *x,
                          const float *y, const float *z, int64_t n, const float *d, float scale) {
    if (dense)
        scatter_cells<true>(grad, res, mask, x, y, z, n, d, scale);
    else
        scatter_cells<false>(grad, res, mask, x, y, z, n, d, scale);
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
