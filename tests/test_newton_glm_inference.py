"""Measures of fit, standard errors and intervals of generalized linear models.

Pass criterion: within 1e-8, relative, of what statsmodels 0.15.0 finds (tests/data/statsmodels_glm.py), of SciPy's
densities, and of the formulas in NumPy, float64.
"""

import math
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fastopt.newton import glm
from fastopt.newton.glm_families import formulas, log_series

sys.path.insert(0, str(Path(__file__).parent / "data"))
from statsmodels_glm import CASES, ROWS, TABLE

RTOL = 1e-8
RECORDED = dict(np.load(TABLE))
TABLES = [(case, how) for case in CASES for how in ("plain", "offset", "weight")]
ROBUST = ("HC0", "HC1", "HC2", "HC3")
X, NEW, GROUPS = RECORDED["X"][:ROWS], RECORDED["X"][ROWS:], RECORDED["groups"]

every_table = pytest.mark.parametrize(("case", "how"), TABLES)
every_case = pytest.mark.parametrize("case", CASES)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * np.abs(want).max())


def fitted(case, how="plain", **given):
    family, link, options = CASES[case]
    data = {"X": X, "y": RECORDED[f"{case}/y"], "l2": 0.0, "tol": 1e-12}
    data |= {"offset": RECORDED["offset"][:ROWS]} if how == "offset" else {}
    data |= {"sample_weight": RECORDED["weight"]} if how == "weight" else {}
    return glm(family=family, link=link, **{**data, **options, **given})


def of(case, how, what):
    return RECORDED[f"{case}/{how}/{what}"]


def reference(fit, case, how):
    """Rows with a 1, and scores and second derivatives of their losses, by the family's formulas."""
    rows = np.column_stack([X, np.ones(ROWS)])
    z = rows @ [*fit.coef, fit.intercept] + (RECORDED["offset"][:ROWS] if how == "offset" else 0)
    y = RECORDED[f"{case}/y"]
    if case == "gaussian":
        return rows, z - y, np.ones(ROWS)
    if case == "binomial":
        mean = 1 / (1 + np.exp(-z))
        return rows, mean - y, mean * (1 - mean)
    if case == "gamma inverse":
        return rows, y - 1 / z, 1 / z**2
    mean = np.exp(z)
    return rows, *{
        "poisson": (mean - y, mean),
        "gamma log": (1 - y / mean, y / mean),
        "tweedie": (mean**0.4 - y * mean**-0.6, 0.6 * y * mean**-0.6 + 0.4 * mean**0.4),
        "negative_binomial": ((mean - y) / (1 + 0.7 * mean), mean * (1 + 0.7 * y) / (1 + 0.7 * mean) ** 2),
    }[case]


# ---------------------------------------------------------------- statsmodels


@every_table
def test_coefficients_and_standard_errors_are_those_of_statsmodels(case, how):
    table = fitted(case, how).summary(level=0.9)
    close(table.coef, of(case, how, "params"))
    close(table.standard_errors, of(case, how, "bse"))
    close(table.z_values, of(case, how, "tvalues"))
    close(table.p_values, of(case, how, "pvalues"))
    close(table.confidence_intervals, of(case, how, "conf_int"))
    close(fitted(case, how).summary(use_t=True).p_values, of(case, how, "t pvalues"))


@every_table
def test_deviance_likelihood_and_criteria_are_those_of_statsmodels(case, how):
    fit = fitted(case, how)
    for name in ("deviance", "null_deviance", "pearson_chi2", "aic", "bic", "df_resid"):
        close(getattr(fit, name), of(case, how, name))
    close(fit.log_likelihood, of(case, how, "llf"))
    close(fit.dispersion, of(case, how, "scale"))


@every_table
@pytest.mark.parametrize("cov_type", [*ROBUST, "cluster"])
def test_robust_covariances_are_those_of_statsmodels(case, how, cov_type):
    groups = GROUPS if cov_type == "cluster" else None
    close(fitted(case, how).summary(cov_type, groups).covariance, of(case, how, cov_type))


