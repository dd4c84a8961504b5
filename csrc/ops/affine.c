/* affine.c - y (h, w, c) = x (H, W, c) resampled: pixel (i, j) is x at
 *
 *     (yy i + yx j + y0,  xy i + xx j + x0)
 *
 * by bilinear interpolation or the nearest pixel, with a rule for what lies outside. The map is
 * drawn for each image (flip, translate, rotate, zoom, crop), or is the same for all (resize).
 * Backward scatters along the same map: the transpose.
 */
#include "kernels/draw.h"

enum { KIND, LOW_Y, HIGH_Y, LOW_X, HIGH_X, FILL, FILL_VALUE, NEAREST };
enum { FLIP, TRANSLATE, ROTATE, ZOOM, CROP, RESIZE, KINDS };
enum { REFLECT, WRAP, CONSTANT, EDGE, FILLS };
enum { BLOCK = 64 }; /* pixels whose places are computed at once */

typedef struct {
    double yy, yx, y0, xy, xx, x0;
    bool whole; /* it moves and mirrors by whole pixels, all of them inside */
} map;

typedef struct {
    int64_t height, width, out_height, out_width, channels;
} sizes;

static sizes sizes_of(const fn_plan *plan, const fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    return (sizes){in->shape[0], in->shape[1], out->shape[0], out->shape[1],
                   in->rank == 3 ? in->shape[2] : 1};
}

/* The largest window of the output's proportions in the middle of the image, resized: pixel centres
 * lie at whole numbers and a half. */
static map resized(sizes s) {
    double height = (double)s.height, width = (double)s.width;
    const double fit_height = width * (double)s.out_height / (double)s.out_width;
    const double fit_width = height * (double)s.out_width / (double)s.out_height;
    if (fit_height < height) height = fit_height;
    if (fit_width < width) width = fit_width;
    const double y = height / (double)s.out_height, x = width / (double)s.out_width;
    return (map){.yy = y,
                 .y0 = ((double)s.height - height) / 2 + y / 2 - 0.5,
                 .xx = x,
                 .x0 = ((double)s.width - width) / 2 + x / 2 - 0.5};
}

static map draw(const fn_call *call, const fn_op *op, sizes s, int row) {
    const double *a = op->attr, pi = 3.14159265358979323846;
    const double middle_y = (double)(s.height - 1) / 2, middle_x = (double)(s.width - 1) / 2;
    map m = {.yy = 1, .xx = 1};
    if (a[KIND] == RESIZE) return resized(s);
    double u[4];
    draw_uniform(call, op, row, 0, u);
    const double y = draw_between(u[0], a[LOW_Y], a[HIGH_Y]);
    const double x = draw_between(u[1], a[LOW_X], a[HIGH_X]);
    switch ((int)a[KIND]) {
    case FLIP: /* HIGH_Y, HIGH_X: the chance of either */
        m.whole = true;
        if (u[0] < a[HIGH_Y]) m.yy = -1, m.y0 = (double)(s.height - 1);
        if (u[1] < a[HIGH_X]) m.xx = -1, m.x0 = (double)(s.width - 1);
        break;
    case TRANSLATE: /* shares of height and width, down and right */
        m.y0 = -y * (double)s.height;
        m.x0 = -x * (double)s.width;
        break;
    case ROTATE: /* shares of a full turn, counter-clockwise */
        m.yy = m.xx = cos(2 * pi * y);
        m.yx = sin(2 * pi * y);
        m.xy = -m.yx;
        m.y0 = middle_y - m.yy * middle_y - m.yx * middle_x;
        m.x0 = middle_x - m.xy * middle_y - m.xx * middle_x;
        break;
    case ZOOM: /* 1 + y pixels of x for one of y; LOW_X NaN: the same across */
        m.yy = 1 + y;
        m.xx = isnan(a[LOW_X]) ? m.yy : 1 + x;
        m.y0 = middle_y * (1 - m.yy);
        m.x0 = middle_x * (1 - m.xx);
        break;
    case CROP:
        m.whole = true;
        m.y0 = floor(u[0] * (double)(s.height - s.out_height + 1));
        m.x0 = floor(u[1] * (double)(s.width - s.out_width + 1));
        break;
    }
    return m;
}

