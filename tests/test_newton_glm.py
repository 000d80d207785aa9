"""Generalized linear models: the kernel against NumPy, fits against scikit-learn and SciPy.

Pass criterion: loss, gradient and Hessian within RTOL of the largest entry; a fit's coefficients within
1e-8, relative, of another solver's; its gradient, computed by NumPy, within what `tol` promises.
"""

import pickle
import signal
import warnings

import numpy as np
import pytest
import scipy.optimize
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import pairwise
from reference import DTYPES, FAMILIES, GLM_PARAMETERS, glm
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, TweedieRegressor

import fastopt as fo
from fastopt._kernels import core
from fastopt.newton import glm as fit_glm
from fastopt.newton.glm_data import LINKS

RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
TIGHT = {"tol": 1e-12}

every = pytest.mark.parametrize("family", FAMILIES)
kernels = pytest.mark.parametrize("family", core.FAMILIES)


def problem(family, n=400, d=6, k=4, seed=0, signal=1.0, dtype=np.float64):
    """X and a y that the family could have drawn."""
    rng = np.random.default_rng((n, d, seed))
    X = rng.normal(size=(n, d)).astype(dtype)
    z = 0.3 + X @ rng.normal(size=d) * signal / np.sqrt(d)
    if family == "gaussian":
        return X, z + rng.normal(size=n)
    mean = np.exp(z)
    if family == "poisson":
        return X, rng.poisson(mean).astype(float)
    if family in ("gamma", "gamma_inverse"):
        return X, rng.gamma(2, mean / 2)
    if family == "tweedie":
        return X, np.where(rng.uniform(size=n) < 0.3, 0, rng.gamma(2, mean / 1.4))
    if family == "negative_binomial":
        return X, rng.negative_binomial(1, 1 / (1 + mean)).astype(float)
    if family == "binomial":
        return X, (rng.uniform(size=n) < 1 / (1 + np.exp(-z))).astype(float)
    return X, (X @ rng.normal(size=(d, k)) * signal + rng.gumbel(size=(n, k))).argmax(axis=1).astype(float)


def some_of_each(family, y):
    """Let few rows have what a family needs: every class, and a count."""
    if family not in ("gaussian", "gamma"):
        y[:3] = [1, 0, 2 if family == "multinomial" else 1][: len(y)]


def as_theta(fit):
    return np.column_stack([np.atleast_2d(fit.coef), np.atleast_1d(fit.intercept)])


def gradient_of(fit, family, X, y, weight=None, l2=1.0):
    weight = np.ones(len(X)) if weight is None else weight
    return np.abs(glm(family, as_theta(fit), X, y, weight, l2)[1]).max() / weight.sum()


# ---------------------------------------------------------------- the kernel


def test_the_oracle_knows_every_family():
    assert (*FAMILIES[:5], "gamma_inverse", *FAMILIES[5:]) == core.FAMILIES
    assert set(FAMILIES) == set(LINKS)


def bound(family, X, y, weight, k, intercept):
    return core.GlmData(family, X, y, weight, k, intercept, parameter=GLM_PARAMETERS.get(family, 0))


def check_kernel(family, n, d, k, intercept, dtype, weighted, hessian_dtype):
    X, y = problem(family, n, d, k, dtype=dtype)
    k = k if family == "multinomial" else 1
    rng = np.random.default_rng(n)
    weight = rng.uniform(0, 2, n) if weighted else None
    theta, v = rng.normal(size=(2, k, d + intercept)) / np.sqrt(d)
    if family == "gamma_inverse":  # predictors above 0
        X, theta = np.abs(X), np.abs(theta) + 0.1
    data, grad, out = bound(family, X, y, weight, k, intercept), np.empty_like(theta), np.empty_like(theta)
    hessian = np.zeros((theta.size, theta.size), hessian_dtype)
    got = data.value(theta, grad, hessian)
    loss, want_grad, want = glm(family, theta, X, y, np.ones(n) if weight is None else weight)
    assert got == pytest.approx(loss, rel=1e-13, abs=1e-13 * n)
    np.testing.assert_allclose(grad, want_grad, rtol=0, atol=1e-13 * max(n, np.abs(want_grad).max()))
    rtol = RTOL[np.dtype(hessian_dtype)]
    np.testing.assert_allclose(np.tril(hessian), np.tril(want), rtol=0, atol=rtol * max(1, np.abs(want).max()))
    data.product(v, out)
    product = want @ v.reshape(-1)
    np.testing.assert_allclose(out.reshape(-1), product, rtol=0, atol=1e-13 * max(n, np.abs(product).max()))
    again, alone = np.zeros_like(hessian), np.empty_like(grad)
    data.hessian(again)
    np.testing.assert_array_equal(np.tril(again), np.tril(hessian))
    assert data.value(theta, alone) == got
    np.testing.assert_array_equal(alone, grad)


@given(
    st.sampled_from(core.FAMILIES),
    st.integers(1, 200),
    st.integers(1, 60),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from(DTYPES),
)
@example("binomial", 1, 1, 2, False, np.float64, False, np.float64)
@example("multinomial", 16, 24, 5, True, np.float32, True, np.float32)
@example("poisson", 65, 49, 2, True, np.float32, False, np.float64)
@example("gamma_inverse", 65, 3, 2, True, np.float64, True, np.float64)
@example("tweedie", 65, 3, 2, True, np.float64, True, np.float64)
def test_loss_gradient_hessian_and_products_equal_the_oracle(
    family, n, d, k, intercept, dtype, weighted, hessian_dtype
):
    check_kernel(family, n, d, k, intercept, dtype, weighted, hessian_dtype)


@kernels
@pytest.mark.parametrize("shape", [(3001, 50), (700, 131), (40, 300)], ids=str)
def test_many_rows_and_columns_equal_the_oracle(family, shape, dtype):
    check_kernel(family, *shape, 3, True, np.float64, True, dtype)


