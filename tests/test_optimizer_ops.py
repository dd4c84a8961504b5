"""Optimizers of the engine (float32) against tests/reference.py (float64)."""

import numpy as np
import pytest
import reference as ref
from engine import Net, U, activation, assert_within, dense, single, start_weights
from op_cases import THREADS, generator

from fastnet import _core

pytestmark = pytest.mark.usefixtures("always_thread")

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
