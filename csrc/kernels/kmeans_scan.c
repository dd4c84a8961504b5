/* kmeans_scan.c - blocks of points against all centres: a tile of 2 vectors of points and 6 centres
 * in registers, and only the minima leave it: the (n, k) distances are never in memory.
 */
#include "kernels/level.h"
#include "kmeans/kernels.h"

enum { VECTORS = 2, BLOCK = VECTORS * LANES, GROUP = FN_KM_GROUP };

FN_INLINE vf choose(vi mask, vf a, vf b) {
#if FN_LANES == 8
    return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
#else
    return v_where(mask, a, b);
#endif
}

/* Scores of GROUP centres for a block: half[c] + sum over q of coords[c][q] * block[q]. */
FN_INLINE void score(const fn_km_scan *scan, int64_t center, const float *block,
                     vf s[GROUP][VECTORS]) {
    const int q = scan->q;
    const float *coords = scan->packed + center * q;
    for (int c = 0; c < GROUP; c++)
        for (int v = 0; v < VECTORS; v++) s[c][v] = v_set(scan->half[center + c]);
    for (int l = 0; l < q; l++, coords += GROUP, block += BLOCK) {
        vf point[VECTORS];
        for (int v = 0; v < VECTORS; v++) point[v] = v_load(block + v * LANES);
        for (int c = 0; c < GROUP; c++) {
            const vf x = v_set(coords[c]);
            for (int v = 0; v < VECTORS; v++) s[c][v] = v_fma(x, point[v], s[c][v]);
        }
    }
}

static void nearest(const fn_km_scan *scan, const float *block, float *best, float *second,
                    int32_t *index) {
    vf least[VECTORS], next[VECTORS];
    vi at[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        least[v] = next[v] = v_set(INFINITY);
        at[v] = v_seti(0);
    }
    for (int64_t j = 0; j < scan->k_padded; j += GROUP) {
        vf s[GROUP][VECTORS];
        score(scan, j, block, s);
        for (int c = 0; c < GROUP; c++)
            for (int v = 0; v < VECTORS; v++) {
                const vi lower = s[c][v] < least[v];
                next[v] = v_min(next[v], v_max(least[v], s[c][v]));
                at[v] = v_bits(choose(lower, v_float(v_seti((int32_t)j + c)), v_float(at[v])));
                least[v] = v_min(least[v], s[c][v]);
            }
    }
    for (int v = 0; v < VECTORS; v++) {
        v_store(best + v * LANES, least[v]);
        v_store(second + v * LANES, next[v]);
        *(vi_loose *)(index + v * LANES) = at[v];
    }
}

static int32_t least(const float *scores, int64_t k) {
    vf lowest = v_load(scores);
    for (int64_t j = LANES; j < k; j += LANES) lowest = v_min(lowest, v_load(scores + j));
    float one = lowest[0];
    for (int i = 1; i < LANES; i++) one = lowest[i] < one ? lowest[i] : one;
    for (int64_t j = 0; j < k; j++)
        if (scores[j] == one) return (int32_t)j;
    return 0;
}

static int pick(const float *scores, int64_t k, float limit, fn_km_candidate *found, int most,
                float *rest) {
    const vf bound = v_set(limit);
    vf lowest = v_set(INFINITY);
    int n = 0;
    for (int64_t j = 0; j < k; j += LANES) {
        const vf s = v_load(scores + j);
        const vi mask = s < bound;
        if (!v_any(mask)) {
            lowest = v_min(lowest, s);
            continue;
        }
        lowest = v_min(lowest, choose(mask, v_set(INFINITY), s));
        if (n + LANES > most) return -1;
        for (unsigned bits = v_mask(mask); bits; bits &= bits - 1) {
            const int i = __builtin_ctz(bits);
            found[n++] = (fn_km_candidate){(int32_t)j + i, scores[j + i]};
        }
    }
    float one = lowest[0];
    for (int i = 1; i < LANES; i++) one = lowest[i] < one ? lowest[i] : one;
    *rest = one;
    return n;
}

