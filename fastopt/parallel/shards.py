"""The parameters of a network in shards, one a server, each with its part of the optimizer.

- Parameters have places in one flat array, those of their gradients in the compiled training: a worker sends its
  gradient from where backward has left it. A shard is a range of that array, whatever the arrays it parts.
- Every rule of `fastopt.optim` acts element by element, so the optimizer of a shard is one of the same rule over the
  pieces of the parameters in it, with the same options and schedules.
"""

import pickle
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fastopt._arrays import aligned_zeros
from fastopt.optim import Optimizer


class Layout:
    """Where the parameters of a network lie in the flat array, and which part of it each server has.

    `gradient` is the flat array of a compiled training, `grads` its gradients in the order of the parameters.
    """

    def __init__(self, gradient, grads, servers):
        begin, self.size, self.dtype = gradient.ctypes.data, gradient.size, gradient.dtype
        self.starts = [(grad.ctypes.data - begin) // grad.itemsize for grad in grads]
        self.sizes = [grad.size for grad in grads]
        bounds = [self.size * j // servers for j in range(servers + 1)]
        self.shards = [slice(low, high) for low, high in pairwise(bounds)]
        if not all(self.pieces(shard) for shard in self.shards):
            raise ValueError(
                f"servers: expected at most one for every few of {sum(self.sizes)} parameters, got {servers}"
            )

    def pieces(self, shard) -> list["Piece"]:
        """What of each parameter lies in a shard."""
        found = []
        for k, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            first, stop = max(shard.start - start, 0), min(shard.stop - start, size)
            if first < stop:
                found.append(Piece(k, first, stop, start + first - shard.start))
        return found


class Piece(NamedTuple):
    """Elements `first` to `stop` of parameter `k`, which start at `place` in their shard."""

    k: int
    first: int
    stop: int
    place: int

    def inside(self, shard) -> np.ndarray:
        """These elements in an array of the shard."""
        return shard[self.place : self.place + self.stop - self.first]

    def of(self, parameter) -> np.ndarray:
        """These elements of the whole parameter, or of an array of its shape."""
        return parameter.reshape(-1)[self.first : self.stop]


class Shard:
    """A server's part of the parameters, with an optimizer over it.

    Parameters
    ----------
    trainer : Trainer
        Whose parameters, options and state it starts with; they stay as they are.
    layout : Layout
    number : int
        Of the shard.
    """

    def __init__(self, trainer, layout, number):
        self.pieces = layout.pieces(layout.shards[number])
        self.weights = weights_of(trainer, layout, number)
        self.gradient = np.zeros_like(self.weights)
        self.optimizer = _part_of(trainer.optimizer, self.pieces, self.weights)
        self.optimizer.bind([piece.inside(self.gradient) for piece in self.pieces])

    def update(self, pushed, divisor) -> bool:
        """A divisor-th of a step by the sum of gradients, {worker: (factor, gradient)}; False if it is left out."""
        (factor, first), *others = pushed.values()
        np.multiply(first, self.gradient.dtype.type(factor), out=self.gradient)
        for factor, gradient in others:
            self.gradient += self.gradient.dtype.type(factor) * gradient
        before, skipped = self.weights.copy() if divisor > 1 else None, self.optimizer.skipped
        self.optimizer.step()
        if before is not None:
            self.weights -= before
            self.weights /= self.weights.dtype.type(divisor)
            self.weights += before
        return self.optimizer.skipped == skipped

    def weights_for(self, worker) -> np.ndarray:
        """What a worker gets, a copy."""
        return self.weights.copy()

    def state(self) -> bytes:
        """The optimizer's state, for `take_over`."""
        return pickle.dumps((self.pieces, self.optimizer.state_dict()))


class Center:
    """A server's part of the center of elastic averaging: no optimizer, for workers make the steps."""

    def __init__(self, trainer, layout, number, rate):
        self.weights = weights_of(trainer, layout, number)
        self.rate = self.weights.dtype.type(rate)
        self.moved: dict[int, np.ndarray] = {}  # the parameters of workers that have been here

    def update(self, pushed, divisor) -> bool:
        """Move the center and the parameters of workers, {worker: (factor, parameters)}, toward each other."""
        # difference = rate * (x - center); x -= difference; center += difference of all
        differences = {w: self.rate * (theirs - self.weights) for w, (_, theirs) in pushed.items()}
        for w, difference in differences.items():
            self.moved[w] = pushed[w][1] - difference
            self.weights += difference
        return True

    def weights_for(self, worker) -> np.ndarray:
        """A worker's own parameters, moved; the center's for one that is new."""
        return self.moved.get(worker, self.weights).copy()

    def state(self) -> bytes:
        """Nothing: the optimizers are the workers' own."""
        return b""


def weights_of(trainer, layout, number) -> np.ndarray:
    """A shard of the parameters, a copy."""
    place, params = layout.shards[number], trainer.net.parameters()
    weights = aligned_zeros((place.stop - place.start,), layout.dtype)
    for piece in layout.pieces(place):
        piece.inside(weights)[:] = piece.of(params[piece.k])
    return weights


def take_over(optimizer, states) -> None:
    """Give the optimizer of the whole network the state of these shards, in place of what it had."""
    whole = optimizer.state_dict()
    whole["param_groups"] = [{"params": group["params"]} for group in whole["param_groups"]]  # options stay
    params, whole["state"] = optimizer.parameters(), {}
    for pieces, state in map(pickle.loads, states):
        whole["steps"], whole["accumulated"] = state["steps"], state["accumulated"]
        for number, piece in enumerate(pieces):
            entry = whole["state"].setdefault(piece.k, {})
            for name, value in state["state"][number].items():
                if isinstance(value, np.ndarray):
                    piece.of(entry.setdefault(name, np.zeros_like(params[piece.k])))[:] = value
                else:
                    entry[name] = value
    optimizer.load_state_dict(whole)


def _part_of(optimizer: Optimizer, pieces, weights) -> Optimizer:
    """An optimizer over pieces of the parameters, with the state that the whole one has of them."""
    whole = optimizer.__getstate__()
    state, groups, numbers, first = whole["state"], [], [], 0
    for group in whole["param_groups"]:
        last = first + len(group["params"])
        mine = [number for number, piece in enumerate(pieces) if first <= piece.k < last]
        if mine:
            groups.append({**group, "params": [pieces[number].inside(weights) for number in mine]})
            numbers.append({"params": mine})
        first = last
    parts = {
        number: {
            name: piece.of(value) if isinstance(value, np.ndarray) else value
            for name, value in state["state"][piece.k].items()
        }
        for number, piece in enumerate(pieces)
    }
    rule = type(optimizer)
    part = rule.__new__(rule)
    part.__setstate__({**whole, "param_groups": groups, "state": {**state, "param_groups": numbers, "state": parts}})
    return part
