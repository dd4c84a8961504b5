"""What KMeans and MiniBatchKMeans share: parameters, input, exact centres, predict, transform."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import _core, check
from ..errors import ConvergenceWarning, NotFittedError
from .data import (
    Rows,
    check_directions,
    check_finite,
    feature_names,
    make_rows,
    sample_weights,
    unit,
)
from .engine import metric_name, nearest
from .parameters import Parameters
from .seeding import METHODS, called, initial_centers


@dataclass
class Settings:
    """The parameters, checked."""

    k: int
    n_init: int
    max_iter: int
    tol: float
    cosine: bool
    threads: int
    max_time: float
    max_memory: int | None
    dtype: Any
    algorithm: str = "auto"


class ClusterModel(Parameters):
    """Centres, and what follows from them alone.

    `cluster_centers_` has the dtype of X. Beside it the fit keeps the centres in float64, which
    predict, transform and score use for as long as `cluster_centers_` is what the fit left there.
    """

    _default_n_init: ClassVar[int]
    n_clusters: Any
    init: Any
    n_init: Any
    max_iter: Any
    tol: Any
    verbose: Any
    random_state: Any
    metric: Any
    n_threads: Any
    max_time: Any
    max_memory: Any
    progress: Any
    dtype: Any
    cluster_centers_: np.ndarray
    n_features_in_: int
    feature_names_in_: np.ndarray
    _exact: tuple[np.ndarray, np.ndarray]

    @contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """What raises within leaves the model as it was, parameters and all."""
        before = dict(vars(self))
        counts, rng = before.get("_counts"), before.get("_rng")  # learning changes these in place
        counts = None if counts is None else counts.copy()
        state = None if rng is None else rng.bit_generator.state
        try:
            yield
        except BaseException:
            if counts is not None:
                before["_counts"] = counts
            if rng is not None:
                rng.bit_generator.state = state
            vars(self).clear()
            vars(self).update(before)
            raise

    # ---- checks ---------------------------------------------------------------------------------

    def _settings(self) -> Settings:
        """The parameters, checked; errors say what was wanted and what came."""
        k = check.integer("n_clusters", self.n_clusters, low=1)
        if isinstance(self.init, str):
            check.choice("init", self.init, METHODS)
        n_init = self._starts()
        metric = check.choice("metric", self.metric, ("euclidean", "cosine"))
        if not (isinstance(self.progress, bool) or self.progress == "auto"):
            raise ValueError(f"progress must be True, False or 'auto', got {self.progress!r}")
        try:
            dtype = None if self.dtype is None else np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype("V")
        if dtype not in (None, np.dtype("f"), np.dtype("d")):
            raise ValueError(f"dtype must be 'float32', 'float64' or None, got {self.dtype!r}")
        memory = self.max_memory
        memory = (
            None if memory is None else min(check.integer("max_memory", memory, low=1), 1 << 60)
        )
        return Settings(
            k,
            n_init,
            min(check.integer("max_iter", self.max_iter, low=1), 1 << 60),
            check.number("tol", self.tol, low=0),
            metric == "cosine",
            self._threads(),
            np.inf if self.max_time is None else check.number("max_time", self.max_time, above=0),
            memory,
            dtype,
        )

    def _starts(self) -> int:
        """How often to begin anew, from `n_init`."""
        named = isinstance(self.init, str)
        if isinstance(self.n_init, str):
            check.choice("n_init", self.n_init, ("auto",))
            many = self.init == "random" if named else callable(self.init)
            return self._default_n_init if many else 1
        n_init = check.integer("n_init", self.n_init, low=1)
        if not named and not callable(self.init) and n_init != 1:
            warnings.warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={n_init}.",
                RuntimeWarning,
                stacklevel=4,
            )
            n_init = 1
        return n_init

    def _threads(self) -> int:
        n = self.n_threads
        return 0 if n is None else min(check.integer("n_threads", n, low=1), 64)

    def _input(self, X: Any, reset: bool, finite: bool = True) -> Rows:
        """X as rows; its features are remembered (reset), or compared with those of the fit.

        `finite`: NaN and infinity are looked for here, and not by the engine later.
        """
        names = feature_names(X)
        rows = make_rows(X, self.dtype, self.max_memory)
        self._check_values(rows, finite)
        if reset:
            self.n_features_in_ = rows.shape[1]
            if names is not None:
                self.feature_names_in_ = names
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            return rows
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        self._check_names(names)
        return rows

    def _check_values(self, rows: Rows, finite: bool) -> None:
        if finite or rows.direct is None:
            check_finite(rows)
        if self.metric == "cosine":
            check_directions(rows)

    def _check_names(self, names: np.ndarray | None) -> None:
        known = getattr(self, "feature_names_in_", None)
        if known is not None and names is not None:
            if not np.array_equal(known, names):
                raise ValueError(
                    "The feature names should match those that were passed during fit: "
                    f"wanted {list(known)!r:.200}, got {list(names)!r:.200}"
                )
        elif known is not None or names is not None:
            how = "with" if names is None else "without"
            warnings.warn(
                f"{type(self).__name__} was fitted {how} feature names, and X has "
                f"{'none' if names is None else 'some'}",
                UserWarning,
                stacklevel=5,
            )

    def _weights(self, sample_weight: Any, rows: Rows) -> np.ndarray | None:
        return sample_weights(sample_weight, len(rows))

    def _check_fitted(self) -> None:
        if not hasattr(self, "cluster_centers_"):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet: call fit first."
            )

    def _warn_converged(self, distinct: int, k: int) -> None:
        """The clusters that are not empty are fewer than asked for."""
        warnings.warn(
            f"Number of distinct clusters ({distinct}) found smaller than n_clusters ({k}). "
            "Possibly due to duplicate points in X.",
            self._convergence_warning(),
            stacklevel=4,
        )

    def _convergence_warning(self) -> type[Warning]:
        return ConvergenceWarning

    # ---- initial centres ------------------------------------------------------------------------

    def _given_centers(self, value: Any, settings: Settings, d: int) -> np.ndarray:
        """Centres that the user chose, as float64 (k, d)."""
        centers = make_rows(value, name="init").values(slice(None)).astype(np.float64)
        if centers.shape[0] != settings.k:
            raise ValueError(
                f"The shape of the initial centers {centers.shape} does not match the number of "
                f"clusters {settings.k}."
            )
        if centers.shape[1] != d:
            raise ValueError(
                f"The shape of the initial centers {centers.shape} does not match the number of "
                f"features of the data {d}."
            )
        if not np.isfinite(centers).all():
            raise ValueError("The initial centers contain NaN or infinity.")
        return centers

    def _choose_centers(
        self,
        rows: Rows,
        weights: np.ndarray | None,
        settings: Settings,
        seed: int,
        run: Any = None,
        known: np.ndarray | None = None,
    ) -> np.ndarray:
        """Initial centres as `init` wants them."""
        if isinstance(self.init, str):
            centers = initial_centers(
                rows, weights, settings.k, self.init, seed, cosine=settings.cosine,
                threads=settings.threads, run=run, known=known,
            )  # fmt: skip
        else:
            value = called(self.init, rows, settings.k, seed) if callable(self.init) else self.init
            centers = self._given_centers(value, settings, rows.shape[1])
        return unit(centers) if settings.cosine else centers

    # ---- centres --------------------------------------------------------------------------------

    def _set_centers(self, centers: np.ndarray, dtype: Any) -> None:
        """Publish centres given as float64."""
        self.cluster_centers_ = centers.astype(dtype)
        self._exact = (self.cluster_centers_.copy(), centers)
        self._n_features_out = len(centers)

    def _centers(self) -> np.ndarray:
        """The centres as float64: those of the fit, unless the user put others in their place."""
        now = np.asarray(self.cluster_centers_)
        if hasattr(self, "_exact"):
            rounded, exact = self._exact
            if now.dtype == rounded.dtype and np.array_equal(now, rounded):
                return exact
        if now.ndim != 2 or now.shape[1] != self.n_features_in_ or not len(now):
            raise ValueError(
                f"cluster_centers_ must have shape (k, {self.n_features_in_}), got {now.shape}"
            )
        if now.dtype.kind not in "fiub" or not np.isfinite(now).all():
            raise ValueError("cluster_centers_ must hold finite numbers")
        wide = np.ascontiguousarray(now, np.float64)
        return unit(wide) if self.metric == "cosine" else wide

    def _assign(self, rows: Rows, weights: np.ndarray | None = None,
                labels: np.ndarray | None = None, inertia: bool = True,
                centers: np.ndarray | None = None) -> float:  # fmt: skip
        """Nearest centres (None: the model's) of all rows; the inertia, if that is wanted."""
        cosine, threads = self.metric == "cosine", self._threads()
        centers = self._centers() if centers is None else centers
        if rows.direct is not None:
            try:
                return nearest(rows.direct, centers, labels=labels, weights=weights, cosine=cosine,
                               threads=threads, inertia=inertia)  # fmt: skip
            except ValueError:
                check_finite(rows)  # says where
                raise
        total = 0.0
        for where, block in rows.blocks():
            total += nearest(
                block, centers, labels=None if labels is None else labels[where],
                weights=None if weights is None else weights[where], cosine=cosine, threads=threads,
                inertia=inertia,
            )  # fmt: skip
        return total

    # ---- what a user calls ----------------------------------------------------------------------

    def predict(self, X: Any) -> np.ndarray:
        """The nearest centre of each row.

        Parameters
        ----------
        X : array_like or sparse matrix (n, d)

        Returns
        -------
        labels : ndarray of int32 (n,)
            The lowest of several equally near.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError, TypeError
            If X has another number of features, NaN or infinity, or is not made of numbers.
        """
        self._check_fitted()
        rows = self._input(X, reset=False, finite=False)
        labels = np.empty(len(rows), np.int32)
        self._assign(rows, labels=labels, inertia=False)
        return labels

    def transform(self, X: Any) -> np.ndarray:
        """Distances to the centres: Euclidean, or 1 - cos for metric="cosine".

        Returns
        -------
        ndarray (n, k)
            float32 for X in float32, else float64. Errors as `predict`.
        """
        self._check_fitted()
        return self._transform(self._input(X, reset=False))

    def _transform(self, rows: Rows) -> np.ndarray:
        from .engine import as_engine_reads

        centers = self._centers()
        out = np.empty((len(rows), len(centers)), rows.dtype)
        metric, threads = metric_name(self.metric == "cosine"), self._threads()
        if rows.direct is not None:
            _core.kmeans_transform(as_engine_reads(rows.direct), centers, out, metric=metric,
                                   threads=threads)  # fmt: skip
            return out
        for where, block in rows.blocks():
            _core.kmeans_transform(block, centers, out[where], metric=metric, threads=threads)
        return out

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """`fit`, then the labels of the same rows, int32 (n,)."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """`fit`, then `transform` of the same rows."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Find the centres."""
        raise NotImplementedError

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the inertia of X: the higher, the nearer the centres. Errors as `predict`."""
        self._check_fitted()
        rows = self._input(X, reset=False)
        return -self._assign(rows, weights=self._weights(sample_weight, rows))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of what `transform` gives: kmeans0, kmeans1, ..."""
        self._check_fitted()
        name = type(self).__name__.lower()
        return np.array([f"{name}{i}" for i in range(len(self.cluster_centers_))], dtype=object)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write the model to one .safetensors file, all of it or nothing; `fastnet.load` reads it.

        The labels of the training rows are not kept; an `init` that is a function, and a
        random_state that is a generator, come back as the defaults. See `fastnet.storage.save`.
        """
        from ..storage import save

        save(self, path, extra)
