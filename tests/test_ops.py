"""The engine (float32) against tests/reference.py (float64), generated from the tables.

Both sides are given the same numbers, exact in float32, so what differs is rounding alone. U =
2^-24 is the relative error of one float32 operation; a sum of k products is off by at most
(k + 1) U (and terms in U^2) times the sum of their absolute values, in any order, with FMA or
without (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Dense layers are held
to that bound. Functions of one number are held to 64 U times the value (their own bounds,
tests/c/test_vmath.c, are a few U, and 54 U for gelu at -7), plus, for derivatives that are
differences such as 1 - y^2, 64 U times dy.
"""

import itertools

import numpy as np
import pytest
import reference as ref
from engine import Net, U, activation, assert_within, dense, single, start_weights
from op_cases import GEMMS, THREADS, cases_of, generator, not_near_zero, samples, through
from test_optimizer_ops import RULES

from fastnet import _core, metrics

pytestmark = pytest.mark.usefixtures("always_thread")


# ----------------------------------------------------------------------------- names


def test_tables_agree():
    plumbing = {"metric", "output", "stop"}
    assert set(_core.table("op")) - plumbing == set(ref.OPS)
    assert [*_core.table("activation"), "softmax"] == list(ref.ACTIVATIONS)
    assert _core.table("loss") == list(ref.LOSSES)
    assert set(_core.table("optimizer")) == set(RULES)
    assert {rule for rule, _ in RULES.values()} | {"adamw"} == set(ref.OPTIMIZERS)
    classes = {name: metrics.get(name) for name in ref.METRICS}
    assert {metric.kind for metric in classes.values()} == set(_core.table("metric"))
    assert _core.table("nothing") == []


# ----------------------------------------------------------------------------- dense

WIDE = tuple(
    ref.Case({"x": (n, d_in), "w": (d_in, units), "b": (units,)})
    for n, d_in, units in (
        (5, 161, 129), (1, 201, 97), (33, 131, 127), (130, 150, 120), (3, 700, 31),
    )
)  # fmt: skip


def some_dense(*indices):
    return [ref.OPS["dense"].cases[i] for i in indices]


def check_dense(case, **options):
    arrays, dy = samples("dense", case)
    x, w, b = arrays["x"], arrays["w"], arrays.get("b")
    n, d_in, units = len(x), *w.shape
    weights = [w] if b is None else [w, b]
    result = through([dense(units, bias=b is not None)], weights, x, dy, **options)
    if n == 0:
        return
    y, dx, *gradients = result
    want_y = ref.dense_forward(x, w, b)
    want_dx, *want = ref.dense_backward(x, w, b, dy)
    not_near_zero(want_dx, *want[: len(weights)])
    size = abs(x) @ abs(w) + (0 if b is None else abs(b))
    assert_within(y, want_y, (d_in + 4) * U * size, "y")
    assert_within(dx, want_dx, (units + 4) * U * (abs(dy) @ abs(w).T), "dx")
    assert_within(gradients[0], want[0], (n + 4) * U * (abs(x).T @ abs(dy)), "dw")
    if b is not None:
        assert_within(gradients[1], want[1], (n + 4) * U * abs(dy).sum(axis=0), "db")


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("case", [*ref.OPS["dense"].cases, *WIDE], ids=str)
def test_dense(level, gemm, case):
    check_dense(case, gemm=gemm)


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("lanes", [2, 3, 5])
@pytest.mark.parametrize("case", [*some_dense(0, 1, 8, 12), WIDE[3]], ids=str)
def test_dense_in_lanes(level, gemm, lanes, case):
    check_dense(case, gemm=gemm, lanes=lanes)


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("case", [*some_dense(0, 1, 7, 11), WIDE[2]], ids=str)
def test_dense_with_fewer_rows_than_planned(level, gemm, case):
    check_dense(case, gemm=gemm, extra_rows=150)


def test_lanes_are_the_sums_of_parts_of_the_batch(level):
    """What data-parallel workers rely on: lane l is the gradient of its rows alone."""
    rng = generator("lanes")
    x, dy = single(rng.standard_normal((12, 9))), single(rng.standard_normal((12, 5)))
    w = single(rng.standard_normal((9, 5)))
    layers = [dense(5, bias=False)]
    whole = through(layers, [w], x, dy, lanes=4)[2]
    parts = [through(layers, [w], x[i : i + 3], dy[i : i + 3])[2] for i in (0, 3, 6, 9)]
    tree = (parts[0] + parts[1]) + (parts[2] + parts[3])
    assert np.array_equal(whole, tree)


# ----------------------------------------------------------------------------- elementwise


