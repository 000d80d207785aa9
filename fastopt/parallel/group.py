"""The ranks of a Grid that hold one network together, in the midst of a step.

What a step depends on must come out alike on all of them, to the bit: the loss with the penalties of all weights, the
norm of all gradients, and whether some gradient is not finite. Each rank tells its part, and all add up in rank order.
"""

import json
import math
import zlib

import numpy as np

from fastopt._kernels import core
from fastopt.nn.layers import chain
from fastopt.parallel import exchanges
from fastopt.parallel.communicator import wait
from fastopt.parallel.model_parallel import ColumnParallelDense, ShareRows

PIECE = 256  # rows that a group predicts at a time
SAMPLE = 4  # rows by which the ranks of a group see that they have the same batch


class Group:
    """The ranks of this one's group; without a grid each rank is one by itself.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    grid : Grid or None
    parted : core.PartedStep
    net : Sequential
    """

    def __init__(self, comm, grid, parted, net):
        self.comm, self.parted, self.net = comm, parted, net
        self.model = None if grid is None or grid.model.size == 1 else grid.model
        self.size = 1 if self.model is None else self.model.size
        places = [(place, layer) for place, layer in chain.named(net.layers) if isinstance(layer, ColumnParallelDense)]
        self.layers = [layer for _, layer in places]
        self.divided = bool(self.layers) or any(isinstance(layer, ShareRows) for layer in net.layers)
        self.owners = {f"{place}.{name}": layer for place, layer in places for name in layer.arrays()}
        owners = {id(a): layer for layer in self.layers for a in layer.parameters()}
        self.split = {k: owners[id(a)] for k, a in enumerate(net.parameters()) if id(a) in owners}
        self.whole = [k for k in range(len(net.parameters())) if k not in self.split]
        self.passing = core.PartedPass(net.compiled_program)

    def meet(self, batch, rows, order, position):
        """The round before a forward with exchanges, in which ranks of a group see that they have the same batch."""
        exchanges.reserve(self.parted)
        shown = _digest(batch, rows, order, position) if self.size > 1 else 0
        everyones = self.comm.tell("exchange", rows, shown).reshape(-1, self.size, 2)
        if (everyones != everyones[:, :1]).any():
            raise self.comm.known(
                ValueError("x, y: expected the same batch on all model ranks of a group of the grid, got others")
            )

    def require_equal(self, facts):
        """Raise ValueError on all ranks unless those with the same columns have the same facts of their split arrays.

        Takes these facts out of `facts`, which all ranks must share.
        """
        own = {name: facts.pop(name) for name in list(facts) if self.owner(name)}
        everyones = [json.loads(text) for text in self.comm.gathered("split arrays", json.dumps(own).encode())]
        for rank, theirs in enumerate(everyones):
            for name, fact in everyones[rank % self.size].items():
                if theirs.get(name) != fact:
                    text = f"{name}: expected the same on all ranks with the same columns, got others on rank {rank}"
                    raise self.comm.known(ValueError(f"{text}; make the networks the same way, with the same rng"))

    def owner(self, name):
        """The split layer that an array of a run file belongs to; None for one that all ranks have."""
        if name.startswith("optimizer."):
            return self.split.get(int(name.split(".")[1]))
        return self.owners.get(name.removeprefix("best.").removeprefix("last."))

    def penalty(self) -> float:
        """What the weights that this rank has of split layers add to the loss."""
        return sum(layer.penalty() for layer in self.layers) if self.size > 1 else 0.0

    def of_groups(self, everyones) -> np.ndarray:
        """What all ranks have told of a step, as (loss, weight, rows) of each group."""
        if self.size == 1:
            return everyones[:, :3]
        told = everyones.reshape(-1, self.size, everyones.shape[1])
        told[:, 0, 0] += told[:, 1:, 3].sum(axis=1) * (told[:, 0, 2] > 0)  # where a group has rows
        return told[:, 0, :3]

    def checked(self) -> tuple:
        """What `PartedStep.update` is told of the gradients of all ranks of the group, after their sums."""
        if self.model is None or not self.parted.looks:
            return ()
        squares = self.parted.squares(self.split)
        grads = self.parted.training.grads
        bad = not math.isfinite(squares) and not all(np.isfinite(grads[k]).all() for k in self.split)
        everyones = np.empty((self.size, 2))
        wait(self.model.gather_all(np.array([squares, bad], np.float64), everyones))
        return self.parted.squares(self.whole) + sum(everyones[:, 0].tolist()), bool(everyones[:, 1].any())

    def predict(self, x, out) -> None:
        """Inference of the group, all of whose ranks have the same rows and get all of the output."""
        x = self.net.compiled_program.rows(x)
        self.passing.start(x[:PIECE], out[:PIECE])
        exchanges.reserve(self.passing)
        self.comm.tell("predict together", len(x))
        for start in range(0, len(x), PIECE):
            self.passing.start(x[start : start + PIECE], out[start : start + PIECE])
            exchanges.forward(self.passing)


def _digest(batch, rows, order, position) -> int:
    """A number that differs, mostly, where a batch does; by some of its rows."""
    if rows <= 0:
        return 0
    x, targets, _ = batch
    some = np.arange(0, rows, max(1, rows // SAMPLE))
    some = some if order is None else order[position + some]
    return zlib.crc32(targets[some].tobytes(), zlib.crc32(x[some].tobytes()))
