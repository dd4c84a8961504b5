/* test_engine.c - training: the same bits for any number of threads, fused or flat, in lanes, by
 * sgemm, and through a stop op.
 */
#include "network.h"

static const int thread_counts[] = {1, 3, 8, 2, 4};
enum { COUNTS = SANITIZED ? 2 : 5 };

/* Odd sizes; the last is wide enough to be cut by columns. */
static const spec networks[] = {
    {.widths = {13, 35, 6}, .mode = FN_TRAIN, .dropout = 0.25},
    {.widths = {97, 33, 10}, .mode = FN_TRAIN, .dropout = 0.5, .activation = "gelu"},
    {.widths = {300, 200, 10}, .mode = FN_TRAIN, .dropout = 0.25},
};
enum { NETWORKS = sizeof networks / sizeof *networks, ROWS = 67 };
static const int batches[] = {7, 1, 32, 33}; /* 67 rows: last minibatches of 4, 1, 3 and 1 */

static data data_for(const spec *s) {
    int last = 1;
    while (s->widths[last + 1]) last++;
    return make_data(ROWS, s->widths[0], s->widths[last]);
}

/* The weights of one thread, and that every other count gives the same. */
static snapshot same_for_all_threads(spec s, const data *d, training t) {
    t.threads = 1;
    const snapshot one = train_new(s, d, &t);
    for (int i = 1; i < COUNTS; i++) {
        t.threads = thread_counts[i];
        CHECK(same_and_free(one, train_new(s, d, &t)), "%s, %d inputs, batch %d, %d threads",
              t.optimizer.name, s.widths[0], t.batch, t.threads);
    }
    return one;
}

static void same_bits_for_any_threads(void) {
    const char *name;
    for (int n = 0; n < NETWORKS; n++) {
        spec s = networks[n];
        data d = data_for(&s);
        for (int o = 0; (name = fn_table_name("optimizer", o)); o++)
            for (int b = 0; b < 4; b++) {
                if (SANITIZED && (o + b + n) % 3) continue;
                s.max_rows = batches[b];
                const training t = {batches[b], 1, batches[b] > 1 ? 3 : 1,
                                    make_optimizer(name, (o + b) % 2), 0};
                free(same_for_all_threads(s, &d, t).values);
            }
        free_data(&d);
    }
}

static void training_learns(void) { /* so that none of this compares weights that stand still */
    spec s = {.widths = {13, 35, 6}, .mode = FN_TRAIN, .max_rows = 16};
    data d = make_data(ROWS, 13, 6);
    const char *name;
    for (int o = 0; (name = fn_table_name("optimizer", o)); o++) {
        network n = make_network(s);
        const snapshot before = take(&n, 0);
        fn_optimizer optimizer = make_optimizer(name, 0);
        double *rates = make_rates(5, 0.01), losses[2];
        CHECK(fn_params_need_slots(n.params, fn_optimizer_slots(name), 0.1f) == FN_OK);
        fn_run_args a = {.n_rows = ROWS, .batch_size = 16, .rates = rates, .optimizer = &optimizer};
        set_sources(&a, &n, &d);
        for (int epoch = 0; epoch < 30; epoch++) {
            fn_result result;
            CHECK(fn_run(n.plan, n.params, n.work, &a, &result) == FN_OK && result.steps == 5);
            CHECK(result.weight == ROWS);
            losses[epoch > 0] = result.loss / result.weight;
            a.step += result.steps;
        }
        CHECK(losses[1] < 0.95 * losses[0], "%s: %g -> %g", name, losses[0], losses[1]);
        const snapshot after = take(&n, 0);
        CHECK(difference(before, after) > 1e-3, "%s", name);
        free(before.values), free(after.values), free(rates);
        free_network(&n);
    }
    free_data(&d);
}

