# k-means: rows in, the GIL released, records and errors out. Included by _core.pyx.

cdef extern from "kmeans.h" nogil:
    ctypedef struct fn_km
    ctypedef struct fn_km_data:
        int64_t n, d
        fn_dtype dtype
        const void *values
        int64_t row_bytes
        const void *indptr
        const void *indices
        fn_dtype index_dtype
        bint ascending
        int64_t row_entries
        const double *weights
        const int64_t *picked
        bint cosine
    ctypedef enum fn_km_algorithm: FN_KM_AUTO, FN_KM_LLOYD, FN_KM_PROJECTED, FN_KM_HAMERLY
    ctypedef enum fn_km_seeding: FN_KM_PLUSPLUS, FN_KM_PARALLEL, FN_KM_RANDOM
    ctypedef struct fn_km_record:
        double inertia, shift
        int64_t moved, computed, saved

    fn_km *fn_km_new(const fn_km_data *data, int64_t k, fn_km_algorithm algorithm, size_t max_bytes, int threads)
    double fn_km_variance(const fn_km *km)
    bint fn_km_bad_value(const fn_km *km, int64_t *row, int64_t *column)
    const char *fn_km_path(const fn_km *km)
    void fn_km_free(fn_km *km)
    size_t fn_km_bytes(const fn_km *km)
    const double *fn_km_centers(fn_km *km)
    ctypedef bint (*fn_km_go_on)(void *context) noexcept
    void fn_km_watch(fn_km *km, fn_km_go_on go_on, void *context)
    fn_status fn_km_seed(fn_km *km, fn_km_seeding method, uint64_t seed, int trials, int64_t *indices)
    void fn_km_start(fn_km *km, const double *centers, const unsigned char *fixed)
    fn_status fn_km_step(fn_km *km, int64_t iterations, double tolerance, double seconds,
                         fn_km_record *records, int64_t *completed)
    fn_status fn_km_labels(fn_km *km, int *labels, double *inertia)
    fn_status fn_km_assign(const fn_km_data *data, int64_t k, const double *centers, int *labels, double *distances,
                           double *sums, double *counts, int threads, double *inertia)
    fn_status fn_km_transform(const fn_km_data *data, int64_t k, const double *centers, void *out,
                              fn_dtype out_dtype, int threads)
    ctypedef struct fn_km_batches
    fn_km_batches *fn_km_batches_new(const fn_km_data *data, int64_t k, int64_t rows, int threads)
    void fn_km_batches_free(fn_km_batches *batches)
    fn_status fn_km_learn(fn_km_batches *batches, const int64_t *picked, int64_t count, double *centers,
                          double *counts, double *inertia, double *shift)
    double fn_km_shift(const fn_km_batches *batches, const double *centers)
    fn_status fn_km_relabel(fn_km_batches *batches, const double *centers, int *labels, double *inertia)

cdef dict _ALGORITHMS = {"auto": FN_KM_AUTO, "lloyd": FN_KM_LLOYD, "projected": FN_KM_PROJECTED,
                         "hamerly": FN_KM_HAMERLY}
cdef dict _SEEDINGS = {"k-means++": FN_KM_PLUSPLUS, "k-means||": FN_KM_PARALLEL, "random": FN_KM_RANDOM}
cdef dict _METRICS = {"euclidean": False, "cosine": True}


