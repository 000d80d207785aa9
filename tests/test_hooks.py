"""Gradients of inputs, hidden outputs, and losses from callables.

Pass criterion: float64 gradients within RTOL of central differences, relative to the largest; hidden outputs are those
of a network that ends there, bit for bit; a callable that computes mse trains as mse does, to ROUNDING.
"""

import copy
import dis
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pairs import pairwise
from test_newton_hvp import NETWORKS, network
from test_program import inputs

import fastopt as fo
from fastopt.nn.files import arrays_of

RTOL = 2e-7
ROUNDING = 1e-12
THREADS = (1, 2, 3)


def image_net(dtype=np.float64, rng=0):
    layers = [
        fo.nn.Conv2d(3, 4, 3, padding=1, activation="tanh"),
        fo.nn.BatchNorm(4, activation="gelu"),
        fo.nn.Concat([[fo.nn.Conv2d(4, 3, 1), fo.nn.Dropout(0.3)], [fo.nn.MaxPool2d(3, stride=1, padding=1)], []]),
        fo.nn.Residual([fo.nn.Conv2d(11, 11, 3, padding=1, groups=11, activation="silu")]),
        fo.nn.AvgPool2d(2),
        fo.nn.Flatten(),
        fo.nn.Dense(11 * 3 * 2, 4),
    ]
    net = fo.nn.Sequential(layers, rng=rng, dtype=dtype, input_shape=(6, 5, 3))
    return net.calibrate(images(dtype, 16))


def images(dtype=np.float64, n=3):
    return np.random.default_rng(1).normal(size=(n, 6, 5, 3)).astype(dtype)


def along(dy):
    """The loss sum(dy * y), whose gradient by the output is dy."""
    return lambda y, _: (float(np.sum(dy * y)), dy)


def differences(f, a, h=1e-5):
    """Central differences of a number f() by the elements of an array that it reads."""
    found = np.empty(a.shape)
    for i in np.ndindex(a.shape):
        before, ends = a[i], []
        for step in (h, -h):
            a[i] = before + step
            ends.append(f())
        a[i] = before
        found[i] = (ends[0] - ends[1]) / (2 * h)
    return found


def assert_near(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=RTOL * max(np.abs(want).max(), 1e-3))


def squared(y, targets, weights=None):
    """mse as a callable."""
    weights = np.ones(len(y)) if weights is None else weights
    shaped = weights.reshape(-1, *[1] * (y.ndim - 1)) / (weights.sum() * y[0].size)
    return float(np.sum(shaped * (y - targets) ** 2)), 2 * shaped * (y - targets)


# ---------------------------------------------------------------- gradients of inputs


@pairwise(name=NETWORKS, training=[False, True])
def test_gradients_of_inputs_and_parameters_equal_differences_for_every_layer(name, training):
    net, x = network(name), inputs(5) / 3
    dy = np.random.default_rng(2).normal(size=(5, *net.output_shape))
    draws = net.draws

    def value():
        if not training:
            return float(np.sum(dy * net.predict(x)))
        net.draws = draws
        return net.value_and_grad(x, np.zeros(5), along(dy))[0]

    dx, grads = net.backward(x, dy, training=training)
    assert_near(dx, differences(value, x))
    for param, grad in zip(net.parameters(), grads, strict=True):
        assert_near(grad, differences(value, param))


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_images_equal_differences(training):
    net, x = image_net(), images()
    dy = np.random.default_rng(2).normal(size=(3, 4))
    draws = net.draws

    def value():
        if not training:
            return float(np.sum(dy * net.predict(x)))
        net.draws = draws
        return net.value_and_grad(x, np.zeros(3), along(dy))[0]

    dx, _ = net.backward(x, dy, training=training)
    assert dx.shape == x.shape
    assert_near(dx, differences(value, x))


