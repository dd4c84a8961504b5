# The part of _core.pyx that holds weights, and lets threads read and write them in turn.

cdef int _forks = 0  # of which this process is a child


def _forked():
    global _forks
    _forks += 1


cdef class Params:
    """Weights of a network, its optimizer's slots and its gradients. Many readers or one writer at a time.

    In a forked child nobody holds them: whoever did is a thread that stayed with the parent."""

    cdef fn_params *params
    cdef int readers, writers_waiting, forks
    cdef bint writing

    def __cinit__(self, Plan plan):
        self.params = fn_params_new(plan.plan)
        if self.params == NULL:
            raise MemoryError("no memory for the parameters")

    def __dealloc__(self):
        fn_params_free(self.params)

    cdef int begin(self, bint write) except -1:
        if self.forks != _forks:
            self.forks, self.readers, self.writers_waiting, self.writing = _forks, 0, 0, False
        if write:
            self.writers_waiting += 1
            while self.writing or self.readers:
                with nogil:
                    usleep(20)
            self.writers_waiting -= 1
            self.writing = True
        else:
            while self.writing or self.writers_waiting:
                with nogil:
                    usleep(20)
            self.readers += 1
        return 0

    cdef void end(self, bint write) noexcept:
        if write:
            self.writing = False
        else:
            self.readers -= 1

    cdef int fits(self, int param, Py_ssize_t n) except -1:
        cdef int64_t count = fn_params_count(self.params, param)
        if count < 0:
            raise ValueError(f"there is no such parameter: {param}")
        if n != count:
            raise ValueError(f"parameter {param} has {count} values, got {n}")
        return 0

    cdef int checked(self, fn_status status) except -1:
        if status == FN_ENOMEM:
            raise MemoryError("no memory for the parameters")
        if status != FN_OK:
            raise ValueError("there is no such parameter")
        return 0

    def get(self, int param, float[::1] out not None, int part=0):
        """Copy a parameter (part 0), an optimizer slot (1, 2) or a gradient (3) to `out`, canonical order."""
        self.get_many([(param, out)], part)

    def get_many(self, pairs, int part=0):
        """The same for several (param, out) at once: of no training step only some."""
        cdef float[::1] out
        self.begin(False)
        try:
            for param, out in pairs:
                self.fits(param, out.shape[0])
                self.checked(fn_params_get(self.params, param, part, &out[0]))
        finally:
            self.end(False)

    def set(self, int param, const float[::1] values not None, int part=0):
        """Set a parameter (or slot, gradient) from canonical order."""
        self.set_many([(param, values)], part)

    def set_many(self, pairs, int part=0):
        """The same for several (param, values) at once: no reader sees some of them only."""
        cdef const float[::1] values
        self.begin(True)
        try:
            for param, values in pairs:
                self.fits(param, values.shape[0])
                self.checked(fn_params_set(self.params, param, part, &values[0]))
        finally:
            self.end(True)

    def need_slots(self, int n, float fill=0):
        """Fresh optimizer slots, all values `fill`. For whoever trains with these params: readers do
        not look at slots, so this waits for none."""
        self.checked(fn_params_need_slots(self.params, n, fill))

    def need_gradient(self):
        """Room for the flat gradient."""
        self.checked(fn_params_need_gradient(self.params))

    def copy_weights(self, Params source not None):
        """Take over the weights of other params of the same network."""
        self.begin(True)
        try:
            fn_params_copy_weights(self.params, source.params)
        finally:
            self.end(True)

    def nonfinite(self):
        """The first parameter that holds NaN or infinity, or -1."""
        return fn_params_nonfinite(self.params)

    @property
    def nbytes(self):
        return fn_params_bytes(self.params)
