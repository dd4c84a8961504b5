/* fit.c - the life of a fit: memory, iterations in time slices, final labels. */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

void *fn_km_alloc(fn_km *km, size_t bytes) {
    km->bytes += bytes;
    return fn_alloc(bytes);
}

/* Threads for work of `ns` nanoseconds: never more than there is memory for. */
int fn_km_threads(const fn_km *km, double ns, int phases) {
    const int threads = fn_parallel_choose(ns, phases, km->threads, NULL);
    return threads < km->most_threads ? threads : km->most_threads;
}

/* How rows are cut: a tile is what one thread assigns at a time, a chunk what is assigned before
 * its moved rows are added to sums (while they are still in the cache). Shapes alone decide. */
static void choose_tiles(fn_km *km) {
    const int64_t row = km->d * 4 + 16;
    int64_t tile = 400000 / row;
    tile = tile < 96 ? 96 : tile > 960 ? 960 : tile / 96 * 96; /* whole blocks and register tiles */
    if (km->n <= 16 * tile && tile == 96) tile = 48; /* few: threads should end together */
    int64_t tiles = 16000000 / (tile * row);
    tiles = tiles < 16 ? 16 : tiles > 64 ? 64 : tiles;
    km->tile_rows = (int)tile;
    km->chunk_rows = tile * tiles;
    km->by_cluster = !km->sparse && km->k * km->d > 32768;
    km->groups = km->sparse || km->by_cluster || km->n < 2048 ? 1
                 : km->n < 16384                              ? (int)(km->n / 1024)
                                                              : 16;
}

enum { NARROW_COLUMNS = 128 };

/* Columns of a projection of d columns that is to tell k centres apart, in the memory allowed. */
static int projection_columns(const fn_km *km, size_t max_bytes) {
    int p = 64;
    while (p > 8 && p > km->d / 4) p -= 8;
    const size_t bytes = (size_t)km->n * (size_t)(p + 4) * sizeof(float);
    return km->n < 8 * (int64_t)p || p > km->d || (max_bytes && bytes > max_bytes) ? 0 : p;
}

/* Rows of the caller, not centred, lose few digits where the shift is not far: then zeros are still
 * zeros. A panel of centres stays in the second-level cache. */
static bool can_read_in_place(const fn_km *km) {
    const bool plain = !km->data.indptr && !km->data.cosine && km->data.dtype == FN_F32;
    return plain && km->purpose != FN_KM_READ && km->d <= 4096 && !km->centered;
}

/* Whether the rows of this iteration are scored in place: always, or to begin with. */
bool fn_km_now_in_place(const fn_km *km) {
    const bool dense = km->mode == FN_KM_MODE_DENSE;
    return km->in_place || (km->begin_in_place && (dense ? !km->keep : km->first));
}

/* So few that the first iteration scores all of them on all columns. */
enum { FEW_CENTERS = 24 };

