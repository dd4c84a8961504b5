"""Networks with branches: `Model`, over symbolic values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._locks import building
from .first_weights import first_weights
from .graph import Graph, Nested, Tensor, as_tensor, trace
from .layers import Layer
from .network import Network


class Model(Network):
    """A graph of layers from one or more inputs to one or more outputs.

    Parameters
    ----------
    inputs : Input, symbolic value, or a list of them
        Where rows come in: what `fn.Input` gives.
    outputs : symbolic value or a list of them
        What layers gave that were called on the inputs, or on what others gave.
    seed : int, optional
        Initial weights depend on it alone; drawn at random if not given. Layers that another
        network has trained come with their weights, and go on sharing them.
    name : str, optional

    Examples
    --------
    >>> x = fn.Input(784)
    >>> h = layers.Dense(64, "relu")(x)
    >>> y = layers.Add()([h, layers.Dense(64, "relu")(h)])
    >>> net = fn.Model(x, layers.Dense(10, "softmax")(y), seed=0)

    Raises
    ------
    TypeError, ValueError
        For anything that is no symbolic value, for an output that depends on an Input that is not
        given, an input that leads to no output, two layers of one name. Messages name the layers.
    """

    _fixed = True

    def __init__(self, inputs: Any, outputs: Any, seed: int | None = None, name: str | None = None):
        super().__init__(seed, name)
        xs, ys = _tensors("inputs", inputs), _tensors("outputs", outputs)
        for x in xs:
            if x._made_by is not None:
                raise ValueError(
                    f"input {x.name!r} is what a layer gives; begin with a new "
                    f"fn.Input({x.shape}) and call the layers behind it on that"
                )
        graph, self._tensors = trace(xs, ys)
        self._set_graph([x.layer for x in xs], graph)

    def _set_graph(self, inputs: Sequence[Layer], graph: Graph) -> None:
        """The graph, and the layers in it: inputs first, then in the order of calls."""
        found = {id(layer): layer for layer in inputs}
        for made in graph.calls:
            found.setdefault(id(made.layer), made.layer)
        self.layers = list(found.values())
        self._name_layers()
        self._take_graph(graph)
        self.input_names = [layer.label for layer in inputs]
        self.output_names = _output_names(graph)

    def build(self, input_shape: Any = None) -> None:
        """Draw the weights now rather than when they are first needed."""
        if self.built:
            return
        with building:
            if not self.built:
                self._fill(first_weights(self))

    def _need_built(self, what: str, x: np.ndarray | None = None) -> None:
        self.build()


def _tensors(what: str, given: Any) -> list[Tensor]:
    """Symbolic values, each once."""
    tensors = [
        as_tensor(what, value) for value in (given if isinstance(given, list | tuple) else [given])
    ]
    if not tensors:
        raise ValueError(f"{what} must be at least one symbolic value")
    if len(set(map(id, tensors))) < len(tensors):
        raise ValueError(f"{what} holds the same symbolic value twice")
    return tensors


def _output_names(graph: Graph) -> list[str]:
    """The layer's name for each output, numbered where it gives several."""
    names: list[str] = []
    for value in graph.outputs:
        made = graph.maker(value)
        base = "input" if made is None else made.layer.label
        if made is not None and isinstance(made.layer, Nested) and len(made.outputs) > 1:
            base += "_" + made.layer.inside.output_names[made.outputs.index(value)]
        name, i = base, 0
        while name in names:
            i += 1
            name = f"{base}_{i}"
        names.append(name)
    return names
