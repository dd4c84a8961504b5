/* conv.c - convolutions of one picture, by the tiles of conv_tiles.h and conv_gradient.h.
 *
 * Borders: a copy of the source with zeros around it, one pass through L1 or L2, so that no tile
 * knows of them. The way back is a convolution of dy with the taps turned round; with strides, one
 * for each place of a pixel between the taps ("phase"), with the taps that meet it.
 */
#include "kernels/conv_frame.h"
#include "kernels/conv_gradient.h"
#include "kernels/conv_tiles.h"

/* ---- all panels of a picture ---- */

static void forward_panel(int width, const conv_map *m, const float *x, const float *w,
                          const float *bias, float *y, int used) {
    if (width == PANEL)
        conv_panel(2, m, x, w, bias, y, used);
    else
        conv_panel(1, m, x, w, bias, y, used);
}

static void forward_picture(const conv_map *m, const float *x, const float *w, const float *bias,
                            float *y) {
    const int64_t depth = conv_depth(m);
    for (int64_t c = 0; c < m->channels; c += PANEL) {
        const int width = fn_panel_width(m->channels, c, LANES);
        const int64_t left = m->channels - c;
        forward_panel(width, m, x, w + c * depth, bias ? bias + c : NULL, y + c,
                      left < width ? (int)left : width);
    }
}

static void weights_panel(int width, const conv_map *m, bool first, int rows, const float *x,
                          const float *dy, float *g) {
    if (width == PANEL)
        gradient_panel(2, m, first, rows, x, dy, g);
    else
        gradient_panel(1, m, first, rows, x, dy, g);
}

/* Blocks of rows, so that their part of the source and of dy stays in L1 while all of g goes by. */
static void weights_picture(const conv_map *m, bool first, const float *x, const float *dy,
                            float *g) {
    const int64_t depth = conv_depth(m);
    const int many = (BLOCK_PIXELS + m->cols - 1) / m->cols, fits = (int)(BLOCK_FLOATS / m->x_row);
    const int block = many > fits ? many : fits;
    for (int r = 0; r < m->rows; r += block)
        for (int64_t c = 0; c < m->channels; c += PANEL)
            weights_panel(fn_panel_width(m->channels, c, LANES), m, first && r == 0,
                          at_most(block, m->rows - r), x + r * m->x_row, dy + r * m->y_row + c,
                          g + c * depth);
}

/* ---- groups: whole panels are computed beside, and the group's own columns are kept ---- */

static void forward_group(const conv_map *m, int64_t low, int64_t high, const float *x,
                          const float *w, const float *bias, float *y, float *beside) {
    const int64_t depth = conv_depth(m);
    for (int64_t c = low / PANEL * PANEL; c < high; c += PANEL) {
        const int width = fn_panel_width(m->channels, c, LANES);
        conv_map part = *m;
        part.y_col = width;
        part.y_row = (int64_t)m->cols * width;
        const float *bias_at = bias ? bias + c : NULL;
        forward_panel(width, &part, x, w + c * depth, bias_at, beside, width);
        const int64_t from = c > low ? c : low, to = c + width < high ? c + width : high;
        for (int r = 0; r < m->rows; r++)
            for (int p = 0; p < m->cols; p++)
                for (int64_t k = from; k < to; k++)
                    y[r * m->y_row + p * m->y_col + k] =
                        beside[r * part.y_row + p * part.y_col + k - c];
    }
}

static void weights_group(const conv_map *m, int64_t low, int64_t high, bool first, const float *x,
                          const float *dy, float *g, float *beside) {
    const int64_t depth = conv_depth(m);
    for (int64_t c = low / PANEL * PANEL; c < high; c += PANEL) {
        const int width = fn_panel_width(m->channels, c, LANES);
        weights_panel(width, m, true, m->rows, x, dy + c, beside);
        const int64_t from = c > low ? c : low, to = c + width < high ? c + width : high;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t j = from - c; j < to - c; j++) {
                float *at = g + c * depth + k * width + j;
                *at = (first ? 0 : *at) + beside[k * width + j];
            }
    }
}

/* ---- forward ---- */

void FN_LEVELED(conv_forward)(const conv_shape *s, const float *x, const float *weights,
                              const float *bias, float *y, float *scratch) {
    const picture source = framed_source(s, x, scratch);
    const conv_map m = forward_map(s, source.row);
    if (s->groups == 1) {
        forward_picture(&m, source.pixels, weights, bias, y);
        return;
    }
    float *beside = scratch + (int64_t)source_height(s) * source_width(s) * s->c;
    const int in = s->c / s->groups, out = s->oc / s->groups;
    for (int g = 0; g < s->groups; g++)
        forward_group(&m, (int64_t)g * out, (int64_t)(g + 1) * out, source.pixels + g * in, weights,
                      bias, y, beside);
}

