"""What a Trainer and its optimizer must not lose between them: an epoch cut in two, a copy, another thread.

Pass criterion: equal in every bit. A step against its parts: after STEPS steps within RTOL of the
largest change of a parameter, and moments of the largest of their kind.
"""

import contextlib
import copy
import functools
import threading

import numpy as np
import pytest
from reference import KERNELS, RULES

import fastopt as fo
from fastopt.nn.files import arrays_of


def rows(n=90):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)).astype(np.float32), rng.normal(size=(n, 2)).astype(np.float32)


def make(**options):
    net = fo.nn.Sequential([fo.nn.Dense(3, 4, activation="tanh"), fo.nn.Dense(4, 2)], rng=0)
    return fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), **options))


def test_a_copied_trainer_goes_on_alone_bit_for_bit():
    one = make(lr=0.1, momentum=0.9)
    one.fit(*rows(), epochs=1)
    other = copy.deepcopy(one)
    for each in (one, other):
        each.fit(*rows(), epochs=2, batch_size=16)
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        assert a is not b
        np.testing.assert_array_equal(a, b)


def test_a_plateau_hears_of_the_whole_epoch_after_a_resume_within_it(tmp_path, monkeypatch):
    def new():
        return make(lr=fo.schedules.ReduceOnPlateau(0.1, patience=0, factor=0.5))

    whole, broken = new(), new()
    history = whole.fit(*rows(), epochs=3, batch_size=16)
    with monkeypatch.context() as patch:
        patch.setattr("fastopt.nn.trainer.SLICE", 0.0)  # a batch at a time
        ready, calls = broken.optimizer._ready, []

        def interrupted():
            calls.append(0)
            if len(calls) == 3:
                raise KeyboardInterrupt
            ready()

        patch.setattr(broken.optimizer, "_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            broken.fit(*rows(), epochs=1, batch_size=16)
    broken.save(tmp_path / "run.safetensors")
    resumed = new()
    resumed.resume(tmp_path / "run.safetensors")
    assert resumed.fit(*rows(), epochs=3, batch_size=16)["loss"] == history["loss"]
    for a, b in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_average_the_file_lacks_starts_at_the_parameters_of_the_file(tmp_path):
    one = make(lr=0.1)
    one.fit(*rows(), epochs=1)
    one.save(tmp_path / "run.safetensors")
    other = make(lr=0.1, ema_decay=0.9)
    other.resume(tmp_path / "run.safetensors")
    with other.optimizer.averaged():
        for a, b in zip(other.net.parameters(), one.net.parameters(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_batch_left_out_is_left_out_of_the_loss():
    x, y = rows(64)
    bad = x.copy()
    bad[40] = np.nan
    losses = []
    for given in ((x[:32], y[:32]), ([(x[:32], y[:32]), (bad[32:], y[32:])],)):
        one = make(lr=0.1, check_finite="skip")
        losses.append(one.fit(*given, epochs=1, shuffle=False)["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("schedule", [fo.schedules.Step(8, every=1, factor=2), fo.schedules.Exponential(4, -0.5)])
def test_a_batch_size_may_grow_beyond_the_data(schedule):
    one = make(lr=0.1)
    one.fit(*rows(200), epochs=2, batch_size=schedule)
    assert one._training.max_batch <= 208  # room for the rows there are, in whole blocks


def test_a_batch_size_below_one_is_refused_at_the_batch_that_has_it():
    one = make(lr=0.1)
    with pytest.raises(ValueError, match=r"at batch 8, got 0\.5"):
        one.fit(*rows(), epochs=3, batch_size=fo.schedules.Power(4, 1.0), shuffle=False)
    assert one._training.batches == 7


def test_a_plateau_behind_a_warmup_and_in_another_group_is_told_once():
    plateau = fo.schedules.ReduceOnPlateau(1.0, patience=5)
    groups = [{"params": [np.ones(2)], "lr": plateau}, {"params": [np.ones(2)], "lr": fo.schedules.Warmup(2, plateau)}]
    optimizer = fo.optim.SGD(groups)
    optimizer.measured(1.0)
    optimizer.measured(1.0)
    assert plateau.bad == 1


def test_a_step_refused_in_another_thread_leaves_the_run_alone():
    net = fo.nn.Sequential([fo.nn.Dense(64, 256, activation="relu"), fo.nn.Dense(256, 2)], rng=0)
    sgd = fo.optim.SGD(net.parameters(), lr=1e-3, check_finite="skip")
    one = fo.nn.Trainer(net, "mse", sgd, max_batch=32)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20_000, 64)), rng.normal(size=(20_000, 2))
    refused = []

    def fit():
        try:
            one.fit(X, Y, epochs=2)
        except RuntimeError as error:  # the other thread came first
            refused.append(error)

    worker = threading.Thread(target=fit)
    worker.start()
    while worker.is_alive():
        try:
            one.step(np.full((500, 64), np.nan), np.zeros((500, 2)))
        except RuntimeError as error:
            refused.append(error)
        with contextlib.suppress(RuntimeError, ValueError):
            one.optimizer.load_state_dict({})
    worker.join()
    assert refused
    assert all(np.isfinite(a).all() for a in net.parameters())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"nesterov": "interim"}, {"max_norm": 1.0}])