static void fused_equals_flat(void) {
    const char *name;
    for (int n = 0; n < NETWORKS; n++) {
        spec s = networks[n];
        data d = data_for(&s);
        for (int o = 0; (name = fn_table_name("optimizer", o)); o++)
            for (int b = 0; b < 4; b++) {
                s.max_rows = batches[b];
                for (int regular = 0; regular < 2; regular++) {
                    if (SANITIZED && (o + b + n + regular) % 3) continue;
                    const training t = {batches[b], 2, 1, make_optimizer(name, regular), 0};
                    s.update = FN_UPDATE_FUSED;
                    const snapshot fused = train_new(s, &d, &t);
                    s.update = FN_UPDATE_FLAT;
                    CHECK(same_and_free(fused, train_new(s, &d, &t)),
                          "%s, %d inputs, batch %d, regular %d", name, s.widths[0], batches[b],
                          regular);
                    free(fused.values);
                }
            }
        free_data(&d);
    }
}

static void global_norm_clips(void) {
    spec s = networks[2];
    s.update = FN_UPDATE_FLAT, s.max_rows = 32;
    data d = data_for(&s);
    training t = {32, 1, 2, make_optimizer("sgd", 0), 0};
    const snapshot free_norm = same_for_all_threads(s, &d, t);
    t.optimizer.global_clipnorm = 1e-3;
    const snapshot clipped = same_for_all_threads(s, &d, t);
    CHECK(!same(free_norm, clipped));
    t.optimizer.global_clipnorm = 1e30;
    CHECK(same_and_free(free_norm, same_for_all_threads(s, &d, t)));
    /* one step of rate 1 moves the weights by exactly the clipped norm */
    s.max_rows = ROWS, s.dropout = 0;
    network n = make_network(s);
    const snapshot before = take(&n, 0);
    t = (training){ROWS, 2, 1, make_optimizer("sgd", 0), 1};
    t.optimizer.global_clipnorm = 0.125;
    CHECK(train(&n, &d, &t) == FN_OK);
    const snapshot after = take(&n, 0);
    double sum = 0;
    for (size_t i = 0; i < after.n; i++) sum += pow((double)after.values[i] - before.values[i], 2);
    CHECK(fabs(sqrt(sum) - 0.125) < 1e-4, "%g", sqrt(sum));
    free(before.values), free(after.values), free(clipped.values), free(free_norm.values);
    free_network(&n);
    free_data(&d);
}

static void frozen_layers_stay(void) {
    for (int n = 0; n < NETWORKS; n++)
        for (int b = 0; b < 4; b++) {
            spec s = networks[n];
            s.max_rows = batches[b], s.frozen = 1;
            data d = data_for(&s);
            const training t = {batches[b], 2, 1, make_optimizer("momentum", 0), 0};
            network before = make_network(s), fused = make_network(s);
            CHECK(train(&fused, &d, &t) == FN_OK);
            const snapshot a = take(&before, 0), f = take(&fused, 0);
            const size_t first = (size_t)(s.widths[0] * s.widths[1] + s.widths[1]);
            CHECK(memcmp(a.values, f.values, first * sizeof(float)), "batch %d", batches[b]);
            CHECK(!memcmp(a.values + first, f.values + first, (a.n - first) * sizeof(float)),
                  "%d inputs, batch %d", s.widths[0], batches[b]);
            s.update = FN_UPDATE_FLAT;
            const snapshot whole = take(&fused, 1), flat = train_new(s, &d, &t);
            CHECK(same(whole, flat), "%d inputs, batch %d", s.widths[0], batches[b]);
            free(a.values), free(f.values), free(whole.values), free(flat.values);
            free_network(&before), free_network(&fused);
            free_data(&d);
        }
}

/* ---- lanes ---- */

/* The gradient of rows [first, first + rows) as one minibatch. */
static snapshot gradient(spec s, const data *d, int first, int rows, int threads) {
    s.update = FN_UPDATE_NONE, s.dropout = 0, s.max_rows = rows;
    network n = make_network(s);
    fn_run_args a = {.first = first, .n_rows = rows, .batch_size = rows, .threads = threads};
    set_sources(&a, &n, d);
    fn_result result;
    CHECK(fn_run(n.plan, n.params, n.work, &a, &result) == FN_OK);
    const snapshot g = take_part(&n, 3, 3);
    free_network(&n);
    return g;
}

