/* fold.c - in plans that do not train, an op that is a scale and an offset per channel (batch_norm)
 * is folded into the layer before it: that layer computes with weights * scale and bias * scale +
 * offset, and the op has no pass of its own.
 *
 * The folded copy lies in the arena of each caller's work, so that callers who share params need no
 * lock. It is made again when the params have another version than those it was made from: versions
 * are never used twice, whatever params they belong to.
 */
#include "internal.h"

/* Floats of numbers per channel: whole panels of the widest level, and a vector that is repeated.
 */
static size_t per_channel(int64_t n) {
    return ((size_t)n + 4 * FN_PAD - 1) / (2 * FN_PAD) * (2 * FN_PAD);
}

static int64_t channels_of(const fn_plan *plan, const fn_op *op) {
    const fn_buffer *b = &plan->buffers[op->out[0]];
    return b->rank ? b->shape[b->rank - 1] : 1;
}

/* Whether the kernel's columns are the channels: the last axis of panels; the last two of
 * (kh, kw, c, multiplier). */
static bool has_columns(const fn_param *w, int64_t channels) {
    int64_t n = w->shape[w->rank - 1];
    if (w->layout == FN_LAYOUT_PLAIN && w->rank > 2) n *= w->shape[w->rank - 2];
    return n == channels;
}

/* Ops whose own weights nobody else uses, followed by a scale that alone reads what they give. */
void fn_plan_fold(fn_plan *plan) {
    plan->folds = false;
    for (int i = 0; i < plan->n_ops; i++) plan->ops[i].folds = 0, plan->ops[i].folded = false;
    for (int i = 0; i < plan->n_ops && plan->options.mode != FN_TRAIN; i++) {
        fn_op *scale = &plan->ops[i];
        if (!scale->impl->scale) continue;
        const fn_buffer *b = &plan->buffers[scale->in[0]];
        fn_op *op = &plan->ops[b->producer];
        bool possible = op->flags & FN_FOLDS && op->n_params && !op->sgemm && b->consumers == 1 &&
                        plan->buffers[scale->out[0]].alias == b->alias &&
                        has_columns(&plan->params[op->params[0]], channels_of(plan, scale));
        for (int j = 0; possible && j < op->n_params; j++)
            possible = plan->params[op->params[j]].users == 1;
        if (!possible) continue;
        op->folds = i;
        scale->folded = plan->folds = true;
        scale->flops = 0;
    }
}

size_t fn_folded_bytes(const fn_plan *plan, const fn_op *op) {
    if (!op->folds) return 0;
    return (plan->params[op->params[0]].size + 3 * per_channel(channels_of(plan, op))) *
           sizeof(float);
}

/* to = w * scale by columns; whether all of it is finite. */
static bool scale_columns(const fn_param *p, int lanes, int64_t channels, const float *w,
                          const float *scale, float *to) {
    int bad = 0;
    const int64_t rows = p->count / channels;
    for (int64_t column = 0; column < channels; column += 2 * lanes) {
        const bool plain = p->layout == FN_LAYOUT_PLAIN;
        const int64_t left = channels - column;
        const int64_t width = !plain             ? fn_panel_width(channels, column, lanes)
                              : left < 2 * lanes ? left
                                                 : 2 * lanes;
        const int64_t stride = plain ? channels : width, used = left < width ? left : width;
        const int64_t first = plain ? column : column * rows;
        for (int64_t k = 0; k < rows; k++)
            for (int64_t j = 0; j < used; j++) {
                const float v = w[first + k * stride + j] * scale[column + j];
                to[first + k * stride + j] = v;
                bad |= v - v != 0;
            }
    }
    return !bad;
}

static bool fold(const fn_call *call, const fn_op *op) {
    const fn_plan *plan = call->plan;
    const fn_op *after = &plan->ops[op->folds];
    const int64_t channels = channels_of(plan, op);
    const fn_param *p = &plan->params[op->params[0]];
    float *weights = fn_weights(call, op, 0), *bias = fn_weights(call, op, 1);
    float *scale = bias + per_channel(channels), *offset = scale + per_channel(channels);
    const float *before =
        op->n_params > 1 ? call->params->block[0] + plan->params[op->params[1]].offset : NULL;
    after->impl->scale(call, after, scale, offset);
    for (int64_t c = 0; c < channels; c++)
        bias[c] = before ? (float)((double)before[c] * scale[c] + offset[c]) : offset[c];
    return scale_columns(p, plan->level->lanes, channels, call->params->block[0] + p->offset, scale,
                         weights);
}

void fn_fold(const fn_call *call) {
    fn_work *work = call->work;
    const int64_t version = atomic_load(&call->params->version);
    if (work->folded == version) return;
    work->folded_risky = false;
    for (int i = 0; i < call->plan->n_ops; i++)
        if (call->plan->ops[i].folds) work->folded_risky |= !fold(call, &call->plan->ops[i]);
    work->folded = version;
}
