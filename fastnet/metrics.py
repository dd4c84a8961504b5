"""Metrics: what is reported beside the loss. The engine adds up sums over rows while it trains
(csrc/metrics.def); here the sums become numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .check import choice, integer

__all__ = [
    "F1",
    "R2",
    "Accuracy",
    "BinaryAccuracy",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Precision",
    "Recall",
    "TopKAccuracy",
    "get",
]

Sums = Sequence[float]


def _ratio(a: float, b: float) -> float:
    """a / b, and 0 for nothing out of nothing."""
    return a / b if b else 0.0


class Metric:
    """What all metrics share. Sample weights count in every one of them.

    Parameters
    ----------
    name : str
        The key in histories.
    """

    #: Its sums' name in csrc/metrics.def.
    kind: ClassVar[str]
    #: Reads integer targets as classes.
    classes: ClassVar[bool] = False
    #: Reported as better when larger.
    larger_is_better: ClassVar[bool] = True

    def __init__(self, name: str = "metric"):
        self.name = name

    def attributes(self, outputs: int) -> dict[str, float]:
        """Numbers of the engine's metric op, for an output with so many columns."""
        return {}

    def result(self, sums: Sums) -> float:
        """Its value, from the engine's sums over all rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:  # networks keep a plan for each set of metrics
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


class Accuracy(Metric):
    """Share of rows whose largest output is the true class (ties: the lowest index); with one
    output, share on the right side of 0.5 (of 0 for logits and hinge).
    """

    kind, classes = "accuracy", True

    def __init__(self, name: str = "accuracy", top: int = 1):
        super().__init__(name)
        self.top = top

    def attributes(self, outputs):
        return {"top": 0 if outputs == 1 else self.top}

    def result(self, sums):
        return _ratio(sums[0], sums[1])


class TopKAccuracy(Accuracy):
    """Share of rows whose true class is among the k largest outputs (k = 5 by default)."""

    def __init__(self, k: int = 5, name: str | None = None):
        k = integer("k", k, low=1)
        super().__init__(name or ("top_k_accuracy" if k == 5 else f"top_{k}_accuracy"), k)


class BinaryAccuracy(Accuracy):
    """Share of outputs on the right side of 0.5, each output for itself."""

    classes = False

    def __init__(self, name: str = "binary_accuracy"):
        super().__init__(name)

    def attributes(self, outputs):
        return {"top": 0}


class MeanSquaredError(Metric):
    """Mean of the squared errors over rows and outputs."""

    kind, larger_is_better = "squared", False

    def __init__(self, name: str = "mse"):
        super().__init__(name)

    def result(self, sums):
        return _ratio(sums[0], sums[2])


class MeanAbsoluteError(MeanSquaredError):
    """Mean of the absolute errors over rows and outputs."""

    def __init__(self, name: str = "mae"):
        super().__init__(name)

    def result(self, sums):
        return _ratio(sums[1], sums[2])


class R2(Metric):
    """Share of the variance explained, 1 - SSE / SST, mean over outputs (scikit-learn's r2_score):
    1 for a constant output that is predicted exactly, 0 for one that is not; a single row is one.
    """

    kind = "variance"

    def __init__(self, name: str = "r2"):
        super().__init__(name)

    def result(self, sums):
        scores = []
        for weight, total, squares, errors in zip(*(iter(sums),) * 4, strict=True):
            variance = squares - total * total / weight if weight else 0.0
            if variance <= 1e-12 * squares:
                scores.append(1.0 if errors <= 1e-12 * squares else 0.0)
            else:
                scores.append(1 - errors / variance)
        return sum(scores) / len(scores)


class Precision(Metric):
    """True positives / predicted positives; for several outputs the mean over classes."""

    kind, classes = "confusion", True

    def __init__(self, name: str = "precision"):
        super().__init__(name)

    def score(self, hits: float, predicted: float, actual: float) -> float:
        return _ratio(hits, predicted)

    def result(self, sums):
        scores = [self.score(*counts) for counts in zip(*(iter(sums),) * 3, strict=True)]
        return sum(scores) / len(scores)


class Recall(Precision):
    """True positives / actual positives; for several outputs the mean over classes."""

    def __init__(self, name: str = "recall"):
        super().__init__(name)

    def score(self, hits, predicted, actual):
        return _ratio(hits, actual)


class F1(Precision):
    """Harmonic mean of precision and recall; for several outputs the mean over classes."""

    def __init__(self, name: str = "f1"):
        super().__init__(name)

    def score(self, hits, predicted, actual):
        return _ratio(2 * hits, predicted + actual)


_CLASSES: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "top_k_accuracy": TopKAccuracy,
    "binary_accuracy": BinaryAccuracy,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "r2": R2,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
}
_ALIASES = {
    "acc": "accuracy",
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
    "top_k_categorical_accuracy": "top_k_accuracy",
    "sparse_top_k_categorical_accuracy": "top_k_accuracy",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "r2_score": "r2",
    "f1_score": "f1",
}


def get(metric: Any) -> Metric:
    """A metric from its name (Keras's other spellings too) or itself."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    name = _ALIASES.get(metric, metric) if isinstance(metric, str) else metric
    return _CLASSES[choice("metric", name, _CLASSES)]()
