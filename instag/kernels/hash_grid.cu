// Tri-plane multi-resolution hash grid, forward and backward (METHOD.md section 4): three 2D grids of LEVELS levels with
// one feature each. Twin of instag/fields/encoding.py::encode_torch.
//
// Compile-time: LEVELS; SCALES, RESOLUTIONS, SIZES, OFFSETS, HASHED per level; ENTRIES of a plane; GROUPS of consecutive
// levels with GROUP_FIRST [GROUPS + 1]; PRIVATE_ENTRIES, the entries of the largest group that is privatised.

typedef unsigned int u32;
#define FULL_MASK 0xffffffffu
#define HASH_PRIME 2654435761u
#define FEATURES (3 * LEVELS)

__device__ __constant__ float level_scale[LEVELS] = {SCALES};
__device__ __constant__ int level_resolution[LEVELS] = {RESOLUTIONS};
__device__ __constant__ int level_size[LEVELS] = {SIZES};
__device__ __constant__ int level_offset[LEVELS] = {OFFSETS};
__device__ __constant__ int level_hashed[LEVELS] = {HASHED};
__device__ __constant__ int group_first[GROUPS + 1] = {GROUP_FIRST};

// Planes (x, y), (y, z), (x, z); coordinates in [0, 1]. False where the point lies outside: features and gradients are 0.
__device__ __forceinline__ bool plane_coordinates(const float* __restrict__ point, int plane, float bound, float* u,
                                                  float* v) {
    *u = (point[plane == 1 ? 1 : 0] + bound) / (2.0f * bound);
    *v = (point[plane == 0 ? 1 : 2] + bound) / (2.0f * bound);
    return *u >= 0.0f && *u <= 1.0f && *v >= 0.0f && *v <= 1.0f;
}

struct Cell {
    int corner[4];  // entries (i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1) within the level
    float right, down;
};

__device__ __forceinline__ int corner_entry(u32 i, u32 j, int resolution, int size, bool hashed) {
    return (int)(hashed ? (i ^ (j * HASH_PRIME)) % (u32)size : i + j * (u32)(resolution + 1));
}

__device__ __forceinline__ Cell find_cell(float u, float v, float scale, int resolution, int size, bool hashed) {
    Cell cell;
    float across = u * scale + 0.5f, along = v * scale + 0.5f;
    u32 i = (u32)across, j = (u32)along;
    cell.right = across - (float)i;
    cell.down = along - (float)j;
    cell.corner[0] = corner_entry(i, j, resolution, size, hashed);
    cell.corner[1] = corner_entry(i + 1, j, resolution, size, hashed);
    cell.corner[2] = corner_entry(i, j + 1, resolution, size, hashed);
    cell.corner[3] = corner_entry(i + 1, j + 1, resolution, size, hashed);
    return cell;
}

// Grid (ceil(N / 128), 3, fields): a thread is a point on a plane, all levels. `many` [fields], if given, replaces the
// table; features [fields, N, 3 LEVELS].
extern "C" __global__ void __launch_bounds__(128) hash_grid_forward(int points, float bound, const float* __restrict__ x,
                                                                    const float* __restrict__ table,
                                                                    const float* const* __restrict__ many,
                                                                    float* __restrict__ features) {
    if (many) table = many[blockIdx.z];
    features += (size_t)blockIdx.z * points * FEATURES;
    int i = blockIdx.x * blockDim.x + threadIdx.x, plane = blockIdx.y;
    if (i >= points) return;
    float u, v, feature[LEVELS];
    bool inside = plane_coordinates(x + 3 * (size_t)i, plane, bound, &u, &v);
#pragma unroll
    for (int level = 0; level < LEVELS; level++) {
        feature[level] = 0.0f;
        if (inside) {
            Cell cell = find_cell(u, v, level_scale[level], level_resolution[level], level_size[level], level_hashed[level]);
            const float* entries = table + (size_t)plane * ENTRIES + level_offset[level];
            float upper = entries[cell.corner[0]] * (1.0f - cell.right) + entries[cell.corner[1]] * cell.right;
            float lower = entries[cell.corner[2]] * (1.0f - cell.right) + entries[cell.corner[3]] * cell.right;
            feature[level] = upper * (1.0f - cell.down) + lower * cell.down;
        }
    }
    float* out = features + (size_t)i * FEATURES + plane * LEVELS;
#if LEVELS % 4 == 0
#pragma unroll
    for (int four = 0; four < LEVELS; four += 4)
        *(float4*)(out + four) = make_float4(feature[four], feature[four + 1], feature[four + 2], feature[four + 3]);
#else
#pragma unroll
    for (int level = 0; level < LEVELS; level++) out[level] = feature[level];
#endif
}

