"""Gradients of one batch, and a step with gradients that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .errors import DivergenceError, raise_bad_input
from .evaluation import source_name
from .fit import diverged_layer
from .losses import Custom
from .lowering import Request
from .targets import Data

if TYPE_CHECKING:
    from .trainer import Trainer


def gradients_of(trainer: Trainer, data: Data) -> list[np.ndarray]:
    """`Trainer.gradients` of data that is checked."""
    if not len(data):
        raise ValueError("the batch has no rows")
    if isinstance(trainer.losses[0], Custom):
        raise ValueError("gradients wants one of fastnet's losses")
    net = trainer.network
    with net._training:
        lowered = trainer._plan(data, "train", len(data), "none")
        optimizer, params = trainer._begin()
        params.need_gradient()
        work = lowered.take_work()
        result = _core.run(
            lowered.plan, params, work, data.sources, n_rows=len(data), batch_size=len(data),
            rates=np.zeros(1), optimizer=optimizer, step=trainer.steps, seed=net.seed,
        )  # fmt: skip
        lowered.works.append(work)
        if result.status == "input":
            raise_bad_input(result, source_name(net, result.bad_source))
        if result.status == "diverged":
            layer = diverged_layer(net, data.inputs)
            raise DivergenceError(
                f"the loss of this batch is not finite; layer {layer!r}", layer, 0, 0
            )
        return [
            net._read(i, 3) if weight.trainable else np.zeros(weight.shape, np.float32)
            for i, (_, weight) in enumerate(net._weight_list())
        ]


def apply_gradients(trainer: Trainer, gradients: Sequence[Any]) -> None:
    """`Trainer.apply_gradients`."""
    net = trainer.network
    net._need_built("apply_gradients")
    arrays = net._as_weights("gradients", gradients)
    rates = trainer.optimizer.schedule.rates(trainer.steps, 1)
    with net._training:
        optimizer, params = trainer._begin()
        params.need_gradient()
        for i, array in enumerate(arrays):
            params.set(i, array, 3)
        lowered = net._plan(Request("train", 1, trainer.losses, update="flat"))
        start, work = trainer._keep_start(), lowered.take_work()
        _core.run(
            lowered.plan, params, work, (), n_rows=0, batch_size=1, rates=rates,
            optimizer=optimizer, step=trainer.steps, seed=net.seed, apply_only=True,
        )  # fmt: skip
        lowered.works.append(work)
        number = params.nonfinite()
        if number >= 0:
            layer, step = net._weight_names()[number].rpartition(".")[0], trainer.steps
            trainer._restart(start)
            raise DivergenceError(
                f"the step made weights of layer {layer!r} infinite", layer, 0, step
            )
        trainer.steps += 1
        net._changed()
