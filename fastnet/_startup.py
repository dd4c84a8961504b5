"""What must be in the environment while the private OpenBLAS loads, and only then."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

#: OpenBLAS kernels of each SIMD level, so that sgemm's bits follow from the level.
_CORES = {"base": "Nehalem", "v3": "Haswell", "v4": "SkylakeX"}


def _best_level() -> str | None:
    """The best level that the processor's flags allow; None where they cannot be read."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            flags = re.search(rb"^flags\s*:(.*)$", file.read(8192), re.M)
    except OSError:
        return None
    if not flags:
        return None
    known = set(flags.group(1).split())
    if {b"avx512f", b"avx512bw", b"avx512cd", b"avx512dq", b"avx512vl"} <= known:
        return "v4"
    return "v3" if {b"avx2", b"fma", b"bmi2"} <= known else "base"


def _level() -> str | None:
    """The level whose BLAS kernels to use: as asked for, but none that the processor lacks (the
    engine can emulate sixteen lanes, OpenBLAS cannot).
    """
    best, asked = _best_level(), os.environ.get("FASTNET_SIMD")
    order = list(_CORES)
    if best is None or asked not in order:
        return best
    return min(asked, best, key=order.index)


@contextlib.contextmanager
def openblas_environment() -> Iterator[None]:
    """One BLAS thread and the level's kernels, while the block runs; nobody else sees it."""
    wanted = {"OPENBLAS_NUM_THREADS": "1"}
    core = _CORES.get(_level() or "")
    if core:
        wanted["OPENBLAS_CORETYPE"] = core
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
