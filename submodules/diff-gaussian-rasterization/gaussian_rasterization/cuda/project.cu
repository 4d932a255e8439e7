// Projection: one thread per Gaussian and view writes a record and lists the Gaussian in the tiles it may touch.

struct Camera {
    float r[9];  // world to camera, OpenCV axes
    float t[3];
    float focal;
    float center[3];  // camera centre in the world
};

__device__ __forceinline__ Camera load_camera(const float* __restrict__ world_to_camera,
                                              const float* __restrict__ focal, int view) {
    Camera camera;
    const float* m = world_to_camera + view * 16;
#pragma unroll
    for (int row = 0; row < 3; row++) {
#pragma unroll
        for (int column = 0; column < 3; column++) camera.r[3 * row + column] = m[4 * row + column];
        camera.t[row] = m[4 * row + 3];
    }
#pragma unroll
    for (int axis = 0; axis < 3; axis++)
        camera.center[axis] =
            -(camera.r[axis] * camera.t[0] + camera.r[3 + axis] * camera.t[1] + camera.r[6 + axis] * camera.t[2]);
    camera.focal = focal[view];
    return camera;
}

// Rotation matrix (row-major) of a unit quaternion wxyz.
__device__ __forceinline__ void rotation_matrix(float w, float x, float y, float z, float* R) {
    R[0] = 1.0f - 2.0f * (y * y + z * z);
    R[1] = 2.0f * (x * y - w * z);
    R[2] = 2.0f * (x * z + w * y);
    R[3] = 2.0f * (x * y + w * z);
    R[4] = 1.0f - 2.0f * (x * x + z * z);
    R[5] = 2.0f * (y * z - w * x);
    R[6] = 2.0f * (x * z - w * y);
    R[7] = 2.0f * (y * z + w * x);
    R[8] = 1.0f - 2.0f * (x * x + y * y);
}

__device__ __forceinline__ float4 unit_quaternion(float4 q, float* inverse_length) {
    *inverse_length = 1.0f / fmaxf(sqrtf(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w), 1e-12f);
    return make_float4(q.x * *inverse_length, q.y * *inverse_length, q.z * *inverse_length, q.w * *inverse_length);
}

__device__ __forceinline__ int smallest_axis(const float* s) {
    if (s[2] < s[0] && s[2] < s[1]) return 2;
    return s[1] < s[0] && s[1] < s[2] ? 1 : 0;
}

#define SH_MOST 16  // coefficients of degree 3
#define SH0 0.28209479177387814f
#define SH1 0.4886025119029199f
#define SH2_XY 1.0925484305920792f
#define SH2_ZZ 0.31539156525252005f
#define SH2_XX 0.5462742152960396f
#define SH3_A -0.5900435899266435f
#define SH3_B 2.890611442640554f
#define SH3_C -0.4570457994644658f
#define SH3_D 0.3731763325901154f
#define SH3_E 1.445305721320277f

// Real spherical harmonics of a unit direction, in 3DGS's order and signs; `basis` holds SH_MOST.
__device__ __forceinline__ void sh_basis(int degree, float x, float y, float z, float* basis) {
    basis[0] = SH0;
    if (degree < 1) return;
    basis[1] = -SH1 * y;
    basis[2] = SH1 * z;
    basis[3] = -SH1 * x;
    if (degree < 2) return;
    float xx = x * x, yy = y * y, zz = z * z;
    basis[4] = SH2_XY * x * y;
    basis[5] = -SH2_XY * y * z;
    basis[6] = SH2_ZZ * (2.0f * zz - xx - yy);
    basis[7] = -SH2_XY * x * z;
    basis[8] = SH2_XX * (xx - yy);
    if (degree < 3) return;
    basis[9] = SH3_A * y * (3.0f * xx - yy);
    basis[10] = SH3_B * x * y * z;
    basis[11] = SH3_C * y * (4.0f * zz - xx - yy);
    basis[12] = SH3_D * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
    basis[13] = SH3_C * x * (4.0f * zz - xx - yy);
    basis[14] = SH3_E * z * (xx - yy);
    basis[15] = SH3_A * x * (xx - 3.0f * yy);
}

// The part of the projection that forward and backward share.
struct Splat {
    float view[3];        // mean in camera space; float32 of a float64 result
    double u, v;          // screen position, index units
    float unit[4];        // unit quaternion
    float inverse_length; // 1 / |quaternion|
    float R[9], s[3];
    float slope_x, slope_y;          // X/Z and Y/Z, clamped
    bool clamped_x, clamped_y;
    float row_u[3], row_v[3];        // J W: d(u, v) / d world
    float axis_u[3], axis_v[3];      // J W R, before the scales
    float uu, uv, vv, determinant;   // 2D covariance, dilated
    float ray[3];                    // mean - camera centre
};

