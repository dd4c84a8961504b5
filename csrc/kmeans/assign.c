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

typedef fn_km_space space;

static const float up = 1.0f + 0x1p-20f; /* covers a handful of roundings */

static size_t align(size_t bytes) { return (bytes + 63) / 64 * 64; }

static float *floats(char **memory, size_t count) {
    char *start = *memory;
    *memory += align(count * sizeof(float));
    return (float *)start;
}

enum { IN_PLACE_TILES = 4 }; /* register tiles that share a panel */

/* Lay a space out at `memory` (or measure it: NULL); returns its bytes. */
static size_t lay_out(const fn_km *km, char *memory, space **out) {
    char *end = memory;
    space *s = (space *)floats(&end, sizeof(space) / sizeof(float) + 1);
    const size_t block = FN_KM_MOST_BLOCK, d = (size_t)km->ld, k = (size_t)km->k;
    float *part[10];
    part[0] = floats(&end, block * (size_t)(km->scan.q + 4));
    const bool whole = km->mode == FN_KM_MODE_DENSE && !km->in_place; /* tiles are loaded */
    part[1] = floats(&end, d * (whole ? (size_t)km->tile_rows : block));
    part[2] = floats(&end, km->mode == FN_KM_MODE_DENSE || km->begin_in_place
                               ? (size_t)km->tile_rows * (k + FN_KM_PAD)
                               : 1);
    part[3] = floats(&end, FN_KM_MOST_FOUND * sizeof(fn_km_candidate) / sizeof(float));
    part[4] = floats(&end, FN_KM_MOST_FOUND);
    part[5] = floats(&end, (size_t)km->tile_rows);
    part[6] = floats(&end, k);
    part[7] = floats(&end, k);
    part[8] = floats(&end, 2 * (size_t)km->d);
    part[9] =
        floats(&end, km->in_place || km->begin_in_place ? IN_PLACE_TILES * (d + FN_KM_PAD) : 1);
    if (out) {
        *out = s;
        s->block = part[0], s->rows = part[1], s->products = part[2];
        s->found = (fn_km_candidate *)part[3];
        s->next = (int32_t *)part[4], s->list = (int32_t *)part[5];
        s->evaluated = (int32_t *)part[6], s->scores = part[7], s->row = (double *)part[8];
        s->columns = (int32_t *)part[9];
    }
    return (size_t)(end - memory);
}

size_t fn_km_space_bytes(const fn_km *km) { return lay_out(km, NULL, NULL); }

fn_km_space *fn_km_space_of(fn_km *km, int thread) {
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
    if (!w->km->bounds) return;
    w->km->upper[w->first + at] = upper;
    w->km->lower[w->first + at] = lower;
}

/* A true score is the projected one, less the product of what both projections leave out. Once it
 * has been computed on all columns, that product is known, and changes only by the row's part
 * outside times what the centre moves outside: `extra` and `rival_extra` hold it less (plus) what
 * the centre had moved outside until then. */
static void set_extra(job *w, int at, float extra, float rival_extra) {
    w->km->extra[w->first + at] = extra;
    w->km->rival_extra[w->first + at] = rival_extra;
}

/* The projected score of centre j: `point` is p coordinates. */
static float projected_score(const fn_km *km, const float *point, int32_t j) {
    return km->scan.half[j] +
           km->kernel->dot(point, km->scan.coords + (int64_t)j * km->scan.q, km->p);
}

/* `lower` holds for all centres but the own one and this one, whose bound is its own. */
static void set_rival(job *w, int at, int32_t rival, float lower) {
    if (!w->km->rival) return;
    w->km->rival[w->first + at] = rival;
    w->km->rival_lower[w->first + at] = lower;
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
    for (int64_t c = 0; c < km->d && !(least < INFINITY); c++)
        if (!isfinite(row[c]))
            atomic_store_explicit(&w->km->not_finite, true, memory_order_relaxed);
    w->computed += count;
    set_label(w, at, (int32_t)best);
    const float lower = (float)sqrt(next) / up;
    set_bounds(w, at, (float)sqrt(least) * up, lower < rest ? lower : rest);
    set_rival(w, at, (int32_t)best, INFINITY);
    if (km->rival) set_extra(w, at, INFINITY, -INFINITY);
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
        if (!km->bounds) continue;
        set_bounds(w, at, upper_bound(km, top, s->squares[i]),
                   lower_bound(km, s->second[i], s->squares[i]));
    }
    w->computed += count * km->k;
}

