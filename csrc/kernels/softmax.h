/* softmax.h - softmax of one row, shared by the softmax op and the cross-entropy loss. */
#ifndef FN_SOFTMAX_H
#define FN_SOFTMAX_H

#include "kernels/level.h"

/* y = exp(x - max x) / sum over n values; returns log(sum) + max, so that log softmax = x - result.
 * Lanes past n are written as zero up to the next whole vector. NaN anywhere makes everything NaN.
 */
FN_INLINE float softmax_row(int64_t n, const float *x, float *y) {
    float most = x[0];
    for (int64_t i = 1; i < n; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most;
    vf sums = v_set(0);
    for (int64_t i = 0; i < n; i += LANES) {
        vf e = v_exp(v_load(x + i) - most);
        for (int64_t j = n - i; j < LANES; j++) e[j] = 0;
        v_store(y + i, e);
        sums += e;
    }
    const float sum = v_sum(sums), inverse = 1 / sum;
    for (int64_t i = 0; i < n; i += LANES) v_store(y + i, v_load(y + i) * inverse);
    return v_log(v_set(sum))[0] + most;
}

#endif
