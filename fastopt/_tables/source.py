"""What every kind of data file is to its readers: columns at places, read in blocks of rows, as often as it takes.

A source has `path`, `names` (None where the file has none), `width`, `fields`, and `kinds` and `blocks` as `Source`
describes them. Rows that cannot be read are refused by the place where they stand.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastopt._tables.fields import MISSING_ADVICE, Fields

NUMBER, TEXT = "number", "text"


class Block(NamedTuple):
    """Some rows of some columns."""

    rows: int
    numbers: np.ndarray  # (rows, columns asked for as numbers), float64, NaN where one is missing
    words: list[list[str | None]]  # of each column asked for as text, None where one is missing
    where: Callable[[int, int], str]  # where the field of a row of this block and a column stands, for messages


class Source:
    """The names of columns, and the contract of what reads them."""

    path: str
    names: list[str] | None
    width: int
    fields: Fields
    is_archive = False  # arrays X and y, of which y is the target and nothing else

    def kinds(self, places) -> dict[int, str]:
        """NUMBER or TEXT for each of these columns by its first field that is not missing; none where all are."""
        raise NotImplementedError

    def blocks(self, numbers, words) -> Iterator[Block]:
        """All rows in order: the columns `numbers` as numbers, and `words` as the text that stands in the file.

        A number in a column of words is the text that NumPy writes for it, where the file holds no text.
        """
        raise NotImplementedError

    def label(self, place) -> str:
        """A column's name, or in a file without names its number."""
        return str(place + 1) if self.names is None else self.names[place]

    def place(self, option, name) -> int:
        """The column of this name, or in a file without names of this number; ValueError names the option."""
        if self.is_archive and option == "--target":
            raise ValueError(f"--target: expected a file of columns, got {self.path}, whose target is the array y")
        labels = [self.label(place) for place in range(self.width)]
        if name not in labels:
            raise ValueError(f"{option}: expected one of the columns {some(labels)} of {self.path}, got {name}")
        return labels.index(name)


def check_names(where, names) -> None:
    """Raise ValueError, which starts with `where`, unless every column has a name of its own."""
    seen: set[str] = set()
    for place, name in enumerate(names):
        if not name:
            way_out = "pandas: to_csv(index=False), R: row.names=FALSE"
            raise ValueError(f"{where}: expected a name for column {place + 1}, got none ({way_out})")
        if name in seen:
            raise ValueError(f"{where}: expected names that differ, got {name!r} twice")
        seen.add(name)


def missing_value(block, row, place, advice=MISSING_ADVICE) -> ValueError:
    """The error of a field that is missing."""
    return ValueError(f"{block.where(row, place)}: expected a value, got a missing one; {advice}")


def check_range(block, places, limit) -> None:
    """Raise ValueError if a number is infinite or beyond a limit; NaN is missing, and none of it."""
    bad = np.abs(block.numbers) > limit
    if bad.any():
        row, j = np.unravel_index(int(bad.argmax()), bad.shape)
        found = block.numbers[row, j]
        raise ValueError(
            f"{block.where(int(row), places[j])}: expected a finite number within ±{limit:.3g}, got {found:g}"
        )


def some(names) -> str:
    """The first names, for a message."""
    return ", ".join(map(str, names[:5])) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
