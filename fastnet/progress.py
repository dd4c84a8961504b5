"""Progress of a fit by tqdm: loss and metrics, samples a second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

_QUIET_SECONDS = 1.0


class Progress:
    """One bar for all epochs of a fit. "auto" builds and prints nothing before a second has passed,
    and then only on a terminal or in a notebook: logs stay free of bars.

    Parameters
    ----------
    wanted : bool or "auto"
    epochs : int
    rows : int or None
        Rows of an epoch, where they are known.
    """

    unit = " samples"

    def __init__(self, wanted: bool | str, epochs: int, rows: int | None):
        if not (isinstance(wanted, bool) or wanted == "auto"):
            raise ValueError(f"progress must be True, False or 'auto', got {wanted!r}")
        self.wanted = wanted
        self.epochs, self.rows = epochs, rows
        self.start = time.perf_counter()
        self.done = 0
        self.bar: Any = None

    def update(self, rows: int, epoch: int, logs: Callable[[], dict[str, float]]) -> None:
        """`rows` more are done; logs() is shown behind the bar."""
        self.done += rows
        if self.wanted is False:
            return
        if self.bar is None:
            if self.wanted == "auto" and time.perf_counter() - self.start < _QUIET_SECONDS:
                return
            self._open()
        else:
            self.bar.update(rows)
        if not self.bar.disable:
            self._describe(epoch, logs())

    def _open(self) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(
            total=None if self.rows is None else self.rows * self.epochs,
            unit=self.unit,
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=None if self.wanted == "auto" else False,  # None: only where somebody watches
        )
        if not self.bar.disable:
            self.bar.start_t -= time.perf_counter() - self.start
        self.bar.update(self.done)

    def _describe(self, epoch: int, logs: dict[str, float]) -> None:
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in logs.items()}, refresh=False)

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Show the epoch's numbers, validation included."""
        if self.bar is not None and not self.bar.disable:
            self._describe(epoch, logs)
            self.bar.refresh()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
