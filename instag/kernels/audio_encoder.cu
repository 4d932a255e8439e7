// Audio network and temporal attention of WIDTH x STEPS features per frame, forward in two launches, backward in two.
// A block per frame of a window runs the frame's network; a block per window the attention. Every layer is a
// convolution over [steps, channels] (a linear one has one step and one tap); all weights come through the L2 cache,
// each once a block, side by side. A layer costs about the time that one of its loads takes, so few wait for others.
// Backward: a block per frame walks back through the attention (again in each of the window's blocks: cheaper than a
// launch) and its own network and keeps the slopes; then a thread per weight sums over frames and steps, in order.

#define THREADS 1024
#define WARPS (THREADS / 32)
#define BACKWARD_THREADS 256
#define FRAMES 8  // of a window
#define SLOPE 0.02f
#define FEATURES 32

struct Layer {
    int inputs, in_steps, outputs, out_steps, taps, stride;
    __device__ constexpr int in_size() const { return inputs * in_steps; }
    __device__ constexpr int size() const { return outputs * out_steps; }
    __device__ constexpr int weights() const { return outputs * inputs * taps; }
    __device__ constexpr int parameters() const { return weights() + outputs; }
};

__device__ constexpr int halved(int steps) { return (steps - 1) / 2 + 1; }

#define STEPS_1 halved(STEPS)
#define STEPS_2 halved(STEPS_1)
#define STEPS_3 halved(STEPS_2)
#define NETWORK 6    // layers of a frame's network
#define LAYERS 12    // and six of the attention

// Parameters 2i and 2i + 1 of an encoder are weight and bias of layer i.
__device__ constexpr Layer layer(int i) {
    constexpr Layer all[LAYERS] = {
        {WIDTH, STEPS, NARROW, STEPS_1, 3, 2}, {NARROW, STEPS_1, NARROW, STEPS_2, 3, 2},
        {NARROW, STEPS_2, 64, STEPS_3, 3, 2},  {64, STEPS_3, 64, 1, 3, 2},
        {64, 1, 64, 1, 1, 1},                  {64, 1, FEATURES, 1, 1, 1},
        {FEATURES, FRAMES, 16, FRAMES, 3, 1},  {16, FRAMES, 8, FRAMES, 3, 1},
        {8, FRAMES, 4, FRAMES, 3, 1},          {4, FRAMES, 2, FRAMES, 3, 1},
        {2, FRAMES, 1, FRAMES, 3, 1},          {FRAMES, 1, FRAMES, 1, 1, 1}};
    return all[i];
}

// Where a layer's outputs [out_steps, outputs] lie: of the network's layers in a frame's row of FRAME_FLOATS; of the
// attention's in a window's row of WINDOW_FLOATS, behind its inputs [8, 32].
__device__ constexpr int offset(int i) {
    int at = i < NETWORK ? 0 : FEATURES * FRAMES;
    for (int k = i < NETWORK ? 0 : NETWORK; k < i; k++) at += layer(k).size();
    return at;
}

__device__ constexpr int parameter_offset(int i) {
    int at = 0;
    for (int k = 0; k < i; k++) at += layer(k).parameters();
    return at;
}

#define FRAME_FLOATS (offset(NETWORK - 1) + FEATURES)
#define WINDOW_FLOATS (offset(LAYERS - 1) + FRAMES)
#define PARAMETERS parameter_offset(LAYERS)

typedef const float* const* Table;  // [2 LAYERS] addresses of an encoder's weights and biases

__device__ __forceinline__ float leaky(float x) { return x > 0.0f ? x : SLOPE * x; }
__device__ __forceinline__ float slope_at(float y) { return y > 0.0f ? 1.0f : SLOPE; }  // y: after the activation

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// out [out_steps, outputs] of in [in_steps, inputs]: a warp per output, a lane per input channel, all steps at once.
template <int I>
__device__ void forward(Table table, const float* in, float* out, bool activate) {
    constexpr Layer L = layer(I);
    const float* __restrict__ weight = table[2 * I];
    const float* __restrict__ bias = table[2 * I + 1];
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int first = 0; first < L.outputs; first += WARPS) {
        int o = first + threadIdx.x / 32;
        if (o >= L.outputs) continue;  // the whole warp
        float sums[L.out_steps] = {}, shift = bias[o];
#pragma unroll 4
        for (int i = 0; i < (L.inputs + 31) / 32; i++) {
            bool live = i * 32 + lane < L.inputs;
            int channel = live ? i * 32 + lane : 0;
            float taps[L.taps];
#pragma unroll
            for (int k = 0; k < L.taps; k++) taps[k] = live ? weight[(o * L.inputs + channel) * L.taps + k] : 0.0f;
#pragma unroll
            for (int t = 0; t < L.in_steps; t++) {
                float x = in[t * L.inputs + channel];
#pragma unroll
                for (int k = 0; k < L.taps; k++) {
                    int to = t - k + L.taps / 2;
                    if (to >= 0 && to % L.stride == 0 && to / L.stride < L.out_steps)
                        sums[to / L.stride] += taps[k] * x;
                }
            }
        }
#pragma unroll
        for (int t = 0; t < L.out_steps; t++) {
            float sum = warp_sum(sums[t]) + shift;
            if (lane == t) out[t * L.outputs + o] = activate ? leaky(sum) : sum;
        }
    }
    __syncthreads();
}

