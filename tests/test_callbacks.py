"""Callbacks, history and progress: what is called when, what ends a fit, and what remains."""

import io
import sys
import time

import numpy as np
import pytest
from training import classifier, digest, labels, regressor, rows

import fastnet as fn
from fastnet import callbacks, progress
from fastnet.callbacks import Callback, EarlyStopping, LambdaCallback, ModelCheckpoint
from fastnet.history import History


class Recorder(Callback):
    """Writes down every event."""

    def __init__(self):
        self.events = []

    def on_train_begin(self, logs):
        self.events.append(("train_begin", dict(logs)))

    def on_train_end(self, logs):
        self.events.append(("train_end", dict(logs)))

    def on_epoch_begin(self, epoch, logs):
        self.events.append(("epoch_begin", epoch, dict(logs)))

    def on_epoch_end(self, epoch, logs):
        self.events.append(("epoch_end", epoch, dict(logs)))


class BatchRecorder(Recorder):
    def on_batch_begin(self, batch, logs):
        self.events.append(("batch_begin", batch, dict(logs)))

    def on_batch_end(self, batch, logs):
        self.events.append(("batch_end", batch, dict(logs)))


def fitted(callback, **options):
    net = classifier()
    options = {"epochs": 2, "batch_size": 20, **options}
    trainer = fn.Trainer(net, metrics=["accuracy"])
    history = trainer.fit(rows(), labels(), callbacks=callback, **options)
    return trainer, history


def test_order_of_events():
    one, two = BatchRecorder(), Recorder()
    _, history = fitted([one, two], validation_split=0.2)
    epoch = ["epoch_begin", "batch_begin", "batch_end", "batch_begin", "batch_end", "epoch_end"]
    assert [e[0] for e in one.events] == ["train_begin", *epoch, *epoch, "train_end"]
    assert [e[0] for e in two.events] == [
        "train_begin", *["epoch_begin", "epoch_end"] * 2, "train_end",
    ]  # fmt: skip
    assert [e[1] for e in one.events if e[0] == "batch_end"] == [0, 1, 0, 1]
    ends = [e[2] for e in one.events if e[0] == "epoch_end"]
    assert ends == [{k: v[i] for k, v in history.items()} for i in (0, 1)]
    assert list(ends[0]) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(type(v) is float for v in ends[0].values())
    assert one.events[-1] == ("train_end", ends[1])
    assert all(e[2].keys() == {"loss"} for e in one.events if e[0] == "batch_end")


def test_batch_events_change_no_bits():
    assert digest(fitted(BatchRecorder())[0].network) == digest(fitted(())[0].network)
    assert fitted(BatchRecorder())[1] == fitted(())[1]


def test_losses_of_batches_are_those_of_steps():
    recorder = BatchRecorder()
    fitted(recorder, shuffle=False, epochs=1)
    net, x, y = classifier(), rows(), labels()
    trainer = fn.Trainer(net)
    want = [trainer.train_on_batch(x[i : i + 20], y[i : i + 20])["loss"] for i in (0, 20)]
    got = [e[2]["loss"] for e in recorder.events if e[0] == "batch_end"]
    assert got == pytest.approx(want, rel=1e-6)


def test_lambda_callback():
    seen = []
    names = [
        f"on_{what}_{when}" for what in ("train", "epoch", "batch") for when in ("begin", "end")
    ]
    events = {name: lambda *args, name=name: seen.append((name, len(args))) for name in names}
    fitted(LambdaCallback(**events), epochs=1)
    assert seen == [
        ("on_train_begin", 1), ("on_epoch_begin", 2), ("on_batch_begin", 2), ("on_batch_end", 2),
        ("on_batch_begin", 2), ("on_batch_end", 2), ("on_epoch_end", 2), ("on_train_end", 1),
    ]  # fmt: skip
    assert not LambdaCallback(on_epoch_end=print).wants_batches()
    with pytest.raises(ValueError, match="unknown event 'on_epoch_ends'; did you mean"):
        LambdaCallback(on_epoch_ends=print)
    with pytest.raises(TypeError, match="on_epoch_end must be callable"):
        LambdaCallback(on_epoch_end=3)


