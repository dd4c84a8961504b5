/* output.c - rows of a buffer to the caller's array, without padding. */
#include "kernels/level.h"

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t cols = call->plan->buffers[op->in[0]].cols;
    const int64_t done = call->first - call->args->first;
    for (int r = tile.r0; r < tile.r1; r++)
        memcpy(call->args->output + (done + r) * cols, fn_row(call, op->in[0], r),
               (size_t)cols * sizeof(float));
}

static const char *check(fn_plan *plan, fn_op *op) {
    plan->writes_output = true;
    return fn_is_f32(plan, op->in[0]) ? NULL : "float32 rows are wanted";
}

const fn_op_impl FN_LEVELED(output) = {
    .min_inputs = 1,
    .max_inputs = 1,
    .check = check,
    .forward = forward,
};
