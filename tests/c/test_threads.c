/* test_threads.c - the team: every thread works, many callers at once, children of a process that
 * used it, phases of very many tiles, and waits for tiles that take far too long.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "network.h"
#include "parallel.h"

enum { ROWS = 64, CALLERS = 8, CHILDREN = 20 };

static void every_thread_runs_a_tile(void) {
    spec s = {.widths = {301, 203, 10}, .mode = FN_TRAIN, .max_rows = 64};
    data d = make_data(ROWS, 301, 10);
    for (int threads = 1; threads <= 8; threads++) {
        network n = make_network(s);
        const training t = {64, threads, 5, make_optimizer("sgd", 0), 0};
        const int64_t all = (1 << threads) - 1;
        fn_threads_seen_reset();
        CHECK(fn_threads_seen() == 0);
        for (int i = 0; i < 400 && fn_threads_seen() != all; i++) CHECK(train(&n, &d, &t) == FN_OK);
        CHECK(fn_threads_seen() == all, "%d threads, seen %x", threads,
              (unsigned)fn_threads_seen());
        free_network(&n);
    }
    free_data(&d);
}

static void the_caller_decides(void) {
    const spec s = {.widths = {301, 203, 10}, .mode = FN_PREDICT, .max_rows = 64};
    data d = make_data(ROWS, 301, 10);
    network n = make_network(s);
    float y[ROWS * 10];
    fn_run_args a = {.n_rows = ROWS, .batch_size = ROWS, .outputs = {y}};
    set_sources(&a, &n, &d);
    fn_result r;
    for (a.threads = 1; a.threads < 5; a.threads++)
        CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_OK && r.threads == a.threads);
    a.threads = 0;
    fn_set_threads(3);
    CHECK(fn_get_threads() == 3);
    CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_OK &&
          r.threads == 3); /* FASTNET_ALWAYS_THREAD */
    fn_set_threads(0);
    const char *why = NULL;
    CHECK(fn_cpus_available(&why) >= 1 && why && fn_get_threads() >= 1);
    a.threads = 1000; /* as many as the work was made for */
    CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_OK && r.threads == 8);
    free_network(&n);
    free_data(&d);
}

/* ---- many callers ---- */

typedef struct {
    network *shared;
    const data *d;
    const float *want;
    int seed, wrong;
} caller;

static void *predict_often(void *argument) {
    caller *c = argument;
    network n = *c->shared;
    float *y = block(ROWS * 10 * sizeof(float));
    const fn_source source = rows_of(c->d->x, FN_F32, (size_t)c->d->cols * sizeof(float));
    n.work = fn_work_new(n.plan, 3);
    for (int i = 0; i < (SANITIZED ? 60 : 400); i++) {
        const int first = (c->seed + i * 5) % (ROWS - 1), most = ROWS - first,
                  rows = 1 + (i * 11) % most;
        const fn_status status = predict(&n, source, NULL, first, rows, 1 + i % 16, i % 4, y);
        c->wrong +=
            status != FN_OK || memcmp(y, c->want + first * 10, (size_t)rows * 10 * sizeof(float));
    }
    fn_work_free(n.work);
    free(y);
    return NULL;
}

static void predictions_share_params(void) {
    const spec s = {.widths = {61, 67, 10}, .mode = FN_PREDICT, .max_rows = 16};
    data d = make_data(ROWS, 61, 10);
    network n = make_network(s);
    float *want = block(ROWS * 10 * sizeof(float));
    const fn_source source = rows_of(d.x, FN_F32, 61 * sizeof(float));
    CHECK(predict(&n, source, NULL, 0, ROWS, 16, 1, want) == FN_OK);
    pthread_t threads[CALLERS];
    caller callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){&n, &d, want, i, 0};
        CHECK(!pthread_create(&threads[i], NULL, predict_often, &callers[i]));
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(callers[i].wrong == 0, "caller %d: %d wrong", i, callers[i].wrong);
    }
    free(want);
    free_network(&n);
    free_data(&d);
}

static const spec trained_spec = {
    .widths = {97, 33, 10}, .mode = FN_TRAIN, .max_rows = 7, .dropout = 0.25};

