"""Sparse matrices as x: the bits of the dense array, never changed, checked before any work."""

import itertools

import numpy as np
import pytest

import fastnet as fn
from fastnet import callbacks, layers, optimizers

sp = pytest.importorskip("scipy.sparse")

N, D, CLASSES = 83, 301, 5


def dense(n=N, d=D, density=0.04, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[rng.random(x.shape) > density] = 0
    x[3 % n] = 0  # a row without entries
    return x


def classes(n=N):
    return np.random.default_rng(1).integers(0, CLASSES, n)


def network(d=D, hidden=70, **options):
    return fn.Sequential(
        [
            layers.Input(d),
            layers.Dense(hidden, activation="relu"),
            layers.Dense(CLASSES, activation="softmax"),
        ],
        seed=3,
        **options,
    )


def bits(net):
    return b"".join(w.tobytes() for w in net.get_weights())


def trained(x, y=None, net=None, trainer=None, threads=1, **fit):
    net = network() if net is None else net
    options = {"optimizer": optimizers.SGD(0.1, momentum=0.9), "metrics": ["accuracy"]}
    trainer = fn.Trainer(net, **(options | (trainer or {})))
    with fn.threads(threads):
        history = trainer.fit(
            x, classes(x.shape[0]) if y is None else y, **({"batch_size": 16, "epochs": 2} | fit)
        )
    return bits(net), dict(history)


def with_indices(x, dtype):
    result = sp.csr_array(x)
    result.indices, result.indptr = result.indices.astype(dtype), result.indptr.astype(dtype)
    return result


FORMS = {
    "csr_matrix": sp.csr_matrix,
    "csr_array": sp.csr_array,
    "csc": sp.csc_array,
    "coo": sp.coo_matrix,
    "lil": sp.lil_array,
    "long_indices": lambda x: with_indices(x, np.int64),
    "double": lambda x: sp.csr_array(x.astype(np.float64)),
}


@pytest.mark.parametrize("form", FORMS)
def test_same_bits_as_dense(form):
    x = dense()
    assert trained(FORMS[form](x)) == trained(x)


@pytest.mark.parametrize("batch_size", [1, 16, "full"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_same_bits_for_any_number_of_threads(batch_size, optimizer, monkeypatch):
    x = dense()
    options = {"trainer": {"optimizer": optimizer}, "batch_size": batch_size}
    start, want = bits(network()), trained(x, **options)
    assert want[0] != start
    for threads in (1, 2, 3, 8):
        assert trained(sp.csr_array(x), threads=threads, **options) == want, threads


@pytest.mark.parametrize("density", [0.001, 0.2, 0.7])
def test_any_density(density):
    x = dense(density=density, seed=4)
    assert trained(sp.csr_array(x)) == trained(x)


FITS = {
    "validation_data": lambda f, x: {"validation_data": (f(x[:20]), classes(20))},
    "dense_validation": lambda f, x: {"validation_data": (x[:20], classes(20))},
    "validation_split": lambda f, x: {"validation_split": 0.3},
    "sample_weight": lambda f, x: {"sample_weight": np.arange(N) % 3},
    "class_weight": lambda f, x: {"class_weight": {0: 2.0, 3: 0.5}},
    "balanced": lambda f, x: {"class_weight": "balanced"},
    "in_order": lambda f, x: {"shuffle": False},
    "callbacks": lambda f, x: {"callbacks": [callbacks.EarlyStopping(monitor="loss")]},
    "batches": lambda f, x: {"callbacks": [callbacks.LambdaCallback(on_batch_end=lambda *_: None)]},
}


@pytest.mark.parametrize("kind", FITS)
def test_options_of_fit(kind):
    x = dense()
    options = FITS[kind]
    sparse = trained(sp.csr_matrix(x), **options(sp.csr_matrix, x))
    assert sparse == trained(x, **options(lambda a: a, x))


TRAINERS = {
    "clipped": {"optimizer": optimizers.SGD(0.1, global_clipnorm=0.5)},
    "mixup": {"mixup": 0.4},
    "lanes": {"lanes": 3},
    "sgemm": {"gemm": "sgemm"},
    "function": {"loss": lambda y, p: (float(((p - y) ** 2).mean()), 2 * (p - y) / p.size)},
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_options_of_trainers(kind):
    x = dense()
    options = {"metrics": ()} | TRAINERS[kind]
    assert trained(sp.csr_array(x), trainer=options) == trained(x, trainer=options)


FIRST = {
    "rescale": lambda: [layers.Rescale(0.25)],
    "offset": lambda: [layers.Rescale(0.25, offset=-1.0)],
    "dropout": lambda: [layers.Dropout(0.3)],
    "batch_norm": lambda: [layers.BatchNorm()],
    "activation": lambda: [layers.Activation("tanh")],
    "image": lambda: [layers.Reshape((7, 43, 1)), layers.Conv2D(3, 3), layers.Flatten()],
}


@pytest.mark.parametrize("kind", FIRST)
def test_any_first_layer(kind):
    def net():
        rest = [layers.Dense(20, activation="relu"), layers.Dense(CLASSES, activation="softmax")]
        return fn.Sequential([layers.Input(D), *FIRST[kind](), *rest], seed=3)

    x = dense()
    assert trained(sp.csr_array(x), net=net()) == trained(x, net=net())


def test_predict_evaluate_and_single_steps():
    x, y = dense(), classes()
    form = sp.csr_array(x)
    net = network()
    trainer = fn.Trainer(net, metrics=["accuracy"])
    assert net.predict(form).tobytes() == net.predict(x).tobytes()
    assert net.predict(form, batch_size=7).tobytes() == net.predict(x).tobytes()
    assert net.predict(form[[5]]).tobytes() == net.predict(x[5:6]).tobytes()
    np.testing.assert_array_equal(trainer.predict_classes(form), trainer.predict_classes(x))
    assert trainer.evaluate(form, y) == trainer.evaluate(x, y)
    for a, b in zip(trainer.gradients(form, y), trainer.gradients(x, y), strict=True):
        assert a.any()
        assert a.tobytes() == b.tobytes()
    other = network()
    assert trainer.train_on_batch(form, y) == fn.Trainer(
        other, metrics=["accuracy"]
    ).train_on_batch(x, y)
    assert bits(net) == bits(other)


def test_batches_may_be_sparse():
    x, y = dense(), classes()

    def batches(form):
        return [(form(x[i : i + 9]), y[i : i + 9]) for i in range(0, N, 9)]

    def fitted(batches):
        net = network()
        return dict(fn.Trainer(net).fit(batches, epochs=2, seed=1)), bits(net)

    empty = [(sp.csr_array((0, D)), y[:0])]
    assert fitted(batches(sp.csr_array) + empty) == fitted(batches(np.asarray))


def test_one_of_two_inputs():
    x, z = dense(), np.random.default_rng(5).normal(size=(N, 4)).astype(np.float32)

    def fitted(first):
        a, b = fn.Input(D, name="words"), fn.Input(4, name="numbers")
        both = layers.Concatenate()([layers.Dense(6, activation="relu")(a), b])
        net = fn.Model([a, b], layers.Dense(CLASSES, activation="softmax")(both), seed=0)
        fn.Trainer(net).fit({"words": first, "numbers": z}, classes(), seed=1)
        return bits(net), net.predict([first, z]).tobytes()

    assert fitted(sp.csr_array(x)) == fitted(x)


def test_few_rows():
    x = sp.csr_array(dense())
    net = network()
    assert net.predict(x[:0]).shape == (0, CLASSES)
    assert net.predict(x[:1]).shape == (1, CLASSES)
    nothing = sp.csr_array((4, D), dtype=np.float32)
    assert net.predict(nothing).tobytes() == net.predict(np.zeros((4, D), np.float32)).tobytes()
    fn.Trainer(net).fit(nothing, classes(4))
    with pytest.raises(ValueError, match="x has no rows"):
        fn.Trainer(net).fit(x[:0], classes(0))


def test_shape_is_inferred():
    net = fn.Sequential([layers.Dense(3, activation="softmax")])
    net.fit(sp.csr_array(dense(30, 11, 0.3)), classes(30) % 3)
    assert net.input_shape == (11,)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "float64", "longdouble"])
def test_dtypes(dtype):
    x = np.abs(dense() * 50).astype(dtype)
    assert trained(sp.csr_array(x)) == trained(x)


def test_large_doubles_become_infinite():
    x = dense().astype(np.float64)
    x[7, 9] = 1e300
    with pytest.raises(ValueError, match="x holds NaN or infinity in row 7, column 9"):
        trained(sp.csr_array(x))


def parts_of(matrix):
    return [matrix.data, matrix.indices, matrix.indptr]


def test_matrices_are_not_changed():
    x = dense()
    form = sp.csr_array(x)
    rng, order = np.random.default_rng(0), np.arange(form.nnz)
    for row in range(N):  # columns in any order
        rng.shuffle(order[form.indptr[row] : form.indptr[row + 1]])
    mixed = sp.csr_array((form.data[order], form.indices[order], form.indptr), shape=form.shape)
    before = [part.copy() for part in parts_of(mixed)]
    assert trained(mixed) == trained(x)
    for part, old in zip(parts_of(mixed), before, strict=True):
        np.testing.assert_array_equal(part, old)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_entries_that_come_twice_are_summed(dtype):
    rng = np.random.default_rng(2)
    rows, columns = rng.integers(0, N, 2000), rng.integers(0, 40, 2000)
    values = (rng.normal(size=2000) * 9).astype(dtype)
    order = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=N))])
    form = sp.csr_array((values[order], columns[order], indptr), shape=(N, D))
    assert not form.has_canonical_format
    before = [part.copy() for part in parts_of(form)]
    assert trained(form) == trained(form.toarray())
    for part, old in zip(parts_of(form), before, strict=True):
        np.testing.assert_array_equal(part, old)