@every_table
def test_means_and_their_intervals_are_those_of_statsmodels(case, how):
    fit = fitted(case, how)
    offset = RECORDED["offset"][ROWS:] if how == "offset" else None
    mean = fit.predict(NEW, offset) if fit.classes is None else fit.predict_proba(NEW, offset)[:, 1]
    close(mean, of(case, how, "mean"))
    want = np.sort(of(case, how, "mean interval"), axis=1)  # it leaves the ends turned round by an inverse link
    close(fit.predict_interval(NEW, level=0.9, offset=offset), want)


# ---------------------------------------------------------------- the formulas


@every_table
def test_leverages_and_corrections_are_those_of_the_page(case, how):
    fit = fitted(case, how)
    rows, score, curvature = reference(fit, case, how)
    weight = RECORDED["weight"] if how == "weight" else np.ones(ROWS)
    bread = np.linalg.inv((rows * (weight * curvature)[:, None]).T @ rows)
    leverage = weight * curvature * np.einsum("ij,jk,ik->i", rows, bread, rows)
    assert leverage.sum() == pytest.approx(4)
    for cov_type, power in (("HC0", 0), ("HC2", 0.5), ("HC3", 1)):
        s = rows * (weight * score / (1 - leverage) ** power)[:, None]
        close(fit.summary(cov_type).covariance, bread @ s.T @ s @ bread)
    close(fit.summary("HC1").covariance, fit.summary("HC0").covariance * ROWS / (ROWS - 4))


DENSITIES = {
    "gaussian": lambda mean, y, w, phi: scipy.stats.norm.logpdf(y, mean, np.sqrt(phi / w)),
    "poisson": lambda mean, y, w, phi: w * scipy.stats.poisson.logpmf(y, mean),
    "gamma": lambda mean, y, w, phi: scipy.stats.gamma.logpdf(y, w / phi, scale=mean * phi / w),
    "negative_binomial": lambda mean, y, w, phi: w * scipy.stats.nbinom.logpmf(y, 1 / 0.7, 1 / (1 + 0.7 * mean)),
    "binomial": lambda mean, y, w, phi: w * scipy.stats.bernoulli.logpmf(y, mean),
}
PARAMETERS = {"negative_binomial": 0.7, "tweedie": 1.6}
LINKED = [(family, link) for family, link, _ in CASES.values()]
numbers = st.lists(st.tuples(st.floats(0.1, 3), st.integers(0, 9), st.floats(0.2, 5)), min_size=1, max_size=8)


def drawn(family, values):
    z, y, w = np.array(values, float).T
    return z, y % 2 if family == "binomial" else y + 0.5 if family == "gamma" else y, w


@pytest.mark.parametrize("family", DENSITIES)
@given(numbers)
def test_log_likelihoods_are_those_of_scipys_densities(family, values):
    z, y, w = drawn(family, values)
    link = {"gaussian": "identity", "binomial": "logit"}.get(family, "log")
    rule = formulas(family, link, PARAMETERS.get(family))
    got = rule.log_likelihood(y, z, w, 1.7)
    np.testing.assert_allclose(got, DENSITIES[family](rule.mean(z), y, w, 1.7), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("family", "link"), LINKED)
@given(numbers)
def test_scores_and_curvatures_are_differences_of_half_the_deviance(family, link, values):
    z, y, _ = drawn(family, values)
    rule, h = formulas(family, link, PARAMETERS.get(family)), 1e-5
    below, at, above = (0.5 * rule.deviance(y, z + step) for step in (-h, 0, h))
    size = 1 + np.abs(at)
    np.testing.assert_allclose(rule.score(y, z)[:, 0], (above - below) / (2 * h), rtol=0, atol=1e-4 * size.max())
    slopes = [rule.score(y, z + step)[:, 0] for step in (-h, h)]
    np.testing.assert_allclose(
        rule.curvature(y, z), (slopes[1] - slopes[0]) / (2 * h), rtol=1e-4, atol=1e-5 * size.max()
    )


@pytest.mark.parametrize(("family", "link"), LINKED)
def test_the_information_is_the_curvature_where_y_is_its_mean(family, link):
    rule, z = formulas(family, link, PARAMETERS.get(family)), np.linspace(0.2, 2, 7)
    close(rule.information(z), rule.curvature(rule.mean(z), z))


