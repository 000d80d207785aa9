"""Tables of the command line: data files, what their columns hold, and what a network takes of them.

- source.py says what a file is to its readers; text.py, frames.py and archives.py are the kinds of files, fields.py
  what stands in a field of text.
- training.py reads a table to train on, with survey.py; columns.py is what the model file says of it, and reads rows
  to predict.
"""

from pathlib import Path

from fastopt._tables.archives import Archive
from fastopt._tables.fields import Fields
from fastopt._tables.frames import FORMATS, Frame
from fastopt._tables.text import Reading, Text

TEXTS = (".csv", ".tsv")


def open_table(path, reading=None, *, with_target):
    """The `Source` of a data file by its suffix; `with_target` says whether an archive's y is wanted."""
    reading = reading or Reading()
    suffix = Path(path).suffix.lower()
    if suffix not in (*TEXTS, *FORMATS, ".npz"):
        expected = ", ".join((*TEXTS, *FORMATS)) + " or .npz"
        raise ValueError(f"{path}: expected a {expected} file, got {suffix or 'no suffix'}")
    if Path(path).exists() and not Path(path).is_file():  # a pipe could not be read twice
        raise ValueError(f"{path}: expected a regular file")
    if suffix in TEXTS:
        return Text(path, reading)
    told = [name for name, value in zip(reading._fields, reading, strict=True) if value != getattr(Reading(), name)]
    for name in told:
        if name != "missing":
            raise ValueError(f"--{name}: expected a {' or '.join(TEXTS)} file, got {path}")
    fields = Fields(missing=reading.missing)
    return Archive(path, fields, with_target) if suffix == ".npz" else Frame(path, fields, suffix)
