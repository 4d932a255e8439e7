// The face motion field behind its encoding (METHOD.md section 4), forward and backward, each one kernel: audio weights
// w = A2 relu(A1 x), eye weights v = relu(E2 relu(E1 x)), h = D3 relu(D2 relu(D1 [x, a * w, e * v])), and |w|, |v|.
// Twin of instag/fields/motion.py::FaceMotionField behind `encoding`, `audio` and `expression`.
//
// A warp owns 16 points and keeps their activations in registers from layer to layer. Layers are products on the tensor
// cores (mma.m16n8k8, tf32) in three passes, hi * hi + hi * lo + lo * hi, which is as accurate as float32.
//
// Why no shuffles between layers: with g = lane / 4, t = lane % 4 the result of a product holds columns 2t, 2t + 1 of
// rows g, g + 8, while the left operand wants slots t and t + 4. The order of the inner dimension is free as long as both
// operands agree, so slot t means column 2t and slot t + 4 column 2t + 1; the weights, stored as torch stores them
// ([out, in]), then give both slots as one float2.
//
// Compile-time: HIDDEN of the last network (64 or 32); WARPS per block of the backward kernel (8, or 4 where a block has
// less than 140 KB of shared memory).

typedef unsigned int u32;
#define FULL_MASK 0xffffffffu

#define POINT_FEATURES 36
#define AUDIO 32
#define EXPRESSION 6
#define EYE_HIDDEN 16
#define OUTPUTS 11
#define DECODER_INPUTS (POINT_FEATURES + AUDIO + EXPRESSION)
#define MEAN_UNIT 0.01f  // head units per unit of the network's first three outputs

// Tiles of 8 columns; 36 features are padded to 40 columns, 6 expressions to 8, 11 outputs to 16.
#define POINT_TILES 5
#define AUDIO_TILES 4
#define EYE_HIDDEN_TILES 2
#define HIDDEN_TILES (HIDDEN / 8)
#define OUTPUT_TILES 2

// Weights in shared memory: rows padded to 8 (mod 32) or 24 floats, so that eight rows start in different banks.
#define NARROW_PITCH 40
#define EYE_PITCH 24
#define DECODER_PITCH 88  // columns: x 40, a * w 32, e * v 8
#define HIDDEN_PITCH (HIDDEN + 8)
#define A1_AT 0
#define A2_AT (A1_AT + AUDIO * NARROW_PITCH)
#define E1_AT (A2_AT + AUDIO * NARROW_PITCH)
#define E2_AT (E1_AT + EYE_HIDDEN * NARROW_PITCH)
#define D1_AT (E2_AT + 8 * EYE_PITCH)
#define D2_AT (D1_AT + HIDDEN * DECODER_PITCH)
#define D3_AT (D2_AT + HIDDEN * HIDDEN_PITCH)
#define WEIGHT_FLOATS (D3_AT + 16 * HIDDEN_PITCH)

// Where the weights' gradients lie in a row of `partial` and in the reduced vector.
#define G_A1 0
#define G_A2 (G_A1 + AUDIO * POINT_FEATURES)
#define G_E1 (G_A2 + AUDIO * AUDIO)
#define G_E2 (G_E1 + EYE_HIDDEN * POINT_FEATURES)
#define G_D1 (G_E2 + EXPRESSION * EYE_HIDDEN)
#define G_D2 (G_D1 + HIDDEN * DECODER_INPUTS)
#define G_D3 (G_D2 + HIDDEN * HIDDEN)
#define G_CONDITIONS (G_D3 + OUTPUTS * HIDDEN)  // then, per frame, 32 of the audio and 6 of the expression
#define CONDITIONS (AUDIO + EXPRESSION)

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

// 16 rows x 8 columns of a matrix in a warp: elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
struct Tile {
    float v[4];
};

