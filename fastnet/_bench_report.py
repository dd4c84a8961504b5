"""The page that `fastnet bench` prints and writes: machine, table, notes, thread grids."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ._peers import LABELS
from ._peers.worker import available_cpus

if TYPE_CHECKING:
    from .bench import Case, Grid, Measurement, Result

BEGIN, END = "<!-- fastnet bench: begin -->", "<!-- fastnet bench: end -->"
PACKAGES = {"sklearn": "scikit-learn"}


def seconds(t: float) -> str:
    """Return a time with its unit and three digits."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if t >= unit or unit == 1e-6:
            value = t / unit
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {name}"
    return ""


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def simd_level() -> str:
    """Return the SIMD level that fastnet chose, else what the processor's flags allow."""
    try:
        from . import _core

        return str(_core.simd_level())
    except (ImportError, AttributeError):
        pass
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    return "v4" if "avx512vl" in flags else "v3" if {"avx2", "fma"} <= flags else "base"


def versions(libraries: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, version) of the libraries that are installed, without importing them."""
    found = []
    for name in libraries:
        try:
            version = importlib.metadata.version(PACKAGES.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append((LABELS[name].split(" jit")[0], version))
    return found


def aligned(rows: list[list[str]]) -> str:
    """Return a plain table: first column left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def piped(rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def who(m: Measurement) -> str:
    """Return the library and thread count of a measurement."""
    return LABELS[m.library] + (f" at {m.threads} threads" if m.threads else "")


@dataclass
class Page:
    """All that one benchmark found.

    peak, gemm : GFLOP/s of one thread: multiply-add peak, and NumPy's sgemm (NaN: not known).
    """

    libraries: list[str]
    threads: list[int]
    busy: bool = False
    peak: float = math.nan
    gemm: float = math.nan
    note: str = ""
    results: list[Result] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, result: Result) -> None:
        """Add one case."""
        self.results.append(result)

    def result(self, case: Case) -> Result:
        """Return the result of a case, an empty one that was just added if there was none."""
        for result in self.results:
            if result.case == case:
                return result
        from .bench import Result

        self.add(Result(case, []))
        return self.results[-1]

    def shown(self, results: list[Result]) -> list[str]:
        """Return the libraries that measured any of these, fastnet first."""
        names = {m.library for r in results for m in r.measurements if not m.error}
        return [name for name in self.libraries if name in names]

    def failed(self) -> bool:
        """Return whether results differ, or fastnet could not do a case."""
        everything = [m for r in self.results for m in r.measurements]
        broken = any(m.library == "fastnet" and m.error for m in everything)
        return broken or any(r.odd_losses() for r in self.results)

    # -- the parts

    def machine(self) -> list[str]:
        """Return the lines that say where, when and with what this was measured."""
        rate = [f"peak {self.peak:.0f}"] * (not math.isnan(self.peak))
        rate += [f"NumPy sgemm {self.gemm:.0f}"] * (not math.isnan(self.gemm))
        quiet = "beside one busy process" if self.busy else f"load {self.load:.2f} at the start"
        libraries = ", ".join(f"{name} {version}" for name, version in versions(self.libraries))
        return [
            f"{cpu_model()}, level {simd_level()}, {len(available_cpus())} CPUs; "
            f"one thread: {', '.join(rate) or 'not measured'} GFLOP/s",
            f"{datetime.date.today()}, {quiet}, Python {platform.python_version()}, {libraries}",
        ]

    def tables(self) -> list[list[list[str]]]:
        """Return the tables of networks and of k-means, where there are such cases."""
        kinds = (False, True)
        return [self.table(c) for c in kinds if any(r.case.clusters == c for r in self.results)]

    def table(self, clusters: bool = False) -> list[list[str]]:
        """Return a table as rows of text, the head first: of networks, or of k-means."""
        results = [r for r in self.results if r.case.clusters == clusters]
        names = self.shown(results)
        rows = [["case", "threads", *(LABELS[n] for n in names), "best rival", "of peak"]]
        for result in results:
            counts = sorted({m.threads or 0 for m in result.measurements})
            rows += [self.row(result, names, t or None) for t in counts]
        return rows

    def row(self, result: Result, names: list[str], threads: int | None) -> list[str]:
        """Return one line: rivals at their best with so many threads or fewer, and ratios."""
        own = result.find("fastnet", threads)
        cells, rivals = [], []
        for name in names:
            m = own if name == "fastnet" else result.best(name, threads)
            cells.append("-" if m is None else self.cell(m, own, threads))
            if m is not None and name != "fastnet":
                rivals.append(m)
        best = min(rivals, key=lambda m: m.best, default=None)
        rival = share = "-"
        if best is not None:
            rival = LABELS[best.library] + (f" {best.best / own.best:.2f}x" if own else "")
        timed = own or best
        if timed and threads and result.case.flops and not math.isnan(self.peak):
            rate = result.case.flops / timed.best * 1e-9
            share = f"{100 * rate / (threads * self.peak):.0f} %"
        return [result.case.title, str(threads or "-"), *cells, rival, share]

    @staticmethod
    def cell(m: Measurement, own: Measurement | None, threads: int | None) -> str:
        """Return a time, "(1)" when fewer threads were faster, and how much slower it is."""
        text = seconds(m.best)
        if m.threads != threads:
            text += f" ({m.threads})"
        return text if own is None or m is own else f"{text} {m.best / own.best:.2f}x"

    def notes(self) -> list[str]:
        """Return what the table leaves out: differing results, noise, compilation, refusals."""
        out = [self.note] if self.note else []
        if any(r.case.data == "mnist" and r.case.flops for r in self.results):
            out.append(
                "of peak counts products with zeros as done; fastnet skips them where it can, and "
                "81 % of MNIST is zeros: the rows without zeros show the arithmetic alone"
            )
        if self.peak < self.gemm:
            out.append("the measured peak is below NumPy's sgemm rate: shares of peak are too high")
        for result in self.results:
            for m, loss in result.odd_losses():
                out.append(
                    f"{result.case.name}: RESULT DIFFERS: {who(m)} ends with loss {loss:.4f}, "
                    f"the first library with {result.losses()[0][1]:.4f}"
                )
        return [*out, *self.noise(), *self.compilation(), *self.refusals()]

    def noise(self) -> list[str]:
        """Return one line on the measurement whose median is furthest from its best."""
        pairs = [(r.case, m) for r in self.results for m in r.measurements if not m.error]
        if not pairs:
            return []
        case, m = max(pairs, key=lambda pair: median(pair[1].times) / pair[1].best)
        ratio = median(m.times) / m.best
        return [f"noise: median over best at most {ratio:.2f} ({case.name}, {who(m)})"]

    def compilation(self) -> list[str]:
        """Return one line on what JAX compiles before its times start."""
        parts = []
        for result in self.results:
            scale = (result.case.report_rows or result.case.rows) / result.case.rows
            found = [m for m in result.measurements if m.library == "jax" and m.threads]
            times = [seconds(m.first - m.best / scale) for m in found if not m.error]
            if times:
                parts.append(f"{result.case.name} {' / '.join(times)}")
        counts = " / ".join(map(str, self.threads))
        return [f"JAX compiles first, at {counts} threads: {', '.join(parts)}"] if parts else []

    def refusals(self) -> list[str]:
        """Return a line for each reason why a library has no time somewhere."""
        reasons: dict[str, list[str]] = {}
        for result in self.results:
            for m in result.measurements:
                if m.error and " does not " not in m.error:
                    text = f"{LABELS[m.library]}: {m.error.removeprefix('RefusedError: ')}"
                    reasons.setdefault(text, []).append(result.case.name)
        return [f"{text} [{', '.join(dict.fromkeys(at))}]" for text, at in reasons.items()]

    def grid(self, grid: Grid) -> tuple[str, list[list[str]]]:
        """Return a grid's heading, and its rows: the median ratio, "!" where it is too high."""
        widths = sorted({w for w, _ in grid.cells})
        batches = sorted({b for _, b in grid.cells})
        bad = grid.inversions()
        what = "one thread there" if grid.busy else "the best fixed count"
        head = (
            f"{LABELS[grid.library]}, default threads over {what}, "
            f"{'beside one busy process' if grid.busy else 'quiet machine'}: "
            f"{len(bad)} of {len(grid.cells)} above {grid.bound} in every repeat"
        )
        rows = [["width", *(f"batch {b}" for b in batches)]]
        for w in widths:
            cells = []
            for b in batches:
                ratios = grid.ratios((w, b))
                mark = "!" if (w, b) in bad else ""
                cells.append(f"{median(ratios):.2f}{mark}" if ratios else "-")
            rows.append([str(w), *cells])
        return head, rows

    # -- the whole

    def text(self) -> str:
        """Return the page as plain text."""
        parts = ["\n".join(self.machine())]
        parts += map(aligned, self.tables())
        parts += ["\n".join(self.notes())] if self.notes() else []
        for grid in self.grids:
            head, rows = self.grid(grid)
            parts.append(f"{head}\n{aligned(rows)}")
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """Return the page as Markdown, between the two marks."""
        parts = [BEGIN, "  \n".join(self.machine())]
        parts += map(piped, self.tables())
        parts += ["\n".join(f"* {note}" for note in self.notes())] if self.notes() else []
        for grid in self.grids:
            head, rows = self.grid(grid)
            parts += [f"{head}:", piped(rows)]
        return "\n\n".join([*parts, END])


def check_target(path: str) -> None:
    """Raise ValueError if `path` is a file of somebody else's: one without the two marks."""
    file = Path(path)
    if file.exists():
        text = file.read_text(encoding="utf-8")
        if not 0 <= text.find(BEGIN) < text.find(END):
            raise ValueError(f"{path} exists and holds no place for the table: {BEGIN} ... {END}")


def write_markdown(path: str, page: str) -> None:
    """Write the page to a new file, or over what stands between the marks of an old one."""
    check_target(path)
    file = Path(path)
    before = after = ""
    if file.exists():
        text = file.read_text(encoding="utf-8")
        before, after = text[: text.find(BEGIN)], text[text.find(END) + len(END) :]
    file.write_text(before + page + (after or "\n"), encoding="utf-8")
