// Robust local quadratics through a map of inverse depths (moving least squares, Lancaster and
// Salkauskas 1981; Tukey weights keep other surfaces out). One call is one map on one thread, so that
// results do not depend on the number of threads. The plain twin is endorecon/refine/smooth.py.
#include "mls.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

constexpr int LANES = 16;  // neighbouring pixels worked on side by side

struct Window {
    float x, y, weight;
    int dx, dy;
};

std::vector<Window> window(int radius, int stride, float sigma) {
    std::vector<Window> out;
    for (int dy = -radius; dy <= radius; dy += stride)
        for (int dx = -radius; dx <= radius; dx += stride) {
            const float x = dx / sigma, y = dy / sigma;
            const float g = std::exp(-0.5f * (x * x + y * y));
            if (g >= 0.02f) out.push_back({x, y, g, dx, dy});
        }
    return out;
}

// Slope at the centre from the start map, in units of sigma; 0 across a jump or beside a hole.
void first_guess(int h, int w, const float* start, float sigma, float tolerance,
                 std::vector<float>* c) {
    const int r = 2;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const size_t p = (size_t)y * w + x;
            const float s = start[p];
            c[0][p] = s > 0.0f ? s : 0.0f;
            auto slope = [&](float a, float b) {
                const float miss = tolerance * s;
                const bool ok = a > 0.0f && b > 0.0f && std::fabs(a - s) < miss && std::fabs(b - s) < miss;
                return ok ? (b - a) / (2 * r) * sigma : 0.0f;
            };
            c[1][p] = x >= r && x < w - r ? slope(start[p - r], start[p + r]) : 0.0f;
            c[2][p] = y >= r && y < h - r ? slope(start[p - (size_t)r * w], start[p + (size_t)r * w]) : 0.0f;
        }
}

}  // namespace

extern "C" {

// value: inverse depth, weight: its inverse relative variance (0 = unknown), start: where each
// pixel's surface is about (0 = nowhere: no answer), all (h, w). Out (h, w): fitted inverse depth
// (0 = none), relative variance of it were the samples independent, and the weighted relative
// residual of the samples round it. Two passes: wide round the start, then round the first fit.
int endorecon_mls(int h, int w, const float* value, const float* weight, const float* start,
                     int radius, int stride, float sigma, float tolerance, float* fitted,
                     float* variance, float* residual) {
    using namespace endorecon;
    if (h < 1 || w < 1 || radius < 1 || stride < 1 || !(sigma > 0) || !(tolerance > 0)) return 1;
    const size_t P = (size_t)h * w;
    const std::vector<Window> taps = window(radius, stride, sigma);
    std::vector<float> now[TERMS], next[TERMS];
    for (auto& c : now) c.assign(P, 0.0f);
    for (auto& c : next) c.assign(P, 0.0f);
    first_guess(h, w, start, sigma, 4 * tolerance, now);
    for (int pass = 0; pass < 2; pass++) {
        const float wide = pass == 0 ? 2 * tolerance : tolerance;
        for (int y = 0; y < h; y++)
            for (int x0 = 0; x0 < w; x0 += LANES) {
                const int lanes = std::min(LANES, w - x0);
                const size_t o = (size_t)y * w + x0;
                float m[MOMENTS][LANES] = {};
                float c[TERMS][LANES] = {}, scale[LANES] = {};
                for (int i = 0; i < lanes; i++) {
                    for (int k = 0; k < TERMS; k++) c[k][i] = now[k][o + i];
                    scale[i] = 1.0f / (wide * now[0][o + i] + 1e-20f);
                }
                for (const Window& t : taps) {
                    const int yy = y + t.dy;
                    if (yy < 0 || yy >= h) continue;
                    const int first = std::max(0, -(x0 + t.dx));
                    const int last = std::min(lanes, w - x0 - t.dx);
                    const float* v = value + (size_t)yy * w + x0 + t.dx;
                    const float* g = weight + (size_t)yy * w + x0 + t.dx;
                    const float x = t.x, yv = t.y, xx = x * x, xy = x * yv, y2 = yv * yv;
                    const float basis[15] = {1,       x,       yv,      xx,      xy,      y2,  xx * x, xx * yv,
                                             x * y2,  yv * y2, xx * xx, xx * xy, xx * y2, xy * y2, y2 * y2};
#pragma GCC ivdep
                    for (int i = first; i < last; i++) {
                        const float guess = c[0][i] + x * c[1][i] + yv * c[2][i] + xx * c[3][i] +
                                            xy * c[4][i] + y2 * c[5][i];
                        const float e = (v[i] - guess) * scale[i];
                        const float k = t.weight * g[i] * tukey(e);
                        for (int q = 0; q < 15; q++) m[q][i] += k * basis[q];
                        const float kv = k * v[i];
                        for (int q = 0; q < TERMS; q++) m[15 + q][i] += kv * basis[q];
                        m[21][i] += k * e * e;
                    }
                }
                for (int i = 0; i < lanes; i++) {
                    float moments[MOMENTS], fit[TERMS] = {}, gain = 0.0f;
                    for (int q = 0; q < MOMENTS; q++) moments[q] = m[q][i];
                    const float centre = c[0][i];
                    bool ok = centre > 0.0f && quadratic(moments, fit, gain);
                    ok = ok && fit[0] > 0.5f * centre && fit[0] < 2.0f * centre;
                    for (int k = 0; k < TERMS; k++) next[k][o + i] = ok ? fit[k] : 0.0f;
                    if (!ok) next[0][o + i] = centre;
                    variance[o + i] = ok ? gain : INFINITY;
                    residual[o + i] = ok ? wide * std::sqrt(moments[21] / moments[0]) : INFINITY;
                }
            }
        for (int k = 0; k < TERMS; k++) now[k].swap(next[k]);
    }
    std::copy(now[0].begin(), now[0].end(), fitted);
    return 0;
}

}  // extern "C"
