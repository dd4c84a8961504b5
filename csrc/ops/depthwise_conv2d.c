/* depthwise_conv2d.c - every channel by itself: y (oh, ow, c * m) from x (h, w, c) and
 * W (kh, kw, c, m), plus b (c * m); output channel k * m + j is channel k with weights [.., k, j].
 *
 * A copy of the picture with zeros around it has each channel m times, and whole vectors of
 * channels: so all is lane by lane. A pixel is summed over its taps in order, from the bias.
 */
#include "kernels/conv.h"

enum { PIXELS = 4, TAPS = 4 };

typedef struct {
    conv_shape s; /* c and oc: c * m */
    int channels, m;
    int height, width;
    int64_t lanes; /* channels in whole vectors */
} depthwise;

static depthwise shape_of(const fn_plan *plan, const fn_op *op) {
    depthwise d = {.s = FN_LEVELED(conv_shape)(plan, op, op->in[0], op->out[0]),
                   .channels = (int)plan->buffers[op->in[0]].shape[2],
                   .m = (int)plan->params[op->params[0]].shape[3]};
    d.s.c = d.s.oc;
    d.s.groups = 1;
    d.height = (d.s.oh - 1) * d.s.sh + (d.s.kh - 1) * d.s.dh + 1;
    d.width = (d.s.ow - 1) * d.s.sw + (d.s.kw - 1) * d.s.dw + 1;
    d.lanes = (d.s.oc + LANES - 1) / LANES * LANES;
    return d;
}

/* ---- copies in whole vectors ---- */

/* Where pixel (r, p) of the picture lies in the copy; NULL: outside. */
static float *place(const depthwise *d, float *copy, int r, int p) {
    const int row = r + d->s.top, column = p + d->s.left;
    if (row >= d->height || column >= d->width) return NULL;
    return copy + ((int64_t)row * d->width + column) * d->lanes;
}

static void spread(const depthwise *d, const float *x, float *copy) {
    memset(copy, 0, (size_t)d->height * (size_t)d->width * (size_t)d->lanes * sizeof(float));
    for (int r = 0; r < d->s.h; r++)
        for (int p = 0; p < d->s.w; p++, x += d->channels) {
            float *to = place(d, copy, r, p);
            if (to && d->m == 1) memcpy(to, x, (size_t)d->channels * sizeof(float));
            for (int c = 0, k = 0; to && d->m > 1 && c < d->channels; c++)
                for (int j = 0; j < d->m; j++) to[k++] = x[c];
        }
}

/* The way back: the copies of a channel are added in order. */
static void gather(const depthwise *d, float *copy, float *dx) {
    for (int r = 0; r < d->s.h; r++)
        for (int p = 0; p < d->s.w; p++, dx += d->channels) {
            const float *from = place(d, copy, r, p);
            if (from && d->m == 1) {
                memcpy(dx, from, (size_t)d->channels * sizeof(float));
                continue;
            }
            for (int c = 0, k = 0; c < d->channels; c++) {
                float sum = 0;
                for (int j = 0; from && j < d->m; j++) sum += from[k++];
                dx[c] = sum;
            }
        }
}

/* n pixels or taps of oc floats each, in whole vectors with zeros behind; x itself where it will
 * do. */
static const float *widen(const depthwise *d, int64_t n, const float *x, float *copy) {
    if (d->lanes == d->s.oc) return x;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < d->lanes; c++)
            copy[i * d->lanes + c] = c < d->s.oc ? x[i * d->s.oc + c] : 0;
    return copy;
}

/* ---- tiles ---- */

static int64_t tap_at(const depthwise *d, int tap) {
    const conv_shape *s = &d->s;
    return ((int64_t)(tap / s->kw) * s->dh * d->width + (int64_t)(tap % s->kw) * s->dw) * d->lanes;
}

