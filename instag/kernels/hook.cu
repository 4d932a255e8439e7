// k-th largest and k-th smallest of N values, exact, one block per frame.
// Values lie in columns, one a thread. The k-th largest of the columns' maxima is a bound: the k-th largest value lies
// not below it, and above it lie only values of at most k - 1 columns. They are searched, or the bound is the answer.

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif
#define THREADS 1024

// Order-preserving: a < b as floats exactly where key(a) < key(b).
__device__ __forceinline__ unsigned key_of(float x) {
    unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// Largest t with at least `rank` of the block's keys >= t, that is, the rank-th largest; the same in every thread.
__device__ __forceinline__ unsigned kth_largest(const unsigned* keys, int count, int rank) {
    unsigned result = 0;
    for (int bit = 31; bit >= 0; bit--) {
        unsigned wanted = result | 1u << bit;
        int above = 0;
        for (int first = 0; first < count; first += THREADS) {
            int i = first + threadIdx.x;
            above += __syncthreads_count(i < count && keys[i] >= wanted);
        }
        if (above >= rank) result = wanted;
    }
    return result;
}

// The k-th largest key, or, where `flip` is all ones, the complement of the k-th smallest. `held` has room for THREADS
// keys, and for those of the rank - 1 columns that may have values above the bound.
__device__ unsigned select(const float* __restrict__ values, int count, int stride, int rank, unsigned flip,
                           unsigned* held, unsigned best) {
    __shared__ int columns, found;
    held[threadIdx.x] = best;
    if (threadIdx.x == 0) columns = found = 0;
    __syncthreads();
    unsigned bound = kth_largest(held, THREADS, rank);
    __syncthreads();  // every thread has read held
    int column = -1;
    if (best > bound) column = atomicAdd(&columns, 1);
    if (column >= 0) held[column] = threadIdx.x;
    __syncthreads();
    int listed = columns, rows = (count + THREADS - 1) / THREADS;
    unsigned* above = held + THREADS;
    for (int i = threadIdx.x; i < listed * rows; i += THREADS) {
        int index = (i / listed) * THREADS + held[i % listed];
        if (index >= count) continue;
        unsigned key = key_of(values[(size_t)index * stride]) ^ flip;
        if (key > bound) above[atomicAdd(&found, 1)] = key;
    }
    __syncthreads();
    // fewer than k above the bound, and at least k at or above it: the bound is the k-th
    unsigned result = found < rank ? bound : kth_largest(above, found, rank);
    __syncthreads();
    return result;
}

// Grid (frames). values [B, count, stride], of which the first component is looked at; phi [B, 3] = unit {k-th largest,
// k-th smallest, their difference}. rank_on_device [1], or null for `rank`; at most `most`.
extern "C" __global__ void __launch_bounds__(THREADS)
    hook_select(int count, int stride, int rank, int most, float unit, const float* __restrict__ values,
                const long long* __restrict__ rank_on_device, float* __restrict__ phi) {
    DYNAMIC_SHARED(unsigned, held);
    values += (size_t)blockIdx.x * count * stride;
    int k = rank_on_device ? (int)*rank_on_device : rank;
    k = k < 1 ? 1 : k > most ? most : k;
    unsigned largest = 0, smallest = 0;  // keys; the smaller, the higher the complement
#pragma unroll 8
    for (int i = threadIdx.x; i < count; i += THREADS) {
        unsigned key = key_of(values[(size_t)i * stride]);
        largest = key > largest ? key : largest;
        smallest = ~key > smallest ? ~key : smallest;
    }
    unsigned high = select(values, count, stride, k, 0u, held, largest);
    unsigned low = ~select(values, count, stride, k, ~0u, held, smallest);
    if (threadIdx.x == 0) {
        float highest = unit * value_of(high), lowest = unit * value_of(low);
        phi[3 * blockIdx.x] = highest;
        phi[3 * blockIdx.x + 1] = lowest;
        phi[3 * blockIdx.x + 2] = highest - lowest;
    }
}