/* ---- scores on projections of wide rows ---- */

/* Keep what is known of a point after it was looked at on all columns: its score to `label` is at
 * most `bound`, to `rival` (unless negative) at least `nearest`. */
static void remember(job *w, int i, int at, int32_t label, float bound, int32_t rival,
                     float nearest) {
    const fn_km *km = w->km;
    const space *s = w->s;
    const float *point = km->projected + (w->first + at) * km->projected_ld;
    const int q = km->scan.q;
    const float *c = km->scan.coords + (int64_t)label * q;
    const float model = projected_score(km, point, label);
    const float drift = s->outside[i] * km->left_drift[label];
    const float slop = (fabsf(bound) + fabsf(model) + drift) * (up - 1);
    const float extra = bound - model - s->error[i] * c[q - 1] * up - drift + slop;
    float other = -INFINITY;
    if (rival >= 0) {
        c = km->scan.coords + (int64_t)rival * q;
        const float there = projected_score(km, point, rival) + km->scan.slack[rival];
        const float moved = s->outside[i] * km->left_drift[rival];
        const float less = (fabsf(nearest) + fabsf(there) + moved) * (up - 1);
        other = nearest - there + s->error[i] * c[q - 1] * up + moved - less;
    }
    set_extra(w, at, extra, other);
}

/* What a float32 score on all columns of a row (|x| at most `length`) may be wrong by. */
static float whole_error(const fn_km *km, float length, int32_t j) {
    if (!km->place_half) return km->dot_error * (length * km->lengths[j] + km->scan.half[j]);
    return km->dot_error * length * km->lengths[j] + km->place_slack[j];
}

/* All columns of one point against its own centre `a` and candidates s->evaluated[0..n); `rest`: a
 * lower score bound of all others. */
static void resolve(job *w, int i, int at, float rest) {
    fn_km *km = w->km;
    space *s = w->s;
    const float squares = s->squares[i], length = (sqrtf(squares) + km->raw_length) * up;
    const float *half = km->place_half ? km->place_half : km->scan.half, *row = s->rows;
    const int32_t a = s->index[i];
    if (km->place_half)
        row = (const float *)((const char *)km->data.values + (w->first + at) * km->data.row_bytes);
    else
        fn_km_load(km, w->first + at, NULL, 1, s->rows, km->ld, s->row);
    int n = 0, best = 0;
    s->evaluated[n++] = a;
    s->scores[0] = half[a] - km->kernel->dot(row, km->rounded + a * km->ld, km->d);
    float bound = s->scores[0] + whole_error(km, length, a);
    for (int32_t f = s->head[i]; f >= 0; f = s->next[f]) {
        const int32_t j = s->found[f].center;
        if (j == a) continue;
        if (!(s->found[f].score <= bound)) {
            rest = s->found[f].score < rest ? s->found[f].score : rest;
            continue;
        }
        const float score = half[j] - km->kernel->dot(row, km->rounded + j * km->ld, km->d);
        const float error = whole_error(km, length, j);
        s->evaluated[n] = j;
        s->scores[n] = score;
        if (score < s->scores[best]) best = n;
        if (score + error < bound) bound = score + error;
        n++;
    }
    w->computed += n;
    int close = 0;
    int32_t rival = -1;
    float nearest = INFINITY; /* the rival's lower score bound */
    for (int c = 0; c < n; c++) {
        const int32_t j = s->evaluated[c];
        const float error = whole_error(km, length, j);
        const float low = s->scores[c] - error;
        if (c == best || low <= bound) {
            s->evaluated[close++] = j;
        } else if (low < nearest) {
            if (nearest < rest) rest = nearest;
            nearest = low, rival = j;
        } else if (low < rest) {
            rest = low;
        }
    }
    if (close > 1) {
        if (nearest < rest) rest = nearest;
        decide(w, at, s->evaluated, close, lower_bound(km, rest, squares));
        return;
    }
    const int32_t label = s->evaluated[0];
    set_label(w, at, label);
    set_bounds(w, at, upper_bound(km, bound, squares), lower_bound(km, rest, squares));
    set_rival(w, at, rival < 0 ? label : rival,
              rival < 0 ? INFINITY : lower_bound(km, nearest, squares));
    remember(w, i, at, label, bound, rival, nearest);
}

