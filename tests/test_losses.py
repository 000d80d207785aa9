"""Losses and their gradients against float64 and torch.

Pass criterion: loss within rtol of the oracle, gradients within rtol of the largest
gradient or of a row's share, whichever is larger, rtol a few eps times the length of a row;
float64 gradients within 1e-7 of central differences.
"""

import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, LOSS_CASES, LOSSES, draw_targets, loss_options
from scipy.special import logsumexp

import fastopt as fo
from fastopt._kernels import core

RTOL = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 4e-15}

every = pytest.mark.parametrize(("loss", "kind", "options"), LOSS_CASES)
PLAIN = [(loss, kind) for loss, kind, options in LOSS_CASES if not options]
plain = pytest.mark.parametrize(("loss", "kind"), PLAIN)


def data(n, k, dtype, kind):
    prediction, targets = np.random.default_rng((n, k)).normal(0, 3, (n, k)), draw_targets(kind, n, k)
    return prediction.astype(dtype), targets if kind == "classes" else targets.astype(dtype)


def check(loss, prediction, targets, options, weight=None):
    got, grad = getattr(fo.functional, loss)(prediction, targets, sample_weight=weight, **options)
    exact_targets = targets if targets.dtype.kind == "i" else targets.astype(float)
    want, want_grad = LOSSES[loss](prediction.astype(float), exact_targets, weight, **options)
    rtol = RTOL[prediction.dtype]
    assert isinstance(got, float)
    assert got == pytest.approx(want, rel=rtol, abs=rtol)
    assert grad.dtype == prediction.dtype
    np.testing.assert_allclose(grad, want_grad, rtol=rtol, atol=rtol * max(1 / len(grad), np.abs(want_grad).max()))


def test_the_oracle_knows_every_loss():
    assert tuple(LOSSES) == core.LOSSES
    assert {loss for loss, _, _ in LOSS_CASES} == set(LOSSES)


# 32 columns are the widest that go sixteen rows at a time
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from(DTYPES), st.sampled_from(LOSS_CASES), st.booleans())
@example(1, 1, np.float32, LOSS_CASES[0], False)
@example(1, 1, np.float32, ("mse", "values", {}), True)
@example(17, 32, np.float32, LOSS_CASES[5], True)
@example(17, 33, np.float64, LOSS_CASES[6], True)
def test_loss_and_gradient_equal_the_oracle(n, k, dtype, case, weighted):
    loss, kind, options = case
    weight = np.random.default_rng(n).uniform(0.1, 3, n).astype(dtype) if weighted else None
    check(loss, *data(n, k, dtype, kind), loss_options(options, k), weight)


@every
@pytest.mark.parametrize("k", [10, 101])
def test_large_batches_equal_the_oracle(loss, kind, options, k, dtype):
    check(loss, *data(3000, k, dtype, kind), loss_options(options, k))


@every
@pytest.mark.parametrize("k", [1, 5, 37])
def test_gradients_equal_differences(loss, kind, options, k):
    prediction, targets = data(4, k, np.float64, kind)
    weight, options = np.array([1.0, 0.0, 2.0, 0.5]), loss_options(options, k)
    function = getattr(fo.functional, loss)
    _, grad = function(prediction, targets, sample_weight=weight, **options)
    largest = np.abs(grad).max()
    for i in np.ndindex(prediction.shape):
        before, ends = prediction[i], []
        for h in (1e-5, -1e-5):
            prediction[i] = before + h
            ends.append(function(prediction, targets, sample_weight=weight, **options)[0])
        prediction[i] = before
        assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= 1e-7 * max(largest, 1e-3)


@every
def test_the_gradient_lands_in_the_array_given(loss, kind, options, dtype):
    prediction, targets = data(7, 9, dtype, kind)
    out, function, options = np.empty_like(prediction), getattr(fo.functional, loss), loss_options(options, 9)
    _, grad = function(prediction, targets, out, **options)
    assert grad is out
    np.testing.assert_array_equal(out, function(prediction, targets, **options)[1])


