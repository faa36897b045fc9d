// Depth against real neighbour frames: plane-parallel sweep around a prior, masked NCC, semi-global
// smoothing of the relative depth, sub-step parabola; and the cross-view fusion of depth maps.
// One call is one reference frame on one thread: frames run side by side, results do not depend on
// the number of threads. The plain twin is endorecon/refine_twin.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sweep.h"

using endorecon::Warp;

namespace {

// One hypothesis of one view, warped and correlated, row by row with running vertical sums.
struct Correlator {
    int h, w, r;
    std::vector<float> ring, vsum, sums;
    static constexpr int Q = 6;  // m, mI, mII, mW, mWW, mIW

    Correlator(int h_, int w_, int r_)
        : h(h_), w(w_), r(r_), ring((size_t)(2 * r_ + 1) * Q * w_), vsum((size_t)Q * (w_ + 2 * r_)),
          sums((size_t)Q * w_) {}

    void warp_row(int y, const float* ref, const float* weight, const float* iz0, const float* band,
                  float u_s, const Warp& q, const float* __restrict img,
                  const float* __restrict img_weight, float* __restrict out) {
        const float py = y + 0.5f;
        const float wmax = w - 1.001f, hmax = h - 1.001f;
        float* __restrict m = out;
        float* __restrict mi = out + w;
        float* __restrict mii = out + 2 * w;
        float* __restrict mw = out + 3 * w;
        float* __restrict mww = out + 4 * w;
        float* __restrict miw = out + 5 * w;
        const size_t o = (size_t)y * w;
        const float* I = ref + o;
        const float* wt = weight + o;
        const float* z = iz0 + o;
        const float* bd = band + o;
#pragma GCC ivdep
        for (int x = 0; x < w; x++) {
            const float iz = z[x] * (1.0f + bd[x] * u_s);
            float u, v, c;
            endorecon::project(q, x + 0.5f, py, iz, u, v, c);
            u -= 0.5f;
            v -= 0.5f;
            const bool in = c > 1e-6f && u >= 0.0f && v >= 0.0f && u <= wmax && v <= hmax;
            const float uc = in ? u : 0.0f, vc = in ? v : 0.0f;
            const int iu = (int)uc, iv = (int)vc;
            const float fu = uc - iu, fv = vc - iv;
            const int k = iv * w + iu;
            const float a = img[k] + fu * (img[k + 1] - img[k]);
            const float b = img[k + w] + fu * (img[k + w + 1] - img[k + w]);
            const float W = a + fv * (b - a);
            const float g = std::min(std::min(img_weight[k], img_weight[k + 1]),
                                     std::min(img_weight[k + w], img_weight[k + w + 1]));
            const float mm = in ? wt[x] * g : 0.0f;
            m[x] = mm;
            mi[x] = mm * I[x];
            mii[x] = mm * I[x] * I[x];
            mw[x] = mm * W;
            mww[x] = mm * W * W;
            miw[x] = mm * I[x] * W;
        }
    }