/* `vectors` of centres; entries in turn to two sums, which need not wait for each other. */
FN_INLINE void entry_products(int vectors, const float *values, const int32_t *where, int64_t count,
                              const float *centers, int64_t ld, float *out) {
    vf sum[2][4] = {{{0}}};
    int64_t i = 0;
    for (; i + 2 <= count; i += 2)
        for (int u = 0; u < 2; u++) {
            const float *from = centers + where[i + u] * ld;
            const vf x = v_set(values[i + u]);
            for (int v = 0; v < vectors; v++)
                sum[u][v] = v_fma(x, v_load(from + v * LANES), sum[u][v]);
        }
    if (i < count) {
        const float *from = centers + where[i] * ld;
        const vf x = v_set(values[i]);
        for (int v = 0; v < vectors; v++) sum[0][v] = v_fma(x, v_load(from + v * LANES), sum[0][v]);
    }
    for (int v = 0; v < vectors; v++) v_store(out + v * LANES, sum[0][v] + sum[1][v]);
}

static void entries(const float *values, const int32_t *where, int64_t count, const float *centers,
                    int64_t ld, float *out) {
    int64_t c = 0;
    for (; c + 4 * LANES <= ld; c += 4 * LANES)
        entry_products(4, values, where, count, centers + c, ld, out + c);
    for (; c + 2 * LANES <= ld; c += 2 * LANES)
        entry_products(2, values, where, count, centers + c, ld, out + c);
    if (c < ld) entry_products(1, values, where, count, centers + c, ld, out + c);
}

static float dot(const float *x, const float *y, int64_t d) {
    vf sum[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES)
        for (int u = 0; u < 4; u++)
            sum[u] = v_fma(v_load(x + i + u * LANES), v_load(y + i + u * LANES), sum[u]);
    for (; i + LANES <= d; i += LANES) sum[0] = v_fma(v_load(x + i), v_load(y + i), sum[0]);
    float total = v_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; i < d; i++) total += x[i] * y[i];
    return total;
}

static float gap(const float *x, const float *y, int64_t d) {
    vf sum[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES)
        for (int u = 0; u < 4; u++) {
            const vf away = v_load(x + i + u * LANES) - v_load(y + i + u * LANES);
            sum[u] = v_fma(away, away, sum[u]);
        }
    for (; i + LANES <= d; i += LANES) {
        const vf away = v_load(x + i) - v_load(y + i);
        sum[0] = v_fma(away, away, sum[0]);
    }
    float total = v_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; i < d; i++) total += (x[i] - y[i]) * (x[i] - y[i]);
    return total;
}

static void squares(const float *block, int d, float error_root, float *out, float *error) {
    for (int v = 0; v < VECTORS; v++) {
        vf sum = {0};
        for (int l = 0; l < d; l++) {
            const vf x = v_load(block + l * BLOCK + v * LANES);
            sum = v_fma(x, x, sum);
        }
        v_store(out + v * LANES, sum);
        v_store(error + v * LANES, v_sqrt(sum) * (error_root * (1 + (float)(d + 8) * 0x1p-23f)));
    }
}

static void lowest(const float *products, const float *half, const float *errors, float length,
                   int64_t k, float *best, float *second, int32_t *index) {
    vf least = v_set(INFINITY), next = least;
    vi at = v_seti(0), lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    int64_t j = 0;
    for (; j + LANES <= k; j += LANES) {
        vf s = v_load(half + j) - v_load(products + j);
        s = v_fma(v_set(-length), v_load(errors + j), s);
        const vi lower = s < least;
        next = v_min(next, v_max(least, s));
        at = v_bits(choose(lower, v_float(v_seti((int32_t)j) + lane), v_float(at)));
        least = v_min(least, s);
    }
    float one = least[0], two = INFINITY;
    int32_t where = INT32_MAX;
    for (int i = 1; i < LANES; i++) one = least[i] < one ? least[i] : one;
    const vi equal = least == one;
    at = (equal & at) | (~equal & INT32_MAX);
    for (int i = 0; i < LANES; i++) where = at[i] < where ? at[i] : where;
    const vf others = v_where(at == where, next, least);
    for (int i = 0; i < LANES; i++) two = others[i] < two ? others[i] : two;
    for (; j < k; j++) {
        const float s = half[j] - products[j] - length * errors[j];
        if (s < one) {
            two = one, one = s, where = (int32_t)j;
        } else if (s < two) {
            two = s;
        }
    }
    *best = one, *second = two, *index = where;
}

