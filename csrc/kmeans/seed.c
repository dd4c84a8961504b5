/* seed.c - first centres: greedy k-means++, k-means||, or random rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "kmeans/assign.h"

enum { SEED_TILE = 512, MOST_TRIALS = FN_KM_MOST_TRIALS, ASK_NS = 20000000 };

typedef struct {
    fn_km *km;
    float *closest;    /* (n) squared distance to the nearest chosen row: the fit's `upper` */
    double *potential; /* (tiles, trials) of w * closest, were the candidate chosen */
    double *tile_sum;  /* (tiles) of w * closest */
    float *nearer;     /* (n, trials) closest, were the candidate chosen */
    float *rows;       /* (trials, ld): candidates less the shift */
    float *lengths, *coords, *packed, *half, *room;
    double *row;
    fn_km_scan scan;             /* the candidates, where rows are projected */
    int64_t *picked;             /* (trials) rows */
    double squares[MOST_TRIALS]; /* of the candidates; sparse */
    int trials, tiles, pass;
    bool plain; /* rows are read where they lie */
    bool apply; /* the candidates are chosen: note their distances, and labels from `base` on */
    int64_t base;
    bool stopped;   /* not to go on */
    uint64_t asked; /* when */
    uint64_t seed, drawn;
} seeding;

/* A float64 in [0, 1) with 53 random bits, the next of this seed. */
static double uniform(seeding *s) {
    const fn_philox4 r = fn_philox(s->seed, 77, s->drawn++);
    const uint64_t bits = (uint64_t)r.v[0] << 32 | r.v[1];
    return (double)(bits >> 11) * 0x1p-53;
}

static int seed_next(void *context) {
    seeding *s = context;
    return s->pass++ ? -1 : s->tiles;
}

/* Squared distance of row `index`, loaded unless it is read where it lies, to a candidate. */
static float measure(const seeding *s, int64_t index, const float *loaded, int t) {
    const fn_km *km = s->km;
    const char *start = (const char *)km->data.values;
    if (km->sparse) return fn_km_sparse_gap(km, index, s->rows + t * km->ld, s->squares[t]);
    if (!s->plain) return km->kernel->gap(loaded, s->rows + t * km->ld, km->d);
    return km->kernel->gap((const float *)(start + index * km->data.row_bytes),
                           (const float *)(start + s->picked[t] * km->data.row_bytes), km->d);
}

/* The candidates that could be nearer to points of a block than `closest`, from projections; those
 * of point i end at space->end[i] of space->found. */
static bool prune(const seeding *s, fn_km_space *space, int64_t first, int count) {
    const fn_km *km = s->km;
    const int lanes = km->kernel->lanes, p = km->p;
    const int64_t ld = (s->trials + lanes - 1) / lanes * lanes;
    const float *point = km->projected + first * km->projected_ld;
    fn_km_score_rows(km, &s->scan, point, NULL, count, space->products, ld);
    for (int i = 0, n = 0; i < count; i++, point += km->projected_ld) {
        const float squares = point[p + 2], near = s->closest[first + i];
        const float limit = 0.5f * (near - squares) + (near + squares) * km->square_error;
        float rest;
        if (!(squares < FN_KM_LARGE)) return false;
        n += km->kernel->pick(space->products + i * ld, ld, limit, space->found + n,
                              FN_KM_MOST_FOUND, &rest);
        space->end[i] = n;
        if (n > (i ? space->end[i - 1] : 0)) fn_km_prefetch_row(&km->data, first + i);
    }
    return true;
}

