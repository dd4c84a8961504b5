/* dense.c - y (n, units) = x (n, d_in) @ W (d_in, units) + b (units).
 *
 * W lies in panels of PANEL = 2 vectors of output columns, [panel][d_in][PANEL]: one stream, never
 * repacked. Every product is summed over k in order, from the bias, in registers: so a row has the
 * same bits in any batch, in any tile. + 0 at the end makes -0 the +0 that skipping zero inputs
 * (batch of one row) gives.
 */
#include "kernels/bad_input.h"
#include "kernels/dense_one.h"
#include "kernels/dense_sgemm.h"
#include "kernels/dense_tiles.h"
#include "kernels/sparse_row.h"

enum {
    CHUNK = 96,  /* rows of W in an update slice: its gradient stays in L1 */
    GROUP = 4,   /* panels that share a chunk of x while it is in L1 */
    MANY = 24,   /* from so many rows on dX is a product with W^T, made panel by panel */
    NARROW = 16, /* with so few columns in any case: there is too little to sum in a dot product */
    WIDE = 16384 /* more weights than this (64 KiB) are cut by columns: see docs/architecture.md */
};

/* ---- forward ---- */

/* Whether rows of W are behind, and have to make up for steps before they are read. */
static bool coasting(const fn_call *call, const fn_op *op) {
    return op->coasts && call->optimizer && call->optimizer->coast &&
           call->hyper[call->plan->params[op->params[0]].decay != 0].plain;
}

static int32_t *last_steps(const fn_call *call, const fn_op *op) {
    return (int32_t *)(call->work->arena + op->copy_offset);
}

/* Where the only row is not zero; NULL and d_in when it does not pay to leave the others out. A
 * thread looks once a step. */
static const int32_t *nonzero_of_one(const fn_call *call, const fn_op *op, fn_tile tile,
                                     const float *x, int64_t d_in, int64_t *count) {
    bool fresh = false;
    int32_t *list = (int32_t *)(op->local && call->plan->options.max_rows == 1
                                    ? fn_local(call, op, tile, &fresh)
                                    : fn_scratch(call, tile));
    if (!fresh) list[0] = (int32_t)nonzero(d_in, x, list + 1);
    *count = list[0];
    if (*count <= d_in * 3 / 4) return list + 1;
    *count = d_in;
    return NULL;
}

/* A product with a zero input is skipped where that cannot change a bit: no weight is NaN or
 * infinite. */
static void forward_batch_of_one(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in,
                                 int64_t c1, const float *bias) {
    const float *x = fn_rows(call, tile, op->in[0])[0];
    const int32_t *where = NULL;
    int64_t count = d_in;
    if (!fn_risky(call, op)) where = nonzero_of_one(call, op, tile, x, d_in, &count);
    if (coasting(call, op))
        coast(call, op, tile.c0, c1, count, where, call->step, last_steps(call, op));
    forward_one(d_in, call->plan->buffers[op->out[0]].cols, tile.c0, c1, count, where, x,
                fn_weights(call, op, 0), bias, fn_row(call, tile, op->out[0], tile.r0));
}

static void forward_panels(int rows, int64_t d_in, int64_t units, int64_t c0, int64_t c1,
                           int64_t count, const int32_t *where, const float *const *x,
                           const float *w, const float *bias, float *y, int64_t ldy) {
    for (int64_t c = c0; c < c1; c += PANEL) {
        const float *b = bias ? bias + c : NULL;
        if (fn_panel_width(units, c, LANES) == PANEL)
            forward_rows(rows, 2, count, where, x, w + c * d_in, b, y + c, ldy);
        else
            forward_rows(rows, 1, count, where, x, w + c * d_in, b, y + c, ldy);
    }
}

enum {
    PAYS = 3, /* panels of a tile from which on looking for zeros pays */
    FEW = 4   /* with entries in at most a fourth of the columns rows go one by one */
};

/* Register tiles as even as can be: none of one row beside full ones. The rows of a source are
 * looked through for columns without a value. */
