/* merge.h - what ops share that make one row of several rows of the same size. They may work in
 * the memory of their first input, forward and back, so they read all of a vector before they write
 * it, and write the gradient of the first input last. */
#ifndef FN_MERGE_H
#define FN_MERGE_H

#include "kernels/level.h"

/* Columns [c0, end) of a tile, in whole vectors. */
FN_INLINE int merge_end(const fn_call *call, const fn_op *op, fn_tile tile) {
    return tile_end(tile, fn_ld(call, op->out[0]));
}

/* The gradient row of input j, or NULL if nobody wants it. */
FN_INLINE float *merge_gradient(const fn_call *call, const fn_op *op, fn_tile tile, int j,
                                int row) {
    const bool wanted = call->plan->buffers[op->in[j]].gradient;
    return wanted ? fn_gradient_row(call, tile, op->in[j], row) : NULL;
}

FN_INLINE const char *merge_check(fn_plan *plan, fn_op *op) {
    const fn_buffer *out = &plan->buffers[op->out[0]];
    for (int j = 0; j < op->n_in; j++) {
        if (!fn_is_f32(plan, op->in[j]) || out->dtype != FN_F32) return "float32 rows are wanted";
        if (plan->buffers[op->in[j]].cols != out->cols) return "inputs and output differ";
    }
    op->flops = (double)op->n_in * (double)out->cols;
    return NULL;
}

#endif
