"""DataParallel: a Trainer on every rank of an MPI job, all making the same steps.

- Every rank holds the whole network and optimizer. They start equal, which is checked by digests, and stay equal, for
  every rank applies the same gradients by the same kernels (stepper.py).
- `fit` is `Trainer.fit` on every rank. What it measures is the same number on all of them, so schedules and early
  stopping need no agreement of their own; a callback's wish to stop does.
- All calls are made by all ranks, and an error on one of them is raised on all (communicator.py).
"""

import contextlib
import os
import tempfile

import numpy as np

import fastopt
from fastopt._kernels import isa
from fastopt.nn import Trainer, files, load
from fastopt.nn.evaluation import evaluated, metrics_of
from fastopt.nn.fit_data import checked_batches, checked_callbacks, wish_to_end
from fastopt.nn.layers import chain
from fastopt.nn.losses import describe_loss, is_callable
from fastopt.optim.state import pack_state
from fastopt.parallel.communicator import Communicator, digest
from fastopt.parallel.grid import Grid
from fastopt.parallel.model_parallel import require_grid
from fastopt.parallel.reduction import REDUCTIONS
from fastopt.parallel.stepper import Batches, Stepper
from fastopt.parallel.whole_files import WholeFiles
from fastopt.schedules import Schedule

STATISTICS = ("local", "synchronized")
SAMPLE = 64  # rows by which ranks see that they have the same data
WAY_OUT = "make network and optimizer the same way on all ranks, with the same rng, or load the same file"
SAME_ROWS = "every rank takes its share of the same rows; for rows of its own, pass an iterable of batches"


