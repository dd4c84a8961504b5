# cython: language_level=3, boundscheck=False, wraparound=False
"""The only file that sees both worlds: checks buffers, releases the GIL, hands names and errors across."""

import os

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

cdef extern from "unistd.h" nogil:
    int usleep(unsigned int microseconds)

include "_engine.pxi"

cdef dict _MODES = {"predict": FN_PREDICT, "evaluate": FN_EVALUATE, "train": FN_TRAIN}
cdef dict _UPDATES = {"fused": FN_UPDATE_FUSED, "flat": FN_UPDATE_FLAT, "none": FN_UPDATE_NONE}
cdef dict _GEMMS = {"auto": FN_GEMM_AUTO, "tiles": FN_GEMM_TILES, "sgemm": FN_GEMM_SGEMM}
cdef dict _AGAINS = {"auto": FN_AGAIN_AUTO, "never": FN_AGAIN_NEVER, "always": FN_AGAIN_ALWAYS}
cdef dict _DTYPES = {"f": FN_F32, "d": FN_F64, "i": FN_I32, "l": FN_I64, "q": FN_I64, "B": FN_U8,
                     "b": FN_I8, "?": FN_BOOL}
cdef dict _STATUS = {FN_OK: "ok", FN_EINPUT: "input", FN_EDIVERGED: "diverged", FN_STOPPED: "stopped"}


cdef fn_dtype _dtype(const char *text) except *:
    """The dtype of a buffer format such as b"f" or b"<f"; TypeError for what the engine cannot read."""
    name = text.decode() if text != NULL else "B"
    code = _DTYPES.get(name.lstrip("@=<"))
    if code is None:
        raise TypeError(f"arrays of format {name!r} cannot be read")
    return code


