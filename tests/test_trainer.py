"""What a Trainer and its optimizer must not lose between them: an epoch cut in two, a copy, another thread.

Pass criterion: equal in every bit. A step against its parts: after STEPS steps within RTOL of the
largest change of a parameter, and moments of the largest of their kind.
"""

import ast
import contextlib
import copy
import functools
import json
import linecache
import math
import os
import pathlib
import pickle
import signal
import sys
import threading

import numpy as np
import pytest
from pairs import pairwise
from reference import KERNELS, RULES

import fastopt as fo
from fastopt._kernels import core
from fastopt.nn.files import arrays_of
from fastopt.optim import named


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
        ready, calls = broken.optimizer.prepare, []

        def interrupted():
            calls.append(0)
            if len(calls) == 3:
                raise KeyboardInterrupt
            ready()

        patch.setattr(broken.optimizer, "prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            broken.fit(*rows(), epochs=1, batch_size=16)
    broken.save(tmp_path / "run.safetensors")
    resumed = new()
    resumed.resume(tmp_path / "run.safetensors")
    assert resumed.fit(*rows(), epochs=3, batch_size=16)["loss"] == history["loss"]
    for a, b in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


PACKAGE = pathlib.Path(fo.__file__).parent
APART = (
    "nn/trainer.py",
    "nn/fitting.py",
    "nn/epochs.py",
    "nn/fit_data.py",
    "nn/early_stopping.py",
    "nn/run_files.py",
    "nn/progress.py",
    "nn/tuning.py",
)
APART += (
    "optim/newton_cg.py",
    "optim/state.py",
    *(f"newton/{path.name}" for path in (PACKAGE / "newton").glob("*.py")),
)


@pytest.mark.parametrize("path", APART)
def test_network_optimizer_and_what_trains_them_meet_in_public_names_only(path):
    found = [node for node in ast.walk(ast.parse((PACKAGE / path).read_text())) if isinstance(node, ast.Attribute)]
    private = [a for a in found if a.attr.startswith("_") and not a.attr.endswith("__") and a.attr != "_replace"]
    others = [ast.unparse(a) for a in private if not (isinstance(a.value, ast.Name) and a.value.id == "self")]
    assert found or path.endswith("__init__.py")
    assert not others


def test_a_trainer_calls_its_compiled_program_itself_and_a_rule_may_put_steps_of_its_own_in_its_place():
    plain = make()
    assert plain.optimizer.stepper(plain._training) is plain._stepper is plain._training

    class Twice(fo.optim.SGD):
        """A rule that steps twice on every batch."""

        def stepper(self, training):
            class Stepper:
                def step(self, x, y, sample_weight=None, in_epoch=False):
                    training.step(x, y, sample_weight)
                    return training.step(x, y, sample_weight, in_epoch)

                def run(self, x, targets, weights, order, sizes, seconds):
                    rows = order[training.position : training.position + sizes[0]]
                    self.step(x[rows], targets[rows], None if weights is None else weights[rows], True)

            return Stepper()

    one, other = make(), make()
    twice = fo.nn.Trainer(other.net, other.loss, Twice(other.net.parameters()))
    X, y = rows()
    for i in (0, 30):
        for _ in range(2):
            one.step(X[i : i + 30], y[i : i + 30])
    twice.fit(X[:60], y[:60], batch_size=30, shuffle=False)
    assert (twice.epoch, twice.optimizer.steps) == (1, 4)
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
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
    assert one._training.max_batch == 200  # room for the rows there are


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
        with pytest.raises(FloatingPointError, match=r"loss: expected one .*, got nan; .*the step has not been taken"):
            one.step(bad, Y)
        with pytest.raises(FloatingPointError, match="loss: expected one that is defined"):
            one.fit(bad, Y, batch_size=500)
        for got, want in zip(arrays_of(net).values(), arrays_of(kept.net).values(), strict=True):
            np.testing.assert_array_equal(got, want)
        np.testing.assert_equal(one.optimizer.state_dict(), state)
        assert one.step(X, Y) == kept.step(X, Y)  # draws as if nothing had been


def test_a_validation_loss_that_is_not_defined_is_a_bad_epoch():
    one = make(lr=0.01)
    X, Y = rows()
    bad = X.copy()
    bad[0, 0] = np.nan
    history = one.fit(X, Y, epochs=2, validation=(bad, Y))
    assert np.isnan(history["val_loss"]).all()


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


@pairwise(case=KERNELS, network=NETWORKS, dtype=RTOL)
def test_a_step_of_any_rule_equals_gradient_and_update(case, network, dtype):
    rule, options = case
    for n in BATCHES:
        check_twins(network, rule, dtype, n, **{**options, "maximize": False})  # which runs away with momentum


@pairwise(rule=RULES, options=SURROUNDED, network=NETWORKS, dtype=RTOL)
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


@pairwise(
    case=KERNELS,
    options=[{}, {"accumulate": 2}, {"ema_decay": 0.9, "max_norm": 0.1}],
    what=REFUSED,
    network=["20-37-5", "shortcut"],
    dtype=RTOL,
)
def test_a_refused_step_leaves_every_bit_and_the_run_goes_on(case, options, what, network, dtype):
    rule, own = case
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


# ---------------------------------------------------------------- interrupted anywhere, saved, resumed


def stopping_run(batches=False):
    """A trainer with everything a run has, and the arguments of its fit: early stopping ends it after some epochs."""
    layers = [fo.nn.Dense(3, 8, "tanh"), fo.nn.BatchNorm(8), fo.nn.Dropout(0.2), fo.nn.Dense(8, 2)]
    net = fo.nn.Sequential(layers, rng=0)
    lr = fo.schedules.ReduceOnPlateau(0.01, patience=0, factor=0.7)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.Adam(net.parameters(), lr=lr), seed=3)
    X, noise = rows(60)
    Y = np.sin(X[:, :2]) + 0.2 * noise
    data = (
        {"X": [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)]} if batches else {"X": X, "y": Y, "batch_size": 20}
    )
    held = (X[:15] + 0.5, Y[:15])
    return trainer, {**data, "validation": held, "patience": 3}


