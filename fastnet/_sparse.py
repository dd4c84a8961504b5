"""Sparse matrices as the engine reads them: rows of CSR, never made dense as a whole.

SciPy is not imported: whatever has ``tocsr()`` counts, and what that gives is read by its
attributes data, indices, indptr and shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core

_REAL = "fdegbhilqBHILQ?"


def is_sparse(value: Any) -> bool:
    return hasattr(value, "tocsr")


def arrays(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, indices, indptr) of CSR: contiguous, and both kinds of indices of one type."""
    kinds = {matrix.indices.dtype, matrix.indptr.dtype}
    kind = np.int32 if kinds == {np.dtype(np.int32)} else np.int64
    return (
        np.ascontiguousarray(matrix.data),
        np.ascontiguousarray(matrix.indices, kind),
        np.ascontiguousarray(matrix.indptr, kind),
    )


def _float(values: np.ndarray) -> np.ndarray:
    """As it is where the engine reads it, else as float32; what is too large becomes infinite."""
    if values.dtype in (np.float32, np.float64) and values.dtype.isnative:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _summed(values: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> tuple[Any, Any, Any]:
    """New arrays with each row's columns in order, and one value where there were several."""
    n = len(indptr) - 1
    entries = slice(indptr[0], indptr[-1])
    row, column = np.repeat(np.arange(n), np.diff(indptr)), indices[entries]
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(row) != 0) | (np.diff(column) != 0)
    sums = np.zeros(np.count_nonzero(new), values.dtype)
    np.add.at(sums, np.cumsum(new) - 1, values[entries][order])
    starts = np.concatenate(([0], np.cumsum(np.bincount(row[new], minlength=n))))
    return sums, column[new], starts.astype(indptr.dtype)


class Rows(_core.Csr):
    """Rows (n, d) of a sparse matrix, as a source of the engine."""

    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, chosen: slice | np.ndarray) -> Rows | np.ndarray:
        """A run of rows, sharing memory; or any rows, by their numbers, as a dense array."""
        if isinstance(chosen, slice):
            first, end, _ = chosen.indices(len(self))
            starts = self.indptr[first : max(first, end) + 1]
            return Rows(self.values, self.indices, starts, self.columns)
        dense = np.zeros((len(chosen), self.columns), np.float32)
        for i, row in enumerate(chosen):
            entries = slice(self.indptr[row], self.indptr[row + 1])
            dense[i, self.indices[entries]] = self.values[entries]
        return dense


def _checked(name: str, value: Any) -> tuple[Any, Rows]:
    """A sparse matrix as CSR, and its rows; SciPy itself may crash on what is refused here."""
    matrix = value.tocsr()
    if len(matrix.shape) != 2:
        raise ValueError(f"{name} must have two axes, got a sparse array of shape {matrix.shape}")
    if matrix.dtype.char not in _REAL:
        raise TypeError(f"{name} must hold real numbers, got a sparse matrix of {matrix.dtype}")
    values, indices, indptr = arrays(matrix)
    if len(indptr) != matrix.shape[0] + 1:
        raise ValueError(
            f"{name}.indptr must hold {matrix.shape[0] + 1} numbers, got {len(indptr)}"
        )
    try:
        return matrix, Rows(_float(values), indices, indptr, matrix.shape[1])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def csr(name: str, value: Any) -> Any:
    """A sparse matrix of real numbers as CSR, checked; itself where it is that.

    Raises
    ------
    ValueError, TypeError
        As `rows`.
    """
    return _checked(name, value)[0]


def rows(name: str, value: Any) -> Rows:
    """A sparse matrix as a source, checked; the user's own arrays where they can be read as is.

    Raises
    ------
    ValueError, TypeError
        For other than two axes, values that are no real numbers, and indices that lead outside.
    """
    matrix, result = _checked(name, value)
    if result.ascending:
        return result
    values, indices, indptr = _summed(*arrays(matrix))
    return Rows(_float(values), indices, indptr, matrix.shape[1])