@pytest.mark.parametrize("activation", ["identity", "gelu", "softmax"])
def test_batch_norm_by_averages_has_gradients_by_differences_in_float32_too(activation):
    net = fo.nn.Sequential([fo.nn.BatchNorm(600, activation=activation), fo.nn.Dense(600, 2)], rng=0)
    x = inputs(40, np.float32, width=600)
    net.calibrate(x)
    twin = as_float64(net)
    dy = np.random.default_rng(3).normal(size=(40, 2))
    for got, want in zip(
        flat(net.backward(x, dy, training=False)), flat(twin.backward(x, dy, training=False)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def as_float64(net):
    """A network of float64 with the arrays of a network."""
    layers = [type(layer)(**layer.config()) for layer in net.layers]
    twin = fo.nn.Sequential(layers, dtype=np.float64, input_shape=net.input_shape)
    for a, b in zip(arrays_of(twin).values(), arrays_of(net).values(), strict=True):
        a[...] = b
    return twin


def flat(result):
    dx, grads = result
    return [dx, *grads]


def test_the_gradient_of_a_loss_by_the_input_is_the_chain_of_two_calls():
    net, x, y = network("dropout"), inputs(6) / 3, np.arange(6) % 3
    _, dy = fo.functional.cross_entropy(net.predict(x), y)
    dx, _ = net.backward(x, dy, training=False)
    assert_near(dx, differences(lambda: net.evaluate(x, y), x))


def test_gradients_by_parameters_are_those_of_a_loss(dtype):
    net = fo.nn.Sequential([fo.nn.Dense(4, 6, "tanh"), fo.nn.Dense(6, 3)], rng=0, dtype=dtype)
    x, y = inputs(7, dtype), np.ones((7, 3), dtype)
    _, dy = fo.functional.mse(net.predict(x), y)
    _, grads = net.backward(x, dy)
    for a, b in zip(grads, net.value_and_grad(x, y, "mse")[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", THREADS)
def test_gradients_of_inputs_have_the_same_bits_on_any_threads(threads, dtype):
    net, x = image_net(dtype), images(dtype, 40)
    dy = np.random.default_rng(2).normal(size=(40, 4))
    with fo.num_threads(1):
        want = flat(net.backward(x, dy, training=False))
    with fo.num_threads(threads):
        for a, b in zip(flat(net.backward(x, dy, training=False)), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_backward_leaves_arrays_and_counts_draws_only_in_training_mode():
    net, x = image_net(), images()
    before = {name: a.copy() for name, a in arrays_of(net).items()}
    dy = np.ones((3, 4))
    first, _ = net.backward(x, dy)
    assert net.draws == 1
    second, _ = net.backward(x, dy)
    assert not np.array_equal(first, second)  # other elements are dropped
    net.backward(x, dy, training=False)
    assert net.draws == 2
    for name, a in arrays_of(net).items():
        np.testing.assert_array_equal(a, before[name])


def test_standardized_columns_have_gradients_in_the_dtype_of_the_network():
    net = fo.nn.Sequential([fo.nn.Standardize(4), fo.nn.Dense(4, 2)], rng=0)
    x = inputs(9)
    net.calibrate(x)
    dx, _ = net.backward(x, np.ones((9, 2)), training=False)
    assert dx.dtype == np.float32
    assert_close_to_the_chain(net, dx)


def assert_close_to_the_chain(net, dx):
    scale, _ = net.layers[0].scale_and_shift()
    want = net.layers[1].weight.sum(axis=0) * scale
    np.testing.assert_allclose(dx, np.broadcast_to(want, dx.shape), rtol=1e-5)


def test_a_folded_network_has_gradients_of_inputs():
    net, x = image_net(), images()
    dy = np.ones((3, 4))
    dx, _ = net.fold().backward(x, dy, training=False)
    np.testing.assert_allclose(dx, net.backward(x, dy, training=False)[0], atol=1e-12)


@pytest.mark.parametrize(
    ("x", "dy", "error", "message"),
    [
        (np.zeros((2, 4)), np.zeros((2, 2)), ValueError, r"^dy: expected shape \(2, 3\), got \(2, 2\)"),
        (np.zeros((2, 4)), np.zeros((1, 3)), ValueError, r"^dy: expected shape \(2, 3\), got \(1, 3\)"),
        (np.zeros((2, 4)), "up", TypeError, "^dy: "),
        (np.zeros((0, 4)), np.zeros((0, 3)), ValueError, "^x: expected at least one row"),
        (np.zeros((2, 5)), np.zeros((2, 3)), ValueError, r"^x: expected shape \(n, 4\)"),
        (np.zeros((1, 4)), np.zeros((1, 3)), ValueError, "^x: expected at least two rows"),
    ],
)
def test_backward_refuses_what_does_not_fit(x, dy, error, message):
    with pytest.raises(error, match=message):
        network("batch norm inside").backward(x, dy)


def test_one_row_has_gradients_in_inference_mode():
    dx, _ = network("batch norm inside").backward(np.zeros((1, 4)), np.ones((1, 3)), training=False)
    assert dx.shape == (1, 4)


# ---------------------------------------------------------------- hidden outputs


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_a_layer_are_predictions_of_the_network_that_ends_with_it(name):
    net, x = network(name), inputs(5)
    for i, found in enumerate(net.outputs(x, list(net.layers))):
        truncated = list(net.layers[: i + 1])
        if all(layer.training_only for layer in truncated):
            np.testing.assert_array_equal(found, x)
        else:
            head = fo.nn.Sequential(copy.deepcopy(truncated), dtype=net.dtype, input_shape=net.input_shape)
            np.testing.assert_array_equal(found, head.predict(x))
        np.testing.assert_array_equal(net.outputs(x, i), found)
        np.testing.assert_array_equal(net.outputs(x, i - len(net.layers)), found)


def test_outputs_of_the_last_layer_are_the_predictions_of_a_folded_network_too(dtype):
    net, x = image_net(dtype), images(dtype)
    for one in (net, net.fold()):
        np.testing.assert_array_equal(one.outputs(x, -1), one.predict(x))


def test_outputs_of_layers_inside_others_are_those_of_the_chain_to_them():
    net, x = image_net(), images()
    joined = net.layers[2]
    branches = [net.outputs(x, branch[-1]) for branch in joined.branches[:2]]
    whole = net.outputs(x, joined)
    np.testing.assert_array_equal(np.concatenate([*branches, net.outputs(x, 1)], axis=-1), whole)
    shortcut = net.layers[3]
    inside = net.outputs(x, shortcut.layers[0])
    np.testing.assert_allclose(inside + whole, net.outputs(x, shortcut), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (fo.nn.Dense(4, 3), ValueError, r"^layer: expected one of the network's, got Dense"),
        (2, ValueError, "^layer: expected a whole number from -2 to 1, got 2"),
        ("first", ValueError, "^layer: expected a whole number"),
        ([0, 7], ValueError, "^layer: .* got 7"),
    ],
)
def test_outputs_of_a_layer_that_is_not_there_are_refused(layer, error, message):
    net = fo.nn.Sequential([fo.nn.Dense(4, 4), fo.nn.Dense(4, 3)], rng=0)
    with pytest.raises(error, match=message):
        net.outputs(np.zeros((1, 4)), layer)


# ---------------------------------------------------------------- losses from callables


def problem(dtype=np.float64, n=24):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 4)).astype(dtype)
    return x, np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2]], axis=1).astype(dtype), rng.uniform(0.5, 2, n).astype(dtype)


