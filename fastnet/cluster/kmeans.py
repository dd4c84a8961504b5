"""KMeans: scikit-learn's class, exact and fast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import check
from .base import ClusterModel, Settings
from .data import Rows
from .fitting import Fit
from .random import Seeds
from .statistics import Statistics, statistics_of

if TYPE_CHECKING:
    from .path import KMeansPath

__all__ = ["KMeans"]

#: "elkan" is scikit-learn's name for skipping distances by bounds, which "auto" does.
ALGORITHMS = {"auto": "auto", "elkan": "auto", "lloyd": "lloyd", "hamerly": "hamerly",
              "projected": "projected"}  # fmt: skip


class KMeans(ClusterModel):
    """k-means clustering: k centres that minimise the sum of squared distances to the nearest one.

    Lloyd's algorithm, exact: labels and centres are those of float64 arithmetic, whatever work
    bounds have saved, and do not depend on the number of threads. scikit-learn's parameters,
    attributes and rules (stopping, empty clusters, ties to the lowest index); beyond them those
    from `metric` on.

    Parameters
    ----------
    n_clusters : int >= 1, default 8
    init : "k-means++", "k-means||", "random", array_like (k, d) or callable, default "k-means++"
        "k-means++" is greedy, as scikit-learn's. A callable gets ``(X, n_clusters,
        random_state=RandomState)`` and returns centres (k, d).
    n_init : int >= 1 or "auto", default "auto"
        Starts, of which the one with the least inertia counts. "auto": 10 for "random" and a
        callable, else 1.
    max_iter : int >= 1, default 300
    tol : float >= 0, default 1e-4
        An iteration whose centres move at most this, squared and relative to the mean variance of
        the features (weighted by sample_weight), is the last. Without it only an iteration that
        changes no label is.
    verbose : bool or int, default 0
        Print a line an iteration.
    random_state : int >= 0, None, numpy RandomState or Generator
    copy_x : bool, default True
        Ignored: X is never changed.
    algorithm : "auto", "lloyd", "elkan", "hamerly" or "projected", default "auto"
        How work is skipped; the results are the same. "elkan" means "auto".
    metric : "euclidean" or "cosine", default "euclidean"
        "cosine": rows and centres are scaled to length 1; distances are 1 - cos.
    n_threads : int >= 1 or None
        None: what `fastnet.get_num_threads` says.
    max_time : float > 0 or None
        Seconds after which the fit ends with the best centres so far, one iteration at least.
    max_memory : int >= 1 or None
        Bytes that projections of the rows and bounds of groups of centres, and a converted copy of
        X, may take. What a fit takes beside: 16 bytes a row, and 4 for each candidate while
        k-means++ runs.
    progress : bool or "auto", default "auto"
        A tqdm bar; "auto" shows it after a second and only on a terminal or in a notebook.
    fixed_centers : array_like or None
        Centres that stay where they are. (m, d): these m centres are the first ones, and `init`
        chooses the others. Of one axis, with an array as `init`: the numbers of its rows that stay,
        or a bool for each.
    dtype : "float32", "float64" or None
        What to compute from. None reads X as it is: float32 in place, float64 in place.

    Attributes
    ----------
    cluster_centers_ : ndarray (k, d), of X's dtype (float64 for integers)
        Centres in float64 are kept beside it and used for as long as you do not change it.
    labels_ : ndarray of int32 (n,)
        The nearest of the final centres.
    inertia_ : float
        Sum of squared distances (cosine: of 1 - cos) to them, by weight.
    n_iter_, n_features_in_ : int
    feature_names_in_ : ndarray of str (d,)
        Where X was a data frame.
    history_ : History
        Inertia, moved rows, shift of the centres, distances computed and saved, an iteration.

    Source: S. Lloyd, Least squares quantization in PCM, 1982; D. Arthur and S. Vassilvitskii,
    k-means++, 2007. Kernel: csrc/kmeans.
    """

    _default_n_init = 10
    labels_: np.ndarray
    inertia_: float
    n_iter_: int

    def __init__(
        self,
        n_clusters=8,
        *,
        init="k-means++",
        n_init="auto",
        max_iter=300,
        tol=1e-4,
        verbose=0,
        random_state=None,
        copy_x=True,
        algorithm="auto",
        metric="euclidean",
        n_threads=None,
        max_time=None,
        max_memory=None,
        progress="auto",
        fixed_centers=None,
        dtype=None,
    ):
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.metric = metric
        self.n_threads = n_threads
        self.max_time = max_time
        self.max_memory = max_memory
        self.progress = progress
        self.fixed_centers = fixed_centers
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Find the centres of X.

        Parameters
        ----------
        X : array_like or sparse matrix (n, d)
            float32 and float64 are read where they lie, with rows any distance apart; integers and
            bool are converted once, memory-mapped files of them in blocks; sparse matrices stay
            sparse. Never changed; may be read-only.
        y : ignored
        sample_weight : array_like (n,) or None
            Finite and >= 0. A row of weight 0 has a label and counts for nothing.

        Returns
        -------
        KMeans
            Itself.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is wrong: what was wanted and what came; for NaN or infinity the row
            and column.

        Notes
        -----
        A fit that raises leaves the model as it was.

        Ctrl-C ends the fit with the best centres so far and a RuntimeWarning; before the first
        iteration it raises KeyboardInterrupt.
        """
        with self._restored_on_error():
            settings, rows, weights, seeds = self._prepare(X, sample_weight, finite=False)
            best = Fit(self, rows, weights, settings).all(seeds)
            assert best.labels is not None
            self._set_centers(best.centers, rows.dtype)
            self.labels_, self.inertia_ = best.labels, best.inertia
            self.n_iter_, self.history_ = best.n_iter, best.history
            distinct = int((np.bincount(best.labels, minlength=settings.k) > 0).sum())
            if distinct < settings.k:
                self._warn_converged(distinct, settings.k)
        return self

    def _settings(self) -> Settings:
        settings = super()._settings()
        settings.algorithm = ALGORITHMS[check.choice("algorithm", self.algorithm, ALGORITHMS)]
        return settings

    def _prepare(
        self, X: Any, sample_weight: Any, finite: bool = True
    ) -> tuple[Settings, Rows, np.ndarray | None, Seeds]:
        """Everything checked, before any work."""
        settings = self._settings()
        seeds = Seeds(self.random_state)
        rows = self._input(X, reset=True, finite=finite)
        if len(rows) < settings.k:
            raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={settings.k}.")
        return settings, rows, self._weights(sample_weight, rows), seeds

    # ---- centres that stay ----------------------------------------------------------------------

    def _fixed(self, settings: Settings, d: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(centres known from the start, which of all stay), from `fixed_centers`."""
        if self.fixed_centers is None:
            return None, None
        value, k = check.array("fixed_centers", self.fixed_centers), settings.k
        mask = np.zeros(k, bool)
        if value.ndim == 2:
            if not isinstance(self.init, str):
                raise ValueError("fixed_centers of two axes wants init to be a name, not centers")
            if not 1 <= len(value) <= k or value.shape[1] != d:
                raise ValueError(
                    f"fixed_centers must have shape (m, {d}) with m from 1 to {k}, "
                    f"got {value.shape}"
                )
            known = check.array("fixed_centers", value).astype(np.float64)
            if not np.isfinite(known).all():
                raise ValueError("fixed_centers contain NaN or infinity")
            mask[: len(known)] = True
            return np.ascontiguousarray(known), mask
        if isinstance(self.init, str) or callable(self.init):
            raise ValueError(
                "fixed_centers of one axis are rows of the centers given as init; "
                f"init is {self.init!r:.40}"
            )
        if value.dtype == bool and value.shape == (k,):
            return None, value.copy()
        if value.ndim == 1 and value.dtype.kind in "iu" and ((value >= 0) & (value < k)).all():
            mask[value] = True
            return None, mask
        raise ValueError(
            f"fixed_centers must be numbers of centers from 0 to {k - 1}, {k} bools, or centers "
            f"(m, {d}), got {value.dtype} of shape {value.shape}"
        )

    # ---- one fit of several processes -----------------------------------------------------------

    def initialize(self, X: Any, sample_weight: Any = None) -> KMeans:
        """Choose initial centres from X and nothing more: how a fit of several processes begins.

        X may be a sample of the data. Parameters and errors as `fit`.
        """
        with self._restored_on_error():
            settings, rows, weights, seeds = self._prepare(X, sample_weight)
            known, _ = self._fixed(settings, rows.shape[1])
            centers = self._choose_centers(rows, weights, settings, seeds.next(), None, known)
            self._set_centers(centers, rows.dtype)
            self.n_iter_, self.inertia_ = 0, np.inf
        return self

    def partial_stats(self, X: Any, sample_weight: Any = None) -> Statistics:
        """What a Lloyd step must know of these rows: assigned to the centres, and summed up.

        The result can be pickled and sent; `fastnet.cluster.merge` adds several up, and `update`
        makes the step. Parameters and errors as `predict`.

        Returns
        -------
        Statistics
        """
        self._check_fitted()
        rows = self._input(X, reset=False)
        cosine = self.metric == "cosine"
        return statistics_of(rows, self._weights(sample_weight, rows), self._centers(),
                             cosine=cosine, threads=self._threads())  # fmt: skip

    def update(self, stats: Statistics | Iterable[Statistics]) -> bool:
        """Make one exact Lloyd step from the statistics of all rows.

        Parameters
        ----------
        stats : Statistics, or several to be merged
            From `partial_stats` with the present centres.

        Returns
        -------
        bool
            Whether the centres have converged: they moved at most `tol`, as in `fit`, or not at
            all. `n_iter_` counts the steps; `inertia_` is that of the centres before this step.

        Raises
        ------
        ValueError
            If the statistics are of other centres.
        """
        from .statistics import merge

        self._check_fitted()
        stats = stats if isinstance(stats, Statistics) else merge(stats)
        before = self._centers()
        if not np.array_equal(stats.centers, before):
            raise ValueError("the statistics belong to other centers than the model has now")
        settings = self._settings()
        _, fixed = self._fixed(settings, before.shape[1])
        after = stats.step(fixed, settings.cosine)
        self._set_centers(after, self.cluster_centers_.dtype)
        self.n_iter_ = getattr(self, "n_iter_", 0) + 1
        self.inertia_ = stats.inertia
        shift = float(((after - before) ** 2).sum())
        return shift <= settings.tol * stats.variance

    # ---- choosing k -----------------------------------------------------------------------------

    @classmethod
    def path(
        cls,
        X: Any,
        k_range: Iterable[int],
        *,
        criterion: str = "silhouette",
        sample_weight: Any = None,
        sample_size: int = 2000,
        **parameters: Any,
    ) -> KMeansPath:
        """Fit every k of a range, each from the centres of the one before, and compare them.

        Parameters
        ----------
        X, sample_weight
            As `fit`.
        k_range : iterable of int >= 1
        criterion : "silhouette" or "bic", default "silhouette"
            What `best_k` goes by.
        sample_size : int >= 2, default 2000
            Rows that the silhouette is computed from, which takes the square of it in time.
        **parameters
            Of the models: `random_state`, `metric`, ... With an `n_init`, every k is also begun
            anew so many times, and the better fit stays.

        Returns
        -------
        KMeansPath
        """
        from .path import fit_path

        return fit_path(cls, X, k_range, criterion, sample_weight, sample_size, parameters)
