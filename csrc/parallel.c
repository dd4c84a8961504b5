/* parallel.c - the thread team: how many threads, one region a run, phases of tiles inside it.
 *
 * Tiles are dealt to threads in equal runs; a thread takes its own from the front (the same tiles
 * as last time: their weights are in its cache), then steals from the back of others. A phase ends
 * when its tiles are done, not when all threads have arrived, so a thread that the kernel took off
 * its processor is waited for only if it holds a tile. Where waits that are far too long take much
 * of the time, the machine is busy: helpers then sit out, for 100 ms first, for up to a second if
 * it happens again.
 */
#define _GNU_SOURCE
#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifndef FN_PTHREADS
#include <omp.h>
#endif
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

#include "internal.h"

uint64_t fn_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- denormals ---- */

/* Flush denormals to zero, as every thread does inside a region; returns the caller's state. */
static unsigned flush_denormals(void) {
#ifdef __x86_64__
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"(before | (1u << 24)));
    return (unsigned)before;
#else
    return 0;
#endif
}

static void restore_denormals(unsigned state) {
#ifdef __x86_64__
    _mm_setcsr(state);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)state));
#else
    (void)state;
#endif
}

static inline void relax(void) {
#ifdef __x86_64__
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- how many ---- */

static atomic_int wanted;     /* set_num_threads; 0: automatic */
static atomic_bool team_busy; /* one region uses helpers at a time; others run inline */
static atomic_bool threaded;  /* this process has run a region with helpers */
static atomic_bool forked;    /* ... and is a child that inherited none of them */
static atomic_ullong sit_out_until, sit_out_ns;
static atomic_ullong lost_ns, lost_at; /* in waits that were too long; when that was noted */
static atomic_llong backoffs, seen;

int64_t fn_backoffs(void) { return atomic_load(&backoffs); }
int64_t fn_threads_seen(void) { return atomic_load(&seen); }
void fn_threads_seen_reset(void) { atomic_store(&seen, 0); }

static void in_child(void) {
    atomic_store(&team_busy, false);
    if (atomic_load(&threaded)) atomic_store(&forked, true);
}

static void install_guard(void) { pthread_atfork(NULL, NULL, in_child); }

void fn_fork_guard(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_guard);
}

/* What OpenMP would use: OMP_NUM_THREADS, and the limits that joblib and threadpoolctl set. */
static int openmp_limit(void) {
#ifdef FN_PTHREADS
    const char *text = getenv("OMP_NUM_THREADS");
    const int n = text ? atoi(text) : 0;
    return n > 0 ? n : FN_MAX_THREADS;
#else
    return omp_get_max_threads();
#endif
}

void fn_set_threads(int n) { atomic_store(&wanted, n); }

static int at_most(int n, int limit) { return n < limit ? n : limit; }

int fn_get_threads(void) {
    if (atomic_load(&forked)) return 1;
    const int n = atomic_load(&wanted);
    if (n > 0) return at_most(n, FN_MAX_THREADS);
    return at_most(at_most(fn_cpus_available(NULL), openmp_limit()), FN_MAX_THREADS);
}

static bool always_thread(void) {
    const char *text = getenv("FASTNET_ALWAYS_THREAD");
    return text && text[0] == '1';
}

/* The cost model: a phase costs its share of the work plus a meeting of the threads, a region a
 * wake-up. */
enum { MEETING_NS = 700, WAKE_UP_NS = 8000 };

int fn_parallel_choose(double ns, int phases, int asked, double *gain) {
    if (gain) *gain = 0;
    if (atomic_load(&forked)) return 1;
    if (asked > 0) return at_most(asked, FN_MAX_THREADS);
    const int most = fn_get_threads();
    if (most == 1 || always_thread()) return most;
    if (fn_now_ns() < atomic_load(&sit_out_until)) return 1;
    int best = 1;
    double least = ns;
    for (int n = 2; n <= most; n++) {
        const double cost = WAKE_UP_NS + ns / n + (double)phases * MEETING_NS * (1 + 0.1 * n);
        if (cost < least * 0.95) {
            least = cost;
            best = n;
        }
    }
    if (gain) *gain = ns > 0 ? 1 - least / ns : 0;
    return best;
}

/* ---- phases of tiles ---- */

enum { MOST_CLAIMS = 65535 }; /* 16 bits: a phase of more tiles is claimed several at a time */