static bool choose_mode(fn_km *km, size_t max_bytes) {
    const bool wide = km->d > NARROW_COLUMNS, asked = km->algorithm == FN_KM_PROJECTED;
    km->mode = wide || km->data.indptr ? FN_KM_MODE_DENSE : FN_KM_MODE_NARROW;
    km->bounds = km->algorithm != FN_KM_LLOYD;
    km->scan.q = km->mode == FN_KM_MODE_DENSE ? 1 : (int)km->d + 1;
    km->in_place = km->mode == FN_KM_MODE_DENSE && !km->bounds && can_read_in_place(km);
    const int p = projection_columns(km, max_bytes);
    if (km->sparse || !p || !(asked || (wide && km->algorithm == FN_KM_AUTO && km->k > 1)))
        return true;
    if (!fn_km_find_basis(km, p, asked ? 1.5 : 0.6)) {
        km->begin_in_place = km->mode == FN_KM_MODE_DENSE && can_read_in_place(km);
        return true;
    }
    km->mode = FN_KM_MODE_PROJECTED;
    km->in_place = false;
    /* before anything is known of a row, a projection leaves a few centres to look at */
    km->begin_in_place = km->k <= FEW_CENTERS && can_read_in_place(km);
    km->scan.q = p + 2;
    if (!fn_km_pack_basis(km, can_read_in_place(km))) return false;
    km->projected_ld = (p + 2 + 3) / 4 * 4;
    fn_km_count_families(km, max_bytes);
    km->projected = fn_km_alloc(km, (size_t)km->n * (size_t)km->projected_ld * sizeof(float));
    return km->projected != NULL;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Memory that the mode asks for. */
static bool allocate_scan(fn_km *km) {
    const size_t k = (size_t)km->k, n = (size_t)km->n, one = sizeof(float);
    km->scan.k = km->k;
    km->scan.k_padded = (km->k + FN_KM_GROUP - 1) / FN_KM_GROUP * FN_KM_GROUP;
    const size_t padded = (size_t)km->k + FN_KM_PAD; /* whole groups, or panels */
    bool ok = (km->rounded = fn_km_alloc(km, k * (size_t)km->ld * one));
    ok = ok && (km->lengths = fn_km_alloc(km, k * one));
    ok = ok && (km->scan.coords = fn_km_alloc(km, k * (size_t)km->scan.q * one));
    ok = ok && (km->scan.packed = fn_km_alloc(km, padded * (size_t)km->scan.q * one));
    ok = ok && (km->scan.half = fn_km_alloc(km, padded * one));
    if (km->in_place || km->begin_in_place || km->sparse)
        ok = ok && (km->panels = fn_km_alloc(km, (k + FN_KM_PAD) * (size_t)km->d * one));
    if (km->sparse) ok = ok && (km->center_squares = fn_km_alloc(km, k * sizeof(double)));
    if (km->in_place || km->begin_in_place || km->basis_shift || km->sparse) {
        ok = ok && (km->place_half = fn_km_alloc(km, (k + FN_KM_PAD) * one));
        ok = ok && (km->place_error = fn_km_alloc(km, (k + FN_KM_PAD) * one));
        ok = ok && (km->place_slack = fn_km_alloc(km, k * one));
        for (size_t j = k; ok && j < k + FN_KM_PAD; j++) km->place_half[j] = INFINITY;
    }
    ok = ok && (km->scan.slack = fn_km_alloc(km, padded * one));
    ok = ok && (km->drift = fn_km_alloc(km, k * one));
    ok = ok && (km->drift_others = fn_km_alloc(km, k * one));
    ok = ok && (km->apart = fn_km_alloc(km, k * one));
    ok = ok && (km->left_drift = fn_km_alloc(km, k * one));
    if (km->bounds || !km->no_sums) {
        ok = ok && (km->upper = fn_km_alloc(km, n * one));
        ok = ok && (km->lower = fn_km_alloc(km, n * one));
    }
    if (km->mode == FN_KM_MODE_PROJECTED) {
        ok = ok && (km->rival = fn_km_alloc(km, n * sizeof *km->rival));
        ok = ok && (km->rival_lower = fn_km_alloc(km, n * one));
        ok = ok && (km->extra = fn_km_alloc(km, n * one));
        ok = ok && (km->rival_extra = fn_km_alloc(km, n * one));
    }
    ok = ok && fn_km_new_families(km);
    km->space_bytes = larger(fn_km_space_bytes(km), fn_km_prepare_bytes(km));
    km->space_bytes = larger(km->space_bytes, fn_km_survey_bytes(km));
    ok = ok && (km->spaces = fn_km_alloc(km, (size_t)km->most_threads * km->space_bytes));
    for (size_t j = k; ok && j < padded; j++) km->scan.half[j] = INFINITY;
    return ok;
}

/* Memory that every mode needs. */
static bool allocate(fn_km *km) {
    const size_t k = (size_t)km->k, d = (size_t)km->d, kd = k * d, one = sizeof(double);
    const size_t tiles = (size_t)(km->chunk_rows / km->tile_rows);
    bool ok = (km->mean = fn_km_alloc(km, d * one)) && (km->shift = fn_km_alloc(km, d * one));
    ok = ok && (km->origin = fn_km_alloc(km, d * one));
    ok = ok && (km->shift32 = fn_km_alloc(km, (size_t)km->ld * sizeof(float)));
    ok = ok && (km->centers = fn_km_alloc(km, kd * one));
    if (km->purpose == FN_KM_ITERATE) {
        ok = ok && (km->previous = fn_km_alloc(km, kd * one));
        ok = ok && (km->sums = fn_km_alloc(km, kd * one));
        ok = ok && (km->sums_low = fn_km_alloc(km, kd * one));
    }
    if (!km->no_sums) ok = ok && (km->moved = fn_km_alloc(km, fn_km_moved_count(km) * one));
    ok = ok && (km->weights = fn_km_alloc(km, k * one));
    ok = ok && (km->weights_low = fn_km_alloc(km, k * one));
    ok = ok && (km->members = fn_km_alloc(km, k * one));
    ok = ok && (km->fixed = fn_km_alloc(km, k));
    ok = ok && (km->labels = fn_km_alloc(km, (size_t)km->n * sizeof *km->labels));
    ok = ok && (km->moves = fn_km_alloc(km, (size_t)km->chunk_rows * sizeof *km->moves));
    ok = ok && (km->n_moves = fn_km_alloc(km, tiles * sizeof *km->n_moves));
    ok = ok && (km->tile_computed = fn_km_alloc(km, tiles * sizeof *km->tile_computed));
    ok = ok && (km->tile_stays = fn_km_alloc(km, tiles * sizeof *km->tile_stays));
    if (km->by_cluster && !km->no_sums) {
        ok = ok && (km->begins = fn_km_alloc(km, (k + 1) * sizeof *km->begins));
        ok = ok && (km->sorted = fn_km_alloc(km, 2 * (size_t)km->chunk_rows * sizeof *km->sorted));
    }
    ok = ok && (km->terms = fn_km_alloc(km, k * one));
    ok = ok && (km->tile_inertia = fn_km_alloc(km, tiles * one));
    ok = ok && (km->scratch = fn_km_alloc(km, km->scratch_stride * one * (size_t)km->most_threads));
    return ok;
}

/* What a fit is made for: iterations, one assignment (summed), or rows alone. */
static fn_km *make(const fn_km_data *data, int64_t k, fn_km_algorithm algorithm, size_t max_bytes,
                   int threads, fn_km_purpose purpose) {
    fn_km *km = fn_alloc(sizeof *km);
    if (!km) return NULL;
    km->data = *data;
    km->n = data->n, km->d = data->d, km->k = k;
    km->algorithm = algorithm, km->threads = threads, km->purpose = purpose;
    km->no_sums = purpose == FN_KM_LABEL || purpose == FN_KM_READ;
    km->most_threads = threads > 0 ? threads : fn_get_threads();
    if (km->most_threads > FN_MAX_THREADS) km->most_threads = FN_MAX_THREADS;
    km->kernel = fn_level_current()->kmeans;
    km->ld = (km->d + 15) / 16 * 16;
    km->scratch_stride = (size_t)km->ld + 16;
    km->bad_row = km->bad_column = -1;
    km->sparse = fn_km_is_sparse(data);
    choose_tiles(km);
    bool ok = allocate(km) && fn_km_rows_begin(&km->rows, &km->data) == FN_OK;
    ok = ok && fn_km_center(km) == FN_OK && choose_mode(km, max_bytes) && allocate_scan(km);
    if (ok) {
        fn_km_errors(km);
        ok = (purpose != FN_KM_ITERATE && !km->projected) || fn_km_survey(km) == FN_OK;
    }
    if (ok) return km;
    fn_km_free(km);
    return NULL;
}

fn_km *fn_km_new(const fn_km_data *data, int64_t k, fn_km_algorithm algorithm, size_t max_bytes,
                 int threads) {
    return make(data, k, algorithm, max_bytes, threads, FN_KM_ITERATE);
}

/* Centres from which projecting rows pays for a single assignment. */
enum { MANY_CENTERS = 512 };

bool fn_km_projects_once(int64_t k, int64_t rows) { return k >= MANY_CENTERS && rows >= 4 * k; }

fn_km *fn_km_new_once(const fn_km_data *data, int64_t k, bool sums, int threads) {
    const bool many = fn_km_projects_once(k, data->n);
    return make(data, k, many ? FN_KM_AUTO : FN_KM_LLOYD, 0, threads,
                sums ? FN_KM_SUM : FN_KM_LABEL);
}

fn_km *fn_km_new_rows(const fn_km_data *data, int64_t k, int threads) {
    return make(data, k, FN_KM_LLOYD, 0, threads, FN_KM_READ);
}

void fn_km_free(fn_km *km) {
    if (!km) return;
    void *all[] = {
        km->origin,        km->mean,         km->shift,          km->shift32,      km->centers,
        km->previous,      km->sums,         km->sums_low,       km->weights,      km->weights_low,
        km->members,       km->fixed,        km->labels,         km->moves,        km->n_moves,
        km->tile_computed, km->tile_inertia, km->center_squares, km->scratch,      km->moved,
        km->rounded,       km->lengths,      km->scan.coords,    km->scan.packed,  km->scan.half,
        km->scan.slack,    km->drift,        km->drift_others,   km->apart,        km->left_drift,
        km->upper,         km->lower,        km->rival,          km->rival_lower,  km->extra,
        km->rival_extra,   km->basis,        km->basis_panels,   km->basis_shift,  km->projected,
        km->spaces,        km->panels,       km->place_half,     km->place_error,  km->place_slack,
        km->slot_of,       km->center_at,    km->slot_half,      km->family_drift, km->family_lower,
        km->sorted,        km->begins,       km->terms,          km->tile_stays};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fn_free(all[i]);
    fn_km_rows_end(&km->rows);
    fn_free(km);
}

size_t fn_km_bytes(const fn_km *km) { return km->bytes; }
const double *fn_km_centers(fn_km *km) { return km->centers; }
double fn_km_variance(const fn_km *km) { return km->variance; }

void fn_km_watch(fn_km *km, fn_km_go_on go_on, void *context) {
    km->go_on = go_on, km->watched = context;
}

bool fn_km_bad_value(const fn_km *km, int64_t *row, int64_t *column) {
    *row = km->bad_row, *column = km->bad_column;
    return km->bad_row >= 0;
}

const char *fn_km_path(const fn_km *km) {
    static const char *const names[] = {"narrow", "dense", "projected"};
    return names[km->mode];
}

void fn_km_start(fn_km *km, const double *centers, const uint8_t *fixed) {
    const size_t kd = (size_t)km->k * (size_t)km->d * sizeof(double), k = (size_t)km->k;
    memcpy(km->centers, centers, kd);
    memset(km->fixed, 0, k);
    if (fixed) memcpy(km->fixed, fixed, k);
    if (km->purpose == FN_KM_ITERATE) {
        memset(km->sums, 0, kd);
        memset(km->sums_low, 0, kd);
        memset(km->moved, 0, fn_km_moved_count(km) * sizeof(double));
        memcpy(km->previous, km->centers, kd);
    }
    memset(km->weights, 0, k * sizeof(double));
    memset(km->weights_low, 0, k * sizeof(double));
    memset(km->members, 0, k * sizeof(int64_t));
    for (int64_t i = 0; i < km->n; i++) km->labels[i] = -1;
    km->cursor = 0;
    km->first = true;
    km->calm = km->known = false;
    km->keep = km->bounds && !(km->begin_in_place && km->mode == FN_KM_MODE_DENSE);
    km->resting = km->patience = 0;
    km->stays = 0, km->distance = 0;
    memset(km->left_drift, 0, k * sizeof(float));
    km->converged = km->relocated = false;
    km->record = (fn_km_record){0};
    fn_km_start_families(km);
    fn_km_prepare(km);
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
        km->stays += km->tile_stays[t];
        if (km->measuring) km->record.inertia += km->tile_inertia[t];
    }
    km->cursor = chunk_end(km);
}

