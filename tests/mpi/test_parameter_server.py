"""ParameterServer: the steps of one worker where workers wait for each other, bounded staleness where they do not."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import fastopt as fo
from fastopt import nn, optim, schedules
from fastopt.parallel import ParameterServer
from fastopt.parallel.roles import Coordinator

B = 8  # rows of a batch


@pytest.fixture
def workers(comm):
    """Workers beside one server."""
    if comm.size == 1:
        pytest.skip("a server and a worker are two ranks")
    return comm.size - 1


@pytest.fixture(params=[1, 2, 3])
def servers(request, comm):
    if comm.size <= request.param:
        pytest.skip("no rank is left to work")
    return request.param


def data(n, seed=1, n_in=6, n_out=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_in)).astype(np.float32)
    return X, np.argmax(X[:, :n_out], axis=1)


def network(dtype=np.float64, **options):
    layers = [nn.Dense(6, 10, activation="relu", **options), nn.Dense(10, 7, activation="tanh"), nn.Dense(7, 3)]
    return nn.Sequential(layers, rng=0, dtype=dtype)


def bits(net):
    return [a.tobytes() for a in net.parameters()]


def require_equal_on_all(comm, net):
    comm.agree("bits", {str(k): text.hex() for k, text in enumerate(bits(net))})


RULES = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": schedules.Power(0.1, 0.1), "momentum": 0.9}),
    (optim.Adagrad, {"lr": 0.1, "accumulate": 2}),
    (optim.NAdam, {"ema_decay": 0.9}),
]


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_workers_in_step_make_the_steps_of_one_with_the_batch_of_all(comm, servers, rule, options):
    workers = comm.size - servers
    X, y = data(B * workers * 4 + 3)
    Xv, yv = data(37, 2)
    w = np.random.default_rng(3).uniform(0, 2, len(X))
    nets = [network(l2=0.01) for _ in range(2)]
    alone, together = (rule(net.parameters(), **options) for net in nets)
    fit = {"sample_weight": w, "epochs": 2, "validation": (Xv, yv)}
    trainer = nn.Trainer(nets[0], "cross_entropy", alone, seed=4)
    expected = [trainer.fit(X, y, batch_size=B * workers, **fit) for _ in range(2)][1]
    server = ParameterServer(nets[1], together, servers=servers, max_staleness=0, seed=4)
    history = [server.fit(X, y, batch_size=B, **fit) for _ in range(2)][1]
    for name, losses in expected.items():
        assert np.allclose(history[name], losses, rtol=1e-11)
    for a, b in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-11)
    require_equal_on_all(comm, nets[1])
    assert history.staleness == {0: 2 * -(-len(X) // B)}
    if comm.rank == 0:
        assert together.steps == alone.steps
        for mine, theirs in zip(
            together.state_dict()["state"].values(), alone.state_dict()["state"].values(), strict=True
        ):
            assert mine.keys() == theirs.keys()
            assert all(np.allclose(mine[name], theirs[name], atol=1e-11) for name in mine)


def test_workers_in_step_make_the_steps_of_one_that_accumulates_their_batches(comm, servers):
    workers = comm.size - servers
    X, y = data(B * workers * 5)
    nets = [network() for _ in range(2)]
    alone = optim.Adagrad(nets[0].parameters(), lr=0.1, accumulate=workers)
    nn.Trainer(nets[0], "cross_entropy", alone, seed=4).fit(X, y, 3, B)
    together = optim.Adagrad(nets[1].parameters(), lr=0.1)
    ParameterServer(nets[1], together, servers=servers, max_staleness=0, seed=4).fit(X, y, 3, B)
    for a, b in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("max_staleness", "divide"), [(None, False), (None, True), (1, False)])
def test_late_gradients_are_applied_as_the_formula_says(comm, servers, monkeypatch, max_staleness, divide):
    """parameters[t + 1] = parameters[t] - lr / max(1, t - read) * gradient(parameters[read]), Zhang et al. 2016."""
    told, apply_all = [], Coordinator.apply_all

    def noted(self, factors):
        told.extend((self.given[w], int(self.pushed[w].numbers[0])) for w in factors)
        apply_all(self, factors)

    monkeypatch.setattr(Coordinator, "apply_all", noted)
    X = np.random.default_rng(1).normal(size=(B * 30, 6))
    y = X @ np.arange(6.0)
    net = nn.Sequential([nn.Dense(6, 1, bias=False)], rng=0, dtype=np.float64)
    steps = [net.layers[0].weight[0].copy()]
    optimizer = optim.SGD(net.parameters(), lr=0.02)
    server = ParameterServer(net, optimizer, None, servers, max_staleness, loss="mse", divide_by_staleness=divide)
    history = server.fit(X, y, 1, B, shuffle=False)
    if comm.rank == 0:
        for t, (number, read) in enumerate(told):
            x, targets = X[B * number : B * (number + 1)], y[B * number : B * (number + 1)]
            gradient = 2 / B * x.T @ (x @ steps[read] - targets)
            steps.append(steps[t] - 0.02 / (max(1, t - read) if divide else 1) * gradient)
        assert len(told) == 30
        assert sum(t - read for t, (_, read) in enumerate(told)) == sum(a * n for a, n in history.staleness.items())
        assert np.allclose(net.layers[0].weight[0], steps[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_staleness", [None, 1, 4])
def test_one_worker_has_the_bits_of_a_trainer(comm, max_staleness):
    if comm.size != 2:
        pytest.skip("one server and one worker are two ranks")
    X, y = data(B * 5 + 3)
    nets = [network(np.float32) for _ in range(2)]
    expected = nn.Trainer(nets[0], "cross_entropy", "adagrad").fit(X, y, epochs=3, batch_size=B)
    history = ParameterServer(nets[1], max_staleness=max_staleness).fit(X, y, epochs=3, batch_size=B)
    assert history == expected
    assert bits(nets[1]) == bits(nets[0])
    assert history.staleness == {0: 18}


@pytest.mark.parametrize(("max_staleness", "divide"), [(None, False), (None, True), (1, False), (4, True)])
def test_workers_at_their_own_pace_learn(comm, servers, max_staleness, divide):
    X, y = data(B * 40)
    net = network(np.float32)
    server = ParameterServer(
        net, optim.Adagrad(net.parameters(), lr=0.1), None, servers, max_staleness, divide_by_staleness=divide
    )
    history = server.fit(X, y, epochs=8, batch_size=B, validation=data(50, 2))
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.8
    assert sum(history.staleness.values()) == 8 * 40  # each batch once
    comm.agree("history", {"history": str(history), "staleness": str(history.staleness)})
    require_equal_on_all(comm, net)


@pytest.mark.parametrize("period", [1, 3])
def test_elastic_averaging_in_step_is_its_formula(comm, servers, period):
    workers, rate, epochs = comm.size - servers, 0.3, 2
    X, y = data(B * workers * 6)
    net = network(max_norm=1.0)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    server = ParameterServer(net, optimizer, None, servers, 0, elastic=rate, period=period)
    server.fit(X, y, epochs=epochs, batch_size=B, shuffle=False)

    locals_ = [network(max_norm=1.0) for _ in range(workers)]
    trainers = [
        nn.Trainer(local, "cross_entropy", optim.SGD(local.parameters(), lr=0.1, momentum=0.9)) for local in locals_
    ]
    center = [a.copy() for a in locals_[0].parameters()]
    batches = [(X[k : k + B], y[k : k + B]) for k in range(0, len(X), B)]
    tasks = [batches[k : k + period] for k in range(0, len(batches), period)]
    for _ in range(epochs):
        for local in locals_:
            for a, c in zip(local.parameters(), center, strict=True):
                a[...] = c
        for first in range(0, len(tasks), workers):
            here = list(zip(trainers, tasks[first : first + workers], strict=False))
            for trainer, task in here:
                for batch in task:
                    trainer.step(*batch)
            for k, c in enumerate(center):
                xs = [trainer.net.parameters()[k] for trainer, _ in here]
                moves = [rate * (x - c) for x in xs]
                for x, move in zip(xs, moves, strict=True):
                    x -= move
                    c += move
    for a, c in zip(net.parameters(), center, strict=True):
        assert np.allclose(a, c, rtol=0, atol=1e-12)
    require_equal_on_all(comm, net)


def test_workers_at_their_own_pace_learn_by_elastic_averaging(comm, servers):
    X, y = data(B * 40)
    net = network(np.float32)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    server = ParameterServer(net, optimizer, None, servers, elastic=0.9 / (comm.size - servers), period=2)
    history = server.fit(X, y, epochs=8, batch_size=B)
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    require_equal_on_all(comm, net)


def test_three_workers_with_bounded_staleness_are_as_accurate_as_one(comm):
    if comm.size != 4:
        pytest.skip("three workers and a server are four ranks")
    X, y = comm.mpi.bcast(digits() if comm.rank == 0 else None)
    train, test, losses = (X[:1400], y[:1400]), (X[1400:], y[1400:]), []
    for seed in range(3):
        scores = []
        for make in (nn.Trainer, lambda net, loss, rule, seed: ParameterServer(net, rule, max_staleness=4, seed=seed)):
            net = nn.Sequential([nn.Dense(64, 128, activation="relu"), nn.Dense(128, 10)], rng=seed)
            make(net, "cross_entropy", optim.Adagrad(net.parameters(), lr=0.02), seed=seed).fit(*train, epochs=25)
            scores.append(fo.metrics.accuracy(test[1], net.predict(test[0])))
        losses.append(scores[0] - scores[1])
    assert scores[0] > 0.96
    assert np.mean(losses) <= 0.005


def digits():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return (X[order] / 16).astype(np.float32), y[order]


def test_a_slow_worker_holds_nobody_up_unless_staleness_is_bounded(comm):
    if comm.size < 3:
        pytest.skip("a slow worker and another beside a server are three ranks")
    X, y = data(B * 24)
    taken = {}
    for bound in (None, 1):
        net = network()
        server = ParameterServer(net, max_staleness=bound)
        if comm.rank == comm.size - 1:
            slow_down(server, [0.2, 0.2])
        history = server.fit(X, y, epochs=1, batch_size=B)
        taken[bound] = max(history.staleness)
    assert taken[None] > 5  # the slow one's gradient came after so many of the others
    assert taken[1] <= 3 * (comm.size - 2)


class Slow:
    """A compiled training of whose steps the first ones take so many seconds longer."""

    def __init__(self, training, seconds=()):
        self.__dict__.update(training=training, seconds=seconds)

    def __getattr__(self, name):
        return getattr(self.training, name)

    def __setattr__(self, name, value):
        setattr(self.training, name, value)

    def step(self, *batch):
        time.sleep(self.seconds.pop() if self.seconds else 0)
        return self.training.step(*batch)


def slow_down(server, seconds):
    """Let this rank's first steps take so many seconds longer."""
    bind = server.trainer.net.bind
    server.trainer.net.bind = lambda loss: Slow(bind(loss), seconds)


