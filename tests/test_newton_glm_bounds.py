"""Generalized linear models whose coefficients have bounds.

Pass criterion: the loss within 1e-9, relative, of SciPy's L-BFGS-B, and coefficients within 1e-6 where a penalty makes
them unique; no component of the gradient, computed by NumPy, that bounds allow to follow exceeds what `tol` promises.
"""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import pairwise
from reference import FAMILIES, glm
from test_newton_glm import as_theta, positive_problem, problem
from test_newton_glm_design import drawn, target

import fastopt as fo
from fastopt.newton import Design
from fastopt.newton import glm as fit_glm

BOUNDS = {
    "not negative": (0, np.inf),
    "narrow": (-0.1, 0.1),
    "away from 0": (0.05, 0.3),
    "one each": ([0, -1, -1, 0, 0, 0.2], [0, 1, 0, 1, np.inf, 0.2]),
}
every = pytest.mark.parametrize("family", FAMILIES)


def within(bounds, k, d):
    low, high = (np.broadcast_to(np.asarray(side, float), (k, d)) for side in bounds)
    return low, high


def check(fit, family, X, y, l2, bounds, weight=None, offset=0.0, tol=1e-9):
    """What a solution is: within the bounds, and no way down from it (Karush, Kuhn and Tucker)."""
    theta, weight = as_theta(fit), np.ones(len(X)) if weight is None else weight
    k, d = theta.shape[0], X.shape[1]
    low, high = within(bounds, k, d)
    coef = theta[:, :d]
    assert (coef >= low).all()
    assert (coef <= high).all()
    loss, grad, _ = glm(family, theta, X, y, weight, l2, offset)
    grad = grad[:, :d]
    down = np.where(coef <= low, np.minimum(grad, 0), grad)
    down = np.where(coef >= high, np.maximum(down, 0), down)
    assert np.abs(down).max() <= tol * weight.sum()
    np.testing.assert_array_equal(np.atleast_2d(fit.active), (coef == low) | (coef == high))
    assert fit.converged
    assert fit.loss == pytest.approx(loss, rel=1e-12)


def lbfgs(family, X, y, l2, bounds, k):
    d = X.shape[1]
    low, high = within(bounds, k, d)
    pairs = [pair for a in range(k) for pair in [*zip(low[a], high[a], strict=True), (-np.inf, np.inf)]]

    def value(t):
        loss, grad, _ = glm(family, t.reshape(k, d + 1), X, y, np.ones(len(X)), l2)
        return loss, grad.reshape(-1)

    start = np.clip(0.0, *np.array(pairs).T)
    tight = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 5000, "maxfun": 50_000}
    return scipy.optimize.minimize(value, start, jac=True, bounds=pairs, method="L-BFGS-B", options=tight)


@pairwise(family=FAMILIES, bounds=BOUNDS, l2=[0.0, 0.7], way=["dense", "conjugate gradients"])
def test_a_fit_within_bounds_equals_scipys(family, bounds, l2, way, monkeypatch):
    if way == "conjugate gradients":
        monkeypatch.setattr(fo.newton.glm_solver, "MOST_PASSES", 0)
    X, y = problem(family, 400, 6, 3)
    fit = fit_glm(X, y, family, l2, bounds=BOUNDS[bounds], tol=1e-9)
    check(fit, family, X, y, l2, BOUNDS[bounds])
    assert fit.active.any()
    theta = as_theta(fit)
    want = lbfgs(family, X, y, l2, BOUNDS[bounds], len(theta))
    assert fit.loss == pytest.approx(want.fun, rel=1e-9)
    if family != "multinomial" or l2:
        np.testing.assert_allclose(theta[:, :6], want.x.reshape(theta.shape)[:, :6], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["codes", "sparse"])
@every
def test_codes_and_sparse_matrices_have_bounds(family, kind):
    design, rows = drawn(600, 3, kind)
    y, k = target(family, rows)
    weight, offset = np.random.default_rng(2).uniform(0, 2, (2, 600))
    bounds = (0, np.full(design.d, 0.5))
    given = np.outer(offset, np.arange(3)) if k == 3 else offset
    fit = fit_glm(design, y, family, 0.3, True, weight, offset=given, bounds=bounds, tol=1e-10)
    check(fit, family, rows, y, 0.3, bounds, weight, given if k == 3 else given[:, None])


