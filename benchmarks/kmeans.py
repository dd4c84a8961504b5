"""Every speed that k-means promises, with its floor, in one run of about six minutes.

    python benchmarks/kmeans.py [--threads 1,2] [--repeats 3] [row ...]

A worker process a library and thread count holds the data; rows are measured in turn, libraries
interleaved, and the least of several times counts. From the same first centres, with the same
number of iterations. "to convergence" is each library's own k-means++ plus the iterations from
one set of centres until nothing moves: libraries whose iterations differ by more than 5 % have
another stop rule and do not count. Elsewhere the means of the results must agree to 1 %, and a row
says so where they do not. Imports and a first small call are not timed. Memory is the peak of the
process while it fits, less what it had before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
#: Seconds between two measurements, in which threads of the last library stop spinning.
QUIET = 0.25
#: How far apart results may lie: iterations to convergence, and all else.
LIKE, SAME = 0.05, 0.01
PEERS = ["scikit-learn", "oneDAL", "faiss"]


class Row(NamedTuple):
    """One promise: `what` is done to data of `shape` (None: MNIST's 60,000 pictures)."""

    what: str
    shape: tuple[int, int, int] | None  # rows, columns, blobs
    k: int
    iterations: int
    floor: float
    long: bool = False


ROWS = {
    "mnist-10": Row("fit", None, 10, 20, 2),
    "mnist-100": Row("fit", None, 100, 20, 3.5),
    "mnist-1000": Row("fit", None, 1000, 10, 6, long=True),
    "mnist-100-convergence": Row("converge", None, 100, 300, 6, long=True),
    "500k-2": Row("fit", (500_000, 2, 50), 50, 20, 3),
    "1m-8": Row("fit", (1_000_000, 8, 16), 16, 20, 3),
    "100k-64": Row("fit", (100_000, 64, 64), 64, 20, 2),
    "predict-10": Row("predict", None, 10, 1, 1.5),
    "predict-100": Row("predict", None, 100, 1, 1.5),
    "transform-10": Row("transform", None, 10, 1, 1.5),
    "transform-100": Row("transform", None, 100, 1, 1.5),
    "minibatch-10": Row("minibatch", None, 10, 1, 2),
    "minibatch-100": Row("minibatch", None, 100, 1, 2),
    "partial-fit-100": Row("partial_fit", None, 100, 58, 2),
}
#: What a library has none of, or is not asked for.
MISSING = {"faiss": {"converge", "predict", "transform", "minibatch", "partial_fit"},
           "oneDAL": {"transform", "minibatch", "partial_fit"}}  # fmt: skip


# ---- a worker -----------------------------------------------------------------------------------


def data(shape: tuple[int, int, int] | None) -> np.ndarray:
    """(n, d) float32."""
    if shape is None:
        from fastnet.datasets import load_mnist

        (x, _), _ = load_mnist(progress=False)
        return np.asarray(x, np.float32).reshape(len(x), -1) / np.float32(255)
    n, d, blobs = shape
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(blobs, d))
    return (centers[rng.integers(0, blobs, n)] + rng.normal(size=(n, d))).astype(np.float32)


def classes(library: str) -> tuple[Any, Any, dict[str, Any]]:
    """KMeans, MiniBatchKMeans and arguments of both."""
    if library == "fastnet":
        import fastnet

        return fastnet.KMeans, fastnet.MiniBatchKMeans, {"progress": False}
    if library == "oneDAL":
        from sklearnex.cluster import KMeans

        return KMeans, None, {}
    from sklearn.cluster import KMeans as Plain
    from sklearn.cluster import MiniBatchKMeans

    return Plain, MiniBatchKMeans, {}


def faiss_fit(x: np.ndarray, start: np.ndarray, iterations: int, threads: int) -> float:
    import faiss

    faiss.omp_set_num_threads(threads)
    limits = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}
    model = faiss.Kmeans(x.shape[1], len(start), niter=iterations, **limits)
    model.train(x, init_centroids=start)
    return float(model.obj[-1])


def task(library: str, row: Row, x: np.ndarray, threads: int, seed: int) -> Callable[[], float]:
    """A function that does the row once and returns an inertia, or a number of iterations.

    `seed` is that of mini-batches.
    """
    start = x[np.random.default_rng(1).choice(len(x), row.k, replace=False)].copy()
    if library == "faiss":
        import faiss  # noqa: F401  (not timed)

        return lambda: faiss_fit(x, start, row.iterations, threads)
    full, small, more = classes(library)
    if library == "fastnet":
        more["n_threads"] = threads
    given = {"init": start, "n_init": 1, **more}
    if row.what == "fit":
        return lambda: full(row.k, max_iter=row.iterations, tol=0, **given).fit(x).inertia_
    if row.what == "converge":

        def converge() -> float:
            full(row.k, init="k-means++", n_init=1, random_state=0, max_iter=1, **more).fit(x)
            return full(row.k, max_iter=row.iterations, tol=0, **given).fit(x).n_iter_

        return converge
    if row.what in ("predict", "transform"):
        model = full(row.k, max_iter=1, **given).fit(x[:5000])
        call = getattr(model, row.what)
        return lambda: float(call(x)[:100].sum())
    # every library is to do all the batches
    options = {"batch_size": 1024, "random_state": seed, "max_no_improvement": None, **given}
    if row.what == "minibatch":
        return lambda: small(row.k, max_iter=row.iterations, **options).fit(x).inertia_

    def batches() -> float:
        model = small(row.k, **options)
        for i in range(row.iterations):
            model.partial_fit(x[i * 1024 : (i + 1) * 1024])
        return float(model.cluster_centers_.sum())

    return batches


