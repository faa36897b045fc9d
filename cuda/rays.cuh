// Device kernels with one thread a ray: sampling, losses with their gradient, rendering; and Adam.
#pragma once
#include "field.cuh"

__global__ void sample_kernel(Sampler s, int rays, int samples, const float *origin,
                              const float *direction, const float *norm, const float *band,
                              const float *jitter, float *edges) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rays) return;
    float weight[MAX_BINS], found[MAX_S];
    const float *o = origin + 3 * r, *d = direction + 3 * r;
    float z0, z1;
    box_span(o, d, s.near_z, &z0, &z1);
    const int K = s.bins < MAX_BINS ? s.bins : MAX_BINS, G = s.grid_res;
    const float a = sqrtf(z0), b = sqrtf(z1);
    auto cut = [&](int k) {
        const float root = a + (b - a) * ((float)k / (float)K);
        return root * root;
    };
    float depth = 0.0f, before = 1.0f;
    for (int k = 0; k < K; ++k) {
        const float c0 = cut(k), c1 = cut(k + 1), z = 0.5f * (c0 + c1);
        int64_t at = 0;
        for (int c = 0; c < 3; ++c) {
            float p = (o[c] + z * d[c]) * (float)G;
            p = p > 0.0f ? p : 0.0f;
            const int cell = (int)fminf(p, 1e6f);
            at = at * G + (cell < G - 1 ? cell : G - 1);
        }
        depth += s.grid[at] * (c1 - c0) * norm[r];
        const float after = expf(-depth);
        weight[k] = fmaxf(before - after, 0.0f);
        before = after;
    }
    float sum = 0.0f, last = 0.0f;
    for (int k = 0; k < K; ++k) {  // the larger of itself and its neighbours
        const float here = weight[k], next = k + 1 < K ? weight[k + 1] : 0.0f;
        weight[k] = fmaxf(fmaxf(last, here), next);
        last = here;
        sum += weight[k];
    }
    const float even = sum > 1e-6f ? s.uniform_share : 1.0f;
    const float scale = sum > 1e-6f ? (1.0f - even) / sum : 0.0f;
    const bool banded = band && band[2 * r] < band[2 * r + 1];
    const int inner = samples - 1, in_band = banded ? (int)(s.band_share * inner) : 0;
    const int in_grid = inner - in_band;
    float cdf = 0.0f;
    for (int j = 0, k = 0; j < in_grid; ++j) {
        const float want = ((float)j + jitter[r]) / (float)in_grid;
        float p = weight[k] * scale + even / (float)K;
        while (k < K - 1 && cdf + p < want) {
            cdf += p;
            ++k;
            p = weight[k] * scale + even / (float)K;
        }
        const float f = fminf(fmaxf((want - cdf) / p, 0.0f), 1.0f), c0 = cut(k);
        found[j] = c0 + f * (cut(k + 1) - c0);
    }
    float *e = edges + (int64_t)r * (samples + 1);
    e[0] = z0;
    e[samples] = z1;
    for (int q = 1, i = 0, j = 0; q <= inner; ++q) {  // merge two sorted lists
        float zb = 1e30f;
        if (j < in_band) {
            const float f = ((float)j + jitter[r]) / (float)in_band;
            zb = fminf(fmaxf(band[2 * r] + f * (band[2 * r + 1] - band[2 * r]), z0), z1);
        }
        if (j < in_band && (i >= in_grid || zb < found[i])) {
            e[q] = zb;
            ++j;
        } else {
            e[q] = found[i++];
        }
    }
}

HD void shade_of(const Model &m, int frame, float *gain, float *power) {
    *gain = frame >= 0 && frame < m.views ? expf(m.extras[frame]) : 1.0f;
    *power = m.response * expf(m.extras[m.views]);
}

