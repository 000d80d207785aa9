"""Compression of a network to a budget: ranks of its layers by measured times and by errors on data, then fine-tuning.

1. For each layer candidates are made, timed and tried on samples (candidates.py).
2. The knapsack gives the choices that no other beats in cost and in error (knapsack.py).
3. The network is made from the best choice within the budget. Multiply-adds and bytes are exact. Times of layers do not
   add up to that of the network: it is measured in turns with the original, and the choice is corrected by that.
4. The Trainer goes on from there.

Choices follow from measured times; with the same times, all else is the same.
"""

import copy
from typing import Any

import numpy as np

from fastopt._arrays import require_finite
from fastopt._numbers import flag, whole_number
from fastopt.lowrank.budgets import Budget, Latency
from fastopt.lowrank.candidates import Candidate, candidates, places, samples
from fastopt.lowrank.compression import Compression, Estimate, Row
from fastopt.lowrank.knapsack import frontier
from fastopt.lowrank.latency import MEASURED, Stopwatch, cache_file, measure_latency
from fastopt.lowrank.layers import factorize
from fastopt.nn.early_stopping import validate
from fastopt.nn.files import stored_arrays
from fastopt.nn.fit_data import checked_rows, checked_validation, require_sizes
from fastopt.nn.layers import Layer, chain
from fastopt.nn.progress import load_tqdm
from fastopt.nn.sequential import Sequential
from fastopt.nn.trainer import Trainer
from fastopt.optim.named import optimizer_over
from fastopt.schedules import Cosine

ALL_METHODS = ("svd", "two_factor", "tucker2", "cp")
ROUNDS = 8  # of choosing and measuring the whole network
SLACK = 0.05  # part of a latency budget within which it counts as met


