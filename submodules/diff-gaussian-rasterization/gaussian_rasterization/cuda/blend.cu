// Blending, front to back, and its gradient, back to front.
//
// A warp owns 8 x 4 pixels and walks its tile's list 32 Gaussians at a time: each lane tests one Gaussian's ellipse
// against the patch, the survivors are compacted into the warp's own shared memory, and all lanes blend those. Only
// warp-level synchronisation is needed, and a patch does not pay for Gaussians elsewhere in its tile.

#define STAGE_PADDING 3                                       // transparent slots, so that the loop unrolls by four
#define STAGE_SLOTS (32 + 1 + STAGE_PADDING)

struct Patch {
    int view, tile, x, y;     // top left pixel
    int pixel_x, pixel_y;     // this lane's pixel
    float local_x, local_y;   // the same, from the patch's corner
    bool inside;
    int count;
    const u64* list;
};

__device__ __forceinline__ int count_tiles(int width, int height) {
    return ((width + TILE - 1) / TILE) * ((height + TILE - 1) / TILE);
}

// Patch `within` of a tile of all views'.
__device__ __forceinline__ Patch find_patch(int tile, int within, int width, int height, int capacity,
                                            const int* __restrict__ tile_counts, const u64* __restrict__ tile_lists) {
    Patch patch;
    int lane = threadIdx.x & 31;
    int tiles_x = (width + TILE - 1) / TILE, tiles_per_view = count_tiles(width, height);
    patch.view = tile / tiles_per_view;
    patch.tile = tile - patch.view * tiles_per_view;
    patch.x = (patch.tile % tiles_x) * TILE + (within & 1) * PATCH_WIDTH;
    patch.y = (patch.tile / tiles_x) * TILE + (within >> 1) * PATCH_HEIGHT;
    patch.local_x = (float)(lane % PATCH_WIDTH);
    patch.local_y = (float)(lane / PATCH_WIDTH);
    patch.pixel_x = patch.x + lane % PATCH_WIDTH;
    patch.pixel_y = patch.y + lane / PATCH_WIDTH;
    patch.inside = patch.pixel_x < width && patch.pixel_y < height;
    patch.count = min(tile_counts[tile], capacity);
    patch.list = tile_lists + (size_t)tile * capacity;
    return patch;
}

// A lane's candidate: the first two rows of a record, its position from the patch's corner.
struct Candidate {
    int id;
    float4 shape;  // x y a b
    float4 rest;   // c opacity (packed position) first feature
};

__device__ __forceinline__ Candidate load_candidate(const Patch& patch, int index, const float4* __restrict__ records) {
    Candidate candidate;
    candidate.id = (int)(u32)patch.list[index];
    candidate.shape = records[(size_t)candidate.id * RECORD_ROWS];
    candidate.rest = records[(size_t)candidate.id * RECORD_ROWS + 1];
    int packed = __float_as_int(candidate.rest.z);
    candidate.shape.x += (float)(packed_x(packed) - patch.x);
    candidate.shape.y += (float)(packed_y(packed) - patch.y);
    return candidate;
}

__device__ __forceinline__ bool meets_patch(const Candidate& candidate) {
    const float4& shape = candidate.shape;
    float least = least_distance(shape.z, shape.w, candidate.rest.x, -shape.x, (PATCH_WIDTH - 1) - shape.x, -shape.y,
                                 (PATCH_HEIGHT - 1) - shape.y);
    return least <= cull_threshold(candidate.rest.y) + CULL_SLACK;
}

__device__ __forceinline__ void stage(float4* slot, const Candidate& candidate, int index,
                                      const float4* __restrict__ records) {
    slot[0] = candidate.shape;
    slot[1] = candidate.rest;
    slot[1].z = __int_as_float(index);
#pragma unroll
    for (int row = 2; row < RECORD_ROWS; row++) slot[row] = records[(size_t)candidate.id * RECORD_ROWS + row];
}

