/* describe.c - what a finished plan says of itself: sizes, ops, buffers, phases as text. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

void fn_plan_describe(const fn_plan *plan, fn_plan_info *info) {
    *info = (fn_plan_info){.arena_bytes = plan->arena_bytes,
                           .thread_bytes = fn_thread_floats(plan) * sizeof(float),
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
                         int64_t *shape, int *memory, size_t *offset, size_t *row_bytes) {
    const fn_buffer *b = &plan->buffers[buffer];
    *dtype = b->dtype;
    *rank = b->rank;
    memcpy(shape, b->shape, sizeof b->shape);
    *memory = b->local ? 2 : b->memory;
    *offset = b->offset;
    *row_bytes = b->row_bytes;
}

/* The index-th attribute of an op; 0 when there are no more. */
int fn_plan_op_attribute(const fn_plan *plan, int op, int index, const char **name, double *value) {
    const fn_op *o = &plan->ops[op];
    if (index < 0 || index >= o->impl->n_attributes) return 0;
    *name = o->impl->attributes[index].name;
    *value = o->attr[index];
    return 1;
}

static const char *const pass_names[] = {"prepare",    "stats",      "merge",    "forward",
                                         "stats-back", "merge-back", "gradient", "backward",
                                         "update",     "finish",     "norm",     "apply"};

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
            PUT(" [%d %s%s:", fn_job_tiles(plan, job, plan->options.max_rows),
                job->lanes ? "lanes" : "tiles", job->ahead ? ", ahead" : "");
            if (job->sub_block) PUT(" %d rows together,", job->sub_block);
            for (int q = job->first; q < job->first + job->count; q++) {
                const fn_pass *pass = &plan->passes[q];
                if (pass->op >= 0)
                    PUT(" %s %d %s%s", fn_table_name("op", plan->ops[pass->op].kind), pass->op,
                        pass_names[pass->kind], pass->again ? " again" : "");
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
