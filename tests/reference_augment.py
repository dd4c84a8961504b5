"""Augmentation in float64 NumPy, given the random numbers: uniform ones (n, 4 or 8), normal ones.

    AUGMENT   name -> (forward, backward, cases, sample), what reference.OPS is made of
    philox    the engine's generator, word for word
    uniform   the numbers that an op draws for the rows of a step

Images are (n, height, width) or (n, height, width, channels). An image's map says which place of x
a pixel of y shows: (yy i + yx j + y0, xy i + xx j + x0).
"""

from __future__ import annotations

import math

import numpy as np

KINDS = ("flip", "translate", "rotate", "zoom", "crop", "resize")
FILLS = ("reflect", "wrap", "constant", "nearest")

# ----------------------------------------------------------------------------- random numbers


def philox(key, stream, counter):
    """Philox 4x32-10 (Salmon et al., 2011): four words, from Python integers."""
    mask = 0xFFFFFFFF
    c = [counter & mask, counter >> 32, stream & mask, stream >> 32]
    k = [key & mask, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def uniform(seed, step, op, n):
    """u (n, 8) in (0, 1): what op number `op` of a plan draws for n rows."""
    words = [
        [
            *philox(seed, step << 16 | op, row << 32 | 0xFFFFFFFF),
            *philox(seed, step << 16 | op, row << 32 | 0xFFFFFFFE),
        ]
        for row in range(n)
    ]
    return (np.array(words, np.float64).reshape(n, 8) + 0.5) * 2.0**-32


# ----------------------------------------------------------------------------- resampling


def image_map(kind, u, y, x, height, width, out_height, out_width):
    """(yy, yx, y0, xy, xx, x0) of one image; y and x are the (low, high) of what is drawn."""
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    along = y[0] + u[0] * (y[1] - y[0])
    across = x[0] + u[1] * (x[1] - x[0])
    if kind == "flip":
        vertical, horizontal = u[0] < y[1], u[1] < x[1]
        return (
            -1.0 if vertical else 1.0, 0.0, height - 1.0 if vertical else 0.0,
            0.0, -1.0 if horizontal else 1.0, width - 1.0 if horizontal else 0.0,
        )  # fmt: skip
    if kind == "translate":
        return 1.0, 0.0, -along * height, 0.0, 1.0, -across * width
    if kind == "rotate":
        c, s = math.cos(2 * math.pi * along), math.sin(2 * math.pi * along)
        y0 = middle_y - c * middle_y - s * middle_x
        return c, s, y0, -s, c, middle_x + s * middle_y - c * middle_x
    if kind == "zoom":
        yy = 1 + along
        xx = yy if math.isnan(x[0]) else 1 + across
        return yy, 0.0, middle_y * (1 - yy), 0.0, xx, middle_x * (1 - xx)
    if kind == "crop":
        top, left = int(u[0] * (height - out_height + 1)), int(u[1] * (width - out_width + 1))
        return 1.0, 0.0, float(top), 0.0, 1.0, float(left)
    window = (
        min(height, width * out_height / out_width),
        min(width, height * out_width / out_height),
    )
    yy, xx = window[0] / out_height, window[1] / out_width
    y0 = (height - window[0]) / 2 + yy / 2 - 0.5
    return yy, 0.0, y0, 0.0, xx, (width - window[1]) / 2 + xx / 2 - 0.5


def inside(i, n, fill):
    """Where pixel i of a line of n is taken from; -1: it has the fill value."""
    if 0 <= i < n:
        return i
    if fill == "constant":
        return -1
    if fill == "nearest":
        return min(max(i, 0), n - 1)
    if fill == "wrap":
        return i % n
    i %= 2 * n
    return i if i < n else 2 * n - 1 - i


def affine_matrix(size, u, kind, y=(0, 0), across=(0, 0), fill="reflect", nearest=False, out=None):
    """A (pixels of y, pixels of x) and b (pixels of y), so that y = A x + b * fill_value."""
    (height, width), (out_height, out_width) = size, out or size
    yy, yx, y0, xy, xx, x0 = image_map(kind, u, y, across, height, width, out_height, out_width)
    a = np.zeros((out_height * out_width, height * width))
    b = np.zeros(out_height * out_width)
    for i in range(out_height):
        for j in range(out_width):
            v, h = yy * i + yx * j + y0, xy * i + xx * j + x0
            if nearest:
                v, h = math.floor(v + 0.5), math.floor(h + 0.5)
            top, left = math.floor(v), math.floor(h)
            for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (v - top if down else 1 - v + top) * (h - left if right else 1 - h + left)
                row, column = inside(top + down, height, fill), inside(left + right, width, fill)
                if row < 0 or column < 0:
                    b[i * out_width + j] += weight
                else:
                    a[i * out_width + j, row * width + column] += weight
    return a, b


def affine_forward(x, u, fill_value=0.0, **options):
    n, height, width, *channels = x.shape
    y = np.zeros((n, *(options.get("out") or (height, width)), *channels))
    for image, row, result in zip(x, u, y, strict=True):
        a, b = affine_matrix((height, width), row, **options)
        pixels = image.reshape(height * width, math.prod(channels))
        result[:] = (a @ pixels + b[:, None] * fill_value).reshape(result.shape)
    return y


def affine_backward(x, u, dy, fill_value=0.0, **options):
    dx = np.zeros(x.shape)
    for gradient, row, result in zip(dy, u, dx, strict=True):
        a, _ = affine_matrix(x.shape[1:3], row, **options)
        result[:] = (a.T @ gradient.reshape(len(a), math.prod(x.shape[3:]))).reshape(result.shape)
    return (dx,)


# ----------------------------------------------------------------------------- contrast, brightness


def _tone(x, u, contrast, shift):
    """y before it is clipped, and the contrast of each image."""
    axes = (len(x),) + (1,) * (x.ndim - 1)
    c = (contrast[0] + u[:, 0] * (contrast[1] - contrast[0])).reshape(axes)
    s = (shift[0] + u[:, 1] * (shift[1] - shift[0])).reshape(axes)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + c * (x - mean) + s, c


def tone_forward(x, u, contrast=(1, 1), shift=(0, 0), value_range=(0, 255)):
    return np.clip(_tone(x, u, contrast, shift)[0], *value_range)


def tone_backward(x, u, dy, contrast=(1, 1), shift=(0, 0), value_range=(0, 255)):
    y, c = _tone(x, u, contrast, shift)
    dy = np.where((y < value_range[0]) | (y > value_range[1]), 0.0, dy)
    return (c * dy + (1 - c) * dy.mean(axis=(1, 2), keepdims=True),)


# ----------------------------------------------------------------------------- noise, rectangles


def _side(share, place, length):
    size = math.sqrt(share) * length
    start = place * (length - size)
    return math.ceil(start), min(math.ceil(start + size), length)


def erased(u, shape, factor, scale):
    """Which pixels (n, height, width) are covered."""
    mask = np.zeros((len(u), *shape[1:3]), bool)
    for row, m in zip(u, mask, strict=True):
        if row[5] >= factor[0] + row[4] * (factor[1] - factor[0]):
            continue
        i0, i1 = _side(scale[0] + row[0] * (scale[1] - scale[0]), row[1], shape[1])
        j0, j1 = _side(scale[0] + row[2] * (scale[1] - scale[0]), row[3], shape[2])
        m[i0:i1, j0:j1] = True
    return mask


def _covered(x, u, factor, scale):
    mask = erased(u, x.shape, factor, scale)
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - 3))