/* Where a pixel outside [0, n) is taken from; -1: from the fill value. */
static int64_t inside(int64_t i, int64_t n, int fill) {
    if (i >= 0 && i < n) return i;
    if (fill == CONSTANT) return -1;
    if (fill == EDGE) return i < 0 ? 0 : n - 1;
    if (i >= -n && i < 2 * n) { /* nearly always, and without a division */
        if (fill == WRAP) return i < 0 ? i + n : i - n;
        return i < 0 ? -1 - i : 2 * n - 1 - i;
    }
    const int64_t period = fill == WRAP ? n : 2 * n, at = (i % period + period) % period;
    return at < n ? at : period - 1 - at;
}

/* Places of the n pixels from j0 on of output line i: the upper left one of four pixels, and how
 * far the place is from it. */
static void places(const map *m, int64_t i, int64_t j0, int n, int nearest, int32_t *restrict y,
                   int32_t *restrict x, float *restrict fy, float *restrict fx) {
    const float half = nearest ? 0.5f : 0, between = nearest ? 0 : 1;
    const float ys = (float)(m->yy * (double)i + m->y0 + m->yx * (double)j0) + half;
    const float xs = (float)(m->xy * (double)i + m->x0 + m->xx * (double)j0) + half;
    const float dy = (float)m->yx, dx = (float)m->xx;
    for (int j = 0; j < n; j++) {
        const float v = ys + dy * (float)j, h = xs + dx * (float)j;
        const int32_t vi = (int32_t)v, hi = (int32_t)h; /* towards zero: one more below it */
        y[j] = vi - (v < (float)vi);
        x[j] = hi - (h < (float)hi);
        fy[j] = (v - (float)y[j]) * between;
        fx[j] = (h - (float)x[j]) * between;
    }
}

/* The four pixels about a place, as offsets into x, and their weights; -1: the fill value. */
static void corners(sizes s, int fill, int32_t y, int32_t x, float fy, float fx, int64_t at[4],
                    float weight[4]) {
    const int64_t i[2] = {inside(y, s.height, fill), inside((int64_t)y + 1, s.height, fill)};
    const int64_t j[2] = {inside(x, s.width, fill), inside((int64_t)x + 1, s.width, fill)};
    const float down[2] = {1 - fy, fy}, right[2] = {1 - fx, fx};
    for (int k = 0; k < 4; k++) {
        const int64_t line = i[k >> 1], column = j[k & 1];
        at[k] = line < 0 || column < 0 ? -1 : (line * s.width + column) * s.channels;
        weight[k] = down[k >> 1] * right[k & 1];
    }
}

/* A pixel that lies between four of x, p being the upper left one. */
FN_INLINE void blend(const float *p, int64_t right, int64_t below, float v, float h, float *y,
                     int64_t channels) {
    for (int64_t c = 0; c < channels; c++, p++) {
        const float up = p[0] + h * (p[right] - p[0]);
        const float low = p[below] + h * (p[below + right] - p[below]);
        y[c] = up + v * (low - up);
    }
}

static void sample_line(const fn_op *op, const map *m, sizes s, int64_t i, const float *x,
                        float *y) {
    const int fill = (int)op->attr[FILL];
    const float value = (float)op->attr[FILL_VALUE];
    const int64_t below = s.width * s.channels;
    int32_t py[BLOCK], px[BLOCK];
    float fy[BLOCK], fx[BLOCK];
    for (int64_t j0 = 0; j0 < s.out_width; j0 += BLOCK) {
        const int n = s.out_width - j0 < BLOCK ? (int)(s.out_width - j0) : BLOCK;
        places(m, i, j0, n, op->attr[NEAREST] != 0, py, px, fy, fx);
        for (int j = 0; j < n; j++, y += s.channels) {
            const float v = fy[j], h = fx[j];
            if (py[j] >= 0 && py[j] < s.height - 1 && px[j] >= 0 && px[j] < s.width - 1) {
                const float *p = x + (py[j] * s.width + px[j]) * s.channels;
                if (s.channels == 1)
                    blend(p, 1, below, v, h, y, 1);
                else
                    blend(p, s.channels, below, v, h, y, s.channels);
                continue;
            }
            int64_t at[4];
            float weight[4];
            corners(s, fill, py[j], px[j], v, h, at, weight);
            for (int64_t c = 0; c < s.channels; c++) {
                float sum = 0;
                for (int k = 0; k < 4; k++) sum += weight[k] * (at[k] < 0 ? value : x[at[k] + c]);
                y[c] = sum;
            }
        }
    }
}

