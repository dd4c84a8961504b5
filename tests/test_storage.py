"""Model files: what is saved comes back bit by bit; every wrong file is one error that says why."""

import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from model_files import GOOD, put, same_bits, small, with_about

import fastnet as fn
from fastnet import callbacks, initializers, layers, storage
from fastnet.layers import core
from fastnet.layers.base import LAYERS

HERE = Path(__file__).parent
RNG = np.random.default_rng(5)


def pattern(shape, k):
    """Exact float32 values that depend on the place."""
    n = math.prod(shape)
    return (((np.arange(n) * 37 + 11 * k) % 101 - 50) / 64).astype(np.float32).reshape(shape)


# ---- round trips --------------------------------------------------------------------------------

NETWORKS = {
    "Input": [layers.Input((2, 3)), layers.Flatten(), layers.Dense(2)],
    "Dense": [layers.Dense(7), layers.Dense(1, use_bias=False, name="a.b c/ü")],
    "Activation": [layers.Dense(6), layers.Activation("softmax")],
    "ReLU": [layers.Dense(6), layers.ReLU(), layers.Dense(2)],
    "LeakyReLU": [layers.Dense(6), layers.LeakyReLU(), layers.LeakyReLU(0.0625), layers.Dense(2)],
    "Softmax": [layers.Dense(6), layers.Softmax()],
    "Dropout": [layers.Dense(5, "relu"), layers.Dropout(0.25), layers.Dropout(0), layers.Dense(2)],
    "Reshape": [layers.Dense(6), layers.Reshape((3, -1)), layers.Reshape(6), layers.Dense(2)],
    "Flatten": [layers.Dense(6), layers.Reshape((3, 2)), layers.Flatten(), layers.Dense(2)],
    "Rescale": [layers.Rescale(1 / 255, -0.5), layers.Dense(2), layers.Rescale(3)],
    "Normalization": [layers.Normalization(RNG.normal(size=6), RNG.random(6)), layers.Dense(2)],
    "Normalization of one number": [layers.Normalization(1.5, 4.0), layers.Dense(2)],
    **{f"activation {name}": [layers.Dense(6, name), layers.Dense(3)] for name in core.ACTIVATIONS},
    **{
        f"initializer {name}": [layers.Dense(6, kernel_initializer=name)]
        for name in initializers.names()
    },
    "initializer with arguments": [
        layers.Dense(
            6,
            kernel_initializer=initializers.RandomNormal(0.25, 1.5),
            bias_initializer=initializers.Constant(0.5),
        )
    ],
    "no weights": [layers.Flatten()],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(tmp_path, name):
    first = NETWORKS[name][0]
    shape = first.shape if isinstance(first, layers.Input) else (6,)
    network = fn.Sequential(NETWORKS[name], seed=3)
    network.build(shape)
    network.set_weights([pattern(w.shape, i) for i, w in enumerate(network.get_weights())])
    path = tmp_path / "net.safetensors"
    network.save(path)
    loaded = fn.load(path)
    assert type(loaded) is fn.Sequential and loaded.built
    assert (loaded.seed, loaded.name, loaded.input_shape, loaded.output_shape) == (
        network.seed,
        network.name,
        network.input_shape,
        network.output_shape,
    )
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in network.layers]
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in network.layers]
    for old, new in zip(network.layers, loaded.layers, strict=True):
        if not isinstance(old, layers.Normalization):
            assert new.config() == old.config()
    assert same_bits(network, loaded)
    x = RNG.normal(size=(9, *shape)).astype(np.float32)
    assert loaded.predict(x).tobytes() == network.predict(x).tobytes()
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_every_dense_layer_class_is_tried():
    assert {name for name, cls in LAYERS.items() if cls.__module__ == core.__name__} <= set(
        NETWORKS
    )


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_seed_and_name(tmp_path, seed):
    network = small(seed, name="Ziffern 'ü'\n{0}")
    network.save(tmp_path / "net")
    assert (fn.load(tmp_path / "net").seed, fn.load(tmp_path / "net").name) == (seed, network.name)


