/* predict.c - rows against given centres: nearest one, sums for merging, distances. */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

enum { PREDICT_TILE = 256, PREDICT_GROUPS = 32 };

typedef struct {
    fn_km_rows rows;
    int64_t n, d, k, per_group;
    const double *centers;
    int32_t *labels;
    double *distances, *scratch, *sums; /* sums: (groups, k, d + 1) */
    void *out;
    fn_dtype out_dtype;
    double inertia[PREDICT_GROUPS];
    int pass;
} prediction;

static int predict_next(void *context) {
    return ((prediction *)context)->pass++ ? -1 : PREDICT_GROUPS;
}

static void assign_row(prediction *p, int64_t i, const double *row, int group) {
    int64_t best = 0;
    double least = INFINITY;
    for (int64_t j = 0; j < p->k; j++) {
        const double distance = fn_km_distance(row, p->centers + j * p->d, p->d);
        if (distance < least) least = distance, best = j;
    }
    const double weight = fn_km_weight(p->rows.data, i);
    if (p->labels) p->labels[i] = (int32_t)best;
    if (p->distances) p->distances[i] = least;
    p->inertia[group] += weight * least;
    if (!p->sums) return;
    double *sum = p->sums + ((int64_t)group * p->k + best) * (p->d + 1);
    for (int64_t c = 0; c < p->d; c++) sum[c] += weight * row[c];
    sum[p->d] += weight;
}

static void transform_row(const prediction *p, int64_t i, const double *row) {
    for (int64_t j = 0; j < p->k; j++) {
        const double squared = fn_km_distance(row, p->centers + j * p->d, p->d);
        const double distance = p->rows.scales ? 0.5 * squared : sqrt(squared);
        if (p->out_dtype == FN_F64)
            ((double *)p->out)[i * p->k + j] = distance;
        else
            ((float *)p->out)[i * p->k + j] = (float)distance;
    }
}

static void predict_run(void *context, int group, int thread) {
    prediction *p = context;
    double *row = p->scratch + (int64_t)thread * (p->d + 8);
    fn_thread_report(thread);
    const int64_t end = p->n * (group + 1) / PREDICT_GROUPS;
    for (int64_t i = p->n * group / PREDICT_GROUPS; i < end; i++) {
        fn_km_row(&p->rows, i, row);
        if (p->out)
            transform_row(p, i, row);
        else
            assign_row(p, i, row, group);
    }
}

static fn_status run(prediction *p, const fn_km_data *data, int threads) {
    p->n = data->n, p->d = data->d;
    p->scratch = fn_alloc((size_t)(data->d + 8) * FN_MAX_THREADS * sizeof(double));
    if (!p->scratch) return FN_ENOMEM;
    const fn_status status = fn_km_rows_begin(&p->rows, data);
    if (status == FN_OK) {
        const int used = fn_parallel_choose((double)p->n * (double)(p->k * p->d), 1, threads);
        fn_parallel_run(used, &(fn_work_list){predict_next, predict_run, p, 1e6});
    }
    fn_free(p->scratch);
    fn_km_rows_end(&p->rows);
    return status;
}

fn_status fn_km_assign(const fn_km_data *data, int64_t k, const double *centers, int32_t *labels,
                       double *distances, double *sums, double *counts, int threads,
                       double *inertia) {
    prediction p = {.k = k, .centers = centers, .labels = labels, .distances = distances};
    const int64_t d = data->d;
    if (sums && !(p.sums = fn_alloc((size_t)(PREDICT_GROUPS * k * (d + 1)) * sizeof(double))))
        return FN_ENOMEM;
    const fn_status status = run(&p, data, threads);
    *inertia = 0;
    for (int g = 0; g < PREDICT_GROUPS && status == FN_OK; g++) {
        *inertia += p.inertia[g];
        for (int64_t j = 0; j < k && sums; j++) {
            const double *sum = p.sums + (g * k + j) * (d + 1);
            for (int64_t c = 0; c < d; c++) sums[j * d + c] += sum[c];
            counts[j] += sum[d];
        }
    }
    fn_free(p.sums);
    return status;
}

fn_status fn_km_transform(const fn_km_data *data, int64_t k, const double *centers, void *out,
                          fn_dtype out_dtype, int threads) {
    prediction p = {.k = k, .centers = centers, .out = out, .out_dtype = out_dtype};
    return run(&p, data, threads);
}
