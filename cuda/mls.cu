// Robust local quadratics on the GPU: one thread a pixel, the same C interface as mls.cpp.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.cuh"
#include "mls.h"

namespace {

using namespace endorecon;

struct Window {
    float x, y, weight;
    int dx, dy;
};

__global__ void begin(int h, int w, const float* start, float sigma, float tolerance, float* c) {
    const int p = blockIdx.x * blockDim.x + threadIdx.x, P = h * w, r = 2;
    if (p >= P) return;
    const int x = p % w, y = p / w;
    const float s = start[p], miss = tolerance * s;
    auto slope = [&](float a, float b) {
        const bool ok = a > 0.0f && b > 0.0f && fabsf(a - s) < miss && fabsf(b - s) < miss;
        return ok ? (b - a) / (2 * r) * sigma : 0.0f;
    };
    c[p] = s > 0.0f ? s : 0.0f;
    c[P + p] = x >= r && x < w - r ? slope(start[p - r], start[p + r]) : 0.0f;
    c[2 * P + p] = y >= r && y < h - r ? slope(start[p - r * w], start[p + r * w]) : 0.0f;
    for (int k = 3; k < TERMS; k++) c[k * P + p] = 0.0f;
}

__global__ void pass(int h, int w, const float* value, const float* weight, const Window* taps,
                     int count, float wide, const float* c, float* next, float* variance,
                     float* residual) {
    const int p = blockIdx.x * blockDim.x + threadIdx.x, P = h * w;
    if (p >= P) return;
    const int x0 = p % w, y0 = p / w;
    float m[MOMENTS] = {}, a[TERMS], fit[TERMS] = {}, gain = 0.0f;
    for (int k = 0; k < TERMS; k++) a[k] = c[k * P + p];
    const float scale = 1.0f / (wide * a[0] + 1e-20f);
    for (int t = 0; t < count; t++) {
        const Window q = taps[t];
        const int xx = x0 + q.dx, yy = y0 + q.dy;
        if (xx < 0 || xx >= w || yy < 0 || yy >= h) continue;
        add_sample(m, a, q.x, q.y, q.weight * weight[yy * w + xx], value[yy * w + xx], scale);
    }
    bool ok = a[0] > 0.0f && quadratic(m, fit, gain);
    ok = ok && fit[0] > 0.5f * a[0] && fit[0] < 2.0f * a[0];
    for (int k = 0; k < TERMS; k++) next[k * P + p] = ok ? fit[k] : (k == 0 ? a[0] : 0.0f);
    variance[p] = ok ? gain : INFINITY;
    residual[p] = ok ? wide * sqrtf(m[21] / m[0]) : INFINITY;
}

}  // namespace

extern "C" int endorecon_mls(int h, int w, const float* value, const float* weight,
                             const float* start, int radius, int stride, float sigma,
                             float tolerance, float* fitted, float* variance, float* residual) {
    if (h < 1 || w < 1 || radius < 1 || stride < 1 || !(sigma > 0) || !(tolerance > 0)) return 1;
    const size_t P = (size_t)h * w, F = P * sizeof(float);
    std::vector<Window> taps;
    for (int dy = -radius; dy <= radius; dy += stride)
        for (int dx = -radius; dx <= radius; dx += stride) {
            const float x = dx / sigma, y = dy / sigma, g = std::exp(-0.5f * (x * x + y * y));
            if (g >= 0.02f) taps.push_back({x, y, g, dx, dy});
        }
    Buffer d_value(value, F), d_weight(weight, F), d_start(start, F),
        d_taps(taps.data(), taps.size() * sizeof(Window)), a(F * TERMS), b(F * TERMS),
        d_variance(F), d_residual(F);
    for (Buffer* q : {&d_value, &d_weight, &d_start, &d_taps, &a, &b, &d_variance, &d_residual})
        if (q->failed) return 2;
    const int blocks = (int)((P + 127) / 128), count = (int)taps.size();
    begin<<<blocks, 128>>>(h, w, d_start.as<float>(), sigma, 4 * tolerance, a.as<float>());
    pass<<<blocks, 128>>>(h, w, d_value.as<float>(), d_weight.as<float>(), d_taps.as<Window>(), count,
                          2 * tolerance, a.as<float>(), b.as<float>(), d_variance.as<float>(), d_residual.as<float>());
    pass<<<blocks, 128>>>(h, w, d_value.as<float>(), d_weight.as<float>(), d_taps.as<Window>(), count, tolerance,
                          b.as<float>(), a.as<float>(), d_variance.as<float>(), d_residual.as<float>());
    cudaMemcpy(fitted, a.p, F, cudaMemcpyDeviceToHost);
    cudaMemcpy(variance, d_variance.p, F, cudaMemcpyDeviceToHost);
    cudaMemcpy(residual, d_residual.p, F, cudaMemcpyDeviceToHost);
    return cudaGetLastError() == cudaSuccess ? 0 : 2;
}