static int next_phase(void *context) {
    pass *p = context;
    fn_km *km = p->km;
    if (p->began && !p->summing && !km->no_sums) {
        p->summing = true;
        return fn_km_sum_tasks(km);
    }
    if (p->began) note_chunk(km);
    p->summing = false;
    p->began = true;
    if (km->cursor >= km->n || (p->deadline && fn_now_ns() > p->deadline)) return -1;
    return chunk_tiles(km);
}

static void run_tile(void *context, int tile, int thread) {
    pass *p = context;
    fn_thread_report(thread);
    if (p->summing)
        fn_km_sum_tiles(p->km, tile, thread);
    else
        fn_km_assign_tile(p->km, tile, thread);
}

/* Go on with the assignment; true when all rows are done. */
static bool assign(fn_km *km, uint64_t deadline) {
    pass p = {.km = km, .deadline = deadline};
    const int64_t columns = km->mode == FN_KM_MODE_DENSE ? km->d : km->scan.q;
    const double ns = (double)(km->n - km->cursor) * (0.03 * (double)(km->k * columns) + 2);
    fn_parallel_run(fn_km_threads(km, ns, 2), &(fn_work_list){next_phase, run_tile, &p, 1e6, 0});
    if (km->cursor < km->n) return false;
    if (km->purpose == FN_KM_ITERATE) fn_km_merge(km);
    return true;
}

