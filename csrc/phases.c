/* phases.c - cutting a checked plan into phases of tiles. Shapes decide, threads never do.
 *
 * Narrow ops run in a *chain*: a tile is a block of rows that goes through all of them, forward and
 * back, while it is in cache. A wide dense op (its weights would not stay in cache beside the rows)
 * is cut by columns as well, so that the core that updates a slice of weights also multiplies with
 * it. Elementwise neighbours ride along on the tile of the op before them. Parameter gradients are
 * cut into slices that own a piece of the weights and apply the optimizer at once.
 */
#include <string.h>

#include "internal.h"

typedef struct {
    fn_plan *plan;
    int pass_room, job_room, phase_room;
    bool failed;
} builder;

static void add_pass(builder *b, fn_pass_kind kind, int op) {
    fn_plan *plan = b->plan;
    fn_pass *grown = fn_grow(plan->passes, &b->pass_room, plan->n_passes, sizeof *grown);
    if (!grown) {
        b->failed = true;
        return;
    }
    plan->passes = grown;
    plan->passes[plan->n_passes++] = (fn_pass){kind, op, false};
    plan->jobs[plan->n_jobs - 1].count++;
}

static void open_phase(builder *b) {
    fn_plan *plan = b->plan;
    fn_phase *grown = fn_grow(plan->phases, &b->phase_room, plan->n_phases, sizeof *grown);
    if (!grown) {
        b->failed = true;
        return;
    }
    plan->phases = grown;
    plan->phases[plan->n_phases++] = (fn_phase){.first = plan->n_jobs};
}

static void open_job(builder *b, fn_job job) {
    fn_plan *plan = b->plan;
    fn_job *grown = fn_grow(plan->jobs, &b->job_room, plan->n_jobs, sizeof *grown);
    if (!grown) {
        b->failed = true;
        return;
    }
    plan->jobs = grown;
    job.first = plan->n_passes;
    job.count = 0;
    plan->jobs[plan->n_jobs++] = job;
    plan->phases[plan->n_phases - 1].count++;
}

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

int fn_job_tiles(const fn_plan *plan, const fn_job *job, int rows) {
    if (job->lanes) return plan->lanes;
    if (job->slices) return job->slices;
    const int down = job->row_block ? ceil_div(rows, job->row_block) : 1;
    return down * (job->col_block ? ceil_div(job->cols, job->col_block) : 1);
}

/* Rows in a tile of a chain: whole register tiles, about sixteen tiles a minibatch, at most 8 each.
 */
static int chain_rows(const fn_plan *plan) {
    const int tile = plan->level->row_tile;
    int blocks = plan->options.max_rows / (16 * tile);
    blocks = blocks < 1 ? 1 : blocks > 8 ? 8 : blocks;
    return tile * blocks;
}

/* Rows in a tile of a wide op: two register tiles, four from 96 rows on. Small enough that threads
 * end a phase together, large enough that a panel of weights is used several times while it is in
 * cache. */
static int grid_rows(const fn_plan *plan) {
    const int rows = plan->options.max_rows, tile = plan->level->row_tile;
    return rows <= 2 * tile ? rows : rows < 96 ? 2 * tile : 4 * tile;
}

enum { COLUMN_GROUP = 4, WIDEST = 8 };

static fn_job grid_job(const fn_plan *plan, const fn_op *op, int64_t cols) {
    fn_job job = {.row_block = grid_rows(plan), .cols = (int)cols, .col_group = COLUMN_GROUP};
    const int panel = 2 * plan->level->lanes;
    job.col_block = plan->options.max_rows == 1 ? FN_COASTED * panel : panel;
    while ((int64_t)ceil_div(plan->options.max_rows, job.row_block) *
               ceil_div(job.cols, job.col_block) >
           FN_MAX_PHASE_TILES)
        job.row_block *= 2;
    if (op->sgemm) job.col_block = 0;
    return job;
}

/* The chain that is being filled, opened when the first pass arrives. */
typedef struct {
    builder *b;
    bool open;
} chain;

/* Its rows are large, or it fills lanes. */
static bool of_pictures(const fn_plan *plan, const fn_op *op) {
    if (op->flags & FN_SOURCE) return false;
    return op->impl->gradient || (op->n_in && plan->buffers[op->in[0]].rank >= 3) ||
           (op->n_out && plan->buffers[op->out[0]].rank >= 3);
}

