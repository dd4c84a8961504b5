"""A convolutional network for handwritten digits: the one that comes with fastnet.

    python train_mnist_cnn.py                         # some minutes; MNIST is fetched if need be
    python train_mnist_cnn.py --rows 2000 --epochs 1  # a quick look

Five convolutions learn from MNIST's 60,000 images, each moved, turned and zoomed a little,
differently in every epoch. ``fn.zoo.load("mnist-cnn")`` loads the network that this script wrote
with its defaults, and ``fastnet predict picture.png`` uses it.
"""

import argparse
import time

import fastnet as fn
from fastnet import datasets, layers, optimizers, schedules


def network(seed):
    """28 x 28 uint8 -> 10 probabilities; 42,250 parameters."""
    conv = {"activation": "relu", "kernel_initializer": "he_normal"}
    return fn.Sequential(
        [
            layers.Input((28, 28)),
            layers.Rescale(1 / 255),
            layers.RandomTranslation(0.08, 0.08, fill_mode="constant"),
            layers.RandomRotation(0.035, fill_mode="constant"),
            layers.RandomZoom(0.12, 0.12, fill_mode="constant"),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", **conv),
            layers.Conv2D(16, 3, padding="same", **conv),
            layers.MaxPool2D(2),
            layers.Conv2D(32, 3, padding="same", **conv),
            layers.Conv2D(32, 3, padding="same", **conv),
            layers.MaxPool2D(2),
            layers.Conv2D(48, 3, **conv),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(10, "softmax"),
        ],
        seed=seed,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--rows", type=int, default=60_000, metavar="N", help="learn from so many")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", default="mnist-cnn.safetensors", metavar="FILE",
                        help="the model file (default: mnist-cnn.safetensors)")  # fmt: skip
    args = parser.parse_args()

    (x, y), (x_test, y_test) = datasets.load_mnist()
    x, y = x[: args.rows], y[: args.rows]
    net = network(args.seed)
    steps = args.epochs * -(-len(x) // args.batch_size)
    rate = schedules.CosineDecay(0.002, steps)
    trainer = fn.Trainer(net, "cross_entropy", optimizers.Adam(rate), metrics=["accuracy"])
    net.summary()
    start = time.perf_counter()
    trainer.fit(x, y, batch_size=args.batch_size, epochs=args.epochs, seed=args.seed,
                validation_data=(x_test, y_test))  # fmt: skip
    seconds = time.perf_counter() - start

    right = int((net.predict_classes(x_test) == y_test).sum())
    print(f"{args.epochs} epochs of {len(x)} images in {seconds:.1f} s")
    print(
        f"test accuracy: {right / len(x_test):.2%} ({len(x_test) - right} of {len(x_test)} wrong)"
    )
    card = {  # what the command line wants to know of it
        "task": "classification",
        "classes": [str(digit) for digit in range(10)],
        "pixels": 255,
        "data": "mnist",
        "prepare": "mnist",
        "input_shape": [28, 28],
        "training": {
            "data": "mnist",
            "seed": args.seed,
            "steps": trainer.steps,
            "results": {"test": {"rows": len(x_test), "accuracy": right / len(x_test)}},
        },
    }
    net.save(args.out, extra=card)
    print(f"saved: {args.out}")


if __name__ == "__main__":
    main()
