// Backward of project.cu: from the gradient of a record to the gradients of the Gaussian's parameters.

// d/d(direction) of sum_k basis_k * g_k, for the basis of `sh_basis`.
__device__ __forceinline__ void sh_direction_gradient(int degree, float x, float y, float z, const float* g, float* d) {
    d[0] = d[1] = d[2] = 0.0f;
    if (degree < 1) return;
    d[0] -= SH1 * g[3];
    d[1] -= SH1 * g[1];
    d[2] += SH1 * g[2];
    if (degree < 2) return;
    d[0] += SH2_XY * (y * g[4] - z * g[7]) - 2.0f * SH2_ZZ * x * g[6] + 2.0f * SH2_XX * x * g[8];
    d[1] += SH2_XY * (x * g[4] - z * g[5]) - 2.0f * SH2_ZZ * y * g[6] - 2.0f * SH2_XX * y * g[8];
    d[2] += -SH2_XY * (y * g[5] + x * g[7]) + 4.0f * SH2_ZZ * z * g[6];
    if (degree < 3) return;
    float xx = x * x, yy = y * y, zz = z * z;
    d[0] += 6.0f * SH3_A * x * y * g[9] + SH3_B * y * z * g[10] - 2.0f * SH3_C * x * y * g[11] - 6.0f * SH3_D * x * z * g[12] +
            SH3_C * (4.0f * zz - 3.0f * xx - yy) * g[13] + 2.0f * SH3_E * x * z * g[14] + 3.0f * SH3_A * (xx - yy) * g[15];
    d[1] += 3.0f * SH3_A * (xx - yy) * g[9] + SH3_B * x * z * g[10] + SH3_C * (4.0f * zz - xx - 3.0f * yy) * g[11] -
            6.0f * SH3_D * y * z * g[12] - 2.0f * SH3_C * x * y * g[13] - 2.0f * SH3_E * y * z * g[14] - 6.0f * SH3_A * x * y * g[15];
    d[2] += SH3_B * x * y * g[10] + 8.0f * SH3_C * y * z * g[11] + SH3_D * (6.0f * zz - 3.0f * xx - 3.0f * yy) * g[12] +
            8.0f * SH3_C * x * z * g[13] + SH3_E * (xx - yy) * g[14];
}

// Gradient of the unit quaternion from that of its rotation matrix, then through the normalisation.
__device__ __forceinline__ float4 quaternion_gradient(const float* unit, float inverse_length, const float* dR) {
    float w = unit[0], x = unit[1], y = unit[2], z = unit[3];
    float dw = 2.0f * (x * (dR[7] - dR[5]) + y * (dR[2] - dR[6]) + z * (dR[3] - dR[1]));
    float dx = 2.0f * (-2.0f * x * (dR[4] + dR[8]) + y * (dR[1] + dR[3]) + z * (dR[2] + dR[6]) + w * (dR[7] - dR[5]));
    float dy = 2.0f * (x * (dR[1] + dR[3]) - 2.0f * y * (dR[0] + dR[8]) + z * (dR[5] + dR[7]) + w * (dR[2] - dR[6]));
    float dz = 2.0f * (x * (dR[2] + dR[6]) + y * (dR[5] + dR[7]) - 2.0f * z * (dR[0] + dR[4]) + w * (dR[3] - dR[1]));
    float along = dw * w + dx * x + dy * y + dz * z;
    return make_float4((dw - along * w) * inverse_length, (dx - along * x) * inverse_length,
                       (dy - along * y) * inverse_length, (dz - along * z) * inverse_length);
}

// Colour: SH coefficients, and through the viewing direction the mean. Adds to `d_mean`; `d_sh` may be null.
__device__ __forceinline__ void color_backward(int degree, int sh_count, const float* __restrict__ coefficients,
                                               const float* ray, const float* d_color, float* __restrict__ d_sh,
                                               float* d_mean) {
    float inverse = rsqrtf(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]);
    float x = ray[0] * inverse, y = ray[1] * inverse, z = ray[2] * inverse;
    float basis[SH_MOST] = {}, d_basis[SH_MOST] = {};  // of degrees that are not drawn: stays 0
    sh_basis(degree, x, y, z, basis);
    int used = 3 * (degree + 1) * (degree + 1), count = 3 * sh_count;
