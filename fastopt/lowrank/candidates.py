"""What may stand in the place of a layer: its factorizations at several ranks, timed, and tried on data.

A candidate must be faster than the layer by more than the noise of both times, and save multiply-adds; all others are
dropped before their error is computed. The error is that of the layer's output on samples, each layer by itself.
"""

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from fastopt.lowrank.budgets import multiply_adds, stored_bytes
from fastopt.lowrank.latency import Timing
from fastopt.lowrank.layers import METHODS, factorizations, method_of, shape_of_group
from fastopt.lowrank.responses import second_moments
from fastopt.nn.layers import Layer
from fastopt.nn.sequential import Sequential

RANKS, FEW_RANKS = 16, 4  # of a method, and of cp, which is decomposed anew for each
OPTIONS = {"cp": {"max_sweeps": 100, "restarts": 1, "tol": 0.0}}  # of the methods' functions
MOST_SAMPLES, LEAST_SAMPLES = 512, 16  # of X that errors are estimated on
MOST_WORK = 2e11  # multiply-adds of the network for all of these
POSITIONS = 8192  # of images that are enough for an error


class Place(NamedTuple):
    """A layer that may be replaced: the name of its place, the layer, and what it reads of samples.

    There are as many of these as make enough positions of its output. `moments` are the `second_moments` of that.
    """

    name: str
    layer: Layer
    x: np.ndarray | None
    moments: np.ndarray

    def options(self, method) -> dict:
        """Of `factorize`, for this method."""
        return {"moments": self.moments} if method == "svd" else OPTIONS.get(method, {})


class Candidate(NamedTuple):
    """What may stand in a place; `method` and `rank` are None for the layer itself."""

    method: str | None
    rank: int | tuple[int, int] | None
    timing: Timing
    multiply_adds: int
    bytes: int
    cost: float  # against the budget
    error: float = 0.0
    degeneracy: float | None = None  # of cp


def samples(net, X) -> np.ndarray:
    """Evenly spaced samples of X, fewer for a large network."""
    work = max(1, multiply_adds(net.layers, net.input_shape))
    return spread(X, max(LEAST_SAMPLES, min(MOST_SAMPLES, int(MOST_WORK / work))))


def spread(X, n) -> np.ndarray:
    """So many of X, or all, evenly spaced: rows may lie sorted by class."""
    return X if len(X) <= n else X[np.linspace(0, len(X) - 1, n).astype(int)]


def places(layers, x, dtype, keep=(), name="layers", first=0):
    """Every `Place` of a chain and of those inside its layers, in the order of computation."""
    for i, layer in enumerate(layers, first):
        here = f"{name}.{i}"
        if layer not in keep and replaceable(layer):
            positions = math.prod(layer.output_shape(x.shape[1:])[:-1])
            some = spread(x, max(LEAST_SAMPLES, POSITIONS // positions))
            yield Place(here, layer, some, second_moments(layer, some))
        inside = 0
        for inner in layer.chains():
            yield from places(inner, x, dtype, keep, here, inside)
            inside += len(inner)
        if not layer.training_only:
            x = one_layer(layer, dtype, x.shape[1:]).predict(x)


def replaceable(layer) -> bool:
    """Whether a layer has a product that can be factorized, without a penalty on its weight itself."""
    return type(layer) in METHODS and not (layer.l1 or layer.max_norm)


def one_layer(layer, dtype, input_shape) -> Sequential:
    """A network of the layer itself."""
    return Sequential([layer], dtype=dtype, input_shape=input_shape)


def candidates(place, dtype, methods, budget, stopwatch, batch_norm, seed) -> list[Candidate]:
    """The layer itself first, and whatever is faster."""
    shape = place.x.shape[1:]
    own = one_layer(place.layer, dtype, shape)
    work = multiply_adds(own.layers, shape)
    tried: list[tuple[str | None, Any, Sequential]] = [(None, None, own)]
    for method, rank, layers in _factorized(place, methods, batch_norm, seed):
        net = Sequential(layers, rng=0, dtype=dtype, input_shape=shape)
        if multiply_adds(net.layers, shape) < work:
            tried.append((method, rank, net))
    timings = stopwatch.remembered([net for _, _, net in tried])
    y = own.predict(place.x).astype(np.float64)
    kept = []
    for (method, rank, net), timing in zip(tried, timings, strict=True):
        gain = timings[0].seconds - timing.seconds
        if net is own or gain > timing.noise + timings[0].noise:
            counts = (multiply_adds(net.layers, shape), stored_bytes(net))
            error = 0.0 if net is own else relative_error(y, net.predict(place.x))
            swollen = degeneracy(place.layer, net.layers) if method == "cp" else None
            kept.append(Candidate(method, rank, timing, *counts, budget.of(net, timing), error, swollen))
    return kept


def _factorized(place, methods, batch_norm, seed):
    """(method, rank, layers) of every factorization that is tried."""
    layer = place.layer
    for method in METHODS[type(layer)]:
        ranks = grid(layer, method) if method in methods else []
        if ranks:
            options = {"batch_norm": batch_norm, "seed": seed, **place.options(method)}
            for rank, layers in zip(ranks, factorizations(layer, method, ranks, **options), strict=True):
                yield method, rank, layers


def relative_error(y, found) -> float:
    """The sum of squared differences, relative to the sum of squares; infinite where it is no number."""
    missed, whole = np.sum(np.square(y - found)), np.sum(np.square(y))
    error = float(missed / max(whole, np.finfo(np.float64).tiny))
    return error if math.isfinite(error) else math.inf


def grid(layer, method) -> list:
    """Ranks of each group to try, from the largest that saves multiply-adds of an image of any size down to 1.

    They fall by a constant factor; beyond a vector of float32 they are multiples of parts of one, or of whole ones.
    """
    out, height, width, n_in = shape = shape_of_group(layer)
    made, taps = method_of(layer, method), height * width
    if method != "svd" and taps == 1:
        return []
    if method == "tucker2":
        pairs = [(_even(share * out), _even(share * n_in)) for share in np.geomspace(0.9, 0.9 / 16, RANKS)]
        return list(dict.fromkeys((min(after, taps * before), min(before, taps * after)) for after, before in pairs))
    largest = bisect_left(made.ranks(*shape), math.prod(shape), key=lambda rank: made.size(*shape, rank))
    if largest < 1:
        return []
    steps = np.geomspace(largest / 2, largest / 16, FEW_RANKS) if method == "cp" else np.geomspace(largest, 1, RANKS)
    return list(dict.fromkeys(map(_even, steps)))


def _even(rank) -> int:
    """A rank as large or smaller: a multiple of 16 from 64 on, of 8 from 32 on, of 4 from 16 on."""
    rank = max(1, int(rank + 1e-9))
    step = 16 if rank >= 64 else 8 if rank >= 32 else 4 if rank >= 16 else 1
    return rank // step * step


def degeneracy(layer, layers) -> float:
    """Of the layers of a CP decomposition: the sum of its terms' squared norms, relative to that of the weight."""
    *between, last = [one.arrays()["weight"] for one in layers if one.weighted]
    norms = [np.square(weight, dtype=np.float64).reshape(len(weight), -1).sum(axis=1) for weight in between]
    last = last.reshape(layer.groups, -1, last.shape[-1])
    norms.append(np.square(last, dtype=np.float64).sum(axis=1).ravel())
    return float(np.prod(norms, axis=0).sum() / np.square(layer.weight, dtype=np.float64).sum())
