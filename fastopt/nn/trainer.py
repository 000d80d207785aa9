"""The Trainer: a network, a loss and an optimizer, bound once; whole steps and epochs in one call.

- `step` and `fit` run the network's compiled program without the GIL. `fit` leaves it
  after at most SLICE seconds, so that Ctrl-C, callbacks and the progress bar get their turn.
- An optimizer whose step is no update of elements (NewtonCG) makes it of several such calls.
- The order of an epoch comes from a generator keyed by (seed, epoch): a resumed run
  continues bit for bit, wherever it was interrupted. An epoch is over when its measurements
  have been told to schedules and early stopping; until then it is an interrupted one (`_end_epoch`).
- What `fit` has checked and reads later is its own: classes, probabilities and weights are
  copies. The values of X and of a regression's targets are read where they lie.
"""

import math
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from fastopt import _files, optim
from fastopt._arrays import require_finite
from fastopt._forks import importing
from fastopt._kernels import core
from fastopt._numbers import finite_number, whole_number
from fastopt.metrics import accuracy
from fastopt.nn import files
from fastopt.nn.losses import describe_loss, loss_name, measure
from fastopt.optim.optimizer import pack_state, unpack_state
from fastopt.schedules import Schedule

SLICE = 0.05  # seconds between returns to Python: half of what Ctrl-C may have to wait
AHEAD = 1024  # batches whose sizes are worked out at once
COMPILED = ("net", "loss", "optimizer")  # what a Trainer is bound to for life
LARGEST_SEED = 2**128 - 1  # NumPy recommends seeds of 128 bits


