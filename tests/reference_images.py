"""The truth for layers on images, in float64 NumPy: pools, padding, upsampling, normalisation.

x is (n, h, w, c). Part of tests/reference.py, whose OPS take these in; a row of a smaller rank is
an image of one line or one pixel.
"""

from __future__ import annotations

import math

import numpy as np
from reference import Case, Op, sample_normal

# ----------------------------------------------------------------------------- pools


def windows(x_shape, out, pool_h=1, pool_w=1, stride_h=1, stride_w=1, top=0, left=0):
    """(i, j, rows, columns) of every window, cut off at the borders of the image."""
    _, h, w, _ = x_shape
    for i in range(out[0]):
        for j in range(out[1]):
            y, x = i * stride_h - top, j * stride_w - left
            rows, columns = (
                slice(max(y, 0), min(y + pool_h, h)),
                slice(max(x, 0), min(x + pool_w, w)),
            )
            yield i, j, rows, columns


def max_pool_forward(x, out, **where):
    y = np.empty((len(x), *out, x.shape[-1]))
    for i, j, rows, columns in windows(x.shape, out, **where):
        y[:, i, j] = x[:, rows, columns].max(axis=(1, 2))
    return y


def max_pool_backward(x, dy, out, **where):
    """The first maximum of a window, by rows, gets its gradient."""
    dx = np.zeros_like(x)
    for i, j, rows, columns in windows(x.shape, out, **where):
        part = x[:, rows, columns]
        flat = part.reshape(len(x), math.prod(part.shape[1:3]), x.shape[-1])
        first = np.arange(flat.shape[1])[None, :, None] == flat.argmax(axis=1)[:, None]
        dx[:, rows, columns] += (first * dy[:, i, j][:, None]).reshape(part.shape)
    return (dx,)


def avg_pool_forward(x, out, **where):
    y = np.empty((len(x), *out, x.shape[-1]))
    for i, j, rows, columns in windows(x.shape, out, **where):
        y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return y


def avg_pool_backward(x, dy, out, **where):
    dx = np.zeros_like(x)
    for i, j, rows, columns in windows(x.shape, out, **where):
        part = dx[:, rows, columns]
        part += dy[:, i, j][:, None, None] / math.prod(part.shape[1:3])
    return (dx,)


def sample_pool(case, rng):
    """Values of a window differ by 0.01 and more: central differences stay on one side of a tie."""
    shape = case.shapes["x"]
    values = rng.permutation(math.prod(shape)) * 0.02
    return {"x": values.reshape(shape) - values.mean() if values.size else values.reshape(shape)}


def _pool(shape, pool, stride, out, corner=(0, 0)):
    where = {"pool_h": pool[0], "pool_w": pool[1], "stride_h": stride[0], "stride_w": stride[1]}
    return Case({"x": shape}, {"out": out, **where, "top": corner[0], "left": corner[1]})


# Images of 7x5 and around it, channels 1 to more than four vectors of each level.
_POOLS = (
    *(_pool((n, 7, 5, c), (2, 2), (2, 2), (3, 2)) for n, c in (
        (7, 3), (1, 8), (0, 3), (2, 1), (2, 4), (3, 5), (2, 7), (1, 9), (2, 16), (1, 17), (2, 31),
        (1, 32), (2, 64), (1, 67))),
    _pool((2, 8, 6, 8), (2, 2), (2, 2), (4, 3)),
    _pool((2, 7, 5, 3), (2, 2), (2, 2), (4, 3)),  # the last windows are cut off
    *(_pool((2, 7, 5, c), (3, 3), (2, 2), (4, 3), (1, 1)) for c in (1, 3, 5, 8, 13, 16, 19, 33)),
    *(_pool((3, 7, 5, c), (3, 2), (1, 1), (7, 5), (1, 0)) for c in (2, 11)),
    _pool((2, 7, 5, 3), (2, 3), (4, 5), (2, 1)),  # pixels between the windows
    _pool((2, 3, 4, 5), (5, 7), (1, 1), (3, 4), (2, 3)),  # larger than the image
    *(_pool((2, 7, 5, c), (7, 5), (1, 1), (1, 1)) for c in (1, 3, 10)),
    _pool((1, 1, 1, 6), (1, 1), (1, 1), (1, 1)),
    _pool((3, 1, 9, 5), (1, 3), (1, 2), (1, 4)),
)  # fmt: skip

# ----------------------------------------------------------------------------- padding, upsampling


def pad_forward(x, out, top, left):
    """y[i, j] = x[i - top, j - left], 0 outside."""
    y = np.zeros((len(x), *out, x.shape[-1]))
    _, h, w, _ = x.shape
    rows = slice(max(top, 0), min(h + top, out[0]))
    columns = slice(max(left, 0), min(w + left, out[1]))
    y[:, rows, columns] = x[:, rows.start - top : rows.stop - top,
                            columns.start - left : columns.stop - left]  # fmt: skip
    return y


