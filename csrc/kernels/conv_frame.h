/* conv_frame.h - a convolution's source with its borders, and how a result reads it.
 */
#ifndef FN_CONV_FRAME_H
#define FN_CONV_FRAME_H

#include "kernels/conv.h"
#include "kernels/conv_tiles.h"

typedef struct {
    const float *pixels;
    int64_t row; /* floats from row to row */
} picture;

FN_INLINE void zero(int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = 0;
}

FN_INLINE int at_most(int n, int limit) { return n < limit ? n : limit; }

/* x (h, w, c) as (height, width, c) with x at (top, left) and zeros elsewhere; x itself where it
 * will do. */
FN_INLINE picture framed(const float *x, int h, int w, int64_t c, int top, int left, int height,
                         int width, float *copy) {
    if (!top && !left && height <= h && width <= w) return (picture){x, w * c};
    top = at_most(top, height);
    left = at_most(left, width);
    const int64_t row = width * c, before = left * c, inside = at_most(w, width - left) * c;
    const int rows = at_most(h, height - top);
    float *y = copy;
    zero(top * row, y);
    y += top * row;
    for (int r = 0; r < rows; r++, x += w * c, y += row) {
        zero(before, y);
        for (int64_t i = 0; i < inside; i++) y[before + i] = x[i];
        zero(row - before - inside, y + before + inside);
    }
    zero((height - top - rows) * row, y);
    return (picture){copy, row};
}

FN_INLINE int source_height(const conv_shape *s) {
    return (s->oh - 1) * s->sh + (s->kh - 1) * s->dh + 1;
}
FN_INLINE int source_width(const conv_shape *s) {
    return (s->ow - 1) * s->sw + (s->kw - 1) * s->dw + 1;
}

FN_INLINE picture framed_source(const conv_shape *s, const float *x, float *copy) {
    return framed(x, s->h, s->w, s->c, s->top, s->left, source_height(s), source_width(s), copy);
}

FN_INLINE conv_map forward_map(const conv_shape *s, int64_t row) {
    const int64_t c = s->c;
    const bool touching = s->dw == 1 && s->groups == 1;
    return (conv_map){.rows = s->oh,
                      .cols = s->ow,
                      .taps_h = s->kh,
                      .taps_w = touching ? 1 : s->kw,
                      .run = touching ? s->kw * c : c / s->groups,
                      .x_row = s->sh * row,
                      .x_col = s->sw * c,
                      .y_row = (int64_t)s->ow * s->oc,
                      .y_col = s->oc,
                      .tap_row = s->dh * row,
                      .tap_col = s->dw * c,
                      .channels = s->oc};
}

#endif
