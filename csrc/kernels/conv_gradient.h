/* conv_gradient.h - the gradient of a convolution's weights: for each tap and input channel ("k")
 * the sum over the pixels of source times dy, in register tiles of k x output channels.
 *
 * g lies as the weights do, [panel][k][width]. Pixels are summed in order, a block of rows at a
 * time, so that its part of the source and of dy stays in L1 while all of g goes by; between blocks
 * a sum waits in g, where it goes on with the same bits.
 */
#ifndef FN_CONV_GRADIENT_H
#define FN_CONV_GRADIENT_H

#include "kernels/conv_tiles.h"

enum { BLOCK_PIXELS = 96, BLOCK_FLOATS = 5120 }; /* of a block: at least so many, L1 has room */

/* The offset of k from a pixel's first tap, k after k: divisions would cost a tenth of a tile. */
typedef struct {
    int64_t tap, within;
    int row, col;
} conv_walk;

FN_INLINE int64_t conv_next(const conv_map *m, conv_walk *w) {
    const int64_t at = w->tap + w->within;
    if (++w->within == m->run) {
        w->within = 0;
        if (++w->col == m->taps_w) {
            w->col = 0;
            w->row++;
        }
        w->tap = w->row * m->tap_row + w->col * m->tap_col;
    }
    return at;
}

/* n values of k, `vecs` vectors of channels. at: offsets of the k from a pixel. */
FN_INLINE void gradient_k(int n, int vecs, const conv_map *m, const int64_t *at, bool first,
                          int rows, const float *x, const float *dy, float *g) {
    const float *from[ROWS];
    for (int i = 0; i < n; i++) from[i] = x + at[i];
    vf sum[ROWS][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++)
            sum[i][v] = first ? v_set(0) : v_load(g + (i * vecs + v) * LANES);
    const int64_t x_col = m->x_col, y_col = m->y_col;
    for (int r = 0; r < rows; r++) {
        const float *d = dy + r * m->y_row;
        int64_t p = r * m->x_row;
        for (int c = 0; c < m->cols; c++, p += x_col, d += y_col) {
            vf gradient[2];
            for (int v = 0; v < vecs; v++) gradient[v] = v_load(d + v * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++) {
                const vf s = v_set(from[i][p]);
                for (int v = 0; v < vecs; v++) sum[i][v] = v_fma(s, gradient[v], sum[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) v_store(g + (i * vecs + v) * LANES, sum[i][v]);
}

/* n pairs of k that lie beside each other, one vector of channels. */
FN_INLINE void gradient_pairs(int n, const conv_map *m, const int64_t *at, bool first, int rows,
                              const float *x, const float *dy, float *g) {
    const float *from[ROWS];
    for (int i = 0; i < n; i++) from[i] = x + at[2 * i];
    vf sum[ROWS][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) sum[i][v] = first ? v_set(0) : v_load(g + (i * 2 + v) * LANES);
    const int64_t x_col = m->x_col, y_col = m->y_col;
    for (int r = 0; r < rows; r++) {
        const float *d = dy + r * m->y_row;
        int64_t p = r * m->x_row;
        for (int c = 0; c < m->cols; c++, p += x_col, d += y_col) {
            const vf gradient = v_load(d);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++)
                for (int v = 0; v < 2; v++)
                    sum[i][v] = v_fma(v_set(from[i][p + v]), gradient, sum[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) v_store(g + (i * 2 + v) * LANES, sum[i][v]);
}

/* Taps [k0, k0 + n) of taps_h x run of a first layer, one vector: taps_h addresses and constants
 * reach them. */
FN_INLINE void gradient_taps(int k0, int n, int taps_h, int run, const conv_map *m, bool first,
                             int rows, const float *x, const float *dy, float *g) {
    const float *from[5];
    for (int h = 0; h < taps_h; h++) from[h] = x + h * m->tap_row;
    vf sum[14];
#pragma GCC unroll 14
    for (int i = 0; i < n; i++) sum[i] = first ? v_set(0) : v_load(g + (k0 + i) * LANES);
    const int64_t x_col = m->x_col, y_col = m->y_col;
    for (int r = 0; r < rows; r++) {
        const float *d = dy + r * m->y_row;
        int64_t p = r * m->x_row;
        for (int c = 0; c < m->cols; c++, p += x_col, d += y_col) {
            const vf gradient = v_load(d);
#pragma GCC unroll 14
            for (int i = 0; i < n; i++)
                sum[i] = v_fma(v_set(from[(k0 + i) / run][p + (k0 + i) % run]), gradient, sum[i]);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < n; i++) v_store(g + (k0 + i) * LANES, sum[i]);
}

FN_INLINE void gradient_some(int n, int vecs, const conv_map *m, const int64_t *at, bool first,
                             int rows, const float *x, const float *dy, float *g) {
#define SOME(n)                                              \
    case n:                                                  \
        if (vecs == 1)                                       \
            gradient_pairs(n, m, at, first, rows, x, dy, g); \
        else                                                 \
            gradient_k(n, 2, m, at, first, rows, x, dy, g);  \
        break;
    switch (n) {
        SOME(1)
        SOME(2)
        SOME(3)
        SOME(4)
        SOME(5)
        SOME(6)
#if FN_LANES == 16
        SOME(7)
        SOME(8)
#endif
    }
#undef SOME
}

/* A panel's gradient over some rows of pixels, k after k in even tiles. */
FN_INLINE void gradient_panel(int vecs, const conv_map *m, bool first, int rows, const float *x,
                              const float *dy, float *g) {
    const int64_t depth = conv_depth(m);
    if (FN_KNOWN_TAPS && vecs == 1 && m->run == 5 && m->taps_h == 5 && m->taps_w == 1) {
        gradient_taps(0, 13, 5, 5, m, first, rows, x, dy, g);
        gradient_taps(13, 12, 5, 5, m, first, rows, x, dy, g);
        return;
    }
    const int step = vecs == 1 ? 2 : 1;
    int64_t at[2 * ROWS];
    conv_walk walk = {0};
    if (m->run % step) { /* one vector and odd runs: no pairs */
        for (int64_t k = 0; k < depth; k++) {
            at[0] = conv_next(m, &walk);
            gradient_k(1, 1, m, at, first, rows, x, dy, g + k * LANES);
        }
        return;
    }
    const int64_t all = depth / step, tiles = (all + ROWS - 1) / ROWS;
    const int64_t least = all / tiles, larger = all - least * tiles;
    for (int64_t t = 0, k = 0; t < tiles; t++) {
        const int n = (int)(least + (t < larger));
        for (int i = 0; i < n * step; i++) at[i] = conv_next(m, &walk);
        gradient_some(n, vecs, m, at, first, rows, x, dy, g + k * vecs * LANES);
        k += n * step;
    }
}

#endif
