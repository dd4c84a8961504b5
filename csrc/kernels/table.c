/* table.c - one SIMD level: its op table, compiled once per level from ops.def. */
#include "kernels/level.h"

#define FN_OP(name) extern const fn_op_impl FN_LEVELED(name);
#include "ops.def"
#undef FN_OP

#define FN_OP(name) &FN_LEVELED(name),
static const fn_op_impl *const ops[] = {
#include "ops.def"
};
#undef FN_OP

/* One core, roughly: only the cost model of parallel.c reads it. */
static const double gflops = FN_LANES == 16 ? 90 : FN_LANES == 8 ? 75 : 20;

const fn_level FN_JOIN(fn_level, FN_LEVEL) = {
    .name = FN_TEXT(FN_LEVEL),
    .lanes = LANES,
    .row_tile = ROWS,
    .gflops = gflops,
    .ops = ops,
    .optimizers = FN_LEVELED(optimizers),
    .vmath = FN_LEVELED(vmath),
    .fma_peak = FN_LEVELED(fma_peak),
    .kmeans = &FN_LEVELED(kmeans),
};