cdef class Plan:
    """A network in one mode for up to `max_rows` rows: buffers, parameters and ops, then ``finish()``."""

    cdef fn_plan *plan
    cdef readonly int max_rows

    def __cinit__(self, str mode, int max_rows, str update="fused", str gemm="auto", int lanes=1,
                  str again="auto"):
        cdef fn_plan_options options
        options.mode, options.update, options.gemm = _MODES[mode], _UPDATES[update], _GEMMS[gemm]
        options.max_rows, options.lanes, options.again = max_rows, lanes, _AGAINS[again]
        if max_rows < 1 or lanes < 1:
            raise ValueError(f"a plan needs at least 1 row and 1 lane, got {max_rows} and {lanes}")
        self.max_rows = max_rows
        self.plan = fn_plan_new(&options)
        if self.plan == NULL:
            raise MemoryError("no memory for a plan")

    def __dealloc__(self):
        fn_plan_free(self.plan)

    cdef int check(self, int result) except -1:
        if result < 0:
            message = fn_plan_error(self.plan).decode()
            raise MemoryError(message) if message == "out of memory" else ValueError(message)
        return result

    def buffer(self, shape, str dtype="f"):
        """Add a buffer with `shape` behind the rows; returns its number."""
        cdef int64_t axes[6]
        if len(shape) > FN_MAX_RANK:
            raise ValueError(f"at most {FN_MAX_RANK} axes behind the rows, got shape {tuple(shape)}")
        for i, n in enumerate(shape):
            axes[i] = n
        return self.check(fn_plan_buffer(self.plan, _DTYPES[dtype], len(shape), axes))

    def param(self, shape, bint decay, bint trainable=True):
        """Add a parameter of the canonical shape; returns its number."""
        cdef int64_t axes[6]
        if len(shape) > FN_MAX_RANK:
            raise ValueError(f"at most {FN_MAX_RANK} axes, got shape {tuple(shape)}")
        for i, n in enumerate(shape):
            axes[i] = n
        return self.check(fn_plan_param(self.plan, len(shape), axes, decay, trainable))

    def op(self, str name, inputs=(), outputs=(), params=(), layer=-1, **attributes):
        """Add an op by its name in ops.def; attributes are numbers, or names from a table."""
        cdef int op = self.check(fn_plan_op(self.plan, name.encode(), layer))
        for buffer in inputs:
            self.check(fn_op_input(self.plan, op, buffer))
        for buffer in outputs:
            self.check(fn_op_output(self.plan, op, buffer))
        for param in params:
            self.check(fn_op_param(self.plan, op, param))
        for key, value in attributes.items():
            if isinstance(value, str):
                self.check(fn_op_string(self.plan, op, key.encode(), value.encode()))
            else:
                self.check(fn_op_number(self.plan, op, key.encode(), value))
        return op

    def finish(self):
        """Choose kernels, lay out memory, cut phases. No op can be added afterwards."""
        cdef fn_status status = fn_plan_finish(self.plan)
        if status == FN_ENOMEM:
            raise MemoryError("no memory for the plan's phases")
        if status != FN_OK:
            self.check(-1)
        return self

    def describe(self):
        """Sizes of the finished plan as a dict."""
        cdef fn_plan_info info
        fn_plan_describe(self.plan, &info)
        return {"arena_bytes": info.arena_bytes, "thread_bytes": info.thread_bytes, "param_count": info.param_count, "param_bytes": info.param_bytes,
                "flops": info.flops, "n_ops": info.n_ops, "n_buffers": info.n_buffers, "n_params": info.n_params,
                "n_phases": info.n_phases, "n_metrics": info.n_metrics, "simd": info.simd.decode()}

    def ops(self):
        """Every op as a dict: name, layer, inputs, outputs, params, attributes, flops (per row, forward)."""
        cdef fn_op_info info
        cdef const char *name
        cdef double value
        result = []
        for i in range(self.describe()["n_ops"]):
            fn_plan_op_info(self.plan, i, &info)
            attributes, j = {}, 0
            while fn_plan_op_attribute(self.plan, i, j, &name, &value):
                attributes[name.decode()] = value
                j += 1
            result.append({"name": info.name.decode(), "layer": info.layer, "flops": info.flops,
                           "inputs": [info.inputs[k] for k in range(info.n_inputs)],
                           "outputs": [info.outputs[k] for k in range(info.n_outputs)],
                           "params": [info.params[k] for k in range(info.n_params)], "attributes": attributes})
        return result

    def buffers(self):
        """Every buffer as a dict: dtype, shape behind the rows, bytes a row, and where it lies: memory
        "arena", "tile" (a thread's, while a few rows go through a chain) or None, and its offset there."""
        cdef fn_dtype dtype
        cdef int rank, memory
        cdef int64_t shape[6]
        cdef size_t offset, row_bytes
        codes = {code: name for name, code in _DTYPES.items()}
        result = []
        for i in range(self.describe()["n_buffers"]):
            fn_plan_buffer_info(self.plan, i, &dtype, &rank, shape, &memory, &offset, &row_bytes)
            result.append({"dtype": codes[dtype], "shape": tuple([shape[k] for k in range(rank)]),
                           "memory": (None, "arena", "tile")[memory], "offset": offset,
                           "row_bytes": row_bytes})
        return result

    def schedule(self):
        """The phases and their tiles as text, one line a phase."""
        cdef size_t size = fn_plan_schedule(self.plan, NULL, 0) + 1
        cdef bytes text = bytes(size)
        fn_plan_schedule(self.plan, <char *>text, size)
        return text[:size - 1].decode()


include "_params.pxi"


cdef class Work:
    """The memory of one caller of a plan."""

    cdef fn_work *work
    cdef Plan plan

    def __cinit__(self, Plan plan, int max_threads=FN_MAX_THREADS):
        self.plan = plan
        self.work = fn_work_new(plan.plan, max_threads)
        if self.work == NULL:
            raise MemoryError("no memory for a minibatch of this size")

    def __dealloc__(self):
        fn_work_free(self.work)

    def metrics(self):
        """The sums of each metric op since the last reset, as lists of floats."""
        cdef int n = 0
        cdef const double *sums
        result = []
        for i in range(self.plan.describe()["n_metrics"]):
            sums = fn_work_metric(self.work, self.plan.plan, i, &n)
            result.append([sums[j] for j in range(n)])
        return result

    def losses(self):
        """Of each loss op the sums since the last reset: (weight * loss over rows, weights)."""
        cdef const double *sums
        result = []
        while True:
            sums = fn_work_loss(self.work, self.plan.plan, <int>len(result))
            if sums == NULL:
                return result
            result.append((sums[0], sums[1]))

    def reset_metrics(self):
        fn_work_reset_metrics(self.work, self.plan.plan)

    def rows(self, int buffer, int n, int cols, bint gradient=False):
        """Rows of a float32 buffer (or its gradient), copied: a list of n * cols floats as bytes."""
        cdef float *start = <float *>fn_work_buffer(self.work, self.plan.plan, buffer, gradient)
        cdef size_t ld = self.plan.buffers()[buffer]["row_bytes"] // 4
        if start == NULL:
            raise ValueError(f"buffer {buffer} has no {'gradient' if gradient else 'rows'} to look at")
        return b"".join([(<char *>(start + i * ld))[:cols * 4] for i in range(n)])

    def set_rows(self, int buffer, const float[:, ::1] values not None, bint gradient=False):
        """Write rows of a float32 buffer (or its gradient)."""
        cdef float *start = <float *>fn_work_buffer(self.work, self.plan.plan, buffer, gradient)
        cdef size_t ld = self.plan.buffers()[buffer]["row_bytes"] // 4
        if start == NULL:
            raise ValueError(f"buffer {buffer} has no {'gradient' if gradient else 'rows'} to look at")
        for i in range(values.shape[0]):
            for j in range(values.shape[1]):
                start[i * ld + j] = values[i, j]


