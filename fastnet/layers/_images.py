"""What layers on images share: how their arguments and the shapes of rows are checked."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from .. import check
from .base import Layer, Shape

Sides = tuple[tuple[int, int], ...]

_ROWS = {1: "(steps, channels)", 2: "(height, width, channels)"}


def channels_last(value: Any) -> None:
    """The only order of axes there is: the error says how to get there."""
    if value not in (None, "channels_last"):
        raise ValueError(
            f"data_format must be 'channels_last', got {value!r}: images are "
            "(n, height, width, channels); np.moveaxis(x, 1, -1) makes them so"
        )


def per_axis(name: str, value: Any, axes: int, low: int = 1) -> tuple[int, ...]:
    """One integer from `low` to 2**20 for each axis, or one for all of them."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = (value,) * axes
    if not isinstance(value, tuple | list) or len(value) != axes:
        raise TypeError(f"{name} must be an integer or {axes} of them, got {value!r}")
    numbers = tuple(check.integer(f"{name}[{i}]", n, low=low) for i, n in enumerate(value))
    if max(numbers) > 2**20:
        raise ValueError(f"{name} must be at most 2**20, got {value!r}")
    return numbers


def sides(name: str, value: Any, axes: int) -> Sides:
    """(before, after) for each axis: an integer for all of them, one for each axis, or pairs.

    With one axis, (before, after) itself.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = (value,) * axes if axes > 1 else (value, value)
    if axes == 1 and isinstance(value, tuple | list) and len(value) == 2:
        value = (value,)
    if not isinstance(value, tuple | list) or len(value) != axes:
        wanted = "((top, bottom), (left, right))" if axes == 2 else "(before, after)"
        raise TypeError(f"{name} must be an integer, one for each axis or {wanted}, got {value!r}")
    return tuple(
        (pair[0], pair[1])
        for i, side in enumerate(value)
        for pair in [per_axis(f"{name}[{i}]", side, 2, low=0)]
    )


def image_shape(layer: Layer, shape: Shape, axes: int) -> Shape:
    """The axes of a row before its channels; ValueError when it has others."""
    if len(shape) != axes + 1:
        hint = ""
        if len(shape) == axes:
            hint = f"; put Reshape(({', '.join(map(str, shape))}, 1)) before it"
        raise ValueError(
            f"{type(layer).__name__} wants rows of shape {_ROWS[axes]}, "
            f"got rows of shape {shape}{hint}"
        )
    return shape[:-1]


def same(n: int, reach: int, stride: int) -> tuple[int, int]:
    """Windows of `reach` values along n of them, and the padding before the first, for
    ceil(n / stride): as even as can be, the rest behind."""
    count = -(-n // stride)
    return count, max((count - 1) * stride + reach - n, 0) // 2


def two(values: tuple[int, ...], fill: int = 1) -> tuple[int, int]:
    """(of height, of width): a sequence is an image of one line."""
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])


def lists(value: Any) -> Any:
    """Tuples as JSON has them."""
    return [lists(v) for v in value] if isinstance(value, tuple) else value
