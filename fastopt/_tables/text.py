"""Delimited text: .csv and .tsv files, streamed in blocks of lines, every row read or refused by line and column.

- The delimiter is the one of , ; tab | that parts each of the first rows into as many fields, the most if several do.
- The first line is a header if none of its fields is a number, a row if each is; a mixture is refused unless the
  caller says which it is.
- A block without quotes goes through NumPy's parser; one that this refuses is read field by field, which finds the
  place. A block with quotes goes through the csv module.
"""

import contextlib
import csv
import itertools
import re
from typing import Any, NamedTuple

import numpy as np

from fastopt._tables.fields import Fields, NotANumberError
from fastopt._tables.source import NUMBER, TEXT, Block, Source, check_names

DELIMITERS = ",;\t|"
CONFIRMED = 10  # rows by which a delimiter is chosen
CHARACTERS = 1 << 20  # of a block of lines


class Reading(NamedTuple):
    """What a caller knows of a text file; None for what is to be found out."""

    delimiter: str | None = None
    decimal: str = "."
    header: bool | None = None  # whether the first line holds names
    missing: tuple[str, ...] = ()  # words for missing values besides the usual ones


class _Part(NamedTuple):
    """Some lines: as they are, or parted into rows where they hold quotes."""

    content: list[Any]  # lines, or rows of fields
    quoted: bool
    starts: list[int] | range  # the line, counted from 1, in which each begins