@every
@pytest.mark.parametrize("k", [5, 40])
def test_a_row_of_weight_zero_is_as_if_absent(loss, kind, options, k, dtype):
    prediction, targets = data(6, k, dtype, kind)
    weight, function, options = (
        np.array([1, 1, 0, 1, 1, 1], dtype),
        getattr(fo.functional, loss),
        loss_options(options, k),
    )
    keep = weight > 0
    prediction[2, 1] = np.nan  # even if it holds NaN
    got, grad = function(prediction, targets, sample_weight=weight, **options)
    want, want_grad = function(prediction[keep], targets[keep], **options)
    assert got == pytest.approx(want, rel=RTOL[prediction.dtype])
    np.testing.assert_allclose(grad[keep], want_grad, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps / 8)
    np.testing.assert_array_equal(grad[2], 0)


@every
def test_all_weights_zero_give_loss_zero_and_no_gradient(loss, kind, options, dtype):
    prediction, targets = data(3, 4, dtype, kind)
    got, grad = getattr(fo.functional, loss)(prediction, targets, sample_weight=np.zeros(3), **loss_options(options, 4))
    assert got == 0
    np.testing.assert_array_equal(grad, 0)


@every
@pytest.mark.parametrize("k", [4, 50])
def test_equal_weights_are_no_weights(loss, kind, options, k, dtype):
    prediction, targets = data(8, k, dtype, kind)
    function, options = getattr(fo.functional, loss), loss_options(options, k)
    got = function(prediction, targets, sample_weight=np.full(8, 2.0), **options)
    want = function(prediction, targets, **options)
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


@every
@pytest.mark.parametrize("k", [4, 50])
def test_a_row_has_the_same_bits_wherever_it_stands(loss, kind, options, k, dtype):
    prediction, targets = data(53, k, dtype, kind)
    prediction[:], targets[:] = prediction[0].copy(), targets[0].copy()
    grad = getattr(fo.functional, loss)(prediction, targets, **loss_options(options, k))[1]
    np.testing.assert_array_equal(grad, np.tile(grad[0], (53, 1)))


@pytest.mark.parametrize("k", [7, 45])
def test_one_hot_probabilities_give_the_bits_of_classes(k, dtype):
    logits, classes = data(20, k, dtype, "classes")
    one_hot = np.eye(k, dtype=dtype)[classes]
    by_class, by_row = fo.functional.cross_entropy(logits, classes), fo.functional.cross_entropy(logits, one_hot)
    assert by_row[0] == pytest.approx(by_class[0], rel=1e-14)
    np.testing.assert_array_equal(by_row[1], by_class[1])


# ---------------------------------------------------------------- torch


TORCH = {
    "cross_entropy": "cross_entropy",
    "mse": "mse_loss",
    "mae": "l1_loss",
    "huber": "huber_loss",
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
}


@every
@pytest.mark.parametrize("k", [3, 40])
def test_values_and_gradients_are_those_of_torch(loss, kind, options, k, dtype):
    torch = pytest.importorskip("torch")
    prediction, targets = data(33, k, dtype, kind)
    options = loss_options(options, k)
    got, grad = getattr(fo.functional, loss)(prediction, targets, **options)
    if "class_weight" in options:
        options["weight"] = torch.tensor(options.pop("class_weight"))
    leaf = torch.tensor(prediction, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(targets, dtype=None if kind == "classes" else torch.float64)
    value = getattr(torch.nn.functional, TORCH[loss])(leaf, target, **options)
    value.backward()
    rtol = RTOL[prediction.dtype]
    assert got == pytest.approx(value.item(), rel=rtol)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=rtol, atol=rtol / 33)


