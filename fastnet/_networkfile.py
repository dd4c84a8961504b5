"""Networks as model files describe them: closed tables, every number checked before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._tensorfile import Refused
from .check import shape as checked_shape
from .graph import MOST_CALLS, Nested, as_tensor, call
from .layers import Input, Layer
from .layers.base import LAYERS, layer_config, layer_from_config
from .model import Model
from .network import Network
from .sequential import Sequential

_MAX_LAYERS = 1000
_NESTED = "Network"
_SEQUENTIAL = {"class": str, "name": str, "seed": int, "input_shape": list, "layers": list}
_MODEL = {
    "class": str, "name": str, "seed": int, "layers": list, "inputs": int, "calls": list,
    "outputs": list,
}  # fmt: skip


def fields(value: Any, what: str, **types: type) -> None:
    """Refused unless value is an object with exactly these fields, of these types."""
    if not isinstance(value, dict) or value.keys() != types.keys():
        got = sorted(value) if isinstance(value, dict) else value
        raise Refused(f"{what} must have {', '.join(types)}; it has {got!r:.80}")
    for name, wanted in types.items():
        if type(value[name]) is not wanted:
            raise Refused(f"{what} must have {name} as {wanted.__name__}, not {value[name]!r:.80}")


# ---- writing ------------------------------------------------------------------------------------


def describe_network(network: Network) -> dict[str, Any]:
    """A network as files keep it; ValueError for what they cannot hold."""
    seen = [id(layer) for layer in _all_layers(network)]
    if len(set(seen)) < len(seen):
        raise ValueError("a layer is used inside a nested network and outside it as well")
    return _describe(network)


def _all_layers(network: Network) -> Iterator[Layer]:
    for layer in network.layers:
        yield layer
        if isinstance(layer, Nested):
            yield from _all_layers(layer.inside)


def _describe(network: Network) -> dict[str, Any]:
    layers = [_describe_layer(layer) for layer in network.layers]
    common = {"name": network.name, "seed": network.seed, "layers": layers}
    if isinstance(network, Sequential):
        return {"class": "Sequential", "input_shape": list(network.input_shape), **common}
    place = {id(layer): i for i, layer in enumerate(network.layers)}
    graph = network._graph
    calls = [[place[id(made.layer)], list(made.inputs)] for made in graph.calls]
    return {
        "class": "Model", **common, "inputs": graph.n_inputs, "calls": calls,
        "outputs": list(graph.outputs),
    }  # fmt: skip


def _describe_layer(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Nested):
        config = {"network": _describe(layer.inside)}
        return {"class": _NESTED, "name": layer.label, "config": config}
    if LAYERS.get(type(layer).__name__) is not type(layer):
        raise ValueError(
            f"layer {layer.name!r} is a {type(layer).__module__}.{type(layer).__name__}, "
            "and a model file can only hold layers of fastnet"
        )
    return layer_config(layer)


def schema_of(description: dict[str, Any]) -> int:
    """The lowest schema that can hold a description."""
    layers = description.get("layers")
    nested = isinstance(layers, list) and any(
        isinstance(layer, dict) and layer.get("class") == _NESTED for layer in layers
    )
    return 2 if nested or description.get("class") == "Model" else 1


# ---- reading ------------------------------------------------------------------------------------


def read_network(description: Any) -> Network:
    """The network described, with its shapes and without weights; Refused for anything else."""
    what = "its network"
    kind = description.get("class") if isinstance(description, dict) else None
    fields(description, what, **(_MODEL if kind == "Model" else _SEQUENTIAL))
    if kind not in ("Model", "Sequential"):
        raise Refused(f"{what} has the unknown class {kind!r:.80}")
    if not description["name"]:
        raise Refused(f"{what} must have a name")
    configs = description["layers"]
    if not 1 <= len(configs) <= _MAX_LAYERS:
        raise Refused(f"{what} must have 1 to {_MAX_LAYERS:,} layers, it has {len(configs):,}")
    layers = [_layer(i, config) for i, config in enumerate(configs)]
    about = {"seed": description["seed"], "name": description["name"]}
    if kind == "Model":
        return _model(description, layers, about)
    network = Sequential(layers, **about)
    network._infer(checked_shape("input_shape", description["input_shape"]))
    return network


def _layer(i: int, config: Any) -> Layer:
    """A layer from its description; Refused names its place."""
    fields(config, f"layer {i}", **{"class": str}, name=str, config=dict)
    if config["class"] == _NESTED:
        fields(config["config"], f"layer {i}", network=dict)
        return Nested(read_network(config["config"]["network"]), name=config["name"])
    try:
        return layer_from_config(config)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise Refused(f"layer {i} ({config['name']!r:.40}) is wrong: {error}") from error


def _model(description: dict[str, Any], layers: list[Layer], about: dict[str, Any]) -> Model:
    """A graph: every call reads values that are there already, so there is no cycle."""
    n, calls = description["inputs"], description["calls"]
    if not 1 <= n <= len(layers) or not all(isinstance(layer, Input) for layer in layers[:n]):
        raise Refused(f"its network must begin with its {n} inputs")
    if len(calls) > MOST_CALLS:
        raise Refused(f"its network has {len(calls):,} calls, at most {MOST_CALLS:,} are possible")
    inputs = [as_tensor("inputs", layer) for layer in layers[:n]]
    values = list(inputs)
    for i, made in enumerate(calls):
        if not isinstance(made, list) or len(made) != 2:
            raise Refused(f"call {i} must be a layer and its values, it is {made!r:.80}")
        layer = layers[_number(f"the layer of call {i}", made[0], len(layers))]
        read = _values(f"call {i} of layer {layer.label!r:.40}", made[1], len(values))
        if isinstance(layer, Input):
            raise Refused(f"call {i} calls the input {layer.label!r:.40}")
        y = call(layer, [values[v] for v in read])
        values += y if isinstance(y, list) else [y]
        if len(values) > 2 * MOST_CALLS:
            raise Refused(f"its network has more than {2 * MOST_CALLS:,} values")
    chosen = _values("its outputs", description["outputs"], len(values))
    model = Model(inputs, [values[v] for v in chosen], **about)
    if len(model._graph.calls) < len(calls) or len(model.layers) < len(layers):
        raise Refused("its network has layers that lead to no output")
    if any(a is not b for a, b in zip(model.layers, layers, strict=True)):
        raise Refused("its network's layers are not in the order of their calls")
    return model


def _number(what: str, value: Any, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise Refused(f"{what} must be 0 to {end - 1}, it is {value!r:.40}")
    return value


def _values(what: str, values: Any, known: int) -> list[int]:
    """Numbers of values that are there already."""
    if not isinstance(values, list) or not 1 <= len(values) <= _MAX_LAYERS:
        raise Refused(f"{what} must read 1 to {_MAX_LAYERS:,} values, it has {values!r:.80}")
    for value in values:
        if type(value) is not int or not 0 <= value < known:
            raise Refused(
                f"{what} reads value {value!r:.40}, which is not there yet: there are {known} "
                "(a graph has no cycles)"
            )
    return values
