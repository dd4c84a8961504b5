"""Random changes to images while training. Kernels: csrc/ops/affine.c, tone.c, noise.c, erase.c.

What is drawn for an image depends on the seed, the step and its place in the batch: the same bits
for any number of threads, and training that is resumed goes on as it would have. Images have shape
(height, width) or (height, width, channels). Parameters are those of Keras.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .. import check
from .base import Layer

_KINDS = ("flip", "translate", "rotate", "zoom", "crop", "resize")  # as in csrc/ops/affine.c
_FILLS = ("reflect", "wrap", "constant", "nearest")
_MODES = ("horizontal", "vertical", "horizontal_and_vertical")
_INTERPOLATIONS = ("nearest", "bilinear")

Factor = float | tuple[float, float]


def _between(name: str, value: Any, low: float | None, high: float | None) -> tuple[float, float]:
    """Two numbers in order, both within low..high."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be a number or two numbers (low, high), got {value!r}")
    first, last = (check.number(f"{name}[{i}]", v, low=low, high=high) for i, v in enumerate(value))
    if first > last:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {value!r}")
    return first, last


def _around_zero(name: str, value: Any, limit: float = 1.0) -> tuple[float, float]:
    """(low, high) as given; a number f means (-f, f)."""
    if isinstance(value, tuple | list):
        return _between(name, value, -limit, limit)
    f = abs(check.number(name, value, low=-limit, high=limit))
    return -f, f


def _value_range(value: Any) -> tuple[float, float]:
    low, high = _between("value_range", value, None, None)
    if low == high:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value!r}")
    return low, high


class _ImageLayer(Layer):
    """A layer for rows of shape (height, width) or (height, width, channels)."""

    training_only: ClassVar[bool] = True

    def build(self, input_shape):
        if len(input_shape) not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} wants images of shape (height, width) or "
                f"(height, width, channels), got rows of shape {input_shape}"
            )
        return input_shape


class _Affine(_ImageLayer):
    """Images resampled along a map that is drawn for each of them."""

    def _lower(self, to, x, kind: str, y, across, **options):
        return to.op(
            "affine", to.in_shape(x), self.output_shape, kind=_KINDS.index(kind),
            low_y=y[0], high_y=y[1], low_x=across[0], high_x=across[1], **options,
        )  # fmt: skip


class _Resampled(_Affine):
    """Those that look between pixels, and beyond the image."""

    def __init__(self, fill_mode: str, interpolation: str, fill_value: float, name: str | None):
        super().__init__(name=name)
        self.fill_mode = check.choice("fill_mode", fill_mode, _FILLS)
        self.interpolation = check.choice("interpolation", interpolation, _INTERPOLATIONS)
        self.fill_value = check.number("fill_value", fill_value)

    def _options(self) -> dict[str, Any]:
        return {
            "fill": _FILLS.index(self.fill_mode),
            "fill_value": self.fill_value,
            "nearest": int(self.interpolation == "nearest"),
        }

    def config(self):
        return {
            "fill_mode": self.fill_mode,
            "interpolation": self.interpolation,
            "fill_value": self.fill_value,
        }


class RandomFlip(_Affine):
    """Mirrors each image with a chance of one half; along both axes: one half for each of them;
    x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    mode : "horizontal" (left and right), "vertical" or "horizontal_and_vertical" (the default)
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If mode is none of these, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/affine.c.
    """

    def __init__(self, mode: str = "horizontal_and_vertical", *, name: str | None = None):
        super().__init__(name=name)
        self.mode = check.choice("mode", mode, _MODES)

    def lower(self, to, x):
        vertical, horizontal = "vertical" in self.mode, "horizontal" in self.mode
        return self._lower(to, x, "flip", (0, vertical / 2), (0, horizontal / 2))

    def config(self):
        return {"mode": self.mode}


class RandomTranslation(_Resampled):
    """Moves each image; x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    height_factor, width_factor : float or (low, high), each in [-1, 1]
        Share of the height (positive: down) and of the width (positive: right); f is (-f, f).
    fill_mode : str, default "reflect"
        What comes from outside: "reflect" (d c b a | a b c d | d c b a), "wrap" (a b c d | a b c d
        | a b c d), "constant" (`fill_value`), "nearest" (a a a a | a b c d | d d d d).
    interpolation : "bilinear" (the default) or "nearest"
    fill_value : float, default 0
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If a factor is out of range, a name unknown, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/affine.c.
    """

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        fill_value: float = 0.0,
        *,
        name: str | None = None,
    ):
        super().__init__(fill_mode, interpolation, fill_value, name)
        self.height_factor = _around_zero("height_factor", height_factor)
        self.width_factor = _around_zero("width_factor", width_factor)

    def lower(self, to, x):
        return self._lower(
            to, x, "translate", self.height_factor, self.width_factor, **self._options()
        )

    def config(self):
        factors = {"height_factor": self.height_factor, "width_factor": self.width_factor}
        return {name: list(value) for name, value in factors.items()} | super().config()


