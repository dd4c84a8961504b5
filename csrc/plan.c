/* plan.c - describing a network: buffers, parameters, ops; then shapes, kernels and memory. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

int fn_plan_fail(fn_plan *plan, const char *format, ...) {
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
    if (plan->finished) fn_plan_fail(plan, "the plan is finished: it cannot change");
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

static size_t item_size(fn_dtype dtype) {
    return dtype == FN_I64 || dtype == FN_F64 ? 8 : dtype == FN_F32 || dtype == FN_I32 ? 4 : 1;
}

int fn_plan_buffer(fn_plan *plan, fn_dtype dtype, int rank, const int64_t *shape) {
    if (closed(plan)) return -1;
    if (dtype < FN_F32 || dtype > FN_BOOL)
        return fn_plan_fail(plan, "unknown dtype %d", (int)dtype);
    if (rank < 0 || rank > FN_MAX_RANK)
        return fn_plan_fail(plan, "a buffer has 0 to %d axes, not %d", FN_MAX_RANK, rank);
    const int64_t cols = count_of(rank, shape);
    if (cols < 1) return fn_plan_fail(plan, "a row of a buffer needs 1 to %d values", INT_MAX / 2);
    int capacity = capacity_of(plan->n_buffers);
    fn_buffer *grown = fn_grow(plan->buffers, &capacity, plan->n_buffers, sizeof *grown);
    if (!grown) return fn_plan_fail(plan, "out of memory");
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
    b->row_bytes = (size_t)b->ld * item_size(dtype);
    if (rank) memcpy(b->shape, shape, (size_t)rank * sizeof *shape);
    return plan->n_buffers++;
}

int fn_plan_param(fn_plan *plan, int rank, const int64_t *shape, int decay, int trainable) {
    if (closed(plan)) return -1;
    if (rank < 1 || rank > FN_MAX_RANK)
        return fn_plan_fail(plan, "a parameter has 1 to %d axes, not %d", FN_MAX_RANK, rank);
    const int64_t count = count_of(rank, shape);
    if (count < 1) return fn_plan_fail(plan, "a parameter needs 1 to %d values", INT_MAX / 2);
    int capacity = capacity_of(plan->n_params);
    fn_param *grown = fn_grow(plan->params, &capacity, plan->n_params, sizeof *grown);
    if (!grown) return fn_plan_fail(plan, "out of memory");
    plan->params = grown;
    fn_param *p = &plan->params[plan->n_params];
    *p = (fn_param){.rank = rank, .count = count, .decay = decay, .trainable = trainable};
    memcpy(p->shape, shape, (size_t)rank * sizeof *shape);
    return plan->n_params++;
}

int fn_plan_op(fn_plan *plan, const char *name, int layer) {
    if (closed(plan)) return -1;
    const int kind = fn_table_find("op", name);
    if (kind < 0) return fn_plan_fail(plan, "unknown op '%s'", name);
    if (plan->n_ops == FN_MAX_OPS) return fn_plan_fail(plan, "more than %d ops", FN_MAX_OPS);
    int capacity = capacity_of(plan->n_ops);
    fn_op *grown = fn_grow(plan->ops, &capacity, plan->n_ops, sizeof *grown);
    if (!grown) return fn_plan_fail(plan, "out of memory");
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
        return fn_plan_fail(plan, "op %d cannot take buffer %d as input %d", op, buffer,
                            o ? o->n_in : -1);
    o->in[o->n_in++] = buffer;
    plan->buffers[buffer].consumers++;
    return 0;
}

int fn_op_output(fn_plan *plan, int op, int buffer) {
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    const int most = !o ? 0 : o->impl->max_outputs ? o->impl->max_outputs : o->impl->n_outputs;
    if (!o || buffer < 0 || buffer >= plan->n_buffers || o->n_out == most)
        return fn_plan_fail(plan, "op %d cannot write buffer %d as output %d", op, buffer,
                            o ? o->n_out : -1);
    if (plan->buffers[buffer].producer >= 0)
        return fn_plan_fail(plan, "buffer %d is written by two ops", buffer);
    plan->buffers[buffer].producer = op;
    o->out[o->n_out++] = buffer;
    return 0;
}

int fn_op_param(fn_plan *plan, int op, int param) {
    if (closed(plan)) return -1;
    fn_op *o = op_at(plan, op);
    if (!o || param < 0 || param >= plan->n_params || o->n_params == o->impl->max_params)
        return fn_plan_fail(plan, "op %d cannot use parameter %d", op, param);
    for (int i = 0; i < o->n_params; i++)
        if (o->params[i] == param)
            return fn_plan_fail(plan, "op %d uses parameter %d twice", op, param);
    plan->params[param].users++;
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
        return fn_plan_fail(plan, "op %d has no number '%s'", op, attribute);
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
        return fn_plan_fail(plan, "op %d has no name '%s'", op, attribute);
    const int row = fn_table_find(table[o->impl->attributes[i].kind], value);
    if (row < 0) return fn_plan_fail(plan, "unknown %s '%s'", attribute, value);
    o->attr[i] = row;
    return 0;
}

/* ---- finishing ---- */

