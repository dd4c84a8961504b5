/* sums.c - sums of each cluster from the points that moved, and new centres from them.
 *
 * A sum is an unevaluated pair of float64 (Knuth's two-sum), so a point that comes and goes a
 * thousand times leaves no trace. Each element is added to in the order of rows: a cluster at a
 * time where sums are large (the rows that came to it or left it are sorted out first, so its sum
 * stays in the cache), else by fixed groups of tiles merged in order.
 */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

/* A task has about so many rows, in columns that a sum in the first-level cache has room for. */
enum { TASK_ROWS = 64, MOST_TASKS = 64, SLICE = 1024 };

static void add(double *sum, double *low, double x) {
    const double before = *sum, after = before + x, part = after - before;
    *low += (before - (after - part)) + (x - part);
    *sum = after;
}

/* ---- by cluster ---- */

/* The rows of the chunk from the cursor that came to or left each cluster, in order: those of
 * cluster j are km->sorted[km->begins[j]] to km->begins[j + 1], twice the row, plus one that left.
 */
static void sort_moves(fn_km *km, int64_t tiles) {
    int32_t *at = km->begins + 1, sum = 0; /* at[j]: how many; where they begin; where they end */
    memset(km->begins, 0, ((size_t)km->k + 1) * sizeof *km->begins);
    for (int64_t t = 0; t < tiles; t++)
        for (int m = 0; m < km->n_moves[t]; m++) {
            const fn_km_move *move = km->moves + t * km->tile_rows + m;
            at[km->labels[km->cursor + move->row]]++;
            if (move->old >= 0) at[move->old]++;
        }
    for (int64_t j = 0; j < km->k; j++) {
        const int32_t count = at[j];
        at[j] = sum;
        sum += count;
    }
    for (int64_t t = 0; t < tiles; t++)
        for (int m = 0; m < km->n_moves[t]; m++) {
            const fn_km_move *move = km->moves + t * km->tile_rows + m;
            km->sorted[at[km->labels[km->cursor + move->row]]++] = 2 * move->row;
            if (move->old >= 0) km->sorted[at[move->old]++] = 2 * move->row + 1;
        }
}

static int64_t chunk_tiles(const fn_km *km) {
    const int64_t left = km->n - km->cursor, rows = left < km->chunk_rows ? left : km->chunk_rows;
    return (rows + km->tile_rows - 1) / km->tile_rows;
}

/* How many tasks add up what moved in the chunk from the cursor; they are made ready. */
int fn_km_sum_tasks(fn_km *km) {
    if (km->sparse) return fn_km_sparse_tasks();
    if (!km->by_cluster) return km->groups;
    sort_moves(km, chunk_tiles(km));
    const int64_t moves = km->begins[km->k], parts = (moves + TASK_ROWS - 1) / TASK_ROWS;
    km->sum_parts = (int)(parts < MOST_TASKS ? parts : MOST_TASKS);
    return km->sum_parts * (int)((km->d + SLICE - 1) / SLICE);
}

/* Columns [c0, c1) of all rows that came to or left a cluster. */
static void sum_cluster(const fn_km *km, int64_t j, int64_t c0, int64_t c1, double *row) {
    double *sum = km->moved + j * (km->d + 2);
    for (int32_t m = km->begins[j]; m < km->begins[j + 1]; m++) {
        const int64_t index = km->cursor + (km->sorted[m] >> 1);
        const double weight = fn_km_weight(&km->data, index);
        if (m + 1 < km->begins[km->k])
            fn_km_prefetch_row(&km->data, km->cursor + (km->sorted[m + 1] >> 1));
        if (weight == 0) continue;
        const double sign = km->sorted[m] & 1 ? -1 : 1;
        bool wide;
        const void *values = fn_km_peek(&km->rows, index, c0, row, &wide);
        km->kernel->move(values, wide, km->centered ? km->origin + c0 : NULL, sign * weight,
                         c1 - c0, sum + c0, NULL);
        if (c0) continue;
        sum[km->d] += sign * weight;
        sum[km->d + 1] += sign;
    }
}

