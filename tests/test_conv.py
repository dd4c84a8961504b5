"""Convolution layers: arguments, shapes, weights and what they compute, beside PyTorch where it is
installed."""

import numpy as np
import pytest
import reference  # noqa: F401 - takes reference_conv in
import reference_conv as ref

import fastnet as fn
from fastnet import layers, optimizers

ALL = [
    lambda **options: layers.Conv2D(4, 3, **options),
    lambda **options: layers.Conv1D(4, 3, **options),
    lambda **options: layers.DepthwiseConv2D(3, **options),
    lambda **options: layers.SeparableConv2D(4, 3, **options),
    lambda **options: layers.Conv2DTranspose(4, 3, **options),
]
every_layer = pytest.mark.parametrize(
    "make", ALL, ids=["Conv2D", "Conv1D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"]
)


def rows_for(layer):
    return (9, 4) if isinstance(layer, layers.Conv1D) else (9, 7, 4)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(layer, shape):
    """A network of this layer alone, with random weights."""
    net = fn.Sequential([layers.Input(shape), layer], seed=0)
    net.build()
    net.set_weights([random(*w.shape, seed=i) for i, w in enumerate(net.get_weights())])
    return net


def where(layer):
    """Where the kernel lies, as the reference wants to know it."""
    attributes = {k: v for k, v in layer._attributes().items() if k != "groups"}
    return {"out": layer.output_shape[:2], **attributes}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Convolution1D", "Conv1D"), ("Convolution2D", "Conv2D"),
        ("Convolution2DTranspose", "Conv2DTranspose"),
        ("DepthwiseConvolution2D", "DepthwiseConv2D"),
        ("SeparableConvolution2D", "SeparableConv2D"),
    ],
)  # fmt: skip
def test_names_of_keras(alias, name):
    assert getattr(layers, alias) is getattr(layers, name)


def test_default_names_are_those_of_keras():
    net = fn.Sequential([
        layers.Input((9, 9, 2)), layers.Conv2D(4, 3), layers.Conv2D(4, 3),
        layers.DepthwiseConv2D(3), layers.SeparableConv2D(4, 1), layers.Conv2DTranspose(1, 3),
    ])  # fmt: skip
    net.build()
    assert [layer.name for layer in net.layers[1:]] == [
        "conv2d", "conv2d_1", "depthwise_conv2d", "separable_conv2d", "conv2d_transpose",
    ]  # fmt: skip


# (n, kernel, stride, dilation) -> "same", "valid" of Keras; transposed "same", "valid"
SIZES = [
    ((7, 3, 1, 1), 7, 5, 7, 9),
    ((7, 3, 2, 1), 4, 3, 14, 15),
    ((8, 3, 2, 1), 4, 3, 16, 17),
    ((7, 5, 1, 1), 7, 3, 7, 11),
    ((7, 2, 3, 1), 3, 2, 21, 21),
    ((7, 1, 2, 1), 4, 4, 14, 14),
    ((9, 3, 1, 2), 9, 5, 9, 13),
    ((3, 5, 1, 1), 3, None, 3, 7),
]


@pytest.mark.parametrize(("of", "same", "valid", "back_same", "back_valid"), SIZES)
def test_sizes_are_those_of_keras(of, same, valid, back_same, back_valid):
    n, kernel, stride, dilation = of

    def size(cls, padding):
        layer = cls(2, kernel, strides=stride, padding=padding, dilation_rate=dilation)
        h, w, c = layer.build((n, n + 4, 3))
        assert c == 2
        assert (
            w
            == cls(2, (1, kernel), (1, stride), padding, None, (1, dilation)).build((1, n + 4, 3))[
                1
            ]
        )
        return h

    assert size(layers.Conv2D, "same") == same
    assert size(layers.Conv2DTranspose, "same") == back_same
    assert size(layers.Conv2DTranspose, "valid") == back_valid
    if valid:
        assert size(layers.Conv2D, "valid") == valid
    else:
        with pytest.raises(ValueError, match="larger than the image"):
            size(layers.Conv2D, "valid")


