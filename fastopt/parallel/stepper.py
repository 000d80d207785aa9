"""How ranks make a Trainer's steps together: each finds the gradients of its rows, all apply their mean.

- A step is forward, one round in which every rank tells its loss and what it counts, backward bucket by bucket, and
  the optimizer's step on every rank, by the same gradients and so to the same bits. A bucket, the gradients of some
  layers side by side, is summed over the ranks while backward goes on with the layers before.
- Ranks count by the weights of their rows, so uneven batches give the gradient of the mean over all rows. Where all
  count alike, as they mostly do, the sum stays as it is and the optimizer divides: the bits of a Trainer that
  accumulates as many batches.
- Where `BatchNorm` takes the statistics of all ranks' rows, the ranks derive one loss: then each counts in the gradient
  of its output, before backward, and backward starts only when all have told what they count.
- The epoch's batches are those of one Trainer, in its order; the ranks take them in turn. `position` counts the rows
  of all ranks, so another number of ranks can go on.
"""

import math
import time
from typing import Any

import numpy as np

from fastopt._kernels import core
from fastopt.nn.layers import BatchNorm, chain
from fastopt.parallel import exchanges
from fastopt.parallel.batch_norm import SharedStatistics
from fastopt.parallel.communicator import wait
from fastopt.parallel.cuts import BUCKET, segments
from fastopt.parallel.group import Group
from fastopt.parallel.reduction import sum_of
from fastopt.parallel.shared_memory import share_gradient

BLOCK = 256  # rows that one rank predicts, at least: products of fewer may add up in another order
ENDED = -1  # in the place of a rank's rows: its batches of this epoch are used up