@pytest.mark.parametrize("family", ["poisson", "gamma", "negative_binomial"])
@given(numbers)
def test_a_deviance_is_twice_what_the_likelihood_lacks_of_the_saturated_one(family, values):
    z, y, w = drawn(family, values)
    y += 0.0 if family == "gamma" else 1.0
    rule = formulas(family, "log", PARAMETERS.get(family))
    phi = 1.7 if rule.estimated else 1.0
    lacks = rule.log_likelihood(y, np.log(y), w, phi) - rule.log_likelihood(y, z, w, phi)
    np.testing.assert_allclose(w * rule.deviance(y, z), 2 * phi * lacks, rtol=1e-9, atol=1e-9)


@given(st.floats(-8, 8), st.floats(-3, 3))
def test_the_series_of_tweedies_density_is_a_bessel_function_for_the_power_one_and_a_half(log_y, log_phi):
    """a = 1: the sum of z^j / (j! gamma(j)) is sqrt(z) I_1(2 sqrt(z)); its logarithm to 1e-12 of its largest part."""
    y, phi = math.exp(log_y), math.exp(log_phi)
    root = 2 * math.sqrt(y) / phi
    got = log_series(np.array([y]), np.array([phi]), 1.5)[0]
    want = math.log(root) + math.log(scipy.special.ive(1, 2 * root))  # less 2 root
    assert got == pytest.approx(want, abs=1e-12 * (1 + root * max(1, abs(math.log(root)))))


@pytest.mark.parametrize("power", [1.1, 1.5, 1.9])
def test_the_series_of_tweedies_density_goes_over_into_its_limit(power):
    y = (1e8 * (2 - power)) ** (1 / (2 - power)) * np.array([1 - 1e-9, 1 + 1e-9])
    below, above = log_series(y, np.ones(2), power)
    assert above == pytest.approx(below, abs=1e-5)


@pytest.mark.parametrize("power", [1.02, 1.2, 1.5, 1.8, 1.9])
def test_tweedies_density_adds_up_to_one_with_the_mean_and_variance_of_the_family(power):
    rule, z, phi = formulas("tweedie", "log", power), 0.4, 0.8
    t = np.linspace(-300, 5, 20_001)
    y = np.exp(t)
    density = np.exp(rule.log_likelihood(y, np.full(len(y), z), np.ones(len(y)), phi))
    nothing = math.exp(rule.log_likelihood(np.zeros(1), np.array([z]), np.ones(1), phi)[0])
    total, mean, squares = (np.trapezoid(density * y ** (1 + m), t) for m in (0, 1, 2))
    assert total + nothing == pytest.approx(1, rel=1e-9)
    assert mean == pytest.approx(math.exp(z), rel=1e-9)
    assert squares - mean**2 == pytest.approx(phi * math.exp(power * z), rel=1e-9)


# ---------------------------------------------------------------- weights, groups, columns far from zero


@every_case
def test_rows_of_weight_zero_are_as_if_absent_everywhere(case):
    weight = RECORDED["weight"].copy()
    weight[::7] = 0
    kept, y = weight > 0, RECORDED[f"{case}/y"]
    far = np.where(kept[:, None], X, 1e3)
    one = fitted(case, X=far, sample_weight=weight)
    other = fitted(case, X=X[kept], y=y[kept], sample_weight=weight[kept])
    for name in ("deviance", "null_deviance", "pearson_chi2", "log_likelihood", "aic", "bic", "nobs", "df_resid"):
        close(getattr(one, name), getattr(other, name))
    for cov_type in ("nonrobust", *ROBUST):
        close(one.summary(cov_type).covariance, other.summary(cov_type).covariance)
    labels = np.where(kept, GROUPS, 99)
    close(one.summary("cluster", labels).covariance, other.summary("cluster", GROUPS[kept]).covariance)


@pytest.mark.parametrize("case", ["binomial", "poisson", "negative_binomial"])
def test_whole_weights_count_rows_where_the_dispersion_is_one(case):
    times = np.random.default_rng(0).integers(1, 4, ROWS)
    one, y = fitted(case, sample_weight=times), RECORDED[f"{case}/y"]
    many = fitted(case, X=np.repeat(X, times, axis=0), y=np.repeat(y, times))
    for name in ("deviance", "null_deviance", "pearson_chi2", "log_likelihood", "aic", "covariance"):
        close(getattr(one, name), getattr(many, name))


