/* draw.h - random numbers of a row: keyed by seed, step and op, counted by row and place, so that
 * backward draws them again and no thread or tile changes them.
 */
#ifndef FN_DRAW_H
#define FN_DRAW_H

#include "kernels/level.h"
#include "kernels/philox.h"

enum { DRAW_BLOCK = 64 }; /* words drawn at once: 16 counters */

/* The stream of an op in this step. */
FN_INLINE uint64_t draw_stream(const fn_call *call, const fn_op *op) {
    const uint64_t step = (uint64_t)(call->args->step + call->step);
    return step << 16 | (uint64_t)(op - call->plan->ops);
}

/* Four random words of a row: counter `at`. */
FN_INLINE fn_philox4 draw_four(const fn_call *call, const fn_op *op, int row, uint32_t at) {
    return fn_philox(call->args->seed, draw_stream(call, op), (uint64_t)row << 32 | at);
}

/* Random words of columns [c, c + DRAW_BLOCK) of a row; c is a multiple of DRAW_BLOCK. The counters
 * are independent: the compiler runs them side by side. */
FN_INLINE void draw_block(const fn_call *call, const fn_op *op, int row, int64_t c,
                          uint32_t *words) {
    uint32_t w[4][DRAW_BLOCK / 4];
    for (int i = 0; i < DRAW_BLOCK / 4; i++) {
        const fn_philox4 p = draw_four(call, op, row, (uint32_t)(c / 4 + i));
        for (int j = 0; j < 4; j++) w[j][i] = p.v[j];
    }
    memcpy(words, w, sizeof w);
}

/* The words below this are a share `rate` of all. */
FN_INLINE uint32_t draw_limit(double rate) { return (uint32_t)(rate * 4294967295.0); }

/* Four uniform numbers in (0, 1) of a row, ((word + 1/2) / 2^32): the nth four, counted from the
 * counters' other end. */
FN_INLINE void draw_uniform(const fn_call *call, const fn_op *op, int row, uint32_t nth,
                            double u[4]) {
    const fn_philox4 p = draw_four(call, op, row, UINT32_MAX - nth);
    for (int i = 0; i < 4; i++) u[i] = (p.v[i] + 0.5) * 0x1p-32;
}

FN_INLINE double draw_between(double u, double low, double high) { return low + u * (high - low); }

/* Standard normal numbers from random words: |z| = sqrt 2 erfinv(1 - t) for the word's upper 31
 * bits as t in (0, 1), its lowest bit the sign. Polynomials in w = -log(t (2 - t)) and sqrt w: M.
 * Giles, Approximating the erfinv function (2012), relative error below 5e-7. */
FN_INLINE vf v_normal(vu word) {
    vf t = __builtin_convertvector((vi)(word >> 1), vf) * 0x1p-31f + 0x1p-32f;
    vf w = v_max(-v_log(t * (2.0f - t)), v_set(0.0f)), a = w - 2.5f, b = v_sqrt(w) - 3.0f;
    vf p = v_fma(v_set(2.81022636e-08f), a, v_set(3.43273939e-07f));
    p = v_fma(p, a, v_set(-3.5233877e-06f));
    p = v_fma(p, a, v_set(-4.39150654e-06f));
    p = v_fma(p, a, v_set(0.00021858087f));
    p = v_fma(p, a, v_set(-0.00125372503f));
    p = v_fma(p, a, v_set(-0.00417768164f));
    p = v_fma(p, a, v_set(0.246640727f));
    p = v_fma(p, a, v_set(1.50140941f));
    vf q = v_fma(v_set(-0.000200214257f), b, v_set(0.000100950558f));
    q = v_fma(q, b, v_set(0.00134934322f));
    q = v_fma(q, b, v_set(-0.00367342844f));
    q = v_fma(q, b, v_set(0.00573950773f));
    q = v_fma(q, b, v_set(-0.0076224613f));
    q = v_fma(q, b, v_set(0.00943887047f));
    q = v_fma(q, b, v_set(1.00167406f));
    q = v_fma(q, b, v_set(2.83297682f));
    vf x = 1.0f - t;
    vf z = v_where(w < 5.0f, p, q) * x * 1.41421356f;
    return (vf)((vi)z ^ ((vi)word << 31));
}

/* Normal numbers of columns [c, c + DRAW_BLOCK) of a row; c is a multiple of DRAW_BLOCK. */
FN_INLINE void draw_normals(const fn_call *call, const fn_op *op, int row, int64_t c, float *z) {
    uint32_t words[DRAW_BLOCK];
    draw_block(call, op, row, c, words);
    for (int i = 0; i < DRAW_BLOCK; i += LANES) {
        vu word;
        memcpy(&word, words + i, sizeof word);
        v_store(z + i, v_normal(word));
    }
}

#endif
