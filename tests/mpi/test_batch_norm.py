"""Synchronized batch normalization: the statistics of all ranks' rows, as one worker with all of them takes."""

import copy

import numpy as np
import pytest

from fastopt import nn, optim
from fastopt.parallel import ColumnParallelDense, DataParallel, Grid
from fastopt.parallel.batch_norm import combined


def several(comm):
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")


def images(comm):
    return nn.Sequential(
        [
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm(4, activation="relu"),
            nn.Residual([nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm(4, affine=False)]),
            nn.Concat([[nn.Conv2d(4, 3, 1), nn.BatchNorm(3, activation="silu")], [nn.BatchNorm(4)], []]),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dense(99, 3, l2=0.01),
        ],
        rng=0,
        dtype=np.float64,
        input_shape=(6, 6, 2),
    )


def columns(comm):
    return nn.Sequential(
        [
            nn.BatchNorm(6, momentum=0.3),
            nn.Dense(6, 9, l1=0.01, l2=0.02),
            nn.BatchNorm(9, activation="gelu"),
            nn.Residual([nn.Dense(9, 5), nn.BatchNorm(5, activation="tanh", affine=False), nn.Dense(5, 9)]),
            nn.BatchNorm(9, activation="softmax"),
            nn.Dense(9, 3),
        ],
        rng=0,
        dtype=np.float64,
    )


def trainer(net, rule=optim.SGD, **options):
    return nn.Trainer(net, "cross_entropy", rule(net.parameters(), **({"lr": 0.1} | options)))


def data(net, n, rng):
    return rng.normal(size=(n, *net.input_shape)) * 3 + 5, rng.integers(0, 3, n)


def everything(net):
    averages = [
        a
        for layer in nn.layers.chain.walk(net.layers)
        if isinstance(layer, nn.BatchNorm)
        for a in (layer.running_mean, layer.running_var)
    ]
    return [*net.parameters(), *averages]


