"""fastnet against its rivals: ``fastnet bench``, ``python -m fastnet.bench``.

The cases are shared with ``benchmarks/``. All libraries do the same work (same weights at the
start, same rows in the same order, same loss), each at its best setting (`fastnet/_peers`), in a
process of its own; libraries take turns, short runs several in a turn, the best counts, and the
losses that come out are compared. A library that is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ._bench_cases import CASE_NAMES, CASES, Case
from ._bench_data import Arrays
from ._peers import CLUSTERING, LABELS, NETWORKS
from ._peers.worker import Worker, WorkerError, available_cpus

GRID_WIDTHS = (16, 32, 64, 128, 256, 1024)
GRID_BATCHES = (1, 8, 32, 128, 1024)
IMPORTS = {
    "fastnet": "fastnet",
    "sklearn": "sklearn.neural_network",
    "torch": "torch",
    "jax": "jax",
    "onnxruntime": "onnxruntime",
}
Ask = Callable[..., Any]  # Worker.ask
TURN, MOST_RUNS = 0.2, 8  # a turn ends after so many seconds, or so many runs
SAME_LOSS = 0.02  # rounding differs between libraries, and training amplifies it


@dataclass
class Measurement:
    """What one library did with one case. `times` are seconds of one reported run."""

    library: str
    threads: int | None
    times: list[float] = field(default_factory=list)
    first: float = math.nan
    loss: float | None = None
    error: str = ""

    @property
    def best(self) -> float:
        """The shortest time, or infinity."""
        return math.inf if self.error else min(self.times, default=math.inf)

    def attempt(self, ask: Ask, *command: Any) -> Any:
        """Return ``ask(*command)``; after the first WorkerError, which it notes, NaN."""
        if not self.error:
            try:
                return ask(*command)
            except WorkerError as error:
                self.error = str(error)
        return math.nan


@dataclass
class Result:
    """All measurements of one case."""

    case: Case
    measurements: list[Measurement]

    def find(self, library: str, threads: int | None) -> Measurement | None:
        """Return the measurement of a library at a thread count, None where there is none."""
        for m in self.measurements:
            if (m.library, m.threads) == (library, threads) and not m.error:
                return m
        return None

    def best(self, library: str, threads: int | None) -> Measurement | None:
        """Return a library's fastest measurement at `threads` or fewer: its best setting."""
        fit = [m for m in self.measurements if m.library == library and not m.error]
        if threads is not None:
            fit = [m for m in fit if m.threads is not None and m.threads <= threads]
        return min(fit, key=lambda m: m.best, default=None)

    def losses(self) -> list[tuple[Measurement, float]]:
        """Return the measurements that left a result behind, with its loss."""
        return [(m, m.loss) for m in self.measurements if m.loss is not None and not m.error]

    def odd_losses(self) -> list[tuple[Measurement, float]]:
        """Return the measurements whose loss is not that of the first, or is not a number."""
        losses = self.losses()
        want = losses[0][1] if losses else 0.0
        return [(m, x) for m, x in losses if not abs(x - want) <= SAME_LOSS * want + 1e-4]


# ---------------------------------------------------------------------------------------------
# measuring


