"""DataParallel: the same steps as one worker, the same bits on all ranks, one error on all of them."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from mpi4py import MPI

import fastopt as fo
from fastopt import nn, optim, schedules
from fastopt.parallel import DataParallel

B = 8  # rows of a rank's batch


def several(comm):
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")


def data(n, rng, n_in=6, n_out=3):
    X = rng.normal(size=(n, n_in)).astype(np.float32)
    return X, rng.integers(0, n_out, n)


def network(dtype=np.float32, seed=0, width=10, regularized=False):
    extra = [nn.Dropout(0.3), nn.Dense(10, 10, l2=0.01, l1=0.001, max_norm=0.5)] * regularized
    layers = [nn.Dense(6, width, activation="relu"), *extra, nn.Dense(width, 7, activation="tanh"), nn.Dense(7, 3)]
    return nn.Sequential(layers, rng=seed, dtype=dtype)


def trainer(rule=optim.Adam, net=None, loss="cross_entropy", seed=3, **options):
    net = net or network()
    return nn.Trainer(net, loss, rule(net.parameters(), **options), seed=seed)


def bits(trained):
    return [a.tobytes() for a in trained.net.parameters()]


def require_equal_on_all(comm, trained):
    comm.agree("bits", {str(k): text.hex() for k, text in enumerate(bits(trained))})


RULES = [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": "interim"}),
    (optim.Adam, {"lr": 0.01}),
    (optim.AdamW, {"lr": schedules.Power(0.02, 0.1), "max_norm": 0.1}),
    (optim.RMSprop, {"lr": 0.01, "clip_value": 0.01, "ema_decay": 0.9}),
    (optim.Adam, {"check_finite": "raise"}),
]


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_ordered_steps_have_the_bits_of_one_worker_that_accumulates(comm, dtype, rule, options):
    rng = np.random.default_rng(1)
    alone = trainer(rule, network(dtype, regularized=True), accumulate=comm.size, **options)
    together = trainer(rule, network(dtype, regularized=True), **options)
    parallel = DataParallel(together)
    for _ in range(5):
        X, y = data(B * comm.size, rng)
        losses = [alone.step(X[k : k + B], y[k : k + B]) for k in range(0, len(X), B)]
        mine = slice(B * comm.rank, B * (comm.rank + 1))
        assert np.isclose(parallel.step(X[mine], y[mine]), np.mean(losses), rtol=1e-12)
    assert bits(together) == bits(alone)
    assert together.optimizer.steps == alone.optimizer.steps == 5


def test_ordered_epochs_have_the_bits_of_one_worker_that_accumulates(comm):
    X, y = data(B * comm.size * 6, np.random.default_rng(2))
    Xv, yv = data(37, np.random.default_rng(3))
    options = {"epochs": 4, "batch_size": B, "validation": (Xv, yv), "patience": 2}
    rate = schedules.ReduceOnPlateau(0.05, patience=0)
    alone, together = trainer(lr=rate, accumulate=comm.size), trainer(lr=schedules.ReduceOnPlateau(0.05, patience=0))
    expected, history = alone.fit(X, y, **options), DataParallel(together).fit(X, y, **options)
    assert history == expected
    assert history.best_epoch == expected.best_epoch
    assert bits(together) == bits(alone)


@pytest.mark.parametrize("reduce", ["ordered", "fast"])
@pytest.mark.parametrize("n", [B * 7 + 3, 5, 1])
def test_uneven_epochs_are_those_of_one_worker_with_the_batch_of_all(comm, reduce, n):
    X, y = data(n, np.random.default_rng(4))
    w = np.random.default_rng(5).uniform(0, 2, n) * (np.arange(n) % 5 > 0 if n > 5 else 1)
    alone, together = (trainer(optim.SGD, network(np.float64), lr=0.1) for _ in range(2))
    options = {"sample_weight": w, "epochs": 3, "shuffle": False}
    expected = alone.fit(X, y, batch_size=B * comm.size, **options)
    history = DataParallel(together, reduce=reduce).fit(X, y, batch_size=B, **options)
    assert np.allclose(history["loss"], expected["loss"], rtol=1e-12)
    for a, b in zip(together.net.parameters(), alone.net.parameters(), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-12)
    if reduce == "ordered":
        require_equal_on_all(comm, together)


def test_ranks_may_have_no_rows(comm):
    several(comm)
    X, y = data(B, np.random.default_rng(6))
    alone, together = trainer(), trainer()
    parallel = DataParallel(together)
    for _ in range(3):
        rows = slice(0, B if comm.rank == comm.size - 1 else 0)
        assert parallel.step(X[rows], y[rows]) == alone.step(X, y)
    assert bits(together) == bits(alone)
    with pytest.raises(ValueError, match=r"^x: expected at least one row on some rank, got none$"):
        parallel.step(X[:0], y[:0])


@pytest.mark.parametrize("reduce", ["ordered", "fast"])
@pytest.mark.parametrize("n_in", [6, 20000])  # of which each rank adds up all, or a slice
def test_gradients_that_cancel_to_nan_are_left_out_where_numpy_raises(comm, reduce, n_in):
    several(comm)
    net = nn.Sequential([nn.Dense(n_in, 2)], rng=0)
    trained = trainer(optim.SGD, net, "mse", lr=0.1, check_finite="skip")
    parallel, before = DataParallel(trained, reduce=reduce), bits(trained)
    X = np.zeros((B, n_in), np.float32)
    X[:, 0], y = (-1) ** comm.rank * 1e30, np.full((B, 2), 1e37, np.float32)
    with np.errstate(all="raise"):
        parallel.step(X[: B - comm.rank], y[: B - comm.rank])
    assert bits(trained) == before
    assert trained.optimizer.steps == 0


def test_batches_of_their_own_may_end_sooner_on_some_ranks(comm):
    rng = np.random.default_rng(7)
    everyones = [[data(B, rng) for _ in range(1 + rank)] for rank in range(comm.size)]
    alone, together = (trainer(optim.SGD, network(np.float64), lr=0.1) for _ in range(2))
    history = DataParallel(together).fit(everyones[comm.rank], epochs=2)
    for _ in range(2):
        for k in range(comm.size):
            alone.step(*(np.concatenate(a) for a in zip(*(b[k] for b in everyones if k < len(b)), strict=True)))
    assert len(history["loss"]) == 2
    for a, b in zip(together.net.parameters(), alone.net.parameters(), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-12)
    require_equal_on_all(comm, together)


def test_ranks_and_accumulation_together_take_the_mean_of_all(comm):
    X, y = data(B * comm.size * 2, np.random.default_rng(21))
    alone = trainer(net=network(np.float64), accumulate=2 * comm.size)
    together = trainer(net=network(np.float64), accumulate=2)
    alone.fit(X, y, epochs=3, batch_size=B)
    DataParallel(together).fit(X, y, epochs=3, batch_size=B)
    assert together.optimizer.steps == alone.optimizer.steps == 3
    for a, b in zip(together.net.parameters(), alone.net.parameters(), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-9)


def test_images_and_statistics_of_batches_train_together(comm):
    rng = np.random.default_rng(8)
    X, y = rng.normal(size=(4 * comm.size * 3, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, 12 * comm.size)

    def make(**options):
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm(4, activation="relu"), nn.MaxPool2d(2), nn.Flatten()]
        net = nn.Sequential([*layers, nn.Dense(64, 3)], rng=0, input_shape=(8, 8, 1))
        return trainer(net=net, **options)

    alone, together = make(accumulate=comm.size), make()
    alone.fit(X, y, epochs=2, batch_size=4)
    parallel, layer = DataParallel(together), together.net.layers[1]
    parallel.fit(X, y, epochs=1, batch_size=4)
    assert len(set(comm.gathered("averages", layer.running_var.tobytes()))) == 1
    parallel.fit(X, y, epochs=1, batch_size=4)
    assert bits(together) == bits(alone)
    if comm.size == 1:
        assert layer.running_var.tobytes() == alone.net.layers[1].running_var.tobytes()
    mine = slice(4 * comm.rank, 4 * comm.rank + 4)
    parallel.step(X[mine], y[mine])
    assert len(set(comm.gathered("averages", layer.running_var.tobytes()))) == comm.size
    parallel.fit(X, y, batch_size=4)  # from averages that all ranks have
    comm.agree("averages", {"mean": layer.running_mean.tobytes().hex(), "var": layer.running_var.tobytes().hex()})


def test_sums_in_shared_memory_and_by_messages_in_any_buckets_have_the_same_bits(comm, monkeypatch):
    from fastopt.parallel import stepper

    X, y = data(2 * B * comm.size - 3, np.random.default_rng(9))  # the last batches are uneven
    found = []
    for size in (None, 1, 64, 1 << 20):
        if size is not None:
            monkeypatch.setattr(stepper, "share_gradient", lambda *args: None)
            monkeypatch.setattr(stepper, "BUCKET", size)
        trained = trainer()
        parallel = DataParallel(trained)
        parallel.fit(X, y, epochs=3, batch_size=B)
        found.append((len(parallel._stepper.segments), bits(trained)))
    assert [buckets for buckets, _ in found] == [1, 3, 3, 1]
    assert all(same == found[0][1] for _, same in found)


def test_a_forked_child_steps_beside_its_parent(comm):
    X, y = data(B * comm.size, np.random.default_rng(9))
    mine = slice(comm.rank * B, (comm.rank + 1) * B)
    found = []
    for forks in (False, True):
        trained = trainer()
        parallel = DataParallel(trained)
        for _ in range(30):
            if forks and comm.rank == 0 and (child := os.fork()) == 0:
                trained.step(-X[mine], y[mine])
                os._exit(0)
            parallel.step(X[mine], y[mine])
            if forks and comm.rank == 0:
                assert os.waitpid(child, 0)[1] == 0
        found.append(bits(trained))
    assert found[0] == found[1]


@pytest.mark.parametrize("options", [{}, {"reduce": "fast"}, {"batch_norm": "synchronized"}])
def test_batches_that_count_differently_are_accumulated_as_on_one_worker(comm, options):
    rng = np.random.default_rng(11)
    X, y = rng.normal(size=(5 * B * comm.size - 5, 6)), rng.integers(0, 3, 5 * B * comm.size - 5)

    def make():
        norm = [nn.BatchNorm(10)] if "batch_norm" in options else []
        layers = [nn.Dense(6, 10, "tanh", l2=0.01), *norm, nn.Dense(10, 3)]
        return trainer(net=nn.Sequential(layers, rng=0, dtype=np.float64), accumulate=2)

    alone, together = make(), make()
    parallel = DataParallel(together, **options)
    with pytest.warns(UserWarning, match="accumulate"):
        alone.fit(X, y, epochs=3, batch_size=B * comm.size)
    with pytest.warns(UserWarning, match="accumulate"):
        parallel.fit(X, y, epochs=3, batch_size=B)
    for a, b in zip(alone.net.parameters(), together.net.parameters(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("reduce", ["ordered", "fast"])
def test_several_of_one_trainer_may_take_turns(comm, reduce):
    X, y = data(B * comm.size, np.random.default_rng(12))
    one, other = trainer(), trainer()
    single = DataParallel(one, reduce=reduce)
    first, second = DataParallel(other, reduce=reduce), DataParallel(other, reduce=reduce)
    for parallel in (first, second, first):
        single.fit(X, y, epochs=2, batch_size=B)
        parallel.fit(X, y, epochs=2, batch_size=B)
    assert bits(one) == bits(other)


def test_ranks_that_have_used_different_rows_do_not_save(comm, tmp_path):
    several(comm)
    folder = comm.gathered("folder", str(tmp_path).encode())[0].decode()

    def batches():
        for number in range(2):
            yield data(B + comm.rank, np.random.default_rng(number))
        raise OSError("no more")

    parallel = DataParallel(trainer())
    with pytest.raises(OSError, match="no more"):
        parallel.fit(Again(batches))
    with pytest.raises(ValueError, match="rows of the epoch under way: expected the same on all ranks"):
        parallel.save(f"{folder}/run.safetensors")


class Again:
    """An iterable that starts anew."""

    def __init__(self, start):
        self.start = start

    def __iter__(self):
        return self.start()


def test_a_rank_without_batches_waits_for_the_others(comm):
    several(comm)
    parallel = DataParallel(trainer())
    batches = [] if comm.rank == 0 else [data(B, np.random.default_rng(comm.rank))]
    assert len(parallel.fit(batches, epochs=2)["loss"]) == 2
    with pytest.raises(ValueError, match="expected batches, got none"):
        parallel.fit([])


def test_fit_in_another_thread_ends_as_in_the_main_one(comm):
    X, y = data(B * comm.size, np.random.default_rng(13))
    parallel, failed = DataParallel(trainer()), []
    parallel.fit(X, y, batch_size=B)

    def fit():
        try:
            parallel.fit(X, y, batch_size=B)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert not failed


def test_a_forked_child_is_none_of_the_ranks(comm):
    parallel = DataParallel(trainer())
    child = os.fork()
    if child == 0:
        try:
            parallel.predict(np.ones((3, 6)))
        except RuntimeError as error:
            os._exit(0 if "forked child" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_step_that_is_not_finite_is_left_out_on_all_ranks(comm):
    X, y = data(B, np.random.default_rng(10))
    bad = X.copy()
    bad[0, 0] = np.nan
    for options, error in (({}, r"^loss: "), ({"check_finite": "raise"}, r"^grads\[0\]: ")):
        trained = trainer(**options)
        parallel, before = DataParallel(trained), bits(trained)
        with pytest.raises(FloatingPointError, match=error):
            parallel.step(bad if comm.rank == comm.size - 1 else X, y)
        assert bits(trained) == before
        parallel.step(X, y)
        require_equal_on_all(comm, trained)
    trained = trainer(check_finite="skip")
    parallel, before = DataParallel(trained), bits(trained)
    parallel.step(bad if comm.rank == 0 else X, y)
    assert bits(trained) == before
    assert trained.optimizer.skipped == 1


# ---------------------------------------------------------------- ranks that differ


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"net": lambda: network(seed=1)}, r"^layers\.0\.weight: expected the same on all ranks.*same rng"),
        ({"net": lambda: network(width=11)}, r"^layers\.0: expected the same.*out_features=10, "),
        ({"net": lambda: network(np.float64)}, r"^dtype: .* got float32 on rank 0 and float64 on rank 1"),
        ({"rule": optim.SGD}, r"^rule: .* got Adam on rank 0 and SGD on rank 1"),
        ({"lr": 0.5}, r"^options of the optimizer: "),
        ({"max_norm": 1.0}, r"^options of the optimizer: "),
        ({"loss": nn.CrossEntropy(label_smoothing=0.1)}, r"^loss: "),
        ({"seed": 4}, r"^seed: "),
    ],
)
def test_what_differs_at_the_start_is_named_on_all_ranks(comm, other, named):
    several(comm)
    mine = {name: value() if name == "net" else value for name, value in other.items()} if comm.rank == 1 else {}
    with pytest.raises(ValueError, match=named):
        DataParallel(trainer(**mine))


def test_moments_and_parameters_that_have_parted_are_named(comm):
    several(comm)
    X, y = data(B, np.random.default_rng(11))
    trained = trainer()
    parallel = DataParallel(trained)
    parallel.step(X, y)
    if comm.rank == 1:
        trained.optimizer._states[0]["exp_avg"][0, 0] += 1
    with pytest.raises(ValueError, match=r"^optimizer\.0\.exp_avg: "):
        parallel.fit(X, y)


def test_options_of_fit_that_differ_are_named(comm):
    several(comm)
    X, y = data(B, np.random.default_rng(12))
    parallel = DataParallel(trainer())
    for mine, named in (
        ({"epochs": 2}, "epochs"),
        ({"batch_size": 4}, "batch_size"),
        ({"shuffle": False}, "shuffle"),
        ({"validation": (X, y)}, "validation X: shape"),
    ):
        with pytest.raises(ValueError, match=rf"^{named}: "):
            parallel.fit(X, y, **(mine if comm.rank == 1 else {}))
    with pytest.raises(ValueError, match=r"^X: rows: .* takes its share of the same rows"):
        parallel.fit(X + comm.rank, y)


def test_data_of_unlike_width_raise_one_error_on_all_ranks(comm):
    several(comm)
    X, y = data(B, np.random.default_rng(13))
    parallel = DataParallel(trainer())
    wide = np.ones((B, 7), np.float32) if comm.rank == 1 else X
    for call in (parallel.step, parallel.fit):
        with pytest.raises(ValueError, match=r"^rank 1: x: expected shape \(n, 6\), got"):
            call(wide, y)
    with pytest.raises(ValueError, match=r"^rank 1: x: expected shape \(n, 6\), got"):
        parallel.fit([(X, y), (wide, y)])
    assert parallel.step(X, y) > 0


def test_a_rank_that_raises_in_a_callback_ends_fit_on_all(comm):
    several(comm)
    X, y = data(4 * B, np.random.default_rng(14))
    trained = trainer()
    parallel = DataParallel(trained)

    def callback(trainer, history):
        if comm.rank == 1:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="rank 1: 'mine'"):
        parallel.fit(X, y, epochs=3, callbacks=callback)
    assert trained.epoch == 1
    require_equal_on_all(comm, trained)


def test_an_interrupt_on_one_rank_ends_fit_on_all_and_fit_goes_on_with_the_bits_it_would_have_had(comm):
    X, y = data(9 * B, np.random.default_rng(22))
    whole, stopped = trainer(), trainer()
    DataParallel(whole).fit(X, y, epochs=4, batch_size=B)
    parallel, calls = DataParallel(stopped), []

    def interrupt(trainer, history):
        calls.append(1)
        if len(calls) == 2 and comm.rank == comm.size - 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        parallel.fit(X, y, epochs=4, batch_size=B, callbacks=interrupt)
    assert stopped.epoch == 2
    parallel.fit(X, y, epochs=2, batch_size=B)
    assert bits(stopped) == bits(whole)


def test_an_interrupt_within_an_epoch_leaves_all_ranks_at_the_same_step(comm):
    several(comm)
    X, y = data(400 * B, np.random.default_rng(23))
    trained = trainer()
    parallel = DataParallel(trained)
    if comm.rank == 1:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        before = signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        parallel.fit(X, y, epochs=10**6, batch_size=B)
    if comm.rank == 1:
        signal.signal(signal.SIGALRM, before)
    training = trained.compiled_training
    comm.agree("place", {"position": str(training.position), "epoch": str(trained.epoch)})
    require_equal_on_all(comm, trained)
    assert parallel.step(X[:B], y[:B]) > 0


def test_a_wish_to_stop_of_one_rank_stops_all(comm):
    X, y = data(4 * B, np.random.default_rng(15))
    history = DataParallel(trainer()).fit(
        X, y, epochs=9, callbacks=lambda t, h: comm.rank == comm.size - 1 and len(h["loss"]) == 2
    )
    assert len(history["loss"]) == 2


def test_objects_are_called_after_epochs_and_none_after_batches(comm, tmp_path):
    X, y = data(4 * B, np.random.default_rng(24))
    path = tmp_path / "log.csv"
    logger = nn.CSVLogger(path) if comm.rank == 0 else []
    history = DataParallel(trainer()).fit(X, y, epochs=2, callbacks=logger)
    if comm.rank == 0:
        assert len(path.read_text().splitlines()) == 3
    assert len(history.lr) == len(history.seconds) == 2

    class EachBatch:
        def on_batch_end(self, trainer, epoch, batch, loss):
            raise AssertionError

    trained = trainer()
    with pytest.raises(ValueError, match=r"callbacks: expected none with on_batch_end on several ranks, .* EachBatch"):
        DataParallel(trained).fit(X, y, callbacks=EachBatch())
    assert trained.compiled_training.batches == 0


def test_metrics_are_those_of_one_worker_on_all_ranks(comm):
    X, y = data(4 * B, np.random.default_rng(25))
    held, wanted = data(30, np.random.default_rng(26)), {"metrics": "zero_one_loss"}
    trained = trainer()
    parallel = DataParallel(trained)
    history = parallel.fit(X, y, epochs=2, batch_size=B, validation=held, **wanted)
    for name, rows in (("zero_one_loss", (X, y)), ("val_zero_one_loss", held)):
        alone = trained.net.evaluate(*rows, trained.loss, **wanted)["zero_one_loss"]
        assert history[name][-1] == pytest.approx(alone, rel=1e-6)
        assert parallel.evaluate(*rows, **wanted)["zero_one_loss"] == pytest.approx(alone, rel=1e-6)
    several(comm)
    with pytest.raises(ValueError, match="metrics"):
        parallel.fit(X, y, metrics="accuracy" if comm.rank else None)


def test_a_slow_rank_is_waited_for(comm):
    X, y = data(B, np.random.default_rng(16))
    parallel = DataParallel(trainer())
    if comm.rank == comm.size - 1:
        time.sleep(0.5)
    assert parallel.step(X, y) > 0


def test_ranks_that_call_different_methods_are_told_so(comm, tmp_path):
    several(comm)
    X, y = data(B, np.random.default_rng(17))
    parallel = DataParallel(trainer())
    with pytest.raises(RuntimeError, match=r"got 'step' on rank 0 and 'save' on rank 1|'options of fit'|'step'"):
        parallel.step(X, y) if comm.rank == 0 else parallel.save(tmp_path / "run")


def test_what_does_not_fit_is_refused(comm):
    with pytest.raises(TypeError, match=r"^trainer: expected an nn\.Trainer, got Sequential$"):
        DataParallel(network())
    with pytest.raises(ValueError, match=r"^reduce: expected 'ordered' or 'fast', got 'sum'$"):
        DataParallel(trainer(), reduce="sum")
    with pytest.raises(TypeError, match=r"^trainer: expected an optimizer that steps by gradients, got NewtonCG"):
        DataParallel(trainer(optim.NewtonCG))


# ---------------------------------------------------------------- files


def test_a_run_goes_on_with_the_bits_it_would_have_had(comm, tmp_path_factory):
    path = comm.mpi.bcast(str(tmp_path_factory.mktemp("run") / "run") if comm.rank == 0 else None)
    X, y = data(10 * B, np.random.default_rng(18))
    whole = trainer()
    DataParallel(whole).fit(X, y, epochs=4, batch_size=B)
    first = trainer()
    parallel = DataParallel(first)
    parallel.fit(X, y, epochs=2, batch_size=B)
    parallel.save(path)
    second = trainer()
    parallel = DataParallel(second)
    parallel.resume(path)
    parallel.fit(X, y, epochs=2, batch_size=B)
    assert bits(second) == bits(whole)
    half = DataParallel(trainer(), MPI.COMM_WORLD.Split(comm.rank < (comm.size + 1) // 2))  # other numbers of ranks
    half.resume(path)
    assert half.trainer.epoch == 2
    half.fit(X, y, batch_size=B)
    alone = trainer()
    alone.resume(path)
    alone.fit(X, y, batch_size=B)
    with pytest.raises(OSError, match="nowhere"):
        parallel.resume(path + "/nowhere")


def test_validation_is_shared_out_and_measured_alike(comm):
    X, y = data(3 * B, np.random.default_rng(19))
    for n in (1, 255, 256, 800, 2000):
        Xv, yv = data(n, np.random.default_rng(20))
        trained = trainer()
        history = DataParallel(trained).fit(X, y, validation=(Xv, yv))
        assert history["val_loss"] == [trained.net.evaluate(Xv, yv)]
        assert history["val_accuracy"] == [fo.metrics.accuracy(yv, trained.net.predict(Xv))]


def low_rank(trained):
    layer = trained.net.layers[1]
    trained.replace(layer, fo.lowrank.factorize(layer, "svd", 3))


def test_replaced_layers_need_a_data_parallel_of_their_own(comm, tmp_path):
    X, y = data(6 * B * comm.size, np.random.default_rng(21))
    trained = trainer()
    parallel = DataParallel(trained)
    parallel.fit(X, y, batch_size=B)
    low_rank(trained)
    path = str(tmp_path / "run.safetensors")
    for call in (
        lambda: parallel.step(X[:B], y[:B]),
        lambda: parallel.fit(X, y),
        lambda: parallel.save(path),
        lambda: parallel.resume(path),
        lambda: parallel.predict(X),
        parallel.gather,
    ):
        with pytest.raises(RuntimeError, match=r"^DataParallel: expected the layers that it was made for"):
            call()
    again = DataParallel(trained)
    assert len(again.fit(X, y, epochs=2, batch_size=B)["loss"]) == 2
    require_equal_on_all(comm, trained)


def test_a_layer_that_one_rank_replaces_is_an_error_on_all(comm):
    several(comm)
    X, y = data(6 * B * comm.size, np.random.default_rng(22))
    trained = trainer()
    parallel = DataParallel(trained)
    if comm.rank == 0:
        low_rank(trained)
    with pytest.raises(RuntimeError, match=r"DataParallel: expected the layers that it was made for"):
        parallel.fit(X, y, batch_size=B)
    with pytest.raises(ValueError, match=r"layers.1: expected the same on all ranks"):
        DataParallel(trained)
