/* output.c - rows of a buffer to the caller's array, without padding. */
#include "kernels/level.h"

enum { TARGET };

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t cols = call->plan->buffers[op->in[0]].cols;
    float *output = call->args->outputs[(int)op->attr[TARGET]];
    const int64_t done = call->first - call->args->first;
    for (int r = tile.r0; r < tile.r1; r++)
        memcpy(output + (done + r) * cols, fn_row(call, tile, op->in[0], r),
               (size_t)cols * sizeof(float));
}

static const char *check(fn_plan *plan, fn_op *op) {
    const double target = op->attr[TARGET];
    if (!(target >= 0 && target < FN_MAX_OUTPUTS)) return "there is no such array";
    if (target >= plan->n_outputs) plan->n_outputs = (int)target + 1;
    return fn_is_f32(plan, op->in[0]) ? NULL : "float32 rows are wanted";
}

static const fn_attribute attributes[] = {{"target", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(output) = {
    .attributes = attributes,
    .n_attributes = 1,
    .min_inputs = 1,
    .max_inputs = 1,
    .check = check,
    .forward = forward,
};
