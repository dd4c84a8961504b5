/* dense_tiles.h - the register tiles of the dense op: forward, back to the input, and the gradient
 * of W.
 *
 * A tile is rows x vecs accumulators that stay in registers while one loop runs over what is
 * summed; rows and vecs are constants at every call, so the compiler unrolls. Panels of W: see
 * ops/dense.c.
 */
#ifndef FN_DENSE_TILES_H
#define FN_DENSE_TILES_H

#include "kernels/zeros.h"

/* ---- forward: y = x @ W + b, over d_in in order ---- */

/* rows x vecs register tile over `count` of its products: those at where, or (NULL) all. bias may
 * be NULL. */
FN_INLINE void forward_tile(int rows, int vecs, int64_t count, const int32_t *where,
                            const float *const *rows_of_x, const float *w, const float *bias,
                            float *y, int64_t ldy) {
    const float *x[ROWS];
    for (int i = 0; i < rows; i++) x[i] = rows_of_x[i];
    vf sum[ROWS][2];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) sum[i][v] = bias ? v_load(bias + v * LANES) : v_set(0);
    for (int64_t j = 0; j < count; j++) {
        const int64_t k = where ? where[j] : j;
        vf weight[2];
        for (int v = 0; v < vecs; v++) weight[v] = v_load(w + (k * vecs + v) * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const vf s = v_set(x[i][k]);
            for (int v = 0; v < vecs; v++) sum[i][v] = v_fma(s, weight[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) v_store(y + i * ldy + v * LANES, sum[i][v] + 0.0f);
}

/* One panel, any number of rows up to ROWS. */
FN_INLINE void forward_rows(int rows, int vecs, int64_t count, const int32_t *where,
                            const float *const *x, const float *w, const float *bias, float *y,
                            int64_t ldy) {
    switch (rows) {
    case 1: forward_tile(1, vecs, count, where, x, w, bias, y, ldy); break;
    case 2: forward_tile(2, vecs, count, where, x, w, bias, y, ldy); break;
    case 3: forward_tile(3, vecs, count, where, x, w, bias, y, ldy); break;
    case 4: forward_tile(4, vecs, count, where, x, w, bias, y, ldy); break;
    case 5: forward_tile(5, vecs, count, where, x, w, bias, y, ldy); break;
    case 6: forward_tile(6, vecs, count, where, x, w, bias, y, ldy); break;
#if FN_LANES == 16
    case 7: forward_tile(7, vecs, count, where, x, w, bias, y, ldy); break;
    case 8: forward_tile(8, vecs, count, where, x, w, bias, y, ldy); break;
#endif
    }
}

/* ---- back to the input: dx = dy @ W^T ---- */

/* 3 x 4 dot products along the columns of W, lane by lane. w: rows k .. k + 3 in a panel of one and
 * of two vectors; n <= 4 of them are wanted. */
FN_INLINE void backward_step(int rows, vf sum[3][4], const float *const *w, int64_t at,
                             const float *dy, int64_t ldy) {
    vf g[3]; /* 12 sums, 3 gradients and a weight at a time: the 16 registers of AVX2 */
    for (int i = 0; i < rows; i++) g[i] = v_load(dy + i * ldy);
    for (int j = 0; j < 4; j++) {
        const vf weight = v_load(w[j] + at);
        for (int i = 0; i < rows; i++) sum[i][j] = v_fma(g[i], weight, sum[i][j]);
    }
}

FN_INLINE void backward_tile(int rows, int64_t d_in, int64_t units, const float *const *w,
                             const float *dy, int64_t ldy, float *dx, int64_t ldx, int n) {
    const float *const one[4] = {w[0], w[2], w[4], w[6]}, *const two[4] = {w[1], w[3], w[5], w[7]};
    vf sum[3][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = v_set(0);
    int64_t c = 0;
    for (; units - c > LANES; c += PANEL) {
        backward_step(rows, sum, two, c * d_in, dy + c, ldy);
        backward_step(rows, sum, two, c * d_in + LANES, dy + c + LANES, ldy);
    }
    if (c < units) backward_step(rows, sum, one, c * d_in, dy + c, ldy);
    for (int i = 0; i < rows; i++) {
        const vq total = v_sum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
        if (n == 4)
            *(vq_loose *)(dx + i * ldx) = total;
        else
            for (int j = 0; j < n; j++) dx[i * ldx + j] = total[j];
    }
}

/* Rows [k, k + PANEL) of W as a panel of W^T, t (units rounded up to 4, PANEL): then dx is a
 * forward product. */
FN_INLINE void transpose_panel(int64_t d_in, int64_t units, int64_t k, const float *w, float *t) {
    for (int64_t c = 0; c < units; c += 4) {
        const int64_t panel = c / PANEL * PANEL;
        const int width = fn_panel_width(units, panel, LANES);
        const float *from = w + panel * d_in + (c - panel);
        for (int64_t i = 0; i < PANEL; i += 4) {
            vq r[4];
            for (int j = 0; j < 4; j++) { /* beyond the last row 0: so is the padding of dx */
                r[j] = (vq){0};
                if (k + i + j < d_in) r[j] = *(const vq_loose *)(from + (k + i + j) * width);
            }
            v_transpose4(r);
            for (int j = 0; j < 4; j++) *(vq_loose *)(t + (c + j) * PANEL + i) = r[j];
        }
    }
}

/* ---- gradient of W: x^T @ dy ---- */

enum { BLOCK = 64 }; /* rows of the batch summed at a time */

/* g (n, vecs) += sum over rows of x[r][k..k + n) * dy[r]; from zero if `first`. */
FN_INLINE void gradient_tile(int n, int vecs, bool first, int64_t rows, const float *const *x,
                             int64_t k, const float *dy, int64_t ldy, float *g) {
    vf sum[ROWS][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++)
            sum[i][v] = first ? v_set(0) : v_load(g + (i * vecs + v) * LANES);
    for (int64_t r = 0; r < rows; r++) {
        vf d[2];
        for (int v = 0; v < vecs; v++) d[v] = v_load(dy + r * ldy + v * LANES);
        const float *xr = x[r] + k;
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            const vf s = v_set(xr[i]);
            for (int v = 0; v < vecs; v++) sum[i][v] = v_fma(s, d[v], sum[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) v_store(g + (i * vecs + v) * LANES, sum[i][v]);
}

/* The gradient of `n` rows of a panel `vecs` vectors wide, over some rows of the batch: a block of
 * rows at a time, so that its columns of x and dy stay in L1. The sums go on where they were: the
 * same bits. */
FN_INLINE void gradient_chunk(int vecs, int k0, int n, int64_t rows, const float *const *x,
                              const float *dy, int64_t ldy, float *g) {
    for (int64_t r = 0; r < rows || r == 0; r += BLOCK) {
        const int64_t m = rows - r < BLOCK ? rows - r : BLOCK;
        const float *dyr = dy + r * ldy;
        int k = 0;
        for (; k + ROWS <= n; k += ROWS)
            gradient_tile(ROWS, vecs, r == 0, m, x + r, k0 + k, dyr, ldy, g + k * vecs * LANES);
        for (; k + 4 <= n; k += 4)
            gradient_tile(4, vecs, r == 0, m, x + r, k0 + k, dyr, ldy, g + k * vecs * LANES);
        for (; k < n; k++)
            gradient_tile(1, vecs, r == 0, m, x + r, k0 + k, dyr, ldy, g + k * vecs * LANES);
    }
}

/* The same over rows kept by columns: `count` of them at `indices`. */
FN_INLINE void kept_tile(int vecs, bool first, int count, const int32_t *indices,
                         const float *values, const float *dy, int64_t ldy, float *g) {
    vf sum[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < vecs; v++)
            sum[i][v] = first ? v_set(0) : v_load(g + (i * vecs + v) * LANES);
    for (int j = 0; j < count; j++, values += ROWS) {
        const float *dyr = dy + indices[j] * ldy;
        vf d[2];
        for (int v = 0; v < vecs; v++) d[v] = v_load(dyr + v * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const vf s = v_set(values[i]);
            for (int v = 0; v < vecs; v++) sum[i][v] = v_fma(s, d[v], sum[i][v]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < vecs; v++) v_store(g + (i * vecs + v) * LANES, sum[i][v]);
}

/* The gradient of column tiles [t0, t1), at most KEPT, over rows [r0, r1) of the batch. g has room
 * for whole register tiles. */
FN_INLINE void kept_chunk(int vecs, const column_rows *c, int64_t t0, int64_t t1, int r0, int r1,
                          const float *dy, int64_t ldy, float *g) {
    int at[KEPT], end[KEPT], most = 0;
    for (int64_t t = t0; t < t1; t++) {
        const int32_t *indices = c->indices + t * c->index_stride;
        int first = 0, last = c->counts[t];
        while (first < last && indices[first] < r0) first++;
        while (last > first && indices[last - 1] >= r1) last--;
        at[t - t0] = first, end[t - t0] = last;
        most = last - first > most ? last - first : most;
    }
    for (int from = 0; from < most || from == 0; from += BLOCK)
        for (int64_t t = t0; t < t1; t++) {
            const int i = (int)(t - t0), begin = at[i] + from, left = end[i] - begin;
            if (left <= 0 && from > 0) continue;
            kept_tile(vecs, from == 0, left < BLOCK ? left : BLOCK,
                      c->indices + t * c->index_stride + begin,
                      c->values + t * c->value_stride + (int64_t)begin * ROWS, dy, ldy,
                      g + (int64_t)i * ROWS * vecs * LANES);
        }
}

/* Parts of the batch are summed apart and then added in a fixed tree; `size` floats each. */
FN_INLINE void add_lanes(int lanes, int64_t size, float *g) {
    for (int step = 1; step < lanes; step *= 2)
        for (int l = 0; l + step < lanes; l += 2 * step)
            for (int64_t i = 0; i < size; i++) g[l * size + i] += g[(l + step) * size + i];
}

#endif
