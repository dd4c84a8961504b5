/* conv_tiles.h - register tiles of convolutions: pixels x output channels, and (taps x input
 * channels) x output channels.
 *
 * Pictures are NHWC, so the taps of a pixel that lie beside each other are one run of floats, and a
 * pixel's sum goes over few long runs: no im2col. Weights lie in panels of PANEL output channels,
 * [panel][tap][input channel][width]: one stream in the order of the sum. Every pixel is summed in
 * that order in one register, from the bias: the same bits in any tile. `n` and `vecs` are
 * constants at every call, so the compiler unrolls.
 */
#ifndef FN_CONV_TILES_H
#define FN_CONV_TILES_H

#include "kernels/level.h"

/* Tiles for known numbers of taps: the same bits as the others, and where FMA is emulated or
 * missing they are not worth their size. */
#if FN_LANES == 8 || defined(__AVX512F__) || defined(__aarch64__)
#define FN_KNOWN_TAPS true
#else
#define FN_KNOWN_TAPS false
#endif

/* Where a convolution reads and writes, in floats. */
typedef struct {
    int rows, cols;           /* pixels of the result */
    int taps_h, taps_w;       /* runs that one pixel sums over */
    int64_t run;              /* floats of a run */
    int64_t x_row, x_col;     /* source: from a pixel of the result to the one below, beside */
    int64_t y_row, y_col;     /* the same in the result */
    int64_t tap_row, tap_col; /* source: from a run to the one below, beside */
    int64_t channels;         /* of the result */
} conv_map;

FN_INLINE int64_t conv_depth(const conv_map *m) { return m->taps_h * m->taps_w * m->run; }

/* Store the first `used` lanes of up to two vectors. */
FN_INLINE void store_used(int vecs, int used, float *y, const vf *sum) {
    if (used == vecs * LANES) {
        for (int v = 0; v < vecs; v++) v_store(y + v * LANES, sum[v]);
        return;
    }
    float lanes[PANEL];
    for (int v = 0; v < vecs; v++) v_store(lanes + v * LANES, sum[v]);
    for (int j = 0; j < used; j++) y[j] = lanes[j];
}

/* n pixels, anywhere, x `vecs` vectors of output channels. */
FN_INLINE void conv_tile(int n, int vecs, int taps_h, int taps_w, int64_t run, const conv_map *m,
                         const float *const *pixels, const float *w, const float *bias,
                         float *const *y, int used) {
    const float *x[ROWS];
    for (int i = 0; i < n; i++) x[i] = pixels[i];
    vf sum[ROWS][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) sum[i][v] = bias ? v_load(bias + v * LANES) : v_set(0);
    for (int h = 0; h < taps_h; h++)
        for (int b = 0; b < taps_w; b++) {
            const int64_t at = h * m->tap_row + b * m->tap_col;
            for (int64_t k = at; k < at + run; k++) {
                vf weight[2];
                for (int v = 0; v < vecs; v++) weight[v] = v_load(w + v * LANES);
                w += vecs * LANES;
#pragma GCC unroll 8
                for (int i = 0; i < n; i++) {
                    const vf s = v_set(x[i][k]);
                    for (int v = 0; v < vecs; v++) sum[i][v] = v_fma(s, weight[v], sum[i][v]);
                }
            }
        }
    for (int i = 0; i < n; i++) store_used(vecs, used, y[i], sum[i]);
}

/* 2n pixels x one vector: pairs of pixels beside each other, so that n addresses and two indices
 * reach all of them. */
FN_INLINE void conv_pairs(int n, int taps_h, int taps_w, int64_t run, const conv_map *m,
                          int64_t beside, const float *const *pixels, const float *w,
                          const float *bias, float *const *y, int64_t y_beside, int used) {
    const float *x[ROWS];
    for (int i = 0; i < n; i++) x[i] = pixels[i];
    vf sum[ROWS][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) sum[i][v] = bias ? v_load(bias) : v_set(0);
    for (int h = 0; h < taps_h; h++)
        for (int b = 0; b < taps_w; b++) {
            const int64_t at = h * m->tap_row + b * m->tap_col;
            int64_t other = at + beside;
#pragma GCC unroll 2
            for (int64_t k = at; k < at + run; k++, other++) {
                __asm__("" : "+r"(other)); /* a second index, not n more addresses */
                const vf weight = v_load(w);
                w += LANES;
#pragma GCC unroll 8
                for (int i = 0; i < n; i++) {
                    sum[i][0] = v_fma(v_set(x[i][k]), weight, sum[i][0]);
                    sum[i][1] = v_fma(v_set(x[i][other]), weight, sum[i][1]);
                }
            }
        }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) store_used(1, used, y[i] + v * y_beside, &sum[i][v]);
}

/* 3 x 3 taps of 3 channels: so few that the loops have to be known to the compiler. */
FN_INLINE void conv_any(int n, int vecs, const conv_map *m, int64_t beside, int64_t y_beside,
                        const float *const *x, const float *w, const float *bias, float *const *y,
                        int used) {
#define CONV_TAPS(h, b, r)                                                    \
    do {                                                                      \
        if (vecs == 1)                                                        \
            conv_pairs(n, h, b, r, m, beside, x, w, bias, y, y_beside, used); \
        else                                                                  \
            conv_tile(n, vecs, h, b, r, m, x, w, bias, y, used);              \
        return;                                                               \
    } while (0)
    if (FN_KNOWN_TAPS && n >= ROWS - 1 && m->taps_w == 1 && m->taps_h == 3 && m->run == 9)
        CONV_TAPS(3, 1, 9);
    CONV_TAPS(m->taps_h, m->taps_w, m->run);
#undef CONV_TAPS
}

