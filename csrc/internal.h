/* internal.h - what plan.c, run.c and the op files share: the structs behind the opaque types.
 *
 * A plan is a list of ops over buffers. Ops are cut into *passes* (an op forward, backward, ...),
 * passes into *jobs* (passes that a tile runs one after the other), jobs into *phases*: all tiles
 * of a phase may run at once, and a phase begins when the one before is done. Tile shapes depend on
 * the plan alone, never on the number of threads: that is what makes results the same bits
 * everywhere.
 */
#ifndef FN_INTERNAL_H
#define FN_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "fastnet.h"

enum { FN_PAD = 16, FN_MAX_ATTRIBUTES = 8, FN_NAME = 24 };

/* What a kernel is asked to do: rows [r0, r1), columns or slices [c0, c1) of its op. */
typedef struct {
    int r0, r1, c0, c1;
    int ahead;  /* 1: the rows of the next minibatch (sources are read one step early) */
    int thread; /* which per-thread scratch is mine */
    int lane;   /* which sums of gradients or statistics these rows belong to: see fn_lane */
    bool first; /* nothing was added to that lane yet: store instead of adding */
} fn_tile;

typedef struct {
    fn_dtype dtype;
    int rank;
    int64_t shape[FN_MAX_RANK];
    int64_t cols;       /* product of shape */
    int64_t ld;         /* elements from row to row: cols, padded to FN_PAD */
    size_t row_bytes;   /* bytes from row to row */
    int alias;          /* the buffer whose memory this one uses, or itself */
    int gradient_alias; /* the same for its gradient */
    int copies;         /* 2: filled one step ahead, so two minibatches live at once */
    int producer;       /* op that writes it, or -1 */
    int consumers;
    bool gradient;              /* backward passes write its gradient */
    bool local, gradient_local; /* in the memory of the thread that runs a tile: see arena.c */
    bool memory;                /* some pass touches it */
    size_t offset, gradient_offset, copy_bytes;
} fn_buffer;

typedef enum { FN_LAYOUT_PLAIN, FN_LAYOUT_PANELS } fn_layout;

/* One parameter: canonical shape outside; inside either plain, or (k, n) in panels of 2 * lanes
 * columns ([panel][k][width], the last panel may be `lanes` wide), padded with zeros; n is the last
 * axis, k the product of all others. */
typedef struct {
    int rank, decay, trainable;
    int64_t shape[FN_MAX_RANK], count;
    fn_layout layout;
    int users;           /* ops that use it */
    size_t offset, size; /* floats in the block */
} fn_param;

typedef struct fn_op fn_op;
typedef struct fn_call fn_call;

typedef enum { FN_ATTR_NUMBER, FN_ATTR_ACTIVATION, FN_ATTR_LOSS, FN_ATTR_METRIC } fn_attr_kind;

typedef struct {
    char name[FN_NAME];
    fn_attr_kind kind;
    double fallback;
} fn_attribute;

enum {
    FN_SOURCE = 1, /* reads rows of a source; may run one step ahead */
    FN_ELEMENTWISE =
        2, /* column c of the output needs column c of the input only; may work in place */
    FN_NEEDS_OUTPUT = 4,   /* backward reads the output: declare it, memory is reused otherwise */
    FN_NEEDS_INPUT = 8,    /* backward reads the inputs' columns, padding never: declare it too */
    FN_WHOLE_BATCH = 16,   /* forward needs all rows at once: ends a segment */
    FN_STOP = 32,          /* the run ends here and is taken up again by the next call */
    FN_READS_ROWS = 64,    /* reads its input through fn_rows, so rows may lie anywhere */
    FN_SHARES_INPUT = 128, /* its outputs are the input's memory under other names */
    FN_PASSES_GRADIENT = 256, /* the gradients of in[0] and out[0] may be one memory */
    FN_FOLDS = 512,           /* a scale and offset per channel can be folded in: see fold.c */
    FN_CHEAP = 1024, /* forward and backward may run again, instead of keeping what they gave: see
                       again.c */
    FN_COPIES_GRADIENT = 2048 /* that of in[0] is that of out[0]: nothing is done in one memory */
};

