/* kernels.h - what k-means asks of a SIMD level: rows into blocks, blocks against centres.
 *
 * Scores are lower bounds: score(x, c) <= |x - c|^2 / 2 - |x|^2 / 2, rounding included, because the
 * last coordinates of a block and of the centres are error terms whose product is taken off. See
 * docs/kmeans.md for the derivation.
 */
#ifndef FN_KM_KERNELS_H
#define FN_KM_KERNELS_H

#include <stdint.h>

#include "kmeans.h"

/* Where a dense row lies. */
static inline const char *fn_km_row_start(const fn_km_data *data, int64_t row) {
    return (const char *)data->values + (data->picked ? data->picked[row] : row) * data->row_bytes;
}

enum { FN_KM_MOST_BLOCK = 32, FN_KM_GROUP = 6 }; /* points in a block: 2 vectors of the level */

typedef struct {
    int q;               /* coordinates of a block */
    int64_t k, k_padded; /* a multiple of FN_KM_GROUP */
    float *coords;       /* (k, q): minus the centres */
    float *packed;       /* (k_padded / FN_KM_GROUP, q, FN_KM_GROUP): the same */
    float *half;         /* (k_padded): |c|^2 / 2, rounded down; infinite beyond k */
    float *slack;        /* (k): what the true score may exceed the bound by, product terms aside */
} fn_km_scan;

typedef struct {
    int32_t center;
    float score;
} fn_km_candidate;

typedef struct fn_km_kernels {
    int block;
    int lanes, group; /* floats of a vector; rows that `columns` and `products` take at a time */
    /* Rows first + list[i] (i < count; list NULL: first + i), less `shift`, to out (count, ld). */
    void (*load)(const fn_km_data *data, const float *shift, int64_t first, const int32_t *list,
                 int count, float *out, int64_t ld);
    /* Rows list[i] of (rows, ld) to columns: out (q, block); columns past count repeat the first.
     */
    void (*transpose)(const float *rows, int64_t ld, const int32_t *list, int count, int q,
                      float *out);
    /* The lowest score of each point, its centre, and the second lowest score. */
    void (*nearest)(const fn_km_scan *scan, const float *block, float *best, float *second,
                    int32_t *index);
    /* The index of the lowest of k scores, a multiple of `lanes`. */
    int32_t (*least)(const float *scores, int64_t k);
    /* Those of k scores, a multiple of `lanes`, that are below a limit, in order; `rest` is the
     * lowest of the others. Returns their number, or -1: above `most`. */
    int (*pick)(const float *scores, int64_t k, float limit, fn_km_candidate *found, int most,
                float *rest);
    /* Products of `count` entries, values and columns, with transposed centres (d, ld), whole
     * vectors: out (ld). */
    void (*entries)(const float *values, const int32_t *where, int64_t count, const float *centers,
                    int64_t ld, float *out);
    /* |x|^2 of each point of a block of d coordinates; error: its root times error_root. */
    void (*squares)(const float *block, int d, float error_root, float *squares, float *error);
    /* The lowest of half[j] - products[j] - length * errors[j], its j, and the second lowest. */
    void (*lowest)(const float *products, const float *half, const float *errors, float length,
                   int64_t k, float *best, float *second, int32_t *index);
    /* sum += x (or -= where `minus`) as unevaluated pairs, n columns of float64. */
    void (*add)(const double *x, bool minus, int64_t n, double *sum, double *low);
    /* sum += weight * (row - shift); returns |row - shift|^2. A row of float64 (`wide`) or float32.
     */
    double (*survey)(const void *row, bool wide, const double *shift, double weight, int64_t d,
                     double *sum);
    /* to += weight * (row - origin), from -= the same; n columns. Origin NULL: 0; from may be NULL.
     */
    void (*move)(const void *row, bool wide, const double *origin, double weight, int64_t n,
                 double *to, double *from);
    /* Sums over columns of x * y, in 4 vectors: the rounding error is at most (d / (4 lanes) + 10)
     * units of |x| |y|. */
    float (*dot)(const float *x, const float *y, int64_t d);
    /* Sum over columns of (row - center)^2 in float64; a row of float64 (`wide`) or float32. */
    double (*distance)(const void *row, bool wide, const double *center, int64_t d);
    /* Products x.c to distances, half[j] = |c|^2 / 2; -1 where cancellation left too few digits:
     * then false. `cosine`: half the square. */
    bool (*distances)(float *products, const float *half, float squares, int64_t k, bool cosine);
    /* Sum over columns of (x - y)^2. */
    float (*gap)(const float *x, const float *y, int64_t d);
    /* Bounds of `count` points follow the centres: upper += up[label], lower -= down[label], and
     * rival_lower -= up[rival] where there are rivals. Points that may have another nearest centre
     * go to list. Returns their number. */
    int (*filter)(const int32_t *labels, const float *up, const float *down, const float *apart,
                  int count, float *upper, float *lower, int32_t *list);
    int (*filter_rivals)(const int32_t *labels, const int32_t *rivals, const float *up,
                         const float *down, int count, float *upper, float *lower,
                         float *rival_lower, int32_t *list);
    /* Columns that are not zero in all of `rows` rows go to where (room: d and a vector more);
     * their number is returned. most: the largest |x|, NaN or infinite if one is. */
    int64_t (*columns)(int rows, const float *const *x, int64_t d, int32_t *where, float *most);
    /* Products of those columns (where NULL: all) with a panel (d, width) of one or two vectors of
     * centres, summed in order from bias (width; NULL: 0): out (rows, ld). */
    void (*products)(int rows, const float *const *x, int64_t count, const int32_t *where,
                     const float *panel, int width, const float *bias, float *out, int64_t ld);
    /* Scores of rows and a panel of centres, the products of all q columns from `half`: out (rows,
     * 2 * lanes). Bit c of below[i]: that of centre c is below tops[i]; rest[i] is the lowest of
     * the others. Centre own[i] of the panel (negative: none) is none of either. */
    void (*screen)(int rows, const float *const *x, int64_t q, const float *panel, int width,
                   const float *half, const int32_t *own, const float *tops, float *out,
                   uint32_t *below, float *rest);
    /* Those of n for which bounds - drift is not above a limit, in order; returns their number.
     * bounds and drift can be read, and `list` written, a vector beyond n. */
    int (*within)(const float *bounds, const float *drift, int n, float limit, int32_t *list);
    /* Distances at least, from scores and |x|^2 within `error` of itself, plus `drift`: what
     * bounds of n points to one family become. */
    void (*family_bounds)(int n, const float *scores, const float *squares, float error,
                          float drift, float *out);
    /* The lowest of n bounds - drift, rounded down. */
    float (*lowest_bound)(const float *bounds, const float *drift, int n);
} fn_km_kernels;

#endif