__global__ void loss_kernel(Model m, Batch b, int64_t n, Scratch s) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= b.rays) return;
    const int S = b.samples;
    const int64_t at = (int64_t)r * S;
    const float share = 1.0f / (float)b.rays;
    const float *e = b.edges + (int64_t)r * (S + 1);
    float weight[MAX_S], T = 1.0f, lin[3] = {0, 0, 0}, mean = 0.0f;
    for (int i = 0; i < S; ++i) {
        const float pass = i < S - 1 ? s.pass[at + i] : 0.0f;
        weight[i] = T * (1.0f - pass);
        T *= pass;
        for (int c = 0; c < 3; ++c) lin[c] += weight[i] * s.radiance[c * n + at + i];
        mean += weight[i] * logf(0.5f * (e[i] + e[i + 1]));
    }
    float g_lin[3] = {0, 0, 0}, g_gain = 0.0f, g_power = 0.0f, terms[4] = {0, 0, 0, 0};
    if (b.colour_weight[r] > 0.0f) {
        float gain, power;
        shade_of(m, b.frame[r], &gain, &power);
        for (int c = 0; c < 3; ++c) {
            const float x = gain * lin[c] + DISPLAY_EPS, logx = logf(x), shown = expf(power * logx);
            const float miss = colour_miss(shown, b.colour[3 * r + c], b.white);
            const float root = sqrtf(miss * miss + b.charbonnier * b.charbonnier);
            const float k = share * b.colour_weight[r] / 3.0f;
            terms[TERM_COLOUR] += k * (root - b.charbonnier);
            terms[TERM_SQUARE] += miss * miss / 3.0f;
            const float g_shown = k * miss / root, g_x = g_shown * power * shown / x;
            g_lin[c] = g_x * gain;
            g_gain += g_x * gain * lin[c];
            g_power += g_shown * shown * logx * power;
        }
    }
    const float wanted = b.target_weight[r];
    const float inv = wanted > 0.0f ? 1.0f / b.target_scale[r] : 0.0f;
    float behind = 0.0f, after = 0.0f;  // transmittance after sample i
    for (int i = S - 1; i >= 0; --i) {
        const float z = 0.5f * (e[i] + e[i + 1]), d = logf(z) - mean;
        float gw = share * b.spread_weight * d * d;
        terms[TERM_SPREAD] += weight[i] * gw;
        for (int c = 0; c < 3; ++c) {
            const float rad = s.radiance[c * n + at + i], raw = s.rgb[c * n + at + i];
            gw += g_lin[c] * rad;
            const bool open = raw > LOG_RGB_MIN && raw < LOG_RGB_MAX;
            const float below = open ? below_ceiling(&m, c, expf(raw)) : 0.0f;
            s.g_rgb[c * n + at + i] = g_lin[c] * weight[i] * rad * below;
        }
        s.g_rgb[3 * n + at + i] = 0.0f;
        if (wanted > 0.0f) {
            const float cost = share * wanted * miss_cost((z - b.target[r]) * inv);
            gw += cost;
            terms[TERM_DEPTH] += weight[i] * cost;
        }
        float g = 0.0f;
        if (i < S - 1) {
            const float g_tau = gw * after - behind;
            g = s.log_sigma[at + i] < LOG_SIGMA_MAX ? g_tau * s.tau[at + i] : 0.0f;
        }
        s.g_out[at + i] = g;
        behind += gw * weight[i];
        after += weight[i];  // what is not yet absorbed before sample i
    }
    s.gains[r] = g_gain;
    s.powers[r] = g_power;
    for (int t = 0; t < 4; ++t)
        if (terms[t] != 0.0f) atomicAdd(s.terms + t, (double)terms[t]);
    const int f = b.frame[r];
    if (f >= 0 && f < m.views && g_gain != 0.0f) atomicAdd(s.g_extras + f, g_gain);
    if (g_power != 0.0f) atomicAdd(s.g_extras + m.views, g_power);
}

__global__ void norm_kernel(const float *g_weights, const float *g_extras, int extras,
                            double *terms) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < WEIGHTS + extras; i += blockDim.x) {
        const double g = i < WEIGHTS ? g_weights[i] : g_extras[i - WEIGHTS];
        sum += g * g;
    }
    atomicAdd(terms + TERM_NORM, sum);
}

__global__ void show_kernel(Model m, Batch b, int64_t n, Scratch s, float q0, float q1, float q2,
                            float *colour, float *depth, float *opacity) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= b.rays) return;
    const int S = b.samples;
    const int64_t at = (int64_t)r * S;
    const float *e = b.edges + (int64_t)r * (S + 1);
    float T = 1.0f, lin[3] = {0, 0, 0};
    for (int i = 0; i < S; ++i) {
        const float pass = i < S - 1 ? s.pass[at + i] : 0.0f;
        for (int c = 0; c < 3; ++c) lin[c] += T * (1.0f - pass) * s.radiance[c * n + at + i];
        if (i == S - 1) opacity[r] = 1.0f - T;
        T *= pass;
    }
    float gain, power;
    shade_of(m, b.frame[r], &gain, &power);
    for (int c = 0; c < 3; ++c) colour[3 * r + c] = powf(gain * lin[c] + DISPLAY_EPS, power);
    const float quantile[3] = {q0, q1, q2};
    for (int q = 0; q < 3; ++q) {
        const float want = -logf(1.0f - quantile[q]);
        float sum = 0.0f, z = e[S];
        for (int i = 0; i < S - 1; ++i) {
            const float tau = s.tau[at + i];
            if (sum + tau >= want) {
                z = e[i] + (e[i + 1] - e[i]) * ((want - sum) / tau);
                break;
            }
            sum += tau;
        }
        depth[3 * r + q] = z;
    }
}

// Adam; `pairs`: a pair whose gradient is exactly zero is left alone, moments and all.
__global__ void adam_kernel(float *p, float *g, float *mo, float *ve, int64_t n, float rate, Adam a,
                            bool pairs, float decay, float scale) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || (pairs && g[i] == 0.0f && g[i ^ 1] == 0.0f)) return;
    const float grad = g[i] * scale + decay * p[i];
    const float m = a.beta1 * mo[i] + (1 - a.beta1) * grad;
    const float v = a.beta2 * ve[i] + (1 - a.beta2) * grad * grad;
    mo[i] = m;
    ve[i] = v;
    p[i] -= rate * (m * a.correct1) / (sqrtf(v * a.correct2) + a.eps);
}
