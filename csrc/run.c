/* run.c - many minibatches in one call: prepare a minibatch, run its phases, go on to the next. */
#include <math.h>
#include <string.h>

#include "internal.h"
#include "parallel.h"

/* ---- steps ---- */

static fn_hyper hyper_of(const fn_call *call, bool kernel) {
    const fn_optimizer *o = call->args->optimizer;
    const double rate = call->args->rates[call->step],
                 t = (double)(call->args->step + call->step + 1);
    fn_hyper h = {.rate = (float)rate,
                  .momentum = (float)o->momentum,
                  .beta_1 = (float)o->beta_1,
                  .beta_2 = (float)o->beta_2,
                  .rho = (float)o->rho,
                  .epsilon = (float)o->epsilon,
                  .rest_1 = (float)(1 - o->beta_1),
                  .rest_2 = (float)(1 - o->beta_2),
                  .rest_rho = (float)(1 - o->rho),
                  .scale = 1,
                  .clip = o->clipvalue > 0 ? (float)o->clipvalue : INFINITY};
    if (o->beta_2 > 0)
        h.rate = (float)(rate * sqrt(1 - pow(o->beta_2, t)) / (1 - pow(o->beta_1, t)));
    if (kernel) {
        h.decay = (float)(rate * o->weight_decay);
        h.l1 = (float)o->l1;
        h.l2 = (float)(2 * o->l2);
    }
    const bool penalty = kernel && (o->weight_decay != 0 || o->l1 != 0 || o->l2 != 0);
    h.plain = !penalty && !(o->clipvalue > 0) && !(o->global_clipnorm > 0); /* in every step */
    return h;
}

static int rows_of_step(const fn_call *call, int64_t step) {
    const int64_t done = step * call->args->batch_size, left = call->args->n_rows - done;
    return left <= 0 ? 0 : left < call->args->batch_size ? (int)left : call->args->batch_size;
}

static int64_t source_row(const fn_run_args *args, int64_t place) {
    return args->order ? args->order[place] : place;
}

/* Value i of a row as float32, which is what the input op makes of it. */
static float value_of(const void *row, fn_dtype dtype, int64_t i) {
    switch (dtype) {
    case FN_F32: return ((const float *)row)[i];
    case FN_F64: return (float)((const double *)row)[i];
    case FN_I32: return (float)((const int32_t *)row)[i];
    case FN_I64: return (float)((const int64_t *)row)[i];
    case FN_I8: return (float)((const int8_t *)row)[i];
    case FN_U8:
    case FN_BOOL: break;
    }
    return (float)((const uint8_t *)row)[i];
}

/* Sum of sample weights of a loss in this minibatch, in order; its number of rows when there are
 * none. */
static double sum_weights(const fn_call *call, const fn_op *op) {
    const fn_plan *plan = call->plan;
    if (op->n_in < 3) return call->rows;
    const fn_op *source = &plan->ops[plan->buffers[op->in[2]].producer];
    const fn_source *s = &call->args->sources[(int)source->attr[0]];
    double sum = 0;
    for (int r = 0; r < call->rows; r++) {
        const char *row =
            (const char *)s->data + (size_t)source_row(call->args, call->first + r) * s->row_bytes;
        for (int64_t c = 0; c < plan->buffers[op->in[2]].cols; c++)
            sum += value_of(row, s->dtype, c);
    }
    return sum;
}

/* What each loss divides by. */
static void begin_losses(fn_call *call) {
    const fn_plan *plan = call->plan;
    call->result->last_loss = 0;
    if (!plan->n_losses) call->result->weight += call->rows;
    for (int i = 0; i < plan->n_losses; i++) {
        const fn_op *op = &plan->ops[plan->losses[i]];
        double *sums = fn_loss_sums(call->work, op);
        const double sum = sum_weights(call, op);
        sums[FN_LOSS_WEIGHT] = sum;
        sums[FN_LOSS_INVERSE] = sum > 0 ? (float)(op->attr[FN_LOSS_SCALE] / sum) : 0;
        if (i == 0) call->result->weight += sum;
    }
}

