"""What `fit` tells and to whom: callbacks after epochs and batches, learning rates and times, the CSV log.

Pass criterion: the bits of a `fit` without callbacks, for a callback watches; a run that one has ended or interrupted
goes on as reliability.md promises.
"""

import copy
import csv
import pickle

import numpy as np
import pytest

import fastopt as fo
from fastopt import nn, schedules


def data(n=70, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5), rng.uniform(0.5, 2, n)


X, Y, WEIGHTS = data()
BATCHES = [(X[i : i + 15], Y[i : i + 15], WEIGHTS[i : i + 15]) for i in range(0, 70, 15)]


def make(optimizer="adam", seed=0, dtype=np.float32, **options):
    layers = [nn.Dense(4, 8), nn.BatchNorm(8, activation="relu"), nn.Dropout(0.3), nn.Dense(8, 3)]
    net = nn.Sequential(layers, rng=0, dtype=dtype)
    if options:
        optimizer = getattr(fo.optim, optimizer)(net.parameters(), **options)
    return nn.Trainer(net, "cross_entropy", optimizer, seed=seed)


def bits(trainer):
    """All that a run is made of."""
    arrays = [a.tobytes() for layer in trainer.net.layers for a in layer.arrays().values()]
    state = trainer.optimizer.state_dict()["state"]
    moments = [v.tobytes() if isinstance(v, np.ndarray) else v for entry in state.values() for v in entry.values()]
    return arrays, moments, trainer.epoch, trainer.compiled_training.position, trainer.compiled_training.batches


class EachBatch:
    """Keeps what it is told; calls `then` with the number of the batch."""

    def __init__(self, then=lambda trainer, batch: None):
        self.then, self.told = then, []

    def on_batch_end(self, trainer, epoch, batch, loss):
        assert epoch == trainer.epoch
        assert batch == trainer.compiled_training.batches
        self.told.append((epoch, batch, loss))
        return self.then(trainer, batch)


def fit(trainer, batches, epochs=3, **options):
    if batches:
        return trainer.fit(BATCHES, epochs=epochs, **options)
    return trainer.fit(X, Y, epochs, 15, sample_weight=WEIGHTS, **options)


rows_and_batches = pytest.mark.parametrize("batches", [False, True], ids=["rows", "iterable"])


# ---------------------------------------------------------------- after each batch


@rows_and_batches
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": "interim", "max_norm": 0.5}], ids=str)
def test_a_callback_sees_every_batch_and_changes_no_bit(batches, options):
    plain, watched = (make("SGD" if options else "adam", **options) for _ in range(2))
    watch = EachBatch()
    one, other = fit(plain, batches), fit(watched, batches, callbacks=watch)
    assert bits(plain) == bits(watched)
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-12)
    assert [told[:2] for told in watch.told] == [(epoch, 5 * epoch + k) for epoch in range(3) for k in range(1, 6)]


def test_a_batch_of_a_schedule_of_sizes_is_the_batch_of_that_number():
    sizes, watch, plain, watched = schedules.LinearDecay(30.0, 5.0, 8), EachBatch(), make(), make()
    plain.fit(X, Y, 3, sizes)
    watched.fit(X, Y, 3, sizes, callbacks=watch)
    assert bits(plain) == bits(watched)
    assert [batch for _, batch, _ in watch.told] == list(range(1, plain.compiled_training.batches + 1))


def test_the_loss_is_that_of_the_batch_before_its_update():
    watch, by_hand = EachBatch(), make()
    make().fit(BATCHES, epochs=2, callbacks=watch)
    assert [loss for _, _, loss in watch.told] == [by_hand.step(*batch) for batch in BATCHES * 2]


def test_a_rule_that_makes_its_own_steps_is_watched_as_well():
    watch, plain, watched = EachBatch(), make("NewtonCG", lr=0.5), make("NewtonCG", lr=0.5)
    fit(plain, False, epochs=2)
    fit(watched, False, epochs=2, callbacks=watch)
    assert bits(plain) == bits(watched)
    assert len(watch.told) == 10


