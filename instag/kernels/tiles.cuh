// Products of small matrices on the tensor cores, as the networks behind the encoding need them.
//
// A warp owns 16 points. Activations lie in shared memory, one row per point; a layer's result is held in registers as
// tiles of 16 x 8 and then written back. Products are mma.m16n8k8 in tf32, in three passes, hi * hi + hi * lo + lo * hi,
// which is as accurate as float32.
//
// Why no shuffles between layers: with g = lane / 4, t = lane % 4 the result of a product holds columns 2t, 2t + 1 of
// rows g, g + 8, while the left operand wants slots t and t + 4. The order of the inner dimension is free as long as both
// operands agree, so slot t means column 2t and slot t + 4 column 2t + 1; the weights, stored as torch stores them
// ([out, in]), then give both slots as one float2.
//
// Loops over the inner dimension are not unrolled: a point passes each instruction once, so code that is unrolled is code
// that must be fetched.
//
// Compile-time: WARPS per block.

#define FULL_MASK 0xffffffffu

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

// Row lengths in shared memory: 8 or 24 (mod 32) floats, so that eight rows start in different banks. Of multiples of 8.
#define PITCHED(columns) ((columns) / 16 * 16 + 8)

// 16 rows x 8 columns of a matrix in a warp: elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
struct Tile {
    float v[4];
};

__device__ __forceinline__ float high_part(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// d += a b with a [16, 8] in slots (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4) and b [8, 8] in (t, g), (t + 4, g).
__device__ __forceinline__ void multiply_add(Tile& d, float a0, float a1, float a2, float a3, float b0, float b1) {
#ifndef EMULATED  // sm_80 or newer; motion_head.py says so
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
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

// d[i] += a b[i] as accurate as float32. Pass by pass over the tiles, so that a product never waits for the one before.
template <int NT>
__device__ __forceinline__ void multiply_add_split(Tile (&d)[NT], const float (&a)[4], const float2 (&b)[NT]) {
    float high[4], low[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        high[k] = high_part(a[k]);
        low[k] = a[k] - high[k];
    }
#pragma unroll
    for (int i = 0; i < NT; i++) multiply_add(d[i], low[0], low[1], low[2], low[3], high_part(b[i].x), high_part(b[i].y));
#pragma unroll
    for (int i = 0; i < NT; i++)
        multiply_add(d[i], high[0], high[1], high[2], high[3], b[i].x - high_part(b[i].x), b[i].y - high_part(b[i].y));
#pragma unroll
    for (int i = 0; i < NT; i++)
        multiply_add(d[i], high[0], high[1], high[2], high[3], high_part(b[i].x), high_part(b[i].y));
}

template <int NT>
__device__ __forceinline__ void clear(Tile (&tiles)[NT]) {
#pragma unroll
    for (int i = 0; i < NT; i++) tiles[i].v[0] = tiles[i].v[1] = tiles[i].v[2] = tiles[i].v[3] = 0.0f;
}

// out [16, 8 NT] += in [16, 8 inputs] W^T, W [8 NT, 8 inputs] in shared memory. `in`: this lane's corner, see `corner`.
template <int NT>
__device__ __forceinline__ void layer(const float* in, int in_pitch, int inputs, const float* weights, int pitch, Tile (&out)[NT]) {
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    weights += g * pitch + 2 * t;
#pragma unroll 1
    for (int j = 0; j < inputs; j++) {
        float2 top = *(const float2*)(in + 8 * j), bottom = *(const float2*)(in + 8 * in_pitch + 8 * j), b[NT];
        float a[4] = {top.x, bottom.x, top.y, bottom.y};
#pragma unroll
        for (int i = 0; i < NT; i++) b[i] = *(const float2*)(weights + 8 * i * pitch + 8 * j);
        multiply_add_split(out, a, b);
    }
}

// The same weights backwards: d_in [16, 8 NT] += d_out [16, 8 outputs] W, W [8 outputs, 8 NT].
template <int NT>
__device__ __forceinline__ void layer_backward(const float* d_out, int out_pitch, int outputs, const float* weights, int pitch,
                                               Tile (&d_in)[NT]) {
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    weights += 2 * t * pitch + g;
#pragma unroll 1
    for (int j = 0; j < outputs; j++) {
        float2 top = *(const float2*)(d_out + 8 * j), bottom = *(const float2*)(d_out + 8 * out_pitch + 8 * j), b[NT];
        float a[4] = {top.x, bottom.x, top.y, bottom.y};
#pragma unroll
        for (int i = 0; i < NT; i++) b[i] = make_float2(weights[8 * j * pitch + 8 * i], weights[(8 * j + 1) * pitch + 8 * i]);
        multiply_add_split(d_in, a, b);
    }
}

// Where this lane's element (g, 2t) of the warp's 16 rows lies.
__device__ __forceinline__ float* corner(float* rows, int pitch) {
    int lane = threadIdx.x & 31;
    return rows + (lane >> 2) * pitch + 2 * (lane & 3);
}

template <int NT>
__device__ __forceinline__ void keep(const Tile (&tiles)[NT], float* at, int pitch) {
#pragma unroll
    for (int i = 0; i < NT; i++) {
        *(float2*)(at + 8 * i) = make_float2(tiles[i].v[0], tiles[i].v[1]);
        *(float2*)(at + 8 * pitch + 8 * i) = make_float2(tiles[i].v[2], tiles[i].v[3]);
    }
}

template <int NT>
__device__ __forceinline__ void relu(Tile (&tiles)[NT]) {
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) tiles[i].v[k] = fmaxf(tiles[i].v[k], 0.0f);
}

// Gradient through a ReLU whose result lies at `active`.
template <int NT>
__device__ __forceinline__ void relu_backward(Tile (&gradient)[NT], const float* active, int pitch) {
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (!(active[8 * (k >> 1) * pitch + 8 * i + (k & 1)] > 0.0f)) gradient[i].v[k] = 0.0f;
}

// Lengths of rows g and g + 8 of a vector spread over NT tiles, in all four lanes of a row.
template <int NT>
__device__ __forceinline__ float2 row_lengths(const Tile* tiles) {
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

// d tiles += d_length * tiles / length, row by row (no gradient where the length is zero).
template <int NT>
__device__ __forceinline__ void length_backward(const Tile* tiles, const float* __restrict__ d_length, int points, int first,
                                                Tile* d_tiles) {
    if (!d_length) return;
    int row = first + ((threadIdx.x & 31) >> 2);
    float2 length = row_lengths<NT>(tiles);
    float top = row < points && length.x > 0.0f ? d_length[row] / length.x : 0.0f;
    float bottom = row + 8 < points && length.y > 0.0f ? d_length[row + 8] / length.y : 0.0f;
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) d_tiles[i].v[k] += (k < 2 ? top : bottom) * tiles[i].v[k];
}

// Adds the sum over the warp's rows, column by column, to shared `sums`.
template <int NT>
__device__ __forceinline__ void add_column_sums(const Tile (&tiles)[NT], float* sums, int columns) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < NT; i++) {
        float left = tiles[i].v[0] + tiles[i].v[2], right = tiles[i].v[1] + tiles[i].v[3];
#pragma unroll
        for (int step = 4; step < 32; step <<= 1) {
            left += __shfl_xor_sync(FULL_MASK, left, step);
            right += __shfl_xor_sync(FULL_MASK, right, step);
        }
        int column = 8 * i + 2 * lane;
        if (lane < 4 && column < columns) atomicAdd(sums + column, left);
        if (lane < 4 && column + 1 < columns) atomicAdd(sums + column + 1, right);
    }
}