@every_case
def test_columns_far_from_zero_have_the_standard_errors_of_near_ones(case):
    near, far = fitted(case), fitted(case, X=X + np.array([0, 1e5, 0]))
    for cov_type in ("nonrobust", *ROBUST, "cluster"):
        groups = GROUPS if cov_type == "cluster" else None
        one, other = (fit.summary(cov_type, groups).standard_errors[:3] for fit in (near, far))
        np.testing.assert_allclose(other, one, rtol=1e-6)
    assert far.deviance == pytest.approx(near.deviance, rel=1e-8)


def test_groups_of_one_row_are_heteroscedastic_rows():
    fit = fitted("poisson")
    factor = ROWS / (ROWS - 1) * (ROWS - 1) / (ROWS - 4)
    close(fit.summary("cluster", np.arange(ROWS)).covariance, factor * fit.summary("HC0").covariance)


def test_clusters_with_students_t_have_as_many_degrees_as_groups_less_one():
    table = fitted("poisson").summary("cluster", GROUPS, use_t=True)
    assert table.df_t == len(set(GROUPS)) - 1
    close(table.p_values, 2 * scipy.stats.t.sf(np.abs(table.z_values), table.df_t))


def test_students_t_gives_wider_confidence_intervals_of_n_less_p_degrees():
    table = fitted("gaussian").summary(use_t=True, level=0.9)
    assert table.df_t == ROWS - 4
    margin = scipy.stats.t.ppf(0.95, ROWS - 4) * table.standard_errors
    close(table.confidence_intervals, np.column_stack([table.coef - margin, table.coef + margin]))
    close(table.p_values, 2 * scipy.stats.t.sf(np.abs(table.z_values), ROWS - 4))


def test_labels_of_groups_may_be_text():
    fit = fitted("poisson")
    one, other = (fit.summary("cluster", g).covariance for g in (GROUPS, [f"g{g}" for g in GROUPS]))
    close(one, other)


# ---------------------------------------------------------------- other models


def test_multinomial_has_the_standard_errors_of_parameters_with_sum_zero():
    rng = np.random.default_rng(3)
    y = (X @ rng.normal(size=(3, 3)) + rng.gumbel(size=(ROWS, 3))).argmax(axis=1)
    fit = glm(X, y, "multinomial", l2=0.0, tol=1e-12)
    rows = np.column_stack([X, np.ones(ROWS)])
    p, seen = fit.predict_proba(X), np.eye(3)[y]
    assert fit.log_likelihood == pytest.approx(np.log(p[np.arange(ROWS), y]).sum(), rel=1e-12)
    assert fit.pearson_chi2 == pytest.approx(((seen - p) ** 2 / p).sum(), rel=1e-10)
    share = seen.mean(axis=0)
    assert fit.null_deviance == pytest.approx(-2 * ROWS * (share * np.log(share)).sum(), rel=1e-10)
    assert (fit.df_resid, fit.aic) == (ROWS - 8, pytest.approx(fit.deviance + 16))
    s = ((p - seen)[:, :, None] * rows[:, None]).reshape(ROWS, 12)
    bread = np.linalg.pinv(fit.hessian, rcond=1e-12)
    table = fit.summary("HC0")
    close(table.covariance, bread @ s.T @ s @ bread)
    assert table.names[:5] == ["0: x0", "0: x1", "0: x2", "0: intercept", "1: x0"]
    close(table.coef.reshape(3, 4)[:, :3], fit.coef)
    assert fit.summary("cluster", GROUPS).covariance.shape == (12, 12)


def test_multinomial_less_its_first_class_is_statsmodels_mnlogit():
    want = {name: RECORDED[f"multinomial/{name}"] for name in ("params", "llf", "null llf", "aic", "bic")}
    fit = glm(X, RECORDED["multinomial/y"], "multinomial", l2=0.0, tol=1e-12)
    less_first = np.kron([[-1, 1, 0], [-1, 0, 1]], np.eye(4))
    for cov_type in ("nonrobust", "HC0", "cluster"):
        table = fit.summary(cov_type, GROUPS if cov_type == "cluster" else None)
        close((less_first @ table.coef).reshape(2, 4), want["params"])
        close(less_first @ table.covariance @ less_first.T, RECORDED[f"multinomial/{cov_type}"])
    close([fit.log_likelihood, -0.5 * fit.null_deviance], [want["llf"], want["null llf"]])
    close([fit.aic, fit.bic], [want["aic"], want["bic"]])