/* What the true score to the own centre may be at most, from the projection. */
static float projected_top(const job *w, int i, int at) {
    const fn_km *km = w->km;
    const space *s = w->s;
    const int32_t a = s->index[i];
    const int64_t row = w->first + at;
    const float *point = km->projected + row * km->projected_ld;
    const float *c = km->scan.coords + (int64_t)a * km->scan.q;
    float outside = -s->outside[i] * c[km->p];
    if (!km->first) {
        const float drift = s->outside[i] * km->left_drift[a];
        const float known = km->extra[row] + drift + (fabsf(km->extra[row]) + drift) * (up - 1);
        if (known < outside) outside = known;
    }
    const float model = projected_score(km, point, a);
    const float more = km->scan.slack[a] - s->error[i] * c[km->p + 1];
    return model + outside + more * up + (fabsf(model) + fabsf(outside)) * (up - 1);
}

/* What the true score to the rival is at least, once it has been computed. */
static float rival_bottom(const job *w, int i, int64_t row, int32_t rival) {
    const fn_km *km = w->km;
    const space *s = w->s;
    const float *point = km->projected + row * km->projected_ld;
    const float *c = km->scan.coords + (int64_t)rival * km->scan.q;
    const float drift = s->outside[i] * km->left_drift[rival];
    const float model = projected_score(km, point, rival), extra = km->rival_extra[row];
    const float slop = (fabsf(model) + fabsf(extra) + drift) * (up - 1);
    return model + extra - drift + s->error[i] * c[km->p + 1] * up - slop;
}

