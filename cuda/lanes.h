// Vector lanes for the CPU kernels: GCC/Clang vector extensions, no intrinsics, so that one text
// serves AVX-512, AVX2, SSE and NEON. A block holds NB samples, one row a feature (SoA).
#pragma once
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a library's border
#include <stdint.h>
#include <string.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#ifdef __AVX512F__
enum { VW = 16, TILE = 4 };  // lanes; vectors a tile is wide (4 x 4 accumulators of 32 registers)
#else
enum { VW = 8, TILE = 2 };  // 4 x 2 of 16
#endif
enum { NB = 128, NV = NB / VW };

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));

// Denormals to zero while it lives, in the thread that made it. Light that is left behind an opaque
// surface, and its gradient, are such numbers, and each would cost a hundred times a plain one.
struct FlushDenormals {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040u); }
    ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        __asm__ volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
    }
    ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#else
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
};

static inline vf splat(float x) { return x - vf{}; }

static inline vf load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void store(float *p, vf x) { memcpy(p, &x, sizeof x); }

// VW pairs of floats, scaled: the first of each, the second of each.
static inline void apart(const float *pairs, float scale, vf &first, vf &second) {
    vi even, odd;
    for (int i = 0; i < VW; ++i) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
    const vf a = load(pairs), b = load(pairs + VW);
    first = scale * __builtin_shuffle(a, b, even);
    second = scale * __builtin_shuffle(a, b, odd);
}

static inline void together(vf first, vf second, float *pairs) {
    vi low, high;
    for (int i = 0; i < VW; ++i) {
        low[i] = i / 2 + (i & 1) * VW;
        high[i] = low[i] + VW / 2;
    }
    store(pairs, __builtin_shuffle(first, second, low));
    store(pairs + VW, __builtin_shuffle(first, second, high));
}

static inline vf root(vf x) {  // square root in every lane
    float a[VW];
    memcpy(a, &x, sizeof x);
    for (int i = 0; i < VW; ++i) a[i] = __builtin_sqrtf(a[i]);
    memcpy(&x, a, sizeof x);
    return x;
}

// exp in every lane, 2 ulp; NaN stays NaN, overflow ends at e^88, underflow at e^-87.
static inline vf vexp(vf x) {
    x = x > 88.0f ? splat(88.0f) : x;
    x = x < -87.0f ? splat(-87.0f) : x;
    const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    vf t = x * 1.44269504f + magic;
    vf n = t - magic;
    vf r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vi bits = (((vi)t - (vi)magic) + 127) << 23;
    return p * (vf)bits;
}

// log in every lane, 2 ulp, of positive normal numbers; anything else gives NaN.
static inline vf vlog(vf x) {
    const vi bits = (vi)x, e = ((bits >> 23) & 255) - 126;
    vf m = (vf)((bits & 0x007fffff) | 0x3f000000);  // in [1/2, 1)
    const vi small = m < 0.707106781f;
    vf n = __builtin_convertvector(e + small, vf);  // small is -1 where true
    m = (small ? m + m : m) - 1.0f;
    vf p = splat(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const vf square = m * m;
    const vf y = p * m * square - n * 2.12194440e-4f - 0.5f * square;
    const vf found = m + y + n * 0.693359375f;
    return (x > 0.0f) & (x < __builtin_inff()) ? found : splat(__builtin_nanf(""));
}

// Every lane the sum of itself and all lanes before it.
template <int STEP = 1>
static inline vf running(vf x) {
    if constexpr (STEP == VW) {
        return x;
    } else {
        vi from;  // lanes below STEP take a zero
        for (int i = 0; i < VW; ++i) from[i] = i < STEP ? VW : i - STEP;
        return running<2 * STEP>(x + __builtin_shuffle(x, vf{}, from));
    }
}

// Y (M x NB) = W (M x K, row-major) X (K x NB).
template <int M, int K>
static inline void multiply(const float *__restrict__ W, const vf *__restrict__ X,
                            vf *__restrict__ Y) {
    static_assert(M % 4 == 0, "rows are padded to a multiple of four");
    for (int j = 0; j < M; j += 4)
        for (int n = 0; n < NV; n += TILE) {
            vf acc[4][TILE] = {};
            const float *w = W + j * K;
            for (int k = 0; k < K; ++k)
                for (int a = 0; a < 4; ++a)
                    for (int b = 0; b < TILE; ++b) acc[a][b] += w[a * K + k] * X[k * NV + n + b];
            for (int a = 0; a < 4; ++a)
                for (int b = 0; b < TILE; ++b) Y[(j + a) * NV + n + b] = acc[a][b];
        }
}

// Lane i of the result is the sum over the lanes of acc[i]: a fixed tree of shuffles.
template <int STEP = 1>
static inline vf sums(const vf *acc) {
    if constexpr (STEP == VW) {
        return acc[0];
    } else {
        vi even, odd;  // at stride STEP: own lanes where that bit of the lane is clear, else b's
        for (int i = 0; i < VW; ++i) {
            even[i] = i & STEP ? VW + i - STEP : i;
            odd[i] = i & STEP ? VW + i : i + STEP;
        }
        vf half[VW / 2 / STEP];
        for (int i = 0; i < VW / 2 / STEP; ++i)
            half[i] = __builtin_shuffle(acc[2 * i], acc[2 * i + 1], even) +
                      __builtin_shuffle(acc[2 * i], acc[2 * i + 1], odd);
        return sums<2 * STEP>(half);
    }
}

// G (M x K) += D (M x NB) X (K x NB)^T, kept as tiles of 4 x TILE (see untile).
template <int M, int K>
static inline void outer(const vf *__restrict__ D, const vf *__restrict__ X, vf *__restrict__ G) {
    static_assert(M % 4 == 0 && K % TILE == 0 && 4 * TILE == VW, "one vector a tile");
    for (int j = 0; j < M; j += 4)
        for (int k = 0; k < K; k += TILE) {
            vf acc[VW] = {};
            for (int n = 0; n < NV; ++n)
                for (int a = 0; a < 4; ++a)
                    for (int b = 0; b < TILE; ++b)
                        acc[a * TILE + b] += D[(j + a) * NV + n] * X[(k + b) * NV + n];
            *G++ += sums(acc);
        }
}

// Tiles of outer() added to a row-major matrix (rows x columns).
static inline void untile(const vf *tiles, int rows, int columns, float *out) {
    for (int j = 0; j < rows; j += 4)
        for (int k = 0; k < columns; k += TILE, ++tiles)
            for (int i = 0; i < VW; ++i)
                out[(j + i / TILE) * columns + k + i % TILE] += (*tiles)[i];
}

static inline void relu(vf *x, int rows) {  // NaN stays NaN, to be found by the guard
    for (int i = 0; i < rows * NV; ++i) x[i] = x[i] < 0.0f ? vf{} : x[i];
}

static inline void relu_back(vf *g, const vf *x, int rows) {
    for (int i = 0; i < rows * NV; ++i) g[i] = x[i] > 0.0f ? g[i] : vf{};
}
