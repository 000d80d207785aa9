"""What `Trainer.fit` is given: rows, batches, validation data and callbacks, checked, and the sizes of batches.

- Whatever is checked here and read later belongs to `fit`: classes, probabilities and weights are copies, so nothing
  that the caller does to his arrays meanwhile can make them unfit. Values of X and of a regression's targets are read
  where they lie.
- `training` is the compiled training of a network (`Sequential.bind`), which knows what its kernels take.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fastopt._arrays import require_finite
from fastopt._kernels import core
from fastopt._numbers import whole_number
from fastopt.nn.losses import is_callable, loss_name, targets_of
from fastopt.schedules import Schedule

AHEAD = 1024  # batches whose sizes are worked out at once
ABANDON = "call abandon_fit() to drop the rest of it"


# ---------------------------------------------------------------- checks


def checked_numbers(epochs, batch_size, patience, validation):
    """Epochs, batch size and patience as whole numbers; the size may be a schedule, the patience None."""
    epochs = whole_number("epochs", epochs)
    if not isinstance(batch_size, Schedule):
        batch_size = whole_number("batch_size", batch_size)
    if patience is not None:
        patience = whole_number("patience", patience)
        if validation is None:
            raise ValueError("patience: expected validation data to watch, got none; pass validation=(Xv, yv)")
    return epochs, batch_size, patience


def checked_rows(training, loss, X, y, sample_weight, check_finite) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, targets and weights, checked and kept apart from the caller's."""
    x, targets, weights = training.check(X, y, sample_weight)
    if not len(x):
        raise ValueError("X: expected at least one row, got none")
    if is_callable(loss):
        targets = targets_of(targets, len(x))
    if check_finite:
        require_finite_batch(x, targets)
    by_value = loss_name(loss) in ("cross_entropy", "binary_cross_entropy")  # checked so, and not by shape alone
    targets = targets.copy() if by_value else targets.view()
    weights = None if weights is None else weights.copy()
    return training.check(x.view(np.ndarray), targets, weights)  # the copies: threads may have meddled


def checked_validation(training, loss, validation, check_finite):
    """The same of validation data, which need a row that counts."""
    if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
        raise TypeError(f"validation: expected (X, y) or (X, y, sample_weight), got {type(validation).__name__}")
    try:
        X, y, sample_weight = (*validation, None)[:3]
        data = checked_rows(training, loss, X, y, sample_weight, check_finite)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None
    _, targets, weights = data
    if weights is not None and not weights.any():
        raise ValueError("validation: expected a sample_weight above 0, got none")
    label = ignored_label(loss)
    if targets.dtype.kind == "i" and loss_name(loss) == "cross_entropy" and (targets == label).all():
        raise ValueError(f"validation: expected rows with a class, got only the ignored label {label}")
    return data


def checked_batches(batches, sample_weight, epochs):
    """An iterable of batches that can start anew as often as there are epochs."""
    if not isinstance(batches, Iterable) or isinstance(batches, np.ndarray | str | dict):
        raise TypeError(f"X: expected an iterable of batches where y is None, got {type(batches).__name__}; pass y")
    if sample_weight is not None:
        raise ValueError("sample_weight: expected None with an iterable of batches; yield (x, y, sample_weight)")
    if epochs > 1 and isinstance(batches, Iterator):
        raise ValueError(
            f"X: expected an iterable that can start anew for each of {epochs} epochs, got an iterator, "
            f"{type(batches).__name__}; pass a list, or an object whose __iter__ starts from the first batch"
        )
    return batches