static void chain_pass(chain *c, fn_pass_kind kind, int op) {
    if (!c->open) {
        open_phase(c->b);
        if (!c->b->failed) open_job(c->b, (fn_job){.row_block = chain_rows(c->b->plan)});
        c->open = true;
    }
    if (c->b->failed) return;
    fn_job *job = &c->b->plan->jobs[c->b->plan->n_jobs - 1];
    job->lanes |= kind == FN_GRADIENT || kind == FN_STATS || kind == FN_STATS_BACK;
    job->pictures |= of_pictures(c->b->plan, &c->b->plan->ops[op]);
    add_pass(c->b, kind, op);
}

/* A phase of one tile in which an op makes one of what all rows know. */
static void merge_phase(chain *c, fn_pass_kind kind, int op) {
    c->open = false;
    if (!c->b->failed) open_phase(c->b);
    if (!c->b->failed) open_job(c->b, (fn_job){0});
    if (!c->b->failed) add_pass(c->b, kind, op);
}

/* Whether a layer of many weights behind pictures runs in their chain. There its weights are read
 * once for every block of rows, forward and back; a phase of its own makes all activations of the
 * chain travel through memory: written, read back, and their gradients. Prediction keeps none, so
 * only the layer's input travels. */
static bool joins(const chain *c, const fn_op *op) {
    const fn_plan *plan = c->b->plan;
    if (!c->open || c->b->failed || op->sgemm || op->sparse) return false; /* sparse: prepares */
    const fn_job *job = &plan->jobs[plan->n_jobs - 1];
    if (!job->pictures) return false;
    size_t weights = 0, rows = 0;
    for (int i = 0; i < op->n_params; i++) weights += plan->params[op->params[i]].size * 4;
    for (int i = job->first; i < job->first + job->count; i++) {
        const fn_op *before = &plan->ops[plan->passes[i].op];
        for (int j = 0; j < before->n_out; j++)
            if (plan->buffers[before->out[j]].alias == before->out[j])
                rows += plan->buffers[before->out[j]].row_bytes;
    }
    const bool train = plan->options.mode == FN_TRAIN;
    const size_t touched = train ? 2 * rows : rows;
    const size_t together = touched < FN_BLOCK_BYTES ? FN_BLOCK_BYTES / (touched + 1) : 1;
    if (train) return 2 * weights <= 3 * rows * together;
    return weights <= 2 * plan->buffers[op->in[0]].row_bytes * together;
}

enum { MANY_WEIGHTS = 65536 }; /* bytes that do not stay in L1 */

/* Prediction: a layer that does not join begins a chain of more rows. */
static bool breaks(const chain *c, const fn_op *op) {
    const fn_plan *plan = c->b->plan;
    if (!(op->flags & FN_READS_ROWS) || !op->n_params || plan->options.max_rows == 1) return false;
    if (!c->open || c->b->failed || !plan->jobs[plan->n_jobs - 1].pictures) return false;
    return plan->params[op->params[0]].size * 4 > MANY_WEIGHTS && !joins(c, op);
}

static void prepare_job(builder *b, int op) {
    if (!b->failed && b->plan->ops[op].prepares)
        open_job(b, (fn_job){.slices = b->plan->ops[op].prepares});
    if (!b->failed && b->plan->ops[op].prepares) add_pass(b, FN_PREPARE, op);
}

/* Looking for zeros in rows pays over many columns: few wide blocks, gone through one by one. */
static void sparse_job(const fn_plan *plan, fn_job *job) {
    const int panel = 2 * plan->level->lanes, panels = ceil_div(job->cols, panel);
    job->col_block = ceil_div(panels, ceil_div(panels, WIDEST)) * panel;
    job->row_block = plan->options.max_rows < 2 * plan->level->row_tile ? plan->options.max_rows
                                                                        : 2 * plan->level->row_tile;
    job->col_group = 1;
}

static bool follows(const fn_plan *plan, int op, int before) {
    return plan->ops[op].n_in == 1 && plan->ops[op].in[0] == plan->ops[before].out[0];
}

/* An op forward, as a phase of its own; elementwise ops behind it ride along. Returns the last op
 * taken. */
static int wide_forward(builder *b, int i) {
    fn_plan *plan = b->plan;
    const fn_op *op = &plan->ops[i];
    const int source = i;
    open_phase(b);
    fn_job job = grid_job(plan, op, plan->buffers[op->out[0]].cols);
    if (op->sparse) sparse_job(plan, &job);
    if (!b->failed) open_job(b, job);
    if (!b->failed) add_pass(b, FN_FORWARD, i);
    while (!b->failed && i + 1 < plan->n_ops && (plan->ops[i + 1].flags & FN_ELEMENTWISE) &&
           follows(plan, i + 1, i))
        add_pass(b, FN_FORWARD, ++i);
    if (plan->ops[source].sparse) prepare_job(b, source);
    return i;
}

