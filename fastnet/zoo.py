"""Networks that come trained with fastnet, as model files in the package.

mnist-cnn   28 x 28 grey digits, uint8 -> 10 classes; trained by examples/train_mnist_cnn.py
"""

from __future__ import annotations

from pathlib import Path

from . import check
from .network import Network
from .storage import load as _load

__all__ = ["load", "names", "path"]

_FOLDER = Path(__file__).parent / "data"
_NAMES = ("mnist-cnn",)


def names() -> list[str]:
    """The names of all networks."""
    return list(_NAMES)


def path(name: str) -> Path:
    """Where a network's model file is.

    Raises
    ------
    ValueError, TypeError
        For an unknown name.
    """
    return _FOLDER / f"{check.choice('network', name, _NAMES)}.safetensors"


def load(name: str) -> Network:
    """A trained network by name; a new one at each call, ready to predict or to be trained on.

    Parameters
    ----------
    name : str
        "mnist-cnn": a convolutional network for handwritten digits. It takes uint8 images (n, 28,
        28) as `datasets.load_mnist` gives them (0 paper, 255 ink) and gives ten probabilities.

    Returns
    -------
    Network

    Raises
    ------
    ValueError, TypeError
        For an unknown name.

    Examples
    --------
    >>> net = fn.zoo.load("mnist-cnn")
    >>> net.predict_classes(x_test[:10])
    """
    return _load(path(name))