def everything(trainer):
    """All that a run is made of."""
    state = trainer.optimizer.state_dict()
    return [[a.copy() for a in arrays_of(trainer.net).values()], state, trainer.epoch, trainer._training.batches]


class InterruptAt:
    """Ctrl-C before the k-th line of the Trainer's (and the schedules') code that runs."""

    MODULES = (
        fo.nn.trainer,
        fo.nn.fitting,
        fo.nn.epochs,
        fo.nn.early_stopping,
        fo.nn.fit_data,
        fo.nn.progress,
        fo.schedules,
    )
    FILES = tuple(module.__file__ for module in MODULES)

    def __init__(self, k):
        self.k, self.seen = k, 0

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in self.FILES or frame.f_code.co_name in ("_at", "<genexpr>", "_alone"):
            return None
        if event == "line" and "with self._alone" not in (linecache.getline(*at(frame)) or ""):
            self.seen += 1
            if self.seen == self.k:
                raise KeyboardInterrupt
        return self

    def run(self, call):
        """Whether the interrupt came."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def at(frame):
    return frame.f_code.co_filename, frame.f_lineno


@pytest.mark.parametrize("batches", [False, True], ids=["rows", "iterable"])
def test_a_fit_interrupted_at_any_line_saved_and_resumed_equals_one_without_a_break(batches, tmp_path, monkeypatch):
    monkeypatch.setattr("fastopt.nn.trainer.SLICE", 0.0)  # a batch at a time
    whole, options = stopping_run(batches)
    history = whole.fit(epochs=30, **options)
    assert 4 < whole.epoch < 30
    want, shown, k, saved = everything(whole), 0, 0, tmp_path / "run"
    while True:
        k += 1 if k < 60 else 29  # the first lines one by one
        broken, options = stopping_run(batches)
        if not InterruptAt(k).run(lambda broken=broken, options=options: broken.fit(epochs=30, **options)):
            break
        shown += broken._stopping.best is not None and broken._stopping.best.last is not None
        broken.save(saved)
        resumed, options = stopping_run(batches)
        resumed.seed = 9
        resumed.resume(saved)
        np.testing.assert_equal(everything(resumed), everything(broken))
        if resumed.epoch == whole.epoch and resumed._stopping.best is None:  # all that was left was to return
            np.testing.assert_equal(everything(resumed), want)
            continue
        last = resumed.fit(epochs=30 - resumed.epoch, **options)
        np.testing.assert_equal(everything(resumed), want)
        assert last.best_loss == history.best_loss
        assert last.best_epoch is None or last["val_loss"][last.best_epoch] == history.best_loss
    assert k > 300
    assert shown > 10


def interrupted(epoch=10):
    """A trainer whose fit was interrupted by a callback, and the networks and the best epoch that it saw."""
    trainer, arguments = stopping_run()
    seen = []

    def stop(trainer, history):
        seen.append([a.copy() for a in arrays_of(trainer.net).values()])
        if len(seen) == epoch:
            seen.append(history.best_epoch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(epochs=30, callbacks=stop, **arguments)
    return trainer, arguments, seen[:-1], seen[-1]


WAYS = {
    "as it is": lambda trainer, path: trainer,
    "a copy": lambda trainer, path: copy.deepcopy(trainer),
    "pickled": lambda trainer, path: pickle.loads(pickle.dumps(trainer)),
    "saved": lambda trainer, path: resumed(trainer, path),
}


def resumed(trainer, path):
    trainer.save(path)
    other = stopping_run()[0]
    other.resume(path)
    return other


@pytest.mark.parametrize("epoch", [1, 5, 10, 12])  # of 12, the ninth being the best
@pytest.mark.parametrize("way", WAYS)
def test_after_an_interrupt_the_network_shows_the_best_epoch_and_training_goes_on_from_the_last(way, epoch, tmp_path):
    trainer, options, seen, best = interrupted(epoch)
    trainer = WAYS[way](trainer, tmp_path / "run")
    np.testing.assert_equal(list(arrays_of(trainer.net).values()), seen[best])
    whole, _ = stopping_run()
    history = whole.fit(epochs=30, **options)
    assert (whole.epoch, history.best_epoch) == (12, 8)
    rest = trainer.fit(epochs=30 - epoch, **options)
    np.testing.assert_equal(everything(trainer), everything(whole))
    assert rest.get("loss", []) == history["loss"][epoch:]
    assert rest.best_loss == history.best_loss
    assert rest.best_epoch == (8 - epoch if epoch <= 8 else None)


def test_a_step_after_an_interrupt_starts_from_the_last_step_and_a_refused_one_shows_the_best_again():
    trainer, options, seen, best = interrupted()
    x, y = rows(20)
    for bad in (x[:0], np.full_like(x, np.nan)):
        with pytest.raises((ValueError, FloatingPointError)):
            trainer.step(bad, y[: len(bad)])
        np.testing.assert_equal(list(arrays_of(trainer.net).values()), seen[best])
    whole, _ = stopping_run()
    whole.fit(epochs=10, **{**options, "patience": None})
    assert trainer.step(x, y) == whole.step(x, y)
    np.testing.assert_equal(everything(trainer), everything(whole))


def test_parameters_changed_after_an_interrupt_are_trained_on_and_early_stopping_starts_anew():
    trainer, options, _, _ = interrupted()
    trainer.net.layers[0].weight[0, 0] += 1
    whole = copy.deepcopy(trainer)
    whole.abandon_fit()
    assert trainer.fit(epochs=2, **options) == whole.fit(epochs=2, **options)
    np.testing.assert_equal(everything(trainer), everything(whole))


def test_an_abandoned_fit_leaves_the_best_epoch_and_starts_an_epoch_of_its_own():
    trainer, options, seen, best = interrupted()
    trainer.abandon_fit()
    np.testing.assert_equal(list(arrays_of(trainer.net).values()), seen[best])
    assert trainer.epoch == 10  # the interrupt came after the epoch
    history = trainer.fit(epochs=1, **options)
    assert history.best_epoch == 0


def test_the_rest_of_an_interrupted_epoch_can_be_dropped(monkeypatch):
    monkeypatch.setattr("fastopt.nn.trainer.SLICE", 0.0)
    trainer = make(lr=0.1)
    trainer.abandon_fit()
    assert trainer.epoch == 0  # nothing was interrupted
    ready, calls = trainer.optimizer.prepare, []

    def stop():
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        ready()

    monkeypatch.setattr(trainer.optimizer, "prepare", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*rows(), batch_size=30)
    assert trainer._training.position == 30
    for name in ("seed", "epoch"):  # the order of the epoch depends on both
        with pytest.raises(ValueError, match=f"^{name}: expected to stay .* abandon_fit"):
            setattr(trainer, name, 7)
    with pytest.raises(ValueError, match=r"at least the 30 rows .* got 20; .* abandon_fit\(\)"):
        trainer.fit(*rows(20))
    with pytest.raises(ValueError, match=r"first batches of the 30 rows .* got 40; .* abandon_fit\(\)"):
        trainer.fit([rows(20), rows(20), rows(20)])
    with pytest.raises(ValueError, match=r"first batches of the 30 rows .* got 20; .* abandon_fit\(\)"):
        trainer.fit([rows(20)])
    trainer.abandon_fit()
    assert (trainer.epoch, trainer._training.position, trainer._training.loss_sum) == (1, 0, 0)
    trainer.fit(*rows(20))
    assert trainer.epoch == 2


# ---------------------------------------------------------------- numbers of a run file


def rewritten(path, change):
    """The run file with another document."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="numpy") as stream:
        arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        document = json.loads(stream.metadata()["fastopt"])
    change(document, arrays)
    save_file(arrays, path, {"fastopt": json.dumps(document)})