class Pool:
    """The workers of one benchmark, started when first asked for; a context manager.

    synthetic : bool, default False. Use synthetic rows even where MNIST is there.
    """

    def __init__(self, synthetic: bool = False):
        self.workers: dict[tuple[str, int | None, bool], Worker] = {}
        self.stack = contextlib.ExitStack()
        self.synthetic = synthetic

    def __enter__(self) -> Pool:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fastnet-bench-"))
        self.arrays = Arrays(folder, self.synthetic)
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers.values():
            worker.close()
        self.stack.close()

    def get(self, library: str, threads: int | None, pin: bool = True) -> Worker:
        """Return the worker of a library at a thread count, a fresh one if it had died."""
        key = library, threads, pin
        worker = self.workers.get(key)
        if worker is None or worker.process.poll() is not None:
            if worker is not None:
                worker.close()
            worker = self.workers[key] = Worker(library, threads, pin)
        return worker

    def measure(
        self,
        case: Case,
        libraries: Sequence[str],
        threads: Sequence[int | None],
        repeats: int,
        pin: bool = True,
    ) -> Result:
        """Measure one case: every library at every thread count, interleaved, `repeats` rounds.

        pin : bool, default True. Hold a worker of n threads to n CPUs.
        A library that cannot do the case gets a measurement with `error` set and no times.
        """
        able = CLUSTERING if case.clusters else NETWORKS
        names = [name for name in libraries if name in able]
        result = Result(case, [Measurement(name, t) for t in threads for name in names])
        asks = {id(m): self.prepare(case, m, pin) for m in result.measurements}
        for i in range(repeats):
            for m in result.measurements[:: 1 if i % 2 == 0 else -1]:
                self.time(case, m, asks[id(m)])
        for m in result.measurements:
            self.finish(m, asks[id(m)])
        return result

    def prepare(self, case: Case, m: Measurement, pin: bool = True) -> Ask:
        """Make a worker ready for a case, note its first run, and return its `Worker.ask`."""
        names = ("kind", "widths", "net", "batch", "optimizer", "lr", "momentum",
                 "iterations")  # fmt: skip
        fields = {name: getattr(case, name) for name in names} | {"threads": m.threads}
        ask = self.get(m.library, m.threads, pin).ask
        m.first = m.attempt(ask, "prepare", fields, self.arrays.files(case))
        return ask

    def time(self, case: Case, m: Measurement, ask: Ask) -> None:
        """Add the time of one turn to a measurement: the best of as many runs as fit in."""
        runs: list[float] = []
        while sum(runs) * case.number < TURN and len(runs) < MOST_RUNS:
            runs.append(m.attempt(ask, "time", case.number, case.warm))
        m.times.append((case.report_rows or case.rows) / case.rows * min(runs))

    def finish(self, m: Measurement, ask: Ask) -> None:
        """Note the loss that was reached, and free the worker's arrays."""
        m.loss = m.attempt(ask, "loss")
        m.attempt(ask, "release")

    def peak(self, seconds: float = 0.5) -> tuple[float, float]:
        """Return (FMA peak, NumPy's sgemm rate) of one thread in GFLOP/s, NaN where unknown."""
        fma = gemm = math.nan
        with contextlib.suppress(WorkerError):
            gemm = self.get("numpy", 1).ask("sgemm_rate")
        with contextlib.suppress(WorkerError):
            fma = self.get("fastnet", 1).ask("fma_peak", seconds)
        return fma, gemm


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Run one process that does nothing but compute, and ends with this one."""
    code = "import os\np = os.getppid()\nwhile os.getppid() == p: sum(range(100000))"
    hog = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        yield
    finally:
        hog.kill()
        hog.wait()


def measure_imports(case: Case, libraries: Sequence[str], repeats: int) -> Result:
    """Time `import` in fresh processes that have NumPy already, interleaved; byte code is kept."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = Result(case, [Measurement(name, None) for name in libraries if name in IMPORTS])
    root = str(Path(__file__).resolve().parents[1])
    for _ in range(repeats):
        for m in result.measurements:
            path = f"import sys; sys.path.insert(0, {root!r})\n" if m.library == "fastnet" else ""
            code = (
                f"{path}import time, numpy\nstart = time.perf_counter()\n"
                f"import {IMPORTS[m.library]}\nprint(time.perf_counter() - start)"
            )
            run = subprocess.run(
                [sys.executable, "-P", "-c", code],
                capture_output=True, text=True, check=False, env=environment,
            )  # fmt: skip
            if run.returncode:
                m.error = run.stderr.strip().splitlines()[-1]
            else:
                m.times.append(float(run.stdout.split()[-1]))
    return result


# ---------------------------------------------------------------------------------------------
# the thread-inversion grid