static void lanes_are_the_same_for_any_threads(void) {
    for (int lanes = 1; lanes <= 4; lanes++)
        for (int n = 0; n < NETWORKS; n++) {
            spec s = networks[n];
            data d = data_for(&s);
            s.lanes = lanes;
            for (int b = 0; b < 4; b++) {
                if (SANITIZED && (b + n + lanes) % 3) continue;
                s.max_rows = batches[b], s.update = FN_UPDATE_FUSED;
                const training t = {batches[b], 1, 1, make_optimizer("momentum", 0), 0};
                const snapshot fused = same_for_all_threads(s, &d, t);
                s.update = FN_UPDATE_FLAT;
                CHECK(same_and_free(fused, same_for_all_threads(s, &d, t)), "%d lanes", lanes);
                free(fused.values);
            }
            free_data(&d);
        }
}

/* Halves of a batch as two workers would have them: means over half the rows, so half of their sum
 * is the whole gradient, exactly. */
static void lanes_equal_parts_by_hand(void) {
    for (int n = 0; n < NETWORKS; n++) {
        spec s = networks[n];
        data d = data_for(&s);
        for (int parts = 2; parts <= 4; parts += 2) {
            snapshot g[4];
            for (int i = 0; i < parts; i++) {
                s.lanes = 1;
                g[i] = gradient(s, &d, i * 8, 8, 1);
            }
            for (size_t i = 0; i < g[0].n; i++) {
                float sum = g[0].values[i] + g[1].values[i];
                if (parts == 4) sum += g[2].values[i] + g[3].values[i];
                g[0].values[i] = sum / (float)parts;
            }
            s.lanes = parts;
            for (int threads = 1; threads <= 3; threads++)
                CHECK(same_and_free(g[0], gradient(s, &d, 0, 8 * parts, threads)), "%d parts",
                      parts);
            s.lanes = 1;
            const snapshot whole = gradient(s, &d, 0, 8 * parts, 1);
            CHECK(difference(whole, g[0]) < 1e-5 && difference(whole, g[0]) > 0);
            free(whole.values);
            for (int i = 0; i < parts; i++) free(g[i].values);
        }
        free_data(&d);
    }
}

/* ---- both ways to multiply ---- */

static void sgemm_equals_tiles(void) {
    if (!SGEMM) return (void)printf("  not with this sanitizer\n");
    fn_blas_one_thread();
    for (int n = 0; n < NETWORKS; n++)
        for (int b = 0; b < 4; b++)
            for (int lanes = 1; lanes <= 3; lanes += 2) {
                spec s = networks[n];
                data d = data_for(&s);
                s.lanes = lanes, s.max_rows = batches[b], s.gemm = FN_GEMM_TILES;
                const snapshot tiles = gradient(s, &d, 1, batches[b], 2);
                s.gemm = FN_GEMM_SGEMM;
                const snapshot sgemm = gradient(s, &d, 1, batches[b], 1);
                CHECK(difference(tiles, sgemm) < 1e-5, "%g", difference(tiles, sgemm));
                CHECK(same_and_free(sgemm, gradient(s, &d, 1, batches[b], 3)));
                const training t = {batches[b], 1, 1, make_optimizer("adam", 0), 0};
                if (!SANITIZED || b == 0) free(same_for_all_threads(s, &d, t).values);
                free(tiles.values), free(sgemm.values);
                free_data(&d);
            }
}

/* ---- order of buffers, weights, metrics ---- */

