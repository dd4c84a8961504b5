"""Rows to be clustered: whatever NumPy or SciPy holds, whole or in blocks that the engine reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _sparse, check

#: Values of a block of rows that are converted together: 4 MB as float32.
_BLOCK = 1 << 20
_REAL = "fdegbhilqBHILQ?"
#: Kinds whose values float32 holds exactly.
_EXACT = "f?bBhHe"


class Rows:
    """x (n, d) as the engine reads it.

    Attributes
    ----------
    shape : (n, d)
    dtype : float32 or float64
        Of the centres and distances that are given back.
    direct : ndarray, CSR matrix or None
        All rows, float32 or float64, as the engine reads them where they lie. None: they are read
        in blocks that are converted one at a time.
    """

    def __init__(self, source: Any, dtype: np.dtype, read: np.dtype):
        self.source, self.dtype, self._read = source, dtype, read
        self.shape: tuple[int, int] = source.shape
        self.sparse = not isinstance(source, np.ndarray)
        self.direct: Any = source if _in_place(source, read) else None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def block_rows(self) -> int:
        """Rows of a block; the same for the same shape, so that sums have one order."""
        return max(1, _BLOCK // self.shape[1])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, values): all rows in order, as float32 or float64 in C order."""
        for first in range(0, len(self), self.block_rows):
            rows = slice(first, min(first + self.block_rows, len(self)))
            yield rows, self.values(rows)

    def values(self, rows: Any) -> np.ndarray:
        """Some rows as an array of float32 or float64."""
        part = self.source[rows]
        return np.ascontiguousarray(part.toarray() if self.sparse else part, self._read)

    def load(self) -> None:
        """Hold all rows converted from now on."""
        if self.sparse:
            self.source = self.source.astype(self._read)
            if not self.source.has_canonical_format:
                self.source = self.source.copy()
                self.source.sum_duplicates()
        else:
            self.source = np.ascontiguousarray(self.source, self._read)
        self.direct = self.source


def _in_place(x: Any, read: np.dtype) -> bool:
    if not isinstance(x, np.ndarray):
        return x.dtype == read and x.has_canonical_format
    plain = x.dtype == read and x.dtype.isnative and x.flags.aligned
    return plain and x.strides[1] == x.itemsize and x.strides[0] >= x.shape[1] * x.itemsize


def make_rows(X: Any, dtype: Any = None, max_memory: int | None = None, name: str = "X") -> Rows:
    """Whatever the user passed, checked: two axes, numbers, at least a row and a column.

    Parameters
    ----------
    X : array_like or sparse matrix (n, d)
    dtype : "float32", "float64" or None
        What to compute with; None keeps float32 and float64, and takes float64 for all else.
    max_memory : int or None
        A converted copy larger than this is never made: blocks are converted instead, as they
        always are for memory-mapped files.

    Raises
    ------
    ValueError, TypeError
        With what was wanted and what came. Values that are not finite are not looked for here.
    """
    if _sparse.is_sparse(X):
        source = _sparse.csr(name, X)
    else:
        source = X if isinstance(X, np.ndarray) else check.array(name, X)
        if source.dtype.char not in _REAL:
            source = check.array(name, source)
        source = source.view(np.ndarray) if not _mapped(source) else source
    _check_shape(source, name)
    kind = source.dtype.char
    result = np.dtype(dtype if dtype is not None else "f" if kind == "f" else "d")
    read = np.dtype(result if dtype is not None else "f" if kind in _EXACT else "d")
    rows = Rows(source, result, read)
    size = len(rows) * rows.shape[1] * read.itemsize
    in_blocks = size > 4 * _BLOCK and (_mapped(source) or size > (max_memory or np.inf))
    if rows.direct is None and (rows.sparse or not in_blocks):
        rows.load()
    return rows


def _mapped(x: Any) -> bool:
    """Whether an array lies in a memory-mapped file."""
    while x is not None and not isinstance(x, np.memmap):
        x = getattr(x, "base", None)
    return x is not None


