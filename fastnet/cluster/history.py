"""What a k-means fit reports of its iterations."""

from __future__ import annotations

from ..progress import Progress


class History(dict[str, list[float]]):
    """A dict of lists, one number an iteration.

    Keys: "inertia" (of the labels to the centres they were found with), "moved" (rows with another
    label than before), "shift" (sum of squared distances that the centres moved), "distances"
    (row-centre distances computed on all features), "saved" (those that could be skipped).

    Attributes
    ----------
    stopped : str
        Why the fit ended: "strict" (no label changed), "tol", "max_iter", "max_time",
        "interrupted"; of MiniBatchKMeans also "no_improvement".
    seconds : float
        Time of the whole fit, all initialisations included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped = ""
        self.seconds = 0.0

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the fit."""
        return self.stopped == "interrupted"

    def append(self, **numbers: float) -> None:
        """One more iteration."""
        for key, value in numbers.items():
            self.setdefault(key, []).append(value)

    def __len__(self) -> int:
        """Iterations."""
        return max((len(values) for values in self.values()), default=0)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __repr__(self) -> str:
        last = ", ".join(f"{key} {values[-1]:.6g}" for key, values in self.items())
        n = len(self)
        return f"History of {n} iteration{'s' * (n != 1)}" + (f", last: {last}" if last else "")


class Iterations(Progress):
    """A progress bar over the iterations of all initialisations."""

    unit = " iterations"

    def __init__(self, wanted: bool | str, runs: int, iterations: int):
        super().__init__(wanted, runs, iterations)

    def _describe(self, epoch, logs):
        name = f"k-means, start {epoch + 1} of {self.epochs}" if self.epochs > 1 else "k-means"
        self.bar.set_description(name, refresh=False)
        self.bar.set_postfix({k: f"{v:.5g}" for k, v in logs.items()}, refresh=False)
