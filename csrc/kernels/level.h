/* level.h - what files compiled once per SIMD level share: names, vectors, the optimizer kernels.
 */
#ifndef FN_LEVEL_H
#define FN_LEVEL_H

#include "internal.h"
#include "kernels/vec.h"
#include "kernels/vmath.h"

#define FN_JOIN2(a, b) a##_##b
#define FN_JOIN(a, b) FN_JOIN2(a, b)
#define FN_LEVELED(name) FN_JOIN(fn_##name, FN_LEVEL)
#define FN_TEXT2(a) #a
#define FN_TEXT(a) FN_TEXT2(a)

enum { LANES = FN_LANES, PANEL = 2 * FN_LANES };

/* Rows of the register tile: ROWS x 2 accumulators, 2 weight vectors and a broadcast fill the
 * registers. */
#if FN_LANES == 16
enum { ROWS = 8 };
#else
enum { ROWS = 6 };
#endif

extern const fn_optimizer_kernel FN_LEVELED(optimizers)[];
extern const struct fn_km_kernels FN_LEVELED(kmeans);
int64_t FN_LEVELED(km_columns)(int rows, const float *const *x, int64_t d, int32_t *where,
                               float *most);
void FN_LEVELED(km_products)(int rows, const float *const *x, int64_t count, const int32_t *where,
                             const float *panel, int width, float *out, int64_t ld);
double FN_LEVELED(fma_peak)(double seconds);
void FN_LEVELED(vmath)(const char *function, int64_t n, const float *x, float *y);

/* Columns [c0, c1) of an elementwise tile over rows of `ld` floats: widened to whole vectors,
 * clipped to ld. */
FN_INLINE int tile_end(fn_tile tile, int64_t ld) {
    return tile.c1 > ld ? (int)ld : (tile.c1 + LANES - 1) / LANES * LANES;
}

#endif
