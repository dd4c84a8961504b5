"""Ops that join and part branches (float32) against tests/reference_graph.py (float64), as
tests/test_ops.py does it for the others: every SIMD level, the same bits for any number of threads.
"""

import math

import numpy as np
import pytest
import reference as ref
from engine import U, assert_within, rowwise
from op_cases import THREADS, cases_of, not_near_zero, samples

from fastnet import _core

pytestmark = pytest.mark.usefixtures("always_thread")


class Branches:
    """Sources, each behind a trained unit matrix (so that gradients flow to it), into one op whose
    outputs are read, and given gradients, at stops."""

    def __init__(self, name, inputs, outputs, rows, trained=None, **attributes):
        self.plan = _core.Plan("train", max(rows, 1), "none")
        trained = trained or [True] * len(inputs)
        numbers = []
        for shape, wanted in zip(inputs, trained, strict=True):
            n = math.prod(shape)
            numbers.append(self.plan.param((n, n), True, wanted))
        self.inputs = []
        for i, (shape, number) in enumerate(zip(inputs, numbers, strict=True)):
            x, y = self.plan.buffer(shape), self.plan.buffer(shape)
            self.plan.op("input", [], [x], source=i)
            self.plan.op("dense", [x], [y], [number])
            self.inputs.append(y)
        self.outputs = [self.plan.buffer(shape) for shape in outputs]
        self.plan.op(name, self.inputs, self.outputs, **attributes)
        for y in self.outputs:
            self.plan.op("stop", [y])
        self.plan.finish()
        self.params = _core.Params(self.plan)
        self.params.need_gradient()
        for shape, number in zip(inputs, numbers, strict=True):
            self.params.set(number, np.eye(math.prod(shape), dtype=np.float32).ravel())
        self.work = _core.Work(self.plan)

    def rows(self, buffer, shape, gradient=False):
        data = self.work.rows(buffer, shape[0], math.prod(shape[1:]), gradient)
        return np.frombuffer(data, np.float32).reshape(shape)

    def run(self, xs, dys, threads, trained=None):
        """(outputs, gradients of the inputs)."""
        n = len(xs[0])
        xs = [rowwise(x.astype(np.float32)) for x in xs]

        def step():
            return _core.run(
                self.plan, self.params, self.work, xs, n_rows=n, batch_size=n, threads=threads
            )

        for buffer, dy in zip(self.outputs, dys, strict=True):
            assert step().status == "stopped"
            flat = np.ascontiguousarray(dy.reshape(n, -1), np.float32)
            self.work.set_rows(buffer, flat, gradient=True)
        ys = [self.rows(b, dy.shape) for b, dy in zip(self.outputs, dys, strict=True)]
        assert step().status == "ok"
        wanted = trained or [True] * len(xs)
        return ys, [
            self.rows(b, x.shape, gradient=True)
            for b, x, want in zip(self.inputs, xs, wanted, strict=True)
            if want
        ]


def through(name, xs, dys, trained=None, **attributes):
    net = Branches(name, [x.shape[1:] for x in xs], [dy.shape[1:] for dy in dys], len(xs[0]),
                   trained, **attributes)  # fmt: skip
    first = None
    for threads in THREADS:
        ys, dxs = net.run(xs, dys, threads, trained)
        first = first or (ys, dxs)
        for a, b in zip([*first[0], *first[1]], [*ys, *dxs], strict=True):
            assert a.tobytes() == b.tobytes(), f"other bits with {threads} threads"
    return first


def check_merge(name, case, **attributes):
    arrays, dy = samples(name, case)
    xs = list(arrays.values())
    if not len(xs[0]):
        return
    (y,), dxs = through(name, xs, [dy], **attributes)
    want = ref.OPS[name].forward(**arrays, **case.attributes)
    gradients = ref.OPS[name].backward(**arrays, dy=dy, **case.attributes)[: len(xs)]
    not_near_zero(*gradients)
    size = ref.OPS[name].forward(**{k: abs(v) for k, v in arrays.items()}, **case.attributes)
    assert_within(y, want, 8 * U * (size + abs(want)), "y")
    for i, (dx, want_dx) in enumerate(zip(dxs, gradients, strict=True)):
        assert_within(dx, want_dx, 8 * U * abs(want_dx), f"dx {i}")
    for i in range(len(xs)):  # one input without a gradient changes nothing for the others
        trained = [j != i for j in range(len(xs))]
        (alone,), some = through(name, xs, [dy], trained, **attributes)
        assert alone.tobytes() == y.tobytes()
        for a, b in zip(some, [d for d, t in zip(dxs, trained, strict=True) if t], strict=True):
            assert a.tobytes() == b.tobytes()


