"""Grids of data and model ranks: split layers train as whole ones do on one rank."""

import itertools
import pickle

import numpy as np
import pytest
from mpi4py import MPI

from fastopt import nn, optim
from fastopt.nn.layers import chain
from fastopt.parallel import (
    ColumnParallelDense,
    DataParallel,
    Grid,
    ParameterServer,
    ShareRows,
    column_parallel,
    exchanges,
    one_weird_trick,
)

B = 8  # rows of a group's batch
SHAPES = {1: [(1, 1)], 2: [(1, 2), (2, 1)], 3: [(1, 3), (3, 1)], 4: [(2, 2), (1, 4), (4, 1)]}[MPI.COMM_WORLD.size]


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def grid(request):
    data, model = request.param
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


def plain(layers):
    return [nn.Dropout(0.0) if isinstance(layer, nn.Dropout) else layer for layer in layers]


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


def images():
    return [
        nn.Conv2d(2, 8, 3, padding=1, activation="relu"),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, groups=2, activation="relu"),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Dense(24, 17, "relu"),
        nn.Dropout(0.25),
        nn.Dense(17, 5),
    ]


@pytest.mark.parametrize("rows", [B, 1, 3])
def test_one_weird_trick_trains_as_one_rank_does(grid, rows):
    options = {"lr": 0.02, "weight_decay": 0.01, "max_norm": 0.5}
    alone, together = pair(grid, optim.AdamW, images, one_weird_trick, shape=(8, 8, 2), **options)
    if grid.data.size > 1:  # each group drops others
        alone, together = pair(grid, optim.AdamW, lambda: plain(images()), one_weird_trick, shape=(8, 8, 2), **options)
    parallel = DataParallel(together, comm=grid)
    X, y = data(rows * grid.data.size * 4 + 1, n_in=(8, 8, 2))
    fit = {"epochs": 2, "validation": data(40, 2, n_in=(8, 8, 2))}
    expected = alone.fit(X, y, batch_size=rows * grid.data.size, **fit)
    history = parallel.fit(X, y, batch_size=rows, **fit)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-10)
    require_parts(alone.net, together.net)
    grid.comm.agree("whole layers", {"first": together.net.layers[0].weight.tobytes().hex()})


def test_alexnet_by_one_weird_trick(grid):
    layers = one_weird_trick(nn.models.alexnet_layers(10), grid)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds.index("ShareRows") == 9
    assert kinds[10:] == ["Dropout", "ColumnParallelDense", "Dropout", "ColumnParallelDense", "ColumnParallelDense"]


WRONG = {
    "model": (lambda comm: Grid(model=comm.size + 1), r"model: expected a divisor of the \d ranks, got \d"),
    "size": (lambda comm: Grid(data=comm.size, model=2), r"data, model: expected \d ranks in all, got \d \* 2"),
    "zero": (lambda comm: Grid(model=0), "model: expected a whole number"),
    "differ": (lambda comm: Grid(data=1 + comm.rank, model=comm.size), "data: expected the same on all ranks"),
}


@pytest.mark.parametrize("what", WRONG)
def test_grids_that_do_not_fit_are_refused_on_all_ranks(comm, what):
    if what == "differ" and comm.size == 1:
        pytest.skip("one rank has nobody to differ from")
    call, text = WRONG[what]
    with pytest.raises(ValueError, match=text):
        call(comm)


def test_layers_that_cannot_be_split_are_refused(comm):
    grid = Grid(model=comm.size)
    for options, text in (({"activation": "softmax"}, "got softmax"), ({"init": "sparse"}, "got 'sparse'")):
        with pytest.raises(ValueError, match=text):
            ColumnParallelDense(8, 8, grid, **options)
    with pytest.raises(TypeError, match=r"grid: expected a parallel\.Grid, got int"):
        ColumnParallelDense(8, 8, 2)
    if comm.size > 1:
        with pytest.raises(ValueError, match="out_features: expected one for each"):
            ColumnParallelDense(8, 1, grid)
    for layer in (nn.BatchNorm(4), nn.Dense(4, 4, l2=0.1)):
        with pytest.raises(ValueError, match="expected no BatchNorm, no l1 or l2"):
            one_weird_trick([nn.Residual([layer]), nn.Dense(4, 2)], grid)
    for layer in (nn.BatchNorm(6), nn.Dense(6, 6, l2=0.1), ColumnParallelDense(6, 6, grid)):
        net = nn.Sequential([layer, ShareRows(grid), nn.Dense(6, 3)], rng=0)
        with pytest.raises(ValueError, match="and no ColumnParallelDense where ranks share the rows"):
            DataParallel(nn.Trainer(net, "cross_entropy", "sgd"), comm=grid)
    with pytest.raises(ValueError, match="expected a Dense among them"):
        one_weird_trick([nn.Conv2d(1, 2, 3)], grid)


