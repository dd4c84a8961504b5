"""The command line with images: convolutional networks, folders of pictures, drawings."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest

import fastnet as fn
from fastnet import datasets, zoo
from fastnet.storage import load, read_extra

PIL = pytest.importorskip("PIL.Image")
SHAPES = ("cross", "disk", "frame")


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """60 pictures of three shapes, of several sizes: easy to tell apart by their form."""
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    folder = tmp_path / "shapes"
    for name in SHAPES:
        (folder / name).mkdir(parents=True)
        for i in range(20):
            PIL.fromarray(shape(name, rng)).save(folder / name / f"{i}.png")
    return folder


def shape(name, rng, side=None):
    """A picture (side, side, 3) of a shape in the middle, in any colour on a dark ground."""
    side = side or int(rng.integers(24, 60))
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    y, x = y + rng.uniform(-0.1, 0.1), x + rng.uniform(-0.1, 0.1)
    mask = {
        "cross": (np.abs(x) < 0.2) | (np.abs(y) < 0.2),
        "disk": x * x + y * y < 0.5,
        "frame": np.maximum(np.abs(x), np.abs(y)) > 0.7,
    }[name]
    color = rng.uniform(120, 255, 3)
    pixels = mask[..., None] * color + rng.normal(20, 10, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def accuracy(text, what):
    return float(re.search(rf"Right on ([\d.]+) % of the [\d,]+ {what} images", text)[1])


# ---- train --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["lenet", "cnn"])
def test_convolutional_networks_learn_the_digits(run, arch):
    code, out, err = run("train", "--arch", arch, "--epochs", 8, "--augment")
    assert (code, err) == (0, "")
    first = {"lenet": "8 x 8 -> 8@5x5 relu -> pool 2x2 -> 16@5x5 relu",
             "cnn": "8 x 8 -> 32@3x3 relu -> 32@3x3 relu -> pool 2x2"}[arch]  # fmt: skip
    assert first in out
    assert accuracy(out, "test") > 75
    names = [type(layer).__name__ for layer in load("digits.safetensors").layers]
    assert {"RandomTranslation", "RandomRotation", "RandomZoom", "Conv2D"} <= set(names)
    assert run("evaluate", "digits.safetensors")[0] == 0


def test_architecture_takes_widths(run):
    options = ("--arch", "lenet", "--hidden", "30,20", "--dropout", 0, "--epochs", 1)
    code, out, _ = run("train", *options)
    assert code == 0
    assert "pool 2x2 -> 30 relu -> 20 relu -> 10 softmax" in out
    assert "pool 2x2 -> 10 softmax" in run("train", *options, "--hidden", "none")[1]


@pytest.mark.parametrize("arch", ["mlp", "lenet", "cnn"])
def test_few_drawings_on_white_are_learned(run, arch, tmp_path, monkeypatch):
    """Three classes of ten: as values from 0 to 1 they stayed near chance, 33 %, for long."""
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    for name in SHAPES:
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(10):
            pixels = 255 - shape(name, rng, 32)
            PIL.fromarray(pixels).save(tmp_path / "few" / name / f"{i}.png")
    code, out, err = run("train", "--data", tmp_path / "few", "--arch", arch, "--image-size", "20",
                         "--epochs", 15)  # fmt: skip
    assert (code, err) == (0, "")
    assert "batches of 8," in out
    assert accuracy(out, "training") > 90
    assert load("few.safetensors").layers[1].offset == -1


def test_a_folder_of_pictures_from_training_to_prediction(run, shapes, tmp_path):
    code, out, err = run("train", "--data", shapes, "--arch", "lenet", "--image-size", "16",
                         "--epochs", 20)  # fmt: skip
    assert (code, err) == (0, "")
    assert "shapes: 48 training and 12 test images of 16 x 16 x 3, 3 classes" in out
    assert accuracy(out, "test") > 80
    model = "shapes.safetensors"
    extra = read_extra(model)
    assert (extra["classes"], extra["prepare"], extra["pixels"]) == ([*SHAPES], "stretch", 255)
    assert extra["training"]["results"]["test"]["rows"] == 12
    again = json.loads(run("evaluate", model, "--format", "json")[1])  # the same 12
    assert again["rows"] == 12
    assert again["accuracy"] == extra["training"]["results"]["test"]["accuracy"]
    rng = np.random.default_rng(1)
    for name in SHAPES:
        PIL.fromarray(shape(name, rng, 50)).save(tmp_path / f"{name}-1.png")
    code, out, err = run("predict", model, *(f"{n}-1.png" for n in SHAPES), "--format", "csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sum(r["prediction"] == n for r, n in zip(rows, SHAPES, strict=True)) >= 2
    code, out, _ = run("show", shapes, "--count", 2)
    assert code == 0
    assert run("show", shapes, "--model", model, "--wrong", "--count", 1)[0] in (0, 2)


def test_a_picture_is_prepared_as_the_folder_was(run, shapes):
    """Prediction of a file equals that of its row in the data set; large JPEGs are among them."""
    for path in shapes.glob("*/1*.png"):
        large = PIL.open(path).resize((700, 500), PIL.Resampling.NEAREST)
        large.save(path.with_suffix(".jpg"), quality=50)
        path.unlink()
    options = ("--image-size", "12x10", "--color", "grayscale", "--epochs", 2, "-q")
    assert run("train", "--data", shapes, *options)[0] == 0
    net = load("shapes.safetensors")
    assert net.input_shape == (12, 10)
    data = datasets.load_image_folder(shapes, (12, 10), "grayscale", progress=False)
    want = net.predict(data.x_train).max(axis=1)
    files = [shapes / name for name in data.files]
    out = run("predict", "shapes.safetensors", *files, "--format", "json")[1]
    got = [item["score"] for item in json.loads(out)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    assert {file.suffix for file in files} == {".jpg", ".png"}


def test_a_folder_is_stretched_for_networks_saved_from_python(run, shapes):
    """As `load_image_folder` gave it to them, unless somebody asks for something else."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (20, 60, 3)).astype(np.uint8)
    PIL.fromarray(wide).save(shapes / "disk" / "wide.png")
    data = datasets.load_image_folder(shapes, (12, 10), progress=False)
    chain = [fn.layers.Rescale(1 / 255), fn.layers.Flatten(), fn.layers.Dense(3, "softmax")]
    net = fn.Sequential([fn.layers.Input((12, 10, 3)), *chain], seed=0)
    net.save("plain.safetensors")
    want = net.predict(data.x_train).max(axis=1)

    def scores(*options):
        out = run("predict", "plain.safetensors", shapes, "--format", "json", *options)[1]
        return [item["score"] for item in json.loads(out)]

    np.testing.assert_allclose(scores(), want, rtol=0, atol=1e-6)
    padded, wide = scores("--prepare", "pad"), data.files.index("disk/wide.png")
    assert abs(padded[wide] - want[wide]) > 1e-4