/* A block of rows: closest if the candidates are chosen, else what the potentials would be. */
static void seed_block(seeding *s, fn_km_space *space, int64_t first, int count, double *potential,
                       double *sum) {
    fn_km *km = s->km;
    const bool pruned = km->mode == FN_KM_MODE_PROJECTED && prune(s, space, first, count);
    float own[MOST_TRIALS];
    for (int i = 0; i < count; i++) {
        const int64_t row = first + i;
        const double weight = fn_km_weight(&km->data, row);
        const int begin = pruned && i ? space->end[i - 1] : 0;
        const int n = pruned ? space->end[i] - begin : s->trials;
        float *least = s->apply ? own : s->nearer + row * s->trials;
        for (int t = 0; t < s->trials; t++) least[t] = s->closest[row];
        if (n > 0 && !s->plain && !km->sparse)
            fn_km_load(km, row, NULL, 1, space->rows, km->ld, space->row);
        for (int c = 0; c < n; c++) {
            const int t = pruned ? space->found[begin + c].center : c;
            const float gap = measure(s, row, space->rows, t);
            if (gap < least[t]) least[t] = gap;
        }
        for (int t = 0; t < s->trials; t++) potential[t] += weight * (double)least[t];
        if (!s->apply) continue;
        float closest = s->closest[row];
        for (int t = 0; t < s->trials; t++)
            if (own[t] < closest) {
                closest = own[t];
                km->labels[row] = (int32_t)(s->base + t);
            }
        s->closest[row] = closest;
        *sum += weight * (double)closest;
    }
}

static void seed_run(void *context, int tile, int thread) {
    seeding *s = context;
    fn_km *km = s->km;
    fn_km_space *space = fn_km_space_of(km, thread);
    double potential[MOST_TRIALS] = {0}, sum = 0;
    fn_thread_report(thread);
    const int64_t first = (int64_t)tile * SEED_TILE;
    const int64_t end = first + SEED_TILE < km->n ? first + SEED_TILE : km->n;
    const int block = IN_PLACE_TILES * km->kernel->group;
    for (int64_t i = first; i < end; i += block)
        seed_block(s, space, i, (int)(end - i < block ? end - i : block), potential, &sum);
    if (s->apply)
        s->tile_sum[tile] = sum;
    else
        memcpy(s->potential + (size_t)tile * s->trials, potential, s->trials * sizeof *potential);
}

/* Candidates [0, s->trials) as kernels read them. */
static void prepare(seeding *s) {
    fn_km *km = s->km;
    for (int t = 0; t < s->trials; t++) {
        fn_km_load(km, s->picked[t], NULL, 1, s->rows + t * km->ld, km->ld, s->row);
        const float *row = s->rows + t * km->ld, squares = km->kernel->dot(row, row, km->d);
        s->squares[t] = 0;
        for (int64_t c = 0; c < km->d && km->sparse; c++)
            s->squares[t] += (double)row[c] * (double)row[c];
        s->lengths[t] = sqrtf(squares) * (1 + 8 * km->square_error);
        s->half[t] = 0.5f * squares * (1 - km->square_error - km->half_error) - 1e-36f;
    }
    if (km->mode != FN_KM_MODE_PROJECTED) return;
    s->scan = (fn_km_scan){km->p + 2, s->trials, 0, s->coords, s->packed, s->half, NULL};
    for (int t = s->trials; t < s->trials + FN_KM_PAD; t++) s->half[t] = INFINITY;
    fn_km_project_centers(km, s->rows, s->lengths, s->trials, s->coords, s->room);
    for (int t = 0; t < s->trials; t++)
        fn_km_to_panel(km, s->trials, t, s->coords + t * s->scan.q, s->scan.q, s->packed);
}

/* Ask now and then whether to go on. */
static void ask(seeding *s) {
    const fn_km *km = s->km;
    if (!km->go_on || fn_now_ns() < s->asked + ASK_NS) return;
    s->stopped = !km->go_on(km->watched);
    s->asked = fn_now_ns();
}

static void sweep(seeding *s, bool apply) {
    const fn_km *km = s->km;
    s->apply = apply;
    s->pass = 0;
    prepare(s);
    const double each = km->mode == FN_KM_MODE_PROJECTED ? km->p : (double)km->d;
    fn_parallel_run(fn_km_threads(km, (double)km->n * each * 0.2 * s->trials, 1),
                    &(fn_work_list){seed_next, seed_run, s, 1e6, 0});
    ask(s);
}

static double mass(const seeding *s, int64_t i) {
    return fn_km_weight(&s->km->data, i) * (double)s->closest[i];
}

static double mass_of_all(const seeding *s) {
    double total = 0;
    for (int t = 0; t < s->tiles; t++) total += s->tile_sum[t];
    return total;
}

