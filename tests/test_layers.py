"""Layers: parameters, defaults, aliases, shapes, what they compute, and errors that help."""

import numpy as np
import pytest
import reference as ref
from training import classifier, digest, rows

import fastnet as fn
from fastnet import initializers, layers


def through(*stack, x, **options):
    """predict of a network of these layers."""
    return fn.Sequential(list(stack), seed=1, **options).predict(x)


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation_in_dense_and_alone(name):
    x = rows(9, 4)
    dense = fn.Sequential([layers.Input(4), layers.Dense(5, activation=name)], seed=1)
    apart = fn.Sequential([layers.Input(4), layers.Dense(5), layers.Activation(name)], seed=1)
    kernel, bias = (w.astype(np.float64) for w in dense.get_weights())
    want = ref.ACTIVATIONS[name].forward(x.astype(np.float64) @ kernel + bias)
    np.testing.assert_allclose(dense.predict(x), want, rtol=1e-5, atol=1e-6)
    assert dense.predict(x).tobytes() == apart.predict(x).tobytes()
    assert np.ptp(want) > 0.1


def test_softmax_over_the_last_axis():
    x = rows(6, 12)
    net = fn.Sequential([layers.Input(12), layers.Reshape((4, 3)), layers.Activation("softmax")])
    np.testing.assert_allclose(net.predict(x), ref.softmax(x.reshape(6, 4, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    "alias, name",
    [("swish", "silu"), ("hard_silu", "hard_swish"), ("identity", "linear"), (None, "linear")],
)
def test_activation_aliases(alias, name):
    assert layers.Dense(2, activation=alias).activation == name
    assert layers.Activation(alias).activation == name


def test_defaults_are_those_of_keras():
    dense = layers.Dense(3)
    assert (dense.activation, dense.use_bias) == ("linear", True)
    assert dense.kernel_initializer == initializers.GlorotUniform()
    assert dense.bias_initializer == initializers.Zeros()
    assert layers.Rescale(2).offset == 0
    assert layers.Rescaling is layers.Rescale
    assert layers.Input is fn.Input


def test_dense_weights_as_in_keras():
    net = fn.Sequential([layers.Input(4), layers.Dense(3), layers.Dense(2, use_bias=False)])
    assert [w.shape for w in net.get_weights()] == [(4, 3), (3,), (3, 2)]
    assert all(w.dtype == np.float32 for w in net.get_weights())
    assert net.count_params() == 4 * 3 + 3 + 3 * 2
    x = rows(5, 4)
    w, b, v = net.get_weights()
    np.testing.assert_allclose(net.predict(x), (x @ w + b) @ v, rtol=1e-4, atol=1e-6)


def test_initializers_by_name_object_and_function():
    ones = layers.Dense(2, kernel_initializer="ones", bias_initializer=initializers.Constant(3))
    drawn = layers.Dense(
        3, kernel_initializer=lambda shape, rng: rng.uniform(5, 6, shape), bias_initializer="zeros"
    )
    w1, b1, w2, b2 = fn.Sequential([layers.Input(4), ones, drawn], seed=0).get_weights()
    assert (w1 == 1).all() and (b1 == 3).all() and (b2 == 0).all()
    assert w2.min() >= 5 and w2.max() <= 6 and np.ptp(w2) > 0


def test_an_initializer_that_fails_leaves_a_network_that_can_be_built():
    answers = iter([np.zeros(3), np.full((5, 2), 4.0)])
    net = fn.Sequential([layers.Dense(2, kernel_initializer=lambda shape, rng: next(answers))])
    with pytest.raises(ValueError, match=r"must return shape \(4, 2\), got \(3,\)"):
        net.build(4)
    assert not net.built and net.input_shape is None
    net.build(5)
    assert net.predict(rows(2, 5)).shape == (2, 2)
    assert (net.get_weights()[0] == 4).all()


def test_activations_that_are_layers():
    x = rows(7, 5)
    for layer, name in ((layers.ReLU(), "relu"), (layers.Softmax(), "softmax")):
        assert through(layer, x=x).tobytes() == through(layers.Activation(name), x=x).tobytes()
    for slope in (0.0, 0.01, 0.2, 1.5):
        want = np.where(x > 0, x, np.float32(slope) * x)
        assert np.array_equal(through(layers.LeakyReLU(slope), x=x), want)
    assert layers.LeakyReLU().negative_slope == 0.3
    by_name = through(layers.Activation("leaky_relu"), x=x)
    assert by_name.tobytes() == through(layers.LeakyReLU(0.2), x=x).tobytes()


def test_a_softmax_layer_is_fused_with_its_loss_too():
    x, y = rows(37, 5), np.arange(37) % 3

    def trained(*last):
        net = fn.Sequential([layers.Input(5), *last], seed=0)
        net.fit(x, y, epochs=2, seed=1)
        return digest(net)

    together = trained(layers.Dense(3, activation="softmax"))
    assert trained(layers.Dense(3), layers.Softmax()) == together


def test_a_slope_is_trained_with():
    """d sum(leaky(x w)) / dw by hand: with a negative product only the slope is left."""
    net = fn.Sequential(
        [layers.Input(1), layers.Dense(1, use_bias=False), layers.LeakyReLU(0.25)], seed=0
    )
    net.set_weights([np.full((1, 1), -2, np.float32)])
    (gradient,) = fn.Trainer(net, "mse").gradients(np.ones((1, 1)), np.zeros((1, 1)))
    assert gradient.item() == 2 * (0.25 * -2) * 0.25


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: layers.LeakyReLU(-0.1), ValueError, "negative_slope must be a finite number >= 0"),
        (lambda: layers.LeakyReLU(None), TypeError, "negative_slope must be a number"),
        (lambda: layers.Softmax(axis=1), ValueError, "axis of Softmax must be -1, the last axis"),
        (lambda: layers.ReLU(6), TypeError, "positional"),
    ],
)
def test_activation_layers_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_flatten_and_reshape_cost_nothing_and_change_nothing():
    x = np.arange(2 * 12, dtype=np.float32).reshape(2, 3, 4)
    assert through(layers.Flatten(), x=x).tobytes() == x.tobytes()
    assert through(layers.Reshape((4, -1)), x=x).shape == (2, 4, 3)
    assert through(layers.Reshape(12), x=x).shape == (2, 12)
    assert through(layers.Reshape(np.array([3, 4])), x=x).shape == (2, 3, 4)
    assert through(layers.Reshape(np.int64(12)), x=x).shape == (2, 12)
    assert through(layers.Reshape((2, -1, 2)), layers.Flatten(), x=x).tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.bool_, np.float32])