def test_another_folder_is_all_new(run, shapes):
    options = ("--image-size", "12", "--epochs", 1, "-q")
    assert run("train", "--data", shapes, *options)[0] == 0
    assert "12 test images" in run("evaluate", "shapes.safetensors", "--data", shapes)[1]
    assert "12 test images" in run("evaluate", "shapes.safetensors")[1]
    other = shutil.copytree(shapes, shapes.with_name("others"))
    code, out, err = run("evaluate", "shapes.safetensors", "--data", other)
    assert (code, err) == (0, "")
    assert "others: 60 images" in out
    answers = json.loads(run("predict", "shapes.safetensors", other, "--format", "json")[1])
    assert len(answers) == 60


def test_damaged_pictures_are_a_note(run, shapes):
    (shapes / "disk" / "broken.png").write_bytes(b"?")
    code, _, err = run("train", "-q", "--data", shapes, "--image-size", 8, "--epochs", 1)
    assert code == 0
    assert re.fullmatch(r"note: .*1 of 61 pictures could not be read.*disk/broken\.png.*\n", err)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--arch", "resnet"], "--arch: invalid choice: 'resnet'"),
        (["train", "--image-size", "3x4x5"], "--image-size: wanted a size as 32 or 48x64"),
        (["train", "--image-size", "0"], "--image-size: wanted a whole number >= 1"),
        (["predict", "a.safetensors"], "a.safetensors: a model; name what to predict behind it"),
        (["predict", "--prepare", "x", "a.png"], "--prepare: invalid choice: 'x'"),
    ],
)
def test_wrong_usage(bad, argv, message):
    assert re.search(message, bad(*argv))