@every
def test_far_columns_have_the_bounds_of_their_own_coefficients(family):
    X, y = problem(family, 400, 4, 3)
    near, far = (fit_glm(X + shift, y, family, 0.1, bounds=(-0.1, 0.2), tol=1e-10) for shift in (0, 1e5))
    np.testing.assert_allclose(far.coef, near.coef, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(far.active, near.active)
    assert far.active.any()


def test_least_squares_that_are_not_negative_are_scipys():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 30))
    y = X @ rng.normal(size=30) + rng.normal(size=200)
    fit = fit_glm(X, y, "gaussian", 0.0, False, bounds=(0, np.inf))
    np.testing.assert_allclose(fit.coef, scipy.optimize.nnls(X, y)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(20, 60), (30, 4)], ids=str)
def test_fewer_rows_than_columns_have_bounds_too(shape):
    X, y = problem("poisson", *shape)
    y[0] = 1
    fit = fit_glm(X, y, "poisson", 0.5, bounds=(-0.05, np.inf), tol=1e-9)
    check(fit, "poisson", X, y, 0.5, (-0.05, np.inf))


@pytest.mark.parametrize("intercept", [True, False])
def test_bounds_and_the_domain_of_an_inverse_link(intercept):
    X, y = positive_problem()
    X, bounds = X - 0.2, (0.3, 2.5)
    fit = fit_glm(X + 0.2 * (not intercept), y, "gamma", 0.0, intercept, link="inverse", bounds=bounds, tol=1e-10)
    assert fit.converged
    assert fit.active.any()
    theta = as_theta(fit)[:, : 3 + intercept]
    grad = glm("gamma_inverse", theta, X + 0.2 * (not intercept), y, np.ones(len(y)))[1][0, :3]
    grad = np.where(fit.coef <= 0.3, np.minimum(grad, 0), np.where(fit.coef >= 2.5, np.maximum(grad, 0), grad))
    assert np.abs(grad).max() <= 1e-8 * len(y)


def test_classes_with_a_penalty_and_bounds_on_one_side_converge_in_a_few_steps():
    """The penalty tells the classes apart where bounds break the symmetry: no ridge takes its place."""
    for seed in (1, 3, 5):
        X = np.random.default_rng(seed).normal(size=(30, 4)) * [1, 1, 1, 1e3]
        fit = fit_glm(X, np.arange(30) % 3, "multinomial", 34.0, False, bounds=(0, np.inf), tol=1e-10)
        assert fit.converged
        assert fit.n_iter < 30


@every
def test_bounds_that_hold_nothing_change_nothing(family):
    X, y = problem(family, 300, 5, 3)
    fit, want = fit_glm(X, y, family, bounds=(-np.inf, 1e6), tol=1e-11), fit_glm(X, y, family, tol=1e-11)
    np.testing.assert_allclose(as_theta(fit), as_theta(want), rtol=0, atol=1e-8)
    assert not fit.active.any()
    assert fit.active.shape == fit.coef.shape
    assert want.active is None


