"""Readers: right files are read exactly, wrong ones are one clear error that names the place."""

import gzip
import re
import struct
import sys
import zipfile

import numpy as np
import pytest

from fastnet import readers
from fastnet.readers import Dataset, load_table, read_csv, read_idx, read_idx_folder, read_npz

RNG = np.random.default_rng(11)


def idx_bytes(array, code=0x08):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def put(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- IDX ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 5, 3), (1, 2, 3, 1, 2, 3), (0, 28, 28)])
def test_idx_roundtrip(tmp_path, pack, code, dtype, shape):
    array = (RNG.standard_normal(shape) * 50).astype(dtype)
    got = read_idx(put(tmp_path / "name-does-not-matter", pack(idx_bytes(array, code))))
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype and got.dtype.isnative
    assert got.flags.c_contiguous and got.flags.writeable


def test_idx_of_several_gzip_members(tmp_path):
    array = RNG.integers(0, 255, (7, 3), np.uint8)
    raw = idx_bytes(array)
    file = put(tmp_path / "a.gz", gzip.compress(raw[:10], mtime=0) + gzip.compress(raw[10:]))
    np.testing.assert_array_equal(read_idx(file), array)


GOOD = idx_bytes(RNG.integers(0, 255, (40, 5, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes; an IDX file starts with a header"),
        (b"\0\0\x08", "3 bytes; an IDX file starts with a header"),
        (b"\0\0\x08\x03\0\0", "ends inside its header"),
        (b"P5 2 2 255 ....", r"not an IDX file \(it starts with 50 35"),
        (b"\0\0\x07\x01\0\0\0\1\0", "not an IDX file"),
        (b"\0\0\x08\x00\0\0\0\1\0", "not an IDX file"),
        (b"\0\0\x08\x07" + b"\0" * 40, "not an IDX file"),
        (GOOD[:-1], r"shape \(40, 5, 3\) of uint8, 600 bytes, but there are 599"),
        (GOOD + b"\0", "more bytes follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "more than the file can hold"),
        (gzip.compress(GOOD[:-1], mtime=0), "but there are 599"),
        (gzip.compress(GOOD + b"\0", mtime=0), "more bytes follow"),
        (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0), "more than the file can hold"),
        (gzip.compress(GOOD, mtime=0)[:-9], "compressed file is truncated"),
        (gzip.compress(GOOD, mtime=0)[:60], "compressed file is truncated"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0\0\0\0" + gzip.compress(GOOD)[-4:], "CRC"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 80, "compressed file is damaged"),
        (b"\x1f\x8b", "compressed file is truncated"),
        (gzip.compress(GOOD, mtime=0) + b"garbage", "compressed file is damaged|more bytes follow"),
    ],
)
def test_idx_errors_name_the_file(tmp_path, content, message):
    file = put(tmp_path / "bad-idx3-ubyte", content)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*({message})"):
        read_idx(file)


def test_idx_bomb_is_refused_before_it_unpacks(tmp_path):
    side = 20_000
    file = tmp_path / "bomb.gz"
    with gzip.open(file, "wb", compresslevel=9) as out:
        out.write(struct.pack(">4B2I", 0, 0, 8, 2, side, side))
        for _ in range(4):
            out.write(bytes(side * side // 4))
    with pytest.raises(ValueError, match="above the limit of 1,000,000; pass max_bytes"):
        read_idx(file, max_bytes=1_000_000)


@pytest.mark.parametrize("seed", range(3))
def test_idx_mutations_are_errors_or_arrays(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for base in (GOOD, gzip.compress(GOOD, mtime=0)):
        for _ in range(100):
            data = bytearray(base)
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                data[at] = rng.integers(0, 256)
            file = put(tmp_path / "mutated", bytes(data[: rng.integers(1, len(data) + 1)]))
            try:
                assert read_idx(file).nbytes <= 600
            except ValueError as error:
                assert "mutated: " in str(error)


def test_idx_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "missing")


# ---- folder of IDX files -----------------------------------------------------------------------


def write_folder(folder, test="t10k", prefix="", suffix=""):
    folder.mkdir(exist_ok=True)
    arrays = {}
    for part, count in (("train", 5), (test, 3)):
        if part:
            arrays[part] = (
                RNG.integers(0, 255, (count, 4, 3), np.uint8),
                RNG.integers(0, 9, count, np.uint8),
            )
            pack = gzip.compress if suffix else bytes
            x, y = (pack(idx_bytes(array)) for array in arrays[part])
            put(folder / f"{prefix}{part}-images-idx3-ubyte{suffix}", x)
            put(folder / f"{prefix}{part}-labels-idx1-ubyte{suffix}", y)
    return arrays


@pytest.mark.parametrize("load", [read_idx_folder, load_table])
@pytest.mark.parametrize(
    "names",
    [
        {},
        {"suffix": ".gz"},
        {"test": "test"},
        {"test": ""},
        {"prefix": "emnist-letters-", "test": "test", "suffix": ".gz"},
    ],
)
def test_idx_folder(tmp_path, load, names):
    arrays = write_folder(tmp_path / "letters", **names)
    put(tmp_path / "letters" / "README.md", "not data")
    data = load(tmp_path / "letters")
    np.testing.assert_array_equal(data.x_train, arrays["train"][0])
    np.testing.assert_array_equal(data.y_train, arrays["train"][1])
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int64
    assert data.name == "letters"
    test = names.get("test", "t10k")
    if test:
        np.testing.assert_array_equal(data.x_test, arrays[test][0])
        np.testing.assert_array_equal(data.y_test, arrays[test][1])
    else:
        assert data.x_test is None and data.y_test is None


def test_idx_folder_prefers_the_plain_file(tmp_path):
    arrays = write_folder(tmp_path)
    put(tmp_path / "train-images-idx3-ubyte.gz", b"never read")
    np.testing.assert_array_equal(read_idx_folder(tmp_path).x_train, arrays["train"][0])


def test_idx_folder_errors(tmp_path):
    with pytest.raises(ValueError, match="no training images and labels; wanted IDX files"):
        read_idx_folder(tmp_path)
    write_folder(tmp_path)
    put(tmp_path / "train-labels-idx1-ubyte", idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(ValueError, match="train part: 5 rows, but 4 labels"):
        read_idx_folder(tmp_path)
    put(tmp_path / "train-labels-idx1-ubyte", idx_bytes(np.zeros((5, 2), np.uint8)))
    with pytest.raises(ValueError, match=r"wanted integer labels \(n,\), got uint8 of shape"):
        read_idx_folder(tmp_path)
    write_folder(tmp_path, prefix="other-")
    with pytest.raises(ValueError, match="several sets"):
        read_idx_folder(tmp_path)


# ---- CSV ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "x", "y", "names"),
    [
        ("1,2,3\n4,5,6\n", {}, [[1, 2], [4, 5]], [3, 6], None),
        ("1,2,3\n4,5,6", {}, [[1, 2], [4, 5]], [3, 6], None),
        ("1;2;3\r\n\r\n4;5;6\r\n", {}, [[1, 2], [4, 5]], [3, 6], None),
        ("\n\n1\t2\t3\n", {}, [[1, 2]], [3], None),
        ("\ufeff1, 2 ,3\n", {}, [[1, 2]], [3], None),
        ("-1.5e3,.5,0.25\n", {}, [[-1500, 0.5]], [0.25], None),
        ("a,b,c\n1,2,3\n", {}, [[1, 2]], [3], ("a", "b")),
        ('"a, b","c ""d""",e\n1,"2",3\n', {}, [[1, 2]], [3], ("a, b", 'c "d"')),
        ("a,b,c\n1,2,3\n", {"label": "a"}, [[2, 3]], [1], ("b", "c")),
        ("a,b,c\n1,2,3\n", {"label": 1}, [[1, 3]], [2], ("a", "c")),
        ("a,b,c\n1,2,3\n", {"label": "-2"}, [[1, 3]], [2], ("a", "c")),
        ("a,b,c\n1,2,3\n", {"label": None}, [[1, 2, 3]], None, ("a", "b", "c")),
        ("label,0,1\n7,2,3\n8,4,5\n", {"label": 0}, [[2, 3], [4, 5]], [7, 8], ("0", "1")),
        ("2,1,0\n7,2,3\n", {"label": "0"}, [[1, 0], [2, 3]], [2, 7], None),
        ("2,1,0\n7,2,3\n", {"label": "0", "header": True}, [[7, 2]], [3], ("2", "1")),
        ("name,x,2\n7,5,3\n", {"label": "name"}, [[5, 3]], [7], ("x", "2")),
        ("0,1,2\n7,2,3\n", {"header": True}, [[7, 2]], [3], ("0", "1")),
        ("1\n2\n", {"label": None}, [[1], [2]], None, None),
        ("1,9007199254740991\n", {}, [[1]], [9007199254740991], None),
    ],
)
def test_csv_numbers(tmp_path, text, options, x, y, names):
    data = read_csv(put(tmp_path / "t.csv", text), **options)
    np.testing.assert_array_equal(data.x_train, np.array(x, np.float32))
    assert data.x_train.dtype == np.float32 and data.x_train.flags.c_contiguous
    assert data.feature_names == names and data.classes is None and data.x_test is None
    assert data.name == "t.csv"
    if y is None:
        assert data.y_train is None
    else:
        np.testing.assert_array_equal(data.y_train, y)
        assert data.y_train.dtype == (np.int64 if isinstance(y[0], int) else np.float32)


@pytest.mark.parametrize(
    ("header", "label"),
    [("", -1), ("", 2), ("x1,x2,species\n", -1), ("x1,x2,species\n", "species")],
)
def test_csv_text_labels_become_sorted_classes(tmp_path, header, label):
    text = header + '1,2,oak\n3,4, ash \n5,6,"oak"\n7,8,"elm, field"\n'
    data = read_csv(put(tmp_path / "t.csv", text), label=label)
    assert data.classes.tolist() == ["ash", "elm, field", "oak"]
    assert data.y_train.tolist() == [2, 0, 2, 1] and data.y_train.dtype == np.int64
    np.testing.assert_array_equal(data.x_train, [[1, 2], [3, 4], [5, 6], [7, 8]])


def test_csv_text_label_in_the_middle(tmp_path):
    data = read_csv(put(tmp_path / "t.csv", "1,b,2\n3,a,4\n"), label=1)
    np.testing.assert_array_equal(data.x_train, [[1, 2], [3, 4]])
    assert data.y_train.tolist() == [1, 0] and data.classes.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, ": the file is empty"),
        ("\n\r\n\n", {}, ": the file is empty"),
        ("a,b,c\n", {}, ": a header line, but no rows under it"),
        ("1\n2\n", {}, ": one column only"),
        ("1,2,3\n1,2\n", {}, ", line 2: 2 columns, where 3 were expected"),
        ("1,2,3\n\n1,2,3,4\n", {}, ", line 3: 4 columns, where 3 were expected"),
        ("1,2,3\n1,,3\n", {}, ", line 2, column 2: empty cell"),
        ("a,b,c\n1,2,3\n1,x,3\n", {}, r", line 3, column 2 \(b\): 'x' is not a number"),
        ("1,2,3\n4,5,six\n", {}, ", line 2, column 3: 'six' is not a number"),
        ("1,2,3\n1,nan,3\n", {}, ", line 2, column 2: nan is not a finite float32"),
        ("1,2,3\n1,-inf,3\n", {}, ", line 2, column 2: -inf is not a finite float32"),
        ("1,2,3\n1e39,2,3\n", {}, ", line 2, column 1: 1e39 is not a finite float32"),
        ("1,2,3\n1,2,inf\n", {}, ", line 2, column 3: inf is not a finite float32"),
        ("1,2,oak\n1,2,\n", {}, ", line 2, column 3: empty cell"),
        ("1,2,oak\n1,x,ash\n", {}, ", line 2, column 2: 'x' is not a number"),
        ("1,x,3\n4,5,6\n", {}, ", line 1, column 2: 'x' is not .* pass header=True"),
        ("1,2,3\n4,1_000,6\n", {}, ", line 2, column 2: '1_000' is not a number"),
        ("1,2,3\n#4,5,6\n", {}, ", line 2, column 1: '#4' is not a number"),
        (f"1,2,3\n4,{'x' * 99},6\n", {}, r", line 2, column 2: 'x{37}\.\.\.' is not"),
        ("1,2,3\n4,٣,6\n", {}, ": could not convert string '٣'"),
        ("1,2,3\n", {"label": 3}, ": label column 3, but there are 3 columns"),
        ("1,2,3\n", {"label": "-4"}, ": label column -4, but there are 3 columns"),
        ("a,b,c\n1,2,3\n", {"label": "d"}, ": no column named 'd' among: a, b, c"),
        ("a,a,c\n1,2,3\n", {"label": "a"}, ": 2 columns are named 'a'"),
        (b"\xff\xfe1\x00,\x002", {}, ": not UTF-8 text .* is it a CSV file"),
        (b"1,2,3\n4,5\xe9,6\n", {}, ": not UTF-8 text"),
        (b"1,2,3\n4,\x00,6\n", {}, ", line 2, column 2: .* is not a number|line contains NUL"),
        ("a,b\n1,2\n", {"label": "b", "header": False}, ": label column 'b' by name, but header"),
        ("1,2\n", {"label": "0.5"}, ": label column '0.5' is no index and no name"),
    ],
)
def test_csv_errors_name_the_place(tmp_path, text, options, message):
    file = put(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*({message})"):
        read_csv(file, **options)


def test_csv_error_is_found_late_in_a_large_file(tmp_path):
    lines = ["1,2,3"] * 70_000
    lines[65_432] = "1,2,3a"
    with pytest.raises(ValueError, match="line 65433, column 3: '3a' is not a number"):
        read_csv(put(tmp_path / "t.csv", "\n".join(lines)))


def test_csv_is_exact_for_float32_and_large_labels(tmp_path):
    x = RNG.standard_normal((50, 4)).astype(np.float32)
    y = RNG.integers(2**40, 2**50, 50)
    rows = [
        ",".join([str(label), *map(repr, map(float, row))]) for label, row in zip(y, x, strict=True)
    ]
    data = load_table(put(tmp_path / "t.csv", "\n".join(rows)), label=0)
    np.testing.assert_array_equal(data.x_train, x)
    np.testing.assert_array_equal(data.y_train, y)


# ---- NPZ and NPY -------------------------------------------------------------------------------


def test_npz_x_and_y(tmp_path):
    x, y = RNG.integers(0, 255, (6, 4, 4), np.uint8), np.arange(6, dtype=np.int16)
    np.savez_compressed(tmp_path / "a.npz", X=x, y=y, unrelated=np.zeros(3))
    data = load_table(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.x_train, x)
    np.testing.assert_array_equal(data.y_train, y)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int16
    assert data.x_test is None and data.y_test is None and data.name == "a.npz"


def test_npz_with_a_test_part_and_text_labels(tmp_path):
    x = RNG.standard_normal((6, 3))
    np.savez(
        tmp_path / "a.npz",
        x_train=x[:4],
        y_train=np.array(["b", "a", "b", "d"]),
        x_test=x[4:],
        y_test=np.array([b"c", b"a"]),
    )
    data = read_npz(tmp_path / "a.npz")
    assert data.classes.tolist() == ["a", "b", "c", "d"]
    assert data.y_train.tolist() == [1, 0, 1, 3] and data.y_test.tolist() == [2, 0]
    np.testing.assert_array_equal(data.x_test, x[4:])


def test_npz_without_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 3)))
    assert read_npz(tmp_path / "a.npz").y_train is None


