"""fastnet itself, through its public names only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import Job, Work


class Train(Work):
    """`Trainer.fit` over arrays in memory, in the given order."""

    def __init__(self, job: Job):
        self.fn, self.net = make_net(job)
        self.job = job

    def reset(self) -> None:
        job, optimizers = self.job, self.fn.optimizers
        self.net.set_weights(job.weights)
        rule = optimizers.SGD(job.lr, momentum=job.momentum)
        if job.optimizer == "adam":
            rule = optimizers.Adam(job.lr)
        self.trainer = self.fn.Trainer(self.net, loss="cross_entropy", optimizer=rule)

    def run(self) -> None:
        job = self.job
        self.trainer.fit(
            job.x, job.y, batch_size=job.batch, epochs=1, shuffle=False, progress=False
        )

    def result(self) -> list[Any]:
        return self.net.get_weights()


class Predict(Work):
    """`net.predict`, NumPy in, NumPy out."""

    def __init__(self, job: Job):
        _, self.net = make_net(job)
        self.net.set_weights(job.weights)
        self.x = job.x

    def run(self) -> None:
        self.p = self.net.predict(self.x)

    def result(self) -> list[Any]:
        return [self.p]


def import_fastnet(job: Job):
    """Return fastnet, the one that this file belongs to, with the job's threads."""
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    import fastnet as fn

    if job.threads:
        fn.set_num_threads(job.threads)
    return fn


def make_net(job: Job):
    """Return (fastnet, the network of the job)."""
    fn = import_fastnet(job)
    hidden = [fn.layers.Dense(units, activation="relu") for units in job.widths[1:-1]]
    last = fn.layers.Dense(job.widths[-1], activation="softmax")
    return fn, fn.Sequential([fn.layers.Input(job.widths[0]), *hidden, last], seed=0)