static void buffers_in_any_order(void) {
    for (int wide = 0; wide < 2; wide++) {
        spec s = {.widths = {13, 35, 21, 6}, .mode = FN_TRAIN, .head = MSE, .max_rows = 9};
        if (wide) s.widths[0] = 301, s.widths[1] = 203;
        s.activation = wide ? "tanh" : "linear";
        data d = make_data(ROWS, s.widths[0], 6);
        const training t = {9, 2, 2, make_optimizer("adam", 0), 0};
        const snapshot forward = train_new(s, &d, &t);
        s.backwards = 1;
        CHECK(same_and_free(forward, train_new(s, &d, &t)), "training, wide %d", wide);
        s.mode = FN_EVALUATE; /* elementwise ops work in place */
        double losses[2];
        for (int i = 0; i < 2; i++) {
            s.backwards = i;
            network n = make_network(s);
            fn_run_args a = {.n_rows = ROWS, .batch_size = 9, .threads = 2};
            set_sources(&a, &n, &d);
            fn_result result;
            CHECK(fn_run(n.plan, n.params, n.work, &a, &result) == FN_OK);
            losses[i] = result.loss;
            free_network(&n);
        }
        CHECK(losses[0] == losses[1], "%g and %g", losses[0], losses[1]);
        free(forward.values);
        free_data(&d);
    }
}

/* Weight 0 is a row removed; weights k and 1 are k rows and one. */
static void weights_of_rows(void) {
    spec s = {.widths = {13, 35, 6}, .mode = FN_TRAIN, .head = WEIGHTED_MSE, .metric = 1};
    data d = make_data(ROWS, 13, 6);
    for (int i = 0; i < ROWS; i++) d.weights[i] = i < 16;
    const snapshot all = gradient(s, &d, 0, 32, 2), some = gradient(s, &d, 0, 16, 2);
    CHECK(same(all, some));
    s.head = MSE;
    const snapshot plain = gradient(s, &d, 0, 16, 1);
    CHECK(same(plain, some));
    s.head = WEIGHTED_MSE;
    for (int i = 0; i < ROWS; i++) d.weights[i] = 0;
    const snapshot none = gradient(s, &d, 0, 16, 1);
    for (size_t i = 0; i < none.n; i++) CHECK(none.values[i] == 0);
    for (int i = 0; i < ROWS; i++) d.weights[i] = (float)(i % 4);
    const snapshot as_float = gradient(s, &d, 0, 32, 2);
    uint8_t bytes[ROWS];
    for (int i = 0; i < ROWS; i++) bytes[i] = (uint8_t)(i % 4);
    s.update = FN_UPDATE_NONE, s.max_rows = 32;
    network n = make_network(s);
    fn_run_args a = {.n_rows = 32, .batch_size = 32};
    set_sources(&a, &n, &d);
    a.sources[2] = rows_of(bytes, FN_U8, 1);
    fn_result result;
    CHECK(fn_run(n.plan, n.params, n.work, &a, &result) == FN_OK && result.weight == 48);
    CHECK(same_and_free(as_float, take_part(&n, 3, 3)));
    free_network(&n);
    free(all.values), free(some.values), free(plain.values), free(none.values),
        free(as_float.values);
    free_data(&d);
}

/* Sums of the loss and of a metric: any threads, any batch size, train and evaluate. */
static void sums_over_rows(void) {
    spec s = {.widths = {13, 35, 6}, .mode = FN_EVALUATE, .metric = 1, .max_rows = 50};
    data d = make_data(ROWS, 13, 6);
    network n = make_network(s);
    double loss = 0, right = 0;
    for (int batch = 1; batch <= 50; batch += 7)
        for (int threads = 1; threads <= 3; threads++) {
            fn_run_args a = {.n_rows = ROWS, .batch_size = batch, .threads = threads};
            set_sources(&a, &n, &d);
            fn_result result;
            int sums;
            fn_work_reset_metrics(n.work, n.plan);
            CHECK(fn_run(n.plan, n.params, n.work, &a, &result) == FN_OK);
            const double *metric = fn_work_metric(n.work, n.plan, 0, &sums);
            CHECK(sums == 2 && metric[1] == ROWS && metric[0] >= 0 && metric[0] <= ROWS);
            if (loss == 0) loss = result.loss, right = metric[0];
            CHECK(fabs(result.loss - loss) < 1e-9 * loss && metric[0] == right && loss > 0);
            CHECK(!fn_work_metric(n.work, n.plan, 1, &sums) && sums == 0);
        }
    free_network(&n);
    free_data(&d);
}