class Evil:
    def __reduce__(self):
        return sys.exit, (1,)


def lying_npy():
    """A .npy file whose header says 2**50 float64."""
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624,), }"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\0" * 64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.ones(3)}, "wanted arrays x and y, or x_train.*; found: data"),
        ({}, "wanted arrays x and y, or x_train.*; found: none"),
        ({"x": np.ones((3, 2)), "y": np.ones(2)}, "training part: 3 rows, but 2 labels"),
        (
            {"x": np.ones((3, 2)), "x_test": np.ones((2, 2)), "y_test": np.ones(3)},
            "test part: 2 rows, but 3 labels",
        ),
        ({"x": np.ones((3, 2)), "x_test": np.ones((3, 1))}, r"shape \(1,\), those of x \(2,\)"),
        ({"x": np.array(["a", "b"])}, "x: wanted numbers with rows as the first axis, got <U1"),
        ({"x": np.ones(2, complex)}, "wanted numbers"),
        ({"x": np.float64(3)}, r"wanted numbers .* got float64 of shape \(\)"),
        ({"x": np.ones(2), "y": np.ones(2, complex)}, "wanted labels that are numbers or texts"),
        (
            {"x": np.ones(2), "y": np.array(["a", "b"]), "x_test": np.ones(1), "y_test": [1]},
            "texts in one part and numbers in the other",
        ),
        ({"x": np.array([Evil()], object)}, "not a readable .npz file .*allow_pickle"),
    ],
)
def test_npz_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"a.npz.*{message}"):
        read_npz(tmp_path / "a.npz")


