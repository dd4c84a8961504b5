/* arena.c - where buffers lie, once the phases are known.
 *
 * A buffer whose passes all lie in one chain is *local*: it lives in the memory of the thread that
 * runs the tile, for the rows that go through the chain together, and stays in cache. All others
 * hold the whole minibatch in the arena; two of them that no phase needs at once share memory.
 * Nothing is computed twice to save memory: what backward needs is kept, in a tile or in the arena.
 * A row whose last vector is partly padding keeps its memory to itself, so that padding stays zero.
 */
#include <stdlib.h>

#include "internal.h"

/* The memory of a buffer (and its aliases), or of its gradient: who needs it from when to when. */
typedef struct {
    size_t bytes; /* of a row */
    int first_phase, last_phase, first_pass, last_pass;
    int job;          /* the one that touches it; -1: several do */
    int seen;         /* the job counted last */
    bool used, whole; /* whole: must hold the minibatch */
    bool own;         /* shares memory with nobody */
    size_t offset;
} span;

typedef struct {
    fn_plan *plan;
    span *spans;  /* of buffers, then of their gradients */
    size_t *rows; /* bytes that a row of each job touches */
    int phase, job, pass;
} scan;

static void touch(scan *s, int at) {
    span *x = &s->spans[at];
    if (!x->used) {
        x->used = true;
        x->first_phase = s->phase;
        x->first_pass = s->pass;
        x->job = s->job;
    }
    if (x->job != s->job) x->job = -1;
    x->last_phase = s->phase;
    x->last_pass = s->pass;
    if (x->seen != s->job) s->rows[s->job] += x->bytes;
    x->seen = s->job;
}

static void touch_data(scan *s, const int *buffers, int n) {
    for (int i = 0; i < n; i++) touch(s, s->plan->buffers[buffers[i]].alias);
}

static void touch_gradient(scan *s, const int *buffers, int n) {
    for (int i = 0; i < n; i++) {
        const fn_buffer *b = &s->plan->buffers[buffers[i]];
        if (b->gradient) touch(s, s->plan->n_buffers + b->gradient_alias);
    }
}

/* What a pass reads and writes. */
static void touch_pass(scan *s, const fn_pass *pass) {
    if (pass->op < 0) return;
    const fn_op *op = &s->plan->ops[pass->op];
    const bool state = op->n_out > 1 && !(op->flags & FN_SHARES_INPUT);
    switch (pass->kind) {
    case FN_FORWARD:
        touch_data(s, op->out, op->n_out);
        if (!op->impl->backward) touch_gradient(s, op->in, op->n_in); /* a loss */
        touch_data(s, op->in, op->n_in);
        break;
    case FN_BACKWARD:
        touch_gradient(s, op->out, op->n_out);
        touch_gradient(s, op->in, op->n_in);
        if (op->flags & FN_NEEDS_INPUT) touch_data(s, op->in, op->n_in);
        if ((op->flags & FN_NEEDS_OUTPUT) || state) touch_data(s, op->out, op->n_out);
        break;
    case FN_GRADIENT:
    case FN_STATS_BACK:
        touch_gradient(s, op->out, op->n_out);
        if ((op->flags & FN_NEEDS_OUTPUT) || state) touch_data(s, op->out, op->n_out);
        touch_data(s, op->in, op->n_in);
        break;
    case FN_UPDATE:
        if (op->impl->gradient) break; /* lanes alone */
        touch_gradient(s, op->out, op->n_out);
        touch_data(s, op->in, op->n_in);
        break;
    case FN_FINISH:
        if (op->impl->stats) break; /* what its merges have made */
        touch_data(s, op->out, op->n_out);
        touch_data(s, op->in, op->n_in);
        break;
    case FN_PREPARE:
    case FN_STATS: touch_data(s, op->in, op->n_in); break;
    case FN_MERGE:
    case FN_MERGE_BACK:
    case FN_FLAT_NORM:
    case FN_FLAT_APPLY: break;
    }
}

/* Predictions, and what Python reads and writes at a stop, are there to the end. */
static void keep(scan *s) {
    const fn_plan *plan = s->plan;
    const int loss = fn_table_find("op", "loss");
    for (int i = 0; i < plan->n_ops; i++) {
        const fn_op *op = &plan->ops[i];
        if ((op->kind != loss && !(op->flags & FN_STOP)) || plan->options.mode == FN_PREDICT)
            continue;
        for (int j = 0; j < (op->kind == loss ? 1 : op->n_in); j++) {
            const fn_buffer *b = &plan->buffers[op->in[j]];
            s->spans[b->alias].whole = true;
            s->spans[plan->n_buffers + b->gradient_alias].whole |= op->flags & FN_STOP;
        }
    }
}

