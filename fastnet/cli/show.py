"""Page through a data set's images and labels in the terminal (rows, for a table)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import data as datas
from .common import UsageError, add_label, number, table
from .pictures import Style, draw, fit_width

HELP = "page through a data set's images and labels"
EXAMPLES = """\
examples:
  fastnet show                                              the digits; n next, p back, q quit
  fastnet show mnist --start 100 --count 6
  fastnet show digits --only 8                              one class
  fastnet show digits --model digits.safetensors --wrong    what a model gets wrong
  fastnet show mnist --count 1 | cat                        plain text, no colours
"""
_PLAIN_COUNT = 10
_GAP = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="DATA", nargs="?",
        help="digits, mnist, fashion-mnist, FILE.csv, FILE.npz, or a FOLDER of IDX files "
        "or of pictures (default: digits)",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DATA", help="the same")
    add_label(parser, "the last")
    parser.add_argument("--part", choices=("train", "test"),
                        help="which part (default: train; with --model: test)")  # fmt: skip
    parser.add_argument("--start", type=number(int, low=0), default=0, metavar="N",
                        help="the first image, from 0 (default: 0)")  # fmt: skip
    parser.add_argument(
        "--count", type=number(int, low=1), metavar="N",
        help=f"print so many and end (default: pages; {_PLAIN_COUNT} where that cannot be)",
    )  # fmt: skip
    parser.add_argument("--only", metavar="CLASS", help="images with this label only")
    parser.add_argument("--model", metavar="MODEL", help="say what this model takes them for")
    parser.add_argument("--wrong", action="store_true",
                        help="with --model: only what it gets wrong")  # fmt: skip


@dataclass
class _Album:
    """What there is to show: rows of x by `rows`, and the line above each."""

    x: np.ndarray
    rows: np.ndarray
    labels: list[str] | None
    said: list[str] | None
    what: str
    feature_names: Sequence[str] | None
    images: bool

    def title(self, row: int) -> str:
        text = f"{row}"
        if self.labels is not None:
            text += f": {self.labels[row]}"
        if self.said is not None and (self.labels is None or self.said[row] != self.labels[row]):
            text += f" (said {self.said[row]})"
        return text


def run(args: argparse.Namespace) -> int:
    if args.source and args.data:
        raise UsageError(f"two data sets: {args.source} and --data {args.data}")
    if args.wrong and not args.model:
        raise UsageError("--wrong wants --model MODEL")
    album = _open(args, args.source or args.data or "digits")
    if not len(album.rows):
        print(f"{album.what}: nothing to show")
        return 0
    if args.start >= len(album.rows):
        raise UsageError(f"--start {args.start}: there are {len(album.rows):,} to show")
    if args.count is None and _interactive():
        from .pager import Pager

        Pager(lambda first, size: _page(album, first, size), len(album.rows), args.start).run()
        return 0
    stop = min(args.start + (args.count or _PLAIN_COUNT), len(album.rows))
    columns = shutil.get_terminal_size().columns
    for line in _lines(album, range(args.start, stop), columns, Style.of(sys.stdout)):
        print(line)
    if args.count is None:
        print(f"{album.what}: {args.start} to {stop - 1} of {len(album.rows):,} (--start, --count)")
    return 0


def _interactive() -> bool:
    """Whether keys can be read and the screen can be cleared."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _open(args: argparse.Namespace, source: str) -> _Album:
    datas.check_options(source, args.label)
    data = datas.open_data(source, args.label, _pictures_for(args.model, source))
    part = datas.pick_part(data, args.part or ("test" if args.model and data.x_test is not None
                                               else "train"))  # fmt: skip
    labels = None if part.y is None else _texts(part.y, data.classes)
    said = None
    keep = np.ones(len(part), bool)
    if args.model:
        said = _said(args.model, part, data.name)
        if args.wrong:
            if labels is None:
                raise UsageError(f"{data.name}: no labels to compare with")
            keep &= np.array([a != b for a, b in zip(labels, said, strict=True)])
    if args.only is not None:
        if labels is None or args.only not in labels:
            known = ", ".join(sorted(set(labels or []))[:20])
            raise UsageError(f"no label {args.only!r} there; known are: {known}")
        keep &= np.array([label == args.only for label in labels])
    x = part.x
    images = datas.is_images(x)
    if not images and x.ndim == 2 and datas.pixel_range(x) is not None:  # rows of a square's pixels
        width = int(np.sqrt(x.shape[1]))
        x, images = x.reshape(len(x), width, width), True
    return _Album(x, np.flatnonzero(keep), labels, said, f"{data.name}, {part.what}s",
                  data.feature_names, images)  # fmt: skip