/* ---- back to the source ---- */

/* Along one axis: pixels start, start + stride, ... of the source meet taps last, last - step, ...
 * (`taps` of them), the first at dy[first], the next `beside` further, in order of dy. */
typedef struct {
    int start, pixels, taps, last, step, first, beside;
} phase;

static phase phase_of(int start, int size, int taps, int stride, int dilation, int before) {
    phase p = {.start = start, .pixels = (size - start + stride - 1) / stride};
    int previous = -1;
    for (int k = 0; k < taps; k++) {
        if ((start + before - k * dilation) % stride) continue;
        if (previous >= 0) p.step = k - previous;
        previous = p.last = k;
        p.taps++;
    }
    p.first = (start + before - p.last * dilation) / stride;
    p.beside = p.step * dilation / stride;
    return p;
}

/* Rows of zeros that dy needs before and behind it, over all phases. */
static void frame_of(int size, int taps, int stride, int dilation, int before, int *front,
                     int *length) {
    int low = 0, high = 1;
    for (int i = 0; i < stride && i < size; i++) {
        const phase p = phase_of(i, size, taps, stride, dilation, before);
        if (!p.taps) continue;
        const int end = p.first + (p.taps - 1) * p.beside + p.pixels;
        low = p.first < low ? p.first : low;
        high = end > high ? end : high;
    }
    *front = -low;
    *length = high - low;
}

static phase rows_phase(const conv_shape *s, int i) {
    return phase_of(i, s->h, s->kh, s->sh, s->dh, s->top);
}
static phase cols_phase(const conv_shape *s, int i) {
    return phase_of(i, s->w, s->kw, s->sw, s->dw, s->left);
}

static void dy_frame(const conv_shape *s, int *top, int *left, int *height, int *width) {
    frame_of(s->h, s->kh, s->sh, s->dh, s->top, top, height);
    frame_of(s->w, s->kw, s->sw, s->dw, s->left, left, width);
}

/* Columns of a group's channels in panels. */
static int64_t panel_columns(int64_t n) {
    const int64_t last = (n - 1) / PANEL * PANEL;
    return last + fn_panel_width(n, last, LANES);
}

size_t FN_LEVELED(conv_turned)(const conv_shape *s) {
    return (size_t)(panel_columns(s->c / s->groups) * s->oc * s->kh * s->kw);
}

/* The weights of one phase, group and panel of c, as dy's runs meet them: [tap][oc][width]. */
static void turn_panel(const conv_shape *s, phase a, phase b, int group, int64_t c, int width,
                       const float *weights, float *turned) {
    const int in = s->c / s->groups, out = s->oc / s->groups;
    const int used = in - c < width ? (int)(in - c) : width;
    const int64_t depth = (int64_t)s->kh * s->kw * in;
    for (int i = 0; i < a.taps; i++)
        for (int j = 0; j < b.taps; j++) {
            const int64_t tap = (a.last - i * a.step) * s->kw + b.last - j * b.step;
            for (int64_t o = (int64_t)group * out; o < (int64_t)(group + 1) * out; o++) {
                const int64_t start = o / PANEL * PANEL;
                const int from_width = fn_panel_width(s->oc, o, LANES);
                const float *from =
                    weights + start * depth + (tap * in + c) * from_width + o - start;
                for (int k = 0; k < used; k++) turned[k] = from[(int64_t)k * from_width];
                for (int k = used; k < width; k++) turned[k] = 0;
                turned += width;
            }
        }
}

/* turned: [phase][group][panel][tap][oc of the group][width]. */
static int64_t turned_floats(const conv_shape *s, phase a, phase b) {
    return panel_columns(s->c / s->groups) * s->oc * a.taps * b.taps;
}

void FN_LEVELED(conv_turn)(const conv_shape *s, const float *weights, float *turned) {
    const int in = s->c / s->groups;
    const int64_t out = s->oc / s->groups;
    for (int i = 0; i < s->sh && i < s->h; i++)
        for (int j = 0; j < s->sw && j < s->w; j++) {
            const phase a = rows_phase(s, i), b = cols_phase(s, j);
            for (int g = 0; g < s->groups; g++)
                for (int64_t c = 0; c < in; c += PANEL)
                    turn_panel(s, a, b, g, c, fn_panel_width(in, c, LANES), weights,
                               turned + (panel_columns(in) * g + c) * out * a.taps * b.taps);
            turned += turned_floats(s, a, b);
        }
}

