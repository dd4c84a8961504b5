"""Model files: `save` and `load`, one .safetensors file a model.

Weights are float32 tensors named ``layer.weight`` in canonical shapes, so every tool that reads
safetensors can read them. All else is one JSON text in the metadata, under "fastnet"::

    {"schema": 1, "kind": "network", "written_by": "fastnet 0.1.0", "extra": {...},
     "description": {"class": "Sequential", "name": "sequential", "seed": 0, "input_shape": [784],
                     "layers": [{"class": "Dense", "name": "dense", "config": {"units": 10}}, ...]}}

A file is data: kinds, networks and layers are looked up in closed tables, and nothing in a file is
imported or run. A file is checked before anything of its size is allocated.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from . import _safefile, _tensorfile
from ._tensorfile import Header, Refused
from .check import shape as checked_shape
from .errors import ModelFileError
from .layers.base import LAYERS, layer_config, layer_from_config
from .network import Network, Sequential

__all__ = ["Info", "info", "load", "read_extra", "save"]

#: Raised when a file of today could not be understood by the reader of yesterday.
SCHEMA = 1
_KEY = "fastnet"
_MAX_LAYERS = 1000
_MAX_TEXT = 1000  # characters of a name in a description
_MAX_MESSAGE = 500


def save(
    model: Network, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
) -> None:
    """Write a network to one .safetensors file, all of it or nothing.

    Parameters
    ----------
    model : Network
        Built: the shape of its rows is known. The optimizer's state is not kept. A subclass of
        yours is read back as the class of fastnet that it comes from.
    path : str or path
        Replaced in one step: at any moment it is the old file or the new one. A symbolic link is
        followed.
    extra : dict, optional
        Your own data, as JSON can hold it (class names, ...); `read_extra` gives it back.

    Raises
    ------
    ValueError, TypeError
        If the network is not built, weights are NaN or infinite, a layer is not one of fastnet's,
        or `extra` is not JSON or too long. Then nothing was written.
    OSError
        If the file cannot be written; an old one is as it was.
    """
    kind, description, tensors = _describe(model)
    about = {
        "schema": SCHEMA,
        "kind": kind,
        "written_by": f"fastnet {_version()}",
        "description": description,
        "extra": _json_object("extra", extra),
    }
    try:
        text = json.dumps(about, allow_nan=False, separators=(",", ":"))
        _check_fit(_skeleton(_parse_about(text)), {n: t.shape for n, t in tensors.items()})
        data = _tensorfile.pack(tensors, {_KEY: text})
    except (Refused, ValueError, TypeError) as error:
        raise ValueError(f"{model!r:.80} cannot be saved: {_short(str(error))}") from None
    _safefile.replace(path, data)


def load(path: str | os.PathLike[str]) -> Network:
    """Read what `save` wrote: the same layers, names, seed and bits of every weight.

    Returns
    -------
    Network
        A `Sequential`, without optimizer state.

    Raises
    ------
    ModelFileError
        If the file is damaged, cut off, too large, or none of fastnet's; it names the file and the
        rule that it breaks. Nothing larger than the file is allocated before all of it is checked.
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, ...
    """
    with _opened(path) as (file, header, about):
        skeleton = _skeleton(about)
        _check_fit(skeleton, header.shapes)
        tensors = _tensorfile.read_tensors(file, header)
        return skeleton.finish(tensors)


@dataclass(frozen=True)
class Info:
    """What a model file holds, without its weights."""

    path: str
    size: int  # bytes
    schema: int
    kind: str  # "network"
    written_by: str  # "fastnet 0.1.0"
    description: dict[str, Any]  # of a network: class, name, seed, input_shape, layers
    shapes: dict[str, tuple[int, ...]]  # of the weights, by name
    extra: dict[str, Any]

    @property
    def parameters(self) -> int:
        """How many numbers the weights have together."""
        return sum(map(math.prod, self.shapes.values()))


def info(path: str | os.PathLike[str]) -> Info:
    """Describe a model file without reading its weights or building the network.

    Errors as `load`, except for what is wrong with the weights' values.
    """
    with _opened(path) as (_, header, about):
        skeleton = _skeleton(about)
        _check_fit(skeleton, header.shapes)
        shapes = {name: header.shapes[name] for name in skeleton.shapes}
        return Info(_text(path), header.size, shapes=shapes, **about)


def read_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `extra` that a model file was saved with; {} if none. Errors as `load`."""
    return info(path).extra


# ---- the file around a model --------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, Header, dict[str, Any]]]:
    """An open model file, its header, and what it says of itself. Refused gets the file's name."""
    name = _text(path)
    try:
        with _tensorfile.open_file(name) as file:
            header = _tensorfile.read_header(file)
            if _KEY not in header.metadata:
                raise Refused("it is a safetensors file, but fastnet did not write it")
            yield file, header, _parse_about(header.metadata[_KEY])
    except Refused as error:
        raise ModelFileError(f"{name} cannot be loaded: {_short(str(error))}") from None


