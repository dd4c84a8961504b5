"""The trainer: order of rows, going on, validation, batches and single steps, and the same bits."""

import numpy as np
import pytest
import reference as ref
from training import (
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
from fastnet import layers, optimizers

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
    stream = ((rows(8, seed=i), labels(8, seed=i)) for i in range(5))
    with pytest.warns(RuntimeWarning, match="the last epoch is 1 short of steps_per_epoch"):
        assert classifier().fit(stream, epochs=2, steps_per_epoch=3).steps == 5
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
