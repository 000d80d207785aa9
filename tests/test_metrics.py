"""Metrics beside scikit-learn's. Pass criterion: equal to a few eps."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

import fastopt as fo

WEIGHTS = [None, np.linspace(0, 2, 50)]


@pytest.mark.parametrize("weight", WEIGHTS, ids=["plain", "weighted"])
def test_accuracy_and_its_loss_are_those_of_scikit_learn(weight, rng):
    y, scores = rng.integers(0, 3, 50), rng.normal(size=(50, 3))
    want = metrics.accuracy_score(y, scores.argmax(axis=1), sample_weight=weight)
    for found in (scores, scores.argmax(axis=1), scores.argmax(axis=1).tolist()):
        assert fo.metrics.accuracy(y, found, sample_weight=weight) == pytest.approx(want, rel=1e-14)
        assert fo.metrics.zero_one_loss(y, found, sample_weight=weight) == pytest.approx(1 - want, rel=1e-14)


@pytest.mark.parametrize("weight", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 4)], ids=str)
def test_r2_is_that_of_scikit_learn(shape, weight, rng):
    y = rng.normal(size=shape)
    found = y + 0.3 * rng.normal(size=shape)
    want = metrics.r2_score(y, found, sample_weight=weight)
    assert fo.metrics.r2_score(y, found, sample_weight=weight) == pytest.approx(want, rel=1e-12)


def test_r2_of_values_that_never_change_is_that_of_scikit_learn():
    for found in (np.ones(4), np.zeros(4)):
        assert fo.metrics.r2_score(np.ones(4), found) == metrics.r2_score(np.ones(4), found)


def test_a_column_of_predictions_fits_values_of_one_dimension(rng):
    y = rng.normal(size=20)
    assert fo.metrics.r2_score(y, (y + 0.1)[:, None]) == fo.metrics.r2_score(y, y + 0.1)


# ---------------------------------------------------------------- values at the ends of the floats

numbers, powers = st.integers(-20, 20), st.integers(-1060, 1000)


@given(
    st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8), st.integers(-1060, 1000), st.integers(-1060, 1000)
)
def test_r2_is_that_of_exact_arithmetic_however_large_or_small_the_values(rows, power, weight_power):
    y, found = ([Fraction(row[i]) for row in rows] for i in (0, 1))
    mean = sum(y) / len(y)
    spread, missed = sum((a - mean) ** 2 for a in y), sum((a - b) ** 2 for a, b in zip(y, found, strict=True))
    want = 1 - missed / spread if spread else Fraction(y == found)
    y, found = (np.ldexp(np.array(a, float), power) for a in (y, found))
    weight = np.full(len(y), math.ldexp(1.0, weight_power))
    assert fo.metrics.r2_score(y, found, sample_weight=weight) == pytest.approx(float(want), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 10, 49])
def test_r2_of_a_constant_that_is_not_exact_in_binary_is_0_or_1(n):
    y = np.full(n, 0.1)
    found = y + 0.1 * (np.arange(n) == 0)
    assert [fo.metrics.r2_score(y, y), fo.metrics.r2_score(y, found)] == [1, 0]


def test_r2_of_values_so_wrong_that_no_float_can_say_it_is_minus_infinity():
    assert fo.metrics.r2_score([1e-300, 2e-300], [1e300, 1e300]) == -math.inf


# ---------------------------------------------------------------- labels, weights and what is refused


@pytest.mark.parametrize(
    "labels", [[0.0, 1.0, 1.0], [False, True, True], ["a", "b", "b"], np.array(["a", "b", "b"], "O")]
)
def test_classes_may_be_whole_floats_bools_or_text(labels):
    assert fo.metrics.accuracy(labels, labels) == 1
    assert (
        fo.metrics.accuracy(labels, labels[:2] + labels[:1] if isinstance(labels, list) else labels[[0, 1, 0]]) == 2 / 3
    )


def test_the_first_of_equal_scores_counts():
    assert fo.metrics.accuracy([0, 1, 1], [[1, 1], [2, 2], [-np.inf, np.inf]]) == 2 / 3


def test_rows_of_weight_zero_may_hold_anything():
    scores = [[0.0, 1.0], [np.nan, np.nan], [1.0, 0.0]]
    assert fo.metrics.accuracy([1, -100, 1], scores, sample_weight=[1, 0, 3]) == 0.25
    y = [1.0, np.nan, 2.0, 4.0]
    assert fo.metrics.r2_score(y, [1.0, 2.0, 2.0, np.inf], sample_weight=[1, 0, 1, 0]) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_weights_of_few_bits_are_added_in_double_precision(dtype):
    n = 100_000
    y, weight = np.arange(n) % 3, np.full(n, 100, dtype)
    assert fo.metrics.accuracy(y, np.zeros(n, int), sample_weight=weight) == pytest.approx(np.mean(y == 0), rel=1e-14)


SCORES = np.eye(3)
MASKED = np.ma.masked_array([0, 1, 2], [False, True, False])
REFUSED = [
    (([0, 1, 2], SCORES + np.where(SCORES == 1, np.nan, 0)), "y_pred: expected scores without NaN, got [nan"),
    (([0, 1, 3], SCORES), "y_true: expected classes 0 to 2 beside scores, got 3 in row 2"),
    (([0, -1, 2], SCORES), "y_true: expected classes 0 to 2 beside scores, got -1 in row 1"),
    (([0, np.nan, 2], SCORES), "y_true: expected classes 0 to 2 beside scores, got nan in row 1"),
    ((["a", "b", "c"], SCORES), "y_pred: expected <U1 as in y_true, got float64"),
    (([0, 1, 2], ["0", "1", "2"]), "y_pred: expected int64 as in y_true, got <U1"),
    (([0, 1, 1], [0.1, 0.9, 0.8]), "y_pred: expected classes (pass y_pred > 0.5 for probabilities"),
    (([0, 1, np.nan], [0, 1, 2]), "y_true: expected classes"),
    (([0, 1, 2], [0, 1, np.inf]), "y_pred: expected classes"),
    (([0, 1, "2"], [0, 1, 2]), "y_true: expected an array of real numbers or of text, got dtype object"),
    (([0, 1, None], [0, 1, 2]), "y_true: expected an array of real numbers or of text, got dtype object"),
    (([0, 1, 2], [0, 1, 2j]), "y_pred: expected an array of real numbers or of text, got dtype complex128"),
    ((MASKED, [0, 1, 2]), "y_true: expected an array, got a masked array"),
    (([0, 1, 2], MASKED), "y_pred: expected an array, got a masked array"),
    (([[0], [1], [2]], SCORES), "y_true: expected classes (n,) of at least one row, got shape (3, 1)"),
    (([], []), "y_true: expected classes (n,) of at least one row, got shape (0,)"),
    (([0, 1, 2], np.ones((3, 0))), "y_pred: expected classes (3,) or scores (3, k), got shape (3, 0)"),
    (([0, 1, 2], np.ones((2, 3))), "y_pred: expected classes (3,) or scores (3, k), got shape (2, 3)"),
    (([0, 1, 2], np.ones((3, 1))), "y_pred: expected classes or scores of k > 1 classes, got one column"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_what_has_no_accuracy_is_refused(arguments, message):
    for metric in (fo.metrics.accuracy, fo.metrics.zero_one_loss):
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
            metric(*arguments)


NO_WEIGHTS = [
    ([1, -1, 1], "finite weights of at least 0, got -1.0 in row 1"),
    ([1, 1, np.nan], "finite weights of at least 0, got nan in row 2"),
    ([np.inf, 1, 1], "finite weights of at least 0, got inf in row 0"),
    ([0, 0, 0], "a weight above 0, got none"),
    ([1, 1], "shape (3,), got (2,)"),
    ([[1], [1], [1]], "shape (3,), got (3, 1)"),
    (1.0, "shape (3,), got ()"),
    ([1, 1, 1j], "an array of real numbers or of text, got dtype complex128"),
    (["1", "1", "1"], "real numbers, got text"),
    (MASKED, "an array, got a masked array"),
]


@pytest.mark.parametrize("metric", [fo.metrics.accuracy, fo.metrics.zero_one_loss, fo.metrics.r2_score])
@pytest.mark.parametrize(("weight", "message"), NO_WEIGHTS, ids=[message[:60] for _, message in NO_WEIGHTS])
def test_what_is_no_weight_is_refused(weight, message, metric):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape('sample_weight: expected ' + message)}"):
        metric([0, 1, 2], [0, 1, 2], sample_weight=weight)


NO_VALUES = [
    (([1.0, np.nan], [1.0, 2.0]), "y_true: expected finite values, got [nan] in row 1"),
    (([1.0, 2.0], [np.inf, 2.0]), "y_pred: expected finite values, got [inf] in row 0"),
    ((["1", "2"], [1.0, 2.0]), "y_true: expected real numbers, got text"),
    (([1.0, 2.0], [1.0, 2j]), "y_pred: expected an array of real numbers or of text, got dtype complex128"),
    ((MASKED, [0, 1, 2]), "y_true: expected an array, got a masked array"),
    (([1.0], [1.0]), "y_true: expected values (n, k) of at least two rows, got shape (1,)"),
    ((np.ones((2, 0)), np.ones((2, 0))), "y_true: expected values (n, k) of at least two rows, got shape (2, 0)"),
    (([1.0, 2.0], [1.0, 2.0, 3.0]), "y_pred: expected shape (2, 1), got (3,)"),
]


@pytest.mark.parametrize(("arguments", "message"), NO_VALUES, ids=[message[:60] for _, message in NO_VALUES])
def test_what_has_no_r2_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        fo.metrics.r2_score(*arguments)


def test_a_validation_that_has_no_loss_has_no_accuracy():
    net = fo.nn.Sequential([fo.nn.Dense(1, 2)], rng=0)
    net.layers[0].weight[:] = [[1e30], [-1e30]]
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), lr=0.1))
    history = trainer.fit(np.zeros((4, 1)), np.arange(4) % 2, validation=(np.array([[1.0], [3e38]]), np.array([0, 1])))
    assert np.isnan([history["val_loss"][0], history["val_accuracy"][0]]).all()
