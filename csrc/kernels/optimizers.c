/* optimizers.c - optimizers.def expanded into loops over a slice of weights, once per SIMD level.
 */
#include "kernels/level.h"

typedef struct {
    vf rate, momentum, rho, epsilon, rest_1, rest_2, rest_rho;
} numbers;

FN_INLINE numbers broadcast(const fn_hyper *h) {
    return (numbers){v_set(h->rate),   v_set(h->momentum), v_set(h->rho),     v_set(h->epsilon),
                     v_set(h->rest_1), v_set(h->rest_2),   v_set(h->rest_rho)};
}

typedef void step_function(const numbers *m, vf g, vf *w, vf *a, vf *b);

/* Clipping, then L1 and L2 join the gradient; decoupled decay shrinks the weight. */
FN_INLINE vf regularise(const fn_hyper *h, vf g, vf *w) {
    g = v_min(v_max(g * h->scale, v_set(-h->clip)), v_set(h->clip));
    const vf zero = v_set(0);
    const vf sign = (vf)((*w > zero) & v_bits(v_set(1))) - (vf)((*w < zero) & v_bits(v_set(1)));
    g += h->l1 * sign + h->l2 * *w;
    *w -= h->decay * *w;
    return g;
}

FN_INLINE void step_vector(const fn_hyper *h, const numbers *m, step_function *step, int slots,
                           bool plain, vf g, float *w, float *s1, float *s2) {
    vf weight = v_load(w), a = v_set(0), b = v_set(0);
    if (slots > 0) a = v_load(s1);
    if (slots > 1) b = v_load(s2);
    if (!plain) g = regularise(h, g, &weight);
    step(m, g, &weight, &a, &b);
    v_store(w, weight);
    if (slots > 0) v_store(s1, a);
    if (slots > 1) v_store(s2, b);
}

FN_INLINE void apply_slice(const fn_hyper *h, step_function *step, int slots, bool plain, int64_t n,
                           const float *g, float *w, float *s1, float *s2) {
    const numbers m = broadcast(h);
    for (int64_t i = 0; i < n; i += LANES)
        step_vector(h, &m, step, slots, plain, v_load(g + i), w + i, slots > 0 ? s1 + i : NULL,
                    slots > 1 ? s2 + i : NULL);
}

/* The gradient of a batch of one row: x[k] * dz, never in memory, for `count` rows k: those at
 * where or (NULL) the first. + 0 makes a product of -0 the +0 that the sum over a batch gives. */
FN_INLINE void apply_rank1(const fn_hyper *h, step_function *step, int slots, bool plain,
                           int64_t count, const int32_t *where, int width, const float *x,
                           const float *dz, float *w, float *s1, float *s2) {
    const numbers m = broadcast(h);
    for (int64_t r = 0; r < count; r++) {
        const int64_t k = where ? where[r] : r;
        const vf s = v_set(x[k]);
        for (int j = 0; j < width; j += LANES) {
            const int64_t i = k * width + j;
            step_vector(h, &m, step, slots, plain, v_fma(s, v_load(dz + j), v_set(0)), w + i,
                        slots > 0 ? s1 + i : NULL, slots > 1 ? s2 + i : NULL);
        }
    }
}

/* So many steps without a gradient, for a row of `panels` panels `stride` apart. A slot that has
 * died away stays zero, and changes nothing more. */
FN_INLINE void coast_row(const numbers *m, step_function *coast, int panels, int vecs,
                         int64_t steps, int64_t stride, float *w, float *s1) {
    vf weight[FN_COASTED][2], slot[FN_COASTED][2], none;
    for (int p = 0; p < panels; p++)
        for (int v = 0; v < vecs; v++) {
            weight[p][v] = v_load(w + p * stride + v * LANES);
            slot[p][v] = v_load(s1 + p * stride + v * LANES);
        }
    while (steps > 0) {
        int64_t some = steps < 64 ? steps : 64;
        steps -= some;
        for (; some > 0; some--)
            for (int p = 0; p < panels; p++)
                for (int v = 0; v < vecs; v++)
                    coast(m, v_set(0), &weight[p][v], &slot[p][v], &none);
        vi alive = v_seti(0);
        for (int p = 0; p < panels; p++)
            for (int v = 0; v < vecs; v++) alive |= slot[p][v] != 0;
        if (!v_any(alive)) break;
    }
    for (int p = 0; p < panels; p++)
        for (int v = 0; v < vecs; v++) {
            v_store(w + p * stride + v * LANES, weight[p][v]);
            v_store(s1 + p * stride + v * LANES, slot[p][v]);
        }
}

