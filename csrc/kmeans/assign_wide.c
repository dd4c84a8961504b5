/* assign_wide.c - scores of wide rows on all columns: where they lie, or a tile by sgemm. */
#include <math.h>

#include "gemm.h"
#include "kmeans/assign.h"

typedef fn_km_space space;
typedef fn_km_job job;

/* Centres that a row of scores cannot tell apart are decided in float64. */
void fn_km_decide_close(job *w, int at, const float *products, const float *half,
                        const float *errors, float length, float top) {
    const fn_km *km = w->km;
    int64_t n = 0;
    for (int64_t j = 0; j < km->k; j++) {
        const float low = half[j] - products[j] - length * errors[j];
        if (!(low > top)) w->s->evaluated[n++] = (int32_t)j;
    }
    fn_km_decide(w, at, w->s->evaluated, n, n < km->k ? 0 : INFINITY);
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
    set_gap(w, at, second - *top);
    /* a gap of scores is half that of squares: that of distances times about one of them */
    w->stays += second - *top > (km->drift[*a] + km->drift_others[*a]) * (float)km->distance;
    return true;
}

/* A row that is projected as well: all that is known of it is kept. */
static bool begin(job *w, int at, float *products, float length, int64_t ld, float *top) {
    const fn_km *km = w->km;
    const float *point = km->projected + (w->first + at) * km->projected_ld;
    const float squares = point[km->p + 2];
    float second, third;
    int32_t a, rival;
    if (!settle(w, at, products, length, ld, top, &a)) return false;
    products[a] = -INFINITY;
    km->kernel->lowest(products, km->place_half, km->place_error, length, ld, &second, &third,
                       &rival);
    set_bounds(w, at, upper_bound(km, *top, squares), lower_bound(km, third, squares));
    set_rival(w, at, rival, lower_bound(km, second, squares));
    const float model = fn_km_projected_score(km, point, a);
    fn_km_remember(w, at, a, *top, model, rival, second, fn_km_projected_score(km, point, rival));
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
            fn_km_decide(w, at + i, NULL, km->k, INFINITY);
            continue;
        }
        float top, length = sqrtf(squares) * up * share;
        int32_t a;
        if (!km->projected && settle(w, at + i, products, length, ld, &top, &a)) continue;
        length = sqrtf(km->kernel->dot(x[i], x[i], km->d)) * (1 + d * 0x1p-24f) * up * share;
        if (km->projected ? begin(w, at + i, products, length, ld, &top)
                          : settle(w, at + i, products, length, ld, &top, &a))
            continue;
        fn_km_decide_close(w, at + i, products, km->place_half, km->place_error, length, top);
    }
}

void fn_km_multiply_in_place(job *w, int count) {
    const fn_km *km = w->km;
    const fn_km_kernels *kernel = km->kernel;
    const int group = kernel->group, lanes = kernel->lanes;
    const int64_t ld = (km->k + lanes - 1) / lanes * lanes, room = km->d + FN_KM_PAD;
    for (int first = 0; first < count; first += group * IN_PLACE_TILES) {
        const float *x[IN_PLACE_TILES][FN_KM_MOST_ROWS];
        int64_t used[IN_PLACE_TILES];
        int rows[IN_PLACE_TILES], tiles = 0;
        float most[IN_PLACE_TILES];
        for (int at = first; at < count && tiles < IN_PLACE_TILES; at += group, tiles++) {
            rows[tiles] = count - at < group ? count - at : group;
            for (int i = 0; i < rows[tiles]; i++)
                x[tiles][i] = (const float *)fn_km_row_start(&km->data, w->first + at + i);
            used[tiles] = kernel->columns(rows[tiles], x[tiles], km->d,
                                          w->s->columns + tiles * room, &most[tiles]);
        }
        float *products = w->s->products;
        for (int64_t c = 0; c < km->k; c += 2 * lanes)
            for (int t = 0; t < tiles; t++)
                kernel->products(rows[t], x[t], used[t],
                                 used[t] < km->d ? w->s->columns + t * room : NULL,
                                 km->panels + c * km->d, fn_panel_width(km->k, c, lanes), NULL,
                                 products + t * group * ld + c, ld);
        for (int t = 0; t < tiles; t++)
            settle_rows(w, first + t * group, rows[t], x[t], products + t * group * ld, ld, used[t],
                        most[t]);
    }
    w->computed += count * km->k;
}

void fn_km_multiply_rows(job *w, const int32_t *list, int count) {
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
            fn_km_decide(w, at, NULL, km->k, INFINITY);
            continue;
        }
        float best, second;
        int32_t a;
        km->kernel->lowest(products, km->scan.half, km->scan.coords, length, km->k, &best, &second,
                           &a);
        const float top = best + (km->scan.slack[a] + 2 * length * km->scan.coords[a]) * up;
        if (!(second > top)) {
            fn_km_decide_close(w, at, products, km->scan.half, km->scan.coords, length, top);
            continue;
        }
        set_label(w, at, a);
        set_gap(w, at, second - top);
        if (!km->keep) continue;
        set_bounds(w, at, upper_bound(km, top, squares), lower_bound(km, second, squares));
    }
    w->computed += count * km->k;
}
