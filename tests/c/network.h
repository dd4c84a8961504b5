/* network.h - what the C tests share: checks, seeded numbers, and a small dense network in one
 * call.
 *
 * A test is a function that CHECKs; run_tests() runs each at every SIMD level and prints a line for
 * it.
 */
#ifndef FN_TEST_NETWORK_H
#define FN_TEST_NETWORK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastnet.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#ifdef __SANITIZE_THREAD__
enum {
    SGEMM = 0,
    FORKS = 0
}; /* OpenBLAS is not instrumented; the sanitizer's own threads do not fork */
#else
enum { SGEMM = 1, FORKS = 1 };
#endif

/* ---- checks ---- */

static int failures;

#define CHECK(condition, ...)                                      \
    do {                                                           \
        if (!(condition) && failures++ < 20) {                     \
            printf("  %s:%d: %s", __FILE__, __LINE__, #condition); \
            printf("  " __VA_ARGS__);                              \
            printf("\n");                                          \
        }                                                          \
    } while (0)

typedef struct {
    const char *name;
    void (*run)(void);
} test;

static int run_tests(int argc, char **argv, const test *tests, int n) {
    int failed = 0, wanted;
    const char *level;
    for (int l = 0; (level = fn_simd_supported(l)); l++) {
        wanted = argc <= 1;
        for (int i = 1; i < argc; i++) wanted |= !strcmp(argv[i], level);
        if (!wanted || !fn_simd_choose(level)) continue;
        for (int i = 0; i < n; i++) {
            failures = 0;
            tests[i].run();
            printf("%s %s: %s\n", failures ? "FAIL" : "ok  ", level, tests[i].name);
            fflush(stdout);
            failed += failures != 0;
        }
    }
    return failed != 0;
}

/* ---- seeded numbers ---- */

static _Thread_local uint64_t random_state = 1;

static inline uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static inline float random_float(void) { return (float)(random_bits() >> 40) / 8388608.0f - 1; }

/* Blocks of exactly the size that is used: the address sanitizer sees a read past the end. */
static inline void *block(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) abort();
    return memory;
}

