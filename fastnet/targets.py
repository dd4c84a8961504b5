"""Targets and weights as the engine reads them: classes as integers, everything else as float32."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import check
from .losses import Loss
from .metrics import Metric


@dataclass(frozen=True)
class Data:
    """Rows that one plan can train or evaluate: an array for each input, and for each output its
    targets, whether they are classes, and its weights or None."""

    inputs: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray, ...]
    classes: tuple[bool, ...]
    weights: tuple[np.ndarray | None, ...]

    @property
    def weighted(self) -> tuple[bool, ...]:
        return tuple(w is not None for w in self.weights)

    @property
    def sources(self) -> tuple[np.ndarray, ...]:
        """In the order in which the engine's plans number them."""
        return (*self.inputs, *self.targets, *(w for w in self.weights if w is not None))

    def __getitem__(self, rows: slice) -> Data:
        weights = tuple(None if w is None else w[rows] for w in self.weights)
        return Data(
            tuple(x[rows] for x in self.inputs), tuple(y[rows] for y in self.targets),
            self.classes, weights,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.inputs[0])

    def split(self, fraction: float) -> tuple[Data, Data | None]:
        """The last `fraction` of the rows apart; None for 0."""
        fraction = check.number("validation_split", fraction, low=0, below=1)
        if fraction == 0:
            return self, None
        n = int(len(self) * (1 - fraction))
        if n == 0 or n == len(self):
            raise ValueError(
                f"validation_split {fraction} of {len(self)} rows leaves one side empty"
            )
        return self[:n], self[n:]


def is_batches(x: Any) -> bool:
    """Whether x is an iterable of batches, and no array, table or text."""
    return isinstance(x, Iterable) and not isinstance(x, str) and not hasattr(x, "shape")


def _numbers(name: str, y: Any) -> np.ndarray:
    try:
        return check.array(name, y)
    except TypeError as error:
        if np.asarray(y).dtype.kind not in "OUS":
            raise
        raise TypeError(
            f"{error}; names, y = np.unique(y, return_inverse=True) makes classes of text"
        ) from None


def _is_whole(y: np.ndarray) -> bool:
    """Integers, bool, or floats without a fraction."""
    if y.dtype.kind in "biu":
        return True
    return bool(np.isfinite(y).all() and (y == np.floor(y)).all())


def _as_classes(y: np.ndarray, outputs: int) -> np.ndarray:
    """Integer classes within 0..outputs-1, in an integer type the engine reads."""
    if y.size:
        low, high = y.min(), y.max()
        if low < 0 or high >= outputs:
            hint = "; subtract 1" if low == 1 and high == outputs else ""
            raise ValueError(
                f"labels for {outputs} outputs must be 0..{outputs - 1}, "
                f"got {low:g}..{high:g}{hint}"
            )
    if y.dtype.kind == "b":
        y = y.view(np.uint8)
    if y.dtype.char not in "bBilq" or not y.dtype.isnative:
        y = y.astype(np.int64)
    return np.ascontiguousarray(y)


def _one_hot(y: np.ndarray, outputs: int) -> np.ndarray:
    result = np.zeros((*y.shape, outputs), np.float32)
    np.put_along_axis(result, y.astype(np.int64)[..., None], 1, axis=-1)
    return result


def targets(
    y: Any, n: int, shape: tuple[int, ...], loss: Loss, metrics: tuple[Metric, ...], name: str = "y"
) -> np.ndarray:
    """y checked against the output's shape: integer classes (n, *shape[:-1]) where the loss reads
    them, else float32 (n, *shape).

    Raises
    ------
    ValueError, TypeError
        For text, a wrong length or shape, NaN, or classes out of range.
    """
    y = _numbers(name, y)
    outputs = shape[-1]
    if y.ndim and len(y) != n:
        raise ValueError(f"x has {n} rows and {name} has {len(y)}")
    if outputs > 1 and y.shape == (n, *shape[:-1], 1):
        y = y[..., 0]
    if outputs > 1 and y.shape == (n, *shape[:-1]):
        if not _is_whole(y):
            raise ValueError(
                f"{name} of shape {y.shape} must hold whole class numbers for {outputs} outputs"
            )
        y = _as_classes(y, outputs)
        if loss.classes and all(m.classes for m in metrics):
            return y
        return loss.prepare(_one_hot(y, outputs))
    if y.shape in ((n, *shape), (n, *shape[:-1])):
        y = check.float32(y.reshape(n, *shape))
        if not np.isfinite(y).all():
            row = int(np.argwhere(~np.isfinite(y).reshape(n, -1).all(axis=1))[0, 0])
            raise ValueError(f"{name} holds NaN or infinity in row {row}")
        return loss.prepare(y)
    wanted = _axes(shape)
    if outputs > 1:
        wanted += f" or {_axes(shape[:-1])} with classes"
    raise ValueError(f"{name} must have shape {wanted}, got {y.shape}")


def _axes(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['n', *map(str, shape)])}{'' if shape else ','})"


def with_class_weights(data: Data, class_weight: Any, shape: tuple[int, ...], loss: Loss) -> Data:
    """Data whose rows weigh by their class: {class: weight}, the others 1, or "balanced"
    (n / (classes * rows of the class)), times the sample weights there are.

    Raises
    ------
    ValueError, TypeError
        For weights that are none, and for targets that are not one class a row.
    """
    if loss.name == "python":
        raise ValueError("a loss function takes no weights; use one of fastnet.losses")
    labels = _classes_of(data, shape)
    table = _class_table(class_weight, labels, max(shape[-1], 2))
    given = data.weights[0]
    weight = check.float32(table[labels] * (1 if given is None else given))
    if not np.isfinite(weight).all():
        raise ValueError("class_weight makes weights that are too large for float32")
    if len(data) and not weight.any():
        raise ValueError("class_weight makes all weights zero: there is nothing to learn from")
    return Data(data.inputs, data.targets, data.classes, (weight,))


def _classes_of(data: Data, shape: tuple[int, ...]) -> np.ndarray:
    y = data.targets[0]
    if math.prod(shape[:-1]) == 1:
        y = y.reshape(len(y), -1)
        if data.classes[0]:
            return y[:, 0].astype(np.int64)
        if shape[-1] > 1 and (np.abs(y) <= 1).all():
            return y.argmax(axis=1)
        if shape[-1] == 1 and np.isin(y, (-1, 0, 1)).all():
            return (y[:, 0] > 0).astype(np.int64)
    raise ValueError("class_weight wants targets that are one class a row")


def _class_table(class_weight: Any, labels: np.ndarray, count: int) -> np.ndarray:
    """The weight of each of `count` classes."""
    table = np.ones(count)
    if isinstance(class_weight, str):
        check.choice("class_weight", class_weight, ("balanced",))
        rows = np.bincount(labels, minlength=count)
        present = rows > 0
        table[present] = len(labels) / (present.sum() * rows[present])
        return table
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"class_weight must be 'balanced' or a dict of class: weight, got {class_weight!r}"
        )
    for key, value in class_weight.items():
        if check.integer("class", key, low=0) >= count:
            raise ValueError(f"class_weight names class {key}, there are 0..{count - 1}")
        table[key] = check.number(f"class_weight[{key}]", value, low=0)
    return table
