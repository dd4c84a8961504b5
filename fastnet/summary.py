"""The text of ``net.summary()``: layers, shapes, parameters, multiply-adds, memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import check
from .drawing import kind, rows_of, value_names
from .graph import Nested
from .losses import MSE
from .lowering import Request

if TYPE_CHECKING:
    from .network import Network


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def memory(network: Network, batch_size: int) -> dict[str, int]:
    """Bytes that the engine takes: "weights", "arena" of a training step and "thread", what each of
    its threads works in besides, "predict" of one row.

    Training with an optimizer of s slots takes weights x (2 + s) + arena: the weights, the snapshot
    that bad input falls back to, and the slots; one more where gradients are kept (global_clipnorm,
    `Trainer.gradients`), and one more after a second, which divergence falls back to.
    """
    network._need_built("summary")
    train = network._plan(
        Request("train", batch_size, (MSE(),) * len(network.output_names))
    ).plan.describe()
    predict = network._plan(Request("predict", 1)).plan.describe()
    return {
        "weights": train["param_bytes"],
        "arena": train["arena_bytes"],
        "thread": train["thread_bytes"],
        "predict": predict["arena_bytes"] + predict["thread_bytes"],
    }


def _table(rows: list[tuple[str, ...]], right: tuple[int, ...] = (2, 3)) -> list[str]:
    """Columns aligned, those of numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:], rule]


def _connections(network: Network) -> dict[int, str]:
    """What each layer reads, by its id; of one that is called several times one call after the
    other."""
    names = value_names(network)
    calls: dict[int, list[str]] = {}
    for made in network._graph.calls:
        calls.setdefault(id(made.layer), []).append(", ".join(names[v] for v in made.inputs))
    return {layer: "; ".join(texts) for layer, texts in calls.items()}


def _layer_rows(network: Network) -> Iterator[tuple[str, ...]]:
    """Name and kind, shape, parameters and multiply-adds of each layer, and what it reads."""
    reads = _connections(network)
    for layer in network.layers:
        inside = layer.inside._leaves() if isinstance(layer, Nested) else [("", layer)]
        count = sum(math.prod(w.shape) for _, leaf in inside for w in leaf.weights())
        shapes = (
            layer.output_shape if isinstance(layer.output_shape, list) else [layer.output_shape]
        )
        shape = ", ".join(map(rows_of, shapes))
        adds = layer.multiply_adds()
        row = (f"{layer.label} ({kind(layer)})", shape, f"{count:,}", f"{adds:,}")
        yield (*row, reads.get(id(layer), "")) if network._fixed else row


def summary(network: Network, batch_size: int = 32) -> str:
    """The summary as text."""
    network._need_built("summary")
    batch_size = check.integer("batch_size", batch_size, low=1)
    if batch_size >= 2**31:
        raise ValueError(f"batch_size must be below 2**31, got {batch_size}")
    titles: tuple[str, ...] = ("layer", "output shape", "parameters", "multiply-adds")
    if network._fixed:
        titles += ("reads",)
    weights = [weight for _, weight in network._weight_list()]
    total = sum(math.prod(w.shape) for w in weights)
    frozen = sum(math.prod(w.shape) for w in weights if not w.trainable)
    adds = sum(made.layer.multiply_adds() for made in network._graph.calls)
    need = memory(network, batch_size)
    shapes = ", ".join(map(str, network._graph.input_shapes))
    lines = [f"{network.name}: rows of shape {shapes}", *_table([titles, *_layer_rows(network)])]
    lines.append(f"parameters: {total:,} ({_bytes(total * 4)}), trained: {total - frozen:,}")
    lines.append(f"multiply-adds a row: {adds:,} forward")
    lines.append(
        f"memory: weights {_bytes(need['weights'])}; predicting a row {_bytes(need['predict'])}; "
        f"a training step of {batch_size} rows adds {_bytes(need['arena'])},\n"
        f"  {_bytes(need['thread'])} for each thread and 1 to 5 times the weights (snapshots, "
        "optimizer slots, gradients)"
    )
    return "\n".join(lines)
