"""Layers on images: arguments, shapes, what they compute, beside PyTorch where it is installed."""

import itertools
import re

import numpy as np
import pytest
import reference as ref

import fastnet as fn
from fastnet import layers


def images(n=4, h=7, w=5, c=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, h, w, c)).astype(np.float32)


def apply(layer, x):
    """What a network of this layer alone predicts; rows alone give the same bits."""
    net = fn.Sequential([layers.Input(x.shape[1:]), layer], seed=0)
    y = net.predict(x)
    assert y.shape[1:] == net.output_shape == layer.output_shape
    for i in range(len(x)):
        assert net.predict(x[i : i + 1]).tobytes() == y[i : i + 1].tobytes()
    return y


# ----------------------------------------------------------------------------- names and arguments

ALIASES = {
    f"{long}{n}": f"{short}{n}"
    for n in ("1D", "2D")
    for long, short in {
        "MaxPooling": "MaxPool", "AveragePooling": "AvgPool",
        "GlobalMaxPooling": "GlobalMaxPool", "GlobalAveragePooling": "GlobalAvgPool",
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("alias", ALIASES)
def test_names_of_keras(alias):
    assert getattr(layers, alias) is getattr(layers, ALIASES[alias])


def test_names_of_keras_for_normalisation():
    assert layers.LayerNormalization is layers.LayerNorm
    assert layers.GroupNormalization is layers.GroupNorm
    norm = layers.GroupNorm()
    assert (norm.groups, norm.epsilon, norm.center, norm.scale) == (32, 1e-3, True, True)
    assert layers.LayerNorm().epsilon == 1e-3
    layers.LayerNorm(axis=[-1])
    layers.BatchNorm(axis=np.int64(-1))


def test_default_names_are_those_of_keras():
    stack = [layers.MaxPool2D(), layers.MaxPool2D(), layers.ZeroPadding2D(), layers.UpSampling2D()]
    net = fn.Sequential([layers.Input((8, 8, 1)), *stack])
    net.build()
    assert [layer.name for layer in net.layers[1:]] == [
        "max_pool2d", "max_pool2d_1", "zero_padding2d", "up_sampling2d",
    ]  # fmt: skip


def test_defaults_are_those_of_keras():
    pool = layers.MaxPool2D()
    assert (pool.pool_size, pool.strides, pool.padding) == ((2, 2), (2, 2), "valid")
    assert layers.AvgPool2D((3, 2)).strides == (3, 2)
    assert layers.AvgPool1D().pool_size == (2,)
    assert layers.ZeroPadding2D().padding == ((1, 1), (1, 1))
    assert layers.ZeroPadding2D((1, 2)).padding == ((1, 1), (2, 2))
    assert layers.ZeroPadding1D((1, 2)).padding == layers.ZeroPadding1D([1, 2]).padding == ((1, 2),)
    assert layers.Cropping2D().cropping == ((0, 0), (0, 0))
    assert layers.Cropping1D().cropping == ((1, 1),)
    assert layers.UpSampling2D(3).size == (3, 3)
    assert layers.UpSampling2D().interpolation == "nearest"
    assert not layers.GlobalAvgPool2D().keepdims


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers.MaxPool2D(0), ValueError, r"pool_size\[0\] must be an integer >= 1, got 0"),
        (lambda: layers.MaxPool2D((2, 2, 2)), TypeError, "pool_size must be an integer or 2 of"),
        (lambda: layers.MaxPool2D(2.0), TypeError, "pool_size"),
        (lambda: layers.MaxPool2D(True), TypeError, "pool_size"),
        (lambda: layers.AvgPool2D(strides=(1, 0)), ValueError, r"strides\[1\]"),
        (lambda: layers.AvgPool2D(padding="sane"), ValueError, "did you mean 'same'"),
        (lambda: layers.AvgPool2D(padding=2), ValueError, "padding must be below pool_size"),
        (lambda: layers.AvgPool2D(padding=((0, 1), 2, 3)), TypeError, r"\(top, bottom\)"),
        (lambda: layers.MaxPool2D(padding=-1), ValueError, r"padding\[0\]\[0\].*>= 0, got -1"),
        (lambda: layers.MaxPool1D((2, 2)), TypeError, "pool_size must be an integer or 1 of"),
        (lambda: layers.MaxPool2D(data_format="channels_first"), ValueError, "np.moveaxis"),
        (lambda: layers.GlobalAvgPool2D("channels_first"), ValueError, "channels_last"),
        (lambda: layers.ZeroPadding2D(-1), ValueError, ">= 0"),
        (lambda: layers.ZeroPadding1D((1, 2, 3)), TypeError, r"\(before, after\)"),
        (lambda: layers.Cropping2D(((1, 2), (3, -4))), ValueError, r"cropping\[1\]\[1\]"),
        (lambda: layers.UpSampling2D(0), ValueError, r"size\[0\]"),
        (lambda: layers.UpSampling2D(interpolation="cubic"), ValueError, "bilinear, nearest"),
        (lambda: layers.SpatialDropout2D(1), ValueError, "rate"),
        (lambda: layers.LayerNorm(epsilon=0), ValueError, "epsilon"),
        (lambda: layers.LayerNorm(axis=(1, 2)), TypeError, "axis of LayerNorm must be -1"),
        (lambda: apply(layers.LayerNorm(axis=1), images()), ValueError, "axis must be -1, got 1"),
        (lambda: layers.GroupNorm(0), ValueError, "groups must be an integer >= 1"),
        (lambda: layers.GroupNorm(2.0), TypeError, "groups"),
        (
            lambda: apply(layers.GroupNorm(2), images()),
            ValueError,
            r"layer 'group_norm': groups must divide the channels: got groups=2 for .*\(7, 5, 3\)",
        ),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.UpSampling2D(10**6), r"rows of shape \(8000000, .* come of it: at most 2\*\*29"),
        (layers.ZeroPadding2D(2**20), r"rows of shape \(2097160, .* come of it"),
        (layers.Conv2DTranspose(8, 3, 10**6), r"rows of shape \(8000000, .* come of it"),
        (layers.Conv2D(2**31, 3), r"rows of shape \(6, 6, 2147483648\) would come of it"),
        (layers.SeparableConv2D(1, 1, depth_multiplier=2**24), r"a row of a buffer needs 1 to"),
        (layers.Conv2D(8, 10**6, padding="same"), r"its kernel \(1000000, .* is too large"),
        (
            layers.Conv2D(8, 3, 2**20, 2**20),
            r"\(conv2d\): the picture with its padding is too large",
        ),
    ],
)
def test_what_the_engine_cannot_hold_names_the_layer(layer, message):
    layer.name = "mine"
    with pytest.raises(ValueError, match=f"layer 'mine'.*{message}"):
        fn.Sequential([layers.Input((8, 8, 3)), layer]).build()
    with pytest.raises(ValueError, match=f"layer 'mine'.*{message}"):
        fn.Model(x := fn.Input((8, 8, 3)), type(layer)(**layer.config(), name="mine")(x)).build()


