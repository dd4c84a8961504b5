"""The convolutional networks of `fastnet bench`, as data that every library builds from.

A part is ("conv", filters, kernel, stride), ("pool",) of 2 x 2, ("block", filters, stride): two 3 x
3 convolutions added to their input (through a 1 x 1 convolution where the shape changes), ("mean",)
over all pixels, or ("dense", units). Padding is kernel // 2 on every side; relu comes behind every
convolution (in a block: behind the first, and behind the sum); the end is a softmax. In a network
with `norm` every convolution has batch normalisation behind it, instead of a bias.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Net(NamedTuple):
    """shape : (h, w, c) of an image.   parts, norm : see above."""

    shape: tuple[int, int, int]
    parts: tuple[tuple[Any, ...], ...]
    norm: bool = False


NORM_EPSILON = 1e-3
NORM_SHARE = 0.1  # of a minibatch in the moving statistics (Keras: momentum 0.9)

NETS = {
    "lenet": Net(
        (28, 28, 1),
        (("conv", 8, 5, 1), ("pool",), ("conv", 16, 5, 1), ("pool",), ("dense", 10)),
    ),
    "cnn": Net(
        (28, 28, 1),
        (("conv", 32, 3, 1), ("conv", 32, 3, 1), ("pool",), ("conv", 64, 3, 1), ("pool",),
         ("dense", 10)),
    ),
    "resnet": Net(
        (32, 32, 3),
        (("conv", 16, 3, 1), ("conv", 16, 3, 1), ("block", 16, 1), ("block", 32, 2),
         ("block", 64, 2), ("mean",), ("dense", 10)),
    ),
}  # fmt: skip
NETS["resnet-bn"] = NETS["resnet"]._replace(norm=True)


class Product(NamedTuple):
    """A layer with weights: kernel (kh, kw, c, filters), or (d_in, units) of a dense one."""

    kernel: tuple[int, ...]
    pixels: int  # of the result
    stride: int = 1


def products(net: Net) -> list[Product]:
    """Return the layers with weights in order; in a block both convolutions, then the 1 x 1."""
    (h, w, c), found = net.shape, []
    for kind, *numbers in net.parts:
        if kind == "pool":
            h, w = h // 2, w // 2
        elif kind == "mean":
            h = w = 1
        elif kind == "dense":
            found.append(Product((h * w * c, numbers[0]), 1))
        else:
            stride, before, c = numbers[-1], c, numbers[0]
            h, w = -(-h // stride), -(-w // stride)
            kernel = numbers[1] if kind == "conv" else 3
            found.append(Product((kernel, kernel, before, c), h * w, stride))
            if kind == "block":
                found.append(Product((3, 3, c, c), h * w))
                if stride > 1 or before != c:
                    found.append(Product((1, 1, before, c), h * w, stride))
    return found


def flops(net: Net, train: bool) -> int:
    """Return multiplications and additions of the products of one image."""
    work = [2 * math.prod(p.kernel) * p.pixels for p in products(net)]
    return 3 * sum(work) - work[0] if train else sum(work)  # the images get no gradient


def start_weights(net: Net) -> list[np.ndarray]:
    """Return Glorot-uniform kernels and zero biases, float32, in the order of `products`.

    Batch normalisation behind a kernel has ones, then zeros there.

    Networks with blocks get He-uniform kernels: with the others, so many relus leave nearly the
    same probabilities for every image, and results would say little about the networks.
    """
    rng = np.random.default_rng(2)
    deep = any(kind == "block" for kind, *_ in net.parts)
    out = []
    for kernel in (p.kernel for p in products(net)):
        taps = math.prod(kernel[:-2])
        limit = math.sqrt(6 / (taps * (kernel[-2] + (0 if deep else kernel[-1]))))
        out.append(rng.uniform(-limit, limit, kernel).astype(np.float32))
        if net.norm and len(kernel) == 4:
            out.append(np.ones(kernel[-1], np.float32))
        out.append(np.zeros(kernel[-1], np.float32))
    return out