# (n, kernel, stride, dilation, output_padding) -> size and zeros cut off before it: "same", "valid"
OUTPUT_PADDED = [
    ((4, 3, 2, 1, 0), (7, 1), (9, 0)),
    ((4, 3, 2, 1, 1), (8, 0), (10, 0)),
    ((4, 4, 2, 1, 1), (7, 1), (11, 0)),
    ((4, 5, 3, 1, 2), (12, 1), (16, 0)),
    ((4, 2, 3, 1, 0), (9, 1), (11, 0)),
    ((4, 3, 2, 2, 1), (8, 1), (12, 0)),
]


@pytest.mark.parametrize(("of", "same", "valid"), OUTPUT_PADDED)
def test_output_padding_is_that_of_keras(of, same, valid):
    n, kernel, stride, dilation, extra = of
    for padding, (size, before) in (("same", same), ("valid", valid)):
        layer = layers.Conv2DTranspose(
            3, kernel, stride, padding, dilation_rate=dilation, output_padding=extra, use_bias=False
        )
        net = network(layer, (n, n + 1, 2))
        assert layer.output_shape[0] == size and layer._corner[0] == before
        x = random(2, n, n + 1, 2, seed=9)
        (w,) = (v.astype(np.float64) for v in net.get_weights())
        source = random(2, *layer.output_shape, seed=3).astype(np.float64)
        back = ref.conv(source, w, (n, n + 1), layer.strides, layer.dilation_rate, layer._corner)
        left, right = (net.predict(x) * source).sum(), (x * back).sum()
        assert left == pytest.approx(right, rel=1e-4)
        assert abs(left) > 0.1
        again = type(layer)(**layer.config())
        assert again.build((n, n + 1, 2)) == layer.output_shape


def test_output_padding_refuses():
    with pytest.raises(ValueError, match="output_padding must be below strides"):
        layers.Conv2DTranspose(3, 3, 2, output_padding=(1, 2))
    with pytest.raises(ValueError, match=">= 0"):
        layers.Conv2DTranspose(3, 3, 2, output_padding=-1)
    with pytest.raises(ValueError, match="nothing comes of the image"):
        layers.Conv2DTranspose(3, 2, 2, "same", output_padding=0).build((1, 4, 2))


