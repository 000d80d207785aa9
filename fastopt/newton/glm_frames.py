"""Data frames: named columns of numbers, and of categories as codes with a reference level, never one-hot columns.

A frame is what has `columns` and `dtypes`: pandas and polars, neither of which is imported unless the caller's frame is
of it. Columns of text, objects and categories have levels: in the order of the category type, else sorted; the first
one is the reference, which has no coefficient. Levels without a row do not take part. Columns of bool are numbers.
"""

from typing import NamedTuple

import numpy as np

from fastopt._arrays import as_numbers
from fastopt._forks import importing
from fastopt._labels import class_labels
from fastopt.newton.glm_design import Design, as_design

LEVELED = ("object", "category", "str", "large_string", "dictionary")  # types of pandas and of Arrow in pandas
INSTEAD = "pass numbers, such as the days since a date, or .astype(float) of decimals"
MISSING = "fill or drop missing values first"


class Column(NamedTuple):
    name: str
    levels: list | None  # of a column of categories; the reference first

    def coefficients(self) -> list[str]:
        """Names of its coefficients."""
        return [self.name] if self.levels is None else [f"{self.name}[T.{level}]" for level in self.levels[1:]]


def is_frame(X) -> bool:
    if type(X).__name__ == "LazyFrame":
        raise TypeError("X: expected a data frame, got a LazyFrame; pass X.collect()")
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def named_rows(X, names) -> tuple[list[Column] | None, Design]:
    """The columns of X, None if they have no names, and its rows."""
    if is_frame(X):
        if names is not None:
            raise ValueError(f"names: expected none for a data frame, whose columns have names, got {names!r}")
        columns, rows = read(X)
        return columns, as_design(rows)
    design = as_design(X)
    return None if names is None else as_columns(names, design.d), design


def as_columns(names, d) -> list[Column]:
    given = [names] if isinstance(names, str) or not hasattr(names, "__iter__") else list(names)
    if len(given) != d or not all(isinstance(name, str) for name in given) or len(set(given)) < d:
        raise ValueError(f"names: expected {d} different strings, one a column of X, got {names!r}")
    return [Column(str(name), None) for name in given]


def by_theta(columns) -> list[str] | None:
    """Names of the coefficients as theta has them: those of numbers first."""
    if columns is None:
        return None
    numbers_first = sorted(columns, key=lambda column: column.levels is not None)
    return [name for column in numbers_first for name in column.coefficients()]


def order(columns) -> slice | np.ndarray:
    """Where the coefficients of columns stand in theta, which has those of numbers first."""
    numbers = sum(column.levels is None for column in columns or ())
    if columns is None or numbers == len(columns):
        return slice(None)
    places: list[int] = []
    number, level = 0, numbers
    for column in columns:
        if column.levels is None:
            places.append(number)
            number += 1
        else:
            places += range(level, level + len(column.levels) - 1)
            level += len(column.levels) - 1
    return np.array(places)


def in_theta(values, columns) -> np.ndarray:
    """Values of the coefficients, (k, d), as theta has them."""
    placed = np.empty_like(values)
    placed[:, order(columns)] = values
    return placed


def read(X, columns=None) -> tuple[list[Column], np.ndarray | Design]:
    """The columns of a frame, and its rows: an array if all are numbers, a Design if some have levels.

    Given the columns of a fitted model, they are found by name and have its levels; others are ignored.
    """
    labels = by_name(X.columns)
    absent = [column.name for column in columns or () if column.name not in labels]
    if absent:
        raise ValueError(f"X: expected the columns that the model was fitted to, got none named {absent[0]!r}")
    if columns is None:
        columns = [Column(name, [] if has_levels(name, X[label]) else None) for name, label in labels.items()]
    if not columns:
        raise ValueError("X: expected at least one column, got a data frame without any")
    numbers = [column.name for column in columns if column.levels is None]
    if len(numbers) == len(columns):
        return columns, as_present(X, labels, numbers)
    dense = as_present(X, labels, numbers) if numbers else None
    known = [column for column in columns if column.levels is not None]
    codes, levels = np.empty((len(X), len(known)), np.int32, order="F"), {}
    for j, (name, old) in enumerate(known):
        codes[:, j], levels[name] = coded(name, X[labels[name]], old)
    columns = [Column(name, levels.get(name)) for name, _ in columns]
    return columns, Design(dense, codes, [len(found) - 1 for found in levels.values()])


