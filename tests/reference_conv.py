"""The truth for convolutions, in float64 NumPy: one sum over taps, written out.

x is (n, h, w, c), NHWC; weights as Keras keeps them. Part of tests/reference.py, whose OPS take
these in. `out` is the height and width of the result; zeros lie around x, as far as it takes.
"""

from __future__ import annotations

import numpy as np
from reference import Case, Op, sample_normal


def frame(x, out, kernel, stride, dilation, corner):
    """x with zeros before it (`corner`) and behind, as far as the last tap reaches."""
    pads = []
    for axis in (0, 1):
        reach = (out[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        pads.append((corner[axis], max(0, reach - corner[axis] - x.shape[1 + axis])))
    return np.pad(x, [(0, 0), *pads, (0, 0)])


def taps(out, kernel, stride, dilation):
    """(a, b, rows, columns): what each tap reads of the framed picture."""
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            at = (a * dilation[0], b * dilation[1])
            yield (a, b, *(
                slice(at[i], at[i] + (out[i] - 1) * stride[i] + 1, stride[i]) for i in (0, 1)
            ))  # fmt: skip


def _where(stride_h, stride_w, dilation_h, dilation_w, top, left):
    return (stride_h, stride_w), (dilation_h, dilation_w), (top, left)


def conv(x, w, out, stride, dilation, corner, groups=1):
    framed = frame(x, out, w.shape, stride, dilation, corner)
    n, c = w.shape[2], w.shape[3] // groups
    y = np.zeros((len(x), *out, w.shape[3]))
    for a, b, rows, columns in taps(out, w.shape, stride, dilation):
        for g in range(groups):
            part = framed[:, rows, columns, g * n : (g + 1) * n]
            y[..., g * c : (g + 1) * c] += part @ w[a, b, :, g * c : (g + 1) * c]
    return y


def conv_gradients(x, w, dy, stride, dilation, corner, groups=1):
    """(dx, dw)."""
    out = dy.shape[1:3]
    framed = frame(x, out, w.shape, stride, dilation, corner)
    dframed, dw = np.zeros_like(framed), np.zeros_like(w)
    n, c = w.shape[2], w.shape[3] // groups
    for a, b, rows, columns in taps(out, w.shape, stride, dilation):
        for g in range(groups):
            own, of = slice(g * n, (g + 1) * n), slice(g * c, (g + 1) * c)
            dframed[:, rows, columns, own] += dy[..., of] @ w[a, b, :, of].T
            dw[a, b, :, of] = np.einsum("nijk,nijo->ko", framed[:, rows, columns, own], dy[..., of])
    top, left = corner
    return dframed[:, top : top + x.shape[1], left : left + x.shape[2]], dw


def conv2d_forward(x, w, b=None, *, out, groups=1, **where):
    return conv(x, w, out, *_where(**where), groups) + (0 if b is None else b)


def conv2d_backward(x, w, b=None, *, dy, out, groups=1, **where):
    dx, dw = conv_gradients(x, w, dy, *_where(**where), groups)
    return dx, dw, None if b is None else dy.sum(axis=(0, 1, 2))


def transpose_forward(x, w, b=None, *, out, **where):
    """The gradient that a convolution (out -> x) sends back to its source, for gradient x."""
    source = np.zeros((len(x), *out, w.shape[2]))
    return conv_gradients(source, w, x, *_where(**where))[0] + (0 if b is None else b)


def transpose_backward(x, w, b=None, *, dy, out, **where):
    dx = conv(dy, w, x.shape[1:3], *_where(**where))
    dw = conv_gradients(dy, w, x, *_where(**where))[1]
    return dx, dw, None if b is None else dy.sum(axis=(0, 1, 2))


def depthwise_kernel(w):
    """(kh, kw, c, m) as the kernel of a convolution in c groups."""
    return w.reshape(*w.shape[:2], 1, -1)


def depthwise_forward(x, w, b=None, *, out, **where):
    return conv2d_forward(x, depthwise_kernel(w), b, out=out, groups=w.shape[2], **where)


def depthwise_backward(x, w, b=None, *, dy, out, **where):
    dx, dw, db = conv2d_backward(
        x, depthwise_kernel(w), b, dy=dy, out=out, groups=w.shape[2], **where
    )
    return dx, dw.reshape(w.shape), db


def _attributes(out, stride, dilation, corner):
    return {
        "out": out, "stride_h": stride[0], "stride_w": stride[1], "dilation_h": dilation[0],
        "dilation_w": dilation[1], "top": corner[0], "left": corner[1],
    }  # fmt: skip


def _out(size, kernel, stride, dilation, pads):
    """Rows or columns of the result, for zeros (before, after)."""
    return (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1


def _case(n, size, c, filters, kernel, stride=1, dilation=1, pads=(0, 0), groups=1, bias=True):
    """pads: (before, after) on both axes, or a pair of these. Scalars are for both axes."""
    two = [v if isinstance(v, tuple) else (v, v) for v in (size, kernel, stride, dilation)]
    pads = pads if isinstance(pads[0], tuple) else (pads, pads)
    size, kernel, stride, dilation = two
    out = tuple(_out(*of) for of in zip(*two, pads, strict=True))
    shapes = {"x": (n, *size, c), "w": (*kernel, c // groups, filters), "b": (filters,)}
    if not bias:
        del shapes["b"]
    corner = (pads[0][0], pads[1][0])
    attributes = _attributes(out, stride, dilation, corner)
    return Case(shapes, attributes | ({"groups": groups} if groups > 1 else {}))


# Odd pictures, channels that fill no vector and several, the tiles of the first layer.
_CONVS = (
    *(_case(2, (7, 5), c, o, 3, pads=(1, 1)) for c, o in (
        (3, 5), (1, 1), (1, 8), (4, 16), (2, 32), (8, 8), (5, 17), (16, 3), (1, 40), (17, 24),
        (33, 9))),
    _case(0, (7, 5), 3, 5, 3, pads=(1, 1)),
    _case(1, (7, 5), 3, 5, 3, pads=(1, 1), bias=False),
    _case(19, (6, 5), 2, 3, 3),
    _case(7, (5, 6), 3, 5, 3, pads=(1, 1)),
    *(_case(1, (9, 30), 1, o, k, pads=(k // 2, k // 2)) for k in (3, 5) for o in (8, 16, 19)),
    *(_case(1, (6, w), 1, 8, 5, pads=(2, 2)) for w in (5, 13, 15)),
    *(_case(2, (7, 5), 3, o, 3, pads=(1, 1)) for o in (8, 16, 33)),
    *(_case(2, (7, 6), 3, 5, 1, stride=s) for s in (1, 2)),
    *(_case(2, (8, 7), 4, 9, k, stride=2, pads=(k // 2, k // 2)) for k in (3, 5)),
    _case(2, (8, 7), 3, 8, 3, stride=2, pads=((0, 1), (1, 1))),
    _case(2, (7, 5), 3, 8, (3, 2), stride=(2, 1), pads=((2, 0), (0, 3))),
    _case(2, (9, 8), 3, 4, 2, stride=3),  # the stride is larger than the kernel
    _case(2, (9, 8), 3, 17, (1, 2), stride=(4, 3), pads=((1, 0), (0, 2))),
    _case(2, (3, 2), 3, 5, 5, pads=(2, 2)),  # the kernel is larger than the picture
    _case(2, (3, 2), 3, 5, 7, stride=2, pads=(4, 3)),
    *(_case(2, (9, 8), 3, o, 3, dilation=2, pads=(2, 2)) for o in (5, 16)),
    _case(1, (9, 8), 2, 8, (3, 2), stride=(2, 3), dilation=(3, 2), pads=((3, 2), (1, 1))),
    _case(1, (9, 8), 2, 8, 3, stride=2, dilation=2, pads=(2, 2)),  # half the pixels meet no tap
    *(_case(2, (5, 4), c, o, 3, pads=(1, 1), groups=g)
      for c, o, g in ((4, 6, 2), (6, 9, 3), (8, 64, 2), (5, 5, 5), (6, 40, 2))),
    _case(2, (6, 7), 4, 12, 3, stride=2, dilation=2, pads=(2, 2), groups=4),
    _case(1, (1, 1), 1, 1, 1),
    _case(3, (1, 9), 2, 3, (1, 3), pads=((0, 0), (2, 0))),
    _case(3, (9, 1), 2, 8, (3, 1)),
    _case(1, (3, 3), 2, 8, 1, stride=1, pads=(4, 0)),  # whole rows of nothing but zeros
)  # fmt: skip


def _transpose(n, size, c, filters, kernel, out, stride=1, dilation=1, corner=(0, 0), bias=True):
    stride, dilation = (v if isinstance(v, tuple) else (v, v) for v in (stride, dilation))
    shapes = {"x": (n, *size, c), "w": (*kernel, filters, c), "b": (filters,)}
    if not bias:
        del shapes["b"]
    return Case(shapes, _attributes(out, stride, dilation, corner))


_TRANSPOSES = (
    *(
        _transpose(2, (4, 3), c, f, (3, 3), (9, 7), 2)
        for c, f in ((3, 5), (16, 8), (5, 33), (1, 1))
    ),
    _transpose(0, (4, 3), 3, 5, (3, 3), (9, 7), 2),
    _transpose(7, (3, 4), 3, 5, (3, 3), (7, 9), 2),
    _transpose(1, (4, 3), 3, 5, (3, 3), (9, 7), 2, bias=False),
    _transpose(2, (4, 3), 3, 5, (3, 3), (8, 6), 2, corner=(0, 0)),
    _transpose(2, (4, 3), 3, 8, (4, 4), (8, 6), 2, corner=(1, 1)),
    _transpose(2, (4, 5), 8, 3, (3, 3), (4, 5), corner=(1, 1)),
    _transpose(2, (3, 2), 4, 5, (2, 1), (9, 8), (3, 4)),  # pixels that no tap meets
    _transpose(1, (3, 4), 2, 9, (3, 2), (7, 8), (1, 2), (2, 1)),
)


def _depthwise(n, size, c, m, kernel, stride=1, dilation=1, pads=(0, 0), bias=True):
    case = _case(n, size, c, c * m, kernel, stride, dilation, pads, bias=bias)
    case.shapes["w"] = (*case.shapes["w"][:2], c, m)
    return case


_DEPTHWISE = (
    *(_depthwise(2, (7, 5), c, m, 3, pads=(1, 1)) for c, m in (
        (3, 1), (1, 1), (8, 1), (17, 1), (5, 2), (4, 4), (33, 1), (1, 16), (1, 3))),
    _depthwise(0, (7, 5), 3, 1, 3, pads=(1, 1)),
    _depthwise(7, (5, 6), 3, 1, 3, pads=(1, 1)),
    _depthwise(1, (7, 5), 3, 2, 3, bias=False),
    _depthwise(2, (8, 9), 6, 1, 5, stride=2, pads=(2, 2)),
    _depthwise(2, (9, 8), 3, 1, (1, 2), stride=(4, 3), pads=((1, 0), (0, 2))),
    _depthwise(2, (9, 8), 3, 2, 3, dilation=2, pads=(2, 2)),
    _depthwise(2, (3, 2), 3, 1, 5, pads=(2, 2)),
    _depthwise(1, (3, 3), 2, 1, 1, pads=(4, 0)),
    _depthwise(1, (1, 1), 1, 1, 1),
)  # fmt: skip

_WRT = ("x", "w", "b")

CONV_OPS: dict[str, Op] = {
    "conv2d": Op(conv2d_forward, conv2d_backward, _CONVS, sample_normal, _WRT),
    "conv2d_transpose": Op(transpose_forward, transpose_backward, _TRANSPOSES, sample_normal, _WRT),
    "depthwise_conv2d": Op(depthwise_forward, depthwise_backward, _DEPTHWISE, sample_normal, _WRT),
}
