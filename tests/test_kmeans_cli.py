"""fastnet cluster: what it prints and writes, and errors in one line."""

import csv
import functools
import json
import struct

import numpy as np
import pytest

import fastnet as fn
from fastnet import storage
from fastnet.cli import main
from fastnet.cli.cluster import _fixed


@pytest.fixture
def run(run):
    """Run `fastnet cluster` in an empty folder: (exit code, stdout, stderr)."""
    return functools.partial(run, "cluster")


@pytest.fixture
def flowers(tmp_path):
    """Three groups of rows in a CSV, with a column of texts."""
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], 40)
    x = np.array([[0, 0], [9, 0], [0, 9]])[kind] + rng.standard_normal((120, 2))
    lines = ["length,width,kind"]
    lines += [f"{a:.5f},{b:.5f},{'abc'[k]}" for (a, b), k in zip(x, kind, strict=True)]
    path = tmp_path / "flowers.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_numbers_of_a_column_have_the_same_decimals():
    assert [_fixed(575.4)(v) for v in (575.4, 581.0, 3.2)] == ["575.4", "581.0", "3.2"]
    assert [_fixed(0.01234)(v) for v in (0.01234, 0.01)] == ["0.01234", "0.01000"]
    assert [_fixed(98765.4)(v) for v in (98765.4, 12.0)] == ["98765", "12"]
    assert _fixed(2e-13)(2e-13) == "2e-13"
    assert _fixed(0.0)(0.0) == "0"


def test_digits_in_ten_groups(run, tmp_path):
    code, out, err = run("--out", "l.csv", "--model", "c.safetensors")
    assert (code, err) == (0, "")
    assert "handwritten digits (embedded)" in out
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("cluster  rows"))
    sizes = [int(line.split()[1]) for line in lines[at + 1 : at + 11]]
    assert sum(sizes) == 1437
    (x, _), _ = fn.datasets.load_digits()
    model = fn.load(tmp_path / "c.safetensors")
    labels = model.predict(x.reshape(len(x), -1))
    assert np.bincount(labels).tolist() == sizes
    with open(tmp_path / "l.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(1437))
    assert [int(row["cluster"]) for row in rows] == labels.tolist()
    far = model.transform(x.reshape(len(x), -1)).min(axis=1)
    np.testing.assert_allclose([float(row["distance"]) for row in rows], far, rtol=1e-5)
    assert f"Inertia   {model.inertia_:.6g}" in out
    assert "silhouette 0.1" in out
    assert int(out.split("Agreement ")[1].split(".")[0]) > 70
    assert storage.info(tmp_path / "c.safetensors").extra["image"] == [8, 8]


def test_what_other_commands_make_of_centers(run, tmp_path, capsys):
    run("--k", 3, "--model", "c.safetensors")
    assert main(["info", "c.safetensors"]) == 0
    assert "KMeans, 3 clusters, euclidean" in capsys.readouterr().out
    assert main(["info", "--json", "c.safetensors"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == {"cluster_centers": [3, 64]}
    assert main(["predict", "c.safetensors", "digits"]) == 2
    assert "it holds k-means centers, a network is wanted" in capsys.readouterr().err


def test_a_table_with_a_column_of_texts(run, flowers):
    code, out, _ = run(flowers, "--k", 3, "--label", "kind", "--out", "l.csv", "--quiet")
    assert code == 0
    assert out.splitlines()[0].startswith("Inertia ")
    assert "Agreement 100.0 % of the rows" in out
    code, out, err = run(flowers, "--k", 3)
    assert code == 2
    assert "--label COLUMN leaves a column out" in err


def test_the_best_of_several_k(run, flowers):
    code, out, _ = run(flowers, "--k", "2-6", "--label", "kind")
    assert code == 0
    best = next(line for line in out.splitlines() if line.endswith("<- best"))
    assert best.split()[0] == "3"
    assert "Clusters  3, euclidean, warm starts" in out


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_options(run, flowers, init):
    words = [flowers, "--label", "kind", "--k", 4, "--init", init, "--seed", 3, "--threads", 2]
    words += ["--metric", "cosine", "--starts", 2, "--max-iter", 5, "--scale"]
    first, second = run(*words), run(*words)
    assert first[0] == 0
    assert "Clusters  4, cosine, " + init in first[1]
    assert first[1].split("\n\n")[1] == second[1].split("\n\n")[1]


@pytest.mark.parametrize("what", ["images", "rows", "one column"])
def test_plot(run, flowers, tmp_path, what):
    pytest.importorskip("matplotlib")
    words = [flowers, "--label", "kind", "--k", 3] if what == "rows" else ["digits", "--k", 4]
    if what == "one column":
        np.save(tmp_path / "x.npy", np.random.default_rng(0).random((50, 1)))
        words = ["x.npy", "--k", 3]
    code, out, _ = run(*words, "--plot", "p.png")
    assert code == 0
    assert "Plot      p.png" in out
    head = (tmp_path / "p.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", head[16:])) > 500


def test_a_plot_of_directions_has_rows_of_length_1():
    figures = pytest.importorskip("matplotlib.figure")
    from fastnet.cli.cluster_plot import _rows

    x = np.random.default_rng(0).uniform(1, 9, (40, 2))
    for metric in ("cosine", "euclidean"):
        figure = figures.Figure()
        _rows(figure, x, fn.KMeans(3, metric=metric, random_state=0).fit(x), None)
        points, centers = (c.get_offsets() for c in figure.axes[0].collections)
        lengths = np.sqrt((np.asarray(points) ** 2).sum(axis=1))
        assert np.allclose(lengths, 1) == (metric == "cosine")
        assert len(centers) == 3


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(run):
    pytest.importorskip("matplotlib")
    code, out, err = run("--plot", "p.foo")
    assert (code, out) == (2, "")
    assert "--plot p.foo: pictures end with" in err
    assert ", png," in err


def test_plot_wants_matplotlib(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("--plot", "p.png")
    assert (code, 'pip install "fastnet[plot]"' in err) == (2, True)


BAD = {
    "no such file": (["nothing.csv"], "no file or folder 'nothing.csv'"),
    "k 0": (["--k", "0"], "wanted a number >= 1 or a range as 2-12, got '0'"),
    "k backwards": (["--k", "5-2"], "wanted a number >= 1 or a range"),
    "k of words": (["--k", "ten"], "wanted a number >= 1 or a range"),
    "too many clusters": (["--k", "2000"], "digits: 2000 clusters of 1,437 rows"),
    "init": (["--init", "best"], "invalid choice: 'best'"),
    "folder": (["--out", "."], "is a folder"),
    "no folder": (["--model", "no/m"], "there is no folder"),
    "max-iter": (["--max-iter", "0"], "wanted a whole number >= 1"),
    "unknown option": (["--clusters", "3"], "unknown argument '--clusters'"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_are_one_line(run, case):
    words, message = BAD[case]
    code, out, err = run(*words)
    assert code == 2
    assert message in err
    assert err.startswith("fastnet: error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_bad_values(run, tmp_path):
    x = np.ones((20, 3))
    x[4, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    code, _, err = run("x.npy", "--k", 2)
    assert (code, "X contains NaN: row 4, column 1" in err) == (2, True)
    np.save(tmp_path / "x.npy", np.ones((20, 3)))
    code, _, err = run("x.npy", "--k", 2)
    assert code == 0
    assert "note: Number of distinct clusters (1) found smaller than n_clusters (2)" in err
