// Arithmetic shared by the CPU and the GPU sweep: projection, bilinear sampling, parabola.
// Pixel centres lie at .5; depth is z; a hypothesis is t with 1/z = (1 + t) / z0.
#pragma once

#ifdef __CUDACC__
#define EN_HD __host__ __device__ __forceinline__
#else
#define EN_HD inline
#endif

namespace endorecon {

// Position of ref pixel (x, y) at inverse depth iz in another view.
// m: rows of [K_v R K_ref^-1 | K_v t], so that p = m[:, :3] (x+.5, y+.5, 1) + m[:, 3] iz.
struct Warp {
    float m[12];
};

EN_HD void project(const Warp& q, float px, float py, float iz, float& u, float& v, float& depth_iz) {
    const float a = q.m[0] * px + q.m[1] * py + q.m[2] + q.m[3] * iz;
    const float b = q.m[4] * px + q.m[5] * py + q.m[6] + q.m[7] * iz;
    const float c = q.m[8] * px + q.m[9] * py + q.m[10] + q.m[11] * iz;
    const float r = 1.0f / c;
    u = a * r;
    v = b * r;
    depth_iz = c;  // depth in the view times iz of the reference: z_v = c / iz
}

// Vertex and curvature of the least-squares parabola through five costs at -2..2.
// Returns false where it is not convex.
EN_HD bool parabola5(const float c[5], float& offset, float& a2, float& base) {
    const float s0 = c[0] + c[1] + c[2] + c[3] + c[4];
    const float s1 = -2 * c[0] - c[1] + c[3] + 2 * c[4];
    const float s2 = 4 * c[0] + c[1] + c[3] + 4 * c[4];
    const float a = (s2 - 2.0f * s0) / 14.0f;
    const float b = s1 / 10.0f;
    const float k = (s0 - 10.0f * a) / 5.0f;
    if (!(a > 1e-7f)) return false;
    offset = -b / (2.0f * a);
    a2 = 2.0f * a;
    base = k - b * b / (4.0f * a);
    return true;
}

}  // namespace endorecon
