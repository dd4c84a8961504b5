"""Borders and sizes of images, and dropout of whole channels. Kernels: csrc/ops/pad.c, upsample.c,
spatial_dropout.c."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import check
from . import _images as images
from .base import Layer


class _Border(Layer):
    """An image with a wider border, or (`outwards` -1) a narrower one."""

    axes: ClassVar[int] = 2
    #: The name of the constructor's argument.
    argument: ClassVar[str]
    outwards: ClassVar[int]

    def __init__(self, sides: Any, data_format: str | None, name: str | None):
        super().__init__(name=name)
        images.channels_last(data_format)
        setattr(self, self.argument, images.sides(self.argument, sides, self.axes))

    @property
    def _sides(self) -> images.Sides:
        return getattr(self, self.argument)

    def build(self, input_shape):
        image = images.image_shape(self, input_shape, self.axes)
        pairs = zip(image, self._sides, strict=True)
        left = tuple(n + self.outwards * (before + after) for n, (before, after) in pairs)
        if min(left) < 1:
            raise ValueError(f"{self.argument} {self._sides} leaves nothing of the image {image}")
        return (*left, input_shape[-1])

    def lower(self, to, x):
        top, left = images.two(tuple(self.outwards * before for before, _ in self._sides), 0)
        return to.op("pad", to.in_shape(x), self.output_shape, top=top, left=left)

    def config(self):
        return {self.argument: images.lists(self._sides if self.axes > 1 else self._sides[0])}


class ZeroPadding2D(_Border):
    """Zeros around an image; x (n, h, w, c) -> y (n, top + h + bottom, left + w + right, c).

    Parameters
    ----------
    padding : int, (rows, columns) or ((top, bottom), (left, right)), default 1
        Each >= 0.
    data_format : None or "channels_last"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If padding is negative or no integers, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/pad.c.
    """

    argument = "padding"
    outwards = 1

    def __init__(
        self, padding: Any = 1, data_format: str | None = None, *, name: str | None = None
    ):
        super().__init__(padding, data_format, name)


class ZeroPadding1D(ZeroPadding2D):
    """Zeros around a sequence; x (n, steps, c) -> y (n, before + steps + after, c).

    `padding` is an integer or (before, after), 1 by default; errors as for `ZeroPadding2D`.
    """

    axes = 1


class Cropping2D(_Border):
    """Cuts off the border of an image; x (n, h, w, c) -> y (n, h - top - bottom, ..., c).

    Parameters
    ----------
    cropping : int, (rows, columns) or ((top, bottom), (left, right)), default 0
        Each >= 0.
    data_format : None or "channels_last"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If cropping is negative or no integers, rows are no images, or nothing of them is left.

    Notes
    -----
    Kernel code: csrc/ops/pad.c.
    """

    argument = "cropping"
    outwards = -1

    def __init__(
        self, cropping: Any = 0, data_format: str | None = None, *, name: str | None = None
    ):
        super().__init__(cropping, data_format, name)


class Cropping1D(Cropping2D):
    """Cuts off the ends of a sequence; x (n, steps, c) -> y (n, steps - before - after, c).

    `cropping` is an integer or (before, after), 1 by default; errors as for `Cropping2D`.
    """

    axes = 1

    def __init__(
        self, cropping: Any = 1, data_format: str | None = None, *, name: str | None = None
    ):
        super().__init__(cropping, data_format, name=name)


class UpSampling2D(Layer):
    """Makes images larger; x (n, h, w, c) -> y (n, h * rows, w * columns, c).

    Parameters
    ----------
    size : int or (rows, columns), default 2
    data_format : None or "channels_last"
    interpolation : "nearest" (default) or "bilinear"
        Nearest repeats pixels. Bilinear puts pixel centres at half steps and repeats the border
        (PyTorch's ``align_corners=False``).
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If size or interpolation is none of these, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/upsample.c.
    """

    def __init__(
        self,
        size: Any = 2,
        data_format: str | None = None,
        interpolation: str = "nearest",
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        images.channels_last(data_format)
        self.size = images.per_axis("size", size, 2)
        self.interpolation = check.choice("interpolation", interpolation, ("nearest", "bilinear"))

    def build(self, input_shape):
        h, w = images.image_shape(self, input_shape, 2)
        return (h * self.size[0], w * self.size[1], input_shape[-1])

    def lower(self, to, x):
        bilinear = int(self.interpolation == "bilinear")
        return to.op(
            "upsample", to.in_shape(x), self.output_shape,
            factor_h=self.size[0], factor_w=self.size[1], bilinear=bilinear,
        )  # fmt: skip

    def config(self):
        return {"size": images.lists(self.size), "interpolation": self.interpolation}


class UpSampling1D(Layer):
    """Repeats each step of a sequence; x (n, steps, c) -> y (n, steps * size, c).

    Parameters
    ----------
    size : int, default 2
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If size is no integer >= 1, or rows are no sequences.

    Notes
    -----
    Kernel code: csrc/ops/upsample.c.
    """

    def __init__(self, size: int = 2, *, name: str | None = None):
        super().__init__(name=name)
        self.size = check.integer("size", size, low=1)

    def build(self, input_shape):
        (steps,) = images.image_shape(self, input_shape, 1)
        return (steps * self.size, input_shape[-1])

    def lower(self, to, x):
        return to.op("upsample", to.in_shape(x), self.output_shape, factor_w=self.size)

    def config(self):
        return {"size": self.size}


class SpatialDropout2D(Layer):
    """Sets a fraction of the channels of an image to 0 while training and scales the rest by
    1 / (1 - rate): neighbouring pixels are too alike for `Dropout` to regularise;
    x (n, h, w, c) -> y of the same shape.

    Which channels depends on the seed, the step and the row, so results do not depend on threads.
    Tompson et al., CVPR 2015; csrc/ops/spatial_dropout.c.

    Parameters
    ----------
    rate : float in [0, 1)
    data_format : None or "channels_last"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If the rate is out of range, or rows are no images.
    """

    training_only = True
    axes: ClassVar[int] = 2

    def __init__(self, rate: float, data_format: str | None = None, *, name: str | None = None):
        super().__init__(name=name)
        images.channels_last(data_format)
        self.rate = check.number("rate", rate, low=0, below=1)

    def build(self, input_shape):
        images.image_shape(self, input_shape, self.axes)
        return input_shape

    def lower(self, to, x):
        if self.rate == 0:
            return x
        return to.op("spatial_dropout", to.in_shape(x), self.output_shape, rate=self.rate)

    def config(self):
        return {"rate": self.rate}


class SpatialDropout1D(SpatialDropout2D):
    """`SpatialDropout2D` of sequences, x (n, steps, c): whole channels of a sequence; its arguments
    and errors."""

    axes = 1
