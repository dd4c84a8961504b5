/* prepare.c - once an iteration: the centres as the kernels read them, and how far they moved.
 *
 * Error terms, with u = 2^-24 and gamma_m = m u (rounded up throughout): rows and centres are
 * rounded once to float32, and a score is a sum of q products from |c|^2 / 2, so its error is at
 * most gamma (|c|^2 / 2 + |x| |c|). The first part is taken off `half`, the second becomes the last
 * coordinate: sqrt(gamma) |x| times sqrt(gamma) |c|.
 */
#include <math.h>
#include <string.h>

#include "kmeans/km.h"

enum { CENTERS = 16 }; /* of a tile */

static const double unit = 0x1p-24;
static const float up = 1.0f + 0x1p-20f;

/* Error constants of the chosen mode; `p` columns of projections, d rows of the basis. */
void fn_km_errors(fn_km *km) {
    const double d = (double)km->d, p = km->p;
    double scores = d + 16;
    if (km->mode == FN_KM_MODE_PROJECTED)
        scores = 2 * sqrt(p) * fn_km_part_error(km->d) + p + 32 + km->basis_error / unit;
    km->error_root = (float)sqrt(scores * unit * 1.1) * up;
    const double summed = km->mode == FN_KM_MODE_PROJECTED ? p + 16 : d + 16;
    km->half_error = (float)((km->mode == FN_KM_MODE_DENSE ? 16 : summed) * unit * 1.1);
    km->dot_error = (float)((d / 16 + 24) * unit * 1.1) + km->half_error;
    km->square_error = (float)((km->mode == FN_KM_MODE_NARROW ? d + 24 : d / 16 + 32) * unit * 1.1);
}

typedef struct {
    fn_km *km;
    int tiles, pass;
} preparation;

static int prepare_next(void *context) {
    preparation *p = context;
    return p->pass++ ? -1 : p->tiles;
}

/* Projections of `count` points (rounded, ld) less the shift, and what they leave out, as negative
 * coordinates (count, p + 2). Room: count * p and 2 MOST_ROWS (p + PAD) floats. */
void fn_km_project_centers(const fn_km *km, const float *rounded, const float *lengths,
                           int64_t count, float *coords, float *room) {
    const int p = km->p, q = p + 2;
    float *inside = room;
    fn_km_project_points(km, rounded, km->ld, count, inside, p, room + count * p);
    for (int64_t r = 0; r < count; r++, coords += q, inside += p) {
        const double length = (double)lengths[r];
        for (int l = 0; l < p; l++) coords[l] = -inside[l];
        coords[p] = -fn_km_left_out(km, inside, length * length, length, 0);
        coords[p + 1] = -lengths[r] * km->error_root * up;
    }
}

/* Add how far centres [first, end) moved outside of the projection; `room` as above, and more. */
static void add_left_drift(fn_km *km, int64_t first, int64_t end, float *room) {
    const int64_t d = km->d;
    const int p = km->p;
    float *inside = room, *moved = inside + CENTERS * p;
    int64_t which[CENTERS], count = 0;
    for (int64_t j = first; j < end; j++) {
        if (!(km->drift[j] > 0)) continue;
        for (int64_t c = 0; c < d; c++)
            moved[count * d + c] = (float)(km->centers[j * d + c] - km->previous[j * d + c]);
        which[count++] = j;
    }
    fn_km_project_points(km, moved, d, count, inside, p, moved + CENTERS * d);
    for (int64_t i = 0; i < count; i++, inside += p) {
        const double length = (double)km->drift[which[i]];
        const float left = fn_km_left_out(km, inside, length * length, length, 0);
        km->left_drift[which[i]] = (km->left_drift[which[i]] + left) * up;
    }
}

