"""Eager PyTorch on images: channels_last, fused Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import CHECKED_ROWS, EPSILON, Job, Work
from .nets import NETS, NORM_EPSILON, NORM_SHARE


class Train(Work):
    """Eager PyTorch over tensors cut into minibatches beforehand, fused optimizer."""

    def __init__(self, job: Job):
        self.torch, self.model = make_model(job)
        self.job, self.x = job, images(self.torch, job)
        y = self.torch.from_numpy(job.y)
        self.batches = list(zip(self.x.split(job.batch), y.split(job.batch), strict=True))

    def reset(self) -> None:
        set_weights(self.torch, self.model, self.job.weights)
        self.model.train()
        params = self.model.parameters()
        self.rule = self.torch.optim.Adam(params, lr=self.job.lr, eps=EPSILON, fused=True)

    def run(self) -> None:
        model, rule = self.model, self.rule
        cross_entropy = self.torch.nn.functional.cross_entropy
        for x, y in self.batches:
            rule.zero_grad()
            cross_entropy(model(x), y).backward()
            rule.step()

    def result(self) -> list[Any]:
        self.model.eval()
        with self.torch.inference_mode():
            return [self.model(self.x[:CHECKED_ROWS]).softmax(dim=1).numpy()]


class Predict(Work):
    """The model under `inference_mode`, tensor in, tensor out."""

    def __init__(self, job: Job):
        self.torch, self.model = make_model(job)
        set_weights(self.torch, self.model, job.weights)
        self.model.eval()
        self.x = images(self.torch, job)

    def run(self) -> None:
        with self.torch.inference_mode():
            self.p = self.model(self.x).softmax(dim=1)

    def result(self) -> list[Any]:
        return [self.p.numpy()]


def images(torch, job: Job):
    """Return x as (n, c, h, w) in channels_last, which NHWC is."""
    return torch.from_numpy(job.x.reshape(-1, *NETS[job.net].shape)).permute(0, 3, 1, 2)


def make_model(job: Job):
    """Return (torch, the network of the job without its softmax)."""
    import torch

    nn: Any = torch.nn  # torch need not be installed where types are checked
    if job.threads:
        torch.set_num_threads(job.threads)

    net = NETS[job.net]

    def conv(before: int, filters: int, kernel: int, stride: int) -> list[Any]:
        padding = kernel // 2
        if not net.norm:
            return [nn.Conv2d(before, filters, kernel, stride, padding)]
        return [
            nn.Conv2d(before, filters, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(filters, NORM_EPSILON, NORM_SHARE),
        ]

    class Block(nn.Module):
        def __init__(self, before: int, filters: int, stride: int):
            super().__init__()
            self.first = nn.Sequential(*conv(before, filters, 3, stride))
            self.second = nn.Sequential(*conv(filters, filters, 3, 1))
            self.beside = nn.Sequential(*conv(before, filters, 1, stride) if stride > 1 else [])

        def forward(self, x):
            y = self.second(nn.functional.relu(self.first(x)))
            return nn.functional.relu(y + self.beside(x))

    class Rows(nn.Module):
        """Pixels as rows, channels last: no copy."""

        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    parts: list[Any] = []
    c = net.shape[2]
    for kind, *numbers in net.parts:
        if kind == "conv":
            filters, kernel, stride = numbers
            parts += [*conv(c, filters, kernel, stride), nn.ReLU()]
            c = filters
        elif kind == "pool":
            parts.append(nn.MaxPool2d(2))
        elif kind == "mean":
            parts.append(nn.AdaptiveAvgPool2d(1))
        elif kind == "block":
            parts.append(Block(c, *numbers))
            c = numbers[0]
        else:
            parts += [Rows(), nn.Linear(job.weights[-2].shape[0], numbers[0])]
    model: Any = nn.Sequential(*parts)
    return torch, model.to(memory_format=torch.channels_last)


def set_weights(torch, model, weights) -> None:
    """Copy Keras-shaped weights into the model's parameters, which come in the same order; moving
    statistics begin anew."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for param, w in zip(model.parameters(), weights, strict=True):
            w = w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T
            param.copy_(torch.from_numpy(np.ascontiguousarray(w)))
