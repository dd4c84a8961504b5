/* concatenate.c - inputs side by side along one axis: a row is `outer` blocks, each a piece of
 * every input in turn. */
#include "kernels/level.h"

enum { OUTER };

static size_t piece(const fn_call *call, const fn_op *op, int j) {
    return (size_t)call->plan->buffers[op->in[j]].cols / (size_t)op->attr[OUTER];
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const size_t outer = (size_t)op->attr[OUTER];
    const size_t step = (size_t)call->plan->buffers[op->out[0]].cols / outer;
    for (int r = tile.r0; r < tile.r1; r++) {
        float *y = fn_row(call, tile, op->out[0], r);
        for (int j = 0; j < op->n_in; j++) {
            const float *x = fn_row(call, tile, op->in[j], r);
            const size_t n = piece(call, op, j);
            for (size_t o = 0; o < outer; o++) memcpy(y + o * step, x + o * n, n * sizeof(float));
            y += n;
        }
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const size_t outer = (size_t)op->attr[OUTER];
    const size_t step = (size_t)call->plan->buffers[op->out[0]].cols / outer;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        for (int j = 0; j < op->n_in; j++) {
            const size_t n = piece(call, op, j);
            if (call->plan->buffers[op->in[j]].gradient) {
                float *dx = fn_gradient_row(call, tile, op->in[j], r);
                for (size_t o = 0; o < outer; o++)
                    memcpy(dx + o * n, dy + o * step, n * sizeof(float));
            }
            dy += n;
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const double outer = op->attr[OUTER];
    if (!(outer >= 1 && outer <= FN_MAX_COLUMNS)) return "there is at least one block";
    int64_t cols = 0;
    for (int j = 0; j < op->n_in; j++) {
        const fn_buffer *in = &plan->buffers[op->in[j]];
        if (in->dtype != FN_F32 || !fn_is_f32(plan, op->out[0])) return "float32 rows are wanted";
        if (in->cols % (int64_t)outer) return "an input has no whole number of blocks";
        cols += in->cols;
    }
    if (cols != plan->buffers[op->out[0]].cols) return "inputs and output differ";
    op->flops = (double)cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"outer", FN_ATTR_NUMBER, 1}};

const fn_op_impl FN_LEVELED(concatenate) = {
    .attributes = attributes,
    .n_attributes = 1,
    .min_inputs = 2,
    .max_inputs = FN_MAX_INPUTS,
    .n_outputs = 1,
    .flags = FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