static void *train_often(void *argument) {
    caller *c = argument;
    const training t = {7, 2, 4, make_optimizer("adam", 0), 0};
    for (int i = 0; i < 5; i++) {
        network n = make_network(c->shared->spec);
        c->wrong += train(&n, c->d, &t) != FN_OK;
        const snapshot got = take(&n, 2);
        c->wrong += memcmp(got.values, c->want, got.n * sizeof(float)) != 0;
        free(got.values);
        free_network(&n);
    }
    return NULL;
}

static void several_train_at_once(void) {
    data d = make_data(ROWS, 97, 10);
    const training t = {7, 1, 4, make_optimizer("adam", 0), 0};
    const snapshot want = train_new(trained_spec, &d, &t);
    network n = {.spec = trained_spec};
    pthread_t threads[3];
    caller callers[3];
    for (int i = 0; i < 3; i++) {
        callers[i] = (caller){&n, &d, want.values, i, 0};
        CHECK(!pthread_create(&threads[i], NULL, train_often, &callers[i]));
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        CHECK(callers[i].wrong == 0, "caller %d: %d wrong", i, callers[i].wrong);
    }
    free(want.values);
    free_data(&d);
}

/* ---- forks ---- */

static int child_trains(const data *d, snapshot want) {
    alarm(60); /* a child that hangs is killed, and counted */
    const training t = {7, 2, 4, make_optimizer("adam", 0), 0};
    const snapshot got = train_new(trained_spec, d, &t);
    return failures || !same(got, want);
}

static void children_can_train(void) {
    if (!FORKS) return (void)printf("  not with this sanitizer\n");
    data d = make_data(ROWS, 97, 10);
    const training t = {7, 2, 4, make_optimizer("adam", 0), 0};
    fn_fork_guard();
    fn_fork_guard();
    const snapshot want =
        train_new(trained_spec, &d, &t); /* two threads have run in this process */
    fflush(stdout);
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        if (children[i] == 0) _exit(child_trains(&d, want));
        CHECK(children[i] > 0);
        if (i % 5 == 0) CHECK(same_and_free(want, train_new(trained_spec, &d, &t)));
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status = -1;
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d: %x", i, (unsigned)status);
    }
    fn_threads_seen_reset();
    CHECK(same_and_free(want, train_new(trained_spec, &d, &t)));
    CHECK(fn_get_threads() >= 1);
    free(want.values);
    free_data(&d);
}

/* ---- very many tiles ---- */

static void phases_of_many_tiles(void) {
    enum { MANY = 600000 }; /* a minibatch of 150,000 tiles while its rows are read */
    spec s = {.widths = {1, 1}, .mode = FN_TRAIN, .head = MSE, .max_rows = MANY};
    data d = make_data(1, 1, 1);
    float *x = random_block(MANY);
    double loss = 0;
    for (int threads = 1; threads <= 3; threads++) {
        network n = make_network(s);
        const fn_optimizer sgd = make_optimizer("sgd", 0);
        const double rates[3] = {0.1, 0.1, 0.1};
        fn_run_args a = {.n_rows = MANY,
                         .batch_size = MANY,
                         .rates = rates,
                         .optimizer = &sgd,
                         .threads = threads};
        set_sources(&a, &n, &d);
        a.sources[0].data = a.sources[1].data = x;
        fn_result r;
        alarm(120);
        CHECK(fn_run(n.plan, n.params, n.work, &a, &r) == FN_OK && r.steps == 1);
        alarm(0);
        if (threads == 1) loss = r.loss;
        CHECK(r.loss == loss && loss > 0, "%d threads: %g, not %g", threads, r.loss, loss);
        free_network(&n);
    }
    free(x);
    free_data(&d);
}

/* ---- busy machines ---- */

typedef struct {
    int phases, every; /* phases to come; in which of them a tile takes 2 ms more */
    unsigned usual;    /* microseconds of all tiles */
} pauses;

static int next_pause(void *context) { return --((pauses *)context)->phases < 0 ? -1 : 2; }

static void run_pause(void *context, int tile, int thread) {
    const pauses *p = context;
    (void)thread;
    const unsigned more = tile == 1 && p->phases % p->every == 0 ? 2000 : 0;
    if (p->usual + more) usleep(p->usual + more);
}

