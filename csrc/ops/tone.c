/* tone.c - y = clip(mean + contrast (x - mean) + shift, low, high), the mean over the pixels of
 * each channel of each image, contrast and shift drawn for each image: training only.
 */
#include "kernels/draw.h"

enum { CONTRAST_LOW, CONTRAST_HIGH, SHIFT_LOW, SHIFT_HIGH, LOW, HIGH };

typedef struct {
    float contrast, shift;
} tone;

static tone draw(const fn_call *call, const fn_op *op, int row) {
    const double *a = op->attr;
    double u[4];
    draw_uniform(call, op, row, 0, u);
    return (tone){(float)draw_between(u[0], a[CONTRAST_LOW], a[CONTRAST_HIGH]),
                  (float)draw_between(u[1], a[SHIFT_LOW], a[SHIFT_HIGH])};
}

/* What the pixels of channel k are scaled to: y = contrast x + offset. */
static float offset(tone t, const float *x, int64_t cols, int64_t channels, int64_t k) {
    if (t.contrast == 1) return t.shift;
    double sum = 0;
    for (int64_t i = k; i < cols; i += channels) sum += x[i];
    return (float)(sum / (double)(cols / channels) * (1 - (double)t.contrast) + t.shift);
}

static int64_t channels_of(const fn_buffer *b) { return b->rank == 3 ? b->shape[2] : 1; }

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t channels = channels_of(b);
    const float low = (float)op->attr[LOW], high = (float)op->attr[HIGH];
    for (int r = tile.r0; r < tile.r1; r++) {
        const tone t = draw(call, op, r);
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int64_t k = 0; k < channels; k++) {
            const float add = offset(t, x, b->cols, channels, k);
            for (int64_t i = k; i < b->cols; i += channels) {
                const float v = x[i] * t.contrast + add;
                y[i] = v < low ? low : v > high ? high : v;
            }
        }
    }
}

/* Where nothing was clipped dx = contrast dy, and each pixel has its share in the mean. */
static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t channels = channels_of(b);
    const float low = (float)op->attr[LOW], high = (float)op->attr[HIGH];
    for (int r = tile.r0; r < tile.r1; r++) {
        const tone t = draw(call, op, r);
        const float *x = fn_row(call, tile, op->in[0], r),
                    *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        for (int64_t k = 0; k < channels; k++) {
            const float add = offset(t, x, b->cols, channels, k);
            double sum = 0;
            for (int64_t i = k; i < b->cols; i += channels) {
                const float v = x[i] * t.contrast + add;
                dx[i] = v < low || v > high ? 0 : dy[i];
                sum += dx[i];
            }
            const double pixels = (double)(b->cols / channels);
            const float share = (float)(sum / pixels * (1 - (double)t.contrast));
            for (int64_t i = k; i < b->cols; i += channels) dx[i] = dx[i] * t.contrast + share;
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *out = &plan->buffers[op->out[0]];
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    if (out->rank < 2 || out->rank > 3)
        return "rows of shape (height, width[, channels]) are wanted";
    if (!(op->attr[LOW] <= op->attr[HIGH])) return "the range of values is empty";
    op->flops = 4.0 * (double)out->cols;
    return NULL;
}

static const fn_attribute attributes[] = {
    {"contrast_low", FN_ATTR_NUMBER, 1}, {"contrast_high", FN_ATTR_NUMBER, 1},
    {"shift_low", FN_ATTR_NUMBER, 0},    {"shift_high", FN_ATTR_NUMBER, 0},
    {"low", FN_ATTR_NUMBER, 0},          {"high", FN_ATTR_NUMBER, 255}};

const fn_op_impl FN_LEVELED(tone) = {
    .attributes = attributes,
    .n_attributes = 6,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_NEEDS_INPUT,
    .check = check,
    .forward = forward,
    .backward = backward,
};
