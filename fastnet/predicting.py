"""What a network predicts: its inputs checked, runs of the engine over their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, check
from .errors import raise_bad_input
from .lowering import prediction

if TYPE_CHECKING:
    from .network import Network

#: Rows of one pass of predict; any number of rows gives the same bits.
_PREDICT_ROWS = 1024


def inputs_of(network: Network, name: str, x: Any) -> tuple[np.ndarray, ...]:
    """x as an array for each input, with the rows that the network wants."""
    if len(network.input_names) == 1 and not isinstance(x, dict):
        x = check.features(name, x)
        network._need_built("predict", x)
        return (check.rows(name, x, network.input_shape),)
    parts = check.parts(name, x, network.input_names)
    arrays = [check.features(what, part) for what, part in parts]
    network._need_built("predict", arrays[0])
    arrays = [
        check.rows(what, array, shape)
        for (what, _), array, shape in zip(parts, arrays, network._graph.input_shapes, strict=True)
    ]
    for (what, _), array in zip(parts, arrays, strict=True):
        if len(array) != len(arrays[0]):
            raise ValueError(f"{parts[0][0]} has {len(arrays[0])} rows and {what} has {len(array)}")
    return tuple(arrays)


def one_row(network: Network, x: np.ndarray, single: tuple[Any, ...]) -> np.ndarray:
    """One row: as little as possible around the engine's call."""
    _, shape, lowered = single
    out = np.empty(shape, np.float32)
    work = lowered.take_work()
    result = _core.run(lowered.plan, network.params, work, (x,), n_rows=1, batch_size=1, output=out)
    lowered.works.append(work)
    if result.status != "ok":
        raise_bad_input(result, "x")
    return out


def outputs_of(
    network: Network, xs: tuple[np.ndarray, ...], batch_size: int | None, layer: int | None = None
) -> list[np.ndarray]:
    """Arrays of all outputs, or of what one of `Lowered.labels` gives."""
    network._refresh()
    if batch_size is not None:
        batch_size = check.integer("batch_size", batch_size, low=1)
    n = len(xs[0])
    rows = min(n, batch_size or _PREDICT_ROWS) or 1
    rows = rows if rows in (1, _PREDICT_ROWS) else 1 << (rows - 1).bit_length()
    lowered = network._plan(prediction(rows, layer))
    shapes = network._graph.output_shapes if layer is None else [lowered.shapes[layer]]
    out = [np.empty((n, *shape), np.float32) for shape in shapes]
    rows = min(rows, n)
    chunk = n if rows == n else rows * lowered.steps_a_run(rows)
    work = lowered.take_work()
    try:
        for first in range(0, n, chunk or 1):  # signals get a turn between runs
            part = slice(first, first + chunk)
            result = _core.run(
                lowered.plan, network.params, work, [x[part] for x in xs],
                n_rows=min(chunk, n - first), batch_size=rows,
                output=tuple([y[part] for y in out]),
            )  # fmt: skip
            if result.status != "ok":
                raise_bad_input(result, network._source_name(result.bad_source), first)
    finally:
        lowered.works.append(work)
    if n == 1 and layer is None and len(xs) == len(out) == 1:
        network._single = (xs[0].shape, out[0].shape, lowered)
    return out
