"""Handwritten digits, learned one by one as in a classic book, and again in minibatches.

    python digits_from_the_book.py                        # MNIST if it is on this computer
    python digits_from_the_book.py --download             # fetch MNIST first (11 MB, once)
    python digits_from_the_book.py --epochs 2 --rows 500  # a quick look

Tariq Rashid's "Make Your Own Neural Network" (2016) builds a recogniser of digits with 784
inputs, 200 hidden nodes and 10 outputs, all of them sigmoids, and shows it the training images
one after the other. This script trains that network with the book's numbers; then a network of the
same size the way it is mostly done today: relu and softmax, cross-entropy, minibatches and
momentum.

Without MNIST it takes the small digits that come with fastnet (1,797 images of 8 x 8 pixels, so 64
inputs). The plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import fastnet as fn
from fastnet import datasets, layers, optimizers

HIDDEN = 200
INK = " .:-=+*#%@"  # from white to black


# ---- data ----------------------------------------------------------------------------------------


def mnist_is_here():
    """Whether the four files of MNIST are where fastnet looks for them."""
    folders = [datasets.cache_folder() / "mnist"]
    if os.environ.get("FASTNET_DATA"):
        data = Path(os.environ["FASTNET_DATA"])
        folders += [data / "mnist", data]
    return any(len({f.name[:9] for f in folder.glob("*-ubyte*")}) == 4 for folder in folders)


def load(download):
    """Images (uint8, 0 to 255) and labels, for training and for the test; and what they are."""
    if download or mnist_is_here():
        return *datasets.load_mnist(), "MNIST"
    return *datasets.load_digits(), "the digits embedded in fastnet (for MNIST: --download)"


# ---- two networks --------------------------------------------------------------------------------


def network_of_the_book(shape):
    """784-200-10 sigmoids without biases, on pixels scaled to 0.01 .. 1.00."""
    sigmoid = {"activation": "sigmoid", "use_bias": False, "kernel_initializer": "lecun_normal"}
    return fn.Sequential(
        [
            layers.Input(shape),
            # Not 0 to 1: an input of exactly 0 would not change the weights that it meets.
            layers.Rescale(0.99 / 255, 0.01),
            layers.Flatten(),
            layers.Dense(HIDDEN, **sigmoid),
            layers.Dense(10, **sigmoid),
        ],
        seed=1,
    )


def targets_of_the_book(y):
    """0.99 for the right digit and 0.01 for the others: a sigmoid never reaches 0 or 1."""
    return np.where(np.arange(10) == y[:, None], 0.99, 0.01).astype(np.float32)


def train_like_the_book(train, test, epochs):
    """One image, one step: batch_size=1, squared error, learning rate 0.1."""
    net = network_of_the_book(train[0].shape[1:])
    # The book goes down half the sum of the ten squared errors; "mse" is their mean. A step by the
    # mean is 2/10 as long, hence 5 times the book's learning rate here.
    trainer = fn.Trainer(net, "mse", optimizers.SGD(0.1 * 5), metrics=["accuracy"])
    data = [(x, targets_of_the_book(y)) for x, y in (train, test)]
    history = trainer.fit(*data[0], batch_size=1, epochs=epochs, validation_data=data[1])
    return net, history


def train_in_minibatches(train, test, epochs):
    """32 images a step; biases, relu, softmax with cross-entropy, momentum."""
    net = fn.Sequential(
        [
            layers.Input(train[0].shape[1:]),
            layers.Rescale(1 / 255),
            layers.Flatten(),
            layers.Dense(HIDDEN, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        seed=1,
    )
    optimizer = optimizers.SGD(0.05, momentum=0.9)
    trainer = fn.Trainer(net, "cross_entropy", optimizer, metrics=["accuracy"])
    history = trainer.fit(*train, batch_size=32, epochs=epochs, validation_data=test)
    return net, history


# ---- what came out -------------------------------------------------------------------------------


def report(name, net, test, seconds):
    """Accuracy, time and the most frequent confusions; returns the answers of the network."""
    x, y = test
    answers = net.predict_classes(x)
    print(f"\n{name}: {np.mean(answers == y):.2%} of {len(y)} test images right, {seconds:.1f} s")
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (y, answers), 1)  # row: what it is, column: what it was read as
    right = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    for digit in np.argsort(right)[:3]:
        others = confusion[digit].copy()
        others[digit] = 0
        most = [f"{k} ({others[k]}x)" for k in np.argsort(-others)[:3] if others[k]]
        print(f"  {digit}: {right[digit]:.1%} right; taken for {', '.join(most) or 'nothing else'}")
    return answers


def as_text(image):
    """An image as lines of text. Letters are twice as high as wide: small images get two a pixel,
    of large ones every letter stands for two rows.
    """
    if len(image) <= 14:
        pixels = np.repeat(image, 2, axis=1)
    else:
        pixels = image[: len(image) // 2 * 2].reshape(-1, 2, image.shape[1]).mean(axis=1)
    return ["".join(INK[int(v) * len(INK) // 256] for v in row) for row in pixels]


def draw_misread(x, y, answers, columns=79):
    """Some misread digits side by side."""
    wrong = np.flatnonzero(answers != y)
    if not len(wrong):
        print("\nNo digit is misread.")
        return wrong
    blocks = [as_text(x[i]) for i in wrong[:4]]
    width = len(blocks[0][0])
    blocks = blocks[: max(1, (columns + 3) // (width + 3))]
    captions = [f"a {y[i]} read as {answers[i]}" for i in wrong[: len(blocks)]]
    print(f"\nmisread by minibatches, {len(blocks)} of {len(wrong)}:\n")
    print(" | ".join(caption.ljust(width) for caption in captions))
    for lines in zip(*blocks, strict=True):
        print(" | ".join(lines))
    return wrong


def plot(path, histories, x, y, answers, wrong):
    """Left: accuracy by epoch. Right: misread digits."""
    try:
        import matplotlib
    except ImportError:
        print('\nNo plot: matplotlib is not installed; pip install matplotlib, or "fastnet[plot]".')
        return
    matplotlib.use("Agg")  # draw into files: needs no screen
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure = pyplot.figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    axes = left.subplots()
    for (name, history), style in zip(histories.items(), ("o--", "s-"), strict=True):
        percent = 100 * np.array(history["val_accuracy"])
        axes.plot(range(1, len(percent) + 1), percent, style, markersize=4, label=name)
    axes.set(title="Test images read right", xlabel="epoch", ylabel="accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    right.suptitle("Misread by minibatches: true digit → answer")
    panels = right.subplots(3, 5).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, i in zip(panels, wrong, strict=False):
        panel.imshow(x[i], cmap="gray_r", vmin=0, vmax=255)
        panel.set_title(f"{y[i]} → {answers[i]}", fontsize=11)
    figure.savefig(path, dpi=120)
    print(f"\nplot: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="rounds over the data (default 3; embedded: 30)")
    parser.add_argument("--rows", type=int, help="use only so many images for training")
    parser.add_argument("--download", action="store_true", help="fetch MNIST if it is not here")
    name = f"{Path(__file__).stem}.png"
    parser.add_argument("--out", default=name, metavar="FILE", help="the plot")
    options = parser.parse_args()

    (x, y), test, name = load(options.download)
    train = x[: options.rows], y[: options.rows]
    epochs = options.epochs or (3 if len(x) > 10_000 else 30)
    print(f"{name}: {len(train[0])} images to learn from, {epochs} epochs")

    ways = {"one by one, as in the book": train_like_the_book, "minibatches": train_in_minibatches}
    histories = {}
    for way, train_network in ways.items():
        start = time.perf_counter()
        net, histories[way] = train_network(train, test, epochs)
        answers = report(way, net, test, time.perf_counter() - start)
    wrong = draw_misread(*test, answers)
    plot(options.out, histories, *test, answers, wrong)


if __name__ == "__main__":
    main()
