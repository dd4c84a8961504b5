"""The k-means engine against a plain float64 Lloyd: labels, centres, iterations, threads, edges."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from fastnet import _core

TIE = 1e-13  # relative gap of the two nearest centres below which the reference may be wrong itself


def lloyd(x, centers, iterations, weights=None):
    """Plain Lloyd in float64: labels, centres, iterations, and whether any decision was a tie.

    x (n, d), centers (k, d).   The iteration that moves no point is the last one counted.
    """
    x = x.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights
    centers, labels, tie = centers.astype(np.float64).copy(), np.full(len(x), -1), False
    for done in range(1, iterations + 1):
        d2 = np.stack([((x - c) ** 2).sum(1) for c in centers], 1)
        two = np.sort(d2, 1)[:, :2]
        if len(centers) > 1:
            scale = (x**2).sum(1).max() + 1e-300
            tie |= bool((two[:, 1] - two[:, 0] <= TIE * scale).any())
        before, labels = labels, d2.argmin(1)
        counts = np.bincount(labels, w, len(centers))
        if (counts == 0).any():
            return labels, centers, done, True
        centers = np.stack(
            [(w[labels == j, None] * x[labels == j]).sum(0) for j in range(len(centers))]
        )
        centers /= counts[:, None]
        if (labels == before).all():
            return labels, centers, done, tie
    return labels, centers, iterations, tie


def fit(x, centers, iterations, weights=None, threads=1, **options):
    """The engine's labels, centres, records and inertia from the same start."""
    engine = _core.KMeansFit(x, weights, len(centers), threads=threads, **options)
    engine.start(np.ascontiguousarray(centers, np.float64))
    records = []
    while len(records) < iterations:
        got = engine.step(iterations - len(records))
        records += got
        if got and got[-1][1] == 0:
            break
    labels = np.empty(len(x) if not isinstance(x, tuple) else len(x[2]) - 1, np.int32)
    inertia = engine.labels(labels)
    return labels, np.frombuffer(engine.centers).reshape(len(centers), -1), records, inertia


