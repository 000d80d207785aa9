"""Data files of the command line: a file is read whole and right, or refused in one line that names the place.

Files are read as numbers and words here; what becomes of columns is tested in test_tables.py.
"""

import contextlib
import csv
import io
import os
import re
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastopt._tables import archives, open_table, text
from fastopt._tables.fields import MISSING
from fastopt._tables.fields import NUMBER as NUMBER_RULE
from fastopt._tables.source import NUMBER, TEXT
from fastopt._tables.text import Reading
from fastopt._tables.training import Options, read_training

TABLE = [[1.0, 2.5], [-3.0, 4e-3]]


def written(path, content):
    """A file with this content, as a table."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbers(path, reading=None):
    """All columns of a file, as numbers."""
    source = open_table(path, reading, with_target=True)
    blocks = list(source.blocks(list(range(source.width)), []))
    assert sum(block.rows for block in blocks) == sum(len(block.numbers) for block in blocks)
    return np.concatenate([block.numbers for block in blocks])


def words(path, reading=None):
    """All columns of a file, as text, row by row."""
    source = open_table(path, reading, with_target=True)
    rows = []
    for block in source.blocks([], list(range(source.width))):
        rows += zip(*block.words, strict=True)
    return source.names, rows


def train(path, **options):
    """The file as a table of values to train on, with all its rows."""
    reading = options.pop("reading", None)
    return read_training(open_table(path, reading, with_target=True), Options(**{"task": "regress"} | options), "0")


def in_units(data):
    """The numbers of the file of what has been read to train on."""
    return data.X / data.scale + data.mean


# ---------------------------------------------------------------- text: what is read

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
    "quotes in a header": 'a,"say ""b"""\n1,2.5\n-3,4e-3\n',
    "quoted numbers": '"a","b"\n"1","2.5"\n-3,"4e-3"\n',
    "quotes after a space": 'a, "b"\n1, "2.5"\n-3, "4e-3"\n',
    "header of numpy.savetxt": "# a,b\n1,2.5\n-3,4e-3\n",
    "header with letters beyond ASCII": "größe,名\n1,2.5\n-3,4e-3\n",
    "semicolons": "a;b\n1;2.5\n-3;4e-3\n",
    "semicolons, and a comma in a name": "a, or so;b\n1;2.5\n-3;4e-3\n",
    "tabs": "a\tb\n1\t2.5\n-3\t4e-3\n",
    "bars": "1|2.5\n-3|4e-3\n",
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_every_row_is_read(content, tmp_path):
    np.testing.assert_array_equal(numbers(written(tmp_path / "t.csv", content)), TABLE)


@pytest.mark.parametrize(
    ("content", "reading"),
    [
        ("a;b\n1;2,5\n-3;4e-3\n", Reading(decimal=",")),
        ("1\t2,5\n-3\t0,004\n", Reading(decimal=",")),
        ('a;b\n"1";"2,5"\n-3;0,004\n', Reading(decimal=",")),
        ("a:b\n1:2.5\n-3:4e-3\n", Reading(delimiter=":")),
        ("0,1\n1,2.5\n-3,4e-3\n", Reading(header=True)),
        ("0,target\n1,2.5\n-3,4e-3\n", Reading(header=True)),
        ("1,2.5\n-3,4e-3\n", Reading(header=False)),
    ],
)
def test_what_is_told_of_a_file_is_heeded(content, reading, tmp_path):
    np.testing.assert_array_equal(numbers(written(tmp_path / "t.csv", content), reading), TABLE)


def test_text_is_read_as_it_stands_without_the_spaces_around_it(tmp_path):
    path = written(tmp_path / "t.csv", 'name, of what\n b c ,"1,5"\n"say ""x""\nand y"," z "\né,5" pipe\n,NA\n')
    names, rows = words(path)
    assert names == ["name", "of what"]
    assert rows == [("b c", "1,5"), ('say "x"\nand y', "z"), ("é", '5" pipe'), (None, None)]


def test_kinds_are_those_of_the_first_fields_that_are_there(tmp_path):
    path = written(tmp_path / "t.csv", "a,b,c,d\n,NA,?,\n1,x,nan,\n2,y,-.5e3,\n")
    assert open_table(path, with_target=True).kinds(range(4)) == {0: NUMBER, 1: TEXT, 2: NUMBER}


