"""What a network takes of a table: a number for each column of numbers, a column of 0 and 1 for each category.

A `Table` is made in training, stored in the model's metadata under "table" as JSON values, and checked when it comes
back. Networks of other makers and of earlier versions have one with names only, or none; columns are numbers then.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field

import numpy as np

from fastopt._files import MALFORMED, why
from fastopt._numbers import finite_number, flag
from fastopt._tables.source import check_range, missing_value, some

CLASSIFY, REGRESS, COUNT = TASKS = "classify", "regress", "count"


@dataclass
class Column:
    """A column and the features that a network takes of it.

    Attributes
    ----------
    name : str or None
        None in a file without names.
    categories : list of str, optional
        Of a column of text: a feature each. None for a column of numbers, which is one feature.
    other, missing : bool
        Whether there is a feature for all other categories, and one for missing values; without one such a row has
        0 in all features of the column.
    median : float, optional
        What stands for a missing number; None refuses it.
    """

    name: str | None
    categories: list[str] | None = None
    other: bool = False
    missing: bool = False
    median: float | None = None

    def __post_init__(self):
        if not (self.name is None or isinstance(self.name, str)):
            raise TypeError(f"name: expected text or null, got {self.name!r}")
        if self.categories is not None:
            words = self.categories
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise TypeError(f"categories: expected a list of texts, got {words!r}")
            if len(set(words)) < len(words):
                raise ValueError("categories: expected each once, got one twice")
        self._places = {word: place for place, word in enumerate(self.categories or ())}
        self.other, self.missing = flag("other", self.other), flag("missing", self.missing)
        if self.median is not None:
            self.median = finite_number("median", self.median)

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers, and no categories."""
        return self.categories is None

    @property
    def width(self) -> int:
        """Features of the network."""
        return 1 if self.categories is None else len(self.categories) + self.other + self.missing

    def offset(self, word) -> int:
        """The feature that is 1 for a text, counted from the first of the column; -1 if none is."""
        n = len(self._places)
        if word is None:
            return n + self.other if self.missing else -1
        return self._places.get(word, n if self.other else -1)


@dataclass
class Target:
    """What a network predicts.

    Attributes
    ----------
    name : str or None
    classes : list, optional
        Labels in the order of the outputs, all text or all numbers; None for 0, 1, 2, ...
    mean, deviation : float
        Of values: outputs are times `deviation`, plus `mean`.
    link : str
        "identity", or "log" where the prediction is the exponential of the output.
    """

    name: str | None
    classes: list | None = None
    mean: float = 0.0
    deviation: float = 1.0
    link: str = "identity"

    def __post_init__(self):
        if not (self.name is None or isinstance(self.name, str)):
            raise TypeError(f"name: expected text or null, got {self.name!r}")
        if self.classes is not None:
            if not isinstance(self.classes, list) or len(self.classes) < 2:
                raise ValueError(f"classes: expected a list of two or more, got {self.classes!r}")
            if not all(isinstance(label, str) for label in self.classes):
                for label in self.classes:
                    finite_number("classes", label)
            if len(set(self.classes)) < len(self.classes):
                raise ValueError("classes: expected each once, got one twice")
        self.mean = finite_number("mean", self.mean)
        self.deviation = finite_number("deviation", self.deviation, above=0)
        if self.link not in ("identity", "log"):
            raise ValueError(f"link: expected identity or log, got {self.link!r}")


