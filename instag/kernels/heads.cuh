// The networks behind the encoding, H(mu) [N, 36] -> motion, as one form with compile-time sizes (METHOD.md section 4):
//
//     gate = [w, v], w = A2 relu(A1 x), v = relu(E2 relu(E1 x));   h = D3 relu(D2 relu(D1 [x, condition * gate]))
//
//     head               gate   condition          hidden   result
//     0 face             w, v   audio, e' [6]      64 | 32  d_mean, d_rotation, d_opacity, d_scale, |w|, |v|
//     1 mouth            1      audio, phi [3]     48       d_mean * tau, d_rotation
//     2 own mouth        w      audio              16       d_mean, d_rotation, |w|
//     3 aligner          -      -                  32 | 16  offset, scale; two layers
//
// e' is made of the expression e [6] here as well: [X2 relu(X1 e[:5]), e[5]]. The mouth's hidden 48 are the decoder's 32
// and tau's 16 side by side: weights are blocks of a matrix that is zero elsewhere.
//
// Compile-time: HEAD, HIDDEN, WARPS per block.

#define FACE 0
#define MOUTH 1
#define OWN_MOUTH 2
#define ALIGNER 3

#define POINT_FEATURES 36
#define POINT_TILES 5
#define MAIN_HIDDEN 32  // of the mouth: decoder
#define TAU_HIDDEN 16
#define EYE_HIDDEN 16
#define UPPER_FACE 5  // of the expression; the blink is the sixth
#define EXPRESSION_HIDDEN 16

#define MEAN_UNIT 0.01f      // head units per unit of the network's first three outputs; the aligner's offset too
#define MOUTH_SIDEWAYS 0.2f  // the mouth moves mostly in y
#define SCALE_RANGE 0.25f    // of the aligner
#define SCALE_SOFTNESS 5.0f

#define HAS_AUDIO_GATE (HEAD == FACE || HEAD == OWN_MOUTH)
#define HAS_EYE_GATE (HEAD == FACE)
#define DEEP (HEAD != ALIGNER)  // three layers
#define AUDIO (HEAD == ALIGNER ? 0 : 32)
#define EXTRA (HEAD == FACE ? 6 : HEAD == MOUTH ? 3 : 0)
#define CONDITIONED (HEAD != ALIGNER)
#define CONDITIONS (AUDIO + EXTRA)
#define AUDIO_TILES 4
#define CONDITION_TILES (CONDITIONS / 8 + (CONDITIONS % 8 != 0))
#define SOME_CONDITIONS (CONDITIONS > 0 ? CONDITIONS : 1)  // nobody divides by zero
#define SOME_CONDITION_TILES (CONDITION_TILES > 0 ? CONDITION_TILES : 1)  // C++ knows no empty arrays
#define INPUT_TILES (POINT_TILES + CONDITION_TILES)
#define HIDDEN_TILES (HIDDEN / 8)
#define OUTPUTS (HEAD == FACE ? 11 : HEAD == MOUTH ? 8 : HEAD == OWN_MOUTH ? 7 : 6)
#define OUTPUT_TILES 2

// Weights in shared memory. Decoder columns: x 40 (36 and zeros), then the conditions.
#define NARROW_PITCH PITCHED(40)
#define EYE_PITCH PITCHED(16)
#define DECODER_PITCH PITCHED(8 * INPUT_TILES)
#define HIDDEN_PITCH PITCHED(HIDDEN)
#define A1_AT 0
#define A2_AT (A1_AT + (HAS_AUDIO_GATE ? 32 * NARROW_PITCH : 0))
#define E1_AT (A2_AT + (HAS_AUDIO_GATE ? 32 * NARROW_PITCH : 0))
#define E2_AT (E1_AT + (HAS_EYE_GATE ? EYE_HIDDEN * NARROW_PITCH : 0))
#define D1_AT (E2_AT + (HAS_EYE_GATE ? 8 * EYE_PITCH : 0))
#define D2_AT (D1_AT + HIDDEN * DECODER_PITCH)
#define D3_AT (D2_AT + (DEEP ? HIDDEN * HIDDEN_PITCH : 0))
#define WEIGHT_FLOATS (D3_AT + 16 * HIDDEN_PITCH)

// Columns of a point's row in shared memory: x, the gated conditions, then what the kernel keeps there.
#define GATED_AT (8 * POINT_TILES)
#define HIDDEN_AT (8 * INPUT_TILES)