@kernels
def test_the_gradient_and_the_hessian_are_differences_of_the_loss(family):
    X, y = problem(family, 50, 4, 3)
    k = 3 if family == "multinomial" else 1
    theta = np.random.default_rng(1).normal(size=(k, 5)) / 3
    if family == "gamma_inverse":
        X, theta = np.abs(X), np.abs(theta)
    data = bound(family, X, y, None, k, True)
    grad, hessian, ends = np.empty_like(theta), np.zeros((theta.size, theta.size)), np.empty((2, *theta.shape))
    data.value(theta, grad, hessian)
    full = np.tril(hessian) + np.tril(hessian, -1).T
    for i, at in enumerate(np.ndindex(theta.shape)):
        losses = []
        for side, h in enumerate((1e-5, -1e-5)):
            moved = theta.copy()
            moved[at] += h
            losses.append(data.value(moved, ends[side]))
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(grad[at], abs=1e-6 * np.abs(grad).max())
        difference = (ends[0] - ends[1]).reshape(-1) / 2e-5
        np.testing.assert_allclose(difference, full[i], rtol=0, atol=1e-6 * np.abs(full).max())


def test_a_hessian_of_a_part_of_the_rows_is_that_of_their_panels():
    X, y = problem("binomial", 64 * 40, 5)
    data, theta = core.GlmData("binomial", X, y, None, 1, False), np.full((1, 5), 0.2)
    hessian, grad = np.zeros((5, 5)), np.empty((1, 5))
    data.value(theta, grad, hessian, 8)
    full = glm("binomial", theta, X, y, np.ones(len(X)))[2]
    assert 0.01 < np.abs(np.tril(hessian - full)).max() / full.max() < 0.3
    np.testing.assert_array_equal(grad, [core_gradient(data, theta)])


def core_gradient(data, theta):
    grad = np.empty_like(theta)
    data.value(theta, grad)
    return grad[0]


@every
@pytest.mark.parametrize("shape", [(9001, 37), (501, 260)], ids=str)
def test_bits_do_not_depend_on_the_team(family, shape, dtype):
    X, y = problem(family, *shape, 3, dtype=dtype)
    found = []
    for n in (1, 2, 3, 8):
        with fo.num_threads(n):
            fit = fit_glm(X, y, family)
            found.append([a.tobytes() for a in (np.asarray(fit.coef), np.asarray(fit.intercept), fit.hessian)])
    assert all(f == found[0] for f in found)


# ---------------------------------------------------------------- fits


POWERS = {"poisson": 1, "tweedie": 1.5, "gamma": 2}


def sklearn_fit(family, X, y, weight, l2, intercept):
    if family == "gaussian":
        return Ridge(alpha=l2, fit_intercept=intercept, solver="cholesky").fit(X, y, weight)
    if family in POWERS:
        total = len(X) if weight is None else weight.sum()
        how = {"link": "log", "solver": "newton-cholesky", "tol": 1e-12}
        model = TweedieRegressor(power=POWERS[family], alpha=l2 / total, fit_intercept=intercept, **how)
        return model.fit(X, y, weight)
    model = LogisticRegression(C=1 / l2, fit_intercept=intercept, solver="newton-cholesky", tol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is asked for more than it needs
        return model.fit(X, y, weight)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "negative_binomial"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_coefficients_equal_scikit_learns(family, intercept, weighted):
    X, y = problem(family)
    weight = np.random.default_rng(1).uniform(0.1, 2, len(X)) if weighted else None
    fit = fit_glm(X, y, family, 0.7, intercept, weight, **TIGHT)
    want = sklearn_fit(family, X, y, weight, 0.7, intercept)
    coef = np.atleast_2d(want.coef_)
    assert fit.converged
    np.testing.assert_allclose(np.atleast_2d(fit.coef), coef, rtol=0, atol=1e-8 * np.abs(coef).max())
    between = np.atleast_1d(fit.intercept) - np.mean(fit.intercept if family == "multinomial" else 0)
    theirs = np.atleast_1d(want.intercept_) - np.mean(want.intercept_ if family == "multinomial" else 0)
    np.testing.assert_allclose(between, theirs, rtol=0, atol=1e-8 * np.abs(coef).max())


@every
def test_coefficients_equal_scipys(family):
    X, y = problem(family, 300, 4, 3)
    fit = fit_glm(X, y, family, 0.5, **TIGHT)
    shape, ones = as_theta(fit).shape, np.ones(len(X))
    want = scipy.optimize.minimize(
        lambda t: glm(family, t.reshape(shape), X, y, ones, 0.5)[0],
        np.zeros(np.prod(shape)),
        jac=lambda t: glm(family, t.reshape(shape), X, y, ones, 0.5)[1].reshape(-1),
        hess=lambda t: glm(family, t.reshape(shape), X, y, ones, 0.5)[2],
        method="trust-exact",
        options={"gtol": 1e-11},
    )
    theta = want.x.reshape(shape)
    theta -= theta.mean(axis=0) if family == "multinomial" else 0  # softmax does not see it
    np.testing.assert_allclose(as_theta(fit), theta, rtol=0, atol=1e-8 * np.abs(theta).max())
    assert fit.loss == pytest.approx(want.fun, rel=1e-13)


WAYS = {
    "as it is": {},
    "conjugate gradients": {"MOST_PASSES": 0},
    "a new Hessian at every step": {"PAIRS": 1},
    "no rough start": {"ROUGH": 1},
}


@pairwise(family=FAMILIES, way=WAYS, signal=[1.0, 4.0])
def test_every_way_ends_where_the_gradient_is_as_small_as_promised(family, way, signal, monkeypatch):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(fo.newton.glm_solver, name, value)
    X, y = problem(family, 3000, 11, signal=min(signal, 2) if family == "poisson" else signal)
    fit = fit_glm(X, y, family, tol=1e-9)
    assert fit.converged
    assert gradient_of(fit, family, X, y) <= 1.01e-9
    assert fit.grad_norm == pytest.approx(gradient_of(fit, family, X, y), rel=0.01, abs=1e-12)


@every
@pytest.mark.parametrize("dtype_of", ["float32", "float64"])
def test_the_dtype_of_the_hessian_does_not_change_the_solution(family, dtype_of):
    X, y = problem(family)
    want, got = fit_glm(X, y, family, **TIGHT), fit_glm(X, y, family, hessian_dtype=dtype_of, **TIGHT)
    np.testing.assert_allclose(got.coef, want.coef, rtol=0, atol=1e-9 * np.abs(want.coef).max())


@every
@pytest.mark.parametrize("shape", [(30, 200), (3, 4), (1, 9)], ids=str)
def test_fewer_rows_than_columns_are_solved_among_the_rows(family, shape):
    X, y = problem(family, *shape, 3)
    some_of_each(family, y)
    if len(X) == 1 and family in ("binomial", "multinomial"):
        pytest.skip("one row has one class")
    fit = fit_glm(X, y, family, 2.0)
    assert fit.converged
    assert fit.coef.shape[-1] == shape[1]
    classes = np.unique(y, return_inverse=True)[1].astype(float) if family == "multinomial" else y
    assert gradient_of(fit, family, X, classes, l2=2.0) <= 1e-8
    assert fit.hessian.shape == (as_theta(fit).size,) * 2


@every
def test_weights_count_rows_and_rows_of_weight_zero_are_absent(family):
    X, y = problem(family, 200, 5, 3)
    weight = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    got, times = fit_glm(X, y, family, sample_weight=weight, **TIGHT), weight.astype(int)
    want = fit_glm(np.repeat(X, times, axis=0), np.repeat(y, times), family, **TIGHT)
    np.testing.assert_allclose(as_theta(got), as_theta(want), rtol=0, atol=1e-9)
    assert got.loss == pytest.approx(want.loss, rel=1e-12)


@every
def test_rows_of_weight_zero_may_be_anywhere(family):
    X, y = problem(family, 200, 3, 3)
    weight, offset = np.ones(len(X)), np.zeros((len(X), 3) if family == "multinomial" else len(X))
    want = fit_glm(X[20:], y[20:], family, **TIGHT)
    weight[:20], X[:20], offset[:20] = 0, 1e12, 1e6
    if family not in ("binomial", "multinomial"):
        y[:20] = 1e200
    got = fit_glm(X, y, family, sample_weight=weight, offset=offset, **TIGHT)
    assert got.converged
    np.testing.assert_allclose(as_theta(got), as_theta(want), rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.covariance, want.covariance, rtol=0, atol=1e-9)


@every
def test_float32_rows_give_the_solution_of_the_same_numbers_in_float64(family):
    X, y = problem(family, dtype=np.float32)
    got, want = fit_glm(X, y, family), fit_glm(X.astype(np.float64), y, family)
    np.testing.assert_array_equal(got.coef, want.coef)


@every
def test_layout_and_type_of_the_input_do_not_matter(family):
    X, y = problem(family, 90, 5, 3)
    want = fit_glm(X, y, family).coef
    for other in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X.astype(">f8"), X.tolist()):
        np.testing.assert_array_equal(fit_glm(other, y.tolist(), family).coef, want)
    kept = X.copy()
    fit_glm(X, y, family)
    np.testing.assert_array_equal(X, kept)