def test_read_only_and_strided_parts():
    x = dense()
    want = trained(x)
    form = sp.csr_array(x)
    for part in parts_of(form):
        part.flags.writeable = False
    assert trained(form) == want
    for i in range(3):
        parts = parts_of(sp.csr_array(x))
        wide = np.repeat(parts[i], 2)[::2]
        assert not wide.flags.c_contiguous
        strided = sp.csr_array(x)
        setattr(strided, ("data", "indices", "indptr")[i], wide)
        assert trained(strided) == want


@pytest.mark.parametrize(
    ("part", "place", "value"),
    [
        ("indices", 5, D),
        ("indices", 5, -1),
        ("indices", -1, 2**31 - 1),
        ("indptr", 4, 10**6),
        ("indptr", 4, -2),
        ("indptr", 0, -1),
        ("indptr", N, 2**31 - 1),
    ],
)
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_damaged_indices(part, place, value, index):
    form = with_indices(dense(), index)
    getattr(form, part)[place] = value
    net = network()
    before = bits(net)
    for work in (net.predict, lambda x: fn.Trainer(net).fit(x, classes())):
        with pytest.raises(ValueError, match="x: indices or indptr of this CSR matrix lead"):
            work(form)
    assert bits(net) == before
    with pytest.raises(ValueError, match="lead outside"):
        fn.KMeans(3, n_init=1).fit(form)