static void scan_passes(scan *s) {
    const fn_plan *plan = s->plan;
    for (int i = 0; i < 2 * plan->n_buffers; i++) {
        const fn_buffer *b = &plan->buffers[i % plan->n_buffers];
        s->spans[i] = (span){.bytes = (b->row_bytes + 63) / 64 * 64, .seen = -1};
        s->spans[i].own = b->cols % FN_PAD != 0 || b->copies > 1;
        s->spans[i].whole = i < plan->n_buffers && b->copies > 1;
    }
    keep(s);
    for (s->phase = 0; s->phase < plan->n_phases; s->phase++) {
        const fn_phase *phase = &plan->phases[s->phase];
        for (s->job = phase->first; s->job < phase->first + phase->count; s->job++) {
            const fn_job *job = &plan->jobs[s->job];
            for (s->pass = job->first; s->pass < job->first + job->count; s->pass++)
                touch_pass(s, &plan->passes[s->pass]);
        }
    }
}

/* ---- placing ---- */

static int larger_first(const void *a, const void *b) {
    const span *x = *(span *const *)a, *y = *(span *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x < y ? -1 : 1;
}

static bool meet(const span *a, const span *b, bool passes) {
    if (a->own || b->own) return true;
    return passes ? a->first_pass <= b->last_pass && b->first_pass <= a->last_pass
                  : a->first_phase <= b->last_phase && b->first_phase <= a->last_phase;
}

/* Offsets, in bytes of a row, such that spans that are needed at once do not overlap: the largest
 * first, each as low as it fits. `placed` has room for n. Returns where the last one ends. */
static size_t place(span **items, int n, bool passes, span **placed) {
    size_t end = 0;
    qsort(items, (size_t)n, sizeof *items, larger_first);
    for (int i = 0; i < n; i++) { /* placed[0 .. i) lie in order of their offsets */
        size_t at = 0;
        for (int j = 0; j < i; j++) {
            const span *other = placed[j];
            if (!meet(items[i], other, passes)) continue;
            if (at + items[i]->bytes <= other->offset) break;
            if (other->offset + other->bytes > at) at = other->offset + other->bytes;
        }
        items[i]->offset = at;
        if (at + items[i]->bytes > end) end = at + items[i]->bytes;
        int j = i;
        for (; j > 0 && placed[j - 1]->offset > at; j--) placed[j] = placed[j - 1];
        placed[j] = items[i];
    }
    return end;
}

static bool is_local(const fn_plan *plan, const span *x) {
    if (!x->used || x->whole || x->job < 0) return false;
    const fn_job *job = &plan->jobs[x->job];
    return !job->ahead && !job->slices && !job->col_block && (job->row_block || job->lanes);
}

/* Rows that go through the passes of a job together, when a row touches so many bytes. */
static int choose_rows(const fn_plan *plan, fn_job *job, size_t bytes) {
    const int parts = plan->options.lanes, part = (plan->options.max_rows + parts - 1) / parts;
    const int lanes = plan->lanes / parts;
    int rows = job->lanes ? (part + lanes - 1) / lanes : job->row_block;
    if (rows > plan->options.max_rows) rows = plan->options.max_rows;
    job->sub_block = 0;
    const int most = bytes > FN_BLOCK_BYTES ? 1 : bytes ? (int)(FN_BLOCK_BYTES / bytes) : rows;
    if (!job->pictures || most >= rows) return rows;
    if (job->lanes)
        job->sub_block = most;
    else
        job->row_block = most;
    return most;
}

/* Local memory: what has padding lies apart for every job, the rest of all jobs at one place. */
static void place_local(scan *s, span **items, span **placed) {
    fn_plan *plan = s->plan;
    const int n = 2 * plan->n_buffers;
    size_t own = 0, shared = 0;
    plan->local_rows = 0;
    for (int j = 0; j < plan->n_jobs; j++) {
        int count = 0;
        size_t bytes = s->rows[j], apart = 0;
        for (int i = 0; i < n; i++) {
            if (!is_local(plan, &s->spans[i]) || s->spans[i].job != j) continue;
            if (s->spans[i].own)
                apart += s->spans[i].bytes;
            else
                items[count++] = &s->spans[i], bytes -= s->spans[i].bytes;
        }
        const size_t end = place(items, count, true, placed);
        if (!plan->jobs[j].row_block && !plan->jobs[j].lanes) continue;
        const size_t rows = (size_t)choose_rows(plan, &plan->jobs[j], bytes + end);
        if (count + (int)(apart > 0) && (int)rows > plan->local_rows) plan->local_rows = (int)rows;
        if (end * rows > shared) shared = end * rows;
        for (int i = 0; i < n; i++) { /* offsets of rows become offsets of blocks of rows */
            span *x = &s->spans[i];
            if (!is_local(plan, x) || x->job != j) continue;
            if (x->own)
                x->offset = own, own += x->bytes * rows;
            else
                x->offset *= rows;
        }
    }
    for (int i = 0; i < n; i++)
        if (is_local(plan, &s->spans[i]) && !s->spans[i].own) s->spans[i].offset += own;
    plan->tile_bytes = own + shared;
}

/* Memory of the whole minibatch; returns the bytes of all of it. */
static size_t place_whole(scan *s, span **items, span **placed) {
    const fn_plan *plan = s->plan;
    const size_t rows = (size_t)plan->options.max_rows;
    int count = 0;
    for (int i = 0; i < 2 * plan->n_buffers; i++) {
        span *x = &s->spans[i];
        const fn_buffer *b = &plan->buffers[i % plan->n_buffers];
        const bool data = i < plan->n_buffers;
        if (data ? b->alias != i : b->gradient_alias != i - plan->n_buffers) continue;
        if (is_local(plan, x) || (!x->used && !x->whole)) continue;
        x->bytes = (rows * b->row_bytes + 63) / 64 * 64 * (size_t)(data ? b->copies : 1);
        if (x->whole) x->last_phase = plan->n_phases;
        items[count++] = x;
    }
    return place(items, count, false, placed);
}

static void set_offsets(const scan *s) {
    fn_plan *plan = s->plan;
    for (int i = 0; i < plan->n_buffers; i++) {
        fn_buffer *b = &plan->buffers[i];
        const span *data = &s->spans[b->alias],
                   *gradient = &s->spans[plan->n_buffers + b->gradient_alias];
        b->copies = plan->buffers[b->alias].copies;
        b->copy_bytes = ((size_t)plan->options.max_rows * b->row_bytes + 63) / 64 * 64;
        b->local = is_local(plan, data);
        b->gradient_local = is_local(plan, gradient);
        b->memory = data->used || data->whole;
        b->offset = data->offset;
        b->gradient_offset = gradient->offset;
    }
}

/* What ops have besides buffers, behind them. */
static void place_op_memory(fn_plan *plan, size_t at) {
    plan->lane_memory = at;
    at += (size_t)plan->lanes * plan->lane_stride * sizeof(float);
    plan->state = plan->scratch = plan->local = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        op->copy_offset = at;
        at += (op->copy_bytes + 63) / 64 * 64;
        op->folded_offset = at;
        at += (fn_folded_bytes(plan, op) + 63) / 64 * 64;
        op->state_offset = plan->state;
        plan->state += op->state;
        if (op->scratch > plan->scratch) plan->scratch = op->scratch;
        op->local_offset = plan->local;
        plan->local += (op->local + 63) / 64 * 64;
    }
    plan->scratch = (plan->scratch + 63) / 64 * 64;
    plan->arena_bytes = at;
}

