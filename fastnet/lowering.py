"""From layers to the engine's plan: the ops of a network in one mode, for up to so many rows.

Lowering is where ops are fused: a final softmax or sigmoid into its cross-entropy, a leading
Rescale into the reading of rows. It is where branches get their fork, so that in the engine every
gradient has one writer. Nothing else in Python knows how the engine computes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from . import _core
from .graph import Graph, Nested
from .losses import Loss
from .metrics import Metric

if TYPE_CHECKING:
    from .layers import Layer
    from .network import Network

Shape = tuple[int, ...]

_RUN_SECONDS = 0.02


@dataclass(frozen=True)
class Request:
    """What a plan is wanted for: the key under which a network keeps it.

    Tuples have one entry for each of the network's outputs.
    """

    mode: str  # "predict", "evaluate" or "train"
    max_rows: int
    losses: tuple[Loss, ...] = ()
    metrics: tuple[tuple[Metric, ...], ...] = ()
    classes: tuple[bool, ...] = ()  # targets are int32 classes
    weighted: tuple[bool, ...] = ()
    loss_weights: tuple[float, ...] = ()
    update: str = "fused"
    gemm: str = "auto"
    lanes: int = 1
    mixup: float = 0.0
    layer: int | None = None  # predict what this one of `Lowered.labels` gives

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, f.name) for f in fields(self)))

    def __hash__(self) -> int:  # asked for with every call
        return self._hash


@lru_cache(maxsize=256)
def prediction(rows: int, layer: int | None = None) -> Request:
    """The request for a plan that predicts; always the same object, so its hash is there."""
    return Request("predict", rows, layer=layer)


@dataclass
class Lowered:
    """A finished plan, and where its parts are."""

    plan: _core.Plan
    outputs: list[int]  # buffers of the predictions
    labels: list[str]  # names of the layers, as often as they are called
    shapes: list[Shape]  # of a row behind each of them
    #: Key in logs, metric, number of the engine's metric op.
    metrics: list[tuple[str, Metric, int]] = field(default_factory=list)
    #: One a concurrent caller, kept for the next.
    works: list[_core.Work] = field(default_factory=list)

    def steps_a_run(self, batch_size: int) -> int:
        """Minibatches of a run that is short enough for Ctrl-C, before any run was timed."""
        return max(
            1, int(_RUN_SECONDS / (self.plan.describe()["flops"] * batch_size / 20e9 + 2e-6))
        )

    def take_work(self) -> _core.Work:
        """Memory for one caller; give it back with ``works.append``."""
        try:
            return self.works.pop()
        except IndexError:
            return _core.Work(self.plan)


@dataclass(frozen=True)
class Wish:
    """What is wanted of a graph's output: its value, or what its loss is computed from."""

    value: bool = False
    fused: str | None = None  # an activation that the loss brings along
    loss: bool = False


