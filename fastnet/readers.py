"""Read tables and images from files: CSV, NPZ, NPY, IDX, pictures.

`load_table` is the one entry point for a data set, by file, folder or name; the other functions
read one format each.
"""

import math
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import check, datasets
from ._csv import parse_csv
from ._idx import read_idx
from ._pictures import SUFFIXES as _IMAGE_SUFFIXES
from ._pictures import need_pillow, open_picture, own_limit

__all__ = [
    "Dataset",
    "load_table",
    "read_csv",
    "read_idx",
    "read_idx_folder",
    "read_image",
    "read_npz",
]

_ARRAYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")
_MAX_NPZ_BYTES = 16 << 30
_CSV_SUFFIXES = (".csv", ".tsv", ".txt")
_IDX_NAME = re.compile(r"(?:.*[-_.])?(train|t10k|test)[-_.](images|labels)[-_.]idx\d.*", re.I)


@dataclass(eq=False)
class Dataset:
    """Features and labels from a file.

    Attributes
    ----------
    x_train : ndarray (n, ...)
        Features: float32 (n, features) from CSV, uint8 images (n, height, width) from IDX, what the
        file holds from NPZ.
    y_train : ndarray (n,) or (n, outputs), or None
        Labels: int64 from IDX, and from CSV when all are whole numbers, else float32; what the file
        holds from NPZ, with texts as int64 codes that count `classes`. None when the file has none.
    x_test, y_test : ndarray or None
        The test part, when the source has one of its own.
    classes : ndarray of str or int, or None
        Class k is called ``classes[k]``; None when the labels are plain numbers.
    name : str
        What the data set is called: a name such as "mnist", or the file's name.
    feature_names : tuple of str or None
        The features' names, from a CSV header.
    """

    x_train: np.ndarray
    y_train: np.ndarray | None = None
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    classes: np.ndarray | None = None
    name: str = ""
    feature_names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        parts = [repr(self.name), f"train {self.x_train.shape} {self.x_train.dtype}"]
        if self.x_test is not None:
            parts.append(f"test {self.x_test.shape}")
        if self.y_train is None:
            parts.append("no labels")
        elif self.classes is not None:
            parts.append(f"{len(self.classes)} classes")
        return f"{type(self).__name__}({', '.join(parts)})"

    def with_classes(self) -> "Dataset":
        """The same data with labels 0 to K-1 and `classes`, as a classifier wants them.

        Returns
        -------
        Dataset
            This one when it has `classes` already or its labels are one-hot (n, K > 1). Else a new
            one, its labels int64 (n,) codes of the sorted distinct values of both parts' labels,
            its `classes` those values as int64.

        Raises
        ------
        ValueError
            If there are no labels, or one is not a whole number.
        """
        if self.y_train is None:
            raise ValueError(f"{self.name}: no labels; a classifier needs them")
        if self.classes is not None or (self.y_train.ndim > 1 and self.y_train.shape[1] != 1):
            return self
        labels = [y.reshape(-1) for y in (self.y_train, self.y_test) if y is not None]
        values = np.concatenate(labels)
        with np.errstate(invalid="ignore"):  # NaN is reported below
            whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            bad = values[whole != values][0]
            raise ValueError(
                f"{self.name}: label {bad} is not a whole number; is this a regression problem?"
            )
        classes, codes = np.unique(whole, return_inverse=True)
        codes = codes.reshape(-1).astype(np.int64)
        cut = len(labels[0])
        test = None if self.y_test is None else codes[cut:]
        return replace(self, y_train=codes[:cut], y_test=test, classes=classes)