def test_sizes_beyond_all_pictures_are_named():
    for make in (
        lambda n: layers.Conv2D(1, 3, strides=n), lambda n: layers.Conv2D(1, 3, dilation_rate=n),
        lambda n: layers.Conv2D(1, 3, padding=n), lambda n: layers.MaxPool2D(2, strides=(1, n)),
        layers.AvgPool2D, layers.ZeroPadding2D, layers.UpSampling2D,
    ):  # fmt: skip
        make(2**20)
        for n in (2**20 + 1, 10**30):
            with pytest.raises(ValueError, match=rf"must be at most 2\*\*20, got .*{n}"):
                make(n)


def test_pictures_with_channels_first_are_told():
    net = fn.Sequential([layers.Input((7, 5, 3)), layers.Conv2D(2, 3)], seed=0)
    x = images()
    with pytest.raises(
        ValueError, match=r"channels last, got \(4, 3, 7, 5\); np.moveaxis\(x, 1, -1"
    ):
        net.predict(np.moveaxis(x, -1, 1))


TWO_AXES = [
    layers.MaxPool2D, layers.AvgPool2D, layers.GlobalMaxPool2D, layers.GlobalAvgPool2D,
    layers.ZeroPadding2D, layers.Cropping2D, layers.UpSampling2D,
    lambda: layers.SpatialDropout2D(0.5),
]  # fmt: skip
ONE_AXIS = [
    layers.MaxPool1D, layers.AvgPool1D, layers.GlobalMaxPool1D, layers.GlobalAvgPool1D,
    layers.ZeroPadding1D, layers.Cropping1D, layers.UpSampling1D,
    lambda: layers.SpatialDropout1D(0.5),
]  # fmt: skip


