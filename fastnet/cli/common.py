"""What the commands share: options, lines of output, formatted numbers."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn


class UsageError(Exception):
    """Wrong usage or bad input: one line on stderr and exit code 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


# ---- options ------------------------------------------------------------------------------------


def number(
    kind: type, low: float | None = None, below: float | None = None, above: float | None = None
) -> Callable[[str], Any]:
    """A type for options: int or float, with low <= value, above < value < below."""
    wanted = "a whole number" if kind is int else "a number"
    bounds = {">=": low, ">": above, "<": below}
    wanted += " and".join(f" {sign} {b:g}" for sign, b in bounds.items() if b is not None)

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        fits = abs(value) < float("inf")
        fits = fits and (low is None or value >= low)
        fits = fits and (above is None or value > above) and (below is None or value < below)
        if not fits:
            raise argparse.ArgumentTypeError(f"wanted {wanted}, got {text!r}")
        return value

    return parse


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=number(int, low=0), default=0, metavar="N",
        help="threads to use (default: what the machine allows); results do not depend on it",
    )  # fmt: skip


def add_label(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--label", metavar="COLUMN",
        help="CSV: the column with the labels, a name or a number from 0, negative from the end "
        f"(default: {default})",
    )  # fmt: skip


# ---- output -------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    """A line on stdout, above a progress bar if there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is not None:
        tqdm.tqdm.write(text, file=sys.stdout)
    else:
        print(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark on stderr, so that it stays out of what is piped on."""
    print(f"note: {text}", file=sys.stderr)


def colors(stream: Any = None) -> bool:
    """Whether to send colour codes: a terminal, not dumb, and no NO_COLOR."""
    stream = stream or sys.stdout
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say on stderr what takes a while, where that is a terminal, and take it back when done."""
    shown = sys.stderr.isatty() and colors(sys.stderr)
    if shown:
        print(f"{text} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]], left: int = 1, indent: str = "") -> list[str]:
    """Rows of texts as aligned lines; the first `left` columns flush left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def percent(share: float) -> str:
    """0.9534 -> "95.3 %"; never 100.0 % for less than all."""
    text = f"{100 * share:.1f}"
    return f"{'99.9' if text == '100.0' and share < 1 else text} %"


def plural(n: int, what: str) -> str:
    """1437, "image" -> "1,437 images"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def size(n: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "bytes" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def shape_text(shape: Sequence[int]) -> str:
    """(8, 8) -> "8 x 8"."""
    return " x ".join(map(str, shape))