// Pointers to the networks, in the order of HeadWeights in motion_head.py; what a head lacks is null.
#define NETWORKS 9
struct Weights {
    const float* at[NETWORKS];
};
// ... as arguments of a kernel
#define WEIGHT_ARGUMENTS                                                                                        \
    const float *__restrict__ w0, const float *__restrict__ w1, const float *__restrict__ w2,                    \
        const float *__restrict__ w3, const float *__restrict__ w4, const float *__restrict__ w5,                \
        const float *__restrict__ w6, const float *__restrict__ w7, const float *__restrict__ w8
// Names of the slots. Face: A1 A2 E1 E2 D1 D2 D3 X1 X2. Mouth: D1 D2 D3 T1 T2 T3. Own mouth: A1 A2 D1 D2 D3. Aligner: D1 D2.
#define SLOT_D1 (HEAD == FACE ? 4 : HEAD == OWN_MOUTH ? 2 : 0)

// Copies W [rows, columns] from rows of source_pitch. Asynchronous: `arrived` waits.
__device__ __forceinline__ void copy_weights(const float* __restrict__ source, int source_pitch, int rows, int columns,
                                             float* target, int pitch) {
    for (int k = threadIdx.x; k < rows * columns; k += blockDim.x) {
        int row = k / columns, column = k - row * columns;
#ifndef EMULATED
        unsigned address = (unsigned)__cvta_generic_to_shared(target + row * pitch + column);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(source + row * source_pitch + column)
                     : "memory");
#else
        target[row * pitch + column] = source[row * source_pitch + column];
#endif
    }
}

__device__ __forceinline__ void arrived() {
#ifndef EMULATED
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    __syncthreads();
}

// All weights of a head, zero where a matrix has no entry; the caller waits with `arrived`.
__device__ __forceinline__ void load_weights(const Weights& w, float* weights) {
    for (int k = threadIdx.x; k < WEIGHT_FLOATS / 4; k += blockDim.x)
        *(float4*)(weights + 4 * k) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    __syncthreads();
#if HAS_AUDIO_GATE
    copy_weights(w.at[0], POINT_FEATURES, 32, POINT_FEATURES, weights + A1_AT, NARROW_PITCH);
    copy_weights(w.at[1], 32, 32, 32, weights + A2_AT, NARROW_PITCH);
#endif
#if HAS_EYE_GATE
    copy_weights(w.at[2], POINT_FEATURES, EYE_HIDDEN, POINT_FEATURES, weights + E1_AT, NARROW_PITCH);
    copy_weights(w.at[3], EYE_HIDDEN, EXTRA, EYE_HIDDEN, weights + E2_AT, EYE_PITCH);
#endif
    const float *d1 = w.at[SLOT_D1], *d2 = w.at[SLOT_D1 + 1];
    float *first = weights + D1_AT, *second = weights + D2_AT, *last = weights + D3_AT;
    int wide = HEAD == MOUTH ? MAIN_HIDDEN : HIDDEN, columns = POINT_FEATURES + CONDITIONS;
    copy_weights(d1, columns, wide, POINT_FEATURES, first, DECODER_PITCH);
#if DEEP
    copy_weights(d1 + POINT_FEATURES, columns, wide, CONDITIONS, first + 40, DECODER_PITCH);
    copy_weights(d2, wide, wide, wide, second, HIDDEN_PITCH);
    copy_weights(w.at[SLOT_D1 + 2], wide, HEAD == MOUTH ? 7 : OUTPUTS, wide, last, HIDDEN_PITCH);
#else
    copy_weights(d2, HIDDEN, OUTPUTS, HIDDEN, last, HIDDEN_PITCH);
#endif
#if HEAD == MOUTH
    float* tau = first + MAIN_HIDDEN * DECODER_PITCH;
    copy_weights(w.at[3], POINT_FEATURES + EXTRA, TAU_HIDDEN, POINT_FEATURES, tau, DECODER_PITCH);
    copy_weights(w.at[3] + POINT_FEATURES, POINT_FEATURES + EXTRA, TAU_HIDDEN, EXTRA, tau + 40 + AUDIO, DECODER_PITCH);
    copy_weights(w.at[4], TAU_HIDDEN, TAU_HIDDEN, TAU_HIDDEN, second + MAIN_HIDDEN * HIDDEN_PITCH + MAIN_HIDDEN, HIDDEN_PITCH);
    copy_weights(w.at[5], TAU_HIDDEN, 1, TAU_HIDDEN, last + 7 * HIDDEN_PITCH + MAIN_HIDDEN, HIDDEN_PITCH);
#endif
}

