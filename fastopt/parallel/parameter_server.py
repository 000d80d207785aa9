"""ParameterServer: some ranks hold the parameters, the others find gradients at their own pace.

- `fit` is `Trainer.fit` on every rank, with other steps (roles.py): servers and workers measure the same at the end of
  an epoch, so schedules, early stopping and the history need no agreement of their own.
- Ranks agree by collectives of MPI before a fit and talk by single messages during it (peers.py), so that a worker can
  be lost meanwhile. The survivors of a fit go on with a communicator of their own.
"""

import contextlib

from fastopt._numbers import finite_number, flag, whole_number
from fastopt.nn import Trainer
from fastopt.nn.layers import chain
from fastopt.parallel.communicator import Communicator
from fastopt.parallel.data_parallel import SAME_ROWS, WAY_OUT, facts_of, facts_of_fit, require_whole_steps
from fastopt.parallel.roles import role_of
from fastopt.parallel.shards import Layout


class ParameterServer:
    """Trains a network whose parameters lie on some ranks, the servers, by gradients of the others, the workers.

    The first `servers` ranks have a shard of the parameters each, and the optimizer's state of it. A worker takes a
    batch, gets the parameters, sends its gradient, and takes the next: a slow worker makes fewer steps and holds
    nobody up, but gradients are applied to parameters that have changed since (Dean et al. 2012).

    Parameters
    ----------
    net : Sequential
        The same on all ranks.
    optimizer : Optimizer or str
        Over ``net.parameters()``, or the name of a rule; see Notes.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; all of the job by default.
    servers : int
        How many ranks hold parameters; one rank at least is left to work.
    max_staleness : int, optional
        How many updates a worker may be ahead of the slowest before it waits. With 0 all workers make their steps
        together, by the mean of their gradients; None never waits.
    loss : str, CrossEntropy or Huber
        As of `nn.Trainer`.
    divide_by_staleness : bool
        Divide a step by the number of updates since its worker got the parameters (Zhang et al. 2016).
    elastic : float, optional
        Average elastically (Zhang, Choromanska & LeCun 2015): workers train by themselves and meet the parameters on
        the servers, the center, from time to time. Both then move toward each other by this share of the distance;
        0.9 divided by the number of workers is usual.
    period : int
        With `elastic`: batches between two such meetings of a worker.
    seed : int
        Of the order of the rows.

    Attributes
    ----------
    trainer : Trainer
        Of this rank: the network, and after each epoch on rank 0 the optimizer's whole state.
    comm : Communicator
        ``comm.rank`` and ``comm.size`` are the number of this rank and how many there are.

    Raises
    ------
    TypeError, ValueError
        Options that do not fit, or ranks that differ, by the name of what differs. Raised on all ranks, as by every
        method.

    Notes
    -----
    Adagrad is the default, SGD without momentum the other good choice: gradients that come late act as a momentum of
    their own, so a rule with momentum has more of it than it was given and overshoots (Mitliagkas et al. 2016).
    Adagrad's steps shrink where gradients have been large, so late ones do little harm.

    A server sees the gradient of its shard only: options that need all of it (`max_norm`, `check_finite`)
    are for ``servers=1``; layers that limit the norm of rows are for none.

    With `elastic` each worker has an optimizer of its own, of any rule, momentum included, which counts that worker's
    steps; what a file holds of the optimizer is then how it started. Staleness is that of meetings, and at the end of
    an epoch all workers go back to the center.

    The order in which gradients come is another in every run unless ``max_staleness=0``, and so are the parameters.

    Started by ``mpirun --with-ft ulfm`` of Open MPI, a worker that is killed is left out with a warning on rank 0,
    and the others go on with its batches.

    Examples
    --------
    Started by ``mpiexec -n 4 python -m mpi4py train.py``, one rank serves and three work:

    >>> import numpy as np, fastopt as fo
    >>> from fastopt.parallel import ParameterServer  # doctest: +SKIP
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    >>> server = ParameterServer(net, "adagrad", max_staleness=4, loss="mse")  # doctest: +SKIP
    >>> X = np.random.default_rng(0).normal(size=(256, 2))
    >>> history = server.fit(X, X @ [1.0, 2.0], epochs=5, batch_size=32)  # doctest: +SKIP
    """

    def __init__(
        self,
        net,
        optimizer="adagrad",
        comm=None,
        servers=1,
        max_staleness=None,
        *,
        loss="cross_entropy",
        divide_by_staleness=False,
        elastic=None,
        period=1,
        seed=0,
    ):
        self.comm, self._fits = Communicator(comm), False
        with self.comm.together("ParameterServer"):
            self.comm.end_together()
            self.servers = whole_number("servers", servers)
            if self.comm.size <= self.servers:
                raise ValueError(
                    f"servers: expected fewer than the {self.comm.size} ranks, so that one is left to work, got "
                    f"{servers}; start more, like mpiexec -n {self.servers + 2}"
                )
            self.max_staleness = None if max_staleness is None else whole_number("max_staleness", max_staleness, 0)
            self.divide_by_staleness = flag("divide_by_staleness", divide_by_staleness)
            self.elastic = None if elastic is None else finite_number("elastic", elastic, above=0, most=1)
            self.period = whole_number("period", period)
            if elastic is None and self.period > 1:
                raise ValueError(f"period: expected 1 without elastic=, for gradients go batch by batch, got {period}")
            if elastic is not None and divide_by_staleness:
                raise ValueError(
                    "divide_by_staleness: expected False with elastic=, for servers make no steps, got True"
                )
            self.trainer = Trainer(net, loss, optimizer, max_batch=0, seed=seed)
            _require_steps(self.trainer)
            require_whole_steps(self.trainer)
            if elastic is None:
                _require_parts(self.trainer, self.servers)
            training = self.trainer.compiled_training
            for _, exchange in training.program.exchanges[:1]:
                raise ValueError(
                    f"net: expected layers that a worker computes by itself, got {exchange}; see DataParallel"
                )
            self._revision = net.revision
            self.layout = Layout(training.gradient, training.grads, self.servers)
            self._require_equal()

    def fit(
        self,
        X,
        y,
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
        X, y, sample_weight : array_like
            The same on all ranks; each batch of the epoch goes to the worker that asks next.
        batch_size : int or Schedule
            Rows of a batch of one worker.
        callbacks : callable, object or list of these
            Called on every rank after each epoch, none after a batch; where one returns True on any rank, training
            ends on all of them.
        progress : bool
            Show a progress bar, on rank 0 alone.
        **options
            `epochs`, `validation`, `patience`, `metrics`, `shuffle`, `check_finite` as of `Trainer.fit`, the same on
            all ranks.

        Returns
        -------
        History
            The same on all ranks, but for its `lr` and `seconds`. Its attribute `staleness` counts gradients by how
            many updates came between their parameters and them: ``{0: 120, 1: 31}``.

        Raises
        ------
        Exception
            As by `Trainer.fit`: what one rank raises, callbacks included, is raised on all. Parameters and optimizer
            are on all ranks those of the last epoch that all have ended, but for a worker's own optimizer (`elastic`).
        FloatingPointError
            The loss of a batch, or at the end of an epoch a parameter, is NaN.
        ConnectionError
            A server is lost, or all workers are.

        Warns
        -----
        UserWarning
            On rank 0: a worker is lost, and its batches go to the others.
        """
        trainer, comm = self.trainer, self.comm
        with self._together("fit"):
            if self._fits:
                raise RuntimeError("fit: expected a ParameterServer that is not training, got one in a callback of fit")
            if y is None:
                raise TypeError("y: expected targets of X, got None; DataParallel takes an iterable of batches")
            X, y, sample_weight = rows = trainer.compiled_training.check(X, y, sample_weight)
            facts = facts_of_fit(trainer, rows, epochs, batch_size, options)
            comm.agree("options of fit", facts, SAME_ROWS)
            self._require_equal()
        role, self._fits = role_of(self), True
        try:
            with role.peers.interrupts, trainer.stepping(role, trainer.net.predict):
                history = trainer.fit(
                    X,
                    y,
                    epochs,
                    batch_size,
                    sample_weight=sample_weight,
                    callbacks=role.shared(callbacks),
                    progress=bool(progress) and comm.rank == 0,
                    **options,
                )
                role.meet(False)
            role.peers.close()
        except BaseException as error:
            role.peers.fail(error)
            raise
        finally:
            self._fits = False
        if role.n_lost:
            comm.shrink()
        history.staleness = dict(sorted(role.staleness.items()))
        return history

    def save(self, path) -> None:
        """Write network, optimizer and position, as `Trainer.save` does, on rank 0; all ranks wait until it is done.

        A callback of `fit` calls ``trainer.save`` on rank 0 instead, for other ranks may be lost meanwhile.
        """
        with self._together("save"):
            if self.comm.rank == 0:
                self.trainer.save(path)

    def resume(self, path) -> None:
        """Take over what `save` or `Trainer.save` wrote, with any number of servers and workers; each reads the file.

        Raises
        ------
        OSError, ValueError
            As by `Trainer.resume`; also where the ranks have read different files.
        """
        with self._together("resume"):
            self.trainer.resume(path)
            self._require_equal()

    @contextlib.contextmanager
    def _together(self, doing):
        """A block that all ranks enter, see `Communicator.together`, with the network that this was made for."""
        with self.comm.together(doing):
            self.trainer.net.require_revision(self._revision, "ParameterServer")
            require_whole_steps(self.trainer)
            yield

    def _require_equal(self):
        """Raise ValueError on all ranks, naming what differs, unless all have the same network and options."""
        mine = {
            "servers": str(self.servers),
            "max_staleness": str(self.max_staleness),
            "divide_by_staleness": str(self.divide_by_staleness),
            "elastic": str((self.elastic, self.period)),
        }
        self.comm.agree("network and optimizer", mine | facts_of(self.trainer, with_state=False), WAY_OUT)


def _require_steps(trainer) -> None:
    """Raise TypeError unless the optimizer steps by gradients."""
    optimizer = trainer.optimizer
    if optimizer.compiled_update is None:
        raise TypeError(
            f"optimizer: expected one that steps by gradients, got {type(optimizer).__name__}, whose steps need the "
            "curvature of all rows"
        )


def _require_parts(trainer, servers) -> None:
    """Raise ValueError unless servers can make the steps of this network and optimizer, each those of its shard."""
    optimizer = trainer.optimizer
    if any(group.get("nesterov") == "interim" for group in optimizer.param_groups):
        raise ValueError("nesterov: expected True or False, for workers do not know the velocity, got 'interim'")
    if any(getattr(layer, "max_norm", None) for layer in chain.walk(trainer.net.layers)):
        raise ValueError("max_norm: expected layers without one, for workers do not step, got a layer that has it")
    shared = optimizer.__getstate__()["_shared"]
    if servers > 1 and (shared["max_norm"] is not None or shared["check_finite"] is not None):
        name = "max_norm" if shared["max_norm"] is not None else "check_finite"
        raise ValueError(f"{name}: expected None with several servers, each of which sees its own shard; use servers=1")
