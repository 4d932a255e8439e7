// The motion fields' networks behind the encoding (heads.cuh), backward: one kernel, and a small one that adds up its
// blocks' sums and takes the face's through the expression's network.

// A row in shared memory. A layer's gradient takes the place of its value once the weights' gradient is done.
#define DEEPER_AT (HIDDEN_AT + (DEEP ? HIDDEN : 0))  // the last hidden layer
#define OUT_AT (DEEPER_AT + HIDDEN)
#define AUDIO_HIDDEN_AT (OUT_AT + 16)
#define EYE_HIDDEN_AT (AUDIO_HIDDEN_AT + (HAS_AUDIO_GATE ? 32 : 0))
#define LONG_ROW (EYE_HIDDEN_AT + (HAS_EYE_GATE ? EYE_HIDDEN : 0))
#define LONG_PITCH PITCHED(LONG_ROW)
#define SLACK 64  // floats behind the rows that WeightGradient may read and ignores

// Where the weights' gradients lie in a row of `partial` and in the reduced vector: in the order of the pointers (the
// expression's networks excepted, whose gradient is made from the conditions'), then CONDITIONS per frame.
#define DECODER_WIDE (HEAD == MOUTH ? MAIN_HIDDEN : HIDDEN)
#define G_A1 0
#define G_A2 (G_A1 + (HAS_AUDIO_GATE ? 32 * POINT_FEATURES : 0))
#define G_E1 (G_A2 + (HAS_AUDIO_GATE ? 32 * 32 : 0))
#define G_E2 (G_E1 + (HAS_EYE_GATE ? EYE_HIDDEN * POINT_FEATURES : 0))
#define G_D1 (G_E2 + (HAS_EYE_GATE ? EXTRA * EYE_HIDDEN : 0))
#define G_D2 (G_D1 + DECODER_WIDE * (POINT_FEATURES + CONDITIONS))
#define G_D3 (G_D2 + (DEEP ? DECODER_WIDE * DECODER_WIDE : 0))
#define G_T1 (G_D3 + (HEAD == MOUTH ? 7 : OUTPUTS) * DECODER_WIDE)
#define G_T2 (G_T1 + (HEAD == MOUTH ? TAU_HIDDEN * (POINT_FEATURES + EXTRA) : 0))
#define G_T3 (G_T2 + (HEAD == MOUTH ? TAU_HIDDEN * TAU_HIDDEN : 0))
#define G_CONDITIONS (G_T3 + (HEAD == MOUTH ? TAU_HIDDEN : 0))

