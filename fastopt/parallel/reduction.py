"""Sums of a flat array over all ranks, in place, bucket by bucket, while the caller computes the next bucket.

- Ordered sums add in rank order, so that the bits depend on the number of ranks only: not on the MPI, its algorithm,
  the length of the message, or where the ranks are. Each rank adds up a slice, and all get the sum of it.
- Where all ranks are on one machine, the arrays lie in memory that all of them see (`SharedSum`): each rank reads its
  slice of all arrays, and writes the sum into all of them. Else the slices are sent and received (`MessageSum`). Of a
  short bucket each receives all and adds all of it, in one trip for two. All give the same bits.
- `FastSum` is MPI's own sum, in its blocking form: the non-blocking one of Open MPI takes four times as long.
- A rank's array may count by a factor, for uneven batches, and by none where there were no rows.
- Messages move only while somebody looks at them, so the caller calls `progress` between two pieces of work.
"""

import itertools
from collections import deque

import numpy as np

from fastopt._kernels import core
from fastopt.parallel.communicator import wait
from fastopt.parallel.cuts import is_short, n_pieces

AHEAD = 2  # pieces that are under way at a time
LINE = 64  # bytes of a cache line, which two ranks should not write at a time
TAGS = 16384  # numbers of pieces before the first comes again; two tags each, for its parts and its sum


REDUCTIONS = "ordered", "fast"


def sum_of(reduce, comm, buckets, shared=None):
    """What sums `buckets`, contiguous arrays of the same sizes on all ranks, in the way that `reduce` names.

    Parameters
    ----------
    reduce : {"ordered", "fast"}
    comm : Communicator
    buckets : list of ndarray
        Of float32 or float64.
    shared : SharedArrays, optional
        Of which the one bucket is this rank's.
    """
    if reduce == "fast":
        return FastSum(comm, buckets)
    return MessageSum(comm, buckets) if shared is None else SharedSum(comm, shared)


class FastSum:
    """The sum of each bucket, in the order that the MPI prefers."""

    def __init__(self, comm, buckets):
        self.comm, self.buckets, self.started = comm, buckets, []

    def start(self, k, factors):
        """Start the sum of bucket k; its memory is taken until `finish`. All ranks start buckets in the same order.

        `factors` are what the buckets of the ranks count, by rank.
        """
        factor, bucket = factors[self.comm.rank], self.buckets[k]
        if factor != 1:
            core.sum_parts([bucket], [factor], [bucket])
        self.started.append(bucket)

    def progress(self):
        """Let messages move."""

    def finish(self):
        """Wait for all sums."""
        for bucket in self.started:
            self.comm.sum_all(bucket)
        self.started = []


class SharedSum:
    """The sum of one bucket in rank order, in memory that all ranks see; methods as of `FastSum`.

    All ranks have written their buckets, and have met, before the first starts the sum.
    """

    def __init__(self, comm, shared):
        self.comm, self.shared = comm, shared
        n, line = shared.own.size, LINE // shared.own.itemsize
        cuts = [min(n, -(-n * rank // (comm.size * line)) * line) for rank in range(comm.size + 1)]
        self.slices = [array[cuts[comm.rank] : cuts[comm.rank + 1]] for array in shared.everyones]

    def start(self, k, factors):
        self.shared.sync()
        core.sum_parts(self.slices, factors, self.slices)
        self.shared.sync()

    def progress(self):
        pass

    def finish(self):
        """Wait until all ranks have added up their slices."""
        wait(self.comm.meet())
        self.shared.sync()


class MessageSum:
    """The sum of each bucket in rank order, by messages; methods as of `FastSum`."""

    def __init__(self, comm, buckets):
        numbers = itertools.count()
        self.pieces = [_pieces(comm, bucket, numbers) for bucket in buckets]
        sizes = [piece.scratch for pieces in self.pieces for piece in pieces]
        self.rooms = [np.empty(max(sizes, default=0), buckets[0].dtype) for _ in range(AHEAD)]  # one for each under way
        self.waiting: deque = deque()
        self.under_way: deque = deque()
        self.n_bytes = sum(bucket.nbytes for bucket in buckets)

    def start(self, k, factors):
        self.factors = factors
        self.waiting.extend(self.pieces[k])
        self.progress()

    def progress(self):
        """Let messages move, add what has arrived, and send what comes next: pieces in their order, on all ranks."""
        while self.under_way and self.under_way[0].has_ended(self.factors):
            self.rooms.append(self.under_way.popleft().room)
        while self.waiting and self.rooms:
            piece = self.waiting.popleft()
            piece.begin(self.rooms.pop())
            self.under_way.append(piece)
        for piece in self.under_way:
            piece.has_ended(self.factors)

    def Test(self):
        """Whether all sums are there, as a request of MPI says it."""
        self.progress()
        return not self.under_way

    def finish(self):
        wait(self, n_bytes=self.n_bytes)


class _Whole:
    """A piece that every rank sends to all others, and adds up itself."""

    def __init__(self, comm, own, number):
        self.comm, self.own, self.number = comm, own, number
        self.scratch = comm.size * own.size

    def begin(self, room):
        self.room = room
        self.parts = list(room[: self.scratch].reshape(self.comm.size, -1))
        self.parts[self.comm.rank] = self.own
        self.requests = _exchange(self.comm, self.parts, [self.own] * self.comm.size, self.number)

    def has_ended(self, factors):
        """Add once all parts are there, and mine has left; whether that is done."""
        if self.requests and all(request.Test() for request in self.requests):
            self.requests = []
            core.sum_parts(self.parts, factors, [self.own])
        return not self.requests


class _Sliced:
    """A piece of which every rank adds up a slice, and sends the sum to all others."""

    def __init__(self, comm, own, number):
        self.comm, self.slices, self.number = comm, np.array_split(own, comm.size), number
        self.mine = self.slices[comm.rank]
        self.scratch = comm.size * self.mine.size

    def begin(self, room):
        self.room, self.added = room, False
        self.parts = list(room[: self.scratch].reshape(self.comm.size, -1))
        self.parts[self.comm.rank] = self.mine
        self.requests = _exchange(self.comm, self.parts, self.slices, self.number)

    def has_ended(self, factors):
        """As `_Whole.has_ended`, and the sums of the other ranks are there."""
        if self.requests and all(request.Test() for request in self.requests):
            self.requests = []
            if not self.added:
                core.sum_parts(self.parts, factors, [self.mine])
                sums = [self.mine] * self.comm.size
                self.requests, self.added = _exchange(self.comm, self.slices, sums, self.number + TAGS), True
        return not self.requests


def _exchange(comm, received, sent, tag):
    requests = [comm.receive(received[rank], rank, tag) for rank in comm.others]
    return requests + [comm.send(sent[rank], rank, tag) for rank in comm.others]


def _pieces(comm, bucket, numbers) -> list:
    if comm.size == 1 or not bucket.size:
        return []
    kind = _Whole if is_short(bucket.nbytes, comm.size) else _Sliced
    parts = np.array_split(bucket, n_pieces(bucket.nbytes))
    return [kind(comm, part, next(numbers) % TAGS) for part in parts]
