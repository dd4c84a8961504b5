"""Validation before any work: every error says what was wanted and what came."""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import _sparse

#: What the engine reads where it lies; anything else is converted to float32 once.
_IN_PLACE = frozenset("fB?b")
_REAL = frozenset("fdegbhilqBHILQ?")


def number(name: str, value: Any, *, low=None, high=None, above=None, below=None) -> float:
    """A finite number as a float, within low <= value <= high and above < value < below."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r:.60}")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond float64
        result = math.inf
    fits = math.isfinite(result)
    fits = fits and (low is None or result >= low) and (high is None or result <= high)
    fits = fits and (above is None or result > above) and (below is None or result < below)
    if not fits:
        bounds = {">=": low, ">": above, "<=": high, "<": below}
        wanted = " and ".join(f"{sign} {b:g}" for sign, b in bounds.items() if b is not None)
        raise ValueError(
            f"{name} must be a finite number {wanted}".rstrip() + f", got {value!r:.60}"
        )
    return result


def integer(name: str, value: Any, *, low: int | None = None) -> int:
    """An integer >= low."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r:.60}")
    if low is not None and value < low:
        raise ValueError(f"{name} must be an integer >= {low}, got {value!r:.60}")
    return int(value)


def seed(value: Any) -> int:
    """A seed as an integer in [0, 2**64); None draws one."""
    if value is None:
        import secrets

        return secrets.randbits(63)
    value = integer("seed", value, low=0)
    if value >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {value}")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False; 1 and 0 will do."""
    if not isinstance(value, bool | np.bool_ | numbers.Integral) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False, got {value!r:.60}")
    return bool(value)


def choice(what: str, name: Any, names: Iterable[str]) -> str:
    """One of `names`; the error lists them and guesses what was meant."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a name such as {next(iter(names))!r}, got {name!r}")
    known = sorted(names)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {what} {name!r}; {hint}known are {', '.join(known)}")


def unknown_argument(
    name: str,
    argument: str,
    function: Callable[..., Any],
    hints: Mapping[str, str],
    more: Iterable[str] = (),
) -> TypeError:
    """The error for an argument that a function does not have, with a hint or what was meant;
    more: names of arguments that it passes on."""
    import inspect

    known = [*inspect.signature(function).parameters, *more]
    near = difflib.get_close_matches(argument, known, n=1)
    hint = hints.get(argument, f"did you mean {near[0]!r}?" if near else "")
    return TypeError(f"{name}() got an unexpected argument {argument!r}" + (hint and f"; {hint}"))


def shape(name: str, value: Any) -> tuple[int, ...]:
    """An int or a tuple of ints >= 1, without the batch axis."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, tuple | list) or not value:
        raise TypeError(
            f"{name} must be an int or a tuple of ints, without the batch axis, got {value!r}"
        )
    axes = tuple(integer(f"{name}[{i}]", n, low=1) for i, n in enumerate(value))
    if len(axes) > 6:
        raise ValueError(f"{name} can have at most 6 axes behind the batch axis, got {axes}")
    if math.prod(axes) > 2**29:
        raise ValueError(f"{name} {axes} is too large: at most 2**29 values a row")
    return axes


def array(name: str, value: Any) -> np.ndarray:
    """A numeric array of whatever NumPy can convert; TypeError for text, complex, sparse, ..."""
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray()")
    if value is None:
        raise TypeError(f"{name} must hold numbers, got None")
    mask = getattr(value, "mask", None)  # np.ma is slow to import; pandas has a method of that name
    if isinstance(mask, np.ndarray | np.bool_) and mask.any():
        raise ValueError(f"{name} is masked in places; fill them or leave such rows out")
    try:
        result = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be made an array: its rows differ in length") from error
    if result.dtype.kind == "O" and not any(isinstance(v, str | bytes) for v in result.flat):
        with contextlib.suppress(TypeError, ValueError):
            result = result.astype(np.float64)
    if result.dtype.kind in "OUSV":
        raise TypeError(f"{name} must hold numbers, got dtype {result.dtype}")
    if result.dtype.char not in _REAL:
        raise TypeError(f"{name} must hold real numbers, got dtype {result.dtype}")
    return result