void fn_km_link(space *s, int found, int count) {
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

/* Whether another centre may be nearer to point `at` (i of the block) than its own. */
static bool contested(const job *w, int i, int at) {
    const space *s = w->s;
    const int64_t row = w->first + at;
    const int32_t rival = w->km->first ? -1 : w->km->rival[row];
    for (int32_t f = s->head[i]; f >= 0; f = s->next[f]) {
        const int32_t j = s->found[f].center;
        if (j == s->index[i]) continue;
        if (j != rival) return true;
        if (s->own[i] < w->km->rival_lower[row]) continue;
        if (!(s->limit[i] < rival_bottom(w, i, row, rival))) return true;
    }
    return false;
}

/* Ask for the row of the next contested point from `i` on: it lies far from the last one. */
static void prefetch_contested(const job *w, const int32_t *list, int count, int i) {
    const fn_km_data *data = &w->km->data;
    while (i < count && !w->s->contested[i]) i++;
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
        s->outside[i] = error[i - block];
        s->error[i] = error[i] = fn_km_point_error(km, error[i]);
    }
    if (km->first) kernel->nearest(&km->scan, s->block, s->best, s->second, s->index);
    for (int i = 0; i < block; i++) {
        const int at = i < count ? (list ? list[i] : i) : (list ? list[0] : 0);
        if (!km->first) s->index[i] = km->labels[w->first + at];
        s->limit[i] = projected_top(w, i, at);
        const float upper = km->upper[w->first + at];
        const float drifted = (0.5f * upper * upper - 0.5f * s->squares[i]) +
                              (upper * upper + s->squares[i]) * km->square_error;
        if (!km->first && drifted < s->limit[i]) s->limit[i] = drifted;
        if (!(s->squares[i] < FN_KM_LARGE)) s->limit[i] = -INFINITY;
        if (i >= count) s->limit[i] = -INFINITY;
        s->own[i] = upper_bound(km, s->limit[i], s->squares[i]);
        if (!km->first && upper < s->own[i]) s->own[i] = upper;
    }
    const int found =
        kernel->below(&km->scan, s->block, s->limit, s->rest, s->found, FN_KM_MOST_FOUND);
    if (found >= 0) fn_km_link(s, found, count);
    for (int i = 0; i < count; i++)
        s->contested[i] = found >= 0 && contested(w, i, list ? list[i] : i);
    prefetch_contested(w, list, count, 0);
    for (int i = 0; i < count; i++) {
        const int at = list ? list[i] : i;
        const int32_t a = s->index[i];
        if (found < 0 || !(s->squares[i] < FN_KM_LARGE)) {
            decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        if (s->contested[i]) {
            prefetch_contested(w, list, count, i + 1);
            resolve(w, i, at, s->rest[i]);
            continue;
        }
        set_label(w, at, a);
        set_bounds(w, at, s->own[i], lower_bound(km, s->rest[i], s->squares[i]));
        if (!km->first) continue;
        set_rival(w, at, a, INFINITY);
        set_extra(w, at, INFINITY, -INFINITY);
    }
}

/* ---- scores on all columns of wide rows ---- */

/* Centres that a row of scores cannot tell apart are decided in float64. */
static void decide_close(job *w, int at, const float *products, const float *half,
                         const float *errors, float length, float top) {
    const fn_km *km = w->km;
    int64_t n = 0;
    for (int64_t j = 0; j < km->k; j++) {
        const float low = half[j] - products[j] - length * errors[j];
        if (low <= top) w->s->evaluated[n++] = (int32_t)j;
    }
    decide(w, at, w->s->evaluated, n, n < km->k ? 0 : INFINITY);
}

/* The nearest centre of a row from its products, which are wrong by at most `length` times the
 * error of a centre; a bound on its score. False: that is not enough to tell. */
static bool settle(job *w, int at, const float *products, float length, int64_t ld, float *top,
                   int32_t *a) {
    const fn_km *km = w->km;
    float best, second;
    km->kernel->lowest(products, km->place_half, km->place_error, length, ld, &best, &second, a);
    *top = best + (km->place_slack[*a] + 2 * length * km->place_error[*a]) * up;
    if (!(second > *top)) return false;
    set_label(w, at, *a);
    return true;
}

/* A row that is projected as well, point i of the block: all that is known of it is kept. */
static bool begin(job *w, int i, int at, float *products, float length, int64_t ld, float *top) {
    const fn_km *km = w->km;
    space *s = w->s;
    const float *point = km->projected + (w->first + at) * km->projected_ld;
    float second, third;
    int32_t a, rival;
    if (!settle(w, at, products, length, ld, top, &a)) return false;
    s->outside[i] = point[km->p], s->squares[i] = point[km->p + 1];
    s->error[i] = fn_km_point_error(km, s->squares[i]);
    products[a] = -INFINITY;
    km->kernel->lowest(products, km->place_half, km->place_error, length, ld, &second, &third,
                       &rival);
    set_bounds(w, at, upper_bound(km, *top, s->squares[i]), lower_bound(km, third, s->squares[i]));
    set_rival(w, at, rival, lower_bound(km, second, s->squares[i]));
    remember(w, i, at, a, *top, rival, second);
    return true;
}

/* Rows [at, at + count) of the tile where they lie. `used`: columns that were summed; |x| is
 * bounded by its largest value first. */
static void settle_rows(job *w, int at, int count, const float *const *x, float *products,
                        int64_t ld, int64_t used, float most) {
    const fn_km *km = w->km;
    const float d = (float)km->d, share = ((float)used + 16) / (d + 16) * up;
    const float squares = most * most * (float)used;
    for (int i = 0; i < count; i++, products += ld) {
        if (!(squares < FN_KM_LARGE)) {
            decide(w, at + i, NULL, km->k, INFINITY);
            continue;
        }
        float top, length = sqrtf(squares) * up * share;
        int32_t a;
        if (!km->projected && settle(w, at + i, products, length, ld, &top, &a)) continue;
        length = sqrtf(km->kernel->dot(x[i], x[i], km->d)) * (1 + d * 0x1p-24f) * up * share;
        if (km->projected ? begin(w, i, at + i, products, length, ld, &top)
                          : settle(w, at + i, products, length, ld, &top, &a))
            continue;
        decide_close(w, at + i, products, km->place_half, km->place_error, length, top);
    }
}

static void multiply_in_place(job *w, int count) {
    const fn_km *km = w->km;
    const fn_km_kernels *kernel = km->kernel;
    const int group = kernel->group, lanes = kernel->lanes;
    const int64_t ld = (km->k + lanes - 1) / lanes * lanes, room = km->d + FN_KM_PAD;
    const char *start = (const char *)km->data.values + w->first * km->data.row_bytes;
    for (int first = 0; first < count; first += group * IN_PLACE_TILES) {
        const float *x[IN_PLACE_TILES][FN_KM_MOST_ROWS];
        int64_t used[IN_PLACE_TILES];
        int rows[IN_PLACE_TILES], tiles = 0;
        float most[IN_PLACE_TILES];
        for (int at = first; at < count && tiles < IN_PLACE_TILES; at += group, tiles++) {
            rows[tiles] = count - at < group ? count - at : group;
            for (int i = 0; i < rows[tiles]; i++)
                x[tiles][i] = (const float *)(start + (at + i) * km->data.row_bytes);
            used[tiles] = kernel->columns(rows[tiles], x[tiles], km->d,
                                          w->s->columns + tiles * room, &most[tiles]);
        }
        float *products = w->s->products;
        for (int64_t c = 0; c < km->k; c += 2 * lanes)
            for (int t = 0; t < tiles; t++)
                kernel->products(rows[t], x[t], used[t],
                                 used[t] < km->d ? w->s->columns + t * room : NULL,
                                 km->panels + c * km->d, fn_panel_width(km->k, c, lanes),
                                 products + t * group * ld + c, ld);
        for (int t = 0; t < tiles; t++)
            settle_rows(w, first + t * group, rows[t], x[t], products + t * group * ld, ld, used[t],
                        most[t]);
    }
    w->computed += count * km->k;
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
            decide_close(w, at, products, km->scan.half, km->scan.coords, length, top);
            continue;
        }
        set_label(w, at, a);
        if (!km->bounds) continue;
        set_bounds(w, at, upper_bound(km, top, squares), lower_bound(km, second, squares));
    }
    w->computed += count * km->k;
}

/* ---- a tile ---- */

void fn_km_assign_tile(fn_km *km, int tile, int thread) {
    const int64_t first = km->cursor + (int64_t)tile * km->tile_rows;
    const int count = (int)(km->n - first < km->tile_rows ? km->n - first : km->tile_rows);
    space *s = fn_km_space_of(km, thread);
    job w = {.km = km, .s = s, .first = first, .moves = km->moves + (int64_t)tile * km->tile_rows};
    int left = count;
    const bool filter = km->bounds && !km->first;
    if (filter && km->rival)
        left = km->kernel->filter_rivals(km->labels + first, km->rival + first, km->drift,
                                         km->drift_others, count, km->upper + first,
                                         km->lower + first, km->rival_lower + first, s->list);
    else if (filter)
        left = km->kernel->filter(km->labels + first, km->drift, km->drift_others, km->apart, count,
                                  km->upper + first, km->lower + first, s->list);
    else
        for (int i = 0; i < count; i++) s->list[i] = i;
    if (km->exact_only) {
        for (int i = 0; i < left; i++) decide(&w, s->list[i], NULL, km->k, INFINITY);
    } else if (fn_km_now_in_place(km)) {
        multiply_in_place(&w, count);
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
