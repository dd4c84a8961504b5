/* sink.c - where gradients of parameters go: through the optimizer at once, or to the flat buffer
 * first (global-norm clipping, gradients for the caller, parameters that several ops share).
 */
#include <string.h>

#include "internal.h"

/* Slice `index` of the flat parameters: where it lies and how long it is. */
static const fn_param *flat_slice(const fn_plan *plan, int index, size_t *at, int64_t *n) {
    for (int i = 0; i < plan->n_params; i++) {
        const fn_param *p = &plan->params[i];
        if (!p->trainable || !(plan->flat || p->users > 1)) continue;
        const int slices = (int)((p->size + FN_FLAT_SLICE - 1) / FN_FLAT_SLICE);
        if (index < slices) {
            const size_t from = (size_t)index * FN_FLAT_SLICE;
            *at = p->offset + from;
            *n = (int64_t)(p->size - from < FN_FLAT_SLICE ? p->size - from : FN_FLAT_SLICE);
            return p;
        }
        index -= slices;
    }
    return NULL;
}

static void apply_optimizer(const fn_call *call, const fn_param *p, size_t at, int64_t n,
                            const float *g) {
    fn_params *params = call->params;
    call->optimizer->apply(&call->hyper[p->decay != 0], n, g, params->block[0] + at,
                           params->block[1] ? params->block[1] + at : NULL,
                           params->block[2] ? params->block[2] + at : NULL);
}

/* The first op that uses a shared parameter writes its gradient, the others add theirs in turn. */
void fn_sink(const fn_call *call, const fn_op *op, int i, size_t at, int64_t n, const float *g) {
    const fn_param *p = &call->plan->params[op->params[i]];
    if (!p->trainable) return;
    if (!call->plan->flat && p->users == 1) {
        apply_optimizer(call, p, p->offset + at, n, g);
        return;
    }
    float *flat = call->params->block[3] + p->offset + at;
    if (op->adds >> i & 1)
        for (int64_t j = 0; j < n; j++) flat[j] += g[j];
    else
        memcpy(flat, g, (size_t)n * sizeof(float));
}

void fn_flat_pass(const fn_call *call, fn_pass_kind kind, int index) {
    size_t at = 0;
    int64_t n = 0;
    const fn_param *p = flat_slice(call->plan, index, &at, &n);
    const float *g = call->params->block[3] + at;
    if (kind == FN_FLAT_APPLY) {
        apply_optimizer(call, p, at, n, g);
        return;
    }
    double sum = 0;
    if (call->args->optimizer->global_clipnorm > 0)
        for (int64_t i = 0; i < n; i++) sum += (double)g[i] * g[i];
    call->work->norms[index] = sum;
}
