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
                             const float *panel, int width, const float *bias, float *out,
                             int64_t ld);
void FN_LEVELED(km_screen)(int rows, const float *const *x, int64_t q, const float *panel,
                           int width, const float *half, const int32_t *own, const float *tops,
                           float *out, uint32_t *below, float *rest);
double FN_LEVELED(fma_peak)(double seconds);
void FN_LEVELED(vmath)(const char *function, int64_t n, const float *x, float *y);

/* Columns [c0, c1) of an elementwise tile over rows of `ld` floats: widened to whole vectors,
 * clipped to ld. */
FN_INLINE int tile_end(fn_tile tile, int64_t ld) {
    return tile.c1 > ld ? (int)ld : (tile.c1 + LANES - 1) / LANES * LANES;
}

/* The row that an op reads and the one it writes where gradients are treated as values are: x and
 * y, or dy and dx on the way back. */
FN_INLINE const float *source_row(const fn_call *call, const fn_op *op, fn_tile tile, bool back,
                                  int row) {
    return back ? fn_gradient_row(call, tile, op->out[0], row) : fn_row(call, tile, op->in[0], row);
}
FN_INLINE float *target_row(const fn_call *call, const fn_op *op, fn_tile tile, bool back,
                            int row) {
    return back ? fn_gradient_row(call, tile, op->in[0], row) : fn_row(call, tile, op->out[0], row);
}

/* Columns [c0, end) as they are; nothing to do where an op works in its input's memory. */
FN_INLINE void copy_columns(int64_t c0, int64_t end, const float *from, float *to) {
    if (from != to) memcpy(to + c0, from + c0, (size_t)(end - c0) * sizeof *to);
}

FN_INLINE void clear(int64_t n, float *x) { memset(x, 0, (size_t)n * sizeof *x); }

/* NULL, or what is wrong with an op that makes a row of a row of the same size. */
static inline const char *check_same_size(const fn_plan *plan, const fn_op *op) {
    if (!fn_is_f32(plan, op->in[0]) || !fn_is_f32(plan, op->out[0]))
        return "float32 rows are wanted";
    if (plan->buffers[op->in[0]].cols != plan->buffers[op->out[0]].cols)
        return "input and output differ";
    return NULL;
}

#endif
