"""The networks that come trained with fastnet."""

import numpy as np
import pytest

import fastnet as fn
from fastnet import datasets, zoo
from fastnet.storage import read_extra


def test_names_and_files():
    assert zoo.names() == ["mnist-cnn"]
    for name in zoo.names():
        assert zoo.path(name).is_file()
        assert zoo.path(name).stat().st_size < 300_000
    with pytest.raises(ValueError, match="unknown network 'mnist-ccn'; did you mean 'mnist-cnn'"):
        zoo.load("mnist-ccn")


def test_mnist_cnn_is_right_on_99_3_percent_of_the_test_images(fastnet_data):
    if not list(fastnet_data.glob("mnist/*-ubyte*")):
        pytest.skip("FASTNET_DATA has no MNIST")
    (_, _), (x, y) = datasets.load_mnist(progress=False)
    net = zoo.load("mnist-cnn")
    accuracy = (net.predict_classes(x) == y).mean()
    assert accuracy >= 0.993
    extra = read_extra(zoo.path("mnist-cnn"))
    assert extra["training"]["results"]["test"]["accuracy"] == pytest.approx(accuracy, abs=2e-4)
    assert extra["classes"] == [str(k) for k in range(10)]


def test_each_load_is_a_network_of_its_own():
    one, other = zoo.load("mnist-cnn"), zoo.load("mnist-cnn")
    rows = np.zeros((2, 28, 28), np.uint8)
    before = other.predict(rows)
    one.set_weights([0 * w for w in one.get_weights()])
    assert np.array_equal(other.predict(rows), before)
    assert before.shape == (2, 10)
    np.testing.assert_allclose(before.sum(axis=1), 1, rtol=1e-5)


def test_it_can_be_trained_on():
    net = fn.zoo.load("mnist-cnn")
    x = np.random.default_rng(0).integers(0, 255, (40, 28, 28)).astype(np.uint8)
    trainer = fn.Trainer(net, optimizer=fn.optimizers.Adam(1e-3))
    trainer.fit(x, np.arange(40) % 10, epochs=2, progress=False)
    assert trainer.steps == 4
