"""k-means by each library: the same first centres, iterations and stop rule.

Kinds: "cluster" is a fit of `iterations` with its final labels, or until nothing moves; "batches"
passes over the rows in random batches, then labels all of them; "assign" labels rows by given
centres.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from . import LABELS, Job, RefusedError, Work

KINDS = ("cluster", "batches", "assign")
SETTLES = 1000  # iterations from which a case means: until nothing moves


class Estimator(Work):
    """A model with scikit-learn's names."""

    def __init__(self, job: Job, kmeans: Any, batches: Any = None, **options: Any):
        self.job = job
        (start,) = job.weights
        options |= {"n_clusters": len(start), "init": start, "n_init": 1, "tol": 0}
        warnings.simplefilter("ignore")  # iterations that end early are what was asked for
        if job.kind == "batches":
            if batches is None:
                raise RefusedError("no mini-batches of its own")
            self.model = batches(
                batch_size=job.batch, max_iter=job.iterations, max_no_improvement=None,
                random_state=0, **options,
            )  # fmt: skip
        else:
            self.model = kmeans(max_iter=max(job.iterations, 1), **options)
        if job.kind == "assign":
            self.model.fit(job.x)  # makes what `predict` reads
            centers = start.astype(self.model.cluster_centers_.dtype)
            self.model.cluster_centers_ = centers
            if hasattr(self.model, "_onedal_estimator"):
                self.model._onedal_estimator.cluster_centers_ = centers

    def run(self) -> None:
        if self.job.kind == "assign":
            self.labels = self.model.predict(self.job.x)
        else:
            self.model.fit(self.job.x)

    def result(self) -> list[Any]:
        return [self.labels] if self.job.kind == "assign" else [self.model.cluster_centers_]


class Faiss(Work):
    """`faiss.Kmeans`, and a flat index for labels."""

    def __init__(self, job: Job):
        import faiss

        if job.kind == "batches":
            raise RefusedError("no mini-batches")
        if job.iterations >= SETTLES:
            raise RefusedError("it does all iterations that it is given")
        self.faiss, self.job = faiss, job
        (self.start,) = job.weights
        self.index = faiss.IndexFlatL2(self.start.shape[1])
        self.index.add(self.start)

    def run(self) -> None:
        job = self.job
        if job.kind == "assign":
            self.found = self.index.search(job.x, 1)[1][:, 0]
            return
        limits = {"max_points_per_centroid": len(job.x), "min_points_per_centroid": 1}
        model = self.faiss.Kmeans(
            job.x.shape[1], len(self.start), niter=job.iterations, **limits
        )  # fmt: skip
        model.train(job.x, init_centroids=self.start)
        model.index.search(job.x, 1)
        self.found = model.centroids

    def result(self) -> list[Any]:
        return [self.found]


def make_work(library: str, job: Job) -> Work:
    """Return the work of `library`; errors as `_peers.make_work`."""
    if library == "fastnet":
        from .with_fastnet import import_fastnet

        fn = import_fastnet(job)
        return Estimator(job, fn.KMeans, fn.MiniBatchKMeans, n_threads=job.threads, progress=False)
    if library == "sklearn":
        from sklearn.cluster import KMeans, MiniBatchKMeans

        return Estimator(job, KMeans, MiniBatchKMeans)
    if library == "onedal":
        from sklearnex.cluster import KMeans as Accelerated

        return Estimator(job, Accelerated)
    if library == "faiss":
        return Faiss(job)
    raise RefusedError(f"{LABELS[library]} does not cluster")


def mean_distance(job: Job, result: list[Any], max_rows: int) -> float:
    """Return the mean squared distance of the first rows to the centres of their labels, or to
    the nearest of the centres that were found."""
    x = job.x[:max_rows]
    (found,) = result
    if job.kind == "assign":
        gaps = x.astype(np.float64) - job.weights[0][found[: len(x)]]
        return float((gaps * gaps).sum(axis=1).mean())
    centers = np.asarray(found, np.float64)
    total = 0.0
    for first in range(0, len(x), 1000):
        part = x[first : first + 1000].astype(np.float64)
        far = (part * part).sum(axis=1)[:, None] - 2 * part @ centers.T
        total += float((far + (centers * centers).sum(axis=1)).min(axis=1).sum())
    return total / len(x)