def test_extreme_values_keep_their_bits(tmp_path):
    network = small()
    tiny = np.array([-0.0, 1e-45, -3.4028235e38, 1.17549435e-38, 3.4028235e38], np.float32)
    weights = network.get_weights()
    weights[1] = tiny
    network.set_weights(weights)
    network.save(tmp_path / "net")
    assert fn.load(tmp_path / "net").get_weights()[1].tobytes() == tiny.tobytes()


def test_training_goes_on_after_loading(tmp_path):
    """Stop, save, load, continue: with an optimizer that has no state, the same bits."""
    x, y = RNG.normal(size=(32, 4)).astype(np.float32), RNG.integers(0, 3, 32)
    options = {"optimizer": "sgd", "shuffle": False, "progress": False}
    through, stopped = small(), small()
    through.fit(x, y, epochs=1, **options)
    stopped.fit(x, y, epochs=1, **options)
    stopped.save(tmp_path / "net")
    loaded = fn.load(tmp_path / "net")
    through.fit(x, y, epochs=2, **options)
    loaded.fit(x, y, epochs=2, **options)
    assert same_bits(through, loaded)
    assert not same_bits(stopped, loaded)


def test_model_checkpoint(tmp_path):
    x, y = RNG.normal(size=(32, 4)).astype(np.float32), RNG.integers(0, 3, 32)
    network, kept = small(), []
    keep = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(network.get_weights())
    )
    checkpoint = callbacks.ModelCheckpoint(tmp_path / "net-{epoch}.safetensors")
    network.fit(x, y, epochs=3, callbacks=[keep, checkpoint], progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"net-{i}.safetensors" for i in range(3)]
    for epoch, weights in enumerate(kept):
        loaded = fn.load(tmp_path / f"net-{epoch}.safetensors").get_weights()
        assert [w.tobytes() for w in loaded] == [w.tobytes() for w in weights]


def test_large_normalization(tmp_path):
    """Statistics are kept as weights, not as text."""
    n = 100_000
    mean, variance = RNG.normal(size=n), RNG.random(n) + 0.01
    network = fn.Sequential([layers.Normalization(mean, variance), layers.Dense(1)], seed=0)
    network.build(n)
    network.save(tmp_path / "net")
    loaded = fn.load(tmp_path / "net")
    x = RNG.normal(size=(1, n)).astype(np.float32)
    assert loaded.predict(x).tobytes() == network.predict(x).tobytes()
    np.testing.assert_allclose(loaded.layers[0].mean, mean, rtol=1e-6)
    np.testing.assert_allclose(loaded.layers[0].variance, variance, rtol=1e-6)
    assert (tmp_path / "net").stat().st_size < 3 * 4 * n + 5000


@pytest.mark.parametrize("inverse", [0.0, 2.0, 1e7, 1e-20])
def test_statistics_set_as_weights_survive(tmp_path, inverse):
    normalize = layers.Normalization([0.0, 1.0], [1.0, 4.0])
    network = fn.Sequential([layers.Input(2), normalize], seed=0)
    network.set_weights([np.array([5, 6.5]), np.array([inverse, 0.25])])
    network.save(tmp_path / "net")
    loaded = fn.load(tmp_path / "net")
    assert same_bits(network, loaded)
    np.testing.assert_array_equal(loaded.layers[1].mean, [5, 6.5])
    np.testing.assert_allclose(loaded.layers[1].variance[1], 16)
    loaded.refresh(loaded.layers[1])  # what the layer says of itself is what its weights say
    assert same_bits(network, loaded)


