"""Model files of k-means: the same model back, and nothing else is read."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from model_files import run_python

import fastnet as fn
from fastnet import ModelFileError, storage

X = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
START = X[:3] + 0.25


def models():
    named = fn.KMeans(5, random_state=0).fit(X)
    named.feature_names_in_ = np.array(["a", "ä", "c", "d"], dtype=object)
    replaced = fn.KMeans(5, random_state=0).fit(X)
    replaced.cluster_centers_ = X[:7]
    return {
        "plain": fn.KMeans(5, random_state=0).fit(X),
        "double": fn.KMeans(5, random_state=None, tol=0, n_init=3).fit(X.astype("d") + 1 / 3),
        "cosine": fn.KMeans(4, metric="cosine", algorithm="lloyd", max_time=3.5).fit(X),
        "array": fn.KMeans(3, init=START, fixed_centers=[1], dtype="float64").fit(X),
        "fixed": fn.KMeans(4, fixed_centers=START, n_threads=2, max_memory=10**9).fit(X),
        "function": fn.KMeans(3, init=lambda x, k, random_state: x[:k], n_init=1).fit(X),
        "generator": fn.KMeans(3, random_state=np.random.default_rng(0)).fit(X),
        "NumPy numbers": fn.KMeans(np.int64(3), tol=np.float32(0.5)).fit(X),
        "batches": fn.MiniBatchKMeans(5, random_state=1, batch_size=50).fit(X),
        "partial": fn.MiniBatchKMeans(5, random_state=1).partial_fit(X[:99]),
        "begun": fn.KMeans(5, random_state=0).initialize(X),
        "named": named,
        "replaced": replaced,
    }


MODELS = models()


@pytest.mark.filterwarnings("ignore:.*feature names:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_same_model_comes_back(name, tmp_path):
    model = MODELS[name]
    model.save(tmp_path / "m", extra={"who": "me"})
    other = fn.load(tmp_path / "m")
    assert type(other) is type(model)
    assert other._centers().tobytes() == model._centers().tobytes()
    assert other.cluster_centers_.tobytes() == model.cluster_centers_.tobytes()
    assert other.cluster_centers_.dtype == model.cluster_centers_.dtype
    for attribute in ("inertia_", "n_iter_", "n_steps_", "n_features_in_"):
        if hasattr(model, attribute):
            assert getattr(other, attribute) == getattr(model, attribute)
    assert np.array_equal(other.predict(X), model.predict(X))
    before, after = model.get_params(), other.get_params()
    if name not in ("function", "generator"):
        for key, value in before.items():
            assert np.array_equal(np.asarray(after[key]), np.asarray(value)), key
    if name == "named":
        assert other.feature_names_in_.tolist() == ["a", "ä", "c", "d"]
    assert storage.read_extra(tmp_path / "m") == {"who": "me"}
    about = storage.info(tmp_path / "m")
    assert (about.kind, about.description["class"]) == ("kmeans", type(model).__name__)
    (tmp_path / "again").write_bytes(b"")
    other.save(tmp_path / "again")
    other.set_params(random_state=0).fit(X[:100])


def test_learning_goes_on_after_loading(tmp_path):
    model = fn.MiniBatchKMeans(5, random_state=1, reassignment_ratio=0).partial_fit(X[:150])
    model.save(tmp_path / "m")
    other = fn.load(tmp_path / "m").partial_fit(X[150:])
    assert other._centers().tobytes() == model.partial_fit(X[150:])._centers().tobytes()


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="not fitted yet"):
        fn.KMeans(3).save(tmp_path / "m")
    model = fn.KMeans(3, random_state=0).fit(X)
    model.cluster_centers_ = np.full((3, 4), np.inf)
    with pytest.raises(ValueError, match="finite"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


# ---- hostile files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file as (header, its description as an object, body)."""
    path = tmp_path_factory.mktemp("good") / "m"
    fn.MiniBatchKMeans(3, init=START, random_state=0).fit(X).save(path)
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def spoiled(good, change):
    """The bytes of the file with its header, description or body changed."""
    header, body = json.loads(json.dumps(good[0])), good[1]
    about = json.loads(header["__metadata__"]["fastnet"])
    body = change(header, about["description"], body) or body
    header["__metadata__"]["fastnet"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def put(key, value):
    return lambda header, about, body: about.update({key: value})


def parameter(key, value):
    return lambda header, about, body: about["parameters"].update({key: value})


def tensor(name, key, value):
    return lambda header, about, body: header[name].update({key: value})


HOSTILE = {
    "class": (put("class", "os.system"), "unknown class 'os.system'"),
    "a field more": (put("code", "print(1)"), "k-means model must have class"),
    "clusters": (put("clusters", 4), "must have shape"),
    "clusters of no sense": (put("clusters", 0), "impossible"),
    "huge": (put("clusters", 10**30), "must have shape"),
    "features": (put("features", -4), "impossible"),
    "text for a number": (put("features", "4"), "cannot have features '4'"),
    "true for a number": (put("n_iter", True), "cannot have n_iter True"),
    "dtype": (put("dtype", "object"), "unknown dtype 'object'"),
    "names": (put("feature_names", ["a"]), "feature_names must be 4 texts"),
    "names of no sense": (put("feature_names", [1, 2, 3, 4]), "feature_names must be 4 texts"),
    "an unknown parameter": (parameter("x", 1), "unknown parameter 'x'"),
    "a parameter twice": (parameter("init", "random"), "parameter init once"),
    "an array that is none": (parameter("init rows", "3"), "an array of '3' rows"),
    "a wrong parameter": (parameter("n_clusters", 0), "n_clusters must be an integer >= 1"),
    "wrong text": (parameter("metric", "x" * 900), "unknown metric"),
    "list for a number": (parameter("tol", [1]), "tol must be a number"),
    "float32 centers": (tensor("counts", "dtype", "F32"), "is not 12 bytes"),
    "another kind": (lambda h, a, b: a.clear(), "k-means model must have class"),
    "too large": (lambda h, a, b: struct.pack("<d", 1e300) + b[8:], "too large for float32"),
    "NaN": (lambda h, a, b: b[:-8] + struct.pack("<d", float("nan")), "NaN or infinity"),
    "cut off": (lambda h, a, b: b[:-1], "behind the header"),
    "too long": (lambda h, a, b: b + b"x", "behind the header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, good, tmp_path):
    change, message = HOSTILE[name]
    path = tmp_path / "m"
    path.write_bytes(spoiled(good, lambda *a: None))
    fn.load(path)
    path.write_bytes(spoiled(good, change))
    with pytest.raises(ModelFileError, match=f"m cannot be loaded: .*{message}"):
        fn.load(path)


def test_float64_weights_of_a_network_are_refused(tmp_path):
    net = fn.Sequential([fn.layers.Input(2), fn.layers.Dense(1)], seed=0)
    net.build()
    net.save(tmp_path / "net")
    data = (tmp_path / "net").read_bytes()
    n = int.from_bytes(data[:8], "little")
    header, body, at = json.loads(data[8 : 8 + n]), b"", 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 2 * (entry["data_offsets"][1] - entry["data_offsets"][0])
            entry.update(dtype="F64", data_offsets=[at, at + size])
            body, at = body + bytes(size), at + size
    text = json.dumps(header).encode()
    (tmp_path / "net").write_bytes(struct.pack("<Q", len(text)) + text + body)
    with pytest.raises(ModelFileError, match="must have dtype F32, it has 'F64'"):
        fn.load(tmp_path / "net")


def test_every_cut_and_many_flipped_bits(good, tmp_path):
    """A damaged file is a ModelFileError or a model that predicts."""
    data = bytearray(spoiled(good, lambda *a: None))
    rng = np.random.default_rng(0)
    path = tmp_path / "m"
    cuts = [bytes(data[:n]) for n in range(0, len(data), 7)]
    for _ in range(700):
        flipped = bytearray(data)
        for at in rng.integers(0, len(data), int(rng.integers(1, 4))):
            flipped[at] ^= 1 << int(rng.integers(8))
        cuts.append(bytes(flipped))
    loaded = 0
    for content in cuts:
        path.write_bytes(content)
        try:
            model = fn.load(path)
        except ModelFileError:
            continue
        loaded += 1
        assert model.predict(np.zeros((3, model.n_features_in_))).shape == (3,)
    assert 20 < loaded < len(cuts) / 2


def test_sample_of_kills_during_save_of_centers():
    script = Path(__file__).parent / "soak" / "kill_during_save.py"
    done = run_python(str(script), "--count", "20", "--seed", "2", "--kmeans")
    assert "20 kills" in done.stdout and "0 damaged files" in done.stdout