def test_descending_indptr():
    form = sp.csr_array(dense())
    form.indptr[[10, 11]] = form.indptr[[11, 10]]
    with pytest.raises(ValueError, match="lead outside"):
        network().predict(form)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    x = dense()
    x[61, 200] = value
    for form, work in itertools.product((sp.csr_matrix(x), x), ("predict", "fit", "evaluate")):
        net = network()
        before, trainer = bits(net), fn.Trainer(net)
        arguments = (form,) if work == "predict" else (form, classes())
        with pytest.raises(ValueError, match="x holds NaN or infinity in row 61, column 200"):
            getattr(trainer, work)(*arguments)
        assert bits(net) == before


def test_divergence_names_the_layer():
    x = sp.csr_array(dense())
    x.data *= 1e25
    net = fn.Sequential([layers.Dense(3), layers.Dense(CLASSES)], seed=0)
    with pytest.raises(fn.DivergenceError, match="dense"):
        fn.Trainer(net, "mse", optimizer="sgd").fit(x, classes(), epochs=5)
    assert all(np.isfinite(w).all() for w in net.get_weights())


def test_messages():
    x = sp.csr_array(dense())
    net = network()
    with pytest.raises(ValueError, match=r"x is a sparse matrix of shape \(83, 300\).*\(301,\)"):
        net.predict(x[:, :300])
    image = fn.Sequential([layers.Input((7, 43)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"begin it with Input\(301\) and Reshape\(7, 43\)"):
        image.predict(x)
    with pytest.raises(TypeError, match=r"y is a sparse matrix; pass y.toarray\(\)"):
        fn.Trainer(net).fit(x, sp.csr_array(np.eye(CLASSES)[classes()]))
    with pytest.raises(ValueError, match="x has 83 rows and y has 82"):
        fn.Trainer(net).fit(x, classes(82))
    with pytest.raises(TypeError, match="real numbers, got a sparse matrix of complex"):
        net.predict(x.astype(np.complex64))
    with pytest.raises(ValueError, match="must have two axes"):
        net.predict(sp.coo_array(np.ones(D, np.float32)))


def test_nothing_is_made_dense():
    """A dense copy of these rows would take 400 GB."""
    n, d = 100_000, 1_000_000
    columns = np.arange(n, dtype=np.int32) * 7 % d
    x = sp.csr_array(
        (np.ones(n, np.float32), columns, np.arange(n + 1, dtype=np.int32)), shape=(n, d)
    )
    net = fn.Sequential([layers.Input(d), layers.Dense(1)], seed=0)
    y = net.predict(x[:2000])
    np.testing.assert_array_equal(y[:, 0], net.get_weights()[0][columns[:2000], 0])