def test_a_model_without_an_intercept_has_no_row_for_it_and_is_compared_with_a_constant():
    fit = fitted("gaussian", fit_intercept=False)
    table, y = fit.summary(), RECORDED["gaussian/y"]
    assert table.names == ["x0", "x1", "x2"]
    assert fit.null_deviance == pytest.approx(((y - y.mean()) ** 2).sum())
    residual = y - X @ fit.coef
    close(table.covariance, residual @ residual / (ROWS - 3) * np.linalg.inv(X.T @ X))


def test_with_a_penalty_the_covariance_is_that_of_the_penalized_hessian_and_a_note_says_so():
    fit = fitted("poisson", l2=2.0)
    rows, score, curvature = reference(fit, "poisson", "plain")
    bread = np.linalg.inv((rows * curvature[:, None]).T @ rows + np.diag([2, 2, 2, 0]))
    close(fit.summary().covariance, bread)
    s = rows * score[:, None]
    close(fit.summary("HC0").covariance, bread @ s.T @ s @ bread)
    assert "Coefficients are shrunk by l2=2; pass l2=0 for maximum likelihood" in fit.summary().notes[0]
    assert "shrunk" not in str(fitted("poisson").summary())


def test_more_coefficients_than_rows_leave_no_degrees_of_freedom():
    fit = fitted("gaussian", X=X[:3], y=[1.0, 2.0, 4.0], l2=1.0)
    assert fit.df_resid == -1
    assert np.isnan(fit.summary().standard_errors).all()


@every_case
def test_coefficients_at_a_bound_are_taken_as_known(case):
    """Without their columns, and with what they contribute as an offset, the model is the same."""
    free = fitted(case).coef
    bounds = (-np.inf, np.where(free == free.max(), 0.5 * free, np.inf))
    one = fitted(case, bounds=bounds)
    held = int(free.argmax())
    assert one.active.tolist() == [j == held for j in range(3)]
    others = np.delete(np.arange(3), held)
    other = fitted(case, X=X[:, others], offset=X[:, held] * one.coef[held])
    kept = np.append(others, 3)
    for name in ("deviance", "log_likelihood", "aic", "bic", "df_resid", "dispersion"):
        close(getattr(one, name), getattr(other, name))
    for cov_type in ("nonrobust", *ROBUST, "cluster"):
        groups = GROUPS if cov_type == "cluster" else None
        a, b = one.summary(cov_type, groups), other.summary(cov_type, groups)
        close(a.covariance[np.ix_(kept, kept)], b.covariance)
        assert np.isnan(a.standard_errors[held])
        assert np.isnan(a.confidence_intervals[held]).all()
    close(one.predict_interval(NEW), other.predict_interval(NEW[:, others], offset=NEW[:, held] * one.coef[held]))
    assert not one.covariance[held].any()
    assert "Coefficients at a bound have no standard error" in one.summary().notes[0]


def test_bounds_that_hold_nothing_change_nothing():
    one, other = fitted("poisson", bounds=(-100, 100)), fitted("poisson")
    close(one.summary().covariance, other.summary().covariance)
    assert one.summary().notes == []
    y = np.arange(ROWS) % 3
    one, other = (glm(X, y, "multinomial", tol=1e-12, bounds=bounds) for bounds in ((-100, 100), None))
    close(one.summary().covariance, other.summary().covariance)
    with pytest.raises(ValueError, match="covariance: expected no coefficient of a multinomial at a bound"):
        glm(X, y, "multinomial", bounds=(0, 0.01)).summary()


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_tweedie_of_a_whole_power_is_poisson_or_gamma(power):
    y = RECORDED["gamma log/y"]
    one = glm(X, y, "tweedie", l2=0.0, tol=1e-12, power=power)
    other = glm(X, y, "poisson" if power == 1 else "gamma", l2=0.0, tol=1e-12)
    close(one.deviance, other.deviance)
    close(one.dispersion, other.pearson_chi2 / other.df_resid)
    close(one.log_likelihood, other.log_likelihood / (one.dispersion if power == 1 else 1))