/* Rows of dy that stay in L1 while W streams by, for dot products that take three; rows that share
 * a panel of W^T. */
enum { BACK_ROWS = 15, SHARING_ROWS = 192 };

static int wide_backward(builder *b, int i) {
    fn_plan *plan = b->plan;
    const fn_op *op = &plan->ops[i];
    open_phase(b);
    fn_job job = grid_job(plan, op, plan->buffers[op->in[0]].cols);
    if (op->transposes) {
        job.col_block = 2 * plan->level->lanes;
        job.row_block = SHARING_ROWS;
    } else if (!op->sgemm && plan->options.max_rows > 1) {
        job.col_block = 64;
        job.row_block = BACK_ROWS;
    }
    if (!b->failed) open_job(b, job);
    if (!b->failed) add_pass(b, FN_BACKWARD, i);
    while (!b->failed && i > 0 && (plan->ops[i - 1].flags & FN_ELEMENTWISE) &&
           plan->ops[i - 1].impl->backward && follows(plan, i, i - 1))
        add_pass(b, FN_BACKWARD, --i);
    return i;
}

/* Weight copies that forward reads. */
static void prepare_phase(builder *b) {
    fn_plan *plan = b->plan;
    bool open = false;
    for (int i = 0; i < plan->n_ops && !b->failed; i++) {
        if (!plan->ops[i].prepares || !plan->ops[i].sgemm) continue;
        if (!open) open_phase(b);
        open = true;
        prepare_job(b, i);
    }
}

static void forward_phases(builder *b, chain *c) {
    fn_plan *plan = b->plan;
    const bool train = plan->options.mode == FN_TRAIN;
    for (int i = 0; i < plan->n_ops && !b->failed; i++) {
        fn_op *op = &plan->ops[i];
        if (op->wide && joins(c, op)) {
            op->wide = false;
            if (op->joined) op->local = op->joined;
        }
        if (op->folded || !op->impl->forward || ((op->flags & FN_SOURCE) && train)) {
            if (op->flags & FN_STOP) {
                open_phase(b);
                if (!b->failed) plan->phases[plan->n_phases - 1].stop = true;
                c->open = false;
            }
            continue;
        }
        if (train && op->wide) {
            c->open = false;
            i = wide_forward(b, i);
        } else {
            if (op->flags & FN_WHOLE_BATCH || (!train && breaks(c, op))) c->open = false;
            if (train && op->impl->stats) {
                chain_pass(c, FN_STATS, i);
                merge_phase(c, FN_MERGE, i);
            }
            chain_pass(c, FN_FORWARD, i);
            if (op->flags & FN_WHOLE_BATCH) {
                plan->jobs[plan->n_jobs - 1].row_block = 0;
                c->open = false;
            }
        }
    }
}

static void backward_phases(builder *b, chain *c) {
    fn_plan *plan = b->plan;
    for (int i = plan->n_ops - 1; i >= 0 && !b->failed; i--) {
        const fn_op *op = &plan->ops[i];
        const bool sums = op->lane && plan->buffers[op->out[0]].gradient;
        if (sums) chain_pass(c, FN_GRADIENT, i);
        if (op->impl->stats_back && plan->buffers[op->out[0]].gradient) {
            chain_pass(c, FN_STATS_BACK, i);
            merge_phase(c, FN_MERGE_BACK, i);
        }
        if (!op->impl->backward || !op->propagate) continue;
        if (op->wide) {
            c->open = false;
            i = wide_backward(b, i);
        } else {
            chain_pass(c, FN_BACKWARD, i);
        }
    }
    c->open = false;
}

/* Rows that a tile of the sources reads: about 32 KB, because a tile costs threads a meeting. */
static int source_rows(const fn_plan *plan) {
    size_t bytes = 0;
    for (int i = 0; i < plan->n_ops; i++)
        if (plan->ops[i].flags & FN_SOURCE) bytes += plan->buffers[plan->ops[i].out[0]].row_bytes;
    const int rows = bytes < 32768 ? (int)(32768 / (bytes ? bytes : 1)) : 1;
    return rows > plan->level->row_tile ? rows : plan->level->row_tile;
}

