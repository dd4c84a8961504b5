"""Networks with branches as text and pictures: diagram, summary, plot."""

import shutil

import pytest
from graphs import (
    residual,
    two_by_two,
)

import fastnet as fn
from fastnet import layers

DIAGRAM = """\
●  input (Input)  (n, 5)
├─╮
│ ●  dense (Dense, tanh)  (n, 7)
│ ├─╮
│ │ ●  dense_1 (Dense, sigmoid)  (n, 7)
│ ├─┤
│ │ ●  add (Add)  (n, 7)
╰─┴─┤
    ●  concatenate (Concatenate)  (n, 19)
    ●  dense_2 (Dense, softmax)  (n, 3)"""


def test_diagram_and_summary_show_the_connections():
    assert residual().diagram() == DIAGRAM
    net = two_by_two()
    text = net.diagram()
    assert "far (Subtract)  (n, 6)" in text
    assert "kind (Dense, softmax)  (n, 3)  → kind" in text
    lines = []
    net.summary(print_fn=lines.append)
    summary = lines[0]
    assert "reads" in summary.splitlines()[1]
    (tower,) = [line for line in summary.splitlines() if line.startswith("tower")]
    assert tower.endswith("left; right")
    (far,) = [line for line in summary.splitlines() if line.startswith("far")]
    assert far.endswith("tower, tower")
    small = fn.Sequential([layers.Input(3), layers.Dense(2, name="a")])
    assert small.diagram() == "●  input (Input)  (n, 3)\n●  a (Dense)  (n, 2)"


def test_plot_writes_graphviz(tmp_path, monkeypatch):
    net = residual()
    net.plot(tmp_path / "net.dot")
    text = (tmp_path / "net.dot").read_text(encoding="utf-8")
    assert text.startswith("digraph {")
    assert text.count("->") == sum(len(made.inputs) for made in net._graph.calls)
    assert '"add\\nAdd"' in text
    assert '"dense_2\\nDense, softmax\\n(n, 3)"' in text
    monkeypatch.setitem(__import__("sys").modules, "graphviz", None)
    with pytest.raises(ImportError, match=r"fastnet\[graph\]"):
        net.plot(tmp_path / "net.svg")


def test_windows_are_told():
    x = fn.Input((8, 6, 1))
    a = layers.Conv2D(2, (3, 5), padding="same", activation="relu")(x)
    b = layers.MaxPool2D(2, strides=1, padding="same")(x)
    net = fn.Model(x, layers.Concatenate()([a, b]))
    assert "conv2d (Conv2D 3x5, relu)  (n, 8, 6, 2)" in net.diagram()
    assert "max_pool2d (MaxPool2D 2x2)  (n, 8, 6, 1)" in net.diagram()


def test_plot_by_the_program(tmp_path):
    pytest.importorskip("graphviz")
    if shutil.which("dot") is None:
        pytest.skip("graphviz's program dot is not installed")
    net = residual()
    net.plot(tmp_path / "net.svg")
    picture = (tmp_path / "net.svg").read_text(encoding="utf-8")
    for text in ("dense_1", "Dense, sigmoid", "(n, 7)", "(n, 3)", "Concatenate"):
        assert text in picture
    net.plot(tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_the_program_says_how_to_get_it(tmp_path, monkeypatch):
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt install graphviz"):
        residual().plot(tmp_path / "net.svg")
    with pytest.raises(ValueError, match="ends with"):
        residual().plot(tmp_path / "net.nonsense")