LABELS = {
    "text": np.array(["a", "b", "c"]),
    "numbers": np.array([-1.5, 2.0, 7.0]),
    "integers": np.array([3, 5, 9]),
    "objects": np.array(["a", "b", "c"], object),
}


@pytest.mark.parametrize("kind", [*LABELS, "bool"])
@pytest.mark.parametrize("family", ["binomial", "multinomial"])
def test_labels_may_be_any_and_come_back(kind, family):
    X, y = problem(family, 300, 5, 3, signal=3)
    labels = LABELS.get(kind, np.array([False, True, True]))
    codes = y.astype(int) if kind != "bool" else np.minimum(y, 1).astype(int)
    fit, want = fit_glm(X, labels[codes], family), fit_glm(X, codes, family)
    np.testing.assert_array_equal(fit.coef, want.coef)
    np.testing.assert_array_equal(fit.classes, labels[: codes.max() + 1])
    predicted, proba = fit.predict(X), fit.predict_proba(X)
    assert predicted.dtype == fit.classes.dtype
    np.testing.assert_array_equal(predicted, fit.classes[proba.argmax(axis=1)])
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    assert (predicted == labels[codes]).mean() > 0.8


def test_predictions_are_means_of_the_family():
    X, y = problem("poisson")
    fit = fit_glm(X, y, "poisson")
    np.testing.assert_allclose(fit.predict(X), np.exp(X @ fit.coef + fit.intercept))
    assert fit.predict(X).mean() == pytest.approx(y.mean())
    X, y = problem("gaussian")
    fit = fit_glm(X, y, "gaussian")
    np.testing.assert_allclose(fit.predict(X), X @ fit.coef + fit.intercept)
    with pytest.raises(ValueError, match="family: expected binomial or multinomial"):
        fit.predict_proba(X)
    with pytest.raises(ValueError, match=r"X: expected shape \(n, 6\), got \(6,\)"):
        fit.predict(X[0])


def test_a_quadratic_is_solved_in_one_step_to_rounding():
    X, y = problem("gaussian", 500, 20)
    fit = fit_glm(X, y, "gaussian", 0.0, hessian_dtype="float64")
    want = np.linalg.lstsq(np.column_stack([X, np.ones(500)]), y, rcond=None)[0]
    assert fit.n_iter == 1
    np.testing.assert_allclose(as_theta(fit)[0], want, rtol=0, atol=1e-13)


# ---------------------------------------------------------------- offsets


def offsets(n, k=0, seed=7):
    return np.random.default_rng(seed).normal(1, 1, (n, k) if k else n)


@pairwise(
    family=FAMILIES,
    way=["as it is", "conjugate gradients"],
    intercept=[True, False],
    shape=[(400, 6), (20, 60)],
)
def test_an_offset_is_part_of_the_linear_predictor(family, shape, intercept, way, monkeypatch):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(fo.newton.glm_solver, name, value)
    X, y = problem(family, *shape, 3)
    some_of_each(family, y)
    many = family == "multinomial"
    offset, weight = offsets(len(X), 3 if many else 0), np.random.default_rng(1).uniform(0.1, 2, len(X))
    fit = fit_glm(X, y, family, 0.7, intercept, weight, offset=offset)
    theta = as_theta(fit) if intercept else np.atleast_2d(fit.coef)
    loss, grad, hessian = glm(family, theta, X, y, weight, 0.7, offset if many else offset[:, None])
    assert fit.converged
    assert np.abs(grad).max() / weight.sum() <= 1e-8
    assert fit.loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(fit.hessian, hessian, rtol=0, atol=1e-11 * np.abs(hessian).max())
    z = X @ np.atleast_2d(fit.coef).T + fit.intercept + (offset if many else offset[:, None])
    np.testing.assert_allclose(fit.decision_function(X, offset), z if many else z[:, 0], rtol=1e-12)
    if family in ("binomial", "multinomial"):
        np.testing.assert_array_equal(fit.predict(X, offset), fit.classes[fit.predict_proba(X, offset).argmax(axis=1)])


