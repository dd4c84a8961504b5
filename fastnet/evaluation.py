"""Loss and metrics of a trainer's network: on data, and out of the sums of the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import _core, check
from .errors import raise_bad_input
from .losses import Custom
from .lowering import Lowered
from .predicting import outputs_of
from .targets import Data

if TYPE_CHECKING:
    from .network import Network
    from .trainer import Trainer

_EVALUATE_ROWS = 1024


def source_name(network: Network, i: int) -> str:
    """What source i of a plan that trains is called in messages."""
    for name, names in (("x", network.input_names), ("y", network.output_names)):
        if i < len(names):
            return check.part_name(name, names, i)
        i -= len(names)
    return "sample_weight"


def metric_results(lowered: Lowered, *works: _core.Work) -> dict[str, float]:
    """The metrics' numbers, from the sums of all works."""
    if not lowered.metrics:
        return {}
    parts = [work.metrics() for work in works]
    sums = [
        [sum(values) for values in zip(*part, strict=True)] for part in zip(*parts, strict=True)
    ]
    return {name: float(metric.result(sums[i])) for name, metric, i in lowered.metrics}


def sum_losses(works: Iterable[_core.Work]) -> list[tuple[float, float]]:
    """Sums of each loss and of its weights, over all works."""
    parts = zip(*(work.losses() for work in works), strict=True)
    return [(sum(loss for loss, _ in part), sum(w for _, w in part)) for part in parts]


def loss_results(trainer: Trainer, sums: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The losses' numbers, from their sums: of all outputs together, and of each."""
    means = [loss / weight if weight else 0.0 for loss, weight in sums]
    total = sum(scale * mean for scale, mean in zip(trainer.loss_weights, means, strict=True))
    names = trainer.network.output_names
    return {"loss": total} | {f"{n}_loss": m for n, m in zip(names, means, strict=True)}


def call_loss(loss: Custom, y: np.ndarray, y_hat: np.ndarray) -> tuple[float, np.ndarray]:
    """The (value, gradient) of a loss function, checked."""
    # A copy: y may be the caller's array, and the function may compute in place.
    answer = loss.function(y.copy(), y_hat)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"the loss function must return (value, gradient), got {type(answer).__name__}"
        )
    value, gradient = answer
    gradient = check.float32(check.array("the loss's gradient", gradient))
    if gradient.shape != y_hat.shape:
        raise ValueError(f"the loss's gradient must have shape {y_hat.shape}, got {gradient.shape}")
    try:
        return float(value), gradient
    except (TypeError, ValueError):
        raise TypeError(f"the loss's value must be a number, got {value!r:.60}") from None


def evaluate(trainer: Trainer, data: Data) -> dict[str, float]:
    """Loss and metrics on data that is checked, as `Trainer.evaluate` returns them."""
    trainer.network._refresh()
    if isinstance(trainer.losses[0], Custom):
        return _evaluate_custom(trainer, trainer.losses[0], data)
    rows = min(len(data), _EVALUATE_ROWS)
    lowered = trainer._plan(data, "evaluate", rows)
    chunk = rows * lowered.steps_a_run(rows)
    work = lowered.take_work()
    try:
        work.reset_metrics()
        loss = weight = 0.0
        for first in range(0, len(data), chunk):
            result = _core.run(
                lowered.plan, trainer.network.params, work, data.sources, first=first,
                n_rows=min(chunk, len(data) - first), batch_size=rows,
            )  # fmt: skip
            if result.status == "input":
                raise_bad_input(result, source_name(trainer.network, result.bad_source))
            loss, weight = loss + result.loss, weight + result.weight
            if result.status == "diverged":
                loss = math.nan
                break
        logs = {"loss": loss / weight if weight else 0.0}
        if len(trainer.losses) > 1:
            logs = loss_results(trainer, sum_losses([work])) | ({} if loss == loss else logs)
        return logs | metric_results(lowered, work)
    finally:
        lowered.works.append(work)


def _evaluate_custom(trainer: Trainer, loss: Custom, data: Data) -> dict[str, float]:
    from .trainer import Trainer

    (y_hat,) = outputs_of(trainer.network, data.inputs, None)
    value, _ = call_loss(loss, data.targets[0], y_hat)
    logs = evaluate(Trainer(trainer.network, "mse", metrics=trainer._metrics[0]), data)
    return logs | {"loss": value}