// ---- gradients of weights --------------------------------------------------------------------------------------------
// d W [out, in] = d_out^T in is a product over all points. Both factors of a block's 16 * WARPS points lie in shared
// memory; each warp adds to its own tiles of d W, which stay in registers until all points are done. A strip is 16
// outputs; the warps that share one take neighbouring tiles of its inputs.

#define ROWS (16 * WARPS)

template <int STRIPS, int IN_TILES>
struct WeightGradient {
    static constexpr int SHARERS = WARPS > STRIPS ? WARPS / STRIPS : 1;          // warps on one strip
    static constexpr int MINE = STRIPS > WARPS ? (STRIPS + WARPS - 1) / WARPS : 1;  // strips of one warp
    static constexpr int COLUMNS = (IN_TILES + SHARERS - 1) / SHARERS;
    Tile tiles[MINE][COLUMNS];

    static __device__ __forceinline__ int strip() { return (threadIdx.x >> 5) / SHARERS * MINE; }
    static __device__ __forceinline__ int column() { return (threadIdx.x >> 5) % SHARERS * COLUMNS; }

    __device__ __forceinline__ void start() {
#pragma unroll
        for (int s = 0; s < MINE; s++) clear(tiles[s]);
    }

    // Tiles past the last one read whatever lies behind, and are not stored.
    __device__ __forceinline__ void add(const float* d_out, const float* in, int pitch) {
        if (strip() >= STRIPS || column() >= IN_TILES) return;
        int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
        d_out += t * pitch + 16 * strip() + g;
        in += t * pitch + 8 * column() + g;
#pragma unroll 2
        for (int row = 0; row < ROWS; row += 8, d_out += 8 * pitch, in += 8 * pitch) {
            float2 b[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) b[c] = make_float2(in[8 * c], in[4 * pitch + 8 * c]);
#pragma unroll
            for (int s = 0; s < MINE; s++) {
                const float* left = d_out + 16 * s;
                float a[4] = {left[0], left[8], left[4 * pitch], left[4 * pitch + 8]};
                multiply_add_split(tiles[s], a, b);
            }
        }
    }

    // Writes rows [first_row, first_row + rows) and columns [first_column, first_column + columns) to target [rows, pitch].
    __device__ __forceinline__ void store(float* __restrict__ target, int pitch, int first_row, int rows, int first_column,
                                          int columns) const {
        int lane = threadIdx.x & 31;
        if (strip() >= STRIPS) return;
#pragma unroll
        for (int s = 0; s < MINE; s++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int row = 16 * (strip() + s) + (lane >> 2) + 8 * (k >> 1) - first_row;
                    int column_here = 8 * (column() + c) + 2 * (lane & 3) + (k & 1);
                    int x = column_here - first_column;
                    if (column_here < 8 * IN_TILES && row >= 0 && row < rows && x >= 0 && x < columns)
                        target[row * pitch + x] = tiles[s][c].v[k];
                }
    }
};
