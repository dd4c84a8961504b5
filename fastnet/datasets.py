"""Data sets to learn with: handwritten digits (embedded), MNIST and Fashion-MNIST (downloaded), and
pictures of your own in folders (`load_image_folder`).

The other ``load_*`` functions return ``(x_train, y_train), (x_test, y_test)``: uint8 images (n,
height, width) with 0 as background and 255 as full ink, and int64 labels (n,).

MNIST and Fashion-MNIST are looked for in the folder that the environment variable ``FASTNET_DATA``
names, then in the user's cache (`cache_folder`); what is missing there is downloaded into it.
"""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._idx import read_idx

if TYPE_CHECKING:
    from ._image_folder import ImageFolder, load_image_folder

__all__ = [
    "DIGIT_CLASSES",
    "FASHION_MNIST_CLASSES",
    "ImageFolder",
    "cache_folder",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_mnist",
]


def __getattr__(name: str) -> Any:
    if name not in ("ImageFolder", "load_image_folder"):
        raise AttributeError(f"module 'fastnet.datasets' has no attribute {name!r}")
    from . import _image_folder

    return getattr(_image_folder, name)


Split = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

DIGIT_CLASSES = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_DIGITS = Path(__file__).parent / "data" / "digits.npz"
_DIGITS_TEST = 360


@dataclass(frozen=True)
class _IdxSet:
    """A data set of four IDX files: what it is called, where it is, what the right files are."""

    title: str
    folder: str  # its folder below the cache folder and below FASTNET_DATA
    bare: bool  # FASTNET_DATA itself may hold the files, too
    mirrors: Sequence[str]
    sha256: Mapping[str, str]  # of the published .gz files, by name without .gz
    counts: tuple[int, int] = (60_000, 10_000)
    size: tuple[int, int] = (28, 28)


_MNIST = _IdxSet(
    title="MNIST",
    folder="mnist",
    bare=True,
    mirrors=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://raw.githubusercontent.com/fgnt/mnist/master/",
    ),
    sha256={
        "train-images-idx3-ubyte":
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte":
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte":
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte":
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)  # fmt: skip

