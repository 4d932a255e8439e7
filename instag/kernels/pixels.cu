// Everything of a branch's loss that is a sum over pixels with a simple slope, and the images that are compared, straight
// from the uint8 stores: one kernel forward, a small one that finishes the sums, one backward. Twin of
// instag/losses_pixels.py::compare_torch. Depth: depth_prior.cu.

#define THREADS 256
#define WARPS (THREADS / 32)
#define PIXELS_PER_THREAD 4
#define LIPS_BIT 8
typedef unsigned char u8;

// Places in a block's sums.
#define ALPHA 0
#define ATTENTION 1  // two rules of: audio map, eye map, pixels
#define NORMAL 7     // sum, pixels
#define SUMS 9
// Places in the slopes: alpha, two rules of (audio, eye), normal, depth.
#define NORMAL_SLOPE 5
#define DEPTH_SLOPE 6

// Which labels, inside or outside the lip rectangle, a rule is about: bit `label + 8 * inside`.
__device__ __forceinline__ bool holds(int region, int code) { return (region >> code) & 1; }

__device__ __forceinline__ int pixel_code(const u8* __restrict__ labels, const long long* __restrict__ rectangle, int x, int y,
                                          size_t at) {
    bool lips = y >= rectangle[0] && y < rectangle[1] && x >= rectangle[2] && x < rectangle[3];
    return labels[at] + (lips ? LIPS_BIT : 0);
}

// Row-major world-to-camera rotation applied transposed to a normal given in OpenGL camera axes: the same in the world.
__device__ __forceinline__ void to_world(const float* __restrict__ pose, const signed char* __restrict__ stored, float* n) {
    float x = stored[0] / 127.0f, y = -(stored[1] / 127.0f), z = -(stored[2] / 127.0f);
    for (int k = 0; k < 3; k++) n[k] = pose[k] * x + pose[4 + k] * y + pose[8 + k] * z;
}

// What wrong alpha weighs in a pixel over the frame: nothing where the branch is painted over.
__device__ __forceinline__ float matte_weight(float matte, float lips, int painted, int code) {
    return holds(painted, code) ? 0.0f : matte * (code >= LIPS_BIT ? 1.0f + lips : 1.0f);
}

