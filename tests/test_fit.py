"""Training: steps, epochs, early stopping, interrupts, and the digits. More of the Trainer alone: test_trainer.py.

Pass criterion: bits equal wherever one run is promised to equal another; test accuracy
of at least 0.97 on the digits, on three seeds.
"""

import functools
import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

import fastopt as fo
from fastopt.nn import trainer as trainer_module

ACCURACY = 0.97
OPTIMIZERS = {
    "SGD": lambda params: fo.optim.SGD(params, lr=0.05),
    "momentum": lambda params: fo.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda params: fo.optim.Adam(params, lr=0.01),
    "amsgrad": lambda params: fo.optim.Adam(params, lr=0.01, amsgrad=True),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def rows(n=100, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(2, 3, (n, 4)).astype(dtype)
    return X, (X.sum(axis=1) > 8).astype(np.int64) + (X[:, 0] > 2)


def make(small_net, optimizer="Adam", seed=0, dtype=np.float32, loss="cross_entropy", **options):
    net = small_net(dtype=dtype, seed=seed)
    return fo.nn.Trainer(net, loss, OPTIMIZERS[optimizer](net.parameters()), **options)


def assert_same(one, other):
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(flat(one.optimizer.state_dict()), flat(other.optimizer.state_dict()), strict=True):
        np.testing.assert_array_equal(a, b)


def flat(state_dict):
    return [value for entry in state_dict["state"].values() for value in entry.values()]


@functools.cache
def digits():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


# ---------------------------------------------------------------- steps


@every_optimizer
@pytest.mark.parametrize("n", [1, 7, 32, 500])
def test_a_step_is_value_and_grad_and_an_optimizer_step_bit_for_bit(optimizer, n, dtype, small_net):
    one, other = (make(small_net, optimizer, dtype=dtype, max_batch=16) for _ in range(2))
    X, y = rows(n, dtype)
    weight = np.random.default_rng(0).uniform(0.5, 2, n)
    for w in (None, weight, None):
        loss = one.step(X, y, w)
        want, grads = other.net.value_and_grad(X, y, sample_weight=w)
        other.optimizer.step(grads)
        assert loss == want
    assert_same(one, other)


def test_a_refused_step_changes_nothing(small_net):
    one, other = make(small_net), make(small_net)
    X, y = rows(8)
    for bad in ((X[:, :3], y), (X, y + 7), (X, y[:5]), (X[:0], y[:0]), (X, y.astype(float)), (X, y, -np.ones(8))):
        with pytest.raises((TypeError, ValueError)):
            one.step(*bad)
    one.optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        one.step(X, y)
    one.optimizer.param_groups[0]["lr"] = 0.01
    assert_same(one, other)
    assert one.step(X, y) == other.step(X, y)


def test_an_optimizer_over_other_arrays_is_refused(small_net):
    net, other = small_net(), small_net()
    for params in (other.parameters(), net.parameters()[::-1], net.parameters()[:-1]):
        with pytest.raises(ValueError, match=r"net\.parameters\(\)"):
            fo.nn.Trainer(net, "mse", fo.optim.SGD(params))


# ---------------------------------------------------------------- fit


@pytest.mark.parametrize(("n", "batch"), [(100, 32), (100, 100), (100, 1000), (101, 10), (3, 1), (300, 256)])
def test_an_epoch_without_shuffling_is_its_batches_one_by_one(n, batch, small_net):
    one, other = make(small_net, max_batch=64), make(small_net, max_batch=64)
    X, y = rows(n)
    history = one.fit(X, y, epochs=2, batch_size=batch, shuffle=False)
    for epoch in range(2):
        losses = [(other.step(X[i : i + batch], y[i : i + batch]), len(X[i : i + batch])) for i in range(0, n, batch)]
        assert history["loss"][epoch] == pytest.approx(sum(a * b for a, b in losses) / n, rel=1e-12)
    assert_same(one, other)


def test_shuffling_visits_every_row_once_an_epoch_in_an_order_of_its_own(small_net):
    X, y = rows(64)
    orders = []
    for seed in (0, 0, 1):
        trainer = make(small_net, seed=0)
        trainer.seed = seed
        trainer.fit(X, y, epochs=1, batch_size=8)
        orders.append(trainer.net.parameters()[0].tobytes())
    assert orders[0] == orders[1] != orders[2]
    # every row once: with lr 0 the epoch's loss is the loss of the whole set
    trainer = make(small_net)
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    history = trainer.fit(X, y, epochs=2, batch_size=7)
    assert history["loss"] == pytest.approx([trainer.net.evaluate(X, y)] * 2, rel=1e-6)


def test_weighted_rows_count_by_their_weight(small_net):
    X, y = rows(60)
    weight = np.random.default_rng(1).uniform(0, 2, 60)
    weight[::4] = 0
    one, other = make(small_net), make(small_net)
    one.fit(X, y, epochs=2, batch_size=20, sample_weight=weight, shuffle=False)
    for _ in range(2):
        for i in range(0, 60, 20):
            other.step(X[i : i + 20], y[i : i + 20], weight[i : i + 20])
    assert_same(one, other)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_soft_and_real_targets_train(loss, small_net):
    X, y = rows(90)
    trainer = make(small_net, loss=loss)
    history = trainer.fit(X, np.eye(3)[y], epochs=30, batch_size=16)
    assert history["loss"][-1] < 0.7 * history["loss"][0]


class Batches:
    """An iterable that starts anew for each epoch, of batches of several sizes."""

    def __init__(self, X, y, weight=None):
        self.parts = [
            (X[i:j], y[i:j], *(() if weight is None else (weight[i:j],))) for i, j in ((0, 9), (9, 50), (50, 64))
        ]

    def __iter__(self):
        return iter(self.parts)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_iterable_of_batches_is_its_batches_one_by_one(weighted, small_net):
    batches = Batches(*rows(64), *([np.linspace(0.1, 1, 64)] * weighted))
    one, other = make(small_net), make(small_net)
    history = one.fit(batches, epochs=3)
    for _ in range(3):
        for batch in batches:
            other.step(*batch)
    assert_same(one, other)
    assert len(history["loss"]) == 3


def test_an_iterator_that_runs_dry_is_an_error(small_net):
    trainer = make(small_net)
    with pytest.raises(ValueError, match="start anew"):
        trainer.fit(iter(Batches(*rows(64))), epochs=2)


def test_early_stopping_restores_the_parameters_of_the_best_epoch(small_net):
    trainer = make(small_net)
    X, y = rows()
    Xv, yv = rows(50, seed=9)
    seen = []

    def watch(trainer, history):
        seen.append([a.copy() for a in trainer.net.parameters()])
        # from the fourth epoch on, learning goes uphill
        trainer.optimizer.param_groups[0]["maximize"] = len(seen) >= 4

    history = trainer.fit(X, y, epochs=100, batch_size=16, validation=(Xv, yv), patience=3, callbacks=watch)
    best = int(np.argmin(history["val_loss"]))
    assert history.best_epoch == best
    assert len(history["loss"]) == best + 1 + 3 < 100
    for a, b in zip(trainer.net.parameters(), seen[best], strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainer.net.evaluate(Xv, yv) == history["val_loss"][best]


def test_an_exception_restores_the_best_epoch_too(small_net):
    trainer = make(small_net, "SGD")
    seen, losses = [], []

    def watch(trainer, history):
        seen.append([a.copy() for a in trainer.net.parameters()])
        losses[:] = history["val_loss"]
        trainer.optimizer.param_groups[0]["maximize"] = True
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*rows(), epochs=9, validation=rows(50, seed=9), patience=5, callbacks=watch)
    best = int(np.argmin(losses))
    assert best < 3
    for a, b in zip(trainer.net.parameters(), seen[best], strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_is_recorded_without_patience(small_net):
    trainer = make(small_net)
    Xv, yv = rows(50, seed=9)
    history = trainer.fit(*rows(), epochs=3, validation=(Xv, yv))
    assert history["val_loss"][-1] == trainer.net.evaluate(Xv, yv)
    assert history["val_accuracy"][-1] == (trainer.net.predict(Xv).argmax(axis=1) == yv).mean()
    assert [len(values) for values in history.values()] == [3, 3, 3]


def test_callbacks_see_every_epoch_and_one_that_returns_true_ends_training(small_net):
    trainer = make(small_net)
    seen = []
    second = lambda trainer, history: len(history["loss"]) == 4  # noqa: E731
    history = trainer.fit(*rows(), epochs=9, callbacks=[lambda t, h: seen.append((t.epoch, len(h["loss"]))), second])
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert len(history["loss"]) == 4


def test_a_progress_bar_is_shown_where_asked(small_net, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    make(small_net).fit(*rows(), epochs=2, progress=True)
    assert "2.0/2 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"patience": 3}, "validation"),
        ({"validation": rows(5), "patience": 0}, "patience"),
        ({"sample_weight": -np.ones(100)}, "sample_weight"),
        ({"validation": (rows(5)[0][:, :2], rows(5)[1])}, "expected shape"),
    ],
    ids=str,
)
def test_a_fit_that_cannot_be_is_refused_before_anything_changes(options, match, small_net):
    one, other = make(small_net), make(small_net)
    with pytest.raises(ValueError, match=match):
        one.fit(*rows(), **options)
    assert_same(one, other)


@pytest.mark.parametrize("where", ["X", "y"])
def test_check_finite_refuses_data_before_anything_changes(where, small_net):
    one, other = make(small_net, loss="mse"), make(small_net, loss="mse")
    data = {"X": rows()[0], "y": np.zeros((100, 3), np.float32)}
    data[where][41, 2] = np.inf
    with pytest.raises(ValueError, match=rf"{where}: .*\(41, 2\)"):
        one.fit(**data, check_finite=True)
    assert_same(one, other)


# ---------------------------------------------------------------- interrupts


def test_ctrl_c_arrives_inside_an_epoch():
    X = np.ones((60_000, 16), np.float32)
    net = fo.nn.Sequential(
        [fo.nn.Dense(16, 1024, activation="relu"), fo.nn.Dense(1024, 1024), fo.nn.Dense(1024, 2)], rng=0
    )
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters()))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, np.zeros(60_000, np.int64), epochs=1000)
    timer.join()
    assert trainer.epoch == 0
    assert 0 < trainer._training.position < 60_000  # between slices, not at an epoch's end