/* ---- stop op ---- */

/* What loss.c does for mse, by the caller: the gradient of the outputs of one minibatch. */
static void hand_gradient(network *n, const data *d, const int64_t *order, int64_t first,
                          int rows) {
    size_t offset, row_bytes;
    int rank, memory;
    int64_t shape[FN_MAX_RANK];
    fn_dtype dtype;
    fn_plan_buffer_info(n->plan, n->outputs, &dtype, &rank, shape, &memory, &offset, &row_bytes);
    CHECK(memory == 1);
    const float scale = 1.0f * (float)(1.0 / rows) / (float)d->units;
    for (int r = 0; r < rows; r++) {
        const size_t at = (size_t)r * row_bytes;
        const char *p = fn_work_buffer(n->work, n->plan, n->outputs, 0);
        char *dp = fn_work_buffer(n->work, n->plan, n->outputs, 1);
        const float *targets = d->targets + order[first + r] * d->units;
        for (int c = 0; c < d->units; c++) {
            const float difference = 2.0f * (((const float *)(p + at))[c] - targets[c]);
            ((float *)(dp + at))[c] = difference * scale;
        }
    }
}

static snapshot train_by_hand(spec s, const data *d, const training *t) {
    s.head = STOP_OP;
    network n = make_network(s);
    const int64_t steps = (d->rows + t->batch - 1) / t->batch;
    double *rates = make_rates(steps, 0.01);
    CHECK(fn_params_need_slots(n.params, fn_optimizer_slots(t->optimizer.name), 0.1f) == FN_OK);
    fn_run_args a = {.n_rows = d->rows,
                     .batch_size = t->batch,
                     .rates = rates,
                     .seed = 99,
                     .optimizer = &t->optimizer,
                     .threads = t->threads};
    set_sources(&a, &n, d);
    for (int epoch = 0; epoch < t->epochs; epoch++) {
        int64_t *order = shuffled((uint64_t)epoch, d->rows), stops = 0;
        fn_result result;
        fn_status status;
        a.order = order;
        while ((status = fn_run(n.plan, n.params, n.work, &a, &result)) == FN_STOPPED &&
               stops < steps) {
            const int64_t first = stops++ * t->batch, left = d->rows - first;
            hand_gradient(&n, d, order, first, left < t->batch ? (int)left : t->batch);
        }
        CHECK(!fn_work_buffer(n.work, n.plan, 0, 0)); /* the input was read where it lies */
        CHECK(status == FN_OK && stops == steps, "status %d after %d stops", status, (int)stops);
        a.step += steps;
        free(order);
    }
    const snapshot result = take(&n, fn_optimizer_slots(t->optimizer.name));
    free(rates);
    free_network(&n);
    return result;
}

static void stop_and_go_on(void) {
    for (int n = 0; n < NETWORKS; n++)
        for (int b = 0; b < 4; b++) {
            spec s = networks[n];
            data d = data_for(&s);
            s.head = MSE, s.max_rows = batches[b],
            s.update = b % 2 ? FN_UPDATE_FLAT : FN_UPDATE_FUSED;
            training t = {batches[b], 1, 2, make_optimizer("adam", 0), 0};
            const snapshot whole = train_new(s, &d, &t);
            for (t.threads = 1; t.threads <= 3; t.threads += 2)
                CHECK(same_and_free(whole, train_by_hand(s, &d, &t)),
                      "%d inputs, batch %d, %d threads", s.widths[0], batches[b], t.threads);
            free(whole.values);
            free_data(&d);
        }
}

/* A call of many steps equals calls of one step, and gradients applied later equal flat training.
 */