static void begin_step(fn_call *call) {
    const fn_run_args *args = call->args;
    call->rows = rows_of_step(call, call->step);
    call->rows_ahead = rows_of_step(call, call->step + 1);
    call->first = args->first + call->step * args->batch_size;
    call->first_ahead = call->first + args->batch_size;
    if (call->plan->options.mode != FN_PREDICT) begin_losses(call);
    if (call->optimizer) {
        call->hyper[0] = hyper_of(call, false);
        call->hyper[1] = hyper_of(call, true);
    }
}

/* The scale of global-norm clipping, from the partial sums in order. */
static void clip_by_norm(fn_call *call, int slices) {
    double sum = 0;
    for (int i = 0; i < slices; i++) sum += call->work->norms[i];
    const double norm = sqrt(sum), most = call->args->optimizer->global_clipnorm;
    if (norm > most) call->hyper[0].scale = call->hyper[1].scale = (float)(most / norm);
}

/* Whether this minibatch cannot go on. A bad row of the next one, read ahead, leaves it to be
 * finished: a run ends between two steps. */
static bool stopped(const fn_call *call) {
    fn_call *shared = (fn_call *)call;
    if (atomic_load_explicit(&shared->diverged, memory_order_relaxed)) return true;
    const int64_t bad = atomic_load_explicit(&shared->bad, memory_order_relaxed);
    return bad >= 0 && bad >> 32 < (call->step + 1) * call->args->batch_size;
}

/* The next phase of this minibatch or the first of the next one; the number of its tiles, or -1. */
static int next_phase(void *context) {
    fn_call *call = context;
    const fn_plan *plan = call->plan;
    for (;;) {
        if (stopped(call)) return -1;
        if (call->phase >= 0 && plan->phases[call->phase].apply && call->args->optimizer &&
            call->args->optimizer->global_clipnorm > 0 &&
            plan->passes[plan->jobs[plan->phases[call->phase].first].first].kind == FN_FLAT_NORM)
            clip_by_norm(call, plan->jobs[plan->phases[call->phase].first].slices);
        if (++call->phase == plan->n_phases) {
            call->result->steps++;
            if (++call->step == call->n_steps || stopped(call)) return -1;
            begin_step(call);
            call->phase = 0;
        }
        const fn_phase *phase = &plan->phases[call->phase];
        if ((phase->prologue && call->step > 0) || (call->args->apply_only && !phase->apply))
            continue;
        if (phase->stop) {
            call->work->resume_phase = call->phase + 1;
            call->work->resume_step = call->step;
            return -1;
        }
        int tiles = 0;
        for (int j = phase->first; j < phase->first + phase->count; j++) {
            const int rows = plan->jobs[j].ahead ? call->rows_ahead : call->rows;
            if (rows || plan->jobs[j].slices) tiles += fn_job_tiles(plan, &plan->jobs[j], rows);
        }
        if (tiles) return tiles;
    }
}

/* ---- tiles ---- */

static void run_pass(const fn_call *call, const fn_pass *pass, fn_tile tile) {
    if (pass->op < 0) {
        fn_flat_pass(call, pass->kind, tile.c0);
        return;
    }
    const fn_op *op = &call->plan->ops[pass->op];
    switch (pass->kind) {
    case FN_PREPARE: op->impl->prepare(call, op, tile); break;
    case FN_STATS: op->impl->stats(call, op, tile); break;
    case FN_MERGE: op->impl->merge(call, op, tile); break;
    case FN_STATS_BACK: op->impl->stats_back(call, op, tile); break;
    case FN_MERGE_BACK: op->impl->merge_back(call, op, tile); break;
    case FN_FORWARD: op->impl->forward(call, op, tile); break;
    case FN_GRADIENT: op->impl->gradient(call, op, tile); break;
    case FN_BACKWARD: op->impl->backward(call, op, tile); break;
    case FN_UPDATE:
        if (op->impl->gradient)
            fn_update_lanes(call, op, tile.c0);
        else
            op->impl->update(call, op, tile);
        break;
    case FN_FINISH: op->impl->finish(call, op, tile); break;
    case FN_FLAT_NORM:
    case FN_FLAT_APPLY: break;
    }
}

