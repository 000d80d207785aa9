"""What may stand in the place of a layer: its factorizations at several ranks, timed, and tried on data.

A candidate must be faster than the layer by more than the noise of both times, and save multiply-adds; all others are
dropped before anything is decomposed, for times do not depend on weights. The error is that of the layer's output on
samples, each layer by itself.

Of samples, every other one makes the second moments that `svd` goes by, and the others tell all errors: on its own
samples a factorization errs less than on any others. Few samples of a wide layer make moments that are worse than none,
so `svd` is tried by the weight alone as well, and the better of the two is what it gives.
"""

import math
import warnings
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from fastopt.lowrank.budgets import multiply_adds, stored_bytes
from fastopt.lowrank.decomposition import norm
from fastopt.lowrank.latency import Timing
from fastopt.lowrank.layers import METHODS, NAMES, factorizations, method_of, shape_of_group, unfilled
from fastopt.lowrank.moments import second_moments
from fastopt.nn.layers import Layer
from fastopt.nn.sequential import assembled

RANKS, FEW_RANKS = 16, 4  # of a method, and of cp, which is decomposed anew for each
OPTIONS = {"cp": {"max_sweeps": 100, "restarts": 1}}  # of the methods' functions
MOST_SAMPLES, LEAST_SAMPLES = 1024, 32  # of X, half of them for moments and half for errors
MOST_WORK = 2e11  # multiply-adds of the network for all of these
POSITIONS = 8192  # of images that are enough for either


def checked_methods(methods, name="methods") -> tuple[str, ...]:
    """Names of methods; ValueError for others, or none."""
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    for method in methods:
        if method not in NAMES:
            raise ValueError(f"{name}: expected some of {', '.join(NAMES)}, got {method!r}")
    if not methods:
        raise ValueError(f"{name}: expected some of {', '.join(NAMES)}, got none")
    return methods


class Place(NamedTuple):
    """A layer that may be replaced: the name of its place, the layer, and what it reads of samples that tell errors.

    There are as many of these as make enough positions of its output. `moments` are the `second_moments` of as many
    others; None where there are no others.
    """

    name: str
    layer: Layer
    x: np.ndarray
    moments: np.ndarray | None

    def options(self, method) -> list[dict]:
        """Of `factorize`, for this method: all that are tried."""
        by_data = [{"moments": self.moments}] if method == "svd" and self.moments is not None else []
        return [OPTIONS.get(method, {}), *by_data]


class Candidate(NamedTuple):
    """What may stand in a place; `method` and `rank` are None for the layer itself, whose `layers` are none."""

    method: str | None
    rank: int | tuple[int, int] | None
    layers: tuple[Layer, ...]
    timing: Timing
    multiply_adds: int
    bytes: int
    cost: float  # against the budget
    error: float  # the sum of squared differences, relative to that of squares
    degeneracy: float | None  # of cp
    converged: bool | None  # of cp