/* The row at which the running sum of w * closest passes `target`. */
static int64_t find(const seeding *s, double target) {
    int tile = 0;
    while (tile < s->tiles - 1 && target >= s->tile_sum[tile]) target -= s->tile_sum[tile++];
    const int64_t first = (int64_t)tile * SEED_TILE, n = s->km->n;
    const int64_t end = first + SEED_TILE < n ? first + SEED_TILE : n;
    int64_t last = -1;
    for (int64_t i = first; i < end; i++) {
        if (mass(s, i) > 0) last = i;
        if (target < mass(s, i)) return i;
        target -= mass(s, i);
    }
    return last;
}

/* Candidate `t` becomes centre j; its distances are in s->nearer unless `t` is the first ever. */
static void take(seeding *s, int64_t j, int t, int64_t *indices) {
    const fn_km *km = s->km;
    const int trials = s->trials;
    indices[j] = s->picked[t];
    fn_km_row(&km->rows, indices[j], km->centers + j * km->d);
    if (j == 0) {
        s->trials = 1;
        sweep(s, true);
        s->trials = trials;
        return;
    }
    for (int tile = 0; tile < s->tiles; tile++) {
        const int64_t first = (int64_t)tile * SEED_TILE;
        const int64_t end = first + SEED_TILE < km->n ? first + SEED_TILE : km->n;
        double sum = 0;
        for (int64_t i = first; i < end; i++) {
            s->closest[i] = s->nearer[i * trials + t];
            sum += fn_km_weight(&km->data, i) * (double)s->closest[i];
        }
        s->tile_sum[tile] = sum;
    }
}

/* A row drawn by weight alone. */
static int64_t draw_weighted(seeding *s) {
    const fn_km_data *data = &s->km->data;
    if (!data->weights) return (int64_t)(uniform(s) * (double)data->n);
    double total = 0;
    for (int64_t i = 0; i < data->n; i++) total += data->weights[i];
    double target = uniform(s) * total;
    int64_t last = 0;
    for (int64_t i = 0; i < data->n; i++) {
        if (data->weights[i] > 0) last = i;
        if (target < data->weights[i]) return i;
        target -= data->weights[i];
    }
    return last;
}

/* The candidate that would leave the lowest potential. */
static int best_candidate(const seeding *s) {
    int best = 0;
    double least = INFINITY;
    for (int t = 0; t < s->trials; t++) {
        double potential = 0;
        for (int b = 0; b < s->tiles; b++) potential += s->potential[(size_t)b * s->trials + t];
        if (potential < least) least = potential, best = t;
    }
    return best;
}

static fn_status plus_plus(seeding *s, int64_t *indices) {
    const int64_t k = s->km->k;
    s->nearer = fn_alloc((size_t)s->km->n * (size_t)s->trials * sizeof *s->nearer);
    if (!s->nearer) return FN_ENOMEM;
    for (int64_t i = 0; i < s->km->n; i++) s->closest[i] = INFINITY;
    s->picked[0] = draw_weighted(s);
    take(s, 0, 0, indices);
    for (int64_t j = 1; j < k && !s->stopped; j++) {
        const double total = mass_of_all(s);
        for (int t = 0; t < s->trials; t++) {
            const int64_t row = total > 0 ? find(s, uniform(s) * total) : -1;
            s->picked[t] = row < 0 ? draw_weighted(s) : row; /* all rows are chosen already */
        }
        sweep(s, false);
        take(s, j, best_candidate(s), indices);
    }
    return FN_OK;
}

/* ---- k-means||: a few rounds that draw many rows at once, then k-means++ among those ---- */

enum { PARALLEL_ROUNDS = 5, PARALLEL_MARGIN = 64 };

/* Draw every row with probability 2 k w d^2 / total; returns how many were drawn in all rounds. */
static int64_t draw_round(seeding *s, int round, int64_t *drawn, int64_t count, int64_t most) {
    const double total = mass_of_all(s), each = 2 * (double)s->km->k;
    const int64_t before = count;
    for (int64_t i = 0; i < s->km->n && count < most && total > 0; i++) {
        const fn_philox4 r = fn_philox(s->seed, 78 + (uint64_t)round, (uint64_t)i);
        if ((double)r.v[0] * 0x1p-32 * total < each * mass(s, i)) drawn[count++] = i;
    }
    const int trials = s->trials;
    for (int64_t c = before; c < count && !s->stopped; c += s->trials) {
        s->base = c;
        s->trials = (int)(count - c < trials ? count - c : trials);
        memcpy(s->picked, drawn + c, (size_t)s->trials * sizeof *drawn);
        sweep(s, true);
    }
    s->trials = trials;
    return count;
}