def load_table(
    source: str | os.PathLike[str],
    *,
    label: int | str | None = -1,
    header: bool | None = None,
    image_size: int | tuple[int, int] = (64, 64),
    color_mode: str = "rgb",
    progress: bool | str = "auto",
) -> Dataset:
    """Load a data set by name, file or folder.

    Parameters
    ----------
    source : str or path
        "digits", "mnist" or "fashion-mnist" (write ``./mnist`` for a folder of that name); or a
        ``.csv``, ``.tsv`` or ``.txt`` table, a ``.npz`` archive, a ``.npy`` array (features
        only), an IDX file (features only), a folder of IDX files, or one with a folder of pictures
        for each class (see `datasets.load_image_folder`).
    label : int, str or None, default -1
        For tables: the label column; see `read_csv`.
    header : bool or None, default None
        For tables: see `read_csv`.
    image_size, color_mode
        For folders of pictures: see `datasets.load_image_folder`.
    progress : bool or "auto", default "auto"
        Progress bars for downloads.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If the file is of no known kind, damaged, or not what its kind wants.
    """
    if isinstance(source, str) and source.lower().replace("_", "-") in _NAMED:
        return _load_named(source.lower().replace("_", "-"), progress)
    path = Path(source)
    if path.is_dir():
        return _load_folder(path, image_size, color_mode, progress)
    if not path.exists():
        raise FileNotFoundError(
            f"no file or folder {str(path)!r}, and no data set of that name "
            f"(there are {', '.join(_NAMED)})"
        )
    suffix = path.suffix.lower()
    if suffix in _CSV_SUFFIXES:
        return read_csv(path, label=label, header=header)
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".npy":
        return Dataset(_features(_load_npy(path), str(path)), name=path.name)
    if "ubyte" in path.name or "idx" in path.name:
        return Dataset(read_idx(path), name=path.name)
    if suffix in _IMAGE_SUFFIXES:
        raise ValueError(f"{path}: one image is no data set; read_image reads it")
    raise ValueError(
        f"{path}: unknown kind of file; wanted {', '.join(_CSV_SUFFIXES)}, .npz, .npy, "
        "an IDX file, or a folder of IDX files or of pictures"
    )


def _load_folder(
    folder: Path, image_size: int | tuple[int, int], color_mode: str, progress: bool | str
) -> Dataset:
    """IDX files where there are some, else pictures in a folder for each class."""
    if not is_picture_folder(folder):
        return read_idx_folder(folder)
    from ._image_folder import load_image_folder

    return load_image_folder(folder, image_size, color_mode, progress=progress)


def is_picture_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder has no IDX files, but folders with pictures in them."""
    from ._image_folder import has_class_folders

    folder = Path(path)
    return folder.is_dir() and not _idx_files(folder) and has_class_folders(folder)


def is_idx_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder has IDX files."""
    return bool(_idx_files(Path(path)))


_NAMED = ("digits", "mnist", "fashion-mnist")


def _load_named(name: str, progress: bool | str) -> Dataset:
    if name == "digits":
        split = datasets.load_digits()
    elif name == "mnist":
        split = datasets.load_mnist(progress=progress)
    else:
        split = datasets.load_fashion_mnist(progress=progress)
    fashion = name == "fashion-mnist"
    classes = datasets.FASHION_MNIST_CLASSES if fashion else datasets.DIGIT_CLASSES
    (x_train, y_train), (x_test, y_test) = split
    return Dataset(x_train, y_train, x_test, y_test, np.array(classes), name)


def read_csv(
    path: str | os.PathLike[str], *, label: int | str | None = -1, header: bool | None = None
) -> Dataset:
    """Read a table of numbers, UTF-8 text separated by comma, semicolon or tab.

    Parameters
    ----------
    path : str or path
        The file. The separator is the one that is most frequent in the first line.
    label : int, str or None, default -1
        The column that holds the labels: an index (from 0; negative from the end), as int or
        text, or a name in the header (one that is a number needs ``header=True``); None when no
        column does. Its cells may be texts.
    header : bool or None, default None
        Whether the first line holds names; None tells by the cells: it does when `label` names one
        of them, when none of them is a number, or when only the label's is none.

    Returns
    -------
    Dataset
        `x_train` float32 (n, features); `y_train` int64 (n,) when the labels are whole numbers or
        texts (then `classes` holds the sorted texts), else float32 (n,); None without a label.

    Raises
    ------
    ValueError
        If the file is empty, its rows differ in length, a cell is empty, no number or no finite
        float32, or there is no such label column. The message names the line and column, from 1.
    """
    table = parse_csv(path, label, header)
    return Dataset(
        table.x,
        table.y,
        classes=table.classes,
        name=Path(path).name,
        feature_names=table.feature_names,
    )


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """Read a NumPy archive with arrays ``x, y`` or ``x_train, y_train[, x_test, y_test]``.

    Parameters
    ----------
    path : str or path
        The ``.npz`` file. Upper and lower case of the names do not matter; the labels may be
        missing. Nothing in it is run: arrays of Python objects are refused.

    Returns
    -------
    Dataset
        Arrays as they are in the file; labels that are texts as int64 codes, with `classes`.

    Raises
    ------
    ValueError
        If the file is damaged, unpacks to more than 16 GiB, has none of these arrays, or they are
        not numbers or of different length.
    """
    path = Path(path)
    arrays, names = _load_archive(path)
    key = next((k for k in ("x_train", "x") if k in arrays), None)
    if key is None:
        found = ", ".join(names) or "none"
        raise ValueError(
            f"{path}: wanted arrays x and y, or x_train, y_train, x_test, y_test; found: {found}"
        )
    x_train = _features(arrays[key], f"{path}, {key}")
    y_train = arrays.get(key.replace("x", "y", 1))
    x_test, y_test = arrays.get("x_test"), arrays.get("y_test")
    if x_test is None:
        y_test = None
    else:
        x_test = _features(x_test, f"{path}, x_test")
        if x_test.shape[1:] != x_train.shape[1:]:
            raise ValueError(
                f"{path}: rows of x_test have shape {x_test.shape[1:]}, those of {key} "
                f"{x_train.shape[1:]}"
            )
    y_train, y_test, classes = _labels(y_train, y_test, path)
    for x, y, part in ((x_train, y_train, "training"), (x_test, y_test, "test")):
        _check_lengths(x, y, f"{path}, {part} part")
    return Dataset(x_train, y_train, x_test, y_test, classes, path.name)


