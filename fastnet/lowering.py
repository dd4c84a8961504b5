"""From layers to the engine's plan: the ops of a network in one mode, for up to so many rows.

Lowering is where ops are fused: a final softmax or sigmoid into its cross-entropy, a leading
Rescale into the reading of rows. Nothing else in Python knows how the engine computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _core
from .losses import Loss
from .metrics import Metric

if TYPE_CHECKING:
    from .network import Network

Shape = tuple[int, ...]

_RUN_SECONDS = 0.02


@dataclass(frozen=True)
class Request:
    """What a plan is wanted for: the key under which a network keeps it."""

    mode: str  # "predict", "evaluate" or "train"
    max_rows: int
    loss: Loss | None = None
    metrics: tuple[Metric, ...] = ()
    classes: bool = False  # targets are int32 classes
    weighted: bool = False
    update: str = "fused"
    gemm: str = "auto"
    lanes: int = 1
    layers: int | None = None  # predict what the first so many give (to find what diverges)


@dataclass
class Lowered:
    """A finished plan, and where its parts are."""

    plan: _core.Plan
    output: int  # buffer of the predictions
    #: With the number of the engine's metric op.
    metrics: list[tuple[Metric, int]] = field(default_factory=list)
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


class Lowering:
    """The plan being built, while layers add their ops to it."""

    def __init__(self, network: Network, request: Request):
        self.plan = _core.Plan(
            request.mode, request.max_rows, request.update, request.gemm, request.lanes
        )
        self.network = network
        self.request = request
        self.shapes: dict[int, Shape] = {}
        self._declared: dict[int, Shape] = {}
        self.layer = -1
        self.fused = False  # the last activation is left to the loss
        self.scaling = (1.0, 0.0)
        # Every plan declares all parameters, so that one set of params serves them all.
        self._params = [
            [self.plan.param(w.shape, w.decay, w.trainable) for w in layer.weights()]
            for layer in network.layers
        ]
        self.source = self.buffer(network.input_shape)
        self._source_is_open = True

    def params(self) -> list[int]:
        """The engine's numbers of the current layer's weights."""
        return self._params[self.layer]

    def buffer(self, shape: Shape, dtype: str = "f") -> int:
        number = self.plan.buffer(shape, dtype)
        self.shapes[number] = self._declared[number] = shape
        return number

    def close_source(self) -> None:
        """Read rows: after this, a Rescale is an op of its own."""
        if self._source_is_open:
            scale, offset = self.scaling
            self.plan.op("input", [], [self.source], source=0, scale=scale, offset=offset)
            self._source_is_open = False

    def op(self, name: str, x: int, shape: Shape, params: Sequence[int] = (), **attributes) -> int:
        """Add an op with one input and one output; returns the output's buffer."""
        self.close_source()
        y = self.buffer(shape)
        self.plan.op(name, [x], [y], params, layer=self.layer, **attributes)
        return y

    def activation(self, x: int, name: str) -> int:
        """y = name(x); nothing for "linear", and for one that the loss brings along."""
        if name == "linear":
            return x
        loss = self.request.loss
        is_last = self.layer == len(self.network.layers) - 1
        if is_last and loss is not None and loss.fused == name:
            self.fused = True
            return x
        if name == "softmax":
            return self.op("softmax", x, self.shapes[x])
        return self.op("activation", x, self.shapes[x], function=name)

    def rescale(self, x: int, scale: float, offset: float) -> int:
        if x == self.source and self._source_is_open:
            before, shift = self.scaling
            self.scaling = (before * scale, shift * scale + offset)
            return x
        return self.op("rescale", x, self.shapes[x], scale=scale, offset=offset)

    def reshape(self, x: int, shape: Shape) -> int:
        """The same values with other axes: no op, rows are contiguous."""
        self.shapes[x] = shape
        return x

    def in_shape(self, x: int) -> int:
        """x in a buffer of its shape, for ops that look at the axes of what they read."""
        shape = self.shapes[x]
        return x if self._declared[x] == shape else self.op("rescale", x, shape)


def lower(network: Network, request: Request) -> Lowered:
    """Build the plan that `request` asks for."""
    to = Lowering(network, request)
    x = to.source
    after = []  # the buffer behind each layer
    for to.layer, layer in enumerate(network.layers):
        if not layer.training_only or request.mode == "train":
            x = layer.lower(to, x)
        after.append(x)
    to.close_source()
    if request.loss is None:  # to predict
        to.plan.op("output", [x if request.layers is None else after[request.layers - 1]])
        return Lowered(to.plan.finish(), x)
    x = to.in_shape(x)
    result = Lowered(to.plan, x)
    _lower_loss(to, request.loss, x, result)
    to.plan.finish()
    return result


def _lower_loss(to: Lowering, loss: Loss, x: int, result: Lowered) -> None:
    """Targets, weights, loss and metrics behind the predictions x."""
    plan = to.plan
    shape = to.shapes[x]
    outputs = shape[-1] if shape else 1
    target = to.buffer(shape[:-1], "i") if to.request.classes else to.buffer(shape)
    plan.op("input", [], [target], source=1)
    inputs = [x, target]
    if to.request.weighted:
        weight = to.buffer(())
        plan.op("input", [], [weight], source=2)
        inputs.append(weight)
    if loss.name == "python":
        plan.op("stop", [x])
    else:
        value = to.buffer(())
        attributes: dict[str, Any] = loss.attributes() | ({"probabilities": 1} if to.fused else {})
        plan.op("loss", inputs, [value], kind=loss.name, **attributes)
    shared: dict[tuple, int] = {}
    for metric in to.request.metrics:
        attributes = {**metric.attributes(outputs), "threshold": loss.threshold(not to.fused)}
        key = (metric.kind, tuple(sorted(attributes.items())))
        if key not in shared:
            plan.op("metric", inputs, (), kind=metric.kind, **attributes)
            shared[key] = len(shared)
        result.metrics.append((metric, shared[key]))
