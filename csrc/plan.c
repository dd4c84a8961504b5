/* plan.c - describing a network: buffers, parameters, ops; then shapes, kernels and memory. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

static int fail(fn_plan *plan, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(plan->error, sizeof plan->error, format, arguments);
    va_end(arguments);
    return -1;
}

const char *fn_plan_error(const fn_plan *plan) { return plan->error; }

fn_plan *fn_plan_new(const fn_plan_options *options) {
    if (options->max_rows < 1 || options->lanes < 1) return NULL;
    fn_plan *plan = fn_alloc(sizeof *plan);
    if (!plan) return NULL;
    plan->options = *options;
    plan->level = fn_level_current();
    return plan;
}

void fn_plan_free(fn_plan *plan) {
    if (!plan) return;
    fn_free(plan->buffers);
    fn_free(plan->params);
    fn_free(plan->ops);
    fn_free(plan->passes);
    fn_free(plan->jobs);
    fn_free(plan->phases);
    fn_free(plan);
}

static bool closed(fn_plan *plan) {
    if (plan->finished) fail(plan, "the plan is finished: it cannot change");
    return plan->finished;
}

/* The product of a shape, or -1 when an axis is negative or the product is out of range. */
static int64_t count_of(int rank, const int64_t *shape) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0 || (shape[i] && count > (INT_MAX / 2) / shape[i])) return -1;
        count *= shape[i];
    }
    return count;
}

/* Arrays grow by doubling from a full power of two, so their capacity follows from their count. */
static int capacity_of(int count) {
    int capacity = 8;
    while (capacity < count) capacity *= 2;
    return count ? capacity : 0;
}

int fn_plan_buffer(fn_plan *plan, fn_dtype dtype, int rank, const int64_t *shape) {
    if (closed(plan)) return -1;
    if (dtype < FN_F32 || dtype > FN_BOOL) return fail(plan, "unknown dtype %d", (int)dtype);
    if (rank < 0 || rank > FN_MAX_RANK)
        return fail(plan, "a buffer has 0 to %d axes, not %d", FN_MAX_RANK, rank);
    const int64_t cols = count_of(rank, shape);
    if (cols < 1) return fail(plan, "a row of a buffer needs 1 to %d values", INT_MAX / 2);
    int capacity = capacity_of(plan->n_buffers);
    fn_buffer *grown = fn_grow(plan->buffers, &capacity, plan->n_buffers, sizeof *grown);
    if (!grown) return fail(plan, "out of memory");
    plan->buffers = grown;
    fn_buffer *b = &plan->buffers[plan->n_buffers];
    *b = (fn_buffer){.dtype = dtype,
                     .rank = rank,
                     .cols = cols,
                     .alias = plan->n_buffers,
                     .producer = -1,
                     .copies = 1};
    b->ld = (cols + FN_PAD - 1) / FN_PAD * FN_PAD;
    if (cols > 8 * FN_PAD)
        b->ld |= FN_PAD; /* an odd number of cache lines: rows spread over all cache sets */
    if (rank) memcpy(b->shape, shape, (size_t)rank * sizeof *shape);
    return plan->n_buffers++;
}

int fn_plan_param(fn_plan *plan, int rank, const int64_t *shape, int decay, int trainable) {
    if (closed(plan)) return -1;
    if (rank < 1 || rank > FN_MAX_RANK)
        return fail(plan, "a parameter has 1 to %d axes, not %d", FN_MAX_RANK, rank);
    const int64_t count = count_of(rank, shape);
    if (count < 1) return fail(plan, "a parameter needs 1 to %d values", INT_MAX / 2);
    int capacity = capacity_of(plan->n_params);
    fn_param *grown = fn_grow(plan->params, &capacity, plan->n_params, sizeof *grown);
    if (!grown) return fail(plan, "out of memory");
    plan->params = grown;
    fn_param *p = &plan->params[plan->n_params];
    *p = (fn_param){.rank = rank, .count = count, .decay = decay, .trainable = trainable};
    memcpy(p->shape, shape, (size_t)rank * sizeof *shape);
    return plan->n_params++;
}