@pytest.mark.parametrize("widths", [(6, 13, 5), (6, 40, 300, 40, 5)])
def test_layers_in_a_row_without_any_between_train_as_whole_ones(grid, widths):
    def make():
        return [nn.Dense(a, b, "tanh") for a, b in itertools.pairwise(widths)]

    alone, together = pair(grid, optim.SGD, make, loss="mse", lr=0.1)
    parallel = DataParallel(together, comm=grid)
    for k in range(3):
        X, _ = data(40 * grid.data.size, k)
        y = np.cos(X[:, :5])
        mine = slice(40 * grid.data.rank, 40 * (grid.data.rank + 1))
        assert np.isclose(parallel.step(X[mine], y[mine]), alone.step(X, y), rtol=1e-12)
    require_parts(alone.net, together.net, atol=1e-12)


def split_net(grid, seed=0):
    return nn.Sequential(column_parallel([nn.Dense(4, 8, "tanh"), nn.Dense(8, 3)], grid), rng=seed)


def test_split_layers_outside_their_grid_are_one_clear_error(comm):
    grid = split(comm)
    net = split_net(grid)
    trainer = nn.Trainer(net, "mse", "adam")
    X, y = np.ones((4, 4)), np.ones((4, 3))
    calls = [
        lambda: trainer.step(X, y),
        lambda: trainer.fit(X, y),
        lambda: net.predict(X),
        lambda: net.evaluate(X, y, "mse"),
        lambda: net.value_and_grad(X, y, "mse"),
        lambda: net.hvp(X, y, [np.ones_like(a) for a in net.parameters()], "mse"),
        lambda: net.fold().predict(X),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"got a ColumnParallelDense, for which ranks exchange data"):
            call()
    for call in (lambda: net.save("x"), lambda: trainer.save("x")):
        with pytest.raises(ValueError, match=r"DataParallel\.save writes all of it"):
            call()
    with pytest.raises(ValueError, match=r"expected the Grid of the ColumnParallelDense, .* got None; pass comm=grid"):
        DataParallel(trainer)
    with pytest.raises(ValueError, match="pass comm=grid"):
        DataParallel(trainer, comm=Grid(model=comm.size))
    with pytest.raises(TypeError, match="Grid: expected to stay in its process"):
        pickle.dumps(net)
    clipping = nn.Trainer(net, "mse", optim.Adam(net.parameters(), max_norm=1.0, accumulate=2))
    with pytest.raises(ValueError, match="max_norm: expected none where an optimizer accumulates and layers are split"):
        DataParallel(clipping, comm=grid)


def test_what_differs_between_ranks_of_a_grid_is_named(comm):
    grid = split(comm)
    whole = nn.Dense(8, 3)
    layers = [*column_parallel([nn.Dense(4, 8, "tanh")], grid), whole]
    net = nn.Sequential(layers, rng=0)
    trainer = nn.Trainer(net, "mse", "adam")
    if comm.rank == 1:
        whole.weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"layers\.1\.weight: expected the same on all ranks"):
        DataParallel(trainer, comm=grid)


def test_columns_that_differ_between_groups_are_named(comm):
    if comm.size != 4:
        pytest.skip("two groups of two ranks are four")
    grid = Grid(data=2, model=2)
    net = split_net(grid)
    if comm.rank == 3:
        net.layers[0].weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"layers\.0\.weight: .* on all ranks with the same columns, .* rank 3"):
        DataParallel(nn.Trainer(net, "mse", "adam"), comm=grid)