def grid_case(width: int, batch: int, work: float = 2e9, steps: int = 20_000) -> Case:
    """Return the case of one cell: width-width-width-10, about `work` flops, 2 to `steps` steps."""
    case = Case(
        f"grid-{width}-{batch}", "", widths=(width, width, width, 10), batch=batch,
        rows=1, lr=0.001, data="random", warm=True,
    )  # fmt: skip
    rows = min(max(int(work / case.flops), 2 * batch), steps * batch, 2**25 // width)
    return replace(case, rows=rows)


@dataclass
class Grid:
    """Times of every cell, one list of repeats per thread count (None: the default)."""

    library: str
    busy: bool
    cells: dict[tuple[int, int], Result] = field(default_factory=dict)

    def ratios(self, cell: tuple[int, int]) -> list[float]:
        """Return, per repeat, default time over the best fixed count (busy: over one thread)."""
        result = self.cells[cell]
        default = result.find(self.library, None)
        fixed = [m for m in result.measurements if m.threads is not None and not m.error]
        if self.busy:
            fixed = [m for m in fixed if m.threads == 1]
        if default is None or not fixed:
            return []
        return [t / min(m.times[i] for m in fixed) for i, t in enumerate(default.times)]

    @property
    def bound(self) -> float:
        """The ratio that no cell may exceed in every repeat."""
        return 1.25 if self.busy else 1.10

    def inversions(self) -> list[tuple[int, int]]:
        """Return the cells above the bound in each repeat."""
        found = []
        for cell in self.cells:
            ratios = self.ratios(cell)
            if ratios and min(ratios) > self.bound:
                found.append(cell)
        return found


def measure_grid(
    pool: Pool,
    library: str,
    threads: Sequence[int],
    repeats: int = 3,
    busy: bool = False,
    widths: Sequence[int] = GRID_WIDTHS,
    batches: Sequence[int] = GRID_BATCHES,
    work: float = 2e9,
) -> Grid:
    """Time default threads against each of `threads` over widths x batches, interleaved.

    Every thread count may use all CPUs here: the scheduler is part of the question.
    """
    grid = Grid(library, busy)
    with busy_process() if busy else contextlib.nullcontext():
        for width in widths:
            for batch in batches:
                case = grid_case(width, batch, work, max(2, int(work / 1e5)))
                grid.cells[width, batch] = pool.measure(
                    case, [library], [None, *threads], repeats, pin=False
                )
    return grid


# ---------------------------------------------------------------------------------------------
# command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of the benchmark."""
    for option, metavar, text in (
        ("--cases", "NAMES", f"comma-separated, of: {', '.join(CASE_NAMES)} (default: all)"),
        ("--peers", "NAMES", f"comma-separated, of: {', '.join(LABELS)} (default: all installed)"),
        ("--threads", "COUNTS", "comma-separated thread counts (default: 1 and all CPUs)"),
        ("--markdown", "FILE", "write the tables there too, between its two marks if it exists"),
    ):
        parser.add_argument(option, default="", metavar=metavar, help=text)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds (default: 5)")
    for option, text in (
        ("--quick", "a twentieth of the rows, 2 rounds"),
        ("--busy", "measure beside one busy process"),
        ("--synthetic", "take synthetic rows instead of MNIST"),
    ):
        parser.add_argument(option, action="store_true", help=text)


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """Return the names of a comma-separated list, all for "" or "all". Raises ValueError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known and name != "all"]
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}; choose from {', '.join(known)}")
    return [name for name in known if not names or "all" in names or name in names]


def thread_counts(text: str) -> list[int]:
    """Return the thread counts of a comma-separated list. Raises ValueError."""
    cpus = len(available_cpus())
    parts = [part.strip() for part in text.split(",")] if text else ["1", str(cpus)]
    counts = sorted({int(part) if part.isdecimal() else 0 for part in parts})
    if counts[0] < 1 or counts[-1] > cpus:
        raise ValueError(f"thread counts lie between 1 and the {cpus} CPUs available, not {text!r}")
    return counts


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write them; 0, or 1 where results differ or fastnet failed."""
    from . import _bench_report as report

    names = chosen(args.cases, CASE_NAMES, "case")
    libraries = chosen(args.peers, list(LABELS), "peer")
    threads = thread_counts(args.threads)
    if args.repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {args.repeats}")
    if args.markdown:
        report.check_target(args.markdown)
    repeats = min(args.repeats, 2) if args.quick else args.repeats
    page = report.Page(libraries, threads, busy=args.busy)
    with Pool(args.synthetic) as pool, contextlib.ExitStack() as stack:
        page.peak, page.gemm = pool.peak()
        if args.busy:
            stack.enter_context(busy_process())
        for case in CASES:
            if case.name in names:
                say(f"{case.title} ...")
                page.add(run_case(pool, case, libraries, threads, repeats, args.quick))
        stack.close()
        if "threads" in names:
            page.grids = run_grids(pool, args, libraries, threads)
        page.note = pool.arrays.note
    print(page.text())
    if args.markdown:
        report.write_markdown(args.markdown, page.markdown())
    return 1 if page.failed() else 0


def run_case(
    pool: Pool, case: Case, libraries: list[str], threads: list[int], repeats: int, quick: bool
) -> Result:
    """Measure one case of the table."""
    if case.kind == "import":
        return measure_imports(case, libraries, repeats)
    return pool.measure(case.smaller() if quick else case, libraries, threads, repeats)


def run_grids(
    pool: Pool, args: argparse.Namespace, libraries: list[str], threads: list[int]
) -> list[Grid]:
    """Measure the grids of fastnet, and of other libraries where they were asked for by name."""
    wanted = [name for name in libraries if name == "fastnet" or args.peers]
    small: dict[str, Any] = {}
    if args.quick:
        small = {"repeats": 2, "widths": (16, 128), "batches": (1, 32), "work": 2e8}
    grids = []
    for library in wanted:
        for busy in (False, True):
            say(f"threads, {LABELS[library]}, {'busy' if busy else 'quiet'} machine ...")
            grids.append(measure_grid(pool, library, threads, busy=busy, **small))
    return grids


say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731


def main(
    argv: Sequence[str] | None = None,
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> int:
    """Run the benchmark from the command line; return the exit code."""
    parser = parser_class(prog="fastnet bench", description=__doc__.split("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        with ending_cleanly():
            return run(args)
    except ValueError as error:
        parser.error(str(error))


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that workers and files go as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


if __name__ == "__main__":
    sys.exit(main())