// Dynamic shared memory: WEIGHT_FLOATS, conditions and their gradients, ROWS * LONG_PITCH + SLACK.
// partial [gridDim.x, G_CONDITIONS + frames * CONDITIONS]: each block's sums over its points.
// The gradients of the outputs and lengths may be null.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) motion_head_backward(
    int points, int frames, const float* __restrict__ features, const float* __restrict__ audio,
    const float* __restrict__ extra, WEIGHT_ARGUMENTS, const float* __restrict__ d_mean,
    const float* __restrict__ d_rotation, const float* __restrict__ d_opacity, const float* __restrict__ d_scale,
    const float* __restrict__ d_audio_length, const float* __restrict__ d_eye_length, float* __restrict__ d_features,
    float* __restrict__ partial) {
    DYNAMIC_SHARED(float, weights);
    int padded = (frames * CONDITIONS + 3) / 4 * 4;
    float* conditions = weights + WEIGHT_FLOATS;
    float* condition_sums = conditions + padded;
    float* rows = condition_sums + padded;
    Weights networks = {{w0, w1, w2, w3, w4, w5, w6, w7, w8}};
    load_weights(networks, weights);
    load_conditions(frames, audio, extra, networks, conditions);
    for (int k = threadIdx.x; k < frames * CONDITIONS; k += blockDim.x) condition_sums[k] = 0.0f;
    arrived();

    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float* x = corner(rows + warp * 16 * LONG_PITCH, LONG_PITCH);
    Outputs d_outputs = {(float*)d_mean, (float*)d_rotation, (float*)d_opacity, (float*)d_scale};
    WeightGradient<HIDDEN / 16, INPUT_TILES> grad_d1;
    WeightGradient<1, HIDDEN_TILES> grad_d3;
    grad_d1.start();
    grad_d3.start();
#if DEEP
    WeightGradient<HIDDEN / 16, HIDDEN_TILES> grad_d2;
    grad_d2.start();
#endif
#if HAS_AUDIO_GATE
    WeightGradient<2, POINT_TILES> grad_a1;
    WeightGradient<2, AUDIO_TILES> grad_a2;
    grad_a1.start();
    grad_a2.start();
#endif
#if HAS_EYE_GATE
    WeightGradient<1, POINT_TILES> grad_e1;
    WeightGradient<1, 2> grad_e2;
    grad_e1.start();
    grad_e2.start();
#endif

    for (int first_row = blockIdx.x * ROWS; first_row < points; first_row += gridDim.x * ROWS) {
        int first = first_row + warp * 16;
        load_features(features, points, first, x, LONG_PITCH);
        __syncwarp();
        Tile gate[SOME_CONDITION_TILES], d_gate[SOME_CONDITION_TILES], d_x[POINT_TILES];
        find_gate(x, x + AUDIO_HIDDEN_AT, x + EYE_HIDDEN_AT, LONG_PITCH, weights, gate);
        clear(d_x);
        clear(d_gate);
        for (int frame = 0; frame < frames; frame++) {
            const float* condition = conditions + frame * CONDITIONS;
            Tile hidden[HIDDEN_TILES], d_out[OUTPUT_TILES], out[OUTPUT_TILES];
            keep_gated(gate, condition, x + GATED_AT, LONG_PITCH);
            __syncwarp();
            clear(hidden);
            layer(x, LONG_PITCH, INPUT_TILES, weights + D1_AT, DECODER_PITCH, hidden);
            relu(hidden);
            keep(hidden, x + HIDDEN_AT, LONG_PITCH);
            __syncwarp();
#if DEEP
            clear(hidden);
            layer(x + HIDDEN_AT, LONG_PITCH, HIDDEN_TILES, weights + D2_AT, HIDDEN_PITCH, hidden);
            relu(hidden);
            keep(hidden, x + DEEPER_AT, LONG_PITCH);
            __syncwarp();
#endif
#pragma unroll
            for (int i = 0; i < OUTPUT_TILES; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int point = first + g + 8 * (k >> 1);
                    const float* address =
                        output_address(d_outputs, (size_t)frame * points + point, output_column(i, k));
                    d_out[i].v[k] = point < points && address ? *address : 0.0f;
                }
#if HEAD == MOUTH || HEAD == ALIGNER
            clear(out);
            layer(x + DEEPER_AT, LONG_PITCH, HIDDEN_TILES, weights + D3_AT, HIDDEN_PITCH, out);
#endif
            finish_backward(out, d_out);
            keep(d_out, x + OUT_AT, LONG_PITCH);
            __syncthreads();
            grad_d3.add(rows + OUT_AT, rows + DEEPER_AT, LONG_PITCH);
            clear(hidden);
            layer_backward(x + OUT_AT, LONG_PITCH, OUTPUT_TILES, weights + D3_AT, HIDDEN_PITCH, hidden);
            relu_backward(hidden, x + DEEPER_AT, LONG_PITCH);
            __syncthreads();
            keep(hidden, x + DEEPER_AT, LONG_PITCH);
            __syncthreads();
#if DEEP
            grad_d2.add(rows + DEEPER_AT, rows + HIDDEN_AT, LONG_PITCH);
            clear(hidden);
            layer_backward(x + DEEPER_AT, LONG_PITCH, HIDDEN_TILES, weights + D2_AT, HIDDEN_PITCH, hidden);
            relu_backward(hidden, x + HIDDEN_AT, LONG_PITCH);
            __syncthreads();
            keep(hidden, x + HIDDEN_AT, LONG_PITCH);
            __syncthreads();
#endif
            grad_d1.add(rows + HIDDEN_AT, rows, LONG_PITCH);
            layer_backward(x + HIDDEN_AT, LONG_PITCH, HIDDEN_TILES, weights + D1_AT, DECODER_PITCH, d_x);
#if CONDITIONED
            Tile d_gated[CONDITION_TILES];
            clear(d_gated);
            layer_backward(x + HIDDEN_AT, LONG_PITCH, HIDDEN_TILES, weights + D1_AT + 40, DECODER_PITCH, d_gated);
#pragma unroll
            for (int i = 0; i < CONDITION_TILES; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
#if HAS_AUDIO_GATE
                    d_gate[i].v[k] += d_gated[i].v[k] * condition_at(condition, i, k & 1);
                    d_gated[i].v[k] *= gate[i].v[k];
#endif
                }
            add_column_sums(d_gated, condition_sums + frame * CONDITIONS, CONDITIONS);
#endif
            __syncthreads();
        }
#if HAS_AUDIO_GATE
        length_backward<AUDIO_TILES>(gate, d_audio_length, points, first, d_gate);
#if HAS_EYE_GATE
        length_backward<1>(gate + AUDIO_TILES, d_eye_length, points, first, d_gate + AUDIO_TILES);
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (!(gate[AUDIO_TILES].v[k] > 0.0f)) d_gate[AUDIO_TILES].v[k] = 0.0f;
#endif
        keep(d_gate, x + GATED_AT, LONG_PITCH);
        __syncthreads();
        grad_a2.add(rows + GATED_AT, rows + AUDIO_HIDDEN_AT, LONG_PITCH);
        Tile d_audio_hidden[4];
        clear(d_audio_hidden);
        layer_backward(x + GATED_AT, LONG_PITCH, AUDIO_TILES, weights + A2_AT, NARROW_PITCH, d_audio_hidden);
        relu_backward(d_audio_hidden, x + AUDIO_HIDDEN_AT, LONG_PITCH);
#if HAS_EYE_GATE
        grad_e2.add(rows + GATED_AT + 32, rows + EYE_HIDDEN_AT, LONG_PITCH);
        Tile d_eye_hidden[2];
        clear(d_eye_hidden);
        layer_backward(x + GATED_AT + 32, LONG_PITCH, 1, weights + E2_AT, EYE_PITCH, d_eye_hidden);
        relu_backward(d_eye_hidden, x + EYE_HIDDEN_AT, LONG_PITCH);
#endif
        __syncthreads();
        keep(d_audio_hidden, x + AUDIO_HIDDEN_AT, LONG_PITCH);
#if HAS_EYE_GATE
        keep(d_eye_hidden, x + EYE_HIDDEN_AT, LONG_PITCH);
#endif
        __syncthreads();
        grad_a1.add(rows + AUDIO_HIDDEN_AT, rows, LONG_PITCH);
        layer_backward(x + AUDIO_HIDDEN_AT, LONG_PITCH, 4, weights + A1_AT, NARROW_PITCH, d_x);
#if HAS_EYE_GATE
        grad_e1.add(rows + EYE_HIDDEN_AT, rows, LONG_PITCH);
        layer_backward(x + EYE_HIDDEN_AT, LONG_PITCH, 2, weights + E1_AT, NARROW_PITCH, d_x);
#endif
        __syncthreads();
#endif
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
#if HAS_AUDIO_GATE
    grad_a1.store(mine + G_A1, POINT_FEATURES, 0, 32, 0, POINT_FEATURES);
    grad_a2.store(mine + G_A2, 32, 0, 32, 0, 32);
#endif
#if HAS_EYE_GATE
    grad_e1.store(mine + G_E1, POINT_FEATURES, 0, EYE_HIDDEN, 0, POINT_FEATURES);
    grad_e2.store(mine + G_E2, EYE_HIDDEN, 0, EXTRA, 0, EYE_HIDDEN);
#endif
    grad_d1.store(mine + G_D1, POINT_FEATURES + CONDITIONS, 0, DECODER_WIDE, 0, POINT_FEATURES);
#if CONDITIONED
    grad_d1.store(mine + G_D1 + POINT_FEATURES, POINT_FEATURES + CONDITIONS, 0, DECODER_WIDE, 40, CONDITIONS);
#endif
#if DEEP
    grad_d2.store(mine + G_D2, DECODER_WIDE, 0, DECODER_WIDE, 0, DECODER_WIDE);
#endif
    grad_d3.store(mine + G_D3, DECODER_WIDE, 0, HEAD == MOUTH ? 7 : OUTPUTS, 0, DECODER_WIDE);
#if HEAD == MOUTH
    grad_d1.store(mine + G_T1, POINT_FEATURES + EXTRA, MAIN_HIDDEN, TAU_HIDDEN, 0, POINT_FEATURES);
    grad_d1.store(mine + G_T1 + POINT_FEATURES, POINT_FEATURES + EXTRA, MAIN_HIDDEN, TAU_HIDDEN, 40 + AUDIO, EXTRA);
    grad_d2.store(mine + G_T2, TAU_HIDDEN, MAIN_HIDDEN, TAU_HIDDEN, MAIN_HIDDEN, TAU_HIDDEN);
    grad_d3.store(mine + G_T3, TAU_HIDDEN, 7, 1, MAIN_HIDDEN, TAU_HIDDEN);
#endif
    for (int k = threadIdx.x; k < frames * CONDITIONS; k += blockDim.x) mine[G_CONDITIONS + k] = condition_sums[k];
}

#if HEAD == FACE
// Through e' = [X2 relu(X1 e[:5]), e[5]]: d_driver [frames, 6] in shared memory -> d_e [frames, 6], d_x1 [16, 5], d_x2 [5, 16].
__device__ __forceinline__ void expression_backward(int frames, const float* __restrict__ e, const float* __restrict__ x1,
                                                    const float* __restrict__ x2, const float* d_driver,
                                                    float* __restrict__ d_e, float* __restrict__ d_x1,
                                                    float* __restrict__ d_x2) {
    for (int k = threadIdx.x; k < UPPER_FACE * EXPRESSION_HIDDEN; k += blockDim.x) {
        int unit = k % EXPRESSION_HIDDEN, column = k / EXPRESSION_HIDDEN;
        float left = 0.0f, right = 0.0f;
        for (int frame = 0; frame < frames; frame++) {
            float hidden = expression_hidden(x1, e + frame * EXTRA, unit), d_hidden = 0.0f;
            for (int row = 0; row < UPPER_FACE; row++)
                d_hidden += hidden > 0.0f ? x2[row * EXPRESSION_HIDDEN + unit] * d_driver[frame * EXTRA + row] : 0.0f;
            left += d_hidden * e[frame * EXTRA + column];
            right += d_driver[frame * EXTRA + column] * hidden;
        }
        d_x1[unit * UPPER_FACE + column] = left;
        d_x2[column * EXPRESSION_HIDDEN + unit] = right;
    }
    for (int k = threadIdx.x; k < frames * EXTRA; k += blockDim.x) {
        int frame = k / EXTRA, column = k - frame * EXTRA;
        float sum = column == UPPER_FACE ? d_driver[k] : 0.0f;
        for (int unit = 0; unit < EXPRESSION_HIDDEN && column < UPPER_FACE; unit++)
            if (expression_hidden(x1, e + frame * EXTRA, unit) > 0.0f)
                for (int row = 0; row < UPPER_FACE; row++)
                    sum += x1[unit * UPPER_FACE + column] * x2[row * EXPRESSION_HIDDEN + unit] * d_driver[frame * EXTRA + row];
        d_e[k] = sum;
    }
}
#endif

// out [columns] = sum over rows of partial [rows, columns]. Grid ceil(columns / 32), 256 threads. The face has one block
// more, which sums the expression's columns for itself and takes them through the expression's network.
// Dynamic shared memory: frames * EXTRA floats.
extern "C" __global__ void __launch_bounds__(256) sum_rows(int rows, int columns, const float* __restrict__ partial,
                                                           float* __restrict__ out, int frames, const float* __restrict__ e,
                                                           const float* __restrict__ x1, const float* __restrict__ x2,
                                                           float* __restrict__ d_e, float* __restrict__ d_x1,
                                                           float* __restrict__ d_x2) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x & 31, part = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
#if HEAD == FACE
    if (blockIdx.x == gridDim.x - 1) {
        DYNAMIC_SHARED(float, d_driver);
        for (int k = part; k < frames * EXTRA; k += 8) {  // a warp a column
            const float* source = partial + G_CONDITIONS + k / EXTRA * CONDITIONS + AUDIO + k % EXTRA;
            float sum = 0.0f;
            for (int row = lane; row < rows; row += 32) sum += source[(size_t)row * columns];
            for (int step = 1; step < 32; step <<= 1) sum += __shfl_xor_sync(FULL_MASK, sum, step);
            if (lane == 0) d_driver[k] = sum;
        }
        __syncthreads();
        expression_backward(frames, e, x1, x2, d_driver, d_e, d_x1, d_x2);
        return;
    }
#endif
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
