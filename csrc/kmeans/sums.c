/* sums.c - sums of each cluster from the points that moved, and new centres from them.
 *
 * A sum is an unevaluated pair of float64 (Knuth's two-sum), so a point that comes and goes a
 * thousand times leaves no trace. Each element is added to in the order of rows: by one task a
 * slice of columns where rows are wide, by fixed groups of tiles merged in order where they are
 * narrow.
 */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

enum { AHEAD = 6 }; /* rows */

static void add(double *sum, double *low, double x) {
    const double before = *sum, after = before + x, part = after - before;
    *low += (before - (after - part)) + (x - part);
    *sum = after;
}

int fn_km_sum_tasks(const fn_km *km) {
    if (km->sparse) return fn_km_sparse_tasks();
    return km->sliced ? (int)((km->d + km->slice - 1) / km->slice) : km->groups;
}

/* Columns [c0, c1) of one moved row; with column 0 its weight and membership. */
static void move_row(const fn_km *km, int64_t index, int32_t old, int64_t c0, int64_t c1,
                     double *sums, double *row) {
    const double weight = fn_km_weight(&km->data, index);
    if (weight == 0) return;
    const int64_t d = km->d, width = d + 2;
    bool wide;
    const void *values = fn_km_peek(&km->rows, index, c0, row, &wide);
    double *to = sums + km->labels[index] * width, *from = old < 0 ? NULL : sums + old * width;
    km->kernel->move(values, wide, km->centered ? km->origin + c0 : NULL, weight, c1 - c0, to + c0,
                     from ? from + c0 : NULL);
    if (c0) return;
    to[d] += weight;
    to[d + 1] += 1;
    if (!from) return;
    from[d] -= weight;
    from[d + 1] -= 1;
}

/* Ask for columns [c0, c1) of a dense row: the next slices lie far apart. */
static void prefetch_row(const fn_km_data *data, int64_t index, int64_t c0, int64_t c1) {
    if (data->indptr) return;
    const int64_t item = data->dtype == FN_F64 ? 8 : 4;
    const char *row = fn_km_row_start(data, index);
    for (int64_t b = c0 * item; b < c1 * item; b += 64) __builtin_prefetch(row + b);
}

/* Task `task` of the moved rows of the chunk that begins at row `first`: a slice of columns, or a
 * group of tiles. */
void fn_km_sum_tiles(fn_km *km, int64_t first, int task, int thread) {
    double *row = km->scratch + (size_t)thread * km->scratch_stride;
    const int64_t rows = km->n - first < km->chunk_rows ? km->n - first : km->chunk_rows;
    const int64_t tiles = (rows + km->tile_rows - 1) / km->tile_rows;
    int64_t begin = 0, end = tiles, c0 = 0, c1 = km->d;
    if (km->sparse) {
        fn_km_sparse_sums(km, first, tiles, task);
        return;
    }
    double *sums = km->moved;
    if (km->sliced) {
        c0 = (int64_t)task * km->slice;
        if (c0 + km->slice < c1) c1 = c0 + km->slice;
    } else {
        begin = tiles * task / km->groups, end = tiles * (task + 1) / km->groups;
        sums += (int64_t)task * km->k * (km->d + 2);
    }
    for (int64_t t = begin; t < end; t++)
        for (int m = 0; m < km->n_moves[t]; m++) {
            const fn_km_move *move = km->moves + t * km->tile_rows + m;
            if (km->sliced && m + AHEAD < km->n_moves[t])
                prefetch_row(&km->data, first + move[AHEAD].row, c0, c1);
            move_row(km, first + move->row, move->old, c0, c1, sums, row);
        }
}

size_t fn_km_moved_count(const fn_km *km) { return (size_t)(km->groups * km->k * (km->d + 2)); }

/* Add what moved to the sums, groups in order, and clear it. */
void fn_km_merge(fn_km *km) {
    const int64_t d = km->d, width = d + 2;
    for (int g = 0; g < km->groups; g++)
        for (int64_t j = 0; j < km->k; j++) {
            double *part = km->moved + ((int64_t)g * km->k + j) * width;
            km->kernel->add(part, false, d, km->sums + j * d, km->sums_low + j * d);
            add(km->weights + j, km->weights_low + j, part[d]);
            km->members[j] += (int64_t)part[d + 1];
        }
    memset(km->moved, 0, fn_km_moved_count(km) * sizeof(double));
}

/* Sum of w |x - c|^2 over all rows, of the labels the sums belong to, without reading a row:
 * |x|^2 - 2 x.c + |c|^2, each summed. Negative where cancellation leaves too few digits. */
double fn_km_inertia_of_sums(const fn_km *km) {
    double sum = km->total;
    for (int64_t j = 0; j < km->k; j++) {
        const double weight = km->weights[j] + km->weights_low[j];
        double product = 0, squares = 0;
        if (!km->members[j]) continue;
        for (int64_t c = 0; c < km->d; c++) {
            const int64_t e = j * km->d + c;
            const double center = km->centers[e] - km->shift[c];
            const double moved = weight * (km->origin[c] - km->shift[c]);
            product += center * (km->sums[e] + km->sums_low[e] + moved);
            squares += center * center;
        }
        sum += weight * squares - 2 * product;
    }
    return sum > 1e-5 * km->total ? sum : -1;
}