void FN_LEVELED(conv_backward)(const conv_shape *s, const float *dy, const float *turned,
                               const float *bias, float *dx, float *scratch) {
    int top, left, height, width;
    dy_frame(s, &top, &left, &height, &width);
    const picture from = framed(dy, s->oh, s->ow, s->oc, top, left, height, width, scratch);
    const int in = s->c / s->groups, out = s->oc / s->groups;
    for (int i = 0; i < s->sh && i < s->h; i++)
        for (int j = 0; j < s->sw && j < s->w; j++) {
            const phase a = rows_phase(s, i), b = cols_phase(s, j);
            const bool touching = b.beside == 1 && s->groups == 1;
            const conv_map m = {.rows = a.pixels,
                                .cols = b.pixels,
                                .taps_h = a.taps,
                                .taps_w = touching ? 1 : b.taps,
                                .run = touching ? (int64_t)b.taps * s->oc : out,
                                .x_row = from.row,
                                .x_col = s->oc,
                                .y_row = (int64_t)s->sh * s->w * s->c,
                                .y_col = (int64_t)s->sw * s->c,
                                .tap_row = a.beside * from.row,
                                .tap_col = (int64_t)b.beside * s->oc,
                                .channels = in};
            const float *x = from.pixels;
            if (a.taps && b.taps)
                x += (a.first + top) * from.row + (int64_t)(b.first + left) * s->oc;
            float *y = dx + ((int64_t)i * s->w + j) * s->c;
            for (int g = 0; g < s->groups; g++)
                forward_picture(&m, x + g * out,
                                turned + panel_columns(in) * g * out * a.taps * b.taps, bias,
                                y + g * in);
            turned += turned_floats(s, a, b);
        }
}

/* ---- to the weights ---- */

/* dy with whole vectors of channels a pixel, zeros in the last: what lanes without a channel sum.
 */
static const float *whole_vectors(const conv_shape *s, const float *dy, int64_t columns,
                                  float *copy) {
    if (columns == s->oc) return dy;
    for (int64_t p = 0; p < (int64_t)s->oh * s->ow; p++)
        for (int64_t c = 0; c < columns; c++)
            copy[p * columns + c] = c < s->oc ? dy[p * s->oc + c] : 0;
    return copy;
}

void FN_LEVELED(conv_weights)(const conv_shape *s, bool first, const float *x, const float *dy,
                              float *g, float *scratch) {
    const picture source = framed_source(s, x, scratch);
    scratch += (int64_t)source_height(s) * source_width(s) * s->c;
    conv_map m = forward_map(s, source.row);
    const int64_t columns = panel_columns(s->oc);
    dy = whole_vectors(s, dy, columns, scratch);
    m.y_col = columns;
    m.y_row = s->ow * columns;
    if (s->groups == 1) {
        weights_picture(&m, first, source.pixels, dy, g);
        return;
    }
    scratch += s->oh * m.y_row;
    const int in = s->c / s->groups, out = s->oc / s->groups;
    for (int i = 0; i < s->groups; i++)
        weights_group(&m, (int64_t)i * out, (int64_t)(i + 1) * out, first, source.pixels + i * in,
                      dy, g, scratch);
}

