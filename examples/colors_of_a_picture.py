"""A picture with 16 colours instead of thousands: k-means on its pixels.

    python colors_of_a_picture.py                # prints, and writes colors_of_a_picture.png
    python colors_of_a_picture.py --out hills.png

Every pixel is a point in space: so much red, so much green, so much blue. k-means looks for the few
colours that stand for all of them with the least error, and each pixel takes the nearest one. That
is how pictures with a small palette (GIF) are made. The picture is drawn by this script.

The plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse

import numpy as np

import fastnet as fn

COUNTS = (2, 4, 8, 16)


def draw(height=240, width=360):
    """An evening above some hills: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / height
    top, bottom = np.array([40, 50, 120]), np.array([250, 170, 90])
    picture = top + (bottom - top) * y[..., None] ** 0.8
    away = np.hypot(x - 1.0, y - 0.45)
    picture += np.exp(-4 * away)[..., None] * [60, 50, 20]  # the sun's glow, then the sun
    picture = np.where((away < 0.09)[..., None], [255, 240, 200], picture)
    for i, (level, color) in enumerate(((0.62, [96, 72, 110]), (0.74, [58, 58, 84]),
                                        (0.86, [24, 44, 48]))):  # fmt: skip
        ridge = level + 0.05 * np.sin(5 * x + 2 * i) + 0.02 * np.sin(17 * x + 5 * i)
        shade = (y - ridge)[..., None] * 60
        picture = np.where((y > ridge)[..., None], np.array(color) + shade, picture)
    grain = np.random.default_rng(0).normal(0, 3, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def quantised(picture, count):
    """The picture in `count` colours, and the fitted model."""
    pixels = picture.reshape(-1, 3)  # (pixels, 3) uint8, taken as they are
    model = fn.KMeans(count, random_state=0).fit(pixels)
    palette = np.rint(model.cluster_centers_).astype(np.uint8)
    return palette[model.labels_].reshape(picture.shape), model


def plot(path, picture, results):
    """The picture, and what is left of it with fewer and fewer colours."""
    try:
        import matplotlib
    except ImportError:
        print('\nNo plot: matplotlib is not installed; pip install matplotlib, or "fastnet[plot]".')
        return
    matplotlib.use("Agg")  # draw into files: needs no screen
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
    shown = [("as it was", picture)]
    shown += [(f"{count} colours", few) for count, (few, _) in sorted(results.items())[::-1]]
    for axes in grid.flat:
        axes.axis("off")
    for axes, (title, image) in zip(grid.flat, shown, strict=False):
        axes.imshow(image)
        axes.set_title(title)
    palette = results[max(results)][1].cluster_centers_
    palette = palette[palette.sum(axis=1).argsort()]
    grid.flat[-1].imshow(np.rint(palette.reshape(4, -1, 3)).astype(np.uint8))
    grid.flat[-1].set_title(f"the {len(palette)} colours")
    figure.savefig(path, dpi=110)
    print(f"\nplot: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="colors_of_a_picture.png", metavar="FILE", help="the plot")
    options = parser.parse_args()
    picture = draw()
    pixels = picture.reshape(-1, 3)
    print(f"{len(pixels)} pixels, {len(np.unique(pixels, axis=0))} different colours\n")
    results = {}
    for count in COUNTS:
        few, model = quantised(picture, count)
        error = np.sqrt(((few.astype(float) - picture) ** 2).mean())
        print(f"{count:3d} colours: {error:5.1f} of 255 wrong in each channel, "
              f"{model.n_iter_} iterations")  # fmt: skip
        results[count] = few, model
    plot(options.out, picture, results)


if __name__ == "__main__":
    main()
