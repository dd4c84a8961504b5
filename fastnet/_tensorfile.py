"""The container of model files: safetensors, read by rules stricter than the format's own.

The library writes and reads the format. What stands here is checked before it, on the header alone,
so that nothing is allocated for a file whose header does not fit it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

#: Bytes of a header. Parsed, it takes up to 30 times as much memory.
MAX_HEADER = 1 << 20
_MAX_CONTAINERS = 20_000  # objects and lists in a header
_MAX_DEPTH = 64  # networks in networks take five each
_MAX_DIGITS = 40
_MAX_AXES = 6
_BYTES = {"F32": 4, "F64": 8}


class Refused(Exception):  # noqa: N818 - becomes a ModelFileError, with the name of the file
    """A rule that a file breaks, in words."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # "F32" or "F64"
    size: int  # of the file, in bytes


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to be read; OSError as `open` has it, Refused for a pipe or a device."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a pipe would wait for a writer

    file = open(path, "rb", opener=opener)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Refused("it is not a regular file")
    return file


def read_header(file: BinaryIO) -> Header:
    """Read and check the header of an open file; Refused says what is wrong with it."""
    size = os.fstat(file.fileno()).st_size
    length = _header_length(file.read(8), size)
    return _parse_header(file.read(length), size)


def _header_length(start: bytes, size: int) -> int:
    """The length of the header, from the first 8 bytes of a file of `size` bytes."""
    if len(start) < 8:
        raise Refused(
            f"it has {len(start)} bytes, a model file begins with 8 for the header's length"
        )
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER:
        raise Refused(
            f"it is no model file, or damaged: its header would have {length:,} bytes, "
            f"at most {MAX_HEADER:,} are allowed"
        )
    if 8 + length > size:
        raise Refused(f"its header would have {length:,} bytes, the whole file has {size:,}")
    return length


def _parse_header(text: bytes, size: int) -> Header:
    """The header of a file of `size` bytes."""
    if not text.startswith(b"{"):
        raise Refused('its header does not begin with "{"')
    table = strict_json(text, "its header")
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Refused("its header has no __metadata__ that maps names to texts")
    shapes = _shapes(table, size - 8 - len(text))
    return Header(metadata, shapes, {name: table[name]["dtype"] for name in shapes}, size)


def _shapes(table: Mapping[str, Any], room: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a header, which must fill `room` bytes without holes or overlaps."""
    shapes, spans = {}, []
    for name, entry in table.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise Refused(
                f"tensor {name!r:.80} must have dtype, shape, data_offsets and nothing else"
            )
        item = _BYTES.get(str(entry["dtype"]))
        if item is None:
            raise Refused(
                f"tensor {name!r:.80} must have dtype F32 or F64, it has {entry['dtype']!r:.40}"
            )
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _sizes(shape, 1) or len(shape) > _MAX_AXES:
            raise Refused(
                f"tensor {name!r:.80} must have a shape of at most {_MAX_AXES} sizes >= 1, "
                f"it has {shape!r:.80}"
            )
        if not _sizes(offsets, 0) or len(offsets) != 2:
            raise Refused(
                f"tensor {name!r:.80} must have two data_offsets >= 0, it has {offsets!r:.80}"
            )
        begin, end = offsets
        if end - begin != item * math.prod(shape):
            raise Refused(
                f"tensor {name!r:.80} of shape {shape} has data_offsets {offsets}, "
                f"which is not {item * math.prod(shape):,} bytes"
            )
        shapes[name] = tuple(shape)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            wrong = "leaves a hole" if begin > position else "overlaps another"
            raise Refused(
                f"tensor {name!r:.80} {wrong}: it begins at {begin:,} and not at {position:,}"
            )
        position = end
    if position != room:
        raise Refused(
            f"its tensors have {position:,} bytes, behind the header the file has {room:,}"
        )
    return shapes


def _sizes(value: Any, low: int) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= low for n in value)


def read_tensors(file: BinaryIO, header: Header) -> dict[str, np.ndarray]:
    """The tensors of a file whose header was read; values that are not finite are refused."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file.seek(0)
    raw = file.read(header.size)
    if len(raw) != header.size:
        raise Refused("it became shorter while it was read")
    try:
        tensors = load(raw)
    except (SafetensorError, KeyError, ValueError) as error:
        raise Refused(f"safetensors refuses it: {error}") from None
    del raw  # its memory is needed for what follows
    if {name: tensor.shape for name, tensor in tensors.items()} != header.shapes:
        raise Refused("it changed while it was read")
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise Refused(f"tensor {name!r:.80} holds NaN or infinity")
    return tensors


def pack(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file of float32 and float64 tensors; ValueError if it would be refused."""
    from safetensors.numpy import save

    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinity")
    data = save(
        {
            name: np.ascontiguousarray(t, t.dtype if t.dtype == np.float64 else np.float32)
            for name, t in tensors.items()
        },
        dict(metadata),
    )
    try:
        parse(data)
    except Refused as error:
        raise ValueError(f"the file would be refused when it is read: {error}") from None
    return data


def parse(data: bytes) -> Header:
    """The header of a file's bytes."""
    length = _header_length(data[:8], len(data))
    return _parse_header(data[8 : 8 + length], len(data))


# ---- JSON ---------------------------------------------------------------------------------------


def strict_json(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object. Refused: a name twice, NaN, infinity, numbers without end, deep nesting."""
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise Refused(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None
    if text.count("{") + text.count("[") > _MAX_CONTAINERS:
        raise Refused(f"{what} has more than {_MAX_CONTAINERS:,} objects and lists")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=lambda digits: int(_short(digits)),
            parse_float=lambda digits: float(_short(digits)),
            parse_constant=_constant,
        )
    except RecursionError:
        raise Refused(f"{what} is nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:
        raise Refused(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"{what} must be a JSON object")
    _check_values(value, what)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice, times = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Refused(f"it has {twice!r:.80} {times} times")
    return result


def _short(digits: str) -> str:
    if len(digits) > _MAX_DIGITS:
        raise Refused(f"it has a number of {len(digits):,} characters")
    return digits


def _constant(name: str) -> Any:
    raise Refused(f"it has the number {name}, which JSON does not know")


def _check_values(value: Any, what: str) -> None:
    level, depth = [value], 0
    while level:
        if depth > _MAX_DEPTH:
            raise Refused(f"{what} is nested deeper than {_MAX_DEPTH} levels")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise Refused(f"{what} has a number that is too large")
        level, depth = below, depth + 1
