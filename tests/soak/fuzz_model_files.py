"""Load mutated model files: every one is a network that predicts, or one ModelFileError.

    python tests/soak/fuzz_model_files.py [--count 1000000] [--seed 0]

The loading is done by a child process with little memory to spare, so that a crash, a hang and a
large allocation are noticed and the file is kept. Mutations know the format: bits, bytes, cuts and
splices, and values of the header and of the description exchanged for hostile ones.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HANG = (
    20  # seconds after which a file counts as a hang (of a process that may have to wait for a CPU)
)
SLOW = 2.0  # seconds of the CPU that a file may take
SPARE = 48 << 20  # bytes of address space beyond what the child has before
SLACK = 1 << 20  # bytes that Python may allocate beyond twice the file's size and ...
PARSED = 30  # times the header's length, which as text and parsed takes more than in the file
TRACED = 50  # every so many files, allocations are traced

HOSTILE = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63,
    2**64,
    10**39,
    10**60,
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e38,
    1e39,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "\0",
    "\ud800",
    "é" * 300,
    "x" * 5000,
    "../../etc/passwd",
    "__import__('os').system('true')",
    "os.system",
    "Dense",
    "Network",
    "network",
    "relu",
    "softmax",
    "custom",
    "F32",
    "F64",
    "I64",
    "BOOL",
    "__metadata__",
    [],
    {},
    [[]],
    [0],
    [1] * 7,
    [2**31, 2**31],
    [0, 2**62],
    [1, 2**29],
    {"name": "custom"},
    {"name": "orthogonal"},
    {"name": "constant", "value": 1e300},
    {"class": "Dense", "name": "d", "config": {"units": 2**40}},
    {"class": "Flatten", "name": "flatten", "config": {}},
    {"class": "Reshape", "name": "r", "config": {"target_shape": [-1]}},
    {"class": "Normalization", "name": "n", "config": {"mean": 0, "variance": 1}},
]


# ---- mutations ----------------------------------------------------------------------------------


def build(header: object, body: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def parse(file: bytes) -> tuple[dict, bytes]:
    (n,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + n]), file[8 + n :]


def places(value: object) -> list[tuple[dict | list, object]]:
    """Every (container, key) in a JSON value."""
    found, todo = [], [value]
    while todo:
        item = todo.pop()
        for key in item if isinstance(item, dict) else range(len(item)):
            found.append((item, key))
            if isinstance(item[key], dict | list):
                todo.append(item[key])
    return found


def copy_of(value: object) -> object:
    return json.loads(json.dumps(value))


def nested(rng: random.Random) -> object:
    value: object = 0
    for _ in range(rng.choice([5, 15, 20, 300])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def change_value(root: object, rng: random.Random) -> None:
    """Exchange, remove, double, rename or move one value of a JSON tree, in place."""
    container, key = rng.choice(places(root))
    kind = rng.randrange(7)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        size = len(json.dumps(container[key]))
        copies = min(rng.choice([1, 1, 2, 50, 1100]), 1 + 300_000 // size)
        container[key:key] = [copy_of(container[key]) for _ in range(copies)]
    elif kind == 2 and isinstance(container, dict):
        container[rng.choice(["x", "", "name", "units", "shape", f"{key}2"])] = container.pop(key)
    elif kind == 3 and type(container[key]) is int:
        container[key] += rng.choice([-1, 1, 4, -4, 2**31, -(2**63), 2**64])
    elif kind == 4:
        other, place = rng.choice(places(root))
        container[key] = copy_of(other[place])
    elif kind == 5 and rng.random() < 0.1:
        container[key] = nested(rng)
    else:
        container[key] = copy_of(rng.choice(HOSTILE))


def mutate_bytes(file: bytes, rng: random.Random, other: bytes) -> bytes:
    data = bytearray(file)
    header_end = 8 + int.from_bytes(file[:8], "little")
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        end = min(rng.choice([8, header_end, len(data)]), len(data))
        at = rng.randrange(max(end, 1))
        kind = rng.randrange(8)
        if not data:
            return bytes(data)
        if kind == 0:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at % len(data)] = rng.choice(b'\0\xff\x7f\x80{}[]",:0919-e. \n')
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.choice([1, 4, 8, 100])]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 8, 1000]))
        elif kind == 5:
            start = rng.randrange(len(other))
            data[at : at + 64] = other[start : start + rng.choice([1, 64, 500])]
        elif kind == 6:
            data += rng.randbytes(rng.choice([1, 4, 8, 4096]))
        else:
            data[:8] = struct.pack(
                "<Q",
                rng.choice(
                    [
                        0,
                        1,
                        2,
                        len(data),
                        len(data) - 8,
                        2**20,
                        2**63,
                        2**64 - 1,
                        header_end - 8 + rng.randrange(-9, 9),
                    ]
                )
                % 2**64,
            )
    return bytes(data)


def mutate_header(file: bytes, rng: random.Random) -> bytes:
    """A value of the header, which describes the tensors, is changed."""
    header, body = parse(file)
    for _ in range(rng.choice([1, 1, 2, 3])):
        change_value(header, rng)
        if not header:
            break
    return build(header, body, None if rng.random() < 0.95 else rng.randrange(2**20))


def mutate_description(file: bytes, rng: random.Random) -> bytes:
    """A value of the description, which is a text in the header, is changed."""
    header, body = parse(file)
    about = json.loads(header["__metadata__"]["fastnet"])
    for _ in range(rng.choice([1, 1, 2, 3])):
        change_value(about, rng)
        if not about:
            break
    text = json.dumps(about)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = (
            text[:at]
            + rng.choice(["[" * 2000, '{"a":' * 900, "9" * 5000, '"a":1,', "\\u0000"])
            + text[at:]
        )
    header["__metadata__"]["fastnet"] = text
    return build(header, body)


def mutate_weights(file: bytes, rng: random.Random) -> bytes:
    """Values of the weights are changed: most are right, NaN and infinity are not."""
    data = bytearray(file)
    start = 8 + int.from_bytes(file[:8], "little")
    for _ in range(rng.choice([1, 3, 10])):
        at = rng.randrange(start, len(data) - 3) // 4 * 4
        values = [0.0, -0.0, 1e-42, 3.4e38, float("inf"), float("nan"), rng.gauss(0, 1)]
        weights = [4, 4, 4, 4, 1, 1, 4]
        data[at : at + 4] = struct.pack("<f", rng.choices(values, weights)[0])
    return bytes(data)


def mutate(file: bytes, rng: random.Random, other: bytes) -> bytes:
    kind = rng.randrange(10)
    if kind < 4:
        return mutate_bytes(file, rng, other)
    if kind < 6:
        return mutate_header(file, rng)
    return mutate_description(file, rng) if kind < 9 else mutate_weights(file, rng)


# ---- the child: loads ---------------------------------------------------------------------------


def samples(folder: Path) -> list[bytes]:
    """Right files: few and many layers, every layer, a large one."""
    import fastnet as fn
    from fastnet import layers

    networks = [
        fn.Sequential([layers.Input(1), layers.Dense(1)], seed=0),
        fn.Sequential(
            [
                layers.Input((4, 5)),
                layers.Rescale(1 / 255),
                layers.Flatten(),
                layers.Normalization([0.5] * 20, [2.0] * 20),
                layers.Dropout(0.3),
                layers.Dense(7, "relu", kernel_initializer="he_normal"),
                layers.Reshape((7, 1)),
                layers.Flatten(),
                layers.Dense(3, use_bias=False),
                layers.Activation("softmax"),
            ],
            seed=1,
        ),
        fn.Sequential(
            [layers.Input(3)] + [layers.Dense(3, "tanh") for _ in range(30)], seed=2**64 - 1
        ),
        fn.Sequential(
            [layers.Input(64), layers.Dense(100, "gelu"), layers.Dense(10, "softmax")], seed=3
        ),
    ]
    result = []
    for i, network in enumerate(networks):
        network.save(folder / "sample", extra={"classes": ["a", "b"], "i": i})
        result.append((folder / "sample").read_bytes())
    return result


class WrongError(Exception):
    """A file that was treated wrongly."""


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """SPARE bytes of address space and no more; making a mutant may take what it takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def check_cpu_time(path: Path) -> None:
    """Load a file that took long again: waiting for a busy machine does not count."""
    import fastnet as fn

    began = time.thread_time()
    with contextlib.suppress(fn.ModelFileError):
        fn.load(path)
    if time.thread_time() - began > SLOW:
        raise WrongError(f"took {time.thread_time() - began:.1f} CPU seconds")


