"""Ops on images (float32) against tests/reference_images.py (float64), as tests/test_ops.py does it
for the others: every SIMD level, the same bits for 1, 2, 3 and 8 threads."""

import math

import numpy as np
import pytest
import reference as ref
import reference_images as ref_images
from engine import Net, U, assert_within, dense, single
from op_cases import cases_of, not_near_zero, samples, through

from fastnet import _core

pytestmark = pytest.mark.usefixtures("always_thread")


def run_case(name, case, *weights, **shapes):
    """(result of `through` or None for no rows, arrays, dy, reference y, reference gradients)."""
    arrays, dy = samples(name, case)
    attributes = {k: v for k, v in case.attributes.items() if k != "out"}
    layer = (name, {"shape": dy.shape[1:], **shapes, **attributes})
    result = through([layer], [arrays[w] for w in weights], arrays["x"], dy)
    if result is None:
        return None
    want_y = ref.OPS[name].forward(**arrays, **case.attributes)
    gradients = ref.OPS[name].backward(**arrays, dy=dy, **case.attributes)
    not_near_zero(*(g for g in gradients if g is not None))
    return result, arrays, dy, want_y, gradients


@cases_of("max_pool")
def test_max_pool(level, case):
    """Maxima and where they are: exact. Sums of gradients where windows overlap: nearly."""
    if done := run_case("max_pool", case):
        (y, dx), _, dy, want, (want_dx,) = done
        assert np.array_equal(y, want)
        size = np.abs(dy).max() * case.attributes["pool_h"] * case.attributes["pool_w"]
        assert_within(dx, want_dx, 32 * U * size * (want_dx != 0), "dx")


@cases_of("avg_pool")
def test_avg_pool(level, case):
    if done := run_case("avg_pool", case):
        (y, dx), arrays, dy, want, (want_dx,) = done
        size = ref.OPS["avg_pool"].forward(abs(arrays["x"]), **case.attributes)
        assert_within(y, want, 20 * U * size, "y")
        (size,) = ref.OPS["avg_pool"].backward(arrays["x"], abs(dy), **case.attributes)
        assert_within(dx, want_dx, 40 * U * size, "dx")


@cases_of("pad")
def test_pad(level, case):
    if done := run_case("pad", case):
        (y, dx), _, _, want, (want_dx,) = done
        assert np.array_equal(y, want)
        assert np.array_equal(dx, want_dx)


@cases_of("upsample")
def test_upsample(level, case):
    if done := run_case("upsample", case):
        (y, dx), arrays, dy, want, (want_dx,) = done
        op = ref.OPS["upsample"]
        assert_within(y, want, 16 * U * op.forward(abs(arrays["x"]), **case.attributes), "y")
        (size,) = op.backward(arrays["x"], abs(dy), **case.attributes)
        assert_within(dx, want_dx, 32 * U * size, "dx")


