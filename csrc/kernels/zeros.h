/* zeros.h - where the rows of a source are zero: products with those values are skipped.
 *
 * Pictures, counts and one-hot columns are mostly zeros, and zeros lie together. Forward, a column
 * that is zero in all rows of a register tile is left out. For the gradient of W the rows are kept
 * by columns: a tile of ROWS columns keeps only the rows of the batch in which one of them is not
 * zero. NaN is not zero, and -0 is. Sums go on in the same order, so skipping changes no bit but
 * the sign of a zero, unless a weight or a gradient is not finite: forward asks `risky` first, and
 * a gradient that is not finite ends the training anyway.
 */
#ifndef FN_ZEROS_H
#define FN_ZEROS_H

#include "kernels/level.h"

/* Lanes of x (rows, n) from column k on that hold no zero in all rows. The sign is shifted out. */
FN_INLINE unsigned nonzero_lanes(int rows, const float *const *x, int64_t k) {
    vi any = v_bits(v_load(x[0] + k));
    for (int i = 1; i < rows; i++) any |= v_bits(v_load(x[i] + k));
    return v_mask((vu)any + (vu)any != 0);
}

/* Columns [0, n) that are not zero in all of `rows` rows: how many, n when it does not pay to leave
 * the others out. where has room for n + LANES. */
FN_INLINE int64_t nonzero_columns(int rows, int64_t n, const float *const *x, int32_t *where) {
    int64_t count = 0, k = 0;
    for (; k + LANES <= n; k += LANES) {
        const unsigned mask = nonzero_lanes(rows, x, k);
        if (!mask) continue;
        for (int j = 0; j < LANES; j++) {
            where[count] = (int32_t)k + j;
            count += mask >> j & 1;
        }
        if (k >= n / 4 && count > k - k / 8) return n; /* so far nearly none was zero */
    }
    for (; k < n; k++) {
        bool any = false;
        for (int i = 0; i < rows; i++) any |= x[i][k] != 0;
        where[count] = (int32_t)k;
        count += any;
    }
    return count;
}

/* Rows of a batch kept by columns, for `tiles` register tiles of ROWS columns: counts[t] rows of
 * tile t are not all zero; which ones stand at index(t), their values, row behind row, at
 * values(t). */
typedef struct {
    int32_t *counts, *indices;
    float *values;
    int64_t index_stride, value_stride; /* from tile to tile; values: an odd number of lines */
} column_rows;

enum { READ = FN_LANES > 8 ? FN_LANES : 8 }; /* floats moved at a time; the next row overwrites */

FN_INLINE size_t column_rows_bytes(int64_t tiles, int64_t rows) {
    const int64_t line = FN_PAD, indices = (rows + line - 1) / line * line,
                  values = ((rows * ROWS + READ + line - 1) / line * line) | line;
    return (size_t)((tiles + line - 1) / line * line + tiles * (indices + values)) * 4;
}

FN_INLINE column_rows column_rows_at(void *memory, int64_t tiles, int64_t rows) {
    const int64_t line = FN_PAD;
    column_rows c = {.counts = memory};
    c.index_stride = (rows + line - 1) / line * line;
    c.value_stride = ((rows * ROWS + READ + line - 1) / line * line) | line;
    c.indices = c.counts + (tiles + line - 1) / line * line;
    c.values = (float *)(c.indices + tiles * c.index_stride);
    return c;
}

/* Row r of a column tile, x (READ): kept if one of its ROWS values is not zero. */
FN_INLINE void keep_row(float *values, int32_t *indices, int *count, int r, const float *x) {
    unsigned any = 0;
    for (int i = 0; i < READ; i += LANES) {
        const vf v = v_load(x + i);
        any |= v_mask((vu)v + (vu)v != 0) << i;
        v_store(values + (int64_t)*count * ROWS + i, v);
    }
    indices[*count] = r;
    *count += (any & ((1u << ROWS) - 1)) != 0;
}

enum { KEPT = 16 };

/* Keep column tiles [t0, t1), at most KEPT of them, of x (rows, n). */
FN_INLINE void keep_columns(const column_rows *c, int64_t t0, int64_t t1, int64_t n, int rows,
                            const float *const *x) {
    int count[KEPT] = {0};
    int64_t whole = (n - READ) / ROWS + 1; /* tiles of which READ columns can be read */
    whole = n < READ ? t0 : whole < t1 ? whole : t1;
    for (int r = 0; r < rows; r++) {
        for (int64_t t = t0; t < whole; t++)
            keep_row(c->values + t * c->value_stride, c->indices + t * c->index_stride,
                     &count[t - t0], r, x[r] + t * ROWS);
        for (int64_t t = whole < t0 ? t0 : whole; t < t1; t++) {
            float last[READ] = {0};
            memcpy(last, x[r] + t * ROWS,
                   (size_t)(n - t * ROWS < ROWS ? n - t * ROWS : ROWS) * sizeof(float));
            keep_row(c->values + t * c->value_stride, c->indices + t * c->index_stride,
                     &count[t - t0], r, last);
        }
    }
    for (int64_t t = t0; t < t1; t++) c->counts[t] = count[t - t0];
}

#endif