/* Columns of the same coordinate together, FN_KM_GROUP centres at a time. */
static void pack(fn_km_scan *scan, int64_t first, int64_t end) {
    const int q = scan->q;
    for (int64_t j = first; j < end; j++)
        for (int l = 0; l < q; l++)
            scan->packed[(j / FN_KM_GROUP * q + l) * FN_KM_GROUP + j % FN_KM_GROUP] =
                scan->coords[j * q + l];
}

typedef int64_t vl __attribute__((vector_size(32)));
typedef float vh_loose __attribute__((vector_size(16), aligned(4), may_alias));

/* Sums over the columns of a centre less the shift. */
typedef struct {
    double squares, along, apart; /* of c c, of c shift, of |c shift| */
} lengths;

/* rounded = center - shift. */
static lengths take_shift(const double *center, const double *shift, int64_t d, float *rounded) {
    vd squares = {0}, along = {0}, apart = {0};
    int64_t c = 0;
    for (; c + 4 <= d; c += 4) {
        const vd s = *(const vd_loose *)(shift + c), x = *(const vd_loose *)(center + c) - s;
        *(vh_loose *)(rounded + c) = __builtin_convertvector(x, vh_loose);
        const vd product = x * s;
        squares += x * x;
        along += product;
        apart += (vd)((vl)product & INT64_MAX);
    }
    lengths sums = {fn_km_sum4(squares), fn_km_sum4(along), fn_km_sum4(apart)};
    for (; c < d; c++) {
        const double x = center[c] - shift[c];
        rounded[c] = (float)x;
        sums.squares += x * x;
        sums.along += x * shift[c];
        sums.apart += fabs(x * shift[c]);
    }
    return sums;
}

/* Centre j for rows that are not centred: x.c = (x - shift).c + shift.c, the last of which is part
 * of `half`. Products of m columns that are not zero are wrong by (m + 16) units of |x| |c|;
 * place_error is that for all of them. */
static void place_center(fn_km *km, int64_t j, const lengths *sums) {
    const double half = 0.5 * sums->squares + sums->along,
                 terms = 0.5 * sums->squares + sums->apart;
    const double bias = 1.1 * (16 * unit * fabs(half) + terms * (double)(km->d + 4) * 0x1p-52);
    km->place_half[j] = (float)half - ((float)bias * up + 1e-36f);
    km->place_slack[j] = 2.5f * ((float)bias * up + 1e-36f);
    km->place_error[j] = km->lengths[j] * (float)((double)(km->d + 16) * unit * 1.1) * up;
}

/* Values (q) of centre j of k as a column of its panel. */
void fn_km_to_panel(const fn_km *km, int64_t k, int64_t j, const float *values, int64_t q,
                    float *panels) {
    const int lanes = km->kernel->lanes, width = fn_panel_width(k, j, lanes);
    const int64_t panel = j / (2 * lanes) * (2 * lanes);
    float *to = panels + panel * q + (j - panel);
    for (int64_t c = 0; c < q; c++) to[c * width] = values[c];
}