__device__ __forceinline__ float high_part(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// d += a b with a [16, 8] in slots (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4) and b [8, 8] in (t, g), (t + 4, g).
__device__ __forceinline__ void multiply_add(Tile& d, float a0, float a1, float a2, float a3, float b0, float b1) {
#ifndef EMULATED  // sm_80 or newer; older GPUs lack the shared memory as well, motion_head.py says so
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d.v[0]), "+f"(d.v[1]), "+f"(d.v[2]), "+f"(d.v[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
          "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#else  // the same by shuffles, operands cut to tf32 as the tensor cores cut them
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float a[4] = {high_part(a0), high_part(a1), high_part(a2), high_part(a3)}, b[2] = {high_part(b0), high_part(b1)};
    for (int k = 0; k < 8; k++) {
        float top = __shfl_sync(FULL_MASK, a[k < 4 ? 0 : 2], g * 4 + (k & 3));
        float bottom = __shfl_sync(FULL_MASK, a[k < 4 ? 1 : 3], g * 4 + (k & 3));
        float left = __shfl_sync(FULL_MASK, b[k >> 2], (2 * t) * 4 + (k & 3));
        float right = __shfl_sync(FULL_MASK, b[k >> 2], (2 * t + 1) * 4 + (k & 3));
        d.v[0] += top * left;
        d.v[1] += top * right;
        d.v[2] += bottom * left;
        d.v[3] += bottom * right;
    }
#endif
}

__device__ __forceinline__ void multiply_add_split(Tile& d, const float (&a)[4], float b0, float b1) {
    float high[4], low[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        high[k] = high_part(a[k]);
        low[k] = a[k] - high[k];
    }
    float high0 = high_part(b0), high1 = high_part(b1);
    multiply_add(d, low[0], low[1], low[2], low[3], high0, high1);
    multiply_add(d, high[0], high[1], high[2], high[3], b0 - high0, b1 - high1);
    multiply_add(d, high[0], high[1], high[2], high[3], high0, high1);
}

// out [16, 8 NT] += in [16, 8 KT] W^T, W [8 NT, 8 KT] in shared memory.
template <int KT, int NT>
__device__ __forceinline__ void layer(const Tile (&in)[KT], const float* weights, int pitch, Tile (&out)[NT]) {
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int j = 0; j < KT; j++) {
        float a[4] = {in[j].v[0], in[j].v[2], in[j].v[1], in[j].v[3]};
#pragma unroll
        for (int i = 0; i < NT; i++) {
            float2 w = *(const float2*)(weights + (8 * i + g) * pitch + 8 * j + 2 * t);
            multiply_add_split(out[i], a, w.x, w.y);
        }
    }
}

// The same weights backwards: d_in [16, 8 NT] += d_out [16, 8 KT] W, W [8 KT, 8 NT].
template <int KT, int NT>
__device__ __forceinline__ void layer_backward(const Tile (&d_out)[KT], const float* weights, int pitch, Tile (&d_in)[NT]) {
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int j = 0; j < KT; j++) {
        float a[4] = {d_out[j].v[0], d_out[j].v[2], d_out[j].v[1], d_out[j].v[3]};
#pragma unroll
        for (int i = 0; i < NT; i++) {
            const float* column = weights + (8 * j + 2 * t) * pitch + 8 * i + g;
            multiply_add_split(d_in[i], a, column[0], column[pitch]);
        }
    }
}

template <int NT>
__device__ __forceinline__ void clear(Tile (&tiles)[NT]) {
#pragma unroll
    for (int i = 0; i < NT; i++) tiles[i].v[0] = tiles[i].v[1] = tiles[i].v[2] = tiles[i].v[3] = 0.0f;
}

template <int NT>
__device__ __forceinline__ void relu(Tile (&tiles)[NT]) {
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) tiles[i].v[k] = fmaxf(tiles[i].v[k], 0.0f);
}

// Gradient through a ReLU whose result is `active`.
template <int NT>
__device__ __forceinline__ void relu_backward(Tile (&gradient)[NT], const Tile (&active)[NT]) {
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (!(active[i].v[k] > 0.0f)) gradient[i].v[k] = 0.0f;
}