static int at_most(int n, int limit) { return n < limit ? n : limit; }

/* Tiles of a grid, of rows as even as can be: groups of column blocks, and in a group all columns
 * of a row block before the next rows. So the rows stay in cache for a group, its weights for all
 * rows, and threads part along columns. */
static void place_in_grid(const fn_job *job, int index, int rows, fn_tile *tile) {
    const int down = job->row_block ? (rows + job->row_block - 1) / job->row_block : 1;
    const int across = job->col_block ? (job->cols + job->col_block - 1) / job->col_block : 1;
    const int most = job->col_group ? job->col_group : 1;
    const int group = index / (most * down), rest = index - group * most * down;
    const int size = at_most(across - group * most, most);
    if (job->row_block) {
        const int64_t row = rest / size;
        tile->r0 = (int)(row * rows / down);
        tile->r1 = (int)((row + 1) * rows / down);
    }
    if (job->col_block) {
        tile->c0 = (group * most + rest % size) * job->col_block;
        tile->c1 = at_most(tile->c0 + job->col_block, job->cols);
    }
}

static fn_tile tile_of(const fn_plan *plan, const fn_job *job, int index, int rows) {
    fn_tile tile = {.r1 = rows, .c1 = INT32_MAX, .ahead = job->ahead};
    if (job->slices) {
        tile.c0 = index;
        tile.c1 = index + 1;
    } else if (job->lanes) {
        tile.lane = index;
        fn_lane_rows(plan, rows, index, &tile.r0, &tile.r1);
    } else {
        place_in_grid(job, index, rows, &tile);
    }
    return tile;
}

/* All passes of a job for a few rows of the tile, then for the next: they stay in cache. */
static void run_blocks(const fn_call *call, const fn_job *job, fn_tile tile) {
    const int begin = tile.r0, end = tile.r1;
    if (job->lanes && begin == end) return;
    int step = end - begin;
    if (job->sub_block && step > job->sub_block) {
        const int blocks = (step + job->sub_block - 1) / job->sub_block;
        step = (step + blocks - 1) / blocks; /* as even as can be */
    }
    do {
        tile.r1 = at_most(tile.r0 + step, end);
        tile.first = tile.r0 == begin;
        for (int i = job->first; i < job->first + job->count; i++)
            run_pass(call, &call->plan->passes[i], tile);
        tile.r0 = tile.r1;
    } while (tile.r0 < end);
}

static void run_tile(void *context, int index, int thread) {
    const fn_call *call = context;
    const fn_plan *plan = call->plan;
    const fn_phase *phase = &plan->phases[call->phase];
    const fn_job *job = &plan->jobs[phase->first];
    int rows;
    for (;; job++) {
        rows = job->ahead ? call->rows_ahead : call->rows;
        const int tiles = rows || job->slices ? fn_job_tiles(plan, job, rows) : 0;
        if (index < tiles) break;
        index -= tiles;
    }
    fn_tile tile = tile_of(plan, job, index, rows);
    tile.thread = thread;
    fn_thread_report(thread);
    run_blocks(call, job, tile);
}

/* ---- run ---- */

/* Sources whose rows can be used where they lie: float32, wanted as they are, by ops that read only
 * whole columns. The input op fills in the rows. */
