// The sum of a value over the threads of a block, which every thread gets.

#define FULL_MASK 0xffffffffu

template <int WARPS> __device__ __forceinline__ float block_sum(float value) {
    __shared__ float warp_sums[WARPS];
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(FULL_MASK, value, step);
    __syncthreads();  // the sums of a call before may still be read
    if ((threadIdx.x & 31) == 0) warp_sums[threadIdx.x >> 5] = value;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) total += warp_sums[warp];
    return total;
}
