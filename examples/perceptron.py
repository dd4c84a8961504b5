"""A perceptron tells two kinds of insects apart, fails at XOR, and gets help from a hidden layer.

    python perceptron.py                  # prints, and writes perceptron.png
    python perceptron.py --out border.png

A perceptron adds up its inputs, each times a weight, and looks at the sign of the sum: above zero
is one class, below zero the other. The border between them is a straight line. Rosenblatt found
in 1958 how to learn the weights: go through the examples, and whenever one is on the wrong
side, move the line towards it. Here is his rule by hand, then two modern relatives with
fastnet, and then what no straight line can do.

The plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse

import numpy as np

import fastnet as fn
from fastnet import layers, optimizers

XOR_X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
XOR_Y = np.array([0, 1, 1, 0])  # 1 where exactly one of the two inputs is 1


def make_insects(n=40):
    """Widths and lengths in millimetres (2n, 2); classes 0 for caterpillars, 1 for ladybirds."""
    rng = np.random.default_rng(seed=4)
    caterpillars = rng.normal([3.0, 9.0], [0.7, 1.2], size=(n, 2))
    ladybirds = rng.normal([6.5, 4.5], [0.7, 0.8], size=(n, 2))
    order = rng.permutation(2 * n)  # mixed, as insects come along
    return np.concatenate([caterpillars, ladybirds])[order], np.repeat([0, 1], n)[order]


# ---- Rosenblatt's rule by hand -------------------------------------------------------------------


def rosenblatt(x, y, passes):
    """Weights, bias, and the number of mistakes in each pass over the data (it ends at none)."""
    weights, bias, mistakes = np.zeros(2), 0.0, []
    for _ in range(passes):
        wrong = 0
        for point, side in zip(x, 2 * y - 1, strict=True):  # side: -1 or +1
            if side * (weights @ point + bias) <= 0:  # on the wrong side of the line:
                weights += side * point  # move the line towards the point
                bias += side
                wrong += 1
        mistakes.append(wrong)
        if wrong == 0:
            break
    return weights, bias, mistakes


# ---- the same with fastnet -----------------------------------------------------------------------


def train(net, loss, x, y, epochs, learning_rate):
    """Train on all points at once; returns the share of points on the right side."""
    trainer = fn.Trainer(net, loss=loss, optimizer=optimizers.SGD(learning_rate, momentum=0.9))
    trainer.fit(x, y, batch_size="full", epochs=epochs, progress=False)
    output = net.predict(x)[:, 0]
    border = 0 if loss == "hinge" else 0.5  # a sigmoid is 0.5 where the sum is 0
    return float(np.mean((output > border) == y))


def linear(activation=None):
    """One layer, one output: a perceptron. Activation and loss change only how it learns."""
    return fn.Sequential([layers.Input(2), layers.Dense(1, activation=activation)], seed=0)


def with_hidden_layer():
    """Four straight lines, and an output that combines them."""
    hidden, output = layers.Dense(4, activation="tanh"), layers.Dense(1, activation="sigmoid")
    return fn.Sequential([layers.Input(2), hidden, output], seed=0)


def line_of(net):
    """Weights and bias of a network of one layer."""
    kernel, bias = net.get_weights()
    return kernel[:, 0], float(bias[0])


# ---- pictures ------------------------------------------------------------------------------------


def text_plot(x, y, side, columns=60, rows=18):
    """Points as o and x; where side(points) is above zero the background is dotted."""
    low, high = x.min(axis=0) - 0.5, x.max(axis=0) + 0.5
    width = np.linspace(low[0], high[0], columns)
    length = np.linspace(high[1], low[1], rows)
    grid = np.stack(np.meshgrid(width, length), axis=-1).reshape(-1, 2)
    canvas = np.where(side(grid).reshape(rows, columns) > 0, ".", " ")
    for point, label in zip(x, y, strict=True):
        column = round((point[0] - low[0]) / (high[0] - low[0]) * (columns - 1))
        row = round((high[1] - point[1]) / (high[1] - low[1]) * (rows - 1))
        canvas[row, column] = "ox"[label]
    return "\n".join("  |" + "".join(line) for line in canvas) + "\n  +" + "-" * columns


def plot(path, insects, labels, lines, hidden):
    """Left: the insects and the lines that part them. Right: XOR and the hidden layer's border."""
    try:
        import matplotlib
    except ImportError:
        print('\nNo plot: matplotlib is not installed; pip install matplotlib, or "fastnet[plot]".')
        return
    matplotlib.use("Agg")  # draw into files: needs no screen
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for label, name, marker, color in ((0, "caterpillars", "o", "tab:blue"),
                                       (1, "ladybirds", "s", "tab:red")):  # fmt: skip
        left.scatter(*insects[labels == label].T, marker=marker, s=24, color=color, label=name)
        chosen = label == XOR_Y
        right.scatter(*XOR_X[chosen].T, marker=marker, s=120, color=color, zorder=3,
                      edgecolor="black", label=f"XOR = {label}")  # fmt: skip
    width = np.array([insects[:, 0].min() - 0.5, insects[:, 0].max() + 0.5])
    styles = (("-", "black"), ("--", "tab:green"), (":", "tab:purple"))
    for (name, (weights, bias)), (style, color) in zip(lines.items(), styles, strict=True):
        length = -(weights[0] * width + bias) / weights[1]  # where the sum is zero
        left.plot(width, length, style, color=color, linewidth=2, label=name)
    left.set(title="Straight lines part two kinds of insects", xlabel="width (mm)",
             ylabel="length (mm)", xlim=width,
             ylim=(insects[:, 1].min() - 1, insects[:, 1].max() + 4.5))  # fmt: skip
    left.legend(loc="upper center", ncols=2, fontsize=10)

    axis = np.linspace(-0.4, 1.4, 181, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    share = hidden.predict(grid).reshape(len(axis), len(axis))
    levels = np.linspace(0, 1, 11)
    shades = right.contourf(axis, axis, share, levels=levels, cmap="coolwarm", alpha=0.6)
    right.contour(axis, axis, share, levels=[0.5], colors="black")
    right.set(title="XOR wants a hidden layer", xlabel="first input", ylabel="second input")
    right.set_xticks([0, 1])
    right.set_yticks([0, 1])
    right.set_aspect("equal")
    right.legend(loc="center", fontsize=9)
    figure.colorbar(shades, ax=right, label="output of the network")
    figure.savefig(path, dpi=120)
    print(f"\nplot: {path}")


# ---- the story -----------------------------------------------------------------------------------


def insects_story(x, y):
    """Parts the insects in three ways; returns name -> (weights, bias)."""
    print(f"{len(x)} insects by width and length: two classes that a straight line can part\n")
    weights, bias, mistakes = rosenblatt(x, y, passes=100)
    print(f"Rosenblatt's rule, mistakes in each pass: {' '.join(map(str, mistakes))}")
    lines = {"Rosenblatt's rule": (weights, bias)}

    # The hinge loss grows when a point is on the wrong side, or on the right side but too close.
    net = linear()
    score = train(net, "hinge", x, y, epochs=400, learning_rate=0.01)
    print(f"fastnet, hinge loss: {score:.0%} right")
    lines["hinge loss"] = line_of(net)

    # A sigmoid squeezes the sum into 0..1: the probability of a ladybird.
    net = linear("sigmoid")
    score = train(net, "binary_cross_entropy", x, y, epochs=400, learning_rate=0.05)
    print(f"fastnet, sigmoid: {score:.0%} right")
    lines["sigmoid"] = line_of(net)

    print("\n  length          o caterpillars   x ladybirds   . the ladybirds' side (hinge)")
    weights, bias = lines["hinge loss"]
    print(text_plot(x, y, lambda points: points @ weights + bias) + " width")
    return lines


def xor_story():
    """XOR without and with a hidden layer; returns the network that can."""
    print("\nXOR: 1 when exactly one of two inputs is 1. No straight line parts 0s from 1s.\n")
    _, _, mistakes = rosenblatt(XOR_X, XOR_Y, passes=1000)
    print(f"Rosenblatt's rule: {mistakes[-1]} mistakes in pass {len(mistakes)}; it never ends")
    net = linear("sigmoid")
    score = train(net, "binary_cross_entropy", XOR_X, XOR_Y, epochs=1000, learning_rate=0.5)
    print(f"fastnet, one layer: {score:.0%} right")
    net = with_hidden_layer()
    score = train(net, "binary_cross_entropy", XOR_X, XOR_Y, epochs=1000, learning_rate=0.5)
    print(f"fastnet, with a hidden layer of 4: {score:.0%} right\n")
    for inputs, output in zip(XOR_X, net.predict(XOR_X)[:, 0], strict=True):
        print(f"  {inputs[0]:.0f} xor {inputs[1]:.0f} -> {output:.3f}")
    return net


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="perceptron.png", metavar="FILE", help="the plot")
    options = parser.parse_args()
    insects, labels = make_insects()
    lines = insects_story(insects, labels)
    hidden = xor_story()
    plot(options.out, insects, labels, lines, hidden)


if __name__ == "__main__":
    main()
