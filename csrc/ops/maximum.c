/* maximum.c - y = the largest of x_0, x_1, ... ; the first of equal ones gets the gradient. */
#include "kernels/merge.h"

/* NaN is kept, whichever input holds it. */
static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x[FN_MAX_INPUTS];
        for (int j = 0; j < op->n_in; j++) x[j] = fn_row(call, tile, op->in[j], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int c = tile.c0; c < end; c += LANES) {
            vf most = v_load(x[0] + c);
            for (int j = 1; j < op->n_in; j++) {
                const vf v = v_load(x[j] + c);
                const vi take = (v > most) | (v != v);
                most = (vf)(((vi)v & take) | ((vi)most & ~take));
            }
            v_store(y + c, most);
        }
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *y = fn_row(call, tile, op->out[0], r), *x[FN_MAX_INPUTS];
        float *dx[FN_MAX_INPUTS];
        for (int j = 0; j < op->n_in; j++) {
            x[j] = fn_row(call, tile, op->in[j], r);
            dx[j] = merge_gradient(call, op, tile, j, r);
        }
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        for (int c = tile.c0; c < end; c += LANES) {
            const vf g = v_load(dy + c), most = v_load(y + c);
            vi left = most == most;
            for (int j = 0; j < op->n_in; j++) {
                const vi mine = left & (v_load(x[j] + c) == most);
                if (dx[j]) v_store(dx[j] + c, (vf)((vi)g & mine));
                left &= ~mine;
            }
        }
    }
}

const fn_op_impl FN_LEVELED(maximum) = {
    .min_inputs = 2,
    .max_inputs = FN_MAX_INPUTS,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_NEEDS_INPUT | FN_NEEDS_OUTPUT | FN_PASSES_GRADIENT | FN_CHEAP,
    .check = merge_check,
    .forward = forward,
    .backward = backward,
};
