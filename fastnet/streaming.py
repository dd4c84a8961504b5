"""Training on an iterable of batches: data larger than memory, or made on the fly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, check
from .fit import ArrayEpochs

if TYPE_CHECKING:
    from .trainer import Trainer


class BatchEpochs:
    """Epochs over batches (x, y) or (x, y, sample_weight); each batch is one step.

    A list or other re-iterable starts again every epoch; a generator goes on where it is and needs
    ``steps_per_epoch`` for more than one epoch.
    """

    rows: int | None = None

    def __init__(self, trainer: Trainer, batches: Iterable[Any], steps_per_epoch: int | None):
        self.trainer, self.batches = trainer, batches
        self.limit = None if steps_per_epoch is None else check.integer("steps_per_epoch", steps_per_epoch, low=1)
        self.iterator: Iterator[Any] | None = None
        self.epochs: dict[tuple[Any, ...], ArrayEpochs] = {}  # by kind of batch: its plan and memory
        self.current = self._next_batch()
        if self.current is None:
            raise ValueError("the iterable of batches is empty: there is nothing to train on")
        self.last_rows = 0

    def _next_batch(self) -> ArrayEpochs | None:
        if self.iterator is None:
            self.iterator = iter(self.batches)
        try:
            batch = next(self.iterator)
        except StopIteration:
            return None
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise ValueError("batches must be (x, y) or (x, y, sample_weight)")
        data = self.trainer._prepare(*batch)
        if not len(data):
            return self._next_batch()
        known = self.epochs.get((len(data), data.classes, data.weighted))
        if known is None:
            known = ArrayEpochs(self.trainer, data, "full", False)
            self.epochs[len(data), data.classes, data.weighted] = known
        known.data, known.first = data, 0
        return known

    @property
    def lowered(self) -> Any:
        return self._last.lowered

    @property
    def work(self) -> _core.Work:
        return self._last.work

    def begin_epoch(self, seed: int, epoch: int) -> None:
        self.done = 0
        if self.current is None and not isinstance(self.batches, Iterator):
            self.iterator = None
            self.current = self._next_batch()
        for epochs in self.epochs.values():
            epochs.work.reset_metrics()
        self._last = self.current or next(iter(self.epochs.values()))

    def more(self) -> bool:
        return self.current is not None and (self.limit is None or self.done < self.limit)

    def run(self, optimizer: _core.Optimizer, step: int, seed: int, most_steps: int) -> Any:
        """The next batch."""
        self._last = self.current
        result = self.current.run(optimizer, step, seed, 1)
        self.last_rows, self.done = self.current.last_rows, self.done + 1
        if result.status == "ok":
            self.current = self._next_batch()
        return result

    def failing_rows(self, steps: int) -> np.ndarray:
        return self._last.failing_rows(0)

    def end(self) -> None:
        for epochs in self.epochs.values():
            epochs.end()
