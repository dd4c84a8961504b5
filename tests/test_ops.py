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
import zlib

import numpy as np
import pytest
import reference as ref
from engine import Net, U, activation, assert_within, dense, single, start_weights

from fastnet import _core, metrics

pytestmark = pytest.mark.usefixtures("always_thread")
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


# ----------------------------------------------------------------------------- losses

LOSS_ATTRIBUTES = {"label_smoothing": "smoothing", "delta": "delta"}


def loss_net(case, *, classes=False, weighted=None, max_rows=None, **attributes):
    kind, *_ = case.attributes.values()
    attributes |= {LOSS_ATTRIBUTES[k]: v for k, v in case.attributes.items() if k != "kind"}
    shape = case.shapes["p"]
    net = Net(shape[1:], [dense(shape[1:], bias=False)], loss=(kind, attributes), classes=classes,
              weighted=weighted, update="none", max_rows=max_rows or max(shape[0], 1))  # fmt: skip
    net.set_weights([np.eye(int(np.prod(shape[1:])))])
    return net


def check_loss(case, p, t, w, weighted, **options):
    kind, *_ = case.attributes.values()
    numbers = {k: v for k, v in case.attributes.items() if k != "kind"}
    loss, n, columns = ref.LOSSES[kind], len(p), p.shape[-1]
    classes = t.ndim < p.ndim
    net = loss_net(case, classes=classes, weighted=weighted, **options)
    sources = [p.astype(np.float32), t if classes else t.astype(np.float32)]
    sources += [] if w is None else [w.astype(np.float32)]
    first = None
    for threads in THREADS:
        result = net.run(*sources, threads=threads)
        if n == 0:
            assert (result.status, result.steps, result.loss) == ("ok", 0, 0)
            continue
        got = [net.rows(net.loss, n), net.rows(net.buffers[1], n, gradient=True), result.loss]
        first = first or got
        assert all(np.array_equal(a, b) for a, b in zip(first, got, strict=True))
    if n == 0:
        return
    assert (result.status, result.steps) == ("ok", 1)
    row_weights = ref.row_weights(w, p.shape[:-1])
    per_row = loss.per_row(p, t, **numbers)
    groups = per_row[0].size
    scale = row_weights if weighted and np.prod(weighted) > 1 else row_weights / groups
    rows = (scale * per_row).reshape(n, -1).sum(axis=1)
    precision = (64 + columns) * U
    size = (scale * (1 + abs(per_row))).reshape(n, -1).sum(axis=1)
    assert_within(first[0], rows, precision * size, "loss of a row")
    want = loss.value(p, t, w, **numbers)
    share = 1 if weighted is None else None
    total = n if share else scale.sum()
    assert_within(result.loss, rows.sum(), precision * size.sum(), "loss")
    assert result.weight == pytest.approx(total, rel=1e-6)
    assert_within(result.last_loss, want, precision * size.sum() / total, "mean loss")
    gradient = loss.gradient(p, t, w, **numbers)
    not_near_zero(gradient)
    factor = (row_weights / row_weights.sum())[..., None] / (1 if loss.classes else columns)
    assert_within(first[1], gradient, precision * (abs(gradient) + factor), "dp")


@cases_of("loss")
def test_loss(level, case):
    arrays, _ = samples("loss", case)
    check_loss(case, arrays["p"], arrays["t"].astype(np.int64) if _classes(case) else arrays["t"],
               arrays["w"], case.shapes["w"][1:])  # fmt: skip


def _classes(case):
    return ref.LOSSES[case.attributes["kind"]].classes


@cases_of("loss", lambda case: len(case.shapes["p"]) == 3 or case.shapes["p"] == (7, 5))
def test_loss_without_weights_and_with_one_a_sample(level, case):
    arrays, _ = samples("loss", case)
    t = arrays["t"].astype(np.int64) if _classes(case) else arrays["t"]
    check_loss(case, arrays["p"], t, None, None)
    check_loss(case, arrays["p"], t, single([0.3, 1.7, 0.0, 2.0, 1.0, 0.0, 1.5])[: len(t)], ())


