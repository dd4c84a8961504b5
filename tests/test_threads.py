"""Threads: how many, and several Python threads that train and predict at once."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from training import classifier, digest, labels, rows

import fastnet as fn
from fastnet import _core, layers

CPUS = _core.cpus_available()[0]


def test_set_get_and_the_context_manager():
    automatic = fn.get_num_threads()
    assert 1 <= automatic <= CPUS
    fn.set_num_threads(3)
    assert fn.get_num_threads() == 3
    with fn.threads(1):
        assert fn.get_num_threads() == 1
        with fn.threads(5) as inner:
            assert fn.get_num_threads() == 5
            assert inner.n == 5
        assert fn.get_num_threads() == 1
    assert fn.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), fn.threads(2):
        raise ZeroDivisionError
    assert fn.get_num_threads() == 3
    fn.set_num_threads(0)
    assert fn.get_num_threads() == automatic
    fn.set_num_threads(1000)
    assert fn.get_num_threads() <= 64
    fn.set_num_threads(0)


def asked(code, **environment):
    """What a fresh process prints."""
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


SHOW = "import fastnet as fn; print(fn.get_num_threads())"


def test_omp_num_threads_is_a_limit():
    assert asked(SHOW, OMP_NUM_THREADS="1") == ["1"]
    assert asked(SHOW, OMP_NUM_THREADS="512") == [str(CPUS)]
    code = "import fastnet as fn; fn.set_num_threads(3); print(fn.get_num_threads())"
    assert asked(code, OMP_NUM_THREADS="1") == ["3"]  # what is asked for here counts


def test_affinity_is_a_limit():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);" + SHOW
    assert asked(code) == ["1"]


def test_threadpoolctl_limits():
    pytest.importorskip("threadpoolctl")
    code = """
import fastnet as fn, threadpoolctl
print(fn.get_num_threads())
with threadpoolctl.threadpool_limits(1):
    print(fn.get_num_threads())
print(fn.get_num_threads())
"""
    before, inside, after = asked(code)
    assert inside == "1" and before == after


def test_workers_of_joblib_share_the_processors():
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        counts = joblib.Parallel(2)(joblib.delayed(fn.get_num_threads)() for _ in range(4))
    assert counts == [1] * 4


SPIN = """
import os, sys
os.sched_setaffinity(0, [int(sys.argv[1])])
while os.getppid() == int(sys.argv[2]):
    pass
"""


@pytest.mark.skipif(CPUS < 2, reason="wants two processors")
def test_a_busy_machine_is_noticed():
    """Helpers that lose their processors again and again sit out for a while."""
    x, y = rows(32768, 64), rows(32768, 10, seed=1)

    def trainer():
        net = fn.Sequential([layers.Input(64), layers.Dense(64, "relu"), layers.Dense(10)], seed=0)
        return fn.Trainer(net, "mse", fn.optimizers.SGD(1e-3))

    beside, alone = trainer(), trainer()
    cpus, before, fits = sorted(os.sched_getaffinity(0))[:2], _core.backoffs(), 0
    busy = [
        subprocess.Popen([sys.executable, "-c", SPIN, str(cpu), str(os.getpid())]) for cpu in cpus
    ]
    try:
        with fn.threads(2):
            end = time.monotonic() + 60
            while _core.backoffs() == before and time.monotonic() < end:
                beside.fit(x, y, batch_size=64)
                fits += 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert _core.backoffs() > before
    with fn.threads(1):
        alone.fit(x, y, batch_size=64, epochs=fits)
    assert digest(alone.network) == digest(beside.network)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_do_not_depend_on_threads(always_thread, optimizer):
    x, y = rows(300, 65), labels(300, 9)
    digests = set()
    for n in (1, 2, 3, 4, 8):
        with fn.threads(n):
            net = classifier(65, 9, hidden=70, dropout=0.2)
            history = net.fit(x, y, optimizer=optimizer, epochs=3, metrics=["accuracy"])
            digests.add((digest(net), net.predict(x).tobytes(), tuple(history["loss"])))
    assert len(digests) == 1


def together(*jobs):
    """Run all at once; results in order, errors raised."""
    barrier = threading.Barrier(len(jobs))

    def run(job):
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


def test_several_threads_train_different_networks(always_thread):
    def train(seed):
        net = classifier(20, 5, hidden=40, seed=seed, dropout=0.1)
        net.fit(rows(200, 20, seed), labels(200, 5, seed), epochs=5)
        return digest(net)

    alone = [train(seed) for seed in range(6)]
    for n in (1, 3):
        with fn.threads(n):
            assert together(*[lambda s=s: train(s) for s in range(6)]) == alone


def test_several_threads_predict_with_one_network(always_thread):
    net, x = classifier(20, 5, hidden=40), rows(70, 20)
    want = net.predict(x).tobytes()
    one = [net.predict(x[i : i + 1]).tobytes() for i in range(70)]

    def predict():
        for i in range(150):
            assert net.predict(x).tobytes() == want
            assert net.predict(x[i % 70][None]).tobytes() == one[i % 70]
        return True

    assert all(together(*[predict] * 6))


def test_predictions_beside_training():
    """Whatever a prediction sees are weights of a moment: finite, of the right shape."""
    net, x, y = classifier(20, 5, hidden=40), rows(500, 20), labels(500, 5)
    done = threading.Event()

    def train():
        net.fit(x, y, epochs=20)
        done.set()

    def predict():
        count = 0
        while not done.is_set():
            out = net.predict(x[:9])
            assert out.shape == (9, 5) and np.isfinite(out).all()
            np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
            count += 1
        return count

    _, *counts = together(train, predict, predict)
    assert min(counts) > 0
    plain = classifier(20, 5, hidden=40)
    plain.fit(x, y, epochs=20)
    assert digest(plain) == digest(net)


@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_threads_that_come_first_build_a_network_once(kind):
    """Each of them predicts with the weights that the network has afterwards."""
    drawn = []

    def slowly(shape, rng):
        drawn.append(shape)
        time.sleep(0.05)
        return rng.standard_normal(shape)

    dense = layers.Dense(4, kernel_initializer=slowly)
    if kind == "chain":
        net = fn.Sequential([dense], seed=0)
    else:
        x = fn.Input(5)
        net = fn.Model(x, dense(x), seed=0)
    answers = together(*[lambda: net.predict(rows()).tobytes()] * 4)
    assert drawn == [(5, 4)]
    assert set(answers) == {net.predict(rows()).tobytes()}


FORK = """
import os, signal, sys, threading, time
import numpy as np
import fastnet as fn
from fastnet import layers