cdef class Optimizer:
    """An optimizer's name in optimizers.def and its numbers."""

    cdef fn_optimizer numbers
    cdef bytes name

    def __cinit__(self, str name, *, double momentum=0, double beta_1=0, double beta_2=0, double rho=0,
                  double epsilon=0, double weight_decay=0, double l1=0, double l2=0, double clipvalue=0,
                  double global_clipnorm=0):
        self.name = name.encode()
        if fn_optimizer_slots(self.name) < 0:
            raise ValueError(f"unknown optimizer {name!r}")
        self.numbers = fn_optimizer(self.name, momentum, beta_1, beta_2, rho, epsilon, weight_decay, l1, l2,
                                    clipvalue, global_clipnorm)


cdef class Result:
    """What a run did: status "ok", "input", "diverged" or "stopped", and its sums."""

    cdef readonly str status
    cdef readonly double loss, weight, last_loss, seconds
    cdef readonly int64_t steps, bad_row, bad_column
    cdef readonly int bad_source, threads


cdef int _borrow(object array, Py_buffer *view, bint writable) except -1:
    """A view of an array whose rows are contiguous; it must be released."""
    PyObject_GetBuffer(array, view, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
    cdef Py_ssize_t expected = view.itemsize
    for i in range(view.ndim - 1, 0, -1):
        if view.shape[i] > 1 and view.strides[i] != expected:
            PyBuffer_Release(view)
            raise ValueError("rows of a source must be contiguous")
        expected *= view.shape[i]
    if view.ndim and view.strides[0] < 0:
        PyBuffer_Release(view)
        raise ValueError("rows of a source must be in ascending order")
    return 0


cdef class Csr:
    """Sparse rows that the engine may read: none of their numbers lead outside.

    values (float32 or float64), indices and indptr (both int32 or both int64) are contiguous arrays of one
    axis, held and never written; several may share values and indices. ascending: the columns of every row
    ascend, so none comes twice, which sources of networks need. Raises ValueError, TypeError.
    """

    cdef fn_source source
    cdef Py_buffer views[3]
    cdef int held
    cdef readonly object values, indices, indptr
    cdef readonly int64_t rows, columns
    cdef readonly bint ascending

    def __cinit__(self, values, indices, indptr, int64_t columns):
        cdef Py_buffer *numbers
        cdef Py_buffer *where
        cdef Py_buffer *starts
        cdef int ascending = 1
        self.values, self.indices, self.indptr, self.columns = values, indices, indptr, columns
        numbers, where, starts = self.hold(values), self.hold(indices), self.hold(indptr)
        self.source.data, self.source.dtype = numbers.buf, _dtype(numbers.format)
        self.source.indices, self.source.indptr = where.buf, starts.buf
        self.source.index_dtype = _dtype(where.format)
        self.rows = starts.shape[0] - 1
        if self.source.dtype not in (FN_F32, FN_F64):
            raise TypeError(f"values must be float32 or float64, got format {numbers.format.decode()!r}")
        if _dtype(starts.format) != self.source.index_dtype or self.source.index_dtype not in (FN_I32, FN_I64):
            raise TypeError("indices and indptr must both be int32 or both int64")
        if where.shape[0] != numbers.shape[0]:
            raise ValueError(f"CSR needs as many indices as values, got {where.shape[0]} and {numbers.shape[0]}")
        if not fn_csr_check(self.rows, columns, numbers.shape[0], self.source.indptr, self.source.indices,
                            self.source.index_dtype, &ascending):
            raise ValueError("indices or indptr of this CSR matrix lead outside of it")
        self.ascending = ascending

    def __dealloc__(self):
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef Py_buffer *hold(self, array) except NULL:
        cdef Py_buffer *view = &self.views[self.held]
        _borrow(array, view, False)
        self.held += 1
        if view.ndim != 1 or (view.shape[0] > 1 and view.strides[0] != view.itemsize):
            raise ValueError("CSR needs contiguous arrays of one axis")
        return view


def run(Plan plan not None, Params params not None, Work work not None, sources, *, int64_t n_rows,
        int batch_size, const int64_t[::1] order=None, int64_t first=0, const double[::1] rates=None,
        Optimizer optimizer=None, int64_t step=0, uint64_t seed=0, output=None, int threads=0,
        bint apply_only=False):
    """Run the plan over rows [first, first + n_rows) of `order` (or of the sources); returns a Result.

    sources: arrays whose axis 0 is rows and whose rows are contiguous, or Csr, in the plan's order. output:
    one array, or a tuple of them. The GIL is released. Raises MemoryError, ValueError (arguments that do not fit the plan).
    """
    cdef fn_run_args args
    cdef fn_result result
    cdef fn_status status
    cdef Py_buffer views[48]
    cdef int held = 0, i
    cdef bint write = optimizer is not None
    cdef int64_t n
    cdef Csr sparse
    memset(&args, 0, sizeof(args))
    memset(&result, 0, sizeof(result))
    if len(sources) > FN_MAX_SOURCES or first < 0 or n_rows < 0 or work.plan is not plan:
        raise ValueError("these arguments do not fit the plan")
    if order is not None and order.shape[0] < first + n_rows:
        raise ValueError(f"order has {order.shape[0]} rows, {first + n_rows} are wanted")
    try:
        for i in range(<int>len(sources)):
            if isinstance(sources[i], Csr):
                sparse = sources[i]
                args.sources[i], n = sparse.source, sparse.rows
            else:
                _borrow(sources[i], &views[held], False)
                held += 1
                n = views[held - 1].shape[0]
                args.sources[i].data = views[held - 1].buf
                args.sources[i].dtype = _dtype(views[held - 1].format)
                args.sources[i].row_bytes = views[held - 1].strides[0] if views[held - 1].ndim else 0
            if order is None and n < first + n_rows:
                raise ValueError(f"source {i} has {n} rows, {first + n_rows} are wanted")
        args.n_sources = <int>len(sources)
        if output is not None:
            outputs = output if isinstance(output, tuple) else (output,)
            if len(outputs) > FN_MAX_OUTPUTS:
                raise ValueError("these arguments do not fit the plan")
            for i in range(<int>len(outputs)):
                _borrow(outputs[i], &views[held], True)
                held += 1
                args.outputs[i] = <float *>views[held - 1].buf
        args.order = &order[0] if order is not None and order.shape[0] else NULL
        args.n_rows, args.first, args.batch_size = n_rows, first, batch_size
        args.rates = &rates[0] if rates is not None else NULL
        args.optimizer = &optimizer.numbers if optimizer is not None else NULL
        args.step, args.seed, args.threads, args.apply_only = step, seed, threads, apply_only
        if rates is not None and not apply_only and rates.shape[0] * batch_size < n_rows:
            raise ValueError(f"{rates.shape[0]} learning rates for {n_rows} rows in batches of {batch_size}")
        params.begin(write)
        try:
            with nogil:
                fn_blas_one_thread()
                status = fn_run(plan.plan, params.params, work.work, &args, &result)
        finally:
            params.end(write)
    finally:
        for i in range(held):
            PyBuffer_Release(&views[i])
    if status == FN_ENOMEM:
        raise MemoryError("no memory for this run")
    if status == FN_EINVAL:
        raise ValueError("these arguments do not fit the plan")
    cdef Result answer = Result.__new__(Result)
    answer.status = _STATUS[status]
    answer.loss, answer.weight, answer.last_loss = result.loss, result.weight, result.last_loss
    answer.steps, answer.seconds, answer.threads = result.steps, result.seconds, result.threads
    answer.bad_row, answer.bad_column, answer.bad_source = result.bad_row, result.bad_column, result.bad_source
    return answer


def shuffle(uint64_t seed, uint64_t epoch, int64_t[::1] order not None):
    """Fill `order` with row numbers 0..n-1, shuffled by seed and epoch alone."""
    if order.shape[0]:
        c_shuffle(seed, epoch, order.shape[0], &order[0])


include "_machine.pxi"
include "_kmeans.pxi"

fn_fork_guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
