"""Cases of tests/reference.py for the tests of single ops, and a way to run an op alone."""

import zlib

import numpy as np
import pytest
import reference as ref
from engine import Net, dense, single

THREADS = (1, 2, 3, 8)
GEMMS = ("tiles", "sgemm")


def generator(*key):
    """Random numbers that depend on the name of the case only."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, key)).encode()))


def cases_of(name, keep=lambda case: True):
    cases = [case for case in ref.OPS[name].cases if keep(case)]
    return pytest.mark.parametrize("case", cases, ids=str)


def samples(name, case):
    """The case's arrays, exact in float32, and a gradient of its output."""
    rng = generator(name, case)
    arrays = {k: single(v) for k, v in ref.OPS[name].sample(case, rng).items()}
    shape = np.shape(ref.OPS[name].forward(**arrays, **case.attributes))
    dy = single(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))
    return arrays, dy


def through(layers, weights, x, dy, *, extra_rows=0, **options):
    """Run x (n, ...) through `layers`, dy back: (y, dx, parameter gradients), the same bits for
    every number of threads. A dense layer with the unit matrix stands before them, because
    gradients flow to trained weights only; a stop behind them lets dy in."""
    n, columns = len(x), int(np.prod(x.shape[1:]))
    net = Net(x.shape[1:], [dense(x.shape[1:], bias=False), *layers], loss="stop", update="none",
              max_rows=max(n, 1) + extra_rows, **options)  # fmt: skip
    net.set_weights([np.eye(columns), *weights])
    kept = x.astype(np.float32)  # after a stop, rows used in place are read again
    first = None
    for threads in THREADS:
        net.set_weights([np.full(s, np.nan) for s in net.param_shapes], part=3)
        stopped = net.run(kept, threads=threads)
        if n == 0:
            assert (stopped.status, stopped.steps) == ("ok", 0)
            return None
        assert (stopped.status, stopped.threads) == ("stopped", threads)
        y = net.rows(net.last, n)
        net.work.set_rows(net.last, dy.reshape(n, -1).astype(np.float32), gradient=True)
        assert net.run(kept, threads=threads).status == "ok"
        result = [y, net.rows(net.buffers[1], n, gradient=True), *net.gradients()[1:]]
        first = first or result
        for a, b in zip(first, result, strict=True):
            assert a.tobytes() == b.tobytes(), f"other bits with {threads} threads"
    return result


def not_near_zero(*gradients):
    for gradient in gradients:
        assert np.abs(gradient).max() > 1e-3
