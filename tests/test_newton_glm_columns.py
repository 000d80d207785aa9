"""Generalized linear models on columns far from zero, of very unlike size, or constant.

Pass criterion: coefficients, in units of the columns' deviations, and the intercept within NEAR of those of the
columns centered by NumPy, relative to the largest; standard errors and what statsmodels 0.15 gives to the digits
written here.
"""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, FAMILIES, glm
from test_newton_glm import as_theta, problem, some_of_each

import fastopt as fo
from fastopt.newton import Design
from fastopt.newton import glm as fit_glm

NEAR = 1e-6
every = pytest.mark.parametrize("family", FAMILIES)


def drawn(family, n, d, weighted, seed=0):
    X, y = problem(family, n, d, 3, seed)
    if n < 50:
        some_of_each(family, y)
    weight = np.random.default_rng(5).uniform(0.5, 2, n) if weighted else None
    return X, y, weight


def check_as_if_centered(X, y, family, l2, weight, within=NEAR):
    """The fit of X beside that of X less its mean."""
    center = np.average(X.astype(float), axis=0, weights=weight)
    centered = X.astype(float) - center
    size = np.sqrt(np.average(centered**2, axis=0, weights=weight))
    got = fit_glm(X, y, family, l2, sample_weight=weight)
    want = fit_glm(centered, y, family, l2, sample_weight=weight, tol=1e-11)
    assert got.converged
    coef = np.atleast_2d(want.coef) * size
    np.testing.assert_allclose(
        np.atleast_2d(got.coef) * size, coef, rtol=0, atol=within * max(1e-2, np.abs(coef).max())
    )
    intercept = np.atleast_1d(want.intercept) - np.atleast_2d(want.coef) @ center
    np.testing.assert_allclose(got.intercept, intercept, rtol=0, atol=within * max(1, np.abs(intercept).max()))
    return got, want


# ---------------------------------------------------------------- far from zero


@pytest.mark.parametrize(("l2", "coef"), [(0.0, 0.98672126), (1.0, 0.98004127)])
def test_julian_dates_give_the_coefficient_of_statsmodels(l2, coef):
    rng = np.random.default_rng(0)
    u = 7 * rng.uniform(size=500)
    y = u - 3.5 + rng.logistic(size=500) > 0
    fit = fit_glm((2460000 + u)[:, None], y, l2=l2)
    assert fit.converged
    assert fit.coef[0] == pytest.approx(coef, abs=1e-8)
    near = fit_glm(u[:, None], y, l2=l2)
    assert fit.intercept == pytest.approx(near.intercept - 2460000 * near.coef[0], rel=1e-9)
    if l2 == 0:
        np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), [8.28107950e-02, 2.03714844e05], rtol=1e-7)


@given(
    st.sampled_from(FAMILIES),
    st.floats(0, 7),
    st.integers(-7, 7),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([(300, 4), (90, 1)]),
)
@example("gaussian", 7, 0, 0.0, np.float64, False, (300, 4))
@example("multinomial", 7, 0, 1.0, np.float64, True, (300, 4))
@example("poisson", 7, -7, 0.0, np.float64, True, (300, 4))
@example("binomial", 0.95, 0, 0.0, np.float32, True, (300, 4))
def test_a_free_intercept_lets_columns_lie_anywhere(family, ratio, scale, l2, dtype, weighted, shape):
    """Means of up to 10^7 deviations, deviations of 10^-7 to 10^7."""
    X, y, weight = drawn(family, *shape, weighted)
    if dtype == np.float32:
        ratio = min(ratio, 5)  # what lies farther has few digits left
    signs = np.where(np.arange(shape[1]) % 3 == 2, -1, 1)
    X = ((X + signs * 10**ratio) * 10.0**scale).astype(dtype)
    check_as_if_centered(X, y, family, l2, weight)


@every
@pytest.mark.parametrize("way", [(20, 60), (2000, 9)], ids=["among the rows", "conjugate gradients"])
def test_far_columns_by_every_way(family, way, monkeypatch):
    X, y, weight = drawn(family, *way, True)
    if way[0] > way[1]:
        monkeypatch.setattr(fo.newton.glm_solver, "MOST_PASSES", 0)
    check_as_if_centered(X + 1e5, y, family, 1.0, weight)


def test_drifting_rows_and_rows_of_weight_zero_do_not_hide_where_the_columns_lie():
    X, y, _ = drawn("binomial", 3000, 2, False)
    order = np.argsort(X[:, 0])
    X, y = X[order], y[order]
    check_as_if_centered(1e7 + X, y, "binomial", 0.0, None)
    fillers = np.zeros((27_000, 2))
    many, labels = np.vstack([fillers, 1e7 + X]), np.append(np.zeros(27_000), y)
    weight = np.append(np.zeros(27_000), np.ones(3000))
    got, want = fit_glm(many, labels, l2=0.0, sample_weight=weight), fit_glm(1e7 + X, y, l2=0.0)
    assert got.converged
    np.testing.assert_allclose(got.coef, want.coef, rtol=NEAR)


