"""Predict classes with scores, or numbers, for pictures, arrays or rows of a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._pictures import SUFFIXES
from . import data as datas
from .common import UsageError, add_label, add_threads, note, number, percent
from .model import CLASSES, PREPARE, Card, as_rows, open_model, scores

HELP = "predict classes or numbers for pictures, arrays or rows"
_NO_MODEL = "mnist-cnn"  # of fastnet.zoo
EXAMPLES = """\
examples:
  fastnet predict three.png                         a digit you drew; no model named: the MNIST
                                                    network that comes with fastnet
  fastnet predict digits.safetensors three.png seven.jpg    pictures (pip install "fastnet[images]")
  fastnet predict digits.safetensors digits --count 5       rows of a known data set
  fastnet predict iris.safetensors new.csv --top 3 --format csv > answers.csv
  fastnet predict iris.safetensors 5.1,3.5,1.4,0.2          one row, typed
  fastnet predict digits.safetensors images.npy --format json
"""
_PICTURES = SUFFIXES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", metavar="[MODEL] INPUT", nargs="+",
        help="a file that train or net.save wrote (without one: the MNIST network that comes with "
        "fastnet), and a picture, a folder of pictures, .npy, .npz, .csv, a data set's name, or a "
        "row of numbers as 5.1,3.5,1.4",
    )  # fmt: skip
    parser.add_argument(
        "--prepare", choices=PREPARE, metavar="HOW",
        help="pictures: mnist or digits (a drawing, fitted and centred as they have them), pad "
        "(proportions kept) or stretch (default: as the model's data)",
    )  # fmt: skip
    parser.add_argument(
        "--top", type=number(int, low=1), metavar="K",
        help="how many classes to name, with scores (default: 1)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "csv", "json"), default="text")
    parser.add_argument("--count", type=number(int, low=1), metavar="N",
                        help="at most so many rows of each input")  # fmt: skip
    parser.add_argument("--start", type=number(int, low=0), default=0, metavar="ROW",
                        help="the first row, from 0 (default: 0)")  # fmt: skip
    add_label(parser, "as in training")
    add_threads(parser)


@dataclass
class _Input:
    """Rows of one input; `labels` where they are known."""

    name: str
    x: np.ndarray
    labels: list[str] | None = None
    single: bool = False


def run(args: argparse.Namespace) -> int:
    from ..threads import threads

    model, texts = _split(args.inputs)
    if model is None:
        from .. import zoo

        note(f"no model named: the network {_NO_MODEL!r} that comes with fastnet")
        model = str(zoo.path(_NO_MODEL))
    network, card = open_model(model)
    _check_options(args, texts, card)
    card.prepare = args.prepare or card.prepare
    inputs = [_read(each, args, network, card) for text in texts for each in _loose(text)]
    writer = {"text": _text, "csv": _csv, "json": _json}[args.format]
    with threads(args.threads):
        answers = (a for source in inputs for a in _predict(source, args, network, card))
        writer(answers, inputs, min(args.top or 1, len(card.classes)), card)
    return 0


def _check_options(args: argparse.Namespace, texts: list[str], card: Card) -> None:
    """UsageError for options that none of the inputs, or the model, has a use for."""
    if args.top is not None and card.task != CLASSES:
        raise UsageError("--top is for models of classes; this one predicts numbers")
    if args.label is not None and not any(map(datas.is_table, texts)):
        raise UsageError(f"--label is for tables ({', '.join(datas.TABLES)}); no input is one")
    if args.prepare is not None and not any(
        _is_picture(text) or os.path.isdir(text) for text in texts
    ):
        raise UsageError("--prepare is for pictures; no input is one")


def _is_picture(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in _PICTURES


# ---- reading ------------------------------------------------------------------------------------


def _split(texts: list[str]) -> tuple[str | None, list[str]]:
    """The model, or None, and the inputs. One that ends like a picture, a table or an array, is a
    data set's name or a row of numbers is no model."""
    first, rest = texts[0], texts[1:]
    if first.lower().endswith(".safetensors"):
        if not rest:
            raise UsageError(f"{first}: a model; name what to predict behind it")
        return first, rest
    suffix = os.path.splitext(first)[1].lower()
    data = suffix in (*_PICTURES, *datas.TABLES, ".npy", ".npz") or datas.is_named(first)
    if not rest or data or os.path.isdir(first) or typed_row(first) is not None:
        return None, texts
    return first, rest