begun = threading.Event()

def slowly(shape, rng):
    begun.set()
    time.sleep(0.3)
    return rng.standard_normal(shape)

large = fn.Sequential([layers.Dense(9, kernel_initializer=slowly)], seed=0)
x = np.ones((4, 5), np.float32)
builder = threading.Thread(target=large.predict, args=[x])
builder.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    fn.Sequential([layers.Dense(2)], seed=0).predict(x)
    large.predict(x)
    os._exit(0)
builder.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_while_another_thread_builds_a_network():
    code = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(code, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FORK_IN_FIT = """
import os, signal, sys, threading
import numpy as np
import fastnet as fn
from fastnet import callbacks, layers

begun, over = threading.Event(), threading.Event()
x = np.random.default_rng(0).random((4000, 20), np.float32)
y = np.arange(4000) % 5
net = fn.Sequential([layers.Input(20), layers.Dense(40, "relu"), layers.Dense(5)], seed=0)
trainer = fn.Trainer(net)

class Begin(callbacks.Callback):
    def on_train_begin(self, logs):
        begun.set()
    def on_epoch_end(self, epoch, logs):
        self.trainer.stop_training = over.is_set()

options = {"epochs": 10**6, "callbacks": Begin()}
fit = threading.Thread(target=trainer.fit, args=(x, y), kwargs=options)
fit.start()
begun.wait()
failed = ""
for i in range(10):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        fine = np.isfinite(net.predict(x)).all()
        for one in (trainer, fn.Trainer(net)):
            fine &= len(one.fit(x, y)["loss"]) == 1
        os._exit(0 if fine else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        failed = f"child {i} ended with {status}"
        break
over.set()
fit.join()
sys.exit(failed or 0)
"""


def test_a_fork_while_another_thread_trains():
    """The child has the weights of that moment, and nobody in it holds them."""
    code = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_IN_FIT]
    done = subprocess.run(code, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fits_of_one_network_wait_for_each_other():
    """Two trainers with other slots: as if one had come after the other."""
    x, y = rows(100), labels(100)
    net = classifier()
    adam, sgd = fn.Trainer(net, optimizer="adam"), fn.Trainer(net, optimizer="sgd")
    together(lambda: adam.fit(x, y, epochs=30), lambda: sgd.fit(x, y, epochs=30))
    orders = []
    for first, second in (("adam", "sgd"), ("sgd", "adam")):
        other = classifier()
        other.fit(x, y, epochs=30, optimizer=first)
        other.fit(x, y, epochs=30, optimizer=second)
        orders.append(digest(other))
    assert digest(net) in orders
    trainer = fn.Trainer(net)
    steps = together(*[lambda: [trainer.train_on_batch(x, y) for _ in range(20)]] * 4)
    assert trainer.steps == 80 and len(steps) == 4


def test_a_forked_child_works():
    code = """
import os, numpy as np, fastnet as fn
from fastnet import layers
x = np.random.default_rng(0).standard_normal((500, 50)).astype(np.float32)
y = np.arange(500) % 5
def make():
    return fn.Sequential([layers.Input(50), layers.Dense(60, "relu"), layers.Dense(5)], seed=0)
with fn.threads(2):
    net = make()
    net.fit(x, y)
    want = net.predict(x).tobytes()
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            other = make()
            other.fit(x, y)
            same = net.predict(x).tobytes() == want and other.predict(x).tobytes() == want
            os._exit(0 if same else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert asked("import warnings; warnings.simplefilter('ignore')\n" + code,
                 FASTNET_ALWAYS_THREAD="1") == ["0"] * 3  # fmt: skip


def test_signals_of_python_are_not_needed_in_other_threads():
    net = fn.Sequential([layers.Dense(3)], seed=0)
    (history,) = together(lambda: net.fit(rows(), labels(), epochs=2))
    assert len(history["loss"]) == 2
