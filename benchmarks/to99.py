"""Wall time from `import` to 99 % of MNIST's test images: fastnet and PyTorch, one recipe.

    python benchmarks/to99.py [--seeds 10] [--threads 2] [--libraries fastnet,torch]

The recipe: convolutions of 8 and 16 channels, 5x5, each followed by 2x2 max pooling, a dense
layer; Adam at batch 32, its rate warmed up over 200 steps and let down to zero over four epochs;
no augmentation, no weights trained before. After each epoch the 10,000 test images are predicted
and the clock is stopped at the first that has 99 %. Imports, reading the data and those tests
count. Each run is a process of its own; the libraries take turns. A run that ends below 99 % is
said to, and counts with all its epochs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

EPOCHS, BATCH, RATE, WARM = 4, 32, 3e-3, 200
STEPS = EPOCHS * 60_000 // BATCH


def rate(step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    return RATE * min((step + 1) / WARM, 1 - step / STEPS)


def fastnet(seed: int, start: float) -> None:
    import fastnet as fn
    from fastnet import datasets, layers

    (x, y), (x_test, y_test) = datasets.load_mnist(progress=False)
    net = fn.Sequential(
        [
            layers.Input((28, 28)),
            layers.Rescale(1 / 255),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(8, 5, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Conv2D(16, 5, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ],
        seed=seed,
    )
    trainer = fn.Trainer(net, optimizer=fn.optimizers.Adam(rate))
    for epoch in range(EPOCHS):
        trainer.fit(x, y, batch_size=BATCH, progress=False)
        report(epoch, float((net.predict_classes(x_test) == y_test).mean()), start)


def torch(seed: int, start: float) -> None:
    import torch
    from torch import nn

    from fastnet import datasets  # the same reader of the same files

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = datasets.load_mnist(progress=False)
    x, x_test = (torch.from_numpy(a)[:, None].float().div(255) for a in (x, x_test))
    y, y_test = torch.from_numpy(y), torch.from_numpy(y_test)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    ).to(memory_format=torch.channels_last)
    for layer in model:
        if hasattr(layer, "weight"):  # as fastnet and Keras begin
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    step = 0
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x))
        for rows in order.split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            said = torch.cat([model(part).argmax(1) for part in x_test.split(1000)])
        report(epoch, float((said == y_test).float().mean()), start)


def report(epoch: int, accuracy: float, start: float) -> None:
    """Print the result and end the process when there is nothing left to do."""
    if accuracy >= 0.99 or epoch + 1 == EPOCHS:
        print(epoch + 1, accuracy, time.perf_counter() - start, flush=True)
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--libraries", default="fastnet,torch")
    parser.add_argument("--run", nargs=2, metavar=("LIBRARY", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        start = time.perf_counter()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        {"fastnet": fastnet, "torch": torch}[args.run[0]](int(args.run[1]), start)
    libraries = args.libraries.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    for seed in range(args.seeds):
        for name in libraries:
            command = [sys.executable, __file__, "--threads", str(args.threads)]
            done = subprocess.run(
                [*command, "--run", name, str(seed)], capture_output=True, text=True, check=True
            )
            epochs, accuracy, taken = done.stdout.split()
            seconds[name].append(float(taken))
            short = "" if float(accuracy) >= 0.99 else ", below 99 %"
            print(f"{name} seed {seed}: {float(taken):.2f} s, {epochs} epochs, {accuracy}{short}")
    for name in libraries:
        mean = statistics.mean(seconds[name])
        print(f"{name}: mean {mean:.2f} s, {mean / statistics.mean(seconds[libraries[0]]):.2f}x")


if __name__ == "__main__":
    main()
