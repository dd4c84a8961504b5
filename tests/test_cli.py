"""The command line: every command in this process, and as a process what only a process has."""

import csv
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastnet as fn
from fastnet import datasets, layers
from fastnet.cli import main
from fastnet.cli.pictures import Style, draw, fit_width
from fastnet.storage import load, read_extra

COMMANDS = ("train", "evaluate", "predict", "show", "info", "doctor", "bench")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTNET_DEBUG", raising=False)

    def call(*argv):
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in out
        return code, out, err

    return call


@pytest.fixture
def bad(run):
    """Run a wrong command line: exit code 2, one line on stderr, which is returned."""

    def call(*argv, code=2):
        got, _, err = run(*argv)
        assert got == code, err
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1
        assert lines[0].startswith("fastnet: error: ")
        return lines[0]

    return call


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """What `fastnet train` writes without arguments."""
    path = tmp_path_factory.mktemp("cli") / "digits.safetensors"
    assert main(["train", "--quiet", "--out", str(path)]) == 0
    return path


@pytest.fixture
def flowers(tmp_path):
    """A table of 3 text classes that are easy to tell apart, 90 rows."""
    rng = np.random.default_rng(0)
    path = tmp_path / "flowers.csv"
    with open(path, "w", encoding="utf-8") as file:
        print("length,width,kind", file=file)
        for i in range(90):
            k = i % 3
            a, b = rng.normal((2 * k, 5 - 3 * k), 0.2)
            print(f"{a:.3f},{b:.3f},{('iris', 'rose', 'tulip')[k]}", file=file)
    return path


@pytest.fixture
def prices(tmp_path):
    """A table whose last column is an amount: 5000 + 300 a - 200 b + 0.5."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (120, 2))
    y = 5000.5 + 300 * x[:, 0] - 200 * x[:, 1]
    path = tmp_path / "prices.csv"
    rows = np.column_stack([x, y])
    np.savetxt(path, rows, delimiter=",", header="a,b,price", comments="", fmt="%.4f")
    return path


def process(*argv, cwd=None, **env):
    """Start `python -m fastnet` with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastnet", *map(str, argv)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=cwd, env=os.environ | env,
    )  # fmt: skip


# ---- the program --------------------------------------------------------------------------------


def test_without_arguments_it_says_what_there_is(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert all(command in out for command in COMMANDS)
    assert "examples:" in out


def test_version(run):
    assert run("--version") == (0, f"fastnet {fn.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: fastnet {command}")
    assert command == "bench" or f"  fastnet {command}" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "invalid choice: 'trian'.*train"),
        (["train", "--wat"], "unknown argument '--wat' .*fastnet train --help"),
        (["train", "--epochs", "0"], "--epochs: wanted a whole number >= 1, got '0'"),
        (["train", "--epochs", "2.5"], "--epochs: wanted a whole number >= 1, got '2.5'"),
        (["train", "--hidden", "20,x"], "--hidden: .*got 'x'"),
        (["train", "--hidden", "-3"], "--hidden: .*got '-3'"),
        (["train", "--lr", "0"], "--lr: wanted a number > 0"),
        (["train", "--lr", "nan"], "--lr: wanted a number > 0"),
        (["train", "--dropout", "1"], "--dropout: wanted a number >= 0 and < 1"),
        (["train", "--activation", "rellu"], "--activation: invalid choice: 'rellu'"),
        (["train", "--activation", "softmax"], "--activation: invalid choice"),
        (["train", "--optimizer", "adm"], "--optimizer: invalid choice: 'adm'"),
        (["train", "--momentum", "0.5"], "--momentum is for sgd and rmsprop, not for adam"),
        (["train", "--loss", "binary_cross_entropy"], "2 classes, there are 10"),
        (["train", "--validation-split", "0.9999"], "leaves one side empty"),
        (["train", "--threads", "-1"], "--threads: wanted a whole number >= 0"),
        (["train", "--data", "none.csv"], "no file or folder 'none.csv'.*digits, mnist"),
        (["train", "--data", "."], "no training images"),
        (["train", "--out", "nowhere/net.safetensors"], "there is no folder"),
        (["train", "--out", "."], "is a folder"),
        (["evaluate"], "required: MODEL"),
        (["evaluate", "none.safetensors"], "none.safetensors: No such file"),
        (["predict", "none.safetensors", "x.npy"], "none.safetensors: No such file"),
        (["info", "none.safetensors"], "none.safetensors: No such file"),
        (["info", "."], "is a directory|Is a directory|not a regular file"),
        (["show", "--start", "1437"], "--start 1437: there are 1,437"),
        (["show", "--only", "x"], "no label 'x'.*known are: 0, 1, 2"),
        (["show", "--wrong"], "--wrong wants --model"),
        (["show", "digits", "--data", "mnist"], "two data sets"),
        (["bench", "--cases", "none"], None),
    ],
)
def test_wrong_usage(run, bad, argv, message):
    if message is None:
        code, out, err = run(*argv)
        assert (code, out) == (2, "")
        assert "error:" in err
    else:
        assert re.search(message, bad(*argv))