    // ncc (h, w), invalid = -2
    void run(const float* ref, const float* weight, const float* iz0, const float* band, float u_s,
             const Warp& q, const float* img, const float* img_weight, float noise2, float* ncc) {
        const int n = 2 * r + 1, wp = w + 2 * r;
        std::fill(vsum.begin(), vsum.end(), 0.0f);
        std::fill(ring.begin(), ring.end(), 0.0f);
        const float need = 0.35f * n * n;
        for (int y = 0; y < h + r; y++) {
            float* slot = ring.data() + (size_t)(y % n) * Q * w;
            for (int k = 0; k < Q; k++) {
                float* s = vsum.data() + (size_t)k * wp + r;
                const float* old = slot + (size_t)k * w;
                for (int x = 0; x < w; x++) s[x] -= old[x];
            }
            if (y < h)
                warp_row(y, ref, weight, iz0, band, u_s, q, img, img_weight, slot);
            else
                std::fill(slot, slot + (size_t)Q * w, 0.0f);
            for (int k = 0; k < Q; k++) {
                float* s = vsum.data() + (size_t)k * wp + r;
                const float* now = slot + (size_t)k * w;
                for (int x = 0; x < w; x++) s[x] += now[x];
            }
            const int yo = y - r;
            if (yo < 0) continue;
            float* out = ncc + (size_t)yo * w;
            for (int k = 0; k < Q; k++) {  // horizontal sums, one quantity at a time: vectorises
                const float* v0 = vsum.data() + (size_t)k * wp;
                float* t = sums.data() + (size_t)k * w;
                for (int x = 0; x < w; x++) t[x] = v0[x] + v0[x + n - 1];
                for (int d = 1; d < n - 1; d++)
                    for (int x = 0; x < w; x++) t[x] += v0[x + d];
            }
            const float* __restrict s0 = sums.data();
            const float* __restrict s1 = s0 + w;
            const float* __restrict s2 = s1 + w;
            const float* __restrict s3 = s2 + w;
            const float* __restrict s4 = s3 + w;
            const float* __restrict s5 = s4 + w;
#pragma GCC ivdep
            for (int x = 0; x < w; x++) {
                const float m = s0[x] > 1e-6f ? s0[x] : 1e-6f;
                const float inv = 1.0f / m;
                const float mi = s1[x] * inv, mw = s3[x] * inv;
                const float ai = s2[x] * inv - mi * mi, aw = s4[x] * inv - mw * mw;
                const float vi = ai > 0.0f ? ai : 0.0f, vw = aw > 0.0f ? aw : 0.0f;
                const float c = (s5[x] * inv - mi * mw) / std::sqrt((vi + noise2) * (vw + noise2));
                out[x] = s0[x] >= need ? c : -2.0f;
            }
        }
    }
};

// Semi-global smoothing over 8 directions (Hirschmueller 2008) of cost (h, w, n) into sum.
void semi_global(const uint16_t* cost, const float* logz, int h, int w, int n, int p1, int p2,
                 float jump, uint16_t* sum) {
    const int dirs[8][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}, {1, -1}, {-1, 1}};
    const int np = n + 2;
    std::vector<uint16_t> before((size_t)w * np), now((size_t)w * np);
    std::vector<uint16_t> least_before(w), least_now(w);
    std::fill(sum, sum + (size_t)h * w * n, (uint16_t)0);
    for (auto& d : dirs) {
        const int dx = d[0], dy = d[1];
        const bool up = dy < 0 || (dy == 0 && dx < 0);
        for (int j = 0; j < h; j++) {
            const int y = up ? h - 1 - j : j;
            for (int i = 0; i < w; i++) {
                const int x = (dx < 0 || (dx == 0 && up)) ? w - 1 - i : i;
                const int xp = x - dx, yp = y - dy;
                const uint16_t* C = cost + ((size_t)y * w + x) * n;
                uint16_t* L = now.data() + (size_t)x * np + 1;
                uint16_t* S = sum + ((size_t)y * w + x) * n;
                bool start = xp < 0 || xp >= w || yp < 0 || yp >= h;
                if (!start) {
                    const float e = logz[(size_t)y * w + x] - logz[(size_t)yp * w + xp];
                    start = !(std::fabs(e) < jump);  // also where the prior is unknown
                }
                uint16_t least = 65535;
                L[-1] = L[n] = 60000;
                if (start) {
                    for (int s = 0; s < n; s++) {
                        L[s] = C[s];
                        least = std::min(least, L[s]);
                    }
                } else {
                    const uint16_t* P =
                        (dy == 0 ? now.data() : before.data()) + (size_t)xp * np + 1;
                    const uint16_t lp = dy == 0 ? least_now[xp] : least_before[xp];
                    const uint16_t far = lp + p2;
                    for (int s = 0; s < n; s++) {
                        uint16_t b = std::min(P[s], far);
                        b = std::min<uint16_t>(b, std::min(P[s - 1], P[s + 1]) + p1);
                        L[s] = C[s] + b - lp;
                        least = std::min(least, L[s]);
                    }
                }
                least_now[x] = least;
                for (int s = 0; s < n; s++) S[s] += L[s];
            }
            if (dy != 0) {
                std::swap(before, now);
                std::swap(least_before, least_now);
            }
        }
    }
}

}  // namespace

