/* test_sparse.c - CSR rows: checked before they are read, and the same bits as the dense rows. */
#include "network.h"

enum { ROWS = 53, THREADS = 4 };
static const int thread_counts[THREADS] = {1, 2, 3, 8};

typedef struct {
    fn_source source;
    void *values, *indices, *indptr;
    int64_t entries;
} matrix;

static void *numbers(const int64_t *from, int64_t n, fn_dtype dtype) {
    void *result = block((size_t)(n + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < n; i++)
        if (dtype == FN_I64)
            ((int64_t *)result)[i] = from[i];
        else
            ((int32_t *)result)[i] = (int32_t)from[i];
    return result;
}

/* The values of x that are not zero, and some that are. */
static matrix compress(const data *d, fn_dtype values, fn_dtype index) {
    matrix m = {.values = block((size_t)(d->rows * d->cols + 1) * sizeof(double))};
    int64_t *indices = block((size_t)(d->rows * d->cols) * sizeof(int64_t)),
            *indptr = block((size_t)(d->rows + 1) * sizeof(int64_t));
    indptr[0] = 0;
    for (int r = 0; r < d->rows; r++) {
        for (int c = 0; c < d->cols; c++) {
            const float v = d->x[r * d->cols + c];
            if (v == 0 && (r + c) % 11) continue;
            if (values == FN_F64)
                ((double *)m.values)[m.entries] = v;
            else
                ((float *)m.values)[m.entries] = v;
            indices[m.entries++] = c;
        }
        indptr[r + 1] = m.entries;
    }
    m.indices = numbers(indices, m.entries, index);
    m.indptr = numbers(indptr, d->rows + 1, index);
    m.source = (fn_source){.data = m.values,
                           .dtype = values,
                           .indptr = m.indptr,
                           .indices = m.indices,
                           .index_dtype = index};
    free(indices), free(indptr);
    return m;
}

static void free_matrix(matrix *m) { free(m->values), free(m->indices), free(m->indptr); }

/* Rows of which one in `rare` values is not zero; the third and the last are empty. */
static data sparse_data(int cols, int units, int rare) {
    data d = make_data(ROWS, cols, units);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < cols; c++)
            if (r == 2 || r == ROWS - 1 || random_bits() % (uint64_t)rare) d.x[r * cols + c] = 0;
    return d;
}

/* Kinds of a matrix: float or double values, short or long indices. */
static matrix kind_of(const data *d, int kind) {
    return compress(d, kind & 1 ? FN_F64 : FN_F32, kind & 2 ? FN_I64 : FN_I32);
}

static const int rarities[] = {2, 30};

static void predictions(void) {
    static const int widths[][7] = {{13, 35, 6}, {150, 131, 33, 1}, {701, 150, 17}};
    for (int i = 0; i < 3; i++)
        for (int scaling = 0; scaling < 3; scaling++)
            for (int rare = 0; rare < 2; rare++) {
                spec s = {.mode = FN_PREDICT, .max_rows = 20};
                memcpy(s.widths, widths[i], sizeof s.widths);
                if (scaling) s.scale = 1.0 / 255, s.offset = scaling == 2 ? -0.5 : 0;
                network n = make_network(s);
                int units = 0;
                while (s.widths[units]) units++;
                units = s.widths[units - 1];
                data d = sparse_data(s.widths[0], units, rarities[rare]);
                float *want = block((size_t)(ROWS * units) * sizeof(float)),
                      *y = block((size_t)(ROWS * units) * sizeof(float));
                const fn_source dense = rows_of(d.x, FN_F32, (size_t)d.cols * sizeof(float));
                int64_t *order = shuffled(3, ROWS);
                CHECK(predict(&n, dense, order, 0, ROWS, 20, 1, want) == FN_OK);
                for (int kind = 0; kind < 4; kind++) {
                    matrix m = kind_of(&d, kind);
                    for (int batch = 1; batch <= 20; batch += 6) {
                        CHECK(predict(&n, m.source, order, 0, ROWS, batch, 1 + batch % 3, y) ==
                              FN_OK);
                        CHECK(!memcmp(y, want, (size_t)(ROWS * units) * sizeof(float)),
                              "%d inputs, kind %d, batch %d", s.widths[0], kind, batch);
                    }
                    free_matrix(&m);
                }
                free(order), free(want), free(y);
                free_data(&d);
                free_network(&n);
            }
}

