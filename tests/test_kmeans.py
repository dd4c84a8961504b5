"""KMeans: exact, the same for any number of threads, scikit-learn's rules at the edges."""

import copy
import io
import pickle
import signal
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from kmeans_problems import check, problem
from reference_kmeans import assign, cost, lloyd, plusplus, unit_rows

import fastnet as fn
from fastnet import _core
from fastnet.errors import ConvergenceWarning, NotFittedError


def blobs(n=300, d=5, k=4, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    return 4 * rng.standard_normal((k, d))[rng.integers(0, k, n)] + spread * rng.standard_normal(
        (n, d)
    )


def same_partition(a, b):
    """Whether two labellings agree but for the clusters' numbers."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


# ---- the reference itself -----------------------------------------------------------------------


def test_reference_by_hand():
    """Four points on a line, worked out on paper."""
    x = np.array([[0.0], [1.0], [5.0], [9.0]])
    result = lloyd(x, [[0.0], [1.0]], tol=0)
    assert result.labels.tolist() == [0, 0, 1, 1]
    assert result.centers.tolist() == [[0.5], [7.0]]
    assert result.moved == [4, 1, 0]
    assert result.inertias == [16.0 + 64.0, 0.0 + 1.0 + 0.0 + 16.0, 0.25 + 0.25 + 4 + 4]
    assert (result.inertia, result.n_iter, result.ties) == (8.5, 3, 0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_reference_agrees_with_scikit_learn(seed, weighted):
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(seed)
    x = blobs(200, 7, 6, seed, spread=2)
    weights = rng.uniform(0.5, 2, 200) if weighted else np.ones(200)
    start = x[rng.choice(200, 9, replace=False)]
    right = cluster.KMeans(9, init=start, n_init=1, tol=0).fit(x, sample_weight=weights)
    mine = lloyd(x, start, weights, tol=0)
    assert mine.labels.tolist() == right.labels_.tolist()
    assert mine.n_iter == right.n_iter_
    np.testing.assert_allclose(mine.centers, right.cluster_centers_, rtol=1e-10, atol=1e-12)
    assert mine.inertia == pytest.approx(right.inertia_, rel=1e-12)


# ---- exact --------------------------------------------------------------------------------------


def test_random_problems_equal_the_reference():
    """Labels, iterations, moved rows, centres, inertia; tests/soak has the large count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        done = [check(problem(seed, work=2e6)) for seed in range(80)]
    assert sum(done) > 50


@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "hamerly", "projected", "elkan"])
def test_algorithms_agree(algorithm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        done = [check(problem(seed, work=1e6), algorithm=algorithm) for seed in range(500, 520)]
    assert sum(done) > 12


@pytest.mark.parametrize("seed", range(4))
def test_cosine_equals_the_reference(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, 9)) * rng.uniform(0.1, 10, (400, 1)) + rng.standard_normal(9)
    start = x[rng.choice(400, 8, replace=False)]
    weights = rng.uniform(0, 2, 400) if seed % 2 else None
    right = lloyd(x, start, weights, metric="cosine", tol=0)
    model = fn.KMeans(8, init=start, metric="cosine", tol=0).fit(x, sample_weight=weights)
    assert model.labels_.tolist() == right.labels.tolist()
    assert model.n_iter_ == right.n_iter
    assert model.inertia_ == pytest.approx(right.inertia, rel=1e-10)
    centers = model.cluster_centers_
    np.testing.assert_allclose(centers, unit_rows(right.centers), rtol=1e-9, atol=1e-12)
    far = 1 - unit_rows(x) @ unit_rows(right.centers).T
    np.testing.assert_allclose(model.transform(x), far, atol=1e-10)
    assert model.predict(7 * x).tolist() == right.labels.tolist()
    longer = model.score(3 * x, sample_weight=weights)
    assert longer == pytest.approx(-right.inertia, rel=1e-10)


def test_same_bits_for_any_number_of_threads(always_thread):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5000, 11)).astype(np.float32)
    weights = rng.uniform(0, 3, 5000)
    for options in (
        {},
        {"init": "k-means||"},
        {"init": "random", "n_init": 2},
        {"metric": "cosine"},
    ):
        seen = set()
        for threads in (1, 2, 3, 4, 8):
            model = fn.KMeans(23, random_state=5, max_iter=12, n_threads=threads, **options)
            model.fit(x, sample_weight=weights)
            seen.add((
                model.labels_.tobytes(), model._centers().tobytes(), model.inertia_,
                model.transform(x[:500]).tobytes(), model.predict(x).tobytes(), model.score(x),
                tuple(model.history_["inertia"]),
            ))  # fmt: skip
        assert len(seen) == 1, options


