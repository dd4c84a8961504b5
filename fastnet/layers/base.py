"""What every layer shares: a name, shapes, weights to be, and how it becomes the engine's ops."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import initializers
from ..check import choice
from ..initializers import Initializer

if TYPE_CHECKING:
    from ..lowering import Lowering
    from ..network import Network

Shape = tuple[int, ...]

#: Numbers in a row, and in a weight.
MOST_VALUES = 2**29
#: Layer classes by name: the closed table that model files are read with.
LAYERS: dict[str, type[Layer]] = {}


@dataclass(frozen=True)
class Weight:
    """A weight that a layer wants: `decay` marks kernels, which penalties apply to."""

    name: str
    shape: Shape
    initializer: Initializer
    decay: bool = False
    trainable: bool = True


class Layer:
    """A step of a network. Subclasses state their parameters, shapes, weights and ops.

    Parameters
    ----------
    name : str, optional
        Shown in summaries and errors; by default the class's name and a number, as in Keras.
    """

    #: Active while training, the identity otherwise.
    training_only: ClassVar[bool] = False
    #: Takes a list of inputs: `build` gets a tuple of shapes and `lower` a list of buffers.
    several: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(__package__) and not cls.__name__.startswith("_"):
            LAYERS[cls.__name__] = cls

    def __init__(self, *, name: str | None = None):
        if name is not None and (not isinstance(name, str) or not name):
            raise TypeError(f"name must be a text that is not empty, got {name!r}")
        self.name = name
        self._called = False  # on symbolic values: its shapes stay
        self._output: Any = None  # what the last call gave
        self._forget()

    def _forget(self) -> None:
        """Not built: no shapes, no network."""
        if not self._called:
            self.input_shape: Any = None  # a Shape; where `several`, a tuple of them
            self.output_shape: Shape = None  # type: ignore[assignment]
        self._network: weakref.ref[Network] | None = None  # has the weights as they are now
        self._keeper: Network | None = None  # the same, where several networks share the layer
        self._users: weakref.WeakSet[Network] = weakref.WeakSet()  # networks with its weights

    @property
    def label(self) -> str:
        """Its name in messages: also before it has one."""
        return self.name or self.default_name()

    @property
    def network(self) -> Network | None:
        """The network that was built with this layer."""
        return self._network() if self._network is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: a copied network gives its layers their network again."""
        gone = {"_network": None, "_keeper": None, "_users": None, "_output": None}
        return vars(self) | gone

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _users=weakref.WeakSet())

    def __call__(self, x: Any) -> Any:
        """This layer on a symbolic value (`fn.Input`, or what another layer gave).

        Called twice it shares its weights. Layers that join branches take a list.

        Raises
        ------
        TypeError, ValueError
            For anything but symbolic values, and for shapes that do not fit; both name the layer.
        """
        from ..graph import call

        return call(self, x)

    @property
    def output(self) -> Any:
        """The symbolic value that its last call gave: ``Model(net.inputs, layer.output)``."""
        if self._output is None and self.network is not None:
            _ = self.network.outputs
        if self._output is None:
            raise ValueError(f"layer {self.label!r} was not called and is in no network yet")
        return self._output

    def default_name(self) -> str:
        """The class's name in snake case: Dense -> dense, MaxPool2D -> max_pool2d."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    def build(self, input_shape: Any) -> Shape:
        """Check the shape of a row and return the shape it becomes. ValueError if it cannot."""
        return input_shape

    def weights(self) -> list[Weight]:
        """The weights wanted, in canonical order, once built."""
        return []

    def lower(self, to: Lowering, x: Any) -> int:
        """Add this layer's ops to the plan; x and the result are buffers
        (x a list of them where `several`)."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Constructor arguments that make this layer again, as JSON can hold them."""
        return {}

    def file_config(self) -> dict[str, Any]:
        """`config` as model files keep it: without arrays that the weights hold anyway."""
        return self.config()

    def weights_loaded(self, weights: dict[str, np.ndarray]) -> None:
        """Called with a model file's weights by name: take over what `file_config` left out."""

    def multiply_adds(self) -> int:
        """Multiply-adds of a row, forward."""
        return 0

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.config().items() if v is not None)
        return f"{type(self).__name__}({arguments})"


def build_layer(layer: Layer, input_shape: Any) -> Any:
    """`Layer.build`; the layer has its shapes then. ValueError, and it has none, if it cannot take
    the rows or if what comes of them is more than the engine holds."""
    before = layer.input_shape, layer.output_shape
    y: Any = layer.build(input_shape)
    for shape in y if isinstance(y, list) else [y]:
        if math.prod(shape) > MOST_VALUES:
            raise ValueError(f"rows of shape {shape} would come of it: at most 2**29 values go")
    layer.input_shape, layer.output_shape = input_shape, y
    for weight in layer.weights():
        if math.prod(weight.shape) > MOST_VALUES:
            layer.input_shape, layer.output_shape = before
            raise ValueError(f"its {weight.name} {weight.shape} is too large: 2**29 numbers go")
    return y


def layer_config(layer: Layer) -> dict[str, Any]:
    """A layer as model files keep it."""
    return {"class": type(layer).__name__, "name": layer.name, "config": layer.file_config()}


def layer_from_config(config: dict[str, Any]) -> Layer:
    """A layer from `layer_config`; ValueError or TypeError for anything else."""
    cls = LAYERS[choice("layer", config["class"], LAYERS)]
    return cls(**config["config"], name=config["name"])


def changed_initializers(layer: Layer, defaults: dict[str, str]) -> dict[str, Any]:
    """Those of a layer's initializers that are not their defaults, as `config` has them."""
    chosen = {key: initializers.serialize(vars(layer)[key]) for key in defaults}
    return {
        key: value
        for key, value in chosen.items()
        if value != initializers.serialize(initializers.get(defaults[key]))
    }


def get_initializer(
    value: str | Initializer | dict[str, Any] | Callable[..., np.ndarray],
) -> Initializer:
    """An initializer from a name, an object, a function f(shape, rng), or a model file's dict."""
    return initializers.deserialize(value) if isinstance(value, dict) else initializers.get(value)
