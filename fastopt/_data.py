"""Data files of the command line: .csv and .npz, read whole or refused by line and column.

- No row is skipped unsaid. The first line of a .csv file is a header if none of its fields is a number, a row if
  each is; a mixture, a blank line, a comment and a row of another width are refused.
- Columns go by name where both sides know names, else by place; then the width has to be the same.
- A number is what NumPy writes: no quotes, no underscores, nothing missing, not NaN, within the network's dtype.
- A .npz file is never unpickled, and what an array claims to be is checked before room is made for it.
"""

import contextlib
import csv
import errno
import math
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)


class Training(NamedTuple):
    """What `read_training` returns."""

    X: np.ndarray  # (n, features)
    y: np.ndarray  # (n,)
    names: list[str | None]  # of the columns of X; None where the file has no names
    target: str | None  # the name of y
    whole: bool  # every target is written as a whole number


def read_training(path, target, dtype) -> Training:
    """Rows and targets for a network of this dtype; `target` names the column of a .csv file, None for the last."""
    if _suffix(path) == ".npz":
        if target is not None:
            raise ValueError(f"--target: expected a .csv file, got {path}, whose target is the array y")
        X, y = _read_array(path, "X", 2, dtype), _read_array(path, "y", 1, dtype)
        if len(y) != len(X):
            raise ValueError(f"{path}: expected y of shape ({len(X)},), one target a row, got {y.shape}")
        return Training(X, y, [None] * X.shape[1], None, y.dtype.kind in "iub")
    file = _Csv(path)
    y_place = file.place(target)
    places = [place for place in range(file.width) if place != y_place]
    if not places:
        raise ValueError(f"{path}: expected columns of features and one of targets, got one column")
    table = file.read([*places, y_place], dtype)
    names = [None if file.names is None else file.names[place] for place in places]
    return Training(table[:, :-1], table[:, -1], names, file.names and file.names[y_place], file.is_whole(y_place))


def read_features(path, names, target, dtype) -> tuple[np.ndarray, list[str]]:
    """Rows in the columns of a network of this dtype, and the names of all columns of the file, if it has names.

    `names` has an entry for each input of the network, None where it is known by place only. `target` is a column
    to leave out, as for `read_training`, or None.
    """
    by_name, n = names[0] is not None, len(names)
    if _suffix(path) == ".npz":
        if by_name:
            raise ValueError(f"{path}: expected a .csv file with the columns {some(names)}: the model goes by name")
        if target is not None:
            raise ValueError(f"--target: expected a .csv file, got {path}, of which X alone is read")
        X = _read_array(path, "X", 2, dtype)
        if X.shape[1] != n:
            raise ValueError(f"{path}: expected X of shape (rows, {n}), as in training, got {X.shape}")
        return X, []
    file = _Csv(path)
    left_out = None if target is None else file.place(target)
    places = [place for place in range(file.width) if place != left_out]
    if not by_name:
        if len(places) != n:
            remedy = "; leave the target out with --target" if target is None and len(places) == n + 1 else ""
            raise ValueError(f"{path}: expected {n} columns, as in training, got {len(places)}{remedy}")
        return file.read(places, dtype), file.names or []
    if file.names is None:
        raise ValueError(f"{path}: expected a first line with the names {some(names)}, got numbers; add that header")
    found = {file.names[place]: place for place in places}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: expected columns named {some(missing)}, got {some(list(found))}")
    return file.read([found[name] for name in names], dtype), file.names


def some(names) -> str:
    """The first names, for a message."""
    return ", ".join(map(str, names[:5])) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _suffix(path) -> str:
    suffix = Path(path).suffix
    if suffix not in (".npz", ".csv"):
        raise ValueError(f"{path}: expected a .npz or .csv file, got {suffix or 'no suffix'}")
    if Path(path).exists() and not Path(path).is_file():  # a pipe could not be read twice
        raise ValueError(f"{path}: expected a regular file")
    return suffix


# ---------------------------------------------------------------- .csv