cdef class _Rows:
    """Views of the rows of a data set, held for as long as the engine reads them."""

    cdef fn_km_data data
    cdef Py_buffer views[2]
    cdef int held
    cdef Csr csr

    def __cinit__(self, x, sample_weight, str metric):
        cdef Py_buffer *view
        if metric not in _METRICS:
            raise ValueError(f"metric must be 'euclidean' or 'cosine', got {metric!r}")
        self.data.cosine = _METRICS[metric]
        if isinstance(x, tuple):
            values, indices, indptr, columns = x
            self.sparse(values, indices, indptr, columns)
        else:
            self.dense(x)
        if self.data.n < 1 or self.data.d < 1:
            raise ValueError(f"x needs at least one row and one column, got shape ({self.data.n}, {self.data.d})")
        if sample_weight is not None:
            view = self.hold(sample_weight, 1)
            if _dtype(view.format) != FN_F64 or view.shape[0] != self.data.n:
                raise ValueError(f"sample_weight must be float64 of shape ({self.data.n},)")
            self.data.weights = <const double *>view.buf

    def __dealloc__(self):
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef Py_buffer *hold(self, array, int ndim) except NULL:
        cdef Py_buffer *view = &self.views[self.held]
        _borrow(array, view, False)
        self.held += 1
        if view.ndim != ndim:
            raise ValueError(f"an array of {ndim} axes is wanted, got {view.ndim}")
        if ndim == 1 and view.shape[0] > 1 and view.strides[0] != view.itemsize:
            raise ValueError("arrays of one axis must be contiguous")
        return view

    cdef int real(self, Py_buffer *view) except -1:
        self.data.dtype = _dtype(view.format)
        if self.data.dtype != FN_F32 and self.data.dtype != FN_F64:
            raise TypeError(f"x must be float32 or float64, got format {view.format.decode()!r}")
        return 0

    cdef int dense(self, x) except -1:
        cdef Py_buffer *view = self.hold(x, 2)
        self.real(view)
        self.data.n, self.data.d = view.shape[0], view.shape[1]
        self.data.values, self.data.row_bytes = view.buf, view.strides[0]
        return 0

    cdef int sparse(self, values, indices, indptr, int64_t n_features) except -1:
        cdef Csr rows = Csr(values, indices, indptr, n_features)
        self.csr = rows
        self.data.values, self.data.dtype = rows.source.data, rows.source.dtype
        self.data.indices, self.data.indptr = rows.source.indices, rows.source.indptr
        self.data.index_dtype = rows.source.index_dtype
        self.data.n, self.data.d = rows.rows, rows.columns
        self.data.ascending, self.data.row_entries = rows.ascending, len(values) // max(rows.rows, 1)
        return 0


cdef int _km_check(fn_status status) except -1:
    if status == FN_ENOMEM:
        raise MemoryError("no memory for k-means")
    if status == FN_EINPUT:
        raise ValueError("x contains NaN or infinity")
    if status != FN_OK:
        raise ValueError("these arguments do not fit the data")
    return 0


cdef const double *_km_centers(const double[:, ::1] centers, const fn_km_data *data, int64_t k) except NULL:
    if centers.shape[1] != data.d or (k and centers.shape[0] != k) or centers.shape[0] < 1:
        raise ValueError(f"centers must have shape ({k or 'k'}, {data.d}), got "
                         f"({centers.shape[0]}, {centers.shape[1]})")
    return &centers[0, 0]


