/* fit.c - the life of a fit: memory, iterations in time slices, final labels. */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

void *fn_km_alloc(fn_km *km, size_t bytes) {
    km->bytes += bytes;
    return fn_alloc(bytes);
}

/* How rows are cut: a tile is what one thread assigns at a time, a chunk what is assigned before
 * its moved rows are added to sums (while they are still in the cache). Shapes alone decide. */
static void choose_tiles(fn_km *km) {
    const int64_t row = km->d * 4 + 64;
    int64_t tile = 65536 / row;
    tile = tile < 64 ? 64 : tile > 512 ? 512 : tile / 64 * 64;
    int64_t tiles = 16000000 / (tile * row);
    tiles = tiles < 16 ? 16 : tiles > 64 ? 64 : tiles;
    km->tile_rows = (int)tile;
    km->chunk_rows = tile * tiles;
    km->slice = 64;
}

fn_km *fn_km_new(const fn_km_data *data, int64_t k, fn_km_algorithm algorithm, int threads) {
    fn_km *km = fn_alloc(sizeof *km);
    if (!km) return NULL;
    km->data = *data;
    km->n = data->n, km->d = data->d, km->k = k;
    km->algorithm = algorithm, km->threads = threads;
    choose_tiles(km);
    const size_t n = (size_t)data->n, d = (size_t)data->d, kd = (size_t)k * d,
                 sized = sizeof(double);
    const size_t tiles = (size_t)(km->chunk_rows / km->tile_rows);
    km->scratch_stride = (d + 15) / 8 * 8;
    const size_t seats = FN_MAX_THREADS + (size_t)fn_km_sum_tasks(km);
    bool ok = (km->mean = fn_km_alloc(km, d * sized)) && (km->shift = fn_km_alloc(km, d * sized));
    ok = ok && (km->centers = fn_km_alloc(km, kd * sized));
    ok = ok && (km->previous = fn_km_alloc(km, kd * sized));
    ok = ok && (km->sums = fn_km_alloc(km, kd * sized));
    ok = ok && (km->sums_low = fn_km_alloc(km, kd * sized));
    ok = ok && (km->weights = fn_km_alloc(km, (size_t)k * sized));
    ok = ok && (km->weights_low = fn_km_alloc(km, (size_t)k * sized));
    ok = ok && (km->members = fn_km_alloc(km, (size_t)k * sized));
    ok = ok && (km->fixed = fn_km_alloc(km, (size_t)k));
    ok = ok && (km->labels = fn_km_alloc(km, n * sizeof *km->labels));
    ok = ok && (km->moves = fn_km_alloc(km, (size_t)km->chunk_rows * sizeof *km->moves));
    ok = ok && (km->n_moves = fn_km_alloc(km, tiles * sizeof *km->n_moves));
    ok = ok && (km->tile_computed = fn_km_alloc(km, tiles * sizeof *km->tile_computed));
    ok = ok && (km->scratch = fn_km_alloc(km, seats * km->scratch_stride * sized));
    ok = ok && fn_km_rows_begin(&km->rows, &km->data) == FN_OK;
    ok = ok && fn_km_center(km, threads) == FN_OK;
    if (ok) return km;
    fn_km_free(km);
    return NULL;
}

void fn_km_free(fn_km *km) {
    if (!km) return;
    void *all[] = {km->mean,    km->shift,         km->centers, km->previous,
                   km->sums,    km->sums_low,      km->weights, km->weights_low,
                   km->members, km->fixed,         km->labels,  km->moves,
                   km->n_moves, km->tile_computed, km->scratch, km->group_sums};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fn_free(all[i]);
    fn_km_rows_end(&km->rows);
    fn_free(km);
}

size_t fn_km_bytes(const fn_km *km) { return km->bytes; }
const double *fn_km_centers(fn_km *km) { return km->centers; }
const double *fn_km_mean(const fn_km *km) { return km->mean; }

void fn_km_start(fn_km *km, const double *centers, const uint8_t *fixed) {
    const size_t kd = (size_t)km->k * (size_t)km->d * sizeof(double), k = (size_t)km->k;
    memcpy(km->centers, centers, kd);
    memset(km->fixed, 0, k);
    if (fixed) memcpy(km->fixed, fixed, k);
    memset(km->sums, 0, kd);
    memset(km->sums_low, 0, kd);
    memset(km->weights, 0, k * sizeof(double));
    memset(km->weights_low, 0, k * sizeof(double));
    memset(km->members, 0, k * sizeof(int64_t));
    for (int64_t i = 0; i < km->n; i++) km->labels[i] = -1;
    km->cursor = 0;
    km->first = true;
    km->converged = false;
    km->record = (fn_km_record){0};
}

/* ---- one iteration: chunks of rows, each assigned and then added to the sums ---- */

typedef struct {
    fn_km *km;
    uint64_t deadline;
    bool summing;
    bool began;
} pass;

static int64_t chunk_end(const fn_km *km) {
    return km->n - km->cursor < km->chunk_rows ? km->n : km->cursor + km->chunk_rows;
}

static int chunk_tiles(const fn_km *km) {
    return (int)((chunk_end(km) - km->cursor + km->tile_rows - 1) / km->tile_rows);
}

