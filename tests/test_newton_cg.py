"""optim.NewtonCG in a Trainer: what it reaches, what it keeps, what it refuses.

Pass criterion: a quadratic is solved to EXACT of its solution; a resumed run has the same bits.
"""

import copy
import pickle
import re

import numpy as np
import pytest

import fastopt as fo
from fastopt._conjugate_gradients import ConjugateGradients
from fastopt.optim import newton_cg
from fastopt.optim.newton_cg import settled_solution

EXACT = 1e-8


def regression(n=40, k=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k))
    return X, X @ rng.normal(size=(k, 2)) + 3.0


def classes(n=300, dtype=np.float64):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 6)).astype(dtype)
    return X, (X[:, 0] * X[:, 1] > 0) + 2 * (X[:, 2] > 1).astype(np.int64)


def network(dtype=np.float64, more=()):
    layers = [fo.nn.Dense(6, 12, "tanh"), *more, fo.nn.Dense(12, 4)]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype)


def trainer_of(net, loss="cross_entropy", **options):
    return fo.nn.Trainer(net, loss, fo.optim.NewtonCG(net.parameters(), **options))


# ---------------------------------------------------------------- the solver


def test_conjugate_gradients_solve_a_definite_system_in_as_many_steps_as_it_has_unknowns(rng):
    root, b = rng.normal(size=(7, 7)), rng.normal(size=7)
    a, calls = root @ root.T + np.eye(7), []
    for start in (np.zeros(7), rng.normal(size=7)):
        calls.clear()
        x, residual = settled_solution(lambda v: calls.append(1) or a @ v, b, start, 50)
        np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=EXACT)
        np.testing.assert_allclose(residual, 0, atol=1e-9)
        assert len(calls) <= 9


@pytest.mark.parametrize("scaled", [False, True])
def test_each_step_of_conjugate_gradients_is_the_best_of_its_directions(scaled, rng):
    a = rng.normal(size=(8, 8))
    a = a @ a.T + np.diag(np.arange(1.0, 9.0))
    b, start, scale = rng.normal(size=8), rng.normal(size=8), 1 / np.diag(a) if scaled else None
    cg, directions, lengths = ConjugateGradients(a.dot, b, np.dot, start, scale), [], []
    for _ in range(8):
        assert cg.look() > 0
        directions.append(cg.p / np.linalg.norm(cg.p))
        cg.move()
        np.testing.assert_allclose(cg.r, b - a @ cg.x, atol=1e-9 * np.abs(b).max())
        assert np.abs(np.array(directions) @ cg.r).max() < 1e-9 * np.abs(b).max()  # no slope is left along any of them
        lengths.append(np.sqrt(cg.rz))
    assert lengths[-1] < 1e-9 * lengths[0]


def test_conjugate_gradients_stop_where_the_matrix_is_flat():
    x, residual = settled_solution(lambda v: np.array([2.0, 0.0]) * v, np.array([4.0, 0.0]), np.zeros(2), 50)
    np.testing.assert_array_equal(x, [2.0, 0.0])
    np.testing.assert_array_equal(residual, 0)


# ---------------------------------------------------------------- what it reaches


def test_one_step_solves_a_linear_regression():
    X, Y = regression()
    net = fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=0, dtype=np.float64)
    trainer = trainer_of(net, "mse", damping=0.0)
    before = trainer.step(X, Y)
    assert before > 1
    exact = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    np.testing.assert_allclose(net.layers[0].weight, exact[:-1].T, rtol=EXACT)
    np.testing.assert_allclose(net.layers[0].bias, exact[-1], rtol=EXACT)
    assert trainer.step(X, Y) < 1e-16


def test_weight_decay_is_ridge_regression():
    X, Y = regression()
    net = fo.nn.Sequential([fo.nn.Dense(5, 2, bias=False)], rng=0, dtype=np.float64)
    trainer = trainer_of(net, "mse", damping=0.0, weight_decay=0.3)
    trainer.step(X, Y)
    exact = np.linalg.solve(X.T @ X / len(X) + 0.3 * np.eye(5), X.T @ Y / len(X))  # mse is a mean over both outputs
    np.testing.assert_allclose(net.layers[0].weight, exact.T, rtol=EXACT)