def test_early_stopping_callbacks_and_schedules_agree_on_all_ranks(comm, servers):
    X, y = data(B * 6)
    net = network()
    rate = schedules.ReduceOnPlateau(1.0, patience=0)
    server = ParameterServer(net, optim.SGD(net.parameters(), lr=rate), None, servers)
    calls = []
    history = server.fit(
        X,
        y,
        epochs=5,
        batch_size=B,
        validation=data(20, 2),
        patience=5,
        callbacks=lambda trainer, history: calls.append(1) or (comm.rank == comm.size - 1 and len(calls) == 3),
    )
    assert len(history["loss"]) == 3
    require_equal_on_all(comm, net)
    comm.agree("rate", {"rate": str(rate.config())})


def test_a_file_goes_on_with_other_servers(comm, servers, shared_path):
    X, y = data(B * 6)
    nets = [network() for _ in range(2)]
    whole, first = (ParameterServer(net, max_staleness=0) for net in nets)
    whole.fit(X, y, epochs=4, batch_size=B * (comm.size - 1))
    first.fit(X, y, epochs=2, batch_size=B * (comm.size - 1))
    first.save(shared_path)
    second = ParameterServer(network(), servers=servers, max_staleness=0)
    second.resume(shared_path)
    second.fit(X, y, epochs=2, batch_size=B * (comm.size - 1))
    if servers == 1:
        assert bits(second.trainer.net) == bits(nets[0])
    assert second.trainer.epoch == 4


