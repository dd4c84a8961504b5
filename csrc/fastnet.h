/* fastnet.h - the whole C API of the engine. Python reaches it through fastnet/_core.pyx alone.
 *
 * A network is described to a *plan* (what to compute, immutable once finished), its weights live
 * in *params*, and every concurrent caller brings a *work* (one arena). fn_run() trains or predicts
 * many minibatches in one call. Nothing here prints, exits or keeps global state but the thread
 * team and the dispatch table. Functions that can fail return NULL or a status; fn_plan_error()
 * says why.
 */
#ifndef FASTNET_H
#define FASTNET_H

#include <stddef.h>
#include <stdint.h>

typedef enum { FN_F32, FN_F64, FN_I32, FN_I64, FN_U8, FN_I8, FN_BOOL } fn_dtype;

typedef enum {
    FN_OK,
    FN_ENOMEM,    /* an allocation failed; nothing was changed */
    FN_EINVAL,    /* the plan is wrong: see fn_plan_error */
    FN_EINPUT,    /* a value read from a source is NaN or infinite: see fn_result.bad_*, ... */
    FN_EDIVERGED, /* the loss is not finite; ... weights are as after fn_result.steps steps */
    FN_STOPPED    /* the plan reached a stop op; call fn_run again to go on */
} fn_status;

typedef enum { FN_PREDICT, FN_EVALUATE, FN_TRAIN } fn_mode;

/* How gradients reach the weights: applied where they are produced, or through one flat buffer. */
typedef enum { FN_UPDATE_FUSED, FN_UPDATE_FLAT, FN_UPDATE_NONE } fn_update;

typedef enum { FN_GEMM_AUTO, FN_GEMM_TILES, FN_GEMM_SGEMM } fn_gemm;

/* Values between ops that cost little: kept for the way back, or computed again. */
typedef enum { FN_AGAIN_AUTO, FN_AGAIN_NEVER, FN_AGAIN_ALWAYS } fn_again;

enum {
    FN_MAX_RANK = 6,
    FN_MAX_INPUTS = 8,
    FN_MAX_SOURCES = 32,
    FN_MAX_OUTPUTS = 16,
    FN_MAX_THREADS = 64
};

typedef struct fn_plan fn_plan;
typedef struct fn_params fn_params;
typedef struct fn_work fn_work;

/* ---- plan: describe, then finish ---- */

typedef struct {
    fn_mode mode;
    fn_update update;
    fn_gemm gemm;
    int max_rows; /* >= 1; the plan runs any smaller minibatch too */
    int lanes; /* >= 1: gradients are summed in this many fixed parts of the batch, then in a tree
                */
    fn_again again;
} fn_plan_options;

fn_plan *fn_plan_new(const fn_plan_options *options);
void fn_plan_free(fn_plan *plan);

/* A buffer of rows (axis 0 is the batch) with `rank` further axes. Returns its id, or -1. */
int fn_plan_buffer(fn_plan *plan, fn_dtype dtype, int rank, const int64_t *shape);
/* A parameter with its canonical shape. decay: weight decay, L1 and L2 apply (kernels, not biases).
 * trainable 0: statistics that only set_weights changes. Returns its id, or -1. */
int fn_plan_param(fn_plan *plan, int rank, const int64_t *shape, int decay, int trainable);
/* Begin an op by its name in ops.def, then add to it; returns its id, or -1. layer: for messages.
 */
int fn_plan_op(fn_plan *plan, const char *name, int layer);
int fn_op_input(fn_plan *plan, int op, int buffer);
int fn_op_output(fn_plan *plan, int op, int buffer);
int fn_op_param(fn_plan *plan, int op, int param);
int fn_op_number(fn_plan *plan, int op, const char *attribute, double value);
int fn_op_string(fn_plan *plan, int op, const char *attribute, const char *value);
/* Check shapes, choose kernels, lay out memory, cut the work into phases of tiles. */
fn_status fn_plan_finish(fn_plan *plan);
const char *fn_plan_error(const fn_plan *plan);

/* ---- what a finished plan says of itself ---- */

typedef struct {
    const char *name;
    int layer, n_inputs, n_outputs, n_params;
    const int *inputs, *outputs, *params;
    double flops; /* per row, forward */
} fn_op_info;

typedef struct {
    size_t arena_bytes, param_count, param_bytes;
    size_t thread_bytes; /* of each thread that runs tiles, beside the arena */
    double flops;        /* per row and run: forward, and backward when the plan trains */
    int n_ops, n_buffers, n_params, n_phases, n_metrics;
    const char *simd;
} fn_plan_info;

void fn_plan_describe(const fn_plan *plan, fn_plan_info *info);
void fn_plan_op_info(const fn_plan *plan, int op, fn_op_info *info);
/* memory: 0 none, 1 the arena, 2 the tile's, for as many rows as go through a chain together.
 * offset: bytes from its start; row_bytes: distance between rows. */
void fn_plan_buffer_info(const fn_plan *plan, int buffer, fn_dtype *dtype, int *rank,
                         int64_t *shape, int *memory, size_t *offset, size_t *row_bytes);
/* The phases as text, one line each, into at most `size` bytes; returns the length wanted. */
size_t fn_plan_schedule(const fn_plan *plan, char *text, size_t size);
int fn_plan_op_attribute(const fn_plan *plan, int op, int index, const char **name, double *value);

/* ---- params ---- */

