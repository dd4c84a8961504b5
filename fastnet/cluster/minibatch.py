"""MiniBatchKMeans: centres that learn from small batches, for data that come in pieces."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np

from .. import check
from .base import ClusterModel, Settings
from .data import Rows, check_finite, make_rows, unit
from .engine import Batches, nearest
from .history import History, Iterations
from .random import Seeds

__all__ = ["MiniBatchKMeans"]


class MiniBatchKMeans(ClusterModel):
    """k-means from small random batches: nearly as good as `KMeans`, in one or a few passes.

    scikit-learn's parameters, attributes and rules; beyond them those from `metric` on, as `KMeans`
    has them. A batch that would hold all rows is all rows, each once.

    Parameters
    ----------
    n_clusters : int >= 1, default 8
    init : "k-means++", "k-means||", "random", array_like (k, d) or callable, default "k-means++"
        Chosen from `init_size` random rows.
    max_iter : int >= 1, default 100
        Passes over as many rows as X has.
    batch_size : int >= 1, default 1024
    verbose : bool or int, default 0
    compute_labels : bool, default True
        Whether `fit` ends with labels and inertia of all rows.
    random_state : int >= 0, None, numpy RandomState or Generator
    tol : float >= 0, default 0.0
        Stop when a batch moves the centres at most this, squared and relative to the mean variance;
        0: never for that reason.
    max_no_improvement : int >= 1 or None, default 10
        Stop after so many batches without a better smoothed inertia.
    init_size : int >= 1 or None
        Rows that initial centres are chosen from; None: 3 * batch_size, at least 3 * n_clusters.
    n_init : int >= 1 or "auto", default "auto"
        Choices of initial centres, the best of which is used. "auto": 3 for "random" and a
        callable, else 1.
    reassignment_ratio : float >= 0, default 0.01
        Clusters that have had less than this share of the heaviest one's rows begin anew at a row
        of the batch.
    metric, n_threads, max_time, max_memory, progress, dtype
        As `KMeans`.

    Attributes
    ----------
    cluster_centers_, labels_, inertia_, n_features_in_, feature_names_in_, history_
        As `KMeans`; `history_` has the mean inertia of each batch and the shift of the centres.
    n_iter_, n_steps_ : int
        Passes over as many rows as X has, and batches.

    Source: D. Sculley, Web-scale k-means clustering, 2010; scikit-learn's variant of it.
    """

    _default_n_init = 3
    labels_: np.ndarray
    inertia_: float
    n_iter_: int
    n_steps_: int
    _counts: np.ndarray
    _rng: np.random.Generator
    _since_reassign: int

    def __init__(
        self,
        n_clusters=8,
        *,
        init="k-means++",
        max_iter=100,
        batch_size=1024,
        verbose=0,
        compute_labels=True,
        random_state=None,
        tol=0.0,
        max_no_improvement=10,
        init_size=None,
        n_init="auto",
        reassignment_ratio=0.01,
        metric="euclidean",
        n_threads=None,
        max_time=None,
        max_memory=None,
        progress="auto",
        dtype=None,
    ):
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.metric = metric
        self.n_threads = n_threads
        self.max_time = max_time
        self.max_memory = max_memory
        self.progress = progress
        self.dtype = dtype

    # ---- fit ------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Find the centres of X from random batches of its rows, drawn by weight.

        Parameters, errors and Ctrl-C as `KMeans.fit`.
        """
        with self._restored_on_error():
            settings = self._settings()
            seeds = Seeds(self.random_state)
            # where all rows get labels in the end, NaN and infinity show on the way
            rows = self._input(X, reset=True, finite=not self.compute_labels)
            weights = self._weights(sample_weight, rows)
            self._check_rows(rows, settings)
            self._rng = np.random.default_rng(seeds.next())
            self._counts, self._since_reassign = np.zeros(settings.k), 0
            try:
                centers = self._best_start(rows, weights, settings)
                learning = _Learning(self, rows, weights, settings, centers)
                learning.run()
                labels, inertia = self._labels(rows, weights, learning, settings)
            except ValueError:
                check_finite(rows)  # says where
                raise
            self._set_centers(learning.centers, rows.dtype)
            self.history_, self.n_steps_ = learning.history, learning.steps
            self.n_iter_ = math.ceil(learning.steps * learning.batch / len(rows))
            self.inertia_ = inertia
            if labels is not None:
                self.labels_ = labels
        return self

    def _labels(
        self, rows: Rows, weights: np.ndarray | None, learning: _Learning, settings: Settings
    ) -> tuple[np.ndarray | None, float]:
        """Labels of all rows and their inertia; or none, and the inertia that the batches tell."""
        if not self.compute_labels:
            total = float(len(rows) if weights is None else weights.sum())
            return None, (learning.smooth or 0.0) * total
        labels = np.empty(len(rows), np.int32)
        return labels, self._assign(rows, weights, labels, centers=learning.centers)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Learn from one batch, all of X. The first call chooses initial centres among its rows.

        Parameters and errors as `KMeans.fit`.
        """
        with self._restored_on_error():
            first = not hasattr(self, "cluster_centers_")
            settings = self._settings()
            rows = self._input(X, reset=first, finite=first)  # later the engine looks for NaN
            weights = self._weights(sample_weight, rows)
            if first:
                self._check_rows(rows, settings)
            if not hasattr(self, "_rng"):
                self._rng = np.random.default_rng(Seeds(self.random_state).next())
            if first:
                self._counts, self._since_reassign = np.zeros(settings.k), 0
                centers = self._start(rows, weights, settings)
                self._set_centers(centers, rows.dtype)
            centers = self._centers().copy()
            batches = Batches(rows, weights, len(centers), batch=None, cosine=settings.cosine,
                              threads=settings.threads)  # fmt: skip
            try:
                self._learn(batches, None, centers)
            except ValueError:
                check_finite(rows)  # says where
                raise
            self._set_centers(centers, self.cluster_centers_.dtype)
            self.n_steps_ = getattr(self, "n_steps_", 0) + 1
            if self.compute_labels:
                labels = np.empty(len(rows), np.int32)
                inertia = batches.relabel(centers, labels)
                self.inertia_ = self._assign(rows, weights, labels) if inertia is None else inertia
                self.labels_ = labels
        return self

    def _settings(self) -> Settings:
        settings = super()._settings()
        check.integer("batch_size", self.batch_size, low=1)
        check.number("reassignment_ratio", self.reassignment_ratio, low=0)
        if self.max_no_improvement is not None:
            check.integer("max_no_improvement", self.max_no_improvement, low=0)
        if self.init_size is not None:
            check.integer("init_size", self.init_size, low=1)
        return settings

    def _check_rows(self, rows: Rows, settings: Settings) -> None:
        if len(rows) < settings.k:
            raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={settings.k}.")

    # ---- initial centres ------------------------------------------------------------------------

    def _init_rows(self, n: int, settings: Settings) -> int:
        """How many rows initial centres are chosen from."""
        k = settings.k
        if self.init_size is None:
            size = 3 * min(self.batch_size, n)
            return min(size if size >= k else 3 * k, n)
        size = check.integer("init_size", self.init_size, low=1)
        if size < k:
            warnings.warn(
                f"init_size={size} should be larger than n_clusters={k}. Setting it to "
                "min(3*n_clusters, n_samples)",
                RuntimeWarning,
                stacklevel=5,
            )
            size = 3 * k
        return min(size, n)

    def _sample(self, rows: Rows, weights: np.ndarray | None, size: int) -> tuple[Rows, Any]:
        """Random rows of weight > 0, or all of them where that is no more."""
        if size >= len(rows):
            return rows, weights
        if weights is None:
            picked = self._rng.integers(0, len(rows), size)
        else:
            picked = self._rng.choice(np.flatnonzero(weights > 0), size)
        values = rows.source[picked] if rows.sparse else rows.values(picked)
        part = make_rows(values, None if values.dtype == rows.dtype else rows.dtype)
        return part, None if weights is None else np.ascontiguousarray(weights[picked])

    def _start(self, rows: Rows, weights: np.ndarray | None, settings: Settings) -> np.ndarray:
        if not isinstance(self.init, str) and not callable(self.init):
            return self._choose_centers(rows, weights, settings, 0)  # given: no rows are needed
        part, part_weights = self._sample(rows, weights, self._init_rows(len(rows), settings))
        return self._choose_centers(part, part_weights, settings, int(self._rng.integers(2**63)))

    def _best_start(self, rows: Rows, weights: np.ndarray | None, settings: Settings) -> np.ndarray:
        """Of n_init choices the one with the least inertia on some rows."""
        if settings.n_init == 1:
            return self._start(rows, weights, settings)
        judges, judge_weights = self._sample(rows, weights, self._init_rows(len(rows), settings))
        best, least = None, np.inf
        for i in range(settings.n_init):
            centers = self._start(rows, weights, settings)
            inertia = 0.0
            for where, block in judges.blocks():
                w = None if judge_weights is None else judge_weights[where]
                inertia += nearest(block, centers, weights=w, cosine=settings.cosine,
                                   threads=settings.threads)  # fmt: skip
            if self.verbose:
                print(f"Inertia for init {i + 1}/{settings.n_init}: {inertia}")
            if best is None or inertia < least:
                best, least = centers, inertia
        assert best is not None
        return best

    # ---- a step ---------------------------------------------------------------------------------

    def _learn(
        self, batches: Batches, picked: np.ndarray | None, centers: np.ndarray
    ) -> tuple[float, float]:
        """Learn from rows `picked`, None for all: the inertia before, and the squared shift."""
        inertia, shift = batches.learn(picked, centers, self._counts)
        if self._reassign(batches, picked, centers):
            shift = batches.shift(centers)
        return inertia, shift

    def _reassign(self, batches: Batches, picked: np.ndarray | None, centers: np.ndarray) -> bool:
        """Now and then, clusters that hardly get any rows begin anew at one of the batch."""
        rows, weights, counts = batches.rows, batches.weights, self._counts
        n = len(rows) if picked is None else len(picked)
        self._since_reassign += n
        due = self._since_reassign >= 10 * len(centers) or not counts.all()
        if not due or not self.reassignment_ratio > 0:
            return False
        self._since_reassign = 0
        poor = counts < self.reassignment_ratio * counts.max()
        if not poor.any():
            return False
        most = n // 2
        if poor.sum() > most:
            poor[np.argsort(counts, kind="stable")[most:]] = False
        candidates = np.arange(n) if weights is None else np.flatnonzero(weights > 0)
        chosen = np.flatnonzero(poor)[: len(candidates)]
        if not len(chosen):
            return False
        if self.verbose:
            print(f"[MiniBatchKMeans] Reassigning {len(chosen)} cluster centers.")
        places = self._rng.choice(candidates, len(chosen), replace=False)
        values = rows.values(places if picked is None else picked[places])
        centers[chosen] = unit(values.astype(np.float64)) if batches.cosine else values
        rest = np.ones(len(centers), bool)
        rest[chosen] = False
        counts[chosen] = counts[rest].min()
        return True


class _Learning:
    """The steps of a fit, and when they end."""

    def __init__(self, model: MiniBatchKMeans, rows: Rows, weights: np.ndarray | None,
                 settings: Settings, centers: np.ndarray):  # fmt: skip
        self.model, self.rows, self.weights, self.settings = model, rows, weights, settings
        self.centers, self.history, self.steps = centers.copy(), History(), 0
        self.batch = min(model.batch_size, len(rows))
        self.total = float(len(rows) if weights is None else weights.sum())
        whole = self.batch == len(rows)
        self.batches = Batches(
            rows, weights if whole else None, len(centers), batch=None if whole else self.batch,
            cosine=settings.cosine, threads=settings.threads,
        )  # fmt: skip
        self.all_steps = max(1, settings.max_iter * len(rows) // self.batch)
        self.smooth: float | None = None
        self.least, self.waited = np.inf, 0
        self.tolerance = settings.tol * self._variance() if settings.tol else 0.0
        self.sums = None if weights is None else np.cumsum(weights)
        self.last = len(rows) - 1 if weights is None else int(np.flatnonzero(weights)[-1])

    def _variance(self) -> float:
        from .engine import mean_variance

        return mean_variance(self.rows.blocks, self.weights, self.settings.cosine,
                             self.settings.threads)  # fmt: skip

    def run(self) -> None:
        begin = time.perf_counter()
        progress = Iterations(self.model.progress, 1, self.all_steps)
        try:
            while not self.history.stopped:
                self._step()
                progress.update(1, 0, lambda: {"inertia": self.history["inertia"][-1]})
                if time.perf_counter() - begin >= self.settings.max_time:
                    self.history.stopped = self.history.stopped or "max_time"
        except KeyboardInterrupt:
            if not self.steps:
                raise
            self.history.stopped = "interrupted"
        finally:
            progress.close()
            self.history.seconds = time.perf_counter() - begin
        if self.history.interrupted:
            warnings.warn(
                f"fit was interrupted after {self.steps} batches; the model keeps the centers "
                "it has learned",
                RuntimeWarning,
                stacklevel=4,
            )

    def _step(self) -> None:
        """A batch; whether it was the last stands in history.stopped."""
        whole = self.batches.batch is None
        mass = self.total if whole else float(self.batch)
        picked = None if whole else self._draw()
        inertia, shift = self.model._learn(self.batches, picked, self.centers)
        self.steps += 1
        self.history.append(inertia=inertia / mass, shift=shift)
        self.history.stopped = self._stop(inertia / mass, shift)
        if self.model.verbose:
            print(f"Minibatch step {self.steps}/{self.all_steps}: mean batch inertia: "
                  f"{inertia / mass}, ewa inertia: {self.smooth}")  # fmt: skip

    def _draw(self) -> np.ndarray:
        """Numbers of the rows of a batch, by weight, with repetition."""
        rng, n = self.model._rng, len(self.rows)
        if self.sums is None:
            return rng.integers(0, n, self.batch)
        at = rng.random(self.batch) * self.sums[-1]
        return np.minimum(np.searchsorted(self.sums, at, side="right"), self.last)

    def _stop(self, inertia: float, shift: float) -> str:
        """Why to stop after this batch, or nothing."""
        end = "max_iter" if self.steps >= self.all_steps else ""
        if self.steps == 1:  # its inertia is that of the initial centres
            return end
        share = min(1.0, 2 * self.batch / (len(self.rows) + 1))
        if self.smooth is None:
            self.smooth = inertia
        else:
            self.smooth = self.smooth * (1 - share) + inertia * share
        if self.tolerance > 0 and shift <= self.tolerance:
            return "tol"
        self.waited = 0 if self.smooth < self.least else self.waited + 1
        self.least = min(self.least, self.smooth)
        most = self.model.max_no_improvement
        return "no_improvement" if most is not None and self.waited >= most else end