# ---------------------------------------------------------------- intervals of new observations


def test_a_new_observation_of_a_gaussian_lies_where_the_textbook_says():
    fit = fitted("gaussian")
    rows, new = (np.column_stack([x, np.ones(len(x))]) for x in (X, NEW))
    residual = RECORDED["gaussian/y"] - rows @ [*fit.coef, fit.intercept]
    variance = residual @ residual / (ROWS - 4)
    inverse = np.linalg.inv(rows.T @ rows)
    se = np.sqrt(variance * (1 + np.einsum("ij,jk,ik->i", new, inverse, new)))
    margin = scipy.stats.t.ppf(0.95, ROWS - 4) * se
    want = np.column_stack([fit.predict(NEW) - margin, fit.predict(NEW) + margin])
    close(fit.predict_interval(NEW, kind="prediction", level=0.9), want)


@pytest.mark.parametrize(
    ("case", "ends"),
    [
        ("poisson", lambda q, mean, fit: scipy.stats.poisson.ppf(q, mean)),
        ("negative_binomial", lambda q, mean, fit: scipy.stats.nbinom.ppf(q, 1 / 0.7, 1 / (1 + 0.7 * mean))),
        ("gamma log", lambda q, mean, fit: scipy.stats.gamma.ppf(q, 1 / fit.dispersion, scale=mean * fit.dispersion)),
        (
            "gamma inverse",
            lambda q, mean, fit: scipy.stats.gamma.ppf(q, 1 / fit.dispersion, scale=mean * fit.dispersion),
        ),
    ],
)
def test_a_new_observation_of_other_families_lies_between_quantiles_of_their_distribution(case, ends):
    fit = fitted(case)
    mean = fit.predict(NEW)
    want = np.column_stack([ends(q, mean, fit) for q in (0.05, 0.95)])
    close(fit.predict_interval(NEW, kind="prediction", level=0.9), want)


def test_a_new_observation_of_tweedie_lies_between_quantiles_of_its_density():
    fit = fitted("tweedie")
    low, high = fit.predict_interval(NEW, kind="prediction", level=0.9).T
    z = fit.decision_function(NEW)
    rule = formulas("tweedie", "log", 1.6)
    for i, end in enumerate(high):
        y = np.linspace(0, 1, 20_001)[1:] ** 3 * end
        density = np.exp(rule.log_likelihood(y, np.full(len(y), z[i]), np.ones(len(y)), fit.dispersion))
        nothing = math.exp(rule.log_likelihood(np.zeros(1), z[[i]], np.ones(1), fit.dispersion)[0])
        assert np.trapezoid(density, y) + nothing == pytest.approx(0.95, abs=1e-4)
        assert (low[i] == 0) == (nothing >= 0.05)


def test_an_interval_needs_no_rows_and_takes_an_exposure():
    fit = glm(X, RECORDED["poisson/y"], "poisson", l2=0.0, exposure=np.full(ROWS, 2.0))
    assert fit.predict_interval(NEW[:0], exposure=1.0).shape == (0, 2)
    close(fit.predict_interval(NEW, exposure=4.0), 2 * fit.predict_interval(NEW, exposure=2.0))
    with pytest.raises(ValueError, match="exposure: expected one"):
        fit.predict_interval(NEW)


def test_an_interval_that_leaves_the_domain_of_an_inverse_link_has_no_upper_end():
    fit = fitted("gamma inverse")
    z = fit.decision_function(NEW)
    low, high = fit.predict_interval(NEW, level=0.9999999).T
    assert np.isinf(high).any()
    assert (low[z > 0] > 0).all()
    assert (high >= 1 / z).all()


# ---------------------------------------------------------------- the table