static void forward_tiles(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in,
                          int64_t c1, const float *bias) {
    const int64_t ldy = fn_ld(call, op->out[0]), units = call->plan->buffers[op->out[0]].cols;
    const float *const *x = fn_rows(call, tile, op->in[0]), *w = fn_weights(call, op, 0);
    float *y = fn_row(call, tile, op->out[0], tile.r0);
    const int rows = tile.r1 - tile.r0, tiles = (rows + ROWS - 1) / ROWS;
    const int least = rows / tiles, larger = rows - least * tiles;
    const bool look = op->sparse && c1 - tile.c0 >= PAYS * PANEL && !fn_risky(call, op);
    int32_t *where = (int32_t *)fn_scratch(call, tile);
    for (int i = 0, r = 0; i < tiles; i++) {
        const int n = least + (i < larger);
        const int64_t count = look ? nonzero_columns(n, d_in, x + r, where) : d_in;
        if (count < d_in)
            forward_panels(n, d_in, units, tile.c0, c1, count, where, x + r, w, bias, y + r * ldy,
                           ldy);
        else
            forward_panels(n, d_in, units, tile.c0, c1, d_in, NULL, x + r, w, bias, y + r * ldy,
                           ldy);
        r += n;
    }
}

/* Rows of a CSR source, one by one, where they have so few entries that register tiles do not pay;
 * false if not. */
static bool forward_entries(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in,
                            int64_t c1, const float *bias) {
    float scale;
    const fn_source *source = op->sparse ? sparse_source(call, op->in[0], &scale) : NULL;
    int64_t end, total = 0;
    if (!source || fn_risky(call, op)) return false;
    for (int r = tile.r0; r < tile.r1; r++) {
        const int64_t first = entries_of(call, source, r, &end);
        total += end - first;
    }
    if (total > (tile.r1 - tile.r0) * d_in / FEW) return false;
    const float *const *x = fn_rows(call, tile, op->in[0]);
    for (int r = tile.r0; r < tile.r1; r++) {
        const int64_t first = entries_of(call, source, r, &end);
        const int32_t *where = columns_of(source, first, end, (int32_t *)fn_scratch(call, tile));
        forward_one(d_in, call->plan->buffers[op->out[0]].cols, tile.c0, c1, end - first, where,
                    x[r - tile.r0], fn_weights(call, op, 0), bias,
                    fn_row(call, tile, op->out[0], r));
    }
    return true;
}

/* Rows used where the source has them were not checked yet. NaN or infinity in a row makes every
 * output of the row NaN or infinite, so the first vector of outputs tells which rows to look at. */
static void check_rows(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in) {
    const fn_op *input = &call->plan->ops[call->plan->buffers[op->in[0]].producer];
    for (int r = tile.r0; r < tile.r1; r++)
        if (v_any(v_nonfinite(v_load(fn_row(call, tile, op->out[0], r)))))
            report_bad_input(call, input, call->first + r, d_in,
                             fn_rows(call, tile, op->in[0])[r - tile.r0]);
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int64_t c1 = tile.c1 < units ? tile.c1 : units;
    const float *bias = fn_bias(call, op);
    if (tile.r1 == tile.r0) return;
    if (op->sgemm)
        forward_sgemm(call, op, tile, d_in, units, bias);
    else if (tile.r1 - tile.r0 == 1)
        forward_batch_of_one(call, op, tile, d_in, c1, bias);
    else if (!forward_entries(call, op, tile, d_in, c1, bias))
        forward_tiles(call, op, tile, d_in, c1, bias);
    if (tile.c0 == 0 && call->work->in_place[op->in[0]]) check_rows(call, op, tile, d_in);
}

/* ---- backward: dx (n, d_in) = dy @ W^T ----
 * For few rows dot products along the columns of W, lane by lane, straight from the panels. For
 * many a panel of W^T is made in cache and used like W forward.
 */

/* Columns [k, k + PANEL) of dx from a panel of W^T, t (units, PANEL). Padding of dx is written. */
static void backward_panel(int64_t rows, int64_t units, int64_t k, const float *t, const float *dy,
                           int64_t ldy, float *dx, int64_t ldx) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS, least = rows / tiles,
                  larger = rows - least * tiles;
    for (int64_t i = 0, r = 0; i < tiles; i++) {
        const int n = (int)(least + (i < larger));
        const float *y[ROWS];
        for (int j = 0; j < n; j++) y[j] = dy + (r + j) * ldy;
        forward_rows(n, 2, units, NULL, y, t, NULL, dx + r * ldx + k, ldx);
        r += n;
    }
}