BAD_NUMBERS = {
    **{
        name: (-1, 2**53 + 1, 2**63, 2**64, 1.0, "3", None, True, [1], math.nan)
        for name in ("epoch", "position", "batches")
    },
    "seed": (-1, 2**128, 0.5, "3", None, False),
    "weight_sum": (-1, -1e-300, math.nan, math.inf, "1", None, True, 10**400),
    "seconds": (-1, math.nan, math.inf, "1", None, True, 10**400),
    "loss_sum": (math.nan, -math.inf, "1", None, True, -(10**400)),
    "early_stopping": (None, {}, [], 3, *({"loss": 1.0, "waited": bad} for bad in (-1, 2**63, 0.5, None, True))),
    "early_stopping ": ({"loss": bad, "waited": 1} for bad in (math.nan, -math.inf, "1", True, [1.0])),
    "calibrated": ("true", 1, 0, None, [], "missing"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_NUMBERS.items() for value in values])
def test_a_run_file_with_a_number_no_run_can_have_is_refused_before_anything_changes(name, value, tmp_path):
    def new():
        trainer, options = stopping_run()
        net = fo.nn.Sequential([fo.nn.Standardize(3), *trainer.net.layers], rng=0)
        return fo.nn.Trainer(net, "mse", fo.optim.Adam(net.parameters())), options

    saved, options = new()

    def stop(trainer, history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saved.fit(epochs=2, callbacks=stop, **options)
    saved.save(tmp_path / "run")

    def change(document, arrays):
        if name == "calibrated" and value == "missing":
            del document["layers"][0]["calibrated"]
        elif name == "calibrated":
            document["layers"][0]["calibrated"] = value
        else:
            assert name == "seconds" or document[name.strip()] is not None  # it is absent between epochs
            document[name.strip()] = value

    rewritten(tmp_path / "run", change)
    one, other = new()[0], new()[0]
    with pytest.raises(ValueError, match="does not fit this trainer"):
        one.resume(tmp_path / "run")
    np.testing.assert_equal(everything(one), everything(other))
    assert (one.seed, one._stopping.best, one.net.layers[0].calibrated) == (0, None, False)


@pytest.mark.parametrize("change", ["missing", "too many", "of another shape", "of both kinds"])
def test_a_run_file_whose_best_epoch_does_not_fit_is_refused_before_anything_changes(change, tmp_path):
    saved = interrupted()[0]
    saved.save(tmp_path / "run")

    def damage(document, arrays):
        name = next(name for name in arrays if name.startswith("last."))
        if change == "missing":
            del arrays[name]
        elif change == "too many":
            arrays[f"{name}.more"] = np.zeros(3)
        elif change == "of another shape":
            arrays[name] = np.zeros((1, 2), np.float32)
        else:
            arrays["best." + name.removeprefix("last.")] = arrays[name]

    rewritten(tmp_path / "run", damage)
    one, other = stopping_run()[0], stopping_run()[0]
    with pytest.raises(ValueError, match="does not fit this trainer"):
        one.resume(tmp_path / "run")
    np.testing.assert_equal(everything(one), everything(other))


def test_a_run_file_is_refused_by_a_network_with_a_read_only_array(tmp_path):
    saved, one, other = make(lr=0.1), make(lr=0.1, momentum=0.9), make(lr=0.1, momentum=0.9)
    saved.fit(*rows())
    saved.save(tmp_path / "run")
    one.net.layers[-1].bias.flags.writeable = False
    with pytest.raises(ValueError, match=r"layers\.1\.bias: expected a writable array"):
        one.resume(tmp_path / "run")
    np.testing.assert_equal(everything(one), everything(other))


def test_a_loss_of_infinity_is_a_run_that_resumes(tmp_path):
    trainer = make(lr=0.1)
    trainer._training.loss_sum, trainer._training.weight_sum, trainer._training.position = math.inf, 1.0, 1
    trainer.save(tmp_path / "run")
    other = make(lr=0.1)
    other.resume(tmp_path / "run")
    assert other._training.loss_sum == math.inf


# ---------------------------------------------------------------- what is checked once


def meddle(what, data):
    """A callback that spoils the caller's arrays after the first epoch."""

    def callback(trainer, history):
        for name in what:
            a = data[name]
            a[...] = 10**12 if a.dtype.kind == "i" else np.nan

    return callback


@pytest.mark.parametrize("kind", ["classes", "probabilities", "binary"])
def test_labels_weights_and_validation_changed_during_fit_do_not_matter(kind):
    results = []
    for spoiled in (False, True):
        x, y = rows(64)
        labels = y.argmax(axis=1) if kind == "classes" else (y > 0).astype(np.float32)
        data = {"y": labels, "w": np.ones(64, np.float32), "yv": labels[:9].copy(), "wv": np.ones(9, np.float32)}
        net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
        trainer = fo.nn.Trainer(net, "binary_cross_entropy" if kind == "binary" else "cross_entropy", "sgd")
        history = trainer.fit(
            x,
            data["y"],
            epochs=3,
            sample_weight=data["w"],
            validation=(x[:9], data["yv"], data["wv"]),
            callbacks=meddle(data if spoiled else (), data),
        )
        results.append((dict(history), everything(trainer)))
    np.testing.assert_equal(results[0], results[1])


def test_arrays_whose_shape_is_assigned_during_fit_stay_as_they_were():
    results = []
    for spoiled in (False, True):
        x, y = rows(64)

        def reshape(trainer, history, x=x, y=y, spoiled=spoiled):
            if spoiled:
                x.shape, y.shape = (3, 64), (1, 128)

        trainer = make(lr=0.1)
        history = trainer.fit(x, y, epochs=3, validation=(x, y), callbacks=reshape)
        results.append((dict(history), everything(trainer)))
    np.testing.assert_equal(results[0], results[1])


@pytest.mark.parametrize("call", ["fit", "resume", "abandon_fit"])
def test_a_callback_cannot_start_what_would_end_its_fit(call, tmp_path):
    trainer = make(lr=0.1)
    trainer.save(tmp_path / "run")
    arguments = {"fit": rows(), "resume": (tmp_path / "run",), "abandon_fit": ()}[call]
    refused = []

    def callback(trainer, history):
        with pytest.raises(RuntimeError, match="this trainer is training already"):
            getattr(trainer, call)(*arguments)
        refused.append(trainer.epoch)

    trainer.fit(*rows(), epochs=2, callbacks=callback)
    assert refused == [1, 2]
    getattr(trainer, call)(*arguments)  # afterwards all is well


def test_a_child_forked_inside_fit_trains_on(tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    trainer = make(lr=0.1)
    status = []

    def fork(trainer, history):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                trainer.fit(*rows())
                code = 0
            finally:
                os._exit(code)
        status.append(os.waitpid(child, 0)[1])

    trainer.fit(*rows(), callbacks=fork)
    assert status == [0]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in ("seed", "epoch") for v in ("abc", -1, 1.5, None, True)])