// Grid (chunks of points, 3, GROUPS). A block sums the gradient of one plane's group of levels in shared memory and adds
// it to the table's once; a group too large for that (only the paper's ranges have one) adds to the table directly.
// The lanes of a point take one level each, so that neighbouring lanes do not meet in one entry.
// d_table and d_x start at zero; either may be null.
extern "C" __global__ void __launch_bounds__(1024) hash_grid_backward(int points, float bound, const float* __restrict__ x,
                                                                      const float* __restrict__ table,
                                                                      const float* __restrict__ d_features,
                                                                      float* __restrict__ d_table,
                                                                      float* __restrict__ d_x) {
    __shared__ float sums[PRIVATE_ENTRIES];
    int plane = blockIdx.y, first = group_first[blockIdx.z], levels = group_first[blockIdx.z + 1] - first;
    int start = level_offset[first];
    int end = level_offset[first + levels - 1] + level_size[first + levels - 1];
    bool privatised = end - start <= PRIVATE_ENTRIES;
    if (privatised && d_table) {
        for (int k = threadIdx.x; k < end - start; k += blockDim.x) sums[k] = 0.0f;
    }
    __syncthreads();

    int lanes = 1;  // per point: the least power of two that holds the group's levels
    while (lanes < levels) lanes <<= 1;
    int lane = threadIdx.x & (lanes - 1), level = first + min(lane, levels - 1);
    float scale = level_scale[level];
    int resolution = level_resolution[level], size = level_size[level], offset = level_offset[level];
    bool hashed = level_hashed[level];
    const float* entries = table + (size_t)plane * ENTRIES + offset;
    float* target = privatised ? sums + (offset - start) : d_table + (size_t)plane * ENTRIES + offset;

    int per_block = (points + gridDim.x - 1) / gridDim.x, at_once = blockDim.x / lanes;
    int stop = min(points, (int)(blockIdx.x + 1) * per_block);
    for (int base = blockIdx.x * per_block; base < stop; base += at_once) {
        int i = base + threadIdx.x / lanes;
        float u, v, du = 0.0f, dv = 0.0f;
        bool mine = i < stop && lane < levels && plane_coordinates(x + 3 * (size_t)i, plane, bound, &u, &v);
        if (mine) {
            Cell cell = find_cell(u, v, scale, resolution, size, hashed);
            float g = d_features[(size_t)i * FEATURES + plane * LEVELS + level];
            float right = cell.right, down = cell.down;
            if (d_x) {
                float a = entries[cell.corner[0]], b = entries[cell.corner[1]];
                float c = entries[cell.corner[2]], d = entries[cell.corner[3]];
                du = g * scale * ((1.0f - down) * (b - a) + down * (d - c));
                dv = g * scale * ((1.0f - right) * (c - a) + right * (d - b));
            }
            if (d_table) {
                atomicAdd(target + cell.corner[0], g * (1.0f - right) * (1.0f - down));
                atomicAdd(target + cell.corner[1], g * right * (1.0f - down));
                atomicAdd(target + cell.corner[2], g * (1.0f - right) * down);
                atomicAdd(target + cell.corner[3], g * right * down);
            }
        }
        if (d_x) {
            for (int step = lanes >> 1; step > 0; step >>= 1) {
                du += __shfl_xor_sync(FULL_MASK, du, step);
                dv += __shfl_xor_sync(FULL_MASK, dv, step);
            }
            if (mine && lane == 0) {
                atomicAdd(d_x + 3 * (size_t)i + (plane == 1 ? 1 : 0), du / (2.0f * bound));
                atomicAdd(d_x + 3 * (size_t)i + (plane == 0 ? 1 : 2), dv / (2.0f * bound));
            }
        }
    }
    __syncthreads();
    if (privatised && d_table) {
        for (int k = threadIdx.x; k < end - start; k += blockDim.x)
            if (sums[k] != 0.0f) atomicAdd(d_table + (size_t)plane * ENTRIES + start + k, sums[k]);
    }
}
