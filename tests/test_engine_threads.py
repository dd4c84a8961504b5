"""The engine among threads and forked processes."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from course import CLASSES, X, classifier, fit, train
from engine import Net, activation, dense, start_weights

from fastnet import _core


def test_every_thread_runs_tiles(level, always_thread):
    for threads in (2, 3, 8):
        _core.threads_seen(reset=True)
        for _ in range(100):  # on a busy machine one may come too late for a while
            net = classifier("sgd")
            assert train(net, "sgd", threads=threads).threads == threads
            if len(_core.threads_seen()) == threads:
                break
        assert _core.threads_seen() == list(range(threads))


def test_number_of_threads(monkeypatch, regression):
    x, t, net = regression
    monkeypatch.delenv("FASTNET_ALWAYS_THREAD", raising=False)
    cpus, why = _core.cpus_available()
    assert 1 <= _core.get_threads() <= cpus
    assert why in ("CPU affinity", "cgroup CPU quota")
    _core.set_threads(5)
    assert _core.get_threads() == 5
    assert fit(net, x, t).threads == 1  # far too little for a second thread
    monkeypatch.setenv("FASTNET_ALWAYS_THREAD", "1")
    assert fit(net, x, t).threads == 5
    assert fit(net, x, t, threads=2).threads == 2
    _core.set_threads(0)
    assert 1 <= _core.get_threads() <= cpus
    few = Net(9, [dense(3)], mode="predict", max_rows=8)
    few.set_weights([np.ones(s) for s in few.param_shapes])
    few.work = _core.Work(few.plan, 2)
    result = few.run(x, output=np.empty((50, 3), np.float32), threads=8)
    assert result.threads == 2  # the work has memory for two


def in_threads(count, call):
    """call(i) on `count` Python threads at once; the first error is raised."""
    errors, barrier = [], threading.Barrier(count)

    def body(i):
        try:
            barrier.wait()
            call(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_eight_python_threads_predict_as_one(level):
    """10,000 predictions each, of one row or three, sharing the parameters."""
    rng = np.random.default_rng(9)
    net = Net(16, [dense(24), activation("relu"), dense(4)], mode="predict", max_rows=3)
    net.set_weights(start_weights(net, rng))
    x = rng.standard_normal((250, 16)).astype(np.float32)
    want = net.predict(x)
    repeats = 10_000 // 125

    def predict(i):
        work, size = _core.Work(net.plan, 2), 2 - i % 2
        output = np.empty((size, 4), np.float32)
        for _ in range(repeats):
            for row in range(0, 250, 2):
                _core.run(net.plan, net.params, work, [x], n_rows=size, first=row, batch_size=3,
                          output=output)  # fmt: skip
                assert output.tobytes() == want[row : row + size].tobytes()

    in_threads(8, predict)


def test_training_and_predicting_at_once(level, always_thread):
    """Four Python threads train networks of their own with two threads each, four predict."""
    want = classifier("momentum")
    train(want, "momentum", steps=60, threads=1)
    layers = [dense(20), activation("relu"), dense(CLASSES)]
    predictor = Net(131, layers, mode="predict", max_rows=64)
    predictor.set_weights(start_weights(predictor, np.random.default_rng(1)))
    predictions = predictor.predict(X)

    def body(i):
        if i % 2:
            net = classifier("momentum")
            train(net, "momentum", steps=60, threads=2)
            assert net.digest() == want.digest()
        else:
            output, work = np.empty_like(predictions), _core.Work(predictor.plan)
            for _ in range(20):
                _core.run(predictor.plan, predictor.params, work, [X], n_rows=600, batch_size=64,
                          output=output, threads=2)  # fmt: skip
                assert output.tobytes() == predictions.tobytes()

    in_threads(8, body)


def test_two_python_threads_train_the_same_params_in_turn(level):
    """A training call holds the parameters alone; predictions in between see whole steps."""
    net = Net(4, [dense(3, bias=False)], loss="mse", max_rows=2)
    net.set_weights([np.zeros((4, 3))])
    x, t = np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32)
    predictor = Net(4, [dense(3, bias=False)], mode="predict", max_rows=2)
    predictor.params = net.params
    optimizer = _core.Optimizer("sgd", weight_decay=1.0)
    net.set_weights([np.full((4, 3), 2.0)])
    seen = set()

    def body(i):
        work = _core.Work(net.plan if i < 2 else predictor.plan)
        output = np.empty((2, 3), np.float32)
        for _ in range(500):
            if i < 2:
                _core.run(net.plan, net.params, work, [x, t], n_rows=2, batch_size=2,
                          optimizer=optimizer, rates=np.full(1, 1e-3))  # fmt: skip
            else:
                _core.run(predictor.plan, net.params, work, [x], n_rows=2, batch_size=2,
                          output=output)  # fmt: skip
                seen.add(len(np.unique(output)))

    in_threads(4, body)
    serial = Net(4, [dense(3, bias=False)], loss="mse", max_rows=2)
    serial.set_weights([np.full((4, 3), 2.0)])
    for _ in range(1000):
        serial.run(x, t, optimizer=optimizer, rate=1e-3)
    assert net.digest() == serial.digest()
    assert seen == {1}


FORKS = """
    import os, signal, sys, threading
    import numpy as np
    from engine import Net, activation, dense, start_weights
    from fastnet import _core

    rng = np.random.default_rng(0)
    x, t = rng.random((256, 64)).astype(np.float32), rng.random((256, 8)).astype(np.float32)

    def trained(threads):
        net = Net(64, [dense(300), activation("tanh"), dense(8)], loss="mse", max_rows=32)
        net.set_weights(start_weights(net, np.random.default_rng(1)))
        result = net.run(x, t, batch=32, optimizer=_core.Optimizer("sgd"), threads=threads)
        assert result.status == "ok"
        return net.digest(), result.threads

    os.environ["FASTNET_ALWAYS_THREAD"] = "1"
    want, threads = trained(2)
    assert threads == 2
    done = threading.Event()

    def keep_training():
        while not done.is_set():
            assert trained(2)[0] == want

    other = threading.Thread(target=keep_training)
    for i in range(100):
        if i == 50:
            other.start()  # the second half forks in the middle of a parallel region
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # the end of a child that hangs
            try:
                os._exit(0 if trained(2) == (want, 1) and _core.get_threads() == 1 else 3)
            finally:
                os._exit(4)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"fork {i} ended with status {status}"
    done.set()
    other.join()
    assert trained(2) == (want, 2)
    print("all well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_hundred_forks_after_a_fit():
    """Children train with one thread, to the same bits, even when forked in a parallel region."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    script = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c"]
    done = subprocess.run([*script, textwrap.dedent(FORKS)], env={**os.environ, "PYTHONPATH": path},
                          timeout=180, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all well"