class RandomRotation(_Resampled):
    """Turns each image about its middle; x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    factor : float or (low, high), each in [-1, 1]
        Share of a full turn, positive: counter-clockwise; f is (-f, f). 0.03 is about 11 degrees.
    fill_mode, interpolation, fill_value
        As for `RandomTranslation`.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If the factor is out of range, a name unknown, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/affine.c.
    """

    def __init__(
        self,
        factor: Factor,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        fill_value: float = 0.0,
        *,
        name: str | None = None,
    ):
        super().__init__(fill_mode, interpolation, fill_value, name)
        self.factor = _around_zero("factor", factor)

    def lower(self, to, x):
        return self._lower(to, x, "rotate", self.factor, (0, 0), **self._options())

    def config(self):
        return {"factor": list(self.factor)} | super().config()


class RandomZoom(_Resampled):
    """Makes what is in each image smaller or larger; x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    height_factor : float or (low, high), each in [-1, 1]
        0.2 shows 1.2 times the height of the image (smaller), -0.2 shows 0.8 of it (larger); f is
        (-f, f).
    width_factor : float or (low, high), optional
        The same across; by default what was drawn for the height, which keeps proportions.
    fill_mode, interpolation, fill_value
        As for `RandomTranslation`.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If a factor is out of range, a name unknown, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/affine.c.
    """

    def __init__(
        self,
        height_factor: Factor,
        width_factor: Factor | None = None,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        fill_value: float = 0.0,
        *,
        name: str | None = None,
    ):
        super().__init__(fill_mode, interpolation, fill_value, name)
        self.height_factor = _around_zero("height_factor", height_factor)
        self.width_factor = (
            None if width_factor is None else _around_zero("width_factor", width_factor)
        )

    def lower(self, to, x):
        across = self.width_factor or (float("nan"), float("nan"))
        return self._lower(to, x, "zoom", self.height_factor, across, **self._options())

    def config(self):
        across = None if self.width_factor is None else list(self.width_factor)
        factors = {"height_factor": list(self.height_factor), "width_factor": across}
        return factors | super().config()


class RandomCrop(_Affine):
    """A window of (height, width) at a random place of each image; larger than the image, or when
    not training: the largest window of these proportions in its middle, resized (bilinear);
    x (n, h, w[, c]) -> y (n, height, width[, c]).

    Parameters
    ----------
    height, width : int >= 1
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If height or width is no integer >= 1, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/affine.c.
    """

    training_only = False

    def __init__(self, height: int, width: int, *, name: str | None = None):
        super().__init__(name=name)
        self.height = check.integer("height", height, low=1)
        self.width = check.integer("width", width, low=1)

    def build(self, input_shape):
        return (self.height, self.width, *super().build(input_shape)[2:])

    def lower(self, to, x):
        height, width = self.input_shape[:2]
        if (height, width) == (self.height, self.width):
            return x
        fits = height >= self.height and width >= self.width
        kind = "crop" if fits and to.request.mode == "train" else "resize"
        return self._lower(to, x, kind, (0, 0), (0, 0), fill=_FILLS.index("nearest"))

    def config(self):
        return {"height": self.height, "width": self.width}


class _Tone(_ImageLayer):
    """Contrast and brightness of each image, clipped to `value_range`."""

    factor: tuple[float, float]

    def __init__(self, value_range: tuple[float, float], name: str | None):
        super().__init__(name=name)
        self.value_range = _value_range(value_range)

    def _lower(self, to, x, **options):
        low, high = self.value_range
        return to.op("tone", to.in_shape(x), self.output_shape, low=low, high=high, **options)

    def config(self):
        return {"factor": list(self.factor), "value_range": list(self.value_range)}


