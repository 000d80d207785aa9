"""Estimators inside scikit-learn: its own checks, and its pipelines, searches and inspections around them.

Pass criterion: every check of check_estimator passes; one that float32 cannot pass is shown in float64.
"""

import copy
import os
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastopt as fo
from fastopt.estimators import GLMClassifier, GLMRegressor, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ROUNDING = "float32 rounds at 1e-7, which training makes more of; the same check passes in float64"


def expected_failures(estimator):
    """Of a network in float32: what compares two trainings to 1e-7."""
    names = "check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"
    return dict.fromkeys(names, ROUNDING) if getattr(estimator, "dtype", "") == "float32" else {}


@parametrize_with_checks(
    [
        MLPClassifier(max_iter=60),
        MLPClassifier(max_iter=60, dtype="float64"),
        MLPRegressor(max_iter=60),
        MLPRegressor(max_iter=60, dtype="float64"),
        GLMClassifier(tol=1e-12),  # a check compares two solutions to 1e-7
        GLMRegressor(),
        *(GLMRegressor(family) for family in ("poisson", "gamma", "tweedie", "negative_binomial")),
    ],
    expected_failed_checks=expected_failures,
)
def test_every_check_of_scikit_learn_passes(estimator, check):
    check(estimator)


EVERY = [
    MLPClassifier(8, max_iter=5, random_state=0),
    MLPRegressor(hidden_layer_sizes=8, max_iter=5, random_state=0),
    GLMClassifier(),
    GLMRegressor(),
]


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_copies_and_pickles_predict_the_same(estimator, iris):
    fitted = clone(estimator).fit(*iris)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), clone(fitted).fit(*iris)):
        np.testing.assert_array_equal(twin.predict(iris[0]), fitted.predict(iris[0]))


def test_a_classifier_is_one_to_cross_validation_so_folds_are_stratified():
    assert all(is_classifier(e) for e in EVERY[::2])
    assert all(is_regressor(e) for e in EVERY[1::2])


def test_a_grid_search_in_two_processes_finds_what_one_finds(iris):
    grid = {"mlp__alpha": [1e-5, 10.0], "mlp__hidden_layer_sizes": [(4,), (16,)]}
    steps = [StandardScaler(), MLPClassifier(max_iter=10, random_state=0)]
    scores = []
    for jobs in (1, 2):
        pipeline = make_pipeline(*steps)
        pipeline.steps[-1] = ("mlp", pipeline.steps[-1][1])
        with warnings.catch_warnings():  # of the processes, which know no filters of pytest
            warnings.simplefilter("ignore")
            search = GridSearchCV(pipeline, grid, cv=3, n_jobs=jobs).fit(*iris)
        scores.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*scores)


def test_calibration_and_probabilities_serve_scikit_learns_metrics(iris):
    X, y = iris[0], iris[1] > 1
    for estimator in (MLPClassifier(16, max_iter=50, random_state=0), GLMClassifier()):
        model = make_pipeline(StandardScaler(), estimator)
        probabilities = cross_val_predict(model, X, y, cv=3, method="predict_proba")
        assert roc_auc_score(y, probabilities[:, 1]) > 0.9
        assert log_loss(y, probabilities) < 0.6  # log 2 is a guess
        for ensemble in (True, False):
            calibrated = CalibratedClassifierCV(model, cv=3, ensemble=ensemble).fit(X, y)
            np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)


def test_permutation_importance_finds_the_column_that_counts(rng):
    X = rng.normal(size=(300, 3))
    for estimator in (MLPRegressor(hidden_layer_sizes=8, max_iter=60, random_state=0), GLMRegressor(alpha=0.0)):
        importance = permutation_importance(estimator.fit(X, 5 * X[:, 1]), X, 5 * X[:, 1], n_repeats=2, random_state=0)
        assert importance.importances_mean.argmax() == 1


def test_chains_of_labels_are_fitted(iris):
    X, Y = iris[0], np.column_stack([iris[1] > 0, iris[1] > 1]).astype(int)
    for estimator in (MLPClassifier(8, max_iter=10), GLMClassifier()):
        assert ClassifierChain(estimator).fit(X, Y).predict(X).shape == Y.shape


def test_data_frames_pass_through_a_pipeline_and_their_names_are_kept():
    pandas = pytest.importorskip("pandas", reason="pandas, whose frames these are, is not installed")
    frame = pandas.DataFrame({"age": [20.0, 30.0, 40.0, 50.0] * 5, "town": ["A", "B", "B", "A"] * 5})
    y = pandas.Series(["no", "yes", "yes", "no"] * 5)
    for estimator in (MLPClassifier(8, max_iter=5), GLMClassifier()):
        columns = make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["town"]), (StandardScaler(), ["age"])
        ).set_output(transform="pandas")
        model = make_pipeline(columns, estimator).fit(frame, y)
        names = ["onehotencoder__town_A", "onehotencoder__town_B", "standardscaler__age"]
        assert model[-1].feature_names_in_.tolist() == names
        assert set(model.predict(frame)) <= {"no", "yes"}
        with pytest.raises(ValueError, match="feature names"):
            model[-1].predict(pandas.DataFrame(np.zeros((2, 3)), columns=["a", "b", "c"]))


