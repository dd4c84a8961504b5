"""The engine's promises: the same bits for any number of threads, any batch and any interruption;
the right numbers; floating point, functions and orders."""

import ctypes
import itertools
import math
import platform
import sys

import numpy as np
import pytest
import reference as ref
from course import (
    BATCH,
    CLASSES,
    LABELS,
    LIMITS,
    NUMBERS,
    ORDER,
    STEPS,
    THREADS,
    X,
    classifier,
    every_optimizer,
    train,
)
from engine import Net, activation, assert_within, dense, single, start_weights

from fastnet import _core

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
