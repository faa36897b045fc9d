// The arithmetic that the CPU and the CUDA kernels share: level geometry, hash, trilinear weights,
// activations, view harmonics, the layout of parameters and the structs that cross the C interface.
//
// Units inside the field: positions in [0, 1]^3 of the scene box; z-depth, distance and 1/density
// in reference depths (the median sparse depth), so that all numbers are near one.
// Hash: Mueller et al. 2022, eq. 4 (primes 1, 2654435761, 805459861), dense where a level fits.
#pragma once
#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD static inline __attribute__((always_inline))
#endif

enum { MAX_LEVELS = 16, IN = 24, HID = 32, OUT = 16, SH = 9, RGB = 4 };  // RGB: one row of padding
enum {  // offsets of the five weight matrices (rows x columns, row-major) in the flat vector
    W1 = 0,               // HID x IN    density net
    W2 = W1 + HID * IN,   // OUT x HID   row 0: log density, rows 1..15: features
    A1 = W2 + OUT * HID,  // HID x IN    colour net; its input: 15 features, 9 view harmonics
    A2 = A1 + HID * IN,   // HID x HID
    A3 = A2 + HID * HID,  // RGB x HID   row 3 is unused
    WEIGHTS = A3 + RGB * HID
};
enum { TERM_COLOUR, TERM_DEPTH, TERM_SPREAD, TERM_SQUARE, TERM_NORM, TERMS };

static const float LOG_SIGMA_MAX = 12.0f, LOG_SIGMA_SHIFT = -1.0f;
static const float LOG_RGB_MIN = -12.0f, LOG_RGB_MAX = 8.0f;
static const float NEAREST_LIGHT2 = 0.01f;  // (0.1 reference depths)^2: 1/t^2 is cut there
static const float DISPLAY_EPS = 1e-4f;     // keeps the gradient of the response finite in the dark

struct Levels {  // one hash grid
    int32_t count, log2_table;
    int32_t res[MAX_LEVELS];    // cells along an edge
    int32_t dense[MAX_LEVELS];  // 1: (res + 1)^3 rows in order; 0: hashed
    float scale[MAX_LEVELS];    // features are multiplied by this; 0: the level is still closed
};

struct Model {
    Levels levels;
    float *table;    // (levels, 2^log2_table, 2)
    float *weights;  // (WEIGHTS)
    float *extras;   // (views + 1): log exposure of each view, then log of the response's exponent
    int32_t views;
    int32_t near_light;
    float response;  // exponent of the response: display = (radiance + eps)^(response e^extra)
    float inverse_ceiling[3];  // 1 / the radiance that no surface exceeds; 0: none
};

struct Batch {  // what one pass looks at; R rays of S samples
    int32_t rays, samples;
    const float *origin;     // (R, 3) in the box
    const float *direction;  // (R, 3) box per unit z
    const float *view;       // (R, 3) unit, world axes
    const float *norm;       // (R) distance per unit z
    const float *falloff;    // (R, 3) or null: light distance^2 = a + b z + c z^2; null: (norm z)^2
    const int32_t *frame;    // (R) view whose exposure counts, -1: none
    const float *edges;      // (R, S + 1) z of the sample boundaries
    const float *colour;     // (R, 3) display values seen; used where colour_weight > 0
    const float *colour_weight;  // (R)
    const float *target;         // (R) z wanted
    const float *target_scale;   // (R) z by which a miss is measured
    const float *target_weight;  // (R) 0: no target
    float charbonnier, spread_weight;
    float white;  // a display value from here up says "at least so bright"
};

struct Adam {
    float *table_m, *table_v, *weights_m, *weights_v, *extras_m, *extras_v;
    float rate_table, rate_weights, rate_extras, beta1, beta2, eps;
    float correct1, correct2;  // 1 / (1 - beta^t)
    float clip;                // largest norm of the gradient at the features; 0: no clipping
    float anchor;              // pull of the extras towards zero
};

HD uint32_t row_of(uint32_t x, uint32_t y, uint32_t z, uint32_t res, int dense, uint32_t mask) {
    return dense ? x + (res + 1u) * (y + (res + 1u) * z)
                 : (x ^ (y * 2654435761u) ^ (z * 805459861u)) & mask;
}

// Cell and place in it of one coordinate; NaN and everything outside the box end on its face.
HD uint32_t cell_of(float x, int res, float *frac) {
    float p = x * (float)res;
    p = p > 0.0f ? p : 0.0f;
    p = p < (float)res ? p : (float)res;
    float c = floorf(p);
    c = c < (float)(res - 1) ? c : (float)(res - 1);
    *frac = p - c;
    return (uint32_t)c;
}

// Real spherical harmonics to degree 2 of a unit vector.
HD void harmonics(const float *v, float *out) {
    float x = v[0], y = v[1], z = v[2];
    out[0] = 0.28209479f;
    out[1] = 0.48860251f * y;
    out[2] = 0.48860251f * z;
    out[3] = 0.48860251f * x;
    out[4] = 1.09254843f * x * y;
    out[5] = 1.09254843f * y * z;
    out[6] = 0.31539157f * (3.0f * z * z - 1.0f);
    out[7] = 1.09254843f * x * z;
    out[8] = 0.54627421f * (x * x - y * y);
}

// 1 / distance^2 to the light at depth z.
HD float light_at(const Model *m, const Batch *b, int ray, float z) {
    if (!m->near_light) return 1.0f;
    float t2;
    if (b->falloff) {
        const float *f = b->falloff + 3 * ray;
        t2 = f[0] + z * (f[1] + z * f[2]);
    } else {
        t2 = z * z * b->norm[ray] * b->norm[ray];
    }
    return 1.0f / (t2 > NEAREST_LIGHT2 ? t2 : NEAREST_LIGHT2);
}

// Share of its raw radiance e^raw that a colour keeps below its ceiling: 1 far below, 0 at it. It
// is also what is left of the gradient at raw.
HD float below_ceiling(const Model *m, int c, float raw_radiance) {
    return 1.0f / (1.0f + raw_radiance * m->inverse_ceiling[c]);
}

// Miss of a display value. A clipped pixel is as bright as the display goes, or far brighter: to
// outshine it is no miss.
HD float colour_miss(float shown, float seen, float white) {
    return seen >= white && shown > seen ? 0.0f : shown - seen;
}

// Cost of weight at a relative miss r from a depth target: Cauchy, bounded pull however far.
HD float miss_cost(float r) { return 0.5f * log1pf(r * r); }

struct Sampler {  // how edges are placed along rays
    const float *grid;  // (grid_res^3), x fastest... index (x * res + y) * res + z
    int32_t grid_res, bins;
    float near_z;
    float uniform_share;  // of the samples that do not go into a band
    float band_share;     // of the samples of a ray that has a band
};

// Where a ray leaves (and enters) the box, in z.
HD void box_span(const float *o, const float *d, float near_z, float *z0, float *z1) {
    float lo = near_z, hi = 1e9f;
    for (int k = 0; k < 3; ++k) {
        float inv = 1.0f / (fabsf(d[k]) > 1e-9f ? d[k] : (d[k] < 0.0f ? -1e-9f : 1e-9f));
        float a = (0.0f - o[k]) * inv, b = (1.0f - o[k]) * inv;
        float first = a < b ? a : b, second = a < b ? b : a;
        lo = first > lo ? first : lo;
        hi = second < hi ? second : hi;
    }
    *z0 = lo;
    *z1 = hi > lo * 1.01f + 1e-3f ? hi : lo * 1.01f + 1e-3f;
}