static void training_gives_the_same_bits(void) {
    static const spec networks[] = {
        {.widths = {13, 35, 6}, .mode = FN_TRAIN},
        {.widths = {300, 200, 10}, .mode = FN_TRAIN, .dropout = 0.25},
        {.widths = {301, 70, 5}, .mode = FN_TRAIN, .scale = 0.125, .lanes = 3},
        {.widths = {97, 33, 10}, .mode = FN_TRAIN, .gemm = FN_GEMM_SGEMM},
    };
    static const char *const optimizers[] = {"momentum", "adam"};
    static const int batches[] = {1, 16};
    for (int i = 0; i < 4; i++)
        for (int rare = 0; rare < 2; rare++)
            for (int b = 0; b < 2; b++) {
                spec s = networks[i];
                s.max_rows = batches[b];
                data d = sparse_data(s.widths[0], s.widths[2], rarities[rare]);
                training t = {batches[b], 1, 2, make_optimizer(optimizers[(i + b) % 2], 0), 0};
                const snapshot want = train_new(s, &d, &t);
                for (int k = 0; k < THREADS; k++) {
                    matrix m = kind_of(&d, k);
                    d.instead = m.source, t.threads = thread_counts[k];
                    CHECK(same_and_free(want, train_new(s, &d, &t)),
                          "%d inputs, batch %d, %d threads", s.widths[0], t.batch, t.threads);
                    free_matrix(&m);
                }
                free(want.values);
                free_data(&d);
            }
}

static void values_that_are_not_finite(void) {
    for (int kind = 0; kind < 4; kind++)
        for (int threads = 1; threads <= 3; threads++) {
            network n =
                make_network((spec){.widths = {300, 200, 10}, .mode = FN_TRAIN, .max_rows = 16});
            data d = sparse_data(300, 10, 30);
            d.x[7 * 300 + 41] = kind % 2 ? NAN : -INFINITY, d.x[7 * 300 + 99] = INFINITY;
            matrix m = kind_of(&d, kind);
            const fn_optimizer sgd = make_optimizer("sgd", 0);
            double *rates = make_rates(4, 0.1);
            fn_run_args a = {.n_rows = ROWS,
                             .batch_size = 16,
                             .threads = threads,
                             .rates = rates,
                             .optimizer = &sgd};
            set_sources(&a, &n, &d);
            a.sources[0] = m.source;
            const snapshot before = take(&n, 0);
            fn_result r;
            CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_EINPUT);
            CHECK(r.bad_source == 0 && r.bad_row == 7 && r.bad_column == 41, "row %d column %d",
                  (int)r.bad_row, (int)r.bad_column);
            CHECK(same_and_free(before, take(&n, 0)));
            free(before.values), free(rates);
            free_matrix(&m);
            free_data(&d);
            free_network(&n);
        }
}

/* Classes are no CSR rows. */
static void sparse_classes(void) {
    network n = make_network((spec){.widths = {13, 5}, .mode = FN_EVALUATE, .max_rows = 16});
    data d = sparse_data(13, 5, 2);
    matrix m = kind_of(&d, 0);
    fn_run_args a = {.n_rows = 16, .batch_size = 16};
    fn_result r;
    set_sources(&a, &n, &d);
    CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_OK);
    a.sources[1] = m.source;
    CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_EINVAL);
    free_matrix(&m);
    free_data(&d);
    free_network(&n);
}

static int check(const int64_t *indptr, int64_t n, const int64_t *indices, int *ascending) {
    int answers[2], rising[2];
    for (int wide = 0; wide < 2; wide++) {
        const fn_dtype dtype = wide ? FN_I64 : FN_I32;
        void *starts = numbers(indptr, n + 1, dtype), *columns = numbers(indices, 5, dtype);
        answers[wide] = fn_csr_check(n, 7, 5, starts, columns, dtype, &rising[wide]);
        free(starts), free(columns);
    }
    CHECK(answers[0] == answers[1] && (!answers[0] || rising[0] == rising[1]));
    *ascending = rising[0];
    return answers[0];
}

static void indices_are_checked(void) {
    static const int64_t columns[] = {0, 6, 3, 2, 5}, starts[] = {0, 2, 2, 3, 5};
    int ascending;
    CHECK(check(starts, 4, columns, &ascending) && ascending);
    CHECK(check(starts, 0, columns, &ascending) && ascending); /* no rows */
    static const int64_t cut[] = {1, 2, 4};                    /* not from the first entry */
    CHECK(check(cut, 2, columns, &ascending) && !ascending);   /* 3, 2 in one row */
    static const int64_t twice[] = {0, 6, 3, 3, 5}, pair[] = {2, 4};
    CHECK(check(pair, 1, twice, &ascending) && !ascending);
    static const int64_t bad_starts[][3] = {{-1, 2, 5}, {0, 3, 2}, {0, 2, 6}, {0, 6, 5}};
    for (int i = 0; i < 4; i++) CHECK(!check(bad_starts[i], 2, columns, &ascending), "%d", i);
    static const int64_t bad_columns[][5] = {{-1, 6, 3, 2, 5}, {0, 7, 3, 2, 5}, {0, 6, 3, 2, 99}};
    for (int i = 0; i < 3; i++) CHECK(!check(starts, 4, bad_columns[i], &ascending), "%d", i);
    CHECK(!check(starts, -1, columns, &ascending));
}

static const test tests[] = {
    {"predictions have the dense rows' bits", predictions},
    {"training gives the dense rows' bits", training_gives_the_same_bits},
    {"NaN and infinity have a row and a column", values_that_are_not_finite},
    {"classes cannot be sparse", sparse_classes},
    {"indices lead nowhere else", indices_are_checked},
};

int main(int argc, char **argv) {
    return run_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