/* A whole W^T that each thread makes once a step, of a layer that rows go through in a chain. */
static const float *transposed(const fn_call *call, const fn_op *op, fn_tile tile, int64_t d_in,
                               int64_t units) {
    bool fresh;
    const int64_t deep = (units + 3) / 4 * 4;
    float *t = fn_local(call, op, tile, &fresh);
    for (int64_t k = 0; !fresh && k < d_in; k += PANEL)
        transpose_panel(d_in, units, k, fn_weights(call, op, 0), t + k * deep);
    return t;
}

static void backward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int64_t ldx = call->plan->buffers[op->in[0]].ld, ldy = call->plan->buffers[op->out[0]].ld;
    const float *dy = fn_gradient_row(call, tile, op->out[0], tile.r0),
                *weights = fn_weights(call, op, 0);
    float *dx = fn_gradient_row(call, tile, op->in[0], tile.r0);
    const int rows = tile.r1 - tile.r0;
    const int64_t end = tile.c1 < d_in ? tile.c1 : d_in;
    if (op->sgemm) {
        backward_sgemm(call, op, tile, d_in, units);
        return;
    }
    if (op->transposes) {
        const int64_t deep = (units + 3) / 4 * 4;
        const float *whole = op->wide ? NULL : transposed(call, op, tile, d_in, units);
        for (int64_t k = tile.c0; k < end; k += PANEL) {
            if (op->wide) transpose_panel(d_in, units, k, weights, fn_scratch(call, tile));
            backward_panel(rows, units, k, whole ? whole + k * deep : fn_scratch(call, tile), dy,
                           ldy, dx, ldx);
        }
        return;
    }
    for (int64_t k = tile.c0; k < end; k += 4) {
        const int n = end - k < 4 ? (int)(end - k) : 4;
        const float *w[8]; /* rows k..k+3 of a panel one and two vectors wide; past the end: the
                              last again */
        for (int j = 0; j < 4; j++)
            for (int v = 0; v < 2; v++)
                w[j * 2 + v] = weights + (k + (j < n ? j : n - 1)) * (v + 1) * LANES;
        int i = 0;
        for (; i + 3 <= rows; i += 3)
            backward_tile(3, d_in, units, w, dy + i * ldy, ldy, dx + i * ldx + k, ldx, n);
        if (rows - i == 2)
            backward_tile(2, d_in, units, w, dy + i * ldy, ldy, dx + i * ldx + k, ldx, n);
        if (rows - i == 1)
            backward_tile(1, d_in, units, w, dy + i * ldy, ldy, dx + i * ldx + k, ldx, n);
    }
}

/* ---- update: dW (d_in, units) = x^T @ dy, db = sum of dy's rows, a slice at a time ---- */

/* Both vectors of a panel at once: one sum alone would wait for itself. */
static void bias_gradient(int width, int64_t rows, const float *dy, int64_t ldy, float *g) {
    const int second = width - LANES;
    vf sum[2] = {v_set(0), v_set(0)};
    for (int64_t r = 0; r < rows; r++) {
        sum[0] += v_load(dy + r * ldy);
        sum[1] += v_load(dy + r * ldy + second);
    }
    v_store(g, sum[0]);
    v_store(g + second, sum[1]);
}

/* Gradients of W may go past fn_sink: nobody else adds to them or wants to see them. */
static bool straight(const fn_call *call, const fn_op *op) {
    return !call->plan->flat && call->plan->params[op->params[0]].users == 1;
}

/* Where chunk `index` of `chunks` begins: whole register tiles, as even as can be. */
static int chunk_start(int64_t d_in, int chunks, int index) {
    const int64_t tiles = (d_in + ROWS - 1) / ROWS, start = tiles * index / chunks * ROWS;
    return (int)(start < d_in ? start : d_in);
}

static int chunk_count(int64_t d_in) { return (int)((d_in + CHUNK - 1) / CHUNK); }