@every
def test_weighted_means_are_torchs_losses_of_rows_weighted(loss, kind, options, dtype):
    # reduction="none" gives the rows; classes are divided by the weights of their rows, and all else by the rows
    torch = pytest.importorskip("torch")
    prediction, targets = data(20, 6, dtype, kind)
    options, weight = loss_options(options, 6), np.linspace(0.5, 2, 20)
    got = getattr(fo.functional, loss)(prediction, targets, sample_weight=weight, **options)[0]
    counted = weight * options["class_weight"][targets] if "class_weight" in options and kind == "classes" else weight
    counted = counted * (targets != options["ignore_index"]) if "ignore_index" in options else counted
    if "class_weight" in options:
        options["weight"] = torch.tensor(options.pop("class_weight"))
    target = torch.tensor(targets, dtype=None if kind == "classes" else torch.float64)
    rows = getattr(torch.nn.functional, TORCH[loss])(
        torch.tensor(prediction, dtype=torch.float64), target, reduction="none", **options
    ).numpy()
    rows = rows.reshape(20, -1).mean(axis=1)
    assert got == pytest.approx((rows * weight).sum() / counted.sum(), rel=RTOL[prediction.dtype])


# ---------------------------------------------------------------- rows that do not count

IGNORED = [o for _, kind, o in LOSS_CASES if kind == "classes" and "ignore_index" not in o]
every_ignored = pytest.mark.parametrize("options", IGNORED)


@every_ignored
@pytest.mark.parametrize("k", [3, 40])
@pytest.mark.parametrize("ignore", [-100, 0, 2**40])
def test_ignored_rows_are_torchs(options, k, ignore, dtype):
    torch = pytest.importorskip("torch")
    logits, classes = data(33, k, dtype, "classes")
    classes[::4] = ignore
    options = loss_options(options, k)
    got, grad = fo.functional.cross_entropy(logits, classes, ignore_index=ignore, **options)
    if "class_weight" in options:
        options["weight"] = torch.tensor(options.pop("class_weight"))
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = torch.nn.functional.cross_entropy(leaf, torch.tensor(classes), ignore_index=ignore, **options)
    value.backward()
    assert got == pytest.approx(value.item(), rel=RTOL[logits.dtype])
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=RTOL[logits.dtype], atol=RTOL[logits.dtype] / 33)


@every_ignored
@pytest.mark.parametrize("k", [5, 40])
@pytest.mark.parametrize("label", [-100, -1, 2**62])
def test_a_row_that_is_ignored_or_has_no_weight_is_as_if_absent_whatever_its_label(options, k, label, dtype):
    logits, classes = data(23, k, dtype, "classes")
    options, keep = loss_options(options, k), np.arange(23) % 3 > 0
    want, want_grad = fo.functional.cross_entropy(logits[keep], classes[keep], **options)
    logits[~keep], classes[~keep] = np.nan, label
    calls = [{"sample_weight": keep}, {"ignore_index": label}, {"ignore_index": label, "sample_weight": np.ones(23)}]
    for call in calls:
        got, grad = fo.functional.cross_entropy(logits, classes, **options, **call)
        assert got == pytest.approx(want, rel=RTOL[logits.dtype])
        np.testing.assert_allclose(grad[keep], want_grad, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps / 8)
        np.testing.assert_array_equal(grad[~keep], 0)


def test_all_rows_ignored_give_loss_zero_and_no_gradient(dtype):
    loss, grad = fo.functional.cross_entropy(np.ones((3, 4), dtype), np.full(3, -100), label_smoothing=0.1)
    assert loss == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("gauss_newton", [False, True])
