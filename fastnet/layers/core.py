"""Dense and what goes around it. Kernels: csrc/ops/dense.c, activation.c, softmax.c, ..."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, check
from .base import Layer, Shape, Weight, changed_initializers, get_initializer

if TYPE_CHECKING:
    from ..graph import Tensor

#: Elementwise functions of csrc/activations.def, and softmax, which is an op of its own.
ACTIVATIONS = (*_core.table("activation"), "softmax")
_ALIASES = {
    "swish": "silu",
    "hard_silu": "hard_swish",
    "leakyrelu": "leaky_relu",
    "identity": "linear",
    "logistic": "sigmoid",
}


def activation_name(value: str | None) -> str:
    """An activation's name in the engine; None is "linear"."""
    if value is None:
        return "linear"
    if isinstance(value, str):
        value = _ALIASES.get(value, value)
    return check.choice("activation", value, ACTIVATIONS)


class Input(Layer):
    """The shape of a row, first in a network. ``Input((28, 28))`` or ``Input(784)``.

    It stands for rows to come, too: layers can be called on it (see `fn.Model`).

    Parameters
    ----------
    shape : int or tuple of int
        Without the batch axis.
    name : str, optional
    """

    def __init__(self, shape: int | tuple[int, ...], *, name: str | None = None):
        super().__init__(name=name)
        self.shape = check.shape("shape", shape)

    @property
    def tensor(self) -> Tensor:
        """The symbolic value that it stands for."""
        if self._output is None:
            from ..graph import Tensor

            self.input_shape = self.output_shape = self.shape
            self._called = True
            self._output = Tensor(self.shape, self)
        return self._output

    def __call__(self, x: Any) -> Any:
        raise TypeError("Input is where rows come in; call the layers behind it on it")

    def __add__(self, other: Any) -> Any:
        return self.tensor + other

    def __sub__(self, other: Any) -> Any:
        return self.tensor - other

    def __mul__(self, other: Any) -> Any:
        return self.tensor * other

    def build(self, input_shape):
        if input_shape != self.shape:
            raise ValueError(f"Input wants rows of shape {self.shape}, got {input_shape}")
        return input_shape

    def lower(self, to, x):
        return x

    def config(self):
        return {"shape": list(self.shape)}