class History(dict):
    """Lists by name, one number an epoch of this call: loss, val_loss and, for classes, val_accuracy.

    Attributes
    ----------
    best_epoch : int or None
        Index of the epoch with the lowest validation loss. None without validation, and where an interrupted
        `fit` that this call went on with had the best epoch.
    best_loss : float or None
        The loss of the best epoch, whichever call had it.
    """

    best_epoch: int | None = None
    best_loss: float | None = None


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Sequential
    loss : str, CrossEntropy or Huber
        cross_entropy and binary_cross_entropy (both on logits), mse, mae, huber; `CrossEntropy` and `Huber`
        carry options.
    optimizer : Optimizer or str
        Over exactly ``net.parameters()``, in that order; or the name of a rule of `fastopt.optim`, in any case, for
        one with its defaults.
    max_batch : int
        Rows to make room for; a larger batch makes more.
    seed : int
        Of the order of the rows.

    Attributes
    ----------
    net, loss, optimizer
        As given, for life.
    seed, epoch : int
        What the order of the coming epoch is drawn from; assigned between epochs only.

    Raises
    ------
    TypeError, ValueError
        An optimizer over other arrays, a loss or a number that does not fit.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    >>> trainer = fo.nn.Trainer(net, loss="mse", optimizer=fo.optim.SGD(net.parameters(), lr=0.1))
    >>> X = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> history = trainer.fit(X, X @ [1.0, 2.0], epochs=200, batch_size=2)
    >>> net.predict([[1.0, 0.0]]).round(2)
    array([[1.]], dtype=float32)
    """

    def __init__(self, net, loss, optimizer, max_batch=128, seed=0):
        optimizer = _optimizer(optimizer, net)
        mine = net.parameters()
        theirs = optimizer._arrays
        if [id(a) for a in mine] != [id(a) for a in theirs]:
            raise ValueError("optimizer: expected one over net.parameters(), in that order, got other arrays")
        seed, max_batch = whole_number("seed", seed, 0, LARGEST_SEED), whole_number("max_batch", max_batch, 0)
        update = None if optimizer._by_itself else optimizer._update
        self._training = net._bound_to(loss, update, max_batch)
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self._seed, self._stopping = seed, None
        self._held = (threading.Lock(), os.getpid())

    def __setattr__(self, name, value):
        if name in COMPILED and hasattr(self, name):
            raise AttributeError(
                f"{name}: expected to stay, for a Trainer is compiled for it; make a new Trainer for another"
            )
        super().__setattr__(name, value)

    @property
    def seed(self) -> int:
        """What the order of the rows is drawn from, with the epoch."""
        return self._seed

    @seed.setter
    def seed(self, value):
        value = whole_number("seed", value, 0, LARGEST_SEED)
        self._require_between_epochs("seed")
        self._seed = value

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return self._training.epoch

    @epoch.setter
    def epoch(self, value):
        value = whole_number("epoch", value, 0)
        self._require_between_epochs("epoch")
        self._training.epoch = value

    def _require_between_epochs(self, name):
        if self._training.position:
            raise ValueError(
                f"{name}: expected to stay until the interrupted epoch is over, for its order depends on it; "
                "fit finishes that epoch, abandon_fit drops it"
            )

    def step(self, x, y, sample_weight=None) -> float:
        """One batch: forward, loss, backward, update, in one call without the GIL.

        Parameters
        ----------
        x : array_like, shape (n, in)
        y : array_like
            Classes (n,) or probabilities (n, out) for cross_entropy, probabilities (n, out) for
            binary_cross_entropy, values (n, out) for the others. For a single output (n,) is taken for (n, 1).
        sample_weight : array_like, shape (n,), optional
            The loss is then ``sum(w * l) / sum(w)``.

        Returns
        -------
        float
            Mean loss of the batch before the update.

        Raises
        ------
        TypeError, ValueError
            Data that does not fit; nothing has been changed then.
        FloatingPointError
            The loss is NaN, unless the optimizer skips such steps; nothing has been changed then.
        """
        self.net.require_calibrated()
        self.optimizer._ready()
        if self._stopping is None or self._stopping.last is None:
            return self.optimizer._step_on(self._training, x, y, sample_weight)
        try:
            self._go_on()
            return self.optimizer._step_on(self._training, x, y, sample_weight)
        except BaseException:
            self._show_best()
            raise

    def fit(
        self,
        X,
        y=None,
        epochs=1,
        batch_size=32,
        *,
        validation=None,
        patience=None,
        sample_weight=None,
        shuffle=True,
        callbacks=(),
        progress=False,
        check_finite=False,
    ) -> History:
        """Train for some epochs.

        Parameters
        ----------
        X : array_like, shape (n, in), or iterable of batches
            Rows, or (x, y) or (x, y, sample_weight) tuples; an iterable must start anew for each epoch.
        y : array_like, optional
            Targets of X; None if X is an iterable of batches.
        epochs : int
            Passes over the data in this call. An epoch that was interrupted is finished first, as one of them.
        batch_size : int or Schedule
            The last batch of an epoch may be smaller; in a network with `BatchNorm`, which takes two rows at
            least, a last row alone joins the batch before it. A schedule gives the size of the t-th batch this trainer
            trains on, rounded to the nearest whole number. Not used with an iterable of batches.
        validation : (array_like, array_like) or (array_like, array_like, array_like), optional
            (X, y) or (X, y, sample_weight): data whose loss is measured after every epoch.
        patience : int, optional
            Stop after so many epochs without a lower validation loss. Whenever `validation` and `patience`
            are given, the network holds the parameters of the best epoch at the end, also after an exception.
        sample_weight : array_like, shape (n,), optional
            Weights of the rows of X.
        shuffle : bool
            Visit the rows in a new order each epoch.
        callbacks : callable or list of callables
            Called as ``callback(trainer, history)`` after each epoch; one that returns True ends training.
        progress : bool
            Show a progress bar (needs tqdm).
        check_finite : bool
            Raise ValueError if the data holds NaN or infinity, before anything is changed; with an iterable, before
            the step of the batch that does.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Data or options that do not fit; nothing has been changed then, but by batches of an iterable before
            one that does not fit.
        ImportError
            `progress` without tqdm; nothing has been changed then.
        RuntimeError
            Called by a callback of `fit`, or while another thread is in it; nothing has been changed then.
        FloatingPointError
            The loss of a batch is NaN, unless the optimizer skips such steps; the network then holds the
            step before it, or the best epoch if early stopping was on. A validation loss may be NaN.

        Warns
        -----
        UserWarning
            The optimizer accumulates gradients, and those of the last batches still wait for their update.

        Notes
        -----
        A `ReduceOnPlateau` among the optimizer's options is told the validation loss after each epoch, or the
        training loss where there is no validation.

        X, and y of mse, mae and huber, are read where they lie, in each epoch: leave them alone, or what is learned
        changes with them. Classes, probabilities and weights are copied.

        After an exception, Ctrl-C included, the next `fit` goes on where this one stood, early stopping included: from
        the last step, not from the best epoch that the network shows meanwhile. `abandon_fit` prevents that.
        """
        callbacks = _callables(callbacks)
        epochs = whole_number("epochs", epochs)
        if not isinstance(batch_size, Schedule):
            batch_size = whole_number("batch_size", batch_size)
        if patience is not None:
            patience = whole_number("patience", patience)
            if validation is None:
                raise ValueError("patience: expected validation data to watch, got none; pass validation=(Xv, yv)")
        with self._alone():
            if y is None:
                batches = self._check_batches(X, sample_weight, epochs)
                self.net.require_calibrated()
            else:
                rows = self._check_rows(X, y, sample_weight, check_finite, batch_size)
            if validation is not None:
                validation = self._check_validation(validation, check_finite)
            self.optimizer._update.require_idle()
            self.optimizer._ready()
            bar = _Bar(progress, epochs)

            def train():
                if y is None:
                    self._batches_epoch(batches, check_finite)
                else:
                    self._rows_epoch(*rows, batch_size, shuffle, bar)

            try:
                self._go_on()
                if patience is None:
                    self._stopping = None
                if y is not None and not all(layer.calibrated for layer in self.net.layers):
                    self.net._calibrate(self.net.layers, rows[0], ("required",))
                history = self._epochs(train, epochs, validation, patience, callbacks, bar)
            except BaseException:
                self._show_best()
                raise
            finally:
                bar.close()
        self._warn_of_waiting_gradients()
        return history

    def _epochs(self, train, epochs, validation, patience, callbacks, bar) -> History:
        """Epochs of the rows that `train` trains on, and what follows each; at the end the best one is restored."""
        history, best = History(), self._stopping or _Best()
        history.best_loss = best.loss
        for _ in range(epochs):
            if patience is not None and best.waited >= patience:  # also where an interrupt came just before this
                break
            train()
            best = self._end_epoch(best, history, validation, patience)
            bar.epoch(history)
            wishes = [callback(self, history) for callback in callbacks]
            if any(isinstance(wish, bool | np.bool_) and wish for wish in wishes):
                break
        if self._stopping is not None:
            core.copy_arrays(self._arrays(), self._stopping.arrays)
            self._stopping = None
        return history

    def abandon_fit(self) -> None:
        """Drop what an interrupted `fit` has left to be done: the rest of its epoch, and its early stopping.

        The network stays as it is, with the parameters of the best epoch where early stopping was on; the next `fit`
        starts an epoch of its own. The optimizer keeps its state. Where nothing was interrupted, nothing changes.

        Raises
        ------
        RuntimeError
            Called by a callback of `fit`.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
        >>> trainer = fo.nn.Trainer(net, "mse", "sgd")
        >>> batches = [(np.eye(2), [1.0, 2.0]), (np.eye(2), [np.nan, 2.0])]
        >>> try:
        ...     trainer.fit(batches)
        ... except FloatingPointError:
        ...     trainer.abandon_fit()
        >>> trainer.epoch
        1
        """
        with self._alone():
            self._stopping = None
            if self._training.position:
                self._training.end_epoch()

    def _alone(self):
        """The lock of what must not run inside `fit`; a new one in a forked child, where its holder is gone."""
        if self._held[1] != os.getpid():
            self._held = (threading.Lock(), os.getpid())
        if self._held[0].locked():
            raise RuntimeError("fit: this trainer is training already, in a fit that called this or in another thread")
        return self._held[0]

    def _check_rows(self, X, y, sample_weight, check_finite, batch_size):
        data = self._own(X, y, sample_weight, check_finite)
        n, least, position = len(data[0]), self.net._program.least_rows, self._training.position
        if n < least:
            raise ValueError("X: expected at least two rows to take batch statistics of, got 1")
        if not isinstance(batch_size, Schedule) and batch_size < least:
            raise ValueError(f"batch_size: expected at least {least} rows for BatchNorm, got {batch_size}")
        if position > n:
            raise ValueError(
                f"X: expected at least the {position} rows the interrupted epoch used, got {n}; pass the data of that "
                "epoch, or call abandon_fit() to drop the rest of it"
            )
        if position < n:
            self._sizes(batch_size, n - position)
        return data

    def _check_validation(self, validation, check_finite):
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise TypeError(f"validation: expected (X, y) or (X, y, sample_weight), got {type(validation).__name__}")
        try:
            data = self._own(*validation, check_finite=check_finite)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
        if data[2] is not None and not data[2].any():
            raise ValueError("validation: expected a sample_weight above 0, got none")
        if data[1].ndim == 1 and loss_name(self.loss) == "cross_entropy" and (data[1] == self._ignored).all():
            raise ValueError(f"validation: expected rows with a class, got only the ignored label {self._ignored}")
        return data

    @property
    def _ignored(self) -> int:
        """The label of rows that have no class."""
        return getattr(self.loss, "ignore_index", core.IGNORE_INDEX)

    def _own(self, X, y, sample_weight=None, check_finite=False):
        """Rows, targets and weights, checked: nothing the caller does to his arrays can make them unfit."""
        x, targets, weights = self._training.check(X, y, sample_weight)
        if not len(x):
            raise ValueError("X: expected at least one row, got none")
        if check_finite:
            _require_finite(x, targets)
        checked = loss_name(self.loss) in ("cross_entropy", "binary_cross_entropy")  # by value, and not by shape alone
        targets = targets.copy() if checked else targets.view()
        weights = None if weights is None else weights.copy()
        return self._training.check(x.view(np.ndarray), targets, weights)  # the copies: threads may have meddled

    def _check_batches(self, batches, sample_weight, epochs):
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

    def _rows_epoch(self, x, targets, weights, batch_size, shuffle, bar):
        """Train on the rows that are left of the epoch; they have been checked."""
        run, order = self._training, np.arange(len(x))
        if shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        while run.position < len(x):
            self.optimizer._ready()
            before = run.position
            self.optimizer._run_on(run, x, targets, weights, order, self._sizes(batch_size, len(x) - before), SLICE)
            bar.rows((run.position - before) / len(x))

    def _sizes(self, batch_size, n) -> np.ndarray:
        """Rows of the coming batches, as many as n rows and AHEAD allow."""
        least = self.net._program.least_rows
        if not isinstance(batch_size, Schedule):
            sizes = np.full(min(-(-n // batch_size), AHEAD), min(batch_size, n))
            return sizes if least == 1 else _without_lone_row(sizes, n)
        first = self._training.batches + 1
        sizes = np.clip(np.rint(batch_size(np.arange(first, first + min(n, AHEAD)))), -1, n)  # NaN stays
        good = np.flatnonzero(~(sizes >= min(least, n)))[:1]
        if good.size and good[0] == 0:
            value = batch_size(first)
            raise ValueError(f"batch_size: expected at least {least} at batch {first}, got {value} from {batch_size!r}")
        sizes = sizes[: good[0] if good.size else None].astype(np.int64)
        sizes = sizes[: np.searchsorted(np.cumsum(sizes), n) + 1]
        return sizes if least == 1 else _without_lone_row(sizes, n)

    def _batches_epoch(self, batches, check_finite):
        """Train on the batches that are left of the epoch; those an interrupted one has used are passed over."""
        used, passed, empty = self._training.position, 0, True
        for number, batch in enumerate(batches):
            empty = False
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise TypeError(
                    f"X: expected batches (x, y) or (x, y, sample_weight), got {type(batch).__name__} as batch {number}"
                )
            if passed < used:
                passed += len(batch[0])
                continue
            _require_same_batches(used, passed)
            if check_finite:
                _require_finite(*self._training.check(*batch)[:2])
            x, targets, weights = (*batch, None)[:3]
            self.optimizer._ready()
            self.optimizer._step_on(self._training, x, targets, weights, True)
        if empty:
            raise ValueError("X: expected batches, got none; an iterable must start anew for each epoch")
        _require_same_batches(used, passed)

    def _end_epoch(self, best, history, validation, patience):
        """Measure an epoch whose rows are done, tell schedules and early stopping, count it: all of it or nothing."""
        run, stopping, epoch = self._training, self._stopping, self.epoch
        measured = {"loss": run.loss_sum / run.weight_sum if run.weight_sum > 0 else 0.0}
        if validation is not None:
            measured |= self._validate(*validation)
            best = best.after(measured["val_loss"], self._arrays() if patience is not None else [])
        schedules = self.optimizer._plateaus()
        states = [dict(vars(schedule)) for schedule in schedules]
        try:
            self.optimizer.measured(measured["val_loss" if validation is not None else "loss"])
            if patience is not None:
                self._stopping = best
            run.end_epoch()
        except BaseException:
            if self.epoch == epoch:
                self._stopping = stopping
                for schedule, state in zip(schedules, states, strict=True):
                    vars(schedule).update(state)
            raise
        for name, value in measured.items():
            history.setdefault(name, []).append(value)
        if validation is not None:
            since = len(history["val_loss"]) - 1 - best.waited
            history.best_epoch, history.best_loss = since if since >= 0 else None, best.loss
        return best

    def _validate(self, x, targets, weights) -> dict[str, float]:
        output = self.net.predict(x)
        # the data have been checked: an error is a loss that is not defined, so a bad epoch, whose scores say nothing
        loss = _or_nan(measure, self.loss, output, targets, weights)
        measured = {"val_loss": loss}
        if loss_name(self.loss) == "cross_entropy" and targets.ndim == 1 and output.shape[1] > 1:
            counted = (targets != self._ignored) * (1.0 if weights is None else weights)
            score = math.nan if math.isnan(loss) else _or_nan(accuracy, targets, output, sample_weight=counted)
            measured["val_accuracy"] = score
        return measured

    # --- early stopping, before and after an interrupt

    def _arrays(self) -> list[np.ndarray]:
        """What early stopping keeps: parameters, running averages and seeds."""
        return list(files.arrays_of(self.net).values())

    def _left(self):
        """The early stopping that an interrupt has left; None if the caller has changed the parameters since."""
        left = self._stopping
        if left is None or left.last is None:
            return left
        mine = self._arrays()
        if _same_bits(mine, left.last):
            return replace(left, last=None)
        return left if _same_bits(mine, left.arrays) else None

    def _go_on(self):
        """Put the parameters back to where an interrupt came, unless the caller has changed them since."""
        left = self._left()
        if left is not None and left.last is not None:
            core.copy_arrays(self._arrays(), left.last)
            left = replace(left, last=None)
        self._stopping = left

    def _show_best(self):
        """Let the network hold the best epoch, and keep where training stands."""
        if self._stopping is not None:
            mine = self._arrays()
            if self._stopping.last is None:
                self._stopping = replace(self._stopping, last=[a.copy() for a in mine])
            core.copy_arrays(mine, self._stopping.arrays)

    def _warn_of_waiting_gradients(self):
        waiting, whole = self.optimizer._update.accumulated, self.optimizer._accumulate
        if waiting:
            warnings.warn(
                f"accumulate: expected a multiple of {whole} batches, an update each, got {waiting} more; "
                "their gradients wait for the batches of the next fit or step",
                UserWarning,
                stacklevel=3,
            )

    def save(self, path) -> None:
        """Write network, optimizer and position to one file, from which `resume` continues bit for bit."""
        arrays, state = pack_state(self.optimizer.state_dict())
        arrays, document = {**files.stored_arrays(self.net), **arrays}, {**self._document(), "optimizer": state}
        left = self._left()
        if left is not None:
            names = files.arrays_of(self.net)
            other, values = ("best", left.arrays) if left.last is None else ("last", left.last)
            arrays |= {f"{other}.{name}": a for name, a in zip(names, values, strict=True)}
            loss = None if left.loss is None or math.isnan(left.loss) else left.loss
            document["early_stopping"] = {"loss": loss, "waited": left.waited}
        _files.write(path, arrays, document)

    def _document(self):
        metadata = files.as_metadata(self.net.metadata)
        return {
            **({"metadata": metadata} if metadata else {}),
            "kind": "trainer",
            **self.net.describe(),
            "rule": type(self.optimizer).__name__,
            "loss": describe_loss(self.loss),
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._training.position,
            "batches": self._training.batches,
            "loss_sum": self._training.loss_sum,
            "weight_sum": self._training.weight_sum,
        }

    def resume(self, path) -> None:
        """Take over what `save` wrote for a trainer of the same network, loss and rule.

        Raises
        ------
        OSError
            The file is missing or unreadable.
        ValueError
            It is damaged or belongs to another network, loss or rule; nothing has been changed then.
        """
        arrays, document = _files.read(path, "trainer")
        with self._alone():
            mine = files.arrays_of(self.net)
            try:
                theirs, state, numbers, stopping, calibrated = self._checked(arrays, document, mine)
                started = {id(a): theirs[name] for name, a in mine.items()}
                metadata = files.as_metadata(document.get("metadata", self.net.metadata))
                self.optimizer._load(state, [started[id(a)] for a in self.net.parameters()])
            except _files.MALFORMED as error:
                raise ValueError(f"{path}: does not fit this trainer ({_files.why(error)})") from error
            core.copy_arrays(list(mine.values()), list(theirs.values()))
            files.tell_copied(self.net, arrays)
            self.net.metadata = metadata
            for layer, known in zip(self.net.layers, calibrated, strict=True):
                layer.calibrated = known
            self._stopping, self._seed = stopping, numbers.pop("seed")
            for name, value in numbers.items():
                setattr(self._training, name, value)

    def _checked(self, arrays, document, mine):
        """A run file's arrays of the layers, optimizer state, numbers, early stopping and calibrated layers.

        Raises what says that they do not fit this trainer, whose layers have the arrays `mine`.
        """
        expected = self._document()
        for name in ("dtype", "rule", "loss"):
            if document[name] != expected[name]:
                raise ValueError(f"expected {name} {expected[name]}, got {document[name]}")
        waits = [layer.calibration == "required" for layer in self.net.layers]  # for statistics, until it is calibrated
        calibrated = [
            config.pop("calibrated", None if may else True)
            for may, config in zip(waits, document["layers"], strict=True)
        ]
        for may, known in zip(waits, calibrated, strict=True):
            if not isinstance(known, bool) or not (known or may):
                raise ValueError(f"calibrated: expected true or false of a layer with statistics, got {known!r}")
        plain = [{k: v for k, v in config.items() if k != "calibrated"} for config in expected["layers"]]
        if document["layers"] != plain:
            raise ValueError(f"expected layers {self.net.layers}, got {document['layers']}")
        shape = files.input_shape_of(document, self.net.layers)
        if shape != self.net.input_shape:
            raise ValueError(f"expected input_shape {self.net.input_shape}, got {shape}")
        parts = _by_part(arrays)
        theirs, moments = parts.pop("layers"), parts.pop("optimizer", {})
        files.check_arrays(self.net, theirs)
        # in the order of the layers, not of the file; statistics of an earlier version may be narrower
        theirs = {name: theirs[name].astype(a.dtype, copy=False) for name, a in mine.items()}
        for name, a in mine.items():
            if not a.flags.writeable:
                raise ValueError(f"{name}: expected a writable array, got a read-only one")
        state = unpack_state(moments, document["optimizer"])
        return theirs, state, _run_numbers(document), _early_stopping(self.net, document, parts, theirs), calibrated

    def __getstate__(self):
        names = ("net", "loss", "seed", "epoch", "_stopping")
        progress = ("position", "batches", "loss_sum", "weight_sum", "max_batch")
        return {
            **{name: getattr(self, name) for name in names},
            "optimizer": (type(self.optimizer), self.optimizer.__getstate__()),
            "progress": {name: getattr(self._training, name) for name in progress},
        }

    def __setstate__(self, state):
        rule, theirs = state["optimizer"]
        params, groups = iter(state["net"].parameters()), theirs["param_groups"]
        groups = [{**group, "params": [next(params) for _ in group["params"]]} for group in groups]
        optimizer, progress = rule.__new__(rule), dict(state["progress"])
        optimizer.__setstate__({**theirs, "param_groups": groups})  # over the parameters of the copied network
        Trainer.__init__(self, state["net"], state["loss"], optimizer, progress.pop("max_batch"), state["seed"])
        self.epoch, self._stopping = state["epoch"], state.get("_stopping")
        for name, value in progress.items():
            setattr(self._training, name, value)


def _optimizer(optimizer, net):
    """An optimizer as given, or one by the name of its rule over the parameters of a network."""
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    rules = {name.lower(): name for name in optim.__all__ if name != "Optimizer"}
    if isinstance(optimizer, str) and optimizer.lower() in rules:
        return getattr(optim, rules[optimizer.lower()])(net.parameters())
    got = repr(optimizer) if isinstance(optimizer, str | type) else type(optimizer).__name__
    raise TypeError(
        "optimizer: expected one of fastopt.optim over net.parameters(), like optim.Adam(net.parameters()), or a name "
        f"of {', '.join(rules.values())}, got {got}"
    )


def _callables(callbacks) -> list:
    callbacks = [callbacks] if callable(callbacks) or not isinstance(callbacks, Iterable) else list(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: expected functions of (trainer, history), got {callback!r}")
    return callbacks


def _require_finite(x, targets):
    require_finite("X", x)
    if targets.dtype.kind == "f":
        require_finite("y", targets)


def _require_same_batches(used, passed):
    """After the batches an interrupted epoch has used: they must have been of as many rows."""
    if passed != used:
        raise ValueError(
            f"X: expected first batches of the {used} rows the interrupted epoch used, got {passed}; "
            "pass the data of that epoch, or call abandon_fit() to drop the rest of it"
        )


def _or_nan(function, *args, **options) -> float:
    try:
        return function(*args, **options)
    except ValueError:
        return math.nan


def _same_bits(arrays, others) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(arrays, others, strict=True))


def _by_part(arrays) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of a run file: "layers" and "optimizer" by their names, what follows "best." or "last." likewise."""
    parts: dict[str, dict[str, np.ndarray]] = {"layers": {}}
    for name, a in arrays.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest if first in ("best", "last") else name] = a
    return parts


