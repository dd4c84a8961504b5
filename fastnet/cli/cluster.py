"""Group the rows of a data set by k-means. Without arguments: the embedded handwritten digits."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import data as datas
from .common import UsageError, add_threads, number, percent, plural, say, size, table
from .train import check_writable

if TYPE_CHECKING:
    from ..cluster import KMeans, KMeansPath

HELP = "group rows by k-means"
EXAMPLES = """\
examples:
  fastnet cluster                                     the digits in ten groups
  fastnet cluster digits --k 10 --plot centers.png    the centers as pictures
  fastnet cluster flowers.csv --k 3 --label species   a column that is no feature
  fastnet cluster points.csv --k 2-12 --out labels.csv  the best of several k
  fastnet cluster mnist --k 100 --init "k-means||" --model centers.safetensors

exit code: 0 done; 2 wrong usage or bad input; 130 ended by Ctrl-C, with the best centers so far
"""
_SAMPLE = 2000  # rows that the silhouette is computed from
_MOST_LINES = 40  # of the table of clusters
_ENDED = {"strict": "converged", "tol": "converged", "max_iter": "not converged",
          "interrupted": "interrupted: the best so far"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="DATA", nargs="?", default="digits",
        help="digits, mnist, fashion-mnist, FILE.csv, FILE.npz, FILE.npy or a FOLDER of IDX files "
        "or pictures (default: digits)",
    )  # fmt: skip
    parser.add_argument(
        "--k", type=_clusters, default=(10,), metavar="K",
        help="number of clusters, or a range as 2-12 of which the best silhouette is taken "
        "(default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--label", metavar="COLUMN",
        help="CSV: a column to leave out and to compare the clusters with, a name or a number from "
        "0, negative from the end (default: every column is a feature)",
    )  # fmt: skip
    group: Any = parser.add_argument_group("how")
    group.add_argument(
        "--init", choices=("k-means++", "k-means||", "random"), default="k-means++", metavar="NAME",
        help="initial centers: k-means++, k-means|| (faster for many clusters) or random",
    )  # fmt: skip
    group.add_argument("--starts", type=number(int, low=1), default=1, metavar="N",
                       help="begin so often, keep the best (default: 1)")  # fmt: skip
    group.add_argument("--max-iter", type=number(int, low=1), default=300, metavar="N",
                       help="iterations at most (default: 300)")  # fmt: skip
    group.add_argument("--metric", choices=("euclidean", "cosine"), default="euclidean")
    group.add_argument("--scale", action="store_true",
                       help="divide every column by its standard deviation first")  # fmt: skip
    add_threads(group)
    group.add_argument("--seed", type=number(int, low=0), default=0, metavar="N",
                       help="of the initial centers (default: 0)")  # fmt: skip
    group = parser.add_argument_group("result")
    group.add_argument("--out", metavar="FILE.csv", help="write cluster and distance of every row")
    group.add_argument("--model", metavar="FILE.safetensors", help="write the centers")
    group.add_argument("--plot", metavar="FILE.png", help="draw centers, or rows in two dimensions")
    group.add_argument("-q", "--quiet", action="store_true", help="print the result only")


def _clusters(text: str) -> tuple[int, ...]:
    """The values of k that a text names."""
    match = re.fullmatch(r"(\d+)(?:[-:](\d+))?", text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last or last - first > 1000:
        raise argparse.ArgumentTypeError(f"wanted a number >= 1 or a range as 2-12, got {text!r}")
    return tuple(range(first, last + 1))


@dataclass
class _Task:
    """What is to be grouped."""

    name: str
    images: tuple[int, ...] | None  # shape of a row that is an image
    x: np.ndarray  # (n, d)
    labels: list[str] | None
    columns: list[str] | None
    text: str


def run(args: argparse.Namespace) -> int:
    from ..threads import threads

    for path in (args.out, args.model, args.plot):
        if path is not None:
            check_writable(path)
    if args.plot is not None:
        _need_matplotlib(args.plot)
    task = _read(args)
    if len(task.x) < args.k[-1]:
        raise UsageError(f"{task.name}: {args.k[-1]} clusters of {plural(len(task.x), 'row')}")
    with threads(args.threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return _cluster(args, task, caught)


def _need_matplotlib(path: str) -> None:
    """matplotlib is here and can write such a file: asked before the work, not behind it."""
    try:
        import matplotlib  # noqa: F401
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise UsageError('--plot wants matplotlib: pip install "fastnet[plot]"') from None
    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    suffix = os.path.splitext(path)[1][1:].lower() or "png"
    if suffix not in known:
        raise UsageError(f"--plot {path}: pictures end with {', '.join(known)}")


# ---- reading ------------------------------------------------------------------------------------


def _read(args: argparse.Namespace) -> _Task:
    data = _open(args)
    x = data.x_train
    images = x.shape[1:] if datas.is_images(x) else None
    if images is None and datas.pixel_range(x) is not None:
        images = (int(np.sqrt(x.shape[1])),) * 2
    labels = None
    if data.y_train is not None:
        y = np.asarray(data.y_train)
        if data.classes is not None:
            labels = [str(data.classes[i]) for i in y.reshape(-1)]
        elif y.ndim == 1 and len(np.unique(y)) <= 100:
            labels = [f"{value:g}" for value in y]
    flat = x.reshape(len(x), -1)
    if args.scale:
        spread = flat.std(axis=0, dtype=np.float64)
        flat = flat / np.where(spread > 0, spread, 1)
    names = None if data.feature_names is None else list(data.feature_names)
    part = " (training part)" if data.x_test is not None else ""
    return _Task(data.name, images, flat, labels, names, datas.describe(data) + part)


def _open(args: argparse.Namespace) -> Any:
    from ..readers import load_table

    datas.check_options(args.source, args.label)
    if args.label is not None or not datas.is_table(args.source):
        return datas.open_data(args.source, args.label)
    try:
        return load_table(args.source, label=None)
    except ValueError as error:
        raise UsageError(f"{error} (--label COLUMN leaves a column out)") from None


# ---- the command --------------------------------------------------------------------------------


def _cluster(args: argparse.Namespace, task: _Task, caught: list[Any]) -> int:
    from ..cluster import KMeans

    options = {
        "max_iter": args.max_iter,
        "metric": args.metric,
        "random_state": args.seed,
        "progress": "auto" if sys.stderr.isatty() and not args.quiet else False,
    }
    if not args.quiet:
        say(f"Data      {task.text}")
    begin = time.perf_counter()
    if len(args.k) > 1:
        starts = {"n_init": args.starts} if args.starts > 1 else {}
        path = KMeans.path(task.x, args.k, sample_size=_SAMPLE, **options | starts)
        model = path.best
        _say_path(path)
    else:
        model = KMeans(args.k[0], init=args.init, n_init=args.starts, **options).fit(task.x)
    seconds = time.perf_counter() - begin
    distances = _own_distances(model, task.x)
    _report(args, task, model, distances, seconds, caught)
    if args.out is not None:
        _write_labels(args.out, model.labels_, distances)
        say(f"Labels    {args.out}: {plural(len(task.x), 'row')}")
    if args.model is not None:
        _save(args, task, model)
    if args.plot is not None:
        from .cluster_plot import plot

        plot(args.plot, task.x, model, task.images, task.columns)
        say(f"Plot      {args.plot}")
    return 130 if model.history_.interrupted else 0


def _say_path(path: KMeansPath) -> None:
    say()
    for line in str(path).splitlines():
        say(line)
    say()


def _own_distances(model: KMeans, x: np.ndarray) -> np.ndarray:
    """The distance of each row to its centre."""
    out = np.empty(len(x))
    step = max(1, (1 << 22) // len(model.cluster_centers_))
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        far = model.transform(x[rows])
        out[rows] = far[np.arange(len(far)), model.labels_[rows]]
    return out


def _report(args: argparse.Namespace, task: _Task, model: KMeans, distances: np.ndarray,
            seconds: float, caught: list[Any]) -> None:  # fmt: skip
    history = model.history_
    k = len(model.cluster_centers_)
    ended = _ENDED.get(history.stopped, history.stopped)
    if not args.quiet:
        skipped = sum(history["saved"]) / max(1, sum(history["saved"]) + sum(history["distances"]))
        say(f"Clusters  {k}, {args.metric}, {args.init if len(args.k) == 1 else 'warm starts'}, "
            f"seed {args.seed}")  # fmt: skip
        say(f"Fit       {plural(model.n_iter_, 'iteration')} in {seconds:.2f} s, {ended}; "
            f"{percent(skipped)} of the distances skipped")  # fmt: skip
        say()
        for line in _table(task, model, distances):
            say(line)
        say()
    say(f"Inertia   {model.inertia_:.6g}")
    score = _silhouette(task.x, model, args)
    if score is not None:
        sampled = f" (of {_SAMPLE:,} rows)" if len(task.x) > _SAMPLE else ""
        say(f"Apart     silhouette {score:.3f}{sampled}: 1 is best, 0 between clusters")
    if task.labels is not None:
        right = sum(max(_counts(task, model, j).values(), default=0) for j in range(k))
        say(f"Agreement {percent(right / len(task.x))} of the rows have the label that is the most "
            "frequent in their cluster")  # fmt: skip
    for text in dict.fromkeys(str(w.message) for w in caught):
        if "interrupted" not in text:
            print(f"note: {text}", file=sys.stderr)


def _counts(task: _Task, model: KMeans, cluster: int) -> dict[str, int]:
    """How often each label is in a cluster."""
    assert task.labels is not None
    found: dict[str, int] = {}
    for row in np.flatnonzero(model.labels_ == cluster):
        found[task.labels[row]] = found.get(task.labels[row], 0) + 1
    return found


def _fixed(largest: float) -> Callable[[float], str]:
    """Numbers of a column with the same decimals: four digits of the largest."""
    digits = 3 - math.floor(math.log10(largest)) if largest > 0 else 0
    return lambda value: f"{value:.4g}" if digits > 9 else f"{value:.{max(digits, 0)}f}"


def _table(task: _Task, model: KMeans, distances: np.ndarray) -> list[str]:
    """A line a cluster: how many rows, how far, and which labels."""
    k, n = len(model.cluster_centers_), len(task.x)
    sizes = np.bincount(model.labels_, minlength=k)
    rows = [["cluster", "rows", "share", "mean distance", "farthest"]]
    rows[0] += ["labels"] if task.labels is not None else []
    fixed = _fixed(float(distances.max()))
    for j in range(min(k, _MOST_LINES)):
        mine = distances[model.labels_ == j]
        mean, most = (fixed(mine.mean()), fixed(mine.max())) if len(mine) else ("", "")
        line = [str(j), f"{sizes[j]:,}", percent(sizes[j] / n), mean, most]
        if task.labels is not None:
            best = sorted(_counts(task, model, j).items(), key=lambda item: -item[1])[:3]
            line.append(", ".join(f"{name} {percent(m / sizes[j])}" for name, m in best))
        rows.append(line)
    lines = table([row[:5] for row in rows])
    if task.labels is not None:
        lines = [f"{line}  {row[5]}" for line, row in zip(lines, rows, strict=True)]
    if k > _MOST_LINES:
        lines.append(f"... and {k - _MOST_LINES:,} more (--out FILE.csv has every row)")
    return lines


def _silhouette(x: np.ndarray, model: KMeans, args: argparse.Namespace) -> float | None:
    from ..cluster import silhouette

    rows = np.arange(len(x))
    if len(x) > _SAMPLE:
        rows = np.sort(np.random.default_rng(args.seed).choice(len(x), _SAMPLE, replace=False))
    sample = np.asarray(x[rows], np.float64)
    if args.metric == "cosine":
        sample = sample / np.sqrt((sample * sample).sum(axis=1, keepdims=True))
    score = silhouette(sample, model.labels_[rows])
    return None if np.isnan(score) else score


# ---- files --------------------------------------------------------------------------------------


def _write_labels(path: str, labels: np.ndarray, distances: np.ndarray) -> None:
    from .. import _safefile

    lines = ["row,cluster,distance"]
    lines += [f"{i},{j},{d:.7g}" for i, (j, d) in enumerate(zip(labels, distances, strict=True))]
    _safefile.replace(path, ("\n".join(lines) + "\n").encode())


def _save(args: argparse.Namespace, task: _Task, model: KMeans) -> None:
    import os

    from .. import __version__

    extra = {
        "data": task.name,
        "rows": len(task.x),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "fastnet": __version__,
        "image": None if task.images is None else list(task.images),
        "scaled": bool(args.scale),
    }
    if task.columns is not None:
        model.feature_names_in_ = np.array(task.columns, dtype=object)
    model.save(args.model, extra)
    say(f"Model     {args.model}: {size(os.path.getsize(args.model))}")