__device__ __forceinline__ float gaussian_power(const float4& shape, float c, float dx, float dy) {
    return -0.5f * (shape.z * dx * dx + c * dy * dy) - shape.w * dx * dy;
}

// A block for two patches of a tile of a view. Images [B, C, H, W]; `final_state` [3, B, H, W]: the transmittance
// behind the last Gaussian, the reciprocal length of the blended normal, and (as int bits) how far in the list it is.
extern "C" __global__ void __launch_bounds__(WARPS_PER_BLOCK * 32) blend_forward(
    int width, int height, int views, int capacity, const float4* __restrict__ all_records,
    const int* __restrict__ tile_counts, const u64* __restrict__ tile_lists, int* __restrict__ work_order,
    int gaussians, const float* __restrict__ background, int background_stride, float* __restrict__ color,
    float* __restrict__ depth, float* __restrict__ normal, float* __restrict__ alpha, float* __restrict__ extra,
    float* __restrict__ final_state) {
    __shared__ float4 staging[WARPS_PER_BLOCK * STAGE_SLOTS * RECORD_ROWS];
    int lane = threadIdx.x & 31;
    float4* stage_base = staging + (threadIdx.x >> 5) * STAGE_SLOTS * RECORD_ROWS;
    int tiles = views * count_tiles(width, height);
    int tile = pick(tile_order(work_order, tiles), blockIdx.x / BLOCKS_PER_TILE, lane);
    int within = (blockIdx.x % BLOCKS_PER_TILE) * WARPS_PER_BLOCK + (threadIdx.x >> 5);
    Patch patch = find_patch(tile, within, width, height, capacity, tile_counts, tile_lists);
    const float4* records = all_records + (size_t)patch.view * gaussians * RECORD_ROWS;

    float transmittance = 1.0f, blended[FEATURES];
    int last = 0, work = 0;
    bool done = !patch.inside;
#pragma unroll
    for (int f = 0; f < FEATURES; f++) blended[f] = 0.0f;
    Candidate candidate = {};
    if (lane < patch.count) candidate = load_candidate(patch, lane, records);
    for (int base = 0; base < patch.count; base += 32) {
        if (__all_sync(FULL_MASK, done)) break;
        int index = base + lane;
        bool hit = index < patch.count && meets_patch(candidate);
        u32 hits = __ballot_sync(FULL_MASK, hit);
        int count = __popc(hits);
        work += count;
        if (hit) stage(stage_base + __popc(hits & ((1u << lane) - 1)) * RECORD_ROWS, candidate, index + 1, records);
        if (lane < STAGE_PADDING) stage_base[(count + lane) * RECORD_ROWS + 1] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (index + 32 < patch.count) candidate = load_candidate(patch, index + 32, records);  // in flight while blending
        __syncwarp();
        for (int k = 0; k < count; k += 4) {
            float opaque[4];
#pragma unroll
            for (int unroll = 0; unroll < 4; unroll++) {
                float4 shape = stage_base[(k + unroll) * RECORD_ROWS], rest = stage_base[(k + unroll) * RECORD_ROWS + 1];
                float power = gaussian_power(shape, rest.x, shape.x - patch.local_x, shape.y - patch.local_y);
                float a = fminf(ALPHA_MAX, rest.y * __expf(power));
                opaque[unroll] = power <= 0.0f && a >= ALPHA_MIN ? a : 0.0f;
            }
#pragma unroll
            for (int unroll = 0; unroll < 4; unroll++) {
                float weight = opaque[unroll] * transmittance, next = transmittance - weight;
                bool drawn = !done && opaque[unroll] > 0.0f;
                if (drawn && next < TRANSMITTANCE_MIN) {
                    done = true;
                    drawn = false;
                }
                if (drawn) {
                    const float4* slot = stage_base + (k + unroll) * RECORD_ROWS;
                    float4 rows[RECORD_ROWS];
#pragma unroll
                    for (int row = 1; row < RECORD_ROWS; row++) rows[row] = slot[row];
#pragma unroll
                    for (int f = 0; f < FEATURES; f++) blended[f] += weight * component(rows, FIRST_FEATURE + f);
                    transmittance = next;
                    last = __float_as_int(rows[1].z);
                }
            }
        }
        __syncwarp();
    }
    int end = warp_max(last);
    if (lane == 0 && end > 0) enlist(patch_order(work_order, tiles), tile * PATCHES_PER_TILE + within, work);
    if (!patch.inside) return;
    size_t plane = (size_t)width * height, pixel = (size_t)patch.pixel_y * width + patch.pixel_x;
    size_t at = patch.view * plane + pixel, three = 3 * patch.view * plane + pixel;
    const float* behind = background + patch.view * background_stride;
    float length = sqrtf(blended[NORMAL_FEATURE] * blended[NORMAL_FEATURE] +
                         blended[NORMAL_FEATURE + 1] * blended[NORMAL_FEATURE + 1] +
                         blended[NORMAL_FEATURE + 2] * blended[NORMAL_FEATURE + 2]);
    float inverse_length = length > 0.0f ? 1.0f / length : 0.0f;
#pragma unroll
    for (int channel = 0; channel < 3; channel++) {
        color[three + channel * plane] = blended[channel] + transmittance * behind[channel];
        normal[three + channel * plane] = blended[NORMAL_FEATURE + channel] * inverse_length;
    }
    depth[at] = blended[DEPTH_FEATURE];
    alpha[at] = 1.0f - transmittance;
#pragma unroll
    for (int k = 0; k < EXTRA; k++) extra[((size_t)patch.view * EXTRA + k) * plane + pixel] = blended[EXTRA_FEATURE + k];
    final_state[at] = transmittance;
    final_state[views * plane + at] = inverse_length;
    final_state[2 * views * plane + at] = __int_as_float(last);
}