def test_a_batch_without_a_loss_does_not_happen(options, threads):
    layers = [fo.nn.Dense(64, 32, activation="tanh"), fo.nn.BatchNorm(32), fo.nn.Dropout(0.2), fo.nn.Dense(32, 2)]
    net = fo.nn.Sequential(layers, rng=0)
    one = fo.nn.Trainer(net, loss="mse", optimizer=fo.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, **options))
    X, Y = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32), np.zeros((500, 2))
    with fo.num_threads(threads):
        one.step(X, Y)
        state, kept = one.optimizer.state_dict(), copy.deepcopy(one)
        bad = X.copy()
        bad[7, 7] = np.nan
        with pytest.raises(FloatingPointError, match=r"loss: expected one .*, got nan; .*nothing has been updated"):
            one.step(bad, Y)
        with pytest.raises(FloatingPointError, match="loss: expected one that is defined"):
            one.fit(bad, Y, batch_size=500)
        for got, want in zip(arrays_of(net).values(), arrays_of(kept.net).values(), strict=True):
            np.testing.assert_array_equal(got, want)
        np.testing.assert_equal(one.optimizer.state_dict(), state)
        assert one.step(X, Y) == kept.step(X, Y)  # draws as if nothing had been


# ---------------------------------------------------------------- a step is its parts
# A step equals value_and_grad and optimizer.step on a twin of the network, to rounding: the
# arithmetic of the two may be ordered otherwise.

F = fo.nn.Dense
NETWORKS = {  # layers, loss
    "64-64-10": (lambda: [F(64, 64, "relu"), F(64, 10)], "cross_entropy"),
    "20-37-5": (lambda: [F(20, 37, "tanh"), F(37, 5)], "mse"),
    "shortcut": (
        lambda: [F(12, 24, "gelu"), fo.nn.Residual([F(24, 17, "silu"), F(17, 24, bias=False)]), F(24, 3)],
        "mse",
    ),
}
BATCHES = (1, 2, 3, 8, 33, 128)
STEPS = 20
# small enough for batches of one row, and large enough that no gradient near zero decides by its rounding
# on a whole step: what both ways have in common
TAMED = {"lr": 0.001, "eps": 1e-2}
RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
SIGN_RTOL = 1e-2  # Lion in float32: where a gradient near zero changes its sign, a parameter moves by 2 lr
SURROUNDED = {
    "max_norm": {"max_norm": 0.1},
    "clip_value": {"clip_value": 0.1},
    "accumulate": {"accumulate": 3},
    "ema_decay": {"ema_decay": 0.9},
    "raise": {"check_finite": "raise"},
    "skip": {"check_finite": "skip"},
    "weight_decay": {"weight_decay": 0.03},
    "maximize": {"maximize": True},
    "many": {"max_norm": 0.1, "accumulate": 3, "ema_decay": 0.9, "check_finite": "skip", "weight_decay": 0.03},
}


def twins(network, rule, dtype, **options):
    """Two trainers that share nothing, of the same network and rule."""
    layers, loss = NETWORKS[network]
    nets = [fo.nn.Sequential(layers(), rng=0, dtype=dtype) for _ in range(2)]
    rule = getattr(fo.optim, rule)
    options |= {name: value for name, value in TAMED.items() if name in rule.defaults}
    return [fo.nn.Trainer(net, loss, rule(net.parameters(), **options)) for net in nets]


def batch(net, n, number, bad=False):
    """Rows and targets; with a NaN in the last row, if bad."""
    rng = np.random.default_rng((n, number))
    x = rng.normal(size=(n, net.in_features)).astype(net.dtype)
    if bad:
        x[-1, -1] = np.nan
    return x, rng.normal(size=(n, net.out_features)).astype(net.dtype)


def targets_of(trainer, y):
    return y.argmax(axis=1) if trainer.loss == "cross_entropy" else y


def step_apart(trainer, x, y):
    """What trainer.step does, by its parts."""
    net, optimizer = trainer.net, trainer.optimizer
    interim = optimizer.param_groups[0].get("nesterov") == "interim"
    with optimizer.interim_point() if interim else contextlib.nullcontext():
        loss, grads = net.value_and_grad(x, y, trainer.loss)
    optimizer.step(grads)
    return loss