def erase_forward(x, u, fill_value, factor=(1, 1), scale=(0.02, 0.33)):
    return np.where(_covered(x, u, factor, scale), fill_value, x)


def erase_backward(x, u, dy, fill_value, factor=(1, 1), scale=(0.02, 0.33)):
    return (np.where(_covered(x, u, factor, scale), 0.0, dy),)


# ----------------------------------------------------------------------------- samples

# Odd, different sizes; lines of one pixel; more pixels in a line than are placed at once (64).
_SHAPES = (
    (7, 7, 5), (1, 5, 7, 3), (0, 5, 7), (3, 1, 9), (2, 9, 1, 2), (5, 8, 8, 1), (2, 3, 67),
)  # fmt: skip
_AFFINE = (
    {"kind": "flip", "y": (0, 0.5), "across": (0, 0.5)},
    {"kind": "translate", "y": (-0.3, 0.2), "across": (-0.6, 0.6)},
    {"kind": "rotate", "y": (-0.15, 0.15)},
    {"kind": "zoom", "y": (-0.4, 0.5), "across": (math.nan, math.nan)},
)
_FILLED = (
    {"kind": "translate", "y": (-1, 1), "across": (-1, 1), "fill": "wrap"},
    {"kind": "translate", "y": (-1, 1), "across": (-1, 1), "fill": "reflect"},
    {"kind": "rotate", "y": (-1, 1), "fill": "constant", "fill_value": 0.7},
    {"kind": "rotate", "y": (-1, 1), "fill": "nearest"},
    {"kind": "zoom", "y": (0.1, 1), "across": (-0.9, -0.1), "fill": "constant"},
    {"kind": "rotate", "y": (-0.2, 0.2), "fill": "reflect", "nearest": True},
    {"kind": "translate", "y": (-0.4, 0.4), "across": (0.1, 0.3), "fill": "wrap", "nearest": True},
)
_CROPS = (
    ("crop", (7, 9, 8), (5, 3)), ("crop", (3, 4, 7, 2), (4, 2)), ("resize", (2, 9, 5, 3), (3, 4)),
    ("resize", (5, 4, 3), (7, 11)), ("resize", (1, 5, 9), (3, 3)),
)  # fmt: skip

