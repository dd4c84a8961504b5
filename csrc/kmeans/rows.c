/* rows.c - rows in float64, as decisions and sums want them, and where their mean lies. */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

double fn_km_weight(const fn_km_data *data, int64_t row) {
    return data->weights ? data->weights[row] : 1;
}

/* A row (d) as the caller gave it. */
static void raw_row(const fn_km_data *data, int64_t row, double *out) {
    const int64_t d = data->d;
    if (data->indptr) {
        memset(out, 0, (size_t)d * sizeof *out);
        int64_t i, end = fn_km_entries(data, row, &i);
        for (; i < end; i++)
            out[fn_csr_index(data->indices, data->index_dtype, i)] += fn_km_value_at(data, i);
        return;
    }
    const char *start = fn_km_row_start(data, row);
    if (data->dtype == FN_F64)
        memcpy(out, start, (size_t)d * sizeof *out);
    else
        for (int64_t j = 0; j < d; j++) out[j] = (double)((const float *)start)[j];
}

/* A row (d) in float64; scaled to length 1 for cosine. */
void fn_km_row(const fn_km_rows *rows, int64_t row, double *out) {
    raw_row(rows->data, row, out);
    if (!rows->scales) return;
    for (int64_t j = 0; j < rows->data->d; j++) out[j] *= rows->scales[row];
}

/* sum over j of (row[j] - center[j])^2: four partial sums, then the tail. */
double fn_km_distance(const double *row, const double *center, int64_t d) {
    vd sum = {0};
    int64_t j = 0;
    for (; j + 4 <= d; j += 4) {
        const vd gap = *(const vd_loose *)(row + j) - *(const vd_loose *)(center + j);
        sum += gap * gap;
    }
    double total = fn_km_sum4(sum);
    for (; j < d; j++) total += (row[j] - center[j]) * (row[j] - center[j]);
    return total;
}

/* Cosine: the scales of `count` rows. Room: a row. */
void fn_km_rows_scale(const fn_km_rows *rows, int64_t count, double *row) {
    if (!rows->scales) return;
    for (int64_t i = 0; i < count; i++) {
        const bool sparse = fn_km_is_sparse(rows->data);
        double sum = sparse ? fn_km_sparse_squares(rows->data, i) : 0;
        if (!sparse) raw_row(rows->data, i, row);
        for (int64_t j = 0; j < rows->data->d && !sparse; j++) sum += row[j] * row[j];
        rows->scales[i] = sum > 0 ? 1 / sqrt(sum) : 0;
    }
}

fn_status fn_km_rows_begin(fn_km_rows *rows, const fn_km_data *data) {
    *rows = (fn_km_rows){.data = data};
    if (!data->cosine) return FN_OK;
    double *scales = fn_alloc((size_t)data->n * sizeof *scales);
    double *row = fn_alloc((size_t)data->d * sizeof *row);
    rows->scales = scales;
    if (scales && row) fn_km_rows_scale(rows, data->n, row);
    fn_free(row);
    if (scales && row) return FN_OK;
    fn_km_rows_end(rows);
    return FN_ENOMEM;
}

void fn_km_rows_end(fn_km_rows *rows) {
    fn_free(rows->scales);
    rows->scales = NULL;
}

/* A row from column c0 on, to be read at once: in place where that is possible, else in `row`. */
const void *fn_km_peek(const fn_km_rows *rows, int64_t index, int64_t c0, double *row, bool *wide) {
    const fn_km_data *data = rows->data;
    if (data->indptr || rows->scales) {
        fn_km_row(rows, index, row);
        *wide = true;
        return row + c0;
    }
    *wide = data->dtype == FN_F64;
    return fn_km_row_start(data, index) + c0 * (*wide ? 8 : 4);
}

/* Rows first + list[i] less the shift, as float32 (count, ld); `row`: room for d. */
void fn_km_load(const fn_km *km, int64_t first, const int32_t *list, int count, float *out,
                int64_t ld, double *row) {
    if (!km->data.indptr && !km->rows.scales) {
        km->kernel->load(&km->data, km->shift32, first, list, count, out, ld);
        return;
    }
    for (int i = 0; i < count; i++) {
        fn_km_row(&km->rows, first + (list ? list[i] : i), row);
        for (int64_t j = 0; j < km->d; j++) out[i * ld + j] = (float)(row[j] - km->shift[j]);
    }
}

/* ---- the mean, squares and projections, in one pass ---- */

enum { SHIFT_SAMPLE = 256, ONCE_SAMPLE = 32, BLOCKS = 64, SURVEY_ROWS = 64 };

/* The shift: about the mean, from a sample, as float32 values, so that float32 rows lose at most
 * one rounding when it is taken away. */