class DataParallel:
    """Trains one network on several ranks, each of which finds the gradients of its own rows.

    M ranks with batches of B rows make the steps of one worker with batches of M·B rows, to rounding.

    Parameters
    ----------
    trainer : Trainer
        Of this rank; network, loss, optimizer and seed are the same on all ranks.
    comm : mpi4py.MPI.Intracomm or Grid, optional
        The ranks; all of the job by default. With a `Grid` its groups take the place of ranks: the ranks of a group
        get the same batches, and each holds a part of the layers that are split (`ColumnParallelDense`).
    reduce : {"ordered", "fast"}
        Gradients are added in rank order, so that the bits depend on the number of ranks only, and are those of one
        Trainer whose optimizer has ``accumulate=M``; or in the order that the MPI prefers.
    batch_norm : {"local", "synchronized"}
        `BatchNorm` takes the statistics of the rows of its rank, or those of the rows of all ranks' batches.

    Attributes
    ----------
    trainer : Trainer
    comm : Communicator
        ``comm.rank`` and ``comm.size`` are the number of this rank and how many there are.

    Raises
    ------
    TypeError, ValueError
        A trainer, communicator or `reduce` that does not fit, or ranks that differ, by the name of what differs:
        versions, instruction sets, layers, options, arrays. Raised on all ranks, as by every method.

    Notes
    -----
    The running averages of local statistics are each rank's own within an epoch and after `step`; at the start of
    `fit`, at the end of its epochs and in `save` all ranks get their mean. Synchronized ones are the same on all ranks,
    and those of one worker with M·B rows; so they do with few rows a rank, even one. Ranks wait for each other at every
    `BatchNorm` then, forward and backward.

    `Dropout` and augmentation draw other numbers on each rank: those that one Trainer draws for the same batches.

    Examples
    --------
    Of a script that is started by ``mpiexec -n 4 python -m mpi4py train.py``; each rank takes every fourth batch:

    >>> import numpy as np, fastopt as fo
    >>> from fastopt.parallel import DataParallel
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    >>> parallel = DataParallel(fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1)))
    >>> X = np.random.default_rng(0).normal(size=(256, 2))
    >>> history = parallel.fit(X, X @ [1.0, 2.0], epochs=20, batch_size=16)
    >>> net.layers[0].weight.round(2)
    array([[1., 2.]], dtype=float32)
    """

    def __init__(self, trainer, comm=None, reduce="ordered", batch_norm="local"):
        self.grid = comm if isinstance(comm, Grid) else None
        self.comm = Communicator(comm) if self.grid is None else self.grid.comm
        with self.comm.together("DataParallel"):
            self.comm.end_together()
            if not isinstance(trainer, Trainer):
                raise TypeError(f"trainer: expected an nn.Trainer, got {type(trainer).__name__}")
            if trainer.optimizer.compiled_update is None:
                raise TypeError(
                    f"trainer: expected an optimizer that steps by gradients, got {type(trainer.optimizer).__name__}, "
                    "whose steps need the curvature of all rows"
                )
            if reduce not in REDUCTIONS:
                raise ValueError(f"reduce: expected {' or '.join(map(repr, REDUCTIONS))}, got {reduce!r}")
            if batch_norm not in STATISTICS:
                raise ValueError(f"batch_norm: expected {' or '.join(map(repr, STATISTICS))}, got {batch_norm!r}")
            require_whole_steps(trainer)
            require_grid(trainer, self.grid)
            synchronized = batch_norm == "synchronized"
            if synchronized and self.grid is not None and self.grid.model.size > 1:
                raise ValueError("batch_norm: expected 'local' on a grid of several model ranks, got 'synchronized'")
            self.trainer, self.reduce, self.batch_norm = trainer, reduce, batch_norm
            self._revision = trainer.net.revision
            self._stepper = Stepper(
                self.comm, trainer.optimizer, trainer.compiled_training, trainer.net, self.grid, synchronized
            )
            split = self._stepper.group.divided
            self._files = WholeFiles(self.comm, self.grid, self._stepper.group, trainer.net) if split else None
            self._require_equal()
            self._stepper.prepare_sums(reduce)

    def step(self, x, y, sample_weight=None) -> float:
        """One step of all ranks, each on a batch of its own.

        Parameters
        ----------
        x, y, sample_weight
            As of `Trainer.step`; ranks may have different numbers of rows, also none as long as one has some.

        Returns
        -------
        float
            Mean loss over the rows of all ranks, before the update.

        Raises
        ------
        TypeError, ValueError
            Data of some rank that does not fit; nothing has been changed then.
        FloatingPointError
            As of `Trainer.step`.
        """
        try:
            with self.comm.interrupts, self.trainer.stepping(self._stepper, self._stepper.predict):
                self._require_current()
                return self.trainer.step(x, y, sample_weight)
        except BaseException as error:
            if not self.comm.knows(error):
                self.comm.fail(error)
            raise

    def fit(
        self,
        X,
        y=None,
        epochs=1,
        batch_size=32,
        *,
        sample_weight=None,
        callbacks=(),
        progress=False,
        **options,
    ):
        """Train for some epochs, as `Trainer.fit` does, whose parameters these are.

        Parameters
        ----------
        X, y, sample_weight
            The same on all ranks: batches of the epoch go to the ranks in turn. Or an iterable of batches of this
            rank's own; a rank whose batches are used up waits for the others.
        batch_size : int or Schedule
            Rows of a batch of one rank; an update takes a batch from each.
        validation : tuple, optional
            The same on all ranks, which predict a part of it each.
        callbacks : callable, object or list of these
            Called on every rank after each epoch, none after a batch; where one returns True on any rank, training
            ends on all of them.
        progress : bool
            Show a progress bar, on rank 0 alone.
        **options
            `epochs`, `patience`, `metrics`, `shuffle`, `check_finite` as of `Trainer.fit`, the same on all ranks.

        Returns
        -------
        History
            The same on all ranks, but for its seconds.

        Raises
        ------
        Exception
            As by `Trainer.fit`: what one rank raises, callbacks included, is raised on all.
        """
        trainer, comm = self.trainer, self.comm
        with self._together("fit"):
            rows = None
            if y is None:
                X = Batches(self._stepper, checked_batches(X, sample_weight, epochs))
            else:
                X, y, sample_weight = rows = trainer.compiled_training.check(X, y, sample_weight)
            facts = facts_of_fit(trainer, rows, epochs, batch_size, options)
            comm.agree("options of fit", facts, SAME_ROWS)
            self._stepper.average_statistics()
            self._require_equal()
            with trainer.stepping(self._stepper, self._stepper.predict):
                return trainer.fit(
                    X,
                    y,
                    epochs,
                    batch_size,
                    sample_weight=sample_weight,
                    callbacks=self._shared(callbacks),
                    progress=bool(progress) and comm.rank == 0,
                    **options,
                )

    def _shared(self, callbacks):
        """One callback that calls those of this rank, and wishes to stop where any rank does."""
        own = checked_callbacks(callbacks, after_batch=False).after_epoch

        def call(trainer, history):
            wish = wish_to_end([callback(trainer, history) for callback in own])
            if self.reduce == "fast":  # no MPI promises the same bits on all ranks
                self._require_equal()
            return bool(self.comm.tell("end an epoch", wish).any())

        return call

    def save(self, path) -> None:
        """Write network, optimizer and position, as `Trainer.save` does, on rank 0; all ranks wait until it is done.

        Layers that are split over a grid are written whole, part after part: no rank holds all of them.

        Raises
        ------
        OSError
            As by `Trainer.save`.
        ValueError
            Within an epoch of batches of their own, ranks have used different numbers of rows.
        """
        with self._together("save"):
            used = {"rows of the epoch under way": str(self.trainer.compiled_training.position)}
            self.comm.agree("save", used, "save at the end of an epoch, where ranks have batches of their own")
            self._stepper.average_statistics()
            if self._files is not None:
                self.trainer.save(path, self._files.write)
            elif self.comm.rank == 0:
                self.trainer.save(path)

    def resume(self, path) -> None:
        """Take over what `save` wrote, on any number of ranks and any grid; each reads of the file what it holds.

        Raises
        ------
        OSError, ValueError
            As by `Trainer.resume`; also where the ranks have read different files.
        """
        with self._together("resume"):
            if self._files is not None:
                self.trainer.resume(path, self._files.read)
            else:
                self.trainer.resume(path)
            self._require_equal()

    def predict(self, X) -> np.ndarray:
        """What the network predicts for samples X, the same on all ranks, which divide them; all get all of it.

        Parameters
        ----------
        X : array_like
            As of `Sequential.predict`.

        Returns
        -------
        ndarray, shape ``(n, *output_shape)``
        """
        with self._together("predict"):
            X = self.trainer.net.compiled_program.rows(X, "X")
            self.comm.agree("data to predict", _sample("X", X), SAME_ROWS)
            return self._stepper.predict(X)

    def evaluate(self, X, y, *, sample_weight=None, metrics=None) -> float | dict[str, float]:
        """Mean loss of the trainer over a data set, the same on all ranks, in inference mode; see `predict`.

        Parameters
        ----------
        X, y, sample_weight, metrics
            As of `Sequential.evaluate`.

        Returns
        -------
        float, or dict
        """
        with self._together("evaluate"):
            loss = self.trainer.loss
            metrics = metrics_of(metrics, loss, self.trainer.net.out_features, sample_weight is not None)
            return evaluated(loss, self.predict(X), y, sample_weight, metrics)

    def gather(self):
        """A plain network of all that the ranks hold of this one, on rank 0; None on the others.

        Returns
        -------
        Sequential or None
            A copy. Rank 0 needs the memory for all of it, which goes through a temporary file.
        """
        with self._together("gather"), tempfile.TemporaryDirectory() as folder:
            path, net = os.path.join(folder, "network.safetensors"), self.trainer.net
            self._stepper.average_statistics()
            if self._files is not None:
                net.save(path, write=self._files.write)
            elif self.comm.rank == 0:
                net.save(path)
            return load(path) if self.comm.rank == 0 else None

    @contextlib.contextmanager
    def _together(self, doing):
        """A block that all ranks enter, see `Communicator.together`, with the network that this was made for."""
        with self.comm.together(doing):
            self._require_current()
            yield

    def _require_current(self):
        self.trainer.net.require_revision(self._revision, "DataParallel")
        require_whole_steps(self.trainer)

    def _require_equal(self):
        """Raise ValueError on all ranks, naming what differs, unless all have the same network and optimizer."""
        facts = {"reduce": self.reduce, "batch_norm": self.batch_norm} | facts_of(self.trainer)
        if self._stepper.group.size > 1:
            self._stepper.group.require_equal(facts)
        self.comm.agree("network and optimizer", facts, WAY_OUT)