cdef class KMeansFit:
    """One clustering of `x`: seed, start, step until it is done, labels.

    x : (n, d) float32 or float64 with contiguous rows (any distance between them, read-only allowed), or a
        tuple (values, indices, indptr, n_features) of a CSR matrix. Finite; kept and read until the end.
    sample_weight : (n,) float64, finite, not negative, or None.
    n_clusters : 1 to n.   metric : "euclidean" or "cosine".   threads : 0 is automatic.
    algorithm : "auto", "lloyd", "projected" or "hamerly": how work is skipped; results are the same.
    max_memory : bytes of bounds and projections that may be allocated, or None.
    Not for use by two threads at once. Raises MemoryError, ValueError, TypeError.
    """

    cdef fn_km *km
    cdef _Rows rows
    cdef readonly int64_t n, d, k
    cdef bint started
    cdef object signal

    def __cinit__(self, x, sample_weight, int64_t n_clusters, *, str metric="euclidean", str algorithm="auto",
                  max_memory=None, int threads=0):
        cdef fn_km_algorithm how
        cdef size_t most = max_memory or 0
        if algorithm not in _ALGORITHMS:
            raise ValueError(f"algorithm must be one of {sorted(_ALGORITHMS)}, got {algorithm!r}")
        how = _ALGORITHMS[algorithm]
        rows = self.rows = _Rows(x, sample_weight, metric)
        self.n, self.d, self.k = self.rows.data.n, self.rows.data.d, n_clusters
        if not 1 <= n_clusters <= min(self.n, 2**31 - 1):
            raise ValueError(f"n_clusters must be 1 to {self.n} (the rows of x), got {n_clusters}")
        with nogil:
            fn_blas_one_thread()
            self.km = fn_km_new(&rows.data, n_clusters, how, most, threads)
        if self.km == NULL:
            raise MemoryError("no memory for k-means")

    def __dealloc__(self):
        fn_km_free(self.km)

    @property
    def centers(self):
        """(k, d) float64 as bytes: the centres as they are now."""
        return (<const char *>fn_km_centers(self.km))[:self.k * self.d * 8]

    @property
    def variance(self):
        """The weighted variance of the rows, mean over columns."""
        return fn_km_variance(self.km)

    @property
    def nonfinite(self):
        """(row, column) of the first value that is NaN or infinite, or None. Nothing else works then."""
        cdef int64_t row, column
        return (row, column) if fn_km_bad_value(self.km, &row, &column) else None

    @property
    def path(self):
        """How scores are found: "narrow", "dense" or "projected"."""
        return fn_km_path(self.km).decode()

    @property
    def memory_bytes(self):
        """Bytes that this fit has allocated."""
        return fn_km_bytes(self.km)

    def seed(self, str method, uint64_t seed, int64_t[::1] indices not None, int n_local_trials=0):
        """Choose rows as centres: "k-means++" (greedy), "k-means||" or "random". Their numbers go to `indices`
        (k,), -1 where a centre is no row; read the places from `centers`. What a signal's handler raises (Ctrl-C)
        ends it."""
        cdef fn_status status
        cdef fn_km_seeding how
        if method not in _SEEDINGS:
            raise ValueError(f"method must be one of {sorted(_SEEDINGS)}, got {method!r}")
        if indices.shape[0] != self.k:
            raise ValueError(f"indices must have shape ({self.k},), got ({indices.shape[0]},)")
        how = _SEEDINGS[method]
        fn_km_watch(self.km, _km_go_on, <void *>self)
        with nogil:
            status = fn_km_seed(self.km, how, seed, n_local_trials, &indices[0])
        signal, self.signal = self.signal, None
        if signal is not None:
            raise signal
        _km_check(status)

    def start(self, const double[:, ::1] centers not None, const unsigned char[::1] fixed=None):
        """Begin at `centers` (k, d); centre j stays where it is if fixed[j] is not 0."""
        cdef const double *first = _km_centers(centers, &self.rows.data, self.k)
        if fixed is not None and fixed.shape[0] != self.k:
            raise ValueError(f"fixed must have shape ({self.k},), got ({fixed.shape[0]},)")
        fn_km_start(self.km, first, &fixed[0] if fixed is not None else NULL)
        self.started = True

    def step(self, int64_t iterations, double seconds=0.05, double tolerance=0):
        """Iterate until `iterations` are complete, `seconds` (0: no limit) are over, nothing moved, or the squared
        shift of the centres is at most `tolerance`.

        Returns a list of (inertia, moved, squared shift, distances computed, distances saved), one for each
        iteration completed in this call; a call that ends within an iteration is taken up by the next.
        """
        cdef fn_km_record records[64]
        cdef int64_t completed = 0, wanted = min(iterations, 64)
        cdef fn_status status
        if not self.started:
            raise ValueError("start() comes before step()")
        with nogil:
            fn_blas_one_thread()
            status = fn_km_step(self.km, wanted, tolerance, seconds, records, &completed)
        _km_check(status)
        return [(records[i].inertia, records[i].moved, records[i].shift, records[i].computed, records[i].saved)
                for i in range(completed)]

    def labels(self, int[::1] out not None):
        """Write the nearest centre of every row to `out` (n,); returns the inertia."""
        cdef double inertia = 0
        cdef fn_status status
        if not self.started:
            raise ValueError("start() comes before labels()")
        if out.shape[0] != self.n:
            raise ValueError(f"labels must have shape ({self.n},), got ({out.shape[0]},)")
        with nogil:
            fn_blas_one_thread()
            status = fn_km_labels(self.km, &out[0], &inertia)
        _km_check(status)
        return inertia


