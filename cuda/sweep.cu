// The sweep of sweep.cpp on an NVIDIA GPU: same C interface, same host arrays in and out, so that
// refine/sweep.py calls either. A thread is a pixel x hypothesis; a window is summed directly
// (81 taps from L1) where the CPU keeps running sums; a block walks one path of the semi-global
// smoothing with one thread a hypothesis. Returns 2 when CUDA reports an error.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "buffer.cuh"
#include "consensus.h"
#include "sweep.h"

using endorecon::Buffer;
using endorecon::Warp;

namespace {

__global__ void correlate(int h, int w, const float* ref, const float* weight, const float* iz0,
                          const float* band, Warp q, int fine, const float* img,
                          const float* img_weight, int steps, int radius, float noise2, float* ncc) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const int s = blockIdx.z;
    if (x >= w || y >= h) return;
    const float u_s = -1.0f + 2.0f / (steps - 1) * s;
    const int row = fine * w;  // of the view's picture
    const float wmax = row - 1.001f, hmax = fine * h - 1.001f;
    float m = 0, mi = 0, mii = 0, mw = 0, mww = 0, miw = 0;
    for (int dy = -radius; dy <= radius; dy++)
        for (int dx = -radius; dx <= radius; dx++) {
            const int xx = x + dx, yy = y + dy;
            if (xx < 0 || yy < 0 || xx >= w || yy >= h) continue;
            const int o = yy * w + xx;
            if (!(weight[o] > 0.0f)) continue;
            float u, v, c;
            endorecon::project(q, xx + 0.5f, yy + 0.5f, iz0[o] * (1.0f + band[o] * u_s), u, v, c);
            u -= 0.5f;
            v -= 0.5f;
            if (!(c > 1e-6f && u >= 0.0f && v >= 0.0f && u <= wmax && v <= hmax)) continue;
            const int iu = (int)u, iv = (int)v, k = iv * row + iu;
            const float fu = u - iu, fv = v - iv;
            const float a = img[k] + fu * (img[k + 1] - img[k]);
            const float b = img[k + row] + fu * (img[k + row + 1] - img[k + row]);
            const float W = a + fv * (b - a), I = ref[o];
            const float g = fminf(fminf(img_weight[k], img_weight[k + 1]),
                                  fminf(img_weight[k + row], img_weight[k + row + 1])) * weight[o];
            m += g;
            mi += g * I;
            mii += g * I * I;
            mw += g * W;
            mww += g * W * W;
            miw += g * I * W;
        }
    const float inv = 1.0f / fmaxf(m, 1e-6f), ei = mi * inv, ew = mw * inv;
    const float vi = fmaxf(mii * inv - ei * ei, 0.0f), vw = fmaxf(mww * inv - ew * ew, 0.0f);
    const float c = (miw * inv - ei * ew) / sqrtf((vi + noise2) * (vw + noise2));
    const int n = 2 * radius + 1;
    ncc[((size_t)s * h + y) * w + x] = m >= 0.35f * n * n ? c : -2.0f;
}

__global__ void add_view(int pixels, int steps, const float* ncc, float* total, float* mass,
                         float* good) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pixels) return;
    float best = -2.0f;
    for (int s = 0; s < steps; s++) best = fmaxf(best, ncc[(size_t)s * pixels + i]);
    const float t = fminf(fmaxf((best - 0.3f) / 0.5f, 0.0f), 1.0f);
    const float share = best > -1.5f ? 0.02f + t * t * (3.0f - 2.0f * t) : 0.0f;
    mass[i] += share;
    good[i] += share > 0.25f ? 1.0f : 0.0f;
    for (int s = 0; s < steps; s++) {
        const float c = ncc[(size_t)s * pixels + i];
        total[(size_t)s * pixels + i] += share * (c > -1.5f ? 1.0f - c : 1.0f);
    }
}

__global__ void to_cost(int pixels, int steps, const float* mass, float* total, uint16_t* cost,
                        unsigned* sum) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pixels) return;
    for (int s = 0; s < steps; s++) {
        const size_t at = (size_t)s * pixels + i;
        const float c = mass[i] > 0 ? total[at] / mass[i] : 1.0f;
        total[at] = c;
        cost[(size_t)i * steps + s] = (uint16_t)(fminf(fmaxf(c, 0.0f), 2.0f) * 1000.0f + 0.5f);
        sum[(size_t)i * steps + s] = 0;
    }
}

