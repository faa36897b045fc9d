// Depth maps held against each other along the rays of one of them; for the CPU and the GPU.
#pragma once
#include <math.h>

#include <cstddef>

#include "sweep.h"

namespace endorecon {

// Where the ray of a pixel of the reference meets the surface of another depth map.
struct Meeting {
    float z, sigma;     // on the reference's ray; sigma is that of the other map, as long there
    float first, last;  // relative gap between map and guess before the first step, after the last
};

// Fixed point from `start` on, `steps` at most, done when the gap is below `enough` of the depth;
// false: out of sight, unknown there, or an edge between two surfaces.
EN_HD bool meet(int h, int w, float px, float py, float start, const Warp& there, const Warp& back,
                const float* z, const float* sigma, int steps, float enough, Meeting& out) {
    float guess = start, spread = 0.0f;
    for (int it = 0; it < steps; it++) {
        float u, t, c;
        project(there, px, py, 1.0f / guess, u, t, c);
        u -= 0.5f;
        t -= 0.5f;
        const float zv = c * guess;
        if (!(zv > 0.0f && u >= 0.0f && t >= 0.0f && u < w - 1.001f && t < h - 1.001f)) return false;
        const int iu = (int)u, iv = (int)t;
        const size_t k = (size_t)iv * w + iu;
        const float a = z[k], b = z[k + 1], d = z[k + w], e = z[k + w + 1];
        const float lo = fminf(fminf(a, b), fminf(d, e));
        const float hi = fmaxf(fmaxf(a, b), fmaxf(d, e));
        if (!(lo > 0.0f) || !(hi < 1.05f * lo) || !(a + b + d + e < INFINITY)) return false;
        const float fu = u - iu, fv = t - iv;
        // inverse depth is linear over a plane
        const float ia = 1.0f / a + fu * (1.0f / b - 1.0f / a);
        const float ib = 1.0f / d + fu * (1.0f / e - 1.0f / d);
        const float measured = 1.0f / (ia + fv * (ib - ia));
        out.last = measured / zv - 1.0f;
        if (it == 0) out.first = out.last;
        float bu, bv, bc;
        project(back, u + 0.5f, t + 0.5f, 1.0f / measured, bu, bv, bc);
        const float zr = bc * measured;
        // a step along the other ray; the surfaces are close to parallel there
        if (!(zr > 0.3f * start && zr < 3.0f * start)) return false;
        guess = zr;
        spread = sigma[k] * zr / measured;
        if (fabsf(out.last) < enough) break;
    }
    out.z = guess;
    out.sigma = spread;
    return true;
}

struct Maps {  // the others; zs and sigmas (views, h, w)
    int h, w, views;
    const float *zs, *sigmas;
    const Warp *there, *back;  // from the reference, to it
};

struct Consensus {
    float z, spread, least, count;
};

enum { MOST_MAPS = 64 };

// The median of the pixel's own depth and of those at which its ray meets the other maps, weights
// 1 / sigma^2, sigma as it is (a map seen from near has the smaller one). spread: weighted mean
// distance of the depths from z; least: smallest sigma among them; count: other maps among them.
EN_HD Consensus consensus(const Maps& maps, int pixel, float z, float sigma, float settled) {
    if (!(z > 0.0f) || !(sigma > 0.0f)) return {z, 0.0f, sigma, 0.0f};
    const size_t P = (size_t)maps.h * maps.w;
    const float px = (float)(pixel % maps.w) + 0.5f, py = (float)(pixel / maps.w) + 0.5f;
    const float floor = 1e-6f * z;
    float depth[MOST_MAPS + 1], weight[MOST_MAPS + 1], least = fmaxf(sigma, floor);
    depth[0] = z;
    weight[0] = 1.0f / (least * least);
    float total = weight[0];
    int n = 1;
    for (int v = 0; v < maps.views; v++) {
        Meeting m;
        if (!meet(maps.h, maps.w, px, py, z, maps.there[v], maps.back[v], maps.zs + P * v,
                  maps.sigmas + P * v, 4, 0.1f * settled, m) ||
            !(fabsf(m.last) < settled) || !(m.sigma > 0.0f))
            continue;
        const float s = fmaxf(m.sigma, floor), g = 1.0f / (s * s);
        int k = n++;
        for (; k > 0 && depth[k - 1] > m.z; k--) {
            depth[k] = depth[k - 1];
            weight[k] = weight[k - 1];
        }
        depth[k] = m.z;
        weight[k] = g;
        total += g;
        least = fminf(least, s);
    }
    float below = 0.0f;
    int k = 0;
    while (k + 1 < n && (below += weight[k]) < 0.5f * total) k++;
    float sum = 0.0f;
    for (int j = 0; j < n; j++)
        sum += weight[j] * fminf(fabsf(depth[j] - depth[k]), 0.3f * depth[k]);
    return {depth[k], sum / total, least, (float)(n - 1)};
}

}  // namespace endorecon
