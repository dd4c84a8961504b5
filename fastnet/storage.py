"""Model files: `save` and `load`, one .safetensors file a model.

Weights are float32 tensors named ``layer.weight`` in canonical shapes, so every tool that reads
safetensors can read them; a k-means model has its centres as float64 "cluster_centers" (k, d). All
else is one JSON text in the metadata, under "fastnet"::

    {"schema": 1, "kind": "network", "written_by": "fastnet 0.1.0", "extra": {...},
     "description": {"class": "Sequential", "name": "sequential", "seed": 0, "input_shape": [784],
                     "layers": [{"class": "Dense", "name": "dense", "config": {"units": 10}}, ...]}}

A `Model` has "inputs" (how many of its layers are inputs), "calls" ([layer, [values]], in an order
in which they can be computed) and "outputs" (values) instead of "input_shape"; values are numbered,
inputs first, then what each call gives. A nested network is a layer of class "Network" whose config
holds its description.

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
from ._networkfile import describe_network, fields, read_network, schema_of
from ._tensorfile import Header, Refused
from .cluster import files as cluster_files
from .cluster.base import ClusterModel
from .cluster.files import ClusterFile
from .errors import ModelFileError
from .network import Network

__all__ = ["Info", "info", "load", "read_extra", "save"]

#: Raised when a file of today could not be understood by the reader of yesterday. A file has the
#: lowest that can hold it: 1 for chains of layers, 2 for graphs and nested networks.
SCHEMA = 2
_KEY = "fastnet"
_MAX_TEXT = 1000  # characters of a name in a description
_MAX_MESSAGE = 500


def save(
    model: Network | ClusterModel,
    path: str | os.PathLike[str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a network or a k-means model to one .safetensors file, all of it or nothing.

    Parameters
    ----------
    model : Network, KMeans or MiniBatchKMeans
        A k-means model is fitted. A network is built: the shape of its rows is known. The
        optimizer's state is not kept. A subclass of yours is read back as the class of fastnet that
        it comes from.
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
        "schema": schema_of(description),
        "kind": kind,
        "written_by": f"fastnet {_version()}",
        "description": description,
        "extra": _json_object("extra", extra),
    }
    try:
        text = json.dumps(about, allow_nan=False, separators=(",", ":"))
        data = _tensorfile.pack(tensors, {_KEY: text})
        _check_fit(_skeleton(_parse_about(text)), _tensorfile.parse(data))
    except (Refused, ValueError, TypeError) as error:
        raise ValueError(f"{model!r:.80} cannot be saved: {_short(str(error))}") from None
    _safefile.replace(path, data)


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote: the same layers, names, seed and bits of every weight.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Sequential, Model, KMeans or MiniBatchKMeans
        Without optimizer state, and without the labels of a k-means model's training rows.

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
        _check_fit(skeleton, header)
        tensors = _tensorfile.read_tensors(file, header)
        return skeleton.finish(tensors)


@dataclass(frozen=True)
class Info:
    """What a model file holds, without its weights."""

    path: str
    size: int  # bytes
    schema: int
    kind: str  # "network" or "kmeans"
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
        _check_fit(skeleton, header)
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
    fields(
        about, "its description", schema=int, kind=str, written_by=str, description=dict, extra=dict
    )
    if type(schema) is not int or not schema_of(about["description"]) <= schema:
        raise Refused(f"it has schema {schema}, which there never was")
    _short_texts(about["description"])
    return about


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
    dtypes: dict[str, str]  # "F32" or "F64" of each

    def __init__(self, description: dict[str, Any]): ...

    def finish(self, tensors: dict[str, np.ndarray]) -> Any:
        """The model with these weights, which have the shapes wanted."""

    @staticmethod
    def describe(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `__init__` takes, and the tensors."""


class _NetworkFile:
    """A network of `_networkfile`."""

    def __init__(self, description: dict[str, Any]):
        self.network = read_network(description)
        names = self.network._weight_names()
        weights = [weight for _, weight in self.network._weight_list()]
        self.shapes = {name: w.shape for name, w in zip(names, weights, strict=True)}
        if len(self.shapes) < len(names):
            raise Refused("two of its weights have one name")
        self.dtypes = dict.fromkeys(self.shapes, "F32")

    def finish(self, tensors):
        network = self.network
        try:
            network._fill((i, tensors[name].reshape(-1)) for i, name in enumerate(self.shapes))
        except ValueError as error:
            raise Refused(f"its network cannot be computed: {error}") from None
        for path, layer in network._leaves():
            layer.weights_loaded({w.name: tensors[f"{path}.{w.name}"] for w in layer.weights()})
        return network

    @staticmethod
    def describe(network):
        network._need_built("save")
        description = describe_network(network)
        names = network._weight_names()
        if len(set(names)) < len(names):
            raise ValueError("two of its weights have one name; give layers other names")
        return description, dict(zip(names, network.get_weights(), strict=True))


#: Closed: what a file can hold, and who reads it.
_KINDS: dict[str, Any] = {"network": _NetworkFile, "kmeans": ClusterFile}


def _describe(model: Any) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Kind, description and tensors of a model."""
    if isinstance(model, tuple(cluster_files.CLASSES.values())):
        return ("kmeans", *ClusterFile.describe(model))
    if not isinstance(model, Network):
        raise TypeError(f"save wants a network or a k-means model, got {model!r:.80}")
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


def _check_fit(skeleton: _Kind, header: Header) -> None:
    """Refused unless the tensors are exactly the weights wanted."""
    shapes = header.shapes
    for name, shape in skeleton.shapes.items():
        if name not in shapes:
            raise Refused(f"tensor {name!r:.80} of shape {shape} is missing")
        if shapes[name] != shape:
            raise Refused(f"tensor {name!r:.80} must have shape {shape}, it has {shapes[name]}")
        wanted, dtype = skeleton.dtypes[name], header.dtypes[name]
        if dtype != wanted:
            raise Refused(f"tensor {name!r:.80} must have dtype {wanted}, it has {dtype!r}")
    for name in shapes:
        if name not in skeleton.shapes:
            raise Refused(f"tensor {name!r:.80} belongs to no layer")