def facts_of_fit(trainer, rows, epochs, batch_size, options) -> dict[str, str]:
    """Facts of the arguments of `fit` that all ranks must share; `rows` (X, y, sample_weight) are None for batches."""
    facts = {"epochs": repr(epochs), "batch_size": _text(batch_size), "kind": "batches" if rows is None else "rows"}
    facts |= {name: _text(value) for name, value in options.items() if name != "validation"}
    names = ("X", "y", "sample_weight")
    if rows is not None:
        for name, data in zip(names, rows, strict=True):
            facts |= _sample(name, data)
        facts["position"] = str(trainer.compiled_training.position)
    validation = options.get("validation")
    if isinstance(validation, tuple | list):
        for name, data in zip(names, validation, strict=False):
            facts |= _sample(f"validation {name}", data)
    return facts


def require_whole_steps(trainer) -> None:
    """Raise ValueError unless steps are compiled whole: a loss that is no callable, and no layer that is frozen."""
    if is_callable(trainer.loss):
        raise ValueError("loss: expected one that is compiled, for ranks step together, got a callable")
    for layer in chain.walk(trainer.net.layers):
        if not layer.trainable:
            raise ValueError(
                f"trainer: expected layers that are all trainable, for ranks step together, got {layer!r}; train those "
                "after the frozen ones as a network of their own, on what `outputs` gives"
            )


