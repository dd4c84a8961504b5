/* again.c - values that are made again where they are needed, instead of being kept.
 *
 * An op that needs numbers over all rows (batch_norm) cuts the chain, and what the passes behind
 * the cut read has to wait in the arena. Of that only two kinds are worth it: what a product has
 * made (dense, convolutions), and what cannot be made again. The rest is made by ops of a few
 * operations a value (FN_CHEAP) from what waits anyway: the jobs that read it run those passes
 * once more for the rows of their tile, forward or back, right before the first pass that reads
 * them. The same kernel on the same rows gives the same bits.
 *
 * A *value* is a buffer, or the gradient of one; several may have one memory after the other. While
 * passes are put in, every read is checked against what its memory holds by then. Where that
 * differs (something was made again over what still waits there), the values of that memory are
 * kept, and all is chosen anew.
 */
#include <limits.h>
#include <string.h>

#include "internal.h"

enum {
    MOST_PASSES = 4, /* that one value may take */
    MOST_TRIES = 64,
    KEPT = 32 * 1024 * 1024 /* bytes that are kept without a thought: see architecture.md */
};

typedef struct {
    int pass, job;  /* where it is made, or -1 */
    bool again;     /* it can be made once more, and is, where it is needed */
    bool crosses;   /* read by another job than the one that makes it */
    bool fixed;     /* needed where no rows of a tile are: it has to be kept */
    size_t demands; /* bytes of a row that are to be kept for it, and are not yet */
} value;

/* What a memory holds: a value, made in a job. */
typedef struct {
    int value, job;
    bool fixed; /* nothing is made there again */
} content;

typedef struct {
    fn_plan *plan;
    int *names; /* which value buffers are, then which their gradients */
    value *values;
    content *contents; /* of their memory */
    fn_pass *passes;   /* the plan's, with those put in */
    int n_passes, room;
    bool failed;
    int wrong; /* a memory that holds something else than is read, or -1 */
} again;

/* The value that a buffer or gradient is: names that a fork gives are the buffer it reads, and the
 * gradient of a sum is that of its first term. */
static void name_values(again *a) {
    const fn_plan *plan = a->plan;
    const int n = plan->n_buffers;
    for (int i = 0; i < 2 * n; i++) a->names[i] = i;
    for (int i = 0; i < plan->n_ops; i++)
        for (int j = 0; plan->ops[i].flags & FN_SHARES_INPUT && j < plan->ops[i].n_out; j++)
            a->names[plan->ops[i].out[j]] = a->names[plan->ops[i].in[0]];
    for (int i = plan->n_ops - 1; i >= 0; i--)
        if (fn_copies_in_place(plan, &plan->ops[i]))
            a->names[n + plan->ops[i].in[0]] = a->names[n + plan->ops[i].out[0]];
}

static int value_of(const again *a, const fn_touch *t) {
    return a->names[t->buffer + (t->gradient ? a->plan->n_buffers : 0)];
}

static int memory_of(const fn_plan *plan, int v) {
    const int n = plan->n_buffers;
    return v < n ? plan->buffers[v].alias : n + plan->buffers[v - n].gradient_alias;
}

static size_t bytes_of(const fn_plan *plan, int v) {
    return plan->buffers[v % plan->n_buffers].row_bytes;
}

/* A value that waits in the arena: it is there for whoever reads it. */
static bool is_kept(const value *x) { return x->crosses && !x->again; }

/* ---- what crosses from job to job ---- */

static void find_crossings(again *a) {
    const fn_plan *plan = a->plan;
    const int loss = fn_table_find("op", "loss");
    for (int i = 0; i < 2 * plan->n_buffers; i++)
        a->values[i] = (value){.pass = -1,
                               .fixed = plan->buffers[i % plan->n_buffers].copies > 1 ||
                                        a->contents[memory_of(plan, i)].fixed};
    for (int j = 0; j < plan->n_jobs; j++) {
        const fn_job *job = &plan->jobs[j];
        for (int p = job->first; p < job->first + job->count; p++) {
            fn_touch list[FN_MAX_TOUCHES];
            const int n = fn_touches(plan, &plan->passes[p], list);
            for (int i = 0; i < n; i++) {
                value *x = &a->values[value_of(a, &list[i])];
                x->fixed |= !fn_is_chain(job) || plan->ops[plan->passes[p].op].kind == loss;
                if (list[i].write)
                    x->pass = p, x->job = j;
                else
                    x->crosses |= x->pass < 0 || x->job != j;
            }
        }
    }
    for (int i = 0; i < plan->n_ops; i++) /* Python reads and writes at a stop */
        for (int j = 0; plan->ops[i].flags & FN_STOP && j < plan->ops[i].n_in; j++) {
            const int b = value_of(a, &(fn_touch){.buffer = plan->ops[i].in[j]});
            const int g = value_of(a, &(fn_touch){.buffer = plan->ops[i].in[j], .gradient = true});
            a->values[b].fixed = a->values[g].fixed = true;
        }
}