@cases_of("add")
def test_add(level, case):
    check_merge("add", case)


@cases_of("subtract")
def test_subtract(level, case):
    arrays, dy = samples("subtract", case)
    if not len(dy):
        return
    (y,), (da, db) = through("subtract", [arrays["a"], arrays["b"]], [dy])
    assert_within(y, arrays["a"] - arrays["b"], U * abs(arrays["a"] - arrays["b"]), "y")
    assert np.array_equal(da, dy)
    assert np.array_equal(db, -dy)


@cases_of("multiply")
def test_multiply(level, case):
    check_merge("multiply", case)


@cases_of("average")
def test_average(level, case):
    check_merge("average", case)


@cases_of("maximum")
def test_maximum(level, case):
    check_merge("maximum", case)


def test_maximum_of_equal_numbers_and_of_nan(level):
    """The first of equal ones gets the gradient; NaN comes through from either side."""
    one = np.ones((2, 3))
    (y,), (da, db) = through("maximum", [one, one], [2 * one])
    assert np.array_equal(y, one)
    assert np.array_equal(da, 2 * one)
    assert not db.any()
    net = _core.Plan("predict", 2)
    a, b, y = net.buffer((3,)), net.buffer((3,)), net.buffer((3,))
    w = net.param((3, 3), True)
    net.op("input", [], [a], source=0)
    net.op("dense", [a], [b], [w])
    net.op("maximum", [a, b], [y])
    net.op("output", [y])
    params = _core.Params(net.finish())
    params.set(0, np.full(9, np.nan, np.float32))
    out = np.zeros((2, 3), np.float32)
    _core.run(net, params, _core.Work(net), [one.astype(np.float32)], n_rows=2, batch_size=2,
              output=out)  # fmt: skip
    assert np.isnan(out).all()


@cases_of("concatenate")
def test_concatenate(level, case):
    axis, first = case.attributes["axis"], case.shapes["a"]
    check_merge("concatenate", case, outer=math.prod(first[1 : axis + 1]))


@cases_of("fork")
def test_fork(level, case):
    arrays, dy = samples("fork", case)
    x, n = arrays["a"], case.attributes["n"]
    if not len(x):
        return
    ys, (dx,) = through("fork", [x], list(dy))
    for y in ys:
        assert np.array_equal(y, x)
    (want,) = ref.OPS["fork"].backward(x, n, dy)
    not_near_zero(want)
    assert_within(dx, want, (n + 1) * U * abs(dy).sum(axis=0), "dx")


# ----------------------------------------------------------------------------- plans


def two_heads(*, fork):
    """input -> dense -> relu -> two dense layers, each with a loss."""
    plan = _core.Plan("train", 8)
    x, h, a, target = (plan.buffer((5,)) for _ in range(4))
    branches = [plan.buffer((5,)) for _ in range(2)] if fork else [a, a]
    weights = [plan.param((5, 5), True) for _ in range(3)]
    plan.op("input", [], [x], source=0)
    plan.op("dense", [x], [h], weights[:1])
    plan.op("activation", [h], [a], function="relu")
    if fork:
        plan.op("fork", [a], branches)
    plan.op("input", [], [target], source=1)
    for branch, weight in zip(branches, weights[1:], strict=True):
        y, value = plan.buffer((5,)), plan.buffer(())
        plan.op("dense", [branch], [y], [weight])
        plan.op("loss", [y, target], [value], kind="mse")
    return plan


def test_a_gradient_has_one_writer():
    with pytest.raises(ValueError, match="buffer 2 gets gradients from 2 ops"):
        two_heads(fork=False).finish()
    two_heads(fork=True).finish()