/* k-means++ among `count` drawn rows, each weighted by the rows that are nearest to it. */
static fn_status choose_drawn(seeding *s, const int64_t *drawn, int64_t count, int64_t *indices) {
    fn_km *km = s->km;
    const size_t d = (size_t)km->d;
    double *rows = fn_alloc((size_t)count * d * sizeof *rows);
    double *weights = fn_alloc((size_t)count * sizeof *weights);
    fn_status status = rows && weights ? FN_OK : FN_ENOMEM;
    fn_km *among = NULL;
    if (status == FN_OK) {
        for (int64_t c = 0; c < count; c++) fn_km_row(&km->rows, drawn[c], rows + c * km->d);
        for (int64_t i = 0; i < km->n; i++) weights[km->labels[i]] += fn_km_weight(&km->data, i);
        const fn_km_data data = {.n = count,
                                 .d = km->d,
                                 .dtype = FN_F64,
                                 .values = rows,
                                 .row_bytes = km->d * 8,
                                 .weights = weights};
        among = fn_km_new(&data, km->k, FN_KM_AUTO, 0, km->threads);
        if (among) fn_km_watch(among, km->go_on, km->watched);
        status = among ? fn_km_seed(among, FN_KM_PLUSPLUS, s->seed, 0, indices) : FN_ENOMEM;
    }
    for (int64_t j = 0; j < km->k && status == FN_OK; j++) {
        memcpy(km->centers + j * km->d, rows + indices[j] * km->d, d * sizeof(double));
        indices[j] = drawn[indices[j]];
    }
    fn_km_free(among);
    fn_free(rows);
    fn_free(weights);
    return status;
}

/* Bahmani et al. 2012. */
static fn_status parallel(seeding *s, int64_t *indices) {
    fn_km *km = s->km;
    int64_t most = 2 * (2 * PARALLEL_ROUNDS * km->k) + PARALLEL_MARGIN, count = 1;
    if (most > km->n) most = km->n;
    int64_t *drawn = fn_alloc((size_t)most * sizeof *drawn);
    if (!drawn) return FN_ENOMEM;
    for (int64_t i = 0; i < km->n; i++) s->closest[i] = INFINITY;
    memset(km->labels, 0, (size_t)km->n * sizeof *km->labels);
    const int trials = s->trials;
    s->picked[0] = drawn[0] = draw_weighted(s);
    s->trials = 1;
    sweep(s, true);
    s->trials = trials;
    for (int r = 0; r < PARALLEL_ROUNDS && !s->stopped; r++)
        count = draw_round(s, r, drawn, count, most);
    fn_status status = FN_OK;
    if (s->stopped)
        status = FN_STOPPED;
    else if (count > km->k)
        status = choose_drawn(s, drawn, count, indices);
    else
        status = plus_plus(s, indices); /* too few different rows to choose from */
    fn_free(drawn);
    return status;
}

typedef struct {
    double key;
    int64_t row;
} keyed_row;

static int by_key(const void *a, const void *b) {
    const keyed_row *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Let the row at a place of a heap, whose first key is the largest, sink to where it belongs. */
static void sink(keyed_row *heap, int64_t count, int64_t at) {
    for (int64_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && by_key(heap + child, heap + child + 1) < 0) child++;
        if (by_key(heap + at, heap + child) >= 0) return;
        const keyed_row kept = heap[at];
        heap[at] = heap[child], heap[child] = kept;
        at = child;
    }
}

/* k different rows, a heavier one sooner: those with the lowest exponential variates over weights
 * (Efraimidis and Spirakis 2006). All of weight > 0 again and again where these are too few. */
