"""Train a network on a data set and save it. Without arguments: the embedded handwritten digits."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _core
from . import data as datas
from .common import (
    UsageError,
    add_label,
    add_threads,
    number,
    percent,
    plural,
    say,
    shape_text,
    size,
    table,
)
from .model import CLASSES, NUMBERS
from .problem import (
    HIDDEN,
    RATES,
    SMALL,
    SPLIT,
    Problem,
    default_batch,
    fold_scale,
    make_loss,
    make_network,
    make_optimizer,
    make_problem,
    measure,
    standardised,
)

if TYPE_CHECKING:
    from ..history import History
    from ..optimizers import Optimizer
    from ..sequential import Sequential
    from ..trainer import Trainer

HELP = "train a network and save it (default: on handwritten digits)"
EXAMPLES = """\
examples:
  fastnet train                                  handwritten digits, about a second
  fastnet train --data mnist --hidden 400,200    MNIST with two hidden layers
  fastnet train --data mnist --arch lenet        a small convolutional network; cnn: a larger one
  fastnet train --data leaves --arch cnn --image-size 32 --augment   a folder for each class
  fastnet train --data iris.csv --label species  a table, its last column or the one named
  fastnet train --data prices.csv                labels with fractions: predicts amounts
  fastnet train --data set.npz --out net.safetensors   arrays x, y[, x_test, y_test]
  fastnet train --optimizer sgd --lr 0.1 --momentum 0.9 --epochs 60 --seed 7

