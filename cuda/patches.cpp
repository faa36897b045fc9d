// Where small patches of one picture lie in another: Lucas-Kanade with gain and offset, Gaussian
// window, the warp of each patch given. The plain twin is endorecon/patches.py.
#include <algorithm>
#include <cmath>
#include <vector>

namespace {

struct Pixel {
    int at;
    float fx, fy;
};

// Bilinear place of (x, y), pixel centres at .5; clamped into the picture.
inline Pixel place(double x, double y, int h, int w) {
    x = x > 0.5 ? std::min(x - 0.5, w - 1.001) : 0.0;  // NaN, too, is the corner
    y = y > 0.5 ? std::min(y - 0.5, h - 1.001) : 0.0;
    const int j = (int)x, i = (int)y;
    return {i * w + j, (float)(x - j), (float)(y - i)};
}

inline float sample(const float* a, const Pixel& p, int w) {
    const float upper = a[p.at] * (1 - p.fx) + a[p.at + 1] * p.fx;
    const float lower = a[p.at + w] * (1 - p.fx) + a[p.at + w + 1] * p.fx;
    return upper * (1 - p.fy) + lower * p.fy;
}

}  // namespace

extern "C" {

// reference, picture, slope_x, slope_y (of the picture): (h, w). uv_reference (n, 2), uv (n, 2) in
// and out, warp (n, 2, 2): offsets in the reference to offsets in the picture. Window of half width
// `radius`, standard deviation `width`; contrast far below `least` (> 0) is none: a flat patch is like
// no other. Out: ncc (n), normal (n, 3): the normal matrix xx, xy, yy of a shift, residual (n): mean
// square of what stays unexplained.
int endorecon_shift_patches(int n, int h, int w, const float* reference, const float* picture,
                            const float* slope_x, const float* slope_y, const double* uv_reference,
                            double* uv, const double* warp, int radius, float width, float least,
                            int steps, float still, float* ncc, float* normal, float* residual) {
    if (h < 2 || w < 2 || radius < 1) return 1;
    const int side = 2 * radius + 1, size = side * side;
    std::vector<float> weight(size), mine(size), theirs(size), gx(size), gy(size);
    float total = 0;
    for (int k = 0; k < size; k++) {
        const int x = k % side - radius, y = k / side - radius;
        total += weight[k] = std::exp(-(x * x + y * y) / (2 * width * width));
    }
    for (float& a : weight) a /= total;
    const auto centre = [&](std::vector<float>& a) {
        float mean = 0;
        for (int k = 0; k < size; k++) mean += a[k] * weight[k];
        for (float& v : a) v -= mean;
    };
    const auto dot = [&](const std::vector<float>& a, const std::vector<float>& b) {
        float sum = 0;
        for (int k = 0; k < size; k++) sum += a[k] * b[k] * weight[k];
        return sum;
    };
    for (int i = 0; i < n; i++) {
        const double *from = uv_reference + 2 * i, *m = warp + 4 * i;
        for (int k = 0; k < size; k++)
            mine[k] = sample(reference,
                             place(from[0] + k % side - radius, from[1] + k / side - radius, h, w),
                             w);
        centre(mine);
        const float contrast = std::sqrt(dot(mine, mine));
        double x = uv[2 * i], y = uv[2 * i + 1];
        for (int step = 0;; step++) {
            for (int k = 0; k < size; k++) {
                const int dx = k % side - radius, dy = k / side - radius;
                const Pixel p =
                    place(x + m[0] * dx + m[1] * dy, y + m[2] * dx + m[3] * dy, h, w);
                theirs[k] = sample(picture, p, w);
                gx[k] = sample(slope_x, p, w);
                gy[k] = sample(slope_y, p, w);
            }
            centre(theirs), centre(gx), centre(gy);
            const float own = std::sqrt(dot(theirs, theirs));
            ncc[i] = dot(mine, theirs) / std::sqrt((contrast * contrast + least * least) *
                                                   (own * own + least * least));
            const float gain = contrast / std::max(own, 1e-6f);
            for (int k = 0; k < size; k++) {
                gx[k] *= gain, gy[k] *= gain;
                theirs[k] = mine[k] - theirs[k] * gain;
            }
            const float a = dot(gx, gx), b = dot(gx, gy), c = dot(gy, gy);
            normal[3 * i] = a, normal[3 * i + 1] = b, normal[3 * i + 2] = c;
            residual[i] = dot(theirs, theirs);
            if (step == steps) break;
            const float damp = 1e-3f * (a + c) + 1e-12f, u = dot(gx, theirs), v = dot(gy, theirs);
            const double det = (double)(a + damp) * (c + damp) - (double)b * b;
            const double mx = ((c + damp) * u - b * v) / det, my = ((a + damp) * v - b * u) / det;
            const double length = std::hypot(mx, my), cut = std::min(1.0, 1.0 / std::max(length, 1e-9));
            if (!(length > still)) break;
            x += mx * cut, y += my * cut;
        }
        uv[2 * i] = x, uv[2 * i + 1] = y;
    }
    return 0;
}
}
