"""What an import costs and leaves behind, and other libraries in the same process."""

import json
import os
import subprocess
import sys

import pytest

import fastnet as fn


def printed(code, **environment):
    """JSON that a fresh process prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SLOW = {"numpy.ma", "numpy.testing"}
HEAVY = {"torch", "sklearn", "scipy", "PIL", "matplotlib", "tqdm", "safetensors", "jax", "pandas",
         "asyncio", "unittest", "http"}  # fmt: skip


def test_import_is_light():
    code = """
import json, sys, numpy
before = set(sys.modules)
import fastnet
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    modules = printed(code)
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    own = {name for name in modules if name.startswith("fastnet")}
    assert "fastnet._core" in own
    assert not own & {"fastnet.trainer", "fastnet.storage", "fastnet.datasets", "fastnet.bench"}


def test_training_and_predicting_stay_light():
    code = """
import json, sys, numpy as np
before = set(sys.modules)
import fastnet as fn
net = fn.Sequential([fn.layers.Dense(2)])
net.fit(np.zeros((9, 3)), np.zeros(9, int), validation_split=0.2, metrics=["accuracy"])
net.predict(np.zeros((2, 3)))
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    modules = printed(code)
    assert not HEAVY & {name.partition(".")[0] for name in modules} and not SLOW & set(modules)


def test_everything_in_all_is_there():
    for name in fn.__all__:
        if name not in ("doctor", "load"):  # their modules have tests of their own
            assert getattr(fn, name) is not None
    assert set(fn.__all__) <= set(dir(fn))
    assert fn.__version__


@pytest.mark.parametrize(
    "before", [{}, {"OPENBLAS_NUM_THREADS": "7", "OPENBLAS_CORETYPE": "Prescott"}]
)
def test_the_environment_is_left_as_it_was(before):
    code = """
import json, os, ctypes
import fastnet
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
names = ["OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE"]
seen = [os.environ.get(n) for n in names]
native = [libc.getenv(n.encode()) for n in names]
print(json.dumps(seen + [n and n.decode() for n in native]))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    done = subprocess.run([sys.executable, "-c", code], env={**environment, **before},
                          capture_output=True, text=True, check=True)  # fmt: skip
    names = ("OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE")
    assert json.loads(done.stdout) == [before.get(n) for n in names] * 2


def test_simd_level_by_name():
    code = "import json, fastnet; print(json.dumps(fastnet._core.simd_level()))"
    for level in fn._core.simd_levels():
        assert printed(code, FASTNET_SIMD=level) == level
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "FASTNET_SIMD": "v9"})  # fmt: skip
    assert done.returncode == 1
    assert "ImportError: FASTNET_SIMD=v9: this processor can run base" in done.stderr


FASTNET = """
import fastnet as fn
net = fn.Sequential([fn.layers.Dense(30, "relu"), fn.layers.Dense(3)], seed=0)
"""
FIT = """
net.fit(x, y, epochs=3)
results.append(float(net.predict(x).sum()))
"""
OTHERS = {
    "torch": (
        "import torch",
        """
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 3))
step = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(5):
    step.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y)).backward()
    step.step()
results.append(round(float(model(torch.tensor(x)).sum()), 2))
""",
    ),
    "sklearn": (
        "import sklearn.linear_model",
        """
model = sklearn.linear_model.LogisticRegression().fit(x, y)
results.append(round(float(model.coef_.sum()), 2) + 0.0)
""",
    ),
    "faiss": (
        "import faiss",
        """
model = faiss.Kmeans(20, 4, niter=5, seed=1)
model.train(x)
results.append(round(float(model.centroids.sum()), 2) + 0.0)
""",
    ),
    "safetensors": ("import safetensors.numpy", "results.append(0.0)"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_either_order_of_imports(other):
    """Each library loads its own BLAS and OpenMP; ours is private. Both orders."""
    pytest.importorskip(other)
    load, fit = OTHERS[other]
    data = """
import json, warnings, numpy as np
warnings.simplefilter("ignore")
x = np.random.default_rng(0).standard_normal((400, 20)).astype(np.float32)
y = np.random.default_rng(1).integers(0, 3, 400)
results = []
"""
    finish = "\nprint(json.dumps(sorted(results)))"
    first = printed(data + FASTNET + load + FIT + fit + FIT + finish)
    second = printed(data + load + FASTNET + fit + FIT + fit + FIT + finish)
    alone = printed(data + FASTNET + FIT + FIT + finish)
    assert set(alone) <= set(first) and set(alone) <= set(second)
    assert set(first) == set(second)
