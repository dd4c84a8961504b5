"""The trainer: what fit, evaluate, train_on_batch and gradients compute, and its same bits."""

import numpy as np
import pytest
import reference as ref
from training import assert_close, classifier, digest, labels, regressor, rows

import fastnet as fn
from fastnet import layers, losses, metrics, optimizers, schedules

OPTIMIZERS = {
    "sgd": optimizers.SGD(0.1),
    "momentum": optimizers.SGD(0.1, momentum=0.9),
    "nesterov": optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": optimizers.Adam(0.01),
    "adamw": optimizers.AdamW(0.01),
    "rmsprop": optimizers.RMSprop(0.01),
    "rmsprop_momentum": optimizers.RMSprop(0.01, momentum=0.8),
    "adagrad": optimizers.Adagrad(0.1),
    "limits": optimizers.SGD(0.1, l1=1e-3, l2=1e-2, weight_decay=0.1, clipvalue=0.02),
    "clipnorm": optimizers.Adam(0.01, global_clipnorm=0.1),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def trained(net, x, y, **options):
    options = {"loss": "cross_entropy", "optimizer": "adam", "seed": 5, **options}
    net.fit(x, y, **options)
    return digest(net)


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


def chain(net):
    weights = [w.astype(np.float64) for w in net.get_weights()]
    return weights, [layer.activation for layer in net.layers if hasattr(layer, "activation")]


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


# ----------------------------------------------------------------------------- targets

CLASS_TARGETS = {
    "int64": lambda y: y, "int32": lambda y: y.astype(np.int32), "uint8": lambda y: y.astype("u1"),
    "int8": lambda y: y.astype("i1"), "uint16": lambda y: y.astype("u2"),
    "uint64": lambda y: y.astype("u8"), "big_endian": lambda y: y.astype(">i4"),
    "float": lambda y: y.astype(float), "float32": lambda y: y.astype("f4"),
    "column": lambda y: y[:, None], "list": lambda y: y.tolist(),
    "strided": lambda y: np.repeat(y, 3)[::3], "objects": lambda y: y.astype(object),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLASS_TARGETS)
def test_labels_of_any_type_give_the_same_bits(kind):
    x, y = rows(), labels()
    given = CLASS_TARGETS[kind](y)
    assert trained(classifier(), x, given) == trained(classifier(), x, y)


def test_one_hot_targets_and_bool():
    x, y = rows(), labels()
    net, other = classifier(), classifier()
    for kind in (np.uint8, np.float32, bool):
        one_hot = ref.one_hot(y, 3).astype(kind)
        assert fn.Trainer(net).evaluate(x, one_hot)["loss"] == pytest.approx(
            fn.Trainer(net).evaluate(x, y)["loss"], rel=1e-6
        )
    net.fit(x, ref.one_hot(y, 3), seed=1)
    other.fit(x, y, seed=1)
    assert_close(net, other)
    two, also_two = classifier(classes=2), classifier(classes=2)
    assert trained(two, x, y > 0) == trained(also_two, x, (y > 0).astype(int))


def test_soft_targets():
    net, x, t = classifier(), rows(), ref.softmax(rows(37, 3, 8))
    want = ref.LOSSES["cross_entropy"].value(np.log(net.predict(x).astype(np.float64)), t)
    assert fn.Trainer(net).evaluate(x, t)["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("loss, last", [("mse", None), ("binary_cross_entropy", "sigmoid")])
def test_a_column_equals_a_vector(loss, last):
    x, y = rows(), labels(37, 2)
    results = {
        trained(regressor(last=last), x, t, loss=loss)
        for t in (y, y[:, None], y.astype(float), y.tolist(), y == 1, y.astype(">f4"))
    }
    assert len(results) == 1


def test_hinge_takes_0_and_1():
    x, y = rows(), labels(37, 2)
    same = {trained(regressor(), x, t, loss="hinge") for t in (y, 2 * y - 1, y == 1)}
    assert len(same) == 1
    with pytest.raises(ValueError, match=r"hinge wants targets -1 and 1"):
        regressor().fit(x, labels(37, 3), loss="hinge")


def test_inputs_are_not_modified():
    x, y, w = rows().astype(np.float64), labels(37, 2).astype(float), np.ones(37)
    before = [a.copy() for a in (x, y, w)]
    for a in (x, y, w):
        a.setflags(write=False)
    for loss in ("hinge", "mse", "binary_cross_entropy"):
        last = "sigmoid" if loss.startswith("b") else None
        trainer = fn.Trainer(regressor(last=last), loss)
        trainer.fit(x, y, sample_weight=w, class_weight={0: 2}, validation_split=0.2)
        trainer.evaluate(x, y, w)
    x32, w32 = x.astype(np.float32), w.astype(np.float32)
    for a in (x32, w32):
        a.setflags(write=False)
    trainer.fit(x32, y, sample_weight=w32)
    assert all((a == b).all() for a, b in zip((x, y, w), before, strict=True))


def test_uint8_images_train_the_bits_of_their_floats():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 6), dtype=np.uint8)
    y, digests = labels(50), set()
    for x in (images, images.astype(np.float32), images.astype(np.int64), images.astype("f8")):
        net = fn.Sequential(
            [layers.Rescale(1 / 255), layers.Flatten(), layers.Dense(9, "relu"), layers.Dense(3)],
            seed=0,
        )
        digests.add(trained(net, x, y))
    assert len(digests) == 1


