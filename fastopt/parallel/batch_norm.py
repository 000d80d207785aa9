"""Synchronized batch normalization: the statistics of a batch are those of the rows of all ranks.

- Every rank finds (rows, mean, sum of squares about the mean) of the columns of its rows, in float64, gets those of
  all, and combines them in rank order: the statistics have the same bits on all ranks, wherever the data lie. Backward
  adds the two sums of each column likewise.
- Backward's sums mean something only where all ranks derive the same loss: the stepper weighs the gradient of each
  rank's output beforehand, and no longer the gradients of weights.
"""

import numpy as np

from fastopt.parallel.communicator import wait

MOST = {"float32": 1e30, "float64": 1e250}  # variances that are combined as they are,
LEAST = {"float32": 1e-30, "float64": 1e-290}  # others from columns that are scaled by a power of two
POWERS = 1000  # of such a scale: it is a number, too


class SharedStatistics:
    """Forward and backward of a step in which `BatchNorm` takes the statistics of the rows of all ranks.

    Parameters
    ----------
    comm : Communicator
    parted : core.PartedStep
    """

    def __init__(self, comm, parted):
        self.comm, self.sums = comm, parted.share_sums()
        self.room = np.empty(comm.size * max(sums.size for sums in self.sums.values()))
        self.dtype = parted.training.gradient.dtype.name
        self.penalized = True  # this rank adds the gradients of penalties

    def meet(self, rows, least) -> None:
        """The round before forward: no rank fails after it and leaves others waiting; all have enough rows together."""
        together = self.comm.tell("share statistics", rows).clip(0).sum()
        if 0 < together < least:
            raise self.comm.known(
                ValueError("x: expected at least two rows on all ranks together to take batch statistics of, got 1")
            )

    def forward(self, parted):
        """As `exchanges.forward`."""
        first = 0
        for entry in self.sums:
            parted.forward(first, entry)
            lines = parted.forward_sums(entry)
            lines[...] = combined(self._gathered(lines), self.dtype)
            first = entry
        return parted.forward(first)

    def count(self, factors, share) -> None:
        """Before backward: the gradients of penalties are added by one rank or, where `share` makes a mean of them, by
        each that counts."""
        counting = [rank for rank, factor in enumerate(factors) if factor > 0]
        self.penalized = self.comm.rank in (counting if share < 1 else counting[:1])

    def backward(self, parted, first, stop) -> None:
        """As `exchanges.backward`."""
        for entry in reversed(self.sums):
            if first <= entry < stop:
                parted.backward(entry + 1, stop, penalties=self.penalized)
                lines = parted.backward_sums(entry)
                lines[...] = sum(self._gathered(lines))
                stop = entry + 1
        parted.backward(first, stop, penalties=self.penalized)

    def _gathered(self, lines):
        """The lines of all ranks, until the next are gathered."""
        everyones = self.room[: self.comm.size * lines.size].reshape(-1, *lines.shape)
        wait(self.comm.gather_all(lines, everyones), n_bytes=everyones.nbytes)
        return everyones


def combined(everyones, dtype) -> np.ndarray:
    """The moments of all rows from those of the rows of each rank, in rank order (Chan et al. 1983).

    Parameters
    ----------
    everyones : ndarray, shape (ranks, 4, columns)
        Rows, mean, and sum of squares about the mean of the elements divided by 2**power, and power.
    dtype : {"float32", "float64"}
        What has to hold the variance; where it does not, or hardly, power is not 0.
    """
    parts = [part for part in everyones if part[0, 0] > 0] or [everyones[0]]
    if len(parts) == 1:
        return parts[0]
    rows, mean, m2 = _merged([(n, mean, np.ldexp(m2, 2 * power.astype(int))) for n, mean, m2, power in parts])
    out = np.array([rows, mean, m2, np.zeros_like(mean)])
    ordinary = (m2 >= LEAST[dtype] * rows) & (m2 <= MOST[dtype] * rows)
    if not ordinary.all():
        out[:, ~ordinary] = _scaled([part[:, ~ordinary] for part in parts])
    return out


def _scaled(parts):
    """As `combined`, of columns whose squares may leave the range of a dtype."""
    origin = parts[0][1]
    largest = np.max([np.maximum(abs(p[1] - origin), np.ldexp(np.sqrt(p[2]), p[3].astype(int))) for p in parts], axis=0)
    largest = np.minimum(largest, np.finfo(np.float64).max)
    power = np.where(largest > 0, np.frexp(largest)[1], 0).clip(-POWERS, POWERS)
    origin = np.ldexp(origin, -power)
    rows, mean, m2 = _merged(
        [
            (n, np.ldexp(mean, -power) - origin, np.ldexp(m2, 2 * (own.astype(int) - power)))
            for n, mean, m2, own in parts
        ]
    )
    return rows, np.ldexp(origin + mean, power), m2, power


def _merged(parts):
    """(rows, mean, m2) of all rows from those of some at a time."""
    rows, mean, m2 = parts[0]
    for more, other, squares in parts[1:]:
        delta, weight = other - mean, more / (rows + more)
        m2 = m2 + squares + delta * delta * (rows * weight)
        mean = mean + delta * weight
        rows = rows + more
    return rows, mean, m2