def samples(net, X, seed=0) -> np.ndarray:
    """Evenly spaced samples of X, fewer for a large network; of two neighbors either may come first, by chance.

    So every other one is a fair choice even where classes take turns in X.
    """
    work = max(1, multiply_adds(net.layers, net.input_shape))
    rows = _evenly(len(X), max(LEAST_SAMPLES, min(MOST_SAMPLES, int(MOST_WORK / work))))
    pairs = rows[: len(rows) // 2 * 2].reshape(-1, 2)
    rows[: pairs.size] = np.random.default_rng(seed).permuted(pairs, axis=1).ravel()
    return X[rows]


def _evenly(n, most) -> np.ndarray:
    """Indices of so many of n, evenly spaced; of all if there are fewer."""
    return np.linspace(0, n - 1, min(n, most)).astype(int)


def places(layers, x, dtype, keep=(), name="layers", first=0):
    """Every `Place` of a chain and of those inside its layers, in the order of computation."""
    for i, layer in enumerate(layers, first):
        here = f"{name}.{i}"
        if layer not in keep and replaceable(layer):
            positions = math.prod(layer.output_shape(x.shape[1:])[:-1])
            most = max(LEAST_SAMPLES // 2, POSITIONS // positions)
            tried, others = (half[_evenly(len(half), most)] for half in (x[::2], x[1::2]))
            yield Place(here, layer, tried, second_moments(layer, others) if len(others) else None)
        inside = 0
        for inner in layer.chains():
            yield from places(inner, x, dtype, keep, here, inside)
            inside += len(inner)
        if not layer.training_only:
            x = assembled([layer], dtype, x.shape[1:]).predict(x)


def replaceable(layer) -> bool:
    """Whether a layer has a product that can be factorized, without a penalty on its weight itself."""
    return type(layer) in METHODS and not (layer.l1 or layer.max_norm)


def candidates(place, dtype, methods, budget, stopwatch, batch_norm, seed) -> list[Candidate]:
    """The layer itself first, and whatever is faster, by rising cost and falling error."""
    layer, shape = place.layer, place.x.shape[1:]
    own = assembled([layer], dtype, shape)
    work = multiply_adds(own.layers, shape)
    kinds: list[tuple[str | None, Any]] = [(None, None)]
    nets = [own]
    for method in (name for name in METHODS[type(layer)] if name in methods):
        for rank in grid(layer, method):
            net = assembled(unfilled(layer, method, rank, batch_norm), dtype, shape)
            if multiply_adds(net.layers, shape) < work:
                kinds.append((method, rank))
                nets.append(net)
    timings = stopwatch.remembered(nets)
    measured = [
        (timing, multiply_adds(net.layers, shape), stored_bytes(net), budget.of(net, timing))
        for net, timing in zip(nets, timings, strict=True)
    ]
    noise = [timing.noise + timings[0].noise for timing in timings]
    faster = {
        kind: numbers
        for kind, numbers, unsure in zip(kinds, measured, noise, strict=True)
        if timings[0].seconds - numbers[0].seconds > unsure
    }
    del nets
    y = own.predict(place.x).astype(np.float64)
    found = []
    for (method, rank), layers, converged in _factorized(place, faster, batch_norm, seed):
        net = assembled(layers, dtype, shape)
        error = squared_error(y, net.predict(place.x))
        swollen = degeneracy(layer, net.layers) if method == "cp" else None
        found.append(Candidate(method, rank, net.layers, *faster[method, rank], error, swollen, converged))
    return [Candidate(None, None, (), *measured[0], 0.0, None, None), *_unbeaten(found)]


def _unbeaten(found):
    """Those than which no other costs less, or as much, and errs less: what the others are made of is forgotten."""
    least = math.inf
    for one in sorted(found, key=lambda one: (one.cost, one.error)):
        if one.error < least:
            least = one.error
            yield one


def _factorized(place, kinds, batch_norm, seed):
    """((method, rank), layers, converged) of factorizations of these kinds; the last is None of all but cp."""
    for method in dict.fromkeys(method for method, _ in kinds):
        ranks = [rank for name, rank in kinds if name == method]
        for options in place.options(method):
            made = factorizations(place.layer, method, ranks, batch_norm=batch_norm, seed=seed, **options)
            for rank in ranks:
                yield (method, rank), *(_heard(made) if method == "cp" else (next(made), None))


def _heard(made):
    """The next factorization by cp, and whether that converged, of which it would warn."""
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", "cp: ", RuntimeWarning)
        layers = next(made)
    return layers, not any(str(one.message).startswith("cp: ") for one in said)


def squared_error(y, found) -> float:
    """The sum of squared differences, relative to the sum of squares; infinite where it is no number."""
    missed, whole = norm(y - found), norm(y)
    if whole == 0:
        return math.inf if missed else 0.0
    error = (missed / whole) ** 2
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
    whole = np.square(layer.weight, dtype=np.float64).sum()
    return float(np.prod(norms, axis=0).sum() / whole) if whole > 0 else 0.0
