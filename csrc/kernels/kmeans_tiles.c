/* kmeans_tiles.c - wide rows against all centres where they lie: register tiles of rows and panels
 * of centres, zeros skipped. The same tiles as the dense op's forward.
 */
#include "kernels/dense_tiles.h"
#include "kmeans/kernels.h"

FN_INLINE vi larger(vi a, vi b) {
#if FN_LANES == 8
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const vi more = a > b;
    return (more & a) | (~more & b);
#endif
}

/* The largest |x| of each of LANES columns, as bits, which order as the numbers do; NaN is above
 * all. */
FN_INLINE vi largest_bits(int rows, const float *const *x, int64_t k) {
    vi most = v_bits(v_abs(v_load(x[0] + k)));
    for (int i = 1; i < rows; i++) most = larger(most, v_bits(v_abs(v_load(x[i] + k))));
    return most;
}

/* where has room for n + LANES. */
FN_INLINE int64_t used_columns(int rows, const float *const *x, int64_t n, int32_t *where,
                               float *most) {
    vi all = {0}, step = {0};
    int32_t top = 0;
    int64_t count = 0, k = 0;
    for (int j = 0; j < LANES; j++) step[j] = j;
    for (; k + LANES <= n; k += LANES) {
        const vi bits = largest_bits(rows, x, k);
        const unsigned mask = v_mask(bits != 0);
        all = larger(all, bits);
        if (!mask) continue;
        if (mask == (1u << LANES) - 1) {
            *(vi_loose *)(where + count) = step + (int32_t)k;
            count += LANES;
            continue;
        }
        for (int j = 0; j < LANES; j++) {
            where[count] = (int32_t)k + j;
            count += mask >> j & 1;
        }
    }
    for (int j = 0; j < LANES; j++) top = all[j] > top ? all[j] : top;
    for (; k < n; k++) {
        int32_t column = 0;
        for (int i = 0; i < rows; i++) {
            int32_t bits;
            memcpy(&bits, x[i] + k, sizeof bits);
            bits &= 0x7fffffff;
            column = bits > column ? bits : column;
        }
        where[count] = (int32_t)k;
        count += column != 0;
        top = column > top ? column : top;
    }
    memcpy(most, &top, sizeof top);
    return count;
}

int64_t FN_LEVELED(km_columns)(int rows, const float *const *x, int64_t d, int32_t *where,
                               float *most) {
    return rows == ROWS ? used_columns(ROWS, x, d, where, most)
                        : used_columns(rows, x, d, where, most);
}

void FN_LEVELED(km_products)(int rows, const float *const *x, int64_t count, const int32_t *where,
                             const float *panel, int width, const float *bias, float *out,
                             int64_t ld) {
    if (width > LANES)
        forward_rows(rows, 2, count, where, x, panel, bias, out, ld);
    else
        forward_rows(rows, 1, count, where, x, panel, bias, out, ld);
}

void FN_LEVELED(km_screen)(int rows, const float *const *x, int64_t q, const float *panel,
                           int width, const float *half, const int32_t *own, const float *tops,
                           float *out, uint32_t *below, float *rest) {
    const int vectors = width > LANES ? 2 : 1;
    FN_LEVELED(km_products)(rows, x, q, NULL, panel, width, half, out, PANEL);
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int i = 0; i < rows; i++) {
        const vf top = v_set(tops[i]);
        vf least = v_set(INFINITY);
        below[i] = 0;
        for (int v = 0; v < vectors; v++) {
            const vf s = v_load(out + i * PANEL + v * LANES);
            const vi there = lane + v * LANES == own[i];
            const vi mask = (s < top) & ~there;
            below[i] |= v_mask(mask) << (v * LANES);
            least = v_min(least, v_where(mask | there, v_set(INFINITY), s));
        }
        rest[i] = v_least(least);
    }
}