// Copies W [rows, columns] into shared memory, zero-padded to [padded_rows, padded_columns].
__device__ __forceinline__ void copy_weights(const float* __restrict__ source, int source_pitch, int rows, int columns,
                                             int padded_rows, int padded_columns, float* target, int pitch) {
    for (int k = threadIdx.x; k < padded_rows * padded_columns; k += blockDim.x) {
        int row = k / padded_columns, column = k - row * padded_columns;
        target[row * pitch + column] = row < rows && column < columns ? source[row * source_pitch + column] : 0.0f;
    }
}

__device__ __forceinline__ void load_weights(const float* __restrict__ a1, const float* __restrict__ a2,
                                             const float* __restrict__ e1, const float* __restrict__ e2,
                                             const float* __restrict__ d1, const float* __restrict__ d2,
                                             const float* __restrict__ d3, float* weights) {
    copy_weights(a1, POINT_FEATURES, AUDIO, POINT_FEATURES, AUDIO, 40, weights + A1_AT, NARROW_PITCH);
    copy_weights(a2, AUDIO, AUDIO, AUDIO, AUDIO, AUDIO, weights + A2_AT, NARROW_PITCH);
    copy_weights(e1, POINT_FEATURES, EYE_HIDDEN, POINT_FEATURES, EYE_HIDDEN, 40, weights + E1_AT, NARROW_PITCH);
    copy_weights(e2, EYE_HIDDEN, EXPRESSION, EYE_HIDDEN, 8, EYE_HIDDEN, weights + E2_AT, EYE_PITCH);
    copy_weights(d1, DECODER_INPUTS, HIDDEN, POINT_FEATURES, HIDDEN, 40, weights + D1_AT, DECODER_PITCH);
    copy_weights(d1 + POINT_FEATURES, DECODER_INPUTS, HIDDEN, AUDIO + EXPRESSION, HIDDEN, 40, weights + D1_AT + 40,
                 DECODER_PITCH);
    copy_weights(d2, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, weights + D2_AT, HIDDEN_PITCH);
    copy_weights(d3, HIDDEN, OUTPUTS, HIDDEN, 16, HIDDEN, weights + D3_AT, HIDDEN_PITCH);
}

// What a point's motion does not depend on the frame for.
struct Point {
    Tile x[POINT_TILES], audio_hidden[AUDIO_TILES], w[AUDIO_TILES], eye_hidden[EYE_HIDDEN_TILES], v[1];
};

__device__ __forceinline__ void load_features(const float* __restrict__ features, int points, int first, Tile (&x)[POINT_TILES]) {
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int j = 0; j < POINT_TILES; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first + g + 8 * half, column = 8 * j + 2 * t;
            bool inside = row < points && column < POINT_FEATURES;
            float2 pair = inside ? *(const float2*)(features + (size_t)row * POINT_FEATURES + column) : make_float2(0.0f, 0.0f);
            x[j].v[2 * half] = pair.x;
            x[j].v[2 * half + 1] = pair.y;
        }
}

__device__ __forceinline__ void point_forward(const float* __restrict__ features, int points, int first,
                                              const float* weights, Point& p) {
    load_features(features, points, first, p.x);
    clear(p.audio_hidden);
    layer(p.x, weights + A1_AT, NARROW_PITCH, p.audio_hidden);
    relu(p.audio_hidden);
    clear(p.w);
    layer(p.audio_hidden, weights + A2_AT, NARROW_PITCH, p.w);
    clear(p.eye_hidden);
    layer(p.x, weights + E1_AT, NARROW_PITCH, p.eye_hidden);
    relu(p.eye_hidden);
    clear(p.v);
    layer(p.eye_hidden, weights + E2_AT, EYE_PITCH, p.v);
    relu(p.v);
}

// Lengths of rows g and g + 8 of a vector spread over the tiles, in all four lanes of a row.
template <int NT>
__device__ __forceinline__ float2 row_lengths(const Tile (&tiles)[NT]) {
    float top = 0.0f, bottom = 0.0f;
#pragma unroll
    for (int i = 0; i < NT; i++) {
        top += tiles[i].v[0] * tiles[i].v[0] + tiles[i].v[1] * tiles[i].v[1];
        bottom += tiles[i].v[2] * tiles[i].v[2] + tiles[i].v[3] * tiles[i].v[3];
    }
#pragma unroll
    for (int step = 1; step < 4; step <<= 1) {
        top += __shfl_xor_sync(FULL_MASK, top, step);
        bottom += __shfl_xor_sync(FULL_MASK, bottom, step);
    }
    return make_float2(sqrtf(top), sqrtf(bottom));
}

