"""A command on the ranks of an MPI job: all of them do it, rank 0 prints and writes.

An error of one rank is raised on all, so every rank ends; rank 0 says why. Where a rank is lost, all say so, for rank 0
may be the one.
"""

import contextlib
import os

import fastopt as fo

PARALLEL = ("data", "server")  # ways to divide the work


@contextlib.contextmanager
def job(parallel):
    """A block that every rank of the job enters; gives its `Communicator`, or None where `parallel` is None."""
    if parallel is None:
        yield None
        return
    from fastopt.parallel import Communicator

    comm = Communicator()
    comm.end_together()
    with contextlib.ExitStack() as stack:
        if comm.rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            with comm.together("the command"):
                yield comm
        except Exception as error:
            if comm.rank and not isinstance(error, ConnectionError):  # rank 0 has the same error, and prints it
                raise SystemExit(2) from None
            raise


def is_first(comm) -> bool:
    """Whether this process writes files."""
    return comm is None or comm.rank == 0


def workers(comm, wanted) -> int:
    """How many batches an update takes: one of each rank that works, but for workers at their own pace."""
    if comm is None:
        return 1
    if wanted["parallel"] == "data":
        return comm.size
    return max(1, comm.size - wanted["servers"]) if wanted["max_staleness"] == 0 else 1


def fit(net, loss, optimizer, seed, comm, wanted, *data, **options):
    """`Trainer.fit` of this network on this process, or together with the other ranks."""
    if comm is None:
        return fo.nn.Trainer(net, loss, optimizer, seed=seed).fit(*data, **options)
    from fastopt.parallel import DataParallel, ParameterServer

    if wanted["parallel"] == "data":
        return DataParallel(fo.nn.Trainer(net, loss, optimizer, seed=seed)).fit(*data, **options)
    server = ParameterServer(net, optimizer, None, wanted["servers"], wanted["max_staleness"], loss=loss, seed=seed)
    history = server.fit(*data, **options)
    if server.comm.size < comm.size:
        comm.shrink()
    return history
