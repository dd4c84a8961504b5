"""The README tells the truth: its code runs; the commands, options and tests it names exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn
from fastnet import (
    callbacks,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    schedules,
)
from fastnet.cli import main

TESTS = Path(__file__).parent
ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_the_code_runs_as_it_stands(tmp_path):
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) == 15
    path = os.pathsep.join(
        filter(None, [str(Path(fn.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"'accuracy': ([\d.]+)", done.stdout)[1]) > 0.86
    assert len(re.findall(r"\[\d(?: \d){9}\]", done.stdout)) == 2
    assert (tmp_path / "digits.safetensors").stat().st_size > 50_000


def test_the_model_trains():
    (code,) = blocks("py")
    names = {"fn": fn, "layers": layers}
    exec(code, names)
    x, y = datasets.load_digits()[0]
    x, other = x[:100].reshape(100, 64) / 255, np.roll(y[:100], 1)
    targets = {"same": y[:100] == other, "digit": y[:100]}
    inputs = {"left": x, "right": np.roll(x, 1, axis=0)}
    history = names["trainer"].fit(inputs, targets, epochs=20)
    assert history["digit_loss"][-1] < 0.8 * history["digit_loss"][0]
    same, digit = names["net"].predict([inputs["left"], inputs["right"]])
    assert (same.shape, digit.shape) == ((100, 1), (100, 10))


def test_the_clustering_runs_as_it_stands(capsys):
    (code,) = blocks("python3")
    names = {}
    exec(code, names)
    assert len(names["model"].labels_) == len(names["x"]) == 1437
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:12]] == [str(k) for k in range(2, 13)]
    assert 2 <= int(printed[-1].split()[-1]) <= 12


def test_the_code_for_images_runs_as_it_stands(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "cache"))
    (code,) = (block for block in blocks("python") if "load_image_folder" in block)
    for name, shade in (("oak", 60), ("birch", 200)):
        (tmp_path / "leaves" / name).mkdir(parents=True)
        for i in range(30):
            image.new("RGB", (40, 30), (shade, shade + i, 50)).save(f"leaves/{name}/{i}.png")
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    assert len(found["data"].x_test) == 12
    assert set(found["data"].classes) == {"oak", "birch"}


@pytest.mark.parametrize(("kind", "last"), [("demo", "fastnet train"), ("test", "pytest -q)")])
def test_commands_are_one_line_each(kind, last):
    (command,) = re.findall(rf"<!-- command:{kind} -->\n```\n(.*?)```", README, re.S)
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")
    assert command.strip().endswith(last)
    assert len(re.findall("<!-- command:", README)) == 2


def console():
    """Command lines of the README, comments cut off."""
    (text,) = blocks("console")
    return [line.split("#")[0].split() for line in text.splitlines()]


@pytest.mark.parametrize("words", console(), ids=" ".join)
def test_commands_and_options_exist(words, capsys):
    assert words[0] == "fastnet"
    assert main([words[1], "--help"]) == 0
    text = capsys.readouterr().out
    for word in words[2:]:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", text), f"fastnet {words[1]} has no {word}"


def test_every_command_is_shown(capsys):
    assert main(["--help"]) == 0
    listed = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.M)
    assert len(listed) >= 7
    assert {words[1] for words in console()} == set(listed)


def row(title):
    """The names in a row of the table of what there is."""
    (text,) = re.findall(rf"^\| {title} \| (.*) \|$", README, re.M)
    return {name for name in re.findall(r"`(\w+)`", text) if name not in ("Callback", "fastnet")}


def subclasses(module, base):
    """Names of a module's public classes below a base."""
    return {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and not name.startswith("_")
    }


def test_the_table_is_complete():
    assert row("Layers") == {cls.__name__ for cls in layers.LAYERS.values()}
    assert row("Activations") == set(layers.core.ACTIVATIONS)
    assert row("Losses") == set(losses._CLASSES)
    assert row("Optimizers") == subclasses(optimizers, optimizers.Optimizer) - {"Optimizer"}
    assert row("Metrics") == set(metrics._CLASSES)
    assert row("Initialisers") == set(initializers.names())
    assert row("Callbacks") == subclasses(callbacks, callbacks.Callback) - {"Callback"}
    rates = subclasses(schedules, schedules.Schedule) - {"Schedule", "ConstantRate"}
    assert row("Learning rates") == rates


def test_the_tests_it_names_exist():
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) > 10
    there = set()
    for file in TESTS.glob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.M))
    assert named - there == set()


def test_links_lead_somewhere():
    """In a checkout all of them; where there is no setup.py, those that came with the tests."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    links += re.findall(r"`(tests/[\w./]+)`", README)
    assert len(links) >= 7
    if not (ROOT / "setup.py").exists():
        links = [link for link in links if Path(link).parts[0] in ("examples", "tests")]
    assert [link for link in links if not (ROOT / link).exists()] == []