// One block is one path; its threads are the hypotheses. Paths of a direction share no pixel.
__global__ void walk(int h, int w, int steps, int dx, int dy, int p1, int p2, float jump,
                     const float* logz, const uint16_t* cost, unsigned* sum) {
    extern __shared__ int shared[];
    int* L = shared + 1;             // steps, with a sentinel on each side
    int* scratch = shared + steps + 2;
    const int s = threadIdx.x;
    const int p = blockIdx.x;
    int x, y;  // where the path enters the image
    if (dy == 0) {
        x = dx > 0 ? 0 : w - 1;
        y = p;
    } else if (p < w) {
        x = p;
        y = dy > 0 ? 0 : h - 1;
    } else {  // diagonals also enter at the side
        if (dx == 0) return;
        x = dx > 0 ? 0 : w - 1;
        y = dy > 0 ? p - w + 1 : h - 2 - (p - w);
    }
    if (s == 0) L[-1] = L[steps] = 60000;
    int least = 0;
    bool start = true;
    float before = NAN;
    while (x >= 0 && y >= 0 && x < w && y < h) {
        const size_t i = (size_t)y * w + x;
        const float z = logz[i];
        if (!(fabsf(z - before) < jump)) start = true;
        int value = 1 << 28;
        if (s < steps) {
            value = cost[i * steps + s];
            if (!start) {
                int b = min(L[s], least + p2);
                b = min(b, min(L[s - 1], L[s + 1]) + p1);
                value += b - least;
            }
        }
        __syncthreads();
        scratch[s] = value;
        if (s < steps) {
            L[s] = value;
            sum[i * steps + s] += (unsigned)value;
        }
        __syncthreads();
        for (int k = blockDim.x / 2; k > 0; k /= 2) {
            if (s < k) scratch[s] = min(scratch[s], scratch[s + k]);
            __syncthreads();
        }
        least = scratch[0];
        __syncthreads();
        start = false;
        before = z;
        x += dx;
        y += dy;
    }
}

__global__ void decide(int pixels, int steps, const float* iz0, const float* band,
                       const float* logz, const float* mass, const float* good,
                       const float* total, const unsigned* sum, float* z, float* score,
                       float* curvature, float* support, uint8_t* edge) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pixels) return;
    z[i] = NAN;
    score[i] = curvature[i] = support[i] = 0.0f;
    edge[i] = 0;
    if (!(mass[i] > 0.0f) || !isfinite(logz[i])) return;
    const unsigned* S = sum + (size_t)i * steps;
    auto raw = [&](int s) { return total[(size_t)s * pixels + i]; };
    int k = 0;
    for (int s = 1; s < steps; s++)
        if (S[s] < S[k]) k = s;
    for (int hop = 0; hop < 2; hop++) {
        int b = k;
        if (k > 0 && raw(k - 1) < raw(b)) b = k - 1;
        if (k + 1 < steps && raw(k + 1) < raw(b)) b = k + 1;
        if (b == k) break;
        k = b;
    }
    edge[i] = k < 1 || k > steps - 2;
    const int k0 = min(max(k, 2), steps - 3);
    const float du = 2.0f / (steps - 1);
    float c[5], offset = 0.0f, a2 = 0.0f, base = raw(k), t = -1.0f + du * k;
    for (int d = 0; d < 5; d++) c[d] = raw(k0 - 2 + d);
    if (endorecon::parabola5(c, offset, a2, base) && fabsf(offset + k0 - k) <= 1.5f)
        t = -1.0f + du * (k0 + offset);
    else
        base = raw(k);
    const float iz = iz0[i] * (1.0f + band[i] * t);
    if (!(iz > 0.0f)) return;
    z[i] = 1.0f / iz;
    score[i] = 1.0f - base;
    const float unit = fmaxf(band[i] * du, 1e-9f);
    curvature[i] = fmaxf(a2, 0.0f) / (unit * unit);
    support[i] = good[i];
}

__global__ void consensus(endorecon::Maps maps, const float* z, const float* sigma, float settled,
                          endorecon::Consensus* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= maps.h * maps.w) return;
    out[i] = endorecon::consensus(maps, i, z[i], sigma[i], settled);
}

}  // namespace