@pytest.mark.parametrize("offset", [(1e6, 1e6), (500_000, 5_000_000)], ids=["1e6", "UTM"])
def test_float32_with_an_offset_has_the_labels_of_float64(offset):
    x = (blobs(2000, 2, 12, seed=8, spread=60) * 40 + offset).astype(np.float32)
    model = fn.KMeans(12, random_state=0).fit(x)
    wide = fn.KMeans(12, random_state=0).fit(x.astype(np.float64))
    assert model.cluster_centers_.dtype == np.float32
    assert model.labels_.tobytes() == wide.labels_.tobytes()
    assert model.predict(x).tobytes() == model.labels_.tobytes()
    labels, distances, _ = assign(x.astype(np.float64), model._centers())
    assert labels.tobytes() == model.labels_.astype(np.int64).tobytes()
    assert model.inertia_ == pytest.approx(distances.sum(), rel=1e-9)
    batches = fn.MiniBatchKMeans(12, random_state=0).fit(x)
    assert assign(x.astype(np.float64), batches._centers())[0].tolist() == batches.labels_.tolist()


# ---- initial centres ----------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("n", [200, 30_000])  # below and above where the order of rows counts
def test_initial_centers_are_rows_and_reproducible(init, n):
    x = blobs(n, 6, 9, spread=1)
    models = [fn.KMeans(9, init=init, random_state=s, max_iter=1).initialize(x) for s in (0, 0, 1)]
    first, again, other = (m._centers() for m in models)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert len(np.unique(first, axis=0)) == 9
    if init != "k-means||":
        assert (assign(first, x)[1] == 0).all()


def test_plusplus_is_as_good_as_the_reference():
    """Median inertia of the initial centres over 7 seeds, against a plain NumPy version."""
    x = blobs(34_000, 4, 20, seed=5, spread=0.2)
    mine = [cost(x, fn.KMeans(20, random_state=s).initialize(x)._centers()) for s in range(7)]
    rngs = [np.random.default_rng(s) for s in range(7)]
    plain = [cost(x, x[plusplus(x, 20, np.ones(len(x)), rng, 4)]) for rng in rngs]
    assert np.median(mine) < 1.2 * np.median(plain)
    spread = [cost(x, x[rng.choice(len(x), 20)]) for rng in rngs]
    assert np.median(mine) < 0.5 * np.median(spread)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_rows_of_weight_zero_are_not_there(init):
    x = blobs(500, 3, 5, spread=1)
    x[::2] += 100
    weights = np.ones(500)
    weights[::2] = 0
    model = fn.KMeans(5, init=init, random_state=1).fit(x, sample_weight=weights)
    alone = fn.KMeans(5, init=init, random_state=1).fit(x[1::2])
    assert np.abs(model.cluster_centers_).max() < 50
    assert same_partition(model.labels_[1::2], alone.labels_)
    assert model.inertia_ == pytest.approx(alone.inertia_, rel=1e-9)


def test_labels_belong_to_centers_that_moved_in_the_last_iteration():
    """A cluster of weight 0 is filled while no label moves: rows are assigned once more."""
    rng = np.random.default_rng(24)
    x = rng.standard_normal((64, 63))
    weights = rng.integers(0, 3, 64).astype(float)
    with pytest.warns(fn.errors.ConvergenceWarning, match="distinct clusters"):
        model = fn.KMeans(64, random_state=0).fit(x, sample_weight=weights)
    assert model.history_["moved"][-1] == 0
    assert np.array_equal(model.predict(x), model.labels_)
    assert model.inertia_ == pytest.approx(-model.score(x, None, weights), abs=1e-9)


def test_weights_are_repetitions():
    x, weights = blobs(60, 4, 4, spread=2), np.random.default_rng(0).integers(0, 4, 60)
    weighted = fn.KMeans(5, random_state=2).fit(x, sample_weight=weights)
    repeated = fn.KMeans(5, random_state=2).fit(np.repeat(x, weights, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-9)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-9)


def test_a_function_and_an_array_as_init():
    x = blobs()

    def first_rows(data, n_clusters, random_state):
        assert data.shape == x.shape
        assert isinstance(random_state, np.random.RandomState)
        return data[:n_clusters]

    called = fn.KMeans(4, init=first_rows, n_init=1).fit(x)
    given = fn.KMeans(4, init=x[:4].tolist()).fit(x)
    assert called.cluster_centers_.tobytes() == given.cluster_centers_.tobytes()
    with pytest.warns(RuntimeWarning, match="only one init in KMeans instead of n_init=3"):
        fn.KMeans(4, init=x[:4], n_init=3).fit(x)