exit code: 0 trained and saved; 1 training diverged; 2 wrong usage or bad input;
130 ended by Ctrl-C, with what was learned saved
"""
_LINES = 10  # of the table of epochs
_LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber", "log_cosh")
_DROPOUT, _SMOOTHING = 0.2, 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_data(parser.add_argument_group("data"))
    _add_network(parser.add_argument_group("network"))
    _add_training(parser.add_argument_group("training"))
    group = parser.add_argument_group("result")
    group.add_argument("--out", metavar="FILE", help="the model file (default: DATA.safetensors)")
    group.add_argument("--no-save", action="store_true", help="save nothing")
    group.add_argument("-q", "--quiet", action="store_true", help="print the result only")


def _add_data(group: Any) -> None:
    group.add_argument(
        "--data", default="digits", metavar="DATA",
        help="digits, mnist or fashion-mnist, FILE.csv, FILE.npz, or a FOLDER of IDX files "
        "or with a folder of pictures for each class (default: digits)",
    )  # fmt: skip
    add_label(group, "the last")
    group.add_argument(
        "--image-size", type=_image_size, metavar="SIZE",
        help="folders of pictures: all become so large, as 32 or 48x64 (default: 64)",
    )  # fmt: skip
    group.add_argument(
        "--color", choices=("rgb", "grayscale"),
        help="folders of pictures (default: rgb)",
    )  # fmt: skip
    group.add_argument(
        "--validation-split", type=number(float, low=0, below=1), metavar="SHARE",
        help="share of the training rows held out and measured on "
        "(default: 0.2 where the data has no test part, else 0)",
    )  # fmt: skip


def _add_network(group: Any) -> None:
    activations = [name for name in _core.table("activation") if name != "softmax"]
    group.add_argument(
        "--arch", choices=list(HIDDEN), default="mlp",
        help="mlp: dense layers; for images also lenet (two small convolutions) and cnn (three "
        "larger ones, slower and better) (default: mlp)",
    )  # fmt: skip
    group.add_argument(
        "--hidden", type=_widths, metavar="WIDTHS",
        help='widths of the hidden dense layers, as 200,100; "none" for none (default: 200; '
        "lenet 120,84; cnn 128)",
    )  # fmt: skip
    group.add_argument(
        "--augment", action="store_true",
        help="images: move, turn and zoom each a little, differently in every epoch",
    )  # fmt: skip
    group.add_argument(
        "--activation", choices=activations, metavar="NAME",
        help=f"of the hidden dense layers: {', '.join(activations)} (default: relu)",
    )  # fmt: skip
    group.add_argument(
        "--dropout", type=number(float, low=0, below=1), metavar="RATE",
        help=f"share of hidden values dropped in training (default: {_DROPOUT})",
    )  # fmt: skip


def _add_training(group: Any) -> None:
    few, many = f"up to {SMALL:,} rows", "for more"
    group.add_argument(
        "--epochs", type=number(int, low=1), metavar="N",
        help=f"times through the data (default: 40 or more {few}, 5 {many})",
    )  # fmt: skip
    group.add_argument(
        "--batch-size", type=number(int, low=1), metavar="N",
        help=f"rows a step (default: 32 {few}, down to 8 for few images, 128 {many})",
    )  # fmt: skip
    group.add_argument(
        "--optimizer", choices=list(RATES), default="adam", metavar="NAME",
        help=f"{', '.join(RATES)} (default: adam)",
    )  # fmt: skip
    group.add_argument(
        "--lr", type=number(float, above=0), metavar="RATE",
        help="learning rate (default: 0.01 for adam and small data; sgd 0.1)",
    )  # fmt: skip
    group.add_argument(
        "--schedule", choices=("cosine", "constant"), default="cosine", metavar="NAME",
        help="of the learning rate: cosine (falls to 0) or constant (default: cosine)",
    )  # fmt: skip
    group.add_argument(
        "--momentum", type=number(float, low=0, below=1), metavar="M",
        help="of sgd (default: 0.9) and rmsprop (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--loss", choices=_LOSSES, metavar="NAME",
        help=f"{', '.join(_LOSSES)} (default: cross_entropy for classes, mse for numbers)",
    )  # fmt: skip
    group.add_argument(
        "--label-smoothing", type=number(float, low=0, below=1), metavar="E",
        help=f"of the two cross-entropies (default: {_SMOOTHING})",
    )  # fmt: skip
    add_threads(group)
    group.add_argument(
        "--seed", type=number(int, low=0), default=0, metavar="N",
        help="of weights, order and dropout; the same seed gives the same bits (default: 0)",
    )  # fmt: skip


def _image_size(text: str) -> tuple[int, int]:
    parse = number(int, low=1)
    sides = [parse(part) for part in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"wanted a size as 32 or 48x64, got {text!r}")
    return sides[0], sides[-1]


def _widths(text: str) -> tuple[int, ...]:
    if text.strip().lower() in ("none", "0", ""):
        return ()
    parse = number(int, low=1)
    return tuple(parse(part.strip()) for part in text.split(","))


# ---- the command --------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    from ..threads import threads

    if args.no_save and args.out is not None:
        raise UsageError("--out says where to save, --no-save not to")
    out = None if args.no_save else args.out or _default_name(args.data)
    if out is not None:
        check_writable(out)
    problem = make_problem(args)
    _complete(args, problem)
    with threads(args.threads):
        return _train(args, problem, out)


def _complete(args: argparse.Namespace, problem: Problem) -> None:
    """Defaults of options that not every network and loss has; UsageError where one was given that
    this one has no use for."""
    hidden = HIDDEN[args.arch] if args.hidden is None else args.hidden
    uses = {
        "activation": ("relu", bool(hidden), "--hidden none leaves no hidden layer"),
        "dropout": (
            _DROPOUT, bool(hidden) or args.arch == "cnn", "--hidden none leaves nothing to drop",
        ),
        "label_smoothing": (
            _SMOOTHING, "cross_entropy" in problem.loss, f"the loss is {problem.loss}",
        ),
    }  # fmt: skip
    for name, (default, used, reason) in uses.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif getattr(args, name) and not used:
            raise UsageError(f"--{name.replace('_', '-')} has no use here: {reason}")


def _default_name(source: str) -> str:
    if datas.is_named(source):
        return source.lower().replace("_", "-") + ".safetensors"
    return Path(source).resolve().stem + ".safetensors"


def check_writable(path: str) -> None:
    """UsageError, before training rather than after it, if `path` cannot be written."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path) or not os.path.basename(path):
        raise UsageError(f"{path}: is a folder; --out wants the name of a file")
    if not os.path.isdir(folder):
        raise UsageError(f"{path}: there is no folder {folder}")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise UsageError(f"{path}: no permission to write there (--out FILE saves elsewhere)")


