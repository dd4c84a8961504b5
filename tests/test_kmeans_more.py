"""Around KMeans: mini-batches, several processes, paths over k, scikit-learn, threads and forks."""

import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kmeans_problems import blobs
from reference_kmeans import assign

import fastnet as fn
from fastnet.cluster import Statistics, merge, silhouette

# ---- mini-batches -------------------------------------------------------------------------------


def test_minibatches_come_close_to_kmeans():
    x = blobs(20_000, 6, 12, spread=1).astype(np.float32)
    full = fn.KMeans(12, random_state=0, n_init=3).fit(x)
    mini = fn.MiniBatchKMeans(12, random_state=0, n_init=3).fit(x)
    assert full.inertia_ < 1.1 * mini.inertia_
    assert mini.inertia_ < 1.1 * full.inertia_
    assert mini.labels_.tolist() == mini.predict(x).tolist()
    assert mini.inertia_ == pytest.approx(-mini.score(x), rel=1e-12)
    assert mini.cluster_centers_.dtype == np.float32
    assert mini.n_steps_ == len(mini.history_)
    assert mini.n_iter_ == -(-mini.n_steps_ * 1024 // 20_000)
    assert mini.history_.stopped == "no_improvement"
    short = fn.MiniBatchKMeans(12, random_state=0, compute_labels=False, max_iter=1).fit(x)
    assert not hasattr(short, "labels_")
    assert short.inertia_ == pytest.approx(-short.score(x), rel=0.3)


def test_minibatch_steps_by_hand():
    """Centres are means of all rows they ever got, weighted."""
    rng = np.random.default_rng(0)
    start = np.array([[0.0, 0.0], [9.0, 0.0]])
    model = fn.MiniBatchKMeans(2, init=start, reassignment_ratio=0, random_state=0)
    sums, counts = np.zeros((2, 2)), np.zeros(2)
    centers = start
    for step in range(5):
        x = rng.standard_normal((30, 2)) + [[0, 0], [9, 0]][step % 2] + rng.integers(0, 2, (30, 1))
        weights = rng.uniform(0, 2, 30)
        labels, _, _ = assign(x, centers)
        np.add.at(sums, labels, weights[:, None] * x)
        counts += np.bincount(labels, weights, minlength=2)
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1e-300)[:, None], centers)
        model.partial_fit(x, sample_weight=weights)
        np.testing.assert_allclose(model.cluster_centers_, centers, rtol=1e-10, atol=1e-12)
        assert model.n_steps_ == step + 1
        assert model.labels_.tolist() == assign(x, centers)[0].tolist()


def test_minibatch_same_bits_for_any_number_of_threads(always_thread):
    x = blobs(6000, 8, 15, spread=2)
    weights = np.random.default_rng(0).uniform(0, 1, 6000)
    seen = set()
    for threads in (1, 2, 3, 4, 8):
        model = fn.MiniBatchKMeans(15, random_state=2, n_threads=threads, max_iter=4)
        model.fit(x, sample_weight=weights)
        model.partial_fit(x[:100])
        seen.add((model.labels_.tobytes(), model._centers().tobytes(), model.inertia_))
    assert len(seen) == 1


def test_minibatch_begins_poor_clusters_anew():
    x = blobs(5000, 2, 3, spread=0.1)
    start = np.array([[0.0, 0.0], [1e6, 0], [2e6, 0]])
    model = fn.MiniBatchKMeans(3, init=start, random_state=0).fit(x)
    assert (np.bincount(model.labels_) > 0).sum() == 3
    assert model.inertia_ < 0.5 * fn.KMeans(1).fit(x).inertia_
    kept = fn.MiniBatchKMeans(3, init=start, random_state=0, reassignment_ratio=0).fit(x)
    assert kept.cluster_centers_[1:].tolist() == start[1:].tolist()


def test_minibatch_parameters():
    x = blobs(500, 3, 4)
    with pytest.warns(RuntimeWarning, match="init_size=3 should be larger than n_clusters=4"):
        fn.MiniBatchKMeans(4, init_size=3, random_state=0).fit(x)
    for name, value in {
        "batch_size": 0,
        "reassignment_ratio": -1,
        "max_no_improvement": -1,
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            fn.MiniBatchKMeans(4, **{name: value}).fit(x)
    stopped = fn.MiniBatchKMeans(4, tol=10.0, random_state=0, batch_size=50).fit(x)
    assert (stopped.history_.stopped, stopped.n_steps_) == ("tol", 2)
    limited = fn.MiniBatchKMeans(4, random_state=0, max_time=1e-9, batch_size=50).fit(x)
    assert limited.history_.stopped == "max_time"
    cosine = fn.MiniBatchKMeans(4, metric="cosine", random_state=0).fit(x)
    np.testing.assert_allclose((cosine.cluster_centers_**2).sum(axis=1), 1, rtol=1e-12)


def test_minibatch_goes_on_after_a_copy():
    import pickle

    x = blobs(900, 3, 4)
    model = fn.MiniBatchKMeans(4, random_state=0).partial_fit(x[:300])
    other = pickle.loads(pickle.dumps(model))
    for m in (model, other):
        m.partial_fit(x[300:600]).partial_fit(x[600:])
    assert other._centers().tobytes() == model._centers().tobytes()
    with pytest.raises(ValueError, match="X has 2 features, but MiniBatchKMeans is expecting 3"):
        model.partial_fit(x[:, :2])


# ---- several processes --------------------------------------------------------------------------


def fit_in_parts(model, parts, weights, map_=map):
    """Steps from partial statistics until the centres have converged."""
    model.initialize(np.concatenate(parts))
    while not model.update(map_(model.partial_stats, parts, weights)):
        assert model.n_iter_ < 200
    return model


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"fixed_centers": [1]}],
                         ids=["plain", "cosine", "fixed"])  # fmt: skip
