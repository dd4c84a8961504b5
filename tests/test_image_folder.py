"""Pictures in folders: what is found, how it is decoded, what happens to what cannot be read."""

import os
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn
from fastnet import _pictures, datasets, layers, readers

PIL = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
COLORS = {"blue": (20, 40, 220), "red": (220, 40, 20), "green": (20, 200, 40)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """30 pictures of three classes: blue 8, green 10, red 12; of any size and kind."""
    path = tmp_path / "colors"
    suffixes = ("png", "jpg", "BMP", "Jpeg", "gif", "webp")
    for i, (name, color) in enumerate(COLORS.items()):
        (path / name).mkdir(parents=True)
        for k in range((8, 12, 10)[i]):
            size = RNG.integers(5, 60, 2)
            pixels = np.clip(RNG.normal(color, 12, (*size, 3)), 0, 255).astype(np.uint8)
            PIL.fromarray(pixels).save(path / name / f"{k}.{suffixes[k % 6]}")
    return path


def load(folder, size=(6, 8), *args, **options):
    options.setdefault("progress", False)
    return datasets.load_image_folder(folder, size, *args, **options)


def solid(path, value, size=(5, 5), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new(mode, size, value).save(path)
    return path


# ---- what is found ------------------------------------------------------------------------------


def test_classes_rows_and_labels(folder):
    data = load(folder)
    assert data.classes.tolist() == ["blue", "green", "red"]
    assert (data.x_train.shape, data.x_train.dtype) == ((30, 6, 8, 3), np.uint8)
    assert np.bincount(data.y_train).tolist() == [8, 10, 12]
    assert (data.x_test, data.y_test, data.problems, data.files_test) == (None, None, (), ())
    assert [name.split("/")[0] for name in data.files] == data.classes[data.y_train].tolist()
    means = data.x_train.reshape(30, -1, 3).mean(axis=1)
    wanted = np.array([COLORS[c] for c in data.classes])[data.y_train]
    assert np.abs(means - wanted).max() < 30
    assert "ImageFolder('colors', train (30, 6, 8, 3) uint8, 3 classes)" in repr(data)


def test_rows_are_mixed_by_the_seed(folder):
    first = load(folder).files
    assert load(folder).files == first
    assert load(folder, seed=1).files != first
    assert list(first) != sorted(first)
    assert sorted(load(folder, seed=1).files) == sorted(first)


def test_split_takes_a_share_of_each_class(folder):
    data = load(folder, validation_split=0.25, seed=3)
    assert np.bincount(data.y_test).tolist() == [2, 2, 3]
    assert np.bincount(data.y_train).tolist() == [6, 8, 9]
    assert not set(data.files) & set(data.files_test)
    assert len(data.files) + len(data.files_test) == 30
    wanted = np.array([COLORS[c] for c in data.classes])[data.y_test]
    assert np.abs(data.x_test.reshape(7, -1, 3).mean(axis=1) - wanted).max() < 30


def test_split_leaves_a_picture_of_each_class_to_learn_from(tmp_path):
    for name, count in (("a", 1), ("b", 2), ("c", 9)):
        for i in range(count):
            solid(tmp_path / "few" / name / f"{i}.png", i)
    data = load(tmp_path / "few", validation_split=0.95)
    assert np.bincount(data.y_train).tolist() == [1, 1, 1]
    assert np.bincount(data.y_test, minlength=3).tolist() == [0, 1, 8]


def test_what_is_passed_over(folder, tmp_path):
    solid(folder / ".hidden" / "a.png", 0)
    solid(folder / "__MACOSX" / "a.png", 0)
    solid(folder / "red" / ".b.png", 0)
    (folder / "red" / "Thumbs.db").write_bytes(b"?")
    (folder / "red" / "notes.txt").write_text("red")
    (folder / "empty").mkdir()
    solid(folder / "loose.png", 0)
    solid(folder / "blue" / "deep" / "er" / "x.PNG", 250)
    data = load(folder)
    assert data.classes.tolist() == ["blue", "green", "red"]
    assert np.bincount(data.y_train).tolist() == [9, 10, 12]
    assert "blue/deep/er/x.PNG" in data.files
    assert data.problems == ()


def test_parts_as_folders(folder, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    folder.rename(both / "Train")
    solid(both / "val" / "red" / "a.png", 7)
    solid(both / "val" / "blue" / "b.png", 9)
    data = load(both, color_mode="grayscale", validation_split=0.5)
    assert len(data.x_train) == 30
    assert sorted(data.files_test) == ["val/blue/b.png", "val/red/a.png"]
    assert {(int(x.mean()), int(y)) for x, y in zip(data.x_test, data.y_test, strict=True)} == {
        (7, 2), (9, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda p: load(p / "none"), FileNotFoundError, "one folder of pictures for each class"),
        (lambda p: load(p / "red" / "0.png"), NotADirectoryError, "wanted a folder"),
        (lambda p: load(p / "red"), ValueError, "must lie in a folder for each class"),
        (lambda p: load(p, (2, 3, 4)), ValueError, "image_size must be"),
        (lambda p: load(p, 0), ValueError, "image_size"),
        (lambda p: load(p, 8, "hsv"), ValueError, "unknown color_mode 'hsv'"),
        (lambda p: load(p, 8, fit="fill"), ValueError, "unknown fit 'fill'"),
        (lambda p: load(p, 8, validation_split=1), ValueError, "validation_split"),
        (lambda p: load(p, 8, cache=3), TypeError, "cache must be True, False or a folder"),
    ],
)
def test_errors(folder, call, error, text):
    with pytest.raises(error, match=text):
        call(folder)


def test_without_pillow_the_error_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "fastnet\[images\]"'):
        load(folder)


# ---- how it is decoded --------------------------------------------------------------------------


def one(tmp_path, image, size=(4, 4), mode="rgb", name="x.png", **options):
    """The only picture of a folder."""
    (tmp_path / "one" / "a").mkdir(parents=True)
    image.save(tmp_path / "one" / "a" / name, **options.pop("save", {}))
    return load(tmp_path / "one", size, mode, **options).x_train[0]


def test_pixels_of_the_right_size_stay_as_they_are(tmp_path):
    pixels = RNG.integers(0, 255, (4, 6, 3), np.uint8)
    np.testing.assert_array_equal(one(tmp_path, PIL.fromarray(pixels), (4, 6)), pixels)


def test_shrinking_averages(tmp_path):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[::2] = 200  # lines that picking pixels would turn into all or nothing
    got = one(tmp_path, PIL.fromarray(pixels), (8, 8), "grayscale")
    assert got.shape == (8, 8)
    assert np.abs(got.astype(int) - 100).max() <= 12


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_fit(tmp_path, fit):
    """A picture twice as wide as high: left half 200, right half 100."""
    pixels = np.repeat([[200, 100]], 20, axis=1).repeat(20, axis=0).astype(np.uint8)
    got = one(tmp_path, PIL.fromarray(pixels), (10, 10), "grayscale", fit=fit)
    assert (got[5, 1], got[5, 8]) == (200, 100)
    assert (got[0, 1] == 0) == (fit == "pad")


def test_exif_turns_the_picture(tmp_path):
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[:20] = 250
    exif = PIL.Exif()
    exif[0x0112] = 6  # turn it clockwise by a quarter to see it upright: the top goes right
    got = one(tmp_path, PIL.fromarray(pixels), (8, 16), name="x.jpg", save={"exif": exif})
    assert got[:, 9:].min() > 230
    assert got[:, :7].max() < 20


def test_palettes_transparency_16_bits_and_cmyk(tmp_path):
    root = tmp_path / "kinds" / "a"
    root.mkdir(parents=True)
    palette = PIL.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(root / "1.png")
    dark_on_clear = np.zeros((9, 9, 4), np.uint8)
    dark_on_clear[:4, :, 3] = 255
    PIL.fromarray(dark_on_clear).save(root / "2.png")
    PIL.fromarray(np.full((9, 9), 257 * 77, np.uint16)).save(root / "3.png")
    PIL.new("CMYK", (9, 9), (0, 255, 255, 0)).save(root / "4.jpg")
    PIL.new("1", (9, 9), 1).save(root / "5.bmp")
    palette.save(root / "6.gif", transparency=0)
    data = load(root.parent, 9)
    rows = {name[2]: x for name, x in zip(data.files, data.x_train, strict=True)}
    assert data.problems == ()
    assert (rows["1"] == (10, 200, 30)).all()
    assert (rows["2"][0] == 0).all() and (rows["2"][8] == 255).all()
    assert (rows["3"] == 77).all()
    assert rows["4"][4, 4, 0] > 200 and rows["4"][4, 4, 1:].max() < 60
    assert (rows["5"] == 255).all()
    assert (rows["6"] == (10, 200, 30)).all()


@pytest.mark.parametrize("block", [1, 7, 30, 1 << 20])
def test_large_pictures_are_computed_with_in_blocks(tmp_path, monkeypatch, block):
    """Of 16 bits, and transparent ones: bright ones lie on black, dark ones on white."""
    monkeypatch.setattr(_pictures, "_BLOCK", block)
    wide = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)
    got = one(tmp_path / "wide", PIL.fromarray(wide), (9, 7), "grayscale")
    np.testing.assert_array_equal(got, np.rint(wide / 257))
    for bright in (False, True):
        ink = np.zeros((9, 7, 4), np.uint8)
        ink[:3] = (*[255 * bright] * 3, 255)
        ink[8] = (*[255 * (not bright)] * 3, 255)
        got = one(tmp_path / f"ink {bright}", PIL.fromarray(ink), (9, 7), "grayscale")
        assert (got[:3] == 255 * bright).all() and (got[3:] == 255 * (not bright)).all()


def test_a_large_transparent_picture_takes_little_memory(tmp_path):
    PIL.new("RGBA", (3000, 3000), (9, 9, 9, 200)).save(tmp_path / "x.png")
    tracemalloc.start()
    try:
        _pictures.open_picture(tmp_path / "x.png", "RGB")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 3000 * 3000


def test_large_photographs_are_decoded_small(tmp_path):
    y, x = np.mgrid[:1200, :1600]
    pixels = np.stack([x // 7, y // 5, (x + y) // 12], -1).astype(np.uint8)
    (tmp_path / "big" / "a").mkdir(parents=True)
    PIL.fromarray(pixels).save(tmp_path / "big" / "a" / "x.jpg", quality=95)
    got = load(tmp_path / "big", (30, 40)).x_train[0].astype(int)
    want = pixels.reshape(30, 40, 40, 40, 3).mean(axis=(1, 3))
    assert np.abs(got - want).mean() < 3


def test_threads_give_the_same_rows(folder):
    with fn.threads(1):
        first = load(folder, cache=False)
    with fn.threads(8):
        again = load(folder, cache=False)
    assert first.x_train.tobytes() == again.x_train.tobytes()
    assert first.files == again.files


# ---- what cannot be read ------------------------------------------------------------------------


def bomb(path, side=40_000):
    """A PNG of a few hundred KB that would unpack to 1.6 gigapixels."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    data = zlib.compress(bytes(1 << 20))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("cache", [True, False])
def test_damaged_and_enormous_pictures_are_listed_once(folder, cache):
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "green" / "text.jpg").write_text("no picture")
    (folder / "blue" / "empty.gif").write_bytes(b"")
    (folder / "blue" / "nowhere.png").symlink_to(folder / "gone")
    bomb(folder / "blue" / "bomb.png")
    os.mkfifo(folder / "blue" / "pipe.png")
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="6 of 36 pictures could not be read") as caught:
            data = load(folder, cache=cache, validation_split=0.2)
        assert len(caught) == 1
        assert "; and 1 more (problems lists all)" in str(caught[0].message)
        assert caught[0].filename == __file__
        problems = dict(data.problems)
        assert list(problems) == [
            "blue/bomb.png", "blue/empty.gif", "blue/nowhere.png", "blue/pipe.png",
            "green/text.jpg", "red/cut.png",
        ]  # fmt: skip
        assert "1600000000 pixels" in problems["blue/bomb.png"]
        assert problems["blue/nowhere.png"] == "no file"
        assert all(str(folder) not in reason for reason in problems.values())
        assert len(data.x_train) + len(data.x_test) == 30
        y = np.concatenate([data.y_train, data.y_test])
        wanted = np.array([COLORS[c] for c in data.classes])[y]
        means = np.concatenate([data.x_train, data.x_test]).reshape(30, -1, 3).mean(axis=1)
        assert np.abs(means - wanted).max() < 30
        names = [*data.files, *data.files_test]
        assert [n.split("/")[0] for n in names] == data.classes[y].tolist()


def test_programs_are_no_pictures(tmp_path):
    """A PostScript file is a program, which Pillow would have Ghostscript run."""
    path = solid(tmp_path / "x" / "a" / "fine.png", 3)
    PIL.new("RGB", (9, 9)).save(path.with_name("program.eps"))
    path.with_name("program.eps").rename(path.with_name("program.png"))
    with pytest.warns(UserWarning, match=r"1 of 2 .*a/program\.png: not a readable picture"):
        assert load(tmp_path / "x").files == ("a/fine.png",)


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "bad" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "a" / "x.png").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"none of its 1 pictures can be read: a/x\.png: "):
        load(tmp_path / "bad")


def test_a_large_picture_below_the_limit_warns_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(PIL, "MAX_IMAGE_PIXELS", 1500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(tmp_path, PIL.new("L", (30, 30), 9)).mean() == 9
    with pytest.raises(ValueError, match="none of its 1 pictures.*40 x 40 pixels, limit 1500"):
        one(tmp_path / "more", PIL.new("L", (40, 40), 9))


def test_odd_tags_of_a_picture_that_can_be_read_warn_of_nothing(tmp_path):
    exif = PIL.Exif()
    exif[0x0112] = 6
    save = {"exif": exif.tobytes()[:-3]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(tmp_path, PIL.new("L", (9, 9), 90), name="x.jpg", save=save).mean() == 90


# ---- the cache ----------------------------------------------------------------------------------


def no_decoding(*arguments, **options):
    raise AssertionError("decoded again")


def test_the_second_time_nothing_is_decoded(folder, monkeypatch):
    first = load(folder, validation_split=0.2)
    assert isinstance(first.x_train.base, np.memmap) or isinstance(first.x_train, np.memmap)
    assert not first.x_train.flags.writeable
    monkeypatch.setattr("fastnet._image_folder.open_picture", no_decoding)
    again = load(folder, validation_split=0.2)
    assert first.x_train.tobytes() == again.x_train.tobytes()
    assert first.x_test.tobytes() == again.x_test.tobytes()
    assert (first.files, first.problems) == (again.files, again.problems)


def test_a_changed_folder_is_read_again_and_its_old_cache_goes(folder, tmp_path):
    load(folder)
    solid(folder / "red" / "0.png", (1, 2, 3), mode="RGB")
    data = load(folder)
    assert (data.x_train[data.files.index("red/0.png")] == (1, 2, 3)).all()
    (folder / "red" / "0.png").unlink()
    assert len(load(folder).x_train) == 29
    left = sorted(p.suffix for p in (tmp_path / "cache" / "images").iterdir())
    assert left == [".json", ".u8"]
    load(folder, (5, 5))
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 4


@pytest.mark.parametrize("suffix", [".u8", ".json"])
def test_a_damaged_cache_is_made_again(folder, tmp_path, suffix):
    want = load(folder).x_train.tobytes()
    (file,) = (tmp_path / "cache" / "images").glob(f"*{suffix}")
    for content in (b"", b"{}", b'{"kept": [99999], "problems": []}'):
        file.write_bytes(content)
        assert load(folder).x_train.tobytes() == want
    file.unlink()
    assert load(folder).x_train.tobytes() == want


def test_cache_in_a_folder_of_ones_own(folder, tmp_path):
    load(folder, cache=tmp_path / "here" / "there")
    assert len(list((tmp_path / "here" / "there").iterdir())) == 2
    assert not (tmp_path / "cache").exists()
    load(folder, cache=False)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_a_warning(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cache cannot be written.*kept in memory"):
        data = load(folder, cache=tmp_path / "file")
    assert len(data.x_train) == 30


def test_a_killed_process_leaves_no_half_cache(folder, tmp_path):
    code = (
        "import os, sys, fastnet._image_folder as f\n"
        "real, n = f._pixels, []\n"
        "def pixels(*a):\n"
        "    n.append(1)\n"
        "    if len(n) == 20: os._exit(9)\n"
        "    return real(*a)\n"
        "f._pixels = pixels\n"
        f"f.load_image_folder({str(folder)!r}, (6, 8), progress=False)\n"
    )
    path = os.pathsep.join([str(Path(fn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 9
    assert not list((tmp_path / "cache" / "images").glob("*.json"))
    assert load(folder).x_train.tobytes() == load(folder, cache=False).x_train.tobytes()


# ---- in use -------------------------------------------------------------------------------------


def test_a_network_learns_from_the_mapped_pictures(folder):
    data = load(folder, validation_split=0.2)
    chain = [layers.Rescale(1 / 255), layers.Flatten(), layers.Dense(3, "softmax")]
    net = fn.Sequential(chain, seed=0)
    trainer = fn.Trainer(net, optimizer=fn.optimizers.Adam(0.01), metrics=["accuracy"])
    trainer.fit(data.x_train, data.y_train, epochs=30, batch_size=8, progress=False,
                validation_data=(data.x_test, data.y_test))  # fmt: skip
    assert trainer.evaluate(data.x_test, data.y_test)["accuracy"] == 1


def test_load_table_tells_pictures_from_idx_files(folder, tmp_path):
    data = readers.load_table(folder, image_size=(4, 5), color_mode="grayscale", progress=False)
    assert data.x_train.shape == (30, 4, 5)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no training images.*or a folder of pictures"):
        readers.load_table(tmp_path / "nothing")