def _loose(text: str) -> list[str]:
    """The pictures that lie in a folder by themselves, not by class; anything else as it is."""
    from ..readers import is_idx_folder, is_picture_folder

    if not os.path.isdir(text) or is_picture_folder(text) or is_idx_folder(text):
        return [text]
    names = sorted(n for n in os.listdir(text) if n.lower().endswith(_PICTURES) and n[0] != ".")
    return [os.path.join(text, name) for name in names] or [text]


def _read(text: str, args: argparse.Namespace, network: Any, card: Card) -> _Input:
    exists = os.path.exists(text)
    row = None if exists else typed_row(text)
    if row is not None:
        source = _Input(text, as_rows(row, network, card, text), single=True)
    elif _is_picture(text):
        source = _Input(text, _picture(text, network, card), single=True)
    elif datas.is_table(text) and exists:
        label = card.label if args.label is None else args.label
        x, labels = _table_rows(text, label, network, card)
        source = _Input(text, as_rows(x, network, card, text), labels)
    else:
        how = datas.Pictures.like(card, network.input_shape, text, args.prepare)
        data = datas.open_data(text, None, how)
        part = datas.pick_part(data, None)
        labels = None if part.y is None else _label_texts(data, part)
        single = part.y is None and part.x.shape == network.input_shape
        source = _Input(text, as_rows(part.x, network, card, text), labels, single)
    if args.start and args.start >= len(source.x):
        raise UsageError(f"{text}: it has {len(source.x):,} rows, --start {args.start} is behind")
    return source


def typed_row(text: str) -> np.ndarray | None:
    """A row of numbers as typed on the command line; None if it is something else."""
    try:
        return np.array([float(part) for part in text.split(",")], np.float32)
    except ValueError:
        return None


def _picture(path: str, network: Any, card: Card) -> np.ndarray:
    if card.pixels is None:
        raise UsageError(f"{path}: the model was trained on a table, not on pictures")
    image = datas.picture_row(path, network.input_shape, card)[None]
    if card.prepare in ("mnist", "digits") and not image.any():
        raise UsageError(f"{path}: nothing is drawn there")
    return image if card.pixels == 255 else image.astype(np.float32) / 255


def _table_rows(
    path: str, label: str | None, network: Any, card: Card
) -> tuple[np.ndarray, list[str] | None]:
    """Features in the model's order, and the labels where the table has that column too."""
    from ..readers import read_csv

    wanted = int(np.prod(network.input_shape))
    try:
        table = read_csv(path, label=None)
    except ValueError as error:  # perhaps a label that is a text
        try:
            table = read_csv(path, label=-1 if label is None else label)
        except ValueError:
            raise error from None
    if table.y_train is None and table.x_train.shape[1] == wanted + 1:
        table = read_csv(path, label=-1 if label is None else label)
    x = table.x_train
    if card.feature_names and table.feature_names:
        x = x[:, _columns(path, list(table.feature_names), card.feature_names)]
    if x.shape[1] != wanted:
        raise UsageError(f"{path}: the model wants {wanted} features, got {x.shape[1]}")
    part = datas.Part(x, table.y_train, "row")
    return x, None if table.y_train is None else _label_texts(table, part)


