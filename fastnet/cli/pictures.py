"""Images as text: coloured blocks for a terminal, shades of ASCII for everything else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from .common import colors

_SHADES = " .:-=+*#%@"
_RESET = "\x1b[0m"
#: Up to this width a pixel is a square of two characters; wider images get two pixels a character.
_SMALL = 16


@dataclass(frozen=True)
class Style:
    """How images are drawn."""

    color: bool = False  # colour codes may be sent
    blocks: bool = False  # the upper half block can be written
    truecolor: bool = False

    @classmethod
    def of(cls, stream: Any) -> Style:
        """What a stream can show."""
        color = colors(stream)
        try:
            "▀".encode(getattr(stream, "encoding", None) or "ascii")
            blocks = True
        except (UnicodeEncodeError, LookupError):
            blocks = False
        deep = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
        return cls(color and blocks, blocks, deep)

    def across(self, columns: int) -> int:
        """Characters for a pixel of an image so many pixels wide."""
        return 2 if columns <= _SMALL else 1

    def width(self, image: np.ndarray) -> int:
        """Characters that a line of the image takes."""
        return image.shape[1] * self.across(image.shape[1])


def normalised(image: np.ndarray) -> np.ndarray:
    """An image as float32 (height, width, channels) from 0 to 1."""
    pixels = image.astype(np.float32)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if image.dtype == np.uint8:
        return pixels / 255
    pixels = np.nan_to_num(pixels, posinf=0, neginf=0)
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    if low < 0 or high > 255:
        return (pixels - low) / ((high - low) or 1)
    return pixels / (255 if high > 1 else 1)


def fit_width(image: np.ndarray, columns: int, style: Style) -> np.ndarray:
    """An image, shrunk by a whole factor where it is wider than `columns` characters."""
    factor = -(-image.shape[1] // max(columns, 1))
    if factor <= 1 and style.width(image) <= columns:
        return image
    factor = max(factor, 1)
    while True:
        height, width = (max(1, side // factor) for side in image.shape[:2])
        if width * style.across(width) <= columns or width == 1:
            break
        factor += 1
    pixels = normalised(image)
    cut = pixels[: height * factor, : width * factor]
    if cut.shape[0] < factor or cut.shape[1] < factor:
        return image[:height, :width]
    return cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))


def draw(image: np.ndarray, style: Style) -> list[str]:
    """The lines of an image."""
    pixels = normalised(image)
    if style.color:
        return _squares(pixels, style) if pixels.shape[1] <= _SMALL else _halves(pixels, style)
    return _ascii(pixels, style)


def _ascii(pixels: np.ndarray, style: Style) -> list[str]:
    grey = pixels.mean(axis=-1)
    across = style.across(grey.shape[1])
    if across == 1:  # characters are twice as high as wide
        grey = np.concatenate([grey, grey[-1:]]) if len(grey) % 2 else grey
        grey = grey.reshape(-1, 2, grey.shape[1]).mean(axis=1)
    shades = np.clip(np.rint(grey * (len(_SHADES) - 1)), 0, len(_SHADES) - 1).astype(int)
    return ["".join(_SHADES[k] * across for k in row) for row in shades]


def _squares(pixels: np.ndarray, style: Style) -> list[str]:
    codes = _codes(pixels, style)
    return ["".join(f"\x1b[48;{code}m  " for code in row) + _RESET for row in codes]


def _halves(pixels: np.ndarray, style: Style) -> list[str]:
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    codes = _codes(pixels, style)
    lines = []
    for upper, lower in zip(codes[::2], codes[1::2], strict=True):
        line, before = "", None
        for pair in zip(upper, lower, strict=True):
            if pair != before:
                line += f"\x1b[38;{pair[0]};48;{pair[1]}m"
                before = pair
            line += "▀"
        lines.append(line + _RESET)
    return lines


def _codes(pixels: np.ndarray, style: Style) -> list[list[str]]:
    """The colour of every pixel as the end of an escape sequence."""
    if pixels.shape[-1] == 1:  # the 24 greys that every terminal has
        greys = np.clip(np.rint(pixels[..., 0] * 23), 0, 23).astype(int) + 232
        return [[f"5;{g}" for g in row] for row in greys]
    levels = 255 if style.truecolor else 5
    rgb = np.clip(np.rint(pixels[..., :3] * levels), 0, levels).astype(int)
    if style.truecolor:
        return [[f"2;{r};{g};{b}" for r, g, b in row] for row in rgb]
    return [[f"5;{16 + 36 * r + 6 * g + b}" for r, g, b in row] for row in rgb]
