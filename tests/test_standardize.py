"""Standardisation against float64.

Pass criterion: standardize within 2 eps of the terms. Column statistics: test_batch_norm.py.
"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, standardize

import fastopt as fo

F = fo.functional


@given(st.integers(0, 70), st.integers(0, 70), st.sampled_from(DTYPES))
@example(0, 3, np.float32)
@example(3, 0, np.float32)
def test_standardize_equals_the_oracle(n, c, dtype):
    rng = np.random.default_rng((n, c))
    x, mean, scale = (rng.normal(size=shape).astype(dtype) for shape in ((n, c), (c,), (c,)))
    exact = standardize(x.astype(float), mean.astype(float), scale.astype(float))
    bound = 2 * np.finfo(dtype).eps * (np.abs(x) + np.abs(mean)) * np.abs(scale)
    assert (np.abs(F.standardize(x, mean, scale) - exact) <= bound).all()


def test_in_place_gives_the_same_bits(dtype, rng):
    x, mean, scale = (rng.normal(size=shape).astype(dtype) for shape in ((9, 17), 17, 17))
    y = F.standardize(x, mean, scale)
    assert F.standardize(x, mean, scale, x) is x
    np.testing.assert_array_equal(x, y)


def test_strided_inputs_give_the_bits_of_contiguous_ones(dtype, rng):
    x, mean, scale = (rng.normal(size=shape).astype(dtype) for shape in ((9, 34), 34, 34))
    half = slice(None, None, 2)
    np.testing.assert_array_equal(
        F.standardize(x[half, half], mean[half], scale[half]),
        F.standardize(x[half, half].copy(), mean[half].copy(), scale[half].copy()),
    )


def test_a_constant_column_is_only_centred():
    net = fo.nn.Sequential([fo.nn.Standardize(2)], dtype=np.float64)
    x = np.array([[3.0, 0.0], [3.0, 2.0]])
    np.testing.assert_array_equal(net.calibrate(x).predict(x), [[0, -1], [0, 1]])


def test_calibration_gives_columns_of_mean_zero_and_variance_one(rng):
    x = rng.normal(5, 3, (500, 7))
    y = fo.nn.Sequential([fo.nn.Standardize(7)], dtype=np.float64).calibrate(x).predict(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_refuses_what_is_not_finite_and_keeps_its_statistics(bad):
    net = fo.nn.Sequential([fo.nn.Standardize(2)], dtype=np.float64).calibrate(np.array([[0.0, 1.0], [2.0, 3.0]]))
    kept = net.layers[0].mean.copy()
    with pytest.raises(ValueError, match="column 1"):
        net.calibrate(np.array([[0.0, bad], [1.0, 1.0]]))
    np.testing.assert_array_equal(net.layers[0].mean, kept)
