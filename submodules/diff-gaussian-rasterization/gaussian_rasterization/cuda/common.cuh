// Shared by every kernel of the rasterizer: constants, the layout of a record, warp helpers.
//
// Compile-time settings (given by kernels.py): EXTRA number of extra channels, 0..4; EXACT 1 for the exact extent,
// 0 for the three-sigma tiles; DETACH_EXTRA 1 keeps the extra channels' gradient away from the geometry.
//
// The sources use plain CUDA C++ without headers, so that they compile with NVRTC alone and, through a small shim,
// with a host compiler (tests/kernels/emulator).

typedef unsigned int u32;
typedef unsigned long long u64;

#define FULL_MASK 0xffffffffu
#define TILE 16
#define PATCH_WIDTH 8   // a warp owns a patch of 8 x 4 pixels
#define PATCH_HEIGHT 4
#define PATCHES_PER_TILE 8
#define WARPS_PER_BLOCK 2
#define BLOCKS_PER_TILE (PATCHES_PER_TILE / WARPS_PER_BLOCK)
#define WORK_BINS 32  // a lane each; two an octave of work

// METHOD.md section 3
#define ALPHA_MAX 0.99f
#define ALPHA_MIN (1.0f / 255.0f)
#define TRANSMITTANCE_MIN 1e-4f
#define DILATION 0.3f
#define JACOBIAN_LIMIT 1.3f
#define RADIUS_FLOOR 0.1f
// Culling compares squared Mahalanobis distances of at most 2 ln 255 = 11; this much slack covers their rounding, so
// that only the per-pixel test decides what is drawn.
#define CULL_SLACK 0.01f

// A record: what blending needs of one Gaussian in one view, RECORD_ROWS float4.
//   0 1  position, fraction of a pixel in [-0.5, 0.5]     6  position, whole pixels: two 16-bit integers
//   2 3 4  conic a b c       5  opacity                   7..  features: r g b, depth, normal x y z, extra
// Splitting the position keeps 1e-8 px where one float32 keeps 3e-5 px at the far side of a 512 px image.
#define FEATURES (7 + EXTRA)
#define FIRST_FEATURE 7
#define RECORD_ROWS (EXTRA <= 2 ? 4 : 5)
#define DEPTH_FEATURE 3
#define NORMAL_FEATURE 4
#define EXTRA_FEATURE 7

// Its gradient, accumulated by blend_backward: sums over pixels of p dx, p dy, p dx dx, p dx dy, p dy dy (p = dL/dpower),
// then dL/dopacity, then dL/dfeatures.
#define GRADIENTS (6 + FEATURES)
#define GRADIENT_STRIDE (EXTRA <= 3 ? 16 : 20)
#define FIRST_FEATURE_GRADIENT 6

__device__ __forceinline__ float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

// 1 / x for normal x: the GPU's estimate and a step of Newton's, without the slow path of a division.
__device__ __forceinline__ float reciprocal(float x) {
    float estimate = __fdividef(1.0f, x);
    return fmaf(estimate, fmaf(-x, estimate, 1.0f), estimate);
}

// Four floats of a row of `count`, from `first` on. Rows of a multiple of four are aligned to 16 bytes: a warp whose lanes
// each touch a row of their own needs a quarter of the memory transactions that way.
__device__ __forceinline__ float4 load_four(const float* __restrict__ row, int first, int count) {
    if ((count & 3) == 0) return *(const float4*)(row + first);
    float4 four;
    four.x = row[first];
    four.y = first + 1 < count ? row[first + 1] : 0.0f;
    four.z = first + 2 < count ? row[first + 2] : 0.0f;
    four.w = first + 3 < count ? row[first + 3] : 0.0f;
    return four;
}
__device__ __forceinline__ void store_four(float* __restrict__ row, int first, int count, float4 four) {
    if ((count & 3) == 0) {
        *(float4*)(row + first) = four;
        return;
    }
    row[first] = four.x;
    if (first + 1 < count) row[first + 1] = four.y;
    if (first + 2 < count) row[first + 2] = four.z;
    if (first + 3 < count) row[first + 3] = four.w;
}

