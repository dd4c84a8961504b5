"""Wrong model files: each is one error that says why, takes little memory and runs nothing."""

import ast
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from model_files import (
    GOOD,
    about_value,
    build,
    layer_value,
    put,
    run_python,
    same_bits,
    small,
    with_about,
)
from wrong_model_files import WRONG

import fastnet as fn
from fastnet import initializers, layers

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(tmp_path, name):
    content, rule = WRONG[name]
    path = put(tmp_path / "model.safetensors", content)
    with pytest.raises(fn.ModelFileError, match=rule) as caught:
        fn.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be loaded: ")
    assert len(message) < 1000


def test_the_right_file_of_that_table_is_right(tmp_path):
    assert same_bits(fn.load(put(tmp_path / "net", GOOD)), small())
    assert same_bits(fn.load(put(tmp_path / "net", with_about(GOOD, lambda a: None))), small())
    assert same_bits(
        fn.load(put(tmp_path / "net", about_value("written_by", "fastnet 9"))), small()
    )


def test_every_cut_and_every_bit_of_the_length(tmp_path):
    path = tmp_path / "net"
    for end in range(len(GOOD)):
        with pytest.raises(fn.ModelFileError):
            fn.load(put(path, GOOD[:end]))
    for bit in range(64):
        data = bytearray(GOOD)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(fn.ModelFileError):
            fn.load(put(path, bytes(data)))


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        fn.load(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        fn.load(tmp_path)
    with pytest.raises(NotADirectoryError):
        fn.load(put(tmp_path / "net", GOOD) / "x")
    with pytest.raises(TypeError):
        fn.load(None)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(fn.ModelFileError, match="pipe cannot be loaded: it is not a regular file"):
        fn.load(tmp_path / "pipe")  # and does not wait for a writer
    with pytest.raises(fn.ModelFileError, match="not a regular file"):
        fn.load("/dev/zero")


def test_a_file_that_shrinks_or_changes_while_it_is_read(tmp_path, monkeypatch):
    from fastnet import _tensorfile

    real, path = _tensorfile.read_tensors, tmp_path / "net"
    chain = [layers.Dense(20) for _ in range(70)]  # header and weights are longer than a buffer
    fn.Sequential([layers.Input(20), *chain, layers.Dense(21)], seed=0).save(path)
    content = path.read_bytes()
    assert content.count(b'"shape":[20,21]') == 1 and content.index(b'"shape":[20,21]') > 10_000

    def shrink(file, header):
        os.truncate(path, header.size - 10)
        return real(file, header)

    def change(file, header):
        path.write_bytes(content.replace(b'"shape":[20,21]', b'"shape":[21,20]'))
        return real(file, header)

    for meanwhile, rule in ((shrink, "shorter while it was read"), (change, "changed while")):
        monkeypatch.setattr(_tensorfile, "read_tensors", meanwhile)
        with pytest.raises(fn.ModelFileError, match=rule):
            fn.load(put(path, content))


def test_the_error_is_a_value_error_without_a_chain_of_internals(tmp_path):
    with pytest.raises(ValueError) as caught:
        fn.load(put(tmp_path / "net", GOOD[:-1]))
    assert caught.value.__suppress_context__


# ---- memory -------------------------------------------------------------------------------------


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path):
    with pytest.raises(fn.ModelFileError):
        fn.load(path)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_allocates_little(tmp_path, name):
    path = put(tmp_path / "net", WRONG[name][0])
    refused(path)  # whatever is imported or cached comes now
    # a header, as text and parsed, takes more than its length; all else at most twice the file
    size, header = path.stat().st_size, int.from_bytes(path.read_bytes()[:8], "little")
    header = min(header, size, 2**20)
    assert peak_of(lambda: refused(path)) < 2 * size + 30 * header + 100_000


def test_a_right_file_allocates_at_most_twice_its_size(tmp_path):
    path = tmp_path / "net"
    network = fn.Sequential([layers.Input(500), layers.Dense(2000), layers.Dense(100)], seed=0)
    network.save(path)
    size = path.stat().st_size
    fn.load(path)
    assert size < peak_of(lambda: fn.load(path)) < 2.1 * size
    assert network.params.nbytes < 1.1 * size  # outside Python's memory


