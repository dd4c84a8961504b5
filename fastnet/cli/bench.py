"""Measure fastnet against the libraries that are installed."""

from __future__ import annotations

import argparse

from .common import Parser

HELP = "measure speed against the libraries that are installed"
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing: all arguments, --help too, go to `fastnet.bench`."""


def run(args: argparse.Namespace) -> int:
    from ..bench import main

    try:
        return main(args.arguments, Parser)
    except SystemExit as end:  # --help, or an error that is told already
        return int(end.code or 0)
