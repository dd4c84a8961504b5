"""Optimizers: how weights follow their gradients. The arithmetic is in csrc/optimizers.def.

Every optimizer takes ``weight_decay`` (decoupled: ``w -= learning_rate * weight_decay * w``),
``l1`` and ``l2`` (added to the gradient: ``l1 * sign(w) + 2 * l2 * w``), all for kernels and not
for biases, and ``clipvalue`` and ``global_clipnorm``, which limit the data's gradient before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from . import _core
from .check import choice, flag, number, unknown_argument
from .schedules import as_schedule

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "get"]


#: float32 arithmetic flushes what is smaller to zero.
_LEAST_EPSILON = 1e-30
_LIMITS = {"weight_decay": 0, "l1": 0, "l2": 0, "clipvalue": None, "global_clipnorm": None}


#: Arguments of Keras's and PyTorch's optimizers that have another name here.
_KERAS = {
    "lr": "it is called learning_rate",
    "clipnorm": "global_clipnorm bounds the norm of all gradients together",
    "decay": "the learning rate may be a schedule, as those of fastnet.schedules",
    "betas": "they are called beta_1 and beta_2",
    "eps": "it is called epsilon",
}


class Optimizer:
    """What all optimizers share; use a subclass.

    Parameters
    ----------
    learning_rate : float or callable
        A number >= 0, or a function of the step (0, 1, ...), such as those in `fastnet.schedules`.
    weight_decay, l1, l2 : float, default 0
        Decoupled decay and penalties on kernels.
    clipvalue, global_clipnorm : float or None, default None
        Bound of each gradient value; bound of the norm of all gradients together, which comes
        first where both are given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range or not a number.
    """

    def __init__(
        self,
        learning_rate: float | Callable[[int], float],
        *,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        **unknown: Any,
    ):
        if unknown:
            kind = type(self)
            raise unknown_argument(kind.__name__, next(iter(unknown)), kind, _KERAS, _LIMITS)
        self.learning_rate = learning_rate
        self.schedule = as_schedule(learning_rate)
        self.weight_decay = number("weight_decay", weight_decay, low=0)
        self.l1 = number("l1", l1, low=0)
        self.l2 = number("l2", l2, low=0)
        self.clipvalue = None if clipvalue is None else number("clipvalue", clipvalue, above=0)
        self.global_clipnorm = (
            None if global_clipnorm is None else number("global_clipnorm", global_clipnorm, above=0)
        )

    #: Parameters of its own besides the learning rate, and their defaults.
    defaults: ClassVar[dict[str, Any]] = {}
    #: What slots start from; how many there are is in csrc/optimizers.def.
    initial_slot = 0.0

    def kernel(self) -> tuple[str, dict[str, float]]:
        """Its name in csrc/optimizers.def, and its numbers there."""
        raise NotImplementedError

    def lower(self) -> tuple[_core.Optimizer, int]:
        """The engine's form, and the number of slots a weight needs."""
        name, numbers = self.kernel()
        common = {
            "weight_decay": self.weight_decay,
            "l1": self.l1,
            "l2": self.l2,
            "clipvalue": self.clipvalue or 0.0,
            "global_clipnorm": self.global_clipnorm or 0.0,
        }
        return _core.Optimizer(name, **numbers, **common), _core.optimizer_slots(name)

    def _changed(self) -> dict[str, Any]:
        """Parameters that are not their defaults."""
        defaults = self.defaults | _LIMITS
        return {k: getattr(self, k) for k, v in defaults.items() if getattr(self, k) != v}

    def __repr__(self) -> str:
        rest = "".join(f", {k}={v!r}" for k, v in self._changed().items())
        return f"{type(self).__name__}({self.learning_rate!r}{rest})"


class SGD(Optimizer):
    """Stochastic gradient descent: ``v = momentum*v - lr*g; w += v``.

    Parameters
    ----------
    learning_rate : float or callable, default 0.01
    momentum : float in [0, 1), default 0
    nesterov : bool, default False
        ``w += momentum*v - lr*g`` instead (Nesterov, 1983; Sutskever et al., ICML 2013).
    **limits
        See `Optimizer`.
    """

    defaults: ClassVar = {"momentum": 0.0, "nesterov": False}

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, **limits):
        super().__init__(learning_rate, **limits)
        self.momentum = number("momentum", momentum, low=0, below=1)
        self.nesterov = flag("nesterov", nesterov)

    def kernel(self):
        name = ("nesterov" if self.nesterov else "momentum") if self.momentum else "sgd"
        return name, {"momentum": self.momentum}


class Adam(Optimizer):
    """Adam (Kingma & Ba, ICLR 2015), epsilon as in Keras: ``w -= lr_t * m / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or callable, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float > 0, default 1e-7
    **limits
        See `Optimizer`.
    """

    defaults: ClassVar = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **limits):
        super().__init__(learning_rate, **limits)
        self.beta_1 = number("beta_1", beta_1, low=0, below=1)
        self.beta_2 = number("beta_2", beta_2, above=0, below=1)
        self.epsilon = number("epsilon", epsilon, low=_LEAST_EPSILON)

    def kernel(self):
        return "adam", {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019).

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon, **limits
        As for `Adam`.
    weight_decay : float >= 0, default 0.004
        Kernels shrink by learning_rate * weight_decay of themselves each step.
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        **limits,
    ):
        limits["weight_decay"] = weight_decay
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **limits)


class RMSprop(Optimizer):
    """RMSprop (Hinton, 2012): ``v = rho*v + (1-rho)*g^2; w -= lr * g / sqrt(v + epsilon)``.

    Parameters
    ----------
    learning_rate : float or callable, default 0.001
    rho : float in [0, 1), default 0.9
    momentum : float in [0, 1), default 0
    epsilon : float > 0, default 1e-7
    **limits
        See `Optimizer`.
    """

    defaults: ClassVar = {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7}

    def __init__(self, learning_rate=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, **limits):
        super().__init__(learning_rate, **limits)
        self.rho = number("rho", rho, low=0, below=1)
        self.momentum = number("momentum", momentum, low=0, below=1)
        self.epsilon = number("epsilon", epsilon, low=_LEAST_EPSILON)

    def kernel(self):
        name = "rmsprop_momentum" if self.momentum else "rmsprop"
        return name, {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., JMLR 2011): ``a += g^2; w -= lr * g / sqrt(a + epsilon)``.

    Parameters
    ----------
    learning_rate : float or callable, default 0.001
    initial_accumulator_value : float >= 0, default 0.1
    epsilon : float > 0, default 1e-7
    **limits
        See `Optimizer`.
    """

    defaults: ClassVar = {"initial_accumulator_value": 0.1, "epsilon": 1e-7}

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, **limits):
        super().__init__(learning_rate, **limits)
        self.initial_accumulator_value = number(
            "initial_accumulator_value", initial_accumulator_value, low=0
        )
        self.initial_slot = self.initial_accumulator_value
        self.epsilon = number("epsilon", epsilon, low=_LEAST_EPSILON)

    def kernel(self):
        return "adagrad", {"epsilon": self.epsilon}


_CLASSES = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad}


def get(optimizer: str | Optimizer) -> Optimizer:
    """An optimizer from its name ("sgd", "adam", "adamw", "rmsprop", "adagrad") or itself.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or something that is neither.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer()
    name = optimizer.lower() if isinstance(optimizer, str) else optimizer  # Keras's "SGD", "Adam"
    return _CLASSES[choice("optimizer", name, _CLASSES)]()
