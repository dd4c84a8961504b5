/* batches.c - mini-batches: rows by their numbers, read where they lie, move the centres.
 *
 * A batch is one assignment that is summed and measured while its rows are in the cache. Each row
 * then has its distance to its centre and, from the gap between its two lowest scores, a bound on
 * its distance to every other: labels for the centres after the batch need only look at rows for
 * which these bounds, moved along with the centres, leave a doubt (as in assign.c, drift).
 */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

struct fn_km_batches {
    fn_km_data data;
    int64_t k, rows; /* a batch has at most so many rows */
    int threads;
    fn_km *km; /* made for the first batch, or for each: see open_batch */
    bool each;
    int64_t count;        /* of the last batch */
    double inertia;       /* its, before the centres moved */
    bool all;             /* it was all rows, in order */
    int64_t *picked;      /* (rows): its rows */
    int64_t *doubtful;    /* (rows): places in the batch where bounds do not tell ... */
    int64_t *rows_left;   /* (rows): ... and their rows */
    int32_t *labels;      /* (rows) */
    double *distances;    /* (rows): squared, to the own centre */
    float *gaps;          /* (rows) */
    float *drift, *other; /* (k): how far a centre moved, and the farthest other one */
};

void fn_km_batches_free(fn_km_batches *b) {
    if (!b) return;
    void *all[] = {b->picked,    b->doubtful, b->rows_left, b->labels,
                   b->distances, b->gaps,     b->drift,     b->other};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fn_free(all[i]);
    fn_km_free(b->km);
    fn_free(b);
}

/* The engine for `count` rows. Few centres: always the same one, whose shift is from rows spread
 * over all of the data. Many: projections are of a batch. */
static fn_km *open_batch(fn_km_batches *b, const int64_t *picked, int64_t count) {
    if (b->each || !b->km) {
        fn_km_data data = b->data;
        data.n = count, data.picked = picked;
        fn_km_free(b->km);
        b->km = fn_km_new_once(&data, b->k, true, b->threads);
        if (!b->km) return NULL;
    }
    fn_km *km = b->km;
    km->n = count;
    km->data.picked = picked;
    km->not_finite = false;
    fn_km_rows_scale(&km->rows, count, km->scratch);
    return km;
}

fn_km_batches *fn_km_batches_new(const fn_km_data *data, int64_t k, int64_t rows, int threads) {
    fn_km_batches *b = fn_alloc(sizeof *b);
    if (!b) return NULL;
    const size_t n = (size_t)rows;
    b->data = *data;
    b->k = k, b->rows = rows, b->threads = threads;
    b->each = fn_km_projects_once(k, rows);
    bool ok = (b->picked = fn_alloc(n * sizeof *b->picked));
    ok = ok && (b->doubtful = fn_alloc(n * sizeof *b->doubtful));
    ok = ok && (b->rows_left = fn_alloc(n * sizeof *b->rows_left));
    ok = ok && (b->labels = fn_alloc(n * sizeof *b->labels));
    ok = ok && (b->distances = fn_alloc(n * sizeof *b->distances));
    ok = ok && (b->gaps = fn_alloc(n * sizeof *b->gaps));
    ok = ok && (b->drift = fn_alloc((size_t)k * sizeof *b->drift));
    ok = ok && (b->other = fn_alloc((size_t)k * sizeof *b->other));
    for (int64_t i = 0; ok && i < rows; i++) b->picked[i] = data->n * i / rows;
    if (ok && (b->each || open_batch(b, b->picked, rows))) return b;
    fn_km_batches_free(b);
    return NULL;
}

/* ---- a batch ---- */

static double normalised(double *center, int64_t d) {
    double sum = 0;
    for (int64_t c = 0; c < d; c++) sum += center[c] * center[c];
    const double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (int64_t c = 0; c < d; c++) center[c] *= scale;
    return sum;
}

typedef struct {
    double *centers, *counts;
} learned;

/* Centre j becomes the mean of all rows it ever got; km->terms gets the square of its move. */
static void move_center(fn_km *km, int64_t j, int thread, const void *more) {
    const learned *all = more;
    const int64_t d = km->d, width = d + 2;
    double *center = all->centers + j * d, *count = all->counts + j;
    double *row = km->scratch + (size_t)thread * km->scratch_stride;
    double *sum = km->moved + j * width;
    for (int g = 1; g < km->groups; g++)
        for (int64_t c = 0; c <= d; c++) sum[c] += sum[g * km->k * width + c];
    const double got = sum[d], before = *count;
    km->terms[j] = 0;
    if (!(got > 0)) return;
    *count = before + got;
    const double share = 1 / *count;
    for (int64_t c = 0; c < d; c++)
        row[c] = (center[c] * before + (sum[c] + got * km->origin[c])) * share;
    if (km->data.cosine && !(normalised(row, d) > 0)) return;
    km->terms[j] = fn_km_distance(row, center, d);
    memcpy(center, row, (size_t)d * sizeof *row);
}

fn_status fn_km_learn(fn_km_batches *b, const int64_t *picked, int64_t count, double *centers,
                      double *counts, double *inertia, double *shift) {
    b->count = count;
    b->all = !picked;
    for (int64_t i = 0; i < count; i++) b->picked[i] = picked ? picked[i] : i;
    fn_km *km = open_batch(b, picked ? b->picked : NULL, count);
    if (!km) return FN_ENOMEM;
    memset(b->gaps, 0, (size_t)count * sizeof *b->gaps);
    memset(km->moved, 0, fn_km_moved_count(km) * sizeof(double));
    km->measuring = true;
    km->distances = b->distances, km->gaps = b->gaps;
    fn_km_start(km, centers, NULL);
    fn_km_assign_all(km);
    memcpy(b->labels, km->labels, (size_t)count * sizeof *b->labels);
    km->gaps = NULL, km->distances = NULL;
    if (km->not_finite) return FN_EINPUT;
    *inertia = b->inertia = km->record.inertia;
    *shift = 0;
    fn_km_each_cluster(km, 1, move_center, &(learned){centers, counts});
    for (int64_t j = 0; j < b->k; j++) *shift += km->terms[j];
    return FN_OK;
}