def test_safetensors_reads_our_files_and_we_read_its(tmp_path):
    numpy_side = pytest.importorskip("safetensors.numpy")
    from safetensors import safe_open

    network = small()
    network.save(tmp_path / "ours")
    tensors = numpy_side.load_file(tmp_path / "ours")
    names = ["dense.kernel", "dense.bias", "dense_1.kernel", "dense_1.bias"]
    assert list(map(bytes, map(np.ndarray.tobytes, (tensors[n] for n in names)))) == [
        w.tobytes() for w in network.get_weights()
    ]
    with safe_open(tmp_path / "ours", framework="np") as file:
        metadata = file.metadata()
    changed = {name: tensor + np.float32(1) for name, tensor in tensors.items()}
    numpy_side.save_file(changed, tmp_path / "theirs", metadata | {"note": "changed"})
    for mine, theirs in zip(
        network.get_weights(), fn.load(tmp_path / "theirs").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(theirs, mine + np.float32(1))


def test_golden_file_of_schema_1():
    """A file of the first version is read for ever; it was written by `write_golden` below."""
    path = HERE / "data" / "schema-1.safetensors"
    network = fn.load(path)
    assert (network.seed, network.name, network.input_shape) == (
        12345678901234567890,
        "golden",
        (2, 3),
    )
    weights = network.get_weights()
    shapes = [(6,), (6,), (6, 5), (5,), (5, 3)]
    assert [w.shape for w in weights] == shapes
    for i, (got, shape) in enumerate(zip(weights, shapes, strict=True)):
        assert got.tobytes() == pattern(shape, i).tobytes()
    described = [(type(layer).__name__, layer.name) for layer in network.layers]
    assert described == [
        ("Input", "input"),
        ("Rescale", "rescale"),
        ("Flatten", "flat"),
        ("Normalization", "normalization"),
        ("Dense", "hidden"),
        ("Dropout", "dropout"),
        ("Reshape", "reshape"),
        ("Flatten", "flatten"),
        ("Dense", "dense"),
        ("Activation", "activation"),
    ]
    assert network.layers[4].config() == {
        "units": 5,
        "activation": "relu",
        "kernel_initializer": {"name": "he_normal"},
    }
    assert storage.read_extra(path) == {"classes": ["zero", "one", "two"], "n": 3, "ü": None}
    x = ((np.arange(12).reshape(2, 2, 3) * 5) % 7).astype(np.float32)
    expected = [  # by NumPy in float64
        [0.5079149571825154, 0.3089494133912057, 0.18313562942627876],
        [0.6393953307159651, 0.2131938008904599, 0.1474108683935749],
    ]
    np.testing.assert_allclose(network.predict(x), expected, rtol=2e-6)


def write_golden(path):
    network = fn.Sequential(
        [
            layers.Input((2, 3)),
            layers.Rescale(0.5, 0.25),
            layers.Flatten(name="flat"),
            layers.Normalization(0, 1),
            layers.Dense(5, "relu", kernel_initializer="he_normal", name="hidden"),
            layers.Dropout(0.5),
            layers.Reshape((5, 1)),
            layers.Flatten(),
            layers.Dense(3, use_bias=False),
            layers.Activation("softmax"),
        ],
        seed=12345678901234567890,
        name="golden",
    )
    network.build()
    network.set_weights([pattern(w.shape, i) for i, w in enumerate(network.get_weights())])
    storage.save(network, path, extra={"classes": ["zero", "one", "two"], "n": 3, "ü": None})


# ---- extra and info -----------------------------------------------------------------------------


def test_extra_comes_back(tmp_path):
    extra = {
        "classes": ["cat", "döner \U0001f959"],
        "a": {"b": [1, 2.5, None, True]},
        "": "x" * 5000,
    }
    network = small()
    network.save(tmp_path / "net", extra=extra)
    assert storage.read_extra(tmp_path / "net") == extra
    network.save(tmp_path / "net")
    assert storage.read_extra(tmp_path / "net") == {}


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({1: "x"}, TypeError, "extra must have texts as keys"),
        ([1], TypeError, "extra must be a dict"),
        ("abc", TypeError, "extra must be a dict"),
        ({"x": object()}, TypeError, "extra must be a dict that JSON can hold"),
        ({"x": float("nan")}, TypeError, "extra must be a dict that JSON can hold"),
        ({"x": np.float32(1)}, TypeError, "extra must be a dict that JSON can hold"),
        ({"x": "y" * 2**20}, ValueError, "at most 1,048,576 are allowed"),
        ({"x": 10**50}, ValueError, "a number of 51 characters"),
        ({"x": json.loads("[" * 65 + "]" * 65)}, ValueError, "nested deeper than 64"),
    ],
)
def test_wrong_extra_is_refused_before_anything_is_written(tmp_path, extra, error, message):
    network = small()
    network.save(tmp_path / "net")
    before = (tmp_path / "net").read_bytes()
    with pytest.raises(error, match=message):
        network.save(tmp_path / "net", extra=extra)
    assert (tmp_path / "net").read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


