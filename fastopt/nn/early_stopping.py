"""Early stopping: the best epoch by what has been measured on validation data.

A `BestEpoch` never changes. A Trainer's `Stopping` holds the present one, and after an interrupt the one that says
where training stands while the network shows the best epoch: with it `fit` goes on, whoever has saved and loaded it
meanwhile.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from fastopt._kernels import core


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far, by its validation loss, and what early stopping needs to know of it."""

    loss: float | None = None  # None before the first epoch
    waited: int = 0  # epochs since
    arrays: list[np.ndarray] = field(default_factory=list)  # of the network in that epoch, copies
    last: list[np.ndarray] | None = None  # where training stands, while the network shows the best epoch

    def after(self, loss, arrays) -> "BestEpoch":
        """With one epoch more, whose network has these arrays; NaN is worse than any number."""
        lower = self.loss is None or loss < self.loss or (math.isnan(self.loss) and not math.isnan(loss))
        return BestEpoch(loss, 0, [a.copy() for a in arrays]) if lower else replace(self, waited=self.waited + 1)

    def shown(self, arrays) -> "BestEpoch":
        """While the network shows the best epoch: with a copy of its arrays as training has left them."""
        return self if self.last is not None else replace(self, last=[a.copy() for a in arrays])

    def gone_on(self) -> "BestEpoch":
        """Once the network holds again what training has left."""
        return replace(self, last=None)

    def still_of(self, arrays) -> "BestEpoch | None":
        """What an interrupt has left, for a network that holds these arrays; None if the caller has changed them."""
        if self.last is None:
            return self
        if _same_bits(arrays, self.last):
            return self.gone_on()
        return self if _same_bits(arrays, self.arrays) else None


class Stopping:
    """The early stopping of a Trainer: `best`, None while none is under way.

    Methods take a function that gives what it keeps of the network: parameters, running averages and seeds.
    """

    def __init__(self):
        self.best: BestEpoch | None = None

    def left(self, arrays) -> BestEpoch | None:
        """What an interrupt has left; None if the caller has changed the network since."""
        return None if self.best is None else self.best.still_of(arrays())

    def go_on(self, arrays) -> None:
        """Put the network back to where an interrupt came, unless the caller has changed it since."""
        left = self.left(arrays)
        if left is not None and left.last is not None:
            core.copy_arrays(arrays(), left.last)
            left = left.gone_on()
        self.best = left

    def show_best(self, arrays) -> None:
        """Let the network hold the best epoch, and keep where training stands."""
        if self.best is not None:
            mine = arrays()
            self.best = self.best.shown(mine)
            core.copy_arrays(mine, self.best.arrays)


def _same_bits(arrays, others) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(arrays, others, strict=True))
