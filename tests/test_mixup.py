"""Mixup: rows of a minibatch mixed in pairs, inputs, targets and weights alike."""

import math

import numpy as np
import pytest

import fastnet as fn
from fastnet import _core, datasets, layers, losses, optimizers

pytestmark = pytest.mark.usefixtures("always_thread")


def mixed(x, y, alpha, *, classes=0, batch=None, seed=0, step=0, threads=2, order=None):
    """What the input ops make of the first minibatch: x and y (one-hot where `classes`)."""
    n, columns = len(x), x.shape[1]
    batch = batch or n
    plan = _core.Plan("train", batch, update="none")
    a = plan.buffer((columns,))
    plan.op("input", [], [a], source=0, mixup=alpha)
    b = plan.buffer((classes or 1,))
    plan.op("input", [], [b], source=1, mixup=alpha, classes=classes)
    c = plan.buffer((columns + (classes or 1),))
    plan.op("concatenate", [a, b], [c])
    plan.op("stop", [c])
    plan.finish()
    params, work = _core.Params(plan), _core.Work(plan)
    params.need_gradient()
    result = _core.run(plan, params, work, [x, y], n_rows=batch, batch_size=batch, seed=seed,
                       step=step, threads=threads, order=order)  # fmt: skip
    assert result.status == "stopped"
    rows = np.frombuffer(work.rows(c, batch, columns + (classes or 1)), np.float32)
    rows = rows.reshape(batch, -1)
    return rows[:, :columns], rows[:, columns:]


def one_hot_rows(n):
    return np.eye(n, dtype=np.float32), np.arange(n, dtype=np.float32)[:, None]


def shares(alpha, n=400, **options):
    """Each row's share and its partner, read off rows that are unit vectors."""
    x, y = mixed(*one_hot_rows(n), alpha, **options)
    share = x[np.arange(n), np.arange(n)].astype(float)
    partner = np.where(x - np.diag(share) > 0, np.arange(n), 0).max(axis=1)
    np.testing.assert_allclose(x.sum(axis=1), 1, atol=1e-6)
    expected = share * np.arange(n) + (1 - share) * partner
    np.testing.assert_allclose(y[:, 0], expected, atol=1e-3)  # the target is mixed alike
    return share, partner


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_shares_are_beta_distributed(level, alpha):
    values = np.concatenate([shares(alpha, step=k)[0] for k in range(6)])
    n = len(values)
    spread = 1 / (4 * (2 * alpha + 1))  # variance of Beta(a, a)
    assert values.mean() == pytest.approx(0.5, abs=4 * math.sqrt(spread / n))
    assert values.var() == pytest.approx(spread, rel=0.12)
    # quartiles: a quarter of the distribution lies below
    grid = (np.arange(200_000) + 0.5) / 200_000
    with np.errstate(divide="ignore"):
        density = np.exp((alpha - 1) * (np.log(grid) + np.log1p(-grid)))
    inner = density[(grid > 0.1) & (grid < 0.9)].sum() / density.sum()
    if alpha >= 0.5:  # below, the grid misses too much at the ends
        assert np.mean((values > 0.1) & (values < 0.9)) == pytest.approx(inner, abs=0.04)


def test_every_row_is_once_a_partner_and_none_its_own(level):
    _, partner = shares(0.5)
    share, _ = shares(0.5)
    clear = (share > 1e-6) & (share < 1 - 1e-6)
    distance = (partner - np.arange(400)) % 400
    assert len(np.unique(distance[clear])) == 1
    assert distance[clear][0] > 0


def test_the_same_bits_for_any_threads_and_others_for_another_step_or_seed(level):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 7)).astype(np.float32), rng.integers(3, size=50)
    first = mixed(x, y, 0.4, classes=3)
    for threads in (1, 3, 8):
        again = mixed(x, y, 0.4, classes=3, threads=threads)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert first[0].tobytes() != mixed(x, y, 0.4, classes=3, step=1)[0].tobytes()
    assert first[0].tobytes() != mixed(x, y, 0.4, classes=3, seed=1)[0].tobytes()


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_classes_become_shares_of_one_hot_rows(level, dtype):
    labels = np.arange(12) % 5
    x = np.eye(12, dtype=np.float32)
    got, targets = mixed(x, labels.astype(dtype), 1.0, classes=5)
    np.testing.assert_allclose(targets, got @ np.eye(5)[labels], atol=1e-6)
    assert (targets > 0).sum() > 12


def test_a_row_alone_stays_what_it_is_and_none_mixes_without_mixup(level):
    x, y = np.array([[1.5, -2.0]], np.float32), np.array([3])
    got, target = mixed(x, y, 0.3, classes=4)
    assert got.tolist() == x.tolist()
    assert target.tolist() == [[0, 0, 0, 1]]
    x, y = one_hot_rows(9)
    assert np.array_equal(mixed(x, y, 0.0)[0], x)
    assert np.array_equal(mixed(x, np.arange(9), 0.0, classes=9)[1], x)


def test_rows_follow_the_order_of_the_epoch(level):
    n = 20
    order = np.random.default_rng(1).permutation(n)
    x, y = one_hot_rows(n)
    got, _ = mixed(x, y, 0.7, order=order)
    plain, _ = mixed(x[order], y[order], 0.7)
    assert got.tobytes() == plain.tobytes()


# ----------------------------------------------------------------------------- Trainer(mixup=...)