@pytest.mark.parametrize(
    ("family", "theta", "errors"),
    [
        ("poisson", [0.337304483143, -0.233023392261, -0.513638352335], [0.045618616, 0.043481096, 0.045043525]),
        ("binomial", [1.461678985992, -0.998939125746, -0.004000060326], [0.230709715, 0.209209291, 0.198795870]),
        ("gaussian", [0.883003063353, -0.424616890221, 1.69192879176], [0.174810089, 0.170019043, 0.171878421]),
    ],
)
def test_a_fit_with_an_offset_equals_statsmodels(family, theta, errors):
    rng = np.random.default_rng(0)
    X, offset = rng.normal(size=(200, 2)), rng.normal(1, 1, size=200)
    counts = rng.poisson(np.exp(X @ [0.3, -0.2] - 0.5 + offset))
    y = X @ [1.0, -1] + offset + rng.logistic(size=200) > 0 if family == "binomial" else counts
    fit = fit_glm(X, y, family, 0.0, offset=offset, **TIGHT)
    np.testing.assert_allclose(as_theta(fit)[0], theta, rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), errors, rtol=1e-7)


def test_a_number_as_offset_moves_the_intercept():
    X, y = problem("binomial")
    moved, plain = fit_glm(X, y, offset=3.0, **TIGHT), fit_glm(X, y, **TIGHT)
    np.testing.assert_allclose(moved.coef, plain.coef, rtol=1e-9)
    assert moved.intercept == pytest.approx(plain.intercept - 3)


def test_a_model_fitted_with_an_offset_does_not_predict_without_one():
    X, y = problem("poisson")
    offset = offsets(len(X))
    fit = fit_glm(X, y, "poisson", offset=offset)
    for model in (fit, pickle.loads(pickle.dumps(fit))):
        with pytest.raises(
            ValueError, match=r"offset: expected one, for the model was fitted with an offset.* offset=0\.0"
        ):
            model.predict(X)
        np.testing.assert_allclose(model.predict(X, offset), model.predict(X, 0.0) * np.exp(offset))
    plain = fit_glm(X, y, "poisson")
    np.testing.assert_allclose(plain.predict(X, offset=offset), plain.predict(X) * np.exp(offset))


def test_a_family_may_be_a_string_of_numpy():
    X, y = problem("binomial", 30, 2)
    assert type(fit_glm(X, y, np.str_("binomial")).family) is str


def test_an_exposure_is_an_offset_by_its_logarithm():
    X, y = problem("poisson")
    offset = offsets(len(X))
    fit = fit_glm(X, y, "poisson", offset=offset, exposure=np.exp(offset))
    want = fit_glm(X, y, "poisson", offset=2 * offset)
    np.testing.assert_allclose(as_theta(fit), as_theta(want), rtol=1e-9)
    np.testing.assert_allclose(fit.predict(X, offset, np.exp(offset)), want.predict(X, 2 * offset), rtol=1e-9)
    number = fit_glm(X, y, "poisson", exposure=10)
    np.testing.assert_allclose(number.predict(X, exposure=10.0), fit_glm(X, y, "poisson").predict(X), rtol=1e-9)
    for model in (number, pickle.loads(pickle.dumps(number))):
        with pytest.raises(ValueError, match=r"exposure: expected one, for the model .* pass exposure=1\.0 for none"):
            model.predict(X)
    with pytest.raises(ValueError, match="exposure: expected a family with the link 'log'"):
        fit_glm(*problem("binomial")).predict(X, exposure=1.0)


# ---------------------------------------------------------------- gamma, tweedie, negative binomial


def positive_problem(n=300, d=3):
    """X and y of a gamma whose inverse means are linear in X."""
    rng = np.random.default_rng(3)
    X = rng.uniform(0, 1, (n, d))
    return X, rng.gamma(4, 1 / (X @ np.arange(1, d + 1) + 0.2) / 4)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_inverse_link_of_gamma_stays_in_its_domain(intercept, way, monkeypatch):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(fo.newton.glm_solver, name, value)
    X, y = positive_problem()
    weight, offset = np.random.default_rng(1).uniform(0, 2, len(X)), np.linspace(-0.1, 0.3, len(X))
    weight[:9], y[:9] = 0, 1e300
    fit = fit_glm(X, y, "gamma", 0.1, intercept, weight, link="inverse", offset=offset)
    theta = as_theta(fit) if intercept else np.atleast_2d(fit.coef)
    loss, grad, hessian = glm("gamma_inverse", theta, X, y * (weight > 0), weight, 0.1, offset[:, None])
    assert fit.converged
    assert np.abs(grad).max() <= 1e-8 * weight.sum()
    assert fit.loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(fit.hessian, hessian, rtol=1e-10)
    np.testing.assert_allclose(fit.predict(X, offset), 1 / (X @ fit.coef + fit.intercept + offset))


def test_beyond_the_domain_of_an_inverse_link_there_is_no_mean():
    fit = fit_glm(*positive_problem(), "gamma", link="inverse")
    means = fit.predict([[1.0, 1.0, 1.0], [-9.0, -9.0, -9.0]])
    np.testing.assert_array_equal(np.isnan(means), [False, True])


def test_a_start_in_the_domain_of_the_inverse_link_is_found_by_a_linear_program_or_refused():
    X, y = positive_problem(60, 2)
    X[0] = -0.01, 0.02  # where a step of least squares goes wrong
    y[1:], y[0] = 1e3, 1e-3
    fit = fit_glm(X, y, "gamma", 0.0, False, link="inverse")
    assert fit.converged
    assert (X @ fit.coef > 0).all()
    with pytest.raises(ValueError, match="X: expected rows whose linear predictors can all be above 0"):
        fit_glm(np.vstack([X, -X]), np.append(y, y), "gamma", fit_intercept=False, link="inverse")


