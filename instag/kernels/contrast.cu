// Negative contrast (paper Eq. 6, 7): sum over j of mean(max(0, d_i . d_j)), and its gradient towards d_i, in one pass.
// Twin of instag/losses.py::negative_contrast.

#define THREADS 256

// own [vectors, 3], others [fields, vectors, 3]; slope [vectors, 3] is the gradient of the loss; partial [gridDim.x] sums to
// the loss. Grid ceil(vectors / THREADS).
extern "C" __global__ void __launch_bounds__(THREADS) contrast(int vectors, int fields, const float* __restrict__ own,
                                                               const float* __restrict__ others, float* __restrict__ slope,
                                                               float* __restrict__ partial) {
    __shared__ float sums[THREADS / 32];
    int i = blockIdx.x * THREADS + threadIdx.x, lane = threadIdx.x & 31;
    float share = 1.0f / (float)vectors, loss = 0.0f;
    if (i < vectors) {
        float x = own[3 * i], y = own[3 * i + 1], z = own[3 * i + 2], sx = 0.0f, sy = 0.0f, sz = 0.0f;
        for (int j = 0; j < fields; j++) {
            const float* other = others + 3 * ((size_t)j * vectors + i);
            float dot = x * other[0] + y * other[1] + z * other[2];
            if (dot > 0.0f) {
                loss += dot;
                sx += other[0];
                sy += other[1];
                sz += other[2];
            }
        }
        slope[3 * i] = share * sx;
        slope[3 * i + 1] = share * sy;
        slope[3 * i + 2] = share * sz;
    }
    for (int step = 16; step > 0; step >>= 1) loss += __shfl_xor_sync(0xffffffffu, loss, step);
    if (lane == 0) sums[threadIdx.x >> 5] = loss;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int k = 1; k < THREADS / 32; k++) loss += sums[k];
        partial[blockIdx.x] = share * loss;
    }
}