@pytest.fixture
def shared_path(comm, tmp_path):
    """A path that is the same on all ranks."""
    return comm.gathered("path", str(tmp_path / "run.safetensors").encode())[0].decode()


@pytest.mark.parametrize("where", ["first server", "worker"])
def test_an_error_of_one_rank_ends_all_with_it(comm, workers, where):
    X, y = data(B * 12)
    net = network()
    server = ParameterServer(net)
    server.fit(X, y, batch_size=B)
    before = bits(net)
    rank = 0 if where == "first server" else comm.size - 1

    def call(trainer, history):
        if comm.rank == rank:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        server.fit(X, y, epochs=2, batch_size=B, callbacks=call)
    require_equal_on_all(comm, net)
    assert bits(net) != before
    server.fit(X, y, batch_size=B)  # all have left the failed one
    require_equal_on_all(comm, net)


@pytest.mark.parametrize(
    ("check_finite", "text"),
    [(None, "expected one that is defined, got nan"), ("raise", "grads.*expected finite values")],
)
def test_a_loss_that_is_not_defined_ends_all_where_the_epoch_began(comm, workers, check_finite, text):
    X, y = data(B * 12)
    X[40] = np.nan
    net = network()
    before = bits(net)
    server = ParameterServer(net, optim.SGD(net.parameters(), lr=0.1, check_finite=check_finite))
    with pytest.raises(FloatingPointError, match=text):  # a worker's, or the server's
        server.fit(X, y, batch_size=B)
    assert bits(net) == before
    server.fit(np.nan_to_num(X), y, batch_size=B)