FN_INLINE void conv_some(int n, int vecs, const conv_map *m, int64_t beside, int64_t y_beside,
                         const float *const *x, const float *w, const float *bias, float *const *y,
                         int used) {
    switch (n) {
    case 1: conv_any(1, vecs, m, beside, y_beside, x, w, bias, y, used); break;
    case 2: conv_any(2, vecs, m, beside, y_beside, x, w, bias, y, used); break;
    case 3: conv_any(3, vecs, m, beside, y_beside, x, w, bias, y, used); break;
    case 4: conv_any(4, vecs, m, beside, y_beside, x, w, bias, y, used); break;
    case 5: conv_any(5, vecs, m, beside, y_beside, x, w, bias, y, used); break;
    case 6: conv_any(6, vecs, m, beside, y_beside, x, w, bias, y, used); break;
#if FN_LANES == 16
    case 7: conv_any(7, vecs, m, beside, y_beside, x, w, bias, y, used); break;
    case 8: conv_any(8, vecs, m, beside, y_beside, x, w, bias, y, used); break;
#endif
    }
}

/* ---- pictures of one channel: taps_h rows of `run` taps, pixels beside each other ----
 * A few taps only: addresses have to be constants, and a tile's setup short.
 */

enum { GREY = 14 }; /* most pixels of a tile of one vector: sums, a weight and a pixel fill 16 */

FN_INLINE void grey_tile(int n, int vecs, int taps_h, int run, const conv_map *m, const float *x,
                         const float *w, const float *bias, float *y, int used) {
    vf sum[GREY][2];
#pragma GCC unroll 14
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vecs; v++) sum[i][v] = bias ? v_load(bias + v * LANES) : v_set(0);
#pragma GCC unroll 5
    for (int h = 0; h < taps_h; h++) {
        const float *from = x + h * m->tap_row;
#pragma GCC unroll 5
        for (int k = 0; k < run; k++) {
            __asm__(""
                    : "+r"(from)); /* load a pixel again for its next tap, rather than spill it */
            vf weight[2];
            for (int v = 0; v < vecs; v++)
                weight[v] = v_load(w + ((h * run + k) * vecs + v) * LANES);
#pragma GCC unroll 14
            for (int i = 0; i < n; i++) {
                const vf s = v_set(from[i + k]);
                for (int v = 0; v < vecs; v++) sum[i][v] = v_fma(s, weight[v], sum[i][v]);
            }
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < n; i++) store_used(vecs, used, y + i * m->y_col, sum[i]);
}

FN_INLINE void grey_row(int vecs, int taps, const conv_map *m, const float *x, const float *w,
                        const float *bias, float *y, int used) {
    const int most = vecs == 1 ? GREY : ROWS, tiles = (m->cols + most - 1) / most;
    const int least = m->cols / tiles, larger = m->cols - least * tiles;
    for (int t = 0; t < tiles; t++) {
        const int n = least + (t < larger);
#define GREY_TILE(n) \
    case n: grey_tile(n, vecs, taps, taps, m, x, w, bias, y, used); break;
        switch (n) {
            GREY_TILE(1)
            GREY_TILE(2)
            GREY_TILE(3)
            GREY_TILE(4) GREY_TILE(5) GREY_TILE(6) default : if (vecs == 1 || ROWS > 6) switch (n) {
                GREY_TILE(7) GREY_TILE(8) default : if (vecs == 1) switch (n) {
                    GREY_TILE(9)
                    GREY_TILE(10) GREY_TILE(11) GREY_TILE(12) GREY_TILE(13) GREY_TILE(14)
                }
            }
        }
#undef GREY_TILE
        x += n;
        y += n * m->y_col;
    }
}

/* One panel of output channels, `used` of its lanes, all pixels: tiles as even as can be. With one
 * vector the tile's pixels are pairs; the last pair of an odd row takes its left neighbour again.
 */
FN_INLINE void conv_panel(int vecs, const conv_map *m, const float *x, const float *w,
                          const float *bias, float *y, int used) {
    if (FN_KNOWN_TAPS && m->x_col == 1 && m->taps_w == 1 && m->taps_h == m->run &&
        (m->run == 3 || m->run == 5)) {
        for (int r = 0; r < m->rows; r++)
            if (m->run == 3)
                grey_row(vecs, 3, m, x + r * m->x_row, w, bias, y + r * m->y_row, used);
            else
                grey_row(vecs, 5, m, x + r * m->x_row, w, bias, y + r * m->y_row, used);
        return;
    }
    const int pair = vecs == 1 ? 2 : 1;
    const int across = (m->cols + pair - 1) / pair, all = m->rows * across;
    const int tiles = (all + ROWS - 1) / ROWS, least = all / tiles, larger = all - least * tiles;
    const int last = m->cols > pair ? m->cols - pair : 0; /* where the last of a row begins */
    const int64_t beside = m->cols > 1 ? m->x_col : 0, y_beside = m->cols > 1 ? m->y_col : 0;
    int row = 0, col = 0;
    for (int t = 0; t < tiles; t++) {
        const int n = least + (t < larger);
        const float *from[ROWS];
        float *to[ROWS];
        for (int i = 0; i < n; i++) {
            const int c = col < last ? col : last;
            from[i] = x + row * m->x_row + c * m->x_col;
            to[i] = y + row * m->y_row + c * m->y_col;
            col += pair;
            if (col >= m->cols) {
                col = 0;
                row++;
            }
        }
        conv_some(n, vecs, m, beside, y_beside, from, w, bias, to, used);
    }
}

#endif