/* float64 in one register: half as many lanes. */
enum { WIDE = LANES / 2 };
typedef double vd __attribute__((vector_size(8 * WIDE)));
typedef double vd_loose __attribute__((vector_size(8 * WIDE), aligned(8), may_alias));

static void add(const double *x, bool minus, int64_t n, double *sum, double *low) {
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        const vd before = *(vd_loose *)(sum + i), there = *(const vd_loose *)(x + i);
        const vd part = minus ? -there : there, after = before + part, got = after - before;
        *(vd_loose *)(low + i) += (before - (after - got)) + (part - got);
        *(vd_loose *)(sum + i) = after;
    }
    for (; i < n; i++) {
        const double before = sum[i], part = minus ? -x[i] : x[i], after = before + part;
        const double got = after - before;
        low[i] += (before - (after - got)) + (part - got);
        sum[i] = after;
    }
}

typedef float vh_loose __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

/* WIDE columns of a dense row, as float64. */
FN_INLINE vd columns(const void *row, bool wide, int64_t j) {
    if (wide) return *(const vd_loose *)((const double *)row + j);
#if FN_LANES == 8
    return (vd)_mm256_cvtps_pd(_mm_loadu_ps((const float *)row + j));
#else
    return __builtin_convertvector(*(const vh_loose *)((const float *)row + j), vd);
#endif
}

FN_INLINE double column(const void *row, bool wide, int64_t j) {
    return wide ? ((const double *)row)[j] : (double)((const float *)row)[j];
}

FN_INLINE double survey_row(const void *row, bool wide, const double *shift, double weight,
                            int64_t d, double *sum) {
    vd squares = {0}, more = {0};
    const vd w = weight - (vd){0};
    int64_t j = 0;
    for (; j + 2 * WIDE <= d; j += 2 * WIDE) {
        const vd x = columns(row, wide, j) - *(const vd_loose *)(shift + j);
        const vd y = columns(row, wide, j + WIDE) - *(const vd_loose *)(shift + j + WIDE);
        *(vd_loose *)(sum + j) += w * x;
        *(vd_loose *)(sum + j + WIDE) += w * y;
        squares += x * x;
        more += y * y;
    }
    squares += more;
    double total = 0;
    for (int i = 0; i < WIDE; i++) total += squares[i];
    for (; j < d; j++) {
        const double x = column(row, wide, j) - shift[j];
        sum[j] += weight * x;
        total += x * x;
    }
    return total;
}

static double survey(const void *row, bool wide, const double *shift, double weight, int64_t d,
                     double *sum) {
    return wide ? survey_row(row, true, shift, weight, d, sum)
                : survey_row(row, false, shift, weight, d, sum);
}

FN_INLINE double distance_row(const void *row, bool wide, const double *center, int64_t d) {
    vd sum = {0}, more = {0};
    int64_t j = 0;
    for (; j + 2 * WIDE <= d; j += 2 * WIDE) {
        const vd x = columns(row, wide, j) - *(const vd_loose *)(center + j);
        const vd y = columns(row, wide, j + WIDE) - *(const vd_loose *)(center + j + WIDE);
        sum += x * x;
        more += y * y;
    }
    sum += more;
    double total = 0;
    for (int i = 0; i < WIDE; i++) total += sum[i];
    for (; j < d; j++) {
        const double x = column(row, wide, j) - center[j];
        total += x * x;
    }
    return total;
}