@rows_and_batches
@pytest.mark.parametrize("true", [True, np.True_], ids=type)
def test_true_after_a_batch_ends_the_epoch_there_measures_it_and_ends_training(batches, true):
    watch, trainer, seen = EachBatch(lambda trainer, batch: true if batch == 7 else 1), make(), []
    history = fit(trainer, batches, 9, callbacks=[watch, lambda t, h: seen.append(t.epoch)], validation=(X, Y))
    assert (trainer.epoch, seen, len(watch.told)) == (2, [1, 2], 7)
    weights = [WEIGHTS[:15].sum(), WEIGHTS[15:30].sum()]  # of the first two batches of the iterable
    if batches:
        last = [loss for epoch, _, loss in watch.told if epoch == 1]
        assert history["loss"][1] == pytest.approx(np.average(last, weights=weights), rel=1e-6)
    assert [len(values) for values in history.values()] == [2, 2, 2]
    assert len(fit(trainer, batches, 1, callbacks=watch)["loss"]) == 1  # a new epoch, whole
    assert [batch for _, batch, _ in watch.told[7:]] == [8, 9, 10, 11, 12]


def test_the_best_epoch_is_restored_where_a_batch_ends_training():
    trainer, best = make(lr=0.5, optimizer="SGD"), []
    watch = EachBatch(lambda trainer, batch: batch == 33)
    keep = lambda t, h: best.append([a.copy() for a in t.net.parameters()])  # noqa: E731
    history = fit(trainer, False, 99, callbacks=[watch, keep], validation=(X, Y), patience=99)
    assert len(best) == 7
    for a, b in zip(trainer.net.parameters(), best[history.best_epoch], strict=True):
        np.testing.assert_array_equal(a, b)


@rows_and_batches
@pytest.mark.parametrize("at", [1, 5, 8])
def test_an_exception_after_a_batch_leaves_a_run_that_goes_on_with_the_bits_it_would_have_had(batches, at, tmp_path):
    def fail(trainer, batch):
        if batch == at:
            raise KeyError("mine")

    held = {"validation": (X[:20], Y[:20]), "patience": 9}
    whole, broken = make(), make()
    fit(whole, batches, 4, **held)
    with pytest.raises(KeyError, match="mine"):
        fit(broken, batches, 4, callbacks=EachBatch(fail), **held)
    assert broken.compiled_training.batches == at
    broken.save(tmp_path / "run.safetensors")
    resumed = make()
    resumed.resume(tmp_path / "run.safetensors")
    for one in (broken, resumed):
        fit(one, batches, 4 - one.epoch, **held)
        assert bits(one) == bits(whole)


@rows_and_batches
def test_a_run_saved_after_a_batch_goes_on_in_another_process_from_that_batch(batches, tmp_path):
    path, whole = tmp_path / "run.safetensors", make()
    fit(whole, batches, callbacks=EachBatch(lambda trainer, batch: trainer.save(path) if batch == 7 else None))
    resumed, watch = make(seed=5), EachBatch()
    resumed.resume(path)
    fit(resumed, batches, epochs=2, callbacks=watch)
    assert bits(resumed) == bits(whole)
    assert [batch for _, batch, _ in watch.told] == list(range(8, 16))


def test_objects_are_asked_for_both_methods_and_an_object_that_has_them_is_not_called_itself():
    class Both:
        def __init__(self):
            self.told = []

        def on_epoch_end(self, trainer, history):
            self.told.append(len(history["loss"]))
            return len(self.told) > 7

        def on_batch_end(self, trainer, epoch, batch, loss):
            self.told.append("batch")

        def __call__(self, trainer, history):
            raise AssertionError

    both = Both()
    history = fit(make(), True, 9, callbacks=both)
    assert both.told == [*["batch"] * 5, 1, *["batch"] * 5, 2]
    assert len(history["loss"]) == 2
    with pytest.raises(TypeError, match=r"^callbacks: expected an object, got the class Both; pass one made of it"):
        fit(make(), True, callbacks=Both)
    with pytest.raises(
        TypeError, match=r"^callbacks: expected functions of \(trainer, history\), or objects with on_e"
    ):
        fit(make(), True, callbacks=[both, 3])


