"""Convolutions of images and sequences. Kernels: csrc/kernels/conv.c and csrc/ops/*conv2d*.c."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .. import check
from . import _images as images
from .base import Layer, Shape, Weight, changed_initializers, get_initializer
from .core import activation_name


class _Convolution(Layer):
    """What all of them share: how kernels lie over rows, biases, activations, initializers."""

    #: The engine's op.
    op: ClassVar[str]
    axes: ClassVar[int] = 2
    paddings: ClassVar[tuple[str, ...]] = ("same", "valid")
    #: Names of the weights that have an initializer, and its default.
    initializers: ClassVar[dict[str, str]] = {
        "kernel_initializer": "glorot_uniform",
        "bias_initializer": "zeros",
    }

    def __init__(
        self,
        kernel_size: Any,
        strides: Any,
        padding: Any,
        data_format: str | None,
        dilation_rate: Any,
        activation: str | None,
        use_bias: bool,
        name: str | None,
        **initializers: Any,
    ):
        super().__init__(name=name)
        images.channels_last(data_format)
        self.kernel_size = images.per_axis("kernel_size", kernel_size, self.axes)
        self.strides = images.per_axis("strides", strides, self.axes)
        self.dilation_rate = images.per_axis("dilation_rate", dilation_rate, self.axes)
        if isinstance(padding, str):
            self.padding: Any = check.choice("padding", padding, self.paddings)
        else:
            self.padding = images.sides("padding", padding, self.axes)
        self.activation = activation_name(activation)
        self.use_bias = bool(use_bias)
        for key, value in initializers.items():
            setattr(self, key, get_initializer(value))

    def _reach(self, axis: int) -> int:
        """From the first tap to the last, both counted."""
        return (self.kernel_size[axis] - 1) * self.dilation_rate[axis] + 1

    def _places(self, image: Shape, axis: int) -> tuple[int, int]:
        """How many places the kernel has along an axis, and how many zeros come before it."""
        n, reach, stride = image[axis], self._reach(axis), self.strides[axis]
        if self.padding == "same":
            return images.same(n, reach, stride)
        if self.padding == "causal":
            return -(-n // stride), reach - 1
        before, after = (0, 0) if self.padding == "valid" else self.padding[axis]
        room = before + n + after - reach
        if room < 0:
            dilated = max(self.dilation_rate) > 1
            raise ValueError(
                f"kernel_size {self.kernel_size} "
                + (f"with dilation_rate {self.dilation_rate} " if dilated else "")
                + f"is larger than the {'image' if self.axes == 2 else 'sequence'} {image}"
                + (f" with padding {self.padding}" if self.padding != "valid" else "")
                + "; padding='same' allows that"
            )
        return room // stride + 1, before

    def _place(self, input_shape: Shape) -> Shape:
        """The image that comes out; remembers where the kernel begins."""
        image = images.image_shape(self, input_shape, self.axes)
        places = [self._places(image, axis) for axis in range(self.axes)]
        self._corner = tuple(before for _, before in places)
        return tuple(n for n, _ in places)

    def _bias(self, size: int) -> list[Weight]:
        initializer = self.bias_initializer  # type: ignore[attr-defined]
        return [Weight("bias", (size,), initializer)] if self.use_bias else []

    def _attributes(self) -> dict[str, int]:
        """The attributes of the op."""
        stride_h, stride_w = images.two(self.strides)
        dilation_h, dilation_w = images.two(self.dilation_rate)
        top, left = images.two(self._corner, 0)
        return {
            "stride_h": stride_h, "stride_w": stride_w, "dilation_h": dilation_h,
            "dilation_w": dilation_w, "top": top, "left": left,
        }  # fmt: skip

    def lower(self, to, x):
        y = to.op(
            self.op, to.in_shape(x), self.output_shape, params=to.params(), **self._attributes()
        )
        return to.activation(y, self.activation)

    def config(self):
        result: dict[str, Any] = {"kernel_size": images.lists(self.kernel_size)}
        ones = (1,) * self.axes
        if self.strides != ones:
            result["strides"] = images.lists(self.strides)
        if self.padding != "valid":
            result["padding"] = images.lists(self.padding)
        if self.dilation_rate != ones:
            result["dilation_rate"] = images.lists(self.dilation_rate)
        if self.activation != "linear":
            result["activation"] = self.activation
        if not self.use_bias:
            result["use_bias"] = False
        return result | changed_initializers(self, self.initializers)


class _Conv(_Convolution):
    """Convolution with `filters` kernels, in groups of channels."""

    op = "conv2d"

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        name: str | None = None,
    ):
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name,
            kernel_initializer=kernel_initializer, bias_initializer=bias_initializer,
        )  # fmt: skip
        self.filters = check.integer("filters", filters, low=1)
        self.groups = check.integer("groups", groups, low=1)
        if self.filters % self.groups:
            raise ValueError(
                f"filters must be a multiple of groups, got {self.filters} and {self.groups}"
            )

    def build(self, input_shape):
        image = self._place(input_shape)
        if input_shape[-1] % self.groups:
            raise ValueError(
                f"the channels of rows of shape {input_shape} do not divide into "
                f"groups={self.groups}"
            )
        return (*image, self.filters)

    def weights(self):
        shape = (*self.kernel_size, self.input_shape[-1] // self.groups, self.filters)
        return [
            Weight("kernel", shape, self.kernel_initializer, decay=True),
            *self._bias(self.filters),
        ]

    def _attributes(self):
        return {"groups": self.groups, **super()._attributes()}

    def config(self):
        groups = {"groups": self.groups} if self.groups > 1 else {}
        return {"filters": self.filters, **super().config(), **groups}

    def multiply_adds(self):
        taps = math.prod(self.kernel_size) * self.input_shape[-1] // self.groups
        return taps * math.prod(self.output_shape)


class Conv2D(_Conv):
    """Each pixel of the result is `filters` weighted sums of the pixels around it.

    x (n, h, w, c) -> y (n, ho, wo, filters), ``y = activation(conv(x, kernel) + bias)``.

    Parameters
    ----------
    filters : int >= 1
        Channels of the result.
    kernel_size : int or (height, width)
    strides : int or (down, across), default 1
    padding : "valid" (default), "same", int, (rows, columns) or ((top, bottom), (left, right))
        "valid": kernels that fit, ho = (h - kernel) // stride + 1. "same": ho = ceil(h / stride),
        zeros around the image as evenly as can be, the rest behind, as in Keras.
    data_format : None or "channels_last"
    dilation_rate : int or (down, across), default 1
        From one tap of the kernel to the next.
    groups : int, default 1
        Divides channels and filters; filters see the channels of their own group.
    activation : str, default None (linear)
        As for `Dense`.
    use_bias : bool, default True
    kernel_initializer : str, Initializer or callable(shape, rng), default "glorot_uniform"
    bias_initializer : the same, default "zeros"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If arguments are out of range, rows are no images, channels do not divide into groups, or
        the kernel is larger than the image.

    Notes
    -----
    Weights: kernel (height, width, c / groups, filters), bias (filters,), float32.
    ``Convolution2D`` is the same layer. Kernel code: csrc/ops/conv2d.c, csrc/kernels/conv.c.

    Examples
    --------
    >>> layers.Conv2D(32, 3, padding="same", activation="relu")
    """


class Conv1D(_Conv):
    """`Conv2D` of sequences: x (n, steps, c) -> y (n, places, filters).

    Takes the arguments of `Conv2D`. `kernel_size`, `strides` and `dilation_rate` are integers;
    explicit padding is an integer or (before, after). ``padding="causal"`` is zeros before the
    sequence only: a step sees itself and those before it. ``Convolution1D`` is the same layer.

    Notes
    -----
    Weights: kernel (size, c / groups, filters), bias (filters,).
    """

    axes = 1
    paddings = ("causal", "same", "valid")


class DepthwiseConv2D(_Convolution):
    """A convolution of every channel by itself, with `depth_multiplier` kernels each.

    x (n, h, w, c) -> y (n, ho, wo, c * depth_multiplier); channel k * depth_multiplier + j of the
    result is channel k with its kernel j.

    Parameters
    ----------
    kernel_size : int or (height, width)
    strides, padding, data_format, dilation_rate, activation, use_bias, bias_initializer, name
        As for `Conv2D`.
    depth_multiplier : int >= 1, default 1
    depthwise_initializer : str, Initializer or callable(shape, rng), default "glorot_uniform"

    Raises
    ------
    ValueError, TypeError
        As for `Conv2D`.

    Notes
    -----
    Weights: depthwise_kernel (height, width, c, depth_multiplier), bias. ``DepthwiseConvolution2D``
    is the same layer. Kernel code: csrc/ops/depthwise_conv2d.c.
    """

    op = "depthwise_conv2d"
    initializers: ClassVar[dict[str, str]] = {
        "depthwise_initializer": "glorot_uniform",
        "bias_initializer": "zeros",
    }

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        name: str | None = None,
    ):
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name,
            depthwise_initializer=depthwise_initializer, bias_initializer=bias_initializer,
        )  # fmt: skip
        self.depth_multiplier = check.integer("depth_multiplier", depth_multiplier, low=1)

    def build(self, input_shape):
        image = self._place(input_shape)
        return (*image, input_shape[-1] * self.depth_multiplier)

    def weights(self):
        shape = (*self.kernel_size, self.input_shape[-1], self.depth_multiplier)
        kernel = Weight("depthwise_kernel", shape, self.depthwise_initializer, decay=True)
        return [kernel, *self._bias(self.output_shape[-1])]

    def config(self):
        many = {} if self.depth_multiplier == 1 else {"depth_multiplier": self.depth_multiplier}
        return {**super().config(), **many}

    def multiply_adds(self):
        return math.prod(self.kernel_size) * math.prod(self.output_shape)


class SeparableConv2D(_Convolution):
    """`DepthwiseConv2D`, then a `Conv2D` of 1 x 1: a cheaper convolution.

    x (n, h, w, c) -> y (n, ho, wo, filters). Chollet, CVPR 2017.

    Parameters
    ----------
    filters : int >= 1
    kernel_size, strides, padding, data_format, dilation_rate, depth_multiplier
        Of the first of the two, as for `DepthwiseConv2D`.
    activation, use_bias, bias_initializer, name
        As for `Conv2D`; bias and activation come once, at the end.
    depthwise_initializer, pointwise_initializer : default "glorot_uniform"

    Raises
    ------
    ValueError, TypeError
        As for `Conv2D`.

    Notes
    -----
    Weights: depthwise_kernel (height, width, c, depth_multiplier), pointwise_kernel (1, 1, c *
    depth_multiplier, filters), bias (filters,). ``SeparableConvolution2D`` is the same layer.
    """

    initializers: ClassVar[dict[str, str]] = {
        "depthwise_initializer": "glorot_uniform",
        "pointwise_initializer": "glorot_uniform",
        "bias_initializer": "zeros",
    }

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        depth_multiplier: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        name: str | None = None,
    ):
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer, bias_initializer=bias_initializer,
        )  # fmt: skip
        self.filters = check.integer("filters", filters, low=1)
        self.depth_multiplier = check.integer("depth_multiplier", depth_multiplier, low=1)

    def build(self, input_shape):
        return (*self._place(input_shape), self.filters)

    def _channels(self) -> int:
        """Between the two."""
        return self.input_shape[-1] * self.depth_multiplier

    def weights(self):
        first = (*self.kernel_size, self.input_shape[-1], self.depth_multiplier)
        second = (1, 1, self._channels(), self.filters)
        return [
            Weight("depthwise_kernel", first, self.depthwise_initializer, decay=True),
            Weight("pointwise_kernel", second, self.pointwise_initializer, decay=True),
            *self._bias(self.filters),
        ]

    def lower(self, to, x):
        first, *rest = to.params()
        between = (*self.output_shape[:2], self._channels())
        y = to.op("depthwise_conv2d", to.in_shape(x), between, params=[first], **self._attributes())
        y = to.op("conv2d", y, self.output_shape, params=rest)
        return to.activation(y, self.activation)

    def config(self):
        many = {} if self.depth_multiplier == 1 else {"depth_multiplier": self.depth_multiplier}
        return {"filters": self.filters, **super().config(), **many}

    def multiply_adds(self):
        pixels = math.prod(self.output_shape[:2])
        return pixels * self._channels() * (math.prod(self.kernel_size) + self.filters)


class Conv2DTranspose(_Convolution):
    """The way back of a convolution, as a layer: each pixel is spread over a larger image.

    x (n, h, w, c) -> y (n, ho, wo, filters). What `Conv2D` with the same arguments makes of an
    image (ho, wo, filters) has the size of x, and y is the gradient that x would send back there.

    Parameters
    ----------
    filters : int >= 1
    kernel_size, strides, data_format, dilation_rate, activation, use_bias, kernel_initializer,
    bias_initializer, name
        As for `Conv2D`.
    padding : "valid" (default) or "same"
        "valid": ho = h * stride + max(kernel - stride, 0); "same": ho = h * stride, as in Keras.
    output_padding : int or (down, across), optional
        From 0 to stride - 1. Chooses among the sizes that a convolution brings back to h: "valid":
        ho = (h - 1) * stride + kernel + output_padding; "same": (h - 1) * stride + kernel % 2 +
        output_padding, as in Keras.

    Raises
    ------
    ValueError, TypeError
        As for `Conv2D`.

    Notes
    -----
    Weights: kernel (height, width, filters, c), bias (filters,). ``Convolution2DTranspose`` is the
    same layer. Kernel code: csrc/ops/conv2d_transpose.c.
    """

    op = "conv2d_transpose"

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        output_padding: Any = None,
        name: str | None = None,
    ):
        padding = check.choice("padding", padding, self.paddings)
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, name,
            kernel_initializer=kernel_initializer, bias_initializer=bias_initializer,
        )  # fmt: skip
        self.filters = check.integer("filters", filters, low=1)
        self.output_padding = output_padding
        if output_padding is not None:
            extra = images.per_axis("output_padding", output_padding, self.axes, low=0)
            if any(n >= stride for n, stride in zip(extra, self.strides, strict=True)):
                raise ValueError(
                    f"output_padding must be below strides {self.strides}, got {output_padding!r}"
                )
            self.output_padding = extra

    def _places(self, image, axis):
        """Here: the size of the result, and the zeros before it in the convolution back to x."""
        n, reach, stride = image[axis], self._reach(axis), self.strides[axis]
        all_taps = (n - 1) * stride + reach
        if self.output_padding is not None:
            size = all_taps if self.padding == "valid" else (n - 1) * stride + reach % 2
            size += self.output_padding[axis]
        else:
            size = max(all_taps, n * stride) if self.padding == "valid" else n * stride
        if size < 1:
            raise ValueError(
                f"nothing comes of the image {image} with kernel_size {self.kernel_size}, strides "
                f"{self.strides}, padding 'same' and output_padding {self.output_padding}"
            )
        return size, max(all_taps - size, 0) // 2

    def build(self, input_shape):
        return (*self._place(input_shape), self.filters)

    def weights(self):
        shape = (*self.kernel_size, self.filters, self.input_shape[-1])
        return [
            Weight("kernel", shape, self.kernel_initializer, decay=True),
            *self._bias(self.filters),
        ]

    def config(self):
        extra = self.output_padding
        more = {} if extra is None else {"output_padding": images.lists(extra)}
        return {"filters": self.filters, **super().config(), **more}

    def multiply_adds(self):
        return math.prod(self.kernel_size) * math.prod(self.input_shape) * self.filters
