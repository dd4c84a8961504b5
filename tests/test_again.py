"""Values that are made again on the way back instead of being kept: the same bits, less memory."""

import functools

import numpy as np
import pytest
from test_batch_norm import rows

import fastnet as fn
from fastnet import _core, layers
from fastnet.lowering import Request

THREADS = (1, 2, 3, 8)


@pytest.fixture
def again(monkeypatch):
    """A function that says what plans made from then on do: "never", "always" or "auto"."""
    plan = _core.Plan

    def choose(how):
        monkeypatch.setattr(_core, "Plan", functools.partial(plan, again=how))

    return choose


def conv(filters, **options):
    return [
        layers.Conv2D(filters, 3, padding="same", use_bias=False, **options),
        layers.BatchNorm(momentum=0.8),
    ]


def chain(*parts):
    def call(x):
        for part in parts:
            x = part(x)
        return x

    return call


def pictures(filters=32, size=28):
    """Convolutions with batch normalisation, relu behind each, pools between."""
    parts = [layers.Input((size, size, 1))]
    for i, n in enumerate((filters, filters, 2 * filters)):
        parts += [*conv(n), layers.Activation("relu")]
        parts += [layers.MaxPool2D(2)] * (i > 0)
    return fn.Sequential([*parts, layers.Flatten(), layers.Dense(4, "softmax")], seed=1)


def odd_rows():
    """Rows that end in part of a vector, pools that overlap, functions that read their input."""
    parts = [
        *[*conv(5), layers.Activation("gelu"), layers.AvgPool2D(3, strides=2)],
        *[*conv(3), layers.Activation("tanh"), layers.MaxPool2D(3, strides=1)],
        *[*conv(7), layers.BatchNorm(momentum=0.8), layers.Activation("silu")],
        *[layers.GlobalAvgPool2D(), layers.Dense(4, "softmax")],
    ]
    return fn.Sequential([layers.Input((11, 9, 2)), *parts], seed=1)


def residual():
    """Blocks whose sum the next block reads twice."""
    x = fn.Input((8, 8, 3))
    y = chain(*conv(16), layers.Activation("relu"))(x)
    for filters in (16, 16, 16, 32):
        z = chain(*conv(filters), layers.Activation("relu"), *conv(filters))(y)
        skip = y if filters == 16 else chain(*conv(filters))(y)
        y = layers.Activation("relu")(layers.Add()([skip, z]))
    y = chain(layers.GlobalAvgPool2D(), layers.Dense(4, "softmax"))(y)
    return fn.Model(x, y, seed=1)


def branches():
    """Everything else that may run again, and draws of random numbers among it."""
    x = fn.Input((8, 8, 3))
    y = chain(*conv(16), layers.Dropout(0.3), layers.Activation("leaky_relu"))(x)
    a = chain(layers.SpatialDropout2D(0.2), *conv(16), layers.Activation("sigmoid"))(y)
    b = chain(layers.MaxPool2D(2), *conv(16), layers.UpSampling2D(2))(y)
    c = layers.Average()([y, layers.Multiply()([a, b])])
    d = layers.Maximum()([layers.Subtract()([a, y]), c])
    e = layers.Concatenate()([layers.Rescale(0.5)(d), layers.ZeroPadding2D(0)(b), y])
    last = [layers.UpSampling2D(2, interpolation="bilinear"), *conv(4)]
    e = chain(*conv(8), layers.Activation("elu"), *last)(e)
    return fn.Model(x, chain(layers.GlobalAvgPool2D(), layers.Dense(4, "softmax"))(e), seed=1)


def numbers():
    """Dense layers: what their update reads has to stay."""
    parts = [layers.Input(131)]
    for n in (140, 60, 23):
        parts += [layers.Dense(n, use_bias=False), layers.BatchNorm(momentum=0.8)]
        parts += [layers.Activation("relu"), layers.Dropout(0.2)]
    return fn.Sequential([*parts, layers.Dense(4, "softmax")], seed=1)


NETWORKS = {f.__name__: f for f in (pictures, odd_rows, residual, branches, numbers)}


def built(name, *size):
    net = NETWORKS[name](*size)
    net.build()
    return net


def small(name):
    return built(name, 6, 9) if name == "pictures" else built(name)


def plan_of(net, n, **options):
    loss = (fn.losses.CategoricalCrossentropy(),)
    return net._plan(Request("train", n, loss, classes=(True,), **options)).plan