# ---------------------------------------------------------------- learning rates and times


def test_the_history_has_the_rate_of_the_last_update_of_each_epoch():
    cosine = schedules.Cosine(0.1, 15)
    history = fit(make("SGD", lr=cosine), False)
    assert history.lr == [cosine(5), cosine(10), cosine(15)]
    assert fit(make("SGD", lr=0.25), True).lr == [0.25] * 3
    plateau = schedules.ReduceOnPlateau(1.0, patience=0, factor=0.5, threshold=10.0)  # falls after each epoch but one
    assert fit(make("SGD", lr=plateau), False, 4).lr == [1.0, 1.0, 0.5, 0.25]

    def halve(trainer, history):
        trainer.optimizer.param_groups[0]["lr"] /= 2

    assert fit(make("SGD", lr=1.0), False, callbacks=halve).lr == [1.0, 0.5, 0.25]
    assert fit(make("SGD", lr=cosine, accumulate=10), True, 2).lr == [cosine(1), cosine(1)]  # the first is yet to come


class Clock:
    """A clock that goes one second a look."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("fastopt.nn.progress.time.perf_counter", self)

    def __call__(self):
        self.now += 1
        return self.now


def test_the_history_has_the_seconds_of_each_epoch_without_what_callbacks_do_after_it(monkeypatch):
    clock = Clock(monkeypatch)

    def after_batch(trainer, batch):
        clock.now += 10

    def after_epoch(trainer, history):
        clock.now += 1000

    assert fit(make(), False, callbacks=after_epoch).seconds == [1.0] * 3
    assert fit(make(), False, callbacks=[after_epoch, EachBatch(after_batch)]).seconds == [51.0] * 3


@pytest.mark.parametrize("how", ["the same trainer", "a file", "a copy"])
def test_an_interrupted_epoch_has_the_seconds_of_all_its_parts(how, tmp_path, monkeypatch):
    clock, trainer, path = Clock(monkeypatch), make(), tmp_path / "run.safetensors"

    def interrupt(trainer, batch):
        clock.now += 10
        if batch == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trainer, False, callbacks=EachBatch(interrupt))
    if how == "a file":
        trainer.save(path)
        trainer = make()
        trainer.resume(path)
    if how == "a copy":
        trainer = copy.deepcopy(trainer)
    clock.now += 1000
    assert fit(trainer, False, 2).seconds == [22.0, 1.0]


def test_dropping_an_interrupted_epoch_drops_its_seconds(monkeypatch):
    clock, trainer = Clock(monkeypatch), make()

    def interrupt(trainer, batch):
        clock.now += 10
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trainer, False, callbacks=EachBatch(interrupt))
    trainer.abandon_fit()
    assert fit(trainer, False, 1).seconds == [1.0]


def test_a_file_saved_after_a_batch_holds_the_seconds_so_far_and_one_between_epochs_none(tmp_path, monkeypatch):
    clock, path = Clock(monkeypatch), tmp_path / "run.safetensors"

    def save(trainer, batch):
        clock.now += 10
        if batch == 2:
            trainer.save(path)

    trainer = make()
    fit(trainer, True, 1, callbacks=EachBatch(save))
    _, document = fo._files.read(path, "trainer")
    assert document["seconds"] == 21.0
    trainer.save(path)
    _, document = fo._files.read(path, "trainer")
    assert "seconds" not in document


def test_a_history_keeps_rates_and_times_when_pickled_and_equals_another_with_the_same_losses():
    history = fit(make("SGD", lr=0.5), True)
    again = pickle.loads(pickle.dumps(history))
    assert (again, again.lr, again.seconds) == (history, history.lr, history.seconds)
    assert fit(make("SGD", lr=0.5), True) == history


# ---------------------------------------------------------------- the CSV log


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_has_a_line_an_epoch_with_all_digits_of_the_history(tmp_path):
    path, lines = tmp_path / "log.csv", []

    def count(trainer, history):
        lines.append(len(path.read_text().splitlines()))

    how = {"validation": (X, Y), "metrics": "zero_one_loss"}
    history = fit(make("SGD", lr=schedules.Cosine(0.1, 99)), False, callbacks=[nn.CSVLogger(path), count], **how)
    assert lines == [2, 3, 4]  # in the file when the next callback is called
    logged = read(path)
    assert list(logged[0]) == ["epoch", "lr", "seconds", *history]
    assert [line["epoch"] for line in logged] == ["1", "2", "3"]
    for name, values in {"lr": history.lr, "seconds": history.seconds, **history}.items():
        assert [float(line[name]) for line in logged] == values


def test_the_log_of_a_run_that_goes_on_is_that_of_one_without_a_break(tmp_path):
    whole, parts, saved = tmp_path / "whole.csv", tmp_path / "parts.csv", tmp_path / "run.safetensors"
    fit(make(), False, 4, callbacks=nn.CSVLogger(whole))
    trainer = make()
    fit(trainer, False, 2, callbacks=nn.CSVLogger(parts))
    trainer.save(saved)
    resumed = make()
    resumed.resume(saved)
    fit(resumed, False, 2, callbacks=nn.CSVLogger(parts))
    one, other = ([{**line, "seconds": ""} for line in read(path)] for path in (whole, parts))
    assert one == other


def test_a_log_of_other_columns_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "log.csv"
    fit(make(), False, 1, callbacks=nn.CSVLogger(path))
    before, trainer = path.read_bytes(), make()
    with pytest.raises(
        ValueError, match=r"log\.csv: expected the columns 'epoch,lr,seconds,loss,val_loss,val_accuracy', got "
    ):
        fit(trainer, False, 1, validation=(X, Y), callbacks=nn.CSVLogger(path))
    assert path.read_bytes() == before
    assert trainer.epoch == 1


@pytest.mark.parametrize("content", [b"no log", b"a,b\r1,2\r", b"\xff\x00\n", b"epoch,lr,seconds,loss\r\n"], ids=str)
def test_a_file_that_is_no_log_stays_as_it_is(content, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.csv: expected the columns 'epoch,lr,seconds,loss', got '"):
        fit(make(), False, 1, callbacks=nn.CSVLogger(path))
    assert path.read_bytes() == content


def test_names_of_metrics_may_be_any_text(tmp_path):
    path, name = tmp_path / "log.csv", 'größe, "x"\ny'
    torn = f'epoch,lr,seconds,loss,"{name}"'.encode()[:-7]
    path.write_bytes(torn)  # in the midst of a letter
    fit(make(), False, 2, callbacks=nn.CSVLogger(path), metrics={name: "accuracy"})
    assert [line["epoch"] for line in read(path)] == ["1", "2"]
    assert set(read(path)[0]) == {"epoch", "lr", "seconds", "loss", name}


@pytest.mark.parametrize(
    ("whole", "torn"), [("", "epoch,lr,sec"), ("epoch,lr,seconds,loss\n1,0.001,0.5,1.25\n", "2,0.0")], ids=str
)
def test_a_line_that_a_crash_has_cut_short_is_taken_out(whole, torn, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(whole + torn)
    fit(make(), False, 1, callbacks=nn.CSVLogger(path))
    assert path.read_text().startswith(whole or "epoch,lr,seconds,loss\n")
    assert [line["epoch"] for line in read(path)] == ["1"] * (2 if whole else 1)


def test_a_log_that_cannot_be_written_is_an_error_before_training(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        nn.CSVLogger(tmp_path / "nowhere" / "log.csv")