@pytest.mark.parametrize("make", [*TWO_AXES, *ONE_AXIS], ids=range(16))
def test_rows_of_another_rank_are_named(make):
    layer = make()
    two = make in TWO_AXES
    kind = type(layer).__name__
    wanted = r"\(height, width, channels\)" if two else r"\(steps, channels\)"
    shape = (8, 8) if two else (8,)
    with pytest.raises(ValueError, match=rf"layer 'mine': {kind} wants rows of shape {wanted}, "
                       rf"got rows of shape .*; put Reshape\(\(8, .*1\)\)"):  # fmt: skip
        layer.name = "mine"
        fn.Sequential([layers.Input(shape), layer]).build()
    with pytest.raises(ValueError, match=f"{kind} wants rows"):
        fn.Sequential([layers.Input((2, 8, 8, 3)), make()]).build()


def test_pools_larger_than_the_image():
    with pytest.raises(ValueError, match=r"'max_pool2d'.*\(2, 6\) is larger than the image \(7, 5"):
        apply(layers.MaxPool2D((2, 6)), images())
    with pytest.raises(ValueError, match=r"larger than the image \(7, 5\) with padding"):
        apply(layers.MaxPool2D(10, padding=1), images())
    y = apply(layers.MaxPool2D((9, 11), strides=1, padding="same"), images())
    assert y.shape == (4, 7, 5, 3)
    assert (y[:, 3, 2] == images().max(axis=(1, 2))).all()
    with pytest.raises(ValueError, match=r"'cropping2d'.*leaves nothing of the image \(7, 5\)"):
        apply(layers.Cropping2D(((0, 0), (2, 3))), images())


# ----------------------------------------------------------------------------- what they compute


