// Runs CUDA C++ kernels on the CPU, one block at a time, every thread a coroutine: enough of the language for this
// project's kernels, so that their arithmetic and their synchronisation are tested on machines without a GPU.
//
// Threads of a warp run in turn until each stops at a warp operation (shuffle, ballot, __syncwarp); warps until each
// stops at __syncthreads. Running the lanes in reverse order shows results that depend on an order that no barrier
// guarantees. Not modelled: memory races between blocks, memory models, hardware rounding of __expf and its like.

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define EMULATED 1
#define __global__
#define __device__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type* name = (type*)emulator::dynamic_shared()

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct int2 { int x, y; };
struct int4 { int x, y, z, w; };
struct dim3 { unsigned x, y, z; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

namespace emulator {

enum State { READY, AT_WARP, AT_BLOCK, FINISHED };

struct Thread {
    jmp_buf context;
    ucontext_t start;
    State state;
    dim3 index;
    unsigned operations;  // warp operations so far; its parity picks the exchange buffer
    int kind;             // which warp operation it waits at: all lanes must agree
};

struct Block {
    std::vector<Thread> threads;
    std::vector<char*> stacks;
    std::vector<unsigned long long> exchange;  // [2][threads]
    std::vector<char> dynamic;
    Thread* current = nullptr;
    int self = 0;
    jmp_buf scheduler;
    ucontext_t scheduler_context;
    dim3 block_index{}, block_size{}, grid_size{};
    void (*body)(void*) = nullptr;
    void* arguments = nullptr;
    bool reverse = false;
};

static Block block;
static const size_t STACK_BYTES = 256 * 1024;

inline char* dynamic_shared() { return (char*)(((size_t)block.dynamic.data() + 127) / 128 * 128); }

inline void fail(const char* message) {
    fprintf(stderr, "cuda_emulator: %s (block %u %u %u, thread %d)\n", message, block.block_index.x,
            block.block_index.y, block.block_index.z, block.self);
    abort();
}

inline void wait(State state, int kind) {
    block.current->state = state;
    block.current->kind = kind;
    if (!_setjmp(block.current->context)) _longjmp(block.scheduler, 1);
}

static void entry() {
    block.body(block.arguments);
    block.current->state = FINISHED;
    _longjmp(block.scheduler, 1);
}

inline void resume(int index) {
    block.self = index;
    block.current = &block.threads[index];
    if (!_setjmp(block.scheduler)) {
        if (block.current->kind < 0) {
            block.current->kind = 0;
            setcontext(&block.current->start);
        }
        _longjmp(block.current->context, 1);
    }
}

inline void run_warp(int first, int last) {
    for (;;) {
        for (int i = 0; i < last - first; i++) {
            int index = block.reverse ? last - 1 - i : first + i;
            if (block.threads[index].state == READY) resume(index);
        }
        int waiting = 0, live = 0, kind = -1;
        for (int i = first; i < last; i++) {
            if (block.threads[i].state == AT_WARP) {
                waiting++;
                if (kind >= 0 && kind != block.threads[i].kind) fail("lanes of a warp wait at different operations");
                kind = block.threads[i].kind;
            }
            live += block.threads[i].state != FINISHED;
        }
        if (waiting == 0) return;
        if (waiting != live) fail("some lanes of a warp wait at a warp operation that others never reach");
        for (int i = first; i < last; i++)
            if (block.threads[i].state == AT_WARP) block.threads[i].state = READY;
    }
}

inline void run_block(int count) {
    while ((int)block.stacks.size() < count) block.stacks.push_back((char*)malloc(STACK_BYTES));
    block.threads.resize(count);
    block.exchange.assign(2 * count, 0);
    for (int i = 0; i < count; i++) {
        Thread& thread = block.threads[i];
        thread.state = READY;
        thread.kind = -1;
        thread.operations = 0;
        thread.index = {(unsigned)i % block.block_size.x, (unsigned)i / block.block_size.x, 0};
        getcontext(&thread.start);
        thread.start.uc_stack.ss_sp = block.stacks[i];
        thread.start.uc_stack.ss_size = STACK_BYTES;
        thread.start.uc_link = nullptr;
        makecontext(&thread.start, entry, 0);
    }
    for (;;) {
        for (int first = 0; first < count; first += 32) run_warp(first, first + 32 < count ? first + 32 : count);
        int waiting = 0, live = 0;
        for (Thread& thread : block.threads) {
            waiting += thread.state == AT_BLOCK;
            live += thread.state != FINISHED;
        }
        if (live == 0) return;
        if (waiting != live) fail("__syncthreads that some threads never reach");
        for (Thread& thread : block.threads)
            if (thread.state == AT_BLOCK) thread.state = READY;
    }
}

template <class T>
T exchange(T value, int kind, int source_lane) {
    unsigned parity = block.current->operations++ & 1;
    unsigned long long* slots = block.exchange.data() + parity * block.threads.size();
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof(T));
    slots[block.self] = bits;
    wait(AT_WARP, kind);
    int source = (block.self & ~31) + source_lane;
    if (source >= (int)block.threads.size()) source = block.self;
    T result;
    memcpy(&result, &slots[source], sizeof(T));
    return result;
}

inline unsigned ballot(int predicate) {
    unsigned parity = block.current->operations++ & 1;
    unsigned long long* slots = block.exchange.data() + parity * block.threads.size();
    slots[block.self] = predicate != 0;
    wait(AT_WARP, 2);
    unsigned result = 0;
    int first = block.self & ~31;
    for (int lane = 0; lane < 32 && first + lane < (int)block.threads.size(); lane++)
        if (block.threads[first + lane].state != FINISHED && slots[first + lane]) result |= 1u << lane;
    return result;
}

template <class... A>
struct Call {
    void (*kernel)(A...);
    void** arguments;
    template <size_t... I>
    void invoke(std::index_sequence<I...>) { kernel(*(A*)arguments[I]...); }
    static void body(void* self) { ((Call*)self)->invoke(std::index_sequence_for<A...>()); }
};

template <class... A>
void launch(void (*kernel)(A...), const unsigned* grid, unsigned threads, unsigned shared_bytes, int reverse, void** arguments) {
    Call<A...> call{kernel, arguments};
    block.body = Call<A...>::body;
    block.arguments = &call;
    block.reverse = reverse;
    block.block_size = {threads, 1, 1};
    block.grid_size = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block.block_index = {x, y, z};
                block.dynamic.assign(shared_bytes + 128, (char)0xff);  // NaN: nothing may rely on zeroed memory
                run_block((int)threads);
            }
}

}  // namespace emulator