def test_damaged_npz_and_npy(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=RNG.standard_normal((50, 4)))
    whole = (tmp_path / "a.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[300] ^= 0xFF
    for content in (b"", b"PK", whole[:-30], bytes(damaged), b"x" * 99):
        with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz file"):
            read_npz(put(tmp_path / "a.npz", content))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", lying_npy())
    with pytest.raises(ValueError, match=r"b\.npz: not a readable"):
        read_npz(tmp_path / "b.npz")
    for content in (b"", lying_npy(), b"x" * 99):
        with pytest.raises(ValueError, match=r"c\.npy: not a readable \.npy file"):
            load_table(put(tmp_path / "c.npy", content))
    monkeypatch.setattr(readers, "_MAX_NPZ_BYTES", 1000)
    with pytest.raises(ValueError, match="unpacks to 1,728 bytes, limit 1,000"):
        read_npz(put(tmp_path / "a.npz", whole))
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "missing.npz")


def test_npy_is_features_only(tmp_path):
    x = RNG.standard_normal((3, 5))
    np.save(tmp_path / "a.npy", x)
    data = load_table(tmp_path / "a.npy")
    np.testing.assert_array_equal(data.x_train, x)
    assert data.y_train is None


# ---- load_table and Dataset --------------------------------------------------------------------


