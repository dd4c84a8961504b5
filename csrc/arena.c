/* arena.c - where buffers lie, once the phases are known.
 *
 * A buffer whose passes all lie in one chain is *local*: it lives in the memory of the thread that
 * runs the tile, for the rows that go through the chain together, and stays in cache. All others
 * hold the whole minibatch in the arena; two of them that no phase needs at once share memory.
 * What several chains each make for themselves (again.c) is local too.
 * A row whose last vector is partly padding keeps its memory to itself, so that padding stays zero.
 */
#include <stdlib.h>

#include "internal.h"

/* ---- what passes touch ---- */

typedef struct {
    const fn_plan *plan;
    fn_touch *list;
    int n;
} touches;

static void data(touches *t, const int *buffers, int n, bool write) {
    for (int i = 0; i < n; i++) t->list[t->n++] = (fn_touch){buffers[i], false, write};
}

static void gradients(touches *t, const int *buffers, int n, bool write) {
    for (int i = 0; i < n; i++)
        if (t->plan->buffers[buffers[i]].gradient)
            t->list[t->n++] = (fn_touch){buffers[i], true, write};
}

int fn_touches(const fn_plan *plan, const fn_pass *pass, fn_touch *list) {
    if (pass->op < 0) return 0;
    const fn_op *op = &plan->ops[pass->op];
    touches t = {plan, list, 0};
    const bool state = op->n_out > 1 && !(op->flags & FN_SHARES_INPUT),
               output = (op->flags & FN_NEEDS_OUTPUT) || state;
    switch (pass->kind) {
    case FN_FORWARD:
        data(&t, op->in, op->n_in, false);
        data(&t, op->out, op->n_out, true);
        if (!op->impl->backward) gradients(&t, op->in, op->n_in, true); /* a loss */
        break;
    case FN_BACKWARD:
        gradients(&t, op->out, op->n_out, false);
        if (op->flags & FN_NEEDS_INPUT) data(&t, op->in, op->n_in, false);
        if (output) data(&t, op->out, op->n_out, false);
        gradients(&t, op->in + fn_copies_in_place(plan, op),
                  op->n_in - fn_copies_in_place(plan, op), true);
        break;
    case FN_GRADIENT:
    case FN_STATS_BACK:
        gradients(&t, op->out, op->n_out, false);
        if (output) data(&t, op->out, op->n_out, false);
        data(&t, op->in, op->n_in, false);
        break;
    case FN_UPDATE:
        if (op->impl->gradient || op->impl->stats_back)
            break; /* sums alone: lanes, what merges have made */
        gradients(&t, op->out, op->n_out, false);
        data(&t, op->in, op->n_in, false);
        break;
    case FN_FINISH:
        if (op->impl->stats) break; /* what its merges have made */
        data(&t, op->out, op->n_out, false);
        data(&t, op->in, op->n_in, false);
        break;
    case FN_PREPARE:
    case FN_STATS: data(&t, op->in, op->n_in, false); break;
    case FN_MERGE:
    case FN_MERGE_BACK:
    case FN_FLAT_NORM:
    case FN_FLAT_APPLY: break;
    }
    return t.n;
}

/* ---- who needs which memory from when to when ---- */

/* The passes of one job that need a span, from the first to the last. */
typedef struct {
    int job, first, last;
    int next;     /* the use before this one in the list of the span's, or -1 */
    bool written; /* before it is read: nothing comes from an earlier job */
} use;

/* The memory of a buffer (and its aliases), or of its gradient. */
typedef struct span {
    size_t bytes; /* of a row */
    size_t size;  /* what is placed */
    int first_phase, last_phase, first_pass, last_pass;
    int uses;   /* a list, the last job first; -1: nobody needs it */
    bool whole; /* must hold the minibatch */
    bool own;   /* shares memory with nobody */
    size_t offset;
    struct span *before, *after; /* whose place it takes (the first of all), who takes its place */
} span;

typedef struct {
    fn_plan *plan;
    span *spans; /* of buffers, then of their gradients */
    use *uses;
    int n_uses;
    size_t *rows; /* bytes that a row of each job touches */
    int phase, job, pass;
} scan;

static void touch(scan *s, int at, bool write) {
    span *x = &s->spans[at];
    if (x->uses < 0) {
        x->first_phase = s->phase;
        x->first_pass = s->pass;
    }
    if (x->uses < 0 || s->uses[x->uses].job != s->job) {
        s->uses[s->n_uses] = (use){s->job, s->pass, s->pass, x->uses, write};
        x->uses = s->n_uses++;
        s->rows[s->job] += x->bytes;
    }
    s->uses[x->uses].last = s->pass;
    x->last_phase = s->phase;
    x->last_pass = s->pass;
}