def test_a_coefficient_between_equal_bounds_is_an_offset():
    X, y = problem("poisson", 300, 3)
    fit = fit_glm(X, y, "poisson", 0.0, bounds=([-np.inf, 0.7, -np.inf], [np.inf, 0.7, np.inf]), tol=1e-11)
    want = fit_glm(X[:, [0, 2]], y, "poisson", 0.0, offset=0.7 * X[:, 1], tol=1e-11)
    np.testing.assert_allclose(fit.coef, [want.coef[0], 0.7, want.coef[1]], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(fit.active, [False, True, False])


def test_classes_have_bounds_of_their_own():
    X, y = problem("multinomial", 400, 4, 3)
    low = np.full((3, 4), -np.inf)
    low[1] = 0
    fit = fit_glm(X, y, "multinomial", 0.5, bounds=(low, np.inf), tol=1e-10)
    check(fit, "multinomial", X, y, 0.5, (low, np.inf))
    assert fit.active[1].any()
    assert not fit.active[[0, 2]].any()


def test_bounds_give_classes_that_can_be_separated_a_solution():
    X, _ = problem("binomial", 100, 2)
    y = X[:, 0] > 0
    with pytest.warns(RuntimeWarning, match="can be separated"):
        assert not fit_glm(X, y, l2=0.0, bounds=(0, np.inf)).converged
    fit = fit_glm(X, y, l2=0.0, bounds=(-5, 5), tol=1e-10)
    check(fit, "binomial", X, y.astype(float), 0.0, (-5, 5))
    assert fit.coef[0] == 5


def test_dependent_columns_are_an_error_where_no_bound_holds_them():
    X, y = problem("binomial", 300, 3)
    X[:, 2] = X[:, 0] + X[:, 1]
    with pytest.raises(ValueError, match="got column 2, that depends on those before it"):
        fit_glm(X, y, l2=0.0, bounds=(-10, 10))
    assert fit_glm(X, y, l2=0.0, bounds=([-10, -10, 0], [10, 10, 0])).converged
    assert fit_glm(X, y, l2=1e-13, bounds=(-10, 10)).converged


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_a_column_does_not_matter(scale):
    X, y = problem("poisson", 500, 4)
    want = fit_glm(X, y, "poisson", 0.0, bounds=(-0.1, 0.2), tol=1e-11)
    sizes = np.array([1, scale, 1, scale])
    got = fit_glm(X * sizes, y, "poisson", 0.0, bounds=(-0.1 / sizes, 0.2 / sizes), tol=1e-11 * max(1, scale))
    np.testing.assert_allclose(got.coef * sizes, want.coef, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got.active, want.active)


SIDES = st.sampled_from([(-np.inf, np.inf), (0, np.inf), (-0.01, 0.1), (-np.inf, 0), (-0.1, 0.3), (0, 0)])


@given(
    st.sampled_from(FAMILIES),
    st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.0, 1.0, 1e2, 1e4]), min_size=4, max_size=4),
    st.lists(SIDES, min_size=4, max_size=4),
    st.sampled_from([0.0, 1e-6, 1.0]),
    st.sampled_from([0.3, 2.0]),
)
@example("multinomial", [3, 1, 0, 0], [0, 0, 0, 0], [(-0.01, 0.3), (-0.01, 0.3), (-0.1, 0), (0, 0)], 1e-6, 2.0)
@example("multinomial", [-1, -1, 1, 0], [0, 0, 0, 0], [(-0.01, 0.1), (0, np.inf), (-np.inf, 0), (0, 0)], 1.0, 1.0)
def test_scaled_shifted_columns_with_any_bounds_converge_without_a_warning(family, sizes, shifts, sides, l2, signal):
    X, y = problem(family, 200, 4, 3, signal=signal)
    sizes = 10.0 ** np.array(sizes)
    low, high = np.array(sides).T / sizes
    fit = fit_glm((X + shifts) * sizes, y, family, l2, bounds=(low, high))
    assert fit.converged
    assert (np.atleast_2d(fit.coef) >= low).all()
    assert (np.atleast_2d(fit.coef) <= high).all()
    if l2 == 0:
        want = fit_glm(X, y, family, 0.0, bounds=(low * sizes, high * sizes), tol=1e-11)
        assert fit.loss == pytest.approx(want.loss, rel=1e-8)


def test_bits_do_not_depend_on_the_team_within_bounds():
    design, rows = drawn(9001, 9)
    y, _ = target("poisson", rows)
    found = []
    for n in (1, 2, 3, 8):
        with fo.num_threads(n):
            found.append(fit_glm(design, y, "poisson", bounds=(-0.05, 0.2)).coef.tobytes())
    assert len(set(found)) == 1


def test_few_steps_warn_and_say_how_far_they_came(capsys):
    X, y = problem("poisson", signal=2)
    with pytest.warns(RuntimeWarning, match="glm: not converged after 1 steps, gradient .*; raise max_iter"):
        fit = fit_glm(X, y, "poisson", bounds=(0, 1), max_iter=1, verbose=True)
    assert fit.n_iter == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1"]


WRONG = {
    "number": (1.0, r"bounds: expected a tuple \(low, high\), each a number or an array, got 1.0"),
    "three": ((0, 1, 2), r"bounds: expected a tuple"),
    "pairs": ([(0, 1), (0, 2)], r"bounds: expected a tuple \(low, high\), .*; pass tuple\(zip\(\*pairs\)\)"),
    "shape": ((np.zeros(5), 1), r"bounds, low: expected a number or shape \(3,\), got \(5,\)"),
    "text": ((0, "1"), "bounds, high: expected real numbers"),
    "None": ((None, 1), "bounds, low: expected real numbers"),
    "crossed": ((0, [1, -1, 1]), "bounds: expected low of at most high, .* got 0.0 and -1.0 for column 1"),
    "NaN": ((np.nan, 1), "bounds: expected low of at most high, .* got nan and 1.0 for column 0"),
    "infinite low": ((np.inf, np.inf), "bounds: expected low of at most high, below infinity"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_bounds_are_named_with_what_was_expected(case):
    bounds, message = WRONG[case]
    X, y = problem("binomial", 30, 3)
    with pytest.raises((ValueError, TypeError), match=message):
        fit_glm(X, y, bounds=bounds)


def test_what_is_not_finite_is_an_error_within_bounds():
    X, y = problem("binomial", 30, 3)
    X[3, 1] = np.nan
    for rows in (X, Design(sparse=scipy.sparse.csr_array(X))):
        with pytest.raises(ValueError, match="X: expected finite values, got NaN or infinity in column 1"):
            fit_glm(rows, y, bounds=(0, 1))
