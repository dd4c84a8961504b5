"""Drawings made as MNIST has its digits: fitted, centred, without their paper."""

import tracemalloc

import numpy as np
import pytest

from fastnet import _pictures, datasets

PIL = pytest.importorskip("PIL.Image")


def stroke(side, dark=True, width=None, shift=(0, 0)):
    """A seven, drawn with straight lines."""
    width = width or side // 20
    page = np.zeros((side, side))
    q = side // 4
    page[q : q + width, q : 3 * q] = 255
    for i in range(q, 3 * q):
        x = 3 * q - (i - q) // 2
        page[i, x - width : x] = 255
    page = np.roll(page, shift, (0, 1))
    return (255 - page if dark else page).astype(np.uint8)


@pytest.mark.parametrize("dark", [True, False])
@pytest.mark.parametrize("shift", [(0, 0), (30, -40)])
def test_a_drawing_is_fitted_and_centred(dark, shift):
    got = _pictures.prepare_digit(stroke(400, dark, shift=shift))
    assert (got.shape, got.dtype) == ((28, 28), np.uint8)
    rows, columns = np.nonzero(got.max(axis=1) > 60)[0], np.nonzero(got.max(axis=0) > 60)[0]
    assert 19 <= np.ptp(rows) + 1 <= 20
    assert 18 <= np.ptp(columns) + 1 <= 20
    weights = got / got.sum()
    assert abs((weights.sum(axis=1) * np.arange(28)).sum() - 14) <= 0.8
    assert abs((weights.sum(axis=0) * np.arange(28)).sum() - 14) <= 0.8
    assert got.max() == 255
    assert len(np.unique(got)) > 4  # anti-aliased


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_large_photograph_of_a_drawing_takes_little_memory(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    PIL.fromarray(np.kron(stroke(500), np.ones((9, 9), np.uint8))).save(path)
    tracemalloc.start()
    try:
        got = _pictures.read_digit(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    want = _pictures.prepare_digit(stroke(500))
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


def test_shadows_and_specks_of_paper_do_not_count():
    page = stroke(300, True).astype(float)
    y, x = np.mgrid[:300, :300]
    rng = np.random.default_rng(0)
    lit = np.clip(page - 25 * (x + y) / 600 + rng.normal(0, 3, page.shape), 0, 255)
    got = _pictures.prepare_digit(lit.astype(np.uint8))
    rows = np.nonzero(got.max(axis=1) > 100)[0]
    assert 18 <= np.ptp(rows) + 1 <= 20


def test_a_blank_page_and_a_dot():
    assert not _pictures.prepare_digit(np.full((50, 50), 240, np.uint8)).any()
    dot = np.full((50, 50), 240, np.uint8)
    dot[10, 10] = 0
    assert _pictures.prepare_digit(dot).any()


def test_mnist_digits_stay_what_they_are(fastnet_data):
    (x, _), _ = datasets.load_mnist(progress=False)
    again = [_pictures.prepare_digit(np.pad(image, 10)) for image in x[:100]]
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(again, x, strict=False)]
    assert np.mean(alike) > 0.99
