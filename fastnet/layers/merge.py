"""Layers that make one of several: Add, Concatenate, ... Kernels: csrc/ops/add.c and the like."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .. import check
from .base import Layer, Shape


class _Merge(Layer):
    """Inputs of one shape, combined element by element."""

    several = True
    #: The engine's op.
    op: ClassVar[str]

    def build(self, input_shape):
        self._several(input_shape)
        if len(set(input_shape)) > 1:
            shapes = " and ".join(map(str, dict.fromkeys(input_shape)))
            raise ValueError(
                f"{type(self).__name__} wants inputs of one shape, got {shapes}{_hint(input_shape)}"
            )
        return input_shape[0]

    def _several(self, shapes: tuple[Shape, ...]) -> None:
        if len(shapes) < 2:
            raise ValueError(f"{type(self).__name__} wants at least two inputs in a list")

    def lower(self, to, x):
        return to.merge(self.op, x, self.output_shape)


def _hint(shapes: tuple[Shape, ...]) -> str:
    """How channels alone are spread over an image."""
    (large, *_), (small, *_) = sorted(shapes, reverse=True), sorted(shapes)
    if len(small) == len(large) == 3 and small[:2] == (1, 1) and small[2] == large[2]:
        return f"; UpSampling2D({large[:2]}) makes one of the other"
    return ""


class Add(_Merge):
    """``y = a + b + ...`` of inputs of one shape: ``Add()([a, b])``, or ``a + b``.

    Parameters
    ----------
    name : str, optional

    Raises
    ------
    ValueError
        When called on fewer than two inputs, or on inputs of different shapes.

    Notes
    -----
    Kernel code: csrc/ops/add.c.
    """

    op = "add"


class Subtract(_Merge):
    """``y = a - b`` of two inputs of one shape: ``Subtract()([a, b])``, or ``a - b``.

    Parameters
    ----------
    name : str, optional

    Raises
    ------
    ValueError
        When called on other than two inputs, or on inputs of different shapes.

    Notes
    -----
    Kernel code: csrc/ops/subtract.c.
    """

    op = "subtract"

    def _several(self, shapes):
        if len(shapes) != 2:
            raise ValueError(f"Subtract wants exactly two inputs in a list, got {len(shapes)}")


class Multiply(_Merge):
    """``y = a * b * ...`` of inputs of one shape: ``Multiply()([a, b])``, or ``a * b``.

    Parameters
    ----------
    name : str, optional

    Raises
    ------
    ValueError
        As for `Add`.

    Notes
    -----
    Kernel code: csrc/ops/multiply.c.
    """

    op = "multiply"


class Average(_Merge):
    """``y = (a + b + ...) / n`` of n inputs of one shape.

    Parameters
    ----------
    name : str, optional

    Raises
    ------
    ValueError
        As for `Add`.

    Notes
    -----
    Kernel code: csrc/ops/average.c.
    """

    op = "average"

    def lower(self, to, x):
        if len(x) <= to.most_inputs:
            return super().lower(to, x)
        total = to.merge("add", x, self.output_shape)
        return to.op("rescale", total, self.output_shape, scale=1 / len(x))


class Maximum(_Merge):
    """The largest of inputs of one shape, element by element; of equal ones the first gets the
    gradient.

    Parameters
    ----------
    name : str, optional

    Raises
    ------
    ValueError
        As for `Add`.

    Notes
    -----
    Kernel code: csrc/ops/maximum.c.
    """

    op = "maximum"


class Concatenate(_Merge):
    """Inputs side by side along one axis: (n, 5) and (n, 3) become (n, 8).

    Parameters
    ----------
    axis : int, default -1
        Counted with the batch axis, as in Keras: 1 is the first axis of a row, -1 the last.
    name : str, optional

    Raises
    ------
    ValueError
        When called on fewer than two inputs, on inputs that differ in another axis, or for an
        axis that there is not.

    Notes
    -----
    Kernel code: csrc/ops/concatenate.c.
    """

    def __init__(self, axis: int = -1, *, name: str | None = None):
        super().__init__(name=name)
        self.axis = check.integer("axis", axis)
        if self.axis == 0:
            raise ValueError("axis 0 is the batch; Concatenate joins rows along an axis behind it")

    def _place(self, shape: Shape) -> int:
        """The axis in a row's shape."""
        place = self.axis + len(shape) if self.axis < 0 else self.axis - 1
        if not 0 <= place < len(shape):
            raise ValueError(
                f"rows of shape {shape} have no axis {self.axis} (axis 0 is the batch)"
            )
        return place

    def build(self, input_shape):
        self._several(input_shape)
        place = self._place(input_shape[0])
        others = {shape[:place] + shape[place + 1 :] for shape in input_shape}
        if len(others) > 1 or len({len(shape) for shape in input_shape}) > 1:
            shapes = " and ".join(map(str, dict.fromkeys(input_shape)))
            raise ValueError(
                f"Concatenate wants inputs that differ in axis {self.axis} only, got {shapes}"
            )
        first = input_shape[0]
        along = sum(shape[place] for shape in input_shape)
        return check.shape("the output's shape", (*first[:place], along, *first[place + 1 :]))

    def lower(self, to, x):
        place = self._place(self.output_shape)
        outer = math.prod(self.output_shape[:place])
        total, along = x[0], self.input_shape[0][place]
        step = to.most_inputs - 1
        for i in range(1, len(x), step):
            along += sum(shape[place] for shape in self.input_shape[i : i + step])
            shape = (*self.output_shape[:place], along, *self.output_shape[place + 1 :])
            total = to.op("concatenate", [total, *x[i : i + step]], shape, outer=outer)
        return total

    def config(self) -> dict[str, Any]:
        return {"axis": self.axis}