def _texts(y: np.ndarray, classes: Any) -> list[str]:
    if classes is not None:
        names = [str(name) for name in classes]
        return [names[k] for k in np.asarray(y).reshape(-1)]
    if datas.is_one_hot(np.asarray(y)):
        return [str(k) for k in y.argmax(axis=1)]
    return [" ".join(f"{v:g}" for v in np.atleast_1d(row)) for row in y]


def _pictures_for(model: str | None, source: str) -> datas.Pictures | None:
    """How a model wants a folder of pictures to be read."""
    from .model import open_model

    if model is None:
        return None
    network, card = open_model(model)
    return datas.Pictures.like(card, network.input_shape, source)


def _said(model: str, part: datas.Part, name: str) -> list[str]:
    from .model import CLASSES, as_rows, open_model

    network, card = open_model(model)
    x = as_rows(part.x, network, card, name)
    if card.task != CLASSES:
        return [" ".join(f"{v:.4g}" for v in row) for row in network.predict(x).reshape(len(x), -1)]
    return [card.classes[k] for k in network.predict_classes(x)]


# ---- drawing ------------------------------------------------------------------------------------


def _page(album: _Album, first: int, size: os.terminal_size) -> tuple[list[str], int]:
    """The lines of a page that begins at `first`, and how many it shows; a line is left free."""
    style = Style.of(sys.stdout)
    count = _page_size(album, first, size, style)
    places = range(first, min(first + count, len(album.rows)))
    return _lines(album, places, size.columns, style)[: size.lines - 1], len(places)


def _page_size(album: _Album, first: int, size: os.terminal_size, style: Style) -> int:
    if not album.images:
        return max(1, size.lines - 2)
    across, _, height = _cell(album, size.columns, style)
    return across * max(1, (size.lines - 1) // (height + 2))


def _cell(album: _Album, columns: int, style: Style) -> tuple[int, int, int]:
    """Images side by side, and the width and height of one in characters."""
    lines = draw(fit_width(album.x[0], columns, style), style)
    longest = max(len(album.title(int(row))) for row in album.rows[:500])
    width = max(style.width(fit_width(album.x[0], columns, style)), min(longest, 24))
    return max(1, (columns + _GAP) // (width + _GAP)), width, len(lines)


def _lines(album: _Album, places: range, columns: int, style: Style) -> list[str]:
    """The images at these places of the album, side by side, a title above each."""
    if not album.images:
        return _rows_as_text(album, places, columns)
    across, width, _ = _cell(album, columns, style)
    lines = []
    for first in range(places.start, places.stop, across):
        rows = [int(album.rows[i]) for i in range(first, min(first + across, places.stop))]
        titles = [album.title(row)[:width].ljust(width) for row in rows]
        lines.append((" " * _GAP).join(titles).rstrip())
        pictures = []
        for row in rows:
            image = fit_width(album.x[row], columns, style)
            pad = " " * (width - style.width(image))
            pictures.append([line + pad for line in draw(image, style)])
        for parts in zip(*pictures, strict=True):
            line = (" " * _GAP).join(parts)
            lines.append(line if style.color else line.rstrip())
        lines.append("")
    return lines


def _rows_as_text(album: _Album, places: range, columns: int) -> list[str]:
    """Rows of a table, as many columns as fit."""
    flat = album.x.reshape(len(album.x), -1)
    names = list(album.feature_names or (f"x{i}" for i in range(flat.shape[1])))
    shown = min(flat.shape[1], max(1, (columns - 20) // 10))
    more = ["..."] if shown < flat.shape[1] else []
    lines = [["row: label", *(name[:12] for name in names[:shown]), *more]]
    for i in places:
        row = int(album.rows[i])
        cells = [f"{value:.4g}" for value in flat[row, :shown].astype(np.float64)]
        lines.append([album.title(row), *cells, *more])
    return [line[:columns] for line in table(lines)]
