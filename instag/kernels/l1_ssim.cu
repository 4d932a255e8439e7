// L1 + weight * (1 - SSIM) of planes [P, H, W] and its gradient towards the first image: 11 px Gaussian window of sigma
// 1.5, zeros outside. Twin of instag/losses.py::photometric_torch.
//
// A block computes 32 x 32 pixels. Both passes of the separable window keep four neighbouring outputs in a thread, which
// reads 14 values from shared memory where four threads would read 44.

#define FULL_MASK 0xffffffffu
#define TILE 32
#define RADIUS 5
#define WINDOW (2 * RADIUS + 1)
#define HALO (TILE + 2 * RADIUS)
#define HALO_PITCH (HALO + 1)  // odd: rows start in different banks
#define TILE_PITCH (TILE + 1)
#define STRIP 4
#define THREADS 256
#define SSIM_C1 1e-4f
#define SSIM_C2 9e-4f

__device__ __constant__ float window[WINDOW] = {
    0.001028380123898387f, 0.0075987582094967365f, 0.036000773310661316f, 0.10936068743467331f,
    0.21300552785396576f,  0.26601171493530273f,   0.21300552785396576f,  0.10936068743467331f,
    0.036000773310661316f, 0.0075987582094967365f, 0.001028380123898387f};

__device__ __forceinline__ void load_halo(const float* __restrict__ plane, int height, int width, float* halo) {
    int left = blockIdx.x * TILE - RADIUS, top = blockIdx.y * TILE - RADIUS;
    for (int k = threadIdx.x; k < HALO * HALO; k += THREADS) {
        int row = k / HALO, column = k - row * HALO, y = top + row, x = left + column;
        bool inside = y >= 0 && y < height && x >= 0 && x < width;
        halo[row * HALO_PITCH + column] = inside ? plane[(size_t)y * width + x] : 0.0f;
    }
}

// Down the columns: this thread's four outputs of a map whose rows are already blurred.
__device__ __forceinline__ void blur_down(const float* rows, int column, int first_row, float* out) {
    float values[STRIP + WINDOW - 1];
#pragma unroll
    for (int k = 0; k < STRIP + WINDOW - 1; k++) values[k] = rows[(first_row + k) * TILE_PITCH + column];
#pragma unroll
    for (int k = 0; k < STRIP; k++) {
        out[k] = 0.0f;
#pragma unroll
        for (int tap = 0; tap < WINDOW; tap++) out[k] += window[tap] * values[k + tap];
    }
}

// Grid (ceil(W / 32), ceil(H / 32), P). slopes [3, P, H, W]: d SSIM / d (mean a, mean aa, mean ab). partial [blocks]:
// this block's share of the loss. The weights hold the division by the number of values.
extern "C" __global__ void __launch_bounds__(THREADS) l1_ssim_forward(int height, int width, float l1_weight,
                                                                      float ssim_weight, const float* __restrict__ a,
                                                                      const float* __restrict__ b,
                                                                      float* __restrict__ slopes,
                                                                      float* __restrict__ partial) {
    __shared__ float halo_a[HALO * HALO_PITCH], halo_b[HALO * HALO_PITCH];
    __shared__ float rows[5][HALO * TILE_PITCH];
    __shared__ float warp_sums[THREADS / 32];
    size_t plane = (size_t)blockIdx.z * height * width;
    load_halo(a + plane, height, width, halo_a);
    load_halo(b + plane, height, width, halo_b);
    __syncthreads();
    for (int item = threadIdx.x; item < HALO * (TILE / STRIP); item += THREADS) {
        int row = item / (TILE / STRIP), column = (item % (TILE / STRIP)) * STRIP;
        float va[STRIP + WINDOW - 1], vb[STRIP + WINDOW - 1];
#pragma unroll
        for (int k = 0; k < STRIP + WINDOW - 1; k++) {
            va[k] = halo_a[row * HALO_PITCH + column + k];
            vb[k] = halo_b[row * HALO_PITCH + column + k];
        }
#pragma unroll
        for (int k = 0; k < STRIP; k++) {
            float moments[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int tap = 0; tap < WINDOW; tap++) {
                float wa = window[tap] * va[k + tap], wb = window[tap] * vb[k + tap];
                moments[0] += wa;
                moments[1] += wb;
                moments[2] += wa * va[k + tap];
                moments[3] += wb * vb[k + tap];
                moments[4] += wa * vb[k + tap];
            }
#pragma unroll
            for (int m = 0; m < 5; m++) rows[m][row * TILE_PITCH + column + k] = moments[m];
        }
    }
    __syncthreads();

    int column = threadIdx.x % TILE, strip = (threadIdx.x / TILE) * STRIP;
    float moments[5][STRIP], loss = 0.0f;
#pragma unroll
    for (int m = 0; m < 5; m++) blur_down(rows[m], column, strip, moments[m]);
    size_t planes = (size_t)gridDim.z * height * width;
#pragma unroll
    for (int k = 0; k < STRIP; k++) {
        int x = blockIdx.x * TILE + column, y = blockIdx.y * TILE + strip + k;
        if (x < width && y < height) {
            float mean_a = moments[0][k], mean_b = moments[1][k];
            float squares = mean_a * mean_a + mean_b * mean_b, product = mean_a * mean_b;
            float top_1 = 2.0f * product + SSIM_C1, top_2 = 2.0f * (moments[4][k] - product) + SSIM_C2;
            float bottom_1 = squares + SSIM_C1, bottom_2 = moments[2][k] + moments[3][k] - squares + SSIM_C2;
            float scale = 1.0f / (bottom_1 * bottom_2), similarity = top_1 * top_2 * scale;
            size_t at = plane + (size_t)y * width + x;
            slopes[at] = 2.0f * (mean_b * (top_2 - top_1) * scale - similarity * mean_a * (bottom_2 - bottom_1) * scale);
            slopes[planes + at] = -similarity * bottom_1 * scale;
            slopes[2 * planes + at] = 2.0f * top_1 * scale;
            int centre = (strip + k + RADIUS) * HALO_PITCH + column + RADIUS;
            loss += l1_weight * fabsf(halo_a[centre] - halo_b[centre]) + ssim_weight * (1.0f - similarity);
        }
    }
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) loss += __shfl_xor_sync(FULL_MASK, loss, step);
    if ((threadIdx.x & 31) == 0) warp_sums[threadIdx.x >> 5] = loss;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (int warp = 0; warp < THREADS / 32; warp++) total += warp_sums[warp];
        partial[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = total;
    }
}