class _Csv:
    """A .csv file, whose first line has been read.

    Attributes
    ----------
    names : list of str or None
        Of the columns, where the first line is a header.
    width : int
        Fields of every line.
    """

    def __init__(self, path):
        self.path = path
        _, first = next(self.lines(), (1, ""))
        try:
            cells = [cell.strip() for row in csv.reader([first], strict=True) for cell in row]
        except csv.Error as error:
            raise self.error(1, f"expected names or numbers, got a line that cannot be read ({error})") from None
        words = [cell for cell in cells if cell and not _is_like_a_number(cell)]
        others = [cell for cell in cells if _is_like_a_number(cell)]
        if words and others:
            raise self.error(1, f"expected names or numbers, got both: {words[0]!r} and {others[0]!r}")
        self.width = len(cells)
        self.names = self._header(cells) if words else None
        if self.width == 1 and re.search("[;\t]", first):
            raise self.error(1, "expected fields separated by commas, got others")
        if next(self.rows(), None) is None:
            below = "nothing below the first line" if words else "none"
            raise ValueError(f"{path}: expected rows of numbers, got {below}")

    def _header(self, cells):
        cells[0] = cells[0].removeprefix("#").strip()  # numpy.savetxt writes it
        places: dict[str, int] = {}
        for place, name in enumerate(cells):
            if not name:
                raise self.error(1, f"expected a name for column {place + 1}, got none (pandas: to_csv(index=False))")
            if places.setdefault(name, place) != place:
                raise self.error(1, f"expected names that differ, got {name!r} twice")
        return cells

    def lines(self):
        """(number, text) of every line, counted from 1."""
        try:
            with open(self.path, encoding="utf-8-sig") as stream:
                yield from enumerate(stream, 1)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(f"{self.path}: expected text in UTF-8, got the byte 0x{byte:02x}") from None

    def rows(self):
        """(number, text) of every line that is a row; blank lines at the end are none."""
        blank = 0
        for number, line in self.lines():
            if line.isspace():
                blank = blank or number
            elif blank:
                raise self.error(blank, "expected a row, got a blank line")
            elif number > 1 and line.count(",") != self.width - 1:
                raise self.error(number, f"expected {self.width} fields, as in line 1, got {line.count(',') + 1}")
            elif number > 1 or self.names is None:
                yield number, line

    def place(self, target) -> int:
        """Index of the column of this name, or in a file without names of this number; the last one for None."""
        names = self.names or [str(place + 1) for place in range(self.width)]
        if target is not None and target not in names:
            raise ValueError(f"--target: expected one of the columns {some(names)} of {self.path}, got {target}")
        return self.width - 1 if target is None else names.index(target)

    def read(self, places, dtype) -> np.ndarray:
        """These columns (n, len(places)) in float64, finite in the given dtype."""
        lines = (line for _, line in self.rows())
        try:
            table = np.loadtxt(lines, delimiter=",", comments=None, usecols=places, ndmin=2)
        except ValueError as error:
            raise self._unreadable(places) or ValueError(f"{self.path}: expected rows of numbers ({error})") from None
        bad = _first_too_large(table, dtype)
        if bad is not None:
            number = int(bad[0]) + 1 + (self.names is not None)
            raise self.error(number, f"expected a finite number{_limit(dtype)}, got {table[bad]:g}", places[bad[1]])
        return table

    def _unreadable(self, places):
        """The error that names the first field that is no number."""
        for number, line in self.rows():
            cells = line.split(",")
            for place in places:
                cell = cells[place].strip()
                if not NUMBER.fullmatch(cell):
                    found = repr(cell) if cell else "an empty field; fill it in or leave the row out"
                    return self.error(number, f"expected a number, got {found}", place)
        return None

    def is_whole(self, place) -> bool:
        """Whether every number of a column that has been read is written as a whole one."""
        after = self.width - place  # counted from the end, where the target mostly stands
        return all(line.rsplit(",", after)[-after].strip().lstrip("+-").isdigit() for _, line in self.rows())

    def error(self, number, text, place=None) -> ValueError:
        """A ValueError that names the line, and the column where there is one."""
        column = "" if place is None else f", column {place + 1}"
        name = f" ({self.names[place]})" if column and self.names else ""
        return ValueError(f"{self.path}: line {number}{column}{name}: {text}")


def _is_like_a_number(cell) -> bool:
    """Whether Python takes it for a number; nan, 1_000 and 0x1f are no names, though no numbers of ours either."""
    for read in (float, lambda text: int(text, 0)):
        with contextlib.suppress(ValueError):
            read(cell)
            return True
    return False


def _first_too_large(array, dtype):
    """The index of the first element that is NaN, infinite or beyond the dtype; None if there is none."""
    largest = np.finfo(dtype).max
    if -largest <= array.min() and array.max() <= largest:  # False for NaN
        return None
    return np.unravel_index((np.abs(array) <= largest).argmin(), array.shape)


def _limit(dtype) -> str:
    return f" within ±{np.finfo(dtype).max:.3g}"


# ---------------------------------------------------------------- .npz

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _read_array(path, name, ndim, dtype) -> np.ndarray:
    """An array of a .npz file: of real numbers, finite in the given dtype."""
    with _translated(path), zipfile.ZipFile(path) as archive:
        member = {info.filename: info for info in archive.infolist()}.get(f"{name}.npy")
        if member is not None:
            with archive.open(member) as stream:
                shape, _, stored = HEADERS[np.lib.format.read_magic(stream)](stream)
                size = member.file_size - stream.tell()
    if member is None:
        raise ValueError(f"{path}: expected arrays X and, for training, y, got none named {name}")
    if stored.kind not in "biuf":
        raise ValueError(f"{path}: expected {name} of real numbers, got dtype {stored}")
    if len(shape) != ndim or not all(n > 0 for n in shape):
        what = "rows of features, X of shape (n, features)" if ndim == 2 else "targets, y of shape (n,)"
        raise ValueError(f"{path}: expected {what}, got shape {shape}")
    if math.prod(shape) * stored.itemsize != size:
        raise ValueError(f"{path}: damaged: {name} of shape {shape} and dtype {stored} has {size} bytes")
    if size > memory():
        raise ValueError(f"{path}: expected arrays that fit into memory, got {name} of {size / 2**30:.0f} GiB")
    with _translated(path), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    bad = _first_too_large(array, dtype)
    if bad is not None:
        place = ", ".join(map(str, bad))
        raise ValueError(f"{path}: {name}[{place}]: expected a finite number{_limit(dtype)}, got {array[bad]}")
    return array


@contextlib.contextmanager
def _translated(path):
    """Whatever the readers of archives and arrays raise for bytes that are none, as one ValueError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a damaged offset before the file gives
            raise
        text = "expected a .npz file, got one that is damaged or of another kind"
        raise ValueError(f"{path}: {text} ({str(error) or type(error).__name__})") from None
