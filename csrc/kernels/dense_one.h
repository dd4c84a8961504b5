/* dense_one.h - a batch of one row: matrix-vector forward, rank-1 update, zero inputs skipped.
 *
 * Momentum moves every weight in every step, but a row of W whose input is zero moves by a rule
 * that no other number enters. Such rows are left alone until their input is not zero again, and
 * then make up for the steps in registers, one by one: the same bits, without the memory traffic.
 * Blocks of panels keep for each row the step that it is at.
 */
#ifndef FN_DENSE_ONE_H
#define FN_DENSE_ONE_H

#include "kernels/level.h"

enum { BLOCK_OF_ONE = FN_COASTED * PANEL }; /* columns of a tile */

/* Positions of the values of x that are not zero; returns how many. NaN counts. */
FN_INLINE int64_t nonzero(int64_t n, const float *x, int32_t *where) {
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++) {
        where[count] = (int32_t)k;
        count += x[k] != 0;
    }
    return count;
}

/* One row, `panels` panels side by side; where: the positions of x to visit, or NULL for all. */
FN_INLINE void forward_row(int panels, int vecs, int64_t d_in, int64_t count, const int32_t *where,
                           const float *x, const float *w, const float *bias, float *y) {
    vf sum[FN_COASTED][2];
    for (int p = 0; p < panels; p++)
        for (int v = 0; v < vecs; v++)
            sum[p][v] = bias ? v_load(bias + p * PANEL + v * LANES) : v_set(0);
    for (int64_t j = 0; j < count; j++) {
        const int64_t k = where ? where[j] : j;
        const vf s = v_set(x[k]);
        for (int p = 0; p < panels; p++)
            for (int v = 0; v < vecs; v++) {
                const vf weight = v_load(w + p * PANEL * d_in + (k * vecs + v) * LANES);
                sum[p][v] = v_fma(s, weight, sum[p][v]);
            }
    }
    for (int p = 0; p < panels; p++)
        for (int v = 0; v < vecs; v++) v_store(y + p * PANEL + v * LANES, sum[p][v] + 0.0f);
}

/* Columns [c0, c1) of a block: its panels of one width at a time. */
FN_INLINE int block_panels(int64_t units, int64_t c, int64_t c1, int *width) {
    *width = fn_panel_width(units, c, LANES);
    if (*width < PANEL) return 1;
    int panels = 1;
    while (panels < FN_COASTED && c + panels * PANEL < c1 &&
           fn_panel_width(units, c + panels * PANEL, LANES) == PANEL)
        panels++;
    return panels;
}

/* Columns [c0, c1) of y. */
FN_INLINE void forward_one(int64_t d_in, int64_t units, int64_t c0, int64_t c1, int64_t count,
                           const int32_t *where, const float *x, const float *w, const float *bias,
                           float *y) {
    int width, panels;
    for (int64_t c = c0; c < c1; c += panels * PANEL) {
        panels = block_panels(units, c, c1, &width);
        const float *b = bias ? bias + c : NULL, *wc = w + c * d_in;
        if (width == LANES)
            forward_row(1, 1, d_in, count, where, x, wc, b, y + c);
        else if (panels == 1)
            forward_row(1, 2, d_in, count, where, x, wc, b, y + c);
        else if (panels == 2)
            forward_row(2, 2, d_in, count, where, x, wc, b, y + c);
        else
            forward_row(FN_COASTED, 2, d_in, count, where, x, wc, b, y + c);
    }
}

/* Rows of columns [c0, c1) of W make up for the steps up to `step`. last: one a panel and row. */
static void coast(const fn_call *call, const fn_op *op, int64_t c0, int64_t c1, int64_t count,
                  const int32_t *where, int64_t step, int32_t *last) {
    const fn_param *p = &call->plan->params[op->params[0]];
    const int64_t d_in = p->shape[0], units = p->shape[1];
    fn_params *params = call->params;
    int width, panels;
    for (int64_t c = c0; c < c1; c += panels * PANEL) {
        panels = block_panels(units, c, c1, &width);
        const fn_coasting part = {.panels = panels,
                                  .width = width,
                                  .stride = d_in * PANEL,
                                  .count = count,
                                  .where = where,
                                  .step = step,
                                  .last = last + c / PANEL * d_in,
                                  .w = params->block[0] + p->offset + c * d_in,
                                  .s1 = params->block[1] + p->offset + c * d_in};
        call->optimizer->coast(&call->hyper[p->decay != 0], &part);
    }
}

/* The same rows are now at `step`. */
FN_INLINE void mark(int64_t d_in, int64_t units, int64_t c0, int64_t c1, int64_t count,
                    const int32_t *where, int64_t step, int32_t *last) {
    int width, panels;
    for (int64_t c = c0; c < c1; c += panels * PANEL) {
        panels = block_panels(units, c, c1, &width);
        int32_t *at = last + c / PANEL * d_in;
        for (int64_t j = 0; j < count; j++) at[where ? where[j] : j] = (int32_t)step;
    }
}

FN_INLINE bool all_finite(int64_t n, const float *x) {
    vi bad = v_seti(0);
    for (int64_t i = 0; i < n; i += LANES) bad |= v_nonfinite(v_load(x + i));
    return !v_any(bad);
}

FN_INLINE bool rows_finite(int64_t count, const int32_t *where, int width, const float *w) {
    vi bad = v_seti(0);
    for (int64_t j = 0; j < count; j++)
        for (int i = 0; i < width; i += LANES)
            bad |= v_nonfinite(v_load(w + (where ? where[j] : j) * width + i));
    return !v_any(bad);
}

/* Columns [c0, c1) of rows k0 + k of W from the gradient x[k] * dy, for k at where or (NULL) all.
 */
static void update_rank1(const fn_call *call, const fn_op *op, int64_t c0, int64_t c1, int64_t k0,
                         int64_t count, const int32_t *where, const float *x, const float *dy) {
    const fn_param *p = &call->plan->params[op->params[0]];
    const int64_t d_in = p->shape[0], units = p->shape[1];
    fn_params *params = call->params;
    const fn_hyper *h = &call->hyper[p->decay != 0];
    bool finite = true;
    for (int64_t c = c0; c < c1; c += PANEL) {
        const int width = fn_panel_width(units, c, LANES);
        const size_t at = p->offset + (size_t)(c * d_in + k0 * width);
        float *w = params->block[0] + at;
        call->optimizer->rank1(h, count, where, width, x, dy + c, w,
                               params->block[1] ? params->block[1] + at : NULL,
                               params->block[2] ? params->block[2] + at : NULL);
        finite &= rows_finite(count, where, width, w);
    }
    if (!finite) atomic_store(&params->risky, true);
}

#endif