def regression_net(dtype=np.float64, rng=0):
    layers = [
        fo.nn.Dense(4, 8, "tanh", l2=0.01, max_norm=1.5),
        fo.nn.BatchNorm(8),
        fo.nn.Dropout(0.2),
        fo.nn.Dense(8, 2, l1=0.001),
    ]
    return fo.nn.Sequential(layers, rng=rng, dtype=dtype)


RULES = {
    "plain": lambda p: fo.optim.SGD(p, lr=0.05),
    "momentum": lambda p: fo.optim.SGD(p, lr=0.05, momentum=0.9),
    "interim": lambda p: fo.optim.SGD(p, lr=0.05, momentum=0.9, nesterov="interim"),
    "adam": lambda p: fo.optim.Adam(p, lr=fo.schedules.Power(0.01, 0.5)),
    "clipped": lambda p: fo.optim.AdamW(p, lr=0.01, max_norm=0.5),
    "accumulated": lambda p: fo.optim.Adam(p, lr=0.01, accumulate=2, check_finite="skip"),
    "averaged": lambda p: fo.optim.SGD(p, lr=0.05, ema_decay=0.9),
}


@pytest.mark.parametrize("weighted", [False, True])
def test_a_callable_has_the_gradients_of_the_loss_that_it_computes(weighted):
    net, (x, y, w) = regression_net(), problem()
    w = w if weighted else None
    got, want = net.value_and_grad(x, y, squared, sample_weight=w), None
    net.draws = 0
    want = net.value_and_grad(x, y, "mse", sample_weight=w)
    assert got[0] == pytest.approx(want[0], rel=ROUNDING)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=ROUNDING)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_callable_trains_as_the_loss_that_it_computes(rule, weighted):
    x, y, w = problem()
    w = w if weighted else None
    found = []
    for loss in (squared, "mse"):
        net = regression_net()
        trainer = fo.nn.Trainer(net, loss, RULES[rule](net.parameters()))
        steps = [trainer.step(x[:10], y[:10], None if w is None else w[:10]) for _ in range(2)]
        validation = (x, y) if w is None else (x, y, w)
        history = trainer.fit(x, y, epochs=4, batch_size=6, sample_weight=w, validation=validation, patience=3)
        found.append(
            [*steps, *history["loss"], *history["val_loss"], *np.concatenate([a.ravel() for a in flat_arrays(net)])]
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8, atol=1e-10)


