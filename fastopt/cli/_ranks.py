"""A command on the ranks of an MPI job: all of them do it, rank 0 prints and writes.

An error of one rank is raised on all, so every rank ends; rank 0 says why.
"""

import contextlib
import os

PARALLEL = ("data",)  # ways to divide the work


@contextlib.contextmanager
def job(parallel):
    """A block that every rank of the job enters; gives its `Communicator`, or None where `parallel` is None."""
    if parallel is None:
        yield None
        return
    from fastopt.parallel import Communicator

    comm = Communicator()
    with contextlib.ExitStack() as stack:
        if comm.rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            with comm.together("the command"):
                yield comm
        except Exception:
            if comm.rank:  # rank 0 has the same error, and prints it
                raise SystemExit(2) from None
            raise


def is_first(comm) -> bool:
    """Whether this process writes files."""
    return comm is None or comm.rank == 0


def fit_together(trainer):
    """`fit` of this Trainer together with those of the other ranks."""
    from fastopt.parallel import DataParallel

    return DataParallel(trainer).fit