static double distance(const void *row, bool wide, const double *center, int64_t d) {
    return wide ? distance_row(row, true, center, d) : distance_row(row, false, center, d);
}

static bool distances(float *products, const float *half, float squares, int64_t k, bool cosine) {
    bool good = true;
    for (int64_t j = 0; j < k; j++) {
        const float both = squares + 2 * half[j], squared = both - 2 * products[j];
        const bool fine = squared > 0.25f * both;
        good &= fine;
        products[j] = fine ? (cosine ? 0.5f * squared : __builtin_sqrtf(squared)) : -1.0f;
    }
    return good;
}

FN_INLINE void move_row(const void *row, bool wide, const double *origin, bool weighted,
                        double weight, int64_t n, double *to, double *from) {
    const vd w = weight - (vd){0};
    int64_t j = 0;
    for (; j + WIDE <= n; j += WIDE) {
        vd x = columns(row, wide, j);
        if (origin) x -= *(const vd_loose *)(origin + j);
        if (weighted) x *= w;
        *(vd_loose *)(to + j) += x;
        if (from) *(vd_loose *)(from + j) -= x;
    }
    for (; j < n; j++) {
        const double x = weight * (column(row, wide, j) - (origin ? origin[j] : 0));
        to[j] += x;
        if (from) from[j] -= x;
    }
}

static void move(const void *row, bool wide, const double *origin, double weight, int64_t n,
                 double *to, double *from) {
    if (!wide && !origin && weight == 1)
        move_row(row, false, NULL, false, 1, n, to, from);
    else if (wide)
        move_row(row, true, origin, true, weight, n, to, from);
    else
        move_row(row, false, origin, true, weight, n, to, from);
}

/* Outward by a few roundings: bounds stay bounds. */
static const float grow = 1.0f + 0x1p-21f;

/* A lower bound that came down by `drift`; infinity, where there is no such centre, stays. */
FN_INLINE float lowered(float bound, float drift) {
    if (!(bound < INFINITY)) return bound;
    return (bound - drift) - (fabsf(bound) + drift) * (grow - 1);
}

static int filter(const int32_t *labels, const float *up, const float *down, const float *apart,
                  int count, float *upper, float *lower, int32_t *list) {
    int n = 0;
    for (int i = 0; i < count; i++) {
        const int32_t label = labels[i];
        const float ub = (upper[i] + up[label]) * grow, lb = lowered(lower[i], down[label]);
        upper[i] = ub;
        lower[i] = lb;
        list[n] = i;
        n += !(ub < lb) & !(ub < apart[label]);
    }
    return n;
}

static int filter_rivals(const int32_t *labels, const int32_t *rivals, const float *up,
                         const float *down, int count, float *upper, float *lower,
                         float *rival_lower, int32_t *list) {
    int n = 0;
    for (int i = 0; i < count; i++) {
        const int32_t label = labels[i];
        const float ub = (upper[i] + up[label]) * grow, lb = lowered(lower[i], down[label]);
        const float rival = lowered(rival_lower[i], up[rivals[i]]);
        upper[i] = ub;
        lower[i] = lb;
        rival_lower[i] = rival;
        list[n] = i;
        n += !(ub < lb) | !(ub < rival);
    }
    return n;
}

static int within(const float *bounds, const float *drift, int n, float limit, int32_t *list) {
    const vf most = v_set(limit * grow);
    int found = 0;
    for (int f = 0; f < n; f += LANES) {
        unsigned mask = v_mask(~(v_load(bounds + f) - v_load(drift + f) > most));
        if (n - f < LANES) mask &= (1u << (n - f)) - 1;
        for (; mask; mask &= mask - 1) list[found++] = f + __builtin_ctz(mask);
    }
    return found;
}

