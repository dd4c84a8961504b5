"""A small data set, and a server of it that can misbehave."""

import contextlib
import dataclasses
import gzip
import hashlib
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fastnet import datasets
from fastnet._download import fetch

COUNTS = (300, 7)


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