// A frame's conditions as this lane needs them: columns 2t, 2t + 1 of each tile.
struct Frame {
    float2 audio[AUDIO_TILES], expression;
};

__device__ __forceinline__ Frame load_frame(const float* __restrict__ audio, const float* __restrict__ expression, int frame) {
    Frame out;
    int t = threadIdx.x & 3;
#pragma unroll
    for (int i = 0; i < AUDIO_TILES; i++) {
        out.audio[i].x = audio[frame * AUDIO + 8 * i + 2 * t];
        out.audio[i].y = audio[frame * AUDIO + 8 * i + 2 * t + 1];
    }
    out.expression.x = t < 3 ? expression[frame * EXPRESSION + 2 * t] : 0.0f;
    out.expression.y = t < 3 ? expression[frame * EXPRESSION + 2 * t + 1] : 0.0f;
    return out;
}

__device__ __forceinline__ Tile scaled(const Tile& tile, float2 gain) {
    Tile out;
    out.v[0] = tile.v[0] * gain.x;
    out.v[1] = tile.v[1] * gain.y;
    out.v[2] = tile.v[2] * gain.x;
    out.v[3] = tile.v[3] * gain.y;
    return out;
}

// [a * w, e * v]
__device__ __forceinline__ void gate(const Point& p, const Frame& frame, Tile (&gated)[AUDIO_TILES + 1]) {
#pragma unroll
    for (int i = 0; i < AUDIO_TILES; i++) gated[i] = scaled(p.w[i], frame.audio[i]);
    gated[AUDIO_TILES] = scaled(p.v[0], frame.expression);
}

// Where an output column lives: d_mean [B, N, 3], d_rotation [.., 4], d_opacity [.., 1], d_scale [.., 3].
struct Outputs {
    float *mean, *rotation, *opacity, *scale;
};

__device__ __forceinline__ float* output_address(const Outputs& outputs, size_t row, int column) {
    if (column < 3) return outputs.mean ? outputs.mean + row * 3 + column : nullptr;
    if (column < 7) return outputs.rotation ? outputs.rotation + row * 4 + column - 3 : nullptr;
    if (column < 8) return outputs.opacity ? outputs.opacity + row : nullptr;
    return outputs.scale && column < OUTPUTS ? outputs.scale + row * 3 + column - 8 : nullptr;
}

// Grid: any number of blocks, WARPS * 32 threads; warps share the tiles of 16 points.
extern "C" __global__ void __launch_bounds__(WARPS * 32) motion_head_forward(
    int points, int frames, const float* __restrict__ features, const float* __restrict__ audio,
    const float* __restrict__ expression, const float* __restrict__ a1, const float* __restrict__ a2,
    const float* __restrict__ e1, const float* __restrict__ e2, const float* __restrict__ d1,
    const float* __restrict__ d2, const float* __restrict__ d3, float* __restrict__ mean, float* __restrict__ rotation,
    float* __restrict__ opacity, float* __restrict__ scale, float* __restrict__ audio_length,
    float* __restrict__ eye_length) {
    DYNAMIC_SHARED(float, weights);
    load_weights(a1, a2, e1, e2, d1, d2, d3, weights);
    __syncthreads();
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    Outputs outputs = {mean, rotation, opacity, scale};
    int tiles = (points + 15) / 16, stride = gridDim.x * WARPS;
    for (int tile = blockIdx.x * WARPS + (threadIdx.x >> 5); tile < tiles; tile += stride) {
        Point p;
        point_forward(features, points, tile * 16, weights, p);
        Tile base[HIDDEN_TILES];  // D1's share of x, the same in every frame
        clear(base);
        layer(p.x, weights + D1_AT, DECODER_PITCH, base);
        float2 lengths[2] = {row_lengths(p.w), row_lengths(p.v)};
        int row = tile * 16 + g;
        if (t == 0) {
            if (row < points) audio_length[row] = lengths[0].x, eye_length[row] = lengths[1].x;
            if (row + 8 < points) audio_length[row + 8] = lengths[0].y, eye_length[row + 8] = lengths[1].y;
        }
        for (int frame = 0; frame < frames; frame++) {
            Frame conditions = load_frame(audio, expression, frame);
            Tile gated[AUDIO_TILES + 1], hidden[HIDDEN_TILES], deeper[HIDDEN_TILES], out[OUTPUT_TILES];
            gate(p, conditions, gated);
#pragma unroll
            for (int i = 0; i < HIDDEN_TILES; i++) hidden[i] = base[i];
            layer(gated, weights + D1_AT + 40, DECODER_PITCH, hidden);
            relu(hidden);
            clear(deeper);
            layer(hidden, weights + D2_AT, HIDDEN_PITCH, deeper);
            relu(deeper);
            clear(out);
            layer(deeper, weights + D3_AT, HIDDEN_PITCH, out);
#pragma unroll
            for (int i = 0; i < OUTPUT_TILES; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int column = 8 * i + 2 * t + (k & 1), point = row + 8 * (k >> 1);
                    float* address = output_address(outputs, (size_t)frame * points + point, column);
                    if (point < points && address) *address = column < 3 ? MEAN_UNIT * out[i].v[k] : out[i].v[k];
                }
        }
    }
}