def test_debug_shows_where_an_error_comes_from(run, monkeypatch):
    code, _, err = run("info", "none.safetensors", "--debug")
    assert code == 2
    assert "Traceback" in err
    monkeypatch.setenv("FASTNET_DEBUG", "1")
    assert "Traceback" in run("info", "none.safetensors")[2]
    monkeypatch.setenv("FASTNET_DEBUG", "0")
    assert "Traceback" not in run("info", "none.safetensors")[2]


def test_an_error_of_ours_is_told_apart(bad, monkeypatch):
    def broken(args):
        raise KeyError("oops")

    monkeypatch.setattr("fastnet.cli.info.run", broken)
    assert "KeyError" in bad("info", "x", code=1)


def test_as_a_process(tmp_path):
    done = process("train", "--data", "none.csv", cwd=tmp_path)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (2, "")
    assert err.startswith("fastnet: error: no file")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_imports_little():
    code = (
        "import sys; from fastnet.cli import main; main(['--help'])\n"
        "heavy = {'fastnet.trainer', 'fastnet.readers', 'fastnet.storage', 'fastnet.bench',\n"
        "         'fastnet.diagnostics', 'tqdm', 'safetensors', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


# ---- train --------------------------------------------------------------------------------------


def test_train_learns_the_digits_and_says_how(run, tmp_path):
    code, out, err = run("train")
    assert (code, err) == (0, "")
    assert "1,437 training and 360 test images of 8 x 8, 10 classes" in out
    assert "8 x 8 -> 200 relu (dropout 0.2) -> 10 softmax; 15,010 parameters" in out
    assert "test accuracy" in out
    assert "images a second" in out or "a second)" in out
    assert "fastnet predict digits.safetensors digits" in out
    right = float(re.search(r"Right on ([\d.]+) % of the 360 test images", out)[1])
    assert right >= 94
    _, (x_test, y_test) = datasets.load_digits()
    network = load(tmp_path / "digits.safetensors")
    assert np.isclose((network.predict_classes(x_test) == y_test).mean() * 100, right, atol=0.06)


def test_train_is_the_same_bits_for_a_seed_and_any_threads(run):
    options = ("train", "-q", "--epochs", 2, "--seed", 3)
    for name, more in (("a", ["--threads", 1]), ("b", ["--threads", 2]), ("c", ["--seed", 4])):
        assert run(*options, "--out", name, *more)[0] == 0
    a, b, c = (load(name).get_weights() for name in "abc")
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    assert not np.array_equal(a[0], c[0])


def test_train_takes_its_options(run, tmp_path):
    code, out, _ = run(
        "train", "--hidden", "30,20", "--activation", "tanh", "--dropout", 0, "--epochs", 3,
        "--batch-size", 50, "--optimizer", "sgd", "--momentum", 0.5, "--lr", 0.25,
        "--schedule", "constant", "--validation-split", 0.25, "--out", "net", "--seed", 9,
    )  # fmt: skip
    assert code == 0
    assert "64" not in out.split("Network")[1].splitlines()[0]
    assert "8 x 8 -> 30 tanh -> 20 tanh -> 10 softmax" in out
    assert "3 epochs, batches of 50, sgd 0.25, cross_entropy" in out
    assert "359 of them are held out" in out
    training = read_extra("net")["training"]
    assert (training["steps"], training["seed"]) == (3 * 22, 9)
    assert training["results"]["held-out"]["rows"] == 359


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_every_optimizer_learns_with_its_default_rate(run, optimizer):
    code, out, _ = run("train", "-q", "--no-save", "--optimizer", optimizer, "--epochs", 10)
    assert code == 0
    assert float(re.search(r"Right on ([\d.]+) %", out)[1]) > 85


def test_train_saves_what_the_other_commands_need(run):
    assert run("train", "-q", "--epochs", 1)[0] == 0
    extra = read_extra("digits.safetensors")
    assert extra["classes"] == [str(i) for i in range(10)]
    assert extra["input_shape"] == [8, 8]
    assert (extra["task"], extra["pixels"], extra["data"]) == ("classification", 255, "digits")
    assert run("train", "-q", "--epochs", 1)[1].rstrip().endswith("replacing an earlier file)")


def test_train_no_save(run, tmp_path):
    code, out, _ = run("train", "--no-save", "--epochs", 1)
    assert code == 0
    assert "Saved" not in out
    assert list(tmp_path.iterdir()) == []


def test_train_that_diverges(bad, tmp_path):
    options = ("--optimizer", "sgd", "--lr", "1e30", "--schedule", "constant", "-q")
    assert re.search(r"diverged in epoch \d+.*nothing was saved.*--lr",
                     bad("train", *options, code=1))  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_train_on_a_table_with_texts(run, flowers):
    code, out, err = run("train", "--data", flowers)
    assert (code, err) == (0, "")
    assert "90 rows of 2 features, 3 classes" in out
    assert "18 of them are held out" in out
    extra = read_extra("flowers.safetensors")
    assert extra["classes"] == ["iris", "rose", "tulip"]
    assert extra["feature_names"] == ["length", "width"]
    assert extra["training"]["results"]["held-out"]["accuracy"] > 0.9


def test_train_on_the_label_column_that_is_named(run, flowers):
    assert run("train", "-q", "--data", flowers, "--label", "kind", "--epochs", 2)[0] == 0
    assert run("train", "-q", "--data", flowers, "--label", "-1", "--epochs", 2)[0] == 0


def test_train_on_amounts(run, prices):
    code, out, err = run("train", "--data", prices)
    assert (code, err) == (0, "")
    assert "1 number to predict" in out
    assert "mse" in out
    extra = read_extra("prices.safetensors")
    assert (extra["task"], extra["classes"]) == ("regression", [])
    assert extra["training"]["results"]["held-out"]["r2"] > 0.9
    # in the labels' unit, from rows as they are in the file
    answer = load("prices.safetensors").predict(np.array([[0.5, 0.5]], np.float32))
    assert answer[0, 0] == pytest.approx(5050, abs=60)


def test_many_different_whole_labels_are_amounts(run, tmp_path):
    x = np.arange(300.0).reshape(150, 2).astype(np.float32)
    np.savez("a.npz", x=x, y=np.arange(150))
    code, _, err = run("train", "-q", "--data", "a.npz", "--epochs", 1)
    assert code == 0
    assert "150 different whole numbers, taken as amounts" in err
    assert read_extra("a.safetensors")["task"] == "regression"
    assert run("train", "-q", "--data", "a.npz", "--epochs", 1, "--loss", "cross_entropy")[0] == 0
    assert len(read_extra("a.safetensors")["classes"]) == 150


def test_two_classes_with_one_output(run, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    np.savez("two.npz", x=x, y=np.where(x[:, 0] > 0, "yes", "no"))
    code, _, _ = run("train", "-q", "--data", "two.npz", "--loss", "binary_cross_entropy")
    assert code == 0
    assert load("two.safetensors").output_shape == (1,)
    code, out, _ = run("predict", "two.safetensors", "3,0,0", "--top", 2, "--format", "json")
    answer = json.loads(out)[0]
    assert (code, answer["prediction"]) == (0, "yes")
    assert sum(item["score"] for item in answer["top"]) == pytest.approx(1, abs=1e-5)
    code, out, _ = run("evaluate", "two.safetensors", "--data", "two.npz", "--format", "json")
    assert (code, json.loads(out)["accuracy"] > 0.9) == (0, True)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((9, 2))}, "no labels"),
        ({"x": np.ones((9, 2)), "y": np.zeros(9, int)}, "all labels are '0'"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, "no rows"),
        ({"x": np.full((9, 2), np.nan), "y": np.arange(9) % 2}, "NaN"),
        ({"x": np.ones((9, 2)), "y": np.full(9, np.inf)}, "NaN or infinite"),
    ],
)
def test_data_that_cannot_be_learned(bad, tmp_path, arrays, message):
    np.savez("data.npz", **arrays)
    assert message in bad("train", "--data", "data.npz", "--no-save", "-q")