def test_products_with_the_curvature_leave_ignored_rows_out(gauss_newton):
    net = fo.nn.Sequential([fo.nn.Dense(4, 5, "tanh"), fo.nn.Dense(5, 3)], rng=0, dtype=np.float64)
    x, y = data(12, 4, np.float64, "values")[0], draw_targets("classes", 12, 3)
    v, keep = [np.ones_like(a) for a in net.parameters()], np.arange(12) % 2 > 0
    want = net.hvp(x[keep], y[keep], v, gauss_newton=gauss_newton)
    y[~keep] = -7
    for got in (
        net.hvp(x, y, v, fo.nn.CrossEntropy(ignore_index=-7), gauss_newton=gauss_newton),
        net.hvp(x, y, v, sample_weight=keep, gauss_newton=gauss_newton),
    ):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_training_with_ignored_rows_takes_the_steps_of_training_without_them():
    x, y = data(60, 4, np.float64, "values")[0], draw_targets("classes", 60, 3)
    x[::3], y[::3] = 1e6, -100

    def fitted(rows, weight):
        net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0, dtype=np.float64)
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), lr=0.1))
        trainer.fit(x[rows], y[rows], epochs=3, batch_size=60, sample_weight=weight)
        return net.parameters()

    counted = y >= 0
    for rows, weight in ((slice(None), None), (slice(None), counted)):
        for a, b in zip(fitted(rows, weight), fitted(counted, None), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_labels_changed_after_the_check_never_reach_beyond_their_row():
    # a callback writes them between two epochs of one call of fit
    net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0)
    loss = fo.nn.CrossEntropy(class_weight=[1.0, 2.0, 3.0])
    trainer = fo.nn.Trainer(net, loss, fo.optim.SGD(net.parameters(), lr=0.1))
    x, y = data(50, 4, np.float32, "values")[0], np.zeros(50, np.int64)

    def spoil(trainer, history):
        y[::2] = 2**40
        y[1::4] = -(2**40)

    trainer.fit(x, y, epochs=3, batch_size=16, callbacks=spoil)
    assert all(np.isfinite(a).all() for a in net.parameters())


# ---------------------------------------------------------------- extremes


@pytest.mark.parametrize("k", [3, 40])
def test_cross_entropy_of_extreme_logits_is_finite(k, dtype):
    top = 1e30 if dtype == np.float32 else 1e300
    logits = np.full((3, k), -top, dtype)
    logits[0, 0] = logits[2, 1] = top
    loss, grad = fo.functional.cross_entropy(logits, [0, 1, 1])
    assert loss == pytest.approx(np.log(k) / 3, rel=1e-6)
    want = np.zeros((3, k))
    want[1] = (1 / k - np.eye(k)[1]) / 3
    np.testing.assert_allclose(grad, want, atol=1e-7)


def test_a_sure_mistake_costs_its_margin(dtype):
    loss, grad = fo.functional.cross_entropy(np.array([[500.0, 0.0]], dtype), [1])
    assert loss == 500
    np.testing.assert_array_equal(grad, [[1, -1]])


def test_cross_entropy_keeps_the_digits_of_a_small_loss(dtype):
    logits = np.array([[0.0, -30.0, -31.0]], dtype)
    want = logsumexp(logits.astype(float))
    loss, _ = fo.functional.cross_entropy(logits, [0])
    assert loss == pytest.approx(want, abs=float(np.finfo(dtype).eps))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [[0, 2], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]], ids=["classes", "probabilities"])
def test_cross_entropy_of_ten_thousand_is_exact(targets, smoothing, dtype):
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype)
    loss, grad = fo.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    # rows of margins (0, 2e4, 1e4) below the largest
    rows = np.array([0.0, 1e4]) * (1 - smoothing) + smoothing * 1e4
    assert loss == pytest.approx(rows.mean(), rel=1e-6)
    assert np.isfinite(grad).all()


def test_binary_cross_entropy_of_ten_thousand_is_exact(dtype):
    logits = np.array([[1e4, 1e4, -1e4, -1e4, 1e4, -1e4]], dtype)
    targets = np.array([[1, 0, 0, 1, 0.25, 0.25]], dtype)
    loss, grad = fo.functional.binary_cross_entropy(logits, targets)
    assert loss == pytest.approx(1e4 * (0 + 1 + 0 + 1 + 0.75 + 0.25) / 6, rel=1e-6)
    np.testing.assert_allclose(grad, np.array([[0, 1, 0, -1, 0.75, -0.25]]) / 6, rtol=1e-6)


def test_binary_cross_entropy_keeps_the_digits_of_a_small_loss(dtype):
    logits = np.array([[20.0, -20.0, 60.0, -60.0]], dtype)
    loss, grad = fo.functional.binary_cross_entropy(logits, [[1, 0, 1, 0]])
    tail = np.exp(-np.abs(logits.astype(float)))
    assert loss == pytest.approx(np.log1p(tail).mean(), rel=float(4 * np.finfo(dtype).eps))
    np.testing.assert_allclose(grad, np.sign(-logits) * tail / (1 + tail) / 4, rtol=8 * np.finfo(dtype).eps)


