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
#include <math.h>
#include <string.h>

#include "gemm.h"
#include "kmeans/km.h"

static const float up = 1.0f + 0x1p-20f; /* covers a handful of roundings */

/* One thread's memory for a tile. */
typedef struct {
    float *block, *rows, *products;
    float best[FN_KM_MOST_BLOCK], second[FN_KM_MOST_BLOCK], limit[FN_KM_MOST_BLOCK];
    float squares[FN_KM_MOST_BLOCK], rest[FN_KM_MOST_BLOCK];
    int32_t index[FN_KM_MOST_BLOCK], head[FN_KM_MOST_BLOCK], tail[FN_KM_MOST_BLOCK];
    fn_km_candidate *found;
    int32_t *next, *list, *evaluated;
    float *scores;
    double *row;
} space;

enum { MOST_FOUND = 8192 };

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
    float *part[9];
    part[0] = floats(&end, block * (size_t)(km->scan.q + 4));
    part[1] = floats(&end, d * (km->mode == FN_KM_MODE_DENSE ? (size_t)km->tile_rows : block));
    part[2] = floats(&end, km->mode == FN_KM_MODE_DENSE ? (size_t)km->tile_rows * k : 1);
    part[3] = floats(&end, MOST_FOUND * sizeof(fn_km_candidate) / sizeof(float));
    part[4] = floats(&end, MOST_FOUND);
    part[5] = floats(&end, (size_t)km->tile_rows);
    part[6] = floats(&end, k);
    part[7] = floats(&end, k);
    part[8] = floats(&end, 2 * (size_t)km->d);
    if (out) {
        *out = s;
        s->block = part[0], s->rows = part[1], s->products = part[2];
        s->found = (fn_km_candidate *)part[3];
        s->next = (int32_t *)part[4], s->list = (int32_t *)part[5];
        s->evaluated = (int32_t *)part[6], s->scores = part[7], s->row = (double *)part[8];
    }
    return (size_t)(end - memory);
}

size_t fn_km_space_bytes(const fn_km *km) { return lay_out(km, NULL, NULL); }

static space *space_of(fn_km *km, int thread) {
    space *s;
    lay_out(km, km->spaces + (size_t)thread * km->space_bytes, &s);
    return s;
}

/* A tile being assigned. */
typedef struct {
    fn_km *km;
    space *s;
    int64_t first; /* row */
    fn_km_move *moves;
    int n_moves;
    int64_t computed;
} job;

static void set_label(job *w, int at, int32_t label) {
    int32_t *labels = w->km->labels + w->first;
    if (labels[at] == label) return;
    w->moves[w->n_moves++] = (fn_km_move){(int32_t)(w->first - w->km->cursor) + at, labels[at]};
    labels[at] = label;
}

static float root(float squared) { return squared > 0 ? sqrtf(squared) : 0; }

/* Bounds on distances from bounds on scores; `squares` is |x|^2 within km->square_error of itself.
 */
static float upper_bound(const fn_km *km, float score, float squares) {
    return root((2 * score + squares) + (fabsf(score) + squares) * km->square_error) * up;
}

static float lower_bound(const fn_km *km, float score, float squares) {
    if (!(score < INFINITY)) return INFINITY;
    return root((2 * score + squares) - (fabsf(score) + squares) * km->square_error) / up;
}

static void set_bounds(job *w, int at, float upper, float lower) {
    w->km->upper[w->first + at] = upper;
    w->km->lower[w->first + at] = lower;
}

/* ---- float64 ---- */

/* Decide among `count` centres (all of them: which NULL) on the caller's values; bounds with it. */
static void decide(job *w, int at, const int32_t *which, int64_t count, float rest) {
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
    w->computed += count;
    set_label(w, at, (int32_t)best);
    const float lower = (float)sqrt(next) / up;
    set_bounds(w, at, (float)sqrt(least) * up, lower < rest ? lower : rest);
}

/* ---- scores on all columns of narrow rows ---- */

static void score_block(job *w, const int32_t *list, int count) {
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
            decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        set_label(w, at, a);
        set_bounds(w, at, upper_bound(km, top, s->squares[i]),
                   lower_bound(km, s->second[i], s->squares[i]));
    }
    w->computed += count * km->k;
}

/* ---- scores on projections of wide rows ---- */

/* All columns of one point against its own centre `a` and candidates s->evaluated[0..n); `rest`: a
 * lower score bound of all others. */