def flat_arrays(net):
    return [a for name, a in arrays_of(net).items() if not name.endswith("seed")]


def test_a_callable_trains_by_an_iterable_of_batches_as_by_rows():
    x, y, _ = problem()
    nets = [regression_net(rng=1) for _ in range(2)]
    fo.nn.Trainer(nets[0], squared, "adam").fit(x, y, epochs=2, batch_size=8, shuffle=False)
    fo.nn.Trainer(nets[1], squared, "adam").fit([(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)], epochs=2)
    for a, b in zip(flat_arrays(nets[0]), flat_arrays(nets[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_callable_gets_targets_of_any_shape_and_dtype_and_copies_of_the_outputs():
    net, x = regression_net(np.float32), problem(np.float32)[0]
    kept = []

    def pinball(y_pred, y):
        assert y_pred.dtype == np.float32
        kept.append(y_pred)
        error = y["value"][:, None] - y_pred
        slope = np.where(error > 0, y["quantile"][:, None], y["quantile"][:, None] - 1)
        y_pred[:] = np.nan  # which is not the network's
        return np.mean(slope * error), -slope / error.size

    y = np.zeros(len(x), dtype=[("value", "f8"), ("quantile", "f8")])
    y["quantile"] = 0.25
    trainer = fo.nn.Trainer(net, pinball, "adam")
    history = trainer.fit(x, y, epochs=2, batch_size=8)
    assert np.isfinite(history["loss"]).all()
    assert len({a.ctypes.data for a in kept}) == len(kept)


def test_images_have_the_losses_of_callables():
    layers = [fo.nn.Conv2d(3, 2, 3, padding=1)]
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=(6, 5, 3))
    x, y = images(), np.ones((3, 6, 5, 2))
    got, want = net.value_and_grad(x, y, squared), net.value_and_grad(x, y, "mse")
    assert got[0] == pytest.approx(want[0], rel=ROUNDING)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=ROUNDING)
    assert net.evaluate(x, y, squared) == pytest.approx(net.evaluate(x, y, "mse"), rel=ROUNDING)


def test_evaluate_gives_what_a_callable_says():
    net, (x, y, w) = regression_net(), problem()
    assert net.evaluate(x, y, squared, sample_weight=w) == pytest.approx(net.evaluate(x, y, "mse", sample_weight=w))
    assert np.isnan(net.evaluate(x, y, lambda a, _: (np.nan, a)))


def state_of(trainer):
    sd = trainer.optimizer.state_dict()
    moments = {(k, n): a for k, e in sd["state"].items() for n, a in e.items() if isinstance(a, np.ndarray)}
    numbers = (sd["steps"], trainer.epoch, trainer.compiled_training.batches, trainer.compiled_training.position)
    arrays = {**{n: a.copy() for n, a in arrays_of(trainer.net).items()}, **moments}
    return numbers, arrays


def assert_unchanged(trainer, before):
    numbers, arrays = state_of(trainer)
    assert numbers == before[0]
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, before[1][name])


class Broken(Exception):
    pass


def raises(*_):
    raise Broken


