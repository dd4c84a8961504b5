"""What KMeans takes and refuses: arrays of all kinds, sparse and mapped ones, edges and errors."""

import copy
import tracemalloc

import numpy as np
import pytest
from kmeans_problems import blobs
from reference_kmeans import lloyd

import fastnet as fn
from fastnet.errors import ConvergenceWarning, NotFittedError


def same_partition(a, b):
    """Whether two labellings agree but for the clusters' numbers."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


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
    "dtype of no name": (
        {"dtype": "foo"},
        X,
        "dtype must be 'float32', 'float64' or None, got 'foo'",
    ),
    "squares of X": (
        {},
        X * 1e200,
        "sum of the squares of X, by sample_weight, is more than float64",
    ),
    "long for cosine": (
        {"metric": "cosine"},
        X * 1e200,
        "the squares of row 0, .* are beyond float64",
    ),
    "short for cosine": ({"metric": "cosine"}, X * 1e-200, "the squares of row 0, .* are beyond"),
    "no direction": ({"metric": "cosine"}, X * (np.arange(20) != 3)[:, None], "row 3 is all zeros"),
    "NaN for cosine": ({"metric": "cosine"}, NAN, "X contains NaN: row 7, column 2"),
    "infinity for cosine": ({"metric": "cosine"}, INF, "X contains infinity: row 19, column 0"),
    "ragged": ({"fixed_centers": [[0, 0, 0], [1]]}, X, "fixed_centers cannot be made an array"),
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
        (np.full(20, 1e308), "sum of sample_weight is more than float64 holds"),
    ],
    ids=["zeros", "empty", "short", "negative", "NaN", "text", "huge"],
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


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = fn.KMeans(2, random_state=0).fit(X)
    before = model._centers().tobytes()
    with pytest.raises(ValueError, match="NaN"):
        model.fit(NAN)
    assert model._centers().tobytes() == before
    assert model.predict(X).tolist() == model.labels_.tolist()


@pytest.mark.parametrize("cls", [fn.KMeans, fn.MiniBatchKMeans])
def test_a_failed_fit_of_other_columns_leaves_a_model_that_predicts(cls):
    x = blobs(500, 64, 5)
    bad = blobs(500, 32, 5)
    bad[499, 31] = np.nan
    model = cls(5, random_state=0).fit(x)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="NaN: row 499, column 31"):
        model.fit(bad)
    assert vars(model).keys() == before.keys() and model.n_features_in_ == 64
    assert all(vars(model)[name] is before[name] for name in before if name != "_counts")
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    fresh = cls(5, random_state=0)
    with pytest.raises(ValueError, match="NaN: row 499, column 31"):
        fresh.fit(bad)
    assert vars(fresh).keys() == vars(cls(5)).keys()
