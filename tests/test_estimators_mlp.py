"""`MLPClassifier` and `MLPRegressor`: scikit-learn's meaning of every parameter, and what they have besides.

Pass criterion: weights trained by plain gradient descent in float64 equal scikit-learn's to 1e-9; what is promised to
be the same training has the same bits; bad input is one error that names what it was, and changes nothing.
"""

import pickle
import re
import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, softmax
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import accuracy_score, r2_score

import fastopt as fo
from fastopt.estimators import MLPClassifier, MLPRegressor, mlp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
LONG = {"tol": 0.0, "n_iter_no_change": 10**6}  # to max_iter
WHOLE = {**LONG, "dtype": "float64", "random_state": 0}


@pytest.fixture(scope="module")
def data():
    """120 rows of 5 columns, three classes, two labels a row and two values."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5))
    classes = np.argmax(X[:, :3] + 0.3 * rng.normal(size=(120, 3)), axis=1)
    return X, classes, (X[:, 3:] > 0).astype(int), X[:, :2] @ [[1.0, 2.0], [0.5, -1.0]] + 10


def weights_of(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def assert_same_bits(one, other):
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- scikit-learn's meaning


def beside_scikit_learn(ours, kind, X, y, their_y, their_rate, sample_weight=None):
    """Ours and theirs after eight epochs of plain gradient descent from the same weights."""
    still = {"learning_rate_init": 1e-300, "max_iter": 1}  # an epoch that moves nothing
    ours.set_params(solver="sgd", momentum=0.0, batch_size=40, shuffle=False, warm_start=True, **WHOLE, **still)
    ours.fit(X, y, sample_weight)
    options = {k: v for k, v in ours.get_params().items() if k in kind().get_params()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(**options).fit(X, their_y, sample_weight)
        model.coefs_, model.intercepts_ = ([a.copy() for a in some] for some in (ours.coefs_, ours.intercepts_))
        model.set_params(learning_rate_init=their_rate, max_iter=8).fit(X, their_y, sample_weight)
    ours.set_params(learning_rate_init=0.1, max_iter=8).fit(X, y, sample_weight)
    return ours, model


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("target", ["two classes", "classes", "labels"])
def test_steps_of_a_classifier_are_scikit_learns(target, alpha, data):
    X, classes, labels, _ = data
    y = {"two classes": classes > 0, "classes": classes, "labels": labels}[target]
    rate = 0.1 / (2 if target == "labels" else 1)  # our loss is the mean over the labels, theirs the sum
    ours = MLPClassifier((6, 4), "logistic", alpha=alpha)
    ours, model = beside_scikit_learn(ours, theirs.MLPClassifier, X, y, y, rate)
    for a, b in zip(weights_of(ours), [*model.coefs_, *model.intercepts_], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.predict_proba(X), model.predict_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), model.predict(X))
    for name in ("n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_"):
        assert getattr(ours, name) == getattr(model, name)
    if alpha == 0 and target != "labels":
        np.testing.assert_allclose(ours.loss_curve_[1:], model.loss_curve_[1:], rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("outputs", [1, 2])
def test_steps_of_a_regressor_are_scikit_learns_on_standardized_targets(outputs, alpha, data):
    X, y = data[0], data[3][:, :outputs]
    mean, deviation = y.mean(axis=0), y.std(axis=0)
    y = y[:, 0] if outputs == 1 else y
    rate = 0.1 * 2 / outputs  # our loss is the mean of squares over the outputs, theirs half of their sum
    ours = MLPRegressor("squared_error", (6, 4), "tanh", alpha=alpha)
    scaled = (y - (mean[0] if outputs == 1 else mean)) / (deviation[0] if outputs == 1 else deviation)
    ours, model = beside_scikit_learn(ours, theirs.MLPRegressor, X, y, scaled, rate)
    found = model.predict(X).reshape(len(X), -1) * deviation + mean
    np.testing.assert_allclose(ours.predict(X).reshape(len(X), -1), found, rtol=1e-9)
    assert ours.predict(X).shape == y.shape


def test_weights_of_rows_are_scikit_learns(data):
    X, y, weights = data[0], data[1], np.linspace(0, 2, 120)
    ours = MLPClassifier((6, 4), "logistic", alpha=0.0)
    ours, model = beside_scikit_learn(ours, theirs.MLPClassifier, X, y, y, 0.1, weights)
    np.testing.assert_allclose(ours.predict_proba(X), model.predict_proba(X), rtol=1e-9)


def test_parameters_that_scikit_learn_has_are_its_own_in_name_order_and_default():
    for ours, kind in ((MLPClassifier(), theirs.MLPClassifier()), (MLPRegressor(), theirs.MLPRegressor())):
        shared = {k: v for k, v in ours.get_params().items() if k in kind.get_params()}
        assert {k: kind.get_params()[k] for k in shared} == shared
        assert kind.get_params().keys() - shared.keys() == {"max_fun"}


def test_rates_of_sgd_fall_as_scikit_learns(data):
    for options in ({"learning_rate": "invscaling"}, {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 2}):
        rates = []
        for kind in (MLPClassifier, theirs.MLPClassifier):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = kind(4, solver="sgd", max_iter=8, random_state=0, **options).fit(*data[:2])
            ours = kind is MLPClassifier
            rates.append(model._trainer.optimizer.param_groups[0]["lr"] if ours else model._optimizer.learning_rate)
        assert rates[0] == pytest.approx(rates[1], rel=1e-12)
        assert rates[0] < 1e-3


def test_training_ends_when_the_loss_has_stopped_falling(data):
    model = MLPClassifier(4, tol=10.0, n_iter_no_change=3, random_state=0).fit(*data[:2])
    assert model.n_iter_ == 5  # the first is better than none, four are not
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.loss_ == model.loss_curve_[-1]
    assert model.validation_scores_ is None


def test_what_is_not_done_after_max_iter_epochs_is_told(data):
    with pytest.warns(ConvergenceWarning, match="raise max_iter or tol"):
        MLPRegressor(hidden_layer_sizes=4, max_iter=2).fit(data[0], data[3])


def test_verbose_prints_the_loss_of_each_epoch(data, capsys):
    model = MLPClassifier(4, max_iter=2, verbose=True, early_stopping=True).fit(*data[:2])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Iteration 1, loss = {model.loss_curve_[0]:.8f}"
    assert lines[3] == f"Validation score: {model.validation_scores_[1]:f}"


# ---------------------------------------------------------------- early stopping


def test_early_stopping_keeps_the_best_epoch_by_the_score_of_given_rows(data):
    X, y = data[:2]
    model = MLPClassifier(16, early_stopping=True, max_iter=40, learning_rate_init=0.05, n_iter_no_change=5)
    model.set_params(random_state=0).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert model.best_validation_score_ == max(model.validation_scores_) == model.score(X[60:], y[60:])
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    assert model.best_loss_ is None


def test_early_stopping_of_values_goes_by_r2(data):
    X, y = data[0], data[3]
    model = MLPRegressor(hidden_layer_sizes=16, early_stopping=True, max_iter=20, dtype="float64", random_state=0)
    model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert model.best_validation_score_ == pytest.approx(r2_score(y[60:], model.predict(X[60:])), rel=1e-12)


def test_weights_of_rows_and_classes_count_in_validation(data):
    X, y = data[:2]
    weights, of_class = np.linspace(0, 1, 60), {0: 5.0, 1: 0.1, 2: 1.0}
    model = MLPClassifier(8, early_stopping=True, max_iter=3, class_weight=of_class, random_state=0)
    model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:], sample_weight_val=weights)
    weights = weights * [of_class[label] for label in y[60:]]
    assert model.best_validation_score_ == pytest.approx(model.score(X[60:], y[60:], weights), rel=1e-12)


def test_a_share_is_held_out_class_by_class(data, monkeypatch):
    parts = []
    split = mlp.train_test_split
    monkeypatch.setattr(mlp, "train_test_split", lambda *a, **k: parts.append(split(*a, **k)) or parts[-1])
    y = np.repeat(["often", "rare", "seldom"], [80, 10, 30])
    model = MLPClassifier(4, early_stopping=True, validation_fraction=0.2, max_iter=2, random_state=0)
    model.fit(data[0], y)
    kept, held = parts[0]
    assert {label: int((y[held] == label).sum()) for label in model.classes_} == {"often": 16, "rare": 2, "seldom": 6}
    assert sorted([*kept, *held]) == list(range(120))


# ---------------------------------------------------------------- fits that go on


def test_two_fits_that_go_on_are_one_longer_fit_in_the_same_bits(data):
    X, y = data[:2]
    options = {**LONG, "random_state": 0, "dropout": 0.2, "batch_norm": True, "batch_size": 50}
    longer = MLPClassifier(8, max_iter=10, **options).fit(X, y)
    shorter = MLPClassifier(8, max_iter=5, warm_start=True, **options).fit(X, y)
    for twice in (pickle.loads(pickle.dumps(shorter)), shorter):
        assert_same_bits(twice.fit(X, y), longer)
        assert twice.loss_curve_ == longer.loss_curve_
        assert (twice.n_iter_, twice.t_) == (5, longer.t_)


def test_calls_of_partial_fit_are_the_epochs_of_a_fit_in_the_same_bits(data):
    X, y, _, values = data
    whole = MLPClassifier(8, max_iter=4, random_state=0, **LONG).fit(X, y)
    parts = MLPClassifier(8, random_state=0)
    for _ in range(4):
        parts.partial_fit(X, y, classes=[2, 0, 1])
    assert_same_bits(parts, whole)
    assert parts.n_iter_ == 1
    whole = MLPRegressor(hidden_layer_sizes=8, max_iter=2, random_state=0, **LONG).fit(X, values)
    parts = MLPRegressor(hidden_layer_sizes=8, random_state=0).partial_fit(X, values).partial_fit(X, values)
    assert_same_bits(parts, whole)


def test_a_first_part_need_not_show_all_classes(data):
    X, y, labels, _ = data
    model = MLPClassifier(8).partial_fit(X[y == 1], y[y == 1], classes=[0, 1, 2]).partial_fit(X, y)
    assert model.predict_proba(X).shape == (120, 3)
    assert MLPClassifier(8).partial_fit(X, labels, classes=[0, 1]).predict(X).shape == labels.shape


def test_a_fit_without_warm_start_begins_anew(data):
    model = MLPClassifier(8, max_iter=3, random_state=0)
    first = weights_of(clone(model).fit(*data[:2]))
    for a, b in zip(first, weights_of(model.fit(data[0], data[1] > 0).fit(*data[:2])), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("change", [{"alpha": 1.0}, {"learning_rate_init": 0.1}, {"solver": "sgd"}], ids=str)
def test_a_fit_that_goes_on_may_change_penalty_and_rule_and_keeps_the_weights(change, data):
    model = MLPClassifier(8, max_iter=3, warm_start=True, standardize=True, random_state=0).fit(*data[:2])
    before = [a.copy() for a in weights_of(model)]
    moved = clone(model).set_params(**change).fit(*data[:2])
    model.set_params(**change, max_iter=1).fit(*data[:2])
    assert max(np.abs(a - b).max() for a, b in zip(weights_of(model), before, strict=True)) < 0.2
    assert max(np.abs(a - b).max() for a, b in zip(weights_of(moved), before, strict=True)) > 0
    assert len(model.loss_curve_) == 4


@pytest.mark.parametrize(
    "change",
    [{"hidden_layer_sizes": 9}, {"activation": "tanh"}, {"batch_norm": True}, {"dropout": 0.5}, {"dtype": "float64"}],
    ids=str,
)
def test_a_fit_that_goes_on_refuses_another_network_and_leaves_the_first(change, data):
    model = MLPClassifier(8, max_iter=3, warm_start=True, random_state=0).fit(*data[:2])
    before = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: expected .* as in the fit that this one goes on"):
        model.set_params(**change).fit(*data[:2])
    assert_same_bits(model, before)


# ---------------------------------------------------------------- weights of rows and classes


def test_weights_of_classes_rows_and_rows_that_are_repeated_are_the_same(data):
    X, y = data[0], np.array(["a", "b", "c"])[data[1]]
    counts = 1 + (y == "b") + 2 * (y == "c")
    options = {"max_iter": 30, "alpha": 1.0, "batch_size": 1000, **WHOLE}
    by_class = MLPClassifier(8, class_weight={"b": 2, "c": 3}, **options).fit(X, y)
    for other in (
        MLPClassifier(8, **options).fit(X, y, counts),
        MLPClassifier(8, **options).fit(X.repeat(counts, axis=0), y.repeat(counts)),
    ):
        np.testing.assert_allclose(by_class.predict_proba(X), other.predict_proba(X), rtol=1e-9)


def test_balanced_classes_have_the_same_total_by_the_weights_of_their_rows(data):
    X, y = data[:2]
    weights = np.linspace(0, 3, 120)
    totals = np.bincount(y, weights)
    options = {"max_iter": 10, **WHOLE}
    balanced = MLPClassifier(8, class_weight="balanced", **options).fit(X, y, weights)
    other = MLPClassifier(8, **options).fit(X, y, weights * (totals.sum() / (3 * totals))[y])
    np.testing.assert_allclose(balanced.predict_proba(X), other.predict_proba(X), rtol=1e-12)


def test_text_that_looks_like_numbers_has_class_weights_by_its_text(data):
    y = np.where(data[1] > 0, "1", "0")
    models = [MLPClassifier(8, max_iter=9, class_weight={"0": 1, "1": w}, random_state=0) for w in (0.01, 100)]
    few, many = ((model.fit(data[0], y).predict(data[0]) == "1").sum() for model in models)
    assert few < many


def test_weights_move_mean_and_deviation_of_values(data):
    X, y, weights = data[0], data[3], np.arange(120) % 3
    options = {"hidden_layer_sizes": 8, "max_iter": 20, "batch_size": 1000, **WHOLE}
    weighted = MLPRegressor(**options).fit(X, y, weights)
    repeated = MLPRegressor(**options).fit(X.repeat(weights, axis=0), y.repeat(weights, axis=0))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)


# ---------------------------------------------------------------- what y may be

LABELS = {
    "text": np.array(["ant", "bee", "cat"]),
    "objects": np.array(["ant", "bee", "cat"], object),
    "numbers as objects": np.array([3, 5, 9], object),
    "floats": np.array([-1.0, 0.0, 7.0]),
    "negative": np.array([-3, -2, 5], np.int8),
    "two of text": np.array(["no", "yes", "yes"]),
    "bool": np.array([False, True, True]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind_come_back(kind, data):
    X, y = data[0], LABELS[kind][data[1]]
    model = MLPClassifier(16, learning_rate_init=0.02, max_iter=60, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    assert model.predict(X).dtype == y.dtype
    assert (model.predict(X) == y).mean() > 0.8
    assert MLPClassifier(4, max_iter=1).fit(X.tolist(), y.tolist()).predict(X[:2]).shape == (2,)


def test_probabilities_of_two_classes_are_two_columns_and_agree_with_logits(data):
    X, y = data[0], data[1] > 0
    model = MLPClassifier(8, max_iter=5, random_state=0).fit(X, y)
    z, p = model.decision_function(X), model.predict_proba(X)
    assert z.shape == (120,)
    np.testing.assert_allclose(p, np.column_stack([expit(-z), expit(z)]), rtol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(p), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), z > 0)
    assert model.out_activation_ == "logistic"


def test_probabilities_of_several_classes_are_the_softmax_of_logits(data):
    model = MLPClassifier(8, max_iter=5, random_state=0).fit(*data[:2])
    z, p = model.decision_function(data[0]), model.predict_proba(data[0])
    np.testing.assert_allclose(p, softmax(z, axis=1), rtol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(data[0]), np.log(p), rtol=1e-5, atol=1e-6)
    assert model.out_activation_ == "softmax"


def test_a_probability_near_zero_keeps_its_digits_and_its_logarithm(data):
    X = 1e4 * data[0]
    for y in (data[0][:, 0] > 0, data[1]):
        model = MLPClassifier((), max_iter=20, learning_rate_init=0.1, random_state=0).fit(X, y)
        assert model.predict_proba(X).min() < 1e-20
        assert np.isfinite(model.predict_log_proba(X)).all()
        assert model.predict_log_proba(X).min() < -50


def test_several_labels_a_row_are_indicators(data):
    X, _, labels, _ = data
    model = MLPClassifier(16, learning_rate_init=0.02, max_iter=100, random_state=0).fit(X, labels)
    assert model.predict(X).dtype == labels.dtype
    assert model.score(X, labels) == accuracy_score(labels, model.predict(X)) > 0.8
    np.testing.assert_allclose(model.predict_proba(X), expit(model.decision_function(X)), rtol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-4, atol=1e-6)
    early = MLPClassifier(8, early_stopping=True, max_iter=5, random_state=0)
    early.fit(X[:80], labels[:80], X_val=X[80:], y_val=labels[80:])
    assert early.best_validation_score_ == early.score(X[80:], labels[80:])
    np.testing.assert_array_equal(
        MLPClassifier(4, max_iter=2, random_state=0).fit(X, sparse.csr_array(labels)).predict(X),
        MLPClassifier(4, max_iter=2, random_state=0).fit(X, labels).predict(X),
    )


@pytest.mark.parametrize("shape", [(120,), (120, 1), (120, 2)], ids=str)
def test_predictions_have_the_shape_of_y(shape, data):
    y = data[3][:, 0] if len(shape) == 1 else data[3][:, : shape[1]]
    model = MLPRegressor(hidden_layer_sizes=32, learning_rate_init=0.02, random_state=0).fit(data[0], y)
    assert model.predict(data[0]).shape == shape
    assert model.score(data[0], y) > 0.95


def test_a_column_of_labels_is_taken_with_a_warning(data):
    with pytest.warns(DataConversionWarning):
        assert MLPClassifier(4, max_iter=1).fit(data[0], data[1][:, None]).predict(data[0]).shape == (120,)


def test_units_of_y_do_not_matter(data):
    X, y = data[0], data[3]
    options = {"hidden_layer_sizes": 8, "max_iter": 20, **WHOLE}
    plain = MLPRegressor(**options).fit(X, y).predict(X)
    far = MLPRegressor(**options).fit(X, 1e6 + 1e-3 * y).predict(X)
    np.testing.assert_allclose((far - 1e6) / 1e-3, plain, atol=1e-5)


def test_a_constant_y_is_predicted(data):
    model = MLPRegressor(hidden_layer_sizes=8, max_iter=50, random_state=0).fit(data[0], np.full(120, 1e9))
    np.testing.assert_allclose(model.predict(data[0]), 1e9, rtol=1e-8)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_every_loss_of_values_trains(loss, data):
    model = MLPRegressor(loss, 32, learning_rate_init=0.02, max_iter=100, random_state=0).fit(data[0], data[3])
    assert model.score(data[0], data[3]) > 0.9


# ---------------------------------------------------------------- what the network has besides


@pytest.mark.parametrize("solver", mlp.RULES)
def test_every_rule_trains(solver, data):
    rate = {"adadelta": 1.0, "lion": 0.01}.get(solver, 0.02)
    model = MLPClassifier(8, solver=solver, learning_rate_init=rate, max_iter=40, random_state=0, **LONG)
    model.fit(*data[:2])
    assert model.loss_curve_[-1] < 0.9 * model.loss_curve_[0]


@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
def test_every_activation_trains(activation, data):
    model = MLPClassifier(8, activation, learning_rate_init=0.02, max_iter=20, random_state=0).fit(*data[:2])
    assert model.loss_curve_[-1] < 0.9 * model.loss_curve_[0]


def test_the_network_is_what_was_asked_for(data):
    model = MLPClassifier((6, 4), "tanh", batch_norm=True, dropout=0.1, standardize=True, max_iter=1)
    layers = model.fit(*data[:2]).net_.layers
    hidden = ["Dense", "BatchNorm", "Dropout"]
    assert [type(layer).__name__ for layer in layers] == ["Standardize", *hidden, *hidden, "Dense"]
    assert layers[2].activation == "tanh"
    assert [a.shape for a in model.coefs_] == [(5, 6), (6, 4), (4, 3)]
    assert [a.shape for a in model.intercepts_] == [(6,), (4,), (3,)]
    assert model.n_layers_ == 4


def test_the_network_is_saved_and_serves_without_scikit_learn(data, tmp_path):
    model = MLPClassifier(8, max_iter=3, standardize=True).fit(*data[:2])
    model.net_.save(tmp_path / "model.safetensors")
    found = fo.nn.load(tmp_path / "model.safetensors").predict(data[0])
    np.testing.assert_array_equal(found, model.decision_function(data[0]))


def test_standardized_columns_are_read_in_float64(data):
    X = 1.7e9 + data[0]  # seconds: float32 tells apart what is 128 of them
    plain = MLPClassifier(8, learning_rate_init=0.02, max_iter=60, standardize=True, random_state=0)
    assert plain.fit(X, data[1]).score(X, data[1]) > 0.9


def test_a_schedule_is_the_rate_of_every_rule_and_stays_as_it_was(data):
    schedule = fo.schedules.ReduceOnPlateau(0.1, patience=0, threshold=1e9)
    for solver in ("sgd", "adam"):
        model = clone(MLPClassifier(4, solver=solver, learning_rate=schedule, max_iter=5, random_state=0, **LONG))
        model.fit(*data[:2])
        assert model._trainer.optimizer.param_groups[0]["lr"](1) < 0.1
        assert model.learning_rate(1) == 0.1


def test_options_of_a_rule_are_passed_on(data):
    model = MLPClassifier(4, solver="adamw", solver_options={"weight_decay": 0.5, "max_norm": 1.0}, max_iter=3)
    optimizer = model.fit(*data[:2])._trainer.optimizer
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert np.isfinite(optimizer.grad_norm)


@pytest.mark.parametrize("solver", ["adam", "adamw"])
def test_a_penalty_pulls_weights_and_leaves_biases(solver, data):
    models = [
        MLPClassifier(8, solver=solver, alpha=alpha, max_iter=100, learning_rate_init=0.01, random_state=0, **LONG).fit(
            data[0] + 3, data[1]
        )
        for alpha in (0.0, 50.0)
    ]
    small, large = (sum(float((a**2).sum()) for a in model.coefs_) for model in models[::-1])
    assert small < 0.2 * large
    assert models[1].loss_ > models[0].loss_  # it counts in the loss


def test_sparse_rows_are_trained_on_in_the_bits_of_dense_ones_and_predicted_in_slices(data, monkeypatch):
    monkeypatch.setattr(mlp, "ROWS", 50)
    X = np.where(data[0] > 0.5, data[0], 0)
    dense = MLPClassifier(8, max_iter=3, random_state=0).fit(X, data[1])
    for kind in (sparse.csr_array, sparse.csc_matrix):
        model = MLPClassifier(8, max_iter=3, random_state=0).fit(kind(X), data[1])
        assert_same_bits(model, dense)
        np.testing.assert_allclose(model.predict_proba(kind(X)), dense.predict_proba(X), rtol=1e-6)


def test_random_states_of_every_kind_start_a_network(data):
    fits = [MLPClassifier(4, max_iter=1, random_state=np.random.RandomState(3)).fit(*data[:2]) for _ in range(2)]
    assert_same_bits(*fits)
    assert_same_bits(fits[0], MLPClassifier(4, max_iter=1, random_state=3).fit(*data[:2]))
    assert not np.array_equal(fits[0].coefs_[0], MLPClassifier(4, max_iter=1).fit(*data[:2]).coefs_[0])


# ---------------------------------------------------------------- what does not fit

WRONG = {
    "hidden_layer_sizes": [0, "wide", (8, -1)],
    "activation": ["swish", None],
    "solver": ["lbfgs", 3],
    "alpha": [-1.0, "a"],
    "batch_size": [0, "all"],
    "learning_rate": ["fast"],
    "learning_rate_init": [0.0, -1.0],
    "power_t": [-1.0],
    "max_iter": [0, 2.5],
    "shuffle": ["yes"],
    "tol": [-1.0],
    "warm_start": [None],
    "momentum": [2.0],
    "nesterovs_momentum": ["no"],
    "early_stopping": ["auto"],
    "validation_fraction": [0.0, 1.0],
    "n_iter_no_change": [0],
    "class_weight": ["even", {7: 1.0}, {0: -1.0}],
    "dropout": [1.0],
    "batch_norm": [2],
    "standardize": ["x"],
    "init": ["random"],
    "solver_options": [3, {"speed": 1}],
    "dtype": ["float16"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]], ids=str)
def test_an_option_that_does_not_fit_is_named_in_fit(name, value, data):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
        MLPClassifier(**{name: value}).fit(*data[:2])


def test_an_option_of_the_regressor_that_does_not_fit_is_named(data):
    for loss in ("poisson", (100,)):
        with pytest.raises(ValueError, match="loss: expected one of squared_error"):
            MLPRegressor(loss).fit(data[0], data[3])


def plain(**options):
    return MLPClassifier(4, max_iter=2, **options)


BAD = {  # a call that fails, by how its message begins; X, classes c, two labels a row, values v
    "y: expected at least two classes, got one class: [1]": lambda X, c, two, v: plain().fit(X, c * 0 + 1),
    "y: expected class labels, got continuous values; use a regressor": lambda X, c, two, v: plain().fit(X, v[:, 0]),
    "contains NaN": lambda X, c, two, v: plain().fit(X, ["yes", float("nan"), "no"] * 40),
    "y: expected class labels, got None in row 1": lambda X, c, two, v: plain().fit(X, ["a", None] * 60),
    "y: expected 0 and 1 in an array of several columns": lambda X, c, two, v: plain().fit(X, two + 1),
    "sample_weight: expected weights of at least 0": lambda X, c, two, v: plain().fit(X, c, -np.ones(120)),
    "y_val: expected X_val and y_val, or neither": lambda X, c, two, v: plain(early_stopping=True).fit(X, c, X_val=X),
    "X_val: expected X_val and y_val, or neither": lambda X, c, two, v: plain(early_stopping=True).fit(X, c, y_val=c),
    "X_val, y_val: expected early_stopping=True": lambda X, c, two, v: plain().fit(X, c, X_val=X, y_val=c),
    "y_val: expected labels of the classes [0, 1, 2], got [9]": lambda X, c, two, v: plain(early_stopping=True).fit(
        X, c, X_val=X, y_val=c * 0 + 9
    ),
    "X has 2 features, but MLPClassifier is expecting 5": lambda X, c, two, v: plain(early_stopping=True).fit(
        X, c, X_val=X[:, :2], y_val=c
    ),
    "validation_fraction: expected two rows or more": lambda X, c, two, v: plain(
        early_stopping=True, validation_fraction=0.001
    ).fit(X, two),
    "early_stopping: expected False for partial_fit": lambda X, c, two, v: plain(early_stopping=True).partial_fit(
        X, c, classes=[0, 1, 2]
    ),
    "classes: expected all labels there will be": lambda X, c, two, v: plain().partial_fit(X, c),
    "classes: expected [0, 1, 2], as in the first call": lambda X, c, two, v: (
        plain().fit(X, c).partial_fit(X, c, classes=[0, 1])
    ),
    "y: expected labels of the classes [0, 1, 2], got ['x']": lambda X, c, two, v: (
        plain().fit(X, c).partial_fit(X, ["x"] * 120)
    ),
    "y: expected labels of the classes ['a', 'b', 'c'], got [0, 1, 2]": lambda X, c, two, v: (
        plain().fit(X, np.array(["a", "b", "c"], object)[c]).partial_fit(X, c)
    ),
    "class_weight: expected some rows of a weight above 0": lambda X, c, two, v: plain(
        class_weight={0: 0, 1: 0, 2: 0}
    ).fit(X, c),
    "validation_fraction: got 0.01 of 120 rows": lambda X, c, two, v: plain(
        early_stopping=True, validation_fraction=0.01
    ).fit(X, c),
    "class_weight: expected a dict or None for partial_fit": lambda X, c, two, v: plain(
        class_weight="balanced"
    ).partial_fit(X, c, classes=[0, 1, 2]),
    "class_weight: expected None for several labels": lambda X, c, two, v: plain(class_weight="balanced").fit(X, two),
    "y: expected 2 values a row, as in the first fit, got (120": lambda X, c, two, v: (
        MLPRegressor(max_iter=1).fit(X, v).partial_fit(X, v[:, 0])
    ),
    "y: expected real numbers, got dtype <U1": lambda X, c, two, v: MLPRegressor().fit(X, ["1", "2"] * 60),
    "y: expected values whose squares are numbers": lambda X, c, two, v: MLPRegressor().fit(X, 1e300 * v),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_error_that_says_what_it_was(message, data):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        BAD[message](*data)


def test_a_fit_that_fails_leaves_the_one_before(data):
    model = MLPClassifier(4, max_iter=2, random_state=0).fit(*data[:2])
    before = pickle.loads(pickle.dumps(model))
    for y in (np.ones(120, int), data[3][:, 0]):
        with pytest.raises(ValueError, match="y: expected"):
            model.fit(data[0], y)
    with pytest.raises(FloatingPointError, match="loss: expected"):
        model.set_params(learning_rate_init=1e30, max_iter=50).fit(*data[:2])
    assert_same_bits(model, before)
    np.testing.assert_array_equal(model.classes_, before.classes_)


def test_nothing_is_predicted_before_a_fit(data):
    model = MLPClassifier()
    for method in (model.predict, model.predict_proba, model.predict_log_proba, model.decision_function):
        with pytest.raises(NotFittedError):
            method(data[0])
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("change", [{"standardize": False}, {"dtype": "float32"}, {"dtype": "float16"}], ids=str)
def test_options_set_after_a_fit_do_not_change_what_it_predicts(change, data):
    X, classes, _, _ = data
    X = 1e9 + 1e3 * X  # of which float32 loses the digits
    mlp = MLPClassifier(4, max_iter=3, standardize=True, dtype="float64", random_state=0).fit(X, classes)
    before = mlp.predict_proba(X)
    np.testing.assert_array_equal(mlp.set_params(**change).predict_proba(X), before)


@pytest.mark.parametrize("dtype", [None, "junk", "int32", "float16", 3], ids=repr)
def test_a_dtype_that_networks_do_not_have_is_refused(dtype, data):
    with pytest.raises(ValueError, match="dtype: expected float32 or float64, got"):
        MLPClassifier(dtype=dtype).fit(*data[:2])


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_weights_that_float32_does_not_hold_are_refused(size, data):
    X, classes, _, values = data
    for network, y in ((MLPClassifier(4, max_iter=2), classes), (MLPRegressor(max_iter=2), values)):
        with pytest.raises(ValueError, match=r"sample_weight: expected a largest one from 1e-30 to 1e\+30, got 1e"):
            network.fit(X, y, sample_weight=np.full(len(X), size))


def test_values_too_small_for_their_squares_are_refused(data):
    X, _, _, values = data
    with pytest.raises(ValueError, match="y: expected values whose squares are numbers, got too small ones"):
        MLPRegressor(max_iter=2).fit(X, 1e-300 * values)
    constant = MLPRegressor(max_iter=2, random_state=0).fit(X, np.full(len(X), 1e-300))
    assert np.isfinite(constant.predict(X)).all()


def test_a_single_row_to_stop_by_is_refused_where_the_score_takes_two(data):
    X, _, _, values = data
    with pytest.raises(ValueError, match="X_val, y_val: expected two rows or more, which R² takes, got 1"):
        MLPRegressor(early_stopping=True).fit(X, values, X_val=X[:1], y_val=values[:1])
