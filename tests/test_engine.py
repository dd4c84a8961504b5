"""The engine's promises: the same bits for any number of threads, any batch and any interruption;
inputs untouched; failures that leave everything usable; what a plan says of itself."""

import ctypes
import itertools
import math
import os
import platform
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import reference as ref
from engine import Net, activation, assert_within, dense, single, start_weights

from fastnet import _core

THREADS = (1, 2, 3, 4, 8)
BATCH, STEPS, CLASSES = 12, 200, 5
NUMBERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "rmsprop": {"rho": 0.9, "epsilon": 1e-7},
    "rmsprop_momentum": {"rho": 0.9, "momentum": 0.5, "epsilon": 1e-7},
    "adagrad": {"epsilon": 1e-7},
}
LIMITS = {"l1": 1e-4, "l2": 1e-3, "weight_decay": 0.01, "clipvalue": 0.02}
every_optimizer = pytest.mark.parametrize("name", _core.table("optimizer"))


def classifier(name, *, batch=BATCH, weighted=None, **options):
    """131-130-20-5 with dropout: a dense layer that is cut by columns, and two that are not."""
    layers = [dense(130), activation("relu"), ("dropout", {"rate": 0.3}), dense(20),
              activation("tanh"), ("dropout", {"rate": 0.1}), dense(CLASSES)]  # fmt: skip
    net = Net(131, layers, loss="cross_entropy", classes=True, weighted=weighted, max_rows=batch,
              metrics=[("accuracy", {})], **options)  # fmt: skip
    net.set_weights(start_weights(net, np.random.default_rng(3)))
    net.need(name, 0.1 if name == "adagrad" else 0.0)
    return net


def rows_and_labels(n, d_in=131, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d_in)).astype(np.float32)
    x[rng.random(x.shape) < 0.5] = 0
    return x, rng.integers(CLASSES, size=n)


X, LABELS = rows_and_labels(600)
_EPOCHS = [np.random.default_rng(epoch).permutation(600) for epoch in range(4)]
ORDER = np.concatenate(_EPOCHS)[: STEPS * BATCH - 5]


