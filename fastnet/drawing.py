"""Pictures of a network's graph: as text, and by graphviz."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .graph import Call, Graph, Nested

if TYPE_CHECKING:
    from .layers import Layer
    from .network import Network

#: Lines that leave a cell up, down, to the left, to the right, as bits 1, 2, 4, 8.
_LINES = " ╵╷│╴╯╮┤╶╰╭├─┴┬┼"


def kind(layer: Layer) -> str:
    """A layer's class, window and activation."""
    if isinstance(layer, Nested):
        return f"{type(layer.inside).__name__} of {layer.inside._graph.size()} layers"
    activation = getattr(layer, "activation", None)
    name = type(layer).__name__
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if window is not None:
        name += " " + "x".join(map(str, window if isinstance(window, tuple) else (window,)))
    return name + (f", {activation}" if activation not in (None, "linear") else "")


def rows_of(shape: Sequence[int]) -> str:
    return "(" + ", ".join(["n", *map(str, shape)]) + ")"


def value_names(network: Network) -> list[str]:
    """What each value of the graph is called: the input, or the layer that gives it."""
    graph = network._graph
    names = [network.layers[i].label for i in range(graph.n_inputs)]
    if len(network.input_names) == 1:
        names = ["input" if not network._fixed else network.input_names[0]]
    for made in graph.calls:
        several = len(made.outputs) > 1
        for i in range(len(made.outputs)):
            names.append(made.layer.label + (f"[{i}]" if several else ""))
    return names


class _Rail:
    """Columns of lines, each a value on its way down to those who read it."""

    def __init__(self, left: dict[int, int]):
        self.columns: list[int | None] = []
        self.left = left  # how often each value is still to be read
        self.lines: list[str] = []

    def place(self, value: int) -> int:
        return self.columns.index(value)

    def free(self) -> int:
        if None not in self.columns:
            self.columns.append(None)
        return self.columns.index(None)

    def node(self, column: int, text: str) -> None:
        cells = ["│" if value is not None else " " for value in self.columns]
        cells[column] = "●"
        self.lines.append(" ".join(cells) + "  " + text)

    def join(self, above: Sequence[bool], ends: Sequence[int]) -> None:
        """A row between what was above and the columns as they are, with a line over `ends`."""
        low, high = min(ends), max(ends)
        text = ""
        for i in range(max(len(self.columns), len(above))):
            bits = 1 * (i < len(above) and above[i])
            bits += 2 * (i < len(self.columns) and self.columns[i] is not None)
            bits += 4 * (low < i <= high) + 8 * (low <= i < high)
            text += _LINES[bits] + ("─" if low <= i < high else " ")
        self.lines.append(text.rstrip())

    def call(self, made: Call, text: str) -> None:
        above = [value is not None for value in self.columns]
        places = [self.place(v) for v in made.inputs]
        for v, column in zip(made.inputs, places, strict=True):
            self.left[v] -= 1
            if not self.left[v]:
                self.columns[column] = None
        first = places[0]
        to = first if self.columns[first] is None else self.free()
        self.columns[to] = -1
        if len(set(places)) > 1 or to != first:
            self.join(above, [*places, to])
        self.node(to, text)
        self.columns[to] = None
        for value in made.outputs:
            self.start(value, to)

    def start(self, value: int, column: int) -> None:
        """A value begins; one that nobody reads ends here."""
        if self.left[value]:
            if self.columns[column] is not None:
                above = [v is not None for v in self.columns]
                to = self.free()
                self.columns[to] = value
                self.join(above, [column, to])
            else:
                self.columns[column] = value


def diagram(network: Network) -> str:
    """The graph as text: a line a layer, with lines from who gives rows to who reads them."""
    network._need_built("diagram")
    graph = network._graph
    left = dict.fromkeys(range(len(graph.shapes)), 0)
    for made in graph.calls:
        for v in made.inputs:
            left[v] += 1
    names, rail = value_names(network), _Rail(left)
    outputs = dict(zip(graph.outputs, network.output_names, strict=True))
    for v in range(graph.n_inputs):
        column = rail.free()
        rail.node(column, f"{names[v]} (Input)  {rows_of(graph.shapes[v])}")
        rail.start(v, column)
    for made in graph.calls:
        shapes = ", ".join(rows_of(graph.shapes[v]) for v in made.outputs)
        ends = [outputs[v] for v in made.outputs if v in outputs]
        mark = "  → " + ", ".join(ends) if ends and len(outputs) > 1 else ""
        rail.call(made, f"{made.layer.label} ({kind(made.layer)})  {shapes}{mark}")
    return "\n".join(line.rstrip() for line in rail.lines)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def dot(network: Network) -> str:
    """The graph in graphviz's language."""
    network._need_built("plot")
    graph: Graph = network._graph
    lines = [
        "digraph {",
        '  node [shape=box, style="rounded,filled", fillcolor="#eef3fa", color="#4a6785", '
        "fontname=sans, fontsize=12];",
        '  edge [color="#707070", fontcolor="#505050", fontname=sans, fontsize=10];',
    ]
    names = value_names(network)
    makers: dict[int, str] = {}
    for v in range(graph.n_inputs):
        makers[v] = f"input{v}"
        label = _quoted(f"{names[v]}\nInput")
        lines.append(f'  input{v} [label={label}, fillcolor="#e4e4e4", color="#606060"];')
    last = set(graph.outputs)
    for i, made in enumerate(graph.calls):
        ends = [rows_of(graph.shapes[v]) for v in made.outputs if v in last]
        label = _quoted("\n".join([made.layer.label, kind(made.layer), *ends]))
        style = ', fillcolor="#fdf0dd", color="#b06a00", penwidth=2' if ends else ""
        lines.append(f"  call{i} [label={label}{style}];")
        makers |= dict.fromkeys(made.outputs, f"call{i}")
        for v in made.inputs:  # a space keeps the shape off the line
            shape = _quoted(f" {rows_of(graph.shapes[v])}")
            lines.append(f"  {makers[v]} -> call{i} [label={shape}];")
    return "\n".join([*lines, "}", ""])


def plot(network: Network, path: Any) -> None:
    """Write a picture of the graph; the path's end says the format: .svg, .png, .pdf, .dot, ..."""
    path = os.fspath(path)
    end = os.path.splitext(path)[1].lstrip(".").lower()
    text = dot(network)
    if end in ("dot", "gv"):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    try:
        import graphviz
    except ImportError:
        raise ImportError(
            'plot wants graphviz: pip install "fastnet[graph]" and its program dot '
            "(apt install graphviz); a path that ends with .dot, and diagram(), want neither"
        ) from None
    if end not in graphviz.FORMATS:
        raise ValueError(f"plot wants a path that ends with .svg, .png, .pdf or .dot, got {path!r}")
    try:
        picture = graphviz.Source(text).pipe(format=end)
    except graphviz.ExecutableNotFound:
        raise RuntimeError(
            "plot wants graphviz's program dot, which is not on the PATH (apt install graphviz); "
            "a path that ends with .dot, and diagram(), do not"
        ) from None
    with open(path, "wb") as out:
        out.write(picture)