def test_statistics_of_parts_make_the_steps_of_a_fit(options):
    x = blobs(1500, 4, 6, spread=2) + 2
    x[:3] += 50
    weights = np.random.default_rng(1).integers(0, 3, 1500).astype(float)
    start = np.concatenate([x[:4], [[400.0] * 4, [500.0] * 4]])  # two begin empty
    options = {"init": start, "tol": 0} | options
    whole = fn.KMeans(6, **options).fit(x, sample_weight=weights)
    cuts = [100, 130, 800]
    parts, w = np.split(x, cuts), np.split(weights, cuts)
    shared = fit_in_parts(fn.KMeans(6, **options), parts, w)
    np.testing.assert_allclose(shared._centers(), whole._centers(), rtol=1e-10, atol=1e-12)
    assert shared.predict(x).tobytes() == whole.labels_.tobytes()
    assert abs(shared.n_iter_ - whole.n_iter_) <= 1
    assert shared.inertia_ == pytest.approx(whole.inertia_, rel=1e-9)
    loose = fit_in_parts(fn.KMeans(6, **options | {"tol": 0.05}), parts, w)
    assert loose.n_iter_ == fn.KMeans(6, **options | {"tol": 0.05}).fit(x, None, weights).n_iter_


def test_joblib_processes_share_a_fit():
    joblib = pytest.importorskip("joblib")
    x = blobs(900, 3, 5, spread=1).astype(np.float32)
    model = fn.KMeans(5, random_state=0, tol=0)
    with joblib.Parallel(2) as pool:
        fit_in_parts(
            model,
            np.array_split(x, 3),
            [None] * 3,
            lambda f, xs, ws: pool(joblib.delayed(f)(a, b) for a, b in zip(xs, ws, strict=True)),
        )
    whole = fn.KMeans(5, random_state=0, tol=0).fit(x)
    np.testing.assert_allclose(model._centers(), whole._centers(), rtol=1e-10)
    assert model.predict(x).tobytes() == whole.labels_.tobytes()


def test_merged_statistics():
    x = blobs(400, 3, 4) + 1e5
    model = fn.KMeans(4, random_state=0, max_iter=1).initialize(x)
    parts = [model.partial_stats(part) for part in np.array_split(x, 3)]
    both, whole = merge(parts), model.partial_stats(x)
    for name in ("sums", "weights", "inertia", "rows", "mean", "spread"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=1e-9)
    assert parts[0].merge(*parts[1:]).sums.tobytes() == both.sums.tobytes()
    assert both.variance == pytest.approx(x.var(axis=0).mean(), rel=1e-9)
    model.update(whole)
    with pytest.raises(ValueError, match="belong to other centers"):
        model.update(whole)
    with pytest.raises(ValueError, match="different centers"):
        merge([whole, model.partial_stats(x)])
    with pytest.raises(ValueError, match="no statistics"):
        merge([])
    assert isinstance(whole, Statistics)


# ---- choosing k ---------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["silhouette", "bic"])
def test_path_finds_the_number_of_blobs(criterion):
    x = blobs(900, 3, 5, seed=3, spread=0.2)
    path = fn.KMeans.path(x, range(1, 9), criterion=criterion, random_state=0)
    assert path.k == tuple(range(1, 9))
    assert path.best_k == 5 == len(path.best.cluster_centers_)
    assert (np.diff(path.inertia) < 0).all()
    assert np.isnan(path.silhouette[0])
    assert np.isfinite(path.silhouette[1:]).all()
    assert repr(path).splitlines()[5].endswith("<- best")
    for k, model in path.models.items():
        assert model.n_clusters == k
        if k > 1:  # begun at the centres before and one more
            assert model.init.shape == (k, 3)
            assert np.array_equal(model.init[:-1], path.models[k - 1]._centers())


def test_path_with_gaps_weights_and_more_starts():
    x = blobs(2000, 2, 9, seed=1, spread=0.4)
    weights = np.random.default_rng(0).integers(0, 3, 2000)
    path = fn.KMeans.path(x, [12, 3, 9], sample_weight=weights, random_state=0, n_init=3,
                          sample_size=300)  # fmt: skip
    assert path.k == (3, 9, 12)
    assert (np.diff(path.inertia) < 0).all()
    assert path.inertia[1] <= 1.0001 * fn.KMeans(9, random_state=0).fit(x, None, weights).inertia_
    again = fn.KMeans.path(x, [12, 3, 9], sample_weight=weights, random_state=0, n_init=3,
                           sample_size=300)  # fmt: skip
    assert again.inertia.tolist() == path.inertia.tolist()


