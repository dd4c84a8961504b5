/* dense_sgemm.h - the dense op by OpenBLAS: products of whole blocks of rows with W row-major. */
#ifndef FN_DENSE_SGEMM_H
#define FN_DENSE_SGEMM_H

#include "gemm.h"
#include "kernels/dense_tiles.h"

/* sgemm wants W row-major: a slice of it, from the panels. */
FN_INLINE void prepare_sgemm(const fn_call *call, const fn_op *op, int64_t k0, int64_t k1) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int64_t ld = call->plan->buffers[op->out[0]].ld;
    float *copy = (float *)(call->work->arena + op->copy_offset);
    for (int64_t c = 0; c < units; c += PANEL) {
        const int width = fn_panel_width(units, c, LANES);
        for (int64_t k = k0; k < k1; k++)
            memcpy(copy + k * ld + c, fn_weights(call, op, 0) + c * d_in + k * width,
                   (size_t)width * sizeof(float));
    }
}

FN_INLINE void forward_sgemm(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in,
                             int64_t units, const float *bias) {
    const int64_t ldy = fn_ld(call, op->out[0]), rows = tile.r1 - tile.r0;
    float *y = fn_row(call, tile, op->out[0], tile.r0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < units; c++) y[i * ldy + c] = bias ? bias[c] : 0;
    const float *copy = (const float *)(call->work->arena + op->copy_offset);
    fn_sgemm(false, false, rows, units, d_in, fn_row(call, tile, op->in[0], tile.r0),
             fn_ld(call, op->in[0]), copy, ldy, 1, y, ldy);
}

FN_INLINE void backward_sgemm(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in,
                              int64_t units) {
    const int64_t ldy = call->plan->buffers[op->out[0]].ld;
    const float *copy = (const float *)(call->work->arena + op->copy_offset);
    fn_sgemm(false, true, tile.r1 - tile.r0, d_in, units,
             fn_gradient_row(call, tile, op->out[0], tile.r0), ldy, copy, ldy, 0,
             fn_gradient_row(call, tile, op->in[0], tile.r0), call->plan->buffers[op->in[0]].ld);
}

FN_INLINE void update_sgemm(const fn_call *call, const fn_op *op, fn_tile tile, int64_t k0, int n,
                            float *g) {
    const int64_t units = call->plan->buffers[op->out[0]].cols,
                  d_in = call->plan->buffers[op->in[0]].cols;
    const int64_t ldx = fn_ld(call, op->in[0]), ldy = call->plan->buffers[op->out[0]].ld;
    const int lanes = call->plan->options.lanes, part = (call->rows + lanes - 1) / lanes;
    for (int l = 0; l < lanes; l++) {
        const int r0 = l * part < call->rows ? l * part : call->rows,
                  r1 = r0 + part < call->rows ? r0 + part : call->rows;
        float *product = g + (int64_t)l * n * ldy;
        if (r1 > r0)
            fn_sgemm(true, false, n, units, r1 - r0, fn_row(call, tile, op->in[0], r0) + k0, ldx,
                     fn_gradient_row(call, tile, op->out[0], r0), ldy, 0, product, ldy);
        else
            memset(product, 0, (size_t)(n * ldy) * sizeof(float));
    }
    add_lanes(lanes, n * ldy, g);
    float *panel = g + (int64_t)lanes * n * ldy;
    for (int64_t c = 0; c < units; c += PANEL) {
        const int width = fn_panel_width(units, c, LANES);
        for (int k = 0; k < n; k++)
            for (int j = 0; j < width; j++)
                panel[k * width + j] = c + j < units ? g[k * ldy + c + j] : 0;
        fn_sink(call, op, 0, (size_t)(c * d_in + k0 * width), (int64_t)n * width, panel);
    }
}

#endif
