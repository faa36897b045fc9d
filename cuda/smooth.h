// Semi-global smoothing over 8 directions (Hirschmueller 2008), in two passes over the rows: downwards
// with both horizontal paths, and upwards. Sums are whole numbers: their order does not matter.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

namespace endorecon {

typedef uint16_t vu __attribute__((vector_size(32)));  // 16 hypotheses
enum { VU = 16 };

static inline vu load(const uint16_t *p) {
    vu x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline vu least(vu a, vu b) { return a < b ? a : b; }

static inline uint16_t least(vu x) {
#ifdef __SSE4_1__
    __m128i half[2];
    memcpy(half, &x, sizeof x);
    return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(_mm_min_epu16(half[0], half[1])), 0);
#else
    uint16_t m = x[0];
    for (int i = 1; i < VU; ++i) m = std::min<uint16_t>(m, x[i]);
    return m;
#endif
}

// One row of path costs, (w, n) with a sentinel on each side of every pixel, and their least.
struct Paths {
    std::vector<uint16_t> cost, best;
    int n;
    Paths(int w, int n_) : cost((size_t)w * (n_ + 2), 60000), best(w), n(n_) {}
    uint16_t *at(int x) { return cost.data() + (size_t)x * (n + 2) + 1; }
};

// The path goes on from pixel xp of `from` (or starts: xp < 0) to pixel x of `to`.
static inline void walk(const uint16_t *C, Paths &from, int xp, Paths &to, int x, uint16_t p1,
                        uint16_t p2, uint16_t *S) {
    uint16_t *L = to.at(x);
    vu low = ~vu{};
    if (xp < 0) {
        for (int s = 0; s < to.n; s += VU) {
            const vu l = load(C + s), sum = load(S + s) + l;
            memcpy(L + s, &l, sizeof l);
            memcpy(S + s, &sum, sizeof sum);
            low = least(low, l);
        }
    } else {
        const uint16_t *P = from.at(xp);
        const uint16_t lp = from.best[xp];
        const vu far = vu{} + (uint16_t)(lp + p2), base = vu{} + lp;
        for (int s = 0; s < to.n; s += VU) {
            vu b = least(load(P + s), far);
            b = least(b, least(load(P + s - 1), load(P + s + 1)) + p1);
            const vu l = load(C + s) + b - base, sum = load(S + s) + l;
            memcpy(L + s, &l, sizeof l);
            memcpy(S + s, &sum, sizeof sum);
            low = least(low, l);
        }
    }
    to.best[x] = least(low);
}

// cost (h, w, n), n a multiple of 16, at most 4000 each; sum the same. A path starts anew where the
// log depth of the prior jumps or is unknown.
static void semi_global(const uint16_t *cost, const float *logz, int h, int w, int n, int p1, int p2,
                        float jump, uint16_t *sum) {
    Paths row(w, n);
    std::vector<Paths> before(3, row), now(3, row);
    for (int dy = 1; dy >= -1; dy -= 2)
        for (int j = 0; j < h; ++j) {
            const int y = dy > 0 ? j : h - 1 - j;
            const float *z = logz + (size_t)y * w, *zp = z - (std::ptrdiff_t)dy * w;
            const uint16_t *C = cost + (size_t)y * w * n;
            uint16_t *S = sum + (size_t)y * w * n;
            if (dy > 0) {
                std::fill(S, S + (size_t)w * n, (uint16_t)0);
                for (int x = 0; x < w; ++x) {
                    const bool on = x > 0 && std::fabs(z[x] - z[x - 1]) < jump;
                    walk(C + (size_t)x * n, row, on ? x - 1 : -1, row, x, p1, p2, S + (size_t)x * n);
                }
                for (int x = w - 1; x >= 0; --x) {
                    const bool on = x < w - 1 && std::fabs(z[x] - z[x + 1]) < jump;
                    walk(C + (size_t)x * n, row, on ? x + 1 : -1, row, x, p1, p2, S + (size_t)x * n);
                }
            }
            for (int dx = -1; dx <= 1; ++dx)
                for (int x = 0; x < w; ++x) {
                    const int xp = x - dx;
                    const bool on = j > 0 && xp >= 0 && xp < w && std::fabs(z[x] - zp[xp]) < jump;
                    walk(C + (size_t)x * n, before[dx + 1], on ? xp : -1, now[dx + 1], x, p1, p2,
                         S + (size_t)x * n);
                }
            std::swap(before, now);
        }
}

}  // namespace endorecon
