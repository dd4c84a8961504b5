/* km.h - what the files of k-means share: the fit behind the opaque type, rows, tiles. */
#ifndef FN_KM_H
#define FN_KM_H

#include "internal.h"
#include "kmeans.h"
#include "parallel.h"

/* Rows in float64 for decisions, in coordinates of the caller. */
typedef struct {
    const fn_km_data *data;
    double *scales; /* cosine: 1 / |x| a row; else NULL */
} fn_km_rows;

typedef struct {
    int32_t row, old; /* within the chunk; label before, or -1 */
} fn_km_move;

struct fn_km {
    fn_km_data data;
    fn_km_rows rows;
    fn_km_algorithm algorithm;
    int64_t n, d, k;
    int threads; /* asked for */
    double *mean, *shift;
    double total; /* sum of w |x - shift|^2 */
    double *centers, *previous;
    uint8_t *fixed;
    double *sums, *sums_low;       /* (k, d) of w (x - shift), unevaluated sum of two: no drift */
    double *weights, *weights_low; /* (k), likewise */
    int64_t *members;              /* (k): points of positive weight */
    double *group_sums; /* (groups, k, d + 1): partial sums where rows are narrow, or NULL */
    int32_t *labels;
    bool converged; /* the last iteration moved nothing: labels belong to the centres */

    /* where the current iteration is */
    int64_t chunk_rows, cursor; /* cursor: first row not assigned yet */
    int tile_rows, groups, slice;
    fn_km_move *moves; /* (chunk_rows): of each tile, from its first row on */
    int32_t *n_moves;  /* (tiles of a chunk) */
    int64_t *tile_computed;
    bool first; /* no labels yet */
    fn_km_record record;

    double *scratch; /* per thread: a row */
    size_t scratch_stride;
    size_t bytes;
};

void *fn_km_alloc(fn_km *km, size_t bytes);

/* rows.c */
double fn_km_weight(const fn_km_data *data, int64_t row);
void fn_km_row(const fn_km_rows *rows, int64_t row, double *out);
double fn_km_distance(const double *row, const double *center, int64_t d);
fn_status fn_km_rows_begin(fn_km_rows *rows, const fn_km_data *data);
void fn_km_rows_end(fn_km_rows *rows);
fn_status fn_km_center(fn_km *km, int threads);

/* sums.c */
void fn_km_sum_tiles(fn_km *km, int64_t first, int task);
int fn_km_sum_tasks(const fn_km *km);
void fn_km_merge_groups(fn_km *km);
fn_status fn_km_update(fn_km *km);

#endif
