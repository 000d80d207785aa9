"""Files: safetensors, written whole or not at all, read only if they are ours.

- Plain values are one JSON text in the file's metadata; its "kind" says what the file holds.
- A file is believed step by step: its header, its kind, then what it describes against the names, dtypes and
  shapes of its arrays (whoever reads it does that), and the arrays last. So nothing is allocated that the file
  does not hold, and nothing is read that will be refused.
- Arrays are read, not mapped: a file that another process cuts short is an error, not the end of the process.
- A save that is killed leaves its temporary file. A lock says whether its writer lives; the next save to the
  same name removes those of the dead.
"""

import errno
import fcntl
import json
import math
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastopt._arrays import aligned_zeros
from fastopt._numbers import whole_number

FORMAT = 1
DTYPES: dict[str, np.dtype] = {name: np.dtype(kind) for name, kind in (("F32", "f4"), ("F64", "f8"), ("U64", "u8"))}
MOST_HEADER = 100_000_000  # bytes: the limit of the safetensors library
MOST_DOCUMENT = MOST_HEADER // 4  # characters: within the header each may take two, and arrays are named besides
MOST_AXES = 64  # of a NumPy array
HOW = {
    "network": "nn.load reads it",
    "trainer": "Trainer.resume goes on from it, and nn.load reads its network",
    "optimizer": "load of an optimizer of that rule, over parameters of those shapes, reads it",
}
# what checks raise about values of a file that are not what they should be
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, FloatingPointError)


# ---------------------------------------------------------------- writing


def write(path, arrays: dict[str, np.ndarray], document: dict) -> None:
    """Write arrays and a JSON document to `path`, as `write_bytes` does."""
    from safetensors.numpy import save

    text = _text(path, document)
    content = save({name: np.asarray(a, order="C") for name, a in arrays.items()}, metadata={"fastopt": text})
    write_bytes(path, content)


def write_pieces(path, arrays: dict[str, tuple[tuple[int, ...], np.dtype]], pieces: Iterable, document: dict) -> None:
    """Write a file likewise of which no process holds all arrays.

    `arrays` says shape and dtype of each, `pieces` yields their bytes from the first to the last.
    """
    names, header, end = {dtype: name for name, dtype in DTYPES.items()}, {}, 0
    for name, (shape, dtype) in arrays.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = _text(path, document)
    content = json.dumps({"__metadata__": {"fastopt": text}, **header}).encode()
    content += b" " * (-len(content) % 8)
    write_bytes(path, chain([len(content).to_bytes(8, "little"), content], pieces))


def _text(path, document) -> str:
    """The document of a file, as JSON; ValueError where the header that it goes into would be too long to be read."""
    text = json.dumps({"format": FORMAT, **document}, sort_keys=True)
    if len(text) > MOST_DOCUMENT:
        raise ValueError(f"{path}: expected metadata and layers of at most {MOST_DOCUMENT} characters, got {len(text)}")
    return text


def write_bytes(path, content: bytes | Iterable[bytes]) -> None:
    """Write a file, whole or not at all; its content may come in pieces.

    A file that is there keeps its mode and, where that is allowed, its owner; through a symbolic link its target is
    replaced. A device or a pipe is written to.
    """
    path, pieces = Path(path), [content] if isinstance(content, bytes) else content
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    target = Path(os.path.realpath(path))
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if old is None or (stat.S_ISREG(old.st_mode) and target.exists()):
        _replace(target, pieces, old)
    else:  # also a file that has lost its name, such as one behind /dev/stdout
        with path.open("wb") as stream:
            stream.writelines(pieces)


def _replace(path, pieces, old) -> None:
    """Put a file of these pieces in the place of `path`: a temporary file, synced, then renamed."""
    _remove_abandoned(path)
    temporary, descriptor = _new_temporary(path, old)
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(descriptor)
            os.replace(temporary, path)  # while the lock is held
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(PermissionError):  # a folder that may be written but not read
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _new_temporary(path, old) -> tuple[Path, int]:
    """A new file beside `path`, locked, with the mode and the owner of the `old` one; its name and descriptor."""
    while True:
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
        mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # not taken for abandoned before it was locked
                if old is not None:
                    _copy_rights(descriptor, old)
                return temporary, descriptor
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise


def _copy_rights(descriptor, old) -> None:
    """Give an open file group, owner and mode of the one it will replace, as far as system and user may."""
    for owner in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(OSError):
            os.fchown(descriptor, *owner)
    with suppress(OSError):  # it was made with no more rights than these
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _remove_abandoned(path) -> None:
    """Remove the temporary files of saves to `path` whose writer is gone, as far as that is allowed."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.part")
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if ours.fullmatch(entry.name):
                with suppress(OSError), open(entry.path, "rb") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)


# ---------------------------------------------------------------- reading


class Stored(NamedTuple):
    """An array of a file, as the header states it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # of its bytes in the file


