"""The trainer against the float64 reference: every loss, optimizer and metric; losses in Python."""

import numpy as np
import pytest
import reference as ref
from training import (
    assert_close,
    chain,
    classifier,
    digest,
    each_optimizer,
    labels,
    regressor,
    rows,
    trained,
)

import fastnet as fn
from fastnet import layers, losses, metrics, optimizers, schedules

# ---------------------------------------------------------------------------- against the reference

LOSSES = {
    "cross_entropy": ("softmax", lambda: ref.one_hot(labels(), 3)),
    "binary_cross_entropy": ("sigmoid", lambda: ref.one_hot(labels(), 3)),
    "mse": (None, lambda: rows(37, 3, 9)),
    "mae": (None, lambda: rows(37, 3, 9)),
    "huber": (None, lambda: rows(37, 3, 9)),
    "log_cosh": (None, lambda: rows(37, 3, 9)),
    "hinge": ("tanh", lambda: ref.one_hot(labels(), 3) * 2.0 - 1),
    "poisson": ("softplus", lambda: labels(37 * 3, 4).reshape(37, 3)),
    "kl_divergence": ("softmax", lambda: ref.softmax(rows(37, 3, 9))),
}


def test_every_loss_is_listed():
    assert set(LOSSES) == set(ref.LOSSES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_three_steps_of_every_loss(loss, weighted):
    last, make = LOSSES[loss]
    net, x, y = regressor(outputs=3, last=last), rows(), make()
    w = np.random.default_rng(3).uniform(0, 2, 37).astype(np.float32) if weighted else None
    weights, activations = chain(net)
    kinds = ref.train(
        weights, activations, loss, "sgd",
        [tuple(a[i : i + 16] for a in (x, y, w) if a is not None) for i in (0, 16, 32)],
        learning_rate=0.1,
    )  # fmt: skip
    trainer = fn.Trainer(net, loss, optimizers.SGD(0.1))
    history = trainer.fit(x, y, batch_size=16, shuffle=False, sample_weight=w)
    for got, want, start in zip(net.get_weights(), kinds[0], weights, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert np.abs(want - start).max() > 1e-4
    sizes = [16, 16, 5] if w is None else [w[:16].sum(), w[16:32].sum(), w[32:].sum()]
    np.testing.assert_allclose(history["loss"], [np.average(kinds[1], weights=sizes)], rtol=1e-4)
    assert history.steps == trainer.steps == 3


@pytest.mark.parametrize("name", ["SGD", "adam", "adamw", "rmsprop", "adagrad"])
def test_defaults_of_optimizers(name):
    """Named optimizers against the reference with its defaults, which are Keras's."""
    net, x, y = regressor(), rows(), rows(37, 1, 4)
    weights, activations = chain(net)
    want, _ = ref.train(weights, activations, "mse", name.lower(), [(x, y)] * 3)
    fn.Trainer(net, "mse", name).fit(x, y, batch_size="full", epochs=3, shuffle=False)
    for got, wanted in zip(net.get_weights(), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "rate, at",
    [
        (lambda step: 0.1 / (step + 1), lambda step: 0.1 / (step + 1)),
        (schedules.ExponentialDecay(0.2, 2, 0.5), schedules.ExponentialDecay(0.2, 2, 0.5)),
        (np.float32(0.125), lambda step: 0.125),
    ],
    ids=["function", "schedule", "number"],
)
def test_learning_rates_by_step(rate, at):
    net, x, y = regressor(), rows(), rows(37, 1, 4)
    weights, activations = chain(net)
    batches = [(x[i : i + 10], y[i : i + 10]) for i in (0, 10, 20, 30)] * 2
    want, _ = ref.train(weights, activations, "mse", "sgd", batches, learning_rate=at)
    trainer = fn.Trainer(net, "mse", optimizers.SGD(rate))
    trainer.fit(x, y, batch_size=10, shuffle=False)
    trainer.fit(x, y, batch_size=10, shuffle=False)  # the step goes on
    for got, wanted in zip(net.get_weights(), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_global_clipnorm_and_the_other_limits():
    net, x, y = regressor(), rows(), 10 * rows(37, 1, 4)
    weights, activations = chain(net)
    limits = {"l1": 1e-3, "l2": 1e-2, "weight_decay": 0.1, "clipvalue": 0.3}
    want, _ = ref.train(weights, activations, "mse", "sgd", [(x, y)] * 3, learning_rate=0.1,
                        global_clipnorm=0.5, **limits)  # fmt: skip
    optimizer = optimizers.SGD(0.1, global_clipnorm=0.5, **limits)
    fn.Trainer(net, "mse", optimizer).fit(x, y, batch_size=37, epochs=3, shuffle=False)
    for got, wanted in zip(net.get_weights(), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


METRICS = [
    ("softmax", 3, "cross_entropy", ["accuracy", "precision", "recall", "f1"], labels),
    ("softmax", 7, "cross_entropy", ["top_k_accuracy", "mse", "mae", "r2"], lambda: labels(37, 7)),
    (
        "sigmoid",
        1,
        "binary_cross_entropy",
        ["accuracy", "binary_accuracy", "precision", "recall", "f1"],
        lambda: labels(37, 2),
    ),
    ("sigmoid", 3, "binary_cross_entropy", ["binary_accuracy"], lambda: ref.one_hot(labels(), 3)),
    (None, 3, "mse", ["mse", "mae", "r2"], lambda: rows(37, 3, 9)),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("last, outputs, loss, names, make", METRICS, ids=range(len(METRICS)))
def test_metrics_against_the_reference(last, outputs, loss, names, make, weighted):
    net, x, y = regressor(outputs=outputs, last=last, seed=6), rows(), make()
    w = np.random.default_rng(3).uniform(0, 2, 37) if weighted else None
    trainer = fn.Trainer(net, loss, metrics=names)
    got = trainer.evaluate(x, y, w)
    y_hat = net.predict(x).astype(np.float64)
    t = np.asarray(y, np.float64).reshape(y_hat.shape) if np.size(y) == y_hat.size else y
    if outputs > 3:
        t = ref.one_hot(y, outputs)
    for name in names:
        want = ref.METRICS[name](t, y_hat, w)
        assert got[name] == pytest.approx(want, rel=1e-5, abs=1e-6), name
        assert want != 0
    on_batch = trainer.train_on_batch(x, y, w)
    assert on_batch == pytest.approx(got, rel=1e-5)  # before its step
    want = ref.LOSSES[loss].value(
        np.log(y_hat / (1 - y_hat)) if last == "sigmoid" else np.log(y_hat) if last else y_hat,
        ref.one_hot(y, outputs) if np.ndim(y) == 1 and outputs > 1 else t,
        w,
    )
    assert got["loss"] == pytest.approx(want, rel=1e-4)


def test_metrics_of_logits_multi_label():
    net, x = regressor(outputs=3), rows()
    y = (net.predict(x) > 0).astype(int)
    scores = fn.Trainer(net, "binary_cross_entropy", metrics=["binary_accuracy"]).evaluate(x, y)
    assert scores["binary_accuracy"] == 1


def test_metrics_are_sums_over_all_batches_and_runs():
    """Not means of means: an epoch's accuracy with batches of unequal size."""
    net, x, y = classifier(), rows(), labels()
    trainer = fn.Trainer(net, optimizer=optimizers.SGD(0), metrics=["accuracy", "r2"])
    want = trainer.evaluate(x, y)
    for callbacks in ((), fn.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: None)):
        history = trainer.fit(x, y, batch_size=16, callbacks=callbacks)
        assert history["accuracy"] == [pytest.approx(want["accuracy"])]
        assert history["r2"] == [pytest.approx(want["r2"])]
        assert history["loss"] == [pytest.approx(want["loss"])]
    batches = [(x[:16], y[:16]), (x[16:20], y[16:20]), (x[20:], y[20:], np.ones(17))]
    assert trainer.fit(batches)["accuracy"] == [pytest.approx(want["accuracy"])]


def test_metric_names_and_objects():
    names = ["acc", metrics.TopKAccuracy(2), metrics.MeanSquaredError("squares"), "top_k_accuracy"]
    scores = fn.Trainer(classifier(), metrics=names).evaluate(rows(), labels())
    assert list(scores) == ["loss", "accuracy", "top_2_accuracy", "squares", "top_k_accuracy"]
    assert scores["top_k_accuracy"] == 1  # of three classes
    assert fn.Trainer(classifier(), metrics="accuracy").evaluate(rows(), labels()).keys() == {
        "loss", "accuracy",
    }  # fmt: skip


def test_r2_of_one_row_and_constant_targets():
    net, x = regressor(), rows()
    trainer = fn.Trainer(net, "mse", metrics=["r2"])
    assert trainer.evaluate(x, np.full(37, 3.0))["r2"] == 0
    assert trainer.evaluate(x, net.predict(x))["r2"] == 1
    assert trainer.evaluate(x[:1], [3.0])["r2"] == 0
    assert trainer.evaluate(x[:1], net.predict(x[:1]))["r2"] == 1


def test_label_smoothing():
    net, x, y = classifier(), rows(), labels()
    logits = np.log(net.predict(x).astype(np.float64))
    for loss in (losses.CrossEntropy(label_smoothing=0.2), losses.CrossEntropy(0.2)):
        want = ref.LOSSES["cross_entropy"].value(logits, ref.one_hot(y, 3), label_smoothing=0.2)
        for targets in (y, ref.one_hot(y, 3)):
            got = fn.Trainer(net, loss).evaluate(x, targets)["loss"]
            assert got == pytest.approx(want, rel=1e-5)
    net = regressor(last="sigmoid")
    p, y = net.predict(x).astype(np.float64), labels(37, 2)
    want = ref.LOSSES["binary_cross_entropy"].value(
        np.log(p / (1 - p)), y[:, None], label_smoothing=0.1
    )
    got = fn.Trainer(net, losses.BinaryCrossEntropy(label_smoothing=0.1)).evaluate(x, y)
    assert got["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("alias, name", [
    ("sparse_categorical_crossentropy", "cross_entropy"),
    ("categorical_crossentropy", "cross_entropy"),
    ("binary_crossentropy", "binary_cross_entropy"), ("mean_squared_error", "mse"),
    ("mean_absolute_error", "mae"), ("kld", "kl_divergence"), ("logcosh", "log_cosh"),
])  # fmt: skip
def test_names_of_losses_in_keras(alias, name):
    assert losses.get(alias) == losses.get(name)
    assert losses.CategoricalCrossentropy is losses.CrossEntropy
    assert losses.get(losses.Huber) == losses.Huber(1.0) != losses.Huber(2.0)


def test_logits_and_probabilities_train_the_same_bits():
    x, y = rows(), labels()
    logits = regressor(outputs=3)
    assert trained(logits, x, y) == trained(regressor(outputs=3, last="softmax"), x, y)
    apart = fn.Sequential(
        [layers.Input(5), layers.Dense(6, "tanh"), layers.Dense(3), layers.Activation("softmax")],
        seed=0,
    )
    assert trained(apart, x, y) == digest(logits)


def test_outputs_of_several_axes():
    """(n, t, c): rows of the loss are all axes but the last."""
    net = fn.Sequential(
        [layers.Input(5), layers.Dense(12), layers.Reshape((4, 3)), layers.Activation("softmax")],
        seed=0,
    )
    x, y = rows(), labels(37 * 4).reshape(37, 4)
    z = np.log(net.predict(x).astype(np.float64))
    want = ref.LOSSES["cross_entropy"].value(z, ref.one_hot(y, 3))
    trainer = fn.Trainer(net, metrics=["accuracy"])
    for targets in (y, ref.one_hot(y, 3), y[..., None]):
        got = trainer.evaluate(x, targets)
        assert got["loss"] == pytest.approx(want, rel=1e-5)
        assert got["accuracy"] == pytest.approx((z.argmax(axis=-1) == y).mean())
    history = trainer.fit(x, y, epochs=30)
    assert history["loss"][-1] < history["loss"][0] - 0.05
    w = np.r_[np.zeros(7), np.ones(30)]
    assert trainer.evaluate(x, y, w) == pytest.approx(trainer.evaluate(x[7:], y[7:]), rel=1e-5)


# ----------------------------------------------------------------------------- losses in Python


def squared_error(y, y_hat):
    difference = y_hat - y
    return float((difference**2).mean()), 2 * difference / difference.size


@each_optimizer
def test_a_function_trains_like_the_built_in_loss(optimizer):
    x, y = rows(70), rows(70, 3, 4)
    net, other = regressor(outputs=3), regressor(outputs=3)
    options = {"epochs": 2, "seed": 3, "validation_split": 0.2, "metrics": ["mae"]}
    history = net.fit(x, y, loss=squared_error, optimizer=optimizer, **options)
    wanted = other.fit(x, y, loss="mse", optimizer=optimizer, **options)
    assert_close(net, other, rtol=1e-4, atol=1e-5)
    assert list(history) == list(wanted)
    for name in wanted:
        assert history[name] == pytest.approx(wanted[name], rel=1e-4)


def test_a_function_gets_one_hot_classes_and_batches():
    shapes = []

    def loss(y, y_hat):
        shapes.append((y.shape, y_hat.shape, y.dtype))
        assert set(np.unique(y)) <= {0, 1}
        return squared_error(y, y_hat)

    classifier().fit([(rows(8), labels(8)), (rows(5), labels(5))], loss=loss, epochs=2)
    assert [s[0] for s in shapes] == [(8, 3), (5, 3)] * 2
    assert {s[2] for s in shapes} == {np.dtype(np.float32)}


def test_what_a_function_does_to_its_targets_is_its_own():
    """It may compute in place; the caller's array stays, which rows are read from as they lie."""

    def loss(y, y_hat):
        y -= y_hat
        return float(np.mean(y**2)), -2 * y / y.size

    x, y = rows(), np.ascontiguousarray(rows(37, 1, 4))
    before = y.tobytes()
    trainer = fn.Trainer(regressor(), loss)
    trainer.fit(x, y, shuffle=False, epochs=2)
    trainer.evaluate(x, y)
    assert y.tobytes() == before and y.flags.writeable


def test_a_function_that_fails_leaves_a_trainer_that_works():
    """The engine has stopped in the middle of a minibatch then."""
    fail = [False, True]

    def loss(y, y_hat):
        if fail and fail.pop(0):
            raise ZeroDivisionError("mine")
        return squared_error(y, y_hat)

    x, y = rows(), rows(37, 1, 3)
    net, other = regressor(), regressor()
    trainer = fn.Trainer(net, loss, "sgd")
    with pytest.raises(ZeroDivisionError, match="mine"):
        trainer.fit(x, y, batch_size=20, shuffle=False)
    trainer.fit(x[20:], y[20:], batch_size=20, shuffle=False)
    fn.Trainer(other, squared_error, "sgd").fit(x, y, batch_size=20, shuffle=False)
    assert digest(net) == digest(other)