static void scatter_line(const fn_op *op, const map *m, sizes s, int64_t i, const float *dy,
                         float *dx) {
    int32_t py[BLOCK], px[BLOCK];
    float fy[BLOCK], fx[BLOCK];
    for (int64_t j0 = 0; j0 < s.out_width; j0 += BLOCK) {
        const int n = s.out_width - j0 < BLOCK ? (int)(s.out_width - j0) : BLOCK;
        places(m, i, j0, n, op->attr[NEAREST] != 0, py, px, fy, fx);
        for (int j = 0; j < n; j++, dy += s.channels) {
            int64_t at[4];
            float weight[4];
            corners(s, (int)op->attr[FILL], py[j], px[j], fy[j], fx[j], at, weight);
            for (int k = 0; k < 4; k++)
                for (int64_t c = 0; at[k] >= 0 && c < s.channels; c++)
                    dx[at[k] + c] += weight[k] * dy[c];
        }
    }
}

/* A map of whole pixels: lines are copied, mirrored or not. backward: from y to x. */
static void move(const map *m, sizes s, const float *from, float *to, bool backward) {
    for (int64_t i = 0; i < s.out_height; i++) {
        const int64_t line = (int64_t)(m->yy * (double)i + m->y0) * s.width;
        const int64_t step = m->xx < 0 ? -1 : 1;
        for (int64_t j = 0; j < s.out_width; j++) {
            const int64_t x = (line + (int64_t)m->x0 + step * j) * s.channels;
            const int64_t y = (i * s.out_width + j) * s.channels;
            for (int64_t c = 0; c < s.channels; c++) {
                if (backward)
                    to[x + c] = from[y + c];
                else
                    to[y + c] = from[x + c];
            }
        }
    }
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const sizes s = sizes_of(call->plan, op);
    for (int r = tile.r0; r < tile.r1; r++) {
        const map m = draw(call, op, s, r);
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        if (m.whole) {
            move(&m, s, x, y, false);
            continue;
        }
        for (int64_t i = 0; i < s.out_height; i++)
            sample_line(op, &m, s, i, x, y + i * s.out_width * s.channels);
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const sizes s = sizes_of(call->plan, op);
    for (int r = tile.r0; r < tile.r1; r++) {
        const map m = draw(call, op, s, r);
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        clear(s.height * s.width * s.channels, dx);
        if (m.whole) {
            move(&m, s, dy, dx, true);
            continue;
        }
        for (int64_t i = 0; i < s.out_height; i++)
            scatter_line(op, &m, s, i, dy + i * s.out_width * s.channels, dx);
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    if (in->dtype != FN_F32 || out->dtype != FN_F32) return "float32 rows are wanted";
    if (in->rank < 2 || in->rank > 3 || out->rank != in->rank)
        return "rows of shape (height, width[, channels]) are wanted";
    if (in->rank == 3 && in->shape[2] != out->shape[2]) return "input and output differ";
    if (!(op->attr[KIND] >= 0 && op->attr[KIND] < KINDS)) return "there is no such kind of map";
    if (!(op->attr[FILL] >= 0 && op->attr[FILL] < FILLS)) return "there is no such fill mode";
    const bool same = in->cols == out->cols && in->shape[0] == out->shape[0];
    const bool fits = out->shape[0] <= in->shape[0] && out->shape[1] <= in->shape[1];
    if (op->attr[KIND] == CROP ? !fits : op->attr[KIND] != RESIZE && !same)
        return "input and output differ";
    if (in->shape[0] > 1 << 20 || in->shape[1] > 1 << 20) return "the image is too large";
    op->flops = 40.0 * (double)out->cols;
    return NULL;
}

static const fn_attribute attributes[] = {
    {"kind", FN_ATTR_NUMBER, FLIP},    {"low_y", FN_ATTR_NUMBER, 0},  {"high_y", FN_ATTR_NUMBER, 0},
    {"low_x", FN_ATTR_NUMBER, 0},      {"high_x", FN_ATTR_NUMBER, 0}, {"fill", FN_ATTR_NUMBER, 0},
    {"fill_value", FN_ATTR_NUMBER, 0}, {"nearest", FN_ATTR_NUMBER, 0}};

const fn_op_impl FN_LEVELED(affine) = {
    .attributes = attributes,
    .n_attributes = 8,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .check = check,
    .forward = forward,
    .backward = backward,
};
