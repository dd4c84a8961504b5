"""What a trainer wants of each output: loss, weight, metrics, and a last activation that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import check, metrics
from .graph import Graph, Nested
from .layers import Activation, Dense, Dropout, Flatten, Layer, Reshape
from .losses import Loss
from .network import Network


def each(what: str, value: Any, names: Sequence[str]) -> list[Any]:
    """One thing for each output: a list or dict of them, or the same for all."""
    if isinstance(value, dict):
        if set(value) != set(names):
            raise ValueError(
                f"{what} must name the outputs {', '.join(names)}, "
                f"got {', '.join(map(str, value))}; "
                "an output without a loss belongs into another Model, which may share the layers"
            )
        return [value[name] for name in names]
    if isinstance(value, list | tuple):
        if len(value) != len(names):
            raise ValueError(
                f"{what} must hold one for each of {len(names)} outputs ({', '.join(names)}), "
                f"got {len(value)}"
            )
        return list(value)
    return [value] * len(names)


def weights_of_losses(value: Any, names: Sequence[str]) -> tuple[float, ...]:
    if value is None:
        return (1.0,) * len(names)
    if not isinstance(value, dict | list | tuple):
        raise TypeError(f"loss_weights must be a list or dict of numbers, got {value!r}")
    numbers = each("loss_weights", value, names)
    return tuple(
        check.number(f"loss_weights[{name!r}]", w, low=0)
        for name, w in zip(names, numbers, strict=True)
    )


def metrics_of_outputs(value: Any, names: Sequence[str]) -> tuple[tuple[metrics.Metric, ...], ...]:
    """Metrics of each output: a list of lists or a dict says which, else all get the same."""
    nested = isinstance(value, list | tuple) and any(isinstance(v, list | tuple) for v in value)
    if isinstance(value, dict):
        wrong = set(value) - set(names)
        if wrong:
            raise ValueError(
                f"metrics must name outputs ({', '.join(names)}), got {', '.join(map(str, value))}"
            )
        value = [value.get(name, ()) for name in names]
        nested = True
    return tuple(
        _metrics(one) for one in (each("metrics", value, names) if nested else [value] * len(names))
    )


def _metrics(value: Any) -> tuple[metrics.Metric, ...]:
    values = [value] if isinstance(value, str | metrics.Metric) else list(value or ())
    result = tuple(metrics.get(v) for v in values)
    names = [m.name for m in result]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must have different names, got {names}")
    return result


def last_activation(network: Network, output: int) -> tuple[str, Layer | None, bool]:
    """The activation that an output comes from, the last layer, and whether it is that one's."""
    known = network._graph is not None
    made = _way_back(network._graph, output) if known else iter(reversed(network.layers))
    last = next(made, None)
    layer = last
    while layer is not None:
        activation = getattr(layer, "activation", None)
        if isinstance(layer, Dense) or activation not in (None, "linear"):
            return activation or "linear", last, layer is last
        if not isinstance(layer, Activation | Dropout | Flatten | Reshape):
            break
        layer = next(made, None)
    return "linear", last, True


def _way_back(graph: Graph, output: int) -> Iterator[Layer]:
    """Layers from an output towards the inputs, along the first input of each."""
    value = graph.outputs[output]
    while (made := graph.maker(value)) is not None:
        if isinstance(made.layer, Nested):
            yield from _way_back(made.layer.inside._graph, made.outputs.index(value))
        else:
            yield made.layer
        value = made.inputs[0]


def check_last_activation(network: Network, output: int, loss: Loss) -> None:
    """A fused loss wants its own activation last, or a linear layer (logits)."""
    if loss.fused is None:
        return
    activation, last, is_last = last_activation(network, output)
    units = network._graph.output_shapes[output][-1]
    where = "" if len(network.output_names) == 1 else f" in output {network.output_names[output]!r}"
    if activation not in (loss.fused, "linear"):
        raise ValueError(
            f"loss {loss.name!r} wants a last layer with activation {loss.fused!r} or a linear one "
            f"(logits), got {activation!r}{where}; write Dense({units}, activation={loss.fused!r})"
        )
    if activation == loss.fused and not is_last:
        raise ValueError(
            f"loss {loss.name!r} wants its {loss.fused} in the last layer, "
            f"got {last!r} behind it{where}; leave the activation out there and end with "
            f"Activation({loss.fused!r})"
        )
    if loss.name == "cross_entropy" and units == 1:
        raise ValueError(
            f"cross_entropy over 1 output is always 0{where}; for two classes write "
            'Dense(1, activation="sigmoid") with loss="binary_cross_entropy", '
            'or Dense(2, activation="softmax")'
        )
