"""Grids of data and model ranks: split layers train as whole ones do on one rank."""

import copy
import pickle

import numpy as np
import pytest

import fastopt as fo
from fastopt import nn, optim
from fastopt.nn.layers import chain
from fastopt.parallel import ColumnParallelDense, DataParallel, Grid, ShareRows, column_parallel, one_weird_trick

B = 8  # rows of a group's batch
SHAPES = {1: [(1, 1)], 2: [(1, 2), (2, 1)], 3: [(1, 3), (3, 1)], 4: [(2, 2), (1, 4), (4, 1)]}


@pytest.fixture(params=range(3))
def grid(comm, request):
    if request.param >= len(SHAPES[comm.size]):
        pytest.skip(f"{comm.size} ranks make fewer grids")
    data, model = SHAPES[comm.size][request.param]
    return Grid(data=data, model=model)


def split(comm):
    if comm.size == 1:
        pytest.skip("one rank holds everything")
    return Grid(model=comm.size)


def layers(regularized=False, dropout=0.3):
    strict = {"l2": 0.01, "l1": 0.001, "max_norm": 0.9} if regularized else {}
    return [
        nn.Dense(6, 13, activation="relu", **strict),
        nn.Dropout(dropout),
        nn.Residual([nn.Dense(13, 13, activation="tanh", l2=0.02 if regularized else 0.0)]),
        nn.Dense(13, 9, activation="gelu", init="he_normal", **strict),
        nn.Dense(9, 5, bias=False),
    ]


def pair(grid, rule=optim.Adam, make=layers, arrange=column_parallel, loss="cross_entropy", shape=None, **options):
    """A trainer of the whole network, and one whose layers are split over a grid."""
    made = []
    for arranged in (make(), arrange(make(), grid)):
        net = nn.Sequential(arranged, rng=7, dtype=np.float64, input_shape=shape)
        made.append(nn.Trainer(net, loss, rule(net.parameters(), **options), seed=3))
    return made


def data(n, seed=1, n_in=(6,), n_out=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *n_in)), rng.integers(0, n_out, n)


def require_parts(whole, parts, atol=1e-10):
    """The arrays of a split network are those of the whole one, its columns."""
    ranks = chain.named([layer for layer in parts.layers if not isinstance(layer, ShareRows)])
    for (place, one), (_, other) in zip(chain.named(whole.layers), ranks, strict=True):
        columns = other.columns if isinstance(other, ColumnParallelDense) else ...
        for name, a in one.arrays().items():
            np.testing.assert_allclose(other.arrays()[name], a[columns], rtol=0, atol=atol, err_msg=f"{place} {name}")


def test_split_layers_start_with_the_columns_of_the_whole_ones(grid):
    for init in ("glorot", "he_normal", "lecun", None):
        one, other = (
            [nn.Dense(300, 500, init=init, activation="relu"), nn.Dense(500, 7, init="zeros")] for _ in range(2)
        )
        whole, parts = nn.Sequential(one, rng=1), nn.Sequential(column_parallel(other, grid), rng=1)
        require_parts(whole, parts, atol=0)
    again = nn.Sequential(column_parallel(whole.layers, grid), rng=2)
    require_parts(whole, again, atol=0)


OPTIONS = [
    (optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "max_norm": 0.05}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": "interim", "clip_value": 0.02}),
    (optim.RMSprop, {"lr": 0.01, "ema_decay": 0.9, "max_norm": 0.1, "check_finite": "raise"}),
]


@pytest.mark.parametrize("regularized", [False, True])
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_split_layers_train_as_whole_ones_on_one_rank(grid, rule, options, regularized):
    alone, together = pair(grid, rule, lambda: layers(regularized), accumulate=1, **options)
    if grid.data.size > 1:  # each group drops others
        alone, together = pair(grid, rule, lambda: layers(regularized, 0.0), **options)
    parallel = DataParallel(together, comm=grid)
    X, y = data(B * grid.data.size * 6)
    w = np.random.default_rng(5).uniform(0.5, 2, len(X))
    fit = {"epochs": 3, "sample_weight": w, "validation": data(300, 2), "patience": 3}
    expected = alone.fit(X, y, batch_size=B * grid.data.size, **fit)
    history = parallel.fit(X, y, batch_size=B, **fit)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-10)
    require_parts(alone.net, together.net)
    if "max_norm" in options:
        assert np.isclose(together.optimizer.grad_norm, alone.optimizer.grad_norm, rtol=1e-9)
    grid.comm.agree("history", {"bits": repr(history)})
    assert expected["loss"][-1] < expected["loss"][0]
