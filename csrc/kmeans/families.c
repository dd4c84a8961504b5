/* families.c - centres that lie together share a bound for each point, so that most centres are
 * left out without a score (Ding et al. 2015, Yinyang k-means; here bounds come from projections).
 *
 * After the first iteration centres get places, near ones together, and each point a lower bound
 * on its distance to each family of them; its own centre and its rival have bounds of their own.
 * What the farthest-moving centre of a family has gone is summed up beside the bounds, so bounds
 * that are not looked at are not written either. A point is scored against the families whose bound
 * is not above its distance to its own centre; these get new bounds.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kmeans/assign.h"

enum { LEAST_FAMILIES = 4, MOST_FAMILIES = 128 };

/* Outward by a few roundings. */
static const float down = 1.0f - 0x1p-21f;

/* A point on its way through families. */
typedef struct fn_km_visitor {
    int at;           /* within the tile */
    float top, upper; /* score to the own centre, and distance, at most */
    float squares;    /* |x|^2 */
    const float *point;
    int32_t slot;   /* of the own centre */
    int32_t newest; /* the last of its candidates in `found`, or -1 */
    int candidates; /* -1: too many, or numbers too large: decided in float64 */
    bool stays;
    bool apart; /* the rival has its own bound, and is of no family that is scored */
} visitor;

typedef fn_km_job job;

size_t fn_km_visitor_bytes(void) { return FN_KM_VISITORS * sizeof(visitor); }

/* ---- places ---- */

/* How many families; 0 where that is too few to be worth it, or there is no memory for them. */
void fn_km_count_families(fn_km *km, size_t max_bytes) {
    const int64_t panel = 2 * km->kernel->lanes, panels = (km->k + panel - 1) / panel;
    const int64_t each = (panels + MOST_FAMILIES - 1) / MOST_FAMILIES;
    const int64_t count = (panels + each - 1) / each;
    const size_t point = (size_t)(km->projected_ld + count) * sizeof(float);
    if (count < LEAST_FAMILIES || km->purpose != FN_KM_ITERATE) return;
    if (max_bytes && (size_t)km->n * point > max_bytes) return;
    km->families = (int)count;
    km->family_slots = each * panel;
}

bool fn_km_new_families(fn_km *km) {
    const size_t k = (size_t)km->k, families = (size_t)km->families, one = sizeof(float);
    if (!families) return true;
    bool ok = (km->slot_of = fn_km_alloc(km, k * sizeof *km->slot_of));
    ok = ok && (km->center_at = fn_km_alloc(km, k * sizeof *km->center_at));
    ok = ok && (km->slot_half = fn_km_alloc(km, (k + FN_KM_PAD) * one));
    ok = ok && (km->family_drift = fn_km_alloc(km, (families + FN_KM_PAD) * one));
    ok = ok && (km->family_lower = fn_km_alloc(km, ((size_t)km->n * families + FN_KM_PAD) * one));
    for (size_t j = k; ok && j < k + FN_KM_PAD; j++) km->slot_half[j] = INFINITY;
    return ok;
}

void fn_km_start_families(fn_km *km) { km->ordered = km->clearing = false; }

typedef struct {
    float value;
    int32_t center;
} place;

static int compare(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->center < y->center ? -1 : 1;
}

/* The coordinate in which some centres differ most. */
static int widest(const fn_km *km, const place *places, int64_t count) {
    double most = -1;
    int at = 0;
    for (int l = 0; l < km->p; l++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < count; i++) {
            const double x = (double)km->scan.coords[(int64_t)places[i].center * km->scan.q + l];
            sum += x;
            squares += x * x;
        }
        const double spread = squares - sum * sum / (double)count;
        if (spread > most) most = spread, at = l;
    }
    return at;
}

/* Halve centres along their widest coordinate until a family is left. */
static void split(const fn_km *km, place *places, int64_t count) {
    const int64_t slots = km->family_slots;
    while (count > slots) {
        const int l = widest(km, places, count);
        for (int64_t i = 0; i < count; i++)
            places[i].value = km->scan.coords[(int64_t)places[i].center * km->scan.q + l];
        qsort(places, (size_t)count, sizeof *places, compare);
        const int64_t half = (count / 2 + slots - 1) / slots * slots;
        split(km, places, half);
        places += half, count -= half;
    }
}

/* Give the centres their places; false, and nothing is done, if memory ends. */
static bool order(fn_km *km) {
    place *places = fn_alloc((size_t)km->k * sizeof *places);
    if (!places) return false;
    for (int64_t j = 0; j < km->k; j++) places[j].center = (int32_t)j;
    split(km, places, km->k);
    for (int64_t i = 0; i < km->k; i++) {
        km->center_at[i] = places[i].center;
        km->slot_of[places[i].center] = (int32_t)i;
    }
    fn_free(places);
    for (int64_t j = 0; j < km->k; j++)
        fn_km_to_panel(km, km->k, km->slot_of[j], km->scan.coords + j * km->scan.q, km->scan.q,
                       km->scan.packed);
    return true;
}