static void prepare_run(void *context, int tile, int thread) {
    fn_km *km = ((preparation *)context)->km;
    const int64_t first = (int64_t)tile * CENTERS, d = km->d;
    const int64_t end = first + CENTERS < km->k ? first + CENTERS : km->k;
    for (int64_t j = first; j < end; j++) {
        const double *center = km->centers + j * d;
        float *rounded = km->rounded + j * km->ld;
        const lengths sums = take_shift(center, km->shift, d, rounded);
        const double squares = sums.squares;
        km->lengths[j] = (float)sqrt(squares) * up;
        const float half = (float)(0.5 * squares), bias = half * km->half_error + 1e-36f;
        if (km->place_half) place_center(km, j, &sums);
        if (km->sparse) {
            km->center_squares[j] = squares;
            fn_km_sparse_center(km, j);
        }
        if (fn_km_now_in_place(km)) fn_km_to_panel(km, km->k, j, rounded, d, km->panels);
        km->scan.half[j] = half - bias;
        km->scan.slack[j] = 2.5f * bias;
        if (km->mode == FN_KM_MODE_NARROW) {
            float *coords = km->scan.coords + j * km->scan.q;
            for (int64_t c = 0; c < d; c++) coords[c] = -rounded[c];
            coords[d] = -km->lengths[j] * km->error_root * up;
        } else if (km->mode == FN_KM_MODE_DENSE) {
            km->scan.coords[j] = km->lengths[j] * km->error_root * km->error_root * up;
        }
        if (!km->previous) continue;
        const double moved = sqrt(fn_km_distance(center, km->previous + j * d, d));
        km->drift[j] = (float)moved * up;
    }
    float *room = (float *)(km->spaces + (size_t)thread * km->space_bytes);
    if (km->mode == FN_KM_MODE_PROJECTED) {
        fn_km_project_centers(km, km->rounded + first * km->ld, km->lengths + first, end - first,
                              km->scan.coords + first * km->scan.q, room);
        if (km->previous) add_left_drift(km, first, end, room);
    }
    if (km->mode == FN_KM_MODE_NARROW) pack(&km->scan, first, end);
    if (km->mode == FN_KM_MODE_PROJECTED)
        for (int64_t j = first; j < end; j++)
            fn_km_to_panel(km, km->k, km->ordered ? km->slot_of[j] : j,
                           km->scan.coords + j * km->scan.q, km->scan.q, km->scan.packed);
}

/* The farthest that any other centre moved. */
static void other_drifts(fn_km *km) {
    float most = 0, next = 0;
    int64_t at = 0;
    for (int64_t j = 0; j < km->k; j++) {
        if (km->drift[j] > most)
            next = most, most = km->drift[j], at = j;
        else if (km->drift[j] > next)
            next = km->drift[j];
    }
    for (int64_t j = 0; j < km->k; j++) km->drift_others[j] = j == at ? next : most;
}

/* Half the distance to the nearest other centre, rounded down, where that is cheap to know. */
static void measure_apart(fn_km *km) {
    const bool cheap = (double)km->k * (double)km->k * (double)km->d < 0.02 * (double)km->n * 64;
    for (int64_t j = 0; j < km->k; j++) km->apart[j] = 0;
    if (!cheap || km->k < 2 || !km->known) return;
    for (int64_t j = 0; j < km->k; j++) {
        double least = INFINITY;
        for (int64_t o = 0; o < km->k; o++) {
            if (o == j) continue;
            const double gap =
                fn_km_distance(km->centers + j * km->d, km->centers + o * km->d, km->d);
            if (gap < least) least = gap;
        }
        km->apart[j] = (float)(0.5 * sqrt(least)) / up;
    }
}

size_t fn_km_prepare_bytes(const fn_km *km) {
    const size_t ends = 2 * FN_KM_MOST_ROWS * ((size_t)km->p + FN_KM_PAD);
    return (CENTERS * (size_t)(km->p + km->d) + ends) * sizeof(float);
}

void fn_km_prepare(fn_km *km) {
    const int tiles = (int)((km->k + CENTERS - 1) / CENTERS);
    preparation p = {km, tiles, 0};
    const double work = (double)(km->k * km->d) * (km->mode == FN_KM_MODE_PROJECTED ? km->p : 4);
    fn_parallel_run(fn_km_threads(km, work * 0.1, 1),
                    &(fn_work_list){prepare_next, prepare_run, &p, 1e6, 0});
    km->exact_only = false;
    for (int64_t j = 0; j < km->k; j++)
        if (!(km->lengths[j] < 1e15f) ||
            (km->place_half && !(isfinite(km->place_half[j]) && isfinite(km->place_slack[j]))))
            km->exact_only = true; /* in place, a far shift may overflow as well */
    if (!km->previous) return;
    other_drifts(km);
    measure_apart(km);
    if (km->families && !km->first) fn_km_move_families(km);
}