void fn_km_assign_all(fn_km *km) { assign(km, 0); }

/* At most one point in so many moved: then bounds pay, with projections (CALM) or without (STILL).
 */
enum { CALM = 25, STILL = 400 };

/* Bounds that let few points be skipped cost more than they save (white noise): then some
 * iterations go without; none the first time, and each time more, until bounds pay again. At most
 * LOOKED of them may be looked at; of rows that could be read where they lie, which is twice as
 * fast as a list of them, LISTED, and a list is begun only where STAY of them would be skipped. */
static const double LOOKED = 0.9, LISTED = 0.5, STAY = 0.8;
enum { MOST_PATIENCE = 31 };

/* After an iteration: whether the next one keeps bounds. */
static void judge_bounds(fn_km *km) {
    const bool judged = km->known, in_place = km->begin_in_place;
    const double looked = (double)km->record.computed / ((double)km->n * (double)km->k);
    km->known = km->keep;
    if (km->algorithm != FN_KM_AUTO || km->mode == FN_KM_MODE_PROJECTED) return;
    if (judged && looked > (in_place ? LISTED : LOOKED)) {
        km->resting = km->patience;
        if (km->patience < MOST_PATIENCE) km->patience = 2 * km->patience + 1;
    } else if (km->resting) {
        km->resting--;
    } else if (judged) {
        km->patience /= 2;
    }
    const bool promising = km->keep || (double)km->stays > STAY * (double)km->n;
    km->keep = !km->resting && (!in_place || (km->calm && promising));
    km->known = km->known && km->keep;
    double weight = 0;
    for (int64_t j = 0; j < km->k; j++) weight += km->weights[j];
    km->distance = weight > 0 ? sqrt(km->record.inertia / weight) : 0;
    km->stays = 0;
}

