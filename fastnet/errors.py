"""Errors of fastnet that are not plain ValueError or TypeError, and the one for bad rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .history import History

if TYPE_CHECKING:
    from . import _core


class DivergenceError(ArithmeticError):
    """Training produced NaN or infinity; the network keeps the last weights that were good.

    Attributes
    ----------
    layer : str
        Name of the first layer whose output (or weights) are not finite.
    epoch, step : int
        Where it happened, counted from 0 in this fit.
    history : History
        The epochs before.
    """

    def __init__(self, message: str, layer: str, epoch: int, step: int):
        super().__init__(message)
        self.layer, self.epoch, self.step = layer, epoch, step
        self.history: History | None = None


class ModelFileError(ValueError):
    """A model file that is damaged, truncated, foreign, too large or hostile."""


class NotFittedError(ValueError, AttributeError):
    """A model is asked for what only `fit` gives it."""


class ConvergenceWarning(UserWarning):
    """A fit ended with less than was asked for: fewer distinct clusters than n_clusters."""


def raise_bad_input(result: _core.Result, name: str, first: int = 0) -> NoReturn:
    """The ValueError for NaN or infinity in a source that began at row `first` of the data."""
    raise ValueError(
        f"{name} holds NaN or infinity in row {first + result.bad_row}, column {result.bad_column} "
        "(of the row flattened); remove or fill such rows first"
    )
