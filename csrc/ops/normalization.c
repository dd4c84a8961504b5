/* normalization.c - y = (x - mean) * inverse_std per feature of the last axis; both are statistics
 * of the data that Normalization.adapt computes, not trained.
 */
#include "kernels/level.h"

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t cols = call->plan->buffers[op->out[0]].cols,
                  end = tile.c1 < cols ? tile.c1 : cols;
    const int64_t n = call->plan->params[op->params[0]].count;
    const float *mean = fn_weights(call, op, 0), *inverse = fn_weights(call, op, 1);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int64_t c = tile.c0; c < end; c++) y[c] = (x[c] - mean[c % n]) * inverse[c % n];
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t cols = call->plan->buffers[op->out[0]].cols,
                  end = tile.c1 < cols ? tile.c1 : cols;
    const int64_t n = call->plan->params[op->params[0]].count;
    const float *inverse = fn_weights(call, op, 1);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        for (int64_t c = tile.c0; c < end; c++) dx[c] = dy[c] * inverse[c % n];
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]];
    if (op->n_params != 2) return "mean and inverse standard deviation are wanted";
    const int64_t n = plan->params[op->params[0]].count;
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    if (plan->params[op->params[0]].trainable || plan->params[op->params[1]].trainable)
        return "statistics are not trained";
    if (in->cols % n || plan->params[op->params[1]].count != n)
        return "statistics do not fit the last axis";
    op->flops = 2.0 * (double)in->cols;
    return NULL;
}

const fn_op_impl FN_LEVELED(normalization) = {
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 2,
    .flags = FN_ELEMENTWISE | FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