def test_a_slice_is_short_enough_for_ctrl_c():
    assert trainer_module.SLICE <= 0.1


def test_ctrl_c_parts_no_update_from_its_position(small_net, monkeypatch):
    monkeypatch.setattr(trainer_module, "SLICE", 0.005)
    X, y = rows(20_000)
    broken, whole = make(small_net), make(small_net)

    def press():
        while broken._training.position == 0:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        broken.fit(X, y, epochs=10_000, batch_size=8)
    thread.join()
    epochs = broken.epoch + 1
    broken.fit(X, y, epochs=1, batch_size=8)
    whole.fit(X, y, epochs=epochs, batch_size=8)
    assert_same(broken, whole)


def test_the_history_does_not_depend_on_where_slices_end(small_net, monkeypatch):
    histories = []
    for seconds in (0.0, 100.0):
        monkeypatch.setattr(trainer_module, "SLICE", seconds)
        histories.append(make(small_net).fit(*rows(1000), epochs=2, batch_size=8))
    assert histories[0] == histories[1]


def interrupt_after(trainer, slices, monkeypatch):
    """The trainer's slices become one batch long, and Ctrl-C comes after so many."""
    monkeypatch.setattr(trainer_module, "SLICE", 0.0)
    send, count = trainer.optimizer.prepare, itertools.count(-1)  # fit asks once before its first slice

    def counted():
        if next(count) == slices:
            raise KeyboardInterrupt
        send()

    monkeypatch.setattr(trainer.optimizer, "prepare", counted)


