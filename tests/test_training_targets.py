"""Targets of every form, and weights of rows and classes, as the trainer takes them."""

import numpy as np
import pytest
import reference as ref
from training import (
    assert_close,
    classifier,
    digest,
    each_optimizer,
    labels,
    regressor,
    rows,
    trained,
)

import fastnet as fn
from fastnet import layers

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