// Grid (blocks, B). `render` [B, 3, H, W] is written where the colour is painted over somewhere, else null; `extra`
// [B, E, H, W] (even channels audio, odd ones eye), `normal` and the prior may be null. partial [B * blocks, SUMS].
// coverage: what wrong alpha weighs, which belongs in `opaque`. matte, unless 0: the comparison is over the frame itself
// (`shown` without `painted`; `render` is written), and alpha that is wrong there weighs this besides, in the lip rectangle
// by the share `matte_lips` more.
extern "C" __global__ void __launch_bounds__(THREADS) pixels_forward(
    int height, int width, int extra_channels, float coverage, float matte, float matte_lips, int shown, int painted,
    int opaque, int attention_0, int attention_1, int normal_region, const u8* __restrict__ images,
    const u8* __restrict__ labels, const long long* __restrict__ rows, const long long* __restrict__ rectangles,
    const float* __restrict__ key, const float* __restrict__ color, const float* __restrict__ alpha,
    const float* __restrict__ extra, const float* __restrict__ normal,
    const float* __restrict__ poses, const signed char* __restrict__ prior_normals, const u8* __restrict__ prior_valid,
    const long long* __restrict__ prior_rows, float* __restrict__ render, float* __restrict__ target,
    float* __restrict__ partial) {
    __shared__ float warp_sums[THREADS / 32][SUMS];
    int view = blockIdx.y, pixels = height * width;
    size_t stored = (size_t)rows[view] * pixels, prior = normal_region ? (size_t)prior_rows[view] * pixels : 0;
    float sums[SUMS] = {};
    for (int k = 0; k < PIXELS_PER_THREAD; k++) {
        int at = (blockIdx.x * PIXELS_PER_THREAD + k) * THREADS + threadIdx.x;
        if (at >= pixels) break;
        int code = pixel_code(labels + stored, rectangles + 4 * view, at % width, at / width, at);
        bool show = holds(shown, code), paint = holds(painted, code);
        float opacity = alpha[(size_t)view * pixels + at];
        for (int channel = 0; channel < 3; channel++) {
            size_t place = ((size_t)view * 3 + channel) * pixels + at;
            float wanted = show || matte ? images[3 * (stored + at) + channel] / 255.0f : key[channel];
            target[place] = wanted;
            if (matte) render[place] = show ? color[place] + (1.0f - opacity) * wanted : wanted;
            else if (render) render[place] = paint ? key[channel] : color[place];
        }
        sums[ALPHA] += coverage * (holds(opaque, code) ? 1.0f - opacity : opacity) +
                       matte_weight(matte, matte_lips, painted, code) * (show ? 1.0f - opacity : opacity);
        if (extra && (holds(attention_0, code) || holds(attention_1, code))) {
            float audio = 0.0f, eye = 0.0f;
            for (int channel = 0; channel < extra_channels; channel++) {
                float value = extra[((size_t)view * extra_channels + channel) * pixels + at];
                if (channel & 1) eye += value; else audio += value;
            }
            for (int rule = 0; rule < 2; rule++)
                if (holds(rule ? attention_1 : attention_0, code)) {
                    sums[ATTENTION + 3 * rule] += audio;
                    sums[ATTENTION + 3 * rule + 1] += eye;
                    sums[ATTENTION + 3 * rule + 2] += 1.0f;
                }
        }
        if (holds(normal_region, code) && prior_valid[prior + at]) {
            float n[3], along = 0.0f;
            to_world(poses + 16 * view, prior_normals + 3 * (prior + at), n);
            for (int channel = 0; channel < 3; channel++)
                along += n[channel] * normal[((size_t)view * 3 + channel) * pixels + at];
            sums[NORMAL] += 3.0f - along;
            sums[NORMAL + 1] += 1.0f;
        }
    }
    for (int k = 0; k < SUMS; k++) {
        for (int step = 16; step > 0; step >>= 1) sums[k] += __shfl_xor_sync(FULL_MASK, sums[k], step);
        if ((threadIdx.x & 31) == 0) warp_sums[threadIdx.x >> 5][k] = sums[k];
    }
    __syncthreads();
    if (threadIdx.x < SUMS) {
        float total = 0.0f;
        for (int warp = 0; warp < THREADS / 32; warp++) total += warp_sums[warp][threadIdx.x];
        partial[((size_t)view * gridDim.x + blockIdx.x) * SUMS + threadIdx.x] = total;
    }
}

// One block. values [5]: alpha, two attention terms, normal, depth; slopes [7]: what one pixel's quantity weighs in them.
// depth_partial [depth_rows, 2] (sum, pixels) may be null.
extern "C" __global__ void __launch_bounds__(THREADS) pixels_finish(
    int blocks, float alpha_share, float audio_0, float eye_0, float audio_1, float eye_1, float normal_weight,
    float depth_weight, const float* __restrict__ partial, int depth_rows, const float* __restrict__ depth_partial,
    float* __restrict__ values, float* __restrict__ slopes) {
    float sums[SUMS + 2] = {};
    for (int row = threadIdx.x; row < blocks; row += THREADS)
        for (int k = 0; k < SUMS; k++) sums[k] += partial[(size_t)row * SUMS + k];
    for (int row = threadIdx.x; depth_partial && row < depth_rows; row += THREADS)
        for (int k = 0; k < 2; k++) sums[SUMS + k] += depth_partial[2 * (size_t)row + k];
    for (int k = 0; k < SUMS + 2; k++) sums[k] = block_sum<WARPS>(sums[k]);
    if (threadIdx.x > 0) return;
    float audio[2] = {audio_0, audio_1}, eye[2] = {eye_0, eye_1};
    slopes[0] = alpha_share;
    values[0] = alpha_share * sums[ALPHA];
    for (int rule = 0; rule < 2; rule++) {
        const float* sum = sums + ATTENTION + 3 * rule;
        float share = 1.0f / fmaxf(sum[2], 1.0f);
        slopes[1 + 2 * rule] = audio[rule] * share;
        slopes[2 + 2 * rule] = eye[rule] * share;
        values[1 + rule] = share * (audio[rule] * sum[0] + eye[rule] * sum[1]);
    }
    slopes[NORMAL_SLOPE] = normal_weight / fmaxf(sums[NORMAL + 1], 1.0f);
    values[3] = slopes[NORMAL_SLOPE] * sums[NORMAL];
    slopes[DEPTH_SLOPE] = depth_weight / fmaxf(sums[SUMS + 1], 1.0f);
    values[4] = slopes[DEPTH_SLOPE] * sums[SUMS];
}