/* One op of ops.def, as compiled for one SIMD level. Functions that an op has no use for are NULL.
 */
typedef struct {
    const fn_attribute *attributes;
    int n_attributes, min_inputs, max_inputs, n_outputs, max_params;
    int max_outputs; /* where it may have more than n_outputs */
    unsigned flags;
    /* Sizes and parameters, once shapes are known: NULL, or what is wrong (a static text). */
    const char *(*check)(fn_plan *plan, fn_op *op);
    void (*forward)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Once a minibatch: slices [c0, c1) of a copy of the weights, before forward (sgemm), or of the
     * rows of a source, before update (op->copy_bytes). */
    void (*prepare)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Gradients of the inputs from the gradient of the output. */
    void (*backward)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Adds the parameter gradients of the tile's rows, in order, to fn_lane; runs before backward.
     * The engine sums the lanes and hands them to fn_sink. Inputs and the gradient of the output
     * are there to read. */
    void (*gradient)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Of an op that needs numbers over all rows of the minibatch, both ways: `stats` adds what the
     * tile's rows know to the tile's lane of the op's own memory (op->copy_bytes), `merge` makes
     * one of all lanes, and only then forward (backward) goes on. Training only. */
    void (*stats)(const fn_call *call, const fn_op *op, fn_tile tile);
    void (*merge)(const fn_call *call, const fn_op *op, fn_tile tile);
    void (*stats_back)(const fn_call *call, const fn_op *op, fn_tile tile);
    void (*merge_back)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Instead of `gradient`: slices [c0, c1) of the parameter gradients over all rows, each handed
     * to fn_sink. */
    void (*update)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Once a minibatch: sums over its rows, in order. */
    void (*finish)(const fn_call *call, const fn_op *op, fn_tile tile);
    /* Before the first and after the last step of a call that trains: work put off is begun and
     * done. */
    void (*begin)(const fn_call *call, const fn_op *op);
    /* Of an op that only scales and shifts channels when it does not train: by what. One vector
     * more than there are channels may be written. */
    void (*scale)(const fn_call *call, const fn_op *op, float *factor, float *offset);
    void (*settle)(const fn_call *call, const fn_op *op);
} fn_op_impl;

struct fn_op {
    int kind, layer;
    const fn_op_impl *impl;
    int n_in, n_out, n_params;
    int in[FN_MAX_INPUTS], out[FN_MAX_INPUTS], params[FN_MAX_INPUTS];
    double attr[FN_MAX_ATTRIBUTES];
    unsigned flags; /* impl->flags, narrowed by check */
    double flops;   /* per row, forward */
    int slices;     /* update tiles */
    int prepares; /* prepare tiles; of an op that is not sgemm they run beside its forward tiles */
    bool wide;    /* forward is cut by columns as well as by rows */
    bool sgemm;   /* matrix products by OpenBLAS */
    bool sparse;  /* zeros in its input are skipped: see kernels/zeros.h */
    bool transposes;    /* backward makes panels of W^T */
    bool coasts;        /* rows of zero input may be made up for later: see kernels/dense_one.h */
    bool propagate;     /* the gradient of an input is wanted: see its buffer's `gradient` */
    unsigned adds;      /* bit i: parameter i is shared, and an earlier op wrote its gradient */
    int turn;           /* ops that share parameters hand over gradients one after the other */
    size_t scratch;     /* floats a thread needs while it runs this op */
    size_t lane;        /* floats of a lane: all its parameters' gradients, one behind the other */
    size_t lane_offset; /* floats from the first lane's start to this op's part of it */
    size_t local;       /* floats a thread keeps for this op between tiles, at local_offset */
    size_t joined;      /* the same, once a wide op runs in a chain after all */
    size_t local_offset;
    size_t state; /* doubles kept per run (metrics), at state_offset in work */
    size_t state_offset;
    size_t copy_offset; /* in the arena: what prepare makes, a copy of weights or of rows */
    size_t copy_bytes;
    int folds;            /* the op behind this one that is folded into it, or 0 */
    bool folded;          /* into the op before: there is nothing to do */
    size_t folded_offset; /* in the arena: weights and bias to compute with */
};

