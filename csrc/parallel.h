/* parallel.h - threads. One region a run; inside it, phases of tiles that threads claim.
 *
 * Below fn_region() is OpenMP, or plain pthreads with -DFN_PTHREADS (what the thread sanitizer can
 * see).
 */
#ifndef FN_PARALLEL_H
#define FN_PARALLEL_H

#include <stdbool.h>
#include <stdint.h>

/* The work of a region: `next` begins the next phase and returns its number of tiles (0 is
 * allowed), or -1 when there are no more; exactly one thread is inside it, and no tile runs
 * meanwhile. `run` runs a tile. */
typedef struct {
    int (*next)(void *context);
    void (*run)(void *context, int tile, int thread);
    void *context;
    double tile_ns; /* how long the longest tile should take at most: waits much longer mean a busy
                       machine */
    double gain;    /* part of one thread's time that threads should save; 0: not known */
} fn_work_list;

/* Run all phases on up to `threads` threads; the caller is thread 0. Returns the threads that were
 * given. */
int fn_parallel_run(int threads, const fn_work_list *list);

/* Threads to use for a call that would take `ns` nanoseconds in `phases` phases on one thread; gain
 * (may be NULL) becomes what fn_work_list wants. */
int fn_parallel_choose(double ns, int phases, int asked, double *gain);

uint64_t fn_now_ns(void);

/* cpus.c: processors that the CPU quota of a process pays for, from its group's name (the file
 * `own`) and the groups' folder; 0: no limit. */
double fn_cgroup_quota(const char *own, const char *root);

/* Tests: thread `thread` has run a tile (see fn_threads_seen). */
void fn_thread_report(int thread);

#endif
