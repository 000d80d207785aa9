"""Compression to a budget: what it keeps to, what it leaves alone, and that errors come before the work.

Times come from a function that counts multiply-adds, but where the measuring itself is tested: no test asserts how
long anything takes.
"""

import copy
import dataclasses
import importlib
import itertools
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt as fo
from fastopt.lowrank import Bytes, Latency, MultiplyAdds, Timing, compress, factorize, second_moments
from fastopt.lowrank.budgets import multiply_adds, stored_bytes
from fastopt.lowrank.candidates import candidates, degeneracy, grid, places, samples
from fastopt.lowrank.compression import HEAD
from fastopt.lowrank.knapsack import frontier
from fastopt.lowrank.latency import MOST_KEPT, MOST_OF_ENTRY, Stopwatch, cache_file, fastest, measure_latency
from fastopt.nn.layers import chain
from fastopt.nn.sequential import assembled


def by_work(nets, batch=1, threads=1, folded=True):
    """Times that are multiply-adds, in nanoseconds, and a microsecond a call."""
    return [Timing(1e-6 + 1e-9 * multiply_adds(net.layers, net.input_shape), 1e-12) for net in nets]


@pytest.fixture(autouse=True)
def one_thread():
    with fo.num_threads(1):
        yield


@pytest.fixture(scope="module")
def digits():
    """Six by six images of three classes, and a trained convolutional network."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    patterns = rng.standard_normal((3, 6, 6, 2))
    X = (patterns[y] + 0.5 * rng.standard_normal((120, 6, 6, 2))).astype(np.float32)
    layers = [
        fo.nn.Conv2d(2, 16, 3, padding=1, activation="relu"),
        fo.nn.Concat([[fo.nn.Conv2d(16, 16, 3, padding=1, bias=False), fo.nn.BatchNorm(16, activation="relu")], []]),
        fo.nn.Residual([fo.nn.Conv2d(32, 32, 3, padding=1, groups=2, activation="tanh")]),
        fo.nn.MaxPool2d(2),
        fo.nn.Flatten(),
        fo.nn.Dropout(0.1),
        fo.nn.Dense(288, 32, activation="relu"),
        fo.nn.GroupedDense(32, 32, 2, activation="relu"),
        fo.nn.Dense(32, 3),
    ]
    net = fo.nn.Sequential(layers, rng=0, input_shape=(6, 6, 2))
    fo.nn.Trainer(net, "cross_entropy", "adam").fit(X, y, epochs=3)
    return net, X, y


@pytest.fixture
def dense():
    """A network of two dense layers, and data for it."""
    rng = np.random.default_rng(1)
    net = fo.nn.Sequential([fo.nn.Dense(64, 48, activation="relu"), fo.nn.Dense(48, 4)], rng=0)
    return net, rng.standard_normal((60, 64)), rng.integers(0, 4, 60)


def bits(net):
    return [a.tobytes() for a in net.parameters()]


# ---------------------------------------------------------------- the choice


OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1, width=32)), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(OPTIONS, st.integers(0, 200))
def test_a_choice_is_the_best_of_all(options, limit):
    best = min(
        (
            sum(error for _, error in picks)
            for picks in itertools.product(*options)
            if sum(cost for cost, _ in picks) <= limit
        ),
        default=None,
    )
    found = frontier([tuple(zip(*choices, strict=True)) for choices in options])
    point = found.within(limit)
    assert (point is None) == (best is None)
    if point is not None:
        picks = [choices[pick] for choices, pick in zip(options, found.picks[point], strict=True)]
        assert sum(cost for cost, _ in picks) == found.costs[point] <= limit
        assert sum(error for _, error in picks) == pytest.approx(found.errors[point])
        assert found.errors[point] == pytest.approx(best)


def test_many_layers_cost_exactly_what_their_choice_costs_and_nearly_the_least_error(rng):
    options = [(rng.integers(10**9, 10**10, 12), rng.random(12)) for _ in range(40)]
    exact, coarse = frontier(options, bins=10_000), frontier(options, bins=500)
    assert len(coarse.costs) <= 501
    for limit in np.linspace(exact.costs[0], exact.costs[-1], 20).astype(int):
        point = coarse.within(limit)
        picks = coarse.picks[point]
        assert sum(int(costs[i]) for (costs, _), i in zip(options, picks, strict=True)) == coarse.costs[point] <= limit
        missed = sum(errors[i] for (_, errors), i in zip(options, picks, strict=True))
        assert missed == pytest.approx(coarse.errors[point])
        assert coarse.errors[point] <= 1.05 * exact.errors[exact.within(limit)]
    assert coarse.costs[0] == sum(int(costs.min()) for costs, _ in options)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("kind", [MultiplyAdds, Bytes])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_whole_numbers_are_never_exceeded(digits, kind, share):
    net, X, y = digits
    whole = multiply_adds(net.layers, net.input_shape) if kind is MultiplyAdds else stored_bytes(net)
    n = int(share * whole)
    found = compress(net, X, y, kind(n), methods=("svd", "two_factor", "tucker2"), epochs=0, measure=by_work)
    assert found.cost_before == whole
    assert found.cost_after <= n
    *_, counted, kept = fo.nn.summary(found.network).splitlines()[-1].split()
    assert found.cost_after == int((counted if kind is MultiplyAdds else kept).replace(",", ""))
    assert any(row.method for row in found.rows)
    assert f"budget {n:,}" in found.table()


def test_a_latency_is_met_though_layers_do_not_add_up(dense):
    net, X, y = dense

    def measure(nets, batch, threads, folded):
        assert (batch, threads, folded) == (4, 2, False)
        times = [timing.seconds for timing in by_work(nets)]
        return [Timing(t if len(net.layers) < 3 else 1.15 * t, 0.0) for t, net in zip(times, nets, strict=True)]

    (before,) = by_work([net])
    limit = 0.6 * before.seconds * 1e6
    found = compress(net, X, y, Latency(limit, 4, 2, folded=False), epochs=0, measure=measure)
    assert found.cost_after <= 1.05 * limit
    assert found.after == measure([found.network], 4, 2, False)[0]


@pytest.mark.parametrize(("each", "share"), [(0.5, 0.9), (0.7, 0.8)])
def test_a_budget_is_not_left_unused_where_every_layer_has_a_cost_of_its_own(each, share, rng):
    widths = [64, 128, 128, 128, 4]
    net = fo.nn.Sequential([fo.nn.Dense(*pair) for pair in itertools.pairwise(widths)], rng=0)

    def measure(nets, **options):
        extra = [each * max(0, len(net.layers) - 4) for net in nets]
        work = [multiply_adds(net.layers, net.input_shape) for net in nets]
        return [Timing(1e-6 * (0.5 + 1e-4 * w + more), 1e-10) for w, more in zip(work, extra, strict=True)]

    limit = share * measure([net])[0].seconds * 1e6
    X, y = rng.standard_normal((100, 64)), rng.integers(0, 4, 100)
    found = compress(net, X, y, Latency(limit), methods="svd", epochs=0, measure=measure)
    assert 0.9 * limit <= found.cost_after <= limit
    if each == 0.5:
        with pytest.raises(ValueError, match=r"expected at least 2\.5"):
            compress(net, X, y, Latency(limit / 2), methods="svd", epochs=0, measure=measure)


@pytest.mark.parametrize("budget", [Latency(10**6), MultiplyAdds(10**9), Bytes(10**9)])
def test_a_network_that_meets_its_budget_is_left_as_it_is(dense, budget):
    net, X, y = dense
    found = compress(net, X, y, budget, measure=by_work)
    assert bits(found.network) == bits(net)
    assert bits(found.compressed) == bits(net)
    assert len({id(net), id(found.network), id(found.compressed)}) == 3
    assert found.rows == []
    assert "met before" in found.table()
    assert list(found.scores) == ["before"]


def test_a_budget_that_cannot_be_met_names_the_least_which_can(dense):
    net, X, y = dense
    with pytest.raises(ValueError, match=r"expected at least [0-9,]+ multiply-adds.* got 1 multiply-adds") as error:
        compress(net, X, y, MultiplyAdds(1), measure=by_work)
    least = int(str(error.value).split("at least ")[1].split()[0].replace(",", ""))
    found = compress(net, X, y, MultiplyAdds(least), epochs=0, measure=by_work)
    assert found.cost_after == least
    with pytest.raises(ValueError, match=r"expected at least .* µs"):
        compress(net, X, y, Latency(0.01), measure=by_work)


class Whole:
    """Times by work, but those of a whole network, from 64 inputs to 4 outputs: these are told by its layers."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, nets, **options):
        return [
            Timing(self.seconds(net), 1e-12) if (net.in_features, net.out_features) == (64, 4) else timing
            for net, timing in zip(nets, by_work(nets), strict=True)
        ]


