/* pad.c - zeros around an image; where `top` or `left` are negative, or the output ends before the
 * input, the border is cut off instead. x (h, w, c) -> y (ho, wo, c); y[i, j] = x[i - top, j -
 * left].
 */
#include "kernels/image.h"

enum { TOP, LEFT };

/* to[i, j] = from[i - top, j - left], 0 where there is no such pixel. */
static void place(image in, image out, int top, int left, const float *from, float *to) {
    const size_t pixel = (size_t)in.c * sizeof(float);
    const int first = smaller(larger(left, 0), out.w),
              last = larger(smaller(in.w + left, out.w), first);
    for (int i = 0; i < out.h; i++, to += (size_t)out.w * (size_t)in.c) {
        const int y = i - top;
        if (y < 0 || y >= in.h) {
            memset(to, 0, (size_t)out.w * pixel);
            continue;
        }
        const float *line =
            from + ((size_t)y * (size_t)in.w + (size_t)(first - left)) * (size_t)in.c;
        memset(to, 0, (size_t)first * pixel);
        memcpy(to + (size_t)first * (size_t)in.c, line, (size_t)(last - first) * pixel);
        memset(to + (size_t)last * (size_t)in.c, 0, (size_t)(out.w - last) * pixel);
    }
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const image in = image_of(&call->plan->buffers[op->in[0]]),
                out = image_of(&call->plan->buffers[op->out[0]]);
    for (int r = tile.r0; r < tile.r1; r++)
        place(in, out, (int)op->attr[TOP], (int)op->attr[LEFT], fn_row(call, tile, op->in[0], r),
              fn_row(call, tile, op->out[0], r));
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const image in = image_of(&call->plan->buffers[op->in[0]]),
                out = image_of(&call->plan->buffers[op->out[0]]);
    for (int r = tile.r0; r < tile.r1; r++)
        place(out, in, -(int)op->attr[TOP], -(int)op->attr[LEFT],
              fn_gradient_row(call, tile, op->out[0], r),
              fn_gradient_row(call, tile, op->in[0], r));
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!is_image(plan, op->in[0]) || !is_image(plan, op->out[0]))
        return "float32 rows of shape (h, w, c) are wanted";
    const image in = image_of(&plan->buffers[op->in[0]]),
                out = image_of(&plan->buffers[op->out[0]]);
    if (in.c != out.c) return "input and output differ in channels";
    /* some pixel of the input is left */
    if (!(op->attr[TOP] > -in.h && op->attr[TOP] < out.h && op->attr[LEFT] > -in.w &&
          op->attr[LEFT] < out.w))
        return "nothing of the image is left";
    op->flops = (double)plan->buffers[op->out[0]].cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"top", FN_ATTR_NUMBER, 0}, {"left", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(pad) = {
    .attributes = attributes,
    .n_attributes = 2,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
