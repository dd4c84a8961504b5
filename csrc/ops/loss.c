/* loss.c - the loss of each row and its gradient, for every line of losses.def.
 *
 * inputs: predictions (or logits), targets (int32 classes or float32), optional weights; a row has
 * `groups` = all axes but the last, each with a loss of its own. The gradient carries weight / sum
 * of weights, so that the optimizer sees the mean. Output: weight * loss summed over a row's
 * groups. Where a network has several losses, each counts `scale` times.
 */
#include "kernels/softmax.h"

enum { KIND, DELTA, SMOOTHING, PROBABILITIES };
enum { FEW = 16 }; /* columns: up to here vectors go across groups */
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

/* -sum t log softmax(z), t (1 - smoothing) + smoothing / n, from the softmax y of z and log_sum =
 * z - log y. dz = (y * sum t - t) * scale. */
static float cross_entropy(int64_t n, const float *z, const float *y, float log_sum,
                           const float *one_hot, const int32_t *class, float smoothing, float scale,
                           float *dz) {
    const float even = smoothing / (float)n;
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
        loss = (1 - smoothing) * (log_sum - z[*class]);
        if (even > 0)
            for (int64_t i = 0; i < n; i++) loss += even * (log_sum - z[i]);
    }
    if (dz) {
        for (int64_t i = 0; i < n; i++) {
            const float t = one_hot ? one_hot[i] * (1 - smoothing) + even : even;
            dz[i] = (y[i] * total - t) * scale;
        }
        if (!one_hot) dz[*class] -= (1 - smoothing) * scale;
    }
    return loss;
}

typedef struct {
    const fn_op *op;
    int64_t n;     /* columns of a group */
    float inverse; /* scale / sum of weights of this minibatch */
    float *scratch;
} frame;

/* What a loss is taken of: n columns of a row and their targets; `loss` collects the row's. */
typedef struct {
    float *p, *dp;        /* dp: NULL where no gradient is wanted */
    const float *target;  /* n floats, or */
    const int32_t *class; /* one class */
    float weight;
    float *loss;
} group;

/* The logits of up to LANES groups, lane i group i, and what is wanted of them: t (n, LANES). */
static void gather(const frame *f, const group *groups, int count, float *z, float *t) {
    const int64_t n = f->n;
    const float smoothing = (float)f->op->attr[SMOOTHING], even = smoothing / (float)n;
    for (int i = 0; i < LANES; i++) { /* lanes without a group repeat the first */
        const group *g = &groups[i < count ? i : 0];
        for (int64_t c = 0; c < n; c++) {
            z[c * LANES + i] = g->p[c];
            t[c * LANES + i] = g->target ? g->target[c] * (1 - smoothing) + even : even;
        }
        if (g->class) t[*g->class * LANES + i] += 1 - smoothing;
    }
}

/* Cross entropy of up to LANES groups of few columns: lane i is group i, so that all lanes work.
 * z, t, y: (n, LANES). */
static void few_columns(const frame *f, const group *groups, int count) {
    const int64_t n = f->n;
    float *z = f->scratch, *t = z + n * LANES, *y = t + n * LANES;
    gather(f, groups, count, z, t);
    vf most = v_load(z), sum = v_set(0), loss = v_set(0), total = v_set(0), scale = v_set(0);
    for (int64_t c = 1; c < n; c++) most = v_max(v_load(z + c * LANES), most);
    for (int64_t c = 0; c < n; c++) {
        const vf e = v_exp(v_load(z + c * LANES) - most);
        v_store(y + c * LANES, e);
        sum += e;
    }
    const vf inverse = 1 / sum, log_sum = v_log(sum) + most;
    for (int64_t c = 0; c < n; c++) { /* what is not wanted counts nothing, were it infinite */
        const vf wanted = v_load(t + c * LANES), score = v_load(z + c * LANES);
        const vi counts = (wanted != 0) | (score != score);
        loss += (vf)((vi)(wanted * (log_sum - score)) & counts);
        total += wanted;
    }
    if (groups->class) total = v_set(1);
    for (int i = 0; i < count; i++) scale[i] = groups[i].weight * f->inverse;
    for (int64_t c = 0; c < n; c++) {
        const vf p = v_load(y + c * LANES) * inverse;
        v_store(y + c * LANES, p);
        v_store(t + c * LANES, (p * total - v_load(t + c * LANES)) * scale);
    }
    for (int i = 0; i < count; i++) {
        const group *g = &groups[i];
        for (int64_t c = 0; c < n && g->dp; c++) g->dp[c] = g->weight != 0 ? t[c * LANES + i] : 0;
        for (int64_t c = 0; c < n && f->op->attr[PROBABILITIES] != 0; c++)
            g->p[c] = y[c * LANES + i];
        if (g->weight != 0) *g->loss += g->weight * loss[i];
    }
}