def test_same_pads_behind_when_it_cannot_be_even():
    layer = layers.Conv2D(1, 3, strides=2, padding="same", use_bias=False)
    net = network(layer, (4, 4, 1))
    net.set_weights([np.ones((3, 3, 1, 1), np.float32)])
    y = net.predict(np.ones((1, 4, 4, 1), np.float32))
    assert y[0, :, :, 0].tolist() == [[9, 6], [6, 4]]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"padding": "same"}, {"padding": "same", "strides": 2}, {"padding": ((1, 0), (0, 2))},
        {"strides": (1, 3), "padding": 1}, {"dilation_rate": (2, 1)}, {"groups": 2},
        {"use_bias": False}, {"activation": "relu"},
    ],
    ids=str,
)  # fmt: skip
def test_conv2d(options):
    layer = layers.Conv2D(6, 3, **options)
    net = network(layer, (9, 7, 4))
    x = random(3, 9, 7, 4, seed=9)
    w, *b = (v.astype(np.float64) for v in net.get_weights())
    assert w.shape == (3, 3, 4 // layer.groups, 6)
    want = ref.conv2d_forward(x.astype(np.float64), w, *b, groups=layer.groups, **where(layer))
    if layer.activation == "relu":
        want = np.maximum(want, 0)
    y = net.predict(x)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    assert np.abs(y).max() > 1
    for i in range(3):
        assert net.predict(x[i : i + 1]).tobytes() == y[i : i + 1].tobytes()


@pytest.mark.parametrize("padding", ["valid", "same", "causal", (2, 1)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"dilation_rate": 2}, {"strides": 2}, {"groups": 2}], ids=str
)
def test_conv1d_is_an_image_of_one_line(padding, options):
    layer = layers.Conv1D(6, 3, padding=padding, **options)
    net = network(layer, (9, 4))
    x = random(2, 9, 4, seed=9)
    w, b = (v.astype(np.float64) for v in net.get_weights())
    assert w.shape == (3, 4 // layer.groups, 6)
    places = {**where(layer), "out": (1, layer.output_shape[0])}
    want = ref.conv2d_forward(
        x[:, None].astype(np.float64), w[None], b, groups=layer.groups, **places
    )
    np.testing.assert_allclose(net.predict(x), want[:, 0], rtol=1e-4, atol=1e-5)


def test_causal_steps_do_not_see_what_comes():
    net = network(layers.Conv1D(2, 3, padding="causal", dilation_rate=2), (9, 1))
    x = random(1, 9, 1)
    y = net.predict(x)
    x[0, 5:] = 100
    assert np.array_equal(net.predict(x)[0, :5], y[0, :5])
    assert not np.array_equal(net.predict(x)[0, 5:], y[0, 5:])


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_and_separable(multiplier):
    first = layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=multiplier, use_bias=False)
    net = network(first, (9, 7, 4))
    x = random(2, 9, 7, 4, seed=9)
    (w,) = net.get_weights()
    assert w.shape == (3, 3, 4, multiplier)
    want = ref.depthwise_forward(x.astype(np.float64), w.astype(np.float64), **where(first))
    np.testing.assert_allclose(net.predict(x), want, rtol=1e-4, atol=1e-5)
    both = layers.SeparableConv2D(5, 3, 2, "same", depth_multiplier=multiplier)
    net = network(both, (9, 7, 4))
    _, pointwise, b = net.get_weights()
    net.set_weights([w, pointwise, b])
    assert pointwise.shape == (1, 1, 4 * multiplier, 5)
    np.testing.assert_allclose(net.predict(x), want @ pointwise[0, 0] + b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [1, 2, 3])
def test_transpose_is_the_gradient_of_a_convolution(padding, strides):
    layer = layers.Conv2DTranspose(3, 3, strides, padding, use_bias=False)
    net = network(layer, (4, 5, 2))
    x = random(2, 4, 5, 2, seed=9)
    (w,) = (v.astype(np.float64) for v in net.get_weights())
    assert w.shape == (3, 3, 3, 2)
    source = random(2, *layer.output_shape, seed=3).astype(np.float64)
    # <transpose(x), source> = <x, conv(source)>
    there = layers.Conv2D(2, 3, strides, padding)
    assert there.build(layer.output_shape)[:2] == (4, 5)
    back = ref.conv(source, w, (4, 5), (strides, strides), (1, 1), there._corner)
    left, right = (net.predict(x) * source).sum(), (x * back).sum()
    assert left == pytest.approx(right, rel=1e-4)
    assert abs(left) > 0.1