def test_rescale_folded_into_reading_gives_the_same_bits(dtype):
    """First in the network it is done while rows are read; behind Activation it is an op."""
    x = (np.random.default_rng(0).integers(0, 100, (6, 7))).astype(dtype)
    folded = through(layers.Rescale(1 / 255, offset=0.25), x=x)
    apart = through(layers.Activation("relu"), layers.Rescale(1 / 255, offset=0.25), x=x)
    assert folded.tobytes() == apart.tobytes()
    np.testing.assert_allclose(folded, x.astype(np.float64) / 255 + 0.25, rtol=1e-6)


def test_rescales_in_a_row():
    x = rows(4, 3)
    y = through(layers.Rescale(2, 1), layers.Flatten(), layers.Rescale(3, -2), x=x)
    np.testing.assert_allclose(y, (x * 2 + 1) * 3 - 2, rtol=1e-6, atol=1e-6)


def test_dropout_is_the_identity_in_prediction_and_evaluation():
    x = rows(8, 6)
    assert through(layers.Dropout(0.5), x=x).tobytes() == x.tobytes()
    net = classifier(6, dropout=0.7)
    trainer = fn.Trainer(net)
    assert trainer.evaluate(x, np.zeros(8, int)) == trainer.evaluate(x, np.zeros(8, int))