def train(net, name, *, batch=BATCH, first=0, steps=STEPS, seed=11, limits=None, **options):
    """Steps [first, first + steps) of the course of 200; the last minibatch of it is short."""
    rows = min(len(ORDER) - first * batch, steps * batch)
    rates = [0.01 / (1 + 0.01 * step) for step in range(first, first + -(-rows // batch))]
    result = net.run(
        X, LABELS, order=ORDER, first=first * batch, rows=rows, batch=batch, rate=rates,
        step=first, seed=seed, optimizer=_core.Optimizer(name, **NUMBERS[name], **(limits or {})),
        **options,
    )  # fmt: skip
    assert (result.status, result.steps) == ("ok", len(rates))
    return result


# ----------------------------------------------------------------------------- the same bits

PLANS = [(name, {}, {}) for name in _core.table("optimizer")] + [
    ("adam", {"update": "flat"}, {"global_clipnorm": 0.5, **LIMITS}),
    ("momentum", {"gemm": "sgemm"}, LIMITS),
    ("momentum", {"lanes": 3}, {}),
]


@pytest.mark.parametrize(
    ("name", "options", "limits"), PLANS,
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
)  # fmt: skip
def test_same_bits_for_any_number_of_threads(level, always_thread, name, options, limits):
    digests, losses = set(), set()
    for threads in THREADS:
        net = classifier(name, **options)
        before = net.digest()
        result = train(net, name, threads=threads, limits=limits)
        assert result.threads == threads
        assert net.digest() != before
        digests.add(net.digest())
        losses.add((result.loss, result.last_loss, *net.work.metrics()[0]))
    assert len(digests) == len(losses) == 1


@every_optimizer
def test_same_bits_for_any_number_of_threads_row_by_row(level, always_thread, name):
    digests = set()
    for threads in (1, 2, 3, 8):
        net = classifier(name, batch=1)
        train(net, name, batch=1, steps=60, threads=threads)
        digests.add(net.digest())
    assert len(digests) == 1


@every_optimizer
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("limits", [{}, LIMITS], ids=["plain", "limits"])
def test_fused_and_flat_updates_give_the_same_bits(level, name, batch, limits):
    digests = set()
    for update in ("fused", "flat"):
        net = classifier(name, batch=batch, update=update)
        train(net, name, batch=batch, steps=40, limits=limits, threads=2)
        digests.add(net.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_gradients_and_then_apply_give_the_same_bits(level, name):
    """What accumulation and trainer.apply_gradients rely on: update="none", then apply_only."""
    fused, split, apply = (classifier(name, update=update) for update in ("fused", "none", "flat"))
    train(fused, name, steps=5)
    optimizer = _core.Optimizer(name, **NUMBERS[name])
    for step in range(5):
        split.set_weights(apply.weights())
        rows = ORDER[step * BATCH : (step + 1) * BATCH]
        split.run(X, LABELS, order=rows, rows=BATCH, step=step, seed=11)
        apply.set_weights(split.gradients(), part=3)
        apply.run(apply_only=True, optimizer=optimizer, rate=0.01 / (1 + 0.01 * step), step=step)
    assert apply.digest() == fused.digest()


@every_optimizer
def test_interrupted_and_resumed_gives_the_same_bits(level, name):
    """Stopped in the middle of an epoch, weights and slots taken to another network, continued."""
    whole = classifier(name)
    train(whole, name)
    net, first = classifier(name), 0
    for stop in (37, 38, 121, STEPS):
        fresh = classifier(name)
        for part in range(net.slots + 1):
            fresh.set_weights(net.weights(part), part)
        train(fresh, name, first=first, steps=stop - first, threads=1 + stop % 3)
        net, first = fresh, stop
    assert net.digest() == whole.digest()


def test_seed_and_step_make_other_masks(level):
    digests = set()
    for seed, step in ((1, 0), (2, 0), (1, 1)):
        net = classifier("sgd")
        net.run(X[:BATCH], LABELS[:BATCH], seed=seed, step=step, optimizer=_core.Optimizer("sgd"))
        digests.add(net.digest())
    assert len(digests) == 3


PREDICTORS = {
    "narrow": (37, [dense(50), activation("relu"), dense(33), activation("gelu"), dense(10),
                    activation("softmax")]),
    "wide": (200, [dense(131), activation("silu"), dense(1), activation("sigmoid")]),
    "one": (7, [dense(1)]),
}  # fmt: skip


@pytest.mark.parametrize("which", PREDICTORS)
def test_a_row_predicts_the_same_bits_in_any_batch(level, always_thread, which):
    d_in, layers = PREDICTORS[which]
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1000, d_in)).astype(np.float32)
    x[rng.random(x.shape) < 0.4] = 0
    x[::7] *= rng.random(d_in) < 0.1  # rows with few values: a batch of one skips the zeros
    x[::5] = -x[::5]  # -0.0
    x[3] = 0
    nets = {m: Net(d_in, layers, mode="predict", max_rows=m) for m in (1, 64, 70, 1000)}
    weights = start_weights(nets[1], rng)
    weights[-1][...] = -0.0
    for net in nets.values():
        net.set_weights(weights)
    alone = nets[1].predict(x)
    assert len({row.tobytes() for row in alone}) > 800
    for batch in range(1, 71):
        rows = (rng.integers(1000) + np.arange(batch)) % 1000
        for net in (nets[70], nets[1000]):
            y = net.predict(x[rows], threads=1 + batch % 3)
            assert y.tobytes() == alone[rows].tobytes(), f"{batch} rows, planned {net.max_rows}"
    order = rng.permutation(1000).astype(np.int64)
    for max_rows, threads in itertools.product((1, 64, 1000), (1, 2)):
        y = nets[max_rows].predict(x, order=order, rows=1000, threads=threads)
        assert y.tobytes() == alone[order].tobytes()
    assert nets[1000].predict(x.astype(np.float64)).tobytes() == alone.tobytes()


def test_infinite_weights_tell_no_batch_apart(level):
    """A batch of one skips zero inputs only while no weight is infinite: 0 * inf is NaN."""
    x = np.zeros((9, 40), np.float32)
    x[:, 7] = 1
    for bad in (np.inf, -np.inf, np.nan):
        net = Net(40, [dense(33)], mode="predict", max_rows=9)
        w = [np.ones((40, 33)), np.zeros(33)]
        w[0][20, 5] = bad
        net.set_weights(w)
        batch, alone = net.predict(x), net.predict(x, batch=1)
        np.testing.assert_array_equal(batch, alone)
        assert np.isnan(batch[:, 5]).all()
        assert np.isfinite(np.delete(batch, 5, axis=1)).all()


def test_levels_agree_to_rounding():
    """Training at each level ends near the others; only rounding tells them apart."""
    ends, before = [], _core.simd_level()
    try:
        for level in _core.simd_levels():
            assert _core.choose_simd(level)
            net = classifier("sgd")
            assert net.plan.describe()["simd"] == level
            train(net, "sgd")
            ends.append(net.weights())
    finally:
        _core.choose_simd(before)
    for end in ends[1:]:
        for a, b in zip(ends[0], end, strict=True):
            assert_within(a, b, 1e-4)


# ----------------------------------------------------------------------------- the right numbers


@pytest.mark.parametrize("gemm", ["tiles", "sgemm"])
@pytest.mark.parametrize("update", ["fused", "flat"])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_ten_steps_reproduce_the_losses_of_the_reference(level, name, update, gemm):
    rng = np.random.default_rng(8)
    layers = [dense(31), activation("gelu"), dense(130), activation("tanh"), dense(CLASSES)]
    net = Net(131, layers, loss="cross_entropy", classes=True, weighted=(), max_rows=9,
              update=update, gemm=gemm)  # fmt: skip
    start = start_weights(net, rng)
    net.set_weights(start)
    net.need(name)
    x, t = X[:90].astype(np.float64), LABELS[:90]
    w = single(rng.random(90) * (rng.random(90) < 0.8))
    batches = [(x[i : i + 9], t[i : i + 9], w[i : i + 9]) for i in range(0, 90, 9)]
    rule = {"momentum": "sgd"}.get(name, name)
    _, want = ref.train(start, ["gelu", "tanh", "softmax"], "cross_entropy", rule, batches,
                        learning_rate=0.02, **NUMBERS[name])  # fmt: skip
    optimizer = _core.Optimizer(name, **NUMBERS[name])
    got = []
    for step in range(10):
        result = net.run(X[:90], t, w.astype(np.float32), first=9 * step, rows=9, batch=9,
                         step=step, optimizer=optimizer, rate=0.02,
                         threads=1 + step % 3)  # fmt: skip
        got.append(result.last_loss)
        assert result.loss == pytest.approx(result.last_loss * result.weight, rel=1e-6)
    assert abs(want[0] - want[-1]) > 0.05
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_evaluation_is_the_loss_without_training(level):
    """Sums over minibatches of any size; dropout and weights do not move."""
    rng = np.random.default_rng(5)
    net = Net(131, [dense(20), activation("tanh"), dense(CLASSES)], mode="evaluate",
              loss="cross_entropy", classes=True, max_rows=100)  # fmt: skip
    weights = start_weights(net, rng)
    net.set_weights(weights)
    before = net.digest()
    want, _ = ref.gradients(weights, ["tanh", "softmax"], "cross_entropy", X.astype(float), LABELS)
    for batch, threads in ((1, 1), (7, 2), (100, 3)):
        result = net.run(X, LABELS, batch=batch, threads=threads)
        assert result.loss / result.weight == pytest.approx(want, rel=1e-5)
    assert net.digest() == before


def test_a_rate_for_each_step(level):
    """Step i is taken with rates[i]; a rate of zero leaves the weights."""
    net = classifier("sgd")
    net.run(X, LABELS, rows=2 * BATCH, batch=BATCH, optimizer=_core.Optimizer("sgd"), rate=[0.1, 0])
    once = classifier("sgd")
    once.run(X, LABELS, rows=BATCH, batch=BATCH, optimizer=_core.Optimizer("sgd"), rate=[0.1])
    assert net.digest() == once.digest()


# ----------------------------------------------------------------------------- inputs


@pytest.fixture
def regression():
    """x (50, 9), t (50, 3) float32, and a network for them."""
    rng = np.random.default_rng(6)
    x, t = rng.standard_normal((50, 9)).astype(np.float32), rng.random((50, 3)).astype(np.float32)
    net = Net(9, [dense(17), activation("relu"), dense(3)], loss="mse", max_rows=8)
    net.set_weights(start_weights(net, rng))
    return x, t, net


def fit(net, x, t, **options):
    return net.run(x, t, batch=8, optimizer=_core.Optimizer("sgd"), rate=0.1, **options)


def test_inputs_are_never_changed_and_may_be_read_only(level, regression):
    x, t, net = regression
    before = x.tobytes(), t.tobytes()
    x.flags.writeable = t.flags.writeable = False
    order = np.arange(50)[::-1].astype(np.int64)
    order.flags.writeable = False
    assert fit(net, x, t, order=order, threads=2).status == "ok"
    predictor = Net(9, [activation("relu"), ("rescale", {"scale": 3})], mode="predict", max_rows=8,
                    source={"scale": 2, "offset": 1})  # fmt: skip
    assert np.array_equal(predictor.predict(x), 3 * np.maximum(2 * x + 1, 0))
    assert (x.tobytes(), t.tobytes()) == before


def test_activations_in_place_spare_a_source_read_in_place(level):
    """A predicted float32 source is used where it lies; no op may write there."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((20, 16)).astype(np.float32)
    before = x.copy()
    layers = [[dense(16), activation("relu")], [activation("tanh"), dense(16)],
              [("rescale", {"scale": 2}), activation("relu")], []]  # fmt: skip
    for chain in layers:
        net = Net(16, chain, mode="predict", max_rows=20)
        net.set_weights([np.ones(s) for s in net.param_shapes])
        net.predict(x)
        assert np.array_equal(x, before)


def test_sources_however_they_lie_give_the_same_bits(level, regression, tmp_path):
    """Memory maps, rows apart, odd addresses, float64: used in place or converted."""
    x, t, net = regression
    start = net.weights()
    fit(net, x, t)
    want = net.digest()
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    stored[:] = x
    stored.flush()
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    spread = np.full((100, 30), np.nan, np.float32)
    spread[::2, :9] = x
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    odd[:] = x
    for source in (mapped, spread[::2, :9], odd, x.astype(np.float64), x):
        net.set_weights(start)
        fit(net, source, t)
        assert net.digest() == want


def raw_run(net, *sources, **options):
    return _core.run(net.plan, net.params, net.work, sources, **options)


def test_sources_that_cannot_be_read(regression):
    x, t, net = regression
    optimizer = _core.Optimizer("sgd")
    call = {"n_rows": 8, "batch_size": 8, "optimizer": optimizer, "rates": np.ones(1)}
    before = net.digest()
    for bad, error, message in (
        (np.asfortranarray(x), ValueError, "contiguous"),
        (x[:, ::2], ValueError, "contiguous"),
        (x[::-1], ValueError, "ascending"),
        (x[:5], ValueError, "5 rows, 8 are wanted"),
        (x.astype(np.float16), TypeError, "'e' cannot be read"),
        (x.astype(complex), TypeError, "cannot be read"),
        (x.astype(">f4"), TypeError, "cannot be read"),
        (x.tolist(), TypeError, "not 'list'"),
    ):
        with pytest.raises(error, match=message):
            raw_run(net, bad, t, **call)
    for change, message in (
        ({"batch_size": 9}, "do not fit"),
        ({"batch_size": 0}, "do not fit|batches of 0"),
        ({"n_rows": -1}, "do not fit"),
        ({"first": -1}, "do not fit"),
        ({"rates": None}, "do not fit"),
        ({"optimizer": None}, "do not fit"),
        ({"n_rows": 17}, "1 learning rates for 17 rows"),
        ({"order": np.arange(7)}, "order has 7 rows, 8 are wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            raw_run(net, x, t, **(call | change))
    with pytest.raises(ValueError, match="do not fit"):
        raw_run(net, x, **call)
    assert net.digest() == before


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("always_thread")
def test_a_value_that_is_not_finite_is_found(level, regression, value, dtype, threads):
    x, t, net = regression
    x = x.astype(dtype)
    before = net.digest()
    x[5, 8] = x[7, 2] = x[30, 1] = value
    result = fit(net, x, t, threads=threads)
    assert result.status == "input"
    assert (result.bad_source, result.bad_row, result.bad_column) == (0, 5, 8)
    assert net.digest() == before  # it is in the first minibatch
    order = np.roll(np.arange(50), -6).astype(np.int64)
    result = fit(net, x, t, order=order, threads=threads)
    assert (result.bad_row, result.bad_column) == (7, 2)
    x[5, 8] = x[7, 2] = 0
    result = fit(net, x, t, threads=threads)
    assert (result.status, result.bad_row, result.bad_column) == ("input", 30, 1)
    x[30, 1], t[49, 0] = 0, np.nan
    result = fit(net, x, t, threads=threads)
    assert (result.bad_source, result.bad_row, result.bad_column) == (1, 49, 0)
    t[49, 0] = 0
    assert fit(net, x, t, threads=threads).status == "ok"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("update", ["fused", "flat"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])  # read where they lie, or a step ahead
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.usefixtures("always_thread")
def test_bad_input_ends_the_run_between_two_steps(level, batch, dtype, update, threads):
    rng = np.random.default_rng(6)
    x, t = rng.standard_normal((50, 9)).astype(dtype), rng.random((50, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.5] = 0  # with a batch of one, rows of weights are made up for
    x[30, 1] = np.nan
    good = 30 // batch * batch
    net = Net(9, [dense(17), activation("relu"), dense(3)], loss="mse", max_rows=batch,
              update=update)  # fmt: skip
    start = start_weights(net, rng)
    ends = []
    for rows in (50, good):
        net.set_weights(start)
        net.need("momentum")
        optimizer = _core.Optimizer("momentum", momentum=0.9)
        result = net.run(x, t, rows=rows, batch=batch, optimizer=optimizer, threads=threads)
        assert result.steps == good // batch
        ends.append((net.digest(), result.status))
    assert ends == [(ends[1][0], "input"), (ends[1][0], "ok")]


def test_a_value_that_is_not_finite_is_found_while_predicting(level):
    x = np.zeros((40, 33), np.float32)
    x[21, 32] = np.inf
    net = Net(33, [dense(3)], mode="predict", max_rows=7)
    net.set_weights([np.ones(s) for s in net.param_shapes])
    for threads in (1, 2):
        result = net.run(x, output=np.empty((40, 3), np.float32), threads=threads)
        assert (result.status, result.bad_row, result.bad_column) == ("input", 21, 32)
    assert net.run(x[:21], output=np.empty((21, 3), np.float32)).status == "ok"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("always_thread")
def test_divergence_keeps_the_weights_from_before_the_step(level, regression, threads):
    x, t, net = regression
    start = net.weights()
    result = net.run(x, t, batch=8, optimizer=_core.Optimizer("sgd"), rate=1e12, threads=threads)
    assert result.status == "diverged"
    assert 1 <= result.steps < 7
    bad = net.digest()
    net.set_weights(start)
    again = net.run(x, t, rows=8 * result.steps, batch=8, optimizer=_core.Optimizer("sgd"),
                    rate=1e12, threads=threads)  # fmt: skip
    assert (again.status, again.steps) == ("ok", result.steps)
    assert net.digest() == bad
    assert net.params.nonfinite() == -1


def test_nonfinite_names_the_parameter(level, regression):
    net = regression[2]
    assert net.params.nonfinite() == -1
    for i in reversed(range(4)):
        values = net.weights()
        values[i].flat[-1] = np.inf if i % 2 else np.nan
        net.set_weights(values)
        assert net.params.nonfinite() == i


# ----------------------------------------------------------------------------- plans


def test_a_plan_lists_its_ops_and_buffers(level):
    layers = [dense(7), activation("relu"), ("dropout", {"rate": 0.25}), dense((5, 4), bias=False)]
    net = Net(
        (2, 3), layers, loss=("huber", {"delta": 2.0}), metrics=[("squared", {})], max_rows=10
    )
    ops = net.plan.ops()
    names = ["input", "dense", "activation", "dropout", "dense", "input", "loss", "metric"]
    assert [op["name"] for op in ops] == names
    assert [op["layer"] for op in ops] == [-1, 0, 1, 2, 3, -1, -1, -1]
    assert [op["inputs"] for op in ops] == [[], [0], [1], [2], [3], [], [4, 5], [4, 5]]
    assert [op["outputs"] for op in ops] == [[0], [1], [2], [3], [4], [5], [6], []]
    assert [op["params"] for op in ops] == [[], [0, 1], [], [], [2], [], [], []]
    assert ops[2]["attributes"]["function"] == _core.table("activation").index("relu")
    assert ops[3]["attributes"] == {"rate": 0.25}
    assert ops[5]["attributes"]["source"] == 1
    assert ops[6]["attributes"]["delta"] == 2.0
    assert ops[1]["flops"] == 2 * 6 * 7
    buffers = net.plan.buffers()
    shapes = [(2, 3), (7,), (7,), (7,), (5, 4), (5, 4), ()]
    assert [b["shape"] for b in buffers] == shapes
    assert {b["dtype"] for b in buffers} == {"f"}
    described = net.plan.describe()
    assert described["param_count"] == 6 * 7 + 7 + 7 * 20
    assert described["param_bytes"] >= 4 * described["param_count"]
    assert (described["n_ops"], described["n_buffers"], described["n_params"]) == (8, 7, 3)
    assert described["n_metrics"] == 1
    assert described["n_phases"] == len(net.plan.schedule().splitlines())
    assert described["flops"] >= 2 * (2 * 6 * 7) + 3 * (2 * 7 * 20)
    assert described["simd"] == level


def test_buffers_lie_apart_in_the_arena(level):
    """Rows are long enough, aligned, inside the arena; buffers are apart or one."""
    for mode in ("train", "evaluate"):
        net = classifier("sgd") if mode == "train" else Net(
            131, [dense(130), activation("relu"), dense(CLASSES)], mode=mode, loss="cross_entropy",
            classes=True, max_rows=BATCH)  # fmt: skip
        arena, spans = net.plan.describe()["arena_bytes"], {}
        for buffer in [b for b in net.plan.buffers() if b["memory"] == "arena"]:
            assert buffer["row_bytes"] >= 4 * math.prod(buffer["shape"])
            assert buffer["offset"] % 64 == 0
            spans.setdefault(buffer["offset"], BATCH * buffer["row_bytes"])
            assert buffer["offset"] + BATCH * buffer["row_bytes"] <= arena
        ends = 0
        for offset, size in sorted(spans.items()):
            assert offset >= ends
            ends = offset + size


def test_schedule_names_every_pass(level):
    text = classifier("sgd").plan.schedule()
    lines = text.splitlines()
    assert lines[0].startswith("phase 0 (once): [")
    for part in ("input 0 forward", "dense 1 forward", "loss 9 forward", "dense 7 backward",
                 "dense 1 update", "metric 10 finish", "ahead: input 0 forward"):  # fmt: skip
        assert part in text, part
    assert "dense 1 backward" not in text  # nobody wants the gradient of the input
    flat = classifier("sgd", update="flat").plan.schedule()
    assert " norm]" in flat
    assert " apply]" in flat
    assert "prepare" in classifier("sgd", gemm="sgemm").plan.schedule()
    assert "(stop)" in Net(3, [dense(2)], loss="stop").plan.schedule()


def build(*steps):
    """A plan from (method, arguments...) steps; the last is finish()."""
    plan = _core.Plan("train", 4)
    for method, *arguments in steps:
        keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        getattr(plan, method)(*arguments, **keywords)
    plan.finish()


X4 = (("buffer", (4,)), ("op", "input", [], [0]))
BAD_PLANS = [
    ([("op", "dens")], "unknown op 'dens'"),
    ([*X4, ("buffer", (4,)), ("op", "activation", [0], [1], {"function": "rely"})], "'rely'"),
    ([*X4, ("buffer", (4,)), ("op", "activation", [0], [1], {"functoin": "relu"})], "functoin"),
    ([*X4, ("buffer", (4,)), ("op", "activation", [0], [1], {"function": 3})], "no number"),
    ([*X4, ("buffer", (4,)), ("op", "dropout", [0], [1], {"rate": "high"})], "no name"),
    ([*X4, ("buffer", (4,)), ("op", "dropout", [0], [1], {"rate": 1.0})], r"not in \[0, 1\)"),
    ([*X4, ("buffer", (4,)), ("op", "dropout", [0], [1], {"rate": float("nan")})], r"\[0, 1\)"),
    ([*X4, ("op", "softmax", [0], [7])], "cannot write buffer 7"),
    ([*X4, ("op", "softmax", [7], [])], "cannot take buffer 7"),
    ([*X4, ("op", "softmax", [-1], [])], "cannot take buffer -1"),
    ([*X4, ("op", "input", [], [0])], "written by two ops"),
    ([*X4, ("op", "softmax", [0, 0], [])], "as input 1"),
    ([*X4, ("op", "softmax", [0], [])], "1 inputs and 0 outputs"),
    ([*X4, ("buffer", (5,)), ("op", "softmax", [0], [1])], "input and output differ"),
    ([*X4, ("buffer", (5,)), ("buffer", (5,)), ("op", "softmax", [1], [2])], "it is written"),
    ([*X4, ("buffer", (5,)), ("op", "dense", [0], [1])], "kernel is wanted"),
    ([*X4, ("buffer", (5,)), ("param", (5, 4), True), ("op", "dense", [0], [1], [0])],
     "not .d_in, units"),
    ([*X4, ("buffer", (5,)), ("param", (4, 5), True), ("param", (4,), False),
      ("op", "dense", [0], [1], [0, 1])], "bias's shape"),
    ([*X4, ("param", (4, 4), True), ("buffer", (4,)),
      ("op", "dense", [0], [1], [0, 0])], "uses parameter 0 twice"),
    ([*X4, ("buffer", (3,)), ("op", "input", [], [1]), ("buffer", ()),
      ("op", "loss", [0, 1], [2], {"kind": "mse"})], "targets do not fit"),
    ([*X4, ("buffer", (), "i"), ("op", "input", [], [1]), ("buffer", ()),
      ("op", "loss", [0, 1], [2], {"kind": "mse"})], "targets do not fit"),
    ([*X4, ("buffer", (3,)), ("op", "input", [], [1]),
      ("op", "metric", [0, 1], {"kind": "squared"})], "do not fit the metric"),
    ([("buffer", (4,)), ("op", "input", [], [0], {"source": 32})], "no such source"),
    ([("buffer", (4, -1))], "needs 1 to"),
    ([("buffer", (2**20, 2**20))], "needs 1 to"),
    ([("buffer", (1,) * 7)], "at most 6 axes"),
    ([("param", (0,), True)], "needs 1 to"),
    ([("param", (), True)], "1 to 6 axes"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "message"), BAD_PLANS, ids=[message for _, message in BAD_PLANS])
def test_a_plan_that_makes_no_sense(steps, message):
    with pytest.raises(ValueError, match=message):
        build(*steps)


def test_arguments_of_plans_and_names():
    for rows, lanes in ((0, 1), (-3, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1 row and 1 lane"):
            _core.Plan("train", rows, lanes=lanes)
    with pytest.raises(KeyError):
        _core.Plan("fit", 3)
    with pytest.raises(ValueError, match="unknown optimizer 'adem'"):
        _core.Optimizer("adem")
    assert _core.optimizer_slots("adem") == -1
    assert not _core.choose_simd("v9")
    with pytest.raises(ValueError, match="multiple of 16"):
        _core.vmath("exp", np.zeros(15, np.float32), np.zeros(15, np.float32))


def test_parts_that_do_not_belong_together(regression):
    x, t, net = regression
    other = Net(9, [dense(16), activation("relu"), dense(3)], loss="mse", max_rows=8)
    optimizer = _core.Optimizer("sgd")
    call = {"n_rows": 8, "batch_size": 8, "optimizer": optimizer, "rates": np.ones(1)}
    with pytest.raises(ValueError, match="do not fit"):
        _core.run(net.plan, other.params, net.work, [x, t], **call)
    with pytest.raises(ValueError, match="do not fit"):
        _core.run(net.plan, net.params, other.work, [x, t], **call)
    with pytest.raises(ValueError, match="do not fit"):  # slots are missing
        call_adam = call | {"optimizer": _core.Optimizer("adam")}
        _core.run(net.plan, net.params, net.work, [x, t], **call_adam)
    before = _core.simd_level()
    others = [level for level in _core.simd_levels() if level != before]
    if others:
        _core.choose_simd(others[0])
        try:
            low = Net(9, [dense(17), activation("relu"), dense(3)], loss="mse", max_rows=8)
        finally:
            _core.choose_simd(before)
        with pytest.raises(ValueError, match="do not fit"):  # packed for other vectors
            _core.run(low.plan, net.params, low.work, [x, t], **call)
    for index, part in ((4, 0), (-1, 0), (0, 1), (0, 4)):
        with pytest.raises(ValueError, match="no such parameter"):
            net.params.get(index, np.zeros(9 * 17, np.float32), part)


def test_params_serve_every_plan_of_a_network(level, regression):
    """Trained by one plan, predicted by others of any size; copied for a snapshot."""
    x, t, net = regression
    fit(net, x, t)
    layers = [dense(17), activation("relu"), dense(3)]
    for max_rows in (1, 50):
        predictor = Net(9, layers, mode="predict", max_rows=max_rows)
        own = predictor.predict(x)
        predictor.params = net.params
        shared = predictor.predict(x)
        assert not np.array_equal(own, shared)
        copy = Net(9, layers, mode="predict", max_rows=max_rows)
        copy.params.copy_weights(net.params)
        assert np.array_equal(copy.predict(x), shared)
        assert copy.params.nbytes >= 4 * (9 * 17 + 17 + 17 * 3 + 3)


# ----------------------------------------------------------------------------- memory


def everything(name="adam"):
    net = Net(20, [dense(30), activation("relu"), *[dense(9), activation("tanh")] * 9, dense(3)],
              loss="mse", update="flat", max_rows=8)  # fmt: skip
    net.need(name)
    net.set_weights(start_weights(net, np.random.default_rng(0)))
    return net


def test_an_allocation_that_fails_is_a_memory_error():
    """Each one in turn, from the plan to the slots; afterwards everything works."""
    rng = np.random.default_rng(1)
    x, t = rng.random((8, 20)).astype(np.float32), rng.random((8, 3)).astype(np.float32)
    call = {"optimizer": _core.Optimizer("adam", **NUMBERS["adam"]), "rate": 0.01, "threads": 2}

    def trained():
        net = everything()
        assert net.run(x, t, **call).status == "ok"
        return net.digest()

    start = _core.fail_allocation(-1)
    want = trained()
    needed = _core.fail_allocation(-1) - start
    assert needed > 20
    for i in range(needed):
        _core.fail_allocation(i)
        with pytest.raises(MemoryError):
            trained()
        if i % 5 == 0:
            _core.fail_allocation(-1)
            assert trained() == want
    _core.fail_allocation(needed)  # one more than are made
    assert trained() == want


def test_running_allocates_nothing(level):
    net = everything()
    x, t = np.ones((100, 20), np.float32), np.ones((100, 3), np.float32)
    before = _core.fail_allocation(-1)
    net.run(x, t, batch=8, optimizer=_core.Optimizer("adam", **NUMBERS["adam"]), threads=2)
    assert _core.fail_allocation(-1) == before


def test_sizes_beyond_memory():
    plan = _core.Plan("train", 2**31 - 1)
    source = plan.buffer((2**29,))
    plan.op("input", [], [source])
    with pytest.raises((ValueError, MemoryError)):
        _core.Work(plan.finish())


# ----------------------------------------------------------------------------- threads


def test_every_thread_runs_tiles(level, always_thread):
    for threads in (2, 3, 8):
        _core.threads_seen(reset=True)
        for _ in range(100):  # on a busy machine one may come too late for a while
            net = classifier("sgd")
            assert train(net, "sgd", threads=threads).threads == threads
            if len(_core.threads_seen()) == threads:
                break
        assert _core.threads_seen() == list(range(threads))


def test_number_of_threads(monkeypatch, regression):
    x, t, net = regression
    monkeypatch.delenv("FASTNET_ALWAYS_THREAD", raising=False)
    cpus, why = _core.cpus_available()
    assert 1 <= _core.get_threads() <= cpus
    assert why in ("CPU affinity", "cgroup CPU quota")
    _core.set_threads(5)
    assert _core.get_threads() == 5
    assert fit(net, x, t).threads == 1  # far too little for a second thread
    monkeypatch.setenv("FASTNET_ALWAYS_THREAD", "1")
    assert fit(net, x, t).threads == 5
    assert fit(net, x, t, threads=2).threads == 2
    _core.set_threads(0)
    assert 1 <= _core.get_threads() <= cpus
    few = Net(9, [dense(3)], mode="predict", max_rows=8)
    few.set_weights([np.ones(s) for s in few.param_shapes])
    few.work = _core.Work(few.plan, 2)
    result = few.run(x, output=np.empty((50, 3), np.float32), threads=8)
    assert result.threads == 2  # the work has memory for two


def in_threads(count, call):
    """call(i) on `count` Python threads at once; the first error is raised."""
    errors, barrier = [], threading.Barrier(count)

    def body(i):
        try:
            barrier.wait()
            call(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_eight_python_threads_predict_as_one(level):
    """10,000 predictions each, of one row or three, sharing the parameters."""
    rng = np.random.default_rng(9)
    net = Net(16, [dense(24), activation("relu"), dense(4)], mode="predict", max_rows=3)
    net.set_weights(start_weights(net, rng))
    x = rng.standard_normal((250, 16)).astype(np.float32)
    want = net.predict(x)
    repeats = 10_000 // 125

    def predict(i):
        work, size = _core.Work(net.plan, 2), 2 - i % 2
        output = np.empty((size, 4), np.float32)
        for _ in range(repeats):
            for row in range(0, 250, 2):
                _core.run(net.plan, net.params, work, [x], n_rows=size, first=row, batch_size=3,
                          output=output)  # fmt: skip
                assert output.tobytes() == want[row : row + size].tobytes()

    in_threads(8, predict)


def test_training_and_predicting_at_once(level, always_thread):
    """Four Python threads train networks of their own with two threads each, four predict."""
    want = classifier("momentum")
    train(want, "momentum", steps=60, threads=1)
    layers = [dense(20), activation("relu"), dense(CLASSES)]
    predictor = Net(131, layers, mode="predict", max_rows=64)
    predictor.set_weights(start_weights(predictor, np.random.default_rng(1)))
    predictions = predictor.predict(X)

    def body(i):
        if i % 2:
            net = classifier("momentum")
            train(net, "momentum", steps=60, threads=2)
            assert net.digest() == want.digest()
        else:
            output, work = np.empty_like(predictions), _core.Work(predictor.plan)
            for _ in range(20):
                _core.run(predictor.plan, predictor.params, work, [X], n_rows=600, batch_size=64,
                          output=output, threads=2)  # fmt: skip
                assert output.tobytes() == predictions.tobytes()

    in_threads(8, body)


def test_two_python_threads_train_the_same_params_in_turn(level):
    """A training call holds the parameters alone; predictions in between see whole steps."""
    net = Net(4, [dense(3, bias=False)], loss="mse", max_rows=2)
    net.set_weights([np.zeros((4, 3))])
    x, t = np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32)
    predictor = Net(4, [dense(3, bias=False)], mode="predict", max_rows=2)
    predictor.params = net.params
    optimizer = _core.Optimizer("sgd", weight_decay=1.0)
    net.set_weights([np.full((4, 3), 2.0)])
    seen = set()

    def body(i):
        work = _core.Work(net.plan if i < 2 else predictor.plan)
        output = np.empty((2, 3), np.float32)
        for _ in range(500):
            if i < 2:
                _core.run(net.plan, net.params, work, [x, t], n_rows=2, batch_size=2,
                          optimizer=optimizer, rates=np.full(1, 1e-3))  # fmt: skip
            else:
                _core.run(predictor.plan, net.params, work, [x], n_rows=2, batch_size=2,
                          output=output)  # fmt: skip
                seen.add(len(np.unique(output)))

    in_threads(4, body)
    serial = Net(4, [dense(3, bias=False)], loss="mse", max_rows=2)
    serial.set_weights([np.full((4, 3), 2.0)])
    for _ in range(1000):
        serial.run(x, t, optimizer=optimizer, rate=1e-3)
    assert net.digest() == serial.digest()
    assert seen == {1}


FORKS = """
    import os, signal, sys, threading
    import numpy as np
    from engine import Net, activation, dense, start_weights
    from fastnet import _core

    rng = np.random.default_rng(0)
    x, t = rng.random((256, 64)).astype(np.float32), rng.random((256, 8)).astype(np.float32)

    def trained(threads):
        net = Net(64, [dense(300), activation("tanh"), dense(8)], loss="mse", max_rows=32)
        net.set_weights(start_weights(net, np.random.default_rng(1)))
        result = net.run(x, t, batch=32, optimizer=_core.Optimizer("sgd"), threads=threads)
        assert result.status == "ok"
        return net.digest(), result.threads

    os.environ["FASTNET_ALWAYS_THREAD"] = "1"
    want, threads = trained(2)
    assert threads == 2
    done = threading.Event()

    def keep_training():
        while not done.is_set():
            assert trained(2)[0] == want

    other = threading.Thread(target=keep_training)
    for i in range(100):
        if i == 50:
            other.start()  # the second half forks in the middle of a parallel region
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # the end of a child that hangs
            try:
                os._exit(0 if trained(2) == (want, 1) and _core.get_threads() == 1 else 3)
            finally:
                os._exit(4)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"fork {i} ended with status {status}"
    done.set()
    other.join()
    assert trained(2) == (want, 2)
    print("all well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_hundred_forks_after_a_fit():
    """Children train with one thread, to the same bits, even when forked in a parallel region."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    script = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c"]
    done = subprocess.run([*script, textwrap.dedent(FORKS)], env={**os.environ, "PYTHONPATH": path},
                          timeout=180, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all well"


# ----------------------------------------------------------------------------- floating point

DENORMAL = np.float32(1e-40)


def test_denormals_are_flushed_inside_and_kept_outside(level, always_thread):
    tiny = np.full((4, 16), DENORMAL)
    net = Net(16, [dense(16, bias=False)], mode="predict", max_rows=1)
    net.set_weights([np.eye(16)])
    for threads in (1, 2, 3):
        assert not net.predict(tiny, threads=threads).any()
        assert tiny.all()
        assert (tiny * np.float32(0.5)).all()  # NumPy after us: still not zero
        assert np.float32(DENORMAL) * np.float32(0.5) > 0


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="reads MXCSR through glibc"
)
@pytest.mark.parametrize("mode", [0x1F80, 0x1F80 | 0x8040, 0x1F80 | 0x6000, 0x1F80 | 0x0040])
def test_the_callers_floating_point_state_is_restored(level, always_thread, mode):
    """Default, FTZ and DAZ, rounding to zero, DAZ alone: left as they were found."""
    libm = ctypes.CDLL("libm.so.6")
    net = Net(16, [dense(16)], mode="predict", max_rows=2)
    net.set_weights([np.eye(16), np.zeros(16)])
    x, output = np.ones((4, 16), np.float32), np.empty((4, 16), np.float32)
    saved, changed, after = ((ctypes.c_uint32 * 8)() for _ in range(3))
    assert libm.fegetenv(saved) == 0
    for threads in (1, 2):
        changed[:] = saved[:]
        changed[7] = mode  # MXCSR is the last of glibc's fenv_t
        libm.fesetenv(changed)
        try:
            result = net.run(x, output=output, threads=threads)
            libm.fegetenv(after)
        finally:
            libm.fesetenv(saved)
        assert result.status == "ok"
        assert after[7] & 0xFFC0 == mode & 0xFFC0  # all but the sticky flags


# ----------------------------------------------------------------------------- functions and orders

#: Truth in float64, and the bound that csrc/kernels/vmath.h states, in ULP.
FUNCTIONS = {
    "exp": (np.exp, 1.04),
    "tanh": (np.tanh, 1.36),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 1.75),
    "erf": (np.vectorize(math.erf, otypes=[float]), 1.10),
    "log": (np.log, 0.86),
    "log1p": (np.log1p, 1.45),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), 1.80),
}
LEAST = 2.0**-126  # what is smaller may be taken for zero


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_of_functions_in_ulp(level, name):
    """A sample; every float is gone through by tests/c/test_vmath.c."""
    truth, bound = FUNCTIONS[name]
    rng = np.random.default_rng(10)
    x = np.concatenate([
        rng.integers(2**32, size=2**15, dtype=np.uint32).view(np.float32),
        rng.uniform(-20, 20, 2**15).astype(np.float32),
        rng.uniform(-1, 1, 2**15).astype(np.float32),
    ])  # fmt: skip
    x = x[np.isfinite(x) & (np.abs(x) >= LEAST)]
    x = x[: len(x) // 16 * 16]
    y = np.empty_like(x)
    _core.vmath(name, x, y)
    with np.errstate(all="ignore"):
        want = truth(x.astype(np.float64))
        nearest = want.astype(np.float32)
    assert np.array_equal(np.isnan(y), np.isnan(nearest))
    assert np.array_equal(y[np.isinf(nearest)], nearest[np.isinf(nearest)])
    normal = np.isfinite(nearest) & (np.abs(want) >= LEAST)
    assert normal.sum() > 10_000
    ulp = np.spacing(np.abs(nearest[normal])).astype(np.float64)
    assert (np.abs(y[normal] - want[normal]) / ulp).max() <= bound
    small = np.isfinite(nearest) & ~normal
    assert (np.abs(y[small] - want[small]) <= LEAST).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values_of_functions(level, name):
    x = np.zeros(16, np.float32)
    x[:6] = np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0
    y = np.empty_like(x)
    _core.vmath(name, x, y)
    nan, inf = np.nan, np.inf
    want = {
        "exp": [nan, inf, 0, 1, 1], "tanh": [nan, 1, -1, 0, -0.0], "erf": [nan, 1, -1, 0, -0.0],
        "sigmoid": [nan, 1, 0, 0.5, 0.5], "log": [nan, inf, nan, -inf, -inf],
        "log1p": [nan, inf, nan, 0, -0.0], "softplus": [nan, inf, 0, math.log(2), math.log(2)],
    }[name]  # fmt: skip
    np.testing.assert_allclose(y[:5], want, rtol=2e-7)
    assert np.array_equal(np.signbit(y[3:5]), np.signbit(want[3:5]))


def test_shuffle_is_a_permutation_that_seed_and_epoch_decide():
    orders = {}
    for n in (0, 1, 2, 7, 1000):
        for key in ((1, 0), (1, 1), (2, 0), (2**64 - 1, 2**40)):
            order = np.full(n, -1, np.int64)
            _core.shuffle(*key, order)
            assert np.array_equal(np.sort(order), np.arange(n))
            again = np.zeros(n, np.int64)
            _core.shuffle(*key, again)
            assert np.array_equal(order, again)
            orders[n, key] = order.tobytes()
    assert len({bits for (n, _), bits in orders.items() if n == 1000}) == 4


def test_shuffle_is_even():
    """Each row comes to each place equally often: chi squared of 30 x 30 counts."""
    n, epochs = 30, 6000
    counts, order = np.zeros((n, n)), np.empty(n, np.int64)
    for epoch in range(epochs):
        _core.shuffle(12, epoch, order)
        counts[np.arange(n), order] += 1
    chi = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


def test_machine():
    levels = _core.simd_levels()
    assert levels[0] == "base"
    assert _core.simd_level() in levels
    configuration, core = _core.blas_info()
    assert configuration.startswith("OpenBLAS")
    assert core
    assert _core.fma_peak(0.001) > 0.1
