"""Callbacks: what happens between batches and epochs. Subclass `Callback`, or pass functions to
`LambdaCallback`. Callbacks that want batch events make the engine return after every minibatch.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterable
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from .check import choice, flag, integer, number

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback", "EarlyStopping", "LambdaCallback", "ModelCheckpoint"]

Logs = dict[str, float]
_EVENTS = ("train", "epoch", "batch")


class Callback:
    """Events of a fit: override those you want. Epochs and batches count from 0, in each fit.

    Attributes
    ----------
    trainer : Trainer
        Set before the first event; ``trainer.stop_training = True`` ends the fit.
    """

    trainer: Trainer

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch; logs are empty."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch, also when Ctrl-C ended the fit; logs of that epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch; logs are empty."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch; logs hold "loss", the metrics, and both of validation as "val_..."."""

    def on_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a minibatch; logs are empty."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """After a minibatch; logs hold its "loss"."""

    def wants_batches(self) -> bool:
        """Whether a batch event is overridden."""
        mine = type(self)
        return (
            mine.on_batch_begin is not Callback.on_batch_begin
            or mine.on_batch_end is not Callback.on_batch_end
        )


class LambdaCallback(Callback):
    """A callback from functions.

    Parameters
    ----------
    **events : callable
        ``on_epoch_end=lambda epoch, logs: ...``, and so on for the events of `Callback`.

    Raises
    ------
    ValueError, TypeError
        For an event that there is not, and for what is no function.
    """

    def __init__(self, **events: Callable[..., Any]):
        known = [f"on_{what}_{when}" for what in _EVENTS for when in ("begin", "end")]
        for event, function in events.items():
            choice("event", event, known)
            if not callable(function):
                raise TypeError(f"{event} must be callable, got {function!r}")
            setattr(self, event, function)
        self._events = events

    def wants_batches(self):
        return "on_batch_begin" in self._events or "on_batch_end" in self._events


class _Monitor(Callback):
    """Watches one number of the logs and knows whether it got better."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0):
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name such as 'val_loss', got {monitor!r}")
        self.monitor = monitor
        self.mode = choice("mode", mode, ("auto", "min", "max"))
        self.min_delta = number("min_delta", min_delta, low=0)
        self.best = math.nan

    def on_train_begin(self, logs):
        self.best = math.nan

    def _sign(self) -> int:
        if self.mode != "auto":
            return 1 if self.mode == "max" else -1
        name = self.monitor.removeprefix("val_")
        return 1 if name in self.trainer._larger_is_better() else -1

    def _improved(self, logs: Logs) -> bool:
        if self.monitor not in logs:
            raise ValueError(
                f"monitor {self.monitor!r} is not in the logs, which hold {', '.join(logs)}"
            )
        value = logs[self.monitor]
        if not math.isnan(self.best) and not self._sign() * (value - self.best) > self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(_Monitor):
    """Stop when a number has not improved for `patience` epochs.

    The best weights are restored at the end of the fit, also when Ctrl-C ended it.

    Parameters
    ----------
    monitor : str, default "val_loss" ("loss" where there is no validation data)
    patience : int >= 0, default 5
    min_delta : float >= 0, default 0
        Smaller changes do not count.
    mode : "auto", "min" or "max"
    restore_best_weights : bool, default True
    """

    def __init__(self, monitor: str | None = None, patience: int = 5, min_delta: float = 0.0,
                 mode: str = "auto", restore_best_weights: bool = True):  # fmt: skip
        super().__init__(monitor or "val_loss", mode, min_delta)
        self._automatic = monitor is None
        self.patience = integer("patience", patience, low=0)
        self.restore_best_weights = flag("restore_best_weights", restore_best_weights)
        self.stopped_epoch: int | None = None

    def on_train_begin(self, logs):
        super().on_train_begin(logs)
        self.wait, self.stopped_epoch, self._weights = 0, None, None

    def on_epoch_end(self, epoch, logs):
        if self._automatic:
            self.monitor = "val_loss" if "val_loss" in logs else "loss"
        if self._improved(logs):
            self.wait = 0
            if self.restore_best_weights:
                self._weights = self.trainer.network.get_weights()
            return
        self.wait += 1
        if self.wait >= max(self.patience, 1):
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def on_train_end(self, logs):
        if self._weights is not None and self.wait:
            self.trainer.network.set_weights(self._weights)


class ModelCheckpoint(_Monitor):
    """Save the network after every epoch, or only when a number improved.

    Parameters
    ----------
    path : str or path
        ``{epoch}`` and names of the logs are filled in:
        "net-{epoch:02d}-{val_loss:.3f}.safetensors". The folder has to be there.
    monitor : str, default "val_loss"
    save_best_only : bool, default False
    mode : "auto", "min" or "max"
    """

    def __init__(self, path: str | os.PathLike[str], monitor: str = "val_loss",
                 save_best_only: bool = False, mode: str = "auto"):  # fmt: skip
        super().__init__(monitor, mode)
        self.path = os.fsdecode(path)
        try:
            list(Formatter().parse(self.path))
        except ValueError as error:
            raise ValueError(f"path {self.path!r}: {error}") from None
        self.save_best_only = flag("save_best_only", save_best_only)

    def on_train_begin(self, logs):
        super().on_train_begin(logs)
        folder = os.path.dirname(self.path)
        if folder and "{" not in folder and not os.path.isdir(folder):
            text = "the folder of checkpoints does not exist"
            raise FileNotFoundError(errno.ENOENT, text, folder)

    def on_epoch_end(self, epoch, logs):
        if self.save_best_only and not self._improved(logs):
            return
        try:
            path = self.path.format(epoch=epoch, **logs)
        except (KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{self.path!r} names {error}, the logs hold epoch, {', '.join(logs)}"
            ) from None
        self.trainer.network.save(path)


class CallbackList:
    """All callbacks of a fit, called in order."""

    def __init__(self, callbacks: Any, trainer: Trainer):
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
            callbacks = [] if callbacks is None else [callbacks]
        callbacks = list(callbacks)
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be fastnet callbacks, got {callback!r}")
            callback.trainer = trainer
        self.callbacks = callbacks
        self.wants_batches = any(c.wants_batches() for c in callbacks)

    def call(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)


def plain(logs: dict[str, Any]) -> Logs:
    """Logs as Python floats."""
    return {k: float(np.float64(v)) for k, v in logs.items()}