static void choose_in_place(const fn_call *call) {
    const fn_plan *plan = call->plan;
    for (int i = 0; i < plan->n_ops; i++) {
        const fn_op *op = &plan->ops[i];
        if (!(op->flags & FN_SOURCE) || !fn_is_f32(plan, op->out[0])) continue;
        const fn_source *s = &call->args->sources[(int)op->attr[0]];
        bool possible = s->dtype == FN_F32 && !s->indptr && op->attr[1] == 1 && op->attr[2] == 0 &&
                        op->attr[3] == 0 && op->attr[4] == 0 && /* input.c: not scaled, not mixed */
                        (uintptr_t)s->data % sizeof(float) == 0 &&
                        s->row_bytes % sizeof(float) == 0;
        for (int j = 0; j < plan->n_ops; j++)
            for (int k = 0; k < plan->ops[j].n_in; k++)
                if (plan->ops[j].in[k] == op->out[0])
                    possible &= (plan->ops[j].flags & FN_READS_ROWS) != 0;
        if (call->work->in_place[op->out[0]] && !possible)
            fn_work_point(call->work, plan, op->out[0]);
        call->work->in_place[op->out[0]] = possible;
    }
}

/* What one thread would take for the call, and how long its longest tile, roughly. */
static double estimate(const fn_call *call, double *tile_ns) {
    const fn_plan *plan = call->plan;
    const double ns_per_flop = 1 / plan->level->gflops, rows = call->args->batch_size;
    double step = plan->step_flops * rows * ns_per_flop;
    if (plan->options.mode == FN_TRAIN) step += (double)plan->param_size * 0.15;
    *tile_ns = step;
    if (plan->options.mode == FN_PREDICT) step += (double)plan->param_size * 0.05;
    return step * (double)call->n_steps;
}

/* A job of one thread, with denormals flushed as they are in every region. */
typedef struct {
    const fn_call *call;
    void (*job)(const fn_call *call);
    bool done;
} errand;

static int errand_next(void *context) {
    errand *e = context;
    if (e->done) return -1;
    e->done = true;
    return 1;
}

static void errand_run(void *context, int tile, int thread) {
    const errand *e = context;
    (void)tile, (void)thread;
    e->job(e->call);
}

static void run_errand(const fn_call *call, void (*job)(const fn_call *call)) {
    errand e = {call, job, false};
    const fn_work_list list = {errand_next, errand_run, &e, 0, 0};
    fn_parallel_run(1, &list);
}

/* Ops note that they have put nothing off. */
static void begin_coasting(const fn_call *call) {
    for (int i = 0; i < call->plan->n_ops; i++) {
        const fn_op *op = &call->plan->ops[i];
        if (op->impl->begin && op->coasts) op->impl->begin(call, op);
    }
}

/* What ops have put off is done. */
static void settle(const fn_call *call) {
    for (int i = 0; i < call->plan->n_ops; i++) {
        const fn_op *op = &call->plan->ops[i];
        if (op->impl->settle && op->coasts) op->impl->settle(call, op);
    }
}

static fn_status finish(fn_call *call) {
    fn_result *result = call->result;
    const int64_t bad = atomic_load(&call->bad);
    if (bad >= 0 || atomic_load(&call->diverged) || atomic_load(&call->params->risky))
        fn_work_clean(call->work);
    if (bad >= 0) {
        result->bad_row = source_row(call->args, call->args->first + (bad >> 32));
        result->bad_column = bad & 0xffffffff;
        result->bad_source = atomic_load(&call->bad_source);
        return FN_EINPUT;
    }
    if (atomic_load(&call->diverged)) return FN_EDIVERGED;
    if (call->step < call->n_steps && !call->args->apply_only) return FN_STOPPED;
    return FN_OK;
}

/* Whether a source is read as numbers, not as classes: CSR rows are only read so. */
static bool may_be_sparse(const fn_plan *plan, int source) {
    for (int i = 0; i < plan->n_ops; i++) {
        const fn_op *op = &plan->ops[i];
        if ((op->flags & FN_SOURCE) && (int)op->attr[0] == source &&
            (!fn_is_f32(plan, op->out[0]) || op->attr[4] != 0)) /* input.c: one-hot classes */
            return false;
    }
    return true;
}

