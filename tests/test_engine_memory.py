"""Plans for pictures: chains, lanes, memory; parameters that several ops share."""

import numpy as np
import pytest
from engine import Net, U, activation, assert_within, dense, single, start_weights

from fastnet import _core

pytestmark = pytest.mark.usefixtures("always_thread")
THREADS = (1, 2, 3, 8)


def chain(units=4, mode="train", max_rows=64, size=28, **options):
    """Two convolutions of `size` x `size` pictures, a pool between them, a dense layer behind."""
    plan = _core.Plan(mode, max_rows, **options)
    x, target, loss = plan.buffer((size, size, 1)), plan.buffer((), "i"), plan.buffer(())
    plan.op("input", [], [x], source=0)
    params, channels, side = [], 1, size
    for filters in (16, 32):
        params += [plan.param((3, 3, channels, filters), True), plan.param((filters,), False)]
        y = plan.buffer((side, side, filters))
        plan.op("conv2d", [x], [y], params[-2:], top=1, left=1)
        z = plan.buffer((side, side, filters))
        plan.op("activation", [y], [z], function="relu")
        side //= 2
        x, channels = plan.buffer((side, side, filters)), filters
        plan.op("max_pool", [z], [x], pool_h=2, pool_w=2, stride_h=2, stride_w=2)
    params += [plan.param((side * side * channels, units), True)]
    y = plan.buffer((units,))
    plan.op("dense", [x], [y], params[-1:])
    if mode == "predict":
        plan.op("output", [y])
    else:
        plan.op("input", [], [target], source=1)
        plan.op("loss", [y, target], [loss], kind="cross_entropy")
    return plan.finish()


def where(plan):
    return [buffer["memory"] for buffer in plan.buffers()]


def test_what_stays_in_a_tile(level):
    """Everything between input and loss: the arena does not hold activations of the minibatch."""
    plan = chain()
    text = plan.schedule()
    assert "rows together" in text
    assert text.count("lanes") == 1
    assert where(plan).count("tile") == 5  # the update reads the input of the dense layer
    shape = sum(4 * np.prod(b["shape"]) for b in plan.buffers() if b["memory"] == "tile")
    assert plan.describe()["arena_bytes"] < 64 * shape / 2
    double = chain(max_rows=128).describe()
    assert double["thread_bytes"] == plan.describe()["thread_bytes"]


def test_a_wide_layer_breaks_the_chain(level):
    """Its weights would be read again for every picture: the activations travel instead."""
    text = chain(units=512).schedule()
    assert "dense 7 forward" in text
    assert not any("conv2d 1 forward" in line and "dense 7" in line for line in text.splitlines())
    joined = chain(units=10).schedule()
    assert any("conv2d 1 forward" in line and "dense 7" in line for line in joined.splitlines())


def test_prediction_shares_memory(level):
    """A thread's tiles grow up to eight register tiles: fewer than 2048 rows. What the dense layer
    reads, 7 x 7 x 32, is all that may lie in the arena: where it is a phase of its own."""
    few, many = (chain(mode="predict", max_rows=n).describe() for n in (2048, 8192))
    assert few["thread_bytes"] == many["thread_bytes"] < 600_000
    assert many["arena_bytes"] < 8192 * 4 * (7 * 7 * 32 + 32)


def test_arena_is_reused_where_phases_do_not_meet(level):
    """A deep dense network in prediction order of phases needs no buffer for each layer."""

    def arena(depth):
        layers = [dense(256), activation("relu")] * depth
        net = Net(256, layers, loss="mse", max_rows=64, gemm="sgemm")
        copies = depth * 256 * 256 * 4  # row-major weights for sgemm
        return net.plan.describe()["arena_bytes"] - copies

    rows = 64 * 256 * 4
    assert arena(12) - arena(6) < 6 * 3 * rows  # an activation and less than two gradients each


# ----------------------------------------------------------------------------- shared parameters


def shared_net(update="fused", max_rows=8, lanes=1):
    """y = tanh(tanh(x w + b) w + b): one layer called twice; then the unit matrix apart."""
    net = Net(5, [], loss=None, max_rows=max_rows, update=update, lanes=lanes, finish=False)
    plan, x = net.plan, net.buffers[0]
    w, b = net._param((5, 5), True), net._param((5,), False)
    for _ in range(2):
        y, z = plan.buffer((5,)), plan.buffer((5,))
        plan.op("dense", [x], [y], [w, b])
        plan.op("activation", [y], [z], function="tanh")
        x = z
        net.buffers += [y, z]
    net.loss = plan.buffer(())
    plan.op("loss", [x, 1], [net.loss], kind="mse")
    net.finish()
    return net


def reference_gradients(x, t, w, b):
    h = np.tanh(x @ w + b)
    y = np.tanh(h @ w + b)
    dz = 2 * (y - t) / t.size * (1 - y * y)
    dh = dz @ w.T * (1 - h * h)
    return x.T @ dh + h.T @ dz, dh.sum(0) + dz.sum(0)


@pytest.mark.parametrize("lanes", [1, 3])
def test_gradients_of_a_shared_layer_are_added(level, lanes):
    rng = np.random.default_rng(1)
    x, t = single(rng.standard_normal((8, 5))), single(rng.standard_normal((8, 5)))
    net = shared_net("none", lanes=lanes)
    start = start_weights(net, rng)
    net.set_weights(start)
    first = None
    for threads in THREADS:
        assert net.run(x.astype(np.float32), t.astype(np.float32), threads=threads).status == "ok"
        got = net.gradients()
        first = first or got
        for g, f in zip(got, first, strict=True):
            assert g.tobytes() == f.tobytes()
    for g, want in zip(first, reference_gradients(x, t, *start), strict=True):
        assert np.abs(want).max() > 1e-3
        assert_within(g, want, 256 * U)


@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_shared_parameters_fused_and_flat_give_the_same_bits(level, name, batch):
    rng = np.random.default_rng(2)
    x, t = (rng.standard_normal((24, 5)).astype(np.float32) for _ in range(2))
    numbers = {"momentum": 0.9} if name == "momentum" else {}
    numbers |= {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7} if name == "adam" else {}
    digests = set()
    for update in ("fused", "flat"):
        for threads in THREADS:
            net = shared_net(update, max_rows=batch)
            net.set_weights(start_weights(net, np.random.default_rng(3)))
            before = net.digest()
            net.need(name)
            result = net.run(x, t, batch=batch, optimizer=_core.Optimizer(name, **numbers),
                             rate=0.05, threads=threads)  # fmt: skip
            assert (result.status, result.steps) == ("ok", 24 // batch)
            assert net.digest() != before
            digests.add(net.digest())
    assert len(digests) == 1
