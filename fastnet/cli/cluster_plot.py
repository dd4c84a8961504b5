"""Pictures of clusters: centres that are images, or rows along their two main directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster.data import unit

if TYPE_CHECKING:
    from ..cluster import KMeans

_MOST_CENTERS = 100
_MOST_ROWS = 5000


def plot(
    path: str,
    x: np.ndarray,
    model: KMeans,
    images: tuple[int, ...] | None,
    columns: list[str] | None,
) -> None:
    """Write a picture of the clusters to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    if images is not None:
        _centers(figure, model, images)
    else:
        _rows(figure, x, model, columns)
    figure.savefig(path)


def _centers(figure: Any, model: KMeans, shape: tuple[int, ...]) -> None:
    """The centres as images, the largest cluster first."""
    sizes = np.bincount(model.labels_, minlength=len(model.cluster_centers_))
    order = np.argsort(-sizes, kind="stable")[:_MOST_CENTERS]
    across = int(np.ceil(np.sqrt(len(order) * 1.5)))
    grid = figure.subplots(-(-len(order) // across), across, squeeze=False)
    low, high = model.cluster_centers_.min(), model.cluster_centers_.max()
    for axes in grid.flat:
        axes.axis("off")
    for axes, j in zip(grid.flat, order, strict=False):
        picture = model.cluster_centers_[j].reshape(shape)
        if picture.ndim == 3 and picture.shape[2] == 3:
            axes.imshow(np.clip((picture - low) / ((high - low) or 1), 0, 1))
        else:
            axes.imshow(picture.reshape(shape[:2]), cmap="gray", vmin=low, vmax=high)
        axes.set_title(f"{j}: {sizes[j]:,}", fontsize=9)
    figure.suptitle(f"{len(model.cluster_centers_)} cluster centers, and how many rows each has")


def _rows(figure: Any, x: np.ndarray, model: KMeans, columns: list[str] | None) -> None:
    """Rows and centres: by their two columns, or along the two main directions of the rows."""
    picked = np.arange(len(x))
    if len(x) > _MOST_ROWS:
        picked = np.sort(np.random.default_rng(0).choice(len(x), _MOST_ROWS, replace=False))
    rows = np.asarray(x[picked], np.float64)
    if model.metric == "cosine":  # centres have length 1: rows are drawn so, too
        rows = unit(rows)
    centers = np.asarray(model.cluster_centers_, np.float64)
    if rows.shape[1] == 1:
        rows, centers = (np.hstack([v, np.zeros_like(v)]) for v in (rows, centers))
        names = [(columns or ["the feature"])[0], ""]
    elif rows.shape[1] == 2:
        names = list(columns or ("first feature", "second feature"))
    else:
        mean = rows.mean(axis=0)
        _, spread, directions = np.linalg.svd(rows - mean, full_matrices=False)
        share = spread**2 / max((spread**2).sum(), 1e-300)
        rows, centers = ((v - mean) @ directions[:2].T for v in (rows, centers))
        names = [f"main direction {i + 1} ({share[i]:.0%} of the variance)" for i in range(2)]
    axes = figure.subplots()
    labels = model.labels_[picked]
    axes.scatter(*rows.T, c=labels, cmap="turbo", s=8, alpha=0.6, linewidths=0)
    axes.scatter(*centers.T, c="white", s=150, edgecolors="black", linewidths=1.2, zorder=3)
    for j, (a, b) in enumerate(centers[:_MOST_CENTERS]):
        axes.text(a, b, str(j), ha="center", va="center", fontsize=8, zorder=4)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_title(f"{len(x):,} rows in {len(centers)} clusters")
