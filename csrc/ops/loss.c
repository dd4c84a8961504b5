/* loss.c - the loss of each row and its gradient, for every line of losses.def.
 *
 * inputs: predictions (or logits), targets (int32 classes or float32), optional weights; a row has
 * `groups` = all axes but the last, each with a loss of its own. The gradient carries weight / sum
 * of weights, so that the optimizer sees the mean. Output: weight * loss summed over a row's
 * groups. Where a network has several losses, each counts `scale` times.
 */
#include "kernels/softmax.h"

enum { KIND, DELTA, SMOOTHING, PROBABILITIES };
enum { FN_LOSS_MEAN, FN_LOSS_SUM, FN_LOSS_ROW };

FN_INLINE vf v_sign(vf x) {
    const vf one = v_set(1);
    return (vf)((x > 0.0f) & (vi)one) - (vf)((x < 0.0f) & (vi)one) + (x - x);
}
FN_INLINE vf v_clip(vf x, float low, float high) {
    return v_min(v_max(x, v_set(low)), v_set(high));
}

typedef struct {
    int kind;
    /* Sum of the loss over n columns; dp (or NULL) gets the gradient times `scale`. Arrays are
     * padded. */
    float (*row)(int64_t n, const float *p, const float *t, float delta, float smoothing,
                 float scale, float *dp);
} function;

#define v_max(x, bound) v_max(x, (bound) - (vf){0})
#define FN_LOSS(name, kind, value, gradient)                                              \
    static float name##_row(int64_t n, const float *in, const float *target, float delta, \
                            float smoothing, float scale, float *dp) {                    \
        vf sum = v_set(0);                                                                \
        for (int64_t i = 0; i < n; i += LANES) {                                          \
            const vf p = v_load(in + i), t = v_load(target + i);                          \
            vf part = value, slope = gradient;                                            \
            (void)t, slope *= scale;                                                      \
            for (int64_t j = n - i; j < LANES; j++) part[j] = 0, slope[j] = 0;            \
            sum += part;                                                                  \
            if (dp) v_store(dp + i, slope);                                               \
        }                                                                                 \
        (void)delta, (void)smoothing;                                                     \
        return v_sum(sum);                                                                \
    }
#include "losses.def"
#undef FN_LOSS
#undef v_max

#define FN_LOSS(name, kind, value, gradient) {kind, name##_row},
static const function functions[] = {
#include "losses.def"
};
#undef FN_LOSS

/* -sum t log softmax(z), t (1 - smoothing) + smoothing / n; the gradient is softmax(z) * sum t - t.
 * With `probabilities` they replace the logits: what metrics want to see. */
static float cross_entropy(int64_t n, float *z, const float *one_hot, int32_t class,
                           float smoothing, bool probabilities, float scale, float *y, float *dz) {
    const float log_sum = softmax_row(n, z, y), even = smoothing / (float)n;
    float loss, total = 1;
    if (one_hot) {
        loss = 0;
        total = 0;
        for (int64_t i = 0; i < n; i++) {
            const float t = one_hot[i] * (1 - smoothing) + even;
            loss += t * (log_sum - z[i]);
            total += t;
        }
    } else {
        loss = (1 - smoothing) * (log_sum - z[class]);
        if (even > 0)
            for (int64_t i = 0; i < n; i++) loss += even * (log_sum - z[i]);
    }
    if (dz) {
        for (int64_t i = 0; i < n; i++) {
            const float t = one_hot ? one_hot[i] * (1 - smoothing) + even : even;
            dz[i] = (y[i] * total - t) * scale;
        }
        if (!one_hot) dz[class] -= (1 - smoothing) * scale;
    }
    if (probabilities) memcpy(z, y, (size_t)n * sizeof(float));
    return loss;
}

typedef struct {
    const fn_call *call;
    const fn_op *op;
    int64_t n;     /* columns of a group */
    float inverse; /* scale / sum of weights of this minibatch */
    float *scratch;
} frame;

/* One group of a row. Groups narrower than a row are copied out, so that whole vectors may be read.
 */