def test_an_assigned_seed_or_epoch_is_checked(name, value):
    trainer = make(lr=0.1)

    def callback(trainer, history):
        setattr(trainer, name, value)

    with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
        setattr(trainer, name, value)
    with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
        trainer.fit(*rows(), epochs=3, callbacks=callback)
    assert (trainer.seed, trainer.epoch) == (0, 1)


@pytest.mark.parametrize("name", ["net", "loss", "optimizer"])
def test_what_a_trainer_is_compiled_for_cannot_be_assigned(name):
    trainer = make(lr=0.1)
    before = getattr(trainer, name)
    with pytest.raises(AttributeError, match=f"^{name}: expected to stay, .*; make a new Trainer"):
        setattr(trainer, name, before)
    assert getattr(trainer, name) is before


# ---------------------------------------------------------------- what a Trainer takes


@pytest.mark.parametrize("rule", named.RULES)
def test_an_optimizer_can_be_named_in_any_case(rule):
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    for name in (rule, rule.lower(), rule.upper()):
        optimizer = fo.nn.Trainer(net, "mse", name).optimizer
        assert type(optimizer) is getattr(fo.optim, rule)
        assert optimizer.defaults == getattr(fo.optim, rule)(net.parameters()).defaults


@pytest.mark.parametrize("optimizer", ["adamm", "optimizer", "", fo.optim.Adam, None, 3])
def test_what_is_no_optimizer_is_named_with_what_is(optimizer):
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    with pytest.raises(TypeError, match=r"optimizer: expected .*optim\.Adam\(net\.parameters\(\)\).* NAdam, .*, got "):
        fo.nn.Trainer(net, "mse", optimizer)


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": "x"}, {"seed": 1.5}, {"max_batch": -1}, {"max_batch": 2.5}])
def test_a_seed_or_room_that_cannot_be_is_refused(options):
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: expected a whole number"):
        fo.nn.Trainer(net, "mse", "sgd", **options)
    assert fo.nn.Trainer(net, "mse", "sgd", seed=2**128 - 1).fit(*rows())["loss"]


