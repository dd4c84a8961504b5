/* test_predict.c - a row's prediction has the same bits alone and anywhere in a batch, from every
 * kind of source, whatever the values are.
 */
#include "network.h"

enum { ROWS = 64, MOST = 50 };

/* Bits are equal; a NaN equals any NaN. */
static int same_values(const float *a, const float *b, int n) {
    for (int i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

/* Every row alone, through a plan for one row. */
static float *alone(network *many, fn_source source, int units) {
    spec s = many->spec;
    s.max_rows = 1;
    network one = make_network(s);
    fn_params_copy_weights(one.params, many->params);
    float *y = block((size_t)(ROWS * units) * sizeof(float));
    for (int r = 0; r < ROWS; r++)
        CHECK(predict(&one, source, NULL, r, 1, 1, 1, y + r * units) == FN_OK);
    free_network(&one);
    return y;
}

/* Batches of 1 to 50 rows (or every step-th): in order and shuffled, and a row at every position at
 * once. */
static void check_positions(network *n, fn_source source, const float *want, int units, int step) {
    float *y = block((size_t)(ROWS * units) * sizeof(float));
    int64_t order[ROWS];
    for (int batch = 1; batch <= MOST; batch += step) {
        const int threads = 1 + batch % 3;
        CHECK(predict(n, source, NULL, 0, ROWS, batch, threads, y) == FN_OK);
        CHECK(same_values(y, want, ROWS * units), "in order, batch %d", batch);
        fn_shuffle(1, (uint64_t)batch, ROWS, order);
        CHECK(predict(n, source, order, 0, ROWS, batch, threads, y) == FN_OK);
        for (int i = 0; i < ROWS; i++)
            CHECK(same_values(y + i * units, want + order[i] * units, units), "batch %d", batch);
        const int row = batch * 7 % ROWS;
        for (int i = 0; i < batch; i++) order[i] = row;
        CHECK(predict(n, source, order, 0, batch, batch, threads, y) == FN_OK);
        for (int i = 0; i < batch; i++)
            CHECK(same_values(y + i * units, want + row * units, units), "row %d of %d", i, batch);
    }
    for (int first = 0; first < ROWS; first += 5) { /* not from the start of the source */
        const int rows = ROWS - first < 9 ? ROWS - first : 9;
        CHECK(predict(n, source, NULL, first, rows, 4, 1, y) == FN_OK);
        CHECK(same_values(y, want + first * units, rows * units), "from row %d", first);
    }
    free(y);
}

static const spec networks[] = {
    {.widths = {13, 35, 6}, .mode = FN_PREDICT, .max_rows = MOST},
    {.widths = {150, 131, 33, 1}, .mode = FN_PREDICT, .max_rows = MOST, .activation = "gelu"},
    {.widths = {61, 150, 17}, .mode = FN_PREDICT, .max_rows = MOST, .activation = "softplus"},
    {.widths = {5, 3}, .mode = FN_PREDICT, .max_rows = MOST},
};
enum { NETWORKS = sizeof networks / sizeof *networks };

static int units_of(const spec *s) {
    int last = 1;
    while (s->widths[last + 1]) last++;
    return s->widths[last];
}

static void rows_alone_and_in_batches(void) {
    for (int i = 0; i < NETWORKS; i++) {
        network n = make_network(networks[i]);
        const int units = units_of(&n.spec);
        data d = make_data(ROWS, n.spec.widths[0], units);
        const fn_source source = rows_of(d.x, FN_F32, (size_t)d.cols * sizeof(float));
        float *want = alone(&n, source, units);
        check_positions(&n, source, want, units, SANITIZED ? 5 : 1);
        double sum = 0;
        for (int j = 0; j < ROWS * units; j++) sum += fabs(want[j]);
        CHECK(sum > 1);
        free(want);
        free_data(&d);
        free_network(&n);
    }
}

/* Rows of zeros, of -0, and weights that are infinite, NaN, denormal or zeros of either sign. */
static void special_values(void) {
    static const float strange[] = {INFINITY, -INFINITY, NAN,   1e-41f, -1e-45f,
                                    0.0f,     -0.0f,     3e38f, -1e-38f};
    enum { STRANGE = sizeof strange / sizeof *strange };
    for (int i = 0; i < NETWORKS; i++)
        for (int kind = 0; kind <= STRANGE; kind++) {
            network n = make_network(networks[i]);
            const int k = n.spec.widths[0], first = n.spec.widths[1], units = units_of(&n.spec);
            data d = make_data(ROWS, k, units);
            for (int c = 0; c < k; c++) { /* inputs are finite: others are an error */
                d.x[c] = 0;
                d.x[k + c] = -0.0f;
                d.x[2 * k + c] = c % 2 ? 1e-41f : -0.0f;
                d.x[3 * k + c] = c % 3 ? 0.0f : 3e38f;
            }
            float *w = random_block((int64_t)k * first), *b = block((size_t)first * sizeof(float));
            for (int j = 0; j < first; j++) b[j] = j % 2 ? -0.0f : 0.0f;
            for (int j = 0; j < k * first; j++)
                if (random_bits() % 16 == 0)
                    w[j] = strange[kind < STRANGE ? kind : (int)(random_bits() % STRANGE)];
            CHECK(fn_params_set(n.params, 0, 0, w) == FN_OK &&
                  fn_params_set(n.params, 1, 0, b) == FN_OK);
            const fn_source source = rows_of(d.x, FN_F32, (size_t)k * sizeof(float));
            float *want = alone(&n, source, units);
            check_positions(&n, source, want, units, SANITIZED ? 17 : 7);
            free(w), free(b), free(want);
            free_data(&d);
            free_network(&n);
        }
}

/* Whether one step broke the weights; rows that do not read these weights are predicted alone and
 * together.
 */
static int break_weights(int flat, int batch, int class) {
    spec s = {.widths = {150, 35, 6}, .mode = FN_TRAIN, .max_rows = 8};
    s.update = flat ? FN_UPDATE_FLAT : FN_UPDATE_FUSED;
    network trained = make_network(s);
    data d = make_data(ROWS, 150, 6);
    for (int r = 0; r < ROWS; r++) {
        d.x[r * 150] = r < 8 ? 1e19f : 0.0f; /* the weights of this input break */
        d.classes[r] = class;
    }
    const double rates[1] = {1e22};
    const fn_optimizer sgd = make_optimizer("sgd", 0);
    fn_run_args a = {.n_rows = batch, .batch_size = batch, .rates = rates, .optimizer = &sgd};
    set_sources(&a, &trained, &d);
    fn_result result;
    CHECK(fn_run(trained.plan, trained.params, trained.work, &a, &result) == FN_OK);
    const int broken = fn_params_nonfinite(trained.params) >= 0;
    s.mode = FN_PREDICT;
    fn_plan *plan = make_plan(&s, NULL, NULL);
    network n = {.spec = s, .plan = plan, .params = trained.params, .work = fn_work_new(plan, 2)};
    const fn_source source = rows_of(d.x, FN_F32, 150 * sizeof(float));
    float one[6], many[48];
    for (int r = 8; r < ROWS - 8; r++) {
        CHECK(predict(&n, source, NULL, r, 1, 1, 1, one) == FN_OK);
        CHECK(predict(&n, source, NULL, r, 8, 8, 1, many) == FN_OK);
        CHECK(same_values(one, many, 6), "flat %d, batch %d", flat, batch);
    }
    fn_work_free(n.work);
    fn_plan_free(plan);
    free_network(&trained);
    free_data(&d);
    return broken;
}

/* Training may leave weights that are infinite; predictions of one row must know. Which of the
 * classes have a gradient when the logits are huge does not matter here. */
static void weights_that_training_broke(void) {
    for (int flat = 0; flat < 2; flat++)
        for (int batch = 1, broken = 0; batch <= 8; broken = 0, batch += 7) {
            for (int class = 0; class < 6; class++) broken += break_weights(flat, batch, class);
            CHECK(broken > 0);
        }
}

/* ---- sources ---- */

static size_t size_of(fn_dtype dtype) {
    return dtype == FN_F64 || dtype == FN_I64 ? 8 : dtype == FN_F32 || dtype == FN_I32 ? 4 : 1;
}

/* The same small whole numbers in a block of any dtype, exactly as long as its values, `gap` bytes
 * apart. */
static void *as_dtype(const int *values, int rows, int cols, fn_dtype dtype, size_t gap) {
    const size_t item = size_of(dtype), row = (size_t)cols * item + gap;
    char *memory = block((size_t)rows * row - gap);
    for (int i = 0; i < rows * cols; i++) {
        char *at = memory + (size_t)(i / cols) * row + (size_t)(i % cols) * item;
        const int v = values[i];
        switch (dtype) {
        case FN_F32: memcpy(at, &(float){(float)v}, 4); break;
        case FN_F64: memcpy(at, &(double){v}, 8); break;
        case FN_I32: memcpy(at, &(int32_t){v}, 4); break;
        case FN_I64: memcpy(at, &(int64_t){v}, 8); break;
        case FN_U8:
        case FN_I8:
        case FN_BOOL: *at = (char)v; break;
        }
    }
    return memory;
}

static void sources_of_every_dtype(void) {
    static const fn_dtype dtypes[] = {FN_F32, FN_F64, FN_I32, FN_I64, FN_U8, FN_I8, FN_BOOL};
    for (int scaled = 0; scaled < 2; scaled++)
        for (int i = 0; i < NETWORKS; i++) {
            spec s = networks[i], plain = networks[i];
            if (scaled) s.scale = 1.0 / 255, s.offset = -0.5;
            network n = make_network(s), reference = make_network(plain);
            const int k = s.widths[0], units = units_of(&s);
            int *values = block((size_t)(ROWS * k) * sizeof(int));
            float *x = block((size_t)(ROWS * k) * sizeof(float));
            for (int t = 0; t < 7; t++) {
                for (int j = 0; j < ROWS * k; j++) {
                    values[j] = (int)(random_bits() % (dtypes[t] == FN_BOOL ? 2 : 128));
                    if (dtypes[t] == FN_U8) values[j] *= 2;
                    if (dtypes[t] == FN_I8) values[j] -= 64;
                    x[j] = (float)values[j];
                    if (scaled) x[j] = x[j] * (float)s.scale + (float)s.offset;
                }
                const fn_source converted = rows_of(x, FN_F32, (size_t)k * sizeof(float));
                float *want = alone(&reference, converted, units);
                for (size_t gap = 0; gap <= 24; gap += 24) {
                    void *memory = as_dtype(values, ROWS, k, dtypes[t], gap);
                    const fn_source source =
                        rows_of(memory, dtypes[t], (size_t)k * size_of(dtypes[t]) + gap);
                    float *one = alone(&n, source, units);
                    CHECK(same_values(one, want, ROWS * units), "dtype %d, scaled %d", t, scaled);
                    check_positions(&n, source, want, units, SANITIZED ? 37 : 11);
                    free(one), free(memory);
                }
                free(want);
            }
            free(values), free(x);
            free_network(&n), free_network(&reference);
        }
}

/* One row for all of them, and an output that is exactly as long as it must be. */
static void rows_that_overlap(void) {
    network n = make_network(networks[0]);
    data d = make_data(1, 13, 6);
    float *y = block(MOST * 6 * sizeof(float));
    const fn_source source = rows_of(d.x, FN_F32, 0);
    CHECK(predict(&n, source, NULL, 0, MOST, MOST, 2, y) == FN_OK);
    for (int r = 1; r < MOST; r++) CHECK(same_values(y, y + r * 6, 6));
    CHECK(predict(&n, source, NULL, 0, 0, MOST, 2, NULL) == FN_OK); /* no rows */
    free(y);
    free_data(&d);
    free_network(&n);
}

static const test tests[] = {
    {"a row alone and anywhere in a batch", rows_alone_and_in_batches},
    {"zeros, infinities, NaN and denormals", special_values},
    {"weights that training broke", weights_that_training_broke},
    {"sources of every dtype, scaled or not", sources_of_every_dtype},
    {"rows that overlap, and no rows", rows_that_overlap},
};

int main(int argc, char **argv) {
    return run_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
