"""Layers that normalise what flows through them. Kernels: csrc/ops/layer_norm.c, group_norm.c,
batch_norm.c."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from .. import check
from .base import Layer, Weight, changed_initializers, get_initializer

if TYPE_CHECKING:
    from ..lowering import Lowering


class _Norm(Layer):
    """epsilon, gamma and beta of a normalisation over channels, the last axis."""

    #: Names of the weights' initializers, and their defaults.
    initializers: ClassVar[dict[str, str]] = {
        "beta_initializer": "zeros",
        "gamma_initializer": "ones",
    }

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        kind = type(self).__name__
        if isinstance(axis, tuple | list) and len(axis) == 1:
            axis = axis[0]
        if isinstance(axis, bool) or not isinstance(axis, Integral):
            raise TypeError(f"axis of {kind} must be -1, the last axis, got {axis!r}")
        self._axis = int(axis)
        self.epsilon = check.number("epsilon", epsilon, above=0)
        self.center, self.scale = bool(center), bool(scale)
        self.beta_initializer = get_initializer(beta_initializer)
        self.gamma_initializer = get_initializer(gamma_initializer)

    def build(self, input_shape):
        if not input_shape or self._axis not in (-1, len(input_shape)):
            raise ValueError(
                f"{type(self).__name__} normalises along the last axis only: axis must be -1, "
                f"got {self._axis} for rows of shape {input_shape}"
            )
        return input_shape

    def weights(self):
        shape = self.input_shape[-1:]
        gamma = [Weight("gamma", shape, self.gamma_initializer)] * self.scale
        return gamma + [Weight("beta", shape, self.beta_initializer)] * self.center

    def _op(self, to: Lowering, x: int, name: str, **attributes: Any) -> int:
        return to.op(
            name, to.in_shape(x), self.output_shape, params=to.params(), **attributes,
            epsilon=self.epsilon, scale=int(self.scale), center=int(self.center),
        )  # fmt: skip

    def config(self):
        result: dict[str, Any] = {"epsilon": self.epsilon}
        for key in ("center", "scale"):
            if not getattr(self, key):
                result[key] = False
        return result | changed_initializers(self, self.initializers)


class LayerNorm(_Norm):
    """``y = (x - mean) / sqrt(var + epsilon) * gamma + beta``; x (n, ..., c) -> y (n, ..., c).

    Mean and variance are those of the last axis: of every row, or of every pixel or step of it, on
    its own, in training and prediction alike (Ba, Kiros and Hinton, 2016).

    Parameters
    ----------
    axis : int, default -1
        The last axis; no other is supported.
    epsilon : float > 0, default 1e-3
    center : bool, default True
        Whether there is a beta.
    scale : bool, default True
        Whether there is a gamma.
    beta_initializer : str, Initializer or callable(shape, rng), default "zeros"
    gamma_initializer : the same, default "ones"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If epsilon is not positive, or the axis is not the last.

    Notes
    -----
    Weights: gamma (c,), beta (c,), float32. ``LayerNormalization`` is the same layer. Kernel code:
    csrc/ops/layer_norm.c.
    """

    def lower(self, to, x):
        return self._op(to, x, "layer_norm")


class GroupNorm(_Norm):
    """``y = (x - mean) / sqrt(var + epsilon) * gamma + beta``; x (n, ..., c) -> y (n, ..., c).

    Mean and variance are those of all pixels of c / groups channels that lie side by side, of every
    image on its own, in training and prediction alike (Wu and He, ECCV 2018).

    Parameters
    ----------
    groups : int, default 32
        They share the channels evenly. 1 normalises an image as a whole, -1 every channel alone
        (instance normalisation).
    axis, epsilon, center, scale, beta_initializer, gamma_initializer, name
        As for `LayerNorm`.

    Raises
    ------
    ValueError, TypeError
        If groups do not divide the channels, epsilon is not positive, or the axis is not the last.

    Notes
    -----
    Weights: gamma (c,), beta (c,), float32. ``GroupNormalization`` is the same layer. Kernel code:
    csrc/ops/group_norm.c.
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        *,
        name: str | None = None,
    ):
        super().__init__(
            axis, epsilon, center, scale, beta_initializer, gamma_initializer, name=name
        )
        if groups != -1:
            check.integer("groups", groups, low=1)
        self.groups = int(groups)

    def build(self, input_shape):
        super().build(input_shape)
        channels = input_shape[-1]
        self._groups = channels if self.groups == -1 else self.groups
        if channels % self._groups:
            raise ValueError(
                f"groups must divide the channels: got groups={self.groups} for rows of shape "
                f"{input_shape}"
            )
        return input_shape

    def lower(self, to, x):
        return self._op(to, x, "group_norm", groups=self._groups)

    def config(self):
        return {"groups": self.groups, **super().config()}


class BatchNorm(_Norm):
    """``y = (x - mean) / sqrt(var + epsilon) * gamma + beta``; x (n, ..., c) -> y (n, ..., c).

    Training takes mean and variance of each channel over all rows and pixels of the minibatch, and
    moves the moving ones towards them: ``moving = moving * momentum + batch * (1 - momentum)``.
    Prediction takes the moving ones, as one scale and offset in the tile of the layer before it
    (Ioffe and Szegedy, ICML 2015).

    Parameters
    ----------
    axis : int, default -1
        The last axis; no other is supported.
    momentum : float in [0, 1], default 0.99
    epsilon : float > 0, default 1e-3
    center : bool, default True
        Whether there is a beta.
    scale : bool, default True
        Whether there is a gamma.
    beta_initializer : str, Initializer or callable(shape, rng), default "zeros"
    gamma_initializer : the same, default "ones"
    moving_mean_initializer : the same, default "zeros"
    moving_variance_initializer : the same, default "ones"
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        If epsilon is not positive, momentum is not in [0, 1], or the axis is not the last one.

    Notes
    -----
    Weights: gamma (c,), beta (c,), moving_mean (c,), moving_variance (c,), float32; the moving ones
    are not trained. The variance is that of the minibatch, divided by n (as in Keras). Sample
    weights do not change the statistics. ``BatchNormalization`` is the same layer. Kernel code:
    csrc/ops/batch_norm.c.
    """

    initializers: ClassVar[dict[str, str]] = {
        **_Norm.initializers,
        "moving_mean_initializer": "zeros",
        "moving_variance_initializer": "ones",
    }

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        *,
        name: str | None = None,
    ):
        super().__init__(
            axis, epsilon, center, scale, beta_initializer, gamma_initializer, name=name
        )
        self.momentum = check.number("momentum", momentum, low=0, high=1)
        self.moving_mean_initializer = get_initializer(moving_mean_initializer)
        self.moving_variance_initializer = get_initializer(moving_variance_initializer)

    def weights(self):
        shape = self.input_shape[-1:]
        mean, variance = self.moving_mean_initializer, self.moving_variance_initializer
        return [
            *super().weights(),
            Weight("moving_mean", shape, mean, trainable=False),
            Weight("moving_variance", shape, variance, trainable=False),
        ]

    def lower(self, to, x):
        return self._op(to, x, "batch_norm", momentum=self.momentum)

    def config(self):
        return {"momentum": self.momentum, **super().config()}