def check_elementwise(name, case, layers, weights, bounds):
    """bounds: (want_y, want_dx, arrays, dy) -> how far y and dx may be off."""
    arrays, dy = samples(name, case)
    result = through(layers, weights(arrays), arrays["x"], dy)
    if not len(arrays["x"]):
        return
    want_y = ref.OPS[name].forward(**arrays, **case.attributes)
    (want_dx,) = ref.OPS[name].backward(**arrays, dy=dy, **case.attributes)
    not_near_zero(want_dx)
    tolerance_y, tolerance_dx = bounds(want_y, want_dx, arrays, dy)
    assert_within(result[0], want_y, tolerance_y, "y")
    assert_within(result[1], want_dx, tolerance_dx, "dx")


@cases_of("activation", lambda case: "alpha" not in case.attributes)
def test_activation(level, case):
    attributes = dict(case.attributes)
    attributes["function"] = attributes.pop("kind")
    check_elementwise(
        "activation", case, [("activation", attributes)], lambda arrays: [],
        lambda y, dx, arrays, dy: (64 * U * abs(y), 64 * U * (abs(dx) + abs(dy))),
    )  # fmt: skip


@pytest.mark.parametrize("name", [*_core.table("activation"), "softmax"])
def test_activation_far_out(level, name):
    """Large inputs: finite values, the limits of the reference, no NaN from inf * 0."""
    x = np.repeat(np.array([[-3e4, -104, -60, -20, 20, 60, 104, 3e4]], np.float32), 3, axis=0)
    x64 = x.astype(np.float64)
    act = ref.ACTIVATIONS[name]
    y, dx = through([activation(name)], [], x, np.ones_like(x))[:2]
    assert_within(y, act.forward(x64), 64 * U * abs(act.forward(x64)) + 2.0**-116, "y")
    want = act.backward(x64, act.forward(x64), np.ones_like(x64))
    assert_within(dx, want, 64 * U, "dx")


def test_activation_passes_nan_on(level):
    """A NaN weight reaches every output: no activation hides it."""
    for name in [*_core.table("activation"), "softmax"]:
        net = Net(3, [dense(5), activation(name)], mode="predict", max_rows=4)
        net.set_weights([np.full((3, 5), np.nan), np.zeros(5)])
        for rows in (1, 4):
            assert np.isnan(net.predict(np.zeros((rows, 3), np.float32))).all(), name


@cases_of("softmax")
def test_softmax(level, case):
    n = case.shapes["x"][-1]

    def bounds(y, dx, arrays, dy):
        dots = (abs(dy) * y).sum(axis=-1, keepdims=True)
        return (64 + n) * U * y, (64 + n) * U * y * (abs(dy) + dots)

    check_elementwise("softmax", case, [activation("softmax")], lambda arrays: [], bounds)


@cases_of("rescale")
def test_rescale(level, case):
    def bounds(y, dx, arrays, dy):
        scale, offset = case.attributes["scale"], case.attributes.get("offset", 0.0)
        return 4 * U * (abs(arrays["x"] * scale) + abs(offset)), 4 * U * abs(dx)

    check_elementwise("rescale", case, [("rescale", case.attributes)], lambda arrays: [], bounds)


@cases_of("normalization")
def test_normalization(level, case):
    def inverse(arrays):
        return 1 / np.maximum(np.sqrt(arrays["var"]), 1e-7)

    def bounds(y, dx, arrays, dy):
        size = (abs(arrays["x"]) + abs(arrays["mean"])) * inverse(arrays)
        return 4 * U * size, 4 * U * abs(dx)

    check_elementwise("normalization", case, [("normalization", {})],
                      lambda arrays: [arrays["mean"], inverse(arrays)], bounds)  # fmt: skip


@cases_of("dropout")
def test_dropout(level, case):
    """The mask is the engine's to draw: it is read off y, and has to serve forward and backward."""
    arrays, dy = samples("dropout", case)
    x, rate = arrays["x"], case.attributes["rate"]
    result = through([("dropout", {"rate": rate})], [], x, dy)
    if not len(x):
        return
    assert x.all()
    mask = result[0] != 0
    assert_within(result[0], ref.OPS["dropout"].forward(x, mask, rate), 4 * U * abs(x) / (1 - rate))
    (want,) = ref.OPS["dropout"].backward(x, mask, dy, rate)
    assert_within(result[1], want, 4 * U * abs(want))
    if rate == 0:
        assert mask.all()
        not_near_zero(want)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_masks(level, rate):
    """Kept with probability 1 - rate; other masks for another seed, step or op; the same again."""
    n, d = 200, 100
    layers = [dense(d, bias=False), ("dropout", {"rate": rate}), ("dropout", {"rate": rate})]
    net = Net(d, layers, loss="mse", update="none", max_rows=n)
    net.set_weights([np.eye(d)])
    ones = np.ones((n, d), np.float32)

    def mask(buffer, **options):
        assert net.run(ones, ones, **options).status == "ok"
        return net.rows(net.buffers[buffer], n) != 0

    both = mask(3, seed=5)
    deviation = np.sqrt(n * d * (1 - rate) ** 2 * (1 - (1 - rate) ** 2))
    assert abs(both.sum() - n * d * (1 - rate) ** 2) < 5 * deviation  # two independent masks
    assert np.array_equal(both, mask(3, seed=5, threads=3))
    assert not np.array_equal(both, mask(3, seed=6))
    assert not np.array_equal(both, mask(3, seed=5, step=1))
    columns = both.mean(axis=0)
    assert (abs(columns - (1 - rate) ** 2) < 6 * np.sqrt(0.25 / n)).all()


