"""Whole networks of image layers: the same bits for any number of threads, gradients beside those
of a float64 twin, rows alone and in batches, files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import digest
from twin import Twin, assert_alike

import fastnet as fn
from fastnet import layers

THREADS = (1, 2, 3, 8)


def data(n, shape, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *shape)).astype(np.float32), rng.integers(0, classes, n)


def pools_and_norms():
    return [
        layers.Input((7, 5, 3)),
        layers.ZeroPadding2D(((1, 2), (0, 3))),
        layers.LayerNorm(),
        layers.SpatialDropout2D(0.25),
        layers.MaxPool2D(3, 2, "same"),
        layers.Activation("relu"),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.GroupNorm(3),
        layers.Activation("tanh"),
        layers.AvgPool2D((3, 2), 1, ((1, 0), (1, 0))),
        layers.Cropping2D(((0, 1), (1, 0))),
        layers.MaxPool2D(),
        layers.GroupNorm(1),
        layers.Flatten(),
        layers.Dense(9, activation="relu"),
        layers.LayerNorm(),
        layers.Dense(4, activation="softmax"),
    ]


def sequences():
    return [
        layers.Input((19, 6)),
        layers.GroupNorm(2),
        layers.MaxPool1D(3, 2, (1, 1)),
        layers.Activation("elu"),
        layers.SpatialDropout1D(0.25),
        layers.UpSampling1D(2),
        layers.LayerNorm(),
        layers.AvgPool1D(2, ceil_mode=True),
        layers.Cropping1D((1, 2)),
        layers.ZeroPadding1D(1),
        layers.GlobalAvgPool1D(),
        layers.Dense(4, activation="softmax"),
    ]


def lenet():
    return [
        layers.Input((12, 11, 1)),
        layers.Conv2D(8, 5, padding="same", activation="relu"),
        layers.MaxPool2D(),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPool2D(),
        layers.Flatten(),
        layers.Dense(11, activation="relu"),
        layers.Dense(4, activation="softmax"),
    ]


def convolutions():
    return [
        layers.Input((9, 7, 3)),
        layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
        layers.GroupNorm(2),
        layers.Activation("relu"),
        layers.SpatialDropout2D(0.2),
        layers.DepthwiseConv2D(3, padding="same", activation="tanh"),
        layers.Conv2DTranspose(5, 3, strides=2, activation="elu"),
        layers.LayerNorm(),
        layers.SeparableConv2D(8, (3, 2), activation="relu"),
        layers.AvgPool2D(2, padding="same"),
        layers.Conv2D(8, 3, groups=2, dilation_rate=2, padding="same", activation="relu"),
        layers.GlobalMaxPool2D(),
        layers.Dense(4, activation="softmax"),
    ]


def joined():
    """A dense layer of 20,480 weights that joins the chain of the pictures before it."""
    return [
        layers.Input((8, 8, 1)),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(10, activation="relu"),
        layers.Dense(4, activation="softmax"),
    ]


def batch_norms():
    return [
        layers.Input((9, 7, 3)),
        layers.Conv2D(8, 3, padding="same", use_bias=False),
        layers.BatchNorm(momentum=0.9),
        layers.Activation("relu"),
        layers.MaxPool2D(),
        layers.BatchNorm(center=False),
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.BatchNorm(scale=False),
        layers.Flatten(),
        layers.Dense(9, activation="relu"),
        layers.BatchNorm(),
        layers.Dense(4, activation="softmax"),
    ]


def residual():
    """A graph: two blocks with a way past them, and two branches side by side."""
    x = fn.Input((9, 7, 3))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    for _ in range(2):
        past = h
        h = layers.Conv2D(8, 3, padding="same", use_bias=False)(h)
        h = layers.Activation("relu")(layers.GroupNorm(4)(h))
        h = layers.BatchNorm()(layers.Conv2D(8, 3, padding="same", use_bias=False)(h))
        h = layers.Activation("relu")(layers.Add()([past, h]))
    wide = layers.Conv2D(5, 1, activation="relu")(layers.MaxPool2D(3, 1, "same")(h))
    h = layers.Concatenate()([layers.Conv2D(4, 5, padding="same")(h), wide])
    h = layers.GlobalAvgPool2D()(layers.MaxPool2D()(h))
    return fn.Model(x, layers.Dense(4, activation="softmax")(h), seed=3)


def chain(make):
    return lambda: fn.Sequential(make(), seed=3)


NETWORKS = {
    "pools and norms": chain(pools_and_norms),
    "sequences": chain(sequences),
    "lenet": chain(lenet),
    "convolutions": chain(convolutions),
    "joined": chain(joined),
    "batch norms": chain(batch_norms),
    "residual": residual,
}
networks = pytest.mark.parametrize("make", NETWORKS.values(), ids=list(NETWORKS))


def built(net):
    if not net.built:
        net.build()
    return net


@networks
@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.5}], ids=["fused", "flat"])
def test_same_bits_for_any_number_of_threads(level, always_thread, make, options):
    """Batches of 33 rows and a last one of 13; SGD with momentum keeps what rounding does."""
    first = None
    for threads in THREADS:
        net = built(make())
        optimizer = fn.optimizers.SGD(0.05, momentum=0.9, **options)
        trainer = fn.Trainer(net, loss="cross_entropy", optimizer=optimizer, metrics=["accuracy"])
        with fn.threads(threads):
            rows = data(79, net.input_shape)
            history = trainer.fit(*rows, batch_size=33, epochs=2, seed=5, progress=False)
        result = digest(net), history["loss"], history["accuracy"]
        first = first or result
        assert result == first, threads
    for before, after in zip(built(make()).get_weights(), net.get_weights(), strict=True):
        assert not np.array_equal(before, after)


def test_batches_of_one_behind_pictures(level):
    """Coasting rows, a chain and its memory: the bits of batches of one do not change."""
    nets = [built(chain(joined)()) for _ in range(2)]
    x, y = data(40, nets[0].input_shape)
    x *= np.random.default_rng(1).random(x.shape) < 0.3
    for threads, net in zip((1, 3), nets, strict=True):
        optimizer = fn.optimizers.SGD(0.01, momentum=0.9)
        with fn.threads(threads):
            fn.Trainer(net, optimizer=optimizer).fit(x, y, batch_size=1, epochs=2, seed=5)
    assert digest(nets[0]) == digest(nets[1])
    stepped = built(chain(joined)())
    trainer = fn.Trainer(stepped, optimizer=fn.optimizers.SGD(0.01, momentum=0.9))
    whole = fn.Trainer(built(chain(joined)()), optimizer=fn.optimizers.SGD(0.01, momentum=0.9))
    for i in range(len(x)):
        trainer.train_on_batch(x[i : i + 1], y[i : i + 1])
    whole.fit(x, y, batch_size=1, epochs=1, shuffle=False)
    assert digest(stepped) == digest(whole.network)


def without_dropout(net):
    for layer in net.layers:
        if layer.training_only:
            layer.rate = 0.0
    return net


@networks
def test_gradients_are_those_of_the_twin(level, make):
    net = without_dropout(built(make()))
    rng = np.random.default_rng(7)
    net.set_weights([w + 0.05 * rng.standard_normal(w.shape) for w in net.get_weights()])
    x, y = data(21, net.input_shape)
    twin = Twin(net)
    assert_alike(net.predict(x), twin.predict(x), 1e-4)
    got = fn.Trainer(net, loss="mse").gradients(x, np.eye(4)[y])
    _, want = twin.gradients(x, np.eye(4)[y], "mse")
    weights = [weight for layer in net.layers for weight in layer.weights()]
    for weight, a, b in zip(weights, got, want, strict=True):
        if weight.trainable:
            assert_alike(a, b, 1e-4, weight.name)
        else:
            assert not a.any()


@networks
def test_a_row_predicts_the_same_bits_alone_and_in_any_batch(level, make):
    net = built(make())
    x, _ = data(67, net.input_shape)
    whole = net.predict(x)
    for batch_size in (1, 2, 7, 64):
        for threads in (1, 3):
            with fn.threads(threads):
                assert net.predict(x, batch_size=batch_size).tobytes() == whole.tobytes()
    for i in (0, 5, 66):
        assert net.predict(x[i : i + 1]).tobytes() == whole[i : i + 1].tobytes()
    order = np.random.default_rng(1).permutation(67)
    assert net.predict(x[order]).tobytes() == whole[order].tobytes()


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_lanes_that_get_no_rows_hold_nothing(rows):
    """A last minibatch of few rows: what a full one left in a lane is no part of its gradient."""
    x, y = data(32 + rows, (7, 5, 3))

    def trainer():
        stack = [layers.Conv2D(6, 3, activation="tanh"), layers.Flatten(), layers.Dense(4)]
        net = fn.Sequential([layers.Input((7, 5, 3)), *stack], seed=0)
        return fn.Trainer(net, optimizer=fn.optimizers.SGD(0.1))

    together, apart = trainer(), trainer()
    together.fit(x, y, batch_size=32, shuffle=False)
    apart.train_on_batch(x[:32], y[:32])
    before = apart.network.get_weights()
    apart.train_on_batch(x[32:], y[32:])
    weights = zip(together.network.get_weights(), apart.network.get_weights(), before, strict=True)
    for one, other, old in weights:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        assert np.abs(other - old).max() > 1e-3


@networks
def test_two_fits_give_the_bits_of_one(make):
    results = []
    for epochs in ((2,), (1, 1)):
        net = built(make())
        trainer = fn.Trainer(net, loss="cross_entropy", optimizer="adam")
        for count in epochs:
            trainer.fit(*data(40, net.input_shape), epochs=count, seed=4, progress=False)
        results.append(digest(net))
    assert results[0] == results[1]


@networks
def test_trained_saved_loaded_and_trained_on(tmp_path, make):
    net = built(make())
    x, y = data(50, net.input_shape)
    fn.Trainer(net, loss="cross_entropy").fit(x, y, epochs=2, seed=1, progress=False)
    net.save(tmp_path / "net.safetensors")
    again = fn.load(tmp_path / "net.safetensors")
    assert [repr(a) for a in again.layers] == [repr(a) for a in net.layers]
    assert again.predict(x).tobytes() == net.predict(x).tobytes()
    for network in (net, again):
        fn.Trainer(network, loss="cross_entropy").fit(x, y, epochs=1, seed=2, progress=False)
    assert digest(net) == digest(again)


@networks
def test_summary(make, capsys):
    net = built(make())
    net.summary()
    text = capsys.readouterr().out
    assert f"{net.count_params():,}" in text
    for layer in net.layers:
        assert f"{layer.name} ({type(layer).__name__}" in text
        assert ", ".join(map(str, ("(n", *layer.output_shape))) + ")" in text


def test_random_networks():
    """A sample; tests/soak/random_networks.py does more of them."""
    script = Path(__file__).parent / "soak" / "random_networks.py"
    run = [sys.executable, str(script), "--count", "40", "--seed", "20000"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "40 networks" in done.stdout