def require_close(together, alone, atol=1e-10):
    for a, b in zip(everything(together.net), everything(alone.net), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def require_equal_on_all(comm, net):
    comm.agree("bits", {str(k): a.tobytes().hex() for k, a in enumerate(everything(net))})


SHARES = {  # rows of each rank, in turn
    "even": [4, 4, 4, 4],
    "uneven": [5, 2, 1, 7],
    "one row each": [2, 1, 1, 1],
    "none on some": [3, 0, 6, 0],
    "none on the first": [0, 8, 0, 3],
}


@pytest.mark.parametrize("rows", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("make", [images, columns])
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_of_one_worker_with_the_rows_of_all(comm, make, rows, weighted):
    rng, rows = np.random.default_rng(1), rows[: comm.size]
    if sum(rows) < 2:
        pytest.skip("so few ranks have no rows")
    alone, together = (trainer(make(comm), momentum=0.9) for _ in range(2))
    parallel = DataParallel(together, batch_norm="synchronized")
    mine = slice(sum(rows[: comm.rank]), sum(rows[: comm.rank + 1]))
    for _ in range(3):
        X, y = data(alone.net, sum(rows), rng)
        w = rng.uniform(0, 2, len(X)) * (np.arange(len(X)) % 3 > 0) if weighted else None
        loss = parallel.step(X[mine], y[mine], w if w is None else w[mine])
        assert loss == pytest.approx(alone.step(X, y, w), rel=1e-11)
        require_close(together, alone)
    require_equal_on_all(comm, together.net)


def test_rows_without_weight_count_in_the_statistics(comm):
    several(comm)
    rng = np.random.default_rng(2)
    alone, together = (trainer(columns(comm)) for _ in range(2))
    parallel = DataParallel(together, batch_norm="synchronized")
    for _ in range(3):
        X, y = data(alone.net, 4 * comm.size, rng)
        w = np.repeat(np.arange(comm.size) > 0, 4).astype(float)  # none on the first rank
        mine = slice(4 * comm.rank, 4 * comm.rank + 4)
        assert parallel.step(X[mine], y[mine], w[mine]) == pytest.approx(alone.step(X, y, w), rel=1e-11)
        require_close(together, alone)


@pytest.mark.parametrize("reduce", ["ordered", "fast"])
def test_epochs_are_those_of_one_worker_with_the_batch_of_all(comm, reduce):
    X, y = data(columns(comm), 45, np.random.default_rng(3))
    alone, together = (trainer(columns(comm)) for _ in range(2))
    options = {"epochs": 3, "shuffle": False}
    expected = alone.fit(X, y, batch_size=4 * comm.size, **options)
    history = DataParallel(together, reduce=reduce, batch_norm="synchronized").fit(X, y, batch_size=4, **options)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-10)
    require_close(together, alone)


def test_batches_of_their_own_may_end_sooner_on_some_ranks(comm):
    rng = np.random.default_rng(4)
    everyones = [[data(columns(comm), 2, rng) for _ in range(1 + rank)] for rank in range(comm.size)]
    alone, together = (trainer(columns(comm)) for _ in range(2))
    DataParallel(together, batch_norm="synchronized").fit(everyones[comm.rank], epochs=2)
    for _ in range(2):
        for k in range(comm.size):
            alone.step(*(np.concatenate(a) for a in zip(*(b[k] for b in everyones if k < len(b)), strict=True)))
    require_close(together, alone)
    require_equal_on_all(comm, together.net)


def test_one_rank_has_the_bits_of_a_trainer(comm, dtype):
    if comm.size > 1:
        pytest.skip("several ranks add up in another order")
    for rows in (3, 700):
        net = nn.Sequential([nn.Dense(6, 70), nn.BatchNorm(70, activation="relu"), nn.Dense(70, 3)], rng=0, dtype=dtype)
        alone, together = (trainer(copy.deepcopy(net)) for _ in range(2))
        parallel = DataParallel(together, batch_norm="synchronized")
        rng = np.random.default_rng(5)
        for _ in range(3):
            X, y = rng.normal(size=(rows, 6)).astype(dtype), rng.integers(0, 3, rows)
            assert parallel.step(X, y) == pytest.approx(alone.step(X, y), rel=1e-15)
        assert [a.tobytes() for a in everything(together.net)] == [a.tobytes() for a in everything(alone.net)]


def test_an_interim_point_is_left_where_a_batch_starts_with_statistics(comm):
    several(comm)
    alone, together = (trainer(columns(comm), momentum=0.9, nesterov="interim") for _ in range(2))
    parallel, rng = DataParallel(together, batch_norm="synchronized"), np.random.default_rng(6)
    for _ in range(4):
        X, y = data(alone.net, 4 * comm.size, rng)
        parallel.step(X[comm.rank :: comm.size], y[comm.rank :: comm.size])
        alone.step(X, y)
    require_close(together, alone)


def test_means_far_from_zero_lose_no_digits(comm, dtype):
    rng = np.random.default_rng(7)
    net = nn.Sequential([nn.BatchNorm(3, momentum=1.0), nn.Dense(3, 3)], rng=0, dtype=dtype)
    X = (rng.normal(size=(50 * comm.size, 3)) + 1e4).astype(dtype)
    mine = slice(50 * comm.rank, 50 * comm.rank + 50)
    y = rng.integers(0, 3, len(X))
    DataParallel(trainer(net), batch_norm="synchronized").step(X[mine], y[mine])
    expected = X.astype(np.float64).var(axis=0, ddof=1)
    np.testing.assert_allclose(net.layers[0].running_var, expected, rtol=1e-6 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(net.layers[0].running_mean, X.mean(axis=0, dtype=np.float64), rtol=1e-7)


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e-18, 1e15, 1e18, 1e35])
def test_columns_of_any_size_are_normalized(comm, size):
    rng = np.random.default_rng(8)
    nets = [nn.Sequential([nn.BatchNorm(4, eps=1e-60), nn.Dense(4, 3)], rng=0) for _ in range(2)]
    alone, together = map(trainer, nets)
    X = (rng.normal(size=(6 * comm.size, 4)) * size).astype(np.float32)
    X[:, 1] = size  # constant on all ranks, on each of them, on one
    X[:, 2] = np.repeat(np.arange(comm.size), 6) * size
    X[:6, 3] = 0
    y, mine = rng.integers(0, 3, len(X)), slice(6 * comm.rank, 6 * comm.rank + 6)
    parallel = DataParallel(together, batch_norm="synchronized")
    if comm.size == 1:  # a column is constant then, as the others below are on one rank
        X[:, 3] = rng.normal(size=6) * size
    for _ in range(2):
        assert parallel.step(X[mine], y[mine]) == pytest.approx(alone.step(X, y), rel=1e-5)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_moments_are_combined_in_rank_order_wherever_they_lie():
    rng = np.random.default_rng(9)
    for scale in (1e-180, 1.0, 1e180):
        parts = [(rng.normal(size=(n, 5)) + 1e3) * scale for n in (3, 1, 0, 8)]
        parts[1][:, 4] = parts[0][:, 4] = 0
        everyones = np.zeros((4, 4, 5))
        for told, rows in zip(everyones, parts, strict=True):
            if len(rows):
                power = 600 if scale > 1 else -600 if scale < 1 else 0
                scaled = np.ldexp(rows, -power)
                told[0], told[1], told[3] = len(rows), rows.mean(axis=0), power
                told[2] = ((scaled - scaled.mean(axis=0)) ** 2).sum(axis=0)
        with np.errstate(all="ignore"):  # as in a step
            rows, mean, m2, power = combined(everyones, "float64")
        whole = np.concatenate(parts) / scale
        assert (rows == 12).all()
        np.testing.assert_allclose(mean / scale, whole.mean(axis=0), rtol=1e-13)
        deviation = np.ldexp(np.sqrt(m2 / 12), power.astype(int)) / scale
        np.testing.assert_allclose(deviation, whole.std(axis=0), rtol=1e-9)


