/* assign.h - what the files that assign a tile of points share: labels and bounds of a point. */
#ifndef FN_KM_ASSIGN_H
#define FN_KM_ASSIGN_H

#include <math.h>

#include "kmeans/km.h"

static const float up = 1.0f + 0x1p-20f; /* covers a handful of roundings */

enum { IN_PLACE_TILES = 4 }; /* register tiles that share a panel */

/* A tile being assigned. */
typedef struct {
    fn_km *km;
    fn_km_space *s;
    int64_t first; /* row */
    fn_km_move *moves;
    int n_moves;
    int64_t computed, stays;
} fn_km_job;

static inline void set_label(fn_km_job *w, int at, int32_t label) {
    int32_t *labels = w->km->labels + w->first;
    if (labels[at] == label) return;
    w->moves[w->n_moves++] = (fn_km_move){(int32_t)(w->first - w->km->cursor) + at, labels[at]};
    labels[at] = label;
}

static inline float root(float squared) { return squared > 0 ? sqrtf(squared) : 0; }

/* Bounds on distances from bounds on scores; `squares` is |x|^2 within km->square_error of itself.
 */
static inline float upper_bound(const fn_km *km, float score, float squares) {
    return root((2 * score + squares) + (fabsf(score) + squares) * km->square_error) * up;
}

static inline float lower_bound(const fn_km *km, float score, float squares) {
    if (!(score < INFINITY)) return INFINITY;
    return root((2 * score + squares) - (fabsf(score) + squares) * km->square_error) / up;
}

static inline void set_gap(fn_km_job *w, int at, float gap) {
    if (w->km->gaps) w->km->gaps[w->first + at] = gap;
}

static inline void set_bounds(fn_km_job *w, int at, float upper, float lower) {
    if (!w->km->keep) return;
    w->km->upper[w->first + at] = upper;
    w->km->lower[w->first + at] = lower;
}

/* A true score is the projected one, less the product of what both projections leave out. Once it
 * has been computed on all columns, that product is known, and changes only by the row's part
 * outside times what the centre moves outside: `extra` and `rival_extra` hold it less (plus) what
 * the centre had moved outside until then. */
static inline void set_extra(fn_km_job *w, int at, float extra, float rival_extra) {
    w->km->extra[w->first + at] = extra;
    w->km->rival_extra[w->first + at] = rival_extra;
}

/* `lower` holds for all centres but the own one and this one, whose bound is its own. */
static inline void set_rival(fn_km_job *w, int at, int32_t rival, float lower) {
    if (!w->km->rival) return;
    w->km->rival[w->first + at] = rival;
    w->km->rival_lower[w->first + at] = lower;
}

/* families.c */
void fn_km_admit(fn_km_job *w, int at, int32_t center, float lower);
void fn_km_admit_all(fn_km_job *w, int at, float lower);
void fn_km_visit_families(fn_km_job *w, const int32_t *list, int count);

/* assign.c: decide among `count` centres (all of them: which NULL) on the caller's values. */
void fn_km_decide(fn_km_job *w, int at, const int32_t *which, int64_t count, float rest);
/* assign_projected.c */
float fn_km_own_top(const fn_km_job *w, int at, int32_t a, float model, float *upper);
float fn_km_rival_bottom(const fn_km_job *w, int at, int32_t rival, float model);
float fn_km_residue(const fn_km *km, const float *point, int32_t j);
bool fn_km_contested(const fn_km_job *w, int at, const fn_km_candidate *found, int n_found,
                     float top, float upper);
void fn_km_resolve(fn_km_job *w, int at, int32_t a, fn_km_candidate *found, int n_found,
                   float rest);
float fn_km_projected_score(const fn_km *km, const float *point, int32_t j);
void fn_km_remember(fn_km_job *w, int at, int32_t label, float bound, float label_model,
                    int32_t rival, float nearest, float rival_model);
void fn_km_score_rows(const fn_km *km, const fn_km_scan *scan, const float *points,
                      const int32_t *list, int count, float *out, int64_t ld);
int fn_km_strike(fn_km_job *w, int32_t *list, int count);
void fn_km_project_block(fn_km_job *w, const int32_t *list, int count);
/* assign_wide.c */
void fn_km_multiply_in_place(fn_km_job *w, int count);
void fn_km_decide_close(fn_km_job *w, int at, const float *products, const float *half,
                        const float *errors, float length, float top);
/* sparse.c */
void fn_km_multiply_sparse(fn_km_job *w, const int32_t *list, int count);
/* assign_wide.c */
void fn_km_multiply_rows(fn_km_job *w, const int32_t *list, int count);

#endif