static void source_job(builder *b, int ahead) {
    fn_plan *plan = b->plan;
    bool open = false;
    for (int i = 0; i < plan->n_ops && !b->failed; i++) {
        if (!(plan->ops[i].flags & FN_SOURCE)) continue;
        if (!open) open_job(b, (fn_job){.row_block = source_rows(plan), .ahead = ahead});
        open = true;
        if (!b->failed) add_pass(b, FN_FORWARD, i);
    }
}

static void finish_job(builder *b) {
    fn_plan *plan = b->plan;
    bool open = false;
    for (int i = 0; i < plan->n_ops && !b->failed; i++) {
        if (!plan->ops[i].impl->finish) continue;
        if (!open) open_job(b, (fn_job){0});
        open = true;
        if (!b->failed) add_pass(b, FN_FINISH, i);
    }
}

static void flat_phase(builder *b, fn_pass_kind kind) {
    fn_plan *plan = b->plan;
    int slices = 0;
    for (int i = 0; i < plan->n_params; i++)
        if (plan->params[i].trainable && (plan->flat || plan->params[i].users > 1))
            slices += (int)((plan->params[i].size + FN_FLAT_SLICE - 1) / FN_FLAT_SLICE);
    if (!slices || b->failed) return;
    open_phase(b);
    if (!b->failed) plan->phases[plan->n_phases - 1].apply = true;
    if (!b->failed) open_job(b, (fn_job){.slices = slices});
    if (!b->failed) add_pass(b, kind, -1);
}

/* Ops whose turn it is hand over their gradients; how many turns there are. */
static int update_jobs(builder *b, int turn) {
    fn_plan *plan = b->plan;
    int turns = 1;
    for (int i = 0; i < plan->n_ops && !b->failed; i++) {
        const fn_op *op = &plan->ops[i];
        if (!(op->impl->update || op->lane) || !plan->buffers[op->out[0]].gradient || !op->slices)
            continue;
        bool trained = false;
        for (int j = 0; j < op->n_params; j++)
            trained |= plan->params[op->params[j]].trainable != 0;
        if (!trained) continue;
        if (op->turn >= turns) turns = op->turn + 1;
        if (op->turn != turn) continue;
        open_job(b, (fn_job){.slices = op->slices});
        if (!b->failed) add_pass(b, FN_UPDATE, i);
    }
    return turns;
}

/* Parameter gradients, the sums of the minibatch, and the rows of the next one: nothing here waits
 * for anything else here. */
static void update_phases(builder *b) {
    fn_plan *plan = b->plan;
    open_phase(b);
    const int turns = b->failed ? 0 : update_jobs(b, 0);
    if (!b->failed) source_job(b, 1);
    if (!b->failed) finish_job(b);
    for (int turn = 1; turn < turns && !b->failed; turn++) {
        open_phase(b);
        if (!b->failed) update_jobs(b, turn);
    }
    if (plan->shared && plan->options.update == FN_UPDATE_FUSED) flat_phase(b, FN_FLAT_APPLY);
    if (plan->options.update == FN_UPDATE_FLAT) {
        flat_phase(b, FN_FLAT_NORM);
        flat_phase(b, FN_FLAT_APPLY);
    }
}

/* Arithmetic per row, for the cost model: forward, the gradient of the weights and of the input. */
static void count_flops(fn_plan *plan) {
    plan->step_flops = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        const fn_op *op = &plan->ops[i];
        const bool trained =
            plan->options.mode == FN_TRAIN && op->n_out && plan->buffers[op->out[0]].gradient;
        plan->step_flops +=
            op->flops * (1 + (trained && op->n_params) + (trained && op->propagate));
    }
}

const char *fn_plan_phases(fn_plan *plan) {
    plan->n_passes = plan->n_jobs = plan->n_phases = 0; /* after a call that ran out of memory */
    fn_free(plan->passes), fn_free(plan->jobs), fn_free(plan->phases);
    plan->passes = NULL, plan->jobs = NULL, plan->phases = NULL;
    builder b = {.plan = plan};
    chain c = {.b = &b};
    if (plan->options.mode == FN_TRAIN) {
        open_phase(&b);
        if (!b.failed) plan->phases[0].prologue = true;
        if (!b.failed) source_job(&b, 0);
    }
    if (!b.failed) prepare_phase(&b);
    if (!b.failed) forward_phases(&b, &c);
    if (!b.failed && plan->options.mode == FN_TRAIN) {
        backward_phases(&b, &c);
        if (!b.failed) update_phases(&b);
    } else if (!b.failed && plan->options.mode == FN_EVALUATE) {
        open_phase(&b);
        if (!b.failed) finish_job(&b);
    }
    count_flops(plan);
    return b.failed ? "out of memory" : NULL;
}