def no_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    return {"progress": True}


REFUSED_FITS = {
    "batch size 0": {"batch_size": 0},
    "half a row": {"batch_size": 0.5},
    "a batch size in words": {"batch_size": "32"},
    "a batch size that is true": {"batch_size": True},
    "one row for BatchNorm": {"batch_size": 1},
    "a schedule that starts below one": {"batch_size": fo.schedules.Constant(0.2)},
    "epochs 0": {"epochs": 0},
    "epochs true": {"epochs": True},
    "epochs 2.0": {"epochs": 2.0},
    "callbacks of numbers": {"callbacks": [3]},
    "a callback that is a number": {"callbacks": 3},
    "a callback that is a word": {"callbacks": "abc"},
    "patience without validation": {"patience": 2},
    "patience 0": {"patience": 0, "validation": rows(9)},
    "patience true": {"patience": True, "validation": rows(9)},
    "validation without targets": {"validation": rows(9)[0]},
    "validation of four": {"validation": (*rows(9), None, None)},
    "validation of other columns": {"validation": (rows(9)[0][:, :2], rows(9)[1])},
    "validation of too few targets": {"validation": (rows(9)[0], rows(8)[1])},
    "validation with bad weights": {"validation": (*rows(9), -np.ones(9))},
    "validation with weights of nothing": {"validation": (*rows(9), np.zeros(9))},
    "weights below 0": {"sample_weight": -np.ones(90)},
    "no tqdm": no_tqdm,
    "lr below 0": {},
    "parameters at the interim point": {},
}


@pytest.mark.parametrize("case", REFUSED_FITS)
def test_a_refused_fit_has_changed_nothing_not_even_a_standardize(case, monkeypatch):
    layers = [fo.nn.Standardize(3), fo.nn.Dense(3, 4), fo.nn.BatchNorm(4), fo.nn.Dense(4, 2)]
    net = fo.nn.Sequential(layers, rng=0)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), momentum=0.9, nesterov="interim"))
    options = REFUSED_FITS[case](monkeypatch) if callable(REFUSED_FITS[case]) else REFUSED_FITS[case]
    if case == "lr below 0":
        trainer.optimizer.param_groups[0]["lr"] = -1.0
    away = trainer.optimizer.interim_point() if case.startswith("parameters") else contextlib.nullcontext()
    with away:
        before = everything(trainer)
        with pytest.raises((TypeError, ValueError, ImportError, RuntimeError)):
            trainer.fit(*rows(), **options)
        np.testing.assert_equal(everything(trainer), before)
    assert not net.layers[0].calibrated
    assert trainer.epoch == 0


def test_a_bad_batch_of_an_iterable_leaves_what_was_done_and_is_where_the_next_fit_goes_on():
    x, y = rows(60)
    good = [(x[i : i + 20], y[i : i + 20]) for i in (0, 20, 40)]
    whole = make(lr=0.1)
    history = whole.fit(good)
    for bad in (x[20:40], 3, (x[20:40],), (x[20:40, :2], y[20:40]), (x[20:40], y[:7]), {"x": x, "y": y}):
        trainer, other = make(lr=0.1), make(lr=0.1)
        with pytest.raises((TypeError, ValueError)):
            trainer.fit([good[0], bad, good[2]])
        other.step(*good[0])
        np.testing.assert_equal(everything(trainer), everything(other))
        assert trainer.fit(good) == history
        np.testing.assert_equal(everything(trainer), everything(whole))


def test_an_iterable_is_searched_for_nan_batch_by_batch():
    x, y = rows(40)
    bad = x.copy()
    bad[30, 1] = np.nan
    trainer, other = make(lr=0.1), make(lr=0.1)
    with pytest.raises(ValueError, match=r"^X: expected finite values, got nan at \(10, 1\)"):
        trainer.fit([(x[:20], y[:20]), (bad[20:], y[20:])], check_finite=True)
    other.step(x[:20], y[:20])
    np.testing.assert_equal(everything(trainer), everything(other))


def test_validation_rows_count_by_their_weight():
    x, y = rows(40)
    labels, weight = y.argmax(axis=1), np.linspace(0, 2, 40, dtype=np.float32)
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    history = fo.nn.Trainer(net, "cross_entropy", "sgd").fit(x, labels, validation=(x, labels, weight))
    assert history["val_loss"] == [net.evaluate(x, labels, sample_weight=weight)]
    assert history["val_accuracy"] == [fo.metrics.accuracy(labels, net.predict(x), sample_weight=weight)]


