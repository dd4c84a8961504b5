"""Data sets: the embedded digits, and MNIST from folders, caches and unreliable servers."""

import contextlib
import dataclasses
import errno
import gzip
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fastnet import _download, datasets
from fastnet._download import DownloadError, fetch

COUNTS = (300, 7)
REAL_DATA = os.environ.get("FASTNET_DATA")  # before the fixtures hide it


def idx_bytes(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_files():
    """A data set named and formed as MNIST, small: name without .gz -> array."""
    rng = np.random.default_rng(5)
    files = {}
    for part, count in zip(("train", "t10k"), COUNTS, strict=True):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte"] = images
        files[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count, dtype=np.uint8)
    return files


FILES = small_files()
PACKED = {f"{name}.gz": gzip.compress(idx_bytes(array), 1) for name, array in FILES.items()}
SHA256 = {name: hashlib.sha256(PACKED[f"{name}.gz"]).hexdigest() for name in FILES}
IMAGES = "train-images-idx3-ubyte.gz"
BODY = PACKED[IMAGES]


# ---- a server that can misbehave ---------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers with the route that is set for the path's first part, else with the right file."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        mirror, name = self.path.strip("/").split("/")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client went away
            server.routes.get(mirror, serve)(self, PACKED[name])

    def begin(self, length, status=200, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_):
        pass


def serve(handler, body):
    handler.begin(len(body))
    handler.wfile.write(body)


def without_length(handler, body):
    handler.begin(None)
    handler.wfile.write(body)


def truncated(handler, body):
    handler.begin(len(body))
    handler.wfile.write(body[: len(body) // 2])


def truncated_without_length(handler, body):
    handler.begin(None)
    handler.wfile.write(body[: len(body) // 2])


def announces_too_little(handler, body):
    handler.begin(len(body) - 9)
    handler.wfile.write(body)


def wrong_bytes(handler, body):
    serve(handler, body[:-1] + bytes([body[-1] ^ 1]))


def error_page(handler, body):
    serve(handler, b"<html>please log in</html>")


def no_http(handler, body):
    handler.wfile.write(b"\0\1\2\3 hello\r\n\r\n")


def hangs_up(handler, body):
    handler.connection.close()


def redirect_loop(handler, body):
    handler.begin(0, 302, Location=handler.path)


def redirect_to_file(handler, body):
    handler.begin(0, 302, Location="file:///etc/hostname")


def status(code):
    return lambda handler, body: handler.begin(0, code)


def hangs(handler, body):
    handler.begin(len(body))
    handler.wfile.write(body[:100])
    handler.wfile.flush()
    handler.server.released.wait(60)


def never_answers(handler, body):
    handler.server.released.wait(60)


def trickles(handler, body):
    handler.begin(len(body))
    for _ in range(200):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        if handler.server.released.wait(0.05):
            break


def fails_first(times, failure=status(500)):  # noqa: B008
    left = [times]

    def route(handler, body):
        left[0] -= 1
        (failure if left[0] >= 0 else serve)(handler, body)

    return route


@pytest.fixture
def server(monkeypatch):
    """A server here; `routes` says how each mirror behaves, `requests` what was asked."""
    monkeypatch.setenv("NO_PROXY", "*")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.routes, httpd.requests, httpd.released = {}, [], threading.Event()
    httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield httpd
    httpd.released.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def cache(server, monkeypatch, tmp_path):
    """The small data set in MNIST's place, with two mirrors and an empty cache (returned)."""
    monkeypatch.delenv("FASTNET_DATA", raising=False)
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "cache"))
    for name in ("_MNIST", "_FASHION_MNIST"):
        spec = dataclasses.replace(getattr(datasets, name), **small_spec(server))
        monkeypatch.setattr(datasets, name, spec)
    return tmp_path / "cache" / "mnist"


def small_spec(server):
    mirrors = (f"{server.url}/first/", f"{server.url}/second/")
    return {"mirrors": mirrors, "sha256": SHA256, "counts": COUNTS}


def get(server, target, *mirrors, **options):
    options = {"sha256": SHA256[IMAGES[:-3]], "backoff": 0.01, "timeout": 20.0} | options
    return fetch([f"{server.url}/{m}/{IMAGES}" for m in mirrors], target, **options)


def assert_only(target):
    """`target` is the whole file and alone in its folder."""
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]


def assert_small_set(split):
    (x_train, y_train), (x_test, y_test) = split
    for got, name in (
        (x_train, "train-images-idx3-ubyte"),
        (y_train, "train-labels-idx1-ubyte"),
        (x_test, "t10k-images-idx3-ubyte"),
        (y_test, "t10k-labels-idx1-ubyte"),
    ):
        np.testing.assert_array_equal(got, FILES[name])
        assert got.dtype == (np.uint8 if "images" in name else np.int64)
        assert got.flags.c_contiguous and got.flags.writeable


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


# ---- fetch: servers that work, fail and lie ----------------------------------------------------


@pytest.mark.parametrize("route", [serve, without_length])
def test_fetch_stores_the_file_alone(server, tmp_path, route):
    server.routes["a"] = route
    target = tmp_path / "new" / "folder" / IMAGES
    assert get(server, target, "a") == target
    assert_only(target)


def test_fetch_replaces_what_was_there(server, tmp_path):
    target = tmp_path / IMAGES
    target.write_bytes(b"old")
    get(server, target, "a")
    assert_only(target)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (status(500), "HTTP status 500"),
        (status(404), "HTTP status 404"),
        (truncated, r"truncated: [\d,]+ of [\d,]+ bytes"),
        (truncated_without_length, "wrong content: SHA-256"),
        (announces_too_little, "wrong content: SHA-256"),
        (wrong_bytes, "wrong content: SHA-256"),
        (error_page, "wrong content: SHA-256"),
        (no_http, "BadStatusLine"),
        (hangs_up, "RemoteDisconnected|ConnectionResetError"),
        (redirect_loop, "HTTP status 302"),
        (redirect_to_file, "HTTP status 302"),
    ],
)
def test_fetch_falls_back_to_the_next_mirror(server, tmp_path, route, reason):
    server.routes["bad"] = route
    target = tmp_path / IMAGES
    with pytest.raises(DownloadError, match=rf"{IMAGES}:\n  http://.*/bad/.*: .*({reason})"):
        get(server, target, "bad", attempts=2)
    assert list(tmp_path.iterdir()) == []
    get(server, target, "bad", "good", attempts=1)
    assert_only(target)


