"""What fastnet found on this machine, what it chose and why, and whether it works: `doctor`."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from . import _core
from .threads import get_num_threads, threads

__all__ = ["Report", "doctor"]

#: Settings that change what fastnet does here.
_VARIABLES = (
    "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
    "FASTNET_SIMD", "FASTNET_ALWAYS_THREAD", "FASTNET_DATA", "FASTNET_CACHE",
)  # fmt: skip
#: Run-time libraries that compute or start threads, by the name of their file.
_LIBRARIES = {
    "OpenBLAS": re.compile(r"libopenblas|libscipy_openblas|openblas"),
    "MKL": re.compile(r"libmkl_(rt|core)"),
    "BLIS": re.compile(r"libblis"),
    "OpenMP (GNU)": re.compile(r"libgomp"),
    "OpenMP (LLVM)": re.compile(r"libomp[.-]"),
    "OpenMP (Intel)": re.compile(r"libiomp5"),
}
_OURS = "libopenblas_fastn"
#: Of the self-test's training: a mean loss that 20 epochs always get below.
_GOOD_LOSS = 0.1


class Report(dict[str, Any]):
    """What `doctor` found, as JSON can hold it; prints as one line."""

    def __repr__(self) -> str:
        failed = [check["name"] for check in self["checks"] if not check["ok"]]
        state = f"failed: {', '.join(failed)}" if failed else "all checks passed"
        return f"<fastnet doctor: {state}>"


def doctor(print_fn: Callable[[str], Any] = print) -> Report:
    """Look at the machine and the process, test the engine for about two seconds, and say so.

    Parameters
    ----------
    print_fn : function of a line, default print
        ``lambda line: None`` keeps it quiet.

    Returns
    -------
    Report
        A dict: "ok" (whether every check passed), "processor", "simd", "cpus", "threads",
        "libraries", "versions", "folders", "variables", "checks", "speed", "warnings".
    """
    report = Report(
        ok=False,
        processor=_processor(),
        simd=_simd(),
        cpus=_cpus(),
        threads=_threads(),
        libraries=loaded_libraries(),
        versions=_versions(),
        folders=_folders(),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        checks=[],
        speed={},
        warnings=[],
    )
    _print_found(report, print_fn)
    report["warnings"] = _warnings(report)
    print_fn("")
    print_fn("Self-test")
    for name, check in _CHECKS:
        report["checks"].append(_run_check(name, check))
        _print_check(report["checks"][-1], print_fn)
    report["speed"] = _speed()
    if not report["warnings"]:
        report["warnings"] += _slow(report["speed"])
    _print_speed(report["speed"], print_fn)
    for warning in report["warnings"]:
        print_fn(f"  note  {warning}")
    report["ok"] = all(check["ok"] for check in report["checks"])
    failed = sum(not check["ok"] for check in report["checks"])
    print_fn("")
    print_fn("Verdict: all is well." if report["ok"] else
             f"Verdict: {failed} of {len(report['checks'])} checks failed; please report this "
             "with the text above.")  # fmt: skip
    return report


# ---- what is there ------------------------------------------------------------------------------


def _processor() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cores: set[tuple[str, str]] = set()
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        found = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
        model = found.group(1) if found else model
        package = re.findall(r"^physical id\s*:\s*(\d+)$", text, re.M)
        core = re.findall(r"^core id\s*:\s*(\d+)$", text, re.M)
        cores = set(zip(package, core, strict=False))
    except OSError:
        pass
    return {
        "model": model,
        "machine": platform.machine(),
        "cores": len(cores) or None,
        "logical": os.cpu_count(),
        "caches": _caches(),
    }


def _caches() -> dict[str, str]:
    """Sizes of the first processor's caches, as the kernel writes them: {"L2": "1024K"}."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            if kind != "Instruction":
                sizes["L" + (folder / "level").read_text().strip()] = (
                    (folder / "size").read_text().strip()
                )
        except OSError:
            continue
    return sizes