def test_dropout_in_training_scales_what_it_keeps():
    """A linear net of ones sees sum(mask) / (1 - rate); a loss function sees its outputs."""
    seen = []

    def watch(y, y_hat):
        seen.append(y_hat.copy())
        return 0.0, np.zeros_like(y_hat)

    width, rate = 1000, 0.25
    net = fn.Sequential(
        [layers.Input(width), layers.Dropout(rate), layers.Dense(1, kernel_initializer="ones")]
    )
    fn.Trainer(net, watch, "sgd").fit(np.ones((40, width), np.float32), np.zeros(40), epochs=2)
    kept = np.concatenate(seen).ravel() * (1 - rate)
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-2)  # whole numbers of inputs
    assert abs(kept.mean() / width - (1 - rate)) < 0.01
    assert len(set(kept.round())) > 20  # other masks for other rows and steps


def test_dropout_of_0_trains_like_none():
    x, y = rows(), np.arange(37) % 3
    with_layer, without = (
        classifier(dropout=0.0),
        fn.Sequential(
            [
                layers.Input(5),
                layers.Dense(7, activation="tanh"),
                layers.Dense(3, activation="softmax"),
            ],
            seed=0,
        ),
    )
    with_layer.fit(x, y, seed=3)
    without.fit(x, y, seed=3)
    assert digest(with_layer) == digest(without)


# ----------------------------------------------------------------------------- normalization


