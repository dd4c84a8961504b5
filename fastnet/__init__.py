"""fastnet: small and medium neural networks on ordinary CPUs, close to the processor's limit.

>>> import fastnet as fn
>>> from fastnet import layers, optimizers, callbacks, datasets
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def _load_engine() -> None:
    """Load the compiled engine: its private OpenBLAS gets one thread and our level's kernels."""
    from ._startup import openblas_environment

    with openblas_environment():
        from . import _core
    wanted = os.environ.get("FASTNET_SIMD")
    if wanted and not _core.choose_simd(wanted):
        raise ImportError(
            f"FASTNET_SIMD={wanted}: this processor can run {', '.join(_core.simd_levels())}"
        )


_load_engine()

from . import layers  # noqa: E402
from .errors import DivergenceError, ModelFileError  # noqa: E402
from .layers import Input  # noqa: E402
from .network import Network  # noqa: E402
from .sequential import Sequential  # noqa: E402
from .threads import get_num_threads, set_num_threads, threads  # noqa: E402

if TYPE_CHECKING:
    from . import (
        callbacks,
        cluster,
        datasets,
        initializers,
        losses,
        metrics,
        optimizers,
        schedules,
        zoo,
    )
    from .cluster import KMeans, MiniBatchKMeans
    from .diagnostics import doctor
    from .model import Model
    from .storage import load
    from .trainer import Trainer

#: Loaded when first used: a fast import is a promise.
_LAZY = {
    "Model": "model",
    "KMeans": "cluster",
    "MiniBatchKMeans": "cluster",
    "Trainer": "trainer",
    "load": "storage",
    "doctor": "diagnostics",
    **dict.fromkeys(
        (
            "callbacks",
            "cluster",
            "datasets",
            "initializers",
            "losses",
            "metrics",
            "optimizers",
            "schedules",
            "zoo",
        ),
        "",
    ),
}

__all__ = [
    "DivergenceError",
    "Input",
    "KMeans",
    "MiniBatchKMeans",
    "Model",
    "ModelFileError",
    "Network",
    "Sequential",
    "Trainer",
    "callbacks",
    "cluster",
    "datasets",
    "doctor",
    "get_num_threads",
    "initializers",
    "layers",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "schedules",
    "set_num_threads",
    "threads",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastnet' has no attribute {name!r}")
    module = importlib.import_module(f".{_LAZY[name] or name}", __name__)
    value = getattr(module, name) if _LAZY[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