def test_a_summary_prints_names_numbers_and_what_is_unusual():
    fit = fitted("gamma log", "offset", sample_weight=RECORDED["weight"], l2=1.0)
    text = str(fit.summary("HC3", level=0.9))
    for words in ("gamma", "log", "HC3", "AIC", "std err", "P>|z|", "5%", "95%", "x2", "intercept"):
        assert words in text
    for note in ("shrunk by l2=1;", "include offset, without a coefficient", "weight w"):
        assert note in text
    assert repr(fit.summary()) == str(fit.summary())
    assert "P>|t|" in str(fit.summary(use_t=True))


def test_a_summary_says_which_of_two_classes_is_modelled_unless_they_are_0_and_1():
    labels = np.where(RECORDED["binomial/y"] > 0, "yes", "no")
    assert fitted("binomial", y=labels).summary().notes == ["Coefficients are those of the log-odds of 'yes'."]
    assert fitted("binomial").summary().notes == []


def test_a_summary_of_a_fit_that_did_not_converge_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fitted("poisson", max_iter=1)
    assert "has not converged" in str(fit.summary())
    assert "no, 1 steps" in str(fit.summary())


def test_a_pickled_result_keeps_what_it_was_asked_for():
    fit = fitted("gamma log")
    twin = pickle.loads(pickle.dumps(fit))
    for ask in ("deviance", "aic", "dispersion", "covariance"):
        with pytest.raises(ValueError, match=r"(deviance|hessian|covariance): expected to be asked for before"):
            getattr(twin, ask)
    with pytest.raises(ValueError, match="expected to be asked for before"):
        twin.summary()
    want = str(fit.summary())
    twin = pickle.loads(pickle.dumps(fit))
    assert str(twin.summary()) == want
    with pytest.raises(ValueError, match="covariance: expected to be asked for before"):
        twin.summary("HC0")