class Dense(Layer):
    """``y = activation(x @ kernel + bias)``; x (n, d_in) -> y (n, units).

    Parameters
    ----------
    units : int >= 1
    activation : str, default None (linear)
        relu, leaky_relu, elu, selu, gelu, silu, mish, softplus, softsign, hard_sigmoid, hard_swish,
        tanh, sigmoid, softmax, linear.
    use_bias : bool, default True
    kernel_initializer : str, Initializer or callable(shape, rng), default "glorot_uniform"
    bias_initializer : the same, default "zeros"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If units < 1, a name is unknown, or the input has more than one axis behind the batch axis.

    Notes
    -----
    Weights: kernel (d_in, units), bias (units,), float32. Kernel code: csrc/ops/dense.c.
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.units = check.integer("units", units, low=1)
        self.activation = activation_name(activation)
        self.use_bias = check.flag("use_bias", use_bias)
        self.kernel_initializer = get_initializer(kernel_initializer)
        self.bias_initializer = get_initializer(bias_initializer)

    def build(self, input_shape):
        if len(input_shape) != 1:
            raise ValueError(
                f"Dense wants rows with one axis, got rows of shape {input_shape}; "
                "put Flatten() before it"
            )
        return (self.units,)

    def weights(self):
        shape = (self.input_shape[0], self.units)
        kernel = Weight("kernel", shape, self.kernel_initializer, decay=True)
        bias = Weight("bias", (self.units,), self.bias_initializer)
        return [kernel, bias] if self.use_bias else [kernel]

    def lower(self, to, x):
        z = to.op("dense", x, self.output_shape, params=to.params())
        return to.activation(z, self.activation)

    def config(self):
        result: dict[str, Any] = {"units": self.units, "activation": self.activation}
        if not self.use_bias:
            result["use_bias"] = False
        defaults = {"kernel_initializer": "glorot_uniform", "bias_initializer": "zeros"}
        return result | changed_initializers(self, defaults)

    def multiply_adds(self):
        return self.input_shape[0] * self.units


class Activation(Layer):
    """An activation by name, elementwise (softmax: over the last axis); any shape.

    Parameters
    ----------
    activation : str
        As for `Dense`.
    name : str, optional
    """

    def __init__(self, activation: str, *, name: str | None = None):
        super().__init__(name=name)
        self.activation = activation_name(activation)

    def lower(self, to, x):
        return to.activation(x, self.activation)

    def config(self):
        return {"activation": self.activation}


class ReLU(Activation):
    """``y = max(x, 0)``; any shape. The same as ``Activation("relu")``.

    Parameters
    ----------
    name : str, optional
    """

    def __init__(self, *, name: str | None = None):
        super().__init__("relu", name=name)

    def config(self):
        return {}


class LeakyReLU(Activation):
    """``y = x`` where x > 0, else ``negative_slope * x``; any shape.

    Parameters
    ----------
    negative_slope : float >= 0, default 0.3
        As in Keras, where ``activation="leaky_relu"`` has 0.2.
    name : str, optional
    """

    def __init__(self, negative_slope: float = 0.3, *, name: str | None = None):
        super().__init__("leaky_relu", name=name)
        self.negative_slope = check.number("negative_slope", negative_slope, low=0)

    def lower(self, to, x):
        return to.activation(x, self.activation, slope=self.negative_slope)

    def config(self):
        return {"negative_slope": self.negative_slope}


class Softmax(Activation):
    """Probabilities over the last axis; any shape. The same as ``Activation("softmax")``.

    Parameters
    ----------
    axis : int, default -1
        The last axis, -1; no other is supported.
    name : str, optional
    """

    def __init__(self, axis: int = -1, *, name: str | None = None):
        super().__init__("softmax", name=name)
        if check.integer("axis", axis) != -1:
            raise ValueError(f"axis of Softmax must be -1, the last axis, got {axis}")

    def config(self):
        return {}


class Dropout(Layer):
    """Sets a fraction of the values to 0 while training and scales the rest by 1 / (1 - rate).

    The mask depends on the seed, the step and the place of a value, so results do not depend on
    threads and training resumes exactly. Srivastava et al., JMLR 2014; csrc/ops/dropout.c.

    Parameters
    ----------
    rate : float in [0, 1)
    name : str, optional
    """

    training_only = True

    def __init__(self, rate: float, *, name: str | None = None):
        super().__init__(name=name)
        self.rate = check.number("rate", rate, low=0, below=1)

    def lower(self, to, x):
        if self.rate == 0:
            return x
        return to.op("dropout", x, self.output_shape, rate=self.rate)

    def config(self):
        return {"rate": self.rate}


class Reshape(Layer):
    """Gives rows another shape of the same size; one axis may be -1. Costs nothing.

    Parameters
    ----------
    target_shape : tuple of int
        Without the batch axis.
    name : str, optional
    """

    def __init__(self, target_shape: tuple[int, ...], *, name: str | None = None):
        super().__init__(name=name)
        if isinstance(target_shape, str) or not isinstance(target_shape, Integral | Iterable):
            raise TypeError(f"target_shape must be an int or a tuple of ints, got {target_shape!r}")
        axes = (target_shape,) if isinstance(target_shape, Integral) else tuple(target_shape)
        free = axes.count(-1)
        if free > 1:
            raise ValueError(f"target_shape can have one -1, got {axes}")
        check.shape("target_shape", tuple(1 if n == -1 else n for n in axes))
        self.target_shape = tuple(map(int, axes))

    def build(self, input_shape):
        size, known = math.prod(input_shape), math.prod(n for n in self.target_shape if n != -1)
        shape = tuple(size // known if n == -1 else n for n in self.target_shape)
        if math.prod(shape) != size:
            raise ValueError(
                f"rows of shape {input_shape} ({size} values) cannot become {self.target_shape}"
            )
        return shape

    def lower(self, to, x):
        return to.reshape(x, self.output_shape)

    def config(self):
        return {"target_shape": list(self.target_shape)}


class Flatten(Layer):
    """Rows of any shape become rows with one axis. Costs nothing."""

    def build(self, input_shape):
        return (math.prod(input_shape),)

    def lower(self, to, x):
        return to.reshape(x, self.output_shape)


class Rescale(Layer):
    """``y = x * scale + offset``. First in a network it is done while rows are read: uint8 images
    stay uint8 in memory.

    Parameters
    ----------
    scale : float
        ``Rescale(1/255)`` brings 8-bit pixels to [0, 1].
    offset : float, default 0
    name : str, optional
    """

    def __init__(self, scale: float, offset: float = 0.0, *, name: str | None = None):
        super().__init__(name=name)
        self.scale = check.number("scale", scale)
        self.offset = check.number("offset", offset)

    def lower(self, to, x):
        return to.rescale(x, self.scale, self.offset)

    def config(self):
        return {"scale": self.scale, "offset": self.offset}


class Normalization(Layer):
    """Standardises features of the last axis: ``y = (x - mean) / max(std, 1e-7)``.

    Parameters
    ----------
    mean, variance : array of shape (features,) or float, optional
        Known statistics; otherwise call ``adapt`` with data before training.
    name : str, optional

    Examples
    --------
    >>> normalize = layers.Normalization()
    >>> normalize.adapt(x_train)
    """

    def __init__(self, mean: Any = None, variance: Any = None, *, name: str | None = None):
        super().__init__(name=name)
        if (mean is None) != (variance is None):
            raise ValueError(
                "Normalization wants both mean and variance, or neither (then call adapt)"
            )
        self.mean: np.ndarray | None = None
        self.variance: np.ndarray | None = None
        if mean is None:
            return
        self.mean = np.atleast_1d(check.array("mean", mean)).astype(np.float64)
        self.variance = np.atleast_1d(check.array("variance", variance)).astype(np.float64)
        if self.mean.ndim > 1 or self.mean.shape != self.variance.shape:
            raise ValueError(
                "mean and variance must be numbers or of one shape (features,), "
                f"got {self.mean.shape} and {self.variance.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.variance).all()):
            raise ValueError("mean and variance must be finite")
        if (self.variance < 0).any():
            raise ValueError(f"variance must be >= 0, got {self.variance.min()}")

    def adapt(self, x: Any) -> Normalization:
        """Take mean and variance of the last axis from data (n, ..., features); returns itself.

        A network that is already built with this layer takes them over.

        Raises
        ------
        ValueError, TypeError
            For no rows, other features than the network has, NaN or infinity, and for no numbers;
            then nothing has changed.
        """
        x = check.array("x", x)
        if x.ndim == 1:
            x = x[:, None]
        if x.ndim < 2 or not x.size:
            raise ValueError(
                f"x must have shape (n, ..., features) and at least one row, got {x.shape}"
            )
        if self.network is not None and x.shape[-1] != self.input_shape[-1]:
            raise ValueError(
                f"x must have {self.input_shape[-1]} features as the network has, got {x.shape[-1]}"
            )
        mean, variance = _moments(x.reshape(-1, x.shape[-1]))
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(f"x holds {_what_is_wrong(x)}")
        self.mean, self.variance = mean, variance
        if self.network is not None and self.network.built:
            self.network.refresh(self)
        return self

    def build(self, input_shape: Shape) -> Shape:
        if self.mean is None:
            raise ValueError(
                "Normalization has no statistics yet: call adapt(x) with training data first"
            )
        if len(self.mean) not in (1, input_shape[-1]):
            raise ValueError(
                f"Normalization knows {len(self.mean)} features, rows have shape {input_shape}"
            )
        return input_shape

    def weights(self):
        def fixed(values: np.ndarray):
            return get_initializer(lambda shape, rng: np.broadcast_to(values, shape))

        inverse = 1 / np.maximum(np.sqrt(self.variance), 1e-7)
        shape = (self.input_shape[-1],)
        return [
            Weight("mean", shape, fixed(self.mean), trainable=False),
            Weight("inverse_std", shape, fixed(inverse), trainable=False),
        ]

    def lower(self, to, x):
        return to.op("normalization", x, self.output_shape, params=to.params())

    def config(self):
        if self.mean is None:
            return {}
        return {"mean": self.mean.tolist(), "variance": self.variance.tolist()}

    def file_config(self):
        return {"mean": 0.0, "variance": 1.0}

    def weights_loaded(self, weights):
        self.mean = weights["mean"].astype(np.float64)
        with np.errstate(divide="ignore"):
            self.variance = 1 / np.square(weights["inverse_std"], dtype=np.float64)


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of columns in float64, block by block (Chan, Golub & LeVeque, 1983)."""
    mean, squares = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    with np.errstate(invalid="ignore", over="ignore"):
        for n in range(0, len(rows), 4096):
            block = rows[n : n + 4096].astype(np.float64)
            own = block.mean(axis=0)
            delta, total = own - mean, n + len(block)
            mean += delta * (len(block) / total)
            squares += np.square(block - own).sum(axis=0)
            squares += np.square(delta) * (n * len(block) / total)
        return mean, squares / len(rows)


def _what_is_wrong(x: np.ndarray) -> str:
    """Why the moments of x are not finite."""
    wrong = ~np.isfinite(x)
    if not wrong.any():
        return f"values of up to {np.abs(x).max():g}, whose variance is no finite float64"
    row, *rest = map(int, np.unravel_index(wrong.argmax(), x.shape))
    return f"NaN or infinity in row {row}, column {', '.join(map(str, rest))}"