# ----------------------------------------------------------------------------- weights of rows


@each_optimizer
def test_weight_0_is_a_row_removed(optimizer):
    """The last rows of the only batch: the others keep their places."""
    x, y = rows(40), labels(40)
    w = np.ones(40, np.float32)
    w[30:] = 0
    weighted, removed, ones = (classifier() for _ in range(3))
    options = {"optimizer": optimizer, "batch_size": 40, "shuffle": False, "epochs": 3}
    weighted.fit(x, y, sample_weight=w, **options)
    removed.fit(x[:30], y[:30], sample_weight=w[:30], **options)
    assert_close(weighted, removed, rtol=1e-4, atol=1e-5)
    ones.fit(x[:30], y[:30], **options)
    assert digest(ones) == digest(removed)


def test_weight_0_anywhere():
    x, y = rows(40), labels(40)
    w = np.random.default_rng(0).integers(0, 2, 40)
    nets = classifier(), classifier()
    history = nets[0].fit(x, y, sample_weight=w, batch_size=40, epochs=5, optimizer="sgd")
    other = nets[1].fit(x[w == 1], y[w == 1], batch_size=40, epochs=5, optimizer="sgd")
    assert history["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert_close(*nets, rtol=1e-4, atol=1e-5)
    scores = fn.Trainer(nets[0], metrics=["accuracy", "f1"])
    assert scores.evaluate(x, y, w) == pytest.approx(
        scores.evaluate(x[w == 1], y[w == 1]), rel=1e-5
    )


def test_a_batch_without_any_weight_teaches_nothing():
    x, y = rows(40), labels(40)
    net, other = classifier(), classifier()
    w = np.r_[np.ones(20), np.zeros(20)]
    options = {"batch_size": 20, "shuffle": False, "optimizer": "sgd"}
    history = net.fit(x, y, sample_weight=w, **options)
    other.fit(x[:20], y[:20], **options)
    assert digest(net) == digest(other)
    assert np.isfinite(history["loss"]).all()


def test_class_weight_is_a_weight_of_rows():
    x, y = rows(), labels()
    table = {0: 0.5, 2: 3}
    w = np.array([0.5, 1, 3], np.float32)[y]
    by_class = trained(classifier(), x, y, class_weight=table)
    assert by_class == trained(classifier(), x, y, sample_weight=w)
    assert by_class != trained(classifier(), x, y)
    own = np.linspace(0.5, 2, 37)
    both = trained(classifier(), x, y, class_weight=table, sample_weight=own)
    assert both == trained(classifier(), x, y, sample_weight=w * own.astype(np.float32))


def test_balanced_class_weight():
    x, y = rows(), np.r_[np.zeros(30, int), np.full(7, 2)]
    w = np.where(y == 0, 37 / (2 * 30), 37 / (2 * 7))
    assert trained(classifier(), x, y, class_weight="balanced") == trained(
        classifier(), x, y, sample_weight=w
    )
    y, w = y // 2, np.where(y == 0, 37 / (2 * 30), 37 / (2 * 7))
    for loss in ("binary_cross_entropy", "hinge"):
        assert trained(regressor(), x, y, loss=loss, class_weight="balanced") == trained(
            regressor(), x, y, loss=loss, sample_weight=w
        )


def test_class_weight_leaves_validation_alone():
    x, y = rows(), labels()
    net = classifier()
    trainer = fn.Trainer(net)
    history = trainer.fit(x, y, validation_split=0.25, class_weight={0: 9})
    assert history["val_loss"] == [trainer.evaluate(x[27:], y[27:])["loss"]]


# ----------------------------------------------------------------------------- order and continuing


def test_defaults_of_fit():
    """batch_size 32, one epoch, shuffled, adam, cross-entropy, the network's seed."""
    x, y = rows(70), labels(70)
    net, other = classifier(seed=4), classifier(seed=4)
    assert len(net.fit(x, y)["loss"]) == 1
    fn.Trainer(other, "cross_entropy", optimizers.Adam(0.001)).fit(
        x, y, batch_size=32, epochs=1, shuffle=True, seed=4, progress="auto"
    )
    assert digest(net) == digest(other)


def test_seeds():
    x, y = rows(70), labels(70)
    assert trained(classifier(), x, y, seed=1) == trained(classifier(), x, y, seed=1)
    assert trained(classifier(), x, y, seed=1) != trained(classifier(), x, y, seed=2)
    assert trained(classifier(), x, y, seed=1) != trained(classifier(), x, y, shuffle=False)
    dropped = [trained(classifier(dropout=0.5), x, y, seed=s, shuffle=False) for s in (1, 1, 2)]
    assert dropped[0] == dropped[1] != dropped[2]


def test_shuffling_visits_every_row_once_in_another_order_each_epoch():
    seen = []

    def watch(y, y_hat):
        seen.append(y.ravel().copy())
        return 0.0, np.zeros_like(y_hat)

    n = 50
    fn.Trainer(regressor(), watch, "sgd").fit(rows(n), np.arange(n), batch_size=8, epochs=3)
    epochs = np.concatenate(seen).reshape(3, n)
    assert [len(s) for s in seen[:7]] == [8] * 6 + [2]
    for order in epochs:
        assert sorted(order) == list(range(n))
    assert len({tuple(order) for order in [*epochs, np.arange(n)]}) == 4


@each_optimizer
def test_a_second_fit_continues(optimizer):
    x, y = rows(70), labels(70)
    once, twice = classifier(dropout=0.3), classifier(dropout=0.3)
    fn.Trainer(once, "cross_entropy", optimizer).fit(x, y, epochs=3)
    trainer = fn.Trainer(twice, "cross_entropy", optimizer)
    trainer.fit(x, y)
    trainer.fit(x, y, epochs=0)
    trainer.fit(x, y, epochs=2)
    assert digest(once) == digest(twice)
    assert len(trainer.history["loss"]) == 3 and trainer.epochs == 3


def test_a_new_trainer_starts_fresh_slots():
    x, y = rows(70), labels(70)
    continued, fresh, by_hand = classifier(), classifier(), classifier()
    trainer = fn.Trainer(continued)
    for _ in range(2):
        trainer.fit(x, y, seed=0, shuffle=False)
        fn.Trainer(fresh).fit(x, y, seed=0, shuffle=False)
    assert digest(continued) != digest(fresh)
    by_hand.fit(x, y, shuffle=False)
    again = classifier()
    again.set_weights(by_hand.get_weights())
    again.fit(x, y, shuffle=False)
    assert digest(again) == digest(fresh)


@pytest.mark.parametrize("second", ["sgd", "adam", "rmsprop"])
def test_two_trainers_in_turn_keep_their_slots(second):
    """Also when one needs fewer: their slots live in the network's params one at a time."""
    x, y = rows(), labels()
    net = classifier()
    adam, other = fn.Trainer(net, optimizer="adam"), fn.Trainer(net, optimizer=second)
    adam.fit(x, y)
    middle = net.get_weights()
    other.fit(x, y)
    other.fit(x, y)
    net.set_weights(middle)
    adam.fit(x, y)
    alone = classifier()
    fn.Trainer(alone, optimizer="adam").fit(x, y, epochs=2)
    assert digest(net) == digest(alone)


def test_batch_size_full_and_larger_than_the_data():
    x, y = rows(), labels()
    same = {trained(classifier(), x, y, batch_size=b, shuffle=False) for b in (37, "full", 1000)}
    assert len(same) == 1
    assert trained(classifier(), x, y, batch_size=np.int32(37), shuffle=False) in same


@pytest.mark.parametrize("n, classes", [(1, 3), (33, 2), (64, 3), (65, 3)])
def test_odd_numbers_of_rows(n, classes):
    x, y = rows(n), labels(n, classes)
    net = classifier(classes=classes)
    history = net.fit(x, y, epochs=3)
    assert len(history["loss"]) == 3 and np.isfinite(history["loss"]).all()
    assert history.steps == 3 * -(-n // 32)


def test_labels_of_one_class_only():
    history = classifier().fit(rows(), np.full(37, 2), epochs=5, metrics=["accuracy", "f1"])
    assert history["loss"][-1] < history["loss"][0]


# ----------------------------------------------------------------------------- validation


def test_validation_data_and_split():
    x, y = rows(100), labels(100)
    net, other = classifier(), classifier()
    options = {"seed": 1, "metrics": ["accuracy"], "epochs": 2}
    split = net.fit(x, y, validation_split=0.2, **options)
    given = other.fit(x[:80], y[:80], validation_data=(x[80:], y[80:]), **options)
    assert digest(net) == digest(other) and split == given
    assert list(given) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    scores = fn.Trainer(net, metrics=["accuracy"]).evaluate(x[80:], y[80:])
    assert split["val_loss"][-1] == scores["loss"]
    assert split["val_accuracy"][-1] == scores["accuracy"]


def test_validation_changes_nothing_and_takes_weights_and_other_forms():
    x, y = rows(70), labels(70)
    net, other = classifier(dropout=0.4), classifier(dropout=0.4)
    trainer = fn.Trainer(net)
    w = np.linspace(0, 1, 10)
    history = trainer.fit(x, y, validation_data=[x[:10].tolist(), ref.one_hot(y[:10], 3), w])
    fn.Trainer(other).fit(x, y)
    assert digest(net) == digest(other)
    assert history["val_loss"][0] == pytest.approx(
        trainer.evaluate(x[:10], y[:10], w)["loss"], rel=1e-6
    )


def test_evaluate_in_several_runs(monkeypatch):
    from fastnet.lowering import Lowered

    trainer = fn.Trainer(classifier(), metrics=["accuracy", "f1"])
    x, y, w = rows(3000), labels(3000), np.random.default_rng(0).random(3000)
    at_once = trainer.evaluate(x, y, w)
    monkeypatch.setattr(Lowered, "steps_a_run", lambda self, batch: 1)
    assert trainer.evaluate(x, y, w) == pytest.approx(at_once, rel=1e-12)
    x[2999, 2] = np.nan
    with pytest.raises(ValueError, match="row 2999, column 2"):
        trainer.evaluate(x, y, w)


# ----------------------------------------------------------------------------- batches


@each_optimizer
def test_a_list_of_batches_trains_the_bits_of_the_array(optimizer):
    x, y = rows(70), labels(70)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in (0, 32, 64)]
    net, other = classifier(dropout=0.2), classifier(dropout=0.2)
    history = fn.Trainer(net, "cross_entropy", optimizer, ["accuracy"]).fit(batches, epochs=2)
    wanted = fn.Trainer(other, "cross_entropy", optimizer, ["accuracy"]).fit(
        x, y, shuffle=False, epochs=2
    )
    assert digest(net) == digest(other)
    assert history["loss"] == pytest.approx(wanted["loss"])
    assert history["accuracy"] == pytest.approx(wanted["accuracy"])
    assert history.steps == 6


def test_generators_take_nothing_ahead():
    taken = []

    def batches():
        for i in range(100):
            taken.append(i)
            yield rows(8, seed=i), labels(8, seed=i)

    stream = batches()
    trainer = fn.Trainer(classifier())
    history = trainer.fit(stream, epochs=2, steps_per_epoch=3)
    assert (history.steps, len(history["loss"]), taken) == (6, 2, list(range(6)))
    trainer.fit(stream, steps_per_epoch=2)
    assert taken == list(range(8))
    whole = classifier()
    fn.Trainer(whole).fit([(rows(8, seed=i), labels(8, seed=i)) for i in range(8)])
    assert digest(whole) == digest(trainer.network)


def test_a_generator_that_runs_dry():
    stream = ((rows(8, seed=i), labels(8, seed=i)) for i in range(5))
    with pytest.warns(RuntimeWarning, match="no more batches after 2 of 4 epochs"):
        history = classifier().fit(stream, epochs=4, steps_per_epoch=3)
    assert (history.steps, len(history["loss"])) == (5, 2)
    with pytest.raises(ValueError, match="cannot start again for 2 epochs: give steps_per_epoch"):
        classifier().fit(((rows(8), labels(8)) for i in range(5)), epochs=2)
    with pytest.raises(ValueError, match="iterable of batches is empty"):
        classifier().fit(iter([]))


def test_a_list_starts_again_for_its_steps():
    batches = [(rows(8, seed=i), labels(8, seed=i)) for i in range(3)]
    net, other = classifier(), classifier()
    assert net.fit(batches, epochs=2, steps_per_epoch=4).steps == 8
    other.fit((batches * 3)[:8], optimizer="adam")
    assert digest(net) == digest(other)


def test_batches_of_many_kinds_need_few_plans():
    net = classifier()
    sizes = np.random.default_rng(0).integers(0, 60, 150)
    batches = [(rows(n, seed=int(n)), labels(n)) for n in sizes]
    batches += [
        (rows(9), labels(9), np.arange(1, 10)),
        (rows(9).tolist(), ref.one_hot(labels(9), 3)),
    ]
    history = fn.Trainer(net, metrics=["accuracy"]).fit(batches)
    assert history.steps == (sizes > 0).sum() + 2
    assert len(net._plans) < 20
    assert 0 < history["accuracy"][0] < 1


def test_batches_build_the_network_and_validate():
    net = fn.Sequential([layers.Dense(3)], seed=0)
    batches = [(rows(8, seed=i), labels(8, seed=i)) for i in range(3)]
    history = fn.Trainer(net).fit(batches, validation_data=batches[0])
    assert list(history) == ["loss", "val_loss"]


# ----------------------------------------------------------------------------- single steps


@each_optimizer
def test_train_on_batch_is_a_step_of_fit(optimizer):
    x, y = rows(70), labels(70)
    net, other = classifier(dropout=0.2), classifier(dropout=0.2)
    trainer = fn.Trainer(net, "cross_entropy", optimizer)
    logs = [trainer.train_on_batch(x[i : i + 35], y[i : i + 35]) for i in (0, 35)]
    history = fn.Trainer(other, "cross_entropy", optimizer).fit(x, y, batch_size=35, shuffle=False)
    assert digest(net) == digest(other)
    assert history["loss"] == [pytest.approx(np.mean([one["loss"] for one in logs]))]
    assert trainer.steps == 2 and trainer.history == {}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@each_optimizer
def test_gradients_and_apply_are_the_bits_of_a_fused_step(optimizer, dropout):
    x, y = rows(), labels()
    net, other = classifier(dropout=dropout), classifier(dropout=dropout)
    trainer, fused = (fn.Trainer(n, "cross_entropy", optimizer) for n in (net, other))
    for _ in range(3):
        before = digest(net)
        gradients = trainer.gradients(x, y)
        assert digest(net) == before
        trainer.apply_gradients(gradients)
        fused.train_on_batch(x, y)
        assert digest(net) == digest(other)
    trainer.fit(x, y, epochs=2)
    fused.fit(x, y, epochs=2)
    assert digest(net) == digest(other)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_against_the_reference(weighted):
    net, x, y = classifier(), rows(), labels()
    w = np.linspace(0, 3, 37) if weighted else None
    weights, activations = chain(net)
    _, want = ref.gradients(
        weights, [a for a in activations if a], "cross_entropy", x, ref.one_hot(y, 3), w
    )
    for got, wanted in zip(fn.Trainer(net).gradients(x, y, w), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
        assert got.dtype == np.float32 and np.abs(wanted).max() > 1e-3


def test_gradients_of_weights_that_are_not_trained_are_zeros():
    x = rows()
    net = fn.Sequential([layers.Normalization().adapt(x), layers.Dense(3)], seed=0)
    trainer = fn.Trainer(net)
    gradients = trainer.gradients(x, labels())
    assert [g.shape for g in gradients] == [(5,), (5,), (5, 3), (3,)]
    assert not gradients[0].any() and not gradients[1].any() and gradients[2].any()
    before = net.get_weights()
    gradients[0] += 1
    trainer.apply_gradients(gradients)
    after = net.get_weights()
    assert (before[0] == after[0]).all() and (before[2] != after[2]).any()


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
