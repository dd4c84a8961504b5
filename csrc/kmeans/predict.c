/* predict.c - rows against given centres: nearest one, sums for merging, distances. */
#include <math.h>
#include <string.h>

#include "gemm.h"
#include "kmeans/km.h"

/* ---- the nearest centre: one assignment of a fit ---- */

/* What one assignment moved is all there is: groups in order. */
static void copy_sums(const fn_km *km, double *sums, double *counts) {
    const int64_t d = km->d, width = d + 2;
    for (int64_t j = 0; j < km->k; j++) {
        double *first = km->moved + j * width;
        for (int g = 1; g < km->groups; g++)
            for (int64_t c = 0; c <= d; c++) first[c] += first[g * km->k * width + c];
        counts[j] += first[d];
        for (int64_t c = 0; c < d; c++) sums[j * d + c] += first[c] + first[d] * km->origin[c];
    }
}

fn_status fn_km_assign(const fn_km_data *data, int64_t k, const double *centers, int32_t *labels,
                       double *distances, double *sums, double *counts, int threads,
                       double *inertia) {
    fn_km *km = fn_km_new_once(data, k, sums != NULL, threads);
    if (!km) return FN_ENOMEM;
    fn_km_start(km, centers, NULL);
    km->measuring = inertia || distances;
    km->distances = distances;
    fn_km_assign_all(km);
    if (labels) memcpy(labels, km->labels, (size_t)km->n * sizeof *labels);
    if (inertia) *inertia = km->record.inertia;
    const bool bad = km->not_finite;
    if (sums && !bad) copy_sums(km, sums, counts);
    fn_km_free(km);
    return bad ? FN_EINPUT : FN_OK;
}

/* ---- all distances: |x|^2 + |c|^2 - 2 x.c less the shift, or differences where that cancels ----
 */

enum { ROWS = 64 };

typedef struct {
    fn_km *km;
    void *out;
    fn_dtype dtype;
    double *columns; /* sparse: centres (d, k), so that a row's entries are read once; or NULL */
    int tiles, pass;
} transformation;

static int transform_next(void *context) {
    transformation *w = context;
    return w->pass++ ? -1 : w->tiles;
}

static void put(const transformation *w, int64_t row, int64_t j, double squared) {
    const fn_km *km = w->km;
    const double distance = km->data.cosine ? 0.5 * squared : sqrt(squared);
    if (w->dtype == FN_F64)
        ((double *)w->out)[row * km->k + j] = distance;
    else
        ((float *)w->out)[row * km->k + j] = (float)distance;
}

static double *transposed(const fn_km *km) {
    double *columns = fn_alloc((size_t)(km->k * km->d) * sizeof *columns);
    for (int64_t j = 0; columns && j < km->k; j++)
        for (int64_t c = 0; c < km->d; c++) columns[c * km->k + j] = km->centers[j * km->d + c];
    return columns;
}

/* Distances of a sparse row to centres [first, end), at most MANY of them. */
enum { MANY = 64 };

static void sparse_row(const transformation *w, int64_t row, int64_t first, int64_t end,
                       double *values) {
    const fn_km *km = w->km;
    const fn_km_data *data = &km->data;
    const double scale = km->rows.scales ? km->rows.scales[row] : 1;
    double products[MANY] = {0}, squares = 0;
    int64_t i, last = fn_km_entries(data, row, &i);
    for (; i < last; i++) {
        const double x = scale * fn_km_value_at(data, i);
        const int64_t c = fn_csr_index(data->indices, data->index_dtype, i);
        const double *column = w->columns + c * km->k + first;
        for (int64_t j = 0; j < end - first; j++) products[j] += x * column[j];
        squares += x * x;
    }
    for (int64_t j = first; j < end; j++) {
        const double all = squares + km->center_squares[j];
        const double squared = all - 2 * products[j - first];
        put(w, row, j, squared > 1e-3 * all ? squared : fn_km_sparse_distance(km, row, j, values));
    }
}

static void exact_rows(const transformation *w, int64_t first, int count, double *values) {
    const fn_km *km = w->km;
    if (w->columns) {
        for (int64_t i = first; i < first + count; i++)
            for (int64_t j = 0; j < km->k; j += MANY)
                sparse_row(w, i, j, j + MANY < km->k ? j + MANY : km->k, values);
        return;
    }
    for (int64_t i = first; i < first + count; i++) {
        bool wide;
        const void *row = km->sparse ? NULL : fn_km_peek(&km->rows, i, 0, values, &wide);
        for (int64_t j = 0; j < km->k; j++)
            put(w, i, j,
                km->sparse ? fn_km_sparse_distance(km, i, j, values)
                           : km->kernel->distance(row, wide, km->centers + j * km->d, km->d));
    }
}

/* float32: products first; an element that lost more than about two bits is computed anew. */
static void product_rows(const transformation *w, int64_t first, int count, fn_km_space *s) {
    fn_km *km = w->km;
    const int64_t k = km->k;
    float *out = (float *)w->out + first * k;
    if (!km->sparse) {
        fn_km_load(km, first, NULL, count, s->rows, km->ld, s->row);
        fn_sgemm(false, true, count, k, km->d, s->rows, km->ld, km->rounded, km->ld, 0, out, k);
    }
    for (int i = 0; i < count; i++) {
        const float *row = s->rows + i * km->ld;
        int64_t used;
        const float squares =
            km->sparse ? (float)fn_km_sparse_products(km, s, first + i, s->products, &used)
                       : km->kernel->dot(row, row, km->d);
        if (km->sparse) memcpy(out + i * k, s->products, (size_t)k * sizeof *out);
        if (km->kernel->distances(out + i * k, km->scan.half, squares, k, km->data.cosine))
            continue;
        bool wide;
        const void *values = fn_km_peek(&km->rows, first + i, 0, s->row, &wide);
        for (int64_t j = 0; j < k; j++)
            if (!(out[i * k + j] >= 0))
                put(w, first + i, j,
                    km->kernel->distance(values, wide, km->centers + j * km->d, km->d));
    }
}

static void transform_run(void *context, int tile, int thread) {
    transformation *w = context;
    fn_km_space *s = fn_km_space_of(w->km, thread);
    const int64_t first = (int64_t)tile * ROWS;
    const int count = (int)(w->km->n - first < ROWS ? w->km->n - first : ROWS);
    fn_thread_report(thread);
    if (w->dtype == FN_F64 || w->km->exact_only)
        exact_rows(w, first, count, s->row);
    else
        product_rows(w, first, count, s);
}

fn_status fn_km_transform(const fn_km_data *data, int64_t k, const double *centers, void *out,
                          fn_dtype out_dtype, int threads) {
    fn_km *km = fn_km_new_rows(data, k, threads);
    if (!km) return FN_ENOMEM;
    fn_km_start(km, centers, NULL);
    for (int64_t j = 0; j < k; j++) /* |c|^2 / 2 itself, not a bound */
        km->scan.half[j] += 0.4f * km->scan.slack[j];
    transformation w = {.km = km, .out = out, .dtype = out_dtype};
    w.tiles = (int)((km->n + ROWS - 1) / ROWS);
    if (km->sparse && (out_dtype == FN_F64 || km->exact_only)) w.columns = transposed(km);
    const double ns = (double)km->n * (double)(km->k * km->d) * 0.03;
    fn_parallel_run(fn_km_threads(km, ns, 1),
                    &(fn_work_list){transform_next, transform_run, &w, 1e6, 0});
    fn_free(w.columns);
    fn_km_free(km);
    return FN_OK;
}