typedef enum {
    FN_PREPARE,
    FN_STATS,
    FN_MERGE,
    FN_FORWARD,
    FN_STATS_BACK,
    FN_MERGE_BACK,
    FN_GRADIENT,
    FN_BACKWARD,
    FN_UPDATE,
    FN_FINISH,
    FN_FLAT_NORM,
    FN_FLAT_APPLY
} fn_pass_kind;

typedef struct {
    fn_pass_kind kind;
    int op;
    bool again; /* it gives what an earlier phase had and did not keep */
} fn_pass;

/* The rows of a buffer, or of its gradient, that a pass reads or writes. */
typedef struct {
    int buffer;
    bool gradient, write;
} fn_touch;

/* Tiles of a job: row blocks x column blocks, or lanes, or slices, or one. */
typedef struct {
    int first, count;    /* its passes */
    int row_block;       /* rows in a tile; 0: all of them */
    int sub_block;       /* rows that go through all passes together; 0: the whole tile */
    bool lanes;          /* a tile is a lane: see fn_lane_rows */
    bool pictures;       /* rows are large: as many go through together as fit the cache */
    int col_block, cols; /* columns in a tile, and in all; 0: tiles span all columns */
    int col_group;       /* column blocks that go through the rows together */
    int slices;          /* > 0: one tile a slice */
    int ahead;
} fn_job;

typedef struct {
    int first, count; /* its jobs */
    bool prologue;    /* only before the first minibatch of a run */
    bool apply;       /* runs in apply_only calls */
    bool stop;        /* return to the caller when reached */
    double flops;     /* per row, all tiles */
} fn_phase;

enum {
    FN_MAX_TOUCHES = 4 * FN_MAX_INPUTS,
    FN_MAX_OPS = 4096,
    FN_MAX_COLUMNS = INT32_MAX / 2,
    FN_MAX_PHASE_TILES = 65535,
    FN_FLAT_SLICE = 16384,
    FN_BLOCK_BYTES = 384 * 1024, /* of a chain of pictures in cache: rows go through in blocks */
    FN_LANES_A_PART =
        16, /* most lanes of a part of the batch (options.lanes): threads end together */
    FN_LANE_SLICE = 2048 /* floats of a lane that an update tile sums */
};

struct fn_plan {
    fn_plan_options options;
    const struct fn_level *level;
    fn_buffer *buffers;
    fn_param *params;
    fn_op *ops;
    fn_pass *passes;
    fn_job *jobs;
    fn_phase *phases;
    int n_buffers, n_params, n_ops, n_passes, n_jobs, n_phases, n_sources;
    size_t param_size; /* floats in the block of all parameters */
    size_t arena_bytes;
    int lanes; /* sums of gradients kept apart, a power of two in each options.lanes part */
    size_t lane_stride; /* floats of a lane of all ops */
    size_t lane_memory; /* bytes from the arena's start to the first lane */
    size_t scratch;     /* floats a thread needs while it runs a tile */
    size_t local;       /* floats a thread keeps for all ops, behind its scratch */
    size_t tile_bytes;  /* of buffers that live in a tile, in each thread's memory */
    int local_rows;     /* most rows of such a buffer */
    size_t state;       /* doubles of all metrics and losses */
    size_t max_slices;  /* flat slices */
    int n_outputs;      /* arrays that output ops write */
    int losses[FN_MAX_OUTPUTS], n_losses;
    bool finished, flat, stops;
    bool shared;       /* a trained parameter is used by several ops */
    bool folds;        /* some op is folded into another */
    double step_flops; /* per row: all phases */
    char error[256];
};

struct fn_params {
    float *block[4]; /* weights, slot 1, slot 2, gradients; NULL until needed */
    fn_param *params;
    int n_params, lanes;
    size_t size;
    atomic_bool risky;    /* a weight may be NaN or infinite: no zero input may be skipped */
    atomic_llong version; /* of the weights; no two are the same, of any params */
};