// Component `i` of a row of float4; folds away where `i` is a compile-time constant.
__device__ __forceinline__ float component(const float4* rows, int i) {
    float4 row = rows[i >> 2];
    return (i & 3) == 0 ? row.x : (i & 3) == 1 ? row.y : (i & 3) == 2 ? row.z : row.w;
}

__device__ __forceinline__ int pack_pixel(int x, int y) {
    const int limit = 32767;
    x = max(-limit, min(limit, x));
    y = max(-limit, min(limit, y));
    return (x & 0xffff) | (y << 16);
}
__device__ __forceinline__ int packed_x(int packed) { return (int)(short)(packed & 0xffff); }
__device__ __forceinline__ int packed_y(int packed) { return packed >> 16; }

__device__ __forceinline__ int warp_inclusive_sum(int value, int lane, int width) {
#pragma unroll
    for (int offset = 1; offset < width; offset <<= 1) {
        int below = __shfl_up_sync(FULL_MASK, value, offset);
        if (lane >= offset) value += below;
    }
    return value;
}

// Orders of work, heaviest bin first: tiles by the length of their lists (sort_tiles for blend_forward), then patches, a
// view's tiles' after another's, by what forward found in them (blend_forward for blend_backward; without those that
// nothing was drawn in). `work_order`: sizes of the tiles' bins and of the patches', zeroed; then the bins' items.
struct WorkOrder {
    int* sizes;
    int* items;
    int most;  // items of a bin
};

__device__ __forceinline__ WorkOrder tile_order(int* work_order, int tiles) {
    return {work_order, work_order + 2 * WORK_BINS, tiles};
}
__device__ __forceinline__ WorkOrder patch_order(int* work_order, int tiles) {
    return {work_order + WORK_BINS, work_order + (2 + tiles) * WORK_BINS, tiles * PATCHES_PER_TILE};
}

__device__ __forceinline__ void enlist(const WorkOrder& order, int item, int work) {
    work = max(work, 2);
    int octave = 31 - __clz(work), upper = (work >> (octave - 1)) & 1;
    int bin = min(WORK_BINS - 1, 2 * octave + upper);
    int place = atomicAdd(order.sizes + bin, 1);
    order.items[(size_t)bin * order.most + place] = item;
}

// The item at a place of an order; -1 behind the last.
__device__ __forceinline__ int pick(const WorkOrder& order, int place, int lane) {
    int size = order.sizes[WORK_BINS - 1 - lane];
    int inclusive = warp_inclusive_sum(size, lane, WORK_BINS);
    u32 reached = __ballot_sync(FULL_MASK, inclusive > place);
    if (!reached) return -1;
    int bin = __ffs(reached) - 1;
    int before = __shfl_sync(FULL_MASK, inclusive - size, bin);
    return order.items[(size_t)(WORK_BINS - 1 - bin) * order.most + place - before];
}

__device__ __forceinline__ int warp_max(int value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value = max(value, __shfl_xor_sync(FULL_MASK, value, offset));
    return value;
}

// Least squared Mahalanobis distance between a Gaussian's centre (the origin) and the rectangle [left, right] x
// [top, bottom]: on the edges that face the centre, the quadratic form's minimum is found in closed form.
__device__ __forceinline__ float least_distance(float a, float b, float c, float left, float right, float top,
                                                float bottom) {
    float edge_x = clamp(0.0f, left, right);
    float edge_y = clamp(0.0f, top, bottom);
    float dy = clamp(__fdividef(-b * edge_x, c), top, bottom);
    float dx = clamp(__fdividef(-b * edge_y, a), left, right);
    float on_vertical = a * edge_x * edge_x + 2.0f * b * edge_x * dy + c * dy * dy;
    float on_horizontal = a * dx * dx + 2.0f * b * dx * edge_y + c * edge_y * edge_y;
    return fminf(on_vertical, on_horizontal);
}

// Largest squared Mahalanobis distance at which alpha still reaches 1/255; negative where it never does.
__device__ __forceinline__ float cull_threshold(float opacity) { return 2.0f * __logf(255.0f * opacity); }
