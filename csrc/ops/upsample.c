/* upsample.c - an image made larger by whole factors; x (h, w, c) -> y (h * fh, w * fw, c). Nearest
 * repeats pixels. Bilinear takes pixel centres at half steps and repeats the border, as Keras does:
 * output i lies at (i + 1/2) / f - 1/2 of the input. Lines are blended first, then pixels in a
 * line.
 */
#include "kernels/image.h"

enum { FACTOR_H, FACTOR_W, BILINEAR };

/* Output i lies between inputs lo and hi, `part` of the way. */
typedef struct {
    int lo, hi;
    float part;
} between;

static between place_of(int i, int factor, int n) {
    const float at = ((float)(2 * i % (2 * factor) + 1) - (float)factor) / (float)(2 * factor);
    const int pixel = i / factor; /* its place is pixel + at, -1/2 < at < 1/2 */
    if (at < 0) return (between){larger(pixel - 1, 0), pixel, 1 + at};
    return (between){pixel, smaller(pixel + 1, n - 1), at};
}

/* ---- one line, n floats ---- */

static void blend_lines(int64_t n, const float *a, const float *b, float part, float *y) {
    for (int64_t t = 0; t < n; t++) y[t] = a[t] + (b[t] - a[t]) * part;
}

static void blend_pixels(int w, int factor, int c, const float *x, float *y) {
    for (int j = 0; j < w * factor; j++, y += c) {
        const between p = place_of(j, factor, w);
        blend_lines(c, x + (int64_t)p.lo * c, x + (int64_t)p.hi * c, p.part, y);
    }
}

static void blend_pixels_back(int w, int factor, int c, const float *dy, float *dx) {
    clear((int64_t)w * c, dx);
    for (int j = 0; j < w * factor; j++, dy += c) {
        const between p = place_of(j, factor, w);
        float *a = dx + (int64_t)p.lo * c, *b = dx + (int64_t)p.hi * c;
        for (int k = 0; k < c; k++) a[k] += dy[k] * (1 - p.part);
        for (int k = 0; k < c; k++) b[k] += dy[k] * p.part;
    }
}

static void repeat_pixels(int w, int factor, int c, const float *x, float *y) {
    for (int j = 0; j < w; j++, x += c)
        for (int f = 0; f < factor; f++, y += c)
            for (int k = 0; k < c; k++) y[k] = x[k];
}

/* dx += the sums of `factor` pixels each. */
static void repeat_pixels_back(int w, int factor, int c, const float *dy, float *dx) {
    for (int j = 0; j < w; j++, dx += c)
        for (int f = 0; f < factor; f++, dy += c)
            for (int k = 0; k < c; k++) dx[k] += dy[k];
}

/* ---- images ---- */

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const image in = image_of(&call->plan->buffers[op->in[0]]);
    const int fh = (int)op->attr[FACTOR_H], fw = (int)op->attr[FACTOR_W];
    const int64_t line = (int64_t)in.w * in.c, wide = line * fw;
    float *blended = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int i = 0; i < in.h * fh; i++, y += wide) {
            if (op->attr[BILINEAR] != 0) {
                const between p = place_of(i, fh, in.h);
                blend_lines(line, x + p.lo * line, x + p.hi * line, p.part, blended);
                blend_pixels(in.w, fw, in.c, blended, y);
            } else if (i % fh == 0) {
                repeat_pixels(in.w, fw, in.c, x + i / fh * line, y);
            } else {
                memcpy(y, y - wide, (size_t)wide * sizeof(float));
            }
        }
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const image in = image_of(&call->plan->buffers[op->in[0]]);
    const int fh = (int)op->attr[FACTOR_H], fw = (int)op->attr[FACTOR_W];
    const int64_t line = (int64_t)in.w * in.c, wide = line * fw;
    float *sums = fn_scratch(call, tile);
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        clear(in.h * line, dx);
        for (int i = 0; i < in.h * fh; i++, dy += wide) {
            if (op->attr[BILINEAR] == 0) {
                repeat_pixels_back(in.w, fw, in.c, dy, dx + i / fh * line);
                continue;
            }
            const between p = place_of(i, fh, in.h);
            float *a = dx + p.lo * line, *b = dx + p.hi * line;
            blend_pixels_back(in.w, fw, in.c, dy, sums);
            for (int64_t t = 0; t < line; t++) a[t] += sums[t] * (1 - p.part);
            for (int64_t t = 0; t < line; t++) b[t] += sums[t] * p.part;
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!is_image(plan, op->in[0]) || !is_image(plan, op->out[0]))
        return "float32 rows of shape (h, w, c) are wanted";
    const image in = image_of(&plan->buffers[op->in[0]]),
                out = image_of(&plan->buffers[op->out[0]]);
    if (in.c != out.c || in.h * op->attr[FACTOR_H] != out.h || in.w * op->attr[FACTOR_W] != out.w)
        return "the output has another size than input times factors";
    op->flops = (op->attr[BILINEAR] != 0 ? 6 : 1) * (double)plan->buffers[op->out[0]].cols;
    op->scratch = (size_t)in.w * (size_t)in.c + FN_PAD;
    return NULL;
}

static const fn_attribute attributes[] = {{"factor_h", FN_ATTR_NUMBER, 1},
                                          {"factor_w", FN_ATTR_NUMBER, 1},
                                          {"bilinear", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(upsample) = {
    .attributes = attributes,
    .n_attributes = 3,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_CHEAP,
    .check = check,
    .forward = forward,
    .backward = backward,
};