// False where the Gaussian lies behind the near plane (then only `view` is set). The position is computed in float64:
// a few dozen operations per Gaussian buy two digits at every pixel.
__device__ __forceinline__ bool project_splat(const Camera& camera, const float* mean, const float* scale, float4 q,
                                              int width, int height, float near_plane, Splat* splat) {
    double position[3];
#pragma unroll
    for (int row = 0; row < 3; row++) {
        position[row] = (double)camera.r[3 * row] * mean[0] + (double)camera.r[3 * row + 1] * mean[1] +
                        (double)camera.r[3 * row + 2] * mean[2] + (double)camera.t[row];
        splat->view[row] = (float)position[row];
    }
    if (!(splat->view[2] > near_plane)) return false;
    double magnification = (double)camera.focal / position[2];
    splat->u = magnification * position[0] + (0.5 * width - 0.5);
    splat->v = magnification * position[1] + (0.5 * height - 0.5);

    float4 unit = unit_quaternion(q, &splat->inverse_length);
    splat->unit[0] = unit.x;
    splat->unit[1] = unit.y;
    splat->unit[2] = unit.z;
    splat->unit[3] = unit.w;
    rotation_matrix(unit.x, unit.y, unit.z, unit.w, splat->R);

    float f_over_z = camera.focal / splat->view[2];
    float limit_x = JACOBIAN_LIMIT * 0.5f * width / camera.focal, limit_y = JACOBIAN_LIMIT * 0.5f * height / camera.focal;
    float slope_x = splat->view[0] / splat->view[2], slope_y = splat->view[1] / splat->view[2];
    splat->slope_x = clamp(slope_x, -limit_x, limit_x);
    splat->slope_y = clamp(slope_y, -limit_y, limit_y);
    splat->clamped_x = fabsf(slope_x) > limit_x;
    splat->clamped_y = fabsf(slope_y) > limit_y;
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        splat->row_u[axis] = f_over_z * (camera.r[axis] - splat->slope_x * camera.r[6 + axis]);
        splat->row_v[axis] = f_over_z * (camera.r[3 + axis] - splat->slope_y * camera.r[6 + axis]);
        splat->s[axis] = scale[axis];
        splat->ray[axis] = mean[axis] - camera.center[axis];
    }
    float along_u[3], along_v[3];
#pragma unroll
    for (int k = 0; k < 3; k++) {
        splat->axis_u[k] = splat->row_u[0] * splat->R[k] + splat->row_u[1] * splat->R[3 + k] + splat->row_u[2] * splat->R[6 + k];
        splat->axis_v[k] = splat->row_v[0] * splat->R[k] + splat->row_v[1] * splat->R[3 + k] + splat->row_v[2] * splat->R[6 + k];
        along_u[k] = splat->axis_u[k] * scale[k];
        along_v[k] = splat->axis_v[k] * scale[k];
    }
    float uu = along_u[0] * along_u[0] + along_u[1] * along_u[1] + along_u[2] * along_u[2];
    float vv = along_v[0] * along_v[0] + along_v[1] * along_v[1] + along_v[2] * along_v[2];
    splat->uv = along_u[0] * along_v[0] + along_u[1] * along_v[1] + along_u[2] * along_v[2];
    float cross_x = along_u[1] * along_v[2] - along_u[2] * along_v[1];
    float cross_y = along_u[2] * along_v[0] - along_u[0] * along_v[2];
    float cross_z = along_u[0] * along_v[1] - along_u[1] * along_v[0];
    splat->uu = uu + DILATION;
    splat->vv = vv + DILATION;
    // Cauchy-Binet: positive by construction, where uu * vv - uv * uv cancels for long thin splats
    splat->determinant = cross_x * cross_x + cross_y * cross_y + cross_z * cross_z + DILATION * (uu + vv) + DILATION * DILATION;
    return true;
}

__device__ __forceinline__ float three_sigma_radius(float uu, float uv, float vv) {
    float half_difference = 0.5f * (uu - vv);
    float spread = sqrtf(fmaxf(RADIUS_FLOOR, half_difference * half_difference + uv * uv));
    return ceilf(3.0f * sqrtf(0.5f * (uu + vv) + spread));
}