def test_constant_columns_do_not_explode(run, tmp_path):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=60), np.full(60, 7.0)]).astype(np.float32)
    np.savez("c.npz", x=x, y=(x[:, 0] > 0).astype(int))
    assert run("train", "-q", "--data", "c.npz", "--epochs", 3)[0] == 0
    network = load("c.safetensors")
    moved = network.predict(np.array([[2, 7], [2, 8]], np.float32))
    assert abs(moved[0] - moved[1]).max() < 0.9
    assert np.isfinite(moved).all()


def test_ctrl_c_saves_what_was_learned(tmp_path):
    child = process("train", "--epochs", 10**6, "--threads", 1, cwd=tmp_path)
    for line in child.stdout:
        if re.match(r" +1 +\d\.", line):  # the first epoch is done
            break
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "")
    assert "Interrupted in epoch" in out
    assert "Saved to digits.safetensors" in out
    (x, y), _ = datasets.load_digits()
    network = load(tmp_path / "digits.safetensors")
    assert (network.predict_classes(x) == y).mean() > 0.5


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


# ---- doctor, bench ------------------------------------------------------------------------------


def test_doctor(run, monkeypatch):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith("Verdict: all is well.")
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)

    def broken():
        raise ArithmeticError("the bits differ")

    monkeypatch.setattr("fastnet.diagnostics._CHECKS", (("bits", broken),))
    code, out, _ = run("doctor")
    assert code == 1
    assert "FAIL  bits: ArithmeticError: the bits differ" in out


def test_bench_forwards(monkeypatch, run):
    seen = []
    monkeypatch.setattr("fastnet.bench.main", lambda argv: seen.append(list(argv)) or 0)
    assert run("bench", "--cases", "batch32", "--quick")[0] == 0
    assert seen == [["--cases", "batch32", "--quick"]]
