"""Starting values of weights: Keras's initializers, by name or as objects, or a function of yours.

An initializer is called as ``init(shape, rng)`` and returns a new C-ordered float32 array of that
shape; `rng` is a ``numpy.random.Generator``. The same generator state gives the same bits whatever
the number of threads. ``get`` turns whatever a user may pass into such an object.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ._parameters import Parameters

Shape = tuple[int, ...]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_TRUNCATION = 0.87962566103423978  # standard deviation of a normal cut off at two of its own


def _check_number(name: str, value: Any, minimum: float = -_FLOAT32_MAX) -> float:
    """The value as a Python float that float32 can hold, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r:.60}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond float64
        number = math.inf
    if not minimum <= number <= _FLOAT32_MAX:  # false for NaN too
        least = "" if minimum == -_FLOAT32_MAX else f" >= {minimum:g}"
        raise ValueError(f"{name} must be a finite float32 number{least}, got {value!r:.60}")
    return number


def _check_shape(shape: Any) -> Shape:
    """The shape as a tuple of Python ints >= 0."""
    if isinstance(shape, numbers.Integral):
        shape = (shape,)
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"shape must be a tuple of integers, got {shape!r}") from None
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, numbers.Integral):
            raise TypeError(f"shape must be a tuple of integers, got {shape!r}")
        if size < 0:
            raise ValueError(f"shape must not have negative sizes, got {shape!r}")
    return tuple(int(size) for size in sizes)


def fans(shape: Shape) -> tuple[int, int]:
    """How many inputs and outputs one unit has, ``(fan_in, fan_out)``, as in Keras.

    ``(n,)`` -> n, n;  ``(d_in, units)`` -> d_in, units;  a convolution's ``(h, w, c_in, c_out)``
    (any number of spatial axes) -> h*w*c_in, h*w*c_out;  ``()`` -> 1, 1.
    """
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    receptive = math.prod(shape[:-2])
    return receptive * shape[-2], receptive * shape[-1]


