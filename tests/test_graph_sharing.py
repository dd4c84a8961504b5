"""Layers and networks that are parts of several networks: they share their weights."""

import sys
import threading

import numpy as np
import pytest
from graphs import check_gradients
from training import labels, rows

import fastnet as fn
from fastnet import layers

pytestmark = pytest.mark.usefixtures("always_thread")


def test_networks_share_layers():
    """An encoder is trained as a part of an autoencoder, and again the other way round."""
    x = fn.Input(5)
    code = layers.Dense(3, activation="tanh", name="code")(x)
    encoder = fn.Model(x, code, seed=1)
    auto = fn.Model(x, layers.Dense(5, name="back")(code), seed=2)
    first = encoder.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, auto.get_weights()[:2], strict=True))
    one = rows(1)
    before = encoder.predict(one)
    trainer = fn.Trainer(auto, "mse", fn.optimizers.SGD(0.5))
    trainer.fit(rows(), rows(), epochs=3)
    assert not np.array_equal(encoder.predict(one), before)  # before anything else asks
    assert all(
        np.array_equal(a, b)
        for a, b in zip(encoder.get_weights(), auto.get_weights()[:2], strict=True)
    )
    encoder.set_weights(first)
    assert np.array_equal(encoder.predict(one), before)
    assert np.array_equal(auto.get_weights()[0], first[0])
    del auto, trainer
    assert np.array_equal(encoder.predict(one), before)


def test_weights_outlive_the_network_that_trained_them():
    x = fn.Input(5)
    code = layers.Dense(3, name="code")(x)
    encoder = fn.Model(x, code, seed=1)
    encoder.build()

    def train():
        auto = fn.Model(x, layers.Dense(5)(code), seed=2)
        fn.Trainer(auto, "mse", fn.optimizers.SGD(0.5)).fit(rows(), rows())
        return auto.get_weights()[0]

    kernel = train()
    assert np.array_equal(encoder.get_weights()[0], kernel)


def test_threads_predict_with_networks_that_share_layers_while_one_trains():
    x = fn.Input(5)
    code = layers.Dense(4, activation="tanh")(x)
    encoder, auto = fn.Model(x, code, seed=1), fn.Model(x, layers.Dense(5)(code), seed=2)
    wrong = []

    def predict(net):
        for _ in range(300):
            if not np.isfinite(net.predict(rows(3))).all():
                wrong.append(net.name)

    threads = [threading.Thread(target=predict, args=(net,)) for net in (encoder, auto) * 2]
    for thread in threads:
        thread.start()
    trainer = fn.Trainer(auto, "mse", "adam")
    for _ in range(10):
        trainer.fit(rows(), rows(), epochs=3)
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(
        np.array_equal(a, b)
        for a, b in zip(encoder.get_weights(), auto.get_weights()[:2], strict=True)
    )


def test_a_prediction_has_all_of_another_networks_weights_or_none():
    """One thread gives a network new weights; two predict with another that shares all layers."""
    stack = [layers.Dense(16, activation="tanh") for _ in range(12)]
    value = given = fn.Input(5)
    for layer in stack:
        value = layer(value)
    first, second = fn.Model(given, value, seed=0), fn.Model(given, value, seed=1)
    rng, x = np.random.default_rng(3), rows(3)
    states = [[rng.normal(0, 0.3, w.shape) for w in first.get_weights()] for _ in range(2)]
    wanted = set()
    for state in states:
        first.set_weights(state)
        wanted.add(second.predict(x).tobytes())
    assert len(wanted) == 2
    done, seen = threading.Event(), []

    def predict():
        while not done.is_set():
            seen.append(second.predict(x).tobytes())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=predict) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(300):
            first.set_weights(states[i % 2])
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert set(seen) == wanted
    assert second.predict(x).tobytes() == first.predict(x).tobytes()


