/* windows.h - the windows of a pool: their place in the image, and the checks that pools share.
 *
 * Padding is never read: windows are cut off at the borders of the image, so a maximum ignores
 * padding and an average divides by the pixels of the image alone. Every window has at least one.
 */
#ifndef FN_WINDOWS_H
#define FN_WINDOWS_H

#include "kernels/image.h"

enum { POOL_H, POOL_W, STRIDE_H, STRIDE_W, TOP, LEFT, N_WINDOW_ATTRIBUTES };

#define FN_WINDOW_ATTRIBUTES                                           \
    {{"pool_h", FN_ATTR_NUMBER, 1},   {"pool_w", FN_ATTR_NUMBER, 1},   \
     {"stride_h", FN_ATTR_NUMBER, 1}, {"stride_w", FN_ATTR_NUMBER, 1}, \
     {"top", FN_ATTR_NUMBER, 0},      {"left", FN_ATTR_NUMBER, 0}}

typedef struct {
    image in, out;
    int pool_h, pool_w, stride_h, stride_w, top, left;
    bool halves;  /* 2x2 windows side by side from the corner, all inside */
    bool overlap; /* a pixel may lie in several windows */
} windows;

/* The part of a window that lies in the image: rows [y0, y1), columns [x0, x1). */
typedef struct {
    int y0, y1, x0, x1;
} window;

static inline windows windows_of(const fn_plan *plan, const fn_op *op) {
    const double *a = op->attr;
    windows p = {.in = image_of(&plan->buffers[op->in[0]]),
                 .pool_h = (int)a[POOL_H],
                 .pool_w = (int)a[POOL_W],
                 .stride_h = (int)a[STRIDE_H],
                 .stride_w = (int)a[STRIDE_W],
                 .top = (int)a[TOP],
                 .left = (int)a[LEFT]};
    p.out = image_of(&plan->buffers[op->out[0]]);
    p.halves = p.pool_h == 2 && p.pool_w == 2 && p.stride_h == 2 && p.stride_w == 2 && !p.top &&
               !p.left && 2 * p.out.h <= p.in.h && 2 * p.out.w <= p.in.w;
    p.overlap = p.stride_h < p.pool_h || p.stride_w < p.pool_w;
    return p;
}

static inline window window_at(const windows *p, int i, int j) {
    const int y = i * p->stride_h - p->top, x = j * p->stride_w - p->left;
    return (window){larger(y, 0), smaller(y + p->pool_h, p->in.h), larger(x, 0),
                    smaller(x + p->pool_w, p->in.w)};
}

static inline const char *check_windows(fn_plan *plan, fn_op *op) {
    if (!is_image(plan, op->in[0]) || !is_image(plan, op->out[0]))
        return "float32 rows of shape (h, w, c) are wanted";
    for (int i = 0; i < N_WINDOW_ATTRIBUTES; i++)
        if (!(op->attr[i] >= (i < TOP) && op->attr[i] <= INT32_MAX / 4))
            return "a pool, stride or padding is out of range";
    const windows p = windows_of(plan, op);
    if (p.in.c != p.out.c) return "input and output differ in channels";
    if (p.top >= p.pool_h || p.left >= p.pool_w ||
        (int64_t)(p.out.h - 1) * p.stride_h - p.top >= p.in.h ||
        (int64_t)(p.out.w - 1) * p.stride_w - p.left >= p.in.w)
        return "a window lies outside the image";
    const double area = (double)smaller(p.pool_h, p.in.h) * smaller(p.pool_w, p.in.w);
    op->flops = 2 * area * (double)plan->buffers[op->out[0]].cols;
    op->scratch = (size_t)p.in.w * (size_t)p.in.c + FN_PAD;
    return NULL;
}

#endif