/* Follow the centres, which have just been prepared. */
void fn_km_move_families(fn_km *km) {
    km->clearing = !km->ordered && order(km);
    if (km->clearing) {
        km->ordered = true;
        memset(km->family_drift, 0, (size_t)km->families * sizeof *km->family_drift);
    } else if (km->ordered) {
        for (int f = 0; f < km->families; f++) {
            float most = 0;
            for (int64_t i = f * km->family_slots; i < (f + 1) * km->family_slots && i < km->k; i++)
                most = fmaxf(most, km->drift[km->center_at[i]]);
            km->family_drift[f] = (km->family_drift[f] + most) * up;
        }
    }
    for (int64_t i = 0; km->ordered && i < km->k; i++)
        km->slot_half[i] = km->scan.half[km->center_at[i]];
}

/* ---- bounds of a point ---- */

static int family_of(const fn_km *km, int32_t center) {
    return (int)(km->slot_of[center] / km->family_slots);
}

/* A centre is one of its family again: its distance is at least `lower`. */
void fn_km_admit(job *w, int at, int32_t center, float lower) {
    const fn_km *km = w->km;
    if (!km->ordered) return;
    const int f = family_of(km, center);
    float *bound = km->family_lower + (w->first + at) * km->families + f;
    const float value = (lower + km->family_drift[f]) * down;
    if (value < *bound) *bound = value;
}

/* All centres but the own one are at least `lower` away. */
void fn_km_admit_all(job *w, int at, float lower) {
    const fn_km *km = w->km;
    float *bounds = km->family_lower + (w->first + at) * km->families;
    for (int f = 0; km->ordered && f < km->families; f++)
        bounds[f] = (lower + km->family_drift[f]) * down;
}

/* ---- a block of points ---- */

static void add_candidate(job *w, visitor *v, int *used, int32_t center, float score) {
    if (*used == FN_KM_MOST_FOUND || v->candidates < 0) {
        v->candidates = -1;
        return;
    }
    w->s->found[*used] = (fn_km_candidate){center, score};
    w->s->older[*used] = v->newest;
    v->newest = (*used)++;
    v->candidates++;
}

/* The rival, where no family that is scored has it, if it may be nearer than the own centre. */
static void ask_rival(job *w, visitor *v, int *used) {
    const fn_km *km = w->km;
    const int64_t row = w->first + v->at;
    const int32_t rival = km->rival[row];
    if (v->upper < km->rival_lower[row]) return;
    const float *point = km->projected + row * km->projected_ld;
    const float model = fn_km_projected_score(km, point, rival);
    if (v->top < fn_km_rival_bottom(w, v->at, rival, model)) return;
    v->apart = false;
    add_candidate(w, v, used, rival, model + fn_km_residue(km, point, rival));
}

/* What is known of a point without any score but its own; it queues at the families that may be
 * nearer. */
static void enter(job *w, int i, int at, int *used) {
    fn_km *km = w->km;
    fn_km_space *s = w->s;
    visitor *v = s->visitors + i;
    const int64_t row = w->first + at;
    const float *point = km->projected + row * km->projected_ld;
    const int32_t a = km->labels[row], rival = km->rival[row];
    *v = (visitor){.at = at, .newest = -1, .upper = km->upper[row], .apart = rival != a};
    v->squares = point[km->p + 2];
    v->point = point;
    v->slot = km->slot_of[a];
    if (!(v->squares < FN_KM_LARGE)) {
        v->candidates = -1;
        return;
    }
    v->top = fn_km_own_top(w, at, a, fn_km_projected_score(km, point, a), &v->upper);
    km->upper[row] = v->upper;
    int count = 0;
    if (!(v->upper < km->lower[row]))
        count = km->kernel->within(km->family_lower + row * km->families, km->family_drift,
                                   km->families, v->upper, s->near);
    for (int c = 0; c < count; c++) {
        const int f = s->near[c];
        s->queues[f * FN_KM_VISITORS + s->queued[f]++] = (uint8_t)i;
        if (v->apart && f == family_of(km, rival)) v->apart = false;
    }
    if (v->apart) ask_rival(w, v, used);
    v->stays = !count && !v->candidates;
}

/* Scores of the points that queue at a panel of a family; `rest` gets the lowest of each,
 * candidates aside. */
