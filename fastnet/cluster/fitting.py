"""The loop of a k-means fit: starts, iterations, the reasons to stop, what Ctrl-C leaves."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Settings
from .data import Rows
from .engine import Record, make_run
from .history import History, Iterations

if TYPE_CHECKING:
    from .kmeans import KMeans

#: The engine comes back after about this, so that Ctrl-C and progress get a turn.
_SECONDS = 0.05


class Outcome:
    """One start, as far as it came."""

    def __init__(self, centers: np.ndarray, history: History):
        self.centers, self.history = centers, history
        self.labels: np.ndarray | None = None
        self.inertia = np.inf

    @property
    def n_iter(self) -> int:
        return len(self.history)

    def numbers(self) -> dict[str, float]:
        """What a progress bar shows."""
        return {"inertia": self.history["inertia"][-1], "moved": self.history["moved"][-1]}


class Fit:
    """One call of fit."""

    def __init__(self, model: KMeans, rows: Rows, weights: np.ndarray | None, settings: Settings):
        self.model, self.rows, self.weights, self.settings = model, rows, weights, settings
        self.begin = time.perf_counter()
        self.known, self.fixed = model._fixed(settings, rows.shape[1])
        self.run = make_run(
            rows, weights, settings.k, cosine=settings.cosine, algorithm=settings.algorithm,
            max_memory=settings.max_memory, threads=settings.threads,
        )  # fmt: skip
        self.tolerance = settings.tol * self.run.variance if settings.tol else 0.0
        self.progress = Iterations(model.progress, settings.n_init, settings.max_iter)
        self.best: Outcome | None = None
        self.now: Outcome | None = None

    def all(self, seeds: Any) -> Outcome:
        """All starts; the one with the least inertia. KeyboardInterrupt if there is none yet."""
        try:
            try:
                for start in range(self.settings.n_init):
                    self._start(start, seeds.next())
                    if self._late():
                        break
            except KeyboardInterrupt:
                if self.best is None and (self.now is None or not self.now.n_iter):
                    raise
                self._interrupted()
        finally:
            self.progress.close()
        assert self.best is not None
        self.best.history.seconds = time.perf_counter() - self.begin
        if self.best.history.interrupted:
            warnings.warn(
                f"fit was interrupted after {self.best.n_iter} iterations; the model keeps the "
                "best centers so far",
                RuntimeWarning,
                stacklevel=4,
            )
        return self.best

    def _slice(self) -> float:
        """Seconds that the engine may take before it comes back."""
        left = self.settings.max_time - (time.perf_counter() - self.begin)
        return min(_SECONDS, max(left, 1e-4))

    def _late(self) -> bool:
        return time.perf_counter() - self.begin >= self.settings.max_time

    def _start(self, start: int, seed: int) -> None:
        self.now = None
        centers = self.model._choose_centers(
            self.rows, self.weights, self.settings, seed, self.run, self.known
        )
        self._say("Initialization complete")
        self.run.start(centers, self.fixed)
        now = self.now = Outcome(centers, History())
        while not now.history.stopped:
            left = self.settings.max_iter - now.n_iter
            for record in self.run.step(left, self._slice(), self.tolerance):
                self._record(now, record)
                self.progress.update(1, start, now.numbers)
            if not now.history.stopped and now.n_iter and self._late():
                now.history.stopped = "max_time"
        self._finish(now)

    def _record(self, now: Outcome, record: Record) -> None:
        now.history.append(**record._asdict())
        i = now.n_iter - 1
        self._say(f"Iteration {i}, inertia {record.inertia}.")
        if record.moved == 0:
            now.history.stopped = "strict"
            self._say(f"Converged at iteration {i}: strict convergence.")
        elif record.shift <= self.tolerance:
            now.history.stopped = "tol"
            self._say(
                f"Converged at iteration {i}: center shift {record.shift} within tolerance "
                f"{self.tolerance}."
            )
        elif now.n_iter >= self.settings.max_iter:
            now.history.stopped = "max_iter"

    def _finish(self, now: Outcome) -> None:
        """Labels of the final centres; the better of this start and the best so far stays."""
        now.centers = self.run.centers
        now.labels, now.inertia = self.run.labels()
        if self.best is None or now.inertia < self.best.inertia:
            self.best = now
        self.now = None

    def _interrupted(self) -> None:
        """Ctrl-C: what the start under way has reached counts, where it is the best."""
        now = self.now
        if now is not None and now.n_iter:
            self._finish(now)
        assert self.best is not None
        self.best.history.stopped = "interrupted"

    def _say(self, text: str) -> None:
        if self.model.verbose:
            print(text)
