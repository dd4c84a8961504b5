"""Measure a model on a data set: how often it is right, class by class, or how far off it is."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from . import data as datas
from .common import add_label, add_threads, note, percent, plural, say, table
from .model import CLASSES, Card, as_rows, open_model

HELP = "measure a model on a data set"
EXAMPLES = """\
examples:
  fastnet evaluate digits.safetensors                   on the test part of the data it learned
  fastnet evaluate mnist.safetensors --data mnist
  fastnet evaluate iris.safetensors --data more.csv --format json
"""
_MOST_LINES = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that train or net.save wrote")
    parser.add_argument(
        "--data", metavar="DATA",
        help="digits, mnist, fashion-mnist, FILE.csv, FILE.npz, or a FOLDER of IDX files or "
        "of pictures (default: what the model was trained on)",
    )  # fmt: skip
    parser.add_argument(
        "--part", choices=("train", "test"),
        help="which part of the data (default: test where there is one)",
    )  # fmt: skip
    add_label(parser, "as in training")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    from ..threads import threads

    network, card = open_model(args.model)
    source = args.data or card.training.get("data") or card.data or "digits"
    datas.check_options(str(source), args.label)
    pictures = datas.Pictures.like(card, network.input_shape, str(source))
    label = card.label if args.label is None else args.label
    data = datas.open_data(str(source), label, pictures)
    part = datas.pick_part(data, args.part)
    x = as_rows(part.x, network, card, data.name)
    if not len(x):
        raise ValueError(f"{data.name}: no rows to measure on")
    if data.name == card.data and (data.x_test is None or args.part == "train"):
        note("these are rows that the model was trained on (or some of them)")
    with threads(args.threads):
        if card.task == CLASSES:
            result = _classes(network, card, x, datas.model_codes(data, part, card))
        else:
            datas.need_numbers(data, "the model")
            result = _numbers(network, card, x, part.y, data.name)
    result = {"model": args.model, "data": data.name, "part": part.what, **result}
    if args.format == "json":
        import json

        say(json.dumps(result, indent=2))
    else:
        _print(result)
    return 0


def _classes(network: Any, card: Card, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    from ..trainer import Trainer

    loss = "binary_cross_entropy" if network.output_shape[-1] == 1 else "cross_entropy"
    value = Trainer(network, loss).evaluate(x, y)["loss"]
    said = network.predict_classes(x)
    classes = {}
    for code, name in enumerate(card.classes):
        mine = said[y == code]
        if not len(mine):
            continue
        wrong = np.bincount(mine[mine != code], minlength=1)
        worst = int(wrong.argmax())
        classes[name] = {
            "rows": len(mine),
            "right": int((mine == code).sum()),
            "taken_for": [card.classes[worst], int(wrong[worst])] if wrong.max() else None,
        }
    right = int((said == y).sum())
    return {"rows": len(x), "right": right, "accuracy": right / len(x), "loss": value,
            "classes": classes}  # fmt: skip


def _numbers(network: Any, card: Card, x: np.ndarray, y: Any, name: str) -> dict[str, Any]:
    from .problem import measure

    if y is None:
        raise ValueError(f"{name}: no labels in it")
    outputs, given = network.output_shape[-1], np.asarray(y).size // len(x)
    if given != outputs:
        raise ValueError(f"{name}: {given} labels a row, but the model predicts {outputs}")
    return measure(network, card, x, y)


def _print(result: dict[str, Any]) -> None:
    say(f"{result['data']}: {plural(result['rows'], result['part'])}")
    if "accuracy" not in result:
        for key, title in (("mae", "mean absolute error"), ("rmse", "root mean square error"),
                           ("r2", "R2 (1 is perfect)")):  # fmt: skip
            say(f"{title:24}{result[key]:.5g}")
        return
    say(f"right  {percent(result['accuracy'])}  ({result['right']:,} of {result['rows']:,})")
    say(f"loss   {result['loss']:.4f}  (cross-entropy)")
    classes = result["classes"]
    shown = sorted(classes.items(), key=lambda item: item[1]["right"] / item[1]["rows"])
    title = "class"
    if len(classes) > _MOST_LINES:
        shown, title = shown[:_MOST_LINES], f"worst {_MOST_LINES}"
    else:
        shown = list(classes.items())
    rows = [(title, "rows", "right", "most often taken for")]
    for name, line in shown:
        taken = line["taken_for"]
        rows.append((name, f"{line['rows']:,}", percent(line["right"] / line["rows"]),
                     f"{taken[0]} ({plural(taken[1], 'time')})" if taken else ""))  # fmt: skip
    say()
    last = max(len(row[3]) for row in rows)
    for line in table([(*row[:3], row[3].ljust(last)) for row in rows]):
        say(line)
