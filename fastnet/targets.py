"""Targets and weights as the engine reads them: classes as integers, everything else as float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import check
from .losses import Loss
from .metrics import Metric


@dataclass(frozen=True)
class Data:
    """Rows that one plan can train or evaluate: sources in the engine's order, and what they are."""

    sources: tuple[np.ndarray, ...]
    classes: bool
    weighted: bool

    def __len__(self) -> int:
        return len(self.sources[0])


def _text_error(y: np.ndarray) -> TypeError:
    return TypeError(
        f"y must hold numbers, got dtype {y.dtype}; names, y = np.unique(y, return_inverse=True) makes classes "
        "of text (an estimator such as fastnet.sklearn.MLPClassifier takes text as it is)"
    )


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
                f"labels for {outputs} outputs must be 0..{outputs - 1}, got {low:g}..{high:g}{hint}"
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


def targets(y: Any, n: int, shape: tuple[int, ...], loss: Loss, metrics: tuple[Metric, ...]) -> np.ndarray:
    """y checked against the output's shape: integer classes (n, *shape[:-1]) where the loss reads them,
    else float32 (n, *shape).

    Raises
    ------
    ValueError, TypeError
        For text, a wrong length or shape, NaN, or classes out of range.
    """
    y = np.asarray(y) if not isinstance(y, np.ndarray) else y
    if y.dtype.kind in "US" or (y.dtype.kind == "O" and y.size and isinstance(y.flat[0], str)):
        raise _text_error(y)
    y = check.array("y", y)
    outputs = shape[-1]
    if len(y.shape) and len(y) != n:
        raise ValueError(f"x has {n} rows and y has {len(y)}")
    if y.shape == (n, *shape[:-1], 1) and outputs != 1:
        y = y[..., 0]
    by_class = y.shape == (n, *shape[:-1]) and (outputs > 1 or loss.classes)
    if by_class and outputs > 1:
        if not _is_whole(y):
            raise ValueError(f"y of shape {y.shape} must hold whole class numbers for {outputs} outputs")
        y = _as_classes(y, outputs)
        if loss.classes and all(m.classes for m in metrics):
            return y
        return loss.prepare(_one_hot(y, outputs))
    if y.size == n * math.prod(shape) and y.shape in ((n, *shape), (n, *shape[:-1])):
        with np.errstate(over="ignore"):
            y = np.ascontiguousarray(y.reshape(n, *shape), dtype=np.float32)
        if not np.isfinite(y).all():
            row = int(np.argwhere(~np.isfinite(y).reshape(n, -1).all(axis=1))[0, 0])
            raise ValueError(f"y holds NaN or infinity in row {row}")
        return loss.prepare(y)
    wanted = f"(n, {', '.join(map(str, shape))})"
    alternative = f" or (n{''.join(f', {k}' for k in shape[:-1])},) with classes" if outputs > 1 else ""
    raise ValueError(f"y must have shape {wanted}{alternative}, got {y.shape}")


def class_weights(class_weight: Any, y: np.ndarray, outputs: int) -> np.ndarray:
    """A weight a row from {class: weight} or "balanced" (n / (classes * rows of the class))."""
    labels = np.asarray(y)
    if labels.ndim > 1 and labels.shape[-1] == outputs and outputs > 1:
        labels = labels.argmax(axis=-1)
    labels = labels.reshape(len(labels), -1)
    if labels.shape[1] != 1:
        raise ValueError("class_weight wants one class a row")
    labels = labels[:, 0].astype(np.int64)
    count = max(outputs, 2)
    table = np.ones(count)
    if isinstance(class_weight, str):
        check.choice("class_weight", class_weight, ("balanced",))
        rows = np.bincount(labels, minlength=count)
        present = rows > 0
        table[present] = len(labels) / (present.sum() * rows[present])
    elif isinstance(class_weight, Mapping):
        for key, value in class_weight.items():
            if check.integer("class", key, low=0) >= count:
                raise ValueError(f"class_weight names class {key}, there are 0..{count - 1}")
            table[key] = check.number(f"class_weight[{key}]", value, low=0)
    else:
        raise TypeError(f"class_weight must be 'balanced' or a dict of class: weight, got {class_weight!r}")
    return table[labels].astype(np.float32)