def test_gradients_that_wait_for_an_update_are_told_of_and_used_by_the_next_fit():
    x, y = rows(60)
    whole, parts = make(lr=0.1, accumulate=4), make(lr=0.1, accumulate=4)
    whole.fit(x, y, epochs=4, batch_size=20)  # 12 batches: whole updates
    before = [a.copy() for a in parts.net.parameters()]
    with pytest.warns(UserWarning, match="accumulate: expected a multiple of 4 batches, .* got 3 more; .* wait"):
        parts.fit(x, y, batch_size=20)
    np.testing.assert_equal(parts.net.parameters(), before)
    parts.optimizer.param_groups[0]["lr"] = 0.1
    with pytest.warns(UserWarning, match="got 2 more"):
        parts.fit(x, y, batch_size=20)
    parts.fit(x, y, epochs=2, batch_size=20)
    np.testing.assert_equal(everything(parts), everything(whole))


# ---------------------------------------------------------------- Ctrl-C in long calls


class Pressed(Exception):
    """What the handler of the alarm raises."""


@contextlib.contextmanager
def alarm(seconds):
    """A signal to this thread after so many seconds of the call inside."""

    def press(signum, frame):
        raise Pressed

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def long_rows():
    """A network and rows that keep it busy for seconds."""
    net = fo.nn.Sequential([fo.nn.Dense(8, 256, "gelu"), *(fo.nn.Dense(256, 256, "gelu") for _ in range(12))], rng=0)
    return net, np.ones((200_000, 8), np.float32)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_ends_predict_between_two_of_its_rows(threads, long_rows):
    net, X = long_rows
    out = np.full((len(X), 256), 7, np.float32)
    with fo.num_threads(threads), pytest.raises(Pressed), alarm(0.1):
        net.predict(X, out)
    assert (out[0] != 7).all()
    assert (out[-1] == 7).all()
    np.testing.assert_array_equal(net.predict(X[:300])[0], out[0])  # and the network is as good as before


def longest_calls():
    def standardized(net):
        return fo.nn.Sequential([*net.layers, fo.nn.Standardize(256)], rng=0)

    def fit(net, X):
        y = np.zeros((len(X), 256), np.float32)
        fo.nn.Trainer(net, "mse", "sgd").fit(X[:32], y[:32], validation=(X, y))

    return {
        "predict_proba": lambda net, X: net.predict_proba(X),
        "evaluate": lambda net, X: net.evaluate(X, np.zeros(len(X), np.int64)),
        "calibrate": lambda net, X: standardized(copy.deepcopy(net)).calibrate(X),
        "validation": lambda net, X: fit(copy.deepcopy(net), X),
    }


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
@pytest.mark.parametrize("call", longest_calls())
def test_a_signal_ends_what_predicts_long(call, long_rows, monkeypatch):
    finished = []
    predict = fo.nn.Sequential.predict
    monkeypatch.setattr(fo.nn.Sequential, "predict", lambda *args: (predict(*args), finished.append(0))[0])
    with pytest.raises(Pressed), alarm(0.2):
        longest_calls()[call](*long_rows)
    assert len(finished) < (4 if call == "calibrate" else 1)  # which predicts layer by layer, of 13


def test_a_fit_in_another_thread_is_refused_while_one_runs():
    trainer, refused = make(lr=0.1), []

    def fit():
        try:
            trainer.fit(*rows())
        except RuntimeError as error:
            refused.append(str(error))

    def callback(trainer, history):
        worker = threading.Thread(target=fit)
        worker.start()
        worker.join()

    trainer.fit(*rows(), epochs=2, callbacks=callback)
    assert trainer.epoch == 2
    assert len(refused) == 2
    assert all("training already" in text for text in refused)


@pytest.mark.parametrize("position", [-1, -(2**62), 90, 2**62])
def test_the_compiled_run_itself_refuses_a_position_outside_its_rows(position):
    trainer = make(lr=0.1)
    before = everything(trainer)
    trainer._training.position = position
    x, targets, weights = trainer._training.check(*rows())
    with pytest.raises(ValueError, match=f"X: expected more than the {position} rows"):
        trainer._training.run(x, targets, weights, np.arange(90), np.array([30]), 1.0)
    np.testing.assert_equal(everything(trainer), before)


def test_validation_leaves_out_the_rows_that_the_loss_ignores():
    X = np.random.default_rng(0).normal(size=(20, 3))
    y = np.arange(20) % 2
    marked = np.where(np.arange(20) < 5, -100, y)
    weight = (marked != -100).astype(float)
    histories = []
    for validation in ((X, marked), (X, y, weight)):
        net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), lr=0.1))
        histories.append(trainer.fit(X, y, epochs=3, validation=validation))
    assert dict(histories[0]) == dict(histories[1])
    assert np.isfinite(histories[0]["val_accuracy"]).all()


def test_a_validation_without_a_class_is_refused():
    net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    trainer, X, y = fo.nn.Trainer(net, "cross_entropy", "sgd"), rows()[0], np.arange(90) % 2
    with pytest.raises(ValueError, match="validation: expected rows with a class, got only the ignored label -100"):
        trainer.fit(X, y, validation=(X, np.full(len(X), -100)), patience=2)


@pytest.mark.parametrize("answer", [0.3, "go on", np.array([1, 2]), [0], None, False])
def test_only_true_ends_training(answer):
    trainer = make(lr=0.1)
    trainer.fit(*rows(), epochs=3, callbacks=lambda trainer, history: answer)
    assert trainer.epoch == 3
    trainer.fit(*rows(), epochs=3, callbacks=lambda trainer, history: np.True_)
    assert trainer.epoch == 4


