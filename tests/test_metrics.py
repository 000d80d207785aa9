"""Metrics beside scikit-learn's. Pass criterion: equal to a few eps."""

import numpy as np
import pytest
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
