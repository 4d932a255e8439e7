// Adam and AdamW, and moving averages, over at most SEGMENTS tensors in one launch.
// Pointers travel as one kernel parameter, so that a captured graph needs no table on the device; rates and step counts
// are read from the device, so that it sees their changes.

#define SEGMENTS 60  // 64 bytes each; a kernel takes 4096 bytes of parameters
#define THREADS 256
#define PER_THREAD 4
#define CHUNK (THREADS * PER_THREAD)

// One tensor. Blocks first_block ... until the next segment's are its chunks.
struct Segment {
    float* value;
    const float* other;  // gradient, or what is averaged
    float *first, *second, *step;  // moments and step count of Adam
    const float* group;  // [lr, 1 - beta1, 1 - beta2, eps, decay, decoupled], or the share of what is averaged; 1 - beta2
                         // keeps its digits in float32, beta2 = 0.999 would not
    int* ticket;         // 0: blocks that are done
    int count, first_block;
};

struct Table {
    Segment segments[SEGMENTS];
    int used;
};

// The last segment that starts at or before this block.
__device__ __forceinline__ int segment_of_block(const Table& table) {
    int low = 0, high = table.used - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (table.segments[middle].first_block <= (int)blockIdx.x)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// Grid (chunks of all segments).
extern "C" __global__ void __launch_bounds__(THREADS) adam_step(const Table table) {
    int index = segment_of_block(table);
    const Segment& s = table.segments[index];
    int chunk = blockIdx.x - s.first_block, chunks = (s.count + CHUNK - 1) / CHUNK;
    float rate = s.group[0], new1 = s.group[1], new2 = s.group[2], eps = s.group[3], decay = s.group[4];
    bool decoupled = s.group[5] != 0.0f;
    float steps = *s.step + 1.0f;
    float step_size = rate / -expm1f(steps * log1pf(-new1));  // 1 - beta^steps without cancellation
    float correction = sqrtf(-expm1f(steps * log1pf(-new2)));
    int start = chunk * CHUNK + threadIdx.x;
    float w[PER_THREAD], g[PER_THREAD], m[PER_THREAD], v[PER_THREAD];
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        int i = start + k * THREADS;
        if (i >= s.count) continue;
        w[k] = s.value[i], g[k] = s.other[i], m[k] = s.first[i], v[k] = s.second[i];
    }
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        int i = start + k * THREADS;
        if (i >= s.count) continue;
        if (decoupled)
            w[k] -= rate * decay * w[k];
        else
            g[k] += decay * w[k];
        m[k] += new1 * (g[k] - m[k]);
        v[k] = (1.0f - new2) * v[k] + new2 * g[k] * g[k];
        s.first[i] = m[k];
        s.second[i] = v[k];
        s.value[i] = w[k] - step_size * m[k] / (sqrtf(v[k]) / correction + eps);
    }
    __syncthreads();  // every thread has read the step count; the tensor's last block raises it
    if (threadIdx.x == 0 && atomicAdd(s.ticket, 1) == chunks - 1) {
        *s.step = steps;
        *s.ticket = 0;
    }
}

// value += share * (other - value). Grid (chunks of all segments).
extern "C" __global__ void __launch_bounds__(THREADS) average_step(const Table table) {
    const Segment& s = table.segments[segment_of_block(table)];
    float share = *s.group;
    int start = (blockIdx.x - s.first_block) * CHUNK + threadIdx.x;
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        int i = start + k * THREADS;
        if (i < s.count) s.value[i] += share * (s.other[i] - s.value[i]);
    }
}
