"""The examples as a beginner runs them: a process of its own, in some other folder."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import fastnet as fn

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(script.name for script in EXAMPLES.glob("*.py"))
PLOTTING = [s for s in SCRIPTS if "matplotlib" in (EXAMPLES / s).read_text(encoding="utf-8")]
SHORT = ["--rows", "400", "--epochs", "2"]
QUICK = {"digits_from_the_book.py": SHORT, "lenet.py": SHORT, "denoise.py": SHORT}


def run(folder, script, *arguments, environment=None):
    """What a script prints on stdout. It meets the fastnet of this process, and no MNIST."""
    package = str(Path(fn.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": path, "FASTNET_CACHE": str(folder / "cache"), "FASTNET_DATA": ""}
    variables |= {"MPLCONFIGDIR": str(folder.parent / "matplotlib"), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=folder,
        env=os.environ | variables | (environment or {}),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def number(pattern, text):
    """The number that the pattern's group finds, which must be there once."""
    found = re.findall(pattern, text, re.M)
    assert len(found) == 1, f"{pattern} found {len(found)} times in\n{text}"
    return float(found[0])


def png_size(path):
    """Width and height of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:])


def test_every_example_is_described():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\((\w+\.py)\)", readme))) == SCRIPTS
    assert len(SCRIPTS) >= 6
    assert len(PLOTTING) >= 5


def test_apartment_rents(tmp_path):
    text = run(tmp_path, "apartment_rents.py")
    found = re.findall(r"^(.+?) +(\S+) euros/m2 +(\S+) euros$", text, re.M)
    lines = {name: (float(slope), float(intercept)) for name, slope, intercept in found}
    assert lines["by hand"] == pytest.approx(lines["fastnet"], rel=1e-3)
    assert lines["fastnet"] == pytest.approx(lines["least squares"], rel=1e-3)
    slope, intercept = lines["true"]
    assert lines["fastnet"][0] == pytest.approx(slope, abs=0.5)
    assert lines["fastnet"][1] == pytest.approx(intercept, abs=40)
    errors = [float(e) for e in re.findall(r"^ +\d+ +(\S+) euros  #", text, re.M)]
    assert len(errors) == 8
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 70 < 1000 < errors[0]  # down to the noise in the data


def test_perceptron(tmp_path):
    text = run(tmp_path, "perceptron.py")
    mistakes = re.search(r"mistakes in each pass: ([\d ]+)\n", text)[1].split()
    assert mistakes[-1] == "0"
    assert int(mistakes[0]) > 0
    assert number(r"hinge loss: (\d+)% right", text) == 100
    assert number(r"fastnet, sigmoid: (\d+)% right", text) == 100
    assert number(r"rule: (\d+) mistakes in pass 1000", text) >= 1
    assert number(r"fastnet, one layer: (\d+)% right", text) <= 75
    assert number(r"hidden layer of 4: (\d+)% right", text) == 100
    table = {(a, b): float(y) for a, b, y in re.findall(r"(\d) xor (\d) -> (\S+)", text)}
    for inputs, output in table.items():
        assert output == pytest.approx(int(inputs[0] != inputs[1]), abs=0.1)
    assert len(table) == 4
    drawn = [line[3:] for line in text.splitlines() if line.startswith("  |")]
    letters = "".join(drawn)
    assert len(drawn) == 18
    assert letters.count("o") > 20
    assert letters.count("x") > 20
    assert letters.count(".") > 100


def test_digits_from_the_book(tmp_path):
    text = run(tmp_path, "digits_from_the_book.py", "--epochs", "12")
    assert "embedded" in text.splitlines()[0]
    assert "1437 images to learn from, 12 epochs" in text
    assert number(r"in the book: (\S+)% of 360 test images right", text) > 82
    assert number(r"minibatches: (\S+)% of 360 test images right", text) > 86
    confused = re.findall(r"^  (\d): (\S+)% right; taken for (.*)$", text, re.M)
    assert len(confused) == 6
    assert all(re.fullmatch(r"(\d \(\d+x\)(, )?)+", others) for _, _, others in confused)
    captions = re.findall(r"a (\d) read as (\d)", text)
    assert len(captions) == 4
    assert all(what != answer for what, answer in captions)
    drawn = [line for line in text.splitlines() if line.count(" | ") == 3]
    assert len(drawn) == 1 + 8
    assert max(map(len, drawn)) <= 79


def test_digits_from_the_book_with_mnist(tmp_path, fastnet_data):
    if not list(fastnet_data.glob("mnist/*-ubyte*")):
        pytest.skip("FASTNET_DATA has no MNIST")
    found = {"FASTNET_DATA": str(fastnet_data)}
    arguments = ["--rows", "3000", "--epochs", "2"]
    text = run(tmp_path, "digits_from_the_book.py", *arguments, environment=found)
    assert text.startswith("MNIST: 3000 images to learn from, 2 epochs")
    assert number(r"in the book: (\S+)% of 10000 test images right", text) > 80
    assert number(r"minibatches: (\S+)% of 10000 test images right", text) > 85
    drawn = [line for line in text.splitlines() if line.count(" | ") == 1]
    assert len(drawn) == 1 + 14
    assert max(map(len, drawn)) <= 79


def test_lenet(tmp_path):
    text = run(tmp_path, "lenet.py", "--epochs", "25")
    assert "1437 images to learn from, 25 epochs" in text
    assert number(r"^(\S+)% of 360 test images right", text) > 88


def test_denoise(tmp_path):
    text = run(tmp_path, "denoise.py", "--epochs", "12")
    noisy = number(r"on 360 test images: (\S+) noisy", text)
    assert noisy == pytest.approx(0.115, abs=0.01)
    assert number(r"noisy, (\S+) restored", text) < noisy / 2


def test_train_mnist_cnn(tmp_path, fastnet_data):
    if not list(fastnet_data.glob("mnist/*-ubyte*")):
        pytest.skip("FASTNET_DATA has no MNIST")
    found = {"FASTNET_DATA": str(fastnet_data)}
    arguments = ["--rows", "1500", "--epochs", "2", "--out", "net.safetensors"]
    text = run(tmp_path, "train_mnist_cnn.py", *arguments, environment=found)
    accuracy = number(r"test accuracy: (\S+)%", text)
    assert accuracy > 75
    net = fn.load(tmp_path / "net.safetensors")
    (_, _), (x, y) = fn.datasets.load_mnist()
    assert (net.predict_classes(x) == y).mean() * 100 == pytest.approx(accuracy, abs=0.006)


def test_colors_of_a_picture(tmp_path):
    text = run(tmp_path, "colors_of_a_picture.py")
    assert number(r"^86400 pixels, (\d+) different colours", text) > 10_000
    errors = [float(e) for e in re.findall(r"^ +\d+ colours: +(\S+) of 255", text, re.M)]
    assert len(errors) == 4
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 8 < 25 < errors[0]


def test_digits_without_labels(tmp_path):
    text = run(tmp_path, "digits_without_labels.py")
    piles = re.findall(r"^pile \d: (\d+) images, (\d+)% of them are a (\d)$", text, re.M)
    assert sum(int(size) for size, _, _ in piles) == 1437
    assert len({digit for _, _, digit in piles}) >= 8
    assert number(r"called: (\S+)% of 360 right", text) > 65


@pytest.mark.parametrize("groups", [4, 6])
def test_how_many_clusters(tmp_path, groups):
    text = run(tmp_path, "how_many_clusters.py", "--groups", str(groups))
    assert number(r"^silhouette: (\d+) groups", text) == groups
    assert number(r"^BIC: (\d+) groups", text) == groups


@pytest.mark.parametrize("script", PLOTTING)
def test_plots(tmp_path, script):
    pytest.importorskip("matplotlib")
    name = script.replace(".py", ".png")
    text = run(tmp_path, script, *QUICK.get(script, []))
    assert text.endswith(f"plot: {name}\n")
    width, height = png_size(tmp_path / name)
    assert width > 1000
    assert height > 400
    other = tmp_path / "of another name.png"
    assert str(other) in run(tmp_path, script, *QUICK.get(script, []), "--out", str(other))
    assert png_size(other) == (width, height)


@pytest.mark.parametrize("script", PLOTTING)
def test_without_matplotlib(tmp_path, script):
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "matplotlib.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(fake), str(Path(fn.__file__).parents[1])])
    text = run(tmp_path, script, *QUICK.get(script, []), environment={"PYTHONPATH": path})
    assert "pip install matplotlib" in text.splitlines()[-1]
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(tmp_path, script):
    text = run(tmp_path, script, "--help")
    assert text.startswith("usage: ")
    assert "--out FILE" in text or script not in PLOTTING


def test_residual(tmp_path):
    text = run(tmp_path, "residual.py", "--epochs", "5")
    assert text.count("add") == 3
    assert number(r"([\d.]+) % of 360 digits", text) > 70
    plain = run(tmp_path, "residual.py", "--epochs", "1", "--plain")
    assert "Add" not in plain
    assert re.search(r"^\d\d,\d{3} weights$", plain, re.M)


def test_inception(tmp_path):
    text = run(tmp_path, "inception.py", "--epochs", "4", "--plot", "net.dot")
    assert number(r"the end is right about ([\d.]+) %", text) > 75
    assert number(r"half way about ([\d.]+) %", text) > 30
    assert (tmp_path / "net.dot").read_text(encoding="utf-8").startswith("digraph {")
