"""The command line: every command in this process, and as a process what only a process has."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from commands import process

import fastnet as fn
from fastnet import datasets
from fastnet.storage import load, read_extra

COMMANDS = ("train", "evaluate", "predict", "show", "info", "doctor", "bench")


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
        (["bench", "--wat"], "unrecognized arguments: --wat .*fastnet bench --help"),
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
        (
            ["train", "--label", "kind"],
            r"--label is for tables \(.csv, .tsv, .txt\), which digits is",
        ),
        (
            ["train", "--image-size", "32"],
            "--image-size is for folders of pictures, which digits is",
        ),
        (["train", "--color", "rgb"], "--color is for folders of pictures, which digits is not"),
        (["train", "--no-save", "--out", "net"], "--out says where to save, --no-save not to"),
        (["train", "--hidden", "none", "--activation", "relu"], "--activation has no use here"),
        (
            ["train", "--hidden", "none", "--dropout", "0.2"],
            "--dropout has no use .*nothing to drop",
        ),
        (
            ["train", "--loss", "mse", "--label-smoothing", "0.1"],
            "has no use here: the loss is mse",
        ),
        (["show", "--label", "2"], "--label is for tables"),
        (["cluster", "--label", "2"], "--label is for tables"),
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


def test_texts_are_no_amounts(run, bad, flowers, prices):
    message = "flowers.csv: labels are texts such as 'iris', and "
    assert message + "--loss mse wants numbers" in bad("train", "--data", flowers, "--loss", "mse")
    assert run("train", "-q", "--data", prices, "--epochs", 1)[0] == 0
    assert message + "the model wants" in bad("evaluate", "prices.safetensors", "--data", flowers)
    assert run("train", "-q", "--loss", "mse", "--epochs", 1)[0] == 0  # digits are numbers
    assert run("evaluate", "digits.safetensors")[0] == 0


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
    monkeypatch.setattr("fastnet.bench.main", lambda argv, _: seen.append(list(argv)) or 0)
    assert run("bench", "--cases", "batch32", "--quick")[0] == 0
    assert seen == [["--cases", "batch32", "--quick"]]
