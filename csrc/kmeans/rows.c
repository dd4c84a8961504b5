/* rows.c - rows in float64, as decisions and sums want them, and where their mean lies. */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

double fn_km_weight(const fn_km_data *data, int64_t row) {
    return data->weights ? data->weights[row] : 1;
}

static int64_t at(const void *array, fn_dtype dtype, int64_t i) {
    return dtype == FN_I64 ? ((const int64_t *)array)[i] : ((const int32_t *)array)[i];
}

static double value(const fn_km_data *data, int64_t i) {
    return data->dtype == FN_F64 ? ((const double *)data->values)[i]
                                 : (double)((const float *)data->values)[i];
}

/* A row (d) as the caller gave it. */
static void raw_row(const fn_km_data *data, int64_t row, double *out) {
    const int64_t d = data->d;
    if (data->indptr) {
        memset(out, 0, (size_t)d * sizeof *out);
        const int64_t end = at(data->indptr, data->index_dtype, row + 1);
        for (int64_t i = at(data->indptr, data->index_dtype, row); i < end; i++)
            out[at(data->indices, data->index_dtype, i)] += value(data, i);
        return;
    }
    const char *start = (const char *)data->values + row * data->row_bytes;
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

typedef double vd __attribute__((vector_size(32)));
typedef double vd_loose __attribute__((vector_size(32), aligned(8), may_alias));

/* sum over j of (row[j] - center[j])^2: four partial sums, then the tail. */
double fn_km_distance(const double *row, const double *center, int64_t d) {
    vd sum = {0};
    int64_t j = 0;
    for (; j + 4 <= d; j += 4) {
        const vd gap = *(const vd_loose *)(row + j) - *(const vd_loose *)(center + j);
        sum += gap * gap;
    }
    double total = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    for (; j < d; j++) total += (row[j] - center[j]) * (row[j] - center[j]);
    return total;
}

fn_status fn_km_rows_begin(fn_km_rows *rows, const fn_km_data *data) {
    *rows = (fn_km_rows){.data = data};
    if (!data->cosine) return FN_OK;
    double *scales = fn_alloc((size_t)data->n * sizeof *scales);
    double *row = fn_alloc((size_t)data->d * sizeof *row);
    if (scales && row)
        for (int64_t i = 0; i < data->n; i++) {
            raw_row(data, i, row);
            double sum = 0;
            for (int64_t j = 0; j < data->d; j++) sum += row[j] * row[j];
            scales[i] = sum > 0 ? 1 / sqrt(sum) : 0;
        }
    fn_free(row);
    rows->scales = scales;
    if (scales && row) return FN_OK;
    fn_km_rows_end(rows);
    return FN_ENOMEM;
}

void fn_km_rows_end(fn_km_rows *rows) {
    fn_free(rows->scales);
    rows->scales = NULL;
}

/* ---- the mean, by blocks of rows merged in order ---- */

enum { MEAN_BLOCKS = 64 };

typedef struct {
    fn_km *km;
    double *sums, *scratch; /* (MEAN_BLOCKS, d + 2): sums, weights; a row a thread */
    int pass;
} mean_work;

static int mean_next(void *context) { return ((mean_work *)context)->pass++ ? -1 : MEAN_BLOCKS; }

static void mean_run(void *context, int tile, int thread) {
    mean_work *work = context;
    const fn_km *km = work->km;
    double *sum = work->sums + (size_t)tile * (size_t)(km->d + 1);
    double *row = work->scratch + (size_t)thread * km->scratch_stride;
    fn_thread_report(thread);
    const int64_t end = km->n * (tile + 1) / MEAN_BLOCKS;
    for (int64_t i = km->n * tile / MEAN_BLOCKS; i < end; i++) {
        const double weight = fn_km_weight(&km->data, i);
        fn_km_row(&km->rows, i, row);
        for (int64_t j = 0; j < km->d; j++) sum[j] += weight * row[j];
        sum[km->d] += weight;
    }
}

/* The mean, and the shift: the nearest float32 values, so that float32 rows lose at most one
 * rounding when it is taken away. */
fn_status fn_km_center(fn_km *km, int threads) {
    double *sums = fn_alloc(MEAN_BLOCKS * (size_t)(km->d + 1) * sizeof *sums);
    if (!sums) return FN_ENOMEM;
    mean_work work = {km, sums, km->scratch, 0};
    fn_parallel_run(threads, &(fn_work_list){mean_next, mean_run, &work, 1e7});
    double weight = 0;
    for (int b = 0; b < MEAN_BLOCKS; b++) {
        const double *sum = sums + (size_t)b * (size_t)(km->d + 1);
        for (int64_t j = 0; j < km->d; j++) km->mean[j] += sum[j];
        weight += sum[km->d];
    }
    for (int64_t j = 0; j < km->d; j++) {
        km->mean[j] = weight > 0 ? km->mean[j] / weight : 0;
        km->shift[j] = (double)(float)km->mean[j];
    }
    fn_free(sums);
    return FN_OK;
}