@cases_of("loss", lambda case: _classes(case))
def test_loss_of_one_hot_targets(level, case):
    arrays, _ = samples("loss", case)
    t = ref.one_hot(arrays["t"].astype(np.int64), case.shapes["p"][-1])
    check_loss(case, arrays["p"], t, arrays["w"], case.shapes["w"][1:])


@cases_of("loss", lambda case: _classes(case) and case.shapes["p"] == (17, 16))
def test_loss_of_targets_that_are_probabilities(level, case):
    arrays, _ = samples("loss", case)
    t = single(ref.softmax(generator("soft targets").standard_normal((17, 16))))
    check_loss(case, arrays["p"], t, arrays["w"], case.shapes["w"][1:])


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("shape", [(7, 5), (1, 3), (9, 33), (2, 3, 5)], ids=str)
def test_fused_loss_leaves_probabilities(level, kind, shape):
    """`probabilities` replaces logits by softmax or sigmoid, and changes no loss or gradient."""
    case = ref.Case({"p": shape, "w": shape[:-1]}, {"kind": kind})
    arrays, _ = samples("loss", case)
    p, t, rows = arrays["p"].astype(np.float32), arrays["t"].astype(np.float32), shape[0]
    if _classes(case):
        t = t.astype(np.int64)
    results = []
    for flag in (0, 1):
        net = loss_net(case, classes=_classes(case), probabilities=flag)
        net.run(p, t)
        results.append((net.rows(net.loss, rows), net.rows(net.buffers[1], rows, gradient=True)))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    truth = {"cross_entropy": ref.softmax, "binary_cross_entropy": ref.sigmoid}[kind]
    want = truth(p.astype(np.float64))
    assert_within(net.rows(net.buffers[1], rows), want, 128 * U * want)


@pytest.mark.parametrize("kind", _core.table("loss"))
def test_a_row_of_weight_zero_is_not_there(level, kind):
    """Whatever it holds: values so large that its loss and slope are infinite change no bit."""
    rng = generator("removed", kind)
    p, t = (v.astype(np.float32) for v in ref.LOSSES[kind].sample(rng, (5, 4)))
    classes = ref.LOSSES[kind].classes
    t = t.astype(np.int64) if classes else t
    w = np.array([1, 2, 0, 0.5, 0], np.float32)
    case = ref.Case({"p": (5, 4), "w": (5,)}, {"kind": kind})
    net = loss_net(case, classes=classes, weighted=())
    net.run(p, t, w)
    want = [net.rows(net.buffers[1], 5, gradient=True)[w > 0], net.rows(net.loss, 5)[w > 0]]
    p[2], p[4] = 3e38, -1e-7
    if not classes:
        t[2] = -3e38
    result = net.run(p, t, w)
    assert result.status == "ok"
    gradient = net.rows(net.buffers[1], 5, gradient=True)
    assert not gradient[w == 0].any()
    assert not net.rows(net.loss, 5)[w == 0].any()
    assert np.array_equal(gradient[w > 0], want[0])
    assert np.array_equal(net.rows(net.loss, 5)[w > 0], want[1])


@pytest.mark.parametrize("kind", _core.table("loss"))
def test_all_weights_zero_is_a_loss_of_zero(level, kind):
    p, t = (v.astype(np.float32) for v in ref.LOSSES[kind].sample(generator(kind), (5, 4)))
    classes = ref.LOSSES[kind].classes
    case = ref.Case({"p": (5, 4), "w": (5,)}, {"kind": kind})
    net = loss_net(case, classes=classes, weighted=())
    result = net.run(p, t.astype(np.int64) if classes else t, np.zeros(5, np.float32))
    assert (result.status, result.loss, result.weight, result.last_loss) == ("ok", 0, 0, 0)
    assert not np.concatenate([g.ravel() for g in net.gradients()]).any()


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint8", "int8", "bool"])
def test_weights_of_every_dtype(level, dtype):
    """The sum of weights is taken of the values, whatever they are stored as."""
    case = ref.Case({"p": (7, 5), "w": (7,)}, {"kind": "mse"})
    arrays, _ = samples("loss", case)
    p, t = arrays["p"].astype(np.float32), arrays["t"].astype(np.float32)
    w = np.array([1, 0, 1, 1, 0, 1, 1] if dtype == "bool" else [1, 0, 3, 2, 0, 5, 1]).astype(dtype)
    net = loss_net(case, weighted=())
    want = net.run(p, t, w.astype(np.float32))
    got = net.run(p, t, w)
    assert want.weight == w.sum()
    assert (got.loss, got.weight, got.last_loss) == (want.loss, want.weight, want.last_loss)


