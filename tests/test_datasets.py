"""Data sets: the embedded digits, and MNIST from folders, caches and unreliable servers."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from servers import BODY, FILES, IMAGES, PACKED, assert_small_set, idx_bytes, status, wrong_bytes

from fastnet import datasets
from fastnet._download import DownloadError

REAL_DATA = os.environ.get("FASTNET_DATA")  # before the fixtures hide it


# ---- digits ------------------------------------------------------------------------------------


def test_digits_are_the_source_scaled():
    (x_train, y_train), (x_test, y_test) = datasets.load_digits()
    assert x_train.shape == (1437, 8, 8) and x_test.shape == (360, 8, 8)
    assert x_train.dtype == x_test.dtype == np.uint8
    assert y_train.shape == (1437,) and y_test.shape == (360,)
    assert y_train.dtype == y_test.dtype == np.int64
    x, y = np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])
    assert x.max() == 255
    source = np.rint(x * (16 / 255)).astype(np.uint8)
    np.testing.assert_array_equal(np.rint(source * (255 / 16)), x)
    digest = hashlib.sha256(source.tobytes() + y.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_digits_equal_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    source = sklearn_datasets.load_digits()
    (x_train, y_train), (x_test, y_test) = datasets.load_digits()
    x = np.concatenate([x_train, x_test])
    np.testing.assert_array_equal(np.rint(x * (16 / 255)), source.images)
    np.testing.assert_array_equal(np.concatenate([y_train, y_test]), source.target)


def test_digits_test_part_has_every_class():
    _, (_, y_test) = datasets.load_digits()
    counts = np.bincount(y_test)
    assert len(counts) == 10 and counts.min() >= 33 and counts.max() <= 37


def test_digits_are_new_arrays_at_each_call():
    (x, y), _ = datasets.load_digits()
    x[:], y[:] = 7, 7
    (x_again, y_again), _ = datasets.load_digits()
    assert x_again.max() == 255 and y_again.max() == 9


def test_digits_carry_their_attribution():
    text = (Path(datasets.__file__).parent / "data" / "DIGITS.md").read_text(encoding="utf-8")
    for part in ("Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49"):
        assert part in text


# ---- load_mnist: cache and FASTNET_DATA --------------------------------------------------------


def test_load_downloads_once(server, cache):
    assert_small_set(datasets.load_mnist())
    assert sorted(p.name for p in cache.iterdir()) == sorted(PACKED)
    assert len(server.requests) == 4
    assert_small_set(datasets.load_mnist(progress=False))
    assert len(server.requests) == 4


def test_load_downloads_only_what_is_missing(server, cache):
    datasets.load_mnist()
    server.requests.clear()
    (cache / IMAGES).unlink()
    assert_small_set(datasets.load_mnist())
    assert server.requests == [f"/first/{IMAGES}"]


def test_load_uses_the_second_mirror(server, cache):
    server.routes["first"] = wrong_bytes
    assert_small_set(datasets.load_mnist())


def test_load_without_any_mirror_says_what_to_do(server, cache):
    server.routes = {"first": status(404), "second": status(403)}
    with pytest.raises(DownloadError) as caught:
        datasets.load_mnist()
    message = str(caught.value)
    for part in ("/first/", "404", "/second/", "403", str(cache), "FASTNET_DATA", IMAGES):
        assert part in message
    assert list(cache.iterdir()) == []


def test_load_fashion_mnist_has_a_folder_of_its_own(server, cache):
    assert_small_set(datasets.load_fashion_mnist())
    assert not cache.exists()
    assert sorted(p.name for p in (cache.parent / "fashion-mnist").iterdir()) == sorted(PACKED)


def write_set(folder, plain=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in FILES.items():
        if plain:
            (folder / name).write_bytes(idx_bytes(array))
        else:
            # Packed otherwise than the published files, so with another SHA-256.
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array), 9))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("sub", ["", "mnist"])
def test_load_takes_files_of_fastnet_data(server, cache, monkeypatch, tmp_path, plain, sub):
    monkeypatch.setenv("FASTNET_DATA", str(tmp_path / "data"))
    write_set(tmp_path / "data" / sub, plain)
    assert_small_set(datasets.load_mnist())
    assert server.requests == [] and not cache.exists()


@pytest.mark.parametrize("plain", [False, True])
def test_load_takes_files_put_into_the_cache(server, cache, plain):
    write_set(cache, plain)
    assert_small_set(datasets.load_mnist())
    assert server.requests == []


def test_fashion_mnist_is_not_taken_from_the_top_folder(server, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNET_DATA", str(tmp_path / "data"))
    write_set(tmp_path / "data")
    datasets.load_fashion_mnist()
    assert len(server.requests) == 4
    write_set(tmp_path / "data" / "fashion-mnist")
    server.requests.clear()
    assert_small_set(datasets.load_fashion_mnist())
    assert server.requests == []


def test_load_passes_over_an_incomplete_folder(server, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNET_DATA", str(tmp_path / "data"))
    write_set(tmp_path / "data")
    (tmp_path / "data" / IMAGES).unlink()
    assert_small_set(datasets.load_mnist())
    assert len(server.requests) == 4


def test_load_names_a_damaged_file_of_fastnet_data(server, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNET_DATA", str(tmp_path))
    write_set(tmp_path)
    (tmp_path / IMAGES).write_bytes(BODY[:-20])
    with pytest.raises(ValueError, match=f"{IMAGES}.*truncated"):
        datasets.load_mnist()
    assert server.requests == []


@pytest.mark.parametrize(
    ("stem", "array", "message"),
    [
        ("train-images-idx3-ubyte", np.zeros((300, 28, 27), np.uint8), r"shape \(300, 28, 28\)"),
        ("train-images-idx3-ubyte", np.zeros((299, 28, 28), np.uint8), r"got .*\(299, 28, 28\)"),
        ("t10k-labels-idx1-ubyte", np.full(7, 10, np.uint8), "0 to 9; got 10"),
        ("t10k-labels-idx1-ubyte", np.zeros((7, 1), np.uint8), r"shape \(7,\)"),
    ],
)
def test_load_refuses_another_shape(cache, monkeypatch, tmp_path, stem, array, message):
    monkeypatch.setenv("FASTNET_DATA", str(tmp_path))
    write_set(tmp_path, plain=True)
    (tmp_path / stem).write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=f"{stem}.*{message}"):
        datasets.load_mnist()


@pytest.mark.parametrize("name", [IMAGES, IMAGES[:-3]])
def test_load_replaces_a_damaged_file_of_the_cache(server, cache, name):
    datasets.load_mnist()
    server.requests.clear()
    (cache / name).write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match=f"{name}.*downloaded again") as caught:
        assert_small_set(datasets.load_mnist())
    assert caught[0].filename == __file__
    assert server.requests == [f"/first/{IMAGES}"]
    assert sorted(p.name for p in cache.iterdir()) == sorted(PACKED)
    assert_small_set(datasets.load_mnist())


def test_cache_folder_of_each_system(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "mine"))
    assert datasets.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FASTNET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(datasets.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert datasets.cache_folder() == tmp_path / "xdg" / "fastnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert datasets.cache_folder() == Path.home() / ".cache" / "fastnet"
    monkeypatch.setattr(datasets.sys, "platform", "darwin")
    assert datasets.cache_folder() == Path.home() / "Library" / "Caches" / "fastnet"
    monkeypatch.setattr(datasets.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert datasets.cache_folder() == tmp_path / "local" / "fastnet"


# ---- the published sets ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_MNIST", "_FASHION_MNIST"])
def test_published_sets_are_fully_described(name):
    spec = getattr(datasets, name)
    assert set(spec.sha256) == set(FILES)
    assert len(set(spec.sha256.values())) == 4
    assert all(len(bytes.fromhex(digest)) == 32 for digest in spec.sha256.values())
    assert len(spec.mirrors) >= 2
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in spec.mirrors)


@pytest.mark.skipif(
    not REAL_DATA or not Path(REAL_DATA, "mnist").is_dir(),
    reason="FASTNET_DATA names no folder with mnist/ in it",
)
def test_real_mnist():
    (x_train, y_train), (x_test, y_test) = datasets.load_mnist()
    assert x_train.shape == (60_000, 28, 28) and x_test.shape == (10_000, 28, 28)
    assert x_train.dtype == x_test.dtype == np.uint8 and x_train.max() == 255
    assert y_train.dtype == y_test.dtype == np.int64
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    digest = hashlib.sha256(idx_bytes(x_test)).hexdigest()
    assert digest == "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