/* Four sums a vector, over every fourth pixel, then added in pairs: additions take time. */
void FN_LEVELED(conv_bias)(int64_t pixels, int channels, bool first, const float *dy, float *g) {
    int c = 0;
    for (; c + LANES <= channels; c += LANES) {
        vf sum[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
        int64_t p = 0;
        for (; p + 4 <= pixels; p += 4)
            for (int i = 0; i < 4; i++) sum[i] += v_load(dy + (p + i) * channels + c);
        for (int i = 0; p < pixels; p++, i++) sum[i] += v_load(dy + p * channels + c);
        const vf total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        v_store(g + c, first ? total : v_load(g + c) + total);
    }
    for (; c < channels; c++) {
        float total = 0;
        for (int64_t p = 0; p < pixels; p++) total += dy[p * channels + c];
        g[c] = first ? total : g[c] + total;
    }
}

/* ---- what ops share ---- */

const fn_attribute FN_LEVELED(conv_attributes)[CONV_ATTRIBUTES] = {
    {"stride_h", FN_ATTR_NUMBER, 1},   {"stride_w", FN_ATTR_NUMBER, 1},
    {"dilation_h", FN_ATTR_NUMBER, 1}, {"dilation_w", FN_ATTR_NUMBER, 1},
    {"top", FN_ATTR_NUMBER, 0},        {"left", FN_ATTR_NUMBER, 0},
    {"groups", FN_ATTR_NUMBER, 1},
};

/* Axis 0, 1 or 2 of a picture; one of two axes has one row. */
static int axis(const fn_buffer *b, int i) {
    return b->rank == 3 ? (int)b->shape[i] : i ? (int)b->shape[i - 1] : 1;
}

conv_shape FN_LEVELED(conv_shape)(const fn_plan *plan, const fn_op *op, int source, int result) {
    const fn_buffer *x = &plan->buffers[source], *y = &plan->buffers[result];
    const fn_param *w = &plan->params[op->params[0]];
    return (conv_shape){.h = axis(x, 0),
                        .w = axis(x, 1),
                        .c = axis(x, 2),
                        .oh = axis(y, 0),
                        .ow = axis(y, 1),
                        .oc = axis(y, 2),
                        .kh = w->rank == 4 ? (int)w->shape[0] : 1,
                        .kw = (int)w->shape[w->rank - 3],
                        .sh = (int)op->attr[CONV_STRIDE_H],
                        .sw = (int)op->attr[CONV_STRIDE_W],
                        .dh = (int)op->attr[CONV_DILATION_H],
                        .dw = (int)op->attr[CONV_DILATION_W],
                        .top = (int)op->attr[CONV_TOP],
                        .left = (int)op->attr[CONV_LEFT],
                        .groups = (int)op->attr[CONV_GROUPS]};
}

/* Attributes [from, to] are whole numbers of at least `low`. */
static bool whole(const fn_op *op, int from, int to, double low) {
    for (int i = from; i <= to; i++)
        if (!(op->attr[i] >= low && op->attr[i] <= 1 << 20 && op->attr[i] == (int)op->attr[i]))
            return false;
    return true;
}

const char *FN_LEVELED(conv_numbers)(const fn_op *op) {
    if (whole(op, CONV_STRIDE_H, CONV_DILATION_W, 1) && whole(op, CONV_TOP, CONV_LEFT, 0) &&
        whole(op, CONV_GROUPS, CONV_GROUPS, 1))
        return NULL;
    return "strides, dilations and groups are whole numbers from 1 on, padding from 0";
}

/* Places are computed in int, what a frame holds in int64_t. */
const char *FN_LEVELED(conv_size)(const conv_shape *s) {
    const int64_t high = (int64_t)(s->oh - 1) * s->sh + (int64_t)(s->kh - 1) * s->dh + 1,
                  wide = (int64_t)(s->ow - 1) * s->sw + (int64_t)(s->kw - 1) * s->dw + 1;
    const int64_t most = 1 << 24, channels = s->c > s->oc ? s->c : s->oc;
    if (high + s->h > most || wide + s->w > most ||
        (high + s->h) * (wide + s->w) > (1 << 28) / channels)
        return "the picture with its padding is too large";
    return NULL;
}

const char *FN_LEVELED(conv_check)(const fn_plan *plan, const fn_op *op, int source, int result) {
    if (!fn_is_f32(plan, source) || !fn_is_f32(plan, result)) return "float32 rows are wanted";
    if (op->n_params < 1) return "a kernel is wanted";
    const fn_buffer *x = &plan->buffers[source], *y = &plan->buffers[result];
    const fn_param *w = &plan->params[op->params[0]];
    if ((x->rank != 2 && x->rank != 3) || y->rank != x->rank || w->rank != x->rank + 1)
        return "rows of shape (h, w, channels) and a kernel of one axis more are wanted";
    const char *problem = FN_LEVELED(conv_numbers)(op);
    if (problem) return problem;
    const conv_shape s = FN_LEVELED(conv_shape)(plan, op, source, result);
    if (s.c % s.groups || s.oc % s.groups || w->shape[w->rank - 2] != s.c / s.groups ||
        w->shape[w->rank - 1] != s.oc)
        return "channels, groups and kernel do not fit each other";
    return FN_LEVELED(conv_size)(&s);
}

const float *FN_LEVELED(conv_turned_now)(const fn_call *call, const fn_op *op, fn_tile tile,
                                         const conv_shape *s) {
    bool fresh;
    float *turned = fn_local(call, op, tile, &fresh);
    if (!fresh) FN_LEVELED(conv_turn)(s, fn_weights(call, op, 0), turned);
    return turned;
}

/* ---- sizes ---- */

size_t FN_LEVELED(conv_scratch)(const conv_shape *s, bool train) {
    const size_t source = (size_t)source_height(s) * (size_t)source_width(s) * (size_t)s->c;
    const size_t pixels = (size_t)s->oh * (size_t)s->ow;
    size_t forward = source + (s->groups > 1 ? pixels * PANEL : 0);
    if (!train) return forward;
    int top, left, height, width;
    dy_frame(s, &top, &left, &height, &width);
    const size_t backward = (size_t)height * (size_t)width * (size_t)s->oc;
    const size_t depth = (size_t)s->kh * (size_t)s->kw * (size_t)(s->c / s->groups);
    const size_t weights = source + pixels * (size_t)panel_columns(s->oc) + depth * PANEL;
    if (backward > forward) forward = backward;
    return weights > forward ? weights : forward;
}