// d_in [in_steps, inputs] from d_out [out_steps, outputs], times the activation's slope where `activated` (the layer's
// input) is given. Threads of one input lie BACKWARD_THREADS / GROUPS apart, so that neighbours read neighbouring weights.
template <int I>
__device__ void backward(Table table, const float* d_out, const float* activated, float* d_in, float* partial) {
    constexpr Layer L = layer(I);
    constexpr int WANTED = BACKWARD_THREADS / L.in_size(), GROUPS = WANTED < 1 ? 1 : WANTED < L.outputs ? WANTED : L.outputs;
    constexpr int COLUMNS = BACKWARD_THREADS / GROUPS;
    const float* __restrict__ weight = table[2 * I];
    int group = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS;
    for (int first = 0; first < L.in_size(); first += COLUMNS) {
        int index = first + column, t = index / L.inputs, c = index % L.inputs;
        float sum = 0.0f;
        if (group < GROUPS && index < L.in_size())
#pragma unroll 4
            for (int o = group; o < L.outputs; o += GROUPS)
#pragma unroll
                for (int tap = 0; tap < L.taps; tap++) {
                    int from = t - tap + L.taps / 2;
                    if (from < 0 || from % L.stride || from / L.stride >= L.out_steps) continue;
                    sum += weight[(o * L.inputs + c) * L.taps + tap] * d_out[from / L.stride * L.outputs + o];
                }
        partial[threadIdx.x] = sum;
        __syncthreads();
        if (group == 0 && index < L.in_size()) {
            for (int g = 1; g < GROUPS; g++) sum += partial[g * COLUMNS + column];
            d_in[index] = activated ? sum * slope_at(activated[index]) : sum;
        }
        __syncthreads();
    }
}

// Ask for every weight at once, a warp a layer: a step's other work has driven them out of the L2 cache, and layer
// after layer would wait for DRAM. The frames' blocks share the lines.
__device__ __forceinline__ void prefetch(Table table) {
#ifndef EMULATED
    constexpr int LINE = 128;  // bytes
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < LAYERS; i++) {
        if (threadIdx.x / 32 != i % (blockDim.x / 32)) continue;
        const char* weight = (const char*)table[2 * i];
        for (int at = LINE * (32 * blockIdx.x + lane); at < 4 * layer(i).weights(); at += LINE * 32 * gridDim.x)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(weight + at));
        if (blockIdx.x == 0 && lane == 0) asm volatile("prefetch.global.L2 [%0];" ::"l"(table[2 * i + 1]));
    }
#endif
}