// Half-open range of tiles on one axis.
__device__ __forceinline__ void tile_range(float position, float variance, float threshold, float radius, int pixels,
                                           int* first, int* last) {
#if EXACT
    float half = sqrtf(fmaxf(threshold, 0.0f) * variance);
    int first_pixel = (int)clamp(ceilf(position - half), 0.0f, (float)pixels);
    int last_pixel = (int)clamp(floorf(position + half), -1.0f, (float)(pixels - 1));
    bool reached = threshold > 0.0f && last_pixel >= first_pixel;
    *first = reached ? first_pixel / TILE : 0;
    *last = reached ? last_pixel / TILE + 1 : 0;
#else
    float tiles = (float)((pixels + TILE - 1) / TILE);
    *first = (int)clamp(truncf((position - radius) / TILE), 0.0f, tiles);
    *last = (int)clamp(truncf((position + radius + (TILE - 1)) / TILE), 0.0f, tiles);
#endif
}

// What a lane offers to the warp's tile expansion.
struct Footprint {
    float u, v, a, b, c, threshold;
    int first_x, first_y, columns, tiles;
    u32 depth_bits;
};

// Lists every (Gaussian, tile) pair of a warp's 32 Gaussians, one pair a lane and step, so that one Gaussian that covers
// the image does not hold up 31 others. A pair is kept where the ellipse alpha = 1/255 meets the tile's pixels.
__device__ __forceinline__ void list_tiles(const Footprint& mine, int gaussian, int lane, int tiles_x, int capacity,
                                           int* __restrict__ tile_counts, u64* __restrict__ tile_lists) {
    int inclusive = warp_inclusive_sum(mine.tiles, lane, 32);
    int total = __shfl_sync(FULL_MASK, inclusive, 31);
    for (int base = 0; base < total; base += 32) {
        int pair = base + lane, owner = 0;
#pragma unroll
        for (int step = 16; step > 0; step >>= 1) {  // first lane whose inclusive sum exceeds `pair`
            int sum = __shfl_sync(FULL_MASK, inclusive, min(owner + step - 1, 31));
            if (sum <= pair && owner + step <= 31) owner += step;
        }
        float u = __shfl_sync(FULL_MASK, mine.u, owner), v = __shfl_sync(FULL_MASK, mine.v, owner);
        float a = __shfl_sync(FULL_MASK, mine.a, owner), b = __shfl_sync(FULL_MASK, mine.b, owner);
        float c = __shfl_sync(FULL_MASK, mine.c, owner);
        float threshold = __shfl_sync(FULL_MASK, mine.threshold, owner);
        int start = __shfl_sync(FULL_MASK, inclusive - mine.tiles, owner);
        int columns = __shfl_sync(FULL_MASK, mine.columns, owner);
        int first_x = __shfl_sync(FULL_MASK, mine.first_x, owner), first_y = __shfl_sync(FULL_MASK, mine.first_y, owner);
        u32 depth_bits = __shfl_sync(FULL_MASK, mine.depth_bits, owner);
        if (pair < total) {
            int row = (pair - start) / columns;
            int x = first_x + (pair - start) - row * columns, y = first_y + row;
            float left = x * TILE - u, top = y * TILE - v;
            if (least_distance(a, b, c, left, left + (TILE - 1), top, top + (TILE - 1)) <= threshold + CULL_SLACK) {
                int tile = y * tiles_x + x;
                int place = atomicAdd(tile_counts + tile, 1);
                if (place < capacity)
                    tile_lists[(size_t)tile * capacity + place] = ((u64)depth_bits << 32) | (u32)(gaussian - lane + owner);
            }
        }
    }
}