def _run_numbers(document) -> dict:
    """Where a run stands, from a run file; ValueError for a number that no run can have."""
    numbers: dict[str, float] = {
        name: whole_number(name, document[name], 0) for name in ("epoch", "position", "batches")
    }
    numbers["seed"] = whole_number("seed", document["seed"], 0, LARGEST_SEED)
    numbers["weight_sum"] = finite_number("weight_sum", document["weight_sum"], 0)
    numbers["loss_sum"] = _loss("loss_sum", document["loss_sum"])
    return numbers


def _loss(name, value) -> float:
    """A loss in a file: finite, or infinity, which a batch may have."""
    return value if value == math.inf else finite_number(name, value)


def _early_stopping(net, document, parts, shown):
    """The early stopping of a run file, if it has one; ValueError where its arrays or numbers do not fit.

    `shown` are the arrays of the network: where the file holds those of the last step, they are the best epoch's.
    """
    entry = document.get("early_stopping")
    if (entry is None) != (not parts) or len(parts) > 1 or not parts.keys() <= {"best", "last"}:
        raise ValueError(f"expected arrays of layers, optimizer and early stopping, got {sorted(parts)} besides")
    if entry is None:
        return None
    ((part, arrays),) = parts.items()
    files.check_arrays(net, arrays)
    arrays = {name: arrays[name].astype(a.dtype, copy=False) for name, a in shown.items()}
    loss = math.nan if entry["loss"] is None else _loss("early_stopping.loss", entry["loss"])
    waited = whole_number("early_stopping.waited", entry["waited"], 0)
    best, last = (arrays, None) if part == "best" else (shown, arrays)
    return _Best(loss, waited, [best[name] for name in shown], None if last is None else [last[name] for name in shown])