def _train(args: argparse.Namespace, problem: Problem, out: str | None) -> int:
    from ..trainer import Trainer

    batch = min(args.batch_size or default_batch(args, problem), len(problem.x))
    steps = -(-len(problem.x) // batch)
    epochs = args.epochs or (min(max(40, 1500 // steps), 200) if problem.small else 5)
    network = make_network(args, problem)
    optimizer = make_optimizer(args, problem, epochs * steps)
    metric = "accuracy" if problem.card.task == CLASSES else "r2"
    trainer = Trainer(network, make_loss(args, problem), optimizer, [metric])
    if not args.quiet:
        _introduce(args, problem, network, optimizer, batch, epochs)
    history, seconds = _fit(args, problem, trainer, batch, epochs)
    if not args.quiet:
        say()
    if not history.steps:
        say("Interrupted before the first step: there is nothing to save.")
        return 130
    full, part = divmod(history.steps, steps)
    if history.interrupted:
        say(f"Interrupted in epoch {full + 1}, after {plural(history.steps, 'step')}: "
            "what was learned is kept.")  # fmt: skip
    _report(args, problem, network, full * len(problem.x) + part * batch, seconds)
    if out is not None:
        _save(args, problem, network, history, seconds, out)
    return 130 if history.interrupted else 0


def _introduce(args: argparse.Namespace, problem: Problem, network: Sequential,
               optimizer: Optimizer, batch: int, epochs: int) -> None:  # fmt: skip
    """Data, network and training in a line each."""
    from ..threads import get_num_threads

    if problem.card.classes:
        kinds = f", {len(problem.card.classes)} classes"
    else:
        kinds = f", {plural(problem.y.shape[1], 'number')} to predict"
    rate = args.lr or optimizer.schedule(0)
    falling = " falling to 0" if args.schedule == "cosine" else ""
    smoothing = ""
    if "cross_entropy" in problem.loss and args.label_smoothing:
        smoothing = f" (label smoothing {args.label_smoothing:g})"
    say(f"Data      {datas.describe(problem.data)}{kinds}")
    if problem.held_out is not None and problem.held_name == "held-out":
        say(f"          {len(problem.held_out[0]):,} of them are held out to measure on")
    say(f"Network   {chain_text(network)}; {network.count_params():,} parameters")
    say(f"Training  {plural(epochs, 'epoch')}, batches of {batch}, {args.optimizer} "
        f"{rate:g}{falling}, {problem.loss}{smoothing}")  # fmt: skip
    say(f"          {plural(get_num_threads(), 'thread')}, seed {args.seed}")
    say()


def chain_text(network: Any) -> str:
    """The layers in a line: 8 x 8 -> 200 relu -> 10 softmax."""
    parts = [shape_text(network.input_shape)]
    for layer in network.layers:
        units, rate = getattr(layer, "units", None), getattr(layer, "rate", None)
        filters, pool = getattr(layer, "filters", None), getattr(layer, "pool_size", None)
        if units is not None or filters is not None:
            last = layer.activation if layer.activation != "linear" else ""
            kernel = f"@{'x'.join(map(str, layer.kernel_size))}" if filters is not None else ""
            parts.append(f"{units or filters}{kernel} {last}".strip())
        elif pool is not None:
            parts.append(f"pool {'x'.join(map(str, pool))}")
        elif rate is not None:
            parts[-1] += f" (dropout {rate:g})"
    return " -> ".join(parts)


# ---- while it trains ----------------------------------------------------------------------------


class _Table:
    """Prints a line for some of the epochs: the first, the last and about eight between."""

    def __init__(self, problem: Problem, epochs: int):
        self.epochs, self.held = epochs, problem.held_name
        self.metric = "accuracy" if problem.card.task == CLASSES else "r2"
        self.keys = ["loss", self.metric]
        self.start = time.perf_counter()
        if problem.held_out is not None:
            self.keys += ["val_loss", f"val_{self.metric}"]
        titles = ["epoch"]
        for key in self.keys:
            name = key.removeprefix("val_").replace("r2", "R2")
            titles.append(f"{self.held} {name}" if key.startswith("val_") else f"{name:>8}")
        self.titles = [*titles, "time"]

    def begin(self) -> None:
        say("  ".join(self.titles))

    def epoch(self, epoch: int, logs: dict[str, float]) -> None:
        every = -(-self.epochs // _LINES)
        number = epoch + 1
        if number == 1 or number == self.epochs or number % every == 0:
            self.line(number, logs)

    def line(self, number: int, logs: dict[str, float]) -> None:
        cells = [str(number)]
        for key in self.keys:
            value = logs.get(key)
            if value is None:
                cells.append("")
            elif key.endswith("accuracy"):
                cells.append(percent(value))
            else:
                cells.append(f"{value:.4f}")
        cells.append(f"{time.perf_counter() - self.start:.1f} s")
        widths = [len(title) for title in self.titles]
        widths[-1] = 6
        say("  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True)))


def _fit(args: argparse.Namespace, problem: Problem, trainer: Trainer, batch: int,
         epochs: int) -> tuple[History, float]:  # fmt: skip
    """Train, with a table on stdout and a progress bar on stderr if that is a terminal."""
    import sys
    import warnings

    from ..callbacks import LambdaCallback

    lines = _Table(problem, epochs)
    callbacks = []
    if not args.quiet:
        lines.begin()
        callbacks.append(LambdaCallback(on_epoch_end=lines.epoch))
    y, held = problem.y, problem.held_out
    if problem.card.task == NUMBERS:
        y = standardised(problem, y)
        held = None if held is None else (held[0], standardised(problem, held[1]))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "interrupted": said in _report
        history = trainer.fit(
            problem.x, y, batch_size=batch, epochs=epochs, validation_data=held,
            seed=args.seed, callbacks=callbacks,
            progress="auto" if sys.stderr.isatty() and not args.quiet else False,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    if problem.card.task == NUMBERS:
        fold_scale(trainer.network, problem.shift, problem.scale)
    return history, seconds


# ---- after it -----------------------------------------------------------------------------------


def in_words(result: dict[str, Any], what: str) -> str:
    """A measurement as text: 95.3 % of the 360 test images."""
    if "accuracy" in result:
        return f"{percent(result['accuracy'])} of the {plural(result['rows'], what)}"
    return (
        f"mean absolute error {result['mae']:.4g}, root mean square {result['rmse']:.4g}, "
        f"R2 {result['r2']:.4f} on the {plural(result['rows'], what)}"
    )


def _report(args: argparse.Namespace, problem: Problem, network: Any, rows: int,
            seconds: float) -> None:  # fmt: skip
    """Speed, and how good the network is on each part."""
    if not args.quiet:
        say(f"Trained on {rows:,} {problem.noun}s in {seconds:.2f} s "
            f"({rows / max(seconds, 1e-9):,.0f} a second)")  # fmt: skip
    verb = "Right on" if problem.card.task == CLASSES else "Result:"
    training = measure(network, problem.card, problem.x, problem.y)
    if not args.quiet or problem.held_out is None:
        say(f"{verb} {in_words(training, f'training {problem.noun}')}")
    results = {"train": training}
    if problem.held_out is not None:
        held = measure(network, problem.card, *problem.held_out)
        say(f"{verb} {in_words(held, f'{problem.held_name} {problem.noun}')}")
        results[problem.held_name] = held
    problem.card.training = {"results": results}


def _save(args: argparse.Namespace, problem: Problem, network: Any, history: History,
          seconds: float, out: str) -> None:  # fmt: skip
    from .. import __version__
    from ..storage import save

    problem.card.training |= {
        "split": args.validation_split if args.validation_split is not None else SPLIT,
        "fastnet": __version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "data": args.data,
        "loss": problem.loss,
        "optimizer": args.optimizer,
        "steps": history.steps,
        "seconds": round(seconds, 3),
        "seed": args.seed,
        "interrupted": history.interrupted,
    }
    replaced = os.path.exists(out)
    save(network, out, extra=problem.card.to_extra(network.input_shape))
    bytes_ = size(os.path.getsize(out))
    say(f"Saved to {out} ({bytes_}{', replacing an earlier file' if replaced else ''})")
    if not args.quiet and not history.interrupted:
        _next_commands(args, problem, out)


def _next_commands(args: argparse.Namespace, problem: Problem, out: str) -> None:
    model, source = shlex.quote(out), shlex.quote(args.data)
    lines = [
        (f"fastnet predict {model} {source} --count 5", "what it says, with scores"),
        (f"fastnet evaluate {model} --data {source}", "how often it is right, class by class"),
    ]
    if problem.card.task == NUMBERS:
        lines[1] = (lines[1][0], "how far off it is")
    if datas.is_images(problem.x):
        lines.append((f"fastnet show {source} --model {model} --wrong", "the images it misread"))
        lines.append((f"fastnet predict {model} picture.png", "a picture of yours"))
    else:
        lines.append((f"fastnet predict {model} new.csv", "rows of yours"))
    say()
    say("Try next:")
    for line in table(lines, left=2, indent="  "):
        say(line)