def pad_backward(x, dy, out, top, left):
    return (pad_forward(dy, x.shape[1:3], -top, -left),)


def _pad(shape, out, top, left):
    return Case({"x": shape}, {"out": out, "top": top, "left": left})


_PADS = (
    *(_pad((n, 7, 5, 3), (10, 8), 1, 2) for n in (7, 1, 0)),
    _pad((2, 7, 5, 1), (7, 9), 0, 4),
    _pad((2, 7, 5, 17), (12, 5), 5, 0),
    _pad((3, 7, 5, 3), (4, 2), -1, -2),
    _pad((2, 7, 5, 4), (3, 8), -4, 2),  # rows cut off, columns added
    _pad((2, 7, 5, 4), (9, 1), 1, -4),
    _pad((2, 1, 9, 3), (1, 12), 0, 2),
)


def interpolation(n, factor, bilinear):
    """(n * factor, n): output = matrix @ input along one axis."""
    matrix = np.zeros((n * factor, n))
    for i in range(n * factor):
        if bilinear:
            at = (i + 0.5) / factor - 0.5
            low = math.floor(at)
            matrix[i, max(low, 0)] += 1 - (at - low)
            matrix[i, min(low + 1, n - 1)] += at - low
        else:
            matrix[i, i // factor] = 1
    return matrix


def upsample_forward(x, factor_h=1, factor_w=1, bilinear=0):
    down = interpolation(x.shape[1], factor_h, bilinear)
    across = interpolation(x.shape[2], factor_w, bilinear)
    return np.einsum("ih,jw,nhwc->nijc", down, across, x)


def upsample_backward(x, dy, factor_h=1, factor_w=1, bilinear=0):
    down = interpolation(x.shape[1], factor_h, bilinear)
    across = interpolation(x.shape[2], factor_w, bilinear)
    return (np.einsum("ih,jw,nijc->nhwc", down, across, dy),)


_UPSAMPLES = tuple(
    Case({"x": shape}, {"factor_h": fh, "factor_w": fw, "bilinear": bilinear})
    for bilinear in (0, 1)
    for shape, fh, fw in (
        ((7, 3, 5, 3), 2, 2), ((1, 7, 5, 1), 2, 3), ((0, 3, 5, 3), 2, 2), ((2, 7, 5, 17), 3, 2),
        ((3, 1, 4, 5), 1, 4), ((2, 4, 1, 8), 5, 1), ((2, 1, 1, 9), 3, 3),
    )
)  # fmt: skip

# ----------------------------------------------------------------------------- spatial dropout


def sample_spatial_dropout(case, rng):
    shape = case.shapes["x"]
    mask = rng.random((len(shape) and shape[0], 1, 1, shape[-1])) >= case.attributes["rate"]
    return {"x": rng.standard_normal(shape), "mask": mask.astype(float)}


# ----------------------------------------------------------------------------- normalisation


def standardised(x, axes, epsilon):
    """(z, 1 / std) with z = (x - mean) / std over `axes`."""
    inverse = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)
    return (x - x.mean(axis=axes, keepdims=True)) * inverse, inverse


def standardised_backward(z, inverse, axes, dz):
    return inverse * (dz - dz.mean(axis=axes, keepdims=True)
                      - z * (dz * z).mean(axis=axes, keepdims=True))  # fmt: skip