/* ---- what is made again ---- */

static bool is_cheap(const fn_plan *plan, const fn_pass *pass) {
    return (pass->kind == FN_FORWARD || pass->kind == FN_BACKWARD) &&
           plan->ops[pass->op].flags & FN_CHEAP;
}

/* Adds to `passes`, n of them, pass p and those that what it reads takes; more than MOST_PASSES:
 * too many. */
static int passes_again(const again *a, int p, int *passes, int n) {
    fn_touch list[FN_MAX_TOUCHES];
    const int touched = fn_touches(a->plan, &a->plan->passes[p], list);
    for (int i = 0; i < n; i++)
        if (passes[i] == p) return n;
    if (n == MOST_PASSES) return n + 1;
    passes[n++] = p;
    for (int i = 0; i < touched && n <= MOST_PASSES; i++) {
        const value *x = &a->values[value_of(a, &list[i])];
        if (!list[i].write && x->again) n = passes_again(a, x->pass, passes, n);
    }
    return n;
}

/* Whether a pass can run again, and the bytes of a row that would have to be kept for it. */
static bool can_run_again(const again *a, int p, size_t *demands) {
    const fn_plan *plan = a->plan;
    fn_touch list[FN_MAX_TOUCHES];
    const int n = fn_touches(plan, &plan->passes[p], list);
    *demands = 0;
    if (!is_cheap(plan, &plan->passes[p])) return false;
    for (int i = 0; i < n; i++) {
        const int v = value_of(a, &list[i]);
        const value *x = &a->values[v];
        if (list[i].write) {
            if (x->fixed) return false;
        } else if (x->again) {
            *demands += x->demands;
        } else {
            for (int j = 0; j < n; j++) /* it is written over: gone when it is needed */
                if (list[j].write && memory_of(plan, value_of(a, &list[j])) == memory_of(plan, v))
                    return false;
            if (x->pass < 0) return false;
            if (!x->crosses) *demands += bytes_of(plan, v);
        }
    }
    int passes[MOST_PASSES];
    return passes_again(a, p, passes, 0) <= MOST_PASSES;
}

/* What it is made from is kept from now on. */
static void keep_sources(again *a, int v) {
    const fn_plan *plan = a->plan;
    fn_touch list[FN_MAX_TOUCHES];
    const int n = fn_touches(plan, &plan->passes[a->values[v].pass], list);
    a->values[v].demands = 0;
    for (int i = 0; i < n; i++) {
        const int u = value_of(a, &list[i]);
        if (list[i].write) continue;
        if (a->values[u].again)
            keep_sources(a, u);
        else
            a->values[u].crosses = true;
    }
}

/* In the order in which values are made; returns whether there is anything that is not kept. */
static bool choose(again *a) {
    const fn_plan *plan = a->plan;
    bool any = false;
    for (int p = 0; p < plan->n_passes; p++) {
        fn_touch list[FN_MAX_TOUCHES];
        const int n = fn_touches(plan, &plan->passes[p], list);
        size_t demands, saved = 0;
        if (!can_run_again(a, p, &demands)) continue;
        for (int i = 0; i < n; i++) {
            const int v = value_of(a, &list[i]);
            if (list[i].write && a->values[v].crosses) saved += bytes_of(plan, v);
        }
        if (saved && demands >= saved) continue;
        for (int i = 0; i < n; i++) {
            value *x = &a->values[value_of(a, &list[i])];
            if (list[i].write) x->again = true, x->demands = demands;
        }
        for (int i = 0; i < n; i++) {
            const int v = value_of(a, &list[i]);
            if (list[i].write && a->values[v].crosses) keep_sources(a, v), any = true;
        }
    }
    return any;
}

/* ---- putting passes in ---- */

static void put(again *a, int p, int job, bool once_more);