def try_file(path: Path, size: int, traced: bool) -> str:
    """Load one file: "loaded" or "refused"; WrongError for all else."""
    import numpy as np

    import fastnet as fn

    with path.open("rb") as file:
        header = min(int.from_bytes(file.read(8), "little"), size, 1 << 20)
    network, refusal = None, None
    if traced:
        tracemalloc.start()
    began = time.perf_counter()
    try:
        network = fn.load(path)
    except fn.ModelFileError as error:
        refusal = str(error)
    except BaseException as error:
        raise WrongError(f"{type(error).__name__}: {error}") from error
    finally:
        took = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
    if took > SLOW:
        check_cpu_time(path)
    if peak > 2 * size + PARSED * header + SLACK:
        raise WrongError(f"allocated {peak:,} bytes for a file of {size:,}")
    if network is None:
        if str(path) not in refusal or len(refusal) > 1000:
            raise WrongError(f"an error without the file's name or too long: {refusal:.2000}")
        return "refused"
    if sum(w.nbytes for w in network.get_weights()) > size:
        raise WrongError("a network larger than its file")
    if np.prod(network.input_shape) <= 10_000 and np.prod(network.output_shape) <= 10_000:
        shape = (2, *network.input_shape)
        if network.predict(np.zeros(shape, np.float32)).shape != (2, *network.output_shape):
            raise WrongError("predictions of another shape")
    return "loaded"


