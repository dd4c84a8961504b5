/* subtract.c - y = x_0 - x_1. */
#include "kernels/merge.h"

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *a = fn_row(call, tile, op->in[0], r), *b = fn_row(call, tile, op->in[1], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int c = tile.c0; c < end; c += LANES) v_store(y + c, v_load(a + c) - v_load(b + c));
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *da = merge_gradient(call, op, tile, 0, r),
              *db = merge_gradient(call, op, tile, 1, r);
        for (int c = tile.c0; c < end; c += LANES) {
            const vf g = v_load(dy + c);
            if (db) v_store(db + c, -g);
            if (da) v_store(da + c, g);
        }
    }
}

const fn_op_impl FN_LEVELED(subtract) = {
    .min_inputs = 2,
    .max_inputs = 2,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE | FN_PASSES_GRADIENT | FN_COPIES_GRADIENT | FN_CHEAP,
    .check = merge_check,
    .forward = forward,
    .backward = backward,
};
