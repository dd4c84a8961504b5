"""Atomic files: whatever fails, the old file is as it was, nothing is left over, and it is said."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastnet import _safefile
from fastnet._safefile import replace

OLD, NEW = b"old content", bytes(range(256)) * 40


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("content", [b"", b"x", NEW])
def test_new_and_old_files(tmp_path, content):
    path = tmp_path / "file"
    replace(path, content)
    assert path.read_bytes() == content
    replace(str(path), NEW)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["file"]


def test_relative_and_unusual_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("here", "folder/there", "folder/../up", "ü {0} \n%s", "-", ".hidden", "n" * 255):
        replace(name, NEW)
        assert Path(name).read_bytes() == NEW
    assert names("folder") == ["there"]
    replace(b"bytes", NEW)
    assert (tmp_path / "bytes").read_bytes() == NEW


# ---- failures -----------------------------------------------------------------------------------

ERRORS = [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS]


def failing(monkeypatch, call, code, at=1):
    """Let the at-th call of os.<call> fail; returns the calls' number as a list of one."""
    real, calls = getattr(os, call), [0]

    def fake(*args, **kwargs):
        calls[0] += 1
        if calls[0] == at:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(_safefile.os, call, fake)
    return calls


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("call", "at"),
    [("open", 1), ("open", 2), ("write", 1), ("fchmod", 1), ("fsync", 1), ("replace", 1)],
)
def test_a_failing_system_call_leaves_the_old_file(target, monkeypatch, call, at, code):
    calls = failing(monkeypatch, call, code, at)
    with pytest.raises(OSError) as caught:
        replace(target, NEW)
    assert caught.value.errno == code and calls[0] >= at
    monkeypatch.undo()
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["file"]


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_synced_is_an_error_with_the_new_file(target, monkeypatch, code):
    failing(monkeypatch, "fsync", code, at=2)
    with pytest.raises(OSError) as caught:
        replace(target, NEW)
    assert caught.value.errno == code
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["file"]


def test_a_disk_that_fills_up_in_the_middle(target, monkeypatch):
    real, written = os.write, []

    def short(fd, data):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real(fd, data[:1000]))
        return written[-1]

    monkeypatch.setattr(_safefile.os, "write", short)
    with pytest.raises(OSError, match="No space left"):
        replace(target, NEW)
    assert written == [1000] * 3
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["file"]


def test_short_writes_are_continued(target, monkeypatch):
    real = os.write
    monkeypatch.setattr(_safefile.os, "write", lambda fd, data: real(fd, data[:7]))
    replace(target, NEW)
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_an_interrupt_leaves_the_old_file(target, monkeypatch, call):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_safefile.os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(target, NEW)
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["file"]


