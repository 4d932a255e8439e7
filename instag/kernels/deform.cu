// Raw parameters of N Gaussians and their deformation in B frames -> what the rasterizer takes, and the way back.
// Twin of instag/fields/structure.py: GaussianField.deformed, opacities, sh. One thread per Gaussian.

#define SOFTPLUS_LINEAR 20.0f  // beyond it softplus is its argument, as in torch

__device__ __forceinline__ float softplus(float x) { return x > SOFTPLUS_LINEAR ? x : log1pf(expf(x)); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float softplus_slope(float x) { return x > SOFTPLUS_LINEAR ? 1.0f : sigmoid(x); }

// sh_rest_floats = 3 (K - 1). d_mean, d_scale and d_rotation may be null: then the part is the same in every frame.
extern "C" __global__ void __launch_bounds__(128) deform_forward(
    int gaussians, int frames, int sh_rest_floats, const float* __restrict__ means, const float* __restrict__ scales_raw,
    const float* __restrict__ quaternions_raw, const float* __restrict__ opacities_raw, const float* __restrict__ sh_dc,
    const float* __restrict__ sh_rest, const float* __restrict__ d_mean, const float* __restrict__ d_scale,
    const float* __restrict__ d_rotation, float* __restrict__ out_means, float* __restrict__ out_scales,
    float* __restrict__ out_quaternions, float* __restrict__ out_opacities, float* __restrict__ out_sh) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= gaussians) return;
    float opacity = sigmoid(opacities_raw[i]);
    float* sh = out_sh + (size_t)i * (3 + sh_rest_floats);
    for (int k = 0; k < 3; k++) sh[k] = sh_dc[3 * i + k];
    for (int k = 0; k < sh_rest_floats; k++) sh[3 + k] = sh_rest[(size_t)i * sh_rest_floats + k];
    for (int frame = 0; frame < frames; frame++) {
        size_t at = (size_t)frame * gaussians + i;
        out_opacities[at] = opacity;
        for (int k = 0; k < 3; k++) {
            out_means[3 * at + k] = means[3 * i + k] + (d_mean ? d_mean[3 * at + k] : 0.0f);
            out_scales[3 * at + k] = softplus(scales_raw[3 * i + k] + (d_scale ? d_scale[3 * at + k] : 0.0f));
        }
        for (int k = 0; k < 4; k++)
            out_quaternions[4 * at + k] = quaternions_raw[4 * i + k] + (d_rotation ? d_rotation[4 * at + k] : 0.0f);
    }
}

// The gradient of a sum of `frames` values [frames, N, width] and of each of them, which are the same numbers.
__device__ __forceinline__ float spread(int frames, int gaussians, int width, int i, int k, const float* __restrict__ from,
                                        float* __restrict__ each) {
    float sum = 0.0f;
    for (int frame = 0; frame < frames; frame++) {
        size_t at = ((size_t)frame * gaussians + i) * width + k;
        float value = from ? from[at] : 0.0f;
        if (each) each[at] = value;
        sum += value;
    }
    return sum;
}

// g_*: gradients of the outputs, any may be null (zero). Outputs of which no gradient is wanted are null.
extern "C" __global__ void __launch_bounds__(128) deform_backward(
    int gaussians, int frames, int sh_rest_floats, const float* __restrict__ scales_raw,
    const float* __restrict__ opacities_raw, const float* __restrict__ d_scale, const float* __restrict__ g_means,
    const float* __restrict__ g_scales, const float* __restrict__ g_quaternions, const float* __restrict__ g_opacities,
    const float* __restrict__ g_sh, float* __restrict__ to_means, float* __restrict__ to_scales_raw,
    float* __restrict__ to_quaternions_raw, float* __restrict__ to_opacities_raw, float* __restrict__ to_sh_dc,
    float* __restrict__ to_sh_rest, float* __restrict__ to_d_mean, float* __restrict__ to_d_scale,
    float* __restrict__ to_d_rotation) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= gaussians) return;
    if (to_opacities_raw) {
        float opacity = sigmoid(opacities_raw[i]);
        float sum = spread(frames, gaussians, 1, i, 0, g_opacities, nullptr);
        to_opacities_raw[i] = sum * opacity * (1.0f - opacity);
    }
    const float* sh = g_sh ? g_sh + (size_t)i * (3 + sh_rest_floats) : nullptr;
    if (to_sh_dc)
        for (int k = 0; k < 3; k++) to_sh_dc[3 * i + k] = sh ? sh[k] : 0.0f;
    if (to_sh_rest)
        for (int k = 0; k < sh_rest_floats; k++) to_sh_rest[(size_t)i * sh_rest_floats + k] = sh ? sh[3 + k] : 0.0f;
    for (int k = 0; k < 3; k++) {
        if (to_means || to_d_mean) {
            float sum = spread(frames, gaussians, 3, i, k, g_means, to_d_mean);
            if (to_means) to_means[3 * i + k] = sum;
        }
        if (to_scales_raw || to_d_scale) {
            float raw = scales_raw[3 * i + k], sum = 0.0f;
            for (int frame = 0; frame < frames; frame++) {
                size_t at = 3 * ((size_t)frame * gaussians + i) + k;
                float value = g_scales ? g_scales[at] * softplus_slope(raw + (d_scale ? d_scale[at] : 0.0f)) : 0.0f;
                if (to_d_scale) to_d_scale[at] = value;
                sum += value;
            }
            if (to_scales_raw) to_scales_raw[3 * i + k] = sum;
        }
    }
    for (int k = 0; k < 4; k++)
        if (to_quaternions_raw || to_d_rotation) {
            float sum = spread(frames, gaussians, 4, i, k, g_quaternions, to_d_rotation);
            if (to_quaternions_raw) to_quaternions_raw[4 * i + k] = sum;
        }
}

// Density control's statistics: adds each visible view's |d_projected| to `gradient` [N] and 1 to `visible` [N].
extern "C" __global__ void __launch_bounds__(128) record_gradients(int gaussians, int frames,
                                                                   const float2* __restrict__ d_projected,
                                                                   const int* __restrict__ radii,
                                                                   float* __restrict__ gradient,
                                                                   float* __restrict__ visible) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= gaussians) return;
    float length = 0.0f, seen = 0.0f;
    for (int frame = 0; frame < frames; frame++) {
        size_t at = (size_t)frame * gaussians + i;
        if (radii[at] > 0) {
            float2 d = d_projected[at];
            length += sqrtf(d.x * d.x + d.y * d.y);
            seen += 1.0f;
        }
    }
    gradient[i] += length;
    visible[i] += seen;
}
