/* test_kmeans.c - k-means without Python: every way of working on every SIMD level against plain
 * float64 distances, the same bits for any number of threads, memory that runs out, edges.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "kmeans.h"

static int failures;
#define CHECK(what)                                                        \
    do {                                                                   \
        if (!(what)) {                                                     \
            printf("line %d, %s: %s\n", __LINE__, fn_simd_level(), #what); \
            failures++;                                                    \
        }                                                                  \
    } while (0)

enum { K = 13, ITERATIONS = 12 };

static uint64_t state = 1;
static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53;
}

/* Blobs in (n, ld), float32 or float64. */
static void *make_rows(int64_t n, int64_t ld, bool wide, double offset) {
    char *x = malloc((size_t)(n * ld) * (wide ? 8 : 4));
    for (int64_t i = 0; i < n * ld; i++) {
        const double value =
            offset + 3 * (double)((i / ld) % 9) * (double)((i % ld) % 5) + uniform();
        if (wide)
            ((double *)x)[i] = value;
        else
            ((float *)x)[i] = (float)value;
    }
    return x;
}

static double value(const fn_km_data *data, int64_t i, int64_t j) {
    const char *row = (const char *)data->values + i * data->row_bytes;
    return data->dtype == FN_F64 ? ((const double *)row)[j] : (double)((const float *)row)[j];
}

/* Squared distance of row i to a centre, in plain float64. */
static double distance(const fn_km_data *data, int64_t i, const double *center) {
    double sum = 0;
    for (int64_t j = 0; j < data->d; j++) {
        const double gap = value(data, i, j) - center[j];
        sum += gap * gap;
    }
    return sum;
}

static void check_labels(const fn_km_data *data, int64_t k, const double *centers,
                         const int32_t *labels) {
    int wrong = 0;
    for (int64_t i = 0; i < data->n; i++) {
        const double own = distance(data, i, centers + labels[i] * data->d);
        for (int64_t j = 0; j < k; j++)
            wrong += distance(data, i, centers + j * data->d) < own * (1 - 1e-12) - 1e-12;
    }
    CHECK(!wrong);
}

/* Seed, run and label; centres and labels to compare go to `out` (k * d doubles, n labels). */
static void cluster(const fn_km_data *data, fn_km_algorithm algorithm, int threads, double *centers,
                    int32_t *labels) {
    fn_km *km = fn_km_new(data, K, algorithm, 0, threads);
    CHECK(km);
    if (!km) return;
    int64_t rows[K], done = 0, all = 0;
    fn_km_record records[ITERATIONS];
    double inertia;
    CHECK(fn_km_seed(km, FN_KM_PLUSPLUS, 3, 0, rows) == FN_OK);
    double *start = malloc(sizeof(double) * (size_t)(K * data->d));
    memcpy(start, fn_km_centers(km), sizeof(double) * (size_t)(K * data->d));
    fn_km_start(km, start, NULL);
    while (all < ITERATIONS) { /* slices so short that iterations are interrupted */
        CHECK(fn_km_step(km, ITERATIONS - all, 0, 1e-5, records, &done) == FN_OK);
        all += done;
        if (done && !records[done - 1].moved) break;
    }
    CHECK(fn_km_labels(km, labels, &inertia) == FN_OK);
    memcpy(centers, fn_km_centers(km), sizeof(double) * (size_t)(K * data->d));
    double sum = 0;
    for (int64_t i = 0; i < data->n; i++)
        sum += (data->weights ? data->weights[i] : 1) *
               distance(data, i, centers + labels[i] * data->d);
    CHECK(fabs(inertia - sum) <= 1e-8 * sum);
    CHECK(fn_km_bytes(km) > 0);
    free(start);
    fn_km_free(km);
}

static void check_shape(int64_t n, int64_t d, bool wide, double offset, const double *weights) {
    const int64_t ld = d + 3;
    void *x = make_rows(n, ld, wide, offset);
    const fn_km_data data = {.n = n,
                             .d = d,
                             .dtype = wide ? FN_F64 : FN_F32,
                             .values = x,
                             .row_bytes = ld * (wide ? 8 : 4),
                             .weights = weights};
    double *centers = malloc(sizeof(double) * (size_t)(K * d)),
           *first = malloc(sizeof(double) * (size_t)(K * d));
    int32_t *labels = malloc(4 * (size_t)n), *once = malloc(4 * (size_t)n);
    for (int a = FN_KM_AUTO; a <= FN_KM_HAMERLY; a++)
        for (int threads = 1; threads <= 4; threads++) {
            cluster(&data, (fn_km_algorithm)a, threads, centers, labels);
            check_labels(&data, K, centers, labels);
            if (threads == 1) memcpy(first, centers, sizeof(double) * (size_t)(K * d));
            CHECK(!memcmp(first, centers, sizeof(double) * (size_t)(K * d)));
        }
    double inertia;
    CHECK(fn_km_assign(&data, K, centers, once, NULL, NULL, NULL, 2, &inertia) == FN_OK);
    check_labels(&data, K, centers, once);
    float *far = malloc(4 * (size_t)(n * K));
    CHECK(fn_km_transform(&data, K, centers, far, FN_F32, 2) == FN_OK);
    int off = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < K; j++) {
            const double right = sqrt(distance(&data, i, centers + j * d));
            off += !(fabs((double)far[i * K + j] - right) <= 1e-5 * right + 1e-6);
        }
    CHECK(!off);
    free(far), free(x), free(centers), free(first), free(labels), free(once);
}