def test_tables_have_no_convolutions(bad, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,b,c\n" + "1,2,x\n3,4,y\n" * 10)
    assert "--arch cnn is for images" in bad("train", "--data", table, "--arch", "cnn")
    assert "--augment is for images" in bad("train", "--data", table, "--augment")


# ---- predict without a model --------------------------------------------------------------------


def page(image, side=300, dark=True, at=(60, 30)):
    """A digit of MNIST as a drawing: enlarged, somewhere on a larger sheet of paper."""
    big = np.asarray(PIL.fromarray(image).resize((140, 140), PIL.Resampling.BICUBIC))
    sheet = np.zeros((side, side), np.uint8)
    sheet[at[0] : at[0] + 140, at[1] : at[1] + 140] = big
    return 255 - sheet if dark else sheet


@pytest.fixture(scope="module")
def drawings(fastnet_data):
    (_, _), (x, y) = datasets.load_mnist(progress=False)
    return x[:60], y[:60]


@pytest.mark.parametrize("dark", [True, False])
def test_drawings_are_read_by_the_network_that_comes_along(run, drawings, dark):
    x, y = drawings
    rng = np.random.default_rng(2)
    for i, image in enumerate(x):
        sheet = page(image, dark=dark, at=tuple(rng.integers(0, 160, 2)))
        PIL.fromarray(sheet).save(f"{i}.png")
    code, out, err = run("predict", *(f"{i}.png" for i in range(len(x))), "--format", "csv")
    assert code == 0
    assert err.startswith("note: no model named: the network 'mnist-cnn'")
    said = [int(r["prediction"]) for r in csv.DictReader(io.StringIO(out))]
    assert np.mean(np.array(said) == y) > 0.96


def test_a_folder_of_drawings_is_read_as_single_ones_are(run, drawings, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "cache"))
    x, y = (part[:30] for part in drawings)
    for i, (image, digit) in enumerate(zip(x, y, strict=True)):
        path = tmp_path / "drawn" / str(digit) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.fromarray(page(image)).save(path)
    code, out, _ = run("predict", "drawn", "--format", "json")
    assert code == 0
    answers = json.loads(out)
    files = datasets.load_image_folder("drawn", 8, progress=False).files
    single = json.loads(run("predict", *(f"drawn/{f}" for f in files), "--format", "json")[1])
    assert [a["score"] for a in answers] == [a["score"] for a in single]
    assert np.mean([a["prediction"] == a["label"] for a in answers]) > 0.9
    model = str(zoo.path("mnist-cnn"))
    result = json.loads(run("evaluate", model, "--data", "drawn", "--format", "json")[1])
    assert (result["rows"], result["accuracy"] > 0.9) == (30, True)
    (some,) = {file.split("/")[0] for file in files[:1]}
    said = json.loads(run("predict", f"drawn/{some}", "--format", "json")[1])
    want = [f"drawn/{file}" for file in sorted(files) if file.startswith(f"{some}/")]
    assert [a["input"] for a in said] == want


def test_a_blank_page_is_no_digit(run):
    PIL.fromarray(np.full((40, 30), 250, np.uint8)).save("blank.png")
    code, out, err = run("predict", "blank.png")
    assert (code, out) == (2, "")
    assert "error: blank.png: nothing is drawn there" in err


def test_prepare_says_how(run, drawings):
    x, _ = drawings
    PIL.fromarray(page(x[0])).save("a.png")
    model = str(zoo.path("mnist-cnn"))
    scores = {}
    for how in ("mnist", "digits", "pad", "stretch"):
        out = run("predict", model, "a.png", "--prepare", how, "--format", "json")[1]
        scores[how] = json.loads(out)[0]["score"]
    assert (
        json.loads(run("predict", model, "a.png", "--format", "json")[1])[0]["score"]
        == (scores["mnist"])
    )
    assert len(set(scores.values())) == 4


def test_any_first_word_that_is_no_data_is_the_model(run, bad):
    net = fn.Sequential([fn.layers.Input(3), fn.layers.Dense(2, "softmax")], seed=0)
    net.save("net")
    assert run("predict", "net", "1,2,3")[0] == 0
    assert "wants rows of shape (28, 28)" in bad("predict", "1,2,3")
    assert "No such file" in bad("predict", "a.png")
