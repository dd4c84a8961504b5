"""Pictures of digits from files: shape, ink, proportions, and clear errors."""

import sys

import numpy as np
import pytest

from fastnet import readers

RNG = np.random.default_rng(11)


@pytest.fixture
def pil():
    return pytest.importorskip(
        "PIL.Image", reason='Pillow is missing: pip install "fastnet[images]"'
    )


def digit(dark_on_light):
    """A bar, 60 high and 8 wide, on an empty 80 x 80 picture."""
    pixels = np.zeros((80, 80), np.uint8)
    pixels[10:70, 36:44] = 255
    return 255 - pixels if dark_on_light else pixels


@pytest.mark.parametrize("dark_on_light", [False, True])
@pytest.mark.parametrize("shape", [(20, 20), (20, 20, 1), (400,), 400])
def test_image_is_bright_ink_of_the_wanted_shape(pil, tmp_path, dark_on_light, shape):
    pil.fromarray(digit(dark_on_light)).save(tmp_path / "a.png")
    got = readers.read_image(tmp_path / "a.png", shape)
    assert got.shape == ((400,) if shape == 400 else shape) and got.dtype == np.uint8
    picture = got.reshape(20, 20)
    assert picture[10, 10] > 200 and picture[:, :7].max() == 0 and picture[:, 13:].max() == 0


def test_image_of_the_right_size_is_unchanged(pil, tmp_path):
    pixels = RNG.integers(0, 120, (7, 5), np.uint8)
    pil.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(readers.read_image(tmp_path / "a.png", (7, 5)), pixels)
    kept = readers.read_image(tmp_path / "a.png", (7, 5), invert=True)
    np.testing.assert_array_equal(kept, 255 - pixels)


def test_image_invert_can_be_switched_off(pil, tmp_path):
    pixels = digit(True)
    pil.fromarray(pixels).save(tmp_path / "a.png")
    got = readers.read_image(tmp_path / "a.png", (80, 80), invert=False)
    np.testing.assert_array_equal(got, pixels)
    with pytest.raises(ValueError, match="wanted True, False or \"auto\", got 'yes'"):
        readers.read_image(tmp_path / "a.png", (80, 80), invert="yes")


def test_image_keeps_its_proportions(pil, tmp_path):
    pil.fromarray(np.pad(np.full((30, 10), 250, np.uint8), 5)).save(tmp_path / "a.png")
    got = readers.read_image(tmp_path / "a.png", (40, 40))
    columns = np.flatnonzero(got.max(axis=0) > 125)
    rows = np.flatnonzero(got.max(axis=1) > 125)
    assert len(rows) == 30 and len(columns) == 10 and abs(columns.mean() - 19.5) <= 0.5


def test_image_in_colour(pil, tmp_path):
    pixels = RNG.integers(0, 255, (6, 6, 3), np.uint8)
    pil.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(readers.read_image(tmp_path / "a.png", (6, 6, 3)), pixels)
    grey = readers.read_image(tmp_path / "a.png", (6, 6), invert=False)
    expected = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected).max() <= 1
    wide = readers.read_image(tmp_path / "a.png", (6, 12, 3))
    np.testing.assert_array_equal(wide[:, 3:9], pixels)


@pytest.mark.parametrize("ink", [0, 255])
def test_transparent_image(pil, tmp_path, ink):
    pixels = np.zeros((80, 80, 4), np.uint8)
    pixels[..., :3] = ink
    pixels[..., 3] = digit(False)
    pil.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(readers.read_image(tmp_path / "a.png", (80, 80)), digit(False))


def test_image_of_16_bits(pil, tmp_path):
    pixels = RNG.integers(0, 120, (6, 6), np.uint8)
    pil.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(readers.read_image(tmp_path / "a.png", (6, 6)), pixels)


def test_image_is_turned_as_its_exif_data_says(pil, tmp_path):
    pixels = RNG.integers(0, 120, (6, 6), np.uint8)
    image = pil.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    image.save(tmp_path / "a.png", exif=exif)
    got = readers.read_image(tmp_path / "a.png", (6, 6))
    np.testing.assert_array_equal(got, np.rot90(pixels, -1))


@pytest.mark.parametrize("shape", [(), (10,), 0, -4, (5, 0), (4, 4, 2), (1, 4, 4, 1)])
def test_image_shape_errors(pil, tmp_path, shape):
    with pytest.raises(ValueError, match=r"shape: wanted \(height, width\).*got"):
        readers.read_image(tmp_path / "a.png", shape)


def test_damaged_images(pil, tmp_path, monkeypatch):
    pil.fromarray(RNG.integers(0, 255, (50, 50), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (b"", b"no picture", whole[:200], whole[:-100]):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.png: not a readable picture"):
            readers.read_image(tmp_path / "b.png", (8, 8))
    monkeypatch.setattr(pil, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ValueError, match=r"a\.png: not a readable picture .*50 x 50 pixels"):
        readers.read_image(tmp_path / "a.png", (8, 8))
    with pytest.raises(FileNotFoundError):
        readers.read_image(tmp_path / "missing.png", (8, 8))


def test_image_without_pillow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "fastnet\[images\]"'):
        readers.read_image(tmp_path / "a.png", (8, 8))
