"""Describe a model file: its layers, what it was trained on and how well it did."""

from __future__ import annotations

import argparse
from typing import Any

from .common import percent, plural, say, shape_text, size
from .model import CLASSES, Card, has_branches, read_card

HELP = "describe a model file"
EXAMPLES = """\
examples:
  fastnet info digits.safetensors
  fastnet info digits.safetensors --json | python -m json.tool
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that train or net.save wrote")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    from ..storage import info, load

    about = info(args.model)
    if about.kind == "kmeans":
        return _centers(args, about)
    if args.json:
        load(args.model)  # whatever is wrong with its weights
        _print_json(about)
        return 0
    network: Any = load(args.model)
    file = f"File      {about.path}: {size(about.size)}, schema {about.schema}, {about.written_by}"
    if has_branches(network):
        say(file)
        say(f"Inputs    {', '.join(network.input_names)}")
        say(f"Outputs   {', '.join(network.output_names)}")
        say()
        network.summary(print_fn=say)
        return 0
    card = read_card(about.extra, network)
    inputs = f"images of {shape_text(network.input_shape)} pixels"
    if card.pixels is None or len(network.input_shape) == 1:
        inputs = f"rows of {plural(network.input_shape[0], 'feature')}"
        if len(network.input_shape) > 1:
            inputs = f"rows of shape {network.input_shape}"
    say(file)
    say(f"Input     {inputs}")
    say(f"Output    {_output(network, card)}")
    for line in _training(card):
        say(line)
    say()
    network.summary(print_fn=say)
    return 0


def _centers(args: argparse.Namespace, about: Any) -> int:
    """A k-means model."""
    from ..storage import load

    model = load(args.model)
    if args.json:
        _print_json(about)
        return 0
    k, d = model.cluster_centers_.shape
    say(f"File      {about.path}: {size(about.size)}, schema {about.schema}, {about.written_by}")
    say(f"Model     {about.description['class']}, {plural(k, 'cluster')}, {model.metric}")
    say(f"Input     rows of {plural(d, 'feature')}")
    data, rows = about.extra.get("data"), about.extra.get("rows")
    if isinstance(data, str) and isinstance(rows, int):
        say(f"Fitted    on {plural(rows, 'row')} of {data[:80]}, "
            f"{plural(model.n_iter_, 'iteration')}, inertia {model.inertia_:.6g}")  # fmt: skip
    return 0


def _print_json(about: Any) -> None:
    import json

    fields = ("path", "size", "schema", "kind", "written_by", "parameters", "extra", "description")
    result = {name: getattr(about, name) for name in fields}
    result["weights"] = {name: list(shape) for name, shape in about.shapes.items()}
    say(json.dumps(result, indent=2))


def _output(network: Any, card: Card) -> str:
    if card.task != CLASSES:
        return plural(network.output_shape[-1], "number")
    names = ", ".join(card.classes[:12]) + (", ..." if len(card.classes) > 12 else "")
    return f"{len(card.classes)} classes: {names}"


def _training(card: Card) -> list[str]:
    """What training left in the file; any of it may be missing or of another kind."""
    training = card.training
    lines = []
    if card.data:
        what = f"Trained   on {card.data}"
        for key, text in (("date", ", {}"), ("optimizer", ", {}"), ("steps", ", {} steps"),
                          ("seed", ", seed {}")):  # fmt: skip
            if key in training:
                what += text.format(str(training[key])[:40])
        if training.get("interrupted") is True:
            what += ", interrupted"
        lines.append(what)
    results = training.get("results")
    for part, numbers in (results if isinstance(results, dict) else {}).items():
        if isinstance(numbers, dict):
            values = ", ".join(
                f"{key} {percent(value) if key == 'accuracy' else format(value, '.4g')}"
                for key, value in numbers.items()
                if isinstance(value, int | float) and key not in ("rows", "right")
            )  # fmt: skip
            lines.append(f"          {str(part)[:20]}: {values}")
    return lines