static inline float *random_block(int64_t n) {
    float *x = block((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) x[i] = random_float();
    return x;
}

static inline int64_t *shuffled(uint64_t epoch, int64_t n) {
    int64_t *order = block((size_t)n * sizeof(int64_t));
    fn_shuffle(7, epoch, n, order);
    return order;
}

/* ---- a network ---- */

typedef enum { CROSS_ENTROPY, MSE, WEIGHTED_MSE, STOP_OP } head;

typedef struct {
    int widths[7]; /* inputs, hidden units ..., outputs; a zero ends them */
    fn_mode mode;
    fn_update update;
    fn_gemm gemm;
    int max_rows, lanes;
    double dropout;         /* behind the first hidden layer, if positive */
    const char *activation; /* of hidden layers; NULL: relu */
    head head;              /* what trains or evaluates the outputs */
    double scale, offset;   /* of the input; scale 0 means 1 */
    int frozen;             /* the last layer is not trained */
    int backwards;          /* number the buffers from the output to the input */
    int metric;             /* an accuracy metric (CROSS_ENTROPY) or squared errors */
} spec;

typedef struct {
    spec spec;
    fn_plan *plan;
    fn_params *params;
    fn_work *work;
    int outputs; /* buffer of the last dense layer */
} network;

typedef struct {
    fn_plan *plan;
    int next, numbered, bad;
    int ids[16];
} maker;

/* The first call that fails says why; here that is memory, always. */
static inline void need(maker *m, int result) {
    if (result < 0 && !m->bad)
        CHECK(!strcmp(fn_plan_error(m->plan), "out of memory"), "%s", fn_plan_error(m->plan));
    m->bad |= result < 0;
}

/* The next buffer. Backwards networks ask for all of them at the start, in reverse. */
static inline int next_buffer(maker *m, fn_dtype dtype, int cols) {
    if (m->numbered) return m->ids[m->next++];
    const int64_t shape[1] = {cols};
    const int id = fn_plan_buffer(m->plan, dtype, 1, shape);
    need(m, id);
    return id;
}

static inline int add_op(maker *m, const char *name, int input, int output) {
    const int op = fn_plan_op(m->plan, name, -1);
    need(m, op);
    if (input >= 0) need(m, fn_op_input(m->plan, op, input));
    if (output >= 0) need(m, fn_op_output(m->plan, op, output));
    return op;
}

static inline int add_input(maker *m, int source, fn_dtype dtype, int cols, const spec *s) {
    const int buffer = next_buffer(m, dtype, cols), op = add_op(m, "input", -1, buffer);
    need(m, fn_op_number(m->plan, op, "source", source));
    if (s && s->scale != 0) need(m, fn_op_number(m->plan, op, "scale", s->scale));
    if (s) need(m, fn_op_number(m->plan, op, "offset", s->offset));
    return buffer;
}

static inline int add_dense(maker *m, int input, int d_in, int units, int trainable) {
    const int64_t kernel[2] = {d_in, units}, bias[1] = {units};
    const int output = next_buffer(m, FN_F32, units), op = add_op(m, "dense", input, output);
    const int w = fn_plan_param(m->plan, 2, kernel, 1, trainable);
    need(m, w);
    const int b = fn_plan_param(m->plan, 1, bias, 0, trainable);
    need(m, b);
    need(m, fn_op_param(m->plan, op, w));
    need(m, fn_op_param(m->plan, op, b));
    return output;
}

static inline int add_hidden(maker *m, const spec *s, int layer, int input) {
    const int width = s->widths[layer + 1];
    int h = add_dense(m, input, s->widths[layer], width, 1), next;
    next = next_buffer(m, FN_F32, width);
    const int op = add_op(m, "activation", h, next);
    need(m, fn_op_string(m->plan, op, "function", s->activation ? s->activation : "relu"));
    if (layer > 0 || s->dropout <= 0) return next;
    h = next, next = next_buffer(m, FN_F32, width);
    need(m, fn_op_number(m->plan, add_op(m, "dropout", h, next), "rate", s->dropout));
    return next;
}

static inline void add_head(maker *m, const spec *s, int outputs, int units) {
    if (s->mode == FN_PREDICT) {
        add_op(m, "output", outputs, -1);
        return;
    }
    if (s->head == STOP_OP) {
        add_op(m, "stop", outputs, -1);
        return;
    }
    const int targets = s->head == CROSS_ENTROPY ? add_input(m, 1, FN_I32, 1, NULL)
                                                 : add_input(m, 1, FN_F32, units, NULL);
    const int weights = s->head == WEIGHTED_MSE ? add_input(m, 2, FN_F32, 1, NULL) : -1;
    const int loss = add_op(m, "loss", outputs, next_buffer(m, FN_F32, 1));
    need(m, fn_op_input(m->plan, loss, targets));
    if (weights >= 0) need(m, fn_op_input(m->plan, loss, weights));
    const char *kind = s->head == CROSS_ENTROPY ? "cross_entropy" : "mse";
    need(m, fn_op_string(m->plan, loss, "kind", kind));
    if (!s->metric) return;
    const int metric = add_op(m, "metric", outputs, -1);
    need(m, fn_op_input(m->plan, metric, targets));
    kind = s->head == CROSS_ENTROPY ? "accuracy" : "squared";
    need(m, fn_op_string(m->plan, metric, "kind", kind));
}

/* All buffers of a chain without dropout, last one first: ids[i] is the i-th that will be asked
 * for. */
static inline void number_backwards(maker *m, const spec *s) {
    int cols[16], n = 0, i = 1;
    cols[n++] = s->widths[0];
    for (; s->widths[i + 1]; i++) cols[n++] = s->widths[i], cols[n++] = s->widths[i];
    cols[n++] = s->widths[i];
    cols[n++] = s->widths[i]; /* targets and loss of an MSE head */
    cols[n++] = 1;
    for (i = n - 1; i >= 0; i--) m->ids[i] = next_buffer(m, FN_F32, cols[i]);
    m->numbered = 1;
}

/* A finished plan, or NULL (with the status in `status`, unless that is NULL). */
static inline fn_plan *make_plan(const spec *s, int *outputs, fn_status *status) {
    const fn_plan_options options = {.mode = s->mode,
                                     .update = s->update,
                                     .gemm = s->gemm,
                                     .max_rows = s->max_rows,
                                     .lanes = s->lanes ? s->lanes : 1};
    maker m = {.plan = fn_plan_new(&options)};
    fn_status result = FN_ENOMEM;
    if (m.plan) {
        if (s->backwards) number_backwards(&m, s);
        int h = add_input(&m, 0, FN_F32, s->widths[0], s), layer = 0;
        for (; s->widths[layer + 2]; layer++) h = add_hidden(&m, s, layer, h);
        h = add_dense(&m, h, s->widths[layer], s->widths[layer + 1], !s->frozen);
        add_head(&m, s, h, s->widths[layer + 1]);
        if (!m.bad) result = fn_plan_finish(m.plan);
        if (outputs) *outputs = h;
    }
    if (status) *status = result;
    if (result == FN_OK) return m.plan;
    fn_plan_free(m.plan);
    return NULL;
}

static inline void fill_params(fn_params *params, const spec *s) {
    random_state = 11;
    for (int layer = 0; layer < 5 && s->widths[layer + 1]; layer++) {
        const int k = s->widths[layer], n = s->widths[layer + 1];
        float *w = random_block((int64_t)k * n), *b = random_block(n);
        const float scale = sqrtf(3.0f / (float)k);
        for (int i = 0; i < k * n; i++) w[i] *= scale;
        fn_params_set(params, 2 * layer, 0, w);
        fn_params_set(params, 2 * layer + 1, 0, b);
        free(w), free(b);
    }
}

static inline network make_network(spec s) {
    network n = {.spec = s};
    n.plan = make_plan(&s, &n.outputs, NULL);
    if (!n.plan) {
        printf("  no plan\n");
        exit(1);
    }
    n.params = fn_params_new(n.plan);
    n.work = fn_work_new(n.plan, 8);
    fill_params(n.params, &s);
    if (s.mode == FN_TRAIN && s.update != FN_UPDATE_FUSED) fn_params_need_gradient(n.params);
    return n;
}

static inline void free_network(network *n) {
    fn_work_free(n->work);
    fn_params_free(n->params);
    fn_plan_free(n->plan);
}

/* ---- data and training ---- */

typedef struct {
    int rows, cols, units;
    float *x, *targets, *weights;
    int32_t *classes;
    fn_source instead; /* of x, if it has data */
} data;

static inline data make_data(int rows, int cols, int units) {
    random_state = 5;
    data d = {.rows = rows, .cols = cols, .units = units};
    d.x = random_block((int64_t)rows * cols);
    d.targets = random_block((int64_t)rows * units);
    d.weights = random_block(rows);
    d.classes = block((size_t)rows * sizeof(int32_t));
    for (int i = 0; i < rows; i++) {
        d.classes[i] = (int32_t)(random_bits() % (uint64_t)units);
        d.weights[i] = d.weights[i] * d.weights[i] + 0.125f;
    }
    for (int64_t i = 0; i < (int64_t)rows * cols; i++)
        if (random_bits() % 2) d.x[i] = random_bits() % 4 ? 0.0f : -0.0f;
    return d;
}

static inline void free_data(data *d) {
    free(d->x), free(d->targets), free(d->weights), free(d->classes);
}

static inline fn_source rows_of(const void *values, fn_dtype dtype, size_t row_bytes) {
    return (fn_source){.data = values, .dtype = dtype, .row_bytes = row_bytes};
}

static inline void set_sources(fn_run_args *a, const network *n, const data *d) {
    const size_t f = sizeof(float);
    a->sources[0] = d->instead.data ? d->instead : rows_of(d->x, FN_F32, (size_t)d->cols * f);
    a->sources[1] = n->spec.head == CROSS_ENTROPY
                        ? rows_of(d->classes, FN_I32, sizeof(int32_t))
                        : rows_of(d->targets, FN_F32, (size_t)d->units * f);
    a->sources[2] = rows_of(d->weights, FN_F32, f);
    a->n_sources = 3;
}

/* An optimizer with numbers that suit it; regular: weight decay, L1, L2 and clipping as well. */
static inline fn_optimizer make_optimizer(const char *name, int regular) {
    fn_optimizer o = {.name = name, .momentum = 0.9, .rho = 0.9, .epsilon = 1e-7};
    if (strstr(name, "adam")) o.beta_1 = 0.9, o.beta_2 = 0.999;
    if (regular) o.weight_decay = 0.01, o.l1 = 1e-3, o.l2 = 1e-2, o.clipvalue = 0.02;
    return o;
}

typedef struct {
    int batch, threads, epochs;
    fn_optimizer optimizer;
    double rate;
} training;

static inline double *make_rates(int64_t n, double rate) {
    double *rates = block((size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++) rates[i] = rate * (1 + 0.01 * (double)i);
    return rates;
}

/* Fresh slots, then epochs in shuffled order; returns the last status. */
static inline fn_status train(network *n, const data *d, const training *t) {
    const int64_t steps = (d->rows + t->batch - 1) / t->batch;
    double *rates = make_rates(steps, t->rate > 0 ? t->rate : 0.01);
    fn_status status = fn_params_need_slots(n->params, fn_optimizer_slots(t->optimizer.name), 0.1f);
    fn_run_args a = {.n_rows = d->rows,
                     .batch_size = t->batch,
                     .rates = rates,
                     .seed = 99,
                     .optimizer = &t->optimizer,
                     .threads = t->threads};
    set_sources(&a, n, d);
    for (int epoch = 0; epoch < t->epochs && status == FN_OK; epoch++) {
        int64_t *order = shuffled((uint64_t)epoch, d->rows);
        fn_result result;
        a.order = order;
        status = fn_run(n->plan, n->params, n->work, &a, &result);
        a.step += result.steps;
        CHECK(status != FN_OK || result.steps == steps);
        free(order);
    }
    free(rates);
    return status;
}

/* ---- bits ---- */

/* Weights and the first `slots` slots in canonical order, one after the other. */
typedef struct {
    size_t n;
    float *values;
} snapshot;

static inline snapshot take_part(const network *n, int first_part, int last_part) {
    snapshot s = {0, NULL};
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (int part = first_part; part <= last_part; part++)
            for (int layer = 0; layer < 5 && n->spec.widths[layer + 1]; layer++) {
                const int units = n->spec.widths[layer + 1], k = n->spec.widths[layer];
                if (pass) {
                    CHECK(fn_params_get(n->params, 2 * layer, part, s.values + at) == FN_OK);
                    CHECK(fn_params_get(n->params, 2 * layer + 1, part,
                                        s.values + at + k * units) == FN_OK);
                }
                at += (size_t)(k * units + units);
            }
        if (!pass) s = (snapshot){at, block(at * sizeof(float))};
    }
    return s;
}

static inline snapshot take(const network *n, int slots) { return take_part(n, 0, slots); }

/* A network trained from the start, and what it holds then. */
static inline snapshot train_new(spec s, const data *d, const training *t) {
    network n = make_network(s);
    const fn_status status = train(&n, d, t);
    CHECK(status == FN_OK, "status %d", status);
    const snapshot result = take(&n, fn_optimizer_slots(t->optimizer.name));
    free_network(&n);
    return result;
}

static inline int same(snapshot a, snapshot b) {
    return a.n == b.n && !memcmp(a.values, b.values, a.n * sizeof(float));
}

static inline int same_and_free(snapshot a, snapshot b) {
    const int result = same(a, b);
    free(b.values);
    return result;
}

/* Largest difference over largest value. */
static inline double difference(snapshot a, snapshot b) {
    double most = 0, largest = 0;
    for (size_t i = 0; i < a.n; i++) {
        most = fmax(most, fabs((double)a.values[i] - b.values[i]));
        largest = fmax(largest, fabs((double)a.values[i]));
    }
    return most / largest;
}

/* Rows of a prediction; rows `order[first ...]`, or first ... when order is NULL. */
static inline fn_status predict(network *n, fn_source source, const int64_t *order, int64_t first,
                                int64_t rows, int batch, int threads, float *output) {
    fn_run_args a = {.n_rows = rows,
                     .first = first,
                     .batch_size = batch,
                     .order = order,
                     .threads = threads,
                     .outputs = {output},
                     .n_sources = 1};
    a.sources[0] = source;
    fn_result result;
    return fn_run(n->plan, n->params, n->work, &a, &result);
}

#endif
