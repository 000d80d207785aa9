"""Estimators beside scikit-learn's: networks fitted and asked, logistic and Poisson regression, a search for options.

All sides get the same arrays, float64 as scikit-learn's loaders give them, and the same options.
"""

import warnings
from collections.abc import Iterator

import numpy as np

from fastopt.bench._cases import Case, random

DIGITS = {"hidden_layer_sizes": (128, 64), "batch_size": 32, "max_iter": 20}
TO_THE_END = {"random_state": 0, "tol": 0.0, "n_iter_no_change": 10_000}
SEARCHED = {
    "hidden_layer_sizes": [(32,), (64,), (128, 64)],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2],
    "learning_rate_init": [1e-3, 3e-3],
}


def cases() -> Iterator[Case]:
    yield Case(
        "MLPClassifier.fit 64-128-64-10, batch 32, 20 epochs",
        digits,
        mlp_fit,
        {"sklearn": sklearn_fit},
        dtype="float64",
    )
    yield Case(
        "MLPClassifier.predict_proba 64-128-64-10, 1797",
        digits,
        mlp_predict,
        {"sklearn": sklearn_predict},
        dtype="float64",
    )
    yield Case(
        "GridSearchCV of 24 MLPClassifiers, 2 processes",
        digits,
        mlp_search,
        {"sklearn": sklearn_search},
        dtype="float64",
    )
    for kind, (ours, theirs) in {"GLMClassifier": LOGISTIC, "GLMRegressor, poisson": POISSON}.items():
        yield Case(f"{kind}.fit 20000 x 50", rows, ours, {"sklearn": theirs}, dtype="float64")


def digits():
    """The digits of scikit-learn."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def rows():
    """Columns, and counts that depend on them."""
    X = random(20_000, 50, dtype="float64")
    return X, np.random.default_rng(1).poisson(np.exp(0.1 * X.sum(axis=1)))


def quiet(call):
    """A call without the warnings of fits that end early, as all of these do."""

    def silent():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()

    return silent


# ---------------------------------------------------------------- networks


def ours_of(**options):
    from fastopt.estimators import MLPClassifier

    return MLPClassifier(**options, **TO_THE_END)


def theirs_of(**options):
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(**options, **TO_THE_END)


def mlp_fit(X, y):
    return quiet(lambda: ours_of(**DIGITS).fit(X, y))


def sklearn_fit(X, y):
    theirs_of(**DIGITS)
    return quiet(lambda: theirs_of(**DIGITS).fit(X, y))


def mlp_predict(X, y):
    model = mlp_fit(X, y)()
    return lambda: model.predict_proba(X)


def sklearn_predict(X, y):
    model = quiet(lambda: theirs_of(**DIGITS | {"max_iter": 1}).fit(X, y))()
    return lambda: model.predict_proba(X)


def search(estimator, X, y):
    """A search in two processes, which a first one has started; each has one thread."""
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    estimator.set_params(batch_size=32, max_iter=5)

    def call():
        with parallel_config(backend="loky", n_jobs=2, inner_max_num_threads=1):
            GridSearchCV(estimator, SEARCHED, cv=2, refit=False).fit(X, y)

    return quiet(call)


def mlp_search(X, y):
    return search(ours_of(), X, y)


def sklearn_search(X, y):
    return search(theirs_of(), X, y)


# ---------------------------------------------------------------- generalized linear models, to a gradient of 1e-8


def glm_classifier(X, y):
    from fastopt.estimators import GLMClassifier

    return lambda: GLMClassifier().fit(X, y > 1)


def logistic_regression(X, y):
    from sklearn.linear_model import LogisticRegression

    return lambda: LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(X, y > 1)


def glm_regressor(X, y):
    from fastopt.estimators import GLMRegressor

    return lambda: GLMRegressor("poisson").fit(X, y)


def poisson_regressor(X, y):
    from sklearn.linear_model import PoissonRegressor

    return lambda: PoissonRegressor(solver="newton-cholesky", tol=1e-8).fit(X, y)


LOGISTIC, POISSON = (glm_classifier, logistic_regression), (glm_regressor, poisson_regressor)
