// One block of at most NB samples (whole rays) on the CPU: both nets, compositing, losses, and all
// of it backwards. Lanes are samples. The torch twin is endorecon/field/rendering.py.
#pragma once
#include "hashmlp.h"
#include "lanes.h"

struct alignas(64) Block {
    vf feature[IN * NV], hidden[HID * NV], out[OUT * NV];
    vf input[IN * NV], c1[HID * NV], c2[HID * NV], rgb[RGB * NV];
    vf log_sigma[NV], tau[NV], pass[NV];  // optical depth of the interval and exp(-tau)
    vf radiance[3 * NV];                  // with the light, without the exposure
    vf below[3 * NV];                     // share of e^raw that the ceiling leaves
    // gradients
    vf g_rgb[RGB * NV], g_log_sigma[NV], g2[HID * NV], g1[HID * NV], g_in[IN * NV];
    vf g_out[OUT * NV], g_hidden[HID * NV], g_feature[IN * NV];
    float zlog[NB], light[NB], delta[NB];  // zlog: log z, but z itself when not learning
};

struct Transposed {  // weights as the backward pass wants them
    alignas(64) float w1[IN * HID], w2[HID * OUT], a1[IN * HID], a2[HID * HID], a3[HID * RGB];
};

static inline void transpose(const float *a, int rows, int columns, float *out) {
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) out[j * rows + i] = a[i * columns + j];
}

static inline void transpose_all(const float *w, Transposed &t) {
    transpose(w + W1, HID, IN, t.w1);
    transpose(w + W2, OUT, HID, t.w2);
    transpose(w + A1, HID, IN, t.a1);
    transpose(w + A2, HID, HID, t.a2);
    transpose(w + A3, RGB, HID, t.a3);
}

// Features of `n` samples from the level-major pairs (levels, stride, 2) into rows.
static inline void gather_features(const float *pairs, const Levels &levels, int64_t stride,
                                   int64_t at, int n, Block &b) {
    float *rows = (float *)b.feature;
    memset(rows, 0, sizeof b.feature);
    for (int l = 0; l < levels.count; ++l) {
        const float *p = pairs + 2 * (l * stride + at), scale = levels.scale[l];
        if (scale == 0.0f) continue;
        if (n == NB) {  // whole vectors
            vf *even = b.feature + 2 * l * NV, *odd = even + NV;
            for (int i = 0; i < NV; ++i) apart(p + 2 * i * VW, scale, even[i], odd[i]);
            continue;
        }
        for (int i = 0; i < n; ++i) rows[(2 * l) * NB + i] = scale * p[2 * i];
        for (int i = 0; i < n; ++i) rows[(2 * l + 1) * NB + i] = scale * p[2 * i + 1];
    }
}

static inline void scatter_features(const Block &b, const Levels &levels, int64_t stride,
                                    int64_t at, int n, float *pairs) {
    const float *rows = (const float *)b.g_feature;
    for (int l = 0; l < levels.count; ++l) {
        float *p = pairs + 2 * (l * stride + at), scale = levels.scale[l];
        if (scale == 0.0f) continue;
        if (n == NB) {
            const vf *even = b.g_feature + 2 * l * NV, *odd = even + NV;
            for (int i = 0; i < NV; ++i) together(scale * even[i], scale * odd[i], p + 2 * i * VW);
            continue;
        }
        for (int i = 0; i < n; ++i) {
            p[2 * i] = scale * rows[(2 * l) * NB + i];
            p[2 * i + 1] = scale * rows[(2 * l + 1) * NB + i];
        }
    }
}

static inline vf log_density(vf raw) {
    raw = raw + LOG_SIGMA_SHIFT;
    return raw > LOG_SIGMA_MAX ? splat(LOG_SIGMA_MAX) : raw;
}

static inline void density_net(const float *w, Block &b) {
    multiply<HID, IN>(w + W1, b.feature, b.hidden);
    relu(b.hidden, HID);
    multiply<OUT, HID>(w + W2, b.hidden, b.out);
}

