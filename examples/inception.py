"""Inception blocks, and a network with two outputs.

    python inception.py                # the digits that come with fastnet, seconds
    python inception.py --plot net.svg # draw the network, too (wants graphviz)

Szegedy and others, "Going deeper with convolutions" (2014). Instead of choosing how far a layer
looks, a block looks at 1 x 1, 3 x 3 and 5 x 5 pixels and at the largest of its neighbours at once,
and puts the answers side by side. As in the paper a second, smaller classifier half way helps the
lower layers to learn; its loss counts 0.3 times. Here it has another use as well: how often are
both of them right when they agree?
"""

import argparse
import time

import fastnet as fn
from fastnet import datasets, layers


def block(x, channels, name):
    """Four ways to look at x, side by side: 4 * channels in all."""

    def look(size, read):
        return layers.Conv2D(
            channels, size, padding="same", activation="relu", name=f"{name}_{size}x{size}"
        )(read)

    few = layers.Conv2D(channels, 1, activation="relu", name=f"{name}_few")(x)
    pooled = layers.MaxPool2D(3, strides=1, padding="same")(x)
    ways = [look(1, x), look(3, few), look(5, few)]
    ways.append(layers.Conv2D(channels, 1, activation="relu", name=f"{name}_pooled")(pooled))
    return layers.Concatenate(name=name)(ways)


def network(shape, classes, seed=0):
    """Rows of `shape` (height, width) to two guesses: one half way, one at the end."""
    inputs = fn.Input(shape, name="pixels")
    x = layers.Reshape((*shape, 1))(layers.Rescale(1 / 255)(inputs))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = block(x, 8, "low")
    half = layers.Flatten()(layers.AvgPool2D(2)(x))
    half = layers.Dense(classes, activation="softmax", name="half_way")(half)
    x = block(layers.MaxPool2D(2)(x), 12, "high")
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    end = layers.Dense(classes, activation="softmax", name="end")(x)
    return fn.Model(inputs, [end, half], seed=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help="(default: 6)")
    parser.add_argument("--plot", metavar="FILE", help="draw the network: net.svg, net.dot, ...")
    options = parser.parse_args()
    (x, y), (x_test, y_test) = datasets.load_digits()
    net = network(x.shape[1:], 10)
    net.summary()
    if options.plot:
        net.plot(options.plot)
    trainer = fn.Trainer(net, "cross_entropy", fn.optimizers.Adam(0.003), metrics=["accuracy"],
                         loss_weights={"end": 1.0, "half_way": 0.3})  # fmt: skip
    start = time.perf_counter()
    trainer.fit(x, [y, y], batch_size=32, epochs=options.epochs, progress=False)
    seconds = time.perf_counter() - start
    end, half = (p.argmax(axis=1) for p in net.predict(x_test))
    same = end == half
    print(f"after {seconds:.1f} s, of {len(x_test)} digits it has not seen:")
    print(f"  the end is right about {100 * (end == y_test).mean():.1f} %")
    print(f"  the classifier half way about {100 * (half == y_test).mean():.1f} %")
    print(f"  they agree on {100 * same.mean():.1f} %,", end=" ")
    print(f"and are right about {100 * (end == y_test)[same].mean():.1f} % of those")


if __name__ == "__main__":
    main()