// One unit of X1's result.
__device__ __forceinline__ float expression_hidden(const float* __restrict__ x1, const float* __restrict__ e, int unit) {
    float sum = 0.0f;
    for (int k = 0; k < UPPER_FACE; k++) sum += x1[unit * UPPER_FACE + k] * e[k];
    return fmaxf(sum, 0.0f);
}

// conditions [frames, CONDITIONS] in shared memory: the audio vectors, then e' or phi.
__device__ __forceinline__ void load_conditions(int frames, const float* __restrict__ audio, const float* __restrict__ extra,
                                                const Weights& w, float* conditions) {
    for (int k = threadIdx.x; k < frames * CONDITIONS; k += blockDim.x) {
        int frame = k / SOME_CONDITIONS, column = k - frame * SOME_CONDITIONS;
        float value;
        if (column < AUDIO) {
            value = audio[frame * AUDIO + column];
        } else {
            const float* e = extra + frame * EXTRA;
            value = e[column - AUDIO];
#if HEAD == FACE
            if (column - AUDIO < UPPER_FACE) {
                value = 0.0f;
                for (int unit = 0; unit < EXPRESSION_HIDDEN; unit++)
                    value += w.at[8][(column - AUDIO) * EXPRESSION_HIDDEN + unit] * expression_hidden(w.at[7], e, unit);
            }
#endif
        }
        conditions[k] = value;
    }
}

// x of the warp's 16 rows, from `first` on, into columns [0, 40) of shared memory.
__device__ __forceinline__ void load_features(const float* __restrict__ features, int points, int first, float* at, int pitch) {
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int j = 0; j < POINT_TILES; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first + g + 8 * half, column = 8 * j + 2 * t;
            bool inside = row < points && column < POINT_FEATURES;
            *(float2*)(at + 8 * half * pitch + 8 * j) =
                inside ? *(const float2*)(features + (size_t)row * POINT_FEATURES + column) : make_float2(0.0f, 0.0f);
        }
}

// gate = [w, v] of the warp's rows; their networks' hidden layers go to `audio_hidden` and `eye_hidden`.
__device__ __forceinline__ void find_gate(const float* x, float* audio_hidden, float* eye_hidden, int pitch,
                                          const float* weights, Tile (&gate)[SOME_CONDITION_TILES]) {
#if HAS_AUDIO_GATE
    Tile hidden[4], w[4];
    clear(hidden);
    clear(w);
    layer(x, pitch, POINT_TILES, weights + A1_AT, NARROW_PITCH, hidden);
    relu(hidden);
    keep(hidden, audio_hidden, pitch);
    __syncwarp();
    layer(audio_hidden, pitch, 4, weights + A2_AT, NARROW_PITCH, w);
#pragma unroll
    for (int i = 0; i < AUDIO_TILES; i++) gate[i] = w[i];
#endif
#if HAS_EYE_GATE
    Tile eye[2], v[1];
    clear(eye);
    clear(v);
    layer(x, pitch, POINT_TILES, weights + E1_AT, NARROW_PITCH, eye);
    relu(eye);
    __syncwarp();  // the forward kernel keeps both hidden layers in one place
    keep(eye, eye_hidden, pitch);
    __syncwarp();
    layer(eye_hidden, pitch, 2, weights + E2_AT, EYE_PITCH, v);
    relu(v);
    gate[AUDIO_TILES] = v[0];
#endif
    __syncwarp();
}

// Condition of column 8 i + 2 t + odd; the columns past the last are zero.
__device__ __forceinline__ float condition_at(const float* condition, int i, int odd) {
    int column = 8 * i + 2 * (threadIdx.x & 3) + odd;
    return column < CONDITIONS ? condition[column] : 0.0f;
}

