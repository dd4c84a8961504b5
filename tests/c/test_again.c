/* test_again.c - pictures through two convolutions with batch normalisation, trained with values
 * kept and with values made again (csrc/again.c): the same bits, for any number of threads, in
 * memory of exactly the size that the plan has laid out.
 */
#include "network.h"

enum { ROWS = 29, BATCH = 12, SIDE = 8, CLASSES = 3 };

typedef struct {
    fn_plan *plan;
    int side, channels, x; /* of the pictures behind the last op */
    int bad;
} pictures;

static int add(pictures *p, const char *op, int side, int channels) {
    const int y = fn_plan_buffer(p->plan, FN_F32, 3, (int64_t[]){side, side, channels});
    const int id = fn_plan_op(p->plan, op, 0);
    p->bad |= fn_op_input(p->plan, id, p->x) | fn_op_output(p->plan, id, y);
    p->side = side, p->channels = channels, p->x = y;
    return id;
}

static void add_param(pictures *p, int op, int rank, const int64_t *shape, int trainable) {
    p->bad |= fn_op_param(p->plan, op, fn_plan_param(p->plan, rank, shape, rank > 1, trainable));
}

/* A 3 x 3 convolution, batch normalisation, relu, a 2 x 2 maximum. */
static void add_block(pictures *p, int filters) {
    const int conv = add(p, "conv2d", p->side, filters);
    const int64_t before = filters == 5 ? 2 : 5, all = filters;
    add_param(p, conv, 4, (int64_t[]){3, 3, before, filters}, 1);
    p->bad |= fn_op_number(p->plan, conv, "top", 1) | fn_op_number(p->plan, conv, "left", 1);
    const int norm = add(p, "batch_norm", p->side, filters);
    for (int i = 0; i < 4; i++) add_param(p, norm, 1, &all, i < 2);
    p->bad |= fn_op_string(p->plan, add(p, "activation", p->side, filters), "function", "relu");
    const int pool = add(p, "max_pool", p->side / 2, filters);
    const char *const sizes[] = {"pool_h", "pool_w", "stride_h", "stride_w"};
    for (int i = 0; i < 4; i++) p->bad |= fn_op_number(p->plan, pool, sizes[i], 2);
}

static fn_plan *make(fn_again again) {
    const fn_plan_options options = {
        .mode = FN_TRAIN, .max_rows = BATCH, .lanes = 1, .again = again};
    pictures p = {.plan = fn_plan_new(&options), .side = SIDE};
    p.x = fn_plan_buffer(p.plan, FN_F32, 3, (int64_t[]){SIDE, SIDE, 2});
    p.bad |= fn_op_output(p.plan, fn_plan_op(p.plan, "input", 0), p.x);
    add_block(&p, 5);
    add_block(&p, 16);
    const int64_t units = CLASSES;
    const int y = fn_plan_buffer(p.plan, FN_F32, 1, &units), dense = fn_plan_op(p.plan, "dense", 0);
    p.bad |= fn_op_input(p.plan, dense, p.x) | fn_op_output(p.plan, dense, y);
    add_param(&p, dense, 2, (int64_t[]){p.side * p.side * p.channels, CLASSES}, 1);
    const int target = fn_plan_buffer(p.plan, FN_I32, 0, NULL),
              source = fn_plan_op(p.plan, "input", 0);
    p.bad |= fn_op_output(p.plan, source, target) | fn_op_number(p.plan, source, "source", 1);
    const int loss = fn_plan_op(p.plan, "loss", 0);
    p.bad |= fn_op_input(p.plan, loss, y) | fn_op_input(p.plan, loss, target);
    p.bad |= fn_op_output(p.plan, loss, fn_plan_buffer(p.plan, FN_F32, 0, NULL));
    p.bad |= fn_op_string(p.plan, loss, "kind", "cross_entropy");
    CHECK(!p.bad && fn_plan_finish(p.plan) == FN_OK, "%s", fn_plan_error(p.plan));
    return p.plan;
}

/* All weights after three steps. */
static float *trained(const fn_plan *plan, int threads, int64_t *n) {
    fn_plan_info info;
    fn_plan_describe(plan, &info);
    fn_params *params = fn_params_new(plan);
    fn_work *work = fn_work_new(plan, 8);
    random_state = 3;
    float *x = random_block(ROWS * SIDE * SIDE * 2), *all = block(info.param_count * sizeof *all);
    int32_t classes[ROWS];
    const double rates[] = {0.01, 0.01, 0.01};
    for (int i = 0; i < ROWS; i++) classes[i] = (int32_t)(random_bits() % CLASSES);
    *n = 0;
    for (int i = 0; i < info.n_params; i++) {
        float *values = random_block(fn_params_count(params, i));
        for (int64_t j = 0; j < fn_params_count(params, i); j++) values[j] += i % 5 == 4;
        fn_params_set(params, i, 0, values);
        free(values);
    }
    const fn_optimizer adam = make_optimizer("adam", 0);
    const fn_run_args a = {
        .sources = {rows_of(x, FN_F32, SIDE * SIDE * 2 * sizeof *x), rows_of(classes, FN_I32, 4)},
        .n_sources = 2,
        .n_rows = ROWS,
        .batch_size = BATCH,
        .rates = rates,
        .optimizer = &adam,
        .threads = threads};
    fn_result r;
    CHECK(fn_params_need_slots(params, 2, 0) == FN_OK);
    CHECK(fn_run(plan, params, work, &a, &r) == FN_OK && r.steps == 3);
    for (int i = 0; i < info.n_params; *n += fn_params_count(params, i++))
        fn_params_get(params, i, 0, all + *n);
    fn_work_free(work), fn_params_free(params), free(x);
    return all;
}

static void the_same_bits(void) {
    fn_plan *kept = make(FN_AGAIN_NEVER), *made = make(FN_AGAIN_ALWAYS);
    char text[8192];
    CHECK(fn_plan_schedule(kept, text, sizeof text) < sizeof text && !strstr(text, " again"));
    CHECK(fn_plan_schedule(made, text, sizeof text) < sizeof text && strstr(text, " again"));
    int64_t n, m;
    float *want = trained(kept, 1, &n);
    for (int threads = 1; threads <= 8; threads = 2 * threads + (threads == 1)) {
        float *got = trained(made, threads, &m);
        CHECK(n == m && !memcmp(got, want, (size_t)n * sizeof *got), "%d threads", threads);
        free(got);
    }
    free(want), fn_plan_free(kept), fn_plan_free(made);
}

int main(int argc, char **argv) {
    static const test tests[] = {{"values made again", the_same_bits}};
    return run_tests(argc, argv, tests, 1);
}