def checked_batch(batch, number):
    """One batch of an iterable as (x, y, sample_weight)."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise TypeError(
            f"X: expected batches (x, y) or (x, y, sample_weight), got {type(batch).__name__} as batch {number}"
        )
    return (*batch, None)[:3]


class Callbacks(NamedTuple):
    """Functions that `fit` calls."""

    after_epoch: list  # of (trainer, history)
    after_batch: list  # of (trainer, epoch, batch, loss)


def checked_callbacks(callbacks, after_batch=True) -> Callbacks:
    """One callback or several; with `after_batch` false, none that is to be called after each batch."""
    if not isinstance(callbacks, list | tuple):
        one = callable(callbacks) or _methods(callbacks) or not isinstance(callbacks, Iterable)
        callbacks = [callbacks] if one else callbacks
    found = Callbacks([], [])
    for callback in callbacks:
        methods = _methods(callback)
        if "on_batch_end" in methods and not after_batch:
            raise ValueError(
                "callbacks: expected none with on_batch_end on several ranks, which make their steps together, got "
                f"{type(callback).__name__}; call step() in a loop of your own"
            )
        if isinstance(callback, type) and methods:
            raise TypeError(f"callbacks: expected an object, got the class {callback.__name__}; pass one made of it")
        if not (methods or callable(callback)):
            raise TypeError(
                "callbacks: expected functions of (trainer, history), or objects with on_epoch_end or on_batch_end, "
                f"got {callback!r}"
            )
        if "on_batch_end" in methods:
            found.after_batch.append(methods["on_batch_end"])
        if "on_epoch_end" in methods or not methods:
            found.after_epoch.append(methods.get("on_epoch_end", callback))
    return found


def _methods(callback) -> dict:
    """The methods of an object that `fit` calls, by name."""
    names = ("on_epoch_end", "on_batch_end")
    return {name: getattr(callback, name) for name in names if callable(getattr(callback, name, None))}


def wish_to_end(answers) -> bool:
    """Whether one of the callbacks, all of which have been called, answered True."""
    return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers)


def require_finite_batch(x, targets):
    """Raise ValueError if rows, or targets that are no classes, hold NaN or infinity."""
    require_finite("X", x)
    if targets.dtype.kind == "f":
        require_finite("y", targets)


def require_same_batches(used, passed):
    """After the batches that an interrupted epoch has used: raise ValueError unless they had as many rows."""
    if passed != used:
        raise ValueError(
            f"X: expected first batches of the {used} rows the interrupted epoch used, got {passed}; "
            f"pass the data of that epoch, or {ABANDON}"
        )


def ignored_label(loss) -> int:
    """The label of rows that have no class."""
    return getattr(loss, "ignore_index", core.IGNORE_INDEX)


# ---------------------------------------------------------------- sizes of batches


def require_sizes(batch_size, n, position, first, least):
    """Raise ValueError unless n rows, of which `position` are used, can be parted into batches from the first-th on."""
    if n < least:
        raise ValueError("X: expected at least two rows to take batch statistics of, got 1")
    if not isinstance(batch_size, Schedule) and batch_size < least:
        raise ValueError(f"batch_size: expected at least {least} rows for BatchNorm, got {batch_size}")
    if position > n:
        raise ValueError(
            f"X: expected at least the {position} rows the interrupted epoch used, got {n}; pass the data of that "
            f"epoch, or {ABANDON}"
        )
    if position < n and (least > 1 or isinstance(batch_size, Schedule)):  # else there is nothing to refuse
        batch_sizes(batch_size, n - position, first, least)


def batch_sizes(batch_size, n, first, least) -> np.ndarray:
    """Rows of the coming batches, as many as n rows and AHEAD allow.

    `first` is the number of the first of them, by which a schedule goes; `least` are the rows that a batch needs.
    """
    if not isinstance(batch_size, Schedule):
        sizes = np.full(min(-(-n // batch_size), AHEAD), min(batch_size, n))
        return sizes if least == 1 else without_lone_row(sizes, n)
    sizes = np.clip(np.rint(batch_size(np.arange(first, first + min(n, AHEAD)))), -1, n)  # NaN stays
    bad = np.flatnonzero(~(sizes >= min(least, n)))[:1]
    if bad.size and bad[0] == 0:
        value = batch_size(first)
        raise ValueError(f"batch_size: expected at least {least} at batch {first}, got {value} from {batch_size!r}")
    sizes = sizes[: bad[0] if bad.size else None].astype(np.int64)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), n) + 1]
    return sizes if least == 1 else without_lone_row(sizes, n)


def without_lone_row(sizes, n) -> np.ndarray:
    """Sizes of batches of n rows in which a last row, left alone, has joined the batch before it."""
    if n == 1:
        raise ValueError("X: expected at least two rows of the interrupted epoch to be left, got 1")
    ends = np.cumsum(sizes)
    before = np.searchsorted(ends, n - 1)
    if before < len(sizes) and ends[before] == n - 1:
        sizes = sizes[: before + 1]
        sizes[before] += 1
    return sizes
