// The depth prior: mean |norm(depth) - norm(prior)|, each row at zero mean and over its deviation plus a share of the
// map's. Twin of instag/losses.py::depth_prior. A block works on one row of one view; rows are compared where the prior
// is valid. `rows` [B, H, 5]: pixels, mean and sum of squared differences from it, of the depth, then of the prior.

#define THREADS 128
#define WARPS (THREADS / 32)
#define LIPS_BIT 8
#define MAP_SHARE 1e-2f
#define SMALLEST 1e-8f
#define ROW 5
typedef unsigned char u8;

// A view's maps of one frame.
struct Maps {
    const float* depth;
    const short* prior;
    const u8* valid;
    float middle, step;
    __device__ __forceinline__ float prior_at(size_t i) const { return middle + step * prior[i]; }
};

__device__ __forceinline__ Maps maps_of(int height, int width, const float* __restrict__ depth, const short* __restrict__ priors,
                                        const u8* __restrict__ valid, const float* __restrict__ ranges,
                                        const long long* __restrict__ prior_rows) {
    size_t row = (size_t)blockIdx.x * width, stored = (size_t)prior_rows[blockIdx.y] * height * width + row;
    const float* range = ranges + 2 * prior_rows[blockIdx.y];
    return {depth + (size_t)blockIdx.y * height * width + row, priors + stored, valid + stored, range[0], range[1]};
}

extern "C" __global__ void __launch_bounds__(THREADS) depth_rows(int height, int width, const float* __restrict__ depth,
                                                                 const short* __restrict__ priors,
                                                                 const u8* __restrict__ valid,
                                                                 const float* __restrict__ ranges,
                                                                 const long long* __restrict__ prior_rows,
                                                                 float* __restrict__ rows) {
    Maps maps = maps_of(height, width, depth, priors, valid, ranges, prior_rows);
    float count = 0.0f, sum = 0.0f, prior_sum = 0.0f;
    for (int x = threadIdx.x; x < width; x += THREADS)
        if (maps.valid[x]) {
            count += 1.0f;
            sum += maps.depth[x];
            prior_sum += maps.prior_at(x);
        }
    count = block_sum<WARPS>(count);
    float share = 1.0f / fmaxf(count, 1.0f), mean = block_sum<WARPS>(sum) * share, prior_mean = block_sum<WARPS>(prior_sum) * share;
    float squares = 0.0f, prior_squares = 0.0f;
    for (int x = threadIdx.x; x < width; x += THREADS)
        if (maps.valid[x]) {
            float difference = maps.depth[x] - mean, prior_difference = maps.prior_at(x) - prior_mean;
            squares += difference * difference;
            prior_squares += prior_difference * prior_difference;
        }
    squares = block_sum<WARPS>(squares);
    prior_squares = block_sum<WARPS>(prior_squares);
    if (threadIdx.x == 0) {
        float* row = rows + ((size_t)blockIdx.y * height + blockIdx.x) * ROW;
        row[0] = count;
        row[1] = mean;
        row[2] = squares;
        row[3] = prior_mean;
        row[4] = prior_squares;
    }
}

// Statistics of a whole map from its rows'.
struct Whole {
    float count, mean, deviation;
};

__device__ __forceinline__ Whole whole_map(int height, const float* __restrict__ rows, int which) {
    const float* first = rows + (size_t)blockIdx.y * height * ROW;
    float count = 0.0f, sum = 0.0f, squares = 0.0f;
    for (int y = threadIdx.x; y < height; y += THREADS) {
        count += first[y * ROW];
        sum += first[y * ROW] * first[y * ROW + which];
    }
    count = block_sum<WARPS>(count);
    float mean = block_sum<WARPS>(sum) / fmaxf(count, 1.0f);
    for (int y = threadIdx.x; y < height; y += THREADS) {
        float apart = first[y * ROW + which] - mean;
        squares += first[y * ROW + which + 1] + first[y * ROW] * apart * apart;
    }
    return {count, mean, sqrtf(block_sum<WARPS>(squares) / fmaxf(count - 1.0f, 1.0f))};
}

__device__ __forceinline__ float row_deviation(const float* __restrict__ row, int which) {
    return sqrtf(row[which + 1] / fmaxf(row[0] - 1.0f, 1.0f));
}

__device__ __forceinline__ bool compared(int region, const u8* __restrict__ labels, const long long* __restrict__ rectangle,
                                         int x, int y) {
    bool lips = y >= rectangle[0] && y < rectangle[1] && x >= rectangle[2] && x < rectangle[3];
    return (region >> (labels[x] + (lips ? LIPS_BIT : 0))) & 1;
}

