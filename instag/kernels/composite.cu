// Face over mouth over plate, all from premultiplied colours, and the frame to compare with, plates and frames straight
// from their uint8 stores. Twin of instag/render/composite.py::composite. One thread per pixel.

#define THREADS 256
typedef unsigned char u8;

// Grid (blocks, B). color [B, 3, H, W], alpha [B, 1, H, W]; the mouth's may be null.
extern "C" __global__ void __launch_bounds__(THREADS) composite_forward(
    int pixels, const u8* __restrict__ plates, const u8* __restrict__ frames, const long long* __restrict__ rows,
    const float* __restrict__ face_color, const float* __restrict__ face_alpha, const float* __restrict__ mouth_color,
    const float* __restrict__ mouth_alpha, float* __restrict__ image, float* __restrict__ target) {
    int at = blockIdx.x * THREADS + threadIdx.x, view = blockIdx.y;
    if (at >= pixels) return;
    size_t alpha_at = (size_t)view * pixels + at, stored = 3 * ((size_t)rows[view] * pixels + at);
    float through_face = 1.0f - face_alpha[alpha_at], through_mouth = mouth_alpha ? 1.0f - mouth_alpha[alpha_at] : 1.0f;
    for (int channel = 0; channel < 3; channel++) {
        size_t place = ((size_t)view * 3 + channel) * pixels + at;
        float behind = plates[stored + channel] / 255.0f;
        if (mouth_color) behind = mouth_color[place] + through_mouth * behind;
        image[place] = face_color[place] + through_face * behind;
        target[place] = frames[stored + channel] / 255.0f;
    }
}

// d_image is the face colour's gradient as it is. Outputs of which no gradient is wanted are null.
extern "C" __global__ void __launch_bounds__(THREADS) composite_backward(
    int pixels, const u8* __restrict__ plates, const long long* __restrict__ rows, const float* __restrict__ face_alpha,
    const float* __restrict__ mouth_color, const float* __restrict__ mouth_alpha, const float* __restrict__ d_image,
    float* __restrict__ d_face_alpha, float* __restrict__ d_mouth_color, float* __restrict__ d_mouth_alpha) {
    int at = blockIdx.x * THREADS + threadIdx.x, view = blockIdx.y;
    if (at >= pixels) return;
    size_t alpha_at = (size_t)view * pixels + at, stored = 3 * ((size_t)rows[view] * pixels + at);
    float through_face = 1.0f - face_alpha[alpha_at], through_mouth = mouth_alpha ? 1.0f - mouth_alpha[alpha_at] : 1.0f;
    float by_face = 0.0f, by_mouth = 0.0f;
    for (int channel = 0; channel < 3; channel++) {
        size_t place = ((size_t)view * 3 + channel) * pixels + at;
        float plate = plates[stored + channel] / 255.0f, gradient = d_image[place];
        by_face -= gradient * (mouth_color ? mouth_color[place] + through_mouth * plate : plate);
        by_mouth -= gradient * through_face * plate;
        if (d_mouth_color) d_mouth_color[place] = gradient * through_face;
    }
    if (d_face_alpha) d_face_alpha[alpha_at] = by_face;
    if (d_mouth_alpha) d_mouth_alpha[alpha_at] = by_mouth;
}