static float group_loss(const frame *f, float *p, const void *target, bool classes, int64_t at,
                        float weight, float *dp) {
    const fn_op *op = f->op;
    const function *loss = &functions[(int)op->attr[KIND]];
    const float smoothing = (float)op->attr[SMOOTHING];
    const size_t bytes = (size_t)f->n * sizeof(float);
    const float scale = weight * f->inverse / (loss->kind == FN_LOSS_MEAN ? (float)f->n : 1);
    float *y = f->scratch, *t = y + f->n + FN_PAD, *in = t + f->n + FN_PAD,
          *slope = in + f->n + FN_PAD;
    memcpy(in, p, bytes);
    float value;
    if (loss->kind == FN_LOSS_ROW) {
        const float *one_hot = classes ? NULL : (const float *)target + at * f->n;
        value = cross_entropy(f->n, in, one_hot, classes ? ((const int32_t *)target)[at] : 0,
                              smoothing, op->attr[PROBABILITIES] != 0, scale, y, dp ? slope : NULL);
        if (op->attr[PROBABILITIES] != 0) memcpy(p, in, bytes);
    } else {
        memcpy(t, (const float *)target + at * f->n, bytes);
        value = loss->row(f->n, in, t, (float)op->attr[DELTA], smoothing, scale, dp ? slope : NULL);
        if (loss->kind == FN_LOSS_MEAN) value /= (float)f->n;
        if (op->attr[PROBABILITIES] != 0) /* a sigmoid, left to this op */
            for (int64_t i = 0; i < f->n; i += LANES) v_store(in + i, v_sigmoid(v_load(in + i)));
        if (op->attr[PROBABILITIES] != 0) memcpy(p, in, bytes);
    }
    if (dp && weight != 0) memcpy(dp, slope, bytes);
    if (dp && weight == 0) memset(dp, 0, bytes); /* a slope that overflowed, times 0, is NaN */
    return weight != 0 ? weight * value : 0;
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->in[0]];
    const int64_t n = b->rank ? b->shape[b->rank - 1] : 1, groups = b->cols / n;
    const bool classes = call->plan->buffers[op->in[1]].dtype == FN_I32;
    const double *sums = fn_loss_sums(call->work, op);
    const frame f = {call, op, n, (float)sums[FN_LOSS_INVERSE], fn_scratch(call, tile)};
    for (int r = tile.r0; r < tile.r1; r++) {
        float *p = fn_row(call, tile, op->in[0], r), total = 0;
        float *dp = b->gradient ? fn_gradient_row(call, tile, op->in[0], r) : NULL;
        const void *target = fn_row(call, tile, op->in[1], r);
        const float *weights = op->n_in > 2 ? fn_row(call, tile, op->in[2], r) : NULL;
        const bool each =
            weights && call->plan->buffers[op->in[2]].cols > 1; /* a weight for each group */
        for (int64_t g = 0; g < groups; g++) {
            const float w = each ? weights[g] : (weights ? weights[0] : 1) / (float)groups;
            total += group_loss(&f, p + g * n, target, classes, g, w, dp ? dp + g * n : NULL);
        }
        *fn_row(call, tile, op->out[0], r) = total;
        if (total - total != 0)
            atomic_store_explicit(&((fn_call *)call)->diverged, true, memory_order_relaxed);
    }
}

/* Sums over the minibatch, in order; the mean of the last one is for progress bars. */
static void finish(const fn_call *call, const fn_op *op, fn_tile tile) {
    double sum = 0;
    for (int r = 0; r < call->rows; r++) sum += *fn_row(call, tile, op->out[0], r);
    double *sums = fn_loss_sums(call->work, op);
    sums[FN_LOSS_SUM_OF_LOSSES] += sum;
    sums[FN_LOSS_SUM_OF_WEIGHTS] += sums[FN_LOSS_WEIGHT];
    call->result->loss += sum * op->attr[FN_LOSS_SCALE];
    call->result->last_loss += sum * sums[FN_LOSS_INVERSE];
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *p = &plan->buffers[op->in[0]], *t = &plan->buffers[op->in[1]];
    const int64_t n = p->rank ? p->shape[p->rank - 1] : 1;
    if (p->dtype != FN_F32 || (t->dtype != FN_F32 && t->dtype != FN_I32) ||
        !fn_is_f32(plan, op->out[0]))
        return "float32 rows are wanted";
    const bool rowwise = functions[(int)op->attr[KIND]].kind == FN_LOSS_ROW;
    if (t->dtype == FN_I32 ? !rowwise || t->cols != p->cols / n : t->cols != p->cols)
        return "targets do not fit the predictions";
    if (plan->buffers[op->out[0]].cols != 1) return "a loss is one number a row";
    if (op->n_in > 2 && plan->buffers[op->in[2]].cols != 1 &&
        plan->buffers[op->in[2]].cols != p->cols / n)
        return "weights do not fit the rows";
    if (op->n_in > 2) {
        const fn_op *source = &plan->ops[plan->buffers[op->in[2]].producer];
        if (!fn_is_f32(plan, op->in[2]) || !(source->flags & FN_SOURCE))
            return "weights are float32 rows of a source";
    }
    if (plan->n_losses == FN_MAX_OUTPUTS) return "there are too many losses";
    plan->losses[plan->n_losses++] = (int)(op - plan->ops);
    op->state = FN_LOSS_STATE;
    op->scratch = 4 * (size_t)(n + FN_PAD) + FN_PAD;
    op->flops = 30.0 * (double)p->cols;
    return NULL;
}

static const fn_attribute attributes[] = {{"kind", FN_ATTR_LOSS, 0},
                                          {"delta", FN_ATTR_NUMBER, 1},
                                          {"smoothing", FN_ATTR_NUMBER, 0},
                                          {"probabilities", FN_ATTR_NUMBER, 0},
                                          {"scale", FN_ATTR_NUMBER, 1}};

const fn_op_impl FN_LEVELED(loss) = {
    .attributes = attributes,
    .n_attributes = 5,
    .min_inputs = 2,
    .max_inputs = 3,
    .n_outputs = 1,
    .check = check,
    .forward = forward,
    .finish = finish,
};
