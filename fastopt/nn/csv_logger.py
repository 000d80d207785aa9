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
        return open(self.path, "a+b")

    def on_epoch_end(self, trainer, history) -> None:
        """Add the line of the epoch that has ended."""
        lists = {"lr": history.lr, "seconds": history.seconds, **history}
        columns, line = _line(["epoch", *lists]), _line([trainer.epoch, *(values[-1] for values in lists.values())])
        with self._opened() as file:
            file.seek(0)
            found = file.read()
            if not (found.startswith(columns) or columns.startswith(found)):  # a crash may have cut the columns short
                wanted, got = (text.partition(b"\n")[0].decode(errors="replace") for text in (columns, found))
                raise ValueError(f"{self.path}: expected the columns {wanted!r}, got {got[:200]!r}; name a new file")
            whole = found.rfind(b"\n") + 1 if found.startswith(columns) else 0
            if whole < len(found):
                file.truncate(whole)
            file.write(line if whole else columns + line)


def _line(fields) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()