// Sums 32 lanes' 16 values of two Gaussians in 31 shuffles instead of 160: each step halves the values a lane holds.
// Returns to lane l the sum of value l % 16 of the second (l < 16) or first (l >= 16) of the two.
__device__ __forceinline__ float transpose_reduce(const float first[16], const float second[16], int lane) {
    float kept[16];
    bool high = lane & 16;
#pragma unroll
    for (int e = 0; e < 16; e++) {
        kept[e] = 0.0f;
        if (e < GRADIENTS) {
            float send = high ? second[e] : first[e], keep = high ? first[e] : second[e];
            kept[e] = keep + __shfl_xor_sync(FULL_MASK, send, 16);
        }
    }
#pragma unroll
    for (int half = 8; half > 0; half >>= 1) {
        high = lane & half;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            if (e < half) {
                float send = high ? kept[e] : kept[e + half], keep = high ? kept[e + half] : kept[e];
                kept[e] = keep + __shfl_xor_sync(FULL_MASK, send, half);
            }
        }
    }
    return kept[0];
}

// dL/d(blended feature) at a pixel; `toward_alpha` is what also moves with the final transmittance.
__device__ __forceinline__ void load_pixel_gradient(const Patch& patch, size_t plane, size_t pixel,
                                                    const float* __restrict__ background, int background_stride,
                                                    const float* __restrict__ normal, float inverse_length,
                                                    const float* __restrict__ d_color, const float* __restrict__ d_depth,
                                                    const float* __restrict__ d_normal, const float* __restrict__ d_alpha,
                                                    const float* __restrict__ d_extra, float* gradient,
                                                    float* toward_alpha) {
    size_t at = patch.view * plane + pixel, three = 3 * patch.view * plane + pixel;
    *toward_alpha = d_alpha ? d_alpha[at] : 0.0f;
    if (d_color) {
#pragma unroll
        for (int channel = 0; channel < 3; channel++) {
            gradient[channel] = d_color[three + channel * plane];
            *toward_alpha -= gradient[channel] * background[patch.view * background_stride + channel];
        }
    }
    if (d_depth) gradient[DEPTH_FEATURE] = d_depth[at];
    if (d_normal) {  // through the division by the length
        float n[3], g[3];
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            n[axis] = normal[three + axis * plane];
            g[axis] = d_normal[three + axis * plane];
        }
        float along = n[0] * g[0] + n[1] * g[1] + n[2] * g[2];
#pragma unroll
        for (int axis = 0; axis < 3; axis++) gradient[NORMAL_FEATURE + axis] = (g[axis] - along * n[axis]) * inverse_length;
    }
    if (d_extra) {
#pragma unroll
        for (int k = 0; k < EXTRA; k++)
            gradient[EXTRA_FEATURE + k] = d_extra[((size_t)patch.view * EXTRA + k) * plane + pixel];
    }
}

