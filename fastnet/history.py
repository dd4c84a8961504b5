"""The history of a fit."""

from __future__ import annotations


class History(dict[str, list[float]]):
    """A dict of lists, one number an epoch: history["loss"], history["val_accuracy"], ...

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the fit; the last numbers are then of a part of an epoch.
    steps : int
        Minibatches trained.
    seconds : float
        Time the fit took.
    """

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = False
        self.steps = 0
        self.seconds = 0.0

    @property
    def history(self) -> dict[str, list[float]]:
        """Itself, for habits from Keras."""
        return self

    def append(self, logs: dict[str, float]) -> None:
        """One more epoch."""
        for key, value in logs.items():
            self.setdefault(key, []).append(value)

    def __repr__(self) -> str:
        if not self:
            return "History of 0 epochs"
        epochs = max(map(len, self.values()))
        last = ", ".join(f"{k} {v[-1]:.4g}" for k, v in self.items())
        return f"History of {epochs} epoch{'s' * (epochs != 1)}, last: {last}"