def compress(
    net,
    X,
    y,
    budget,
    *,
    loss="cross_entropy",
    methods=ALL_METHODS,
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
        of the samples; fine-tuning trains on all.
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
        from parameters to an optimizer over them, such as ``lambda params: fo.optim.SGD(params, lr=0.01)``.
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
        Arguments or data that do not fit, before any work; a budget that cannot be met: the message names the least
        that can be reached.
    FloatingPointError
        Fine-tuning diverges.

    Notes
    -----
    A layer is replaced only by layers that are faster, by more than the noise of both times, whatever the budget
    limits. The choice minimizes the sum over the layers of the relative squared error of their outputs.

    Which ranks are chosen depends on measured times: on another machine, or measured anew, they may differ.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(512, 512, activation="relu"), fo.nn.Dense(512, 3)], rng=0)
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((200, 512)), rng.integers(0, 3, 200)
    >>> smaller = fo.lowrank.compress(net, X, y, fo.lowrank.MultiplyAdds(100_000))
    >>> smaller.cost_before, smaller.cost_after <= 100_000
    (263680, True)
    """
    if not isinstance(budget, Budget):
        raise TypeError(
            f"budget: expected lowrank.Latency, MultiplyAdds or Bytes, got {type(budget).__name__}; pass "
            "lowrank.Latency(us=...) for microseconds"
        )
    if not isinstance(net, Sequential):
        raise TypeError(f"net: expected a Sequential, got {type(net).__name__}")
    if not all(a.flags.writeable for a in net.parameters()):
        raise ValueError("net: expected a network that can be trained, got a folded one; compress it before fold()")
    methods, keep = _checked_methods(methods), _checked_layers(keep, net)
    epochs, seed = whole_number("epochs", epochs, 0), whole_number("seed", seed, 0)
    batch_size, batch_norm = whole_number("batch_size", batch_size), flag("batch_norm", batch_norm)
    if flag("progress", progress):
        load_tqdm()
    training = net.derivatives(loss)
    data = checked_rows(training, loss, X, y, None, True)
    require_sizes(batch_size, len(data[0]), 0, 1, net.least_rows)
    for name, array in stored_arrays(net).items():
        require_finite(f"net.{name}", array)
    steps = epochs * -(-len(data[0]) // batch_size)
    _optimizer(net, optimizer, steps)  # which may be refused
    held = data if validation is None else checked_validation(training, loss, validation, True)
    measured_on = "X" if validation is None else "validation"

    def score(network):
        return {name[4:]: value for name, value in validate(network.predict, loss, *held).items()}  # not "val_"

    kept = (MEASURED, cache_file()) if measure is measure_latency else ({}, None)
    stopwatch = Stopwatch(measure, budget, *kept)
    (before,) = stopwatch.times([net])
    cost = budget.of(net, before)
    scores = {"before": score(net)}
    if cost <= budget.limit:
        same = copy.deepcopy(net)
        return Compression(same, same, budget, [], before, before, cost, cost, scores, measured_on, [])

    places_, options = [], []
    for place in places(net.layers, samples(net, data[0]), net.dtype, keep):
        found = candidates(place, net.dtype, methods, budget, stopwatch, batch_norm, seed)
        places_.append(place._replace(x=None))  # the samples are no longer needed
        options.append(found)
    choice = _Choice(net, budget, places_, options, before, batch_norm, seed)
    network, picks, before, after = choice.made(stopwatch)
    rows = [choice.row(i, pick) for i, pick in enumerate(picks)]
    scores["compressed"] = score(network)
    compressed = copy.deepcopy(network)
    if epochs:
        trainer = Trainer(network, loss, _optimizer(network, optimizer, steps), seed=seed)
        patience = None if validation is None else epochs
        trainer.fit(X, y, epochs, batch_size, validation=validation, patience=patience, progress=progress)
        scores["tuned"] = score(network)
    costs = budget.of(net, before), budget.of(network, after)
    return Compression(
        network, compressed, budget, rows, before, after, *costs, scores, measured_on, choice.estimates()
    )


def _checked_methods(methods) -> tuple[str, ...]:
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    for method in methods:
        if method not in ALL_METHODS:
            raise ValueError(f"methods: expected some of {', '.join(ALL_METHODS)}, got {method!r}")
    if not methods:
        raise ValueError(f"methods: expected some of {', '.join(ALL_METHODS)}, got none")
    return methods


def _optimizer(net, optimizer, steps):
    """The optimizer of fine-tuning, which takes so many steps."""
    params = net.parameters()
    if callable(optimizer):
        return optimizer_over(params, optimizer(params))
    if not isinstance(optimizer, str):
        raise TypeError(
            "optimizer: expected the name of a rule, or a function that makes one over the parameters of the "
            f"compressed network, like optim.Adam, got {type(optimizer).__name__}"
        )
    rule = optimizer_over(params, optimizer)
    (group,) = rule.param_groups
    if steps and "lr" in group:
        group["lr"] = Cosine(group["lr"], steps)
    return rule


def _checked_layers(keep, net) -> list:
    keep = [keep] if isinstance(keep, Layer) else list(keep)
    known = {id(layer) for layer in chain.walk(net.layers)}
    for layer in keep:
        if id(layer) not in known:
            raise ValueError(f"keep: expected layers of net, got {layer!r}")
    return keep + [inner for layer in keep for inner in chain.walk(layer.layers)]


class _Choice:
    """Candidates of all layers, and networks made of one for each."""

    def __init__(self, net, budget, places, options, before, batch_norm, seed):
        self.net, self.budget, self.before = net, budget, before
        self.places, self.options = places, options
        self.factorizing = {"batch_norm": batch_norm, "seed": seed}
        self.frontier = frontier([([c.cost for c in found], [c.error for c in found]) for found in options])

    def made(self, stopwatch):
        """The network of the best choice that meets the budget, its candidates, and times before and after.

        The network's cost is taken for a straight line over the sum of its layers' costs: at first of slope 1, then
        through the last network that was measured and the original beside it. Where that line leads to no new point
        though much of the budget is left, or none is met, the points between those within and above it are halved.
        """
        tried: dict[int, float] = {}
        best: Any = None
        costs, errors, whole = self.frontier.costs, self.frontier.errors, sum(found[0].cost for found in self.options)
        target = whole + self.budget.limit - self.budget.of(self.net, self.before)
        met, missed = -1, len(costs)  # the dearest point within the budget so far, and the cheapest above it
        for _ in range(ROUNDS):
            point = self.frontier.within(target) or 0  # the cheapest where none is, for the line is an estimate
            if not met < point < missed:
                if missed - met < 2 or tried.get(met, 0) >= self.budget.limit * (1 - SLACK):
                    break
                point = 0 if met < 0 else (met + missed) // 2
            network = self.network(self.picks(point))
            before, after = stopwatch.times([self.net, network])
            cost = tried[point] = self.budget.of(network, after)
            rank = cost > self.budget.limit, errors[point]  # within the slack is second best
            if cost <= self.allowed and (best is None or rank < best[0]):
                best = rank, network, self.picks(point), before, after
            if not isinstance(self.budget, Latency):  # others are exact
                break
            met, missed = (point, missed) if cost <= self.budget.limit else (met, point)
            slope = (self.budget.of(self.net, before) - cost) / (whole - costs[point]) if whole > costs[point] else 0
            target = costs[point] + (self.budget.limit - cost) / slope if slope > 0 else -np.inf
        if best is None:
            self._refuse(min(*tried.values(), self.budget.of(self.net, self.before)))
        return best[1:]

    @property
    def allowed(self) -> float:
        """What the network may cost, as measured."""
        return self.budget.limit * (1 + SLACK) if isinstance(self.budget, Latency) else self.budget.limit

    def _refuse(self, least):
        shown = self.budget.shown
        raise ValueError(
            f"budget: expected at least {shown(least)}, the least that these methods reach, "
            f"got {shown(self.budget.limit)}"
        )

    def picks(self, point) -> list[Candidate]:
        """The candidate of each layer at a point of the frontier."""
        return [found[pick] for found, pick in zip(self.options, self.frontier.picks[point], strict=True)]

    def network(self, picks) -> Sequential:
        """A copy of the network with these candidates in their places."""
        twin = copy.deepcopy(self.net)
        layers = dict(chain.named(twin.layers))
        for place, pick in zip(self.places, picks, strict=True):
            if pick.method is not None:
                layer = layers[place.name]
                options = {**self.factorizing, **place.options(pick.method)}
                twin.replace(layer, factorize(layer, pick.method, pick.rank, **options))
        return twin

    def row(self, i, pick) -> Row:
        """What became of a layer."""
        place, own = self.places[i], self.options[i][0]
        return Row(
            f"{place.name} {type(place.layer).__name__}",
            pick.method,
            pick.rank,
            pick.error,
            own.timing,
            pick.timing,
            own.bytes,
            pick.bytes,
            own.multiply_adds,
            pick.multiply_adds,
            pick.degeneracy,
        )

    def estimates(self) -> list[Estimate]:
        """Time and error of every point of the frontier that no other beats in both."""
        seconds = [np.array([c.timing.seconds for c in found]) for found in self.options]
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
