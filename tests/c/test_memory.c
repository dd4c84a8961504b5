/* test_memory.c - any allocation may fail: an error, no leak (the address sanitizer looks), and
 * everything works afterwards. Runs allocate nothing.
 */
#include "network.h"

enum { ROWS = 21 };

/* The whole life of a network. Weights (or predictions) when all went well, else nothing. */
static fn_status live(const spec *s, const data *d, snapshot *result) {
    network n = {.spec = *s};
    fn_status status;
    *result = (snapshot){0, NULL};
    n.plan = make_plan(s, &n.outputs, &status);
    if (!n.plan) return status;
    const fn_optimizer adam = make_optimizer("adam", 1);
    double *rates = make_rates(8, 0.01);
    n.params = fn_params_new(n.plan);
    n.work = fn_work_new(n.plan, 2);
    status = n.params && n.work ? FN_OK : FN_ENOMEM;
    if (status == FN_OK && s->mode == FN_TRAIN) status = fn_params_need_slots(n.params, 2, 0);
    if (status == FN_OK && s->update != FN_UPDATE_FUSED) status = fn_params_need_gradient(n.params);
    if (status == FN_OK) {
        float *output = block(ROWS * 3 * sizeof(float));
        fn_run_args a = {.n_rows = ROWS,
                         .batch_size = 4,
                         .rates = rates,
                         .optimizer = &adam,
                         .threads = 2,
                         .outputs = {output}};
        fn_result r;
        set_sources(&a, &n, d);
        fill_params(n.params, s);
        const int64_t before = fn_alloc_count();
        status = fn_run(n.plan, n.params, n.work, &a, &r);
        CHECK(fn_alloc_count() == before);
        CHECK(status == FN_OK && r.steps == 6);
        if (s->mode == FN_PREDICT)
            *result = (snapshot){ROWS * 3, output};
        else
            *result = take(&n, s->mode == FN_TRAIN ? 2 : 0), free(output);
    }
    free(rates);
    free_network(&n);
    return status;
}

/* The i-th allocation fails, for every i. */
static void any_allocation_may_fail(void) {
    static const spec networks[] = {
        {.widths = {7, 9, 11, 5, 3}, .mode = FN_TRAIN, .max_rows = 4, .dropout = 0.25, .metric = 1},
        {.widths = {201, 103, 3}, .mode = FN_TRAIN, .max_rows = 4, .update = FN_UPDATE_FLAT},
        {.widths = {201, 103, 3},
         .mode = FN_TRAIN,
         .max_rows = 4,
         .gemm = FN_GEMM_SGEMM,
         .lanes = 2},
        {.widths = {7, 9, 11, 5, 3}, .mode = FN_EVALUATE, .max_rows = 4, .head = WEIGHTED_MSE},
        {.widths = {7, 9, 11, 5, 3}, .mode = FN_PREDICT, .max_rows = 4},
    };
    for (int i = 0; i < 5; i++) {
        if (!SGEMM && networks[i].gemm == FN_GEMM_SGEMM) continue;
        data d = make_data(ROWS, networks[i].widths[0], 3);
        snapshot want, got;
        CHECK(live(&networks[i], &d, &want) == FN_OK);
        fn_status status = FN_ENOMEM;
        int n = 0;
        for (; status != FN_OK && n < 1000; n++) {
            fn_alloc_fail_after(n);
            status = live(&networks[i], &d, &got);
            CHECK(status == FN_ENOMEM || status == FN_OK, "status %d", status);
            CHECK((status == FN_OK) == (got.values != NULL));
            fn_alloc_fail_after(-1);
            if (n % 5 == 0 && status != FN_OK) {
                CHECK(live(&networks[i], &d, &got) == FN_OK);
                CHECK(same_and_free(want, got));
            }
        }
        CHECK(n > 10 && n < 1000, "%d allocations", n);
        CHECK(same_and_free(want, got));
        free(want.values);
        free_data(&d);
    }
}

