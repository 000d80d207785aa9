"""What a Trainer and its optimizer must not lose between them: an epoch cut in two, a copy, another thread.

Pass criterion: equal in every bit.
"""

import contextlib
import copy
import threading

import numpy as np
import pytest

import fastopt as fo


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