/* Slice `index` is a panel and a chunk of its rows. Groups of GROUP panels go through the chunks
 * together: the columns of x that a chunk reads stay in L1 for the whole group. */
static void slice_of(int64_t units, int chunks, int index, int *panel, int *chunk) {
    const int panels = (int)((units + PANEL - 1) / PANEL), group = index / (GROUP * chunks);
    const int rest = index - group * GROUP * chunks, left = panels - group * GROUP;
    const int size = left < GROUP ? left : GROUP;
    *panel = group * GROUP + rest % size;
    *chunk = rest / size;
}

static void update_bias(const fn_call *call, const fn_op *op, fn_tile tile, int64_t c, int width,
                        float *g) {
    const int64_t ldy = call->plan->buffers[op->out[0]].ld;
    const int lanes = call->plan->options.lanes, part = (call->rows + lanes - 1) / lanes;
    for (int l = 0; l < lanes; l++) {
        const int r0 = l * part < call->rows ? l * part : call->rows,
                  r1 = r0 + part < call->rows ? r0 + part : call->rows;
        bias_gradient(width, r1 - r0, fn_gradient_row(call, tile, op->out[0], r0) + c, ldy,
                      g + l * width);
    }
    add_lanes(lanes, width, g);
    fn_sink(call, op, 1, (size_t)c, width, g);
}

/* The rows of a source by columns, in the op's own memory: see zeros.h. */
static column_rows kept_rows(const fn_call *call, const fn_op *op, int64_t d_in) {
    return column_rows_at(call->work->arena + op->copy_offset, (d_in + ROWS - 1) / ROWS,
                          call->plan->options.max_rows);
}

/* dW of a chunk of a panel over rows [r0, r1) of the batch. */
static void slice_gradient(const fn_call *call, const fn_op *op, fn_tile tile, int64_t c, int k0,
                           int n, int r0, int r1, float *g) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int64_t ldy = call->plan->buffers[op->out[0]].ld;
    const bool wide = fn_panel_width(units, c, LANES) == PANEL;
    if (op->sparse && op->copy_bytes) {
        const column_rows kept = kept_rows(call, op, d_in);
        const int64_t t0 = k0 / ROWS, t1 = (k0 + n + ROWS - 1) / ROWS;
        const float *dy = fn_gradient_row(call, tile, op->out[0], 0) + c;
        if (wide)
            kept_chunk(2, &kept, t0, t1, r0, r1, dy, ldy, g);
        else
            kept_chunk(1, &kept, t0, t1, r0, r1, dy, ldy, g);
        return;
    }
    const float *const *x = fn_rows(call, tile, op->in[0]) + r0;
    const float *dy = fn_gradient_row(call, tile, op->out[0], r0) + c;
    if (wide)
        gradient_chunk(2, k0, n, r1 - r0, x, dy, ldy, g);
    else
        gradient_chunk(1, k0, n, r1 - r0, x, dy, ldy, g);
}

/* The gradient of rows [k0, k0 + n) of a panel, lane by lane, handed on. */
static void update_slice(const fn_call *call, const fn_op *op, fn_tile tile, int64_t c, int k0,
                         int n, float *g) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int lanes = call->plan->options.lanes, part = (call->rows + lanes - 1) / lanes;
    const int width = fn_panel_width(units, c, LANES);
    for (int l = 0; l < lanes; l++) {
        const int r0 = l * part < call->rows ? l * part : call->rows,
                  r1 = r0 + part < call->rows ? r0 + part : call->rows;
        slice_gradient(call, op, tile, c, k0, n, r0, r1, g + (int64_t)l * n * width);
    }
    add_lanes(lanes, (int64_t)n * width, g);
    fn_sink(call, op, 0, (size_t)(c * d_in + (int64_t)k0 * width), (int64_t)n * width, g);
}

/* A batch that is always one row: a block of panels, straight into the weights. Rows of zero input
 * are left out where the optimizer has nothing to do there, or can do it later. */