// See sweep.cpp. Host pointers; the copies are small beside the work.
extern "C" int endorecon_sweep(int h, int w, const float* ref, const float* ref_weight,
                               const float* z0, const float* band, int views, int fine,
                               const float* images, const float* weights, const float* warps,
                               int steps, int radius, float noise2, float p1, float p2, float jump,
                               float* z, float* score, float* curvature, float* support,
                               uint8_t* edge) {
    if (h < 2 || w < 2 || steps < 5 || steps > 1024 || radius < 1 || views < 1 || fine < 1) return 1;
    const size_t P = (size_t)h * w, F = P * sizeof(float), N = P * fine * fine;
    std::vector<float> iz0(P), wt(P), logz(P);
    for (size_t i = 0; i < P; i++) {
        const bool ok = z0[i] > 0.0f && std::isfinite(z0[i]);
        iz0[i] = ok ? 1.0f / z0[i] : 1.0f;
        wt[i] = ok ? ref_weight[i] : 0.0f;
        logz[i] = ok ? std::log(z0[i]) : NAN;
    }
    Buffer d_ref(ref, F), d_wt(wt.data(), F), d_iz(iz0.data(), F), d_band(band, F),
        d_log(logz.data(), F), d_img(images, N * views * sizeof(float)),
        d_imw(weights, N * views * sizeof(float)), d_ncc(F * steps),
        d_total(F * steps), d_mass(F), d_good(F), d_cost(P * steps * sizeof(uint16_t)),
        d_sum(P * steps * sizeof(unsigned)), d_z(F), d_score(F), d_curv(F), d_support(F), d_edge(P);
    for (Buffer* b : {&d_ref, &d_wt, &d_iz, &d_band, &d_log, &d_img, &d_imw, &d_ncc, &d_total,
                      &d_mass, &d_good, &d_cost, &d_sum, &d_z, &d_score, &d_curv, &d_support, &d_edge})
        if (b->failed) return 2;
    cudaMemset(d_total.p, 0, F * steps);
    cudaMemset(d_mass.p, 0, F);
    cudaMemset(d_good.p, 0, F);
    const dim3 block(32, 8), grid((w + 31) / 32, (h + 7) / 8, steps);
    const int lines = (int)((P + 255) / 256);
    for (int v = 0; v < views; v++) {
        Warp q;
        for (int k = 0; k < 12; k++) q.m[k] = warps[12 * v + k];
        correlate<<<grid, block>>>(h, w, d_ref.as<float>(), d_wt.as<float>(), d_iz.as<float>(),
                                   d_band.as<float>(), q, fine, d_img.as<float>() + N * v,
                                   d_imw.as<float>() + N * v, steps, radius, noise2,
                                   d_ncc.as<float>());
        add_view<<<lines, 256>>>((int)P, steps, d_ncc.as<float>(), d_total.as<float>(),
                                 d_mass.as<float>(), d_good.as<float>());
    }
    to_cost<<<lines, 256>>>((int)P, steps, d_mass.as<float>(), d_total.as<float>(),
                            d_cost.as<uint16_t>(), d_sum.as<unsigned>());
    int threads = 32;
    while (threads < steps) threads *= 2;
    const size_t bytes = (steps + 2 + threads) * sizeof(int);
    const int dirs[8][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}, {1, -1}, {-1, 1}};
    for (auto& d : dirs) {
        const int paths = d[1] == 0 ? h : (d[0] == 0 ? w : w + h - 1);
        walk<<<paths, threads, bytes>>>(h, w, steps, d[0], d[1], (int)p1, (int)p2, jump,
                                        d_log.as<float>(), d_cost.as<uint16_t>(),
                                        d_sum.as<unsigned>());
    }
    decide<<<lines, 256>>>((int)P, steps, d_iz.as<float>(), d_band.as<float>(), d_log.as<float>(),
                           d_mass.as<float>(), d_good.as<float>(), d_total.as<float>(),
                           d_sum.as<unsigned>(), d_z.as<float>(), d_score.as<float>(),
                           d_curv.as<float>(), d_support.as<float>(), d_edge.as<uint8_t>());
    cudaMemcpy(z, d_z.p, F, cudaMemcpyDeviceToHost);
    cudaMemcpy(score, d_score.p, F, cudaMemcpyDeviceToHost);
    cudaMemcpy(curvature, d_curv.p, F, cudaMemcpyDeviceToHost);
    cudaMemcpy(support, d_support.p, F, cudaMemcpyDeviceToHost);
    cudaMemcpy(edge, d_edge.p, P, cudaMemcpyDeviceToHost);
    return cudaGetLastError() == cudaSuccess ? 0 : 2;
}

// See sweep.cpp. A thread is a pixel; its candidates lie in local memory.
extern "C" int endorecon_consensus(int h, int w, const float* z, const float* sigma, int views,
                                   const float* zs, const float* sigmas, const float* warps,
                                   const float* back, float settled, float* z_out, float* spread,
                                   float* least, float* count) {
    if (views > endorecon::MOST_MAPS) return 1;
    const size_t P = (size_t)h * w, F = P * sizeof(float), W = sizeof(Warp) * (size_t)views;
    Buffer d_z(z, F), d_sigma(sigma, F), d_zs(zs, F * views), d_sigmas(sigmas, F * views),
        d_there(warps, W), d_back(back, W), d_out(P * sizeof(endorecon::Consensus));
    for (Buffer* b : {&d_z, &d_sigma, &d_zs, &d_sigmas, &d_there, &d_back, &d_out})
        if (b->failed) return 2;
    const endorecon::Maps maps{h, w, views, d_zs.as<float>(), d_sigmas.as<float>(),
                               d_there.as<Warp>(), d_back.as<Warp>()};
    consensus<<<(int)((P + 127) / 128), 128>>>(maps, d_z.as<float>(), d_sigma.as<float>(), settled,
                                               d_out.as<endorecon::Consensus>());
    std::vector<endorecon::Consensus> said(P);
    cudaMemcpy(said.data(), d_out.p, P * sizeof said[0], cudaMemcpyDeviceToHost);
    for (size_t i = 0; i < P; i++) {
        z_out[i] = said[i].z;
        spread[i] = said[i].spread;
        least[i] = said[i].least;
        count[i] = said[i].count;
    }
    return cudaGetLastError() == cudaSuccess ? 0 : 2;
}
