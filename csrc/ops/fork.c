/* fork.c - one buffer under several names, for ops that all send a gradient back: each output has
 * the input's memory and a gradient of its own, and their sum, in order, is the input's gradient.
 * So every gradient has one writer.
 */
#include "kernels/merge.h"

/* The first output's gradient has the memory of the input's. */
static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int end = merge_end(call, op, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy[FN_MAX_INPUTS];
        for (int j = 0; j < op->n_out; j++) dy[j] = fn_gradient_row(call, tile, op->out[j], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        for (int c = tile.c0; c < end; c += LANES) {
            vf sum = v_load(dy[0] + c);
            for (int j = 1; j < op->n_out; j++) sum += v_load(dy[j] + c);
            v_store(dx + c, sum);
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]];
    for (int j = 0; j < op->n_out; j++) {
        const fn_buffer *out = &plan->buffers[op->out[j]];
        if (in->dtype != FN_F32 || out->dtype != FN_F32) return "float32 rows are wanted";
        if (in->cols != out->cols) return "input and outputs differ";
    }
    if (plan->ops[in->producer].flags & FN_SOURCE) return "rows of a source get no gradient";
    op->flops = (double)op->n_out * (double)in->cols;
    return NULL;
}

const fn_op_impl FN_LEVELED(fork) = {
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 2,
    .max_outputs = FN_MAX_INPUTS,
    .flags = FN_SHARES_INPUT | FN_PASSES_GRADIENT | FN_CHEAP,
    .check = check,
    .backward = backward,
};