static void update_of_one(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int64_t c0 = (int64_t)tile.c0 * BLOCK_OF_ONE,
                  c1 = units - c0 < BLOCK_OF_ONE ? units : c0 + BLOCK_OF_ONE;
    const float *x = fn_rows(call, tile, op->in[0])[0],
                *dy = fn_gradient_row(call, tile, op->out[0], 0);
    const bool later = coasting(call, op),
               fused =
                   straight(call, op) && all_finite((c1 - c0 + LANES - 1) / LANES * LANES, dy + c0);
    const fn_param *kernel = &call->plan->params[op->params[0]];
    const bool idle = fused && call->optimizer->idle && call->hyper[kernel->decay != 0].plain;
    const int32_t *where = NULL;
    int64_t count = d_in;
    if (op->n_params > 1)
        for (int64_t c = c0; c < c1; c += PANEL)
            update_bias(call, op, tile, c, fn_panel_width(units, c, LANES), fn_scratch(call, tile));
    if (!kernel->trainable) return;
    if (fused && (later || idle)) where = nonzero_of_one(call, op, tile, x, d_in, &count);
    if (later) {
        coast(call, op, c0, c1, count, where, call->step, last_steps(call, op));
        mark(d_in, units, c0, c1, count, where, call->step + 1, last_steps(call, op));
    }
    if (fused) {
        update_rank1(call, op, c0, c1, 0, count, where, x, dy);
        return;
    }
    const int chunks = chunk_count(d_in);
    for (int64_t c = c0; c < c1; c += PANEL)
        for (int i = 0; i < chunks; i++) {
            const int k0 = chunk_start(d_in, chunks, i);
            update_slice(call, op, tile, c, k0, chunk_start(d_in, chunks, i + 1) - k0,
                         fn_scratch(call, tile));
        }
}

static void update(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols,
                  units = call->plan->buffers[op->out[0]].cols;
    const int chunks = chunk_count(d_in);
    int panel = 0, index = tile.c0;
    if (call->plan->options.max_rows == 1 && !op->sgemm) {
        update_of_one(call, op, tile);
        return;
    }
    if (!op->sgemm) slice_of(units, chunks, tile.c0, &panel, &index);
    const int k0 = chunk_start(d_in, chunks, index), n = chunk_start(d_in, chunks, index + 1) - k0;
    const int64_t c = (int64_t)panel * PANEL, width = fn_panel_width(units, c, LANES);
    float *g = fn_scratch(call, tile);
    if (op->n_params > 1 && index == 0)
        for (int64_t j = c; j < (op->sgemm ? units : c + 1); j += PANEL)
            update_bias(call, op, tile, j, fn_panel_width(units, j, LANES), g);
    const float *dy = fn_gradient_row(call, tile, op->out[0], 0);
    if (op->sgemm)
        update_sgemm(call, op, tile, k0, n, g);
    else if (call->rows == 1 && straight(call, op) && call->plan->params[op->params[0]].trainable &&
             all_finite(width, dy + c))
        update_rank1(call, op, c, c + width, k0, n, NULL, fn_rows(call, tile, op->in[0])[0] + k0,
                     dy);
    else
        update_slice(call, op, tile, c, k0, n, g);
}

/* No row of W is behind when a call begins, and none when it ends. */
static void begin(const fn_call *call, const fn_op *op) {
    int32_t *last = last_steps(call, op);
    const fn_param *p = &call->plan->params[op->params[0]];
    if (!coasting(call, op)) return;
    for (int64_t i = 0; i < (p->shape[1] + PANEL - 1) / PANEL * p->shape[0]; i++)
        last[i] = (int32_t)call->step;
}

static void settle(const fn_call *call, const fn_op *op) {
    const fn_param *p = &call->plan->params[op->params[0]];
    if (!coasting(call, op)) return;
    for (int64_t c = 0; c < p->shape[1]; c += BLOCK_OF_ONE)
        coast(call, op, c, p->shape[1] - c < BLOCK_OF_ONE ? p->shape[1] : c + BLOCK_OF_ONE,
              p->shape[0], NULL, call->step, last_steps(call, op));
}