// ---- backward --------------------------------------------------------------------------------------------------------
// A weight's gradient is a product over all points: d W [out, in] = d_out^T in. A block's warps leave both factors of
// their 16 * WARPS points in shared memory, then each warp adds to its own tiles of d W, which stay in registers until
// all points are done.

#define ROWS (16 * WARPS)
#define EXCHANGE_PITCH 72

template <int NT>
__device__ __forceinline__ void publish(const Tile (&tiles)[NT], float* exchange, int first_column) {
    int lane = threadIdx.x & 31, row = (threadIdx.x >> 5) * 16 + (lane >> 2), column = first_column + 2 * (lane & 3);
#pragma unroll
    for (int i = 0; i < NT; i++) {
        *(float2*)(exchange + row * EXCHANGE_PITCH + column + 8 * i) = make_float2(tiles[i].v[0], tiles[i].v[1]);
        *(float2*)(exchange + (row + 8) * EXCHANGE_PITCH + column + 8 * i) = make_float2(tiles[i].v[2], tiles[i].v[3]);
    }
}

// d W of OUT_TILES * 16 outputs and IN_TILES * 8 inputs, dealt to the warps.
template <int OUT_TILES, int IN_TILES>
struct WeightGradient {
    static constexpr int TILES = OUT_TILES * IN_TILES, PER_WARP = (TILES + WARPS - 1) / WARPS;
    Tile tiles[PER_WARP];

    __device__ __forceinline__ void add(const float* d_out, const float* in) {
        int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll 2
        for (int row = 0; row < ROWS; row += 8) {
            float a[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int j = 0; j < PER_WARP; j++) {
                int tile = warp * PER_WARP + j;
                if (tile < TILES) {
                    if (j == 0 || tile % IN_TILES == 0) {  // another 16 outputs
                        const float* left = d_out + (row + t) * EXCHANGE_PITCH + (tile / IN_TILES) * 16 + g;
                        a[0] = left[0];
                        a[1] = left[8];
                        a[2] = left[4 * EXCHANGE_PITCH];
                        a[3] = left[4 * EXCHANGE_PITCH + 8];
                    }
                    const float* right = in + (row + t) * EXCHANGE_PITCH + (tile % IN_TILES) * 8 + g;
                    multiply_add_split(tiles[j], a, right[0], right[4 * EXCHANGE_PITCH]);
                }
            }
        }
    }

    // Writes columns [first_column, first_column + columns) of d W [outputs, pitch].
    __device__ __forceinline__ void store(float* __restrict__ target, int pitch, int first_column, int outputs,
                                          int columns) const {
        int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
        for (int j = 0; j < PER_WARP; j++) {
            int tile = warp * PER_WARP + j;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int output = (tile / IN_TILES) * 16 + g + 8 * (k >> 1), column = (tile % IN_TILES) * 8 + 2 * t + (k & 1);
                if (tile < TILES && output < outputs && column < columns)
                    target[output * pitch + first_column + column] = tiles[j].v[k];
            }
        }
    }
};

