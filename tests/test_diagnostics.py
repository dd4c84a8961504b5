"""`fastnet.doctor`: what it finds, and that its checks can fail."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import fastnet as fn
from fastnet import _core, diagnostics


@pytest.fixture(scope="module")
def report():
    """A report, and the lines that were printed."""
    lines = []
    return fn.doctor(lines.append), lines


def test_doctor_finds_the_machine(report):
    found, lines = report
    assert found["ok"]
    assert found["simd"]["level"] == _core.simd_level()
    assert found["simd"]["level"] in found["simd"]["supported"]
    assert found["cpus"]["available"] == _core.cpus_available()[0]
    assert found["threads"]["chosen"] == fn.get_num_threads()
    assert found["versions"]["numpy"] == np.__version__
    assert os.path.isdir(found["folders"]["package"])
    assert found["speed"]["fma_peak_gflops"] > 0
    assert 0 < found["speed"]["share"] < 1.5
    text = "\n".join(lines)
    for title in ("Processor", "SIMD", "CPUs", "Threads", "Libraries", "Versions", "Cache"):
        assert f"\n{title}" in f"\n{text}"
    assert text.count("\n  ok    ") == len(diagnostics._CHECKS)


def test_doctor_is_plain_data(report):
    found, _ = report
    assert json.loads(json.dumps(found)) == found
    assert repr(found) == "<fastnet doctor: all checks passed>"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_private_openblas_is_seen():
    ours = [lib for lib in diagnostics.loaded_libraries() if lib["ours"]]
    assert [lib["kind"] for lib in ours] == ["OpenBLAS"]
    assert os.path.exists(ours[0]["path"])


def test_doctor_leaves_the_process_as_it_was(report, monkeypatch):
    monkeypatch.delenv("FASTNET_ALWAYS_THREAD", raising=False)
    before = dict(os.environ)
    with fn.threads(3):
        found = fn.doctor(lambda line: None)
        assert fn.get_num_threads() == 3
    assert found["threads"] == {"chosen": 3, "why": "set_num_threads(3)"}
    assert dict(os.environ) == before


def in_a_process(**env):
    code = "import json, fastnet as fn; print(json.dumps(fn.doctor(lambda line: None)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | env,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_doctor_names_settings():
    found = in_a_process(OMP_NUM_THREADS="1", FASTNET_SIMD="base", FASTNET_DATA="/nowhere/at/all")
    assert found["ok"]
    assert found["threads"]["chosen"] == 1
    if found["cpus"]["available"] > 1:
        assert found["threads"]["why"] == "OMP_NUM_THREADS=1"
    assert (found["simd"]["level"], found["simd"]["forced"]) == ("base", "base")
    assert found["variables"]["OMP_NUM_THREADS"] == "1"
    assert any("FASTNET_DATA" in warning for warning in found["warnings"])
    if len(found["simd"]["supported"]) > 1:
        assert any("SIMD level base" in warning for warning in found["warnings"])


@pytest.mark.parametrize("name", [name for name, _ in diagnostics._CHECKS])
def test_every_check_can_fail(name, monkeypatch):
    """With an engine that is wrong somewhere, the check for that says so."""
    check = dict(diagnostics._CHECKS)[name]
    assert diagnostics._run_check(name, check)["ok"]
    from fastnet import network, trainer

    predict, fit, calls = network.Network.predict, trainer.Trainer.fit, []

    def other_bits(self, x, batch_size=None):
        result = predict(self, x, batch_size)
        return np.nextafter(result, 2) if len(x) == 1 else result + np.float32(1e-3)

    def other_weights(self, x, y, **options):
        calls.append(1)
        history = fit(self, x, y, **options)
        weights = self.network.get_weights()
        self.network.set_weights([w + np.float32(1e-6 * len(calls)) for w in weights])
        history["loss"][-1] = 2.3
        return history

    monkeypatch.setattr(network.Network, "predict", other_bits)
    monkeypatch.setattr(trainer.Trainer, "fit", other_weights)
    result = diagnostics._run_check(name, check)
    assert not result["ok"]
    assert result["detail"].startswith("ArithmeticError: ")