@pytest.mark.parametrize("options", [{}, {"max_staleness": 0}])
def test_a_gradient_that_is_not_defined_never_stays_in_parameters(comm, servers, options):
    X, y = data(B)  # one batch: no other tells of it
    net = network()
    before = bits(net)
    server = ParameterServer(net, optim.SGD(net.parameters(), lr=0.1), servers=servers, **options)
    if comm.rank >= servers:
        poison(server)
    with pytest.raises(FloatingPointError, match="parameters: expected defined ones"):
        server.fit(X, y, batch_size=B)
    assert bits(net) == before
    require_equal_on_all(comm, net)


def poison(server):
    """Let the gradients of this rank hold NaN."""

    class Poisoned(Slow):
        def finish(self):
            self.training.finish()
            self.training.gradient[:] = np.nan

    bind = server.trainer.net.bind
    server.trainer.net.bind = lambda loss: Poisoned(bind(loss))


def test_fit_in_a_callback_of_fit_is_one_error(comm, workers):
    X, y = data(B * 4)
    server = ParameterServer(network())
    with pytest.raises(RuntimeError, match=r"^fit: expected a ParameterServer that is not training"):
        server.fit(X, y, batch_size=B, callbacks=lambda trainer, history: server.fit(X, y, batch_size=B))
    server.fit(X, y, batch_size=B)


def test_a_worker_without_a_batch_waits_for_the_others(comm, servers):
    X, y = data(B - 1)
    for bound in (None, 0, 1):
        nets = [network() for _ in range(2)]
        expected = nn.Trainer(nets[0], "cross_entropy", "adagrad").fit(X, y, epochs=3, batch_size=B)
        history = ParameterServer(nets[1], servers=servers, max_staleness=bound).fit(X, y, epochs=3, batch_size=B)
        assert np.allclose(history["loss"], expected["loss"])
        require_equal_on_all(comm, nets[1])


def test_ctrl_c_on_one_rank_ends_all_and_they_can_go_on(comm, workers):
    X, y = data(B * 12)
    server = ParameterServer(network())
    if comm.rank == workers:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        server.fit(X, y, epochs=100_000, batch_size=B)
    require_equal_on_all(comm, server.trainer.net)
    server.fit(X, y, batch_size=B)