/* The first cluster whose rows begin at or after a place. */
static int64_t cluster_from(const fn_km *km, int64_t place) {
    int64_t low = 0, high = km->k;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (km->begins[middle] < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void sum_clusters(fn_km *km, int task, double *row) {
    const int64_t part = task % km->sum_parts, c0 = task / km->sum_parts * SLICE;
    const int64_t c1 = c0 + SLICE < km->d ? c0 + SLICE : km->d, moves = km->begins[km->k];
    const int64_t end = cluster_from(km, moves * (part + 1) / km->sum_parts);
    for (int64_t j = cluster_from(km, moves * part / km->sum_parts); j < end; j++)
        sum_cluster(km, j, c0, c1, row);
}

/* ---- by groups of tiles ---- */

/* One moved row. */
static void move_row(const fn_km *km, int64_t index, int32_t old, double *sums, double *row) {
    const double weight = fn_km_weight(&km->data, index);
    if (weight == 0) return;
    const int64_t d = km->d, width = d + 2;
    bool wide;
    const void *values = fn_km_peek(&km->rows, index, 0, row, &wide);
    double *to = sums + km->labels[index] * width, *from = old < 0 ? NULL : sums + old * width;
    km->kernel->move(values, wide, km->centered ? km->origin : NULL, weight, d, to, from);
    to[d] += weight;
    to[d + 1] += 1;
    if (!from) return;
    from[d] -= weight;
    from[d + 1] -= 1;
}

/* Task `task` of the moved rows of the chunk from the cursor. */
void fn_km_sum_tiles(fn_km *km, int task, int thread) {
    double *row = km->scratch + (size_t)thread * km->scratch_stride;
    const int64_t tiles = chunk_tiles(km), first = km->cursor;
    if (km->sparse) {
        fn_km_sparse_sums(km, first, tiles, task);
        return;
    }
    if (km->by_cluster) {
        sum_clusters(km, task, row);
        return;
    }
    double *sums = km->moved + (int64_t)task * km->k * (km->d + 2);
    for (int64_t t = tiles * task / km->groups; t < tiles * (task + 1) / km->groups; t++)
        for (int m = 0; m < km->n_moves[t]; m++) {
            const fn_km_move *move = km->moves + t * km->tile_rows + m;
            move_row(km, first + move->row, move->old, sums, row);
        }
}

size_t fn_km_moved_count(const fn_km *km) { return (size_t)(km->groups * km->k * (km->d + 2)); }

/* ---- clusters in parallel ---- */

enum { CLUSTERS = 16 }; /* of a tile */

typedef struct {
    fn_km *km;
    fn_km_cluster_run run;
    const void *more;
    int tiles, pass;
} each_cluster;

static int each_next(void *context) {
    each_cluster *e = context;
    return e->pass++ ? -1 : e->tiles;
}

static void each_run(void *context, int tile, int thread) {
    const each_cluster *e = context;
    fn_thread_report(thread);
    for (int64_t j = (int64_t)tile * CLUSTERS; j < (tile + 1) * CLUSTERS && j < e->km->k; j++)
        e->run(e->km, j, thread, e->more);
}

/* Something of about `ns` nanoseconds a value for every cluster. */
void fn_km_each_cluster(fn_km *km, double ns, fn_km_cluster_run run, const void *more) {
    each_cluster e = {km, run, more, (int)((km->k + CLUSTERS - 1) / CLUSTERS), 0};
    fn_parallel_run(fn_km_threads(km, (double)(km->k * km->d) * ns, 1),
                    &(fn_work_list){each_next, each_run, &e, 1e6, 0});
}

/* What is left of the inertia when sum |x|^2 is taken off: -2 x.c + |c|^2 of all rows of a cluster,
 * less the shift. */
static double term(const fn_km *km, int64_t j) {
    const double weight = km->weights[j] + km->weights_low[j];
    const double *centers = km->centers + j * km->d;
    const double *sums = km->sums + j * km->d, *low = km->sums_low + j * km->d;
    if (!km->members[j]) return 0;
    vd products = {0}, squares = {0};
    int64_t c = 0;
    for (; c + 4 <= km->d; c += 4) {
        const vd shift = *(const vd_loose *)(km->shift + c);
        const vd center = *(const vd_loose *)(centers + c) - shift;
        const vd moved = weight * (*(const vd_loose *)(km->origin + c) - shift);
        products += center * (*(const vd_loose *)(sums + c) + *(const vd_loose *)(low + c) + moved);
        squares += center * center;
    }
    double product = fn_km_sum4(products), square = fn_km_sum4(squares);
    for (; c < km->d; c++) {
        const double center = centers[c] - km->shift[c];
        product += center * (sums[c] + low[c] + weight * (km->origin[c] - km->shift[c]));
        square += center * center;
    }
    return weight * square - 2 * product;
}

/* Add what moved to the sums of a cluster, groups in order, and clear it. */
static void merge_cluster(fn_km *km, int64_t j, int thread, const void *more) {
    (void)thread;
    (void)more;
    const int64_t d = km->d, width = d + 2;
    for (int g = 0; g < km->groups; g++) {
        double *part = km->moved + ((int64_t)g * km->k + j) * width;
        km->kernel->add(part, false, d, km->sums + j * d, km->sums_low + j * d);
        add(km->weights + j, km->weights_low + j, part[d]);
        km->members[j] += (int64_t)part[d + 1];
        memset(part, 0, (size_t)width * sizeof *part);
    }
    km->terms[j] = term(km, j);
}

void fn_km_merge(fn_km *km) { fn_km_each_cluster(km, 1 + km->groups, merge_cluster, NULL); }

/* Sum of w |x - c|^2 over all rows, of the labels the sums belong to, without reading a row:
 * |x|^2 - 2 x.c + |c|^2, each summed. Negative where cancellation leaves too few digits. */
double fn_km_inertia_of_sums(const fn_km *km) {
    double sum = km->total;
    for (int64_t j = 0; j < km->k; j++) sum += km->terms[j];
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

/* What centres are made of. */
typedef struct {
    const double *sums, *weights; /* sums (k, d): of this iteration's centres only, or NULL */
    int64_t heaviest;
} material;

/* The mean of a cluster; one without weight goes to the place of the heaviest. */
static void place_cluster(fn_km *km, int64_t j, int thread, const void *more) {
    (void)thread;
    const material *m = more;
    const int64_t d = km->d, from = m->weights[j] > 0 ? j : m->heaviest;
    double *center = km->centers + j * d, *before = km->previous + j * d;
    const double weight = m->weights[from];
    memcpy(before, center, (size_t)d * sizeof *center);
    km->terms[j] = 0;
    if (km->fixed[j] || !(weight > 0)) return;
    const double *sums = (m->sums ? m->sums : km->sums) + from * d;
    const double *low = km->sums_low + from * d;
    for (int64_t c = 0; c < d; c++)
        center[c] = km->origin[c] + (m->sums ? sums[c] : sums[c] + low[c]) / weight;
    if (km->data.cosine) normalise(center, d);
    km->terms[j] = fn_km_distance(center, before, d);
}

/* The sums and weights with rows moved to empty clusters: of the next centres only. */
static fn_status fill_empty(const fn_km *km, int n_empty, double *sums, double *weights) {
    for (int64_t e = 0; e < km->k * km->d; e++) sums[e] = km->sums[e] + km->sums_low[e];
    return relocate(km, sums, weights, n_empty);
}

/* New centres from the sums of this iteration's labels; fills the record's shift. */
fn_status fn_km_update(fn_km *km) {
    const size_t k = (size_t)km->k, kd = k * (size_t)km->d;
    double *weights = fn_alloc(k * sizeof *weights), *sums = NULL;
    if (!weights) return FN_ENOMEM;
    fn_status status = FN_OK;
    int64_t n_empty = 0;
    for (int64_t j = 0; j < km->k; j++) {
        weights[j] = km->members[j] ? km->weights[j] + km->weights_low[j] : 0;
        n_empty += !km->members[j] && !km->fixed[j];
    }
    km->relocated = n_empty > 0;
    if (n_empty > km->n) n_empty = km->n;
    if (n_empty) {
        sums = fn_alloc(kd * sizeof *sums);
        status = sums ? fill_empty(km, (int)n_empty, sums, weights) : FN_ENOMEM;
    }
    if (status == FN_OK) {
        material m = {sums, weights, 0};
        for (int64_t j = 1; j < km->k; j++)
            if (weights[j] > weights[m.heaviest]) m.heaviest = j;
        fn_km_each_cluster(km, 2, place_cluster, &m);
        km->record.shift = 0;
        for (int64_t j = 0; j < km->k; j++) km->record.shift += km->terms[j];
    }
    fn_free(weights);
    fn_free(sums);
    return status;
}
