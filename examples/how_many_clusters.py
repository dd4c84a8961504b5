"""How many groups are there? k-means for every k from 2 to 12, and two ways to choose.

    python how_many_clusters.py                  # prints, and writes how_many_clusters.png
    python how_many_clusters.py --groups 9

More centres always fit better, so the error alone cannot say how many there should be. The
silhouette asks of every point how much nearer it is to its own group than to the next; the BIC
charges for every centre. Both are best at the number of groups that were put in.

The plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse

import numpy as np

import fastnet as fn


def make_points(groups, n=1500):
    """Points (n, 2) in round groups that hardly overlap."""
    rng = np.random.default_rng(seed=1)
    angles = np.arange(groups) * 2 * np.pi / groups
    radius = 4 + 3 * (np.arange(groups) % 2)
    middles = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    return middles[rng.integers(0, groups, n)] + rng.normal(0, 0.55, (n, 2))


def plot(path, points, path_of_k):
    """The points in the groups found, and the three numbers against k."""
    try:
        import matplotlib
    except ImportError:
        print('\nNo plot: matplotlib is not installed; pip install matplotlib, or "fastnet[plot]".')
        return
    matplotlib.use("Agg")  # draw into files: needs no screen
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    best = path_of_k.best
    axes[0].scatter(*points.T, c=best.labels_, cmap="turbo", s=6)
    axes[0].scatter(*best.cluster_centers_.T, c="white", s=110, edgecolors="black")
    axes[0].set(title=f"{path_of_k.best_k} groups", aspect="equal")
    axes[1].plot(path_of_k.k, path_of_k.inertia, marker="o")
    axes[1].set(title="the error always falls", xlabel="k", ylabel="inertia", ylim=(0, None))
    axes[2].plot(path_of_k.k, path_of_k.silhouette, marker="o", color="tab:green")
    axes[2].set_ylabel("silhouette", color="tab:green")
    other = axes[2].twinx()
    other.plot(path_of_k.k, path_of_k.bic, marker="s", color="tab:purple")
    other.set_ylabel("BIC", color="tab:purple")
    axes[2].axvline(path_of_k.best_k, color="grey", linestyle=":")
    axes[2].set(title="silhouette is highest, BIC lowest", xlabel="k")
    figure.savefig(path, dpi=110)
    print(f"\nplot: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=6, help="how many there are (default: 6)")
    parser.add_argument("--out", default="how_many_clusters.png", metavar="FILE", help="the plot")
    options = parser.parse_args()
    points = make_points(options.groups)
    path_of_k = fn.KMeans.path(points, range(2, 13), random_state=0, n_init=3)
    print(path_of_k)
    by_bic = path_of_k.k[int(np.argmin(path_of_k.bic))]
    print(f"\nput in: {options.groups} groups")
    print(f"silhouette: {path_of_k.best_k} groups")
    print(f"BIC: {by_bic} groups")
    plot(options.out, points, path_of_k)


if __name__ == "__main__":
    main()