def _simd() -> dict[str, Any]:
    config, core = _core.blas_info()
    return {
        "level": _core.simd_level(),
        "supported": _core.simd_levels(),
        "forced": os.environ.get("FASTNET_SIMD") or None,
        "openblas": config.strip(),
        "openblas_core": core,
    }


def _cpus() -> dict[str, Any]:
    count, why = _core.cpus_available()
    load = None
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
    return {"available": count, "why": why, "load": load}


def _threads() -> dict[str, Any]:
    """The number chosen and what decided it."""
    chosen = get_num_threads()
    asked = sys.modules[get_num_threads.__module__]._asked  # fastnet.threads names the class
    count, why = _core.cpus_available()
    limits = [n for n in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT") if os.environ.get(n)]
    if asked:
        reason = f"set_num_threads({asked})"
    elif chosen < count:
        reason = " and ".join(f"{n}={os.environ[n]}" for n in limits)
        reason = reason or "a limit of OpenMP (joblib, threadpoolctl), or a forked process"
    else:
        reason = f"the CPUs available ({why})"
    return {"chosen": chosen, "why": reason}


def loaded_libraries() -> list[dict[str, Any]]:
    """Copies of OpenBLAS, MKL, BLIS and OpenMP in this process: kind, path, whether it is ours.

    Read from /proc/self/maps; an empty list where there is none.
    """
    try:
        text = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return []
    paths = dict.fromkeys(re.findall(r"(/\S.*\.so\S*)$", text, re.M))
    found = []
    for path in paths:
        name = os.path.basename(path)
        for kind, pattern in _LIBRARIES.items():
            if pattern.search(name):
                found.append({"kind": kind, "path": path, "ours": name.startswith(_OURS)})
                break
    return found


def _versions() -> dict[str, str]:
    from . import __version__

    found = {"fastnet": __version__, "Python": platform.python_version()}
    for name in ("numpy", "safetensors", "tqdm", "pillow", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    libc = " ".join(platform.libc_ver()).strip()
    found["system"] = f"{platform.system()} {platform.release()}" + (f", {libc}" if libc else "")
    return found


def _folders() -> dict[str, Any]:
    from .datasets import cache_folder

    cache = cache_folder()
    files = [f for f in cache.rglob("*") if f.is_file()] if cache.is_dir() else []
    return {
        "package": str(Path(__file__).parent),
        "cache": str(cache),
        "cache_bytes": sum(f.stat().st_size for f in files),
        "data": os.environ.get("FASTNET_DATA") or None,
    }


def _warnings(report: dict[str, Any]) -> list[str]:
    """What is not wrong but costs speed or surprises."""
    found = []
    kinds = {lib["kind"] for lib in report["libraries"] if lib["kind"].startswith("OpenMP")}
    if len(kinds) > 1:
        found.append(f"several OpenMP run-times in one process ({', '.join(sorted(kinds))}): "
                     "their threads can get in each other's way")  # fmt: skip
    data = report["folders"]["data"]
    if data and not os.path.isdir(data):
        found.append(f"FASTNET_DATA={data} is no folder")
    simd = report["simd"]
    if simd["level"] != simd["supported"][-1]:
        found.append(f"SIMD level {simd['level']} is in use, the processor could do "
                     f"{simd['supported'][-1]}")  # fmt: skip
    cpus = report["cpus"]
    busy = cpus["load"] is not None and cpus["load"] > (os.cpu_count() or 1)
    if busy:
        found.append(f"the machine is busy (load {cpus['load']:.1f} on {os.cpu_count()} CPUs): "
                     "speeds measured now are lower than they could be")  # fmt: skip
    return found


# ---- self-test ----------------------------------------------------------------------------------


def _run_check(name: str, check: Callable[[], str]) -> dict[str, Any]:
    """A check's outcome; whatever goes wrong in it is a failure with a reason."""
    start = time.perf_counter()
    try:
        detail, ok = check(), True
    except Exception as error:
        detail, ok = f"{type(error).__name__}: {error}", False
    return {"name": name, "ok": ok, "detail": detail, "seconds": time.perf_counter() - start}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from .datasets import load_digits

    (x, y), _ = load_digits()
    return x, y


def _trainer(seed: int = 0, dropout: float = 0.2) -> Any:
    from . import layers
    from .sequential import Sequential
    from .trainer import Trainer

    network = Sequential(
        [
            layers.Input((8, 8)),
            layers.Rescale(1 / 255),
            layers.Flatten(),
            layers.Dense(100, "relu"),
            layers.Dropout(dropout),
            layers.Dense(10, "softmax"),
        ],
        seed=seed,
    )
    return Trainer(network, "cross_entropy", "adam", ["accuracy"])


@contextmanager
def _always_thread() -> Iterator[None]:
    """Two threads are used even where one would be faster."""
    before = os.environ.get("FASTNET_ALWAYS_THREAD")
    os.environ["FASTNET_ALWAYS_THREAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTNET_ALWAYS_THREAD"]
        else:
            os.environ["FASTNET_ALWAYS_THREAD"] = before


def _same_bits() -> str:
    """Training gives the same bits on 1 and on 2 threads."""
    x, y = _digits()
    weights = []
    with _always_thread():
        for n in (1, 2):
            trainer = _trainer()
            with threads(n):
                trainer.fit(x, y, batch_size=64, epochs=2, progress=False)
            weights.append([w.tobytes() for w in trainer.network.get_weights()])
    if weights[0] != weights[1]:
        raise ArithmeticError("training on 2 threads gave other weights than on 1")
    return f"{2 * -(-len(x) // 64)} steps, every weight the same"


def _alone_and_in_a_batch() -> str:
    """A row predicts the same bits alone and in a batch."""
    x, _ = _digits()
    network = _trainer(seed=1).network
    network.build((8, 8))
    batch = network.predict(x[:300])
    for i in range(300):
        if network.predict(x[i : i + 1]).tobytes() != batch[i].tobytes():
            raise ArithmeticError(f"row {i} predicts other bits alone than in a batch of 300")
    return "300 rows, one by one and together"


def _reference() -> str:
    """The engine's prediction is that of NumPy in float64."""
    x, _ = _digits()
    network = _trainer(seed=2).network
    network.build((8, 8))
    w1, b1, w2, b2 = (w.astype(np.float64) for w in network.get_weights())
    hidden = np.maximum(x[:200].reshape(200, 64) / 255 @ w1 + b1, 0)
    z = hidden @ w2 + b2
    z = np.exp(z - z.max(axis=1, keepdims=True))
    error = float(np.abs(network.predict(x[:200]) - z / z.sum(axis=1, keepdims=True)).max())
    if not error < 1e-5:
        raise ArithmeticError(f"predictions are {error:.2g} away from NumPy's")
    return f"largest difference {error:.1e}"


def _learns() -> str:
    """Training reaches a loss that it always reaches."""
    x, y = _digits()
    history = _trainer(dropout=0.0).fit(x, y, epochs=20, progress=False)
    loss = history["loss"][-1]
    if not loss < _GOOD_LOSS:
        raise ArithmeticError(f"20 epochs on the digits end at loss {loss:.4f}, not < {_GOOD_LOSS}")
    right = 100 * history["accuracy"][-1]
    return f"loss {loss:.4f} after 20 epochs on the digits, {right:.1f} % right"


_CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("same bits on 1 and 2 threads", _same_bits),
    ("same bits alone and in a batch", _alone_and_in_a_batch),
    ("agrees with NumPy", _reference),
    ("learns", _learns),
)


# ---- speed --------------------------------------------------------------------------------------


def _speed() -> dict[str, Any]:
    """FMA peak of a thread and the share of it that training reaches, single-threaded."""
    peak = _core.fma_peak(0.15)
    rows, batch, widths = 2560, 128, (784, 200, 10)
    per_row = 4 * widths[0] * widths[1] + 6 * widths[1] * widths[2]  # forward, dW, and dX inside
    best = _best_epoch(rows, batch, widths)
    rate = per_row * rows / best / 1e9
    return {
        "fma_peak_gflops": round(peak, 1),
        "training_gflops": round(rate, 1),
        "share": round(rate / peak, 3) if peak > 0 else None,
        "what": "784-200-10, batch 128, 1 thread",
    }


def _best_epoch(rows: int, batch: int, widths: tuple[int, ...], seconds: float = 0.5) -> float:
    """The shortest of the epochs that fit into so many seconds."""
    from . import layers
    from .optimizers import SGD
    from .sequential import Sequential
    from .trainer import Trainer

    rng = np.random.default_rng(0)
    x = rng.random((rows, widths[0]), np.float32)
    y = rng.integers(0, widths[-1], rows)
    network = Sequential(
        [
            layers.Input(widths[0]),
            layers.Dense(widths[1], "relu"),
            layers.Dense(widths[2], "softmax"),
        ],
        seed=0,
    )
    trainer = Trainer(network, "cross_entropy", SGD(0.01, momentum=0.9))
    best, end = float("inf"), time.perf_counter() + seconds
    with threads(1):
        while time.perf_counter() < end or best == float("inf"):
            start = time.perf_counter()
            trainer.fit(x, y, batch_size=batch, progress=False)
            best = min(best, time.perf_counter() - start)
    return best


def _slow(speed: dict[str, Any]) -> list[str]:
    if speed["share"] and speed["share"] < 0.4:
        return ["training reached little of the peak: are other processes busy just now?"]
    return []


# ---- printing -----------------------------------------------------------------------------------


def _print_found(report: dict[str, Any], print_fn: Callable[[str], Any]) -> None:
    def line(title: str, text: str) -> None:
        print_fn(f"{title:12}{text}".rstrip())

    cpu, simd, cpus, chosen = (report[k] for k in ("processor", "simd", "cpus", "threads"))
    caches = ", ".join(f"{level} {text}" for level, text in cpu["caches"].items())
    line("Processor", f"{cpu['model']} ({cpu['machine']})")
    line("", f"{cpu['logical']} logical CPUs" + (f"; caches {caches}" if caches else ""))
    forced = f", forced by FASTNET_SIMD={simd['forced']}" if simd["forced"] else ", the best here"
    if len(simd["supported"]) == 1:
        forced = ""
    line("SIMD", f"{simd['level']}{forced}; supported: {', '.join(simd['supported'])}")
    load = f"; load {cpus['load']:.1f}" if cpus["load"] is not None else ""
    line("CPUs", f"{cpus['available']} available ({cpus['why']}){load}")
    line("Threads", f"{chosen['chosen']}: {chosen['why']}")
    for i, library in enumerate(report["libraries"]):
        mine = "  <- fastnet's own, 1 thread" if library["ours"] else ""
        line("Libraries" if i == 0 else "", f"{library['kind']}: {library['path']}{mine}")
    line("OpenBLAS", f"{simd['openblas']} ({simd['openblas_core']} kernels)")
    versions = report["versions"]
    line("Versions", ", ".join(f"{k} {v}" for k, v in versions.items() if k != "system"))
    line("System", versions["system"])
    folders = report["folders"]
    line("Package", folders["package"])
    held = folders["cache_bytes"]
    line("Cache", f"{folders['cache']} ({held / 2**20:.1f} MiB)" if held else
         f"{folders['cache']} (empty)")  # fmt: skip
    for i, (name, value) in enumerate(report["variables"].items()):
        line("Settings" if i == 0 else "", f"{name}={value}")


def _print_check(check: dict[str, Any], print_fn: Callable[[str], Any]) -> None:
    verdict = "ok" if check["ok"] else "FAIL"
    print_fn(f"  {verdict:4}  {check['name']}: {check['detail']}")


def _print_speed(speed: dict[str, Any], print_fn: Callable[[str], Any]) -> None:
    print_fn(f"  speed {speed['fma_peak_gflops']:g} GFLOP/s FMA peak of a thread; training "
             f"{speed['training_gflops']:g} ({speed['what']}), "
             f"{100 * (speed['share'] or 0):.0f} % of it")  # fmt: skip


if __name__ == "__main__":
    sys.exit(0 if doctor()["ok"] else 1)
