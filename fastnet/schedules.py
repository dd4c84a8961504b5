"""Learning rates that change while training: objects called as ``schedule(step) -> float``.

Steps are minibatches and count from 0, as in Keras. A schedule is a pure function of the step, so a
run that is stopped and continued sees the rates of an uninterrupted one. Any function of the step
may stand in for one: ``as_schedule`` turns what a user passes into a checked schedule.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._parameters import Parameters
from .check import integer, number


class Schedule(Parameters):
    """Base of all schedules. Subclasses say the rate of a step in ``_rate``.

    ``schedule(step)``: step, an integer >= 0 -> learning rate, a finite float >= 0. Attributes are
    the parameters.

    Raises
    ------
    ValueError, TypeError
        When made, for parameters that are out of range; when called, for a step or a rate that is.
    """

    def __call__(self, step: int) -> float:
        step = integer("step", step, low=0)
        try:
            rate = self._rate(step)
        except OverflowError:
            rate = math.inf
        if isinstance(rate, float) and 0 <= rate < math.inf:
            return float(rate)  # the name for an error takes longer than a small minibatch
        return number(f"the learning rate of step {step}, from {self!r},", rate, low=0)

    def rates(self, first: int, count: int) -> np.ndarray:
        """The rates of the `count` steps from `first` on, (count,) float64."""
        return np.array([self(step) for step in range(first, first + count)])

    def _rate(self, step: int) -> float:
        raise NotImplementedError


class ConstantRate(Schedule):
    """The same rate at every step.

    Parameters
    ----------
    learning_rate : float >= 0
    """

    def __init__(self, learning_rate: float):
        self.learning_rate = number("learning_rate", learning_rate, low=0)

    def _rate(self, step):
        return self.learning_rate

    def rates(self, first, count):
        return np.full(count, self.learning_rate)


class ExponentialDecay(Schedule):
    """initial_learning_rate * decay_rate ** (step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : float >= 0
    decay_steps : int >= 1
    decay_rate : float > 0
    staircase : bool, default False
        True rounds the exponent down. As in Keras.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ):
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate, low=0)
        self.decay_steps = integer("decay_steps", decay_steps, low=1)
        self.decay_rate = number("decay_rate", decay_rate, above=0)
        self.staircase = bool(staircase)

    def _rate(self, step):
        power = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate**power