def test_a_fork_shares_memory_forward():
    """No copy of the rows, and nobody writes over what a sibling reads."""
    plan = _core.Plan("train", 8)
    x, h, a, b, r, s = (plan.buffer((5,)) for _ in range(6))
    w = plan.param((5, 5), True)
    plan.op("input", [], [x], source=0)
    plan.op("dense", [x], [h], [w])
    plan.op("fork", [h], [a, b])
    plan.op("activation", [a], [r], function="relu")
    plan.op("add", [r, b], [s])
    plan.op("stop", [s])
    where = [buffer["offset"] for buffer in plan.finish().buffers()]
    assert where[h] == where[a] == where[b]
    assert where[r] != where[h]
    assert where[s] != where[h]


def test_a_fork_wants_gradients_and_two_outputs():
    plan = _core.Plan("train", 8)
    x, a, b = (plan.buffer((5,)) for _ in range(3))
    plan.op("input", [], [x], source=0)
    plan.op("fork", [x], [a, b])
    with pytest.raises(ValueError, match="rows of a source get no gradient"):
        plan.finish()
    plan = _core.Plan("train", 8)
    x = plan.buffer((5,))
    plan.op("input", [], [x], source=0)
    plan.op("fork", [x], [plan.buffer((5,))])
    with pytest.raises(ValueError, match="1 inputs and 1 outputs"):
        plan.finish()


@pytest.mark.parametrize(
    ("name", "shapes", "output", "message"),
    [
        ("add", [(5,), (3,)], (5,), "inputs and output differ"),
        ("multiply", [(5,), (5,)], (3,), "inputs and output differ"),
        ("concatenate", [(5,), (3,)], (9,), "inputs and output differ"),
        ("average", [(5,)], (5,), "1 inputs and 1 outputs"),
    ],
)
def test_shapes_that_do_not_fit(name, shapes, output, message):
    plan = _core.Plan("predict", 8)
    inputs = []
    for i, shape in enumerate(shapes):
        inputs.append(plan.buffer(shape))
        plan.op("input", [], inputs[-1:], source=i)
    plan.op(name, inputs, [plan.buffer(output)])
    with pytest.raises(ValueError, match=message):
        plan.finish()


def test_losses_are_kept_apart_and_scaled():
    """Two losses with weights of their own: sums of each; the total counts each `scale` times."""
    plan = _core.Plan("train", 4, "none")
    p = []
    x = plan.buffer((3,))
    plan.op("input", [], [x], source=0)
    w = [plan.param((3, 3), True) for _ in range(2)]
    for i in range(2):
        p.append(plan.buffer((3,)))
        plan.op("dense", [x], p[-1:], w[i : i + 1])
    for i in range(2):
        target, weight, value = plan.buffer((3,)), plan.buffer(()), plan.buffer(())
        plan.op("input", [], [target], source=1 + 2 * i)
        plan.op("input", [], [weight], source=2 + 2 * i)
        plan.op("loss", [p[i], target, weight], [value], kind="mse", scale=1 + i)
    plan.finish()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 3)).astype(np.float32)
    t = rng.standard_normal((2, 6, 3)).astype(np.float32)
    u = rng.uniform(0.5, 2, (2, 6)).astype(np.float32)
    params, work = _core.Params(plan), _core.Work(plan)
    params.need_gradient()
    for i in range(2):
        params.set(i, np.eye(3, dtype=np.float32).ravel())
    result = _core.run(plan, params, work, [x, t[0], u[0], t[1], u[1]], n_rows=6, batch_size=4)
    rows = [((x - t[i]).astype(np.float64) ** 2).mean(axis=1) for i in range(2)]
    for i, (total, weights) in enumerate(work.losses()):
        assert total == pytest.approx((rows[i] * u[i]).sum(), rel=1e-5)
        assert weights == pytest.approx(u[i].sum(), rel=1e-6)
        gradient = np.empty(9, np.float32)
        params.get(i, gradient, 3)
        last = slice(4, 6)
        slope = 2 * (x - t[i])[last] / 3 * u[i][last, None] / u[i][last].sum() * (1 + i)
        assert np.abs(slope).max() > 1e-3
        np.testing.assert_allclose(gradient.reshape(3, 3), x[last].T @ slope, rtol=1e-4, atol=1e-6)
    want = sum((1 + i) * (rows[i] * u[i])[4:].sum() / u[i][4:].sum() for i in range(2))
    assert result.last_loss == pytest.approx(want, rel=1e-5)
    assert result.weight == pytest.approx(u[0].sum(), rel=1e-6)
    work.reset_metrics()
    assert work.losses() == [(0, 0), (0, 0)]
