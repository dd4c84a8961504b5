"""Residual blocks: each adds to what it was given, so that a deep network stays easy to train.

    python residual.py                  # the digits that come with fastnet, seconds
    python residual.py --blocks 8       # deeper: 97 % of new digits
    python residual.py --blocks 8 --plain  # without the way around them: 92 %

He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2015). A block is two
convolutions, and a sum of their result with the block's input: at first the block hardly matters,
and the gradient reaches the layers below it through the sum undiminished. `fn.Input` and layers
called on it describe such a network; `diagram` draws it as text.
"""

import argparse
import time

import fastnet as fn
from fastnet import datasets, layers


def block(x, channels, plain):
    """Two convolutions with batch normalisation, and around them the block's input.

    The momentum of 0.9 suits a few hundred steps; the usual 0.99 wants thousands.
    """
    y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
    y = layers.Activation("relu")(layers.BatchNorm(momentum=0.9)(y))
    y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(y)
    y = layers.BatchNorm(momentum=0.9)(y)
    if not plain:
        y = layers.Add()([x, y])
    return layers.Activation("relu")(y)


def network(shape, classes, blocks=3, channels=16, plain=False, seed=0):
    """Rows of `shape` (height, width) to probabilities of `classes`."""
    inputs = fn.Input(shape, name="pixels")
    x = layers.Reshape((*shape, 1))(layers.Rescale(1 / 255)(inputs))
    x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
    for i in range(blocks):
        if i == blocks // 2:
            x = layers.MaxPool2D(2)(x)
        x = block(x, channels, plain)
    x = layers.GlobalAvgPool2D()(x)
    return fn.Model(inputs, layers.Dense(classes, activation="softmax")(x), seed=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=3, help="residual blocks (default: 3)")
    parser.add_argument("--epochs", type=int, default=8, help="(default: 8)")
    parser.add_argument("--plain", action="store_true", help="no way around the convolutions")
    options = parser.parse_args()
    (x, y), (x_test, y_test) = datasets.load_digits()
    net = network(x.shape[1:], 10, options.blocks, plain=options.plain)
    print(net.diagram())
    print(f"{net.count_params():,} weights")
    trainer = fn.Trainer(net, optimizer=fn.optimizers.Adam(0.003), metrics=["accuracy"])
    start = time.perf_counter()
    history = trainer.fit(x, y, batch_size=32, epochs=options.epochs, progress=False)
    seconds = time.perf_counter() - start
    for epoch, (loss, accuracy) in enumerate(
        zip(history["loss"], history["accuracy"], strict=True)
    ):
        print(f"epoch {epoch + 1}: loss {loss:.3f}, {100 * accuracy:.1f} % of the training digits")
    right = trainer.evaluate(x_test, y_test)["accuracy"]
    print(f"{100 * right:.1f} % of {len(x_test)} digits it has not seen, after {seconds:.1f} s")


if __name__ == "__main__":
    main()
