// The motion fields' networks behind the encoding (heads.cuh), forward: one kernel. Twin of what stands behind `encoding`
// in FaceMotionField, MouthMotionField, PersonalizedMouthField and MotionAligner.

// A row in shared memory: hidden layers follow each other in one place.
#define SHORT_ROW (HIDDEN_AT + (HIDDEN > 32 || !HAS_AUDIO_GATE ? HIDDEN : 32))
#define SHORT_PITCH PITCHED(SHORT_ROW)

// Grid (any, fields), WARPS * 32 threads; tiles of 16 points are dealt to blocks before warps.
// Fields beyond the first: `many` [fields][NETWORKS] replaces the pointers, features [fields, N, 36], audio
// [fields, B, 32], outputs [fields, B, N, .]; `extra` is the same for all. Null outputs and lengths are not written.
// Dynamic shared memory: WEIGHT_FLOATS, frames * CONDITIONS, 16 * WARPS * SHORT_PITCH.
extern "C" __global__ void __launch_bounds__(WARPS * 32) motion_head_forward(
    int points, int frames, const float* __restrict__ features, const float* __restrict__ audio,
    const float* __restrict__ extra, WEIGHT_ARGUMENTS, const float* const* __restrict__ many, float* __restrict__ mean,
    float* __restrict__ rotation, float* __restrict__ opacity, float* __restrict__ scale, float* __restrict__ audio_length,
    float* __restrict__ eye_length) {
    DYNAMIC_SHARED(float, weights);
    float* conditions = weights + WEIGHT_FLOATS;
    float* own = conditions + (frames * CONDITIONS + 3) / 4 * 4 + (threadIdx.x >> 5) * 16 * SHORT_PITCH;
    Weights networks = {{w0, w1, w2, w3, w4, w5, w6, w7, w8}};
    if (many)
        for (int k = 0; k < NETWORKS; k++) networks.at[k] = many[blockIdx.y * NETWORKS + k];
    features += (size_t)blockIdx.y * points * POINT_FEATURES;
    audio += blockIdx.y * frames * AUDIO;
    size_t first_row = (size_t)blockIdx.y * frames * points;
    load_weights(networks, weights);
    load_conditions(frames, audio, extra, networks, conditions);
    arrived();

    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
    float* x = corner(own, SHORT_PITCH);
    Outputs outputs = {mean, rotation, opacity, scale};
    int tiles = (points + 15) / 16;
    for (int tile = blockIdx.x + gridDim.x * (threadIdx.x >> 5); tile < tiles; tile += gridDim.x * WARPS) {
        int row = tile * 16 + g;
        __syncwarp();
        load_features(features, points, tile * 16, x, SHORT_PITCH);
        __syncwarp();
        Tile gate[SOME_CONDITION_TILES];
        find_gate(x, x + HIDDEN_AT, x + HIDDEN_AT, SHORT_PITCH, weights, gate);
#if HAS_AUDIO_GATE
        float2 length = row_lengths<AUDIO_TILES>(gate);
        if (t == 0 && audio_length) {
            if (row < points) audio_length[row] = length.x;
            if (row + 8 < points) audio_length[row + 8] = length.y;
        }
#endif
#if HAS_EYE_GATE
        length = row_lengths<1>(gate + AUDIO_TILES);
        if (t == 0 && eye_length) {
            if (row < points) eye_length[row] = length.x;
            if (row + 8 < points) eye_length[row + 8] = length.y;
        }
#endif
        for (int frame = 0; frame < frames; frame++) {
            Tile hidden[HIDDEN_TILES], out[OUTPUT_TILES];
            keep_gated(gate, conditions + frame * CONDITIONS, x + GATED_AT, SHORT_PITCH);
            __syncwarp();
            clear(hidden);
            layer(x, SHORT_PITCH, INPUT_TILES, weights + D1_AT, DECODER_PITCH, hidden);
            relu(hidden);
            keep(hidden, x + HIDDEN_AT, SHORT_PITCH);
            __syncwarp();
#if DEEP
            clear(hidden);
            layer(x + HIDDEN_AT, SHORT_PITCH, HIDDEN_TILES, weights + D2_AT, HIDDEN_PITCH, hidden);
            relu(hidden);
            __syncwarp();
            keep(hidden, x + HIDDEN_AT, SHORT_PITCH);
            __syncwarp();
#endif
            clear(out);
            layer(x + HIDDEN_AT, SHORT_PITCH, HIDDEN_TILES, weights + D3_AT, HIDDEN_PITCH, out);
            __syncwarp();
            finish(out);
#pragma unroll
            for (int i = 0; i < OUTPUT_TILES; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int point = row + 8 * (k >> 1);
                    float* address = output_address(outputs, first_row + (size_t)frame * points + point, output_column(i, k));
                    if (point < points && address) *address = out[i].v[k];
                }
        }
    }
}