/* Claims [low, high) that a thread still has, tagged with the phase they belong to: a thread that
 * slept through a phase cannot claim with what it remembers. */
typedef struct {
    _Alignas(64) _Atomic uint64_t range;
} deal;

typedef struct {
    const fn_work_list *list;
    int threads;
    uint64_t patience_ns;
    double pays;      /* the part of the time that may be lost in waits */
    int tiles, grain; /* of this phase; so many tiles are claimed at once */
    _Alignas(64) _Atomic uint32_t phase;
    _Alignas(64) atomic_int left; /* claims of this phase not yet done */
    _Alignas(64) atomic_bool over, solo;
    _Atomic uint32_t late; /* the last phase that was waited for too long */
    deal deals[FN_MAX_THREADS];
} schedule;

static uint64_t pack(uint32_t phase, unsigned low, unsigned high) {
    return (uint64_t)phase << 32 | (uint64_t)low << 16 | high;
}

/* Publish the next phase that has tiles, or that there is none. Only one thread is ever here. */
static void begin_phase(schedule *s) {
    int tiles;
    do tiles = s->list->next(s->list->context);
    while (tiles == 0);
    const uint32_t phase = atomic_load_explicit(&s->phase, memory_order_relaxed) + 1;
    if (tiles < 0) {
        atomic_store(&s->over, true);
    } else {
        const int share = atomic_load_explicit(&s->solo, memory_order_relaxed) ? 1 : s->threads;
        s->tiles = tiles;
        s->grain = (tiles + MOST_CLAIMS - 1) / MOST_CLAIMS;
        const int claims = (tiles + s->grain - 1) / s->grain;
        atomic_store_explicit(&s->left, claims, memory_order_relaxed);
        for (int t = 0; t < s->threads; t++) {
            const unsigned low = t < share ? (unsigned)((long)claims * t / share) : 0;
            const unsigned high = t < share ? (unsigned)((long)claims * (t + 1) / share) : 0;
            atomic_store_explicit(&s->deals[t].range, pack(phase, low, high), memory_order_relaxed);
        }
    }
    atomic_store_explicit(&s->phase, phase, memory_order_release);
}

/* A tile of `phase` from the front (mine) or the back (another's) of a deal; -1 when it is empty.
 */
static int claim(deal *d, uint32_t phase, bool front) {
    uint64_t range = atomic_load_explicit(&d->range, memory_order_acquire);
    for (;;) {
        const unsigned low = (unsigned)(range >> 16 & 0xffff), high = (unsigned)(range & 0xffff);
        if ((uint32_t)(range >> 32) != phase || low >= high) return -1;
        const uint64_t rest = front ? pack(phase, low + 1, high) : pack(phase, low, high - 1);
        if (atomic_compare_exchange_weak_explicit(&d->range, &range, rest, memory_order_acq_rel,
                                                  memory_order_acquire))
            return (int)(front ? low : high - 1);
    }
}

static void run_tiles(schedule *s, int thread, uint32_t phase) {
    for (int t = 0; t < s->threads; t++) {
        const int owner = (thread + t) % s->threads;
        int index;
        while ((index = claim(&s->deals[owner], phase, t == 0)) >= 0) {
            const int end = at_most((index + 1) * s->grain, s->tiles);
            for (int tile = index * s->grain; tile < end; tile++)
                s->list->run(s->list->context, tile, thread);
            if (atomic_fetch_sub_explicit(&s->left, 1, memory_order_acq_rel) == 1) {
                begin_phase(s);
                return;
            }
            if (thread > 0 && atomic_load_explicit(&s->solo, memory_order_relaxed)) return;
        }
    }
}

/* The machine is busy: no helpers for a while, longer each time it is seen again soon. */
static void sit_out(schedule *s) {
    if (atomic_exchange(&s->solo, true)) return;
    const uint64_t now = fn_now_ns(), last = atomic_load(&sit_out_until);
    uint64_t ns = atomic_load(&sit_out_ns);
    ns = ns == 0 || now > last + 2 * ns ? 100000000u : 2 * ns;
    if (ns > 1000000000u) ns = 1000000000u;
    atomic_store(&sit_out_ns, ns);
    atomic_store(&sit_out_until, now + ns);
    atomic_fetch_add(&backoffs, 1);
}

enum {
    YIELD_NS = 50000, /* somebody else may need this processor */
    MOST_LOST_NS = 6000000
};