@pytest.mark.usefixtures("always_thread")
def test_training_lowers_the_loss_with_the_same_bits_for_every_number_of_threads():
    x, y = random(96, 9, 9, 1), np.random.default_rng(1).integers(3, size=96)
    weights = []
    for threads in (1, 2, 3):
        net = fn.Sequential([
            layers.Input((9, 9, 1)),
            layers.Conv2D(8, 5, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2DTranspose(4, 2, strides=2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ], seed=0)  # fmt: skip
        trainer = fn.Trainer(net, loss="cross_entropy", optimizer=optimizers.Adam(0.01))
        with fn.threads(threads):
            history = trainer.fit(x, y, batch_size=32, epochs=12, progress=False)
        weights.append(b"".join(w.tobytes() for w in net.get_weights()))
        assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert weights[0] == weights[1] == weights[2]


@every_layer
def test_saved_and_loaded_it_predicts_the_same(make, tmp_path):
    layer = make(padding="same", strides=2, activation="tanh", use_bias=False)
    net = network(layer, rows_for(layer))
    x = random(2, *rows_for(layer), seed=9)
    net.save(tmp_path / "net.safetensors")
    again = fn.load(tmp_path / "net.safetensors")
    assert repr(again.layers[1]) == repr(layer)
    assert np.array_equal(again.predict(x), net.predict(x))


@every_layer
def test_what_all_of_them_refuse(make):
    for error, options, message in (
        (ValueError, {"strides": 0}, r"strides\[0\] must be an integer >= 1, got 0"),
        (ValueError, {"padding": "sane"}, "did you mean 'same'"),
        (ValueError, {"dilation_rate": 0}, r"dilation_rate\[0\]"),
        (ValueError, {"activation": "rely"}, "did you mean 'relu'"),
        (ValueError, {"data_format": "channels_first"}, "np.moveaxis"),
        (TypeError, {"strides": 1.5}, "strides"),
    ):
        with pytest.raises(error, match=message):
            make(**options)


@every_layer
def test_rows_of_another_rank_are_explained(make):
    layer = make(name="mine")
    shape = rows_for(layer)[:-1]
    message = rf"channels\), got rows of shape .*; put Reshape\(\({shape[0]}, .*1\)\) before it"
    with pytest.raises(ValueError, match=r"layer 'mine': .* wants rows of shape .*" + message):
        fn.Sequential([layers.Input(shape), layer]).build()


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: layers.Conv2D(0, 3), None, "filters must be an integer >= 1"),
        (lambda: layers.Conv2D(4, 0), None, r"kernel_size\[0\]"),
        (lambda: layers.Conv2D(4, 3, groups=3), None, "filters must be a multiple of groups"),
        (lambda: layers.Conv2D(4, 3, groups=2), (5, 5, 3), "do not divide into groups=2"),
        (lambda: layers.Conv2D(4, 3, padding="causal"), None, "padding"),
        (lambda: layers.Conv2D(4, 3, padding=-1), None, r"padding\[0\]\[0\].*>= 0"),
        (lambda: layers.Conv2D(4, 5), (4, 9, 1), r"\(5, 5\) is larger than the image \(4, 9\)"),
        (lambda: layers.Conv2D(4, 5, padding=((0, 0), (1, 1))), (4, 9, 1), "with padding"),
        (lambda: layers.Conv2D(4, 3, dilation_rate=3), (6, 9, 1), "with dilation_rate"),
        (lambda: layers.Conv1D(4, 5), (4, 1), r"\(5,\) is larger than the sequence \(4,\)"),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=0), None, "depth_multiplier"),
        (lambda: layers.Conv2DTranspose(4, 3, padding="causal"), None, "padding"),
    ],
)
def test_what_is_refused(make, shape, message):
    with pytest.raises(ValueError, match=message):
        make().build(shape)


# ----------------------------------------------------------------------------- beside PyTorch


def as_torch(torch, x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 2])
def test_conv2d_beside_pytorch(stride, dilation, groups, padding):
    torch = pytest.importorskip("torch")
    layer = layers.Conv2D(6, 3, stride, padding, dilation_rate=dilation, groups=groups)
    net = network(layer, (9, 8, 4))
    w, b = net.get_weights()
    x = random(2, 9, 8, 4, seed=9)
    want = torch.nn.functional.conv2d(
        as_torch(torch, x), torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1))),
        torch.from_numpy(b), stride, padding, dilation, groups,
    )  # fmt: skip
    got = np.moveaxis(net.predict(x), -1, 1)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_conv2d_transpose_beside_pytorch():
    torch = pytest.importorskip("torch")
    net = network(layers.Conv2DTranspose(5, 3, 2, "valid"), (4, 3, 2))
    w, b = net.get_weights()
    x = random(2, 4, 3, 2, seed=9)
    want = torch.nn.functional.conv_transpose2d(
        as_torch(torch, x), torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1))),
        torch.from_numpy(b), stride=2,
    )  # fmt: skip
    got = np.moveaxis(net.predict(x), -1, 1)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)
