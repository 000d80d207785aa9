"""`GLMClassifier` and `GLMRegressor`: scikit-learn's statement of the penalty, `newton.glm`'s solution.

Pass criterion: coefficients equal those of scikit-learn's solvers, run to their end, to 1e-6; scores to 1e-10.
"""

import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import GammaRegressor, LogisticRegression, PoissonRegressor, Ridge, TweedieRegressor

import fastopt as fo
from fastopt.estimators import GLMClassifier, GLMRegressor


@pytest.fixture(scope="module")
def data():
    """300 rows of 4 columns, their weights, and labels, counts and amounts that depend on them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    z = X @ [0.5, -0.3, 0.0, 0.2]
    labels = np.array(["low", "middle", "top"])[np.digitize(3 * z + rng.logistic(size=300), [-1, 1])]
    counts, amounts = rng.poisson(np.exp(z + 1)), rng.gamma(2.0, np.exp(z))
    return X, rng.uniform(0, 2, size=300), labels, counts, amounts


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {"top": 3.0}], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_is_logistic_regression(classes, class_weight, weighted, data):
    X, weights, labels, *_ = data
    y = labels if classes == 3 else np.where(labels == "top", "top", "low")
    weights = weights if weighted else None
    ours = GLMClassifier(C=0.3, class_weight=class_weight).fit(X, y, weights)
    theirs = LogisticRegression(C=0.3, class_weight=class_weight, tol=1e-10, max_iter=10_000).fit(X, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        np.testing.assert_allclose(getattr(ours, method)(X), getattr(theirs, method)(X), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X, y, weights) == theirs.score(X, y, weights)


THEIRS = {
    "gaussian": lambda alpha: TweedieRegressor(power=0, alpha=alpha, solver="newton-cholesky", tol=1e-10),
    "poisson": lambda alpha: PoissonRegressor(alpha=alpha, solver="newton-cholesky", tol=1e-10),
    "gamma": lambda alpha: GammaRegressor(alpha=alpha, solver="newton-cholesky", tol=1e-10),
    "tweedie": lambda alpha: TweedieRegressor(power=1.5, link="log", alpha=alpha, solver="newton-cholesky", tol=1e-10),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("family", THEIRS)
def test_a_regressor_has_scikit_learns_alpha_and_score(family, weighted, data):
    X, weights, _, counts, amounts = data
    y, weights = counts if family == "poisson" else amounts, weights if weighted else None
    ours, theirs = GLMRegressor(family, alpha=0.1).fit(X, y, weights), THEIRS[family](0.1).fit(X, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, abs=1e-6)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-5)
    assert ours.score(X, y, weights) == pytest.approx(theirs.score(X, y, weights), abs=1e-6)


def test_the_alpha_of_ridge_is_that_of_a_mean_times_the_rows(data):
    X, weights, *_, amounts = data
    ours = GLMRegressor(alpha=0.1).fit(X, amounts, weights)
    np.testing.assert_allclose(ours.coef_, Ridge(0.1 * weights.sum()).fit(X, amounts, weights).coef_, atol=1e-8)


def test_every_option_reaches_the_model(data):
    X, *_, counts, amounts = data
    for estimator, options in (
        (GLMRegressor("gamma", link="inverse", alpha=0.0, fit_intercept=False), {"link": "inverse"}),
        (GLMRegressor("tweedie", power=1.2, alpha=0.0, fit_intercept=False), {"power": 1.2}),
        (GLMRegressor("negative_binomial", theta=0.5, alpha=0.0, fit_intercept=False), {"alpha": 0.5}),
    ):
        y = counts if estimator.family == "negative_binomial" else amounts
        if estimator.link == "inverse":
            X = np.abs(X)  # the predictors must stay above 0
        want = fo.newton.glm(X, y, estimator.family, l2=0.0, fit_intercept=False, **options)
        np.testing.assert_array_equal(estimator.fit(X, y).coef_, want.coef)
        assert estimator.intercept_ == 0
        assert estimator.n_iter_ == want.n_iter
    assert GLMRegressor("poisson", power=1.2, theta=3.0).fit(X, counts).result_.family == "poisson"


def test_the_score_of_negative_binomial_is_the_part_of_the_deviance_explained(data):
    X, weights, _, counts, _ = data
    model = GLMRegressor("negative_binomial", theta=0.5, alpha=0.0).fit(X, counts, weights)
    result = model.result_
    assert model.score(X, counts, weights) == pytest.approx(1 - result.deviance / result.null_deviance, rel=1e-8)


def test_an_offset_and_an_exposure_are_not_forgotten(data):
    X, _, labels, counts, _ = data
    hours = np.linspace(1, 5, 300)
    model = GLMRegressor("poisson", alpha=0.0).fit(X, counts, exposure=hours)
    np.testing.assert_allclose(model.coef_, fo.newton.glm(X, counts, "poisson", l2=0.0, exposure=hours).coef)
    np.testing.assert_allclose(model.predict(X, exposure=2.0), 2 * model.predict(X, exposure=1.0))
    assert model.score(X, counts, exposure=hours) < model.score(X, counts, exposure=hours, sample_weight=hours) + 1
    for call in (model.predict, lambda X: model.score(X, counts)):
        with pytest.raises(ValueError, match="exposure: expected one"):
            call(X)
    two = GLMClassifier().fit(X, labels == "top", offset=hours)
    np.testing.assert_allclose(two.decision_function(X, offset=hours) - hours, two.decision_function(X, offset=0.0))
    with pytest.raises(ValueError, match="offset: expected one"):
        two.predict_proba(X)
    three = GLMClassifier().fit(X, labels, offset=np.zeros((300, 3)))
    assert three.predict(X, offset=np.zeros((300, 3))).shape == (300,)


def test_sparse_rows_stay_sparse_and_give_the_same_model(data):
    X, _, labels, counts, _ = data
    X = np.where(np.abs(X) > 1, X, 0.0)
    for estimator, y in ((GLMClassifier(), labels), (GLMRegressor("poisson"), counts)):
        dense, thin = clone(estimator).fit(X, y), clone(estimator).fit(sparse.csr_array(X), y)
        np.testing.assert_allclose(thin.coef_, dense.coef_, atol=1e-7)
        np.testing.assert_array_equal(thin.predict(sparse.csc_matrix(X)), thin.predict(sparse.csr_array(X)))


def test_a_table_has_the_names_of_the_data_frame(data):
    pandas = pytest.importorskip("pandas", reason="pandas, whose frames these are, is not installed")
    frame = pandas.DataFrame(data[0], columns=["age", "height", "weight", "pulse"])
    model = GLMRegressor("poisson", alpha=0.0).fit(frame, data[3])
    assert "pulse" in str(model.result_.summary())
    np.testing.assert_array_equal(model.predict(frame), clone(model).fit(data[0], data[3]).predict(data[0]))


def test_no_penalty_is_an_infinite_c_or_an_alpha_of_zero(data):
    X, _, labels, counts, _ = data
    want = fo.newton.glm(X, labels == "top", l2=0.0).coef
    np.testing.assert_array_equal(GLMClassifier(C=np.inf).fit(X, labels == "top").coef_[0], want)
    want = fo.newton.glm(X, counts, "poisson", l2=0.0).coef
    np.testing.assert_array_equal(GLMRegressor("poisson", alpha=0.0).fit(X, counts).coef_, want)


WRONG = {
    "C": lambda X, labels, counts: GLMClassifier(C=0.0).fit(X, labels),
    "class_weight": lambda X, labels, counts: GLMClassifier(class_weight={"high": 2.0}).fit(X, labels),
    "y: expected at least two classes": lambda X, labels, counts: GLMClassifier().fit(X, counts * 0),
    "y: expected class labels, got continuous": lambda X, labels, counts: GLMClassifier().fit(X, X[:, 0]),
    "sample_weight": lambda X, labels, counts: GLMClassifier().fit(X, labels, -np.ones(300)),
    "alpha": lambda X, labels, counts: GLMRegressor(alpha=-1.0).fit(X, counts),
    "family: expected one of numbers": lambda X, labels, counts: GLMRegressor("binomial").fit(X, counts),
    "family": lambda X, labels, counts: GLMRegressor("cauchy").fit(X, counts),
    "link": lambda X, labels, counts: GLMRegressor("poisson", link="inverse").fit(X, counts),
    "power": lambda X, labels, counts: GLMRegressor("tweedie", power=3.0).fit(X, counts),
    "y: expected values of at least 0": lambda X, labels, counts: GLMRegressor("poisson").fit(X, counts - 9),
    "y: expected values of at least 0 for poisson": lambda X, labels, counts: (
        GLMRegressor("poisson").fit(X, counts).score(X, counts - 9)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_is_one_error_that_says_what_it_was(message, data):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        WRONG[message](data[0], data[2], data[3])


def test_a_fit_that_fails_leaves_the_one_before(data):
    X, *_, counts, _ = data
    model = GLMRegressor("poisson").fit(X, counts)
    before = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="y: expected"):
        model.fit(X, counts - 9)
    np.testing.assert_array_equal(model.predict(X), before.predict(X))
    with pytest.raises(NotFittedError):
        GLMClassifier().predict(X)


@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
def test_the_score_of_constant_targets_is_zero_or_one(family, data):
    X, _, _, counts, _ = data
    model = GLMRegressor(family).fit(X, counts + 1.0)
    assert model.score(X, np.full(len(X), 2.0)) == 0.0
    assert model.score(X[:1], [3.0]) == 0.0
    weights = np.arange(len(X)) < 1
    assert model.score(X, counts + 1.0, sample_weight=weights) == 0.0
    if family == "gaussian":
        assert GLMRegressor().fit(X, np.full(len(X), 3.0)).score(X, np.full(len(X), 3.0)) == 1.0


def test_score_takes_a_column_of_targets_as_fit_does(data):
    X, _, _, counts, _ = data
    model = GLMRegressor("poisson").fit(X, counts)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        assert model.score(X, counts[:, None]) == model.score(X, counts)
