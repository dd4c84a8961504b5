"""A small convolutional network, as LeNet-5 was (LeCun et al., 1998), and what it learns to see.

    python lenet.py                          # MNIST if it is on this computer
    python lenet.py --download               # fetch MNIST first (11 MB, once)
    python lenet.py --rows 2000 --epochs 1   # a quick look

Two convolutions with pools between them, then dense layers. The plot shows the filters of the first
layer, and what each layer makes of one digit: its feature maps.

Without MNIST it takes the small digits that come with fastnet (1,797 images of 8 x 8 pixels). The
plot needs matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import fastnet as fn
from fastnet import datasets, layers, optimizers, schedules

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


# ---- the network ---------------------------------------------------------------------------------


def lenet(shape, seed):
    """Images of (height, width) uint8 -> 10 probabilities."""
    return fn.Sequential(
        [
            layers.Input(shape),
            layers.Rescale(1 / 255),
            layers.RandomTranslation(0.07, 0.07, fill_mode="constant"),
            layers.Reshape((*shape, 1)),
            layers.Conv2D(8, 5, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Conv2D(16, 5, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Flatten(),
            layers.Dense(84, "relu"),
            layers.Dropout(0.2),
            layers.Dense(10, "softmax"),
        ],
        seed=seed,
    )


def first_layers(net, count):
    """A network of the first `count` layers of another, with its weights."""
    part = fn.Sequential([type(layer)(**layer.config()) for layer in net.layers[:count]], seed=0)
    part.build()
    part.set_weights(net.get_weights()[: len(part.get_weights())])
    return part


# ---- the plot ------------------------------------------------------------------------------------


def plot(net, image, label, out):
    """Filters of the first convolution, and the feature maps of both for one digit."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plot: pip install matplotlib")
        return
    convolutions = [i for i, layer in enumerate(net.layers) if hasattr(layer, "filters")]
    kernel = net.get_weights()[0]  # (5, 5, 1, 8)
    maps = [first_layers(net, i + 1).predict(image[None])[0] for i in convolutions]
    rows = [
        ("filters", [kernel[:, :, 0, k] for k in range(8)], "RdBu_r"),
        ("maps 1", [maps[0][..., k] for k in range(8)], "magma"),
        ("maps 2", [maps[1][..., k] for k in range(8)], "magma"),
        ("", [maps[1][..., k] for k in range(8, 16)], "magma"),
    ]
    figure, axes = plt.subplots(4, 9, figsize=(11, 5.4), layout="constrained")
    for line, (title, pictures, colors) in zip(axes, rows, strict=True):
        line[0].axis("off")
        line[0].text(0.5, 0.5, title, ha="center", va="center", fontsize=13)
        most = max(np.abs(p).max() for p in pictures)
        low = -most if colors == "RdBu_r" else 0
        for axis, picture in zip(line[1:], pictures, strict=True):
            axis.imshow(picture, cmap=colors, vmin=low, vmax=most)
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].clear()
    axes[0, 0].imshow(image, cmap="gray_r")
    axes[0, 0].set_title(f"a {label}")
    axes[0, 0].set_xticks([])
    axes[0, 0].set_yticks([])
    axes[0, 0].set_xlabel("filters:", fontsize=11)
    figure.savefig(out, dpi=120)
    print(f"plot: {out}")


# ---- all of it -----------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, metavar="N", help="default: 3; small digits: 40")
    parser.add_argument("--rows", type=int, metavar="N", help="learn from so many images only")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--download", action="store_true", help="fetch MNIST if it is not here")
    parser.add_argument("--out", default="lenet.png", metavar="FILE", help="default: lenet.png")
    args = parser.parse_args()

    (x, y), (x_test, y_test), what = load(args.download)
    x, y = x[: args.rows], y[: args.rows]
    epochs = args.epochs or (3 if len(x) > 5000 else 40)
    print(f"{what}: {len(x)} images to learn from, {epochs} epochs")
    net = lenet(x.shape[1:], args.seed)
    net.summary()
    rate = schedules.CosineDecay(0.003, epochs * -(-len(x) // 64))
    trainer = fn.Trainer(net, "cross_entropy", optimizers.Adam(rate), metrics=["accuracy"])
    start = time.perf_counter()
    trainer.fit(x, y, batch_size=64, epochs=epochs, seed=args.seed)
    print(f"trained in {time.perf_counter() - start:.1f} s")
    accuracy = trainer.evaluate(x_test, y_test)["accuracy"]
    print(f"{accuracy:.1%} of {len(x_test)} test images right")
    plot(net, x_test[0], y_test[0], args.out)


if __name__ == "__main__":
    main()