static void family_bounds(int n, const float *scores, const float *squares, float error,
                          float drift, float *out) {
    const vf none = v_set(INFINITY), zero = {0};
    for (int i = 0; i < n; i += LANES) {
        const vf s = v_load(scores + i), x = v_load(squares + i);
        const vf least = (s + s + x) - (v_abs(s) + x) * error;
        const vf root = v_sqrt(v_max(v_where(s < none, least, zero), zero));
        const vf bound = (root * (2 - grow * grow) + drift) * (2 - grow);
        v_store(out + i, v_where(s < none, bound, none));
    }
}

static float lowest_bound(const float *bounds, const float *drift, int n) {
    vf least = v_set(INFINITY);
    int f = 0;
    for (; f + LANES <= n; f += LANES) least = v_min(v_load(bounds + f) - v_load(drift + f), least);
    float one = v_least(least);
    for (; f < n; f++) one = bounds[f] - drift[f] < one ? bounds[f] - drift[f] : one;
    return one < INFINITY ? one - fabsf(one) * (grow - 1) : one;
}

static void transpose(const float *rows, int64_t ld, const int32_t *list, int count, int q,
                      float *out) {
    for (int i = 0; i < BLOCK; i += 4) {
        const float *row[4];
        for (int r = 0; r < 4; r++) {
            const int at = i + r < count ? i + r : 0;
            row[r] = rows + (list ? list[at] : at) * ld;
        }
        int l = 0;
        for (; l + 4 <= q; l += 4) {
            const vq a = *(const vq_loose *)(row[0] + l), b = *(const vq_loose *)(row[1] + l);
            const vq c = *(const vq_loose *)(row[2] + l), e = *(const vq_loose *)(row[3] + l);
            const vq ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            const vq ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const vq ce = __builtin_shufflevector(c, e, 0, 4, 1, 5);
            const vq ce2 = __builtin_shufflevector(c, e, 2, 6, 3, 7);
            *(vq_loose *)(out + l * BLOCK + i) = __builtin_shufflevector(ab, ce, 0, 1, 4, 5);
            *(vq_loose *)(out + (l + 1) * BLOCK + i) = __builtin_shufflevector(ab, ce, 2, 3, 6, 7);
            *(vq_loose *)(out + (l + 2) * BLOCK + i) =
                __builtin_shufflevector(ab2, ce2, 0, 1, 4, 5);
            *(vq_loose *)(out + (l + 3) * BLOCK + i) =
                __builtin_shufflevector(ab2, ce2, 2, 3, 6, 7);
        }
        for (; l < q; l++)
            for (int r = 0; r < 4; r++) out[l * BLOCK + i + r] = row[r][l];
    }
}

/* Dense rows as float32, less the shift. */
static void load(const fn_km_data *data, const float *shift, int64_t first, const int32_t *list,
                 int count, float *out, int64_t ld) {
    const int64_t d = data->d;
    for (int i = 0; i < count; i++) {
        const int64_t row = first + (list ? list[i] : i);
        const char *start = fn_km_row_start(data, row);
        float *to = out + i * ld;
        if (data->dtype == FN_F64)
            for (int64_t j = 0; j < d; j++)
                to[j] = (float)(((const double *)start)[j] - (double)shift[j]);
        else
            for (int64_t j = 0; j < d; j++) to[j] = ((const float *)start)[j] - shift[j];
    }
}

const fn_km_kernels FN_LEVELED(kmeans) = {
    .block = BLOCK,
    .lanes = LANES,
    .group = ROWS,
    .columns = FN_LEVELED(km_columns),
    .products = FN_LEVELED(km_products),
    .screen = FN_LEVELED(km_screen),
    .within = within,
    .family_bounds = family_bounds,
    .lowest_bound = lowest_bound,
    .load = load,
    .transpose = transpose,
    .entries = entries,
    .nearest = nearest,
    .least = least,
    .pick = pick,
    .dot = dot,
    .gap = gap,
    .distance = distance,
    .distances = distances,
    .filter = filter,
    .filter_rivals = filter_rivals,
    .squares = squares,
    .lowest = lowest,
    .add = add,
    .survey = survey,
    .move = move,
};
