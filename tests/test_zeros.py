"""Rows that are mostly zero: their products are skipped, and nobody can tell from the results."""

import numpy as np
import pytest

import fastnet as fn
from fastnet import layers

WIDE = (99, 230)  # more weights than stay in cache: cut by columns, rows kept by columns
NARROW = (99, 90)  # a chain
ROWS = [1, 2, 5, 6, 7, 13, 33, 65, 131]


def pictures(rows, width, seed=0, density=0.2):
    """Rows (rows, width) with runs of zeros, whole columns and rows of zeros, and a few -0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width)).astype(np.float32)
    x *= np.repeat(rng.random((rows, width // 4 + 1)) < density, 4, axis=1)[:, :width]
    x[:, width // 3 : width // 2] = 0
    if rows > 2:
        x[rows // 2] = 0
    x[0, ::7] = -0.0
    return x


def trainer_of(width, units, **options):
    hidden = layers.Dense(units, activation="tanh")
    net = fn.Sequential([layers.Input(width), hidden, layers.Dense(3)], seed=1)
    optimizer = fn.optimizers.SGD(0.05, momentum=0.9)
    return fn.Trainer(net, loss="mse", optimizer=optimizer, **options)


def reference_gradients(weights, x, y):
    """Of mean squared error for dense, tanh, dense, in float64."""
    w1, b1, w2, b2 = (w.astype(np.float64) for w in weights)
    hidden = np.tanh(x @ w1 + b1)
    error = (hidden @ w2 + b2 - y) * 2 / y.size
    back = error @ w2.T * (1 - hidden**2)
    return [x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]


@pytest.mark.parametrize("width, units", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("rows", ROWS)
def test_gradients_are_those_of_the_reference(rows, width, units):
    x = pictures(rows, width)
    y = np.random.default_rng(3).normal(size=(rows, 3)).astype(np.float32)
    trainer = trainer_of(width, units)
    expected = reference_gradients(trainer.network.get_weights(), x.astype(np.float64), y)
    for mine, true in zip(trainer.gradients(x, y), expected, strict=True):
        scale = np.abs(true).max()
        assert scale > 1e-4
        np.testing.assert_allclose(mine, true, rtol=0, atol=3e-6 * max(scale, 1))


@pytest.mark.parametrize("width, units", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_predictions_do_not_depend_on_the_rows_beside(width, units, density):
    x = pictures(60, width, density=density)
    net = trainer_of(width, units).network
    together = net.predict(x)
    for r in range(0, 60, 7):
        assert net.predict(x[r : r + 1]).tobytes() == together[r : r + 1].tobytes()
    assert net.predict(x[3:20]).tobytes() == together[3:20].tobytes()


@pytest.mark.parametrize("rows", [6, 33, 131])
def test_same_bits_for_any_number_of_threads_and_either_update(rows):
    x, y = pictures(rows * 3, WIDE[0]), np.zeros((rows * 3, 3), np.float32)
    y[:, 1] = x.sum(1)
    seen = set()
    for threads in (1, 2, 3, 8):
        with fn.threads(threads):
            trainer = trainer_of(*WIDE)
            trainer.fit(x, y, batch_size=rows, epochs=2, progress=False)
            seen.add(b"".join(w.tobytes() for w in trainer.network.get_weights()))
    assert len(seen) == 1
    fused, flat = trainer_of(*WIDE), trainer_of(*WIDE)
    fused.train_on_batch(x[:rows], y[:rows])
    flat.apply_gradients(flat.gradients(x[:rows], y[:rows]))
    for one, other in zip(fused.network.get_weights(), flat.network.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 40, 98])
def test_bad_values_among_zeros_are_found(column, value):
    x = np.zeros((40, WIDE[0]), np.float32)
    x[23, column] = value
    with pytest.raises(ValueError, match=rf"row 23.*column {column}"):
        trainer_of(*WIDE).fit(x, np.zeros((40, 3)), batch_size=16, shuffle=False, progress=False)


def test_all_zero_rows_train_the_bias_only():
    trainer = trainer_of(*WIDE)
    before = trainer.network.get_weights()
    trainer.fit(np.zeros((64, WIDE[0]), np.float32), np.ones((64, 3)), progress=False)
    after = trainer.network.get_weights()
    assert after[0].tobytes() == before[0].tobytes()
    assert np.abs(after[3] - before[3]).min() > 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int8])
def test_converted_rows_are_looked_through_as_well(dtype):
    x = (np.abs(pictures(70, WIDE[0])) * 20).astype(dtype)
    y = np.random.default_rng(3).normal(size=(70, 3)).astype(np.float32)
    weights = []
    for rows in (x, x.astype(np.float32)):
        trainer = trainer_of(*WIDE)
        trainer.fit(rows, y, progress=False)
        weights.append(b"".join(w.tobytes() for w in trainer.network.get_weights()))
    assert weights[0] == weights[1]


OPTIMIZERS = {
    "sgd": fn.optimizers.SGD(0.003),
    "momentum": fn.optimizers.SGD(0.003, momentum=0.9),
    "short memory": fn.optimizers.SGD(0.003, momentum=1e-30),
    "nesterov": fn.optimizers.SGD(0.003, momentum=0.9, nesterov=True),
    "decay": fn.optimizers.SGD(0.003, momentum=0.9, weight_decay=1e-3),
    "l2": fn.optimizers.SGD(0.003, momentum=0.9, l2=1e-3),
    "clip": fn.optimizers.SGD(0.003, momentum=0.9, clipvalue=0.01),
    "schedule": fn.optimizers.SGD(lambda step: 0.01 / (1 + step), momentum=0.9),
    "warm-up": fn.optimizers.SGD(
        lambda step: 0.001 * min(step, 5), momentum=0.9, weight_decay=0.01
    ),
    "adam": fn.optimizers.Adam(0.01),
    "rmsprop": fn.optimizers.RMSprop(0.01, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("units", [200, 230, 99])
def test_rows_one_by_one_give_the_bits_of_an_optimizer_that_visits_every_weight(name, units):
    x = pictures(150, 99, density=0.1)
    y = np.random.default_rng(3).normal(size=(150, 3)).astype(np.float32)
    results = []
    for threads, flat in ((1, True), (1, False), (2, False), (3, False)):
        hidden = layers.Dense(units, activation="relu")
        net = fn.Sequential([layers.Input(99), hidden, layers.Dense(3)], seed=1)
        trainer = fn.Trainer(net, loss="mse", optimizer=OPTIMIZERS[name])
        with fn.threads(threads):
            if flat:
                for i in range(len(x)):
                    trainer.apply_gradients(trainer.gradients(x[i : i + 1], y[i : i + 1]))
            else:
                trainer.fit(x, y, batch_size=1, shuffle=False, progress=False)
        results.append(b"".join(w.tobytes() for w in net.get_weights()))
    assert len(set(results)) == 1
    assert np.isfinite(np.frombuffer(results[0], np.float32)).all()


def test_rows_that_wait_long_make_up_for_every_step():
    """One input is seen in the first step only: its momentum dies away over the others."""
    x = np.zeros((3000, 99), np.float32)
    x[:, 1] = 1
    x[0, 50] = 1
    y = np.ones((3000, 3), np.float32)
    net = fn.Sequential([layers.Input(99), layers.Dense(230), layers.Dense(3)], seed=1)
    trainer = fn.Trainer(net, loss="mse", optimizer=fn.optimizers.SGD(0.001, momentum=0.9))
    before = net.get_weights()[0]
    trainer.fit(x[:1], y[:1], batch_size=1, shuffle=False, progress=False)
    first = net.get_weights()[0][50] - before[50]
    trainer.fit(x[1:], y[1:], batch_size=1, shuffle=False, progress=False)
    total = net.get_weights()[0][50] - before[50]
    assert np.abs(first).min() > 1e-9
    np.testing.assert_allclose(total, first / (1 - 0.9), rtol=2e-3, atol=1e-7)