class RandomContrast(_Tone):
    """``y = (x - mean) * contrast + mean``, the mean over the pixels of a channel, clipped;
    x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    factor : float in [0, 1] or (lower, upper)
        The contrast of an image is drawn from [1 - lower, 1 + upper]; f is (f, f).
    value_range : (low, high), default (0, 255)
        Of the values that come in; (0, 1) behind ``Rescale(1/255)``.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If factor or value_range is out of range, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/tone.c.
    """

    def __init__(
        self,
        factor: Factor,
        value_range: tuple[float, float] = (0, 255),
        *,
        name: str | None = None,
    ):
        super().__init__(value_range, name)
        pair = factor if isinstance(factor, tuple | list) else (factor, factor)
        if len(pair) != 2:
            raise TypeError(f"factor must be a number or (lower, upper), got {factor!r}")
        lower, upper = (check.number("factor", f, low=0, high=1) for f in pair)
        self.factor = (lower, upper)

    def lower(self, to, x):
        low, high = 1 - self.factor[0], 1 + self.factor[1]
        return self._lower(to, x, contrast_low=low, contrast_high=high)


class RandomBrightness(_Tone):
    """``y = x + shift * (high - low)``, clipped to value_range = (low, high);
    x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    factor : float or (low, high), each in [-1, 1]
        The shift of an image is drawn from there: -1 makes it black, 1 white; f is (-f, f).
    value_range : (low, high), default (0, 255)
        Of the values that come in; (0, 1) behind ``Rescale(1/255)``.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If factor or value_range is out of range, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/tone.c.
    """

    def __init__(
        self,
        factor: Factor,
        value_range: tuple[float, float] = (0, 255),
        *,
        name: str | None = None,
    ):
        super().__init__(value_range, name)
        self.factor = _around_zero("factor", factor)

    def lower(self, to, x):
        span = self.value_range[1] - self.value_range[0]
        low, high = (f * span for f in self.factor)
        return self._lower(to, x, shift_low=low, shift_high=high)


class GaussianNoise(Layer):
    """Adds normally distributed noise to every value; any shape.

    Parameters
    ----------
    stddev : float >= 0
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If stddev is no number >= 0.

    Notes
    -----
    Kernel code: csrc/ops/noise.c, csrc/kernels/draw.h.
    """

    training_only = True

    def __init__(self, stddev: float, *, name: str | None = None):
        super().__init__(name=name)
        self.stddev = check.number("stddev", stddev, low=0)

    def lower(self, to, x):
        if self.stddev == 0:
            return x
        return to.op("noise", x, self.output_shape, stddev=self.stddev)

    def config(self):
        return {"stddev": self.stddev}


class RandomErasing(_ImageLayer):
    """Covers a rectangle of an image (Zhong et al., Random Erasing Data Augmentation, AAAI 2020);
    x (n, h, w[, c]) -> y of the same shape.

    Parameters
    ----------
    factor : float or (low, high), each in [0, 1], default 1
        The chance that an image is changed; of two, it is drawn between them.
    scale : (low, high), each in [0, 1], default (0.02, 0.33)
        Height and width are those of the image times the root of a number drawn between them.
    fill_value : float, optional
        What is put there; by default noise (normal, times the upper end of `value_range`, clipped).
    value_range : (low, high), default (0, 255)
        Of the values that come in; (0, 1) behind ``Rescale(1/255)``.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If factor, scale or value_range is out of range, or rows are no images.

    Notes
    -----
    Kernel code: csrc/ops/erase.c.
    """

    def __init__(
        self,
        factor: Factor = 1.0,
        scale: tuple[float, float] = (0.02, 0.33),
        fill_value: float | None = None,
        value_range: tuple[float, float] = (0, 255),
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        pair = factor if isinstance(factor, tuple | list) else (factor, factor)
        self.factor = _between("factor", pair, 0, 1)
        self.scale = _between("scale", scale, 0, 1)
        self.value_range = _value_range(value_range)
        self.fill_value = None if fill_value is None else check.number("fill_value", fill_value)

    def lower(self, to, x):
        low, high = self.value_range
        return to.op(
            "erase", to.in_shape(x), self.output_shape,
            chance_low=self.factor[0], chance_high=self.factor[1],
            scale_low=self.scale[0], scale_high=self.scale[1],
            fill_value=0.0 if self.fill_value is None else min(max(self.fill_value, low), high),
            noise=int(self.fill_value is None), low=low, high=high,
        )  # fmt: skip

    def config(self):
        return {
            "factor": list(self.factor),
            "scale": list(self.scale),
            "fill_value": self.fill_value,
            "value_range": list(self.value_range),
        }