BAD = {
    "raises": (raises, Broken, None),
    "no pair": (lambda a, b: 1.0, TypeError, r"^loss: expected a callable that returns \(value, grad\), got float"),
    "no number": (lambda a, b: ("one", a), TypeError, "^loss: expected a number as the value"),
    "an array": (lambda a, b: (a, a), TypeError, "^loss: expected a number as the value"),
    "complex": (lambda a, b: (1.0, a + 0j), TypeError, "^loss: expected a gradient of real numbers"),
    "shape": (
        lambda a, b: (1.0, a[:1]),
        ValueError,
        r"^loss: expected a gradient of the shape of the outputs, \(24, 2\)",
    ),
    "arguments": (lambda a: (1.0, a), TypeError, "positional argument"),
    "nan": (lambda a, b: (np.nan, a), FloatingPointError, "^loss: expected one that is defined, got nan"),
    "nan inside": (lambda a, b: (1.0, a * np.nan), FloatingPointError, "^loss: expected a finite gradient .* got nan"),
}


@pytest.mark.parametrize("rule", ["momentum", "interim", "averaged"])
@pytest.mark.parametrize("name", BAD)
def test_a_callable_that_fails_leaves_everything_as_it_was(name, rule):
    bad, error, message = BAD[name]
    x, y, _ = problem()
    net, broken = regression_net(), [False]

    def loss(*arrays):
        return bad(*arrays) if broken[0] else squared(*arrays)

    trainer = fo.nn.Trainer(net, loss, RULES[rule](net.parameters()))
    trainer.step(x, y)
    before, broken[0] = state_of(trainer), True
    with pytest.raises(error, match=message):
        trainer.step(x, y)
    assert_unchanged(trainer, before)
    with pytest.raises(error, match=message):
        trainer.fit(x, y, batch_size=24)
    assert_unchanged(trainer, before)
    broken[0] = False
    trainer.fit(x, y, batch_size=24)
    assert trainer.epoch == 1


def test_an_optimizer_that_skips_leaves_out_the_step_of_a_bad_gradient():
    x, y, _ = problem()
    net = regression_net()
    trainer = fo.nn.Trainer(net, lambda a, _: (1.0, a * np.nan), fo.optim.Adam(net.parameters(), check_finite="skip"))
    before = [p.copy() for p in net.parameters()]
    trainer.fit(x, y, batch_size=12)
    assert trainer.optimizer.skipped == 2
    for a, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("check_finite", ["skip", "raise"])
def test_an_optimizer_that_looks_leaves_out_the_step_of_a_loss_that_is_nan(check_finite):
    x, y, _ = problem()
    net = regression_net()
    adam = fo.optim.Adam(net.parameters(), check_finite=check_finite)
    trainer = fo.nn.Trainer(net, lambda a, _: (np.nan, np.zeros_like(a)), adam)
    before = state_of(trainer)
    if check_finite == "raise":
        with pytest.raises(FloatingPointError, match=r"^grads\[0\]: expected finite values, got nan"):
            trainer.step(x, y)
        assert_unchanged(trainer, before)
    else:
        assert np.isnan(trainer.step(x, y))
        assert trainer.optimizer.skipped == 1
        for name, a in state_of(trainer)[1].items():
            np.testing.assert_array_equal(a, before[1][name])


def test_a_callable_that_writes_to_predictions_does_so_to_a_copy():
    x, y, _ = problem()
    net = regression_net()

    def careless(a, b):
        value, grad = squared(a, b)
        a[...] = 0
        return value, grad

    want = net.evaluate(x, y, squared, metrics="r2_score")
    assert net.evaluate(x, y, careless, metrics="r2_score") == want


def interrupted_at(moment, function, folder):
    """Call a function, with Ctrl-C at so many of the places where Python looks for it; whether it came.

    These are, in the package, after calls of what is compiled, at the start of functions and where loops go back.
    """
    left, before_it = [moment], [None, 0]

    def trace(frame, event, arg):
        if folder not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            last = dis.opname[frame.f_code.co_code[before_it[1]]] if before_it[0] is frame else ""
            before_it[:] = frame, frame.f_lasti
            if last.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("rule", ["callable", "python", "newton"])