#define EXPORT_KERNEL(name)                                                                                     \
    extern "C" void emulate_##name(const unsigned* grid, unsigned threads, unsigned shared_bytes, int reverse, \
                                   void** arguments) {                                                          \
        emulator::launch(name, grid, threads, shared_bytes, reverse, arguments);                                \
    }

#define threadIdx (emulator::block.current->index)
#define blockIdx (emulator::block.block_index)
#define blockDim (emulator::block.block_size)
#define gridDim (emulator::block.grid_size)

inline void __syncthreads() { emulator::wait(emulator::AT_BLOCK, 0); }
inline int __syncthreads_count(int predicate) {
    static int count;
    count += predicate != 0;
    emulator::wait(emulator::AT_BLOCK, 0);
    int result = count;
    emulator::wait(emulator::AT_BLOCK, 0);
    count = 0;
    emulator::wait(emulator::AT_BLOCK, 0);
    return result;
}
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::wait(emulator::AT_WARP, 1); }
inline unsigned __ballot_sync(unsigned, int predicate) { return emulator::ballot(predicate); }
inline int __any_sync(unsigned, int predicate) { return emulator::ballot(predicate) != 0; }
inline int __all_sync(unsigned, int predicate) { return emulator::ballot(!predicate) == 0; }
inline int emulator_lane() { return emulator::block.self & 31; }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return emulator::exchange(value, 3, lane & 31); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return emulator::exchange(value, 4, emulator_lane() ^ mask); }
template <class T> T __shfl_up_sync(unsigned, T value, int delta) {
    int source = emulator_lane() - delta;
    return emulator::exchange(value, 5, source < 0 ? emulator_lane() : source);
}
template <class T> T __shfl_down_sync(unsigned, T value, int delta) {
    int source = emulator_lane() + delta;
    return emulator::exchange(value, 6, source > 31 ? emulator_lane() : source);
}

template <class T> T atomicAdd(T* address, T value) { T old = *address; *address += value; return old; }
inline unsigned long long atomicMin(unsigned long long* address, unsigned long long value) {
    unsigned long long old = *address;
    if (value < old) *address = value;
    return old;
}
inline int atomicMax(int* address, int value) { int old = *address; if (value > old) *address = value; return old; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
template <class To, class From> To emulator_bits(From value) { To to; memcpy(&to, &value, sizeof(To)); return to; }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
template <class T> T __ldg(const T* address) { return *address; }
