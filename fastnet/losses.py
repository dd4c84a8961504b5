"""Losses: what training makes small. The arithmetic is in csrc/losses.def and csrc/ops/loss.c.

The loss of a minibatch is ``sum(w * l) / sum(w)`` over rows (w: sample weights, 1 without them);
the rows of an output of more than one axis are all its axes but the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .check import choice, number

__all__ = [
    "MAE",
    "MSE",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "Poisson",
    "get",
]


class Loss:
    """What all losses share; use a subclass, or its name."""

    #: Its name in csrc/losses.def; "python" for a function of yours.
    name: ClassVar[str]
    #: A last activation that is computed together with the loss, from logits.
    fused: ClassVar[str | None] = None
    #: Integer targets are read as classes (others are made one-hot).
    classes: ClassVar[bool] = False

    def attributes(self) -> dict[str, float]:
        """Numbers of the engine's loss op."""
        return {}

    def prepare(self, y: np.ndarray) -> np.ndarray:
        """Float targets as the engine wants them; ValueError if they make no sense."""
        return y

    def threshold(self, logits: bool) -> float:
        """An output above it means class 1; `logits`: the network ends without `fused`."""
        return 0.0 if logits and self.fused == "sigmoid" else 0.5

    def __repr__(self) -> str:
        numbers = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if v)
        return f"{type(self).__name__}({numbers})"

    def __eq__(self, other: object) -> bool:  # networks keep a plan for each loss
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


def _bounded(loss: str, y: np.ndarray, low: float, high: float) -> np.ndarray:
    if y.size and not (y.min() >= low and y.max() <= high):
        raise ValueError(
            f"{loss} wants targets in [{low:g}, {high:g}], got {y.min():g} to {y.max():g}"
        )
    return y


class CrossEntropy(Loss):
    """``-sum(t * log(softmax(z)))``, fused with a final softmax; a linear last layer gives z.

    Targets: integer classes, or probabilities (one-hot) of the output's shape.

    Parameters
    ----------
    label_smoothing : float in [0, 1), default 0
        Targets become ``t * (1 - label_smoothing) + label_smoothing / classes``.
    """

    name, fused, classes = "cross_entropy", "softmax", True

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = number("label_smoothing", label_smoothing, low=0, below=1)

    def attributes(self):
        return {"smoothing": self.label_smoothing}

    def prepare(self, y):
        return _bounded("cross_entropy", y, 0, np.inf)


class BinaryCrossEntropy(Loss):
    """``-t*log(p) - (1-t)*log(1-p)``, p = sigmoid(z), mean over outputs; the sigmoid is fused.

    Parameters
    ----------
    label_smoothing : float in [0, 1), default 0
        Targets become ``t * (1 - label_smoothing) + label_smoothing / 2``.
    """

    name, fused = "binary_cross_entropy", "sigmoid"

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = number("label_smoothing", label_smoothing, low=0, below=1)

    def attributes(self):
        return {"smoothing": self.label_smoothing}

    def prepare(self, y):
        return _bounded("binary_cross_entropy", y, 0, 1)


class MSE(Loss):
    """Mean squared error over outputs: ``mean((p - t)^2)``."""

    name = "mse"


class MAE(Loss):
    """Mean absolute error over outputs: ``mean(|p - t|)``."""

    name = "mae"


class Huber(Loss):
    """Squared near zero, linear beyond `delta`: ``0.5*d^2`` or ``delta*(|d| - 0.5*delta)``; mean.

    Parameters
    ----------
    delta : float > 0, default 1
    """

    name = "huber"

    def __init__(self, delta: float = 1.0):
        self.delta = number("delta", delta, above=0)

    def attributes(self):
        return {"delta": self.delta}


class LogCosh(Loss):
    """``mean(log(cosh(p - t)))``: squared near zero, linear far away, smooth everywhere."""

    name = "log_cosh"


class Hinge(Loss):
    """``mean(max(1 - t*p, 0))`` with targets -1 and 1; 0 and 1 are taken as -1 and 1."""

    name = "hinge"

    def prepare(self, y):
        zero = y == 0
        if not (zero | (np.abs(y) == 1)).all() or (zero.any() and (y < 0).any()):
            raise ValueError(f"hinge wants targets -1 and 1 (or 0 and 1), got {np.unique(y)[:5]}")
        return np.where(zero, np.float32(-1), y) if zero.any() else y

    def threshold(self, logits):
        return 0.0


class Poisson(Loss):
    """``mean(p - t*log(p + 1e-7))`` for counts t >= 0 and rates p > 0 (softplus makes them so)."""

    name = "poisson"

    def prepare(self, y):
        return _bounded("poisson", y, 0, np.inf)


class KLDivergence(Loss):
    """``sum(t * log(t / p))``, both clipped to [1e-7, 1]; targets and outputs are probabilities."""

    name = "kl_divergence"

    def prepare(self, y):
        return _bounded("kl_divergence", y, 0, 1)


class Custom(Loss):
    """A function ``(y, y_hat) -> (value, gradient)`` of NumPy arrays; slower than the engine's.

    value: the mean loss of the batch, a float. gradient: of the value by y_hat, of y_hat's shape.
    """

    name = "python"

    def __init__(self, function: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]):
        self.function = function

    def __hash__(self):
        return id(self.function)  # which may be of a class without a hash

    def __repr__(self):
        return f"Custom({getattr(self.function, '__name__', self.function)!r})"


# Keras's other spellings.
BinaryCrossentropy = BinaryCrossEntropy
CategoricalCrossentropy = SparseCategoricalCrossentropy = CrossEntropy
MeanSquaredError, MeanAbsoluteError = MSE, MAE

_CLASSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (
        CrossEntropy, BinaryCrossEntropy, MSE, MAE, Huber, LogCosh, Hinge, Poisson, KLDivergence,
    )
}  # fmt: skip
_ALIASES = {
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "crossentropy": "cross_entropy",
    "binary_crossentropy": "binary_cross_entropy",
    "mean_squared_error": "mse",
    "squared_error": "mse",
    "mean_absolute_error": "mae",
    "absolute_error": "mae",
    "huber_loss": "huber",
    "logcosh": "log_cosh",
    "kld": "kl_divergence",
    "kullback_leibler_divergence": "kl_divergence",
}


def get(loss: Any) -> Loss:
    """A loss from its name (Keras's other spellings too), itself, or a function of yours.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or something that is no loss.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if callable(loss):
        return Custom(loss)
    name = _ALIASES.get(loss, loss) if isinstance(loss, str) else loss
    return _CLASSES[choice("loss", name, _CLASSES)]()
