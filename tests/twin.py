"""A network's twin in float64: the ops that its layers lower to, computed by tests/reference.py.

    twin = Twin(net)
    twin.predict(x)
    twin.gradients(x, target, "mse")     # (loss, gradients in the order of net.get_weights())

For chains and graphs of one input and one output, without networks inside; layers that draw random
numbers are left out. A new op is in as soon as the reference has it,
if it names its arrays as those before it: x, then its parameters.
"""

import math

import numpy as np
import reference as ref

_AFFINE = ("layer_norm", "group_norm", "batch_norm")
_MOVING = ("moving_mean", "moving_variance")
_IMAGES = ("max_pool", "avg_pool", "pad", "upsample", "conv2d", "conv2d_transpose",
           "depthwise_conv2d", "group_norm")  # fmt: skip
_INPUTS = dict.fromkeys(
    ("add", "subtract", "multiply", "average", "maximum", "concatenate"), ("a", "b", "c")
)
_CONVOLUTIONS = ("conv2d", "conv2d_transpose", "depthwise_conv2d")
_OF_SIZE = ("max_pool", "avg_pool", "pad", "conv2d", "conv2d_transpose", "depthwise_conv2d")


def _named(name, attributes):
    """(names of the parameters, attributes) as the reference has them."""
    if name in _AFFINE:
        flags = (("gamma", attributes.pop("scale")), ("beta", attributes.pop("center")))
        attributes.pop("momentum", None)
        return [*(key for key, there in flags if there), *_MOVING], attributes
    if name == "activation":
        attributes["kind"] = attributes.pop("function")
    if name in _CONVOLUTIONS:
        ones = dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
        attributes = ones | {"top": 0, "left": 0} | attributes
    return ["w", "b"], attributes


class Twin:
    """Takes the part of a `Lowering`: layers add their ops to it. A buffer is a number and the
    shape that layers see; values of buffers are computed by `predict`."""

    most_inputs = 3  # as many as the reference names

    def __init__(self, net):
        self.net = net
        self.ops = []  # (name, inputs, output, {name of a parameter: its number}, attributes)
        self.shapes = {}
        self._outer = {}
        self._first, count = {}, 0
        for _, layer in net._leaves():
            self._first[id(layer)] = count
            count += len(layer.weights())
        graph = net._graph
        ready = {v: self._buffer(shape) for v, shape in enumerate(graph.input_shapes)}
        for made in graph.calls:
            self._layer, x = made.layer, [ready[v] for v in made.inputs]
            if not made.layer.training_only:
                x = [made.layer.lower(self, x if made.layer.several else x[0])]
            ready[made.outputs[0]] = x[0]
        (self.output,) = (ready[v] for v in graph.outputs)

    def _buffer(self, shape):
        self.shapes[len(self.shapes)] = tuple(shape)
        return len(self.shapes) - 1

    # ---- what layers call ----

    def params(self):
        first = self._first[id(self._layer)]
        return list(range(first, first + len(self._layer.weights())))

    def op(self, name, x, shape, params=(), **attributes):
        y = self._buffer(shape)
        names, attributes = _named(name, attributes)
        if name in _OF_SIZE:
            attributes["out"] = ((1, 1, *shape)[-3:])[:2]
        if name == "concatenate":  # of what lies behind the `outer` axes
            self._outer[y], attributes = attributes["outer"], {"axis": 1}
        inputs = [x] if isinstance(x, int) else list(x)
        self.ops.append((name, inputs, y, dict(zip(names, params, strict=False)), attributes))
        return y

    def merge(self, name, xs, shape):
        return self.op(name, xs, shape)

    def activation(self, x, name):
        if name == "linear":
            return x
        shape = self.shapes[x]
        if name == "softmax":
            return self.op("softmax", x, shape)
        return self.op("activation", x, shape, function=name)

    def rescale(self, x, scale, offset):
        return self.op("rescale", x, self.shapes[x], scale=scale, offset=offset)

    def reshape(self, x, shape):
        return self.op("rescale", x, shape, scale=1.0)

    def in_shape(self, x):
        return x

    # ---- what tests call ----

    def predict(self, x, training=False):
        """Also keeps what every op has read, for `gradients`. Statistics of a batch are those of x
        in training, else the moving ones."""
        weights = [w.astype(np.float64) for w in self.net.get_weights()]
        values, self._read = {0: np.asarray(x, np.float64)}, []
        for name, inputs, y, params, attributes in self.ops:
            given = [self._axes(name, y, values[i]) for i in inputs]
            arrays = dict(zip(_INPUTS.get(name, "x"), given, strict=False))
            arrays |= {key: weights[i] for key, i in params.items()}
            if name in _CONVOLUTIONS and arrays["w"].ndim == 3:  # of a sequence
                arrays["w"] = arrays["w"][None]
            self._read.append(arrays)
            moving = [arrays.pop(key) for key in _MOVING if key in arrays]
            if moving and not training:
                scale = arrays.pop("gamma", 1.0) / np.sqrt(moving[1] + attributes["epsilon"])
                values[y] = (arrays["x"] - moving[0]) * scale + arrays.pop("beta", 0.0)
                continue
            result = ref.OPS[name].forward(**arrays, **attributes)
            values[y] = result.reshape(len(x), *self.shapes[y])
        return values[self.output]

    def _axes(self, name, out, value):
        """A value with the axes that the reference of an op wants."""
        if name == "concatenate":
            return value.reshape(len(value), self._outer[out], -1)
        if name in _IMAGES:
            return value.reshape(len(value), *(1, 1, *value.shape[1:])[-3:])
        return value

    def gradients(self, x, target, loss):
        y = self.predict(x, training=True)
        value = ref.LOSSES[loss].value(y, target)
        result = [np.zeros(w.shape) for w in self.net.get_weights()]
        flows = {self.output: ref.LOSSES[loss].gradient(y, target)}
        for (name, inputs, out, params, attributes), arrays in zip(
            reversed(self.ops), reversed(self._read), strict=True
        ):
            op, dy = ref.OPS[name], self._axes(name, out, flows.pop(out))
            slopes = dict(zip(op.wrt, op.backward(**arrays, dy=dy, **attributes), strict=True))
            for key, i in params.items():
                if key not in _MOVING:
                    result[i] += slopes[key].reshape(result[i].shape)
            for key, i in zip(_INPUTS.get(name, "x"), inputs, strict=False):
                dx = slopes[key].reshape(len(x), *self.shapes[i])
                flows[i] = flows[i] + dx if i in flows else dx
        return value, result


def assert_alike(got, want, tolerance, what=""):
    """Largest difference below `tolerance` of the largest value, and that is not near zero."""
    size = np.abs(want).max()
    assert size > 1e-6 and math.isfinite(size), what
    off = np.abs(np.asarray(got, np.float64) - want).max()
    assert off < tolerance * size, f"{what}: off by {off / size:.2g} of {size:.3g}"