__device__ void copy(const float* __restrict__ from, float* to, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// Grid (frames of all windows, encoders). tables [encoders, 2 LAYERS]; window [frames, WIDTH, STEPS];
// kept [encoders, frames, FRAME_FLOATS].
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    audio_frames(const float* const* __restrict__ tables, const float* __restrict__ window, float* __restrict__ kept) {
    __shared__ float in[WIDTH * STEPS], out[FRAME_FLOATS];
    Table table = tables + 2 * LAYERS * blockIdx.y;
    prefetch(table);
    window += (size_t)blockIdx.x * WIDTH * STEPS;
    for (int i = threadIdx.x; i < WIDTH * STEPS; i += THREADS) in[i % STEPS * WIDTH + i / STEPS] = window[i];
    __syncthreads();
    forward<0>(table, in, out, true);
    forward<1>(table, out, out + offset(1), true);
    forward<2>(table, out + offset(1), out + offset(2), true);
    forward<3>(table, out + offset(2), out + offset(3), true);
    forward<4>(table, out + offset(3), out + offset(4), true);
    forward<5>(table, out + offset(4), out + offset(5), false);
    copy(out, kept + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * FRAME_FLOATS, FRAME_FLOATS);
}

// Grid (windows, encoders). kept as above; attention [encoders, windows, WINDOW_FLOATS], whose last FRAMES are the
// weights of the frames; audio [encoders, windows, 32].
extern "C" __global__ void __launch_bounds__(THREADS)
    audio_attention(const float* const* __restrict__ tables, const float* __restrict__ kept, float* __restrict__ attention,
                    float* __restrict__ audio) {
    __shared__ float row[WINDOW_FLOATS];
    Table table = tables + 2 * LAYERS * blockIdx.y;
    size_t which = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    kept += which * FRAMES * FRAME_FLOATS + offset(NETWORK - 1);
    for (int i = threadIdx.x; i < FEATURES * FRAMES; i += THREADS)
        row[i] = kept[(i / FEATURES) * FRAME_FLOATS + i % FEATURES];
    __syncthreads();
    forward<6>(table, row, row + offset(6), true);
    forward<7>(table, row + offset(6), row + offset(7), true);
    forward<8>(table, row + offset(7), row + offset(8), true);
    forward<9>(table, row + offset(8), row + offset(9), true);
    forward<10>(table, row + offset(9), row + offset(10), true);
    forward<11>(table, row + offset(10), row + offset(11), false);
    float* weights = row + offset(11);
    float highest = weights[0], total = 0.0f;
    for (int k = 1; k < FRAMES; k++) highest = fmaxf(highest, weights[k]);
    for (int k = 0; k < FRAMES; k++) total += expf(weights[k] - highest);
    float mine = threadIdx.x < FRAMES ? expf(weights[threadIdx.x] - highest) / total : 0.0f;
    __syncthreads();
    if (threadIdx.x < FRAMES) weights[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x < FEATURES) {
        float sum = 0.0f;
        for (int k = 0; k < FRAMES; k++) sum += weights[k] * row[k * FEATURES + threadIdx.x];
        audio[which * FEATURES + threadIdx.x] = sum;
    }
    copy(row, attention + which * WINDOW_FLOATS, WINDOW_FLOATS);
}

// Grid (frames of all windows). d_audio [windows, 32]. Slopes towards every layer's sums: of the frame's network in
// d_kept [frames, FRAME_FLOATS], of the attention in d_attention [windows, WINDOW_FLOATS].
extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS)
    audio_backward(const float* const* __restrict__ table, const float* __restrict__ kept,
                   const float* __restrict__ attention, const float* __restrict__ d_audio, float* __restrict__ d_kept,
                   float* __restrict__ d_attention) {
    __shared__ float row[WINDOW_FLOATS], d_row[WINDOW_FLOATS], out[FRAME_FLOATS], d_out[FRAME_FLOATS], partial[BACKWARD_THREADS];
    __shared__ float d_weights[FRAMES];
    int window = blockIdx.x / FRAMES, frame = blockIdx.x % FRAMES;
    prefetch(table);
    d_audio += window * FEATURES;
    copy(attention + (size_t)window * WINDOW_FLOATS, row, WINDOW_FLOATS);
    copy(kept + (size_t)blockIdx.x * FRAME_FLOATS, out, FRAME_FLOATS);
    __syncthreads();
    const float* weights = row + offset(11);
    if (threadIdx.x < FEATURES * FRAMES) {  // a warp per frame, a lane per feature
        float sum = warp_sum(d_audio[threadIdx.x % FEATURES] * row[threadIdx.x]);
        if (threadIdx.x % FEATURES == 0) d_weights[threadIdx.x / FEATURES] = sum;
    }
    __syncthreads();
    if (threadIdx.x < FRAMES) {
        float mean = 0.0f;
        for (int k = 0; k < FRAMES; k++) mean += weights[k] * d_weights[k];
        d_row[offset(11) + threadIdx.x] = weights[threadIdx.x] * (d_weights[threadIdx.x] - mean);
    }
    __syncthreads();
    backward<11>(table, d_row + offset(11), row + offset(10), d_row + offset(10), partial);
    backward<10>(table, d_row + offset(10), row + offset(9), d_row + offset(9), partial);
    backward<9>(table, d_row + offset(9), row + offset(8), d_row + offset(8), partial);
    backward<8>(table, d_row + offset(8), row + offset(7), d_row + offset(7), partial);
    backward<7>(table, d_row + offset(7), row + offset(6), d_row + offset(6), partial);
    backward<6>(table, d_row + offset(6), nullptr, d_row, partial);
    if (frame == 0) copy(d_row, d_attention + (size_t)window * WINDOW_FLOATS, WINDOW_FLOATS);
    if (threadIdx.x < FEATURES)
        d_out[offset(5) + threadIdx.x] = d_row[frame * FEATURES + threadIdx.x] + weights[frame] * d_audio[threadIdx.x];
    __syncthreads();
    backward<5>(table, d_out + offset(5), out + offset(4), d_out + offset(4), partial);
    backward<4>(table, d_out + offset(4), out + offset(3), d_out + offset(3), partial);
    backward<3>(table, d_out + offset(3), out + offset(2), d_out + offset(2), partial);
    backward<2>(table, d_out + offset(2), out + offset(1), d_out + offset(1), partial);
    backward<1>(table, d_out + offset(1), out, d_out, partial);
    copy(d_out, d_kept + (size_t)blockIdx.x * FRAME_FLOATS, FRAME_FLOATS);
}