static void resolve(job *w, int at, int32_t a, int32_t first, float rest, float squares) {
    fn_km *km = w->km;
    space *s = w->s;
    const float length = sqrtf(squares) * up;
    fn_km_load(km, w->first + at, NULL, 1, s->rows, km->ld, s->row);
    int n = 0, best = 0;
    s->evaluated[n++] = a;
    s->scores[0] = km->scan.half[a] - km->kernel->dot(s->rows, km->rounded + a * km->ld, km->d);
    float bound = s->scores[0] + km->dot_error * (length * km->lengths[a] + km->scan.half[a]);
    for (int32_t f = first; f >= 0; f = s->next[f]) {
        const int32_t j = s->found[f].center;
        if (j == a) continue;
        if (!(s->found[f].score <= bound)) {
            rest = s->found[f].score < rest ? s->found[f].score : rest;
            continue;
        }
        const float half = km->scan.half[j];
        const float score = half - km->kernel->dot(s->rows, km->rounded + j * km->ld, km->d);
        const float error = km->dot_error * (length * km->lengths[j] + half);
        s->evaluated[n] = j;
        s->scores[n] = score;
        if (score < s->scores[best]) best = n;
        if (score + error < bound) bound = score + error;
        n++;
    }
    w->computed += n;
    int close = 0;
    for (int c = 0; c < n; c++) {
        const int32_t j = s->evaluated[c];
        const float error = km->dot_error * (length * km->lengths[j] + km->scan.half[j]);
        const float low = s->scores[c] - error;
        if (c == best || low <= bound)
            s->evaluated[close++] = j;
        else if (low < rest)
            rest = low;
    }
    const float others = lower_bound(km, rest, squares);
    if (close > 1) {
        decide(w, at, s->evaluated, close, others);
        return;
    }
    set_label(w, at, s->evaluated[0]);
    set_bounds(w, at, upper_bound(km, bound, squares), others);
}

/* What the true score to centre a may be at most, from the projection. */
static float projected_top(const fn_km *km, const float *point, int32_t a, float error) {
    const float *c = km->scan.coords + (int64_t)a * km->scan.q;
    const int p = km->p;
    const float model = km->kernel->dot(point, c, p) + km->scan.half[a];
    return model + (km->scan.slack[a] - point[p] * c[p] - error * c[p + 1]) * up;
}

static void link_candidates(space *s, int found, int count) {
    for (int i = 0; i < count; i++) s->head[i] = -1;
    for (int f = 0; f < found; f++) {
        const int i = s->found[f].point;
        s->next[f] = -1;
        if (i >= count) continue;
        if (s->head[i] < 0)
            s->head[i] = f;
        else
            s->next[s->tail[i]] = f;
        s->tail[i] = f;
    }
}

static bool contested(const space *s, int i) {
    for (int32_t f = s->head[i]; f >= 0; f = s->next[f])
        if (s->found[f].center != s->index[i]) return true;
    return false;
}

/* Ask for the row of the next contested point from `i` on: it lies far from the last one. */
static void prefetch_contested(const job *w, const int32_t *list, int count, int i) {
    const fn_km_data *data = &w->km->data;
    while (i < count && !contested(w->s, i)) i++;
    if (i >= count || data->indptr) return;
    const char *row =
        (const char *)data->values + (w->first + (list ? list[i] : i)) * data->row_bytes;
    const int64_t bytes = data->d * (data->dtype == FN_F64 ? 8 : 4);
    for (int64_t b = 0; b < bytes && b < 8192; b += 64) __builtin_prefetch(row + b);
}

