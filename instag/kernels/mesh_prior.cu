// Depth and smooth normals of a face mesh in T frames: a warp covers one triangle of one frame, the nearest surface wins
// an atomic minimum; then every pixel is worked out from its triangle. Twin of data_utils/priors.py::rasterize_mesh.

#define SLACK 1e-4f          // of barycentric coordinates: pixels on an edge belong to both triangles
#define SMALLEST_AREA 1e-6f  // px^2
#define NORMAL_STEPS 127.0f
#define NOWHERE 0xffffffffffffffffull
#define WARPS 4
typedef unsigned long long u64;

struct Triangle {
    float x[3], y[3], z[3], area;
};

// Corners in pixels, principal point at the centre; depth in the vertices' unit.
__device__ __forceinline__ Triangle corners_of(const float* __restrict__ vertices, const int* __restrict__ triangle, float focal,
                                               int size) {
    Triangle t;
    for (int k = 0; k < 3; k++) {
        const float* vertex = vertices + 3 * triangle[k];
        t.z[k] = vertex[2];
        t.x[k] = vertex[0] / vertex[2] * focal + 0.5f * size;
        t.y[k] = vertex[1] / vertex[2] * focal + 0.5f * size;
    }
    t.area = (t.x[1] - t.x[0]) * (t.y[2] - t.y[0]) - (t.y[1] - t.y[0]) * (t.x[2] - t.x[0]);
    return t;
}

// Perspective weights of a pixel; false where it lies outside. Their sum is 1 / depth.
__device__ __forceinline__ bool weights_at(const Triangle& t, int column, int row, float* weight) {
    float x = column + 0.5f - t.x[0], y = row + 0.5f - t.y[0];
    float second = (x * (t.y[2] - t.y[0]) - y * (t.x[2] - t.x[0])) / t.area;
    float third = ((t.x[1] - t.x[0]) * y - (t.y[1] - t.y[0]) * x) / t.area;
    weight[0] = (1.0f - second - third) / t.z[0];
    weight[1] = second / t.z[1];
    weight[2] = third / t.z[2];
    return 1.0f - second - third >= -SLACK && second >= -SLACK && third >= -SLACK;
}

// Grid (ceil(M / 4), T). nearest [T, size, size]: bits of the depth, then the triangle; starts as NOWHERE.
extern "C" __global__ void __launch_bounds__(32 * WARPS) mesh_cover(int triangles, int vertex_count, int size, float focal,
                                                                    const float* __restrict__ vertices,
                                                                    const int* __restrict__ corners,
                                                                    u64* __restrict__ nearest) {
    int index = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x & 31;
    if (index >= triangles) return;
    Triangle t = corners_of(vertices + (size_t)blockIdx.y * vertex_count * 3, corners + 3 * index, focal, size);
    if (!(fabsf(t.area) >= SMALLEST_AREA)) return;  // edge-on: covers nothing
    int left = max(0, (int)ceilf(fminf(t.x[0], fminf(t.x[1], t.x[2])) - 0.5f - SLACK));
    int top = max(0, (int)ceilf(fminf(t.y[0], fminf(t.y[1], t.y[2])) - 0.5f - SLACK));
    int right = min(size - 1, (int)floorf(fmaxf(t.x[0], fmaxf(t.x[1], t.x[2])) - 0.5f + SLACK));
    int bottom = min(size - 1, (int)floorf(fmaxf(t.y[0], fmaxf(t.y[1], t.y[2])) - 0.5f + SLACK));
    int columns = right - left + 1, pixels = columns > 0 && bottom >= top ? columns * (bottom - top + 1) : 0;
    for (int k = lane; k < pixels; k += 32) {
        int row = top + k / columns, column = left + k % columns;
        float weight[3];
        if (!weights_at(t, column, row, weight)) continue;
        float depth = 1.0f / (weight[0] + weight[1] + weight[2]);
        atomicMin(nearest + ((size_t)blockIdx.y * size + row) * size + column,
                  ((u64)__float_as_uint(depth) << 32) | (unsigned)index);
    }
}

// Grid (ceil(size^2 / 128), T). normals [T, V, 3] in the axes of the output. depth is 0 where nothing is.
extern "C" __global__ void __launch_bounds__(32 * WARPS) mesh_resolve(
    int vertex_count, int size, float focal, const float* __restrict__ vertices, const float* __restrict__ normals,
    const int* __restrict__ corners, const u64* __restrict__ nearest, float* __restrict__ depth,
    signed char* __restrict__ normal, unsigned char* __restrict__ valid) {
    int pixel = blockIdx.x * 32 * WARPS + threadIdx.x;
    if (pixel >= size * size) return;
    size_t at = (size_t)blockIdx.y * size * size + pixel, first = (size_t)blockIdx.y * vertex_count * 3;
    u64 key = nearest[at];
    float n[3] = {0.0f, 0.0f, 0.0f};
    if (key != NOWHERE) {
        const int* triangle = corners + 3 * (unsigned)(key & 0xffffffffu);
        float weight[3];
        weights_at(corners_of(vertices + first, triangle, focal, size), pixel % size, pixel / size, weight);
        for (int k = 0; k < 3; k++)
            for (int axis = 0; axis < 3; axis++) n[axis] += weight[k] * normals[first + 3 * triangle[k] + axis];
        float scale = NORMAL_STEPS / (sqrtf(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-12f);
        for (int axis = 0; axis < 3; axis++) n[axis] = rintf(n[axis] * scale);
    }
    depth[at] = key == NOWHERE ? 0.0f : __uint_as_float((unsigned)(key >> 32));
    valid[at] = key != NOWHERE;
    for (int axis = 0; axis < 3; axis++) normal[3 * at + axis] = (signed char)n[axis];
}