class Initializer(Parameters):
    """Base of all initializers: checks the arguments, then draws.

    Its attributes are its parameters: what `repr` shows, `==` compares and `serialize` writes.
    """

    name: ClassVar[str] = ""

    def __call__(self, shape: Any, rng: np.random.Generator) -> np.ndarray:
        """Draw an array.

        Parameters
        ----------
        shape : tuple of int (an int n means (n,)).
        rng : numpy.random.Generator, moved on by what is drawn.

        Returns
        -------
        float32 array of that shape, C order, writeable, never shared.

        Raises
        ------
        TypeError, ValueError
            if the shape or the generator is not one.
        """
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
        shape = _check_shape(shape)
        return np.ascontiguousarray(self._draw(shape, rng), dtype=np.float32).reshape(shape)

    def _draw(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError


# ----------------------------------------------------------------------------- constants


class Zeros(Initializer):
    """All 0."""

    name = "zeros"

    def _draw(self, shape, rng):
        return np.zeros(shape, np.float32)


class Ones(Initializer):
    """All 1."""

    name = "ones"

    def _draw(self, shape, rng):
        return np.ones(shape, np.float32)


class Constant(Initializer):
    """All `value` (default 0.0, as in Keras; finite)."""

    name = "constant"

    def __init__(self, value: float = 0.0):
        self.value = _check_number("value", value)

    def _draw(self, shape, rng):
        return np.full(shape, self.value, np.float32)


# ----------------------------------------------------------------------------- random values


class RandomNormal(Initializer):
    """Normal with `mean` (default 0.0) and standard deviation `stddev` >= 0 (default 0.05)."""

    name = "random_normal"

    def __init__(self, mean: float = 0.0, stddev: float = 0.05):
        self.mean = _check_number("mean", mean)
        self.stddev = _check_number("stddev", stddev, 0.0)

    def _draw(self, shape, rng):
        return self.mean + self.stddev * rng.standard_normal(shape)


class RandomUniform(Initializer):
    """Uniform between `minval` (default -0.05) and `maxval` (default 0.05; >= minval)."""

    name = "random_uniform"

    def __init__(self, minval: float = -0.05, maxval: float = 0.05):
        self.minval = _check_number("minval", minval)
        self.maxval = _check_number("maxval", maxval)
        if self.minval > self.maxval:
            raise ValueError(
                f"minval must be at most maxval, got minval={self.minval}, maxval={self.maxval}"
            )

    def _draw(self, shape, rng):
        return rng.uniform(self.minval, self.maxval, shape)


def _truncated_normal(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values; those beyond 2 are drawn again until none is left."""
    values = np.asarray(rng.standard_normal(shape))
    outside = np.abs(values) > 2
    while outside.any():
        values[outside] = rng.standard_normal(int(outside.sum()))
        outside = np.abs(values) > 2
    return values


class _Scaled(Initializer):
    """Random values whose variance is scale / fan, the fan being inputs, or inputs and outputs.

    Uniform within sqrt(3 * scale / fan), or normal with that variance, cut off at two standard
    deviations of the uncut normal and widened to make up for it (as Keras's VarianceScaling).
    """

    scale: ClassVar[float] = 1.0
    average: ClassVar[bool] = False  # fan: mean of inputs and outputs, instead of inputs
    uniform: ClassVar[bool] = True

    def _draw(self, shape, rng):
        fan_in, fan_out = fans(shape)
        fan = max(1.0, (fan_in + fan_out) / 2 if self.average else fan_in)
        if self.uniform:
            limit = math.sqrt(3 * self.scale / fan)
            return rng.uniform(-limit, limit, shape)
        return math.sqrt(self.scale / fan) / _TRUNCATION * _truncated_normal(shape, rng)


class GlorotUniform(_Scaled):
    """Uniform within sqrt(6 / (fan_in + fan_out)). Glorot & Bengio 2010."""

    name = "glorot_uniform"
    average = True


class GlorotNormal(_Scaled):
    """Truncated normal, standard deviation sqrt(2 / (fan_in + fan_out)). Glorot & Bengio 2010."""

    name = "glorot_normal"
    average = True
    uniform = False


class HeUniform(_Scaled):
    """Uniform within sqrt(6 / fan_in). He et al. 2015."""

    name = "he_uniform"
    scale = 2.0


class HeNormal(_Scaled):
    """Truncated normal, standard deviation sqrt(2 / fan_in). He et al. 2015."""

    name = "he_normal"
    scale = 2.0
    uniform = False


class LecunUniform(_Scaled):
    """Uniform within sqrt(3 / fan_in). LeCun et al. 1998."""

    name = "lecun_uniform"


class LecunNormal(_Scaled):
    """Truncated normal, standard deviation sqrt(1 / fan_in). LeCun et al. 1998."""

    name = "lecun_normal"
    uniform = False


def _orthonormal_rows(vectors: np.ndarray) -> np.ndarray:
    """Modified Gram-Schmidt on the rows of a (k, n) float64 array, k <= n, in place.

    Written out instead of ``numpy.linalg.qr``, whose last bits depend on the BLAS and on how many
    threads it takes: every sum here is NumPy's own, in an order that depends on the shape only.
    """
    for i, vector in enumerate(vectors):
        vector /= np.sqrt((vector * vector).sum())
        rest = vectors[i + 1 :]
        if len(rest):
            rest -= (rest * vector).sum(axis=1)[:, None] * vector
    return vectors


class Orthogonal(Initializer):
    """A random orthogonal matrix times `gain` (default 1.0). Saxe et al. 2014.

    The shape is taken as the matrix (product of all axes but the last, last axis): its columns, or
    its rows where these are fewer, are orthonormal. Two axes at least, no size 0. Takes about a
    second for 1024 x 1024.
    """

    name = "orthogonal"

    def __init__(self, gain: float = 1.0):
        self.gain = _check_number("gain", gain)

    def _draw(self, shape, rng):
        if len(shape) < 2 or 0 in shape:
            raise ValueError(
                f"orthogonal needs a shape of two or more axes without a size 0, got {shape}"
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        vectors = rng.standard_normal((min(rows, columns), max(rows, columns)))
        matrix = _orthonormal_rows(vectors)
        return self.gain * (matrix if rows <= columns else matrix.T)


# ----------------------------------------------------------------------------- your own


class Custom(Initializer):
    """Your own ``function(shape, rng)``; what it returns is checked and copied.

    It has to return numbers of exactly that shape, all finite in float32. A model file cannot hold
    a function: a network read from a file has ``Custom(None)`` here, which draws as glorot_uniform
    does (the file's weights then take its place).
    """

    name = "custom"

    def __init__(self, function: Callable | None = None):
        self.function = function
        if function is None:
            return
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r:.60}")
        from inspect import signature  # slow to import

        try:
            signature(function).bind((1,), None)
        except TypeError:
            raise TypeError(
                "an initializer is called as f(shape, rng), which "
                f"{self._label()}{signature(function)} cannot be"
            ) from None
        except ValueError:
            pass  # some compiled functions have no signature; the call will tell

    def _label(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _draw(self, shape, rng):
        if self.function is None:
            return GlorotUniform()._draw(shape, rng)
        drawn = self.function(shape, rng)
        try:
            with np.errstate(over="ignore"):
                values = np.array(drawn, dtype=np.float32)
        except (TypeError, ValueError):
            raise TypeError(
                f"initializer {self._label()} must return numbers of shape {shape}, "
                f"got {type(drawn).__name__}"
            ) from None
        if values.shape != shape:
            raise ValueError(
                f"initializer {self._label()} must return shape {shape}, got {values.shape}"
            )
        if not np.isfinite(values).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise ValueError(
                f"initializer {self._label()} must return finite float32 values, "
                f"got {values[where]} at {where}"
            )
        return values


# ----------------------------------------------------------------------------- names and files

# Keras's lower-case names stand for the classes, as in Keras.
zeros, ones, constant = Zeros, Ones, Constant
random_normal, random_uniform, orthogonal = RandomNormal, RandomUniform, Orthogonal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

_TABLE: dict[str, type[Initializer]] = {
    cls.name: cls
    for cls in (
        GlorotUniform,
        GlorotNormal,
        HeUniform,
        HeNormal,
        LecunUniform,
        LecunNormal,
        Zeros,
        Ones,
        Constant,
        Orthogonal,
        RandomNormal,
        RandomUniform,
    )
}
_ALIASES = {
    "glorot": "glorot_uniform",
    "xavier": "glorot_uniform",
    "he": "he_uniform",
    "lecun": "lecun_uniform",
    "zero": "zeros",
    "one": "ones",
    "normal": "random_normal",
    "uniform": "random_uniform",
    **{cls.__name__: name for name, cls in _TABLE.items()},
}


def names() -> tuple[str, ...]:
    """The names that `get` knows, aliases left out."""
    return tuple(_TABLE)


def get(identifier: Any) -> Initializer:
    """The initializer meant by a name, an object, a class, or a function of (shape, rng).

    Parameters
    ----------
    identifier : str
        A Keras name ("he_normal", "HeNormal") or a short one: "glorot", "he" and "lecun" are the
        uniform kinds, "normal" and "uniform" are random_normal and random_uniform.
    identifier : Initializer, one of its classes, or ``f(shape, rng) -> array``
        An object is returned as it is, a class is made with its defaults, a function is wrapped
        in `Custom`, which checks what it returns.

    Raises
    ------
    ValueError
        for an unknown name.
    TypeError
        for anything else.
    """
    if isinstance(identifier, Initializer):
        return identifier
    if isinstance(identifier, str):
        name = _ALIASES.get(identifier, identifier)
        if name not in _TABLE:
            raise ValueError(
                f"unknown initializer {identifier!r:.60}; the names are {', '.join(_TABLE)}, "
                "or give a function of (shape, rng)"
            )
        return _TABLE[name]()
    if isinstance(identifier, type) and identifier in _TABLE.values():
        return identifier()
    if callable(identifier):
        return Custom(identifier)
    raise TypeError(
        "initializer must be a name, an object of fastnet.initializers or a function of "
        f"(shape, rng), got {identifier!r:.60}"
    )


def serialize(initializer: Any) -> dict[str, Any]:
    """A dict of JSON values for whatever `get` accepts: ``{"name": "orthogonal", "gain": 1.0}``.

    A function of yours, or an `Initializer` class of yours, becomes ``{"name": "custom"}``.
    """
    initializer = get(initializer)
    if _TABLE.get(initializer.name) is not type(initializer):
        return {"name": Custom.name}
    return {"name": initializer.name, **vars(initializer)}


def deserialize(config: Any) -> Initializer:
    """The initializer of a dict written by `serialize`.

    Only the names of this module are known and only numbers are read, so a config can run nothing.
    ``{"name": "custom"}`` gives ``Custom(None)``.

    Raises
    ------
    ValueError
        for anything else: an unknown name, a field missing a number, a field too many.
    """
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise ValueError(f'an initializer must be a dict with a "name", got {config!r:.60}')
    fields = {key: value for key, value in config.items() if key != "name"}
    name = config["name"]
    if name == Custom.name and not fields:
        return Custom(None)
    if name not in _TABLE:
        raise ValueError(f"unknown initializer {name!r:.60}; the names are {', '.join(_TABLE)}")
    known = vars(_TABLE[name]())
    for key in fields:
        if key not in known:
            wanted = ", ".join(known) or "no parameters"
            raise ValueError(f"initializer {name} takes {wanted}; got {key!r:.60}")
    try:
        return _TABLE[name](**fields)
    except TypeError as error:
        raise ValueError(f"initializer {name}: {error}") from None