def test_load_table_digits():
    data = load_table("digits")
    assert data.x_train.shape == (1437, 8, 8) and data.x_test.shape == (360, 8, 8)
    assert data.classes.tolist() == list("0123456789") and data.name == "digits"


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("mnist", "load_mnist"),
        ("MNIST", "load_mnist"),
        ("fashion-mnist", "load_fashion_mnist"),
        ("fashion_mnist", "load_fashion_mnist"),
    ],
)
def test_load_table_by_name(monkeypatch, name, loader):
    arrays = [np.full(1, i) for i in range(4)]
    seen = []

    def load(progress):
        seen.append(progress)
        return (arrays[0], arrays[1]), (arrays[2], arrays[3])

    monkeypatch.setattr(readers.datasets, loader, load)
    data = load_table(name, progress=False)
    assert seen == [False]
    assert [data.x_train, data.y_train, data.x_test, data.y_test] == arrays
    assert data.classes[9] == ("Ankle boot" if "fashion" in name else "9")


def test_load_table_single_idx_file(tmp_path):
    x = RNG.integers(0, 255, (3, 2, 2), np.uint8)
    data = load_table(put(tmp_path / "t10k-images-idx3-ubyte", idx_bytes(x)))
    np.testing.assert_array_equal(data.x_train, x)