@pytest.mark.parametrize("event, epochs, steps", [
    ("on_train_begin", 0, 0), ("on_epoch_end", 1, 2), ("on_batch_end", 1, 1),
])  # fmt: skip
def test_stop_training(event, epochs, steps):
    callback = LambdaCallback()
    setattr(callback, event, lambda *args: setattr(callback.trainer, "stop_training", True))
    callback._events = {event: None}
    trainer, history = fitted(callback, epochs=5)
    assert (len(history.get("loss", [])), history.steps) == (epochs, steps)
    assert trainer.fit(rows(), labels()).steps == 2  # the next fit is not stopped


class MineError(Exception):
    pass


@pytest.mark.parametrize("event, epochs", [
    ("on_train_begin", 0), ("on_epoch_begin", 0), ("on_batch_begin", 0), ("on_batch_end", 0),
    ("on_epoch_end", 1), ("on_train_end", 2),
])  # fmt: skip
def test_errors_in_callbacks_reach_the_caller(event, epochs):
    def fail(*args):
        raise MineError

    net, x, y = classifier(), rows(), labels()
    trainer = fn.Trainer(net)
    with pytest.raises(MineError):
        trainer.fit(x, y, epochs=2, callbacks=LambdaCallback(**{event: fail}))
    assert len(trainer.history.get("loss", [])) == epochs
    assert len(trainer.fit(x, y)["loss"]) == 1
    assert np.isfinite(net.predict(x)).all()


def test_a_callback_may_predict_evaluate_and_train():
    x, y, scores = rows(), labels(), []

    def look(epoch, logs):
        scores.append(trainer.evaluate(x, y)["loss"])
        trainer.network.predict(x)

    trainer = fn.Trainer(classifier())
    trainer.fit(x, y, epochs=2, callbacks=LambdaCallback(on_epoch_end=look))
    assert len(scores) == 2
    plain = classifier()
    plain.fit(x, y, epochs=2)
    assert digest(plain) == digest(trainer.network)
    step = LambdaCallback(on_epoch_end=lambda epoch, logs: trainer.train_on_batch(x, y))
    before = trainer.steps
    trainer.fit(x, y, callbacks=step)
    assert trainer.steps == before + 3


def test_a_callback_may_train_with_another_trainer():
    """As if both took turns: each finds its own moments again, whatever the other keeps there."""
    x, y = rows(40), labels(40)

    def pair():
        net = classifier()
        return fn.Trainer(net, optimizer="adam"), fn.Trainer(net, optimizer="rmsprop")

    first, second = pair()
    step = LambdaCallback(on_batch_end=lambda batch, logs: second.train_on_batch(x[:8], y[:8]))
    first.fit(x, y, batch_size=10, shuffle=False, epochs=2, callbacks=step)
    one, two = pair()
    for start in (0, 10, 20, 30) * 2:
        one.train_on_batch(x[start : start + 10], y[start : start + 10])
        two.train_on_batch(x[:8], y[:8])
    assert digest(one.network) == digest(first.network)


# ----------------------------------------------------------------------------- early stopping


def test_early_stopping_restores_the_best():
    """The loss is what a callback before it says."""
    told = [5, 3, 4, 2, 2.5, 2.2, 7, 8]
    kept = []

    class Script(Callback):
        def on_epoch_end(self, epoch, logs):
            kept.append(digest(self.trainer.network))

    class Told(EarlyStopping):
        def on_epoch_end(self, epoch, logs):
            super().on_epoch_end(epoch, {"val_loss": told[epoch]})

    stopper = Told(patience=3)
    trainer, history = fitted([Script(), stopper], epochs=8)
    assert len(history["loss"]) == 7
    assert stopper.stopped_epoch == 6
    assert stopper.best == 2
    assert digest(trainer.network) == kept[3] != kept[6]
    kept.clear()
    trainer, history = fitted([Script(), Told(patience=3, restore_best_weights=False)], epochs=8)
    assert digest(trainer.network) == kept[6]
    trainer, history = fitted(Told(patience=0), epochs=8)
    assert len(history["loss"]) == 3