// Adds the sum over this warp's rows of gradient * value, column by column, to shared `sums`.
template <int NT>
__device__ __forceinline__ void add_column_sums(const Tile (&gradient)[NT], const Tile (&value)[NT], float* sums, int columns) {
    int lane = threadIdx.x & 31, t = lane & 3;
#pragma unroll
    for (int i = 0; i < NT; i++) {
        float left = gradient[i].v[0] * value[i].v[0] + gradient[i].v[2] * value[i].v[2];
        float right = gradient[i].v[1] * value[i].v[1] + gradient[i].v[3] * value[i].v[3];
#pragma unroll
        for (int step = 4; step < 32; step <<= 1) {
            left += __shfl_xor_sync(FULL_MASK, left, step);
            right += __shfl_xor_sync(FULL_MASK, right, step);
        }
        int column = 8 * i + 2 * t;
        if (lane < 4 && column < columns) {
            atomicAdd(sums + column, left);
            atomicAdd(sums + column + 1, right);
        }
    }
}

// d tiles += d_length * tiles / length, row by row (no gradient where the length is zero).
template <int NT>
__device__ __forceinline__ void length_backward(const Tile (&tiles)[NT], const float* __restrict__ d_length, int points,
                                                int first, Tile (&d_tiles)[NT]) {
    int row = first + ((threadIdx.x & 31) >> 2);
    float2 length = row_lengths(tiles);
    float top = d_length && row < points && length.x > 0.0f ? d_length[row] / length.x : 0.0f;
    float bottom = d_length && row + 8 < points && length.y > 0.0f ? d_length[row + 8] / length.y : 0.0f;
#pragma unroll
    for (int i = 0; i < NT; i++) {
        d_tiles[i].v[0] += top * tiles[i].v[0];
        d_tiles[i].v[1] += top * tiles[i].v[1];
        d_tiles[i].v[2] += bottom * tiles[i].v[2];
        d_tiles[i].v[3] += bottom * tiles[i].v[3];
    }
}

