// Depth against real neighbour frames: plane-parallel sweep around a prior, masked NCC, semi-global
// smoothing of the relative depth, sub-step parabola; and the cross-view fusion of depth maps.
// One call is one reference frame on one thread: frames run side by side, results do not depend on
// the number of threads. The plain twin is endorecon/refine/twin.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "consensus.h"
#include "correlate.h"
#include "smooth.h"
#include "sweep.h"

using endorecon::Reference;
using endorecon::Strip;
using endorecon::View;
using endorecon::Warp;

extern "C" {

// ref, images: gray, high-passed, any range. weights: 0 = masked. z0: prior, <= 0 or NaN = unknown.
// images, weights: (views, fine h, fine w). band: half width of the search in t. warps: (views, 12),
// to pixels of the images. Hypotheses: t = band * u, u in [-1, 1].
// Out (h, w): z, score (mean NCC of the views that agree), curvature (d2 cost / dt2), support
// (number of views that agree), edge (1 = the best hypothesis lies on the rim of the band).
int endorecon_sweep(int h, int w, const float* ref, const float* ref_weight, const float* z0,
                    const float* band, int views, int fine, const float* images,
                    const float* weights, const float* warps, int steps, int radius, float noise2,
                    float p1, float p2, float jump, float* z, float* score, float* curvature,
                    float* support, uint8_t* edge) {
    if (h < 2 || w < 2 || steps < 5 || radius < 1 || views < 1 || fine < 1) return 1;
    const FlushDenormals flush;
    const size_t P = (size_t)h * w;
    std::vector<float> iz0(P), wt(P), logz(P), mass(P), good(P);
    std::vector<uint8_t> known(P);
    for (size_t i = 0; i < P; i++) {
        known[i] = z0[i] > 0.0f && std::isfinite(z0[i]);
        iz0[i] = known[i] ? 1.0f / z0[i] : 1.0f;
        wt[i] = known[i] ? ref_weight[i] : 0.0f;
        logz[i] = known[i] ? std::log(z0[i]) : NAN;
    }
    const int V = (steps + VW - 1) / VW;
    const float du = 2.0f / (steps - 1);
    std::vector<vf> where(V), total(P * V);
    for (int s = 0; s < V * VW; s++) where[s / VW][s % VW] = -1.0f + du * std::min(s, steps - 1);
    const Reference reference{h, w, radius, steps, fine, noise2, ref, wt.data(), iz0.data(), band,
                              known.data(), where};
    const size_t F = P * fine * fine;
    std::vector<float> coded((size_t)views * F);
    std::vector<View> seen(views);
    for (int v = 0; v < views; v++) {
        std::memcpy(seen[v].warp.m, warps + 12 * v, sizeof seen[v].warp.m);
        const float *image = images + F * v, *weight = weights + F * v;
        seen[v].binary = std::all_of(weight, weight + F, [](float a) { return a == 0 || a == 1; });
        seen[v].weight = weight;
        seen[v].grey = seen[v].binary ? &coded[F * v] : image;
        if (seen[v].binary)
            for (size_t i = 0; i < F; i++) coded[F * v + i] = weight[i] > 0.0f ? image[i] : NAN;
    }
    const int columns = Strip::columns(radius, V);
    const int strips = (w + columns - 1) / columns;
    for (int k = 0; k < strips; k++) {
        Strip strip(reference, w * k / strips, w * (k + 1) / strips);
        for (const View& view : seen) strip.run(view, {total.data(), mass.data(), good.data()});
    }

    const int n = (steps + 15) / 16 * 16;
    std::vector<uint16_t> cost(P * n), sum(P * n);
    for (size_t i = 0; i < P; i++) {
        float* c = (float*)&total[i * V];
        const float share = mass[i];
        for (int s = 0; s < steps; s++) c[s] = share > 0.0f ? c[s] / share : 1.0f;
        for (int s = 0; s < steps; s++)
            cost[i * n + s] = (uint16_t)(std::min(std::max(c[s], 0.0f), 2.0f) * 1000.0f + 0.5f);
        for (int s = steps; s < n; s++) cost[i * n + s] = 4000;
    }
    endorecon::semi_global(cost.data(), logz.data(), h, w, n, (int)p1, (int)p2, jump, sum.data());
    for (size_t i = 0; i < P; i++) {
        z[i] = NAN;
        score[i] = curvature[i] = support[i] = 0.0f;
        edge[i] = 0;
        if (!(mass[i] > 0.0f) || !known[i]) continue;
        const uint16_t* S = sum.data() + i * n;
        const float* C = (const float*)&total[i * V];
        int k = 0;
        for (int s = 1; s < steps; s++)
            if (S[s] < S[k]) k = s;
        // The raw cost is sharper than its smoothed sum: its nearest local minimum decides.
        for (int hop = 0; hop < 2; hop++) {
            int b = k;
            if (k > 0 && C[k - 1] < C[b]) b = k - 1;
            if (k + 1 < steps && C[k + 1] < C[b]) b = k + 1;
            if (b == k) break;
            k = b;
        }
        edge[i] = k < 1 || k > steps - 2;
        const int k0 = std::min(std::max(k, 2), steps - 3);
        float offset = 0.0f, a2 = 0.0f, base = C[k];
        float t = -1.0f + du * k;
        if (endorecon::parabola5(C + k0 - 2, offset, a2, base) && std::fabs(offset + k0 - k) <= 1.5f)
            t = -1.0f + du * (k0 + offset);
        else
            base = C[k];
        const float iz = iz0[i] * (1.0f + band[i] * t);
        if (!(iz > 0.0f)) continue;
        z[i] = 1.0f / iz;
        score[i] = 1.0f - base;
        const float unit = std::max(band[i] * du, 1e-9f);
        curvature[i] = std::max(a2, 0.0f) / (unit * unit);
        support[i] = good[i];
    }
    return 0;
}

// Cross-view fusion. For each pixel of the reference, each other depth map that sees its point
// gives its own estimate of the depth on the same ray; those within `tolerance` (relative) or three
// joint sigmas are averaged with weights 1 / sigma^2. warps: ref -> view, back: view -> ref.
// Out: z, spread (weighted standard deviation of the estimates), agree, against, behind counts.
int endorecon_fuse(int h, int w, const float* z, const float* sigma, int views, const float* zs,
                   const float* sigmas, const float* warps, const float* back, float tolerance,
                   float* z_out, float* spread, float* sigma_out, float* agree, float* against) {
    const size_t P = (size_t)h * w;
    std::vector<float> estimate(views), weight(views);
    for (size_t i = 0; i < P; i++) {
        z_out[i] = z[i];
        sigma_out[i] = sigma[i];
        spread[i] = agree[i] = against[i] = 0.0f;
        if (!(z[i] > 0.0f)) continue;
        const float px = (i % w) + 0.5f, py = (float)(i / w) + 0.5f;
        const float s0 = std::max(sigma[i], 1e-6f * z[i]);
        float W = 1.0f / (s0 * s0), M = W * z[i], M2 = 0.0f;
        size_t count = 0;
        for (int v = 0; v < views; v++) {
            Warp q, b;
            std::memcpy(q.m, warps + 12 * v, sizeof q.m);
            std::memcpy(b.m, back + 12 * v, sizeof b.m);
            endorecon::Meeting m;
            if (!endorecon::meet(h, w, px, py, z[i], q, b, zs + P * v, sigmas + P * v, 3, 0.0f, m))
                continue;
            const float guess = m.z, sv = m.sigma;
            const float gap = std::fabs(guess - z[i]);
            const float joint = std::sqrt(s0 * s0 + sv * sv);
            if (gap <= std::max(tolerance * z[i], 3.0f * joint) && gap <= 4.0f * tolerance * z[i]) {
                const float wv = 1.0f / std::max(sv * sv, 1e-12f * z[i] * z[i]);
                estimate[count] = guess;
                weight[count++] = wv;
                agree[i] += 1.0f;
            } else if (m.first > -4.0f * tolerance) {
                against[i] += 1.0f;  // the view sees past the point: it contradicts it
            }                        // nearer: the point is hidden there, which is no contradiction
        }
        for (size_t k = 0; k < count; k++) {
            W += weight[k];
            M += weight[k] * estimate[k];
        }
        const float mean = M / W;
        M2 = (z[i] - mean) * (z[i] - mean) / (s0 * s0);
        for (size_t k = 0; k < count; k++)
            M2 += weight[k] * (estimate[k] - mean) * (estimate[k] - mean);
        z_out[i] = mean;
        spread[i] = std::sqrt(M2 / W);
        sigma_out[i] = std::sqrt(1.0f / W);
    }
    return 0;
}

// What all maps say of each pixel of one, see consensus.h. Out (h, w): z, spread, least, count.
int endorecon_consensus(int h, int w, const float* z, const float* sigma, int views,
                        const float* zs, const float* sigmas, const float* warps, const float* back,
                        float settled, float* z_out, float* spread, float* least, float* count) {
    if (views > endorecon::MOST_MAPS) return 1;
    std::vector<Warp> there(views), here(views);
    for (int v = 0; v < views; v++) {
        std::memcpy(there[v].m, warps + 12 * v, sizeof there[v].m);
        std::memcpy(here[v].m, back + 12 * v, sizeof here[v].m);
    }
    const endorecon::Maps maps{h, w, views, zs, sigmas, there.data(), here.data()};
    const size_t P = (size_t)h * w;
    for (size_t i = 0; i < P; i++) {
        const auto said = endorecon::consensus(maps, (int)i, z[i], sigma[i], settled);
        z_out[i] = said.z;
        spread[i] = said.spread;
        least[i] = said.least;
        count[i] = said.count;
    }
    return 0;
}

}  // extern "C"
