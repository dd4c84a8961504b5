"""Files that are there whole, or not at all: a temporary name, synced to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import zlib


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Make `data` the content of the file `path`; readers see the old file or the new one.

    The bytes go to a temporary name in the same folder and to the disk before the name changes, so
    that neither a full disk nor a killed process nor a power cut leaves a part of a file. Writers
    of the same file at the same time do not mix: the last to finish wins. A failure leaves nothing
    behind; what a killed process left is removed by the next call for the same path.

    Parameters
    ----------
    path : str or path
        A symbolic link is followed and stays. A file that was there keeps its permissions; a new
        one gets those of the umask.
    data : bytes

    Raises
    ------
    OSError
        For every failure: FileNotFoundError where the folder does not exist, IsADirectoryError,
        PermissionError (also for a file marked read-only), a full disk, ... The old file is as it
        was, unless only syncing the folder failed: then the new one is in place.
    """
    target, mode = _target(os.fsdecode(os.fspath(path)))
    folder, name = os.path.split(target)
    prefix = f".fastnet-{zlib.crc32(os.fsencode(name)):08x}-"
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_stale(folder, prefix)
        fd, temporary = _create(folder, prefix)
        try:
            _write(fd, data, mode)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(fd)  # only now: open, it is locked, and nobody takes it for litter
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def _target(path: str) -> tuple[str, int | None]:
    """The file to be replaced, links followed, and its permissions where it exists."""
    if not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, "the name of a file is wanted, not of a folder", path)
    target = os.path.realpath(path)
    if os.path.islink(target):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(target)
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "the folder does not exist", folder) from None
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "there is something that is not a regular file", path)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return target, stat.S_IMODE(mode)


def _create(folder: str, prefix: str) -> tuple[int, str]:
    """A new file that this process has locked: descriptor and path."""
    while True:
        path = os.path.join(folder, f"{prefix}{os.urandom(8).hex()}.tmp")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if _claim(fd, path):
                return fd, path
            os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(fd)
            raise


def _claim(fd: int, path: str) -> bool:
    """Lock a new file; False if it was removed as litter before it was locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        return True  # a file system without locks: there nothing is removed either
    return os.path.exists(path)


def _write(fd: int, data: bytes, mode: int | None) -> None:
    """All of data, onto the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    if mode is not None:
        os.fchmod(fd, mode)
    os.fsync(fd)


def _remove_stale(folder: str, prefix: str) -> None:
    """Remove what killed processes left: temporary files that nobody has locked."""
    try:
        names = os.listdir(folder)
    except OSError:
        return  # whether the folder can be written to is about to show
    for name in names:
        if name.startswith(prefix) and name.endswith(".tmp"):
            with contextlib.suppress(OSError):
                _remove_unlocked(os.path.join(folder, name))


def _remove_unlocked(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)