AFFINE_CASES = (
    *((shape, options) for shape in _SHAPES for options in _AFFINE),
    *((shape, options) for shape in ((7, 7, 5), (2, 5, 6, 3)) for options in _FILLED),
    *((shape, {"kind": kind, "out": out, "fill": "nearest"}) for kind, shape, out in _CROPS),
)
TONE_CASES = tuple(
    (shape, options)
    for shape in _SHAPES
    for options in (
        {"contrast": (0.5, 1.6), "value_range": (-1.0, 1.2)},
        {"shift": (-0.4, 0.3), "value_range": (-1.0, 1.2)},
    )
)
ERASE_CASES = tuple(
    (shape, options)
    for shape in _SHAPES
    for options in (
        {"scale": (0.1, 0.5), "fill_value": 0.3},
        {"factor": (0.2, 0.8), "scale": (0.05, 0.2), "fill_value": -0.5},
    )
)
NOISE_CASES = tuple((shape, {"stddev": 0.25}) for shape in (*_SHAPES, (7, 130), (1, 3)))


def sample(case, rng):
    """Images, and the uniform numbers of each: away from where a pixel begins to be clipped."""
    x = rng.standard_normal(case.shapes["x"])
    return {"x": x, "u": rng.uniform(0.01, 0.99, (len(x), 8))}


def sample_tone(case, rng):
    """Until no value is near to where it is clipped."""
    options = {k: v for k, v in case.attributes.items() if k in ("contrast", "shift")}
    while True:
        arrays = sample(case, rng)
        both = {"contrast": (1, 1), "shift": (0, 0)} | options
        y = _tone(arrays["x"], arrays["u"], **both)[0] if arrays["x"].size else np.zeros(1)
        if all(np.abs(y - edge).min() > 1e-3 for edge in case.attributes["value_range"]):
            return arrays


def sample_noise(case, rng):
    x = rng.standard_normal(case.shapes["x"])
    return {"x": x, "z": rng.standard_normal(x.shape)}
