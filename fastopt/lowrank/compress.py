"""Compression of a network to a budget: ranks of its layers by measured times and by errors on data, then fine-tuning.

1. For each layer candidates are made, timed and tried on samples (candidates.py).
2. The knapsack gives the choices that no other beats in cost and in error (knapsack.py).
3. The network is made from the best choice within the budget. Multiply-adds and bytes are exact. Times of layers do not
   add up to that of the network: it is measured in turns with the original, and the choice is corrected by that. None
   is taken that is slower.
4. The Trainer goes on from there (fine_tuning.py).

Choices follow from measured times; with the same times, all else is the same.
"""

import copy
import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from fastopt._arrays import require_finite
from fastopt._numbers import flag, whole_number
from fastopt.lowrank.budgets import Budget, Latency
from fastopt.lowrank.candidates import Candidate, candidates, checked_methods, places, samples
from fastopt.lowrank.compression import Compression, Estimate, Row
from fastopt.lowrank.fine_tuning import FineTuning
from fastopt.lowrank.knapsack import frontier
from fastopt.lowrank.latency import Stopwatch, Timing, cache_file, measure_latency
from fastopt.lowrank.layers import NAMES
from fastopt.nn.files import stored_arrays
from fastopt.nn.layers import Layer, chain
from fastopt.nn.sequential import Sequential

ROUNDS = 8  # of choosing and measuring the whole network
SLACK = 0.05  # part of a latency budget within which it counts as met


def compress(
    net,
    X,
    y,
    budget,
    *,
    loss="cross_entropy",
    methods=NAMES,
    epochs=1,
    batch_size=32,
    optimizer="adam",
    validation=None,
    batch_norm=False,
    keep=(),
    seed=0,
    progress=False,
    measure=measure_latency,
) -> Compression:
    """A network of low rank that meets a budget, its ranks chosen by times measured on this machine.

    Parameters
    ----------
    net : Sequential
        A trained network; it stays as it is.
    X, y : array_like
        Samples and targets, as `Trainer.fit` takes them. Ranks are chosen by the layers' errors on up to some hundreds
        of the samples, evenly spaced; fine-tuning trains on all.
    budget : Latency, MultiplyAdds or Bytes
    loss : str or loss
        Of fine-tuning.
    methods : iterable of str
        Of "svd", "two_factor", "tucker2" and "cp"; see `factorize`.
    epochs : int
        Of fine-tuning; 0 leaves it out.
    batch_size : int
    optimizer : str, or callable
        The name of a rule of `fastopt.optim`, whose default learning rate then falls to 0 by a cosine; or a function
        from parameters to an optimizer over them, such as ``lambda params: fo.optim.SGD(params, lr=0.01)``. It is
        called twice: with those of a copy of `net` first, so that a mistake is found before the work.
    validation : (array_like, array_like), optional
        Samples and targets that losses and accuracies are measured on, instead of X. Fine-tuning keeps the epoch of
        their lowest loss.
    batch_norm : bool
        Put a `BatchNorm` between the factors of a layer. They are then to be trained for longer: after an epoch the
        network is mostly worse than without.
    keep : Layer, or iterable of Layer
        Layers of `net` that are not replaced.
    seed : int
        Of decompositions and of the order of rows.
    progress : bool
        Show the progress bar of fine-tuning (needs tqdm).
    measure : callable
        What times networks, called as `measure_latency`. Times of that function are kept in a file of the user's
        cache folder, or of FASTOPT_CACHE; those of another are not.

    Returns
    -------
    Compression

    Raises
    ------
    TypeError, ValueError
        Arguments or data that do not fit, before any work; a budget that cannot be met, or only by networks slower
        than `net`: the message names the least that can be reached.

    Warns
    -----
    RuntimeWarning
        Fine-tuning diverges: ``network`` is then that before it, and there are no scores of it "tuned".

    Notes
    -----
    A layer is replaced only by layers that are faster, by more than the noise of both times, whatever the budget
    limits, and no network is returned that is slower as a whole. The choice minimizes the sum over the layers of the
    relative squared error of their outputs.

    Which ranks are chosen depends on measured times: on another machine, or measured anew, they may differ.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> layers = [fo.nn.Dense(512, 512, activation="relu"), fo.nn.Dense(512, 3)]
    >>> net = fo.nn.Sequential(layers, rng=0)
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((200, 512)), rng.integers(0, 3, 200)
    >>> smaller = fo.lowrank.compress(net, X, y, fo.lowrank.MultiplyAdds(100_000))
    >>> smaller.cost_before, smaller.cost_after <= 100_000
    (263680, True)
    """
    _require_trainable(net, budget)
    methods, keep = checked_methods(methods), _checked_layers(keep, net)
    epochs, seed = whole_number("epochs", epochs, 0), whole_number("seed", seed, 0)
    batch_size, batch_norm = whole_number("batch_size", batch_size), flag("batch_norm", batch_norm)
    tuning = FineTuning(net, loss, X, y, validation, epochs, batch_size, optimizer, seed, progress)

    scores = {"before": tuning.score(net)}
    with Stopwatch(measure, budget, cache_file() if measure is measure_latency else None) as stopwatch:
        (before,) = stopwatch.times([net])
        cost = budget.of(net, before)
        if cost <= budget.limit:
            same = copy.deepcopy(net), copy.deepcopy(net)
            return Compression(*same, budget, [], before, before, cost, cost, scores, tuning.measured_on, [])
        options = {
            place.name: candidates(place, net.dtype, methods, budget, stopwatch, batch_norm, seed)
            for place in places(net.layers, samples(net, tuning.X, seed), net.dtype, keep)
        }
        choice = _Choice(net, budget, options, before)
        made = choice.made(stopwatch)

    scores["compressed"] = tuning.score(made.network)
    network = _tuned(made.network, tuning, scores) if epochs else copy.deepcopy(made.network)
    costs = budget.of(net, made.before), budget.of(network, made.after)
    rows, estimates = choice.rows(made.picks), choice.estimates()
    times = made.before, made.after
    return Compression(network, made.network, budget, rows, *times, *costs, scores, tuning.measured_on, estimates)


