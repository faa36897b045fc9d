// Weighted truncated signed distance integration of one depth map into a dense grid.
// Each voxel is touched by one thread, maps come in order: the result does not depend on threads.
// The plain twin is surface._integrate_plain.
#include <algorithm>
#include <cmath>
#include <cstdint>

static const float FREE = 0.1f;  // weight of free space, surface._FREE

extern "C" {

// Grid node (ix, iy, iz) lies at origin + voxel * (ix, iy, iz); arrays are [nz][ny][nx].
// z, weight: (h, w), weight 0 = unknown. m: 12 floats, rows of K [R | t] camera_from_world (pixels).
int endorecon_tsdf(int nx, int ny, int nz, const double* origin, double voxel, float trunc, int h,
                   int w, const float* z, const float* weight, const double* m, float* tsdf,
                   float* wsum) {
    float far = 0.0f;
    for (int64_t i = 0; i < (int64_t)h * w; i++)
        if (weight[i] > 0.0f) far = std::max(far, z[i]);
    if (!(far > 0.0f)) return 0;
    const int B = 8;
    const double reach = voxel * B * 0.87;  // half diagonal of a block
#pragma omp parallel for schedule(static)
    for (int bz = 0; bz < (nz + B - 1) / B; bz++)
        for (int by = 0; by < (ny + B - 1) / B; by++)
            for (int bx = 0; bx < (nx + B - 1) / B; bx++) {
                const double cx = origin[0] + voxel * (bx * B + B / 2.0);
                const double cy = origin[1] + voxel * (by * B + B / 2.0);
                const double cz = origin[2] + voxel * (bz * B + B / 2.0);
                const double d = m[8] * cx + m[9] * cy + m[10] * cz + m[11];
                if (d < -reach || d > far + trunc + reach) continue;
                if (d > 2.0 * reach) {  // near blocks are not culled by their projection
                    const double u = (m[0] * cx + m[1] * cy + m[2] * cz + m[3]) / d;
                    const double v = (m[4] * cx + m[5] * cy + m[6] * cz + m[7]) / d;
                    const double f = std::sqrt(m[0] * m[0] + m[1] * m[1] + m[2] * m[2]) +
                                     std::sqrt(m[4] * m[4] + m[5] * m[5] + m[6] * m[6]);
                    const double r = f * reach / (d - reach);
                    if (u < -r || v < -r || u > w + r || v > h + r) continue;
                }
                for (int iz = bz * B; iz < std::min(nz, bz * B + B); iz++)
                    for (int iy = by * B; iy < std::min(ny, by * B + B); iy++) {
                        const double py = origin[1] + voxel * iy, pz = origin[2] + voxel * iz;
                        const int64_t row = ((int64_t)iz * ny + iy) * nx;
                        for (int ix = bx * B; ix < std::min(nx, bx * B + B); ix++) {
                            const double px = origin[0] + voxel * ix;
                            const double c = m[8] * px + m[9] * py + m[10] * pz + m[11];
                            if (!(c > 1e-9)) continue;
                            const double u = (m[0] * px + m[1] * py + m[2] * pz + m[3]) / c;
                            const double v = (m[4] * px + m[5] * py + m[6] * pz + m[7]) / c;
                            if (!(u >= 0.0 && v >= 0.0 && u < w && v < h)) continue;
                            const int64_t k = (int64_t)v * w + (int)u;
                            const float g = weight[k];
                            if (!(g > 0.0f)) continue;
                            const float s = z[k] - (float)c;
                            if (s < -trunc) continue;  // behind the surface: nothing is known
                            const float t = std::min(s / trunc, 1.0f);
                            // Both ways alike, or outliers push the surface back; what lies behind
                            // counts for nothing at last (thin walls stay two-sided), what is seen
                            // through keeps a little weight (floaters go).
                            const float least = s < 0.0f ? 0.0f : FREE;
                            const float q = g * std::max(1.0f - std::fabs(s) / trunc, least);
                            if (!(q > 0.0f)) continue;
                            const float W = wsum[row + ix];
                            tsdf[row + ix] = (tsdf[row + ix] * W + t * q) / (W + q);
                            wsum[row + ix] = W + q;
                        }
                    }
            }
    return 0;
}

}  // extern "C"
