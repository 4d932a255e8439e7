// Adam and AdamW over SEGMENTS tensors in one launch. Pointers travel as kernel parameters, so that a captured graph needs
// no table on the device; rates and the like are read from the device, so that it sees their changes.

#define SEGMENTS 8
#define THREADS 256

// One tensor: values, gradient, moments, step count (already raised), and its group's [lr, 1 - beta1, 1 - beta2, eps,
// decay] (1 - beta2 keeps its digits in float32, beta2 = 0.999 would not).
#define SEGMENT(k)                                                                                              \
    int count##k, float *__restrict__ value##k, const float *__restrict__ gradient##k, float *__restrict__ first##k, \
        float *__restrict__ second##k, const float *__restrict__ step##k, const float *__restrict__ group##k

#define UPDATE(k) \
    case k:       \
        update(decoupled, count##k, value##k, gradient##k, first##k, second##k, step##k, group##k); \
        break;

__device__ __forceinline__ void update(int decoupled, int count, float* __restrict__ value,
                                       const float* __restrict__ gradient, float* __restrict__ first,
                                       float* __restrict__ second, const float* __restrict__ step,
                                       const float* __restrict__ group) {
    int start = blockIdx.x * THREADS + threadIdx.x;
    if (start >= count) return;
    float rate = group[0], new1 = group[1], new2 = group[2], eps = group[3], decay = group[4], steps = *step;
    float step_size = rate / -expm1f(steps * log1pf(-new1));  // 1 - beta^steps without cancellation
    float correction = sqrtf(-expm1f(steps * log1pf(-new2)));
    for (int i = start; i < count; i += gridDim.x * THREADS) {
        float w = value[i], g = gradient[i];
        if (decoupled)
            w -= rate * decay * w;
        else
            g += decay * w;
        float m = first[i] + new1 * (g - first[i]);
        float v = (1.0f - new2) * second[i] + new2 * g * g;
        first[i] = m;
        second[i] = v;
        value[i] = w - step_size * m / (sqrtf(v) / correction + eps);
    }
}

// Grid (blocks, segments used).
extern "C" __global__ void __launch_bounds__(THREADS) adam_step(int decoupled, SEGMENT(0), SEGMENT(1), SEGMENT(2),
                                                                SEGMENT(3), SEGMENT(4), SEGMENT(5), SEGMENT(6),
                                                                SEGMENT(7)) {
    switch (blockIdx.y) {
        UPDATE(0)
        UPDATE(1)
        UPDATE(2)
        UPDATE(3)
        UPDATE(4)
        UPDATE(5)
        UPDATE(6)
        UPDATE(7)
    }
}
