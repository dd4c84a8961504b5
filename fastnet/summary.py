"""The text of ``net.summary()``: layers, shapes, parameters, multiply-adds, memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import check
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
    """Bytes that the engine takes: "weights", "arena" of a training step, "predict" of one row.

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
        "predict": predict["arena_bytes"],
    }


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:], rule]


def summary(network: Network, batch_size: int = 32) -> str:
    """The summary as text."""
    network._need_built("summary")
    batch_size = check.integer("batch_size", batch_size, low=1)
    rows: list[tuple[str, ...]] = [("layer", "output shape", "parameters", "multiply-adds")]
    total = frozen = adds = 0
    for layer in network.layers:
        weights = layer.weights()
        count = sum(math.prod(w.shape) for w in weights)
        total += count
        frozen += sum(math.prod(w.shape) for w in weights if not w.trainable)
        adds += layer.multiply_adds()
        shape = "(" + ", ".join(["n", *map(str, layer.output_shape)]) + ")"
        detail = getattr(layer, "activation", None)
        kind = type(layer).__name__ + (f", {detail}" if detail not in (None, "linear") else "")
        label = f"{layer.name} ({kind})"
        rows.append((label, shape, f"{count:,}", f"{layer.multiply_adds():,}"))
    need = memory(network, batch_size)
    lines = [f"{network.name}: rows of shape {network.input_shape}", *_table(rows)]
    lines.append(f"parameters: {total:,} ({_bytes(total * 4)}), trained: {total - frozen:,}")
    lines.append(f"multiply-adds a row: {adds:,} forward")
    lines.append(
        f"memory: weights {_bytes(need['weights'])}; a training step of {batch_size} rows adds "
        f"{_bytes(need['arena'])} and 1 to 5 times the weights "
        "(snapshots, optimizer slots, gradients); "
        f"predicting a row {_bytes(need['predict'])}"
    )
    return "\n".join(lines)
