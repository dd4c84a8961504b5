"""The commands that use a model file: evaluate, info, predict, show."""

import csv
import io
import json
import os
import re
import select
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import process

import fastnet as fn
from fastnet import datasets, layers
from fastnet.cli.pictures import Style, draw, fit_width
from fastnet.storage import load

# ---- evaluate, info -----------------------------------------------------------------------------


def test_evaluate(run, digits):
    code, out, err = run("evaluate", digits)
    assert (code, err) == (0, "")
    assert "digits: 360 test images" in out
    (_, _), (x, y) = datasets.load_digits()
    said = load(digits).predict_classes(x)
    assert f"({(said == y).sum()} of 360)" in out
    code, out, _ = run("evaluate", digits, "--data", "digits", "--format", "json")
    result = json.loads(out)
    assert result["accuracy"] == pytest.approx((said == y).mean())
    assert result["classes"]["3"]["rows"] == (y == 3).sum()
    assert 0 < result["loss"] < 1


def test_evaluate_on_what_was_learned_says_so(run, digits):
    code, out, err = run("evaluate", digits, "--part", "train", "--threads", 1)
    assert code == 0
    assert "1,437 training images" in out
    assert "trained on" in err


def test_evaluate_matches_classes_by_name(run, bad, digits):
    (_, _), (x, y) = datasets.load_digits()
    some = np.isin(y, (3, 5))
    np.savez("some.npz", x=x[some], y=y[some])
    code, out, _ = run("evaluate", digits, "--data", "some.npz", "--format", "json")
    assert code == 0
    result = json.loads(out)
    assert sorted(result["classes"]) == ["3", "5"]
    assert result["accuracy"] > 0.7
    np.savez("other.npz", x=x, y=y + 7)
    assert "label '10' is none of the model's classes" in bad(
        "evaluate", digits, "--data", "other.npz"
    )


def test_evaluate_amounts(run, prices):
    assert run("train", "-q", "--data", prices)[0] == 0
    code, out, err = run("evaluate", "prices.safetensors", "--data", prices)
    assert code == 0
    assert "mean absolute error" in out
    assert "trained on" in err


def test_info(run, digits):
    code, out, err = run("info", digits)
    assert (code, err) == (0, "")
    assert "images of 8 x 8 pixels" in out
    assert "10 classes: 0, 1, 2" in out
    assert "on digits" in out
    assert "parameters: 15,010" in out
    code, out, _ = run("info", digits, "--json")
    result = json.loads(out)
    assert result["parameters"] == 15010
    assert result["extra"]["data"] == "digits"


def test_info_of_something_else(bad, flowers, tmp_path):
    assert "cannot be loaded" in bad("info", flowers)
    whole = tmp_path / "cut.safetensors"
    network = fn.Sequential([layers.Input(3), layers.Dense(2)], seed=0)
    network.build(3)
    network.save(whole)
    whole.write_bytes(whole.read_bytes()[:-3])
    assert "cannot be loaded" in bad("predict", whole, "1,2,3")


def test_a_network_saved_without_the_command_line(run, tmp_path):
    network = fn.Sequential([layers.Input(3), layers.Dense(4, "softmax")], seed=0)
    network.build(3)
    network.save("net.safetensors")
    code, out, _ = run("predict", "net.safetensors", "1,2,3", "--format", "json")
    x = np.array([[1, 2, 3]], np.float32)
    assert (code, json.loads(out)[0]["prediction"]) == (0, str(network.predict_classes(x)[0]))
    assert "4 classes: 0, 1, 2, 3" in run("info", "net.safetensors")[1]


def test_metadata_is_not_trusted(run, tmp_path):
    from fastnet.storage import save

    network = fn.Sequential([layers.Input(3), layers.Dense(2, "softmax")], seed=0)
    network.build(3)
    save(network, "odd.safetensors", extra={
        "task": 7, "classes": ["one"], "pixels": "x", "label": [], "feature_names": {},
        "training": {"results": {"a": {"b": "c"}, "d": 1}, "seed": ["x"]}, "data": None,
    })  # fmt: skip
    assert run("info", "odd.safetensors")[0] == 0
    code, out, _ = run("predict", "odd.safetensors", "1,2,3")
    assert code == 0
    assert out.split()[1] in ("0", "1")