_FASHION_MNIST = _IdxSet(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    bare=False,
    mirrors=(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    sha256={
        "train-images-idx3-ubyte":
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte":
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte":
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte":
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)  # fmt: skip


def load_digits() -> Split:
    """Load the embedded handwritten digits: 1,797 images of 8 x 8 pixels, ten classes.

    The source has pixel values 0 to 16. They come scaled to 0 to 255 (``round(v * 255 / 16)``), so
    that ``layers.Rescale(1/255)`` maps them to 0..1 as it does for MNIST;
    ``np.rint(x * (16 / 255))`` gives the source's values back. The split is fixed: in the order of
    the source, the first 1,437 images are for training and the last 360 for testing (33 to 37 of
    each class).

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        uint8 images (1437, 8, 8) and (360, 8, 8), int64 labels (1437,) and (360,). New arrays at
        each call.

    Notes
    -----
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998, https://doi.org/10.24432/C50P49; licence CC BY 4.0.
    """
    with np.load(_DIGITS, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    images = np.rint(images * (255 / 16)).astype(np.uint8)
    cut = len(images) - _DIGITS_TEST
    train, test = slice(None, cut), slice(cut, None)
    return (
        (images[train].copy(), labels[train].copy()),
        (images[test].copy(), labels[test].copy()),
    )


def load_mnist(*, progress: bool | str = "auto") -> Split:
    """Load MNIST: 70,000 handwritten digits of 28 x 28 pixels, ten classes.

    Looked for in ``$FASTNET_DATA/mnist``, ``$FASTNET_DATA`` and ``mnist`` in `cache_folder`, where
    the four IDX files, plain or ``.gz``, are taken as they are when they have the right shapes.
    What is not there is downloaded into the cache (11 MB) from public mirrors and compared with the
    SHA-256 of the published files.

    Parameters
    ----------
    progress : bool or "auto", default "auto"
        A progress bar for downloads that take longer than a second; False for none.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        uint8 images (60000, 28, 28) and (10000, 28, 28), int64 labels (60000,) and (10000,).

    Raises
    ------
    OSError
        If the files are nowhere and no mirror gives them; the message says what each one answered
        and where to put the files by hand.
    ValueError
        If a file in ``FASTNET_DATA`` is damaged or has another shape.

    Notes
    -----
    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; licence
    CC BY-SA 3.0.
    """
    return _load_idx_set(_MNIST, progress)


def load_fashion_mnist(*, progress: bool | str = "auto") -> Split:
    """Load Fashion-MNIST: 70,000 pictures of clothes of 28 x 28 pixels, ten classes.

    Looked for in ``$FASTNET_DATA/fashion-mnist`` and ``fashion-mnist`` in `cache_folder`; else
    downloaded into the cache (30 MB), as `load_mnist` does. `FASHION_MNIST_CLASSES` holds the
    names of the classes.

    Parameters
    ----------
    progress : bool or "auto", default "auto"
        A progress bar for downloads that take longer than a second; False for none.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        uint8 images (60000, 28, 28) and (10000, 28, 28), int64 labels (60000,) and (10000,).

    Raises
    ------
    OSError, ValueError
        As `load_mnist`.

    Notes
    -----
    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017, https://arxiv.org/abs/1708.07747;
    licence MIT.
    """
    return _load_idx_set(_FASHION_MNIST, progress)


def cache_folder() -> Path:
    """The folder that downloads go to.

    Returns
    -------
    Path
        The environment variable ``FASTNET_CACHE`` when it is set; else ``fastnet`` in the user's
        cache: ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS,
        ``%LOCALAPPDATA%`` on Windows. It need not exist.
    """
    override = os.environ.get("FASTNET_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local") / "fastnet"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastnet"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification wants a relative path to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "fastnet"


def _load_idx_set(spec: _IdxSet, progress: bool | str) -> Split:
    for folder in _data_folders(spec):
        found = {stem: _find(folder, stem) for stem in spec.sha256}
        files = {stem: file for stem, file in found.items() if file is not None}
        if len(files) == len(found):
            return _assemble({stem: _read(spec, stem, file) for stem, file in files.items()})
    arrays = {}
    for stem in spec.sha256:
        arrays[stem] = _from_cache(spec, stem, progress)
    return _assemble(arrays)


def _data_folders(spec: _IdxSet) -> list[Path]:
    """Where FASTNET_DATA may have the set, most telling first."""
    data = os.environ.get("FASTNET_DATA")
    if not data:
        return []
    root = Path(data).expanduser()
    return [root / spec.folder, root] if spec.bare else [root / spec.folder]


def _find(folder: Path, stem: str) -> Path | None:
    """The file of that name, plain (read faster) or compressed."""
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _read(spec: _IdxSet, stem: str, file: Path) -> np.ndarray:
    """One file of the set, checked: uint8 images, or labels 0..9 as int64."""
    array = read_idx(file, max_bytes=1 << 30)
    count = spec.counts[0 if stem.startswith("train") else 1]
    shape = (count, *spec.size) if "images" in stem else (count,)
    if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(
            f"{file}: wanted uint8 of shape {shape}, as {spec.title} has; "
            f"got {array.dtype} of shape {array.shape}"
        )
    if "images" in stem:
        return array
    if array.max(initial=0) > 9:
        raise ValueError(f"{file}: labels of {spec.title} are 0 to 9; got {array.max()}")
    return array.astype(np.int64)


def _from_cache(spec: _IdxSet, stem: str, progress: bool | str) -> np.ndarray:
    """One file of the set from the cache, downloaded when it is missing or damaged there."""
    from ._download import DownloadError, fetch

    folder = cache_folder() / spec.folder
    file = _find(folder, stem)
    if file is not None:
        try:
            return _read(spec, stem, file)
        except ValueError as error:
            warnings.warn(f"{error}; it is downloaded again", RuntimeWarning, stacklevel=4)
    name = f"{stem}.gz"
    urls = [mirror + name for mirror in spec.mirrors]
    try:
        fetch(urls, folder / name, sha256=spec.sha256[stem], progress=progress)
    except DownloadError as error:
        raise DownloadError(
            f"{error}\nWithout a network, put the four files of {spec.title} "
            f"({', '.join(f'{s}.gz' for s in spec.sha256)}) into {folder}, or into "
            f"{spec.folder}{os.sep} of the folder that FASTNET_DATA names."
        ) from None
    if file not in (None, folder / name):
        file.unlink(missing_ok=True)  # the damaged plain file would be found first
    return _read(spec, stem, folder / name)


def _assemble(arrays: Mapping[str, np.ndarray]) -> Split:
    return (
        (arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]),
        (arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]),
    )