def test_errors_of_path():
    x = blobs(20, 2)
    for arguments, options, message in (
        ([], {}, "k_range has no numbers"),
        ([0, 1], {}, "k_range must be an integer >= 1"),
        ([2, 30], {}, "n_samples=20 should be >= the largest k, 30"),
        ([2], {"criterion": "elbow"}, "unknown criterion 'elbow'"),
        ([2], {"init": "random"}, "path chooses init itself"),
        ([2], {"sample_size": 1}, "sample_size must be an integer >= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            fn.KMeans.path(x, arguments, **options)
    with pytest.raises(TypeError, match=r"several numbers, as range\(2, 13\), got 5"):
        fn.KMeans.path(x, 5)


def test_silhouette_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    x = blobs(700, 4, 5, spread=2) + 100
    labels = np.random.default_rng(0).integers(0, 5, 700) * 3
    labels[0] = 99  # a cluster of one
    for these in (labels, fn.KMeans(5, random_state=0).fit(x).labels_):
        assert silhouette(x, these) == pytest.approx(metrics.silhouette_score(x, these), abs=1e-12)
    assert np.isnan(silhouette(x, np.zeros(700)))
    assert silhouette(np.repeat(x[:2], 3, axis=0), np.repeat([0, 1], 3)) == 1


# ---- scikit-learn -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["KMeans", "MiniBatchKMeans"])
def test_all_checks_of_scikit_learn(name):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    from fastnet import sklearn as ours

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(getattr(ours, name)(), on_skip=None)
    assert len(results) >= 55
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert sum(result["status"] == "skipped" for result in results) <= 2  # pandas, array API
    assert not [r for r in results if r["expected_to_fail"]]


def test_in_a_pipeline_and_a_search():
    pytest.importorskip("sklearn")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from fastnet.sklearn import KMeans

    x = blobs(200, 3, 4)
    pipeline = make_pipeline(StandardScaler(), KMeans(4, random_state=0))
    assert len(set(pipeline.fit_predict(x))) == 4
    search = GridSearchCV(pipeline, {"kmeans__n_clusters": [2, 4]}, cv=2).fit(x)
    assert search.best_params_ == {"kmeans__n_clusters": 4}
    model = KMeans(4, random_state=0).fit(x)
    assert model.labels_.tolist() == fn.KMeans(4, random_state=0).fit(x).labels_.tolist()
    from sklearn.exceptions import ConvergenceWarning as Theirs

    with pytest.warns(Theirs):
        KMeans(4).fit(np.ones((9, 2)))


def test_scikit_learn_is_not_needed():
    code = """
import sys, numpy as np, fastnet as fn
x = np.random.default_rng(0).random((300, 3))
fn.KMeans(3, random_state=0).fit(x).predict(x)
fn.MiniBatchKMeans(3, random_state=0).fit(x).transform(x)
fn.KMeans.path(x, [2, 3], random_state=0)
assert not {"sklearn", "scipy", "tqdm", "pandas", "joblib"} & set(sys.modules), sorted(sys.modules)
sys.modules["sklearn"] = sys.modules["sklearn.base"] = None
try:
    import fastnet.sklearn
except ImportError as error:
    assert 'pip install "fastnet[sklearn]"' in str(error)
else:
    raise AssertionError
"""
    run_python(code)


# ---- threads, forks -----------------------------------------------------------------------------


def run_python(code, **environment):
    path = [str(Path(fn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_several_python_threads(always_thread):
    """Fits of different models, and predictions with one, beside each other."""
    x = blobs(3000, 5, 9, spread=2)

    def fit(seed):
        return fn.KMeans(9, random_state=seed, max_iter=10).fit(x)._centers().tobytes()

    alone = [fit(seed) for seed in range(6)]
    model = fn.KMeans(9, random_state=0).fit(x)
    barrier = threading.Barrier(6)

    def work(seed):
        barrier.wait()
        for _ in range(20):
            assert model.predict(x[:700]).tobytes() == model.labels_[:700].tobytes()
        return fit(seed)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == alone


def test_forks_after_a_fit():
    code = """
import os, numpy as np, fastnet as fn
x = np.random.default_rng(0).standard_normal((4000, 20))
with fn.threads(2):
    model = fn.KMeans(9, random_state=0, max_iter=5).fit(x)
    want = model._centers().tobytes(), model.predict(x).tobytes()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            again = fn.KMeans(9, random_state=0, max_iter=5).fit(x)
            same = (again._centers().tobytes(), model.predict(x).tobytes()) == want
            os._exit(0 if same else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    out = run_python("import warnings; warnings.simplefilter('ignore')\n" + code,
                     FASTNET_ALWAYS_THREAD="1")  # fmt: skip
    assert out.split() == ["0"] * 20
