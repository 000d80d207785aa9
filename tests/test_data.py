"""Data files of the command line: a file is read whole and right, or refused in one line that names the place."""

import io
import os
import re
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastopt import _data

SMALL = np.float32
TABLE = [[1.0, 2.5], [-3.0, 4e-3]]


def read_csv(path, content, target=None):
    """The table of a file, its target last."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = _data.read_training(path, target, SMALL)
    return np.column_stack([data.X, data.y])


# ---------------------------------------------------------------- .csv: what is read

READ = {
    "plain": "1,2.5\n-3,4e-3\n",
    "no line end at the end": "1,2.5\n-3,4e-3",
    "line ends of Windows": "1,2.5\r\n-3,4e-3\r\n",
    "line ends of old": "1,2.5\r-3,4e-3\r",
    "blank lines at the end": "1,2.5\n-3,4e-3\n\n  \n",
    "spaces and signs": " +1 ,\t2.50 \n-3. ,.4E-2\n",
    "byte order mark": "\ufeff1,2.5\n-3,4e-3\n",
    "header": "a,b\n1,2.5\n-3,4e-3\n",
    "byte order mark and header": "\ufeffa,b\r\n1,2.5\r\n-3,4e-3\r\n",
    "quoted header": '"a","b, of c"\n1,2.5\n-3,4e-3\n',
    "header of numpy.savetxt": "# a,b\n1,2.5\n-3,4e-3\n",
    "header with letters beyond ASCII": "größe,名\n1,2.5\n-3,4e-3\n",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_every_row_is_read(text, tmp_path):
    np.testing.assert_array_equal(read_csv(tmp_path / "t.csv", text), TABLE)


def test_names_are_those_of_the_header(tmp_path):
    for text, names in (("\ufeff# a , b,y\n1,2,3\n", ["a", "b"]), ("1,2,3\n", [None, None])):
        read_csv(tmp_path / "t.csv", text)
        data = _data.read_training(tmp_path / "t.csv", None, SMALL)
        assert (data.names, data.target) == (names, None if names == [None, None] else "y")


@pytest.mark.parametrize(("header", "target"), [("y,a,b\n", "y"), ("", "1")])
def test_the_target_may_stand_anywhere(header, target, tmp_path):
    np.testing.assert_array_equal(
        read_csv(tmp_path / "t.csv", header + "1,2,3\n4,5,6\n", target), [[2, 3, 1], [5, 6, 4]]
    )
    data = _data.read_training(tmp_path / "t.csv", target, SMALL)
    assert data.names == (["a", "b"] if header else [None, None])


values = st.floats(-3e38, 3e38, allow_nan=False)
tables = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(tables, st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_a_table_that_was_written_is_read_to_the_last_bit(tmp_path_factory, rows, header, end, encoding):
    lines = [",".join(map(repr, row)) for row in rows]
    if header:
        lines.insert(0, ",".join(f"c{i}" for i in range(len(rows[0]))))
    found = read_csv(tmp_path_factory.getbasetemp() / "written.csv", end.join(lines).encode(encoding))
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize(
    ("targets", "whole"),
    [(["0", "1"], True), (["+1", " -2 "], True), (["0", "1.0"], False), (["0.0", "1.0"], False), (["1e0", "2"], False)],
)
def test_targets_are_whole_as_they_are_written(targets, whole, tmp_path):
    read_csv(tmp_path / "t.csv", "".join(f"0.5,{target}\n" for target in targets))
    assert _data.read_training(tmp_path / "t.csv", None, SMALL).whole is whole


# ---------------------------------------------------------------- .csv: what is refused

REFUSED = {
    "": "expected rows of numbers, got none",
    "\ufeff": "expected rows of numbers, got none",
    "\n\n": "expected rows of numbers, got none",
    "a,b\n": "expected rows of numbers, got nothing below the first line",
    "a,b\n\n": "expected rows of numbers, got nothing below the first line",
    "1\n2\n": "expected columns of features and one of targets, got one column",
    ",2,3\n4,5,6\n": "line 1, column 1: expected a number, got an empty field; fill it in or leave the row out",
    "1,2,\n4,5,\n": "line 1, column 3: expected a number, got an empty field",
    "a,b,\n4,5,\n": "line 1: expected a name for column 3, got none",
    ",a,b\n0,4,5\n": "line 1: expected a name for column 1, got none (pandas: to_csv(index=False))",
    "a,b,a\n1,2,3\n": "line 1: expected names that differ, got 'a' twice",
    "a,2\n1,2\n": "line 1: expected names or numbers, got both: 'a' and '2'",
    "NA,2\n1,2\n": "line 1: expected names or numbers, got both: 'NA' and '2'",
    "a,0x1f\n1,2\n": "line 1: expected names or numbers, got both: 'a' and '0x1f'",
    "1_0,2\n1,2\n": "line 1, column 1: expected a number, got '1_0'",
    "0x1f,2\n1,2\n": "line 1, column 1: expected a number, got '0x1f'",
    "１,2\n1,2\n": "line 1, column 1: expected a number, got '１'",
    "nan,inf\n1,2\n": "line 1, column 1: expected a finite number within ±3.4e+38, got nan",
    "a,b\n1,2\n3,nan\n": "line 3, column 2 (b): expected a finite number within ±3.4e+38, got nan",
    "1,2\n3,-inf\n": "line 2, column 2: expected a finite number within ±3.4e+38, got -inf",
    "1,2\n1e39,2\n": "line 2, column 1: expected a finite number within ±3.4e+38, got 1e+39",
    "1,2\n3,1e999\n": "line 2, column 2: expected a finite number within ±3.4e+38, got inf",
    "1,2\n3,four\n": "line 2, column 2: expected a number, got 'four'",
    "a,b\n3,\n": "line 2, column 2 (b): expected a number, got an empty field",
    '1,2\n3,"4"\n': "line 2, column 2: expected a number, got '\"4\"'",
    '"a\n",b\n1,2\n': "line 1: expected names or numbers, got a line that cannot be read (",
    '1,2\n"3,4",5\n': "line 2: expected 2 fields, as in line 1, got 3",
    "1,2\n3\n": "line 2: expected 2 fields, as in line 1, got 1",
    "a,b\n1,2,\n": "line 2: expected 2 fields, as in line 1, got 3",
    "1,2\n\n3,4\n": "line 2: expected a row, got a blank line",
    "\n1,2\n": "line 1: expected a row, got a blank line",
    "1,2\n# 3,4\n": "line 2, column 1: expected a number, got '# 3'",
    "# made by hand\n1,2\n": "line 2: expected 1 fields, as in line 1, got 2",
    "1,2 # good\n": "line 1: expected names or numbers, got both: '2 # good' and '1'",
    "a;b\n1;2\n": "line 1: expected fields separated by commas, got others",
    "1\t2\n3\t4\n": "line 1: expected fields separated by commas, got others",
    "1,2\n3,4\0\n": "line 2, column 2: expected a number, got '4\\x00'",
    b"\xff\xfe1\0,\0002\0\n\0": "expected text in UTF-8, got the byte 0xff",
    b"1,2\n3,\xe9\n": "expected text in UTF-8, got the byte 0xe9",
}


@pytest.mark.parametrize("content", REFUSED, ids=repr)
def test_a_row_that_is_none_is_refused_by_line_and_column(content, tmp_path):
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / 't.csv'))}: {re.escape(REFUSED[content])}"):
        read_csv(tmp_path / "t.csv", content)


CELLS = [
    "1",
    "-2.5",
    "3e2",
    "",
    " ",
    "nan",
    "inf",
    "1e999",
    "1_0",
    "0x1",
    "a",
    "b",
    '"',
    '"c"',
    "#",
    ";",
    "\ufeff",
    "\0",
    "é",
]
ENDS = ["\n", "\n", "\r\n", "\r", ",\n", "\n\n"]
texts = st.lists(st.tuples(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3), st.sampled_from(ENDS)), max_size=4)


def plain_rows(text):
    """What a file has to be read as, by the plainest of rules; None if it has to be refused."""
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    while lines and not lines[-1].strip():
        lines.pop()
    cells = [[cell.strip() for cell in line.split(",")] for line in lines]
    number = re.compile(r"[+-]?[0-9.]+(e[0-9]+)?")
    if cells and not any(number.fullmatch(cell) for cell in cells[0]):
        if not all(cells[0]) or len(set(cells[0])) < len(cells[0]) or not set("".join(cells[0])) & set("abcé#\0\ufeff"):
            return None
        cells = cells[1:]
    rows = [[float(cell) if number.fullmatch(cell) else np.inf for cell in row] for row in cells]
    same = len({line.count(",") for line in lines}) == 1
    return rows if same and len(rows) and len(rows[0]) > 1 and np.isfinite(rows).all() else None


@settings(max_examples=300)
@given(texts)
@example([(["a", "b"], "\n"), (["1", "-2.5"], "\n")])
@example([(["1", "-2.5"], "\n"), (["3e2", "1"], "\n\n")])
def test_a_file_of_any_fields_is_read_by_the_plain_rules_or_refused(tmp_path_factory, parts):
    text = "".join(",".join(cells) + end for cells, end in parts)
    want = plain_rows(text)
    try:
        found = read_csv(tmp_path_factory.getbasetemp() / "any.csv", text)
    except ValueError as error:
        assert want is None or '"' in text, error  # noqa: PT017
    else:
        if '"' not in text:
            np.testing.assert_array_equal(found, want)


# ---------------------------------------------------------------- columns of a trained network


@pytest.fixture
def table(tmp_path):
    (tmp_path / "t.csv").write_text("id,b,a,y\nA17,2,1,7\nB 3,5,4,8\n")
    return tmp_path / "t.csv"


def test_columns_go_by_name_in_any_order_and_others_are_not_read(table):
    for names in (["a", "b"], ["b", "a"], ["y", "a"]):
        X, found = _data.read_features(table, names, None, SMALL)
        want = {"a": [1, 4], "b": [2, 5], "y": [7, 8]}
        np.testing.assert_array_equal(X, np.column_stack([want[name] for name in names]))
        assert found == ["id", "b", "a", "y"]


def test_a_column_that_is_left_out_is_no_feature(table):
    with pytest.raises(ValueError, match=r"expected columns named b, got id, a, y$"):
        _data.read_features(table, ["a", "b"], "b", SMALL)


@pytest.mark.parametrize(
    ("names", "target", "message"),
    [
        (["a", "c", "d"], None, "expected columns named c, d, got id, b, a, y"),
        (["A", "b"], None, "expected columns named A, got"),
        (["a", "b"], "z", "--target: expected one of the columns id, b, a, y of .*, got z"),
        ([None] * 2, None, "expected 2 columns, as in training, got 4$"),
        ([None] * 3, None, "expected 3 columns, as in training, got 4; leave the target out with --target"),
        ([None] * 5, None, "expected 5 columns, as in training, got 4$"),
        ([None] * 4, None, "line 2, column 1 \\(id\\): expected a number, got 'A17'"),
        (["a", "id"], None, "line 2, column 1 \\(id\\): expected a number, got 'A17'"),
    ],
)
def test_columns_that_do_not_fit_are_refused(names, target, message, table):
    with pytest.raises(ValueError, match=message):
        _data.read_features(table, names, target, SMALL)


def test_a_file_without_names_is_refused_where_the_network_knows_names(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n")
    with pytest.raises(ValueError, match="expected a first line with the names a, b, got numbers; add that header"):
        _data.read_features(tmp_path / "t.csv", ["a", "b"], None, SMALL)
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"expected a \.csv file with the columns a, b: the model goes by name"):
        _data.read_features(tmp_path / "t.npz", ["a", "b"], None, SMALL)


@pytest.mark.parametrize("place", ["0", "4", "-1", "1.0", "", "a", "9" * 5000])
def test_a_column_number_that_the_file_does_not_have_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match="--target: expected one of the columns 1, 2, 3 of"):
        read_csv(tmp_path / "t.csv", "1,2,3\n", place)


# ---------------------------------------------------------------- .npz


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def npy(header, data=b""):
    """Bytes of a .npy file with this header."""
    text = repr(header).encode() if isinstance(header, dict) else header
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def archive(path, method=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def encrypted(path):
    """An archive whose members say that they need a password."""
    content = bytearray(npz(path, X=np.ones((2, 2)), y=np.ones(2)).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(signature, bytes(content)):
            content[match.start() + flags] |= 1
    path.write_bytes(content)


def of_unknown_compression(path):
    content = bytearray(npz(path, X=np.ones((2, 2)), y=np.ones(2)).read_bytes())
    for signature, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for match in re.finditer(signature, bytes(content)):
            content[match.start() + method] = 99
    path.write_bytes(content)


def before_the_file(path):
    """An archive whose directory stands a byte earlier than it says, so that its first member begins at -1."""
    content = bytearray(npz(path, X=X, y=Y).read_bytes())
    place = content.rindex(b"PK\x05\x06") + 16
    content[place : place + 4] = (int.from_bytes(content[place : place + 4], "little") + 1).to_bytes(4, "little")
    path.write_bytes(content)


X, Y = np.arange(6.0).reshape(3, 2), np.arange(3)
FLOATS = {"descr": "<f8", "fortran_order": False}
BAD_NPZ = {
    "text": (lambda p: p.write_text("1,2\n"), "damaged or of another kind"),
    "npy": (lambda p: p.write_bytes(npy({**FLOATS, "shape": (3, 2)}, X.tobytes())), "damaged or of another kind"),
    "cut": (lambda p: p.write_bytes(npz(p, X=X, y=Y).read_bytes()[:-9]), "damaged or of another kind"),
    "encrypted": (encrypted, "damaged or of another kind .*password"),
    "before the file": (before_the_file, "damaged or of another kind"),
    "compression": (of_unknown_compression, "damaged or of another kind .*compression"),
    "no X": (lambda p: npz(p, x=X, y=Y), "expected arrays X and, for training, y, got none named X"),
    "no y": (lambda p: npz(p, X=X), "expected arrays X and, for training, y, got none named y"),
    "0-d": (lambda p: npz(p, X=1.0, y=Y), r"expected rows of features, X of shape \(n, features\), got shape \(\)"),
    "1-d": (lambda p: npz(p, X=Y, y=Y), r"expected rows of features, X of shape \(n, features\), got shape \(3,\)"),
    "no rows": (lambda p: npz(p, X=X[:0], y=Y[:0]), r"expected rows of features.*got shape \(0, 2\)"),
    "no columns": (lambda p: npz(p, X=X[:, :0], y=Y), r"expected rows of features.*got shape \(3, 0\)"),
    "2-d y": (lambda p: npz(p, X=X, y=X), r"expected targets, y of shape \(n,\), got shape \(3, 2\)"),
    "short y": (lambda p: npz(p, X=X, y=Y[:2]), r"expected y of shape \(3,\), one target a row, got \(2,\)"),
    "objects": (lambda p: npz(p, X=X.astype(object), y=Y), "expected X of real numbers, got dtype object"),
    "text X": (lambda p: npz(p, X=X.astype(str), y=Y), "expected X of real numbers, got dtype <U"),
    "text y": (lambda p: npz(p, X=X, y=Y.astype(str)), "expected y of real numbers, got dtype <U"),
    "complex": (lambda p: npz(p, X=X + 0j, y=Y), "expected X of real numbers, got dtype complex128"),
    "dates": (lambda p: npz(p, X=X, y=Y.astype("M8[D]")), "expected y of real numbers, got dtype datetime64"),
    "structure": (lambda p: npz(p, X=X, y=np.zeros(3, [("a", "f8")])), "expected y of real numbers, got dtype"),
    "nan": (lambda p: npz(p, X=np.where(X == 3, np.nan, X), y=Y), r"X\[1, 1\]: expected a finite number.*, got nan"),
    "inf": (lambda p: npz(p, X=X, y=np.array([0, np.inf, 2])), r"y\[1\]: expected a finite number.*, got inf"),
    "large": (lambda p: npz(p, X=X * 1e39, y=Y), r"X\[0, 1\]: expected a finite number within ±3.4e\+38, got 1e\+39"),
    "absurd": (
        lambda p: archive(p, X=npy({**FLOATS, "shape": (10**12, 3)}), y=npy({**FLOATS, "shape": (10**12,)})),
        r"damaged: X of shape \(1000000000000, 3\) and dtype float64 has 0 bytes",
    ),
    "overflow": (lambda p: archive(p, X=npy({**FLOATS, "shape": (2**62, 4)})), "damaged: X of shape"),
    "negative": (lambda p: archive(p, X=npy({**FLOATS, "shape": (-3, -2)}, bytes(48))), "expected rows of features"),
    "nested": (lambda p: archive(p, X=npy(b"(" * 9000)), "damaged or of another kind"),
    "bomb": (
        lambda p: archive(p, zipfile.ZIP_DEFLATED, X=npy({**FLOATS, "shape": (10**6, 3)}, bytes(24 * 10**6))),
        "expected arrays that fit into memory, got X of",
    ),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_an_archive_without_rows_of_numbers_is_refused(name, tmp_path, monkeypatch):
    make, message = BAD_NPZ[name]
    path = tmp_path / "t.npz"
    make(path)
    monkeypatch.setattr(_data, "memory", lambda: 10**7)
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(path))}: (expected a .npz file, got one that is )?{message}"
    ):
        _data.read_training(path, None, SMALL)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint64, np.bool_, ">f8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_real_numbers_are_read_as_they_are(dtype, order, tmp_path):
    want = np.asarray(X % 2, dtype, order=order)
    np.savez_compressed(tmp_path / "t.npz", X=want, y=Y)
    data = _data.read_training(tmp_path / "t.npz", None, SMALL)
    np.testing.assert_array_equal(data.X, want)
    assert (data.X.dtype, data.whole, data.names, data.target) == (want.dtype, True, [None, None], None)


whole_archive = io.BytesIO()
np.savez_compressed(whole_archive, X=X, y=Y)
ARCHIVE = whole_archive.getvalue()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 40))
def test_an_archive_of_damaged_bytes_is_read_right_or_refused(tmp_path_factory, changes, cut):
    content = bytearray(ARCHIVE[: len(ARCHIVE) - (cut if cut > 20 else 0)])
    for place, byte in changes:
        if place < len(content):
            content[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    try:
        data = _data.read_training(path, None, SMALL)
    except ValueError:
        return
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, Y)


# ---------------------------------------------------------------- paths


def test_what_is_no_data_file_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, message in (
        ("folder.csv", "expected a regular file"),
        ("pipe.csv", "expected a regular file"),
        ("data.txt", "expected a .npz or .csv file, got .txt"),
        ("data", "expected a .npz or .csv file, got no suffix"),
    ):
        with pytest.raises(ValueError, match=message):
            _data.read_training(tmp_path / name, None, SMALL)
    for name in ("missing.csv", "missing.npz"):
        with pytest.raises(FileNotFoundError):
            _data.read_training(tmp_path / name, None, SMALL)