struct fn_work {
    const fn_plan *plan; /* the one it was made for */
    char *arena;         /* 64-byte aligned */
    float *scratch;      /* per thread */
    double *state;       /* losses and metrics */
    double *norms;       /* partial sums of squares, one a flat slice */
    const float **rows;  /* where each row of each buffer lies: in the arena, or in a source */
    bool *in_place;      /* a buffer's rows are used where the source has them */
    size_t scratch_stride;
    int max_threads;
    int threads_used;  /* at most, by any run */
    int64_t folded;    /* the version of the params that folded copies were made from */
    bool folded_risky; /* as params.risky, of those copies */
    int64_t runs;      /* calls of fn_run so far */
    int resume_phase;  /* after a stop op */
    int64_t resume_step;
};

/* The optimizer's numbers for one step; [0] for biases, [1] for kernels (decay applies). */
typedef struct {
    float rate, momentum, beta_1, beta_2, rho, epsilon;
    float rest_1, rest_2, rest_rho;   /* 1 - beta_1, ... as exact as float32 can hold them */
    float decay, l1, l2, clip, scale; /* scale: global norm clipping */
    bool plain;                       /* no decay, l1, l2, clip or scale */
} fn_hyper;

/* Rows of up to FN_COASTED panels of a kernel that made up for the steps before last[k] already. */
enum { FN_COASTED = 3 };

typedef struct {
    int panels, width; /* of a panel; a narrow one stands alone */
    int64_t stride;    /* from panel to panel */
    int64_t count;     /* rows, those at where or (NULL) the first */
    const int32_t *where;
    int64_t step;
    int32_t *last;
    float *w, *s1;
} fn_coasting;

typedef struct {
    int slots;
    void (*apply)(const fn_hyper *h, int64_t n, const float *g, float *w, float *s1, float *s2);
    /* the same with g = x[k] * dz for rows k of `width` weights: no gradient in memory */
    void (*rank1)(const fn_hyper *h, int64_t count, const int32_t *where, int width, const float *x,
                  const float *dz, float *w, float *s1, float *s2);
    /* steps without a gradient, up to c->step, when `plain`; NULL: they depend on the step */
    void (*coast)(const fn_hyper *h, const fn_coasting *c);
    bool idle; /* a zero gradient changes nothing when `plain` */
} fn_optimizer_kernel;

struct fn_call {
    const fn_plan *plan;
    fn_params *params;
    fn_work *work;
    const fn_run_args *args;
    const fn_optimizer_kernel *optimizer;
    int64_t step, n_steps;      /* of this call */
    int rows, rows_ahead;       /* of this minibatch, of the next */
    int64_t first, first_ahead; /* place of its first row in the order */
    fn_hyper hyper[2];
    int phase;
    bool diverged_now;
    atomic_bool diverged;
    atomic_llong bad; /* the first bad value: row of this call << 32 | column, or -1 */
    atomic_int bad_source;
    fn_result *result;
};

/* One SIMD level: the kernels of ops.def and of the optimizers, compiled for it. */
typedef struct fn_level {
    const char *name;
    int lanes, row_tile;
    double gflops; /* what one core reaches, roughly: for the cost model */
    const fn_op_impl *const *ops;
    const fn_optimizer_kernel *optimizers;
    void (*vmath)(const char *function, int64_t n, const float *x, float *y);
    double (*fma_peak)(double seconds);
    const struct fn_km_kernels *kmeans;
} fn_level;

const fn_level *fn_level_current(void);
int fn_table_find(const char *table, const char *name);

static inline bool fn_is_f32(const fn_plan *plan, int buffer) {
    return plan->buffers[buffer].dtype == FN_F32;
}

void *fn_alloc(size_t bytes); /* zeroed, 64-byte aligned, or NULL */
void fn_free(void *memory);
void *fn_grow(void *array, int *capacity, int count, size_t item); /* room for one more */

