"""The loop of a fit: epochs of runs, what is reported between them, and what is left behind on failure."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, check
from .callbacks import CallbackList, plain
from .errors import DivergenceError
from .history import History
from .losses import Custom
from .lowering import Lowered, Request
from .network import raise_bad_input
from .progress import Progress
from .targets import Data

if TYPE_CHECKING:
    from .trainer import Trainer

#: A run is sized to about this, so that Ctrl-C, progress and callbacks get a turn.
_RUN_SECONDS = 0.05

SOURCE_NAMES = ("x", "y", "sample_weight")


def metric_results(lowered: Lowered, work: _core.Work) -> dict[str, float]:
    if not lowered.metrics:
        return {}
    sums = work.metrics()
    return {metric.name: float(metric.result(sums[i])) for metric, i in lowered.metrics}


class ArrayEpochs:
    """Epochs over arrays: runs of minibatches sized to about 50 ms."""

    def __init__(self, trainer: Trainer, data: Data, batch_size: int | str, shuffle: bool):
        if not len(data):
            raise ValueError("x has no rows: there is nothing to train on")
        if batch_size == "full":
            batch_size = len(data)
        elif isinstance(batch_size, str):
            raise ValueError(f"batch_size must be an integer or 'full', got {batch_size!r}")
        self.trainer, self.data, self.shuffle = trainer, data, shuffle
        self.batch_size = min(check.integer("batch_size", batch_size, low=1), len(data))
        self.rows: int | None = len(data)
        self.python = isinstance(trainer.loss, Custom)
        self.lowered = trainer._plan(data, "train", self.batch_size, trainer._update_kind())
        self.work = self.lowered.take_work()
        self.steps_a_run = 1
        step_seconds = self.lowered.plan.describe()["flops"] * self.batch_size / 50e9 + 2e-6
        self.steps_a_run = max(1, int(_RUN_SECONDS / step_seconds))
        self.order = np.empty(len(data), np.int64) if shuffle else None
        self.first = self.last_first = self.last_rows = 0

    def begin_epoch(self, seed: int, epoch: int) -> None:
        self.first = 0
        self.work.reset_metrics()
        if self.shuffle:
            _core.shuffle(seed, epoch, self.order)

    def more(self) -> bool:
        """Whether the epoch has minibatches left."""
        return self.first < self.rows

    def failing_rows(self, steps: int) -> np.ndarray:
        """Rows of x in the minibatch behind the first `steps` of the last run."""
        first = self.last_first + steps * self.batch_size
        rows = slice(first, min(first + self.batch_size, self.rows))
        return self.data.sources[0][rows if self.order is None else self.order[rows]]

    def run(self, optimizer: _core.Optimizer, step: int, seed: int, most_steps: int) -> Any:
        """The next minibatches, at most so many."""
        left = self.rows - self.first
        if self.python:
            return self._run_custom(optimizer, step, seed)
        steps = min(self.steps_a_run, most_steps, -(-left // self.batch_size))
        n = min(steps * self.batch_size, left)
        schedule = self.trainer.optimizer.schedule
        rates = np.array([schedule(step + i) for i in range(steps)])
        result = _core.run(
            self.lowered.plan, self.trainer.network.params, self.work, self.data.sources, order=self.order,
            first=self.first, n_rows=n, batch_size=self.batch_size, rates=rates, optimizer=optimizer,
            step=step, seed=seed,
        )  # fmt: skip
        self.last_first, self.last_rows = self.first, n
        self.first += n
        if result.seconds and most_steps > 1:
            wanted = _RUN_SECONDS / (result.seconds / steps)
            self.steps_a_run = max(1, int(min(wanted, 4 * self.steps_a_run)))
        return result

    def _run_custom(self, optimizer: _core.Optimizer, step: int, seed: int) -> Any:
        """A loss written in Python: the plan stops at the predictions and goes on with their gradient."""
        n = min(self.batch_size, self.rows - self.first)
        rates = np.array([self.trainer.optimizer.schedule(step)])
        arguments = {
            "order": self.order, "first": self.first, "n_rows": n, "batch_size": self.batch_size,
            "rates": rates, "optimizer": optimizer, "step": step, "seed": seed,
        }  # fmt: skip
        plan, params = self.lowered.plan, self.trainer.network.params
        result = _core.run(plan, params, self.work, self.data.sources, **arguments)
        if result.status != "stopped":
            return result
        shape = self.trainer.network.output_shape
        cols = int(np.prod(shape))
        y_hat = np.frombuffer(self.work.rows(self.lowered.output, n, cols), np.float32).reshape(n, *shape)
        rows = slice(self.first, self.first + n)
        y = self.data.sources[1][rows if self.order is None else self.order[rows]]
        value, gradient = _call_loss(self.trainer.loss, y, y_hat)
        self.work.set_rows(self.lowered.output, gradient.reshape(n, cols), gradient=True)
        result = _core.run(plan, params, self.work, self.data.sources, **arguments)
        self.last_first, self.last_rows = self.first, n
        self.first += n
        return CustomResult(result, value, n)

    def end(self) -> None:
        self.lowered.works.append(self.work)


class CustomResult:
    """A run's result with the loss that a Python function computed."""

    def __init__(self, result: _core.Result, value: float, n: int):
        self.status = result.status if np.isfinite(value) else "diverged"
        self.loss, self.weight, self.last_loss = value * n, float(n), value
        self.steps, self.seconds = result.steps, result.seconds
        self.bad_row, self.bad_column, self.bad_source = result.bad_row, result.bad_column, result.bad_source