def _load_archive(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a data set in an archive, by name in lower case; the names of all arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > _MAX_NPZ_BYTES:
            raise ValueError(f"unpacks to {total:,} bytes, limit {_MAX_NPZ_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            wanted = [name for name in file.files if name.lower() in _ARRAYS]
            return {name.lower(): file[name] for name in wanted}, file.files
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive can fail in zipfile, zlib, struct, NumPy ...
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a readable .npy file ({error})") from None


def _features(x: Any, where: str) -> np.ndarray:
    if not isinstance(x, np.ndarray) or x.ndim < 1 or x.dtype.kind not in "buif":
        got = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"{where}: wanted numbers with rows as the first axis, got {got}")
    return x


def _labels(
    train: np.ndarray | None, test: np.ndarray | None, path: Path
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Both parts' labels as numbers, and the classes when they were texts."""
    given = [y for y in (train, test) if y is not None]
    if any(y.dtype.kind not in "buifUS" or y.ndim < 1 for y in given):
        got = " and ".join(f"{y.dtype} of shape {y.shape}" for y in given)
        raise ValueError(f"{path}: wanted labels that are numbers or texts, got {got}")
    if not any(y.dtype.kind in "US" for y in given):
        return train, test, None
    if not all(y.dtype.kind in "US" for y in given):
        raise ValueError(f"{path}: labels are texts in one part and numbers in the other")
    texts = [np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y for y in given]
    classes, codes = np.unique(np.concatenate([t.reshape(-1) for t in texts]), return_inverse=True)
    parts = iter(np.split(codes.reshape(-1).astype(np.int64), [given[0].size]))
    return (
        None if train is None else next(parts),
        None if test is None else next(parts),
        classes,
    )


def _check_lengths(x: np.ndarray | None, y: np.ndarray | None, where: str) -> None:
    if x is not None and y is not None and len(x) != len(y):
        raise ValueError(f"{where}: {len(x)} rows, but {len(y)} labels")


def read_idx_folder(folder: str | os.PathLike[str]) -> Dataset:
    """Read a folder of IDX files named as those of MNIST.

    Parameters
    ----------
    folder : str or path
        Has ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and possibly
        ``t10k-images-...`` and ``t10k-labels-...`` (or ``test-...``); plain or ``.gz``, with or
        without a prefix such as ``emnist-letters-``. Where a file is there in both forms, the plain
        one is read.

    Returns
    -------
    Dataset
        Arrays as in the files; labels int64 (n,).

    Raises
    ------
    ValueError
        If the files are not there, are several sets, are damaged or do not fit together.
    """
    folder = Path(folder)
    files = _idx_files(folder)
    missing = [kind for kind in ("images", "labels") if ("train", kind) not in files]
    if missing:
        raise ValueError(
            f"{folder}: no training {' and '.join(missing)}; wanted IDX files named as "
            "train-images-idx3-ubyte[.gz] and train-labels-idx1-ubyte[.gz], or a folder of "
            "pictures for each class"
        )
    data = Dataset(*_read_idx_pair(files, "train"), name=folder.resolve().name)
    if ("test", "images") in files and ("test", "labels") in files:
        data.x_test, data.y_test = _read_idx_pair(files, "test")
    return data


def _read_idx_pair(files: dict[tuple[str, str], Path], part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and int64 labels of one part."""
    file = files[part, "labels"]
    x, y = read_idx(files[part, "images"]), read_idx(file)
    if y.ndim != 1 or y.dtype.kind not in "ui":
        raise ValueError(f"{file}: wanted integer labels (n,), got {y.dtype} of shape {y.shape}")
    _check_lengths(x, y, f"{file.parent}, {part} part")
    return x, y.astype(np.int64)


def _idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The IDX files of a folder by part (train, test) and kind (images, labels)."""
    files: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.iterdir()):
        match = _IDX_NAME.fullmatch(file.name)
        if not match or not file.is_file():
            continue
        part, kind = match[1].lower().replace("t10k", "test"), match[2].lower()
        first = files.setdefault((part, kind), file)
        if first is not file and file.name.removesuffix(".gz") != first.name:
            raise ValueError(f"{folder}: several sets: {first.name} and {file.name}")
    return files


def read_image(
    path: str | os.PathLike[str],
    shape: int | Sequence[int],
    *,
    invert: bool | str = "auto",
    fit: str = "pad",
) -> np.ndarray:
    """Read a picture as one input of a network, ink bright on a dark background as in MNIST.

    It is turned as its EXIF data says, made grey (unless `shape` wants 3 channels) and resized to
    fit, keeping its proportions, with background beside it. Needs Pillow.

    Parameters
    ----------
    path : str or path
        A PNG, JPEG, BMP, GIF, WebP, TIFF or PPM file.
    shape : int or tuple of int
        The input shape that is wanted: (height, width), (height, width, 1 or 3), or the number of
        features of a square grey image.
    invert : bool or "auto", default "auto"
        Whether to swap dark and bright; "auto" does for grey images with a bright background (the
        median of the picture's border above 127).
    fit : "pad" (the default) or "stretch"
        "stretch" does not keep proportions, as `datasets.load_image_folder`.

    Returns
    -------
    ndarray
        uint8, 0 to 255, of `shape` (an int n gives (n,)). One image: a batch is ``image[None]``.

    Raises
    ------
    ImportError
        If Pillow is missing.
    ValueError
        If the file is no readable picture, too large, or `shape` is no image's.
    """
    height, width, channels = image_shape(shape)
    if invert not in (True, False, "auto"):
        raise ValueError(f'invert: wanted True, False or "auto", got {invert!r}')
    check.choice("fit", fit, ("pad", "stretch"))
    need_pillow()
    from PIL import Image, ImageOps

    near = (width, height) if fit == "stretch" else None  # as for a folder, to the bit
    with own_limit():
        image = open_picture(path, "L" if channels == 1 else "RGB", near)
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border.reshape(-1, channels), axis=0).astype(int)
    if invert is True or (invert == "auto" and channels == 1 and background[0] > 127):
        image, background = ImageOps.invert(image), 255 - background
    fill = int(background[0]) if channels == 1 else tuple(int(v) for v in background)
    if image.size != (width, height) and fit == "stretch":
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    elif image.size != (width, height):
        image = ImageOps.pad(image, (width, height), Image.Resampling.BICUBIC, color=fill)
    target = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    return np.array(image, dtype=np.uint8).reshape(target)


def image_shape(shape: int | Sequence[int]) -> tuple[int, int, int]:
    """Height, width and channels that an input shape means."""
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if len(sizes) == 1:
        side = math.isqrt(max(int(sizes[0]), 0))
        sizes = (side, side, 1) if side * side == sizes[0] else ()
    elif len(sizes) == 2:
        sizes = (*sizes, 1)
    if len(sizes) != 3 or min(sizes) < 1 or sizes[2] not in (1, 3):
        raise ValueError(
            "shape: wanted (height, width), (height, width, 1 or 3) or a square number of "
            f"features, got {shape!r}"
        )
    return int(sizes[0]), int(sizes[1]), int(sizes[2])
