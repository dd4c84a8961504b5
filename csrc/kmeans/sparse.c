/* sparse.c - CSR rows of few entries, which are never made dense.
 *
 * Nothing is taken off such rows (the shift is 0), so only entries count: a row's products with all
 * centres are its entries times rows of the transposed centres, its error terms those of so many
 * products. Sums are made a cluster at a time: a task has every eighth cluster, whose rows it adds
 * in order.
 */
#include <math.h>

#include "kmeans/assign.h"

enum { TASKS = 8 };

/* Fewer entries than this share of the columns are worth it. */
enum { SHARE = 4 };

bool fn_km_is_sparse(const fn_km_data *data) {
    return data->indptr && data->ascending && data->row_entries <= data->d / SHARE;
}

static double scale_of(const fn_km *km, int64_t row) {
    return km->rows.scales ? km->rows.scales[row] : 1;
}

/* |x|^2 of a row. */
double fn_km_sparse_squares(const fn_km_data *data, int64_t row) {
    double squares = 0;
    int64_t i, end = fn_km_entries(data, row, &i);
    for (; i < end; i++) squares += fn_km_value_at(data, i) * fn_km_value_at(data, i);
    return squares;
}

/* sum += weight * row; returns |row|^2. */
double fn_km_sparse_survey(const fn_km *km, int64_t row, double weight, double *sum) {
    const fn_km_data *data = &km->data;
    const double scale = scale_of(km, row);
    double squares = 0;
    int64_t i, end = fn_km_entries(data, row, &i);
    for (; i < end; i++) {
        const double x = scale * fn_km_value_at(data, i);
        sum[fn_csr_index(data->indices, data->index_dtype, i)] += weight * x;
        squares += x * x;
    }
    return squares;
}

/* |row - center|^2; where it is so small that this cancels, on all columns. `room`: a row. */
double fn_km_sparse_distance(const fn_km *km, int64_t row, int64_t j, double *room) {
    const fn_km_data *data = &km->data;
    const double *center = km->centers + j * km->d, scale = scale_of(km, row);
    double sum = 0, squares = 0;
    int64_t i, end = fn_km_entries(data, row, &i);
    for (; i < end; i++) {
        const double x = scale * fn_km_value_at(data, i);
        sum += x * (x - 2 * center[fn_csr_index(data->indices, data->index_dtype, i)]);
        squares += x * x;
    }
    const double distance = sum + km->center_squares[j];
    if (distance > 1e-3 * (squares + km->center_squares[j])) return distance;
    fn_km_row(&km->rows, row, room);
    return fn_km_distance(room, center, km->d);
}

/* |row - other|^2 of a row in float32 and another, whose |other|^2 was summed in order: then it is
 * 0 where they are equal, because both sums are the same. */
float fn_km_sparse_gap(const fn_km *km, int64_t row, const float *other, double squares) {
    const fn_km_data *data = &km->data;
    const double scale = scale_of(km, row);
    double sum = 0;
    int64_t i, end = fn_km_entries(data, row, &i);
    for (; i < end; i++) {
        const double x = (double)(float)(scale * fn_km_value_at(data, i));
        const double there = (double)other[fn_csr_index(data->indices, data->index_dtype, i)];
        sum += x * (x - 2 * there);
    }
    const double gap = squares + sum;
    return gap > 0 ? (float)gap : 0;
}

/* ---- scores ---- */

/* The entries of a row in float32, for the kernel; returns |x|^2. */
static double fetch(const fn_km *km, fn_km_space *s, int64_t row, int64_t *count) {
    const fn_km_data *data = &km->data;
    const double scale = scale_of(km, row);
    double squares = 0;
    int64_t n = 0, i, end = fn_km_entries(data, row, &i);
    for (; i < end; i++, n++) {
        const double x = scale * fn_km_value_at(data, i);
        s->rows[n] = (float)x;
        s->columns[n] = (int32_t)fn_csr_index(data->indices, data->index_dtype, i);
        squares += x * x;
    }
    *count = n;
    return squares;
}

static int64_t padded(const fn_km *km) {
    const int lanes = km->kernel->lanes;
    return (km->k + lanes - 1) / lanes * lanes;
}

/* Products of a row with all centres (k, and up to a vector more); returns |x|^2. */
double fn_km_sparse_products(const fn_km *km, fn_km_space *s, int64_t row, float *products,
                             int64_t *count) {
    const double squares = fetch(km, s, row, count);
    km->kernel->entries(s->rows, s->columns, *count, km->panels, padded(km), products);
    return squares;
}

void fn_km_sparse_center(fn_km *km, int64_t j) {
    const int64_t ld = padded(km);
    const float *rounded = km->rounded + j * km->ld;
    for (int64_t c = 0; c < km->d; c++) km->panels[c * ld + j] = rounded[c];
}

void fn_km_multiply_sparse(fn_km_job *w, const int32_t *list, int count) {
    fn_km *km = w->km;
    const int64_t ld = padded(km);
    float *products = w->s->products;
    for (int i = 0; i < count; i++) {
        const int at = list[i];
        int64_t used;
        const double exact = fn_km_sparse_products(km, w->s, w->first + at, products, &used);
        const float squares = (float)exact;
        if (!(squares < FN_KM_LARGE)) {
            fn_km_decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        const float share = ((float)used + 16) / ((float)km->d + 16) * up;
        const float length = (float)sqrt(exact) * up * share;
        float best, second;
        int32_t a;
        km->kernel->lowest(products, km->place_half, km->place_error, length, ld, &best, &second,
                           &a);
        const float top = best + (km->place_slack[a] + 2 * length * km->place_error[a]) * up;
        if (!(second > top)) {
            fn_km_decide_close(w, at, products, km->place_half, km->place_error, length, top);
            continue;
        }
        set_label(w, at, a);
        set_gap(w, at, second - top);
        set_bounds(w, at, upper_bound(km, top, squares), lower_bound(km, second, squares));
    }
    w->computed += count * km->k;
}

/* ---- sums ---- */

int fn_km_sparse_tasks(void) { return TASKS; }

static void add_row(const fn_km *km, int64_t row, double weight, double *sum) {
    fn_km_sparse_survey(km, row, weight, sum);
    sum[km->d] += weight;
    sum[km->d + 1] += weight > 0 ? 1 : -1;
}

/* The rows that came to or left clusters `task`, `task` + TASKS, ... in the chunk from `first`. */
void fn_km_sparse_sums(fn_km *km, int64_t first, int64_t tiles, int task) {
    const int64_t width = km->d + 2;
    for (int64_t t = 0; t < tiles; t++)
        for (int m = 0; m < km->n_moves[t]; m++) {
            const fn_km_move *move = km->moves + t * km->tile_rows + m;
            const int64_t row = first + move->row;
            const int32_t label = km->labels[row];
            const double weight = fn_km_weight(&km->data, row);
            if (weight == 0) continue;
            if (label % TASKS == task) add_row(km, row, weight, km->moved + label * width);
            if (move->old >= 0 && move->old % TASKS == task)
                add_row(km, row, -weight, km->moved + move->old * width);
        }
}
