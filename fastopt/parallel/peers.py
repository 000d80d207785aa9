"""Messages between single ranks, of which some may be lost: what a parameter server is built on.

- A stream leads from each rank to each of its peers. A message is a header of a few numbers and perhaps some bytes;
  MPI keeps their order, so one tag serves for all.
- Nothing here is a collective of MPI, for those end where one rank is gone. Under Open MPI's fault tolerance a lost
  rank is noticed by the header that every rank waits for from it, and shows as a message of its own.
- Every stream ends with CLOSED or FAILED and is read until then, also after an error: the next streams between the
  same ranks meet no message of these.
- A rank that waits looks again and again and soon sleeps in between, the longer the longer it has waited.
"""

import json
import time
from collections import deque
from typing import NamedTuple

import numpy as np

from fastopt.parallel.communicator import Interrupts, error_named, is_loss, pause

TAG = 1
NUMBERS = 3  # of a message, besides its kind and its bytes
CLOSED, FAILED, LOST = -1, -2, -3  # kinds; those of the caller are above 0
NOTHING = np.empty(0, np.uint8)


class Message(NamedTuple):
    """What a peer has sent; `data`, in uint8, is valid until it sends as much again."""

    rank: int
    kind: int
    numbers: list[float]
    data: np.ndarray


class Peers:
    """The streams between this rank and some others, until `close` or `fail`.

    Parameters
    ----------
    comm : Communicator
    ranks : iterable of int
        The peers; each has this rank among its own.
    needed : iterable of int
        Those whose loss is an error; another's is a message of kind LOST.
    """

    def __init__(self, comm, ranks, needed):
        self.comm, self.needed, self.alive = comm, set(needed), sorted(ranks)
        self._incoming = {rank: _Incoming(comm.mpi, rank) for rank in self.alive}
        self._outgoing: dict[int, list] = {rank: [] for rank in self.alive}  # (request, what it reads) by peer
        self._queue: deque[Message] = deque()
        self.interrupts = Interrupts()  # a Ctrl-C waits, see `let_interrupt`
        self._ending = False
        self.error: BaseException | None = None  # that a peer has told

    def send(self, rank, kind, *numbers, data=None) -> None:
        """Start a message, also to a rank that is lost; the caller leaves `data` alone until the rank has it."""
        if rank not in self.alive:
            return
        header = np.zeros(2 + NUMBERS)
        data = NOTHING if data is None else np.frombuffer(data, np.uint8)
        header[0], header[1], header[2 : 2 + len(numbers)] = kind, data.size, numbers
        with self.interrupts:
            for part in (header, data):
                try:
                    if part.size:
                        self._outgoing[rank].append((self.comm.mpi.Isend(part, rank, TAG), part))
                except Exception as error:
                    if not is_loss(error):  # which shows where messages come in
                        raise

    def receive(self) -> Message:
        """The next message of any peer; here a Ctrl-C is let through."""
        self.let_interrupt()
        self._until(lambda: self._queue)
        return self._queue.popleft()

    def take(self, rank) -> Message:
        """The next message of one peer; others keep their place, also an error, for this peer may have sent before."""
        self._until(lambda: self._of(rank) is not None or self._incoming[rank].ended, patient=True)
        place = self._of(rank)
        if place is None:
            raise self.error or RuntimeError(f"rank {rank} has ended before this one")
        message = self._queue[place]
        del self._queue[place]
        return message

    def let_interrupt(self) -> None:
        """Raise KeyboardInterrupt if there was one: where all ranks can end at one place."""
        if self.interrupts.pending:
            self.interrupts.pending = False
            raise KeyboardInterrupt

    def _of(self, rank):
        """The place of a peer's first message in the queue, or None."""
        return next((place for place, message in enumerate(self._queue) if message.rank == rank), None)

    def close(self) -> None:
        """End all streams, once every peer has come so far; raises the error that one has told instead."""
        self._end(CLOSED)
        if self.error is not None:
            raise self.error

    def fail(self, error) -> None:
        """End all streams with an error, which the peers raise as well."""
        text = str(error) if error is self.error else f"rank {self.comm.rank}: {error}"
        self.needed = set()
        error.known_to = self.comm.mpi  # type: ignore[attr-defined]  # see `Communicator`
        self._end(FAILED, json.dumps([type(error).__name__, text]).encode())

    def _until(self, condition, patient=False):
        began = time.perf_counter()
        while not condition():
            if self._poll():
                began = time.perf_counter()
            else:
                pause(time.perf_counter() - began)
            if self.error is not None and not patient:
                raise self.error
            if not patient:
                self.let_interrupt()

    def _end(self, kind, data=None):
        """Send the last message, read every stream to its end, and wait until everything has been sent."""
        if not self._ending:
            self._ending = True
            for rank in self.alive:
                self.send(rank, kind, data=data)
        began = time.perf_counter()
        while any(not self._incoming[rank].ended or self._outgoing[rank] for rank in self.alive):
            self._poll()
            self._queue.clear()
            pause(time.perf_counter() - began)

    def _poll(self) -> bool:
        """Let messages move, queue those that have come, and tell whether there was one."""
        found = False
        with self.interrupts:
            for rank in list(self.alive):
                try:
                    message = self._incoming[rank].poll()
                    outgoing = self._outgoing[rank]
                    while outgoing and outgoing[0][0].Test():
                        outgoing.pop(0)
                except Exception as error:
                    if not is_loss(error):
                        raise
                    message = self._lose(rank)
                if message is not None:
                    found = True
                    self._take_in(message)
        return found

    def _take_in(self, message):
        if message.kind == FAILED:
            self.error = self.error or error_named(*json.loads(message.data.tobytes()))
        elif message.kind != CLOSED:
            self._queue.append(message)

    def _lose(self, rank):
        self.alive.remove(rank)
        self._outgoing[rank] = []  # requests that never end
        if rank in self.needed and not self._incoming[rank].ended:
            raise ConnectionError(
                f"rank {rank}: expected to stay, for it serves some of the parameters, but it is gone; go on from the "
                "last file that was saved"
            )
        return Message(rank, LOST, [], NOTHING)


class _Incoming:
    """The end of the stream from one rank to this one."""

    def __init__(self, mpi, rank):
        self.mpi, self.rank, self.ended = mpi, rank, False
        self.header = np.empty(2 + NUMBERS)
        self.data: np.ndarray | None = None  # what is coming, after its header
        self.room = np.empty(0, np.uint8)
        self.request = mpi.Irecv(self.header, rank, TAG)

    def poll(self) -> Message | None:
        if self.ended or not self.request.Test():
            return None
        kind, size, *numbers = self.header.tolist()
        if size and self.data is None:
            if self.room.size != size:
                self.room = np.empty(int(size), np.uint8)
            self.data = self.room
            self.request = self.mpi.Irecv(self.data, self.rank, TAG)
            if not self.request.Test():
                return None
        data, self.data = NOTHING if self.data is None else self.data, None
        self.ended = kind in (CLOSED, FAILED)
        if not self.ended:
            self.request = self.mpi.Irecv(self.header, self.rank, TAG)
        return Message(self.rank, int(kind), numbers, data)
