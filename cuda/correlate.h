// One reference frame against one view: masked NCC of every hypothesis of every pixel, in windows.
// Lanes are hypotheses of one pixel, so that masked pixels cost nothing, the samples of a vector lie
// side by side on an epipolar line, and the costs come out in the order that smoothing reads.
// A strip of columns is walked row by row with running vertical sums that stay in the caches.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"
#include "sweep.h"
#ifdef __AVX512F__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 warns of its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace endorecon {

struct Reference {  // what is the same for all views; arrays (h, w)
    int h, w, radius, steps;
    int fine;  // the views' pictures are so many times as large
    float noise2;
    const float *grey, *weight, *iz0, *band;
    const uint8_t *known;   // 1: the prior is known, so an answer is wanted
    std::vector<vf> where;  // hypotheses u in [-1, 1], the last one repeated in the spare lanes
};

struct View {
    Warp warp;
    const float *grey;    // NaN where masked, if `binary`
    const float *weight;  // used only where not `binary`
    bool binary;
};

struct Votes {  // arrays (h, w), cost (h, w, vectors): what the views say together
    vf *cost;
    float *mass, *good;
};

struct Quad {
    vf a, b, c, d;  // the four pixels round a point: this row's pair, the next row's
};

// image[k], [k + 1], [k + w], [k + w + 1] in every lane.
static inline Quad quads(const float *image, int w, vi k) {
    vi even, odd;
    for (int i = 0; i < VW; ++i) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
    vf pairs[2][2];
#ifdef __AVX512F__
    const __m256i half[2] = {_mm512_castsi512_si256((__m512i)k),
                             _mm512_extracti64x4_epi64((__m512i)k, 1)};
    for (int row = 0; row < 2; ++row)
        for (int i = 0; i < 2; ++i)
            pairs[row][i] = (vf)_mm512_mask_i32gather_pd(_mm512_setzero_pd(), 0xff, half[i],
                                                         image + row * w, 4);
#else
    for (int i = 0; i < VW; ++i) {
        memcpy((float *)pairs[0] + 2 * i, image + k[i], 8);
        memcpy((float *)pairs[1] + 2 * i, image + k[i] + w, 8);
    }
#endif
    return {__builtin_shuffle(pairs[0][0], pairs[0][1], even),
            __builtin_shuffle(pairs[0][0], pairs[0][1], odd),
            __builtin_shuffle(pairs[1][0], pairs[1][1], even),
            __builtin_shuffle(pairs[1][0], pairs[1][1], odd)};
}

static inline vf least(vf a, vf b) { return a < b ? a : b; }

static inline bool any(vi x) {
    int64_t parts[VW / 2], all = 0;
    memcpy(parts, &x, sizeof x);
    for (int64_t p : parts) all |= p;
    return all != 0;
}

static inline float greatest(const vf *x, int count) {
    vf m = x[0];
    for (int g = 1; g < count; ++g) m = m > x[g] ? m : x[g];
    float top = m[0];
    for (int i = 1; i < VW; ++i) top = std::max(top, m[i]);
    return top;
}

class Strip {  // columns [x0, x1) of the reference
    enum { Q = 6 };  // sums of m, m I, m I I, m W, m W W, m I W
    const Reference &ref;
    const int x0, x1, first, width, rows, vectors, ring;
    std::vector<vf> kept, sums, pairs, answers;
    std::vector<uint8_t> live;  // (width, rows): whether `kept` holds anything there

    vf *kept_at(int x, int slot) { return &kept[((size_t)x * rows + slot) * 2 * vectors]; }
    vf *sums_at(int x) { return &sums[(size_t)x * Q * vectors]; }
    vf *pairs_at(int x) { return &pairs[(size_t)(x & (ring - 1)) * Q * vectors]; }

    static int power_above(int n) {
        int p = 1;
        while (p < n) p *= 2;
        return p;
    }

    // Mask and sample (m, W) of one pixel at the hypotheses of vector g; false: all out of sight.
    bool warp(const View &view, float a0, float b0, float c0, float iz, float band, int g, float wt,
              vf &m, vf &W) const {
        const float *q = view.warp.m;
        const vf t = iz * (1.0f + band * ref.where[g]);
        const vf c = c0 + q[11] * t, r = 1.0f / c;
        vf u = (a0 + q[3] * t) * r - 0.5f, v = (b0 + q[7] * t) * r - 0.5f;
        const int vh = ref.fine * ref.h, vw = ref.fine * ref.w;
        vi in = (c > 1e-6f) & (u >= 0.0f) & (v >= 0.0f) & (u <= vw - 1.001f) & (v <= vh - 1.001f);
        if (!any(in)) return false;
        u = in ? u : vf{};
        v = in ? v : vf{};
        const vi iu = __builtin_convertvector(u, vi), iv = __builtin_convertvector(v, vi);
        const vf fu = u - __builtin_convertvector(iu, vf), fv = v - __builtin_convertvector(iv, vf);
        const vi k = iv * vw + iu;
        const Quad p = quads(view.grey, vw, k);
        const vf upper = p.a + fu * (p.b - p.a), lower = p.c + fu * (p.d - p.c);
        W = upper + fv * (lower - upper);
        m = splat(wt);
        if (!view.binary) {
            const Quad s = quads(view.weight, vw, k);
            m *= least(least(s.a, s.b), least(s.c, s.d));
        }
        in &= W == W;
        m = in ? m : vf{};
        W = in ? W : vf{};
        return true;
    }