// Dynamic shared memory: WEIGHT_FLOATS, two exchange buffers of ROWS * EXCHANGE_PITCH, frames * CONDITIONS sums.
// partial [gridDim.x, G_CONDITIONS + frames * CONDITIONS]: each block's sums over its points.
// The gradients of the outputs and lengths may be null.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) motion_head_backward(
    int points, int frames, const float* __restrict__ features, const float* __restrict__ audio,
    const float* __restrict__ expression, const float* __restrict__ a1, const float* __restrict__ a2,
    const float* __restrict__ e1, const float* __restrict__ e2, const float* __restrict__ d1,
    const float* __restrict__ d2, const float* __restrict__ d3, const float* __restrict__ d_mean,
    const float* __restrict__ d_rotation, const float* __restrict__ d_opacity, const float* __restrict__ d_scale,
    const float* __restrict__ d_audio_length, const float* __restrict__ d_eye_length, float* __restrict__ d_features,
    float* __restrict__ partial) {
    DYNAMIC_SHARED(float, weights);
    float* inputs = weights + WEIGHT_FLOATS;
    float* gradients = inputs + ROWS * EXCHANGE_PITCH;
    float* condition_sums = gradients + ROWS * EXCHANGE_PITCH;
    load_weights(a1, a2, e1, e2, d1, d2, d3, weights);
    for (int k = threadIdx.x; k < frames * CONDITIONS; k += blockDim.x) condition_sums[k] = 0.0f;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    Outputs d_outputs = {(float*)d_mean, (float*)d_rotation, (float*)d_opacity, (float*)d_scale};

    WeightGradient<2, POINT_TILES> grad_a1 = {};
    WeightGradient<2, AUDIO_TILES> grad_a2 = {};
    WeightGradient<1, POINT_TILES> grad_e1 = {};
    WeightGradient<1, EYE_HIDDEN_TILES> grad_e2 = {};
    WeightGradient<HIDDEN / 16, POINT_TILES> grad_d1_points = {};
    WeightGradient<HIDDEN / 16, AUDIO_TILES + 1> grad_d1_gated = {};
    WeightGradient<HIDDEN / 16, HIDDEN_TILES> grad_d2 = {};
    WeightGradient<1, HIDDEN_TILES> grad_d3 = {};

    for (int first_row = blockIdx.x * ROWS; first_row < points; first_row += gridDim.x * ROWS) {
        int first = first_row + warp * 16;
        __syncthreads();  // the weights are there; nobody reads the exchange of the rows before
        Point p;
        point_forward(features, points, first, weights, p);
        Tile d_x[POINT_TILES], d_w[AUDIO_TILES], d_v[1];
        clear(d_x);
        clear(d_w);
        clear(d_v);
        for (int frame = 0; frame < frames; frame++) {
            Frame conditions = load_frame(audio, expression, frame);
            Tile gated[AUDIO_TILES + 1], hidden[HIDDEN_TILES], deeper[HIDDEN_TILES], d_out[OUTPUT_TILES];
            gate(p, conditions, gated);
            clear(hidden);  // computed anew: registers are shorter than the tensor cores' time
            load_features(features, points, first, p.x);
            layer(p.x, weights + D1_AT, DECODER_PITCH, hidden);
            layer(gated, weights + D1_AT + 40, DECODER_PITCH, hidden);
            relu(hidden);
            clear(deeper);
            layer(hidden, weights + D2_AT, HIDDEN_PITCH, deeper);
            relu(deeper);
#pragma unroll
            for (int i = 0; i < OUTPUT_TILES; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int column = 8 * i + 2 * t + (k & 1), point = first + g + 8 * (k >> 1);
                    const float* address = output_address(d_outputs, (size_t)frame * points + point, column);
                    float d = point < points && address ? *address : 0.0f;
                    d_out[i].v[k] = column < 3 ? MEAN_UNIT * d : d;
                }
            publish(deeper, inputs, 0);
            publish(d_out, gradients, 0);
            __syncthreads();
            grad_d3.add(gradients, inputs);
            Tile d_deeper[HIDDEN_TILES];
            clear(d_deeper);
            layer_backward(d_out, weights + D3_AT, HIDDEN_PITCH, d_deeper);
            relu_backward(d_deeper, deeper);
            __syncthreads();
            publish(hidden, inputs, 0);
            publish(d_deeper, gradients, 0);
            __syncthreads();
            grad_d2.add(gradients, inputs);
            Tile d_hidden[HIDDEN_TILES];
            clear(d_hidden);
            layer_backward(d_deeper, weights + D2_AT, HIDDEN_PITCH, d_hidden);
            relu_backward(d_hidden, hidden);
            __syncthreads();
            publish(gated, inputs, 0);
            publish(d_hidden, gradients, 0);
            __syncthreads();
            grad_d1_gated.add(gradients, inputs);
            Tile d_gated[AUDIO_TILES], d_gated_eye[1];
            clear(d_gated);
            clear(d_gated_eye);
            layer_backward(d_hidden, weights + D1_AT + 40, DECODER_PITCH, d_gated);
            layer_backward(d_hidden, weights + D1_AT + 72, DECODER_PITCH, d_gated_eye);
            layer_backward(d_hidden, weights + D1_AT, DECODER_PITCH, d_x);
            float* sums = condition_sums + frame * CONDITIONS;
            add_column_sums(d_gated, p.w, sums, AUDIO);
            add_column_sums(d_gated_eye, p.v, sums + AUDIO, EXPRESSION);
#pragma unroll
            for (int i = 0; i < AUDIO_TILES; i++) {
                Tile d = scaled(d_gated[i], conditions.audio[i]);
#pragma unroll
                for (int k = 0; k < 4; k++) d_w[i].v[k] += d.v[k];
            }
            Tile d = scaled(d_gated_eye[0], conditions.expression);
#pragma unroll
            for (int k = 0; k < 4; k++) d_v[0].v[k] += d.v[k];
            __syncthreads();
            load_features(features, points, first, p.x);
            publish(p.x, inputs, 0);
            __syncthreads();
            grad_d1_points.add(gradients, inputs);
            __syncthreads();
        }
        length_backward(p.w, d_audio_length, points, first, d_w);
        length_backward(p.v, d_eye_length, points, first, d_v);
        relu_backward(d_v, p.v);
        publish(p.audio_hidden, inputs, 0);
        publish(p.eye_hidden, inputs, AUDIO);
        publish(d_w, gradients, 0);
        publish(d_v, gradients, AUDIO);
        __syncthreads();
        grad_a2.add(gradients, inputs);
        grad_e2.add(gradients + AUDIO, inputs + AUDIO);
        Tile d_audio_hidden[AUDIO_TILES], d_eye_hidden[EYE_HIDDEN_TILES];
        clear(d_audio_hidden);
        clear(d_eye_hidden);
        layer_backward(d_w, weights + A2_AT, NARROW_PITCH, d_audio_hidden);
        layer_backward(d_v, weights + E2_AT, EYE_PITCH, d_eye_hidden);
        relu_backward(d_audio_hidden, p.audio_hidden);
        relu_backward(d_eye_hidden, p.eye_hidden);
        layer_backward(d_audio_hidden, weights + A1_AT, NARROW_PITCH, d_x);
        layer_backward(d_eye_hidden, weights + E1_AT, NARROW_PITCH, d_x);
        __syncthreads();
        load_features(features, points, first, p.x);
        publish(p.x, inputs, 0);
        publish(d_audio_hidden, gradients, 0);
        publish(d_eye_hidden, gradients, AUDIO);
        __syncthreads();
        grad_a1.add(gradients, inputs);
        grad_e1.add(gradients + AUDIO, inputs);
#pragma unroll
        for (int j = 0; j < POINT_TILES; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = first + g + 8 * half, column = 8 * j + 2 * t;
                if (row < points && column < POINT_FEATURES)
                    *(float2*)(d_features + (size_t)row * POINT_FEATURES + column) =
                        make_float2(d_x[j].v[2 * half], d_x[j].v[2 * half + 1]);
            }
    }
    __syncthreads();
    float* mine = partial + (size_t)blockIdx.x * (G_CONDITIONS + frames * CONDITIONS);
    grad_a1.store(mine + G_A1, POINT_FEATURES, 0, AUDIO, POINT_FEATURES);
    grad_a2.store(mine + G_A2, AUDIO, 0, AUDIO, AUDIO);
    grad_e1.store(mine + G_E1, POINT_FEATURES, 0, EYE_HIDDEN, POINT_FEATURES);
    grad_e2.store(mine + G_E2, EYE_HIDDEN, 0, EXPRESSION, EYE_HIDDEN);
    grad_d1_points.store(mine + G_D1, DECODER_INPUTS, 0, HIDDEN, POINT_FEATURES);
    grad_d1_gated.store(mine + G_D1, DECODER_INPUTS, POINT_FEATURES, HIDDEN, AUDIO + EXPRESSION);
    grad_d2.store(mine + G_D2, HIDDEN, 0, HIDDEN, HIDDEN);
    grad_d3.store(mine + G_D3, HIDDEN, 0, OUTPUTS, HIDDEN);
    for (int k = threadIdx.x; k < frames * CONDITIONS; k += blockDim.x) mine[G_CONDITIONS + k] = condition_sums[k];
}

// out [columns] = sum over rows of partial [rows, columns]. Grid ceil(columns / 32), 256 threads.
extern "C" __global__ void __launch_bounds__(256) sum_rows(int rows, int columns, const float* __restrict__ partial,
                                                           float* __restrict__ out) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x & 31, part = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < columns)
        for (int row = part; row < rows; row += 8) sum += partial[(size_t)row * columns + column];
    sums[part][lane] = sum;
    __syncthreads();
    if (part == 0 && column < columns) {
        for (int k = 1; k < 8; k++) sum += sums[k][lane];
        out[column] = sum;
    }
}