def test_ctrl_c_anywhere_in_a_step_leaves_it_whole_or_not_made(rule):
    x, y, _ = problem()

    class Descent(fo.optim.PythonRule):
        def __init__(self, params, lr=0.1):
            super().__init__(params, locals())

        def update(self, param, grad, state, options):
            param -= options["lr"] * grad

    def make():
        net = regression_net()
        if rule == "python":
            return fo.nn.Trainer(net, "mse", Descent(net.parameters()))
        if rule == "newton":
            return fo.nn.Trainer(net, "mse", fo.optim.NewtonCG(net.parameters(), max_iter=2))
        return fo.nn.Trainer(net, squared, fo.optim.Adam(net.parameters()))

    trainer = make()
    trainer.step(x, y)
    after, made, moment, folder = state_of(trainer), set(), 1, os.path.dirname(fo.__file__)
    while True:
        trainer = make()
        before = state_of(trainer)
        came = interrupted_at(moment, lambda trainer=trainer: trainer.step(x, y), folder)
        made.add(numbers := state_of(trainer)[0])
        assert numbers in (before[0], after[0])
        assert_unchanged(trainer, before if numbers == before[0] else after)
        if not came:
            break
        moment += 1
    assert len(made) == 2


def test_an_interrupted_epoch_goes_on_with_its_callable_and_a_resumed_run_too(tmp_path):
    x, y, _ = problem()
    whole = fo.nn.Trainer(regression_net(), squared, "adam")
    whole.fit(x, y, epochs=3, batch_size=8)
    calls = [0]

    def interrupted(*arrays):
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return squared(*arrays)

    interrupted.__qualname__ = squared.__qualname__
    part = fo.nn.Trainer(regression_net(), interrupted, "adam")
    with pytest.raises(KeyboardInterrupt):
        part.fit(x, y, epochs=3, batch_size=8)
    part.save(tmp_path / "run.safetensors")
    again = fo.nn.Trainer(regression_net(rng=5), squared, "adam")
    again.resume(tmp_path / "run.safetensors")
    again.fit(x, y, epochs=2, batch_size=8)
    for a, b in zip(flat_arrays(again.net), flat_arrays(whole.net), strict=True):
        np.testing.assert_array_equal(a, b)
    other = fo.nn.Trainer(regression_net(), lambda a, b: (1.0, a), "adam")
    with pytest.raises(ValueError, match=r"expected loss .*lambda.*, got .*squared"):
        other.resume(tmp_path / "run.safetensors")


def test_a_trainer_with_a_callable_is_copied_and_pickled_with_it():
    x, y, _ = problem()
    trainer = fo.nn.Trainer(regression_net(), squared, "adam")
    trainer.step(x, y)
    twins = [copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))]
    losses = [t.step(x, y) for t in (trainer, *twins)]
    assert losses == [losses[0]] * 3


def test_only_compiled_losses_have_second_derivatives():
    net, (x, y, _) = regression_net(), problem()
    v = [np.ones_like(p) for p in net.parameters()]
    with pytest.raises(ValueError, match=r"^loss: expected one of cross_entropy, .* whose derivatives are compiled"):
        net.hvp(x, y, v, squared)
    with pytest.raises(ValueError, match=r"^loss: expected one that is compiled, for the steps of NewtonCG"):
        fo.nn.Trainer(net, squared, fo.optim.NewtonCG(net.parameters()))


@pytest.mark.parametrize("loss", [fo.nn.Huber, 3, None])
def test_what_is_no_loss_is_refused(loss):
    with pytest.raises(ValueError, match=r"^loss: expected one of .*, or a callable, got"):
        fo.nn.Trainer(regression_net(), loss, "sgd")


@pytest.mark.parametrize("y", [None, 1.0, np.zeros((3, 2))])
def test_targets_for_a_callable_have_a_row_a_sample(y):
    net, (x, _, _) = regression_net(), problem()
    with pytest.raises(ValueError, match=r"^y: expected 24 rows, one a sample"):
        net.value_and_grad(x, y, squared)