// condition * gate of the warp's rows, into shared memory.
__device__ __forceinline__ void keep_gated(const Tile (&gate)[SOME_CONDITION_TILES], const float* condition, float* at, int pitch) {
#pragma unroll
    for (int i = 0; i < CONDITION_TILES; i++) {
        float left = condition_at(condition, i, 0), right = condition_at(condition, i, 1);
#if HAS_AUDIO_GATE
        *(float2*)(at + 8 * i) = make_float2(gate[i].v[0] * left, gate[i].v[1] * right);
        *(float2*)(at + 8 * pitch + 8 * i) = make_float2(gate[i].v[2] * left, gate[i].v[3] * right);
#else
        *(float2*)(at + 8 * i) = make_float2(left, right);
        *(float2*)(at + 8 * pitch + 8 * i) = make_float2(left, right);
#endif
    }
}

// ---- what the last layer's columns mean ------------------------------------------------------------------------------

// Where a column lives: mean [B, N, 3], rotation [.., 4], opacity [.., 1], scale [.., 3].
struct Outputs {
    float *mean, *rotation, *opacity, *scale;
};

__device__ __forceinline__ float* output_address(const Outputs& outputs, size_t row, int column) {
    if (column < 3) return outputs.mean ? outputs.mean + row * 3 + column : nullptr;
    if (HEAD == ALIGNER) return outputs.scale && column < 6 ? outputs.scale + row * 3 + column - 3 : nullptr;
    if (column < 7) return outputs.rotation ? outputs.rotation + row * 4 + column - 3 : nullptr;
    if (HEAD != FACE) return nullptr;
    if (column < 8) return outputs.opacity ? outputs.opacity + row : nullptr;
    return outputs.scale && column < OUTPUTS ? outputs.scale + row * 3 + column - 8 : nullptr;
}

__device__ __forceinline__ int output_column(int i, int k) { return 8 * i + 2 * (threadIdx.x & 3) + (k & 1); }

__device__ __forceinline__ float mean_unit(int column) {
    return HEAD == MOUTH && column != 1 ? MOUTH_SIDEWAYS * MEAN_UNIT : MEAN_UNIT;
}

// The mouth's tau of rows g (k < 2) and g + 8: its raw value is column 7, held by the row's last lane.
__device__ __forceinline__ float tau_of(const Tile& first, int half) {
    float raw = __shfl_sync(FULL_MASK, first.v[2 * half + 1], (threadIdx.x & 31) | 3);
    return 2.0f / (1.0f + expf(-raw));
}

// Last layer -> outputs.
__device__ __forceinline__ void finish(Tile (&out)[OUTPUT_TILES]) {
#if HEAD == MOUTH
    float tau[2] = {tau_of(out[0], 0), tau_of(out[0], 1)};
#endif
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int column = output_column(0, k);
        float raw = out[0].v[k];
        if (column < 3) {
            out[0].v[k] = mean_unit(column) * raw;
#if HEAD == MOUTH
            out[0].v[k] *= tau[k >> 1];
#endif
        }
#if HEAD == ALIGNER
        else out[0].v[k] = 1.0f + SCALE_RANGE * tanhf(raw / SCALE_SOFTNESS);
#endif
    }
}

// Gradient towards the outputs -> towards the last layer, whose values are `out` (unused by face and own mouth).
__device__ __forceinline__ void finish_backward(const Tile (&out)[OUTPUT_TILES], Tile (&d)[OUTPUT_TILES]) {
#if HEAD == MOUTH
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float tau = tau_of(out[0], half), sum = 0.0f;
#pragma unroll
        for (int k = 2 * half; k < 2 * half + 2; k++) {
            int column = output_column(0, k);
            if (column < 3) {
                float gradient = mean_unit(column) * d[0].v[k];
                sum += gradient * out[0].v[k];
                d[0].v[k] = gradient * tau;
            }
        }
        sum += __shfl_xor_sync(FULL_MASK, sum, 1);
        sum += __shfl_xor_sync(FULL_MASK, sum, 2);
        if ((threadIdx.x & 3) == 3) d[0].v[2 * half + 1] = sum * tau * (1.0f - 0.5f * tau);
    }
#else
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int column = output_column(0, k);
        if (column < 3) d[0].v[k] *= MEAN_UNIT;
#if HEAD == ALIGNER
        else {
            float soft = tanhf(out[0].v[k] / SCALE_SOFTNESS);
            d[0].v[k] *= SCALE_RANGE / SCALE_SOFTNESS * (1.0f - soft * soft);
        }
#endif
    }
#endif
}
