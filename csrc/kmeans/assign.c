/* assign.c - the nearest centre of a tile of points: skip, bound, and only then decide exactly.
 *
 * 1. Drift: a point whose upper bound to its centre is below its lower bound to all others (both
 *    moved along with the centres) is skipped unread.
 * 2. Scores: blocks of the rest against all centres in float32, as lower bounds (kernels.h). Rows
 * of few columns are scored on all of them, wide rows on their projection (project.c), or by sgemm
 * where no projection pays.
 * 3. Exact: where two centres remain, float32 distances on all columns with their error bound;
 * where even these cannot tell, float64 on the caller's values. Ties go to the lowest index.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kmeans/assign.h"

typedef fn_km_space space;

static size_t align(size_t bytes) { return (bytes + 63) / 64 * 64; }

static float *floats(char **memory, size_t count) {
    char *start = *memory;
    *memory += align(count * sizeof(float));
    return (float *)start;
}

/* Lay a space out at `memory` (or measure it: NULL); returns its bytes. */
static size_t lay_out(const fn_km *km, char *memory, space **out) {
    char *end = memory;
    space *s = (space *)floats(&end, sizeof(space) / sizeof(float) + 1);
    const size_t block = FN_KM_MOST_BLOCK, d = (size_t)km->ld, k = (size_t)km->k;
    const size_t scores = k > FN_KM_MOST_TRIALS ? k : FN_KM_MOST_TRIALS;
    const size_t families = (size_t)km->families, found = families ? FN_KM_MOST_FOUND : 0;
    float *part[15];
    part[0] = floats(&end, block * (size_t)(km->scan.q + 4));
    const bool whole =
        km->mode == FN_KM_MODE_DENSE && !km->in_place && !km->sparse; /* tiles are loaded */
    part[1] = floats(&end, d * (whole ? (size_t)km->tile_rows : block));
    const bool tiles = km->mode == FN_KM_MODE_DENSE || km->begin_in_place;
    part[2] = floats(&end, (tiles ? (size_t)km->tile_rows : block) * (scores + FN_KM_PAD));
    part[3] = floats(&end, FN_KM_MOST_FOUND * sizeof(fn_km_candidate) / sizeof(float));
    part[4] = floats(&end, (size_t)km->tile_rows);
    part[5] = floats(&end, k);
    part[6] = floats(&end, k);
    part[7] = floats(&end, 2 * (size_t)km->d);
    part[8] = floats(&end, km->sparse || km->in_place || km->begin_in_place
                               ? IN_PLACE_TILES * (d + FN_KM_PAD)
                               : 1);
    part[9] = floats(&end, families ? fn_km_visitor_bytes() / sizeof(float) : 0);
    part[10] = floats(&end, families * FN_KM_VISITORS / sizeof(float));
    part[11] = floats(&end, families);
    part[12] = floats(&end, found);
    part[14] = floats(&end, families);
    part[13] = floats(&end, families ? k * sizeof(fn_km_candidate) / sizeof(float) : 0);
    if (out) {
        *out = s;
        s->visitors = (struct fn_km_visitor *)part[9], s->queues = (uint8_t *)part[10];
        s->queued = (int *)part[11], s->older = (int32_t *)part[12];
        s->picked = (fn_km_candidate *)part[13], s->near = (int32_t *)part[14];
        s->block = part[0], s->rows = part[1], s->products = part[2];
        s->found = (fn_km_candidate *)part[3];
        s->list = (int32_t *)part[4], s->evaluated = (int32_t *)part[5], s->scores = part[6];
        s->row = (double *)part[7], s->columns = (int32_t *)part[8];
    }
    return (size_t)(end - memory);
}

size_t fn_km_space_bytes(const fn_km *km) { return lay_out(km, NULL, NULL); }

fn_km_space *fn_km_space_of(fn_km *km, int thread) {
    space *s;
    lay_out(km, km->spaces + (size_t)thread * km->space_bytes, &s);
    return s;
}

/* ---- float64 ---- */

/* Decide among `count` centres (all of them: which NULL) on the caller's values; bounds with it. */
void fn_km_decide(fn_km_job *w, int at, const int32_t *which, int64_t count, float rest) {
    const fn_km *km = w->km;
    double *row = w->s->row, least = INFINITY, next = INFINITY;
    int64_t best = -1;
    fn_km_row(&km->rows, w->first + at, row);
    for (int64_t c = 0; c < count; c++) {
        const int64_t j = which ? which[c] : c;
        const double distance = fn_km_distance(row, km->centers + j * km->d, km->d);
        if (best < 0 || distance < least || (distance == least && j < best)) {
            next = least, least = distance, best = j;
        } else if (distance < next) {
            next = distance;
        }
    }
    for (int64_t c = 0; c < km->d && !(least < INFINITY); c++)
        if (!isfinite(row[c]))
            atomic_store_explicit(&w->km->not_finite, true, memory_order_relaxed);
    w->computed += count;
    set_label(w, at, (int32_t)best);
    float lower = (float)sqrt(next) / up;
    if (count > 1 && !(lower < INFINITY)) lower = FLT_MAX; /* infinity: there is no other centre */
    if (!which) fn_km_admit_all(w, at, lower);
    for (int64_t c = 0; which && c < count; c++)
        if (which[c] != best) fn_km_admit(w, at, which[c], lower);
    set_bounds(w, at, (float)sqrt(least) * up, lower < rest ? lower : rest);
    set_rival(w, at, (int32_t)best, INFINITY);
    if (km->rival) set_extra(w, at, INFINITY, -INFINITY);
}