/* ---- empty clusters ---- */

typedef struct {
    double distance;
    int64_t row;
} far_point;

/* Squared distance of a row to its centre, 0 where it is no more than what rounding leaves of a row
 * that lies on its centre: no cluster should move because of that. */
static double far_distance(const double *row, const double *center, int64_t d) {
    double squares = 0;
    for (int64_t c = 0; c < d; c++) squares += row[c] * row[c];
    const double distance = fn_km_distance(row, center, d);
    return distance > 1e-26 * squares ? distance : 0;
}

/* The `count` points farthest from their centres, farthest first, ties to the lower row. */
static int find_far(const fn_km *km, far_point *far, int count, double *row) {
    int found = 0;
    for (int64_t i = 0; i < km->n; i++) {
        if (!(fn_km_weight(&km->data, i) > 0)) continue;
        fn_km_row(&km->rows, i, row);
        const double distance =
            far_distance(row, km->centers + (int64_t)km->labels[i] * km->d, km->d);
        int p = found < count ? found++ : count;
        if (p == count && distance <= far[count - 1].distance) continue;
        if (p == count) p--;
        for (; p > 0 && far[p - 1].distance < distance; p--) far[p] = far[p - 1];
        far[p] = (far_point){distance, i};
    }
    return found;
}

/* As scikit-learn does: each empty cluster gets one of the points farthest from their centres,
 * which leaves the sum of its old cluster; none does where all lie on their centres. Labels stay:
 * the next iteration assigns anew. `sums` and `weights` are those of this iteration's centres only.
 */
static fn_status relocate(const fn_km *km, double *sums, double *weights, int n_empty) {
    far_point *far = fn_alloc((size_t)n_empty * sizeof *far);
    double *row = fn_alloc((size_t)km->d * sizeof *row);
    if (far && row) {
        const int found = find_far(km, far, n_empty, row);
        for (int64_t j = 0, e = 0; j < km->k && e < found && far[0].distance > 0; j++) {
            if (km->members[j] || km->fixed[j]) continue;
            const int64_t i = far[e++].row, from = km->labels[i];
            const double weight = fn_km_weight(&km->data, i);
            fn_km_row(&km->rows, i, row);
            for (int64_t c = 0; c < km->d; c++) {
                const double x = weight * (row[c] - km->origin[c]);
                sums[from * km->d + c] -= x;
                sums[j * km->d + c] = x;
            }
            weights[j] = weight;
            weights[from] -= weight;
            if (weights[from] <= 1e-12 * km->weights[from]) weights[from] = 0; /* rounding */
        }
    }
    const fn_status status = far && row ? FN_OK : FN_ENOMEM;
    fn_free(far);
    fn_free(row);
    return status;
}

/* ---- centres ---- */

static void normalise(double *center, int64_t d) {
    double sum = 0;
    for (int64_t c = 0; c < d; c++) sum += center[c] * center[c];
    const double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (int64_t c = 0; c < d; c++) center[c] *= scale;
}

/* Means of sums; a cluster without weight goes to the place of the heaviest one. */
static void place(fn_km *km, const double *sums, const double *weights) {
    const int64_t d = km->d;
    int64_t heaviest = 0;
    for (int64_t j = 1; j < km->k; j++)
        if (weights[j] > weights[heaviest]) heaviest = j;
    for (int64_t j = 0; j < km->k; j++) {
        if (km->fixed[j]) continue;
        const int64_t from = weights[j] > 0 ? j : heaviest;
        double *center = km->centers + j * d;
        if (!(weights[from] > 0)) continue;
        for (int64_t c = 0; c < d; c++)
            center[c] = km->origin[c] + sums[from * d + c] / weights[from];
        if (km->data.cosine) normalise(center, d);
    }
}

/* New centres from the sums of this iteration's labels; fills the record's shift. */
fn_status fn_km_update(fn_km *km) {
    const int64_t kd = km->k * km->d;
    double *sums = fn_alloc((size_t)(kd + km->k) * sizeof *sums);
    if (!sums) return FN_ENOMEM;
    for (int64_t e = 0; e < kd; e++) sums[e] = km->sums[e] + km->sums_low[e];
    int n_empty = 0;
    for (int64_t j = 0; j < km->k; j++) {
        sums[kd + j] = km->members[j] ? km->weights[j] + km->weights_low[j] : 0;
        n_empty += !km->members[j] && !km->fixed[j];
    }
    km->relocated = n_empty > 0;
    if (n_empty > km->n) n_empty = (int)km->n;
    const fn_status status = n_empty ? relocate(km, sums, sums + kd, n_empty) : FN_OK;
    if (status == FN_OK) {
        memcpy(km->previous, km->centers, (size_t)kd * sizeof *sums);
        place(km, sums, sums + kd);
        km->record.shift = 0;
        for (int64_t j = 0; j < km->k; j++)
            km->record.shift +=
                fn_km_distance(km->centers + j * km->d, km->previous + j * km->d, km->d);
    }
    fn_free(sums);
    return status;
}