FN_INLINE void forward_tile(int n, const depthwise *d, const float *x, const float *w,
                            const float *bias, float *y) {
    const conv_shape *s = &d->s;
    const int64_t beside = s->sw * d->lanes;
    vf sum[PIXELS];
    for (int i = 0; i < n; i++) sum[i] = bias ? v_load(bias) : v_set(0);
    for (int a = 0; a < s->kh; a++)
        for (int b = 0; b < s->kw; b++) {
            const float *from = x + ((int64_t)a * s->dh * d->width + b * s->dw) * d->lanes;
            const vf weight = v_load(w + (a * s->kw + b) * d->lanes);
            for (int i = 0; i < n; i++) sum[i] = v_fma(v_load(from + i * beside), weight, sum[i]);
        }
    for (int i = 0; i < n; i++) v_store(y + i * d->lanes, sum[i]);
}

/* All of y in whole vectors. */
static void forward_picture(const depthwise *d, const float *x, const float *w, const float *bias,
                            float *y) {
    const conv_shape *s = &d->s;
    for (int r = 0; r < s->oh; r++)
        for (int64_t c = 0; c < d->lanes; c += LANES) {
            const float *from = x + (int64_t)r * s->sh * d->width * d->lanes + c;
            const float *b = bias ? bias + c : NULL;
            float *to = y + (int64_t)r * s->ow * d->lanes + c;
            int p = 0;
            for (; p + PIXELS <= s->ow; p += PIXELS)
                forward_tile(PIXELS, d, from + p * s->sw * d->lanes, w + c, b, to + p * d->lanes);
            for (; p < s->ow; p++)
                forward_tile(1, d, from + p * s->sw * d->lanes, w + c, b, to + p * d->lanes);
        }
}

/* dx += dy * w for every pixel of dy in order, over its taps in order. */
static void backward_picture(const depthwise *d, const float *dy, const float *w, float *dx) {
    const conv_shape *s = &d->s;
    for (int r = 0; r < s->oh; r++)
        for (int p = 0; p < s->ow; p++, dy += d->lanes) {
            float *at = dx + ((int64_t)r * s->sh * d->width + (int64_t)p * s->sw) * d->lanes;
            for (int t = 0; t < s->kh * s->kw; t++) {
                float *to = at + tap_at(d, t);
                for (int64_t c = 0; c < d->lanes; c += LANES)
                    v_store(to + c,
                            v_fma(v_load(dy + c), v_load(w + t * d->lanes + c), v_load(to + c)));
            }
        }
}

FN_INLINE void gradient_taps(int n, const depthwise *d, int tap, const float *x, const float *dy,
                             float *g) {
    const conv_shape *s = &d->s;
    vf sum[TAPS];
    const float *from[TAPS];
    for (int i = 0; i < n; i++) sum[i] = v_set(0);
    for (int i = 0; i < n; i++) from[i] = x + tap_at(d, tap + i);
    for (int r = 0; r < s->oh; r++) {
        int64_t at = (int64_t)r * s->sh * d->width * d->lanes;
        for (int p = 0; p < s->ow; p++, at += s->sw * d->lanes, dy += d->lanes)
            for (int i = 0; i < n; i++) sum[i] = v_fma(v_load(from[i] + at), v_load(dy), sum[i]);
    }
    for (int i = 0; i < n; i++) v_store(g + (tap + i) * d->lanes, sum[i]);
}

/* g (taps, lanes): the picture's part of the gradient. */
static void gradient_picture(const depthwise *d, const float *x, const float *dy, float *g) {
    const int taps = d->s.kh * d->s.kw;
    for (int64_t c = 0; c < d->lanes; c += LANES) {
        int t = 0;
        for (; t + TAPS <= taps; t += TAPS) gradient_taps(TAPS, d, t, x + c, dy + c, g + c);
        for (; t < taps; t++) gradient_taps(1, d, t, x + c, dy + c, g + c);
    }
}

/* ---- the op ---- */

static size_t frame_size(const depthwise *d) {
    return (size_t)d->height * (size_t)d->width * (size_t)d->lanes;
}
static size_t result_size(const depthwise *d) {
    return (size_t)d->s.oh * (size_t)d->s.ow * (size_t)d->lanes;
}
static size_t kernel_size(const depthwise *d) {
    return (size_t)d->s.kh * (size_t)d->s.kw * (size_t)d->lanes;
}

