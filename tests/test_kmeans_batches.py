"""Mini-batches in the engine: picked rows, labels from bounds, and what the engine refuses."""

import numpy as np
import pytest
from kmeans_problems import blobs
from reference_kmeans import assign

import fastnet as fn
from fastnet import _core


def unit(x):
    return x / np.sqrt((x * x).sum(axis=1, keepdims=True))


def expected(x, weights, centers, counts, cosine):
    """Centres, counts and inertia after a batch, in float64."""
    x = x.astype(np.float64)
    x = unit(x) if cosine else x
    labels, _, _ = assign(x, centers)
    inertia = (weights * ((x - centers[labels]) ** 2).sum(axis=1)).sum()
    sums = centers * counts[:, None]
    np.add.at(sums, labels, weights[:, None] * x)
    got = np.bincount(labels, weights, len(centers))
    after = centers.copy()
    after[got > 0] = (sums / np.maximum(counts + got, 1e-300)[:, None])[got > 0]
    return unit(after) if cosine else after, counts + got, inertia


def as_csr(x):
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(x)
    return sparse.data, sparse.indices, sparse.indptr, x.shape[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cosine", [False, True], ids=["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("d", "k", "offset"),
    [(3, 4, 0), (20, 13, 100), (150, 30, 0), (150, 30, 50), (1, 2, 0)],
    ids=["narrow", "offset", "wide", "wide-offset", "one-column"],
)
def test_batches_against_float64(d, k, offset, cosine, dtype):
    rng = np.random.default_rng(d + k)
    x = (blobs(900, d, k, spread=2, seed=1) + offset).astype(dtype)
    x[:, : d // 3] *= rng.integers(0, 2, (900, 1))
    x[~x.any(axis=1)] = 1
    centers = x[:k].astype(np.float64)
    centers = unit(centers) if cosine else centers
    counts, metric = np.zeros(k), "cosine" if cosine else "euclidean"
    batches = _core.KMeansBatches(x, None, k, 300, metric=metric)
    sparse = _core.KMeansBatches(as_csr(x), None, k, 300, metric=metric)
    rounding = 1e-9 * (1 + offset)
    for step in range(6):
        picked = rng.integers(0, 900, 300 if step % 2 else 170)
        want = expected(x[picked], np.ones(len(picked)), centers, counts, cosine)
        other = centers.copy()
        old, old_counts = centers.copy(), counts.copy()
        inertia, shift = batches.learn(picked, centers, counts)
        np.testing.assert_allclose(centers, want[0], rtol=1e-10, atol=rounding)
        assert counts.tolist() == want[1].tolist()
        assert inertia == pytest.approx(want[2], rel=1e-9)
        assert shift == pytest.approx(((centers - old) ** 2).sum(), rel=1e-6)
        assert batches.shift(centers) == pytest.approx(shift, rel=1e-6)
        assert sparse.learn(picked, other, old_counts)[0] == pytest.approx(want[2], rel=1e-9)
        np.testing.assert_allclose(other, want[0], rtol=1e-10, atol=rounding)
        moved = centers + rng.standard_normal(centers.shape) * [0, 0.01, 1, 0, 0, 0][step]
        moved = unit(moved) if cosine else moved
        rows = x[picked].astype(np.float64)
        rows = unit(rows) if cosine else rows
        labels = np.empty(len(picked), np.int32)
        inertia = batches.relabel(moved, labels)
        assert labels.tolist() == assign(rows, moved)[0].tolist()
        assert inertia == pytest.approx(((rows - moved[labels]) ** 2).sum(), rel=1e-9)
        sparse.relabel(moved, labels)
        assert labels.tolist() == assign(rows, moved)[0].tolist()


def test_settled_batches_look_at_few_rows_again():
    """Where centres hardly move, labels come from bounds: a row changed behind them keeps its."""
    rng = np.random.default_rng(3)
    places = 4 * rng.standard_normal((5, 140))
    x = (places[rng.integers(0, 5, 400)] + 0.1 * rng.standard_normal((400, 140))).astype("f")
    centers, counts = places, np.full(5, 1e9)
    batches = _core.KMeansBatches(x, None, 5)
    batches.learn(None, centers, counts)
    before = assign(x.astype(np.float64), centers)[0]
    x[:] = x[::-1].copy()
    labels = np.empty(400, np.int32)
    batches.relabel(centers, labels)
    assert labels.tolist() == before.tolist()
    assert labels.tolist() != assign(x.astype(np.float64), centers)[0].tolist()


def test_many_centers_are_projected_batch_by_batch():
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((8, 140))
    x = (rng.standard_normal((2600, 8)) @ basis).astype(np.float32)
    centers, counts = x[:520].astype(np.float64), np.zeros(520)
    batches = _core.KMeansBatches(x, None, 520, 2100)
    for _ in range(2):
        picked = rng.integers(0, 2600, 2100)
        want = expected(x[picked], np.ones(2100), centers, counts, False)
        inertia, _ = batches.learn(picked, centers, counts)
        np.testing.assert_allclose(centers, want[0], rtol=1e-10, atol=1e-9)
        assert inertia == pytest.approx(want[2], rel=1e-9)
        labels = np.empty(2100, np.int32)
        batches.relabel(centers, labels)
        assert labels.tolist() == assign(x[picked].astype(np.float64), centers)[0].tolist()


def test_a_bad_row_changes_nothing():
    x = blobs(300, 150, 4).astype(np.float32)
    centers, counts = x[:4].astype(np.float64), np.arange(4.0)
    for dtype, d in [(np.float32, 150), (np.float64, 150), (np.float32, 6)]:
        data = x[:, :d].astype(dtype)
        data[77, 5] = np.nan
        batches = _core.KMeansBatches(data, None, 4, 50)
        place, had = np.ascontiguousarray(centers[:, :d]), counts.copy()
        with pytest.raises(ValueError, match="NaN"):
            batches.learn(np.array([3, 77, 5]), place, had)
        assert (place == centers[:, :d]).all() and had.tolist() == counts.tolist()
        with pytest.raises(ValueError, match="after a batch"):
            batches.relabel(place, np.empty(3, np.int32))
        batches.learn(np.array([3, 78, 5]), place, had)
        assert had.sum() == counts.sum() + 3


@pytest.mark.parametrize("picked", [[], [-1], [300], [0] * 51])
def test_numbers_of_rows_are_checked(picked):
    batches = _core.KMeansBatches(blobs(300, 3, 4), None, 4, 50)
    with pytest.raises(ValueError, match="picked must be 1 to 50 numbers of the 300 rows"):
        batches.learn(np.array(picked, np.int64), np.zeros((4, 3)), np.zeros(4))


def test_arguments_are_checked():
    x = blobs(300, 3, 4)
    with pytest.raises(ValueError, match="at least 1, got 0 and 50"):
        _core.KMeansBatches(x, None, 0, 50)
    with pytest.raises(ValueError, match="weights go with batches of all rows"):
        _core.KMeansBatches(x, np.ones(300), 4, 50)
    batches = _core.KMeansBatches(x, None, 4, 50)
    with pytest.raises(ValueError, match=r"counts must have shape \(4,\), got \(3,\)"):
        batches.learn(np.arange(5), np.zeros((4, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="centers must have shape"):
        batches.learn(np.arange(5), np.zeros((4, 2)), np.zeros(4))
    with pytest.raises(ValueError, match=r"learn\(\) comes before shift\(\)"):
        batches.shift(np.zeros((4, 3)))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("d", [40, 700])
def test_sparse_rows_against_float64(level, always_thread, d, dtype, metric):
    """Fits, labels and distances of few entries are those of the dense array."""
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(d)
    x = rng.standard_normal((900, d)) * (rng.random((900, d)) < 0.06)
    x[np.arange(900), rng.integers(0, d, 900)] = 1 + rng.random(900)  # no row is empty
    x[17] = x[3]
    x[:60, :3] = 1e-7 * rng.standard_normal((60, 3)) + 2
    x = sparse.csr_matrix(x.astype(dtype))
    dense = x.toarray().astype(np.float64)
    dense = unit(dense) if metric == "cosine" else dense
    weights = rng.integers(0, 3, 900).astype(float)
    start = dense[[3, 17, *range(7)]]
    options = {"init": start, "metric": metric, "tol": 0, "max_iter": 5}
    seen = set()
    for threads in (1, 2, 4):
        model = fn.KMeans(9, n_threads=threads, **options).fit(x, sample_weight=weights)
        seen.add((model._centers().tobytes(), model.labels_.tobytes(), str(model.history_)))
    assert len(seen) == 1
    want = fn.KMeans(9, algorithm="lloyd", **options).fit(x.toarray(), sample_weight=weights)
    np.testing.assert_allclose(model._centers(), want._centers(), rtol=1e-9, atol=1e-12)
    assert model.labels_.tolist() == want.labels_.tolist()
    half = 0.5 if metric == "cosine" else 1
    far = ((dense[:, None] - model._centers()) ** 2).sum(axis=2)
    inertia = half * (weights * far.min(axis=1)).sum()
    assert model.inertia_ == pytest.approx(inertia, rel=1e-9)
    assert -model.score(x, sample_weight=weights) == pytest.approx(inertia, rel=1e-9)
    assert model.predict(x).tolist() == assign(dense, model._centers())[0].tolist()
    wanted = half * far if metric == "cosine" else np.sqrt(far)
    np.testing.assert_allclose(model.transform(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_first_centers_of_sparse_rows_are_different_rows(metric):
    """More of them than different rows: a duplicate has distance 0 and is drawn last."""
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(4)
    kinds = rng.standard_normal((12, 900)) * (rng.random((12, 900)) < 0.05)
    which = np.concatenate([np.arange(12), rng.integers(0, 12, 400)])
    x = sparse.csr_matrix(kinds[which])
    fit = _core.KMeansFit((x.data, x.indices, x.indptr, 900), None, 12, metric=metric)
    indices = np.empty(12, np.int64)
    fit.seed("k-means++", 5, indices)
    assert sorted(which[indices]) == list(range(12))


def test_sparse_rows_that_cannot_be_counted_on():
    """NaN is found, and entries of one column that come twice are added."""
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.random(600, 300, 0.05, format="csr", dtype="f", rng=np.random.default_rng(0))
    centers = x[:4].toarray().astype(np.float64)
    labels, distances = np.empty(600, np.int32), np.empty(600)
    twice = (np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), 2 * x.indptr, 300)
    _core.kmeans_assign(twice, centers, labels=labels, distances=distances)
    want, far, _ = assign(x.toarray().astype(np.float64), centers)
    assert labels.tolist() == want.tolist()
    np.testing.assert_allclose(distances, far, rtol=1e-9, atol=1e-12)
    x.data[1234] = np.nan
    with pytest.raises(ValueError, match="x contains NaN or infinity"):
        _core.kmeans_assign((x.data, x.indices, x.indptr, 300), centers, labels=labels)
    with pytest.raises(ValueError, match="X contains NaN: row"):
        fn.KMeans(3, random_state=0).fit(x)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [9, 520], ids=["few", "many"])
def test_same_bits_for_any_number_of_threads(always_thread, metric, k):
    x = np.random.default_rng(1).standard_normal((2500, 140)).astype(np.float32)
    rng, seen = np.random.default_rng(2), set()
    picked = rng.integers(0, 2500, (2, 2200))
    for threads in (1, 2, 3, 4, 8):
        centers, counts = x[:k].astype(np.float64), np.zeros(k)
        centers = unit(centers) if metric == "cosine" else centers
        labels = np.empty(2200, np.int32)
        batches = _core.KMeansBatches(x, None, k, 2200, metric=metric, threads=threads)
        told = [batches.learn(rows, centers, counts) for rows in picked]
        told.append(batches.relabel(centers, labels))
        seen.add((str(told), centers.tobytes(), counts.tobytes(), labels.tobytes()))
    assert len(seen) == 1


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("n_init", [1, 3])
def test_fit_names_the_bad_value(labels, n_init):
    x = blobs(5000, 4, 3)
    x[4321, 2] = np.inf
    model = fn.MiniBatchKMeans(3, random_state=0, compute_labels=labels, n_init=n_init)
    with pytest.raises(ValueError, match="infinity: row 4321, column 2"):
        model.fit(x)
    assert not hasattr(model, "cluster_centers_")


@pytest.mark.parametrize("fails", ["fit", "partial_fit"])
def test_learning_goes_on_as_if_the_failed_call_had_never_been(fails):
    x = blobs(3000, 6, 8)
    bad = x.copy()
    bad[2999, 5] = np.inf
    models = [fn.MiniBatchKMeans(8, random_state=0, batch_size=100) for _ in range(2)]
    for model in models:
        model.partial_fit(x[:200])
        model._counts[3] = 0  # such a cluster draws a new place at the next batch
    for seen in (False, True):
        if seen:
            with pytest.raises(ValueError, match="infinity: row 2999, column 5"):
                getattr(models[0], fails)(bad)
        for model in models:
            model.partial_fit(x[200:300])
            model._counts[5] = 0
        for name in ("cluster_centers_", "_counts", "labels_"):
            assert getattr(models[0], name).tobytes() == getattr(models[1], name).tobytes()
        assert models[0]._since_reassign == models[1]._since_reassign


@pytest.mark.parametrize("make", [np.asarray, "ints", "csr"])
def test_the_same_batches_whatever_holds_the_rows(make):
    x = np.random.default_rng(0).integers(-30, 30, (4000, 12))
    held = x.astype(np.float32)
    if make == "ints":
        held = x
    elif make == "csr":
        held = pytest.importorskip("scipy.sparse").csr_matrix(held)
    options = {"init": x[:6], "random_state": 0, "batch_size": 256, "max_iter": 2}
    model = fn.MiniBatchKMeans(6, **options).fit(held)
    want = fn.MiniBatchKMeans(6, **options).fit(x.astype(np.float64))
    np.testing.assert_allclose(model._centers(), want._centers(), rtol=1e-12)
    assert model.labels_.tolist() == want.labels_.tolist()


def test_new_clusters_of_a_cosine_fit_have_length_1():
    x = np.random.default_rng(0).uniform(1, 9, (3000, 4))
    start = np.concatenate([x[:3], -x[:3]])  # half of them get nothing
    model = fn.MiniBatchKMeans(6, init=start, metric="cosine", random_state=0).fit(x)
    assert (np.bincount(model.labels_, minlength=6) > 0).all()
    np.testing.assert_allclose((model.cluster_centers_**2).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("k", [6, 520], ids=["few", "many"])
def test_no_memory_is_an_error_and_not_the_end(k):
    x = np.random.default_rng(0).standard_normal((2200, 130)).astype(np.float32)

    def work():
        centers, counts = x[:k].astype(np.float64), np.zeros(k)
        batches = _core.KMeansBatches(x, None, k, 2100)
        batches.learn(np.arange(2100), centers, counts)
        return batches.relabel(centers, np.empty(2100, np.int32))

    want, failed = work(), 0
    for n in range(0, 1000, 7):
        _core.fail_allocation(n)
        try:
            assert work() == want
            break
        except MemoryError:
            failed += 1
        finally:
            _core.fail_allocation(-1)
    else:
        pytest.fail("it never gets enough memory")
    assert failed > 3
    assert work() == want
