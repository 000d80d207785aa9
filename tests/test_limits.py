"""The machine's yardsticks: rates are finite and positive on any team; what cannot be read is refused."""

import numpy as np
import pytest

import fastopt as fo
from fastopt._kernels import core


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rates_are_finite_and_positive_on_any_team(threads):
    x = np.ones(10_000, np.float32)
    with fo.num_threads(threads):
        rates = [core.fma_rate(), core.read_rate(x, 10)]
    assert np.isfinite(rates).all()
    assert min(rates) > 0


@pytest.mark.parametrize("x", [np.ones(8), np.ones((2, 4), np.float32)], ids=["float64", "two dimensions"])
def test_an_array_that_is_not_a_float32_row_is_refused(x):
    with pytest.raises((TypeError, ValueError), match="x: expected"):
        core.read_rate(x, 1)


@pytest.mark.parametrize("n_arrays", [2, 3])
def test_a_plain_pass_adds_to_every_array(n_arrays):
    arrays = [np.full(1000, i, np.float32) for i in range(n_arrays)]
    core.plain_pass(np.full(1000, 0.5, np.float32), arrays)
    for i, a in enumerate(arrays):
        np.testing.assert_array_equal(a, i + 0.5)