def test_an_error_of_one_rank_of_a_grid_is_raised_on_all(grid):
    comm = grid.comm
    if comm.size == 1:
        pytest.skip("one rank has nobody to tell")
    parallel = DataParallel(nn.Trainer(split_net(grid), "mse", "adam"), comm=grid)
    last = comm.rank == comm.size - 1
    X, y = np.ones((4, 4)), np.ones((4, 3))
    with pytest.raises(ValueError, match=r"x: expected shape"):
        parallel.step(X[:, : 3 if last else 4], y)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        parallel.fit(X, y, callbacks=lambda trainer, history: 1 / (not last))
    if grid.model.size > 1:
        with pytest.raises(ValueError, match="expected the same batch on all model ranks"):
            parallel.step(X + grid.model.rank, y)
        with pytest.raises(ValueError, match="expected the same batch on all model ranks"):
            parallel.step(X[: 2 + (grid.model.rank == 0)], y[: 2 + (grid.model.rank == 0)])
    assert np.isfinite(parallel.step(X, y))


def test_a_gradient_that_is_not_finite_on_one_rank_is_refused_by_all(grid):
    net = split_net(grid)
    trainer = nn.Trainer(net, "mse", optim.SGD(net.parameters(), lr=0.1, check_finite="skip"))
    parallel = DataParallel(trainer, comm=grid)
    before = [a.copy() for a in net.parameters()]
    X, y = np.ones((4, 4)), np.ones((4, 3))
    y[0, 0] = 3e38  # whose square is infinite, for the columns of one rank
    parallel.step(X, y)
    assert trainer.optimizer.skipped == 1
    for a, b in zip(net.parameters(), before, strict=True):
        assert (a == b).all()


def test_groups_may_have_no_rows(grid):
    if grid.data.size == 1:
        pytest.skip("one group has all rows")
    alone, together = pair(grid, make=lambda: layers(dropout=0.0), lr=0.01)
    parallel = DataParallel(together, comm=grid)
    X, y = data(B)
    for _ in range(3):
        rows = slice(0, B if grid.data.rank == 0 else 0)
        assert np.isclose(parallel.step(X[rows], y[rows]), alone.step(X, y), rtol=1e-12)
    require_parts(alone.net, together.net)
    batches = [data(B, k) for k in range(1 + grid.data.rank)]
    assert len(parallel.fit(batches, epochs=2)["loss"]) == 2


@pytest.fixture
def path(comm, tmp_path):
    folders = comm.gathered("folder", str(tmp_path).encode())
    return folders[0].decode() + "/run.safetensors"


