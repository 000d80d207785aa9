"""Losses and their gradients against float64.

Pass criterion: loss within rtol of the oracle, gradients within rtol of the largest
gradient, rtol a few eps times the length of a row.
"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, LOSSES
from scipy.special import logsumexp

import fastopt as fo
from fastopt._kernels import core

RTOL = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 4e-15}

# what each loss may be given as targets
TARGETS = {"cross_entropy": ("classes", "probabilities"), "mse": ("values",)}
KINDS = [(loss, kind) for loss in LOSSES for kind in TARGETS[loss]]
every = pytest.mark.parametrize(("loss", "kind"), KINDS)


def data(n, k, dtype, kind, seed=0):
    rng = np.random.default_rng((seed, n, k))
    prediction = rng.normal(0, 3, (n, k)).astype(dtype)
    if kind == "classes":
        return prediction, rng.integers(0, k, n)
    if kind == "probabilities":
        return prediction, rng.dirichlet(np.ones(k), n).astype(dtype)
    return prediction, rng.normal(0, 3, (n, k)).astype(dtype)


def check(loss, prediction, targets, weight=None):
    got, grad = getattr(fo.functional, loss)(prediction, targets, sample_weight=weight)
    exact_targets = targets if targets.dtype.kind == "i" else targets.astype(float)
    want, want_grad = LOSSES[loss](prediction.astype(float), exact_targets, weight)
    rtol = RTOL[prediction.dtype]
    assert isinstance(got, float)
    assert got == pytest.approx(want, rel=rtol, abs=rtol)
    assert grad.dtype == prediction.dtype
    np.testing.assert_allclose(grad, want_grad, rtol=rtol, atol=rtol * np.abs(want_grad).max(initial=0))


def test_the_oracle_knows_every_loss():
    assert tuple(LOSSES) == core.LOSSES


@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from(DTYPES), st.sampled_from(KINDS), st.booleans())
@example(1, 1, np.float32, ("cross_entropy", "classes"), False)
@example(1, 1, np.float32, ("mse", "values"), True)
def test_loss_and_gradient_equal_the_oracle(n, k, dtype, case, weighted):
    prediction, targets = data(n, k, dtype, case[1])
    weight = np.random.default_rng(n).uniform(0.1, 3, n).astype(dtype) if weighted else None
    check(case[0], prediction, targets, weight)


@every
def test_large_batches_equal_the_oracle(loss, kind, dtype):
    check(loss, *data(3000, 101, dtype, kind))


@every
def test_gradients_equal_differences(loss, kind):
    prediction, targets = data(4, 5, np.float64, kind)
    weight = np.array([1.0, 0.0, 2.0, 0.5])
    function = getattr(fo.functional, loss)
    _, grad = function(prediction, targets, sample_weight=weight)
    for i in np.ndindex(prediction.shape):
        before, ends = prediction[i], []
        for h in (1e-5, -1e-5):
            prediction[i] = before + h
            ends.append(function(prediction, targets, sample_weight=weight)[0])
        prediction[i] = before
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(grad[i], abs=1e-8)


@every
def test_the_gradient_lands_in_the_array_given(loss, kind, dtype):
    prediction, targets = data(7, 9, dtype, kind)
    out = np.empty_like(prediction)
    _, grad = getattr(fo.functional, loss)(prediction, targets, out)
    assert grad is out
    np.testing.assert_array_equal(out, getattr(fo.functional, loss)(prediction, targets)[1])


@every
def test_a_row_of_weight_zero_is_as_if_absent(loss, kind, dtype):
    prediction, targets = data(6, 5, dtype, kind)
    weight = np.array([1, 1, 0, 1, 1, 1], dtype)
    keep = weight > 0
    prediction[2, 1] = np.nan  # even if it holds NaN
    got, grad = getattr(fo.functional, loss)(prediction, targets, sample_weight=weight)
    want, want_grad = getattr(fo.functional, loss)(prediction[keep], targets[keep])
    assert got == pytest.approx(want, rel=RTOL[prediction.dtype])
    np.testing.assert_allclose(grad[keep], want_grad, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(grad[2], 0)


@every
def test_all_weights_zero_give_loss_zero_and_no_gradient(loss, kind, dtype):
    prediction, targets = data(3, 4, dtype, kind)
    got, grad = getattr(fo.functional, loss)(prediction, targets, sample_weight=np.zeros(3))
    assert got == 0
    np.testing.assert_array_equal(grad, 0)


@every
def test_equal_weights_are_no_weights(loss, kind, dtype):
    prediction, targets = data(8, 4, dtype, kind)
    function = getattr(fo.functional, loss)
    got, want = function(prediction, targets, sample_weight=np.full(8, 2.0)), function(prediction, targets)
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


def test_one_hot_probabilities_give_the_bits_of_classes(dtype):
    logits, classes = data(20, 7, dtype, "classes")
    one_hot = np.eye(7, dtype=dtype)[classes]
    by_class, by_row = fo.functional.cross_entropy(logits, classes), fo.functional.cross_entropy(logits, one_hot)
    assert by_row[0] == pytest.approx(by_class[0], rel=1e-14)
    np.testing.assert_array_equal(by_row[1], by_class[1])


def test_cross_entropy_of_extreme_logits_is_finite(dtype):
    top = 1e30 if dtype == np.float32 else 1e300
    logits = np.array([[top, -top, 0], [-top, -top, -top], [0, top, 0]], dtype)
    loss, grad = fo.functional.cross_entropy(logits, [0, 1, 1])
    assert loss == pytest.approx(np.log(3) / 3, rel=1e-6)
    np.testing.assert_allclose(grad, [[0, 0, 0], [1 / 9, -2 / 9, 1 / 9], [0, 0, 0]], atol=1e-7)


def test_a_sure_mistake_costs_its_margin(dtype):
    loss, grad = fo.functional.cross_entropy(np.array([[500.0, 0.0]], dtype), [1])
    assert loss == 500
    np.testing.assert_array_equal(grad, [[1, -1]])


def test_cross_entropy_keeps_the_digits_of_a_small_loss(dtype):
    logits = np.array([[0.0, -30.0, -31.0]], dtype)
    want = logsumexp(logits.astype(float))
    loss, _ = fo.functional.cross_entropy(logits, [0])
    assert loss == pytest.approx(want, abs=float(np.finfo(dtype).eps))


@every
def test_nan_in_a_row_shows_in_the_loss(loss, kind, dtype):
    prediction, targets = data(3, 4, dtype, kind)
    prediction[1, 2] = np.nan
    got, grad = getattr(fo.functional, loss)(prediction, targets)
    assert np.isnan(got)
    assert np.isnan(grad[1]).any()
    assert np.isfinite(grad[[0, 2]]).all()


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_classes_of_any_integer_type_give_the_same_bits(integer, dtype):
    logits, classes = data(9, 5, dtype, "classes")
    got, want = (fo.functional.cross_entropy(logits, c) for c in (classes.astype(integer), classes))
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


def test_targets_of_a_single_output_may_be_one_dimensional(dtype):
    prediction, targets = data(5, 1, dtype, "values")
    assert fo.functional.mse(prediction, targets[:, 0])[0] == fo.functional.mse(prediction, targets)[0]
