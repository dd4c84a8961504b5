/* multiply.c - y = x_0 * x_1 * ..., multiplied in order. */
#include "kernels/merge.h"

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x[FN_MAX_INPUTS];
        for (int j = 0; j < op->n_in; j++) x[j] = fn_row(call, tile, op->in[j], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int c = tile.c0; c < end; c += LANES) {
            vf product = v_load(x[0] + c);
            for (int j = 1; j < op->n_in; j++) product *= v_load(x[j] + c);
            v_store(y + c, product);
        }
    }
}

/* dx_j = dy times all others: no division, so that zeros are as good as any number. */
static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x[FN_MAX_INPUTS];
        float *dx[FN_MAX_INPUTS];
        for (int j = 0; j < op->n_in; j++) {
            x[j] = fn_row(call, tile, op->in[j], r);
            dx[j] = merge_gradient(call, op, tile, j, r);
        }
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        for (int c = tile.c0; c < end; c += LANES) {
            const vf g = v_load(dy + c);
            for (int j = op->n_in - 1; j >= 0; j--) {
                vf product = g;
                for (int i = 0; i < op->n_in; i++)
                    if (i != j) product *= v_load(x[i] + c);
                if (dx[j]) v_store(dx[j] + c, product);
            }
        }
    }
}

const fn_op_impl FN_LEVELED(multiply) = {
    .min_inputs = 2,
    .max_inputs = FN_MAX_INPUTS,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_NEEDS_INPUT | FN_PASSES_GRADIENT | FN_CHEAP,
    .check = merge_check,
    .forward = forward,
    .backward = backward,
};
