/* softmax.c - y = softmax(x) over the last axis of each row. */
#include "kernels/softmax.h"

static int64_t last_axis(const fn_buffer *b) { return b->rank ? b->shape[b->rank - 1] : 1; }

/* Rows with one group write whole vectors in place; groups of a longer row go through scratch. */
static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t n = last_axis(b);
    float *group = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int64_t c = 0; c < b->cols; c += n) {
            memcpy(group, x + c, (size_t)n * sizeof(float));
            softmax_row(n, group, group);
            memcpy(y + c, group, (size_t)n * sizeof(float));
        }
    }
}

/* dx = y * (dy - sum(dy * y)) */
static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t n = last_axis(b);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *y = fn_row(call, tile, op->out[0], r),
                    *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        for (int64_t c = 0; c < b->cols; c += n) {
            float dot = 0;
            for (int64_t i = c; i < c + n; i++) dot += dy[i] * y[i];
            for (int64_t i = c; i < c + n; i++) dx[i] = y[i] * (dy[i] - dot);
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *out = &plan->buffers[op->out[0]];
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    op->scratch = (size_t)(last_axis(out) + 2 * FN_PAD);
    op->flops = 20.0 * (double)out->cols;
    return NULL;
}

const fn_op_impl FN_LEVELED(softmax) = {
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_NEEDS_OUTPUT,
    .check = check,
    .forward = forward,
    .backward = backward,
};