/* A call that failed for want of memory changed nothing: it may be made again. */
static void calls_may_be_repeated(void) {
    const spec s = {.widths = {7, 9, 11, 9, 5, 3}, .mode = FN_TRAIN, .max_rows = 4};
    const fn_plan_options options = {.mode = FN_TRAIN, .max_rows = 4, .lanes = 1};
    data d = make_data(ROWS, 7, 3);
    for (int fail = 0; fail < 12; fail++) {
        maker m = {.plan = fn_plan_new(&options)};
        const int targets = add_input(&m, 1, FN_I32, 1, NULL);
        int h = add_input(&m, 0, FN_F32, 7, &s);
        for (int i = 0; i < 4; i++) h = add_hidden(&m, &s, i, h);
        h = add_dense(&m, h, 5, 3, 1);
        const int loss = add_op(&m, "loss", h, next_buffer(&m, FN_F32, 1));
        CHECK(fn_op_input(m.plan, loss, targets) == 0 && !m.bad);
        fn_status status = FN_ENOMEM;
        for (int i = fail; i >= 0 && status == FN_ENOMEM; i--) {
            fn_alloc_fail_after(i);
            status = fn_plan_finish(m.plan);
        }
        fn_alloc_fail_after(-1);
        if (status == FN_ENOMEM) status = fn_plan_finish(m.plan);
        CHECK(status == FN_OK, "%d", status);
        network n = {s, m.plan, fn_params_new(m.plan), fn_work_new(m.plan, 1), h};
        fn_plan_info info;
        fn_plan_describe(m.plan, &info);
        CHECK(info.param_count == 7 * 9 + 9 + 9 * 11 + 11 + 11 * 9 + 9 + 9 * 5 + 5 + 5 * 3 + 3);
        for (int slots = 0; slots < 2; slots++) { /* slots: all of them or none */
            fn_alloc_fail_after(slots);
            CHECK(fn_params_need_slots(n.params, 2, 1) == FN_ENOMEM);
            fn_alloc_fail_after(-1);
        }
        CHECK(fn_params_need_slots(n.params, 1, 0.5f) == FN_OK);
        fn_alloc_fail_after(0);
        CHECK(fn_params_need_slots(n.params, 2, 1) == FN_ENOMEM);
        fn_alloc_fail_after(0);
        CHECK(fn_params_need_gradient(n.params) == FN_ENOMEM);
        fn_alloc_fail_after(-1);
        float kept[63];
        CHECK(fn_params_get(n.params, 0, 1, kept) == FN_OK && kept[0] == 0.5f && kept[62] == 0.5f);
        fill_params(n.params, &s);
        const training t = {4, 1, 2, make_optimizer("adam", 0), 0};
        const snapshot want = train_new(s, &d, &t);
        CHECK(train(&n, &d, &t) == FN_OK);
        CHECK(same_and_free(want, take(&n, 2)), "failed at %d", fail);
        free(want.values);
        free_network(&n);
    }
    free_data(&d);
}

/* Padding, panels and tiles of every size around the vectors: no byte outside a block is touched.
 */
static void every_small_size(void) {
    for (int k = 1; k <= 35; k += 1 + k / 9)
        for (int units = 1; units <= 70; units += units < 35 ? 2 : 17) {
            spec s = {
                .widths = {k, units, 1 + units % 5}, .mode = FN_TRAIN, .max_rows = 9, .head = MSE};
            data d = make_data(ROWS, k, 1 + units % 5);
            const training t = {9, 1, 1, make_optimizer("momentum", 0), 0};
            free(train_new(s, &d, &t).values);
            s.mode = FN_PREDICT;
            network n = make_network(s);
            float *y = block((size_t)(ROWS * d.units) * sizeof(float));
            const fn_source source = rows_of(d.x, FN_F32, (size_t)k * sizeof(float));
            CHECK(predict(&n, source, NULL, 0, ROWS, 9, 1, y) == FN_OK);
            CHECK(predict(&n, source, NULL, 0, ROWS, 1, 1, y) == FN_OK);
            free(y);
            free_network(&n);
            free_data(&d);
        }
}

/* Weights go in and out in canonical order, and copies are copies. */
static void params_round_trip(void) {
    for (int units = 1; units < 70; units += 3) {
        const spec s = {.widths = {11, units, 2}, .mode = FN_TRAIN, .max_rows = 2};
        network a = make_network(s), b = make_network(s);
        float *w = random_block(11 * units), *out = block((size_t)(11 * units) * sizeof(float));
        for (int part = 0; part < 4; part++) {
            if (part == 1) CHECK(fn_params_need_slots(a.params, 2, 7) == FN_OK);
            if (part == 3) CHECK(fn_params_need_gradient(a.params) == FN_OK);
            CHECK(fn_params_set(a.params, 0, part, w) == FN_OK);
            CHECK(fn_params_get(a.params, 0, part, out) == FN_OK);
            CHECK(!memcmp(w, out, (size_t)(11 * units) * sizeof(float)));
        }
        fn_params_copy_weights(b.params, a.params);
        const snapshot copied = take(&a, 0);
        CHECK(same_and_free(copied, take(&b, 0)));
        free(copied.values);
        CHECK(fn_params_match(a.params, b.plan) && fn_params_nonfinite(a.params) == -1);
        w[11 * units - 1] = -INFINITY;
        CHECK(fn_params_set(b.params, 0, 0, w) == FN_OK && fn_params_nonfinite(b.params) == 0);
        free(w), free(out);
        free_network(&a), free_network(&b);
    }
}

static const test tests[] = {
    {"any allocation may fail", any_allocation_may_fail},
    {"calls that failed may be repeated", calls_may_be_repeated},
    {"every small size", every_small_size},
    {"weights in and out", params_round_trip},
};

int main(int argc, char **argv) {
    return run_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
