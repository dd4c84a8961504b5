"""Networks with batch normalisation: statistics of the whole batch change no promise."""

import numpy as np
import pytest
from twin import Twin, assert_alike

import fastnet as fn
from fastnet import layers


def rows(n, shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *shape)).astype(np.float32), rng.integers(4, size=n)


def pictures():
    return fn.Sequential(
        [
            layers.Conv2D(6, 3, use_bias=False),
            layers.BatchNorm(momentum=0.8),
            layers.Activation("relu"),
            layers.MaxPool2D(2),
            layers.Conv2D(5, 3, padding="same", use_bias=False),
            layers.BatchNorm(momentum=0.8, scale=False),
            layers.Activation("relu"),
            layers.GlobalAvgPool2D(),
            layers.Dense(4, "softmax"),
        ],
        seed=1,
    ), (9, 7, 3)


def numbers():
    return fn.Sequential(
        [
            layers.BatchNorm(momentum=0.8, center=False),
            layers.Dense(140, use_bias=False),
            layers.BatchNorm(momentum=0.8),
            layers.Activation("tanh"),
            layers.Dense(4, "softmax"),
        ],
        seed=1,
    ), (131,)


def trained(make, threads, n=70, batch=32, epochs=2, **options):
    net, shape = make()
    x, y = rows(n, shape)
    with fn.threads(threads):
        fn.Trainer(net, optimizer="adam", **options).fit(
            x, y, batch_size=batch, epochs=epochs, seed=3
        )
    return net


@pytest.mark.parametrize("make", [pictures, numbers])
@pytest.mark.parametrize("lanes", [1, 3])
def test_same_bits_for_any_number_of_threads(level, always_thread, make, lanes):
    want = trained(make, 1, lanes=lanes).get_weights()
    for threads in (2, 3, 4, 8):
        got = trained(make, threads, lanes=lanes).get_weights()
        for a, b in zip(want, got, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("make", [pictures, numbers])
def test_weights_lie_as_in_keras_and_statistics_move(make):
    net, shape = make()
    net.build(shape)
    names = [weight.name for _, weight in net._weight_list()]
    i = names.index("beta")
    assert "gamma" in names
    assert names[i + 1 : i + 3] == ["moving_mean", "moving_variance"]
    before = net.get_weights()
    assert not before[i + 1].any()
    assert (before[i + 2] == 1).all()
    after = trained(make, 1).get_weights()
    for a, b in zip(before, after, strict=True):
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("make", [pictures, numbers])
def test_prediction_uses_moving_statistics_row_by_row(level, make):
    net = trained(make, 2)
    x, y = rows(23, net.input_shape, seed=5)
    whole = net.predict(x)
    for i in (0, 7, 22):
        assert np.array_equal(net.predict(x[i : i + 1])[0], whole[i])
    share = (net.predict_classes(x) == y).mean()
    before = net.get_weights()
    assert fn.Trainer(net, metrics=["accuracy"]).evaluate(x, y)["accuracy"] == pytest.approx(share)
    for a, b in zip(before, net.get_weights(), strict=True):
        assert np.array_equal(a, b)


def training_loss(net, x, y):
    """The loss as a step of training sees it."""
    trainer = fn.Trainer(net, optimizer=fn.optimizers.SGD(1e-30))
    return trainer.fit(x, y, batch_size="full", epochs=1)["loss"][0]


@pytest.mark.parametrize("make", [pictures, numbers])
def test_gradients_are_those_of_central_differences(make):
    net, shape = make()
    net.build(shape)
    rng = np.random.default_rng(2)
    net.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in net.get_weights()])
    x, y = rows(12, shape, seed=4)
    gradients = fn.Trainer(net).gradients(x, y)
    start = net.get_weights()
    checked = 0
    for i, (_, weight) in enumerate(net._weight_list()):
        if not weight.trainable:
            continue
        assert np.abs(gradients[i]).max() > 1e-4
        direction = np.sign(gradients[i]) * 0.02 / np.sqrt(gradients[i].size)
        sides = []
        for sign in (1, -1):
            net.set_weights([w + sign * direction if j == i else w for j, w in enumerate(start)])
            sides.append(training_loss(net, x, y))
        slope = (sides[0] - sides[1]) / 2
        assert slope == pytest.approx((gradients[i] * direction).sum(), rel=0.05, abs=2e-5)
        checked += 1
    assert checked >= 4