@pytest.mark.parametrize(
    ("family", "options", "theta"),
    [
        ("gamma", {}, [0.295457674171, -0.281919799458, -0.561262748024]),
        ("gamma", {"link": "inverse"}, [0.0467224533469, -0.0284927429857, 0.38693037649]),
        ("tweedie", {"power": 1.3}, [0.376348708042, -0.294689177863, -0.388010791493]),
        ("negative_binomial", {"alpha": 0.7}, [0.340620290291, -0.313535492428, -0.705678230446]),
    ],
)
def test_coefficients_equal_statsmodels(family, options, theta):
    rng = np.random.default_rng(0)
    X, offset = rng.normal(size=(200, 2)), rng.normal(1, 1, size=200)
    mean = np.exp(X @ [0.3, -0.2] - 0.5 + offset)
    y = {"gamma": rng.gamma(2, mean / 2)}
    y["tweedie"] = np.where(rng.uniform(size=200) < 0.3, 0, rng.gamma(2, mean / 1.4))
    y["negative_binomial"] = rng.negative_binomial(2, 2 / (2 + mean))
    if "link" in options:
        X, offset = np.abs(X), 0.0
    fit = fit_glm(X, y[family], family, 0.0, offset=offset, **options, **TIGHT)
    np.testing.assert_allclose(as_theta(fit)[0], theta, rtol=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_the_powers_1_and_2_of_tweedie_are_poisson_and_gamma(power):
    X, y = problem("gamma")
    fit, want = fit_glm(X, y, "tweedie", power=power), fit_glm(X, y, "poisson" if power == 1 else "gamma")
    np.testing.assert_array_equal(as_theta(fit), as_theta(want))
    assert (fit.family, fit.link, fit.power, fit.alpha) == ("tweedie", "log", power, None)
    near = fit_glm(X, y, "tweedie", power=power + (1e-7 if power == 1 else -1e-7), **TIGHT)
    np.testing.assert_allclose(as_theta(near), as_theta(want), rtol=1e-4)


def test_a_small_alpha_makes_a_negative_binomial_poisson():
    X, y = problem("poisson")
    fit, want = fit_glm(X, y, "negative_binomial", alpha=1e-10, **TIGHT), fit_glm(X, y, "poisson", **TIGHT)
    np.testing.assert_allclose(as_theta(fit), as_theta(want), rtol=1e-7)
    assert (fit.family, fit.link, fit.power, fit.alpha) == ("negative_binomial", "log", None, 1e-10)


def test_a_negative_binomial_is_stable_far_from_its_mean():
    X, y = np.array([[-700.0], [-40.0], [0.0], [40.0], [700.0]]), np.array([0.0, 3.0, 1e8, 5.0, 2.0])
    for alpha in (1e-8, 1.0, 1e8):
        data = core.GlmData("negative_binomial", X, y, None, 1, False, parameter=alpha)
        for row in range(len(X)):
            one = core.GlmData("negative_binomial", X[row : row + 1], y[row : row + 1], None, 1, False, parameter=alpha)
            grad, hessian = np.empty((1, 1)), np.empty((1, 1))
            t = X[row, 0] + np.log(alpha)
            softplus, sigma = np.logaddexp(0, t), np.exp(-np.logaddexp(0, -t))
            size = y[row] + 1 / alpha
            assert one.value(np.ones((1, 1)), grad, hessian) == pytest.approx(
                size * softplus - y[row] * X[row, 0], rel=1e-12
            )
            tail = size * np.exp(-np.logaddexp(0, t))  # that of the logistic function on the other side
            slope = 1 / alpha - tail if t > 0 else size * sigma - y[row]
            assert grad[0, 0] == pytest.approx(slope * X[row, 0], rel=1e-12)
            assert hessian[0, 0] == pytest.approx(tail * sigma * X[row, 0] ** 2, rel=1e-12)
        assert np.isfinite(data.value(np.ones((1, 1)), np.empty((1, 1))))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
@pytest.mark.parametrize(("family", "options"), [("gamma", {"link": "inverse"}), ("tweedie", {"power": 1.2})])
def test_the_unit_of_amounts_does_not_matter(family, options, scale):
    X, y = positive_problem()
    want = fit_glm(X, y, family, 0.0, tol=1e-11, **options)
    got = fit_glm(X, y * scale, family, 0.0, **options)
    assert got.converged
    np.testing.assert_allclose(got.predict(X) / scale, want.predict(X), rtol=1e-6)


# ---------------------------------------------------------------- what the Hessian says


@every
def test_covariance_is_dispersion_times_the_inverse_hessian_which_is_expected_unless_the_link_is_canonical(family):
    X, y = problem(family, 300, 4, 3)
    fit = fit_glm(X, y, family, 0.5, **TIGHT)
    hessian = glm(family, as_theta(fit), X, y, np.ones(len(X)), 0.5)[2]
    np.testing.assert_allclose(fit.hessian, hessian, rtol=0, atol=1e-12 * hessian.max())
    expected, z = hessian, fit.decision_function(X)
    if family in ("gamma", "tweedie", "negative_binomial"):
        rows = np.column_stack([X, np.ones(len(X))])
        information = {"gamma": z * 0 + 1, "tweedie": np.exp(0.5 * z), "negative_binomial": 1 / (1 + np.exp(-z))}[
            family
        ]
        expected = (rows * information[:, None]).T @ rows + np.diag([0.5] * 4 + [0])
    inverse = np.linalg.pinv(expected, rcond=1e-12)
    if family == "multinomial":  # among the parameters whose sum over the classes is 0
        center = np.kron(np.eye(3) - 1 / 3, np.eye(5))
        inverse = center @ inverse @ center
    np.testing.assert_allclose(fit.covariance, fit.dispersion * inverse, rtol=0, atol=1e-10 * np.abs(inverse).max())
    values = np.linalg.eigvalsh(hessian)
    if family != "multinomial":
        assert fit.condition_number == pytest.approx(values[-1] / values[0], rel=1e-9)
    else:
        assert 1 < fit.condition_number < 1e3


def test_the_covariance_of_least_squares_is_the_textbooks():
    X, y = problem("gaussian", 60, 3)
    fit, rows = fit_glm(X, y, "gaussian", 0.0), np.column_stack([X, np.ones(60)])
    residual = y - rows @ as_theta(fit)[0]
    want = residual @ residual / (60 - 4) * np.linalg.inv(rows.T @ rows)
    np.testing.assert_allclose(fit.covariance, want, rtol=1e-8, atol=1e-14)


def test_a_result_says_what_it_is():
    X, y = problem("binomial")
    fit = fit_glm(X, y)
    assert repr(fit) == f"GLMResult(binomial, 6 coefficients, n_iter={fit.n_iter}, converged=True)"


# ---------------------------------------------------------------- what is hard, or cannot be solved


@pytest.mark.parametrize("family", ["binomial", "multinomial"])
def test_classes_that_can_be_separated_do_not_pass_for_solved(family):
    X, y = problem(family, 100, 3, 3)
    y = (X[:, 0] > 0).astype(float) if family == "binomial" else np.digitize(X[:, 0], [-0.5, 0.5]).astype(float)
    with pytest.warns(RuntimeWarning, match=r"not converged .* pass l2 > 0"):
        fit = fit_glm(X, y, family, 0.0)
    assert not fit.converged
    assert np.isfinite(fit.coef).all()
    assert (fit.predict(X) == y).all()
    assert fit_glm(X, y, family, 1e-3).converged


def test_a_group_without_one_class_does_not_pass_for_solved():
    X = np.zeros((200, 2))
    X[:, 0], X[:20, 1] = np.random.default_rng(0).normal(size=200), 1
    y = (np.random.default_rng(1).uniform(size=200) < 0.4).astype(float)
    y[:20] = 1
    with pytest.warns(RuntimeWarning, match="not converged"):
        assert not fit_glm(X, y, l2=0.0).converged
    counts = np.random.default_rng(2).poisson(2, 200) * (X[:, 1] == 0)
    with pytest.warns(RuntimeWarning, match="not converged"):
        assert not fit_glm(X, counts, "poisson", l2=0.0).converged


@every
def test_dependent_columns_are_an_error_without_a_penalty_and_solved_with_one(family):
    X, y = problem(family, 300, 5, 3)
    X[:, 3] = X[:, 0] - 2 * X[:, 1]
    with pytest.raises(ValueError, match=r"X: expected linearly independent columns for l2=0, got column 3"):
        fit_glm(X, y, family, 0.0)
    fit = fit_glm(X, y, family)
    assert fit.converged
    assert gradient_of(fit, family, X, y) <= 1e-8


@every
def test_a_constant_column_beside_the_intercept(family):
    X, y = problem(family, 300, 4, 3)
    X[:, 2] = 3.0
    with pytest.raises(ValueError, match="columns that add up to a constant, as the intercept"):
        fit_glm(X, y, family, 0.0)
    fit = fit_glm(X, y, family, **TIGHT)
    assert fit.converged
    np.testing.assert_allclose(np.atleast_2d(fit.coef)[:, 2], 0, atol=1e-9)  # the intercept is free, it is not
    free = fit_glm(X, y, family, 0.0, fit_intercept=False)
    want = fit_glm(np.delete(X, 2, axis=1), y, family, 0.0)
    np.testing.assert_allclose(np.atleast_2d(free.coef)[:, 2] * 3, np.atleast_1d(want.intercept), atol=1e-6)
    X[:, 2] = 0.0
    with pytest.raises(ValueError, match="got column 2"):
        fit_glm(X, y, family, 0.0)
    np.testing.assert_array_equal(np.atleast_2d(fit_glm(X, y, family).coef)[:, 2], 0)


@every
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_columns_of_any_size_give_the_same_predictions(family, scale):
    X, y = problem(family, 2000, 5, 3)
    want = fit_glm(X, y, family, 0.0, **TIGHT)
    sizes = np.array([1, scale, 1, scale, 1])
    got = fit_glm(X * sizes, y, family, 0.0, tol=1e-12 * max(1, scale))
    np.testing.assert_allclose(np.atleast_2d(got.coef) * sizes, np.atleast_2d(want.coef), rtol=1e-5, atol=1e-7)


@every
def test_columns_far_from_zero_and_almost_alike_are_solved_in_float64(family):
    X, y = problem(family, 1000, 4, 3)
    X[:, 1] = X[:, 0] + 1e-4 * X[:, 1]
    X[:, 2] += 300
    fit = fit_glm(X, y, family, 0.0)
    assert fit.converged
    shape = as_theta(fit).shape
    _, grad, hessian = glm(family, as_theta(fit), X, y, np.ones(len(X)))
    step = (np.linalg.pinv(hessian, rcond=1e-14) @ grad.reshape(-1)).reshape(shape)
    assert abs((step * grad).sum()) < 1e-10  # the Newton decrement


def test_rare_columns_that_the_first_rows_lack():
    X, y = problem("binomial", 4096, 4)
    X[:, 2] = 0
    X[100:110, 2] = 1
    y[100:110] = np.arange(10) % 2
    fit = fit_glm(X, y, l2=0.0)
    assert fit.converged
    assert gradient_of(fit, "binomial", X, y, l2=0.0) <= 1e-8


def test_counts_in_the_millions_and_predictors_far_away():
    X, y = problem("poisson", 500, 3)
    fit = fit_glm(X * 8, y * 1e6, "poisson")
    assert fit.converged
    assert gradient_of(fit, "poisson", X * 8, y * 1e6) <= 1e-7  # the counts have sum 1e9


def test_unbalanced_classes():
    X, y = problem("binomial", 20_000, 3)
    y[:] = 0
    y[:7] = 1
    fit = fit_glm(X, y)
    assert fit.converged
    assert fit.predict_proba(X)[:, 1].mean() == pytest.approx(7 / 20_000, abs=1e-8)


def test_few_steps_warn_and_say_how_far_they_came(capsys):
    X, y = problem("binomial", signal=5)
    with pytest.warns(RuntimeWarning, match="glm: not converged after 1 steps, gradient .*; raise max_iter"):
        fit = fit_glm(X, y, max_iter=1, verbose=True)
    assert fit.n_iter == 1
    assert not fit.converged
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1"]


def test_values_whose_squares_overflow_are_an_error_or_solved():
    X, y = problem("binomial")
    assert fit_glm(X * 1e25, y).converged  # beyond what float32 can square
    with pytest.raises(ValueError, match="X: expected values whose squares can be added up"):
        fit_glm(X * 1e200, y)


def test_a_penalty_too_small_for_dependent_columns_still_leads_to_a_solution():
    X, y = problem("binomial", 300, 5)
    X[:, 3] = X[:, 0]
    fit = fit_glm(X, y, l2=1e-13)
    assert fit.converged
    assert gradient_of(fit, "binomial", X, y, l2=1e-13) <= 1e-8


def test_a_tolerance_of_zero_ends_at_rounding():
    X, y = problem("binomial")
    fit = fit_glm(X, y, tol=0.0)
    assert fit.converged
    assert gradient_of(fit, "binomial", X, y) < 1e-14


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(400, 6), (6, 40)], ids=str)
def test_what_is_not_finite_is_an_error_that_names_the_column(bad, shape):
    X, y = problem("binomial", *shape)
    y[:2] = 0, 1
    X[3, 2] = bad
    with pytest.raises(ValueError, match="X: expected finite values, got NaN or infinity in column 2"):
        fit_glm(X, y)