fn_params *fn_params_new(const fn_plan *plan);
void fn_params_free(fn_params *params);
int fn_params_match(const fn_params *params, const fn_plan *plan);
/* Values of a parameter in canonical order; -1 if there is no such parameter. */
int64_t fn_params_count(const fn_params *params, int param);
/* part 0: weights, 1 and 2: optimizer slots, 3: gradients of the last unfused run. Canonical order.
 */
fn_status fn_params_get(const fn_params *params, int param, int part, float *out);
fn_status fn_params_set(fn_params *params, int param, int part, const float *values);
fn_status fn_params_need_slots(fn_params *params, int n_slots, float fill);
fn_status fn_params_need_gradient(fn_params *params);
void fn_params_copy_weights(fn_params *to, const fn_params *from);
/* Index of the first parameter that holds NaN or infinity, or -1. */
int fn_params_nonfinite(const fn_params *params);
size_t fn_params_bytes(const fn_params *params);

/* ---- work ---- */

fn_work *fn_work_new(const fn_plan *plan, int max_threads);
void fn_work_free(fn_work *work);
/* Where a buffer of the last minibatch lies, for ops written in Python; NULL if it has no memory.
 */
void *fn_work_buffer(fn_work *work, const fn_plan *plan, int buffer, int gradient);
const double *fn_work_metric(const fn_work *work, const fn_plan *plan, int metric, int *n);
/* Sums of the index-th loss since the last reset: weight * loss over rows, and the weights. NULL
 * past the end. */
const double *fn_work_loss(const fn_work *work, const fn_plan *plan, int index);
void fn_work_reset_metrics(fn_work *work, const fn_plan *plan);

/* ---- run ---- */

typedef struct {
    const void *data; /* row i lies at data + i * row_bytes and holds contiguous values */
    fn_dtype dtype;
    size_t row_bytes;
    /* CSR rows (see fn_csr_check), read as float32: the values in data, FN_F32 or FN_F64. */
    const void *indptr, *indices;
    fn_dtype index_dtype;
} fn_source;

typedef struct {
    const char *name; /* in optimizers.def */
    double momentum, beta_1, beta_2, rho, epsilon;
    double weight_decay, l1, l2, clipvalue, global_clipnorm;
} fn_optimizer;

typedef struct {
    fn_source sources[FN_MAX_SOURCES];
    int n_sources;
    const int64_t *order; /* row numbers, one per row in turn; NULL: 0, 1, 2, ... */
    int64_t n_rows;       /* rows this call goes through, from `first` on */
    int64_t first;
    int batch_size;      /* <= max_rows; the last minibatch may be smaller */
    const double *rates; /* learning rate of each step of the call (train) */
    const fn_optimizer *optimizer;
    int64_t step; /* steps trained before this call: keys randomness and Adam's correction */
    uint64_t seed;
    float *outputs[FN_MAX_OUTPUTS]; /* predict: (n_rows, units) each, C order */
    int threads;    /* 0: as the team says and the cost model allows; n: exactly that many */
    int apply_only; /* skip to the optimizer: gradients are already in params */
} fn_run_args;

typedef struct {
    double loss;                 /* sum over rows of weight * loss; of all losses, each scaled */
    double weight;               /* sum of weights of the first loss */
    double last_loss;            /* mean loss of the last minibatch, of all losses as above */
    int64_t steps;               /* minibatches completed */
    int64_t bad_row, bad_column; /* FN_EINPUT: row number in the source, column in the row */
    int bad_source, threads;
    double seconds;
} fn_result;

fn_status fn_run(const fn_plan *plan, fn_params *params, fn_work *work, const fn_run_args *args,
                 fn_result *result);
/* Whether no index of n CSR rows leads outside of `entries` values and `columns`. indptr (n + 1)
 * and indices: FN_I32 or FN_I64. ascending: the columns of each row ascend, so none comes twice, as
 * it must be in sources. */
int fn_csr_check(int64_t n, int64_t columns, int64_t entries, const void *indptr,
                 const void *indices, fn_dtype dtype, int *ascending);
/* Row numbers 0..n-1 in an order that depends on seed and epoch alone. */
void fn_shuffle(uint64_t seed, uint64_t epoch, int64_t n, int64_t *order);

/* ---- names, threads, machine ---- */

/* The i-th name of table "op", "activation", "loss", "optimizer" or "metric"; NULL past the
   end. */
const char *fn_table_name(const char *table, int i);
/* Slots an optimizer keeps per weight; -1 for an unknown name. */
int fn_optimizer_slots(const char *name);

const char *fn_simd_level(void);
const char *fn_simd_supported(int i);
int fn_simd_choose(
    const char *level); /* "base", "v3", "v4" or NULL for the best; 0 if impossible */
const char *fn_blas_config(void);
const char *fn_blas_core(void);
void fn_blas_one_thread(void); /* also after somebody else (threadpoolctl) has changed it */

void fn_set_threads(int n);              /* 0: back to automatic */
int fn_get_threads(void);                /* what a large run would use now */
int fn_cpus_available(const char **why); /* affinity and cgroup quota, whichever is smaller */
void fn_fork_guard(void);                /* install the atfork handlers; idempotent */
int64_t fn_threads_seen(void);           /* bit i: thread i of the team has run a tile (tests) */
void fn_threads_seen_reset(void);
int64_t fn_backoffs(void); /* times helpers sat out because the machine was busy */

double fn_fma_peak(double seconds); /* GFLOP/s of this thread at the current SIMD level */
void fn_vmath(const char *function, int64_t n, const float *x, float *y); /* tests of vmath.h */
void fn_alloc_fail_after(int64_t n); /* tests: the n-th allocation from now fails; < 0 never */
int64_t fn_alloc_count(void);

#endif
