/* kmeans.h - the C API of k-means. Python reaches it through fastnet/_kmeans.pxi alone.
 *
 * A *data* describes rows that the caller keeps alive: dense float32 or float64, or CSR. A *fit*
 * holds labels, bounds and sums of one clustering of them; fn_km_step() runs Lloyd iterations for a
 * time slice. Every result is that of a plain float64 Lloyd (bounds only skip work whose outcome is
 * certain, ties go to the lowest index), and the same bits for any number of threads.
 */
#ifndef FN_KMEANS_H
#define FN_KMEANS_H

#include <stdbool.h>

#include "fastnet.h"

typedef struct fn_km fn_km;

/* Rows: dense (n, d) with contiguous rows, or CSR where `indptr` is given. All IN, never written.
 */
typedef struct {
    int64_t n, d;
    fn_dtype dtype;     /* FN_F32 or FN_F64 */
    const void *values; /* rows, or the values of CSR */
    int64_t row_bytes;  /* dense: from one row to the next */
    const void *indptr, *indices;
    fn_dtype index_dtype;  /* of indptr and indices: FN_I32 or FN_I64 */
    bool ascending;        /* CSR: in each row indices ascend, none comes twice */
    int64_t row_entries;   /* CSR: of a row on average */
    const double *weights; /* (n), not negative; NULL: all 1 */
    const int64_t *picked; /* (n): row i is row picked[i] of `values`; NULL: row i */
    bool cosine;           /* rows and centres are scaled to length 1 (zero rows stay zero) */
} fn_km_data;

typedef enum { FN_KM_AUTO, FN_KM_LLOYD, FN_KM_PROJECTED, FN_KM_HAMERLY } fn_km_algorithm;
typedef enum { FN_KM_PLUSPLUS, FN_KM_PARALLEL, FN_KM_RANDOM } fn_km_seeding;

typedef struct {
    double inertia;   /* of this iteration's labels to the centres they were found with */
    double shift;     /* squared distance that all centres moved together */
    int64_t moved;    /* points with another label than before */
    int64_t computed; /* point-centre distances evaluated on all features */
    int64_t saved;    /* n * k - computed, or 0 if that is more */
} fn_km_record;

/* A fit of k centres, or NULL if memory ends. Projections take at most `max_bytes` (0: as much as
 * they like). `threads` 0: automatic. */
fn_km *fn_km_new(const fn_km_data *data, int64_t k, fn_km_algorithm algorithm, size_t max_bytes,
                 int threads);
void fn_km_free(fn_km *km);
size_t fn_km_bytes(const fn_km *km);    /* everything it has allocated */
const double *fn_km_centers(fn_km *km); /* (k, d) */
double fn_km_variance(const fn_km *km); /* weighted, mean over columns */
/* True if a value is NaN or infinite; then says where. Nothing else may be called then. */
bool fn_km_bad_value(const fn_km *km, int64_t *row, int64_t *column);
const char *fn_km_path(const fn_km *km); /* how it works: "narrow", "dense", "projected", ... */

/* Asked about every 20 ms by the thread that called fn_km_seed: whether to go on. NULL: always. */
typedef int (*fn_km_go_on)(void *context);
void fn_km_watch(fn_km *km, fn_km_go_on go_on, void *context);

/* Choose centres; indices (k) tells their rows. trials: candidates a step of k-means++, 0 for
 * 2 + log(k). FN_STOPPED, and no centres, where it was not to go on. */
fn_status fn_km_seed(fn_km *km, fn_km_seeding method, uint64_t seed, int trials, int64_t *indices);

/* Begin at these centres (k, d); those with fixed[j] != 0 stay where they are (fixed may be NULL).
 */
void fn_km_start(fn_km *km, const double *centers, const uint8_t *fixed);

/* Run until `iterations` more are complete, a completed one moves no point or shifts the centres by
 * at most `tolerance` (squared), or `seconds` are over (then an iteration may be half done: the
 * next call goes on with it). Writes a record for each completed iteration and their number. */
fn_status fn_km_step(fn_km *km, int64_t iterations, double tolerance, double seconds,
                     fn_km_record *records, int64_t *completed);

/* Labels (n) of the nearest final centre, and the inertia. */
fn_status fn_km_labels(fn_km *km, int32_t *labels, double *inertia);

/* Nearest of k centres (k, d) for each row: labels (n) and squared distances (n), either NULL; sums
 * (k, d) and counts (k) of weights are added to unless NULL; the inertia unless NULL. FN_EINPUT,
 * and sums as they were, where a row has NaN or infinity. */
fn_status fn_km_assign(const fn_km_data *data, int64_t k, const double *centers, int32_t *labels,
                       double *distances, double *sums, double *counts, int threads,
                       double *inertia);

/* Mini-batches: centres that learn from batches of at most `rows` rows of `data`. NULL if memory
 * ends. */
typedef struct fn_km_batches fn_km_batches;
fn_km_batches *fn_km_batches_new(const fn_km_data *data, int64_t k, int64_t rows, int threads);
void fn_km_batches_free(fn_km_batches *batches);

/* One batch: rows picked[0 .. count) of the data (each below its n), or all of them (NULL). Centres
 * (k, d) and counts (k), the weight that each has got so far, become those after the batch; the
 * inertia is that before. shift: squared distance that all centres moved together. FN_EINPUT, and
 * all as it was, where a row has NaN or infinity. */
fn_status fn_km_learn(fn_km_batches *batches, const int64_t *picked, int64_t count, double *centers,
                      double *counts, double *inertia, double *shift);

/* Squared distance of these centres (k, d) to those before the last batch. */
double fn_km_shift(const fn_km_batches *batches, const double *centers);

/* Labels of the last batch's rows for these centres (k, d), and its inertia; once. */
fn_status fn_km_relabel(fn_km_batches *batches, const double *centers, int32_t *labels,
                        double *inertia);

/* Distances (n, k) to the centres: float32 or float64 as `out_dtype` says. Not squared; cosine:
 * 1 - cos. */
fn_status fn_km_transform(const fn_km_data *data, int64_t k, const double *centers, void *out,
                          fn_dtype out_dtype, int threads);

#endif
