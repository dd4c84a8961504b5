"""Random k-means problems from a seed, and how fastnet's answer is compared with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from reference_kmeans import lloyd, squared_distances

import fastnet as fn

KINDS = ("blobs", "noise", "grid", "duplicates")
#: n * k * d of a problem at most, so that the reference takes well below a second an iteration.
WORK = 3e7


@dataclass
class Problem:
    """Data, initial centres and parameters of one fit."""

    name: str
    x: np.ndarray
    centers: np.ndarray
    weights: np.ndarray | None
    options: dict[str, Any]


def blobs(n=300, d=5, k=4, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    return 4 * rng.standard_normal((k, d))[rng.integers(0, k, n)] + spread * rng.standard_normal(
        (n, d)
    )


def rows(rng, kind, n, d):
    """(n, d) float64."""
    if kind == "noise":
        return rng.standard_normal((n, d))
    if kind == "grid":  # ties everywhere
        return rng.integers(0, 3, (n, d)).astype(float)
    blobs = 5 * rng.standard_normal((int(rng.integers(1, 30)), d))
    x = blobs[rng.integers(0, len(blobs), n)] + rng.standard_normal((n, d))
    return x if kind == "blobs" else x[rng.integers(0, max(1, n // 3), n)]


def problem(seed: int, work: float = WORK) -> Problem:
    """The problem of a number."""
    rng = np.random.default_rng(seed)
    n = int(np.exp(rng.uniform(np.log(5), np.log(3000))))
    d = int(np.exp(rng.uniform(0, np.log(200))))
    k = int(np.exp(rng.uniform(0, np.log(n))))
    k = n if rng.random() < 0.03 else max(1, min(k, int(work / (n * d))))
    kind = KINDS[int(rng.integers(len(KINDS)))]
    x = rows(rng, kind, n, d) * np.exp(rng.uniform(-3, 3))
    if rng.random() < 0.3:
        x[:, rng.integers(d)] = 7.0
    offset = float(rng.choice([0, 0, 0, 1e2, 1e4, 1e6]))
    x = (x + offset).astype(rng.choice(["f", "d"]))
    centers = x[rng.choice(n, k, replace=False)].astype(np.float64)
    if rng.random() < 0.2:  # somewhere else: empty clusters
        centers += 3 * x.std() * rng.standard_normal((k, d))
    weights = None
    if rng.random() < 0.4:
        weights = rng.integers(0, 4, n) * rng.choice([1.0, 0.37])
        weights = weights if weights.any() else None
    options = {
        "max_iter": int(rng.choice([1, 4, 300])),
        "tol": float(rng.choice([0, 1e-4, 1e-2])),
    }
    name = f"seed {seed}: {kind}, n {n}, d {d}, k {k}, {x.dtype}, offset {offset:g}, {options}"
    return Problem(name, x, centers, weights, options)


def check_alone(problem: Problem, model: Any) -> None:
    """What holds whichever way ties went: the nearest centres, and the inertia that they make."""
    mean = problem.x.mean(axis=0, dtype=np.float64)
    x, centers = problem.x - mean, model._centers() - mean
    w = np.ones(len(x)) if problem.weights is None else problem.weights
    own = ((x - centers[model.labels_]) ** 2).sum(axis=1)
    scale = float(max((x * x).sum(axis=1).max(), (centers * centers).sum(axis=1).max()))
    noise = 1e-24 * float((problem.x.astype(np.float64) ** 2).sum(axis=1).max())
    least = squared_distances(x, centers).min(axis=1)
    assert (own <= least + 1e-12 * scale + noise).all(), f"{problem.name}: a centre is nearer"
    gap = abs(model.inertia_ - (w * own).sum())
    assert gap <= (1e-9 * scale + noise) * w.sum(), f"{problem.name}: inertia"


def check(problem: Problem, **parameters: Any) -> bool:
    """Compare a fit with the reference; False where a tie in the reference exempts it from that."""
    right = lloyd(problem.x, problem.centers, problem.weights, **problem.options)
    model = fn.KMeans(len(problem.centers), init=problem.centers, n_init=1, **problem.options)
    model.set_params(**parameters)
    model.fit(problem.x, sample_weight=problem.weights)
    if right.ties:
        check_alone(problem, model)
        return False
    wrong = np.flatnonzero(model.labels_ != right.labels)
    assert len(wrong) == 0, f"{problem.name}: {len(wrong)} labels differ, first {wrong[:5]}"
    assert model.n_iter_ == right.n_iter, f"{problem.name}: {model.n_iter_}, not {right.n_iter}"
    assert model.history_["moved"] == right.moved, problem.name
    size = np.abs(problem.x - problem.x.mean(axis=0)).max() + 1e-12 * np.abs(problem.x).max()
    centers = model._centers()
    assert np.abs(centers - right.centers).max() <= 1e-9 * size + 1e-15, problem.name
    scale = max(right.inertias[0], 1e-12 * size * size * len(problem.x))
    assert abs(model.inertia_ - right.inertia) <= 1e-9 * scale, problem.name
    return True
