/* probe.c - what tests and benchmarks ask of a SIMD level: its arithmetic peak, and the functions
 * of vmath.h. */
#include <time.h>

#include "kernels/level.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { CHAINS = 10, INNER = 4096 };

/* A block of independent multiply-adds that stay in registers. */
static __attribute__((noinline)) void multiply_add(vf *out, vf a, vf b) {
    vf sum[CHAINS];
    for (int i = 0; i < CHAINS; i++) sum[i] = out[i];
    for (int n = 0; n < INNER; n++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++) sum[i] = v_fma(sum[i], a, b);
    }
    for (int i = 0; i < CHAINS; i++) out[i] = sum[i];
}

/* GFLOP/s of independent multiply-adds in registers, the best block: no kernel can be faster. */
double FN_LEVELED(fma_peak)(double seconds) {
    vf sum[CHAINS];
    double best = 0;
    for (int i = 0; i < CHAINS; i++) sum[i] = v_set((float)i);
    for (const double start = now(); now() - start < seconds;) {
        const double t0 = now();
        multiply_add(sum, v_set(0.999f), v_set(0.001f));
        const double rate = 2.0 * CHAINS * LANES * INNER / (now() - t0) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

typedef vf function(vf x);

static const struct {
    const char *name;
    function *call;
} functions[] = {{"exp", v_exp}, {"tanh", v_tanh},   {"sigmoid", v_sigmoid},  {"erf", v_erf},
                 {"log", v_log}, {"log1p", v_log1p}, {"softplus", v_softplus}};

/* n is a multiple of 16. */
void FN_LEVELED(vmath)(const char *name, int64_t n, const float *x, float *y) {
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
        if (!strcmp(functions[f].name, name))
            for (int64_t i = 0; i < n; i += LANES) v_store(y + i, functions[f].call(v_load(x + i)));
}