@pytest.mark.parametrize("threads", THREADS)
def test_a_callable_trains_to_the_same_bits_on_any_threads(threads, dtype):
    x, y, _ = problem(dtype, 300)
    nets = [regression_net(dtype) for _ in range(2)]
    for net, n in zip(nets, (1, threads), strict=True):
        with fo.num_threads(n):
            fo.nn.Trainer(net, squared, "adam").fit(x, y, batch_size=128)
    for a, b in zip(flat_arrays(nets[0]), flat_arrays(nets[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_of_torch_is_refused_for_it_takes_tensors():
    class Module:
        def named_parameters(self):
            return iter(())

        def __call__(self, y_pred, y):
            return 0.0

    with pytest.raises(ValueError, match=r"^loss: expected one of cross_entropy.* or a callable, got"):
        fo.nn.Trainer(fo.nn.Sequential([fo.nn.Dense(2, 1)]), Module(), "adam")


def test_a_callable_that_steps_its_own_trainer_is_refused():
    x, y, _ = problem()
    net = regression_net()

    def again(*arrays):
        trainer.step(x, y)
        return squared(*arrays)

    trainer = fo.nn.Trainer(net, again, "sgd")
    with pytest.raises(RuntimeError, match=r"^step: this optimizer is at work"):
        trainer.step(x, y)


def test_a_callable_that_freezes_and_steps_its_own_trainer_loses_no_batch_of_the_epoch():
    x, y, _ = problem()
    net, refused = regression_net(), []

    def again(*arrays):
        if len(refused) < 3:
            net.layers[0].trainable = not net.layers[0].trainable
            with pytest.raises(RuntimeError, match=r"^step: this optimizer is at work") as error:
                trainer.step(x, y)
            refused.append(error)
        return squared(*arrays)

    trainer = fo.nn.Trainer(net, again, "sgd")
    trainer.fit(x, y, epochs=2, batch_size=4)
    assert trainer.compiled_training.batches == 12


@settings(max_examples=20)
@drawn(st.data())
def test_random_networks_have_gradients_of_inputs_by_differences(data):
    widths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    kinds = st.sampled_from(["dense", "grouped", "batch_norm", "residual", "concat", "maxout"])
    layers, width = [], 4
    for wide in widths:
        kind = data.draw(kinds)
        activation = data.draw(st.sampled_from(["identity", "tanh", "gelu", "softmax"]))
        if kind == "dense":
            layers.append(fo.nn.Dense(width, wide, activation))
        elif kind == "grouped":
            layers.append(fo.nn.GroupedDense(width, width * wide, width, activation))
        elif kind == "batch_norm":
            layers.append(fo.nn.BatchNorm(width, activation=activation, affine=data.draw(st.booleans())))
        elif kind == "residual":
            layers.append(fo.nn.Residual([fo.nn.Dense(width, wide, activation), fo.nn.Dense(wide, width)]))
        elif kind == "concat":
            layers.append(fo.nn.Concat([[fo.nn.Dense(width, wide, activation)], []]))
        else:
            layers.append(fo.nn.Dense(width, wide, "sigmoid"))
        width = layers[-1].out_features
    net = fo.nn.Sequential([*layers, fo.nn.Dense(width, 2)], rng=1, dtype=np.float64)
    for layer in net.layers:
        layer.trainable = data.draw(st.booleans())
    x = inputs(3) / 4
    dy = np.random.default_rng(2).normal(size=(3, 2))
    dx, grads = net.backward(x, dy, training=False)

    def value():
        return float(np.sum(dy * net.predict(x)))

    assert_near(dx, differences(value, x))
    params = iter(zip(net.parameters(), grads, strict=True))
    for layer in net.layers:
        for _ in layer.parameters():
            param, grad = next(params)
            if layer.trainable:
                assert_near(grad, differences(value, param))
            else:
                assert grad is None


def test_threads_share_a_network_for_gradients():
    net, x = image_net(), images()
    dy, found = np.ones((3, 4)), [None] * 4
    want = flat(net.backward(x, dy, training=False))

    def work(k):
        found[k] = flat(net.backward(x, dy, training=False))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for one in found:
        for a, b in zip(one, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_callable_goes_with_metrics_and_callbacks_after_each_batch():
    x, y, _ = problem()
    told = []

    class Notes:
        def on_batch_end(self, trainer, epoch, batch, loss):
            told.append((epoch, batch, loss))

    def largest(y, y_pred):
        return np.abs(y - y_pred).max()

    history = fo.nn.Trainer(regression_net(), squared, "adam").fit(
        x, y, epochs=2, batch_size=12, validation=(x, y), metrics=largest, callbacks=Notes()
    )
    assert len(history["val_largest"]) == 2
    assert [batch for _, batch, _ in told] == [1, 2, 3, 4]