def test_the_file_of_a_run_keeps_the_metadata_of_its_network(tmp_path):
    trainer, other = make(lr=0.1), make(lr=0.1)
    trainer.net.metadata = {"columns": ["a", "b"]}
    trainer.save(tmp_path / "run")
    assert fo.nn.load(tmp_path / "run").metadata == {"columns": ["a", "b"]}
    other.resume(tmp_path / "run")
    assert other.net.metadata == {"columns": ["a", "b"]}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("rule", "options"),
    [("SGD", {"momentum": 0.9, "nesterov": "interim"}), ("Adam", {}), ("AdamW", {"max_norm": 0.1}), ("Lion", {})],
)
def test_a_step_in_parts_has_the_bits_of_a_whole_one(rule, options, threads):
    def new():
        layers = [
            fo.nn.Dense(40, 300, activation="gelu", l2=0.01),
            fo.nn.BatchNorm(300),
            fo.nn.Dropout(0.2),
            fo.nn.Residual([fo.nn.Dense(300, 300, activation="relu", max_norm=1.0)]),
            fo.nn.Dense(300, 5),
        ]
        net = fo.nn.Sequential(layers, rng=0)
        return fo.nn.Trainer(net, "mse", getattr(fo.optim, rule)(net.parameters(), lr=0.01, **options))

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 40)).astype(np.float32), rng.normal(size=(64, 5)).astype(np.float32)
    whole, parted = new(), new()
    training = parted.compiled_training
    step, last = core.PartedStep(training), len(training.program.starts)
    with fo.num_threads(threads):
        for k in range(3):
            loss = whole.step(X, y)
            with parted.optimizer.compiled_update:
                step.start(X, y, None, 64, k)
                for stop in range(1, last):
                    step.forward(stop - 1, stop)
                assert step.forward(last - 1, last) == (loss, 64)
                for stop in range(last, 0, -1):
                    step.backward(stop - 1, stop)
                assert step.update(1.0)
    for name, a in arrays_of(parted.net).items():
        assert a.tobytes() == arrays_of(whole.net)[name].tobytes(), name
    np.testing.assert_equal(parted.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "softmax"])
def test_steps_in_parts_that_share_sums_are_one_step_on_all_rows(threads, activation, dtype):
    """What two ranks do: each has some of the rows, and adds up what the other has told."""

    def new():
        layers = [fo.nn.Dense(40, 300), fo.nn.BatchNorm(300, activation=activation), fo.nn.Dense(300, 5)]
        net = fo.nn.Sequential(layers, rng=0, dtype=dtype)
        return fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1))

    rng = np.random.default_rng(0)
    X, y = (rng.normal(10, 3, size=(300, 40)).astype(dtype), rng.normal(size=(300, 5)).astype(dtype))
    whole, ranks, shares = new(), [new(), new()], [slice(0, 150), slice(150, 300)]
    steps = [core.PartedStep(trainer.compiled_training) for trainer in ranks]
    sums = [step.share_sums() for step in steps]
    assert [list(a) for a in sums] == [[1], [1]]

    def add_up(lines):
        for theirs in lines[1:]:  # moments of as many rows each, then sums
            if len(theirs) == 4:
                delta = theirs[1] - lines[0][1]
                lines[0][2] += theirs[2] + delta**2 * lines[0][0] / 2
                lines[0][1] += delta / 2
                lines[0][0] += theirs[0]
            else:
                lines[0] += theirs
            theirs[...] = lines[0]

    with fo.num_threads(threads):
        whole.step(X, y)
        for step, rows in zip(steps, shares, strict=True):
            step.start(X[rows], y[rows], None, 150, 0)
            step.forward(0, 1)
        add_up([step.forward_sums(1) for step in steps])
        for step in steps:
            step.forward(1)
            step.backward(2, 3)
        add_up([step.backward_sums(1) for step in steps])
        for step in steps:
            step.backward(0, 2)
        total = sum(trainer.compiled_training.gradient for trainer in ranks)
        for trainer, step in zip(ranks, steps, strict=True):
            trainer.compiled_training.gradient[:] = total
            with trainer.optimizer.compiled_update:
                assert step.update(0.5)
    rtol = 2e-5 if dtype == np.float32 else 1e-12
    for name, a in arrays_of(whole.net).items():
        for trainer in ranks:
            np.testing.assert_allclose(
                arrays_of(trainer.net)[name], a, rtol=0, atol=rtol * max(0.1, abs(a).max()), err_msg=name
            )


def test_a_step_in_parts_can_be_given_up_at_an_interim_point():
    trainer = make(lr=0.1, momentum=0.9, nesterov="interim")
    trainer.fit(*rows(), batch_size=16)
    before = [a.copy() for a in trainer.net.parameters()]
    step = core.PartedStep(trainer.compiled_training)
    X, y = rows()
    with trainer.optimizer.compiled_update:
        step.start(X, y, None, len(X), 0)
        step.forward()
        assert not np.array_equal(trainer.net.parameters()[0], before[0])
        step.give_up()
    np.testing.assert_equal(trainer.net.parameters(), before)
    with pytest.raises(ValueError, match="training: expected one with an optimizer's update, got one without"):
        core.PartedStep(trainer.net.bind("mse", None, 1)).update(1.0)


