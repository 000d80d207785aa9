"""Sums of a flat array over all ranks, in place, bucket by bucket, while the caller computes the next bucket.

- `OrderedSum` adds in rank order, so that the bits depend on the number of ranks only: not on the MPI, its algorithm,
  or the length of the message. Each rank owns a slice of a bucket, receives all ranks' parts of it, adds them, and
  sends the sum to all. Of a short bucket each receives all and adds all of it, in one trip for two. Both give the same
  bits. Buckets go in pieces, so that what is received needs little memory.
- `FastSum` is MPI's own sum, in its blocking form: the non-blocking one of Open MPI takes several times as long.
- Messages move only while somebody looks at them, so the caller calls `progress` between two pieces of work.
"""

import itertools
from collections import deque

import numpy as np

from fastopt.parallel.communicator import wait

PIECE = 1 << 22  # bytes of a piece, at most: of 1 MiB, 1.9 M floats take 1.4 to 1.9 times as long
SHORT = 12 << 10  # bytes that a rank receives, up to which one trip is faster: 1 000 floats, 2 ranks, 8 us against 12
AHEAD = 2  # pieces that are under way at a time
TAGS = 16384  # numbers of pieces before the first comes again; two tags each, for its parts and its sum


class FastSum:
    """The sum of each bucket, in the order that the MPI prefers.

    Parameters
    ----------
    comm : Communicator
    buckets : list of ndarray
        Contiguous, float32 or float64; of the same sizes on all ranks.
    """

    def __init__(self, comm, buckets):
        self.comm, self.buckets, self.started = comm, buckets, []

    def start(self, k):
        """Start the sum of bucket k; its memory is MPI's until `finish`. All ranks start buckets in the same order."""
        self.started.append(self.buckets[k])

    def progress(self):
        """Let messages move."""

    def finish(self):
        """Wait for all sums."""
        for bucket in self.started:
            self.comm.sum_all(bucket)
        self.started = []


class OrderedSum:
    """The sum of each bucket in rank order; parameters as of `FastSum`."""

    def __init__(self, comm, buckets):
        numbers = itertools.count()
        self.pieces = [_pieces(comm, bucket, numbers) for bucket in buckets]
        sizes = [piece.scratch for pieces in self.pieces for piece in pieces]
        self.rooms = [np.empty(max(sizes, default=0), buckets[0].dtype) for _ in range(AHEAD)]  # one for each under way
        self.waiting: deque = deque()
        self.under_way: deque = deque()
        self.n_bytes = sum(bucket.nbytes for bucket in buckets)

    def start(self, k):
        """As `FastSum.start`."""
        self.waiting.extend(self.pieces[k])
        self.progress()

    def progress(self):
        """Let messages move, add what has arrived, and send what comes next: pieces in their order, on all ranks."""
        while self.under_way and self.under_way[0].has_ended():
            self.rooms.append(self.under_way.popleft().room)
        while self.waiting and self.rooms:
            piece = self.waiting.popleft()
            piece.begin(self.rooms.pop())
            self.under_way.append(piece)
        for piece in self.under_way:
            piece.has_ended()

    def Test(self):
        """Whether all sums are there, as a request of MPI says it."""
        self.progress()
        return not self.under_way

    def finish(self):
        """As `FastSum.finish`."""
        wait(self, n_bytes=self.n_bytes)


class _Whole:
    """A piece that every rank sends to all others, and adds up itself."""

    def __init__(self, comm, own, number):
        self.comm, self.own, self.number = comm, own, number
        self.scratch = comm.size * own.size

    def begin(self, room):
        self.room, self.requests = room, []
        self.parts = list(room[: self.scratch].reshape(self.comm.size, -1))
        self.total, self.parts[self.comm.rank] = self.parts[self.comm.rank == 0], self.own
        for rank in self.comm.others:
            self.requests.append(self.comm.receive(self.parts[rank], rank, self.number))
        for rank in self.comm.others:
            self.requests.append(self.comm.send(self.own, rank, self.number))

    def has_ended(self):
        """Add once all parts are there, and mine has left; whether that is done."""
        if self.requests and all(request.Test() for request in self.requests):
            self.requests = []
            _add(self.parts, self.total, self.own)
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
        self.total, self.parts[self.comm.rank] = self.parts[self.comm.rank == 0], self.mine
        self.requests = self._exchange(self.parts, self.slices, self.number)

    def _exchange(self, received, sent, tag):
        requests = [self.comm.receive(received[rank], rank, tag) for rank in self.comm.others]
        return requests + [self.comm.send(sent[rank], rank, tag) for rank in self.comm.others]

    def has_ended(self):
        """As `_Whole.has_ended`, and the sums of the other ranks are there."""
        if self.requests and all(request.Test() for request in self.requests):
            self.requests = []
            if not self.added:
                _add(self.parts, self.total, self.mine)
                self.requests, self.added = (
                    self._exchange(self.slices, [self.mine] * self.comm.size, self.number + TAGS),
                    True,
                )
        return not self.requests


def _pieces(comm, bucket, numbers) -> list:
    if comm.size == 1 or not bucket.size:
        return []
    kind = _Whole if bucket.nbytes * (comm.size - 1) <= SHORT else _Sliced
    parts = np.array_split(bucket, -(-bucket.nbytes // PIECE))
    return [kind(comm, part, next(numbers) % TAGS) for part in parts]


def _add(parts, total, out):
    """The sum of parts in their order; `total` is one of the first two, or memory besides, `out` one of the parts."""
    for part in parts[1:-1]:
        np.add(parts[0] if part is parts[1] else total, part, out=total)
    np.add(total if len(parts) > 2 else parts[0], parts[-1], out=out)


SUMS: dict[str, type] = {"ordered": OrderedSum, "fast": FastSum}