class Lowering:
    """The plan being built, while layers add their ops to it."""

    #: Inputs and outputs that an op can have.
    most_inputs = 8

    def __init__(self, network: Network, request: Request):
        self.plan = _core.Plan(
            request.mode, request.max_rows, request.update, request.gemm, request.lanes
        )
        self.request = request
        self.shapes: dict[int, Shape] = {}
        self._declared: dict[int, Shape] = {}
        self._made: dict[int, str] = {}  # the op that gives a buffer
        self._several: set[int] = set()  # buffers that are read more than once, without a fork
        self._gradient: set[int] = set()  # buffers that gradients flow to
        self.after: list[tuple[str, int]] = []  # each layer called: its path and buffer
        self.behind: list[Shape] = []  # and the shape it gave
        self._layer: Layer
        self._last = Wish()  # what the value of the layer at hand is wanted for
        self._logits: int | None = None
        # Every plan declares all parameters, so that one set of params serves them all.
        self._params: dict[int, list[int]] = {}
        self._trained: set[int] = set()
        for _, layer in network._leaves():
            weights = layer.weights()
            numbers = [self.plan.param(w.shape, w.decay, w.trainable) for w in weights]
            self._params[id(layer)] = numbers
            self._trained |= {n for n, w in zip(numbers, weights, strict=True) if w.trainable}
        #: Source i is -1 - i until an op reads it: only then its scale, offset and shape are known.
        self.sources = [-1 - i for i in range(network._graph.n_inputs)]
        self._scaling = dict.fromkeys(self.sources, (1.0, 0.0))
        self._read: dict[int, int] = {}  # the buffer of each source that was read
        for x, shape in zip(self.sources, network._graph.input_shapes, strict=True):
            self.shapes[x] = self._declared[x] = shape

    def params(self) -> list[int]:
        """The engine's numbers of the current layer's weights."""
        return self._params[id(self._layer)]

    @property
    def layer(self) -> int:
        """The current layer's number, for messages."""
        return len(self.after)

    def buffer(self, shape: Shape, dtype: str = "f") -> int:
        number = self.plan.buffer(shape, dtype)
        self.shapes[number] = self._declared[number] = shape
        return number

    def real(self, x: int) -> int:
        """The buffer of x. A source is read now: after this, a Rescale is an op of its own."""
        if x >= 0:
            return x
        if x not in self._read:
            self._read[x] = self.buffer(self._declared[x])
            scale, offset = self._scaling[x]
            self.read(self._read[x], -1 - x, scale=scale, offset=offset)
        return self._read[x]

    def _is_open(self, x: int) -> bool:
        """Whether x is a source that nobody has read, and that one layer alone is going to."""
        return x < 0 and x not in self._read and x not in self._several

    def read(self, x: int, source: int, **attributes: Any) -> None:
        """The rows of a source become x: mixed in pairs where that was asked for."""
        self.plan.op("input", [], [x], source=source, mixup=self.request.mixup, **attributes)

    def op(
        self, name: str, x: int | Sequence[int], shape: Shape, params: Sequence[int] = (),
        **attributes: Any,
    ) -> int:  # fmt: skip
        """Add an op with one output; x: a buffer or several. Returns the output's buffer."""
        inputs = [self.real(number) for number in ([x] if isinstance(x, int) else x)]
        y = self.buffer(shape)
        self.plan.op(name, inputs, [y], params, layer=self.layer, **attributes)
        self._made[y] = name
        if not self._trained.isdisjoint(params) or not self._gradient.isdisjoint(inputs):
            self._gradient.add(y)
        return y

    def merge(self, name: str, xs: Sequence[int], shape: Shape) -> int:
        """An op over all of xs in order, in groups of as many as it can take."""
        total = xs[0]
        for i in range(1, len(xs), self.most_inputs - 1):
            total = self.op(name, [total, *xs[i : i + self.most_inputs - 1]], shape)
        return total

    def fork(self, x: int, n: int) -> list[int]:
        """x for n readers. Where each sends a gradient back, each gets a name of its own."""
        if n < 2:
            return [x] * n
        if self.request.mode != "train" or x not in self._gradient:
            self._several.add(x)
            return [x] * n
        names = [self.buffer(self._declared[x]) for _ in range(min(n, self.most_inputs))]
        self.plan.op("fork", [x], names, layer=self.layer)
        for name in names:
            self.shapes[name] = self.shapes[x]
            self._made[name] = "fork"
            self._gradient.add(name)
        return [*names[:-1], *self.fork(names[-1], n - len(names) + 1)]

    def activation(self, x: int, name: str, **attributes: Any) -> int:
        """y = name(x); nothing for "linear", and for one that the loss brings along."""
        if name == "linear":
            return x
        if name == self._last.fused:
            if not self._last.value:
                self._logits = x
                return x
            x, logits = self.fork(x, 2)
            self._logits = self.op("rescale", logits, self.shapes[x])
        if name == "softmax":
            return self.op("softmax", x, self.shapes[x])
        return self.op("activation", x, self.shapes[x], function=name, **attributes)

    def rescale(self, x: int, scale: float, offset: float) -> int:
        if self._is_open(x):
            before, shift = self._scaling[x]
            self._scaling[x] = (before * scale, shift * scale + offset)
            return x
        return self.op("rescale", x, self.shapes[x], scale=scale, offset=offset)

    def reshape(self, x: int, shape: Shape) -> int:
        """The same values with other axes: no op, rows are contiguous."""
        if x in self._several:  # somebody else reads them with theirs
            return self.op("rescale", x, shape)
        self.shapes[x] = shape
        if self._is_open(x):
            self._declared[x] = shape
        return x

    def in_shape(self, x: int) -> int:
        """x in a buffer of its shape, for ops that look at the axes of what they read."""
        shape = self.shapes[x]
        return x if self._declared[x] == shape else self.op("rescale", x, shape)

    def own(self, x: int) -> int:
        """x where nobody else reads it, for a loss that writes probabilities over its logits."""
        if self._made.get(x) in ("dense", "rescale") and x not in self._several:
            return x
        return self.op("rescale", x, self.shapes[x])

    def graph(
        self, graph: Graph, xs: Sequence[int], wishes: Sequence[Wish], prefix: str = ""
    ) -> list[tuple[int | None, int | None]]:
        """Add the ops of a graph; of each output wanted its buffer, and its logits if fused."""
        uses = graph.uses([wish.value or wish.loss for wish in wishes])
        asked = dict(zip(graph.outputs, wishes, strict=True))
        ready = {v: self.fork(x, uses[v]) for v, x in enumerate(xs)}
        logits: dict[int, int] = {}
        for made in graph.calls:
            if not any(uses[v] for v in made.outputs):
                continue
            inputs = [ready[v].pop(0) for v in made.inputs]
            inside = []
            for v in made.outputs:
                wish = asked.get(v, Wish())
                others = wish.value or uses[v] > wish.loss  # somebody beside the loss
                inside.append(Wish(others, wish.fused, wish.loss))
            answers = self._call(made.layer, inputs, inside, prefix)
            for v, (y, z) in zip(made.outputs, answers, strict=True):
                alone = z is not None and not asked[v].value  # the loss takes the logits instead
                ready[v] = self.fork(y, uses[v] - alone) if y is not None else []
                if z is not None:
                    logits[v] = z
        return [
            (ready[v].pop(0) if ready.get(v) else None, logits.get(v)) if wish.value or wish.loss
            else (None, None)
            for v, wish in asked.items()
        ]  # fmt: skip

    def _call(
        self, layer: Layer, inputs: list[int], wishes: Sequence[Wish], prefix: str
    ) -> list[tuple[int | None, int | None]]:
        """The ops of one call of a layer, or of a network."""
        path = prefix + layer.label
        if isinstance(layer, Nested):
            return self.graph(layer.inside._graph, inputs, wishes, path + "/")
        self._layer, self._last, self._logits = layer, wishes[0], None
        y = inputs[0]
        if not layer.training_only or self.request.mode == "train":
            try:
                y = layer.lower(self, inputs if layer.several else y)
            except ValueError as error:  # of the engine, which knows no names
                raise ValueError(f"layer {path!r}: {error}") from None
        self.after.append((path, y))
        self.behind.append(self.shapes[y])
        return [(y, self._logits)]