FIT = fitted("poisson")
WRONG = {
    "cov_type": ({"cov_type": "HC4"}, "cov_type: expected one of nonrobust, HC0, .* got 'HC4'"),
    "no groups": ({"cov_type": "cluster"}, "groups: expected labels of the rows, got NoneType"),
    "groups": ({"groups": GROUPS}, "groups: expected none for 'nonrobust'.*cov_type='cluster' takes them"),
    "few groups": ({"cov_type": "cluster", "groups": GROUPS[:5]}, r"groups: expected shape \(90,\)"),
    "one group": ({"cov_type": "cluster", "groups": np.ones(ROWS)}, "groups: expected at least two groups"),
    "missing group": (
        {"cov_type": "cluster", "groups": [None] + ["a"] * (ROWS - 1)},
        "groups: expected labels of groups, got None in row 0",
    ),
    "level": ({"level": 95}, "level: expected a finite number above 0 and below 1, got 95"),
    "use_t": ({"use_t": "yes"}, "use_t: expected True or False"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_of_a_summary_is_named(case):
    given, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        FIT.summary(**given)


def test_a_wrong_argument_of_an_interval_is_named():
    with pytest.raises(ValueError, match="kind: expected 'confidence' or 'prediction', got 'mean'"):
        FIT.predict_interval(NEW, kind="mean")
    with pytest.raises(ValueError, match="level: expected"):
        FIT.predict_interval(NEW, level=1.0)
    with pytest.raises(ValueError, match="family: expected one of numbers, got binomial; use predict_proba"):
        fitted("binomial").predict_interval(NEW, kind="prediction")
    many = glm(X, np.arange(ROWS) % 3, "multinomial")
    with pytest.raises(ValueError, match="use predict_proba"):
        many.predict_interval(NEW)
    with pytest.raises(ValueError, match="cov_type: expected nonrobust, HC0, HC1 or cluster for multinomial"):
        many.summary("HC3")
    quasi = glm(X, RECORDED["poisson/y"], "tweedie", power=1.0)
    with pytest.raises(ValueError, match="tweedie of power 1; fit poisson"):
        quasi.predict_interval(NEW, kind="prediction")


@pytest.mark.parametrize("family", ["gaussian", "gamma", "tweedie"])
def test_intervals_are_not_known_where_no_rows_are_left_for_the_dispersion(family):
    fit = glm(np.array([[2.0], [5.0]]), [1.0, 3.0], family, l2=0.0)
    for kind in ("confidence", "prediction"):
        assert np.isnan(fit.predict_interval([[3.0]], kind)).all()


@every_case
def test_what_becomes_of_the_callers_arrays_changes_no_statistics_in_silence(case):
    given = {"y": RECORDED[f"{case}/y"].copy(), "X": X.copy(), "sample_weight": np.linspace(1, 2, ROWS)}
    given["offset"] = np.linspace(0, 0.01, ROWS)
    want = str(fitted(case, **given).summary("HC3"))
    for name, array in given.items():
        fit, kept = fitted(case, **given), array.copy()
        array[:] = array[::-1].copy()
        if name == "X":
            for ask in (
                lambda fit=fit: fit.deviance,
                lambda fit=fit: fit.covariance,
                lambda fit=fit: fit.summary("HC0"),
            ):
                with pytest.raises(
                    ValueError, match="X: expected the rows of the fit, got rows that were changed since"
                ):
                    ask()
        array[:] = kept if name == "X" else array
        assert str(fit.summary("HC3")) == want
        array[:] = kept


def test_rows_solved_in_their_own_space_are_known_again():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(20, 40))
    fit = glm(wide, wide[:, 0] > 0)
    assert np.isfinite(fit.covariance).all()
    fit = glm(wide, wide[:, 0] > 0)
    wide[3] += 1
    with pytest.raises(ValueError, match="X: expected the rows of the fit"):
        fit.hessian  # noqa: B018


# ---------------------------------------------------------------- ends of the families


def test_families_meet_at_the_ends_of_their_parameters():
    """Deviances keep their digits where a parameter makes the terms of their formulas large."""
    y, z = np.array([0.0, 1.0, 2.0, 7.0, 900.0]), np.array([-0.3, 0.2, 1.0, 1.9, 6.8])
    one = np.ones(5)
    poisson = formulas("poisson", "log")
    near = formulas("negative_binomial", "log", 1e-12)
    np.testing.assert_allclose(near.deviance(y, z), poisson.deviance(y, z), rtol=1e-8)
    np.testing.assert_allclose(
        near.log_likelihood(y[:4], z[:4], one[:4], 1.0), poisson.log_likelihood(y[:4], z[:4], one[:4], 1.0), rtol=1e-9
    )
    np.testing.assert_allclose(formulas("tweedie", "log", 1 + 1e-10).deviance(y, z), poisson.deviance(y, z), rtol=1e-7)
    gamma = formulas("gamma", "log").deviance(y[1:], z[1:])
    np.testing.assert_allclose(formulas("tweedie", "log", 2 - 1e-10).deviance(y[1:], z[1:]), gamma, rtol=1e-7)


@pytest.mark.parametrize("power", [1.01, 1.5, 1.99])
def test_tweedie_of_a_small_dispersion_is_close_to_a_normal_distribution(power):
    mean, dispersion = np.array([0.1, 1.0, 50.0]), 1e-9
    tweedie, sd = formulas("tweedie", "log", power), np.sqrt(dispersion * mean**power)
    for steps in (-2.0, 0.0, 1.5):
        y = mean + steps * sd
        np.testing.assert_allclose(tweedie.deviance(y, np.log(mean)), dispersion * steps**2, rtol=1e-3, atol=1e-20)
        density = tweedie.log_likelihood(y, np.log(mean), np.ones(3), dispersion)
        np.testing.assert_allclose(density, scipy.stats.norm.logpdf(y, mean, sd), atol=2e-3)


@pytest.mark.parametrize(
    ("family", "unit"), [("gamma", 1e300), ("gamma", 1e-300), ("tweedie", 1e-250), ("tweedie", 1e250)]
)
def test_the_unit_of_amounts_does_not_matter_to_their_statistics(family, unit):
    y = np.random.default_rng(0).gamma(2, 3, ROWS)
    one, other = (glm(X, y * scale, family, l2=0.0, tol=1e-11) for scale in (1.0, unit))
    for cov_type in ("nonrobust", "HC3"):
        a, b = (fit.summary(cov_type).standard_errors for fit in (one, other))
        np.testing.assert_allclose(b, a, rtol=1e-6)
    if family == "gamma":
        assert other.pearson_chi2 == pytest.approx(one.pearson_chi2, rel=1e-7)
        assert other.log_likelihood == pytest.approx(one.log_likelihood - ROWS * np.log(unit), rel=1e-7)