def test_missing_values_are_empty_or_one_of_a_list_of_words(tmp_path):
    fields = ["", " ", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "?", "-999", "-999.0", "unknown"]
    path = written(tmp_path / "t.csv", "a,b,c\n" + "".join(f"1,{field},x{i}\n" for i, field in enumerate(fields)))
    found = numbers_of(path, [1], Reading(missing=("-999", "unknown")))
    assert np.isnan(found).all()
    _, rows = words(path, Reading(missing=("-999", "unknown")))
    assert [row[1] for row in rows] == [None] * 12 + ["-999.0", None]
    assert words(path)[1][-1] == ("1", "unknown", "x13")


def numbers_of(path, places, reading=None):
    """Some columns of a file, as numbers."""
    blocks = open_table(path, reading, with_target=True).blocks(places, [])
    return np.concatenate([block.numbers for block in blocks])


values = st.floats(-3e38, 3e38, allow_nan=False)
tables = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(tables, st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_a_table_that_was_written_is_read_to_the_last_bit(tmp_path_factory, rows, header, end, encoding):
    lines = [",".join(map(repr, row)) for row in rows]
    if header:
        lines.insert(0, ",".join(f"c{i}" for i in range(len(rows[0]))))
    path = written(tmp_path_factory.getbasetemp() / "written.csv", end.join(lines).encode(encoding))
    np.testing.assert_array_equal(numbers(path), rows)


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;\n|\t '), max_size=6
)
string_tables = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1, max_size=6)
)


@settings(max_examples=100)
@given(string_tables, st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_text_that_the_csv_module_has_written_comes_back(tmp_path_factory, rows, delimiter, quoting):
    path = tmp_path_factory.getbasetemp() / "words.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=quoting)
        writer.writerow([f"column {i}" for i in range(len(rows[0]))])
        writer.writerows(rows)
    names, found = words(path, Reading(delimiter=delimiter))
    assert names == [f"column {i}" for i in range(len(rows[0]))]
    assert found == [tuple(None if field.strip() in MISSING else field.strip() for field in row) for row in rows]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["1", "x", '"a,b"', '"c\nd"', '"e\n\nf"', "2"])), min_size=1, max_size=30))
def test_rows_do_not_depend_on_where_a_block_of_lines_ends(tmp_path_factory, fields):
    path = written(
        tmp_path_factory.getbasetemp() / "blocks.csv", "n,w\n" + "".join(f"{i},{f}\n" for i, (f,) in enumerate(fields))
    )
    whole = words(path)
    with pytest.MonkeyPatch.context() as patch:
        for size in (1, 7, 20):
            patch.setattr(text, "CHARACTERS", size)
            source = open_table(path, Reading(delimiter=","), with_target=True)
            blocks = list(source.blocks([0], [1]))
            assert np.concatenate([block.numbers[:, 0] for block in blocks]).tolist() == list(range(len(fields)))
            assert [word for block in blocks for word in block.words[0]] == [row[1] for row in whole[1]]
            lines = [block.where(row, 0) for block in blocks for row in range(block.rows)]
            starts = np.cumsum([2, *(1 + field.count("\n") for (field,) in fields)])[:-1]
            assert lines == [f"{path}: line {start}, column 1 (n)" for start in starts]


# ---------------------------------------------------------------- text: what is refused