#pragma unroll
    for (int j = 0; j < 3 * SH_MOST; j += 4) {
        if (j < used) {
            float4 four = load_four(coefficients, j, count);
#pragma unroll
            for (int e = 0; e < 4; e++) d_basis[(j + e) / 3] += component(&four, e) * d_color[(j + e) % 3];
        }
        if (d_sh && j < count)
            store_four(d_sh, j, count,
                       make_float4(basis[j / 3] * d_color[j % 3], basis[(j + 1) / 3] * d_color[(j + 1) % 3],
                                   basis[(j + 2) / 3] * d_color[(j + 2) % 3], basis[(j + 3) / 3] * d_color[(j + 3) % 3]));
    }
    if (d_sh)
        for (int j = 3 * SH_MOST; j < count; j++) d_sh[j] = 0.0f;
    float d_direction[3];
    sh_direction_gradient(degree, x, y, z, d_basis, d_direction);
    float along = d_direction[0] * x + d_direction[1] * y + d_direction[2] * z;
    d_mean[0] += (d_direction[0] - along * x) * inverse;
    d_mean[1] += (d_direction[1] - along * y) * inverse;
    d_mean[2] += (d_direction[2] - along * z) * inverse;
}

// Grid (ceil(N / 128), B). Every output is written for every Gaussian; d_sh [B, N, K, 3], d_extra and d_means2d may be
// null, d_opacities is [B, N].
extern "C" __global__ void __launch_bounds__(128) project_backward(
    int gaussians, const int* __restrict__ active_count, int width, int height, float near_plane, int sh_degree,
    int sh_count, const float* __restrict__ means, const float* __restrict__ scales,
    const float4* __restrict__ quaternions, const float* __restrict__ sh, const float* __restrict__ world_to_camera,
    const float* __restrict__ focal, const float4* __restrict__ records, float4* __restrict__ record_gradients,
    float* __restrict__ d_means, float* __restrict__ d_scales, float4* __restrict__ d_quaternions,
    float* __restrict__ d_opacities, float* __restrict__ d_sh, float* __restrict__ d_extra,
    float* __restrict__ d_means2d) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, view = blockIdx.y;
    if (i >= gaussians) return;
    int active = active_count ? min(*active_count, gaussians) : gaussians;
    size_t at = (size_t)view * gaussians + i;
    float* my_sh = d_sh ? d_sh + at * sh_count * 3 : nullptr;
    Camera camera = load_camera(world_to_camera, focal, view);
    Splat splat;
    if (i >= active ||
        !project_splat(camera, means + 3 * at, scales + 3 * at, quaternions[at], width, height, near_plane, &splat)) {
#pragma unroll
        for (int k = 0; k < 3; k++) d_means[3 * at + k] = d_scales[3 * at + k] = 0.0f;
        d_quaternions[at] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        d_opacities[at] = 0.0f;
        if (my_sh)
            for (int j = 0; j < 3 * sh_count; j += 4)
                store_four(my_sh, j, 3 * sh_count, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
        if (d_extra)
            for (int k = 0; k < EXTRA; k++) d_extra[at * EXTRA + k] = 0.0f;
        if (d_means2d) d_means2d[2 * at] = d_means2d[2 * at + 1] = 0.0f;
        return;
    }

    float4 rows[GRADIENT_STRIDE / 4];
#pragma unroll
    for (int row = 0; row < GRADIENT_STRIDE / 4; row++) {
        float4* gradient = record_gradients + at * (GRADIENT_STRIDE / 4) + row;
        rows[row] = *gradient;
        *gradient = make_float4(0.0f, 0.0f, 0.0f, 0.0f);  // a second backward pass finds it as the first did
    }
    float moment_x = rows[0].x, moment_y = rows[0].y;
    d_opacities[at] = component(rows, 5);
    if (d_extra) {
#pragma unroll
        for (int k = 0; k < EXTRA; k++)
            d_extra[at * EXTRA + k] = component(rows, FIRST_FEATURE_GRADIENT + EXTRA_FEATURE + k);
    }

    // power = -(a dx^2 + c dy^2) / 2 - b dx dy with dx = u - x
    float inverse = 1.0f / splat.determinant;
    float conic_a = splat.vv * inverse, conic_b = -splat.uv * inverse, conic_c = splat.uu * inverse;
    float d_u = -(conic_a * moment_x + conic_b * moment_y), d_v = -(conic_b * moment_x + conic_c * moment_y);
    float d_a = -0.5f * rows[0].z, d_b = -rows[0].w, d_c = -0.5f * rows[1].x;
    if (d_means2d) {
        d_means2d[2 * at] = d_u * 0.5f * width;
        d_means2d[2 * at + 1] = d_v * 0.5f * height;
    }

    // conic -> covariance: dSigma = -Conic dConic Conic (symmetric), written out
    float half_b = 0.5f * d_b;
    float left_aa = conic_a * d_a + conic_b * half_b, left_ab = conic_a * half_b + conic_b * d_c;
    float left_ba = conic_b * d_a + conic_c * half_b, left_bb = conic_b * half_b + conic_c * d_c;
    float d_uu = -(left_aa * conic_a + left_ab * conic_b);
    float d_vv = -(left_ba * conic_b + left_bb * conic_c);
    float d_uv = -2.0f * (left_aa * conic_b + left_ab * conic_c);

    // covariance -> scales, and the two scaled screen axes J W R
    float d_row_u[3] = {0.0f, 0.0f, 0.0f}, d_row_v[3] = {0.0f, 0.0f, 0.0f}, dR[9];
#pragma unroll
    for (int k = 0; k < 3; k++) {
        float u = splat.axis_u[k] * splat.s[k], v = splat.axis_v[k] * splat.s[k];
        float d_along_u = 2.0f * d_uu * u + d_uv * v, d_along_v = 2.0f * d_vv * v + d_uv * u;
        d_scales[3 * at + k] = d_along_u * splat.axis_u[k] + d_along_v * splat.axis_v[k];
        float d_axis_u = d_along_u * splat.s[k], d_axis_v = d_along_v * splat.s[k];
#pragma unroll
        for (int row = 0; row < 3; row++) {
            d_row_u[row] += d_axis_u * splat.R[3 * row + k];
            d_row_v[row] += d_axis_v * splat.R[3 * row + k];
            dR[3 * row + k] = splat.row_u[row] * d_axis_u + splat.row_v[row] * d_axis_v;
        }
    }
    int axis = smallest_axis(splat.s);
    float facing = 0.0f;
#pragma unroll
    for (int row = 0; row < 3; row++)
        facing += (axis == 0 ? splat.R[3 * row] : axis == 1 ? splat.R[3 * row + 1] : splat.R[3 * row + 2]) * splat.ray[row];
    float sign = facing > 0.0f ? -1.0f : 1.0f;
#pragma unroll
    for (int row = 0; row < 3; row++) {
        float d_normal = sign * component(rows, FIRST_FEATURE_GRADIENT + NORMAL_FEATURE + row);
#pragma unroll
        for (int k = 0; k < 3; k++)
            if (k == axis) dR[3 * row + k] += d_normal;
    }
    d_quaternions[at] = quaternion_gradient(splat.unit, splat.inverse_length, dR);

    // J W -> position in the camera: row_u = f/Z (W_x - slope_x W_z)
    float inverse_z = 1.0f / splat.view[2], f_over_z = camera.focal * inverse_z;
    float d_magnification = 0.0f, d_slope_x = 0.0f, d_slope_y = 0.0f;
#pragma unroll
    for (int k = 0; k < 3; k++) {
        d_magnification += d_row_u[k] * (camera.r[k] - splat.slope_x * camera.r[6 + k]) +
                           d_row_v[k] * (camera.r[3 + k] - splat.slope_y * camera.r[6 + k]);
        d_slope_x -= f_over_z * d_row_u[k] * camera.r[6 + k];
        d_slope_y -= f_over_z * d_row_v[k] * camera.r[6 + k];
    }
    if (splat.clamped_x) d_slope_x = 0.0f;
    if (splat.clamped_y) d_slope_y = 0.0f;
    float tangent_x = splat.view[0] * inverse_z, tangent_y = splat.view[1] * inverse_z;
    float d_tangent_x = d_slope_x + camera.focal * d_u, d_tangent_y = d_slope_y + camera.focal * d_v;
    float d_view[3];
    d_view[0] = d_tangent_x * inverse_z;
    d_view[1] = d_tangent_y * inverse_z;
    d_view[2] = component(rows, FIRST_FEATURE_GRADIENT + DEPTH_FEATURE) -
                inverse_z * (d_magnification * f_over_z + d_tangent_x * tangent_x + d_tangent_y * tangent_y);
    float d_mean[3];
#pragma unroll
    for (int k = 0; k < 3; k++)
        d_mean[k] = camera.r[k] * d_view[0] + camera.r[3 + k] * d_view[1] + camera.r[6 + k] * d_view[2];

    float4 record[RECORD_ROWS];
#pragma unroll
    for (int row = 0; row < RECORD_ROWS; row++) record[row] = records[at * RECORD_ROWS + row];
    float d_color[3];
#pragma unroll
    for (int channel = 0; channel < 3; channel++)  // max(0, .) passes a gradient where the colour is positive
        d_color[channel] = component(record, FIRST_FEATURE + channel) > 0.0f ? component(rows, FIRST_FEATURE_GRADIENT + channel) : 0.0f;
    color_backward(sh_degree, sh_count, sh + (size_t)i * sh_count * 3, splat.ray, d_color, my_sh, d_mean);
#pragma unroll
    for (int k = 0; k < 3; k++) d_means[3 * at + k] = d_mean[k];
}
