"""Eager PyTorch on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import EPSILON, Job, Work


class Train(Work):
    """Eager PyTorch over tensors cut into minibatches beforehand, fused optimizer."""

    def __init__(self, job: Job):
        self.torch, self.model = make_model(job)
        self.job = job
        x, y = self.torch.from_numpy(job.x), self.torch.from_numpy(job.y)
        self.batches = list(zip(x.split(job.batch), y.split(job.batch), strict=True))

    def reset(self) -> None:
        job, optim = self.job, self.torch.optim
        set_weights(self.torch, self.model, job.weights)
        params = self.model.parameters()
        if job.optimizer == "adam":
            self.rule = optim.Adam(params, lr=job.lr, eps=EPSILON, fused=True)
        else:
            self.rule = optim.SGD(params, lr=job.lr, momentum=job.momentum, fused=True)

    def run(self) -> None:
        model, rule = self.model, self.rule
        cross_entropy = self.torch.nn.functional.cross_entropy
        for x, y in self.batches:
            rule.zero_grad()
            cross_entropy(model(x), y).backward()
            rule.step()

    def result(self) -> list[Any]:
        return [np.ascontiguousarray(p.detach().numpy().T) for p in self.model.parameters()]


class Predict(Work):
    """The model under `inference_mode`, tensor in, tensor out."""

    def __init__(self, job: Job):
        self.torch, model = make_model(job)
        set_weights(self.torch, model, job.weights)
        self.model = self.torch.nn.Sequential(*model, self.torch.nn.Softmax(dim=1)).eval()
        self.x = self.torch.from_numpy(job.x)

    def run(self) -> None:
        with self.torch.inference_mode():
            self.p = self.model(self.x)

    def result(self) -> list[Any]:
        return [self.p.numpy()]


def make_model(job: Job):
    """Return (torch, the network of the job without its softmax)."""
    import torch

    if job.threads:
        torch.set_num_threads(job.threads)
    parts: list[Any] = []
    for d_in, units in zip(job.widths[:-1], job.widths[1:], strict=True):
        parts += [torch.nn.Linear(d_in, units), torch.nn.ReLU()]
    return torch, torch.nn.Sequential(*parts[:-1])


def set_weights(torch, model, weights) -> None:
    """Copy Keras-shaped weights into a Sequential of Linear layers."""
    with torch.no_grad():
        for param, w in zip(model.parameters(), weights, strict=True):
            param.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
