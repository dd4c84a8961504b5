/* test_errors.c - every misuse is an error with a message, bad data names its place, and divergence
 * leaves the weights as they were before the step.
 */
#include <limits.h>

#include "network.h"

/* ---- misuse ---- */

#define REFUSED(plan, call, text) \
    CHECK((call) < 0 && strstr(fn_plan_error(plan), text), "says '%s'", fn_plan_error(plan))

static fn_plan *empty_plan(fn_mode mode, int max_rows) {
    const fn_plan_options options = {.mode = mode, .max_rows = max_rows, .lanes = 1};
    return fn_plan_new(&options);
}

static int columns(fn_plan *plan, fn_dtype dtype, int64_t cols) {
    return fn_plan_buffer(plan, dtype, 1, &cols);
}

static int param(fn_plan *plan, int64_t a, int64_t b, int trainable) {
    return fn_plan_param(plan, b ? 2 : 1, (const int64_t[]){a, b}, 1, trainable);
}

static int op_on(fn_plan *plan, const char *name, int in, int out) {
    const int op = fn_plan_op(plan, name, 3);
    if (in >= 0) CHECK(fn_op_input(plan, op, in) == 0);
    if (out >= 0) CHECK(fn_op_output(plan, op, out) == 0);
    return op;
}

/* Finishing fails with a message that has `text` in it, and the plan runs nothing. */
static void refuse_finish(fn_plan *plan, const char *text, int line) {
    const fn_status status = fn_plan_finish(plan);
    CHECK(status == FN_EINVAL && strstr(fn_plan_error(plan), text), "from line %d: %d, '%s'", line,
          status, fn_plan_error(plan));
    CHECK(!fn_params_new(plan) && !fn_work_new(plan, 1));
    fn_plan_free(plan);
}
#define REFUSED_FINISH(plan, text) refuse_finish(plan, text, __LINE__)

