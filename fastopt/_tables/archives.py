"""Archives of arrays: .npz files with X and y, of real numbers.

Nothing is ever unpickled, and what an array claims to be is checked before room is made for it.
"""

import contextlib
import errno
import math
import os
import zipfile

import numpy as np

from fastopt._tables.source import NUMBER, ROWS, Block, Source

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Archive(Source):
    """The arrays X (n, features) and, unless only features are wanted, y (n,), which is then the last column."""

    names = None
    is_archive = True

    def __init__(self, path, fields, with_target):
        self.path, self.fields = path, fields
        self.X = _read_array(path, "X", 2)
        self.features = self.width = self.X.shape[1]
        if with_target:
            self.y = _read_array(path, "y", 1)
            self.width += 1
            if len(self.y) != len(self.X):
                n = len(self.X)
                raise ValueError(f"{path}: expected y of shape ({n},), one target a row, got {self.y.shape}")

    def kinds(self, places):
        return dict.fromkeys(places, NUMBER)

    def blocks(self, numbers, words):
        whole = numbers == list(range(self.features))
        for start in range(0, len(self.X), ROWS):
            rows = slice(start, start + ROWS)
            values = self.X[rows] if whole else self.X[rows][:, [place for place in numbers if place < self.features]]
            values = self.fields.without_missing(values.astype(np.float64))
            yield Block(len(values), values, [self._words(place, rows) for place in words], self._where(start))

    def _words(self, place, rows):
        """Numbers as NumPy writes them, bools as 0 and 1."""
        values = self.X[rows, place] if place < self.features else self.y[rows]
        wide = {"f": np.float64, "u": np.uint64}.get(values.dtype.kind, np.int64)
        return self.fields.words(repr(value) for value in values.astype(wide).tolist())

    def _where(self, start):
        def where(row, place):
            of = f"X[{start + row}, {place}]" if place < self.features else f"y[{start + row}]"
            return f"{self.path}: {of}"

        return where


def _read_array(path, name, ndim) -> np.ndarray:
    """An array of a .npz file, of real numbers."""
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
        return np.lib.format.read_array(stream, allow_pickle=False)


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