def small(seed=0):
    chain = [layers.Rescale(1 / 255), layers.Flatten(), layers.Dense(30, "relu"),
             layers.Dense(10, "softmax")]  # fmt: skip
    return fn.Sequential(chain, seed=seed)


def fitted(mixup=0.2, threads=2, y=None, **options):
    x, labels = datasets.load_digits()[0]
    net = small()
    trainer = fn.Trainer(net, optimizer=optimizers.Adam(0.005), metrics=["accuracy"], mixup=mixup)
    with fn.threads(threads):
        trainer.fit(x, labels if y is None else y, epochs=8, progress=False, seed=1, **options)
    return net, trainer


def same_bits(a, b):
    return all(
        p.tobytes() == q.tobytes() for p, q in zip(a.get_weights(), b.get_weights(), strict=True)
    )


def test_training_with_mixup_learns_and_is_the_same_for_any_threads():
    (x, y), (x_test, y_test) = datasets.load_digits()
    net, trainer = fitted()
    assert trainer.evaluate(x_test, y_test)["accuracy"] > 0.88
    assert trainer.history["loss"][-1] > 2 * trainer.evaluate(x, y)["loss"]  # it saw mixtures
    assert same_bits(net, fitted(threads=1)[0])
    assert same_bits(net, fitted(threads=3)[0])
    assert not same_bits(net, fitted(mixup=0.0)[0])
    assert not same_bits(net, fitted(mixup=0.3)[0])


def test_classes_and_one_hot_targets_train_alike():
    y = np.eye(10, dtype=np.float32)[datasets.load_digits()[0][1]]
    assert same_bits(fitted()[0], fitted(y=y)[0])


def test_a_step_is_that_of_the_mixed_rows():
    """One step of SGD with mixup equals one step without on the rows that the engine mixed."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 6)).astype(np.float32), rng.integers(3, size=20)

    def step(x, y, mixup):
        net = fn.Sequential([layers.Dense(3, "softmax")], seed=4)
        trainer = fn.Trainer(net, optimizer=optimizers.SGD(0.1), mixup=mixup)
        trainer.fit(x, y, batch_size=20, shuffle=False, seed=5, progress=False)
        return net.get_weights()

    mixed_x, mixed_y = mixed(x, y, 0.6, classes=3, seed=5)
    for got, want in zip(step(x, y, 0.6), step(mixed_x, mixed_y, 0), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert not np.allclose(step(x, y, 0.6)[0], step(x, y, 0)[0], atol=1e-4)


def test_weights_regression_and_several_outputs_mix_as_well():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 5)).astype(np.float32)
    target = (x @ rng.standard_normal((5, 2))).astype(np.float32)
    a = fn.Input((5,))
    one, two = layers.Dense(2, name="one")(a), layers.Dense(3, "softmax", name="two")(a)
    net = fn.Model(a, [one, two], seed=0)
    trainer = fn.Trainer(net, ["mse", "cross_entropy"], optimizers.Adam(0.02), mixup=0.4)
    trainer.fit(x, [target, np.argmax(target @ np.ones((2, 3)) + x[:, :3], 1)], epochs=60,
                progress=False, seed=0, sample_weight=rng.random(64))  # fmt: skip
    assert np.mean((net.predict(x)[0] - target) ** 2) < 0.05 * np.mean(target**2)


def test_gradients_and_evaluate_see_the_rows_as_they_are():
    x, y = datasets.load_digits()[0]
    mixing, plain = (fn.Trainer(small(), mixup=m) for m in (0.5, 0.0))
    for a, b in zip(mixing.gradients(x[:40], y[:40]), plain.gradients(x[:40], y[:40]), strict=True):
        assert a.tobytes() == b.tobytes()
    assert mixing.evaluate(x, y) == plain.evaluate(x, y)


def test_wrong_use():
    with pytest.raises(ValueError, match="mixup must be a finite number >= 0"):
        fn.Trainer(small(), mixup=-0.1)
    with pytest.raises(ValueError, match="mixup mixes targets"):
        fn.Trainer(small(), losses.get(lambda y, p: (0.0, p)), mixup=0.2)


def test_bad_values_of_a_partner_are_found():
    x = np.ones((30, 4), np.float32)
    x[17, 2] = np.nan
    net = fn.Sequential([layers.Dense(2, "softmax")], seed=0)
    with pytest.raises(ValueError, match="row 17, column 2"):
        fn.Trainer(net, mixup=0.2).fit(x, np.zeros(30, int), progress=False)


def test_batches_of_an_iterator_are_mixed_as_well():
    x, y = datasets.load_digits()[0]

    def batches(mixup):
        net = small()
        trainer = fn.Trainer(net, optimizer=optimizers.SGD(0.1), mixup=mixup)
        pieces = ((x[i : i + 50], y[i : i + 50]) for i in range(0, 500, 50))
        trainer.fit(pieces, progress=False, seed=3)
        return net, trainer

    (mixing, trainer), (plain, _) = batches(0.5), batches(0.0)
    assert trainer.steps == 10
    assert not same_bits(mixing, plain)
    whole = small()
    again = fn.Trainer(whole, optimizer=optimizers.SGD(0.1), mixup=0.5)
    again.fit(x[:500], y[:500], batch_size=50, shuffle=False, progress=False, seed=3)
    assert same_bits(mixing, whole)