def test_more_starts_are_better():
    x = blobs(3000, 2, 30, seed=4, spread=0.2)
    one = fn.KMeans(30, init="random", n_init=1, random_state=0).fit(x)
    many = fn.KMeans(30, init="random", n_init=8, random_state=0).fit(x)
    assert many.inertia_ < 0.9 * one.inertia_
    assert fn.KMeans(3, init="random")._settings().n_init == 10
    assert fn.KMeans(3)._settings().n_init == 1
    assert fn.MiniBatchKMeans(3, init=lambda *a, **k: None)._settings().n_init == 3


@pytest.mark.parametrize(
    "state",
    [
        lambda: np.random.RandomState(3),
        lambda: np.random.default_rng(3),
        lambda: 3,
    ],
    ids=["RandomState", "Generator", "int"],
)
def test_random_states(state):
    x = blobs(2000, 3, 8, spread=3)
    a, b = (fn.KMeans(8, random_state=state(), max_iter=2).fit(x) for _ in range(2))
    assert a.cluster_centers_.tobytes() == b.cluster_centers_.tobytes()
    shared = state()
    pair = [fn.KMeans(8, random_state=shared, max_iter=2).fit(x).inertia_ for _ in range(2)]
    assert (pair[0] == pair[1]) == isinstance(shared, int)


# ---- input --------------------------------------------------------------------------------------


def forms():
    """The same whole numbers in many forms."""
    plain = np.random.default_rng(1).integers(0, 100, (700, 6))
    wide = np.zeros((1400, 9), np.float32)
    wide[::2, 1:7] = plain
    readonly = plain.astype(np.float32)
    readonly.flags.writeable = False
    return {
        "float32": plain.astype(np.float32),
        "float64": plain.astype(np.float64),
        "float16": plain.astype(np.float16),
        "longdouble": plain.astype(np.longdouble),
        "uint8": plain.astype(np.uint8),
        "int8": plain.astype(np.int8),
        "int64": plain,
        "uint16": plain.astype(np.uint16),
        "big-endian": plain.astype(">f4"),
        "columns": np.asfortranarray(plain.astype(np.float64)),
        "every second row, some columns": wide[::2, 1:7],
        "backwards twice": plain.astype(np.float32)[::-1][::-1],
        "backwards": np.ascontiguousarray(plain[::-1, ::-1])[::-1, ::-1],
        "read-only": readonly,
        "lists": plain.tolist(),
        "objects": plain.astype(object),
    }


FORMS = forms()


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_input(name):
    x = FORMS[name]
    before = copy.deepcopy(x)
    model = fn.KMeans(5, random_state=0).fit(x)
    wanted = fn.KMeans(5, random_state=0).fit(FORMS["float64"])
    assert model.labels_.tobytes() == wanted.labels_.tobytes()
    assert model.predict(x).tobytes() == wanted.labels_.tobytes()
    np.testing.assert_allclose(model.cluster_centers_, wanted.cluster_centers_, rtol=1e-6)
    kind = np.float32 if getattr(x, "dtype", None) in (np.float32, np.dtype(">f4")) else np.float64
    assert model.cluster_centers_.dtype == model.transform(x).dtype == kind
    np.testing.assert_allclose(model.transform(x), wanted.transform(FORMS["float64"]), rtol=1e-5)
    assert np.array_equal(np.asarray(x), np.asarray(before))


def test_bool_rows():
    x = np.random.default_rng(0).random((300, 8)) < 0.3
    model = fn.KMeans(4, random_state=0).fit(x)
    assert same_partition(model.labels_, fn.KMeans(4, random_state=0).fit(x * 1.0).labels_)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_asked_for(dtype):
    x = blobs(300, 3, 4).astype("float64" if dtype == "float32" else "float32")
    model = fn.KMeans(4, random_state=0, dtype=dtype).fit(x)
    assert model.cluster_centers_.dtype == model.transform(x).dtype == dtype
    wanted = fn.KMeans(4, random_state=0).fit(x.astype(dtype))
    assert model.cluster_centers_.tobytes() == wanted.cluster_centers_.tobytes()


