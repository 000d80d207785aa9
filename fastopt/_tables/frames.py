"""Parquet and Feather files, read whole through pandas or polars, whichever is installed."""

import contextlib
import json

import numpy as np

from fastopt._forks import importing
from fastopt._tables.fields import DATES_ADVICE
from fastopt._tables.source import NUMBER, TEXT, Block, Source, check_names

ROWS = 4096  # of a block
FORMATS = {".parquet": "parquet", ".feather": "feather"}


class Frame(Source):
    """A file of typed columns: numbers, text or categories, bools as the words True and False.

    Raises
    ------
    ImportError
        Neither pandas nor polars can read it.
    ValueError
        It is damaged, or names do not differ.
    """

    def __init__(self, path, fields, suffix):
        self.path, self.fields = path, fields
        self.columns = _read(path, FORMATS[suffix])
        self.names = [str(name) for name, _ in self.columns]
        self.width = len(self.names)
        check_names(path, self.names)
        self.rows = len(self.columns[0][1]) if self.columns else 0
        if not self.rows:
            raise ValueError(f"{path}: expected rows of numbers or text, got none")

    def kinds(self, places):
        kinds = {}
        for place in places:
            values = self.columns[place][1]
            if isinstance(values, str):
                raise ValueError(f"{self.path}: column {self.label(place)}: expected numbers or text, got {values}")
            kinds[place] = TEXT if isinstance(values, list) else NUMBER
        return kinds

    def blocks(self, numbers, words):
        kinds = self.kinds([*numbers, *words])
        for place in numbers:
            if kinds[place] == TEXT:
                raise ValueError(f"{self.path}: column {self.label(place)}: expected numbers, got text")
        for start in range(0, self.rows, ROWS):
            rows = slice(start, min(start + ROWS, self.rows))
            values = np.empty((rows.stop - start, len(numbers)))
            for j, place in enumerate(numbers):
                values[:, j] = self.columns[place][1][rows]
            values = self.fields.without_missing(values)
            yield Block(len(values), values, [self._words(place, rows) for place in words], self._where(start))

    def _words(self, place, rows):
        values = self.columns[place][1][rows]
        return self.fields.words(values if isinstance(values, list) else map(repr, values.tolist()))

    def _where(self, start):
        return lambda row, place: f"{self.path}: row {start + row + 1}, column {self.label(place)}"


def _read(path, kind):
    """(name, values) of every column: an array of numbers, a list of text, "" where none is, or a word for others."""
    with importing, contextlib.suppress(ImportError):
        import pandas

        return _with_pandas(pandas, path, kind)
    with importing, contextlib.suppress(ImportError):
        import polars

        return _with_polars(polars, path, kind)
    raise ImportError(f"{path}: expected pandas with pyarrow, or polars, to read a .{kind} file; pip install polars")


def _with_pandas(pandas, path, kind):
    with _translated(path, kind):
        frame = getattr(pandas, f"read_{kind}")(path)
    columns = []
    for name, column in frame.items():
        types = pandas.api.types
        missing = column.isna()
        if types.is_numeric_dtype(column) and not (types.is_bool_dtype(column) or types.is_complex_dtype(column)):
            whole = types.is_integer_dtype(column) and not missing.any()
            kind = (np.uint64 if types.is_unsigned_integer_dtype(column) else np.int64) if whole else np.float64
            values = column.to_numpy(kind, **({} if whole else {"na_value": np.nan}))
        elif column.dtype == object and types.infer_dtype(column, skipna=True) == "decimal":
            values = column.to_numpy(np.float64, na_value=np.nan)
        elif (
            types.is_string_dtype(column)
            or types.is_bool_dtype(column)
            or isinstance(column.dtype, pandas.CategoricalDtype)
            or column.dtype == object
        ):
            values = _texts(column.astype(object).where(~missing, None))
        else:
            dates = types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column)
            values = _no_kind(dates, column.dtype)
        columns.append((name, values))
    return columns


def _with_polars(polars, path, kind):
    with _translated(path, kind):
        frame = polars.read_parquet(path) if kind == "parquet" else polars.read_ipc(path)
        if kind == "parquet" and hasattr(polars, "read_parquet_metadata"):  # versions before 1.20 have none
            stored = json.loads(polars.read_parquet_metadata(path).get("pandas", '{"index_columns": []}'))
            index = [name for name in stored["index_columns"] if name in frame.columns]
            frame = frame.drop(index)  # which pandas takes for the names of rows
    columns = []
    for column in frame.iter_columns():
        dtype = column.dtype
        if dtype in (polars.String, polars.Categorical, polars.Enum, polars.Boolean):
            values = _texts(column.to_list())
        elif dtype.is_numeric():
            whole = dtype.is_integer() and not column.null_count()
            values = column.to_numpy() if whole else column.cast(polars.Float64).fill_null(np.nan).to_numpy()
        else:
            values = _no_kind(dtype.is_temporal(), dtype)
        columns.append((column.name, values))
    return columns


def _texts(values):
    """A list of stripped text, empty for None; a word for a column of other objects."""
    texts = []
    for value in values:
        if not (value is None or isinstance(value, str | bool | np.bool_ | int | float)):
            return _no_kind(hasattr(value, "isoformat"), type(value).__name__)
        texts.append("" if value is None else str(value).strip())
    return texts


def _no_kind(dates, dtype) -> str:
    return f"dates or times; {DATES_ADVICE}" if dates else f"{dtype}; leave it out with --drop"


@contextlib.contextmanager
def _translated(path, kind):
    """Whatever the readers raise for bytes that are none, as one ValueError."""
    try:
        yield
    except (ImportError, TypeError, AttributeError):  # of the library, whatever the file
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = f"expected a .{kind} file, got one that is damaged or of another kind"
        raise ValueError(f"{path}: {text} ({' '.join(str(error).split())[:200]})") from None
