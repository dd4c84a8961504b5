"""`fastnet bench` on tiny sizes: every rival does the same training, and the tools around it work.

No time is asserted.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnet import _bench_report as report
from fastnet import bench
from fastnet._bench_data import (
    blobs,
    random_rows,
    start_centers,
    start_weights,
    synthetic_mnist,
)
from fastnet._peers import CLUSTERING, NETWORKS, nets, worker

TRAIN = bench.Case("t", "", widths=(12, 9, 7, 3), batch=8, rows=45, lr=0.1, data="random")
TRAINING = [
    TRAIN,
    bench.replace(TRAIN, batch=1, lr=0.02),
    bench.replace(TRAIN, optimizer="adam", lr=0.01),
    bench.replace(TRAIN, number=3, warm=True),
]
PREDICT = bench.replace(TRAIN, kind="predict")
ROOT = str(Path(bench.__file__).parents[1])


@pytest.fixture(scope="module")
def pool():
    with bench.Pool(synthetic=True) as pool:
        yield pool


def forward(params, x):
    """Return every layer's input and the probabilities, float64."""
    inputs = [x]
    for w, b in params[:-1]:
        inputs.append(np.maximum(inputs[-1] @ w + b, 0))
    z = inputs[-1] @ params[-1][0] + params[-1][1]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return inputs, p / p.sum(axis=1, keepdims=True)


def reference_loss(case, epochs):
    """Return the mean cross entropy after so many epochs, all in float64."""
    x, y = random_rows(case.rows, case.widths[0], case.widths[-1])
    x, weights = x.astype(np.float64), [w.astype(np.float64) for w in start_weights(case.widths)]
    params = [list(pair) for pair in zip(weights[::2], weights[1::2], strict=True)]
    m = [[0 * a for a in pair] for pair in params]
    v = [[0 * a for a in pair] for pair in params]
    t = 0
    for lo in list(range(0, case.rows, case.batch)) * epochs:
        xb, yb, t = x[lo : lo + case.batch], y[lo : lo + case.batch], t + 1
        inputs, d = forward(params, xb)
        d[np.arange(len(yb)), yb] -= 1
        d /= len(yb)
        for i in reversed(range(len(params))):
            grads = inputs[i].T @ d, d.sum(axis=0)
            d = (d @ params[i][0].T) * (inputs[i] > 0)
            for j, g in enumerate(grads):
                if case.optimizer == "sgd":
                    m[i][j] = case.momentum * m[i][j] - case.lr * g
                    params[i][j] = params[i][j] + m[i][j]
                else:
                    m[i][j] = 0.9 * m[i][j] + 0.1 * g
                    v[i][j] = 0.999 * v[i][j] + 0.001 * g * g
                    lr = case.lr * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
                    params[i][j] = params[i][j] - lr * m[i][j] / (v[i][j] ** 0.5 + 1e-7)
    p = forward(params, x)[1]
    return -np.log(p[np.arange(len(y)), y]).mean()


def need(library):
    """Skip where the library is not installed."""
    modules = {
        "fastnet": ["fastnet._core"],
        "onnxruntime": ["onnxruntime", "onnx"],
        "onedal": ["sklearnex"],
    }
    for module in modules.get(library, [library]):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.mark.parametrize("case", TRAINING, ids=["sgd", "batch1", "adam", "warm"])
@pytest.mark.parametrize("library", [name for name in NETWORKS if name != "onnxruntime"])
def test_training_is_the_same_everywhere(pool, library, case):
    need(library)
    (m,) = pool.measure(case, [library], [1], 2).measurements
    if library == "sklearn" and case.batch == 1:
        assert "batch 1" in m.error
        return
    want = reference_loss(case, case.number + case.warm)
    assert m.error == ""
    assert len(m.times) == 2 and min(m.times) > 0
    assert abs(want - reference_loss(case, 0)) > 0.02  # otherwise nothing was learned
    assert m.loss == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("library", NETWORKS)