def test_names_of_families_and_links_may_come_from_an_array():
    X, y = problem("gamma", 30, 2)
    family, link = np.array(["gamma", "inverse"])
    fit = fit_glm(np.abs(X), y, family, link=link)
    assert type(fit.family) is type(fit.link) is str
    np.testing.assert_array_equal(fit.coef, fit_glm(np.abs(X), y, "gamma", link="inverse").coef)


X, Y = problem("binomial", 20, 3)
WRONG = {
    "family": ({"family": "logit"}, "family: expected one of gaussian, binomial, multinomial, .*, got 'logit'"),
    "family that is no text": ({"family": ["poisson"]}, r"family: expected one of .*, got \['poisson'\]"),
    "fit_intercept": ({"fit_intercept": "no"}, "fit_intercept: expected True or False, got 'no'"),
    "names": ({"names": 7}, "names: expected 3 different strings, one a column of X, got 7"),
    "powers": ({"power": np.ones(2)}, "power: expected none for binomial, got array.*; it is an option of tweedie"),
    "link": ({"link": "log"}, "link: expected 'logit' for binomial, got 'log'"),
    "link of gamma": ({"link": "identity", "family": "gamma"}, "link: expected 'log' or 'inverse' for gamma"),
    "power": ({"power": 1.7, "family": "poisson"}, "power: expected none for poisson, got 1.7; .* of tweedie"),
    "power of tweedie": (
        {"power": 2.5, "family": "tweedie"},
        "power: expected .* at least 1 and at most 2, got 2.5",
    ),
    "alpha": ({"alpha": 0.5}, "alpha: expected none for binomial, got 0.5; it is an option of negative_binomial"),
    "alpha of 0": ({"alpha": 0, "family": "negative_binomial"}, "alpha: expected a finite number above 0, got 0"),
    "zeros of gamma": ({"family": "gamma"}, "y: expected values above 0 for gamma, got 0.0"),
    "zeros of power 2": ({"family": "tweedie", "power": 2}, "y: expected values above 0 for tweedie of power 2"),
    "negative amounts": ({"y": Y - 1, "family": "tweedie"}, "y: expected values of at least 0 for tweedie, got -1.0"),
    "exposure": ({"exposure": np.ones(20)}, "exposure: expected a family with the link 'log', got the link 'logit'"),
    "exposure of 0": ({"exposure": Y, "family": "poisson"}, "exposure: expected finite values above 0"),
    "rows of exposure": (
        {"exposure": np.ones((20, 1)), "family": "poisson"},
        r"exposure: expected a number or shape \(20,\) for X of 20 rows, got \(20, 1\)",
    ),
    "l2": ({"l2": -1.0}, "l2: expected a finite number of at least 0, got -1.0"),
    "tol": ({"tol": np.nan}, "tol: expected a finite number"),
    "max_iter": ({"max_iter": -1}, "max_iter: expected a whole number"),
    "hessian_dtype": ({"hessian_dtype": "float16"}, "hessian_dtype: expected 'float32' or 'float64', got 'float16'"),
    "vector": ({"X": X[:, 0]}, r"X: expected shape \(n, d\).*got \(20,\)"),
    "no rows": ({"X": X[:0], "y": Y[:0]}, r"X: expected shape \(n, d\)"),
    "complex": ({"X": X * 1j}, "X: expected real numbers, got dtype complex128"),
    "rows of y": ({"y": Y[:-1]}, r"y: expected shape \(20,\) for 20 rows, got \(19,\)"),
    "one class": ({"y": np.zeros(20)}, r"y: expected at least two classes.*got \[0.0\]"),
    "one softmax class": ({"y": ["a"] * 20, "family": "multinomial"}, r"y: expected at least two classes.*got \['a'\]"),
    "one class weighs": ({"sample_weight": Y}, r"y: expected at least two classes.*got \[1.0\]"),
    "fractions": ({"y": np.linspace(0, 1, 20)}, "y: expected two classes for binomial, got 20 different values"),
    "NaN label": ({"y": np.where(Y > 0, np.nan, 0)}, "y: expected class labels, got nan in row"),
    "negative counts": ({"y": Y - 1, "family": "poisson"}, "y: expected values of at least 0 for poisson, got -1.0"),
    "no counts": ({"y": 0 * Y, "family": "poisson"}, "y: expected a positive value"),
    "NaN value": ({"y": Y * np.nan, "family": "gaussian"}, "y: expected finite values"),
    "text": ({"y": ["a"] * 20, "family": "gaussian"}, "y: expected real numbers, got dtype <U1"),
    "weights": ({"sample_weight": np.ones(3)}, r"sample_weight: expected shape \(20,\), got \(3,\)"),
    "negative weight": ({"sample_weight": -np.ones(20)}, "sample_weight: expected finite weights"),
    "no weight": ({"sample_weight": np.zeros(20)}, "sample_weight: .*not all of them 0"),
    "offset": ({"offset": np.ones(3)}, r"offset: expected a number or shape \(20,\) for X of 20 rows, got \(3,\)"),
    "softmax offset": (
        {"offset": np.ones(20), "family": "multinomial"},
        r"offset: expected a number or shape \(20, 2\) for X of 20 rows, got \(20,\)",
    ),
    "NaN offset": ({"offset": Y * np.nan}, "offset: expected finite values"),
    "masked rows": (
        {"X": np.ma.masked_greater(X, 1)},
        "X: expected real numbers, got a masked array",
    ),
    "masked labels": ({"y": np.ma.masked_equal(Y, 1)}, "y: expected class labels, got a masked array"),
    "masked weights": (
        {"sample_weight": np.ma.masked_equal(Y, 1)},
        r"sample_weight: .*masked.* pass sample_weight.filled\(",
    ),
    "complex weights": ({"sample_weight": np.ones(20) * 1j}, "sample_weight: expected real numbers.* complex128"),
    "weights too large to add up": ({"sample_weight": np.full(20, 1e308)}, "sample_weight: expected finite weights"),
    "losses too large to add up": (
        {"y": Y * 1e200, "family": "gaussian"},
        "X, y, offset: expected values whose losses",
    ),
    "column of labels": ({"y": Y[:, None]}, r"y: expected shape \(20,\) .* got \(20, 1\); pass y.ravel\(\)"),
    "column of counts": ({"y": Y[:, None], "family": "poisson"}, r"y: .* got \(20, 1\); pass y.ravel\(\)"),
    "few rows": ({"X": X.T[:2].copy(), "y": [0, 1], "l2": 0}, "l2: expected more than 0 for fewer rows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named_with_what_was_expected(case):
    change, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        fit_glm(**{"X": X, "y": Y, **change})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_not_finite_have_no_prediction(family, bad):
    """A class would be made up, silently."""
    rows, y = problem(family, 60, 3, 3)
    fit = fit_glm(rows, y, family)
    rows[7, 1] = bad
    for method in ("predict", "decision_function", *(["predict_proba"] if fit.classes is not None else [])):
        with pytest.raises(ValueError, match="X: expected finite values, got NaN or infinity in row 7"):
            getattr(fit, method)(rows)
    with pytest.raises(TypeError, match="masked"):
        fit.predict(np.ma.masked_invalid(rows))
    assert fit.predict(rows[:0]).shape == (0,)


def test_many_rows_are_predicted_piece_by_piece(monkeypatch):
    rows, y = problem("multinomial", 300, 5, 3)
    fit = fit_glm(rows, y, "multinomial")
    want = fit.predict_proba(rows)
    monkeypatch.setattr(fo.newton.glm_design, "SLICE", 64)
    np.testing.assert_allclose(fit.predict_proba(rows), want, rtol=1e-13)


# ---------------------------------------------------------------- interrupts


@pytest.fixture
def alarms():
    """Alarms every millisecond, and what they do."""
    then = signal.getsignal(signal.SIGALRM)

    def start(action):
        signal.signal(signal.SIGALRM, lambda *_: action())
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, then)


def test_a_pass_over_many_rows_looks_at_signals_and_an_interrupt_leaves_nothing_behind(alarms):
    rng, classes = np.random.default_rng(0), 10
    rows, y = rng.normal(size=(400_000, 4)), rng.integers(0, classes, 400_000).astype(float)
    data, theta = core.GlmData("multinomial", rows, y, None, classes, True), rng.normal(size=(classes, 5)) / 10
    grad = np.empty_like(theta)
    want = data.value(theta, grad), grad.copy()
    seen = []
    alarms(lambda: seen.append(len(seen)))
    data.value(theta, grad)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(seen) > 1

    def interrupt():
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    def interrupted():
        alarms(interrupt)
        data.value(theta, grad)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert data.value(theta, grad) == want[0]
    np.testing.assert_array_equal(grad, want[1])


def test_a_result_can_be_pickled():
    fit = fit_glm(X, Y)
    twin = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(twin.predict(X), fit.predict(X))
    with pytest.raises(ValueError, match="hessian: expected to be asked for before"):
        _ = twin.covariance
    hessian = fit.hessian
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit)).hessian, hessian)
    assert pickle.loads(pickle.dumps(fit)).condition_number == fit.condition_number