@pytest.mark.parametrize("budget", [MultiplyAdds(2900), Bytes(12_000), Latency(9.9)])
def test_a_network_that_is_slower_as_a_whole_is_passed_over(dense, budget):
    net, X, y = dense

    def seconds(net):
        work = multiply_adds(net.layers, net.input_shape)
        return 10e-6 if len(net.layers) == 2 else 12e-6 if work > 1500 else 5e-6

    found = compress(net, X, y, budget, epochs=0, measure=Whole(seconds))
    assert found.after.seconds <= found.before.seconds
    assert multiply_adds(found.network.layers, (64,)) <= 1500
    assert found.cost_after <= budget.limit


@pytest.mark.parametrize("budget", [MultiplyAdds(2900), Bytes(12_000)])
def test_an_error_says_where_all_networks_within_a_budget_are_slower(dense, budget):
    net, X, y = dense
    with pytest.raises(ValueError, match="budget: expected one that a network no slower than the given one meets"):
        compress(net, X, y, budget, measure=Whole(lambda net: 1e-6 * len(net.layers)))


@pytest.mark.parametrize("kind", [Latency, MultiplyAdds, Bytes])
def test_budgets_are_checked_and_frozen(kind):
    budget = kind(100, batch=2, threads=3)
    assert (budget.limit, budget.batch, budget.threads, budget.folded) == (100, 2, 3, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.batch = 1
    for bad in (0, -1, float("nan"), float("inf"), "3", True, None):
        with pytest.raises(ValueError, match="expected"):
            kind(bad)
        with pytest.raises(ValueError, match="batch: expected"):
            kind(100, batch=bad)
    with pytest.raises(ValueError, match="folded: expected"):
        kind(100, folded="no")


# ---------------------------------------------------------------- what is replaced


def test_the_network_given_stays_as_it_is(digits):
    net, X, y = digits
    before = bits(net)
    compress(net, X, y, Bytes(stored_bytes(net) // 2), methods=("svd",), measure=by_work)
    assert bits(net) == before
    assert [type(layer).__name__ for layer in net.layers[:3]] == ["Conv2d", "Concat", "Residual"]


def test_layers_at_any_depth_are_replaced_but_those_to_keep(digits):
    net, X, y = digits
    n = int(0.4 * multiply_adds(net.layers, net.input_shape))
    found = compress(net, X, y, MultiplyAdds(n), methods=("svd", "two_factor"), epochs=0, measure=by_work)
    names = [row.layer for row in found.rows]
    expected = ["0 Conv2d", "1.0 Conv2d", "2.0 Conv2d", "6 Dense", "7 GroupedDense", "8 Dense"]
    assert names == [f"layers.{name}" for name in expected]
    changed = {row.layer for row in found.rows if row.method}
    assert {"layers.1.0 Conv2d", "layers.2.0 Conv2d"} <= changed
    budget, keep = MultiplyAdds(2 * n), net.layers[1:2]
    kept = compress(net, X, y, budget, methods="svd", keep=keep, epochs=0, measure=by_work)
    alone = compress(net, X, y, budget, methods="svd", keep=keep[0], epochs=0, measure=by_work)
    assert alone.rows == kept.rows
    assert [row.layer for row in kept.rows] == [names[0], *names[2:]]


def test_a_layer_that_does_not_gain_in_time_stays_whatever_the_budget(dense):
    net, X, y = dense

    def slower(nets, **options):
        return [Timing(1e-6 * len(net.layers), 0.0) for net in nets]

    def noisy(nets, **options):
        return [Timing(timing.seconds, timing.seconds) for timing in by_work(nets)]

    for measure in (slower, noisy):
        for budget in (MultiplyAdds(1000), Bytes(2000)):
            with pytest.raises(ValueError, match="the least that these methods reach"):
                compress(net, X, y, budget, measure=measure)


def relative(found, expected):
    return np.linalg.norm(found - expected.astype(np.float64)) / np.linalg.norm(expected.astype(np.float64))


def test_what_is_not_faster_is_not_decomposed(digits, monkeypatch):
    net, X, y = digits

    def factorizations(*_, **__):
        raise AssertionError("decomposed")

    monkeypatch.setattr("fastopt.lowrank.candidates.factorizations", factorizations)
    with pytest.raises(ValueError, match=r"^budget: expected at least"):
        compress(net, X, y, MultiplyAdds(1000), measure=lambda nets, **_: [Timing(1e-6, 0.0) for _ in nets])


def test_errors_are_those_of_the_layers_outputs(digits):
    net, X, _ = digits
    for place in places(net.layers, samples(net, net.compiled_program.rows(X)), net.dtype):
        stopwatch = Stopwatch(by_work, MultiplyAdds(1))
        found = candidates(place, net.dtype, ("svd", "tucker2", "cp"), MultiplyAdds(1), stopwatch, False, 0)
        assert found[0].method is None
        shape = place.x.shape[1:]
        y = assembled([place.layer], net.dtype, shape).predict(place.x)
        for one in found[1:]:
            new = assembled(one.layers, net.dtype, shape).predict(place.x)
            assert np.sqrt(one.error) == pytest.approx(relative(new, y), rel=1e-3)
        assert [one.cost for one in found[1:]] == sorted({one.cost for one in found[1:]})
        assert [one.error for one in found[1:]] == sorted({one.error for one in found[1:]}, reverse=True)


@pytest.mark.parametrize("rows", [24, 300])
def test_errors_are_those_on_samples_that_made_no_factors(rng, rows):
    net = fo.nn.Sequential([fo.nn.Dense(200, 200)], rng=0)
    X, new = rng.standard_normal((rows, 200)), rng.standard_normal((400, 200))
    found = compress(net, X, X, MultiplyAdds(30_000), loss="mse", epochs=0, measure=by_work)
    (row,) = found.rows
    assert row.method == "svd"
    assert row.error == pytest.approx(relative(found.compressed.predict(new), net.predict(new)), rel=0.2)


def test_the_network_is_made_of_the_factors_whose_error_is_told(rng):
    net = fo.nn.Sequential([fo.nn.Dense(320, 320)], rng=0)
    X = rng.standard_normal((60, 320))
    found = compress(net, X, X, MultiplyAdds(20_000), loss="mse", epochs=0, measure=by_work)
    (row,), (place,) = found.rows, places(net.layers, samples(net, net.compiled_program.rows(X)), net.dtype)
    assert row.error == pytest.approx(relative(found.compressed.predict(place.x), net.predict(place.x)), rel=1e-6)


def test_svd_goes_by_the_weight_where_moments_of_few_samples_are_worse(rng):
    """Inputs are white: the weight tells all there is."""
    net = fo.nn.Sequential([fo.nn.Dense(200, 200)], rng=0)
    X = rng.standard_normal((60, 200))
    found = compress(net, X, X, MultiplyAdds(20_000), loss="mse", epochs=0, measure=by_work)
    (row,) = found.rows
    by_weight = assembled(factorize(net.layers[0], "svd", row.rank), net.dtype, (200,))
    x = rng.standard_normal((400, 200))
    assert relative(found.compressed.predict(x), net.predict(x)) < 1.01 * relative(by_weight.predict(x), net.predict(x))


@pytest.mark.parametrize("shape", [(64, 64, 1), (3,)])
def test_samples_come_from_all_of_the_data_in_any_order_of_classes(shape):
    if len(shape) == 3:
        layers = [fo.nn.Conv2d(1, 2, 1), fo.nn.Flatten(), fo.nn.Dense(8192, 2)]
    else:
        layers = [fo.nn.Dense(3, 4), fo.nn.Dense(4, 2)]
    net = fo.nn.Sequential(layers, rng=0, input_shape=shape)
    number = np.arange(400)
    X = np.broadcast_to(number.reshape(-1, *(1,) * len(shape)), (400, *shape)).astype(np.float32)
    (first, *_) = places(net.layers, samples(net, X), net.dtype)
    seen = first.x.reshape(len(first.x), -1)[:, 0]
    assert len(first.x) == (16 if len(shape) == 3 else 200)
    assert np.histogram(seen, 8, (0, 400))[0].min() > 0  # of rows in the order of their classes
    assert 0.2 < np.mean(seen % 2) < 0.8  # of two classes that take turns


def test_one_sample_is_enough(dense):
    net, X, y = dense
    found = compress(net, X[:1], y[:1], MultiplyAdds(2000), measure=by_work)
    assert found.cost_after <= 2000


def test_ranks_save_multiply_adds_and_reach_from_many_to_few(digits):
    for _, layer in chain.named(digits[0].layers):
        if not isinstance(layer, fo.nn.Conv2d | fo.nn.Dense | fo.nn.GroupedDense):
            continue
        for method in ("svd", "two_factor", "tucker2", "cp") if isinstance(layer, fo.nn.Conv2d) else ("svd",):
            ranks = grid(layer, method)
            assert len(ranks) == len(set(ranks)) <= 16
            sizes = []
            for rank in ranks:
                options = {"max_sweeps": 1, "tol": 0.0} if method == "cp" else {}
                new = fo.lowrank.factorize(layer, method, rank, **options)
                sizes.append(sum(one.known_arrays()["weight"].size for one in new) / layer.weight.size)
            assert sizes == sorted(sizes, reverse=True)
            if method != "tucker2":
                assert sizes[0] < 1
            assert sizes[0] > (0.3 if method == "cp" else 0.6)
            assert ranks[-1] in (1, (1, 1), (2, 2)) or method == "cp"


def test_the_same_times_give_the_same_network(digits):
    net, X, y = digits
    budget = Latency(0.5 * by_work([net])[0].seconds * 1e6)
    found = [compress(net, X, y, budget, methods=("svd", "tucker2"), seed=5, measure=by_work) for _ in range(2)]
    assert bits(found[0].network) == bits(found[1].network)
    assert found[0].table() == found[1].table()
    with fo.num_threads(2):
        double = compress(net, X, y, budget, methods=("svd", "tucker2"), seed=5, measure=by_work)
    assert bits(double.network) == bits(found[0].network)


def test_the_degeneracy_of_a_cp_is_reported(rng):
    net = fo.nn.Sequential([fo.nn.Conv2d(8, 8, 3, groups=2), fo.nn.Flatten()], rng=0, input_shape=(3, 3, 8))
    X, y = rng.standard_normal((20, 3, 3, 8)), rng.standard_normal((20, 8))
    found = compress(net, X, y, MultiplyAdds(200), loss="mse", methods="cp", epochs=0, measure=by_work)
    (row,) = found.rows
    assert row.method == "cp"
    terms = []
    for group in range(2):
        part = net.layers[0].weight[4 * group : 4 * group + 4]
        cp = fo.lowrank.cp(part, row.rank, max_sweeps=100, restarts=1)
        terms.append(cp.degeneracy * np.sum(part.astype(np.float64) ** 2))
    assert row.degeneracy == pytest.approx(sum(terms) / np.sum(net.layers[0].weight ** 2), rel=1e-3)
    assert f"cp, degeneracy {row.degeneracy:.2g}" in found.table()


def test_a_row_says_whether_a_cp_converged(rng):
    net = fo.nn.Sequential([fo.nn.Conv2d(8, 8, 3, padding=1), fo.nn.Flatten()], rng=0, input_shape=(6, 6, 8))
    X, y = rng.standard_normal((20, 6, 6, 8)), rng.standard_normal((20, 288))

    def row():
        found = compress(net, X, y, MultiplyAdds(12_000), loss="mse", methods="cp", epochs=0, measure=by_work)
        assert ("not converged" in found.table()) == (not found.rows[0].converged)
        return found.rows[0]

    assert row().converged is False
    a, b, c, d = (rng.standard_normal(n) for n in (8, 3, 3, 8))
    net.layers[0].weight = np.einsum("i,j,k,l->ijkl", a, b, c, d)
    assert row().converged is True


def test_a_convolution_of_zeros_has_no_degeneracy(rng):
    net = fo.nn.Sequential([fo.nn.Conv2d(8, 8, 3), fo.nn.Flatten()], rng=0, input_shape=(3, 3, 8))
    net.layers[0].weight = np.zeros((8, 3, 3, 8))
    factors = assembled(factorize(net.layers[0], "cp", 2), net.dtype, (3, 3, 8))
    assert degeneracy(net.layers[0], factors.layers) == 0
    X, y = rng.standard_normal((20, 3, 3, 8)), rng.standard_normal((20, 8))
    found = compress(net, X, y, MultiplyAdds(200), loss="mse", epochs=0, measure=by_work)
    assert found.rows[0].error == 0


# ---------------------------------------------------------------- factors by what a layer answers to data


@pytest.fixture(params=["dense", "grouped", "convolution"])
def answering(request, rng):
    """A layer, its samples, which are far from white, and its outputs before bias and activation, by definition."""
    white = rng.standard_normal((50, 5, 4, 8)) * 0.7 ** np.arange(8)
    x = white @ np.linalg.qr(rng.standard_normal((8, 8)))[0]
    if request.param == "convolution":
        layer, shape = fo.nn.Conv2d(8, 6, 3, groups=2, stride=2, padding=1, activation="relu"), (5, 4, 8)
    else:
        x, shape = x.reshape(-1, 8), (8,)
        layer = fo.nn.Dense(8, 6, "tanh") if request.param == "dense" else fo.nn.GroupedDense(8, 6, 2)
    net = fo.nn.Sequential([layer], rng=0, dtype=np.float64, input_shape=shape)
    layer.bias = rng.standard_normal(6)
    if request.param == "convolution":
        z = fo.functional.conv2d(x, layer.weight, None, stride=2, padding=1, groups=2)
    else:
        parts = zip(np.split(x, layer.groups, axis=1), np.split(layer.weight, layer.groups), strict=True)
        z = np.concatenate([part @ weight.T for part, weight in parts], axis=1)
    return net, layer, x, z.reshape(-1, 6)


def test_second_moments_are_those_of_the_outputs(answering):
    _, layer, x, z = answering
    groups = np.split(z, layer.groups, axis=1)
    expected = np.stack([part.T @ part / len(part) for part in groups])
    np.testing.assert_allclose(second_moments(layer, x), expected, rtol=1e-12)


def test_factors_by_second_moments_lose_less_of_the_outputs_and_nothing_at_full_rank(answering):
    net, layer, x, _ = answering
    y, moments, errors = net.predict(x), second_moments(layer, x), {}
    full = 6 // layer.groups
    for rank in range(1, full + 1):
        for name, options in (("weight", {}), ("outputs", {"moments": moments})):
            layers = factorize(layer, "svd", rank, **options)
            new = fo.nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=x.shape[1:])
            errors[name, rank] = np.sum((new.predict(x) - y) ** 2)
    assert errors["outputs", full] < 1e-20 * np.sum(y**2)
    for rank in range(1, full):
        assert errors["outputs", rank] < errors["weight", rank]


def test_second_moments_that_do_not_fit_are_refused(answering):
    _, layer, x, _ = answering
    moments = second_moments(layer, x)
    with pytest.raises(ValueError, match="moments: expected shape"):
        factorize(layer, "svd", 2, moments=moments[:, :2, :2])
    with pytest.raises(ValueError, match="moments: expected finite"):
        factorize(layer, "svd", 2, moments=moments * np.nan)
    with pytest.raises(ValueError, match="expected a whole number from 1"):
        factorize(layer, "svd", 7, moments=moments)
    with pytest.raises(TypeError, match="solver: expected no options of truncated_svd with moments"):
        factorize(layer, "svd", 2, moments=moments, solver="full")
    if isinstance(layer, fo.nn.Conv2d):
        with pytest.raises(ValueError, match="moments: expected none with method 'tucker2'"):
            factorize(layer, "tucker2", 2, moments=moments)


def test_second_moments_need_a_layer_with_a_product_and_with_arrays_and_samples():
    with pytest.raises(TypeError, match="layer: expected one of Dense, GroupedDense, Conv2d, got BatchNorm"):
        second_moments(fo.nn.BatchNorm(3), np.eye(3))
    with pytest.raises(ValueError, match="layer: expected one with arrays"):
        second_moments(fo.nn.Dense(3, 2), np.eye(3))
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    with pytest.raises(ValueError, match="x: expected at least one sample, got none"):
        second_moments(net.layers[0], np.zeros((0, 3)))


def test_outputs_that_are_all_zero_leave_the_choice_to_the_weight(answering):
    _, layer, x, _ = answering
    layers = factorize(layer, "svd", 1, moments=second_moments(layer, np.zeros_like(x)))
    assert all(np.isfinite(one.known_arrays()["weight"]).all() for one in layers)


# ---------------------------------------------------------------- fine-tuning and scores


def test_fine_tuning_lowers_the_loss_and_scores_say_where(digits):
    net, X, y = digits
    n = int(0.2 * multiply_adds(net.layers, net.input_shape))
    options = {"methods": ("svd", "two_factor"), "measure": by_work}
    found = compress(net, X, y, MultiplyAdds(n), epochs=8, **options)
    assert list(found.scores) == ["before", "compressed", "tuned"]
    assert found.measured_on == "X"
    assert found.scores["tuned"]["loss"] < found.scores["compressed"]["loss"]
    assert found.scores["before"]["loss"] == pytest.approx(net.evaluate(X, y))
    assert found.scores["compressed"]["loss"] == pytest.approx(found.compressed.evaluate(X, y))
    assert found.scores["tuned"]["accuracy"] == fo.metrics.accuracy(y, found.network.predict(X))
    held = compress(net, X[:90], y[:90], MultiplyAdds(n), epochs=8, validation=(X[90:], y[90:]), **options)
    assert held.measured_on == "validation"
    assert held.scores["tuned"]["loss"] == pytest.approx(held.network.evaluate(X[90:], y[90:]))


def test_an_optimizer_may_be_a_function_of_parameters(dense):
    net, X, y = dense
    made, own = [], {id(a) for a in net.parameters()}

    def optimizer(params):
        assert own.isdisjoint(map(id, params))
        made.append(fo.optim.SGD(params, lr=0.01))
        return made[-1]

    found = compress(net, X, y, MultiplyAdds(2000), optimizer=optimizer, measure=by_work)
    assert [id(a) for a in made[-1].parameters()] == [id(a) for a in found.network.parameters()]


@pytest.mark.parametrize("validation", [False, True])
def test_fine_tuning_that_diverges_leaves_the_compressed_network(rng, validation):
    net = fo.nn.Sequential([fo.nn.Dense(64, 48), fo.nn.Dense(48, 4)], rng=0)
    X, y = rng.standard_normal((60, 64)), rng.standard_normal((60, 4))
    options = {"loss": "mse", "epochs": 30, "optimizer": lambda params: fo.optim.SGD(params, lr=1e6)}
    if validation:
        options["validation"] = X, y
    with pytest.warns(RuntimeWarning, match="compress: fine-tuning diverged, .*lower learning rate") as said:
        found = compress(net, X, y, MultiplyAdds(2000), measure=by_work, **options)
    assert said[0].filename == __file__
    assert bits(found.network) == bits(found.compressed)
    assert found.network is not found.compressed
    assert list(found.scores) == ["before", "compressed"]


def test_fine_tuning_takes_the_checked_data(dense, monkeypatch):
    net, X, y = dense
    taken, fit = [], fo.nn.Trainer.fit

    def spy(trainer, X, y, *args, **options):
        taken.extend([X, options["validation"][0]])
        return fit(trainer, X, y, *args, **options)

    monkeypatch.setattr(fo.nn.Trainer, "fit", spy)
    compress(net, X, y, MultiplyAdds(2000), validation=(X, y), measure=by_work)
    assert [x.dtype for x in taken] == [np.float32, np.float32]


def test_factors_may_be_normalized(dense):
    net, X, y = dense
    found = compress(net, X, y, MultiplyAdds(2000), batch_norm=True, measure=by_work)
    assert any(isinstance(layer, fo.nn.BatchNorm) for layer in found.network.layers)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros((60, 63))}, ValueError, "expected"),
        ({"X": np.full((60, 64), np.nan)}, ValueError, "X: expected finite"),
        ({"y": np.arange(60)}, ValueError, "expected"),
        ({"y": np.zeros(59, int)}, ValueError, "expected"),
        ({"validation": (np.zeros((3, 64)), [0, 1, 9])}, ValueError, "validation: "),
        ({"budget": 200}, TypeError, "budget: expected lowrank.Latency"),
        ({"net": "model"}, TypeError, "net: expected a Sequential"),
        ({"methods": ("svd", "qr")}, ValueError, "methods: expected some of svd"),
        ({"methods": ()}, ValueError, "methods: expected some of svd"),
        ({"epochs": -1}, ValueError, "epochs: expected"),
        ({"batch_size": 0}, ValueError, "batch_size: expected"),
        ({"optimizer": "speedy"}, TypeError, "optimizer: expected"),
        ({"optimizer": 3}, TypeError, "optimizer: expected .* function from parameters .*, got int"),
        ({"optimizer": lambda params: params}, TypeError, "optimizer: expected"),
        ({"optimizer": fo.optim.SGD([np.zeros(3)])}, TypeError, "function from parameters .*, got SGD"),
        ({"keep": [fo.nn.Dense(3, 3)]}, ValueError, "keep: expected layers of net"),
        ({"loss": "squared"}, ValueError, "loss: expected"),
        ({"batch_norm": "no"}, ValueError, "batch_norm: expected"),
        ({"seed": -1}, ValueError, "seed: expected"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(dense, change, error, message):
    net, X, y = dense

    def measure(nets, **options):
        raise AssertionError("measured")

    arguments = {"net": net, "X": X, "y": y, "budget": MultiplyAdds(100), "measure": measure} | change
    with pytest.raises(error, match=message):
        compress(**arguments)


def test_a_network_that_is_not_finite_is_refused_with_the_place(dense):
    net, X, y = dense
    net = copy.deepcopy(net)
    net.layers[1].weight[0, 2] = np.nan
    with pytest.raises(ValueError, match=r"net.layers.1.weight: expected finite values, got nan at \(0, 2\)"):
        compress(net, X, y, MultiplyAdds(100), measure=by_work)


def test_a_folded_network_and_one_without_statistics_are_refused(dense):
    net, X, y = dense
    with pytest.raises(ValueError, match="net: expected a network that can be trained, got a folded one"):
        compress(net.fold(), X, y, MultiplyAdds(100), measure=by_work)
    waiting = fo.nn.Sequential([fo.nn.Standardize(64), fo.nn.Dense(64, 4)], rng=0)
    with pytest.raises(ValueError, match="has no statistics yet"):
        compress(waiting, X, y, MultiplyAdds(100), measure=by_work)


# ---------------------------------------------------------------- what is shown


def test_the_table_has_a_line_for_each_layer_and_the_network(dense):
    net, X, y = dense
    found = compress(net, X, y, MultiplyAdds(2000), measure=by_work)
    lines = found.table().splitlines()
    assert lines[0].split() == " ".join(HEAD).split()
    assert lines[1].startswith("layers.0 Dense  svd")
    assert lines[2].startswith("layers.1 Dense")
    assert lines[3].startswith("network")
    assert lines[3].endswith(f"{stored_bytes(net):,}  {stored_bytes(found.network):,}")
    costs = f"3,264 multiply-adds before, {found.cost_after:,} multiply-adds after"
    assert lines[4] == f"budget 2,000 multiply-adds: {costs}"
    assert len(lines) == 5


def test_estimates_of_other_budgets_rise_in_time_and_fall_in_error(digits):
    net, X, y = digits
    n = int(0.5 * multiply_adds(net.layers, net.input_shape))
    found = compress(net, X, y, MultiplyAdds(n), methods=("svd",), epochs=0, measure=by_work)
    times, errors = zip(*found.frontier, strict=True)
    assert list(times) == sorted(times)
    assert list(errors) == sorted(errors, reverse=True)
    assert times[-1] == pytest.approx(found.before.seconds)
    assert errors[-1] == 0


def test_the_picture_is_drawn(dense, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    net, X, y = dense
    for budget in (MultiplyAdds(2000), MultiplyAdds(10**6)):
        compress(net, X, y, budget, measure=by_work).plot(tmp_path / "drawn.png")
        assert (tmp_path / "drawn.png").stat().st_size > 1000


# ---------------------------------------------------------------- times


class Stub:
    """Stands for a network; it records what it is asked to predict, and on how many threads."""

    input_shape, dtype = (2, 3), np.dtype(np.float64)

    def __init__(self):
        self.asked, self.folded = set(), False

    def fold(self):
        self.folded = True
        return self

    def predict(self, x):
        self.asked.add((x.shape, x.dtype, fo.get_num_threads()))


@pytest.mark.parametrize("folded", [True, False])
def test_networks_are_timed_with_the_batch_and_the_threads_asked_for(folded):
    nets, before = [Stub(), Stub()], fo.get_num_threads()
    timings = measure_latency(nets, batch=5, threads=before + 1, folded=folded)
    assert len(timings) == 2
    assert all(timing.seconds > 0 <= timing.noise for timing in timings)
    for net in nets:
        assert net.asked == {((5, 2, 3), np.dtype(np.float64), before + 1)}
        assert net.folded == folded
    assert fo.get_num_threads() == before
    assert measure_latency([]) == []


def test_the_fastest_of_several_measurements_is_taken():
    rounds = iter([[3.0, 4.0], [2.0, 6.0], [5.0, 1.0]])

    def measure(nets, batch, threads):
        assert (nets, batch, threads) == ("ab", 8, 2)
        return [Timing(seconds, 0.0) for seconds in next(rounds)]

    assert [timing.seconds for timing in fastest("ab", 8, 2, repeats=3, measure=measure)] == [2.0, 1.0]


class Counter:
    """A measure that counts the networks it is asked for; its times are steady unless told otherwise."""

    def __init__(self, noise=0.0):
        self.noise, self.measured = noise, 0

    def __call__(self, nets, **options):
        self.measured += len(nets)
        return [Timing(timing.seconds, self.noise * timing.seconds) for timing in by_work(nets)]


def remembered(measure, file, *nets, **options):
    """Times of networks by a new stopwatch."""
    with Stopwatch(measure, Latency(1, **options), file) as stopwatch:
        return stopwatch.remembered(nets)


def test_a_time_is_measured_once_and_kept_in_the_file_by_all_that_decides_it(dense, tmp_path, monkeypatch):
    net, _, _ = dense
    file, counter = tmp_path / "cache" / "latency.json", Counter()
    known = remembered(counter, file, net)
    assert remembered(counter, file, net) == known
    assert counter.measured == 1
    others = {"batch": 2}, {"threads": 2}, {"folded": False}
    for options in others:
        remembered(counter, file, net, **options)
    double = fo.nn.Sequential([fo.nn.Dense(64, 48, activation="relu"), fo.nn.Dense(48, 4)], dtype=np.float64)
    remembered(counter, file, double)
    used = fo.config()
    for change in ({"isa": "other"}, {"tuning": {}}, {"processor": "other"}):
        monkeypatch.setattr("fastopt.lowrank.latency.config", lambda change=change: used | change)
        remembered(counter, file, net)
    assert counter.measured == 8
    monkeypatch.setattr("fastopt.lowrank.latency.config", lambda: used | {"quota": 1.5})
    remembered(counter, file, net)
    assert counter.measured == 8
    remembered(counter, file, net, threads=2)
    assert counter.measured == 9
    built = tmp_path / "core.so"
    built.write_bytes(b"another build")
    monkeypatch.setattr("fastopt._kernels.core.__file__", str(built))
    remembered(counter, file, net)
    assert counter.measured == 10
    kept = json.loads(file.read_text())
    assert len(kept) == 10
    assert file.stat().st_size <= MOST_OF_ENTRY * len(kept)


def test_a_file_with_all_the_entries_it_may_have_is_read(dense, tmp_path):
    net, _, _ = dense
    file, counter = tmp_path / "latency.json", Counter()
    longest = [1.2345678901234567e-300, 1.2345678901234567e-300]
    file.write_text(json.dumps({f"{i:032}": longest for i in range(MOST_KEPT)}, indent=0))
    assert file.stat().st_size <= MOST_KEPT * MOST_OF_ENTRY
    remembered(counter, file, net)
    kept = json.loads(file.read_text())
    assert len(kept) == MOST_KEPT
    assert f"{0:032}" not in kept
    remembered(counter, file, net)
    assert counter.measured == 1


def test_the_file_is_written_once_also_by_an_error_and_keeps_what_others_wrote(dense, tmp_path, monkeypatch):
    net, _, _ = dense
    double = fo.nn.Sequential([fo.nn.Dense(64, 48)], dtype=np.float64)
    file, writes = tmp_path / "latency.json", []
    write = fo.lowrank.latency.write_bytes
    monkeypatch.setattr("fastopt.lowrank.latency.write_bytes", lambda *args: [writes.append(1), write(*args)])

    def interrupted():
        with Stopwatch(Counter(), Latency(1), file) as stopwatch:
            remembered(Counter(), file, net, batch=2)
            stopwatch.remembered([net])
            stopwatch.remembered([double])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(json.loads(file.read_text())) == 3
    assert len(writes) == 2
    remembered(Counter(), file, net)
    assert len(writes) == 2  # there was nothing new


def test_nothing_is_kept_where_the_folder_is_none(dense, monkeypatch):
    """By the file or by the process: a second call measures anew."""
    net, X, y = dense
    counter = Counter()
    monkeypatch.setattr(importlib.import_module("fastopt.lowrank.compress"), "measure_latency", counter)
    counts = []
    for _ in range(2):
        before = counter.measured
        compress(net, X, y, MultiplyAdds(2000), epochs=0, measure=counter)
        counts.append(counter.measured - before)
    assert counts[0] == counts[1] > 2


def test_a_noisy_time_is_measured_again_and_not_kept(dense, tmp_path):
    net, _, _ = dense
    counter = Counter(noise=0.5)
    remembered(counter, tmp_path / "latency.json", net)
    assert counter.measured == 3
    assert not (tmp_path / "latency.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[1, 2]",
        '{"a": 1}',
        '{"KEY": [1e-6]}',
        '{"KEY": [-1.0, 0.0]}',
        '{"KEY": [NaN, 0]}',
        '{"KEY": ["1", 0]}',
        '{"KEYKEY": [1e-6, 0.0]}',
    ],
)
def test_a_damaged_file_does_no_harm(dense, tmp_path, text):
    net, _, _ = dense
    file, counter = tmp_path / "latency.json", Counter()
    known = remembered(counter, file, net)
    (key,) = json.loads(file.read_text())
    file.write_text(text.replace("KEY", json.dumps(key)[1:-1]))
    assert remembered(counter, file, net) == known
    assert counter.measured == 2
    assert json.loads(file.read_text()) == {key: list(known[0])}


def test_a_folder_that_cannot_be_written_does_no_harm(dense, tmp_path):
    net, _, _ = dense
    (tmp_path / "file").write_text("")
    counter = Counter()
    with Stopwatch(counter, Latency(1), tmp_path / "file" / "latency.json") as stopwatch:
        first = stopwatch.remembered([net])
        assert stopwatch.remembered([net]) == first
    assert counter.measured == 1
    assert [timing.seconds for timing in first] == [timing.seconds for timing in by_work([net])]


def test_times_lie_in_the_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTOPT_CACHE", str(tmp_path))
    assert cache_file() == tmp_path / "latency.json"
    monkeypatch.setenv("FASTOPT_CACHE", "")
    assert cache_file() is None
    monkeypatch.delenv("FASTOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "fastopt" / "latency.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "fastopt" / "latency.json"
