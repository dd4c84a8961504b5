"""Layers describe a network; csrc/ops computes it. Keras's other spellings are aliases."""

from .base import LAYERS, Layer
from .core import (
    Activation,
    Dense,
    Dropout,
    Flatten,
    Input,
    Normalization,
    Rescale,
    Reshape,
)

Rescaling = Rescale

__all__ = [
    "LAYERS",
    "Activation",
    "Dense",
    "Dropout",
    "Flatten",
    "Input",
    "Layer",
    "Normalization",
    "Rescale",
    "Rescaling",
    "Reshape",
]