def test_normalization_adapts_to_offset_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9001, 3)) * [1, 1e-3, 100] + [1e8, 5, -1e4]
    x[0] = 0  # far from the others
    norm = layers.Normalization().adapt(x)
    np.testing.assert_allclose(norm.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(norm.variance, x.var(axis=0), rtol=1e-9)


def test_normalization_computes_and_is_not_trained():
    x = rows(50, 4) * 3 + 7
    x[:, 2] = 5  # constant: its standard deviation counts as 1e-7
    norm = layers.Normalization()
    assert norm.adapt(x) is norm
    net = fn.Sequential([norm, layers.Dense(1)], seed=0)
    got = fn.Sequential([layers.Normalization(norm.mean, norm.variance)]).predict(x)
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(got.std(axis=0), [1, 1, 0, 1], rtol=1e-4)
    net.build(4)
    before = net.get_weights()
    net.fit(x, x[:, 0], loss="mse", optimizer="sgd")
    after = net.get_weights()
    assert [w.shape for w in after] == [(4,), (4,), (4, 1), (1,)]
    assert all((a == b).all() for a, b in zip(before[:2], after[:2], strict=True))
    assert (before[2] != after[2]).any()
    assert np.isfinite(net.predict(x)).all()


def test_normalization_of_sequences_images_and_numbers():
    x = rows(4 * 6 * 2, 3).reshape(8, 6, 3)
    norm = layers.Normalization().adapt(x)
    np.testing.assert_allclose(norm.mean, x.reshape(-1, 3).mean(axis=0), rtol=1e-5, atol=1e-7)
    assert len(layers.Normalization().adapt(x[:, 0, 0]).mean) == 1
    both = fn.Sequential([layers.Normalization(mean=2, variance=4)]).predict(x)
    np.testing.assert_allclose(both, (x - 2) / 2, rtol=1e-6, atol=1e-6)


def test_adapt_again_reaches_a_built_network():
    x = rows(20, 3)
    norm = layers.Normalization().adapt(x)
    net = fn.Sequential([norm])
    before = net.predict(x)
    norm.adapt(x * 10)
    np.testing.assert_allclose(net.predict(x * 10), before, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 features"):
        norm.adapt(rows(5, 4))
    with pytest.raises(ValueError, match="x holds NaN or infinity in row 0, column 0"):
        norm.adapt([[np.nan, 1, 2]])
    with pytest.raises(ValueError, match="x holds NaN or infinity in row 1, column 4, 2"):
        norm.adapt(np.where(np.arange(30) == 29, np.inf, 1).reshape(2, 5, 3))
    with pytest.raises(ValueError, match=r"x holds values of up to 1e\+200, whose variance"):
        norm.adapt([[1e200, 1, 2], [1, 2, 3]])
    np.testing.assert_allclose(net.predict(x * 10), before, rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------- errors

ERRORS = [
    (lambda: layers.Dense(0), ValueError, "units must be an integer >= 1, got 0"),
    (lambda: layers.Dense(-3), ValueError, "units .* -3"),
    (lambda: layers.Dense(2.5), TypeError, "units must be an integer, got 2.5"),
    (lambda: layers.Dense("10"), TypeError, "units must be an integer, got '10'"),
    (lambda: layers.Dense(True), TypeError, "units"),
    (lambda: layers.Dense(3, activation="rleu"), ValueError, "mean 'relu'.*known are .*elu"),
    (lambda: layers.Dense(3, activation=np.tanh), TypeError, "activation must be a name"),
    (lambda: layers.Dense(3, kernel_initializer="he_norml"), ValueError, "he_norml.*he_normal"),
    (lambda: layers.Dense(3, name=""), TypeError, "name must be a text"),
    (lambda: layers.Dense(3, use_bias="no"), TypeError, "use_bias must be True or False, got 'no'"),
    (lambda: layers.Reshape(None), TypeError, "target_shape must be an int or a tuple of ints"),
    (lambda: layers.Activation("reluu"), ValueError, "did you mean 'relu'"),
    (lambda: layers.Dropout(1), ValueError, "rate must be a finite number >= 0 and < 1, got 1"),
    (lambda: layers.Dropout(-0.1), ValueError, "rate"),
    (lambda: layers.Dropout("a"), TypeError, "rate must be a number"),
    (lambda: layers.Rescale(np.nan), ValueError, "scale must be a finite number"),
    (lambda: layers.Input(0), ValueError, r"shape\[0\] must be an integer >= 1"),
    (lambda: layers.Input((28, -1)), ValueError, r"shape\[1\].*got -1"),
    (lambda: layers.Input("784"), TypeError, "int or a tuple of ints"),
    (lambda: layers.Input(()), TypeError, "without the batch axis"),
    (lambda: layers.Input((1, 2, 3, 4, 5, 6, 7)), ValueError, "at most 6 axes"),
    (lambda: layers.Input((2**20, 2**20)), ValueError, "too large"),
    (lambda: layers.Reshape((-1, -1)), ValueError, "one -1"),
    (lambda: layers.Reshape((3, 0)), ValueError, "target_shape"),
    (lambda: layers.Normalization(mean=1), ValueError, "both mean and variance"),
    (lambda: layers.Normalization([1, 2], [1, 2, 3]), ValueError, "one shape"),
    (lambda: layers.Normalization(0, -1), ValueError, "variance must be >= 0"),
    (lambda: layers.Normalization(np.nan, 1), ValueError, "finite"),
    (lambda: layers.Normalization().adapt(np.zeros((0, 3))), ValueError, "at least one row"),
    (lambda: layers.Normalization().adapt([["a"]]), TypeError, "must hold numbers"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, message", ERRORS, ids=range(len(ERRORS)))
def test_bad_parameters(call, error, message):
    with pytest.raises(error, match=message):
        call()


SHAPES = [
    ([layers.Dense(3)], (28, 28), r"layer 'dense': .*\(28, 28\); put Flatten\(\) before it"),
    ([layers.Flatten(), layers.Reshape((5, 5))], (4, 6), r"'reshape': .*24 values.*\(5, 5\)"),
    ([layers.Reshape((5, -1))], 24, "cannot become"),
    ([layers.Input(3), layers.Dense(2)], 4, r"layer 'input': Input wants rows of shape \(3,\)"),
    ([layers.Normalization(), layers.Dense(2)], 4, r"call adapt\(x\)"),
    ([layers.Normalization([1, 2], [1, 1])], 3, "knows 2 features"),
]


@pytest.mark.parametrize("stack, shape, message", SHAPES, ids=range(len(SHAPES)))
def test_shapes_that_do_not_fit_name_the_layer(stack, shape, message):
    with pytest.raises(ValueError, match=message):
        fn.Sequential(stack).build(shape)


def test_reprs_can_be_typed_in_again():
    for layer in (
        layers.Dense(3, activation="relu", use_bias=False, kernel_initializer="he_normal"),
        layers.Dropout(0.2), layers.Flatten(), layers.Reshape((2, -1)), layers.Rescale(0.5, 1),
        layers.Input((3, 4)), layers.Activation("gelu"),
    ):  # fmt: skip
        again = eval(repr(layer), vars(layers))
        assert repr(again) == repr(layer)
        assert again.config() == layer.config()