class StepDecay(Schedule):
    """initial_learning_rate * gamma ** (step // step_size): a drop every `step_size` steps.

    Parameters
    ----------
    initial_learning_rate : float >= 0
    step_size : int >= 1
    gamma : float > 0, default 0.1
        Parameters and rates are those of PyTorch's StepLR.
    """

    def __init__(self, initial_learning_rate: float, step_size: int, gamma: float = 0.1):
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate, low=0)
        self.step_size = integer("step_size", step_size, low=1)
        self.gamma = number("gamma", gamma, above=0)

    def _rate(self, step):
        return self.initial_learning_rate * self.gamma ** (step // self.step_size)


class CosineDecay(Schedule):
    """Down a half cosine from the initial rate to alpha times it, after an optional warm-up.

    With warmup_target the rate first rises in a straight line from initial_learning_rate to
    warmup_target over warmup_steps, then falls to alpha * warmup_target over decay_steps. It stays
    there. As Keras's; Loshchilov & Hutter 2017.

    Parameters
    ----------
    initial_learning_rate : float >= 0
    decay_steps : int >= 1
    alpha : float in [0, 1], default 0
    warmup_target : float >= 0, optional
    warmup_steps : int >= 0, default 0
        Without warmup_target it is not used.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ):
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate, low=0)
        self.decay_steps = integer("decay_steps", decay_steps, low=1)
        self.alpha = number("alpha", alpha, low=0, high=1)
        self.warmup_target = warmup_target
        if warmup_target is not None:
            self.warmup_target = number("warmup_target", warmup_target, low=0)
        self.warmup_steps = integer("warmup_steps", warmup_steps, low=0)

    def _rate(self, step):
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * (step / self.warmup_steps)
            top, step = self.warmup_target, step - self.warmup_steps
        done = min(step / self.decay_steps, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return top * ((1 - self.alpha) * cosine + self.alpha)


class PolynomialDecay(Schedule):
    """(initial - end) * (1 - step / decay_steps) ** power + end, then the end rate for good.

    Parameters
    ----------
    initial_learning_rate : float >= 0
    decay_steps : int >= 1
    end_learning_rate : float >= 0, default 0.0001
    power : float > 0, default 1
    cycle : bool, default False
        True doubles, triples, ... decay_steps each time that it is passed, instead of staying at
        the end rate. As in Keras.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ):
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate, low=0)
        self.decay_steps = integer("decay_steps", decay_steps, low=1)
        self.end_learning_rate = number("end_learning_rate", end_learning_rate, low=0)
        self.power = number("power", power, above=0)
        self.cycle = bool(cycle)

    def _rate(self, step):
        steps = self.decay_steps
        if self.cycle:
            steps *= max(1, -(-step // steps))
        left = 1 - min(step, steps) / steps
        span = self.initial_learning_rate - self.end_learning_rate
        return span * left**self.power + self.end_learning_rate


class PiecewiseConstantDecay(Schedule):
    """values[0] up to and including step boundaries[0], values[1] up to boundaries[1], and so on.

    Parameters
    ----------
    boundaries : sequence of int >= 0, rising
    values : sequence of float >= 0, one more than boundaries
        As in Keras.
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]):
        self.boundaries = tuple(integer("boundaries", b, low=0) for b in boundaries)
        self.values = tuple(number("values", v, low=0) for v in values)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values must be one more than boundaries, got {len(self.values)} values and "
                f"{len(self.boundaries)} boundaries"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"boundaries must rise, got {self.boundaries}")

    def _rate(self, step):
        return self.values[sum(step > boundary for boundary in self.boundaries)]


class Warmup(Schedule):
    """A straight line up to another schedule's first rate, then that schedule from its step 0.

    Parameters
    ----------
    schedule : float or callable of the step
    warmup_steps : int >= 1
    initial_learning_rate : float >= 0, default 0
        The rate of step 0.
    """

    def __init__(self, schedule: Any, warmup_steps: int, initial_learning_rate: float = 0.0):
        self.schedule = as_schedule(schedule)
        self.warmup_steps = integer("warmup_steps", warmup_steps, low=1)
        self.initial_learning_rate = number("initial_learning_rate", initial_learning_rate, low=0)

    def _rate(self, step):
        if step >= self.warmup_steps:
            return self.schedule(step - self.warmup_steps)
        start = self.initial_learning_rate
        return start + (self.schedule(0) - start) * (step / self.warmup_steps)


class OneCycle(Schedule):
    """Up to max_learning_rate, then far below the start, both along half cosines. Smith 2018.

    From max / div_factor at step 0 to max at step pct_start * total_steps - 1, then down to
    max / div_factor / final_div_factor at step total_steps - 1, and there for good. The rates are
    those of PyTorch's OneCycleLR, whose parameter names these are.

    Parameters
    ----------
    max_learning_rate : float >= 0
    total_steps : int >= 1
    pct_start : float in [0, 1], default 0.3
    div_factor : float > 0, default 25
    final_div_factor : float > 0, default 10,000
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ):
        self.max_learning_rate = number("max_learning_rate", max_learning_rate, low=0)
        self.total_steps = integer("total_steps", total_steps, low=1)
        self.pct_start = number("pct_start", pct_start, low=0, high=1)
        self.div_factor = number("div_factor", div_factor, above=0)
        self.final_div_factor = number("final_div_factor", final_div_factor, above=0)

    def _rate(self, step):
        top = self.max_learning_rate
        start = top / self.div_factor
        end = start / self.final_div_factor
        peak = self.pct_start * self.total_steps - 1
        last = self.total_steps - 1
        if step <= peak and peak > 0:
            return _half_cosine(start, top, step / peak)
        if step >= last:
            return end
        return _half_cosine(top, end, (step - peak) / (last - peak))


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


class _Function(Schedule):
    """A function of the step that a user gave; what it returns is checked at every call."""

    def __init__(self, function: Callable[[int], float]):
        self.function = function

    def _rate(self, step):
        rate: Any = self.function(step)
        if getattr(rate, "shape", None) == ():  # a NumPy or PyTorch scalar, an array without axes
            rate = rate.item()
        return rate


def as_schedule(learning_rate: Any) -> Schedule:
    """The schedule meant by a number, a schedule or any function of the step.

    Parameters
    ----------
    learning_rate : number >= 0, Schedule, or ``f(step) -> number >= 0``; steps count from 0.

    Returns
    -------
    Schedule: a call gives a finite float >= 0, or raises a ValueError that names the step.

    Raises
    ------
    TypeError
        if it is neither a number nor callable.
    ValueError
        if it is negative, NaN or infinite.
    """
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if isinstance(learning_rate, type) and issubclass(learning_rate, Schedule):
        raise TypeError(
            f"learning_rate must be a schedule, got the class {learning_rate.__name__}; "
            f"make one: {learning_rate.__name__}(...)"
        )
    if callable(learning_rate):
        return _Function(learning_rate)
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, numbers.Real):
        raise TypeError(
            f"learning_rate must be a number or a function of the step, got {learning_rate!r:.60}"
        )
    return ConstantRate(number("learning_rate", learning_rate, low=0))