def test_too_few_rows_on_all_ranks_together_are_an_error_on_all(comm):
    net = columns(comm)
    trained = trainer(net)
    parallel, (X, y) = DataParallel(trained, batch_norm="synchronized"), data(net, 1, np.random.default_rng(10))
    before = [a.copy() for a in everything(net)]
    mine = slice(comm.rank == comm.size - 1)
    with pytest.raises(ValueError, match=r"^x: expected at least two rows on all ranks together .* got 1$"):
        parallel.step(X[mine], y[mine])
    with pytest.raises(ValueError, match=r"^x: expected at least one row on some rank, got none$"):
        parallel.step(X[:0], y[:0])
    np.testing.assert_equal(everything(net), before)
    parallel.step(np.repeat(X, 2, axis=0), np.repeat(y, 2))


def test_a_rank_that_fails_and_rows_that_are_not_finite_are_one_error_on_all(comm):
    net = columns(comm)
    trained = trainer(net)
    parallel, (X, y) = DataParallel(trained, batch_norm="synchronized"), data(net, 4, np.random.default_rng(11))
    before = [a.copy() for a in everything(net)]
    with pytest.raises(ValueError, match="x: expected"):
        parallel.step(X[:, : 6 - (comm.rank == 0)], y)
    X[0] = np.nan if comm.rank == 0 else 0.0
    with pytest.raises(FloatingPointError, match="loss: expected one that is defined"):
        parallel.step(X, y)
    np.testing.assert_equal(everything(net), before)


def test_statistics_are_local_or_synchronized_on_all_ranks(comm):
    net = columns(comm)
    with pytest.raises(ValueError, match=r"^batch_norm: expected 'local' or 'synchronized', got True$"):
        DataParallel(trainer(net), batch_norm=True)
    several(comm)
    grid = Grid(model=comm.size)
    split = nn.Sequential([ColumnParallelDense(6, 4 * comm.size, grid), nn.BatchNorm(4 * comm.size)], rng=0)
    with pytest.raises(ValueError, match=r"^batch_norm: expected 'local' on a grid of several model ranks"):
        DataParallel(trainer(split), grid, batch_norm="synchronized")
    with pytest.raises(ValueError, match=r"^batch_norm: expected the same on all ranks"):
        DataParallel(trainer(net), batch_norm="local" if comm.rank else "synchronized")
