"""A log of training that any table program reads: one line an epoch."""

import csv
import io
import os


class CSVLogger:
    """A callback of `Trainer.fit` that adds a line to a CSV file after each epoch.

    Parameters
    ----------
    path : path-like
        Made if it is not there. Lines come after those that it has, as a run that goes on wants; for a run of its own
        name a new file.

    Raises
    ------
    OSError
        The file cannot be written: when the logger is made, and not after the first epoch.

    Notes
    -----
    Columns are epoch (counted from 1), lr and seconds (see `History`), then what `History` holds of the epoch: loss,
    metrics, val_loss and so on. Numbers have all their digits. A line is written in one piece and is in the file before
    the next epoch starts; one that a crash has cut short is taken out before the next is written. After a crash and
    `Trainer.resume`, epochs since the last `save` are there twice, equal but for their seconds.

    A file with other columns is a ValueError after the first epoch, which stays trained; the file stays as it is.

    On several ranks pass it on one: ``callbacks=fo.nn.CSVLogger(path) if rank == 0 else []``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    >>> path = pathlib.Path(tempfile.mkdtemp(), "log.csv")
    >>> trainer = fo.nn.Trainer(net, "mse", "sgd")
    >>> history = trainer.fit(np.eye(2), [1.0, 2.0], epochs=2, callbacks=fo.nn.CSVLogger(path))
    >>> lines = path.read_text().splitlines()
    >>> lines[0], len(lines)
    ('epoch,lr,seconds,loss', 3)
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        with self._opened():
            pass

    def _opened(self):
        return open(self.path, "a+", newline="", encoding="utf-8")

    def on_epoch_end(self, trainer, history) -> None:
        """Add the line of the epoch that has ended."""
        lists = {"lr": history.lr, "seconds": history.seconds, **history}
        columns = _line(["epoch", *lists])
        with self._opened() as file:
            file.seek(0)
            found = file.readline()
            if found.endswith("\n") and found != columns:
                raise ValueError(
                    f"{self.path}: expected the columns {columns.strip()}, got {found.strip()}; name a new file"
                )
            _cut_last_line(file)
            line = _line([trainer.epoch, *(values[-1] for values in lists.values())])
            file.write(line if found.endswith("\n") else columns + line)


def _line(fields) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _cut_last_line(file) -> None:
    """Take out a last line without its end."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.truncate(len(whole.encode()))
