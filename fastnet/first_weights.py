"""The weights that a network begins with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from .layers import Layer

if TYPE_CHECKING:
    from .network import Network


def first_weights(network: Network) -> Iterator[tuple[int, np.ndarray]]:
    """Initial values of every weight, from the seed and the weight's place alone. Layers that
    another network has trained come with what it made of them."""
    number = 0
    for _, layer in network._leaves():
        home = layer.network
        for weight, known in zip(layer.weights(), _weights_in(home, network, layer), strict=False):
            if known is not None:
                yield number, known
                number += 1
                continue
            key = np.array([network.seed, number], np.uint64)
            values = weight.initializer(
                weight.shape, np.random.Generator(np.random.Philox(key=key))
            )
            yield number, np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
            number += 1


def _values(home: Network, layer: Layer) -> list[np.ndarray]:
    """A layer's weights in a network, flat."""
    return home._flat(home._numbers(layer))


def _weights_in(home: Network | None, new: Network, layer: Layer) -> Iterable[np.ndarray | None]:
    """A layer's weights in the network that has them, or None for each that is to be drawn."""
    if home is None or home is new or not home.built:
        return itertools.repeat(None)
    return _values(home, layer)
