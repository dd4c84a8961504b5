"""What tests of commands share: running them here or as a process, and small data for them."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fastnet.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTNET_DEBUG", raising=False)

    def call(*argv):
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        wanted = "--debug" in argv or os.environ.get("FASTNET_DEBUG")
        assert wanted or "Traceback" not in out + err
        return code, out, err

    return call


@pytest.fixture
def bad(run):
    """Run a wrong command line: exit code 2, one line on stderr, which is returned."""

    def call(*argv, code=2):
        got, _, err = run(*argv)
        assert got == code, err
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1
        assert lines[0].startswith("fastnet: error: ")
        return lines[0]

    return call


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """What `fastnet train` writes without arguments."""
    path = tmp_path_factory.mktemp("cli") / "digits.safetensors"
    assert main(["train", "--quiet", "--out", str(path)]) == 0
    return path


@pytest.fixture
def flowers(tmp_path):
    """A table of 3 text classes that are easy to tell apart, 90 rows."""
    rng = np.random.default_rng(0)
    path = tmp_path / "flowers.csv"
    with open(path, "w", encoding="utf-8") as file:
        print("length,width,kind", file=file)
        for i in range(90):
            k = i % 3
            a, b = rng.normal((2 * k, 5 - 3 * k), 0.2)
            print(f"{a:.3f},{b:.3f},{('iris', 'rose', 'tulip')[k]}", file=file)
    return path


@pytest.fixture
def prices(tmp_path):
    """A table whose last column is an amount: 5000 + 300 a - 200 b + 0.5."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (120, 2))
    y = 5000.5 + 300 * x[:, 0] - 200 * x[:, 1]
    path = tmp_path / "prices.csv"
    rows = np.column_stack([x, y])
    np.savetxt(path, rows, delimiter=",", header="a,b,price", comments="", fmt="%.4f")
    return path


def process(*argv, cwd=None, **env):
    """Start `python -m fastnet` with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastnet", *map(str, argv)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=cwd, env=os.environ | env,
    )  # fmt: skip