REFUSED = {
    "": "expected rows of numbers or text, got none",
    "\ufeff": "expected rows of numbers or text, got none",
    "\n\n": "expected rows of numbers or text, got none",
    "a,b\n": "expected rows of numbers or text, got nothing below the first line",
    "a,b\n\n": "expected rows of numbers or text, got nothing below the first line",
    "1\n2\n": "expected columns of features and one of targets, got one column",
    ",2,3\n4,5,6\n": "line 1, column 1: expected a value, got a missing one; --impute median fills missing values in",
    "1,2,\n4,5,\n": "column 3: expected values, got missing ones only; leave it out with --drop",
    "1,2,3\n4,5,\n": "line 2, column 3: expected a value, got a missing one; leave out rows without a target",
    "a,b,\n4,5,\n": "line 1: expected a name for column 3, got none",
    ",a,b\n0,4,5\n": "line 1: expected a name for column 1, got none (pandas: to_csv(index=False), R:",
    "a,b,a\n1,2,3\n": "line 1: expected names that differ, got 'a' twice",
    "a,2\n1,2\n": "line 1: expected names or numbers, got both: 'a' and '2'; say --header or --no-header",
    "NA,2\n1,2\n": "line 1: expected names or numbers, got both: 'NA' and '2'",
    "a,0x1f\n1,2\n": "line 1: expected names or numbers, got both: 'a' and '0x1f'",
    "1_0,2\n1,2\n": "line 2, column 1: expected text, as in rows before, got both: '1_0' and '1'",
    "1,2\n1_0,2\n": "line 2, column 1: expected a number, got '1_0'",
    "1,2\n0x1f,2\n": "line 2, column 1: expected a number, got '0x1f'",
    "1,2\n１,2\n": "line 2, column 1: expected a number, got '１'",
    "nan,inf\n1,2\n": "line 1, column 2: expected a finite number within ±3.4e+38, got inf",
    "nan,1\n1,2\n": "line 1, column 1: expected a value, got a missing one",
    "a,b\n1,2\n3,nan\n": "line 3, column 2 (b): expected a value, got a missing one",
    "1,2\n3,-inf\n": "line 2, column 2: expected a finite number within ±3.4e+38, got -inf",
    "1,2\n1e39,2\n": "line 2, column 1: expected a finite number within ±3.4e+38, got 1e+39",
    "1,2\n3,1e999\n": "line 2, column 2: expected a finite number within ±3.4e+38, got 1e999",
    "1,2\n3,four\n": "line 2, column 2: expected a number, got 'four'; --missing takes it for a missing value",
    "1,2\nfour,3\n": "line 2, column 1: expected a number, got 'four'; --missing takes it for a missing value",
    "a,b\n3,\n": "column b: expected values, got missing ones only",
    '1,2\n"3"x,4\n': "line 2: expected quotes around whole fields, got others (",
    '1,2\n"3,4\n': "line 2: expected quotes around whole fields, got others (",
    '"a\n",b\n1,2\n': "line 1: expected names in one line, got a quoted line end",
    '"a"x,b\n1,2\n': "line 1: expected names or a row, got a line that cannot be read (",
    '1,2\n"3,4"\n': "line 2: expected 2 fields, as in line 1, got 1",
    "1,2\n3\n": "line 2: expected 2 fields, as in line 1, got 1",
    "a,b\n1,2,\n": "line 2: expected 2 fields, as in line 1, got 3",
    "1,2\n\n3,4\n": "line 2: expected a row, got a blank line",
    '1,2\n\n"3",4\n': "line 2: expected a row, got a blank line",
    "\n1,2\n": "line 1: expected a row, got a blank line",
    "1,2\n# 3,4\n": "line 2, column 1: expected a number, got '# 3'",
    "# made by hand\n1,2\n": "line 2: expected 1 fields, as in line 1, got 2",
    "1,2 # good\n": "line 1: expected names or numbers, got both: '2 # good' and '1'",
    "1,2\n3,4\0\n": "line 2, column 2: expected a number, got '4\\x00'",
    b"\xff\xfe1\0,\0002\0\n\0": "expected text in UTF-8, got UTF-16; write the file in UTF-8",
    b"1,2\n3,\xe9\n": "expected text in UTF-8, got the byte 0xe9",
    "a;b\n1,5;2\n": "line 2, column 1 (a): expected a number or text, got a number with commas, '1,5'; of a decimal",
    "a;b\n1;2,5\n": "line 2, column 2 (b): expected a number or text, got a number with commas, '2,5'",
    'a,b\n"1,500",2\n': "line 2, column 1 (a): expected a number or text, got a number with commas, '1,500'",
}
DATES = ["2024-02-29", "2024-02-29 12:30", "2024-02-29T12:30:00Z", "29.02.2024", "2/29/24", "2024/2/29", "1 Mar 2024",
         "March 1, 2024", "1-Mar-24", "12:30", "12:30:05", "9:05 pm"]  # fmt: skip
REFUSED |= {
    f"a;b\n{date};1\n": f"line 2, column 1 (a): expected a number or text, got a date or time, {date!r}; write it as"
    for date in DATES
}


@pytest.mark.parametrize("content", REFUSED, ids=repr)
def test_a_row_that_is_none_is_refused_by_line_and_column(content, tmp_path):
    path = written(tmp_path / "t.csv", content)
    with pytest.raises(ValueError, match=f"^(--task regress: |{re.escape(str(path))}: ){re.escape(REFUSED[content])}"):
        train(path)


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
parts = st.lists(st.tuples(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3), st.sampled_from(ENDS)), max_size=4)


