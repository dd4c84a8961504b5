/* seed.c - first centres: greedy k-means++, k-means||, or random rows. */
#include <math.h>
#include <string.h>

#include "kernels/philox.h"
#include "kmeans/km.h"

enum { SEED_TILE = 512, MOST_TRIALS = 64 };

typedef struct {
    fn_km *km;
    double *closest;   /* (n) w * squared distance to the nearest chosen row */
    double *potential; /* (tiles, trials) */
    double *tile_sum;  /* (tiles) of closest */
    double *candidate; /* (trials, d) */
    int64_t *picked;   /* (trials) rows */
    int trials, tiles, apply, pass;
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

/* Potentials of all candidates over a tile, or (apply >= 0) the new `closest` for one of them. */
static void seed_run(void *context, int tile, int thread) {
    seeding *s = context;
    fn_km *km = s->km;
    double *row = km->scratch + (size_t)thread * km->scratch_stride, sum = 0;
    double potential[MOST_TRIALS] = {0};
    fn_thread_report(thread);
    const int64_t first = (int64_t)tile * SEED_TILE;
    const int64_t end = first + SEED_TILE < km->n ? first + SEED_TILE : km->n;
    for (int64_t i = first; i < end; i++) {
        fn_km_row(&km->rows, i, row);
        const double weight = fn_km_weight(&km->data, i);
        const int from = s->apply < 0 ? 0 : s->apply, to = s->apply < 0 ? s->trials : s->apply + 1;
        for (int t = from; t < to; t++) {
            const double there = weight * fn_km_distance(row, s->candidate + t * km->d, km->d);
            const double least = there < s->closest[i] ? there : s->closest[i];
            potential[t] += least;
            if (s->apply >= 0) s->closest[i] = least;
        }
        sum += s->closest[i];
    }
    if (s->apply >= 0)
        s->tile_sum[tile] = sum;
    else
        memcpy(s->potential + (size_t)tile * s->trials, potential, s->trials * sizeof *potential);
}

static void sweep(seeding *s, int apply) {
    s->apply = apply;
    s->pass = 0;
    const fn_km *km = s->km;
    const double ns = (double)(km->n * km->d) * (apply < 0 ? s->trials : 1);
    fn_parallel_run(fn_km_threads(km, ns, 1), &(fn_work_list){seed_next, seed_run, s, 1e6});
}

/* The row at which the running sum of `closest` passes `target`. */
static int64_t find(const seeding *s, double target) {
    int tile = 0;
    while (tile < s->tiles - 1 && target >= s->tile_sum[tile]) target -= s->tile_sum[tile++];
    const int64_t first = (int64_t)tile * SEED_TILE, n = s->km->n;
    const int64_t end = first + SEED_TILE < n ? first + SEED_TILE : n;
    int64_t last = -1;
    for (int64_t i = first; i < end; i++) {
        if (s->closest[i] > 0) last = i;
        if (target < s->closest[i]) return i;
        target -= s->closest[i];
    }
    return last >= 0 ? last : end - 1;
}

static void pick(seeding *s, int t, int64_t row) {
    s->picked[t] = row;
    fn_km_row(&s->km->rows, row, s->candidate + (int64_t)t * s->km->d);
}

static void take(seeding *s, int64_t j, int t, int64_t *indices) {
    indices[j] = s->picked[t];
    memcpy(s->km->centers + j * s->km->d, s->candidate + (int64_t)t * s->km->d,
           (size_t)s->km->d * sizeof(double));
    sweep(s, t);
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

static void plus_plus(seeding *s, int64_t *indices) {
    const int64_t k = s->km->k;
    for (int64_t i = 0; i < s->km->n; i++) s->closest[i] = INFINITY;
    for (int64_t i = 0; i < s->km->n; i++)
        if (fn_km_weight(&s->km->data, i) == 0) s->closest[i] = 0;
    pick(s, 0, draw_weighted(s));
    take(s, 0, 0, indices);
    for (int64_t j = 1; j < k; j++) {
        double total = 0;
        for (int t = 0; t < s->tiles; t++) total += s->tile_sum[t];
        for (int t = 0; t < s->trials; t++) pick(s, t, find(s, uniform(s) * total));
        sweep(s, -1);
        int best = 0;
        double least = INFINITY;
        for (int t = 0; t < s->trials; t++) {
            double potential = 0;
            for (int b = 0; b < s->tiles; b++) potential += s->potential[(size_t)b * s->trials + t];
            if (potential < least) least = potential, best = t;
        }
        take(s, j, best, indices);
    }
}

/* k different rows, every set as likely (Vitter's method A in one pass of selection sampling). */
static void random_rows(seeding *s, int64_t *indices) {
    fn_km *km = s->km;
    int64_t j = 0;
    for (int64_t i = 0; i < km->n && j < km->k; i++)
        if (uniform(s) * (double)(km->n - i) < (double)(km->k - j)) indices[j++] = i;
    for (j = km->k - 1; j > 0; j--) { /* in random order */
        const int64_t other = (int64_t)(uniform(s) * (double)(j + 1)), kept = indices[j];
        indices[j] = indices[other];
        indices[other] = kept;
    }
    for (j = 0; j < km->k; j++) fn_km_row(&km->rows, indices[j], km->centers + j * km->d);
}

fn_status fn_km_seed(fn_km *km, fn_km_seeding method, uint64_t seed, int trials, int64_t *indices) {
    seeding s = {.km = km, .seed = seed};
    if (method == FN_KM_RANDOM) {
        random_rows(&s, indices);
        return FN_OK;
    }
    s.trials = trials > 0 ? trials : 2 + (int)log((double)km->k);
    if (s.trials > MOST_TRIALS) s.trials = MOST_TRIALS;
    s.tiles = (int)((km->n + SEED_TILE - 1) / SEED_TILE);
    const size_t tiles = (size_t)s.tiles, many = (size_t)s.trials;
    s.closest = fn_alloc((size_t)km->n * sizeof(double));
    s.potential = fn_alloc(tiles * many * sizeof(double));
    s.tile_sum = fn_alloc(tiles * sizeof(double));
    s.candidate = fn_alloc(many * (size_t)km->d * sizeof(double));
    s.picked = fn_alloc(many * sizeof(int64_t));
    const bool ok = s.closest && s.potential && s.tile_sum && s.candidate && s.picked;
    if (ok) plus_plus(&s, indices);
    fn_free(s.closest);
    fn_free(s.potential);
    fn_free(s.tile_sum);
    fn_free(s.candidate);
    fn_free(s.picked);
    return ok ? FN_OK : FN_ENOMEM;
}
