"""A model file as the commands see it: the network, and what its numbers mean."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .common import UsageError, note

if TYPE_CHECKING:
    from ..network import Network

CLASSES, NUMBERS = "classification", "regression"
PREPARE = ("mnist", "digits", "pad", "stretch")


@dataclass
class Card:
    """What a model file says of its network, beside the layers.

    Attributes
    ----------
    task : "classification" or "regression"
    classes : list of str
        Names of the classes, in the order of the outputs; empty for numbers.
    pixels : float or None
        What full ink is in the network's input: 255 or 1; None where rows are no images.
    label, feature_names : str, list of str; None if not known
        Columns of the table that it was trained on.
    data : str
        The data set's name.
    prepare : str, one of `PREPARE`
        What a picture is made into before the model sees it: "mnist" and "digits" fit a drawing as
        those data sets have them, "pad" keeps proportions, "stretch" does not.
    training : dict
        How it was trained and what came out, for `fastnet info`.
    """

    task: str
    classes: list[str] = field(default_factory=list)
    pixels: float | None = None
    label: str | None = None
    feature_names: list[str] | None = None
    data: str = ""
    prepare: str = "pad"
    training: dict[str, Any] = field(default_factory=dict)

    def to_extra(self, input_shape: tuple[int, ...]) -> dict[str, Any]:
        """As `storage.save` keeps it."""
        return {"input_shape": list(input_shape), **asdict(self)}


def open_model(path: str) -> tuple[Network, Card]:
    """Load a model file. What it does not say of itself is told from the network."""
    from ..storage import load, read_extra

    network = load(path)
    if not hasattr(network, "layers"):
        raise UsageError(f"{path}: it holds k-means centers, a network is wanted")
    if has_branches(network):
        raise UsageError(
            f"{path} has the inputs {', '.join(network.input_names)} and the outputs "
            f"{', '.join(network.output_names)}: use it from Python, fn.load(...).predict(...)"
        )
    return network, read_card(read_extra(path), network)


def has_branches(network: Network) -> bool:
    """Whether it has several inputs or outputs, which commands know no files for."""
    return len(network.input_names) > 1 or len(network.output_names) > 1


def _last_activation(network: Network) -> str:
    from ..outputs import last_activation

    return last_activation(network, 0)[0]


def read_card(extra: dict[str, Any], network: Any) -> Card:
    """A card from a model file's metadata, of which nothing is taken on trust."""
    outputs = network.output_shape[-1]
    last = _last_activation(network)
    guess = CLASSES if last == "softmax" or (last == "sigmoid" and outputs == 1) else NUMBERS
    asked = extra.get("task")
    task: str = asked if isinstance(asked, str) and asked in (CLASSES, NUMBERS) else guess
    classes: list[str] = []
    if task == CLASSES:
        classes = _texts(extra.get("classes"))
        if len(classes) != max(outputs, 2):
            classes = [str(i) for i in range(max(outputs, 2))]
    pixels = extra.get("pixels", _guess_pixels(network))
    names = _texts(extra.get("feature_names"))
    label, data, training = (extra.get(key) for key in ("label", "data", "training"))
    prepare = extra.get("prepare", data if data in ("mnist", "digits") else "pad")
    return Card(
        task,
        classes,
        pixels if pixels in (1, 255) else None,
        label if isinstance(label, str) else None,
        names if len(names) == math.prod(network.input_shape) else None,
        data if isinstance(data, str) else "",
        prepare if isinstance(prepare, str) and prepare in PREPARE else "pad",
        training if isinstance(training, dict) else {},
    )


def _texts(value: Any) -> list[str]:
    """A list of texts as it is; an empty one for anything else."""
    fits = isinstance(value, list) and all(isinstance(v, str) for v in value)
    return value if fits else []


def _guess_pixels(network: Any) -> float | None:
    """For networks saved by `net.save`: a Rescale in front tells the range of its pixels."""
    for layer in network.layers:
        scale = getattr(layer, "scale", None)
        if scale is not None:
            return 255.0 if abs(scale) < 0.02 else 1.0  # 1/255, 1/127.5
    return 1.0 if len(network.input_shape) > 1 else None


# ---- rows for a network -------------------------------------------------------------------------


def as_rows(x: np.ndarray, network: Any, card: Card, where: str) -> np.ndarray:
    """An array from a file as rows of the network: shape, and range of pixels."""
    shape = network.input_shape
    values = math.prod(shape)
    single = x.shape == shape or (x.ndim == 1 and len(x) == values > 1)
    if single:
        x = x[None]
    if x.ndim == 0 or math.prod(x.shape[1:]) != values:
        got = x.shape if single or x.ndim < 2 else x.shape[1:]
        raise UsageError(f"{where}: the model wants rows of shape {shape}, got {got}")
    x = x.reshape(len(x), *shape)
    if card.pixels is None or not x.size or x.dtype.kind == "b":
        return x
    low, high = float(x.min()), float(x.max())
    if card.pixels == 255 and x.dtype.kind == "f" and low >= 0 and 0 < high <= 1:
        note(f"{where}: pixels from 0 to 1 are taken times 255, as the model was trained")
        return x * np.float32(255)
    if card.pixels == 1 and high > 1 and low >= 0 and high <= 255:
        note(f"{where}: pixels from 0 to 255 are divided by 255, as the model was trained")
        return x / np.float32(255)
    return x


def scores(outputs: np.ndarray, network: Network, card: Card) -> np.ndarray:
    """A classifier's outputs as one probability a class, (n, classes)."""
    outputs = outputs.reshape(len(outputs), -1).astype(np.float64)
    last = _last_activation(network)
    if outputs.shape[1] == 1:
        p = outputs if last == "sigmoid" else 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))
        return np.concatenate([1 - p, p], axis=1)
    if last != "linear":
        return outputs
    outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return outputs / outputs.sum(axis=1, keepdims=True)