def norm_case(name, case):
    """Bounds: sums of n values lose at most (n + 64) U of the sum of their absolute values, and a
    mean that is off by d moves x - mean by d."""
    arrays, dy = samples(name, case)
    affine = [k for k in ("gamma", "beta") if k in arrays]
    attributes = case.attributes | {
        "scale": int("gamma" in arrays),
        "center": int("beta" in arrays),
    }
    layer = (name, {"params": [arrays[k].shape for k in affine], **attributes})
    result = through([layer], [arrays[k] for k in affine], arrays["x"], dy)
    if result is None:
        return
    x, gamma = arrays["x"], arrays.get("gamma", 1.0)
    op = ref.OPS[name]
    gradients = [g for g in op.backward(**arrays, dy=dy, **case.attributes) if g is not None]
    not_near_zero(*gradients)
    groups, epsilon = case.attributes.get("groups"), case.attributes["epsilon"]
    parts, axes = (x, -1) if groups is None else (ref_images.in_groups(x, groups), (1, 3))
    z, inverse = ref_images.standardised(parts, axes, epsilon)
    n = x[0].size if groups else x.shape[-1]
    off = np.broadcast_to(
        (n / 16 + 16) * U * abs(parts).mean(axes, keepdims=True) * inverse, z.shape
    )
    z, off = abs(z).reshape(x.shape), off.reshape(x.shape)  # off: of z, from the mean
    moved = (off + 64 * U) * (1 + z)
    assert_within(result[0], op.forward(**arrays, **case.attributes),
                  moved * abs(gamma) + 4 * U * abs(arrays.get("beta", 0.0)), "y")  # fmt: skip
    dz = abs(dy * gamma).reshape(parts.shape)
    size = dz + dz.mean(axes, keepdims=True) * (1 + z.reshape(parts.shape)) ** 2 * 4
    size = np.broadcast_to(size * inverse, parts.shape).reshape(x.shape)
    assert_within(result[1], gradients[0], 2 * moved.max() * size, "dx")
    pixels = tuple(range(x.ndim - 1))
    sums = {"gamma": (abs(dy) * (moved + n * U * z)).sum(pixels),
            "beta": (len(x) * n + 8) * U * abs(dy).sum(pixels)}  # fmt: skip
    for got, want, which in zip(result[2:], gradients[1:], affine, strict=True):
        assert_within(got, want, sums[which], which)


@cases_of("layer_norm")
def test_layer_norm(level, case):
    norm_case("layer_norm", case)


@cases_of("group_norm")
def test_group_norm(level, case):
    norm_case("group_norm", case)