// A warp per patch in which anything was drawn, culling as in blend_forward, back to front. Any of the image gradients may
// be null.
extern "C" __global__ void __launch_bounds__(WARPS_PER_BLOCK * 32) blend_backward(
    int width, int height, int views, int capacity, const float4* __restrict__ all_records,
    const int* __restrict__ tile_counts, const u64* __restrict__ tile_lists, int* __restrict__ work_order,
    int gaussians, const float* __restrict__ background, int background_stride, const float* __restrict__ normal,
    const float* __restrict__ final_state, const float* __restrict__ d_color, const float* __restrict__ d_depth,
    const float* __restrict__ d_normal, const float* __restrict__ d_alpha, const float* __restrict__ d_extra,
    float* __restrict__ record_gradients) {
    __shared__ float4 staging[WARPS_PER_BLOCK * 33 * RECORD_ROWS];
    __shared__ int staged_ids[WARPS_PER_BLOCK * 33];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float4* stage_base = staging + warp * 33 * RECORD_ROWS;
    int* ids = staged_ids + warp * 33;
    int tiles = views * count_tiles(width, height);
    int picked = pick(patch_order(work_order, tiles), blockIdx.x * WARPS_PER_BLOCK + warp, lane);
    if (picked < 0) return;
    Patch patch = find_patch(picked / PATCHES_PER_TILE, picked % PATCHES_PER_TILE, width, height, capacity, tile_counts,
                             tile_lists);
    const float4* records = all_records + (size_t)patch.view * gaussians * RECORD_ROWS;
    float* gradients = record_gradients + (size_t)patch.view * gaussians * GRADIENT_STRIDE;

    size_t plane = (size_t)width * height, pixel = (size_t)patch.pixel_y * width + patch.pixel_x;
    float transmittance = 1.0f, gradient[FEATURES], toward_alpha = 0.0f;
    int last = 0;
#pragma unroll
    for (int f = 0; f < FEATURES; f++) gradient[f] = 0.0f;
    if (patch.inside) {
        size_t at = patch.view * plane + pixel;
        transmittance = final_state[at];
        last = __float_as_int(final_state[2 * views * plane + at]);
        if (last > 0)
            load_pixel_gradient(patch, plane, pixel, background, background_stride, normal,
                                final_state[views * plane + at], d_color, d_depth, d_normal, d_alpha, d_extra, gradient,
                                &toward_alpha);
    }
    int end = warp_max(last);
    // Behind Gaussian i: sum over j > i of weight_j (g . feature_j), less the share of the final transmittance.
    float behind = -toward_alpha * transmittance;
    if (lane < RECORD_ROWS) stage_base[lane] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);  // slot 0 pads odd counts
    int base = ((end - 1) >> 5) << 5;
    Candidate candidate = {};
    if (base + lane < end) candidate = load_candidate(patch, base + lane, records);
    for (; base >= 0; base -= 32) {
        int index = base + lane;
        bool hit = index < end && meets_patch(candidate);
        u32 hits = __ballot_sync(FULL_MASK, hit);
        int count = __popc(hits);
        if (hit) {
            int slot = __popc(hits & ((1u << lane) - 1)) + 1;
            stage(stage_base + slot * RECORD_ROWS, candidate, index, records);
            ids[slot] = candidate.id;
        }
        if (base >= 32) candidate = load_candidate(patch, index - 32, records);
        __syncwarp();
        for (int k = count; k > 0; k -= 2) {  // an odd count ends in slot 0, which is transparent
            float sums[2][16], gauss[2], offset_x[2], offset_y[2];
            bool drawn[2];
#if EXTRA == 4
            float seventeenth[2];
#endif
#pragma unroll
            for (int pair = 0; pair < 2; pair++) {
                float4 shape = stage_base[(k - pair) * RECORD_ROWS], rest = stage_base[(k - pair) * RECORD_ROWS + 1];
                offset_x[pair] = shape.x - patch.local_x;
                offset_y[pair] = shape.y - patch.local_y;
                float power = gaussian_power(shape, rest.x, offset_x[pair], offset_y[pair]);
                gauss[pair] = __expf(power);
                drawn[pair] = __float_as_int(rest.z) < last && power <= 0.0f && rest.y * gauss[pair] >= ALPHA_MIN;
            }
            if (!__any_sync(FULL_MASK, drawn[0] || drawn[1])) continue;
#pragma unroll
            for (int pair = 0; pair < 2; pair++) {
                float4 rows[RECORD_ROWS];
#pragma unroll
                for (int row = 1; row < RECORD_ROWS; row++) rows[row] = stage_base[(k - pair) * RECORD_ROWS + row];
                float opacity = rows[1].y;
                float a = drawn[pair] ? fminf(ALPHA_MAX, opacity * gauss[pair]) : 0.0f;
                float inverse = reciprocal(1.0f - a);
                transmittance *= inverse;
                float weight = a * transmittance, through = 0.0f;
#pragma unroll
                for (int f = 0; f < (DETACH_EXTRA ? EXTRA_FEATURE : FEATURES); f++)
                    through += gradient[f] * component(rows, FIRST_FEATURE + f);
                float d_a = transmittance * through - behind * inverse;
                behind += weight * through;
                float g = drawn[pair] ? gauss[pair] : 0.0f;  // min(0.99, .) passes its gradient as if unclamped
                float d_power = g * opacity * d_a;
                float px = d_power * offset_x[pair], py = d_power * offset_y[pair];
                float* out = sums[pair];
                out[0] = px;
                out[1] = py;
                out[2] = px * offset_x[pair];
                out[3] = px * offset_y[pair];
                out[4] = py * offset_y[pair];
                out[5] = g * d_a;
#pragma unroll
                for (int e = FIRST_FEATURE_GRADIENT; e < 16; e++)
                    out[e] = e < GRADIENTS ? weight * gradient[e < GRADIENTS ? e - FIRST_FEATURE_GRADIENT : 0] : 0.0f;
#if EXTRA == 4
                seventeenth[pair] = weight * gradient[FEATURES - 1];
#endif
            }
            float sum = transpose_reduce(sums[0], sums[1], lane);
            int owner = k - (lane >= 16 ? 0 : 1), e = lane & 15;
            if (e < GRADIENTS && owner > 0 && sum != 0.0f) atomicAdd(gradients + (size_t)ids[owner] * GRADIENT_STRIDE + e, sum);
#if EXTRA == 4
#pragma unroll
            for (int pair = 0; pair < 2; pair++) {
                float rest = seventeenth[pair];
#pragma unroll
                for (int step = 16; step > 0; step >>= 1) rest += __shfl_xor_sync(FULL_MASK, rest, step);
                if (lane == 0 && k - pair > 0) atomicAdd(gradients + (size_t)ids[k - pair] * GRADIENT_STRIDE + 16, rest);
            }
#endif
        }
        __syncwarp();
    }
}
