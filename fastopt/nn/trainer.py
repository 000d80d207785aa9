"""The Trainer: a network, a loss and an optimizer, bound once; whole steps and epochs in one call.

- `step` and `fit` run the network's compiled program without the GIL. `fit` leaves it after at most SLICE seconds,
  so that Ctrl-C, callbacks and the progress bar get their turn.
- Network and optimizer are touched by their public methods only. What steps is the compiled training itself, or what
  the optimizer puts in its place (`Optimizer.stepper`), or for a while what `stepping` is given.
- The order of an epoch comes from a generator keyed by (seed, epoch): a resumed run continues bit for bit, wherever it
  was interrupted.
- Beside this file: what `fit` is given (fit_data.py), the steps of an epoch (epochs.py), its end (fitting.py),
  early_stopping.py, run_files.py, progress.py, and where new layers fit (replacement.py).
"""

import contextlib

import numpy as np

from fastopt import _files
from fastopt._kernels import core
from fastopt._numbers import whole_number
from fastopt.nn import files, fit_data
from fastopt.nn.alone import Alone
from fastopt.nn.callable_loss import stepper_of
from fastopt.nn.early_stopping import BestEpoch, Stopping
from fastopt.nn.epochs import batches_epoch, rows_epoch
from fastopt.nn.evaluation import metrics_of_fit
from fastopt.nn.fitting import Fit
from fastopt.nn.layers import Layer
from fastopt.nn.progress import History, ProgressBar, Stopwatch, warn_of_waiting_gradients
from fastopt.nn.replacement import regrouped, require_parameters
from fastopt.nn.run_files import LARGEST_SEED, checked_run, write_run
from fastopt.optim.named import optimizer_anew, optimizer_over

SLICE = 0.05  # seconds between returns to Python: half of what Ctrl-C may have to wait
COMPILED = ("net", "loss", "optimizer")  # what a Trainer is bound to for life
PROGRESS = ("position", "batches", "loss_sum", "weight_sum")  # of the compiled training, within an epoch
_Best = BestEpoch  # its name in pickles of earlier versions