// The gradient of parameter `index` of layer I: weights [outputs, inputs, taps], then biases. `in` and `d_out` point to
// the first of `rows` rows, whose lengths are given. The first layer's rows are the window's, [channels, steps].
template <int I>
__device__ float parameter_gradient(int index, int rows, const float* __restrict__ in, int in_row,
                                    const float* __restrict__ d_out, int d_row) {
    constexpr Layer L = layer(I);
    float sum = 0.0f;
    if (index >= L.weights()) {
        d_out += index - L.weights();
        for (int r = 0; r < rows; r++, d_out += d_row)
            for (int t = 0; t < L.out_steps; t++) sum += d_out[t * L.outputs];
        return sum;
    }
    int tap = index % L.taps, c = index / L.taps % L.inputs, o = index / (L.taps * L.inputs);
    constexpr int NEXT = I == 0 ? 1 : L.inputs;  // from a step to the next
    in += I == 0 ? c * L.in_steps : c;
    d_out += o;
#pragma unroll 4
    for (int r = 0; r < rows; r++, in += in_row, d_out += d_row)
#pragma unroll
        for (int t = 0; t < L.out_steps; t++) {
            int from = t * L.stride + tap - L.taps / 2;
            if (from >= 0 && from < L.in_steps) sum += d_out[t * L.outputs] * in[from * NEXT];
        }
    return sum;
}

#define NETWORK_LAYER(I)                                                                                          \
    if (index < parameter_offset(I + 1)) {                                                                        \
        d_parameters[index] =                                                                                     \
            parameter_gradient<I>(index - parameter_offset(I), FRAMES * windows, kept + offset(I - 1), FRAME_FLOATS, \
                                  d_kept + offset(I), FRAME_FLOATS);                                              \
        return;                                                                                                   \
    }
#define ATTENTION_LAYER(I, IN)                                                                                     \
    if (index < parameter_offset(I + 1)) {                                                                         \
        d_parameters[index] =                                                                                      \
            parameter_gradient<I>(index - parameter_offset(I), windows, attention + (IN), WINDOW_FLOATS,           \
                                  d_attention + offset(I), WINDOW_FLOATS);                                         \
        return;                                                                                                    \
    }

// A thread per parameter. d_parameters [PARAMETERS], in the encoder's order.
extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS)
    audio_gradients(int windows, const float* __restrict__ window, const float* __restrict__ kept,
                    const float* __restrict__ attention, const float* __restrict__ d_kept,
                    const float* __restrict__ d_attention, float* __restrict__ d_parameters) {
    int index = blockIdx.x * BACKWARD_THREADS + threadIdx.x;
    if (index >= PARAMETERS) return;
    if (index < parameter_offset(1)) {
        d_parameters[index] =
            parameter_gradient<0>(index, FRAMES * windows, window, WIDTH * STEPS, d_kept, FRAME_FLOATS);
        return;
    }
    NETWORK_LAYER(1)
    NETWORK_LAYER(2)
    NETWORK_LAYER(3)
    NETWORK_LAYER(4)
    NETWORK_LAYER(5)
    ATTENTION_LAYER(6, 0)
    ATTENTION_LAYER(7, offset(6))
    ATTENTION_LAYER(8, offset(7))
    ATTENTION_LAYER(9, offset(8))
    ATTENTION_LAYER(10, offset(9))
    ATTENTION_LAYER(11, offset(10))
}
