"""Memory that training pictures takes: what a process grows by, fastnet and PyTorch.

    python benchmarks/memory.py [--threads 2] [--batches 64,256] [--nets cnn,resnet,resnet-bn]

The networks of `fastnet bench` (fastnet/_peers/nets.py), Adam, two steps, PyTorch in channels_last
with the fused Adam. Each number is a process of its own that has trained a small minibatch before,
so that code, threads and their stacks are there: the peak of its resident memory while a network
of the same kind is made and trained, less what it had before. The pictures are not part of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"fastnet": "fastnet", "torch": "PyTorch"}


def status(key: str) -> float:
    """Return MB of this process from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def train(library: str, name: str, batch: int, threads: int) -> None:
    """Make a network and train two steps."""
    from fastnet import _peers
    from fastnet._peers import nets

    net, rng = nets.NETS[name], np.random.default_rng(0)
    x = rng.random((2 * batch, int(np.prod(net.shape))), np.float32)
    job = _peers.Job(
        kind="train", widths=(x.shape[1], 10), batch=batch, optimizer="adam", lr=1e-3, momentum=0,
        x=x, y=rng.integers(0, 10, 2 * batch), weights=nets.start_weights(net),
        threads=threads, net=name,
    )  # fmt: skip
    work = _peers.make_work(library, job)
    work.reset()
    if batch > 2:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before = status("VmRSS")
    work.run()
    if batch > 2:
        print(status("VmHWM") - before)


def child(library: str, name: str, batch: int, threads: int) -> None:
    """Print the MB that training takes."""
    train(library, name, 2, threads)
    train(library, name, batch, threads)


def measure(library: str, name: str, batch: int, threads: int) -> float:
    """Return the MB that a fresh process prints."""
    limits = {key: str(threads) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, __file__, "--child", library, name, str(batch), str(threads)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | limits | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", default="64,256")
    parser.add_argument("--nets", default="cnn,resnet,resnet-bn")
    args = parser.parse_args()
    print(f"{'network':12s}{'batch':>7s}" + "".join(f"{x:>12s}" for x in LIBRARIES.values()))
    for name in args.nets.split(","):
        for batch in map(int, args.batches.split(",")):
            found = [measure(library, name, batch, args.threads) for library in LIBRARIES]
            print(f"{name:12s}{batch:7d}" + "".join(f"{mb:9.0f} MB" for mb in found), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