def test_an_ill_conditioned_regression_is_solved_where_descent_creeps():
    X, Y = regression()
    X = X * [100.0, 10.0, 1.0, 0.1, 0.01]
    losses = {}
    for name, options in (("NewtonCG", {"damping": 0.0}), ("SGD", {"lr": 1e-4, "momentum": 0.9})):
        net = fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=0, dtype=np.float64)
        trainer = fo.nn.Trainer(net, "mse", getattr(fo.optim, name)(net.parameters(), **options))
        trainer.fit(X, Y, epochs=10, batch_size=len(X))
        losses[name] = net.evaluate(X, Y, "mse")
    assert losses["NewtonCG"] < 1e-9 * losses["SGD"]


def test_digits_reach_96_percent_in_a_few_epochs():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    X, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order] / 16, y[order]
    net = fo.nn.Sequential([fo.nn.Dense(64, 64, "tanh"), fo.nn.Dense(64, 10)], rng=0)
    history = trainer_of(net).fit(X[:1347], y[:1347], epochs=6, batch_size=450, validation=(X[1347:], y[1347:]))
    assert history["val_accuracy"][-1] >= 0.96


@pytest.mark.parametrize(
    "more", [(), (fo.nn.BatchNorm(12, activation="relu"),), (fo.nn.Dropout(0.2),)], ids=["plain", "norm", "dropout"]
)
def test_training_lowers_the_loss_through_every_kind_of_layer(more, dtype):
    X, y = classes(dtype=dtype)
    history = trainer_of(network(dtype, copy.deepcopy(more))).fit(X, y, epochs=8, batch_size=150)
    assert history["loss"][-1] < 0.6 * history["loss"][0]


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("mse", lambda y: np.eye(4)[y]),
        ("huber", lambda y: np.eye(4)[y]),
        ("binary_cross_entropy", lambda y: np.eye(4)[y]),
    ],
)
def test_other_losses_fall_too(loss, target):
    X, y = classes()
    history = trainer_of(network(), loss).fit(X, target(y), epochs=8, batch_size=300)
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_a_step_never_raises_the_loss_of_its_batch():
    X, y = classes()
    net = network()
    trainer = trainer_of(net, damping=1e-6)  # too bold: steps must be halved
    for _ in range(10):
        before = trainer.step(X, y)
        assert net.evaluate(X, y) <= before


# ---------------------------------------------------------------- damping


def test_damping_follows_how_well_the_model_predicts():
    X, Y = regression()
    net = fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=0, dtype=np.float64)
    trainer = trainer_of(net, "mse", damping=0.9)  # of a quadratic the model predicts everything
    trainer.step(X, Y)
    assert trainer.optimizer.param_groups[0]["damping"] == pytest.approx(0.6)
    X, y = classes()
    trainer = trainer_of(network(), damping=1e-9)
    trainer.step(X, y)
    assert trainer.optimizer.param_groups[0]["damping"] == pytest.approx(1.5e-9)