// partial [B * H, 2]: sum of |difference|, pixels. slopes [B, H, 2]: sum of signs; sum of sign * norm(depth) / divisor.
extern "C" __global__ void __launch_bounds__(THREADS) depth_forward(
    int height, int width, int region, const float* __restrict__ depth, const short* __restrict__ priors,
    const u8* __restrict__ valid, const float* __restrict__ ranges, const long long* __restrict__ prior_rows,
    const u8* __restrict__ labels, const long long* __restrict__ label_rows, const long long* __restrict__ rectangles,
    const float* __restrict__ rows, float* __restrict__ partial, float* __restrict__ slopes) {
    Maps maps = maps_of(height, width, depth, priors, valid, ranges, prior_rows);
    size_t at = (size_t)blockIdx.y * height + blockIdx.x;
    const float* row = rows + at * ROW;
    float divisor = fmaxf(row_deviation(row, 1) + MAP_SHARE * whole_map(height, rows, 1).deviation, SMALLEST);
    float prior_divisor = fmaxf(row_deviation(row, 3) + MAP_SHARE * whole_map(height, rows, 3).deviation, SMALLEST);
    const u8* mine = labels + ((size_t)label_rows[blockIdx.y] * height + blockIdx.x) * width;
    float sum = 0.0f, count = 0.0f, signs = 0.0f, moment = 0.0f;
    for (int x = threadIdx.x; x < width; x += THREADS)
        if (maps.valid[x] && compared(region, mine, rectangles + 4 * blockIdx.y, x, blockIdx.x)) {
            float value = (maps.depth[x] - row[1]) / divisor, difference = value - (maps.prior_at(x) - row[3]) / prior_divisor;
            float sign = difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : 0.0f;
            sum += fabsf(difference);
            count += 1.0f;
            signs += sign;
            if (divisor > SMALLEST) moment += sign * value / divisor;
        }
    sum = block_sum<WARPS>(sum);
    count = block_sum<WARPS>(count);
    signs = block_sum<WARPS>(signs);
    moment = block_sum<WARPS>(moment);
    if (threadIdx.x == 0) {
        partial[2 * at] = sum;
        partial[2 * at + 1] = count;
        slopes[2 * at] = signs;
        slopes[2 * at + 1] = moment;
    }
}

// d norm / d depth has three parts: the pixel itself, its row's mean and deviation, the map's deviation.
extern "C" __global__ void __launch_bounds__(THREADS) depth_backward(
    int height, int width, int region, const float* __restrict__ depth, const short* __restrict__ priors,
    const u8* __restrict__ valid, const float* __restrict__ ranges, const long long* __restrict__ prior_rows,
    const u8* __restrict__ labels, const long long* __restrict__ label_rows, const long long* __restrict__ rectangles,
    const float* __restrict__ rows, const float* __restrict__ slopes, const float* __restrict__ slope,
    const float* __restrict__ g_value, float* __restrict__ d_depth) {
    Maps maps = maps_of(height, width, depth, priors, valid, ranges, prior_rows);
    size_t at = (size_t)blockIdx.y * height + blockIdx.x;
    const float* row = rows + at * ROW;
    Whole whole = whole_map(height, rows, 1), prior_whole = whole_map(height, rows, 3);
    float deviation = row_deviation(row, 1), divisor = deviation + MAP_SHARE * whole.deviation;
    bool constant = divisor < SMALLEST;
    divisor = fmaxf(divisor, SMALLEST);
    float prior_divisor = fmaxf(row_deviation(row, 3) + MAP_SHARE * prior_whole.deviation, SMALLEST);
    float moments = 0.0f;
    for (int y = threadIdx.x; y < height; y += THREADS) moments += slopes[2 * ((size_t)blockIdx.y * height + y) + 1];
    moments = block_sum<WARPS>(moments);
    float scale = *g_value * *slope, count = fmaxf(row[0], 1.0f);
    float by_mean = slopes[2 * at] / (count * divisor);
    float by_row = !constant && deviation > 0.0f ? slopes[2 * at + 1] / (fmaxf(row[0] - 1.0f, 1.0f) * deviation) : 0.0f;
    float by_map = whole.deviation > 0.0f ? MAP_SHARE * moments / (fmaxf(whole.count - 1.0f, 1.0f) * whole.deviation) : 0.0f;
    const u8* mine = labels + ((size_t)label_rows[blockIdx.y] * height + blockIdx.x) * width;
    for (int x = threadIdx.x; x < width; x += THREADS) {
        float gradient = 0.0f;
        if (maps.valid[x]) {
            float apart = maps.depth[x] - row[1];
            gradient = -by_mean - by_row * apart - by_map * (maps.depth[x] - whole.mean);
            if (compared(region, mine, rectangles + 4 * blockIdx.y, x, blockIdx.x)) {
                float difference = apart / divisor - (maps.prior_at(x) - row[3]) / prior_divisor;
                gradient += (difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : 0.0f) / divisor;
            }
        }
        d_depth[at * width + x] = scale * gradient;
    }
}