FN_INLINE void coast_rows(const fn_hyper *h, step_function *coast, int panels, int vecs,
                          const fn_coasting *c) {
    const numbers m = broadcast(h);
    for (int64_t j = 0; j < c->count; j++) {
        const int64_t k = c->where ? c->where[j] : j, steps = c->step - c->last[k];
        c->last[k] = (int32_t)c->step;
        if (steps > 0)
            coast_row(&m, coast, panels, vecs, steps, c->stride, c->w + k * vecs * LANES,
                      c->s1 + k * vecs * LANES);
    }
}

FN_INLINE void coast_block(const fn_hyper *h, step_function *coast, const fn_coasting *c) {
    if (c->width == LANES)
        coast_rows(h, coast, 1, 1, c);
    else if (c->panels == 1)
        coast_rows(h, coast, 1, 2, c);
    else if (c->panels == 2)
        coast_rows(h, coast, 2, 2, c);
    else
        coast_rows(h, coast, FN_COASTED, 2, c);
}

#define FN_OPTIMIZER(name, slots, idle, coasts, coast, ...)                                     \
    FN_INLINE void name##_step(const numbers *m, vf g, vf *weight, vf *slot1, vf *slot2) {      \
        const vf rate = m->rate, momentum = m->momentum, rho = m->rho, epsilon = m->epsilon;    \
        const vf rest_1 = m->rest_1, rest_2 = m->rest_2, rest_rho = m->rest_rho;                \
        vf w = *weight, a = *slot1, b = *slot2;                                                 \
        __VA_ARGS__                                                                             \
        *weight = w, *slot1 = a, *slot2 = b;                                                    \
        (void)rate, (void)momentum, (void)rho, (void)epsilon, (void)rest_1, (void)rest_2,       \
            (void)rest_rho;                                                                     \
    }                                                                                           \
    static void name##_apply(const fn_hyper *h, int64_t n, const float *g, float *w, float *s1, \
                             float *s2) {                                                       \
        if (h->plain)                                                                           \
            apply_slice(h, name##_step, slots, true, n, g, w, s1, s2);                          \
        else                                                                                    \
            apply_slice(h, name##_step, slots, false, n, g, w, s1, s2);                         \
    }                                                                                           \
    static void name##_rank1(const fn_hyper *h, int64_t count, const int32_t *where, int width, \
                             const float *x, const float *dz, float *w, float *s1, float *s2) { \
        if (h->plain)                                                                           \
            apply_rank1(h, name##_step, slots, true, count, where, width, x, dz, w, s1, s2);    \
        else                                                                                    \
            apply_rank1(h, name##_step, slots, false, count, where, width, x, dz, w, s1, s2);   \
    }                                                                                           \
    FN_INLINE void name##_idle(const numbers *m, vf g, vf *weight, vf *slot1, vf *slot2) {      \
        const vf momentum = m->momentum;                                                        \
        vf w = *weight, a = *slot1;                                                             \
        coast *weight = w, *slot1 = a;                                                          \
        (void)momentum, (void)g, (void)slot2;                                                   \
    }                                                                                           \
    static void name##_coast(const fn_hyper *h, const fn_coasting *c) {                         \
        coast_block(h, name##_idle, c);                                                         \
    }
#include "optimizers.def"
#undef FN_OPTIMIZER

#define FN_OPTIMIZER(name, slots, idle, coasts, coast, ...) \
    {slots, name##_apply, name##_rank1, coasts ? name##_coast : NULL, idle},
const fn_optimizer_kernel FN_LEVELED(optimizers)[] = {
#include "optimizers.def"
};
#undef FN_OPTIMIZER