def want_pool(name, x, layer):
    """The reference with padding and shape as Keras defines them, worked out anew."""
    h, w = x.shape[1:3]
    out, corner = [], []
    for n, pool, stride, side in zip((h, w), layer.pool_size, layer.strides, range(2), strict=True):
        if layer.padding == "same":
            out.append(int(np.ceil(n / stride)))
            corner.append(max((out[-1] - 1) * stride + pool - n, 0) // 2)
            continue
        before, after = (0, 0) if layer.padding == "valid" else layer.padding[side]
        starts = range(-before, n + after if layer.ceil_mode else n + after - pool + 1, stride)
        starts = [s for s in starts if s < n]
        if layer.ceil_mode:  # up to the first window that reaches the end
            starts = starts[: 1 + next((i for i, s in enumerate(starts) if s + pool >= n + after),
                                       len(starts))]  # fmt: skip
        out.append(len(starts))
        corner.append(before)
    where = dict(zip(("pool_h", "pool_w"), layer.pool_size, strict=True))
    where |= dict(zip(("stride_h", "stride_w"), layer.strides, strict=True))
    return ref.OPS[name].forward(x.astype(np.float64), out=tuple(out), top=corner[0],
                                 left=corner[1], **where)  # fmt: skip


POOLS = list(itertools.product(
    (2, 3, (3, 2), (1, 5)), (None, 1, (2, 3), 4), ("valid", "same", ((1, 0), (0, 1))), (False, True)
))  # fmt: skip


@pytest.mark.parametrize("options", POOLS, ids=str)
def test_pools(options):
    names = ("pool_size", "strides", "padding", "ceil_mode")
    options = dict(zip(names, options, strict=True))
    if options["padding"] == ((1, 0), (0, 1)) and options["pool_size"] == (1, 5):
        options["padding"] = ((0, 0), (4, 2))
    for name, cls in (("max_pool", layers.MaxPool2D), ("avg_pool", layers.AvgPool2D)):
        layer = cls(**options)
        y = apply(layer, images())
        want = want_pool(name, images(), layer)
        np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_pools(keepdims):
    x = images(3, 7, 5, 11)
    for cls, function in ((layers.GlobalMaxPool2D, np.max), (layers.GlobalAvgPool2D, np.mean)):
        y = apply(cls(keepdims=keepdims), x)
        np.testing.assert_allclose(y, function(x, axis=(1, 2), keepdims=keepdims), rtol=1e-5,
                                   atol=1e-6)  # fmt: skip
    for cls, function in ((layers.GlobalMaxPool1D, np.max), (layers.GlobalAvgPool1D, np.mean)):
        y = apply(cls(keepdims=keepdims), x[:, 2])
        np.testing.assert_allclose(y, function(x[:, 2], axis=1, keepdims=keepdims), rtol=1e-5,
                                   atol=1e-6)  # fmt: skip


def test_borders_and_sizes():
    x = images()
    y = apply(layers.ZeroPadding2D(((1, 2), (3, 0))), x)
    assert np.array_equal(y, np.pad(x, ((0, 0), (1, 2), (3, 0), (0, 0))))
    assert np.array_equal(apply(layers.Cropping2D(((1, 2), (3, 0))), x), x[:, 1:5, 3:])
    assert np.array_equal(apply(layers.UpSampling2D((2, 3)), x), x.repeat(2, 1).repeat(3, 2))
    y = apply(layers.UpSampling2D((2, 1), interpolation="bilinear"), x)
    np.testing.assert_allclose(y[:, 1], 0.75 * x[:, 0] + 0.25 * x[:, 1], rtol=1e-5, atol=1e-6)
    assert np.array_equal(y[:, [0, -1]], x[:, [0, -1]])


def test_sequences_are_images_of_one_line():
    x = images(4, 1, 9, 5)
    for one, two in (
        (layers.MaxPool1D(3, 2, "same"), layers.MaxPool2D((1, 3), (1, 2), "same")),
        (layers.AvgPool1D(3, 1, 1), layers.AvgPool2D((1, 3), 1, (0, 1))),
        (layers.MaxPool1D(2, ceil_mode=True), layers.MaxPool2D((1, 2), ceil_mode=True)),
        (layers.GlobalMaxPool1D(), layers.GlobalMaxPool2D()),
        (layers.GlobalAvgPool1D(), layers.GlobalAvgPool2D()),
        (layers.ZeroPadding1D((1, 2)), layers.ZeroPadding2D(((0, 0), (1, 2)))),
        (layers.Cropping1D((1, 2)), layers.Cropping2D(((0, 0), (1, 2)))),
        (layers.UpSampling1D(3), layers.UpSampling2D((1, 3))),
        (layers.SpatialDropout1D(0.5), layers.SpatialDropout2D(0.5)),
    ):
        assert apply(one, x[:, 0]).tobytes() == apply(two, x).tobytes()


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools_of_torch(kernel, stride, padding, ceil_mode):
    torch = pytest.importorskip("torch")
    x = images(3, 11, 9, 4)
    t = torch.tensor(np.moveaxis(x, -1, 1))
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    for cls, function in (
        (layers.MaxPool2D, torch.nn.MaxPool2d(**options)),
        (layers.AvgPool2D, torch.nn.AvgPool2d(**options, count_include_pad=False)),
    ):
        y = apply(cls(kernel, stride, padding, ceil_mode=ceil_mode), x)
        want = np.moveaxis(function(t).numpy(), 1, -1)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def test_upsampling_of_torch():
    torch = pytest.importorskip("torch")
    x = images()
    t = torch.tensor(np.moveaxis(x, -1, 1))
    for mode in ("nearest", "bilinear"):
        want = torch.nn.Upsample(scale_factor=(2, 3), mode=mode)(t).numpy()
        y = apply(layers.UpSampling2D((2, 3), interpolation=mode), x)
        np.testing.assert_allclose(y, np.moveaxis(want, 1, -1), rtol=1e-5, atol=1e-6)


def test_normalisation():
    x = images(4, 7, 5, 6) * 3 + 10
    y = apply(layers.LayerNorm(gamma_initializer=lambda shape, rng: np.arange(6.0)), x)
    mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    want = (x - mean) / np.sqrt(var + 1e-3) * np.arange(6)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    for groups in (1, 2, 6, -1):
        g = 6 if groups == -1 else groups
        parts = x.reshape(4, 35, g, 6 // g)
        mean, var = (f(parts, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
        want = ((parts - mean) / np.sqrt(var + 0.01)).reshape(x.shape)
        y = apply(layers.GroupNorm(groups, epsilon=0.01, center=False), x)
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    assert np.array_equal(apply(layers.GroupNorm(-1), x), apply(layers.GroupNorm(6), x))


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_normalisation_of_torch(kind):
    torch = pytest.importorskip("torch")
    x, target = images(4, 7, 5, 6), images(4, 7, 5, 6, seed=1) * 10
    layer = layers.LayerNorm(epsilon=1e-5) if kind == "layer" else layers.GroupNorm(2, epsilon=1e-5)
    net = fn.Sequential([layers.Input((7, 5, 6)), layers.LayerNorm(), layer], seed=0)
    net.build()
    rng = np.random.default_rng(3)
    net.set_weights([w + 0.3 * rng.standard_normal(w.shape) for w in net.get_weights()])
    start = net.get_weights()
    got = fn.Trainer(net, loss="mse", optimizer="sgd").gradients(x, target)
    w = [torch.tensor(v, requires_grad=True) for v in start]
    z = torch.nn.functional.layer_norm(torch.tensor(x), (6,), w[0], w[1], 1e-3)
    if kind == "layer":
        y = torch.nn.functional.layer_norm(z, (6,), w[2], w[3], 1e-5)
    else:
        y = torch.nn.functional.group_norm(z.movedim(-1, 1), 2, w[2], w[3], 1e-5).movedim(1, -1)
    torch.nn.functional.mse_loss(y, torch.tensor(target)).backward()
    np.testing.assert_allclose(net.predict(x), y.detach().numpy(), rtol=1e-4, atol=1e-5)
    for a, b in zip(got, w, strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), rtol=1e-4, atol=1e-5)
        assert np.abs(a).max() > 0.01


# ----------------------------------------------------------------------------- in networks


def test_dropout_of_channels_is_for_training_only():
    x = images()
    assert np.array_equal(apply(layers.SpatialDropout2D(0.5), x), x)


MANY = [
    layers.ZeroPadding2D(((1, 2), (0, 3))), layers.MaxPool2D(3, 1, "same"), layers.GroupNorm(-1),
    layers.LayerNorm(epsilon=0.01, center=False), layers.GroupNorm(3, scale=False),
    layers.UpSampling2D(2, interpolation="bilinear"), layers.AvgPool2D((2, 3), 1, ((1, 0), (1, 2))),
    layers.Cropping2D(((0, 1), (2, 0))), layers.MaxPool2D(ceil_mode=True),
    layers.SpatialDropout2D(0.25), layers.GlobalAvgPool2D(keepdims=True), layers.GlobalMaxPool2D(),
    layers.Reshape((3, 1)), layers.ZeroPadding1D((2, 3)), layers.UpSampling1D(4),
    layers.AvgPool1D(3, 2, (1, 2)), layers.Cropping1D((0, 1)), layers.SpatialDropout1D(0.25),
    layers.MaxPool1D(3, padding="same"), layers.Flatten(),
]  # fmt: skip


def test_saved_and_loaded(tmp_path):
    net = fn.Sequential([layers.Input((7, 5, 3)), *MANY, layers.Dense(4)], seed=1)
    net.save(tmp_path / "net.safetensors")
    again = fn.load(tmp_path / "net.safetensors")
    assert [repr(a) for a in again.layers] == [repr(a) for a in net.layers]
    assert again.predict(images()).tobytes() == net.predict(images()).tobytes()


MODULES = ("augmentation", "convolution", "merge", "normalization", "pooling", "shaping")


@pytest.mark.parametrize(
    "name", [n for n, cls in layers.LAYERS.items() if cls.__module__.split(".")[-1] in MODULES]
)
def test_docstrings_have_shapes_errors_and_the_kernel(name):
    """Of its own, or those of a layer that it names."""
    texts, names = [], [name]
    for n in names:
        texts.append(layers.LAYERS[n].__doc__)
        named = re.findall(r"`(\w+)`", texts[-1])
        names += [m for m in named if m in layers.LAYERS and m not in names]
    assert re.search(r"\(n, |any shape|one shape", texts[0])
    for wanted in ("Raises\n", "name : str, optional", "csrc/"):
        assert any(wanted in text for text in texts), wanted