static void touch_pass(scan *s, const fn_pass *pass) {
    fn_touch list[FN_MAX_TOUCHES];
    const int n = fn_touches(s->plan, pass, list);
    for (int i = 0; i < n; i++) {
        const fn_buffer *b = &s->plan->buffers[list[i].buffer];
        touch(s, list[i].gradient ? s->plan->n_buffers + b->gradient_alias : b->alias,
              list[i].write);
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
        s->spans[i] = (span){.bytes = (b->row_bytes + 63) / 64 * 64, .uses = -1};
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
    if (x->size != y->size) return x->size > y->size ? -1 : 1;
    return x < y ? -1 : 1;
}

enum { PHASES = -2, ALL_JOBS = -1 }; /* or the number of a job */

/* Whether two spans are needed at once: in some phase, in a tile of some job, or of that one. */
static bool meet(const scan *s, const span *a, const span *b, int where) {
    if (a->own || b->own) return true;
    if (where == PHASES) return a->first_phase <= b->last_phase && b->first_phase <= a->last_phase;
    if (a->first_pass > b->last_pass || b->first_pass > a->last_pass) return false;
    for (int i = a->uses; i >= 0; i = s->uses[i].next)
        for (int j = b->uses; j >= 0; j = s->uses[j].next) {
            const use *x = &s->uses[i], *y = &s->uses[j];
            if (x->job != y->job || (where >= 0 && x->job != where)) continue;
            if (x->first <= y->last && y->first <= x->last) return true;
        }
    return false;
}

/* Offsets such that spans that are needed at once do not overlap: the largest first, each as low as
 * it fits. `placed` has room for n. Returns where the last one ends. */
static size_t place(const scan *s, span **items, int n, int where, span **placed) {
    size_t end = 0;
    qsort(items, (size_t)n, sizeof *items, larger_first);
    for (int i = 0; i < n; i++) { /* placed[0 .. i) lie in order of their offsets */
        size_t at = 0;
        for (int j = 0; j < i; j++) {
            const span *other = placed[j];
            if (!meet(s, items[i], other, where)) continue;
            if (at + items[i]->size <= other->offset) break;
            if (other->offset + other->size > at) at = other->offset + other->size;
        }
        items[i]->offset = at;
        if (at + items[i]->size > end) end = at + items[i]->size;
        int j = i;
        for (; j > 0 && placed[j - 1]->offset > at; j--) placed[j] = placed[j - 1];
        placed[j] = items[i];
    }
    return end;
}

/* A tile has all of it: one job needs it, or several that all make it first. */
static bool is_local(const scan *s, const span *x) {
    if (x->uses < 0 || x->whole) return false;
    const bool several = s->uses[x->uses].next >= 0;
    for (int i = x->uses; i >= 0; i = s->uses[i].next)
        if (!fn_is_chain(&s->plan->jobs[s->uses[i].job]) || (several && !s->uses[i].written))
            return false;
    return true;
}

static bool needs(const scan *s, const span *x, int job) {
    for (int i = x->uses; i >= 0; i = s->uses[i].next)
        if (s->uses[i].job == job) return true;
    return false;
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

/* How many rows go through each job together: what a tile touches then stays in cache. */
static void choose_blocks(scan *s, span **items, span **placed) {
    fn_plan *plan = s->plan;
    plan->local_rows = 0;
    for (int j = 0; j < plan->n_jobs; j++) {
        if (!fn_is_chain(&plan->jobs[j])) continue;
        int count = 0, apart = 0;
        size_t bytes = s->rows[j];
        for (int i = 0; i < 2 * plan->n_buffers; i++) {
            span *x = &s->spans[i];
            if (!is_local(s, x) || !needs(s, x, j)) continue;
            x->size = x->bytes;
            if (x->own)
                apart++;
            else
                items[count++] = x, bytes -= x->bytes;
        }
        bytes += place(s, items, count, j, placed);
        const int rows = choose_rows(plan, &plan->jobs[j], bytes);
        if (count + apart && rows > plan->local_rows) plan->local_rows = rows;
        s->rows[j] = (size_t)rows;
    }
}

/* Memory of tiles: what has padding lies apart, the rest shares it. */
static void place_local(scan *s, span **items, span **placed) {
    fn_plan *plan = s->plan;
    size_t own = 0;
    int count = 0;
    choose_blocks(s, items, placed);
    for (int i = 0; i < 2 * plan->n_buffers; i++) {
        span *x = &s->spans[i];
        if (!is_local(s, x)) continue;
        size_t rows = 0;
        for (int k = x->uses; k >= 0; k = s->uses[k].next)
            if (s->rows[s->uses[k].job] > rows) rows = s->rows[s->uses[k].job];
        x->size = x->bytes * rows;
        if (x->own)
            x->offset = own, own += x->size;
        else
            items[count++] = x;
    }
    plan->tile_bytes = own + place(s, items, count, ALL_JOBS, placed);
    for (int i = 0; i < count; i++) items[i]->offset += own;
}

/* Whether `x` can have the very rows of `before`: the passes of one tile need a row of that for the
 * last time, and then write the same row of x for the first time. */
static bool takes_over(const scan *s, const span *x, const span *before) {
    if (x->own || before->own || x->whole || before->whole || x->bytes != before->bytes)
        return false;
    int first = x->uses;
    while (s->uses[first].next >= 0) first = s->uses[first].next;
    const use *last = &s->uses[before->uses];
    return last->job == s->uses[first].job && fn_is_chain(&s->plan->jobs[last->job]) &&
           s->uses[first].written && last->last < s->uses[first].first;
}

/* Spans that take the place of another, as one with it; returns how many are left. */
static int join(const scan *s, span **items, int n) {
    for (int i = 0; i < n; i++) /* in the order in which they are needed first */
        for (int j = i; j > 0 && items[j - 1]->first_pass > items[j]->first_pass; j--) {
            span *x = items[j];
            items[j] = items[j - 1], items[j - 1] = x;
        }
    int left = 0;
    for (int i = 0; i < n; i++) {
        span *x = items[i];
        for (int j = 0; j < left && !x->before; j++) {
            span *last = items[j];
            while (last->after) last = last->after;
            if (takes_over(s, x, last)) last->after = x, x->before = items[j];
        }
        if (x->before)
            x->before->last_phase = x->last_phase;
        else
            items[left++] = x;
    }
    return left;
}

/* Memory of the whole minibatch; returns the bytes of all of it. */
static size_t place_whole(scan *s, span **items, span **placed) {
    const fn_plan *plan = s->plan;
    const size_t rows = (size_t)plan->options.max_rows;
    int count = 0;
    for (int i = 0; i < 2 * plan->n_buffers; i++) {
        span *x = &s->spans[i];
        const fn_buffer *b = &plan->buffers[i % plan->n_buffers];
        const bool values = i < plan->n_buffers;
        if (values ? b->alias != i : b->gradient_alias != i - plan->n_buffers) continue;
        if (is_local(s, x) || (x->uses < 0 && !x->whole)) continue;
        x->size = (rows * b->row_bytes + 63) / 64 * 64 * (size_t)(values ? b->copies : 1);
        if (x->whole) x->last_phase = plan->n_phases;
        items[count++] = x;
    }
    const int left = join(s, items, count);
    const size_t end = place(s, items, left, PHASES, placed);
    for (int i = 0; i < left; i++)
        for (span *x = items[i]->after; x; x = x->after) x->offset = items[i]->offset;
    return end;
}

static void set_offsets(const scan *s) {
    fn_plan *plan = s->plan;
    for (int i = 0; i < plan->n_buffers; i++) {
        fn_buffer *b = &plan->buffers[i];
        const span *values = &s->spans[b->alias],
                   *gradient = &s->spans[plan->n_buffers + b->gradient_alias];
        b->copies = plan->buffers[b->alias].copies;
        b->copy_bytes = ((size_t)plan->options.max_rows * b->row_bytes + 63) / 64 * 64;
        b->local = is_local(s, values);
        b->gradient_local = is_local(s, gradient);
        b->memory = values->uses >= 0 || values->whole;
        b->offset = values->offset;
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
    s.uses = fn_alloc((size_t)plan->n_passes * FN_MAX_TOUCHES * sizeof *s.uses);
    span **items = fn_alloc(2 * n * sizeof *items);
    const bool enough = s.spans && s.rows && s.uses && items;
    if (enough) {
        scan_passes(&s);
        place_local(&s, items, items + n);
        const size_t end = place_whole(&s, items, items + n);
        set_offsets(&s);
        place_op_memory(plan, end);
    }
    fn_free(s.spans), fn_free(s.rows), fn_free(s.uses), fn_free(items);
    if (!enough) fn_plan_fail(plan, "out of memory");
    return enough ? FN_OK : FN_ENOMEM;
}