def lower(network: Network, request: Request) -> Lowered:
    """Build the plan that `request` asks for."""
    _check_arrays(network, request)
    to = Lowering(network, request)
    wishes = [Wish(fused=loss.fused, loss=True) for loss in request.losses]
    answers = to.graph(
        network._graph, to.sources, wishes or [Wish(True)] * len(network.output_names)
    )
    for source in to.sources:
        to.real(source)
    result = Lowered(to.plan, [], [path for path, _ in to.after], to.behind)
    if request.losses:
        _lower_losses(to, network, answers, result)
    elif request.layer is not None:
        to.plan.op("output", [to.real(to.after[request.layer][1])])
    else:
        for i, (y, _) in enumerate(answers):
            assert y is not None
            to.plan.op("output", [to.real(y)], target=i)
    _finish(to.plan, result.labels)
    return result


def _check_arrays(network: Network, request: Request) -> None:
    """The engine reads and writes so many arrays at once (FN_MAX_SOURCES, FN_MAX_OUTPUTS)."""
    inputs, outputs = network._graph.n_inputs, len(network.output_names)
    if outputs > 16:
        raise ValueError(f"{network.name} has {outputs} outputs: at most 16 go; Concatenate joins")
    targets, weights = len(request.losses), sum(request.weighted)
    if inputs + targets + weights > 32:
        raise ValueError(
            f"{network.name} would read {inputs} inputs, {targets} targets and {weights} sample "
            "weights: at most 32 arrays go together"
        )


