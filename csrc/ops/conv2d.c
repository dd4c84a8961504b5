/* conv2d.c - y (oh, ow, oc) = convolution of x (h, w, c) with W (kh, kw, c / groups, oc), plus b
 * (oc).
 *
 * Rows of two axes (steps, c) with W (k, c / groups, oc) are pictures of one row. Tiles, borders
 * and the order of sums: kernels/conv.c. Every picture is computed by itself, so a row has the same
 * bits in any batch.
 */
#include "kernels/conv.h"

static conv_shape shape_of(const fn_plan *plan, const fn_op *op) {
    return FN_LEVELED(conv_shape)(plan, op, op->in[0], op->out[0]);
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    const float *w = fn_weights(call, op, 0),
                *b = op->n_params > 1 ? fn_weights(call, op, 1) : NULL;
    float *scratch = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        FN_LEVELED(conv_forward)(&s, x, w, b, fn_row(call, tile, op->out[0], r), scratch);
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    const float *turned = FN_LEVELED(conv_turned_now)(call, op, tile, &s);
    float *scratch = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        FN_LEVELED(conv_backward)(&s, dy, turned, NULL, dx, scratch);
    }
}

static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    float *g = fn_lane(call, op, tile.lane), *bias = g + fn_lane_offset(call->plan, op, 1);
    float *scratch = fn_scratch(call, tile);
    bool first = tile.first;
    for (int r = tile.r0; r < tile.r1; r++, first = false) {
        const float *x = fn_row(call, tile, op->in[0], r);
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        FN_LEVELED(conv_weights)(&s, first, x, dy, g, scratch);
        if (op->n_params > 1) FN_LEVELED(conv_bias)((int64_t)s.oh * s.ow, s.oc, first, dy, bias);
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const char *problem = FN_LEVELED(conv_check)(plan, op, op->in[0], op->out[0]);
    if (problem) return problem;
    const conv_shape s = shape_of(plan, op);
    if (op->n_params > 1 && plan->params[op->params[1]].count != s.oc)
        return "the bias has another size than the channels";
    fn_param *w = &plan->params[op->params[0]];
    const bool train = plan->options.mode == FN_TRAIN;
    w->layout = FN_LAYOUT_PANELS;
    op->flops = 2.0 * (double)w->count * s.oh * s.ow;
    op->scratch = FN_LEVELED(conv_scratch)(&s, train);
    if (train) op->local = FN_LEVELED(conv_turned)(&s) + FN_PAD;
    return NULL;
}

const fn_op_impl FN_LEVELED(conv2d) = {
    .attributes = FN_LEVELED(conv_attributes),
    .n_attributes = CONV_ATTRIBUTES,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 2,
    .flags = FN_NEEDS_INPUT,
    .check = check,
    .forward = forward,
    .backward = backward,
    .gradient = gradient,
};
