"""What a fit takes beside the data: the peak of a process, and the bound of docs/kmeans.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastnet as fn
from fastnet import _core

CODE = """
import json, sys
from pathlib import Path
import numpy as np, fastnet as fn

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

n, d, k, options = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.random((n, d), np.float32)
if d > 128:  # few directions: projections pay
    for first in range(0, n, 1000):
        x[first : first + 1000, 3:] = x[first : first + 1000, :3] @ np.ones((3, d - 3), np.float32)
start = x[rng.choice(n, k, replace=False)]
model = fn.KMeans(k, random_state=0, max_iter=4, n_threads=1, progress=False, **options)
if options.get("init", "array") == "array":
    model.set_params(init=start)
fn.KMeans(k, random_state=0, max_iter=4, n_threads=1, progress=False).fit(x[:3000])
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model.fit(x)
print(status("VmHWM") - before)
"""


def peak(n, d, k, **options):
    """Bytes that a fit of float32 rows takes at its peak, beside the data."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is read from Linux' /proc")
    path = [str(Path(fn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([n, d, k, options])],
        capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


#: What does not grow with the rows: sums, centres, a tile, a chunk's moves; Python's own.
SMALL = 3e6


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
@pytest.mark.parametrize("init", ["array", "k-means++"])
def test_few_columns(init, algorithm):
    n, candidates = 1_500_000, 0 if init == "array" else 4
    most = n * (16 + 4 * candidates)
    assert peak(n, 2, 8, init=init, algorithm=algorithm) <= most + SMALL


@pytest.mark.parametrize("k", [6, 100], ids=["few", "families"])
@pytest.mark.parametrize("init", ["array", "k-means++"])
def test_projected(init, k):
    n, d, p = 150_000, 160, 40
    centers = {"base": 8, "v3": 16, "v4": 32}[_core.simd_level()]
    families = -(-k // centers)
    groups = 4 + (families if families >= 4 else 0)
    assert peak(n, d, k, init=init) <= n * (16 + 4 * groups) + n * (p + 4) * 4 + SMALL


def test_without_projections():
    n = 400_000
    assert peak(n, 160, 20, max_memory=1) <= n * 16 + SMALL
