// Placing the samples of one ray on the CPU: a coarse march through the distilled density grid, an
// even share, and a narrow band where a depth is known. Twin: sample_edges in endorecon/field/twin.py.
#pragma once
#include <algorithm>
#include <cmath>

#include "hashmlp.h"
#include "lanes.h"

static inline void sample_ray(const Sampler *s, int r, int samples, const float *origin,
                              const float *direction, const float *norm, const float *band,
                              const float *jitter, float *edges) {
    const FlushDenormals flush;
    enum { MOST = 1024, ROOM = MOST + 2 * VW };  // bins; arrays are read in whole vectors
    alignas(64) float cut[ROOM], weight[ROOM], p[ROOM], before[ROOM];
    const float *o = origin + 3 * r, *d = direction + 3 * r;
    float z0, z1;
    box_span(o, d, s->near_z, &z0, &z1);
    const int K = std::min(s->bins, (int)MOST), G3 = s->grid_res;
    const float a = std::sqrt(z0), b = std::sqrt(z1), step = (b - a) / (float)K;
    vf lane;
    for (int i = 0; i < VW; ++i) lane[i] = (float)i;
    for (int k = 0; k <= K; k += VW) {  // bins even in sqrt z
        const vf at = lane + (float)k, root = a + step * (at < (float)K ? at : splat((float)K));
        store(cut + k, root * root);
    }
    std::fill(cut + K + 1, cut + K + 1 + VW, cut[K]);
    vf depth = {};
    for (int k = 0; k < K; k += VW) {  // transmittance before each bin
        const vf first = load(cut + k), next = load(cut + k + 1), z = 0.5f * (first + next);
        vi at = {};
        for (int c = 0; c < 3; ++c) {
            vf q = (o[c] + z * d[c]) * (float)G3;
            q = q > 0.0f ? q : vf{};
            q = q < (float)G3 ? q : splat((float)G3);
            const vi i = __builtin_convertvector(q, vi);
            at = at * G3 + (i < G3 ? i : vi{} + (G3 - 1));
        }
        vf density;
        for (int i = 0; i < VW; ++i) density[i] = s->grid[at[i]];
        const vf here = density * (next - first) * norm[r], sum = running(here);
        store(weight + k, vexp(here - sum - depth));
        depth += sum[VW - 1];
    }
    const float last = std::exp(-depth[0]);  // spare bins have no length: depth ends at bin K
    std::fill(weight + K, weight + K + VW, last);
    for (int k = 0; k < K; k += VW) {  // what each bin takes
        const vf taken = load(weight + k) - load(weight + k + 1);
        store(p + 1 + k, taken > 0.0f ? taken : vf{});
    }
    p[0] = 0.0f;
    std::fill(p + 1 + K, p + 1 + K + VW, 0.0f);
    vf total = {};
    for (int k = 0; k < K; k += VW) {  // the largest of itself and its neighbours
        const vf l = load(p + k), m = load(p + k + 1), h = load(p + k + 2);
        vf top = l > m ? l : m;
        top = top > h ? top : h;
        top = lane + (float)k < (float)K ? top : vf{};
        store(weight + k, top);
        total += running(top)[VW - 1];
    }
    const float sum = total[0];
    const float even = sum > 1e-6f ? s->uniform_share : 1.0f;
    const float scale = sum > 1e-6f ? (1.0f - even) / sum : 0.0f;
    const bool banded = band && band[2 * r] < band[2 * r + 1];
    const int inner = samples - 1, in_band = banded ? (int)(s->band_share * inner) : 0;
    const int in_grid = inner - in_band;
    // Edge j lies where the cumulated share reaches (j + jitter) / in_grid; start: first j of a bin.
    int32_t start[ROOM], bin[NB + 1] = {};
    vf cdf = {};
    for (int k = 0; k < K; k += VW) {
        const vf share = load(weight + k) * scale + even / (float)K, upto = running(share);
        const vf low = upto - share + cdf;
        store(p + k, share);
        store(before + k, low);
        vf first = low * (float)in_grid - jitter[r] + 1.0f;
        first = first > 0.0f ? first : vf{};
        first = first < (float)in_grid ? first : splat((float)in_grid);
        const vi j = __builtin_convertvector(first, vi);
        memcpy(start + k, &j, sizeof j);
        cdf += upto[VW - 1];
    }
    start[0] = 0;
    for (int k = 0; k < K; ++k) bin[start[k]] = k;
    float found[NB], *e = edges + (int64_t)r * (samples + 1);
    for (int j = 0, k = 0; j < in_grid; ++j) {
        k = std::max(k, bin[j]);
        const float want = ((float)j + jitter[r]) / (float)in_grid;
        const float f = p[k] > 0.0f ? std::min(std::max((want - before[k]) / p[k], 0.0f), 1.0f) : 0.0f;
        found[j] = cut[k] + f * (cut[k + 1] - cut[k]);
    }
    e[0] = z0;
    e[samples] = z1;
    int i = 0, j = 0;
    for (int q = 1; q <= inner; ++q) {  // merge two sorted lists
        float zb = 1e30f;
        if (j < in_band) {
            const float f = ((float)j + jitter[r]) / (float)in_band;
            zb = band[2 * r] + f * (band[2 * r + 1] - band[2 * r]);
            zb = std::min(std::max(zb, z0), z1);
        }
        if (j < in_band && (i >= in_grid || zb < found[i])) {
            e[q] = zb;
            ++j;
        } else {
            e[q] = found[i++];
        }
    }
}