# ---- predict ------------------------------------------------------------------------------------


def test_predict_text(run, digits):
    code, out, err = run("predict", digits, "digits", "--start", 2, "--count", 3, "--top", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("digits[2]")
    assert len(re.findall(r"[\d.]+ %", lines[0])) == 2
    assert re.fullmatch(r"[0-3] of 3 right", lines[3])


def test_predict_csv_and_json_agree_with_the_network(run, digits):
    (_, _), (x, y) = datasets.load_digits()
    network = load(digits)
    scores = network.predict(x[:20])
    code, out, _ = run("predict", digits, "digits", "--count", 20, "--format", "csv", "--top", 3)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, len(rows)) == (0, 20)
    assert [int(r["prediction"]) for r in rows] == scores.argmax(1).tolist()
    assert np.allclose([float(r["score"]) for r in rows], scores.max(1), atol=1e-5)
    assert np.allclose([float(r["score_3"]) for r in rows], np.sort(scores)[:, -3], atol=1e-5)
    code, out, _ = run("predict", digits, "digits", "--count", 20, "--format", "json", "--top", 99)
    items = json.loads(out)
    assert [int(item["prediction"]) for item in items] == scores.argmax(1).tolist()
    assert [int(item["label"]) for item in items] == y[:20].tolist()
    assert len(items[0]["top"]) == 10


def test_predict_arrays(run, bad, digits):
    (_, _), (x, _) = datasets.load_digits()
    np.save("images.npy", x[:5])
    np.save("flat.npy", x[:5].reshape(5, 64))
    np.save("one.npy", x[0])
    np.save("unit.npy", x[:5] / 255)
    np.savez("named.npz", x=x[:5])
    expected = None
    for name in ("images.npy", "flat.npy", "unit.npy", "named.npz"):
        code, out, err = run("predict", digits, name, "--format", "csv")
        assert code == 0
        assert ("times 255" in err) == (name == "unit.npy")
        answers = [row["prediction"] for row in csv.DictReader(io.StringIO(out))]
        expected = expected or answers
        assert (len(answers), answers) == (5, expected)
    assert run("predict", digits, "one.npy")[1].split()[:2] == ["one.npy", expected[0]]
    np.save("wrong.npy", x[:, :7])
    assert "wants rows of shape (8, 8), got (7, 8)" in bad("predict", digits, "wrong.npy")
    assert "--start 5 is behind" in bad("predict", digits, "images.npy", "--start", 5)
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "objects.npy" in bad("predict", digits, "objects.npy")


def test_predict_rows_of_a_table(run, bad, flowers, tmp_path):
    assert run("train", "-q", "--data", flowers)[0] == 0
    model = "flowers.safetensors"
    code, out, _ = run("predict", model, flowers, "--count", 3, "--format", "json")
    assert code == 0
    assert [i["label"] for i in json.loads(out)] == ["iris", "rose", "tulip"]
    assert [i["prediction"] for i in json.loads(out)] == ["iris", "rose", "tulip"]
    lines = run("predict", model, flowers, "--count", 3)[1].splitlines()[:3]
    assert len({line.index(" %") for line in lines}) == 1  # classes of 4 and of 5 letters
    (tmp_path / "new.csv").write_text("width,length\n5,0\n-1,4\n")  # columns the other way round
    code, out, err = run("predict", model, "new.csv", "--format", "csv")
    assert [r["prediction"] for r in csv.DictReader(io.StringIO(out))] == ["iris", "tulip"]
    assert "by their names" in err
    (tmp_path / "bare.csv").write_text("0,5\n4,-1\n")
    code, out, _ = run("predict", model, "bare.csv", "4,-1", "--top", 3)
    assert re.findall(r"^\S+ +(\w+)", out, re.M) == ["iris", "tulip", "tulip"]
    (tmp_path / "less.csv").write_text("length\n1\n")
    assert "no column 'width'" in bad("predict", model, "less.csv")
    (tmp_path / "more.csv").write_text("1,2,3,4\n")
    assert "wants 2 features, got 4" in bad("predict", model, "more.csv")
    (tmp_path / "text.csv").write_text("length,width\n1,x\n")
    assert "text.csv" in bad("predict", model, "text.csv")
    assert "wants rows of shape (2,)" in bad("predict", model, "1,2,3")
    assert "no file" in bad("predict", model, "1,x")