def _columns(path: str, found: list[str], wanted: list[str]) -> list[int]:
    """Where the model's features stand in a table whose columns have names."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(f"{path}: no column {missing[0]!r}; it has {', '.join(found[:12])}")
    if found != wanted:
        note(f"{path}: columns are taken by their names")
    return [found.index(name) for name in wanted]


def _label_texts(data: Any, part: datas.Part) -> list[str]:
    y = np.asarray(part.y)
    if data.classes is not None:
        return [str(data.classes[k]) for k in y.reshape(-1)]
    if datas.is_one_hot(y):
        return [str(k) for k in y.argmax(axis=1)]
    return [" ".join(f"{v:g}" for v in np.atleast_1d(row)) for row in y]


# ---- predicting ---------------------------------------------------------------------------------


@dataclass
class _Answer:
    """What the model says of one row."""

    source: _Input
    row: int
    values: np.ndarray  # a score each class, or the predicted numbers

    @property
    def label(self) -> str | None:
        return self.source.labels[self.row] if self.source.labels else None

    @property
    def place(self) -> str:
        return self.source.name if self.source.single else f"{self.source.name}[{self.row}]"

    def best(self, top: int, card: Card) -> list[tuple[str, float]]:
        """The `top` classes with their scores, the best first."""
        order = np.argsort(-self.values, kind="stable")[:top]
        return [(card.classes[k], float(self.values[k])) for k in order]


def _predict(
    source: _Input, args: argparse.Namespace, network: Any, card: Card
) -> Iterator[_Answer]:
    """Answers in blocks, so that the first is there soon and memory stays small."""
    stop = len(source.x) if args.count is None else min(len(source.x), args.start + args.count)
    for first in range(args.start, stop, 4096):
        outputs = network.predict(source.x[first : min(first + 4096, stop)])
        if card.task == CLASSES:
            outputs = scores(outputs, network, card)
        for i, values in enumerate(outputs.reshape(len(outputs), -1)):
            yield _Answer(source, first + i, values)


# ---- writing ------------------------------------------------------------------------------------


def _text(answers: Iterator[_Answer], inputs: list[_Input], top: int, card: Card) -> None:
    widest = max(len(s.name) + (0 if s.single else len(f"[{len(s.x) - 1}]")) for s in inputs)
    wide = min(max(map(len, card.classes), default=0), 30)
    known = wrong = 0
    for answer in answers:
        line = f"{answer.place:{min(widest, 40)}}  "
        label = answer.label
        if card.task == CLASSES:
            best = answer.best(top, card)
            line += "   ".join(f"{name:{wide}}  {percent(score):>7}" for name, score in best)
            known += label is not None
            if label is not None and label != best[0][0]:
                wrong += 1
                line += f"   wrong: it is {label}"
        else:
            line += "  ".join(f"{value:.6g}" for value in answer.values)
            line += f"   (is {label})" if label is not None else ""
        print(line)
    if known > 1:
        print(f"{known - wrong:,} of {known:,} right")


def _csv(answers: Iterator[_Answer], inputs: list[_Input], top: int, card: Card) -> None:
    import csv

    out = csv.writer(sys.stdout, lineterminator="\n")
    head = ["input", "row"]
    if card.task == CLASSES:
        head += ["prediction", "score"]
        head += [f"{what}_{k}" for k in range(2, top + 1) for what in ("class", "score")]
    for i, answer in enumerate(answers):
        if card.task == CLASSES:
            cells = [c for name, p in answer.best(top, card) for c in (name, f"{p:.6f}")]
        else:
            cells = [repr(float(np.float32(v))) for v in answer.values]
        if i == 0:
            if card.task != CLASSES:
                one = len(answer.values) == 1
                head += ["prediction"] if one else [f"output_{k}" for k in range(len(cells))]
            out.writerow(head)
        out.writerow([answer.source.name, answer.row, *cells])


def _json(answers: Iterator[_Answer], inputs: list[_Input], top: int, card: Card) -> None:
    import json

    result = []
    for answer in answers:
        item: dict[str, Any] = {"input": answer.source.name, "row": answer.row}
        if card.task == CLASSES:
            best = answer.best(top, card)
            item["prediction"], item["score"] = best[0][0], round(best[0][1], 6)
            item["top"] = [{"class": name, "score": round(p, 6)} for name, p in best]
        else:
            values = [float(v) for v in answer.values]
            item["prediction"] = values[0] if len(values) == 1 else values
        if answer.label is not None:
            item["label"] = answer.label
        result.append(item)
    print(json.dumps(result, indent=1))