def test_infinite_logits_that_are_right_cost_nothing(dtype):
    logits = np.array([[np.inf, -np.inf]], dtype)
    loss, grad = fo.functional.binary_cross_entropy(logits, [[1, 0]])
    assert loss == 0
    np.testing.assert_array_equal(grad, [[0, 0]])
    assert fo.functional.binary_cross_entropy(logits, [[0, 0]])[0] == np.inf


def test_infinite_errors_have_infinite_losses_and_the_slopes_of_large_ones(dtype):
    prediction, targets = np.array([[np.inf, -np.inf]], dtype), np.zeros((1, 2), dtype)
    for loss, slopes in {"mse": (np.inf, -np.inf), "mae": (0.5, -0.5), "huber": (0.5, -0.5)}.items():
        got, grad = getattr(fo.functional, loss)(prediction, targets)
        assert got == np.inf
        np.testing.assert_array_equal(grad, [slopes])


def test_squares_of_errors_do_not_overflow(dtype):
    prediction = np.array([[1e30, 0.0]], np.float32).astype(dtype)
    assert fo.functional.mse(prediction, np.zeros((1, 2)))[0] == pytest.approx(5e59, rel=1e-6)


def test_an_error_of_zero_has_no_derivative(dtype):
    for loss in ("mse", "mae", "huber"):
        value, grad = getattr(fo.functional, loss)(np.ones((2, 3), dtype), np.ones((2, 3)))
        assert value == 0
        np.testing.assert_array_equal(grad, 0)


@every
@pytest.mark.parametrize("k", [4, 40])
def test_nan_in_a_row_is_refused_where_it_stands(loss, kind, options, k, dtype):
    prediction, targets = data(3, k, dtype, kind)
    prediction[1, 2] = np.nan
    if kind == "classes":
        targets[1] = 0  # a row that counts
    with pytest.raises(
        ValueError, match=r"(logits|prediction): expected values whose loss is defined, got nan at \(1, 2\)"
    ):
        getattr(fo.functional, loss)(prediction, targets, **loss_options(options, k))


@pytest.mark.parametrize("k", [4, 40])
def test_infinite_logits_are_refused_where_the_softmax_is_undefined(k, dtype):
    logits, classes = data(3, k, dtype, "classes")
    logits[0, :] = -np.inf
    logits[0, classes[0]] = 0  # the others are impossible: a loss of 0
    alone, _ = fo.functional.cross_entropy(logits[:1], classes[:1])
    assert alone == 0
    logits[1, 3] = np.inf
    with pytest.raises(ValueError, match=r"logits: expected values whose loss is defined, got -?inf"):
        fo.functional.cross_entropy(logits, classes)


def test_the_place_named_is_that_of_a_row_without_a_loss(dtype):
    logits = np.zeros((4, 6), dtype)
    logits[0, 3], logits[2, 5] = -np.inf, np.inf  # the first is no error
    with pytest.raises(ValueError, match=r"logits: .* got inf at \(2, 5\)"):
        fo.functional.cross_entropy(logits, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"sample_weight: .* too small or too large in float64"):
        fo.functional.mse(np.zeros((1, 1)), np.zeros((1, 1)), sample_weight=[1e-310])


def test_nan_in_targets_is_refused_where_it_stands(dtype):
    with pytest.raises(ValueError, match=r"targets: expected values whose loss is defined, got nan at \(0, 1\)"):
        fo.functional.mse(np.zeros((1, 2), dtype), np.array([[0, np.nan]], dtype))


# ---------------------------------------------------------------- what may be given


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_classes_of_any_integer_type_give_the_same_bits(integer, dtype):
    logits, classes = data(9, 5, dtype, "classes")
    got, want = (fo.functional.cross_entropy(logits, c) for c in (classes.astype(integer), classes))
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


@plain
def test_targets_of_a_single_output_may_be_one_dimensional(loss, kind, dtype):
    if loss == "cross_entropy":
        pytest.skip("one dimension is classes")
    prediction, targets = data(5, 1, dtype, kind)
    function = getattr(fo.functional, loss)
    assert function(prediction, targets[:, 0])[0] == function(prediction, targets)[0]


