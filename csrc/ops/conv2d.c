/* conv2d.c - y (oh, ow, oc) = convolution of x (h, w, c) with W (kh, kw, c / groups, oc), plus b (oc).
 *
 * Rows of two axes (steps, c) with W (k, c / groups, oc) are pictures of one row. Tiles, borders and
 * the order of sums: kernels/conv.h. Every picture is computed by itself, so a row has the same bits
 * in any batch. The way back wants other weights, turned round once a minibatch (`prepare`).
 */
#include "kernels/conv.h"

enum { STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, TOP, LEFT, GROUPS };

static conv_shape shape_of(const fn_plan *plan, const fn_op *op) {
    const fn_buffer *x = &plan->buffers[op->in[0]], *y = &plan->buffers[op->out[0]];
    const fn_param *w = &plan->params[op->params[0]];
    const bool flat = x->rank == 2;
    return (conv_shape){.h = flat ? 1 : (int)x->shape[0],
                        .w = (int)x->shape[flat ? 0 : 1],
                        .c = (int)x->shape[flat ? 1 : 2],
                        .oh = flat ? 1 : (int)y->shape[0],
                        .ow = (int)y->shape[flat ? 0 : 1],
                        .oc = (int)y->shape[flat ? 1 : 2],
                        .kh = flat ? 1 : (int)w->shape[0],
                        .kw = (int)w->shape[flat ? 0 : 1],
                        .sh = (int)op->attr[STRIDE_H],
                        .sw = (int)op->attr[STRIDE_W],
                        .dh = (int)op->attr[DILATION_H],
                        .dw = (int)op->attr[DILATION_W],
                        .top = (int)op->attr[TOP],
                        .left = (int)op->attr[LEFT],
                        .groups = (int)op->attr[GROUPS]};
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    const float *w = fn_weights(call, op, 0), *b = op->n_params > 1 ? fn_weights(call, op, 1) : NULL;
    for (int r = tile.r0; r < tile.r1; r++)
        FN_LEVELED(conv_forward)
    (&s, fn_row(call, tile, op->in[0], r), w, b, fn_row(call, tile, op->out[0], r),
     fn_scratch(call, tile));
}

static float *turned(const fn_call *call, const fn_op *op) {
    return (float *)(call->work->arena + op->copy_offset);
}

static void prepare(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    for (int i = tile.c0; i < tile.c1; i++)
        FN_LEVELED(conv_turn)(&s, fn_weights(call, op, 0), turned(call, op), i);
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    for (int r = tile.r0; r < tile.r1; r++)
        FN_LEVELED(conv_backward)
    (&s, fn_gradient_row(call, tile, op->out[0], r), turned(call, op), NULL,
     fn_gradient_row(call, tile, op->in[0], r), fn_scratch(call, tile));
}

static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const conv_shape s = shape_of(call->plan, op);
    float *lane = fn_lane(call, op, tile.lane);
    for (int r = tile.r0; r < tile.r1; r++) {
        const bool first = tile.first && r == tile.r0;
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        FN_LEVELED(conv_weights)
        (&s, first, fn_row(call, tile, op->in[0], r), dy, lane, fn_scratch(call, tile));
        if (op->n_params > 1)
            FN_LEVELED(conv_bias)
        ((int64_t)s.oh * s.ow, s.oc, first, dy, lane + fn_lane_offset(call->plan, op, 1));
    }
}

/* Attributes are whole numbers of at least `low`. */
static bool whole(const fn_op *op, int from, int to, double low) {
    for (int i = from; i <= to; i++)
        if (!(op->attr[i] >= low && op->attr[i] <= 1 << 20 && op->attr[i] == (int)op->attr[i]))
            return false;
    return true;
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!fn_is_f32(plan, op->in[0]) || !fn_is_f32(plan, op->out[0])) return "float32 rows are wanted";
    if (op->n_params < 1) return "a kernel is wanted";
    const fn_buffer *x = &plan->buffers[op->in[0]], *y = &plan->buffers[op->out[0]];
    fn_param *w = &plan->params[op->params[0]];
    if ((x->rank != 2 && x->rank != 3) || y->rank != x->rank || w->rank != x->rank + 1)
        return "rows are (h, w, c) and the kernel (kh, kw, c, filters), or (steps, c) and (k, c, "
               "filters)";
    if (!whole(op, STRIDE_H, DILATION_W, 1) || !whole(op, TOP, LEFT, 0) ||
        !whole(op, GROUPS, GROUPS, 1))
        return "strides, dilations and groups are whole numbers from 1 on, padding from 0";
    const conv_shape s = shape_of(plan, op);
    if (s.c % s.groups || s.oc % s.groups || w->shape[w->rank - 2] != s.c / s.groups ||
        w->shape[w->rank - 1] != s.oc)
        return "channels of rows, groups and kernel do not fit";
    if (op->n_params > 1 && plan->params[op->params[1]].count != s.oc)
        return "the bias has another size than the channels";
    const bool train = plan->options.mode == FN_TRAIN;
    w->layout = FN_LAYOUT_PANELS;
    op->flops = 2.0 * (double)w->count * s.oh * s.ow;
    op->scratch = FN_LEVELED(conv_scratch)(&s, train);
    op->lane = 1;
    if (train && !(plan->ops[x->producer].flags & FN_SOURCE)) {
        op->copy_bytes = FN_LEVELED(conv_turned)(&s) * sizeof(float);
        op->slices = FN_LEVELED(conv_turn_slices)(&s);
    }
    return NULL;
}

static const fn_attribute attributes[] = {
    {"stride_h", FN_ATTR_NUMBER, 1},   {"stride_w", FN_ATTR_NUMBER, 1},
    {"dilation_h", FN_ATTR_NUMBER, 1}, {"dilation_w", FN_ATTR_NUMBER, 1},
    {"pad_top", FN_ATTR_NUMBER, 0},    {"pad_left", FN_ATTR_NUMBER, 0},
    {"groups", FN_ATTR_NUMBER, 1},
};

const fn_op_impl FN_LEVELED(conv2d) = {
    .attributes = attributes,
    .n_attributes = 7,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 2,
    .flags = FN_NEEDS_INPUT,
    .check = check,
    .forward = forward,
    .prepare = prepare,
    .backward = backward,
    .gradient = gradient,
};