cdef bint _km_go_on(void *fit) noexcept with gil:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<KMeansFit>fit).signal = error
        return False
    return True


def kmeans_assign(x, const double[:, ::1] centers not None, *, int[::1] labels=None, double[::1] distances=None,
                  double[:, ::1] sums=None, double[::1] counts=None, sample_weight=None, str metric="euclidean",
                  int threads=0, bint inertia=True):
    """Nearest of `centers` (k, d) for each row of x: int32 `labels` (n,), squared `distances` (n,); returns the inertia.

    The inertia is the weighted sum of the squares, for cosine as well: of rows of length 1, 2 (1 - cos).
    inertia=False saves the time to compute it; None is returned. ValueError where a row has NaN or infinity.
    sums (k, d) and counts (k,) float64, given together: the weighted sums of rows and the weights of each
    cluster are added to them, so results of parts of x add up. x, sample_weight, metric: see KMeansFit.
    """
    cdef _Rows rows = _Rows(x, sample_weight, metric)
    cdef const double *first = _km_centers(centers, &rows.data, 0)
    cdef int64_t k = centers.shape[0], n = rows.data.n
    cdef double total = 0
    cdef fn_status status
    cdef int *to_labels = NULL
    cdef double *to_distances = NULL
    cdef double *to_sums = NULL
    cdef double *to_counts = NULL
    if labels is not None:
        if labels.shape[0] != n:
            raise ValueError(f"labels must have shape ({n},), got ({labels.shape[0]},)")
        to_labels = &labels[0]
    if distances is not None:
        if distances.shape[0] != n:
            raise ValueError(f"distances must have shape ({n},), got ({distances.shape[0]},)")
        to_distances = &distances[0]
    if (sums is None) != (counts is None):
        raise ValueError("sums and counts are given together")
    if sums is not None:
        _km_centers(sums, &rows.data, k)
        if counts.shape[0] != k:
            raise ValueError(f"counts must have shape ({k},), got ({counts.shape[0]},)")
        to_sums, to_counts = &sums[0, 0], &counts[0]
    with nogil:
        fn_blas_one_thread()
        status = fn_km_assign(&rows.data, k, first, to_labels, to_distances, to_sums, to_counts, threads,
                              &total if inertia else NULL)
    _km_check(status)
    return total if inertia else None


def kmeans_transform(x, const double[:, ::1] centers not None, out, *, str metric="euclidean", int threads=0):
    """Distances (cosine: 1 - cos) of each row to each centre into `out` (n, k), C-contiguous float32 or float64."""
    cdef _Rows rows = _Rows(x, None, metric)
    cdef const double *first = _km_centers(centers, &rows.data, 0)
    cdef int64_t k = centers.shape[0]
    cdef Py_buffer view
    cdef fn_dtype dtype
    cdef fn_status status
    _borrow(out, &view, True)
    try:
        dtype = _dtype(view.format)
        if (view.ndim != 2 or view.shape[0] != rows.data.n or view.shape[1] != k
                or (view.shape[0] > 1 and view.strides[0] != k * view.itemsize) or dtype not in (FN_F32, FN_F64)):
            raise ValueError(f"out must be contiguous float32 or float64 of shape ({rows.data.n}, {k})")
        with nogil:
            fn_blas_one_thread()
            status = fn_km_transform(&rows.data, k, first, view.buf, dtype, threads)
    finally:
        PyBuffer_Release(&view)
    _km_check(status)