@pytest.mark.parametrize("kind", ["dense", "trick"])
def test_a_run_goes_on_from_its_file_on_another_grid_and_on_one_rank(grid, path, kind):
    comm, shape = grid.comm, (6,) if kind == "dense" else (8, 8, 2)
    make, arrange = (layers, column_parallel) if kind == "dense" else (images, one_weird_trick)
    options = {"lr": 0.01, "weight_decay": 0.01, "ema_decay": 0.9}

    def fresh(on):
        return pair(on, optim.AdamW, lambda: plain(make()), arrange, shape=shape, **options)

    X, y = data(48, n_in=shape)
    fit = {"validation": data(20, 2, n_in=shape), "patience": 5, "epochs": 2}
    alone, together = fresh(grid)
    parallel = DataParallel(together, comm=grid)
    parallel.fit(X, y, batch_size=12 // grid.data.size, **fit)
    parallel.save(path)
    alone.resume(path)
    require_parts(alone.net, together.net, atol=0)
    history = alone.fit(X, y, batch_size=12, **fit)
    for shape_of_other in SHAPES:
        other = Grid(*shape_of_other)
        _, resumed = fresh(other)
        again = DataParallel(resumed, comm=other)
        again.resume(path)
        other_history = again.fit(X, y, batch_size=12 // other.data.size, **fit)
        np.testing.assert_allclose(other_history["val_loss"], history["val_loss"], rtol=1e-10)
        require_parts(alone.net, resumed.net)
    if comm.rank == 0:
        net = nn.load(path)
        assert [type(layer) for layer in net.layers] == [type(layer) for layer in alone.net.layers]
    wrong = nn.Trainer(split_net(grid), "cross_entropy", "adamw")
    with pytest.raises(ValueError, match="expected"):
        DataParallel(wrong, comm=grid).resume(path)
    with pytest.raises(OSError, match="no"):
        parallel.save(path + "/no/such/folder")


@pytest.mark.parametrize("kind", ["dense", "trick"])
def test_predictions_losses_and_the_gathered_network_are_those_of_the_whole(grid, kind):
    shape, make, arrange = ((6,), layers, column_parallel) if kind == "dense" else ((8, 8, 2), images, one_weird_trick)
    alone, together = pair(grid, make=make, arrange=arrange, shape=shape)
    parallel = DataParallel(together, comm=grid)
    for n in (1, 3, 700):
        X, y = data(n, n_in=shape)
        np.testing.assert_allclose(parallel.predict(X), alone.net.predict(X), rtol=1e-12, atol=1e-13)
        assert np.isclose(parallel.evaluate(X, y), alone.net.evaluate(X, y), rtol=1e-12)
    net = parallel.gather()
    assert (net is None) == (grid.comm.rank > 0)
    if net is not None:
        assert repr(net) == repr(alone.net)
        for a, b in zip(net.parameters(), alone.net.parameters(), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("kind", ["dense", "trick"])
def test_the_same_call_has_the_same_bits_on_all_ranks_and_in_every_run(grid, kind):
    shape, make, arrange = ((6,), layers, column_parallel) if kind == "dense" else ((8, 8, 2), images, one_weird_trick)
    made = []
    for _ in range(2):
        net = nn.Sequential(arrange(make(), grid), rng=7, input_shape=shape)
        trainer = nn.Trainer(net, "cross_entropy", optim.AdamW(net.parameters(), lr=0.01, max_norm=0.1), seed=3)
        DataParallel(trainer, comm=grid).fit(*data(70, n_in=shape), epochs=3, batch_size=B)
        made.append([a.tobytes() for a in net.parameters()])
    assert made[0] == made[1]
    everyones = DataParallel(trainer, comm=grid)  # which compares all arrays that several ranks have
    assert everyones.trainer is trainer


def test_data_that_differ_are_one_error_of_predict_on_all_ranks(comm):
    grid = split(comm)
    parallel = DataParallel(nn.Trainer(split_net(grid), "mse", "adam"), comm=grid)
    with pytest.raises(ValueError, match=r"rank 1: X: expected shape"):
        parallel.predict(np.ones((3, 5 if comm.rank == 1 else 4)))
    with pytest.raises(ValueError, match=r"X: rows: expected the same on all ranks"):
        parallel.predict(np.full((3, 4), comm.rank))
    assert parallel.predict(np.ones((3, 4))).shape == (3, 3)


def test_ranks_of_a_group_see_the_same_batch_though_no_layer_is_split(comm):
    grid = split(comm)
    net = nn.Sequential([nn.Dense(4, 3)], rng=0)
    parallel = DataParallel(nn.Trainer(net, "mse", "adam"), comm=grid)
    with pytest.raises(ValueError, match="expected the same batch on all model ranks"):
        parallel.step(np.full((2, 4), comm.rank), np.ones((2, 3)))
    assert parallel.step(np.ones((2, 4)), np.ones((2, 3))) > 0


def test_one_rank_without_memory_for_an_exchange_is_an_error_of_all(comm, monkeypatch):
    grid = split(comm)
    parallel = DataParallel(nn.Trainer(split_net(grid), "mse", "adam"), comm=grid)

    def refuse(exchange, size, dtype):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        if comm.rank == comm.size - 1:
            patch.setattr(exchanges.Exchange, "room", refuse)
        for call in (parallel.step, parallel.fit):
            with pytest.raises(MemoryError, match="no room"):
                call(np.ones((4, 4)), np.ones((4, 3)))
    assert parallel.step(np.ones((4, 4)), np.ones((4, 3))) > 0


def test_a_parameter_server_takes_no_split_layers(comm):
    grid = split(comm)
    with pytest.raises(ValueError, match="net: expected layers that a worker computes by itself, got a Column"):
        ParameterServer(split_net(grid), "adagrad", loss="mse").fit(np.ones((4, 4)), np.ones((4, 3)))