# ---------------------------------------------------------------- checks


def _require_trainable(net, budget):
    if not isinstance(budget, Budget):
        raise TypeError(
            f"budget: expected lowrank.Latency, MultiplyAdds or Bytes, got {type(budget).__name__}; pass "
            "lowrank.Latency(us=...) for microseconds"
        )
    if not isinstance(net, Sequential):
        raise TypeError(f"net: expected a Sequential, got {type(net).__name__}")
    if not all(a.flags.writeable for a in net.parameters()):
        raise ValueError("net: expected a network that can be trained, got a folded one; compress it before fold()")
    for name, array in stored_arrays(net).items():
        require_finite(f"net.{name}", array)


def _checked_layers(keep, net) -> list:
    keep = [keep] if isinstance(keep, Layer) else list(keep)
    known = {id(layer) for layer in chain.walk(net.layers)}
    for layer in keep:
        if id(layer) not in known:
            raise ValueError(f"keep: expected layers of net, got {layer!r}")
    return keep + [inner for layer in keep for inner in chain.walk(layer.layers)]


# ---------------------------------------------------------------- the steps


class _Made(NamedTuple):
    """A network, the candidates it is made of, and times of the original and of it, which took turns."""

    network: Sequential
    picks: list[Candidate]
    before: Timing
    after: Timing


