"""scikit-learn's MLPClassifier."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from . import EPSILON, Job, RefusedError, Work


class Train(Work):
    """`MLPClassifier.partial_fit`: one epoch over all rows, no penalty, given order."""

    def __init__(self, job: Job):
        if job.batch == 1:
            raise RefusedError("a minute an epoch at batch 1")
        self.job, self.model = job, make_model(job)

    def reset(self) -> None:
        weights = [w.copy() for w in self.job.weights]
        self.model.coefs_, self.model.intercepts_ = weights[::2], weights[1::2]
        del self.model._optimizer  # partial_fit then makes a fresh one

    def run(self) -> None:
        self.model.partial_fit(self.job.x, self.job.y)

    def result(self) -> list[Any]:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [a for pair in pairs for a in pair]


class Predict(Work):
    """`MLPClassifier.predict_proba`."""

    def __init__(self, job: Job):
        self.job, self.model = job, make_model(job)
        self.model.coefs_, self.model.intercepts_ = job.weights[::2], job.weights[1::2]

    def run(self) -> None:
        self.p = self.model.predict_proba(self.job.x)

    def result(self) -> list[Any]:
        return [self.p]


def make_model(job: Job):
    """Return an MLPClassifier of the job's shape, fitted to a few rows so that it has weights."""
    from sklearn.neural_network import MLPClassifier

    classes = job.widths[-1]
    if classes == 2:
        raise RefusedError("two classes get one sigmoid output, another network")
    model = MLPClassifier(
        job.widths[1:-1],
        solver=job.optimizer,
        alpha=0.0,
        batch_size=max(2, job.batch),
        learning_rate_init=job.lr,
        momentum=job.momentum,
        nesterovs_momentum=False,
        epsilon=EPSILON,
        shuffle=False,
        max_iter=1,
        random_state=0,
    )
    warnings.filterwarnings("ignore", module="sklearn")
    few = np.zeros((max(2, job.batch), job.widths[0]), np.float32)
    model.partial_fit(few, np.resize(np.arange(classes), len(few)), classes=np.arange(classes))
    return model