def test_rows_of_several_axes_are_told_to_be_flattened():
    with pytest.raises(ValueError, match=r"got \(9, 4, 4\); X.reshape\(len\(X\), -1\) makes a row"):
        fn.KMeans(2).fit(np.zeros((9, 4, 4)))


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_matrix", "coo_array"])
def test_sparse(kind):
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 30)) * (rng.random((500, 30)) < 0.2)
    form = getattr(sparse, kind)(x)
    start, weights = x[:6], rng.uniform(0, 2, 500)
    model = fn.KMeans(6, init=start).fit(form, sample_weight=weights)
    dense = fn.KMeans(6, init=start).fit(x, sample_weight=weights)
    assert model.labels_.tobytes() == dense.labels_.tobytes() == model.predict(form).tobytes()
    np.testing.assert_allclose(
        model.cluster_centers_, dense.cluster_centers_, rtol=1e-10, atol=1e-14
    )
    np.testing.assert_allclose(model.transform(form), dense.transform(x), rtol=1e-9, atol=1e-12)
    assert fn.KMeans(6, init=sparse.csr_matrix(start)).fit(form).n_iter_ >= 2
    for init in ("k-means++", "k-means||", "random"):
        fitted = fn.KMeans(6, init=init, random_state=0).fit(form)
        again = fn.KMeans(6, init=init, random_state=0).fit(x)
        assert fitted.labels_.tobytes() == again.labels_.tobytes()
    whole = sparse.csr_matrix(rng.integers(0, 3, (50, 4)))
    assert fn.KMeans(3, random_state=0).fit(whole).cluster_centers_.dtype == np.float64


def test_sparse_stays_sparse():
    """Twenty thousand columns, one value of ten thousand is there."""
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.random(1000, 20_000, density=1e-4, format="csr", random_state=0)
    tracemalloc.start()
    model = fn.KMeans(2, random_state=0, max_iter=2).fit(x)
    assert tracemalloc.get_traced_memory()[1] < 20_000 * 8 * 20  # a dense copy: 1000 rows
    tracemalloc.stop()
    assert model.cluster_centers_.shape == (2, 20_000)


