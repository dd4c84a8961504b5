/* erase.c - y = x but for a rectangle of each image that a value or noise takes the place of, with
 * some probability (Zhong et al., Random Erasing, AAAI 2020): training only.
 */
#include "kernels/draw.h"

enum { CHANCE_LOW, CHANCE_HIGH, SCALE_LOW, SCALE_HIGH, FILL_VALUE, NOISE, LOW, HIGH };

typedef struct {
    int64_t i0, i1, j0, j1; /* rows [i0, i1) and columns [j0, j1); none when empty */
} box;

/* A side of sqrt(share of the area) times the length, at any place where it fits; the pixels in it.
 */
static void side(double share, double place, int64_t length, int64_t *from, int64_t *to) {
    const double size = sqrt(share) * (double)length, start = place * ((double)length - size);
    *from = (int64_t)ceil(start);
    *to = (int64_t)ceil(start + size);
    if (*to > length) *to = length;
}

static box draw(const fn_call *call, const fn_op *op, int row) {
    const double *a = op->attr;
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    double u[4], v[4];
    draw_uniform(call, op, row, 0, u);
    draw_uniform(call, op, row, 1, v);
    box here = {0, 0, 0, 0};
    if (v[1] >= draw_between(v[0], a[CHANCE_LOW], a[CHANCE_HIGH])) return here;
    side(draw_between(u[0], a[SCALE_LOW], a[SCALE_HIGH]), u[1], b->shape[0], &here.i0, &here.i1);
    side(draw_between(u[2], a[SCALE_LOW], a[SCALE_HIGH]), u[3], b->shape[1], &here.j0, &here.j1);
    return here;
}

/* Fill columns [from, to) of a row with noise: normal numbers times `high`, within low and high. */
static void fill_noise(const fn_call *call, const fn_op *op, int row, int64_t from, int64_t to,
                       float *y) {
    const float low = (float)op->attr[LOW], high = (float)op->attr[HIGH];
    for (int64_t c = from / DRAW_BLOCK * DRAW_BLOCK; c < to; c += DRAW_BLOCK) {
        float z[DRAW_BLOCK];
        draw_normals(call, op, row, c, z);
        const int64_t end = c + DRAW_BLOCK < to ? c + DRAW_BLOCK : to;
        for (int64_t i = c < from ? from : c; i < end; i++) {
            const float v = z[i - c] * high;
            y[i] = v < low ? low : v > high ? high : v;
        }
    }
}

/* Columns [c0, end) of the flattened row that line i of the box covers. */
static void line(const fn_buffer *b, box here, int64_t i, int64_t c0, int64_t end, int64_t *from,
                 int64_t *to) {
    const int64_t channels = b->rank == 3 ? b->shape[2] : 1;
    *from = (i * b->shape[1] + here.j0) * channels;
    *to = (i * b->shape[1] + here.j1) * channels;
    if (*from < c0) *from = c0;
    if (*to > end) *to = end;
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t end = tile.c1 < b->cols ? tile.c1 : b->cols;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        copy_columns(tile.c0, end, x, y);
        const box here = draw(call, op, r);
        for (int64_t i = here.i0; i < here.i1; i++) {
            int64_t from, to;
            line(b, here, i, tile.c0, end, &from, &to);
            if (op->attr[NOISE] != 0)
                fill_noise(call, op, r, from, to, y);
            else
                for (int64_t c = from; c < to; c++) y[c] = (float)op->attr[FILL_VALUE];
        }
    }
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->out[0]];
    const int64_t end = tile.c1 < b->cols ? tile.c1 : b->cols;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        copy_columns(tile.c0, end, dy, dx);
        const box here = draw(call, op, r);
        for (int64_t i = here.i0; i < here.i1; i++) {
            int64_t from, to;
            line(b, here, i, tile.c0, end, &from, &to);
            for (int64_t c = from; c < to; c++) dx[c] = 0;
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *out = &plan->buffers[op->out[0]];
    const char *problem = check_same_size(plan, op);
    if (problem) return problem;
    if (out->rank < 2 || out->rank > 3)
        return "rows of shape (height, width[, channels]) are wanted";
    if (!(op->attr[SCALE_LOW] >= 0 && op->attr[SCALE_HIGH] <= 1)) return "scale is not in [0, 1]";
    op->flops = 2.0 * (double)out->cols;
    return NULL;
}

static const fn_attribute attributes[] = {
    {"chance_low", FN_ATTR_NUMBER, 1},   {"chance_high", FN_ATTR_NUMBER, 1},
    {"scale_low", FN_ATTR_NUMBER, 0.02}, {"scale_high", FN_ATTR_NUMBER, 0.33},
    {"fill_value", FN_ATTR_NUMBER, 0},   {"noise", FN_ATTR_NUMBER, 0},
    {"low", FN_ATTR_NUMBER, 0},          {"high", FN_ATTR_NUMBER, 255}};

const fn_op_impl FN_LEVELED(erase) = {
    .attributes = attributes,
    .n_attributes = 8,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_ELEMENTWISE,
    .check = check,
    .forward = forward,
    .backward = backward,
};
