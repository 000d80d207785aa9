"""The Trainer: a network, a loss and an optimizer, bound once; whole steps and epochs in one call.

- `step` and `fit` run the network's compiled program without the GIL. `fit` leaves it
  after at most SLICE seconds, so that Ctrl-C, callbacks and the progress bar get their turn.
- An optimizer whose step is no update of elements (NewtonCG) makes it of several such calls.
- The order of an epoch comes from a generator keyed by (seed, epoch): a resumed run
  continues bit for bit, wherever it was interrupted.
"""

from collections.abc import Iterable

import numpy as np

from fastopt import _files
from fastopt._arrays import require_finite
from fastopt._forks import importing
from fastopt._kernels import core
from fastopt._numbers import finite_number, whole_number
from fastopt.metrics import accuracy
from fastopt.nn import files
from fastopt.nn.layers import FromData
from fastopt.nn.losses import describe_loss, loss_name, loss_options, measure
from fastopt.optim.optimizer import pack_state, unpack_state
from fastopt.schedules import Schedule

SLICE = 0.05  # seconds between returns to Python: half of what Ctrl-C may have to wait
AHEAD = 1024  # batches whose sizes are worked out at once


class History(dict):
    """Lists by name, one number an epoch: loss, val_loss and, for classes, val_accuracy.

    Attributes
    ----------
    best_epoch : int or None
        Index of the epoch with the lowest validation loss, where there was validation.
    """

    best_epoch: int | None = None


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Sequential
    loss : str, CrossEntropy or Huber
        cross_entropy and binary_cross_entropy (both on logits), mse, mae, huber; `CrossEntropy` and `Huber`
        carry options.
    optimizer : Optimizer
        Over exactly ``net.parameters()``, in that order.
    max_batch : int
        Rows to make room for; a larger batch makes more.
    seed : int
        Of the order of the rows.

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
        mine = net.parameters()
        theirs = optimizer._arrays
        if [id(a) for a in mine] != [id(a) for a in theirs]:
            raise ValueError("optimizer: expected one over net.parameters(), in that order, got other arrays")
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.seed, self.epoch = int(seed), 0
        update = None if optimizer._by_itself else optimizer._update
        self._training = core.Training(net._training_program, loss_name(loss), update, max_batch, **loss_options(loss))

    def step(self, x, y, sample_weight=None) -> float:
        """One batch: forward, loss, backward, update, in one call without the GIL.

        Parameters
        ----------
        x : array_like, shape (n, in)
        y : array_like
            Classes (n,) or probabilities (n, out) for cross_entropy, probabilities (n, out) for
            binary_cross_entropy, values (n, out) for the others.
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
        return self.optimizer._step_on(self._training, x, y, sample_weight)

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
        validation : (array_like, array_like), optional
            Data whose loss is measured after every epoch.
        patience : int, optional
            Stop after so many epochs without a lower validation loss. Whenever `validation` and `patience`
            are given, the parameters of the best epoch are restored at the end, also on an exception.
        sample_weight : array_like, shape (n,), optional
            Weights of the rows of X.
        shuffle : bool
            Visit the rows in a new order each epoch.
        callbacks : callable or list of callables
            Called as ``callback(trainer, history)`` after each epoch; one that returns True ends training.
        progress : bool
            Show a progress bar (needs tqdm).
        check_finite : bool
            Raise ValueError if the data holds NaN or infinity, before anything is changed.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Data or options that do not fit; nothing has been changed then.
        FloatingPointError
            The loss of a batch is NaN, unless the optimizer skips such steps; the network then holds the
            step before it, or the best epoch if early stopping was on. A validation loss may be NaN.

        Notes
        -----
        A `ReduceOnPlateau` among the optimizer's options is told the validation loss after each epoch, or the
        training loss where there is no validation.
        """
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        if patience is not None and validation is None:
            raise ValueError("patience: expected validation data to watch, got none; pass validation=(Xv, yv)")
        for name, value in (
            ("epochs", epochs),
            ("batch_size", 1 if isinstance(batch_size, Schedule) else batch_size),
            ("patience", 1 if patience is None else patience),
        ):
            if not hasattr(value, "__index__") or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        epoch_of = self._batches_epoch if y is None else self._rows_epoch
        least = self.net._program.least_rows
        if y is not None and not isinstance(batch_size, Schedule) and batch_size < least:
            raise ValueError(f"batch_size: expected at least {least} rows for BatchNorm, got {batch_size}")
        data = (
            self._check_batches(X, sample_weight) if y is None else self._check_rows(X, y, sample_weight, check_finite)
        )
        if validation is not None:
            X_held, y_held = validation
            validation = self._check_rows(X_held, y_held, None, check_finite, training=False)[:2]
        if y is not None and not all(layer.calibrated for layer in self.net.layers):
            self.net._calibrate(self.net.layers, data[0], FromData)
        history, best, bar = History(), _Best(self.net, patience), _Bar(progress, epochs)
        try:
            for _ in range(epochs):
                loss = epoch_of(data, batch_size, shuffle, bar)
                self._record(history, loss, validation)
                self.optimizer.measured(history["loss" if validation is None else "val_loss"][-1])
                done = best.update(history) if patience is not None else False
                bar.epoch(history)
                wishes = [callback(self, history) for callback in callbacks]
                if done or any(wishes):
                    break
        finally:
            bar.close()
            best.restore()
        return history

    def _check_rows(self, X, y, sample_weight, check_finite, training=True):
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        x, targets, weights = self._training.check(X, y, sample_weight)
        if not len(x):
            raise ValueError("X: expected at least one row, got none")
        if training and len(x) < self.net._program.least_rows:
            raise ValueError("X: expected at least two rows to take batch statistics of, got 1")
        if check_finite:
            require_finite("X", x)
            if targets.dtype.kind == "f":
                require_finite("y", targets)
        return x, targets, weights

    def _check_batches(self, batches, sample_weight):
        if not isinstance(batches, Iterable) or isinstance(batches, np.ndarray):
            raise TypeError(f"X: expected an iterable of batches where y is None, got {type(batches).__name__}; pass y")
        if sample_weight is not None:
            raise ValueError("sample_weight: expected None with an iterable of batches; yield (x, y, sample_weight)")
        self.net.require_calibrated()
        return batches

    def _rows_epoch(self, data, batch_size, shuffle, bar) -> float:
        x, targets, weights = data
        if self._training.position > len(x):
            raise ValueError(
                f"X: expected at least the {self._training.position} rows the interrupted epoch used, got {len(x)}"
            )
        order = np.arange(len(x))
        if shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        run = self._training
        while run.position < len(x):
            self.optimizer._ready()
            before = run.position
            self.optimizer._run_on(run, x, targets, weights, order, self._sizes(batch_size, len(x) - before), SLICE)
            bar.rows((run.position - before) / len(x))
        loss = run.loss_sum / run.weight_sum if run.weight_sum > 0 else 0.0
        run.position, run.loss_sum, run.weight_sum, self.epoch = 0, 0.0, 0.0, self.epoch + 1
        return loss

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

    def _batches_epoch(self, batches, batch_size, shuffle, bar) -> float:
        loss_sum, weight_sum, empty = 0.0, 0.0, True
        for batch in batches:
            skipped, loss = self.optimizer.skipped, self.step(*batch)
            weight = self._training.batch_weight
            if self.optimizer.skipped == skipped:  # a step left out does not count
                loss_sum += loss * weight
                weight_sum += weight
            empty = False
        if empty:
            raise ValueError("X: expected batches, got none; an iterable must start anew for each epoch")
        self.epoch += 1
        return loss_sum / weight_sum if weight_sum > 0 else 0.0

    def _record(self, history, loss, validation):
        history.setdefault("loss", []).append(loss)
        if validation is None:
            return
        output = self.net.predict(validation[0])
        try:
            value = measure(self.loss, output, validation[1])
        except ValueError:  # the data have been checked: a loss that is not defined, so a bad epoch
            value = np.nan
        history.setdefault("val_loss", []).append(value)
        if loss_name(self.loss) == "cross_entropy" and validation[1].ndim == 1:
            score = np.nan if np.isnan(value) else accuracy(validation[1], output)
            history.setdefault("val_accuracy", []).append(score)
        history.best_epoch = int(np.argmin(np.nan_to_num(history["val_loss"], nan=np.inf)))

    def save(self, path) -> None:
        """Write network, optimizer and position to one file, from which `resume` continues bit for bit."""
        arrays, state = pack_state(self.optimizer.state_dict())
        _files.write(path, {**files.arrays_of(self.net), **arrays}, {**self._document(), "optimizer": state})

    def _document(self):
        return {
            "kind": "trainer",
            "layers": files.describe(self.net.layers),
            "dtype": self.net.dtype.name,
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
        mine = files.arrays_of(self.net)
        try:
            expected = self._document()
            for name in ("dtype", "rule", "loss"):
                if document[name] != expected[name]:
                    raise ValueError(f"expected {name} {expected[name]}, got {document[name]}")
            moments = {n: a for n, a in arrays.items() if n.startswith("optimizer.")}
            files.check_arrays(self.net, {n: a for n, a in arrays.items() if n not in moments})
            state = unpack_state(moments, document["optimizer"])
            counts = ("seed", "epoch", "position", "batches")
            seed, epoch, position, batches = (whole_number(name, document[name], 0) for name in counts)
            loss_sum, weight_sum = (finite_number(name, document[name], 0) for name in ("loss_sum", "weight_sum"))
            calibrated = [config.pop("calibrated", None) for config in document["layers"]]
            if document["layers"] != [{k: v for k, v in c.items() if k != "calibrated"} for c in expected["layers"]]:
                raise ValueError(f"expected layers {self.net.layers}, got {document['layers']}")
            theirs = {id(a): arrays[name] for name, a in mine.items()}
            self.optimizer._load(state, [theirs[id(a)] for a in self.net.parameters()])
        except _files.MALFORMED as error:
            raise ValueError(f"{path}: does not fit this trainer ({_files.why(error)})") from error
        for name, a in mine.items():
            a[...] = arrays[name]
        for layer, known in zip(self.net.layers, calibrated, strict=True):
            if known is not None:
                layer.calibrated = known
        self.seed, self.epoch = seed, epoch
        self._training.position, self._training.batches = position, batches
        self._training.loss_sum, self._training.weight_sum = loss_sum, weight_sum

    def __getstate__(self):
        names = ("net", "loss", "seed", "epoch")
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
        self.epoch = state["epoch"]
        for name, value in progress.items():
            setattr(self._training, name, value)


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


class _Best:
    """The parameters of the best epoch, kept while early stopping watches."""

    def __init__(self, net, patience):
        self.params, self.patience = list(files.arrays_of(net).values()), patience  # running averages, too
        self.copies: list[np.ndarray] = []  # empty until an epoch has been measured

    def update(self, history) -> bool:
        """Whether to stop; keeps a copy of the parameters of a new best epoch."""
        last = len(history["val_loss"]) - 1
        if history.best_epoch == last:
            self.copies = [a.copy() for a in self.params]
        return last - history.best_epoch >= self.patience

    def restore(self):
        if self.copies:
            for a, copy in zip(self.params, self.copies, strict=True):
                a[...] = copy


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