@every_optimizer
@pytest.mark.parametrize("slices", [2, 4, 5])  # 4 batches an epoch: inside one, at its end, inside the next
def test_save_and_resume_after_an_interrupt_continue_bit_for_bit(optimizer, slices, small_net, tmp_path, monkeypatch):
    X, y = rows(100)
    whole = make(small_net, optimizer)
    whole.fit(X, y, epochs=3, batch_size=32)
    broken = make(small_net, optimizer)
    with monkeypatch.context() as patch:
        interrupt_after(broken, slices, patch)
        with pytest.raises(KeyboardInterrupt):
            broken.fit(X, y, epochs=3, batch_size=32)
    broken.save(tmp_path / "run.safetensors")
    resumed = make(small_net, optimizer, seed=5)
    resumed.resume(tmp_path / "run.safetensors")
    resumed.fit(X, y, epochs=3 - resumed.epoch, batch_size=32)
    assert_same(resumed, whole)


@every_optimizer
def test_save_and_resume_between_epochs_continue_bit_for_bit(optimizer, small_net, tmp_path, dtype):
    X, y = rows(100, dtype)
    whole, first = make(small_net, optimizer, dtype=dtype), make(small_net, optimizer, dtype=dtype)
    whole.fit(X, y, epochs=4)
    first.fit(X, y, epochs=2)
    first.save(tmp_path / "run.safetensors")
    second = make(small_net, optimizer, seed=3, dtype=dtype, max_batch=7)
    second.optimizer.param_groups[0]["lr"] = 0.5
    second.resume(tmp_path / "run.safetensors")
    second.fit(X, y, epochs=2)
    assert_same(second, whole)
    assert second.epoch == 4