def test_predict_amounts(run, prices):
    assert run("train", "-q", "--data", prices)[0] == 0
    x = np.array([[0.25, -0.5]], np.float32)
    expected = load("prices.safetensors").predict(x)[0, 0]
    code, out, _ = run("predict", "prices.safetensors", "0.25,-0.5", "--format", "csv")
    row = next(csv.DictReader(io.StringIO(out)))
    assert (code, np.float32(row["prediction"])) == (0, expected)
    code, out, _ = run("predict", "prices.safetensors", prices, "--count", 2)
    assert out.count("(is ") == 2


def test_predict_takes_names_behind_options(run, bad, prices):
    assert run("train", "-q", "--data", prices, "--epochs", 1)[0] == 0
    want = run("predict", "prices.safetensors", "0.25,-0.5", "--format", "csv")
    assert want[0] == 0
    assert run("predict", "prices.safetensors", "--format", "csv", "0.25,-0.5") == want
    assert run("predict", "--format", "csv", "prices.safetensors", "0.25,-0.5") == want
    assert "unknown argument '--wat'" in bad("predict", "prices.safetensors", "--wat", "1,2")


def test_rows_may_begin_with_a_minus(run, bad, prices):
    assert run("train", "-q", "--data", prices, "--epochs", 1)[0] == 0
    rows = ("0.5,1", "-0.25,-0.5", "-.5,2")
    want = [run("predict", "prices.safetensors", "--", row)[1] for row in rows]
    code, out, _ = run("predict", "prices.safetensors", *rows)
    assert (code, [line.split()[1] for line in out.splitlines()]) == (
        0, [line.split()[1] for line in want],
    )  # fmt: skip
    assert "unknown argument '-0.5,x'" in bad("predict", "prices.safetensors", "-0.5,x")


def test_options_that_no_input_has_a_use_for(bad, run, digits, prices):
    assert run("train", "-q", "--data", prices, "--epochs", 1)[0] == 0
    model = "prices.safetensors"
    assert "--top is for models of classes" in bad("predict", model, "1,2", "--top", 1)
    assert "--prepare is for pictures" in bad("predict", model, "1,2", "--prepare", "pad")
    assert "--label is for tables (.csv" in bad("predict", digits, "digits", "--label", "0")
    assert "which digits is not" in bad("evaluate", digits, "--label", "0")
    assert run("predict", model, prices, "1,2", "--label", "price")[0] == 0


