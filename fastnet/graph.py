"""Graphs of layers: symbolic values, what calling a layer makes, networks with branches.

A `Tensor` stands for rows that are not there yet: `fn.Input` makes one, and a layer called on one
makes the next. A `Graph` is what a network keeps of them: calls of layers in an order in which they
can be computed, over numbered values. Nested networks stay one call, of a `Nested` layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .layers import Input, Layer
from .layers.base import build_layer

if TYPE_CHECKING:
    from .network import Network

Shape = tuple[int, ...]

#: Calls of layers in a network, those inside nested networks counted each time they are used.
MOST_CALLS = 2000
_serial = itertools.count()


# ---- symbolic values ----------------------------------------------------------------------------


class Tensor:
    """Rows to come, of a known shape: what `fn.Input` and called layers give.

    Attributes
    ----------
    shape : tuple of int
        Of a row, without the batch axis.
    layer : Layer
        What gives it.
    """

    def __init__(self, shape: Shape, layer: Layer, made_by: Made | None = None, index: int = 0):
        self.shape, self.layer = shape, layer
        self._made_by, self._index = made_by, index

    @property
    def name(self) -> str:
        """Of its layer."""
        return self.layer.label

    def __add__(self, other: Any) -> Any:
        return _merge("Add", self, other)

    def __sub__(self, other: Any) -> Any:
        return _merge("Subtract", self, other)

    def __mul__(self, other: Any) -> Any:
        return _merge("Multiply", self, other)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self!r} stands for rows that are not there yet; make a fn.Model of it and predict"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self!r} is one symbolic value and no list of them")

    def __repr__(self) -> str:
        return f"<symbolic rows of shape {self.shape} from {self.name!r}>"


def _merge(layer: str, a: Tensor, b: Any) -> Any:
    if not isinstance(b, Tensor | Input):
        return NotImplemented
    from . import layers

    return getattr(layers, layer)()([a, b])


class Made:
    """One call of a layer on symbolic values."""

    def __init__(self, layer: Layer, inputs: tuple[Tensor, ...], shapes: Sequence[Shape]):
        self.layer, self.inputs = layer, inputs
        self.serial = next(_serial)
        self.outputs = [Tensor(shape, layer, self, i) for i, shape in enumerate(shapes)]


def as_tensor(what: str, value: Any) -> Tensor:
    """A Tensor or an Input as a Tensor; TypeError for anything else."""
    if isinstance(value, Input):
        return value.tensor
    if isinstance(value, Tensor):
        return value
    raise TypeError(
        f"{what} wants symbolic values (fn.Input(shape), or what a layer called on one gives), "
        f"got {type(value).__name__}; to compute numbers, use a network's predict"
    )


def call(layer: Layer, x: Any) -> Any:
    """``layer(x)``: shapes are checked, and the result's Tensor is made (a list of several)."""
    given = list(x) if isinstance(x, list | tuple) else [x]
    xs = tuple(as_tensor(f"{layer.label}(...)", value) for value in given)
    if not xs or (len(xs) > 1 and not layer.several):
        raise TypeError(
            f"{layer.label} takes one input, got {len(xs)}; join them with Concatenate or Add first"
        )
    shape: Any = tuple(t.shape for t in xs) if layer.several else xs[0].shape
    if layer.input_shape is not None and layer.input_shape != shape:
        raise ValueError(
            f"layer {layer.label!r} has rows of shape {layer.input_shape} and cannot share its "
            f"weights with rows of shape {shape} (from {_names(xs)}); make a second layer"
        )
    try:
        y = build_layer(layer, shape)
    except ValueError as error:
        raise ValueError(f"layer {layer.label!r} on {_names(xs)}: {error}") from None
    layer._called = True
    made = Made(layer, xs, y if isinstance(y, list) else [y])
    layer._output = made.outputs if isinstance(y, list) else made.outputs[0]
    return layer._output


def _names(xs: Sequence[Tensor]) -> str:
    return " and ".join(repr(t.name) for t in xs)