static void options_and_sizes(void) {
    CHECK(!empty_plan(FN_TRAIN, 0) && !empty_plan(FN_TRAIN, -1) && !empty_plan(FN_TRAIN, INT_MIN));
    for (int lanes = -1; lanes < 1; lanes++) {
        const fn_plan_options options = {.mode = FN_TRAIN, .max_rows = 1, .lanes = lanes};
        CHECK(!fn_plan_new(&options));
    }
    fn_plan *plan = empty_plan(FN_TRAIN, 8);
    const int64_t bad[][3] = {{0, 1, 1},
                              {-1, 1, 1},
                              {INT64_MIN, 1, 1},
                              {INT64_MAX, 1, 1},
                              {1 << 30, 2, 1},
                              {65536, 65536, 1},
                              {INT64_MAX, INT64_MAX, 2},
                              {3, -7, -5},
                              {-1, -1, 1},
                              {(int64_t)1 << 32, (int64_t)1 << 32, 1},
                              {INT64_MAX, 0, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REFUSED(plan, fn_plan_buffer(plan, FN_F32, 3, bad[i]), "1 to");
        REFUSED(plan, fn_plan_param(plan, 3, bad[i], 1, 1), "1 to");
    }
    const int64_t ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    REFUSED(plan, fn_plan_buffer(plan, FN_F32, -1, ones), "axes");
    REFUSED(plan, fn_plan_buffer(plan, FN_F32, FN_MAX_RANK + 1, ones), "axes");
    REFUSED(plan, fn_plan_buffer(plan, (fn_dtype)99, 1, ones), "dtype");
    REFUSED(plan, fn_plan_param(plan, 0, ones, 1, 1), "axes");
    REFUSED(plan, fn_plan_param(plan, FN_MAX_RANK + 1, ones, 1, 1), "axes");
    CHECK(fn_plan_buffer(plan, FN_F32, FN_MAX_RANK, ones) == 0 &&
          fn_plan_buffer(plan, FN_U8, 0, NULL) == 1);
    fn_plan_free(plan);
    plan = empty_plan(FN_PREDICT, INT_MAX);
    const int x = columns(plan, FN_F32, INT_MAX / 2);
    op_on(plan, "input", -1, x);
    REFUSED_FINISH(plan, "too many");
    REFUSED_FINISH(empty_plan(FN_PREDICT, 3), "no op");
}

static void names_and_numbers(void) {
    fn_plan *plan = empty_plan(FN_TRAIN, 8);
    const int a = columns(plan, FN_F32, 3), b = columns(plan, FN_F32, 3), w = param(plan, 3, 3, 1);
    REFUSED(plan, fn_plan_op(plan, "dens", 0), "unknown op 'dens'");
    REFUSED(plan, fn_plan_op(plan, "", 0), "unknown op");
    const int input = fn_plan_op(plan, "input", 0), dense = fn_plan_op(plan, "dense", 1);
    const int activation = fn_plan_op(plan, "activation", 2);
    for (int op = -1; op < 100; op += 50) {
        if (op >= 0 && op <= activation) continue;
        REFUSED(plan, fn_op_input(plan, op, a), "cannot take");
        REFUSED(plan, fn_op_output(plan, op, a), "cannot write");
        REFUSED(plan, fn_op_param(plan, op, w), "cannot use");
        REFUSED(plan, fn_op_number(plan, op, "scale", 1), "no number");
        REFUSED(plan, fn_op_string(plan, op, "function", "relu"), "no name");
    }
    REFUSED(plan, fn_op_input(plan, dense, -1), "cannot take");
    REFUSED(plan, fn_op_input(plan, dense, 2), "cannot take");
    REFUSED(plan, fn_op_input(plan, input, a), "cannot take");
    REFUSED(plan, fn_op_output(plan, dense, 7), "cannot write");
    REFUSED(plan, fn_op_param(plan, dense, 1), "cannot use");
    REFUSED(plan, fn_op_param(plan, activation, w), "cannot use");
    REFUSED(plan, fn_op_number(plan, input, "sauce", 1), "no number 'sauce'");
    REFUSED(plan, fn_op_number(plan, activation, "function", 1), "no number");
    REFUSED(plan, fn_op_string(plan, input, "scale", "1"), "no name");
    REFUSED(plan, fn_op_string(plan, activation, "function", "rely"), "unknown function 'rely'");
    CHECK(fn_op_output(plan, input, a) == 0 && fn_op_input(plan, dense, a) == 0);
    REFUSED(plan, fn_op_input(plan, dense, a), "as input 1");
    REFUSED(plan, fn_op_output(plan, dense, a), "written by two");
    CHECK(fn_op_output(plan, dense, b) == 0);
    REFUSED(plan, fn_op_output(plan, dense, b), "cannot write");
    CHECK(fn_op_param(plan, dense, w) == 0);
    REFUSED(plan, fn_op_param(plan, dense, w), "twice");
    int last = 0;
    while ((last = fn_plan_op(plan, "stop", 0)) >= 0 && last < 5000) continue;
    REFUSED(plan, last, "more than");
    fn_plan_free(plan);
}

static void incomplete_plans(void) {
    fn_plan *plan = empty_plan(FN_TRAIN, 8); /* reading before writing */
    int a = columns(plan, FN_F32, 3), b = columns(plan, FN_F32, 3);
    op_on(plan, "rescale", a, b);
    REFUSED_FINISH(plan, "before it is written");
    plan = empty_plan(FN_TRAIN, 8); /* written by a later op */
    a = columns(plan, FN_F32, 3), b = columns(plan, FN_F32, 3);
    op_on(plan, "rescale", a, b);
    op_on(plan, "input", -1, a);
    REFUSED_FINISH(plan, "before it is written");
    plan = empty_plan(FN_TRAIN, 8); /* an op that reads what it writes */
    a = columns(plan, FN_F32, 3);
    op_on(plan, "rescale", a, a);
    REFUSED_FINISH(plan, "before it is written");
    static const char *const names[] = {"input",   "dense",   "activation",    "softmax",
                                        "dropout", "rescale", "normalization", "loss",
                                        "metric",  "output",  "stop"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        plan = empty_plan(FN_TRAIN, 8);
        fn_plan_op(plan, names[i], 0);
        REFUSED_FINISH(plan, "inputs and");
    }
}

/* input -> op of `name`, with these columns and dtypes; the plan, and the op in `op`. */
static fn_plan *one_op(fn_mode mode, const char *name, fn_dtype from, int in, fn_dtype to, int out,
                       int *op) {
    fn_plan *plan = empty_plan(mode, 8);
    const int a = columns(plan, from, in);
    op_on(plan, "input", -1, a);
    *op = op_on(plan, name, a, out ? columns(plan, to, out) : -1);
    return plan;
}

static void shapes_and_dtypes(void) {
    static const fn_dtype others[] = {FN_F64, FN_I32, FN_I64, FN_U8, FN_I8, FN_BOOL};
    static const char *const names[] = {"dense",   "activation", "softmax",
                                        "dropout", "rescale",    "normalization"};
    int op;
    for (int i = 0; i < 6; i++) {
        const int statistics = !strcmp(names[i], "normalization");
        for (int wrong = 0; wrong < 14; wrong++) {
            const fn_dtype from = wrong == 0 ? FN_I32 : FN_F32;
            const fn_dtype to = wrong >= 1 && wrong < 7 ? others[wrong - 1] : FN_F32;
            const int in = wrong == 7   ? 4
                           : wrong == 8 ? 10
                                        : 5,
                      out = wrong == 9    ? 4
                            : wrong == 10 ? 50
                                          : 5;
            fn_plan *plan = one_op(FN_TRAIN, names[i], from, in, to, out, &op);
            if (i == 0) {
                if (wrong != 11)
                    fn_op_param(plan, op,
                                wrong == 12 ? param(plan, 25, 0, 1) : param(plan, 5, 5, 1));
                if (wrong == 13) fn_op_param(plan, op, param(plan, 6, 0, 1));
            }
            if (statistics) {
                if (wrong != 11) fn_op_param(plan, op, param(plan, 5, 0, wrong == 13));
                fn_op_param(plan, op, param(plan, wrong == 12 ? 4 : 5, 0, 0));
            }
            if (i > 0 && !statistics && wrong > 10)
                fn_plan_free(plan);
            else
                refuse_finish(plan, names[i], 100 * i + wrong);
        }
    }
    for (int i = 0; i < 6; i++) { /* what sources can be read into */
        if (others[i] == FN_I32) continue;
        fn_plan *plan = one_op(FN_PREDICT, "output", others[i], 3, FN_F32, 0, &op);
        REFUSED_FINISH(plan, "float32 or int32");
    }
    REFUSED_FINISH(one_op(FN_PREDICT, "output", FN_I32, 3, FN_F32, 0, &op), "output");
}

static void numbers_out_of_range(void) {
    static const double rates[] = {1, -0.1, 2, NAN, INFINITY};
    static const double sources[] = {-1, FN_MAX_SOURCES, 1e300, -1e300, NAN, INFINITY};
    int op;
    for (int i = 0; i < 5; i++) {
        fn_plan *plan = one_op(FN_TRAIN, "dropout", FN_F32, 5, FN_F32, 5, &op);
        CHECK(fn_op_number(plan, op, "rate", rates[i]) == 0);
        REFUSED_FINISH(plan, "[0, 1)");
    }
    for (int i = 0; i < 6; i++) {
        fn_plan *plan = one_op(FN_TRAIN, "stop", FN_F32, 5, FN_F32, 0, &op);
        CHECK(fn_op_number(plan, 0, "source", sources[i]) == 0);
        REFUSED_FINISH(plan, "no such source");
    }
}

/* Losses and metrics: columns and dtype of predictions, targets, weights and the result. */
static void losses_that_do_not_fit(void) {
    enum { P, T, W, L };
    static const struct {
        const char *kind;
        int cols[4]; /* of P, T, W (0: none), L */
        int i32;     /* the one that is int32, or -1 */
    } cases[] = {
        {"mse", {5, 4, 0, 1}, -1},
        {"mse", {5, 5, 0, 2}, -1},
        {"mse", {5, 5, 5, 1}, -1},
        {"mse", {5, 1, 0, 1}, T},
        {"mse", {5, 5, 0, 1}, P},
        {"mse", {5, 5, 1, 1}, W},
        {"mse", {5, 5, 0, 1}, L},
        {"cross_entropy", {5, 2, 0, 1}, T},
        {"cross_entropy", {5, 1, 0, 1}, -1},
        {"cross_entropy", {5, 1, 3, 1}, T},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int metric = 0; metric < 2; metric++) {
            if (metric && (cases[i].cols[L] != 1 || cases[i].i32 == L)) continue;
            fn_plan *plan = empty_plan(FN_EVALUATE, 8);
            int ids[4], op;
            for (int j = P; j <= W; j++) {
                if (!cases[i].cols[j]) continue;
                ids[j] = columns(plan, cases[i].i32 == j ? FN_I32 : FN_F32, cases[i].cols[j]);
                op_on(plan, "input", -1, ids[j]);
            }
            if (metric) {
                op = op_on(plan, "metric", ids[P], -1);
                const char *kind = strcmp(cases[i].kind, "mse") ? "accuracy" : "squared";
                CHECK(fn_op_string(plan, op, "kind", kind) == 0);
            } else {
                const fn_dtype dtype = cases[i].i32 == L ? FN_U8 : FN_F32;
                op = op_on(plan, "loss", ids[P], columns(plan, dtype, cases[i].cols[L]));
                CHECK(fn_op_string(plan, op, "kind", cases[i].kind) == 0);
            }
            CHECK(fn_op_input(plan, op, ids[T]) == 0);
            if (cases[i].cols[W]) CHECK(fn_op_input(plan, op, ids[W]) == 0);
            refuse_finish(plan, metric ? "metric" : "loss", 1000 + (int)i);
        }
}

static void finished_plans_do_not_change(void) {
    const spec s = {.widths = {5, 3}, .mode = FN_PREDICT, .max_rows = 4};
    network n = make_network(s);
    const int64_t shape[1] = {4};
    REFUSED(n.plan, fn_plan_buffer(n.plan, FN_F32, 1, shape), "finished");
    REFUSED(n.plan, fn_plan_param(n.plan, 1, shape, 0, 1), "finished");
    REFUSED(n.plan, fn_plan_op(n.plan, "stop", 0), "finished");
    REFUSED(n.plan, fn_op_input(n.plan, 1, 0), "finished");
    REFUSED(n.plan, fn_op_output(n.plan, 1, 0), "finished");
    REFUSED(n.plan, fn_op_param(n.plan, 1, 0), "finished");
    REFUSED(n.plan, fn_op_number(n.plan, 0, "scale", 2), "finished");
    REFUSED(n.plan, fn_op_string(n.plan, 0, "scale", "2"), "finished");
    CHECK(fn_plan_finish(n.plan) == FN_OK);
    free_network(&n);
}

/* A plan that could not be finished can be mended and finished. */
static void a_mended_plan_works(void) {
    fn_plan *plan = empty_plan(FN_PREDICT, 4);
    const int x = columns(plan, FN_F32, 5), y = columns(plan, FN_F32, 5);
    op_on(plan, "input", -1, x);
    const int dense = op_on(plan, "dense", x, y);
    op_on(plan, "output", y, -1);
    CHECK(fn_plan_finish(plan) == FN_EINVAL && fn_plan_finish(plan) == FN_EINVAL);
    CHECK(fn_op_param(plan, dense, param(plan, 5, 5, 1)) == 0);
    CHECK(fn_plan_finish(plan) == FN_OK, "%s", fn_plan_error(plan));
    fn_plan_info info;
    fn_plan_describe(plan, &info);
    CHECK(info.n_ops == 3 && info.n_params == 1 && info.param_count == 25 && info.n_phases == 1);
    fn_plan_free(plan);
}

static void params_and_work(void) {
    const spec s = {.widths = {5, 3}, .mode = FN_TRAIN, .max_rows = 4};
    network n = make_network(s);
    float values[15] = {0};
    CHECK(fn_params_get(n.params, -1, 0, values) == FN_EINVAL &&
          fn_params_set(n.params, -1, 0, values));
    CHECK(fn_params_get(n.params, 2, 0, values) == FN_EINVAL &&
          fn_params_set(n.params, 2, 0, values));
    for (int part = -1; part < 5; part++)
        if (part) CHECK(fn_params_get(n.params, 0, part, values) == FN_EINVAL, "part %d", part);
    CHECK(fn_params_need_slots(n.params, 3, 0) == FN_EINVAL);
    CHECK(fn_params_need_slots(n.params, -1, 0) == FN_EINVAL);
    CHECK(!fn_work_new(n.plan, 0) && !fn_work_new(n.plan, -1) &&
          !fn_work_new(n.plan, FN_MAX_THREADS + 1));
    CHECK(!fn_work_buffer(n.work, n.plan, -1, 0) && !fn_work_buffer(n.work, n.plan, 99, 1));
    CHECK(!fn_work_buffer(n.work, n.plan, 0, 1)); /* nothing wants the gradient of the input */
    CHECK(fn_optimizer_slots("sdg") == -1 && !fn_table_name("op", -1) && !fn_table_name("opt", 0));
    CHECK(!fn_simd_choose("v9") && fn_simd_level());
    free_network(&n);
}

static void runs_that_do_not_fit(void) {
    spec s = {.widths = {5, 3}, .mode = FN_TRAIN, .max_rows = 4, .head = WEIGHTED_MSE};
    network n = make_network(s);
    data d = make_data(8, 5, 3);
    const double rates[2] = {0.1, 0.1};
    const fn_optimizer sgd = make_optimizer("sgd", 0), adam = make_optimizer("adam", 0);
    const fn_optimizer unknown = make_optimizer("sdg", 0);
    fn_run_args good = {.n_rows = 8, .batch_size = 4, .rates = rates, .optimizer = &sgd};
    set_sources(&good, &n, &d);
    fn_result result;
#define REFUSED_RUN(...)                                                                 \
    do {                                                                                 \
        fn_run_args a = good;                                                            \
        __VA_ARGS__;                                                                     \
        CHECK(fn_run(n.plan, n.params, n.work, &a, &result) == FN_EINVAL, #__VA_ARGS__); \
    } while (0)
    const snapshot before = take(&n, 0);
    REFUSED_RUN(a.batch_size = 0);
    REFUSED_RUN(a.batch_size = 5);
    REFUSED_RUN(a.batch_size = INT_MIN);
    REFUSED_RUN(a.n_rows = -8);
    REFUSED_RUN(a.n_rows = INT64_MIN);
    REFUSED_RUN(a.first = -1);
    REFUSED_RUN(a.rates = NULL);
    REFUSED_RUN(a.optimizer = NULL);
    REFUSED_RUN(a.optimizer = &unknown);
    REFUSED_RUN(a.optimizer = &adam); /* no slots */
    REFUSED_RUN(a.n_sources = 2);
    REFUSED_RUN(a.n_sources = -1);
    REFUSED_RUN(a.n_sources = FN_MAX_SOURCES + 1);
    REFUSED_RUN(a.sources[1].data = NULL);
    const fn_optimizer clipped = {.name = "sgd", .global_clipnorm = 1};
    REFUSED_RUN(a.optimizer = &clipped); /* a norm needs the flat update */
    s.widths[1] = 4;
    network other = make_network(s);
    CHECK(fn_run(n.plan, other.params, n.work, &good, &result) == FN_EINVAL);
    CHECK(fn_run(n.plan, n.params, other.work, &good, &result) == FN_EINVAL);
    s.widths[1] = 3, s.update = FN_UPDATE_FLAT;
    fn_plan *flat = make_plan(&s, NULL, NULL);
    fn_work *work = fn_work_new(flat, 1);
    CHECK(fn_run(flat, n.params, work, &good, &result) == FN_EINVAL); /* no gradient */
    fn_work_free(work), fn_plan_free(flat);
    CHECK(same_and_free(before, take(&n, 0)));
    CHECK(fn_run(n.plan, n.params, n.work, &good, &result) == FN_OK && result.steps == 2);
    s = (spec){.widths = {5, 3}, .mode = FN_PREDICT, .max_rows = 4};
    network p = make_network(s);
    CHECK(predict(&p, good.sources[0], NULL, 0, 8, 4, 1, NULL) == FN_EINVAL); /* no output */
    CHECK(predict(&p, good.sources[0], NULL, 0, 0, 4, 1, NULL) == FN_OK);
    free(before.values);
    free_network(&n), free_network(&other), free_network(&p);
    free_data(&d);
}

/* ---- bad data ---- */

/* The place that comes first in the order is reported, for any number of threads. */
static void bad_values_name_their_place(void) {
    enum { N = 96, COLS = 37 };
    const double bad[] = {NAN, INFINITY, -INFINITY, 1e300}; /* the last: only as float64 */
    for (int mode = FN_PREDICT; mode <= FN_TRAIN; mode++)
        for (int kind = 0; kind < 4; kind++)
            for (int ordered = 0; ordered < 2; ordered++)
                for (int threads = 1; threads <= 8; threads += threads < 3 ? 1 : 5) {
                    spec s = {.widths = {COLS, 9, 3}, .mode = mode, .max_rows = 40};
                    network n = make_network(s);
                    data d = make_data(N, COLS, 3);
                    double *x = block(N * COLS * sizeof(double));
                    for (int i = 0; i < N * COLS; i++) x[i] = d.x[i];
                    int64_t *order = ordered ? shuffled(4, N) : NULL;
                    const int from = kind % 2 ? 45 : 3,
                              stride = kind % 2 ? 13 : 31; /* first or second batch */
                    for (int place = from; place < N; place += stride) {
                        const int64_t at = (order ? order[place] : place) * COLS;
                        x[at + COLS - 1] = bad[(kind + 1) % 4];
                        x[at + (place == from ? 5 : 0)] = bad[kind];
                    }
                    const fn_optimizer sgd = make_optimizer("sgd", 0);
                    double *rates = make_rates(3, 0.1), *y = block(N * 3 * sizeof(float));
                    fn_run_args a = {.n_rows = N,
                                     .batch_size = 40,
                                     .order = order,
                                     .threads = threads,
                                     .rates = rates,
                                     .optimizer = &sgd,
                                     .outputs = {(float *)y}};
                    set_sources(&a, &n, &d);
                    a.sources[0] = rows_of(x, FN_F64, COLS * sizeof(double));
                    if (kind != 3) { /* as float32, in place where that can be */
                        for (int i = 0; i < N * COLS; i++) d.x[i] = (float)x[i];
                        set_sources(&a, &n, &d);
                    }
                    const snapshot before = take(&n, 0);
                    fn_result r;
                    CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_EINPUT);
                    CHECK(r.bad_source == 0 && r.bad_row == (order ? order[from] : from) &&
                              r.bad_column == 5,
                          "mode %d kind %d: source %d row %d column %d", mode, kind, r.bad_source,
                          (int)r.bad_row, (int)r.bad_column);
                    if (from < 40) CHECK(same_and_free(before, take(&n, 0)));
                    free(before.values), free(order), free(x), free(rates), free(y);
                    free_data(&d);
                    free_network(&n);
                }
}

static void bad_targets_and_weights(void) {
    for (int source = 1; source <= 2; source++)
        for (int threads = 1; threads <= 3; threads++) {
            const spec s = {
                .widths = {13, 5}, .mode = FN_TRAIN, .max_rows = 16, .head = WEIGHTED_MSE};
            network n = make_network(s);
            data d = make_data(16, 13, 5);
            if (source == 1) d.targets[7 * 5 + 4] = NAN;
            if (source == 2) d.weights[7] = INFINITY;
            const fn_optimizer sgd = make_optimizer("sgd", 0);
            const double rates[1] = {0.1};
            fn_run_args a = {.n_rows = 16, .batch_size = 16, .rates = rates, .optimizer = &sgd};
            set_sources(&a, &n, &d);
            a.threads = threads;
            const snapshot before = take(&n, 0);
            fn_result r;
            CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_EINPUT);
            CHECK(r.bad_source == source && r.bad_row == 7 &&
                  r.bad_column == (source == 1 ? 4 : 0));
            CHECK(same_and_free(before, take(&n, 0)));
            free(before.values);
            free_data(&d);
            free_network(&n);
        }
}

