/* metric.c - sums over rows for the metrics of metrics.def, once a minibatch and in order. The
 * numbers themselves come from the sums in fastnet/metrics.py.
 *
 * inputs: predictions, targets (int32 classes or float32), optional weights.
 */
#include "kernels/level.h"

enum { KIND, TOP, THRESHOLD };
enum {
#define FN_METRIC(name) METRIC_##name,
#include "metrics.def"
#undef FN_METRIC
};

typedef struct {
    const fn_op *op;
    int64_t n; /* columns of a group */
    const float *p;
    const float *t;       /* targets as floats, or NULL */
    const int32_t *class; /* targets as classes, or NULL */
    double weight, *sums;
} group;

static int64_t argmax(int64_t n, const float *x) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static int64_t true_class(const group *g) { return g->class ? *g->class : argmax(g->n, g->t); }

/* top 0: every column on its side of the threshold counts for itself; else the true class is among
 * the `top` largest, the lower index first among equals. */
static void accuracy(const group *g) {
    const int top = (int)g->op->attr[TOP];
    double right = 0;
    if (top == 0) {
        for (int64_t i = 0; i < g->n; i++)
            right += (g->p[i] > g->op->attr[THRESHOLD]) == (g->t[i] > 0.5f);
        right /= (double)g->n;
    } else {
        const int64_t c = true_class(g);
        int ahead = 0;
        for (int64_t i = 0; i < g->n; i++)
            ahead += g->p[i] > g->p[c] || (g->p[i] == g->p[c] && i < c);
        right = ahead < top;
    }
    g->sums[0] += g->weight * right;
    g->sums[1] += g->weight;
}

static void squared(const group *g) {
    double squares = 0, absolutes = 0;
    for (int64_t i = 0; i < g->n; i++) {
        const double d = (double)g->p[i] - g->t[i];
        squares += d * d;
        absolutes += d < 0 ? -d : d;
    }
    g->sums[0] += g->weight * squares / (double)g->n;
    g->sums[1] += g->weight * absolutes / (double)g->n;
    g->sums[2] += g->weight;
}

static void variance(const group *g) {
    for (int64_t i = 0; i < g->n; i++) {
        const double y = g->t[i], d = y - g->p[i];
        double *s = g->sums + 4 * i;
        s[0] += g->weight;
        s[1] += g->weight * y;
        s[2] += g->weight * y * y;
        s[3] += g->weight * d * d;
    }
}

static void confusion(const group *g) {
    if (g->n == 1) { /* the positive class alone */
        const bool predicted = g->p[0] > g->op->attr[THRESHOLD], actual = g->t[0] > 0.5f;
        g->sums[0] += g->weight * (predicted && actual);
        g->sums[1] += g->weight * predicted;
        g->sums[2] += g->weight * actual;
        return;
    }
    const int64_t predicted = argmax(g->n, g->p), actual = true_class(g);
    g->sums[3 * actual] += predicted == actual ? g->weight : 0;
    g->sums[3 * predicted + 1] += g->weight;
    g->sums[3 * actual + 2] += g->weight;
}

static void (*const functions[])(const group *g) = {
#define FN_METRIC(name) name,
#include "metrics.def"
#undef FN_METRIC
};

static void finish(const fn_call *call, const fn_op *op, fn_tile tile) {
    const fn_buffer *b = &call->plan->buffers[op->in[0]], *target = &call->plan->buffers[op->in[1]];
    const int64_t n = b->rank ? b->shape[b->rank - 1] : 1, groups = b->cols / n;
    group g = {.op = op, .n = n, .weight = 1, .sums = call->work->state + op->state_offset};
    for (int r = 0; r < call->rows; r++) {
        const float *p = fn_row(call, tile, op->in[0], r), *t = fn_row(call, tile, op->in[1], r);
        const float *weights = op->n_in > 2 ? fn_row(call, tile, op->in[2], r) : NULL;
        for (int64_t i = 0; i < groups; i++) {
            g.p = p + i * n;
            g.t = target->dtype == FN_F32 ? t + i * n : NULL;
            g.class = target->dtype == FN_I32 ? (const int32_t *)t + i : NULL;
            if (weights) g.weight = weights[call->plan->buffers[op->in[2]].cols == 1 ? 0 : i];
            functions[(int)op->attr[KIND]](&g);
        }
    }
}

static const char *check(fn_plan *plan, fn_op *op) {
    const fn_buffer *p = &plan->buffers[op->in[0]], *t = &plan->buffers[op->in[1]];
    const int64_t n = p->rank ? p->shape[p->rank - 1] : 1;
    const int kind = (int)op->attr[KIND];
    if (p->dtype != FN_F32 || (t->dtype != FN_F32 && t->dtype != FN_I32))
        return "float32 rows are wanted";
    if (op->n_in > 2 &&
        (!fn_is_f32(plan, op->in[2]) ||
         (plan->buffers[op->in[2]].cols != 1 && plan->buffers[op->in[2]].cols != p->cols / n)))
        return "weights do not fit the rows";
    const bool by_class =
        (kind == METRIC_accuracy && op->attr[TOP] > 0) || (kind == METRIC_confusion && n > 1);
    if (t->dtype == FN_I32 ? !by_class || t->cols != p->cols / n : t->cols != p->cols)
        return "targets do not fit the metric";
    op->state = kind == METRIC_accuracy  ? 2
                : kind == METRIC_squared ? 3
                                         : (size_t)n * (kind == METRIC_variance ? 4 : 3);
    return NULL;
}

static const fn_attribute attributes[] = {
    {"kind", FN_ATTR_METRIC, 0}, {"top", FN_ATTR_NUMBER, 1}, {"threshold", FN_ATTR_NUMBER, 0.5}};

const fn_op_impl FN_LEVELED(metric) = {
    .attributes = attributes,
    .n_attributes = 3,
    .min_inputs = 2,
    .max_inputs = 3,
    .check = check,
    .finish = finish,
};