def test_a_refused_large_file_is_not_read(tmp_path):
    """Gigabytes of somebody else's weights: only the header is looked at."""
    path = tmp_path / "large.safetensors"
    n = 2**34
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]},
    }
    path.write_bytes(build(header, b""))
    os.truncate(path, path.stat().st_size + 4 * n)
    refused(path)
    assert peak_of(lambda: refused(path)) < 100_000


def test_hostile_files_under_a_limit_of_memory(tmp_path):
    """None of the wrong files needs more than a little address space."""
    for i, (content, _) in enumerate(WRONG.values()):
        put(tmp_path / f"{i}", content)
    script = """
import resource, sys
import fastnet as fn, os, safetensors.numpy
from pathlib import Path
folder = Path(sys.argv[1])
files = sorted(folder.iterdir())
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in files:
    try:
        fn.load(path)
    except fn.ModelFileError:
        continue
    sys.exit(f"{path} was loaded")
print(len(files))
"""
    done = run_python("-c", script, str(tmp_path))
    assert done.stdout.strip() == str(len(WRONG))


def test_initializers_are_not_run_when_a_file_is_loaded(tmp_path, monkeypatch):
    path = put(tmp_path / "net", GOOD)

    def never(self, shape, rng):
        raise AssertionError("drawn")

    monkeypatch.setattr(initializers.Initializer, "__call__", never)
    fn.load(path)


def test_file_descriptors_are_closed(tmp_path):
    right, wrong = put(tmp_path / "a", GOOD), put(tmp_path / "b", GOOD[:-1])
    network = small()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        fn.load(right)
        refused(wrong)
        network.save(tmp_path / "c")
        with pytest.raises(IsADirectoryError):
            network.save(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- no code ------------------------------------------------------------------------------------

FORBIDDEN = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "importlib",
    "runpy",
    "pkgutil",
    "ctypes",
    "eval",
    "exec",
    "compile",
    "__import__",
    "getattr",
    "globals",
    "import_module",
    "allow_pickle",
    "subprocess",
    "system",
    "yaml",
}


READERS = [
    "storage.py",
    "_tensorfile.py",
    "_networkfile.py",
    "_safefile.py",
    "cluster/files.py",
    "layers/base.py",
    "initializers.py",
    "model.py",
    "check.py",
]


def fixed_attributes(tree):
    """The names in getattr(x, "name"): no more than x.name."""
    for node in ast.walk(tree):
        named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if named and node.func.id == "getattr" and isinstance(node.args[1], ast.Constant):
            yield node.func


@pytest.mark.parametrize("name", READERS)
def test_nothing_that_reads_files_can_import_or_run(name):
    tree = ast.parse((Path(fn.__file__).parent / name).read_text())
    used, fixed = set(), set(fixed_attributes(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node not in fixed:
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            used.update(part for alias in node.names for part in alias.name.split("."))
            used.update((node.module or "").split(".") if isinstance(node, ast.ImportFrom) else ())
    assert used & FORBIDDEN == set()
    assert len(used) > 20


def test_loading_imports_no_module_that_a_file_names(tmp_path):
    path = put(tmp_path / "net", layer_value("class", "antigravity"))
    before = set(sys.modules)
    refused(path)
    refused(put(tmp_path / "net", about_value("kind", "antigravity")))
    assert set(sys.modules) - before == set()


# ---- samples of the long runs -------------------------------------------------------------------


def test_sample_of_mutated_files():
    done = run_python(str(HERE / "soak" / "fuzz_model_files.py"), "--count", "3000", "--seed", "1")
    assert "3,000 mutated files" in done.stdout


def test_sample_of_kills_during_save():
    done = run_python(str(HERE / "soak" / "kill_during_save.py"), "--count", "20", "--seed", "1")
    assert "20 kills" in done.stdout and "0 damaged files" in done.stdout