/* The third step sees infinite weights: the first two are kept. */
static void divergence_keeps_weights(void) {
    for (int update = FN_UPDATE_FUSED; update <= FN_UPDATE_FLAT; update++)
        for (int batch = 1; batch <= 8; batch += 7)
            for (int threads = 1; threads <= 8; threads += threads < 3 ? 1 : 5) {
                const spec s = {
                    .widths = {13, 35, 6}, .mode = FN_TRAIN, .update = update, .max_rows = batch};
                network n = make_network(s), two = make_network(s);
                data d = make_data(64, 13, 6);
                const double rates[8] = {0.1, 3e36, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
                const fn_optimizer sgd = make_optimizer("sgd", 0);
                fn_run_args a = {.n_rows = 2 * batch,
                                 .batch_size = batch,
                                 .rates = rates,
                                 .optimizer = &sgd,
                                 .threads = threads};
                set_sources(&a, &n, &d);
                fn_result r;
                CHECK(fn_run(two.plan, two.params, two.work, &a, &r) == FN_OK && r.steps == 2);
                a.n_rows = 8 * batch;
                CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_EDIVERGED);
                CHECK(r.steps == 2, "%d steps", (int)r.steps);
                const snapshot kept = take(&two, 0);
                CHECK(same_and_free(kept, take(&n, 0)), "batch %d, %d threads", batch, threads);
                free(kept.values);
                free_network(&n), free_network(&two);
                free_data(&d);
            }
}

static const test tests[] = {
    {"options, ranks and sizes out of range", options_and_sizes},
    {"unknown names, ops, buffers and parameters", names_and_numbers},
    {"incomplete plans", incomplete_plans},
    {"shapes and dtypes that do not fit an op", shapes_and_dtypes},
    {"attributes out of range", numbers_out_of_range},
    {"losses and metrics that do not fit", losses_that_do_not_fit},
    {"finished plans do not change", finished_plans_do_not_change},
    {"a mended plan works", a_mended_plan_works},
    {"params and work", params_and_work},
    {"runs that do not fit", runs_that_do_not_fit},
    {"bad values name their place", bad_values_name_their_place},
    {"bad targets and weights", bad_targets_and_weights},
    {"divergence keeps the weights of the step before", divergence_keeps_weights},
};

int main(int argc, char **argv) {
    return run_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