def test_steps_that_are_not_finite_are_left_out_as_by_a_trainer(comm):
    if comm.size != 2:
        pytest.skip("one server and one worker are two ranks")
    X, y = data(B * 12)
    X[40] = np.nan
    nets = [network(np.float32) for _ in range(2)]
    rules = [optim.Adagrad(net.parameters(), check_finite="skip") for net in nets]
    expected = nn.Trainer(nets[0], "cross_entropy", rules[0]).fit(X, y, epochs=2, batch_size=B)
    assert ParameterServer(nets[1], rules[1]).fit(X, y, epochs=2, batch_size=B) == expected
    assert bits(nets[1]) == bits(nets[0])


def test_ranks_that_differ_are_named(comm, workers):
    with pytest.raises(ValueError, match=r"^max_staleness: expected the same on all ranks, got 0 on rank 0 and 1"):
        ParameterServer(network(), max_staleness=min(comm.rank, 1))
    server = ParameterServer(network())
    X, y = data(B * (2 + min(comm.rank, 1)))
    with pytest.raises(ValueError, match=r"^X: shape: expected the same on all ranks"):
        server.fit(X, y)


REFUSED = [
    (lambda net: (net, "adagrad", None, 9), "servers: expected fewer than the"),
    (lambda net: (net, "adagrad", None, 0), "servers: expected"),
    (lambda net: (net, "adagrad", None, 1, -1), "max_staleness: expected"),
    (lambda net: (net, optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov="interim")), "nesterov: expected"),
    (lambda net: (network(max_norm=1.0),), "max_norm: expected layers without"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_what_servers_cannot_do_is_refused(workers, options, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        ParameterServer(*options(network()))


def test_options_of_elastic_averaging_go_with_it(workers):
    with pytest.raises(ValueError, match=r"^period: expected 1 without elastic"):
        ParameterServer(network(), period=2)
    with pytest.raises(ValueError, match=r"^divide_by_staleness: expected False with elastic"):
        ParameterServer(network(), elastic=0.5, divide_by_staleness=True)
    with pytest.raises(ValueError, match=r"^elastic: expected"):
        ParameterServer(network(), elastic=2.0)


def test_options_that_need_the_whole_gradient_are_for_one_server(comm, servers):
    net = network()
    optimizer = optim.SGD(net.parameters(), lr=0.1, max_norm=0.1)
    if servers > 1:
        with pytest.raises(ValueError, match=r"^max_norm: expected None with several servers"):
            ParameterServer(net, optimizer, servers=servers)
    else:
        ParameterServer(net, optimizer).fit(*data(30), batch_size=B)


def test_running_averages_are_the_mean_of_the_workers(comm, workers):
    net = nn.Sequential([fo.nn.Dense(6, 5), nn.BatchNorm(5), nn.Dense(5, 3)], rng=0)
    before = net.layers[1].running_mean.copy()
    ParameterServer(net, max_staleness=0).fit(*data(B * 4 * workers), batch_size=B)
    assert np.isfinite(net.layers[1].running_var).all()
    assert not np.array_equal(net.layers[1].running_mean, before)
    comm.agree("averages", {"mean": net.layers[1].running_mean.tobytes().hex()})


def test_one_rank_alone_is_told_to_start_more(comm):
    if comm.size > 1:
        pytest.skip("of one rank")
    with pytest.raises(ValueError, match=r"^servers: expected fewer than the 1 ranks"):
        ParameterServer(network())


def test_replaced_layers_need_a_parameter_server_of_their_own(comm, workers, tmp_path):
    X, y = data(6 * B * comm.size)
    net = network()
    parallel = ParameterServer(net, "sgd")
    parallel.fit(X, y, batch_size=B)
    layer = net.layers[1]
    net.replace(layer, fo.lowrank.factorize(layer, "svd", 3))
    path = str(tmp_path / "run.safetensors")
    for call in (lambda: parallel.fit(X, y), lambda: parallel.save(path), lambda: parallel.resume(path)):
        with pytest.raises(RuntimeError, match=r"^ParameterServer: expected the layers that it was made for"):
            call()
    ParameterServer(net, "sgd").fit(X, y, batch_size=B)
    require_equal_on_all(comm, net)