/* Each op is complete, its sizes agree, and what it reads was written before. */
static int check_ops(fn_plan *plan) {
    if (!plan->n_ops) return fn_plan_fail(plan, "the plan has no op");
    plan->stops = false;
    plan->n_sources = plan->n_outputs = plan->n_losses = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        const char *name = fn_table_name("op", op->kind);
        if (op->n_in < op->impl->min_inputs || op->n_out < op->impl->n_outputs)
            return fn_plan_fail(plan, "op %d (%s) has %d inputs and %d outputs", i, name, op->n_in,
                                op->n_out);
        for (int j = 0; j < op->n_in; j++) {
            const int producer = plan->buffers[op->in[j]].producer;
            if (producer < 0 || producer >= i)
                return fn_plan_fail(plan, "op %d (%s) reads buffer %d before it is written", i,
                                    name, op->in[j]);
        }
        const char *problem = op->impl->check ? op->impl->check(plan, op) : NULL;
        if (problem)
            return fn_plan_fail(plan, "op %d (%s, layer %d): %s", i, name, op->layer, problem);
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
        if (writers > 1)
            return fn_plan_fail(plan, "buffer %d gets gradients from %d ops", b, writers);
    }
    return 0;
}

/* Ops that share a parameter hand over its gradient one after the other, the first one writes. */
static void take_turns(fn_plan *plan) {
    plan->shared = false;
    for (int i = 0; i < plan->n_ops; i++) {
        fn_op *op = &plan->ops[i];
        op->adds = 0;
        op->turn = 0;
        for (int j = 0; j < op->n_params; j++) {
            const fn_param *p = &plan->params[op->params[j]];
            if (p->users < 2 || !p->trainable) continue;
            plan->shared = true;
            for (int k = 0; k < i; k++)
                for (int l = 0; l < plan->ops[k].n_params; l++)
                    if (plan->ops[k].params[l] == op->params[j]) {
                        op->adds |= 1u << j;
                        if (op->turn <= plan->ops[k].turn) op->turn = plan->ops[k].turn + 1;
                    }
        }
    }
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
    fn_plan_share_memory(plan);
    fn_plan_lay_out_params(plan);
    fn_plan_fold(plan);
    fn_plan_lay_out_lanes(plan);
    take_turns(plan);
    plan->flat = plan->options.update != FN_UPDATE_FUSED;
    const char *problem = fn_plan_phases(plan);
    if (!problem) problem = fn_plan_again(plan);
    if (problem) {
        fn_plan_fail(plan, "%s", problem);
        return FN_ENOMEM;
    }
    const fn_status laid = fn_plan_lay_out_arena(plan);
    plan->finished = laid == FN_OK;
    return laid;
}