int fn_plan_fail(fn_plan *plan, const char *format, ...);
void fn_plan_share_memory(fn_plan *plan);
void fn_plan_fold(fn_plan *plan);
size_t fn_folded_bytes(const fn_plan *plan, const fn_op *op);
void fn_fold(const fn_call *call);
void fn_params_touch(fn_params *params); /* weights have changed */
void fn_plan_lay_out_params(fn_plan *plan);
void fn_plan_lay_out_lanes(fn_plan *plan);
fn_status fn_plan_lay_out_arena(fn_plan *plan);
const char *fn_plan_phases(fn_plan *plan);
const char *fn_plan_again(fn_plan *plan);
int fn_touches(const fn_plan *plan, const fn_pass *pass, fn_touch *list); /* reads, then writes */
/* Whether the gradient of an op's first input is the very one of its output. */
static inline bool fn_copies_in_place(const fn_plan *plan, const fn_op *op) {
    if (!(op->flags & FN_COPIES_GRADIENT)) return false;
    const fn_buffer *in = &plan->buffers[op->in[0]], *out = &plan->buffers[op->out[0]];
    return in->gradient && in->gradient_alias == out->gradient_alias;
}
/* Tiles of the job are blocks of whole rows, and all rows that it touches are theirs. */
static inline bool fn_is_chain(const fn_job *job) {
    return !job->ahead && !job->slices && !job->col_block && (job->row_block || job->lanes);
}
void fn_work_clean(fn_work *work);
size_t fn_thread_floats(const fn_plan *plan); /* what each thread needs beside the arena */
void fn_work_point(fn_work *work, const fn_plan *plan, int buffer);
void fn_params_check(fn_params *params); /* look for NaN and infinity: see `risky` */
int fn_job_tiles(const fn_plan *plan, const fn_job *job, int rows);
int fn_panel_width(int64_t n, int64_t column, int lanes);
size_t fn_param_size(const fn_param *p, int lanes); /* floats inside, without padding */
void fn_lane_rows(const fn_plan *plan, int rows, int lane, int *r0, int *r1);

static inline float *fn_scratch(const fn_call *call, fn_tile tile) {
    return call->work->scratch + (size_t)tile.thread * call->work->scratch_stride;
}
/* Behind a thread's scratch: what ops keep (fn_local), buffers that live in a tile, addresses of
 * their rows. */
static inline char *fn_tile_memory(const fn_call *call, fn_tile tile) {
    return (char *)(fn_scratch(call, tile) + call->plan->scratch + call->plan->local);
}

/* Row `row` of a buffer of this minibatch (or the next one, in a tile that runs ahead). The row is
 * one of the tile's own, unless the tile spans the whole minibatch. */
static inline char *fn_row_bytes(const fn_call *call, fn_tile tile, int buffer, int row) {
    const fn_buffer *b = &call->plan->buffers[buffer];
    if (b->local)
        return fn_tile_memory(call, tile) + b->offset + (size_t)(row - tile.r0) * b->row_bytes;
    const size_t copy =
        b->copies == 2 ? (size_t)((call->step + tile.ahead) & 1) * b->copy_bytes : 0;
    return call->work->arena + b->offset + copy + (size_t)row * b->row_bytes;
}
static inline float *fn_row(const fn_call *call, fn_tile tile, int buffer, int row) {
    return (float *)fn_row_bytes(call, tile, buffer, row);
}
static inline float *fn_gradient_row(const fn_call *call, fn_tile tile, int buffer, int row) {
    const fn_buffer *b = &call->plan->buffers[buffer];
    if (b->gradient_local)
        return (float *)(fn_tile_memory(call, tile) + b->gradient_offset +
                         (size_t)(row - tile.r0) * b->row_bytes);
    return (float *)(call->work->arena + b->gradient_offset + (size_t)row * b->row_bytes);
}
static inline int64_t fn_ld(const fn_call *call, int buffer) {
    return call->plan->buffers[buffer].ld;
}
/* Where the rows of a float32 buffer lie, from the tile's first row on: in the arena, or in the
 * source they are used from. Only whole columns may be read, never padding. Good until the next
 * call for the same tile. */