/* ---- inertia ---- */

enum { INERTIA_BLOCKS = 64 };

typedef struct {
    fn_km *km;
    double parts[INERTIA_BLOCKS];
    int pass;
} measuring;

static int measure_next(void *context) {
    return ((measuring *)context)->pass++ ? -1 : INERTIA_BLOCKS;
}

static double distance_of(const fn_km *km, int64_t i, int64_t label, double *values) {
    if (km->sparse) return fn_km_sparse_distance(km, i, label, values);
    bool wide;
    const void *row = fn_km_peek(&km->rows, i, 0, values, &wide);
    return km->kernel->distance(row, wide, km->centers + label * km->d, km->d);
}

/* Squared distances of `count` rows to their labels' centres; returns their weighted sum. */
double fn_km_measure_rows(fn_km *km, int64_t first, int64_t count, double *values) {
    double sum = 0;
    for (int64_t i = first; i < first + count; i++) {
        const double distance = distance_of(km, i, km->labels[i], values);
        if (km->distances) km->distances[i] = distance;
        sum += fn_km_weight(&km->data, i) * distance;
    }
    return sum;
}

static void measure_run(void *context, int tile, int thread) {
    measuring *work = context;
    fn_km *km = work->km;
    const int64_t first = km->n * tile / INERTIA_BLOCKS, end = km->n * (tile + 1) / INERTIA_BLOCKS;
    double *values = km->scratch + (size_t)thread * km->scratch_stride;
    work->parts[tile] = fn_km_measure_rows(km, first, end - first, values);
}

