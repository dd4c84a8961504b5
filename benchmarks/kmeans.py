"""Time k-means against scikit-learn, oneDAL and faiss: same first centres, iterations, threads.

    python benchmarks/kmeans.py [--threads N] [case ...]      cases: see CASES; default all

Each library runs in a process of its own, which keeps their thread pools apart, and prints the
least of two runs: a whole fit, setup and final labels included. Inertias are printed, because a
fast wrong answer is none; faiss stops at its own last centres and is a fraction off.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

# name -> (rows, columns, blobs) or MNIST; k; iterations
CASES = {
    "mnist-10": (None, 10, 20),
    "mnist-100": (None, 100, 20),
    "mnist-1000": (None, 1000, 10),
    "500k-2": ((500_000, 2, 50), 50, 20),
    "1m-8": ((1_000_000, 8, 16), 16, 20),
    "100k-64": ((100_000, 64, 64), 64, 20),
}
LIBRARIES = ["fastnet", "sklearn-lloyd", "sklearn-elkan", "onedal", "faiss"]


def rows(shape: tuple[int, int, int] | None) -> np.ndarray:
    """MNIST's training pictures, or blobs: (n, d) float32."""
    if shape is None:
        from fastnet.datasets import load_mnist

        (x, _), _ = load_mnist(progress=False)
        return np.asarray(x, np.float32).reshape(len(x), -1) / np.float32(255)
    n, d, blobs = shape
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(blobs, d))
    return (centers[rng.integers(0, blobs, n)] + rng.normal(size=(n, d))).astype(np.float32)


def fit(library: str, x: np.ndarray, start: np.ndarray, iterations: int, threads: int) -> Callable:
    """A function that fits once and returns the inertia."""
    k = len(start)
    options = {"init": start, "n_init": 1, "max_iter": iterations, "tol": 0}
    if library == "fastnet":
        from fastnet import KMeans

        return lambda: KMeans(k, n_threads=threads, **options).fit(x).inertia_
    if library == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)

        def run() -> float:
            limits = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}
            model = faiss.Kmeans(x.shape[1], k, niter=iterations, **limits)
            model.train(x, init_centroids=start)
            return float(model.obj[-1])

        return run
    if library == "onedal":
        from sklearnex.cluster import KMeans as Accelerated

        return lambda: Accelerated(k, **options).fit(x).inertia_
    from sklearn.cluster import KMeans as Plain

    algorithm = library.removeprefix("sklearn-")
    return lambda: Plain(k, algorithm=algorithm, **options).fit(x).inertia_


def measure(library: str, case: str, threads: int) -> None:
    """Print one line: library, milliseconds, inertia."""
    warnings.simplefilter("ignore")
    shape, k, iterations = CASES[case]
    x = rows(shape)
    start = x[np.random.default_rng(1).choice(len(x), k, replace=False)].copy()
    run = fit(library, x, start, iterations, threads)
    least, inertia = float("inf"), 0.0
    for _ in range(2):
        began = time.perf_counter()
        inertia = run()
        least = min(least, time.perf_counter() - began)
    print(f"{case:12}{library:15}{1e3 * least:10.1f} ms   inertia {inertia:.8g}", flush=True)


def main() -> None:
    """Run every library on every case in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=[*CASES, []])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--library", choices=LIBRARIES)
    chosen = parser.parse_args()
    if chosen.library:
        measure(chosen.library, chosen.cases[0], chosen.threads)
        return
    limits = {"OMP_NUM_THREADS": str(chosen.threads), "OPENBLAS_NUM_THREADS": str(chosen.threads)}
    for case in chosen.cases:
        for library in LIBRARIES:
            command = [sys.executable, __file__, case, "--library", library]
            command += ["--threads", str(chosen.threads)]
            done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True)
            print(done.stdout or f"{case:12}{library:15} not measured", end="", flush=True)
            if done.returncode:
                print(f"   {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
