"""Networks without branches: `Sequential`, layers in a chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .layers import Input, Layer
from .network import Network


class Sequential(Network):
    """Layers in a chain.

    Parameters
    ----------
    layers : list of Layer
        May begin with `Input`; otherwise the shape of rows is taken from the first data.
    seed : int, optional
        Initial weights depend on it alone; drawn at random if not given.
    name : str, optional

    Examples
    --------
    >>> net = fn.Sequential([layers.Dense(200, "relu"), layers.Dense(10, "softmax")], seed=0)

    Raises
    ------
    TypeError, ValueError
        For something that is no layer, a layer twice, or shapes that do not fit (naming the layer).
    """

    def __init__(
        self, layers: Sequence[Layer] = (), seed: int | None = None, name: str | None = None
    ):
        super().__init__(seed, name)
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """Append a layer, or a network as one. Not after the network is built."""
        if not isinstance(layer, Layer | Network):
            raise TypeError(f"layers must be fastnet layers, got {layer!r}")
        if layer is self:
            raise ValueError(f"{self.name} cannot be a layer of itself")
        if self._nested is not None:
            raise ValueError("the network is a part of another one; its layers are fixed")
        if any(layer in (other, getattr(other, "inside", None)) for other in self.layers):
            raise ValueError(f"{layer!r} is in the network already; make a second one")
        if isinstance(layer, Input) and self.layers:
            raise ValueError("Input comes first")
        if self.built:
            raise ValueError("the network is built; its layers are fixed")
        self.layers.append(layer._as_layer() if isinstance(layer, Network) else layer)

    def build(self, input_shape: int | tuple[int, ...] | None = None) -> None:
        first = self.layers[0] if self.layers else None
        if first is None:
            raise ValueError("the network has no layers")
        if input_shape is None:
            if not isinstance(first, Input) and self._graph is None:
                raise ValueError("build wants input_shape, or Input(shape) as the first layer")
            input_shape = first.shape if isinstance(first, Input) else self.input_shape
        super().build(input_shape)

    def _need_built(self, what: str, x: np.ndarray | None = None) -> None:
        if not self.built and self.layers and isinstance(self.layers[0], Input):
            self.build()
        super()._need_built(what, x)