/* The same of all rows, in parallel. */
double fn_km_measure(fn_km *km) {
    measuring work = {.km = km};
    fn_parallel_run(fn_km_threads(km, (double)(km->n * km->d), 1),
                    &(fn_work_list){measure_next, measure_run, &work, 1e6, 0});
    double sum = 0;
    for (int b = 0; b < INERTIA_BLOCKS; b++) sum += work.parts[b];
    return sum;
}

static double inertia(fn_km *km) {
    const double quick = fn_km_inertia_of_sums(km);
    const double sum = quick < 0 ? fn_km_measure(km) : quick;
    return km->data.cosine ? 0.5 * sum : sum; /* 1 - cos is half the square */
}

fn_status fn_km_step(fn_km *km, int64_t iterations, double tolerance, double seconds,
                     fn_km_record *records, int64_t *completed) {
    const uint64_t deadline = seconds > 0 ? fn_now_ns() + (uint64_t)(seconds * 1e9) : 0;
    *completed = 0;
    while (*completed < iterations) {
        if (!assign(km, deadline)) break;
        km->record.inertia = inertia(km);
        const int64_t saved = km->n * km->k - km->record.computed;
        km->record.saved = saved > 0 ? saved : 0; /* float64 looks at ties once more */
        const fn_status status = fn_km_update(km);
        if (status != FN_OK) return status;
        records[(*completed)++] = km->record;
        km->converged = !km->record.moved && !km->first;
        const bool stop = km->converged || km->record.shift <= tolerance;
        km->first = false;
        km->calm = (km->rival ? CALM : STILL) * km->record.moved < km->n;
        judge_bounds(km);
        fn_km_prepare(km);
        km->record = (fn_km_record){0};
        km->cursor = 0;
        if (stop || (deadline && fn_now_ns() > deadline)) break;
    }
    return FN_OK;
}

/* The sums follow the labels, so the fit can go on after this; the iteration that is half done is
 * begun anew, and what moves here counts as moved in it: the centres have yet to follow. */
fn_status fn_km_labels(fn_km *km, int32_t *labels, double *value) {
    fn_km_merge(km); /* of the part that was done */
    km->cursor = 0;
    if (!km->converged || km->relocated) {
        assign(km, 0);
        km->known = km->keep;
    }
    km->first = false;
    km->stays = 0;
    memcpy(labels, km->labels, (size_t)km->n * sizeof *labels);
    *value = inertia(km);
    km->record = (fn_km_record){.moved = km->record.moved};
    km->cursor = 0;
    return FN_OK;
}
