"""Convolutions (float32) against tests/reference_conv.py (float64): every SIMD level, the same bits
for 1, 2, 3 and 8 threads. Errors are held to the bound of a sum of k products: (k + 4) U times the
sum of their absolute values."""

import numpy as np
import pytest
import reference as ref
from engine import Net, U, assert_within
from op_cases import cases_of, not_near_zero, through
from test_image_ops import run_case

pytestmark = pytest.mark.usefixtures("always_thread")


def check(name, case, **options):
    weights = [w for w in ("w", "b") if w in case.shapes]
    shapes = [case.shapes[w] for w in weights]
    done = run_case(name, case, *weights, params=shapes, **options)
    if not done:
        return
    (y, dx, *gradients), arrays, dy, want_y, (want_dx, *want) = done
    op, sizes = ref.OPS[name], {k: abs(v) for k, v in arrays.items()}
    depth = arrays["w"].size  # more than any sum has products
    assert_within(y, want_y, depth * U * op.forward(**sizes, **case.attributes) + 4 * U, "y")
    size_dx, *size = op.backward(**sizes, dy=abs(dy), **case.attributes)
    assert_within(dx, want_dx, (depth + 4) * U * size_dx, "dx")
    pixels = dy[..., 0].size + arrays["x"][..., 0].size
    for what, got, right, bound in zip(weights, gradients, want, size, strict=False):
        assert_within(got, right, (pixels + 4) * U * bound, f"d{what}")


@cases_of("conv2d")
def test_conv2d(level, case):
    check("conv2d", case)


@cases_of("conv2d_transpose")
def test_conv2d_transpose(level, case):
    check("conv2d_transpose", case)


@cases_of("depthwise_conv2d")
def test_depthwise_conv2d(level, case):
    check("depthwise_conv2d", case)


ZEROS = [
    ((9, 7, 8), 16, 5, {"top": 2, "left": 2}),
    ((5, 6, 16), 24, 3, {"top": 1, "left": 1}),
    ((9, 6, 8), 8, 3, {"stride_h": 2, "stride_w": 2}),
    ((3, 4, 48), 40, 1, {}),
    ((9, 6, 8), 32, 3, {"top": 1, "left": 1, "dilation_h": 2}),
]


@pytest.mark.parametrize(("shape", "filters", "kernel", "attributes"), ZEROS)
@pytest.mark.parametrize("zeros", ["all", "one", "some"])
def test_conv2d_of_gradients_that_are_mostly_zeros(
    level, shape, filters, kernel, attributes, zeros
):
    """As a maximum sends them back; what is zero is left out, whole pictures together or not."""
    rng = np.random.default_rng(kernel)
    op = ref.OPS["conv2d"]
    where = dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
    where |= {"top": 0, "left": 0} | attributes
    out = [
        (size + 2 * where[before] - (kernel - 1) * where[f"dilation_{axis}"] - 1)
        // where[f"stride_{axis}"] + 1
        for size, before, axis in zip(shape, ("top", "left"), "hw", strict=False)
    ]  # fmt: skip
    arrays = {
        "x": rng.standard_normal((7, *shape)),
        "w": rng.standard_normal((kernel, kernel, shape[2], filters)),
        "b": rng.standard_normal(filters),
    }
    dy = rng.standard_normal((7, *out, filters))
    if zeros != "one":
        dy *= rng.random(dy.shape) < 0.2
    if zeros != "all":
        dy[3 if zeros == "some" else slice(3, 4)] = rng.standard_normal(dy[3].shape)
    if zeros == "one":
        dy[2] = 0
    arrays = {k: v.astype(np.float32).astype(np.float64) for k, v in arrays.items()}
    dy = dy.astype(np.float32).astype(np.float64)
    params = [arrays["w"].shape, arrays["b"].shape]
    layer = ("conv2d", {"shape": dy.shape[1:], "params": params, **attributes})
    y, dx, dw, db = through([layer], [arrays["w"], arrays["b"]], arrays["x"], dy)
    want = op.backward(**arrays, dy=dy, out=tuple(out), **where)
    size = op.backward(
        **{k: abs(v) for k, v in arrays.items()}, dy=abs(dy), out=tuple(out), **where
    )
    not_near_zero(*want)
    depth, pixels = arrays["w"].size, 7 * out[0] * out[1]
    assert_within(y, op.forward(**arrays, out=tuple(out), **where),
                  depth * U * op.forward(**{k: abs(v) for k, v in arrays.items()},
                                         out=tuple(out), **where), "y")  # fmt: skip
    for what, got, right, bound, n in zip(
        ("dx", "dw", "db"), (dx, dw, db), want, size, (depth, pixels, pixels), strict=True
    ):
        assert_within(got, right, (n + 4) * U * bound, what)


BAD = [
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {"stride_h": 0}, "whole numbers"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {"stride_w": 1.5}, "whole numbers"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {"left": -1}, "whole numbers"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {"groups": 2}, "do not fit each other"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 2, 4)], {}, "do not fit each other"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 5)], {}, "do not fit each other"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 4)], {}, "one axis more"),
    ("conv2d", (7, 5, 3), (35, 4), [(3, 3, 3, 4)], {}, "one axis more"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4), (3,)], {}, "the bias"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {"stride_h": 1 << 20,
     "stride_w": 1 << 20}, "too large"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {"dilation_h": 1 << 20,
     "dilation_w": 1 << 20}, "too large"),
    ("conv2d", (7, 5, 3), (7, 5, 4), [], {}, "kernel is wanted"),
    ("conv2d_transpose", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 4)], {}, "do not fit each other"),
    ("conv2d_transpose", (7, 5, 4), (7, 5, 3), [(3, 3, 3, 4), (4,)], {}, "the bias"),
    ("conv2d_transpose", (7, 5, 4), (7, 5, 4), [(3, 3, 2, 4)], {"groups": 2}, "groups"),
    ("depthwise_conv2d", (7, 5, 3), (7, 5, 4), [(3, 3, 3, 1)], {}, "do not fit each other"),
    ("depthwise_conv2d", (7, 5, 3), (7, 5, 3), [(3, 3, 3)], {}, "one axis more"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "out", "params", "attributes", "message"), BAD)
def test_what_does_not_fit_is_refused(name, shape, out, params, attributes, message):
    with pytest.raises(ValueError, match=message):
        Net(shape, [(name, {"shape": out, "params": params, **attributes})], mode="predict")


@pytest.mark.parametrize("channels", [1, 3, 8, 17])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_picture_has_the_same_bits_in_any_batch(level, kernel, channels):
    rng = np.random.default_rng(kernel)
    layer = ("conv2d", {
        "shape": (7, 5, 9), "params": [(kernel, kernel, channels, 9), (9,)],
        "top": kernel // 2, "left": kernel // 2,
    })  # fmt: skip
    net = Net((7, 5, channels), [layer], mode="predict", max_rows=8)
    net.set_weights([rng.standard_normal(s) for s in net.param_shapes])
    x = rng.standard_normal((8, 7, 5, channels)).astype(np.float32)
    y = net.predict(x)
    for batch in (1, 3, 5):
        assert net.predict(x, batch=batch).tobytes() == y.tobytes()
    assert np.ptp(y) > 1