def test_early_stopping_by_itself():
    x, y = rows(), rows(37, 1, 4)
    history = regressor().fit(
        x,
        y,
        loss="mse",
        optimizer=fn.optimizers.SGD(0),
        epochs=50,
        callbacks=EarlyStopping(patience=2),
    )
    assert len(history["loss"]) <= 4  # nothing is learned, so the loss does not fall
    history = regressor().fit(
        x, y, loss="mse", optimizer="sgd", epochs=10, callbacks=EarlyStopping()
    )
    assert len(history["loss"]) == 10


@pytest.mark.parametrize("monitor, mode, values, stops", [
    ("val_accuracy", "auto", [0.5, 0.6, 0.7, 0.8], False),
    ("accuracy", "auto", [0.9, 0.8, 0.7, 0.6], True),
    ("val_loss", "auto", [4, 3, 2, 1], False),
    ("loss", "max", [4, 3, 2, 1], True),
    ("loss", "min", [4, 4, 4, 4], True),
    ("loss", "auto", [float("nan"), 3, 2, 1], False),
    ("loss", "auto", [3, float("nan"), float("nan"), 4], True),
])  # fmt: skip
def test_what_is_better(monitor, mode, values, stops):
    stopper = EarlyStopping(monitor, patience=2, mode=mode)
    trainer = stopper.trainer = fn.Trainer(classifier(), metrics=["accuracy"])
    stopper.on_train_begin({})
    for epoch, value in enumerate(values):
        stopper.on_epoch_end(epoch, {monitor: value})
    assert trainer.stop_training == stops


def test_min_delta():
    stopper = EarlyStopping("loss", patience=1, min_delta=0.5)
    trainer = stopper.trainer = fn.Trainer(classifier())
    stopper.on_train_begin({})
    stopper.on_epoch_end(0, {"loss": 3})
    stopper.on_epoch_end(1, {"loss": 2.4})
    assert not trainer.stop_training
    stopper.on_epoch_end(2, {"loss": 2.0})
    assert trainer.stop_training