class Text(Source):
    """A file of delimited text, whose first rows have been read.

    Parameters
    ----------
    path : path-like
    reading : Reading

    Raises
    ------
    ValueError
        A header that is none, no row below it, or a file that is no text in UTF-8.
    """

    def __init__(self, path, reading):
        self.path, self.fields = path, Fields(reading.decimal, reading.missing)
        with self._open() as stream:
            head = stream.readlines(CHARACTERS // 16)
        self.delimiter = reading.delimiter or self._find_delimiter(head)
        first = self._first_row(head)
        self.width = len(first)
        self.names = self._header(first) if self._is_header(first, reading.header) else None
        if next(self._parts(), None) is None:
            below = "none" if self.names is None else "nothing below the first line"
            raise ValueError(f"{path}: expected rows of numbers or text, got {below}")

    # ---------------------------------------------------------------- the first line

    def _find_delimiter(self, head) -> str:
        widths = {}
        for delimiter in DELIMITERS.replace(self.fields.decimal, ""):
            reader = csv.reader(head, delimiter=delimiter, skipinitialspace=True)
            with contextlib.suppress(csv.Error):
                widths[delimiter] = [len(row) for row in itertools.islice(reader, CONFIRMED) if row]
        several = {delimiter: found for delimiter, found in widths.items() if found and found[0] > 1}
        confirmed = {delimiter: found for delimiter, found in several.items() if len(set(found)) == 1}
        found = confirmed or several or {",": [1]}
        return max(found, key=lambda delimiter: found[delimiter][0])

    def _first_row(self, head) -> list[str]:
        reader = self._reader(head)
        try:
            row = next(reader, [""])
        except csv.Error as error:
            raise self.error(1, f"expected names or a row, got a line that cannot be read ({error})") from None
        if reader.line_num > 1:
            raise self.error(1, "expected names in one line, got a quoted line end")
        return [field.strip() for field in row] or [""]

    def _is_header(self, first, told) -> bool:
        if told is not None:
            return told
        numbers = [field for field in first if _is_like_a_number(field)]
        words = [field for field in first if field and field not in numbers]
        if words and numbers:
            both = f"expected names or numbers, got both: {words[0]!r} and {numbers[0]!r}"
            raise self.error(1, f"{both}; say --header or --no-header, or give every column a name")
        return bool(words)

    def _header(self, first) -> list[str]:
        first[0] = first[0].removeprefix("#").strip()  # numpy.savetxt writes it
        check_names(f"{self.path}: line 1", first)
        return first

    # ---------------------------------------------------------------- rows

    @contextlib.contextmanager
    def _open(self):
        try:
            with open(self.path, encoding="utf-8-sig") as stream:
                yield stream
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            wide = error.start == 0 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
            found = "UTF-16; write the file in UTF-8" if wide else f"the byte 0x{byte:02x}"
            raise ValueError(f"{self.path}: expected text in UTF-8, got {found}") from None

    def _reader(self, lines):
        return csv.reader(lines, delimiter=self.delimiter, strict=True, skipinitialspace=True)

    def _parts(self):
        """All rows, without the header and the blank lines at the end; ValueError for a row of another width."""
        with self._open() as stream:
            number, blank = 1, None
            if self.names is not None:
                stream.readline()
                number = 2
            while lines := stream.readlines(CHARACTERS):
                if any('"' in line for line in lines):
                    part = self._quoted(lines, stream, number)
                    blanks = [
                        start
                        for start, row in zip(part.starts, part.content, strict=True)
                        if len(row) < 2 and not "".join(row).strip()
                    ]
                else:
                    part = _Part(lines, False, range(number, number + len(lines)))
                    blanks = [start for start, line in zip(part.starts, lines, strict=True) if self._is_blank(line)]
                number += len(lines)  # those that quotes have taken from the stream are among them
                n = len(part.content) - len(blanks)
                if (blank is not None and n) or list(part.starts[n:]) != blanks:  # a row after a blank line
                    raise self.error(blanks[0] if blank is None else blank, "expected a row, got a blank line")
                blank = blanks[0] if blanks and blank is None else blank
                if n:
                    part = _Part(part.content[:n], part.quoted, part.starts[:n])
                    self._check_widths(part)
                    yield part

    def _is_blank(self, line) -> bool:
        return line.isspace() and self.delimiter not in line

    def _quoted(self, lines, stream, number) -> _Part:
        """The rows of lines some of which hold quotes; lines in which the last row goes on are added to `lines`."""

        def more():
            yield from list(lines)
            for line in stream:
                lines.append(line)
                yield line

        reader, n = self._reader(more()), len(lines)
        rows, starts = [], []
        while reader.line_num < n:
            start = number + reader.line_num
            try:
                rows.append(next(reader))
            except csv.Error as error:
                raise self.error(start, f"expected quotes around whole fields, got others ({error})") from None
            starts.append(start)
        return _Part(rows, True, starts)

    def _check_widths(self, part):
        if part.quoted:
            widths = [len(row) for row in part.content]
        else:
            widths = [line.count(self.delimiter) + 1 for line in part.content]
        if widths.count(self.width) < len(widths):
            i = next(i for i, width in enumerate(widths) if width != self.width)
            raise self.error(part.starts[i], f"expected {self.width} fields, as in line 1, got {widths[i]}")

    def kinds(self, places):
        found: dict[int, str] = {}
        for block in self.blocks([], places):
            for place, words in zip(places, block.words, strict=True):
                first = next((word for word in words if word is not None), None)
                if place not in found and first is not None:
                    found[place] = NUMBER if self.fields.is_number(first) else TEXT
            if len(found) == len(places):
                break
        return found

    def blocks(self, numbers, words):
        for part in self._parts():
            values = self._numbers(part, numbers) if numbers else np.empty((len(part.starts), 0))
            texts = [self.fields.words(column) for column in self._columns(part, words)]
            yield Block(len(part.starts), values, texts, self._where(part))

    def _where(self, part):
        return lambda row, place: self._place_of(part.starts[row], place)

    def _columns(self, part, places) -> list[list[str]]:
        """Columns of stripped fields."""
        if not places:
            return []
        if part.quoted:
            return [[row[place].strip() for row in part.content] for place in places]
        first, last = min(places), max(places)
        if last + 1 <= self.width - first:  # whichever end is nearer
            rows = [line.split(self.delimiter, last + 1) for line in part.content]
        else:
            rows = [line.rsplit(self.delimiter, self.width - first) for line in part.content]
            places = [place - self.width for place in places]
        return [[row[place].strip() for row in rows] for place in places]

    def _numbers(self, part, places) -> np.ndarray:
        if not part.quoted:
            for prepared in (list, self._with_nan):
                with contextlib.suppress(ValueError):
                    return self.fields.without_missing(self._parsed(prepared(part.content), places))
        values = np.empty((len(part.starts), len(places)))
        for j, (place, column) in enumerate(zip(places, self._columns(part, places), strict=True)):
            try:
                values[:, j] = self.fields.numbers(column)
            except NotANumberError as error:
                where = self._place_of(part.starts[error.place], place)
                raise self.fields.no_number(where, column[error.place]) from None
        return values

    def _parsed(self, lines, places):
        if self.fields.decimal != ".":
            lines = map(self.fields.with_point, lines)
        delimiter = self.fields.with_point(self.delimiter)
        return np.loadtxt(lines, delimiter=delimiter, comments=None, usecols=places, ndmin=2)

    def _with_nan(self, lines) -> list[str]:
        return self.fields.empty_numbers(self.delimiter).sub("nan", "".join(lines).removesuffix("\n")).split("\n")

    # ---------------------------------------------------------------- messages

    def _place_of(self, number, place) -> str:
        name = f" ({self.names[place]})" if self.names else ""
        return f"{self.path}: line {number}, column {place + 1}{name}"

    def error(self, number, text) -> ValueError:
        """A ValueError that names the line."""
        return ValueError(f"{self.path}: line {number}: {text}")


def _is_like_a_number(field) -> bool:
    """Whether Python takes it for a number; nan, 1_000 and 0x1f are no names, though no numbers of ours either."""
    for read in (float, lambda text: int(text, 0)):
        with contextlib.suppress(ValueError):
            read(field)
            return True
    return re.fullmatch(r"[+-]?\d+(,\d+)+", field) is not None  # with a decimal comma
