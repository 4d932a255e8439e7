// Depth order within each tile, and tiles binned by work so that blending starts with the heaviest.

#define SORT_THREADS 256
#define OWN_STEP 32  // a warp's pairs of this or a shorter step are the same 64 keys: no other warp is waited for
#define SORT_SHARED 4096  // longer lists are sorted in place in global memory: correct, slower

__device__ __forceinline__ void bitonic_sort(u64* keys, int size, int thread) {
    for (int width = 2; width <= size; width <<= 1) {
        for (int step = width >> 1; step > 0; step >>= 1) {
            for (int pair = thread; pair < (size >> 1); pair += SORT_THREADS) {
                int low = 2 * pair - (pair & (step - 1)), high = low + step;
                bool ascending = (low & width) == 0;
                u64 a = keys[low], b = keys[high];
                if ((a > b) == ascending) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            int next = step > 1 ? step >> 1 : width;
            if (max(step, next) > OWN_STEP) __syncthreads();
            else __syncwarp();
        }
    }
}

// One block per tile of every view. A key is (bits of the depth, index): ascending depth, ties by index, whatever order
// the atomics of project_forward left.
// `overflow` receives the longest list wanted where it exceeds the capacity. The capacity is a power of two.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) sort_tiles(
    int tiles, int capacity, const int* __restrict__ tile_counts, u64* __restrict__ tile_lists,
    int* __restrict__ work_order, int* __restrict__ overflow) {
    __shared__ u64 keys[SORT_SHARED];
    int tile = blockIdx.x, thread = threadIdx.x;
    int wanted = tile_counts[tile], count = min(wanted, capacity);
    if (thread == 0) {
        if (wanted > capacity) atomicMax(overflow, wanted);
        enlist(tile_order(work_order, tiles), tile, count);
    }
    if (count < 2) return;
    u64* list = tile_lists + (size_t)tile * capacity;
    int size = 2;
    while (size < count) size <<= 1;
    if (size <= SORT_SHARED) {
        for (int i = thread; i < size; i += SORT_THREADS) keys[i] = i < count ? list[i] : ~0ull;
        __syncthreads();
        bitonic_sort(keys, size, thread);
        for (int i = thread; i < count; i += SORT_THREADS) list[i] = keys[i];
    } else {
        for (int i = count + thread; i < size; i += SORT_THREADS) list[i] = ~0ull;
        __syncthreads();
        bitonic_sort(list, size, thread);
    }
}