def _without_lone_row(sizes, n) -> np.ndarray:
    """Sizes of batches of n rows in which a last row, left alone, has joined the batch before it."""
    if n == 1:
        raise ValueError("X: expected at least two rows of the interrupted epoch to be left, got 1")
    ends = np.cumsum(sizes)
    before = np.searchsorted(ends, n - 1)
    if before < len(sizes) and ends[before] == n - 1:
        sizes = sizes[: before + 1]
        sizes[before] += 1
    return sizes


@dataclass(frozen=True)
class _Best:
    """The best epoch so far, by its validation loss, and what early stopping needs to know of it."""

    loss: float | None = None  # None before the first epoch
    waited: int = 0  # epochs since
    arrays: list[np.ndarray] = field(default_factory=list)  # of the network in that epoch, copies
    last: list[np.ndarray] | None = None  # where training stands, while the network shows the best epoch

    def after(self, loss, arrays) -> "_Best":
        """With one epoch more, whose network has these arrays; NaN is worse than any number."""
        lower = self.loss is None or loss < self.loss or (math.isnan(self.loss) and not math.isnan(loss))
        return _Best(loss, 0, [a.copy() for a in arrays]) if lower else replace(self, waited=self.waited + 1)


class _Bar:
    """A progress bar over epochs, or nothing."""

    def __init__(self, progress, epochs):
        self.bar, self.done = None, 0.0
        if progress:
            try:
                with importing:
                    from tqdm.auto import tqdm
            except ImportError:
                raise ImportError("progress=True needs tqdm; pip install tqdm, or pass progress=False") from None
            self.bar = tqdm(
                total=epochs,
                unit="epoch",
                bar_format="{l_bar}{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]",
            )

    def rows(self, part):
        if self.bar is not None:
            self.bar.update(part)
            self.done += part

    def epoch(self, history):
        if self.bar is not None:
            self.bar.update(1 - self.done)
            self.done = 0.0
            self.bar.set_postfix({name: f"{values[-1]:.4f}" for name, values in history.items()})

    def close(self):
        if self.bar is not None:
            self.bar.close()