def test_padding_of_rows_has_no_part_in_the_norm_of_gradients(level):
    """5 units end in half a vector; clipped to a norm of 0.1, a step of SGD is 0.1 long."""
    net = fn.Sequential([layers.Dense(5), layers.BatchNorm(), layers.Dense(3)], seed=1)
    net.build((7,))
    x, target = np.random.default_rng(0).standard_normal((2, 13, 7)).astype(np.float32)
    before = net.get_weights()
    optimizer = fn.optimizers.SGD(1.0, global_clipnorm=0.1)
    fn.Trainer(net, loss="mse", optimizer=optimizer).train_on_batch(x, target[:, :3])
    moved = [
        after.astype(np.float64) - start
        for after, start, (_, w) in zip(net.get_weights(), before, net._weight_list(), strict=True)
        if w.trainable
    ]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.1, rel=1e-5)


def test_saved_and_loaded(tmp_path):
    net = trained(pictures, 1)
    x, _ = rows(5, net.input_shape)
    net.save(tmp_path / "net.safetensors")
    assert np.array_equal(fn.load(tmp_path / "net.safetensors").predict(x), net.predict(x))


# ----------------------------------------------------------------------------- folded


def randomised(net, shape, seed=0):
    """Built, all weights drawn anew: variances are positive, gammas of both signs."""
    rng = np.random.default_rng(seed)
    net.build(shape)
    names = [weight.name for _, weight in net._weight_list()]
    net.set_weights(
        [
            rng.uniform(0.3, 2, w.shape)
            if name == "moving_variance"
            else rng.normal(0, 0.7, w.shape)
            for name, w in zip(names, net.get_weights(), strict=True)
        ]
    )
    return net


def scales_left(net):
    """Batch normalisations that the plan of a prediction runs as ops of their own."""
    return net._plan(fn.lowering.prediction(8)).plan.schedule().count("batch_norm")


def conv(**options):
    return layers.Conv2D(**{"filters": 9, "kernel_size": 3, "padding": "same"} | options)