cdef class KMeansBatches:
    """Centres that learn from batches of rows of `x`, which are read where they lie.

    x, sample_weight, metric, threads : see KMeansFit; x is not looked through for NaN.
    n_clusters : at least 1.   batch_rows : a batch has at most so many rows; all rows are a batch if None.
    Not for use by two threads at once. Raises MemoryError, ValueError, TypeError.
    """

    cdef fn_km_batches *batches
    cdef _Rows rows
    cdef readonly int64_t k, most
    cdef int64_t count

    def __cinit__(self, x, sample_weight, int64_t n_clusters, batch_rows=None, *, str metric="euclidean",
                  int threads=0):
        rows = self.rows = _Rows(x, sample_weight, metric)
        self.k, self.most = n_clusters, rows.data.n if batch_rows is None else batch_rows
        if n_clusters < 1 or n_clusters > 2**31 - 1 or self.most < 1:
            raise ValueError(f"n_clusters and batch_rows must be at least 1, got {n_clusters} and {self.most}")
        if sample_weight is not None and batch_rows is not None:
            raise ValueError("weights go with batches of all rows")
        with nogil:
            fn_blas_one_thread()
            self.batches = fn_km_batches_new(&rows.data, n_clusters, self.most, threads)
        if self.batches == NULL:
            raise MemoryError("no memory for k-means")

    def __dealloc__(self):
        fn_km_batches_free(self.batches)

    def learn(self, const int64_t[::1] picked, double[:, ::1] centers not None, double[::1] counts not None):
        """A batch: rows `picked` of x, or all of them (None).

        centers (k, d) and counts (k,), the weight that each has got so far, become those after the batch.
        Returns (inertia before, squared distance that all centres moved together).
        ValueError, and nothing changed, where a row has NaN or infinity.
        """
        cdef double inertia = 0, shift = 0
        cdef fn_status status
        cdef int64_t i, count = self.rows.data.n if picked is None else picked.shape[0]
        cdef bint bad = count < 1 or count > self.most
        cdef const int64_t *numbers = NULL
        _km_centers(centers, &self.rows.data, self.k)
        if counts.shape[0] != self.k:
            raise ValueError(f"counts must have shape ({self.k},), got ({counts.shape[0]},)")
        if picked is not None and count > 0:
            numbers = &picked[0]
            for i in range(count):
                bad = bad or picked[i] < 0 or picked[i] >= self.rows.data.n
        if bad:
            raise ValueError(f"picked must be 1 to {self.most} numbers of the {self.rows.data.n} rows of x")
        self.count = 0
        with nogil:
            fn_blas_one_thread()
            status = fn_km_learn(self.batches, numbers, count, &centers[0, 0], &counts[0], &inertia, &shift)
        _km_check(status)
        self.count = count
        return inertia, shift

    def shift(self, const double[:, ::1] centers not None):
        """Squared distance of `centers` to those before the last batch."""
        cdef const double *first = _km_centers(centers, &self.rows.data, self.k)
        if not self.count:
            raise ValueError("learn() comes before shift()")
        return fn_km_shift(self.batches, first)

    def relabel(self, const double[:, ::1] centers not None, int[::1] out not None):
        """Write the nearest of `centers` for each row of the last batch to `out`, once; returns the inertia."""
        cdef double inertia = 0
        cdef fn_status status
        cdef const double *first = _km_centers(centers, &self.rows.data, self.k)
        if not self.count or out.shape[0] != self.count:
            raise ValueError(f"labels must have shape ({self.count},) after a batch, got ({out.shape[0]},)")
        with nogil:
            fn_blas_one_thread()
            status = fn_km_relabel(self.batches, first, &out[0], &inertia)
        self.count = 0
        _km_check(status)
        return inertia