static void calls_may_be_cut(void) {
    spec s = networks[1];
    data d = data_for(&s);
    s.max_rows = 16, s.update = FN_UPDATE_FLAT;
    const training t = {16, 2, 1, make_optimizer("adam", 1), 0};
    const snapshot whole = train_new(s, &d, &t);
    double *rates = make_rates(5, 0.01);
    int64_t *order = shuffled(0, ROWS);
    network cut = make_network(s), later = make_network(s);
    s.update = FN_UPDATE_NONE;
    network gradients = make_network(s);
    CHECK(fn_params_need_slots(cut.params, 2, 0.1f) == FN_OK);
    CHECK(fn_params_need_slots(later.params, 2, 0.1f) == FN_OK);
    fn_result result;
    for (int step = 0; step < 5; step++) {
        const int64_t left = ROWS - 16 * step;
        fn_run_args a = {.order = order,
                         .first = 16 * step,
                         .n_rows = left < 16 ? left : 16,
                         .batch_size = 16,
                         .rates = rates + step,
                         .optimizer = &t.optimizer,
                         .step = step,
                         .seed = 99,
                         .threads = 2};
        set_sources(&a, &cut, &d);
        CHECK(fn_run(cut.plan, cut.params, cut.work, &a, &result) == FN_OK);
        CHECK(fn_run(gradients.plan, later.params, gradients.work, &a, &result) == FN_OK);
        a.apply_only = 1, a.n_rows = 0;
        CHECK(fn_run(later.plan, later.params, later.work, &a, &result) == FN_OK);
    }
    CHECK(same_and_free(whole, take(&cut, 2)));
    CHECK(same_and_free(whole, take(&later, 2)));
    free(whole.values), free(rates), free(order);
    free_network(&cut), free_network(&later), free_network(&gradients);
    free_data(&d);
}

/* ---- shuffle ---- */

static void shuffles_are_permutations(void) {
    for (int n = 0; n < 300; n += n < 5 ? 1 : 59) {
        int64_t *a = block((size_t)n * 8), *b = block((size_t)n * 8), *seen = block((size_t)n * 8);
        for (uint64_t seed = 0; seed < 3; seed++)
            for (uint64_t epoch = 0; epoch < 3; epoch++) {
                fn_shuffle(seed, epoch, n, a);
                fn_shuffle(seed, epoch, n, b);
                CHECK(!n || !memcmp(a, b, (size_t)n * 8));
                for (int i = 0; i < n; i++) seen[i] = 0;
                for (int i = 0; i < n; i++) {
                    CHECK(a[i] >= 0 && a[i] < n);
                    if (a[i] >= 0 && a[i] < n) seen[a[i]]++;
                }
                for (int i = 0; i < n; i++) CHECK(seen[i] == 1);
                if (n < 60) continue;
                fn_shuffle(seed, epoch + 1, n, b);
                CHECK(memcmp(a, b, (size_t)n * 8));
                fn_shuffle(seed + 1, epoch, n, b);
                CHECK(memcmp(a, b, (size_t)n * 8));
            }
        free(a), free(b), free(seen);
    }
    int both[2] = {0, 0};
    for (uint64_t epoch = 0; epoch < 64; epoch++) {
        int64_t two[2];
        fn_shuffle(3, epoch, 2, two);
        both[two[0]]++;
    }
    CHECK(both[0] > 8 && both[1] > 8);
}

static const test tests[] = {
    {"training learns with every optimizer", training_learns},
    {"weights and slots have the same bits for 1, 2, 3, 4 and 8 threads",
     same_bits_for_any_threads},
    {"the fused update equals the flat one", fused_equals_flat},
    {"global norm clipping", global_norm_clips},
    {"frozen layers stay as they are", frozen_layers_stay},
    {"lanes 1 to 4 do not depend on threads", lanes_are_the_same_for_any_threads},
    {"lanes equal parts of the batch added by hand", lanes_equal_parts_by_hand},
    {"sgemm equals tiles to rounding", sgemm_equals_tiles},
    {"buffers may be numbered in any order", buffers_in_any_order},
    {"weights of rows", weights_of_rows},
    {"sums of losses and metrics", sums_over_rows},
    {"a run that stops equals one that does not", stop_and_go_on},
    {"many calls equal one call", calls_may_be_cut},
    {"shuffles are permutations", shuffles_are_permutations},
};

int main(int argc, char **argv) {
    return run_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