def _call_loss(loss: Custom, y: np.ndarray, y_hat: np.ndarray) -> tuple[float, np.ndarray]:
    answer = loss.function(y, y_hat)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"the loss function must return (value, gradient), got {type(answer).__name__}")
    value, gradient = answer
    gradient = np.ascontiguousarray(gradient, dtype=np.float32)
    if gradient.shape != y_hat.shape:
        raise ValueError(f"the loss's gradient must have shape {y_hat.shape}, got {gradient.shape}")
    return float(value), gradient


class Fit:
    """One call of fit: the loop over epochs, what it reports, and what it leaves behind on failure."""

    def __init__(self, trainer: Trainer, work: Any, epochs: int, seed: int):
        self.trainer, self.work, self.epochs, self.seed = trainer, work, epochs, seed
        self.optimizer, self.params = trainer._begin()
        if trainer._update_kind() == "flat" or isinstance(trainer.loss, Custom):
            self.params.need_gradient()
        self.history = History()
        self.first_step = trainer.steps
        self._snapshot()

    # ---- weights to fall back to ------------------------------------------------------------------

    def _snapshot(self) -> None:
        """Keep the weights of the start, which bad input falls back to."""
        trainer = self.trainer
        if trainer._first is None:
            trainer._first = _core.Params(trainer.network._plan(Request("predict", 1)).plan)
        trainer._first.copy_weights(self.params)
        self.good, self.good_at = trainer._first, time.perf_counter()

    def _keep_good(self) -> None:
        """The weights are finite: once a second they become what divergence falls back to."""
        now = time.perf_counter()
        if now - self.good_at < 1:
            return
        trainer = self.trainer
        if trainer._snapshot is None:
            trainer._snapshot = _core.Params(trainer.network._plan(Request("predict", 1)).plan)
        trainer._snapshot.copy_weights(self.params)
        self.good, self.good_at = trainer._snapshot, now

    def _fail(self, result: Any, epoch: int) -> None:
        """Put good weights back and raise what happened."""
        step = self.trainer.steps - self.first_step
        if result is not None and result.status == "input":
            self.params.copy_weights(self.trainer._first)
            raise_bad_input(result, SOURCE_NAMES[result.bad_source])
        layer = self._diverged_layer(result)
        self.params.copy_weights(self.good)
        error = DivergenceError(
            f"training diverged in epoch {epoch}, step {step}: the first values that are not finite are "
            f"in layer {layer!r}. The last good weights are kept. A smaller learning rate "
            "(or global_clipnorm=1.0, or inputs scaled to about [-1, 1]) usually helps",
            layer, epoch, step,
        )  # fmt: skip
        error.history = self.history
        raise error

    def _diverged_layer(self, result: Any) -> str:
        """Run the failing minibatch again, layer by layer."""
        net = self.trainer.network
        number = self.params.nonfinite()
        if number >= 0:
            return net._weight_list()[number][0].name
        rows = self.work.failing_rows(result.steps)
        for i in range(1, len(net.layers) + 1):
            if not np.isfinite(net._predict(rows, None, layers=i)).all():
                return net.layers[i - 1].name
        return net.layers[-1].name

    # ---- the loop ---------------------------------------------------------------------------------

    def run(self, validation: Data | None, callbacks: CallbackList, progress: Progress) -> History:
        trainer, start = self.trainer, time.perf_counter()
        trainer.stop_training = False
        logs: dict[str, float] = {}
        try:
            callbacks.call("on_train_begin", {})
            for epoch in range(self.epochs):
                callbacks.call("on_epoch_begin", epoch, {})
                logs = self._epoch(epoch, callbacks, progress)
                if validation is not None:
                    logs |= {f"val_{k}": v for k, v in trainer._evaluate(validation).items()}
                self._record(logs)
                trainer.epochs += 1
                progress.epoch_end(epoch, logs)
                callbacks.call("on_epoch_end", epoch, plain(logs))
                if trainer.stop_training:
                    break
            callbacks.call("on_train_end", plain(logs))
        except KeyboardInterrupt:
            self._interrupted()
        finally:
            progress.close()
            self.work.end()
            self.history.steps = trainer.steps - self.first_step
            self.history.seconds = time.perf_counter() - start
        return self.history

    def _record(self, logs: dict[str, float]) -> None:
        self.history.append(logs)
        self.trainer.history.append(logs)

    def _interrupted(self) -> None:
        """Ctrl-C: the part of the epoch that was trained counts, and the fit returns."""
        self.history.interrupted = True
        if self.weight:
            self._record(self._logs())
        warnings.warn(
            f"fit was interrupted after {self.trainer.steps - self.first_step} steps; "
            "the network keeps what it has learned",
            RuntimeWarning,
            stacklevel=4,
        )

    loss = weight = 0.0

    def _logs(self) -> dict[str, float]:
        logs = {"loss": self.loss / self.weight if self.weight else 0.0}
        return logs | metric_results(self.work.lowered, self.work.work)

    def _epoch(self, epoch: int, callbacks: CallbackList, progress: Progress) -> dict[str, float]:
        trainer, work = self.trainer, self.work
        work.begin_epoch(self.seed, trainer.epochs)
        self.loss = self.weight = 0.0
        batch, most_steps = 0, 1 if callbacks.wants_batches else 1 << 30
        while work.more() and not trainer.stop_training:
            if callbacks.wants_batches:
                callbacks.call("on_batch_begin", batch, {})
            result = work.run(self.optimizer, trainer.steps, self.seed, most_steps)
            trainer.steps += result.steps
            self.loss, self.weight = self.loss + result.loss, self.weight + result.weight
            if result.status != "ok" or self.params.nonfinite() >= 0:
                self._fail(result, epoch)
            self._keep_good()
            progress.update(work.last_rows, epoch, {"loss": self.loss / (self.weight or 1)})
            if callbacks.wants_batches:
                callbacks.call("on_batch_end", batch, {"loss": result.last_loss})
            batch += 1
        return self._logs()

    def one_batch(self) -> dict[str, float]:
        """A single step, without history."""
        try:
            self.work.begin_epoch(self.seed, 0)
            self.loss = self.weight = 0.0
            result = self.work.run(self.optimizer, self.trainer.steps, self.seed, 1)
            self.trainer.steps += result.steps
            self.loss, self.weight = result.loss, result.weight
            if result.status != "ok" or self.params.nonfinite() >= 0:
                self._fail(result, 0)
            return self._logs()
        finally:
            self.work.end()