def test_binary_targets_may_be_bools_and_integers(dtype):
    logits = data(9, 5, dtype, "values")[0]
    yes = np.arange(45).reshape(9, 5) % 3 == 0
    losses = {fo.functional.binary_cross_entropy(logits, yes.astype(kind))[0] for kind in (bool, np.int8, int, float)}
    assert len(losses) == 1


# ---------------------------------------------------------------- losses of a network


def object_of(loss, options):
    kinds = {"cross_entropy": fo.nn.CrossEntropy, "huber": fo.nn.Huber}
    return kinds[loss](**options) if options else loss


@every
def test_a_network_evaluates_and_differentiates_what_the_function_does(loss, kind, options, dtype):
    net = fo.nn.Sequential([fo.nn.Dense(4, 6)], rng=0, dtype=dtype)
    x = data(20, 4, dtype, "values")[0]
    targets, weight, options = draw_targets(kind, 20, 6), np.linspace(0.1, 1, 20), loss_options(options, 6)
    want, grad = getattr(fo.functional, loss)(net.predict(x), targets, sample_weight=weight, **options)
    chosen = object_of(loss, options)
    assert net.evaluate(x, targets, chosen, sample_weight=weight) == want
    value, grads = net.value_and_grad(x, targets, chosen, sample_weight=weight)
    assert value == pytest.approx(want, rel=RTOL[dtype])
    np.testing.assert_allclose(grads[0], grad.T @ x, atol=20 * RTOL[dtype])


@every
def test_a_run_with_any_loss_goes_on_bit_for_bit_from_its_file(loss, kind, options, tmp_path):
    chosen, x = object_of(loss, loss_options(options, 3)), data(40, 4, np.float32, "values")[0]
    y = draw_targets(kind, 40, 3)

    def trainer():
        net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0)
        return fo.nn.Trainer(net, chosen, fo.optim.Adam(net.parameters(), lr=0.01))

    one, other = trainer(), trainer()
    one.fit(x, y, epochs=2, batch_size=16)
    one.save(tmp_path / "run.safetensors")
    other.resume(tmp_path / "run.safetensors")
    third = pickle.loads(pickle.dumps(one))
    histories = [t.fit(x, y, epochs=2, batch_size=16, validation=(x, y)) for t in (one, other, third)]
    assert histories[0] == histories[1] == histories[2]
    assert third.loss == chosen
    for a, b, c in zip(*(t.net.parameters() for t in (one, other, third)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_a_run_with_other_options_is_refused(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0)
    trainers = [
        fo.nn.Trainer(net, loss, fo.optim.SGD(net.parameters()))
        for loss in (fo.nn.CrossEntropy(0.1), fo.nn.CrossEntropy(0.2), "cross_entropy", fo.nn.CrossEntropy())
    ]
    trainers[0].save(tmp_path / "run.safetensors")
    for trainer in trainers[1:]:
        with pytest.raises(ValueError, match="expected loss"):
            trainer.resume(tmp_path / "run.safetensors")
    trainers[2].save(tmp_path / "run.safetensors")
    trainers[3].resume(tmp_path / "run.safetensors")  # no options are the defaults


def test_an_epochs_loss_is_the_mean_over_class_weights(dtype):
    # a learning rate of 0: the mean over batches of unequal weight is the mean over the data
    net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0, dtype=dtype)
    loss = fo.nn.CrossEntropy(class_weight=[0.1, 1.0, 5.0])
    x, y = data(50, 4, dtype, "values")[0], np.sort(draw_targets("classes", 50, 3))
    trainer = fo.nn.Trainer(net, loss, fo.optim.SGD(net.parameters(), lr=0.0))
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 50, 16)]
    want = net.evaluate(x, y, loss)
    assert trainer.fit(x, y, batch_size=16)["loss"][0] == pytest.approx(want, rel=4 * RTOL[dtype])
    assert trainer.fit(batches)["loss"][0] == pytest.approx(want, rel=4 * RTOL[dtype])