def test_an_interrupted_epoch_refuses_fewer_rows_than_it_has_used(small_net, monkeypatch):
    trainer = make(small_net)
    with monkeypatch.context() as patch:
        interrupt_after(trainer, 2, patch)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(*rows(100))
    with pytest.raises(ValueError, match=r"^X: expected at least the 64 rows the interrupted epoch used, got 63"):
        trainer.fit(*rows(63))


# ---------------------------------------------------------------- the main job


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_learned(seed):
    pytest.importorskip("sklearn", reason="scikit-learn, whose digits these are, is not installed")
    X, y = digits()
    order = np.random.default_rng(seed).permutation(len(X))
    train, validation, test = np.split(order, [1200, 1450])
    net = fo.nn.Sequential(
        [
            fo.nn.Standardize(64),
            fo.nn.Dense(64, 128, activation="relu"),
            fo.nn.Dense(128, 64, activation="relu"),
            fo.nn.Dense(64, 10),
        ],
        rng=seed,
    )
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()), seed=seed)
    with fo.num_threads(1):  # the fewer, the less the test depends on what else the machine does
        trainer.fit(X[train], y[train], epochs=60, validation=(X[validation], y[validation]), patience=10)
    assert (net.predict(X[test]).argmax(axis=1) == y[test]).mean() >= ACCURACY


def test_the_same_seed_gives_the_same_file_with_one_and_two_threads(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(700, 64)), rng.integers(0, 10, 700)
    contents = []
    for threads in (1, 2, 2):
        net = fo.nn.Sequential(
            [fo.nn.Standardize(64), fo.nn.Dense(64, 128, activation="gelu"), fo.nn.Dense(128, 10)], rng=7
        )
        with fo.num_threads(threads):
            fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()), seed=7).fit(
                X, y, epochs=3, batch_size=64
            )
        net.save(tmp_path / "m.safetensors")
        contents.append((tmp_path / "m.safetensors").read_bytes())
    assert contents[0] == contents[1] == contents[2]