static void prepare(const fn_call *call, const fn_op *op, fn_tile tile) {
    const int64_t d_in = call->plan->buffers[op->in[0]].cols;
    const int chunks = chunk_count(d_in), k0 = chunk_start(d_in, chunks, tile.c0),
              k1 = chunk_start(d_in, chunks, tile.c0 + 1);
    if (op->sgemm) {
        prepare_sgemm(call, op, k0, k1);
        return;
    }
    const column_rows kept = kept_rows(call, op, d_in);
    const int64_t t0 = k0 / ROWS, t1 = (k1 + ROWS - 1) / ROWS;
    float scale;
    const fn_source *source = sparse_source(call, op->in[0], &scale);
    if (source)
        keep_entries(call, source, &kept, t0, t1, scale);
    else
        keep_columns(&kept, t0, t1, d_in, call->rows, fn_rows(call, tile, op->in[0]));
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    if (op->n_params < 1) return "a kernel is wanted";
    fn_param *w = &plan->params[op->params[0]];
    if (in->dtype != FN_F32 || out->dtype != FN_F32) return "float32 rows are wanted";
    if (w->rank != 2 || w->shape[0] != in->cols || w->shape[1] != out->cols)
        return "the kernel's shape is not (d_in, units)";
    if (op->n_params > 1 && plan->params[op->params[1]].count != out->cols)
        return "the bias's shape is not (units,)";
    w->layout = FN_LAYOUT_PANELS;
    op->flops = 2.0 * (double)in->cols * (double)out->cols;
    op->wide = plan->options.mode == FN_TRAIN && in->cols * out->cols > WIDE;
    op->sgemm = plan->options.mode == FN_TRAIN &&
                fn_choose_sgemm(plan->options.gemm, plan->options.max_rows, in->cols, out->cols);
    const int lanes = plan->options.lanes, chunks = chunk_count(in->cols);
    op->slices = op->sgemm ? chunks : chunks * (int)((out->cols + PANEL - 1) / PANEL);
    const size_t chunk = CHUNK + ROWS, row = (size_t)(op->sgemm ? out->ld : PANEL);
    op->scratch = chunk * row * (size_t)lanes + chunk * PANEL;
    const bool one = plan->options.max_rows == 1 && !op->sgemm;
    if (one) op->slices = (int)((out->cols + BLOCK_OF_ONE - 1) / BLOCK_OF_ONE);
    if (one) op->local = (size_t)in->cols + 2 * FN_PAD;
    op->coasts =
        one && op->wide && plan->options.update == FN_UPDATE_FUSED && w->trainable && w->users == 1;
    if (op->coasts)
        op->copy_bytes = (size_t)((out->cols + PANEL - 1) / PANEL * in->cols) * sizeof(int32_t);
    if (op->scratch < (size_t)in->cols + FN_PAD) op->scratch = (size_t)in->cols + FN_PAD;
    const fn_op *source = &plan->ops[in->producer];
    op->sparse = !op->sgemm && plan->options.max_rows > 1 && (source->flags & FN_SOURCE);
    op->prepares = op->sgemm || (op->sparse && op->wide) ? chunks : 0;
    if (op->sparse && op->wide)
        op->copy_bytes = column_rows_bytes((in->cols + ROWS - 1) / ROWS, plan->options.max_rows);
    const int64_t panels = (in->cols + PANEL - 1) / PANEL, deep = (out->cols + 3) / 4 * 4;
    op->transposes = plan->options.mode == FN_TRAIN && !op->sgemm && plan->options.max_rows > 1 &&
                     in->ld % PANEL == 0 && (plan->options.max_rows >= MANY || out->cols <= NARROW);
    if (op->transposes) op->joined = (size_t)(panels * PANEL * deep) + 2 * FN_PAD;
    if (op->transposes && !op->wide) op->local = op->joined;
    if (op->transposes && op->scratch < (size_t)(PANEL * deep))
        op->scratch = (size_t)(PANEL * deep);
    if (op->sgemm) op->flags &= ~(unsigned)FN_READS_ROWS;
    if (op->sgemm) op->copy_bytes = (size_t)(in->cols * out->ld) * sizeof(float);
    return NULL;
}

const fn_op_impl FN_LEVELED(dense) = {
    .min_inputs = 1,
    .max_inputs = 1,
    .n_outputs = 1,
    .max_params = 2,
    .flags = FN_NEEDS_INPUT | FN_READS_ROWS | FN_FOLDS,
    .check = check,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .update = update,
    .begin = begin,
    .settle = settle,
};