def test_info(tmp_path):
    path = tmp_path / "net"
    small(name="mine").save(path, extra={"k": 1})
    got = storage.info(path)
    assert (got.path, got.size) == (str(path), path.stat().st_size)
    assert (got.schema, got.kind, got.written_by) == (1, "network", f"fastnet {fn.__version__}")
    assert got.description["class"] == "Sequential" and got.description["name"] == "mine"
    assert [layer["class"] for layer in got.description["layers"]] == ["Input", "Dense", "Dense"]
    assert got.shapes == {
        "dense.kernel": (4, 5),
        "dense.bias": (5,),
        "dense_1.kernel": (5, 3),
        "dense_1.bias": (3,),
    }
    assert list(got.shapes) == ["dense.kernel", "dense.bias", "dense_1.kernel", "dense_1.bias"]
    assert got.parameters == 20 + 5 + 15 + 3
    assert got.extra == {"k": 1}
    with pytest.raises(fn.ModelFileError, match="belongs to no layer"):
        storage.info(put(path, with_about(GOOD, lambda a: a["description"]["layers"].pop())))


# ---- what cannot be saved -----------------------------------------------------------------------


class Mine(layers.Dense):
    """A layer of a user."""


def own_dense():
    return type("Dense", (layers.Dense,), {})(3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: fn.Sequential([layers.Dense(3)]),
            ValueError,
            "save: the shape of rows is not known",
        ),
        (
            lambda: fn.Sequential([layers.Input(2), Mine(3)]),
            ValueError,
            "only hold layers of fastnet",
        ),
        (
            lambda: fn.Sequential([layers.Input(2), own_dense()]),
            ValueError,
            "only hold layers of fastnet",
        ),
        (
            lambda: fn.Sequential([layers.Input(2), layers.Dense(3)], name=5),
            ValueError,
            "name as str, not 5",
        ),
        (
            lambda: fn.Sequential([layers.Input(2), layers.Dense(3, name="x" * 2000)]),
            ValueError,
            "2,000 char",
        ),
        (
            lambda: fn.Sequential([layers.Input(2), layers.Dense(3, name="\ud800")]),
            ValueError,
            "cannot be saved",
        ),
        (
            lambda: fn.Sequential([layers.Input(2)] + [layers.Flatten() for _ in range(1000)]),
            ValueError,
            "1 to 1,000 layers",
        ),
        (lambda: "network", TypeError, "save wants a network or a k-means model, got 'network'"),
        (lambda: layers.Dense(3), TypeError, "save wants a network"),
    ],
)
def test_what_cannot_be_saved(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        storage.save(make(), tmp_path / "net")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    network = small()
    network.save(tmp_path / "net")
    before = (tmp_path / "net").read_bytes()
    spoiled = network.get_weights()[2]
    spoiled[1, 1] = value
    network.params.set(2, spoiled.reshape(-1))  # as only a fault in training could
    with pytest.raises(ValueError, match=r"cannot be saved: dense_1\.kernel holds NaN or infinity"):
        network.save(tmp_path / "net")
    assert (tmp_path / "net").read_bytes() == before


def test_a_network_that_begins_with_input_is_built_by_saving(tmp_path):
    network = fn.Sequential([layers.Input(3), layers.Dense(2)], seed=1)
    network.save(tmp_path / "net")
    assert same_bits(network, fn.load(tmp_path / "net"))


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_while_saving(tmp_path, monkeypatch, call):
    from fastnet import _safefile

    first = small()
    first.save(tmp_path / "net")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_safefile.os, call, full)
    with pytest.raises(OSError, match="No space left"):
        small(8).save(tmp_path / "net")
    monkeypatch.undo()
    assert same_bits(first, fn.load(tmp_path / "net"))
    assert os.listdir(tmp_path) == ["net"]


def test_saving_into_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        small().save(tmp_path / "no" / "net")


def test_savers_and_loaders_at_the_same_time(tmp_path):
    networks = [small(seed) for seed in range(3)]
    right = {(n.seed, *(w.tobytes() for w in n.get_weights())) for n in networks}
    path, errors = tmp_path / "net", []
    networks[0].save(path)

    def work(network):
        try:
            for _ in range(20):
                network.save(path)
                got = fn.load(path)
                assert (got.seed, *(w.tobytes() for w in got.get_weights())) in right
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == ["net"]
