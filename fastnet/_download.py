"""Download one file into a cache folder so that it is there whole, or not at all."""

import contextlib
import hashlib
import http.client
import os
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 16
_STALE_AFTER = 3600.0  # seconds without a write after which a temporary file is nobody's
_MIN_BYTES_PER_TIMEOUT = 1024
_PROGRESS_DELAY = 1.0
_LOST_CAUSES = frozenset({400, 401, 403, 404, 405, 410, 451})


class DownloadError(OSError):
    """No mirror gave the right file. The message names each mirror and what went wrong there."""


class _TransferError(Exception):
    """One mirror did not give the file: the network failed, or something else came.

    Not an OSError, so that it cannot be taken for a failure of the disk.
    """


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str,
    max_bytes: int = 64 << 20,
    timeout: float = 20.0,
    attempts: int = 3,
    backoff: float = 1.0,
    progress: bool | str = "auto",
) -> Path:
    """Download the file `target` from the first of `urls` that gives it.

    The bytes go to a temporary name in the folder of `target`, are checked, synced to disk and
    renamed; so `target` is never a part of a file, also after a power cut or when several processes
    download at once (the last one to finish wins; all write the same bytes). A failure leaves
    nothing behind; what a killed process left is removed an hour later by the next download.

    Parameters
    ----------
    urls : sequence of str
        http or https addresses of the same file, in the order in which they are tried.
    target : Path
        Where the file goes. Its folder is made when it is not there.
    sha256 : str
        The SHA-256 of the right file, in hexadecimal.
    max_bytes : int, default 64 MiB
        A longer answer is refused.
    timeout : float, default 20
        Seconds for connecting, for each wait for data, and for every 1,024 bytes.
    attempts : int, default 3
        Rounds over the mirrors. A mirror that says that it will never have the file (404 and the
        like) is asked once.
    backoff : float, default 1
        Seconds to wait after the first round; doubled after each.
    progress : bool or "auto", default "auto"
        A progress bar on stderr when the download takes longer than a second; False for none.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    DownloadError
        If no mirror gave the file in all rounds.
    OSError
        If the file cannot be written.
    ValueError
        If there are no `urls`, or one is neither http nor https.
    """
    if not urls or any(not re.match(r"https?://", url) for url in urls):
        raise ValueError(f"wanted one or more http or https addresses, got {list(urls)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    alive = list(dict.fromkeys(urls))
    reasons: dict[str, str] = {}
    for round_ in range(attempts):
        if round_:
            time.sleep(backoff * 2 ** (round_ - 1))
        for url in tuple(alive):
            try:
                _fetch_once(url, target, sha256, max_bytes, timeout, progress)
                return target
            except urllib.error.HTTPError as error:
                reasons[url] = f"HTTP status {error.code} ({error.reason})"
                error.close()
                if error.code in _LOST_CAUSES:
                    alive.remove(url)
            except _TransferError as error:
                reasons[url] = str(error)
        if not alive:
            break
    tried = "".join(f"\n  {url}: {reason}" for url, reason in reasons.items())
    raise DownloadError(f"could not download {target.name}:{tried}")


def _fetch_once(
    url: str, target: Path, sha256: str, max_bytes: int, timeout: float, progress: bool | str
) -> None:
    """One transfer from one mirror; on any exception the temporary file is gone again."""
    request = urllib.request.Request(
        url, headers={"User-Agent": "fastnet", "Accept-Encoding": "identity"}
    )
    with _wire_errors():
        response = urllib.request.urlopen(request, timeout=timeout)
    with response:
        length = _content_length(response, max_bytes)
        part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
        try:
            with open(part, "xb") as out:
                digest = _copy(response, out, target.name, length, max_bytes, timeout, progress)
                out.flush()
                os.fsync(out.fileno())
            if digest != sha256:
                raise _TransferError(f"wrong content: SHA-256 {digest}, wanted {sha256}")
            _replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def _content_length(response: Any, max_bytes: int) -> int | None:
    """The length that the server announces, or None when it announces none."""
    text = response.headers.get("Content-Length")
    if text is None or not text.strip().isdecimal():
        return None
    if int(text) > max_bytes:
        raise _TransferError(f"{int(text):,} bytes announced, limit {max_bytes:,}")
    return int(text)


def _copy(
    response: Any,
    out: BinaryIO,
    name: str,
    length: int | None,
    max_bytes: int,
    timeout: float,
    progress: bool | str,
) -> str:
    """Copy the answer's body to `out`; its SHA-256."""
    digest = hashlib.sha256()
    got = since = 0
    began = time.monotonic()
    with _progress_bar(name, length, progress) as show:
        while True:
            with _wire_errors():
                chunk = response.read1(_CHUNK)
            if not chunk:
                break
            got += len(chunk)
            if got > max_bytes:
                raise _TransferError(f"more than the limit of {max_bytes:,} bytes")
            digest.update(chunk)
            out.write(chunk)
            show(len(chunk))
            now = time.monotonic()
            if now - began > timeout:
                if got - since < _MIN_BYTES_PER_TIMEOUT:
                    raise _TransferError(f"{got - since} bytes in {timeout:g} seconds: too slow")
                began, since = now, got
    if length is not None and got < length:
        raise _TransferError(f"truncated: {got:,} of {length:,} bytes")
    return digest.hexdigest()


@contextlib.contextmanager
def _progress_bar(name: str, length: int | None, progress: bool | str):
    """A callable that takes the number of new bytes."""
    if not progress:
        yield _ignore
        return
    from tqdm import tqdm

    with tqdm(
        desc=name, total=length, unit="B", unit_scale=True, unit_divisor=1024, leave=False,
        delay=_PROGRESS_DELAY,
    ) as bar:  # fmt: skip
        update: Callable[[int], object] = bar.update
        yield update


def _ignore(_count: int) -> None:
    pass


@contextlib.contextmanager
def _wire_errors():
    """Turn what a connection can raise into _TransferError, apart from an HTTP status."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except TimeoutError:
        raise _TransferError("no answer in time") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise _TransferError(f"{type(reason).__name__}: {reason}") from None


def _replace(part: Path, target: Path) -> None:
    """Rename over `target` and make the rename itself last."""
    try:
        os.replace(part, target)
    except PermissionError:
        # Windows refuses while another process reads the target: then it is already there, whole.
        if os.name != "nt" or not target.exists():
            raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some file systems cannot sync a folder
                os.fsync(folder)
        finally:
            os.close(folder)


def _remove_stale(target: Path) -> None:
    """Remove the temporary files of processes that were killed while they downloaded `target`."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.part")
    for part in target.parent.iterdir():
        if name.fullmatch(part.name):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _STALE_AFTER:
                    part.unlink()
