// Small sums: mean absolute values of several tensors (the motion's size), and the loss from its terms.

#define THREADS 256
#define WARPS (THREADS / 32)
#define MOST 6    // tensors of one magnitude
#define TERMS 12  // of one loss

// Grid (blocks). partial [blocks]: this block's share of weight * sum_k mean |t_k|.
extern "C" __global__ void __launch_bounds__(THREADS) magnitude_forward(
    float weight, int n0, int n1, int n2, int n3, int n4, int n5, const float* __restrict__ t0,
    const float* __restrict__ t1, const float* __restrict__ t2, const float* __restrict__ t3, const float* __restrict__ t4,
    const float* __restrict__ t5, float* __restrict__ partial) {
    const float* tensors[MOST] = {t0, t1, t2, t3, t4, t5};
    int sizes[MOST] = {n0, n1, n2, n3, n4, n5}, stride = gridDim.x * THREADS;
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < MOST; k++) {
        float sum = 0.0f;
        for (int i = blockIdx.x * THREADS + threadIdx.x; i < sizes[k]; i += stride) sum += fabsf(tensors[k][i]);
        if (sizes[k]) total += sum / sizes[k];
    }
    total = block_sum<WARPS>(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = weight * total;
}

// Outputs of which no gradient is wanted are null.
extern "C" __global__ void __launch_bounds__(THREADS) magnitude_backward(
    float weight, int n0, int n1, int n2, int n3, int n4, int n5, const float* __restrict__ t0,
    const float* __restrict__ t1, const float* __restrict__ t2, const float* __restrict__ t3, const float* __restrict__ t4,
    const float* __restrict__ t5, const float* __restrict__ slope, float* __restrict__ d0, float* __restrict__ d1, float* __restrict__ d2,
    float* __restrict__ d3, float* __restrict__ d4, float* __restrict__ d5) {
    const float* tensors[MOST] = {t0, t1, t2, t3, t4, t5};
    float* gradients[MOST] = {d0, d1, d2, d3, d4, d5};
    int sizes[MOST] = {n0, n1, n2, n3, n4, n5}, stride = gridDim.x * THREADS;
#pragma unroll
    for (int k = 0; k < MOST; k++) {
        if (!gradients[k]) continue;
        float step = weight * *slope / sizes[k];
        for (int i = blockIdx.x * THREADS + threadIdx.x; i < sizes[k]; i += stride) {
            float value = tensors[k][i];
            gradients[k][i] = value > 0.0f ? step : value < 0.0f ? -step : 0.0f;
        }
    }
}

// One block. totals [1 + terms]: the loss, then the sum of each term's elements.
extern "C" __global__ void __launch_bounds__(THREADS) sum_terms(
    int terms, int n0, int n1, int n2, int n3, int n4, int n5, int n6, int n7, int n8, int n9, int n10, int n11,
    const float* __restrict__ t0, const float* __restrict__ t1, const float* __restrict__ t2, const float* __restrict__ t3,
    const float* __restrict__ t4, const float* __restrict__ t5, const float* __restrict__ t6, const float* __restrict__ t7,
    const float* __restrict__ t8, const float* __restrict__ t9, const float* __restrict__ t10,
    const float* __restrict__ t11, float* __restrict__ totals) {
    const float* tensors[TERMS] = {t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11};
    int sizes[TERMS] = {n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11};
    float loss = 0.0f;
#pragma unroll
    for (int k = 0; k < TERMS; k++) {
        if (k >= terms) break;
        float sum = 0.0f;
        for (int i = threadIdx.x; i < sizes[k]; i += THREADS) sum += tensors[k][i];
        sum = block_sum<WARPS>(sum);
        if (threadIdx.x == 0) totals[1 + k] = sum;
        loss += sum;
    }
    if (threadIdx.x == 0) totals[0] = loss;
}
