"""Losses and weights that are no longer finite: the error names where, good weights are kept."""

import numpy as np
import pytest
from training import classifier, digest, labels, regressor, rows

import fastnet as fn
from fastnet import callbacks, layers, optimizers

X, Y = rows(), labels()


def fit(x=X, y=Y, net=None, **options):
    return (net or classifier()).fit(x, y, **options)


def test_divergence_names_layer_epoch_step_and_keeps_good_weights():
    net = regressor()
    before = digest(net)
    trainer = fn.Trainer(net, "mse", optimizers.SGD(1e6, momentum=0.9))
    x, y = rows(64), rows(64, 1, 4)
    with pytest.raises(
        fn.DivergenceError, match=r"diverged in epoch .*smaller learning rate"
    ) as caught:
        trainer.fit(x, y, epochs=100, batch_size=32)
    error = caught.value
    assert isinstance(error, ArithmeticError)
    assert error.layer in {"dense", "dense_1"}
    assert error.epoch == error.step // 2
    assert 1 < error.step < 100
    assert len(error.history["loss"]) == error.epoch
    assert digest(net) == before  # a fit of less than a second falls back to its start
    assert np.isfinite(net.predict(x)).all()
    calm = fn.Trainer(net, "mse", optimizers.SGD(0.01))
    assert np.isfinite(calm.fit(x, y)["loss"]).all()
    trainer.optimizer.schedule = optimizers.SGD(0.01).schedule
    assert np.isfinite(trainer.fit(x, y, epochs=3)["loss"]).all()  # its slots are fresh


def test_the_layer_that_overflows_first():
    net = fn.Sequential(
        [
            layers.Input(2),
            layers.Dense(3, kernel_initializer="ones", name="calm"),
            layers.Dense(3, kernel_initializer=fn.initializers.Constant(1e30), name="loud"),
            layers.Dense(3, kernel_initializer=fn.initializers.Constant(1e30), name="bursts"),
            layers.Dense(1, name="after"),
        ]
    )
    trainer = fn.Trainer(net, "mse", "sgd")
    x = np.ones((8, 2))
    before = digest(net)
    with pytest.raises(fn.DivergenceError, match="layer 'bursts'") as caught:
        trainer.fit(x, np.ones(8))
    assert (caught.value.layer, caught.value.epoch, caught.value.step) == ("bursts", 0, 0)
    with pytest.raises(fn.DivergenceError, match="layer 'bursts'"):
        trainer.train_on_batch(x, np.ones(8))
    with pytest.raises(fn.DivergenceError, match="layer 'bursts'"):
        trainer.gradients(x, np.ones(8))
    assert digest(net) == before
    assert np.isnan(trainer.evaluate(x, np.ones(8))["loss"])


def test_the_step_of_a_divergence_counts_in_the_fit():
    """Step 3 of 4: the rate is absurd there and its weights are infinite."""
    net = regressor()
    rate = lambda step: 1e38 if step == 7 else 0.01  # noqa: E731
    trainer = fn.Trainer(net, "mse", optimizers.SGD(rate))
    x, y = rows(40), 1e3 * rows(40, 1, 4)
    trainer.fit(x, y, batch_size=10)
    before = digest(net)
    for callback in ((), callbacks.LambdaCallback(on_batch_end=lambda batch, logs: None)):
        trainer.steps = 4
        with pytest.raises(fn.DivergenceError) as caught:
            trainer.fit(x, y, batch_size=10, epochs=2, callbacks=callback)
        assert caught.value.epoch in (0, 1) and caught.value.step in (3, 4)
        assert digest(net) == before


def test_a_loss_function_that_returns_nan():
    net = regressor()
    before = digest(net)
    with pytest.raises(fn.DivergenceError):
        net.fit(X, X[:, 0], loss=lambda y, p: (np.nan, np.zeros_like(p)))
    with pytest.raises(fn.DivergenceError):
        net.fit(X, X[:, 0], loss=lambda y, p: (1.0, np.full_like(p, np.nan)))
    assert digest(net) == before


def test_gradients_that_make_weights_infinite():
    trainer = fn.Trainer(regressor(), "mse", optimizers.SGD(1e10))
    before = digest(trainer.network)
    with pytest.raises(fn.DivergenceError, match="infinite"):
        trainer.apply_gradients([np.full(w.shape, 1e38) for w in trainer.network.get_weights()])
    assert digest(trainer.network) == before