def test_weights_are_routed_through_a_search(iris):
    import sklearn

    weights = np.linspace(0, 1, len(iris[1]))
    accuracy = make_scorer(lambda y, found, sample_weight: float(sample_weight @ (y == found)))
    with sklearn.config_context(enable_metadata_routing=True):
        model = GLMClassifier().set_fit_request(sample_weight=True)
        scorer = accuracy.set_score_request(sample_weight=True)
        found = cross_validate(model, *iris, cv=3, scoring=scorer, params={"sample_weight": weights})
    assert found["test_score"].sum() > 0.8 * weights.sum()


def test_digits_are_read_as_well_as_scikit_learns_network_reads_them():
    from sklearn.neural_network import MLPClassifier as Theirs

    X, y = load_digits(return_X_y=True)
    options = {"hidden_layer_sizes": (32,), "max_iter": 15, "batch_size": 32, "random_state": 0}
    ours, theirs = (
        cross_validate(make_pipeline(StandardScaler(), kind(**options)), X, y, cv=3)["test_score"].mean()
        for kind in (MLPClassifier, Theirs)
    )
    assert ours > theirs - 0.01


def test_importing_fastopt_does_not_load_scikit_learn_and_asking_for_estimators_does(python):
    program = "import sys, fastopt as fo; assert 'sklearn' not in sys.modules; fo.estimators.MLPClassifier; print('ok')"
    assert python(program) == "ok\n"


def test_without_scikit_learn_the_error_says_what_to_install(python):
    program = """
import sys
sys.modules["sklearn"] = None
import fastopt
try:
    fastopt.estimators
except ImportError as error:
    print(error)
"""
    assert "pip install fastopt[sklearn]" in python(program)


def test_an_unknown_attribute_of_fastopt_is_still_an_error():
    with pytest.raises(AttributeError, match="estimator"):
        fo.estimator  # noqa: B018


def test_convergence_warnings_are_scikit_learns(iris):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MLPClassifier(4, max_iter=2).fit(*iris)
    assert [w.category for w in caught] == [ConvergenceWarning]
    assert os.path.basename(caught[0].filename) == os.path.basename(__file__)


# ---------------------------------------------------------------- what a fit refuses, and leaves as it was


def targets_of(estimator):
    """Targets of 40 rows."""
    rng = np.random.default_rng(1)
    return np.array(["no", "yes"])[rng.integers(0, 2, 40)] if is_classifier(estimator) else rng.normal(size=40)


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_masked_elements_are_refused_and_not_read(estimator):
    X, y = np.random.default_rng(0).normal(size=(40, 3)), targets_of(estimator)
    mask = np.arange(40) == 2
    masked = {
        "X": np.ma.masked_array(X, X > 1),
        "y": np.ma.masked_array(y, mask),
        "sample_weight": np.ma.masked_array(np.ones(40), mask),
    }
    for name, array in masked.items():
        with pytest.raises(TypeError, match=f"{name}: expected an array without masked elements"):
            clone(estimator).fit(**{"X": X, "y": y, name: array})
    fitted = clone(estimator).fit(np.ma.masked_array(X, False), y)
    np.testing.assert_array_equal(fitted.predict(X), clone(estimator).fit(X, y).predict(X))
    with pytest.raises(TypeError, match="X: expected an array without masked elements"):
        fitted.predict(masked["X"])


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_targets_that_pandas_has_as_missing_are_refused_by_row(estimator):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    y = pandas.Series(targets_of(estimator), dtype="string" if is_classifier(estimator) else "Float64")
    y[3] = pandas.NA
    with pytest.raises(ValueError, match="y: expected values, got a missing one in row 3"):
        clone(estimator).fit(np.ones((40, 2)), y)


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_a_fit_that_fails_leaves_the_columns_of_the_one_before(estimator):
    X, y = np.random.default_rng(0).normal(size=(40, 3)), targets_of(estimator)
    fitted = clone(estimator).fit(X, y)
    before = fitted.predict(X)
    for fault in ({"sample_weight": -np.ones(40)}, {"X": np.full((40, 2), np.nan)}):
        with pytest.raises(ValueError, match=r"weights of at least 0|contains NaN"):
            fitted.fit(**{"X": X[:, :2], "y": y, **fault})
        assert fitted.n_features_in_ == 3
        np.testing.assert_array_equal(fitted.predict(X), before)
    new = clone(estimator)
    with pytest.raises(ValueError, match="weights of at least 0"):
        new.fit(X, y, sample_weight=-np.ones(40))
    assert not hasattr(new, "n_features_in_")


@pytest.mark.parametrize("estimator", EVERY, ids=lambda e: type(e).__name__)
def test_weights_whose_sum_is_no_number_are_refused(estimator):
    X, y = np.random.default_rng(0).normal(size=(40, 3)), targets_of(estimator)
    with pytest.raises(ValueError, match=r"sample_weight: expected weights whose sum is a number, got 1e\+308"):
        clone(estimator).fit(X, y, sample_weight=np.full(40, 1e308))
