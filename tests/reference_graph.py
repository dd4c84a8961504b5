"""The truth for ops that join and part branches, in float64 NumPy.

Inputs are named a, b, c. Part of tests/reference.py, whose OPS take these in.
"""

from __future__ import annotations

import numpy as np
from reference import Case, Op, sample_normal

NAMES = ("a", "b", "c")
_SHAPES = ((7, 5), (1, 3), (0, 5), (5, 15), (6, 16), (9, 17), (3, 31), (8, 33), (2, 97), (3, 5, 7))


def given(a, b, c):
    return [a, b] if c is None else [a, b, c]


def add_forward(a, b, c=None):
    return sum(given(a, b, c))


def add_backward(a, b, c=None, dy=None):
    return dy, dy, None if c is None else dy


def subtract_backward(a, b, dy):
    return dy, -dy


def average_forward(a, b, c=None):
    return np.mean(given(a, b, c), axis=0)


def average_backward(a, b, c=None, dy=None):
    part = dy / len(given(a, b, c))
    return part, part, None if c is None else part


def multiply_forward(a, b, c=None):
    return np.prod(given(a, b, c), axis=0)


def multiply_backward(a, b, c=None, dy=None):
    if c is None:
        return dy * b, dy * a, None
    return dy * b * c, dy * a * c, dy * a * b


def maximum_forward(a, b, c=None):
    return np.max(given(a, b, c), axis=0)


def maximum_backward(a, b, c=None, dy=None):
    """The first of the largest gets the gradient."""
    first = np.argmax(given(a, b, c), axis=0)
    parts = [np.where(first == i, dy, 0.0) for i in range(len(given(a, b, c)))]
    return *parts, *[None] * (3 - len(parts))


def sample_apart(case, rng):
    """Values that differ by more than a step of central differences; each input wins in turn."""
    arrays = {}
    for i, (name, shape) in enumerate(case.shapes.items()):
        turn = (np.arange(np.prod(shape)) + i) % len(case.shapes)
        arrays[name] = 0.5 * turn.reshape(shape) + 0.2 * rng.random(shape) - 0.6
    return arrays


def concatenate_forward(a, b, axis, c=None):
    """axis counts behind the rows, from 0."""
    return np.concatenate(given(a, b, c), axis=axis + 1)


def concatenate_backward(a, b, axis, c=None, dy=None):
    ends = np.cumsum([x.shape[axis + 1] for x in given(a, b, c)])[:-1]
    parts = np.split(dy, ends, axis=axis + 1)
    return *parts, *[None] * (3 - len(parts))


def fork_forward(a, n):
    return np.stack([a] * n)


def fork_backward(a, n, dy):
    return (dy.sum(axis=0),)


def _same(counts=(2, 3)):
    return tuple(Case(dict.fromkeys(NAMES[:count], shape)) for count in counts for shape in _SHAPES)


_CONCATENATIONS = tuple(
    Case(dict(zip(NAMES, shapes, strict=False)), {"axis": axis})
    for axis, *shapes in (
        (0, (7, 3), (7, 5)), (0, (1, 3), (1, 1)), (0, (0, 3), (0, 5)),
        (0, (7, 17), (7, 16), (7, 1)),
        (1, (3, 5, 7), (3, 5, 2)), (0, (3, 5, 7), (3, 2, 7), (3, 1, 7)),
        (2, (2, 3, 5, 7), (2, 3, 5, 1), (2, 3, 5, 16)), (1, (2, 3, 5, 7), (2, 3, 4, 7)),
    )
)  # fmt: skip

GRAPH_OPS: dict[str, Op] = {
    "fork": Op(
        fork_forward, fork_backward,
        tuple(Case({"a": shape}, {"n": n}) for shape in _SHAPES for n in (2, 3, 8)),
        sample_normal, ("a",),
    ),
    "add": Op(add_forward, add_backward, _same(), sample_normal, NAMES),
    "subtract": Op(
        lambda a, b: a - b, subtract_backward, _same((2,)), sample_normal, NAMES[:2]
    ),
    "multiply": Op(multiply_forward, multiply_backward, _same(), sample_normal, NAMES),
    "average": Op(average_forward, average_backward, _same(), sample_normal, NAMES),
    "maximum": Op(maximum_forward, maximum_backward, _same(), sample_apart, NAMES),
    "concatenate": Op(
        concatenate_forward, concatenate_backward, _CONCATENATIONS, sample_normal, NAMES
    ),
}  # fmt: skip
