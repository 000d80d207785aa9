"""The rows of a generalized linear model: dense columns, and sparse ones by their entries.

Categorical codes and SciPy's sparse matrices become one structure, entries: of each row the columns that are not 0, in
ascending order, with a value, or a 1. So no column of zeros and ones is ever made, and the kernel counts where it would
multiply. What is a column of indices is a copy, checked once: whoever holds the original cannot lead the kernel astray.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastopt._arrays import as_numbers
from fastopt._forks import importing
from fastopt._numbers import whole_number

SLICE = 1 << 23  # elements of X that NumPy works on at a time: an interrupt waits for one
MOST_COLUMNS = 2**31 - 3  # of entries, which are int32, and two more inside


class Entries(NamedTuple):
    """Sparse columns by what is not 0 in them; the first four are what the kernel takes."""

    columns: np.ndarray  # (e,), int32, ascending in each row; m + 1 for none
    values: np.ndarray | None  # (e,), float64, or ones
    starts: np.ndarray | None  # (n + 1,), int64: where the entries of a row start, or each row has as many
    m: int
    each: int

    def of_rows(self, rows) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
        """The entries of rows: their places among the rows, columns, values."""
        starts, counts = rows * self.each, np.full(len(rows), self.each)
        if self.starts is not None:
            starts, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        places = np.repeat(np.arange(len(rows)), counts)
        at = np.arange(len(places)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        return places, self.columns[at], 1.0 if self.values is None else self.values[at]

    def rows_at(self, at) -> np.ndarray:
        """The rows whose entries stand there."""
        return at // self.each if self.starts is None else np.searchsorted(self.starts, at, side="right") - 1

    def column(self, j, n) -> np.ndarray:
        """A column, (n,)."""
        out, at = np.zeros(n), np.flatnonzero(self.columns == j)
        out[self.rows_at(at)] = 1.0 if self.values is None else self.values[at]
        return out

    def sums(self, squares=None) -> np.ndarray:
        """Sums of each column, (m,), of numbers (e,) in place of the ones."""
        return np.bincount(self.columns, squares, self.m + 2)[: self.m]

    def times(self, coef, n) -> np.ndarray:
        """The product with coef (k, m), (n, k)."""
        table = np.zeros((self.m + 2, len(coef)))
        table[: self.m] = coef.T
        if self.starts is None:
            out = np.zeros((n, len(coef)))
            for column in self.columns.reshape(n, self.each).T:
                out += table[column]
            return out
        with importing:
            from scipy.sparse import csr_array

        values = np.ones(len(self.columns)) if self.values is None else self.values
        return csr_array((values, self.columns, self.starts), shape=(n, self.m + 2)) @ table


def entries_of_codes(codes, levels) -> tuple[Entries, int]:
    """Categorical codes as entries, and how many rows there are."""
    codes = as_numbers("codes", codes, "integer codes")
    if codes.dtype.kind not in "iu":
        raise TypeError(
            f"codes: expected integers, got {codes.dtype}; number labels by numpy.unique(..., return_inverse=True)"
        )
    if codes.ndim != 2:
        raise ValueError(f"codes: expected shape (n, c), got {codes.shape}; pass codes.reshape(-1, 1) for one column")
    n, c = codes.shape
    least, most = (codes.min(axis=0), codes.max(axis=0)) if n else (np.zeros(c, int), np.full(c, -1))
    levels = most + 1 if levels is None else levels
    if not hasattr(levels, "__len__"):
        raise TypeError(f"levels: expected a list of whole numbers, one for each column of codes, got {levels!r}")
    if len(levels) != c:
        raise ValueError(f"levels: expected one for each of {c} columns of codes, got {len(levels)}")
    levels = [whole_number(f"levels[{j}]", m, 0, MOST_COLUMNS) for j, m in enumerate(levels)]
    for j in range(c):
        if least[j] < -1 or most[j] >= levels[j]:
            expected = f"codes from -1, for no coefficient, to {levels[j] - 1}"
            got = least[j] if least[j] < -1 else most[j]
            raise ValueError(f"codes: expected {expected} in column {j}, got {got}")
    m = sum(levels)
    if m > MOST_COLUMNS:
        raise ValueError(f"levels: expected at most {MOST_COLUMNS} in all, got {m}")
    columns = codes.astype(np.int32, order="C")
    columns += np.cumsum([0, *levels])[:-1].astype(np.int32)
    if c and least.min() < 0:
        columns[codes < 0] = m + 1
    return Entries(columns.reshape(-1), None, None, m, c), n


def entries_of_matrix(matrix) -> tuple[Entries, int]:
    """A sparse matrix as entries, in order and each place once, and how many rows there are."""
    if not hasattr(matrix, "tocsr"):
        raise TypeError(f"sparse: expected a SciPy sparse matrix or array, got {type(matrix).__name__}")
    if matrix.dtype.kind not in "biuf":
        raise TypeError(f"sparse: expected real numbers, got dtype {matrix.dtype}")
    if matrix.ndim != 2 or matrix.shape[1] > MOST_COLUMNS:
        raise ValueError(f"sparse: expected shape (n, m), m at most {MOST_COLUMNS}, got {matrix.shape}")
    with importing:
        from scipy.sparse import csr_array

    matrix = matrix.tocsr()
    parts = (matrix.data.astype(np.float64), matrix.indices.copy(), matrix.indptr.astype(np.int64))
    matrix = csr_array(parts, shape=matrix.shape)
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(f"sparse: expected indices that lie in the matrix, got others ({error})") from None
    matrix.sum_duplicates()
    values = None if (matrix.data == 1).all() else matrix.data
    columns, starts = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int64)
    return Entries(columns, values, starts, matrix.shape[1], 0), matrix.shape[0]


class Design:
    """Rows of dense columns, and of categorical codes or a sparse matrix, for `newton.glm` and its predictions.

    Parameters
    ----------
    dense : array_like, shape (n, d), optional
        float32 is read as it is; other dtypes are converted to float64.
    codes : array_like, shape (n, c), integers, optional
        Categorical columns. Level ``codes[i, j]`` of column j, from 0 on, has a coefficient of its own, as a column of
        zeros and ones would; -1 has none: it is the reference level.
    levels : sequence of int, length c, optional
        How many coefficients each column of codes has; by default the largest code and one. Give it where rows to
        predict may lack a level.
    sparse : SciPy sparse matrix or array, shape (n, m), optional
        In place of `codes`. Entries in any order, several of one place, which are added up, and zeros are taken.

    Attributes
    ----------
    n, d : int
        Rows, and columns: the dense ones, then those of codes, column by column, or of the sparse matrix.

    Raises
    ------
    TypeError, ValueError
        Nothing given, or codes and a sparse matrix; numbers of rows that differ; codes that are no integers, below -1
        or not below their levels; a sparse matrix whose indices lie outside.

    Notes
    -----
    With an intercept and no penalty, leave one level of each column of codes without a coefficient: all of them add up
    to a constant.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> colors = np.array([[-1], [0], [1], [-1], [0], [1]])  # red, the reference level, green, blue
    >>> design = fo.newton.Design(codes=colors)
    >>> fit = fo.newton.glm(design, [1.0, 2.0, 4.0, 1.0, 2.0, 4.0], "gaussian", l2=0.0)
    >>> fit.coef.round(6), round(fit.intercept, 6)
    (array([1., 3.]), 1.0)
    >>> fit.predict(fo.newton.Design(codes=[[1]], levels=[2])).round(6)
    array([4.])
    """

    def __init__(self, dense=None, codes=None, levels=None, sparse=None):
        if dense is None and codes is None and sparse is None:
            raise ValueError("dense, codes, sparse: expected at least one of them, got None")
        if codes is not None and sparse is not None:
            raise ValueError("sparse: expected None beside codes, got both; pass the codes as columns of the matrix")
        if levels is not None and codes is None:
            raise ValueError(f"levels: expected None without codes, got {levels!r}")
        self.entries: Entries | None = None
        if codes is not None:
            self.entries, n = entries_of_codes(codes, levels)
        elif sparse is not None:
            self.entries, n = entries_of_matrix(sparse)
        self.dense = np.empty((n, 0)) if dense is None else as_floats("dense", dense)
        if self.entries is not None and len(self.dense) != n:
            what = "codes" if sparse is None else "sparse"
            raise ValueError(f"{what}: expected {len(self.dense)} rows, as dense has, got {n}")
        self.n, self.d = len(self.dense), self.dense.shape[1] + (self.entries.m if self.entries else 0)

    def __repr__(self):
        d = self.dense.shape[1]
        return f"Design({self.n} rows, {d} dense and {self.d - d} sparse columns)"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, ``(n, d)``."""
        return self.n, self.d

    def pieces(self, width) -> Iterator[tuple[int, int]]:
        """Runs of rows, of some SLICE elements."""
        rows = max(1, SLICE // max(1, width))
        return ((i, min(self.n, i + rows)) for i in range(0, self.n, rows))

    def rows(self, i, j, center=None, intercept=False):
        """Rows i to j about a center, with a 1 for an intercept: an array, or, if there are entries, a sparse one."""
        d = self.dense.shape[1]
        dense, ones = self.dense[i:j].astype(np.float64), np.ones((j - i, int(intercept)))
        if center is not None:
            dense -= center[:d]
        if self.entries is None:
            return np.hstack([dense, ones])
        with importing:
            from scipy.sparse import csr_array, hstack

        places, columns, values = self.entries.of_rows(np.arange(i, j))
        seen, values = columns < self.entries.m, np.broadcast_to(values, columns.shape)
        entries = csr_array((values[seen], (places[seen], columns[seen])), shape=(j - i, self.entries.m))
        return hstack([csr_array(dense), entries, csr_array(ones)], format="csr")

    def column(self, j) -> np.ndarray:
        """A column, (n,), float64."""
        d = self.dense.shape[1]
        return (
            self.dense[:, j].astype(np.float64) if self.entries is None or j < d else self.entries.column(j - d, self.n)
        )

    def predictors(self, coef) -> np.ndarray:
        """``X @ coef.T`` of coef (k, d); (n, k)."""
        k, d = len(coef), self.dense.shape[1]
        out = np.zeros((self.n, k)) if self.entries is None else self.entries.times(coef[:, d:], self.n)
        for i, j in self.pieces(d) if d else ():
            part = (self.dense[i:j] @ (coef[:, :d].T if k > 1 else coef[0, :d])).reshape(-1, k)
            out[i:j] = part if self.entries is None else out[i:j] + part
        return out

    def mean_squares(self, center=None) -> np.ndarray:
        """Mean squares of the columns, the dense ones about a center; (d,)."""
        d, out = self.dense.shape[1], np.zeros(self.d)
        if center is None:
            out[:d] = np.einsum("ij,ij->j", self.dense, self.dense, dtype=np.float64)
        else:
            for i, j in self.pieces(d):
                out[:d] += ((self.dense[i:j] - center[:d]) ** 2).sum(axis=0)
        if self.entries is not None:
            out[d:] = self.entries.sums(None if self.entries.values is None else self.entries.values**2)
        return out / self.n

    def sizes(self, rows) -> np.ndarray:
        """The root mean squares of the sparse columns in some rows; (m,)."""
        if self.entries is None:
            return np.empty(0)
        _, columns, values = self.entries.of_rows(rows)
        largest = float(np.max(np.abs(values), initial=0)) or 1.0  # whose square need not be a number
        squares = None if self.entries.values is None else (values / largest) ** 2
        return largest * np.sqrt(self.entries._replace(columns=columns).sums(squares) / len(rows))

    def check_finite(self, what="column"):
        """Raise ValueError, naming the first row or column, if there is NaN or infinity."""
        bad = np.flatnonzero(~np.isfinite(self.dense).all(axis=0 if what == "column" else 1))
        if not bad.size and self.entries is not None and self.entries.values is not None:
            at = np.flatnonzero(~np.isfinite(self.entries.values))
            bad = self.entries.columns[at] + self.dense.shape[1] if what == "column" else self.entries.rows_at(at)
        if bad.size:
            raise ValueError(f"X: expected finite values, got NaN or infinity in {what} {bad.min()}")


def as_floats(name, X) -> np.ndarray:
    """A matrix of float32 or float64, in any layout."""
    X = as_numbers(name, X)
    if X.ndim != 2:
        raise ValueError(f"{name}: expected shape (n, d), got {X.shape}; pass {name}.reshape(-1, 1) for one column")
    return X.astype(X.dtype.newbyteorder("=") if X.dtype in (np.float32, np.float64) else np.float64, copy=False)


def as_design(X, d=None) -> Design:
    """Rows in any form as a Design: to fit, of at least one row and column; to predict, of d columns."""
    if not isinstance(X, Design):
        X = Design(sparse=X) if hasattr(X, "tocsr") else as_numbers("X", X)
    if len(X.shape) == 2 and (X.shape[1] == d if d is not None else X.shape[0] and X.shape[1]):
        return X if isinstance(X, Design) else Design(X)
    if d is not None:
        raise ValueError(f"X: expected shape (n, {d}), got {X.shape}")
    raise ValueError(
        f"X: expected shape (n, d), n and d at least 1, got {X.shape}; pass X.reshape(-1, 1) for one column"
    )