/* What was lost in waits and not made up for since. */
static uint64_t lost(const schedule *s, uint64_t now) {
    const uint64_t ns = atomic_load(&lost_ns), noted = atomic_load(&lost_at),
                   since = now > noted ? now - noted : 0, /* another thread may have been later */
        made_up = (uint64_t)((double)since * s->pays);
    return ns > made_up ? ns - made_up : 0;
}

/* One pause of a virtual machine is no busy machine: only waits that come again and again are. */
static void note_wait(schedule *s, uint32_t phase, uint64_t ns) {
    if (atomic_exchange(&s->late, phase) == phase) return; /* others wait for the same tile */
    const uint64_t now = fn_now_ns(), sum = lost(s, now) + ns;
    atomic_store(&lost_ns, sum);
    atomic_store(&lost_at, now);
    if (sum > MOST_LOST_NS) sit_out(s);
}

/* Wait for a phase other than `phase`: spin, look at the clock now and then, give up the processor
 * late. */
static void wait_phase(schedule *s, uint32_t phase) {
    uint64_t start = 0, ns = 0;
    for (unsigned spins = 1;; spins++) {
        if (atomic_load_explicit(&s->phase, memory_order_acquire) != phase) break;
        relax();
        if (spins % 256) continue;
        const uint64_t now = fn_now_ns();
        if (!start) start = now;
        ns = now - start;
        if (ns > s->patience_ns && lost(s, now) + ns > MOST_LOST_NS) sit_out(s);
        if (ns > YIELD_NS) sched_yield();
    }
    if (ns > s->patience_ns) note_wait(s, phase, ns);
}

static void work(void *argument, int thread) {
    schedule *s = argument;
    const unsigned state = flush_denormals();
    uint32_t phase = 0;
    for (;;) {
        if (thread > 0 && atomic_load(&s->solo)) break;
        const uint32_t current = atomic_load_explicit(&s->phase, memory_order_acquire);
        if (atomic_load(&s->over)) break;
        if (current == phase) {
            wait_phase(s, phase);
            continue;
        }
        phase = current;
        run_tiles(s, thread, phase);
    }
    restore_denormals(state);
}

/* All phases on the calling thread alone: no atomics. */
static void run_alone(const fn_work_list *list) {
    const unsigned state = flush_denormals();
    int tiles;
    while ((tiles = list->next(list->context)) >= 0)
        for (int tile = 0; tile < tiles; tile++) list->run(list->context, tile, 0);
    restore_denormals(state);
}

#ifdef FN_PTHREADS
typedef struct {
    schedule *s;
    int thread;
} seat;

static void *enter(void *argument) {
    work(((seat *)argument)->s, ((seat *)argument)->thread);
    return NULL;
}

static void region(schedule *s, int threads) {
    pthread_t team[FN_MAX_THREADS];
    seat seats[FN_MAX_THREADS];
    int started = 1;
    for (int t = 1; t < threads; t++, started++) {
        seats[t] = (seat){s, t};
        if (pthread_create(&team[t], NULL, enter, &seats[t])) break;
    }
    work(s, 0);
    for (int t = 1; t < started; t++) pthread_join(team[t], NULL);
}
#else
static void region(schedule *s, int threads) {
#pragma omp parallel num_threads(threads)
    work(s, omp_get_thread_num());
}
#endif

static bool nested(void) {
#ifdef FN_PTHREADS
    return false;
#else
    return omp_in_parallel();
#endif
}

/* Which threads have run a tile, for tests: a thread reports itself once a region. */
void fn_thread_report(int thread) {
    const long long bit = 1LL << thread;
    if (!(atomic_load_explicit(&seen, memory_order_relaxed) & bit)) atomic_fetch_or(&seen, bit);
}

int fn_parallel_run(int threads, const fn_work_list *list) {
    bool idle = false;
    if (threads < 2 || nested() || !atomic_compare_exchange_strong(&team_busy, &idle, true)) {
        run_alone(list);
        return 1;
    }
    atomic_store(&threaded, true);
    schedule s = {.list = list, .threads = threads};
    const double patience = 100000 + 4 * list->tile_ns;
    s.patience_ns = always_thread() ? UINT64_MAX : (uint64_t)patience;
    /* Two threads gain at most half the time of one: a fourth of the time in waits still pays. */
    s.pays = (list->gain > 0 ? list->gain : (threads - 1) / (double)threads) / 2;
    begin_phase(&s);
    region(&s, threads);
    atomic_store(&team_busy, false);
    return threads;
}