fn_status fn_plan_lay_out_arena(fn_plan *plan) {
    const size_t n = 2 * (size_t)plan->n_buffers, rows = (size_t)plan->options.max_rows;
    size_t all = 0;
    for (int i = 0; i < plan->n_buffers; i++) {
        const size_t bytes = rows * plan->buffers[i].row_bytes;
        if (bytes > PTRDIFF_MAX / 8 || all > PTRDIFF_MAX / 8) {
            fn_plan_fail(plan, "%zu rows are too many", rows);
            return FN_EINVAL;
        }
        all += 3 * bytes;
    }
    scan s = {.plan = plan, .spans = fn_alloc(n * sizeof *s.spans)};
    s.rows = fn_alloc((size_t)plan->n_jobs * sizeof *s.rows);
    span **items = fn_alloc(2 * n * sizeof *items);
    const bool enough = s.spans && s.rows && items;
    if (enough) {
        scan_passes(&s);
        place_local(&s, items, items + n);
        const size_t end = place_whole(&s, items, items + n);
        set_offsets(&s);
        place_op_memory(plan, end);
    }
    fn_free(s.spans), fn_free(s.rows), fn_free(items);
    if (!enough) fn_plan_fail(plan, "out of memory");
    return enough ? FN_OK : FN_ENOMEM;
}