/* Whether the rows asked for make sense, and there is something to read them from and to write them
 * to. */
static bool rows_fit(const fn_plan *plan, const fn_run_args *args) {
    if (args->batch_size < 1 || args->batch_size > plan->options.max_rows) return false;
    if (args->first < 0 || args->n_rows < 0 || args->n_rows > INT64_MAX - args->batch_size)
        return false;
    if (args->n_rows == 0) return true;
    if (args->n_sources < plan->n_sources || args->n_sources > FN_MAX_SOURCES) return false;
    for (int i = 0; i < plan->n_sources; i++)
        if (!args->sources[i].data || (args->sources[i].indptr && !may_be_sparse(plan, i)))
            return false;
    for (int i = 0; i < plan->n_outputs; i++)
        if (!args->outputs[i]) return false;
    return true;
}

fn_status fn_run(const fn_plan *plan, fn_params *params, fn_work *work, const fn_run_args *args,
                 fn_result *result) {
    const bool train = plan->options.mode == FN_TRAIN;
    if (!plan->finished || work->plan != plan || !fn_params_match(params, plan) ||
        !rows_fit(plan, args))
        return FN_EINVAL;
    if (train && plan->options.update != FN_UPDATE_NONE && !args->optimizer) return FN_EINVAL;
    if (train && args->optimizer && !args->rates) return FN_EINVAL;
    if ((plan->flat || plan->shared) && train && !params->block[3]) return FN_EINVAL;
    if (train && plan->options.update == FN_UPDATE_FUSED && args->optimizer->global_clipnorm > 0)
        return FN_EINVAL; /* the norm needs all gradients first */
    const uint64_t start = fn_now_ns();
    const bool resume = work->resume_phase > 0;
    work->runs++;
    fn_call call = {.plan = plan, .params = params, .work = work, .args = args, .result = result};
    call.n_steps = args->apply_only ? 1 : (args->n_rows + args->batch_size - 1) / args->batch_size;
    atomic_store(&call.bad, -1);
    *result = (fn_result){.bad_source = -1};
    if (call.n_steps == 0) return FN_OK;
    if (train && args->optimizer) {
        const int row = fn_table_find("optimizer", args->optimizer->name);
        if (row < 0) return FN_EINVAL;
        call.optimizer = &plan->level->optimizers[row];
        for (int s = 1; s <= call.optimizer->slots; s++)
            if (!params->block[s]) return FN_EINVAL;
    }
    if (resume && work->resume_step >= call.n_steps) return FN_EINVAL;
    if (resume) call.step = work->resume_step;
    call.phase = resume ? work->resume_phase - 1 : -1;
    work->resume_phase = 0;
    choose_in_place(&call);
    if (plan->folds) run_errand(&call, fn_fold);
    begin_step(&call);
    double tile_ns, gain;
    const double ns = estimate(&call, &tile_ns);
    int threads = fn_parallel_choose(ns, (int)at_most((int)call.n_steps, 1 << 20) * plan->n_phases,
                                     args->threads, &gain);
    if (threads > work->max_threads) threads = work->max_threads;
    if (threads > work->threads_used) work->threads_used = threads;
    const fn_work_list list = {next_phase, run_tile, &call, tile_ns, gain};
    if (call.optimizer) run_errand(&call, begin_coasting);
    result->threads = fn_parallel_run(threads, &list);
    if (call.optimizer) run_errand(&call, settle);
    if (train) fn_params_touch(params);
    if (train && plan->options.update != FN_UPDATE_NONE) fn_params_check(params);
    result->seconds = (double)(fn_now_ns() - start) * 1e-9;
    return finish(&call);
}