def problem(seed):
    """One random problem: x, starting centres, weights; blobs or noise, duplicates, offsets."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 600))
    d = int(rng.integers(1, [4, 20, 200][seed % 3]))
    k = int(rng.integers(1, min(n, [5, 30, 120][seed // 3 % 3]) + 1))
    x = rng.normal(size=(n, d))
    if seed % 2:
        x += 6 * rng.normal(size=(max(1, k), d))[rng.integers(0, max(1, k), n)]
    if seed % 5 == 0:
        x[:, 0] = 3
    if seed % 7 == 0:
        x += rng.choice([10, 1e3, 1e6])
    weights = None
    if seed % 4 == 0:
        weights = rng.random(n)
        weights[rng.random(n) < 0.2] = 0
    dtype = np.float32 if seed % 3 else np.float64
    x = x.astype(dtype)
    return x, x[rng.choice(n, k, replace=False)].astype(np.float64), weights


@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "projected", "hamerly"])
@pytest.mark.parametrize("seed", range(40))
def test_equals_plain_lloyd(seed, algorithm):
    x, start, weights = problem(seed)
    _, centers, iterations, exempt = lloyd(x, start, 30, weights)
    got, got_centers, records, inertia = fit(x, start, 30, weights, algorithm=algorithm)
    if exempt:
        pytest.skip("a tie or an empty cluster in the reference")
    assert len(records) == iterations
    np.testing.assert_array_equal(got, nearest(x, got_centers))
    scale = np.abs(x.astype(np.float64)).max()
    np.testing.assert_allclose(got_centers, centers, rtol=1e-12, atol=1e-12 * scale)
    w = np.ones(len(x)) if weights is None else weights
    expected = (w * ((x.astype(np.float64) - got_centers[got]) ** 2).sum(1)).sum()
    assert inertia == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale**2)


def as_csr(x):
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(x)
    return sparse.data, sparse.indices, sparse.indptr, x.shape[1]


def nearest(x, centers):
    return np.stack([((x.astype(np.float64) - c) ** 2).sum(1) for c in centers], 1).argmin(1)


@pytest.mark.parametrize(("k", "weighted"), [(70, False), (300, True)])
def test_families_of_centers_equal_plain_lloyd(k, weighted):
    """From the second iteration on, most centres of so many are left out by a bound they share."""
    rng = np.random.default_rng(k + 3)
    x = (6 * rng.normal(size=(40, 160)) @ np.diag(1 / np.arange(1, 161)))[rng.integers(0, 40, 2500)]
    x = (x + 0.3 * rng.normal(size=x.shape) / np.arange(1, 161)).astype(np.float32)
    weights = rng.random(2500) if weighted else None
    start = x[rng.choice(2500, k, replace=False)].astype(np.float64)
    assert _core.KMeansFit(x, weights, k).path == "projected"
    _, centers, iterations, exempt = lloyd(x, start, 12, weights)
    assert not exempt and iterations > 6
    one = fit(x, start, 12, weights)
    assert len(one[2]) == iterations
    np.testing.assert_array_equal(one[0], nearest(x, one[1]))
    np.testing.assert_allclose(one[1], centers, rtol=1e-12, atol=1e-12)
    for threads in (2, 3, 4, 8):
        more = fit(x, start, 12, weights, threads=threads)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one[:2], more[:2], strict=True))
        assert (more[2], more[3]) == (one[2], one[3])


@pytest.mark.parametrize(("k", "offset"), [(2, 0), (7, 0.3), (24, 0), (25, 0), (7, 1e4)])
def test_projected_rows_of_zeros_equal_plain_lloyd(k, offset):
    """The first iteration may score rows where they lie, the next ones go on from its bounds."""
    rng = np.random.default_rng(k)
    shapes = rng.uniform(size=(30, 200)) * (rng.uniform(size=(30, 200)) < 0.3)
    x = shapes[rng.integers(0, 30, 1500)] + (rng.uniform(size=(1500, 200)) < 0.02)
    x = (x + offset).astype(np.float32)
    start = x[rng.choice(1500, k, replace=False)].astype(np.float64)
    model = _core.KMeansFit(x, None, k, algorithm="projected")
    assert model.path == "projected"
    model.start(start)
    centers = start
    for _ in range(6):
        labels = nearest(x, centers)
        (record,) = model.step(1, 0)
        expected = ((x.astype(np.float64) - centers[labels]) ** 2).sum()
        assert record[0] == pytest.approx(expected, rel=1e-9)
        if len(np.unique(labels)) < k:
            return
        centers = np.stack([x[labels == j].astype(np.float64).mean(0) for j in range(k)])
        got = np.frombuffer(model.centers).reshape(k, 200)
        np.testing.assert_allclose(got, centers, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3000, 2, 7), (2000, 40, 12), (1500, 130, 30)])
def test_same_bits_for_any_number_of_threads(shape, monkeypatch):
    monkeypatch.setenv("FASTNET_ALWAYS_THREAD", "1")
    n, d, k = shape
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d)).astype(np.float32)
    results = set()
    for threads in (1, 2, 3, 4, 8):
        engine = _core.KMeansFit(x, None, k, threads=threads)
        indices = np.empty(k, np.int64)
        engine.seed("k-means++", 5, indices)
        start = np.frombuffer(engine.centers).reshape(k, d)
        labels, centers, records, inertia = fit(x, start, 12, threads=threads)
        results.add((indices.tobytes(), labels.tobytes(), centers.tobytes(), inertia, *records))
    assert len(results) == 1


@pytest.mark.parametrize("method", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("d", [3, 200])
def test_seeds_are_different_rows_spread_out(method, d, monkeypatch):
    monkeypatch.setenv("FASTNET_ALWAYS_THREAD", "1")
    rng = np.random.default_rng(d)
    blobs = 40 * rng.normal(size=(8, d))
    x = (blobs[rng.integers(0, 8, 1000)] + rng.normal(size=(1000, d))).astype(np.float32)
    x[500:] = x[:500]  # duplicates are never drawn twice by distance
    seen = set()
    for threads in (1, 2, 3):
        engine = _core.KMeansFit(x, None, 8, threads=threads)
        indices = np.empty(8, np.int64)
        engine.seed(method, 11, indices)
        centers = np.frombuffer(engine.centers).reshape(8, d)
        np.testing.assert_array_equal(centers, x[indices].astype(np.float64))
        seen.add(indices.tobytes())
    assert len(seen) == 1
    if method != "random":
        assert len(set(nearest(centers.astype(np.float32), blobs))) == 8


def test_weight_zero_is_never_a_seed():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 4))
    weights = (np.arange(300) < 20).astype(np.float64)
    for method in ("k-means++", "k-means||", "random"):
        engine = _core.KMeansFit(x, weights, 10)
        indices = np.empty(10, np.int64)
        engine.seed(method, 1, indices)
        assert indices.max() < 20 and len(set(indices.tolist())) == 10
    engine = _core.KMeansFit(x, weights, 40)  # more than there are
    indices = np.empty(40, np.int64)
    engine.seed("random", 1, indices)
    assert sorted(indices.tolist()) == sorted(2 * list(range(20)))


def test_random_centers_are_drawn_by_weight():
    x = np.arange(2000.0)[:, None]
    weights = np.where(np.arange(2000) < 1000, 9.0, 1.0)
    engine = _core.KMeansFit(x, weights, 100)
    light, seen = 0, set()
    for seed in range(40):
        indices = np.empty(100, np.int64)
        engine.seed("random", seed, indices)
        assert len(set(indices.tolist())) == 100
        light += int((indices >= 1000).sum())
        seen.add(indices.tobytes())
    assert len(seen) == 40
    assert 300 < light < 560  # about 4,000 / 10, a little more as heavy rows are used up


@pytest.mark.parametrize("method", ["k-means++", "k-means||"])
def test_ctrl_c_ends_the_choice_of_first_centers(method):
    """So many that it takes a minute; the last of them is not chosen yet."""
    x = np.random.default_rng(0).normal(size=(60_000, 40)).astype(np.float32)
    engine = _core.KMeansFit(x, None, 3000)
    indices = np.empty(3000, np.int64)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        engine.seed(method, 0, indices)
    timer.join()
    assert not np.frombuffer(engine.centers).reshape(3000, 40)[-1].any()
    engine.seed("random", 0, indices)
    np.testing.assert_array_equal(np.frombuffer(engine.centers).reshape(3000, 40), x[indices])


def test_non_finite_values_are_found():
    x = np.ones((50, 3), np.float32)
    assert _core.KMeansFit(x, None, 2).nonfinite is None
    x[7, 2] = np.inf
    assert _core.KMeansFit(x, None, 2).nonfinite == (7, 2)


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_a_row_whose_square_overflows_hides_no_nan(form):
    x = np.zeros((6400, 8))
    x[:, 0] = 1
    x[:3, 0] = 1e200
    rows = as_csr if form == "csr" else np.asarray
    assert _core.KMeansFit(rows(x), None, 2).nonfinite is None
    x[5, 2] = np.nan
    assert _core.KMeansFit(rows(x), None, 2).nonfinite == (5, 2)


@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "hamerly", "projected"])
@pytest.mark.parametrize("power", [80, 99])
def test_centers_near_a_far_mean_keep_a_label_each(power, algorithm):
    # in float32 the mean times a centre overflows, though both are finite
    x = np.zeros((64, 200), np.float32)
    x[32:] = 2.0 ** (power + 1)
    centers = np.full((2, 200), 2.0**power)
    centers[0] -= 2.0**46
    centers[1, :100] -= 2.0**46
    labels = np.empty(64, np.int32)
    _core.kmeans_assign(x, centers, labels=labels)
    first, _, _, _ = fit(x, centers, 1, algorithm=algorithm)
    assert set(labels.tolist()) <= {0, 1} and set(first.tolist()) <= {0, 1}
    if power == 80:  # else the distances are equal within float64's rounding
        np.testing.assert_array_equal(labels, nearest(x, centers))
        np.testing.assert_array_equal(fit(x, centers, 3, algorithm=algorithm)[0], labels)


@pytest.mark.parametrize(("d", "k"), [(20, 10), (200, 10), (200, 2), (20, 1), (200, 1)])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_fit_goes_on_after_its_labels_were_asked_for(d, k, steps):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, d)).astype(np.float32)
    engine = _core.KMeansFit(x, None, k)
    engine.start(x[:k].astype(np.float64))
    labels = np.empty(3000, np.int32)
    if steps:
        engine.step(steps, seconds=0)
    engine.labels(labels)
    engine.step(1000, seconds=0)
    engine.labels(labels)
    expected, centers, records, _ = fit(x, x[:k], 1000)
    assert records[-1][1] == 0
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(np.frombuffer(engine.centers).reshape(k, d), centers, atol=1e-12)


@pytest.mark.parametrize(("d", "k"), [(30, 12), (200, 7)])
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_noise_gives_bounds_up_and_keeps_the_results(d, k, dtype):
    """Bounds that let hardly a point be skipped are not kept in some iterations; nor is a basis."""
    x = np.random.default_rng(k).normal(size=(3000, d)).astype(dtype)
    assert _core.KMeansFit(x, None, k).path == ("narrow" if d == 30 else "dense")
    auto, plain, kept = (fit(x, x[:k], 14, algorithm=how) for how in ("auto", "lloyd", "hamerly"))
    for other in (plain, kept):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(auto[:2], other[:2], strict=True))
        assert [r[:3] for r in auto[2]] == [r[:3] for r in other[2]]
    looked = zip(auto[2], kept[2], strict=True)
    assert any(a[3] >= 3000 * k > b[3] for a, b in looked)


def test_bounds_are_kept_where_they_pay():
    rng = np.random.default_rng(0)
    x = (9 * rng.normal(size=(12, 5)))[rng.integers(0, 12, 4000)] + rng.normal(size=(4000, 5))
    auto, kept = (fit(x, x[:12], 30, algorithm=how)[2] for how in ("auto", "hamerly"))
    assert len(auto) == len(kept) > 8
    assert sum(r[3] for r in auto[6:]) <= 1.01 * sum(r[3] for r in kept[6:])
    assert auto[-1][3] < 0.3 * 4000 * 12


@pytest.mark.parametrize("d", [20, 200])
def test_a_single_cluster_is_looked_at_once(d):
    x = np.random.default_rng(0).normal(size=(3000, d)).astype(np.float32)
    records = fit(x, x[:1], 5, algorithm="hamerly")[2]
    assert [record[1] for record in records] == [3000, 0]
    assert [record[3] for record in records] == [3000, 0]


def test_distances_beyond_float32_are_no_proof_that_a_row_stays():
    # three rows are 6e38 from the second centre, more than float32 holds, before it comes near
    x = np.concatenate([np.zeros(40), np.full(3, 3e38), np.full(40, 5e38)])[:, None]
    start = np.array([[0.0], [9e38]])
    got = fit(x, start, 30, algorithm="hamerly")
    labels, centers, done, _ = lloyd(x, start, 30)
    np.testing.assert_array_equal(got[0], labels)
    np.testing.assert_allclose(got[1], centers, rtol=1e-12)
    assert len(got[2]) == done


@pytest.mark.parametrize(("d", "k"), [(5, 6), (200, 6), (200, 100)])
def test_memory_is_what_is_promised(d, k):
    n, families = 20_000, k // 8  # families of 8 at least
    x = np.random.default_rng(0).normal(size=(n, 4)) @ np.ones((4, d))
    engine = _core.KMeansFit(x, None, k, threads=2)
    projections = n * 66 * 4 if engine.path == "projected" else 0
    assert engine.path == ("narrow" if d == 5 else "projected")
    small = 4_000_000  # what does not grow with n
    assert engine.memory_bytes <= n * (16 + 4 * (3 + families)) + projections + small


def test_empty_clusters_take_the_farthest_points():
    x = np.array([[0.0], [1.0], [10.0], [11.0], [30.0]], np.float32)
    start = np.array([[0.0], [10.0], [1000.0], [2000.0]])
    _, centers, records, _ = fit(x, start, 1)
    # 30 is farthest from its centre (10), then 11 and 1 tie: the lower row goes first
    np.testing.assert_allclose(np.sort(centers[:, 0]), [0, 1, 10.5, 30])
    assert records[0][1] == 5


def test_fixed_centers_stay():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    start = x[:4].astype(np.float64)
    engine = _core.KMeansFit(x, None, 4)
    engine.start(start, np.array([0, 1, 0, 0], np.uint8))
    engine.step(5, 0)
    centers = np.frombuffer(engine.centers).reshape(4, 3)
    np.testing.assert_array_equal(centers[1], start[1])
    assert (centers[[0, 2, 3]] != start[[0, 2, 3]]).all()


def test_csr_equals_dense():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 50)) * (rng.random((300, 50)) < 0.1)
    rows, columns = np.nonzero(x)
    indptr = np.zeros(301, np.int32)
    np.cumsum(np.bincount(rows, minlength=300), out=indptr[1:])
    csr = (x[rows, columns], columns.astype(np.int32), indptr, 50)
    start = x[:8].copy()
    dense, sparse = fit(x, start, 20), fit(csr, start, 20)
    np.testing.assert_array_equal(dense[0], sparse[0])
    np.testing.assert_allclose(dense[1], sparse[1], atol=1e-14)


def test_partial_statistics_add_up():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    centers = x[:5].astype(np.float64)
    sums, counts = np.zeros((5, 6)), np.zeros(5)
    labels = np.empty(500, np.int32)
    inertia = _core.kmeans_assign(x, centers, labels=labels, sums=sums, counts=counts)
    np.testing.assert_array_equal(labels, nearest(x, centers))
    parts, n_parts = np.zeros((5, 6)), np.zeros(5)
    total = sum(
        _core.kmeans_assign(part, centers, sums=parts, counts=n_parts)
        for part in np.array_split(x, 3)
    )
    np.testing.assert_allclose(parts, sums, atol=1e-12)
    np.testing.assert_array_equal(n_parts, counts)
    assert total == pytest.approx(inertia, rel=1e-13)


@pytest.mark.parametrize("k", [3, 16, 19, 60])
@pytest.mark.parametrize("offset", [0, 1e5])
@pytest.mark.parametrize("d", [129, 300])
def test_rows_of_zeros_and_near_ties_go_to_the_nearest(d, offset, k):
    """Wide rows are read where they lie, zeros skipped, unless they are far from the origin."""
    rng = np.random.default_rng(k)
    x = (rng.uniform(size=(500, d)) * (rng.uniform(size=(500, d)) < 0.3)).astype(np.float32)
    x[:, d // 3 : d // 2], x[7], x[20:30] = 0, 0, -x[20:30]
    x += np.float32(offset)
    centers = x[rng.choice(500, k, replace=False)].astype(np.float64)
    centers[-1] = centers[0] + 1e-7 * rng.normal(size=d)
    gaps = ((x[:, None].astype(np.float64) - centers) ** 2).sum(2)
    labels = [np.empty(500, np.int32) for _ in range(4)]
    for threads, out in enumerate(labels, 1):
        _core.kmeans_assign(x, centers, labels=out, threads=threads, inertia=False)
        np.testing.assert_array_equal(out, labels[0])
    chosen = np.take_along_axis(gaps, labels[0][:, None], 1)[:, 0]
    np.testing.assert_allclose(chosen, gaps.min(1), rtol=1e-12)
    assert np.isin(labels[0], [0, k - 1]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("d", "dtype"), [(3, "f"), (3, "d"), (200, "f"), (200, "d")])
def test_assignment_refuses_values_that_are_not_finite(d, dtype, value):
    x = np.random.default_rng(2).normal(size=(100, d)).astype(dtype)
    centers, sums, counts = x[:4].astype(np.float64), np.zeros((4, d)), np.zeros(4)
    x[50, d - 1] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        _core.kmeans_assign(x, centers, sums=sums, counts=counts)
    assert not sums.any() and not counts.any()


@pytest.mark.parametrize(("d", "offset"), [(5, 1e6), (200, 1e6), (200, 0.2)])
def test_transform_is_the_distance(d, offset):
    rng = np.random.default_rng(3)
    x = (offset + rng.normal(size=(70, d))).astype(np.float32)
    centers = x[:3].astype(np.float64)
    out = np.empty((70, 3), np.float32)
    _core.kmeans_transform(x, centers, out)
    expected = np.sqrt(((x[:, None].astype(np.float64) - centers) ** 2).sum(2))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_cosine_ignores_length():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 8)).astype(np.float32)
    unit = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    start = unit[:5].astype(np.float64)
    one = fit(x, start, 10, metric="cosine")
    other = fit((x * rng.uniform(0.5, 9, (200, 1))).astype(np.float32), start, 10, metric="cosine")
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(np.linalg.norm(one[1], axis=1), 1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((3, 2)), None, 4), {}, "n_clusters must be 1 to 3"),
        ((np.zeros((3, 2)), None, 0), {}, "n_clusters must be 1 to 3"),
        ((np.zeros((3, 2)), None, 2), {"metric": "l1"}, "metric must be"),
        ((np.zeros((3, 2)), None, 2), {"algorithm": "elkan"}, "algorithm must be one of"),
        ((np.zeros((3, 2)), np.ones(2), 2), {}, "sample_weight must be float64"),
        ((np.zeros((0, 2)), None, 1), {}, "at least one row"),
        ((np.zeros((4, 4))[:, ::2], None, 1), {}, "contiguous"),
    ],
)
def test_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        _core.KMeansFit(*arguments, **options)