# ----------------------------------------------------------------------------- optimizers

#: Each optimizer of the engine: the reference's name, and the numbers that make it that one.
RULES = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adam": ("adam", {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
    "rmsprop": ("rmsprop", {"rho": 0.9, "epsilon": 1e-7}),
    "rmsprop_momentum": ("rmsprop", {"rho": 0.9, "momentum": 0.8, "epsilon": 1e-7}),
    "adagrad": ("adagrad", {"epsilon": 1e-7}),
}
LIMITS = (
    {}, {"l1": 0.02}, {"l2": 0.03}, {"weight_decay": 0.04}, {"clipvalue": 0.25},
    {"global_clipnorm": 0.7},
    {"l1": 0.02, "l2": 0.03, "weight_decay": 0.04, "clipvalue": 0.25, "global_clipnorm": 2.5},
)  # fmt: skip
FILL = {"adagrad": 0.1}
limits = pytest.mark.parametrize("limits", LIMITS, ids=lambda d: " ".join(d) or "plain")


def engine_optimizer(name, limits):
    numbers = {k: v for k, v in RULES[name][1].items() if k != "nesterov"}
    return _core.Optimizer(name, **numbers, **limits)


def rate_of(step):
    return 0.05 / (1 + 0.1 * step)


def assert_moved_alike(name, start, got, want, factor, what):
    """Ten steps off by at most `factor` U of the weights and of how far they moved; Adam's
    1 - beta_2 = 0.001 is taken from a float32, so that its slot is off by 2^-25 / 0.001."""
    slack = 2.0**-25 / 0.001 if name == "adam" else 0
    for i, (w0, a, b) in enumerate(zip(start, got, want, strict=True)):
        moved = np.abs(b - w0).max()
        assert moved > 1e-3
        assert_within(a, b, factor * U * (abs(b) + moved) + slack * moved, f"{what}, weight {i}")


