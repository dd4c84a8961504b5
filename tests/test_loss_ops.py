"""Losses and metrics of the engine (float32) against tests/reference.py (float64), as test_ops.py
does it for the other ops."""

import itertools

import numpy as np
import pytest
import reference as ref
from engine import Net, U, assert_within, dense, single, start_weights
from op_cases import THREADS, cases_of, generator, not_near_zero, samples

from fastnet import _core, metrics

pytestmark = pytest.mark.usefixtures("always_thread")


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