def _short(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + " ..."


def _text(path: str | os.PathLike[str]) -> str:
    return os.fsdecode(os.fspath(path))


def _version() -> str:
    from . import __version__

    return __version__


def _json_object(what: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    """value as what JSON makes of it; TypeError if that is something else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a dict that JSON can hold, got {value!r:.80}")
    value = dict(value)
    try:
        same = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what} must be a dict that JSON can hold: {error}") from None
    if list(same) != list(value):
        raise TypeError(f"{what} must have texts as keys, got {list(value)!r:.80}")
    return same


def _parse_about(text: str) -> dict[str, Any]:
    """The JSON text of a file's metadata."""
    about = _tensorfile.strict_json(text, "its description")
    schema = about.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise Refused(
            f"it has schema {schema}, this fastnet reads up to {SCHEMA}: "
            f"install a newer one ({about.get('written_by', '')!r:.40} wrote it)"
        )
    _fields(
        about, "its description", schema=int, kind=str, written_by=str, description=dict, extra=dict
    )
    if schema != SCHEMA:
        raise Refused(f"it has schema {schema}, which there never was")
    _short_texts(about["description"])
    return about


def _fields(value: Any, what: str, **types: type) -> None:
    """Refused unless value is an object with exactly these fields, of these types."""
    if not isinstance(value, dict) or value.keys() != types.keys():
        got = sorted(value) if isinstance(value, dict) else value
        raise Refused(f"{what} must have {', '.join(types)}; it has {got!r:.80}")
    for name, wanted in types.items():
        if type(value[name]) is not wanted:
            raise Refused(f"{what} must have {name} as {wanted.__name__}, not {value[name]!r:.80}")


def _short_texts(value: Any) -> None:
    """Refused if a text in a description is longer than any name or word in one."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _short_texts(item)
    elif isinstance(value, str) and len(value) > _MAX_TEXT:
        raise Refused(f"its description has a text of {len(value):,} characters: {value!r:.40}")


# ---- what a file can hold -----------------------------------------------------------------------


class _Kind(Protocol):
    """A model as described by a file, before it has weights."""

    shapes: dict[str, tuple[int, ...]]  # the tensors wanted

    def __init__(self, description: dict[str, Any]): ...

    def finish(self, tensors: dict[str, np.ndarray]) -> Any:
        """The model with these weights, which have the shapes wanted."""

    @staticmethod
    def describe(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `__init__` takes, and the tensors."""


class _NetworkFile:
    """A chain of layers. Other classes of networks get a row in `_CLASSES`."""

    _CLASSES: Mapping[str, type[Sequential]] = {"Sequential": Sequential}

    def __init__(self, description: dict[str, Any]):
        what = "its network"
        _fields(
            description, what, **{"class": str}, name=str, seed=int, input_shape=list, layers=list
        )
        if description["class"] not in self._CLASSES:
            raise Refused(f"{what} has the unknown class {description['class']!r:.80}")
        if not description["name"]:
            raise Refused(f"{what} must have a name")
        layers = description["layers"]
        if not 1 <= len(layers) <= _MAX_LAYERS:
            raise Refused(f"{what} must have 1 to {_MAX_LAYERS:,} layers, it has {len(layers):,}")
        cls = self._CLASSES[description["class"]]
        network = cls([_layer(i, config) for i, config in enumerate(layers)],
                      seed=description["seed"], name=description["name"])  # fmt: skip
        network._infer(checked_shape("input_shape", description["input_shape"]))
        self.network = network
        self.shapes = {f"{layer.name}.{w.name}": w.shape for layer, w in network._weight_list()}

    def finish(self, tensors):
        network = self.network
        network._fill((i, tensors[name].reshape(-1)) for i, name in enumerate(self.shapes))
        for layer in network.layers:
            mine = {
                weight.name: tensors[f"{layer.name}.{weight.name}"] for weight in layer.weights()
            }
            layer.weights_loaded(mine)
        return network

    @classmethod
    def describe(cls, network):
        network._need_built("save")
        for layer in network.layers:
            if LAYERS.get(type(layer).__name__) is not type(layer):
                raise ValueError(
                    f"layer {layer.name!r} is a {type(layer).__module__}.{type(layer).__name__}, "
                    "and a model file can only hold layers of fastnet"
                )
        description = {
            "class": next(
                name for name, known in cls._CLASSES.items() if isinstance(network, known)
            ),
            "name": network.name,
            "seed": network.seed,
            "input_shape": list(network.input_shape),
            "layers": [layer_config(layer) for layer in network.layers],
        }
        names = [f"{layer.name}.{weight.name}" for layer, weight in network._weight_list()]
        return description, dict(zip(names, network.get_weights(), strict=True))


#: Closed: what a file can hold, and who reads it.
_KINDS: dict[str, type[_Kind]] = {"network": _NetworkFile}


def _describe(model: Any) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Kind, description and tensors of a model."""
    if not isinstance(model, tuple(_NetworkFile._CLASSES.values())):
        raise TypeError(f"save wants a network, got {model!r:.80}")
    return ("network", *_NetworkFile.describe(model))


def _skeleton(about: dict[str, Any]) -> _Kind:
    """The model that a file describes, before it has weights."""
    kind = _KINDS.get(about["kind"])
    if kind is None:
        raise Refused(
            f"it holds the unknown kind {about['kind']!r:.80}; known are {', '.join(_KINDS)}"
        )
    try:
        return kind(about["description"])
    except (Refused, MemoryError):
        raise
    except Exception as error:  # whatever a layer says about wrong arguments or shapes
        raise Refused(f"its description is wrong: {error}") from error


def _layer(i: int, config: Any) -> Any:
    """A layer from its description; Refused names its place."""
    _fields(config, f"layer {i}", **{"class": str}, name=str, config=dict)
    try:
        return layer_from_config(config)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise Refused(f"layer {i} ({config['name']!r:.40}) is wrong: {error}") from error


def _check_fit(skeleton: _Kind, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refused unless the tensors are exactly the weights wanted."""
    for name, shape in skeleton.shapes.items():
        if name not in shapes:
            raise Refused(f"tensor {name!r:.80} of shape {shape} is missing")
        if shapes[name] != shape:
            raise Refused(f"tensor {name!r:.80} must have shape {shape}, it has {shapes[name]}")
    for name in shapes:
        if name not in skeleton.shapes:
            raise Refused(f"tensor {name!r:.80} belongs to no layer")