// The window is symmetric and the padding zero, so the blur is its own adjoint: the gradient is three blurs of `slopes`.
extern "C" __global__ void __launch_bounds__(THREADS) l1_ssim_backward(int height, int width, float l1_weight,
                                                                       float ssim_weight, const float* __restrict__ a,
                                                                       const float* __restrict__ b,
                                                                       const float* __restrict__ slopes,
                                                                       const float* __restrict__ d_loss,
                                                                       float* __restrict__ d_a) {
    __shared__ float halo[3][HALO * HALO_PITCH];
    __shared__ float rows[3][HALO * TILE_PITCH];
    size_t plane = (size_t)blockIdx.z * height * width, planes = (size_t)gridDim.z * height * width;
    for (int map = 0; map < 3; map++) load_halo(slopes + map * planes + plane, height, width, halo[map]);
    __syncthreads();
    for (int item = threadIdx.x; item < HALO * (TILE / STRIP); item += THREADS) {
        int row = item / (TILE / STRIP), column = (item % (TILE / STRIP)) * STRIP;
#pragma unroll
        for (int map = 0; map < 3; map++) {
            float values[STRIP + WINDOW - 1];
#pragma unroll
            for (int k = 0; k < STRIP + WINDOW - 1; k++) values[k] = halo[map][row * HALO_PITCH + column + k];
#pragma unroll
            for (int k = 0; k < STRIP; k++) {
                float sum = 0.0f;
#pragma unroll
                for (int tap = 0; tap < WINDOW; tap++) sum += window[tap] * values[k + tap];
                rows[map][row * TILE_PITCH + column + k] = sum;
            }
        }
    }
    __syncthreads();
    int column = threadIdx.x % TILE, strip = (threadIdx.x / TILE) * STRIP;
    float blurred[3][STRIP], scale = *d_loss;
#pragma unroll
    for (int map = 0; map < 3; map++) blur_down(rows[map], column, strip, blurred[map]);
#pragma unroll
    for (int k = 0; k < STRIP; k++) {
        int x = blockIdx.x * TILE + column, y = blockIdx.y * TILE + strip + k;
        if (x < width && y < height) {
            size_t at = plane + (size_t)y * width + x;
            float va = a[at], vb = b[at], sign = va > vb ? 1.0f : va < vb ? -1.0f : 0.0f;
            d_a[at] = scale * (l1_weight * sign - ssim_weight * (blurred[0][k] + 2.0f * va * blurred[1][k] + vb * blurred[2][k]));
        }
    }
}