class Trainer:
    """Trains a network.

    Parameters
    ----------
    net : Sequential
    loss : str, CrossEntropy, Huber or callable
        cross_entropy and binary_cross_entropy (both on logits), mse, mae, huber; `CrossEntropy` and `Huber`
        carry options. ``loss(y_pred, y) -> (value, grad)``, as for `Sequential.value_and_grad`, is called between
        forward and backward of each step, which is slower than a loss that is compiled.
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
        optimizer = optimizer_over(net.parameters(), optimizer)
        require_parameters(optimizer, net)
        seed, max_batch = whole_number("seed", seed, 0, LARGEST_SEED), whole_number("max_batch", max_batch, 0)
        self._training = net.bind(loss, optimizer.compiled_update, max_batch)
        self._stepper, self._predict = stepper_of(loss, optimizer, self._training), net.predict
        self._switches, self._lent = Layer.switches, False
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self._seed, self._stopping, self._revision = seed, Stopping(), net.revision
        self._alone, self._watch = Alone(), Stopwatch()

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

    def _require_current(self):
        self.net.require_revision(self._revision, "Trainer")

    def _prepare(self):
        self.net.require_revision(self._revision, "Trainer")  # at every step: without one more call
        self.optimizer.prepare()

    def _take_up_switches(self):
        """Compile the steps anew where layers of the network have been frozen or thawed."""
        self._require_current()
        self.optimizer.require_idle()
        switches = Layer.switches
        if self.net.derivative_program() is not self._training.program:
            if self._lent:
                raise RuntimeError("trainable: expected to stay while ranks train together, got a change")
            self._training, self._stepper = self._bound_anew()
        self._switches = switches

    def _bound_anew(self):
        """The compiled training of the network as it is now, where the present one stands, and what steps it."""
        training = self.net.bind(self.loss, self.optimizer.compiled_update, self._training.max_batch)
        for name in ("epoch", *PROGRESS):
            setattr(training, name, getattr(self._training, name))
        return training, stepper_of(self.loss, self.optimizer, training)

    def step(self, x, y, sample_weight=None) -> float:
        """One batch: forward, loss, backward, update, in one call without the GIL.

        Parameters
        ----------
        x : array_like, shape ``(n, *input_shape)``
        y : array_like
            Classes (n,) or probabilities (n, out) for cross_entropy, probabilities (n, out) for binary_cross_entropy,
            values (n, out) for the others; of a single output also values (n,). Images have a target at each position,
            classes (n, height, width) or (n, height, width, out).
        sample_weight : array_like, shape (n,), optional
            One a sample, and of an image for each of its positions. The loss is then ``sum(w * l) / sum(w)``.

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
        if self._switches != Layer.switches and not (self._alone.held and self._training.position):
            self._take_up_switches()  # not for a callback within an epoch of `fit`, which goes on with its own steps
        self._prepare()
        best = self._stopping.best
        if best is None or best.last is None:
            return self._stepper.step(x, y, sample_weight)
        try:
            self._stopping.go_on(self._arrays)
            return self._stepper.step(x, y, sample_weight)
        except BaseException:
            self._stopping.show_best(self._arrays)
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
        metrics=None,
        sample_weight=None,
        shuffle=True,
        callbacks=(),
        progress=False,
        check_finite=False,
    ) -> History:
        """Train for some epochs.

        Parameters
        ----------
        X : array_like, shape ``(n, *input_shape)``, or iterable of batches
            Samples, or (x, y) or (x, y, sample_weight) tuples; an iterable must start anew for each epoch.
        y : array_like, optional
            Targets of X, as for `step`; None if X is an iterable of batches.
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
        metrics : str, callable, list or dict of these, optional
            What to measure besides the loss after every epoch, see `Sequential.evaluate`: under its name of the rows in
            X, in inference mode, for which they are predicted once more; with ``val_`` before it of `validation`.
            Those of an iterable of batches are not measured.
        sample_weight : array_like, shape (n,), optional
            Weights of the samples in X.
        shuffle : bool
            Visit the rows in a new order each epoch.
        callbacks : callable, object or list of these
            Called as ``callback(trainer, history)`` after each epoch, as is the method ``on_epoch_end`` of an object.
            Its ``on_batch_end(trainer, epoch, batch, loss)`` is called after each batch, with the epoch under way,
            counted from 0, how many batches this trainer has trained on, and the loss of the batch before its update.
            One that returns True ends training; after a batch, the epoch ends there, is measured and counts as done.
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

        Where a callback has ``on_batch_end``, each batch is a call of its own, which is slower; else the compiled code
        makes many steps in a row. The steps have the same bits.

        After an exception, Ctrl-C included, the next `fit` goes on where this one stood, early stopping included: from
        the last step, not from the best epoch that the network shows meanwhile. `abandon_fit` prevents that.
        """
        self._require_current()
        callbacks, rows, least = fit_data.checked_callbacks(callbacks), None, self.net.least_rows
        epochs, batch_size, patience = fit_data.checked_numbers(epochs, batch_size, patience, validation)
        with self._alone():
            if y is None:
                batches = fit_data.checked_batches(X, sample_weight, epochs)
                self.net.require_calibrated()
            else:
                rows = fit_data.checked_rows(self._training, self.loss, X, y, sample_weight, check_finite)
                first = self._training.batches + 1
                fit_data.require_sizes(batch_size, len(rows[0]), self._training.position, first, least)
            if validation is not None:
                validation = fit_data.checked_validation(self._training, self.loss, validation, check_finite)
            if metrics is not None:
                metrics = metrics_of_fit(metrics, self.loss, self.net.out_features, rows, validation)
            self.optimizer.require_idle()
            self._prepare()
            bar = ProgressBar(progress, epochs)

            def after_batch(loss):
                told = (self, self.epoch, self._training.batches, loss)
                return fit_data.wish_to_end([callback(*told) for callback in callbacks.after_batch])

            def train():
                nonlocal least
                if self._switches != Layer.switches:
                    self._take_up_switches()
                    least = self.net.least_rows  # more, where a BatchNorm has been thawed
                    if rows is not None:
                        at = self._training.position, self._training.batches + 1
                        fit_data.require_sizes(batch_size, len(rows[0]), *at, least)
                how = (self._training, self._stepper, self._prepare, after_batch if callbacks.after_batch else None)
                if y is None:
                    return batches_epoch(*how, batches, check_finite)
                key = (self.seed, self.epoch) if shuffle else None
                return rows_epoch(*how, rows, key, batch_size, least, SLICE, bar)

            try:
                self._stopping.go_on(self._arrays)
                if patience is None:
                    self._stopping.best = None
                if rows is not None and not all(layer.calibrated for layer in self.net.layers):
                    self.net.calibrate(rows[0], batch_norm=False)
                kept = (self._stopping, self._watch, self._arrays, self._predict)
                history = Fit(self, *kept, rows, validation, patience, metrics, callbacks, bar).run(train, epochs)
            except BaseException:
                self._stopping.show_best(self._arrays)
                raise
            finally:
                bar.close()
        warn_of_waiting_gradients(self.optimizer)
        return history

    @contextlib.contextmanager
    def stepping(self, stepper, predict):
        """A block in which another object makes the steps, see `Optimizer.stepper`, and `predict` those of validation.

        Ranks of an MPI job train together by it (`fastopt.parallel`).
        """
        own = self._stepper, self._predict, False
        self._stepper, self._predict, self._lent = stepper, predict, True
        try:
            yield
        finally:
            self._stepper, self._predict, self._lent = own

    @property
    def compiled_training(self) -> core.Training:
        """The compiled training, which such an object calls."""
        return self._training

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
            self._stopping.best, self._watch = None, Stopwatch()
            if self._training.position:
                self._training.end_epoch()

    def replace(self, layer, layers, rng=None) -> None:
        """Put layers in the place of one of the network's, and go on with all other parameters and their state.

        New parameters start with fresh state, as by `Optimizer.add_param_group`, in the group of the old ones. Where
        the old weight and bias were in different groups, the new last bias joins that of the bias.

        Parameters
        ----------
        layer : Layer
            One of the network's, or inside one of them. What was bound to it raises from then on: another Trainer of
            this network, a `parallel.DataParallel` of this one.
        layers, rng
            As for `Sequential.replace`; layers such as those of `lowrank.factorize`.

        Raises
        ------
        TypeError, ValueError
            Layers that do not fit the place, the loss, or the groups of the optimizer, or an interrupted `fit` that is
            not over; nothing has been changed then.
        RuntimeError
            Called by a callback of `fit`; nothing has been changed then.

        Examples
        --------
        >>> import fastopt as fo
        >>> net = fo.nn.Sequential([fo.nn.Dense(64, 32, activation="relu"), fo.nn.Dense(32, 3)], rng=0)
        >>> trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
        >>> trainer.replace(net.layers[0], fo.lowrank.factorize(net.layers[0], "svd", rank=4))
        >>> [a.shape for a in trainer.optimizer.parameters()]
        [(4, 64), (32, 4), (32,), (3, 32), (3,)]
        """
        with self._alone():
            self._require_current()
            if self._training.position or self._stopping.best is not None:
                raise ValueError("layers: expected to stay until the interrupted fit is over; abandon_fit() drops it")
            require_parameters(self.optimizer, self.net)
            net, optimizer, old = self.net, self.optimizer, dict(vars(self))
            try:
                with (
                    net.replacing(layer, layers, rng) as made,
                    optimizer.regrouping(regrouped(net, optimizer.param_groups, layer, made)),
                ):
                    training, stepper = self._bound_anew()
                    self._revision, self._training, self._stepper = net.revision, training, stepper
            except BaseException:
                if net.revision != self._revision:  # the old layer is back
                    vars(self).update(old)
                raise

    # --- what a file and a pickle hold

    def _arrays(self) -> list[np.ndarray]:
        """What early stopping keeps: parameters, running averages and seeds."""
        self._require_current()
        return list(files.arrays_of(self.net).values())

    def save(self, path, write=_files.write) -> None:
        """Write network, optimizer and position to one file, from which `resume` continues bit for bit."""
        self._require_current()
        progress = {name: getattr(self._training, name) for name in ("epoch", *PROGRESS)}
        write_run(path, self, progress, self._watch.seconds, self._stopping.left(self._arrays), write)

    def resume(self, path, read=_files.read) -> None:
        """Take over what `save` wrote for a trainer of the same network, loss and rule.

        Raises
        ------
        OSError
            The file is missing or unreadable.
        ValueError
            It is damaged or belongs to another network, loss or rule; nothing has been changed then.
        """
        arrays, document = read(path, "trainer")
        with self._alone():
            self._require_current()
            mine = files.arrays_of(self.net)
            try:
                run = checked_run(arrays, document, self)
                started = {id(a): run.arrays[name] for name, a in mine.items()}
                self.optimizer.restore(run.optimizer, [started[id(a)] for a in self.net.parameters()])
            except _files.MALFORMED as error:
                raise ValueError(f"{path}: does not fit this trainer ({_files.why(error)})") from error
            core.copy_arrays(list(mine.values()), list(run.arrays.values()))
            files.tell_copied(self.net, run.stored)
            self.net.metadata = run.metadata
            for layer, known in zip(self.net.layers, run.calibrated, strict=True):
                layer.calibrated = known
            self._stopping.best, self._watch, self._seed = run.stopping, Stopwatch(run.seconds), run.seed
            for name, value in run.progress.items():
                setattr(self._training, name, value)

    def __getstate__(self):
        self._require_current()
        return {
            **{name: getattr(self, name) for name in ("net", "loss", "seed", "epoch")},
            "_stopping": self._stopping.best,
            "seconds": self._watch.seconds,
            "optimizer": (type(self.optimizer), self.optimizer.__getstate__()),
            "progress": {name: getattr(self._training, name) for name in (*PROGRESS, "max_batch")},
        }

    def __setstate__(self, state):
        rule, theirs = state["optimizer"]
        optimizer, progress = optimizer_anew(rule, theirs, state["net"].parameters()), dict(state["progress"])
        Trainer.__init__(self, state["net"], state["loss"], optimizer, progress.pop("max_batch"), state["seed"])
        self.epoch, self._stopping.best = state["epoch"], state.get("_stopping")
        self._watch = Stopwatch(state.get("seconds", 0.0))
        for name, value in progress.items():
            setattr(self._training, name, value)