class Reader:
    """An exchange with nobody, which notes what it is shown."""

    def __init__(self):
        self.seen = []

    def forward(self, parts, entry):
        self.seen.append([a.copy() for a in parts.values(entry)])

    def backward(self, parts, entry):
        self.seen.append([a.copy() for a in parts.gradients(entry) if a is not None])


class Exchanging(fo.nn.Dropout):
    """A layer that copies, with an exchange."""

    reader = Reader()

    def lay_out(self, layout, src):
        dst = layout.value(layout.shapes[src])
        layout.add("add", src, dst, exchange=self.reader)
        return dst


@pytest.mark.parametrize("input_shape", [(6,), (3, 3, 2)])
def test_an_exchange_sees_values_after_forward_and_their_gradients_before_backward(input_shape):
    from fastopt.nn.layers import LAYERS

    width = int(np.prod(input_shape))
    layers = [fo.nn.Flatten(), fo.nn.Dense(width, 4, "tanh"), Exchanging(0), fo.nn.Dense(4, 1)]
    if len(input_shape) == 3:
        layers = [fo.nn.Conv2d(2, 4, 3, padding=1), Exchanging(0), fo.nn.Conv2d(4, 3, 3, padding=1), *layers]
        layers[4] = fo.nn.Dense(27, 4, "tanh")
    LAYERS.pop("Exchanging", None)
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=input_shape)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1))
    program, step = trainer.compiled_training.program, core.PartedStep(trainer.compiled_training)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, *input_shape)), rng.normal(size=(5, 1))
    reader, entries = Reader(), [entry for entry, _ in program.exchanges]
    first, last = entries[0], len(program.starts)
    with trainer.optimizer.compiled_update:
        step.start(X, y, None, 5, 0)
        step.forward(0, first + 1)
        reader.forward(step, first)
        step.forward(first + 1, last)
        step.backward(first + 1, last)
        reader.backward(step, first)
        step.backward(0, first + 1)
        whole = [grad.copy() for grad in trainer.compiled_training.grads]
        (before, after), (gradient,) = reader.seen[0], reader.seen[1][-1:]
        assert before.shape == after.shape == gradient.shape == (5, *net._shapes[1 + (len(input_shape) == 1)])
        assert (before == after).all()
        # in two halves of the rows up to the exchange, whose gradients add up to those of all
        total = [np.zeros_like(grad) for grad in whole]
        step.start(X, y, None, 5, 0)
        for row, rows in ((0, 2), (2, 3)):
            step.forward(0, first + 1, row, rows)
        assert (step.values(first)[1] == after).all()
        step.forward(first + 1, last)
        step.backward(first + 1, last)
        for row, rows in ((0, 2), (2, 3)):
            step.backward(0, first + 1, row, rows)
            for a, grad in zip(total[:2], trainer.compiled_training.grads, strict=False):
                a += grad
        np.testing.assert_allclose(total[0], whole[0], rtol=1e-12, atol=1e-14)
    for call in (
        lambda: net.predict(X),
        lambda: trainer.step(X, y),
        lambda: trainer.fit(X, y),
        lambda: net.evaluate(X, y, "mse"),
    ):
        with pytest.raises(ValueError, match=r"for which ranks exchange data; parallel\.DataParallel trains"):
            call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_of_one_rank_lie_among_those_of_all(dtype):
    rng = np.random.default_rng(0)
    x, targets, others = (rng.normal(size=(70, n)).astype(dtype) for n in (3, 5, 5))
    weight = rng.normal(size=(2, 3)).astype(dtype)
    entries = [
        {"kind": "dense", "sources": (0,), "dst": 1, "weights": (weight,)},
        {"kind": "gather_columns", "sources": (1,), "dst": 2, "own": {"first": 2}},
    ]
    values = [{"shape": (3,)}, {"shape": (2,)}, {"shape": (5,)}]
    program = core.Program(values, entries, np.dtype(dtype).num)
    update = fo.optim.SGD([weight], lr=0.1).compiled_update
    training = core.Training(program, "mse", update, 70)
    step = core.PartedStep(training)
    with update:
        step.start(x, targets, None, 70, 0)
        part, whole = step.values(1)
        whole[...] = others
        step.forward()
        assert (whole[:, 2:4] == part).all()
        assert (whole[:, [0, 1, 4]] == others[:, [0, 1, 4]]).all()
        np.testing.assert_allclose(part, x @ weight.T, rtol=1e-5, atol=1e-6)
        gradient = step.gradients(1)[1].copy()
        np.testing.assert_allclose(gradient, 2 * (whole - targets) / whole.size, rtol=1e-5, atol=1e-8)
        step.backward(0, 2)
        np.testing.assert_allclose(training.grads[0], gradient[:, 2:4].T @ x, rtol=1e-4, atol=1e-6)
        assert np.isclose(step.squares([0]), np.square(training.grads[0]).sum(), rtol=1e-5)
    for first in (4, -1):
        entries[1]["own"] = {"first": first}
        with pytest.raises(ValueError, match="first: expected"):
            core.Program(values, entries, np.dtype(dtype).num)


def test_gradients_lie_in_one_block_each_from_a_cache_line_on():
    trainer = make(lr=0.1)
    training = trainer.compiled_training
    trainer.fit(*rows(), batch_size=16)
    assert training.gradient.flags.c_contiguous
    for grad, param in zip(training.grads, trainer.net.parameters(), strict=True):
        assert np.shares_memory(grad, training.gradient)
        assert grad.shape == param.shape
        assert grad.ctypes.data % 64 == 0
    assert training.gradient.size == training.program.starts[-1] + 32  # of the last layer: 8 weights and 2 biases
