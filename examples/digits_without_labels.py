"""Handwritten digits sorted into ten piles by k-means, which is never told what a digit is.

    python digits_without_labels.py              # prints, and writes digits_without_labels.png
    python digits_without_labels.py --k 20

Each image is a point with 64 coordinates, its pixels. k-means puts ten centres among the points and
moves each to the mean of the images that are nearest to it, until nothing changes. The centres are
images themselves: blurred digits. Only then do we look at the labels, to see what the piles hold.

The plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse

import numpy as np

import fastnet as fn
from fastnet import datasets

SHADES = " .:-=+*#%@"


def as_text(image):
    """Lines of an image (8, 8) from 0 to 255."""
    levels = np.clip(image / 256 * len(SHADES), 0, len(SHADES) - 1).astype(int)
    return ["".join(2 * SHADES[level] for level in row) for row in levels]


def piles_of(labels, piles, k):
    """For every pile: the digit that is most frequent in it, how often, and how many images."""
    found = []
    for j in range(k):
        counts = np.bincount(labels[piles == j], minlength=10)
        found.append((int(counts.argmax()), int(counts.max()), int(counts.sum())))
    return found


def plot(path, centers, found, history):
    """The centres as images, and the inertia while they were found."""
    try:
        import matplotlib
    except ImportError:
        print('\nNo plot: matplotlib is not installed; pip install matplotlib, or "fastnet[plot]".')
        return
    matplotlib.use("Agg")  # draw into files: needs no screen
    from matplotlib import pyplot

    order = sorted(range(len(centers)), key=lambda j: found[j])
    across = 5
    down = -(-len(order) // across)
    figure = pyplot.figure(figsize=(11, 1.3 + 1.9 * down), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    grid = left.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, j in zip(grid.flat, order, strict=False):
        digit, right_ones, size = found[j]
        axes.imshow(centers[j], cmap="gray_r")
        axes.set_title(f"{right_ones / size:.0%} are {digit}s", fontsize=10)
    axes = right.subplots()
    axes.plot(range(1, 1 + len(history)), history, marker="o")
    axes.set(title="inertia falls with every iteration", xlabel="iteration", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
    print(f"\nplot: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, default=10, help="how many piles (default: 10)")
    parser.add_argument(
        "--out", default="digits_without_labels.png", metavar="FILE", help="the plot"
    )
    options = parser.parse_args()
    (images, labels), (test_images, test_labels) = datasets.load_digits()
    x = images.reshape(len(images), -1)
    model = fn.KMeans(options.k, random_state=0, n_init=10, tol=0).fit(x)
    print(f"{len(x)} images in {options.k} piles after {model.n_iter_} iterations\n")
    found = piles_of(labels, model.labels_, options.k)
    centers = model.cluster_centers_.reshape(-1, 8, 8)
    for j in np.argsort([digit for digit, _, _ in found], kind="stable")[:10]:
        digit, right, size = found[j]
        print(f"pile {j}: {size} images, {right / size:.0%} of them are a {digit}")
    print("\nTwo of the centres:")
    for lines in zip(as_text(centers[0]), as_text(centers[1]), strict=True):
        print("  " + " | ".join(lines))
    named = np.array([digit for digit, _, _ in found])
    guess = named[model.predict(test_images.reshape(len(test_images), -1))]
    right = (guess == test_labels).mean()
    print(f"\nNew images, called what their pile is called: {right:.1%} of {len(guess)} right")
    plot(options.out, centers, found, model.history_["inertia"])


if __name__ == "__main__":
    main()