static void score_panel(job *w, int64_t slot, const uint8_t *queue, int count, float *rest,
                        int *used) {
    const fn_km *km = w->km;
    fn_km_space *s = w->s;
    const int panel = 2 * km->kernel->lanes, group = km->kernel->group;
    const int width = fn_panel_width(km->k, slot, km->kernel->lanes), q = km->scan.q;
    for (int first = 0; first < count; first += group) {
        const int rows = count - first < group ? count - first : group;
        const float *x[FN_KM_MOST_ROWS];
        float tops[FN_KM_MOST_ROWS], others[FN_KM_MOST_ROWS];
        int32_t own[FN_KM_MOST_ROWS];
        uint32_t below[FN_KM_MOST_ROWS];
        for (int i = 0; i < rows; i++) {
            const visitor *v = s->visitors + queue[first + i];
            const int64_t there = v->slot - slot;
            x[i] = v->point;
            tops[i] = v->top;
            own[i] = there >= 0 && there < panel ? (int32_t)there : -1;
        }
        km->kernel->screen(rows, x, q, km->scan.packed + slot * q, width, km->slot_half + slot, own,
                           tops, s->products, below, others);
        for (int i = 0; i < rows; i++) {
            visitor *v = s->visitors + queue[first + i];
            if (others[i] < rest[first + i]) rest[first + i] = others[i];
            for (uint32_t bits = below[i]; bits; bits &= bits - 1) {
                const int c = __builtin_ctz(bits);
                add_candidate(w, v, used, km->center_at[slot + c], s->products[i * panel + c]);
            }
        }
    }
}

static void score_family(job *w, int f, int *used) {
    const fn_km *km = w->km;
    fn_km_space *s = w->s;
    const int count = s->queued[f], panel = 2 * km->kernel->lanes;
    const uint8_t *queue = s->queues + f * FN_KM_VISITORS;
    const int64_t first = f * km->family_slots, end = first + km->family_slots;
    float rest[FN_KM_VISITORS], squares[FN_KM_VISITORS], bounds[FN_KM_VISITORS];
    for (int i = 0; i < count; i++) {
        rest[i] = INFINITY;
        squares[i] = s->visitors[queue[i]].squares;
    }
    for (int i = count; i % FN_KM_MOST_BLOCK; i++) rest[i] = squares[i] = 0; /* whole vectors */
    for (int64_t slot = first; slot < end && slot < km->k; slot += panel)
        score_panel(w, slot, queue, count, rest, used);
    km->kernel->family_bounds(count, rest, squares, km->square_error, km->family_drift[f], bounds);
    for (int i = 0; i < count; i++) {
        const int64_t row = w->first + s->visitors[queue[i]].at;
        km->family_lower[row * km->families + f] = bounds[i];
    }
}

/* A point that has been to all families it queued at. */
static void leave(job *w, const visitor *v) {
    fn_km *km = w->km;
    fn_km_space *s = w->s;
    const int at = v->at;
    const int64_t row = w->first + at;
    const int32_t a = km->labels[row], rival = km->rival[row];
    const float rival_lower = km->rival_lower[row];
    int count = v->candidates;
    for (int32_t f = v->newest, c = count; f >= 0 && c > 0; f = s->older[f])
        s->picked[--c] = s->found[f];
    if (count < 0) {
        fn_km_decide(w, at, NULL, km->k, INFINITY);
        return;
    }
    if (count && fn_km_contested(w, at, s->picked, count, v->top, v->upper)) {
        fn_km_resolve(w, at, a, s->picked, count, INFINITY);
        const bool known = rival == km->labels[row] || rival == km->rival[row];
        if (v->apart && !known) fn_km_admit(w, at, rival, rival_lower);
    }
    km->lower[row] = km->kernel->lowest_bound(km->family_lower + row * km->families,
                                              km->family_drift, km->families);
}

static void visit(job *w, const int32_t *list, int count) {
    enum { AHEAD = 4 };
    const fn_km *km = w->km;
    fn_km_space *s = w->s;
    int used = 0;
    memset(s->queued, 0, (size_t)km->families * sizeof *s->queued);
    for (int i = 0; i < count; i++) {
        if (i + AHEAD < count)
            for (int c = 0; c < km->scan.q; c += 16)
                __builtin_prefetch(km->projected + (w->first + list[i + AHEAD]) * km->projected_ld +
                                   c);
        enter(w, i, list[i], &used);
    }
    for (int f = 0; f < km->families; f++)
        if (s->queued[f]) score_family(w, f, &used);
    for (int i = 0; i < count; i++) {
        const visitor *v = s->visitors + i;
        if (v->candidates && i + 1 < count) fn_km_prefetch_row(&km->data, w->first + v->at);
    }
    for (int i = 0; i < count; i++)
        if (!s->visitors[i].stays) leave(w, s->visitors + i);
}

void fn_km_visit_families(job *w, const int32_t *list, int count) {
    for (int i = 0; i < count; i += FN_KM_VISITORS)
        visit(w, list + i, count - i < FN_KM_VISITORS ? count - i : FN_KM_VISITORS);
}