static const float *wide_weights(const fn_call *call, const fn_op *op, const depthwise *d,
                                 float *copy) {
    return widen(d, (int64_t)d->s.kh * d->s.kw, fn_weights(call, op, 0), copy);
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const depthwise d = shape_of(call->plan, op);
    float *copy = fn_scratch(call, tile), *result = copy + frame_size(&d);
    const float *w = wide_weights(call, op, &d, result + result_size(&d));
    const float *b = fn_bias(call, op);
    for (int r = tile.r0; r < tile.r1; r++) {
        float *y = fn_row(call, tile, op->out[0], r);
        spread(&d, fn_row(call, tile, op->in[0], r), copy);
        if (d.lanes == d.s.oc) {
            forward_picture(&d, copy, w, b, y);
            continue;
        }
        forward_picture(&d, copy, w, b, result);
        for (int64_t p = 0; p < (int64_t)d.s.oh * d.s.ow; p++)
            memcpy(y + p * d.s.oc, result + p * d.lanes, (size_t)d.s.oc * sizeof(float));
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const depthwise d = shape_of(call->plan, op);
    float *copy = fn_scratch(call, tile), *wide = copy + frame_size(&d);
    const float *w = wide_weights(call, op, &d, wide + result_size(&d));
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        dy = widen(&d, (int64_t)d.s.oh * d.s.ow, dy, wide);
        memset(copy, 0, frame_size(&d) * sizeof(float));
        backward_picture(&d, dy, w, copy);
        gather(&d, copy, fn_gradient_row(call, tile, op->in[0], r));
    }
}

static void gradient(const fn_call *call, const fn_op *op, fn_tile tile) {
    const depthwise d = shape_of(call->plan, op);
    const int64_t taps = (int64_t)d.s.kh * d.s.kw, pixels = (int64_t)d.s.oh * d.s.ow;
    float *copy = fn_scratch(call, tile), *wide = copy + frame_size(&d);
    float *sums = wide + result_size(&d);
    float *g = fn_lane(call, op, tile.lane), *bias = g + fn_lane_offset(call->plan, op, 1);
    bool first = tile.first;
    for (int r = tile.r0; r < tile.r1; r++, first = false) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        spread(&d, fn_row(call, tile, op->in[0], r), copy);
        gradient_picture(&d, copy, widen(&d, pixels, dy, wide), sums);
        for (int64_t t = 0; t < taps; t++)
            for (int c = 0; c < d.s.oc; c++)
                g[t * d.s.oc + c] = (first ? 0 : g[t * d.s.oc + c]) + sums[t * d.lanes + c];
        if (op->n_params > 1) FN_LEVELED(conv_bias)(pixels, d.s.oc, first, dy, bias);
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    if (!fn_is_f32(plan, op->in[0]) || !fn_is_f32(plan, op->out[0]))
        return "float32 rows are wanted";
    if (op->n_params < 1) return "a kernel is wanted";
    const fn_buffer *x = &plan->buffers[op->in[0]], *y = &plan->buffers[op->out[0]];
    const fn_param *w = &plan->params[op->params[0]];
    if (x->rank != 3 || y->rank != 3 || w->rank != 4)
        return "rows of shape (h, w, channels) and a kernel of one axis more are wanted";
    const char *problem = FN_LEVELED(conv_numbers)(op);
    if (problem) return problem;
    if (w->shape[2] != x->shape[2] || y->shape[2] != w->shape[2] * w->shape[3] ||
        (op->n_params > 1 && plan->params[op->params[1]].count != y->shape[2]))
        return "channels, kernel and bias do not fit each other";
    const depthwise d = shape_of(plan, op);
    problem = FN_LEVELED(conv_size)(&d.s);
    if (problem) return problem;
    op->flops = 2.0 * (double)w->count * d.s.oh * d.s.ow;
    op->scratch = frame_size(&d) + result_size(&d) + kernel_size(&d);
    return NULL;
}

const fn_op_impl FN_LEVELED(depthwise_conv2d) = {
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
