"""Sums of a flat array over all ranks, in place, bucket by bucket, while the caller computes the next bucket.

- `OrderedSum` adds in rank order, so that the bits depend on the number of ranks only: not on the MPI, its algorithm,
  or the length of the message. Each rank owns a slice of a bucket, receives all ranks' parts of it, adds them, and the
  sums are gathered. Of a small bucket every rank receives everything and adds all of it: one message for two, and the
  same bits.
- `FastSum` is MPI's own sum.
- Messages move only while somebody looks at them, so the caller calls `progress` between two pieces of work.
"""

import numpy as np

from fastopt.parallel.communicator import wait

LINE = 64  # bytes: slices of two ranks share no cache line
SMALL = 1 << 15  # bytes of a bucket from all ranks together, up to which every rank adds all of it


class FastSum:
    """The sum of each bucket, in the order that the MPI prefers.

    Parameters
    ----------
    comm : Communicator
    buckets : list of ndarray
        Contiguous, float32 or float64; of the same sizes on all ranks.
    """

    def __init__(self, comm, buckets):
        self.comm, self.buckets, self.under_way = comm, buckets, []

    def start(self, k):
        """Start the sum of bucket k; its memory is MPI's until `finish`. All ranks start buckets in the same order."""
        if self.comm.size > 1 and self.buckets[k].size:
            self.under_way.append(self.comm.sum_all(self.buckets[k]))

    def progress(self):
        """Let messages move."""
        for request in self.under_way:
            request.Test()

    def finish(self):
        """Wait for all sums."""
        wait(*self.under_way)
        self.under_way = []


class OrderedSum:
    """The sum of each bucket in rank order; parameters as of `FastSum`."""

    def __init__(self, comm, buckets):
        self.comm, self.buckets = comm, buckets
        self.parts = [_Slices(comm, bucket) for bucket in buckets]
        self.exchanging: list = []  # (request, bucket) whose parts are on their way to their owners
        self.gathering: list = []  # requests of sums on their way to all ranks

    def start(self, k):
        """As `FastSum.start`."""
        if self.comm.size > 1 and self.buckets[k].size:
            self.exchanging.append((self.parts[k].exchange(), k))

    def progress(self):
        """Let messages move, add what has arrived, and send the sums; in the order of the buckets, on all ranks."""
        while self.exchanging and self.exchanging[0][0].Test():
            self._add_first()
        for request in self.gathering:
            request.Test()

    def finish(self):
        """As `FastSum.finish`."""
        while self.exchanging:
            wait(self.exchanging[0][0])
            self._add_first()
        wait(*self.gathering)
        self.gathering = []

    def _add_first(self):
        _, k = self.exchanging.pop(0)
        request = self.parts[k].add()
        if request is not None:
            self.gathering.append(request)


class _Slices:
    """A bucket in slices, one a rank, and what all ranks send of this rank's slice."""

    def __init__(self, comm, bucket):
        self.comm, self.bucket = comm, bucket
        self.small = bucket.nbytes * comm.size <= SMALL
        line = LINE // bucket.itemsize
        each = -(-bucket.size // (comm.size * line)) * line
        ends = np.minimum(np.arange(1, comm.size + 1) * each, bucket.size)
        self.starts = np.minimum(np.arange(comm.size) * each, bucket.size)
        self.counts = ends - self.starts
        mine = slice(self.starts[comm.rank], ends[comm.rank])
        self.total = bucket if self.small else bucket[mine]
        self.received = np.empty((comm.size, self.total.size), bucket.dtype)

    def exchange(self):
        if self.small:
            return self.comm.gather_all(self.bucket, self.received)
        return self.comm.scatter_parts(self.bucket, self.counts, self.starts, self.received)

    def add(self):
        """Add the parts that have come, in rank order; returns the request that sends the sum on, if any."""
        np.add(self.received[0], self.received[1], out=self.total)
        for part in self.received[2:]:
            np.add(self.total, part, out=self.total)
        return None if self.small else self.comm.gather_parts(self.bucket, self.counts, self.starts)


SUMS: dict[str, type] = {"ordered": OrderedSum, "fast": FastSum}
