"""Pictures in folders, one folder for each class, as arrays: decoded once, then mapped from disk.

The cache is two files: ``NAME.json`` (what is in it) and ``NAME.u8`` (the pixels). NAME is made of
the folder, the options, and every picture's path, size and time, so that a changed folder is read
again. Each file appears whole under its name; the pixels come first, the description last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import _safefile, check
from ._pictures import SUFFIXES, need_pillow, open_picture, own_limit
from .readers import Dataset

_MODES = {"rgb": ("RGB", 3), "grayscale": ("L", 1)}
_FITS = ("stretch", "crop", "pad")
_VERSION = 1  # of the cache
_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test",
          "val": "test", "valid": "test", "validation": "test"}  # fmt: skip
_SHOWN = 5  # problems that the warning names


@dataclass(eq=False, repr=False)
class ImageFolder(Dataset):
    """A folder of pictures as arrays; `classes` are the names of its folders, sorted.

    Attributes
    ----------
    x_train, x_test : uint8 (n, height, width) or (n, height, width, 3)
        Memory-mapped where there is a cache; x_test is None without a validation part.
    y_train, y_test : int64 (n,)
    files, files_test : tuple of str
        Where each row comes from, relative to the folder.
    problems : tuple of (str, str)
        Pictures that could not be read, and why.
    """

    files: tuple[str, ...] = ()
    files_test: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Picture:
    path: str  # relative to the folder, with /
    label: int
    test: bool


@dataclass(frozen=True)
class _Options:
    size: tuple[int, int]
    mode: str
    fit: str
    split: float
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        channels = _MODES[self.mode][1]
        return self.size if channels == 1 else (*self.size, channels)


def load_image_folder(
    path: str | os.PathLike[str],
    image_size: int | tuple[int, int] = (64, 64),
    color_mode: str = "rgb",
    *,
    fit: str = "stretch",
    validation_split: float = 0.0,
    seed: int = 0,
    cache: bool | str | os.PathLike[str] = True,
    progress: bool | str = "auto",
) -> ImageFolder:
    """Load pictures of your own: a folder with one folder for each class.

    ``leaves/oak/*.jpg, leaves/birch/*.png`` gives two classes, "birch" and "oak". Pictures in
    folders further down belong to the class above; hidden files and folders, and files that are no
    pictures by their suffix, are passed over. ``leaves/train/...`` and ``leaves/test/...`` (or
    ``val``), each with the folders of the classes, give the two parts. Needs Pillow.

    Parameters
    ----------
    path : str or path
    image_size : int or (height, width), default (64, 64)
        All pictures are resized to it.
    color_mode : "rgb" (the default) or "grayscale"
    fit : "stretch" (the default), "crop" or "pad"
        For pictures of other proportions: stretched, their middle cut out, or black beside them.
    validation_split : float in [0, 1), default 0
        Share of each class that becomes the test part, where the folder has none of its own; one
        picture of each stays in the training part.
    seed : int, default 0
        Of the split and of the order of the rows, which mixes the classes.
    cache : bool, str or path, default True
        Keep the decoded pixels for the next time in `cache_folder`, or in this folder, and use them
        from there without reading them into memory. False: in memory.
    progress : bool or "auto", default "auto"
        A progress bar when it takes longer than a second; False for none.

    Returns
    -------
    ImageFolder
        `x_train`, `y_train`, `x_test`, `y_test`, `classes`, `files`, `problems`.

    Raises
    ------
    ImportError
        If Pillow is missing.
    FileNotFoundError, NotADirectoryError
    ValueError
        If there are no class folders with pictures, or none of the pictures can be read.

    Warns
    -----
    UserWarning
        Once, when pictures could not be read (damaged, or of more than 64 million pixels), or when
        the cache cannot be written. The others are loaded.

    Examples
    --------
    >>> data = datasets.load_image_folder("leaves", (32, 32), validation_split=0.2)
    >>> trainer.fit(data.x_train, data.y_train, validation_data=(data.x_test, data.y_test))
    >>> data.classes[net.predict_classes(data.x_test[:5])]
    """
    options = _options(image_size, color_mode, fit, validation_split, seed)
    need_pillow()
    folder = Path(path)
    if not folder.is_dir():
        error = NotADirectoryError if folder.exists() else FileNotFoundError
        raise error(f"{folder}: wanted a folder with one folder of pictures for each class")
    classes, pictures = _scan(folder)
    pictures = _arranged(pictures, len(classes), options)
    home = _cache_home(cache)
    if home is not None:
        try:
            rows, kept, problems = _cached(folder, pictures, options, home, progress)
        except OSError as error:
            warnings.warn(
                f"{folder}: the cache cannot be written ({error}); pictures are kept in memory",
                stacklevel=2,
            )
            home = None
    if home is None:
        rows = np.empty((len(pictures), *options.shape), np.uint8)
        kept, problems = _decode(folder, pictures, options, rows, progress)
        rows = rows[: len(kept)]
    if not kept:
        raise ValueError(f"{folder}: none of its {len(pictures)} pictures can be read: "
                         f"{_listed(problems)}")  # fmt: skip
    if problems:
        warnings.warn(
            f"{folder}: {len(problems)} of {len(pictures)} pictures could not be read and are left "
            f"out: {_listed(problems)}",
            stacklevel=2,
        )
    return _result(folder, classes, [pictures[i] for i in kept], rows, problems)


def _options(image_size: Any, color_mode: str, fit: str, split: float, seed: int) -> _Options:
    size = check.shape("image_size", image_size)
    if len(size) == 1:
        size = (size[0], size[0])
    if len(size) != 2:
        raise ValueError(f"image_size must be an int or (height, width), got {image_size!r}")
    check.choice("color_mode", color_mode, _MODES)
    check.choice("fit", fit, _FITS)
    split = check.number("validation_split", split, low=0, below=1)
    return _Options((size[0], size[1]), color_mode, fit, split, check.seed(seed))


def _listed(problems: Sequence[tuple[str, str]]) -> str:
    text = "; ".join(f"{file}: {reason}" for file, reason in problems[:_SHOWN])
    more = len(problems) - _SHOWN
    return text + (f"; and {more} more (problems lists all)" if more > 0 else "")


def _result(folder: Path, classes: list[str], pictures: list[_Picture], rows: np.ndarray,
            problems: Sequence[tuple[str, str]]) -> ImageFolder:  # fmt: skip
    """Training rows lie before test rows."""
    cut = sum(not p.test for p in pictures)
    y = np.array([p.label for p in pictures], np.int64)
    names = tuple(p.path for p in pictures)
    tested = cut < len(pictures)
    return ImageFolder(
        rows[:cut], y[:cut], rows[cut:] if tested else None, y[cut:] if tested else None,
        np.array(classes), folder.resolve().name,
        files=names[:cut], files_test=names[cut:], problems=tuple(problems),
    )  # fmt: skip


# ---- which pictures -----------------------------------------------------------------------------


def has_class_folders(folder: Path) -> bool:
    """Whether there is a folder with a picture in it: `load_image_folder` can read this one."""
    return any(True for sub in _folders(folder) for _ in _pictures_below(sub))


def _folders(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))),
        key=lambda p: p.name,
    )


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Pictures in a folder and further down, in a fixed order."""
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(base) / name


def _scan(folder: Path) -> tuple[list[str], list[_Picture]]:
    """Names of the classes, and all pictures."""
    tops = _folders(folder)
    parts = {p: _PARTS.get(p.name.lower()) for p in tops}
    in_parts = bool(tops) and all(parts.values()) and "train" in parts.values()
    found: list[tuple[str, bool, list[Path]]] = []  # class, whether for testing, pictures
    for top in tops:
        for one in _folders(top) if in_parts else [top]:
            pictures = list(_pictures_below(one))
            if pictures:
                found.append((one.name, in_parts and parts[top] == "test", pictures))
    if not found:
        loose = any(p.name.lower().endswith(SUFFIXES) for p in folder.iterdir())
        hint = "; its pictures must lie in a folder for each class" if loose else ""
        raise ValueError(f"{folder}: no folder with pictures in it{hint}")
    classes = sorted({name for name, _, _ in found})
    number = {name: i for i, name in enumerate(classes)}
    return classes, [
        _Picture(p.relative_to(folder).as_posix(), number[name], test)
        for name, test, pictures in found
        for p in pictures
    ]


def _arranged(pictures: list[_Picture], classes: int, options: _Options) -> list[_Picture]:
    """Split class by class, mixed, training rows first."""
    rng = np.random.default_rng(options.seed)
    if options.split and not any(p.test for p in pictures):
        for k in range(classes):
            rows = [i for i, p in enumerate(pictures) if p.label == k]
            order = rng.permutation(len(rows))
            for i in order[: min(round(options.split * len(rows)), len(rows) - 1)]:
                old = pictures[rows[i]]
                pictures[rows[i]] = _Picture(old.path, old.label, True)
    mixed = [pictures[i] for i in rng.permutation(len(pictures))]
    return sorted(mixed, key=lambda p: p.test)


# ---- decoding -----------------------------------------------------------------------------------


def _decode(folder: Path, pictures: list[_Picture], options: _Options, rows: np.ndarray,
            progress: bool | str) -> tuple[list[int], list[tuple[str, str]]]:  # fmt: skip
    """Decode into `rows`, in worker threads. Returns which pictures the first rows are, and what
    went wrong with the others."""
    from .threads import get_num_threads

    def one(i: int) -> str | None:  # what is wrong with it
        path = folder / pictures[i].path
        if not path.is_file():
            return "no file"
        try:
            rows[i] = _pixels(path, options)
        except (ValueError, OSError, MemoryError) as error:
            text = str(error).removeprefix(f"{path}: ").replace(f" {str(path)!r}", "")
            return " ".join(text.split()) or type(error).__name__
        return None

    kept: list[int] = []
    problems: list[tuple[str, str]] = []
    with own_limit(), _bar(len(pictures), progress) as step:
        pool = ThreadPoolExecutor(max(1, get_num_threads()))
        try:
            for i, reason in enumerate(pool.map(one, range(len(pictures)))):
                if reason is None:
                    if len(kept) < i:  # a gap: close it; this row is done, those before as well
                        rows[len(kept)] = rows[i]
                    kept.append(i)
                else:
                    problems.append((pictures[i].path, reason))
                step(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return kept, sorted(problems)


def _pixels(path: Path, options: _Options) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width = options.size
    image = open_picture(path, _MODES[options.mode][0], near=(width, height))
    if image.size != (width, height):
        how = Image.Resampling.BILINEAR  # over all pixels that become one: no aliasing
        if options.fit == "stretch":
            image = image.resize((width, height), how)
        else:
            fit = ImageOps.fit if options.fit == "crop" else ImageOps.pad
            image = fit(image, (width, height), how)
    return np.asarray(image, np.uint8)


@contextlib.contextmanager
def _bar(total: int, progress: bool | str):
    if not progress:
        yield lambda n: None
        return
    from tqdm import tqdm

    with tqdm(desc="pictures", total=total, unit="", leave=False, delay=1.0) as bar:
        yield bar.update


# ---- the cache ----------------------------------------------------------------------------------


def _cache_home(cache: bool | str | os.PathLike[str]) -> Path | None:
    if cache is False:
        return None
    if cache is True:
        from .datasets import cache_folder

        return cache_folder() / "images"
    if not isinstance(cache, str | os.PathLike):
        raise TypeError(f"cache must be True, False or a folder, got {cache!r}")
    return Path(cache)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _state(folder: Path, picture: _Picture) -> tuple[Any, ...]:
    """What tells whether a picture is the one that was decoded."""
    try:
        stat = os.stat(folder / picture.path)
    except OSError:  # a link that leads nowhere: decoding will say so
        return (picture.path, picture.label, picture.test)
    return (picture.path, picture.label, picture.test, stat.st_size, stat.st_mtime_ns)


def _cached(
    folder: Path, pictures: list[_Picture], options: _Options, home: Path, progress: bool | str
) -> tuple[np.ndarray, list[int], list[tuple[str, str]]]:
    """Rows from the cache; decoded into it first where it has not got them."""
    state = [_state(folder, picture) for picture in pictures]
    same = _digest(_VERSION, str(folder.resolve()), options.shape, options.fit,
                   options.split, options.seed)  # fmt: skip
    stem = f"{same}-{_digest(state)}"
    found = _open_cache(home / stem, len(pictures), options)
    if found is not None:
        return found
    home.mkdir(parents=True, exist_ok=True)
    part = home / f".{stem}.{secrets.token_hex(6)}.part"
    try:
        shape = (len(pictures), *options.shape)
        with open(part, "xb") as file:  # a mapped file on a full disk would be a signal, no error
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
        rows = np.memmap(part, np.uint8, "r+", shape=shape)
        kept, problems = _decode(folder, pictures, options, rows, progress)
        rows.flush()
        del rows
        with open(part, "r+b") as file:
            file.truncate(len(kept) * int(np.prod(options.shape)))
            os.fsync(file.fileno())
        os.replace(part, home / f"{stem}.u8")
    finally:
        part.unlink(missing_ok=True)
    text = json.dumps({"kept": kept, "problems": problems})
    _safefile.replace(home / f"{stem}.json", text.encode())
    for old in home.glob(f"{same}-*"):  # of the folder as it was before
        if not old.name.startswith(stem):
            with contextlib.suppress(OSError):
                old.unlink()
    found = _open_cache(home / stem, len(pictures), options)
    if found is None:
        raise OSError(f"{home / stem}: somebody else has changed it")
    return found


def _open_cache(
    stem: Path, pictures: int, options: _Options
) -> tuple[np.ndarray, list[int], list[tuple[str, str]]] | None:
    """Its rows; None where it is not there or not what it should be."""
    try:
        content = json.loads(stem.with_name(f"{stem.name}.json").read_bytes())
        kept = [int(i) for i in content["kept"]]
        problems = [(str(file), str(reason)) for file, reason in content["problems"]]
        if not all(0 <= i < pictures for i in kept) or len(kept) + len(problems) != pictures:
            return None
        pixels = stem.with_name(f"{stem.name}.u8")
        shape = (len(kept), *options.shape)
        if pixels.stat().st_size != int(np.prod(shape)):
            return None
        if not kept:
            return np.empty(shape, np.uint8), kept, problems
        return np.memmap(pixels, np.uint8, "r", shape=shape), kept, problems
    except (OSError, ValueError, KeyError, TypeError):
        return None