def _check_shape(x: Any, name: str) -> None:
    if len(x.shape) != 2:
        hint = f"; {name}.reshape(-1, 1) makes one feature, {name}.reshape(1, -1) one row"
        if len(x.shape) > 2:
            hint = f"; {name}.reshape(len({name}), -1) makes a row of each"
        hint = hint if len(x.shape) else ""
        raise ValueError(f"{name} must have shape (n, d), got {tuple(x.shape)}{hint}")
    if 0 in x.shape:
        what = "rows" if x.shape[0] == 0 else "features"
        raise ValueError(f"{name} has no {what} (shape {tuple(x.shape)}), at least 1 is wanted")


def check_finite(rows: Rows) -> None:
    """ValueError with row and column of the first value that is NaN or infinite."""
    if rows.sparse:
        if not np.isfinite(rows.source.data).all():
            entry = int(np.flatnonzero(~np.isfinite(rows.source.data))[0])
            row = int(np.searchsorted(rows.source.indptr, entry, side="right")) - 1
            raise not_finite(row, int(rows.source.indices[entry]), rows.source.data[entry])
        return
    if rows.source.dtype.kind != "f":
        return
    for where, block in rows.blocks():
        with np.errstate(over="ignore", invalid="ignore"):
            total = block.sum()  # half the time of isfinite; too large a sum only costs a look
        if not np.isfinite(total) and not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            raise not_finite(int(row) + where.start, int(column), block[row, column])


def check_directions(rows: Rows) -> None:
    """ValueError with the number of the first row that cannot be scaled to length 1: zeros, or
    values whose squares float64 does not hold. NaN is not looked for here."""
    for where, block in rows.blocks():
        squares = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        wrong = (squares < 1e-290) | (squares == np.inf)
        if not wrong.any():
            continue
        bad = np.flatnonzero(wrong)
        row, largest = where.start + int(bad[0]), float(np.abs(block[bad[0]]).max())
        if largest == 0:
            raise ValueError(f"X: row {row} is all zeros, which has no direction: metric='cosine'")
        if math.isfinite(largest):
            raise ValueError(
                f"X: the squares of row {row}, whose largest value is {largest:.3g}, are beyond "
                "float64: metric='cosine' wants rows of a length from 1e-145 to 1e154"
            )


def not_finite(row: int, column: int, value: Any) -> ValueError:
    what = "NaN" if np.isnan(value) else "infinity"
    return ValueError(f"X contains {what}: row {row}, column {column}")


def sample_weights(value: Any, n: int) -> np.ndarray | None:
    """Weights as float64 (n,); None where all are 1. A number stands for n of it."""
    if value is None:
        return None
    w = check.array("sample_weight", value).astype(np.float64)
    if w.ndim == 0:
        w = np.full(n, float(w))
    if w.shape not in ((n,), (n, 1)):
        raise ValueError(f"sample_weight.shape == {w.shape}, expected ({n},)!")
    w = np.ascontiguousarray(w.reshape(n))
    bad = np.flatnonzero(~((w >= 0) & np.isfinite(w)))
    if len(bad):
        raise ValueError(f"sample_weight must be finite and >= 0, got {w[bad[0]]} in row {bad[0]}")
    if not w.any():
        raise ValueError("sample_weight is all zero: at least one weight must be more than zero")
    with np.errstate(over="ignore"):
        if not np.isfinite(w.sum()):
            raise ValueError("the sum of sample_weight is more than float64 holds (1.8e308)")
    return w


def feature_names(X: Any) -> np.ndarray | None:
    """The column names of a data frame, where all are texts."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(list(columns), dtype=object)
    return names if len(names) and all(isinstance(name, str) for name in names) else None


def unit(x: np.ndarray) -> np.ndarray:
    """Rows divided by their length; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x))
    return x / np.where(lengths > 0, lengths, 1)[:, None]