/* How often helpers sat out because some tiles took so long. */
static int64_t backoffs_of(int phases, int every, unsigned usual, double gain) {
    pauses p = {phases, every, usual};
    const fn_work_list list = {next_pause, run_pause, &p, 0, gain};
    const int64_t before = fn_backoffs();
    fn_parallel_run(2, &list);
    return fn_backoffs() - before;
}

static void waits_that_come_again(void) {
    const char *always = getenv("FASTNET_ALWAYS_THREAD");
    char kept[8] = "";
    if (always) snprintf(kept, sizeof kept, "%s", always);
    unsetenv("FASTNET_ALWAYS_THREAD");
    int64_t seldom = 1, often = 0;
    for (int i = 0; i < 50 && seldom; i++) { /* tried again: the machine may be busy in fact */
        usleep(20000);
        seldom = backoffs_of(100, 64, 0, 0);
    }
    CHECK(seldom == 0, "helpers sit out after two short waits");
    for (int i = 0; i < 50 && !often; i++) often = backoffs_of(50, 1, 0, 0);
    CHECK(often > 0, "helpers never sit out");
    seldom = 1;
    for (int i = 0; i < 50 && seldom; i++) { /* 2 ms of 14: two threads still gain */
        usleep(20000);
        seldom = backoffs_of(10, 1, 12000, 0.5);
    }
    CHECK(seldom == 0, "helpers sit out though they gain more than waits lose");
    often = 0;
    for (int i = 0; i < 50 && !often; i++) often = backoffs_of(10, 1, 12000, 0.02);
    CHECK(often > 0, "helpers that gain next to nothing never sit out");
    if (always) setenv("FASTNET_ALWAYS_THREAD", kept, 1);
}

/* ---- control groups ---- */

static char folder[32];

static void put(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && !fclose(file));
}

static void make_folder(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(!mkdir(path, 0700));
}

static double quota(void) {
    char own[256];
    snprintf(own, sizeof own, "%s/own", folder);
    return fn_cgroup_quota(own, folder);
}

static void quotas_of_control_groups(void) {
    snprintf(folder, sizeof folder, "/tmp/fastnet-cgroup-XXXXXX");
    CHECK(mkdtemp(folder));
    CHECK(quota() == 0); /* neither version */
    make_folder("cpu");
    put("cpu/cpu.cfs_quota_us", "-1\n");
    put("cpu/cpu.cfs_period_us", "100000\n");
    CHECK(quota() == 0);
    put("cpu/cpu.cfs_quota_us", "350000\n");
    CHECK(quota() == 3.5);
    make_folder("cpu/user");
    put("cpu/user/cpu.cfs_quota_us", "150000\n");
    put("cpu/user/cpu.cfs_period_us", "100000\n");
    put("own", "5:cpuset:/\n4:cpu,cpuacct:/user\n3:cpuacct:/\n");
    CHECK(quota() == 1.5);
    put("own", "4:cpuacct,cpu:/of the host/user\n0::/\n");
    CHECK(quota() == 3.5); /* that group is not seen here */
    make_folder("a");
    make_folder("a/b");
    put("own", "1:name=systemd:/else\n0::/a/b\n");
    put("a/b/cpu.max", "max 100000\n");
    put("a/cpu.max", "250000 100000\n");
    CHECK(quota() == 2.5); /* of the group above */
    put("a/b/cpu.max", "50000 100000\n");
    CHECK(quota() == 0.5);
    put("a/b/cpu.max", "900000 100000\n");
    CHECK(quota() == 2.5);
    put("own", "0::/\n");
    put("cpu.max", "100000 50000\n"); /* a container sees its own group as the root */
    CHECK(quota() == 2);
    put("cpu.max", "nonsense\n");
    put("cpu/cpu.cfs_period_us", "0\n");
    CHECK(quota() == 0);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
}

static const test tests[] = {
    {"quotas of control groups", quotas_of_control_groups},
    {"every thread runs a tile", every_thread_runs_a_tile},
    {"the caller decides how many", the_caller_decides},
    {"eight callers predict with shared params", predictions_share_params},
    {"three callers train at once", several_train_at_once},
    {"children can train after the parent has", children_can_train},
    {"phases of more than 65536 tiles", phases_of_many_tiles},
    {"waits that come again", waits_that_come_again},
};

int main(int argc, char **argv) {
    return run_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
