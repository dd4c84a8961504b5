/* assign_projected.c - scores of wide rows on their projection, and all columns of what that leaves
 * open. A point is p coordinates, what they leave out, its error term, and |x|^2.
 */
#include <math.h>

#include "kmeans/assign.h"

typedef fn_km_space space;
typedef fn_km_job job;

static const float *point_of(const job *w, int at) {
    return w->km->projected + (w->first + at) * w->km->projected_ld;
}

/* The parts of a projected score that make it a lower bound: what is left out, and the error. */
float fn_km_residue(const fn_km *km, const float *point, int32_t j) {
    const float *c = km->scan.coords + (int64_t)j * km->scan.q;
    return point[km->p] * c[km->p] + point[km->p + 1] * c[km->p + 1];
}

float fn_km_projected_score(const fn_km *km, const float *point, int32_t j) {
    return km->scan.half[j] +
           km->kernel->dot(point, km->scan.coords + (int64_t)j * km->scan.q, km->p);
}

/* Keep what is known of a point after it was looked at on all columns: its score to `label` is at
 * most `bound`, to `rival` (unless negative) at least `nearest`; projected they are the models. */
void fn_km_remember(job *w, int at, int32_t label, float bound, float label_model, int32_t rival,
                    float nearest, float rival_model) {
    const fn_km *km = w->km;
    const float *point = point_of(w, at), outside = point[km->p], error = point[km->p + 1];
    const int q = km->scan.q;
    const float *c = km->scan.coords + (int64_t)label * q;
    const float drift = outside * km->left_drift[label];
    const float sizes = fabsf(bound) + fabsf(label_model) + drift - outside * c[km->p];
    const float extra = bound - label_model - error * c[q - 1] * up - drift + sizes * (up - 1);
    float other = -INFINITY;
    if (rival >= 0) {
        c = km->scan.coords + (int64_t)rival * q;
        const float there = rival_model + km->scan.slack[rival];
        const float moved = outside * km->left_drift[rival];
        const float less = fabsf(nearest) + fabsf(there) + moved - outside * c[km->p];
        other = nearest - there + error * c[q - 1] * up + moved - less * (up - 1);
    }
    set_extra(w, at, extra, other);
}

/* What a float32 score on all columns of a row (|x| at most `length`) may be wrong by. */
static float whole_error(const fn_km *km, float length, int32_t j) {
    if (!km->place_half) return km->dot_error * (length * km->lengths[j] + km->scan.half[j]);
    return km->dot_error * length * km->lengths[j] + km->place_slack[j];
}

/* Candidates in order of their scores: the nearest centre is mostly the first, and leaves out
 * others. Of very many only the first comes to its place. */
static void sort_candidates(fn_km_candidate *found, int count) {
    enum { FEW = 48 };
    for (int i = 1; i < count; i++) {
        const fn_km_candidate one = found[i];
        int to = i;
        if (count <= FEW)
            for (; to > 0 && found[to - 1].score > one.score; to--) found[to] = found[to - 1];
        else if (found[0].score > one.score)
            found[i] = found[0], to = 0;
        found[to] = one;
    }
}

/* All columns of one point against its own centre `a` and the candidates; `rest`: a lower score
 * bound of all others, families aside. */