def float32(value: np.ndarray) -> np.ndarray:
    """In C order as float32, itself where it is that; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(value, dtype=np.float32, order="C")


def features(name: str, value: Any) -> Any:
    """x as the engine reads it: float32, uint8, int8 or bool in C order, itself if it is that; or
    rows of a sparse matrix."""
    if type(value) is not np.ndarray and _sparse.is_sparse(value):
        return _sparse.rows(name, value)
    x = value if type(value) is np.ndarray else array(name, value)
    if x.dtype.char not in _IN_PLACE or not x.dtype.isnative:
        if x.dtype.char not in _REAL:
            x = array(name, x)
        x = float32(x)
    if not x.flags.c_contiguous:
        x = np.asarray(x, order="C")
    return x


def rows(name: str, x: Any, wanted: tuple[int, ...]) -> Any:
    """x with shape (n, *wanted); a (n,) array equals (n, 1)."""
    if x.shape[1:] == wanted:
        return x
    if isinstance(x, _sparse.Rows):
        hint = f"; begin it with Input({math.prod(wanted)}) and Reshape{wanted}"
        raise ValueError(
            f"{name} is a sparse matrix of shape {x.shape}, the network wants rows of shape "
            f"{wanted}" + (hint if len(wanted) > 1 and x.columns == math.prod(wanted) else "")
        )
    if x.ndim == 1 and math.prod(wanted) == 1:
        return x.reshape(len(x), *wanted)
    if x.shape == wanted:
        raise ValueError(
            f"{name} is one row of shape {x.shape}; pass {name}[None] for a batch of one"
        )
    if len(wanted) > 1 and x.shape[1:] == (wanted[-1], *wanted[:-1]):
        raise ValueError(
            f"{name} must have shape (n, {', '.join(map(str, wanted))}), the channels last, got "
            f"{x.shape}; np.moveaxis({name}, 1, -1) makes it so"
        )
    if x.ndim and math.prod(x.shape[1:]) == math.prod(wanted):
        raise ValueError(
            f"{name} must have shape (n, {', '.join(map(str, wanted))}), got {x.shape}; "
            f"the sizes agree: {name}.reshape(len({name}), {', '.join(map(str, wanted))}), "
            "or begin the network with Input of that shape and Flatten() or Reshape()"
        )
    raise ValueError(f"{name} must have shape (n, {', '.join(map(str, wanted))}), got {x.shape}")


def part_name(name: str, names: Sequence[str], i: int) -> str:
    """What one of several arrays is called: x, or x['left']."""
    return name if len(names) == 1 else f"{name}[{names[i]!r}]"


def parts(name: str, value: Any, names: Sequence[str]) -> list[tuple[str, Any]]:
    """(name for messages, array) for each of `names`: one array, a list or a dict of them."""
    if len(names) == 1 and not isinstance(value, dict):
        return [(name, value)]
    if isinstance(value, dict):
        if set(value) != set(names):
            raise ValueError(
                f"{name} must have the keys {', '.join(names)}, got {', '.join(map(str, value))}"
            )
        values = [value[key] for key in names]
    else:
        if not isinstance(value, list | tuple):
            raise TypeError(
                f"{name} must be a list of {len(names)} arrays or a dict of them "
                f"({', '.join(names)}), got {type(value).__name__}"
            )
        if len(value) != len(names):
            raise ValueError(
                f"{name} must hold {len(names)} arrays ({', '.join(names)}), got {len(value)}"
            )
        values = list(value)
    return [(part_name(name, names, i), part) for i, part in enumerate(values)]


def weights(name: str, value: Any, n: int) -> np.ndarray:
    """Sample weights, finite and >= 0, as float32 of shape (n,)."""
    w = float32(array(name, value))
    if w.shape not in ((n,), (n, 1)):
        raise ValueError(f"{name} must have shape ({n},), got {w.shape}")
    w = w.reshape(n)
    if not np.isfinite(w).all() or (w < 0).any():
        bad = w[~((w >= 0) & np.isfinite(w))][0]
        raise ValueError(f"{name} must be finite and >= 0, got {bad}")
    if n and not w.any():
        raise ValueError(f"{name} are all zero: there is nothing to learn from")
    return w
