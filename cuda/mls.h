// Arithmetic shared by the CPU and the GPU smoothing: a robust local quadratic of inverse depth.
// Offsets are in units of the Gaussian's sigma, so that all monomials are of order one.
#pragma once

#include <math.h>

#ifdef __CUDACC__
#define EN_HD __host__ __device__ __forceinline__
#else
#define EN_HD inline
#endif

namespace endorecon {

// Moments of one pixel: 15 of the weights (monomials up to degree 4), 6 of the values, 1 residual.
constexpr int MOMENTS = 22;
constexpr int TERMS = 6;  // 1, x, y, x^2, x y, y^2

// Tukey's weight of a relative miss e / tolerance.
EN_HD float tukey(float e) {
    const float k = 1.0f - e * e;
    return k > 0.0f ? k * k : 0.0f;
}

// Adds one sample at (x, y): its window weight times its own, its value, and 1 / (tolerance centre).
EN_HD void add_sample(float* m, const float* c, float x, float y, float weight, float value,
                      float scale) {
    const float xx = x * x, xy = x * y, yy = y * y;
    const float e = (value - (c[0] + x * c[1] + y * c[2] + xx * c[3] + xy * c[4] + yy * c[5])) * scale;
    const float k = weight * tukey(e), v = k * value;
    const float basis[15] = {1,      x,      y,       xx,      xy,      yy,      xx * x, xx * y,
                             x * yy, y * yy, xx * xx, xx * xy, xx * yy, xy * yy, yy * yy};
    for (int q = 0; q < 15; q++) m[q] += k * basis[q];
    for (int q = 0; q < TERMS; q++) m[15 + q] += v * basis[q];
    m[21] += k * e * e;
}

// Coefficients c[6] of the weighted least-squares quadratic from its moments, and the variance
// `gain` of c[0] when the weights are inverse variances of independent samples. Ridges draw slope
// and curvature to zero where nothing supports them. False where there is no support at all.
EN_HD bool quadratic(const float* m, float* c, float& gain) {
    const int index[TERMS][TERMS] = {{0, 1, 2, 3, 4, 5},   {1, 3, 4, 6, 7, 8},
                                     {2, 4, 5, 7, 8, 9},   {3, 6, 7, 10, 11, 12},
                                     {4, 7, 8, 11, 12, 13}, {5, 8, 9, 12, 13, 14}};
    const double total = m[0];
    if (!(total > 1e-12)) return false;
    double a[TERMS][TERMS + 2];
    for (int i = 0; i < TERMS; i++) {
        for (int j = 0; j < TERMS; j++) a[i][j] = m[index[i][j]];
        if (i > 0) a[i][i] += (i < 3 ? 1e-3 : 3e-2) * total;
        a[i][TERMS] = m[15 + i];
        a[i][TERMS + 1] = i == 0;
    }
    for (int i = 0; i < TERMS; i++) {
        const double pivot = a[i][i];
        if (!(pivot > 1e-14 * total)) return false;
        for (int j = i; j < TERMS + 2; j++) a[i][j] /= pivot;
        for (int r = 0; r < TERMS; r++) {
            if (r == i) continue;
            const double f = a[r][i];
            for (int j = i; j < TERMS + 2; j++) a[r][j] -= f * a[i][j];
        }
    }
    for (int i = 0; i < TERMS; i++) c[i] = (float)a[i][TERMS];
    gain = (float)a[0][TERMS + 1];
    return true;
}

}  // namespace endorecon