def child(folder: Path, start: int, count: int, seed: int) -> None:
    """Try the files start .. count - 1; files are the same whoever makes them."""
    originals = samples(folder)
    path = folder / "mutant.safetensors"
    for i, original in enumerate(originals):  # everything is imported and warm
        path.write_bytes(original)
        if try_file(path, len(original), traced=True) != "loaded":
            raise WrongError(f"right file {i} was refused")
    seen: Counter[str] = Counter()
    slowest = 0.0
    for i in range(start, count):
        rng = random.Random(f"{seed}:{i}")
        data = mutate(rng.choice(originals), rng, rng.choice(originals))
        path.write_bytes(data)
        faulthandler.dump_traceback_later(HANG, exit=True)
        began = time.perf_counter()
        try:
            with little_memory():
                seen[try_file(path, len(data), traced=i % TRACED == 0)] += 1
        except WrongError as error:
            raise SystemExit(f"file {i} of seed {seed}: {error}") from error
        slowest = max(slowest, time.perf_counter() - began)
        if i % 10_000 == 9_999:
            print(f"{i + 1:,} files, {dict(seen)}, slowest {slowest:.3f} s", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(
        f"{count - start:,} mutated files, seed {seed}: {seen['refused']:,} refused, "
        f"{seen['loaded']:,} loaded, slowest {slowest:.3f} s"
    )
    if not seen["refused"] or not seen["loaded"]:
        raise SystemExit("the mutations reach one outcome only")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="how many files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.start, options.count, options.seed)
        return 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        command = [
            sys.executable,
            __file__,
            "--child",
            folder,
            "--start",
            str(options.start),
            "--count",
            str(options.count),
            "--seed",
            str(options.seed),
        ]
        code = subprocess.run(command, check=False).returncode
        if code:
            kept = Path(tempfile.gettempdir()) / f"fastnet-mutant-{options.seed}.safetensors"
            mutant = Path(folder) / "mutant.safetensors"
            if mutant.exists():
                kept.write_bytes(mutant.read_bytes())
            print(f"the child ended with {code}; its last file is {kept}", file=sys.stderr)
        return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
