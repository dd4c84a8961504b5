"""k-means in plain float64 NumPy, by scikit-learn's rules: what fastnet's is compared with.

Rows x (n, d), centres (k, d), weights (n,). Everything is computed on data less its mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Distances closer than this, relative to the squared size of the data, count as a tie.
TIE = 1e-13


@dataclass
class Result:
    """What a run of `lloyd` found. `ties` counts decisions that rounding could have turned."""

    labels: np.ndarray
    centers: np.ndarray
    inertia: float
    n_iter: int
    ties: int = 0
    inertias: list[float] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)


def unit_rows(x):
    """Rows divided by their length, for the cosine metric."""
    return x / np.sqrt((x * x).sum(axis=1, keepdims=True))


def squared_distances(x, centers):
    """(n, k), each by its own difference where that fits in memory."""
    if x.shape[0] * centers.shape[0] * x.shape[1] <= 2e6:
        return ((x[:, None, :] - centers[None]) ** 2).sum(axis=2)
    products = (x * x).sum(axis=1)[:, None] - 2 * (x @ centers.T) + (centers * centers).sum(axis=1)
    return np.maximum(products, 0)


def assign(x, centers, given=True):
    """(labels, squared distances, ties): the nearest centre of each row, the lowest of equals.

    Centres that are equal bit for bit are no tie where they are given; as means of copies of one
    row (`given` False) they are equal or differ in the last bit, as rounding has it.
    """
    far = squared_distances(x, centers)
    labels = far.argmin(axis=1)
    rows = np.arange(len(x))
    scale = max(float((x * x).sum(axis=1).max(initial=0)), 1e-300)
    near = far <= far[rows, labels][:, None] + 1e-9 * scale
    ties = 0
    for i in np.flatnonzero(near.sum(axis=1) > 1):
        candidates = np.flatnonzero(near[i])
        exact = ((x[i] - centers[candidates]) ** 2).sum(axis=1)
        labels[i] = candidates[exact.argmin()]
        close = exact <= exact.min() + TIE * scale
        same = (centers[candidates[close]] == centers[labels[i]]).all()
        ties += close.sum() > 1 and not (same and given)
    return labels, ((x - centers[labels]) ** 2).sum(axis=1), ties


def relocate(x, weights, labels, distances, k, fixed, sizes):
    """(labels of the update, choices that rounding could have turned).

    Empty clusters take the rows farthest from their centres, the lowest row of equals. Rows of
    weight 0 are not there. A distance that rounding could leave of a row on its centre is none:
    `sizes` are the squared lengths of the rows before they were centred.
    """
    labels = labels.copy()
    empty = np.flatnonzero((np.bincount(labels, weights, minlength=k) == 0) & ~fixed)
    scale = max(float((x * x).sum(axis=1).max()), 1e-300)
    noise = 1e-26 * sizes
    unclear = bool(((distances > 1e-6 * noise) & (distances <= 1e4 * noise)).any())
    distances = np.where((weights > 0) & (distances > noise), distances, 0)
    if len(empty) == 0 or distances.max() == 0:
        return labels, int(len(empty) > 0 and unclear)
    if distances.max() <= 1e-24 * scale or unclear:  # zero, but for rounding
        return labels, 1
    order = np.argsort(-np.where(weights > 0, distances, -1), kind="stable")
    order = order[: (weights > 0).sum()]
    first = order[: len(empty) + 1]
    close = -np.diff(distances[first]) <= TIE * scale
    same = (x[first[:-1]] == x[first[1:]]).all(axis=1)
    same &= weights[first[:-1]] == weights[first[1:]]  # else w x / w may differ in the last bit
    moved = order[: len(empty)]
    labels[moved] = empty[: len(moved)]
    return labels, int((close & ~same).sum())


def update(x, weights, labels, distances, centers, fixed, metric, sizes):
    """(centres that follow from an assignment, choices that rounding could have turned)."""
    k = len(centers)
    labels, ties = relocate(x, weights, labels, distances, k, fixed, sizes)
    sums = np.zeros_like(centers)
    np.add.at(sums, labels, weights[:, None] * x)
    weight_sums = np.bincount(labels, weights, minlength=k)
    full = weight_sums > 0
    new = np.empty_like(centers)
    new[full] = sums[full] / weight_sums[full, None]
    new[~full] = new[weight_sums.argmax()]
    if not full.all():  # which cluster is the heaviest must not hang on rounding
        close = np.flatnonzero(weight_sums > weight_sums.max() * (1 - 1e-12))
        ties += int(len(close) > 1 and not np.array_equal(weights, np.rint(weights)))
    if metric == "cosine":
        length = np.sqrt((new * new).sum(axis=1, keepdims=True))
        new = np.where(length > 0, new / np.where(length > 0, length, 1), centers)
    new[fixed] = centers[fixed]
    return new, ties


def lloyd(x, centers, weights=None, *, max_iter=300, tol=1e-4, fixed=None, metric="euclidean"):
    """Lloyd's iterations from given centres, stopped as scikit-learn stops.

    Strict convergence is an assignment that equals the one before; else a sum of squared shifts of
    at most tol times the mean weighted variance of the columns ends it, and rows are assigned once
    more, as they are where the last update filled empty clusters. (scikit-learn takes the variance
    without the weights, and leaves labels that do not belong to centres it has just moved.)
    """
    x, centers = np.asarray(x, np.float64), np.array(centers, np.float64)
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    fixed = np.zeros(len(centers), bool) if fixed is None else np.asarray(fixed)
    mean = np.zeros(x.shape[1])
    sizes = (x * x).sum(axis=1)
    if metric == "cosine":
        x, centers = unit_rows(x), unit_rows(centers)
        sizes = np.ones(len(x))
    else:
        mean = x.mean(axis=0)
        x, centers = x - mean, centers - mean
    middle = weights @ x / weights.sum()
    limit = tol * (weights @ (x - middle) ** 2).mean() / weights.sum()
    half = 0.5 if metric == "cosine" else 1.0  # |x - c|^2 = 2 (1 - cos) for rows of length 1
    result = Result(np.full(len(x), -1), centers, np.nan, 0)
    strict = False
    for iteration in range(max_iter):
        labels, distances, ties = assign(x, centers, given=iteration == 0)
        new, more = update(x, weights, labels, distances, centers, fixed, metric, sizes)
        result.ties += ties + more
        shift = ((new - centers) ** 2).sum()
        result.inertias.append(half * (weights * distances).sum())
        result.moved.append(int((labels != result.labels).sum()))
        result.shifts.append(shift)
        result.ties += bool(limit) and abs(shift - limit) <= 1e-9 * limit
        strict = np.array_equal(labels, result.labels)
        scale = max(float((x * x).sum(axis=1).max()), 1e-300)
        result.ties += not limit and not strict and shift <= 1e-26 * scale  # zero, but for rounding
        result.labels, centers, result.n_iter = labels, new, iteration + 1
        if strict or shift <= limit:
            break
    empty = (np.bincount(result.labels, weights, minlength=len(centers)) == 0) & ~fixed
    if not strict or empty.any():
        result.labels, _, ties = assign(x, centers, given=False)
        result.ties += ties
    distances = ((x - centers[result.labels]) ** 2).sum(axis=1)
    result.inertia = half * (weights * distances).sum()
    result.centers = centers + mean
    return result


def plusplus(x, k, weights, rng, trials):
    """Greedy k-means++: of `trials` rows drawn by weight times squared distance, the best each."""
    x = np.asarray(x, np.float64)
    chosen = [int(rng.choice(len(x), p=weights / weights.sum()))]
    nearest = ((x - x[chosen[0]]) ** 2).sum(axis=1)
    for _ in range(1, k):
        mass = np.cumsum(weights * nearest)
        rows = np.minimum(np.searchsorted(mass, rng.random(trials) * mass[-1]), len(x) - 1)
        candidates = [np.minimum(nearest, ((x - x[row]) ** 2).sum(axis=1)) for row in rows]
        best = int(np.argmin([(weights * c).sum() for c in candidates]))
        chosen.append(int(rows[best]))
        nearest = candidates[best]
    return np.array(chosen)


def cost(x, centers, weights=None):
    """The weighted sum of squared distances to the nearest centre."""
    _, distances, _ = assign(np.asarray(x, np.float64), np.asarray(centers, np.float64))
    return float(distances.sum() if weights is None else (weights * distances).sum())
