"""A path over k: fits for a range of numbers of clusters, each begun from the one before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import check
from .data import Rows, unit
from .random import Seeds
from .seeding import added_centers

if TYPE_CHECKING:
    from .kmeans import KMeans

__all__ = ["KMeansPath", "silhouette"]

CRITERIA = ("silhouette", "bic")


@dataclass(eq=False)
class KMeansPath:
    """Fits for several k, and how good each is.

    Attributes
    ----------
    k : tuple of int
        In rising order.
    models : dict of int to KMeans
    inertia : ndarray (len(k),)
        Falls with k: every fit begins at the centres of the one before and some more.
    silhouette : ndarray (len(k),)
        Mean silhouette of a sample of the rows, from -1 to 1: how much nearer rows are to their own
        cluster than to the next. NaN for one cluster.
    bic : ndarray (len(k),)
        Bayesian information criterion of k round Gaussians of one common variance: less is better.
        NaN where k = n.
    criterion : "silhouette" or "bic"
    best_k : int
        The k with the highest silhouette, or the lowest BIC.

    Source: P. Rousseeuw, Silhouettes, 1987; D. Pelleg and A. Moore, X-means, 2000.
    """

    k: tuple[int, ...]
    models: dict[int, KMeans]
    inertia: np.ndarray
    silhouette: np.ndarray
    bic: np.ndarray
    criterion: str

    @property
    def best_k(self) -> int:
        scores = self.silhouette if self.criterion == "silhouette" else -self.bic
        known = np.where(np.isnan(scores), -np.inf, scores)
        return self.k[int(np.argmax(known))]

    @property
    def best(self) -> KMeans:
        """The fit with `best_k` clusters."""
        return self.models[self.best_k]

    def __repr__(self) -> str:
        lines = ["   k       inertia  silhouette           BIC"]
        best = self.best_k
        for k, inertia, s, bic in zip(self.k, self.inertia, self.silhouette, self.bic, strict=True):
            line = f"{k:4d}  {inertia:12.6g}  {s:10.4f}  {bic:12.6g}"
            lines.append(line + ("  <- best" if k == best else ""))
        return "\n".join(lines)


def fit_path(
    cls: type[KMeans],
    X: Any,
    k_range: Iterable[int],
    criterion: str,
    sample_weight: Any,
    sample_size: int,
    parameters: dict[str, Any],
) -> KMeansPath:
    """`KMeans.path`."""
    check.choice("criterion", criterion, CRITERIA)
    check.integer("sample_size", sample_size, low=2)
    if not isinstance(k_range, Iterable):
        raise TypeError(f"k_range must be several numbers, as range(2, 13), got {k_range!r}")
    ks = sorted({check.integer("k_range", k, low=1) for k in k_range})
    if not ks:
        raise ValueError("k_range has no numbers of clusters")
    for name in ("n_clusters", "init", "fixed_centers"):
        if name in parameters:
            raise ValueError(f"path chooses {name} itself; it cannot be given")
    first = cls(ks[0], **parameters)
    _, rows, weights, seeds = first._prepare(X, sample_weight)
    if len(rows) < ks[-1]:
        raise ValueError(f"n_samples={len(rows)} should be >= the largest k, {ks[-1]}.")
    cosine = first.metric == "cosine"
    sample = _sample(rows, weights, sample_size, np.random.default_rng(seeds.next()), cosine)
    models: dict[int, KMeans] = {}
    before: KMeans | None = None
    for k in ks:
        before = _fit(cls, k, before, X, rows, weights, seeds, parameters)
        models[k] = before
    n = float(len(rows) if weights is None else weights.sum())
    return KMeansPath(
        tuple(ks),
        models,
        np.array([models[k].inertia_ for k in ks]),
        np.array([silhouette(sample, _nearest(models[k], sample)) for k in ks]),
        np.array([_bic(models[k], n, rows, weights) for k in ks]),
        criterion,
    )


def _fit(
    cls: type[KMeans],
    k: int,
    before: KMeans | None,
    X: Any,
    rows: Rows,
    weights: np.ndarray | None,
    seeds: Seeds,
    parameters: dict[str, Any],
) -> KMeans:
    """A fit from the centres before and some more; from anew, too, where n_init asks for it."""
    options = parameters | {"random_state": seeds.next()}
    if before is None:
        return cls(k, **options).fit(X, sample_weight=weights)
    start = added_centers(
        rows, weights, k, seeds.next(), before._centers(), cosine=before.metric == "cosine",
        threads=before._threads(),
    )  # fmt: skip
    model = cls(k, init=start, **options | {"n_init": 1}).fit(X, sample_weight=weights)
    if parameters.get("n_init", "auto") != "auto":
        other = cls(k, **options).fit(X, sample_weight=weights)
        model = other if other.inertia_ < model.inertia_ else model
    return model


# ---- criteria -----------------------------------------------------------------------------------


def _sample(rows: Rows, weights: np.ndarray | None, size: int, rng: np.random.Generator,
            cosine: bool) -> np.ndarray:  # fmt: skip
    """At most `size` rows of weight > 0 as float64 (cosine: of length 1)."""
    candidates = np.arange(len(rows)) if weights is None else np.flatnonzero(weights > 0)
    if len(candidates) > size:
        candidates = np.sort(rng.choice(candidates, size, replace=False))
    sample = rows.values(candidates).astype(np.float64)
    return unit(sample) if cosine else sample


def _nearest(model: KMeans, sample: np.ndarray) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the sample has no feature names
        return model.predict(sample)


def silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of rows x (n, d) in clusters `labels` (n,): all n x n Euclidean distances.

    Of a row: (b - a) / max(a, b), a its mean distance to the others of its cluster, b the least
    mean distance to another cluster; 0 for a cluster of one. NaN unless there are 2 clusters or
    more.
    """
    x = np.asarray(x, np.float64) - np.mean(x, axis=0)
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return math.nan
    members = np.eye(len(sizes))[labels]
    norms = (x * x).sum(axis=1)
    total = 0.0
    for first in range(0, len(x), 512):
        rows = slice(first, first + 512)
        squares = norms[rows, None] + norms - 2 * (x[rows] @ x.T)
        squares[np.arange(len(squares)), np.arange(len(x))[rows]] = 0
        sums = np.sqrt(np.maximum(squares, 0)) @ members
        own = labels[rows]
        i = np.arange(len(own))
        a = sums[i, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[i, own] = np.inf
        b = means.min(axis=1)
        top = np.maximum(a, b)
        s = np.divide(b - a, top, out=np.zeros_like(a), where=top > 0)
        total += float(s[sizes[own] > 1].sum())
    return total / len(x)


def _bic(model: KMeans, n: float, rows: Rows, weights: np.ndarray | None) -> float:
    """-2 log likelihood + parameters log n, of round Gaussians with one variance."""
    k, d = len(model.cluster_centers_), rows.shape[1]
    if n <= k or not model.inertia_ > 0:
        return math.nan if n <= k else -math.inf
    variance = model.inertia_ / (d * (n - k))
    sizes = np.bincount(model.labels_, weights, minlength=k)
    sizes = sizes[sizes > 0]
    likelihood = (sizes * np.log(sizes / n)).sum()
    likelihood -= n * d / 2 * math.log(2 * math.pi * variance) + d * (n - k) / 2
    return -2 * likelihood + (k * d + k) * math.log(n)
