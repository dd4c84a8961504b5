"""Mixup: rows of a minibatch mixed in pairs, inputs, targets and weights alike."""

import math

import numpy as np
import pytest

from fastnet import _core

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