def test_fetch_failure_leaves_the_old_file(server, tmp_path):
    server.routes["bad"] = wrong_bytes
    target = tmp_path / IMAGES
    target.write_bytes(b"old")
    with pytest.raises(DownloadError):
        get(server, target, "bad")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [status(500), status(503), truncated, wrong_bytes, hangs_up])
def test_fetch_tries_again(server, tmp_path, failure):
    server.routes["flaky"] = fails_first(2, failure)
    target = tmp_path / IMAGES
    get(server, target, "flaky", attempts=3)
    assert_only(target)
    assert len(server.requests) == 3


def test_fetch_waits_longer_after_each_round(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(_download.time, "sleep", waits.append)
    server.routes = {"a": status(500), "b": status(500)}
    with pytest.raises(DownloadError, match=r"/a/(.|\n)*/b/"):
        get(server, tmp_path / IMAGES, "a", "b", attempts=4, backoff=0.5)
    assert waits == [0.5, 1.0, 2.0]
    assert len(server.requests) == 8


def test_fetch_asks_a_mirror_without_the_file_once(server, tmp_path):
    server.routes = {"gone": status(404), "flaky": fails_first(1)}
    get(server, tmp_path / IMAGES, "gone", "flaky")
    assert [path.split("/")[1] for path in server.requests] == ["gone", "flaky", "flaky"]


def test_fetch_gives_up_early_when_no_mirror_has_the_file(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(_download.time, "sleep", waits.append)
    server.routes = {"a": status(404), "b": status(403)}
    with pytest.raises(DownloadError, match=r"404(.|\n)*403"):
        get(server, tmp_path / IMAGES, "a", "b", attempts=5)
    assert waits == [] and len(server.requests) == 2


def test_fetch_follows_redirects(server, tmp_path):
    def elsewhere(handler, body):
        handler.begin(0, 302, Location=f"{server.url}/other/{IMAGES}")

    server.routes["moved"] = elsewhere
    target = tmp_path / IMAGES
    get(server, target, "moved")
    assert_only(target)
    assert len(server.requests) == 2


@pytest.mark.parametrize("route", [hangs, never_answers])
def test_fetch_leaves_a_server_that_hangs(server, tmp_path, route):
    server.routes["slow"] = route
    target = tmp_path / IMAGES
    with pytest.raises(DownloadError, match="no answer in time"):
        get(server, target, "slow", timeout=0.3, attempts=1)
    assert list(tmp_path.iterdir()) == []
    get(server, target, "slow", "good", timeout=1.0, attempts=1)
    assert_only(target)


def test_fetch_leaves_a_server_that_trickles(server, tmp_path):
    server.routes["slow"] = trickles
    with pytest.raises(DownloadError, match="too slow"):
        get(server, tmp_path / IMAGES, "slow", timeout=1.0, attempts=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("route", "reason"),
    [(serve, "bytes announced, limit"), (without_length, "more than the limit")],
)
def test_fetch_refuses_more_than_the_limit(server, tmp_path, route, reason):
    server.routes["a"] = route
    with pytest.raises(DownloadError, match=reason):
        get(server, tmp_path / IMAGES, "a", max_bytes=len(BODY) - 1, attempts=1)
    assert list(tmp_path.iterdir()) == []
    get(server, tmp_path / IMAGES, "a", max_bytes=len(BODY), attempts=1)


def test_fetch_names_a_server_that_is_not_there(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
    with pytest.raises(DownloadError, match=f"{url}: ConnectionRefusedError"):
        fetch([url], tmp_path / "x", sha256="0", attempts=1)


@pytest.mark.parametrize("urls", [[], ["file:///etc/passwd"], ["https://a/b", "ftp://a/b"]])
def test_fetch_refuses_other_schemes(tmp_path, urls):
    with pytest.raises(ValueError, match="wanted one or more http or https addresses"):
        fetch(urls, tmp_path / "x", sha256="0")


@pytest.mark.parametrize(
    "raised", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_fetch_cleans_up_when_the_disk_is_full_or_the_user_stops(
    server, tmp_path, monkeypatch, raised
):
    def fail(_):
        raise raised

    monkeypatch.setattr(_download.os, "fsync", fail)
    with pytest.raises(type(raised)) as caught:
        get(server, tmp_path / IMAGES, "a", "b")
    assert caught.value is raised
    assert len(server.requests) == 1, "the mirror is not to blame"
    assert list(tmp_path.iterdir()) == []


def test_fetch_syncs_before_it_renames(server, tmp_path, monkeypatch):
    steps = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(_download.os, "fsync", lambda fd: (steps.append("sync"), real_sync(fd)))
    monkeypatch.setattr(
        _download.os,
        "replace",
        lambda a, b: (steps.append(f"rename {os.path.getsize(a)}"), real_replace(a, b)),
    )
    get(server, tmp_path / IMAGES, "a")
    assert steps[:2] == ["sync", f"rename {len(BODY)}"]


def test_fetch_shows_progress_only_when_it_lasts(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_download, "_PROGRESS_DELAY", 1e6)
    get(server, tmp_path / IMAGES, "a")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(_download, "_PROGRESS_DELAY", 0)
    get(server, tmp_path / IMAGES, "a")
    shown = capsys.readouterr().err
    assert IMAGES in shown and "B/s" in shown
    get(server, tmp_path / IMAGES, "a", progress=False)
    assert capsys.readouterr().err == ""


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


# ---- processes ---------------------------------------------------------------------------------

CHILD = """
import dataclasses, json, sys
from fastnet import datasets
datasets._MNIST = dataclasses.replace(datasets._MNIST, **json.loads(sys.argv[1]))
(x, _), (_, y) = datasets.load_mnist(progress=False)
print(int(x.sum()), y.tolist())
"""


def start_child(server):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(small_spec(server))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child):
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert out.split(maxsplit=1) == [
        str(FILES["train-images-idx3-ubyte"].sum()),
        f"{FILES['t10k-labels-idx1-ubyte'].tolist()}\n",
    ]


def test_a_killed_download_leaves_no_damaged_file(server, cache):
    half_sent = threading.Event()

    def stops_halfway(handler, body):
        handler.begin(len(body))
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        half_sent.set()
        server.released.wait(60)

    server.routes["first"] = stops_halfway
    child = start_child(server)
    assert half_sent.wait(60)
    deadline = time.monotonic() + 60
    while not list(cache.glob(".*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.communicate(timeout=60)
    (part,) = cache.iterdir()
    assert part.name.startswith(f".{IMAGES}.") and part.name.endswith(".part")

    server.routes.clear()
    assert_small_set(datasets.load_mnist())
    assert part.exists(), "it might belong to a process that is still downloading"
    (cache / IMAGES).unlink()
    os.utime(part, (time.time() - 7200,) * 2)
    assert_small_set(datasets.load_mnist())
    assert sorted(p.name for p in cache.iterdir()) == sorted(PACKED)


def test_two_processes_download_at_once(server, cache):
    both = threading.Barrier(2, timeout=60)

    def together(handler, body):
        if handler.path.endswith(IMAGES):
            both.wait()
        serve(handler, body)

    server.routes["first"] = together
    children = [start_child(server), start_child(server)]
    for child in children:
        finish(child)
    assert server.requests.count(f"/first/{IMAGES}") == 2
    assert sorted(p.name for p in cache.iterdir()) == sorted(PACKED)
    assert all((cache / name).read_bytes() == body for name, body in PACKED.items())


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