/* Any loss of one group. Its columns are copied out, so that whole vectors may be read. */
static float any_columns(const frame *f, const group *g, float *slope) {
    const function *loss = &functions[(int)f->op->attr[KIND]];
    const bool probabilities = f->op->attr[PROBABILITIES] != 0;
    const float smoothing = (float)f->op->attr[SMOOTHING];
    const size_t bytes = (size_t)f->n * sizeof(float);
    float *in = f->scratch, *other = in + f->n + FN_PAD, scale = g->weight * f->inverse, value;
    memcpy(in, g->p, bytes);
    if (loss->kind == FN_LOSS_ROW) {
        const float log_sum = softmax_row(f->n, in, other);
        value = cross_entropy(f->n, in, other, log_sum, g->target, g->class, smoothing, scale,
                              g->dp ? slope : NULL);
        if (probabilities) memcpy(g->p, other, bytes);
        return value;
    }
    memcpy(other, g->target, bytes);
    if (loss->kind == FN_LOSS_MEAN) scale /= (float)f->n;
    value = loss->row(f->n, in, other, (float)f->op->attr[DELTA], smoothing, scale,
                      g->dp ? slope : NULL);
    if (probabilities) { /* a sigmoid, left to this op */
        for (int64_t i = 0; i < f->n; i += LANES) v_store(in + i, v_sigmoid(v_load(in + i)));
        memcpy(g->p, in, bytes);
    }
    return loss->kind == FN_LOSS_MEAN ? value / (float)f->n : value;
}

/* A weight of 0 removes the group: a slope or loss that overflowed, times 0, would be NaN. */
static void add_loss(const frame *f, const group *g, float value, const float *slope) {
    const size_t bytes = (size_t)f->n * sizeof(float);
    if (g->dp && g->weight != 0) memcpy(g->dp, slope, bytes);
    if (g->dp && g->weight == 0) memset(g->dp, 0, bytes);
    if (g->weight != 0) *g->loss += g->weight * value;
}

static void group_losses(const frame *f, const group *groups, int count) {
    if (functions[(int)f->op->attr[KIND]].kind == FN_LOSS_ROW && f->n <= FEW) {
        few_columns(f, groups, count);
        return;
    }
    float *slope = f->scratch + 2 * (f->n + FN_PAD);
    for (int i = 0; i < count; i++)
        add_loss(f, &groups[i], any_columns(f, &groups[i], slope), slope);
}

static void forward(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->in[0]];
    const int64_t n = b->rank ? b->shape[b->rank - 1] : 1, per_row = b->cols / n;
    const bool classes = call->plan->buffers[op->in[1]].dtype == FN_I32;
    const bool each = op->n_in > 2 && call->plan->buffers[op->in[2]].cols > 1;
    const frame f = {op, n, (float)fn_loss_sums(call->work, op)[FN_LOSS_INVERSE],
                     fn_scratch(call, tile)};
    group groups[LANES];
    int count = 0;
    for (int r = tile.r0; r < tile.r1; r++) {
        float *p = fn_row(call, tile, op->in[0], r), *loss = fn_row(call, tile, op->out[0], r);
        float *dp = b->gradient ? fn_gradient_row(call, tile, op->in[0], r) : NULL;
        const void *target = fn_row(call, tile, op->in[1], r);
        const float *weights = op->n_in > 2 ? fn_row(call, tile, op->in[2], r) : NULL;
        *loss = 0;
        for (int64_t g = 0; g < per_row; g++) {
            const float weight = each ? weights[g] : (weights ? weights[0] : 1) / (float)per_row;
            groups[count++] = (group){p + g * n,
                                      dp ? dp + g * n : NULL,
                                      classes ? NULL : (const float *)target + g * n,
                                      classes ? (const int32_t *)target + g : NULL,
                                      weight,
                                      loss};
            if (count < LANES && (r < tile.r1 - 1 || g < per_row - 1)) continue;
            group_losses(&f, groups, count);
            count = 0;
        }
    }
    for (int r = tile.r0; r < tile.r1; r++) {
        const float loss = *fn_row(call, tile, op->out[0], r);
        if (loss - loss != 0)
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
    const size_t any = 3 * (size_t)(n + FN_PAD), few = n <= FEW ? 3 * (size_t)n * LANES : 0;
    op->scratch = any > few ? any : few;
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