def trained(net, threads, lanes=1, n=23, **options):
    x, y = rows(n, net.input_shape, seed=4)
    trainer = fn.Trainer(net, optimizer=fn.optimizers.Adam(0.003, **options), lanes=lanes)
    with fn.threads(threads):
        trainer.fit(x, y, batch_size=9, epochs=2, seed=3, progress=False)
    return b"".join(w.tobytes() for w in net.get_weights())


def squares(y_true, y_pred):
    d = y_pred - y_true
    return np.mean(d**2), 2 * d / d.size


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_bits(level, always_thread, again, name):
    again("never")
    net = small(name)
    start = b"".join(w.tobytes() for w in net.get_weights())
    assert "again" not in plan_of(net, 9).schedule()
    want = trained(net, 1)
    assert want != start
    again("always")
    assert "again" in plan_of(small(name), 9).schedule()
    assert {trained(small(name), threads) for threads in THREADS} == {want}


@pytest.mark.parametrize("options", [{"lanes": 3}, {"global_clipnorm": 0.01}], ids=lambda o: min(o))
def test_the_same_bits_however_gradients_are_summed(level, always_thread, again, options):
    digests = set()
    for how, threads in (("never", 1), ("always", 1), ("always", 3)):
        again(how)
        digests.add(trained(small("residual"), threads, **options))
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["pictures", "residual"])
def test_the_same_gradients(level, again, name):
    x, y = rows(12, small(name).input_shape)
    found = []
    for how in ("never", "always"):
        again(how)
        found.append(fn.Trainer(small(name)).gradients(x, y))
    for a, b in zip(*found, strict=True):
        assert np.abs(a).max() > 1e-6 or a.size < 40  # biases before a normalisation
        assert a.tobytes() == b.tobytes()


def test_what_crosses_phases_is_what_convolutions_give(level, again):
    """Of the activations; nothing else of the minibatch but pictures, and what an update reads."""
    again("always")
    plan = plan_of(built("pictures"), 64)
    kept = [b["shape"] for b in plan.buffers() if b["memory"] == "arena"]
    convolved = [(28, 28, 32), (28, 28, 32), (14, 14, 64)]
    assert sorted(kept, key=np.prod, reverse=True)[:5] == [*convolved, (7, 7, 64), (28, 28, 1)]


@pytest.mark.parametrize(("name", "most"), [("pictures", 0.51), ("residual", 0.7)])
def test_less_memory(level, again, name, most):
    sizes = []
    for how in ("never", "always"):
        again(how)
        sizes.append(plan_of(built(name), 512).describe())
    assert sizes[1]["arena_bytes"] < most * sizes[0]["arena_bytes"]
    assert sizes[1]["thread_bytes"] < 1.5 * sizes[0]["thread_bytes"]


def test_few_bytes_are_kept(level, always_thread):
    """By itself a plan makes values again where 32 MiB would have to wait: not for 32 rows."""
    net = built("pictures")
    assert "again" not in plan_of(net, 32).schedule()
    text = plan_of(net, 64).schedule()
    assert "again" in text
    with fn.threads(8):
        assert plan_of(built("pictures"), 64).schedule() == text


def test_an_allocation_that_fails_is_a_memory_error(again):
    """Each one in turn; afterwards the plan is what it would have been."""
    again("always")
    net = built("branches")

    def schedule():
        net._plans.clear()
        return plan_of(net, 9).schedule()

    start = _core.fail_allocation(-1)
    want = schedule()
    assert "again" in want
    needed = _core.fail_allocation(-1) - start
    for i in range(needed):
        _core.fail_allocation(i)
        with pytest.raises(MemoryError):
            schedule()
    _core.fail_allocation(needed)  # one more than are made
    assert schedule() == want


def test_the_same_bits_with_a_loss_in_python(level, always_thread, again):
    """The run stops between the chains forward and back."""
    digests = set()
    for how, threads in (("never", 1), ("always", 1), ("always", 3)):
        again(how)
        net = small("residual")
        x, y = rows(23, net.input_shape, seed=4)
        trainer = fn.Trainer(net, loss=squares, optimizer=fn.optimizers.Adam(0.003))
        with fn.threads(threads):
            trainer.fit(x, np.eye(4)[y], batch_size=9, epochs=2, seed=3, progress=False)
        (lowered,) = (p for r, p in net._plans.items() if r.mode == "train")
        assert ("again" in lowered.plan.schedule()) == (how == "always")
        digests.add(b"".join(w.tobytes() for w in net.get_weights()))
    assert len(digests) == 1
