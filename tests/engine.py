"""Networks for tests of the engine itself: chains of ops from a small description, straight on
`fastnet._core`, without the Python classes.

    net = Net(7, [dense(5), activation("tanh"), dense(3)], loss="mse", max_rows=16)
    net.set_weights(start_weights(net))
    net.need("adam")
    net.run(x, t, optimizer=net.optimizer, rate=0.01)
    net.weights(), net.digest()
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from fastnet import _core

U = 2.0**-24  # half a unit in the last place of a float32 in [1, 2)


def dense(units, bias=True):
    """A dense layer; `units` may be a shape of several axes (rows of it lie flat)."""
    return "dense", {"units": units, "bias": bias}


def activation(kind):
    return ("softmax", {}) if kind == "softmax" else ("activation", {"function": kind})


class Net:
    """A chain: rows of source 0, `layers`, then a loss, an output (predict) or a stop.

    shape : int or tuple, of a row.    layers : list of (op name, attributes); among these may be
    "shape" of the row that comes out, and "params", the shapes of its parameters.
    loss : name, (name, attributes), or "stop" (the test writes the gradient of the last buffer).
    classes : integer targets.   weighted : None, or the shape of a row of weights.
    metrics : list of (kind, attributes).   options : update, gemm, lanes of the plan.
    """

    def __init__(self, shape, layers, *, mode="train", max_rows=32, loss=None, classes=False,
                 weighted=None, metrics=(), source=(), finish=True, **options):  # fmt: skip
        self.plan = _core.Plan(mode, max_rows, **options)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.max_rows = max_rows
        self.param_shapes: list[tuple[int, ...]] = []
        self.buffers = [self.plan.buffer(self.shape)]
        self.buffer_shapes = {self.buffers[0]: self.shape}
        self.plan.op("input", [], [self.buffers[0]], source=0, **dict(source))
        for i, (name, attributes) in enumerate(layers):
            self._add(i, name, dict(attributes))
        if mode == "predict":
            self.plan.op("output", [self.last])
        elif loss == "stop":
            self.plan.op("stop", [self.last])
        else:
            self._add_loss(loss, classes, weighted, metrics)
        if finish:
            self.finish()

    @property
    def last(self):
        return self.buffers[-1]

    def _param(self, shape, decay, trainable=True):
        self.param_shapes.append(shape)
        return self.plan.param(shape, decay, trainable)

    def _add(self, layer, name, attributes):
        shape, params = self.buffer_shapes[self.last], []
        if name == "dense":
            units = attributes.pop("units")
            new = (units,) if isinstance(units, int) else tuple(units)
            columns = math.prod(new)
            params.append(self._param((math.prod(shape), columns), True))
            if attributes.pop("bias"):
                params.append(self._param((columns,), False))
            shape = new
        elif name == "normalization":
            params = [self._param(shape[-1:], False, False) for _ in range(2)]
        else:
            shape = attributes.pop("shape", shape)
            params = [self._param(tuple(p), False) for p in attributes.pop("params", ())]
            fixed = attributes.pop("statistics", ())
            params += [self._param(tuple(p), False, trainable=False) for p in fixed]
        y = self.plan.buffer(shape)
        self.plan.op(name, [self.last], [y], params, layer=layer, **attributes)
        self.buffers.append(y)
        self.buffer_shapes[y] = shape

    def _add_loss(self, loss, classes, weighted, metrics):
        shape = self.buffer_shapes[self.last]
        target = self.plan.buffer(shape[:-1], "i") if classes else self.plan.buffer(shape)
        self.plan.op("input", [], [target], source=1)
        inputs = [self.last, target]
        if weighted is not None:
            inputs.append(self.plan.buffer(weighted))
            self.plan.op("input", [], inputs[2:], source=2)
        if loss is not None:
            kind, attributes = (loss, {}) if isinstance(loss, str) else loss
            self.loss = self.plan.buffer(())
            self.buffer_shapes[self.loss] = ()
            self.plan.op("loss", inputs, [self.loss], kind=kind, **attributes)
        for kind, attributes in metrics:
            self.plan.op("metric", inputs, (), kind=kind, **attributes)

    def finish(self, max_threads=64):
        """Finish the plan; parameters with room for gradients; memory for one caller."""
        self.plan.finish()
        self.params = _core.Params(self.plan)
        self.params.need_gradient()
        self.work = _core.Work(self.plan, max_threads)
        self.slots = 0

    def need(self, optimizer, fill=0.0):
        """Fresh slots for an optimizer of the engine."""
        self.slots = _core.optimizer_slots(optimizer)
        self.params.need_slots(self.slots, fill)

    def set_weights(self, values, part=0):
        for i, (value, shape) in enumerate(zip(values, self.param_shapes, strict=True)):
            assert np.shape(value) == shape
            self.params.set(i, np.array(value, np.float32).ravel(), part)

    def weights(self, part=0):
        """Weights (part 0), slots (1, 2) or gradients (3), canonical shapes."""
        result = []
        for i, shape in enumerate(self.param_shapes):
            out = np.full(math.prod(shape), np.nan, np.float32)
            self.params.get(i, out, part)
            result.append(out.reshape(shape))
        return result

    def gradients(self):
        return self.weights(3)

    def rows(self, buffer, n, gradient=False):
        """The first n rows of a buffer of the last minibatch, or of its gradient."""
        shape = self.buffer_shapes[buffer]
        data = self.work.rows(buffer, n, math.prod(shape), gradient)
        return np.frombuffer(data, np.float32).reshape(n, *shape)

    def run(self, *sources, batch=None, rate=0.01, rows=None, **options):
        """One call over all rows (or `rows`) in minibatches; `rate` may be a list, one a step."""
        n = len(sources[0]) if rows is None and sources else rows or 0
        batch = batch or min(self.max_rows, max(n, 1))
        if "optimizer" in options:
            steps = max(1, -(-n // batch))
            options["rates"] = np.broadcast_to(np.asarray(rate, np.float64), steps).copy()
        sources = [rowwise(s) for s in sources]
        return _core.run(
            self.plan, self.params, self.work, sources, n_rows=n, batch_size=batch, **options
        )

    def predict(self, x, batch=None, **options):
        n = options.get("rows") or len(x)
        output = np.full((n, *self.buffer_shapes[self.last]), np.nan, np.float32)
        result = self.run(x, batch=batch, output=output, **options)
        assert result.status == "ok"
        return output

    def digest(self):
        """A hash of every bit of weights and slots."""
        parts = [v.tobytes() for part in range(self.slots + 1) for v in self.weights(part)]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def rowwise(source):
    """As the engine reads it: at least one axis, and rows contiguous."""
    source = np.asarray(source)
    step = source.itemsize
    for size, stride in zip(source.shape[:0:-1], source.strides[:0:-1], strict=True):
        if size > 1 and stride != step:
            return np.ascontiguousarray(source)
        step *= size
    return source


def start_weights(net, rng, scale=1.0):
    """Random weights, kernels scaled by their inputs; exact in float32."""
    return [single(rng.standard_normal(s) * scale / math.sqrt(s[0] if len(s) > 1 else 4))
            for s in net.param_shapes]  # fmt: skip


def single(x):
    """float64 values that float32 holds exactly: both sides of a comparison get the same."""
    return np.asarray(x, np.float32).astype(np.float64)


def assert_within(got, want, tolerance, what=""):
    """|got - want| <= tolerance elementwise, all of `got` finite where `want` is."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    tolerance = np.broadcast_to(tolerance, want.shape)
    bad = ~(np.abs(got - want) <= tolerance)
    if bad.any():
        i = tuple(int(k) for k in np.argwhere(bad)[0])
        raise AssertionError(
            f"{what}: {bad.sum()} of {bad.size} values differ; at {i}: "
            f"{got[i]!r}, expected {want[i]!r} within {tolerance[i]:.3g}"
        )
