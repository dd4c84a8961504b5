"""How many threads: chosen by the engine from what the machine allows, or set here."""

from __future__ import annotations

from . import _core
from .check import integer

__all__ = ["get_num_threads", "set_num_threads", "threads"]

_asked = 0


def set_num_threads(n: int) -> None:
    """Use exactly `n` threads (at most 64) for work that is large enough; 0 is automatic again.

    Automatic is the smallest of the CPUs that affinity and the cgroup's quota allow,
    ``OMP_NUM_THREADS``, and the limits of joblib and threadpoolctl. Results do not depend on it.

    Raises
    ------
    ValueError, TypeError
        If n is negative or no integer.
    """
    global _asked
    _asked = min(integer("n", n, low=0), 64)
    _core.set_threads(_asked)


def get_num_threads() -> int:
    """Threads that a large fit or predict would use now."""
    return _core.get_threads()


class threads:  # noqa: N801 - used as a function: with fn.threads(2):
    """``with fn.threads(2):`` uses two threads inside the block.

    Parameters
    ----------
    n : int >= 0
        As for `set_num_threads`.
    """

    def __init__(self, n: int):
        self.n = integer("n", n, low=0)

    def __enter__(self) -> threads:
        self._before = _asked
        set_num_threads(self.n)
        return self

    def __exit__(self, *error: object) -> None:
        set_num_threads(self._before)