@every
def test_hessian_and_covariance_of_far_columns_are_those_of_their_own_parameters(family):
    X, y, weight = drawn(family, 300, 3, True)
    X = X + 1e6
    fit, near = fit_glm(X, y, family, 0.5, sample_weight=weight), fit_glm(X - 1e6, y, family, 0.5, sample_weight=weight)
    theta = as_theta(near)
    theta[:, -1] -= 1e6 * theta[:, :-1].sum(axis=1)
    hessian = glm(family, theta, X, y, weight, 0.5)[2]
    np.testing.assert_allclose(fit.hessian, hessian, rtol=1e-6, atol=1e-9 * np.abs(hessian).max())
    np.testing.assert_array_equal(fit.hessian, fit.hessian.T)
    to = np.eye(4)  # coef and intercept of the columns from those about 1e6
    to[3, :3] = -1e6
    to = np.kron(np.eye(len(theta)), to)
    covariance = to @ near.covariance @ to.T
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6, atol=1e-7 * np.abs(near.covariance).max())


@pytest.mark.parametrize("shift", [0.0, 30.0, 1e6])
def test_the_condition_number_of_far_columns_is_that_of_their_own_parameters(shift):
    X, y, _ = drawn("gaussian", 50, 1, False)
    X = np.round(X, 3) + shift
    fit = fit_glm(X, y, "gaussian", 0.0)
    exact = [Fraction(float(x)) for x in X[:, 0]]
    a, b, c = sum(x * x for x in exact), sum(exact), Fraction(len(exact))
    largest = (float(a + c) + float((a - c) ** 2 + 4 * b * b) ** 0.5) / 2
    assert fit.condition_number == pytest.approx(largest**2 / float(a * c - b * b), rel=1e-6)


# ---------------------------------------------------------------- without an intercept


@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e7])
def test_without_an_intercept_far_columns_are_solved_with_a_penalty(ratio):
    X, y, _ = drawn("binomial", 400, 2, False)
    fit = fit_glm(X + ratio, y, fit_intercept=False)
    assert fit.converged
    # coef is nearly (b, -b), the rest of it an intercept over the ratio
    want = fit_glm(X[:, :1] - X[:, 1:], y, l2=2.0, tol=1e-11)
    np.testing.assert_allclose(fit.coef, [want.coef[0], -want.coef[0]], rtol=0, atol=10 / ratio)


def test_without_an_intercept_what_float64_cannot_tell_apart_is_said_to_be_so():
    X, y, _ = drawn("binomial", 400, 2, False)
    assert fit_glm(X + 1e4, y, l2=0.0, fit_intercept=False).converged
    with pytest.raises(ValueError, match=r"got column 1, .* \(to rounding: .* center them\); drop a column"):
        fit_glm(X + 1e7, y, l2=0.0, fit_intercept=False)


# ---------------------------------------------------------------- of very unlike size


@given(
    st.sampled_from(FAMILIES),
    st.lists(st.integers(-8, 8), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.0, 1.0, 1e2, 1e4, 1e6]), min_size=4, max_size=4),
    st.sampled_from([0.0, 1e-8, 1.0, 1e20]),
    st.integers(-30, 30),
    st.booleans(),
)
@example("binomial", [8, -8, 8, -8], [1e6, 1e6, 0.0, 0.0], 0.0, 0, True)
@example("poisson", [8, 0, -8, 3], [1e4, 1e6, 1e2, 0.0], 1.0, -30, True)
def test_scaled_shifted_columns_converge_without_a_warning(family, sizes, shifts, l2, weigh, intercept):
    X, y, _ = drawn(family, 400, 4, False)
    sizes, weight = 10.0 ** np.array(sizes), np.full(len(X), 10.0**weigh)
    far = (X + (shifts if intercept else 0.0)) * sizes
    fit = fit_glm(far, y, family, l2 * 10.0**weigh, intercept, weight)
    assert fit.converged
    if l2 == 0:
        want = np.atleast_2d(fit_glm(X, y, family, 0.0, intercept, tol=1e-11).coef)
        np.testing.assert_allclose(np.atleast_2d(fit.coef) * sizes, want, rtol=0, atol=NEAR * np.abs(want).max())