extern "C" {

// ref, images: gray, high-passed, any range. weights: 0 = masked. z0: prior, <= 0 or NaN = unknown.
// band: half width of the search in t. warps: (views, 12). Hypotheses: t = band * u, u in [-1, 1].
// Out (h, w): z, score (mean NCC of the views that agree), curvature (d2 cost / dt2), support
// (number of views that agree), edge (1 = the best hypothesis lies on the rim of the band).
int endorecon_sweep(int h, int w, const float* ref, const float* ref_weight, const float* z0,
                    const float* band, int views, const float* images, const float* weights,
                    const float* warps, int steps, int radius, float noise2, float p1, float p2,
                    float jump, float* z, float* score, float* curvature, float* support,
                    uint8_t* edge) {
    if (h < 2 || w < 2 || steps < 5 || radius < 1 || views < 1) return 1;
    const size_t P = (size_t)h * w;
    std::vector<float> iz0(P), wt(P), logz(P);
    for (size_t i = 0; i < P; i++) {
        const bool ok = z0[i] > 0.0f && std::isfinite(z0[i]);
        iz0[i] = ok ? 1.0f / z0[i] : 1.0f;
        wt[i] = ok ? ref_weight[i] : 0.0f;
        logz[i] = ok ? std::log(z0[i]) : NAN;
    }
    std::vector<float> ncc(P * steps), total(P * steps, 0.0f), mass(P, 0.0f), best(P), good(P, 0.0f),
        vote(P, 0.0f);
    Correlator correlator(h, w, radius);
    const float du = 2.0f / (steps - 1);
    for (int v = 0; v < views; v++) {
        Warp q;
        std::memcpy(q.m, warps + 12 * v, sizeof q.m);
        std::fill(best.begin(), best.end(), -2.0f);
        for (int s = 0; s < steps; s++) {
            float* plane = ncc.data() + P * s;
            correlator.run(ref, wt.data(), iz0.data(), band, -1.0f + du * s, q, images + P * v,
                           weights + P * v, noise2, plane);
            for (size_t i = 0; i < P; i++) best[i] = std::max(best[i], plane[i]);
        }
        // A view that never agrees is occluded or reflecting: it hardly counts.
        for (size_t i = 0; i < P; i++) {
            const float t = std::min(std::max((best[i] - 0.3f) / 0.5f, 0.0f), 1.0f);
            best[i] = best[i] > -1.5f ? 0.02f + t * t * (3.0f - 2.0f * t) : 0.0f;
            mass[i] += best[i];
            good[i] += best[i] > 0.25f ? 1.0f : 0.0f;
        }
        for (int s = 0; s < steps; s++) {
            const float* plane = ncc.data() + P * s;
            float* out = total.data() + P * s;
            for (size_t i = 0; i < P; i++) {
                const float c = plane[i] > -1.5f ? 1.0f - plane[i] : 1.0f;
                out[i] += best[i] * c;
            }
        }
    }
    const int n = (steps + 31) / 32 * 32;
    std::vector<uint16_t> cost(P * n, 4000), sum(P * n);
    for (int s = 0; s < steps; s++)
        for (size_t i = 0; i < P; i++) {
            const float c = mass[i] > 0 ? total[P * s + i] / mass[i] : 1.0f;
            total[P * s + i] = c;
            cost[i * n + s] = (uint16_t)(std::min(std::max(c, 0.0f), 2.0f) * 1000.0f + 0.5f);
        }
    semi_global(cost.data(), logz.data(), h, w, n, (int)p1, (int)p2, jump, sum.data());
    for (size_t i = 0; i < P; i++) {
        z[i] = NAN;
        score[i] = curvature[i] = support[i] = 0.0f;
        edge[i] = 0;
        if (!(mass[i] > 0.0f) || !std::isfinite(logz[i])) continue;
        const uint16_t* S = sum.data() + i * n;
        int k = 0;
        for (int s = 1; s < steps; s++)
            if (S[s] < S[k]) k = s;
        // The raw cost is sharper than its smoothed sum: its nearest local minimum decides.
        for (int hop = 0; hop < 2; hop++) {
            int b = k;
            if (k > 0 && total[P * (k - 1) + i] < total[P * b + i]) b = k - 1;
            if (k + 1 < steps && total[P * (k + 1) + i] < total[P * b + i]) b = k + 1;
            if (b == k) break;
            k = b;
        }
        edge[i] = k < 1 || k > steps - 2;
        const int k0 = std::min(std::max(k, 2), steps - 3);
        float c[5], offset = 0.0f, a2 = 0.0f, base = total[P * k + i];
        for (int d = 0; d < 5; d++) c[d] = total[P * (k0 - 2 + d) + i];
        float t = -1.0f + du * k;
        if (endorecon::parabola5(c, offset, a2, base) && std::fabs(offset + k0 - k) <= 1.5f)
            t = -1.0f + du * (k0 + offset);
        else
            base = total[P * k + i];
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
            const float* Z = zs + P * v;
            float guess = z[i], sv = 0.0f;
            bool seen = true;
            float first_gap = 0.0f;
            for (int it = 0; it < 3 && seen; it++) {
                float u, t, c;
                endorecon::project(q, px, py, 1.0f / guess, u, t, c);
                u -= 0.5f;
                t -= 0.5f;
                const float zv = c * guess;
                if (!(zv > 0.0f && u >= 0.0f && t >= 0.0f && u < w - 1.001f && t < h - 1.001f)) {
                    seen = false;
                    break;
                }
                const int iu = (int)u, iv = (int)t;
                const size_t k = (size_t)iv * w + iu;
                const float a = Z[k], bq = Z[k + 1], cq = Z[k + w], dq = Z[k + w + 1];
                const float lo = std::min(std::min(a, bq), std::min(cq, dq));
                const float hi = std::max(std::max(a, bq), std::max(cq, dq));
                if (!(lo > 0.0f) || !(hi < 1.05f * lo) || !std::isfinite(a + bq + cq + dq)) {
                    seen = false;  // unknown there, or an edge between two surfaces
                    break;
                }
                const float fu = u - iu, fv = t - iv;
                // inverse depth is linear over a plane
                const float ia = 1.0f / a + fu * (1.0f / bq - 1.0f / a);
                const float ib = 1.0f / cq + fu * (1.0f / dq - 1.0f / cq);
                const float measured = 1.0f / (ia + fv * (ib - ia));
                if (it == 0) first_gap = measured / zv - 1.0f;
                float bu, bv, bc;
                endorecon::project(b, u + 0.5f, t + 0.5f, 1.0f / measured, bu, bv, bc);
                const float zr = bc * measured;
                // damped step along the ray; the surfaces are close to parallel there
                if (!(zr > 0.3f * z[i] && zr < 3.0f * z[i])) {
                    seen = false;
                    break;
                }
                guess = zr;
                sv = sigmas[P * v + k] * zr / measured;
            }
            if (!seen) continue;
            const float gap = std::fabs(guess - z[i]);
            const float joint = std::sqrt(s0 * s0 + sv * sv);
            if (gap <= std::max(tolerance * z[i], 3.0f * joint) && gap <= 4.0f * tolerance * z[i]) {
                const float wv = 1.0f / std::max(sv * sv, 1e-12f * z[i] * z[i]);
                estimate[count] = guess;
                weight[count++] = wv;
                agree[i] += 1.0f;
            } else if (first_gap > -4.0f * tolerance) {
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

}  // extern "C"
