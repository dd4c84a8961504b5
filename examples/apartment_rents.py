"""Rents of apartments against their area: a straight line found by gradient descent.

    python apartment_rents.py                  # prints, and writes apartment_rents.png
    python apartment_rents.py --epochs 50 --out line.png

A line has two numbers, a slope and an intercept. Gradient descent starts with a bad line and
makes it a little better again and again. First this is done by hand, in three lines of NumPy; then
by fastnet, as a network of one layer with one output. Both find the same line.

The plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse

import numpy as np

import fastnet as fn
from fastnet import layers, optimizers

TRUE_SLOPE, TRUE_INTERCEPT = 11.5, 180.0  # euros a month per square metre, euros a month
NOISE = 60.0  # no two apartments of a size cost the same: standard deviation in euros
LEARNING_RATE = 0.1


def make_apartments(n=60):
    """Made-up apartments: areas in square metres, and rents in euros a month."""
    rng = np.random.default_rng(seed=0)  # a fixed seed: the same apartments every time
    area = rng.uniform(20, 120, size=n)
    rent = TRUE_INTERCEPT + TRUE_SLOPE * area + rng.normal(0, NOISE, size=n)
    return area, rent


def by_hand(x, y, epochs):
    """Gradient descent in NumPy. Returns slope, intercept and the mean squared error per epoch."""
    slope, intercept, errors = 0.0, 0.0, []
    for _ in range(epochs):
        difference = slope * x + intercept - y  # how far the line is above each point
        errors.append((difference**2).mean())  # the mean squared error: this shall get small
        # The derivatives of that error by slope and intercept say which way is uphill; go downhill.
        slope -= LEARNING_RATE * 2 * (difference * x).mean()
        intercept -= LEARNING_RATE * 2 * difference.mean()
    return slope, intercept, errors


def with_fastnet(x, y, epochs):
    """The same with fastnet: one Dense layer with one output computes slope * x + intercept."""
    net = fn.Sequential([layers.Input(1), layers.Dense(1, kernel_initializer="zeros")])
    trainer = fn.Trainer(net, loss="mse", optimizer=optimizers.SGD(LEARNING_RATE))
    # "full": a step looks at all apartments at once, as above. There is one step per epoch.
    history = trainer.fit(x, y, batch_size="full", epochs=epochs, progress=False)
    kernel, bias = net.get_weights()
    return float(kernel[0, 0]), float(bias[0]), history["loss"]


def print_errors(errors):
    """The error at some epochs, with bars. The square root brings it back to euros."""
    print("\nepoch   typical error")
    for epoch in (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500):
        if epoch < len(errors):
            euros = errors[epoch] ** 0.5
            print(f"{epoch:5d}   {euros:7.1f} euros  {'#' * round(euros / 20)}")


def plot(path, area, rent, slope, intercept, errors):
    """Two panels: the line through the points, and the error falling."""
    try:
        import matplotlib
    except ImportError:
        print('\nNo plot: matplotlib is not installed; pip install matplotlib, or "fastnet[plot]".')
        return
    matplotlib.use("Agg")  # draw into files: needs no screen
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    ends = np.array([area.min() - 5, area.max() + 5])
    left.scatter(area, rent, s=22, color="tab:blue", alpha=0.75, label="apartments")
    left.plot(ends, intercept + slope * ends, color="tab:red", linewidth=2,
              label=f"{slope:.2f} €/m² · area + {intercept:.0f} €")  # fmt: skip
    left.set(title="The line found", xlabel="area (m²)", ylabel="rent (€ a month)")
    left.set_ylim(bottom=0)
    left.legend(loc="upper left")
    right.plot(np.sqrt(errors), color="tab:red", linewidth=2)
    right.axhline(NOISE, color="gray", linestyle="--", label=f"noise in the data ({NOISE:.0f} €)")
    right.set(title="The error falling", xlabel="epoch",
              ylabel="root mean squared error (€ a month)", yscale="log")  # fmt: skip
    right.set_yticks([50, 100, 200, 500, 1000], ["50", "100", "200", "500", "1000"])
    right.minorticks_off()
    right.grid(alpha=0.3)
    right.legend()
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    print(f"\nplot: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60, help="steps downhill (default 60)")
    parser.add_argument("--out", default="apartment_rents.png", metavar="FILE", help="the plot")
    options = parser.parse_args()

    area, rent = make_apartments()
    # Gradient descent likes numbers of moderate size around zero: measure areas from the mean, in
    # standard deviations. With square metres as they are, a step that suits the intercept would be
    # thousands of times too long for the slope.
    mean, deviation = area.mean(), area.std()
    x = (area - mean) / deviation

    def in_square_metres(slope, intercept):
        return slope / deviation, intercept - slope * mean / deviation

    slope, intercept, _ = by_hand(x, rent, options.epochs)
    hand = in_square_metres(slope, intercept)
    slope, intercept, errors = with_fastnet(x, rent, options.epochs)
    net = in_square_metres(slope, intercept)
    exact = np.polyfit(area, rent, deg=1)  # for a straight line there is a formula, too

    print(f"{len(area)} apartments, {options.epochs} epochs\n")
    print("                 slope            intercept")
    rows = {"by hand": hand, "fastnet": net, "least squares": exact,
            "true": (TRUE_SLOPE, TRUE_INTERCEPT)}  # fmt: skip
    for name, (a, b) in rows.items():
        print(f"{name:14s} {a:6.2f} euros/m2   {b:7.1f} euros")
    print_errors(errors)
    plot(options.out, area, rent, *net, errors)


if __name__ == "__main__":
    main()
