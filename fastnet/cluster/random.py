"""Random numbers: one stream of seeds from whatever `random_state` is."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np


class Seeds:
    """Seeds in [0, 2**63): the same from the same int, others at each call from a generator.

    Parameters
    ----------
    random_state : int >= 0, None, numpy.random.RandomState, numpy.random.Generator
        None draws fresh ones.
    """

    def __init__(self, random_state: Any):
        self._draw = self._source(random_state)

    @staticmethod
    def _source(state: Any) -> Any:
        if isinstance(state, np.random.RandomState):
            return lambda: int(state.randint(0, 2**63 - 1, dtype=np.int64))
        if state is np.random:
            return lambda: int(np.random.randint(0, 2**63 - 1, dtype=np.int64))
        if isinstance(state, np.random.Generator):
            generator = state
        elif state is None or (
            isinstance(state, numbers.Integral) and not isinstance(state, bool) and int(state) >= 0
        ):
            generator = np.random.default_rng(None if state is None else int(state))
        else:
            raise ValueError(
                "random_state must be None, an integer >= 0, or a RandomState or Generator of "
                f"NumPy, got {state!r}"
            )
        return lambda: int(generator.integers(0, 2**63 - 1))

    def next(self) -> int:
        return self._draw()
