"""Kill a process with SIGKILL while it saves: the file is the old model or the new one, whole.

    python tests/soak/kill_during_save.py [--count 300] [--seed 0] [--kmeans]

A forked child saves two networks (or k-means models) in turn to one path. After each kill the file
must be one of them bit by bit, and the next save must leave nothing but the file in the folder.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path


def networks(width: int) -> list:
    """Two networks of the same shape (so that mixed files would load) and different weights."""
    import fastnet as fn
    from fastnet import layers

    result = []
    for seed in (1, 2):
        network = fn.Sequential(
            [layers.Input(width), layers.Dense(width), layers.Dense(3)], seed=seed
        )
        network.build()
        result.append(network)
    return result


def clusters(width: int) -> list:
    """Two k-means models of the same shape."""
    import numpy as np

    import fastnet as fn

    rng = np.random.default_rng(0)
    x = rng.standard_normal((width, width))
    return [fn.KMeans(width // 2, init=x[i : i + width // 2], max_iter=1).fit(x) for i in (0, 1)]


def content(network) -> tuple:
    if hasattr(network, "cluster_centers_"):
        return (network._centers().tobytes(),)
    return (network.seed, *(weights.tobytes() for weights in network.get_weights()))


def save_forever(pair: list, path: Path, ready: int) -> None:
    """The child: never returns."""
    try:
        for i in range(10**9):
            pair[i % 2].save(path)
            if i == 0:
                os.write(ready, b"!")
    finally:
        os._exit(1)  # an error: the parent notices that it was not the kill


def one_kill(pair: list, path: Path, delay: float) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        save_forever(pair, path, write_end)
    os.close(write_end)
    try:
        started = os.read(read_end, 1)
        time.sleep(delay)
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(read_end)
    if started != b"!" or os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"the child ended by itself (status {status})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="how many kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--width", type=int, default=700, help="the files have about 4 * width**2 bytes"
    )
    parser.add_argument("--kmeans", action="store_true", help="k-means models")
    options = parser.parse_args()
    import fastnet as fn

    rng = random.Random(options.seed)
    pair = (clusters if options.kmeans else networks)(options.width)
    right = [content(network) for network in pair]
    found, inside = [0, 0], 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        for i in range(options.count):
            one_kill(pair, path, rng.uniform(0, 0.06))
            litter = [name for name in os.listdir(folder) if name != path.name]
            inside += bool(litter)
            found[right.index(content(fn.load(path)))] += (
                1  # ValueError: neither, so a damaged file
            )
            if len(litter) > 1:
                raise SystemExit(f"kill {i}: one killed process left {litter}")
            pair[i % 2].save(path)
            if os.listdir(folder) != [path.name]:
                raise SystemExit(f"kill {i}: the next save left {os.listdir(folder)}")
    print(
        f"{options.count} kills, {inside} while a temporary file was being written: "
        f"0 damaged files ({found[0]} times the one, {found[1]} times the other model), "
        "no litter after the next save"
    )
    if options.count >= 20 and not inside:
        raise SystemExit("no kill came during a save: nothing was tested")
    return 0


if __name__ == "__main__":
    sys.exit(main())
