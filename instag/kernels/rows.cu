// The same rows of several tables, whatever their types and strides, in one launch: a step's look-ups are a few bytes
// each but one of them. Twin of instag/data/resident.py::take_rows_torch.

#define TABLES 4
#define INNER 3  // dimensions of a row
#define THREADS 256

struct Table {
    const unsigned* from;
    unsigned* to;  // [B, words]
    long long row;  // stride, in words of four bytes, as all here
    int sizes[INNER], strides[INNER], words;  // of a row
};

struct Tables {
    Table tables[TABLES];
    const long long* index;  // [B]
    int used;
};

// Grid (words of the widest row / THREADS, B).
extern "C" __global__ void __launch_bounds__(THREADS) take_rows(const Tables given) {
    int word = blockIdx.x * THREADS + threadIdx.x;
    long long row = given.index[blockIdx.y];
#pragma unroll
    for (int k = 0; k < TABLES; k++) {
        const Table& t = given.tables[k];
        if (k >= given.used || word >= t.words) continue;
        int inner = word % t.sizes[2], rest = word / t.sizes[2];
        const unsigned* at = t.from + row * t.row + inner * (long long)t.strides[2];
        at += rest % t.sizes[1] * (long long)t.strides[1] + rest / t.sizes[1] * (long long)t.strides[0];
        t.to[(size_t)blockIdx.y * t.words + word] = *at;
    }
}