/* Every allocation fails once: an error comes back or a way that needs less memory is taken, and
 * nothing is lost (the leak sanitizer looks). */
static void check_memory(void) {
    float *x = make_rows(700, 150, false, 0);
    const fn_km_data data = {.n = 700, .d = 150, .dtype = FN_F32, .values = x, .row_bytes = 600};
    int64_t rows[K], errors = 0;
    for (int64_t fail = 0; fail < 100; fail++) {
        fn_alloc_fail_after(fail);
        fn_km *km = fn_km_new(&data, K, FN_KM_PROJECTED, 0, 1);
        const bool ok = km && fn_km_seed(km, FN_KM_PLUSPLUS, 1, 0, rows) == FN_OK;
        fn_alloc_fail_after(-1);
        if (km && !ok) CHECK(fn_km_seed(km, FN_KM_PLUSPLUS, 1, 0, rows) == FN_OK);
        fn_km_free(km);
        errors += !ok;
        if (fail == 0) CHECK(!km);
        if (fail == 99) CHECK(ok);
    }
    CHECK(errors > 40);
    free(x);
}

static int never(void *context) {
    ++*(int *)context;
    return 0;
}

/* First centres are not looked for any longer where the caller says so; then they are again. */
static void check_stop(void) {
    float *x = make_rows(700, 5, false, 0);
    const fn_km_data data = {.n = 700, .d = 5, .dtype = FN_F32, .values = x, .row_bytes = 20};
    int64_t rows[K];
    int asked = 0;
    fn_km *km = fn_km_new(&data, K, FN_KM_AUTO, 0, 1);
    fn_km_watch(km, never, &asked);
    CHECK(fn_km_seed(km, FN_KM_PLUSPLUS, 1, 0, rows) == FN_STOPPED && asked == 1);
    CHECK(fn_km_seed(km, FN_KM_PARALLEL, 1, 0, rows) == FN_STOPPED && asked == 2);
    fn_km_watch(km, NULL, NULL);
    CHECK(fn_km_seed(km, FN_KM_PARALLEL, 1, 0, rows) == FN_OK && asked == 2);
    fn_km_free(km);
    free(x);
}

/* Values that float32 cannot square, and a value that is no number. */
static void check_extremes(void) {
    double x[40], centers[4];
    for (int i = 0; i < 40; i++) x[i] = (i % 2 ? 1e200 : -1e-200) * (1 + i);
    const fn_km_data data = {.n = 20, .d = 2, .dtype = FN_F64, .values = x, .row_bytes = 16};
    int32_t labels[20];
    int64_t row, column;
    memcpy(centers, x, sizeof centers);
    fn_km *km = fn_km_new(&data, 2, FN_KM_AUTO, 0, 1);
    CHECK(km && !fn_km_bad_value(km, &row, &column));
    fn_km_free(km);
    CHECK(fn_km_assign(&data, 2, centers, labels, NULL, NULL, NULL, 1, NULL) == FN_OK);
    x[13] = NAN;
    km = fn_km_new(&data, 2, FN_KM_AUTO, 0, 1);
    CHECK(km && fn_km_bad_value(km, &row, &column) && row == 6 && column == 1);
    fn_km_free(km);
}

static void check_csr(void) {
    const int32_t indptr[] = {0, 2, 2, 3, 5}, indices[] = {0, 3, 1, 2, 3};
    const float values[] = {1, 2, 5, 1, 1};
    const double centers[] = {0, 0, 0, 0, 0, 5, 0, 0};
    const fn_km_data data = {.n = 4,
                             .d = 4,
                             .dtype = FN_F32,
                             .values = values,
                             .indptr = indptr,
                             .indices = indices,
                             .index_dtype = FN_I32};
    int32_t labels[4];
    double sums[8] = {0}, counts[2] = {0}, inertia = 0;
    CHECK(fn_km_assign(&data, 2, centers, labels, NULL, sums, counts, 1, &inertia) == FN_OK);
    CHECK(labels[0] == 0 && labels[1] == 0 && labels[2] == 1 && labels[3] == 0);
    CHECK(counts[0] == 3 && counts[1] == 1 && fabs(sums[3] - 3) < 1e-12 &&
          fabs(inertia - 7) < 1e-12);
}

int main(int argc, char **argv) {
    double weights[900];
    for (int i = 0; i < 900; i++) weights[i] = i % 7 ? 0.25 * (i % 5) : 0;
    for (int l = 0; fn_simd_supported(l); l++) {
        if (argc > 1 && strcmp(argv[1], fn_simd_supported(l))) continue;
        fn_simd_choose(fn_simd_supported(l));
        check_shape(900, 2, false, 0, NULL);
        check_shape(900, 17, true, 1e6, weights);
        check_shape(531, 140, false, 100, NULL);
        check_shape(900, 33, false, 1e5, weights);
        check_memory();
        check_stop();
        check_extremes();
        check_csr();
    }
    printf(failures ? "%d failures\n" : "ok\n", failures);
    return failures != 0;
}