def by_name(labels) -> dict:
    """The label of each column by its name, which is text."""
    found: dict = {}
    for label in labels:
        if str(label) in found:
            raise ValueError(f"X: expected columns of different names, got {str(label)!r} twice; rename one")
        found[str(label)] = label
    return found


def as_present(X, labels, names) -> np.ndarray:
    """Columns of numbers, all there and finite; a frame of them alone is an array already, or becomes one at once."""
    dense = as_numbers("X", X if names == list(labels) else X[[labels[name] for name in names]])
    with np.errstate(all="ignore"):
        if dense.dtype.kind != "f" or np.isfinite(dense.sum()):
            return dense
    bad = np.argwhere(~np.isfinite(dense))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"X[{names[column]!r}]: expected finite values, got {dense[row, column]} in row {row}; {MISSING}"
        )
    return dense


# ---------------------------------------------------------------- columns of categories


def has_levels(name, column) -> bool:
    """Whether a column is one of categories: of a category type, text, or objects among which there is text."""
    dtype = column.dtype
    if hasattr(dtype, "is_numeric"):  # polars
        number = dtype.is_numeric() or str(dtype) == "Boolean"
        levels = str(dtype).startswith(("String", "Categorical", "Enum"))
    else:
        number = dtype.kind in "biufc" and not str(dtype).startswith("decimal")
        levels = str(dtype).startswith(LEVELED) or dtype.kind in "UST"
    if not (number or levels):
        raise TypeError(f"X[{name!r}]: expected numbers, text or categories, got {dtype}; {INSTEAD}")
    if str(dtype) == "object":
        return any(isinstance(value, str | bytes) for value in column)
    return levels


def factorized(name, column) -> tuple[np.ndarray, list]:
    """The code of each row, and the levels: in the order of the category type, else sorted."""
    if hasattr(column, "cat") and hasattr(column.cat, "categories"):  # of pandas
        codes, levels = column.cat.codes.to_numpy(), list(column.cat.categories)
    elif hasattr(column, "factorize"):
        codes, found = column.factorize()
        codes, levels = in_order(name, codes, found)
    else:
        codes, levels = factorized_polars(name, column)
    if codes.min(initial=0) < 0:
        row = int(codes.argmin())
        raise ValueError(f"X[{name!r}]: expected a value in every row, got a missing one in row {row}; {MISSING}")
    return codes, levels


def in_order(name, codes, found) -> tuple[np.ndarray, list]:
    """Codes and levels, sorted."""
    levels, place = class_labels(f"X[{name!r}]", np.asarray(found, object), len(found), "categories")
    return np.append(place, -1)[codes], levels.tolist()


def factorized_polars(name, column) -> tuple[np.ndarray, list]:
    with importing:
        import polars

    if isinstance(column.dtype, polars.Enum):
        return column.to_physical().cast(polars.Int64).fill_null(-1).to_numpy(), column.dtype.categories.to_list()
    found = column.unique().drop_nulls().cast(polars.String)
    levels = sorted(found.to_list())
    codes = column.cast(polars.String).replace_strict(levels, range(len(levels)), default=-1, return_dtype=polars.Int64)
    return codes.to_numpy(), levels


def coded(name, values, levels) -> tuple[np.ndarray, list]:
    """The coefficient of each row, from 0 on, -1 for the reference level, and the levels.

    Those of a fitted model if there are any, else those that have rows.
    """
    codes, found = factorized(name, values)
    if not levels:
        levels = [found[i] for i in np.flatnonzero(np.bincount(codes, minlength=len(found)))]
        if len(levels) < 2:
            raise ValueError(f"X[{name!r}]: expected at least two levels, got {levels}; drop the column")
    unknown = len(levels)
    place = {level: code for code, level in enumerate(levels)}
    known = np.array([place.get(level, unknown) for level in found], np.int32) - 1
    codes = known[codes]
    if (known == unknown - 1).any() and (codes == unknown - 1).any():
        row = int(codes.argmax())
        level = found[factorized(name, values)[0][row]]
        raise ValueError(
            f"X[{name!r}]: expected one of the {len(levels)} levels that the model was fitted to, got {level!r} in row "
            f"{row}; drop such rows, or fit with rows of this level"
        )
    return codes, levels