double fn_km_shift(const fn_km_batches *b, const double *centers) {
    return fn_km_distance(centers, b->km->centers, b->k * b->km->d);
}

/* ---- labels for other centres ---- */

static const double slop = 1 + 0x1p-20; /* covers a handful of roundings to float32 */

typedef struct {
    float *drift; /* (k) */
    const double *centers;
} following;

/* How far a centre is from where the batch found it, and what that does to the inertia of its rows
 * if they stay (km->terms): |x - e|^2 = |x - c|^2 - 2 (e - c).(x - c) + |e - c|^2. */
static void follow(fn_km *km, int64_t j, int thread, const void *more) {
    (void)thread;
    const following *f = more;
    const double *sum = km->moved + j * (km->d + 2), weight = sum[km->d];
    const double *from = km->centers + j * km->d, *to = f->centers + j * km->d;
    vd products = {0}, squares = {0};
    int64_t c = 0;
    for (; c + 4 <= km->d; c += 4) {
        const vd before = *(const vd_loose *)(from + c);
        const vd apart = *(const vd_loose *)(km->origin + c) - before;
        const vd move = *(const vd_loose *)(to + c) - before;
        products += move * (*(const vd_loose *)(sum + c) + weight * apart);
        squares += move * move;
    }
    double product = fn_km_sum4(products), squared = fn_km_sum4(squares);
    for (; c < km->d; c++) {
        const double move = to[c] - from[c];
        product += move * (sum[c] + weight * (km->origin[c] - from[c]));
        squared += move * move;
    }
    f->drift[j] = (float)(sqrt(squared) * slop);
    km->terms[j] = weight > 0 ? weight * squared - 2 * product : 0;
}

/* Fills drifts; returns what the inertia of the batch becomes if labels stay. */
static double measure_drift(fn_km_batches *b, const double *centers) {
    float most = 0, next = 0;
    double inertia = b->inertia;
    int64_t at = 0;
    fn_km_each_cluster(b->km, 1, follow, &(following){b->drift, centers});
    for (int64_t j = 0; j < b->k; j++) {
        const float drift = b->drift[j];
        inertia += b->km->terms[j];
        if (drift > most)
            next = most, most = drift, at = j;
        else if (drift > next)
            next = drift;
    }
    for (int64_t j = 0; j < b->k; j++) b->other[j] = j == at ? next : most;
    return inertia;
}

/* Places of the batch whose nearest centre may be another one now. */
static int64_t find_doubtful(const fn_km_batches *b) {
    int64_t n = 0;
    for (int64_t i = 0; i < b->count; i++) {
        const int32_t a = b->labels[i];
        const double own = b->distances[i] * slop, gap = (double)b->gaps[i] / slop;
        const double nearer = sqrt(own) + (double)b->drift[a] * slop;
        const double farther = sqrt(own / (slop * slop) + 2 * gap) - (double)b->other[a] * slop;
        if (!(nearer < farther / slop)) b->doubtful[n++] = i;
    }
    return n;
}

/* Nearest centres of rows of the batch: all of them (NULL: in order), or `n` picked ones. */
static fn_km *assign_again(fn_km_batches *b, const double *centers, const int64_t *picked,
                           int64_t n) {
    fn_km *km = open_batch(b, picked, n);
    if (!km) return NULL;
    km->measuring = b->each;
    km->no_sums = true;
    fn_km_start(km, centers, NULL);
    fn_km_assign_all(km);
    km->no_sums = false;
    return km;
}

/* The doubtful rows get labels for `centers`; returns by how much the inertia becomes another. */
static double settle_doubtful(fn_km_batches *b, const double *centers, int64_t n) {
    const fn_km *km = b->km;
    const int64_t d = km->d;
    double change = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t *label = b->labels + b->doubtful[i], now = km->labels[i];
        if (now == *label) continue;
        fn_km_row(&km->rows, i, km->scratch);
        change += fn_km_weight(&b->data, b->doubtful[i]) *
                  (fn_km_distance(km->scratch, centers + now * d, d) -
                   fn_km_distance(km->scratch, centers + *label * d, d));
        *label = now;
    }
    return change;
}

fn_status fn_km_relabel(fn_km_batches *b, const double *centers, int32_t *labels, double *inertia) {
    const size_t bytes = (size_t)b->count * sizeof *labels;
    const int64_t *all = b->all ? NULL : b->picked;
    if (b->each) {
        const fn_km *km = assign_again(b, centers, all, b->count);
        if (!km) return FN_ENOMEM;
        memcpy(labels, km->labels, bytes);
        *inertia = km->record.inertia;
        return FN_OK;
    }
    fn_km *km = b->km;
    const double stays = measure_drift(b, centers);
    const int64_t n = find_doubtful(b);
    for (int64_t i = 0; i < n; i++) b->rows_left[i] = b->picked[b->doubtful[i]];
    assign_again(b, centers, b->rows_left, n);
    *inertia = stays + settle_doubtful(b, centers, n);
    memcpy(labels, b->labels, bytes);
    if (*inertia > 1e-4 * b->inertia) return FN_OK;
    memcpy(open_batch(b, all, b->count)->labels, labels, bytes);
    *inertia = fn_km_measure(km); /* differences leave too few digits */
    return FN_OK;
}
