"""Pools over windows of an image or a sequence. Kernels: csrc/ops/max_pool.c, avg_pool.c."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import check
from . import _images as images
from .base import Layer, Shape


class _Pool(Layer):
    """Windows of `pool_size`, `strides` apart; subclasses say which number comes of a window."""

    axes: ClassVar[int] = 2
    op: ClassVar[str]

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: Any = "valid",
        data_format: str | None = None,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        images.channels_last(data_format)
        self.pool_size = images.per_axis("pool_size", pool_size, self.axes)
        self.strides = self.pool_size
        if strides is not None:
            self.strides = images.per_axis("strides", strides, self.axes)
        if isinstance(padding, str):
            self.padding: Any = check.choice("padding", padding, ("same", "valid"))
        else:
            self.padding = images.sides("padding", padding, self.axes)
            for pool, pair in zip(self.pool_size, self.padding, strict=True):
                if max(pair) >= pool:
                    raise ValueError(
                        f"padding must be below pool_size, or windows would hold nothing else: "
                        f"got padding {self.padding} and pool_size {self.pool_size}"
                    )
        self.ceil_mode = bool(ceil_mode)

    def build(self, input_shape):
        image = images.image_shape(self, input_shape, self.axes)
        places = [self._places(image, axis) for axis in range(self.axes)]
        self._corner = tuple(before for _, before in places)
        return (*(n for n, _ in places), input_shape[-1])

    def _places(self, image: Shape, axis: int) -> tuple[int, int]:
        """How many windows there are along an axis, and the padding before the first."""
        n, pool, stride = image[axis], self.pool_size[axis], self.strides[axis]
        if self.padding == "same":
            return images.same(n, pool, stride)
        before, after = (0, 0) if self.padding == "valid" else self.padding[axis]
        room = before + n + after - pool
        if room < 0:
            raise ValueError(
                f"pool_size {self.pool_size} is larger than the image {image}"
                + (f" with padding {self.padding}" if self.padding != "valid" else "")
                + "; padding='same' allows that"
            )
        count = room // stride + 1
        if self.ceil_mode and room % stride and count * stride < before + n:
            count += 1  # a window that begins inside, cut off at the border
        return count, before

    def lower(self, to, x):
        (pool_h, pool_w), (stride_h, stride_w) = map(images.two, (self.pool_size, self.strides))
        top, left = images.two(self._corner, 0)
        return to.op(
            self.op, to.in_shape(x), self.output_shape, pool_h=pool_h, pool_w=pool_w,
            stride_h=stride_h, stride_w=stride_w, top=top, left=left,
        )  # fmt: skip

    def config(self):
        result: dict[str, Any] = {"pool_size": images.lists(self.pool_size)}
        if self.strides != self.pool_size:
            result["strides"] = images.lists(self.strides)
        if self.padding != "valid":
            result["padding"] = images.lists(self.padding)
        if self.ceil_mode:
            result["ceil_mode"] = True
        return result


class MaxPool2D(_Pool):
    """The largest value of each window, per channel; x (n, h, w, c) -> y (n, ho, wo, c).

    Parameters
    ----------
    pool_size : int or (height, width), default 2
    strides : int or (down, across), default `pool_size`
    padding : "valid" (default), "same", int, (rows, columns) or ((top, bottom), (left, right))
        "valid": windows that fit, ho = (h - pool) // stride + 1. "same": ho = ceil(h / stride),
        padding as even as can be, the rest behind. Explicit padding is below `pool_size`. Padding
        is never the largest: windows are cut off at the border of the image.
    data_format : None or "channels_last"
    ceil_mode : bool, default False
        Also a last window that begins in the image (or the padding before it) and reaches beyond.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If arguments are out of range, rows are no images, or the pool is larger than the image.

    Notes
    -----
    Of equal values the first (by rows) gets the gradient. NaN in a window makes its maximum NaN.
    ``MaxPooling2D`` is the same layer. Kernel code: csrc/ops/max_pool.c.
    """

    op = "max_pool"


class AvgPool2D(_Pool):
    """The mean of each window, per channel; x (n, h, w, c) -> y (n, ho, wo, c).

    Takes the arguments of `MaxPool2D`. Padding does not count: the mean is over the pixels of the
    image in a window, as in Keras (PyTorch's ``count_include_pad=False``). ``AveragePooling2D`` is
    the same layer. Kernel code: csrc/ops/avg_pool.c.
    """

    op = "avg_pool"


class MaxPool1D(_Pool):
    """`MaxPool2D` of sequences: x (n, steps, c) -> y (n, windows, c), its arguments and errors.

    `pool_size`, `strides` and explicit padding have one axis: an integer, or (before, after) for
    padding. ``MaxPooling1D`` is the same layer.
    """

    axes = 1
    op = "max_pool"


class AvgPool1D(_Pool):
    """`AvgPool2D` of sequences: x (n, steps, c) -> y (n, windows, c); arguments as `MaxPool1D`.

    ``AveragePooling1D`` is the same layer.
    """

    axes = 1
    op = "avg_pool"


class _GlobalPool(Layer):
    """One window, as large as the image."""

    axes: ClassVar[int] = 2
    op: ClassVar[str]

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, *, name: str | None = None
    ):
        super().__init__(name=name)
        images.channels_last(data_format)
        self.keepdims = bool(keepdims)

    def build(self, input_shape):
        image = images.image_shape(self, input_shape, self.axes)
        return (*(1 for _ in image if self.keepdims), input_shape[-1])

    def lower(self, to, x):
        h, w = images.two(self.input_shape[:-1])
        return to.op(self.op, to.in_shape(x), self.output_shape, pool_h=h, pool_w=w)

    def config(self):
        return {"keepdims": True} if self.keepdims else {}


class GlobalMaxPool2D(_GlobalPool):
    """The largest value of each channel; x (n, h, w, c) -> y (n, c).

    Parameters
    ----------
    data_format : None or "channels_last"
    keepdims : bool, default False
        True gives y (n, 1, 1, c).
    name : str, optional

    Raises
    ------
    ValueError
        If rows are no images.

    Notes
    -----
    ``GlobalMaxPooling2D`` is the same layer. Kernel code: csrc/ops/max_pool.c.
    """

    op = "max_pool"


class GlobalAvgPool2D(_GlobalPool):
    """The mean of each channel; x (n, h, w, c) -> y (n, c); arguments as `GlobalMaxPool2D`.

    ``GlobalAveragePooling2D`` is the same layer. Kernel code: csrc/ops/avg_pool.c.
    """

    op = "avg_pool"


class GlobalMaxPool1D(_GlobalPool):
    """`GlobalMaxPool2D` of sequences: x (n, steps, c) -> y (n, c), or (n, 1, c) with
    ``keepdims=True``; its arguments and errors. ``GlobalMaxPooling1D`` is the same layer.
    """

    axes = 1
    op = "max_pool"


class GlobalAvgPool1D(_GlobalPool):
    """`GlobalAvgPool2D` of sequences: x (n, steps, c) -> y (n, c), or (n, 1, c) with
    ``keepdims=True``; its arguments and errors. ``GlobalAveragePooling1D`` is the same layer.
    """

    axes = 1
    op = "avg_pool"
