/* dispatch.c - which SIMD level runs: the best one the processor has, or the one that is asked for.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

extern const fn_level fn_level_base;
#ifdef __x86_64__
extern const fn_level fn_level_v3, fn_level_v4;
static const fn_level *const levels[] = {&fn_level_base, &fn_level_v3, &fn_level_v4};
#else
static const fn_level *const levels[] = {&fn_level_base};
#endif
enum { N_LEVELS = sizeof levels / sizeof *levels };

static _Atomic(const fn_level *) chosen;

static bool supported(const fn_level *level) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!strcmp(level->name, "v3"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
#ifndef FN_EMULATE_V4
    if (!strcmp(level->name, "v4"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512cd");
#else /* sixteen lanes in two halves: only ever by name */
    if (!strcmp(level->name, "v4"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#endif
    return level == &fn_level_base;
}

#ifdef FN_EMULATE_V4
static const bool emulate_v4 = true;
#else
static const bool emulate_v4 = false;
#endif

/* The i-th level this processor can run, lowest first; NULL past the end. */
const char *fn_simd_supported(int i) {
    for (int l = 0; l < N_LEVELS; l++)
        if (supported(levels[l]) && i-- == 0) return levels[l]->name;
    return NULL;
}

int fn_simd_choose(const char *name) {
    const fn_level *best = NULL;
    for (int l = 0; l < N_LEVELS; l++) {
        if (!supported(levels[l])) continue;
        if (name ? !strcmp(levels[l]->name, name) : !(emulate_v4 && levels[l]->lanes == 16))
            best = levels[l];
    }
    if (best) atomic_store(&chosen, best);
    return best != NULL;
}

const fn_level *fn_level_current(void) {
    if (!atomic_load(&chosen)) fn_simd_choose(NULL);
    return atomic_load(&chosen);
}

const char *fn_simd_level(void) { return fn_level_current()->name; }

double fn_fma_peak(double seconds) { return fn_level_current()->fma_peak(seconds); }

void fn_vmath(const char *function, int64_t n, const float *x, float *y) {
    fn_level_current()->vmath(function, n, x, y);
}

/* ---- names of the tables ---- */

#define FN_OP(name) #name,
static const char *const op_names[] = {
#include "ops.def"
    NULL};
#undef FN_OP
#define FN_ACTIVATION(name, ...) #name,
static const char *const activation_names[] = {
#include "activations.def"
    NULL};
#undef FN_ACTIVATION
#define FN_LOSS(name, ...) #name,
static const char *const loss_names[] = {
#include "losses.def"
    NULL};
#undef FN_LOSS
#define FN_OPTIMIZER(name, ...) #name,
static const char *const optimizer_names[] = {
#include "optimizers.def"
    NULL};
#undef FN_OPTIMIZER
#define FN_METRIC(name, ...) #name,
static const char *const metric_names[] = {
#include "metrics.def"
    NULL};
#undef FN_METRIC

static const struct {
    const char *table;
    const char *const *names;
} tables[] = {{"op", op_names},
              {"activation", activation_names},
              {"loss", loss_names},
              {"optimizer", optimizer_names},
              {"metric", metric_names}};

const char *fn_table_name(const char *table, int i) {
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        if (strcmp(tables[t].table, table)) continue;
        for (int j = 0; tables[t].names[j]; j++)
            if (j == i) return tables[t].names[j];
    }
    return NULL;
}

int fn_table_find(const char *table, const char *name) {
    const char *entry;
    for (int i = 0; (entry = fn_table_name(table, i)); i++)
        if (!strcmp(entry, name)) return i;
    return -1;
}

#define FN_OPTIMIZER(name, slots, ...) slots,
static const int optimizer_slots[] = {
#include "optimizers.def"
    0};
#undef FN_OPTIMIZER

int fn_optimizer_slots(const char *name) {
    const int i = fn_table_find("optimizer", name);
    return i < 0 ? -1 : optimizer_slots[i];
}