int fn_plan_op(fn_plan *plan, const char *name, int layer) {
    if (closed(plan)) return -1;
    const int kind = fn_table_find("op", name);
    if (kind < 0) return fail(plan, "unknown op '%s'", name);
    if (plan->n_ops == FN_MAX_OPS) return fail(plan, "more than %d ops", FN_MAX_OPS);
    int capacity = capacity_of(plan->n_ops);
    fn_op *grown = fn_grow(plan->ops, &capacity, plan->n_ops, sizeof *grown);
    if (!grown) return fail(plan, "out of memory");
    plan->ops = grown;
    fn_op *op = &plan->ops[plan->n_ops];
    *op = (fn_op){.kind = kind, .layer = layer, .impl = plan->level->ops[kind]};
    op->flags = op->impl->flags;
    for (int i = 0; i < op->impl->n_attributes; i++) op->attr[i] = op->impl->attributes[i].fallback;
    return plan->n_ops++;
}

static fn_op *op_at(fn_plan *plan, int op) {
    return op >= 0 && op < plan->n_ops ? &plan->ops[op] : NULL;
}

int fn_op_input(fn_plan *plan, int op, int buffer) {
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    if (!o || buffer < 0 || buffer >= plan->n_buffers || o->n_in == o->impl->max_inputs)
        return fail(plan, "op %d cannot take buffer %d as input %d", op, buffer, o ? o->n_in : -1);
    o->in[o->n_in++] = buffer;
    plan->buffers[buffer].consumers++;
    return 0;
}

int fn_op_output(fn_plan *plan, int op, int buffer) {
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    const int most = !o ? 0 : o->impl->max_outputs ? o->impl->max_outputs : o->impl->n_outputs;
    if (!o || buffer < 0 || buffer >= plan->n_buffers || o->n_out == most)
        return fail(plan, "op %d cannot write buffer %d as output %d", op, buffer,
                    o ? o->n_out : -1);
    if (plan->buffers[buffer].producer >= 0)
        return fail(plan, "buffer %d is written by two ops", buffer);
    plan->buffers[buffer].producer = op;
    o->out[o->n_out++] = buffer;
    return 0;
}

int fn_op_param(fn_plan *plan, int op, int param) {
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    if (!o || param < 0 || param >= plan->n_params || o->n_params == o->impl->max_params)
        return fail(plan, "op %d cannot use parameter %d", op, param);
    if (plan->params[param].users++) return fail(plan, "parameter %d is used by two ops", param);
    o->params[o->n_params++] = param;
    return 0;
}

static int attribute_index(const fn_op *op, const char *name) {
    for (int i = 0; i < op->impl->n_attributes; i++)
        if (!strcmp(op->impl->attributes[i].name, name)) return i;
    return -1;
}

int fn_op_number(fn_plan *plan, int op, const char *attribute, double value) {
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    const int i = o ? attribute_index(o, attribute) : -1;
    if (i < 0 || o->impl->attributes[i].kind != FN_ATTR_NUMBER)
        return fail(plan, "op %d has no number '%s'", op, attribute);
    o->attr[i] = value;
    return 0;
}

int fn_op_string(fn_plan *plan, int op, const char *attribute, const char *value) {
    static const char *const table[] = {
        [FN_ATTR_ACTIVATION] = "activation", [FN_ATTR_LOSS] = "loss", [FN_ATTR_METRIC] = "metric"};
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    const int i = o ? attribute_index(o, attribute) : -1;
    if (i < 0 || o->impl->attributes[i].kind == FN_ATTR_NUMBER)
        return fail(plan, "op %d has no name '%s'", op, attribute);
    const int row = fn_table_find(table[o->impl->attributes[i].kind], value);
    if (row < 0) return fail(plan, "unknown %s '%s'", attribute, value);
    o->attr[i] = row;
    return 0;
}

/* ---- finishing ---- */