// Grid (ceil(N / 128), B). `means2d` and `record_gradients` may be null; the latter is zeroed here.
extern "C" __global__ void __launch_bounds__(128) project_forward(
    int gaussians, const int* __restrict__ active_count, int width, int height, float near_plane, int sh_degree,
    int sh_count, int opacity_stride, int capacity, const float* __restrict__ means, const float* __restrict__ scales,
    const float4* __restrict__ quaternions, const float* __restrict__ opacities, const float* __restrict__ sh,
    const float* __restrict__ extra, const float* __restrict__ means2d, const float* __restrict__ world_to_camera,
    const float* __restrict__ focal, float4* __restrict__ records, float4* __restrict__ record_gradients,
    int* __restrict__ radii, int* __restrict__ tile_counts, u64* __restrict__ tile_lists) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, view = blockIdx.y, lane = threadIdx.x & 31;
    int tiles_x = (width + TILE - 1) / TILE, tiles_y = (height + TILE - 1) / TILE;
    int active = active_count ? min(*active_count, gaussians) : gaussians;
    size_t at = (size_t)view * gaussians + i;
    Footprint footprint = {};
    if (i < gaussians && record_gradients) {
#pragma unroll
        for (int row = 0; row < GRADIENT_STRIDE / 4; row++)
            record_gradients[at * (GRADIENT_STRIDE / 4) + row] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    int radius = 0;
    Splat splat;
    Camera camera = load_camera(world_to_camera, focal, view);
    if (i < active &&
        project_splat(camera, means + 3 * at, scales + 3 * at, quaternions[at], width, height, near_plane, &splat)) {
        if (means2d) {
            splat.u += 0.5 * width * means2d[2 * at];
            splat.v += 0.5 * height * means2d[2 * at + 1];
        }
        float opacity = opacities[(size_t)view * opacity_stride + i];
        float inverse = 1.0f / splat.determinant;
        footprint.u = (float)splat.u;
        footprint.v = (float)splat.v;
        footprint.a = splat.vv * inverse;
        footprint.b = -splat.uv * inverse;
        footprint.c = splat.uu * inverse;
        footprint.threshold = cull_threshold(opacity);
        footprint.depth_bits = __float_as_uint(splat.view[2]);

        float extent = three_sigma_radius(splat.uu, splat.uv, splat.vv);
        int last_x, last_y;
        tile_range(footprint.u, splat.uu, footprint.threshold, extent, width, &footprint.first_x, &last_x);
        tile_range(footprint.v, splat.vv, footprint.threshold, extent, height, &footprint.first_y, &last_y);
        if (last_x > footprint.first_x && last_y > footprint.first_y) {
            radius = (int)extent;
            footprint.columns = last_x - footprint.first_x;
            footprint.tiles = footprint.threshold > 0.0f ? footprint.columns * (last_y - footprint.first_y) : 0;
        }
        if (footprint.tiles > 0) {  // nobody reads the record of a Gaussian that is in no list
            float record[4 * RECORD_ROWS];
            float whole_u = clamp(rintf(footprint.u), -32767.0f, 32767.0f);
            float whole_v = clamp(rintf(footprint.v), -32767.0f, 32767.0f);
            record[0] = (float)(splat.u - whole_u);
            record[1] = (float)(splat.v - whole_v);
            record[2] = footprint.a;
            record[3] = footprint.b;
            record[4] = footprint.c;
            record[5] = opacity;
            record[6] = __int_as_float(pack_pixel((int)whole_u, (int)whole_v));

            float inverse_distance = rsqrtf(splat.ray[0] * splat.ray[0] + splat.ray[1] * splat.ray[1] + splat.ray[2] * splat.ray[2]);
            float basis[SH_MOST] = {}, color[3] = {0.5f, 0.5f, 0.5f};
            sh_basis(sh_degree, splat.ray[0] * inverse_distance, splat.ray[1] * inverse_distance, splat.ray[2] * inverse_distance, basis);
            const float* coefficients = sh + (size_t)i * sh_count * 3;
            int used = (sh_degree + 1) * (sh_degree + 1);
#pragma unroll
            for (int j = 0; j < 3 * SH_MOST; j += 4) {
                if (j < 3 * used) {
                    float4 four = load_four(coefficients, j, 3 * sh_count);
#pragma unroll
                    for (int e = 0; e < 4; e++) color[(j + e) % 3] += basis[(j + e) / 3] * component(&four, e);
                }
            }
            int axis = smallest_axis(splat.s);
            float normal[3];
#pragma unroll
            for (int row = 0; row < 3; row++)
                normal[row] = axis == 0 ? splat.R[3 * row] : axis == 1 ? splat.R[3 * row + 1] : splat.R[3 * row + 2];
            float facing = normal[0] * splat.ray[0] + normal[1] * splat.ray[1] + normal[2] * splat.ray[2];
#pragma unroll
            for (int k = 0; k < 3; k++) {
                record[FIRST_FEATURE + k] = fmaxf(color[k], 0.0f);
                record[FIRST_FEATURE + NORMAL_FEATURE + k] = facing > 0.0f ? -normal[k] : normal[k];
            }
            record[FIRST_FEATURE + DEPTH_FEATURE] = splat.view[2];
#pragma unroll
            for (int k = 0; k < EXTRA; k++) record[FIRST_FEATURE + EXTRA_FEATURE + k] = extra[at * EXTRA + k];
#pragma unroll
            for (int k = FIRST_FEATURE + FEATURES; k < 4 * RECORD_ROWS; k++) record[k] = 0.0f;
#pragma unroll
            for (int row = 0; row < RECORD_ROWS; row++)
                records[at * RECORD_ROWS + row] =
                    make_float4(record[4 * row], record[4 * row + 1], record[4 * row + 2], record[4 * row + 3]);
        }
    }
    if (i < gaussians) radii[at] = radius;
    list_tiles(footprint, i, lane, tiles_x, capacity, tile_counts + view * tiles_x * tiles_y,
               tile_lists + (size_t)view * tiles_x * tiles_y * capacity);
}
