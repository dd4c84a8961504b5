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
    const float *w = fn_weights(call, op, 0), *b = fn_bias(call, op);
    float *scratch = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        FN_LEVELED(conv_forward)(&s, x, w, b, fn_row(call, tile, op->out[0], r), scratch);
    }
}

/* Weights by channel, of this step; behind the turned ones. */
static const float *spread_now(const fn_call *call, const fn_op *op, fn_tile tile,
                               const conv_shape *s) {
    float *stamp = fn_scratch(call, tile) + call->plan->scratch + op->local_offset + op->local;
    stamp -= FN_LEVELED(conv_spread)(s) + FN_PAD;
    if (!fn_made_now(call, stamp))
        FN_LEVELED(conv_spread_weights)(s, fn_weights(call, op, 0), stamp + FN_PAD);
    return stamp + FN_PAD;
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    const bool fits = FN_LEVELED(conv_spread)(&s) > 0;
    float *scratch = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        if (fits && FN_LEVELED(conv_mostly_zero)(&s, dy))
            FN_LEVELED(conv_backward_sparse)(&s, dy, spread_now(call, op, tile, &s), dx, scratch);
        else
            FN_LEVELED(conv_backward)(&s, dy, FN_LEVELED(conv_turned_now)(call, op, tile, &s), NULL,
                                      dx, scratch);
    }
}

/* All of the tile's pictures are mostly zeros. */
static bool mostly_zero(const fn_call *call, const fn_op *op, fn_tile tile, const conv_shape *s) {
    if (!FN_LEVELED(conv_spread)(s)) return false;
    for (int r = tile.r0; r < tile.r1; r++)
        if (!FN_LEVELED(conv_mostly_zero)(s, fn_gradient_row(call, tile, op->out[0], r)))
            return false;
    return true;
}

static void gradient_sparse(const fn_call *call, const fn_op *op, fn_tile tile, const conv_shape *s,
                            float *g) {
    float *sums = fn_scratch(call, tile), *scratch = sums + FN_LEVELED(conv_spread)(s);
    if (tile.first)
        memset(sums, 0, FN_LEVELED(conv_spread)(s) * sizeof *sums);
    else
        FN_LEVELED(conv_spread_weights)(s, g, sums);
    for (int r = tile.r0; r < tile.r1; r++)
        FN_LEVELED(conv_weights_sparse)(s, fn_row(call, tile, op->in[0], r),
                                        fn_gradient_row(call, tile, op->out[0], r), sums, scratch);
    FN_LEVELED(conv_gather_weights)(s, sums, g);
}

static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    float *g = fn_lane(call, op, tile.lane), *bias = g + fn_lane_offset(call->plan, op, 1);
    float *scratch = fn_scratch(call, tile);
    const bool sparse = mostly_zero(call, op, tile, &s);
    bool first = tile.first;
    if (sparse) gradient_sparse(call, op, tile, &s, g);
    for (int r = tile.r0; r < tile.r1; r++, first = false) {
        const float *x = fn_row(call, tile, op->in[0], r);
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        if (!sparse) FN_LEVELED(conv_weights)(&s, first, x, dy, g, scratch);
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
    if (!train) return NULL;
    const size_t sparse = FN_LEVELED(conv_sparse_scratch)(&s);
    if (sparse > op->scratch) op->scratch = sparse;
    op->local = (FN_LEVELED(conv_turned)(&s) + 2 * FN_PAD - 1) / FN_PAD * FN_PAD;
    if (sparse) op->local += FN_LEVELED(conv_spread)(&s) + FN_PAD;
    return NULL;
}

const fn_op_impl FN_LEVELED(conv2d) = {
    .attributes = FN_LEVELED(conv_attributes),
    .n_attributes = CONV_ATTRIBUTES,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 2,
    .flags = FN_NEEDS_INPUT | FN_FOLDS,
    .check = check,
    .forward = forward,
    .backward = backward,
    .gradient = gradient,
};
