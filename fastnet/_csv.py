"""Tables of numbers in CSV files: the fast way in, and the exact way to the bad cell.

NumPy's parser reads the file in one go. Only when it fails is the file read again, cell by cell,
to say which line and column is wrong.
"""

import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

_DELIMITERS = ",;\t"
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass
class Table:
    """What a CSV file holds: features, labels (None without a label column), names."""

    x: np.ndarray  # (n, features) float32
    y: np.ndarray | None  # (n,) int64 when every label is a whole number, else float32
    classes: np.ndarray | None  # sorted texts that y counts, when the labels are texts
    feature_names: tuple[str, ...] | None


@dataclass
class _Layout:
    """How a file is laid out, from its first two rows."""

    delimiter: str
    start: int  # where the data begins, for TextIO.seek
    names: list[str] | None
    width: int
    label: int | None
    text_labels: bool


def parse_csv(path: str | os.PathLike[str], label: int | str | None, header: bool | None) -> Table:
    """Read a CSV file; parameters and errors are those of `readers.read_csv`."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            layout = _find_layout(file, path, label, header)
            try:
                table = _read_fast(file, layout)
            except ValueError as error:
                if isinstance(error, UnicodeDecodeError):
                    raise
                _raise_exact(file, path, layout)
                raise ValueError(f"{path}: {error}") from None
            if not np.isfinite(table.x.sum(dtype=np.float64)) or not _all_finite(table.y):
                _raise_exact(file, path, layout)
            return table
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); is it a CSV file?") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from None


def _rows(file: TextIO, delimiter: str) -> Iterator[list[str]]:
    """Rows that are not blank. Reads by readline, so that file.tell() works after each."""
    return (row for row in csv.reader(iter(file.readline, ""), delimiter=delimiter) if row)


def _find_layout(file: TextIO, path: Path, label: int | str | None, header: bool | None) -> _Layout:
    line = file.readline()
    while line and not line.strip("\r\n"):
        line = file.readline()
    if not line:
        raise ValueError(f"{path}: the file is empty")
    counts = Counter(line)
    delimiter = max(_DELIMITERS, key=lambda d: counts[d])

    file.seek(0)
    rows = _rows(file, delimiter)
    first = [cell.strip() for cell in next(rows)]
    after_first = file.tell()
    second = [cell.strip() for cell in next(rows, [])]
    column: int | None
    if isinstance(label, str) and (header or _number(label) is None):
        column, header = _named_column(path, label, first, header), True
    else:
        column = _numbered_column(path, label, first)
    if header is None:
        header = _is_header(first, second, column)
    data = second if header else first
    if not data:
        raise ValueError(f"{path}: a header line, but no rows under it")
    if len(first) == 1 and column is not None:
        raise ValueError(
            f"{path}: one column only, so there is none beside the label column; "
            "pass label=None when there are no labels"
        )
    return _Layout(
        delimiter=delimiter,
        start=after_first if header else 0,
        names=first if header else None,
        width=len(first),
        label=column,
        text_labels=column is not None and column < len(data) and _number(data[column]) is None,
    )


def _named_column(path: Path, label: str, first: Sequence[str], header: bool | None) -> int:
    """The index of the label column, from its name in the first row."""
    if header is False:
        raise ValueError(f"{path}: label column {label!r} by name, but header=False")
    found = first.count(label)
    if found > 1:
        raise ValueError(f"{path}: {found} columns are named {label!r}; give the index")
    if not found:
        names = ", ".join(first[:20]) + (", ..." if len(first) > 20 else "")
        raise ValueError(f"{path}: no column named {label!r} among: {names}")
    return first.index(label)


def _numbered_column(path: Path, label: int | str | None, first: Sequence[str]) -> int | None:
    """The index of the label column, from 0, from an index that may count from the end."""
    if label is None:
        return None
    try:
        index = int(label)
    except ValueError:
        raise ValueError(f"{path}: label column {label!r} is no index and no name") from None
    if not -len(first) <= index < len(first):
        raise ValueError(f"{path}: label column {index}, but there are {len(first)} columns")
    return index % len(first)


def _is_header(first: list[str], second: list[str], label: int | None) -> bool:
    """Whether the first row holds names.

    It does when no cell is a number, or when only the label's is none and the second row has a
    number there ("label,0,1,2").
    """
    texts = [i for i, cell in enumerate(first) if _number(cell) is None]
    if len(texts) == len(first):
        return True
    if label is None or texts != [label]:
        return False
    return len(second) == len(first) and _number(second[label]) is not None


def _number(cell: str) -> float | None:
    """The number in a cell, by the rules of NumPy's parser; None when there is none."""
    if "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _read_fast(file: TextIO, layout: _Layout) -> Table:
    """The whole file by NumPy's parser; ValueError from there for anything it cannot read."""
    before = layout.width if layout.label is None else layout.label
    after = layout.width - before - 1
    fields: list[tuple] = []
    if before:
        fields.append(("before", np.float32, (before,)))
    if layout.label is not None:
        fields.append(("label", np.float64))
        if after:
            fields.append(("after", np.float32, (after,)))
    codes: dict[str, int] = {}
    converters: dict[int | str, Callable[[str], float]] | None = None
    if layout.label is not None and layout.text_labels:
        converters = {layout.label: lambda cell: _code(codes, cell)}
    file.seek(layout.start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a number beyond float32: found later
        rows = np.loadtxt(
            file, np.dtype(fields), comments=None, delimiter=layout.delimiter, quotechar='"',
            ndmin=1, converters=converters, encoding="utf-8",
        )  # fmt: skip
    parts = [rows[field[0]] for field in fields if field[0] != "label"]
    x = np.concatenate(parts, axis=1) if len(parts) > 1 else np.ascontiguousarray(parts[0])
    names = None
    if layout.names is not None:
        names = tuple(name for i, name in enumerate(layout.names) if i != layout.label)
    if layout.label is None:
        return Table(x, None, None, names)
    if layout.text_labels:
        return Table(x, *_sorted_codes(rows["label"], codes), names)
    return Table(x, whole_or_float(rows["label"]), None, names)


def _code(codes: dict[str, int], cell: str) -> int:
    text = cell.strip()
    if not text:
        raise ValueError("empty label")
    return codes.setdefault(text, len(codes))


def _sorted_codes(labels: np.ndarray, codes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes that count the sorted texts instead of the texts in order of appearance."""
    texts = np.array(list(codes))
    order = np.argsort(texts)
    rank = np.empty(len(texts), np.int64)
    rank[order] = np.arange(len(texts))
    return rank[labels.astype(np.int64)], texts[order]


def whole_or_float(labels: np.ndarray) -> np.ndarray:
    """Float64 labels (n,) as int64 when all are whole numbers below 2**53, else as float32."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.all(np.abs(labels) < 2**53) and np.all(labels == np.rint(labels)):
            return labels.astype(np.int64)
        return labels.astype(np.float32)


def _all_finite(y: np.ndarray | None) -> bool:
    return y is None or bool(np.isfinite(y).all())


def _raise_exact(file: TextIO, path: Path, layout: _Layout) -> None:
    """Raise ValueError for the first cell or row that is wrong; return when there is none."""
    file.seek(0)
    reader = csv.reader(iter(file.readline, ""), delimiter=layout.delimiter)
    is_header = layout.names is not None
    for row in reader:
        if not row:
            continue
        if is_header:
            is_header = False
            continue
        where = f"{path}, line {reader.line_num}"
        for i, cell in enumerate(row[: layout.width]):
            wrong = _wrong(cell.strip(), layout.text_labels and i == layout.label)
            if wrong:
                name = f" ({layout.names[i]})" if layout.names else ""
                hint = _hint(layout, reader.line_num)
                raise ValueError(f"{where}, column {i + 1}{name}: {wrong}{hint}")
        if len(row) != layout.width:
            raise ValueError(
                f"{where}: {len(row)} columns, where {layout.width} were expected "
                "(as in the first line)"
            )


def _wrong(cell: str, is_text: bool) -> str | None:
    """What is wrong with a cell, or None."""
    if not cell:
        return "empty cell"
    if is_text:
        return None
    number = _number(cell)
    if number is None:
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        return f"{shown!r} is not a number"
    if not abs(number) <= _FLOAT32_MAX:
        return f"{cell} is not a finite float32 number"
    return None


def _hint(layout: _Layout, line: int) -> str:
    if line > 1 or layout.names is not None:
        return ""
    return "; if the first line holds names, pass header=True"
