/* arena.c - where parameters and buffers lie: offsets in the block of parameters and in the arena.
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

/* Offsets of buffers in the arena. A row-major weight copy for sgemm lies behind them. */
int fn_plan_lay_out_arena(fn_plan *plan) {
    size_t at = 0;
    const size_t rows = (size_t)plan->options.max_rows;
    for (int i = 0; i < plan->n_buffers; i++) {
        fn_buffer *b = &plan->buffers[i];
        const size_t bytes = (rows * b->row_bytes + 63) / 64 * 64;
        if (bytes > PTRDIFF_MAX / 8 || at > PTRDIFF_MAX / 8)
            return fn_plan_fail(plan, "%zu rows are too many", rows);
        b->copy_bytes = bytes;
        bool gradient = false;
        for (int j = i; j < plan->n_buffers; j++)
            gradient |= plan->buffers[j].gradient_alias == i && plan->buffers[j].gradient;
        if (gradient) {
            b->gradient_offset = at;
            at += bytes;
        }
        if (b->alias != i) continue;
        b->offset = at;
        at += bytes * (size_t)b->copies;
    }
    for (int i = 0; i < plan->n_buffers; i++) { /* buffers that use another's memory */
        fn_buffer *b = &plan->buffers[i];
        b->offset = plan->buffers[b->alias].offset;
        b->copies = plan->buffers[b->alias].copies;
        b->gradient_offset = plan->buffers[b->gradient_alias].gradient_offset;
    }
    plan->lane_memory = at;
    at += (size_t)plan->lanes * plan->lane_stride * sizeof(float);
    plan->state = plan->scratch = plan->local = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        plan->ops[i].copy_offset = at;
        at += (plan->ops[i].copy_bytes + 63) / 64 * 64;
        plan->ops[i].state_offset = plan->state;
        plan->state += plan->ops[i].state;
        if (plan->ops[i].scratch > plan->scratch) plan->scratch = plan->ops[i].scratch;
        plan->ops[i].local_offset = plan->local;
        plan->local += (plan->ops[i].local + 63) / 64 * 64;
    }
    plan->scratch = (plan->scratch + 63) / 64 * 64;
    plan->arena_bytes = at;
    return 0;
}