static inline const float **fn_rows(const fn_call *call, fn_tile tile, int buffer) {
    const fn_buffer *b = &call->plan->buffers[buffer];
    if (b->local && !call->work->in_place[buffer]) {
        const float **rows = (const float **)(fn_tile_memory(call, tile) + call->plan->tile_bytes);
        for (int r = tile.r0; r < tile.r1; r++) rows[r - tile.r0] = fn_row(call, tile, buffer, r);
        return rows;
    }
    const size_t copy = b->copies == 2 ? (size_t)((call->step + tile.ahead) & 1) : 0;
    return call->work->rows + ((size_t)buffer * 2 + copy) * (size_t)call->plan->options.max_rows +
           tile.r0;
}
/* The parameter gradients of an op that the rows of one lane add up to, in the layout of the
 * parameters: parameter i of the op begins at fn_lane_offset. */
static inline float *fn_lane(const fn_call *call, const fn_op *op, int lane) {
    return (float *)(call->work->arena + call->plan->lane_memory) +
           (size_t)lane * call->plan->lane_stride + op->lane_offset;
}
static inline size_t fn_lane_offset(const fn_plan *plan, const fn_op *op, int i) {
    size_t at = 0;
    for (int j = 0; j < i; j++) at += plan->params[op->params[j]].size;
    return at;
}
/* What an op computes with: its parameters, or with another op folded in a copy of two. */
static inline float *fn_weights(const fn_call *call, const fn_op *op, int i) {
    if (op->folds)
        return (float *)(call->work->arena + op->folded_offset) +
               (i ? call->plan->params[op->params[0]].size : 0);
    return call->params->block[0] + call->plan->params[op->params[i]].offset;
}
static inline const float *fn_bias(const fn_call *call, const fn_op *op) {
    return op->n_params > 1 || op->folds ? fn_weights(call, op, 1) : NULL;
}
/* A weight of the op may be NaN or infinite: no zero input may be skipped. */
static inline bool fn_risky(const fn_call *call, const fn_op *op) {
    return atomic_load_explicit(&call->params->risky, memory_order_relaxed) ||
           (op->folds && call->work->folded_risky);
}
/* What a loss op keeps in work->state: sums since the last reset, and of the minibatch that runs
 * the sum of weights and scale / that. */
enum {
    FN_LOSS_SUM_OF_LOSSES,
    FN_LOSS_SUM_OF_WEIGHTS,
    FN_LOSS_WEIGHT,
    FN_LOSS_INVERSE,
    FN_LOSS_STATE,
    FN_LOSS_SCALE = 4 /* the attribute's number */
};
static inline double *fn_loss_sums(const fn_work *work, const fn_op *op) {
    return work->state + op->state_offset;
}

/* Whether what a stamp (FN_PAD floats) stands for was made in this step; it is now. */
static inline bool fn_made_now(const fn_call *call, float *stamp) {
    int64_t *made = (int64_t *)stamp;
    const int64_t now[2] = {call->work->runs, call->step};
    const bool fresh = made[0] == now[0] && made[1] == now[1];
    made[0] = now[0];
    made[1] = now[1];
    return fresh;
}
/* What a thread keeps for an op, and whether it was made in this step: weights may have changed
 * since. */
static inline float *fn_local(const fn_call *call, const fn_op *op, fn_tile tile, bool *fresh) {
    float *local = fn_scratch(call, tile) + call->plan->scratch + op->local_offset;
    *fresh = fn_made_now(call, local);
    return local + FN_PAD;
}

/* A finished piece of gradient of the op's parameter i: applied at once, or written to the flat
 * buffer. */
void fn_sink(const fn_call *call, const fn_op *op, int i, size_t at, int64_t n, const float *g);
/* Slice `slice` of the lanes of an op, summed in a fixed tree and handed to fn_sink. */
void fn_update_lanes(const fn_call *call, const fn_op *op, int slice);
/* n floats of every lane, from `first` in lane 0 on, summed in a fixed tree. */
void fn_sum_lanes(const fn_call *call, const float *first, int64_t n, float *sum);
void fn_flat_pass(const fn_call *call, fn_pass_kind kind, int index);

#endif
