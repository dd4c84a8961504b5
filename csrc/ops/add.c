/* add.c - y = x_0 + x_1 + ..., summed in order. */
#include "kernels/merge.h"

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x[FN_MAX_INPUTS];
        for (int j = 0; j < op->n_in; j++) x[j] = fn_row(call, tile, op->in[j], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int c = tile.c0; c < end; c += LANES) {
            vf sum = v_load(x[0] + c);
            for (int j = 1; j < op->n_in; j++) sum += v_load(x[j] + c);
            v_store(y + c, sum);
        }
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        for (int j = op->n_in - 1; j >= 0; j--) {
            float *dx = merge_gradient(call, op, tile, j, r);
            if (dx) copy_columns(tile.c0, end, dy, dx);
        }
    }
}

const fn_op_impl FN_LEVELED(add) = {
    .min_inputs = 2,
    .max_inputs = FN_MAX_INPUTS,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_PASSES_GRADIENT | FN_COPIES_GRADIENT | FN_CHEAP,
    .check = merge_check,
    .forward = forward,
    .backward = backward,
};
