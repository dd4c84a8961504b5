"""Data sets as the commands see them: parts, tasks, class names, images or tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .common import UsageError, note, plural, shape_text, step
from .model import CLASSES, NUMBERS, Card

if TYPE_CHECKING:
    from ..readers import Dataset

NAMED = ("digits", "mnist", "fashion-mnist")
TABLES = (".csv", ".tsv", ".txt")
#: More different whole numbers than this, and they are amounts rather than classes.
_MOST_CLASSES = 100
TITLES = {"digits": "handwritten digits (embedded)", "mnist": "MNIST, handwritten digits",
          "fashion-mnist": "Fashion-MNIST, pictures of clothes"}  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """How a folder of pictures is read."""

    size: tuple[int, int] = (64, 64)
    color: str = "rgb"
    split: float = 0.0
    seed: int = 0
    #: Rows of this shape, each made as this card says; None: resized alone.
    shape: tuple[int, ...] = ()
    card: Card | None = None

    @classmethod
    def like(
        cls, card: Card, shape: tuple[int, ...], source: str, asked: str | None = None
    ) -> Pictures:
        """As the model that has this card and input shape was trained on them: stretched, or made
        as drawings are; `asked` is how they are wanted, if somebody says so. The folder that it was
        trained on is split as it was then; another one, told by its name, is all new."""
        if card.pixels is not None and (card.prepare in ("mnist", "digits") or asked == "pad"):
            return cls(shape=shape, card=card)
        size, color = ((shape[0], shape[1]), "grayscale") if len(shape) > 1 else ((64, 64), "rgb")
        if len(shape) == 3 and shape[2] == 3:
            color = "rgb"
        split, seed = card.training.get("split", 0.0), card.training.get("seed", 0)
        split = split if Path(source).resolve().name == card.data else 0.0
        usual = isinstance(split, float) and 0 <= split < 1 and isinstance(seed, int) and seed >= 0
        return cls(size, color, split, seed) if usual else cls(size, color)


def is_named(source: str) -> bool:
    """Whether a source is the name of a data set."""
    return source.lower().replace("_", "-") in NAMED


def is_table(source: str) -> bool:
    """Whether a source is read as a table, whose columns have a place or a name."""
    return not is_named(source) and Path(source).suffix.lower() in TABLES


def check_options(source: str, label: str | None, **of_pictures: object) -> None:
    """UsageError for options that were given (are not None) and that this source has no use for."""
    from ..readers import is_picture_folder

    if not is_named(source) and not Path(source).exists():
        return  # open_data says so
    if label is not None and not is_table(source):
        raise UsageError(f"--label is for tables ({', '.join(TABLES)}), which {source} is not")
    given = [name for name, value in of_pictures.items() if value is not None]
    if given and (is_named(source) or not is_picture_folder(source)):
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{option} is for folders of pictures, which {source} is not")


def open_data(source: str, label: str | None = None, pictures: Pictures | None = None) -> Dataset:
    """Load a data set by name, file or folder."""
    import warnings

    from ..readers import is_picture_folder, load_table

    if not is_named(source) and is_picture_folder(source):
        from ..datasets import load_image_folder

        how = pictures or Pictures()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = load_image_folder(
                source, how.size, how.color, validation_split=how.split, seed=how.seed
            )
        for warning in caught:
            note(str(warning.message))
        return data if how.card is None else _prepared(source, data, how.shape, how.card)
    with step(f"reading {source}"):
        return load_table(source, label=-1 if label is None else label)


def _prepared(source: str, data: Any, shape: tuple[int, ...], card: Card) -> Dataset:
    """A folder's pictures made as single ones are, for a model that knows drawings."""
    from dataclasses import replace

    def rows(files: tuple[str, ...]) -> np.ndarray:
        made = [picture_row(Path(source) / file, shape, card) for file in files]
        return np.array(made, np.uint8).reshape(len(files), *shape)

    with step(f"reading {source}"):
        test = None if data.x_test is None else rows(data.files_test)
        return replace(data, x_train=rows(data.files), x_test=test)


def picture_row(path: str | Path, shape: tuple[int, ...], card: Card) -> np.ndarray:
    """A picture as a row of a model, uint8 of `shape`, 255 for full ink; a drawing is all 0 where
    nothing is drawn."""
    from .._pictures import read_digit
    from ..readers import image_shape, read_image

    height, width, channels = image_shape(shape[0] if len(shape) == 1 else shape)
    if card.prepare == "stretch":
        image = read_image(path, (height, width, channels), invert=False, fit="stretch")
    elif card.prepare != "pad" and channels == 1 and height == width:
        box = height if card.prepare == "digits" else round(height * 20 / 28)
        image = read_digit(path, height, box)
    else:
        image = read_image(path, (height, width, channels))
    return image.reshape(shape)


def is_images(x: np.ndarray) -> bool:
    """Rows are images: (n, height, width) or (n, height, width, 1 or 3)."""
    return x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))


