"""The loop of a fit: epochs of runs, what is reported between them, what failure leaves behind."""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import _core, check
from .callbacks import CallbackList, plain
from .errors import DivergenceError, raise_bad_input
from .evaluation import call_loss, evaluate, loss_results, metric_results, source_name
from .history import History
from .losses import Custom
from .lowering import prediction
from .predicting import outputs_of
from .progress import Progress
from .targets import Data

if TYPE_CHECKING:
    from .network import Network
    from .trainer import Trainer

#: A run is sized to about this, so that Ctrl-C, progress and callbacks get a turn.
_RUN_SECONDS = 0.05


class ArrayEpochs:
    """Epochs over arrays: runs of minibatches sized to about 50 ms.

    `max_rows` is of batches to come (see `replace`), where that is more than the batch size.
    """

    missing = 0  # no epoch is short of steps

    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        batch_size: int | str,
        shuffle: bool,
        max_rows: int | None = None,
    ):
        if not len(data):
            raise ValueError("x has no rows: there is nothing to train on")
        if batch_size == "full":
            batch_size = len(data)
        elif isinstance(batch_size, str):
            raise ValueError(f"batch_size must be an integer or 'full', got {batch_size!r}")
        self.trainer, self.data, self.sources = trainer, data, data.sources
        self.batch_size = max_rows or min(check.integer("batch_size", batch_size, low=1), len(data))
        self.rows = len(data)
        loss = trainer.losses[0]
        self.custom = loss if isinstance(loss, Custom) else None
        self.lowered = trainer._plan(data, "train", self.batch_size, trainer._update_kind())
        self.work = self.lowered.take_work()
        self.steps_a_run = self.lowered.steps_a_run(self.batch_size)
        self.order = np.empty(len(data), np.int64) if shuffle else None
        self.first = self.last_first = self.last_rows = 0

    def replace(self, data: Data) -> None:
        """Go on with other rows, at most as many as a batch."""
        self.data, self.sources, self.rows, self.first = data, data.sources, len(data), 0

    def begin_epoch(self, seed: int, epoch: int) -> None:
        self.first = 0
        self.work.reset_metrics()
        if self.order is not None:
            _core.shuffle(seed, epoch, self.order)

    def more(self) -> bool:
        """Whether the epoch has minibatches left."""
        return self.first < self.rows

    def metrics(self) -> dict[str, float]:
        """The epoch's metrics so far."""
        return metric_results(self.lowered, self.work)

    def losses(self) -> list[tuple[float, float]]:
        """The epoch's sums so far: of each loss, and of its weights."""
        return self.work.losses()

    def failing_rows(self, steps: int) -> tuple[np.ndarray, ...]:
        """Rows of the inputs in the minibatch behind the first `steps` of the last run."""
        first = self.last_first + steps * self.batch_size
        rows = slice(first, min(first + self.batch_size, self.rows))
        chosen = rows if self.order is None else self.order[rows]
        return tuple(x[chosen] for x in self.data.inputs)

    def run(self, optimizer: _core.Optimizer, step: int, seed: int, most_steps: int) -> Any:
        """The next minibatches, at most so many."""
        if self.custom is not None:
            return self._run_custom(self.custom, optimizer, step, seed)
        left = self.rows - self.first
        steps = min(self.steps_a_run, most_steps, -(-left // self.batch_size))
        n = min(steps * self.batch_size, left)
        result = self._call(n, steps, optimizer, step, seed)
        self._trained(n)
        if result.seconds and most_steps > 1:
            wanted = _RUN_SECONDS / (result.seconds / steps)
            self.steps_a_run = max(1, int(min(wanted, 4 * self.steps_a_run)))
        return result

    def _call(
        self, n: int, steps: int, optimizer: _core.Optimizer, step: int, seed: int
    ) -> _core.Result:
        schedule = self.trainer.optimizer.schedule
        return _core.run(
            self.lowered.plan, self.trainer.network.params, self.work, self.sources,
            order=self.order, first=self.first, n_rows=n, batch_size=self.batch_size,
            rates=schedule.rates(step, steps), optimizer=optimizer,
            step=step, seed=seed,
        )  # fmt: skip

    def _trained(self, n: int) -> None:
        self.last_first, self.last_rows = self.first, n
        self.first += n

    def _run_custom(self, loss: Custom, optimizer: _core.Optimizer, step: int, seed: int) -> Any:
        """The plan stops at the predictions and goes on with the gradient that Python gave."""
        n = min(self.batch_size, self.rows - self.first)
        try:
            result = self._call(n, 1, optimizer, step, seed)
            if result.status != "stopped":
                return result
            shape = self.trainer.network.output_shape
            (output,) = self.lowered.outputs
            y_hat = self.work.rows(output, n, math.prod(shape))
            rows: Any = slice(self.first, self.first + n)
            y = self.data.targets[0][rows if self.order is None else self.order[rows]]
            value, gradient = call_loss(
                loss, y, np.frombuffer(y_hat, np.float32).reshape(n, *shape)
            )
            self.work.set_rows(output, gradient.reshape(n, -1), gradient=True)
            result = self._call(n, 1, optimizer, step, seed)
        except BaseException:
            self.work = _core.Work(self.lowered.plan)  # this one is in the middle of a minibatch
            raise
        self._trained(n)
        return CustomResult(result, value, n)

    def end(self) -> None:
        self.lowered.works.append(self.work)


class CustomResult:
    """A run's result with the loss that a Python function computed."""

    def __init__(self, result: _core.Result, value: float, n: int):
        self.status = result.status if np.isfinite(value) else "diverged"
        self.loss, self.weight, self.last_loss = value * n, float(n), value
        self.steps, self.seconds = result.steps, result.seconds
        self.bad_row, self.bad_column = result.bad_row, result.bad_column
        self.bad_source = result.bad_source


def diverged_layer(network: Network, rows: tuple[np.ndarray, ...]) -> str:
    """The first layer with weights, or else outputs for these rows, that are not finite."""
    number = network.params.nonfinite()
    if number >= 0:
        return network._weight_names()[number].rpartition(".")[0]
    labels = network._plan(prediction(1)).labels
    for i, label in enumerate(labels):
        if not np.isfinite(outputs_of(network, rows, None, layer=i)[0]).all():
            return label
    return labels[-1] if labels else network.name


class Fit:
    """One call of fit: the loop over epochs, what it reports, what its failure leaves behind."""

    def __init__(self, trainer: Trainer, work: Any, epochs: int, seed: int):
        self.trainer, self.work, self.epochs, self.seed = trainer, work, epochs, seed
        _, self.params = trainer._begin()
        if trainer._update_kind() == "flat":
            self.params.need_gradient()
        self.history = History()
        self.start = self.good_at = time.perf_counter()
        self.good = trainer._keep_start()
        self.steps = 0  # of this fit
        self.loss = self.weight = 0.0  # sums of the epoch

    # ---- weights to fall back to ----------------------------------------------------------------

    def _keep_good(self) -> None:
        """The weights are finite: once a second they become what divergence falls back to."""
        now = time.perf_counter()
        if now - self.good_at < 1:
            return
        trainer = self.trainer
        if trainer._snapshot is None:
            trainer._snapshot = _core.Params(trainer.network._plan(prediction(1)).plan)
        trainer._snapshot.copy_weights(self.params)
        self.good, self.good_at = trainer._snapshot, now

    def _fail(self, result: Any, epoch: int) -> NoReturn:
        """Put good weights back and raise what happened."""
        if result.status == "input":
            self.trainer._restart()
            raise_bad_input(result, source_name(self.trainer.network, result.bad_source))
        step = self.steps - (result.status == "ok")
        layer = diverged_layer(self.trainer.network, self.work.failing_rows(result.steps))
        self.trainer._restart(self.good)
        error = DivergenceError(
            f"training diverged in epoch {epoch}, step {step}: the first values that are not "
            f"finite are in layer {layer!r}. The last good weights are kept. A smaller learning "
            "rate (or global_clipnorm=1.0, or inputs scaled to about [-1, 1]) usually helps",
            layer, epoch, step,
        )  # fmt: skip
        error.history = self.history
        raise error

    # ---- the loop -------------------------------------------------------------------------------

    def run(self, validation: Data | None, callbacks: CallbackList, progress: Progress) -> History:
        """All epochs; Ctrl-C ends them early, with a warning."""
        self.trainer.stop_training = False
        self.logs: dict[str, float] = {}
        try:
            try:
                self._epochs(validation, callbacks, progress)
            except KeyboardInterrupt:
                self._interrupted()
            callbacks.call("on_train_end", plain(self.logs))
        finally:
            progress.close()
            self.work.end()
            self.history.steps = self.steps
            self.history.seconds = time.perf_counter() - self.start
        if self.history.interrupted:
            warnings.warn(
                f"fit was interrupted after {self.steps} steps; "
                "the network keeps what it has learned",
                RuntimeWarning,
                stacklevel=3,
            )
        return self.history

    def _epochs(self, validation: Data | None, callbacks: CallbackList, progress: Progress) -> None:
        trainer = self.trainer
        callbacks.call("on_train_begin", {})
        for epoch in range(self.epochs):
            if trainer.stop_training:
                break
            callbacks.call("on_epoch_begin", epoch, {})
            if not self._epoch(epoch, callbacks, progress):
                warnings.warn(
                    f"there were no more batches after {epoch} of {self.epochs} epochs",
                    RuntimeWarning,
                    stacklevel=4,
                )
                break
            logs = self._logs()
            if validation is not None:
                logs |= self._validate(validation)
            self._record(logs)
            progress.epoch_end(epoch, logs)
            callbacks.call("on_epoch_end", epoch, plain(logs))
            if self.work.missing and epoch + 1 == self.epochs and not trainer.stop_training:
                warnings.warn(
                    f"there were no more batches: the last epoch is {self.work.missing} short of "
                    "steps_per_epoch",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _validate(self, validation: Data) -> dict[str, float]:
        try:
            logs = evaluate(self.trainer, validation)
        except ValueError as error:  # bad rows are only seen when they are read
            self.trainer._restart()
            raise ValueError(f"validation_data: {error}") from None
        return {f"val_{name}": value for name, value in logs.items()}

    def _record(self, logs: dict[str, float]) -> None:
        """The epoch is over."""
        self.logs = logs
        self.history.append(logs)
        self.trainer.history.append(logs)
        self.trainer.epochs += 1
        self.weight = 0.0

    def _interrupted(self) -> None:
        """Ctrl-C: the part of the epoch that was trained counts."""
        self.history.interrupted = True
        if self.weight:
            self._record(self._logs())

    def _logs(self) -> dict[str, float]:
        if len(self.trainer.losses) > 1:
            logs = loss_results(self.trainer, self.work.losses())
        else:
            logs = {"loss": self.loss / self.weight if self.weight else 0.0}
        return logs | self.work.metrics()

    def _epoch(self, epoch: int, callbacks: CallbackList, progress: Progress) -> int:
        """One epoch; returns its number of runs."""
        trainer, work = self.trainer, self.work
        work.begin_epoch(self.seed, trainer.epochs)
        self.loss = self.weight = 0.0
        runs, most_steps = 0, 1 if callbacks.wants_batches else 1 << 30
        while work.more() and not trainer.stop_training:
            if callbacks.wants_batches:
                callbacks.call("on_batch_begin", runs, {})
            result = self._run(epoch, most_steps)
            self._keep_good()
            progress.update(work.last_rows, epoch, self._logs)
            if callbacks.wants_batches:
                callbacks.call("on_batch_end", runs, {"loss": result.last_loss})
            runs += 1
        return runs

    def _run(self, epoch: int, most_steps: int) -> Any:
        optimizer, _ = self.trainer._begin()  # a callback may have trained with another trainer
        try:
            result = self.work.run(optimizer, self.trainer.steps, self.seed, most_steps)
        except (TypeError, ValueError):  # a batch, rate or loss function that cannot be used
            self.trainer._restart()
            raise
        self.trainer.steps += result.steps
        self.steps += result.steps
        self.loss += result.loss
        self.weight += result.weight
        if result.status != "ok" or self.params.nonfinite() >= 0:
            self._fail(result, epoch)
        self.trainer.network._changed()
        return result

    def one_batch(self) -> dict[str, float]:
        """A single step, without history."""
        try:
            self.work.begin_epoch(self.seed, 0)
            self._run(0, 1)
            return self._logs()
        finally:
            self.work.end()
