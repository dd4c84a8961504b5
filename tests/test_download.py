"""Downloads from servers that work, fail and lie; several processes at once."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from servers import (
    BODY,
    FILES,
    IMAGES,
    PACKED,
    announces_too_little,
    assert_only,
    assert_small_set,
    error_page,
    fails_first,
    get,
    hangs,
    hangs_up,
    never_answers,
    no_http,
    redirect_loop,
    redirect_to_file,
    serve,
    small_spec,
    status,
    trickles,
    truncated,
    truncated_without_length,
    without_length,
    wrong_bytes,
)

from fastnet import _download, datasets
from fastnet._download import DownloadError, fetch

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