static void note_chunk(fn_km *km) {
    for (int t = 0; t < chunk_tiles(km); t++) {
        km->record.moved += km->n_moves[t];
        km->record.computed += km->tile_computed[t];
    }
    km->cursor = chunk_end(km);
}

static int next_phase(void *context) {
    pass *p = context;
    fn_km *km = p->km;
    if (p->began && !p->summing) {
        p->summing = true;
        return fn_km_sum_tasks(km);
    }
    if (p->summing) note_chunk(km);
    p->summing = false;
    p->began = true;
    if (km->cursor >= km->n || (p->deadline && fn_now_ns() > p->deadline)) return -1;
    return chunk_tiles(km);
}

static void assign_tile(fn_km *km, int tile, int thread) {
    double *row = km->scratch + (size_t)thread * km->scratch_stride;
    const int64_t first = km->cursor + (int64_t)tile * km->tile_rows;
    const int64_t end = first + km->tile_rows < km->n ? first + km->tile_rows : km->n;
    int moved = 0;
    for (int64_t i = first; i < end; i++) {
        fn_km_row(&km->rows, i, row);
        int64_t best = 0;
        double least = INFINITY;
        for (int64_t j = 0; j < km->k; j++) {
            const double distance = fn_km_distance(row, km->centers + j * km->d, km->d);
            if (distance < least) least = distance, best = j;
        }
        if (best == km->labels[i]) continue;
        km->moves[(int64_t)tile * km->tile_rows + moved++] =
            (fn_km_move){(int32_t)(i - km->cursor), km->labels[i]};
        km->labels[i] = (int32_t)best;
    }
    km->n_moves[tile] = moved;
    km->tile_computed[tile] = (end - first) * km->k;
}

static void run_tile(void *context, int tile, int thread) {
    pass *p = context;
    fn_thread_report(thread);
    if (p->summing)
        fn_km_sum_tiles(p->km, p->km->cursor, tile);
    else
        assign_tile(p->km, tile, thread);
}

/* Go on with the assignment; true when all rows are done. */
static bool assign(fn_km *km, uint64_t deadline) {
    pass p = {.km = km, .deadline = deadline};
    const double ns = (double)(km->n - km->cursor) * (double)(km->k * km->d);
    const int threads = fn_parallel_choose(ns, 2, km->threads);
    fn_parallel_run(threads, &(fn_work_list){next_phase, run_tile, &p, 1e6});
    return km->cursor >= km->n;
}

typedef struct {
    fn_km *km;
    double *parts;
    int pass;
} inertia_work;

enum { INERTIA_BLOCKS = 64 };

static int inertia_next(void *context) {
    return ((inertia_work *)context)->pass++ ? -1 : INERTIA_BLOCKS;
}

static void inertia_run(void *context, int tile, int thread) {
    inertia_work *work = context;
    const fn_km *km = work->km;
    double *row = km->scratch + (size_t)thread * km->scratch_stride, sum = 0;
    for (int64_t i = km->n * tile / INERTIA_BLOCKS; i < km->n * (tile + 1) / INERTIA_BLOCKS; i++) {
        fn_km_row(&km->rows, i, row);
        const double *center = km->centers + (int64_t)km->labels[i] * km->d;
        sum += fn_km_weight(&km->data, i) * fn_km_distance(row, center, km->d);
    }
    work->parts[tile] = sum;
}

static double inertia(fn_km *km) {
    double parts[INERTIA_BLOCKS], sum = 0;
    inertia_work work = {km, parts, 0};
    const int threads = fn_parallel_choose((double)(km->n * km->d), 1, km->threads);
    fn_parallel_run(threads, &(fn_work_list){inertia_next, inertia_run, &work, 1e6});
    for (int b = 0; b < INERTIA_BLOCKS; b++) sum += parts[b];
    return sum;
}

fn_status fn_km_step(fn_km *km, int64_t iterations, double tolerance, double seconds,
                     fn_km_record *records, int64_t *completed) {
    const uint64_t deadline = seconds > 0 ? fn_now_ns() + (uint64_t)(seconds * 1e9) : 0;
    *completed = 0;
    while (*completed < iterations) {
        if (!assign(km, deadline)) break;
        km->record.inertia = inertia(km);
        km->record.saved = km->n * km->k - km->record.computed;
        const fn_status status = fn_km_update(km);
        if (status != FN_OK) return status;
        records[(*completed)++] = km->record;
        km->converged = !km->record.moved && !km->first;
        const bool stop = km->converged || km->record.shift <= tolerance;
        km->first = false;
        km->record = (fn_km_record){0};
        km->cursor = 0;
        if (stop || (deadline && fn_now_ns() > deadline)) break;
    }
    return FN_OK;
}

/* The sums follow the labels, so the fit could go on after this; the iteration that is half done is
 * begun anew. */
fn_status fn_km_labels(fn_km *km, int32_t *labels, double *value) {
    km->record = (fn_km_record){0};
    km->cursor = 0;
    if (!km->converged) assign(km, 0);
    memcpy(labels, km->labels, (size_t)km->n * sizeof *labels);
    *value = inertia(km);
    km->record = (fn_km_record){0};
    km->cursor = 0;
    return FN_OK;
}
