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
    float weight[1024], cut[1025];
    const float *o = origin + 3 * r, *d = direction + 3 * r;
    float z0, z1;
    box_span(o, d, s->near_z, &z0, &z1);
    const int K = std::min(s->bins, 1024), G3 = s->grid_res;
    const float a = std::sqrt(z0), b = std::sqrt(z1);
    for (int k = 0; k <= K; ++k) {
        const float root = a + (b - a) * ((float)k / (float)K);
        cut[k] = root * root;
    }
    float depth = 0.0f;
    for (int k = 0; k < K; ++k) {
        const float z = 0.5f * (cut[k] + cut[k + 1]);
        int64_t at = 0;
        for (int c = 0; c < 3; ++c) {
            float p = (o[c] + z * d[c]) * (float)G3;
            p = p > 0.0f ? p : 0.0f;
            at = at * G3 + std::min((int)std::min(p, 1e6f), G3 - 1);
        }
        weight[k] = depth;
        depth += s->grid[at] * (cut[k + 1] - cut[k]) * norm[r];
    }
    for (int k = 0; k < K; k += VW) {  // depth before each bin -> transmittance there
        vf t = {};
        for (int i = 0; i < VW && k + i < K; ++i) t[i] = -weight[k + i];
        t = vexp(t);
        for (int i = 0; i < VW && k + i < K; ++i) weight[k + i] = t[i];
    }
    const float last = std::exp(-depth);
    float sum = 0.0f, before = 0.0f;
    for (int k = 0; k < K; ++k)
        weight[k] = std::max(weight[k] - (k + 1 < K ? weight[k + 1] : last), 0.0f);
    for (int k = 0; k < K; ++k) {  // the larger of itself and its neighbours
        const float here = weight[k], next = k + 1 < K ? weight[k + 1] : 0.0f;
        weight[k] = std::max(std::max(before, here), next);
        before = here;
        sum += weight[k];
    }
    const float even = sum > 1e-6f ? s->uniform_share : 1.0f;
    const float scale = sum > 1e-6f ? (1.0f - even) / sum : 0.0f;
    const bool banded = band && band[2 * r] < band[2 * r + 1];
    const int inner = samples - 1, in_band = banded ? (int)(s->band_share * inner) : 0;
    const int in_grid = inner - in_band;
    float found[NB], *e = edges + (int64_t)r * (samples + 1);
    float cdf = 0.0f;
    int k = 0;
    for (int j = 0; j < in_grid; ++j) {
        const float want = ((float)j + jitter[r]) / (float)in_grid;
        float p = weight[k] * scale + even / (float)K;
        while (k < K - 1 && cdf + p < want) {
            cdf += p;
            ++k;
            p = weight[k] * scale + even / (float)K;
        }
        const float f = std::min(std::max((want - cdf) / p, 0.0f), 1.0f);
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
