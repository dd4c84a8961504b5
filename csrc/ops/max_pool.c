/* max_pool.c - y[i, j, k] = max of channel k over window (i, j); x (h, w, c) -> y (ho, wo, c).
 *
 * NaN wins over any number. Backward finds the maximum again from x: for 2x2 windows that costs
 * nothing (the four values are in registers), and no index has to be kept.
 */
#include "kernels/windows.h"

#if FN_LANES >= 16
#define WIDTH 16
#include "kernels/max_windows.h"
#endif
#if FN_LANES >= 8
#define WIDTH 8
#include "kernels/max_windows.h"
#endif
#define WIDTH 4
#include "kernels/max_windows.h"

/* Kernels for channels in vectors of `width`. */
typedef struct {
    int width;
    void (*halve)(int wo, int c, const float *a, const float *b, float *y);
    void (*halve_back)(int wo, int c, const float *a, const float *b, const float *dy, float *da,
                       float *db);
    void (*pool)(int c, int64_t line, window v, const float *x, float *y);
    void (*pool_back)(int c, int64_t line, window v, const float *x, const float *dy, float *dx);
} kernels;

static inline float max_of(float m, float x) { return m >= x || m != m ? m : x; }

/* ---- fewer channels than a vector: one at a time ---- */

/* The largest of each column, a line at a time; then of each window in that line. */
static void pool_line(const windows *p, int i, const float *x, float *most, float *y) {
    const int c = p->in.c, n = p->in.w * c;
    window v = window_at(p, i, 0);
    memcpy(most, x + (int64_t)v.y0 * n, (size_t)n * sizeof(float));
    for (int r = v.y0 + 1; r < v.y1; r++)
        for (int t = 0; t < n; t++) most[t] = max_of(most[t], x[(int64_t)r * n + t]);
    for (int j = 0; j < p->out.w; j++, y += c) {
        v = window_at(p, i, j);
        for (int k = 0; k < c; k++) {
            float m = most[v.x0 * c + k];
            for (int t = v.x0 + 1; t < v.x1; t++) m = max_of(m, most[t * c + k]);
            y[k] = m;
        }
    }
}

static void few_back(int c, int64_t line, window v, const float *x, const float *dy, float *dx) {
    for (int k = 0; k < c; k++) {
        int64_t best = v.y0 * line + (int64_t)v.x0 * c + k;
        for (int i = v.y0; i < v.y1; i++)
            for (int j = v.x0; j < v.x1; j++) {
                const int64_t at = i * line + (int64_t)j * c + k;
                if (x[at] > x[best]) best = at;
            }
        dx[best] += dy[k];
    }
}

static const kernels widths[] = {
#if FN_LANES >= 16
    {16, halve_row_16, halve_back_row_16, pool_16, pool_back_16},
#endif
#if FN_LANES >= 8
    {8, halve_row_8, halve_back_row_8, pool_8, pool_back_8},
#endif
    {4, halve_row_4, halve_back_row_4, pool_4, pool_back_4},
    {1, NULL, NULL, NULL, few_back}};

static const kernels *kernels_for(int c) {
    const kernels *k = widths;
    while (k->width > c) k++;
    return k;
}

/* ---- images ---- */

static void pool_image(const windows *p, const kernels *use, const float *x, float *y,
                       float *scratch) {
    const int c = p->in.c;
    const int64_t line = (int64_t)p->in.w * c;
    for (int i = 0; i < p->out.h; i++) {
        float *to = y + (int64_t)i * p->out.w * c;
        if (!use->pool) {
            pool_line(p, i, x, scratch, to);
        } else if (p->halves) {
            use->halve(p->out.w, c, x + 2 * i * line, x + (2 * i + 1) * line, to);
        } else {
            for (int j = 0; j < p->out.w; j++)
                use->pool(c, line, window_at(p, i, j), x, to + (int64_t)j * c);
        }
    }
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const windows p = windows_of(call->plan, op);
    const kernels *use = kernels_for(p.in.c);
    for (int r = tile.r0; r < tile.r1; r++)
        pool_image(&p, use, fn_row(call, tile, op->in[0], r), fn_row(call, tile, op->out[0], r),
                   fn_scratch(call, tile));
}

/* Every pixel of dx is written once, those that no window has with 0. */
static void halve_image_back(const windows *p, const kernels *use, const float *x, const float *dy,
                             float *dx) {
    const int64_t line = (int64_t)p->in.w * p->in.c, used = 2 * (int64_t)p->out.w * p->in.c;
    for (int i = 0; i < p->out.h; i++, x += 2 * line, dx += 2 * line) {
        use->halve_back(p->out.w, p->in.c, x, x + line, dy + i * used / 2, dx, dx + line);
        clear(line - used, dx + used);
        clear(line - used, dx + line + used);
    }
    clear((p->in.h - 2 * p->out.h) * line, dx);
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const windows p = windows_of(call->plan, op);
    const kernels *use = kernels_for(p.in.c);
    const int c = p.in.c;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r),
                    *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        if (p.halves && use->halve_back) {
            halve_image_back(&p, use, x, dy, dx);
            continue;
        }
        clear((int64_t)p.in.h * p.in.w * c, dx);
        for (int i = 0; i < p.out.h; i++)
            for (int j = 0; j < p.out.w; j++, dy += c)
                use->pool_back(c, (int64_t)p.in.w * c, window_at(&p, i, j), x, dy, dx);
    }
}

static const fn_attribute attributes[] = FN_WINDOW_ATTRIBUTES;

const fn_op_impl FN_LEVELED(max_pool) = {
    .attributes = attributes,
    .n_attributes = N_WINDOW_ATTRIBUTES,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_NEEDS_INPUT | FN_CHEAP,
    .check = check_windows,
    .forward = forward,
    .backward = backward,
};