class _Choice:
    """Candidates of all layers, by the names of their places, and networks made of one for each."""

    def __init__(self, net, budget, options, before):
        self.net, self.budget, self.before, self.options = net, budget, before, options
        self.frontier = frontier([([c.cost for c in found], [c.error for c in found]) for found in options.values()])

    def made(self, stopwatch) -> _Made:
        """The best choice that meets the budget and is no slower than the original, beyond the noise of both times.

        The network's cost is taken for a straight line over the sum of its layers' costs: at first of slope 1, then
        through the last network that was measured and the original beside it. Where that line leads to no new point
        though much of the budget is left, or none is met, the points between those within and above it are halved. A
        network that is slower as a whole counts as above.
        """
        tried: dict[int, float] = {}
        best: Any = None
        costs, errors = self.frontier.costs, self.frontier.errors
        whole = sum(found[0].cost for found in self.options.values())
        target = whole + self.budget.limit - self.budget.of(self.net, self.before)
        met, missed = -1, len(costs)  # the dearest point within the budget so far, and the cheapest above it
        for _ in range(ROUNDS):
            point = self.frontier.within(target) or 0  # the cheapest where none is, for the line is an estimate
            if not met < point < missed:
                if missed - met < 2 or tried.get(met, 0) >= self.budget.limit * (1 - SLACK):
                    break
                point = 0 if met < 0 else (met + missed) // 2
            picks = self.picks(point)
            network = self.network(picks)
            before, after = stopwatch.times([self.net, network])
            cost = tried[point] = self.budget.of(network, after)
            slower = after.seconds - before.seconds > before.noise + after.noise
            rank = cost > self.budget.limit, errors[point]  # within the slack is second best
            if not slower and cost <= self.allowed and (best is None or rank < best[0]):
                best = rank, _Made(network, picks, before, after)
            if not slower and not isinstance(self.budget, Latency):  # others are exact
                break
            above = slower or cost > self.budget.limit
            met, missed = (met, point) if above else (point, missed)
            slope = (self.budget.of(self.net, before) - cost) / (whole - costs[point]) if whole > costs[point] else 0
            if slower:
                target = costs[point // 4]
            else:
                target = costs[point] + (self.budget.limit - cost) / slope if slope > 0 else -np.inf
        if best is None:
            self._refuse(min(*tried.values(), self.budget.of(self.net, self.before)))
        return best[1]

    @property
    def allowed(self) -> float:
        """What the network may cost, as measured."""
        return self.budget.limit * (1 + SLACK) if isinstance(self.budget, Latency) else self.budget.limit

    def _refuse(self, least):
        shown, limit = self.budget.shown, self.budget.shown(self.budget.limit)
        if least <= self.allowed:
            raise ValueError(
                f"budget: expected one that a network no slower than the given one meets, got {limit}: all within it "
                f"that were tried, down to {shown(least)}, measured slower, though their layers by themselves did not"
            )
        raise ValueError(f"budget: expected at least {shown(least)}, the least that these methods reach, got {limit}")

    def picks(self, point) -> list[Candidate]:
        """The candidate of each layer at a point of the frontier."""
        return [found[pick] for found, pick in zip(self.options.values(), self.frontier.picks[point], strict=True)]

    def network(self, picks) -> Sequential:
        """A copy of the network with these candidates, those whose errors are known, in their places."""
        twin = copy.deepcopy(self.net)
        layers = dict(chain.named(twin.layers))
        for name, pick in zip(self.options, picks, strict=True):
            if pick.method is not None:
                twin.replace(layers[name], copy.deepcopy(list(pick.layers)))
        return twin

    def rows(self, picks) -> list[Row]:
        """What became of each layer."""
        layers = dict(chain.named(self.net.layers))
        return [
            self._row(f"{name} {type(layers[name]).__name__}", found[0], pick)
            for (name, found), pick in zip(self.options.items(), picks, strict=True)
        ]

    @staticmethod
    def _row(layer, own, pick):
        return Row(
            layer,
            pick.method,
            pick.rank,
            math.sqrt(pick.error),
            own.timing,
            pick.timing,
            own.bytes,
            pick.bytes,
            own.multiply_adds,
            pick.multiply_adds,
            pick.degeneracy,
            pick.converged,
        )

    def estimates(self) -> list[Estimate]:
        """Time and error of every point of the frontier that no other beats in both."""
        seconds = [np.array([c.timing.seconds for c in found]) for found in self.options.values()]
        rest = self.before.seconds - sum(of_layer[0] for of_layer in seconds)
        points = sorted(
            (rest + float(sum(s[pick] for s, pick in zip(seconds, picks, strict=True))), float(error))
            for picks, error in zip(self.frontier.picks, self.frontier.errors, strict=True)
        )
        estimates: list[Estimate] = []
        for time, error in points:
            if not estimates or error < estimates[-1].error:
                estimates.append(Estimate(time, error))
        return estimates


def _tuned(compressed, tuning, scores) -> Sequential:
    """A copy that has been fine-tuned, with its scores; one that has not, and a warning, where that diverges."""
    network = copy.deepcopy(compressed)
    try:
        scores["tuned"] = tuning.tune(network)
    except FloatingPointError as error:
        warnings.warn(
            f"compress: fine-tuning diverged, {error}; the network returned is the one before it: pass an optimizer "
            "with a lower learning rate, or methods without 'cp'",
            RuntimeWarning,
            stacklevel=3,
        )
        return copy.deepcopy(compressed)
    return network