// Both nets for rays [ray, ray + rays) of the batch; n = rays * samples. zlog is for learning only.
static inline void forward(const Model *m, const Batch *batch, int ray, int rays, bool learning,
                           Block &b) {
    const int S = batch->samples, n = rays * S;
    density_net(m->weights, b);
    float *input = (float *)b.input;
    memcpy(input, b.out + NV, 15 * NB * 4);
    memset(input + 15 * NB, 0, SH * NB * 4);
    for (int r = 0; r < rays; ++r) {
        float sh[SH];
        harmonics(batch->view + 3 * (ray + r), sh);
        const float *e = batch->edges + (int64_t)(ray + r) * (S + 1);
        const float norm = batch->norm[ray + r];
        for (int k = 0; k < SH; ++k)
            for (int i = 0; i < S; ++i) input[(15 + k) * NB + r * S + i] = sh[k];
        for (int i = 0; i < S; ++i) {
            const float z = 0.5f * (e[i] + e[i + 1]);
            b.zlog[r * S + i] = z;
            b.light[r * S + i] = light_at(m, batch, ray + r, z);
            b.delta[r * S + i] = (e[i + 1] - e[i]) * norm;
        }
    }
    for (int i = n; i < NB; ++i) b.zlog[i] = b.light[i] = b.delta[i] = 0.0f;
    for (int i = 0; learning && i < NV; ++i) store(b.zlog + i * VW, vlog(load(b.zlog + i * VW)));
    multiply<HID, IN>(m->weights + A1, b.input, b.c1);
    relu(b.c1, HID);
    multiply<HID, HID>(m->weights + A2, b.c1, b.c2);
    relu(b.c2, HID);
    multiply<RGB, HID>(m->weights + A3, b.c2, b.rgb);
    for (int i = 0; i < NV; ++i) {
        vf delta, light;
        memcpy(&delta, b.delta + i * VW, sizeof delta);
        memcpy(&light, b.light + i * VW, sizeof light);
        b.log_sigma[i] = log_density(b.out[i]);
        b.tau[i] = vexp(b.log_sigma[i]) * delta;
        b.pass[i] = vexp(-b.tau[i]);
        for (int c = 0; c < 3; ++c) {
            vf o = b.rgb[c * NV + i];
            o = o > LOG_RGB_MAX ? splat(LOG_RGB_MAX) : o;
            o = o < LOG_RGB_MIN ? splat(LOG_RGB_MIN) : o;
            const vf bare = vexp(o);
            b.below[c * NV + i] = 1.0f / (1.0f + bare * m->inverse_ceiling[c]);
            b.radiance[c * NV + i] = bare * b.below[c * NV + i] * light;
        }
    }
}

// Weights of the samples of one ray; the last sample is opaque and takes what is left.
static inline void weigh(const float *pass, int S, float *weight) {
    float T = 1.0f;
    for (int i = 0; i < S - 1; ++i) {
        weight[i] = T * (1.0f - pass[i]);
        T *= pass[i];
    }
    weight[S - 1] = T;
}

struct Shade {  // exposure and response of one ray
    float gain, power;
};

static inline Shade shade_of(const Model *m, int frame) {
    return {frame >= 0 && frame < m->views ? expf(m->extras[frame]) : 1.0f,
            m->response * expf(m->extras[m->views])};
}

