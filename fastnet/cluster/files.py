"""k-means models in model files: parameters as JSON, centres as float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._tensorfile import Refused
from .kmeans import KMeans
from .minibatch import MiniBatchKMeans

#: Closed: the classes that a file can hold.
CLASSES: Mapping[str, type[KMeans] | type[MiniBatchKMeans]] = {
    "KMeans": KMeans,
    "MiniBatchKMeans": MiniBatchKMeans,
}
_FIELDS = {"class": str, "parameters": dict, "clusters": int, "features": int, "dtype": str,
           "inertia": (float, type(None)), "n_iter": int, "n_steps": int,
           "feature_names": (list, type(None))}  # fmt: skip
#: Parameters that can be arrays; then they are tensors of these names.
_ARRAYS = ("init", "fixed_centers")


class ClusterFile:
    """A k-means model as a file describes it, before it has centres."""

    def __init__(self, description: dict[str, Any]):
        _check_fields(description)
        self.description = description
        k, d = description["clusters"], description["features"]
        if description["dtype"] not in ("float32", "float64"):
            raise Refused(f"its centers have the unknown dtype {description['dtype']!r:.40}")
        if k < 1 or d < 1 or description["n_iter"] < 0 or description["n_steps"] < 0:
            raise Refused("its numbers of clusters, features, iterations and steps are impossible")
        names = description["feature_names"]
        if names is not None and (len(names) != d or not all(isinstance(n, str) for n in names)):
            raise Refused(f"its feature_names must be {d} texts")
        cls = CLASSES[description["class"]]
        self.model = cls(**_parameters(cls, description["parameters"]))
        self.shapes: dict[str, tuple[int, ...]] = {"cluster_centers": (k, d)}
        for name in _ARRAYS:
            rows = description["parameters"].get(f"{name} rows")
            if rows is not None:
                self.shapes[name] = (_size(rows), d)
        if cls is MiniBatchKMeans:
            self.shapes["counts"] = (k,)
        self.dtypes = dict.fromkeys(self.shapes, "F64")

    def finish(self, tensors: dict[str, np.ndarray]) -> Any:
        """The model with these centres."""
        model, description = self.model, self.description
        for name in _ARRAYS:
            if name in tensors:
                setattr(model, name, tensors[name])
        model.n_features_in_ = description["features"]
        if description["feature_names"] is not None:
            model.feature_names_in_ = np.array(description["feature_names"], dtype=object)
        centers = tensors["cluster_centers"]
        if np.abs(centers).max() > np.finfo(description["dtype"]).max:
            raise Refused(f"its centers are too large for {description['dtype']}")
        model._set_centers(centers, description["dtype"])
        inertia = description["inertia"]
        model.inertia_ = math.inf if inertia is None else inertia
        model.n_iter_ = description["n_iter"]
        if isinstance(model, MiniBatchKMeans):
            if (tensors["counts"] < 0).any():
                raise Refused("tensor 'counts' holds a number below 0")
            model.n_steps_ = description["n_steps"]
            model._counts, model._since_reassign = tensors["counts"], 0
        return model

    @staticmethod
    def describe(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `__init__` takes, and the tensors."""
        model._check_fitted()
        name = next(name for name, cls in CLASSES.items() if isinstance(model, cls))
        centers = model._centers()
        tensors = {"cluster_centers": centers}
        parameters: dict[str, Any] = {}
        for key, value in model.get_params(deep=False).items():
            if key in _ARRAYS and np.ndim(value) == 2:
                tensors[key] = np.asarray(value, np.float64)
                parameters[f"{key} rows"] = len(tensors[key])
            else:
                parameters[key] = _plain(key, value)
        if name == "MiniBatchKMeans":
            tensors["counts"] = np.asarray(model._counts, np.float64)
        names = getattr(model, "feature_names_in_", None)
        inertia = float(getattr(model, "inertia_", math.inf))
        return {
            "class": name,
            "parameters": parameters,
            "clusters": centers.shape[0],
            "features": centers.shape[1],
            "dtype": str(np.result_type(model.cluster_centers_.dtype, np.float32)),
            "inertia": inertia if math.isfinite(inertia) else None,
            "n_iter": int(getattr(model, "n_iter_", 0)),
            "n_steps": int(getattr(model, "n_steps_", 0)),
            "feature_names": None if names is None else list(names),
        }, tensors


def _plain(name: str, value: Any) -> Any:
    """A parameter as JSON has it; what it cannot hold comes back as the default."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if name == "dtype" and value is not None:
        return np.dtype(value).name
    if name == "init" and not isinstance(value, str):
        return "k-means++"
    if name == "random_state" and not isinstance(value, int | None):
        return None
    return list(value) if isinstance(value, tuple) else value


def _check_fields(description: dict[str, Any]) -> None:
    if description.keys() != _FIELDS.keys():
        raise Refused(
            f"its k-means model must have {', '.join(_FIELDS)}; it has {sorted(description)!r:.80}"
        )
    for name, kinds in _FIELDS.items():
        value = description[name]
        if type(value) not in (kinds if isinstance(kinds, tuple) else (kinds,)):
            raise Refused(f"its k-means model cannot have {name} {value!r:.80}")
    if description["class"] not in CLASSES:
        raise Refused(f"its k-means model has the unknown class {description['class']!r:.80}")


def _parameters(cls: type, found: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the constructor, checked; arrays among them come later."""
    known = cls._parameter_defaults()  # type: ignore[attr-defined]
    result = {}
    for name in known:
        given, array = name in found, name in _ARRAYS and f"{name} rows" in found
        if given == array:
            raise Refused(f"its k-means model must have the parameter {name} once")
        if given:
            result[name] = found[name]
    extra = set(found) - set(known) - {f"{name} rows" for name in _ARRAYS if name in known}
    if extra:
        raise Refused(f"its k-means model has the unknown parameter {min(extra)!r:.80}")
    if not isinstance(result.get("init", ""), str):
        raise Refused(f"its k-means model cannot have init {result['init']!r:.80}")
    cls(**result)._settings()
    return result


def _size(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise Refused(f"its k-means model has an array of {value!r:.40} rows")
    return value
