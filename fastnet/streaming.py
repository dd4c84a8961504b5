"""Training on an iterable of batches: data larger than memory, or made on the fly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, check
from .evaluation import metric_results, sum_losses
from .fit import ArrayEpochs

if TYPE_CHECKING:
    from .trainer import Trainer


def _is_empty(x: Any) -> bool:
    if getattr(x, "shape", ()):
        return x.shape[0] == 0
    return hasattr(x, "__len__") and len(x) == 0


class BatchEpochs:
    """Epochs over batches (x, y) or (x, y, sample_weight); each batch is one step.

    A list or other re-iterable starts again every epoch, or when ``steps_per_epoch`` wants more
    than it holds; an iterator goes on where it is. Nothing is taken from it ahead of its turn but
    the first batch. Batches without rows are skipped.
    """

    rows: int | None = None

    def __init__(
        self, trainer: Trainer, batches: Iterable[Any], epochs: int, steps_per_epoch: int | None
    ):
        self.trainer, self.batches = trainer, batches
        self.limit = steps_per_epoch
        if steps_per_epoch is not None:
            self.limit = check.integer("steps_per_epoch", steps_per_epoch, low=1)
        self.again = not isinstance(batches, Iterator)
        if epochs > 1 and not self.again and self.limit is None:
            raise ValueError(
                f"an iterator cannot start again for {epochs} epochs: give steps_per_epoch, "
                "or a list or an object whose __iter__ starts again"
            )
        self.iterator = iter(batches)
        self.works: list[ArrayEpochs] = []  # a plan and its memory for each kind of batch
        self.next: Any = None
        self.done = self.last_rows = 0
        if not self._fetch():
            raise ValueError("the iterable of batches is empty: there is nothing to train on")
        self.next = self.current = self._prepared(self.next)

    def _fetch(self) -> bool:
        """Get the next batch that has rows; False if there is none."""
        for batch in self.iterator:
            if isinstance(batch, tuple | list) and batch and _is_empty(batch[0]):
                continue
            self.next = batch
            return True
        return False

    def _prepared(self, batch: Any) -> ArrayEpochs:
        """The batch checked, in the smallest work that it fits into."""
        if isinstance(batch, ArrayEpochs):
            return batch
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise ValueError("batches must be (x, y) or (x, y, sample_weight)")
        data = self.trainer._prepare(*batch)
        n, kind = len(data), (data.classes, data.weighted)
        fitting = [
            work
            for work in self.works
            if work.batch_size >= n and (work.data.classes, work.data.weighted) == kind
        ]
        if fitting:
            work = min(fitting, key=lambda work: work.batch_size)
            work.replace(data)
        else:  # later ones are rounded up, so that there are few
            rows = 1 << (n - 1).bit_length() if self.works else n
            work = ArrayEpochs(self.trainer, data, "full", False, max_rows=rows)
            work.work.reset_metrics()
            self.works.append(work)
        return work

    def begin_epoch(self, seed: int, epoch: int) -> None:
        self.done = 0
        for work in self.works:
            work.work.reset_metrics()

    def more(self) -> bool:
        """Whether the epoch has a batch left; gets it."""
        if self.limit is not None and self.done >= self.limit:
            return False
        if self.next is not None or self._fetch():
            return True
        if not self.again or (self.limit is None and self.done):
            return False
        self.iterator = iter(self.batches)
        return self._fetch()

    @property
    def missing(self) -> int:
        """Steps that the epoch has less than ``steps_per_epoch``."""
        return 0 if self.limit is None else self.limit - self.done

    def metrics(self) -> dict[str, float]:
        """The epoch's metrics so far."""
        return metric_results(self.current.lowered, *(work.work for work in self.works))

    def losses(self) -> list[tuple[float, float]]:
        """The epoch's sums so far: of each loss, and of its weights."""
        return sum_losses(work.work for work in self.works)

    def run(self, optimizer: _core.Optimizer, step: int, seed: int, most_steps: int) -> Any:
        """The next batch."""
        batch, self.next = self.next, None
        self.current = self._prepared(batch)
        result = self.current.run(optimizer, step, seed, 1)
        self.last_rows, self.done = self.current.last_rows, self.done + 1
        return result

    def failing_rows(self, steps: int) -> tuple[np.ndarray, ...]:
        """Rows of the inputs in the last batch."""
        return self.current.failing_rows(0)

    def end(self) -> None:
        for work in self.works:
            work.end()
