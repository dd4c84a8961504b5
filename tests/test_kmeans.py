"""KMeans: exact, the same for any number of threads, scikit-learn's rules at the edges."""

import copy
import io
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from kmeans_problems import blobs, check, problem
from reference_kmeans import assign, cost, lloyd, plusplus, unit_rows

import fastnet as fn
from fastnet import _core
from fastnet.errors import ConvergenceWarning


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
    assert np.add(history["distances"], history["saved"]).tolist() == [800 * 8] * len(history)
    assert history["saved"][0] == 0 < history["saved"][-1]
    assert "iterations, last: inertia" in repr(history)
    assert fn.KMeans(8, random_state=1, tol=0.1).fit(x).history_.stopped == "tol"
    assert fn.KMeans(8, random_state=1, max_iter=2).fit(x).history_.stopped == "max_iter"


@pytest.mark.parametrize("d", [4, 200])
def test_no_less_than_nothing_is_saved(d):
    """Ties everywhere: float64 looks again at what float32 could not tell apart."""
    x = np.random.default_rng(0).integers(0, 3, (2000, d)).astype(np.float32)
    history = fn.KMeans(6, init=x[:6], tol=0).fit(x).history_
    assert min(history["saved"]) == 0
    assert max(history["distances"]) > 2000 * 6


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


def test_memory_for_labels_is_checked(monkeypatch):
    model = fn.KMeans(3, random_state=0)
    _core.fail_allocation(0)
    with pytest.raises(MemoryError):
        model.fit(np.random.default_rng(0).standard_normal((9000, 20)))
    _core.fail_allocation(-1)
    assert not hasattr(model, "cluster_centers_")
