# A part of _core.pyx: tables, SIMD levels, threads, BLAS, and hooks for tests.

def table(str name):
    """Names in a table of the engine: "op", "activation", "loss", "optimizer" or "metric"."""
    names, i = [], 0
    while fn_table_name(name.encode(), i) != NULL:
        names.append(fn_table_name(name.encode(), i).decode())
        i += 1
    return names


def optimizer_slots(str name):
    return fn_optimizer_slots(name.encode())


def simd_level():
    return fn_simd_level().decode()


def simd_levels():
    """Levels this processor can run, lowest first."""
    levels = []
    while fn_simd_supported(len(levels)) != NULL:
        levels.append(fn_simd_supported(len(levels)).decode())
    return levels


def choose_simd(level=None):
    """Use a level by name (None: the best). False if this processor cannot."""
    if level is None:
        return bool(fn_simd_choose(NULL))
    return bool(fn_simd_choose((<str>level).encode()))


def set_threads(int n):
    fn_set_threads(n)


def get_threads():
    return fn_get_threads()


def cpus_available():
    """(number of processors this process may use, what limits them)."""
    cdef const char *why = NULL
    n = fn_cpus_available(&why)
    return n, why.decode()


def threads_seen(bint reset=False):
    """Numbers of the team's threads that have run a tile since the last reset."""
    seen = fn_threads_seen()
    if reset:
        fn_threads_seen_reset()
    return [i for i in range(FN_MAX_THREADS) if seen >> i & 1]


def backoffs():
    """How often helpers sat out because the machine was busy."""
    return fn_backoffs()


def blas_info():
    """(configuration, core) of the private OpenBLAS."""
    return fn_blas_config().decode(), fn_blas_core().decode()


def fma_peak(double seconds=0.1):
    """Peak GFLOP/s of one thread at the current SIMD level, measured."""
    with nogil:
        seconds = fn_fma_peak(seconds)
    return seconds


def vmath(str function, const float[::1] x not None, float[::1] y not None):
    """A function of vmath.h over arrays whose length is a multiple of 16 (for tests)."""
    if x.shape[0] != y.shape[0] or x.shape[0] % 16 or not x.shape[0]:
        raise ValueError("lengths must be equal and a multiple of 16")
    fn_vmath(function.encode(), x.shape[0], &x[0], &y[0])


def fail_allocation(int64_t n):
    """Tests: the n-th engine allocation from now fails; negative: none does. Returns the count so far."""
    fn_alloc_fail_after(n)
    return fn_alloc_count()
