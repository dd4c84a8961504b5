/* sparse_row.h - rows of a CSR source: spread over their columns, or only where they have entries.
 *
 * A dense op behind such a source knows the columns of a row without looking for them. */
#ifndef FN_SPARSE_ROW_H
#define FN_SPARSE_ROW_H

#include "csr.h"
#include "kernels/zeros.h"

FN_INLINE float entry_of(const fn_source *s, int64_t i) {
    return s->dtype == FN_F64 ? (float)((const double *)s->data)[i] : ((const float *)s->data)[i];
}

/* y (cols) = the row, zeros where it has no entry; whether all of it is finite. Columns were
 * checked before the run; one that was changed since is not written to. */
FN_INLINE bool spread_row(const fn_source *s, int64_t row, int64_t cols, float *y) {
    const int64_t end = fn_csr_index(s->indptr, s->index_dtype, row + 1);
    float bad = 0; /* NaN as soon as a value is NaN or infinite */
    memset(y, 0, (size_t)cols * sizeof *y);
    for (int64_t i = fn_csr_index(s->indptr, s->index_dtype, row); i < end; i++) {
        const float value = entry_of(s, i);
        const int64_t column = fn_csr_index(s->indices, s->index_dtype, i);
        if ((uint64_t)column < (uint64_t)cols) y[column] = value + 0.0f; /* a zero is +0 */
        bad += value - value;
    }
    return bad == 0;
}

/* The CSR source whose rows a buffer holds, `scale` times; NULL if there is none. */
FN_INLINE const fn_source *sparse_source(const fn_call *call, int buffer, float *scale) {
    const fn_op *input = &call->plan->ops[call->plan->buffers[buffer].producer];
    if (!(input->flags & FN_SOURCE)) return NULL;
    const fn_source *source = &call->args->sources[(int)input->attr[0]];
    const bool zeros_stay = input->attr[2] == 0 && input->attr[3] == 0; /* offset, mixup */
    *scale = (float)input->attr[1];
    return source->indptr && zeros_stay ? source : NULL;
}

/* The entries [first, end) of row r of the minibatch. */
FN_INLINE int64_t entries_of(const fn_call *call, const fn_source *s, int64_t r, int64_t *end) {
    const int64_t place = call->first + r,
                  row = call->args->order ? call->args->order[place] : place;
    *end = fn_csr_index(s->indptr, s->index_dtype, row + 1);
    return fn_csr_index(s->indptr, s->index_dtype, row);
}

/* The columns of entries [first, end): where they are, or copied into `room`. */
FN_INLINE const int32_t *columns_of(const fn_source *s, int64_t first, int64_t end, int32_t *room) {
    if (s->index_dtype == FN_I32) return (const int32_t *)s->indices + first;
    for (int64_t i = first; i < end; i++)
        room[i - first] = (int32_t)((const int64_t *)s->indices)[i];
    return room;
}

/* The first of entries [first, end) whose column is at least `column`. */
FN_INLINE int64_t entry_from(const fn_source *s, int64_t first, int64_t end, int64_t column) {
    while (first < end) {
        const int64_t middle = first + (end - first) / 2;
        if (fn_csr_index(s->indices, s->index_dtype, middle) < column)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

/* As keep_columns, of the rows of the minibatch, whose values are read `scale` times. */
FN_INLINE void keep_entries(const fn_call *call, const fn_source *s, const column_rows *c,
                            int64_t t0, int64_t t1, float scale) {
    memset(c->counts + t0, 0, (size_t)(t1 - t0) * sizeof *c->counts);
    for (int r = 0; r < call->rows; r++) {
        int64_t end, i = entries_of(call, s, r, &end);
        for (i = entry_from(s, i, end, t0 * ROWS); i < end; i++) {
            const int64_t column = fn_csr_index(s->indices, s->index_dtype, i), t = column / ROWS;
            if (t >= t1) break;
            const float value = entry_of(s, i) * scale;
            if (value == 0) continue;
            int32_t *indices = c->indices + t * c->index_stride, *count = &c->counts[t];
            if (*count == 0 || indices[*count - 1] != r) {
                memset(c->values + t * c->value_stride + (int64_t)*count * ROWS, 0,
                       ROWS * sizeof(float));
                indices[(*count)++] = r;
            }
            c->values[t * c->value_stride + (int64_t)(*count - 1) * ROWS + column % ROWS] = value;
        }
    }
}

#endif