static void project_block(job *w, const int32_t *list, int count) {
    fn_km *km = w->km;
    space *s = w->s;
    const fn_km_kernels *kernel = km->kernel;
    const int block = kernel->block, p = km->p;
    const float *points = km->projected + w->first * km->projected_ld;
    kernel->transpose(points, km->projected_ld, list, count, p + 2, s->block);
    float *error = s->block + (size_t)(p + 1) * block;
    for (int i = 0; i < block; i++) {
        s->squares[i] = error[i];
        error[i] = sqrtf(error[i]) * km->error_root * up;
    }
    if (km->first) kernel->nearest(&km->scan, s->block, s->best, s->second, s->index);
    for (int i = 0; i < block; i++) {
        const int at = i < count ? (list ? list[i] : i) : (list ? list[0] : 0);
        if (!km->first) s->index[i] = km->labels[w->first + at];
        s->limit[i] = projected_top(km, points + at * km->projected_ld, s->index[i], error[i]);
        const float upper = km->upper[w->first + at];
        const float drifted = (0.5f * upper * upper - 0.5f * s->squares[i]) +
                              (upper * upper + s->squares[i]) * km->square_error;
        if (!km->first && drifted < s->limit[i]) s->limit[i] = drifted;
        if (!(s->squares[i] < FN_KM_LARGE)) s->limit[i] = -INFINITY;
        if (i >= count) s->limit[i] = -INFINITY;
    }
    const int found = kernel->below(&km->scan, s->block, s->limit, s->rest, s->found, MOST_FOUND);
    if (found >= 0) link_candidates(s, found, count);
    prefetch_contested(w, list, found < 0 ? 0 : count, 0);
    for (int i = 0; i < count; i++) {
        const int at = list ? list[i] : i;
        const int32_t a = s->index[i];
        if (found < 0 || !(s->squares[i] < FN_KM_LARGE)) {
            decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        if (contested(s, i)) {
            prefetch_contested(w, list, count, i + 1);
            resolve(w, at, a, s->head[i], s->rest[i], s->squares[i]);
            continue;
        }
        set_label(w, at, a);
        set_bounds(w, at, upper_bound(km, s->limit[i], s->squares[i]),
                   lower_bound(km, s->rest[i], s->squares[i]));
    }
}

/* ---- scores on all columns of wide rows ---- */

/* Centres that a row of scores cannot tell apart are decided in float64. */
static void decide_close(job *w, int at, const float *products, float length, float top) {
    const fn_km *km = w->km;
    int64_t n = 0;
    for (int64_t j = 0; j < km->k; j++) {
        const float low = km->scan.half[j] - products[j] - length * km->scan.coords[j];
        if (low <= top) w->s->evaluated[n++] = (int32_t)j;
    }
    decide(w, at, w->s->evaluated, n, n < km->k ? 0 : INFINITY);
}

static void multiply_rows(job *w, const int32_t *list, int count) {
    fn_km *km = w->km;
    space *s = w->s;
    fn_km_load(km, w->first, list, count, s->rows, km->ld, s->row);
    fn_sgemm(false, true, count, km->k, km->d, s->rows, km->ld, km->rounded, km->ld, 0, s->products,
             km->k);
    for (int i = 0; i < count; i++) {
        const int at = list ? list[i] : i;
        const float *row = s->rows + i * km->ld, *products = s->products + i * km->k;
        const float squares = km->kernel->dot(row, row, km->d);
        const float length = sqrtf(squares) * up;
        if (!(squares < FN_KM_LARGE)) {
            decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        float best, second;
        int32_t a;
        km->kernel->lowest(products, km->scan.half, km->scan.coords, length, km->k, &best, &second,
                           &a);
        const float top = best + (km->scan.slack[a] + 2 * length * km->scan.coords[a]) * up;
        if (!(second > top)) {
            decide_close(w, at, products, length, top);
            continue;
        }
        set_label(w, at, a);
        set_bounds(w, at, upper_bound(km, top, squares), lower_bound(km, second, squares));
    }
    w->computed += count * km->k;
}

/* ---- a tile ---- */

void fn_km_assign_tile(fn_km *km, int tile, int thread) {
    const int64_t first = km->cursor + (int64_t)tile * km->tile_rows;
    const int count = (int)(km->n - first < km->tile_rows ? km->n - first : km->tile_rows);
    space *s = space_of(km, thread);
    job w = {.km = km, .s = s, .first = first, .moves = km->moves + (int64_t)tile * km->tile_rows};
    int left = count;
    const bool filter = km->bounds && !km->first;
    if (filter)
        left = km->kernel->filter(km->labels + first, km->drift, km->drift_others, km->apart, count,
                                  km->upper + first, km->lower + first, s->list);
    else
        for (int i = 0; i < count; i++) s->list[i] = i;
    if (km->exact_only) {
        for (int i = 0; i < left; i++) decide(&w, s->list[i], NULL, km->k, INFINITY);
    } else if (km->mode == FN_KM_MODE_DENSE) {
        if (left) multiply_rows(&w, s->list, left);
    } else {
        const int block = km->kernel->block;
        for (int i = 0; i < left; i += block) {
            const int rows = left - i < block ? left - i : block;
            if (km->mode == FN_KM_MODE_NARROW)
                score_block(&w, s->list + i, rows);
            else
                project_block(&w, s->list + i, rows);
        }
    }
    km->n_moves[tile] = w.n_moves;
    km->tile_computed[tile] = w.computed;
}