def test_prediction_is_the_same_everywhere(pool, library):
    need(library)
    (m,) = pool.measure(PREDICT, [library], [1], 1).measurements
    assert m.error == ""
    assert m.loss == pytest.approx(reference_loss(PREDICT, 0), rel=1e-5)


@pytest.mark.parametrize("net", nets.NETS)
@pytest.mark.parametrize("kind", ["train", "predict"])
def test_networks_of_images_are_the_same_everywhere(pool, net, kind):
    need("torch")
    values = int(np.prod(nets.NETS[net].shape))
    # PyTorch's moving variance is n / (n - 1) of fastnet's, and larger steps make more of that
    lr = 0.001 if nets.NETS[net].norm else 0.003
    case = bench.replace(
        TRAIN, kind=kind, net=net, widths=(values, 10), rows=40, lr=lr, optimizer="adam"
    )
    own, torch = pool.measure(case, ["fastnet", "torch"], [1], 1).measurements
    assert own.error == torch.error == ""
    assert own.loss == pytest.approx(torch.loss, rel=1e-3)
    assert own.loss != pytest.approx(np.log(10), rel=1e-3)
    (other,) = pool.measure(case, ["numpy"], [1], 1).measurements
    assert "on images" in other.error


def distance(x, centers):
    """Return the mean squared distance to the nearest centre, float64."""
    return ((x[:, None] - centers) ** 2).sum(axis=2).min(axis=1).mean()