/* Each op is complete, its sizes agree, and what it reads was written before. */
static int check_ops(fn_plan *plan) {
    if (!plan->n_ops) return fail(plan, "the plan has no op");
    plan->stops = false;
    plan->n_sources = plan->n_outputs = plan->n_losses = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        const char *name = fn_table_name("op", op->kind);
        if (op->n_in < op->impl->min_inputs || op->n_out < op->impl->n_outputs)
            return fail(plan, "op %d (%s) has %d inputs and %d outputs", i, name, op->n_in,
                        op->n_out);
        for (int j = 0; j < op->n_in; j++) {
            const int producer = plan->buffers[op->in[j]].producer;
            if (producer < 0 || producer >= i)
                return fail(plan, "op %d (%s) reads buffer %d before it is written", i, name,
                            op->in[j]);
        }
        const char *problem = op->impl->check ? op->impl->check(plan, op) : NULL;
        if (problem) return fail(plan, "op %d (%s, layer %d): %s", i, name, op->layer, problem);
        plan->stops |= (op->flags & FN_STOP) != 0;
    }
    return 0;
}

/* Gradients flow to a buffer when a trained parameter lies at or before its producer. */
static void mark_gradients(fn_plan *plan) {
    if (plan->options.mode != FN_TRAIN) return;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        if (!op->n_out) continue;
        bool wanted = false;
        for (int j = 0; j < op->n_params; j++) wanted |= plan->params[op->params[j]].trainable != 0;
        for (int j = 0; j < op->n_in; j++) op->propagate |= plan->buffers[op->in[j]].gradient;
        for (int j = 0; j < op->n_out; j++)
            plan->buffers[op->out[j]].gradient = wanted || op->propagate;
    }
}

/* A gradient has one writer: a buffer that two ops send gradients back to needs a fork. */
static int check_branches(fn_plan *plan) {
    for (int b = 0; b < plan->n_buffers; b++) {
        int writers = 0;
        for (int i = 0; i < plan->n_ops && plan->buffers[b].gradient; i++) {
            const fn_op *op = &plan->ops[i];
            const bool sends =
                op->n_out || (op->flags & FN_STOP); /* metrics and outputs only read */
            for (int j = 0; j < op->n_in; j++) writers += sends && op->in[j] == b;
        }
        if (writers > 1) return fail(plan, "buffer %d gets gradients from %d ops", b, writers);
    }
    return 0;
}

/* An elementwise op works in its input's memory when nobody else reads that and no backward pass
 * needs it. */