@limits
@pytest.mark.parametrize("name", _core.table("optimizer"))
def test_optimizer_of_given_gradients(level, name, limits):
    """The rules alone: gradients are written to the flat buffer, with zeros, and applied."""
    rng = generator(name, limits)
    layers = [dense(11), activation("tanh"), dense(600)]
    net = Net(37, layers, loss="mse", update="flat", max_rows=2)
    start = [np.where(rng.random(w.shape) < 0.1, 0.0, w) for w in start_weights(net, rng)]
    start = [single(w) for w in start]
    rule, hyper = ref.OPTIMIZERS[RULES[name][0]], dict(RULES[name][1])
    clip = limits.get("global_clipnorm")
    rest = {k: v for k, v in limits.items() if k != "global_clipnorm"}
    net.set_weights(start)
    net.need(name, FILL.get(name, 0.0))
    want, states = start, [rule.init(w) for w in start]
    optimizer = engine_optimizer(name, limits)
    for step in range(10):
        size = 0.0 if step == 4 else 0.01 + step
        gradients = [
            single(rng.standard_normal(w.shape) * (rng.random(w.shape) < 0.8) * size) for w in start
        ]
        net.set_weights(gradients, part=3)
        result = net.run(apply_only=True, optimizer=optimizer, rate=rate_of(step), step=step,
                         threads=THREADS[step % 4])  # fmt: skip
        assert (result.status, result.steps) == ("ok", 1)
        if clip:
            gradients = ref.global_clip(gradients, clip)
        want = [
            rule.step(w, g, s, step + 1, w.ndim > 1, learning_rate=rate_of(step), **hyper, **rest)
            for w, g, s in zip(want, gradients, states, strict=True)
        ]
    assert_moved_alike(name, start, net.weights(), want, 400, name)
    for part in range(1, net.slots + 1):
        assert all(np.abs(slot).max() > 0 for slot in net.weights(part))


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("update", ["fused", "flat"])
@limits
@pytest.mark.parametrize("name", _core.table("optimizer"))
def test_optimizer_in_training(level, name, limits, update, batch):
    """Ten steps of a small network, in batches of one row (x * dz goes straight to the weights)
    and of seven."""
    rng = generator(name, limits, batch)
    layers = [dense(5), activation("tanh"), dense(3)]
    net = Net(7, layers, loss="mse", update=update, max_rows=batch)
    start = start_weights(net, rng)
    net.set_weights(start)
    net.need(name, FILL.get(name, 0.0))
    x, t = (single(rng.standard_normal((10 * batch, columns))) for columns in (7, 3))
    x[rng.random(x.shape) < 0.3] = 0
    optimizer, rates = engine_optimizer(name, limits), [rate_of(i) for i in range(10)]
    call = {"batch": batch, "optimizer": optimizer, "rate": rates, "threads": 2}
    if update == "fused" and "global_clipnorm" in limits:
        with pytest.raises(ValueError, match="do not fit"):  # the norm needs all gradients first
            net.run(x.astype(np.float32), t.astype(np.float32), **call)
        return
    result = net.run(x.astype(np.float32), t.astype(np.float32), **call)
    batches = [(x[i : i + batch], t[i : i + batch]) for i in range(0, len(x), batch)]
    want, losses = ref.train(start, ["tanh", "linear"], "mse", RULES[name][0], batches,
                             learning_rate=rate_of, **RULES[name][1], **limits)  # fmt: skip
    assert (result.status, result.steps) == ("ok", 10)
    assert result.loss == pytest.approx(sum(losses) * batch, rel=1e-4)
    assert result.last_loss == pytest.approx(losses[-1], rel=1e-3)
    assert_moved_alike(name, start, net.weights(), want, 4000, name)


def test_global_norm_of_many_slices(level):
    """The norm is taken over all parameters, however the flat buffer is cut."""
    rng = generator("norm")
    layers = [dense(130), activation("relu"), dense(3)]
    net = Net(300, layers, loss="mse", update="flat", max_rows=2)
    gradients = [single(rng.standard_normal(s)) for s in net.param_shapes]
    norm = np.sqrt(sum((g * g).sum() for g in gradients))
    net.set_weights(gradients, part=3)
    optimizer = _core.Optimizer("sgd", global_clipnorm=norm / 3)
    net.run(apply_only=True, optimizer=optimizer, rate=1.0, threads=2)
    for got, g in zip(net.weights(), gradients, strict=True):
        assert_within(got, -g / 3, 8 * U * abs(g))
    net.set_weights([np.zeros(s) for s in net.param_shapes])
    optimizer = _core.Optimizer("sgd", global_clipnorm=norm * 1.01)
    net.run(apply_only=True, optimizer=optimizer, rate=1.0)
    for got, g in zip(net.weights(), gradients, strict=True):
        assert np.array_equal(got, -g)


# ----------------------------------------------------------------------------- metrics

METRIC_SHAPES = ((13, 1), (13, 5), (1, 3), (0, 5), (9, 33), (4, 3, 7), (4, 3, 1))
METRIC_CASES = [
    (name, shape)
    for name in ref.METRICS
    for shape in METRIC_SHAPES
    if name != "top_k_accuracy" or shape[-1] > 1  # the k largest of several
]
BINARY = {"binary_accuracy"}
REGRESSION = {"mse", "mae", "r2"}


