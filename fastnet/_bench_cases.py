"""The cases of `fastnet bench` and of ``benchmarks/``."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from ._peers import nets

CLUSTER_KINDS = ("cluster", "batches", "assign")


@dataclass(frozen=True)
class Case:
    """One row of the table.

    kind : "train" (one epoch), "predict" (all rows in one call) or "import"; of k-means "cluster"
        (a fit, labels included), "batches" (mini-batches) or "assign" (labels for given centres).
    widths : layer sizes with the input first; relu between, softmax at the end.
        k-means: (columns, clusters).
    net : a convolutional network of `_peers/nets.py` instead; widths are then (values of an image,
        classes).
    iterations : k-means: of a fit, or passes over all rows by batches of `batch`.
    data : "mnist" (float32 in [0, 1], or a synthetic set like it), "random", or "blobs" (as many
        as clusters).
    number : runs in a row that are timed together.   warm : one untimed run before them.
    report_rows : scale the time to so many rows (an epoch of MNIST timed on a part of it).
    """

    name: str
    title: str
    kind: str = "train"
    widths: tuple[int, ...] = (784, 200, 10)
    net: str = ""
    batch: int = 128
    rows: int = 60_000
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    iterations: int = 0
    data: str = "mnist"
    number: int = 1
    warm: bool = False
    report_rows: int | None = None

    @property
    def clusters(self) -> bool:
        """Whether this is k-means, and not a network."""
        return self.kind in CLUSTER_KINDS

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one reported run; 0 for k-means,
        where most distances need not be computed, and an import."""
        rows = self.report_rows or self.rows
        if self.clusters or self.kind == "import":
            return 0
        if self.net:
            return rows * nets.flops(nets.NETS[self.net], self.kind == "train")
        total = 0
        for i, (d_in, units) in enumerate(itertools.pairwise(self.widths)):
            # forward and dW, and dX except for the first layer
            products = 1 if self.kind == "predict" else 2 if i == 0 else 3
            total += 2 * products * d_in * units
        return total * rows

    def smaller(self) -> Case:
        """Return the case cut to a twentieth, for a quick look."""
        rows = max(1, self.rows // 20) if self.rows > 100 else self.rows
        number = max(1, self.number // 10)
        return replace(self, rows=rows, number=number, report_rows=self.report_rows or self.rows)


CASES = (
    Case("batch1", "784-200-10 SGD, epoch of 60k, batch 1",
         batch=1, lr=0.001, rows=12_000, report_rows=60_000),
    Case("batch32", "784-200-10 SGD, epoch of 60k, batch 32", batch=32, lr=0.01),
    Case("batch128", "784-200-10 SGD, epoch of 60k, batch 128"),
    Case("batch512", "784-200-10 SGD, epoch of 60k, batch 512", batch=512),
    Case("dense32", "784-200-10 SGD, 60k rows without zeros, batch 32",
         batch=32, lr=0.001, rows=12_000, report_rows=60_000, data="random"),
    Case("dense128", "784-200-10 SGD, 60k rows without zeros, batch 128",
         lr=0.002, rows=12_000, report_rows=60_000, data="random"),
    Case("dense512", "784-200-10 SGD, 60k rows without zeros, batch 512",
         batch=512, lr=0.002, rows=12_000, report_rows=60_000, data="random"),
    Case("adam", "784-200-10 Adam, epoch of 60k, batch 128", optimizer="adam", lr=0.001),
    Case("wide", "784-512-512-10 SGD, epoch of 60k, batch 128",
         widths=(784, 512, 512, 10), lr=0.01),
    Case("small", "64-64-64-2 SGD, epoch of 50k, batch 32",
         widths=(64, 64, 64, 2), batch=32, lr=0.01, rows=50_000, data="random"),
    Case("predict1", "784-200-10, predict one row", kind="predict",
         rows=1, number=2000, warm=True),
    Case("predict10k", "784-200-10, predict 10,000 rows", kind="predict",
         rows=10_000, number=5, warm=True),
    Case("lenet", "LeNet, 8 and 16 channels, Adam, epoch of 60k, batch 64", net="lenet",
         widths=(784, 10), batch=64, rows=6_400, report_rows=60_000, optimizer="adam", lr=0.001),
    Case("cnn", "CNN 32-32-64, Adam, epoch of 60k, batch 64", net="cnn",
         widths=(784, 10), batch=64, rows=2_560, report_rows=60_000, optimizer="adam", lr=0.001),
    Case("resnet", "residual, 8 convolutions on 32x32x3, Adam, epoch of 50k, batch 64",
         net="resnet", widths=(3072, 10), batch=64, rows=1_920, report_rows=50_000,
         optimizer="adam", lr=0.001, data="random"),
    Case("resnet-bn", "residual with BatchNorm, Adam, epoch of 50k, batch 64",
         net="resnet-bn", widths=(3072, 10), batch=64, rows=1_920, report_rows=50_000,
         optimizer="adam", lr=0.001, data="random"),
    Case("lenet1", "LeNet, predict one image", kind="predict", net="lenet", widths=(784, 10),
         rows=1, number=500, warm=True),
    Case("lenet10k", "LeNet, predict 10,000 images", kind="predict", net="lenet",
         widths=(784, 10), rows=10_000, warm=True),
    Case("fixed", "4-16-3, fit on 32 rows: the fixed cost", widths=(4, 16, 3),
         batch=32, rows=32, lr=0.001, data="random", number=500, warm=True),
    Case("kmeans10", "k-means, MNIST 60k, k = 10, 20 iterations", "cluster", (784, 10),
         iterations=20),
    Case("kmeans100", "k-means, MNIST 60k, k = 100, 20 iterations", "cluster", (784, 100),
         iterations=20),
    Case("kmeans1000", "k-means, MNIST 60k, k = 1000, 10 iterations", "cluster", (784, 1000),
         iterations=10),
    Case("kmeans-2d", "k-means, 500k x 2, k = 50, 20 iterations", "cluster", (2, 50),
         iterations=20, rows=500_000, data="blobs"),
    Case("kmeans-8d", "k-means, 1M x 8, k = 16, 20 iterations", "cluster", (8, 16),
         iterations=20, rows=1_000_000, data="blobs"),
    Case("kmeans-64d", "k-means, 100k x 64, k = 64, 20 iterations", "cluster", (64, 64),
         iterations=20, rows=100_000, data="blobs"),
    Case("kmeans-converge", "k-means, MNIST 20k, k = 100, until nothing moves", "cluster",
         (784, 100), iterations=1000, rows=20_000),
    Case("minibatch10", "mini-batch k-means, MNIST 60k, k = 10, batch 1024", "batches",
         (784, 10), batch=1024, iterations=1),
    Case("minibatch100", "mini-batch k-means, MNIST 60k, k = 100, batch 1024", "batches",
         (784, 100), batch=1024, iterations=1),
    Case("kmeans-predict10", "k-means, labels of MNIST 60k, k = 10", "assign", (784, 10)),
    Case("kmeans-predict100", "k-means, labels of MNIST 60k, k = 100", "assign", (784, 100)),
    Case("import", "import, on top of NumPy", kind="import"),
)  # fmt: skip
CASE_NAMES = (*(case.name for case in CASES), "threads")