def pixel_range(x: np.ndarray) -> float | None:
    """What full ink is in x, 255 or 1; None where rows are no images."""
    width = math.isqrt(x.shape[1]) if x.ndim == 2 else 0
    flat_images = x.ndim == 2 and x.shape[1] >= 64 and width * width == x.shape[1]
    if not x.size or not (is_images(x) or flat_images):
        return None
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 255:
        return None
    if flat_images and not is_images(x):  # a table of pixels holds whole numbers up to about 255
        return 255.0 if high > 127 and bool((np.floor(x) == x).all()) else None
    return 255.0 if high > 1 or x.dtype == np.uint8 else 1.0


def find_task(data: Dataset, loss: str | None) -> str:
    """Whether the labels are classes or numbers; a loss that was asked for decides."""
    if data.y_train is None:
        raise UsageError(f"{data.name}: no labels in it; training and evaluation want some")
    y: np.ndarray = data.y_train
    if loss in ("cross_entropy", "binary_cross_entropy"):
        return CLASSES
    if loss is not None:
        need_numbers(data, f"--loss {loss}")
        return NUMBERS
    if data.classes is not None or y.dtype.kind == "b" or is_one_hot(y):
        return CLASSES
    if y.ndim > 1 and math.prod(y.shape[1:]) > 1:
        return NUMBERS
    if not np.isfinite(y).all():
        raise UsageError(f"{data.name}: a label is NaN or infinite")
    if not (y == np.floor(y)).all():
        return NUMBERS
    different = len(np.unique(y))
    if different > _MOST_CLASSES or (len(y) > 40 and different > len(y) / 3):
        note(f"{data.name}: its labels are {different:,} different whole numbers, taken as amounts "
             "to predict; --loss cross_entropy takes them as classes")  # fmt: skip
        return NUMBERS
    return CLASSES


def need_numbers(data: Dataset, who: str) -> None:
    """UsageError if labels are texts: codes that count them are no amounts."""
    for name in () if data.classes is None else data.classes:
        try:
            float(name)
        except ValueError:
            raise UsageError(
                f"{data.name}: labels are texts such as {str(name)!r}, and {who} wants numbers"
            ) from None


def is_one_hot(y: np.ndarray | None) -> bool:
    """Labels (n, classes) that are 0 but for a single 1 a row."""
    if y is None or y.ndim != 2 or y.shape[1] < 2:
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def with_codes(data: Dataset) -> tuple[Dataset, list[str]]:
    """Labels 0 to K-1 in both parts, and the classes' names."""
    from dataclasses import replace

    data = data.with_classes()
    if data.classes is not None:
        return data, [str(name) for name in data.classes]
    y = np.asarray(data.y_train)
    if not is_one_hot(y):
        raise UsageError(f"{data.name}: labels of shape {y.shape} are no classes")
    test = None if data.y_test is None else data.y_test.argmax(axis=1)
    names = [str(i) for i in range(y.shape[1])]
    return replace(data, y_train=y.argmax(axis=1), y_test=test), names


@dataclass
class Part:
    """Rows of a data set. `first` is where `x` begins in what was asked for."""

    x: np.ndarray
    y: np.ndarray | None
    what: str  # "test images", "rows"

    def __len__(self) -> int:
        return len(self.x)


def pick_part(data: Dataset, part: str | None) -> Part:
    """The part asked for; by default the test part where there is one."""
    noun = "image" if is_images(data.x_train) else "row"
    if part == "test" and data.x_test is None:
        raise UsageError(f"{data.name}: it has no test part; use --part train")
    if data.x_test is not None and part in (None, "test"):
        return Part(data.x_test, data.y_test, f"test {noun}")
    return Part(data.x_train, data.y_train, f"training {noun}" if data.x_test is not None else noun)


def model_codes(data: Dataset, part: Part, card: Card) -> np.ndarray:
    """A part's labels as the model's classes, matched by name."""
    if part.y is None:
        raise UsageError(f"{data.name}: no labels in it")
    if not card.classes:
        raise UsageError("the model predicts numbers, not classes")
    coded, names = with_codes(data)
    y = np.asarray(coded.y_train if part.y is data.y_train else coded.y_test)
    known = {name: i for i, name in enumerate(card.classes)}
    used = np.unique(y)
    missing = [names[i] for i in used if names[i] not in known]
    if missing:
        raise UsageError(
            f"{data.name}: label {missing[0]!r} is none of the model's classes "
            f"({', '.join(card.classes[:12])}{', ...' if len(card.classes) > 12 else ''})"
        )
    to_model = np.array([known.get(name, -1) for name in names])
    return to_model[y]


def describe(data: Dataset) -> str:
    """A line about a data set."""
    x = data.x_train
    noun = "image" if is_images(x) else "row"
    sizes = f"{plural(len(x), noun)}"
    if data.x_test is not None:
        sizes = f"{len(x):,} training and {len(data.x_test):,} test {noun}s"
    inside = f"of {shape_text(x.shape[1:])}" if is_images(x) else (
        f"of {plural(math.prod(x.shape[1:]), 'feature')}"
    )  # fmt: skip
    return f"{TITLES.get(data.name, data.name)}: {sizes} {inside}"