def in_groups(x, groups):
    """(n, h, w, c) or (n, c) as (n, pixels, groups, c / groups)."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def norm_forward(x, gamma=None, beta=None, *, epsilon, groups=None):
    """Over the last axis, or over all pixels of each group of channels."""
    if groups is None:
        z = standardised(x, -1, epsilon)[0]
    else:
        z = standardised(in_groups(x, groups), (1, 3), epsilon)[0].reshape(x.shape)
    return z * (1.0 if gamma is None else gamma) + (0.0 if beta is None else beta)


def norm_backward(x, gamma=None, beta=None, *, dy, epsilon, groups=None):
    parts, axes = (x, -1) if groups is None else (in_groups(x, groups), (1, 3))
    z, inverse = standardised(parts, axes, epsilon)
    dz = (dy * (1.0 if gamma is None else gamma)).reshape(parts.shape)
    dx = standardised_backward(z, inverse, axes, dz).reshape(x.shape)
    pixels = tuple(range(x.ndim - 1))
    dgamma = None if gamma is None else (dy * z.reshape(x.shape)).sum(axis=pixels)
    return dx, dgamma, None if beta is None else dy.sum(axis=pixels)


def batch_norm_forward(x, gamma=None, beta=None, *, epsilon):
    """Over all rows and pixels, as training does."""
    z = standardised(x, tuple(range(x.ndim - 1)), epsilon)[0]
    return z * (1.0 if gamma is None else gamma) + (0.0 if beta is None else beta)


def batch_norm_backward(x, gamma=None, beta=None, *, dy, epsilon):
    pixels = tuple(range(x.ndim - 1))
    z, inverse = standardised(x, pixels, epsilon)
    dx = standardised_backward(z, inverse, pixels, dy * (1.0 if gamma is None else gamma))
    dgamma = None if gamma is None else (dy * z).sum(axis=pixels)
    return dx, dgamma, None if beta is None else dy.sum(axis=pixels)


def sample_norm(case, rng):
    """Rows far from zero: a variance from sums of squares would lose its digits."""
    arrays = sample_normal(case, rng)
    arrays["x"] = arrays["x"] * rng.uniform(0.5, 2.0, case.shapes["x"][-1:]) + 30.0
    return arrays


def _norm(shape, affine=("gamma", "beta"), **attributes):
    shapes = {"x": shape, **dict.fromkeys(affine, shape[-1:])}
    return Case(shapes, {"epsilon": 1e-3, **attributes})


_LAYER_NORMS = (
    *(_norm(shape) for shape in ((7, 5), (1, 3), (0, 5), (3, 15), (5, 16), (2, 17), (3, 33),
                                 (2, 97), (2, 300), (7, 3, 5), (2, 7, 5, 3), (2, 3, 2, 8),
                                 (9, 8), (21, 32), (3, 1, 9, 4), (2, 3, 3, 12), (3, 5, 3, 16),
                                 (2, 1, 5, 20), (1, 9, 7, 24), (3, 3, 32))),
    _norm((3, 9), ("gamma",)), _norm((3, 9), ("beta",)), _norm((3, 9), (), epsilon=0.5),
)  # fmt: skip
_GROUP_NORMS = (
    *(_norm((n, 7, 5, 6), groups=groups) for n, groups in ((7, 2), (1, 3), (0, 2), (2, 1), (2, 6))),
    *(_norm((2, 7, 5, c), groups=groups) for c, groups in (
        (1, 1), (3, 1), (5, 5), (8, 2), (12, 4), (16, 8), (32, 32), (33, 3), (64, 32), (66, 11))),
    _norm((2, 13, 11, 8), groups=4), _norm((3, 7, 7, 20), groups=10), _norm((1, 9, 40), groups=8),
    _norm((2, 19, 21, 4), groups=2), _norm((3, 1, 1, 6), groups=2), _norm((3, 9, 4), groups=2),
    _norm((5, 34), groups=2), _norm((2, 3, 5, 6), ("gamma",), groups=2),
    _norm((2, 3, 5, 6), ("beta",), groups=3), _norm((2, 3, 5, 6), (), groups=2, epsilon=0.5),
)  # fmt: skip

_BATCH_NORMS = (
    *(_norm(shape) for shape in ((7, 5), (9, 15), (5, 16), (33, 17), (40, 33), (19, 97),
                                 (7, 3, 5), (1, 7, 5, 3), (7, 7, 5, 1), (3, 5, 7, 6), (21, 3, 3, 8),
                                 (5, 9, 9, 16), (18, 2, 3, 17), (4, 3, 2, 33), (2, 5, 5, 66))),
    _norm((6, 9), ("gamma",)), _norm((6, 9), ("beta",)), _norm((6, 9), (), epsilon=0.5),
)  # fmt: skip

IMAGE_OPS: dict[str, Op] = {
    "batch_norm": Op(
        batch_norm_forward, batch_norm_backward, _BATCH_NORMS, sample_norm, ("x", "gamma", "beta")
    ),
    "layer_norm": Op(
        norm_forward, norm_backward, _LAYER_NORMS, sample_norm, ("x", "gamma", "beta")
    ),
    "group_norm": Op(
        norm_forward, norm_backward, _GROUP_NORMS, sample_norm, ("x", "gamma", "beta")
    ),
    "max_pool": Op(max_pool_forward, max_pool_backward, _POOLS, sample_pool),
    "avg_pool": Op(avg_pool_forward, avg_pool_backward, _POOLS, sample_normal),
    "pad": Op(pad_forward, pad_backward, _PADS, sample_normal),
    "upsample": Op(upsample_forward, upsample_backward, _UPSAMPLES, sample_normal),
    "spatial_dropout": Op(
        lambda x, mask, rate: x * mask / (1 - rate),
        lambda x, mask, dy, rate: (dy * mask / (1 - rate),),
        tuple(
            Case({"x": shape}, {"rate": rate})
            for shape in ((7, 3, 5, 6), (1, 7, 5, 3), (0, 3, 5, 3), (3, 7, 5, 17), (9, 2, 2, 33))
            for rate in (0.0, 0.2, 0.6)
        ),
        sample_spatial_dropout,
    ),
}
