"""Errors of fastnet that are not plain ValueError or TypeError."""

from __future__ import annotations

from .history import History


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