def state_of(trainer):
    """Parameters, moments and counts by name, as copies."""
    state = trainer.optimizer.state_dict()
    named = {f"params[{k}]": a.copy() for k, a in enumerate(trainer.net.parameters())}
    named |= {f"{name} {k}": value for k, entry in state["state"].items() for name, value in entry.items()}
    return named | {name: state[name] for name in ("steps", "accumulated")} | {"skipped": trainer.optimizer.skipped}


def require_close(one, other, start, rtol, flips):
    """Parameters within rtol of the largest change (and their own rounding), moments within rtol of the largest.

    With `flips`, one element in a hundred may be off.
    """
    found, wanted = state_of(one), state_of(other)
    assert found.keys() == wanted.keys()
    change = max(np.abs(wanted[name] - a).max() for name, a in start.items())
    assert change > 0
    for name, want in wanted.items():
        if isinstance(want, np.ndarray):
            largest = np.abs(want).max()
            bound = rtol * change + 4 * np.finfo(want.dtype).eps * largest if name in start else rtol * largest
            off = np.count_nonzero(~(np.abs(found[name] - want) <= bound))
            assert off <= (max(1, want.size // 100) if flips else 0), name
        else:
            assert found[name] == pytest.approx(want, rel=1e-12), name


def check_twins(network, rule, dtype, n, bad_at=(), **options):
    one, other = twins(network, rule, dtype, **options)
    start = {f"params[{k}]": a.copy() for k, a in enumerate(one.net.parameters())}
    flips = rule == "Lion" and dtype == np.float32
    rtol = SIGN_RTOL if flips else RTOL[dtype]
    refusal = pytest.raises(FloatingPointError) if options.get("check_finite") == "raise" else contextlib.nullcontext()
    for number in range(STEPS):
        x, y = batch(one.net, n, number, number in bad_at)
        y = targets_of(one, y)
        if number in bad_at:
            for step in (one.step, functools.partial(step_apart, other)):
                with refusal:
                    step(x, y)
        else:
            assert one.step(x, y) == pytest.approx(step_apart(other, x, y), rel=10 * rtol)
    require_close(one, other, start, rtol, flips)
    assert one.optimizer.grad_norm == pytest.approx(other.optimizer.grad_norm, rel=rtol, nan_ok=True)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("rule", "options"), KERNELS, ids=str)
def test_a_step_of_any_rule_equals_gradient_and_update(rule, options, network, dtype):
    for n in BATCHES:
        check_twins(network, rule, dtype, n, **{**options, "maximize": False})  # which runs away with momentum


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("options", SURROUNDED)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_with_what_surrounds_it_equals_gradient_and_update(rule, options, network, dtype):
    options = SURROUNDED[options]
    bad_at = (4, 11) if "check_finite" in options else ()
    for n in (3, 33):
        check_twins(network, rule, dtype, n, bad_at, **options)


# ---------------------------------------------------------------- a refused step has not happened


def overflowing(net):
    """A batch whose gradient overflows in the first layer and is finite in all that backward meets before."""
    x, y = batch(net, 8, 0)
    first = net.parameters()[0]
    first[:, 0] = 0
    x[:, 0] = np.finfo(net.dtype).max
    return x, 1000 * y


REFUSED = {
    "NaN in x": lambda net: batch(net, 8, 0, bad=True),
    "NaN in y": lambda net: (batch(net, 8, 0)[0], np.full((8, net.out_features), np.nan, net.dtype)),
    "overflow in the first layer": overflowing,
}


@pytest.mark.parametrize("network", ["20-37-5", "shortcut"])
@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"ema_decay": 0.9, "max_norm": 0.1}], ids=str)
@pytest.mark.parametrize(("rule", "own"), KERNELS, ids=str)
def test_a_refused_step_leaves_every_bit_and_the_run_goes_on(rule, own, options, what, network, dtype):
    one, other = twins(network, rule, dtype, check_finite="raise", **{**own, **options})
    x, y = REFUSED[what](one.net)
    REFUSED[what](other.net)
    for number in range(3):
        for each in (one, other):
            each.step(*batch(one.net, 8, number))
        if what.startswith("overflow"):
            for each in (one, other):
                each.net.parameters()[0][:, 0] = 0
        before = state_of(one)
        with pytest.raises(FloatingPointError):
            one.step(x, y)
        np.testing.assert_equal(state_of(one), before)
    for each in (one, other):
        each.step(*batch(one.net, 8, 3))
    np.testing.assert_equal(state_of(one), state_of(other))