def _finish(plan: _core.Plan, labels: Sequence[str]) -> None:
    """The engine's last checks; its errors get the names of layers for their numbers."""
    try:
        plan.finish()
    except ValueError as error:
        names = dict(enumerate(labels))
        text = re.sub(
            r"op \d+ \((\w+), layer (\d+)\)",
            lambda m: f"layer {names.get(int(m[2]), m[2])!r} ({m[1]})",
            str(error),
        )
        raise ValueError(text) from None


def _lower_losses(
    to: Lowering, network: Network, answers: Sequence[tuple[int | None, int | None]],
    result: Lowered,
) -> None:  # fmt: skip
    """Targets and weights of all outputs, then the loss and the metrics of each."""
    request = to.request
    predictions = []
    for value, logits in answers:
        x = value if logits is None else to.own(logits)
        assert x is not None
        predictions.append(to.real(to.in_shape(x)))
    result.outputs += predictions
    source = len(to.sources)
    targets, weights = [], []
    none = (False,) * len(predictions)
    for x, classes in zip(predictions, request.classes or none, strict=True):
        shape = to.shapes[x]
        if classes and request.mixup:  # a mixed target is no class
            targets.append(to.buffer(shape))
            to.read(targets[-1], source, classes=shape[-1])
        else:
            targets.append(to.buffer(shape[:-1], "i") if classes else to.buffer(shape))
            to.read(targets[-1], source)
        source += 1
    for weighted in request.weighted or none:
        weights.append([to.buffer(())] if weighted else [])
        if weighted:
            to.read(weights[-1][0], source)
            source += 1
    scales = request.loss_weights or (1.0,) * len(predictions)
    numbers = 0
    for i, name in enumerate(network.output_names):
        inputs = [predictions[i], targets[i], *weights[i]]
        fused = answers[i][1] is not None
        _lower_loss(to, request.losses[i], inputs, fused, scales[i])
        prefix = f"{name}_" if len(predictions) > 1 else ""
        numbers = _lower_metrics(to, i, inputs, fused, prefix, result, numbers)


def _lower_loss(to: Lowering, loss: Loss, inputs: Sequence[int], fused: bool, scale: float) -> None:
    if loss.name == "python":
        to.plan.op("stop", inputs[:1])
        return
    attributes: dict[str, Any] = loss.attributes() | ({"probabilities": 1} if fused else {})
    if scale != 1:
        attributes["scale"] = scale
    to.plan.op("loss", inputs, [to.buffer(())], kind=loss.name, **attributes)


def _lower_metrics(
    to: Lowering, i: int, inputs: Sequence[int], fused: bool, prefix: str, result: Lowered,
    numbers: int,
) -> int:  # fmt: skip
    """Metrics of output i; those that want the same sums share them. Returns how many there are."""
    loss, shape = to.request.losses[i], to.shapes[inputs[0]]
    shared: dict[tuple, int] = {}
    for metric in to.request.metrics[i] if to.request.metrics else ():
        attributes: dict[str, Any] = {
            **metric.attributes(shape[-1] if shape else 1), "threshold": loss.threshold(not fused)
        }  # fmt: skip
        key = (metric.kind, tuple(sorted(attributes.items())))
        if key not in shared:
            to.plan.op("metric", inputs, (), kind=metric.kind, **attributes)
            shared[key] = numbers
            numbers += 1
        result.metrics.append((prefix + metric.name, metric, shared[key]))
    return numbers