@pytest.mark.parametrize("asked", [True, False], ids=["Hessian asked for", "not asked for"])
def test_a_result_of_an_older_version_predicts_and_keeps_what_it_knew(asked):
    fit = fit_glm(X, Y)
    state = {k: v for k, v in fit.__getstate__().items() if k not in ("_data", "_center", "_has_offset")}
    state |= {"_objective": None} | ({"hessian": fit.hessian} if asked else {})
    old = object.__new__(type(fit))
    old.__setstate__(state)
    np.testing.assert_array_equal(old.predict_proba(X), fit.predict_proba(X))
    if asked:
        np.testing.assert_array_equal(old.covariance, fit.covariance)
        assert old.condition_number == fit.condition_number
    else:
        with pytest.raises(ValueError, match="hessian: expected to be asked for before"):
            _ = old.covariance


def test_threads_that_ask_one_result_for_its_hessian_get_the_same():
    from concurrent.futures import ThreadPoolExecutor

    rows, y = problem("binomial", 5000, 30)
    want = fit_glm(rows, y).hessian
    for _ in range(5):
        fit = fit_glm(rows, y)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _, fit=fit: fit.hessian, range(4)):
                np.testing.assert_array_equal(found, want)


def test_amounts_that_need_no_coefficient_are_solved_at_any_tolerance():
    """A gamma has a minimum whatever its columns are: no step tells of classes that can be separated."""
    X, _ = problem("gamma")
    y = np.random.default_rng(0).gamma(50, 1 / 50, len(X))
    for options in ({}, {"bounds": (-1, 1)}):
        assert fit_glm(X, y / y.mean(), "gamma", 0.0, tol=1e-2, **options).converged
    with pytest.warns(RuntimeWarning, match="not converged .*; raise max_iter"):
        fit_glm(X, y, "gamma", 0.0, max_iter=0)
