/* sharing.c - buffers that are one memory under several names, and where parameters lie.
 */
#include "internal.h"

/* An elementwise op works in its input's memory when nobody else reads that and no backward pass
 * needs it. */
void fn_plan_share_memory(fn_plan *plan) {
    for (int i = 0; i < plan->n_buffers; i++)
        plan->buffers[i].alias = plan->buffers[i].gradient_alias = i;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        if (!op->n_out || !op->n_in) continue;
        fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
        if (op->flags & FN_PASSES_GRADIENT && in->gradient)
            out->gradient_alias = in->gradient_alias;
        for (int j = 0; op->flags & FN_SHARES_INPUT && j < op->n_out; j++)
            plan->buffers[op->out[j]].alias = in->alias;
        if (!(op->flags & FN_ELEMENTWISE)) continue;
        const unsigned before = plan->ops[in->producer].flags;
        const bool kept = plan->options.mode == FN_TRAIN &&
                          ((op->flags & FN_NEEDS_INPUT) || (before & FN_NEEDS_OUTPUT));
        if (in->consumers != 1 || kept || before & (FN_SOURCE | FN_SHARES_INPUT) ||
            in->dtype != out->dtype)
            continue;
        out->alias = in->alias;
        if (in->gradient) out->gradient_alias = in->gradient_alias;
    }
}

/* Offsets of parameters in their block, each padded to whole vectors of the widest level. */
void fn_plan_lay_out_params(fn_plan *plan) {
    plan->param_size = 0;
    for (int i = 0; i < plan->n_params; i++) {
        fn_param *p = &plan->params[i];
        const size_t size = fn_param_size(p, plan->level->lanes);
        p->size = (size + 2 * FN_PAD - 1) / (2 * FN_PAD) * (2 * FN_PAD);
        p->offset = plan->param_size;
        plan->param_size += p->size;
    }
    plan->max_slices = plan->param_size / FN_FLAT_SLICE + (size_t)plan->n_params + 1;
}