def test_load_table_unknown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder 'mnits', and no data set of"):
        load_table("mnits")
    with pytest.raises(ValueError, match=r"unknown kind of file; wanted .csv, .tsv, .txt, .npz"):
        load_table(put(tmp_path / "a.xlsx", "x"))
    with pytest.raises(ValueError, match="one image is no data set"):
        load_table(put(tmp_path / "a.png", "x"))


def test_with_classes_numbers_labels_from_zero():
    data = Dataset(
        np.zeros((4, 1)), np.array([3, 1, 3, 2]), np.zeros((2, 1)), np.array([[9.0], [1.0]])
    )
    coded = data.with_classes()
    assert coded.classes.tolist() == [1, 2, 3, 9]
    assert coded.y_train.tolist() == [2, 0, 2, 1] and coded.y_test.tolist() == [3, 0]
    assert coded.y_train.dtype == coded.y_test.dtype == np.int64
    assert data.classes is None and data.y_train.tolist() == [3, 1, 3, 2]
    assert coded.with_classes() is coded


def test_with_classes_leaves_one_hot_labels():
    data = Dataset(np.zeros((2, 1)), np.eye(2))
    assert data.with_classes() is data


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "no labels"),
        (np.array([1.0, 2.5]), "label 2.5 is not a whole number; is this a regression"),
        (np.array([1.0, np.nan]), "label nan is not a whole number"),
    ],
)
def test_with_classes_errors(labels, message):
    with pytest.raises(ValueError, match=f"t: {message}"):
        Dataset(np.zeros((2, 1)), labels, name="t").with_classes()


def test_dataset_repr():
    data = Dataset(np.zeros((2, 3)), np.zeros(2), np.zeros((1, 3)), classes=np.arange(4), name="t")
    assert repr(data) == "Dataset('t', train (2, 3) float64, test (1, 3), 4 classes)"
    assert "no labels" in repr(Dataset(np.zeros((2, 3))))