/* ---- scores on all columns of narrow rows ---- */

static void score_block(fn_km_job *w, const int32_t *list, int count) {
    fn_km *km = w->km;
    space *s = w->s;
    const fn_km_kernels *kernel = km->kernel;
    const int block = kernel->block, d = (int)km->d;
    fn_km_load(km, w->first, list, count, s->rows, km->ld, s->row);
    kernel->transpose(s->rows, km->ld, NULL, count, d, s->block);
    kernel->squares(s->block, d, km->error_root, s->squares, s->block + (size_t)d * block);
    kernel->nearest(&km->scan, s->block, s->best, s->second, s->index);
    const float *error = s->block + (size_t)d * block;
    for (int i = 0; i < count; i++) {
        const int at = list ? list[i] : i;
        const int32_t a = s->index[i];
        const float *coords = km->scan.coords + (int64_t)a * km->scan.q;
        const float top = s->best[i] + (km->scan.slack[a] - 2 * error[i] * coords[d]) * up;
        if (!(s->second[i] > top) || !(s->squares[i] < FN_KM_LARGE)) {
            fn_km_decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        set_label(w, at, a);
        set_gap(w, at, s->second[i] - top);
        if (!km->keep) continue;
        set_bounds(w, at, upper_bound(km, top, s->squares[i]),
                   lower_bound(km, s->second[i], s->squares[i]));
    }
    w->computed += count * km->k;
}

/* ---- a tile ---- */

void fn_km_assign_tile(fn_km *km, int tile, int thread) {
    const int64_t first = km->cursor + (int64_t)tile * km->tile_rows;
    const int count = (int)(km->n - first < km->tile_rows ? km->n - first : km->tile_rows);
    space *s = fn_km_space_of(km, thread);
    fn_km_job w = {
        .km = km, .s = s, .first = first, .moves = km->moves + (int64_t)tile * km->tile_rows};
    int left = count;
    if (km->known && km->rival)
        left = km->kernel->filter_rivals(km->labels + first, km->rival + first, km->drift,
                                         km->drift_others, count, km->upper + first,
                                         km->lower + first, km->rival_lower + first, s->list);
    else if (km->known)
        left = km->kernel->filter(km->labels + first, km->drift, km->drift_others, km->apart, count,
                                  km->upper + first, km->lower + first, s->list);
    else
        for (int i = 0; i < count; i++) s->list[i] = i;
    const bool visiting = km->ordered && !km->exact_only;
    if (km->clearing)
        memset(km->family_lower + first * km->families, 0,
               (size_t)(count * km->families) * sizeof *km->family_lower);
    if (km->known && km->rival && km->calm && !km->exact_only && !visiting)
        left = fn_km_strike(&w, s->list, left);
    if (km->exact_only) {
        for (int i = 0; i < left; i++) fn_km_decide(&w, s->list[i], NULL, km->k, INFINITY);
    } else if (visiting) {
        fn_km_visit_families(&w, s->list, left);
    } else if (km->sparse) {
        fn_km_multiply_sparse(&w, s->list, left);
    } else if (fn_km_now_in_place(km)) {
        fn_km_multiply_in_place(&w, count);
    } else if (km->mode == FN_KM_MODE_DENSE) {
        if (left) fn_km_multiply_rows(&w, s->list, left);
    } else {
        const int block =
            km->mode == FN_KM_MODE_NARROW ? km->kernel->block : IN_PLACE_TILES * km->kernel->group;
        for (int i = 0; i < left; i += block) {
            const int rows = left - i < block ? left - i : block;
            if (km->mode == FN_KM_MODE_NARROW)
                score_block(&w, s->list + i, rows);
            else
                fn_km_project_block(&w, s->list + i, rows);
        }
    }
    if (km->measuring) km->tile_inertia[tile] = fn_km_measure_rows(km, first, count, s->row);
    km->n_moves[tile] = w.n_moves;
    km->tile_computed[tile] = w.computed;
    km->tile_stays[tile] = w.stays;
}
