/* rescale.c - y = x * scale + offset. Directly behind an input it is part of the input op instead.
 */
#include "kernels/level.h"

enum { SCALE, OFFSET };

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const float scale = (float)op->attr[SCALE], offset = (float)op->attr[OFFSET];
    const int64_t cols = call->plan->buffers[op->out[0]].cols,
                  end = tile.c1 < cols ? tile.c1 : cols;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int64_t c = tile.c0; c < end; c++) y[c] = x[c] * scale + offset;
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const float scale = (float)op->attr[SCALE];
    const int64_t cols = call->plan->buffers[op->out[0]].cols,
                  end = tile.c1 < cols ? tile.c1 : cols;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        for (int64_t c = tile.c0; c < end; c++) dx[c] = dy[c] * scale;
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    op->flops = 2.0 * (double)plan->buffers[op->in[0]].cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"scale", FN_ATTR_NUMBER, 1},
                                          {"offset", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(rescale) = {
    .attributes = attributes,
    .n_attributes = 2,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
