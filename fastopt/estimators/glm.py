"""Generalized linear models as estimators, over `newton.glm`.

Penalties are stated as scikit-learn states them: `C` for classes as in its LogisticRegression, `alpha` on the mean of
the losses for numbers as in its PoissonRegressor, GammaRegressor and TweedieRegressor. `result_` is the `GLMResult`.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from fastopt._numbers import finite_number, number_or_infinity
from fastopt.estimators.inputs import check_present, columns_kept
from fastopt.estimators.targets import labels_apart, sorted_labels
from fastopt.estimators.weights import class_weights, row_weights, with_class_weights
from fastopt.newton import glm
from fastopt.newton.glm_data import Family, as_target
from fastopt.newton.glm_families import formulas

LINKS: dict[str, Any] = {"identity": float, "log": np.log, "inverse": lambda mean: 1 / mean}


def _given(**options) -> dict:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


class GLM(BaseEstimator):
    """What both estimators share: data read as `newton.glm` takes them, and the result's own predictions."""

    def _read(self, X, y="no_validation", **options):
        check_present(X=X, y=y)
        return validate_data(self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32), order="C", **options)

    def _solved(self, X, y, family, l2, weights, **options):
        """Fit, and assign the result; the columns' names are those of the data frame."""
        self.result_ = glm(
            X,
            y,
            family,
            l2,
            self.fit_intercept,
            weights,
            self.tol,
            self.max_iter,
            self.verbose,
            names=getattr(self, "feature_names_in_", None),
            **options,
        )
        self.n_iter_ = self.result_.n_iter

    def _predicted(self, method, X, **given):
        """What a method of the result gives for X."""
        check_is_fitted(self)
        return getattr(self.result_, method)(self._read(X, reset=False), **_given(**given))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "result_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class GLMClassifier(ClassifierMixin, GLM):
    """Logistic regression to full precision: binomial for two classes, multinomial for more.

    Parameters
    ----------
    C : float
        Above 0; minimizes ``C * sum(w * loss) + ||coef||^2 / 2``, the intercept free, as scikit-learn's
        ``LogisticRegression`` does. ``float("inf")`` for no penalty.
    fit_intercept : bool
    class_weight : dict, "balanced" or None
        Weights by label, that multiply those of the rows; "balanced" gives each class the same total.
    tol, max_iter, verbose
        As for `newton.glm`.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels in ascending order.
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray, shape (1,) or (n_classes,)
    n_iter_ : int
        Steps taken.
    result_ : newton.GLMResult
        Covariance, condition number and what else a fit tells; of its class numbers 0, 1, ... for labels.
    n_features_in_, feature_names_in_
        Columns of X; names where it was a data frame.

    Examples
    --------
    >>> from fastopt.estimators import GLMClassifier
    >>> model = GLMClassifier().fit([[0.0], [1.0], [2.0], [3.0]], ["no", "yes", "no", "yes"])
    >>> model.predict([[5.0]]), model.predict_proba([[1.5]]).round(2)
    (array(['yes'], dtype='<U3'), array([[0.5, 0.5]]))
    """

    def __init__(self, *, C=1.0, fit_intercept=True, class_weight=None, tol=1e-8, max_iter=200, verbose=False):
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None, offset=None):
        """Fit the model.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
            Sparse rows stay sparse.
        y : array_like, shape (n,)
            Labels, text or numbers.
        sample_weight : array_like, shape (n,), optional
            At least 0; a weight of 2 is the row twice.
        offset : float or array_like, shape (n,), or (n, n_classes) for more than two classes, optional
            Added to the linear predictors; a model fitted with one predicts with one only.

        Returns
        -------
        GLMClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            Options or data that do not fit; linearly dependent columns without a penalty.

        Warns
        -----
        RuntimeWarning
            The fit did not converge, as when classes can be separated and there is no penalty.
        """
        l2 = 1 / number_or_infinity("C", self.C, above=0)
        with columns_kept(self):
            X, y = self._read(X, labels_apart(y))
            classes, codes = sorted_labels("y", y)
            weights = row_weights("sample_weight", sample_weight, X)
            weights = with_class_weights(weights, class_weights(self.class_weight, classes, codes, weights), codes)
            self._solved(X, codes, "binomial" if len(classes) == 2 else "multinomial", l2, weights, offset=offset)
        self.classes_ = classes
        self.coef_, self.intercept_ = np.atleast_2d(self.result_.coef), np.atleast_1d(self.result_.intercept)
        return self

    def decision_function(self, X, offset=None):
        """The linear predictors: (n,) for two classes, else (n, n_classes); `offset` as for `fit`."""
        return self._predicted("decision_function", X, offset=offset)

    def predict(self, X, offset=None):
        """The most probable class of each row, (n,); `offset` as for `fit`."""
        codes = self._predicted("predict", X, offset=offset)
        return self.classes_[codes]

    def predict_proba(self, X, offset=None):
        """The probability of each class, (n, n_classes); `offset` as for `fit`."""
        return self._predicted("predict_proba", X, offset=offset)

    def predict_log_proba(self, X, offset=None):
        """The logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X, offset))

    def score(self, X, y, sample_weight=None, offset=None):
        """Accuracy; `offset` as for `fit`."""
        return accuracy_score(y, self.predict(X, offset), sample_weight=sample_weight)


class GLMRegressor(RegressorMixin, GLM):
    """Generalized linear model of numbers to full precision.

    Parameters
    ----------
    family : str
        "gaussian" (identity link), "poisson" (log), "gamma" (log or inverse), "tweedie" (log) or "negative_binomial"
        (log); see `newton.glm`.
    alpha : float
        At least 0; minimizes ``sum(w * loss) / sum(w) + alpha / 2 * ||coef||^2``, the intercept free, as scikit-learn's
        ``PoissonRegressor`` does. Its ``Ridge`` takes the sum: its alpha is this one times ``sum(w)``.
    fit_intercept : bool
    link : str or None
        That of the family by default.
    power : float
        Of "tweedie", 1 to 2.
    theta : float
        Of "negative_binomial": the variance is ``mean + theta * mean**2``; `alpha` of `newton.glm` and of statsmodels.
    tol, max_iter, verbose
        As for `newton.glm`.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
    intercept_ : float
    n_iter_ : int
        Steps taken.
    result_ : newton.GLMResult
        Covariance, condition number and what else a fit tells.
    n_features_in_, feature_names_in_
        Columns of X; names where it was a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.estimators import GLMRegressor
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> GLMRegressor("poisson", alpha=0.0).fit(X, [1, 2, 4, 8]).predict([[4.0]]).round(6)
    array([16.])
    """

    def __init__(
        self,
        family="gaussian",
        *,
        alpha=1.0,
        fit_intercept=True,
        link=None,
        power=1.5,
        theta=1.0,
        tol=1e-8,
        max_iter=200,
        verbose=False,
    ):
        self.family = family
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.link = link
        self.power = power
        self.theta = theta
        self.tol = tol
        self.max_iter = max_iter
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None, offset=None, exposure=None):
        """Fit the model.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, n_features)
            Sparse rows stay sparse.
        y : array_like, shape (n,)
        sample_weight : array_like, shape (n,), optional
            At least 0; a weight of 2 is the row twice.
        offset : float or array_like, shape (n,), optional
            Added to the linear predictors; a model fitted with one predicts with one only.
        exposure : float or array_like, shape (n,), optional
            Above 0; its logarithm is an offset, for the link "log".

        Returns
        -------
        GLMRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            Options or data that do not fit; linearly dependent columns without a penalty.

        Warns
        -----
        RuntimeWarning
            The fit did not converge.
        """
        if self.family in ("binomial", "multinomial"):
            raise ValueError(f"family: expected one of numbers, got {self.family!r}; use GLMClassifier")
        alpha = finite_number("alpha", self.alpha, 0)
        own = {"tweedie": {"power": self.power}, "negative_binomial": {"alpha": self.theta}}.get(str(self.family), {})
        with columns_kept(self):
            X, y = self._read(X, y, y_numeric=True)
            weights = row_weights("sample_weight", sample_weight, X)
            l2 = alpha * (X.shape[0] if weights is None else weights.sum())
            self._solved(X, y, self.family, l2, weights, link=self.link, offset=offset, exposure=exposure, **own)
        self.coef_, self.intercept_ = self.result_.coef, self.result_.intercept
        return self

    def predict(self, X, offset=None, exposure=None):
        """The mean of y, (n,); `offset` and `exposure` as for `fit`."""
        return self._predicted("predict", X, offset=offset, exposure=exposure)

    def score(self, X, y, sample_weight=None, offset=None, exposure=None):
        """The part of the deviance that the model explains, D²; for gaussian R².

        Parameters
        ----------
        X, y, sample_weight, offset, exposure
            As for `fit`.

        Returns
        -------
        float
            ``1 - deviance(y, prediction) / deviance(y, mean of y)``; of a constant y 0, or 1 where it is predicted.
        """
        check_present(y=y)
        z, result = self._predicted("decision_function", X, offset=offset, exposure=exposure), self.result_
        weights = row_weights("sample_weight", sample_weight, z)
        parameter = result.power if result.alpha is None else result.alpha
        y = column_or_1d(y, warn=True)
        if result.family not in ("gaussian", "gamma") and len(y) == len(z) and not y.any():
            return 0.0  # of zeros alone, which a fit refuses and a fold of rare events may hold
        y = as_target(y, Family(result.family, result.link, parameter), weights, len(z))[0]
        deviance = formulas(result.family, result.link, parameter).deviance
        constant = np.full(len(y), LINKS[result.link](np.average(y, weights=weights)))
        mine, least = (np.average(deviance(y, some), weights=weights) for some in (z, constant))
        counted = y if weights is None else y[weights > 0]
        if counted.min() == counted.max():  # as scikit-learn's r2_score has it
            return float(mine == 0)
        return float(1 - mine / least)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.family != "gaussian"
        return tags