@pytest.mark.parametrize("kind", ["cluster", "batches", "assign"])
@pytest.mark.parametrize("library", CLUSTERING)
def test_clustering_is_the_same_everywhere(pool, library, kind):
    need(library)
    case = bench.Case("t", "", kind, (3, 5), rows=400, iterations=4, data="blobs", batch=100)
    (m,) = pool.measure(case, [library], [1], 2).measurements
    if kind == "batches" and library in ("onedal", "faiss"):
        assert "no mini-batches" in m.error
        return
    assert m.error == "" and len(m.times) == 2
    x, _ = blobs(400, 3, 5)
    centers = start_centers(x, 5).astype(np.float64)
    if kind == "assign":
        assert m.loss == pytest.approx(distance(x, centers), rel=1e-4)
        return
    first = distance(x, centers)
    for _ in range(case.iterations):
        labels = ((x[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        centers = np.array([x[labels == j].mean(axis=0) for j in range(5)])
    want = distance(x, centers)
    assert want < 0.8 * first
    assert m.loss == pytest.approx(want, rel=0.2 if kind == "batches" else 0.005)


def test_until_nothing_moves_is_nothing_for_faiss(pool):
    need("faiss")
    case = bench.Case("t", "", "cluster", (3, 5), rows=400, iterations=1000, data="blobs")
    own, faiss = pool.measure(case, ["fastnet", "faiss"], [1], 1).measurements
    assert own.error == "" and "all iterations" in faiss.error


def test_only_libraries_that_cluster_are_asked(pool):
    case = bench.Case("t", "", "assign", (3, 5), rows=40, data="blobs")
    result = pool.measure(case, ["fastnet", "torch", "jax"], [1], 1)
    assert [m.library for m in result.measurements] == ["fastnet"]
    page = report.Page(["fastnet", "torch"], [1], peak=100.0)
    page.add(result)
    page.add(bench.Result(TRAIN, [timed(1, [1.0])]))
    networks, clusters = page.tables()
    assert networks[1][-1] != "-" and clusters[1][-1] == "-"  # no share of the peak
    assert clusters[0] == ["case", "threads", "fastnet", "best rival", "of peak"]


def test_what_a_library_cannot_do_is_noted_and_the_others_go_on(pool):
    result = pool.measure(TRAIN, ["onnxruntime", "numpy"], [1], 1)
    assert result.find("onnxruntime", 1) is None
    assert result.find("numpy", 1).best < np.inf
    assert "Error" in result.measurements[0].error


def test_a_dead_worker_is_noted_and_replaced(pool):
    m = bench.Measurement("numpy", 1)
    ask = pool.prepare(TRAIN, m)
    pool.get("numpy", 1).process.kill()
    pool.time(TRAIN, m, ask)
    assert "died" in m.error and m.best == np.inf
    again = pool.measure(TRAIN, ["numpy"], [1], 1).measurements[0]
    assert again.error == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_worker_is_stopped_and_holds_its_cpus(pool):
    pool.measure(TRAIN, ["numpy"], [1], 1)
    process = pool.get("numpy", 1).process
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "T"
    assert len(os.sched_getaffinity(process.pid)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_workers_end_with_a_killed_parent():
    code = (
        f"import sys, os; sys.path.insert(0, {ROOT!r})\n"
        "from fastnet._peers.worker import Worker\n"
        "w = Worker('numpy', 1); w.ask('release'); print(w.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert run.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(run.stdout)}/stat")
    for _ in range(500):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        bench.time.sleep(0.01)
    pytest.fail("the worker outlived its parent")


def test_thread_variables_reach_the_libraries_that_need_them(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert worker.environment("numpy", 2)["OPENBLAS_NUM_THREADS"] == "2"
    assert worker.environment("torch", 2)["OMP_NUM_THREADS"] == "2"
    assert worker.environment("torch", 2)["OPENBLAS_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in worker.environment("fastnet", None)
    assert "OPENBLAS_NUM_THREADS" not in worker.environment("numpy", None)


def test_importing_bench_imports_no_rival():
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r}); import fastnet.bench, fastnet._bench_report\n"
        "print(sorted({'torch', 'jax', 'sklearn', 'onnxruntime'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_flops_count_what_training_multiplies():
    cases = {case.name: case for case in bench.CASES}
    # forward and dW 784 x 200 and 200 x 10, dX only 200 x 10
    assert cases["batch128"].flops == 60_000 * 2 * (2 * 784 * 200 + 3 * 200 * 10)
    assert cases["batch1"].flops == cases["batch128"].flops
    assert cases["batch128"].smaller().flops == cases["batch128"].flops
    assert cases["predict1"].flops == 2 * (784 * 200 + 200 * 10)


def test_flops_of_networks_of_images():
    cases = {case.name: case for case in bench.CASES}
    first, second, last = 784 * 25 * 8, 196 * 200 * 16, 784 * 10
    assert cases["lenet1"].flops == 2 * (first + second + last)
    assert cases["lenet"].flops == 60_000 * 2 * (2 * first + 3 * second + 3 * last)
    kernels = [p.kernel for p in nets.products(nets.NETS["resnet"])]
    assert kernels == [
        (3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 16), (3, 3, 16, 16), (3, 3, 16, 32),
        (3, 3, 32, 32), (1, 1, 16, 32), (3, 3, 32, 64), (3, 3, 64, 64), (1, 1, 32, 64), (64, 10),
    ]  # fmt: skip
    assert sum(kernel[:2] == (3, 3) for kernel in kernels) == 8
    assert cases["resnet-bn"].flops == cases["resnet"].flops
    start = nets.start_weights(nets.NETS["resnet-bn"])
    assert [w.shape for w in start[:3]] == [(3, 3, 3, 16), (16,), (16,)]
    assert start[1].all() and not start[2].any()
    assert [w.shape for w in start[-2:]] == [(64, 10), (10,)]


def test_synthetic_rows_are_as_sparse_as_mnist():
    x, y = synthetic_mnist(1003)
    assert x.shape == (1003, 784) and x.dtype == np.float32 and y.dtype == np.int64
    assert 0.15 < np.mean(x > 0) < 0.25 and x.min() == 0 and x.max() <= 1
    assert set(y) == set(range(10))


def timed(threads, times, library="fastnet", loss=1.0):
    return bench.Measurement(library, threads, times=times, loss=loss)


def test_an_inversion_is_too_slow_in_every_repeat():
    def grid(default, busy=False):
        result = bench.Result(
            TRAIN, [timed(None, default), timed(1, [1.0, 1.0]), timed(2, [0.5, 0.8])]
        )
        return bench.Grid("fastnet", busy, {(16, 1): result})

    assert grid([0.6, 1.0]).ratios((16, 1)) == pytest.approx([1.2, 1.25])
    assert grid([0.6, 1.0]).inversions() == [(16, 1)]
    assert grid([0.6, 0.8]).inversions() == []
    assert grid([0.6, 1.0], busy=True).inversions() == []
    assert grid([1.3, 1.4], busy=True).inversions() == [(16, 1)]


def test_grid_measures_default_and_fixed_counts(pool):
    grid = bench.measure_grid(pool, "numpy", [1], 1, widths=(5,), batches=(1, 3), work=1e4)
    assert [len(grid.ratios(cell)) for cell in grid.cells] == [1, 1]
    head, rows = report.Page(["numpy"], [1]).grid(grid)
    assert "of 2 above 1.1" in head
    assert [row[0] for row in rows] == ["width", "5"] and len(rows[0]) == 3


def test_rows_compare_with_each_rival_at_its_best():
    page = report.Page(["fastnet", "numpy", "jax"], [1, 2], peak=100.0)
    measurements = [
        timed(1, [2.0, 3.0]),
        timed(2, [1.0]),
        timed(1, [4.0], "numpy"),
        timed(2, [5.0], "numpy"),  # slower with two threads: counts with one
        timed(1, [9.0], "jax"),
        timed(2, [3.0], "jax"),
    ]
    page.add(bench.Result(bench.replace(TRAIN, rows=10**8), measurements))
    head, one, two = page.table()
    assert head == ["case", "threads", "fastnet", "NumPy", "JAX jit+scan", "best rival", "of peak"]
    assert one[2:6] == ["2.00 s", "4.00 s 2.00x", "9.00 s 4.50x", "NumPy 2.00x"]
    assert two[2:6] == ["1.00 s", "4.00 s (1) 4.00x", "3.00 s 3.00x", "JAX jit+scan 3.00x"]
    # 2 (2 * 12 * 9 + 3 * 9 * 7 + 3 * 7 * 3) flops a row
    assert one[6] == "47 %" and two[6] == "47 %"
    assert not page.failed()


@pytest.mark.parametrize("loss", [1.2, float("nan")])
def test_a_different_result_fails_the_page(loss):
    page = report.Page(["fastnet", "numpy"], [1])
    page.add(bench.Result(TRAIN, [timed(1, [1.0]), timed(1, [1.0], "numpy", loss=loss)]))
    assert page.failed()
    assert any("RESULT DIFFERS: NumPy" in note for note in page.notes())


def test_command_line_prints_and_writes_the_table(tmp_path, capsys):
    target = tmp_path / "table.md"
    argv = ["--quick", "--cases", "fixed", "--peers", "numpy", "--threads", "1"]
    argv += ["--repeats", "1", "--synthetic", "--markdown", str(target)]
    assert bench.main(argv) == 0
    assert "4-16-3, fit on 32 rows" in capsys.readouterr().out
    assert "| 4-16-3, fit on 32 rows" in target.read_text()
    target.write_text("above\n" + target.read_text() + "below\n")
    report.write_markdown(str(target), f"{report.BEGIN}\nnew\n{report.END}")
    assert target.read_text() == f"above\n{report.BEGIN}\nnew\n{report.END}\nbelow\n"


def test_somebody_elses_file_is_not_overwritten(tmp_path, capsys):
    target = tmp_path / "README.md"
    target.write_text("mine")
    with pytest.raises(SystemExit):
        bench.main(["--cases", "fixed", "--peers", "numpy", "--markdown", str(target)])
    assert "holds no place for the table" in capsys.readouterr().err
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cases", "nonsense"], "unknown case 'nonsense'; choose from batch1"),
        (["--peers", "nonsense"], "unknown peer 'nonsense'; choose from fastnet"),
        (["--threads", "0"], "thread counts lie between 1 and"),
        (["--threads", "1,x"], "not '1,x'"),
        (["--repeats", "0"], "repeats must be at least 1"),
    ],
)
def test_bad_options_are_named(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