class File:
    """A file of ours, open for reading; for use in a ``with``.

    Parameters
    ----------
    path : path-like
    *kinds : str
        What the document's "kind" may be.

    Attributes
    ----------
    document : dict
        The JSON document; only "format" and "kind" have been checked.
    stored : dict of str to Stored
        Shape and dtype of every array. They are consistent with the size of the file, and no array has been read.

    Raises
    ------
    OSError
        The file is missing or unreadable.
    ValueError
        It is damaged, of another program, or of another kind.
    """

    def __init__(self, path, *kinds):
        self.path = Path(path)
        mode = self.path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{self.path}: expected a regular file, got a device or a pipe")
        self._stream = self.path.open("rb")  # a folder: the usual OSError
        try:
            metadata, entries, start = self._read_header()
            self.document = self._read_document(metadata, kinds)
            self.stored = {name: self._checked(name, entry, start) for name, entry in entries.items()}
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stream.close()

    def array(self, name, rows=None) -> np.ndarray:
        """A new array, aligned, with what the file holds under this name, or with a slice of its rows."""
        shape, dtype, start = self.stored[name]
        if rows is not None:
            start += rows.start * math.prod(shape[1:]) * dtype.itemsize
            shape = (rows.stop - rows.start, *shape[1:])
        array = aligned_zeros(shape, dtype)
        self._stream.seek(start)
        if self._stream.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise ValueError(f"{self.path}: expected all bytes of {name}, but the file was cut short meanwhile")
        return array

    def _read_header(self) -> tuple[dict, dict, int]:
        """Metadata, the entries of the arrays, which fill the file, and where in the file they start."""
        size = os.fstat(self._stream.fileno()).st_size
        try:
            length = int.from_bytes(self._stream.read(8), "little")
            if not 2 <= length <= min(size - 8, MOST_HEADER):
                raise ValueError(f"{size} bytes with a header of {length}")
            header = json.loads(self._stream.read(length).decode())
            metadata = header.pop("__metadata__", {})
            spans = sorted(_span(entry) for entry in header.values())
            starts, stops = [start for start, _ in spans], [stop for _, stop in spans]
            if [*starts, size - 8 - length] != [0, *stops]:
                raise ValueError(f"arrays that do not fill the {size - 8 - length} bytes after the header")
            return metadata, header, 8 + length
        except MALFORMED as error:
            raise ValueError(
                f"{self.path}: expected a safetensors file, got one that is damaged or of another kind ({why(error)})"
            ) from error

    def _read_document(self, metadata, kinds) -> dict:
        text = metadata.get("fastopt") if isinstance(metadata, dict) else None
        if not isinstance(text, str):
            raise ValueError(
                f"{self.path}: expected a file written by fastopt, got a safetensors file of another program"
            )
        try:
            document = json.loads(text)
            number, kind = whole_number("format", document["format"]), document["kind"]
            if number != FORMAT or kind not in tuple(HOW):
                raise ValueError(f"expected format {FORMAT} and one of {', '.join(HOW)}, got {number} and {kind!r}")
        except MALFORMED as error:
            raise ValueError(f"{self.path}: its fastopt description is damaged ({why(error)})") from error
        if kind not in kinds:
            raise ValueError(f"{self.path}: expected a file of kind {' or '.join(kinds)}, got {kind}; {HOW[kind]}")
        return document

    def _checked(self, name, entry, start) -> Stored:
        try:
            if entry["dtype"] not in tuple(DTYPES):
                raise ValueError(f"expected an array of {', '.join(DTYPES)}, got {entry['dtype']!r}; convert it first")
            (first, stop), dtype, axes = _span(entry), DTYPES[entry["dtype"]], entry["shape"]
            shape = tuple(whole_number("shape", n, 0) for n in axes[:MOST_AXES])
            if len(axes) > MOST_AXES or math.prod(shape) * dtype.itemsize != stop - first:
                raise ValueError(f"expected a shape of {stop - first} bytes of {dtype}, got {axes}")
            return Stored(shape, dtype, start + first)
        except MALFORMED as error:
            raise ValueError(f"{self.path}: {name}: {why(error)}") from error


def _span(entry) -> tuple[int, int]:
    """First byte of an array, and the one after its last, counted from the end of the header."""
    start, stop = (whole_number("data_offsets", n, 0) for n in entry["data_offsets"])
    return start, stop


def why(error) -> str:
    """What was wrong, in words that fit into a message, whatever the file said."""
    text = str(error)
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    return text if len(text) <= 400 else text[:400] + "..."


def read(path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """All arrays and the document of a file of this kind; OSError or ValueError, as `File`.

    For what is loaded into something that lives already: the arrays are new, so that everything is read and checked
    before anything changes. The document's values are as found: check numbers with `fastopt._numbers`, names and
    shapes of a network's arrays with `fastopt.nn.files.check_arrays`, and turn MALFORMED into a ValueError with `why`.
    """
    with File(path, kind) as file:
        return {name: file.array(name) for name in file.stored}, file.document