def plain_rows(content):
    """What a file has to be read as, by the plainest of rules; None if it has to be refused."""
    lines = re.split("\r\n|\r|\n", content.removeprefix("\ufeff"))
    while lines and not lines[-1].strip():
        lines.pop()
    cells = [[cell.strip() for cell in line.split(",")] for line in lines]
    number = re.compile(r"[+-]?[0-9.]+(e[0-9]+)?")
    if cells and not any(number.fullmatch(cell) for cell in cells[0]):
        if (
            not all(cells[0])
            or len(set(cells[0])) < len(cells[0])
            or not set("".join(cells[0])) & set("abcé#\0\ufeff;")
        ):
            return None
        cells = cells[1:]
    rows = [[float(cell) if number.fullmatch(cell) else np.inf for cell in row] for row in cells]
    same = len({line.count(",") for line in lines}) == 1
    return rows if same and len(rows) and np.isfinite(rows).all() else None


@settings(max_examples=300)
@given(parts)
@example([(["a", "b"], "\n"), (["1", "-2.5"], "\n")])
@example([(["1", "-2.5"], "\n"), (["3e2", "1"], "\n\n")])
def test_a_file_of_any_fields_is_read_by_the_plain_rules_or_refused(tmp_path_factory, parts):
    content = "".join(",".join(cells) + end for cells, end in parts)
    want = plain_rows(content)
    path = written(tmp_path_factory.getbasetemp() / "any.csv", content)
    try:
        found = numbers(path, Reading(delimiter=","))
    except ValueError as error:
        assert want is None or '"' in content, error  # noqa: PT017
    else:
        if '"' not in content:
            np.testing.assert_array_equal(found, want if np.isfinite(found).all() else found)


@settings(max_examples=200)
@given(
    st.text("0123456789.eE+-_naifty xX\t\x0c\u00a0\u0661()", max_size=6) | st.sampled_from(["nan(1)", "0x1p3", "1d5"])
)
def test_a_field_is_a_number_by_one_rule_whichever_parser_reads_it(tmp_path_factory, field):
    path = tmp_path_factory.getbasetemp() / "field.csv"
    found = []
    for quote in ("", '"'):
        written(path, f"n,w\n{quote}{field}{quote},1\n")
        try:
            found.append(numbers(path, Reading(delimiter=","))[0, 0])
        except ValueError:
            found.append(None)
    np.testing.assert_equal(found[0], found[1])
    there = NUMBER_RULE.fullmatch(field.strip()) or field.strip() in MISSING
    assert (found[0] is not None) is bool(there)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "t.csv", "a,b\n1,2\n3,4\n")
    source = open_table(path, with_target=True)
    kinds = source.kinds

    def changed(places):
        found = kinds(places)
        monkeypatch.setattr(source, "blocks", lambda *_, blocks=source.blocks: grown(blocks, *_))
        return found

    def grown(blocks, numbers, texts):
        if numbers:
            with open(path, "a") as stream:
                stream.write("5,6\n")
        return blocks(numbers, texts)

    monkeypatch.setattr(source, "kinds", changed)
    with pytest.raises(ValueError, match="expected the 2 rows it had at first, but the file has changed since"):
        read_training(source, Options(task="regress"), "0")


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
    "nan": (lambda p: npz(p, X=np.where(X == 3, np.nan, X), y=Y), r"X\[1, 1\]: expected a value, got a missing one"),
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
    monkeypatch.setattr(archives, "memory", lambda: 10**7)
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(path))}: (expected a .npz file, got one that is )?{message}"
    ):
        train(path)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint64, np.bool_, ">f8"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_real_numbers_are_read_as_they_are(dtype, order, tmp_path):
    want = np.asarray(X % 2, dtype, order=order)
    np.savez_compressed(tmp_path / "t.npz", X=want, y=Y)
    np.testing.assert_array_equal(numbers_of(tmp_path / "t.npz", [1, 0]), want[:, ::-1])
    data = train(tmp_path / "t.npz", task=None)
    assert data.table.target.classes == [0, 1, 2]
    assert [column.name for column in data.table.columns] == [None, None]


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
    with contextlib.suppress(ValueError):
        found = np.concatenate([block.numbers for block in open_table(path, with_target=True).blocks([0, 1], [])])
        np.testing.assert_array_equal(found, X)
        np.testing.assert_array_equal(train(path).y, Y)


# ---------------------------------------------------------------- paths


def test_what_is_no_data_file_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, message in (
        ("folder.csv", "expected a regular file"),
        ("pipe.csv", "expected a regular file"),
        ("data.txt", "expected a .csv, .tsv, .parquet, .feather or .npz file, got .txt"),
        ("data", "expected a .csv, .tsv, .parquet, .feather or .npz file, got no suffix"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path / name)
    for name in ("missing.csv", "missing.npz"):
        with pytest.raises(FileNotFoundError):
            train(tmp_path / name)
