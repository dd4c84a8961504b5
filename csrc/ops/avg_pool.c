/* avg_pool.c - y[i, j, k] = mean of channel k over the pixels of window (i, j) that lie in the
 * image; x (h, w, c) -> y (ho, wo, c). A window's lines are summed each, then those sums: a window
 * as large as the image loses little accuracy.
 */
#include "kernels/windows.h"

#if FN_LANES >= 16
#define WIDTH 16
#include "kernels/avg_windows.h"
#endif
#if FN_LANES >= 8
#define WIDTH 8
#include "kernels/avg_windows.h"
#endif
#define WIDTH 4
#include "kernels/avg_windows.h"

/* Kernels for channels in vectors of `width`. */
typedef struct {
    int width;
    void (*halve)(int wo, int c, const float *a, const float *b, float *y);
    void (*halve_back)(int wo, int c, const float *dy, float *da, float *db);
    void (*pool)(int c, int64_t line, window v, float share, const float *x, float *y);
    void (*pool_back)(int c, int64_t line, window v, float share, bool add, const float *dy,
                      float *dx);
} kernels;

/* ---- fewer channels than a vector: one at a time ---- */

static void few(int c, int64_t line, window v, float share, const float *x, float *y) {
    for (int k = 0; k < c; k++) {
        float sum = 0;
        for (int i = v.y0; i < v.y1; i++) {
            float of_line = 0;
            for (int j = v.x0; j < v.x1; j++) of_line += x[i * line + (int64_t)j * c + k];
            sum += of_line;
        }
        y[k] = sum * share;
    }
}

static void few_back(int c, int64_t line, window v, float share, bool add, const float *dy,
                     float *dx) {
    for (int i = v.y0; i < v.y1; i++)
        for (int j = v.x0; j < v.x1; j++)
            for (int k = 0; k < c; k++) {
                float *to = dx + i * line + (int64_t)j * c + k;
                *to = add ? *to + dy[k] * share : dy[k] * share;
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
    {1, NULL, NULL, few, few_back}};

static const kernels *kernels_for(int c) {
    const kernels *k = widths;
    while (k->width > c) k++;
    return k;
}

static float share_of(window v) { return 1.0f / ((float)(v.y1 - v.y0) * (float)(v.x1 - v.x0)); }

/* ---- images ---- */

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const windows p = windows_of(call->plan, op);
    const kernels *use = kernels_for(p.in.c);
    const int c = p.in.c;
    const int64_t line = (int64_t)p.in.w * c;
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *x = fn_row(call, tile, op->in[0], r);
        float *y = fn_row(call, tile, op->out[0], r);
        for (int i = 0; i < p.out.h; i++) {
            if (p.halves && use->halve) {
                use->halve(p.out.w, c, x + 2 * i * line, x + (2 * i + 1) * line, y);
                y += p.out.w * c;
                continue;
            }
            for (int j = 0; j < p.out.w; j++, y += c) {
                const window v = window_at(&p, i, j);
                use->pool(c, line, v, share_of(v), x, y);
            }
        }
    }
}

/* Every pixel of dx is written once, those that no window has with 0. */
static void halve_image_back(const windows *p, const kernels *use, const float *dy, float *dx) {
    const int64_t line = (int64_t)p->in.w * p->in.c, used = 2 * (int64_t)p->out.w * p->in.c;
    for (int i = 0; i < p->out.h; i++, dx += 2 * line) {
        use->halve_back(p->out.w, p->in.c, dy + i * used / 2, dx, dx + line);
        clear(line - used, dx + used);
        clear(line - used, dx + line + used);
    }
    clear((p->in.h - 2 * p->out.h) * line, dx);
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const windows p = windows_of(call->plan, op);
    const kernels *use = kernels_for(p.in.c);
    const int c = p.in.c;
    const bool whole = p.out.h == 1 && p.out.w == 1 && p.pool_h - p.top >= p.in.h &&
                       p.pool_w - p.left >= p.in.w; /* one window, all of the image */
    for (int r = tile.r0; r < tile.r1; r++) {
        const float *dy = fn_gradient_row(call, tile, op->out[0], r);
        float *dx = fn_gradient_row(call, tile, op->in[0], r);
        if (p.halves && use->halve_back) {
            halve_image_back(&p, use, dy, dx);
            continue;
        }
        if (!whole) clear((int64_t)p.in.h * p.in.w * c, dx);
        for (int i = 0; i < p.out.h; i++)
            for (int j = 0; j < p.out.w; j++, dy += c) {
                const window v = window_at(&p, i, j);
                use->pool_back(c, (int64_t)p.in.w * c, v, share_of(v), p.overlap && !whole, dy, dx);
            }
    }
}

static const fn_attribute attributes[] = FN_WINDOW_ATTRIBUTES;

const fn_op_impl FN_LEVELED(avg_pool) = {
    .attributes = attributes,
    .n_attributes = N_WINDOW_ATTRIBUTES,
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .flags = FN_CHEAP,
    .check = check_windows,
    .forward = forward,
    .backward = backward,
};
