"""IDX files: the format of MNIST, plain or gzip-compressed.

An IDX file is two zero bytes, a type code, the number of dimensions, each dimension as a
big-endian 32-bit integer, then the elements, big-endian, last dimension fastest
(Y. LeCun, "The MNIST database of handwritten digits", section "File formats").
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_RANK = 6
_MAX_BYTES = 4 << 30
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MAX_RATIO = 1032  # one deflate symbol of two bits stands for at most 258 bytes


def read_idx(path: str | os.PathLike[str], *, max_bytes: int = _MAX_BYTES) -> np.ndarray:
    """Read one IDX file.

    Parameters
    ----------
    path : str or path
        The file, plain or gzip-compressed (told apart by content, not by name).
    max_bytes : int, default 4 GiB
        The most bytes of elements that are accepted, unpacked.

    Returns
    -------
    ndarray
        C-ordered, in native byte order; uint8, int8, int16, int32, float32 or float64 and of 1
        to 6 dimensions, as the file says.

    Raises
    ------
    ValueError
        If the file is not IDX, is truncated or damaged, has bytes after its end, or says that it
        holds more than `max_bytes` or more than a file of its size can. No more memory than
        `max_bytes` is asked for, whatever the file says.
    OSError
        If the file cannot be opened or read.
    """
    path = Path(path)
    with open(path, "rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            if not packed:
                return _read_stream(raw, path, size, max_bytes)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                return _read_stream(unpacked, path, size * _DEFLATE_MAX_RATIO, max_bytes)
        except EOFError:
            raise ValueError(f"{path}: the compressed file is truncated") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: the compressed file is damaged ({error})") from None


def _read_stream(stream: Any, path: Path, room: int, max_bytes: int) -> np.ndarray:
    """Header, elements and end of `stream`, which can give at most `room` bytes."""
    dtype, shape = _read_header(stream, path)
    wanted = math.prod(shape) * dtype.itemsize
    said = f"{path}: the header says shape {shape} of {dtype.name}, {wanted:,} bytes"
    if wanted > room:
        raise ValueError(f"{said}, more than the file can hold; it is truncated or damaged")
    if wanted > max_bytes:
        raise ValueError(f"{said}, above the limit of {max_bytes:,}; pass max_bytes to allow it")
    array = np.empty(shape, dtype)
    got = _fill(stream, array.reshape(-1).view(np.uint8).data)
    if got < wanted:
        raise ValueError(f"{said}, but there are {got:,}; the file is truncated")
    if stream.read(1):
        raise ValueError(f"{said}, but more bytes follow; the file is damaged")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: Any, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise ValueError(f"{path}: {len(magic)} bytes; an IDX file starts with a header of 8")
    code, rank = magic[2], magic[3]
    if magic[:2] != b"\0\0" or code not in _DTYPES or not 1 <= rank <= _MAX_RANK:
        raise ValueError(
            f"{path}: not an IDX file (it starts with {magic.hex(' ')}; wanted 00 00, a type code "
            f"of 08, 09 or 0b to 0e, and 01 to {_MAX_RANK:02x} dimensions)"
        )
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise ValueError(f"{path}: the file ends inside its header; it is truncated")
    return np.dtype(_DTYPES[code]), struct.unpack(f">{rank}I", sizes)


def _fill(stream: Any, view: memoryview) -> int:
    """Read until `view` is full or the stream ends; the number of bytes read."""
    done = 0
    while done < len(view):
        count = stream.readinto(view[done : done + (8 << 20)])
        if not count:
            break
        done += count
    return done