fn_status fn_km_center(fn_km *km) {
    const int64_t most = km->purpose == FN_KM_ITERATE ? SHIFT_SAMPLE : ONCE_SAMPLE;
    const int64_t rows = km->n < most ? km->n : most;
    double *row = km->scratch, squares = 0, off = 0;
    if (km->sparse) return FN_OK; /* nothing is taken off such rows */
    for (int64_t i = 0; i < rows; i++) {
        fn_km_row(&km->rows, km->n * i / rows, row);
        for (int64_t j = 0; j < km->d; j++) {
            km->mean[j] += row[j];
            squares += row[j] * row[j];
        }
    }
    for (int64_t j = 0; j < km->d; j++) {
        km->shift32[j] = (float)(km->mean[j] / (double)rows);
        if (!(fabsf(km->shift32[j]) < 1e30f)) km->shift32[j] = 0;
        km->shift[j] = (double)km->shift32[j];
        off += km->shift[j] * km->shift[j];
    }
    km->centered = off > 0 && !(squares / (double)rows > 1.25 * off);
    if (km->centered) memcpy(km->origin, km->shift, (size_t)km->d * sizeof(double));
    return FN_OK;
}

typedef struct {
    fn_km *km;
    double *sums; /* (BLOCKS, d + 2): w (x - shift), weights, w |x - shift|^2 */
    int64_t bad[BLOCKS];
    int pass;
} survey;

/* Whether all values of a row are finite: its square may overflow all the same. Room: a row. */
static bool finite_row(const fn_km *km, int64_t row, double *room) {
    bool finite = true;
    fn_km_row(&km->rows, row, room);
    for (int64_t j = 0; j < km->d; j++) finite &= isfinite(room[j]) != 0;
    return finite;
}

/* Room for rows, and for their projections. */
size_t fn_km_survey_bytes(const fn_km *km) {
    const size_t ends = 2 * FN_KM_MOST_ROWS * ((size_t)km->p + FN_KM_PAD);
    return (SURVEY_ROWS * (size_t)km->ld + ends) * sizeof(float);
}

static int survey_next(void *context) { return ((survey *)context)->pass++ ? -1 : BLOCKS; }

static void survey_run(void *context, int tile, int thread) {
    survey *work = context;
    fn_km *km = work->km;
    const int64_t d = km->d, end = km->n * (tile + 1) / BLOCKS;
    double *sum = work->sums + (size_t)tile * (size_t)(d + 2), squares[SURVEY_ROWS];
    double *row = km->scratch + (size_t)thread * km->scratch_stride;
    float *rows = (float *)(km->spaces + (size_t)thread * km->space_bytes);
    fn_thread_report(thread);
    work->bad[tile] = -1;
    for (int64_t first = km->n * tile / BLOCKS; first < end; first += SURVEY_ROWS) {
        const int count = (int)(end - first < SURVEY_ROWS ? end - first : SURVEY_ROWS);
        for (int i = 0; i < count; i++) {
            const double weight = fn_km_weight(&km->data, first + i);
            bool wide;
            const void *at = km->sparse ? NULL : fn_km_peek(&km->rows, first + i, 0, row, &wide);
            squares[i] = km->sparse ? fn_km_sparse_survey(km, first + i, weight, sum)
                                    : km->kernel->survey(at, wide, km->shift, weight, d, sum);
            if (!(squares[i] < INFINITY) && work->bad[tile] < 0 && !finite_row(km, first + i, row))
                work->bad[tile] = first + i;
            sum[d] += weight;
            sum[d + 1] += weight * squares[i];
        }
        if (!km->projected) continue;
        if (km->basis_shift) {
            fn_km_project_in_place(km, first, count, squares, rows);
            continue;
        }
        fn_km_load(km, first, NULL, count, rows, km->ld, row);
        fn_km_project_rows(km, first, count, rows, squares, rows + SURVEY_ROWS * km->ld);
    }
}

/* Note the first value that is NaN or infinite, if row `row` has one. */
static void find_bad(fn_km *km, int64_t row) {
    if (row < 0 || km->bad_row >= 0) return;
    fn_km_row(&km->rows, row, km->scratch);
    for (int64_t j = 0; j < km->d && km->bad_row < 0; j++)
        if (!isfinite(km->scratch[j])) km->bad_row = row, km->bad_column = j;
}

/* One pass over all rows: the mean, the total scatter, projections, and whether all is finite. */
fn_status fn_km_survey(fn_km *km) {
    const int64_t d = km->d;
    survey work = {.km = km, .sums = fn_alloc(BLOCKS * (size_t)(d + 2) * sizeof(double))};
    if (!work.sums) return FN_ENOMEM;
    const double each = 1 + 0.03 * km->p;
    fn_parallel_run(fn_km_threads(km, (double)(km->n * d) * each, 1),
                    &(fn_work_list){survey_next, survey_run, &work, 1e7, 0});
    double weight = 0;
    memset(km->mean, 0, (size_t)d * sizeof(double));
    for (int b = 0; b < BLOCKS; b++) {
        const double *sum = work.sums + (size_t)b * (size_t)(d + 2);
        for (int64_t j = 0; j < d; j++) km->mean[j] += sum[j];
        weight += sum[d];
        km->total += sum[d + 1];
        find_bad(km, work.bad[b]);
    }
    double off = 0;
    for (int64_t j = 0; j < d; j++) {
        km->mean[j] = weight > 0 ? km->mean[j] / weight : 0;
        off += km->mean[j] * km->mean[j];
        km->mean[j] += km->shift[j];
    }
    km->variance = weight > 0 ? (km->total / weight - off) / (double)d : 0;
    if (km->variance < 0) km->variance = 0;
    fn_free(work.sums);
    return FN_OK;
}