@pytest.mark.parametrize("scale", [1e-140, 1e-10, 1e-3, 1e10, 1e140])
def test_the_unit_of_a_gaussian_does_not_matter(scale):
    X, y, _ = drawn("gaussian", 300, 4, False)
    want, got = fit_glm(X, y, "gaussian", 0.0, tol=1e-11), fit_glm(X, y * scale, "gaussian", 0.0)
    assert got.converged
    np.testing.assert_allclose(as_theta(got) / scale, as_theta(want), rtol=NEAR)


@pytest.mark.parametrize("bounds", [None, (-np.inf, np.inf)])
@pytest.mark.parametrize("family", ["binomial", "multinomial", "poisson", "negative_binomial", "tweedie"])
@pytest.mark.parametrize("tol", [1e-8, 1e-13])
def test_independent_columns_of_separated_rows_are_not_called_dependent(family, bounds, tol):
    """Rows whose means fade out of the Hessian leave it singular: a warning, not an error about X."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(12, 2))
        upper = X[:, 0] > np.quantile(X[:, 0], 0.7)
        X[upper, 0] = X[:, 0].max()
        y = np.where(upper, rng.integers(1, 4, 12), 0)
        if family in ("binomial", "multinomial"):
            y = np.where(upper, 2, 0 if family == "binomial" else rng.integers(0, 2, 12))
        with pytest.warns(RuntimeWarning, match="can be separated"):
            fit = fit_glm(X * [1e5, 1e-3], y, family, l2=0, tol=tol, bounds=bounds)
        assert not fit.converged


def test_classes_that_can_be_separated_are_told_beside_a_column_of_another_size():
    X, _, _ = drawn("binomial", 100, 2, False)
    y = X[:, 0] > 0
    with pytest.warns(RuntimeWarning, match="can be separated"):
        assert not fit_glm(X * [1, 1e-8] + [0, 1e-2], y, l2=0.0).converged
    with pytest.warns(RuntimeWarning, match="can be separated"):
        assert not fit_glm(X + 1e6, y, l2=0.0).converged


def test_values_whose_squares_underflow_are_an_error_that_says_so():
    X, y, _ = drawn("binomial", 100, 2, False)
    with pytest.raises(
        ValueError, match=r"X: expected values whose squares are numbers, got a deviation of .* scale it"
    ):
        fit_glm(X * 1e-170, y, l2=0.0)
    with pytest.raises(
        ValueError, match=r"y: expected values whose squares are numbers, got a deviation of .* scale y"
    ):
        fit_glm(X, X[:, 0] * 1e-170, "gaussian")


# ---------------------------------------------------------------- constant


@every
@pytest.mark.parametrize("value", [3.0, 0.1, 1e9])
def test_a_constant_column_beside_far_ones(family, value):
    X, y, _ = drawn(family, 300, 3, False)
    X = X + 1e4
    X[:, 1] = value
    X[::3, 1] = value * (1 + 2**-52)  # what a sum or a product may have made of it
    with pytest.raises(ValueError, match="columns that add up to a constant, as the intercept: column 1"):
        fit_glm(X, y, family, 0.0)
    fit, want = fit_glm(X, y, family), fit_glm(np.delete(X, 1, axis=1), y, family)
    assert fit.converged
    np.testing.assert_allclose(np.delete(np.atleast_2d(fit.coef), 1, axis=1), np.atleast_2d(want.coef), atol=1e-6)


def test_a_far_column_that_depends_on_another_is_named():
    X, y, _ = drawn("binomial", 300, 3, False)
    X = X + 1e4
    X[:, 2] = 3e4 - X[:, 0]
    with pytest.raises(ValueError, match="got column 2, that depends on those before it"):
        fit_glm(X, y, l2=0.0)
    X[:, 2] = X[:, 0] * 1.5 + X[:, 1] - 7
    with pytest.raises(ValueError, match="got column 2, that depends on those before it"):
        fit_glm(X, y, l2=0.0)


def test_columns_near_zero_are_not_centered():
    """Nobody pays for a center but far columns, in time or in other bits."""
    X, y, _ = drawn("binomial", 500, 4, False)
    near, far = Design(X + 5), Design(X + 50)
    data = fo.newton.glm_data.Data("binomial", near, y, None, 1, True, None)
    assert fo.newton.glm_data.located(data)[0] is None
    assert fo.newton.glm_data.located(data._replace(design=far))[0] is not None
    assert fo.newton.glm_data.located(data._replace(design=far, intercept=False))[0] is None


def test_no_warning_reaches_a_caller_whose_fit_converged():
    X, y, _ = drawn("poisson", 300, 3, False)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        fit = fit_glm((X + 1e6) * [1e-8, 1, 1e8], y, "poisson", 0.0)
        assert fit.converged
        assert np.isfinite(fit.covariance).all()