// Grid (blocks, B). g_*: gradients of the values, each a pointer to one number or null (zero). d_render may be null;
// outputs of which no gradient is wanted are null.
extern "C" __global__ void __launch_bounds__(THREADS) pixels_backward(
    int height, int width, int extra_channels, float coverage, float matte, float matte_lips, int shown, int painted,
    int opaque, int attention_0, int attention_1, int normal_region, const u8* __restrict__ images,
    const u8* __restrict__ labels, const long long* __restrict__ rows, const long long* __restrict__ rectangles,
    const float* __restrict__ poses, const signed char* __restrict__ prior_normals, const u8* __restrict__ prior_valid,
    const long long* __restrict__ prior_rows, const float* __restrict__ slopes, const float* __restrict__ d_render,
    const float* __restrict__ g_alpha, const float* __restrict__ g_attention_0, const float* __restrict__ g_attention_1,
    const float* __restrict__ g_normal, float* __restrict__ d_color, float* __restrict__ d_alpha,
    float* __restrict__ d_extra, float* __restrict__ d_normal) {
    int view = blockIdx.y, pixels = height * width;
    size_t stored = (size_t)rows[view] * pixels, prior = normal_region ? (size_t)prior_rows[view] * pixels : 0;
    float alpha_slope = g_alpha ? *g_alpha * slopes[0] : 0.0f, normal_slope = g_normal ? *g_normal * slopes[NORMAL_SLOPE] : 0.0f;
    float first = g_attention_0 ? *g_attention_0 : 0.0f, second = g_attention_1 ? *g_attention_1 : 0.0f;
    float slope_of_map[2][2] = {{first * slopes[1], first * slopes[2]}, {second * slopes[3], second * slopes[4]}};
    for (int k = 0; k < PIXELS_PER_THREAD; k++) {
        int at = (blockIdx.x * PIXELS_PER_THREAD + k) * THREADS + threadIdx.x;
        if (at >= pixels) return;
        int code = pixel_code(labels + stored, rectangles + 4 * view, at % width, at / width, at);
        bool learns = d_render && (matte ? holds(shown, code) : !holds(painted, code));
        float through = 0.0f;  // of the frame behind the branch
        for (int channel = 0; channel < 3; channel++) {
            size_t place = ((size_t)view * 3 + channel) * pixels + at;
            float slope = learns ? d_render[place] : 0.0f;
            if (d_color) d_color[place] = slope;
            if (matte) through -= slope * (images[3 * (stored + at) + channel] / 255.0f);
        }
        float weight = matte_weight(matte, matte_lips, painted, code);
        float wrong = (holds(opaque, code) ? -coverage : coverage) + (holds(shown, code) ? -weight : weight);
        if (d_alpha) d_alpha[(size_t)view * pixels + at] = through + alpha_slope * wrong;
        for (int channel = 0; d_extra && channel < extra_channels; channel++)
            d_extra[((size_t)view * extra_channels + channel) * pixels + at] =
                (holds(attention_0, code) ? slope_of_map[0][channel & 1] : 0.0f) +
                (holds(attention_1, code) ? slope_of_map[1][channel & 1] : 0.0f);
        if (d_normal) {
            float n[3] = {0.0f, 0.0f, 0.0f};
            if (holds(normal_region, code) && prior_valid[prior + at])
                to_world(poses + 16 * view, prior_normals + 3 * (prior + at), n);
            for (int channel = 0; channel < 3; channel++)
                d_normal[((size_t)view * 3 + channel) * pixels + at] = -normal_slope * n[channel];
        }
    }
}
