/* spatial_dropout.c - whole channels of an image are set to 0, the others scaled by 1 / (1 - rate)
 * (Tompson et al., CVPR 2015); training only.
 *
 * Whether a channel is kept depends on the seed, the step, the op, the row and the channel alone,
 * so backward draws again instead of keeping it.
 */
#include "kernels/draw.h"
#include "kernels/image.h"

enum { RATE };

/* A factor for each channel of a row: 0 or `scale`. */
static void draw(const fn_call *call, const fn_op *op, int row, int c, float *factor) {
    const float scale = 1 / (1 - (float)op->attr[RATE]);
    const uint32_t limit = draw_limit(op->attr[RATE]);
    for (int k = 0; k < c; k += 4) {
        const fn_philox4 words = draw_four(call, op, row, (uint32_t)(k / 4));
        for (int l = 0; l < smaller(4, c - k); l++) factor[k + l] = words.v[l] < limit ? 0 : scale;
    }
}

/* Columns [c0, c1) of y = x * factor of their channel; y may be x. */
static void apply(const fn_call *call, const fn_op *op, fn_tile tile, bool back) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int c = image_of(b).c, end = smaller(tile.c1, (int)b->cols);
    float *factor = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = source_row(call, op, tile, back, r);
        float *y = target_row(call, op, tile, back, r);
        draw(call, op, r, c, factor);
        for (int at = tile.c0; at < end;) {
            const int k = at % c, n = smaller(c - k, end - at);
            for (int i = 0; i < n; i++)
                y[at + i] = factor[k + i] == 0 ? 0 : x[at + i] * factor[k + i];
            at += n;
        }
    }
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    apply(call, op, tile, false);
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    apply(call, op, tile, true);
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!(op->attr[RATE] >= 0 && op->attr[RATE] < 1)) return "the rate is not in [0, 1)";
    if (!is_image(plan, op->in[0]) || !is_image(plan, op->out[0]))
        return "float32 rows of shape (h, w, c) are wanted";
    const image in = image_of(&plan->buffers[op->in[0]]),
                out = image_of(&plan->buffers[op->out[0]]);
    if (in.h != out.h || in.w != out.w || in.c != out.c) return "input and output differ";
    op->scratch = (size_t)out.c + FN_PAD;
    op->flops = 2.0 * (double)plan->buffers[op->out[0]].cols + 20.0 * out.c;
    return NULL;
}

static const fn_attribute attributes[] = {{"rate", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(spatial_dropout) = {
    .attributes = attributes,
    .n_attributes = 1,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
