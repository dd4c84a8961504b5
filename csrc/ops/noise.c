/* noise.c - y = x + stddev z, z standard normal: training only. */
#include "kernels/draw.h"

enum { STDDEV };

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const float stddev = (float)op->attr[STDDEV];
    const int64_t end = tile_end(tile, fn_ld(call, op->out[0]));
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int64_t c = tile.c0 / DRAW_BLOCK * DRAW_BLOCK; c < end; c += DRAW_BLOCK) {
            float z[DRAW_BLOCK];
            draw_normals(call, op, r, c, z);
            const int64_t low = c < tile.c0 ? tile.c0 : c;
            const int64_t high = c + DRAW_BLOCK < end ? c + DRAW_BLOCK : end;
            for (int64_t i = low; i < high; i++) y[i] = x[i] + stddev * z[i - c];
        }
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t end = tile_end(tile, fn_ld(call, op->out[0]));
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        copy_columns(tile.c0, end, dy, dx);
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!(op->attr[STDDEV] >= 0)) return "the standard deviation is negative";
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    op->flops = 60.0 * (double)plan->buffers[op->in[0]].cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"stddev", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(noise) = {
    .attributes = attributes,
    .n_attributes = 1,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE,
    .check = check,
    .forward = forward,
    .backward = backward,
};