static void share_memory(fn_plan *plan) {
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
static void lay_out_params(fn_plan *plan) {
    plan->param_size = 0;
    for (int i = 0; i < plan->n_params; i++) {
        fn_param *p = &plan->params[i];
        size_t size = (size_t)p->count;
        if (p->layout == FN_LAYOUT_PANELS) {
            const int lanes = plan->level->lanes;
            const int64_t last = (p->shape[1] - 1) / (2 * lanes) * (2 * lanes);
            size = (size_t)((last + fn_panel_width(p->shape[1], last, lanes)) * p->shape[0]);
        }
        p->size = (size + 2 * FN_PAD - 1) / (2 * FN_PAD) * (2 * FN_PAD);
        p->offset = plan->param_size;
        plan->param_size += p->size;
    }
    plan->max_slices = plan->param_size / FN_FLAT_SLICE + (size_t)plan->n_params + 1;
}

static size_t item_size(fn_dtype dtype) {
    return dtype == FN_I64 || dtype == FN_F64 ? 8 : dtype == FN_F32 || dtype == FN_I32 ? 4 : 1;
}

/* Offsets of buffers in the arena. A row-major weight copy for sgemm lies behind them. */
static int lay_out_arena(fn_plan *plan) {
    size_t at = 0;
    const size_t rows = (size_t)plan->options.max_rows;
    for (int i = 0; i < plan->n_buffers; i++) {
        fn_buffer *b = &plan->buffers[i];
        const size_t bytes = (rows * (size_t)b->ld * item_size(b->dtype) + 63) / 64 * 64;
        if (bytes > PTRDIFF_MAX / 8 || at > PTRDIFF_MAX / 8)
            return fail(plan, "%zu rows are too many", rows);
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

fn_status fn_plan_finish(fn_plan *plan) {
    if (plan->finished) return FN_OK;
    for (int i = 0; i < plan->n_ops; i++) /* only training reads ahead */
        if ((plan->ops[i].flags & FN_SOURCE) && plan->options.mode == FN_TRAIN &&
            plan->ops[i].n_out)
            plan->buffers[plan->ops[i].out[0]].copies = 2;
    if (check_ops(plan)) return FN_EINVAL;
    mark_gradients(plan);
    if (check_branches(plan)) return FN_EINVAL;
    share_memory(plan);
    lay_out_params(plan);
    if (lay_out_arena(plan)) return FN_EINVAL;
    plan->flat = plan->options.update != FN_UPDATE_FUSED;
    const char *problem = fn_plan_phases(plan);
    if (problem) {
        fail(plan, "%s", problem);
        return FN_ENOMEM;
    }
    plan->finished = true;
    return FN_OK;
}

/* ---- what a finished plan says of itself ---- */

void fn_plan_describe(const fn_plan *plan, fn_plan_info *info) {
    *info = (fn_plan_info){.arena_bytes = plan->arena_bytes,
                           .param_bytes = plan->param_size * sizeof(float),
                           .flops = plan->step_flops,
                           .n_ops = plan->n_ops,
                           .n_buffers = plan->n_buffers,
                           .n_params = plan->n_params,
                           .n_phases = plan->n_phases,
                           .simd = plan->level->name};
    for (int i = 0; i < plan->n_params; i++) info->param_count += (size_t)plan->params[i].count;
    const int metric = fn_table_find("op", "metric");
    for (int i = 0; i < plan->n_ops; i++) info->n_metrics += plan->ops[i].kind == metric;
}

void fn_plan_op_info(const fn_plan *plan, int op, fn_op_info *info) {
    const fn_op *o = &plan->ops[op];
    *info = (fn_op_info){fn_table_name("op", o->kind),
                         o->layer,
                         o->n_in,
                         o->n_out,
                         o->n_params,
                         o->in,
                         o->out,
                         o->params,
                         o->flops};
}

void fn_plan_buffer_info(const fn_plan *plan, int buffer, fn_dtype *dtype, int *rank,
                         int64_t *shape, size_t *offset, size_t *row_bytes) {
    const fn_buffer *b = &plan->buffers[buffer];
    *dtype = b->dtype;
    *rank = b->rank;
    memcpy(shape, b->shape, sizeof b->shape);
    *offset = b->offset;
    *row_bytes = (size_t)b->ld * item_size(b->dtype);
}

/* The index-th attribute of an op; 0 when there are no more. */
int fn_plan_op_attribute(const fn_plan *plan, int op, int index, const char **name, double *value) {
    const fn_op *o = &plan->ops[op];
    if (index < 0 || index >= o->impl->n_attributes) return 0;
    *name = o->impl->attributes[index].name;
    *value = o->attr[index];
    return 1;
}

static const char *const pass_names[] = {"prepare", "forward", "backward", "update",
                                         "finish",  "norm",    "apply"};

size_t fn_plan_schedule(const fn_plan *plan, char *text, size_t size) {
    size_t length = 0;
#define PUT(...)                                                       \
    length += (size_t)snprintf(text + (length < size ? length : size), \
                               length < size ? size - length : 0, __VA_ARGS__)
    for (int p = 0; p < plan->n_phases; p++) {
        const fn_phase *phase = &plan->phases[p];
        PUT("phase %d%s%s:", p, phase->prologue ? " (once)" : "", phase->stop ? " (stop)" : "");
        for (int j = phase->first; j < phase->first + phase->count; j++) {
            const fn_job *job = &plan->jobs[j];
            PUT(" [%d tiles%s:", fn_job_tiles(job, plan->options.max_rows),
                job->ahead ? ", ahead" : "");
            for (int q = job->first; q < job->first + job->count; q++) {
                const fn_pass *pass = &plan->passes[q];
                if (pass->op >= 0)
                    PUT(" %s %d %s", fn_table_name("op", plan->ops[pass->op].kind), pass->op,
                        pass_names[pass->kind]);
                else
                    PUT(" %s", pass_names[pass->kind]);
            }
            PUT("]");
        }
        PUT("\n");
    }
#undef PUT
    return length;
}