def facts_of(trainer, with_state=True) -> dict[str, str]:
    """Facts of a trainer that all ranks must share; the optimizer's state is left out where ranks divide it."""
    net, optimizer = trainer.net, trainer.optimizer.__getstate__(copy=False)  # its options for all groups as well
    moments, state = pack_state(optimizer["state"])
    arrays = files.arrays_of(net)
    facts = {
        "version of fastopt": fastopt.__version__,
        "instruction set (FASTOPT_ISA)": isa,
        "dtype": str(net.dtype),
        "input_shape": str(net.input_shape),
        **{f"layers.{i}": repr(layer) for i, layer in enumerate(net.layers)},
        "loss": str(describe_loss(trainer.loss)),
        "rule": state["rule"],
        "options of the optimizer": f"{state['param_groups']} {optimizer['_shared']}",
        "seed": str(trainer.seed),
        "epoch": str((trainer.epoch, trainer.compiled_training.batches)),
    }
    if with_state:
        facts["steps"] = str((state["steps"], state["accumulated"], state["state"]))
        arrays |= moments
    return facts | {name: f"{a.dtype} {a.shape} {digest(np.ascontiguousarray(a)).hex()}" for name, a in arrays.items()}


def _text(value) -> str:
    """An option as text: a schedule by its options, an object of another kind by its type."""
    if isinstance(value, Schedule):
        return str(value.config())
    return repr(value) if isinstance(value, int | float | bool | str | None) else type(value).__name__


def _sample(name, data) -> dict[str, str]:
    """Facts of data that all ranks must share: shape, and a digest of some of the rows."""
    if data is None:
        return {name: "none"}
    data = np.asarray(data)
    facts = {f"{name}: shape": f"{data.dtype} {data.shape}"}
    if len(data) and not data.dtype.hasobject:
        rows = data[:: max(1, len(data) // SAMPLE)]
        facts[f"{name}: rows"] = digest(np.ascontiguousarray(rows)).hex()
    return facts