class Stepper:
    """Steps of all ranks, in place of those of a compiled training, with the same two methods."""

    def __init__(self, comm, optimizer, training, net, grid=None, synchronized=False):
        self.comm, self.optimizer, self.training, self.net = comm, optimizer, training, net
        self.data = comm if grid is None else grid.data  # the ranks that have batches of their own
        self.parted = core.PartedStep(training)
        self.group = Group(comm, grid, self.parted, net)
        self.exchanging = bool(training.program.exchanges) or self.group.size > 1
        norms = [layer for layer in chain.walk(net.layers) if isinstance(layer, BatchNorm)]
        self.statistics = SharedStatistics(comm, self.parted) if synchronized and norms else None
        local = norms if self.statistics is None else []
        self.averages = [a for layer in local for a in (layer.running_mean, layer.running_var)]
        self.passes: Any = self.statistics or exchanges
        self.alone = not self.exchanging and self.statistics is None  # from the start of a step to the end of backward
        self.ended = False  # all ranks have used up their batches of the epoch under way

    def prepare_sums(self, reduce) -> None:
        """Prepare the sums of gradients; all ranks have the same network."""
        comm, training = self.comm, self.training
        shared = share_gradient(self.data, training) if reduce == "ordered" and self.alone else None
        cut = exchanges.divided(training.program)
        gradient, least = training.gradient, BUCKET if shared is None else math.inf
        found = segments(training.program.starts, gradient.size, gradient.itemsize, cut, least)
        self.segments = [(first, stop) for first, stop, *_ in found]
        buckets = [gradient[start:end] for *_, start, end in found]
        after = sum(first >= cut for first, _ in self.segments)  # and the rows of those before are divided further
        of = [(self.data, buckets[:after]), (comm, buckets[after:])]
        made = [(sum_of(reduce, ranks, some, shared), ranks.size, len(some)) for ranks, some in of if some]
        self.reduce, self.gradient = reduce, gradient
        self.sums = [sums for sums, _, _ in made]
        self.places = [(sums, k, size // self.data.size) for sums, size, n in made for k in range(n)]

    def step(self, x, y, sample_weight=None, in_epoch=False) -> float:
        """One step on a batch of this rank's own, which may have no rows; returns the mean loss over all ranks."""
        batch = self.training.check(x, y, sample_weight)
        rows = len(batch[0])
        if 0 < rows < self.net.least_rows and self.statistics is None:
            raise ValueError("x: expected at least two rows to take batch statistics of, or none, got 1")
        loss, _ = self._step(batch, rows)
        self.training.batches += self.data.size
        if in_epoch:
            self.training.position += rows
        return loss

    def end(self) -> None:
        """This rank has no more batches in this epoch; a step of the others, unless they have ended too."""
        self.optimizer.prepare()
        _, stepped = self._step(None, ENDED)
        self.training.batches += self.data.size * stepped

    def run(self, x, targets, weights, order, sizes, seconds) -> None:
        """Steps on checked data, the same on all ranks, in `order`: of the coming batches each rank takes its own."""
        size, rank, training, done = self.data.size, self.data.rank, self.training, 0
        until = time.perf_counter() + seconds
        while done == 0 or done + size <= len(sizes):
            first, taken = training.position, sizes[done : done + size]
            ends = np.minimum(first + np.cumsum(taken), len(x)).tolist()  # the last batch may be smaller
            starts = [first, *ends[:-1]]
            rows = ends[rank] - starts[rank] if rank < len(ends) else 0
            self._step((x, targets, weights), rows, order, starts[rank] if rows else 0)
            done += len(taken)
            training.batches += len(taken)
            training.position = ends[-1]
            if training.position >= len(x) or time.perf_counter() > until:
                break
            self.optimizer.prepare()
        if training.position >= len(x):
            self.average_statistics()

    def _step(self, batch, rows, order=None, position=0):
        """A step; returns the mean loss, and whether there was one: not all ranks have ended."""
        with self.optimizer.compiled_update, np.errstate(all="ignore"):  # a rank that raised would leave others waiting
            try:
                return self._parts(batch, rows, order, position)
            except BaseException:
                self.parted.give_up()
                raise

    def _parts(self, batch, rows, order, position):
        parted, comm, rank = self.parted, self.comm, self.data.rank
        if self.training.gradient is not self.gradient:  # another DataParallel of the same trainer has moved it
            self.prepare_sums(self.reduce)
        if rows > 0:
            x, targets, weights = batch
            parted.start(x, targets, weights, rows, self.training.batches + rank, order, position)
        else:
            parted.pause()
        if self.exchanging:  # no rank fails in forward any more, and leaves others waiting in an exchange
            self.group.meet(batch, rows, order, position)
        if self.statistics is not None:
            self.statistics.meet(rows, self.net.least_rows)
        loss, weight = self.passes.forward(parted)
        if self.alone:  # before the round: who hears of it may write to gradients that all ranks see
            parted.backward(*self.segments[0])
        told = comm.tell("step", loss, weight, rows, self.group.penalty())
        losses, weights, counts = self.group.of_groups(told).T.tolist()
        if max(counts) <= 0:
            self.ended = max(counts) < 0
            if self.ended:
                return 0.0, False
            raise ValueError("x: expected at least one row on some rank, got none")
        parted.require_defined(losses)
        factors, share = _shares(weights, counts)
        if self.optimizer.accumulate > 1:  # whose gradients are means: other batches of an update may have other shares
            factors, share = [factor * share for factor in factors], 1.0
        if self.statistics is not None:  # whose sums weigh the rows of each rank; so those of weights need not
            self.statistics.count(factors, share)
            if rows > 0:
                _scale(parted.gradients(len(parted.program.starts) - 1)[1], factors[rank])
            factors = [1.0] * len(factors)
        for k, (first, stop) in enumerate(self.segments):
            if k or not self.alone:
                self.passes.backward(parted, first, stop)
            sums, number, times = self.places[k]  # ranks of a group that are among those of the sum
            sums.start(number, factors if times == 1 else [factor for factor in factors for _ in range(times)])
            sums.progress()
        for sums in self.sums:
            sums.finish()
        if parted.update(share, *self.group.checked()):
            parted.count(losses, weights)
        total = sum(weights)
        if len(losses) == 1:
            return losses[0], True
        if total > 0:
            return sum(a * b for a, b in zip(losses, weights, strict=True)) / total, True
        return sum(losses) / sum(n > 0 for n in counts), True

    # --- what every rank has of its own

    def average_statistics(self) -> None:
        """Give all ranks the mean of their running averages of `BatchNorm`, each of which saw its own batches."""
        if not self.averages or self.comm.size == 1:
            return
        self.comm.tell("average statistics")
        for average in self.averages:
            everyones = np.empty((self.comm.size, average.size), average.dtype)
            wait(self.comm.gather_all(average, everyones))
            if not (everyones == everyones[0]).all():  # a mean of equal numbers may differ from them in its last bit
                average[...] = everyones.mean(axis=0, dtype=np.float64)

    def predict(self, x) -> np.ndarray:
        """What the network predicts, each rank, or group of a grid, for a part of the rows; all ranks get all of it."""
        size, n, blocks = self.data.size, len(x), len(x) // BLOCK
        starts = [BLOCK * (blocks * rank // size) for rank in range(size)]
        ends = [*starts[1:], n]
        mine = slice(starts[self.data.rank], ends[self.data.rank]) if blocks else slice(n)
        out = np.empty((n, *self.net.output_shape), self.net.dtype)
        if self.net.compiled_program.exchanges:
            self.group.predict(x[mine], out[mine])
        else:
            self.net.predict(x[mine], out[mine])
        if blocks:
            each = out[0].size
            counts = [each * (end - start) for start, end in zip(starts, ends, strict=True)]
            self.comm.tell("predict", n)
            request = self.data.gather_parts(out.reshape(-1), counts, [each * start for start in starts])
            wait(request, n_bytes=out.nbytes)
        return out


class Batches:
    """An iterable of a rank's own batches, which goes on until the batches of all ranks are used up."""

    def __init__(self, stepper, batches):
        self.stepper, self.batches = stepper, batches

    def __iter__(self):
        self.stepper.ended = False
        yield from self.batches
        while not self.stepper.ended:
            self.stepper.end()
        self.stepper.average_statistics()


def _shares(weights, counts) -> tuple[list[float], float]:
    """What each rank's gradient is multiplied by before the sum, and the sum after it, for the mean over all rows."""
    counting = [weight > 0 for weight in weights] if any(weights) else [n > 0 for n in counts]
    alike = {weight for weight, counts_here in zip(weights, counting, strict=True) if counts_here}
    if len(alike) == 1:
        return [float(counts_here) for counts_here in counting], 1.0 / sum(counting)
    total = sum(weights)
    return [weight / total for weight in weights], 1.0


def _scale(gradient, factor) -> None:
    if factor:
        gradient *= gradient.dtype.type(factor)
    else:
        gradient[:] = 0  # also where it is not finite: these rows do not count