@pytest.mark.parametrize("shape", [(5,), (8,), (13,), (3, 3, 5), (7, 3, 8), (5, 12), (9, 9, 24)],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_a_row_is_normalised_to_the_same_bits_wherever_it_lies(level, name, shape):
    """Pixels go through in groups, also of several rows."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((37, *shape), dtype=np.float32)
    net = Net(shape, [(name, {"params": [shape[-1:]] * 2})], mode="predict", max_rows=37)
    net.set_weights([single(rng.standard_normal(shape[-1:])) for _ in range(2)])
    whole = net.predict(x)
    for batch, threads in ((1, 1), (3, 2), (5, 3), (37, 8)):
        assert net.predict(x, batch=batch, threads=threads).tobytes() == whole.tobytes()
    order = rng.permutation(37)
    assert net.predict(x[order]).tobytes() == whole[order].tobytes()


@cases_of("batch_norm")
def test_batch_norm(level, case):
    """As for the other norms; the sums run over all rows and pixels."""
    arrays, dy = samples("batch_norm", case)
    x, n, pixels = arrays["x"], dy[..., 0].size, tuple(range(dy.ndim - 1))
    affine, shape = [k for k in ("gamma", "beta") if k in arrays], x.shape[-1:]
    layer = ("batch_norm", {"params": [shape] * len(affine), "statistics": [shape] * 2,
                            "scale": int("gamma" in arrays), "center": int("beta" in arrays),
                            **case.attributes})  # fmt: skip
    moving = [np.full(shape, 1e9), np.full(shape, 1e9)]  # training does not look at them
    result = through([layer], [*(arrays[k] for k in affine), *moving], x, dy)
    if result is None:
        return
    op, gamma = ref.OPS["batch_norm"], arrays.get("gamma", 1.0)
    gradients = [g for g in op.backward(**arrays, dy=dy, **case.attributes) if g is not None]
    not_near_zero(*gradients)
    z, inverse = ref_images.standardised(x, pixels, case.attributes["epsilon"])
    off = (n / 16 + 16) * U * abs(x).mean(pixels) * inverse
    moved = (off + 64 * U) * (1 + abs(z))
    assert_within(result[0], op.forward(**arrays, **case.attributes),
                  moved * abs(gamma) + 4 * U * abs(arrays.get("beta", 0.0)), "y")  # fmt: skip
    dz = abs(dy * gamma)
    size = (dz + dz.mean(pixels) * (1 + abs(z)) ** 2 * 4) * inverse
    assert_within(result[1], gradients[0], 2 * moved.max() * size, "dx")
    sums = {"gamma": (abs(dy) * (moved + n * U * abs(z))).sum(pixels),
            "beta": (n + 8) * U * abs(dy).sum(pixels)}  # fmt: skip
    for got, want, which in zip(result[2:], gradients[1:], affine, strict=False):
        assert_within(got, want, sums[which], which)


@pytest.mark.parametrize("shape", [(23, 5), (23, 3, 2, 17)], ids=str)
def test_batch_norm_moves_its_statistics_and_predicts_with_them(level, shape):
    """Two steps of training, one of them smaller; then prediction, alone and in a batch."""
    rng = np.random.default_rng(7)
    x, channels = rng.standard_normal(shape).astype(np.float32) * 2 + 1, shape[-1]
    layer = ("batch_norm", {"params": [(channels,)] * 2, "statistics": [(channels,)] * 2,
                            "momentum": 0.9})  # fmt: skip
    net = Net(shape[1:], [layer], loss="mse", max_rows=16)
    start = [np.full(channels, v) for v in (1.5, -0.5, 0.0, 1.0)]
    net.set_weights(start)
    net.need("sgd")
    want = [np.zeros(channels), np.ones(channels)]
    pixels = tuple(range(x.ndim - 1))
    for part in (x[:16], x[16:]):
        now = part.astype(np.float64)
        want = [0.9 * m + 0.1 * s for m, s in
                zip(want, (now.mean(pixels), now.var(pixels)), strict=True)]  # fmt: skip
    result = net.run(x, np.zeros_like(x), optimizer=net_optimizer(), rate=0.0, threads=2)
    assert (result.status, result.steps) == ("ok", 2)
    gamma, beta, mean, variance = net.weights()
    assert_within(mean, want[0], 1e-5)
    assert_within(variance, want[1], 1e-5)
    assert np.array_equal(gamma, start[0].astype(np.float32))
    frozen = Net(shape[1:], [layer], loss="mse", max_rows=32, update="none")
    frozen.set_weights(start)
    assert frozen.run(x, np.zeros_like(x)).status == "ok"
    assert not frozen.weights()[2].any()  # gradients alone move nothing
    ready = Net(shape[1:], [layer], mode="predict", max_rows=16)
    ready.set_weights([gamma, beta, mean, variance])
    y = ready.predict(x)
    z = (x - want[0]) / np.sqrt(want[1] + 1e-3)
    assert_within(y, 1.5 * z - 0.5, 1e-4)
    for rows in (1, 5, 16):
        assert np.array_equal(ready.predict(x, batch=rows, threads=3), y)


def net_optimizer():
    return _core.Optimizer("sgd")


@cases_of("spatial_dropout")
def test_spatial_dropout(level, case):
    """The mask is the engine's to draw: read off y, it has to serve forward and backward."""
    arrays, dy = samples("spatial_dropout", case)
    x, rate = arrays["x"], case.attributes["rate"]
    result = through([("spatial_dropout", {"rate": rate})], [], x, dy)
    if result is None:
        return
    mask = (result[0] != 0).any(axis=(1, 2), keepdims=True)
    want, (want_dx,) = (
        ref.OPS["spatial_dropout"].forward(x, mask, rate),
        ref.OPS["spatial_dropout"].backward(x, mask, dy, rate),
    )
    assert_within(result[0], want, 4 * U * abs(want), "y")
    assert_within(result[1], want_dx, 4 * U * abs(want_dx), "dx")
    if rate == 0:
        assert mask.all()


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_spatial_dropout_masks(level, rate):
    """Kept with probability 1 - rate; others for another seed, step or op; the same again."""
    n, c = 200, 37
    layers = [dense((2, 3, c), bias=False), *[("spatial_dropout", {"rate": rate})] * 2]
    net = Net((2, 3, c), layers, loss="mse", update="none", max_rows=n)
    net.set_weights([np.eye(6 * c)])
    ones = np.ones((n, 2, 3, c), np.float32)

    def mask(**options):
        assert net.run(ones, ones, **options).status == "ok"
        kept = net.rows(net.last, n) != 0
        assert (kept == kept[:, :1, :1]).all()
        return kept[:, 0, 0]

    both, kept = mask(seed=5), (1 - rate) ** 2  # two independent masks
    assert abs(both.mean() - kept) < 5 * math.sqrt(kept * (1 - kept) / both.size)
    assert np.array_equal(both, mask(seed=5, threads=3))
    assert not np.array_equal(both, mask(seed=6))
    assert not np.array_equal(both, mask(seed=5, step=1))


def pool_layer(pool, channels):
    where = {"pool_h": pool, "pool_w": pool, "stride_h": pool, "stride_w": pool}
    return "max_pool", {"shape": (1, 1, channels), **where}


some_channels = pytest.mark.parametrize("channels", [1, 3, 4, 8, 13, 16, 33])
some_pools = pytest.mark.parametrize("pool", [2, 3])


@some_channels
@some_pools
def test_the_first_of_equal_maxima_gets_the_gradient(level, pool, channels):
    x = np.zeros((pool * pool, pool, pool, channels))
    for i in range(len(x)):
        x[i].reshape(-1, channels)[:i] = -1  # places i and later are equal
    dy = np.full((len(x), 1, 1, channels), 1.5)
    y, dx = through([pool_layer(pool, channels)], [], x, dy)
    assert not y.any()
    want = 1.5 * np.eye(pool * pool)[:, :, None] * np.ones(channels)
    assert np.array_equal(dx.reshape(want.shape), want)


@some_channels
@some_pools
def test_max_pool_gives_nan_wherever_it_stands(level, pool, channels):
    """inf * 0 makes one place of each image NaN; the other channels stay what they are."""
    values = pool * pool * channels
    x = np.ones((values, values), np.float32)
    np.fill_diagonal(x, 3e38)
    layers = [("rescale", {"scale": 2}), ("rescale", {"scale": 0}), pool_layer(pool, channels)]
    net = Net((pool, pool, channels), layers, mode="predict", max_rows=5)
    y = net.predict(x.reshape(-1, pool, pool, channels))[:, 0, 0]
    assert np.array_equal(np.isnan(y), np.tile(np.eye(channels, dtype=bool), (pool * pool, 1)))
    assert (y[~np.isnan(y)] == 0).all()


BAD = [
    ("max_pool", (7, 5, 3), (3, 2, 4), {"pool_h": 2, "pool_w": 2}, "channels"),
    ("max_pool", (7, 5, 3), (8, 5, 3), {}, "outside"),
    ("max_pool", (7, 5, 3), (7, 5, 3), {"top": 1}, "outside"),
    ("avg_pool", (7, 5, 3), (7, 5, 3), {"pool_h": 0}, "out of range"),
    ("avg_pool", (2, 7, 5, 3), (7, 5, 3), {}, "float32 rows of shape"),
    ("pad", (7, 5, 3), (7, 5, 4), {}, "channels"),
    ("pad", (7, 5, 3), (2, 5, 3), {"top": 2}, "nothing of the image"),
    ("pad", (7, 5, 3), (2, 5, 3), {"left": -5}, "nothing of the image"),
    ("upsample", (7, 5, 3), (14, 5, 3), {}, "another size"),
    ("spatial_dropout", (7, 5, 3), (7, 5, 3), {"rate": 1.0}, "rate"),
    ("spatial_dropout", (7, 5, 3), (5, 7, 3), {}, "differ"),
]


@pytest.mark.parametrize(("name", "shape", "out", "attributes", "message"), BAD, ids=str)
def test_what_does_not_fit_is_refused(name, shape, out, attributes, message):
    with pytest.raises(ValueError, match=message):
        Net(shape, [(name, {"shape": out, **attributes})], mode="predict")