def test_memory_mapped_files(tmp_path):
    """Floats are read where they lie; small integers block by block, never as one copy."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (150_000, 40)).astype(np.int16)
    x[:50_000] += 60
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "f.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    floats = np.load(tmp_path / "f.npy", mmap_mode="r")
    from fastnet.cluster.data import make_rows

    assert make_rows(mapped).direct is None
    assert np.shares_memory(make_rows(floats).direct, floats)
    start = x[[0, 70_000, 100_000]].astype(float)
    options = {"init": start, "max_iter": 4}
    in_blocks = fn.KMeans(3, **options).fit(mapped)
    direct = fn.KMeans(3, **options).fit(floats)
    assert in_blocks.labels_.tobytes() == direct.labels_.tobytes()
    assert in_blocks.n_iter_ == direct.n_iter_
    np.testing.assert_allclose(in_blocks._centers(), direct._centers(), rtol=1e-12)
    assert in_blocks.inertia_ == pytest.approx(direct.inertia_, rel=1e-12)
    assert in_blocks.predict(mapped).tobytes() == direct.labels_.tobytes()
    np.testing.assert_allclose(in_blocks.transform(mapped), direct.transform(floats), rtol=1e-5)
    assert in_blocks.score(mapped) == pytest.approx(direct.score(floats), rel=1e-12)
    for init in ("k-means++", "k-means||", "random"):
        model = fn.KMeans(3, init=init, n_init=1, random_state=0, max_iter=3).fit(mapped)
        assert model.inertia_ < 1.2 * direct.inertia_
    cosine = [fn.KMeans(3, metric="cosine", **options).fit(m) for m in (mapped, floats)]
    assert cosine[0].labels_.tobytes() == cosine[1].labels_.tobytes()


def test_max_memory_forbids_a_converted_copy():
    x = np.random.default_rng(0).integers(0, 99, (200_000, 30))  # int64: 48 MB as float64
    from fastnet.cluster.data import make_rows

    assert make_rows(x, None, 10_000_000).direct is None
    assert make_rows(x).direct is not None
    limited = fn.KMeans(3, init=x[:3], max_iter=2, max_memory=10_000_000).fit(x)
    free = fn.KMeans(3, init=x[:3], max_iter=2).fit(x)
    assert limited.labels_.tobytes() == free.labels_.tobytes()


class Frame:
    """What KMeans sees of a data frame."""

    def __init__(self, values, columns):
        self.values, self.columns = np.asarray(values), columns

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_feature_names():
    x = blobs(50, 3)
    model = fn.KMeans(2, random_state=0).fit(Frame(x, ["a", "b", "c"]))
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.predict(Frame(x, ["a", "b", "c"])).tolist() == model.labels_.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(Frame(x, ["a", "c", "b"]))
    with pytest.warns(UserWarning, match="was fitted with feature names, and X has none"):
        model.predict(x)
    model.fit(x)
    assert not hasattr(model, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without feature names, and X has some"):
        model.predict(Frame(x, ["a", "b", "c"]))
    assert model.get_feature_names_out().tolist() == ["kmeans0", "kmeans1"]


# ---- edges --------------------------------------------------------------------------------------

X = blobs(20, 3)
NAN, INF = X.copy(), X.astype(np.float32)
NAN[7, 2], INF[19, 0] = np.nan, -np.inf
BAD_FITS = {
    "k > n": ({"n_clusters": 21}, X, "n_samples=20 should be >= n_clusters=21"),
    "no rows": ({}, X[:0], "X has no rows"),
    "no features": ({}, X[:, :0], "X has no features"),
    "one axis": ({}, X[0], r"X must have shape \(n, d\), got \(3,\); X.reshape\(-1, 1\)"),
    "three axes": ({}, X[None], r"X must have shape \(n, d\), got \(1, 20, 3\)"),
    "NaN": ({}, NAN, "X contains NaN: row 7, column 2"),
    "infinity": ({}, INF, "X contains infinity: row 19, column 0"),
    "text": ({}, [["a", "b"]], "X must hold numbers, got dtype <U1"),
    "complex": ({}, X + 1j, "X must hold real numbers, got dtype complex128"),
    "nothing": ({}, None, "X must hold numbers, got None"),
    "k 0": ({"n_clusters": 0}, X, "n_clusters must be an integer >= 1, got 0"),
    "k 2.5": ({"n_clusters": 2.5}, X, "n_clusters must be an integer, got 2.5"),
    "init": ({"init": "kmeans"}, X, "unknown init 'kmeans'; did you mean 'k-means"),
    "centers": ({"init": X[:3]}, X, r"initial centers \(3, 3\) does not match .* clusters 2"),
    "features of centers": ({"init": X[:2, :2]}, X, r"\(2, 2\) does not match .* features .* 3"),
    "NaN in centers": ({"init": NAN[6:8]}, X, "initial centers contain NaN"),
    "n_init": ({"n_init": 0}, X, "n_init must be an integer >= 1"),
    "n_init text": ({"n_init": "many"}, X, "unknown n_init 'many'"),
    "max_iter": ({"max_iter": 0}, X, "max_iter must be an integer >= 1"),
    "tol": ({"tol": -1e-4}, X, "tol must be a finite number >= 0"),
    "algorithm": ({"algorithm": "fast"}, X, "unknown algorithm 'fast'"),
    "metric": ({"metric": "cosin"}, X, "unknown metric 'cosin'; did you mean 'cosine'"),
    "n_threads": ({"n_threads": 0}, X, "n_threads must be an integer >= 1"),
    "max_time": ({"max_time": 0}, X, "max_time must be a finite number > 0"),
    "max_memory": ({"max_memory": 0}, X, "max_memory must be an integer >= 1"),
    "progress": ({"progress": "yes"}, X, "progress must be True, False or 'auto'"),
    "dtype": ({"dtype": "int8"}, X, "dtype must be 'float32', 'float64' or None"),
    "random_state": ({"random_state": -1}, X, "random_state must be None, an integer >= 0"),
    "fixed centers": ({"fixed_centers": [0]}, X, "fixed_centers of one axis are rows of"),
    "too many fixed": ({"fixed_centers": X[:3]}, X, r"shape \(m, 3\) with m from 1 to 2"),
    "fixed numbers": ({"fixed_centers": [2], "init": X[:2]}, X, "numbers of centers from 0 to 1"),
}


@pytest.mark.parametrize("case", BAD_FITS)
@pytest.mark.parametrize("cls", [fn.KMeans, fn.MiniBatchKMeans])
def test_errors_of_fit(cls, case):
    parameters, x, message = BAD_FITS[case]
    known = cls._parameter_defaults()
    if not set(parameters) <= set(known):
        pytest.skip("not one of its parameters")
    model = cls(**{"n_clusters": 2} | parameters)
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(x)
    assert not hasattr(model, "cluster_centers_")


@pytest.mark.parametrize("cls", [fn.KMeans, fn.MiniBatchKMeans])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(20), "sample_weight is all zero"),
        ([], r"sample_weight.shape == \(0,\), expected \(20,\)"),
        (np.ones(19), r"sample_weight.shape == \(19,\), expected \(20,\)"),
        (-np.ones(20), "sample_weight must be finite and >= 0, got -1.0 in row 0"),
        (np.full(20, np.nan), "sample_weight must be finite and >= 0, got nan in row 0"),
        (["a"] * 20, "sample_weight must hold numbers"),
    ],
    ids=["zeros", "empty", "short", "negative", "NaN", "text"],
)
def test_errors_of_weights(cls, weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        cls(2).fit(X, sample_weight=weights)


def test_errors_before_and_after_fit():
    model = fn.KMeans(2, random_state=0)
    for call in (model.predict, model.transform, model.score, model.partial_stats):
        with pytest.raises(NotFittedError, match="This KMeans instance is not fitted yet"):
            call(X)
    model.fit(X)
    message = "X has 2 features, but KMeans is expecting 3 features as input"
    for call in (model.predict, model.transform, model.score, model.partial_stats):
        with pytest.raises(ValueError, match=message):
            call(X[:, :2])
        with pytest.raises(ValueError, match="X contains NaN: row 7, column 2"):
            call(NAN)
        with pytest.raises(ValueError, match=r"X must have shape \(n, d\), got \(3,\)"):
            call(X[0])


def test_as_many_clusters_as_rows():
    model = fn.KMeans(20, random_state=0).fit(X)
    assert sorted(model.labels_.tolist()) == list(range(20))
    assert model.inertia_ == pytest.approx(0, abs=1e-20)
    assert fn.KMeans(1).fit(X).cluster_centers_ == pytest.approx(X.mean(axis=0)[None])
    assert fn.KMeans(1).fit(X[:1]).labels_.tolist() == [0]


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_fewer_distinct_rows_than_clusters(init):
    x = np.repeat(X[:3], 10, axis=0)
    model = fn.KMeans(6, init=init, random_state=0, n_init=1)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(3\) found smaller .* \(6\)"):
        model.fit(x)
    assert same_partition(model.labels_, np.repeat(np.arange(3), 10))
    assert model.inertia_ == pytest.approx(0, abs=1e-20)
    assert np.isfinite(model.cluster_centers_).all()


def test_one_feature_and_constant_data():
    x = np.array([0, 0.1, 0.2, 9, 9.1, 9.2])[:, None]
    labels = fn.KMeans(2, random_state=0).fit_predict(x)
    assert same_partition(labels, np.repeat([0, 1], 3))
    with pytest.warns(ConvergenceWarning):
        assert fn.KMeans(2).fit(np.full((9, 2), 3.5)).inertia_ == 0


def test_ties_go_to_the_lowest_index():
    x = np.array([[0.0], [2.0], [1.0], [1.0]])
    model = fn.KMeans(2, init=[[0.0], [2.0]], max_iter=1, tol=0)
    assert model.fit(x).history_["moved"] == [4]
    model.cluster_centers_ = np.array([[0.0], [2.0]])
    assert model.predict(x).tolist() == [0, 1, 0, 0]
    model.cluster_centers_ = np.array([[2.0], [0.0], [2.0]])
    assert model.predict(x).tolist() == [1, 0, 0, 0]


def test_empty_clusters_take_the_farthest_rows():
    x = np.concatenate([blobs(50, 2, 1, seed=1), [[90.0, 0.0], [80.0, 0.0]]])
    start = np.array([[0.0, 0.0], [1e4, 0], [2e4, 0]])
    model = fn.KMeans(3, init=start, max_iter=1).fit(x)
    assert model.cluster_centers_[1:].tolist() == [[90.0, 0.0], [80.0, 0.0]]
    right = lloyd(x, start, max_iter=1)
    np.testing.assert_allclose(model.cluster_centers_, right.centers, rtol=1e-12)


@pytest.mark.parametrize("steps", ["fit", "statistics"])
def test_rounding_moves_no_empty_cluster(steps):
    """A row one unit in the last place from its centre is not far from it."""
    x = np.repeat([[0.1] * 3, [0.7] * 3], [10, 7], axis=0)
    start = np.array([[0.1] * 3, [np.nextafter(0.7, 1)] * 3, [9.0] * 3, [11.0] * 3])
    model = fn.KMeans(4, init=start, max_iter=1, tol=0)
    if steps == "fit":
        with pytest.warns(fn.errors.ConvergenceWarning):
            centers = model.fit(x).cluster_centers_
    else:
        model.cluster_centers_, model.n_features_in_ = start, 3
        centers = model.partial_stats(x).step()
    np.testing.assert_allclose(centers[:, 0], [0.1, 0.7, 0.1, 0.1], rtol=1e-15)  # the heaviest's
    right = lloyd(x, start, max_iter=1, tol=0)
    np.testing.assert_allclose(right.centers, centers, rtol=1e-15)


# ---- beyond scikit-learn ------------------------------------------------------------------------


def test_centers_in_float64_stay_beside_those_of_the_users_dtype():
    x = (blobs(400, 2, 6, spread=2) + 3e5).astype(np.float32)
    model = fn.KMeans(6, random_state=0).fit(x)
    exact = model._centers()
    assert model.cluster_centers_.tobytes() == exact.astype(np.float32).tobytes()
    assert (exact != model.cluster_centers_).any()
    model.cluster_centers_[0] += 1  # in place, too
    assert model._centers().tobytes() == model.cluster_centers_.astype(np.float64).tobytes()
    model.cluster_centers_ = x[:3]
    assert model.predict(x[:3]).tolist() == [0, 1, 2]
    assert model.transform(x).shape == (400, 3)
    model.cluster_centers_ = x[:3, :1]
    with pytest.raises(ValueError, match=r"cluster_centers_ must have shape \(k, 2\)"):
        model.predict(x)
    model.cluster_centers_ = np.full((3, 2), np.nan)
    with pytest.raises(ValueError, match="finite"):
        model.predict(x)


def test_history():
    x = blobs(800, 3, 8, spread=2)
    model = fn.KMeans(8, random_state=1, tol=0).fit(x)
    history = model.history_
    assert set(history) == {"inertia", "moved", "shift", "distances", "saved"}
    assert all(len(values) == model.n_iter_ == len(history) for values in history.values())
    assert history.stopped == "strict"
    assert history["moved"][0] == 800
    assert history["moved"][-1] == 0
    inertia = np.array(history["inertia"])
    assert (np.diff(inertia) <= 1e-9 * inertia[0]).all()
    assert inertia[-1] == pytest.approx(model.inertia_, rel=1e-12)
    assert (np.add(history["distances"], history["saved"]) >= 800 * 8 * 0).all()
    assert "iterations, last: inertia" in repr(history)
    assert fn.KMeans(8, random_state=1, tol=0.1).fit(x).history_.stopped == "tol"
    assert fn.KMeans(8, random_state=1, max_iter=2).fit(x).history_.stopped == "max_iter"


def test_max_time():
    x = np.random.default_rng(0).standard_normal((4000, 20))
    model = fn.KMeans(50, tol=0, random_state=0, max_time=1e-6).fit(x)
    assert model.history_.stopped == "max_time"
    assert 1 <= model.n_iter_ < 20 < fn.KMeans(50, tol=0, random_state=0).fit(x).n_iter_
    labels, _, _ = assign(x, model._centers())
    assert labels.tolist() == model.labels_.tolist()
    many = fn.KMeans(50, init="random", n_init=10**6, tol=0, random_state=0, max_time=0.3)
    begin = time.perf_counter()
    many.fit(x)
    assert 0.3 <= time.perf_counter() - begin < 60  # a million starts would take days


@pytest.mark.parametrize("which", [[1, 3], [False, True, False, True]], ids=["numbers", "mask"])
def test_fixed_centers_of_an_array(which):
    x = blobs(500, 3, 5, spread=2)
    start = x[:4] + 0.5
    model = fn.KMeans(4, init=start, fixed_centers=which, tol=0).fit(x)
    assert model.cluster_centers_[[1, 3]].tobytes() == start[[1, 3]].tobytes()
    right = lloyd(x, start, tol=0, fixed=np.array([False, True, False, True]))
    assert model.labels_.tolist() == right.labels.tolist()
    assert (model.cluster_centers_[[0, 2]] != start[[0, 2]]).all()


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_fixed_centers_beside_others(init):
    x = blobs(500, 3, 6, spread=0.2, seed=2)
    known = fn.KMeans(6, random_state=0, n_init=5).fit(x).cluster_centers_[:2]
    model = fn.KMeans(6, init=init, n_init=10, fixed_centers=known, random_state=0).fit(x)
    assert model.cluster_centers_[:2].tobytes() == known.tobytes()
    assert model.inertia_ < 1.01 * fn.KMeans(6, random_state=0, n_init=5).fit(x).inertia_
    all_known = fn.KMeans(2, fixed_centers=known).fit(x)
    assert all_known.cluster_centers_.tobytes() == known.tobytes()


@pytest.mark.parametrize("cls", [fn.KMeans, fn.MiniBatchKMeans])
def test_ctrl_c_keeps_the_best_centers(cls):
    x = np.random.default_rng(0).standard_normal((4000, 30))
    begun = []

    def init(data, n_clusters, random_state):
        """Random rows; Ctrl-C half a second after the second start has begun."""
        begun.append(threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]))
        if len(begun) == 2:
            begun[-1].start()
        return data[random_state.randint(len(data), size=n_clusters)]

    options = {"tol": 0, "max_iter": 10**7, "init": init, "n_init": 2}
    if cls is fn.KMeans:
        options["n_init"] = 10**6
    else:
        options["max_no_improvement"] = None
    model = cls(20, random_state=0, **options)
    with pytest.warns(RuntimeWarning, match="fit was interrupted after"):
        model.fit(x)
    begun[1].join()
    assert model.history_.interrupted
    labels, _, _ = assign(x, model._centers())
    assert labels.tolist() == model.labels_.tolist() == model.predict(x).tolist()
    assert model.inertia_ < cost(x, x[:20])


def test_ctrl_c_before_anything_was_learned():
    x = blobs()

    def init(data, n_clusters, random_state):
        raise KeyboardInterrupt

    model = fn.KMeans(3, init=init)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x)
    assert not hasattr(model, "cluster_centers_")


def test_verbose_speaks_as_scikit_learn(capsys):
    fn.KMeans(3, random_state=0, verbose=1).fit(blobs())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Initialization complete"
    assert lines[1].startswith("Iteration 0, inertia ")
    assert lines[-1].startswith("Converged at iteration ")
    fn.KMeans(3, random_state=0).fit(blobs())
    assert capsys.readouterr() == ("", "")


def test_progress(monkeypatch):
    import sys

    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    fn.KMeans(3, random_state=0, progress=True).fit(blobs())
    assert "k-means" in err.getvalue()
    assert "inertia=" in err.getvalue()
    err.truncate(0)
    fn.KMeans(3, random_state=0, progress=False).fit(blobs())
    fn.KMeans(3, random_state=0).fit(blobs())
    assert err.getvalue().strip("\0") == ""


# ---- as an object -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [fn.KMeans, fn.MiniBatchKMeans])
def test_parameters(cls):
    model = cls(5, tol=0.5, random_state=3)
    parameters = model.get_params()
    assert parameters["n_clusters"] == 5
    assert list(parameters) == list(cls._parameter_defaults())
    assert cls(**parameters).get_params() == parameters
    assert model.set_params(n_clusters=7, init="random") is model
    assert (model.n_clusters, model.init) == (7, "random")
    with pytest.raises(ValueError, match=r"Invalid parameter 'clusters' for .*; valid are n_clu"):
        model.set_params(clusters=3, tol=1)
    assert model.tol == 0.5
    assert repr(model).startswith(f"{cls.__name__}(n_clusters=7, init='random', ")
    assert repr(cls()) == f"{cls.__name__}()"
    wide = cls(init=np.zeros((100, 100)))
    assert len(repr(wide)) < 100


def test_defaults_are_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    for mine, theirs in (
        (fn.KMeans, cluster.KMeans),
        (fn.MiniBatchKMeans, cluster.MiniBatchKMeans),
    ):
        ours = mine().get_params()
        for name, value in theirs().get_params().items():
            assert ours[name] == value or name == "algorithm", name


@pytest.mark.parametrize("cls", [fn.KMeans, fn.MiniBatchKMeans])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_copies(cls, how):
    x = blobs(500, 3, 6, spread=1).astype(np.float32)
    model = cls(6, random_state=0).fit(x)
    other = how(model)
    assert other.predict(x).tobytes() == model.labels_.tobytes()
    assert other._centers().tobytes() == model._centers().tobytes()
    assert other.get_params() == model.get_params()
    how(cls())
    other.fit(x[:100])
    assert model.predict(x).tobytes() == model.labels_.tobytes()


def test_fit_methods_agree():
    x = blobs(200, 4, 5, spread=1)
    model = fn.KMeans(5, random_state=0).fit(x, None)
    assert fn.KMeans(5, random_state=0).fit_predict(x).tobytes() == model.labels_.tobytes()
    far = fn.KMeans(5, random_state=0).fit_transform(x)
    assert far.tobytes() == model.transform(x).tobytes()
    assert far.argmin(axis=1).tolist() == model.labels_.tolist()
    assert model.score(x) == pytest.approx(-model.inertia_, rel=1e-12)
    weights = np.arange(200.0)
    wanted = -(weights * (far.min(axis=1) ** 2)).sum()
    assert model.score(x, sample_weight=weights) == pytest.approx(wanted, rel=1e-9)
    assert model.labels_.dtype == np.int32
    assert isinstance(model.inertia_, float) and isinstance(model.n_iter_, int)
    assert model.n_features_in_ == 4


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = fn.KMeans(2, random_state=0).fit(X)
    before = model._centers().tobytes()
    with pytest.raises(ValueError, match="NaN"):
        model.fit(NAN)
    assert model._centers().tobytes() == before
    assert model.predict(X).tolist() == model.labels_.tolist()


def test_memory_for_labels_is_checked(monkeypatch):
    model = fn.KMeans(3, random_state=0)
    _core.fail_allocation(0)
    with pytest.raises(MemoryError):
        model.fit(np.random.default_rng(0).standard_normal((9000, 20)))
    _core.fail_allocation(-1)
    assert not hasattr(model, "cluster_centers_")