FOLDED = {
    "conv": ((7, 5, 3), lambda: [conv(), layers.BatchNorm(), layers.Activation("relu")]),
    "no bias, padding that differs": ((7, 5, 3), lambda: [
        conv(use_bias=False, padding=((2, 0), (1, 3)), strides=2), layers.BatchNorm(scale=False)]),
    "groups": ((7, 5, 4), lambda: [conv(filters=34, groups=2), layers.BatchNorm(center=False)]),
    "sequence": ((11, 3), lambda: [layers.Conv1D(17, 3), layers.BatchNorm()]),
    "depthwise": ((7, 5, 3), lambda: [
        layers.DepthwiseConv2D(3, depth_multiplier=11), layers.BatchNorm()]),
    "dense": ((13,), lambda: [layers.Dense(35), layers.BatchNorm(), layers.Activation("tanh")]),
    "dense without bias": ((13,), lambda: [layers.Dense(3, use_bias=False), layers.BatchNorm()]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDED)
def test_prediction_folds_it_into_the_layer_before(level, always_thread, kind):
    shape, make = FOLDED[kind]
    net = randomised(fn.Sequential(make(), seed=1), shape)
    x, _ = rows(8, shape)
    assert scales_left(net) == 0
    want = net.predict(x)
    assert_alike(want, Twin(net).predict(x), 4e-6, kind)
    for threads in (2, 3, 8):
        with fn.threads(threads):
            assert net.predict(x).tobytes() == want.tobytes()
    for i in (0, 5, 7):
        assert net.predict(x[i : i + 1]).tobytes() == want[i : i + 1].tobytes()
    assert net.predict(x, batch_size=3).tobytes() == want.tobytes()


def test_weights_that_change_are_folded_again(level):
    shape, make = FOLDED["conv"]
    layer = [*make(), layers.GlobalAvgPool2D(), layers.Dense(4, "softmax")]
    net = randomised(fn.Sequential(layer, seed=1), shape)
    x, y = rows(40, shape)
    seen = []

    def check():
        got = net.predict(x[:6])
        assert_alike(got, Twin(net).predict(x[:6]), 4e-6)
        assert_alike(net.predict(x[:1]), Twin(net).predict(x[:1]), 4e-6)
        assert not any(np.array_equal(got, before) for before in seen)
        seen.append(got)

    check()
    trainer = fn.Trainer(net, optimizer="adam")
    for _ in range(2):
        trainer.fit(x, y, batch_size=8, epochs=1)
        check()
    for i in range(6):  # kernel, bias, gamma, beta, moving mean, moving variance
        net.set_weights([w * 1.5 if j == i else w for j, w in enumerate(net.get_weights())])
        check()


def test_validation_sees_the_weights_of_its_epoch(level):
    shape, make = FOLDED["conv"]
    layer = [*make(), layers.GlobalAvgPool2D(), layers.Dense(4)]
    net = randomised(fn.Sequential(layer, seed=1), shape)
    x, y = rows(40, shape)
    trainer = fn.Trainer(net, loss="mse", optimizer="adam")
    for _ in range(3):
        history = trainer.fit(x, np.eye(4)[y], epochs=1, validation_data=(x, np.eye(4)[y]))
        want = ((Twin(net).predict(x) - np.eye(4)[y]) ** 2).mean()
        assert history["val_loss"][-1] == pytest.approx(want, rel=1e-5)


def test_networks_that_share_a_layer_each_fold_their_own():
    shape, shared = (7, 5, 3), conv()
    x = fn.Input(shape)
    one, two = (fn.Model(x, layers.BatchNorm()(shared(x)), seed=seed) for seed in (1, 2))
    randomised(one, shape)
    randomised(two, shape, seed=5)  # the kernel of both, and a scale of its own
    x, _ = rows(4, shape)
    for net in (one, two, one):
        assert scales_left(net) == 0
        assert_alike(net.predict(x), Twin(net).predict(x), 4e-6)


def twice(first):
    """A graph in which `first` is called twice, each time with a BatchNorm of its own."""
    a, b = fn.Input((7, 5, 3)), fn.Input((7, 5, 3))
    inside = [layers.BatchNorm()(first(x)) for x in (a, b)]
    return fn.Model([a, b], layers.Add()(inside))


def beside():
    """What the convolution gives is read by others as well."""
    x = fn.Input((7, 5, 3))
    y = conv()(x)
    return fn.Model(x, layers.Add()([y, layers.BatchNorm()(y)]), seed=1)


NOT_FOLDED = {
    "an activation between": lambda: fn.Sequential([conv(activation="relu"), layers.BatchNorm()]),
    "a pool between": lambda: fn.Sequential([conv(), layers.MaxPool2D(), layers.BatchNorm()]),
    "nothing before": lambda: fn.Sequential([layers.BatchNorm(), conv()]),
    "other readers": beside,
    "a transposed convolution": lambda: fn.Sequential(
        [layers.Conv2DTranspose(9, 3), layers.BatchNorm()]
    ),
}


@pytest.mark.parametrize("kind", NOT_FOLDED)
def test_what_cannot_be_folded_is_not(level, kind):
    net = randomised(NOT_FOLDED[kind](), (7, 5, 3))
    x, _ = rows(8, (7, 5, 3))
    assert scales_left(net) == 1
    assert_alike(net.predict(x), Twin(net).predict(x), 4e-6, kind)
    assert net.predict(x[5:6]).tobytes() == net.predict(x)[5:6].tobytes()


def test_a_layer_called_twice_is_not_folded(level):
    net = randomised(twice(conv()), None)
    x, _ = rows(8, (2, 7, 5, 3))
    assert scales_left(net) == 2
    weights = [w.astype(np.float64) for w in net.get_weights()]
    parts = []
    for i, image in enumerate((x[:, 0], x[:, 1])):
        alone = fn.Sequential([conv(), layers.BatchNorm()])
        alone.build((7, 5, 3))
        alone.set_weights(weights[:2] + weights[2 + 4 * i : 6 + 4 * i])
        parts.append(Twin(alone).predict(image))
    assert_alike(net.predict([x[:, 0], x[:, 1]]), sum(parts), 4e-6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="momentum"):
        layers.BatchNorm(momentum=1.5)
    with pytest.raises(ValueError, match="epsilon"):
        layers.BatchNorm(epsilon=0)
    with pytest.raises(ValueError, match="last axis only"):
        fn.Sequential([layers.Input((4, 3)), layers.BatchNorm(axis=1)]).build((4, 3))
    assert layers.BatchNormalization is layers.BatchNorm
