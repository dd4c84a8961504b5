"""What `fastnet train` makes of data and options: a problem, a network, how it learns."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import data as datas
from .common import UsageError
from .model import CLASSES, NUMBERS, Card

if TYPE_CHECKING:
    from ..optimizers import Optimizer
    from ..readers import Dataset
    from ..sequential import Sequential

#: Up to so many rows a data set counts as small: more epochs, smaller batches.
SMALL = 10_000
#: Learning rate for small and for large data sets; tried on the digits and on MNIST.
RATES = {
    "adam": (0.01, 0.005),
    "adamw": (0.01, 0.005),
    "rmsprop": (0.003, 0.002),
    "sgd": (0.1, 0.1),
    "adagrad": (0.05, 0.05),
}
#: The same for convolutional networks.
_CONV_RATES = RATES | {"adam": (0.003, 0.002), "adamw": (0.003, 0.002), "sgd": (0.05, 0.05)}
#: Share held out where the data has no test part.
SPLIT = 0.2
#: Kinds of networks, and the widths of their hidden dense layers.
HIDDEN = {"mlp": (200,), "lenet": (120, 84), "cnn": (128,)}
_INITIALIZERS = dict.fromkeys(("tanh", "sigmoid", "softsign", "linear"), "glorot_uniform") | {
    "selu": "lecun_normal"
}


@dataclass
class Problem:
    """What is to be learned: rows, targets, and what they mean."""

    data: Dataset
    card: Card
    x: np.ndarray
    y: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray] | None  # what accuracy is measured on
    held_name: str  # "test" or "held-out"
    loss: str
    shift: np.ndarray  # numbers are learned as (y - shift) / scale
    scale: np.ndarray

    @property
    def small(self) -> bool:
        return len(self.x) <= SMALL

    @property
    def noun(self) -> str:
        return "image" if datas.is_images(self.x) else "row"


def make_problem(args: argparse.Namespace) -> Problem:
    """Load the data and decide what kind of problem it is."""
    split = SPLIT if args.validation_split is None else args.validation_split
    datas.check_options(args.data, args.label, image_size=args.image_size, color=args.color)
    size, color = args.image_size or (64, 64), args.color or "rgb"
    data = datas.open_data(args.data, args.label, datas.Pictures(size, color, split, args.seed))
    if not len(data.x_train):
        raise UsageError(f"{data.name}: it has no rows")
    task = datas.find_task(data, args.loss)
    classes: list[str] = []
    if task == CLASSES:
        data, classes = datas.with_codes(data)
        if len(classes) < 2:
            raise UsageError(f"{data.name}: all labels are {classes[0]!r}; two classes are needed")
        if args.loss == "binary_cross_entropy" and len(classes) != 2:
            raise UsageError(f"binary_cross_entropy is for 2 classes, there are {len(classes)}")
    names = list(data.feature_names) if data.feature_names else None
    card = Card(task, classes, datas.pixel_range(data.x_train), None, names, data.name)
    if datas.is_table(args.data):
        card.label = "-1" if args.label is None else args.label
    card.prepare = "stretch" if hasattr(data, "problems") else (
        data.name if data.name in ("mnist", "digits") else "pad"
    )  # fmt: skip
    if (args.arch != "mlp" or args.augment) and not datas.is_images(data.x_train):
        option = "--augment" if args.augment else f"--arch {args.arch}"
        raise UsageError(f"{option} is for images; rows of {data.name} have shape "
                         f"{data.x_train.shape[1:]}")  # fmt: skip
    x, y, held_out, held_name = _hold_out(data, args.validation_split, args.seed)
    shift, scale = np.zeros(1), np.ones(1)
    if task == NUMBERS:
        y = np.asarray(y, np.float64).reshape(len(y), -1)
        shift, scale = y.mean(axis=0), np.asarray(y.std(axis=0))
        scale = np.where(scale > 0, scale, 1)
    loss = args.loss or ("cross_entropy" if task == CLASSES else "mse")
    return Problem(data, card, x, y, held_out, held_name, loss, shift, scale)


def _hold_out(data: Dataset, share: float | None, seed: int) -> tuple[Any, Any, Any, str]:
    """Training rows, their labels, and the rows to measure on: the test part or a random share."""
    x, y = data.x_train, np.asarray(data.y_train)
    if hasattr(data, "problems") and data.x_test is not None:  # a folder of pictures: split there
        share = 0.0
    if share is None:
        share = 0.0 if data.x_test is not None else SPLIT if len(x) >= 10 else 0.0
    if share == 0:
        if data.x_test is None or data.y_test is None:
            return x, y, None, ""
        return x, y, (data.x_test, data.y_test), "test"
    kept = round(len(x) * (1 - share))
    if not 0 < kept < len(x):
        raise UsageError(f"--validation-split {share:g} of {len(x)} rows leaves one side empty")
    order = np.random.default_rng(seed).permutation(len(x))
    train, rest = np.sort(order[:kept]), np.sort(order[kept:])
    return x[train], y[train], (x[rest], y[rest]), "held-out"


def make_network(args: argparse.Namespace, problem: Problem) -> Sequential:
    """Input, scaling, hidden layers with dropout, output."""
    from .. import layers
    from ..sequential import Sequential

    x, card = problem.x, problem.card
    chain: list[Any] = [layers.Input(x.shape[1:])]
    chain += _scaling(problem)
    if args.augment:
        chain += [
            layers.RandomTranslation(0.08, 0.08, fill_mode="nearest"),
            layers.RandomRotation(0.03, fill_mode="nearest"),
            layers.RandomZoom(0.1, fill_mode="nearest"),
        ]
    if args.arch != "mlp":
        chain += _convolutions(args.arch, x.shape[1:], args.dropout)
    if len(x.shape) > 2:
        chain.append(layers.Flatten())
    if card.pixels is None and x.dtype.kind != "b":
        known = layers.Normalization().adapt(x.reshape(len(x), -1))
        spread = np.asarray(known.variance)
        variance = np.where(spread > 0, spread, 1)  # constant columns stay small
        chain.append(layers.Normalization(known.mean, variance))
    initializer = _INITIALIZERS.get(args.activation, "he_normal")
    for width in HIDDEN[args.arch] if args.hidden is None else args.hidden:
        chain.append(layers.Dense(width, args.activation, kernel_initializer=initializer))
        if args.dropout:
            chain.append(layers.Dropout(args.dropout))
    if problem.loss == "binary_cross_entropy":
        chain.append(layers.Dense(1, "sigmoid"))
    elif card.classes:
        chain.append(layers.Dense(len(card.classes), "softmax"))
    else:
        chain.append(layers.Dense(problem.y.shape[1]))
    network = Sequential(chain, seed=args.seed)
    network.build(x.shape[1:])
    return network


def _scaling(problem: Problem) -> list[Any]:
    """Ink is 0..1 on a ground of zeros. Photographs and drawings on white have no such ground:
    around 0 they train from the first step, while as 0..1 few rows stay at chance for long."""
    from .. import layers

    pixels, shape = problem.card.pixels, problem.x.shape
    if pixels is None:
        return []
    if hasattr(problem.data, "problems") or (len(shape) == 4 and shape[3] == 3):
        return [layers.Rescale(2 / pixels, offset=-1.0)]
    return [layers.Rescale(1 / 255)] if pixels == 255 else []


def default_batch(args: argparse.Namespace, problem: Problem) -> int:
    """Rows of a step: fewer where there are few images, for the sake of more steps."""
    if not problem.small:
        return 128
    few = args.arch != "mlp" or hasattr(problem.data, "problems")
    return min(32, max(8, len(problem.x) // 10)) if few else 32


def _convolutions(arch: str, shape: tuple[int, ...], dropout: float) -> list[Any]:
    """What comes before the dense layers: images of (height, width[, channels]) get smaller."""
    from .. import layers

    side = min(shape[:2])
    if side < 4:
        raise UsageError(f"--arch {arch} wants images of at least 4 x 4, got {shape[:2]}")
    chain: list[Any] = [layers.Reshape((*shape, 1))] if len(shape) == 2 else []
    conv: dict[str, Any] = {
        "padding": "same",
        "activation": "relu",
        "kernel_initializer": "he_normal",
    }
    if arch == "lenet":
        for filters in (8, 16):
            chain += [layers.Conv2D(filters, 5, **conv), layers.MaxPool2D(2)]
        return chain
    widths = [(32, 32), (64,), (64,)] if side >= 40 else [(32, 32), (64,)]
    for group in widths:
        chain += [layers.Conv2D(filters, 3, **conv) for filters in group]
        chain.append(layers.MaxPool2D(2))
        if dropout:
            chain.append(layers.Dropout(dropout))
    return chain


def make_optimizer(args: argparse.Namespace, problem: Problem, steps: int) -> Optimizer:
    from .. import optimizers, schedules

    rates = RATES if args.arch == "mlp" else _CONV_RATES
    rate = args.lr or rates[args.optimizer][0 if problem.small else 1]
    learning_rate = schedules.CosineDecay(rate, steps) if args.schedule == "cosine" else rate
    options = {}
    if args.momentum is not None:
        if args.optimizer not in ("sgd", "rmsprop"):
            raise UsageError(f"--momentum is for sgd and rmsprop, not for {args.optimizer}")
        options["momentum"] = args.momentum
    elif args.optimizer == "sgd":
        options["momentum"] = 0.9
    classes = {"sgd": optimizers.SGD, "adam": optimizers.Adam, "adamw": optimizers.AdamW,
               "rmsprop": optimizers.RMSprop, "adagrad": optimizers.Adagrad}  # fmt: skip
    return classes[args.optimizer](learning_rate, **options)


def make_loss(args: argparse.Namespace, problem: Problem) -> Any:
    from .. import losses

    if problem.loss == "cross_entropy":
        return losses.CrossEntropy(args.label_smoothing)
    if problem.loss == "binary_cross_entropy":
        return losses.BinaryCrossEntropy(args.label_smoothing)
    return losses.get(problem.loss)


# ---- numbers are learned standardised ----------------------------------------------------------


def standardised(problem: Problem, y: np.ndarray) -> np.ndarray:
    y = np.asarray(y, np.float64).reshape(len(y), -1)
    return ((y - problem.shift) / problem.scale).astype(np.float32)


def fold_scale(network: Any, shift: np.ndarray, scale: np.ndarray) -> None:
    """Make a network that learned (y - shift) / scale predict y: in its last layer's weights."""
    *rest, kernel, bias = network.get_weights()
    network.set_weights([*rest, kernel * scale, bias * scale + shift])


# ---- what came out -----------------------------------------------------------------------------


def measure(network: Any, card: Card, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Accuracy, or errors in the labels' unit."""
    if card.task == CLASSES:
        right = network.predict_classes(x) == np.asarray(y).reshape(-1)
        return {"rows": len(x), "right": int(right.sum()), "accuracy": float(right.mean())}
    y = np.asarray(y, np.float64).reshape(len(y), -1)
    error = network.predict(x).reshape(len(x), -1) - y
    spread = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    squares = (error**2).sum(axis=0)
    r2 = np.where(spread > 0, 1 - squares / np.where(spread > 0, spread, 1), 0.0)
    return {
        "rows": len(x),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float(r2.mean()),
    }