// Losses of one ray and their gradient at density and colour; extras' gradient into g_gain, g_power.
static inline void ray_loss(const Model *m, const Batch *batch, int ray, int at, float share,
                            Block &b, double *terms, float *g_gain, float *g_power) {
    const int S = batch->samples;
    float weight[NB], gw[NB];
    weigh((const float *)b.pass + at, S, weight);
    const float *rad[3];
    for (int c = 0; c < 3; ++c) rad[c] = (const float *)b.radiance + c * NB + at;
    float g_lin[3] = {0, 0, 0};
    *g_gain = *g_power = 0.0f;
    const float colour_weight = batch->colour_weight[ray];
    if (colour_weight > 0.0f) {
        const Shade shade = shade_of(m, batch->frame[ray]);
        for (int c = 0; c < 3; ++c) {
            float lin = 0.0f;
            for (int i = 0; i < S; ++i) lin += weight[i] * rad[c][i];
            const float x = shade.gain * lin + DISPLAY_EPS, logx = logf(x);
            const float shown = expf(shade.power * logx);
            const float miss = colour_miss(shown, batch->colour[3 * ray + c], batch->white);
            const float root = sqrtf(miss * miss + batch->charbonnier * batch->charbonnier);
            const float k = share * colour_weight / 3.0f;
            terms[TERM_COLOUR] += k * (root - batch->charbonnier);
            terms[TERM_SQUARE] += miss * miss / 3.0f;
            const float g_shown = k * miss / root;
            const float g_x = g_shown * shade.power * shown / x;
            g_lin[c] = g_x * shade.gain;
            *g_gain += g_x * shade.gain * lin;
            *g_power += g_shown * shown * logx * shade.power;
        }
    }
    float mean = 0.0f, spread = 0.0f;
    const float *zlog = b.zlog + at;
    for (int i = 0; i < S; ++i) mean += weight[i] * zlog[i];
    for (int i = 0; i < S; ++i) {
        const float d = zlog[i] - mean;
        spread += weight[i] * d * d;
        gw[i] = share * batch->spread_weight * d * d;
        for (int c = 0; c < 3; ++c) gw[i] += g_lin[c] * rad[c][i];
    }
    terms[TERM_SPREAD] += share * batch->spread_weight * spread;
    const float wanted = batch->target_weight[ray];
    if (wanted > 0.0f) {
        const float *e = batch->edges + (int64_t)ray * (S + 1);
        const float inv = 1.0f / batch->target_scale[ray];
        float cost = 0.0f;
        for (int i = 0; i < S; ++i) {
            const float phi = miss_cost((0.5f * (e[i] + e[i + 1]) - batch->target[ray]) * inv);
            cost += weight[i] * phi;
            gw[i] += share * wanted * phi;
        }
        terms[TERM_DEPTH] += share * wanted * cost;
    }
    float *g_rgb[3], *g_ls = (float *)b.g_log_sigma + at;
    for (int c = 0; c < 3; ++c) g_rgb[c] = (float *)b.g_rgb + c * NB + at;
    const float *raw[3], *below[3];
    for (int c = 0; c < 3; ++c) raw[c] = (const float *)b.rgb + c * NB + at;
    for (int c = 0; c < 3; ++c) below[c] = (const float *)b.below + c * NB + at;
    for (int c = 0; c < 3; ++c)
        for (int i = 0; i < S; ++i) {
            const bool free = raw[c][i] > LOG_RGB_MIN && raw[c][i] < LOG_RGB_MAX;
            g_rgb[c][i] = free ? g_lin[c] * weight[i] * rad[c][i] * below[c][i] : 0.0f;
        }
    const float *pass = (const float *)b.pass + at, *tau = (const float *)b.tau + at;
    const float *ls = (const float *)b.log_sigma + at;
    float behind = gw[S - 1] * weight[S - 1];  // sum of gw * weight of all later samples
    g_ls[S - 1] = 0.0f;
    float T[NB];
    T[0] = 1.0f;
    for (int i = 0; i < S - 1; ++i) T[i + 1] = T[i] * pass[i];
    for (int i = S - 2; i >= 0; --i) {
        const float g_tau = gw[i] * T[i + 1] - behind;
        g_ls[i] = ls[i] < LOG_SIGMA_MAX ? g_tau * tau[i] : 0.0f;
        behind += gw[i] * weight[i];
    }
}

// From g_rgb and g_log_sigma to g_feature, and the weights' gradient into gw (WEIGHTS, in tiles).
static inline void backward(const Transposed &t, Block &b, vf *gw) {
    outer<RGB, HID>(b.g_rgb, b.c2, gw + A3 / VW);
    multiply<HID, RGB>(t.a3, b.g_rgb, b.g2);
    relu_back(b.g2, b.c2, HID);
    outer<HID, HID>(b.g2, b.c1, gw + A2 / VW);
    multiply<HID, HID>(t.a2, b.g2, b.g1);
    relu_back(b.g1, b.c1, HID);
    outer<HID, IN>(b.g1, b.input, gw + A1 / VW);
    multiply<IN, HID>(t.a1, b.g1, b.g_in);
    memcpy(b.g_out, b.g_log_sigma, NB * 4);
    memcpy(b.g_out + NV, b.g_in, 15 * NB * 4);
    outer<OUT, HID>(b.g_out, b.hidden, gw + W2 / VW);
    multiply<HID, OUT>(t.w2, b.g_out, b.g_hidden);
    relu_back(b.g_hidden, b.hidden, HID);
    outer<HID, IN>(b.g_hidden, b.feature, gw + W1 / VW);
    multiply<IN, HID>(t.w1, b.g_hidden, b.g_feature);
}

static inline void untile_all(const vf *tiles, float *gw) {
    untile(tiles + W1 / VW, HID, IN, gw + W1);
    untile(tiles + W2 / VW, OUT, HID, gw + W2);
    untile(tiles + A1 / VW, HID, IN, gw + A1);
    untile(tiles + A2 / VW, HID, HID, gw + A2);
    untile(tiles + A3 / VW, RGB, HID, gw + A3);
}