def test_a_real_limit_of_the_file_size(target):
    script = """
import resource, sys
from fastnet._safefile import replace
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    replace(sys.argv[1], bytes(100_000))
except OSError as error:
    print(type(error).__name__, error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, target],
        capture_output=True,
        text=True,
        check=True,
        env=with_this_fastnet(),
    )
    assert done.stdout.split() == ["OSError", str(errno.EFBIG)]
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["file"]


def with_this_fastnet():
    root = str(Path(_safefile.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_order_of_the_system_calls(target, monkeypatch):
    """Data are on the disk before the name changes, and the name before the call returns."""
    log = []
    for call in ("write", "fsync", "replace"):
        real = getattr(os, call)

        def note(*args, call=call, real=real):
            log.append(call)
            return real(*args)

        monkeypatch.setattr(_safefile.os, call, note)
    replace(target, NEW)
    assert log == ["write", "fsync", "replace", "fsync"]


# ---- targets ------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"folder does not exist.*{tmp_path}/no/folder'"):
        replace(tmp_path / "no" / "folder" / "file", NEW)
    assert names(tmp_path) == []


def test_folders_pipes_and_files_as_folders_are_refused(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    with pytest.raises(IsADirectoryError):
        replace(tmp_path / "folder", NEW)
    with pytest.raises(IsADirectoryError, match="name of a file"):
        replace(f"{tmp_path}/new/", NEW)
    with pytest.raises(IsADirectoryError, match="name of a file"):
        replace("", NEW)
    with pytest.raises(OSError, match="not a regular file"):
        replace(tmp_path / "pipe", NEW)
    with pytest.raises(OSError, match="not a regular file"):
        replace("/dev/null", NEW)
    with pytest.raises(NotADirectoryError):
        replace(target / "x", NEW)
    with pytest.raises(TypeError):
        replace(3, NEW)
    assert names(tmp_path) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_links_are_followed_and_stay(tmp_path, target):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link"
    link.symlink_to("../file")
    replace(link, NEW)
    assert link.is_symlink() and not target.is_symlink()
    assert target.read_bytes() == NEW
    dangling = tmp_path / "dangling"
    dangling.symlink_to("folder/new")
    replace(dangling, OLD)
    assert dangling.is_symlink() and (tmp_path / "folder" / "new").read_bytes() == OLD
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError) as caught:
        replace(loop, NEW)
    assert caught.value.errno == errno.ELOOP
    assert loop.is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        replace(tmp_path / "new", NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_an_old_file_keeps_its_permissions(target, mode):
    target.chmod(mode)
    replace(target, NEW)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_file_marked_read_only_is_refused(target, monkeypatch):
    monkeypatch.setattr(_safefile.os, "access", lambda path, mode: False)  # root may write anything
    with pytest.raises(PermissionError):
        replace(target, NEW)
    assert target.read_bytes() == OLD


# ---- several writers ----------------------------------------------------------------------------


def test_writers_at_the_same_time_do_not_mix(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * (50_000 + i) for i in range(4)]
    errors, seen = [], set()

    def write(content):
        try:
            for _ in range(50):
                replace(path, content)
        except BaseException as error:
            errors.append(error)

    replace(path, contents[0])
    threads = [threading.Thread(target=write, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.add(path.read_bytes())
    for thread in threads:
        thread.join()
    assert not errors
    assert seen <= set(contents)
    assert names(tmp_path) == ["file"]


def killed_while_writing(path):
    """Fork a process that is killed in the middle of replacing a file."""
    child = os.fork()
    if child == 0:
        _safefile.os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        try:
            replace(path, NEW)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path, target):
    killed_while_writing(target)
    killed_while_writing(tmp_path / "other")
    assert target.read_bytes() == OLD
    litter = [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert len(litter) == 2
    replace(target, NEW)
    assert target.read_bytes() == NEW
    left = [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert len(left) == 1  # of the other file: not ours to remove
    replace(tmp_path / "other", NEW)
    assert names(tmp_path) == ["file", "other"]


def test_a_file_that_is_being_written_is_no_litter(target, monkeypatch):
    """A second writer comes while the first one is before its rename."""
    real = os.replace
    inner = []

    def second_writer_first(source, destination):
        if not inner:
            inner.append(names(target.parent))
            replace(target, b"second")
            assert target.read_bytes() == b"second"
            assert os.path.exists(source)
        real(source, destination)

    monkeypatch.setattr(_safefile.os, "replace", second_writer_first)
    replace(target, NEW)
    assert len(inner[0]) == 2
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["file"]


def test_without_locks_files_are_still_whole(target, monkeypatch):
    def no_locks(fd, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_safefile.fcntl, "flock", no_locks)
    replace(target, NEW)
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["file"]


def test_a_new_file_removed_before_it_was_locked_is_made_again(target, monkeypatch):
    real, removed = _safefile.fcntl.flock, []

    def removed_first(fd, how):
        if not removed:
            (name,) = [n for n in names(target.parent) if n.endswith(".tmp")]
            os.unlink(target.parent / name)
            removed.append(name)
        real(fd, how)

    monkeypatch.setattr(_safefile.fcntl, "flock", removed_first)
    replace(target, NEW)
    assert removed and target.read_bytes() == NEW
    assert names(target.parent) == ["file"]