static fn_status weighted_rows(seeding *s, int64_t *indices) {
    const fn_km *km = s->km;
    keyed_row *heap = fn_alloc((size_t)km->k * sizeof *heap);
    int64_t count = 0;
    if (!heap) return FN_ENOMEM;
    for (int64_t i = 0; i < km->n; i++) {
        if (!(km->data.weights[i] > 0)) continue;
        const keyed_row one = {-log1p(-uniform(s)) / km->data.weights[i], i};
        if (count < km->k) {
            heap[count++] = one;
            for (int64_t j = km->k / 2; count == km->k && j-- > 0;) sink(heap, count, j);
        } else if (by_key(&one, heap) < 0) {
            heap[0] = one;
            sink(heap, count, 0);
        }
    }
    qsort(heap, (size_t)count, sizeof *heap, by_key);
    for (int64_t j = 0; j < km->k; j++) indices[j] = count ? heap[j % count].row : j;
    fn_free(heap);
    return FN_OK;
}

/* k different rows, every set as likely (Vitter's method A in one pass of selection sampling). */
static void uniform_rows(seeding *s, int64_t *indices) {
    const fn_km *km = s->km;
    int64_t j = 0;
    for (int64_t i = 0; i < km->n && j < km->k; i++)
        if (uniform(s) * (double)(km->n - i) < (double)(km->k - j)) indices[j++] = i;
    for (j = km->k - 1; j > 0; j--) { /* in random order */
        const int64_t other = (int64_t)(uniform(s) * (double)(j + 1)), kept = indices[j];
        indices[j] = indices[other];
        indices[other] = kept;
    }
}

static fn_status random_rows(seeding *s, int64_t *indices) {
    fn_km *km = s->km;
    fn_status status = FN_OK;
    if (km->data.weights)
        status = weighted_rows(s, indices);
    else
        uniform_rows(s, indices);
    for (int64_t j = 0; status == FN_OK && j < km->k; j++)
        fn_km_row(&km->rows, indices[j], km->centers + j * km->d);
    return status;
}

fn_status fn_km_seed(fn_km *km, fn_km_seeding method, uint64_t seed, int trials, int64_t *indices) {
    seeding s = {.km = km, .seed = seed};
    if (method == FN_KM_RANDOM) return random_rows(&s, indices);
    s.trials = method == FN_KM_PARALLEL ? MOST_TRIALS
               : trials > 0             ? trials
                                        : 2 + (int)log((double)km->k);
    if (s.trials > MOST_TRIALS) s.trials = MOST_TRIALS;
    s.tiles = (int)((km->n + SEED_TILE - 1) / SEED_TILE);
    const size_t tiles = (size_t)s.tiles, many = (size_t)s.trials, one = sizeof(float);
    const size_t q = (size_t)km->p + 2, padded = many + FN_KM_PAD;
    s.closest = km->upper;
    s.potential = fn_alloc(tiles * many * sizeof(double));
    s.tile_sum = fn_alloc(tiles * sizeof(double));
    s.plain = !km->data.indptr && !km->data.cosine && km->data.dtype == FN_F32;
    s.rows = fn_alloc(many * (size_t)km->ld * one);
    s.picked = fn_alloc(many * sizeof(int64_t));
    s.lengths = fn_alloc(many * one);
    s.coords = fn_alloc(many * q * one);
    s.packed = fn_alloc(padded * q * one);
    s.half = fn_alloc(padded * one);
    s.room = fn_alloc((many * q + 2 * FN_KM_MOST_ROWS * ((size_t)km->p + FN_KM_PAD)) * one);
    s.row = fn_alloc((size_t)km->d * sizeof(double));
    void *all[] = {s.potential, s.tile_sum, s.rows, s.picked, s.lengths,
                   s.coords,    s.packed,   s.half, s.room,   s.row};
    bool ok = true;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ok = ok && all[i];
    fn_status status = ok ? FN_OK : FN_ENOMEM;
    if (ok && method == FN_KM_PARALLEL)
        status = parallel(&s, indices);
    else if (ok)
        status = plus_plus(&s, indices);
    if (status == FN_OK && s.stopped) status = FN_STOPPED;
    fn_free(s.nearer);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fn_free(all[i]);
    return status;
}