# ---- what a network keeps -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Call:
    """A use of a layer: numbers of the values it reads and gives."""

    layer: Layer
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass
class Graph:
    """Values are numbered: inputs first, then what each call gives."""

    shapes: list[Shape] = field(default_factory=list)  # of each value
    n_inputs: int = 0
    calls: list[Call] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    _size: int | None = None

    @property
    def input_shapes(self) -> list[Shape]:
        return self.shapes[: self.n_inputs]

    @property
    def output_shapes(self) -> list[Shape]:
        return [self.shapes[v] for v in self.outputs]

    def input(self, shape: Shape) -> int:
        self.shapes.append(shape)
        self.n_inputs += 1
        return self.n_inputs - 1

    def call(self, layer: Layer, inputs: Sequence[int], shapes: Sequence[Shape]) -> Call:
        first = len(self.shapes)
        self.shapes += shapes
        made = Call(layer, tuple(inputs), tuple(range(first, first + len(shapes))))
        self.calls.append(made)
        return made

    def maker(self, value: int) -> Call | None:
        """The call that gives a value; None for an input."""
        for made in self.calls:
            if value in made.outputs:
                return made
        return None

    def uses(self, wanted: Sequence[bool]) -> dict[int, int]:
        """How often each value is read, as an output too, on the way to the outputs wanted."""
        count = dict.fromkeys(range(len(self.shapes)), 0)
        for value, want in zip(self.outputs, wanted, strict=True):
            count[value] += want
        for made in reversed(self.calls):
            if any(count[v] for v in made.outputs):
                for v in made.inputs:
                    count[v] += 1
        return count

    def size(self) -> int:
        """Calls, those inside nested networks counted each time."""
        if self._size is None:
            self._size = sum(
                made.layer.inside._graph.size() if isinstance(made.layer, Nested) else 1
                for made in self.calls
            )
        return self._size


def chain(layers: Sequence[Layer], shape: Shape) -> Graph:
    """The graph of layers one behind the other, once they know their shapes."""
    graph = Graph()
    x = graph.input(shape)
    for layer in layers:
        if not isinstance(layer, Input):
            (x,) = graph.call(layer, [x], [layer.output_shape]).outputs
    graph.outputs = (x,)
    return graph


class Nested(Layer):
    """A network as a layer of another one: they share their weights."""

    def __init__(self, inside: Network, *, name: str | None = None):
        super().__init__(name=name)
        self.inside = inside
        self._called = True
        inside._nested = self
        self.input_shape = self.output_shape = None  # type: ignore[assignment]

    @property
    def several(self) -> bool:  # type: ignore[override]
        return self.inside._graph is not None and self.inside._graph.n_inputs > 1

    def default_name(self) -> str:
        return self.inside.name

    def build(self, input_shape: Any) -> Any:
        shapes = list(input_shape) if self.several else [input_shape]
        inside = self.inside
        if inside._graph is None:
            inside._infer(shapes[0])
        graph = inside._graph
        if shapes != graph.input_shapes:
            wanted = " and ".join(map(str, graph.input_shapes))
            raise ValueError(f"{inside.name} wants rows of shape {wanted}, got {input_shape}")
        return graph.output_shapes if len(graph.outputs) > 1 else graph.output_shapes[0]

    def multiply_adds(self) -> int:
        return sum(made.layer.multiply_adds() for made in self.inside._graph.calls)

    def __repr__(self) -> str:
        return repr(self.inside)


def leaves(calls: Sequence[Call], prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """(path, layer) of every layer that is no network, as often as it is called."""
    for made in calls:
        path = prefix + made.layer.label
        if isinstance(made.layer, Nested):
            yield from leaves(made.layer.inside._graph.calls, path + "/")
        else:
            yield path, made.layer


def trace(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Graph, list[Tensor]]:
    """The graph that leads from inputs to outputs, and the Tensor of each of its values.

    Raises
    ------
    ValueError
        For an output that depends on an Input that is not given, an input that leads to no output.
    """
    made: dict[int, Made] = {}
    reached: dict[int, tuple[Tensor, Tensor]] = {}  # each Input, and an output that depends on it
    waiting = [(output, output) for output in reversed(outputs)]
    while waiting:
        tensor, output = waiting.pop()
        if tensor._made_by is None:
            reached.setdefault(id(tensor), (tensor, output))
        elif tensor._made_by.serial not in made:
            made[tensor._made_by.serial] = tensor._made_by
            waiting += [(x, output) for x in reversed(tensor._made_by.inputs)]
    given = {id(t) for t in inputs}
    for tensor, output in reached.values():
        if id(tensor) not in given:
            raise ValueError(
                f"output {output.name!r} depends on Input {tensor.name!r} of shape "
                f"{tensor.shape}, which is not among the inputs of this Model"
            )
    for tensor in inputs:
        if id(tensor) not in reached:
            raise ValueError(f"input {tensor.name!r} of shape {tensor.shape} leads to no output")
    graph, tensors = Graph(), list(inputs)
    numbers = {id(t): graph.input(t.shape) for t in inputs}
    for _, step in sorted(made.items()):
        done = graph.call(
            step.layer, [numbers[id(t)] for t in step.inputs], [t.shape for t in step.outputs]
        )
        numbers |= {id(t): v for t, v in zip(step.outputs, done.outputs, strict=True)}
        tensors += step.outputs
    graph.outputs = tuple(numbers[id(t)] for t in outputs)
    return graph, tensors


def replay(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The Tensor of each value of a graph, made again from its inputs."""
    tensors = list(inputs)
    for made in graph.calls:
        xs = [tensors[v] for v in made.inputs]
        y = call(made.layer, xs if made.layer.several else xs[0])
        tensors += y if isinstance(y, list) else [y]
    return tensors