@dataclass
class Table:
    """What a model file says of the tables that its network was trained on.

    Attributes
    ----------
    version : str or None
        Of fastopt, that wrote it.
    task : str or None
        classify, regress or count; None where nobody said.
    columns : list of Column
        In the order of the network's inputs.
    target : Target
    impute : bool
        Whether missing values were filled in.
    missing : list of str
        Words for missing values besides the usual ones.
    """

    version: str | None
    task: str | None
    columns: list[Column]
    target: Target
    impute: bool = False
    missing: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Inputs of the network."""
        return sum(column.width for column in self.columns)

    @property
    def named(self) -> bool:
        """Whether columns go by name."""
        return self.columns[0].name is not None

    def described(self) -> dict:
        """As JSON values; what is as if nothing had been said is left out."""

        def plain(thing, **values):
            default = type(thing)(name=None)
            return {k: v for k, v in values.items() if k == "name" or v != getattr(default, k)}

        stored = {
            "version": self.version,
            "task": self.task,
            "columns": [plain(column, **asdict(column)) for column in self.columns],
            "target": plain(self.target, **asdict(self.target)),
        }
        if self.impute:
            stored["impute"] = True
        return stored | ({"missing": self.missing} if self.missing else {})

    def places(self, source, left_out) -> list[int]:
        """Where in a file the columns stand; `left_out` is the place of a column that is none of them, or None."""
        places = [place for place in range(source.width) if place != left_out]
        names, n = [column.name for column in self.columns], len(self.columns)
        if not self.named:
            if len(places) != n:
                remedy = "; leave the target out with --target" if left_out is None and len(places) == n + 1 else ""
                raise ValueError(f"{source.path}: expected {n} columns, as in training, got {len(places)}{remedy}")
            return places
        if source.names is None:
            remedy = "" if source.is_archive else "; add a first line with the names"
            raise ValueError(f"{source.path}: expected columns named {some(names)}, got some without names{remedy}")
        found = {source.names[place]: place for place in places}
        absent = [name for name in names if name not in found]
        if absent:
            raise ValueError(f"{source.path}: expected columns named {some(absent)}, got {some(list(found))}")
        return [found[name] for name in names]


def table_of(path, net) -> Table:
    """The table of a network that came from a file, or one without names if it has none; ValueError if it lies."""
    n, stored = net.in_features, net.metadata.get("table")
    if stored is None:
        return Table(None, None, [Column(None) for _ in range(n)], Target(None))
    try:
        table = _checked(stored)
        fits = table.width == n and net.output_shape == (len(table.target.classes or range(net.out_features)),)
        if not fits:
            raise ValueError(f"expected {n} features and {net.out_features} outputs, got others")
    except MALFORMED as error:
        raise ValueError(
            f"{path}: expected a description of its {n} columns, got one that does not fit ({why(error)})"
        ) from None
    return table


def _checked(stored) -> Table:
    columns = [Column(**column) for column in stored["columns"]]
    names = {column.name for column in columns}
    if not columns or (names != {None} and (None in names or len(names) < len(columns))):
        raise ValueError("columns: expected a name of its own for each, or none for all")
    task, version = stored.get("task"), stored.get("version")
    if task is not None and task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    if not (version is None or isinstance(version, str)):
        raise TypeError(f"version: expected text, got {version!r}")
    missing = stored.get("missing", [])
    if not isinstance(missing, list) or not all(isinstance(word, str) for word in missing):
        raise TypeError(f"missing: expected a list of texts, got {missing!r}")
    return Table(
        version, task, columns, Target(**stored["target"]), flag("impute", stored.get("impute", False)), missing
    )


class Encoder:
    """Rows of a file as a network reads them, block by block.

    Attributes
    ----------
    unseen : dict of str to Counter
        For a column of text the categories that the network has no feature for, and how many rows hold them.
    """

    def __init__(self, table, source, places, dtype):
        self.table, self.source, self.limit = table, source, np.finfo(dtype).max
        self.columns = list(zip(table.columns, places, strict=True))
        self.numbers = [place for column, place in self.columns if column.is_number]
        self.words = [place for column, place in self.columns if not column.is_number]
        self.unseen: dict[str, Counter] = {}

    def blocks(self, words=()):
        """(features (rows, width) in float64, block) of all rows; `words` are more columns to read as text."""
        for block in self.source.blocks(self.numbers, [*self.words, *words]):
            check_range(block, self.numbers, self.limit)
            X = np.zeros((block.rows, self.table.width))
            first = number = word = 0
            for column, place in self.columns:
                if column.is_number:
                    X[:, first] = self._filled(column, place, block, number)
                    number += 1
                else:
                    self._set(X, first, column, place, block, block.words[word])
                    word += 1
                first += column.width
            yield X, block

    def _filled(self, column, place, block, number):
        values = block.numbers[:, number]
        bad = np.isnan(values)
        if bad.any():
            if column.median is None:
                raise missing_value(block, int(bad.argmax()), place, "the model was trained without --impute median")
            values = np.where(bad, column.median, values)
        return values

    def _set(self, X, first, column, place, block, words):
        if not self.table.impute and None in words:
            raise missing_value(block, words.index(None), place, "the model was trained without --impute median")
        offsets = np.array([column.offset(word) for word in words])
        rows = np.flatnonzero(offsets >= 0)
        X[rows, first + offsets[rows]] = 1
        if len(rows) < len(words):
            unknown = [words[row] or "(missing)" for row in np.flatnonzero(offsets < 0)]
            self.unseen.setdefault(self.source.label(place), Counter()).update(unknown)