void fn_km_resolve(job *w, int at, int32_t a, fn_km_candidate *found, int n_found, float rest) {
    fn_km *km = w->km;
    space *s = w->s;
    const float *point = point_of(w, at), squares = point[km->p + 2];
    const float length = (sqrtf(squares) + km->raw_length) * up;
    const float *half = km->place_half ? km->place_half : km->scan.half, *row = s->rows;
    if (km->place_half)
        row = (const float *)fn_km_row_start(&km->data, w->first + at);
    else
        fn_km_load(km, w->first + at, NULL, 1, s->rows, km->ld, s->row);
    int n = 0, best = 0;
    sort_candidates(found, n_found);
    s->evaluated[n++] = a;
    s->scores[0] = half[a] - km->kernel->dot(row, km->rounded + a * km->ld, km->d);
    float bound = s->scores[0] + whole_error(km, length, a);
    for (int f = 0; f < n_found; f++) {
        const int32_t j = found[f].center;
        if (!(found[f].score <= bound)) {
            rest = found[f].score < rest ? found[f].score : rest;
            fn_km_admit(w, at, j, lower_bound(km, found[f].score, squares));
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
        const float low = s->scores[c] - whole_error(km, length, j);
        if (c == best || low <= bound) {
            s->evaluated[close++] = j;
        } else if (low < nearest) {
            if (nearest < rest) rest = nearest;
            if (rival >= 0) fn_km_admit(w, at, rival, lower_bound(km, nearest, squares));
            nearest = low, rival = j;
        } else {
            if (low < rest) rest = low;
            fn_km_admit(w, at, j, lower_bound(km, low, squares));
        }
    }
    if (close > 1) {
        if (nearest < rest) rest = nearest;
        if (rival >= 0) fn_km_admit(w, at, rival, lower_bound(km, nearest, squares));
        fn_km_decide(w, at, s->evaluated, close, lower_bound(km, rest, squares));
        return;
    }
    const int32_t label = s->evaluated[0];
    set_label(w, at, label);
    set_bounds(w, at, upper_bound(km, bound, squares), lower_bound(km, rest, squares));
    set_rival(w, at, rival < 0 ? label : rival,
              rival < 0 ? INFINITY : lower_bound(km, nearest, squares));
    const float model = fn_km_projected_score(km, point, label);
    const float other = rival < 0 ? 0 : fn_km_projected_score(km, point, rival);
    fn_km_remember(w, at, label, bound, model, rival, nearest, other);
}

/* What the true score to the own centre `a` may be at most, from the projected one. */
static float projected_top(const job *w, int at, int32_t a, float model) {
    const fn_km *km = w->km;
    const int64_t row = w->first + at;
    const float *point = point_of(w, at), *c = km->scan.coords + (int64_t)a * km->scan.q;
    const float most = -point[km->p] * c[km->p];
    float outside = most;
    if (!km->first) {
        const float drift = point[km->p] * km->left_drift[a];
        const float known = km->extra[row] + drift + (fabsf(km->extra[row]) + drift) * (up - 1);
        if (known < outside) outside = known;
    }
    const float more = km->scan.slack[a] - point[km->p + 1] * c[km->p + 1];
    return model + outside + more * up + (fabsf(model) + fabsf(outside) + most) * (up - 1);
}

/* What the true score to the rival is at least, once it has been computed. */
float fn_km_rival_bottom(const job *w, int at, int32_t rival, float model) {
    const fn_km *km = w->km;
    const int64_t row = w->first + at;
    const float *point = point_of(w, at), *c = km->scan.coords + (int64_t)rival * km->scan.q;
    const float drift = point[km->p] * km->left_drift[rival], extra = km->rival_extra[row];
    const float most = -point[km->p] * c[km->p];
    const float slop = (fabsf(model) + fabsf(extra) + drift + most) * (up - 1);
    return model + extra - drift + point[km->p + 1] * c[km->p + 1] * up - slop;
}

/* Whether a point stays where it is for what its own projected score and its rival's tell: then no
 * other is needed. */
static bool stays(const job *w, int at) {
    const fn_km *km = w->km;
    const int64_t row = w->first + at;
    const float *point = point_of(w, at), squares = point[km->p + 2];
    const int32_t a = km->labels[row], rival = km->rival[row];
    if (!(squares < FN_KM_LARGE)) return false;
    const float top = projected_top(w, at, a, fn_km_projected_score(km, point, a));
    const float own = upper_bound(km, top, squares);
    if (own < km->upper[row]) km->upper[row] = own;
    if (!(km->upper[row] < km->lower[row])) return false;
    if (km->upper[row] < km->rival_lower[row]) return true;
    const float bottom = fn_km_rival_bottom(w, at, rival, fn_km_projected_score(km, point, rival));
    return top < bottom;
}

/* Strike points that stay off a list; returns how many are left. */
int fn_km_strike(job *w, int32_t *list, int count) {
    enum { AHEAD = 8 };
    int left = 0;
    for (int i = 0; i < count; i++) {
        if (i + AHEAD < count)
            for (int c = 0; c < w->km->scan.q; c += 16)
                __builtin_prefetch(point_of(w, list[i + AHEAD]) + c);
        const int at = list[i];
        if (!stays(w, at)) list[left++] = at;
    }
    return left;
}

/* Lower score bounds of what `scan` holds for projected rows: out (count, ld). */
void fn_km_score_rows(const fn_km *km, const fn_km_scan *scan, const float *points,
                      const int32_t *list, int count, float *out, int64_t ld) {
    const int lanes = km->kernel->lanes, group = km->kernel->group, q = scan->q;
    const float *x[FN_KM_MOST_BLOCK];
    for (int i = 0; i < count; i++) x[i] = points + (list ? list[i] : i) * km->projected_ld;
    for (int64_t c = 0; c < scan->k; c += 2 * lanes) {
        const int width = fn_panel_width(scan->k, c, lanes);
        for (int i = 0; i < count; i += group)
            km->kernel->products(count - i < group ? count - i : group, x + i, q, NULL,
                                 scan->packed + c * q, width, scan->half + c, out + i * ld + c, ld);
    }
}

/* Whether a candidate may be nearer to a point than its own centre, whose score is at most `top`
 * and whose distance is at most `upper`. */
bool fn_km_contested(const job *w, int at, const fn_km_candidate *found, int n_found, float top,
                     float upper) {
    const fn_km *km = w->km;
    const int64_t row = w->first + at;
    const int32_t rival = km->first ? -1 : km->rival[row];
    for (int f = 0; f < n_found; f++) {
        if (found[f].center != rival) return true;
        if (upper < km->rival_lower[row]) continue;
        const float model = found[f].score - fn_km_residue(km, point_of(w, at), rival);
        if (!(top < fn_km_rival_bottom(w, at, rival, model))) return true;
    }
    return false;
}

/* Ask for a row that will be looked at: it lies far from the last one. */
void fn_km_prefetch_row(const fn_km_data *data, int64_t row) {
    if (data->indptr) return;
    const char *start = fn_km_row_start(data, row);
    const int64_t bytes = data->d * (data->dtype == FN_F64 ? 8 : 4);
    for (int64_t b = 0; b < bytes && b < 8192; b += 64) __builtin_prefetch(start + b, 0, 2);
}

/* The score of a point to its own centre `a` at most, from the projected one and from what was
 * known; the distance, if it is nearer than `upper`, goes there. */
float fn_km_own_top(const job *w, int at, int32_t a, float model, float *upper) {
    const fn_km *km = w->km;
    const float squares = point_of(w, at)[km->p + 2], u = *upper;
    float top = projected_top(w, at, a, model);
    if (u < INFINITY) {
        const float drifted =
            (0.5f * u * u - 0.5f * squares) + (u * u + squares) * km->square_error;
        if (drifted < top) top = drifted;
    }
    const float own = upper_bound(km, top, squares);
    if (own < u) *upper = own;
    return top;
}

/* What the projection tells of point i of a block; where its candidates end, from n; or -1. */
static int examine(job *w, int i, int at, float *scores, int64_t ld, int n) {
    fn_km *km = w->km;
    space *s = w->s;
    const int64_t row = w->first + at;
    const float *point = point_of(w, at), squares = point[km->p + 2];
    const int32_t a = km->first ? km->kernel->least(scores, ld) : km->labels[row];
    const float score = scores[a];
    float upper = km->first ? INFINITY : km->upper[row];
    const float top = fn_km_own_top(w, at, a, score - fn_km_residue(km, point, a), &upper);
    s->index[i] = a;
    s->own[i] = upper;
    if (!(squares < FN_KM_LARGE)) return -1;
    scores[a] = INFINITY;
    const int count =
        km->kernel->pick(scores, ld, top, s->found + n, FN_KM_MOST_FOUND - n, &s->rest[i]);
    scores[a] = score;
    s->contested[i] = count > 0 && fn_km_contested(w, at, s->found + n, count, top, upper);
    if (s->contested[i]) fn_km_prefetch_row(&km->data, row);
    return count < 0 ? -1 : n + count;
}

void fn_km_project_block(job *w, const int32_t *list, int count) {
    fn_km *km = w->km;
    space *s = w->s;
    const int64_t lanes = km->kernel->lanes, ld = (km->k + lanes - 1) / lanes * lanes;
    fn_km_score_rows(km, &km->scan, point_of(w, 0), list, count, s->products, ld);
    for (int i = 0, n = 0; i < count; i++) {
        s->begin[i] = n;
        s->contested[i] = false;
        s->end[i] = examine(w, i, list[i], s->products + i * ld, ld, n);
        if (s->end[i] > n) n = s->end[i];
    }
    for (int i = 0; i < count; i++) {
        const int at = list[i], begin = s->begin[i], end = s->end[i];
        const int32_t a = s->index[i];
        if (end < 0) {
            fn_km_decide(w, at, NULL, km->k, INFINITY);
        } else if (s->contested[i]) {
            fn_km_resolve(w, at, a, s->found + begin, end - begin, s->rest[i]);
        } else {
            set_label(w, at, a);
            set_bounds(w, at, s->own[i], lower_bound(km, s->rest[i], point_of(w, at)[km->p + 2]));
            if (!km->first) continue;
            set_rival(w, at, a, INFINITY);
            set_extra(w, at, INFINITY, -INFINITY);
        }
    }
}