BAD = [
    (lambda: EarlyStopping(patience=-1), ValueError, "patience must be an integer >= 0"),
    (lambda: EarlyStopping(min_delta="a"), TypeError, "min_delta must be a number"),
    (lambda: EarlyStopping(mode="best"), ValueError, "unknown mode 'best'.*auto, max, min"),
    (lambda: EarlyStopping(monitor=3), TypeError, "monitor must be a name"),
    (lambda: EarlyStopping(restore_best_weights="no"), TypeError, "must be True or False"),
    (lambda: ModelCheckpoint("net-{epoch"), ValueError, "path 'net-{epoch': "),
    (lambda: ModelCheckpoint("net", save_best_only=2), TypeError, "must be True or False, got 2"),
    (
        lambda: fitted(EarlyStopping("val_acc")),
        ValueError,
        "'val_acc' is not in the logs.*accuracy",
    ),
    (lambda: fitted("early"), TypeError, "must be fastnet callbacks, got 'e'"),
    (lambda: fitted([EarlyStopping]), TypeError, "must be fastnet callbacks"),
    (lambda: fitted(print), TypeError, "callbacks must be"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_callbacks(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ----------------------------------------------------------------------------- checkpoints


def test_checkpoints(tmp_path):
    pytest.importorskip("fastnet.storage")
    path = tmp_path / "net-{epoch:02d}-{val_loss:.3f}.safetensors"
    trainer, history = fitted(ModelCheckpoint(path), validation_split=0.2)
    names = [f"net-{i:02d}-{v:.3f}.safetensors" for i, v in enumerate(history["val_loss"])]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    last = fn.load(tmp_path / names[-1])
    assert last.predict(rows()).tobytes() == trainer.predict(rows()).tobytes()


def test_checkpoints_of_the_best(tmp_path):
    pytest.importorskip("fastnet.storage")
    path, kept = tmp_path / "best.safetensors", []

    class Told(ModelCheckpoint):
        def on_epoch_end(self, epoch, logs):
            super().on_epoch_end(epoch, {"val_loss": [3, 2, 4][epoch]})
            kept.append(self.trainer.network.predict(rows()).tobytes())

    fitted(Told(path, save_best_only=True), epochs=3)
    assert fn.load(path).predict(rows()).tobytes() == kept[1] != kept[2]
    with pytest.raises(ValueError, match="names 'f1', the logs hold epoch, loss, accuracy"):
        fitted(ModelCheckpoint(tmp_path / "{f1}.safetensors"))


def test_checkpoints_want_their_folder_before_anything_is_trained(tmp_path):
    net = classifier()
    before = digest(net)
    with pytest.raises(FileNotFoundError, match="the folder of checkpoints"):
        net.fit(rows(), labels(), callbacks=ModelCheckpoint(tmp_path / "no" / "net-{epoch}"))
    assert digest(net) == before
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------- history


def test_history():
    trainer, history = fitted((), epochs=3)
    assert isinstance(history, dict) and list(history) == ["loss", "accuracy"]
    assert all(len(v) == 3 and type(v[0]) is float for v in history.values())
    assert history.history is history
    assert (history.steps, history.interrupted) == (6, False)
    assert 0 < history.seconds < 60
    assert trainer.history == history and trainer.history is not history
    assert repr(history) == (
        f"History of 3 epochs, last: loss {history['loss'][-1]:.4g}, "
        f"accuracy {history['accuracy'][-1]:.4g}"
    )
    assert repr(History()) == "History of 0 epochs"
    assert history["loss"][2] < history["loss"][0]


# ----------------------------------------------------------------------------- progress


def test_nothing_is_printed_below_a_second(capfd):
    fitted(())
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_bar_shows_loss_metrics_and_rate(capfd):
    fitted((), progress=True, validation_split=0.2, epochs=3)
    shown = capfd.readouterr().err
    for part in ("epoch 3/3", "loss=", "accuracy=", "val_loss=", "samples/s", "100%"):
        assert part in shown, part
    fitted((), progress=False)
    assert capfd.readouterr().err == ""


def test_the_bar_comes_after_a_second(monkeypatch, capfd):
    now = [time.perf_counter()]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def later(epoch, logs):
        now[0] += 0.4

    fitted(LambdaCallback(on_epoch_end=later), epochs=2)
    assert capfd.readouterr().err == ""
    fitted(LambdaCallback(on_epoch_end=later), epochs=6)
    assert capfd.readouterr().err == ""  # a log, not a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fitted(LambdaCallback(on_epoch_end=later), epochs=6)
    shown = capfd.readouterr().err
    assert "epoch 6/6" in shown and "epoch 1/6" not in shown and "100%" in shown


def test_bars_that_tqdm_turns_off(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    from tqdm import tqdm

    class Off(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

    monkeypatch.setattr("tqdm.auto.tqdm", Off)
    fitted((), progress=True)
    assert sys.stderr.getvalue() == ""


def test_the_bar_of_a_generator(capfd):
    batches = ((rows(8, seed=i), labels(8)) for i in range(4))
    classifier().fit(batches, progress=True)
    assert "32.0 samples" in capfd.readouterr().err


@pytest.mark.parametrize("wanted", ["yes", None, 2, 1.0])
def test_bad_progress(wanted):
    net = classifier()
    before = digest(net)
    with pytest.raises(ValueError, match="progress must be True, False or 'auto'"):
        net.fit(rows(), labels(), progress=wanted)
    assert digest(net) == before


def test_everything_public_is_listed():
    assert set(callbacks.__all__) == {
        "Callback",
        "EarlyStopping",
        "LambdaCallback",
        "ModelCheckpoint",
    }