@pytest.mark.parametrize("lr", [1e9, 1e200])  # a loss that is too large, or has no value
def test_a_step_that_does_not_pay_changes_no_parameter(lr):
    X, Y = regression()
    net = fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=0, dtype=np.float64)
    trainer = trainer_of(net, "mse", damping=0.1, lr=lr)
    before = [p.copy() for p in net.parameters()]
    trainer.step(X, Y)
    for a, b in zip(before, net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainer.optimizer.param_groups[0]["damping"] == pytest.approx(0.15)


def test_lr_may_follow_a_schedule():
    X, Y = regression()
    paths = []
    for lr in (fo.schedules.Step(1.0, 2, 0.5), None):
        net = fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=0, dtype=np.float64)
        trainer = trainer_of(net, "mse", damping=0.01, lr=lr or 1.0)
        for t in range(1, 6):
            if lr is None:
                trainer.optimizer.param_groups[0]["lr"] = fo.schedules.Step(1.0, 2, 0.5)(t)
            trainer.step(X, Y)
        paths.append(net.parameters())
    for a, b in zip(*paths, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- state


def train(trainer, epochs=2):
    X, y = classes(dtype=trainer.net.dtype)
    return trainer.fit(X, y, epochs=epochs, batch_size=110)


MORE = (fo.nn.BatchNorm(12), fo.nn.Dropout(0.2))


def assert_same(trainer, other):
    for a, b in zip(trainer.net.parameters(), other.net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(trainer.net.layers, other.net.layers, strict=True):
        for name, array in a.arrays().items():
            np.testing.assert_array_equal(array, b.arrays()[name])
    assert trainer.optimizer.param_groups[0]["damping"] == other.optimizer.param_groups[0]["damping"]
    assert trainer.optimizer.steps == other.optimizer.steps


def test_a_resumed_run_continues_bit_for_bit(dtype, tmp_path):
    trainer = trainer_of(network(dtype, copy.deepcopy(MORE)))
    train(trainer)
    trainer.save(tmp_path / "run")
    history = train(trainer)
    other = trainer_of(network(dtype, copy.deepcopy(MORE)))
    other.resume(tmp_path / "run")
    assert train(other) == history
    assert_same(trainer, other)


def test_an_epoch_cut_in_two_continues_bit_for_bit(tmp_path):
    def stop(rows):
        def step(*args, **options):
            if trainer._training.position >= rows:
                raise KeyboardInterrupt
            return kept(*args, **options)

        kept, trainer.optimizer.step_on = trainer.optimizer.step_on, step

    whole, trainer = trainer_of(network()), trainer_of(network())
    stop(220)
    with pytest.raises(KeyboardInterrupt):
        train(trainer)
    del trainer.optimizer.step_on
    trainer.save(tmp_path / "run")
    other = trainer_of(network())
    other.resume(tmp_path / "run")
    assert train(other) == train(whole)
    assert_same(whole, other)


def test_ctrl_c_within_a_step_leaves_the_parameters():
    X, y = classes()
    trainer = trainer_of(network())
    trainer.step(X, y)
    before, damping = [p.copy() for p in trainer.net.parameters()], trainer.optimizer.param_groups[0]["damping"]

    class Interrupted:
        def __init__(self, training, calls):
            self.training, self.calls = training, calls

        def __getattr__(self, name):
            return getattr(self.training, name)

        def step(self, *args):
            self.calls -= 1
            if not self.calls:
                raise KeyboardInterrupt
            return self.training.step(*args)

    for calls in (1, 2):  # at the point, at a new point
        with pytest.raises(KeyboardInterrupt):
            trainer.optimizer.stepper(Interrupted(trainer._training, calls)).step(X, y)
        for a, b in zip(before, trainer.net.parameters(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (trainer.optimizer.steps, trainer.optimizer.param_groups[0]["damping"]) == (1, damping)
    trainer.step(X, y)


def test_a_second_step_at_the_same_time_is_refused(monkeypatch):
    X, y = classes()
    trainer, solution = trainer_of(network()), newton_cg.settled_solution

    def meddling(*args):
        with pytest.raises(RuntimeError, match="at work in another thread"):
            trainer.step(X, y)
        return solution(*args)

    monkeypatch.setattr(newton_cg, "settled_solution", meddling)
    trainer.step(X, y)
    assert trainer.optimizer.steps == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_a_copy_continues_bit_for_bit(copied):
    trainer = trainer_of(network(more=copy.deepcopy(MORE)))
    train(trainer)
    other = copied(trainer)
    assert train(other) == train(trainer)
    assert_same(trainer, other)


def test_state_dict_has_direction_steps_and_damping():
    trainer = trainer_of(network())
    train(trainer, 1)
    state = trainer.optimizer.state_dict()
    assert [entry["step"] for entry in state["state"].values()] == [3] * 4
    assert state["steps"] == 3
    assert all(state["state"][k]["direction"].shape == p.shape for k, p in enumerate(trainer.net.parameters()))
    other = trainer_of(copy.deepcopy(trainer.net))
    other.optimizer.load_state_dict(state)
    X, y = classes()
    assert other.step(X, y) == trainer.step(X, y)
    assert_same(trainer, other)


@pytest.mark.parametrize("weighted", [False, True])
def test_bits_do_not_depend_on_threads(weighted, dtype):
    X, y = classes(2000, dtype)
    found = []
    for threads in (1, 2, 3, 8):
        with fo.num_threads(threads):
            net = fo.nn.Sequential([fo.nn.Dense(6, 150, "tanh"), fo.nn.Dense(150, 4)], rng=0, dtype=dtype)
            trainer_of(net).fit(
                X, y, epochs=2, batch_size=1000, sample_weight=np.linspace(0, 1, 2000) if weighted else None
            )
            found.append([p.tobytes() for p in net.parameters()])
    assert all(bits == found[0] for bits in found[1:])


def test_fit_takes_what_it_takes_with_other_optimizers():
    X, y = classes()
    net, seen = network(), []
    trainer = trainer_of(net, fo.nn.CrossEntropy(label_smoothing=0.1), lr=fo.schedules.ReduceOnPlateau(1.0, patience=1))
    batches = [(X[:150], y[:150]), (X[150:], y[150:], np.ones(150))]
    options = {"validation": (X, y), "patience": 3, "callbacks": lambda t, h: seen.append(t.optimizer.steps)}
    trainer.fit(batches, epochs=3, **options)
    trainer.fit(X, y, epochs=2, batch_size=fo.schedules.Constant(100), sample_weight=np.ones(300), **options)
    assert seen == [2, 4, 6, 9, 12]


# ---------------------------------------------------------------- what it refuses


def test_what_it_cannot_do_is_refused(small_net):
    net = small_net()
    params = net.parameters()
    optimizer = fo.optim.NewtonCG(params)
    grads = [np.zeros_like(p) for p in params]
    for call in (optimizer.step, optimizer.bind):
        with pytest.raises(TypeError, match=re.escape("expected a step by nn.Trainer")):
            call(grads)
    with pytest.raises(ValueError, match="expected one group"):
        optimizer.add_param_group({"params": [np.zeros(2)]})
    with pytest.raises(ValueError, match="expected one group"):
        fo.optim.NewtonCG([{"params": params[:1]}, {"params": params[1:]}])
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_norm'"):
        fo.optim.NewtonCG(params, max_norm=1.0)
    with pytest.raises(ValueError, match=r"damping: expected a finite number of at least 0, got -1"):
        fo.optim.NewtonCG(params, damping=-1)
    with pytest.raises(ValueError, match=r"damping: expected a finite number of at least 0, got Constant"):
        fo.optim.NewtonCG(params, damping=fo.schedules.Constant(0.1))
    with pytest.raises(ValueError, match=r"max_iter: expected a whole number of at least 1, got 0"):
        fo.optim.NewtonCG(params, max_iter=0)


def test_a_loss_without_curvature_needs_damping():
    X, Y = regression()
    for damping in (0.0, 1.0):
        net = fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=0, dtype=np.float64)
        trainer = trainer_of(net, "mae", damping=damping)
        grads, before = net.value_and_grad(X, Y, "mae")[1], [p.copy() for p in net.parameters()]
        if damping == 0:
            with pytest.raises(ValueError, match="damping: expected a number above 0 where the loss has no curvature"):
                trainer.step(X, Y)
            grads = [0 * g for g in grads]
        else:
            trainer.step(X, Y)
        for p, at, grad in zip(net.parameters(), before, grads, strict=True):
            np.testing.assert_allclose(p, at - grad, rtol=EXACT)


def test_a_loss_that_is_not_finite_is_refused_before_anything_changes():
    X, y = classes()
    trainer = trainer_of(network(more=copy.deepcopy(MORE)))
    trainer.step(X, y)
    arrays = [a for layer in trainer.net.layers for a in layer.arrays().values()]
    before = [a.copy() for a in arrays]
    X[3, 1] = np.nan
    with pytest.raises(FloatingPointError, match="expected a finite loss and gradient, got loss nan"):
        trainer.step(X, y)
    for a, b in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainer.optimizer.steps == 1
    X[3, 1] = 0
    assert np.isfinite(trainer.step(X, y))