/* Puts in the passes that make v again, where the tile has not got it. */
static void provide(again *a, int v, int job) {
    const value *x = &a->values[v];
    const content *has = &a->contents[memory_of(a->plan, v)];
    if (x->again && (has->job != job || has->value != v)) put(a, x->pass, job, true);
}

/* Whether a pass of the job finds v, unless it is from a source, or Python. */
static bool finds(const again *a, int v, int job) {
    const value *x = &a->values[v];
    const content *has = &a->contents[memory_of(a->plan, v)];
    return x->pass < 0 || (has->value == v && (has->job == job || is_kept(x)));
}

static void put(again *a, int p, int job, bool once_more) {
    fn_plan *plan = a->plan;
    fn_touch list[FN_MAX_TOUCHES];
    const int n = fn_touches(plan, &plan->passes[p], list);
    for (int i = 0; i < n && !a->failed; i++)
        if (!list[i].write) provide(a, value_of(a, &list[i]), job);
    for (int i = 0; i < n; i++) { /* reads are listed first */
        const int v = value_of(a, &list[i]);
        if (!list[i].write && !finds(a, v, job)) a->wrong = memory_of(plan, v);
        if (!list[i].write) continue;
        a->contents[memory_of(plan, v)].value = v;
        a->contents[memory_of(plan, v)].job = job;
    }
    fn_pass *grown = fn_grow(a->passes, &a->room, a->n_passes, sizeof *grown);
    a->failed |= !grown;
    if (!grown) return;
    a->passes = grown;
    a->passes[a->n_passes] = plan->passes[p];
    a->passes[a->n_passes++].again = once_more;
}

/* All passes anew, as far as nothing is wrong. */
static void rebuild(again *a, fn_job *jobs) {
    const fn_plan *plan = a->plan;
    a->wrong = -1;
    a->n_passes = 0;
    for (int i = 0; i < 2 * plan->n_buffers; i++) a->contents[i].value = a->contents[i].job = -1;
    for (int j = 0; j < plan->n_jobs && !a->failed && a->wrong < 0; j++) {
        jobs[j] = plan->jobs[j];
        jobs[j].first = a->n_passes;
        for (int p = 0; p < plan->jobs[j].count && !a->failed; p++)
            put(a, plan->jobs[j].first + p, j, false);
        jobs[j].count = a->n_passes - jobs[j].first;
    }
}

static void take_over(again *a, const fn_job *jobs) {
    fn_plan *plan = a->plan;
    memcpy(plan->jobs, jobs, (size_t)plan->n_jobs * sizeof *jobs);
    fn_pass *before = plan->passes;
    plan->passes = a->passes;
    plan->n_passes = a->n_passes;
    a->passes = before;
}

/* What all values that cross take, one beside the other. */
static size_t bytes_kept(const again *a) {
    size_t bytes = 0;
    for (int v = 0; v < 2 * a->plan->n_buffers; v++)
        if (a->values[v].crosses) bytes += bytes_of(a->plan, v);
    return bytes * (size_t)a->plan->options.max_rows;
}

const char *fn_plan_again(fn_plan *plan) {
    const fn_plan_options *options = &plan->options;
    if (options->mode != FN_TRAIN || options->again == FN_AGAIN_NEVER) return NULL;
    const size_t n = 2 * (size_t)plan->n_buffers;
    again a = {.plan = plan, .values = fn_alloc(n * sizeof *a.values)};
    a.contents = fn_alloc(n * sizeof *a.contents);
    a.names = fn_alloc(n * sizeof *a.names);
    fn_job *jobs = fn_alloc((size_t)plan->n_jobs * sizeof *jobs);
    a.failed = !a.values || !a.contents || !a.names || !jobs;
    if (!a.failed) name_values(&a), find_crossings(&a);
    bool wanted = !a.failed && (options->again == FN_AGAIN_ALWAYS || bytes_kept(&a) > KEPT);
    for (int i = 0; wanted && i < MOST_TRIES; i++) {
        wanted = choose(&a);
        if (!wanted) break;
        rebuild(&a, jobs);
        if (a.failed || a.wrong < 0) break;
        a.contents[a.wrong].fixed = true;
        find_crossings(&a);
    }
    if (wanted && !a.failed && a.wrong < 0) take_over(&a, jobs);
    fn_free(a.values), fn_free(a.contents), fn_free(a.names), fn_free(a.passes), fn_free(jobs);
    return a.failed ? "out of memory" : NULL;
}