    // Row y enters the vertical sums, row y - rows leaves them.
    void advance(const View &view, int y) {
        const int slot = y % rows;
        const float py = (float)y + 0.5f, *q = view.warp.m;
        for (int x = std::max(0, -first); x < std::min(width, ref.w - first); ++x) {
            const size_t at = (size_t)y * ref.w + first + x;
            const bool enters = y < ref.h && ref.weight[at] > 0.0f;
            uint8_t &alive = live[(size_t)x * rows + slot];
            if (!enters && !alive) continue;
            vf *s = sums_at(x), *k = kept_at(x, slot);
            if (alive) {
                const float I = ref.grey[at - (size_t)rows * ref.w];
                for (int g = 0; g < vectors; ++g) {
                    const vf m = k[2 * g], W = k[2 * g + 1], mi = m * I, mw = m * W;
                    vf *o = s + Q * g;
                    o[0] -= m;
                    o[1] -= mi;
                    o[2] -= mi * I;
                    o[3] -= mw;
                    o[4] -= mw * W;
                    o[5] -= mi * W;
                }
            }
            alive = 0;
            if (!enters) continue;
            const float I = ref.grey[at], px = (float)(first + x) + 0.5f;
            const float a0 = q[0] * px + q[1] * py + q[2], b0 = q[4] * px + q[5] * py + q[6];
            const float c0 = q[8] * px + q[9] * py + q[10];
            for (int g = 0; g < vectors; ++g) {
                vf m = {}, W = {};
                if (warp(view, a0, b0, c0, ref.iz0[at], ref.band[at], g, ref.weight[at], m, W)) {
                    const vf mi = m * I, mw = m * W;
                    vf *o = s + Q * g;
                    o[0] += m;
                    o[1] += mi;
                    o[2] += mi * I;
                    o[3] += mw;
                    o[4] += mw * W;
                    o[5] += mi * W;
                    alive = 1;
                }
                k[2 * g] = m;
                k[2 * g + 1] = W;
            }
        }
    }

    // NCC of output row y from the vertical sums: -2 where too little of the window is seen.
    void answer(int y, const Votes &votes) {
        const size_t row = (size_t)y * ref.w;
        int lo = x0, hi = x1;
        while (lo < hi && !ref.known[row + lo]) ++lo;
        while (lo < hi && !ref.known[row + hi - 1]) --hi;
        if (lo == hi) return;
        const int r = ref.radius;
        const float need = 0.35f * (float)(rows * rows);
        for (int x = lo - r - first; x < hi + r - first; ++x) {
            const vf *here = sums_at(x), *left = x > 0 ? sums_at(x - 1) : here;
            vf *pair = pairs_at(x);
            for (int i = 0; i < Q * vectors; ++i) pair[i] = here[i] + left[i];
            const int out = x + first - r;
            if (out < lo || !ref.known[row + out]) continue;
            const vf *last = sums_at(x - 2 * r);
            for (int g = 0; g < vectors; ++g) {
                vf s[Q];
                for (int k = 0; k < Q; ++k) s[k] = last[Q * g + k] + pair[Q * g + k];
                for (int j = 1; j < r; ++j) {
                    const vf *p = pairs_at(x - 2 * j) + Q * g;
                    for (int k = 0; k < Q; ++k) s[k] += p[k];
                }
                const vf inv = 1.0f / (s[0] > 1e-6f ? s[0] : splat(1e-6f));
                const vf mi = s[1] * inv, mw = s[3] * inv;
                const vf ai = s[2] * inv - mi * mi, aw = s[4] * inv - mw * mw;
                const vf vi_ = ai > 0.0f ? ai : vf{}, vw = aw > 0.0f ? aw : vf{};
                const vf c = (s[5] * inv - mi * mw) /
                             root((vi_ + ref.noise2) * (vw + ref.noise2));
                answers[g] = s[0] >= need ? c : splat(-2.0f);
            }
            vote(row + out, votes);
        }
    }

    // A view that never agrees is occluded or reflecting: it hardly counts.
    void vote(size_t at, const Votes &votes) const {
        const float best = greatest(answers.data(), vectors);
        if (!(best > -1.5f)) return;
        const float t = std::min(std::max((best - 0.3f) / 0.5f, 0.0f), 1.0f);
        const float share = 0.02f + t * t * (3.0f - 2.0f * t);
        votes.mass[at] += share;
        votes.good[at] += share > 0.25f ? 1.0f : 0.0f;
        vf *cost = votes.cost + at * vectors;
        for (int g = 0; g < vectors; ++g)
            cost[g] += share * (answers[g] > -1.5f ? 1.0f - answers[g] : splat(1.0f));
    }

   public:
    Strip(const Reference &ref_, int from, int to)
        : ref(ref_), x0(from), x1(to), first(from - ref_.radius), width(to - from + 2 * ref_.radius),
          rows(2 * ref_.radius + 1), vectors((int)ref_.where.size()), ring(power_above(rows)),
          kept((size_t)width * rows * 2 * vectors), sums((size_t)width * Q * vectors),
          pairs((size_t)ring * Q * vectors), answers(vectors), live((size_t)width * rows) {}

    // How many columns keep the running sums within half a megabyte.
    static int columns(int radius, int vectors) {
        const int bytes = ((2 * radius + 1) * 2 + Q) * vectors * (int)sizeof(vf);
        return std::max(16, (512 << 10) / bytes - 2 * radius);
    }

    void run(const View &view, const Votes &votes) {
        std::fill(sums.begin(), sums.end(), vf{});
        std::fill(live.begin(), live.end(), 0);
        for (int y = 0; y < ref.h + ref.radius; ++y) {
            advance(view, y);
            if (y >= ref.radius) answer(y - ref.radius, votes);
        }
    }
};

}  // namespace endorecon