def test_nested_networks_share_their_weights():
    tower = fn.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(3)], name="tower")
    a, b = fn.Input(5, name="a"), fn.Input(5, name="b")
    net = fn.Model([a, b], layers.Dense(1)(tower(a) * tower(b)), seed=0)
    assert len(net.get_weights()) == 6
    xs, y = [rows(seed=1), rows(seed=2)], rows(37, 1, seed=3)
    check_gradients(net, xs, [y], ["mse"])
    fn.Trainer(net, "mse", fn.optimizers.SGD(0.2)).fit(xs, y, epochs=2)
    assert all(
        np.array_equal(p, q)
        for p, q in zip(tower.get_weights(), net.get_weights()[:4], strict=True)
    )
    p = tower.predict(xs[0]).astype(np.float64) * tower.predict(xs[1])
    kernel, bias = net.get_weights()[4:]
    np.testing.assert_allclose(net.predict(xs), p @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_nested_networks_with_several_outputs_of_which_one_is_used():
    x = fn.Input(5)
    h = layers.Dense(4, activation="tanh")(x)
    inner = fn.Model(
        x, [layers.Dense(2, name="p")(h), layers.Dense(3, name="q")(h), h], name="inner"
    )
    z = fn.Input(5)
    _, q, h = inner(z)
    net = fn.Model(z, layers.Dense(1)(layers.Concatenate()([q, h])), seed=0)
    y = rows(37, 1)
    before = inner.get_weights()
    fn.Trainer(net, "mse", fn.optimizers.SGD(0.1)).fit(rows(), y)
    after = inner.get_weights()
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, True, False, False, True, True]


def test_a_network_in_a_chain_ends_with_its_softmax():
    """The loss finds a softmax inside; the head is a model, the body a chain."""
    x = fn.Input(4)
    head = fn.Model(x, layers.Dense(3, activation="softmax")(x), name="head")
    net = fn.Sequential([layers.Dense(4, activation="tanh"), head], seed=0)
    net.build(5)
    check_gradients(net, [rows()], [labels()], ["cross_entropy"])
    with pytest.raises(ValueError, match="its layers are fixed"):
        body = fn.Sequential([layers.Dense(4)])
        body(fn.Input(5))
        body.add(layers.Dense(3))


def test_no_network_is_a_layer_of_itself_and_a_refused_one_stays_free():
    net, other = fn.Sequential([layers.Dense(3)], name="tower"), fn.Sequential([layers.Dense(4)])
    with pytest.raises(ValueError, match="tower cannot be a layer of itself"):
        net.add(net)
    net.add(layers.Dense(2))
    whole = fn.Sequential([net], name="whole")
    with pytest.raises(ValueError, match="its layers are fixed"):
        net.add(whole)
    with pytest.raises(ValueError, match="in the network already"):
        whole.add(net)
    whole.build(5)
    with pytest.raises(ValueError, match="is built"):
        whole.add(other)
    other.add(layers.Dense(1))
    assert (whole.output_shape, other.predict(rows()).shape) == ((2,), (37, 1))


def test_go_on_from_inside_a_network():
    """Feature extraction: outputs and layers of a network are symbolic values again."""
    net = fn.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(3)], seed=0)
    net.build(5)
    features = fn.Model(net.inputs, net.layers[0].output)
    longer = fn.Model(net.inputs, layers.Dense(2)(net.outputs[0]))
    fn.Trainer(longer, "mse", fn.optimizers.SGD(0.1)).fit(rows(), rows(37, 2))
    kernel, bias = (w.astype(np.float64) for w in net.get_weights()[:2])
    want = np.tanh(rows() @ kernel + bias)
    np.testing.assert_allclose(features.predict(rows()), want, rtol=1e-5, atol=1e-6)


def test_statistics_reach_all_networks_that_share_them():
    normalize = layers.Normalization()
    normalize.adapt(rows())
    x = fn.Input(5)
    y = normalize(x)
    nets = [fn.Model(x, y), fn.Model(x, y + x)]
    for net in nets:
        net.predict(rows())
    normalize.adapt(10 * rows())
    want = rows() / (10 * rows()).std(axis=0) - rows().mean(axis=0) / rows().std(axis=0)
    np.testing.assert_allclose(nets[0].predict(rows()), want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(nets[1].predict(rows()), want + rows(), rtol=1e-3, atol=1e-4)