def work(library: str, threads: int) -> None:
    """Answer [name of a row, seed], lines of JSON, with [seconds, result, peak MB]."""
    warnings.simplefilter("ignore")
    held: dict[Any, np.ndarray] = {}
    warm: set[str] = set()
    for line in sys.stdin:
        name, seed = json.loads(line)
        row = ROWS[name]
        if row.shape not in held:
            held = {row.shape: data(row.shape)}
        x = held[row.shape]
        if row.what not in warm:  # threads are started, code is loaded
            warm.add(row.what)
            small = row._replace(k=10, iterations=min(row.iterations, 2))
            task(library, small, x[:4096], threads, 0)()
        run = task(library, row, x, threads, seed)
        reset_peak()
        before = status("VmRSS")
        begin = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - begin
        print(json.dumps([seconds, result, status("VmHWM") - before]), flush=True)


def reset_peak() -> None:
    """VmHWM begins anew: loading the data is not part of it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def status(key: str) -> float:
    """MB of this process, from /proc; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(key)), 0.0)


# ---- the table ----------------------------------------------------------------------------------


class Worker:
    """A process of one library and thread count."""

    def __init__(self, library: str, threads: int):
        limits = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
        )
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, __file__, "--worker", library, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, env=os.environ | limits | {"PYTHONPATH": path}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if hasattr(os, "sched_setaffinity"):
            cpus = sorted(os.sched_getaffinity(0))[-threads:]
            os.sched_setaffinity(self.process.pid, cpus)

    def ask(self, name: str, seed: int) -> list[float] | None:
        """[seconds, result, peak MB], or None if the library cannot."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([name, seed]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            return None
        return json.loads(line) if line else None

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died
            self.process.stdin.close()
        self.process.wait()


def differing(row: Row, means: dict[str, float]) -> list[str]:
    """Libraries whose results are not those of fastnet."""
    here, most = means["fastnet"], LIKE if row.what == "converge" else SAME
    return [name for name, mean in means.items() if not abs(mean - here) <= most * abs(here)]


def measure(workers: dict[str, Worker], name: str, threads: int, repeats: int) -> str:
    """One line of the table."""
    row = ROWS[name]
    libraries = ["fastnet", *(p for p in PEERS if row.what not in MISSING.get(p, ()))]
    least: dict[str, float] = {}
    results: dict[str, list[float]] = {}
    memory = 0.0
    rounds = 1 if row.long and threads == 1 else min(repeats, 2) if row.long else repeats
    for i in range(rounds):
        for library in libraries[:: -1 if i % 2 else 1]:
            time.sleep(QUIET)
            if (answer := workers[library].ask(name, i)) is not None:
                least[library] = min(least.get(library, 1e9), 1e3 * answer[0])
                results.setdefault(library, []).append(answer[1])
                memory = answer[2] if library == "fastnet" and not memory else memory
    if "fastnet" not in least:
        return f"{name:22}{threads:3}  BELOW: fastnet's worker died"
    means = {library: float(np.mean(results[library])) for library in libraries if library in least}
    other = differing(row, means)
    left_out = other if row.what == "converge" else []
    peers = [ms for p, ms in least.items() if p != "fastnet" and p not in left_out]
    ratio = min(peers) / least["fastnet"] if peers else float("nan")
    cells = "".join(
        f"{least[p]:10.1f}" if p in least else f"{'-':>10}" for p in ["fastnet", *PEERS]
    )
    verdict = "" if ratio >= row.floor else "  BELOW"
    note = f"  results {', '.join(f'{v:.6g}' for v in means.values())}"
    note += f"  DIFFER: {', '.join(other)}" if other else ""
    return (
        f"{name:22}{threads:3}{cells}{ratio:8.2f}{row.floor:6.1f}{2 * row.floor:6.1f}"
        f"{memory:8.0f}{verdict}{note}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--threads", default=f"{os.cpu_count()},1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker, int(chosen.threads))
        return
    begin = time.perf_counter()
    heads = "".join(f"{name:>10}" for name in ["here, ms", *PEERS])
    print(f"{'row':22}{'thr':>3}{heads}{'ratio':>8}{'floor':>6}{'goal':>6}{'MB':>8}", flush=True)
    for threads in (int(count) for count in chosen.threads.split(",")):
        workers = {library: Worker(library, threads) for library in ["fastnet", *PEERS]}
        for name in chosen.rows or ROWS:
            print(measure(workers, name, threads, chosen.repeats), flush=True)
        for worker in workers.values():
            worker.close()
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
