/* work.c - the memory of one caller: the arena, scratch for each thread, sums of metrics. */
#include <string.h>

#include "internal.h"

/* The rows of a buffer lie in the arena, one behind the other. */
void fn_work_point(fn_work *w, const fn_plan *plan, int buffer) {
    const fn_buffer *b = &plan->buffers[buffer];
    const size_t rows = b->local ? 0 : (size_t)plan->options.max_rows;
    for (size_t copy = 0; copy < (size_t)b->copies; copy++)
        for (size_t r = 0; r < rows; r++)
            w->rows[((size_t)buffer * 2 + copy) * rows + r] =
                (const float *)(w->arena + b->offset + copy * b->copy_bytes) + r * (size_t)b->ld;
}

size_t fn_thread_floats(const fn_plan *plan) {
    const size_t addresses = ((size_t)plan->local_rows * sizeof(float *) + 63) / 64 * 64;
    return plan->scratch + plan->local + (plan->tile_bytes + addresses) / sizeof(float) + FN_PAD;
}

fn_work *fn_work_new(const fn_plan *plan, int max_threads) {
    if (!plan->finished || max_threads < 1 || max_threads > FN_MAX_THREADS) return NULL;
    fn_work *w = fn_alloc(sizeof *w);
    if (!w) return NULL;
    w->plan = plan;
    w->max_threads = max_threads;
    w->scratch_stride = fn_thread_floats(plan);
    w->arena = fn_alloc(plan->arena_bytes);
    w->scratch = fn_alloc(w->scratch_stride * (size_t)max_threads * sizeof(float));
    w->state = fn_alloc((plan->state + 1) * sizeof(double));
    w->norms = fn_alloc(plan->max_slices * sizeof(double));
    w->rows =
        fn_alloc((size_t)plan->n_buffers * 2 * (size_t)plan->options.max_rows * sizeof *w->rows);
    w->in_place = fn_alloc((size_t)plan->n_buffers * sizeof *w->in_place);
    if (!w->arena || !w->scratch || !w->state || !w->norms || !w->rows || !w->in_place) {
        fn_work_free(w);
        return NULL;
    }
    for (int i = 0; i < plan->n_buffers; i++) fn_work_point(w, plan, i);
    return w;
}

/* As new. NaN and infinity reach the padding of rows, times a padding weight of zero; nothing
 * writes zeros there again. Scratch of threads that never ran has no pages yet, and gets none. */
void fn_work_clean(fn_work *w) {
    memset(w->arena, 0, w->plan->arena_bytes);
    memset(w->scratch, 0, w->scratch_stride * (size_t)w->threads_used * sizeof(float));
    w->folded = 0;
}

void fn_work_free(fn_work *w) {
    if (!w) return;
    fn_free(w->arena);
    fn_free(w->scratch);
    fn_free(w->state);
    fn_free(w->norms);
    fn_free(w->rows);
    fn_free(w->in_place);
    fn_free(w);
}

void *fn_work_buffer(fn_work *work, const fn_plan *plan, int buffer, int gradient) {
    if (buffer < 0 || buffer >= plan->n_buffers) return NULL;
    const fn_buffer *b = &plan->buffers[buffer];
    if (gradient && (!b->gradient || b->gradient_local)) return NULL;
    if (gradient) return work->arena + b->gradient_offset;
    if (work->in_place[buffer] || b->local || !b->memory) return NULL;
    return work->arena + b->offset +
           (b->copies == 2 ? (size_t)(work->resume_step & 1) * b->copy_bytes : 0);
}

static const fn_op *metric_op(const fn_plan *plan, int metric) {
    const int kind = fn_table_find("op", "metric");
    for (int i = 0; i < plan->n_ops; i++)
        if (plan->ops[i].kind == kind && metric-- == 0) return &plan->ops[i];
    return NULL;
}

const double *fn_work_metric(const fn_work *work, const fn_plan *plan, int metric, int *n) {
    const fn_op *op = metric_op(plan, metric);
    *n = op ? (int)op->state : 0;
    return op ? work->state + op->state_offset : NULL;
}

const double *fn_work_loss(const fn_work *work, const fn_plan *plan, int index) {
    if (index < 0 || index >= plan->n_losses) return NULL;
    return fn_loss_sums(work, &plan->ops[plan->losses[index]]);
}

void fn_work_reset_metrics(fn_work *work, const fn_plan *plan) {
    memset(work->state, 0, plan->state * sizeof(double));
}
