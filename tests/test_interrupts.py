"""Ctrl-C in fits, evaluation and prediction."""

import signal
import threading
import time

import numpy as np
import pytest
from training import classifier, digest, labels, rows

import fastnet as fn
from fastnet import callbacks, layers

X, Y = rows(), labels()


def fit(x=X, y=Y, net=None, **options):
    return (net or classifier()).fit(x, y, **options)


def interrupted(trainer, *data, callback=None, **options):
    """A fit that gets a SIGINT 0.3 s after its begin; its history and how long it then went on."""
    sent = []

    def send():
        sent.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.3, send)
    begin = callbacks.LambdaCallback(on_train_begin=lambda logs: timer.start())
    with pytest.warns(RuntimeWarning, match=r"interrupted after .* steps; the network keeps"):
        history = trainer.fit(*data, callbacks=[begin, *filter(None, [callback])], **options)
    timer.join()
    return history, time.perf_counter() - sent[0]


FITS = {
    "arrays": lambda: ((rows(5000), labels(5000)), {}),
    "batch_1": lambda: ((rows(5000), labels(5000)), {"batch_size": 1}),
    "batches": lambda: ([[(rows(50), labels(50))] * 50], {}),
    "batch_events": lambda: (
        (rows(5000), labels(5000)),
        {"callback": callbacks.LambdaCallback(on_batch_end=lambda batch, logs: None)},
    ),
    "validation": lambda: (
        (rows(64), labels(64)), {"validation_data": (rows(100_000), labels(100_000))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FITS)
def test_ctrl_c_ends_a_fit_with_a_usable_network_and_history(kind):
    data, options = FITS[kind]()
    trainer = fn.Trainer(classifier(), metrics=["accuracy"])
    before = digest(trainer.network)
    history, seconds = interrupted(trainer, *data, epochs=10**6, progress=False, **options)
    assert seconds < 1
    assert history.interrupted
    assert 0 < len(history["loss"]) < 10**6
    assert len(history["loss"]) == len(history["accuracy"]) == len(trainer.history["loss"])
    assert history.steps == trainer.steps > 0
    assert np.isfinite(history["loss"]).all()
    assert digest(trainer.network) != before
    assert np.isfinite(trainer.predict(rows())).all()
    assert not trainer.fit(rows(), labels()).interrupted


def test_ctrl_c_calls_train_end_and_closes_the_bar(capfd):
    seen = []
    callback = callbacks.LambdaCallback(on_train_end=seen.append)
    trainer = fn.Trainer(classifier())
    history, _ = interrupted(
        trainer, rows(5000), labels(5000), epochs=10**6, callback=callback, progress=True
    )
    assert seen == [{k: v[-1] for k, v in history.items()}]
    assert "samples/s" in capfd.readouterr().err


def test_ctrl_c_in_a_long_step_waits_for_its_end_only():
    """A large network: runs are sized from its arithmetic before the first is timed."""
    net = fn.Sequential(
        [layers.Input(600), layers.Dense(900, "relu"), layers.Dense(900, "relu"), layers.Dense(9)]
    )
    trainer = fn.Trainer(net, optimizer="sgd")
    history, seconds = interrupted(
        trainer, rows(30_000, 600), labels(30_000, 9), epochs=1000, progress=False
    )
    assert seconds < 1 and history.steps < 1000 * 938


def test_ctrl_c_in_predict_and_evaluate_is_a_keyboard_interrupt():
    net, x = classifier(200, hidden=500), rows(60_000, 200)
    trainer = fn.Trainer(net)
    for call in (lambda: net.predict(x), lambda: trainer.evaluate(x, labels(60_000))):
        timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            while True:
                call()
        timer.join()
        assert net.predict(x[:3]).shape == (3, 3)
