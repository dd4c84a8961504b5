/* bad_input.h - finding NaN and infinity in what a source gave, where its rows are first read. */
#ifndef FN_BAD_INPUT_H
#define FN_BAD_INPUT_H

#include "kernels/level.h"

/* The first column of a row that is NaN or infinite, or -1. */
FN_INLINE int64_t first_bad(int64_t n, const float *x) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        if (v_any(v_nonfinite(v_load(x + i)))) break;
    for (; i < n; i++)
        if (x[i] - x[i] != 0) return i;
    return -1;
}

/* Look for a bad value in a row; place: its place in the order. The one that comes first in the
 * order is kept, whichever thread saw one first, and ends the run before any weight changes. */
FN_INLINE void report_bad_input(const fn_call *call, const fn_op *input, int64_t place, int64_t n,
                                const float *x) {
    const int64_t column = first_bad(n, x);
    if (column < 0) return;
    fn_call *shared = (fn_call *)call;
    long long found = (place - call->args->first) << 32 | column,
              before = atomic_load(&shared->bad);
    while ((before < 0 || found < before) &&
           !atomic_compare_exchange_weak(&shared->bad, &before, found))
        continue;
    if (atomic_load(&shared->bad) == found) atomic_store(&shared->bad_source, (int)input->attr[0]);
}

#endif
