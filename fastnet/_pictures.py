"""Pictures from files, with Pillow: opened safely, upright, without transparency, prepared."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

#: A picture of more pixels is refused before it is decoded: a small file can hold a huge one.
MOST_PIXELS = 64_000_000
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm",
)  # fmt: skip
#: What a picture may be, whatever its name says: Pillow would run Ghostscript for a PostScript one.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_BLOCK = 1 << 20  # pixels of a picture that are computed with at once
_DRAWN = 2000  # a side of a drawing: more pixels say nothing, and take memory


def need_pillow() -> None:
    """ImportError that names the extra, if Pillow is not here."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ImportError('reading pictures needs Pillow: pip install "fastnet[images]"') from None


@contextlib.contextmanager
def own_limit():
    """No warnings by Pillow, of large pictures (`open_picture` refuses them), odd tags and so on:
    there may be one for each picture. Not per thread."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def open_picture(
    path: str | os.PathLike[str], mode: str, near: tuple[int, int] | None = None
) -> Any:
    """The picture as 8-bit grey ("L") or colour ("RGB"), upright, without transparency.

    Safe to call from several threads. `near` is a (width, height) that it will be shrunk to: a JPEG
    is then decoded at a fraction of its size that is not smaller.

    Raises
    ------
    FileNotFoundError
    ValueError
        If it is no readable picture (PNG, JPEG, BMP, GIF, WebP, TIFF, PPM), or one of more than 64
        million pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as file:  # reads the head only
            width, height = file.size
            limit = min(MOST_PIXELS, Image.MAX_IMAGE_PIXELS or MOST_PIXELS)
            if width * height > limit:
                raise ValueError(f"{width} x {height} pixels, limit {limit}")
            if near is not None:
                file.draft("L" if mode == "L" else None, (max(near), max(near)))
            image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits in one channel, which convert() would clip
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
            image = _flatten(image.convert("RGBA"))
        return image.convert(mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        raise ValueError(f"{path}: not a readable picture ({error})") from None


def _lines(pixels: np.ndarray) -> Iterator[slice]:
    """Lines of a picture, about `_BLOCK` pixels at a time: copies of all of it would be large."""
    step = max(1, _BLOCK // max(1, pixels.shape[1]))
    for i in range(0, len(pixels), step):
        yield slice(i, i + step)


def _eight_bits(wide: np.ndarray) -> np.ndarray:
    """0..65535 as 0..255."""
    result = np.empty(wide.shape, np.uint8)
    for at in _lines(wide):
        result[at] = np.clip(wide[at].astype(np.float64) / 257, 0, 255).round()
    return result


def _flatten(image: Any) -> Any:
    """An RGBA picture on white, or on black when what is drawn is mostly bright."""
    from PIL import Image

    pixels = np.asarray(image)
    ink = light = 0
    for at in _lines(pixels):
        alpha = pixels[at, :, 3].astype(np.int64)
        ink += int(alpha.sum())
        light += int((pixels[at, :, :3].sum(axis=-1, dtype=np.int64) * alpha).sum())
    bright = light > 3 * 127.5 * ink
    paper = Image.new("RGBA", image.size, (0, 0, 0, 255) if bright else (255, 255, 255, 255))
    return Image.alpha_composite(paper, image)


# ---- a drawn digit as MNIST has them ------------------------------------------------------------


def read_digit(path: str | os.PathLike[str], side: int = 28, box: int = 20) -> np.ndarray:
    """A picture of a drawn digit from a file, as `prepare_digit` makes it."""
    need_pillow()
    with own_limit():
        image = open_picture(path, "L", near=(_DRAWN, _DRAWN))
    image = image.reduce(-(-max(image.size) // _DRAWN))
    return prepare_digit(np.asarray(image), side, box)


def prepare_digit(
    picture: np.ndarray, side: int = 28, box: int = 20, *, invert: bool | str = "auto"
) -> np.ndarray:
    """A drawing as MNIST prepared its digits: bright ink on black, the box around the ink fitted
    into `box` x `box` pixels with its proportions kept, the ink's centre of mass in the middle.

    Parameters
    ----------
    picture : uint8 (height, width)
        Grey, of any size.
    side, box : int
        Of the result, and of what the drawing is fitted into: 28 and 20 for MNIST.
    invert : bool or "auto", default "auto"
        Whether ink is dark; "auto" looks at the border of the picture, which is paper.

    Returns
    -------
    ndarray
        uint8 (side, side); all 0 where the picture is blank.

    Notes
    -----
    Paper that is not evenly lit is taken off first: what differs from the paper by less than
    15 % of the strongest ink does not count for the box.
    """
    from PIL import Image

    ink = _ink(picture, invert)
    result = np.zeros((side, side), np.uint8)
    strong = ink > max(24.0, 0.15 * float(ink.max(initial=0)))
    if not strong.any():
        return result
    rows, columns = np.nonzero(strong.any(axis=1))[0], np.nonzero(strong.any(axis=0))[0]
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ink = ink * (255 / ink.max())
    height, width = ink.shape
    scale = box / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.rint(ink).astype(np.uint8))
    small = np.asarray(image.resize(size, Image.Resampling.BOX if scale < 1 else
                                    Image.Resampling.BILINEAR), np.float64)  # fmt: skip
    # Strokes of a pen thinner than MNIST's fade when they are shrunk: bring ink back to white.
    small = np.clip(small * (255 / max(float(np.percentile(small[small > 0], 95)), 1.0)), 0, 255)
    total = small.sum()  # MNIST has the centre of mass at pixel side / 2, to half a pixel
    centre_y = (small.sum(axis=1) * np.arange(len(small))).sum() / total
    centre_x = (small.sum(axis=0) * np.arange(small.shape[1])).sum() / total
    top = min(max(math.floor(side / 2 - centre_y + 0.5), 0), side - small.shape[0])
    left = min(max(math.floor(side / 2 - centre_x + 0.5), 0), side - small.shape[1])
    result[top : top + small.shape[0], left : left + small.shape[1]] = np.rint(small)
    return result


def _ink(picture: np.ndarray, invert: bool | str) -> np.ndarray:
    """How much ink there is at each pixel, 0 to 255: the paper is 0."""
    grey = np.asarray(picture, np.float64)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = float(np.median(border))
    if invert is True or (invert == "auto" and paper > 127):
        grey, paper = 255 - grey, 255 - paper
    return np.clip((grey - paper) * (255 / max(255 - paper, 1)), 0, 255)