def test_predict_a_picture(run, bad, digits, tmp_path, flowers):
    image = pytest.importorskip("PIL.Image")
    (_, _), (x, y) = datasets.load_digits()
    network = load(digits)
    sure = [int(i) for i in np.flatnonzero(network.predict_classes(x) == y)[:5]]
    for i in sure:
        image.fromarray(255 - x[i]).resize((8, 8)).save(f"{i}.png")  # dark ink on paper
    code, out, _ = run("predict", digits, *(f"{i}.png" for i in sure), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [int(r["prediction"]) for r in rows] == y[sure].tolist()
    assert "No such file" in bad("predict", digits, "none.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    assert "not a readable picture" in bad("predict", digits, "broken.png")
    assert run("train", "-q", "--data", flowers, "--epochs", 1)[0] == 0
    assert "on a table, not on pictures" in bad("predict", "flowers.safetensors", "broken.png")


# ---- show ---------------------------------------------------------------------------------------


def test_show_plain(run):
    code, out, err = run("show", "--count", 3, "--start", 4)
    assert (code, err) == (0, "")
    (_, y), _ = datasets.load_digits()
    for i in (4, 5, 6):
        assert f"{i}: {y[i]}" in out
    assert "\x1b" not in out
    assert "@" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("columns", [1, 10, 40, 200])
def test_show_fits_the_terminal(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "30")
    code, out, _ = run("show", "--count", 10)
    assert code == 0
    width = max(len(line) for line in out.splitlines())
    assert width <= max(columns, 10)
    assert (width > 100) == (columns == 200)


def test_show_what_a_model_says(run, digits):
    code, out, _ = run("show", "--model", digits, "--wrong", "--count", 50)
    (_, _), (x, y) = datasets.load_digits()
    wrong = load(digits).predict_classes(x) != y
    assert code == 0
    assert out.count("(said ") == wrong.sum()
    code, out, _ = run("show", "--only", "8", "--count", 4)
    assert re.findall(r"\d+: (\d)", out) == ["8"] * 4


def test_show_a_table(run, flowers):
    code, out, _ = run("show", flowers, "--count", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["row:", "label", "length", "width"]
    assert lines[1].startswith("0: iris")
    assert len(lines) == 3


def test_show_a_folder_of_idx_files(run, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x04\x01\x02\x01\x02")
    code, out, _ = run("show", tmp_path, "--count", 4)
    assert code == 0
    assert re.findall(r"(\d: \d)", out) == ["0: 1", "1: 2", "2: 1", "3: 2"]


def test_a_picture_beside_idx_files_is_no_folder_of_pictures(run, digits, tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x04\1\2\1\2")
    (tmp_path / "preview.png").write_bytes(b"")
    code, out, err = run("predict", digits, tmp_path)
    assert code == 0, err
    assert out.splitlines()[-1] == "0 of 4 right"


def test_drawings():
    small = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    large = np.zeros((28, 28, 3))
    large[..., 0] = 1
    ascii_, color = Style(), Style(color=True, blocks=True)
    lines = draw(small, ascii_)
    assert [len(line) for line in lines] == [16] * 8
    assert (lines[0][0], lines[7][-1]) == (" ", "@")
    assert [len(line) for line in draw(large, ascii_)] == [28] * 14
    lines = draw(large, color)
    assert len(lines) == 14
    assert all(line.count("▀") == 28 and line.endswith("\x1b[0m") for line in lines)
    assert "38;5;196" in lines[0]  # pure red of the colour cube
    assert "38;2;255;0;0" in draw(large, Style(True, True, True))[0]
    assert ascii_.width(fit_width(np.zeros((100, 300), np.uint8), 40, ascii_)) <= 40
    assert draw(np.full((2, 2), np.nan), ascii_) == ["    ", "    "]


def test_no_color_codes_with_no_color(monkeypatch):
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Style.of(Terminal()).color
    assert not Style.of(io.StringIO()).color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Terminal()).color
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Style.of(Terminal()).color


def test_whoever_reads_may_leave():
    with process("show", "--count", 1400) as child:
        child.stdout.readline()
        child.stdout.close()
        err = child.stderr.read()
        assert (child.wait(60), err) == (141, "")


def test_pages_are_turned_by_keys():
    """On a terminal: n shows the next page, p the one before, q ends and restores the terminal."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    parent, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "40", "LINES": "24"}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "fastnet", "show"],
        stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
    )  # fmt: skip

    def until(text):
        seen, end = "", time.monotonic() + 60
        while text not in seen:
            assert select.select([parent], [], [], end - time.monotonic())[0], seen
            seen += os.read(parent, 65536).decode("utf-8", "replace")
        return seen

    try:
        assert "\x1b[48;5;" in until("0 to 3 of 1,437")
        os.write(parent, b"n")
        until("4 to 7 of 1,437")
        os.write(parent, b"\x1b[C")
        until("8 to 11 of 1,437")
        os.write(parent, b"p")
        until("4 to 7 of 1,437")
        os.write(parent, b"q")
        assert child.wait(60) == 0
        assert termios.tcgetattr(terminal)[3] == before[3]
    finally:
        child.kill()
        child.wait()
        os.close(parent)
        os.close(terminal)