# ----------------------------------------------------------------------------- input and plumbing


@cases_of("input")
def test_input(level, case):
    arrays, _ = samples("input", case)
    x = arrays["x"].astype(np.float32)
    read = Net(x.shape[1:], [], loss="stop", update="none", max_rows=max(len(x), 1))
    columns = int(np.prod(x.shape[1:]))  # a dense layer may use the rows where they lie
    used = Net(x.shape[1:], [dense(x.shape[1:], bias=False)], loss="stop", update="none",
               max_rows=max(len(x), 1))  # fmt: skip
    used.set_weights([np.eye(columns)])
    for net, threads in itertools.product((read, used), THREADS):
        result = net.run(x, threads=threads)
        if not len(x):
            assert (result.status, result.steps) == ("ok", 0)
            continue
        assert result.status == "stopped"
        assert np.array_equal(net.rows(net.last, len(x)), x)
        assert net.run(x, threads=threads).status == "ok"


DTYPES = ("float32", "float64", "int32", "int64", "uint8", "int8", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_input_of_every_dtype_scaled_and_in_any_order(level, dtype):
    rng = generator("input", dtype)
    x = rng.integers(0, 2 if dtype == "bool" else 100, (9, 37)).astype(dtype)
    if dtype == "float64":
        x += rng.random(x.shape)
    order = rng.permutation(9).astype(np.int64)
    scaled = {"scale": 1 / 255, "offset": -0.5}
    net = Net(37, [dense(3)], loss="mse", update="none", source=scaled)
    net.set_weights([np.ones(s) for s in net.param_shapes])
    target = np.zeros((9, 3), np.float32)
    net.run(x, target, order=order)
    want = x.astype(np.float32).astype(np.float64)[order] / 255 - 0.5
    assert_within(net.rows(net.buffers[0], 9), want, 4 * U)
    wide = np.zeros((9, 50), dtype)[:, :37]  # rows that do not follow each other directly
    wide[:] = x
    before = net.rows(net.buffers[0], 9)
    net.run(wide, target, order=order)
    assert np.array_equal(net.rows(net.buffers[0], 9), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_classes_of_every_dtype(level, dtype):
    """Integer targets of any width give the loss of int64 ones."""
    labels = np.array([0, 1, 1, 0, 1])
    logits = generator("classes").standard_normal((5, 2)).astype(np.float32)
    net = Net(2, [dense(2)], loss="cross_entropy", classes=True, update="none")
    net.set_weights([np.eye(2), np.zeros(2)])
    want = ref.LOSSES["cross_entropy"].value(logits.astype(np.float64), labels)
    assert net.run(logits, labels.astype(dtype)).last_loss == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1,), (16,), (17,), (3, 5)], ids=str)
def test_output(level, shape):
    """Predictions arrive without padding, in every size of batch."""
    rng = generator("output", shape)
    net = Net(4, [dense(shape)], mode="predict", max_rows=5)
    net.set_weights(start_weights(net, rng))
    x = single(rng.standard_normal((13, 4)))
    w, b = (v.astype(np.float64) for v in net.weights())
    want = (x @ w + b).reshape(13, *shape)
    for batch, threads in itertools.product((1, 2, 5), THREADS):
        y = net.predict(x.astype(np.float32), batch=batch, threads=threads)
        assert_within(y, want, 8 * U * ((abs(x) @ abs(w) + abs(b)).reshape(want.shape)))


def test_stop_goes_on_where_it_stopped(level):
    """Two stops in each of three minibatches; what the test writes is what the next op reads."""
    net = Net(5, [dense(3), activation("tanh")], loss="stop", update="none", max_rows=4)
    w = start_weights(net, generator("stop"))
    net.set_weights(w)
    x = single(generator("stop x").standard_normal((10, 5)))
    sums, statuses = [np.zeros((5, 3)), np.zeros(3)], []
    for step in range(3):
        part = x[4 * step : 4 * step + 4]
        result = net.run(x.astype(np.float32), batch=4)
        statuses.append(result.status)
        y = np.tanh(part @ w[0] + w[1])
        assert_within(net.rows(net.last, len(part)), y, 64 * U)
        net.work.set_rows(net.last, np.ones((len(part), 3), np.float32), gradient=True)
        sums = [part.T @ (1 - y * y), (1 - y * y).sum(axis=0)]
    result = net.run(x.astype(np.float32), batch=4)
    assert statuses == ["stopped"] * 3
    assert result.status == "ok"
    for got, want in zip(net.gradients(), sums, strict=True):
        not_near_zero(want)
        assert_within(got, want, 1e-5)
