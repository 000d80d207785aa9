"""How `Trainer.fit` tells where it stands: the history that it returns, a progress bar, a warning.

The bar is tqdm's, which is loaded only where one is asked for.
"""

import time
import warnings

from fastopt._forks import importing


class History(dict):
    """Lists by name, one number an epoch of this call: loss, val_loss and, for classes, val_accuracy; and metrics.

    Attributes
    ----------
    lr : list of float
        Learning rate of each epoch's last update, of the first parameter group. With `parallel.ParameterServer` only
        rank 0 knows the number of the update, by which schedules go.
    seconds : list of float
        Wall time of each epoch with its validation, without what callbacks do after it. An epoch that was interrupted
        took the time of all its parts, also where a file lies between them.
    best_epoch : int or None
        Index of the epoch with the lowest validation loss. None without validation, and where an interrupted
        `fit` that this call went on with had the best epoch.
    best_loss : float or None
        The loss of the best epoch, whichever call had it.
    staleness : dict or None
        Of `parallel.ParameterServer`: how many gradients were applied so many updates late.
    """

    best_epoch: int | None = None
    best_loss: float | None = None
    staleness: dict[int, int] | None = None

    def __init__(self, *args, **lists):
        super().__init__(*args, **lists)
        self.lr: list[float] = []
        self.seconds: list[float] = []

    def add(self, measured, best, lr, seconds) -> None:
        """Append what one epoch measured, by name; `best` is the best epoch so far, of whichever call."""
        self.lr.append(lr)
        self.seconds.append(seconds)
        for name, value in measured.items():
            self.setdefault(name, []).append(value)
        if "val_loss" in measured:
            since = len(self["val_loss"]) - 1 - best.waited
            self.best_epoch, self.best_loss = since if since >= 0 else None, best.loss


class Stopwatch:
    """Wall time of the epoch under way: what the blocks that it was entered for have taken together."""

    def __init__(self, seconds=0.0):
        self._before, self._start = seconds, None

    @property
    def seconds(self) -> float:
        """The time so far, also within a block."""
        return self._before + (0.0 if self._start is None else time.perf_counter() - self._start)

    def __enter__(self):
        self._start = time.perf_counter()

    def __exit__(self, *exception):
        self._before, self._start = self.seconds, None

    def take(self) -> float:
        """The time of an epoch that is over; the next one starts from 0."""
        seconds, self._before = self._before, 0.0
        return seconds


def load_tqdm():
    """The class of the bar; ImportError says what to do without it."""
    try:
        with importing:
            from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm; pip install tqdm, or pass progress=False") from None
    return tqdm


class ProgressBar:
    """A bar over epochs, or nothing where `progress` is false."""

    def __init__(self, progress, epochs):
        self.bar, self.done = None, 0.0
        if progress:
            self.bar = load_tqdm()(
                total=epochs,
                unit="epoch",
                bar_format="{l_bar}{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]",
            )

    def rows(self, part):
        """A part of the epoch's rows has been trained on."""
        if self.bar is not None:
            self.bar.update(part)
            self.done += part

    def epoch(self, history):
        """An epoch has ended; the last number of each list of `history` is shown."""
        if self.bar is not None:
            self.bar.update(1 - self.done)
            self.done = 0.0
            self.bar.set_postfix({name: f"{values[-1]:.4f}" for name, values in history.items()})

    def close(self):
        """Leave the bar on the screen as it is."""
        if self.bar is not None:
            self.bar.close()


def warn_of_waiting_gradients(optimizer):
    """Warn the caller of `fit` of gradients that have been accumulated and have had no update."""
    if optimizer.accumulated:
        warnings.warn(
            f"accumulate: expected a multiple of {optimizer.accumulate} batches, an update each, got "
            f"{optimizer.accumulated} more; their gradients wait for the batches of the next fit or step",
            UserWarning,
            stacklevel=3,
        )
