"""The processes of `fastnet bench`: one long-living worker for each (library, thread count).

Some libraries take their thread count only from the environment or from the CPUs they may use,
so each runs in a process of its own with both set before anything is imported. The parent stops
every worker (SIGSTOP) while it is not that worker's turn: an idle thread that spins would
otherwise slow the others down, and runs of different libraries are interleaved.

The child runs this file as a script, by path: it loads the package `_peers` without fastnet.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
TIMEOUT_S = 1200.0


class WorkerError(Exception):
    """A worker could not do what it was asked; the message is one line."""


def available_cpus() -> list[int]:
    """Return the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def environment(library: str, threads: int | None) -> dict[str, str]:
    """Return the environment of a worker; threads None leaves each library its own default."""
    env = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    env |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    uses_openblas = library in ("numpy", "sklearn")
    if threads is not None or not uses_openblas:
        # NumPy serves the other libraries only before and after the timed run.
        env["OPENBLAS_NUM_THREADS"] = str(threads if uses_openblas else 1)
    if threads is not None:
        env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = str(threads)
    return env


class Worker:
    """The parent's end of one worker process.

    threads : int, or None for the library's own default.
    pin : bool, default True. Hold the process to `threads` CPUs.
    """

    def __init__(self, library: str, threads: int | None, pin: bool = True):
        self.library, self.threads = library, threads
        self.connection, theirs = Pipe()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        cpus = available_cpus()[:threads] if threads and pin else []
        arguments = [str(theirs.fileno()), str(os.getpid()), library, ",".join(map(str, cpus))]
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, *arguments],
            pass_fds=[theirs.fileno()],
            env=environment(library, threads),
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
        )
        theirs.close()

    def ask(self, command: str, *arguments: Any) -> Any:
        """Let the worker run one command (a method of `Server`) and return its answer."""
        try:
            self.process.send_signal(signal.SIGCONT)
            self.connection.send((command, arguments))
            if not self.connection.poll(TIMEOUT_S):
                self.process.kill()
                raise WorkerError(f"no answer to {command!r} in {TIMEOUT_S:.0f} s")
            ok, answer = self.connection.recv()
            self.process.send_signal(signal.SIGSTOP)
        except (EOFError, OSError):
            raise WorkerError(f"the worker died: {self.last_words()}") from None
        if not ok:
            raise WorkerError(answer)
        return answer

    def last_words(self) -> str:
        """Return the exit status and the last line that the worker printed."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"exit {code}" + (f", {lines[-1]}" if lines else "")

    def close(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.errors.close()


class Server:
    """The child's end: public methods are the commands."""

    def __init__(self, library: str):
        self.library = library
        here = Path(__file__).resolve().parent
        spec = importlib.util.spec_from_file_location(
            "fastnet_bench_peers", here / "__init__.py", submodule_search_locations=[str(here)]
        )
        assert spec is not None and spec.loader is not None
        self.peers = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = self.peers
        spec.loader.exec_module(self.peers)

    def prepare(self, fields: dict[str, Any], files: dict[str, str]) -> float:
        """Build the work described by `fields`, with the arrays in `files`; run it once untimed.

        Returns the seconds of that first run; what it takes beyond later ones is compilation.
        """
        import numpy as np

        self.release()
        weights = np.load(files["weights"])
        self.job = self.peers.Job(
            x=np.load(files["x"]),
            y=np.load(files["y"]),
            weights=[weights[k] for k in weights.files],
            **fields,
        )
        self.work = self.peers.make_work(self.library, self.job)
        return self.time(1, False)

    def time(self, number: int, warm: bool) -> float:
        """Start afresh and return the seconds of one run, the mean of `number` in a row.

        warm : run once more beforehand, so that what a library does only once is not counted.
        """
        work = self.work
        work.reset()
        gc.collect()
        gc.disable()
        try:
            if warm:
                work.run()
            start = time.perf_counter()
            for _ in range(number):
                work.run()
            return (time.perf_counter() - start) / number
        finally:
            gc.enable()

    def loss(self) -> float:
        """Return the loss of what the last run left."""
        return self.peers.mean_loss(self.job, self.work.result())

    def release(self) -> None:
        """Forget the work and its arrays."""
        self.work = self.job = None
        gc.collect()

    def sgemm_rate(self, n: int = 1024) -> float:
        """Return NumPy's best rate in GFLOP/s for one (n, n) float32 product."""
        import numpy as np

        a = np.ones((n, n), np.float32)
        c = np.empty_like(a)
        best = 1e9
        for _ in range(10):
            start = time.perf_counter()
            np.dot(a, a, out=c)
            best = min(best, time.perf_counter() - start)
        return 2e-9 * n**3 / best

    def fma_peak(self, seconds: float) -> float:
        """Return fastnet's measure of the multiply-add peak of one thread in GFLOP/s."""
        root = str(Path(__file__).resolve().parents[2])
        sys.path.insert(0, root)
        from fastnet import _core

        return float(_core.fma_peak(seconds))


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process, stopped or not, when its parent ends."""
    set_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def serve(fd: int, parent: int, library: str, cpus: str) -> None:
    """Answer commands until the pipe closes. An exception is answered as one line of text."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(c) for c in cpus.split(",")])
    connection: Connection = Connection(fd)
    server = Server(library)
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(server, command)(*arguments)
        except Exception as error:
            traceback.print_exc()
            answer = False, " ".join(f"{type(error).__name__}: {error}".split())
        connection.send(answer)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
