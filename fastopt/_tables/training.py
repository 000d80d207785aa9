"""From a file to what a network is trained on: columns chosen, categories found, rows parted, numbers in place.

- A file is read twice at most. First the target and the columns of text (survey.py), which say how many rows there
  are, which go where, and which categories there are; then the columns of numbers.
- A row is written once, where its part begins: first all rows to train on, in the order of the file, then those for
  validation, then those for the test. So the parts are views of one array of float32, and there is no other.
- Numbers are read in float64. float32 holds their distances from the median of the first rows, over a power of two
  above the largest of those: digits of columns far from zero are kept. Columns of numbers are then standardized by the
  rows to train on; those of categories stay 0 and 1, for a rare category over its small deviation would be large.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastopt._tables.columns import CLASSIFY, REGRESS, Column, Table, Target
from fastopt._tables.source import NUMBER, TEXT, check_range, missing_value
from fastopt._tables.survey import FEW_ROWS, LIMIT, Survey
from fastopt.nn.conditioning import column_statistics

PARTS = TRAIN, VALIDATION, TEST = range(3)
ROWS = 4096  # in float64 at a time
SMALLEST = 1e-30  # deviation: below, float32 has lost a column


class Options(NamedTuple):
    """What a caller wants of a table; names are those of columns, or their numbers in a file without names."""

    target: str | None = None  # the last column for None
    task: str | None = None
    columns: Sequence[str] = ()  # to use; all for none
    drop: Sequence[str] = ()
    categories: Sequence[str] = ()  # columns whose numbers are codes
    max_categories: int = 20
    impute: str = "refuse"  # or "median"
    validation: float = 0.0
    test: float = 0.0
    seed: int = 0


class Training(NamedTuple):
    """What `read_training` returns: rows, targets, and the table that says what they are."""

    X: np.ndarray  # (n, features), float32, standardized: rows to train on, for validation, for the test
    y: np.ndarray  # (n,) in the same order: classes as numbers, or values in float64 as the file has them
    sizes: list[int]  # rows of the three parts
    table: Table
    guessed: bool  # whether the targets have decided the task
    mean: np.ndarray  # (features,): X is (number - mean) * scale
    scale: np.ndarray
    counting: list[str]  # columns that number the rows

    def part(self, part) -> tuple[np.ndarray, np.ndarray]:
        """Rows and targets of a part of PARTS."""
        first = sum(self.sizes[:part])
        rows = slice(first, first + self.sizes[part])
        return self.X[rows], self.y[rows]


def read_training(source, options, version) -> Training:
    """Read what the options ask for of a `Source`; ValueError names what cannot be used."""
    y_place, places = _chosen(source, options)
    codes = {source.place("--categories", name) for name in options.categories}
    kinds = _kinds(source, [*places, y_place], codes)
    text = [place for place in places if kinds[place] == TEXT]
    impute = options.impute == "median"
    survey = Survey(source, text, y_place, kinds[y_place], codes, impute)
    task = survey.task(options.task)
    y, classes = survey.targets(task)
    rng = np.random.default_rng(options.seed)
    part = parted(np.zeros(len(y), np.intp) if classes is None else y, options.validation, options.test, rng)
    kept = part == TRAIN
    _check_parts(part, y, classes, options)
    rows = np.argsort(part, kind="stable")
    place_of = np.empty(len(y), np.intp)
    place_of[rows] = np.arange(len(y))

    names = [None if source.names is None else source.names[place] for place in range(source.width)]
    columns = [
        Column(names[place])
        if kinds[place] == NUMBER
        else survey.column(place, names[place], kept, options.max_categories)
        for place in places
    ]
    X, mean, scale, counting = _encoded(source, survey, places, columns, place_of, int(kept.sum()), impute)
    target = _target(names[y_place], y[kept], task, classes)
    table = Table(version, task, columns, target, impute, source.fields.added)
    sizes = np.bincount(part, minlength=len(PARTS)).tolist()
    return Training(X, y[rows], sizes, table, options.task is None, mean, scale, counting)


def _encoded(source, survey, places, columns, place_of, n_train, impute):
    """The features of all rows at their places, standardized by the first `n_train`; mean, scale, counting columns."""
    first = np.cumsum([0, *(column.width for column in columns)])
    X = np.zeros((len(place_of), first[-1]), np.float32)
    for place, column, start, stop in zip(places, columns, first[:-1], first[1:], strict=True):
        if not column.is_number:
            survey.set_categories(place, column, X[:, start:stop], place_of)
    numbers = [
        (place, j, column) for place, j, column in zip(places, first[:-1], columns, strict=True) if column.is_number
    ]
    writer = _Numbers(X, [place for place, _, _ in numbers], [j for _, j, _ in numbers])
    if numbers:
        writer.read(source, place_of, impute)
    if impute:
        _fill_in(source, numbers, X, n_train, writer.center, writer.scale)
    counting = [source.label(place) for place, counts in zip(writer.places, writer.counting, strict=True) if counts]
    return X, *_standardize(X, n_train, writer), counting if len(X) > FEW_ROWS else []


def _chosen(source, options) -> tuple[int, list[int]]:
    """The place of the target, and those of the columns to use."""
    y_place = source.width - 1 if options.target is None else source.place("--target", options.target)
    chosen = {source.place("--columns", name) for name in options.columns} or set(range(source.width))
    left_out = {source.place("--drop", name) for name in options.drop}
    if y_place in left_out:
        raise ValueError(f"--drop: expected columns other than the target, got {source.label(y_place)}")
    places = sorted(chosen - left_out - {y_place})
    if not places:
        got = "one column" if source.width == 1 else "the target only"
        raise ValueError(f"{source.path}: expected columns of features and one of targets, got {got}")
    return y_place, places


def _kinds(source, places, codes) -> dict[int, str]:
    """The kind of each column; those of `codes` are text."""
    kinds = source.kinds([place for place in places if place not in codes]) | dict.fromkeys(codes, TEXT)
    for place in places:
        if place not in kinds:
            found = "missing ones only; leave it out with --drop"
            raise ValueError(f"{source.path}: column {source.label(place)}: expected values, got {found}")
    return kinds


def parted(strata, validation, test, rng) -> np.ndarray:
    """The part of each row, of PARTS: shares of all rows at random, of each stratum as of all to within a row.

    The only row of a stratum is one to train on.
    """
    part = np.full(len(strata), TRAIN)
    several = np.bincount(strata)[strata] > 1
    for which, share in ((TEST, test), (VALIDATION, validation)):
        rest = rng.permutation(np.flatnonzero((part == TRAIN) & several))
        rest = rest[np.argsort(strata[rest], kind="stable")]
        wanted = min(round(share * len(strata)), len(rest))
        if wanted:  # evenly spaced, from a random start
            part[rest[((np.arange(wanted) + rng.random()) * (len(rest) / wanted)).astype(np.intp)]] = which
    return part


def _check_parts(part, y, classes, options):
    kept = part == TRAIN
    given = f"{options.validation:g}" + f" and --test {options.test:g}" * bool(options.test)
    for name, share, which in (("validation", options.validation, VALIDATION), ("test", options.test, TEST)):
        if share and which not in part:
            raise ValueError(f"--{name}: expected a share that holds a row out, got {share:g} of {len(part)} rows")
    if not kept.any():
        raise ValueError(f"--validation: expected a share that leaves a row to train on, got {given}")
    if classes is not None:
        counts = np.bincount(y[kept], minlength=len(classes))
        if not counts.all():
            label = classes[int(counts.argmin())]
            raise ValueError(f"--validation: expected a share that leaves a row of class {label}, got {given}")


def _target(name, y, task, classes) -> Target:
    """What to predict, by the targets of the rows to train on: values are standardized."""
    if task == CLASSIFY:
        return Target(name, classes)
    if task != REGRESS:
        return Target(name, link="log")
    return Target(name, mean=float(y.mean()), deviation=float(y.std()) or 1.0)


class _Numbers:
    """Columns of numbers on their way into their features of X.

    Attributes
    ----------
    center, scale : ndarray, shape (features,)
        What X holds is (number - center) * scale; 0 and 1 of other features.
    counting : ndarray of bool, shape (columns,)
        Whether each number has been one more than that of the row before.
    """

    def __init__(self, X, places, features):
        self.X, self.places, self.features = X, places, np.array(features, np.intp)
        self.center, self.scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        self.unknown = np.full(len(places), True)  # columns of which no number has been seen
        self.counting, self.last = np.full(len(places), True), None

    def read(self, source, place_of, impute) -> None:
        """Write the rows of a source to their places, NaN where a number is missing and may be."""
        start = 0
        for block in source.blocks(self.places, []):
            check_range(block, self.places, LIMIT)
            bad = np.isnan(block.numbers)
            if bad.any() and not impute:
                row, j = np.argwhere(bad)[0]
                raise missing_value(block, int(row), self.places[j])
            for j in np.flatnonzero(self.unknown & ~bad.all(axis=0)):
                self.center[self.features[j]], self.scale[self.features[j]] = _center_and_scale(block.numbers[:, j])
                self.unknown[j] = False
            self._count(block.numbers)
            rows = place_of[start : start + block.rows]
            start += block.rows
            if len(rows) == block.rows:
                self._write(block, rows)
        if start != len(self.X):
            n = len(self.X)
            raise ValueError(f"{source.path}: expected the {n} rows it had at first, but the file has changed since")

    def _count(self, numbers):
        steps = np.diff(numbers if self.last is None else np.vstack([self.last, numbers]), axis=0)
        self.counting &= (steps == 1).all(axis=0)
        self.last = numbers[-1]

    def _write(self, block, rows):
        at = self.features
        with np.errstate(over="ignore"):
            values = ((block.numbers - self.center[at]) * self.scale[at]).astype(np.float32)
        if np.isinf(values).any():
            row, j = np.argwhere(np.isinf(values))[0]
            others = f"{self.center[at[j]]:g} ± {1 / self.scale[at[j]]:.3g}"
            raise ValueError(
                f"{block.where(int(row), self.places[j])}: expected a number of the size of others, within {others}, "
                f"got {block.numbers[row, j]:g}; take logarithms"
            )
        if len(at) == self.X.shape[1]:
            self.X[rows] = values
        else:
            self.X[rows[:, None], at] = values


def _center_and_scale(column) -> tuple[float, float]:
    """The median of numbers, and one over the power of two above their largest distance from it."""
    column = column[~np.isnan(column)]
    center = float(np.median(column))
    with np.errstate(over="ignore"):
        far = min(float(np.abs(column - center).max()), 2.0**1000)
    return center, 2.0 ** -int(np.frexp(far)[1]) if far > 2.0**-1000 else 1.0


def _fill_in(source, numbers, X, n_train, center, scale):
    """Put medians of the rows to train on in the place of missing numbers, and into the columns."""
    for place, j, column in numbers:
        values = X[:, j]
        bad = np.isnan(values)
        kept = values[:n_train][~bad[:n_train]]
        if not len(kept):
            found = "missing ones only; leave it out with --drop"
            raise ValueError(f"{source.path}: column {source.label(place)}: expected values to train on, got {found}")
        column.median = float(np.median(kept)) / float(scale[j]) + float(center[j])
        values[bad] = (column.median - center[j]) * scale[j]


def _standardize(X, n_train, writer) -> tuple[np.ndarray, np.ndarray]:
    """Standardize columns of numbers in place, by their first rows; mean and scale of all features in the file's units.

    What `writer` has done already is part of both.
    """
    mean, deviation = column_statistics(X[:n_train])
    of_categories = np.ones(X.shape[1], bool)
    of_categories[writer.features] = False
    mean[of_categories] = 0
    factor = 1 / np.where(of_categories | (deviation == 0), 1, np.maximum(deviation, SMALLEST))
    for start in range(0, len(X), ROWS):
        X[start : start + ROWS] = (X[start : start + ROWS] - mean) * factor
    return writer.center + mean / writer.scale, writer.scale * factor