def metric_sample(name, shape, rng, one_hot):
    p = np.round(rng.random(shape) * 4) / 4  # many ties, some of them at 0.5
    if name in REGRESSION:
        return rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape)
    if name in BINARY or shape[-1] == 1:
        return p, rng.integers(2, size=shape).astype(np.float64)
    labels = rng.integers(shape[-1], size=shape[:-1])
    return p, ref.one_hot(labels, shape[-1]) if one_hot else labels


def engine_metric(name, p, t, w, batch, mode="evaluate"):
    """The number that fastnet.metrics makes of the engine's sums, over minibatches of `batch`."""
    metric, outputs = metrics.get(name), p.shape[-1]
    plan_options = {"classes": t.ndim < p.ndim, "weighted": None if w is None else w.shape[1:]}
    net = Net(p.shape[1:], [], mode=mode, max_rows=batch,
              metrics=[(metric.kind, metric.attributes(outputs))], **plan_options)  # fmt: skip
    sources = [p.astype(np.float32), t if t.ndim < p.ndim else t.astype(np.float32)]
    sources += [] if w is None else [w.astype(np.float32)]
    assert net.run(*sources, batch=batch, threads=2).status == "ok"
    (sums,) = net.work.metrics()
    net.work.reset_metrics()
    assert not any(net.work.metrics()[0])
    return metric.result(sums)


@pytest.mark.parametrize("weights", ["no", "sample", "row"])
@pytest.mark.parametrize(("name", "shape"), METRIC_CASES, ids=str)
def test_metric(level, name, shape, weights):
    for one_hot, batch in itertools.product((False, True), (1, 4, 64)):
        rng = generator(name, shape, weights)
        p, t = metric_sample(name, shape, rng, one_hot)
        p, t = single(p), np.asarray(t) if t.ndim < p.ndim else single(t)
        w = {"no": None, "sample": rng.random(shape[:1]), "row": rng.random(shape[:-1])}[weights]
        if w is not None:
            w[1::3] = 0
            w = single(w)
        got = engine_metric(name, p, t, w, batch)
        want = ref.METRICS[name](t, p, w)
        if name == "r2" and np.prod(shape[:-1]) < 2:
            continue  # undefined: what Python reports then is its own affair
        assert got == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_metrics_by_hand(level):
    """Not only 0 and 1: known counts, so that the comparison above compares something."""
    p = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.3, 0.3, 0.3], [0.0, 0.9, 0.1]])
    t = np.array([0, 2, 1, 0])
    assert engine_metric("accuracy", p, t, None, 3) == 0.5
    assert engine_metric("recall", p, t, None, 3) == 0.5
    assert engine_metric("precision", p, t, None, 3) == 0.5
    assert engine_metric("f1", p, t, None, 3) == 0.5
    column, yes = np.array([[0.5], [0.6], [0.9], [0.2]]), np.array([[1.0], [1], [0], [0]])
    assert engine_metric("accuracy", column, yes, None, 4) == 0.5
    assert engine_metric("precision", column, yes, None, 4) == 0.5
    assert engine_metric("r2", column, yes, None, 4) == pytest.approx(1 - 1.26)


def test_metrics_beside_a_loss_while_training(level):
    """They see the predictions from before each step, and probabilities where the loss is fused."""
    rng = generator("streamed")
    net = Net(6, [dense(4)], loss=("cross_entropy", {"probabilities": 1}), classes=True,
              metrics=[("accuracy", {}), ("confusion", {})], max_rows=5)  # fmt: skip
    start = start_weights(net, rng)
    net.set_weights(start)
    x, t = single(rng.standard_normal((17, 6))), rng.integers(4, size=17)
    net.run(x.astype(np.float32), t, optimizer=_core.Optimizer("sgd"), rate=0.0, threads=2)
    p = ref.softmax(x @ start[0] + start[1])
    accuracy, confusion = net.work.metrics()
    assert metrics.get("accuracy").result(accuracy) == pytest.approx(ref.accuracy(t, p))
    assert metrics.get("f1").result(confusion) == pytest.approx(ref.f1(t, p))