def test_probabilities_are_sigmoids_where_the_loss_is_binary(dtype):
    x = data(9, 4, dtype, "values")[0]
    for n_out, loss in ((1, None), (3, "binary_cross_entropy")):
        net = fo.nn.Sequential([fo.nn.Dense(4, n_out)], rng=0, dtype=dtype)
        want = 1 / (1 + np.exp(-net.predict(x).astype(float)))
        np.testing.assert_allclose(net.predict_proba(x, loss), want, rtol=RTOL[dtype])
    net = fo.nn.Sequential([fo.nn.Dense(4, 1, "sigmoid")], rng=0, dtype=dtype)
    np.testing.assert_array_equal(net.predict_proba(x), net.predict(x))


def test_a_binary_network_learns(dtype):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(400, 4)).astype(dtype)
    y = (X @ [1.0, -2.0, 0.5, 0.0] > 0.3).astype(int)
    net = fo.nn.Sequential([fo.nn.Dense(4, 16, "tanh"), fo.nn.Dense(16, 1)], rng=0, dtype=dtype)
    trainer = fo.nn.Trainer(net, "binary_cross_entropy", fo.optim.Adam(net.parameters(), lr=0.02))
    trainer.fit(X, y, epochs=20)
    assert fo.metrics.accuracy(y, net.predict_proba(X)[:, 0] > 0.5) > 0.97


# ---------------------------------------------------------------- class weights, however they are written

BY_CLASS = {
    "a dict": lambda: {0: 1.0, 1: 2.0, 2: 0.5},
    "a dict in another order": lambda: {2: 0.5, 0: 1, 1: 2},
    "a dict of NumPy's numbers": lambda: {np.int64(1): np.float32(2), np.int64(0): np.float64(1), np.int64(2): 0.5},
    "a Series in order of frequency": lambda: pytest.importorskip("pandas").Series([0.5, 1.0, 2.0], index=[2, 0, 1]),
    "an array": lambda: np.array([1.0, 2.0, 0.5]),
    "a float32 array": lambda: np.array([1, 2, 0.5], np.float32),
    "a generator": lambda: (w for w in (1.0, 2.0, 0.5)),
    "a torch tensor": lambda: pytest.importorskip("torch").tensor([1.0, 2.0, 0.5]),
}


@pytest.mark.parametrize("way", BY_CLASS)
def test_class_weights_are_those_of_their_classes_however_they_are_written(way):
    loss = fo.nn.CrossEntropy(class_weight=BY_CLASS[way]())
    assert loss == fo.nn.CrossEntropy(class_weight=(1.0, 2.0, 0.5))
    assert loss.class_weight == (1.0, 2.0, 0.5)


@pytest.mark.parametrize(
    "weights",
    [
        *({1.0, 2.0}, frozenset({1.0}), "balanced", b"12", 3, [[1.0], [2.0]], [True, False], ["1", "2"], [1.0, None]),
        *({0: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0}, {"a": 1.0}, {0: -1.0}, {0: None}, [1.0, -1.0], [math.nan], [math.inf]),
    ],
    ids=str,
)
def test_class_weights_that_cannot_be_read_are_refused(weights):
    with pytest.raises((TypeError, ValueError), match=r"^class_weight: expected .*, got "):
        fo.nn.CrossEntropy(class_weight=weights)


@pytest.mark.parametrize("make", [lambda v: fo.nn.CrossEntropy(label_smoothing=v), lambda v: fo.nn.Huber(delta=v)])
@pytest.mark.parametrize("value", ["0.5", None, True, math.nan, math.inf, -0.1, 10**400])
def test_an_option_of_a_loss_is_a_number_in_its_range(make, value):
    with pytest.raises(ValueError, match=r"^(label_smoothing|delta): expected a finite number"):
        make(value)


def test_options_of_a_loss_given_as_numpy_numbers_are_saved(tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0)
    for loss in (fo.nn.Huber(delta=np.float32(0.5)), fo.nn.CrossEntropy(np.float32(0.25), np.float32([1, 2, 3]))):
        fo.nn.Trainer(net, loss, "sgd").save(tmp_path / "run")
        fo.nn.Trainer(net, loss, "sgd").resume(tmp_path / "run")
