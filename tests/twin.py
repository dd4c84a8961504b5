"""A network's twin in float64: the ops that its layers lower to, computed by tests/reference.py.

    twin = Twin(net)
    twin.predict(x)
    twin.gradients(x, target, "mse")     # (loss, gradients in the order of net.get_weights())

For chains without layers that draw random numbers. A new op is in as soon as the reference has it,
if it names its arrays as those before it: x, then its parameters.
"""

import math

import numpy as np
import reference as ref

_AFFINE = ("layer_norm", "group_norm")
_IMAGES = ("max_pool", "avg_pool", "pad", "upsample", "conv2d", "conv2d_transpose",
           "depthwise_conv2d", "group_norm")  # fmt: skip
_CONVOLUTIONS = ("conv2d", "conv2d_transpose", "depthwise_conv2d")
_OF_SIZE = ("max_pool", "avg_pool", "pad", "conv2d", "conv2d_transpose", "depthwise_conv2d")


def _named(name, attributes):
    """(names of the parameters, attributes) as the reference has them."""
    if name in _AFFINE:
        flags = (("gamma", attributes.pop("scale")), ("beta", attributes.pop("center")))
        return [key for key, there in flags if there], attributes
    if name == "activation":
        attributes["kind"] = attributes.pop("function")
    if name in _CONVOLUTIONS:
        ones = dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
        attributes = ones | {"top": 0, "left": 0} | attributes
    return ["w", "b"], attributes


class Twin:
    """Takes the part of a `Lowering`: layers add their ops to it. Buffers are their shapes."""

    def __init__(self, net):
        self.net = net
        self.ops = []
        self._first, count = {}, 0
        for layer in net.layers:
            self._first[layer] = count
            count += len(layer.weights())
        shape = net.input_shape
        for layer in net.layers:
            self._layer = layer
            if not layer.training_only:
                shape = layer.lower(self, shape)

    # ---- what layers call ----

    def params(self):
        first = self._first[self._layer]
        return list(range(first, first + len(self._layer.weights())))

    def op(self, name, x, shape, params=(), **attributes):
        names, attributes = _named(name, attributes)
        if name in _OF_SIZE:
            attributes["out"] = ((1, 1, *shape)[-3:])[:2]
        self.ops.append((name, x, shape, dict(zip(names, params, strict=False)), attributes))
        return shape

    def activation(self, x, name):
        if name == "linear":
            return x
        return self.op("softmax", x, x) if name == "softmax" else self.op(
            "activation", x, x, function=name
        )  # fmt: skip

    def rescale(self, x, scale, offset):
        return self.op("rescale", x, x, scale=scale, offset=offset)

    def reshape(self, x, shape):
        return shape

    def in_shape(self, x):
        return x

    # ---- what tests call ----

    def predict(self, x):
        return self._forward(x)[-1].reshape(len(x), *self.net.output_shape)

    def _forward(self, x):
        """The input of every op, and the last output."""
        weights = [w.astype(np.float64) for w in self.net.get_weights()]
        values = [np.asarray(x, np.float64)]
        self._arrays = []
        for name, before, _, params, attributes in self.ops:
            x = values[-1].reshape(len(x), *((1, 1, *before)[-3:] if name in _IMAGES else before))
            arrays = {"x": x, **{key: weights[i] for key, i in params.items()}}
            if name in _CONVOLUTIONS and arrays["w"].ndim == 3:  # of a sequence
                arrays["w"] = arrays["w"][None]
            self._arrays.append(arrays)
            values.append(ref.OPS[name].forward(**arrays, **attributes))
        return values

    def gradients(self, x, target, loss):
        y = self.predict(x)
        value, dy = ref.LOSSES[loss].value(y, target), ref.LOSSES[loss].gradient(y, target)
        result = [np.zeros(w.shape) for w in self.net.get_weights()]
        for (name, _, shape, params, attributes), arrays in zip(
            reversed(self.ops), reversed(self._arrays), strict=True
        ):
            op = ref.OPS[name]
            forms = (1, 1, *shape)[-3:] if name in _IMAGES else shape
            dx, *rest = op.backward(**arrays, dy=dy.reshape(len(x), *forms), **attributes)
            by_name = dict(zip(op.wrt[1:], rest, strict=True))
            for key, i in params.items():
                result[i] += by_name[key].reshape(result[i].shape)
            dy = dx
        return value, result


def assert_alike(got, want, tolerance, what=""):
    """Largest difference below `tolerance` of the largest value, and that is not near zero."""
    size = np.abs(want).max()
    assert size > 1e-6 and math.isfinite(size), what
    off = np.abs(np.asarray(got, np.float64) - want).max()
    assert off < tolerance * size, f"{what}: off by {off / size:.2g} of {size:.3g}"
